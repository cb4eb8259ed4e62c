"""Theorem 1 and gradient shares against Jacobians, finite differences and single gradients; invariants; bad input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from profit import gradients, jacobian
from profit.correlate import BIN_EDGES
from profit.data import Encoded, choose_references, load_references
from profit.files import InputError, read_json, read_parquet, read_parquet_metadata
from profit.models import load_model

SIZE = 29
SHAPE = {
    "vocab_size": SIZE, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "initializer_range": 0.4,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
GPT2 = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": SIZE, "initializer_range": 0.4}
FAMILIES = {
    "own head": (LlamaForCausalLM, LlamaConfig, SHAPE),
    "tied": (LlamaForCausalLM, LlamaConfig, SHAPE | {"tie_word_embeddings": True}),
    "bias": (PhiForCausalLM, PhiConfig, SHAPE),
    "scale": (GraniteForCausalLM, GraniteConfig, SHAPE | {"logits_scaling": 3.0}),
    "tied gpt2": (GPT2LMHeadModel, GPT2Config, GPT2 | {"bos_token_id": None, "eos_token_id": None}),
}
# A word of the target's context occurs in it twice.
ANSWER = Encoded([4, 7, 1, 7, 12, 20, 3, 9], 3, [(i, i + 1) for i in range(5)])
POSITION = 3


def make(family: str) -> torch.nn.Module:
    """A tiny random model, float64."""
    torch.manual_seed(0)
    kind, config, shape = FAMILIES[family]
    model = kind(config(**shape)).double().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return jacobian.prepare(model, family)


def own_logits(model: torch.nn.Module, answer: Encoded = ANSWER, position: int = POSITION) -> torch.Tensor:
    """Logits (V,) before the target, from the model's own forward."""
    place = answer.prompt_length + position
    return model(torch.tensor([answer.input_ids])).logits[0, place - 1].double()


def own_loss(model: torch.nn.Module, answer: Encoded = ANSWER, position: int = POSITION) -> torch.Tensor:
    return -own_logits(model, answer, position).log_softmax(-1)[answer.input_ids[answer.prompt_length + position]]


