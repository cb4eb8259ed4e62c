"""Tables against numbers recomputed from the raw samples, the runs they may read, and every kind of bad input."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic_results as made
from scipy import stats

from profit import coloured, gather_tokens, tabulate
from profit.claim_tables import load_bases
from profit.files import InputError, read_json, read_parquet_metadata, write_json, write_parquet
from profit.outputs import WITHOUT_CSV

SMALL = ["same_length", "longer"]
PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Results of every kind of run, tabulated."""
    folder, study = tmp_path_factory.mktemp("whole"), made.full_study(seeds=3)
    made.write_results(folder, study, questions=5)
    run(folder, study)
    return folder, made.listed_study(study)


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a study with the paper's models and tables."""
    folder, study = tmp_path_factory.mktemp("paper"), made.paper_study(seeds=1)
    study["analysis"] = {
        "annotators": ["agreement", "llm"],
        "judge": {"model": "judge", "base_url": "https://example.org/v1"},
    }
    return run(made.write_results(folder, study, questions=4), study)


@pytest.fixture(scope="module")
def small_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the five runs of `small_study`, never changed."""
    return made.write_results(tmp_path_factory.mktemp("small"), small_study(), questions=4)


@pytest.fixture
def small(small_results: Path, tmp_path: Path) -> Path:
    """A copy of the small results for a test to damage."""
    return Path(shutil.copytree(small_results, tmp_path / "results"))


def small_study(seeds: int = 2) -> dict[str, Any]:
    """Three methods on two benchmarks; the overfitting of one run is measured."""
    study = made.full_study(seeds)
    study["methods"] = {name: study["methods"][name] for name in ("vanilla", "sft", "profit")}
    study["sweeps"] = {"overfitting": {"method": "sft", "references": [1], "seeds": 1}}
    study["analysis"] = {"gradients": {}, "account": ["profit"], "drift": ["profit"], "answer_style": ["sft"]}
    study["benchmarks"] = {name: study["benchmarks"][name] for name in SMALL}
    return study


def run(folder: Path, study: dict[str, Any], *more: str) -> Path:
    """Call the command; returns the folder of tables."""
    tables, file = folder / "tables", made.write_study(folder / "study.yaml", study)
    arguments = ["--study", str(file), "--results", str(folder), "--published", str(PUBLISHED)]
    tabulate.main([*arguments, "--output-folder", str(tables), *more])
    return tables


def accuracy(folder: Path, method: str, benchmark: str, seeds: int) -> np.ndarray:
    """Accuracies by seed, straight from the samples."""
    found = []
    for seed in range(seeds):
        samples = pd.read_parquet(
            folder / "evaluations" / "mini" / method / f"seed{seed}" / "final" / "samples.parquet"
        )
        found.append(samples.loc[samples["benchmark"] == benchmark, "correct"].mean())
    return np.array(found)


def test_main_table_agrees_with_the_samples(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = whole
    main = pd.read_parquet(folder / "tables" / "main.parquet").set_index(["method", "benchmark"])
    by_benchmark = {
        (method, name): accuracy(folder, method, name, seeds)
        for method, seeds in (("sft", 3), ("profit", 3), ("dft", 2), ("vanilla", 2))
        for name in made.BENCHMARKS
    }
    for method in ("sft", "profit", "dft"):
        own = {name: by_benchmark[method, name] for name in made.BENCHMARKS}
        sft = {name: by_benchmark["sft", name] for name in made.BENCHMARKS}
        own["average"], sft["average"] = (np.mean([*each.values()], axis=0) for each in (own, sft))
        kept = made.BENCHMARKS[1:]
        own["kept"], sft["kept"] = (np.mean([each[name] for name in kept], axis=0) for each in (own, sft))
        own["learnt"], sft["learnt"] = own["same_length"], sft["same_length"]
        for name, values in own.items():
            row = main.loc[(method, name)]
            if stats.sem(values) > 0:
                interval = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
                assert (row["low"], row["high"]) == pytest.approx(interval)
            assert row["mean"] == pytest.approx(values.mean())
            assert row["seeds"] == len(values)
            if method == "sft":
                assert math.isnan(row["difference_vs_sft"])
                continue
            paired = values - sft[name][: len(values)]
            assert row["difference_vs_sft"] == pytest.approx(paired.mean())
            assert row["difference_seeds"] == len(values)
            if stats.sem(paired) > 0:
                interval = stats.ttest_rel(values, sft[name][: len(values)]).confidence_interval(0.95)
                assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(interval))
    vanilla = by_benchmark["profit", "format"][:2] - by_benchmark["vanilla", "format"]
    assert main.loc[("profit", "format"), "difference_vs_vanilla"] == pytest.approx(vanilla.mean())
    half = main.loc[("profit", "format"), "difference_vs_vanilla_high"] - vanilla.mean()
    assert half == pytest.approx(stats.t.ppf(0.975, 1) * stats.sem(vanilla))
    assert set(main["table"]) == {"table1"}


def test_a_table_holds_its_own_models_and_benchmarks(paper: Path) -> None:
    main = pd.read_parquet(paper / "main.parquet")
    found = {table: (set(own["model"]), list(dict.fromkeys(own["benchmark"]))) for table, own in main.groupby("table")}
    assert found == {
        "table1": (set(made.BASES), [*made.REASONING, "average"]),
        "table2": (set(made.INSTRUCT), [*made.REASONING, "average"]),
        "table3": (set(made.QWEN), [*made.GENERAL, "average"]),
    }
    cells = main.set_index(["table", "model", "method", "benchmark"])["mean"].sort_index()
    for table, names in (("table1", made.REASONING), ("table3", made.GENERAL)):
        own = cells[table, "Qwen3-14B-Base", "dft"]
        assert own["average"] == pytest.approx(own[names].mean())
    methods = {model: set(own["method"]) for model, own in main.groupby("model")}
    assert "dft" not in methods["OLMo-2-7B"] and "entropy" not in methods["Qwen2.5-3B-Instruct"]
    assert "sft_3ref" in methods["Qwen3-4B-Base"] and "sft_3ref" not in methods["Qwen3-14B-Base"]


def test_without_sft_or_vanilla_there_are_no_such_differences(small: Path) -> None:
    for lacking, columns in (("vanilla", "difference_vs_vanilla"), ("sft", "difference_vs_sft")):
        study = small_study()
        del study["methods"][lacking], study["sweeps"], study["analysis"]
        main = pd.read_parquet(run(small, study) / "main.parquet")
        assert main[columns].isna().all() and main["mean"].notna().all() and lacking not in set(main["method"])


def test_agreement_of_two_annotators(paper: Path, small: Path) -> None:
    table = pd.read_parquet(paper / "agreement.parquet").set_index("part")
    row = table.loc["core_and_replaceable"]
    assert (row["first"], row["second"], row["unit"], row["answers"]) == ("agreement", "llm", "word", 30)
    assert (row["kappa_low"], row["kappa"], row["kappa_high"]) == pytest.approx((0.63, 0.65, 0.66))
    assert "Agreement of agreement with llm on the words of 30 answers" in (paper / "summary.md").read_text()
    assert not (run(small, small_study()) / "agreement.csv").exists()
    path = small / "agreement" / "shared.json"
    write_json(path, made.make_agreement("llm", "agreement"))
    with pytest.raises(InputError, match="found 'llm' and 'agreement', expected agreement and llm"):
        gather_tokens.gather_agreement(path, ["agreement", "llm"], made.WORLD)


def test_a_study_without_annotators_has_no_tables_of_labels(tmp_path: Path) -> None:
    study = made.paper_study(seeds=1)
    study["analysis"] = {"annotators": []}
    study["models"] = {"Qwen3-4B-Base": study["models"]["Qwen3-4B-Base"]}
    study["tables"] = {"table1": {"benchmarks": made.REASONING[:2]}}
    study["sweeps"] = {"overfitting": study["sweeps"]["overfitting"]}
    study["methods"] = {"sft": {"objective": "sft", "seeds": 1}}
    tables = run(made.write_results(tmp_path, study, questions=4), study)
    names = {path.stem for path in tables.glob("*.parquet")}
    assert names == {"runs", "models", "evaluations", "questions", "steps", "overfit", "main", "published"}
    (model,) = pd.read_parquet(tables / "models.parquet").to_dict("records")
    assert (model["model"], model["base"], model["world"]) == (*["Qwen3-4B-Base"] * 2, made.WORLD)
    assert all(pd.isna(model[key]) for key in ("prompts", "pretraining_steps", "world_seed", "wording_lean"))
    assert set(pd.read_parquet(tables / "overfit.parquet")["part"]) == {"all"}
    assert pd.read_parquet(tables / "runs.parquet")["labels"].isna().all()


def test_every_table_is_written_twice_and_equal(whole: tuple[Path, dict[str, Any]]) -> None:
    tables = whole[0] / "tables"
    names = {
        "runs",
        "models",
        "world",
        "evaluations",
        "overfit",
        "densities",
        "correlation",
        "threshold_loss",
        "coloured",
        "theorem",
        "gradients",
        "drift",
        "answer_style",
        "timing",
        "main",
        "published",
    }
    assert {path.stem for path in tables.glob("*.csv")} == names
    assert {path.stem for path in tables.glob("*.parquet")} == names | {*WITHOUT_CSV}
    for name in names:
        csv, parquet = pd.read_csv(tables / f"{name}.csv"), pd.read_parquet(tables / f"{name}.parquet")
        assert list(csv) == list(parquet) and csv["study"].eq("made_up").all()
        numbers = parquet.select_dtypes("number").columns
        both = csv[numbers].astype(float), parquet[numbers].astype(float)
        pd.testing.assert_frame_equal(*both, rtol=1e-5, check_dtype=False)


def test_runs_hold_settings_costs_and_the_token_weighted_kept_share(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, study = whole
    runs = pd.read_parquet(folder / "tables" / "runs.parquet").set_index(["method", "seed"])
    assert len(runs) == len(study["runs"])
    steps = pd.read_parquet(folder / "runs" / "mini" / "profit" / "seed1" / "steps.parquet")
    row = runs.loc[("profit", 1)]
    assert row["kept"] == pytest.approx((steps["kept"] * steps["tokens"]).sum() / steps["tokens"].sum())
    assert (row["steps"], row["tokens_trained"], row["cpu_seconds"]) == (made.STEPS, steps["tokens"].sum(), 5.5)
    assert runs.loc[("vanilla", 0), "objective"] == "vanilla" and pd.isna(runs.loc[("vanilla", 0), "steps"])
    assert (runs.loc[("keep_low_tau0.7", 0), ["tau", "direction"]] == [0.7, "lower"]).all()
    assert (runs.loc[("sft_rank16", 0), ["tuning", "rank", "learning_rate"]] == ["lora", 16, 1e-3]).all()
    assert (runs.loc[("entropy", 0), ["share", "normaliser", "labels"]] == [0.2, "all", "truth"]).all()
    assert (runs.loc[("random", 0), ["redraw", "paired_with", "device", "stop"]] == ["step", "profit", "cpu", 1]).all()
    changes = ["redraw", "keep", "match", "stop", "mix", "paired_with", "device"]
    assert runs.loc[("vanilla", 0), changes].isna().all()
    logged = pd.read_parquet(folder / "tables" / "steps.parquet")
    assert set(logged["method"]) == {run["method"] for run in study["runs"] if run["group"] == "main"} - {"vanilla"}


def test_epochs_and_order_of_benchmarks(whole: tuple[Path, dict[str, Any]]) -> None:
    found = pd.read_parquet(whole[0] / "tables" / "evaluations.parquet")
    epochs = found[found["method"] == "sft_epochs"]
    assert sorted(epochs["epoch"].unique()) == [1, 2, 3, 4, 5]
    assert list(dict.fromkeys(found["benchmark"])) == made.BENCHMARKS
    assert found.loc[found["method"] == "sft", "epoch"].eq(3).all()
    assert found.loc[found["method"] == "vanilla", "epoch"].isna().all()


def test_overfit_only_of_the_runs_that_ask_for_it(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, study = whole
    found = pd.read_parquet(folder / "tables" / "overfit.parquet")
    asked = {(run["method"], run["seed"]) for run in study["runs"] if run["overfit"]}
    assert set(zip(found["method"], found["seed"], strict=True)) == asked
    row = found.set_index(["method", "seed", "part"]).loc[("sft_5ref", 2, "core")]
    said = read_json(folder / "overfit" / "mini" / "sft_5ref" / "seed2.json")["parts"]["core"]
    assert row["overfit"] == pytest.approx(said["overfit"])


def test_controls_are_no_baselines(tmp_path: Path) -> None:
    study = made.controlled_study()
    tables = run(made.write_results(tmp_path, study, questions=4), study)
    main = pd.read_parquet(tables / "main.parquet").set_index(["method", "benchmark"])
    found, sft = (accuracy(tmp_path, name, "longer", 2) for name in ("sft_stopped", "sft"))
    assert math.isnan(main.loc[("sft", "longer"), "difference_vs_sft"])
    assert main.loc[("sft_stopped", "longer"), "difference_vs_sft"] == pytest.approx((found - sft).mean())
    published = pd.read_parquet(tables / "published.parquet").query("quantity == 'average_vs_sft'")
    assert set(published["ours_of"].dropna()) == {"profit"}
    questions = pd.read_parquet(tables / "questions.parquet")
    assert set(questions["method"]) == {"sft", "sft_3ref", "sft_5ref", "profit", "sft_3ref_steps", "sft_5ref_steps"}
    runs = pd.read_parquet(tables / "runs.parquet").set_index(["method", "seed"])
    assert (runs.loc[("sft_matched", 1), ["match", "paired_with"]] == ["update_norm", "profit"]).all()
    assert (runs.loc[("sft_stopped", 0), ["stop", "mix"]] == [0.5, 1]).all()
    assert (runs.loc["core", "keep"] == "core").all() and (runs.loc["random_fixed", "redraw"] == "never").all()
    (base,) = load_bases(tables)
    assert set(base.sft["method"]) == {"sft"} and set(base.final["method"]) >= {"random_fixed", "core"}


def test_questions_are_means_of_samples(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = whole
    found = pd.read_parquet(folder / "tables" / "questions.parquet")
    own = found[(found["method"] == "profit") & (found["seed"] == 2) & (found["benchmark"] == "choice")]
    samples = pd.read_parquet(folder / "evaluations" / "mini" / "profit" / "seed2" / "final" / "samples.parquet")
    expected = samples[samples["benchmark"] == "choice"].groupby("question_id")["correct"].mean()
    assert own.set_index("question_id")["accuracy"].to_dict() == expected.to_dict()
    assert set(found.groupby("method")["seed"].nunique()[["sft", "profit", "sft_3ref"]]) == {3}


def test_tables_of_tokens(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, study = whole
    names = ("correlation", "prompts", "theorem", "gradients", "gradient_prompts", "account", "drift", "answer_style")
    tables = {name: pd.read_parquet(folder / "tables" / f"{name}.parquet") for name in names}
    sums = tables["prompts"].query("annotator == 'truth'").groupby("label")[["probability_sum", "tokens"]].sum()
    means = sums["probability_sum"] / sums["tokens"]
    said = tables["correlation"].set_index("annotator").loc["truth"]
    assert [means[name] for name in ("core", "replaceable")] == pytest.approx(
        [said["probability_core_mean"], said["probability_replaceable_mean"]]
    )
    row = tables["theorem"].iloc[0]
    assert (row["model"], row["tokens"], row["undecided"], row["looseness_median"]) == ("mini", 60, 2, 2.5)
    bins = tables["gradient_prompts"].groupby(["low", "high"])[["tokens", "share"]].sum()
    groups = tables["gradients"].query("label == 'all' and not (low == 0 and high == 1)").set_index(["low", "high"])
    assert bins["tokens"].to_dict() == groups["tokens"].to_dict() and bins["tokens"].sum() == 300
    assert bins["share"].to_dict() == pytest.approx(groups["share"].to_dict())
    asked = {(one["method"], one["seed"]) for one in study["runs"] if one["drift"]}
    assert {method for method, _ in asked} == {"sft", "profit"}
    for name in ("account", "drift"):
        assert set(zip(tables[name]["method"], tables[name]["seed"], strict=True)) == asked
    assert set(tables["drift"]["part"]) == {"all", "core"} and tables["drift"]["relative"].eq(0.05).all()
    styled = {(one["method"], one["seed"]) for one in study["runs"] if one["answer_style"]}
    assert {method for method, _ in styled} == {"vanilla", "sft", "profit"}
    found = set(zip(tables["answer_style"]["method"], tables["answer_style"]["seed"], strict=True))
    assert found == styled | {("references", 0)}
    assert set(tables["answer_style"]["benchmark"]) == {*made.BENCHMARKS, "all"}


def test_seconds_of_a_step_are_means_of_the_counted_steps(whole: tuple[Path, dict[str, Any]]) -> None:
    found = pd.read_parquet(whole[0] / "tables" / "timing.parquet")
    assert list(zip(found["method"], found["seed"], strict=True)) == [
        (m, s) for m in ("sft", "profit") for s in range(3)
    ]
    assert found["seconds"].tolist() == pytest.approx(3 * [0.083] + 3 * [0.087])
    assert found["steps"].eq(3).all() and found["device"].eq("cpu").all() and found["model"].eq("mini").all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "found 17 rows, 1 of them too many or lacking, expected one a method, seed and step"),
        (lambda rows: pd.concat([rows, rows[:1]]), "found 19 rows, 0 of them too many or lacking"),
        (lambda rows: rows.assign(seed=rows["seed"] + 1), "found 18 rows, 12 of them"),
        (lambda rows: rows.assign(seconds=0.0), "column seconds: found none or no finite number"),
        (lambda rows: rows.assign(seconds=np.nan), "column seconds: found none or no finite number"),
    ],
)
def test_bad_timing(tmp_path: Path, change: Any, message: str) -> None:
    study = {**made.one_seed_study(), "name": "bad"}
    path = made.write_results(tmp_path, study, questions=4) / "timing" / "mini.parquet"
    write_parquet(path, change(pd.read_parquet(path)), {"provenance": made.provenance()})
    with pytest.raises(InputError, match=message):
        run(tmp_path, study)


def test_coloured_answer_is_the_most_typical_and_complete(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = whole
    found = pd.read_parquet(folder / "tables" / "coloured.parquet")
    spelled = "".join((" " if row.space_before and row.position else "") + row.token for row in found.itertuples())
    references = pd.read_parquet(folder / "data" / "shared" / "references.parquet").set_index("prompt_id")
    assert spelled == references.loc[found["prompt_id"].iloc[0], "answer"] + " <end>"
    scores = pd.read_parquet(folder / "scores" / "mini" / "base.parquet")
    spans = pd.read_parquet(folder / "annotations" / "shared" / "references" / "truth.parquet")
    merged = scores.merge(spans, on=["prompt_id", "reference_id", "start", "end"])
    merged["p"] = np.exp(merged["logprob"])
    overall = merged.groupby("label")["p"].mean()
    distance = {
        prompt: sum(abs(own.loc[own["label"] == k, "p"].mean() - overall[k]) for k in ("core", "replaceable"))
        for prompt, own in merged.groupby("prompt_id")
    }
    assert found["prompt_id"].iloc[0] == min(distance, key=distance.__getitem__)
    assert set(found["label"]) == {"core", "replaceable", "fixed", "end"}


def test_tokens_that_begin_with_their_space() -> None:
    tokens = pd.DataFrame({"token": ["So", "Ġ12", ".", "<end>"], "start": [0, 2, 5, -1], "end": [2, 5, 6, -1]})
    found = coloured.with_text(tokens, "So 12.")
    assert list(found["token"]) == ["So", "12", ".", "<end>"]
    assert list(found["space_before"]) == [False, True, False, True]
    tokens = pd.DataFrame(
        {"token": [".Ċ", "ĊĊ", "xĊy", "Ġ"], "start": [0, 2, 4, 7], "end": [2, 4, 7, 8]},
    )
    assert list(coloured.with_text(tokens, ".\n\n\nx\ny ")["token"]) == [".", "↵", "x↵y", "·"]


def test_the_typical_answer_is_one_that_a_page_holds_and_the_annotator_labelled(small: Path) -> None:
    scores = pd.read_parquet(small / "scores" / "mini" / "base.parquet")
    path = small / "annotations" / "shared" / "references" / "truth.parquet"
    spans = pd.read_parquet(path)
    before = coloured.typical_answer(small, {"mini": "shared"}, "truth")["prompt_id"].iloc[0]
    write_parquet(path, spans[spans["prompt_id"] != before])
    second = coloured.typical_answer(small, {"mini": "shared"}, "truth")["prompt_id"].iloc[0]
    assert second != before
    write_parquet(path, spans)
    more = scores[scores["prompt_id"] == before].tail(1)
    longer = [more.assign(position=more["position"] + place) for place in range(1, coloured.LONGEST)]
    write_parquet(small / "scores" / "mini" / "base.parquet", pd.concat([scores, *longer], ignore_index=True))
    assert coloured.typical_answer(small, {"mini": "shared"}, "truth")["prompt_id"].iloc[0] != before
    write_parquet(small / "scores" / "other" / "base.parquet", scores[scores["prompt_id"] != second].head(50))
    with pytest.raises(InputError, match="other/base.parquet: found no score of"):
        coloured.typical_answer(small, dict.fromkeys(["mini", "other"], "shared"), "truth")


def test_markdown_names_intervals_and_single_seeds(whole: tuple[Path, dict[str, Any]], small: Path) -> None:
    text = (whole[0] / "tables" / "summary.md").read_text()
    main = pd.read_parquet(whole[0] / "tables" / "main.parquet").set_index(["method", "benchmark"])
    row = main.loc[("profit", "average")]
    assert f"{100 * row['mean']:.1f} ± {100 * (row['high'] - row['mean']):.1f}" in text
    assert f"[{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]" in text
    study = small_study(seeds=1)
    study["analysis"]["answer_style"] = []  # its file is of two seeds
    tables = run(small, study)
    assert "(descriptive)" in (tables / "summary.md").read_text()
    one = pd.read_parquet(tables / "main.parquet")
    assert one[["low", "high", "difference_low", "difference_high"]].isna().all(axis=None)
    assert one["mean"].notna().all()


def test_only_listed_runs_are_read(small: Path) -> None:
    study = small_study()
    before = {path.name: path.read_bytes() for path in run(small, study).iterdir()}
    stray = small / "runs" / "mini" / "sft" / "seed7"
    shutil.copytree(small / "runs" / "mini" / "sft" / "seed0", stray)
    (stray / "train.json").write_text("{")
    shutil.copytree(small / "evaluations" / "mini" / "sft", small / "evaluations" / "mini" / "old")
    after = {path.name: path.read_bytes() for path in run(small, study).iterdir()}
    assert after == before


def damage_json(path: str, *keys: str, value: Any) -> Any:
    def damage(folder: Path) -> None:
        content = inner = read_json(folder / path)
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        write_json(folder / path, content)

    return damage


def damage_table(path: str, change: Any, keep: bool = False) -> Any:
    """Rewrite a table without its provenance, unless `keep`."""

    def damage(folder: Path) -> None:
        metadata = read_parquet_metadata(folder / path) if keep else None
        write_parquet(folder / path, change(pd.read_parquet(folder / path)), metadata)

    return damage


def truncate(path: str) -> Any:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[:-20])


def other_question(samples: pd.DataFrame) -> pd.DataFrame:
    return samples.replace({"question_id": {"longer-002": "longer-999"}})


def test_arms_of_the_overfitting_in_the_tables(tmp_path: Path) -> None:
    study = made.arms_study()
    tables = run(made.write_results(tmp_path, study, questions=4), study)
    overfit = pd.read_parquet(tables / "overfit.parquet").query("part == 'core' and seed == 0")
    arms = overfit.set_index(["model", "method"])[["references", "epochs"]].apply(tuple, axis=1).to_dict()
    epochs = arms["mini", "sft"][1]
    assert arms == {
        ("mini", "sft"): (1, epochs), ("mini", "sft_3ref"): (3, epochs), ("mini", "sft_3ref_steps"): (3, epochs),
        ("more", "sft"): (1, epochs), ("mini", "sft_2ref"): (2, epochs), ("mini", "sft_2ref_steps"): (2, epochs),
        ("mini", "sft_1ref_2x"): (1, 2 * epochs), ("mini", "sft_1ref_3x"): (1, 3 * epochs),
    }  # fmt: skip
    assert pd.read_parquet(tables / "models.parquet").set_index("model")["prompts"].to_dict() == {
        "mini": 300, "more": 600,
    }  # fmt: skip
    main = pd.read_parquet(tables / "main.parquet")
    assert set(main.loc[main["model"] == "more", "method"]) == {"sft"} and not main["method"].str.contains("x$").any()
    (base,) = load_bases(tables)
    assert base.model == "mini" and {times: arm.model for times, arm in base.more.items()} == {2.0: "more"}
    (tables / "models.parquet").unlink()
    assert [base.model for base in load_bases(tables)] == ["mini", "more"]


TRAIN, STEPS = "runs/mini/sft/seed1/train.json", "runs/mini/sft/seed1/steps.parquet"
SUMMARY = "evaluations/mini/profit/seed0/final/summary.json"
SAMPLES = "evaluations/mini/profit/seed0/final/samples.parquet"
OVERFIT = "overfit/mini/sft/seed0.json"
STYLE = "answer_style/mini.parquet"
GRADIENTS, DRIFT = "gradients/mini", "drift/mini/profit/seed1.json"
ACCOUNT, PROMPTS = "account/mini/profit/seed0.parquet", "correlation/mini/agreement.prompts.parquet"
DAMAGE = {
    "no summary": (lambda folder: (folder / SUMMARY).unlink(), [SUMMARY, "not found"]),
    "no step log": (lambda folder: (folder / STEPS).unlink(), [STEPS, "not found"]),
    "no overfit": (lambda folder: (folder / OVERFIT).unlink(), [OVERFIT, "not found"]),
    "truncated json": (truncate(TRAIN), [TRAIN, "truncated"]),
    "truncated table": (truncate(SAMPLES), [SAMPLES, "truncated"]),
    "NaN accuracy": (
        damage_json(SUMMARY, "benchmarks", "longer", "accuracy", value=math.nan),
        [SUMMARY, "benchmarks.longer.accuracy", "None"],
    ),
    "NaN overfit": (damage_json(OVERFIT, "parts", "core", "overfit", value=None), [OVERFIT, "parts.core.overfit"]),
    "NaN loss": (damage_table(STEPS, lambda log: log.assign(loss=np.nan)), [STEPS, "column loss", "step 1"]),
    "no device": (damage_json(TRAIN, "provenance", "device", value=None), [TRAIN, "provenance.device"]),
    "NaN drift": (damage_json(DRIFT, "parts", "core", "kl_run_base", value=None), [DRIFT, "parts.core.kl_run_base"]),
    "no distance": (damage_json(DRIFT, "weights", "distance", value=None), [DRIFT, "weights.distance"]),
    "no violations": (
        damage_json(f"{GRADIENTS}.json", "theorem", "violations", value=None),
        [f"{GRADIENTS}.json", "theorem.violations"],
    ),
    "lost tokens": (
        damage_table(f"{GRADIENTS}.parquet", lambda rows: rows.head(299), keep=True),
        [f"{GRADIENTS}.parquet", "found 299 tokens", "the 300 of mini.json"],
    ),
    "account of another run": (
        damage_table(ACCOUNT, lambda rows: rows.assign(seed=7), keep=True),
        [ACCOUNT, "'seed': 7", "'seed': 0"],
    ),
    "style of other runs": (
        damage_table(STYLE, lambda rows: rows[rows["seed"] != 1], keep=True),
        [STYLE, "columns method, seed", "('sft', 1)"],
    ),
    "style without world": (damage_table(STYLE, lambda rows: rows), [STYLE, "key provenance"]),
    "account without world": (damage_table(ACCOUNT, lambda rows: rows), [ACCOUNT, "key provenance"]),
    "no prompts": (lambda folder: (folder / PROMPTS).unlink(), [PROMPTS, "not found"]),
    "prompts without world": (damage_table(PROMPTS, lambda rows: rows), [PROMPTS, "key provenance"]),
    "lost step": (damage_table(STEPS, lambda log: log.drop(index=4)), [STEPS, "column step"]),
    "lost column": (damage_table(STEPS, lambda log: log.drop(columns="kept_core")), [STEPS, "kept_core"]),
    "other world": (
        damage_json(SUMMARY, "provenance", "world", value="ffff"),
        [SUMMARY, "provenance.world", "'ffff'"],
    ),
    "no provenance": (damage_json(TRAIN, "provenance", value=None), [TRAIN, "key provenance"]),
    "other question": (damage_table(SAMPLES, other_question), [SAMPLES, "benchmark longer", "longer-999"]),
    "lost questions": (
        damage_table(SAMPLES, lambda rows: rows[rows["benchmark"] == "longer"]),
        [SAMPLES, "column benchmark", "same_length"],
    ),
    "another accuracy": (
        damage_json(SUMMARY, "benchmarks", "longer", "accuracy", value=0.123),
        [SUMMARY, "benchmarks.longer.accuracy", "0.123"],
    ),
    "no world": (
        lambda folder: write_json(folder / "data" / "shared" / "world.json", {}),
        ["world.json", "key world"],
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_results_are_refused_and_nothing_is_written(case: str, small: Path) -> None:
    damage, words = DAMAGE[case]
    damage(small)
    with pytest.raises(InputError) as refused:
        run(small, small_study())
    assert all(word in str(refused.value) for word in words), refused.value
    assert not (small / "tables").exists()


def test_a_run_without_a_benchmark_of_its_table_is_refused(small: Path) -> None:
    study = small_study()
    study["benchmarks"]["format"] = made.full_study()["benchmarks"]["format"]
    with pytest.raises(InputError, match="mini/profit/seed0: found no format"):
        run(small, study)


def test_bad_study_is_refused(small: Path) -> None:
    study = small_study()
    with pytest.raises(InputError, match="study.yaml, key tune: found none"):
        run(small, study, "--tune")
    study["methods"]["sft"]["objectiv"] = "sft"
    with pytest.raises(InputError, match="study.yaml.*objectiv"):
        run(small, study)


def write_tune(folder: Path, accuracies: dict[float, list[float]]) -> dict[str, Any]:
    """Results of three rates by two seeds with set accuracies, of ten questions with two samples each."""
    study = made.tune_study()
    made.write_results(folder, study, questions=10, tune=True)
    for one in made.listed_study(study, tune=True)["runs"]:
        wanted = accuracies[one["training"]["learning_rate"]][one["seed"] - 101]
        place = folder / "evaluations" / "mini" / one["method"] / f"seed{one['seed']}" / "final"
        samples = pd.read_parquet(place / "samples.parquet")
        samples["correct"] = np.arange(len(samples)) < round(wanted * len(samples))
        write_parquet(place / "samples.parquet", samples)
        damage_json("summary.json", "benchmarks", "validation", "accuracy", value=wanted)(place)
    return study


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ({3e-5: [0.5, 0.6], 1e-4: [0.7, 0.8], 3e-4: [0.9, 0.5]}, 1e-4),
        ({3e-5: [0.1, 0.6], 1e-4: [0.3, 0.4], 3e-4: [0.4, 0.3]}, 3e-5),
    ],
    ids=["highest mean", "a tie goes to the smaller rate"],
)
def test_tune(tmp_path: Path, accuracies: dict[float, list[float]], chosen: float) -> None:
    study = write_tune(tmp_path, accuracies)
    tables = run(tmp_path, study, "--tune")
    assert {path.name for path in tables.iterdir()} == {"tune.csv", "tune.parquet"}
    table = pd.read_csv(tables / "tune.csv")
    columns = ["study", "model", "tuned", "method", "learning_rate", "seed", "benchmark", "accuracy", "mean", "chosen"]
    assert list(table) == columns and len(table) == 6
    assert set(table.loc[table["chosen"], "learning_rate"]) == {chosen}
    for row in table.itertuples():
        assert row.accuracy == pytest.approx(accuracies[row.learning_rate][row.seed - 101])
        assert row.mean == pytest.approx(np.mean(accuracies[row.learning_rate]))
