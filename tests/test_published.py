"""The paper's numbers as typed, and what of a study stands beside them: the same thing or nothing, never a copy."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic_results as made
from scipy import stats

from profit import published, summary, tabulate
from profit.files import InputError

FOLDER = Path(__file__).resolve().parent.parent / "results" / "published"
KEYS = ["source", "model", "method", "quantity"]


def tables_of(folder: Path, study: dict[str, Any]) -> dict[str, pd.DataFrame]:
    made.write_results(folder, study, questions=4)
    return tabulate.tabulate(folder, FOLDER, made.listed_study(study))


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Tables of a study with the paper's models."""
    return tables_of(tmp_path_factory.mktemp("paper"), made.paper_study(seeds=3))


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Tables of a miniature."""
    return tables_of(tmp_path_factory.mktemp("mini"), made.full_study(seeds=3))


def accuracy(tables: dict[str, pd.DataFrame], model: str, method: str, names: list[str]) -> pd.Series:
    """Mean accuracy over benchmarks in per cent by seed, straight from the evaluations."""
    found = tables["evaluations"]
    own = found[(found["model"] == model) & (found["method"] == method) & found["benchmark"].isin(names)]
    assert set(own["benchmark"]) == set(names)
    return 100 * own.groupby("seed")["accuracy"].mean()


def row(table: pd.DataFrame, *keys: str) -> pd.Series:
    found = table[(table[KEYS] == keys).all(axis=1)]
    assert len(found) == 1
    return found.iloc[0]


def test_typed_averages_agree_with_their_cells() -> None:
    for name, models in (("table1", 5), ("table2", 3), ("table3", 3)):
        table = published.load(FOLDER, name)
        wide = table.pivot(index=["model", "method"], columns="benchmark", values="accuracy")
        cells = wide.drop(columns=["average", "difference_vs_vanilla"])
        assert cells.notna().all(axis=None) and cells.shape[1] == 5 and len(wide.index.unique("model")) == models
        assert (cells.mean(axis=1) - wide["average"]).abs().max() < 0.013
        vanilla = wide["average"].xs("vanilla", level="method")
        gain = wide["average"] - wide.index.get_level_values("model").map(vanilla)
        assert (gain - wide["difference_vs_vanilla"]).abs().max() < 0.011


def test_typed_values_of_figures() -> None:
    figures = published.load(FOLDER, "figures")
    assert not figures.duplicated(KEYS + ["relation"]).any() and figures["value"].notna().all()
    assert set(figures["relation"]) == {"=", "≈", "<", ">"}
    value = figures.set_index(["source", "method", "quantity"])["value"]
    # The first agrees with a cell of Table 1; the second pair with the abstract's own table.
    assert value["figure2", "sft", "gpqa_diamond"] == pytest.approx(34.15, abs=0.051)
    table = published.load(FOLDER, "table1").query("benchmark == 'average'")
    average = table.pivot(index="model", columns="method", values="accuracy")
    gains = (average["profit"] - average["sft"])[[name for name in average.index if name.startswith("Qwen3")]]
    assert value["abstract", "profit", "smallest_average_vs_sft"] == pytest.approx(gains.min(), abs=0.051)
    assert value["abstract", "profit", "largest_average_vs_sft"] == pytest.approx(gains.max(), abs=0.051)
    with pytest.raises(InputError, match="figure99.csv: not found"):
        published.load(FOLDER, "figure99")


def test_every_published_value_has_a_row(mini: dict[str, pd.DataFrame], paper: dict[str, pd.DataFrame]) -> None:
    for tables in (mini, paper):
        table = tables["published"].drop_duplicates([*KEYS, "relation"])
        for name in published.TABLES:
            typed = published.load(FOLDER, name)
            own = table[(table["source"] == name) & (table["relation"] == "=")]
            assert list(own["published"]) == list(typed["accuracy"]) and list(own["quantity"]) == list(
                typed["benchmark"]
            )
        typed = published.load(FOLDER, "figures")
        own = table[~table["source"].isin(published.TABLES) & (table["relation"] != "computed")]
        assert sorted(own["published"]) == sorted(typed["value"])


def test_a_cell_beside_ours_with_interval_and_differences(paper: dict[str, pd.DataFrame]) -> None:
    for source, name, names in (("table1", "gsm8k", ["gsm8k"]), ("table3", "average", made.GENERAL)):
        model = "Qwen3-4B-Base"
        found = row(paper["published"], source, model, "profit", name)
        ours, sft = (accuracy(paper, model, method, names) for method in ("profit", "sft"))
        low, high = stats.t.interval(0.95, 2, ours.mean(), stats.sem(ours))
        assert (found["ours"], found["seeds"]) == (pytest.approx(ours.mean()), 3)
        assert (found["low"], found["high"]) == pytest.approx((low, high))
        assert found["difference"] == pytest.approx(ours.mean() - found["published"])
        assert (found["difference_low"], found["difference_high"]) == pytest.approx(
            (low - found["published"], high - found["published"])
        )
        interval = stats.ttest_rel(ours, sft).confidence_interval(0.95)
        assert found["ours_vs_sft"] == pytest.approx((ours - sft).mean())
        assert (found["ours_vs_sft_low"], found["ours_vs_sft_high"]) == pytest.approx(tuple(interval))
        printed = row(paper["published"], source, model, "sft", name)["published"]
        assert found["published_vs_sft"] == pytest.approx(found["published"] - printed)


def test_one_seed_has_no_interval_and_differences_to_vanilla_are_paired(paper: dict[str, pd.DataFrame]) -> None:
    vanilla = row(paper["published"], "table1", "OLMo-2-7B", "vanilla", "average")
    assert pd.isna(vanilla["low"]) and pd.isna(vanilla["difference_low"]) and pd.notna(vanilla["difference"])
    found = row(paper["published"], "table1", "OLMo-2-7B", "profit", "difference_vs_vanilla")
    ours, base = (accuracy(paper, "OLMo-2-7B", method, made.REASONING) for method in ("profit", "vanilla"))
    assert found["ours"] == pytest.approx(ours[0] - base[0])


def test_what_was_not_measured_is_empty(paper: dict[str, pd.DataFrame], mini: dict[str, pd.DataFrame]) -> None:
    table = paper["published"]
    lacking = table["source"].eq("table1") & table["model"].eq("OLMo-2-7B") & table["method"].eq("dft")
    assert lacking.sum() == 7 and table.loc[lacking, ["ours", "difference", "ours_vs_sft"]].isna().all(axis=None)
    cells = table["source"].isin(published.TABLES) & ~lacking
    assert table.loc[cells, "ours"].notna().all()
    assert table.loc[table["source"].isin(["figure7", "figure10"]), "ours"].isna().all()
    table = mini["published"]
    cells = table["source"].isin(published.TABLES) & (table["relation"] == "=")
    assert table.loc[cells, ["ours_model", "ours"]].isna().all(axis=None)
    assert table[["difference", "difference_low", "difference_high"]].isna().all(axis=None)


def test_methods_are_known_by_their_settings(paper: dict[str, pd.DataFrame]) -> None:
    runs = paper["runs"]
    model = "Qwen3-4B-Base"
    assert published.ours_of(runs, model, "profit") == "profit"
    first = runs[runs["method"] == "profit_0.5"]
    assert published.ours_of(pd.concat([first, runs]), model, "profit") == "profit"
    assert published.ours_of(runs.assign(epochs=3), model, "profit", ("epochs",)) == "profit"
    for column, value in (("tau", 0.2), ("epochs", 3), ("normaliser", "kept"), ("tuning", "lora"), ("references", 3)):
        other = runs.assign(**{column: runs[column].where(runs["method"] != "profit", value)})
        assert published.ours_of(other, model, "profit") is None
    assert published.ours_of(runs.assign(share=0.5), model, "entropy") is None
    renamed = runs.replace({"method": {"profit": "ours"}})
    assert published.ours_of(renamed, model, "profit") == "ours"


def test_an_average_counts_over_the_same_benchmarks_alone(paper: dict[str, pd.DataFrame]) -> None:
    main = paper["main"]
    fewer = main[main["benchmark"] != "ifeval"]
    asked = set(made.REASONING)
    assert published.cell_of(main, "OLMo-2-7B", "profit", "average", asked) is not None
    assert published.cell_of(fewer, "OLMo-2-7B", "profit", "average", asked) is None
    assert published.cell_of(fewer, "OLMo-2-7B", "profit", "gsm8k", asked).name == "gsm8k"


def test_what_means_the_same_on_any_model_stands_beside(mini: dict[str, pd.DataFrame]) -> None:
    table = mini["published"]
    correlation = mini["correlation"].set_index("annotator")
    core = table[table["quantity"] == "probability_core_mean"].set_index("ours_of")
    assert list(core.index) == ["truth", "agreement"] and set(core["ours_model"]) == {"mini"}
    assert core.loc["truth", "ours"] == correlation.loc["truth", "probability_core_mean"]
    assert core["published"].eq(0.768).all() and core["difference"].isna().all()
    gain = row(table, "table1", "5 models", "profit", "average_vs_sft")
    ours, sft = (accuracy(mini, "mini", method, made.BENCHMARKS) for method in ("profit", "sft"))
    assert gain["ours"] == pytest.approx((ours - sft).mean()) and gain["ours_model"] == "mini"
    assert gain["published"] == pytest.approx(np.mean([2.98, 10.94, 7.52, 0.51, 0.34]))
    change = table[table["quantity"] == "gpqa_diamond_vs_1_reference"].iloc[0]
    several, one = (accuracy(mini, "mini", method, ["choice"]) for method in ("sft_3ref", "sft"))
    assert change["published"] == pytest.approx(-0.6)
    assert change["ours"] == pytest.approx((several - one[several.index]).mean())
    assert change["ours_of"] == "sft_3ref - sft, choice"
    assert table.loc[table["quantity"] == "gpqa_diamond", "ours"].isna().all()


def test_thresholds_and_epochs_beside_the_text(mini: dict[str, pd.DataFrame]) -> None:
    table = mini["published"].set_index(["source", "method", "quantity"])

    def average(method: str, checkpoint: str = "final") -> float:
        found = mini["evaluations"].query("method == @method and seed == 0 and checkpoint == @checkpoint")
        return 100 * found["accuracy"].mean()

    taus = ["keep_low", *(f"keep_low_tau{tau}" for tau in (0.3, 0.5, 0.7, 0.9))]
    above = np.mean([average(method) > average("sft") for method in taus])
    found = table.loc[("figure4", "keep_low", "thresholds_above_sft")]
    assert (found["ours"], found["published"]) == (pytest.approx(100 * above), 0)
    lead = table.loc[("figure6", "profit", "epoch_1_vs_best_of_sft")]
    best = max(average("sft_epochs", f"epoch{epoch}") for epoch in range(1, 6))
    assert lead["published"] == pytest.approx(5.2)
    assert lead["ours"] == pytest.approx(average("profit_epochs", "epoch1") - best)
    assert pd.isna(table.loc[("figure6", "profit", "average_at_epoch_1"), "ours"])


def test_the_exact_model_of_figure_3_needs_a_judge_for_a_difference(paper: dict[str, pd.DataFrame]) -> None:
    means = paper["published"].query("quantity == 'probability_core_mean'")
    assert len(means) == 8 and means["difference"].isna().all()
    judged = {**paper, "correlation": paper["correlation"].assign(annotator="llm")}
    means = published.beside(judged, FOLDER).query("quantity == 'probability_core_mean'").set_index("ours_model")
    assert means["difference"].notna().sum() == 1
    assert means.loc["Qwen3-4B-Base", "difference"] == pytest.approx(means["ours"].iloc[1] - 0.768)


def test_markdown(mini: dict[str, pd.DataFrame], paper: dict[str, pd.DataFrame]) -> None:
    text = summary.published_numbers(paper["published"])
    found = row(paper["published"], "table1", "Qwen3-4B-Base", "profit", "gsm8k")
    assert f"87.55 / {found['ours']:.1f} ± {found['high'] - found['ours']:.1f}" in text
    assert "| OLMo-2-7B | dft | 12.31 / – | 76.09 / – |" in text
    assert "| Qwen3-14B-Base | sft |" in text
    fewer = paper["published"]
    fewer = fewer.assign(ours=fewer["ours"].where(fewer["ours_model"] != "Qwen3-14B-Base"))
    assert "| Qwen3-14B-Base | sft |" not in summary.published_numbers(fewer)
    text = summary.published_numbers(mini["published"])
    assert "Nothing measured here of: Table 2, Table 3, Abstract, Figure 7, Figure 9, Figure 10" in text
    assert "gsm8k" not in text and "| Figure 3, Qwen3-4B-Base | probability core mean | 0.768 |" in text
