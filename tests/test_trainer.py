"""ProFitTrainer and the mixin in TRL's SFTTrainer as people use them: collators, evaluation, noise, resume, errors."""

import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from steps_of_training import collate, examples, tiny_model
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

from profit import ObjectiveMixin, ProFitTrainer, fuse_head, token_loss
from profit.objectives import OBJECTIVES
from profit.step import Targets

PROFIT = {"name": "profit", "tau": 0.015}
WHOLE_STEP = {"name": "entropy", "share": 0.4}
LORA = LoraConfig(task_type="CAUSAL_LM", r=2, lora_dropout=0.3, target_modules=["q_proj", "up_proj"])


SETTINGS = {
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 3, "learning_rate": 0.01,
    "logging_steps": 1, "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
}  # fmt: skip


def arguments(folder, **options):
    return TrainingArguments(output_dir=str(folder), **SETTINGS | options)


class Logged:
    """Takes the examples in their order, and keeps what is logged."""

    logged = ()

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)

    def log(self, logs, *args):
        super().log(logs, *args)
        self.logged = [*self.logged, dict(logs)]

    def column(self, name):
        return [row[name] for row in self.logged if name in row]


class Plain(Logged, Trainer):
    pass


class Ours(Logged, ProFitTrainer):
    pass


def parameters(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def adapted(model):
    torch.manual_seed(1)
    model = get_peft_model(model, LORA)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.to(next(model.parameters()).dtype)


def lists(columns=("input_ids", "labels")):
    return [{key: row[key].tolist() for key in columns} for row in examples()]


def ours(folder, objective, model=None, kind=Ours, data_collator=collate, **options):
    options = {"remove_unused_columns": False} | options
    return kind(
        model=model or tiny_model(), args=arguments(folder, **options), train_dataset=examples(),
        eval_dataset=examples(10), data_collator=data_collator, objective=objective,
    )  # fmt: skip


@pytest.mark.parametrize("collator", ["language modelling", "labels"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_sft_is_what_the_trainer_does(collator, tuning, model_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model_folder, padding_side="right")
    found = []
    for kind, more in ((Plain, {}), (Ours, {"objective": {"name": "sft"}})):
        # Every row has something else in a column that no model takes.
        rows = [{**row, "source": "of no use"} for row in lists()]
        if collator == "labels":
            chosen = DataCollatorForSeq2Seq(tokenizer)
        else:
            chosen = DataCollatorForLanguageModeling(tokenizer, mlm=False)
            rows = [{key: value for key, value in row.items() if key != "labels"} for row in rows]
        model = tiny_model().float()
        trainer = kind(
            model=adapted(model) if tuning == "lora" else model, args=arguments(tmp_path),
            train_dataset=Dataset.from_list(rows), data_collator=chosen, **more,
        )  # fmt: skip
        trainer.train()
        found.append((trainer.column("loss"), trainer.column("grad_norm"), parameters(trainer)))
    assert len(found[0][0]) == 3
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-4)
    assert (found[1][2] - found[0][2]).norm() < 1e-4 * found[0][2].norm()


def by_hand(model, objective, rows):
    """Mean of the objective over all target tokens of `rows`, read as one batch."""
    batch = collate(rows)
    targets = Targets.of(batch)

    def head(hidden, lm_head):
        return token_loss(hidden[:, :-1], lm_head, targets.targets, objective)

    with torch.no_grad():
        return model.eval()(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, token_head=head
        )


@pytest.mark.parametrize("objective", [{"name": "sft"}, PROFIT, PROFIT | {"normaliser": "kept"}, {"name": "gem"}])
def test_evaluation_is_the_mean_over_all_target_tokens(objective, tmp_path):
    for size in (1, 4, 10):
        # With batches of one, a batch without a target token is among them.
        trainer = ours(tmp_path, objective, per_device_eval_batch_size=size)
        found = trainer.evaluate()["eval_loss"]
        assert found == pytest.approx(by_hand(trainer.model, objective, examples(10)).loss.item())


@pytest.mark.parametrize("objective", [WHOLE_STEP, WHOLE_STEP | {"normaliser": "kept"}])
def test_evaluation_compares_the_tokens_of_a_batch(objective, tmp_path):
    trainer = ours(tmp_path, objective, per_device_eval_batch_size=5)
    found = trainer.evaluate()["eval_loss"]
    parts = [by_hand(trainer.model, objective, examples(10)[start : start + 5]) for start in (0, 5)]
    total, kept = (
        sum(values) for values in zip(*((p.token_loss.sum(), (p.weight > 0).sum()) for p in parts), strict=True)
    )
    count = kept if "normaliser" in objective else sum(len(part.weight) for part in parts)
    assert 0 < kept < sum(len(part.weight) for part in parts)
    assert found == pytest.approx(float(total / count))


def test_training_logs_what_the_objective_does(tmp_path):
    trainer = ours(tmp_path, PROFIT, eval_strategy="steps", eval_steps=2)
    model = copy.deepcopy(trainer.model)
    trainer.train()
    rows = [row for row in trainer.logged if "grad_norm" in row]
    assert len(rows) == 3 and len(trainer.column("eval_loss")) == 2
    for row in rows:
        assert 0 <= row["kept"] < 1 and row["weight_mean"] == row["kept"] and 0 <= row["near_tau"] <= 1
        assert row["loss"] < row["cross_entropy"]
    out = by_hand(model, PROFIT, examples(4))
    assert rows[0]["loss"] == pytest.approx(out.loss.item(), rel=1e-4)
    assert rows[0]["cross_entropy"] == pytest.approx(-out.tokens.logprob.mean().item())
    assert rows[0]["kept"] == pytest.approx(out.weight.mean().item())
    near = (out.tokens.logprob.exp() / 0.015 - 1).abs() <= 0.05
    assert rows[0]["near_tau"] == pytest.approx(near.double().mean().item())
    assert "near_tau" not in ours(tmp_path, {"name": "sft"}).logged


class TwoPasses(Ours):
    """Keeps the log-probabilities that the selection sees, and those that training sees."""

    def __init__(self, **options):
        super().__init__(**options)
        self.selected, self.trained = [], []

    def _statistics(self, *args):
        found = super()._statistics(*args)
        self.selected.append(found["logprob"])
        return found

    def measure(self, inputs, out):
        self.trained.append(out.tokens.logprob)
        return super().measure(inputs, out)


@pytest.mark.parametrize("noise", ["neftune", "dropout"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_selection_and_training_see_the_same_noise(noise, checkpointing, tmp_path):
    def run(**options):
        model = adapted(tiny_model()) if noise == "dropout" else tiny_model()
        options |= {"gradient_checkpointing": checkpointing}
        if checkpointing:
            options["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
        trainer = ours(tmp_path, WHOLE_STEP, model=model, kind=TwoPasses, **options)
        trainer.train()
        return trainer

    trainer = run(neftune_noise_alpha=5.0 if noise == "neftune" else None)
    assert len(trainer.selected) == len(trainer.trained) == 6
    torch.testing.assert_close(trainer.selected, trainer.trained, rtol=1e-12, atol=1e-12)
    model = adapted(tiny_model()) if noise == "dropout" else tiny_model()
    fuse_head(model)
    quiet = by_hand(model, {"name": "sft"}, examples(2))
    assert (quiet.tokens.logprob - trainer.trained[0]).abs().max() > 0.01
    assert trainer.column("loss")[0] != run(seed=7).column("loss")[0]


@pytest.mark.parametrize("objective", [PROFIT, {"name": "random", "share": 0.5}, WHOLE_STEP], ids=lambda o: o["name"])
def test_a_resumed_training_ends_with_the_same_parameters(objective, tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "seed": 3}
    found = []
    for checkpoint in (None, str(tmp_path / "checkpoint-2")):
        trainer = Ours(
            model=adapted(tiny_model().float()), train_dataset=examples(), data_collator=collate, objective=objective,
            args=arguments(tmp_path, **options, remove_unused_columns=False),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=checkpoint)
        found.append((parameters(trainer), trainer.column("loss")))
    assert found[0][0].equal(found[1][0]) and found[1][1] == found[0][1][2:]


@pytest.mark.parametrize("name", ["asft", "gift"])
def test_the_model_without_its_adapter_is_the_reference(name, tmp_path):
    found = []
    for reference in (None, tiny_model()):
        trainer = Ours(
            model=adapted(tiny_model()), args=arguments(tmp_path, remove_unused_columns=False), data_collator=collate,
            train_dataset=examples(), objective={"name": name}, reference_model=reference,
        )  # fmt: skip
        trainer.train()
        found.append((parameters(trainer), trainer.column("loss")))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=1e-12)
    assert found[0][1] == found[1][1] and len(found[0][1]) == 3


def test_columns_that_an_objective_needs_are_kept(tmp_path):
    rows = lists(("input_ids", "labels", "reference_logprob", "roles"))
    reads = dict.fromkeys(("iw_sft", "psft", "profit_fixed"), "reference_logprob") | {"truth": "roles"}
    seen = {name: [] for name in reads}

    def collator(batch):
        seen[name].append(set(batch[0]))
        return collate([{key: torch.tensor(value) for key, value in row.items()} for row in batch])

    for name in reads:
        trainer = Ours(
            model=tiny_model(), args=arguments(tmp_path), train_dataset=Dataset.from_list(rows),
            data_collator=collator, objective={"name": name},
        )  # fmt: skip
        trainer.train()
        assert seen[name] and all(columns == {"input_ids", "labels", reads[name]} for columns in seen[name])


def test_sixteen_bit_training_and_what_follows(tmp_path):
    options = {"bf16": True, "max_steps": 2}
    trainer = ours(tmp_path, WHOLE_STEP, model=tiny_model().float(), **options)
    before, single = parameters(trainer), ours(tmp_path, WHOLE_STEP, model=tiny_model().float(), max_steps=2)
    trainer.train()
    single.train()
    assert trainer.column("loss")[0] == pytest.approx(single.column("loss")[0], rel=0.1)
    assert not parameters(trainer).equal(before) and parameters(trainer).dtype == torch.float32
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.save_model(tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.cat([parameter.detach().flatten() for parameter in saved.parameters()]).equal(parameters(trainer))


def test_padding_and_packing_agree():
    rows = [examples()[i] for i in (0, 1, 2, 5, 6)]
    packed = {key: torch.cat([row[key] for row in rows])[None] for key in ("input_ids", "labels")}
    packed["position_ids"] = torch.cat([torch.arange(len(row["input_ids"])) for row in rows])[None]
    batches = {"right": collate(rows), "left": collate(rows, left=True), "packed": packed}
    # The first token is a label here too, and only its place says that nothing stands before it.
    everything = [row | {"labels": row["input_ids"]} for row in rows]
    batches |= {f"{side}, all": collate(everything, left=side == "left") for side in ("right", "left")}
    batches["packed, all"] = packed | {"labels": packed["input_ids"]}
    found = {}
    for name, batch in batches.items():
        model = tiny_model()
        fuse_head(model)
        targets = Targets.of(batch)
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids") if key in batch}
        out = model(
            **inputs, use_cache=False,
            token_head=lambda hidden, head: token_loss(hidden[:, :-1], head, targets.targets, PROFIT),  # noqa: B023
        )  # fmt: skip
        out.loss.backward()
        found[name] = (out.weight, targets.sequence, targets.position, [p.grad for p in model.parameters()])
    # Rotary positions are fp32, and a left pad moves them.
    for name in ("left", "packed", "left, all", "packed, all"):
        right = "right, all" if "all" in name else "right"
        torch.testing.assert_close(found[name], found[right], rtol=1e-4, atol=1e-6)
    assert len(found["right, all"][0]) == sum(len(row["input_ids"]) - 1 for row in rows)
    assert 0 < found["right"][0].sum() < len(found["right"][0])


def trained(folder, objective, rows=None, **options):
    model = options.pop("model", None) or tiny_model()
    more = {name: options.pop(name) for name in ("compute_metrics", "compute_loss_func") if name in options}
    n_gpu = options.pop("n_gpu", None)
    given = arguments(folder, remove_unused_columns=False, **options)
    if n_gpu:
        given._n_gpu = n_gpu
    return ProFitTrainer(
        model=model, args=given, train_dataset=rows or examples(), data_collator=collate, objective=objective, **more
    ).train()


def without(column):
    return lambda rows: {key: value for key, value in collate(rows).items() if key != column}


def unlabelled(rows):
    batch = collate(rows)
    return batch | {"roles": torch.full_like(batch["roles"], -100)}


def routed():
    model = tiny_model()
    model.config.output_router_logits = True
    return model


SFT = {"name": "sft"}
ERRORS = {
    "no reference model": ({"name": "asft"}, {}, "objective asft: found no reference_model, expected the frozen base"),
    "no share": ({"name": "random"}, {}, "objective random: share: found nothing, expected the share to keep"),
    "unknown": ({"name": "magic"}, {}, "objective: found 'magic', expected one of sft, profit"),
    "tau": ({"name": "profit", "tau": 2}, {}, "objective profit: tau: found 2, expected a number from 0 to 1"),
    "nothing to learn": (
        SFT,
        {"rows": [row | {"labels": torch.full_like(row["labels"], -100)} for row in examples()]},
        "step 1: found no target token, every label is -100, expected some",
    ),
    "label smoothing": (SFT, {"label_smoothing_factor": 0.1}, "label_smoothing_factor: found 0.1, expected 0 "),
    "another loss": (SFT, {"compute_loss_func": print}, "compute_loss_func: found .*, expected none: the objective"),
    "metrics": (SFT, {"compute_metrics": print}, "compute_metrics: found .*, expected none: there are no logits"),
    "router": (SFT, {"model": routed()}, "output_router_logits: found True, expected False"),
    "data parallel": (SFT, {"n_gpu": 2}, "GPUs in one process: found 2, expected one"),
}


@pytest.mark.parametrize(("objective", "options", "message"), ERRORS.values(), ids=ERRORS)
def test_what_is_wrong_is_said(objective, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, objective, **options)


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("iw_sft", "reference_logprob", r"objective iw_sft: found a batch with the columns \['attention_mask',"),
        ("truth", "roles", "also roles: the place of each label's role in core, replaceable, fixed, end, from 0"),
        ("sft", "labels", r"labels: found a batch with the columns \['attention_mask', .*, expected also labels"),
    ],
)
def test_a_missing_column_is_named(name, column, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ours(tmp_path, {"name": name}, data_collator=without(column)).train()


def test_draws_that_are_to_stay_need_the_names_of_their_examples(tmp_path):
    objective = {"name": "random", "share": 0.5, "redraw": "never"}
    with pytest.raises(ValueError, match="expected also example: a number of its own for each example, by which"):
        ours(tmp_path, objective).train()


def test_a_label_without_a_role_is_said(tmp_path):
    with pytest.raises(ValueError, match="roles: found -100 at a label, expected 0 to 3"):
        ours(tmp_path, {"name": "truth"}, data_collator=unlabelled).train()


def test_an_evaluation_without_targets_is_said(tmp_path):
    trainer = ours(tmp_path, SFT)
    with pytest.raises(ValueError, match="evaluation: found no target token"):
        trainer.evaluate([examples()[5]])


# TRL


@pytest.fixture(scope="module")
def sft():
    trl = pytest.importorskip("trl")

    class ProFitSFTTrainer(Logged, ObjectiveMixin, trl.SFTTrainer):
        pass

    class SFTTrainer(Logged, trl.SFTTrainer):
        pass

    def run(model_folder, folder, objective=None, data="text", peft=False, evaluate=False, **options):
        rows = [
            {"prompt": f"Mia has {a} apples .", "completion": f" The answer is {a + b} ." + " Look :" * (b % 4)}
            for a, b in zip(range(16), range(3, 19), strict=True)
        ]
        if data == "ids":
            rows = lists()
        exact = {"bf16": False, "gradient_checkpointing": False}
        given = trl.SFTConfig(output_dir=str(folder), **SETTINGS | exact | options)
        dataset = Dataset.from_list(rows)
        more = {"objective": objective} if objective else {}
        trainer = (ProFitSFTTrainer if objective else SFTTrainer)(
            model=AutoModelForCausalLM.from_pretrained(model_folder), args=given, train_dataset=dataset,
            eval_dataset=dataset.select(range(6)), processing_class=AutoTokenizer.from_pretrained(model_folder),
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]) if peft else None, **more,
        )  # fmt: skip
        trainer.train()
        assert len(trainer.column("loss")) == 3
        return trainer

    return run


def check_same_as_trl(found, expected):
    assert found.column("loss") == pytest.approx(expected.column("loss"), rel=1e-5)
    assert found.column("grad_norm") == pytest.approx(expected.column("grad_norm"), rel=1e-4)
    assert (parameters(found) - parameters(expected)).norm() < 1e-4 * parameters(expected).norm()


TRL = {
    "full": {},
    "lora": {"peft": True},
    "ids": {"data": "ids"},
    "checkpointing": {"gradient_checkpointing": True},
    "padding free": {"padding_free": True, "max_length": None},
    "packing": {"packing": True, "max_length": 32},
    "packing, wrapped": {"packing": True, "packing_strategy": "wrapped", "max_length": 16},
    "whole text": {"completion_only_loss": False},
}


@pytest.mark.parametrize("options", TRL.values(), ids=TRL)
def test_sft_is_what_trl_does(sft, options, model_folder, tmp_path):
    expected = sft(model_folder, tmp_path, **options)
    check_same_as_trl(sft(model_folder, tmp_path, {"name": "sft"}, **options), expected)


@pytest.mark.parametrize(
    "options", [TRL["full"], TRL["lora"], TRL["padding free"]], ids=["full", "lora", "padding free"]
)
def test_profit_in_trl_drops_tokens(sft, options, model_folder, tmp_path):
    plain = sft(model_folder, tmp_path, {"name": "sft"}, **options)
    trainer = sft(model_folder, tmp_path, {"name": "profit", "tau": 0.02}, **options)
    assert trainer.column("cross_entropy")[0] == pytest.approx(plain.column("cross_entropy")[0], rel=1e-5)
    assert all(0 < kept < 1 for kept in trainer.column("kept"))
    assert trainer.column("loss")[0] < plain.column("loss")[0]
    assert not parameters(trainer).equal(parameters(plain))


def test_dft_is_what_trl_does(sft, model_folder, tmp_path):
    expected = sft(model_folder, tmp_path, loss_type="dft")
    check_same_as_trl(sft(model_folder, tmp_path, {"name": "dft"}), expected)
    with pytest.raises(ValueError, match="loss_type: found dft, expected nll: the objective says the loss"):
        sft(model_folder, tmp_path, {"name": "dft"}, loss_type="dft")


def test_evaluation_in_trl(sft, model_folder, tmp_path):
    options = {"per_device_eval_batch_size": 6, "learning_rate": 0.0}
    expected = sft(model_folder, tmp_path, **options).evaluate()["eval_loss"]
    for size in (6, 4):
        trainer = sft(model_folder, tmp_path, {"name": "sft"}, **options | {"per_device_eval_batch_size": size})
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


# Those that read another model or a column of the data.
READERS = {"asft", "gift", "iw_sft", "psft", "excess", "profit_fixed", "truth"}


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - READERS))
def test_every_objective_of_its_own_runs_in_trl(sft, name, model_folder, tmp_path):
    more = {"share": 0.5} if name == "random" else {}
    trainer = sft(model_folder, tmp_path, {"name": name, "normaliser": "kept"} | more)
    assert parameters(trainer).isfinite().all()
