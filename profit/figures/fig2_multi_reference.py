"""Figure 2: accuracy with one and with several references, the paper's numbers below, and overfit to the references.

Overfit of a part of the tokens is [NLL(held) - NLL(trained)] - [the same under the base], in nats a token: how much
more the run gained on the very references it saw than on exchangeable ones of the same prompts. K references at equal
epochs take K times the steps of one; so do one reference for K times as long, and one on K times the prompts.

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
# Look of each arm, and a shift that keeps the intervals apart.
ARMS = {
    "steps": ({"label": "K references, equal steps", "linestyle": "--", "markerfacecolor": "white"}, 0.08),
    "epochs": ({"label": "K references, equal epochs"}, -0.08),
    "longer": ({"label": "1 reference, K× as long", "linestyle": ":", "marker": "^", "color": "black"}, 0.0),
    "prompts": ({"label": "1 reference, K× the prompts", "marker": "*", "color": "black", "markersize": 6}, 0.24),
}
ALONE = ["longer", "prompts"]
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
            axes[shown[-1]].set_xlabel("K" if parts["arm"].isin(ALONE).any() else "references a prompt, K")

    figure = style.stack(models, style.PAGE, 3.7, block, named=accuracies["model"].nunique() > 1)
    foreign = " Its model is not ours." if set(named) != set(named.values()) else ""
    if set(accuracies["benchmark"]) & set(STANDS_FOR):
        foreign = " Its benchmarks and model are not ours: each stands below the benchmark that takes its place."
    said = f" Overfit: {style.seeds_note(measured)}." if measured else ""
    if overfit["arm"].isin(ALONE).any():
        said += " K references at equal epochs take K× the steps, as 1 reference K× as long or 1 of K× the prompts."
    style.footnote(
        figure,
        f"Accuracy: {style.seeds_note(seeds)}; dots are seeds.{said}",
        "Paper: one checkpoint each; 3 references: §3.2 states GPQA-D alone, of a model that it does not name."
        + foreign,
    )
    return figure


def load_overfit(folder: Path) -> pd.DataFrame:
    """Table overfit with base, arm and K of each run, the model's own; no rows where the study has none.

    arm: one (a reference, K = 1), steps or epochs (K references at equal ones), or one reference for K times the
    steps: longer, or on more prompts, which is a model of its own (tables.arms) shown with its base.
    """
    columns = [*tables.RUN_KEYS, "references", "budget", "part", "overfit"]
    if not (folder / "overfit.parquet").is_file():
        return pd.DataFrame(columns=[*columns, "arm", "K"])
    settings = tables.load(folder, "runs", [*tables.RUN_KEYS, "epochs"])
    found = tables.load(folder, "overfit", columns).merge(settings, on=tables.RUN_KEYS, validate="many_to_one")
    arms = tables.arms(folder)
    found = found[~found["model"].isin(arms.loc[arms["times"].isna(), "model"])].merge(arms, on="model", how="left")
    found["model"], found["times"] = found["base"].fillna(found["model"]), found["times"].astype(float).fillna(1)
    alone = found["references"] == 1
    least = found["epochs"].where(alone & (found["times"] == 1)).groupby(found["model"]).transform("min")
    found["K"] = found["references"].where(~alone, found["times"] * found["epochs"] / least)
    found["arm"] = found["budget"].where(~alone, "longer").mask(found["times"] != 1, "prompts")
    return found.assign(arm=found["arm"].mask(found["K"] == 1, "one"))[alone | (found["times"] == 1)]


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
    """Overfit of one part of the tokens against K, one line an arm; returns the numbers of seeds."""
    counts, overfit = [], overfit[overfit["part"] == part]
    for arm, (look, shift) in ARMS.items():
        if (own := overfit[overfit["arm"] == arm]).empty:
            continue
        # At K = 1 they are the same run, from which every line starts; one number of prompts makes no line.
        own = own if arm == "prompts" else pd.concat([overfit[overfit["arm"] == "one"], own])
        points = tables.over_seeds(own, ["K"], "overfit")
        look = look | {"linestyle": "none"} if len(points) == 1 else look
        style.line(axes, points.assign(K=points["K"] + shift), "K", "sft", **look)
        counts += list(points["seeds"])
    axes.set_xticks(sorted(overfit["K"].unique()))
    axes.set_ylabel("overfit (nats/token)")
    axes.set_title(f"Overfit, {part} tokens", loc="left")
    return counts
