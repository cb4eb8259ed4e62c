"""The rules that the miniature's world was set by: on the shipped tables of a full run, and on made-up tables.

The figures are the base's own and those of a check of the world (SFT on careful answers); no method enters.
"""

import math
from pathlib import Path

import pandas as pd
import pytest

from profit.generate import world_hash
from profit.study import load_study
from profit.summary import world_lines
from profit.world_rules import world_table

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "results" / "reference" / "tables"
STUDY = load_study(ROOT / "workflow" / "studies" / "miniature.yaml")
# Where a model this small stays outside the window of 0.2 to 0.8; the study file says why.
OUTSIDE = {"accuracy on longest"}


def shipped() -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(TABLES / f"{name}.parquet") for name in ("runs", "evaluations", "densities")}


def made_up() -> dict[str, pd.DataFrame]:
    """Two bases whose worlds keep every rule, in 130 tokens each; the second has no check of its world."""
    runs, evaluations, densities = [], [], []
    for model, methods in {"mini": ("vanilla", "careful", "sft"), "second": ("vanilla",)}.items():
        for method in methods:
            objective, group = "vanilla" if method == "vanilla" else "sft", "world" if method == "careful" else "main"
            runs.append({"model": model, "method": method, "objective": objective, "group": group})
            for benchmark, seed in ((name, seed) for name in ("same_length", "longer") for seed in (0, 1)):
                accuracy = {"vanilla": 0.6, "careful": 0.75, "sft": 0.1}[method] + (0.05 if seed else -0.05)
                row = {"model": model, "method": method, "seed": seed, "benchmark": benchmark, "accuracy": accuracy}
                evaluations.append(row)
        for low in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):
            counts = {"core": 1, "replaceable": 4} if low else {"core": 10, "replaceable": 90}
            counts |= {"fixed": 5} if low == 0.9 else {}
            for label, tokens in counts.items():
                row = {"model": model, "annotator": "truth", "label": label, "low": low, "tokens": tokens}
                densities += [row, {**row, "annotator": "agreement", "tokens": 10**6}]
    return {
        "runs": pd.DataFrame(runs),
        "evaluations": pd.DataFrame(evaluations),
        "densities": pd.DataFrame(densities),
    }


def rules(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return world_table(tables).set_index(["model", "rule"])


def test_the_shipped_run_is_of_this_world():
    assert set(shipped()["runs"]["world"]) == {world_hash(STUDY.world)}


@pytest.mark.parametrize("rule", sorted(set(world_table(shipped())["rule"]) - OUTSIDE))
def test_the_shipped_world_keeps_its_rules(rule: str):
    row = rules(shipped()).loc["mini", rule]
    assert row["holds"], f"found {row['found']}, expected {row['low']} to {row['high']}"


def test_every_rule_is_asked_of_the_shipped_world():
    tables, names = shipped(), {f"accuracy on {name}" for name in STUDY.benchmarks} | {"gain on same_length"}
    bins = [f"[{low}, {high})" for low, high in ((0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9))]
    names |= {f"{what} in {own}" for own in bins for what in ("share of tokens", "tokens of the rarer label")}
    found = rules(tables)["found"]["mini"]
    assert set(found.index) == names | {"share of core under 0.1"}
    evaluations = tables["evaluations"].query("method == 'vanilla' and benchmark == 'longer'")
    assert found["accuracy on longer"] == pytest.approx(evaluations["accuracy"].mean())
    low = tables["densities"].query("annotator == 'truth' and low < 0.095").groupby("label")["tokens"].sum()
    assert found["share of core under 0.1"] == pytest.approx(low["core"] / low.sum())


def test_made_up_worlds():
    found = rules(made_up())
    assert found["holds"].all() and ("second", "gain on same_length") not in found.index
    assert len(found.loc["mini"]) == 12 and len(found.loc["second"]) == 11
    assert found.loc[("mini", "gain on same_length"), "found"] == pytest.approx(0.15)
    assert found.loc[("second", "share of tokens in [0.1, 0.3)"), "found"] == pytest.approx(5 / 130)
    assert found.loc[("mini", "share of core under 0.1"), ["found", "low", "high"]].tolist() == [0.1, 0.05, 0.2]
    assert math.isnan(found.loc[("mini", "gain on same_length"), "high"])


@pytest.mark.parametrize(
    ("table", "where", "column", "value", "broken"),
    [
        ("evaluations", "method == 'vanilla' and benchmark == 'same_length'", "accuracy", 0.45,
         ["accuracy on same_length"]),
        ("evaluations", "method == 'vanilla' and benchmark == 'longer'", "accuracy", 0.81, ["accuracy on longer"]),
        ("evaluations", "method == 'careful'", "accuracy", 0.69, ["gain on same_length"]),
        ("densities", "low == 0.3 and label == 'core'", "tokens", 0, ["tokens of the rarer label in [0.3, 0.5)"]),
        ("densities", "low == 0.5 and label == 'replaceable'", "tokens", 1, ["share of tokens in [0.5, 0.7)"]),
        ("densities", "low == 0 and label == 'core'", "tokens", 0, ["share of core under 0.1"]),
        ("densities", "low == 0", "tokens", 0, ["share of core under 0.1"]),
    ],
)  # fmt: skip
def test_each_rule_can_break(table, where, column, value, broken):
    tables = made_up()
    rows = tables[table].query(f"model == 'mini' and {where}").index
    tables[table].loc[rows, column] = value
    found = rules(tables)
    assert list(found.index[~found["holds"]]) == [("mini", rule) for rule in broken]


def test_the_summary_names_what_does_not_hold():
    tables = made_up()
    tables["evaluations"].loc[tables["evaluations"]["method"].isin(["vanilla", "careful"]), "accuracy"] = 0.4
    lines = world_lines(world_table(tables))
    low = "not accuracy on same_length: 0.4 (rule: 0.5 to 0.8)"
    assert lines[-2] == f"* mini: 10 of 12 hold, {low}; gain on same_length: 0 (rule: at least 0.1)."
    assert lines[-1] == f"* second: 10 of 11 hold, {low}."
    assert world_lines(world_table(made_up()))[-1] == "* second: 11 of 11 hold."


def test_the_learning_rate_is_what_tune_chose():
    tune = pd.read_parquet(TABLES / "tune.parquet")
    assert set(tune["learning_rate"]) == set(STUDY.tune.learning_rates) and set(tune["seed"]) == set(STUDY.tune.seeds)
    best = tune.groupby("learning_rate")["accuracy"].mean().idxmax()
    assert STUDY.training.learning_rate == best == tune.loc[tune["chosen"], "learning_rate"].unique().item()
