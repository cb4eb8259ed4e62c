"""The main tables as a picture: method by benchmark, mean and 95 % t interval over seeds, learnt, kept and gained.

Table by table and model by model; below a method, in grey, the paper's numbers of the same model and benchmarks. A
study none of whose models the paper has shows the paper's rows of one model instead, for Table 1. A mean is bold where
it is the highest of its column and the interval of its paired difference to SFT lies above zero.

python -m profit.draw --figure table1_main …
"""

from collections.abc import Callable
from pathlib import Path
from textwrap import wrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from profit.figures import style, tables
from profit.figures.tables import PAPER_MODEL, STANDS_FOR
from profit.published import METHODS, TABLES, ours_of, printed, printed_cells, title

COLUMNS = ["mean", "low", "high", "seeds", "difference_vs_sft", "difference_low", "difference_high"]
ROW, PAPER_ROW, NOTE = 0.22, 0.17, 0.125  # inches
NAME, CELL, DIFFERENCE = 1.16, 0.64, 1.08  # inches
GREY = "#555555"
# Height of a line in inches, and what draws it at its middle.
Line = tuple[float, Callable[[Axes, float], None]]


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs and main, and the paper's Tables 1 to 3."""
    main = named(tables.load(folder, "main", ["table", "model", "method", "benchmark", *COLUMNS]), folder)
    settings = tables.load(
        folder, "runs", ["group", "model", "method", *{key: 0 for each in METHODS.values() for key in each}]
    )
    paper = printed(published)
    foreign = not set(main["model"]) & set(paper["model"])
    several, lines = main["table"].nunique() > 1 or main["model"].nunique() > 1, list[Line]()
    widest = max(len(columns_of(own)) for _, own in main.groupby("table"))
    width = max(style.PAGE, difference_at(widest) + DIFFERENCE / 2)
    for table, own in main.groupby("table", sort=False):
        names = columns_of(own)
        lines += header(str(table) if main["table"].nunique() > 1 else "", names, width)
        for model, rows in own.groupby("model", sort=False):
            lines += model_name(str(model)) if several else []
            cells = printed_cells(paper, str(model), names)
            matched = {ours_of(settings, str(model), name): name for name in cells.columns}
            lines += model_lines(rows, names, cells, matched)
        lines += [rule(width, 0.8)]
        if foreign and table == TABLES[0]:
            lines.pop()
            cells = printed_cells(paper, PAPER_MODEL, [STANDS_FOR.get(name, name) for name in names])
            lines += [rule(width, 0.4), *paper_lines(cells, names), rule(width, 0.8)]
    note = footnote(width, foreign, "learnt" in set(main["benchmark"]))
    height = sum(size for size, _ in lines) + len(note) * NOTE + 0.15
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    y = 0.0
    for size, line in lines:
        line(axes, y + size / 2)
        y += size
    axes.text(
        0.05, height - 0.05, "\n".join(note), fontsize=style.SMALL, va="bottom", color="#333333", linespacing=1.3
    )
    return figure


