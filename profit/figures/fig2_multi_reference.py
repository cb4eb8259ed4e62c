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

SHOWN = ["vanilla", "sft", "sft_multi", "profit"]
PARTS = ["core", "replaceable"]
# Name, line, face of the marker, and a shift that keeps the intervals of the two apart.
BUDGETS = {"steps": ("equal steps", "--", "white", 0.07), "epochs": ("equal epochs", "-", style.COLOURS["sft"], -0.07)}
WIDTH = 0.2


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs, evaluations and overfit, and the paper's Table 1 and Figure 2."""
    accuracies = tables.load_accuracies(folder)
    overfit = tables.load(folder, "overfit", [*tables.RUN_KEYS, "references", "budget", "part", "overfit"])
    table1, several = (tables.load_published(published, name) for name in ("table1", "figure2"))
    several = several[several["references"] > 1].assign(method="sft_multi")
    paper = pd.concat([table1[table1["model"] == style.PAPER_MODEL], several])

    def block(figure: Figure | SubFigure, model: str) -> None:
        own = accuracies[accuracies["model"] == model]
        mosaic = figure.subplot_mosaic(
            [["ours", "core"], ["paper", "replaceable"]], width_ratios=[2.3, 1], height_ratios=[1.25, 1]
        )
        seeds = draw_ours(mosaic["ours"], tables.of_main_methods(own))
        draw_paper(mosaic["paper"], paper, tables.benchmarks(own))
        measured = overfit[overfit["model"] == model]
        counts = [draw_overfit(mosaic[part], measured, part) for part in PARTS]
        figure.legend(*mosaic["ours"].get_legend_handles_labels(), loc="outside upper left", ncols=len(SHOWN))
        figure.legend(*mosaic["core"].get_legend_handles_labels(), loc="outside upper right", ncols=2)
        mosaic["replaceable"].set_xlabel("references a prompt, K")
        style.footnote(
            figure,
            f"Accuracy: {style.seeds_note(seeds)}; dots are seeds. Overfit: {style.seeds_note(sum(counts, []))}.\n"
            f"Paper: {style.PAPER_MODEL}, Table 1 (one checkpoint each); 3 references: §3.2 states GPQA-D alone.\n"
            "Its benchmarks and model are not ours: each stands below the benchmark that takes its place.",
        )

    return style.stack(tables.models(accuracies), style.PAGE, 3.7, block)


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
    axes.set_xticks(range(len(names)), [style.benchmark(name) for name in names])
    axes.set_ylabel("accuracy (%)")
    axes.set_title("Accuracy by benchmark, this study", loc="left")
    return counts


def draw_paper(axes: Axes, paper: pd.DataFrame, names: list[str]) -> None:
    """Hollow bars of the paper's numbers, each benchmark below the one that takes its place."""
    theirs = [style.STANDS_FOR.get(name, name) for name in names]
    for place, kind in enumerate(SHOWN):
        values = paper[paper["method"] == kind].set_index("benchmark")["accuracy"].reindex(theirs)
        centres = np.arange(len(theirs)) + WIDTH * (place - 1.5)
        axes.bar(centres, values, WIDTH * 0.8, fill=False, edgecolor=style.colour(kind), linewidth=1.1)
    axes.set_ylim(0, 105)
    axes.set_xticks(range(len(theirs)), [style.benchmark(name) for name in theirs])
    axes.set_ylabel("accuracy (%)")
    axes.set_title(f"Published, {style.PAPER_MODEL}", loc="left")


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
