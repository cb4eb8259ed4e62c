"""Annotators against hand-made answers, the planted truth, and bad input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from profit import annotate
from profit.code_version import reachable
from profit.data import load_references
from profit.files import InputError, read_parquet, read_parquet_metadata


def frame_of(*answers: str) -> pd.DataFrame:
    """One prompt with these answers and no truth."""
    rows = [("p", number, "?", answer, False, 1, None) for number, answer in enumerate(answers)]
    return pd.DataFrame(rows, columns="prompt_id reference_id prompt answer held steps spans".split())


def labelled(frame: pd.DataFrame, table: pd.DataFrame, reference: int) -> dict[str, str]:
    """Label by text of each span of one answer."""
    answer = frame.answer[reference]
    own = table[table.reference_id == reference]
    return {answer[row.start : row.end]: row.label for row in own.itertuples()}


def test_truth_is_the_stored_labels(references_path: Path) -> None:
    references = load_references(references_path)
    table = annotate.truth_spans(references)
    expected = [(row.prompt_id, row.reference_id, *span) for row in references.itertuples() for span in row.spans]
    assert list(table.itertuples(index=False, name=None)) == expected
    assert list(table) == ["prompt_id", "reference_id", "start", "end", "label"]


def test_truth_that_is_not_there_names_the_possible_annotator() -> None:
    with pytest.raises(InputError, match="prompt p, reference 0: found no stored labels.*possible here: agreement"):
        annotate.truth_spans(frame_of("a", "b"))


@pytest.mark.parametrize("span", [(0, 9, "core"), (-1, 2, "core"), (2, 2, "core"), (0, 1, "trivial")])
def test_a_wrong_stored_span_is_named(span: tuple[int, int, str]) -> None:
    frame = frame_of("abc", "abc")
    frame["spans"] = [[(0, 3, "core")], [span]]
    with pytest.raises(InputError, match=f"reference 1: found span {span[0]}-{span[1]} '{span[2]}'"):
        annotate.truth_spans(frame)


def test_agreement_is_core_and_wording_is_replaceable() -> None:
    frame = frame_of(
        "Well, 3 + 4 = 7 nuts. So the answer is 7.",
        "To begin with, 3 + 4 = 7 nuts. In total, the answer is 7.",
        "Now 3 + 4 = 7 nuts. Hence, the answer is 7.",
    )
    table = annotate.agreement_spans(frame)
    first = labelled(frame, table, 0)
    assert {first[word] for word in ("3", "+", "4", "=", "7", "nuts", "the", "answer", "is", ".")} == {"core"}
    assert first["Well"] == first["So"] == "replaceable"
    second = labelled(frame, table, 1)
    assert {second[word] for word in ("To", "begin", "with", "In", "total")} == {"replaceable"}
    assert set(table.label) == {"core", "replaceable"}


def test_alignment_is_ordered_and_not_a_bag_of_words() -> None:
    counts = annotate.support([["so", "1", "2"], ["1", "2", "so"]])
    assert counts[0].tolist() == [0, 1, 1] and counts[1].tolist() == [1, 1, 0]
    # 5 stands in both answers, but between other neighbours and after what has been aligned already.
    assert annotate.support([list("5abc"), list("abcd5")])[0].tolist() == [0, 1, 1, 1]


def test_frequent_words_of_long_answers_are_aligned_too() -> None:
    answer = ["step", "."] * 150
    assert annotate.support([answer, ["well", *answer]])[1].tolist() == [0] + [1] * 300


def test_support_is_the_share_of_the_other_answers() -> None:
    counts = annotate.support([["a", "x"], ["a", "y"], ["b", "x"], ["a"]])
    assert counts[0] == pytest.approx([2 / 3, 1 / 3])
    assert counts[3] == pytest.approx([2 / 3])


def test_the_threshold_decides_and_includes_its_value() -> None:
    frame = frame_of("a x", "a y", "b z")
    labels = {threshold: annotate.agreement_spans(frame, threshold).label.tolist() for threshold in (0.5, 0.51)}
    assert labels[0.5] == ["core", "replaceable", "core", "replaceable", "replaceable", "replaceable"]
    assert set(labels[0.51]) == {"replaceable"}


def test_words_keep_numbers_whole_and_ignore_capitals() -> None:
    frame = frame_of("It's 1,250.5 apples.", "it's 1,250.5 Äpfel.")
    table = annotate.agreement_spans(frame)
    assert labelled(frame, table, 0) == {"It's": "core", "1,250.5": "core", "apples": "replaceable", ".": "core"}
    spans = table[table.reference_id == 0]
    assert all(end > start for start, end in zip(spans.start, spans.end, strict=True))
    assert (spans.start[1:].to_numpy() >= spans.end[:-1].to_numpy()).all()


def test_agreement_never_looks_across_prompts(references_path: Path) -> None:
    references = load_references(references_path)
    whole = annotate.agreement_spans(references)
    alone = annotate.agreement_spans(references[references.prompt_id == "p003"])
    pd.testing.assert_frame_equal(whole[whole.prompt_id == "p003"].reset_index(drop=True), alone)


def test_agreement_recovers_planted_truth(references_path: Path) -> None:
    """The fixture's openers differ and its equations agree; only ',' and ':' of the openers are shared."""
    references = load_references(references_path)
    table = annotate.agreement_spans(references)
    for row in references.itertuples():
        own = table[(table.prompt_id == row.prompt_id) & (table.reference_id == row.reference_id)]
        for start, end, label in row.spans:
            inside = own[(own.start >= start) & (own.end <= end)]
            words = inside[[row.answer[s].isalnum() for s in inside.start]]
            assert (words.label == ("replaceable" if label == "replaceable" else "core")).all()


