"""The shared look of the figures: sizes, type, one colour-blind-safe colour a method, notes on seeds and intervals.

Colours are those of Okabe and Ito (2008), one a method in every figure; a marker goes with each, so that no figure
needs colour alone. Widths are a paper's column (3.3 in) and page (6.8 in); nothing is printed below 6.5 pt.

No command: imported by the figures.
"""

from collections.abc import Callable, Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

COLUMN, PAGE = 3.3, 6.8  # inches
SMALL, NORMAL = 6.5, 7.0  # points

# In the order of legends and table rows.
LABELS = {
    "vanilla": "Vanilla",
    "sft": "SFT",
    "sft_multi": "SFT, {references} references",
    "entropy": "Entropy",
    "dft": "DFT",
    "random": "Random mask",
    "keep_low": "Keep-low",
    "profit": "ProFit",
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
}
# The column of the paper's Table 1 whose place a miniature benchmark takes.
STANDS_FOR = {
    "same_length": "gsm8k",
    "longer": "math_500",
    "choice": "gpqa_diamond",
    "longest": "aime_2024",
    "format": "ifeval",
}
PAPER_MODEL = "Qwen3-4B-Base"


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


def kind(run: pd.Series) -> str:
    """Which method a row of table `runs` is, by its attributes, so that a study may name its methods as it likes."""
    if run["objective"] == "profit":
        return "keep_low" if run["direction"] == "lower" else "profit"
    if run["objective"] == "sft" and run["references"] > 1:
        return "sft_multi"
    return str(run["objective"])


def order(kind_name: str) -> int:
    """Place of a method in legends and tables; unknown ones come last."""
    return list(LABELS).index(kind_name) if kind_name in LABELS else len(LABELS)


def label(run: pd.Series, tau: bool = False) -> str:
    """Name of a method as printed, with its threshold where `tau` asks for it."""
    text = LABELS.get(run["kind"], str(run["method"])).format(references=run["references"])
    return f"{text} (τ {run['tau']:g})" if tau and run["kind"] in ("profit", "keep_low") else text


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
    return BENCHMARKS.get(name, name)


def seeds_note(seeds: Sequence[int], interval: str = "bars") -> str:
    """How many seeds stand behind the points and what their interval is."""
    least, most = min(seeds), max(seeds)
    if most == 1:
        return "one seed, descriptive"
    count = f"{least}" if least == most else f"{least}-{most}"
    return f"mean of {count} seeds, {interval}: 95 % t interval over seeds"


def stack(
    models: Sequence[str], width: float, height: float, draw: Callable[[Figure | SubFigure, str], None]
) -> Figure:
    """One block of `height` inches a model, drawn by `draw(block, model)`; several models are named."""
    figure = Figure(figsize=(width, height * len(models)))
    if len(models) == 1:
        draw(figure, models[0])
        return figure
    for block, model in zip(figure.subfigures(len(models), 1), models, strict=True):
        draw(block, model)
        block.suptitle(model, fontsize=NORMAL, fontweight="bold", x=0.01, ha="left")
    return figure


def footnote(figure: Figure | SubFigure, text: str) -> None:
    """Print what the reader must know below the axes, as wide as the figure."""
    figure.supxlabel(text, fontsize=SMALL, x=0.01, ha="left", color="#333333")


def line(axes: Axes, points: pd.DataFrame, x: str, kind_name: str, **options: object) -> Line2D:
    """Draw mean against column `x` in the colour and marker of a method, with intervals where there are some."""
    points = points.sort_values(x)
    options = {"color": colour(kind_name), "marker": marker(kind_name)} | options
    (drawn,) = axes.plot(points[x], points["mean"], **options)
    bars = points[points["low"].notna()]
    axes.vlines(bars[x], bars["low"], bars["high"], color=options["color"], linewidth=0.8)
    return drawn
