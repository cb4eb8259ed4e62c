"""References as training examples: tokens, spans, labels, the choice of references, bad input."""

import pandas as pd
import pytest
from conftest import CHAT_TEMPLATE, PROMPTS, references_frame
from transformers import AutoTokenizer

from profit import data
from profit.files import InputError, write_parquet


@pytest.fixture()
def tokenizer(model_folder):
    return AutoTokenizer.from_pretrained(model_folder)


def test_tokens_are_those_of_the_chat_template_up_to_the_end_token(tokenizer):
    row = references_frame().iloc[5]
    encoded = data.encode(tokenizer, row.prompt, row.answer)
    user = [{"role": "user", "content": row.prompt}]
    whole = tokenizer.apply_chat_template([*user, {"role": "assistant", "content": row.answer}], return_dict=False)
    head = tokenizer.apply_chat_template(user, add_generation_prompt=True, return_dict=False)
    assert encoded.input_ids == whole and whole[-1] == tokenizer.eos_token_id
    assert encoded.input_ids[: encoded.prompt_length] == head
    assert [row.answer[start:end] for start, end in encoded.spans[:-1]] == row.answer.split()
    assert encoded.spans[-1] == (-1, -1)


def test_what_a_template_adds_after_the_end_token_is_dropped_and_before_the_answer_is_fixed(tokenizer):
    plain = data.encode(tokenizer, "Mia has 3 .", "The answer is 3 .")
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<end>", "<end> . .")
    assert data.encode(tokenizer, "Mia has 3 .", "The answer is 3 .") == plain
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<assistant>{{", "<assistant>Look {{")
    extended = data.encode(tokenizer, "Mia has 3 .", "The answer is 3 .")
    assert len(extended.input_ids) == len(plain.input_ids) + 1
    assert data.token_labels(extended.spans, [(0, 17, "core")]) == ["fixed"] + ["core"] * 5 + ["end"]


def test_labels_follow_the_first_character_of_a_token(tokenizer):
    row = references_frame().iloc[0]
    spans = [(span["start"], span["end"], span["label"]) for span in row.spans]
    encoded = data.encode(tokenizer, row.prompt, row.answer)
    labels = data.token_labels(encoded.spans, spans)
    words = row.answer.split()
    assert len(labels) == len(words) + 1
    opener = words.index(",") + 1
    assert labels == ["replaceable"] * opener + ["core"] * 5 + ["fixed"] * 4 + ["core", "fixed", "end"]
    assert data.token_labels(encoded.spans, spans[::-1]) == labels
    assert set(data.token_labels(encoded.spans, [])) == {"fixed", "end"}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHAT_TEMPLATE.replace("<end>", ""), "no end token"),
        (CHAT_TEMPLATE.replace("<assistant>{{ message['content'] }}", "<assistant>{{ message['content'][:5] }}"),
         "not in the text"),
        (CHAT_TEMPLATE.replace("{% if add_generation_prompt %}<assistant>", "{% if add_generation_prompt %}<user>"),
         "do not begin with"),
    ],
)  # fmt: skip
def test_a_template_that_breaks_the_targets_is_refused(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=message):
        data.encode(tokenizer, "Mia has 3 .", "The answer is 3 .")


def test_a_tokenizer_without_template_or_end_token_is_refused(tokenizer):
    data.check_tokenizer(tokenizer, "some/model")
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="some/model: .*end token"):
        data.check_tokenizer(tokenizer, "some/model")
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="some/model: .*chat template"):
        data.check_tokenizer(tokenizer, "some/model")


def test_references_are_sorted_and_spans_become_tuples(tmp_path):
    frame = references_frame()
    frame.loc[0, "spans"] = None
    write_parquet(tmp_path / "r.parquet", frame.iloc[::-1])
    loaded = data.load_references(tmp_path / "r.parquet")
    assert loaded[["prompt_id", "reference_id"]].equals(frame[["prompt_id", "reference_id"]])
    assert loaded["spans"][0] is None
    assert loaded["spans"][1] == [(s["start"], s["end"], s["label"]) for s in frame["spans"][1]]


