"""Studies whose truth is known, drawn from the variances that the miniature was measured to have.

accuracy(method, seed, benchmark) = level + effect + seed x method + question x method + rest, averaged over QUESTIONS
questions a benchmark. Seed x method is new in every run; question x method is the same in all runs of a study, and new
in the next one, so that questions do not average out over seeds; rest is what the samples of a question do. Standard
deviations: of SFT and ProFit on the miniature (10 seeds, 100 questions a benchmark), by profit.power.split; question x
method is that of their difference. With probability COLLAPSE a seed collapses, and the runs of all methods with it, or
each run for itself: it loses half of its accuracy.

In 20,000 such studies where ProFit has 5 points over SFT, the claims of the first family are replicated in:

    seeds of each method          10                    25
    no collapse                   0.93, both 0.88       0.90, both 0.83
    one seed in ten collapses     0.87, both 0.80       0.79, both 0.68
    one run in ten collapses      0.41, both 0.37       0.81, both 0.77

5 points are the smallest effect of interest, and the rule refutes what is surely below it: a true 5 in 0.05, more
where a collapse leaves 4.75, and more with more seeds. Collapsed runs hide it as noise (27 seeds find both in 0.80). A
mean trimmed by 20 % (Yuen 1974) would find it in 0.85 with ten seeds, but does not see that a method collapses more
often: where ProFit alone does, in three runs of ten, and so is 0.9 points worse than SFT, it is replicated in 0.34; by
the mean in 0.03. A claim of the first family that is false is replicated in at most 0.04, one whose opposite is true
in at most 2 of 20,000.

`draw` and `findings` are for thousands of studies as arrays; `write_tables` writes one as tidy tables.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from profit.files import write_parquet
from profit.verdicts import Effect, Finding, effect

BENCHMARKS = ("same_length", "longer", "choice", "longest", "format")
LEVEL = np.array([0.66, 0.25, 0.49, 0.06, 0.27])
SEED = np.array([0.01, 0.03, 0.01, 0.02, 0.005])
QUESTION = np.array([0.10, 0.06, 0.10, 0.02, 0.02]) / np.sqrt(2)
REST = np.array([0.27, 0.31, 0.24, 0.18, 0.15])
QUESTIONS = 100
COLLAPSE = 0.1
TAUS, RANKS, EPOCHS = 5, 3, 5

Study = dict[str, np.ndarray]


def seeds_of(first: int, others: int) -> dict[str, int]:
    """Seeds of each method: `first` of SFT and ProFit, `others` of the rest, also of the sweeps."""
    names = ["vanilla", "sft_3ref", "entropy", "dft", "keep_low", *(f"profit_tau{i}" for i in range(1, TAUS))]
    for kind in ("sft", "profit"):
        names += [f"{kind}_rank{i}" for i in range(RANKS)] + [f"{kind}_epoch{i}" for i in range(EPOCHS)]
    return {"sft": first, "profit": first, **dict.fromkeys(names, others)}


def draw(
    studies: int, seeds: dict[str, int], effects: dict[str, float], collapse: float, shared: bool = False
) -> Study:
    """Accuracies of each method, shape (studies, seeds, benchmarks); `shared`: a seed collapses in all methods."""
    rng, falls, found = np.random.default_rng(0), np.random.default_rng(1), {}
    of_seed = falls.random((studies, max(seeds.values()), 1)) < collapse
    for name, count in seeds.items():
        of_run = rng.normal(size=(studies, count, len(LEVEL))) * np.hypot(SEED, REST / QUESTIONS**0.5)
        of_study = rng.normal(size=(studies, 1, len(LEVEL))) * QUESTION / QUESTIONS**0.5
        accuracy = LEVEL + effects.get(name, 0.0) + of_run + of_study
        fallen = of_seed[:, :count] if shared else falls.random((studies, count, 1)) < collapse
        found[name] = np.where(fallen, accuracy - np.maximum(accuracy, 0) / 2, accuracy)
    return found


def findings(study: Study, number: int) -> dict[str, Finding]:
    """The claims about accuracy in one of the drawn studies, as profit.claims has them."""

    def over(ours: str, other: str, column: int | None = None) -> Effect:
        common = min(study[ours].shape[1], study[other].shape[1])
        differences = study[ours][number, :common] - study[other][number, :common]
        return effect(differences.mean(axis=1) if column is None else differences[:, column])

    parts = {
        "profit_over_sft": [over("profit", "sft")],
        "profit_over_three": [over("profit", "sft_3ref")],
        "profit_over_sft_each": [over("profit", "sft", column) for column in range(len(LEVEL))],
        "profit_over_entropy": [over("profit", "entropy")],
        "profit_over_dft": [over("profit", "dft")],
        "profit_over_base": [over("profit", "vanilla")],
        "keep_high": [over("profit", "sft"), *(over(f"profit_tau{i}", "sft") for i in range(1, TAUS))],
        "keep_low": [over("sft", "keep_low")],
        "lora_ranks": [over(f"profit_rank{i}", f"sft_rank{i}") for i in range(RANKS)],
        "epochs": [over(f"profit_epoch{i}", f"sft_epoch{i}") for i in range(EPOCHS)],
        "references_accuracy": [over("sft_3ref", "sft")],
    }
    families = dict.fromkeys(parts, "rest") | dict.fromkeys(["profit_over_sft", "profit_over_three"], "first")
    return {name: Finding(own, 0.05, families[name]) for name, own in parts.items()}


# Methods of a written study: their settings, where they differ from SFT on one reference.
MASK = {"objective": "profit", "tau": 0.1, "direction": "higher"}
LORA = {"tuning": "lora", "learning_rate": 3e-3, "group": "lora_rank"}
METHODS = {
    "vanilla": {"objective": "vanilla", "references": 0, "tuning": None, "budget": None, "epochs": None,
                "learning_rate": None, "normaliser": None},
    "sft": {},
    "sft_3ref": {"references": 3},
    "entropy": {"objective": "entropy", "share": 0.2},
    "dft": {"objective": "dft"},
    "profit": MASK,
    "keep_low": {**MASK, "direction": "lower"},
    "random": {"objective": "random", "redraw": "step"},
    "random_fixed": {"objective": "random", "redraw": "never"},
    "profit_fixed": {**MASK, "objective": "profit_fixed"},
    "truth": {"objective": "truth", "keep": "core"},
    "profit_kept": {**MASK, "normaliser": "kept"},
    "sft_matched": {"match": "update_norm"},
    "sft_early": {"stop": 0.5},
    "sft_slow": {"learning_rate": 1e-4},
    "profit_tau0.5": {**MASK, "tau": 0.5, "group": "threshold"},
    "keep_low_tau0.5": {**MASK, "tau": 0.5, "direction": "lower", "group": "threshold"},
    "sft_rank4": {**LORA, "rank": 4},
    "profit_rank4": {**MASK, **LORA, "rank": 4},
    "sft_rank16": {**LORA, "rank": 16},
    "profit_rank16": {**MASK, **LORA, "rank": 16},
    "sft_epochs": {"group": "epochs", "epochs": 2},
    "profit_epochs": {**MASK, "group": "epochs", "epochs": 2},
    "sft_3ref_steps": {"references": 3, "budget": "steps", "group": "overfitting"},
    "sft_5ref": {"references": 5, "group": "overfitting"},
    "careful": {"group": "world"},
}  # fmt: skip
DEFAULT = {"group": "main", "objective": "sft", "tau": np.nan, "direction": None, "share": np.nan, "normaliser": "all",
           "tuning": "full", "rank": np.nan, "references": 1, "budget": "epochs", "learning_rate": 3e-4, "epochs": 3,
           "match": None, "stop": 1.0, "mix": 1.0, "keep": None, "redraw": None}  # fmt: skip
FEW = 20
STUDY = "planted"


def make_tables(
    effects: dict[str, float],
    seeds: dict[str, int] | int = 10,
    models: tuple[str, ...] = ("mini",),
    labels: str = "agreement",
) -> dict[str, pd.DataFrame]:
    """The tidy tables of one study with FEW questions a benchmark and everything that a claim may ask for.

    effects: what a method adds to each question's probability, 0.5; seeds: of all methods, or by method (others: 5).
    """
    rng, runs, questions = np.random.default_rng(1), [], []
    for model in models:
        for name, settings in METHODS.items():
            for seed in range(seeds if isinstance(seeds, int) else seeds.get(name, 5)):
                key = {"study": STUDY, "model": model, "method": name, "seed": seed}
                seconds = 4.0 * max(1, {**DEFAULT, **settings}["references"]) * rng.normal(1, 0.01)
                costs = {"cpu_seconds": seconds, "wall_seconds": 1.5 * seconds, "peak_memory_mb": 700.0}
                costs["steps"] = 57 * max(1, {**DEFAULT, **settings}["references"])
                runs.append({**key, **DEFAULT, **settings, **costs, "labels": labels, "world": "w0"})
                chance = 0.5 + effects.get(name, 0.0)
                epochs = [f"epoch{i}" for i in (1, 2)] if runs[-1]["group"] == "epochs" else ["final"]
                for checkpoint in epochs:
                    for benchmark in BENCHMARKS:
                        correct = rng.binomial(2, chance, FEW) / 2
                        row = {**key, "checkpoint": checkpoint, "benchmark": benchmark}
                        questions += [
                            row | {"question_id": f"q{i}", "accuracy": value} for i, value in enumerate(correct)
                        ]
    every = pd.DataFrame(questions)
    keys = ["study", "model", "method", "seed", "checkpoint", "benchmark"]
    evaluations = every.groupby(keys, sort=False)["accuracy"].mean().reset_index()
    epoch = evaluations["checkpoint"].str.removeprefix("epoch").replace("final", None).astype("Int64")
    evaluations = evaluations.assign(questions=FEW, samples=2, epoch=epoch)
    asked = every[every["method"].isin(["sft", "profit", "sft_3ref"])]
    means = {"method": "profit", "mean": 0.5, "low": 0.4, "high": 0.6, "seeds": 10}
    means |= {"difference_vs_sft": 0.1, "difference_low": 0.05, "difference_high": 0.15}
    named = [{"study": STUDY, "table": "table1", "model": model, **means} for model in models]
    return {
        "runs": pd.DataFrame(runs),
        "evaluations": evaluations,
        "main": pd.DataFrame([row | {"benchmark": name} for row in named for name in (*BENCHMARKS, "average")]),
        "questions": asked.drop(columns="checkpoint"),
        **make_tokens(rng, runs, models),
    }


def with_arms(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The same study with SFT on one reference for three times as long, and (model `more`) on twice the prompts.

    The one overfits twice as much and loses a tenth of its accuracy; the other half as much, and it loses a fifth.
    """
    found = {}
    for name, frame in tables.items():
        own = frame[frame["method"] == "sft"] if "method" in frame else frame.head(0)
        longer, more = own.assign(method="sft_1ref_3x"), own.assign(model="more")
        if name == "runs":
            longer = longer.assign(epochs=9, group="overfitting")
        elif name == "evaluations":
            longer, more = (rows.assign(accuracy=rows["accuracy"] * by) for rows, by in ((longer, 0.9), (more, 0.8)))
        elif name == "overfit":
            longer, more = (rows.assign(overfit=rows["overfit"] * by) for rows, by in ((longer, 2), (more, 0.5)))
        elif name == "questions":
            longer, more = longer.head(0), more.assign(accuracy=more["accuracy"] * 0.8)
        elif name == "main":
            more = frame.assign(model="more")
        found[name] = pd.concat([frame, longer, more], ignore_index=True)
    models = {"model": ["mini", "more"], "base": "mini", "world": "w0", "prompts": [300, 600]}
    return {**found, "models": pd.DataFrame(models).assign(study=STUDY)}


