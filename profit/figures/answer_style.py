"""What each method took over from the references: rare wordings, length, cut answers and diversity of what it says.

python -m profit.draw --figure answer_style …
"""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from profit.figures import style, tables

# Column, title, factor. Rare wordings are of all answers together, the others means over benchmarks.
PANELS = {
    "rare": ("Rare wordings (%)", 100),
    "tokens_mean": ("Tokens an answer", 1),
    "cut": ("Cut off (%)", 100),
    "pair_distance": ("Distance of two answers", 1),
}
ALL, REFERENCES = "all", "references"
ROW = 0.15  # inches a method


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables answer_style, runs and main; the paper reports no styles."""
    answers = tables.load(folder, "answer_style", [*tables.RUN_KEYS, "benchmark", *PANELS])
    runs = tables.load_runs(folder)
    main = tables.load(folder, "main", ["table", "model", "benchmark"])
    found = by_run(answers, tables.first_benchmarks(main)).merge(runs, on=tables.RUN_KEYS, validate="one_to_one")
    found = found.sort_values("kind", key=lambda kinds: kinds.map(tables.order), kind="stable")
    written = answers[answers["method"] == REFERENCES].set_index("model")["rare"]
    shown = [column for column in PANELS if found[column].notna().any()]
    models, counts = [model for model in tables.models(answers) if model in set(found["model"])], []
    most = max(own["method"].nunique() for _, own in found.groupby("model"))

    def block(figure: Figure | SubFigure, model: str) -> None:
        own = found[found["model"] == model]
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        if "rare" in shown:
            panels[0].axvline(100 * written[model], color="black", linestyle=":", linewidth=0.9)
        for axes, column in zip(panels, shown, strict=True):
            counts.extend(draw_panel(axes, own, column))

    height = ROW * most + 0.5
    figure = style.stack(models, style.PAGE, height + 0.55 * (len(models) == 1), block, named=len(models) > 1)
    note = f"{style.seeds_note(counts).capitalize()}. "
    if (found["kind"] == "vanilla").any():
        note += "Dashed: the base. "
    if "rare" in shown:
        note += "Rare: of all wordings, those of the half that the base uses least; dotted: the references. "
    style.footnote(figure, f"{note}The others: means over the benchmarks of the first table.")
    return figure


def by_run(answers: pd.DataFrame, asked: dict[str, set[str]]) -> pd.DataFrame:
    """One row a run: `rare` of all its answers, the other measures as means over the benchmarks in `asked`."""
    whole = answers[answers["benchmark"] == ALL].set_index(tables.RUN_KEYS)["rare"]
    runs = answers[answers["method"] != REFERENCES]
    rows = runs[[name in asked[model] for model, name in zip(runs["model"], runs["benchmark"], strict=True)]]
    means = rows.groupby(tables.RUN_KEYS, sort=False)[[column for column in PANELS if column != "rare"]].mean()
    return means.join(whole).reset_index()


def draw_panel(axes: Axes, runs: pd.DataFrame, column: str) -> list[int]:
    """One point a method with its interval over seeds, first method on top; returns the numbers of seeds."""
    title, factor = PANELS[column]
    names, counts = [], []
    for place, (kind, own, look) in enumerate(style.lines(runs, ["method"])):
        colour, known = style.colour(kind), own[own[column].notna()]
        # None where a run worded nothing as the language does.
        for point in tables.over_seeds(known.assign(shown=factor * known[column]), ["method"], "shown").itertuples():
            axes.hlines(place, point.low, point.high, color=colour, linewidth=0.9)
            axes.plot(point.mean, place, style.marker(kind), color=colour)
            if kind == "vanilla":
                axes.axvline(point.mean, color=colour, linestyle="--", linewidth=0.9, zorder=0)
            counts.append(point.seeds)
        names.append(look["label"])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    if factor == 100:
        # No share is below 0; where all are 0, there still is an axis.
        right = max(axes.get_xlim()[1], 1.0)
        axes.set_xlim(-0.05 * right, right)
    axes.set_title(title, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x")
    return counts
