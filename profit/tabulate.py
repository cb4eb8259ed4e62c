"""Rule `tabulate`: the results of a study as tidy tables, CSV and Parquet, which figures, claims and readers share.

Table `main` is the paper's Table 1 with what it lacks: for each method and benchmark the mean over seeds with a 95 %
Student t interval, and the difference to SFT paired by seed (the same data, order and questions). Added to the
benchmarks are `average` (of all), `learnt` (the benchmark like the references) and `kept` (the mean of the others).
One seed has no interval: low and high are empty, and the text calls it descriptive.

    python -m profit.tabulate --study '{"name": "miniature", "annotators": ["truth"], "runs": [{…leaf…,
        "group": "main", "evaluations": ["final"], "overfit": false}, …]}' \
        --results results/miniature --output-folder results/miniature/tables

With `--tune` the runs are those of the choice of the learning rate, and only table `tune` is written: the rate with
the highest mean accuracy is chosen, of equals the smaller one.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from profit import coloured, gather, summary
from profit.files import InputError, atomic_path, read_json, write_csv, write_parquet
from profit.gather import RUN
from profit.statistics import mean_interval, paired_difference

log = logging.getLogger(__name__)

LEARNT = "same_length"
RUN_KEYS = [
    "model",
    "method",
    "seed",
    "objective",
    "tuning",
    "training",
    "references",
    "budget",
    "group",
    "evaluations",
]
DIFFERENCES = ["difference_vs_sft", "difference_low", "difference_high", "difference_seeds", "difference_vs_vanilla"]


def main(argv: list[str] | None = None) -> None:
    """Write the tables of the study that the command line gives."""
    logging.basicConfig(level=logging.INFO)
    arguments = make_parser().parse_args(argv)
    study = parse_study(arguments.study)
    if arguments.tune:
        write_tables(arguments.output_folder, {"tune": tune_table(arguments.results, study["runs"])})
        return
    tables = tabulate(arguments.results, study)
    write_tables(arguments.output_folder, tables)
    write_text(arguments.output_folder / "table1_main.md", summary.main_table(tables["main"]))
    write_text(arguments.output_folder / "summary.md", summary.whole(study["name"], tables))


def make_parser() -> argparse.ArgumentParser:
    """The command line of this rule."""
    parser = argparse.ArgumentParser(prog="profit.tabulate", description="Gather results into tidy tables.")
    parser.add_argument("--study", required=True, help="JSON, or a JSON file: name, annotators, runs")
    parser.add_argument("--results", required=True, type=Path, help="results/<study>")
    parser.add_argument("--output-folder", required=True, type=Path)
    parser.add_argument(
        "--tune", action="store_true", help="write table tune, from the runs that chose the learning rate"
    )
    return parser


def parse_study(source: str) -> dict[str, Any]:
    """Read --study; InputError names a key that is missing or a run that stands twice."""
    try:
        study = json.loads(source) if source.lstrip().startswith("{") else read_json(source)
    except json.JSONDecodeError as error:
        raise InputError(f"--study: found no JSON ({error}), expected an object or the path of a JSON file") from None
    for key in ("name", "runs"):
        if not study.get(key):
            raise InputError(f"--study, key {key}: found {study.get(key)!r}, expected it with content")
    seen: set[tuple[Any, ...]] = set()
    for place, run in enumerate(study["runs"]):
        missing = [key for key in RUN_KEYS if key not in run]
        if missing:
            raise InputError(f"--study, key runs[{place}]: found {sorted(run)}, expected also {missing}")
        name = tuple(run[key] for key in RUN)
        if name in seen:
            raise InputError(f"--study, key runs[{place}]: found {gather.run_folder(run)} twice, expected it once")
        seen.add(name)
    return study


def tabulate(results: Path, study: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """All tidy tables of a study by name; errors as in `profit.gather`."""
    runs, annotators = study["runs"], study.get("annotators", [])
    world = gather.world_of(results)
    models = list(dict.fromkeys(run["model"] for run in runs))
    table, steps = gather.gather_runs(results, runs, world)
    evaluations = gather.gather_evaluations(results, runs, world)
    tables = {"runs": table, "evaluations": evaluations, "steps": steps, "main": main_table(evaluations, table)}
    if any(run.get("overfit") for run in runs):
        tables["overfit"] = gather.gather_overfit(results, runs, world)
    if annotators:
        tables |= gather.gather_correlation(results, models, annotators, world)
        tables["coloured"] = coloured.typical_answer(results, models, annotators[0])
    return {
        name: frame if "study" in frame else frame.assign(study=study["name"])[["study", *frame.columns]]
        for name, frame in tables.items()
    }


def main_table(evaluations: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Table 1: one row a model, method of group main and benchmark; shares in 0-1.

    Differences to SFT (one reference) use the seeds that both methods have; the interval is a paired t interval.
    """
    settings = runs[runs["group"] == "main"][[*RUN, "objective", "references"]]
    final = evaluations[evaluations["checkpoint"] == "final"].merge(settings, on=RUN)
    rows = []
    for model, own in final.groupby("model", sort=False):
        by_benchmark = own.pivot(index=["method", "seed"], columns="benchmark", values="accuracy")
        names = list(dict.fromkeys(own["benchmark"]))
        scores = with_means(by_benchmark[names])
        baselines = {
            "sft": sole_method(own[(own["objective"] == "sft") & (own["references"] == 1)]),
            "vanilla": sole_method(own[own["objective"] == "vanilla"]),
        }
        for method in dict.fromkeys(own["method"]):
            for benchmark in scores.columns:
                values = scores.loc[method, benchmark]
                mean, low, high = mean_interval(values)
                row = {
                    "model": model,
                    "method": method,
                    "benchmark": benchmark,
                    "mean": mean,
                    "low": low,
                    "high": high,
                }
                rows.append(row | {"seeds": len(values)} | differences(scores[benchmark], method, baselines))
    columns = ["model", "method", "benchmark", "mean", "low", "high", "seeds", *DIFFERENCES]
    return pd.DataFrame(rows, columns=columns).astype({"difference_seeds": "Int64"})


