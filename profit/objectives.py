"""Token objectives: what each target token's cross-entropy is multiplied by.

loss = (1 / N) sum_t w_t (-log p_t), where p_t is the probability that the model being trained gives to target token t
and w_t is a detached weight: a pure function of a few numbers a token, so that any head that yields those numbers can
serve every objective. N is the number of all target tokens of the optimizer step (normaliser `all`: ProFit, arXiv
2601.09195 Eq. 5, as its code counts) or of those with a weight above zero (`kept`).

`python -m profit.objectives` prints the objectives with settings, equation and source.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenStatistics:
    """What an objective may know of n target tokens; each a detached tensor of shape (n,), None unless it needs it.

    `logprob` (nats, fp32), `entropy` of the model's distribution there (nats, fp32), `draw` (uniform in [0, 1),
    float64, see `token_draws`) and `share`, the share of tokens to keep in this step, copied from a paired run.
    """

    logprob: Tensor
    entropy: Tensor | None = None
    draw: Tensor | None = None
    share: float | None = None


@dataclass(frozen=True)
class Objective:
    """`weight(statistics, **settings)` gives weights (n,), fp32.

    `needs` names the fields of TokenStatistics beyond `logprob`. Scope `token`: a weight depends on its own token;
    `batch`: on all target tokens of the optimizer step, which must then be given together.
    """

    weight: Callable[..., Tensor]
    equation: str
    citation: str
    settings: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    scope: str = "token"


def sft(tokens: TokenStatistics) -> Tensor:
    """Plain cross-entropy."""
    return torch.ones_like(tokens.logprob)


def profit(tokens: TokenStatistics, tau: float, direction: str) -> Tensor:
    """ProFit's mask: keep tokens whose probability lies above tau (`higher`) or not (`lower`)."""
    above = tokens.logprob.exp() > tau
    return (above if direction == "higher" else ~above).float()


def random(tokens: TokenStatistics) -> Tensor:
    """Keep as many tokens as the paired run did in this step, whatever their probability."""
    return keep_first(tokens.draw.argsort(stable=True), tokens.share)


def dft(tokens: TokenStatistics) -> Tensor:
    """The probability itself; the gradient is that of -p."""
    return tokens.logprob.exp()


def high_entropy(tokens: TokenStatistics, share: float) -> Tensor:
    """Keep the round(share n) tokens where the model's distribution has the highest entropy."""
    return keep_first(tokens.entropy.argsort(descending=True, stable=True), share)


def keep_first(order: Tensor, share: float) -> Tensor:
    """Weight 1 for the first round(share n) of `order`, token indices (n,), and 0 for the rest."""
    weight = torch.zeros(order.shape, device=order.device)
    weight[order[: round(share * order.numel())]] = 1.0
    return weight


OBJECTIVES: dict[str, Objective] = {
    "sft": Objective(sft, "w = 1", "negative log-likelihood"),
    "profit": Objective(
        profit,
        "w = 1[p > tau] (higher) or 1[p <= tau] (lower)",
        "ProFit, arXiv 2601.09195, Eq. 4",
        settings={"tau": 0.1, "direction": "higher"},
    ),
    "random": Objective(
        random,
        "w = 1[u among the lowest round(share N)], u uniform, share that of the paired run's step",
        "control of this suite",
        needs=("draw", "share"),
        scope="batch",
    ),
    "dft": Objective(dft, "w = p", "DFT, arXiv 2508.05629"),
    "entropy": Objective(
        high_entropy,
        "w = 1[H among the highest round(share N)], H = -sum_v p_v log p_v",
        "high-entropy tokens, arXiv 2506.01939 (share 0.2); a baseline of ProFit, whose ratio is not given",
        settings={"share": 0.2},
        needs=("entropy",),
        scope="batch",
    ),
}


def token_weights(objective: dict[str, Any], tokens: TokenStatistics) -> Tensor:
    """Weights (n,), detached, of `objective`: {"name": …, its settings, "normaliser": …}, as `check_objective` admits.

    A setting left out takes its default.
    """
    chosen = OBJECTIVES[objective["name"]]
    settings = {key: objective.get(key, default) for key, default in chosen.settings.items()}
    with torch.no_grad():
        return chosen.weight(tokens, **settings)


def check_objective(objective: dict[str, Any]) -> None:
    """Raise ValueError for an unknown name, setting or normaliser, or a value out of its range."""
    name = objective.get("name")
    if name not in OBJECTIVES:
        raise ValueError(f"objective: found {name!r}, expected one of {', '.join(OBJECTIVES)}")
    allowed = OBJECTIVES[name].settings
    unknown = sorted(set(objective) - {"name", "normaliser", *allowed})
    if unknown:
        raise ValueError(f"objective {name}: found key {unknown[0]!r}, expected only {[*allowed, 'normaliser']}")
    if objective.get("normaliser", "all") not in ("all", "kept"):
        raise ValueError(f"objective {name}: normaliser: found {objective['normaliser']!r}, expected all or kept")
    if objective.get("direction", "higher") not in ("higher", "lower"):
        raise ValueError(f"objective {name}: direction: found {objective['direction']!r}, expected higher or lower")
    for key in ("tau", "share"):
        value = objective.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError(f"objective {name}: {key}: found {value!r}, expected a number from 0 to 1")


def needs_whole_step(objective: dict[str, Any]) -> bool:
    """Whether a weight or the normaliser depends on all target tokens of the optimizer step."""
    return OBJECTIVES[objective["name"]].scope == "batch" or objective.get("normaliser", "all") == "kept"


def token_draws(seed: int, step: int, example: Tensor, position: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float64 (n,), one a token, that depend on nothing but the four arguments.

    `example` and `position` are int64 (n,). Each argument in turn is mixed into 64 bits by the finaliser of
    SplitMix64 (Steele, Lea and Flood 2014), so neither batching nor the device can change a draw.
    """
    bits = torch.full_like(example, seed)
    for part in (torch.full_like(example, step), example, position):
        bits = _mix(bits * _GAMMA + part + 1)
    return (_mix(bits) >> 11 & (1 << 53) - 1).double() * 2.0**-53


# The constants of SplitMix64 as signed 64-bit numbers; torch multiplies modulo 2^64.
_GAMMA, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(bits: Tensor) -> Tensor:
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        bits = (bits ^ _shift(bits, shift)) * factor
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, count: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign."""
    return bits >> count & (1 << 64 - count) - 1


def main() -> None:
    """Print every objective."""
    for name, objective in OBJECTIVES.items():
        settings = ", ".join(f"{key} {value}" for key, value in objective.settings.items()) or "no settings"
        print(f"{name:8} {objective.equation}\n{'':8} {settings}; scope {objective.scope}; {objective.citation}")


if __name__ == "__main__":
    main()
