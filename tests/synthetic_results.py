"""Made-up results of studies with every sweep, in the layout that the rules write; the numbers mean nothing."""

import json
from itertools import product
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pandas as pd

from profit.files import write_json, write_parquet
from profit.runs import listed, runs_of, study_runs, tune_runs
from profit.study import Study

WORLD = "0123456789abcdef"
BENCHMARKS = ["same_length", "longer", "choice", "longest", "format"]
REASONING = ["gpqa_diamond", "gsm8k", "math_500", "aime_2024", "ifeval"]
GENERAL = ["hellaswag", "arc_challenge", "humaneval", "mmlu_pro_history", "mmlu_pro_chemistry"]
QWEN = ["Qwen3-0.6B-Base", "Qwen3-4B-Base", "Qwen3-14B-Base"]
BASES = [*QWEN, "OLMo-2-7B", "Llama-3.1-8B"]
INSTRUCT = [f"Qwen2.5-{size}-Instruct" for size in ("0.5B", "3B", "7B")]
LEVEL = {"same_length": 0.75, "longer": 0.5, "choice": 0.3, "longest": 0.12, "format": 0.9, "aime_2024": 0.1}
GAIN = {"none": 0.0, "sft": 0.03, "dft": 0.06, "entropy": 0.01, "random": 0.02, "profit": 0.08}
STEPS = 12


def full_study(seeds: int = 10) -> dict[str, Any]:
    """The default study: eight main methods, sweeps of tau, rank, epochs and references."""
    fewer = (seeds + 1) // 2
    return {
        "name": "made_up",
        "models": {"mini": {"source": "miniature"}},
        "methods": {
            "vanilla": {"objective": "none", "seeds": fewer},
            "sft": {"objective": "sft", "seeds": seeds},
            "sft_3ref": {"objective": "sft", "references": 3, "seeds": fewer},
            "entropy": {"objective": "entropy", "seeds": fewer},
            "dft": {"objective": "dft", "seeds": fewer},
            "profit": {"objective": "profit", "seeds": seeds},
            "keep_low": {"objective": "profit", "direction": "lower", "seeds": fewer},
            "random": {"objective": "random", "paired_with": "profit", "seeds": fewer},
        },
        "sweeps": {
            "threshold": {"methods": ["profit", "keep_low"], "tau": [0.1, 0.3, 0.5, 0.7, 0.9]},
            "lora_rank": {"methods": ["sft", "profit", "keep_low"], "rank": [4, 16, 64]},
            "epochs": {"methods": ["sft", "profit", "keep_low"], "epochs": 5},
            "overfitting": {"method": "sft", "references": [1, 3, 5], "seeds": min(3, seeds)},
        },
        "benchmarks": {name: {"task": f"mini_{name}", "max_new_tokens": 100} for name in BENCHMARKS},
        "analysis": {
            "gradients": {},
            "account": ["sft", "profit"],
            "drift": ["sft", "profit"],
            "answer_style": ["vanilla", "sft", "profit"],
            "timing": {"methods": ["sft", "profit"], "seeds": 3, "steps": 4},
        },
    }


def one_seed_study() -> dict[str, Any]:
    """As small as the smoke study: one seed, three methods, a sweep of each kind."""
    study = full_study(seeds=1)
    study["methods"] = {name: study["methods"][name] for name in ("vanilla", "sft", "profit")}
    for sweep in ("threshold", "lora_rank", "epochs"):
        study["sweeps"][sweep]["methods"] = [name for name in study["sweeps"][sweep]["methods"] if name != "keep_low"]
    study["sweeps"]["overfitting"] |= {"references": [1, 5], "budgets": ["steps"]}
    return study


def controlled_study() -> dict[str, Any]:
    """SFT, ProFit and each control, the controls first, so that a control taken for SFT or ProFit shows."""
    study, own = full_study(seeds=2), {}
    for name, settings in {
        "sft_stopped": {"objective": "sft", "stop": 0.5},
        "sft_mixed": {"objective": "sft", "mix": 0.5},
        "sft_matched": {"objective": "sft", "match": "update_norm", "paired_with": "profit"},
        "random_fixed": {"objective": "random", "redraw": "never", "paired_with": "profit"},
        "profit_fixed": {"objective": "profit_fixed"},
        "core": {"objective": "truth", "keep": "core"},
        "replaceable": {"objective": "truth", "keep": "replaceable"},
        "profit_stopped": {"objective": "profit", "stop": 0.5},
    }.items():
        own[name] = {**settings, "seeds": 2}
    study["methods"] = own | study["methods"]
    return study


