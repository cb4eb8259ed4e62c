"""Share of target tokens that the masks keep, over training, by label of the token.

python -m profit.draw --figure kept_share …
"""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from profit.figures import style, tables

SHOWN = ["entropy", "random", "keep_low", "profit"]
PANELS = {
    "kept": "All tokens",
    "kept_core": "Core tokens",
    "kept_replaceable": "Replaceable tokens",
    "kept_fixed": "Fixed tokens",
}


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs and steps; the paper reports no kept shares."""
    steps = tables.load(folder, "steps", [*tables.RUN_KEYS, "step", *PANELS])
    runs = tables.load_runs(folder)
    steps = steps.merge(runs[[*tables.RUN_COLUMNS, "kind"]], on=tables.RUN_KEYS, validate="many_to_one")
    steps = steps[steps["kind"].isin(SHOWN)]

    def block(figure: Figure | SubFigure, model: str) -> None:
        own = steps[steps["model"] == model]
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (column, title) in zip(panels, PANELS.items(), strict=True):
            seeds = draw_panel(axes, own, column)
            axes.set_title(title, loc="left")
            axes.set_xlabel("optimizer step")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panels[0].set_ylim(0, 100)
        panels[0].set_ylabel("tokens kept (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        style.footnote(figure, f"{style.seeds_note(seeds, 'bands').capitalize()}. Labels: truth.")

    return style.stack(tables.models(steps), style.PAGE, 2.3, block)


def draw_panel(axes: Axes, steps: pd.DataFrame, column: str) -> list[int]:
    """One line a method with the interval over seeds as a band; returns the numbers of seeds."""
    counts = []
    known = steps[steps[column].notna()]
    for kind in SHOWN:
        own = known[known["kind"] == kind]
        if own.empty:
            continue
        points = tables.over_seeds(own, ["step"], column).sort_values("step")
        colour, name = style.colour(kind), style.label(own.iloc[0], tau=True)
        # The random mask keeps as many tokens as its pair, so its line lies on the other one.
        dashes = "--" if kind == "random" else "-"
        axes.plot(points["step"], 100 * points["mean"], color=colour, linestyle=dashes, label=name)
        band = 100 * points[["low", "high"]]
        axes.fill_between(points["step"], band["low"], band["high"], color=colour, alpha=0.2, linewidth=0)
        counts += list(points["seeds"])
    return counts
