"""Accuracy against drift from the base: every method beside the paths that SFT takes from the base (equal_drift).

python -m profit.draw --figure drift …
"""

import math
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from profit.equal_drift import DRIFT, paths, with_drift
from profit.figures import style, tables

# How the footnote calls the line of each path, in the order of style.DASHES.
LINES = {
    "learning rate": "solid, at other learning rates",
    "stopping": "dashed, stopped early",
    "mixing": "dotted, mixed with the base's weights",
}
# Of the first, second and further methods of a kind, which share its colour and marker.
FILLS = ("full", "none", "top", "left")
COLUMNS = 2
# Inches: axes with their labels, a row of the legend.
AXES, ROW = 2.2, 0.14


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables drift, runs, evaluations and main; the paper measures no drift."""
    accuracies = tables.load_accuracies(folder)
    final = accuracies[(accuracies["checkpoint"] == "final") & (accuracies["benchmark"] == "average")]
    measured = with_drift(final, tables.load(folder, "drift", [*tables.RUN_KEYS, "part", DRIFT]))
    base = final[final["kind"] == "vanilla"].assign(**{DRIFT: 0.0})
    models = tables.models(measured)
    every = with_looks(pd.concat([tables.first_methods(base, ["model"]), measured]))
    points_of = {model: means(every[every["model"] == model]) for model in models}
    counts: list[int] = []
    named: set[str] = set()
    legends: dict[str, float] = {}
    for model, points in points_of.items():
        counts += points["seeds"].tolist()
        # Bases share one legend where it names all of their methods.
        new = set(points["method"]) - named
        legends[model] = ROW * math.ceil(len(points) / COLUMNS) * bool(new)
        named |= new
    taken: dict[str, None] = {}

    def block(figure: Figure | SubFigure, model: str) -> None:
        runs, moved, start = (rows[rows["model"] == model] for rows in (final, measured, base))
        sft = tables.first_methods(runs[runs["kind"] == "sft"], ["kind"])
        points, axes = points_of[model], figure.subplots()
        for name, members in paths(moved, sft).items() if len(sft) else ():
            ends = [*start["method"].unique()[:1], *sft["method"].unique()]
            dashes = style.DASHES[list(LINES).index(name)]
            draw_path(axes, points[points["method"].isin([*members, *ends])], dashes)
            taken[name] = None
        draw_points(axes, points)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("drift from the base (nats a token)")
        axes.set_ylabel("average accuracy (%)")
        if legends[model]:
            spaces = {"handlelength": 1.0, "columnspacing": 1.0, "labelspacing": 0.25}
            figure.legend(loc="outside upper left", ncols=COLUMNS, **spaces)

    heights = [AXES + legend for legend in legends.values()]
    figure = style.stack(models, style.COLUMN, heights, block, named=final["model"].nunique() > 1)
    said = "; ".join(words for name, words in LINES.items() if name in taken)
    style.footnote(
        figure,
        "Drift: KL(base || run) over the held references." + (f" Lines from vanilla to SFT: {said}." if said else ""),
        f"{style.seeds_note(counts).capitalize()}; the accuracy axis does not start at zero.",
    )
    return figure


def with_looks(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with the name and the fill of their method, the same on all bases."""
    first = in_order(runs.drop_duplicates("method"))
    fills = [FILLS[place % len(FILLS)] for place in first.groupby("kind").cumcount()]
    names = style.labels(row for _, row in first.iterrows())
    return runs.merge(pd.DataFrame({"method": first["method"], "name": names, "fill": fills}), on="method")


def means(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a method, in the order of legends: its settings and looks, mean drift `x`, accuracy `y`, intervals."""
    first = runs.drop_duplicates("method").set_index("method", drop=False)
    for axis, column in (("x", DRIFT), ("y", "accuracy")):
        found = tables.over_seeds(runs, ["method"], column).set_index("method")
        first = first.assign(**{axis: found["mean"], f"{axis}_low": found["low"], f"{axis}_high": found["high"]})
    return in_order(first.assign(seeds=found["seeds"]))


def in_order(methods: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of legends."""
    return methods.sort_values("kind", key=lambda kinds: kinds.map(tables.order), kind="stable")


def draw_path(axes: Axes, points: pd.DataFrame, dashes: object) -> None:
    """The line through the base, the members of a path and SFT, in the colour of its first member that is not SFT."""
    points = points.sort_values("x")
    kinds = points.loc[~points["kind"].isin(["vanilla", "sft"]), "kind"].tolist()
    axes.plot(points["x"], points["y"], linestyle=dashes, color=style.colour((kinds or ["sft"])[0]), zorder=1.5)


def draw_points(axes: Axes, points: pd.DataFrame) -> None:
    """A marker a method, with its intervals over seeds both ways."""
    for _, row in points.iterrows():
        colour = style.colour(row["kind"])
        look = {"color": colour, "fillstyle": row["fill"], "markerfacecoloralt": "white"}
        look |= {"markersize": 4.5, "markeredgewidth": 1.2}
        axes.plot(row["x"], row["y"], style.marker(row["kind"]), label=row["name"], **look)
        if row["seeds"] > 1:
            axes.hlines(row["y"], row["x_low"], row["x_high"], color=colour, linewidth=0.6)
            axes.vlines(row["x"], row["y_low"], row["y_high"], color=colour, linewidth=0.6)
