"""Figure 5: mean accuracy over the benchmarks against the LoRA rank for SFT, ProFit and keep-low; dashed: full tuning.

python -m profit.draw --figure fig5_lora_rank …
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import NullLocator

from profit.figures import style, tables

PAPER = (
    "Paper, in words alone: p > 0.1 rises with the rank; SFT and p ≤ 0.1 fall and rise again, the latter at rank 1024 "
    "to above its full tuning."
)


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs, evaluations and main; the paper states no values of its Figure 5."""
    accuracies = tables.load_accuracies(folder)
    accuracies = accuracies[(accuracies["benchmark"] == "average") & (accuracies["checkpoint"] == "final")]
    counts: list[int] = []

    def block(figure: Figure | SubFigure, model: str) -> None:
        own = accuracies[(accuracies["model"] == model) & ~accuracies["kind"].isin(tables.CONTROLS)]
        lora = tables.first_methods(own[own["tuning"] == "lora"], ["kind", "tau", "rank"])
        lora = tables.common_seeds(lora, ["kind", "tau", "rank"]).sort_values(
            "kind", key=lambda kinds: kinds.map(tables.order), kind="stable"
        )
        counts.append(lora["seed"].nunique())
        full = own[(own["tuning"] == "full") & (own["group"] == "main") & own["seed"].isin(lora["seed"])]
        axes = figure.subplots()
        for kind, runs, look in style.lines(lora, ["kind", "tau"]):
            style.line(axes, tables.over_seeds(runs, ["rank"]), "rank", kind, **look)
            tau = runs["tau"].iloc[0]
            same = full[(full["kind"] == kind) & ((full["tau"] == tau) | pd.isna(tau))]
            same = tables.first_methods(same[same["references"] == runs["references"].iloc[0]], ["kind"])
            if len(same):
                axes.axhline(same["accuracy"].mean(), color=style.colour(kind), linestyle="--", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(lora["rank"].unique()), [f"{rank:g}" for rank in sorted(lora["rank"].unique())])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("LoRA rank (log scale)")
        axes.set_ylabel("average accuracy (%)")
        axes.set_title("Average accuracy by LoRA rank", loc="left")
        figure.legend(loc="outside upper center", ncols=3, handlelength=2.6)

    models = tables.swept_models(accuracies, "lora_rank")
    figure = style.stack(models, style.COLUMN, 2.9, block, named=accuracies["model"].nunique() > 1)
    note = f"{style.seeds_note(counts).capitalize()}."
    style.footnote(figure, "Dashed: full tuning, in the colour of its method.", note, PAPER)
    return figure
