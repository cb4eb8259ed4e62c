"""Figure 5: mean accuracy over the benchmarks against the LoRA rank for SFT, ProFit and keep-low; dashed: full tuning.

python -m profit.draw --figure fig5_lora_rank …
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import NullLocator

from profit.figures import style, tables


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs and evaluations; the paper states no values of its Figure 5."""
    accuracies = tables.load_accuracies(folder)

    def block(figure: Figure | SubFigure, model: str) -> None:
        own = accuracies[(accuracies["model"] == model) & (accuracies["benchmark"] == "average")]
        lora = own[(own["tuning"] == "lora") & (own["checkpoint"] == "final")]
        lora = tables.common_seeds(lora, ["kind", "tau", "rank"])
        seeds = lora["seed"].unique()
        full = tables.like_main_sft(own)
        axes = figure.subplots()
        kinds = sorted(lora["kind"].unique(), key=style.order)
        for kind in kinds:
            runs = lora[lora["kind"] == kind]
            name = style.label(runs.iloc[0], tau=True)
            style.line(axes, tables.over_seeds(runs, ["rank"]), "rank", kind, label=name)
            same = full[full["seed"].isin(seeds) & (full["kind"] == kind)]
            same = same[(same["tau"] == runs["tau"].iloc[0]) | pd.isna(runs["tau"].iloc[0])]
            if len(same):
                axes.axhline(same["accuracy"].mean(), color=style.colour(kind), linestyle="--", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(lora["rank"].unique()), [f"{rank:g}" for rank in sorted(lora["rank"].unique())])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("LoRA rank (log scale)")
        axes.set_ylabel("average accuracy (%)")
        axes.set_title("Average accuracy by LoRA rank", loc="left")
        figure.legend(loc="outside upper center", ncols=len(kinds))
        style.footnote(
            figure,
            f"Dashed: full tuning, in the colour of its method.\n{style.seeds_note([len(seeds)]).capitalize()}.",
        )

    return style.stack(tables.models(accuracies), style.COLUMN, 2.6, block)
