"""The rules that a miniature's world is set by, and whether they hold for each of a study's bases: table world.

A comparison of methods needs something to learn, something to lose and something for the threshold to cut. Of each
base alone, before any method:

    accuracy     0.5 to 0.8 on same_length, and 0.2 to 0.8 on every other benchmark, where a model this small allows it
                 (the study file says where it does not)
    gain         at least 0.10 on same_length by training on fresh answers in the base's own words (world_check)
    tokens       at least 3 % of the reference tokens in each of [.1,.3) [.3,.5) [.5,.7) [.7,.9) of the base's
                 probability, both core and replaceable ones among them
    core         5 to 20 % of the tokens under 0.1

No command: used by `profit.tabulate`, and on the shipped tables by tests/test_world.py.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

import pandas as pd

from profit.correlate import BIN_EDGES
from profit.data import LABELS

SAME_LENGTH = "same_length"
COLUMNS = ["model", "rule", "found", "low", "high", "holds"]
# A rule with what was found, and the least and the most that it allows (NaN: no limit).
Rule = tuple[str, float, float, float]


def world_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a model and rule: what was found, the least and most that the rule allows, and whether it holds.

    tables: runs, evaluations and densities, tidy. A model without vanilla has no rows, one without the check of its
    world none of gain, one without the labels of the truth none of tokens.
    """
    rows = []
    every = tables["runs"]
    for model in dict.fromkeys(every.loc[every["objective"] == "vanilla", "model"]):
        runs, evaluations, densities = (
            tables[name][tables[name]["model"] == model] for name in ("runs", "evaluations", "densities")
        )
        for rule, found, low, high in [*of_accuracy(runs, evaluations), *of_tokens(densities)]:
            rows.append([model, rule, found, low, high, found >= low and not found > high])
    return pd.DataFrame(rows, columns=COLUMNS).astype({"found": float, "low": float, "high": float, "holds": bool})


def of_accuracy(runs: pd.DataFrame, evaluations: pd.DataFrame) -> Iterator[Rule]:
    """Rules about the accuracies of one model, means over seeds."""

    def accuracy(chosen: pd.Series) -> pd.Series:
        own = evaluations[evaluations["method"].isin(runs.loc[chosen, "method"])]
        return own.groupby("benchmark", sort=False)["accuracy"].mean()

    base, careful = accuracy(runs["objective"] == "vanilla"), accuracy(runs["group"] == "world")
    for name, found in base.items():
        yield f"accuracy on {name}", found, 0.5 if name == SAME_LENGTH else 0.2, 0.8
    if SAME_LENGTH in base and SAME_LENGTH in careful:
        yield f"gain on {SAME_LENGTH}", careful[SAME_LENGTH] - base[SAME_LENGTH], 0.10, math.nan


def of_tokens(densities: pd.DataFrame) -> Iterator[Rule]:
    """Rules about the reference tokens of one model by the probability that its base gives them, labels by truth."""
    own = densities[densities["annotator"] == "truth"]
    if own.empty:
        return

    def counts(low: float, high: float) -> pd.Series:
        # The edges of the fine bins differ from those of the rules in the last bit.
        inside = own[(own["low"] > low - 1e-6) & (own["low"] < high - 1e-6)]
        return inside.groupby("label")["tokens"].sum().reindex(LABELS, fill_value=0)

    for low, high in list(pairwise(BIN_EDGES))[1:-1]:
        found = counts(low, high)
        yield f"share of tokens in [{low}, {high})", found.sum() / own["tokens"].sum(), 0.03, math.nan
        yield f"tokens of the rarer label in [{low}, {high})", found[["core", "replaceable"]].min(), 1, math.nan
    found = counts(*BIN_EDGES[:2])
    yield f"share of core under {BIN_EDGES[1]}", found["core"] / found.sum() if found.sum() else math.nan, 0.05, 0.20
