"""Agreement of two annotators against hand-made labels, plain loops, other cuts of the same labels, and bad input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from profit import agreement, statistics
from profit.annotate import WORD
from profit.code_version import reachable
from profit.data import load_references
from profit.files import InputError, read_json, read_parquet, write_parquet

SPANS = ["prompt_id", "reference_id", "start", "end", "label"]


def random_labels(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two related labellings of 300 words of 12 prompts, in no order."""
    rng = np.random.default_rng(seed)
    first = rng.choice(["core", "replaceable", "fixed"], 300)
    second = np.where(rng.random(300) < 0.7, first, rng.choice(["core", "replaceable", "fixed"], 300))
    return first, second, rng.choice([f"p{number}" for number in range(12)], 300)


def test_agreement_of_two_annotators_by_hand() -> None:
    first = np.array(["core"] * 5 + ["replaceable"] * 3 + ["fixed"] * 2)
    second = np.array(["core"] * 4 + ["replaceable"] * 4 + ["core", "fixed"])
    found = agreement.compare_labels(first, second, np.array(list("aaaabbbbcc")))
    assert found["confusion"]["core"] == {"core": 4, "replaceable": 1, "fixed": 0, "end": 0}
    assert found["confusion"]["fixed"] == {"core": 1, "replaceable": 0, "fixed": 1, "end": 0}
    assert (found["all"]["units"], found["all"]["prompts"], found["all"]["accuracy"]["value"]) == (10, 3, 0.8)
    both = found["core_and_replaceable"]
    assert (both["units"], both["prompts"], both["accuracy"]["value"]) == (8, 2, 7 / 8)
    # Observed 7/8, by chance 5/8 4/8 + 3/8 4/8 = 1/2.
    assert both["kappa"]["value"] == pytest.approx(0.75)


def test_agreement_of_two_annotators_against_plain_loops() -> None:
    first, second, prompts = random_labels(0)
    found = agreement.compare_labels(first, second, prompts, resamples=200, seed=3)
    assert found["all"]["kappa"]["value"] == pytest.approx(statistics.cohens_kappa(first, second))
    names = np.unique(prompts)
    draws = []
    for weights in statistics.bootstrap_weights(len(names), 200, 3).astype(int):
        rows = np.concatenate([
            np.tile(np.flatnonzero(prompts == name), count) for name, count in zip(names, weights, strict=True)
        ])  # fmt: skip
        draws.append((np.mean(first[rows] == second[rows]), statistics.cohens_kappa(first[rows], second[rows])))
    for name, drawn in zip(("accuracy", "kappa"), np.transpose(draws), strict=True):
        low, high = statistics.percentile_interval(drawn)
        assert (found["all"][name]["low"], found["all"][name]["high"]) == pytest.approx((low, high))


def test_agreement_is_symmetric_and_kappa_may_be_undefined() -> None:
    first, second, prompts = random_labels(1)
    one, other = (agreement.compare_labels(*pair, prompts) for pair in ((first, second), (second, first)))
    for name in ("accuracy", "kappa"):
        assert list(one["all"][name].values()) == pytest.approx(list(other["all"][name].values()))
    assert other["confusion"]["core"]["fixed"] == one["confusion"]["fixed"]["core"] > 0
    same = agreement.compare_labels(np.array(["fixed"] * 3), np.array(["fixed"] * 3), np.array([1, 1, 2]))
    assert same["all"]["kappa"] == {"value": None, "low": None, "high": None}
    assert same["all"]["accuracy"] == {"value": 1, "low": 1, "high": 1}
    assert same["core_and_replaceable"]["accuracy"]["value"] is None


