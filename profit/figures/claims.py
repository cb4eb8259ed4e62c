"""Every claim that was measured as one row: its effect with the 95 % interval, and the verdict.

One axis for all units: an effect over its smallest effect of interest, so that 0 is no effect and 1 the least that
matters; right of 0 agrees with the paper. A claim that something is not worse by more than a margin has no smallest
effect; its distance to the margin stands below, over the margin: 0 is the margin and 1 no difference at all. A theorem
has neither; what breaks it is a share of the tokens. A claim in parts is shown by its weakest (profit.verdict_table).

python -m profit.draw --figure claims …
"""

from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from profit import verdict_table
from profit.figures import style, tables

COLUMNS = ["model", "claim", "sentence", "family", "unit", "counted", "smallest", "adjusted", "verdict", "over_bases"]
COLUMNS += ["published_value", "part", "zero", "mean", "low", "high", "p", "seeds"]
FAMILIES = {"first": "First family", "rest": "Second family"}
# Verdicts are no methods: colours that none has.
LOOK = {
    "replicated": ("o", "#117733"),
    "not replicated: above 0, but too small": ("^", "#AA7700"),
    "not replicated": ("X", "#882255"),
    "not replicated: the opposite": ("<", "#CC3355"),
    "inconclusive": ("d", "#4477AA"),
    "descriptive": ("s", "#888888"),
    "by construction": ("P", "#444444"),
}
PAPER = {"marker": "D", "markerfacecolor": "none", "markeredgecolor": "black", "linestyle": "none"}
OTHERS = {"marker": "|", "color": "#999999", "markersize": 4, "linestyle": "none"}
LINEAR = 2  # the axis is logarithmic beyond
TICKS = [0.0, *(sign * size * 10**power for sign in (-1, 1) for size in (1, 2, 5) for power in range(5))]
ROW, BASE, AROUND = 0.27, 0.07, 1.5  # inches: a row, a base in it, what is no row
LETTERS = 36  # of a sentence in a line


def draw(folder: Path, published: Path) -> Figure:
    """Draw from table claims, which has the paper's numbers."""
    claims = tables.load(folder, "claims", COLUMNS)
    bases = tables.models(claims)
    claims["scale"] = np.select(
        [claims["smallest"] > 0, claims["unit"] == "ratio"], [claims["smallest"], (claims["zero"] - 1).abs()], 1.0
    )
    measured = claims[claims["mean"].notna()]
    panels = [rows for rows in (measured[measured["smallest"] > 0], measured[measured["smallest"] == 0]) if len(rows)]
    heights = [rows["claim"].nunique() + rows["family"].nunique() for rows in panels]
    row = max(ROW, BASE * (len(bases) + 1.5))
    figure = Figure(figsize=(style.PAGE, row * sum(heights) + AROUND))
    if panels:
        blocks = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
        words = {word for axes, rows in zip(blocks, panels, strict=True) for word in draw_panel(axes, rows, bases)}
        looks = {word: look for word, look in LOOK.items() if word in words}
        marks = [Line2D([], [], marker=mark, color=colour, label=word) for word, (mark, colour) in looks.items()]
        marks += [Line2D([], [], label="paper", markersize=5, **PAPER)]
        marks += [Line2D([], [], label="a claim's other parts", **OTHERS)]
        figure.legend(handles=marks, loc="outside upper left", ncols=4, handlelength=0.8, columnspacing=1.2)
    style.footnote(figure, *notes(claims, bases))
    return figure


def draw_panel(axes: Axes, claims: pd.DataFrame, bases: list[str]) -> set[str]:
    """A row a claim, family below family; returns the verdicts."""
    margins, words, labels = bool((claims["smallest"] == 0).all()), set[str](), list[str]()
    for family, title in FAMILIES.items():
        own = claims[claims["family"] == family]
        if own.empty:
            continue
        if labels:
            axes.axhline(len(labels) - 0.5, color="#888888", linewidth=0.6)
        labels.append(f"{title}, against a margin" if margins else title)
        for number, (_, rows) in enumerate(own.groupby("claim", sort=False)):
            if number % 2:
                axes.axhspan(len(labels) - 0.5, len(labels) + 0.5, color="#F4F4F4", linewidth=0)
            words |= draw_claim(axes, rows, len(labels), bases)
            labels.append(fill(rows["sentence"].iloc[0], LETTERS))
    axes.set_yticks(range(len(labels)), labels, linespacing=1.1)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().startswith(tuple(FAMILIES.values())) else "normal")
    axes.tick_params("y", length=0)
    axes.set_ylim(len(labels) - 0.4, -0.5)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    set_scale(axes)
    axes.set_xlabel(
        "distance to the margin, over the margin" if margins else "effect over the smallest effect of interest"
    )
    return words


