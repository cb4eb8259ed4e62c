"""Results of a study's runs as tidy frames, checked on the way: settings, costs, steps and answers.

Every number comes from a file of a listed run. A file that is missing, truncated, not finite where it must be, made in
another world, or whose questions are not those of the other runs, is an InputError that names file and key.

What is known of their tokens is gathered by `profit.gather_tokens`.

No command: imported by `profit.tabulate`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from profit.files import InputError, read_json, read_parquet, read_parquet_metadata
from profit.steplog import COLUMNS

RUN = ["model", "method", "seed"]
MEASURES = ["accuracy", "accuracy_tight", "ended", "cut", "parsed", "tokens_mean"]
STEP_NUMBERS = ["loss", "kept", "tokens"]
COSTS = ["cpu_seconds", "wall_seconds", "peak_memory_mb"]
QUESTION = [*RUN, "benchmark", "question_id", "accuracy"]


def run_folder(run: dict[str, Any]) -> str:
    """<model>/<method>/seed<seed>, the place of a run below results/<study>/<stage>."""
    return f"{run['model']}/{run['method']}/seed{run['seed']}"


def worlds_of(results: Path, names: Mapping[str, str]) -> dict[str, str]:
    """Hash of its world, which every result of a model must carry, from the name of each model's world."""
    paths = {name: results / "data" / name / "world.json" for name in set(names.values())}
    hashes = {name: text(path, read_json(path), "world") for name, path in paths.items()}
    return {model: hashes[name] for model, name in names.items()}