def paper_study(seeds: int = 3, models: list[str] = BASES + INSTRUCT) -> dict[str, Any]:
    """The paper's own: eight models, three tables, sweeps on some models; some methods lack on some of them."""

    def among(names: list[str]) -> list[str]:
        return [name for name in names if name in models]

    item = {"questions": 20, "max_new_tokens": 1000}
    benchmarks = {
        name: {**item, "task": f"paper_{name}", "source": {"file": f"{name}.json"}} for name in REASONING + GENERAL
    }
    several = {"objective": "sft", "references": 3, "seeds": seeds, "models": ["Qwen3-4B-Base"]}
    return {
        "name": "paper_like",
        "models": {name: {"source": f"owner/{name}"} for name in models},
        "data": {"sources": [{"file": "a.jsonl"}], "references": 4, "held": 1},
        "training": {"epochs": 1, "learning_rate": 1e-5},
        "methods": {
            "vanilla": {"objective": "none", "seeds": 1},
            "sft": {"objective": "sft", "seeds": seeds},
            "sft_3ref": several,
            "entropy": {"objective": "entropy", "seeds": seeds, "models": among(BASES)},
            "dft": {"objective": "dft", "seeds": seeds, "models": [name for name in models if name != "OLMo-2-7B"]},
            "profit": {"objective": "profit", "seeds": seeds},
            "profit_0.5": {"objective": "profit", "tau": 0.5, "seeds": 1, "models": among(QWEN)},
            "keep_low": {"objective": "profit", "direction": "lower", "seeds": 1, "models": QWEN[:2]},
        },
        "sweeps": {
            "threshold": {"methods": ["profit", "keep_low"], "tau": [0.1, 0.5, 0.9], "models": QWEN[1:2]},
            "lora_rank": {"methods": ["sft", "profit"], "rank": [4, 16, 1024], "models": QWEN[1:2]},
            "epochs": {"methods": ["sft", "profit", "profit_0.5", "keep_low"], "epochs": 3, "models": QWEN[:2]},
            "overfitting": {"method": "sft", "references": [1, 3], "benchmark": "gsm8k", "models": QWEN[1:2]},
        },
        "benchmarks": benchmarks,
        "tables": {
            "table1": {"models": among(BASES), "benchmarks": REASONING},
            "table2": {"models": among(INSTRUCT), "benchmarks": REASONING},
            "table3": {"models": among(QWEN), "benchmarks": GENERAL},
        },
        "analysis": {"annotators": ["agreement"], "gradients": {}},
    }


def arms_study() -> dict[str, Any]:
    """Every arm of the sweep of references; `more` is mini met by twice the prompts, with SFT alone."""
    study = full_study(seeds=3)
    study["data"] = {"prompts": 300}
    study["models"]["more"] = {"source": "miniature", "like": "mini", "prompts": 600, "methods": ["sft"]}
    for name in ("threshold", "lora_rank", "epochs"):
        study["sweeps"][name]["models"] = ["mini"]
    study["sweeps"]["overfitting"] |= {"references": [1, 2, 3], "budgets": ["steps", "epochs", "longer"], "seeds": 2}
    return study


def tune_study() -> dict[str, Any]:
    """Three learning rates, two seeds."""
    validation = {"task": "mini_validation", "max_new_tokens": 100}
    rates = {"learning_rates": [3e-5, 1e-4, 3e-4], "seeds": [101, 102], "validation": validation}
    return {**full_study(), "tune": rates}


def rated_study(content: dict[str, Any], seeds: int) -> dict[str, Any]:
    """A study whose methods SFT, ProFit and, where it is there, SFT on three references train at each rate."""
    methods = [name for name in ("sft", "sft_3ref", "profit") if name in content["methods"]]
    tune = tune_study()["tune"] | {"methods": methods}
    return {**content, "tune": tune, "sweeps": {**content["sweeps"], "learning_rate": {"seeds": seeds}}}


