"""A killed run ends with the numbers of an undisturbed one, whatever it had written; two never write at once."""

import json
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from profit import checkpoints, models, train
from profit.files import InputError, read_json
from profit.steplog import StepLog

# 10 examples in batches of 4: three steps an epoch, so checkpoints after steps 3, 6 and 9.
STEPS = 9
LORA = {"kind": "lora", "rank": 2, "alpha": 4, "target_modules": "all-linear", "dropout": 0.3}
METHODS = {
    "sft": {"objective": {"name": "sft"}},
    "random": {"objective": {"name": "random"}},
    "lora": {"objective": {"name": "profit", "tau": 0.02}, "tuning": LORA},
    "matched": {"objective": {"name": "random"}, "match": "update_norm"},
}
STOPPED = {"objective": {"name": "sft"}, "stop": 0.55, "mix": 0.5, "keep_epochs": False}  # after 5 steps of 9


@pytest.fixture(scope="module")
def paths(tmp_path_factory, model_folder, references_path, annotations_path):
    folder = tmp_path_factory.mktemp("resume")
    columns = {"kept": [0.3 + 0.05 * step for step in range(STEPS)], "update_norm": [0.1 * n for n in range(STEPS)]}
    pd.DataFrame({"step": range(1, STEPS + 1), **columns}).to_parquet(folder / "paired.parquet")
    return {"folder": folder, "model": model_folder, "data": references_path, "annotations": annotations_path}


def run(paths, name, method, **training):
    """Train `method` (a key of METHODS) into the folder `name`; returns it."""
    leaf = {
        "model": "tiny", "method": method, "seed": 0, "references": 1, "budget": "epochs", "tuning": {"kind": "full"},
        "training": {
            "epochs": 3, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 1e-2, "schedule": "cosine",
            "warmup": 0.1, "weight_decay": 0.01, "max_grad_norm": 1.0, "max_length": 64, "neftune": 0.0,
        } | training,
        "keep_epochs": True, "paired_with": None, **(METHODS | {"stopped": STOPPED})[method],
    }  # fmt: skip
    out = paths["folder"] / name
    arguments = {
        "--run": json.dumps(leaf), "--model": paths["model"], "--references": paths["data"],
        "--annotations": paths["annotations"], "--scratch": out / "scratch", "--output-model": out / "model",
        "--output-steps": out / "steps.parquet", "--output-summary": out / "train.json",
    } | ({"--paired": paths["folder"] / "paired.parquet"} if method in ("random", "matched") else {})  # fmt: skip
    train.main([str(part) for pair in arguments.items() for part in pair])
    return out


def killed(job) -> None:
    """Run `job` in a fork that kills itself with SIGKILL; fails unless it did."""
    child = os.fork()
    if child == 0:
        try:
            job()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def kill_at_step(paths, name, method, step, **training) -> Path:
    """Start the run and kill it while it writes the row of `step`; returns its scratch folder."""

    def job() -> None:
        append = StepLog.append

        def append_half(self: StepLog, row: dict) -> None:
            if row["step"] == step:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write('{"step": ')
                os.kill(os.getpid(), signal.SIGKILL)
            append(self, row)

        StepLog.append = append_half
        run(paths, name, method, **training)

    killed(job)
    return paths["folder"] / name / "scratch"


def content(out: Path):
    """Everything of a finished run that must not depend on how it got there."""
    files = {str(file.relative_to(out)): file.read_bytes() for file in sorted((out / "model").rglob("*.safetensors"))}
    return files, pd.read_parquet(out / "steps.parquet").drop(columns="tokens_per_second")


def assert_same(out: Path, undisturbed: Path) -> None:
    (files, steps), (expected_files, expected_steps) = content(out), content(undisturbed)
    assert steps.equals(expected_steps) and len(steps) == STEPS
    assert files == expected_files and len(files) == 4  # the final model and three epochs
    assert not (out / "scratch").exists()