def test_recovery_by_hand() -> None:
    truth = np.array(["core"] * 4 + ["replaceable"] * 4 + ["fixed"] * 2 + ["end"])
    said = np.array(["core", "core", "core", "replaceable", "core"] + ["replaceable"] * 3 + ["core", "fixed", "end"])
    found = annotate.recovery(said, truth)
    assert (found["precision"], found["recall"], found["f1"], found["accuracy"]) == (0.75, 0.75, 0.75, 0.75)
    assert found["kappa"] == pytest.approx(0.5)
    assert (found["tokens"], found["fixed_tokens"], found["fixed_as_core"]) == (8, 2, 0.5)


def test_recovery_without_core_or_without_anything() -> None:
    none = annotate.recovery(np.array(["replaceable"]), np.array(["core"]))
    assert (none["precision"], none["recall"], none["f1"]) == (None, 0, 0)
    empty = annotate.recovery(np.array(["core"]), np.array(["fixed"]))
    assert empty["kappa"] is None and empty["fixed_as_core"] == 1


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1])
def test_a_threshold_out_of_range_is_an_error(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold: found"):
        annotate.agreement_spans(frame_of("a", "b"), threshold)


def test_a_single_reference_cannot_agree() -> None:
    with pytest.raises(InputError, match="prompt p: found 1 reference, expected at least 2"):
        annotate.agreement_spans(frame_of("a"))


@pytest.mark.parametrize("annotator", ["truth", "agreement"])
def test_command_writes_spans_with_provenance(references_path: Path, tmp_path: Path, annotator: str) -> None:
    output = tmp_path / "spans.parquet"
    annotate.main(["--annotator", annotator, "--references", str(references_path), "--output", str(output)])
    table = read_parquet(output, ["prompt_id", "reference_id", "start", "end", "label"])
    references = load_references(references_path)
    assert len(table[["prompt_id", "reference_id"]].drop_duplicates()) == len(references)
    assert read_parquet_metadata(output)["provenance"]["settings"]["annotator"] == annotator


def test_a_truncated_file_is_named(references_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "references.parquet"
    path.write_bytes(references_path.read_bytes()[:-100])
    with pytest.raises(InputError, match="references.parquet"):
        annotate.main(["--annotator", "truth", "--references", str(path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_judge_is_code_of_its_own_annotator_alone() -> None:
    covered = {name: set(reachable("profit.annotate", "main", name)) for name in annotate.ANNOTATORS}
    assert {"profit.judge:judge_spans", "profit.judge_prompt:INSTRUCTIONS", "profit.chat:send"} <= covered["llm"]
    for name in ("truth", "agreement"):
        assert not any(label.startswith(("profit.judge", "profit.chat")) for label in covered[name])