def gather_runs(
    results: Path, runs: Sequence[dict[str, Any]], worlds: Mapping[str, str], labels: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a run, and one row an optimizer step of the trained runs of group main.

    `kept` of a run is the share of its target tokens with a weight above zero, over the whole training; `labels` names
    the annotator by whose labels the step log counts them.
    """
    rows, steps = [], []
    for run in runs:
        world = worlds[run["model"]]
        rows.append(settings_row(run) | {"labels": labels, "world": world})
        if run["objective"]["name"] == "none":
            continue
        folder = results / "runs" / run_folder(run)
        record = provenance(folder / "train.json", world)
        log = read_steps(folder / "steps.parquet")
        rows[-1] |= {
            "steps": len(log),
            "tokens_trained": int(log["tokens"].sum()),
            **{key: number(folder / "train.json", record, key, "provenance.") for key in COSTS},
            "device": text(folder / "train.json", record, "device", "provenance."),
            "kept": float(np.average(log["kept"], weights=log["tokens"])),
        }
        if run["group"] == "main":
            steps.append(log.assign(**{key: run[key] for key in RUN}))
    frame = pd.DataFrame(rows)
    columns = [*settings_row(runs[0]), "steps", "tokens_trained", *COSTS, "device", "kept", "labels", "world"]
    logs = pd.concat(steps, ignore_index=True) if steps else pd.DataFrame(columns=[*RUN, *COLUMNS])
    return frame.reindex(columns=columns).astype({"steps": "Int64", "tokens_trained": "Int64"}), logs[[*RUN, *COLUMNS]]


def settings_row(run: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run that tables and figures select by; empty where a run has none."""
    objective, tuning, training = run["objective"], run["tuning"] or {}, run["training"] or {}
    return {
        **{key: run[key] for key in RUN},
        "group": run["group"],
        "objective": "vanilla" if objective["name"] == "none" else objective["name"],
        "tau": objective.get("tau"),
        "direction": objective.get("direction"),
        "share": objective.get("share"),
        "redraw": objective.get("redraw"),
        "keep": objective.get("keep"),
        "normaliser": objective.get("normaliser"),
        "tuning": tuning.get("kind"),
        "rank": tuning.get("rank"),
        "references": run["references"],
        "budget": run["budget"],
        "learning_rate": training.get("learning_rate"),
        "epochs": training.get("epochs"),
        **{key: run[key] for key in ("match", "stop", "mix", "paired_with")},
    }


def read_steps(path: Path) -> pd.DataFrame:
    """The step log of a run; InputError if steps are missing or twice there, or a loss, share or count is NaN."""
    log = read_parquet(path, list(COLUMNS))
    if list(log["step"]) != list(range(1, len(log) + 1)) or log.empty:
        raise InputError(f"{path}, column step: found {summary(log['step'])}, expected 1, 2, … without a gap")
    for name in STEP_NUMBERS:
        wrong = ~np.isfinite(log[name].astype(float))
        if wrong.any():
            step = log.loc[wrong, "step"].iloc[0]
            raise InputError(
                f"{path}, column {name}, step {step}: found {log.loc[wrong, name].iloc[0]}, expected a number"
            )
    return log


def gather_evaluations(
    results: Path, runs: Sequence[dict[str, Any]], worlds: Mapping[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a run, checkpoint and benchmark; and one row a question, of the runs that `by_question` names.

    Raises:
        InputError: also where a summary disagrees with its own samples, or two runs answered different questions.
    """
    rows: list[dict[str, Any]] = []
    answers: list[pd.DataFrame] = []
    asked: dict[str, dict[str, Any]] = {}
    kept = by_question(runs)
    for run in runs:
        for checkpoint in run["evaluations"]:
            folder = results / "evaluations" / run_folder(run) / checkpoint
            path, world = folder / "summary.json", worlds[run["model"]]
            provenance(path, world)
            benchmarks = read_json(path).get("benchmarks")
            if not benchmarks:
                raise InputError(f"{path}, key benchmarks: found {benchmarks!r}, expected at least one benchmark")
            samples = check_samples(folder / "samples.parquet", path, benchmarks, asked.setdefault(world, {}))
            # JSON files have sorted keys; the samples stand in the order of the study.
            for name, own in samples.items():
                content = benchmarks[name]
                if checkpoint == "final" and (run["model"], run["method"]) in kept:
                    means = own.groupby("question_id", sort=False)["correct"].mean().rename("accuracy").reset_index()
                    answers.append(means.assign(**{key: run[key] for key in RUN}, benchmark=name))
                rows.append(
                    {
                        **{key: run[key] for key in RUN},
                        "checkpoint": checkpoint,
                        "epoch": epoch_of(run, checkpoint),
                        "benchmark": name,
                        "questions": content["questions"],
                        "samples": content["samples"],
                        **{key: number(path, content, key, f"benchmarks.{name}.") for key in MEASURES},
                        "accuracy_ended": content.get("accuracy_ended"),
                    }
                )
    columns = [*RUN, "checkpoint", "epoch", "benchmark", "questions", "samples", *MEASURES, "accuracy_ended"]
    questions = pd.concat(answers, ignore_index=True) if answers else pd.DataFrame(columns=QUESTION)
    frame = pd.DataFrame(rows, columns=columns).astype({"accuracy_ended": float, "epoch": "Int64"})
    return frame, questions[QUESTION]


def by_question(runs: Iterable[dict[str, Any]]) -> set[tuple[str, str]]:
    """(model, method) of SFT, on one or several references, and ProFit, with nothing else changed: the first claims'.

    Those of the main comparison and of the sweep of references, which may alone hold SFT on several.
    """
    return {
        (run["model"], run["method"])
        for run in runs
        if run["group"] in ("main", "overfitting")
        and (run["objective"]["name"], run["objective"].get("direction")) in (("sft", None), ("profit", "higher"))
        and run["match"] is None
        and run["stop"] == run["mix"] == 1
    }


def epoch_of(run: dict[str, Any], checkpoint: str) -> int | None:
    """Epochs trained at a checkpoint; none for vanilla."""
    if checkpoint.startswith("epoch"):
        return int(checkpoint.removeprefix("epoch"))
    return run["training"]["epochs"] if run["training"] else None


def check_samples(
    path: Path, summary_path: Path, benchmarks: dict[str, Any], asked: dict[str, Any]
) -> dict[str, pd.DataFrame]:
    """Compare samples with their summary and with the questions of its world's runs before, which `asked` remembers.

    Returns the samples of each benchmark, in their order.
    """
    samples = read_parquet(path, ["benchmark", "question_id", "sample", "correct"])
    found = {str(name): rows for name, rows in samples.groupby("benchmark", sort=False)}
    if set(found) != set(benchmarks):
        raise InputError(
            f"{path}, column benchmark: found {sorted(found)}, expected {sorted(benchmarks)} as {summary_path}"
        )
    for name, rows in found.items():
        keys = frozenset(zip(rows["question_id"], rows["sample"], strict=True))
        accuracy = float(rows["correct"].mean())
        said = number(summary_path, benchmarks[name], "accuracy", f"benchmarks.{name}.")
        if len(keys) != len(rows) or not math.isclose(accuracy, said, abs_tol=1e-6):
            raise InputError(
                f"{summary_path}, key benchmarks.{name}.accuracy: found {said}, expected {accuracy}, the mean of the "
                f"{len(rows)} samples ({len(keys)} different) in {path.name}"
            )
        before, where = asked.setdefault(name, (keys, path))
        if before != keys:
            other = sorted(map(str, before ^ keys))[:3]
            raise InputError(
                f"{path}, benchmark {name}: found {len(keys)} (question, sample) pairs, expected the {len(before)} of "
                f"{where}; not in both: {', '.join(other)}"
            )
    return found


def provenance(path: Path, world: str) -> dict[str, Any]:
    """The provenance of a result, JSON or Parquet; InputError if it comes from another world than its model's."""
    content = read_json(path) if path.suffix == ".json" else read_parquet_metadata(path)
    record = content.get("provenance")
    if not isinstance(record, dict):
        raise InputError(f"{path}, key provenance: found {record!r}, expected the account of its job")
    if record.get("world") != world:
        raise InputError(
            f"{path}, key provenance.world: found {record.get('world')!r}, expected {world!r}, its model's world"
        )
    return record


def number(path: Path, content: dict[str, Any], key: str, prefix: str = "") -> float:
    """A finite number of a JSON file; InputError with file and key path otherwise (JSON writes NaN as null)."""
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path}, key {prefix}{key}: found {value!r}, expected a finite number")
    return float(value)


def text(path: Path, content: dict[str, Any], key: str, prefix: str = "") -> str:
    """A text of a JSON file."""
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}, key {prefix}{key}: found {value!r}, expected a text")
    return value


def summary(values: pd.Series) -> str:
    """A few values for a message."""
    shown = ", ".join(map(str, values.head(5)))
    return f"{len(values)} values ({shown}{', …' if len(values) > 5 else ''})"
