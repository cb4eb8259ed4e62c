"""What of a study stands beside the numbers that the paper's text gives of its figures (paper §3.2, §4.1, §6.1, §6.3).

Each function returns {(method, quantity of results/published/figures.csv): one row a model that measured it}, a row
with `ours_model`, `ours_of` (our method, annotator or benchmark), `ours`, `low`, `high` and `seeds`.

No command: used by `profit.published`.
"""

from typing import Any

import pandas as pd

from profit.figures import tables
from profit.figures.tables import STANDS_FOR
from profit.statistics import paired_difference

Row = dict[str, Any]
# Points of Figure 6 that the text states.
EPOCHS = (("profit", "epoch_1"), ("sft", "best_epoch"), ("keep_low", "worst_epoch"), ("keep_low", "best_epoch"))


def several_references(accuracies: pd.DataFrame) -> dict[Any, list[Row]]:
    """Figure 2 on GPQA-Diamond, or the benchmark in its place: SFT on one and on three references at equal epochs."""
    ours: dict[Any, list[Row]] = {}
    for model in tables.models(accuracies):
        own = accuracies[accuracies["model"] == model]
        names = [name for name in dict.fromkeys(own["benchmark"]) if STANDS_FOR.get(name, name) == "gpqa_diamond"]
        three = own[(own["kind"] == "sft_multi") & (own["references"] == 3) & (own["checkpoint"] == "final")]
        three = three[three["budget"] == "epochs"]
        one = tables.alike(own[own["kind"] == "sft"], three.assign(references=1)) if len(three) else three
        if not names or one.empty:
            continue
        several, single = (
            tables.first_methods(runs[runs["benchmark"] == names[0]], ["kind"]) for runs in (three, one)
        )
        if names[0] == "gpqa_diamond":
            for key, runs in (("sft_3ref", several), ("sft", single)):
                ours.setdefault((key, names[0]), []).append(over(runs, model, runs["method"].iloc[0]))
        what = f"{several['method'].iloc[0]} - {single['method'].iloc[0]}, {names[0]}"
        if change := paired(several, single, model, what):
            ours.setdefault(("sft_3ref", "gpqa_diamond_vs_1_reference"), []).append(change)
    return ours


def probabilities(correlation: pd.DataFrame | None) -> dict[Any, list[Row]]:
    """Figure 3: mean probability by label with its bootstrap interval, and p, of each model and annotator."""
    ours: dict[Any, list[Row]] = {}
    for row in [] if correlation is None else correlation.to_dict("records"):
        who = {"ours_model": row["model"], "ours_of": row["annotator"]}
        for name in ("core", "replaceable", "core_and_replaceable"):
            key = f"probability_{name}"
            values = {"ours": row[f"{key}_mean"], "low": row[f"{key}_low"], "high": row[f"{key}_high"]}
            ours.setdefault((None, f"{key}_mean"), []).append(who | values)
        ours.setdefault((None, "test_p"), []).append(who | {"ours": row["test_p"]})
    return ours


def thresholds_above_sft(accuracies: pd.DataFrame) -> dict[Any, list[Row]]:
    """Figure 4: share of the thresholds at which the average lies above SFT's, of models with the sweep."""
    ours: dict[Any, list[Row]] = {}
    for model in tables.models(accuracies[accuracies["group"] == "threshold"]):
        own = accuracies[(accuracies["model"] == model) & (accuracies["benchmark"] == "average")]
        swept, sft = tables.threshold_sweep(own)
        for kind, runs in swept.groupby("kind") if len(sft) else ():
            means = runs.groupby("tau")["accuracy"].mean()
            share = 100 * float((means > sft["accuracy"].mean()).mean())
            what = f"{runs['method'].iloc[0]} at {len(means)} thresholds"
            row = {"ours_model": model, "ours_of": what, "ours": share, "seeds": runs["seed"].nunique()}
            ours.setdefault((kind, "thresholds_above_sft"), []).append(row)
    return ours


def epochs(accuracies: pd.DataFrame) -> dict[Any, list[Row]]:
    """Figures 6 and 9: averages on Table 1's benchmarks, IFEval; on any ProFit's first epoch - SFT's best."""
    ours: dict[Any, list[Row]] = {}
    swept = accuracies[(accuracies["group"] == "epochs") & (accuracies["checkpoint"] != "final")]
    for model, every in swept.groupby("model", sort=False):
        own, points = tables.first_methods(every, ["kind"]), {}
        for kind, what in EPOCHS:
            runs = own[(own["kind"] == kind) & (own["benchmark"] == "average")]
            if len(runs):
                points[kind, f"average_at_{what}"] = at_epoch(runs, what)
        names = {key: f"{found['method'].iloc[0]}, epoch {found['epoch'].iloc[0]}" for key, found in points.items()}
        if set(own["benchmark"]) - {"average"} == set(STANDS_FOR.values()):
            for key, found in points.items():
                ours.setdefault(key, []).append(over(found, str(model), names[key]))
        first, best = ("profit", "average_at_epoch_1"), ("sft", "average_at_best_epoch")
        if first in points and best in points:
            lead = paired(points[first], points[best], str(model), f"{names[first]} - {names[best]}")
            ours.setdefault(("profit", "epoch_1_vs_best_of_sft"), []).extend([lead] if lead else [])
        for kind in tables.THRESHOLDS:
            found = own[(own["benchmark"] == "ifeval") & (own["kind"] == kind)]
            if len(found):
                mean = found.groupby(["method", "seed"], as_index=False)["accuracy"].mean()
                what = f"{found['method'].iloc[0]}, mean of its epochs"
                ours.setdefault((kind, "ifeval"), []).append(over(mean, str(model), what))
    return ours


def at_epoch(runs: pd.DataFrame, what: str) -> pd.DataFrame:
    """The runs at their first epoch, or at that with the highest or the lowest mean."""
    means = runs.groupby("epoch")["accuracy"].mean()
    return runs[runs["epoch"] == {"epoch_1": 1, "best_epoch": means.idxmax(), "worst_epoch": means.idxmin()}[what]]


def over(runs: pd.DataFrame, model: str, what: str) -> Row:
    """Mean accuracy of runs over seeds with its t interval."""
    point = tables.over_seeds(runs.assign(what=what), ["what"]).iloc[0]
    values = {"ours": point["mean"], "low": point["low"], "high": point["high"], "seeds": point["seeds"]}
    return {"ours_model": model, "ours_of": what, **values}


def paired(first: pd.DataFrame, second: pd.DataFrame, model: str, what: str) -> Row | None:
    """Mean difference of accuracies on common seeds with its paired t interval; none without a common seed."""
    pairs = first.merge(second, on="seed", suffixes=("", "_second"))
    if pairs.empty:
        return None
    mean, low, high, _ = paired_difference(pairs["accuracy"], pairs["accuracy_second"])
    values = {"ours": mean, "low": low, "high": high, "seeds": len(pairs)}
    return {"ours_model": model, "ours_of": what, **values}
