"""Claims judged from tidy tables whose truth is known, and on the shipped run."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import planted
import pytest
from scipy import stats

from profit import claims, estimators, verdict_table
from profit.claim_power import COLLAPSE, contributions, with_collapsed_seeds
from profit.claim_tables import load_bases
from profit.estimators import NotMeasured, method
from profit.files import InputError
from profit.power import Variances, split
from profit.verdicts import Effect, Finding, effect, verdicts

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "results/published"
SHIPPED = ROOT / "results/reference/tables"
BETTER = {"profit": 0.2, "keep_low": -0.2, "profit_rank4": 0.2, "profit_rank16": 0.2, "profit_epochs": 0.2}


def run(folder, tables=None, *options):
    """claims.json of the tables."""
    if tables is not None:
        planted.write_tables(folder / "tables", tables)
    claims.main(
        ["--tables", str(folder / "tables"), "--published", str(PAPER), "--output", str(folder / "claims.json"),
         "--output-folder", str(folder / "out"), *options]
    )  # fmt: skip
    return json.loads((folder / "claims.json").read_text())


def base_of(folder, tables):
    """The tables of a study with one model, as an estimator gets them."""
    (base,) = load_bases(planted.write_tables(folder, tables), with_questions=False)
    return base


@pytest.fixture(scope="module")
def study():
    return planted.make_tables(BETTER)


@pytest.fixture(scope="module")
def judged(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    return run(folder, study), folder / "out"


def by_id(content, base="mini"):
    return {row["id"]: row for row in content["claims"] if row["base"] == base}


def average(study, method, checkpoint="final"):
    own = study["evaluations"]
    own = own[(own["method"] == method) & (own["checkpoint"] == checkpoint)]
    return own.groupby("seed")["accuracy"].mean()


def test_the_planted_verdicts(judged):
    found = {name: row["verdict"] for name, row in by_id(judged[0]).items()}
    good = [
        "profit_over_sft", "profit_over_three", "profit_over_sft_each", "profit_over_entropy", "profit_over_dft",
        "profit_over_base", "keep_low", "lora_ranks", "epochs", "cost", "profit_overfits_less", "references_overfit",
        "references_cost", "core_more_probable", "low_are_trivial", "theorem_bound", "theorem_share",
    ]  # fmt: skip
    assert {name: found[name] for name in good} == dict.fromkeys(good, "replicated")
    assert found["keep_high"] == "not replicated"  # nothing was planted at tau 0.5
    assert found["references_accuracy"] == "not replicated"
    assert found["general_tasks"] == found["reinforcement"] == "not measured"
    assert found == judged[0]["over_bases"]


def test_effects_are_those_of_the_tables(study, judged):
    rows = by_id(judged[0])

    def mean(name, part=0):
        return rows[name]["parts"][part]["mean"]

    def over(ours, other, checkpoint="final"):
        return pytest.approx((average(study, ours, checkpoint) - average(study, other, checkpoint)).mean())

    assert mean("profit_over_sft") == over("profit", "sft")
    assert mean("profit_over_three") == over("profit", "sft_3ref")
    assert mean("keep_low") == over("sft", "keep_low")
    assert [part["name"] for part in rows["keep_high"]["parts"]] == ["tau 0.1", "tau 0.5"]
    assert mean("keep_high", 1) == over("profit_tau0.5", "sft")
    assert mean("lora_ranks", 1) == over("profit_rank16", "sft_rank16")
    assert mean("epochs", 1) == over("profit_epochs", "sft_epochs", "epoch2")
    assert mean("references_accuracy") == over("sft_3ref", "sft")
    difference = average(study, "profit") - average(study, "sft")
    assert rows["profit_over_sft"]["p"] == pytest.approx(
        stats.ttest_1samp(difference, 0, alternative="greater").pvalue
    )
    assert rows["profit_over_sft"]["adjusted"] >= rows["profit_over_sft"]["p"]
    timed = study["timing"].pivot(index="seed", columns="method", values="seconds")
    ratio = (timed["profit"] / timed["sft"]).mean()
    assert rows["cost"]["parts"][0]["shown"]["value"] == pytest.approx(ratio)
    assert mean("cost") == pytest.approx(1.05 - ratio)
    per_reference = (timed["sft_3ref"] * 171 / (timed["sft"] * 57) / 3).mean()
    assert [part["shown"]["value"] for part in rows["references_cost"]["parts"]] == pytest.approx([per_reference] * 2)


def test_effects_on_tokens_are_those_of_the_tables(study, judged):
    rows = by_id(judged[0])
    overfit = study["overfit"].query("part == 'core'").pivot(index="seed", columns="method", values="overfit")
    fall = 1 - overfit["sft_3ref"].mean() / overfit["sft"].mean()
    assert rows["references_overfit"]["parts"][0]["mean"] == pytest.approx(fall)
    # ProFit is in no sweep of references: its change of trained less that of held references is the same quantity.
    own = study["account"].query("label == 'core' and high == 1 and method == 'profit'")
    changes = own.pivot(index="seed", columns="set", values="change")
    fall = 1 - (changes["trained"] - changes["held"]).mean() / overfit["sft"].mean()
    assert rows["profit_overfits_less"]["parts"][0]["mean"] == pytest.approx(fall)
    labels = (
        study["prompts"].query("annotator == 'agreement'").groupby("label")[["tokens", "probability_sum", "low"]].sum()
    )
    means = labels["probability_sum"] / labels["tokens"]
    assert rows["core_more_probable"]["parts"][0]["mean"] == pytest.approx(means["core"] - means["replaceable"])
    share = labels["low"]["replaceable"] / labels["low"].sum()
    assert rows["low_are_trivial"]["parts"][0]["shown"]["value"] == pytest.approx(share)
    assert {row["name"] for row in rows["core_more_probable"]["controls"]} == {"other", "truth"}
    sums = study["gradient_prompts"].groupby("low")[["tokens", "share"]].sum()
    sums /= sums.sum()
    assert rows["theorem_share"]["parts"][0]["shown"]["value"] == pytest.approx(
        sums["share"][0.0] / sums["tokens"][0.0]
    )
    assert rows["theorem_share"]["parts"][0]["seeds"] == 30 and len(rows["theorem_share"]["controls"]) == 2


def test_prompts_are_resampled_not_tokens(study, tmp_path):
    """Tokens that come in fewer, larger prompts say less."""
    prompts = study["prompts"].copy()
    prompts["prompt_id"] = prompts["prompt_id"].str.removeprefix("p").astype(int) // 6
    keys = ["study", "model", "annotator", "prompt_id", "label"]
    noisy = prompts.assign(probability_sum=lambda rows: rows["probability_sum"] * (1 + 0.05 * (rows["prompt_id"] % 3)))
    merged = noisy.groupby(keys, as_index=False).sum()
    widths = {}
    for name, table in {"many": noisy.assign(prompt_id=study["prompts"]["prompt_id"]), "few": merged}.items():
        (part,) = estimators.core_more_probable(base_of(tmp_path / name, {**study, "prompts": table}))
        widths[name] = part.effect.high - part.effect.low
        assert part.effect.seeds == {"many": 30, "few": 5}[name]
    assert widths["few"] > 1.3 * widths["many"]


def test_controls_are_found_by_their_settings(study, judged):
    names = [part["name"] for part in by_id(judged[0])["profit_over_sft"]["controls"]]
    masks = [
        "random mask (random)", "random mask drawn once (random_fixed)",
        "mask of the base's probabilities (profit_fixed)", "true core tokens (truth)",
        "ProFit divided by kept tokens (profit_kept)", "SFT with match update_norm (sft_matched)",
        "SFT with stop 0.5 (sft_early)", "SFT at learning rate 0.0001 (sft_slow)",
    ]  # fmt: skip
    assert names == [text for mask in masks for text in (f"{mask} - SFT", f"ProFit - {mask}")]
    first = by_id(judged[0])["profit_over_sft"]["controls"][0]
    assert first["mean"] == pytest.approx((average(study, "random") - average(study, "sft")).mean())
    beside = [part["name"] for part in by_id(judged[0])["references_overfit"]["controls"]]
    assert beside[:3] == ["all tokens", "core, against unseen prompts", "core, 3, equal steps"]


def test_arms_of_the_overfitting_stand_beside_and_are_no_bases(study, judged, tmp_path):
    tables = planted.with_arms(study)
    content = run(tmp_path, tables)
    rows, before = by_id(content), by_id(judged[0])
    assert {row["base"] for row in content["claims"]} == {"mini"}
    assert [row["parts"] for row in rows.values()] == [row["parts"] for row in before.values()]
    assert content["over_bases"] == judged[0]["over_bases"]
    beside = {
        name: {part["name"]: part["mean"] for part in row["controls"] if part not in before[name]["controls"]}
        for name, row in rows.items()
    }
    assert {name for name, own in beside.items() if own} == {
        "profit_over_three", "references_overfit", "references_accuracy",
    }  # fmt: skip
    sft, three, profit = (average(study, name) for name in ("sft", "sft_3ref", "profit"))
    assert beside["references_accuracy"] == pytest.approx(
        {
            "1, three times as long": (-0.1 * sft).mean(), "1, twice the prompts": (-0.2 * sft).mean(),
            "3 against 1, three times as long": (three - 0.9 * sft).mean(),
        }
    )  # fmt: skip
    assert beside["profit_over_three"] == pytest.approx(
        {
            "ProFit - SFT on 1, three times as long": (profit - 0.9 * sft).mean(),
            "ProFit - SFT on 1, twice the prompts": (profit - 0.8 * sft).mean(),
        }
    )
    overfit = study["overfit"].groupby(["part", "method"])["overfit"].mean().unstack()
    fall = 1 - overfit["sft_3ref"] / (2 * overfit["sft"])
    for part in ("core", "replaceable"):
        found = {name: mean for name, mean in beside["references_overfit"].items() if name.startswith(part)}
        assert found == pytest.approx(
            {
                f"{part}, 1, three times as long": -1.0, f"{part}, 1, twice the prompts": 0.5,
                f"{part}, 3 against 1, three times as long": fall[part],
            }
        )  # fmt: skip


def test_objectives_are_compared_on_core_tokens_alone(study, judged):
    controls = {part["name"]: part["mean"] for part in by_id(judged[0])["profit_overfits_less"]["controls"]}
    assert {
        "core, against unseen prompts", "core, random mask (random)", "core, true core tokens (truth)",
        "core, entropy (entropy)", "core, DFT (dft)", "core, keep low (keep_low)",
    } <= set(controls)  # fmt: skip
    assert all(name.startswith("core, ") and "sft" not in name for name in controls)
    own = study["account"].query("label == 'core' and high == 1 and method == 'random'")
    changes = own.pivot(index="seed", columns="set", values="change")
    sft = study["overfit"].query("part == 'core' and method == 'sft'")["overfit"].mean()
    expected = 1 - (changes["trained"] - changes["held"]).mean() / sft
    assert controls["core, random mask (random)"] == pytest.approx(expected)


def test_names_of_methods_do_not_matter(study, judged, tmp_path):
    """Called anything, the same verdicts; only what names a method changes."""
    renamed = {}
    for name, frame in study.items():
        renamed[name] = frame.assign(method="m_" + frame["method"].str[::-1]) if "method" in frame else frame
    other = by_id(run(tmp_path, renamed))
    for name, row in by_id(judged[0]).items():
        assert {**row, "controls": None} == {**other[name], "controls": None}
        assert [part["mean"] for part in row["controls"]] == [part["mean"] for part in other[name]["controls"]]


def test_verdicts_follow_from_the_tidy_table(judged):
    content, folder = judged
    table = pd.read_parquet(folder / "claims.parquet")
    assert pd.read_csv(folder / "claims.csv")["verdict"].tolist() == table["verdict"].tolist()
    measured = table[table["mean"].notna()]
    found = {
        name: Finding(
            [Effect(*row) for row in own[["mean", "low", "high", "p", "upper", "seeds"]].itertuples(index=False)],
            own["smallest"].iloc[0], own["family"].iloc[0], own["verdict"].iloc[0] == "by construction",
        )
        for name, own in measured.groupby("claim")
    }  # fmt: skip
    assert verdicts(found) == measured.groupby("claim")["verdict"].first().to_dict()
    assert set(table.loc[table["mean"].isna(), "verdict"]) == {"not measured"}
    assert set(table["claim"]) == set(by_id(content))
    effects = pd.DataFrame(
        [part["shown"] for row in content["claims"] for part in row["parts"]], index=measured.index
    )  # of the same order
    signs = (effects["value"] - measured["zero"]) / measured["mean"]
    assert signs[measured["mean"] != 0].abs().to_numpy() == pytest.approx(1)
    assert (measured.loc[measured["claim"] == "cost", "zero"] == estimators.RATIO).all()
    assert table.set_index("claim")["over_bases"].to_dict() == content["over_bases"]


def test_the_paper_s_number_stands_in_the_table_where_it_is_the_effect_of_the_claim(judged):
    table = pd.read_parquet(judged[1] / "claims.parquet").drop_duplicates("claim").set_index("claim")
    found = table["published_value"].dropna().to_dict()
    assert found == pytest.approx(
        {"profit_over_sft": 0.045, "profit_over_sft_each": -0.019, "profit_over_entropy": 0.046,
         "profit_over_dft": 0.024, "profit_over_base": 0.099, "general_tasks": 0.022, "core_more_probable": 0.283},
        abs=0.0005,
    )  # fmt: skip
    for name in found:
        assert f"{100 * found[name]:+.1f}" in table.loc[name, "published"] or name == "core_more_probable"


def test_the_table_for_a_person(judged):
    text = (judged[1] / "claims.md").read_text()
    lines = text.splitlines()
    assert lines[2] == "| claim | paper | ours | on | verdict for this base (mini) | figure |"
    row = by_id(judged[0])["profit_over_sft"]["parts"][0]
    shown = f"{100 * row['mean']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}] points"
    assert (
        f"| ProFit beats SFT on average | +4.5 points (5 bases, +0.3 to +10.9) | {shown} | 10 seeds | replicated |"
        in text
    )
    assert "| 0 of 60 tokens break it | 60 tokens | replicated |" in text
    assert "tau 0.5: " in text and "(weakest of 2)" in text
    main = (judged[1] / "table1_main.md").read_text()
    assert "| profit | 50.0 ± 10.0 |" in main and main.index("| profit |") < main.index("## Power")
    for where in (text, main):
        assert "10 seeds and 100 questions find a difference of" in where
    assert "In three disjoint sets of the seeds: replicated, replicated, replicated" in text
    assert not re.search(r"\bnan\b|None", text)
    assert len([line for line in lines if line.startswith("| ")]) == len(claims.CLAIMS) + 1


def test_what_a_calibrated_world_fixes_has_no_verdict(study, tmp_path):
    made = {**study, "runs": study["runs"].assign(labels="truth")}
    rows = by_id(run(tmp_path, made))
    fixed = {name for name, row in rows.items() if row["verdict"] == "by construction"}
    assert fixed == {"core_more_probable", "low_are_trivial"}
    assert all(rows[name]["adjusted"] is None for name in fixed)


def test_a_study_without_sweeps_lists_what_it_lacks(study, tmp_path):
    few = ["vanilla", "sft", "profit"]
    small = {name: study[name] for name in ("runs", "evaluations", "main", "questions")}
    small = {name: rows[rows["method"].isin(few)] if "method" in rows else rows for name, rows in small.items()}
    content = run(tmp_path, small)
    found = {name: row["verdict"] for name, row in by_id(content).items()}
    assert {name for name, word in found.items() if word != "not measured"} == {
        "profit_over_sft", "profit_over_sft_each", "profit_over_base", "cost",
    }  # fmt: skip
    notes = {name: row["note"] for name, row in by_id(content).items()}
    assert notes["theorem_bound"] == "The study has no table theorem"
    assert notes["profit_over_dft"] == "The study has no dft beside SFT"
    assert notes["keep_high"] == "The study has profit at 1 thresholds"
    assert {row["claim"] for row in content["power"]} == {"profit_over_sft"}


@pytest.mark.parametrize(("count", "shown"), [(1, "descriptive"), (4, "descriptive"), (5, "replicated")])
def test_few_seeds(count, shown, tmp_path):
    content = run(tmp_path, planted.make_tables(BETTER, count))
    row = by_id(content)["profit_over_sft"]
    assert row["verdict"] == shown and row["stability"] is None
    assert row["note"] == {
        1: "A part has 1 seed; a verdict needs 5", 4: "A part has 4 seeds; a verdict needs 5",
        5: "On 5 seeds; this comparison should have 10",
    }[count]  # fmt: skip
    assert (row["parts"][0]["p"] is None) == (count == 1) and (not content["power"]) == (count == 1)
    text = (tmp_path / "out" / "claims.md").read_text()
    assert ("Unknown: it needs table questions" in text) == (count == 1)
    assert not re.search(r"\bnan\b|None", text)


def test_only_common_seeds_are_compared(study, tmp_path):
    """What ProFit did on seeds that SFT lacks says nothing."""
    seeds = {**dict.fromkeys(planted.METHODS, 5), "profit": 10}
    tables = planted.make_tables(BETTER, seeds)
    (part,) = estimators.profit_over(lambda base: base.sft)(base_of(tmp_path, tables))
    expected = (average(tables, "profit") - average(tables, "sft")).dropna()
    assert part.effect.seeds == 5 and part.effect.mean == pytest.approx(expected.mean())


@pytest.mark.parametrize(
    ("violations", "undecided", "expected"),
    [(1, 0, "not replicated"), (0, 2, "inconclusive"), (1, 2, "not replicated")],
)
def test_the_theorem_has_no_exception(study, tmp_path, violations, undecided, expected):
    broken = study["theorem"].assign(violations=violations, undecided=undecided)
    (part,) = estimators.norm_bound(base_of(tmp_path, {**study, "theorem": broken}))
    assert verdicts({"bound": Finding([part.effect], 0.0, "rest")}) == {"bound": expected}
    assert part.effect.mean == pytest.approx(-violations / 60)


def test_nothing_to_reduce_is_no_effect(study, tmp_path):
    rows = study["overfit"]
    none = rows.assign(overfit=rows["overfit"].mask(rows["method"] == "sft", -0.001))
    with pytest.raises(NotMeasured, match="SFT on one reference does not overfit here .core: -0.0010 nats"):
        estimators.several_overfit(base_of(tmp_path, {**study, "overfit": none}))


def test_seconds_of_the_clock_on_a_gpu(study, tmp_path):
    runs = study["runs"].assign(device="cuda: some GPU")
    runs.loc[runs["method"] == "profit", "wall_seconds"] *= 1.2
    (part,) = estimators.cost(base_of(tmp_path / "timed", {**study, "runs": runs}))
    assert part.effect.mean == pytest.approx(0.05, abs=0.02)
    untimed = {name: rows for name, rows in study.items() if name != "timing"}
    (part,) = estimators.cost(base_of(tmp_path / "untimed", {**untimed, "runs": runs}))
    assert part.effect.upper < 0 and 1.05 - part.effect.mean == pytest.approx(1.2, abs=0.02)


def test_a_method_that_was_not_timed_is_judged_by_whole_runs(study, tmp_path):
    timed, runs = study["timing"], study["runs"].pivot(index="seed", columns="method", values="cpu_seconds")
    tables = {**study, "timing": timed[timed["method"] != "sft_3ref"]}
    low, high = estimators.several_cost(base_of(tmp_path, tables))
    expected = (runs["sft_3ref"] / runs["sft"] / 3).mean()
    assert low.effect.mean == pytest.approx(expected - 0.9) and high.effect.mean == pytest.approx(1.1 - expected)


def test_several_bases(tmp_path):
    tables = planted.make_tables(BETTER, models=("mini", "Qwen3-4B-Base"))
    rows, runs = tables["evaluations"], ["profit"]
    opposite = (rows["model"] == "mini") & rows["method"].isin(runs)
    tables["evaluations"] = rows.assign(accuracy=rows["accuracy"].mask(opposite, rows["accuracy"] - 0.4))
    content = run(tmp_path, tables, "--without-questions")
    found = {base: by_id(content, base)["profit_over_sft"] for base in ("mini", "Qwen3-4B-Base")}
    assert [row["verdict"] for row in found.values()] == ["not replicated", "replicated"]
    assert [row["published"] for row in found.values()] == ["+4.5 points (5 bases, +0.3 to +10.9)", "+10.9 points"]
    assert content["over_bases"]["profit_over_sft"] == "depends on base"
    text = (tmp_path / "out" / "claims.md").read_text()
    assert "| ProFit beats SFT on average | depends on base | 1 not replicated, 1 replicated |" in text
    assert "| verdict |" in text and "for this base" not in text and "| not replicated: the opposite |" in text


def test_a_refuted_claim_says_what_there_is_instead():
    def said(values, smallest=0.05):
        part = vars(effect(values))
        word = verdicts({"a": Finding([effect(values)], smallest, "rest")})["a"]
        return verdict_table.verdict({"verdict": word, "parts": [part], "smallest": smallest, "adjusted": part["p"]})

    assert said([0.02, 0.021, 0.019]) == "descriptive" and said([0.2, 0.21, 0.19, 0.2, 0.2]) == "replicated"
    assert said([0.02, 0.021, 0.019, 0.02, 0.02]) == "not replicated: above 0, but too small"
    assert said([0.01, -0.01, 0.02, -0.02, 0.0]) == "not replicated"
    assert said([-0.02, -0.021, -0.019, -0.02, -0.02]) == "not replicated: the opposite"
    assert said([-0.02, -0.021, -0.019, -0.02, -0.02], 0.0) == "not replicated"  # a margin has no opposite


def test_a_further_table_holds_the_general_tasks(study, tmp_path):
    main = study["main"]
    further = main[main["benchmark"].isin(["choice", "format"])].assign(table="table3")
    first = main[main["benchmark"].isin(["same_length", "longer", "longest"])]
    base = base_of(tmp_path, {**study, "main": pd.concat([first, further])})
    own = (
        study["evaluations"].query("benchmark in ['choice', 'format']").groupby(["method", "seed"])["accuracy"].mean()
    )
    assert estimators.general(base)[0].effect.mean == pytest.approx((own["profit"] - own["sft"]).mean())
    assert [part.name for part in estimators.on_each(base)] == ["same_length", "longer", "longest"]


def test_power_splits_the_differences_of_questions(study, judged):
    row = next(row for row in judged[0]["power"] if row["claim"] == "profit_over_sft" and row["effect"] == 0.05)
    own = study["questions"].pivot(index=["method", "seed"], columns=["benchmark", "question_id"], values="accuracy")
    found = split((own.loc["profit"] - own.loc["sft"]).to_numpy())
    assert [row[f"variance_{key}"] for key in ("seed", "question", "rest")] == pytest.approx(
        [found.seed, found.question, found.rest], abs=1e-12
    )
    assert row["seeds_if_collapsed"] > row["seeds_if_seeds_collapsed"] >= row["seeds_needed"]
    table = pd.read_parquet(judged[1] / "power.parquet")
    assert len(table) == len(judged[0]["power"]) == 8 and set(table["study"]) == {planted.STUDY}


def test_a_collapsed_seed_halves_what_its_questions_show():
    rng = np.random.default_rng(0)
    halved = rng.random((200_000, 1)) < COLLAPSE
    values = 0.05 + rng.normal(0, 0.03, (200_000, 1)) + rng.normal(0, 0.3, (200_000, 5))
    found = np.where(halved, values / 2, values).mean(axis=1)
    left = with_collapsed_seeds(Variances(0.03**2, 0.0, 0.3**2), 0.05)
    assert found.var() == pytest.approx(left.of_mean(1, 5), rel=0.02)
    assert found.mean() == pytest.approx(0.05 * (1 - COLLAPSE / 2), rel=0.02)


def test_benchmarks_of_unequal_size_count_equally_in_power(study, tmp_path):
    questions = study["questions"].query("benchmark != 'longest' or question_id in ['q0', 'q1', 'q2']")
    means = questions.groupby(["model", "method", "seed", "benchmark"])["accuracy"].mean().rename("fewer")
    rows = study["evaluations"].merge(means, how="left", on=means.index.names)
    rows["questions"] = np.where(rows["benchmark"] == "longest", 3, planted.FEW)
    rows["accuracy"] = rows["fewer"].where(rows["checkpoint"] == "final").fillna(rows["accuracy"])
    tables = {**study, "evaluations": rows.drop(columns="fewer"), "questions": questions}
    base = load_bases(planted.write_tables(tmp_path, tables))[0]
    found = contributions(base, method(base, "profit"), base.sft)
    expected = average(tables, "profit") - average(tables, "sft")
    assert found.shape == (10, 83) and found.mean(axis=1).to_numpy() == pytest.approx(expected.to_numpy())


def edited(tables, name, **changes):
    """One table with changes in its first row of ProFit, seed 3 where there is one."""
    frame = tables[name].copy().reset_index(drop=True)
    row = frame.query("method == 'profit' and seed == 3").index[0] if "method" in frame else 0
    for column, value in changes.items():
        frame.loc[row, column] = value
    return {**tables, name: frame}


def without(tables, name, condition):
    frame = tables[name]
    return {**tables, name: frame.drop(frame.query(condition).index)}


PROFIT_3 = "method == 'profit' and seed == 3"
BAD = {
    "another world": (
        lambda s: edited(s, "runs", world="w1"), "mini/profit, seed 3: found world w1, expected w0 as in 259 runs"
    ),
    "no world": (lambda s: edited(s, "runs", world=None), "mini/profit, seed 3: found world (None|nan), expected w0"),
    "a run twice": (
        lambda s: {**s, "runs": pd.concat([s["runs"], s["runs"].query(PROFIT_3)])},
        "table runs, mini, profit, 3: found it twice",
    ),
    "a missing benchmark": (
        lambda s: without(s, "evaluations", f"{PROFIT_3} and benchmark == 'choice'"),
        "table evaluations, mini/profit, seed 3: found no choice",
    ),
    "a run without evaluation": (
        lambda s: without(s, "evaluations", PROFIT_3), "table evaluations: found no mini, profit, 3 of table runs",
    ),
    "NaN": (
        lambda s: edited(s, "evaluations", accuracy=math.nan),
        "mini, profit, 3, final, 1?.*same_length.*: found accuracy nan, expected a number from 0 to 1",
    ),
    "per cent": (
        lambda s: edited(s, "evaluations", accuracy=60.0), "found accuracy 60.0, expected a number from 0 to 1"
    ),
    "fewer questions": (
        lambda s: edited(s, "evaluations", questions=19),
        "mini/profit, seed 3, same_length: found 19 questions, expected 20 as in the runs before",
    ),
    "an evaluation twice": (
        lambda s: {**s, "evaluations": pd.concat([s["evaluations"], s["evaluations"].query(PROFIT_3)])},
        "table evaluations, mini, profit, 3, final, same_length: found it twice",
    ),
    "another question": (
        lambda s: edited(s, "questions", question_id="q99"),
        "mini/profit, seed 3, same_length: found 2 questions asked of this run alone or of the others alone .q0.",
    ),
    "a question twice": (
        lambda s: edited(s, "questions", question_id="q1"), "mini, profit, 3, same_length, q1: found it twice"
    ),
    "other answers": (
        lambda s: {**s, "questions": s["questions"].assign(accuracy=0.5)}, "found a mean of 0.500000, expected 0",
    ),
    "no questions of a run": (
        lambda s: without(s, "questions", PROFIT_3), "table questions: found no profit, seed 3, expected all runs"
    ),
    "no table of questions": (
        lambda s: {name: frame for name, frame in s.items() if name != "questions"},
        "questions.parquet: not found, expected the accuracy on each question .*--without-questions",
    ),
    "another study": (
        lambda s: {**s, "prompts": s["prompts"].assign(study="else")},
        r"table prompts, column study: found \['else'\], expected 'planted' alone",
    ),
    "NaN in overfit": (
        lambda s: {**s, "overfit": s["overfit"].assign(overfit=math.nan)},
        "table overfit, .*found overfit nan, expected a number",
    ),
    "no setting": (
        lambda s: {**s, "runs": s["runs"].drop(columns="learning_rate")}, r"expected also \['learning_rate'\]"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name, study, tmp_path):
    spoil, message = BAD[name]
    with pytest.raises(InputError, match=message):
        run(tmp_path, spoil(study))
    assert not (tmp_path / "claims.json").exists()


def test_entries_are_whole():
    ids = [claim.id for claim in claims.CLAIMS]
    assert len(ids) == len(set(ids))
    assert {claim.id for claim in claims.CLAIMS if claim.family == "first"} == {"profit_over_sft", "profit_over_three"}
    for claim in claims.CLAIMS:
        assert claim.sentence and claim.place and claim.how and claim.control and claim.reason and claim.smallest >= 0
        assert claim.figure is None or (ROOT / "profit/figures" / f"{claim.figure}.py").is_file()
        assert claim.unit == "accuracy" or claim.smallest != 0.05 or "0.05" in claim.reason


def test_the_shipped_run(tmp_path):
    (tmp_path / "tables").symlink_to(SHIPPED)
    rows = by_id(run(tmp_path, None, *([] if (SHIPPED / "questions.parquet").is_file() else ["--without-questions"])))
    main = pd.read_parquet(SHIPPED / "main.parquet").query("method == 'profit'").set_index("benchmark")
    part = rows["profit_over_sft"]["parts"][0]
    expected = main.loc["average", ["difference_vs_sft", "difference_low", "difference_high"]]
    assert [part["mean"], part["low"], part["high"]] == pytest.approx(expected.tolist())
    each = {part["name"]: part["mean"] for part in rows["profit_over_sft_each"]["parts"]}
    assert each == pytest.approx(main.loc[list(each), "difference_vs_sft"].to_dict())
    assert rows["profit_over_sft"]["published"] == "+4.5 points (5 bases, +0.3 to +10.9)"
    assert rows["profit_over_sft_each"]["published"].startswith("21 of 25 cells above SFT, least -1.9")
    assert "34.1 to 33.5" in rows["references_accuracy"]["published"]