def flat(model: torch.nn.Module, value: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def own_singular_values(model: torch.nn.Module) -> torch.Tensor:
    """All singular values of the Jacobian, from its V rows."""
    return torch.linalg.svdvals(torch.stack([flat(model, logit) for logit in own_logits(model)]))


@pytest.mark.parametrize("family", FAMILIES)
def test_singular_values_are_those_of_the_jacobian_written_out(family: str) -> None:
    model = make(family)
    expected = own_singular_values(model)
    found = jacobian.singular_values(model, ANSWER, POSITION)
    assert found["sigma_min"] == pytest.approx(expected[-1].item(), rel=1e-4)
    assert found["sigma_max"] == pytest.approx(expected[0].item(), rel=1e-5)
    factor = jacobian.token_norms(model, ANSWER, POSITION)["head_factor"]
    if jacobian.is_tied(model):
        assert found["sigma_min"] < 0.999 * factor  # the bound by the head alone would be too large
    else:
        assert found["sigma_min"] == pytest.approx(factor, rel=1e-6)


def test_which_families_are_tied() -> None:
    assert [family for family in FAMILIES if jacobian.is_tied(make(family))] == ["tied", "tied gpt2"]


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_those_of_the_models_own_loss(family: str) -> None:
    model = make(family)
    found = jacobian.token_norms(model, ANSWER, POSITION)
    gradient = flat(model, own_loss(model))
    assert found["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-6)
    p = own_logits(model).softmax(-1).detach()
    target = ANSWER.input_ids[ANSWER.prompt_length + POSITION]
    assert found["bound"] == pytest.approx(found["head_factor"] * (1 - p[target].item()), rel=1e-6)
    p[target] -= 1
    assert found["logit_gradient_norm"] == pytest.approx(p.norm().item(), rel=1e-6)


def test_a_norm_is_the_slope_along_its_gradient() -> None:
    """Finite differences; GPT-2 alone computes in float64 throughout."""
    model = make("tied gpt2")
    expected = jacobian.token_norms(model, ANSWER, POSITION)["gradient_norm"]
    unit = flat(model, own_loss(model))
    unit /= unit.norm()
    losses = []
    with torch.no_grad():
        start = torch.nn.utils.parameters_to_vector(model.parameters())
        for step in (1e-5, -1e-5):
            torch.nn.utils.vector_to_parameters(start + step * unit, model.parameters())
            losses.append(own_loss(model).item())
    assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_norm_lies_between_its_bounds(family: str) -> None:
    model = make(family)
    for position in range(len(ANSWER.spans)):
        norms = jacobian.token_norms(model, ANSWER, position)
        sigma = jacobian.singular_values(model, ANSWER, position)
        rest = norms["bound"] / norms["head_factor"]
        assert rest <= norms["logit_gradient_norm"] <= np.sqrt(2) * rest
        assert (
            sigma["sigma_min"] * rest * (1 - 1e-5) <= norms["gradient_norm"] <= np.sqrt(2) * sigma["sigma_max"] * rest
        )
        assert sigma["sigma_min"] > 0


def test_a_sure_token_keeps_its_distance_from_one() -> None:
    model = make("own head").float()
    target = ANSWER.input_ids[ANSWER.prompt_length + POSITION]
    with torch.no_grad():
        state = jacobian.token_losses(model, [jacobian.up_to(ANSWER, POSITION)])[1][-1]
        model.lm_head.weight[target] = 22 * state / state.square().sum()
    found = jacobian.token_norms(model, ANSWER, POSITION)
    rest = found["bound"] / found["head_factor"]
    assert 0 < rest < 1e-7  # below what float32 can tell from 1
    others = own_logits(model).detach() - own_logits(model).detach()[target]
    others[target] = -torch.inf
    assert rest == pytest.approx(others.exp().sum().item(), rel=1e-4)
    assert found["gradient_norm"] >= found["bound"] > 0


@pytest.fixture(scope="module")
def sample(model_folder: Path, references_path: Path, annotations_path: Path):
    """Model in float64, answers, one row a token with probabilities spread over the bins, settings."""
    from profit.correlate import label_tokens
    from profit.data import encode_all
    from profit.models import load_tokenizer
    from profit.score import score_frame

    model, tokenizer = jacobian.prepare(load_model(model_folder), "tiny").double(), load_tokenizer(model_folder)
    settings = gradients.Settings(prompts=4, tokens=10, exact=2, bootstrap=100)
    frame = gradients.draw_prompts(load_references(references_path), settings)
    tokens = score_frame(model, tokenizer, frame)
    tokens["label"] = label_tokens(tokens, read_parquet(annotations_path))
    # The tiny model finds nothing likely; which token belongs to which bin is all that shares need to know.
    tokens["probability"] = np.random.default_rng(0).uniform(size=len(tokens))
    return model, encode_all(tokenizer, frame.prompt.tolist(), frame.answer.tolist()), tokens, settings


def single_gradients(model: torch.nn.Module, answers: list[Encoded]) -> torch.Tensor:
    """Gradient of each target token from the model's own forward, shape (tokens, parameters)."""
    return torch.stack(
        [flat(model, own_loss(model, answer, place)) for answer in answers for place in range(len(answer.spans))]
    )


def test_inner_products_are_those_of_single_gradients(sample) -> None:
    model, answers, tokens, _ = sample
    single = single_gradients(model, answers)
    every = np.ones(len(tokens), dtype=bool)
    total = gradients.group_gradient(model, answers, every)
    assert torch.cat([part.flatten() for part in total]).numpy() == pytest.approx(single.sum(0).numpy(), abs=1e-5)
    expected = (single @ single.sum(0)).numpy()
    for batch_tokens in (1, 60, 4096):
        found = gradients.inner_products(model, answers, total, batch_tokens)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5 * np.abs(expected).max())


def test_shares_are_their_definition_and_sum_to_one(sample) -> None:
    model, answers, tokens, settings = sample
    share, rows = gradients.shares(model, answers, tokens, settings)
    single = single_gradients(model, answers)
    total, frame = single.sum(0), pd.DataFrame(rows)
    for row in frame.itertuples():
        chosen = (tokens.probability >= row.low) & ((tokens.probability < row.high) | (row.high == 1))
        chosen &= (tokens.label == row.label) | (row.label == "all")
        own = single[torch.from_numpy(chosen.to_numpy(copy=True))].sum(0)
        assert row.tokens == chosen.sum() and row.token_share == pytest.approx(chosen.mean())
        assert row.share == pytest.approx(float(own @ total / (total @ total)), abs=1e-5)
        assert row.norm == pytest.approx(own.norm().item() / len(tokens), rel=1e-5)
        if row.tokens:
            assert row.cosine == pytest.approx(float(own @ total / own.norm() / total.norm()), abs=1e-5)
            assert row.ratio == pytest.approx(row.share / row.token_share)
            assert row.ratio_low <= row.ratio_high
        else:
            assert np.isnan(row.cosine) and np.isnan(row.ratio) and row.share == row.share_high == 0
    assert share.sum() == pytest.approx(1, abs=1e-5)
    whole = frame[(frame.low == 0) & (frame.high == 1)].set_index("label")
    bins = frame[(frame.low > 0) | (frame.high < 1)]
    assert len(bins) == 5 * (len(BIN_EDGES) - 1)
    for label, own in bins.groupby("label"):
        assert own.share.sum() == pytest.approx(whole.share[label], abs=1e-9)
    for _, own in bins.groupby("low"):
        by_label = own.set_index("label").share
        assert by_label.drop("all").sum() == pytest.approx(by_label["all"], abs=1e-9)
    assert whole.loc["all", ["share", "cosine", "share_low", "share_high"]].tolist() == pytest.approx(
        [1] * 4, abs=1e-5
    )
    core = whole.loc["core"]
    assert core.share_low < core.share < core.share_high


def test_intervals_come_from_whole_prompts() -> None:
    """Two prompts of equal shares and tokens, one all chosen: a resample gives 0, 1/2 or 1."""
    chosen = np.array([True, True, False, False])
    weights = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    found = gradients.share_of(chosen, np.full(4, 0.25), np.array([0, 0, 1, 1]), weights)
    assert (found["share"], found["token_share"], found["ratio"]) == (0.5, 0.5, 1.0)
    assert (found["share_low"], found["share_high"]) == pytest.approx((0.025, 0.975))
    assert (found["ratio_low"], found["ratio_high"]) == (1.0, 1.0)


def test_norms_are_of_tokens_of_the_sample(sample) -> None:
    model, answers, tokens, settings = sample
    found = gradients.norms(model, answers, tokens, settings)
    assert len(set(found.index)) == 10 and found.sigma_min.notna().tolist() == [True] * 2 + [False] * 8
    single = single_gradients(model, answers).norm(dim=1).numpy()
    assert found.gradient_norm.to_numpy() == pytest.approx(single[found.index], rel=1e-5)
    rest = -np.expm1(tokens.logprob.to_numpy(np.float64)[found.index])
    assert (found.bound / found.head_factor).to_numpy() == pytest.approx(rest, rel=1e-4)


@pytest.mark.parametrize(
    ("tied", "norm", "expected"),
    [(True, 1.5, [True, True]), (True, 0.7, [True, None]), (True, 0.4, [False, None]), (False, 0.7, [False, False])],
)
def test_what_decides_whether_a_bound_holds(
    sample, monkeypatch: pytest.MonkeyPatch, tied: bool, norm: float, expected: list[bool | None]
) -> None:
    """Two tokens with 1 - p 0.1 and 0.2, head factor 10, sigma_min 5 and known of the first."""
    model, answers, tokens, _ = sample
    rows = iter([(norm, 0.12, 10.0, 1.0), (2 * norm, 0.24, 10.0, 2.0)])
    monkeypatch.setattr(gradients, "token_norms", lambda *_: dict(zip(gradients.NORMS, next(rows), strict=False)))
    monkeypatch.setattr(gradients, "singular_values", lambda *_: {"sigma_min": 5.0, "sigma_max": 20.0})
    monkeypatch.setattr(gradients, "is_tied", lambda _: tied)
    found = gradients.norms(model, answers, tokens, gradients.Settings(tokens=2, exact=1))
    assert [None if pd.isna(value) else bool(value) for value in found.holds] == expected
    summary = gradients.summarise_norms(found, tokens.assign(share=tokens.probability), tied)
    assert (summary["violations"], summary["undecided"]) == (expected.count(False), expected.count(None))
    assert summary["looseness"]["median"] == pytest.approx(norm)
    assert summary["exact"]["looseness"] == pytest.approx([2 * norm])
    assert summary["rank_correlation"]["share_of_all_tokens"] == pytest.approx(-1)


def call(folder: Path, model: Path, references: Path, annotations: Path | None, **settings: object) -> Path:
    arguments = ["--model", str(model), "--references", str(references), "--settings", json.dumps(settings)]
    arguments += [] if annotations is None else ["--annotations", str(annotations)]
    gradients.main([*arguments, "--output", str(folder / "out.json"), "--tokens-output", str(folder / "t.parquet")])
    return folder


SMALL = {"prompts": 5, "tokens": 6, "exact": 1, "bootstrap": 50}


def test_command_writes_summary_and_tokens(
    model_folder: Path, references_path: Path, annotations_path: Path, tmp_path: Path
) -> None:
    call(tmp_path, model_folder, references_path, annotations_path, **SMALL)
    summary, tokens = read_json(tmp_path / "out.json"), read_parquet(tmp_path / "t.parquet")
    assert list(tokens) == [
        "prompt_id", "reference_id", "position", "token_id", "token", "probability", "label", "share",
        "gradient_norm", "logit_gradient_norm", "head_factor", "bound", "sigma_min", "sigma_max", "holds",
    ]  # fmt: skip
    assert (
        summary["sample"]["tokens"] == len(tokens) and summary["sample"]["prompts"] == tokens.prompt_id.nunique() == 5
    )
    assert summary["theorem"]["tokens"] == tokens.holds.notna().sum() == 6 and summary["theorem"]["violations"] == 0
    assert summary["theorem"]["tied"] and summary["theorem"]["exact"]["tokens"] == 1
    assert len(summary["groups"]) == 5 * 7 and tokens.share.sum() == pytest.approx(1, abs=1e-4)
    assert read_parquet_metadata(tmp_path / "t.parquet")["provenance"]["settings"]["seed"] == 0
    chosen = choose_references(load_references(references_path), 1, 0).set_index("prompt_id").reference_id
    found = tokens.groupby("prompt_id").reference_id.unique().explode()
    assert found.astype(int).equals(chosen[found.index].astype(int).rename("reference_id"))


def test_without_annotations_there_are_no_labels(model_folder: Path, references_path: Path, tmp_path: Path) -> None:
    call(tmp_path, model_folder, references_path, None, **SMALL)
    assert {row["label"] for row in read_json(tmp_path / "out.json")["groups"]} == {"all"}
    assert read_parquet(tmp_path / "t.parquet").label.isna().all()


def test_an_adapter_counts_as_its_merged_model(model_folder: Path) -> None:
    torch.manual_seed(0)
    adapted = get_peft_model(load_model(model_folder), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    expected = own_loss(adapted).item()
    model = jacobian.prepare(adapted, "tiny")
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {name for name, _ in load_model(model_folder).named_parameters()}
    assert jacobian.token_losses(model, [ANSWER])[0][POSITION].item() == pytest.approx(expected, abs=1e-5)


def test_a_frozen_head_breaks_the_premise() -> None:
    """Without the head's own gradient the Jacobian has rank d at most, and no gamma above 0 exists."""
    model = make("own head")
    body = [parameter for parameter in model.parameters() if parameter is not model.lm_head.weight]
    rows = [torch.autograd.grad(logit, body, retain_graph=True) for logit in own_logits(model)]
    values = torch.linalg.svdvals(torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]))
    assert (values > 1e-6 * values[0]).sum() <= SHAPE["hidden_size"] < SIZE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": 3}, "--settings: found 'prompt', expected one of prompts, "),
        ({"tokens": 1}, "--settings.tokens: found 1"),
        ({"prompts": 4.5}, "--settings.prompts: found 4.5"),
        ({"prompts": 11}, "--settings prompts: found 11, expected at most the 10 there are"),
        ({"prompts": 1, "tokens": 60}, "--settings tokens: found 60, expected at most the 1"),
    ],
)
def test_wrong_settings_are_named(
    model_folder: Path, references_path: Path, tmp_path: Path, settings: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(tmp_path, model_folder, references_path, None, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "[]"])
def test_settings_that_are_no_object_are_an_error(text: str) -> None:
    with pytest.raises(InputError, match="--settings"):
        gradients.read_settings(text)


def test_a_model_that_the_derivation_does_not_cover_is_refused() -> None:
    capped = Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=4, final_logit_softcapping=3.0))
    with pytest.raises(InputError, match="gemma: found a soft cap of 3.0"):
        jacobian.prepare(capped, "gemma")
    narrow = LlamaForCausalLM(LlamaConfig(**SHAPE | {"vocab_size": 8}))
    with pytest.raises(InputError, match="narrow: found 8 tokens and width 8"):
        jacobian.prepare(narrow, "narrow")
