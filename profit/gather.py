"""Results of a study's runs as tidy frames, checked on the way: what `profit.tabulate` writes down.

Every number comes from a file of a listed run. A file that is missing, truncated, not finite where it must be, made in
another world, or whose questions are not those of the other runs, is an InputError that names file and key.

No command: imported by `profit.tabulate`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from profit.files import InputError, read_json, read_parquet
from profit.steplog import COLUMNS

RUN = ["model", "method", "seed"]
MEASURES = ["accuracy", "accuracy_tight", "ended", "cut", "parsed", "tokens_mean"]
STEP_NUMBERS = ["loss", "kept", "tokens"]
OVERFIT_MEASURES = ["nll_trained", "nll_held", "base_trained", "base_held", "overfit"]
COSTS = ["cpu_seconds", "wall_seconds", "peak_memory_mb"]


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
            "kept": float(np.average(log["kept"], weights=log["tokens"])),
        }
        if run["group"] == "main":
            steps.append(log.assign(**{key: run[key] for key in RUN}))
    frame = pd.DataFrame(rows)
    columns = [*settings_row(runs[0]), "steps", "tokens_trained", *COSTS, "kept", "labels", "world"]
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
        "normaliser": objective.get("normaliser"),
        "tuning": tuning.get("kind"),
        "rank": tuning.get("rank"),
        "references": run["references"],
        "budget": run["budget"],
        "learning_rate": training.get("learning_rate"),
        "epochs": training.get("epochs"),
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


def gather_evaluations(results: Path, runs: Iterable[dict[str, Any]], worlds: Mapping[str, str]) -> pd.DataFrame:
    """One row a run, checkpoint and benchmark.

    Raises:
        InputError: also where a summary disagrees with its own samples, or two runs answered different questions.
    """
    rows: list[dict[str, Any]] = []
    asked: dict[str, dict[str, Any]] = {}
    for run in runs:
        for checkpoint in run["evaluations"]:
            folder = results / "evaluations" / run_folder(run) / checkpoint
            path, world = folder / "summary.json", worlds[run["model"]]
            provenance(path, world)
            benchmarks = read_json(path).get("benchmarks")
            if not benchmarks:
                raise InputError(f"{path}, key benchmarks: found {benchmarks!r}, expected at least one benchmark")
            # JSON files have sorted keys; the samples stand in the order of the study.
            for name in check_samples(folder / "samples.parquet", path, benchmarks, asked.setdefault(world, {})):
                content = benchmarks[name]
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
    return pd.DataFrame(rows, columns=columns).astype({"accuracy_ended": float, "epoch": "Int64"})


def epoch_of(run: dict[str, Any], checkpoint: str) -> int | None:
    """Epochs trained at a checkpoint; none for vanilla."""
    if checkpoint.startswith("epoch"):
        return int(checkpoint.removeprefix("epoch"))
    return run["training"]["epochs"] if run["training"] else None


def check_samples(path: Path, summary_path: Path, benchmarks: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Compare samples with their summary and with the questions of its world's runs before, which `asked` remembers.

    Returns the benchmarks in the order of the samples.
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
    return list(found)


def gather_overfit(results: Path, runs: Iterable[dict[str, Any]], worlds: Mapping[str, str]) -> pd.DataFrame:
    """One row a run and part of the tokens, of the runs listed with `overfit`."""
    rows = []
    for run in runs:
        if not run.get("overfit"):
            continue
        path = results / "overfit" / f"{run_folder(run)}.json"
        provenance(path, worlds[run["model"]])
        content = read_json(path)
        for part, values in content["parts"].items():
            rows.append(
                {
                    **{key: run[key] for key in RUN},
                    "references": run["references"],
                    "budget": run["budget"],
                    "part": part,
                    **{key: number(path, values, key, f"parts.{part}.") for key in OVERFIT_MEASURES},
                    **{key: content["diversity"][key] for key in ("distinct_2", "pair_distance")},
                    **{key: number(path, content, key) for key in ("tokens_trained", "cpu_seconds")},
                }
            )
    columns = [*RUN, "references", "budget", "part", *OVERFIT_MEASURES, "distinct_2", "pair_distance"]
    return pd.DataFrame(rows, columns=[*columns, "tokens_trained", "cpu_seconds"])


def gather_correlation(
    results: Path, models: Sequence[str], annotators: Sequence[str], worlds: Mapping[str, str]
) -> dict[str, pd.DataFrame]:
    """Tables correlation (one row a model and annotator), threshold_loss and densities."""
    flat, losses, densities = [], [], []
    for model in models:
        for annotator in annotators:
            path = results / "correlation" / model / f"{annotator}.json"
            provenance(path, worlds[model])
            content = read_json(path)
            keys = {"model": model, "annotator": annotator}
            flat.append(keys | flatten({key: value for key, value in content.items() if key not in UNTIDY}))
            columns = ["tau", "core_below", "replaceable_above", "below", "core_share_below"]
            losses += [keys | {key: row.get(key) for key in columns} for row in content["thresholds"]]
            columns = ["model", "annotator", "label", "low", "high", "tokens"]
            densities.append(read_parquet(path.with_name(f"{annotator}.densities.parquet"), columns))
    return {
        "correlation": pd.DataFrame(flat),
        "threshold_loss": pd.DataFrame(losses),
        "densities": pd.concat(densities, ignore_index=True),
    }


def gather_agreement(path: Path, annotators: Sequence[str], world: str) -> pd.DataFrame:
    """Table agreement: one row a part of the labels of two annotators, with bootstrap intervals over prompts."""
    provenance(path, world)
    content = read_json(path)
    if [content.get("first"), content.get("second")] != list(annotators):
        found = f"{content.get('first')!r} and {content.get('second')!r}"
        raise InputError(f"{path}, keys first and second: found {found}, expected {' and '.join(annotators)}")
    rows = []
    for part in ("all", "core_and_replaceable"):
        counts = ("answers", "answers_of_first_alone", "answers_of_second_alone")
        row = {key: content[key] for key in ("first", "second", "unit", *counts)} | {"part": part}
        row |= {key: content[part][key] for key in ("units", "prompts")}
        for name in ("accuracy", "kappa"):
            values = content[part][name]
            row |= {name: values["value"], f"{name}_low": values["low"], f"{name}_high": values["high"]}
        rows.append(row)
    kinds = {f"{name}{end}": float for name in ("accuracy", "kappa") for end in ("", "_low", "_high")}
    return pd.DataFrame(rows).astype(kinds)


UNTIDY = ("model", "annotator", "thresholds", "bins", "provenance")


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"a": {"b": 1}} is {"a_b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}{key}_") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def provenance(path: Path, world: str) -> dict[str, Any]:
    """The provenance of a JSON result; InputError if it comes from another world than its model's."""
    record = read_json(path).get("provenance")
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


def text(path: Path, content: dict[str, Any], key: str) -> str:
    """A text of a JSON file."""
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{path}, key {key}: found {value!r}, expected a text")
    return value


def summary(values: pd.Series) -> str:
    """A few values for a message."""
    shown = ", ".join(map(str, values.head(5)))
    return f"{len(values)} values ({shown}{', …' if len(values) > 5 else ''})"