@pytest.fixture(scope="module")
def undisturbed(paths):
    return {method: run(paths, f"{method}_undisturbed", method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_resumes_bit_for_bit(paths, undisturbed, method):
    scratch = kill_at_step(paths, method, method, step=5)
    assert sorted(path.name for path in scratch.glob("checkpoint-*")) == ["checkpoint-3"]
    out = run(paths, method, method)
    assert read_json(out / "train.json")["resumed_after_step"] == 3
    assert_same(out, undisturbed[method])


def test_a_run_killed_before_its_first_checkpoint_starts_again(paths, undisturbed):
    kill_at_step(paths, "early", "sft", step=2)
    out = run(paths, "early", "sft")
    assert read_json(out / "train.json")["resumed_after_step"] is None
    assert_same(out, undisturbed["sft"])


def test_a_run_killed_twice_resumes_from_the_later_checkpoint(paths, undisturbed):
    kill_at_step(paths, "twice", "lora", step=5)
    kill_at_step(paths, "twice", "lora", step=8)
    out = run(paths, "twice", "lora")
    assert read_json(out / "train.json")["resumed_after_step"] == 6
    assert_same(out, undisturbed["lora"])


def test_a_run_killed_while_it_writes_a_checkpoint_takes_the_one_before(paths, undisturbed):
    def job() -> None:
        save = torch.save

        def save_until_second_optimizer(content: object, path: str, *arguments: object) -> None:
            if str(path).endswith("checkpoint-6/optimizer.pt"):
                Path(path).write_bytes(b"PK")
                os.kill(os.getpid(), signal.SIGKILL)
            save(content, path, *arguments)

        torch.save = save_until_second_optimizer
        run(paths, "half", "lora")

    killed(job)
    assert (paths["folder"] / "half/scratch/checkpoint-6").exists()
    out = run(paths, "half", "lora")
    assert read_json(out / "train.json")["resumed_after_step"] == 3
    assert_same(out, undisturbed["lora"])


def test_a_run_killed_while_it_writes_its_outputs_trains_no_more(paths, undisturbed):
    def job() -> None:
        train.write_parquet = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        run(paths, "outputs", "lora")

    killed(job)
    out = run(paths, "outputs", "lora")
    assert read_json(out / "train.json")["resumed_after_step"] == STEPS
    assert_same(out, undisturbed["lora"])


def test_a_run_that_stopped_within_an_epoch_trains_no_more(paths):
    whole = run(paths, "stopped_undisturbed", "stopped")

    def job() -> None:
        train.write_parquet = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        run(paths, "stopped", "stopped")

    killed(job)
    out = run(paths, "stopped", "stopped")
    assert read_json(out / "train.json")["resumed_after_step"] == read_json(whole / "train.json")["steps"] == 5
    (files, log), (expected_files, expected_log) = content(out), content(whole)
    assert log.equals(expected_log) and len(log) == 5 and files == expected_files


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter_model.safetensors", cut_in_half),
        ("optimizer.pt", cut_in_half),
        ("trainer_state.json", Path.unlink),
        ("rng_state.pth", Path.unlink),
        ("complete.json", cut_in_half),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(paths, undisturbed, name, damage, caplog):
    run_name = f"damaged_{name}"
    scratch = kill_at_step(paths, run_name, "lora", step=8)
    damage(scratch / "checkpoint-6" / name)
    out = run(paths, run_name, "lora")
    assert read_json(out / "train.json")["resumed_after_step"] == 3
    assert f"checkpoint-6 passed over: {'no ' if name == 'complete.json' else ''}{name}" in caplog.text
    assert_same(out, undisturbed["lora"])


def test_a_checkpoint_that_the_step_log_does_not_reach_is_passed_over(paths, undisturbed):
    scratch = kill_at_step(paths, "short_log", "sft", step=8)
    lines = (scratch / "steps.jsonl").read_text().splitlines(keepends=True)
    (scratch / "steps.jsonl").write_text("".join(lines[:4]))
    out = run(paths, "short_log", "sft")
    assert read_json(out / "train.json")["resumed_after_step"] == 3
    assert_same(out, undisturbed["sft"])


def test_a_changed_job_does_not_resume(paths, undisturbed):
    kill_at_step(paths, "changed", "sft", step=8, learning_rate=3e-2)
    out = run(paths, "changed", "sft")
    assert read_json(out / "train.json")["resumed_after_step"] is None
    assert_same(out, undisturbed["sft"])


def test_changed_code_or_data_does_not_resume(paths, undisturbed, monkeypatch):
    def fingerprint(model=paths["model"], file="data", compute="{}"):
        return train.fingerprint(
            {"objective": {"name": "sft"}}, models.parse_compute(compute), model, [paths[file], None]
        )

    before = fingerprint()
    assert before == fingerprint() == fingerprint(compute='{"backend": "vllm"}')
    assert before != fingerprint(file="annotations")
    assert before != fingerprint(model=undisturbed["sft"] / "model")
    for changed in ('{"processes": 2}', '{"precision": "bfloat16"}', '{"gradient_checkpointing": true}'):
        assert before != fingerprint(compute=changed)
    monkeypatch.setattr(train, "code_version", lambda *_: "edited")
    assert before != fingerprint()


def test_two_processes_never_write_at_once(tmp_path):
    folder = tmp_path / "scratch"
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with checkpoints.claim(folder, {"a": 1}):
            os.write(told, b"x")
            time.sleep(60)
        os._exit(0)
    try:
        os.read(ready, 1)
        with (
            pytest.raises(InputError, match="in use by another process"),
            checkpoints.claim(folder, {"a": 1}, wait=0.3),
        ):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with checkpoints.claim(folder, {"a": 1}, wait=0):
        assert folder.exists()
    assert not folder.exists()


def test_a_process_that_waits_gets_a_folder_of_its_own_when_the_first_is_done(tmp_path):
    folder = tmp_path / "scratch"
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with checkpoints.claim(folder, {}):
            os.write(told, b"x")
            time.sleep(0.5)
            (folder / "left").touch()
        os._exit(0)
    os.read(ready, 1)
    with checkpoints.claim(folder, {}, wait=20):
        assert {file.name for file in folder.iterdir()} == {checkpoints.FINGERPRINT}
    assert os.waitpid(child, 0)[1] == 0


def test_an_error_leaves_the_scratch_folder_for_the_next_try(tmp_path):
    folder = tmp_path / "scratch"
    with pytest.raises(RuntimeError), checkpoints.claim(folder, {"a": 1}):
        (folder / "work").touch()
        raise RuntimeError
    with checkpoints.claim(folder, {"a": 1}, wait=0):
        assert (folder / "work").exists()


def test_without_the_random_state_the_numbers_would_be_others(paths, undisturbed, monkeypatch):
    """Why a checkpoint without it does not count: shows that the tests above could fail."""
    scratch = kill_at_step(paths, "no_state", "lora", step=5)
    (scratch / "checkpoint-3" / "rng_state.pth").unlink()
    monkeypatch.setattr(checkpoints, "_fault", lambda *_: None)
    out = run(paths, "no_state", "lora")
    assert read_json(out / "train.json")["resumed_after_step"] == 3
    assert content(out)[0] != content(undisturbed["lora"])[0]
