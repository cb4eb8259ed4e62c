"""Correlation of probability with importance against brute force, planted answers and bad input."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from profit import correlate
from profit.data import load_references, token_labels
from profit.files import InputError, read_json, read_parquet, read_parquet_metadata, write_parquet

SETTINGS = correlate.Settings("mini", "truth", resamples=999, bootstrap=200)


def planted(rng: np.random.Generator, prompts: int = 30, lift: float = 0.3) -> tuple[np.ndarray, ...]:
    """Probabilities, labels and prompts of 40 tokens a prompt: core ones higher by `lift`, a level each prompt."""
    labels = rng.choice(["core", "replaceable", "fixed", "end"], size=(prompts, 40), p=[0.5, 0.3, 0.15, 0.05])
    level = rng.uniform(0, 0.3, prompts)[:, None]
    probability = rng.uniform(0, 0.4, labels.shape) + level + lift * (labels == "core")
    prompt = np.repeat([f"p{number}" for number in range(prompts)], 40)
    return probability.ravel(), labels.ravel().astype(object), prompt


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_labels_of_tokens_are_those_of_the_plain_function(rng: np.random.Generator) -> None:
    tokens, spans, expected = [], [], []
    for document in range(30):
        edges = np.sort(rng.choice(200, 2 * int(rng.integers(1, 20)), replace=False)).reshape(-1, 2)
        own = [(int(a), int(b), str(rng.choice(["core", "replaceable", "fixed"]))) for a, b in edges]
        starts = rng.integers(0, 200, 50)
        pieces = [(int(start), int(start + rng.integers(0, 6))) for start in starts] + [(-1, -1)]
        expected += token_labels(pieces, own)
        tokens += [("p", document, *piece) for piece in pieces]
        spans += [("p", document, *span) for span in own]
    frame = pd.DataFrame(tokens, columns=["prompt_id", "reference_id", "start", "end"])
    labelled = pd.DataFrame(spans, columns=correlate.SPAN_COLUMNS).sample(frac=1, random_state=0)
    found = correlate.label_tokens(frame, labelled)
    assert found.tolist() == expected
    assert {"core", "replaceable", "fixed", "end"} == set(expected)


def test_means_shares_and_effects_are_plain_numpy(rng: np.random.Generator) -> None:
    p, labels, prompts = planted(rng)
    found = correlate.summarise(p, labels, prompts, SETTINGS)
    core, other = p[labels == "core"], p[labels == "replaceable"]
    both = np.isin(labels, ["core", "replaceable"])
    means = {name: values["mean"] for name, values in found["probability"].items()}
    assert means == pytest.approx(
        {
            "core": core.mean(),
            "replaceable": other.mean(),
            "fixed": p[labels == "fixed"].mean(),
            "end": p[labels == "end"].mean(),
            "core_and_replaceable": p[both].mean(),
            "all": p.mean(),
        }
    )
    assert all(values["low"] < values["mean"] < values["high"] for values in found["probability"].values())
    assert found["core_share"]["of_core_and_replaceable"] == pytest.approx(len(core) / both.sum())
    assert found["core_share"]["of_all"] == pytest.approx(len(core) / len(p))
    assert found["effect"]["auc"] == pytest.approx(stats.mannwhitneyu(core, other).statistic / len(core) / len(other))
    assert found["effect"]["auc_low"] < found["effect"]["auc"] < found["effect"]["auc_high"]
    assert found["effect"]["cliffs_delta"] == pytest.approx(2 * found["effect"]["auc"] - 1)
    pooled = np.sqrt((core.var(ddof=1) * (len(core) - 1) + other.var(ddof=1) * (len(other) - 1)) / (both.sum() - 2))
    assert found["effect"]["cohens_d"] == pytest.approx((core.mean() - other.mean()) / pooled)


def test_the_test_is_on_prompts(rng: np.random.Generator) -> None:
    p, labels, prompts = planted(rng)
    found = correlate.summarise(p, labels, prompts, SETTINGS)["test"]
    frame = pd.DataFrame({"p": p, "label": labels, "prompt": prompts})
    means = frame.groupby(["prompt", "label"]).p.mean().unstack()
    assert found["statistic"] == pytest.approx((means.core - means.replaceable).mean())
    assert found["p"] == found["smallest_p"] == 1 / 1000
    assert (found["prompts"], found["prompts_left_out"]) == (30, 0)


def test_many_tokens_of_few_prompts_prove_little(rng: np.random.Generator) -> None:
    """Four prompts with a thousand tokens each: a test on tokens would say p = 0, four signs cannot go below 1/8."""
    p, labels, _ = planted(rng, prompts=100)
    found = correlate.summarise(p, labels, np.repeat(list("abcd"), 1000), SETTINGS)
    assert 0.08 < found["test"]["p"] < 0.18


def test_without_a_difference_nothing_is_found(rng: np.random.Generator) -> None:
    runs = [correlate.summarise(*planted(rng, 20, lift=0.0), SETTINGS) for _ in range(20)]
    assert np.mean([run["test"]["p"] < 0.1 for run in runs]) < 0.35
    covers = [run["effect"]["auc_low"] < 0.5 < run["effect"]["auc_high"] for run in runs]
    assert np.mean(covers) > 0.7
    assert np.mean([run["difference"]["low"] < 0 < run["difference"]["high"] for run in runs]) > 0.7


def test_the_seed_decides_every_resample(rng: np.random.Generator) -> None:
    tokens = planted(rng, 20, lift=0.0)
    first, again, other = (
        correlate.summarise(*tokens, dataclasses.replace(SETTINGS, seed=seed)) for seed in (0, 0, 1)
    )
    assert first == again
    assert first["effect"]["auc_low"] != other["effect"]["auc_low"]
    assert first["effect"]["auc"] == other["effect"]["auc"]


def test_a_prompt_without_core_is_left_out_of_the_test_alone(rng: np.random.Generator) -> None:
    p, labels, prompts = planted(rng, prompts=5)
    labels[(prompts == "p2") & (labels == "core")] = "replaceable"
    found = correlate.summarise(p, labels, prompts, SETTINGS)
    assert (found["test"]["prompts"], found["test"]["prompts_left_out"], found["prompts"]) == (4, 1, 5)
    assert found["probability"]["replaceable"]["tokens"] == (labels == "replaceable").sum()


def test_labels_that_do_not_occur_are_null(rng: np.random.Generator) -> None:
    p, labels, prompts = planted(rng, prompts=5)
    labels[labels == "fixed"] = "core"
    found = correlate.summarise(p, labels, prompts, SETTINGS)["probability"]["fixed"]
    assert found == {"tokens": 0, "mean": None, "median": None, "low": None, "high": None}


def test_thresholds_and_bins_by_hand() -> None:
    p = np.array([0.05, 0.1, 0.2, 0.95, 1.0, 0.0, 0.65, 0.9])
    labels = np.array(["core", "core", "core", "core", "replaceable", "replaceable", "replaceable", "end"], object)
    found = correlate.summarise(p, labels, np.array(["p"] * 8), SETTINGS)
    first, last = found["thresholds"][0], found["thresholds"][-1]
    assert first == pytest.approx(
        {"tau": 0.1, "core_below": 0.5, "replaceable_above": 2 / 3, "below": 3 / 8, "core_share_below": 2 / 3}
    )
    assert last["tau"] == 0.9 and last["core_below"] == 0.75 and last["replaceable_above"] == pytest.approx(1 / 3)
    assert [row["low"] for row in found["bins"]] == [0, 0.1, 0.3, 0.5, 0.7, 0.9]
    assert [row["share"] for row in found["bins"]] == [0.25, 0.25, 0, 0.125, 0, 0.375]
    assert [row["core"] for row in found["bins"]] == [1, 2, 0, 0, 0, 1]
    assert [row["replaceable"] for row in found["bins"]] == [1, 0, 0, 1, 0, 1]
    assert [row["end"] for row in found["bins"]] == [0, 0, 0, 0, 0, 1]


def test_counts_by_prompt_by_hand() -> None:
    p = np.array([0.1, 0.5, 0.05, 0.9, 0.2])
    labels = np.array(["core", "core", "replaceable", "fixed", "core"], object)
    found = correlate.by_prompt(p, labels, np.array(["b", "b", "b", "b", "a"]), SETTINGS)
    rows = found.set_index(["prompt_id", "label"])[["tokens", "probability_sum", "low"]]
    assert rows.T.to_dict("list") == {
        ("a", "core"): [1, 0.2, 0], ("b", "core"): [2, 0.6, 1],
        ("a", "replaceable"): [0, 0, 0], ("b", "replaceable"): [1, 0.05, 1],
    }  # fmt: skip


def test_densities_count_every_token_once(rng: np.random.Generator) -> None:
    p, labels, _ = planted(rng)
    p[:3], labels[:3] = [0.0, 1.0, 0.999], "core"
    table = correlate.densities(p, labels, SETTINGS)
    assert list(table) == ["model", "annotator", "label", "low", "high", "tokens"]
    counts = table.groupby("label").tokens.sum()
    assert counts.to_dict() == {label: (labels == label).sum() for label in ("core", "replaceable", "fixed", "end")}
    core = table[table.label == "core"]
    assert len(core) == 100 and core.tokens.iloc[-1] >= 2
    row = core.iloc[37]
    assert row.tokens == ((p >= row.low) & (p < row.high) & (labels == "core")).sum()
    assert (core.high - core.low).to_numpy() == pytest.approx(np.full(100, 0.01))


@pytest.mark.parametrize("label", ["core", "replaceable"])
def test_one_kind_of_token_alone_cannot_be_compared(rng: np.random.Generator, label: str) -> None:
    p, _, prompts = planted(rng)
    with pytest.raises(InputError, match="no prompt with both"):
        correlate.summarise(p, np.full(len(p), label, object), prompts, SETTINGS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model":"m"}', "annotator"),
        ('{"model":"m","annotator":"truth","resample":9}', "resample"),
        ('{"model":"m","annotator":"truth","resamples":0}', "resamples: found 0"),
        ('{"model":"m","annotator":"truth","bootstrap":1.5}', "bootstrap: found 1.5"),
        ('{"model":"m","annotator":"truth","taus":[0.1,2]}', "taus: found"),
        ("{", "expected a JSON object"),
        ("[1]", "expected a JSON object"),
    ],
)
def test_bad_settings_are_errors(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        correlate.parse_settings(text)


@pytest.fixture
def files(references_path: Path, annotations_path: Path, tmp_path: Path) -> dict[str, Path]:
    """Scores of the shared references (a token a word and an end token), planted by label, with the other paths."""
    rows = []
    for row in load_references(references_path).itertuples():
        for start, end, label in row.spans:
            rows.append((row.prompt_id, row.reference_id, start, end, np.log(0.9 if label == "core" else 0.2)))
        rows.append((row.prompt_id, row.reference_id, -1, -1, -0.01))
    scores = pd.DataFrame(rows, columns=correlate.SCORE_COLUMNS).astype({"logprob": "float32"})
    write_parquet(tmp_path / "scores.parquet", scores, {"provenance": {"world": "w"}})
    return {"scores": tmp_path / "scores.parquet", "annotations": annotations_path, "truth": annotations_path}


def call(files: dict[str, Path], folder: Path, **settings: object) -> tuple[Path, Path]:
    """Run the command; paths of its first two outputs."""
    outputs = folder / "summary.json", folder / "densities.parquet"
    arguments = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    arguments += ["--settings", json.dumps({"model": "m", "annotator": "truth", "resamples": 99, **settings})]
    arguments += ["--output", str(outputs[0]), "--densities", str(outputs[1])]
    correlate.main([*arguments, "--prompts", str(folder / "prompts.parquet")])
    return outputs


def test_command_finds_what_was_planted_and_repeats_it(files: dict[str, Path], tmp_path: Path) -> None:
    summary, densities = call(files, tmp_path)
    found = read_json(summary)
    assert found["probability"]["core"]["mean"] == pytest.approx(0.9)
    assert found["probability"]["replaceable"]["mean"] == pytest.approx(0.2)
    assert found["effect"]["auc"] == 1 and found["recovery"]["f1"] == 1 and found["recovery"]["fixed_as_core"] == 0
    assert (found["model"], found["annotator"], found["provenance"]["world"]) == ("m", "truth", "w")
    assert read_parquet(densities).tokens.sum() == found["probability"]["all"]["tokens"]
    assert read_parquet_metadata(densities)["provenance"]["rule"] == "correlate"
    prompts = read_parquet(tmp_path / "prompts.parquet")
    assert list(prompts) == ["model", "annotator", "prompt_id", "label", "tokens", "probability_sum", "low"]
    sums = prompts.groupby("label")[["tokens", "probability_sum"]].sum()
    assert sums.tokens.to_dict() == {name: found["probability"][name]["tokens"] for name in ("core", "replaceable")}
    assert sums.probability_sum["core"] == pytest.approx(0.9 * sums.tokens["core"])
    assert read_parquet_metadata(tmp_path / "prompts.parquet")["provenance"]["world"] == "w"
    again = read_json(call(files, tmp_path)[0])
    assert {**again, "provenance": None} == {**found, "provenance": None}


def test_answers_without_labels_are_left_out_and_counted(
    files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = read_json(call(files, tmp_path)[0])
    assert (whole["answers"], whole["answers_without_labels"]) == (40, 0) and "left out" not in caplog.text
    spans, scores = read_parquet(files["annotations"]), read_parquet(files["scores"])

    def kept(frame: pd.DataFrame) -> pd.DataFrame:
        """Without two prompts, and without one answer of a third."""
        return frame[
            ~frame.prompt_id.isin(["p002", "p007"]) & ~((frame.prompt_id == "p004") & (frame.reference_id == 1))
        ]

    part = tmp_path / "part.parquet"
    write_parquet(part, kept(spans))
    summary, densities = call({**files, "annotations": part}, tmp_path)
    found, counts = read_json(summary), read_parquet(densities)
    assert (found["answers"], found["answers_without_labels"], found["prompts"]) == (31, 9, 8)
    assert "9 of 40 answers have no labels and are left out" in caplog.text
    assert found["recovery"]["tokens"] == found["probability"]["core_and_replaceable"]["tokens"]
    assert counts.tokens.sum() == found["probability"]["all"]["tokens"] == len(kept(scores))
    # As if the answers had never been scored.
    write_parquet(files["scores"], kept(scores), {"provenance": {"world": "w"}})
    alone = read_json(call({**files, "annotations": part}, tmp_path)[0])
    assert {**alone, "answers_without_labels": 9, "provenance": None} == {**found, "provenance": None}


def test_truth_covers_every_labelled_answer(files: dict[str, Path], tmp_path: Path) -> None:
    spans = read_parquet(files["truth"])
    write_parquet(tmp_path / "truth.parquet", spans[spans.prompt_id != "p004"])
    truth = {**files, "truth": tmp_path / "truth.parquet"}
    with pytest.raises(InputError, match="truth.parquet: found no span of prompt p004, reference 0, expected some"):
        call(truth, tmp_path)
    call({**truth, "annotations": tmp_path / "truth.parquet"}, tmp_path)


def test_truth_may_be_missing(files: dict[str, Path], tmp_path: Path) -> None:
    del files["truth"]
    assert "recovery" not in read_json(call(files, tmp_path)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.5])
def test_a_log_probability_that_is_none_is_named(files: dict[str, Path], tmp_path: Path, value: float) -> None:
    scores = read_parquet(files["scores"])
    scores.loc[7, "logprob"] = value
    write_parquet(files["scores"], scores)
    with pytest.raises(InputError, match=r"scores.parquet, prompt p000, reference 1, column logprob: found"):
        call(files, tmp_path)


def test_damaged_or_foreign_tables_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    whole = files["scores"].read_bytes()
    write_parquet(files["scores"], read_parquet(files["scores"]).drop(columns="logprob"))
    with pytest.raises(InputError, match=r"scores.parquet: found columns .* expected also \['logprob'\]"):
        call(files, tmp_path)
    files["scores"].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="scores.parquet"):
        call(files, tmp_path)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spans: spans.assign(prompt_id="q"), "found no span of any of the 40 answers of .*scores.parquet"),
        (lambda spans: spans.head(0), "other.parquet: found no span of any"),
        (lambda spans: spans.assign(label="trivial"), r"column label: found \['trivial'\]"),
        (lambda spans: pd.concat([spans, spans.head(1)]), "prompt p000, reference 0: found a span at 0"),
    ],
)
def test_annotations_that_do_not_fit_are_named(
    files: dict[str, Path], tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    path = tmp_path / "other.parquet"
    write_parquet(path, change(read_parquet(files["annotations"])))
    with pytest.raises(InputError, match=message):
        call({**files, "annotations": path}, tmp_path)
