"""Figure 6: accuracy after each epoch of one run a method, the average and each benchmark; dashed: vanilla.

python -m profit.draw --figure fig6_epochs …
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure, SubFigure

from profit.figures import style, tables

COLUMNS = 3


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs and evaluations, and the two values that the paper states of its Figure 6."""
    accuracies = tables.load_accuracies(folder)
    paper = tables.load_published(published, "figure6").set_index("quantity")["accuracy"]

    def block(figure: Figure | SubFigure, model: str) -> None:
        own = accuracies[accuracies["model"] == model]
        kept = tables.common_seeds(own[own["checkpoint"] != "final"], ["method", "epoch"])
        seeds = kept["seed"].unique()
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
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        for axes in panels[len(names) - COLUMNS : len(names)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("epoch")
        for row in range(rows):
            panels[row * COLUMNS].set_ylabel("accuracy (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        style.footnote(
            figure,
            f"{style.seeds_note([len(seeds)]).capitalize()}; the axes do not start at zero. Paper (average of other "
            f"benchmarks): ProFit {paper['average']} % at epoch 1,\nSFT {paper['peak_average']} % at its best epoch.",
        )

    return style.stack(tables.models(accuracies), style.PAGE, 3.5, block)


def draw_panel(axes, runs: pd.DataFrame) -> None:
    """Accuracy against the epoch, one line a method."""
    ordered = runs.sort_values("kind", key=lambda kinds: kinds.map(style.order), kind="stable")
    for (kind, _), of_method in ordered.groupby(["kind", "method"], sort=False):
        name = style.label(of_method.iloc[0], tau=True)
        style.line(axes, tables.over_seeds(of_method, ["epoch"]), "epoch", kind, label=name)
    axes.set_xticks(sorted(runs["epoch"].unique()))
