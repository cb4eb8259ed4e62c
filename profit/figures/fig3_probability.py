"""Figure 3: probability of reference tokens under the base by label, and what a threshold would cut.

Left, one panel an annotator: density of the probability of core and of replaceable tokens, means marked, the paper's
means as triangles. Right: share of core tokens below a threshold (lost to the mask) and of replaceable ones above it.

python -m profit.draw --figure fig3_probability …
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from profit.figures import style, tables
from profit.published import load

# Labels are no methods: black, and a dark yellow that no method has, in two line styles.
LOOK = {"core": ("black", "-"), "replaceable": ("#A89A00", "--")}
MARKS = [("o", None, "filled marks"), ("o", "white", "hollow marks"), ("s", "white", "squares")]
BINS = 20
SUMMARY = {
    "probability_core_mean": "core",
    "probability_replaceable_mean": "replaceable",
    "effect_auc": "auc",
    "effect_cohens_d": "d",
    "test_p": "p",
}


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables densities, correlation and threshold_loss, and the paper's means."""
    densities = tables.load(folder, "densities", ["model", "annotator", "label", "low", "high", "tokens"])
    densities = tables.without_arms(folder, densities)
    summary = tables.load(folder, "correlation", ["model", "annotator", *SUMMARY])
    losses = tables.load(folder, "threshold_loss", ["model", "annotator", "tau", "core_below", "replaceable_above"])
    stated = load(published, "figures").query("source == 'figure3'")
    paper = stated.set_index("quantity")["value"].rename(SUMMARY)
    annotators = list(dict.fromkeys(summary["annotator"]))

    def block(figure: Figure | SubFigure, model: str) -> None:
        axes = figure.subplots(1, len(annotators) + 1)
        for place, annotator in enumerate(annotators):
            here, row = (
                frame[(frame["model"] == model) & (frame["annotator"] == annotator)] for frame in (densities, summary)
            )
            draw_densities(axes[place], here, row.iloc[0].rename(SUMMARY), paper)
        axes[0].set_ylabel("density (log scale)")
        draw_losses(axes[-1], losses[losses["model"] == model], annotators)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, handlelength=2.5)

    models = tables.models(densities)
    figure = style.stack(models, style.PAGE if len(annotators) > 1 else 4.6, 2.6, block, named=len(models) > 1)
    means = f"core {paper['core']:.3f}, replaceable {paper['replaceable']:.3f}; {stated['model'].iloc[0]}"
    style.footnote(
        figure,
        f"Vertical lines and numbers above: our means. Triangles: the paper's ({means}; its p = {paper['p']:.0e}, of "
        f"an unnamed test). Right: {marks(annotators)}.",
        "p: labels exchanged prompt by prompt; d: Cohen's d; AUC: probability that a core token is more probable than "
        "a replaceable one.",
    )
    return figure


def draw_densities(axes: Axes, densities: pd.DataFrame, summary: pd.Series, paper: pd.Series) -> None:
    """Density by label over probability with both kinds of means and the test in words."""
    for name, (colour, dashes) in LOOK.items():
        own = densities[densities["label"] == name].sort_values("low")
        counts = own["tokens"].to_numpy().reshape(BINS, -1).sum(axis=1)
        height = counts / counts.sum() * BINS
        edges = np.linspace(0, 1, BINS + 1)
        axes.stairs(height, edges, baseline=None, color=colour, linestyle=dashes, linewidth=1.3, label=name)
        axes.axvline(summary[name], color=colour, linestyle=dashes, linewidth=0.7)
        axes.plot(paper[name], 0.965, "v", color=colour, fillstyle="none", transform=axes.get_xaxis_transform())
    axes.set_yscale("log")
    axes.set_ylim(0.01, 100)
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability under the base")
    axes.set_title(
        f"Labels: {summary['annotator']}\ncore {summary['core']:.3f}, replaceable {summary['replaceable']:.3f}\n"
        f"AUC {summary['auc']:.3f}, d {summary['d']:.2f}, p = {summary['p']:.1g}",
        loc="left",
    )


def draw_losses(axes: Axes, losses: pd.DataFrame, annotators: list[str]) -> None:
    """Share of core tokens below and of replaceable tokens above each threshold, one kind of mark an annotator."""
    for place, annotator in enumerate(annotators):
        own = losses[losses["annotator"] == annotator].sort_values("tau")
        for column, name in (("core_below", "core"), ("replaceable_above", "replaceable")):
            colour, dashes = LOOK[name]
            mark, face, _ = MARKS[place]
            axes.plot(
                own["tau"],
                100 * own[column],
                marker=mark,
                color=colour,
                linestyle=dashes,
                markerfacecolor=face or colour,
            )
    axes.set_ylim(0, 100)
    axes.set_xlim(0, 1)
    axes.set_xlabel("threshold τ")
    axes.set_ylabel("tokens of that label (%)")
    axes.set_title("By threshold:\ncore tokens lost (p ≤ τ),\nreplaceable tokens kept (p > τ)", loc="left")


def marks(annotators: list[str]) -> str:
    """Which marks stand for which annotator."""
    return "; ".join(f"{MARKS[place][2]}: {name}" for place, name in enumerate(annotators))