def make_tokens(rng: np.random.Generator, runs: list[dict], models: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """Tables about tokens: several references and ProFit overfit less, core tokens are probable, the theorem holds."""
    overfit, account, prompts, gradients, timed = [], [], [], [], []
    clock = np.random.default_rng(2)
    for run in runs:
        key = {name: run[name] for name in ("study", "model", "method", "seed")}
        if run["method"] in ("sft", "profit", "sft_3ref"):
            timed.append({**key, "seconds": 0.08 * clock.normal(1, 0.01)})
        for part in ("all", "core", "replaceable"):
            size = 0.02 * (0.5 if run["references"] > 1 or run["method"] == "profit" else 1) * rng.normal(1, 0.05)
            if run["objective"] == "sft" and run["group"] != "world":
                overfit.append({**key, "part": part, "overfit": size})
            changes = {"trained": 0.1, "held": 0.1 - size, "new": 0.1 - 2 * size}
            row = {**key, "label": part, "tokens": 50, "low": 0.0}
            account += [row | {"set": name, "high": 1.0, "change": value} for name, value in changes.items()]
            account.append(row | {"set": "held", "high": 0.1, "change": np.nan, "tokens": 0})
    for model, prompt in ((model, f"p{i}") for model in models for i in range(30)):
        key = {"study": STUDY, "model": model, "prompt_id": prompt}
        for annotator, label in ((a, x) for a in ("other", "agreement", "truth") for x in ("core", "replaceable")):
            tokens, mean = int(rng.integers(5, 20)), {"core": 0.8, "replaceable": 0.5}[label]
            low = int(rng.binomial(tokens, {"core": 0.02, "replaceable": 0.3}[label]))
            row = {**key, "annotator": annotator, "label": label, "tokens": tokens, "low": low}
            prompts.append(row | {"probability_sum": tokens * mean * rng.normal(1, 0.02)})
        for low, high, share in ((0.0, 0.1, 0.6), (0.1, 0.9, 0.3), (0.9, 1.0, 0.1)):
            tokens = int(10 * high) + 1
            gradients.append(
                {**key, "low": low, "high": high, "tokens": tokens, "share": share * rng.normal(1, 0.1) / 30}
            )
    theorem = {"study": STUDY, "tokens": 60, "violations": 0, "undecided": 0}
    return {
        "overfit": pd.DataFrame(overfit),
        "timing": pd.DataFrame(timed),
        "account": pd.DataFrame(account),
        "prompts": pd.DataFrame(prompts),
        "theorem": pd.DataFrame([theorem | {"model": model} for model in models]),
        "gradient_prompts": pd.DataFrame(gradients),
    }


def write_tables(folder: Path, tables: dict[str, pd.DataFrame]) -> Path:
    """Write tidy tables below `folder`, as Parquet."""
    for name, frame in tables.items():
        write_parquet(folder / f"{name}.parquet", frame)
    return folder
