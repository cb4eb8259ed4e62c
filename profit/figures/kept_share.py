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
    labels = tables.load(folder, "runs", ["labels"])["labels"].iloc[0]
    runs = tables.load_runs(folder)
    steps = steps.merge(runs, on=tables.RUN_KEYS, validate="many_to_one")
    # A study without any mask has lines at 100 %.
    steps = masked if len(masked := steps[steps["kind"].isin(SHOWN)]) else steps
    steps = steps.sort_values("kind", key=lambda kinds: kinds.map(tables.order), kind="stable")
    known = PANELS if labels else ["kept"]
    shown = {column: PANELS[column] for column in known if steps[column].notna().any()}
    counts: list[int] = []

    def block(figure: Figure | SubFigure, model: str) -> None:
        own = steps[steps["model"] == model]
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, (column, title) in zip(panels, shown.items(), strict=True):
            counts.extend(draw_panel(axes, own, column))
            axes.set_title(title, loc="left")
            axes.set_xlabel("optimizer step")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panels[0].set_ylim(0, 102)
        panels[0].set_ylabel("tokens kept (%)")
        handles, names = panels[0].get_legend_handles_labels()
        columns = min(len(names), 5 if len(shown) > 1 else 2)
        figure.legend(handles, names, loc="outside upper center", ncols=columns, handlelength=2.6)

    models = [model for model in tables.models(runs) if model in set(steps["model"])]
    figure = style.stack(
        models, style.PAGE if len(shown) > 1 else style.COLUMN, 2.3, block, named=runs["model"].nunique() > 1
    )
    said = f"Labels: {labels}." if labels else "The study has no labels of its tokens."
    style.footnote(figure, f"{style.seeds_note(counts, 'bands').capitalize()}. {said}")
    return figure


def draw_panel(axes: Axes, steps: pd.DataFrame, column: str) -> list[int]:
    """One line a method with the interval over seeds as a band; returns the numbers of seeds."""
    counts = []
    for kind, own, look in style.lines(steps[steps[column].notna()], ["method"]):
        points = tables.over_seeds(own, ["step"], column).sort_values("step")
        # The random mask keeps as many tokens as its pair, so its line lies on the other one.
        dashes = {"linestyle": "--"} if kind == "random" else {}
        axes.plot(points["step"], 100 * points["mean"], color=style.colour(kind), **look | dashes)
        band = 100 * points[["low", "high"]]
        axes.fill_between(points["step"], band["low"], band["high"], color=style.colour(kind), alpha=0.2, linewidth=0)
        counts += list(points["seeds"])
    return counts
