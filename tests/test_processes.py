"""A run on two processes is the run on one, by DDP and by FSDP, whoever is killed; nothing is left behind."""

import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from torch.distributed.fsdp import StateDictType
from transformers import AutoModelForCausalLM

from profit import processes, train
from profit.files import InputError, read_json
from profit.forkserver import run_rule
from profit.models import PLAIN, parse_compute
from profit.run_trainer import Length, SeededOrder, collate, training_arguments, without_targets

TESTS = Path(__file__).parent
PROFIT = {"name": "profit", "tau": 0.02}
LORA = {"kind": "lora", "rank": 4, "alpha": 8, "target_modules": "all-linear"}
MATCHED = {"match": "update_norm", "paired_with": "other", "stop": 0.85, "mix": 0.5}  # five of six steps
NORMS = [0.0, 0.02, 0.05, 0.01, 0.03]
LONG = "long enough to be killed"
# Micro-batches of one answer accumulate; of two, the last step of an epoch of ten answers is filled up.
RUNS = {
    "ddp": ("ddp", {"objective": PROFIT}, {"micro_batch_size": 1}, {}),
    LONG: ("ddp", {"epochs": 30}, {}, {}),
    "ddp whole steps": ("ddp", {"objective": {"name": "entropy", "share": 0.3, "normaliser": "kept"}}, {}, {}),
    "ddp lora": ("ddp", {"objective": PROFIT, "tuning": LORA}, {}, {"gradient_checkpointing": True}),
    "ddp lora matched": ("ddp", MATCHED | {"tuning": LORA}, {}, {}),
    "fsdp matched": ("again", MATCHED, {}, {}),
    "fsdp": ("again", {"objective": PROFIT, "keep_epochs": True}, {"micro_batch_size": 1}, {}),
    "fsdp lora untied": ("again", {"objective": PROFIT, "tuning": LORA, "keep_epochs": True}, {}, {}),
    "fsdp bf16": ("fsdp", {"objective": PROFIT}, {}, {"precision": "bfloat16", "gradient_checkpointing": True}),
    "fsdp bf16 lora untied": ("fsdp", {"objective": PROFIT, "tuning": LORA}, {}, {"precision": "bfloat16"}),
}


