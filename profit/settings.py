"""Settings of the token objectives: their defaults, what each means, and what it may be.

One truth for both who read settings: `profit.objectives` (training, and other people's code) and the schema of a study
(`profit.methods`). The standard library alone, so that both can import it.

No command: used by profit.objectives, profit.methods and profit.runs; `python -m profit.objectives` prints it.
"""

import math
from dataclasses import dataclass
from typing import Any

# Objective -> setting -> default; the equations are in profit.objectives. `none` trains nothing.
OBJECTIVE_SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "sft": {},
    "profit": {"tau": 0.1, "direction": "higher", "tau_high": 0.9},
    "profit_fixed": {"tau": 0.1, "direction": "higher", "tau_high": 0.9},
    "truth": {"keep": "core"},
    "random": {"share": None, "redraw": "step"},
    "dft": {},
    "power": {"alpha": 1.0, "tau": 0.0, "direction": "higher"},
    "entropy": {"share": 0.2},
    "eaft": {"alpha": 1.0, "divisor": 3.0},
    "infosft": {"cap": 0.93},
    "focal": {"gamma": 2.0},
    "label_smoothing": {"epsilon": 0.1},
    "asft": {"kl_weight": 0.1},
    "gift": {"beta": 20.0},
    "gem": {"beta": 0.7, "gap": "logsigmoid"},
    "iw_sft": {"temperature": 1.0, "clip": 16.0},
    "psft": {"clip_low": 0.2, "clip_high": 0.28},
    "excess": {"share": 0.6},
}

# Objectives that compare with stored scores of the references, and whose: the base's, or those of the run paired with.
STORED_SCORES = {"profit_fixed": "base", "iw_sft": "base", "psft": "base", "excess": "pair"}


@dataclass(frozen=True)
class Setting:
    """A setting: one of `choices`, or else a finite number from `low` to `high`, themselves included unless open."""

    meaning: str
    low: float = 0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """What it may be, in words."""
        if self.choices:
            return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if not self.open_low and not self.open_high and self.high < math.inf:
            return f"a number from {self.low:g} to {self.high:g}"
        below = "" if self.high == math.inf else f" and {'below' if self.open_high else 'at most'} {self.high:g}"
        return f"a number {'above' if self.open_low else 'of at least'} {self.low:g}{below}"

    def admits(self, value: Any) -> bool:
        """Whether `value` is a value of this setting."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        above = self.low < value if self.open_low else self.low <= value
        return above and (value < self.high if self.open_high else value <= self.high)


SETTINGS: dict[str, Setting] = {
    "tau": Setting("probability threshold; 0 keeps every token above it", high=1),
    "direction": Setting("keep p > tau, p <= tau, or tau < p <= tau_high", choices=("higher", "lower", "middle")),
    "tau_high": Setting("upper threshold of direction middle", high=1),
    "keep": Setting("all but the replaceable tokens (core), or these alone", choices=("core", "replaceable")),
    "share": Setting("share of tokens to keep in a step", high=1, open_low=True),
    "redraw": Setting("new random numbers in each step, or one a token for the run", choices=("step", "never")),
    "alpha": Setting("exponent: of the probability in power, of the entropy in eaft", open_low=True),
    "divisor": Setting("entropy, in nats, that gets weight 1; 3 approximates ln 20", open_low=True),
    "cap": Setting("probability from which on a token has weight 0", low=0.5, high=1, open_low=True, open_high=True),
    "gamma": Setting("exponent of 1 - p"),
    "epsilon": Setting("share of the target spread evenly over the vocabulary", high=1, open_high=True),
    "kl_weight": Setting("weight of the divergence from the base model"),
    "beta": Setting("gift: nats added to the target's log-probability; gem: temperature", open_low=True),
    "gap": Setting("function of the gap between two logits", choices=("linear", "logsigmoid")),
    "temperature": Setting("factor of the mean log-ratio of a sequence"),
    "clip": Setting("largest weight of a sequence", open_low=True),
    "clip_low": Setting("as published; acts on negative advantages alone, so never here", high=1, open_high=True),
    "clip_high": Setting("upper clip: a ratio above 1 + clip_high trains no further"),
}  # fmt: skip


def copies_steps(run: dict[str, Any]) -> bool:
    """Whether a run reads the step log of the run paired with it: the share of tokens kept, or the size of updates.

    `run` has an `objective` with `name` and settings, and `match` or none.
    """
    objective = run["objective"]
    return objective["name"] == "random" and objective.get("share") is None or run.get("match") is not None


def conflict(objective: str, settings: dict[str, Any]) -> tuple[str, str] | None:
    """(setting, what is found and expected) where settings of an objective contradict each other, else None."""
    filled = OBJECTIVE_SETTINGS[objective] | {key: value for key, value in settings.items() if value is not None}
    if filled.get("direction") != "middle":
        return None
    if "tau_high" not in filled:
        return "direction", f"found 'middle', expected higher or lower with {objective}"
    if filled["tau"] >= filled["tau_high"]:
        return "tau", f"found {filled['tau']}, expected less than tau_high = {filled['tau_high']}"
    return None
