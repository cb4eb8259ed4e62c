"""Annotators against hand-made answers, the planted truth, and bad input."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CHAT_TEMPLATE
from judge_server import serving
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from profit import annotate
from profit.code_version import reachable
from profit.correlate import label_tokens
from profit.data import encode_all, load_references, token_labels
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


# LaTeX, accents composed and not, CJK, emoji of several code points, code, odd spaces, white space at both edges.
ODD_ANSWERS = {
    "latex": (
        "Therefore $\\frac{1}{2}\\,x^{2} = 0.5$,\n\n\\[ \\boxed{\\tfrac{3}{4}} \\]",
        "So $\\frac{1}{2}x^2=0.5$, hence\n\\boxed{\\tfrac{3}{4}}.\n",
        "We get $x^{2}/2$ and finally \\boxed{0.75}",
    ),
    "code": (
        "   Here:\n\tdef f(x):\r\n        return x**2  # 12,345.6\n\n",
        "\n\ndef f(y):\n    return y ** 2\n",
        "Use `f = lambda x: x**2`\u00a0— it's “short”.",
    ),
    "unicode": (
        "因此，答案是 42。\u3000所以完成 🙂 done",
        "Naïve café, re\u0301sume\u0301 ½ ② 👩‍👩‍👧‍👦 42 ✌🏽!",
        "答案： 42　Ответ — 42 €",
    ),
}


def odd_references() -> pd.DataFrame:
    """The odd answers, with stored labels on runs of 5 characters, whatever these are, and on every third one none."""
    rows = [
        (prompt, number, f"Why {prompt}?", answer, False, 1, [
            (at, min(at + 5, len(answer)), ("core", "replaceable")[at // 5 % 2])
            for at in range(0, len(answer), 5) if at // 5 % 3 < 2
        ])
        for prompt, answers in ODD_ANSWERS.items() for number, answer in enumerate(answers)
    ]  # fmt: skip
    columns = "prompt_id reference_id prompt answer held steps spans".split()
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:2], ignore_index=True)


@pytest.fixture(scope="module", params=["normalised", "trimmed"])
def byte_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """A byte-level BPE as Qwen has it (text in NFC, offsets with their white space), and as Llama 3 (without)."""
    core = Tokenizer(models.BPE())
    if request.param == "normalised":
        core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.post_processor = processors.ByteLevel(trim_offsets=request.param == "trimmed")
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [answer for answers in ODD_ANSWERS.values() for answer in answers[:2]]
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", additional_special_tokens=["<user>", "<assistant>"]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def first_characters(tokenizer: PreTrainedTokenizerFast, tokens: list[int], answer: str) -> list[int | None]:
    """Where in the answer each token's first character that is no white space stands, by counting bytes; or None."""
    letters = {letter: byte for byte, letter in byte_letters().items()}
    pieces = [bytes(letters[letter] for letter in piece) for piece in tokenizer.convert_ids_to_tokens(tokens)]
    normaliser = tokenizer.backend_tokenizer.normalizer
    text = unicodedata.normalize("NFC", answer) if normaliser else answer
    assert b"".join(pieces) == text.encode()
    lengths = [len(unicodedata.normalize("NFC", answer[:at])) if normaliser else at for at in range(len(answer) + 1)]
    place_of = [max(at for at, length in enumerate(lengths[:-1]) if length <= index) for index in range(len(text))]
    of_byte = [index for index, letter in enumerate(text) for _ in letter.encode()]
    found, at = [], 0
    for piece in pieces:
        own = [index for index in of_byte[at : at + len(piece)] if not text[index].isspace()]
        found.append(place_of[own[0]] if own else None)
        at += len(piece)
    return found


def byte_letters() -> dict[int, str]:
    """The letter by which a byte-level BPE writes each byte: itself if it prints, else one from 256 on, in order."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    return {byte: chr(byte) for byte in printing} | {byte: chr(256 + place) for place, byte in enumerate(others)}


@pytest.mark.parametrize("annotator", ["truth", "agreement", "llm"])
def test_labels_of_characters_carry_over_to_the_tokens_of_any_text(
    byte_tokenizer: PreTrainedTokenizerFast, annotator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = odd_references()
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        judge = json.dumps({"model": "m", "base_url": server.address})
        options = {"llm": {"judge": judge, "cache": str(tmp_path)}}.get(annotator, {})
        spans = annotate.ANNOTATORS[annotator](references, **options)
    split, seen = 0, set()
    for row, example in zip(
        references.itertuples(),
        encode_all(byte_tokenizer, references.prompt.tolist(), references.answer.tolist()),
        strict=True,
    ):
        own = spans[(spans.prompt_id == row.prompt_id) & (spans.reference_id == row.reference_id)]
        label_at = {at: span.label for span in own.itertuples() for at in range(span.start, span.end)}
        places = first_characters(byte_tokenizer, example.input_ids[example.prompt_length : -1], row.answer)
        found = token_labels(example.spans, list(own[["start", "end", "label"]].itertuples(index=False, name=None)))
        assert found[-1] == "end" and len(found) == len(places) + 1
        for place, label in zip(places, found, strict=False):
            assert place is None or label == label_at.get(place, "fixed"), (row.answer, place)
        if annotator != "truth":  # whose spans may hold white space
            assert {label for place, label in zip(places, found, strict=False) if place is None} <= {"fixed"}
        tokens = pd.DataFrame(example.spans, columns=["start", "end"]).assign(
            prompt_id=row.prompt_id, reference_id=row.reference_id
        )
        assert label_tokens(tokens, spans).tolist() == found
        split += len(places) - len(set(places))
        seen |= set(found)
    assert split > 20 and {"core", "replaceable", "fixed", "end"} <= seen


def test_the_judge_is_code_of_its_own_annotator_alone() -> None:
    covered = {name: set(reachable("profit.annotate", "main", name)) for name in annotate.ANNOTATORS}
    assert {"profit.judge:judge_spans", "profit.judge_prompt:INSTRUCTIONS", "profit.chat:send"} <= covered["llm"]
    for name in ("truth", "agreement"):
        assert not any(label.startswith(("profit.judge", "profit.chat")) for label in covered[name])
