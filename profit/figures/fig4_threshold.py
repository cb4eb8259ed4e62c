"""Figure 4: accuracy against the threshold tau, keeping the tokens above it (ProFit) or below it (keep-low).

python -m profit.draw --figure fig4_threshold …
"""

from pathlib import Path

from matplotlib.figure import Figure, SubFigure

from profit.figures import style, tables
from profit.files import InputError

PANELS = {"profit": "Keep p > τ (ProFit)", "keep_low": "Keep p ≤ τ (keep-low)"}


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs and evaluations; the paper states no values of its Figure 4."""
    accuracies = tables.load_accuracies(folder)

    def block(figure: Figure | SubFigure, model: str) -> None:
        own = tables.like_main_sft(accuracies[accuracies["model"] == model])
        names = tables.benchmarks(own)
        swept = own[own["kind"].isin(PANELS)]
        kinds = [kind for kind in PANELS if kind in set(swept["kind"])]
        if not kinds:
            raise InputError(f"table runs: found no method with a threshold for {model}, expected a sweep")
        panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        seeds = tables.common_seeds(swept, ["kind", "tau"])["seed"].unique()
        sft = tables.over_seeds(own[(own["kind"] == "sft") & own["seed"].isin(seeds)], ["benchmark"])
        level = sft.set_index("benchmark")["mean"]
        for axes, kind in zip(panels, kinds, strict=True):
            sweep = swept[(swept["kind"] == kind) & swept["seed"].isin(seeds)]
            points = tables.over_seeds(sweep, ["benchmark", "tau"])
            for place, name in enumerate(names):
                look = style.series(place, len(names))
                here = points[points["benchmark"] == name]
                style.line(axes, here, "tau", kind, label=style.benchmark(name), **look)
                axes.axhline(level[name], color=look["color"], linestyle="--", linewidth=0.7)
            axes.set_title(PANELS[kind], loc="left")
            axes.set_xlabel("threshold τ")
            axes.set_xticks(sorted(points["tau"].unique()))
        panels[0].set_ylabel("accuracy (%)")
        panels[0].set_ylim(0, max(10.0, panels[0].get_ylim()[1]))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(names))
        style.footnote(
            figure, f"Dashed: SFT, in the colour of its benchmark. {style.seeds_note([len(seeds)]).capitalize()}."
        )

    return style.stack(tables.models(accuracies), style.PAGE, 2.9, block)
