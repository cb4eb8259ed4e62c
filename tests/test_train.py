"""The rule train: losses against transformers' own, accumulation, masks, outputs, LoRA, budgets, bad input."""

import json
import math
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import PROMPTS
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from profit import data, score, train
from profit.draws import token_draws
from profit.files import InputError, read_json, read_parquet_metadata, write_parquet
from profit.fuse import fuse_head
from profit.head import TokenLoss
from profit.logits import IGNORED, token_statistics
from profit.objectives import token_terms
from profit.run_trainer import SeededOrder, collate
from profit.steplog import COLUMNS

TIMINGS = ["tokens_per_second"]


@pytest.fixture()
def run_train(tmp_path, model_folder, references_path, annotations_path):
    """Train a run given as changes to a default leaf; returns the folder with model/, steps.parquet, train.json."""

    def run(
        name="run", paired=None, scores=None, model=model_folder, data_file=references_path, labels=annotations_path,
        compute=None, **changes,
    ):  # fmt: skip
        training = {
            "epochs": 2, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 1e-2, "schedule": "cosine",
            "warmup": 0.1, "weight_decay": 0.0, "max_grad_norm": 1.0, "max_length": 64, "neftune": 0.0,
        } | changes.pop("training", {})  # fmt: skip
        leaf = {
            "model": "tiny", "method": "m", "seed": 0, "objective": {"name": "sft", "normaliser": "all"},
            "references": 1, "budget": "epochs", "tuning": {"kind": "full"}, "training": training,
            "keep_epochs": False, "paired_with": None, **changes,
        }  # fmt: skip
        out = tmp_path / name
        arguments = {
            "--run": json.dumps(leaf), "--model": model, "--references": data_file,
            "--scratch": tmp_path / "scratch" / name, "--output-model": out / "model",
            "--output-steps": out / "steps.parquet", "--output-summary": out / "train.json",
        }  # fmt: skip
        optional = {"--annotations": labels, "--paired": paired, "--scores": scores, "--compute": compute}
        arguments |= {option: value for option, value in optional.items() if value}
        train.main([str(part) for pair in arguments.items() for part in pair])
        assert not (tmp_path / "scratch" / name).exists()
        return out

    return run


def steps(folder):
    return pd.read_parquet(folder / "steps.parquet")


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).state_dict()


