"""Tables and figures of a study: which there are depends on its sweeps, its methods and its annotators.

No command: used by the rules and by profit.plan. Imports nothing heavy.
"""

from profit.runs import mapped
from profit.study import Study

FIGURES = [
    "claims", "table1_main", "kept_share", "account", "fig2_multi_reference", "fig3_probability", "fig4_threshold",
    "fig5_lora_rank", "fig6_epochs", "learning_rate", "fig11_coloured", "gradient_share", "drift", "answer_style",
    "phase",
]  # fmt: skip
# Tables of many rows, for programs alone.
WITHOUT_CSV = ("questions", "steps", "prompts", "account", "gradient_prompts")


def compared(names: list[str]) -> list[str]:
    """Two of a study's annotators whose labels are compared, where none of them is the truth."""
    return names[:2] if len(names) > 1 and "truth" not in names else []


def tables_of(study: Study) -> list[str]:
    """The tidy tables of a study."""
    analysis = study.analysis
    labels = ["densities", "correlation", "threshold_loss", "coloured", "prompts"] if analysis.annotators else []
    world = ["world"] if "truth" in analysis.annotators else []
    overfit = ["overfit"] if study.sweeps.overfitting else []
    phase = ["phase"] if mapped(study) else []
    agreement = ["agreement"] if compared(study.analysis.annotators) else []
    theorem = ["theorem", "gradients", "gradient_prompts"] if analysis.gradients else []
    tokens = [name for name in ("account", "drift", "answer_style", "timing") if getattr(analysis, name)]
    always = ["runs", "models", "evaluations", "questions", "steps", "main", "published"]
    return [*always, *world, *overfit, *labels, *agreement, *theorem, *tokens, *phase]


def files_of(tables: list[str]) -> list[str]:
    """The files of some tables: one for people and one for programs, of a long one the latter alone."""
    kinds = {name: ("parquet",) if name in WITHOUT_CSV else ("parquet", "csv") for name in tables}
    return [f"{name}.{kind}" for name in tables for kind in kinds[name]]


def figures_of(study: Study) -> list[str]:
    """The figures that a study has something for, in the order of the paper."""
    sweeps, labels = study.sweeps, bool(study.analysis.annotators)
    several = any(method.references > 1 for method in study.methods.values())
    drawn = {
        "account": study.analysis.account,
        "fig2_multi_reference": sweeps.overfitting or several,
        "fig3_probability": labels,
        "fig4_threshold": sweeps.threshold,
        "fig5_lora_rank": sweeps.lora_rank,
        "fig6_epochs": sweeps.epochs,
        "learning_rate": sweeps.learning_rate,
        "fig11_coloured": labels,
        "gradient_share": study.analysis.gradients,
        "phase": mapped(study),
        "drift": study.analysis.drift,
        "answer_style": study.analysis.answer_style,
    }
    return [name for name in FIGURES if drawn.get(name, True)]
