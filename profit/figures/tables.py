"""What the figures share in reading tidy tables: runs with their kind, accuracies in per cent, means over seeds.

No command: imported by the figures.
"""

from pathlib import Path

import pandas as pd

from profit.figures import style
from profit.files import InputError, read_parquet
from profit.statistics import mean_interval

RUN_KEYS = ["model", "method", "seed"]
RUN_COLUMNS = [
    *RUN_KEYS,
    "group",
    "objective",
    "tau",
    "direction",
    "tuning",
    "rank",
    "references",
    "budget",
    "learning_rate",
    "epochs",
]


def load(folder: Path, name: str, columns: list[str]) -> pd.DataFrame:
    """Return columns of a tidy table; InputError if the table or one of them is missing, or if it has no rows."""
    frame = read_parquet(folder / f"{name}.parquet", columns)
    if frame.empty:
        raise InputError(f"{folder / name}.parquet: found no rows, expected some to draw")
    return frame


def load_runs(folder: Path) -> pd.DataFrame:
    """Table `runs` with the column `kind` (see `style.kind`), without the check of the world, which is no method."""
    runs = load(folder, "runs", RUN_COLUMNS).query("group != 'world'")
    return runs.assign(kind=[style.kind(run) for _, run in runs.iterrows()])


def load_accuracies(folder: Path) -> pd.DataFrame:
    """One row a run, checkpoint and benchmark, with the run's attributes and `accuracy` in per cent.

    The mean over a run's benchmarks is added as benchmark "average".
    """
    keys = [*RUN_KEYS, "checkpoint", "epoch"]
    found = load(folder, "evaluations", [*keys, "benchmark", "accuracy"])
    average = (
        found.groupby(keys, sort=False, as_index=False, dropna=False)["accuracy"].mean().assign(benchmark="average")
    )
    found = pd.concat([found, average], ignore_index=True)
    found["accuracy"] *= 100
    return found.merge(load_runs(folder), on=RUN_KEYS, validate="many_to_one")


def benchmarks(accuracies: pd.DataFrame) -> list[str]:
    """Benchmarks in the order of the study, "average" last."""
    return [name for name in dict.fromkeys(accuracies["benchmark"]) if name != "average"] + ["average"]


def models(frame: pd.DataFrame) -> list[str]:
    """Models in the order of the study."""
    return list(dict.fromkeys(frame["model"]))


def of_main_methods(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Final checkpoints of the methods of the main comparison, in the order of legends, with all their seeds."""
    methods = accuracies.loc[accuracies["group"] == "main", "method"].unique()
    found = accuracies[accuracies["method"].isin(methods) & (accuracies["checkpoint"] == "final")]
    return found.sort_values("kind", key=lambda kinds: kinds.map(style.order), kind="stable")


def like_main_sft(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Final checkpoints of the runs that differ from the main comparison's SFT in nothing but the objective."""
    same = ["tuning", "references", "budget", "learning_rate", "epochs"]
    main = accuracies[(accuracies["group"] == "main") & (accuracies["kind"] == "sft")]
    if main.empty:
        raise InputError("table runs: found no SFT run in group main, expected one to compare with")
    equal = (accuracies[same] == main[same].iloc[0]).all(axis=1)
    return accuracies[equal & (accuracies["checkpoint"] == "final")]


def over_seeds(frame: pd.DataFrame, by: list[str], value: str = "accuracy") -> pd.DataFrame:
    """Mean, low, high (95 % t interval) and number of seeds of `value` in every group of `by`."""
    rows = [
        (*key, *mean_interval(group[value].to_numpy()), len(group)) for key, group in frame.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "seeds"])


def common_seeds(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The rows of the seeds that every group of `by` has, so that the points of a sweep rest on the same seeds.

    InputError where no seed is in all groups.
    """
    groups = [set(group) for _, group in frame.groupby(by, dropna=False)["seed"]]
    seeds = set.intersection(*groups) if groups else set()
    if not seeds:
        raise InputError(f"table runs: found no seed that every {', '.join(by)} has, expected at least one")
    return frame[frame["seed"].isin(seeds)]


def load_published(folder: Path, name: str) -> pd.DataFrame:
    """A table of results/published; InputError if it is missing."""
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: not found, expected the paper's numbers")
    return pd.read_csv(path)