def first_batch(model_folder, references_path, annotations_path, size=4, seed=0):
    """Encoded examples of the first step, made from the pieces of profit.data."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    chosen = data.choose_references(data.load_references(references_path), 1, seed)
    order = list(SeededOrder(len(chosen), seed))[:size]
    rows = [chosen.iloc[i] for i in order]
    return rows, [data.encode(tokenizer, row.prompt, row.answer) for row in rows]


def test_the_first_step_of_sft_has_the_loss_and_gradient_of_transformers(
    run_train, model_folder, references_path, annotations_path
):
    row = steps(run_train()).iloc[0]
    _, encoded = first_batch(model_folder, references_path, annotations_path)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    length = max(len(e.input_ids) for e in encoded)
    ids, mask, labels = (torch.zeros(4, length, dtype=torch.long) for _ in range(3))
    labels.fill_(-100)
    for i, e in enumerate(encoded):
        ids[i, : len(e.input_ids)], mask[i, : len(e.input_ids)] = torch.tensor(e.input_ids), 1
        labels[i, e.prompt_length : len(e.input_ids)] = torch.tensor(e.input_ids[e.prompt_length :])
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    norm = math.sqrt(sum((p.grad**2).sum().item() for p in model.parameters()))
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5) == row["objective_loss"]
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert row["tokens"] == (labels != -100).sum() == sum(len(e.spans) for e in encoded)
    assert row["clipped"] == (norm > 1)


def test_the_first_step_of_profit_counts_its_tokens_by_label(
    run_train, model_folder, references_path, annotations_path
):
    # A base that knows something, so that probabilities lie on both sides of tau.
    base = run_train("base", training={"epochs": 4}) / "model"
    tau = 0.5
    objective = {"name": "profit", "tau": tau, "direction": "higher", "normaliser": "all"}
    row = steps(run_train("profit", model=base, objective=objective)).iloc[0]
    kept_row = steps(run_train("kept", model=base, objective={**objective, "normaliser": "kept"})).iloc[0]
    rows, encoded = first_batch(model_folder, references_path, annotations_path)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    found = []
    for reference, e in zip(rows, encoded, strict=True):
        with torch.no_grad():
            logprobs = model(torch.tensor([e.input_ids])).logits[0].log_softmax(-1)
        labels = data.token_labels(e.spans, reference.spans)
        for t, label in enumerate(labels, start=e.prompt_length):
            found.append((label, logprobs[t - 1, e.input_ids[t]].item()))
    kept = [(label, value) for label, value in found if math.exp(value) > tau]
    assert 0.1 < len(kept) / len(found) < 0.9
    assert row["kept"] == pytest.approx(len(kept) / len(found)) == row["weight_mean"]
    assert row["loss"] == pytest.approx(-sum(value for _, value in found) / len(found), rel=1e-4)
    assert row["objective_loss"] == pytest.approx(-sum(value for _, value in kept) / len(found), rel=1e-4)
    assert row["near_tau"] == sum(abs(math.exp(value) - tau) <= 0.05 * tau for _, value in found)
    for name in data.LABELS:
        inside = [label == name for label, _ in found]
        assert row[f"kept_{name}"] == pytest.approx(sum(label == name for label, _ in kept) / sum(inside))
    assert kept_row["objective_loss"] == pytest.approx(row["objective_loss"] / row["kept"], rel=1e-5)
    assert kept_row["grad_norm"] == pytest.approx(row["grad_norm"] / row["kept"], rel=1e-4)


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "sft"},
        {"name": "profit", "tau": 0.02},
        {"name": "profit", "tau": 0.02, "normaliser": "kept"},
        {"name": "entropy", "share": 0.3},
        {"name": "random", "share": 0.5},
    ],
)
def test_gradient_accumulation_changes_nothing(run_train, objective):
    whole = run_train("whole", objective=objective)
    split = run_train("split", objective=objective, training={"micro_batch_size": 1})
    for name in ("loss", "objective_loss", "grad_norm", "kept", "tokens", "learning_rate", "step"):
        assert steps(split)[name].tolist() == pytest.approx(steps(whole)[name].tolist(), rel=1e-3), name
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(split)[name], value, atol=2e-3, rtol=0)


def test_methods_of_a_seed_see_the_same_data_in_the_same_order(run_train):
    logs = [
        steps(run_train(name, objective={"name": name}, training={"learning_rate": 1e-9}))
        for name in ("sft", "profit", "dft", "entropy")
    ]
    for log in logs[1:]:
        assert log["tokens"].equals(logs[0]["tokens"])
        assert log["loss"].tolist() == pytest.approx(logs[0]["loss"].tolist(), rel=1e-5)
    other = steps(run_train("other", seed=1, training={"learning_rate": 1e-9}))
    assert other["loss"].tolist() != pytest.approx(logs[0]["loss"].tolist(), rel=1e-5)


def test_entropy_and_random_keep_their_exact_share_of_every_step(run_train):
    entropy = steps(run_train("entropy", objective={"name": "entropy", "share": 0.2}))
    assert (entropy["kept"] * entropy["tokens"]).round(6).tolist() == (0.2 * entropy["tokens"]).round().tolist()
    paired = run_train("paired", objective={"name": "profit", "tau": 0.02})
    random = steps(run_train("random", paired=paired / "steps.parquet", objective={"name": "random"}))
    assert random["kept"].tolist() == pytest.approx(steps(paired)["kept"].tolist())
    assert not random["objective_loss"].equals(steps(paired)["objective_loss"])


def targets(model_folder, references_path):
    """(example, position among its targets, label) of every target token that a run with seed 0 trains on."""
    rows, encoded = first_batch(model_folder, references_path, None, size=PROMPTS)
    order = list(SeededOrder(PROMPTS, 0))
    return [
        (order[i], position, label)
        for i, (row, item) in enumerate(zip(rows, encoded, strict=True))
        for position, label in enumerate(data.token_labels(item.spans, row.spans))
    ]


def test_the_masks_of_the_truth_share_out_the_tokens_by_label(run_train, model_folder, references_path):
    for keep, expected in (("core", (1, 0, 1, 1)), ("replaceable", (0, 1, 0, 0))):
        log = steps(run_train(keep, objective={"name": "truth", "keep": keep}))
        for label, share in zip(data.LABELS, expected, strict=True):
            assert (log[f"kept_{label}"] == share).all(), label
        found = [
            (label == "replaceable") == (keep == "replaceable") for *_, label in targets(model_folder, references_path)
        ]
        assert (log["kept"] * log["tokens"]).sum() == pytest.approx(2 * sum(found)) and 0 < sum(found) < len(found)


def test_the_fixed_mask_is_that_of_the_base_in_every_epoch(run_train, model_folder, references_path, tmp_path):
    base = run_train("base", training={"epochs": 4}) / "model"
    scores = tmp_path / "scores.parquet"
    score.main(["--model", str(base), "--references", str(references_path), "--output", str(scores)])
    settings = {"tau": 0.5, "direction": "higher"}
    fixed = steps(run_train("fixed", model=base, scores=scores, objective={"name": "profit_fixed", **settings}))
    online = steps(run_train("online", model=base, objective={"name": "profit", **settings}))
    # Nothing has been learnt before the second step: the first one's rate is 0.
    assert fixed["kept"].iloc[:2].tolist() == pytest.approx(online["kept"].iloc[:2].tolist())
    assert fixed["near_tau"].iloc[0] == online["near_tau"].iloc[0]
    chosen = data.choose_references(data.load_references(references_path), 1, 0)
    stored = pd.read_parquet(scores).merge(chosen[["prompt_id", "reference_id"]])
    kept = (fixed["kept"] * fixed["tokens"]).round()
    assert kept[:3].sum() == kept[3:].sum() == (stored["logprob"] > math.log(0.5)).sum()
    assert (online["kept"] * online["tokens"])[3:].sum() > kept[3:].sum()


def test_a_random_mask_that_stays_keeps_the_same_tokens_in_every_epoch(run_train, model_folder, references_path):
    objective = {"name": "random", "share": 0.5, "redraw": "never"}
    log = steps(run_train(objective=objective, training={"micro_batch_size": 2}))
    example, position = (
        torch.tensor(values) for values in list(zip(*targets(model_folder, references_path), strict=True))[:2]
    )
    expected = int((token_draws(0, 0, example, position) < 0.5).sum())
    kept = (log["kept"] * log["tokens"]).round()
    assert kept[:3].sum() == kept[3:].sum() == expected and kept[:3].tolist() != kept[3:].tolist()
    paired = run_train("paired", objective={"name": "profit", "tau": 0.02}) / "steps.parquet"
    copy = steps(run_train("copy", paired=paired, objective=objective | {"share": None}))
    assert copy["kept"].tolist() == pytest.approx(pd.read_parquet(paired)["kept"].tolist(), abs=0.15)


def tensors(folder):
    """The weights that a run wrote, of all of its parameters or of its adapter."""
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def distance(one, other):
    return math.sqrt(sum(((one[name] - other[name]).double() ** 2).sum().item() for name in one))


# One step an epoch, so that the model after every step is kept.
EVERY_STEP = {"keep_epochs": True, "training": {"batch_size": 10, "micro_batch_size": 5, "epochs": 3, "warmup": 0.0}}


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_norm_of_each_update_is_that_of_the_change_of_the_weights(run_train, model_folder, tuning):
    changes = EVERY_STEP | ({"tuning": LORA} if tuning == "lora" else {})
    out = run_train(**changes)
    found = [tensors(model_folder)] if tuning == "full" else []
    found += [tensors(out / "model" / f"epoch{epoch}") for epoch in (1, 2, 3)]
    expected = [distance(one, other) for one, other in zip(found, found[1:], strict=False)]
    assert steps(out)["update_norm"].tolist()[-len(expected) :] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_matched_run_has_the_direction_of_its_own_updates_and_the_size_of_others(
    run_train, tmp_path, model_folder, tuning
):
    changes = EVERY_STEP | ({"tuning": LORA} if tuning == "lora" else {})
    wanted = [0.3, 0.02, 0.1]
    pd.DataFrame({"step": [1, 2, 3], "update_norm": wanted}).to_parquet(tmp_path / "paired.parquet")
    plain = run_train("plain", **changes)
    matched = run_train("matched", paired=tmp_path / "paired.parquet", match="update_norm", **changes)
    assert steps(matched)["update_norm"].tolist() == pytest.approx(wanted, rel=1e-5)
    assert steps(matched)["grad_norm"].iloc[0] == steps(plain)["grad_norm"].iloc[0]
    own = steps(plain)["update_norm"].iloc[0]
    assert abs(own / wanted[0] - 1) > 0.1
    if tuning == "full":
        before, after, found = (tensors(at) for at in (model_folder, plain / "model/epoch1", matched / "model/epoch1"))
        for name, value in before.items():
            expected = value + wanted[0] / own * (after[name] - value)
            torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-7)
        first, second = (tensors(matched / "model" / f"epoch{epoch}") for epoch in (1, 2))
        assert distance(first, second) == pytest.approx(wanted[1], rel=1e-4)


def test_a_run_matched_to_itself_is_itself(run_train):
    plain = run_train("plain", training={"micro_batch_size": 2})
    same = run_train("same", paired=plain / "steps.parquet", match="update_norm", training={"micro_batch_size": 2})
    assert steps(same).drop(columns=TIMINGS).equals(steps(plain).drop(columns=TIMINGS))
    assert all(value.equal(weights(plain)[name]) for name, value in weights(same).items())


def test_an_update_of_nothing_has_no_direction(run_train, tmp_path):
    paired = run_train("paired", training={"warmup": 0.0}) / "steps.parquet"
    with pytest.raises(
        InputError, match="step 1: found an update of norm 0, expected one to bring to 1.5.*paired run"
    ):
        run_train(paired=paired, match="update_norm")
    assert not (tmp_path / "run").exists()


def test_updates_of_large_models_are_measured_on_request(run_train, monkeypatch):
    monkeypatch.setattr(train, "MOST_MEASURED", 1000)
    silent, asked = run_train("silent"), run_train("asked", update_norm=True)
    assert steps(silent)["update_norm"].isna().all() and steps(asked)["update_norm"].notna().all()
    with pytest.raises(
        InputError, match="column update_norm: found steps without a number, expected the paired run to"
    ):
        run_train(paired=silent / "steps.parquet", match="update_norm")
    matched = steps(run_train("matched", paired=asked / "steps.parquet", match="update_norm"))
    assert matched["update_norm"].tolist() == pytest.approx(steps(asked)["update_norm"].tolist())


def test_a_run_that_stops_early_is_the_whole_run_so_far(run_train):
    whole = run_train("whole", keep_epochs=True)
    stopped = run_train("stopped", stop=0.5)
    assert steps(stopped).drop(columns=TIMINGS).equals(steps(whole).drop(columns=TIMINGS)[:3])
    at = load_file(whole / "model" / "epoch1" / "model.safetensors")
    assert all(value.equal(at[name]) for name, value in tensors(stopped / "model").items())
    short = run_train("short", stop=0.01)
    summary = read_json(short / "train.json")
    assert summary["steps"] == 1 and len(summary["unseen"]) == PROMPTS - 4 and len(steps(short)) == 1


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_mix_lies_between_the_base_and_the_trained_weights(run_train, model_folder, tuning):
    changes = {"tuning": LORA} if tuning == "lora" else {}
    whole, half = run_train("whole", **changes), run_train("half", mix=0.25, **changes)
    assert steps(half).drop(columns=TIMINGS).equals(steps(whole).drop(columns=TIMINGS))
    made, full = tensors(half / "model"), tensors(whole / "model")
    assert made.keys() == full.keys()

    def effective(folder):
        if tuning == "full":
            return weights(folder)
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), folder / "model")
        return adapted.merge_and_unload().state_dict()

    base = AutoModelForCausalLM.from_pretrained(model_folder).state_dict()
    one, other = effective(whole), effective(half)
    assert distance(one, base) > 0.1
    for name, value in base.items():
        torch.testing.assert_close(other[name], value + 0.25 * (one[name] - value), rtol=0, atol=1e-6)


def test_the_summary_says_how_often_gradients_were_clipped(run_train):
    largest = steps(run_train("free", training={"max_grad_norm": 1e9}))["grad_norm"]
    out = run_train(training={"max_grad_norm": largest.median()})
    clipped = (steps(out)["grad_norm"] > largest.median()).tolist()
    assert 0 < sum(clipped) < len(clipped)
    assert read_json(out / "train.json")["clip_rate"] == sum(clipped) / len(clipped)


def test_the_same_seed_gives_the_same_bits(run_train):
    objective = {"name": "profit", "tau": 0.02}
    one, two = (run_train(name, objective=objective) for name in ("one", "two"))
    assert steps(one).drop(columns=TIMINGS).equals(steps(two).drop(columns=TIMINGS))
    for name, value in weights(one).items():
        assert value.equal(weights(two)[name])


def test_the_outputs_are_an_ordinary_model_a_log_and_a_summary(run_train, model_folder):
    out = run_train(objective={"name": "profit", "tau": 0.02}, keep_epochs=True)
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(model_folder).chat_template
    assert GenerationConfig.from_pretrained(out / "model").eos_token_id == tokenizer.eos_token_id
    before, after = weights(out), AutoModelForCausalLM.from_pretrained(model_folder).state_dict()
    assert any(not value.equal(after[name]) for name, value in before.items())
    final = AutoModelForCausalLM.from_pretrained(out / "model" / "epoch2").state_dict()
    assert all(value.equal(final[name]) for name, value in before.items())
    first = AutoModelForCausalLM.from_pretrained(out / "model" / "epoch1").state_dict()
    assert any(not value.equal(first[name]) for name, value in before.items())
    assert AutoTokenizer.from_pretrained(out / "model" / "epoch1").eos_token == "<end>"
    log, summary = steps(out), read_json(out / "train.json")
    assert tuple(log.columns) == COLUMNS and log["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert log["epoch"].iloc[-1] == 2 and log["learning_rate"].iloc[0] == 0 and log["tokens_per_second"].min() > 0
    assert log["near_tau"].notna().all() and summary["tokens_trained"] == log["tokens"].sum()
    assert (summary["steps"], summary["examples"], summary["truncated"]) == (6, PROMPTS, 0)
    assert summary["provenance"]["tokens"] == {"trained": log["tokens"].sum()}
    assert read_parquet_metadata(out / "steps.parquet")["provenance"]["settings"]["objective"]["tau"] == 0.02


def test_lora_leaves_the_base_alone_and_saves_an_adapter(run_train, model_folder):
    tuning = {"kind": "lora", "rank": 4, "alpha": 8, "target_modules": "all-linear"}
    out = run_train(tuning=tuning, keep_epochs=True)
    assert (out / "model" / "adapter_model.safetensors").exists() and not (out / "model/model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(model_folder).state_dict()
    for folder in (out / "model", out / "model" / "epoch1"):
        state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        adapters = {name: value for name, value in state.items() if "lora_" in name}
        assert not any("lm_head" in name or "embed_tokens" in name for name in adapters)
        assert any(value.abs().sum() > 0 for name, value in adapters.items() if "lora_B" in name)
        for name, value in base.items():
            assert state.get(name, state.get(name.replace(".weight", ".base_layer.weight"))).equal(value)
    assert AutoTokenizer.from_pretrained(out / "model").chat_template
    summary = read_json(out / "train.json")
    assert summary["parameters_trained"] == sum(value.numel() for value in adapters.values())


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_an_adapter_on_the_head_or_the_embeddings_is_refused(run_train, module):
    with pytest.raises(InputError, match=module):
        run_train(tuning={"kind": "lora", "rank": 4, "alpha": 8, "target_modules": ["q_proj", module]})


def test_budgets_of_several_references(run_train):
    epochs = steps(run_train("epochs", references=3))
    same = steps(run_train("steps", references=3, budget="steps"))
    assert len(epochs) == 2 * math.ceil(3 * PROMPTS / 4)
    assert len(same) == 2 * math.ceil(PROMPTS / 4)
    assert same["learning_rate"].iloc[-1] < same["learning_rate"].max() / 4


def test_a_run_shorter_than_an_epoch_names_what_it_never_saw(run_train, model_folder, references_path):
    out = run_train(references=3, budget="steps", training={"epochs": 1})
    summary, tokenizer = read_json(out / "train.json"), AutoTokenizer.from_pretrained(model_folder)
    chosen = data.choose_references(data.load_references(references_path), 3, 0)
    encoded = data.encode_all(tokenizer, chosen["prompt"].tolist(), chosen["answer"].tolist())
    targets = [len(example.spans) for example in encoded]
    unseen = summary["unseen"]
    assert (
        len(unseen)
        == len(chosen) - 4 * summary["steps"]
        > 0
        == len(read_json(run_train("all") / "train.json")["unseen"])
    )
    assert summary["tokens_trained"] == sum(n for number, n in enumerate(targets) if number not in unseen)


def test_an_answer_over_the_limit_is_cut_and_counted(run_train):
    out = run_train(training={"max_length": 25})
    summary = read_json(out / "train.json")
    assert summary["truncated"] == PROMPTS
    assert steps(out)["kept_end"].isna().all()


def test_statistics_match_a_plain_softmax_and_padding_changes_nothing(model_folder):
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    rows = [
        {"input_ids": [3, 9, 8, 4, 11, 12, 1], "prompt_length": 4, "roles": [0, 1, 3], "example": 0},
        {"input_ids": [3, 9, 4, 30, 1], "prompt_length": 3, "roles": [2, 3], "example": 1},
    ]
    batch = collate(rows, pad=0)
    fuse_head(model)
    found = model(
        input_ids=batch["input_ids"],
        token_head=lambda hidden, head: token_statistics(hidden[:, :-1], head, batch["labels"][:, 1:], ["entropy"]),
    )
    expected = []
    for row in rows:
        p = model(torch.tensor([row["input_ids"]])).logits[0].softmax(-1)
        for t in range(row["prompt_length"], len(row["input_ids"])):
            expected.append((p[t - 1, row["input_ids"][t]].log().item(), -(p[t - 1] * p[t - 1].log()).sum().item()))
    found = torch.stack([found["logprob"], found["entropy"]], 1)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_the_order_depends_on_seed_and_epoch_alone():
    order = SeededOrder(50, seed=3)
    epochs = []
    for epoch in range(3):
        order.set_epoch(epoch)
        epochs.append(list(order))
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = SeededOrder(50, seed=3)
    again.set_epoch(2)
    assert list(again) == epochs[2] != list(SeededOrder(50, seed=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"references": 4}, "found 3 that are not held"),
        ({"objective": {"name": "proft"}}, "found 'proft'"),
        ({"objective": {"name": "profit", "tau": 2}}, "tau: found 2"),
        ({"training": {"micro_batch_size": 3}}, "micro_batch_size: found 3"),
        ({"objective": {"name": "psft"}}, "--scores: found nothing, expected the scores of the references"),
        ({"training": {"max_length": 12}}, "prompt 'p000': found .* fewer than 12"),
        ({"objective": {"name": "random"}}, "--paired: found nothing"),
        ({"paired": "no/steps.parquet", "objective": {"name": "random"}}, "no/steps.parquet: not found"),
        ({"paired": "no/steps.parquet"}, "--paired: found no/steps.parquet"),
        ({"match": "grad_norm"}, "match: found 'grad_norm', expected update_norm or null"),
        ({"match": "update_norm"}, "--paired: found nothing, .* with objective sft and match update_norm"),
        ({"paired": "no/steps.parquet", "match": "update_norm"}, "no/steps.parquet: not found"),
        ({"stop": 0}, "stop: found 0, expected a number above 0 and at most 1"),
        ({"mix": 1.5}, "mix: found 1.5, expected a number above 0 and at most 1"),
        ({"mix": 0.5, "keep_epochs": True}, "mix: found 0.5 with keep_epochs, expected 1"),
        ({"objective": {"name": "truth"}, "labels": None}, "--annotations: found nothing, expected the labels of the"),
        ({"objective": {"name": "profit_fixed"}}, "--scores: found nothing, expected the scores of the references"),
        ({"model": "no/model"}, "no/model: found no config.json"),
    ],
)  # fmt: skip
def test_bad_input_stops_before_training(run_train, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run_train(**changes)
    assert not (tmp_path / "run").exists() and not (tmp_path / "scratch").exists()


def test_a_paired_log_of_another_length_is_refused(run_train):
    paired = run_train("paired", training={"epochs": 1})
    with pytest.raises(InputError, match="found 3 steps, expected the 6"):
        run_train(paired=paired / "steps.parquet", objective={"name": "random"})


def test_a_prompt_longer_than_the_context_is_refused(run_train, tmp_path, references_path):
    frame = pd.read_parquet(references_path)
    frame["prompt"] = frame["prompt"] + " Mia" * 60
    write_parquet(tmp_path / "long.parquet", frame)
    with pytest.raises(InputError, match="prompt 'p000': found .* fewer than 64 .*the model's context"):
        run_train(data_file=tmp_path / "long.parquet", training={"max_length": 1000})


def test_truncated_input_is_refused(run_train, tmp_path, references_path):
    (tmp_path / "cut.parquet").write_bytes(references_path.read_bytes()[:-50])
    with pytest.raises(InputError, match="cut.parquet"):
        run_train(data_file=tmp_path / "cut.parquet")


@pytest.mark.parametrize("part", ["chat_template", "eos_token"])
def test_a_model_without_template_or_end_token_is_refused(run_train, tmp_path, model_folder, part):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    setattr(tokenizer, part, None)
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="chat template" if part == "chat_template" else "end token"):
        run_train(model=folder)


def test_a_loss_that_is_no_number_ends_the_run_with_nothing_written(run_train, tmp_path, model_folder):
    folder = tmp_path / "broken"
    shutil.copytree(model_folder, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model.norm.weight.data[0] = math.nan
    model.save_pretrained(folder)
    with pytest.raises(InputError, match=r"step 1: hidden states\[\d+, \d+\]: found NaN"):
        run_train(model=folder)
    assert not (tmp_path / "run").exists()


def test_truncated_weights_are_refused(run_train, tmp_path, model_folder):
    folder = tmp_path / "cut"
    shutil.copytree(model_folder, folder)
    weights_file = folder / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cut: found weights that do not load"):
        run_train(model=folder)


def by_full_logits(hidden, head, targets, objective, *, known, weight, count, reference):
    """token_loss by all logits at once and autograd."""
    rows = targets != IGNORED
    logprobs = (hidden[rows] @ head.weight.T).float().log_softmax(-1)
    logprob = logprobs.gather(1, targets[rows][:, None])[:, 0]
    entropy = -(logprobs.exp() * logprobs).sum(-1).detach()
    tokens = replace(known, logprob=logprob.detach(), entropy=entropy)
    if weight is None:
        weight, _ = token_terms(objective, tokens)
    loss = -weight * logprob
    return TokenLoss(loss.sum() / (count or max(int((weight > 0).sum()), 1)), tokens, weight, loss.detach())


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "sft"},
        {"name": "profit", "tau": 0.02},
        {"name": "profit", "tau": 0.02, "direction": "lower", "normaliser": "kept"},
        {"name": "dft"},
        {"name": "entropy", "share": 0.2},
        {"name": "random", "share": 0.5},
        {"name": "random", "share": 0.5, "redraw": "never"},
        {"name": "truth", "keep": "replaceable", "normaliser": "kept"},
    ],
    ids=str,
)
def test_a_run_on_full_logits_has_the_same_numbers(run_train, monkeypatch, objective):
    fused = run_train("fused", objective=objective)
    monkeypatch.setattr("profit.trainer.token_loss", by_full_logits)
    full = run_train("full", objective=objective)
    found, expected = (steps(folder).drop(columns=[*TIMINGS, "clipped"]) for folder in (fused, full))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4)
    for name, value in weights(full).items():
        torch.testing.assert_close(weights(fused)[name], value, atol=1e-4, rtol=0)


LORA = {"kind": "lora", "rank": 4, "alpha": 8, "target_modules": "all-linear"}
BF16 = '{"precision": "bfloat16"}'
COMPUTE = {
    "eager": ({"attention": "eager"}, 1e-3),
    "checkpointing": ({"gradient_checkpointing": True}, 1e-6),
}


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize(("compute", "tolerance"), COMPUTE.values(), ids=COMPUTE)
def test_how_a_model_is_run_changes_rounding_alone(run_train, compute, tolerance, tuning):
    changes = {"objective": {"name": "entropy", "share": 0.3}, "training": {"micro_batch_size": 2}}
    if tuning == "lora":
        changes["tuning"] = LORA | {"dropout": 0.2}
    plain, other = run_train("plain", **changes), run_train("other", compute=json.dumps(compute), **changes)
    names = ["loss", "objective_loss", "kept", "grad_norm"]
    pd.testing.assert_frame_equal(steps(other)[names], steps(plain)[names], rtol=max(tolerance, 1e-5))
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(other)[name], value, atol=tolerance, rtol=0)
    said = read_json(other / "train.json")["provenance"]["settings"]["compute"]
    assert compute.items() <= said.items() and said["processes"] == 1


def test_bf16_trains_float32_weights(run_train):
    changes = {"objective": {"name": "profit", "tau": 0.02}, "training": {"learning_rate": 1e-3}}
    plain, half = (run_train(str(compute), compute=compute, **changes) for compute in (None, BF16))
    for name in ("loss", "kept"):
        assert steps(half)[name].tolist() == pytest.approx(steps(plain)[name].tolist(), abs=0.02)
    assert steps(half)["loss"].tolist() != steps(plain)["loss"].tolist()
    found = load_file(half / "model" / "model.safetensors")
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert any(not value.equal(value.bfloat16().float()) for value in found.values())


def test_a_bf16_base_stays_as_it_is_under_float32_adapters(run_train, model_folder, monkeypatch):
    trained = []
    gathered = train.gathered_weights
    monkeypatch.setattr(train, "gathered_weights", lambda trainer: trained.append(trainer.model) or gathered(trainer))
    changes = {"tuning": LORA, "objective": {"name": "profit", "tau": 0.02}, "training": {"learning_rate": 1e-3}}
    plain, half = (run_train(str(compute), compute=compute, **changes) for compute in (None, BF16))
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16).state_dict()
    kinds = {"adapter": set(), "base": set()}
    for name, value in trained[1].named_parameters():
        kinds["adapter" if "lora_" in name else "base"].add((value.dtype, value.requires_grad))
        if "lora_" not in name:
            plain_name = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert value.equal(base[plain_name]), name
    assert kinds == {"adapter": {(torch.float32, True)}, "base": {(torch.bfloat16, False)}}
    assert steps(half)["loss"].tolist() == pytest.approx(steps(plain)["loss"].tolist(), abs=0.02)
    tensors = load_file(half / "model" / "adapter_model.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.float32}


def test_flash_attention_is_switched_on_after_the_head_is_fused(run_train, monkeypatch):
    seen = []

    def switch(model, name):
        seen.append((name, model._head_is_fused, model.config._attn_implementation))

    monkeypatch.setattr(PreTrainedModel, "set_attn_implementation", switch)
    run_train(compute='{"attention": "flash_attention_2", "precision": "bfloat16"}', training={"epochs": 1})
    assert seen == [("flash_attention_2", True, "sdpa")]


def test_without_annotations_nothing_is_counted_by_label(run_train):
    labelled, plain = run_train("labelled"), run_train("plain", labels=None)
    counted = [f"kept_{label}" for label in data.LABELS]
    assert steps(plain)[counted].isna().all(axis=None) and steps(labelled)["kept_core"].notna().all()
    left = [*TIMINGS, *counted]
    pd.testing.assert_frame_equal(steps(plain).drop(columns=left), steps(labelled).drop(columns=left))
    for name, value in weights(labelled).items():
        assert value.equal(weights(plain)[name])


def test_a_wrong_block_of_compute_stops_before_training(run_train, tmp_path):
    with pytest.raises(InputError, match="--compute.precision: found 'bf16', expected one of float32, bfloat16"):
        run_train(compute='{"precision": "bf16"}')
    assert not (tmp_path / "run").exists() and not (tmp_path / "scratch").exists()
