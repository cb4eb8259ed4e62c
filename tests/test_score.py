"""Scores against a one-by-one loop over full logits in float64, and bad input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model

from profit import score
from profit.data import encode, load_references, prepare_examples
from profit.files import InputError, read_parquet, read_parquet_metadata, write_parquet
from profit.logits import LMHead, token_statistics
from profit.models import load_model, load_tokenizer, parse_compute


@pytest.fixture(scope="module")
def references(references_path: Path) -> pd.DataFrame:
    """References of unequal lengths: every third answer is said twice."""
    frame = load_references(references_path)
    frame["answer"] = [f"{text} {text}" if row % 3 == 0 else text for row, text in enumerate(frame.answer)]
    return frame


def one_by_one(model: torch.nn.Module, tokenizer, frame: pd.DataFrame) -> np.ndarray:
    """(logprob, entropy, rank) of every target, from the full logits of each answer alone; shape (tokens, 3)."""
    rows = []
    for prompt, answer in zip(frame.prompt, frame.answer, strict=True):
        item = encode(tokenizer, prompt, answer)
        with torch.no_grad():
            logits = model(torch.tensor([item.input_ids])).logits[0].double()
        for place in range(item.prompt_length, len(item.input_ids)):
            p = logits[place - 1].softmax(-1)
            target = p[item.input_ids[place]]
            rows.append((target.log().item(), -(p * p.log()).sum().item(), (p > target).sum().item()))
    return np.array(rows)


@pytest.mark.parametrize("batch_tokens", [1, 200, 100_000])
def test_scores_are_those_of_a_plain_loop(model_folder: Path, references: pd.DataFrame, batch_tokens: int) -> None:
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    scores = score.score_frame(model, tokenizer, references, batch_tokens)
    expected = one_by_one(model, tokenizer, references)
    assert len(scores) == len(expected)
    assert np.abs(scores.logprob - expected[:, 0]).max() < 2e-5
    assert np.abs(scores.entropy - expected[:, 1]).max() < 2e-5
    assert (scores["rank"] == expected[:, 2]).mean() > 0.999  # a tie may fall either way in float32
    assert scores.entropy.min() >= 0 and expected[:, 1].std() > 0.05


def test_rows_follow_the_references_and_end_with_the_end_token(model_folder: Path, references: pd.DataFrame) -> None:
    tokenizer = load_tokenizer(model_folder)
    scores = score.score_frame(load_model(model_folder), tokenizer, references)
    for (prompt_id, number), own in scores.groupby(["prompt_id", "reference_id"], sort=False):
        row = references[(references.prompt_id == prompt_id) & (references.reference_id == number)].iloc[0]
        assert own.position.tolist() == list(range(len(own)))
        words = [row.answer[start:end] for start, end in zip(own.start[:-1], own.end[:-1], strict=True)]
        assert words == row.answer.split()
        assert own.token.tolist() == ["▁" + word for word in words] + ["<end>"]
        assert own.token_id.iloc[-1] == tokenizer.eos_token_id and own.end.iloc[-1] == -1
    keys = scores[["prompt_id", "reference_id"]].drop_duplicates().reset_index(drop=True)
    pd.testing.assert_frame_equal(keys, references[["prompt_id", "reference_id"]], check_dtype=False)
    assert (scores.logprob.dtype, scores.entropy.dtype) == (np.float32, np.float32)


def test_statistics_of_planted_logits() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [1e-30, 1.0, 1e-30], [0.2, 0.3, 0.5]]))
    found = token_statistics(logits, LMHead(torch.eye(3)), torch.tensor([1, 1, 0]), ("entropy", "rank"))
    logprob, entropy, rank = found.values()
    assert logprob.exp().tolist() == pytest.approx([0.25, 1.0, 0.2])
    nats = [1.5 * np.log(2), 0.0, -sum(p * np.log(p) for p in (0.2, 0.3, 0.5))]
    assert entropy.tolist() == pytest.approx(nats, abs=1e-6)
    assert rank.tolist() == [1, 0, 2]


def test_batches_hold_every_row_once_within_the_limit() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200).tolist()
    groups = score.batches(lengths, 100)
    assert sorted(row for group in groups for row in group) == list(range(200))
    assert all(len(group) * max(lengths[row] for row in group) <= 100 for group in groups)
    assert len(groups) < 2 * sum(lengths) / 100
    assert score.batches([500], 100) == [[0]]


def test_an_adapter_changes_the_scores_as_its_merged_model(
    model_folder: Path, references: pd.DataFrame, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    adapted = get_peft_model(load_model(model_folder), LoraConfig(r=2, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer = load_tokenizer(model_folder)
    found = score.score_frame(load_model(model_folder, tmp_path / "adapter"), tokenizer, references)
    merged = score.score_frame(adapted.merge_and_unload(), tokenizer, references)
    base = score.score_frame(load_model(model_folder), tokenizer, references)
    assert np.abs(found.logprob - merged.logprob).max() < 1e-4
    assert np.abs(found.logprob - base.logprob).max() > 0.1


def test_command_writes_the_table_with_its_provenance(
    model_folder: Path, references_path: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.parquet"
    score.main(["--model", str(model_folder), "--references", str(references_path), "--output", str(output)])
    table = read_parquet(output)
    names = "prompt_id reference_id position token_id token start end logprob entropy rank"
    assert list(table) == names.split()
    assert read_parquet_metadata(output)["provenance"]["tokens"] == {"scored": len(table)}


def test_an_answer_beyond_the_context_is_named(model_folder: Path, references: pd.DataFrame) -> None:
    frame = references.head(2).assign(answer=["7 .", "7 " * 60])
    with pytest.raises(InputError, match=r"prompt p000, reference 1: found \d+ tokens, expected at most .* 64"):
        score.score_frame(load_model(model_folder), load_tokenizer(model_folder), frame)


def test_no_reference_is_an_error(model_folder: Path, references: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="found no row"):
        score.score_frame(load_model(model_folder), load_tokenizer(model_folder), references.head(0))


def test_broken_weights_are_an_error(model_folder: Path, references: pd.DataFrame) -> None:
    model = load_model(model_folder)
    with torch.no_grad():
        model.get_output_embeddings().weight[3] = torch.nan
    with pytest.raises(InputError, match="prompt p000, reference 0, position 0: found log-probability nan"):
        score.score_frame(model, load_tokenizer(model_folder), references)


@pytest.mark.parametrize("damage", ["truncate", "drop column"])
def test_a_damaged_file_of_references_is_named(
    model_folder: Path, references_path: Path, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "references.parquet"
    if damage == "truncate":
        path.write_bytes(references_path.read_bytes()[:500])
    else:
        read_parquet(references_path).drop(columns="answer").to_parquet(path)
    with pytest.raises(InputError, match="references.parquet"):
        score.main(["--model", str(model_folder), "--references", str(path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_cut_answers_are_scored_as_far_as_training_sees_them(
    model_folder: Path, references_path: Path, tmp_path: Path
) -> None:
    limit, tokenizer = 24, load_tokenizer(model_folder)
    model, references = load_model(model_folder), load_references(references_path)
    whole, cut = (score.score_frame(model, tokenizer, references, max_length=length) for length in (None, limit))
    write_parquet(tmp_path / "whole.parquet", whole)
    write_parquet(tmp_path / "cut.parquet", cut)
    keys = ["prompt_id", "reference_id", "position"]
    both = whole.merge(cut, on=keys, suffixes=("", "_cut"), validate="one_to_one")
    assert len(both) == len(cut) < len(whole) and (both.token_id == both.token_id_cut).all()
    assert np.abs(both.logprob - both.logprob_cut).max() < 1e-5
    run = {"references": 3, "seed": 0, "training": {"max_length": limit}}
    examples = [
        prepare_examples(run, tokenizer, references_path, None, 64, tmp_path / f"{name}.parquet")
        for name in ("whole", "cut")
    ]
    assert examples[0].tokens == examples[1].tokens == len(cut[cut.reference_id < 3])
    for one, two in zip(*(found.rows for found in examples), strict=True):
        assert one["input_ids"] == two["input_ids"]
        assert one["reference_logprob"] == pytest.approx(two["reference_logprob"], abs=1e-5)
    short = {**run, "training": {"max_length": limit + 1}}
    with pytest.raises(InputError, match=r"cut.parquet: prompt 'p000', reference 0: found \d+ tokens that are not"):
        prepare_examples(short, tokenizer, references_path, None, 64, tmp_path / "cut.parquet")


def test_a_limit_beyond_the_context_is_the_context(model_folder: Path, references: pd.DataFrame) -> None:
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    scores = score.score_frame(model, tokenizer, references.head(1).assign(answer="7 " * 60), max_length=1000)
    assert len(scores) == 64 - encode(tokenizer, references.prompt[0], "7 .").prompt_length
    with pytest.raises(InputError, match="references: prompt 'p000': found .* fewer than 10"):
        score.score_frame(model, tokenizer, references, max_length=10)


def test_attention_and_precision_change_scores_by_rounding_alone(
    model_folder: Path, references_path: Path, tmp_path: Path
) -> None:
    found = {}
    for compute in ("{}", '{"attention": "eager"}', '{"precision": "bfloat16"}'):
        arguments = {"model": model_folder, "references": references_path, "compute": compute}
        arguments["output"] = tmp_path / "out.parquet"
        score.main([part for key, value in arguments.items() for part in (f"--{key}", str(value))])
        found[compute] = read_parquet(arguments["output"]).logprob
    plain, eager, half = found.values()
    assert np.abs(eager - plain).max() < 1e-4
    assert 1e-4 < np.abs(half - plain).mean() < 0.05
    made = read_parquet_metadata(tmp_path / "out.parquet")["provenance"]["settings"]["compute"]
    assert made == parse_compute('{"precision": "bfloat16"}').model_dump()
