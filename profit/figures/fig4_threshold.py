"""Figure 4: accuracy against the threshold tau, keeping the tokens above it (ProFit) or below it (keep-low).

python -m profit.draw --figure fig4_threshold …
"""

from pathlib import Path

from matplotlib.figure import Figure, SubFigure

from profit.figures import style, tables

PANELS = {"profit": "Keep p > τ (ProFit)", "keep_low": "Keep p ≤ τ (keep-low)"}
PAPER = "Paper, in words alone: p > τ lies above SFT at every τ; p ≤ τ lies below it always, less so at a high τ."


def draw(folder: Path, published: Path) -> Figure:
    """Draw from tables runs, evaluations and main; the paper states no values of its Figure 4."""
    accuracies = tables.load_accuracies(folder)
    counts: list[int] = []

    def block(figure: Figure | SubFigure, model: str) -> None:
        own = accuracies[accuracies["model"] == model]
        names = tables.benchmarks(own)
        swept, sft = tables.threshold_sweep(own)
        counts.append(swept["seed"].nunique())
        kinds = [kind for kind in PANELS if kind in set(swept["kind"])]
        panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        level = sft.groupby("benchmark")["accuracy"].mean()
        for axes, kind in zip(panels, kinds, strict=True):
            points = tables.over_seeds(swept[swept["kind"] == kind], ["benchmark", "tau"])
            for place, name in enumerate(names):
                look = style.series(place, len(names))
                here = points[points["benchmark"] == name]
                style.line(axes, here, "tau", kind, label=style.benchmark(name), **look)
                if name in level:
                    axes.axhline(level[name], color=look["color"], linestyle="--", linewidth=0.7)
            axes.set_title(PANELS[kind], loc="left")
            axes.set_xlabel("threshold τ")
            axes.set_xticks(sorted(points["tau"].unique()))
        panels[0].set_ylabel("accuracy (%)")
        panels[0].set_ylim(0, max(10.0, panels[0].get_ylim()[1]))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(names))

    models = tables.swept_models(accuracies, "threshold")
    figure = style.stack(models, style.PAGE, 2.9, block, named=accuracies["model"].nunique() > 1)
    note = f"Dashed: SFT, in the colour of its benchmark. {style.seeds_note(counts).capitalize()}."
    style.footnote(figure, note, PAPER)
    return figure