def leaf(epochs=2, **changes):
    training = {
        "epochs": epochs, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 1e-3, "schedule": "cosine",
        "warmup": 0.1, "weight_decay": 0.01, "max_grad_norm": 1.0, "max_length": 64, "neftune": 0.0,
    } | changes.pop("training", {})  # fmt: skip
    return {
        "model": "tiny", "method": "m", "seed": 0, "objective": {"name": "sft"}, "references": 1, "choice": "seed",
        "budget": "epochs", "tuning": {"kind": "full"}, "training": training, "keep_epochs": False,
        "paired_with": None, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def command(tmp_path_factory, model_folder, references_path, annotations_path):
    """Output folder and command line of a run, by its name on a model whose LM head is not its embeddings."""
    untied = shutil.copytree(model_folder, tmp_path_factory.mktemp("models") / "untied")
    model = AutoModelForCausalLM.from_pretrained(model_folder, tie_word_embeddings=False)
    model.lm_head.weight.data.copy_(model.model.embed_tokens.weight.flip(0))
    model.save_pretrained(untied)

    paired = untied.with_name("paired.parquet")
    pd.DataFrame({"step": range(1, len(NORMS) + 1), "update_norm": NORMS}).to_parquet(paired)

    def make(name, run, **compute):
        out = tmp_path_factory.mktemp("processes") / name
        arguments = {
            "--run": json.dumps(run), "--model": untied if "untied" in name else model_folder,
            "--references": references_path, "--annotations": annotations_path, "--scratch": out / "scratch",
            "--output-model": out / "model", "--output-steps": out / "steps.parquet",
            "--output-summary": out / "train.json", "--compute": json.dumps(compute),
        } | ({"--paired": paired} if run.get("match") else {})  # fmt: skip
        return out, [str(part) for pair in arguments.items() for part in pair]

    return make


def alone(command, name, run, **compute):
    """The same run on one process, a step in one micro-batch of all its answers."""
    out, argv = command(name, {**run, "training": run["training"] | {"micro_batch_size": 4}}, **compute)
    train.main(argv)
    return out


def check_steps(out, expected):
    found, whole = (pd.read_parquet(folder / "steps.parquet") for folder in (out, expected))
    times = ["tokens_per_second", "epoch"]  # the latter counts micro-batches
    pd.testing.assert_frame_equal(found.drop(columns=times), whole.drop(columns=times), rtol=1e-5, atol=1e-5)
    assert found["epoch"].iloc[-1] == whole["epoch"].iloc[-1]
    if len(found) == len(NORMS):
        assert found["update_norm"].tolist() == pytest.approx(NORMS, rel=1e-5)


def check_weights(out, expected, tolerance):
    files = {file.relative_to(expected) for file in (expected / "model").rglob("*.safetensors")}
    assert files == {file.relative_to(out) for file in (out / "model").rglob("*.safetensors")}
    for file in files:
        tensors = load_file(out / file)
        for name, value in load_file(expected / file).items():
            torch.testing.assert_close(tensors[name], value, rtol=0, atol=tolerance)
    assert not (out / "scratch").exists()


@pytest.fixture(scope="module")
def trained(command):
    """All RUNS in one group of two processes, one of which fails afterwards."""
    made = {}
    for name, (kind, changes, training, compute) in RUNS.items():
        out, argv = command(name, leaf(**changes, training=training), processes=2, **compute)
        made[name] = out, json.dumps([kind, *argv])
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), before])
    try:
        with pytest.raises(InputError, match="^the second process has had enough$"):
            processes.launch("runs_in_turn", [text for _, text in made.values()], 2)
    finally:
        os.environ["PYTHONPATH"] = before
    return {name: out for name, (out, _) in made.items()}


@pytest.mark.parametrize("name", [name for name in RUNS if name != LONG])
def test_two_processes_train_as_one(trained, command, name):
    kind, changes, _, compute = RUNS[name]
    expected = alone(command, name, leaf(**changes), **compute)
    if "precision" in compute:
        # Sharded, the residual stream is bf16 too; the loss is not rounded to it.
        check_weights(trained[name], expected, 5e-3)
        loss, whole = (pd.read_parquet(out / "steps.parquet")["loss"].tolist() for out in (trained[name], expected))
        assert loss == pytest.approx(whole, abs=0.02)
        assert loss != torch.tensor(loss, dtype=torch.bfloat16).tolist()
    else:
        check_steps(trained[name], expected)
        check_weights(trained[name], expected, 1e-6)
    found, whole = (read_json(out / "train.json") for out in (trained[name], expected))
    assert found["resumed_after_step"] == (3 if kind == "again" else None)
    assert found["provenance"]["settings"]["compute"]["processes"] == 2
    for key in ("unseen", "tokens_trained", "parameters", "parameters_trained"):
        assert found[key] == whole[key], key


