"""What stands beside a claim so that it is not mistaken: the same effect of other methods, sets, tokens or costs.

A control has no verdict of its own. The paper compares ProFit with SFT alone; a mask that keeps as many tokens at
random, SFT with updates as small as ProFit's, or SFT at another learning rate may do the same without choosing tokens.
Controls are found by their settings, and a study that lacks one shows none.

No command: used by `profit.claims`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from profit import equal_drift, estimators, own_rate
from profit.estimators import EXTRAS, SEVERAL, Base, NotMeasured, Part, alike, compare, method, three

# Masks and divisors beside ProFit's, by their settings.
MASKS = {
    "random mask": {"kind": "random", "redraw": "step"},
    "random mask drawn once": {"kind": "random", "redraw": "never"},
    "mask of the base's probabilities": {"kind": "profit_fixed", "direction": "higher"},
    "true core tokens": {"kind": "truth", "keep": "core"},
    "true replaceable tokens": {"kind": "truth", "keep": "replaceable"},
    "ProFit divided by kept tokens": {"kind": "profit", "normaliser": "kept"},
}
NAMES = {"sft": "SFT", "profit": "ProFit"}
# What is compared with ProFit by claims of their own, and here where overfitting is measured of core tokens alone.
OTHERS = {"entropy": {"kind": "entropy"}, "DFT": {"kind": "dft"}, "keep low": {"kind": "keep_low"}}
COSTS = {
    "seconds of the processor": "cpu_seconds",
    "seconds of the clock": "wall_seconds",
    "peak memory": "peak_memory_mb",
}
TIMES = {2: "twice", 3: "three times", 5: "five times"}


def attempt(function: Callable[..., list[Part]], *arguments: Any) -> list[Part]:
    """The parts that a function returns; none where the study lacks what it needs."""
    try:
        return function(*arguments)
    except NotMeasured:
        return []


def against(name: str, ours: pd.DataFrame, other: pd.DataFrame) -> list[Part]:
    """The difference of two methods on average, if they have a seed in common."""
    return attempt(lambda: [compare(name, ours, other)])


def methods(base: Base) -> dict[str, pd.DataFrame]:
    """Runs of each method that controls ProFit, by what it is."""
    every = alike(base.accuracies[base.accuracies["checkpoint"] == "final"], base.sft)
    chosen = of_settings(base, MASKS)
    for key in EXTRAS:
        for (kind, called), own in every[estimators.changed(every, key)].groupby(["kind", "method"], sort=False):
            chosen[f"{NAMES.get(kind, kind)} with {key} {own[key].iloc[0]} ({called})"] = own
    plain_sft = base.final[base.final["kind"] == "sft"]
    for rate in sorted(set(plain_sft["learning_rate"]) - {base.sft["learning_rate"].iloc[0]}):
        for called, own in alike(plain_sft, base.sft, learning_rate=rate).groupby("method", sort=False):
            chosen[f"SFT at learning rate {rate:g} ({called})"] = own
    return chosen


def of_settings(base: Base, wanted: dict[str, dict[str, str]]) -> dict[str, pd.DataFrame]:
    """Runs of each method beside SFT that has the wanted settings, by their name."""
    chosen: dict[str, pd.DataFrame] = {}
    for name, settings in wanted.items():
        rows = alike(base.final, base.sft)
        for key, value in settings.items():
            rows = rows[rows[key] == value]
        chosen |= {f"{name} ({called})": own for called, own in rows.groupby("method", sort=False)}
    return chosen


def of_profit(base: Base) -> list[Part]:
    """Each control against SFT, and ProFit against each control; ProFit against SFT at equal drift and own rates."""
    ours, other, parts = method(base, "profit"), base.sft, []
    for name, own in methods(base).items():
        parts += against(f"{name} - SFT", own, other) + against(f"ProFit - {name}", ours, own)
    return parts + attempt(equal_drift.parts, base) + own_rate.parts("ProFit", "SFT")(base)


def of_base(base: Base) -> list[Part]:
    """SFT against the base."""
    return against("SFT - the base", base.sft, estimators.vanilla(base))


def several(base: Base) -> dict[str, pd.DataFrame]:
    """SFT on several references, on other numbers of them and at equal steps, and on one for as many steps."""
    runs = base.final[base.final["kind"] == "sft_multi"]
    places = [(number, budget) for budget in ("steps", "epochs") for number in sorted(set(runs["references"]))]
    chosen = {place: alike(runs, base.sft, references=place[0], budget=place[1]) for place in places}
    found = {f"{n}, equal {b}": own for (n, b), own in chosen.items() if len(own) and (n, b) != (SEVERAL, "epochs")}
    return found | {name: own for _, name, own in on_one(base)}


def on_one(base: Base) -> list[tuple[float, str, pd.DataFrame]]:
    """SFT on one reference for more steps, longer or on more prompts: how many times as many steps, and what it is."""
    runs, epochs = base.final[base.final["kind"] == "sft"], base.sft["epochs"].iloc[0]
    found = [(every / epochs, "as long", alike(runs, base.sft, epochs=every)) for every in sorted(set(runs["epochs"]))]
    others = {times: arm.final[arm.final["kind"] == "sft"] for times, arm in base.more.items()}
    found += [(times, "the prompts", alike(own, base.sft)) for times, own in others.items()]
    found = [(times, f"1, {TIMES.get(times, f'{times:g} times')} {what}", own) for times, what, own in found]
    return [(times, name, own) for times, name, own in found if len(own) and times != 1]


def as_many_steps(base: Base) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """SFT on several references at equal epochs beside SFT on one for as many steps, by what the two are."""
    runs = base.final[base.final["kind"] == "sft_multi"]
    pairs = {
        f"{times:g} against {name}": (alike(runs, base.sft, references=times, budget="epochs"), own)
        for times, name, own in on_one(base)
    }
    return {name: pair for name, pair in pairs.items() if len(pair[0])}


def of_three(base: Base) -> list[Part]:
    """ProFit on one reference against the same, and against three at own rates."""
    ours = method(base, "profit")
    parts = [part for name, own in several(base).items() for part in against(f"ProFit - SFT on {name}", ours, own)]
    return parts + own_rate.parts("ProFit", "SFT on three")(base)


def of_several_accuracy(base: Base) -> list[Part]:
    """The same against SFT on one reference, several against one for as many steps, and three at own rates."""
    parts = [part for name, own in several(base).items() for part in against(name, own, base.sft)]
    parts += [part for name, pair in as_many_steps(base).items() for part in against(name, *pair)]
    return parts + own_rate.parts("SFT on three", "SFT")(base)


def less(
    name: str, base: Base, ours: pd.DataFrame, part: str, other: str = "held", than: pd.DataFrame | None = None
) -> list[Part]:
    """By how much a method overfits less than SFT on one reference (`than`), if that was measured."""
    return attempt(lambda: [replace(estimators.less_overfit(base, ours, part, other, than), name=name)])


def of_several_overfit(base: Base) -> list[Part]:
    """The claim against unseen prompts and on all tokens, then of `several`, and against one for as many steps."""
    ours = three(base)
    parts = [*less("all tokens", base, ours, "all")]
    for part in ("core", "replaceable"):
        parts += less(f"{part}, against unseen prompts", base, ours, part, "new")
        for name, own in several(base).items():
            parts += less(f"{part}, {name}", base, own, part)
        for name, (own, one) in as_many_steps(base).items():
            parts += less(f"{part}, {name}", base, own, part, than=one)
    return parts


def of_profit_overfit(base: Base) -> list[Part]:
    """The claim against unseen prompts, then the same of the other objectives, where their account was made."""
    parts = less("core, against unseen prompts", base, method(base, "profit"), "core", "new")
    others = of_settings(base, MASKS | OTHERS)
    return parts + [part for name, own in others.items() for part in less(f"core, {name}", base, own, "core")]


def of_cost(base: Base) -> list[Part]:
    """Processor, clock and memory of whole runs of ProFit over SFT's."""
    runs, parts = base.table("runs"), []
    ours, other = (
        runs[runs["method"] == rows["method"].iloc[0]].set_index("seed") for rows in (method(base, "profit"), base.sft)
    )
    for name, column in COSTS.items():
        ratio = (ours[column] / other[column]).dropna()
        parts += [estimators.of_seeds(f"{name}, over SFT's", ratio - 1, 1.0)] if len(ratio) else []
    return parts


def of_keep_low(base: Base) -> list[Part]:
    """The claim at each threshold, and at own rates."""
    return attempt(estimators.thresholds("keep_low", -1), base) + own_rate.parts("SFT", "keep low")(base)


def of_core(base: Base) -> list[Part]:
    """The claim by other annotators."""
    return [
        part for name in estimators.annotators(base)[1:] for part in attempt(estimators.core_more_probable, base, name)
    ]


def of_low(base: Base) -> list[Part]:
    """The claim by other annotators."""
    return [
        part for name in estimators.annotators(base)[1:] for part in attempt(estimators.low_are_trivial, base, name)
    ]


def of_gradients(base: Base) -> list[Part]:
    """The other bins."""
    return estimators.gradient_ratios(base)[1:]
