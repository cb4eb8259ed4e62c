"""Accuracy against the learning rate, one line a method, with the rate that validation problems choose for each.

Panels: the average, and where same_length is among the benchmarks what was learnt (it) and kept (mean of the others).

python -m profit.draw --figure learning_rate …
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import NullLocator

from profit.figures import style, tables
from profit.own_rate import at_every_rate

RING = 8.0  # points
APART = 0.035  # decades between methods, so that their intervals do not hide each other


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs, evaluations, main and tune; the paper has no such figure."""
    accuracies = tables.load_accuracies(folder)
    accuracies = tables.with_means(accuracies[accuracies["checkpoint"] == "final"])
    tune = tables.load(folder, "tune", ["model", "tuned", "learning_rate", "chosen"])
    counts: list[int] = []

    def block(figure: Figure | SubFigure, model: str) -> None:
        own, of_model = accuracies[accuracies["model"] == model], tune[tune["model"] == model]
        swept = swept_methods(own, of_model)
        best = of_model[of_model["chosen"]].groupby("tuned")["learning_rate"].first()
        vanilla = own[own["kind"] == "vanilla"].groupby("benchmark")["accuracy"].mean()
        names = [name for name in tables.MEANS if name in set(own["benchmark"])]
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            counts.extend(draw_panel(axes, swept[swept["benchmark"] == name], best))
            if name in vanilla:
                axes.axhline(
                    vanilla[name], color=style.colour("vanilla"), linestyle="--", linewidth=0.9, label="Vanilla"
                )
            axes.set_title(style.benchmark(name), loc="left", fontweight="bold" if name == "average" else "normal")
            axes.set_xlabel("learning rate (log scale)")
        panels[0].set_ylabel("accuracy (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 2 + 2 * len(names)))

    figure = style.stack(
        [model for model in tables.models(accuracies) if model in set(tune["model"])],
        style.PAGE if "learnt" in set(accuracies["benchmark"]) else style.COLUMN,
        2.6,
        block,
        named=accuracies["model"].nunique() > 1,
    )
    style.footnote(
        figure,
        f"{style.seeds_note(counts).capitalize()}; the axes do not start at zero.",
        "Ring: the rate that validation problems choose for the method, on other seeds. Points of a rate stand apart.",
    )
    return figure


def swept_methods(own: pd.DataFrame, tune: pd.DataFrame) -> pd.DataFrame:
    """One model's runs of each tuned method at every rate, on the seeds that all its rates have; `tuned` names it."""
    found = []
    for name in dict.fromkeys(tune["tuned"]):
        runs = at_every_rate(own, own[own["method"] == name])
        runs = tables.first_methods(runs[runs["learning_rate"].isin(tune["learning_rate"])], ["learning_rate"])
        found.append(tables.common_seeds(runs, ["learning_rate"]).assign(tuned=name))
    return pd.concat(found).sort_values("kind", key=lambda kinds: kinds.map(tables.order), kind="stable")


def draw_panel(axes: Axes, runs: pd.DataFrame, best: pd.Series) -> list[int]:
    """One line a method, ringed at its best rate; returns the numbers of seeds."""
    counts, methods = [], runs["tuned"].nunique()
    for place, (kind, own, look) in enumerate(style.lines(runs, ["tuned"])):
        points = tables.over_seeds(own, ["learning_rate"])
        points["at"] = points["learning_rate"] * 10 ** (APART * (place - (methods - 1) / 2))
        style.line(axes, points, "at", kind, **look)
        ringed = points[np.isclose(points["learning_rate"], best[own["tuned"].iloc[0]])]
        look = {"color": style.colour(kind), "markersize": RING, "fillstyle": "none", "linestyle": "none"}
        axes.plot(ringed["at"], ringed["mean"], "o", **look)
        counts += list(points["seeds"])
    axes.set_xscale("log")
    rates = sorted(runs["learning_rate"].unique())
    axes.set_xticks(rates, [style.learning_rate(rate) for rate in rates])
    axes.xaxis.set_minor_locator(NullLocator())
    return counts
