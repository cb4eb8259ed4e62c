"""Where a method beats SFT: a map a learning rate, references from left to right, bases of more skill above.

Right of each map stands the mean over all references, by seed.

Rows of maps: ProFit, then the core mask, which knows what ProFit guesses; average, what was learnt, what was kept.

python -m profit.draw --figure phase …
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from profit.figures import style, tables
from profit.files import InputError
from profit.phase import ALL

METHODS = ("profit", "truth_core")
REFERENCES = ["rare_in_references", "wording_lean"]
COLUMNS = ["model", "method", "kind", "learning_rate", "benchmark", "base", "pretraining_steps", *REFERENCES, "skill"]
COLUMNS += ["core_low", "replaceable_probability", "difference", "seeds", "sign"]
# Inches: of a cell, above a map, of all that stands below the last.
CELL, ABOVE, BELOW = 0.18, 0.25, 1.9
# SFT's colour below zero, ProFit's above.
COLOURS = LinearSegmentedColormap.from_list("lead", [style.COLOURS["sft"], "#FFFFFF", style.COLOURS["profit"]])
HATCH, UNSURE = "#DDDDDD", "#444444"


def draw(folder: Path, published: Path) -> Figure:
    """Draw from table phase; the paper has no such figure."""
    cells = tables.load(folder, "phase", COLUMNS)
    cells = tables.first_methods(cells[cells["kind"].isin(METHODS)], ["kind"])
    drawn = set(zip(cells["kind"], cells["benchmark"], strict=True))
    rows = [(kind, name) for kind in METHODS for name in tables.MEANS if (kind, name) in drawn]
    if not rows:
        raise InputError("table phase: found neither ProFit nor the core mask at a rate of SFT, expected one of them")
    cells = cells.assign(points=100 * cells["difference"])
    bases = list(cells.groupby("base")["skill"].mean().sort_values().index)
    met = cells.loc[cells["model"] != ALL, REFERENCES].drop_duplicates().sort_values(REFERENCES, ascending=False)
    rates = sorted(cells["learning_rate"].unique())
    largest = cells["points"].abs().max()
    colours = ScalarMappable(Normalize(-largest, largest), COLOURS)
    figure = Figure(figsize=(style.PAGE, BELOW + len(rows) * (ABOVE + CELL * len(bases))))
    maps = figure.subplots(len(rows), len(rates), squeeze=False, sharex=True, sharey=True)
    for line, (kind, name) in zip(maps, rows, strict=True):
        own = cells[(cells["kind"] == kind) & (cells["benchmark"] == name)]
        for axes, rate in zip(line, rates, strict=True):
            draw_map(axes, own[own["learning_rate"] == rate], bases, met, colours)
        weight = "bold" if name == "average" else "normal"
        line[0].set_title(
            f"{style.LABELS[kind]} − SFT: {style.benchmark(name).lower()}", loc="left", fontweight=weight
        )
    for axes, rate in zip(maps[-1], rates, strict=True):
        axes.set_xlabel(f"learning rate {style.learning_rate(rate)}")
    name_axes(maps[-1], maps[:, 0], cells, bases, met)
    figure.colorbar(colours, ax=maps, label="difference to SFT (points)", shrink=0.5, aspect=40, pad=0.01)
    style.footnote(figure, *notes(cells, bases))
    return figure


def draw_map(axes: Axes, cells: pd.DataFrame, bases: list[str], met: pd.DataFrame, colours: ScalarMappable) -> None:
    """A cell with its number a base and kind of references; one whose sign is not sure is hatched, its number grey."""
    kinds = [(cells[REFERENCES] == references).all(axis=1) for references in met.itertuples(index=False, name=None)]
    for column, chosen in enumerate([*kinds, cells["model"] == ALL]):
        here = cells[chosen].set_index("base")
        for row, base in enumerate(bases):
            if base not in here.index:
                continue
            points, sure = here.loc[base, "points"], here.loc[base, "sign"] != "unsure"
            place = (column - 0.5, row - 0.5)
            hatch = {} if sure else {"hatch": "////", "edgecolor": HATCH}
            axes.add_patch(Rectangle(place, 1, 1, facecolor=colours.to_rgba(points), linewidth=0, **hatch))
            look = {"fontweight": "bold", "color": "black"} if sure else {"color": UNSURE}
            text = f"{points:+.{1 if abs(points) < 9.95 else 0}f}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", fontsize=style.SMALL, **look)
    axes.set_xlim(-0.5, len(met) + 0.5)
    axes.set_ylim(-0.5, len(bases) - 0.5)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    # References of another share of the rare operation stand apart, and the mean over all.
    for column in [*np.flatnonzero(np.diff(met[REFERENCES[0]])), len(met) - 1]:
        axes.axvline(column + 0.5, color="white", linewidth=4)


def name_axes(bottom: np.ndarray, left: np.ndarray, cells: pd.DataFrame, bases: list[str], met: pd.DataFrame) -> None:
    """What stands in the columns, below the lowest maps, and the skill of each base, beside those on the left."""
    measured = {"p of replaceable (%)": "replaceable_probability", "core under 0.1 (%)": "core_low"}
    columns = []
    for references in met.itertuples(index=False, name=None):
        own = cells[(cells[REFERENCES] == references).all(axis=1)]
        rare, lean = references
        spans = [span(own[column]) for column in measured.values()]
        columns.append("\n".join([f"{lean:g}".replace("-", "−"), f"{100 * rare:g}", *spans]))
    for axes in bottom:
        axes.set_xticks(range(len(met) + 1), [*columns, ALL])
    where = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right", "va": "top"}
    bottom[0].annotate(
        "\n".join(["wording's lean", "rare operation (%)", *measured]),
        (0, 0),
        (-4, -3.5),
        fontsize=style.SMALL,
        **where,
    )
    skills = cells.groupby(["base", "rare_in_references"])["skill"].first().unstack().loc[bases]
    shown = [" | ".join(percent(value) for value in row[::-1]) for row in skills.to_numpy()]
    for axes in left:
        axes.set_yticks(range(len(bases)), shown)


def percent(share: float) -> str:
    """A share in per cent, whole; a dash where nothing was measured."""
    return "–" if np.isnan(share) else f"{100 * share:.0f}"


def span(shares: pd.Series) -> str:
    """Least and most of some shares, in per cent."""
    low, high = 100 * shares.min(), 100 * shares.max()
    digits = 0 if high >= 10 else 1
    ends = [f"{end:.{digits}f}" for end in (low, high)]
    return "–".join(dict.fromkeys(ends))


def notes(cells: pd.DataFrame, bases: list[str]) -> list[str]:
    """What the reader must know to read the maps."""
    steps = ", ".join(cells.groupby("base")["pretraining_steps"].first().loc[bases].map(str))
    seeds = cells["seeds"]
    count = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()}-{seeds.max()}"
    return [
        f"Left: accuracy of the base (%) on problems like the references, from below after {steps} steps of "
        "pretraining; by share of the rare operation in them, as in the columns. Lean of the wording: 1 the base's "
        "own, −1 its inverse. p: mean probability of replaceable tokens under the bases; core under 0.1: share of the "
        "core tokens with p ≤ 0.1 there.",
        f"Numbers: mean of {count} seeds, paired; all: over all references, by seed. Bold: sign sure at a false "
        "discovery rate of 5 % over the maps of the row, the means apart; grey and hatched: not sure.",
    ]
