"""ProFit beside SFT at equal drift from the base: is it the choice of tokens, or only the smaller step?

A mask takes tokens out of the gradient, so that ProFit goes less far from the base than SFT, and whoever goes less far
may keep more. Three paths lead from the base to SFT: through SFT at other learning rates, through SFT stopped early,
and through SFT mixed with the base's weights. On each path and of each seed, straight lines join the points

    (0, accuracy of the base), (drift, accuracy) of every member of the path and of SFT itself, in the order of drift,

and SFT's accuracy at equal drift is where ProFit's own drift meets them; beyond the last point there is none. A higher
rate than SFT's leads beyond it, for a ProFit that goes as far as SFT.

Drift is KL(base || run) in nats a token, over all targets of the held references (profit.drift). This direction
averages over what the base says, so it counts what a run gave up, and on the trained task it goes with forgetting
whatever the training (Shenfeld et al. 2025, arXiv 2509.04259); references that no run learnt from leave out what was
learnt by heart. All tokens count: a mask moves one label more than another by construction, so that equal drift on
one label would be unequal drift on the others.

No command: used by `profit.controls` and by `profit.figures.drift`.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from profit.estimators import EXTRAS, Base, NotMeasured, Part, alike, changed, method, of_seeds, plain
from profit.figures.tables import RUN_KEYS

DRIFT = "kl_base_run"
# Paths from the base to SFT, and the setting of estimators.EXTRAS that leads along them; a learning rate is none.
PATHS = {"learning rate": None, "stopping": "stop", "mixing": "mix"}


def parts(base: Base) -> list[Part]:
    """ProFit's drift over SFT's, then ProFit - SFT at equal drift along each path that the study has.

    Raises:
        NotMeasured: no table drift, or in it no run of ProFit or SFT.
    """
    final = base.accuracies[(base.accuracies["checkpoint"] == "final") & (base.accuracies["benchmark"] == "average")]
    measured = with_drift(final, base.table("drift"))
    ours, sft = (of_method(measured, rows["method"].iloc[0]) for rows in (method(base, "profit"), base.sft))
    found = ratio(ours, sft)
    start = final[final["kind"] == "vanilla"].set_index("seed")["accuracy"]
    for name, members in paths(measured, base.sft).items():
        way = [of_method(measured, member) for member in members]
        found += at_equal_drift(name, ours, [*way, sft], start) if len(start) else []
    return found


def with_drift(runs: pd.DataFrame, drift: pd.DataFrame) -> pd.DataFrame:
    """The runs whose drift was measured, with column DRIFT over all tokens."""
    whole = drift.loc[drift["part"] == "all", [*RUN_KEYS, DRIFT]]
    return runs.merge(whole, on=RUN_KEYS, validate="one_to_one")


def of_method(measured: pd.DataFrame, name: str) -> pd.DataFrame:
    """Drift and accuracy of a method by seed; NotMeasured without any."""
    rows = measured[measured["method"] == name]
    if rows.empty:
        raise NotMeasured(f"table drift has no run of {name}")
    return rows.set_index("seed")[[DRIFT, "accuracy"]]


def paths(runs: pd.DataFrame, sft: pd.DataFrame) -> dict[str, list[str]]:
    """Methods on each of PATHS that has some: SFT like the first row of `sft`, but for what leads along the path."""
    every, found = runs[runs["objective"] == "sft"], {}
    rates = every["learning_rate"].unique()
    for name, setting in PATHS.items():
        if setting is None:
            others = [rate for rate in rates if rate != sft["learning_rate"].iloc[0]]
            rows = [alike(plain(every), sft, learning_rate=rate) for rate in others]
        else:
            alone = np.logical_and.reduce([changed(every, key) == (key == setting) for key in EXTRAS])
            rows = [alike(every[alone], sft)]
        members = [member for own in rows for member in own["method"].unique()]
        found |= {name: members} if members else {}
    return found


def ratio(ours: pd.DataFrame, sft: pd.DataFrame) -> list[Part]:
    """ProFit's drift over SFT's, on the seeds that both have and where SFT moved."""
    values = (ours[DRIFT] / sft[DRIFT]).replace(math.inf, math.nan).dropna()
    return [of_seeds("drift of ProFit, over SFT's", values - 1, 1.0, unit="ratio")] if len(values) else []


def at_equal_drift(name: str, ours: pd.DataFrame, way: Sequence[pd.DataFrame], start: pd.Series) -> list[Part]:
    """ProFit - SFT along a path, on the seeds that all have; none if on no seed ProFit's drift is within the path.

    ours, way: drift and accuracy by seed of ProFit, and of the path's members and SFT; start: the base's accuracy by
    seed, whose mean stands for a seed that it lacks. What was left out or stands in is said in the part's name.
    """
    seeds = sorted(set.intersection(*(set(rows.index) for rows in [ours, *way])))
    differences = {}
    for seed in seeds:
        points = [(0.0, start.get(seed, start.mean())), *(tuple(rows.loc[seed, [DRIFT, "accuracy"]]) for rows in way)]
        differences[seed] = ours.loc[seed, "accuracy"] - read_off(points, ours.loc[seed, DRIFT])
    found = pd.Series(differences, dtype=float).dropna()
    if found.empty:
        return []
    said = {
        "left out, ProFit beyond the path": len(seeds) - len(found),
        "with the base's mean": len(set(found.index) - set(start.index)),
    }
    notes = "; ".join(f"{count} of {len(seeds)} seeds {what}" for what, count in said.items() if count)
    return [of_seeds(f"ProFit - SFT at equal drift, by {name}" + (f" ({notes})" if notes else ""), found)]


def read_off(points: Sequence[tuple[float, float]], at: float) -> float:
    """The accuracy at a drift on the straight lines through points (drift, accuracy); NaN beyond the last one."""
    drifts, accuracies = zip(*sorted(points), strict=True)
    return float(np.interp(at, drifts, accuracies, right=math.nan))