def test_a_damaged_references_file_is_refused(tmp_path, references_path, annotations_path):
    (tmp_path / "cut.parquet").write_bytes(references_path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut.parquet"):
        data.load_references(tmp_path / "cut.parquet")
    with pytest.raises(InputError, match="answer"):
        data.load_references(annotations_path)
    for change, message in [
        (lambda frame: pd.concat([frame, frame.iloc[[3]]]), "p000.*3 twice"),
        (lambda frame: frame.assign(answer=" "), "answer of prompt 'p000', reference 0"),
        (lambda frame: frame.iloc[:0], "no reference"),
    ]:
        write_parquet(tmp_path / "bad.parquet", change(references_frame()))
        with pytest.raises(InputError, match=message):
            data.load_references(tmp_path / "bad.parquet")


def test_annotations_are_grouped_by_reference_and_unknown_labels_refused(tmp_path, annotations_path, references_path):
    references = data.load_references(references_path)
    spans = data.load_annotations(annotations_path, references.iloc[:7])
    assert len(spans) == 7
    for row in references.iloc[:7].itertuples():
        assert spans[row.prompt_id, row.reference_id] == row.spans
    bad = pd.read_parquet(annotations_path).assign(label="trivial")
    write_parquet(tmp_path / "bad.parquet", bad)
    with pytest.raises(InputError, match="trivial"):
        data.load_annotations(tmp_path / "bad.parquet", references)


def test_chosen_references_are_never_held_nested_and_change_with_the_seed(references_path):
    frame = data.load_references(references_path)
    chosen = {k: data.choose_references(frame, k, seed=1) for k in (1, 2, 3)}
    for k, rows in chosen.items():
        assert len(rows) == k * PROMPTS and not rows["held"].any()
        assert (rows.groupby("prompt_id").size() == k).all()
    keys = {k: set(zip(rows["prompt_id"], rows["reference_id"], strict=True)) for k, rows in chosen.items()}
    assert keys[1] < keys[2] < keys[3]
    assert chosen[2].equals(data.choose_references(frame.iloc[::-1], 2, seed=1).sort_values(
        ["prompt_id", "reference_id"], ignore_index=True))  # fmt: skip
    other = data.choose_references(frame, 1, seed=2)
    assert not other["reference_id"].equals(chosen[1]["reference_id"])
    with pytest.raises(InputError, match="found 3 .*expected 4"):
        data.choose_references(frame, 4, seed=1)


def test_the_first_references_are_those_with_the_lowest_numbers(references_path):
    frame = data.load_references(references_path)
    frame.loc[frame["prompt_id"] == "p003", "reference_id"] = [7, 0, 5, 6]
    for seed in (0, 1):
        chosen = data.choose_references(frame, 2, seed, choice="first")
        numbers = chosen.groupby("prompt_id")["reference_id"].apply(sorted)
        assert numbers.pop("p003") == [0, 5] and numbers.map(lambda own: own == [0, 1]).all()


RUN = {"references": 1, "seed": 0, "training": {"max_length": 64}}


def test_a_run_takes_the_references_that_its_leaf_says(tokenizer, references_path):
    frame = data.load_references(references_path)
    for leaf, choice in ((RUN, "seed"), (RUN | {"choice": "seed"}, "seed"), (RUN | {"choice": "first"}, "first")):
        chosen = data.choose_references(frame, 1, 0, choice)
        expected = data.encode_all(tokenizer, chosen["prompt"].tolist(), chosen["answer"].tolist())
        found = data.prepare_examples(leaf, tokenizer, references_path, None, 64)
        assert [row["input_ids"] for row in found.rows] == [item.input_ids for item in expected]


def test_without_annotations_nothing_has_a_role(tokenizer, references_path, annotations_path, tmp_path):
    labelled = data.prepare_examples(RUN, tokenizer, references_path, annotations_path, 64)
    plain = data.prepare_examples(RUN, tokenizer, references_path, None, 64)
    assert plain.tokens == labelled.tokens == sum(len(row["roles"]) for row in labelled.rows)
    assert [{**row, "roles": None} for row in plain.rows] == [{**row, "roles": None} for row in labelled.rows]
    annotations = pd.read_parquet(annotations_path)
    write_parquet(tmp_path / "some.parquet", annotations[annotations["prompt_id"] != "p004"])
    with pytest.raises(InputError, match="some.parquet: found nothing for prompt 'p004', reference .*expected spans"):
        data.prepare_examples(RUN, tokenizer, references_path, tmp_path / "some.parquet", 64)


def test_answers_are_cut_at_a_limit_and_counted(tokenizer, caplog):
    short, long = data.encode_all(tokenizer, ["Mia has 3 ."] * 2, ["7 .", "The answer is 3 . The answer is 3 ."])
    limit = short.prompt_length + 4
    (whole, cut), truncated = data.cut_all([short, long], ["p0", "p1"], limit, "r.parquet")
    assert (whole, truncated) == (short, 1) and "1 of 2 answers are cut at" in caplog.text
    assert cut.input_ids == long.input_ids[:limit] and cut.spans == long.spans[:4]
    with pytest.raises(InputError, match=f"r.parquet: prompt 'p0': found {limit - 4} tokens, expected fewer than"):
        data.cut_all([short, long], ["p0", "p1"], short.prompt_length, "r.parquet")


def test_the_end_token_may_be_left_untrained(tokenizer, references_path, annotations_path):
    whole = data.prepare_examples(RUN, tokenizer, references_path, annotations_path, 64)
    without = RUN | {"training": RUN["training"] | {"train_end": False}}
    found = data.prepare_examples(without, tokenizer, references_path, annotations_path, 64)
    assert [row["input_ids"] for row in found.rows] == [row["input_ids"][:-1] for row in whole.rows]
    assert [row["roles"] for row in found.rows] == [row["roles"][:-1] for row in whole.rows]
    assert all(row["input_ids"][-1] == tokenizer.eos_token_id for row in whole.rows)
    # An answer that is cut has no end to be left out.
    first = whole.rows[0]
    limit = max(row["prompt_length"] for row in whole.rows) + 1
    short = data.prepare_examples(without, tokenizer, references_path, annotations_path, limit).rows[0]
    assert short["input_ids"] == first["input_ids"][:limit] and short["input_ids"]
