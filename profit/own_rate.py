"""Each method at a learning rate of its own: is it the objective, or that one rate suits it better than the other?

The paper trains all methods at one rate. Here each of a pair trains at the rate with its highest mean accuracy on
validation problems, at seeds used nowhere else (table tune, profit.tabulate), and is compared at that rate on the
benchmarks, paired by seed. No number of the benchmarks takes part in the choice.

No command: used by `profit.controls` and by `profit.figures.learning_rate`.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from profit.estimators import EXTRAS, Base, Estimator, NotMeasured, Part, compare, first, method, three

# All settings of a method but its learning rate.
SAME = ("kind", "tau", "share", "normaliser", "keep", "redraw", "tuning", "rank", "references", "budget", "epochs",
        *EXTRAS)  # fmt: skip
METHODS: dict[str, Callable[[Base], pd.DataFrame]] = {
    "SFT": lambda base: base.sft,
    "SFT on three": three,
    "entropy": lambda base: method(base, "entropy"),
    "DFT": lambda base: method(base, "dft"),
    "keep low": lambda base: method(base, "keep_low", tau=method(base, "profit")["tau"].iloc[0]),
    "ProFit": lambda base: method(base, "profit"),
}


def parts(ours: str, other: str) -> Estimator:
    """The difference of two of METHODS on average, each at its own best rate; none where the study lacks one."""

    def found(base: Base) -> list[Part]:
        try:
            (own, rate), (against, second) = (at_best(base, METHODS[name](base)) for name in (ours, other))
            return [compare(f"{ours} - {other}, each at its own best rate ({rate:g} and {second:g})", own, against)]
        except NotMeasured:
            return []

    return found


def at_best(base: Base, runs: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Final checkpoints of the method of `runs` at the rate that table tune chose for it, and that rate.

    Raises:
        NotMeasured: no rate was chosen for the method, or it was not run at the one that was.
    """
    name, tune = runs["method"].iloc[0], base.table("tune")
    rates = tune.loc[(tune["tuned"] == name) & tune["chosen"], "learning_rate"]
    if rates.empty:
        raise NotMeasured(f"no learning rate was chosen for {name}")
    rate, every = rates.iloc[0], at_every_rate(base.final, runs)
    return first(every[every["learning_rate"] == rate], f"{name} at learning rate {rate:g}"), rate


def at_every_rate(runs: pd.DataFrame, to: pd.DataFrame) -> pd.DataFrame:
    """The rows that differ from the first row of `to` in no setting but the learning rate."""
    wanted = to.iloc[0][list(SAME)]
    same = [runs[key].isna() if pd.isna(value) else runs[key] == value for key, value in wanted.items()]
    return runs[np.logical_and.reduce(same)]
