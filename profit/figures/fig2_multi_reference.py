"""Figure 2: accuracy with one and with several references, the paper's numbers below, and overfit to the references.

Overfit of a part of the tokens is [NLL(held) - NLL(trained)] - [the same under the base], in nats a token: how much
more the run gained on the very references it saw than on exchangeable ones of the same prompts.

python -m profit.draw --figure fig2_multi_reference …
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from profit.figures import style, tables
from profit.figures.tables import PAPER_MODEL, STANDS_FOR
from profit.published import load, printed, printed_cells

SHOWN = ["vanilla", "sft", "sft_multi", "profit"]
PARTS = ["core", "replaceable"]
# Name, line, face of the marker, and a shift that keeps the intervals of the two apart.
BUDGETS = {"steps": ("equal steps", "--", "white", 0.07), "epochs": ("equal epochs", "-", style.COLOURS["sft"], -0.07)}
WIDTH = 0.2


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs, evaluations and main, overfit where there is one, and the paper's tables and Figure 2."""
    accuracies, overfit = tables.load_accuracies(folder), load_overfit(folder)
    paper, seeds, measured = printed(published), list[int](), list[int]()
    several = load(published, "figures").query("source == 'figure2' and method == 'sft_3ref'")
    found = set(overfit["model"]) | set(accuracies.loc[accuracies["kind"] == "sft_multi", "model"])
    models = [model for model in tables.models(accuracies) if model in found]
    named = {model: model if model in set(paper["model"]) else PAPER_MODEL for model in models}

    def block(figure: Figure | SubFigure, model: str) -> None:
        own, parts = accuracies[accuracies["model"] == model], overfit[overfit["model"] == model]
        shown = [part for part in PARTS if part in set(parts["part"])] or ["all"] * (len(parts) > 0)
        rows = [["ours", *shown[:1]], ["paper", *shown[-1:]]]
        widths = [2.3, 1] if shown else [1]
        axes = figure.subplot_mosaic(rows, width_ratios=widths, height_ratios=[1.25, 1])
        seeds.extend(draw_ours(axes["ours"], tables.main_methods(own)))
        labelled = axes["ours"].get_legend_handles_labels()
        theirs = [STANDS_FOR.get(name, name) for name in tables.benchmarks(own)]
        cells = printed_cells(paper, named[model], theirs)
        if named[model] == PAPER_MODEL:
            cells["sft_multi"] = several.set_index("quantity")["value"]
        draw_paper(axes["paper"], cells.reindex(theirs), labelled[1])
        axes["paper"].set_title(f"Published, {named[model]}", loc="left")
        axes["paper"].set_xlim(axes["ours"].get_xlim())
        for part in shown:
            measured.extend(draw_overfit(axes[part], parts, part))
        handles = [*labelled[0], *axes["paper"].get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(SHOWN))
        if shown:
            figure.legend(*axes[shown[0]].get_legend_handles_labels(), loc="outside upper right", ncols=2)
            axes[shown[-1]].set_xlabel("references a prompt, K")

    figure = style.stack(models, style.PAGE, 3.7, block, named=accuracies["model"].nunique() > 1)
    foreign = " Its model is not ours." if set(named) != set(named.values()) else ""
    if set(accuracies["benchmark"]) & set(STANDS_FOR):
        foreign = " Its benchmarks and model are not ours: each stands below the benchmark that takes its place."
    said = f" Overfit: {style.seeds_note(measured)}." if measured else ""
    style.footnote(
        figure,
        f"Accuracy: {style.seeds_note(seeds)}; dots are seeds.{said}",
        "Paper: one checkpoint each; 3 references: §3.2 states GPQA-D alone, of a model that it does not name."
        + foreign,
    )
    return figure


def load_overfit(folder: Path) -> pd.DataFrame:
    """Table overfit; no rows where the study has none."""
    columns = [*tables.RUN_KEYS, "references", "budget", "part", "overfit"]
    if not (folder / "overfit.parquet").is_file():
        return pd.DataFrame(columns=columns)
    return tables.load(folder, "overfit", columns)


def draw_ours(axes: Axes, accuracies: pd.DataFrame) -> list[int]:
    """Bars of the study's methods with intervals and a dot a seed; returns the numbers of seeds."""
    names, counts = tables.benchmarks(accuracies), []
    accuracies = accuracies[accuracies["kind"].isin(SHOWN)]
    for kind, runs in accuracies.groupby("kind", sort=False):
        points = tables.over_seeds(runs, ["benchmark"]).set_index("benchmark").loc[names]
        centres = np.arange(len(names)) + WIDTH * (SHOWN.index(str(kind)) - 1.5)
        axes.bar(centres, points["mean"], WIDTH * 0.92, color=style.colour(str(kind)), label=style.label(runs.iloc[0]))
        half = (points["high"] - points["mean"]).to_numpy()
        axes.errorbar(centres, points["mean"], half, fmt="none", ecolor="black", elinewidth=0.8, capsize=1.5)
        seeds = sorted(runs["seed"].unique())
        jitter = dict(zip(seeds, np.linspace(-0.3, 0.3, len(seeds)) * WIDTH if len(seeds) > 1 else [0.0], strict=True))
        where = [centres[names.index(row.benchmark)] + jitter[row.seed] for row in runs.itertuples()]
        axes.plot(where, runs["accuracy"], ".", color="black", alpha=0.45, markersize=2, markeredgewidth=0)
        counts += list(points["seeds"])
    axes.set_ylim(0, 105)
    axes.set_xticks(range(len(names)), [style.columned(name) for name in names])
    axes.set_ylabel("accuracy (%)")
    axes.set_title("Accuracy by benchmark, this study", loc="left")
    return counts


def draw_paper(axes: Axes, cells: pd.DataFrame, labelled: list[str]) -> None:
    """Hollow bars of the paper's accuracies, benchmark by method, with the labels that are not `labelled` yet."""
    for place, kind in enumerate(SHOWN):
        values = cells.get(kind, pd.Series(np.nan, index=cells.index))
        centres = np.arange(len(cells)) + WIDTH * (place - 1.5)
        label = style.LABELS[kind].format(references=3)
        unseen = label in labelled or values.isna().all()
        look = {"edgecolor": style.colour(kind), "label": f"_{label}" if unseen else label}
        axes.bar(centres, values, WIDTH * 0.8, fill=False, linewidth=1.1, **look)
    axes.set_ylim(0, 105)
    axes.set_xticks(range(len(cells)), [style.columned(name) for name in cells.index])
    axes.set_ylabel("accuracy (%)")


def draw_overfit(axes: Axes, overfit: pd.DataFrame, part: str) -> list[int]:
    """Overfit of one part of the tokens against K, one line a budget; returns the numbers of seeds."""
    counts = []
    one = overfit[(overfit["part"] == part) & (overfit["references"] == 1)]
    for budget, (name, dashes, face, shift) in BUDGETS.items():
        # With one reference the two budgets are the same run.
        several = overfit[(overfit["part"] == part) & (overfit["references"] > 1) & (overfit["budget"] == budget)]
        if several.empty:
            continue
        points = tables.over_seeds(pd.concat([one, several]), ["references"], "overfit")
        points["references"] += shift
        style.line(axes, points, "references", "sft", linestyle=dashes, markerfacecolor=face, label=name)
        counts += list(points["seeds"])
    axes.set_xticks(sorted(overfit["references"].unique()))
    axes.set_ylabel("overfit (nats/token)")
    axes.set_title(f"Overfit, {part} tokens", loc="left")
    return counts
