"""What figures and published numbers share in reading tidy tables: kinds of runs, accuracies in per cent, sweeps.

The benchmarks of a model are here those of its first table (main), as in the paper, whose figures average over the
benchmarks of Table 1; what further tables ask stands in those tables.

No command: imported by the figures and by `profit.published`.
"""

from pathlib import Path

import pandas as pd

from profit.files import InputError, read_parquet
from profit.statistics import mean_interval

RUN_KEYS = ["model", "method", "seed"]
RUN_COLUMNS = [
    *RUN_KEYS,
    "group",
    "objective",
    "tau",
    "direction",
    "normaliser",
    "tuning",
    "rank",
    "references",
    "budget",
    "learning_rate",
    "epochs",
]
# What may change a run beside what the paper varies.
CHANGES = ["share", "redraw", "keep", "match", "stop", "mix", "paired_with"]
# In the order of legends and table rows.
KINDS = ("vanilla", "sft", "sft_matched", "sft_stopped", "sft_mixed", "sft_multi", "entropy", "dft", "random",
         "random_fixed", "truth_core", "truth_replaceable", "keep_low", "profit", "profit_fixed")  # fmt: skip
# Those that the paper has not: controls, which stand in table 1 and in figure drift alone.
CONTROLS = ("sft_matched", "sft_stopped", "sft_mixed", "random_fixed", "truth_core", "truth_replaceable",
            "profit_fixed")  # fmt: skip
THRESHOLDS = ("profit", "keep_low")
MEANS = ("average", "learnt", "kept")
# The benchmark like the references.
LEARNT = "same_length"
# The model of Figure 3, and by its numbers of Figure 2.
PAPER_MODEL = "Qwen3-4B-Base"
# Benchmark of the paper in whose place one of the miniature stands.
STANDS_FOR = {
    "same_length": "gsm8k",
    "longer": "math_500",
    "choice": "gpqa_diamond",
    "longest": "aime_2024",
    "format": "ifeval",
}


def load(folder: Path, name: str, columns: list[str]) -> pd.DataFrame:
    """Return columns of a tidy table; InputError if the table or one of them is missing, or if it has no rows."""
    frame = read_parquet(folder / f"{name}.parquet", columns)
    if frame.empty:
        raise InputError(f"{folder / name}.parquet: found no rows, expected some to draw")
    return frame


def load_runs(folder: Path) -> pd.DataFrame:
    """Table `runs` as `with_kinds` gives it, without those of `arms`."""
    return without_arms(folder, with_kinds(load(folder, "runs", [*RUN_COLUMNS, *CHANGES])))


def arms(folder: Path) -> pd.DataFrame:
    """Models that are another's base met by other references: model, base, times.

    They are arms of a comparison, no bases of their own; times: prompts over the base's, where nothing else differs.
    None where there is no table models, as in older studies.
    """
    if not (folder / "models.parquet").is_file():
        return pd.DataFrame(columns=["model", "base", "times"])
    models = load(folder, "models", ["model", "base", "world", "prompts"])
    pairs = models.merge(models, left_on="base", right_on="model", suffixes=("", "_base"))
    times = pairs["prompts"].astype(float) / pairs["prompts_base"].astype(float)
    pairs["times"] = times.where(pairs["world"] == pairs["world_base"])
    return pairs.loc[pairs["model"] != pairs["base"], ["model", "base", "times"]]


