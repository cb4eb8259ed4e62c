"""Which tokens each method raised and which it lowered, on held answers, by label and by the base's probability.

A cell is the mean change of log-probability, run less base, in nats (profit.account), of the references that are kept
from every run; white is no change, and one scale of colours serves all methods and models.

python -m profit.draw --figure account …
"""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from profit.figures import style, tables

LABELS = {"core": "Core", "replaceable": "Replaceable", "fixed": "Fixed", "end": "End"}
WHOLE = {"all": "All"}
BIN = ["start", "end"]
COLUMNS = [*tables.RUN_KEYS, "set", "label", "low", "high", "tokens", "change", "raised"]
COLOURS = matplotlib.colormaps["RdBu"]
LINEAR = 0.1  # nats; the scale of colours is logarithmic beyond
RAISED = 0.01  # nats, the threshold of profit.account
FEW = 0.001  # of the tokens: a cell that holds fewer has no colour
CELL, AROUND, BELOW = 0.37, 0.55, 0.9  # inches: a row of cells, title and axis, scale and footnote
GREY = {True: "#777777", False: "#CCCCCC"}  # on a light cell and on a dark one


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs and account; the paper has nothing of the kind."""
    cells = tables.load(folder, "account", COLUMNS)
    cells = cells[cells["set"] == "held"].rename(columns={"low": "start", "high": "end"})
    cells = cells.merge(tables.load_runs(folder), on=tables.RUN_KEYS, validate="many_to_one")
    cells = cells.sort_values("kind", key=lambda kinds: kinds.map(tables.order), kind="stable")
    whole = cells[(cells["label"] == "all") & (cells["start"] == 0) & (cells["end"] == 1)]
    of_run = whole.set_index(tables.RUN_KEYS)["tokens"].rename("tokens_of_run")
    cells = cells.join(of_run, on=tables.RUN_KEYS)
    cells["share"] = cells["tokens"] / cells["tokens_of_run"]
    rows = LABELS if (cells["label"] != "all").any() else WHOLE
    cells = cells[cells["label"].isin(rows) & (cells["tokens"] > 0)]
    by = ["model", "method", "label", *BIN]
    means = tables.over_seeds(cells, by, "change").set_index(by)
    means = means.join(cells.groupby(by)[["share", "raised"]].mean()).reset_index()
    end = max(means["mean"].abs().max(), 2 * LINEAR)
    norm = SymLogNorm(LINEAR, vmin=-end, vmax=end)
    most = cells.groupby("model")["method"].nunique().max()
    columns, lines = min(most, 2), -(-most // 2)

    def block(figure: Figure | SubFigure, model: str) -> None:
        own = cells[cells["model"] == model]
        panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        for axes in panels[own["method"].nunique() :]:
            axes.set_axis_off()
        for axes, (method, runs) in zip(panels, own.groupby("method", sort=False), strict=False):
            draw_cells(axes, means[(means["model"] == model) & (means["method"] == method)], list(rows), norm)
            axes.set_title(style.label(runs.iloc[0], tau=True), loc="left")
            axes.set_yticks(range(len(rows)), list(rows.values()))
        add_scale(figure, [*panels], norm)

    models = tables.models(cells)
    height = lines * (CELL * len(rows) + AROUND) + BELOW
    figure = style.stack(models, style.PAGE, height, block, named=len(models) > 1)
    style.footnote(figure, note(means["seeds"]))
    return figure


def draw_cells(axes: Axes, cells: pd.DataFrame, labels: list[str], norm: Normalize) -> None:
    """A row a label, a column a bin of the base's probability, and apart from them the row of all bins."""
    edges = sorted({*cells["start"], *cells["end"]})
    for cell in cells.to_dict("records"):
        y, whole = labels.index(cell["label"]), cell["start"] == 0 and cell["end"] == 1
        x = len(edges) - 0.7 if whole else edges.index(cell["start"])
        colour = COLOURS(norm(cell["mean"])) if cell["share"] >= FEW else (1.0, 1.0, 1.0)
        light = np.dot(colour[:3], (0.299, 0.587, 0.114)) > 0.5
        axes.add_patch(Rectangle((x, y - 0.5), 1, 1, facecolor=colour, edgecolor="#BBBBBB", linewidth=0.4))
        unsure = cell["low"] <= 0 <= cell["high"]
        print_cell(axes, x + 0.5, y, cell, GREY[light] if unsure else "black" if light else "white", light)
    axes.set_xlim(-0.05, len(edges) + 0.35)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_xticks([*range(len(edges)), len(edges) - 0.2], [*(f"{edge:g}" for edge in edges), "all"])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("probability under the base")


def print_cell(axes: Axes, x: float, y: int, cell: dict[str, float], colour: str, light: bool) -> None:
    """The change, below it the share of the tokens and the share of those that are raised."""
    share = f"{100 * cell['share']:.1f} %" if cell["share"] >= FEW else f"<{100 * FEW:g} %"
    change = f"{cell['mean']:+.2f}".replace("-", "−") if abs(cell["mean"]) >= 0.005 else "0.00"
    axes.text(x, y - 0.28, change, ha="center", va="center", color=colour, fontweight="bold", fontsize=style.SMALL)
    small = f"{share}\n↑{100 * cell['raised']:.0f} %"
    axes.text(
        x, y + 0.15, small, ha="center", va="center", color="#444444" if light else "white", fontsize=style.SMALL,
        linespacing=1.0,
    )  # fmt: skip


def add_scale(figure: Figure | SubFigure, panels: list[Axes], norm: Normalize) -> None:
    """The scale of colours, below the cells."""
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=panels, location="bottom", aspect=60, shrink=0.6, pad=0.05)
    ticks = [0.0, *(sign * size for size in (LINEAR, 1, 10) for sign in (-1, 1) if size <= norm.vmax)]
    bar.set_ticks(sorted(ticks))
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:+g}".replace("-", "−") if tick else "0"))
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.set_label("mean change of log-probability, nats")


def note(seeds: pd.Series) -> str:
    """How a cell is read, and how many seeds there are."""
    said = "In a cell: change (blue: more probable than under the base); share of all held tokens; ↑ share of the "
    said += f"cell's tokens that rose by more than {RAISED:g} nats; no colour: under {100 * FEW:g} % of the tokens. "
    said += "Held references, which no run learns from. "
    if seeds.max() == 1:
        return f"{said}One seed, descriptive."
    count = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()}-{seeds.max()}"
    return f"{said}Mean of {count} seeds; grey: the 95 % t interval over seeds contains 0."
