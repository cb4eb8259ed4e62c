"""Figure 6: accuracy after each epoch of one run a method, the average and each benchmark; dashed: vanilla.

python -m profit.draw --figure fig6_epochs …
"""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from profit.figures import style, tables
from profit.figures.tables import STANDS_FOR
from profit.published import load

COLUMNS = 3


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs, evaluations and main, and the two values that the paper states of its Figure 6."""
    accuracies = tables.load_accuracies(folder)
    stated = load(published, "figures").query("source == 'figure6' and relation == '='").set_index("method")["value"]
    counts, marked = [], []

    def block(figure: Figure | SubFigure, model: str) -> None:
        own = accuracies[accuracies["model"] == model]
        kept = tables.common_seeds(own[own["checkpoint"] != "final"], ["method", "epoch"])
        seeds = kept["seed"].unique()
        counts.append(len(seeds))
        vanilla = own[(own["kind"] == "vanilla") & own["seed"].isin(seeds)].groupby("benchmark")["accuracy"].mean()
        names = ["average", *tables.benchmarks(own)[:-1]]
        rows = -(-len(names) // COLUMNS)
        panels = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).ravel()
        for axes, name in zip(panels, names, strict=False):
            draw_panel(axes, kept[kept["benchmark"] == name])
            if name in vanilla:
                axes.axhline(
                    vanilla[name], color=style.colour("vanilla"), linestyle="--", linewidth=0.9, label="Vanilla"
                )
            axes.set_title(style.benchmark(name), loc="left", fontweight="bold" if name == "average" else "normal")
        if set(names[1:]) == set(STANDS_FOR.values()):
            marked.append(model)
            axes = panels[0]
            axes.plot(
                1, stated["profit"], "v", color=style.colour("profit"), fillstyle="none", markersize=6, clip_on=False
            )
            axes.axhline(stated["sft"], color=style.colour("sft"), linestyle=":", linewidth=0.9)
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        for axes in panels[max(0, len(names) - COLUMNS) : len(names)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("epoch")
        for row in range(rows):
            panels[row * COLUMNS].set_ylabel("accuracy (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5), handlelength=2.6)

    found = accuracies[accuracies["checkpoint"] != "final"]
    figure = style.stack(tables.models(found), style.PAGE, 3.5, block, named=accuracies["model"].nunique() > 1)
    shown = "in the panel Average a triangle and a dotted line" if marked else "of other benchmarks"
    style.footnote(
        figure,
        f"{style.seeds_note(counts).capitalize()}; the axes do not start at zero.",
        f"Paper (model not named; {shown}): average of ProFit {stated['profit']} % at epoch 1, of SFT {stated['sft']} "
        "% at its best epoch; of keep-low about 40 to 50 %.",
    )
    return figure


def draw_panel(axes: Axes, runs: pd.DataFrame) -> None:
    """Accuracy against the epoch, one line a method."""
    ordered = runs.sort_values("kind", key=lambda kinds: kinds.map(tables.order), kind="stable")
    for kind, of_method, look in style.lines(ordered, ["method"]):
        style.line(axes, tables.over_seeds(of_method, ["epoch"]), "epoch", kind, **look)
    axes.set_xticks(sorted(runs["epoch"].unique()))
