"""The shared look of the figures: sizes, type, one colour-blind-safe colour a method, notes on seeds and intervals.

Colours are those of Okabe and Ito (2008), one a method in every figure, and for the controls others that stay apart
from them to the colour-blind; a marker goes with each, so that no figure needs colour alone. Widths are a paper's
column (3.3 in) and page (6.8 in); nothing is printed below 6.5 pt.

No command: imported by the figures.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from textwrap import wrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from profit.files import InputError

COLUMN, PAGE = 3.3, 6.8  # inches
SMALL, NORMAL = 6.5, 7.0  # points
CHARACTERS = 20  # an inch of small type
TITLE = 0.2  # inches

LABELS = {
    "vanilla": "Vanilla",
    "sft": "SFT",
    "sft_multi": "SFT, {references} references",
    "entropy": "Entropy",
    "dft": "DFT",
    "random": "Random mask",
    "keep_low": "Keep-low",
    "profit": "ProFit",
    "sft_matched": "SFT (update norm of {pair})",
    "sft_stopped": "SFT, stopped at {stop:g}",
    "sft_mixed": "SFT, mixed {mix:g}",
    "random_fixed": "Random mask (fixed)",
    "truth_core": "Core mask",
    "truth_replaceable": "Replaceable mask",
    "profit_fixed": "ProFit (base's mask)",
}
COLOURS = {
    "vanilla": "#999999",
    "sft": "#0072B2",
    "sft_multi": "#56B4E9",
    "entropy": "#009E73",
    "dft": "#E69F00",
    "random": "#000000",
    "keep_low": "#CC79A7",
    "profit": "#D55E00",
    "sft_matched": "#332288",
    "sft_stopped": "#1B4F72",
    "sft_mixed": "#C5B0D5",
    "random_fixed": "#543005",
    "truth_core": "#003C30",
    "truth_replaceable": "#999933",
    "profit_fixed": "#A0522D",
}
MARKERS = {
    "vanilla": "x",
    "sft": "s",
    "sft_multi": "D",
    "entropy": "^",
    "dft": "v",
    "random": "P",
    "keep_low": "X",
    "profit": "o",
    "sft_matched": "<",
    "sft_stopped": ">",
    "sft_mixed": "d",
    "random_fixed": "p",
    "truth_core": "+",
    "truth_replaceable": "1",
    "profit_fixed": "H",
}
OTHER_COLOUR, OTHER_MARKER = "#666666", "*"
# Benchmarks as series, where no method is told apart by colour; the average comes last, black and thick.
SERIES = [("#0072B2", "s"), ("#E69F00", "^"), ("#009E73", "D"), ("#CC79A7", "v"), ("#56B4E9", "P"), ("#D55E00", "X")]

BENCHMARKS = {
    "same_length": "Same length",
    "longer": "Longer",
    "choice": "Choice",
    "longest": "Longest",
    "format": "Format",
    "average": "Average",
    "learnt": "Learnt",
    "kept": "Kept",
    "gsm8k": "GSM8K",
    "math_500": "MATH-500",
    "gpqa_diamond": "GPQA-D",
    "aime_2024": "AIME'24",
    "ifeval": "IFEval",
    "hellaswag": "HellaSwag",
    "arc_challenge": "ARC-C",
    "humaneval": "HumanEval",
    "mmlu_pro_history": "MMLU-Pro history",
    "mmlu_pro_chemistry": "MMLU-Pro chemistry",
}
# Lines of methods that differ in a threshold alone.
DASHES = ["-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1.5, 1, 1.5)), (0, (7, 2))]


def apply() -> None:
    """Set matplotlib's defaults for every figure."""
    matplotlib.rcParams.update(
        {
            "font.size": NORMAL,
            "axes.titlesize": NORMAL,
            "axes.labelsize": NORMAL,
            "xtick.labelsize": SMALL,
            "ytick.labelsize": SMALL,
            "legend.fontsize": SMALL,
            "legend.frameon": False,
            "legend.handlelength": 1.6,
            "legend.columnspacing": 1.2,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "lines.linewidth": 1.1,
            "lines.markersize": 3.2,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "grid.color": "#E5E5E5",
            "grid.linewidth": 0.5,
            "figure.constrained_layout.use": True,
            "pdf.fonttype": 42,
            "savefig.dpi": 200,
        }
    )


def label(run: pd.Series, tau: bool = False) -> str:
    """Name of a method as printed, with its threshold where `tau` asks for it."""
    if run["kind"] not in LABELS:
        return str(run["method"]).replace("_", " ")
    pair = str(run["paired_with"])
    values = {key: run[key] for key in ("references", "stop", "mix")} | {"pair": LABELS.get(pair, pair)}
    text = LABELS[run["kind"]].format(**values)
    return f"{text} (τ {run['tau']:g})" if tau and run["kind"] in ("profit", "keep_low") else text


