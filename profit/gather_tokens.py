"""What a study knows of its tokens as tidy frames: overfitting, probabilities by label, gradients, changes, drift.

Every file is checked as in `profit.gather`: it is there, whole, and of its model's world.

No command: imported by `profit.tabulate`.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from profit.correlate import BIN_EDGES
from profit.files import InputError, read_json, read_parquet
from profit.gather import RUN, number, provenance, run_folder, text

OVERFIT_MEASURES = ["nll_trained", "nll_held", "base_trained", "base_held", "overfit"]
PROMPT = ["model", "annotator", "prompt_id", "label", "tokens", "probability_sum", "low"]
GROUP = ["label", "low", "high", "tokens", "norm", "cosine", "token_share", "share", "share_low", "share_high"]
GROUP += ["ratio", "ratio_low", "ratio_high"]
UNTIDY = ("model", "annotator", "thresholds", "bins", "provenance")
COUNTS = ("tokens", "violations", "undecided", "above_head_bound")
CELL = [*RUN, "references", "budget", "set", "label", "low", "high", "tokens", "change", "change_low", "change_high"]
CELL += ["raised", "lowered", "probability_before", "probability_after"]
STYLE = [*RUN, "benchmark", "answers", "tokens_mean", "cut", "ended", "distinct_2", "pair_distance", "wordings"]
STYLE += ["rare", "adopted"]


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
                    "epochs": run["training"]["epochs"],
                    "part": part,
                    **{key: number(path, values, key, f"parts.{part}.") for key in OVERFIT_MEASURES},
                    **{key: content["diversity"][key] for key in ("distinct_2", "pair_distance")},
                    **{key: number(path, content, key) for key in ("tokens_trained", "cpu_seconds")},
                }
            )
    columns = [*RUN, "references", "budget", "epochs", "part", *OVERFIT_MEASURES, "distinct_2", "pair_distance"]
    return pd.DataFrame(rows, columns=[*columns, "tokens_trained", "cpu_seconds"])


def gather_correlation(
    results: Path, models: Sequence[str], annotators: Sequence[str], worlds: Mapping[str, str]
) -> dict[str, pd.DataFrame]:
    """Tables correlation (one row a model and annotator), threshold_loss, densities and prompts."""
    flat, losses, densities, prompts = [], [], [], []
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
            path = path.with_name(f"{annotator}.prompts.parquet")
            provenance(path, worlds[model])
            prompts.append(read_parquet(path, PROMPT))
    return {
        "correlation": pd.DataFrame(flat),
        "threshold_loss": pd.DataFrame(losses),
        "densities": pd.concat(densities, ignore_index=True),
        "prompts": pd.concat(prompts, ignore_index=True),
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


def gather_gradients(results: Path, models: Sequence[str], worlds: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """Tables theorem (one row a model), gradients (a label and bin) and gradient_prompts (a prompt and bin).

    A bin is of the base's probability, `low` <= p < `high`, the last with 1; table gradients has [0, 1] beside them.
    """
    theorem, groups, prompts = [], [], []
    for model in models:
        path = results / "gradients" / f"{model}.json"
        content = read_json(path)
        for file in (path, path.with_suffix(".parquet")):
            provenance(file, worlds[model])
        counts = {key: int(number(path, content["theorem"], key, "theorem.")) for key in COUNTS}
        measured = {key: content["theorem"][key] for key in ("tied", "looseness", "rank_correlation")}
        theorem.append({"model": model, **counts, **flatten(measured)})
        groups.append(pd.DataFrame(content["groups"]).reindex(columns=GROUP).assign(model=model))
        tokens = read_parquet(path.with_suffix(".parquet"), ["prompt_id", "probability", "share"])
        if len(tokens) != content["sample"]["tokens"] or not np.isfinite(tokens["share"]).all():
            raise InputError(
                f"{path.with_suffix('.parquet')}: found {len(tokens)} tokens, {int(tokens['share'].isna().sum())} "
                f"without a share, expected a share of each of the {content['sample']['tokens']} of {path.name}"
            )
        place = np.searchsorted(BIN_EDGES[1:-1], tokens["probability"], side="right")
        binned = tokens.assign(model=model, low=np.take(BIN_EDGES, place), high=np.take(BIN_EDGES, place + 1))
        keys = ["model", "prompt_id", "low", "high"]
        prompts.append(binned.groupby(keys)["share"].agg(tokens="size", share="sum").reset_index())
    ratios = {key: float for key in ("cosine", "ratio", "ratio_low", "ratio_high")}
    return {
        "theorem": pd.DataFrame(theorem),
        "gradients": pd.concat(groups, ignore_index=True)[["model", *GROUP]].astype(ratios),
        "gradient_prompts": pd.concat(prompts, ignore_index=True),
    }


def gather_account(results: Path, runs: Iterable[dict[str, Any]], worlds: Mapping[str, str]) -> pd.DataFrame:
    """The cells of profit.account of the runs listed with `account`; InputError if they are another run's."""
    cells = []
    for run in (run for run in runs if run.get("account")):
        path = results / "account" / f"{run_folder(run)}.parquet"
        provenance(path, worlds[run["model"]])
        own = read_parquet(path, CELL)
        found = own[RUN].drop_duplicates().to_dict("records")
        if found != [expected := {key: run[key] for key in RUN}]:
            raise InputError(f"{path}, columns {', '.join(RUN)}: found {found[:2]}, expected {expected} alone")
        cells.append(own)
    return pd.concat(cells, ignore_index=True)


