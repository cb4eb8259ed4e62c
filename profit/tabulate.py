"""Rule `tabulate`: the results of a study as tidy tables, CSV and Parquet, which figures, claims and readers share.

Table `main` holds the study's tables of results, the paper's Tables 1 to 3 with what they lack: for each table, model,
method and benchmark the mean over seeds with a 95 % Student t interval, and the difference to SFT paired by seed (the
same data, order and questions). Added to the benchmarks of a table are `average` (of all), and where same_length is
among them `learnt` (the benchmark like the references) and `kept` (the mean of the others). One seed has no interval:
low and high are empty, and the text calls it descriptive. Table `published` has the paper's numbers beside them
(profit.published). Table `questions` has the accuracy on each question of the first claims' runs; those of
many rows are Parquet alone.

    python -m profit tabulate --study workflow/studies/miniature.yaml --results results/miniature
        --published results/published --output-folder results/miniature/tables

With `--tune` the runs are those of the choice of learning rates, and only table `tune` is written: each method's rate
with the highest mean accuracy is chosen, of equals the smaller one.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from profit import coloured, gather, gather_tokens, published, summary
from profit.figures.tables import LEARNT, with_kinds
from profit.files import InputError, atomic_path, write_csv, write_parquet
from profit.gather import RUN
from profit.outputs import WITHOUT_CSV, compared
from profit.phase import phase_table
from profit.runs import listed, runs_of, study_runs, tune_runs, tuned_method
from profit.statistics import mean_interval, paired_difference
from profit.study import load_study
from profit.world_rules import world_table

log = logging.getLogger(__name__)

OPTIONAL = (
    "world", "overfit", "correlation", "threshold_loss", "densities", "prompts", "coloured", "agreement", "theorem",
    "phase", "gradients", "gradient_prompts", "account", "drift", "answer_style",
    "timing",
)  # fmt: skip
# Too long for people to read.
KEYS = ["table", "model", "method", "benchmark"]
DIFFERENCES = [
    "difference_vs_sft",
    "difference_low",
    "difference_high",
    "difference_seeds",
    "difference_vs_vanilla",
    "difference_vs_vanilla_low",
    "difference_vs_vanilla_high",
]


def main(argv: list[str] | None = None) -> None:
    """Write the tables of the study that the command line names."""
    logging.basicConfig(level=logging.INFO)
    arguments = make_parser().parse_args(argv)
    study = load_study(arguments.study)
    runs = runs_of(study)
    if arguments.tune:
        tuned = tune_runs(runs)
        if not tuned:
            raise InputError(f"{arguments.study}, key tune: found none, expected it with --tune")
        table = tune_table(arguments.results, listed(study, tuned))
        table.insert(0, "study", study.name)
        write_tables(arguments.output_folder, {"tune": table})
        return
    found = listed(study, study_runs(runs)) | {"labels": study.labels}
    write_all(arguments.output_folder, study.name, tabulate(arguments.results, arguments.published, found))


def make_parser() -> argparse.ArgumentParser:
    """The command line of this rule."""
    parser = argparse.ArgumentParser(prog="profit.tabulate", description="Gather results into tidy tables.")
    parser.add_argument("--study", required=True, type=Path, help="the study file, YAML")
    parser.add_argument("--results", required=True, type=Path, help="results/<study>")
    parser.add_argument("--published", required=True, type=Path, help="folder of the paper's numbers (CSV)")
    parser.add_argument("--output-folder", required=True, type=Path)
    parser.add_argument(
        "--tune", action="store_true", help="write table tune, from the runs that choose learning rates"
    )
    return parser


def tabulate(results: Path, paper: Path, study: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """All tidy tables of a study by name.

    study: as `profit.runs.listed` gives it, and `labels`, the annotator whose labels the step logs count. Errors as in
    `profit.gather` and `profit.gather_tokens`.
    """
    runs, annotators = study["runs"], study["annotators"]
    models = list(dict.fromkeys(model for table in study["tables"].values() for model in table["models"]))
    worlds = gather.worlds_of(results, study["worlds"])
    table, steps = gather.gather_runs(results, runs, worlds, study["labels"])
    evaluations, questions = gather.gather_evaluations(results, runs, worlds)
    tables = {"runs": table, "evaluations": evaluations, "questions": questions, "steps": steps}
    tables["models"] = models_table(study["models"], worlds)
    tables["main"] = main_table(evaluations, table, study["tables"])
    if any(run["overfit"] for run in runs):
        tables["overfit"] = gather_tokens.gather_overfit(results, runs, worlds)
    if annotators:
        tables |= gather_tokens.gather_correlation(results, models, annotators, worlds)
        tables["coloured"] = coloured.typical_answer(
            results, {model: study["worlds"][model] for model in models}, annotators[0]
        )
    if "truth" in annotators:
        tables["world"] = world_table(tables)
    if pair := compared(annotators):
        path = results / "agreement" / f"{study['worlds'][models[0]]}.json"
        tables["agreement"] = gather_tokens.gather_agreement(path, pair, worlds[models[0]])
    if study.get("gradients"):
        tables |= gather_tokens.gather_gradients(results, models, worlds)
    for name, read in (
        ("account", gather_tokens.gather_account),
        ("drift", gather_tokens.gather_drift),
        ("answer_style", gather_tokens.gather_answer_style),
    ):
        if any(run.get(name) for run in runs):
            tables[name] = read(results, runs, worlds)
    if study["timing"]:
        tables["timing"] = gather_tokens.gather_timing(results, study["timing"], worlds)
    if study["phase"]:
        tables["phase"] = phase_table(tables)
    tables["published"] = published.beside(tables, paper)
    named = {name: frame.assign(study=study["name"]) for name, frame in tables.items()}
    return {name: frame[["study", *frame.columns.drop("study")]] for name, frame in named.items()}


def models_table(models: dict[str, dict[str, Any]], worlds: dict[str, str]) -> pd.DataFrame:
    """One row a model: whose base it is, hash of its world, prompts (empty: all), and the settings of a miniature."""
    rows = [{"model": model, "world": worlds[model]} | row for model, row in models.items()]
    whole = dict.fromkeys(("prompts", "pretraining_steps", "world_seed"), "Int64")
    return pd.DataFrame(rows).astype({**whole, "wording_lean": float, "rare_in_references": float})


def main_table(evaluations: pd.DataFrame, runs: pd.DataFrame, tables: dict[str, dict[str, list[str]]]) -> pd.DataFrame:
    """The tables of results: one row a table, model, method of group main and benchmark; shares in 0-1.

    Differences to SFT (one reference, nothing else changed) use the seeds that both methods have; the interval is a
    paired t interval. A model without SFT or without vanilla has no such differences.
    """
    settings = with_kinds(runs[runs["group"] == "main"])[[*RUN, "kind"]]
    final = evaluations[evaluations["checkpoint"] == "final"].merge(settings, on=RUN)
    rows = []
    for table, model in ((table, model) for table, chosen in tables.items() for model in chosen["models"]):
        own, names = final[final["model"] == model], tables[table]["benchmarks"]
        if own.empty:
            continue
        by_benchmark = own.pivot(index=["method", "seed"], columns="benchmark", values="accuracy")
        scores = with_means(by_benchmark.reindex(columns=names), str(model))
        baselines = {
            "sft": sole_method(own[own["kind"] == "sft"]),
            "vanilla": sole_method(own[own["kind"] == "vanilla"]),
        }
        for method in dict.fromkeys(own["method"]):
            for benchmark in scores.columns:
                values = scores.loc[method, benchmark]
                row = dict(zip(KEYS, (table, model, method, benchmark), strict=True))
                row |= dict(zip(("mean", "low", "high"), mean_interval(values), strict=True))
                rows.append(row | {"seeds": len(values)} | differences(scores[benchmark], method, baselines))
    columns = [*KEYS, "mean", "low", "high", "seeds", *DIFFERENCES]
    return pd.DataFrame(rows, columns=columns).astype({"difference_seeds": "Int64"})


def with_means(scores: pd.DataFrame, model: str) -> pd.DataFrame:
    """Add average, learnt and kept to accuracies, shape (runs, benchmarks); the latter two where LEARNT is there."""
    for (method, seed), row in scores[scores.isna().any(axis=1)].iterrows():
        lacking = ", ".join(row.index[row.isna()])
        raise InputError(f"evaluations/{model}/{method}/seed{seed}: found no {lacking}, expected {', '.join(scores)}")
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
        prefix = "difference" if name == "sft" else "difference_vs_vanilla"
        found |= {f"{prefix}_low": low, f"{prefix}_high": high}
        if name == "sft":
            found["difference_seeds"] = len(pairs)
    return found


def tune_table(results: Path, study: dict[str, Any]) -> pd.DataFrame:
    """One row a run and benchmark of the choice of learning rates; `tuned` is the method whose rate is chosen.

    `mean` is that of the row's learning rate over seeds and benchmarks; `chosen` marks the rate with the highest mean,
    of equal ones the smallest.
    """
    worlds, runs = gather.worlds_of(results, study["worlds"]), study["runs"]
    settings, _ = gather.gather_runs(results, runs, worlds)
    evaluations, _ = gather.gather_evaluations(results, runs, worlds)
    table = evaluations.merge(settings[[*RUN, "learning_rate"]], on=RUN)
    table["tuned"] = [tuned_method(*row) for row in zip(table["method"], table["learning_rate"], strict=True)]
    keys = ["model", "tuned"]
    table["mean"] = table.groupby([*keys, "learning_rate"])["accuracy"].transform("mean")
    best = {}
    for key, own in table.groupby(keys):
        # Sums in another order may differ in the last bit; that must not break a tie.
        order = own.assign(rounded=own["mean"].round(12)).sort_values(
            ["rounded", "learning_rate"], ascending=[False, True]
        )
        best[key] = order["learning_rate"].iloc[0]
    rows = table[[*keys, "learning_rate"]].itertuples(index=False)
    table["chosen"] = [rate == best[model, tuned] for model, tuned, rate in rows]
    columns = ["model", "tuned", "method", "learning_rate", "seed", "benchmark", "accuracy", "mean", "chosen"]
    # Methods stay in the order of the study.
    place = {tuned: number for number, tuned in enumerate(dict.fromkeys(table["tuned"]))}
    order = ["model", "place", "learning_rate", "seed"]
    return table.assign(place=table["tuned"].map(place)).sort_values(order, kind="stable")[columns]


def write_tables(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Write each table as Parquet and, unless it is one of WITHOUT_CSV, as CSV."""
    for name, frame in tables.items():
        if name not in WITHOUT_CSV:
            write_csv(folder / f"{name}.csv", frame)
        write_parquet(folder / f"{name}.parquet", frame)
        log.info("%s: %d rows", folder / name, len(frame))


def write_all(folder: Path, name: str, tables: dict[str, pd.DataFrame]) -> None:
    """Write the tables of study `name`, and what a person reads first as Markdown; no table of an older form stays."""
    write_tables(folder, tables)
    for lacking in set(OPTIONAL) - set(tables):
        for kind in ("csv", "parquet"):
            (folder / f"{lacking}.{kind}").unlink(missing_ok=True)
    write_text(folder / "published.md", summary.published_numbers(tables["published"]))
    write_text(folder / "summary.md", summary.whole(name, tables))


def write_text(path: Path, content: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
