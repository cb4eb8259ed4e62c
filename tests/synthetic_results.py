"""Made-up results of a study with every sweep, in the layout that the rules write; the numbers mean nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from profit.files import write_json, write_parquet

WORLD = "0123456789abcdef"
BENCHMARKS = ["same_length", "longer", "choice", "longest", "format"]
LEVEL = {"same_length": 0.75, "longer": 0.5, "choice": 0.3, "longest": 0.12, "format": 0.9}
GAIN = {"none": 0.0, "sft": 0.03, "dft": 0.06, "entropy": 0.01, "random": 0.02, "profit": 0.08}
FULL = {"kind": "full"}
STEPS = 12


def make_run(method: str, seed: int, objective: dict[str, Any], group: str = "main", **changes: Any) -> dict[str, Any]:
    """A method leaf as profit.runs makes it, with what the workflow adds."""
    trained = objective["name"] != "none"
    run = {
        "model": "mini",
        "method": method,
        "seed": seed,
        "objective": objective,
        "references": 1 if trained else 0,
        "budget": "epochs" if trained else None,
        "tuning": FULL if trained else None,
        "training": {"epochs": 3, "learning_rate": 1e-4} if trained else None,
        "keep_epochs": False,
        "paired_with": None,
        "group": group,
        "evaluations": ["final"],
        "overfit": group == "overfitting" or (method == "sft" and seed < 3) or (method == "sft_3ref" and seed < 3),
    }
    return run | changes


def profit(tau: float = 0.1, direction: str = "higher") -> dict[str, Any]:
    return {"name": "profit", "tau": tau, "direction": direction, "normaliser": "all"}


def full_study(seeds: int = 10) -> dict[str, Any]:
    """The default study's runs: eight main methods, sweeps of tau, rank, epochs and references."""
    fewer, sft = (seeds + 1) // 2, {"name": "sft", "normaliser": "all"}
    main = [
        ("vanilla", {"name": "none"}, fewer, {}),
        ("sft", sft, seeds, {}),
        ("sft_3ref", sft, fewer, {"references": 3}),
        ("entropy", {"name": "entropy", "share": 0.2, "normaliser": "all"}, fewer, {}),
        ("dft", {"name": "dft", "normaliser": "all"}, fewer, {}),
        ("profit", profit(), seeds, {}),
        ("keep_low", profit(direction="lower"), fewer, {}),
        ("random", {"name": "random", "normaliser": "all"}, fewer, {"paired_with": "profit"}),
    ]
    runs = [make_run(name, seed, aim, **more) for name, aim, count, more in main for seed in range(count)]
    bases = {"sft": sft, "profit": profit(), "keep_low": profit(direction="lower")}
    for tau in (0.3, 0.5, 0.7, 0.9):
        runs.append(make_run(f"profit_tau{tau}", 0, profit(tau), "threshold"))
        runs.append(make_run(f"keep_low_tau{tau}", 0, profit(tau, "lower"), "threshold"))
    for name, aim in bases.items():
        for rank in (4, 16, 64):
            changes = {"tuning": {"kind": "lora", "rank": rank}, "training": {"epochs": 3, "learning_rate": 1e-3}}
            runs.append(make_run(f"{name}_rank{rank}", 0, aim, "lora_rank", **changes))
        five = {"training": {"epochs": 5, "learning_rate": 1e-4}, "keep_epochs": True}
        five["evaluations"] = [f"epoch{epoch}" for epoch in range(1, 6)]
        runs.append(make_run(f"{name}_epochs", 0, aim, "epochs", **five))
    for count, budget in ((3, "steps"), (5, "epochs"), (5, "steps")):
        for seed in range(min(3, seeds)):
            name = f"sft_{count}ref" + ("_steps" if budget == "steps" else "")
            runs.append(make_run(name, seed, sft, "overfitting", references=count, budget=budget))
    return {"name": "made_up", "annotators": ["truth", "agreement"], "runs": runs}


def tune_study() -> dict[str, Any]:
    """Three learning rates, two seeds."""
    runs = [
        make_run(f"sft_lr{rate:g}", seed, {"name": "sft"}, "tune", training={"epochs": 3, "learning_rate": rate})
        for rate in (3e-5, 1e-4, 3e-4)
        for seed in (101, 102)
    ]
    return {"name": "made_up", "runs": runs}


def provenance(run: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"world": WORLD, "settings": run or {}, "cpu_seconds": 5.5, "wall_seconds": 6.0, "peak_memory_mb": 700.0}


def write_results(
    folder: Path, study: dict[str, Any], benchmarks: list[str] = BENCHMARKS, questions: int = 20
) -> Path:
    """Write all results of `study` below `folder`."""
    rng = np.random.default_rng(0)
    write_json(folder / "data" / "world.json", {"world": WORLD})
    for run in study["runs"]:
        place = f"{run['model']}/{run['method']}/seed{run['seed']}"
        if run["training"]:
            write_json(folder / "runs" / place / "train.json", {"provenance": provenance(run)})
            write_parquet(folder / "runs" / place / "steps.parquet", make_steps(run, rng))
        for checkpoint in run["evaluations"]:
            write_evaluation(folder / "evaluations" / place / checkpoint, run, checkpoint, benchmarks, questions, rng)
        if run["overfit"]:
            write_json(folder / "overfit" / f"{place}.json", make_overfit(run, rng))
    if "annotators" in study:
        write_analyses(folder, study["annotators"], rng)
    return folder


