"""The map of where a method beats SFT: its table against numbers by hand, false discoveries, and the figure."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats
from test_figures import check_texts, lay_out, words

from profit import runs
from profit.figures import tables
from profit.files import InputError, write_parquet
from profit.outputs import figures_of, tables_of
from profit.phase import ALL, COLUMNS, phase_table
from profit.study import Study, load_study

ROOT = Path(__file__).resolve().parent.parent
SEEDS = 5
BENCHMARKS = ["same_length", "longer", "choice"]
MODELS = {
    "weak": ("weak", 500, 0.3, 0.3),
    "strong": ("strong", 1400, 0.3, 0.3),
    "weak_known": ("weak", 500, 0.3, 0.0),
    "strong_known": ("strong", 1400, 0.3, 0.0),
    "alone": ("alone", 900, 0.3, 0.3),
}
# Objective and learning rate of each method.
METHODS = {
    "vanilla": ("vanilla", None),
    "sft": ("sft", 3e-4),
    "sft_lr1e3": ("sft", 1e-3),
    "profit": ("profit", 3e-4),
    "profit_lr1e3": ("profit", 1e-3),
    "truth_core": ("truth", 3e-4),
    "truth_core_lr3e3": ("truth", 3e-3),
}


def settings(model: str, method: str, seed: int) -> dict[str, object]:
    """A row of table runs."""
    objective, rate = METHODS[method]
    row = dict.fromkeys([*tables.RUN_COLUMNS, *tables.CHANGES, "share"]) | {"stop": 1.0, "mix": 1.0}
    own = {"tau": 0.1, "direction": "higher"} if objective == "profit" else {}
    own |= {"keep": "core"} if objective == "truth" else {}
    trained = {} if rate is None else {"tuning": "full", "epochs": 3, "normaliser": "all", "budget": "epochs"}
    row |= {"model": model, "method": method, "seed": seed, "group": "main", "objective": objective}
    return row | own | trained | {"references": int(rate is not None), "learning_rate": rate}


def made(seeds: int = SEEDS, lead: float = 0.1, noise: float = 0.01) -> dict[str, pd.DataFrame]:
    """Tables of five models, one of them a base alone; ProFit leads by `lead` for the strong base, else by chance."""
    rng = np.random.default_rng(0)
    listed = [settings(model, method, seed) for model in MODELS for method in METHODS for seed in range(seeds)]
    evaluations = []
    for run in listed:
        level = 0.6 if "strong" in run["model"] else 0.3
        gain = lead if run["objective"] == "profit" and "strong" in run["model"] else 0.0
        keys = {key: run[key] for key in ("model", "method", "seed")} | {"checkpoint": "final", "epoch": 3}
        evaluations += [
            {**keys, "benchmark": name, "accuracy": level + gain + noise * rng.normal()} for name in BENCHMARKS
        ]
    counts = [("p0", "core", 90, 80.0, 3), ("p1", "core", 110, 90.0, 5), ("p0", "replaceable", 40, 12.0, 12)]
    columns = ["prompt_id", "label", "tokens", "probability_sum", "low"]
    prompts = [
        {"model": model, "annotator": "truth", **dict(zip(columns, row, strict=True))}
        for model in MODELS
        for row in counts
    ]
    prompts += [row | {"annotator": "agreement", "low": 7} for row in prompts]
    keys = ["base", "pretraining_steps", "wording_lean", "rare_in_references"]
    return {
        "models": pd.DataFrame(
            [{"model": model, **dict(zip(keys, row, strict=True))} for model, row in MODELS.items()]
        ),
        "runs": pd.DataFrame(listed),
        "evaluations": pd.DataFrame(evaluations),
        "main": pd.DataFrame(
            [{"table": "table1", "model": m, "benchmark": b} for m in MODELS for b in [*BENCHMARKS, "average"]]
        ),
        "prompts": pd.DataFrame(prompts),
    }


@pytest.fixture(scope="module")
def found() -> dict[str, pd.DataFrame]:
    return made()


@pytest.fixture(scope="module")
def whole(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Cells and means over references."""
    return phase_table(found)


@pytest.fixture(scope="module")
def phase(whole: pd.DataFrame) -> pd.DataFrame:
    return whole[whole["model"] != ALL]