def gather_drift(results: Path, runs: Iterable[dict[str, Any]], worlds: Mapping[str, str]) -> pd.DataFrame:
    """One row a run and part of the held tokens, of the runs listed with `drift`; a part without tokens has none."""
    rows = []
    for run in (run for run in runs if run.get("drift")):
        path = results / "drift" / f"{run_folder(run)}.json"
        provenance(path, worlds[run["model"]])
        content = read_json(path)
        weights = {key: number(path, content["weights"], key, "weights.") for key in ("distance", "relative")}
        for part, values in content["parts"].items():
            if count := int(number(path, values, "tokens", f"parts.{part}.")):
                means = {key: number(path, values, key, f"parts.{part}.") for key in ("kl_base_run", "kl_run_base")}
                rows.append({**{key: run[key] for key in RUN}, "part": part, "tokens": count, **means, **weights})
    return pd.DataFrame(rows)


def gather_answer_style(results: Path, runs: Iterable[dict[str, Any]], worlds: Mapping[str, str]) -> pd.DataFrame:
    """The rows of profit.answer_style of the models with runs listed so; InputError if they are of other runs."""
    asked: dict[str, set[tuple[str, int]]] = {}
    for run in (run for run in runs if run.get("answer_style")):
        asked.setdefault(run["model"], {("references", 0)}).add((run["method"], run["seed"]))
    tables = []
    for model, expected in asked.items():
        path = results / "answer_style" / f"{model}.parquet"
        provenance(path, worlds[model])
        own = read_parquet(path, STYLE)
        if other := set(own[["method", "seed"]].itertuples(index=False, name=None)) ^ expected:
            raise InputError(
                f"{path}, columns method, seed: found too much or lacking {sorted(other)[:3]}, expected the runs that "
                "analysis.answer_style names, and the references"
            )
        tables.append(own)
    return pd.concat(tables, ignore_index=True)


def gather_timing(results: Path, timing: Mapping[str, dict[str, Any]], worlds: Mapping[str, str]) -> pd.DataFrame:
    """One row a model, method and seed of profit.timing: `seconds` of a step, their mean over `steps` counted ones.

    `device` is where it was timed. InputError for steps other than the study's, or no finite seconds.
    """
    tables = []
    for model, asked in timing.items():
        path = results / "timing" / f"{model}.parquet"
        device = text(path, provenance(path, worlds[model]), "device", "provenance.")
        own = read_parquet(path, ["method", "seed", "step", "seconds"])
        expected = set(product(asked["methods"], range(asked["seeds"]), range(2, asked["steps"] + 1)))
        found = list(own[["method", "seed", "step"]].itertuples(index=False, name=None))
        if set(found) != expected or len(found) != len(expected):
            what = f"found {len(found)} rows, {len(set(found) ^ expected)} of them too many or lacking"
            raise InputError(f"{path}: {what}, expected one a method, seed and step of analysis.timing")
        if not (np.isfinite(own["seconds"]) & (own["seconds"] > 0)).all():
            raise InputError(f"{path}, column seconds: found none or no finite number, expected seconds above 0")
        each = own.groupby(["method", "seed"])["seconds"].agg(seconds="mean", steps="size")
        tables.append(each.loc[asked["methods"]].reset_index().assign(model=model, device=device))
    return pd.concat(tables, ignore_index=True)[[*RUN, "seconds", "steps", "device"]]


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"a": {"b": 1}} is {"a_b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}{key}_") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
