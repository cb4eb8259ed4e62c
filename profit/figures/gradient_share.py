"""Theorem 1 made visible: by token probability, the share of the tokens and that of the batch gradient due to them.

The share of a gradient is <g, G> / |G|^2 (profit.gradients): shares sum to 1, and one may be negative.

python -m profit.draw --figure gradient_share …
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from profit.figures import style, tables

# Labels are no methods: colours that none has, grey for what a study has no label of.
LOOK = {"core": ("Core", "#4D4D4D"), "replaceable": ("Replaceable", "#D9C84A"), "other": ("Fixed and end", "#C4C4C4")}
WHOLE = {"all": ("Tokens", "#4D4D4D")}
WIDTH = 0.28
COLUMNS = ["model", "label", "low", "high", "token_share", "share", "share_low", "share_high", "ratio"]


def draw(folder: Path, published: Path) -> Figure:
    """Draw from table gradients; the paper measures no gradients."""
    groups = tables.without_arms(folder, tables.load(folder, "gradients", COLUMNS))
    # The row of [0, 1] is the sum of the bins.
    groups = groups[(groups["low"] > 0) | (groups["high"] < 1)]
    look = LOOK if (groups["label"] != "all").any() else WHOLE

    def block(figure: Figure | SubFigure, model: str) -> None:
        axes = figure.subplots()
        draw_bins(axes, groups[groups["model"] == model], look)
        if look is LOOK:
            patches = [Patch(color=colour, label=name) for name, colour in look.values()]
            figure.legend(handles=patches, loc="outside upper left", ncols=3, handlelength=1.0, columnspacing=1.0)

    models = tables.models(groups)
    figure = style.stack(models, style.COLUMN, 2.4, block, named=len(models) > 1)
    style.footnote(
        figure,
        "Left bar, hollow: share of the tokens. Right bar: share of the batch gradient; point and line: its sum, "
        "with the 95 % bootstrap interval over prompts. ×: the one share over the other.",
    )
    return figure


def draw_bins(axes: Axes, groups: pd.DataFrame, look: dict[str, tuple[str, str]]) -> None:
    """A pair of stacked bars a bin, in per cent, and the share of the gradient with its interval beside them."""
    whole = groups[groups["label"] == "all"].sort_values("low").set_index("low")
    bins = np.arange(len(whole))
    for column, shift, filled in (("token_share", -WIDTH, False), ("share", 0.05, True)):
        ends = {1: np.zeros(len(bins)), -1: np.zeros(len(bins))}
        for label, (_, colour) in look.items():
            values = 100 * share_of(groups, label, column).loc[whole.index].to_numpy()
            # A negative share goes down from zero, the others up from the last.
            bottom = np.where(values < 0, ends[-1], ends[1])
            face = colour if filled else "white"
            axes.bar(bins + shift, values, WIDTH * 0.92, bottom, facecolor=face, edgecolor=colour, linewidth=1)
            for sign in ends:
                ends[sign] += np.where(values * sign > 0, values, 0)
    middle, at = 100 * whole["share"], bins + 0.05 + 0.8 * WIDTH
    axes.vlines(at, 100 * whole["share_low"], 100 * whole["share_high"], color="black", linewidth=0.9)
    axes.plot(at, middle, "o", color="black", markersize=2.5)
    axes.axhline(0, color="black", linewidth=0.6)
    ratios = ["–" if pd.isna(value) else f"×{value:.2g}" for value in whole["ratio"]]
    names = [f"{low:g}–{high:g}" for low, high in zip(whole.index, whole["high"], strict=True)]
    axes.set_xticks(bins, [f"{name}\n{ratio}" for name, ratio in zip(names, ratios, strict=True)])
    axes.set_xlabel("probability under the base")
    axes.set_ylabel("share (%)")


def share_of(groups: pd.DataFrame, label: str, column: str) -> pd.Series:
    """A share by lower end of the bin: of one label, or of all tokens that are neither core nor replaceable."""
    if label != "other":
        return groups[groups["label"] == label].set_index("low")[column]
    return groups[~groups["label"].isin(["all", "core", "replaceable"])].groupby("low")[column].sum()
