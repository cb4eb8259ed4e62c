"""The tidy tables that claims are judged from: read, checked, and parted by model.

Every claim needs runs, evaluations and main; the power of the study needs questions. The others are used where a study
has them. Checked: one study, and one world a model; every run evaluated, on all benchmarks of its model, once; as many
questions and samples in all runs; accuracies in 0-1; in table questions the same questions in all runs, with the
accuracies of table evaluations.

No command: used by `profit.claims`.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from profit.estimators import EXTRAS, Base
from profit.figures import tables
from profit.figures.tables import RUN_KEYS
from profit.files import InputError

# Settings that older tables lack, and what they were there.
DEFAULTS = {**EXTRAS, "keep": None, "redraw": "step", "share": None}
RUN_COLUMNS = ["study", *tables.RUN_COLUMNS, "cpu_seconds", "wall_seconds", "peak_memory_mb", "labels", "world"]
EVALUATION_COLUMNS = ["study", *RUN_KEYS, "checkpoint", "epoch", "benchmark", "questions", "samples", "accuracy"]
QUESTION_COLUMNS = ["study", *RUN_KEYS, "benchmark", "question_id", "accuracy"]
OPTIONAL = {
    "overfit": ["study", *RUN_KEYS, "part", "overfit"],
    "account": ["study", *RUN_KEYS, "set", "label", "low", "high", "tokens", "change"],
    "drift": ["study", *RUN_KEYS, "part", "kl_base_run"],
    "timing": ["study", *RUN_KEYS, "seconds"],
    "prompts": ["study", "model", "annotator", "prompt_id", "label", "tokens", "probability_sum", "low"],
    "theorem": ["study", "model", "tokens", "violations", "undecided"],
    "gradient_prompts": ["study", "model", "prompt_id", "low", "high", "tokens", "share"],
    "tune": ["study", "model", "tuned", "learning_rate", "chosen"],
}


def load_bases(folder: Path, with_questions: bool = True) -> list[Base]:
    """The tables of a study by model, in the study's order; a model that is an arm of another stands in its `more`.

    Raises:
        InputError: a table that is missing, or one of the checks above that fails; it names table and row.
    """
    runs = load_runs(folder)
    found = tables.load(folder, "evaluations", EVALUATION_COLUMNS)
    main = tables.load(folder, "main", ["study", "table", "model", "benchmark"])
    check_evaluations(found, runs)
    settings = runs.assign(kind=[tables.kind(run) for _, run in runs.iterrows()])
    settings = settings[settings["group"] != "world"].drop(columns="study")
    firsts = main["table"] == main.groupby("model")["table"].transform("first")
    accuracies = shares(found, settings, main[firsts])
    general = shares(found[found["model"].isin(main.loc[~firsts, "model"])], settings, main[~firsts])
    others = {"runs": runs, "main": main}
    # Without a sweep of learning rates nothing was run at those that table tune chose.
    swept = "learning_rate" in set(runs["group"])
    wanted = {name: columns for name, columns in OPTIONAL.items() if name != "tune" or swept}
    others |= {name: load(folder, name, columns) for name, columns in wanted.items() if exists(folder, name)}
    if with_questions:
        others["questions"] = load_questions(folder, accuracies)
    study = runs["study"].iloc[0]
    for name, frame in {**others, "evaluations": found}.items():
        if len(other := sorted(set(frame["study"]) - {study})):
            raise InputError(f"table {name}, column study: found {other}, expected {study!r} alone, as in table runs")
    arms = tables.arms(folder)

    def base(model: str) -> Base:
        more = arms[(arms["base"] == model) & arms["times"].notna()]
        return Base(
            model,
            *(frame[frame["model"] == model] for frame in (accuracies, general)),
            {name: frame[frame["model"] == model] for name, frame in others.items()},
            {times: base(arm) for arm, times in zip(more["model"], more["times"], strict=True)},
        )

    return [base(model) for model in tables.models(accuracies) if model not in set(arms["model"])]


def exists(folder: Path, name: str) -> bool:
    """Whether a study has a table."""
    return (folder / f"{name}.parquet").is_file()


def load(folder: Path, name: str, columns: list[str]) -> pd.DataFrame:
    """An optional table; InputError if a number that its rows need is NaN or infinite."""
    frame = tables.load(folder, name, columns)
    # Where an account counts no token there is no change.
    needed = frame[frame["tokens"] > 0] if name == "account" else frame
    for column in needed.select_dtypes("number"):
        check_numbers(needed, name, column)
    return frame


def check_numbers(frame: pd.DataFrame, name: str, column: str, low: float = -np.inf, high: float = np.inf) -> None:
    """InputError that names the first row whose value is no number from `low` to `high`."""
    values = frame[column].astype(float)
    wrong = ~(np.isfinite(values) & values.between(low, high))
    if wrong.any():
        row = frame[wrong].iloc[0]
        where = ", ".join(
            str(row[key]) for key in frame.columns[: list(frame.columns).index(column)] if key != "study"
        )
        expected = "a number" if low == -np.inf else f"a number from {low:g} to {high:g}"
        raise InputError(f"table {name}, {where}: found {column} {row[column]}, expected {expected}")


def load_runs(folder: Path) -> pd.DataFrame:
    """Table runs with all settings; InputError for several worlds of a model, or a run that is there twice."""
    runs = tables.load(folder, "runs", RUN_COLUMNS)
    every = pd.read_parquet(folder / "runs.parquet")
    more = {name: every[name] if name in every else default for name, default in DEFAULTS.items()}
    runs = runs.assign(**more, **{name: every[name] for name in ("device", "steps") if name in every})
    for _, own in runs.groupby("model", sort=False):
        counts = own["world"].value_counts(dropna=False)
        if len(counts) > 1 or own["world"].isna().any():
            row = own[own["world"].isna() | (own["world"] != counts.index[0])].iloc[0]
            raise InputError(
                f"table runs, {row['model']}/{row['method']}, seed {row['seed']}: found world {row['world']}, "
                f"expected {counts.index[0]} as in {counts.iloc[0]} runs of its model"
            )
    check_once(runs, RUN_KEYS, "runs")
    return runs


def check_once(frame: pd.DataFrame, keys: list[str], name: str) -> None:
    """InputError for a row that is there twice."""
    twice = frame[frame.duplicated(keys)]
    if len(twice):
        raise InputError(f"table {name}, {', '.join(map(str, twice.iloc[0][keys]))}: found it twice, expected once")


def check_evaluations(found: pd.DataFrame, runs: pd.DataFrame) -> None:
    """InputError for an accuracy that is none, a run without evaluation or without settings, or unequal questions."""
    check_once(found, [*RUN_KEYS, "checkpoint", "benchmark"], "evaluations")
    check_numbers(found, "evaluations", "accuracy", 0, 1)
    listed, evaluated = ({tuple(key) for key in frame[RUN_KEYS].to_numpy().tolist()} for frame in (runs, found))
    if listed != evaluated:
        one = sorted(listed ^ evaluated)[0]
        have, lack = ("runs", "evaluations") if one in listed else ("evaluations", "runs")
        raise InputError(f"table {lack}: found no {', '.join(map(str, one))} of table {have}, expected all its runs")
    for column in ("questions", "samples"):
        counts = found.groupby(["model", "benchmark"])[column]
        wrong = found[found[column] != counts.transform("first")]
        if len(wrong):
            row = wrong.iloc[0]
            raise InputError(
                f"table evaluations, {row['model']}/{row['method']}, seed {row['seed']}, {row['benchmark']}: found "
                f"{row[column]} {column}, expected {counts.transform('first')[row.name]} as in the runs before"
            )


def shares(found: pd.DataFrame, settings: pd.DataFrame, main: pd.DataFrame) -> pd.DataFrame:
    """Accuracies (0-1) on the benchmarks that `main` lists, and their average, with the settings of the runs."""
    frame = tables.accuracies(found, settings, main)
    return frame.assign(accuracy=frame["accuracy"] / 100)


def load_questions(folder: Path, accuracies: pd.DataFrame) -> pd.DataFrame:
    """Table questions; InputError if its runs answered different questions, or not as table evaluations says."""
    if not exists(folder, "questions"):
        raise InputError(
            f"{folder / 'questions.parquet'}: not found, expected the accuracy on each question of SFT, ProFit and "
            f"SFT on several references ({', '.join(QUESTION_COLUMNS)}); without it: --without-questions"
        )
    frame = tables.load(folder, "questions", QUESTION_COLUMNS)
    check_once(frame, [*RUN_KEYS, "benchmark", "question_id"], "questions")
    check_numbers(frame, "questions", "accuracy", 0, 1)
    for (model, benchmark), own in frame.groupby(["model", "benchmark"], sort=False):
        by_run = own.pivot(index=["method", "seed"], columns="question_id", values="accuracy")
        asked = by_run.notna().apply(tuple, axis=1)
        usual = asked.mode()[0]
        if (asked != usual).any():
            (name, seed), own_asked = next(iter(asked[asked != usual].items()))
            different = by_run.columns[np.array(own_asked) != np.array(usual)]
            raise InputError(
                f"table questions, {model}/{name}, seed {seed}, {benchmark}: found {len(different)} questions asked "
                f"of this run alone or of the others alone ({different[0]}), expected the same in all runs"
            )
    means = frame.groupby([*RUN_KEYS, "benchmark"], as_index=False)["accuracy"].mean()
    final = accuracies[accuracies["checkpoint"] == "final"]
    both = means.merge(final, on=[*RUN_KEYS, "benchmark"], suffixes=("", "_run"))
    wrong = both[~np.isclose(both["accuracy"], both["accuracy_run"], atol=1e-6)]
    if len(wrong):
        row = wrong.iloc[0]
        raise InputError(
            f"table questions, {row['model']}/{row['method']}, seed {row['seed']}, {row['benchmark']}: found a mean "
            f"of {row['accuracy']:.6f}, expected {row['accuracy_run']:.6f} as in table evaluations"
        )
    return frame
