"""Steps timed in turn: the steps of training, strictly alternating, a planted cost, bad input."""

import json
import time

import pandas as pd
import pytest
from test_train import run_train, steps  # noqa: F401

from profit import timing
from profit.files import InputError, read_parquet_metadata
from profit.run_trainer import RunTrainer

TRAINING = {
    "epochs": 2, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 1e-2, "schedule": "cosine", "warmup": 0.1,
    "weight_decay": 0.0, "max_grad_norm": 1.0, "max_length": 64, "neftune": 0.0,
}  # fmt: skip


def leaf(name, **changes):
    """A run with seed 7, which the command replaces."""
    return {
        "model": "tiny", "method": name, "seed": 7, "objective": {"name": name, "normaliser": "all"}, "references": 1,
        "budget": "epochs", "tuning": {"kind": "full"}, "training": TRAINING, "keep_epochs": False,
        "paired_with": None, **changes,
    }  # fmt: skip


RUNS = {"sft": leaf("sft"), "profit": leaf("profit", objective={"name": "profit", "tau": 0.5, "normaliser": "kept"})}


@pytest.fixture
def time_methods(tmp_path, model_folder, references_path):
    """Run the command; returns its rows."""

    def call(runs=RUNS, seeds=2, count=4, **more):
        arguments = {"runs": json.dumps(runs), "seeds": seeds, "steps": count, "model": model_folder}
        arguments |= {"references": references_path, "scratch": tmp_path / "scratch", "output": tmp_path / "t.parquet"}
        timing.main([str(part) for name, value in (arguments | more).items() for part in (f"--{name}", value)])
        assert read_parquet_metadata(tmp_path / "t.parquet")["provenance"]["rule"] == "timing"
        return pd.read_parquet(tmp_path / "t.parquet")

    return call


@pytest.fixture
def worked(monkeypatch):
    """(begin or end, objective, step) of every micro-batch that is trained on."""
    events, training_step = [], RunTrainer.training_step

    def spied(self, *arguments):
        name = self.objective["name"], self.state.global_step
        events.append(("begin", *name))
        time.sleep(0.002)
        loss = training_step(self, *arguments)
        events.append(("end", *name))
        return loss

    monkeypatch.setattr(RunTrainer, "training_step", spied)
    return events


def test_every_step_but_the_first_has_a_row_and_is_a_step_of_training(time_methods, run_train):  # noqa: F811
    found = time_methods()
    assert list(found) == timing.COLUMNS and (found["seconds"] > 0).all()
    rows = found.set_index(["method", "seed", "step"]).sort_index()
    assert len(rows) == 2 * 2 * 3 and set(found["step"]) == {2, 3, 4}
    for seed in (0, 1):
        trained = steps(run_train(f"seed{seed}", seed=seed, training=TRAINING)).set_index("step")["tokens"]
        for method in RUNS:
            assert rows.loc[method, seed]["tokens"].to_dict() == trained.loc[2:4].to_dict()


def test_methods_train_as_they_do_alone(time_methods, run_train, monkeypatch):  # noqa: F811
    logs, make_trainer = {}, timing.make_trainer

    def spied(run, *arguments):
        logs[run["method"], run["seed"]] = arguments[-1]
        return make_trainer(run, *arguments)

    monkeypatch.setattr(timing, "make_trainer", spied)
    time_methods(count=6)
    alone = steps(run_train("alone", seed=1, training=TRAINING, objective=RUNS["profit"]["objective"]))
    said = pd.DataFrame(logs["profit", 1])
    for name in ("loss", "objective_loss", "kept", "grad_norm", "learning_rate"):
        assert said[name].tolist() == alone[name].tolist()[:6]


def test_one_works_at_a_time_a_step_each_and_every_other_seed_begins_with_the_last(time_methods, worked):
    time_methods()
    # Of ten answers the third step has two, one micro-batch; no step begins before the one before ends.
    assert len(worked) == 2 * 2 * 2 * (2 + 2 + 1 + 2)
    assert all(("end", *begun[1:]) == ended for begun, ended in zip(worked[::2], worked[1::2], strict=True))
    order = list(dict.fromkeys(event[1:] for event in worked[:28]))
    assert order == [(method, step) for step in range(4) for method in ("sft", "profit")]
    order = list(dict.fromkeys(event[1:] for event in worked[28:]))
    assert order == [(method, step) for step in range(4) for method in ("profit", "sft")]


def test_what_a_method_costs_more_is_seen(time_methods, monkeypatch):
    training_step = RunTrainer.training_step

    def slow(self, *arguments):
        until = time.process_time() + 0.03 * (self.objective["name"] == "profit")
        while time.process_time() < until:
            pass
        return training_step(self, *arguments)

    monkeypatch.setattr(RunTrainer, "training_step", slow)
    means = time_methods().groupby("method")["seconds"].mean()
    # Two micro-batches a step.
    assert 0.04 < means["profit"] - means["sft"] < 0.15


def test_a_failure_of_one_ends_all(time_methods, monkeypatch):
    training_step = RunTrainer.training_step

    def failing(self, *arguments):
        if self.objective["name"] == "profit" and self.state.global_step == 2:
            raise InputError("step 3: broken")
        return training_step(self, *arguments)

    monkeypatch.setattr(RunTrainer, "training_step", failing)
    with pytest.raises(InputError, match="step 3: broken"):
        time_methods()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"runs": {"base": leaf("none")}},
            "--runs: base: found objective none, expected one that learns from the ref",
        ),
        ({"runs": {"core": leaf("truth")}}, "--runs: core: found objective truth"),
        ({"runs": {"old": leaf("psft")}}, "--runs: old: found objective psft"),
        ({"runs": {"random": leaf("random")}}, "--runs: random: found objective random"),
        ({"runs": {"same": leaf("sft", match="update_norm")}}, "--runs: same: found objective sft"),
        ({"count": 1}, "--steps: found 1, expected at least 2"),
        ({"count": 7}, "--steps: found 7, expected at most the 6 steps of sft"),
        ({"compute": '{"processes": 2}'}, "--compute: processes: found 2, expected 1"),
    ],
)
def test_bad_input(time_methods, change, message):
    with pytest.raises(InputError, match=message):
        time_methods(**change)