def with_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Add average, learnt and kept to accuracies, shape (runs, benchmarks); the latter two where LEARNT is there."""
    if scores.isna().any(axis=None):
        method, seed = scores.index[scores.isna().any(axis=1)][0]
        raise InputError(f"evaluations of {method}, seed {seed}: found a benchmark missing, expected {list(scores)}")
    added = scores.assign(average=scores.mean(axis=1))
    if LEARNT in scores and len(scores.columns) > 1:
        added = added.assign(learnt=scores[LEARNT], kept=scores.drop(columns=LEARNT).mean(axis=1))
    return added


def sole_method(rows: pd.DataFrame) -> str | None:
    """The method of `rows`, none if there is none; of several the first of the study is the baseline."""
    return None if rows.empty else str(rows["method"].iloc[0])


def differences(scores: pd.Series, method: str, baselines: dict[str, str | None]) -> dict[str, Any]:
    """Paired differences of one benchmark's accuracies, indexed by method and seed, to SFT and to vanilla."""
    found: dict[str, Any] = {}
    for name, baseline in baselines.items():
        if baseline is None or baseline == method:
            continue
        pairs = pd.concat({"own": scores[method], "other": scores[baseline]}, axis=1, join="inner")
        if pairs.empty:
            continue
        mean, low, high, _ = paired_difference(pairs["own"], pairs["other"])
        found[f"difference_vs_{name}"] = mean
        if name == "sft":
            found |= {"difference_low": low, "difference_high": high, "difference_seeds": len(pairs)}
    return found


def tune_table(results: Path, runs: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row a run and benchmark of the choice of the learning rate.

    `mean` is that of the row's learning rate over seeds and benchmarks; `chosen` marks the rate with the highest mean,
    of equal ones the smallest.
    """
    world = gather.world_of(results)
    settings, _ = gather.gather_runs(results, runs, world)
    evaluations = gather.gather_evaluations(results, runs, world)
    table = evaluations.merge(settings[[*RUN, "learning_rate"]], on=RUN)
    seeds = table.groupby(["model", "learning_rate"])["seed"].agg(lambda found: tuple(sorted(set(found))))
    if seeds.nunique() != 1:
        raise InputError(f"--study, key runs: found unequal seeds {seeds.to_dict()}, expected the same for every rate")
    table["mean"] = table.groupby(["model", "learning_rate"])["accuracy"].transform("mean")
    best = {}
    for model, own in table.groupby("model"):
        # Sums in another order may differ in the last bit; that must not break a tie.
        order = own.assign(rounded=own["mean"].round(12)).sort_values(
            ["rounded", "learning_rate"], ascending=[False, True]
        )
        best[model] = order["learning_rate"].iloc[0]
    table["chosen"] = table["learning_rate"] == table["model"].map(best)
    columns = ["model", "method", "learning_rate", "seed", "benchmark", "accuracy", "mean", "chosen"]
    return table.sort_values(["model", "learning_rate", "seed"], kind="stable")[columns]


def write_tables(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Write each table as CSV and as Parquet."""
    for name, frame in tables.items():
        write_csv(folder / f"{name}.csv", frame)
        write_parquet(folder / f"{name}.parquet", frame)
        log.info("%s: %d rows", folder / name, len(frame))


def write_text(path: Path, content: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