def cells_of(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The table without the means over references."""
    return phase_table(found).query("model != @ALL")


def by_seed(found: dict[str, pd.DataFrame], model: str, method: str, names: list[str]) -> np.ndarray:
    """Mean accuracy over some benchmarks, by seed."""
    own = found["evaluations"].query("model == @model and method == @method and benchmark in @names")
    return own.groupby("seed")["accuracy"].mean().to_numpy()


@pytest.mark.parametrize(
    ("benchmark", "names"), [("average", BENCHMARKS), ("learnt", BENCHMARKS[:1]), ("kept", BENCHMARKS[1:])]
)
def test_cells_are_those_counted_by_hand(found, phase, benchmark, names):
    assert list(phase) == COLUMNS
    cells = phase[phase["benchmark"] == benchmark].set_index(["model", "method", "learning_rate"])
    for model in ("weak", "strong_known"):
        for rate, sft, profit in ((3e-4, "sft", "profit"), (1e-3, "sft_lr1e3", "profit_lr1e3")):
            a, b = (by_seed(found, model, method, names) for method in (profit, sft))
            row, test = cells.loc[(model, "profit", rate)], stats.ttest_rel(a, b)
            interval = test.confidence_interval(0.95)
            assert [row["accuracy"], row["sft"], row["difference"]] == pytest.approx(
                [a.mean(), b.mean(), (a - b).mean()]
            )
            assert [row["low"], row["high"], row["p"]] == pytest.approx([interval.low, interval.high, test.pvalue])
            assert (row["kind"], row["seeds"]) == ("profit", SEEDS)
            assert row["vanilla"] == pytest.approx(by_seed(found, model, "vanilla", names).mean())


def test_coordinates_of_a_cell(found, phase):
    row = phase[(phase["model"] == "weak_known") & (phase["method"] == "profit")].iloc[0]
    assert row[["base", "pretraining_steps", "wording_lean", "rare_in_references"]].to_list() == ["weak", 500, 0.3, 0]
    assert row["skill"] == pytest.approx(by_seed(found, "weak_known", "vanilla", ["same_length"]).mean())
    assert [row["core_low"], row["low_core"], row["replaceable_probability"]] == pytest.approx(
        [8 / 200, 8 / 20, 12 / 40]
    )


def test_a_cell_is_a_base_in_two_worlds_and_a_method_with_sft_at_its_rate(phase):
    assert list(dict.fromkeys(phase["model"])) == ["weak", "strong", "weak_known", "strong_known"]
    assert set(zip(phase["method"], phase["learning_rate"], strict=True)) == {
        ("profit", 3e-4), ("profit", 1e-3), ("truth_core", 3e-4)
    }  # fmt: skip
    assert len(phase) == 4 * 3 * 3 and not phase.duplicated(["model", "method", "learning_rate", "benchmark"]).any()


def test_means_over_references_are_those_by_seed_and_adjusted_among_their_like(found, whole):
    means = whole[whole["model"] == ALL]
    assert len(means) == 2 * 3 * 3 and means[["wording_lean", "rare_in_references", "skill"]].isna().all(axis=None)
    chosen = means[means["benchmark"] == "kept"].set_index(["base", "method", "learning_rate"])
    row = chosen.loc["strong", "profit", 1e-3]
    a, b = (
        np.mean([by_seed(found, model, method, BENCHMARKS[1:]) for model in ("strong", "strong_known")], axis=0)
        for method in ("profit_lr1e3", "sft_lr1e3")
    )
    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval(0.95)
    assert [row["difference"], row["low"], row["high"], row["p"]] == pytest.approx(
        [(a - b).mean(), interval.low, interval.high, test.pvalue]
    )
    assert (row["seeds"], row["pretraining_steps"], row["sign"]) == (SEEDS, 1400, "above")
    vanilla = [by_seed(found, model, "vanilla", BENCHMARKS[1:]).mean() for model in ("strong", "strong_known")]
    assert row["vanilla"] == pytest.approx(np.mean(vanilla))
    for _, own in means.groupby(["method", "benchmark"]):
        assert own["q"].to_numpy() == pytest.approx(stats.false_discovery_control(own["p"]))
    # A seed that one model of the base lacks is left out.
    fewer = dict(found)
    for name in ("runs", "evaluations"):
        lost = (found[name][["model", "method", "seed"]] == ["weak_known", "profit", 2]).all(axis=1)
        fewer[name] = found[name][~lost]
    means = phase_table(fewer).query("model == @ALL and method == 'profit' and learning_rate == 3e-4")
    assert means.groupby("base")["seeds"].unique().map(list).to_dict() == {"strong": [SEEDS], "weak": [SEEDS - 1]}


def test_signs_keep_the_false_discovery_rate_over_the_cells_of_a_method_and_benchmark(phase):
    for _, cells in phase.groupby(["method", "benchmark"]):
        p = np.sort(cells["p"].to_numpy())
        # Benjamini and Hochberg's step-up rule: the largest k with p_(k) <= k / n x 0.05.
        passed = np.flatnonzero(p <= 0.05 * np.arange(1, len(p) + 1) / len(p))
        largest = p[passed[-1]] if len(passed) else -1.0
        sure = cells["p"] <= largest
        assert (cells["sign"] != "unsure").tolist() == sure.tolist()
        assert (cells["q"] >= cells["p"]).all()
    strong = phase["model"].str.contains("strong")
    assert set(phase.loc[strong & (phase["method"] == "profit"), "sign"]) == {"above"}


def test_a_map_of_chance_calls_few_signs_sure():
    """Without a lead, nearly every study calls none of its cells sure, though single intervals exclude zero."""
    rng, sure, outside = np.random.default_rng(1), 0, 0
    tables_of_chance = made(lead=0.0)
    for _ in range(10):
        values = 0.4 + 0.02 * rng.normal(size=len(tables_of_chance["evaluations"]))
        tables_of_chance["evaluations"]["accuracy"] = values
        cells = cells_of(tables_of_chance)
        outside += ((cells["low"] > 0) | (cells["high"] < 0)).sum()
        sure += (cells["sign"] != "unsure").sum()
    assert outside > 10 and sure < outside / 2


def test_below_is_said_of_a_method_that_falls(found):
    cells = cells_of(made(lead=-0.1))
    chosen = cells["model"].str.contains("strong") & (cells["method"] == "profit")
    assert set(cells.loc[chosen, "sign"]) == {"below"} and (cells.loc[chosen, "difference"] < 0).all()


def test_one_seed_is_never_sure():
    cells = cells_of(made(seeds=1))
    assert len(cells) == 36 and cells[["low", "high", "p", "q"]].isna().all(axis=None)
    assert set(cells["sign"]) == {"unsure"} and cells["difference"].notna().all()


def test_only_seeds_that_both_have_are_compared(found):
    fewer = {name: frame.copy() for name, frame in found.items()}
    for name in ("runs", "evaluations"):
        lost = (fewer[name]["model"] == "weak") & (fewer[name]["method"] == "profit") & (fewer[name]["seed"] == 0)
        fewer[name] = fewer[name][~lost]
    row = phase_table(fewer).query("model == 'weak' and method == 'profit' and learning_rate == 3e-4").iloc[0]
    assert row["seeds"] == SEEDS - 1
    assert row["sft"] == pytest.approx(by_seed(found, "weak", "sft", BENCHMARKS)[1:].mean())


def test_without_vanilla_skill_is_empty_and_without_sft_there_is_no_cell(found):
    lacking = dict(found)
    for name in ("runs", "evaluations"):
        lacking[name] = found[name][found[name]["method"] != "vanilla"]
    cells = cells_of(lacking)
    assert len(cells) == 36 and cells[["skill", "vanilla"]].isna().all(axis=None)
    for name in ("runs", "evaluations"):
        lacking[name] = found[name][~found[name]["method"].str.startswith("sft")]
    assert phase_table(lacking).empty


def test_a_study_has_a_map_where_a_base_meets_several_kinds_of_references():
    study = load_study(ROOT / "workflow" / "studies" / "phase.yaml")
    assert runs.mapped(study) and "phase" in tables_of(study) and "phase" in figures_of(study)
    content = study.model_dump(exclude_unset=True)
    for change in (
        {"models": {name: model for name, model in content["models"].items() if "like" not in model}},
        {"methods": {name: own for name, own in content["methods"].items() if own["objective"] in ("none", "sft")}},
        {"methods": {name: own for name, own in content["methods"].items() if own["objective"] != "sft"}},
    ):
        other = Study.model_validate(content | change)
        assert not runs.mapped(other) and "phase" not in tables_of(other) + figures_of(other)
    # More prompts of the same kind make no map.
    more = {"models": {"steps500": content["models"]["steps500"], "more": {"like": "steps500", "prompts": 600}}}
    assert not runs.mapped(Study.model_validate(content | more))


def test_the_study_asks_every_cell_with_five_paired_seeds():
    study = load_study(ROOT / "workflow" / "studies" / "phase.yaml")
    seeds: dict[tuple[str, str, float], set[int]] = {}
    for run in runs.study_runs(runs.runs_of(study)):
        if run.trained:
            key = run.leaf["model"], run.leaf["objective"]["name"], run.leaf["training"]["learning_rate"]
            seeds.setdefault(key, set()).add(run.leaf["seed"])
    rates, objectives = {1e-4, 3e-4, 1e-3}, {"sft", "profit", "truth"}
    assert set(seeds) == {(model, name, rate) for model in study.models for name in objectives for rate in rates}
    assert set(map(frozenset, seeds.values())) == {frozenset(range(5))}
    # World, training and thresholds are the default study's.
    default = load_study(ROOT / "workflow" / "studies" / "miniature.yaml")
    data = default.data.model_copy(update={"unseen": 0})
    assert (study.world, study.data, study.training) == (default.world, data, default.training)
    assert study.methods["profit"].settings == default.methods["profit"].settings
    assert study.models["steps1400"] == default.models["mini"]
    assert study.benchmarks.items() <= default.benchmarks.items()


@pytest.fixture(scope="module")
def drawn(whole: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Figure:
    folder = tmp_path_factory.mktemp("phase")
    write_parquet(folder / "phase.parquet", whole)
    return lay_out("phase", folder)


def test_the_figure_prints_every_cell_bold_where_its_sign_is_sure(whole, drawn):
    check_texts(drawn)
    maps = drawn.axes[:12]
    # Rows: ProFit and the core mask, each average, learnt, kept; columns: the two rates.
    places = [
        (kind, name, rate) for kind in ("profit", "truth_core") for name in tables.MEANS for rate in (3e-4, 1e-3)
    ]
    for axes, (kind, name, rate) in zip(maps, places, strict=True):
        cells = whole[(whole[["kind", "benchmark", "learning_rate"]] == [kind, name, rate]).all(axis=1)]
        printed = {text.get_position(): text for text in axes.texts if text.get_position() != (-4, -3.5)}
        assert len(printed) == len(cells)
        for cell in cells.to_dict("records"):
            column = 2 if cell["model"] == ALL else int(cell["rare_in_references"] == 0)
            text = printed[column, int(cell["base"] == "strong")]
            assert float(text.get_text().replace("−", "-")) == pytest.approx(100 * cell["difference"], abs=0.5)
            assert (text.get_fontweight() == "bold") == (cell["sign"] != "unsure")
    assert all(not axes.texts for axes in maps[7::2])  # the core mask was not trained at 1e-3


def test_the_figure_s_colours_are_those_of_who_leads(phase, tmp_path):
    cells = phase.assign(difference=np.where(phase["model"] == "weak", -0.05, 0.05))
    write_parquet(tmp_path / "phase.parquet", cells)
    faces = {to_hex(patch.get_facecolor()).upper() for patch in lay_out("phase", tmp_path).axes[0].patches}
    assert faces == {"#0072B2", "#D55E00"}


def test_the_figure_says_what_stands_on_its_axes(phase, drawn, tmp_path):
    said = " ".join(words(drawn).split())
    for text in (
        "ProFit − SFT: average",
        "Core mask − SFT: kept",
        "learning rate 3e-4",
        "wording's lean",
        "core under 0.1",
    ):
        assert text in said
    assert "500, 1400 steps of pretraining" in said and "mean of 5 seeds" in said
    skills = phase.groupby(["base", "rare_in_references"])["skill"].first()
    assert f"{100 * skills['weak', 0.3]:.0f} | {100 * skills['weak', 0.0]:.0f}" in said
    write_parquet(tmp_path / "phase.parquet", phase.assign(kind="dft"))
    with pytest.raises(InputError, match="table phase: found neither ProFit nor the core mask"):
        lay_out("phase", tmp_path)