def named(main: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Table main with kind and printed name of each method."""
    runs = tables.load_runs(folder).drop_duplicates(["model", "method"])
    main = main.merge(runs[["model", "method", "kind", "references", "tau", *tables.CHANGES]], on=["model", "method"])
    main["name"] = main.apply(style.label, axis=1, tau=True)
    # Where several methods would be printed alike, all but the first of the study by the names that it gives them.
    first = main.groupby(["model", "name"])["method"].transform("first")
    main["name"] = main["name"].where(main["method"] == first, main["method"].str.replace("_", " "))
    return main


def footnote(width: float, foreign: bool, learnt: bool) -> list[str]:
    """What the reader must know, line by line."""
    text = (
        "Accuracy (%): mean ± half width of the 95 % t interval over n seeds (one seed: descriptive, none). "
        "Δ: difference of the averages to SFT in points [95 % paired t interval]. Bold: highest of its column, "
        "if the interval of its difference to SFT lies above zero. Grey: paper, "
    )
    if foreign:
        means = "mean kept and Δ" if learnt else "Δ"
        text += f"{PAPER_MODEL}, one checkpoint each, {means} computed"
        text += "; each of its benchmarks stands below ours in its place." if learnt else "."
    else:
        text += "the same model and benchmarks, one checkpoint each, Δ computed; "
        text += "below ours where the method's settings and epochs are the paper's."
    return wrap(text, int(style.CHARACTERS * width))


def columns_of(main: pd.DataFrame) -> list[str]:
    """Columns in print: what was learnt, the other benchmarks, the mean of those, the mean of all (of several)."""
    found = list(dict.fromkeys(main["benchmark"]))
    single = [name for name in found if name not in tables.MEANS]
    return [*single, *[name for name in ("kept", "average") if name in found and len(single) > 1]]


def header(table: str, names: list[str], width: float) -> list[Line]:
    """The table's title, where there are several; learnt and kept above the benchmarks' names; those; a rule."""
    columns = [{"kept": "Mean kept", "average": "Average"}.get(name, style.columned(name)) for name in names]

    def groups(axes: Axes, y: float) -> None:
        last = names.index("kept")
        for first, end, text in ((0, 0, "learnt"), (1, last, "kept")):
            axes.text((centre(first) + centre(end)) / 2, y, text, ha="center", va="center_baseline", fontweight="bold")
            left, right = centre(first) - 0.42 * CELL, centre(end) + 0.42 * CELL
            axes.plot([left, right], [y + 0.35 * ROW] * 2, color="black", linewidth=0.4)

    def heads(axes: Axes, y: float) -> None:
        axes.text(NAME, y, "n", ha="center", va="center_baseline", fontstyle="italic")
        for place, text in enumerate(columns):
            axes.text(centre(place), y, text, ha="center", va="center_baseline", linespacing=1)
        axes.text(
            difference_at(len(names)),
            y,
            "Δ average to SFT" if names[1:] else "Δ to SFT",
            ha="center",
            va="center_baseline",
        )

    lines = [(1.4 * ROW, text_line(title(table), "bold"))] if table else []
    lines += [(0.8 * ROW, groups)] if "kept" in names else []
    return [*lines, (ROW * (1 + 0.5 * any("\n" in text for text in columns)), heads), rule(width, 0.8)]


def model_name(model: str) -> list[Line]:
    """A line with the name of a model."""
    return [(1.1 * ROW, text_line(model, "bold"))]


def text_line(text: str, weight: str) -> Callable[[Axes, float], None]:
    """What prints a text at the left edge."""
    return lambda axes, y: axes.text(0.05, y, text, va="center_baseline", fontweight=weight)


def model_lines(
    main: pd.DataFrame, names: list[str], printed: pd.DataFrame, matched: dict[str | None, str]
) -> list[Line]:
    """The study's methods on one model, below each the paper's row of it, and last the paper's further methods."""
    lines, left = list[Line](), list(printed.columns)
    ordered = main.sort_values("kind", key=lambda kinds: kinds.map(tables.order), kind="stable")
    for method, rows in ordered.groupby("method", sort=False):
        cells = rows.set_index("benchmark")
        lines.append((ROW, lambda axes, y, cells=cells: method_row(axes, y, cells, names, main)))
        if method in matched:
            left.remove(matched[str(method)])
            lines += paper_lines(printed, names, [matched[str(method)]], PAPER_ROW)
    return lines + paper_lines(printed, names, left, PAPER_ROW)


def paper_lines(
    printed: pd.DataFrame, names: list[str], methods: list[str] | None = None, size: float = ROW
) -> list[Line]:
    """Published rows; the mean kept and the difference to SFT are computed from printed cells."""
    others = [STANDS_FOR[name] for name in names[1:] if name in STANDS_FOR]

    def row(axes: Axes, y: float, method: str) -> None:
        cells = printed[method]
        axes.text(0.2, y, f"{style.LABELS[method]} (paper)", va="center_baseline", color=GREY)
        axes.text(NAME, y, "1", ha="center", va="center_baseline", color=GREY)
        for place, name in enumerate(names):
            value = cells[others].mean() if name == "kept" else cells.get(STANDS_FOR.get(name, name))
            if value is not None:
                axes.text(centre(place), y, f"{value:.1f}", ha="right", va="center_baseline", color=GREY)
        if method != "sft" and "average" in cells:
            text = f"{cells['average'] - printed.loc['average', 'sft']:+.1f}".replace("-", "−")
            axes.text(difference_at(len(names)), y, text, ha="center", va="center_baseline", color=GREY)

    methods = list(printed.columns) if methods is None else methods
    return [(size, lambda axes, y, method=method: row(axes, y, method)) for method in methods]


def method_row(axes: Axes, y: float, row: pd.DataFrame, names: list[str], everything: pd.DataFrame) -> None:
    """One method of the study."""
    first = row.iloc[0]
    axes.plot(0.1, y, style.marker(first["kind"]), color=style.colour(first["kind"]))
    name = wrap(first["name"], 17)
    axes.text(
        0.2,
        y,
        "\n".join(name),
        va="center_baseline",
        fontsize=style.SMALL if name[1:] else style.NORMAL,
        linespacing=0.9,
    )
    axes.text(NAME, y, f"{first['seeds']}", ha="center", va="center_baseline")
    for place, name in enumerate(names):
        cell = row.loc[name]
        best = cell["mean"] >= everything.loc[everything["benchmark"] == name, "mean"].max()
        bold = best and cell["difference_low"] > 0
        half = 100 * (cell["high"] - cell["mean"])
        spread = "" if pd.isna(half) else f" ±{short(half)}"
        number = f"{100 * cell['mean']:.1f}"
        axes.text(centre(place), y, number, ha="right", va="center_baseline", fontweight="bold" if bold else "normal")
        axes.text(centre(place), y, spread, ha="left", va="center_baseline", fontsize=style.SMALL, color=GREY)
    gain = row.loc["average"]
    if not pd.isna(gain["difference_vs_sft"]):
        axes.text(difference_at(len(names)), y, difference(gain), ha="center", va="center_baseline")


def centre(place: int) -> float:
    """Where the numbers of a column end, in inches."""
    return NAME + 0.06 + (place + 0.5) * CELL


def difference_at(columns: int) -> float:
    """Middle of the differences, in inches."""
    return NAME + 0.06 + columns * CELL + DIFFERENCE / 2


def rule(width: float, thick: float) -> Line:
    """A horizontal line across the table."""
    return 0.1, lambda axes, y: axes.plot([0.05, width - 0.05], [y, y], color="black", linewidth=thick)


def difference(cell: pd.Series) -> str:
    """A paired difference in points with its interval, where there is one."""
    text = f"{100 * cell['difference_vs_sft']:+.1f}"
    if pd.notna(cell["difference_low"]):
        text += f" [{short(100 * cell['difference_low'], '+')}, {short(100 * cell['difference_high'], '+')}]"
    return text.replace("-", "−")


def short(number: float, sign: str = "") -> str:
    """One decimal; none for the three digits that an interval of two seeds may have."""
    return f"{number:{sign}.{0 if abs(number) >= 99.95 else 1}f}"
