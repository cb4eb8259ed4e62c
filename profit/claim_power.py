"""What a study could find: table power, for the claims of the first family on each model.

An average over benchmarks of unequal size is a mean over questions each of which counts by the size of its benchmark,
so it is split into seeds and questions like any other (profit.power). The level is that of Holm's first step in a
family of two. One row a model, claim and effect: the seeds that find it on these questions, the questions on these
seeds, and the seeds if runs, or seeds with the runs of all methods, collapsed with probability COLLAPSE, and lost half
of their accuracy (as normal noise of that variance; tests/planted.py draws such studies, which need a few more).

No command: used by `profit.claims`.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from profit import power
from profit.estimators import Base, NotMeasured, method, three
from profit.figures import tables
from profit.files import InputError
from profit.verdicts import LEVEL

EFFECTS = (0.01, 0.02, 0.03, 0.05)
STEP = LEVEL / 2
COLLAPSE = 0.1


def study_power(base: Base) -> list[dict[str, Any]]:
    """Rows of table power: for the first family, what noise there is, and what which effect would need."""
    rows = []
    for name, other in {"profit_over_sft": lambda base: base.sft, "profit_over_three": three}.items():
        try:
            pair = method(base, "profit"), other(base)
        except NotMeasured:
            continue
        differences = contributions(base, *pair)
        seeds, questions = differences.shape
        if seeds < 2:
            continue
        found = power.split(differences.to_numpy())
        row = {"model": base.model, "claim": name, "seeds": seeds, "questions": questions, "level": STEP}
        row |= {f"variance_{key}": value for key, value in asdict(found).items()}
        row["least_effect"] = power.least_effect(found, seeds, questions, STEP)
        fallen = with_collapses(found, *(runs.loc[runs["benchmark"] == "average", "accuracy"].mean() for runs in pair))
        for effect in EFFECTS:
            left, halved = effect * (1 - COLLAPSE / 2), with_collapsed_seeds(found, effect)
            needed = {
                "seeds_if_collapsed": power.seeds_needed(fallen, left, questions, STEP),
                "seeds_if_seeds_collapsed": power.seeds_needed(halved, left, questions, STEP),
                "seeds_needed": power.seeds_needed(found, effect, questions, STEP),
                "questions_needed": power.questions_needed(found, effect, seeds, STEP),
            }
            rows.append(row | {"effect": effect} | needed)
    return rows


def with_collapses(found: power.Variances, *accuracies: float) -> power.Variances:
    """The variances if a run of either method lost half of its accuracy with probability COLLAPSE."""
    added = COLLAPSE * (1 - COLLAPSE) * sum((accuracy / 2) ** 2 for accuracy in accuracies)
    return replace(found, seed=found.seed + added)


def with_collapsed_seeds(found: power.Variances, effect: float) -> power.Variances:
    """The variances if with probability COLLAPSE a seed halved the accuracies, and so the difference, of both."""
    square = 1 - COLLAPSE * 3 / 4
    added = COLLAPSE * (1 - COLLAPSE) * (effect / 2) ** 2
    return power.Variances(found.seed * square + added, found.question * square, found.rest * square)


def contributions(base: Base, ours: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Differences on each question by common seed, scaled so that their mean is the difference of the averages."""
    names = [name for name in tables.benchmarks(ours) if name != "average"]
    own = base.table("questions")
    own = own[own["benchmark"].isin(names)]
    first, second = (asked(own, runs) for runs in (ours, other))
    seeds = first.index.intersection(second.index)
    sizes = pd.Series(first.columns.get_level_values("benchmark")).value_counts()
    scale = first.columns.get_level_values("benchmark").map(first.shape[1] / (len(names) * sizes))
    return (first.loc[seeds] - second.loc[seeds]) * scale.to_numpy()


def asked(questions: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracies of a method by seed and question; InputError if one of its runs is not in table questions."""
    name = runs["method"].iloc[0]
    found = questions[questions["method"] == name]
    lacking = sorted(set(runs["seed"]) - set(found["seed"]))
    if lacking:
        raise InputError(f"table questions: found no {name}, seed {lacking[0]}, expected all runs of SFT and ProFit")
    return found.pivot(index="seed", columns=["benchmark", "question_id"], values="accuracy")


def power_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Table power, with its columns even if it has no row."""
    sizes = ["seeds", "questions", "seeds_needed", "questions_needed"]
    sizes += ["seeds_if_collapsed", "seeds_if_seeds_collapsed"]
    numbers = ["level", "variance_seed", "variance_question", "variance_rest", "least_effect", "effect"]
    columns = ["model", "claim", *sizes[:2], *numbers, *sizes[2:]]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(sizes, "Int64") | dict.fromkeys(numbers, float))
