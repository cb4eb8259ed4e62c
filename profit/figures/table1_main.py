"""Table 1 as a picture: method by benchmark, mean and 95 % t interval over seeds, what was learnt, kept and gained.

A mean is bold where it is the highest of its column and the interval of its paired difference to SFT lies above zero.

python -m profit.draw --figure table1_main …
"""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from profit.figures import style, tables

COLUMNS = ["mean", "low", "high", "seeds", "difference_vs_sft", "difference_low", "difference_high"]
ROW = 0.22  # inches
NAME, CELL, DIFFERENCE = 1.16, 0.64, 1.08  # inches


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs and main, and the paper's Table 1."""
    main = tables.load(folder, "main", ["model", "method", "benchmark", *COLUMNS])
    runs = tables.load_runs(folder).drop_duplicates(["model", "method"])
    main = main.merge(runs[["model", "method", "kind", "references", "tau"]], on=["model", "method"])
    main = main.sort_values("kind", key=lambda kinds: kinds.map(style.order), kind="stable")
    main["name"] = main.apply(style.label, axis=1, tau=True)
    # Where several methods would be printed alike, all but the first of the study by the names that it gives them.
    first = main.groupby(["model", "name"])["method"].transform("first")
    main["name"] = main["name"].where(main["method"] == first, main["method"].str.replace("_", " "))
    paper = tables.load_published(published, "table1")
    paper = paper[paper["model"] == style.PAPER_MODEL]
    ours, theirs = main.groupby("model")["method"].nunique().max(), paper["method"].nunique()
    height = (ours + theirs + 1.9) * ROW + 0.64

    def block(figure: Figure | SubFigure, model: str) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, style.PAGE), ylim=(height, 0))
        axes.set_axis_off()
        own = main[main["model"] == model]
        names = columns_of(own)
        header(axes, names)
        y = 2.1 * ROW
        for _, rows in own.groupby("method", sort=False):
            method_row(axes, y, rows.set_index("benchmark"), names, own)
            y += ROW
        rule(axes, y - 0.55 * ROW, 0.4)
        paper_rows(axes, y + 0.25 * ROW, paper, names)
        note = (
            "Accuracy (%): mean ± half width of the 95 % t interval over n seeds (one seed: descriptive, none). "
            "Δ: difference of\nthe averages to SFT in points [95 % paired t interval]. Bold: highest of its column, "
            "if the interval of its difference to SFT lies\nabove zero. Grey: paper, "
            f"{style.PAPER_MODEL}, one checkpoint each, mean kept and Δ computed; each of its benchmarks stands below "
            "ours in\nits place."
        )
        axes.text(0.05, height - 0.05, note, fontsize=style.SMALL, va="bottom", color="#333333", linespacing=1.3)

    figure = style.stack(tables.models(main), style.PAGE, height, block)
    figure.set_layout_engine("none")
    return figure


def columns_of(main: pd.DataFrame) -> list[str]:
    """Columns in print: what was learnt, the other benchmarks, the mean of those, the mean of all."""
    found = list(dict.fromkeys(main["benchmark"]))
    single = [name for name in found if name not in ("average", "learnt", "kept")]
    return [*single, *[name for name in ("kept", "average") if name in found]]


def header(axes: Axes, names: list[str]) -> None:
    """Two lines: learnt and kept above the benchmarks' names."""
    axes.text(NAME, 1.15 * ROW, "n", ha="center", va="center", fontstyle="italic")
    for place, name in enumerate(names):
        text = {"kept": "Mean kept", "average": "Average"}.get(name, style.benchmark(name))
        axes.text(centre(place), 1.15 * ROW, text, ha="center", va="center")
    axes.text(
        NAME + 0.06 + len(names) * CELL + DIFFERENCE / 2, 1.15 * ROW, "Δ average to SFT", ha="center", va="center"
    )
    if "kept" in names:
        last = names.index("kept")
        for first, end, text in ((0, 0, "learnt"), (1, last, "kept")):
            axes.text((centre(first) + centre(end)) / 2, 0.4 * ROW, text, ha="center", va="center", fontweight="bold")
            left, right = centre(first) - 0.42 * CELL, centre(end) + 0.42 * CELL
            axes.plot([left, right], [0.75 * ROW] * 2, color="black", linewidth=0.4)
    rule(axes, 1.55 * ROW, 0.8)


def method_row(axes: Axes, y: float, row: pd.DataFrame, names: list[str], everything: pd.DataFrame) -> None:
    """One method of the study."""
    first = row.iloc[0]
    axes.plot(0.1, y, style.marker(first["kind"]), color=style.colour(first["kind"]))
    axes.text(0.2, y, first["name"], va="center")
    axes.text(NAME, y, f"{first['seeds']}", ha="center", va="center")
    for place, name in enumerate(names):
        cell = row.loc[name]
        best = cell["mean"] >= everything.loc[everything["benchmark"] == name, "mean"].max()
        bold = best and cell["difference_low"] > 0
        half = 100 * (cell["high"] - cell["mean"])
        spread = "" if pd.isna(half) else f" ±{half:.1f}"
        number = f"{100 * cell['mean']:.1f}"
        axes.text(centre(place), y, number, ha="right", va="center", fontweight="bold" if bold else "normal")
        axes.text(centre(place), y, spread, ha="left", va="center", fontsize=style.SMALL, color="#555555")
    gain = row.loc["average"]
    if not pd.isna(gain["difference_vs_sft"]):
        axes.text(NAME + 0.06 + len(names) * CELL + DIFFERENCE / 2, y, difference(gain), ha="center", va="center")


def paper_rows(axes: Axes, y: float, paper: pd.DataFrame, names: list[str]) -> None:
    """The published rows; the mean kept and the difference to SFT are computed from its printed cells."""
    average = paper[paper["benchmark"] == "average"].set_index("method")["accuracy"]
    others = [style.STANDS_FOR[name] for name in names[1:] if name in style.STANDS_FOR]
    for method in dict.fromkeys(paper["method"]):
        cells = paper[paper["method"] == method].set_index("benchmark")["accuracy"]
        axes.text(0.2, y, f"{style.LABELS[method]} (paper)", va="center", color="#555555")
        axes.text(NAME, y, "1", ha="center", va="center", color="#555555")
        for place, name in enumerate(names):
            value = cells[others].mean() if name == "kept" and others else cells.get(style.STANDS_FOR.get(name, name))
            if value is not None:
                axes.text(centre(place), y, f"{value:.1f}", ha="right", va="center", color="#555555")
        if method != "sft":
            text = f"{average[method] - average['sft']:+.1f}".replace("-", "−")
            axes.text(
                NAME + 0.06 + len(names) * CELL + DIFFERENCE / 2, y, text, ha="center", va="center", color="#555555"
            )
        y += ROW
    rule(axes, y - 0.5 * ROW, 0.8)


def centre(place: int) -> float:
    """Where the numbers of a column end, in inches."""
    return NAME + 0.06 + (place + 0.5) * CELL


def rule(axes: Axes, y: float, width: float) -> None:
    """A horizontal line across the table."""
    axes.plot([0.05, style.PAGE - 0.05], [y, y], color="black", linewidth=width)


def difference(cell: pd.Series) -> str:
    """A paired difference in points with its interval, where there is one."""
    text = f"{100 * cell['difference_vs_sft']:+.1f}"
    if pd.notna(cell["difference_low"]):
        text += f" [{100 * cell['difference_low']:+.1f}, {100 * cell['difference_high']:+.1f}]"
    return text.replace("-", "−")