def labels(runs: Iterable[pd.Series], tau: bool = False) -> list[str]:
    """Names of methods as printed, no two the same: the later of one with its learning rate, or with its own name."""
    found: list[str] = []
    rates: dict[str, str] = {}
    for run in runs:
        name, rate = label(run, tau), learning_rate(run["learning_rate"])
        if rate != rates.setdefault(name, rate):
            name = f"{name} at {rate}"
        found.append(str(run["method"]).replace("_", " ") if name in found else name)
    return found


def learning_rate(rate: float) -> str:
    """A learning rate as printed: 1e-4."""
    return np.format_float_scientific(rate, trim="-", exp_digits=1)


def colour(kind_name: str) -> str:
    """Colour of a method."""
    return COLOURS.get(kind_name, OTHER_COLOUR)


def marker(kind_name: str) -> str:
    """Marker of a method."""
    return MARKERS.get(kind_name, OTHER_MARKER)


def series(place: int, count: int) -> dict[str, object]:
    """Colour and marker of the benchmark at `place` of `count`, the average last."""
    if place == count - 1:
        return {"color": "black", "marker": "o", "linewidth": 1.8}
    shade, mark = SERIES[place % len(SERIES)]
    return {"color": shade, "marker": mark}


def benchmark(name: str) -> str:
    """Name of a benchmark as printed."""
    return BENCHMARKS.get(name, name.replace("_", " "))


def columned(name: str) -> str:
    """The same on two lines where it is too long for a column."""
    return "\n".join(wrap(benchmark(name), 11))


def seeds_note(seeds: Sequence[int], interval: str = "bars") -> str:
    """How many seeds stand behind the points and what their interval is."""
    least, most = min(seeds), max(seeds)
    if most == 1:
        return "one seed, descriptive"
    count = f"{least}" if least == most else f"{least}-{most}"
    alone = " (none at one seed)" if least == 1 else ""
    return f"mean of {count} seeds, {interval}: 95 % t interval over seeds{alone}"


def stack(
    models: Sequence[str],
    width: float,
    height: float | Sequence[float],
    draw: Callable[[Figure | SubFigure, str], None],
    named: bool,
) -> Figure:
    """One block a model, of `height` inches (for all, or each), by `draw(block, model)`, below its name if `named`.

    InputError where no model is left to draw.
    """
    if not models:
        raise InputError("table runs: found no run of the sweep or kind that the figure shows, expected some")
    heights = [height] * len(models) if isinstance(height, int | float) else [*height]
    if not named:
        figure = Figure(figsize=(width, heights[0]))
        draw(figure, models[0])
        return figure
    figure = Figure(figsize=(width, TITLE * len(models) + sum(heights)))
    ratios = [inches for own in heights for inches in (TITLE, own)]
    blocks = figure.subfigures(2 * len(models), 1, height_ratios=ratios)
    for title, block, model in zip(blocks[::2], blocks[1::2], models, strict=True):
        title.text(0.01, 0.3, model, fontsize=NORMAL, fontweight="bold", va="center")
        draw(block, model)
    return figure


def lines(runs: pd.DataFrame, by: list[str]) -> Iterator[tuple[str, pd.DataFrame, dict[str, object]]]:
    """Kind, rows, and label and line style of each line of `runs`; lines of one kind differ in style and name."""
    kinds: dict[str, int] = {}
    groups = [rows for _, rows in runs.groupby(by, sort=False, dropna=False)]
    for rows, name in zip(groups, labels((rows.iloc[0] for rows in groups), tau=True), strict=True):
        kind = rows["kind"].iloc[0]
        place = kinds[kind] = kinds.get(kind, -1) + 1
        yield kind, rows, {"label": name, "linestyle": DASHES[place % len(DASHES)]}


def footnote(figure: Figure, *sentences: str) -> None:
    """Print what the reader must know below the axes, as wide as the figure, each of `sentences` on a new line."""
    columns = int(CHARACTERS * figure.get_figwidth())
    text = "\n".join(line for sentence in sentences for line in wrap(sentence, columns))
    figure.supxlabel(text, fontsize=SMALL, x=0.01, ha="left", color="#333333")


def line(axes: Axes, points: pd.DataFrame, x: str, kind_name: str, **options: object) -> Line2D:
    """Draw mean against column `x` in the colour and marker of a method, with intervals where there are some."""
    points = points.sort_values(x)
    options = {"color": colour(kind_name), "marker": marker(kind_name)} | options
    (drawn,) = axes.plot(points[x], points["mean"], **options)
    bars = points[points["low"].notna()]
    axes.vlines(bars[x], bars["low"], bars["high"], color=options["color"], linewidth=0.8)
    return drawn