def listed_study(content: dict[str, Any], tune: bool = False) -> dict[str, Any]:
    """What rule tabulate knows of a study, or of the runs that choose its learning rate."""
    study = Study.model_validate(content)
    runs = runs_of(study)
    chosen = tune_runs(runs) if tune else study_runs(runs)
    return listed(study, chosen) | {"labels": study.labels}


def write_study(path: Path, content: dict[str, Any]) -> Path:
    """A study file; JSON is YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
    return path


def provenance(run: dict[str, Any] | None = None) -> dict[str, Any]:
    costs = {"cpu_seconds": 5.5, "wall_seconds": 6.0, "peak_memory_mb": 700.0}
    return {"world": WORLD, "settings": run or {}, "device": "cpu", **costs}


def write_results(folder: Path, content: dict[str, Any], questions: int = 20, tune: bool = False) -> Path:
    """Write all results of a study below `folder`."""
    rng, study = np.random.default_rng(0), listed_study(content, tune)
    write_json(folder / "data" / "shared" / "world.json", {"world": WORLD})
    for run in study["runs"]:
        place = f"{run['model']}/{run['method']}/seed{run['seed']}"
        asked = [table["benchmarks"] for table in study["tables"].values() if run["model"] in table["models"]]
        names = ["validation"] if tune else list(dict.fromkeys(sum(asked, [])))
        if run["training"]:
            write_json(folder / "runs" / place / "train.json", {"provenance": provenance(run)})
            steps = make_steps(run, rng)
            if study["labels"] is None:
                steps[[name for name in steps if name.startswith("kept_")]] = np.nan
            write_parquet(folder / "runs" / place / "steps.parquet", steps)
        for checkpoint in run["evaluations"]:
            write_evaluation(folder / "evaluations" / place / checkpoint, run, names, questions, rng)
        if run["overfit"]:
            overfit = make_overfit(run, rng, ["all"] if study["labels"] is None else ["all", "core", "replaceable"])
            write_json(folder / "overfit" / f"{place}.json", overfit)
        if run["account"]:
            cells = make_cells(run, study["labels"] is not None)
            write_parquet(folder / "account" / f"{place}.parquet", cells, {"provenance": provenance(run)})
        if run["drift"]:
            write_json(folder / "drift" / f"{place}.json", make_drift(run, rng))
    if not tune and study["annotators"]:
        write_analyses(folder, list(content["models"]), study["annotators"], rng)
        for world, kind in product(set(study["worlds"].values()) - {"shared"}, ("data", "annotations")):
            copytree(folder / kind / "shared", folder / kind / world)
    for model in content["models"] if study["gradients"] and not tune else ():
        write_gradients(folder / "gradients" / model, study["labels"] is not None, rng)
    for model, timing in study["timing"].items() if not tune else ():
        places = product(timing["methods"], range(timing["seeds"]), range(2, timing["steps"] + 1))
        rows = pd.DataFrame(places, columns=["method", "seed", "step"])
        rows = rows.assign(tokens=600, seconds=0.08 + 0.001 * rows["step"] + 0.004 * (rows["method"] == "profit"))
        write_parquet(folder / "timing" / f"{model}.parquet", rows, {"provenance": provenance()})
    for model in content["models"]:
        asked = [table["benchmarks"] for table in study["tables"].values() if model in table["models"]]
        if styled := [run for run in study["runs"] if run["answer_style"] and run["model"] == model]:
            rows = make_style(styled, list(dict.fromkeys(sum(asked, []))), study["labels"] == "truth")
            write_parquet(folder / "answer_style" / f"{model}.parquet", rows, {"provenance": provenance()})
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
    return frame.assign(**defaults, update_norm=0.02, learning_rate=1e-4, tokens=600 + steps, tokens_per_second=9000.0)


def write_evaluation(
    folder: Path, run: dict[str, Any], benchmarks: list[str], questions: int, rng: np.random.Generator
) -> None:
    summary, samples = {}, []
    for name in benchmarks:
        chance = LEVEL.get(name, 0.6) + GAIN.get(run["objective"]["name"], 0.04)
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


def make_overfit(run: dict[str, Any], rng: np.random.Generator, names: list[str]) -> dict[str, Any]:
    parts, size = {}, {"all": 0.2, "core": 0.05, "replaceable": 0.6}
    for part in names:
        gap = size[part] / run["references"] + 0.02 * abs(rng.normal())
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


def make_cells(run: dict[str, Any], labelled: bool) -> pd.DataFrame:
    """Core tokens rise, replaceable ones fall, fixed ones stay; a bin without core tokens; the end in the last bin."""
    from profit.correlate import BIN_EDGES

    named = {key: run[key] for key in ("model", "method", "seed", "references", "budget")}
    rng, bins = np.random.default_rng(run["seed"]), list(zip(BIN_EDGES[:-1], BIN_EDGES[1:], strict=True))
    tokens = {"core": [3, 5, 0, 8, 20, 200], "replaceable": [60, 30, 20, 15, 10, 5], "fixed": [0, 0, 0, 1, 1, 2000]}
    tokens["end"] = [0, 0, 0, 0, 0, 30]
    tokens = {"all": np.sum(list(tokens.values()), axis=0).tolist()} | (tokens if labelled else {})
    size, rows = {"all": 0.05, "core": 0.3, "replaceable": -0.3, "fixed": 0.0, "end": 0.0}, []
    for name in ("trained", "held"):
        for label, counts in tokens.items():
            for (low, high), count in zip([(0.0, 1.0), *bins], [sum(counts), *counts], strict=True):
                row = {**named, "set": name, "label": label, "low": low, "high": high, "tokens": count}
                change = size[label] * (1.1 - low) + 0.01 * rng.normal() if count else np.nan
                rows.append(row | {"change": change, "change_low": change - 0.1, "change_high": change + 0.1})
    shares = {"raised": 0.5, "lowered": 0.2, "probability_before": 0.5, "probability_after": 0.6}
    return pd.DataFrame(rows).assign(**shares)


def make_drift(run: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    parts = {
        part: {"tokens": 40, "kl_base_run": abs(rng.normal()), "kl_run_base": abs(rng.normal())}
        for part in ("all", "core")
    }
    parts["end"] = {"tokens": 0, "kl_base_run": None, "kl_run_base": None}
    weights = {"distance": 1.5, "base": 30.0, "relative": 0.05}
    return {"references": 3, "parts": parts, "weights": weights, "provenance": provenance(run)}


def make_style(runs: list[dict[str, Any]], benchmarks: list[str], known: bool) -> pd.DataFrame:
    """What rule answer_style makes of the runs of a model; without `known` wordings some columns are empty."""
    rng, rows = np.random.default_rng(3), []
    named = [{key: run[key] for key in ("model", "method", "seed")} for run in runs]
    for run in [*named, {"model": runs[0]["model"], "method": "references", "seed": 0}]:
        rare = {"vanilla": 0.02, "sft": 0.12, "references": 0.39}.get(run["method"], 0.03) + 0.002 * rng.normal()
        for name in ["same_length"] if run["method"] == "references" else [*benchmarks, "all"]:
            row = {**run, "benchmark": name, "answers": 200, "tokens_mean": 30 + rng.normal()}
            row["cut"] = rng.random() / 50
            row |= {"distinct_2": 0.2, "pair_distance": 0.5 + 0.02 * rng.normal(), "wordings": 600.0, "rare": rare}
            rows.append(row)
    frame = pd.DataFrame(rows).assign(ended=lambda found: 1 - found.cut)
    frame["adopted"] = (frame["rare"] - 0.02) / 0.37
    frame.loc[frame["benchmark"] == "all", ["distinct_2", "pair_distance"]] = np.nan
    frame.loc[frame["method"] == "references", ["cut", "ended"]] = np.nan
    unknown = [] if known else ["wordings", "rare", "adopted"]
    return frame.assign(**dict.fromkeys(unknown, np.nan))


def write_gradients(path: Path, labelled: bool, rng: np.random.Generator) -> None:
    """What rule gradients makes of 300 tokens of 20 prompts."""
    from profit.correlate import BIN_EDGES

    tokens = pd.DataFrame({"prompt_id": [f"p{place % 20:03d}" for place in range(300)]})
    tokens["probability"] = np.append(rng.beta(0.6, 0.4, 299), 1.0)
    tokens["label"] = np.resize(["core", "replaceable", "core", "fixed", "end"], 300) if labelled else None
    tokens["share"] = (1 - tokens["probability"] + 0.2 * rng.normal(size=300)) / 100
    tokens["share"] /= tokens["share"].sum()
    groups = []
    for label in ("all", *(("core", "replaceable", "fixed", "end") if labelled else ())):
        for low, high in [(0.0, 1.0), *zip(BIN_EDGES[:-1], BIN_EDGES[1:], strict=True)]:
            own = tokens[(tokens["probability"] >= low) & ((tokens["probability"] < high) | (high == 1))]
            own = own if label == "all" else own[own["label"] == label]
            part, share = len(own) / len(tokens), float(own["share"].sum())
            row = {"label": label, "low": low, "high": high, "tokens": len(own), "norm": 0.1, "cosine": 0.5}
            row |= {"token_share": part, "share": share, "share_low": share - 0.03, "share_high": share + 0.05}
            ratio = share / part if part else None
            groups.append(row | {"ratio": ratio, "ratio_low": ratio, "ratio_high": ratio})
    theorem = {"tied": True, "tokens": 60, "violations": 0, "undecided": 2, "above_head_bound": 58}
    theorem |= {
        "looseness": {"low": 1.1, "median": 2.5, "high": 8.0},
        "exact": {"tokens": 3, "looseness": [1.5, 2, 3]},
    }
    theorem |= {"rank_correlation": {"norm": 0.9, "share_of_all_tokens": 0.7}}
    sample = {"prompts": 20, "tokens": 300, "parameters": 1000}
    content = {"sample": sample, "theorem": theorem, "groups": groups, "provenance": provenance()}
    write_json(path.with_name(f"{path.name}.json"), content)
    write_parquet(path.with_name(f"{path.name}.parquet"), tokens, {"provenance": provenance()})


def write_analyses(folder: Path, models: list[str], annotators: list[str], rng: np.random.Generator) -> None:
    """References, scores, annotations, their agreement, and what the rule correlate makes of them."""
    from profit.correlate import TAUS, Settings, by_prompt, densities, label_tokens, summarise

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
        folder / "data" / "shared" / "references.parquet",
        pd.DataFrame(references, columns=[*keys, "prompt", "answer"]),
    )
    probability, labels = np.exp(scores["logprob"].to_numpy()), label_tokens(scores, spans)
    for annotator in annotators:
        write_parquet(folder / "annotations" / "shared" / "references" / f"{annotator}.parquet", spans)
        settings = Settings("any", annotator, resamples=200, bootstrap=50)
        summary = summarise(probability, labels, scores["prompt_id"].to_numpy(), settings)
        assert len(summary["thresholds"]) == len(TAUS)
        table = densities(probability, labels, settings)
        prompts = by_prompt(probability, labels, scores["prompt_id"].to_numpy(), settings)
        for model in models:
            place = folder / "correlation" / model
            content = {"model": model, "annotator": annotator, **summary, "provenance": provenance()}
            write_json(place / f"{annotator}.json", content)
            write_parquet(place / f"{annotator}.densities.parquet", table.assign(model=model))
            made = prompts.assign(model=model)
            write_parquet(place / f"{annotator}.prompts.parquet", made, {"provenance": provenance()})
    for model in models:
        write_parquet(folder / "scores" / model / "base.parquet", scores)
    if len(annotators) > 1 and "truth" not in annotators:
        write_json(folder / "agreement" / "shared.json", make_agreement(*annotators[:2]))


def make_agreement(first: str, second: str) -> dict[str, Any]:
    def ratio(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.02, "high": value + 0.01}

    parts = {"all": ("accuracy", 0.9, "kappa", 0.7), "core_and_replaceable": ("accuracy", 0.85, "kappa", 0.65)}
    found = {part: {a: ratio(x), b: ratio(y), "units": 600, "prompts": 30} for part, (a, x, b, y) in parts.items()}
    counts = {"unit": "word", "answers": 30, "answers_of_first_alone": 2, "answers_of_second_alone": 0}
    return {"first": first, "second": second, **counts, **found, "confusion": {}, "provenance": provenance()}