@pytest.mark.parametrize(
    ("labels", "prompts", "sentence"),
    [(["core"], [1, 2], "as many each"), ([], [], "as many each"), (["trivial"], [1], "none of core, replaceable")],
)
def test_labels_that_cannot_be_compared_are_errors(labels: list[str], prompts: list[int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        agreement.compare_labels(np.array(labels), np.array(labels), np.array(prompts))


def answers_of(*answers: str) -> pd.DataFrame:
    """One prompt with these answers."""
    return pd.DataFrame({"prompt_id": "p", "reference_id": range(len(answers)), "answer": answers})


def spans_of(**answers: list[tuple[int, int, str]]) -> pd.DataFrame:
    """Spans of the answers a0, a1, … of one prompt."""
    rows = [("p", int(name[1:]), *span) for name, spans in answers.items() for span in spans]
    return pd.DataFrame(rows, columns=SPANS)


def test_only_answers_that_both_labelled_are_compared_and_the_others_counted() -> None:
    frame = answers_of("Well, 7.", "So 8.", "9.", "10.")
    first = spans_of(a0=[(0, 4, "replaceable"), (6, 7, "core")], a2=[(0, 1, "core")])
    second = spans_of(a0=[(0, 8, "core")], a1=[(0, 2, "core")], a3=[(0, 2, "core")])
    found = agreement.compare_words({"a": first, "b": second}, frame)
    assert (found["unit"], found["answers"], found["all"]["units"]) == ("word", 1, 4)
    assert (found["answers_of_first_alone"], found["answers_of_second_alone"]) == (1, 2)
    assert found["confusion"]["fixed"]["core"] == 2 and found["confusion"]["replaceable"]["core"] == 1
    with pytest.raises(
        InputError, match="a, b: found .*'answers_of_first_alone': 2, 'answers_of_second_alone': 1}, expect"
    ):
        agreement.compare_words({"a": first, "b": second[second.reference_id == 1]}, frame)


def test_how_an_annotator_cuts_its_spans_changes_nothing(references_path: Path, annotations_path: Path) -> None:
    """The fixture's spans are phrases; the same labels by word, and character by character, are the same labels."""
    references = load_references(references_path)
    phrases = read_parquet(annotations_path, SPANS)
    other = phrases.assign(label="core")
    characters = pd.DataFrame(
        [(*row[:2], at, at + 1, row[4]) for row in phrases.itertuples(index=False) for at in range(row[2], row[3])],
        columns=SPANS,
    )
    label_at = characters.set_index(SPANS[:3]).label.to_dict()
    words = pd.DataFrame(
        [
            (row.prompt_id, row.reference_id, *match.span(),
             label_at.get((row.prompt_id, row.reference_id, match.start()), "fixed"))
            for row in references.itertuples() for match in WORD.finditer(row.answer)
        ],
        columns=SPANS,
    )  # fmt: skip
    expected = agreement.compare_words({"cut": phrases, "other": other}, references, resamples=50)
    assert 0 < expected["all"]["accuracy"]["value"] < 1
    for cut in (words, characters):
        assert agreement.compare_words({"cut": cut, "other": other}, references, resamples=50) == expected
        assert agreement.compare_words({"cut": cut, "other": phrases}, references)["all"]["kappa"]["value"] == 1


@pytest.fixture
def command(references_path: Path, annotations_path: Path, tmp_path: Path) -> list[str]:
    """The command line, without --output: the truth against a second annotator, who calls all of two prompts core."""
    spans = read_parquet(annotations_path, SPANS)
    spans.loc[spans.prompt_id.isin(["p000", "p001"]), "label"] = "core"
    write_parquet(tmp_path / "other.parquet", spans[(spans.prompt_id != "p009") | (spans.reference_id == 0)])
    files = {"first": annotations_path, "second": tmp_path / "other.parquet", "references": references_path}
    return [*(part for name, path in files.items() for part in (f"--{name}", str(path))), "--names", "truth", "other"]


def test_command_compares_two_annotators(command: list[str], tmp_path: Path) -> None:
    agreement.main([*command, "--output", str(tmp_path / "out.json")])
    found = read_json(tmp_path / "out.json")
    assert (found["first"], found["second"], found["answers"]) == ("truth", "other", 37)
    assert (found["answers_of_first_alone"], found["answers_of_second_alone"]) == (3, 0)
    assert found["confusion"]["core"]["core"] > 0 < found["confusion"]["replaceable"]["core"]
    assert found["confusion"]["core"]["replaceable"] == 0
    kappa = found["all"]["kappa"]
    assert 0 < kappa["low"] < kappa["value"] < kappa["high"] <= 1
    assert found["provenance"]["rule"] == "agreement"
    expected = {"first": "truth", "second": "other", "bootstrap": 2000, "seed": 0}
    assert found["provenance"]["settings"] == expected
    agreement.main([*command, "--bootstrap", "50", "--seed", "1", "--output", str(tmp_path / "few.json")])
    few = read_json(tmp_path / "few.json")["all"]["kappa"]
    assert few["value"] == kappa["value"] and few["low"] != kappa["low"]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (["--names", "llm", "llm"], "--names: found llm twice"),
        (["--first", "a.parquet", "--second", "a.parquet"], "--first, --second: found a.parquet twice"),
        (["--bootstrap", "0"], "--bootstrap, --seed: found 0, 0, expected"),
        (["--seed", "-1"], "--bootstrap, --seed: found 2000, -1, expected"),
        (["--second", "nowhere.parquet"], "nowhere.parquet: not found"),
    ],
)
def test_a_wrong_command_is_an_error(command: list[str], tmp_path: Path, option: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        agreement.main([*command, *option, "--output", str(tmp_path / "out.json")])
    assert not (tmp_path / "out.json").exists()


def test_damaged_and_foreign_labels_are_named(command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    spans = read_parquet(path)
    for wrong, sentence in (
        (spans.assign(label="trivial"), r"other.parquet, column label: found \['trivial'\]"),
        (pd.concat([spans, spans.head(1)]), "other.parquet, prompt p000, reference 0: found a span at 0 within"),
        (spans.drop(columns="label"), "other.parquet: found columns"),
        (spans.assign(prompt_id="q"), "'answers_of_first_alone': 40, 'answers_of_second_alone': 0}"),
    ):
        write_parquet(path, wrong)
        with pytest.raises(InputError, match=sentence):
            agreement.main([*command, "--output", str(tmp_path / "out.json")])


def test_an_annotator_is_no_code_of_the_comparison() -> None:
    covered = set(reachable("profit.agreement", "main", None))
    assert {"profit.annotate:WORD", "profit.correlate:label_tokens"} <= covered
    assert not any("support" in name or "judge" in name for name in covered)