def start(argv, log):
    """The command in a fork, as the fork server runs it: without the seconds that its imports take."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            status = run_rule("train", argv)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return psutil.Process(child)


def wait_for(steps, out, job, log):
    """Until so many steps are logged; a checkpoint is written every third."""
    deadline, rows = time.monotonic() + 120, out / "scratch" / "steps.jsonl"
    while not rows.exists() or len(rows.read_text().splitlines()) < steps:
        assert job.is_running() and job.status() != "zombie" and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def test_a_killed_process_takes_the_others_along_and_the_run_resumes(command, trained, monkeypatch):
    """One of the processes is killed, then the command that started them, then the run may end."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")  # as a lease leaves it
    out, argv = command("killed", leaf(**RUNS[LONG][1]), processes=2)
    log = out.parent / "log"
    with log.open("w") as file:
        job = psutil.Popen([sys.executable, "-m", "profit", "train", *argv], cwd=TESTS.parent, stderr=file)
    wait_for(8, out, job, log)
    own = {int(child.environ()["RANK"]): child for child in job.children()}
    assert own.keys() == {0, 1} and all(p.environ()["CUDA_VISIBLE_DEVICES"] == "3,5" for p in own.values())
    own[1].kill()
    assert job.wait(30) == 1 and "found exit status -9 of process 1, expected 0" in log.read_text()
    assert not any(child.is_running() for child in own.values())

    job = start(argv, log)
    wait_for(40, out, job, log)
    own = job.children()
    job.kill()
    job.wait()
    assert len(own) == 2 and not psutil.wait_procs(own, timeout=10)[1]

    assert start(argv, log).wait(120) == 0, log.read_text()
    found, whole = (pd.read_parquet(folder / "steps.parquet") for folder in (out, trained[LONG]))
    assert found.drop(columns="tokens_per_second").equals(whole.drop(columns="tokens_per_second"))
    check_weights(out, trained[LONG], 0)
    summary = read_json(out / "train.json")
    assert summary["resumed_after_step"] >= 36
    # Those of both processes: each loads what the first has loaded before its account is opened.
    assert summary["provenance"]["cpu_seconds"] > 1.5 * summary["provenance"]["cpu_seconds_imports"]
    # One of them speaks for both.
    assert log.read_text().count("step 90 of 90") == 1


def test_a_batch_that_the_processes_cannot_share_is_refused(command, monkeypatch):
    monkeypatch.setattr(processes, "launch", lambda *_: pytest.fail("launched"))
    _, argv = command("uneven", leaf(), processes=4)
    with pytest.raises(
        InputError, match="micro_batch_size: found 2, with 4 processes, expected .* batch_size = 4 / 4"
    ):
        train.main(argv)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="--compute: processes: found 2, expected at most 1, the GPUs in reach"):
        processes.launch("profit.train", [], 2)


def test_alone_nobody_is_waited_for():
    assert (processes.count(), processes.first(), processes.sharded()) == (1, True, False)
    assert processes.agree(lambda: "mine") == "mine" and processes.total(1.5) == 1.5
    processes.meet()


def test_on_gpus_weights_are_sharded_and_each_process_keeps_its_part(monkeypatch, tmp_path):
    compute = parse_compute('{"precision": "bfloat16", "gradient_checkpointing": true, "processes": 2}')
    length = Length(steps=6, planned=6, accumulation=2)
    monkeypatch.setattr(processes, "sharded", lambda: True)
    found = training_arguments(leaf(), length, compute, tmp_path)
    assert (
        found.bf16 and found.gradient_checkpointing and found.gradient_checkpointing_kwargs["use_reentrant"] is False
    )
    plugin = FullyShardedDataParallelPlugin(**found.fsdp_plugin_args)
    assert plugin.fsdp_version == 2 and plugin.state_dict_type == StateDictType.SHARDED_STATE_DICT
    assert plugin.reshard_after_forward and not plugin.activation_checkpointing
    monkeypatch.setattr(processes, "sharded", lambda: False)
    plain = training_arguments(leaf(), length, PLAIN, tmp_path)
    assert plain.fsdp_plugin_args is None and not plain.bf16 and not plain.gradient_checkpointing


def test_the_last_batches_of_an_epoch_are_filled_with_what_has_no_target():
    order, plain = SeededOrder(10, seed=3, multiple=4), SeededOrder(10, seed=3)
    assert list(order) == [*plain, 10, 10] and (len(order), len(plain)) == (12, 10)
    assert list(SeededOrder(8, seed=3, multiple=4)) == list(SeededOrder(8, seed=3))
    example = {"input_ids": [3, 9, 8, 4], "prompt_length": 2, "roles": [0, 3], "example": 7}
    batch = collate([example, without_targets(example)], pad=0)
    assert batch["labels"].tolist() == [[-100, -100, 8, 4], [-100] * 4]
    assert batch["roles"].tolist() == [[-100, -100, 0, 3], [-100] * 4]