def without_arms(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the models that are no `arms`."""
    return frame[~frame["model"].isin(arms(folder)["model"])]


def load_accuracies(folder: Path) -> pd.DataFrame:
    """Tables runs, evaluations and main as `accuracies` joins them."""
    found = load(folder, "evaluations", [*RUN_KEYS, "checkpoint", "epoch", "benchmark", "accuracy"])
    return accuracies(found, load_runs(folder), load(folder, "main", ["table", "model", "benchmark"]))


def with_means(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Accuracies with `learnt` (same_length) and `kept` (mean of the others) as benchmarks, as in table main."""
    learnt = accuracies[accuracies["benchmark"] == LEARNT]
    others = accuracies[~accuracies["benchmark"].isin([LEARNT, "average"])]
    kept = others.groupby(RUN_KEYS)["accuracy"].mean().rename("kept").reset_index()
    kept = learnt.merge(kept, on=RUN_KEYS).assign(benchmark="kept", accuracy=lambda rows: rows["kept"])
    return pd.concat([accuracies, learnt.assign(benchmark="learnt"), kept], ignore_index=True)


def with_kinds(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with the column `kind`, without the check of the world, which is no method."""
    runs = runs.loc[runs["group"] != "world", [*RUN_COLUMNS, *CHANGES]]
    return runs.assign(kind=[changed_kind(run) for _, run in runs.iterrows()])


def kind(run: pd.Series) -> str:
    """Which objective a row of table `runs` has, by its settings, so that a study may name its methods as it likes."""
    if run["objective"] == "profit":
        return {"higher": "profit", "lower": "keep_low"}.get(run["direction"], f"profit_{run['direction']}")
    if run["objective"] == "sft" and run["references"] > 1:
        return "sft_multi"
    return str(run["objective"])


def changed_kind(run: pd.Series) -> str:
    """The kind of a run, another one if something is changed in it: SFT that stops early is not SFT."""
    name = kind(run)
    name += "_fixed" if run["redraw"] == "never" else ""
    name += f"_{run['keep']}" if pd.notna(run["keep"]) else ""
    name += f"_{run['direction']}" if name == "profit_fixed" and run["direction"] != "higher" else ""
    name += "_matched" if pd.notna(run["match"]) else ""
    return name + ("_stopped" if run["stop"] < 1 else "") + ("_mixed" if run["mix"] < 1 else "")


def order(kind_name: str) -> int:
    """Place of a method in legends and tables; unknown ones come last."""
    return KINDS.index(kind_name) if kind_name in KINDS else len(KINDS)


def accuracies(evaluations: pd.DataFrame, runs: pd.DataFrame, main: pd.DataFrame) -> pd.DataFrame:
    """One row a run, checkpoint and benchmark, with the run's attributes and `accuracy` in per cent.

    The mean over a run's benchmarks is added as benchmark "average". InputError where a run lacks one.
    """
    keys = [*RUN_KEYS, "checkpoint", "epoch"]
    asked = first_benchmarks(main)
    pairs = zip(evaluations["model"], evaluations["benchmark"], strict=True)
    found = evaluations.loc[
        [name in asked.get(model, {name}) for model, name in pairs], [*keys, "benchmark", "accuracy"]
    ]
    for key, own in found.groupby(keys, sort=False, dropna=False):
        if lacking := sorted(asked.get(key[0], set()) - set(own["benchmark"])):
            raise InputError(f"table evaluations, {key[0]}/{key[1]}, seed {key[2]}: found no {', '.join(lacking)}")
    average = found.groupby(keys, sort=False, as_index=False, dropna=False)["accuracy"].mean()
    found = pd.concat([found, average.assign(benchmark="average")], ignore_index=True)
    found["accuracy"] *= 100
    return found.merge(runs, on=RUN_KEYS, validate="many_to_one")


def first_benchmarks(main: pd.DataFrame) -> dict[str, set[str]]:
    """The benchmarks of the first table of each model."""
    first = main[main["table"] == main.groupby("model")["table"].transform("first")]
    return {model: set(own) - set(MEANS) for model, own in first.groupby("model")["benchmark"]}


def benchmarks(accuracies: pd.DataFrame) -> list[str]:
    """Benchmarks in the order of the study, "average" last."""
    return [name for name in dict.fromkeys(accuracies["benchmark"]) if name != "average"] + ["average"]


def models(frame: pd.DataFrame) -> list[str]:
    """Models in the order of the study."""
    return list(dict.fromkeys(frame["model"]))


def first_methods(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The rows of the first method of the study in each group of `by`."""
    return frame[frame["method"] == frame.groupby(by, dropna=False)["method"].transform("first")]


def main_methods(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Final checkpoints of one model's methods of the main comparison, one a kind, with all their seeds.

    SFT on several references is taken from the sweep of references (equal epochs) where the comparison lacks it.
    """
    methods = accuracies.loc[accuracies["group"] == "main", "method"].unique()
    swept = accuracies[(accuracies["group"] == "overfitting") & (accuracies["budget"] == "epochs")]
    swept = swept[(swept["kind"] == "sft_multi") & ~swept["method"].isin(methods)].sort_values("references")
    found = pd.concat([accuracies[accuracies["method"].isin(methods)], swept])
    found = first_methods(found[found["checkpoint"] == "final"], ["kind"])
    return found.sort_values("kind", key=lambda kinds: kinds.map(order), kind="stable")


def alike(accuracies: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Final checkpoints of the runs that differ from the first of `runs` in nothing but the objective."""
    same = ["tuning", "references", "budget", "learning_rate", "epochs"]
    equal = (accuracies[same] == runs[same].iloc[0]).all(axis=1)
    return accuracies[equal & (accuracies["checkpoint"] == "final")]


def threshold_sweep(own: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One model's runs with a threshold, on the seeds that all of them have, and SFT's on the same seeds (or none).

    InputError where the model has no such run.
    """
    swept = own[own["kind"].isin(THRESHOLDS)]
    anchor = swept.sort_values("group", key=lambda group: group != "threshold", kind="stable")
    if anchor.empty:
        where = f" for {', '.join(models(own))}" if len(own) else ""
        raise InputError(f"table runs: found no method with a threshold{where}, expected a sweep")
    swept = alike(swept, anchor)
    swept = first_methods(swept[swept["normaliser"] == anchor["normaliser"].iloc[0]], ["kind", "tau"])
    swept = common_seeds(swept, ["kind", "tau"])
    sft = alike(own[own["kind"] == "sft"], anchor)
    return swept, first_methods(sft[sft["seed"].isin(swept["seed"])], ["kind"])


def swept_models(accuracies: pd.DataFrame, group: str) -> list[str]:
    """Models with runs of a sweep; all of them where every run of the sweep is one of the main comparison."""
    return models(accuracies[accuracies["group"] == group]) or models(accuracies)


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