def make_steps(run: dict[str, Any], rng: np.random.Generator) -> pd.DataFrame:
    share = {"sft": 1.0, "dft": 1.0, "entropy": 0.2, "random": 0.8}.get(run["objective"]["name"], 0.8)
    share = 1 - share if run["objective"].get("direction") == "lower" else share
    steps = np.arange(1, STEPS + 1)
    frame = pd.DataFrame({"step": steps, "epoch": steps / STEPS * 3, "loss": 1.5 - 0.05 * steps})
    for name, shift in (
        ("kept", 0),
        ("kept_core", 0.08),
        ("kept_replaceable", -0.2),
        ("kept_fixed", 0.1),
        ("kept_end", 0.1),
    ):
        noisy = share + shift * (0 < share < 1) + 0.02 * rng.normal(size=STEPS) * (share < 1)
        frame[name] = np.clip(noisy, 0, 1)
    defaults = {"objective_loss": 0.8, "weight_mean": share, "near_tau": None, "grad_norm": 1.0, "clipped": False}
    return frame.assign(**defaults, learning_rate=1e-4, tokens=600 + steps, tokens_per_second=9000.0)


def write_evaluation(
    folder: Path, run: dict[str, Any], checkpoint: str, benchmarks: list[str], questions: int, rng: np.random.Generator
) -> None:
    summary, samples = {}, []
    for name in benchmarks:
        chance = LEVEL.get(name, 0.6) + GAIN[run["objective"]["name"]]
        chance -= 0.3 if run["objective"].get("direction") == "lower" else 0
        chance = min(0.98, max(0.02, chance + 0.03 * rng.normal()))
        correct = rng.random(2 * questions) < chance
        ids = [f"{name}-{number:03d}" for number in range(questions)]
        rows = {"benchmark": name, "question_id": np.repeat(ids, 2), "sample": [0, 1] * questions, "correct": correct}
        samples.append(pd.DataFrame(rows))
        accuracy = float(correct.mean())
        summary[name] = {"questions": questions, "samples": 2, "accuracy": accuracy, "accuracy_tight": accuracy}
        summary[name] |= {"accuracy_ended": None, "ended": 0.95, "cut": 0.05, "parsed": 0.97, "tokens_mean": 31.5}
    write_json(folder / "summary.json", {"benchmarks": summary, "provenance": provenance(run)})
    write_parquet(folder / "samples.parquet", pd.concat(samples, ignore_index=True))


def make_overfit(run: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    parts = {}
    for part, size in (("all", 0.2), ("core", 0.05), ("replaceable", 0.6)):
        gap = size / run["references"] + 0.02 * abs(rng.normal())
        parts[part] = {
            "nll_trained": 1.0,
            "nll_held": 1.0 + gap,
            "base_trained": 1.2,
            "base_held": 1.2,
            "overfit": gap,
        }
    diversity = {"distinct_2": 0.4, "pair_distance": 0.3}
    return {
        "parts": parts,
        "tokens_trained": 9000,
        "cpu_seconds": 5.5,
        "diversity": diversity,
        "provenance": provenance(run),
    }


def write_analyses(folder: Path, annotators: list[str], rng: np.random.Generator) -> None:
    """References, scores, annotations and what the rule correlate makes of them."""
    from profit.correlate import TAUS, Settings, densities, label_tokens, summarise

    references, scores, spans = [], [], []
    for prompt in range(30):
        words = (
            "Right then , Mia has 12 apples in her bag and then she goes on to gather 7 + 5 = 12 more of them".split()
        )
        labels = ["replaceable"] * 2 + ["fixed", "core", "fixed", "core", "core"] + ["replaceable"] * 9 + ["core"] * 6
        labels += ["replaceable"] * (len(words) - len(labels))
        name, at = f"p{prompt:03d}", 0
        for position, (word, label) in enumerate(zip(words, labels, strict=True)):
            draw = rng.beta(4, 1) if label != "replaceable" else rng.beta(0.7, 0.8)
            rows = (name, 0, position, 5, f"▁{word}", at, at + len(word), np.log(draw + 1e-9), 1.0, 0)
            scores.append(rows)
            spans.append((name, 0, at, at + len(word), label))
            at += len(word) + 1
        scores.append((name, 0, len(words), 1, "<end>", -1, -1, -0.05, 0.1, 0))
        references.append((name, 0, "Mia has some apples . How many ?", " ".join(words)))
    keys = ["prompt_id", "reference_id"]
    columns = [*keys, "position", "token_id", "token", "start", "end", "logprob", "entropy", "rank"]
    scores = pd.DataFrame(scores, columns=columns)
    spans = pd.DataFrame(spans, columns=[*keys, "start", "end", "label"])
    write_parquet(
        folder / "data" / "references.parquet", pd.DataFrame(references, columns=[*keys, "prompt", "answer"])
    )
    write_parquet(folder / "scores" / "mini" / "base.parquet", scores)
    probability, labels = np.exp(scores["logprob"].to_numpy()), label_tokens(scores, spans)
    for annotator in annotators:
        settings = Settings("mini", annotator, resamples=200, bootstrap=50)
        summary = summarise(probability, labels, scores["prompt_id"].to_numpy(), settings)
        assert len(summary["thresholds"]) == len(TAUS)
        content = {"model": "mini", "annotator": annotator, **summary, "provenance": provenance()}
        write_json(folder / "correlation" / "mini" / f"{annotator}.json", content)
        table = densities(probability, labels, settings)
        write_parquet(folder / "correlation" / "mini" / f"{annotator}.densities.parquet", table)
        write_parquet(folder / "annotations" / "references" / f"{annotator}.parquet", spans)
