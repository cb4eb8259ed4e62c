"""Figure 11: one reference answer, each token on the colour of its probability under the base, its label underlined.

python -m profit.draw --figure fig11_coloured …
"""

from pathlib import Path
from textwrap import wrap

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from profit.figures import style, tables

COLOURS = matplotlib.colormaps["cividis"]
UNDERLINES = {"core": ("-", 1.4), "replaceable": ((0, (1.2, 1.0)), 1.4)}
CHOICE = "The answer whose mean probabilities lie nearest to those of all"
CHARACTER, LINE = 0.0585, 0.2  # inches; the type is monospaced so that widths are known before drawing
PROMPT_LINE, PROMPT_COLUMNS, PROMPT_LINES = 0.125, 125, 4
MOST_LINES = 12
MARGIN, ABOVE, NAME, BELOW = 0.06, 0.16, 0.2, 0.6


def draw(folder: Path, published: Path) -> Figure:
    """Draw from table coloured; the paper gives no numbers for its Figure 11."""
    columns = ["model", "prompt", "position", "token", "probability", "label", "space_before"]
    tokens = tables.without_arms(folder, tables.load(folder, "coloured", columns))
    width = style.PAGE - 2 * MARGIN
    answers = {str(model): break_lines(own, width) for model, own in tokens.groupby("model", sort=False)}
    cut = any(own["line"].max() >= MOST_LINES for own in answers.values())
    answers = {model: own[own["line"] < MOST_LINES] for model, own in answers.items()}
    text = " ".join(f"Prompt: {tokens['prompt'].iloc[0]}".split())
    prompt = wrap(text, PROMPT_COLUMNS, max_lines=PROMPT_LINES, placeholder=" …")
    name = NAME if len(answers) > 1 else 0.0
    sizes = {model: name + (own["line"].max() + 1) * LINE for model, own in answers.items()}
    height = ABOVE + len(prompt) * PROMPT_LINE + sum(sizes.values()) + BELOW
    figure = Figure(figsize=(style.PAGE, height))
    figure.set_layout_engine("none")
    axes = figure.add_axes((MARGIN / style.PAGE, 0, width / style.PAGE, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.text(0, ABOVE / 2, "\n".join(prompt), va="top", fontsize=style.NORMAL, parse_math=False)
    y = ABOVE + len(prompt) * PROMPT_LINE
    for model, own in answers.items():
        if name:
            axes.text(0, y + name / 2, model, va="center", fontsize=style.NORMAL, fontweight="bold")
        draw_tokens(axes, own, y + name)
        y += sizes[model]
    choice = f"{CHOICE} (its first {MOST_LINES} lines)." if cut else f"{CHOICE}."
    axes.text(0, height - 0.46, choice, va="top", fontsize=style.SMALL, color="#333333")
    bar = figure.add_axes((0.56, 0.36 / height, 0.42, 0.09 / height))
    figure.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), cax=bar, orientation="horizontal")
    bar.set_xlabel("probability under the base", labelpad=1)
    handles = [
        Line2D([], [], color="black", linestyle=dashes, linewidth=thick, label=label)
        for label, (dashes, thick) in UNDERLINES.items()
    ]
    handles.append(Line2D([], [], linestyle="none", label="no line: fixed or end"))
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 0.1 / height), ncols=3, handlelength=2.2)
    return figure


def break_lines(tokens: pd.DataFrame, width: float) -> pd.DataFrame:
    """Give each token its line number and its left edge (inches), breaking before a token that would pass `width`."""
    line, x, lines, left = 0, 0.0, [], []
    for token in tokens.sort_values("position").itertuples():
        size = len(token.token) * CHARACTER
        x += CHARACTER if token.space_before and x > 0 else 0.0
        if x + size > width and x > 0:
            line, x = line + 1, 0.0
        lines.append(line)
        left.append(x)
        x += size
    return tokens.sort_values("position").assign(line=lines, left=left)


def draw_tokens(axes: Axes, tokens: pd.DataFrame, y: float) -> None:
    """Print each token, from `y` on, on a box of its colour, dark type on light colours and light on dark ones."""
    for token in tokens.itertuples():
        colour = COLOURS(token.probability)
        light = sum(weight * part for weight, part in zip((0.299, 0.587, 0.114), colour[:3], strict=True)) > 0.5
        size, top = len(token.token) * CHARACTER, y + token.line * LINE
        corner, extent = (token.left + 0.004, top + 0.015), size - 0.008
        axes.add_patch(Rectangle(corner, extent, LINE * 0.7, color=colour, linewidth=0))
        axes.text(
            token.left + size / 2,
            top + 0.015 + LINE * 0.35,
            token.token,
            family="monospace",
            fontsize=style.NORMAL,
            color="black" if light else "white",
            ha="center",
            va="center_baseline",
            parse_math=False,
        )
        if token.label in UNDERLINES:
            dashes, thick = UNDERLINES[token.label]
            under = top + LINE * 0.87
            axes.plot(
                [token.left + 0.01, token.left + size - 0.01],
                [under, under],
                color="black",
                linestyle=dashes,
                linewidth=thick,
                solid_capstyle="butt",
            )