def draw_claim(axes: Axes, claim: pd.DataFrame, place: int, bases: list[str]) -> set[str]:
    """A mark a base, the paper's, and at the right what they rest on; returns the verdicts."""
    several, words = len(bases) > 1, set[str]()
    half = 0.5 - 0.7 / (len(bases) + 0.5)
    heights = dict(zip(bases, place + np.linspace(-half, half, len(bases)) if several else [place], strict=True))
    first = claim.iloc[0]
    for base, rows in claim.groupby("model", sort=False):
        parts, y = rows.to_dict("records"), heights[base]
        part = verdict_table.weakest(parts)
        word = verdict_table.verdict({**part, "parts": parts})
        marker, colour = LOOK[word]
        words.add(word)
        others = [other["mean"] / other["scale"] for other in parts if other is not part]
        axes.plot(others, [y] * len(others), **OTHERS)
        low, middle, high = (part[key] / part["scale"] for key in ("low", "mean", "high"))
        axes.plot([low, high], [y, y], color=colour, linewidth=1.2)
        axes.plot(middle, y, marker, color=colour, markersize=3.2 if several else 4.5)
        if first["unit"] == "exceptions" and not several:
            said = verdict_table.ours({**part, "parts": parts})
            axes.annotate(said, (middle, y), (5, 0), textcoords="offset points", va="center", fontsize=style.SMALL)
    for value, rows in claim.groupby("published_value"):
        y = np.mean([heights[base] for base in set(rows["model"])])
        axes.plot(value / first["scale"], y, markersize=3.2 if several else 5, **PAPER)
    axes.text(
        1.015, place, beside(claim, several), transform=axes.get_yaxis_transform(), va="center", fontsize=style.SMALL
    )
    return words


def beside(claim: pd.DataFrame, several: bool) -> str:
    """What a claim rests on and, of several bases, what they say together; of one, which part is the weakest."""
    parts = claim.to_dict("records")
    said = verdict_table.rests_on({"parts": parts, "counted": claim["counted"].iloc[0]})
    if several:
        return f"{said}\n{claim['over_bases'].iloc[0]}"
    name = str(verdict_table.weakest(parts)["part"])
    return said if len(parts) == 1 else f"{said}\nweakest: {style.benchmark(name)}"


def set_scale(axes: Axes) -> None:
    """The axis, wide enough for all that is drawn."""
    low, high = axes.dataLim.intervalx
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.5)
    axes.set_xlim(low - 0.1 * abs(low) - 0.15, high + 0.1 * high + 0.15)
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}".replace("-", "−")))


def notes(claims: pd.DataFrame, bases: list[str]) -> list[str]:
    """What the reader must know."""
    said = "Right of 0 (line) agrees with the paper. Dashed: the smallest effect that matters; of a margin (0), no "
    said += f"difference at all. Linear to ±{LINEAR}, then logarithmic. "
    if claims["low"].notna().any():
        said += "Lines: 95 % interval (t over seeds, bootstrap over prompts; none at one seed). "
    said += "A claim about several parts is shown by its weakest. Paper: on the same base, else the mean over its "
    said += "bases; of parts the weakest."
    lines = [said]
    if bases[1:]:
        lines.append(f"Bases, from the top of a row: {', '.join(bases)}. At the right: what they say together.")
    missing = claims.loc[claims.groupby("claim")["mean"].transform("count") == 0, "sentence"]
    if len(missing):
        lines.append(f"Not measured: {'; '.join(missing.drop_duplicates())}.")
    return lines
