"""What the paper says of each claim in numbers, typed in results/published; in words where it gives none.

Each function takes the paper's tables and a model, and returns one sentence with numbers that a reader can hold
against ours, and the one of them that is the effect of the claim, in its unit, if one is (a claim in parts: the
weakest). A model of the paper's Tables 1 and 2 gets its own number, any other the mean and range over the bases.

No command: used by `profit.claims`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from profit import published

Paper = Mapping[str, pd.DataFrame]
Stated = tuple[str, float | None]
Sentence = Callable[[Paper, str], Stated]


def load(folder: Path) -> Paper:
    """The paper's tables by name; InputError for one that is missing."""
    return {name: published.load(folder, name) for name in (*published.TABLES, "figures")}


def unstated(paper: Paper, model: str) -> Stated:
    """The paper gives no number."""
    return "no number", None


def lead(over: str, ours: str = "profit", tables: tuple[str, ...] = ("table1", "table2")) -> Sentence:
    """By how many points one method's average lies above another's."""

    def sentence(paper: Paper, model: str) -> Stated:
        leads = {
            name: found for table in reversed(tables) for name, found in leads_of(paper[table], ours, over).items()
        }
        if model in leads:
            return f"{leads[model]:+.1f} points", leads[model] / 100
        values = leads_of(paper[tables[0]], ours, over)
        spread = f"{min(values.values()):+.1f} to {max(values.values()):+.1f}"
        mean = sum(values.values()) / len(values)
        return f"{mean:+.1f} points ({len(values)} bases, {spread})", mean / 100

    return sentence


def leads_of(table: pd.DataFrame, ours: str, over: str) -> dict[str, float]:
    """Difference of two methods' printed averages, points, by model."""
    cells = table[table["benchmark"] == "average"].pivot(index="model", columns="method", values="accuracy")
    return {} if {ours, over} - set(cells) else (cells[ours] - cells[over]).dropna().to_dict()


def on_each(paper: Paper, model: str) -> Stated:
    """On how many cells of Table 1 ProFit lies above SFT, and the worst."""
    cells = paper["table1"]
    cells = cells[~cells["benchmark"].isin(published.SUMS)]
    cells = cells[cells["model"] == model] if model in set(cells["model"]) else cells
    values = cells.pivot(index=["model", "benchmark"], columns="method", values="accuracy")
    leads = values["profit"] - values["sft"]
    least = float(leads.min())
    return f"{(leads > 0).sum()} of {len(leads)} cells above SFT, least {least:+.1f} points", least / 100


def stated(paper: Paper, source: str, method: str | None, quantity: str) -> float:
    """A number that the text gives of a figure."""
    rows = paper["figures"]
    named = rows["method"].isna() if method is None else rows["method"] == method
    return float(rows.loc[(rows["source"] == source) & named & (rows["quantity"] == quantity), "value"].iloc[0])


def three_references(paper: Paper, model: str) -> Stated:
    """Of Figure 2 the text gives GPQA-Diamond alone."""
    one, several = (stated(paper, "figure2", method, "gpqa_diamond") for method in ("sft", "sft_3ref"))
    return f"{several - one:+.1f} points on GPQA-Diamond ({one:g} to {several:g}); no other number", None


def profit_over_three(paper: Paper, model: str) -> Stated:
    """The text has SFT's bar alone."""
    three = stated(paper, "figure2", "sft_3ref", "gpqa_diamond")
    return f"no number; SFT on three has {three:g} on GPQA-Diamond", None


def thresholds(method: str) -> Sentence:
    """The share of the thresholds at which a mask lies above SFT."""
    return lambda paper, model: (
        f"above SFT at {stated(paper, 'figure4', method, 'thresholds_above_sft'):g} % of the thresholds; no values",
        None,
    )


def epochs(paper: Paper, model: str) -> Stated:
    """ProFit after one epoch against SFT's best, which is no difference at equal epochs."""
    first = stated(paper, "figure6", "profit", "average_at_epoch_1")
    best = stated(paper, "figure6", "sft", "average_at_best_epoch")
    return f"epoch 1 of ProFit {first:g}, best of SFT {best:g}: {first - best:+.1f} points", None


def core(paper: Paper, model: str) -> Stated:
    """Figure 3's means."""
    means = [stated(paper, "figure3", None, f"probability_{name}_mean") for name in ("core", "replaceable")]
    p = stated(paper, "figure3", None, "test_p")
    difference = means[0] - means[1]
    return f"{difference:+.3f} ({means[0]:g} core, {means[1]:g} trivial), p = {p:g}", difference


def reinforcement(paper: Paper, model: str) -> Stated:
    """Figure 7 on MATH-500."""
    ours, base = (stated(paper, "figure7", method, "grpo_math_500_avg_4") for method in ("profit", "vanilla"))
    return f"{ours - base:+.1f} points on MATH-500 (Avg@4) over starting from the base", None
