"""Both benchmarks end to end on tiny shapes, and each candidate against full logits."""

import json
import math
import statistics
from pathlib import Path

import pytest
import torch

from profit import bench, bench_heads, bench_step
from profit.bench import SCENES
from profit.bench_heads import CANDIDATES, ROWS, Setup, Step
from profit.files import InputError

TINY = Setup(vocabulary=500, hidden=16, device="cpu", threads=1)
TOKENS, MEMORY_TOKENS = 64, [64, 128, 256]
ARGUMENTS = ["--vocabulary", "500", "--hidden", "16", "--tokens", "64", "--rounds", "2", "--threads", "1"]
STEP_ARGUMENTS = [
    *["--vocabulary", "300", "--hidden", "16", "--layers", "1", "--heads", "2", "--kv-heads", "1", "--head-dim", "8"],
    *["--intermediate", "16", "--batch", "2", "--length", "24", "--steps", "2", "--rounds", "2", "--threads", "1"],
]
needs_trl = pytest.mark.skipif(not bench_heads.installed("TRL"), reason="TRL is not installed")


@pytest.fixture(scope="module")
def inputs():
    return bench_heads.make_inputs(TINY, TOKENS)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict:
    """What `python -m profit.bench` writes; its memory is made up: 10 bytes and 3 more a token."""
    path = tmp_path_factory.mktemp("bench") / "head.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(bench, "memory_of", lambda setup, tokens, **spec: 10 + 3 * tokens)
        bench.main([*ARGUMENTS, "--memory-tokens", *map(str, MEMORY_TOKENS), "--output", str(path)])
    return json.loads(path.read_text())


def reference_loss(row: str, objective: dict, hidden, weight, targets):
    """The loss by its equation, one token after the other."""
    total, logprobs = 0.0, (hidden @ weight.T).log_softmax(-1)
    entropies = [-float((row.exp() * row).detach().sum()) for row in logprobs]
    for number, target in enumerate(targets.tolist()):
        logprob = logprobs[number, target]
        p, factor = float(logprob.detach().exp()), 1.0
        if row.startswith("profit"):
            factor = float(p > objective["tau"])
        elif row == "dft":
            factor = p
        elif row == "eaft":
            top = sorted(logprobs[number].exp().tolist(), reverse=True)[:20]
            factor = -sum(q / sum(top) * math.log(q / sum(top)) for q in top) / 3
        elif row.startswith("entropy"):
            factor = float(sum(other > entropies[number] for other in entropies) < round(0.2 * len(targets)))
        total = total - factor * logprob
    return total / len(targets)


@pytest.mark.parametrize("row", ROWS)
def test_candidates_have_the_loss_and_gradients_of_the_equation(row, inputs) -> None:
    hidden, weight, targets = inputs
    objective = bench_heads.objectives(*inputs)[row]
    leaves = [hidden.double().requires_grad_(), weight.detach().double().requires_grad_()]
    loss = reference_loss(row, objective, *leaves, targets)
    loss.backward()
    for name in bench_heads.candidates(objective["name"], "cpu"):
        if name == "full logits SFT":
            continue
        step = Step("plain", hidden, weight.detach(), targets)
        assert step.run(CANDIDATES[name], objective) == pytest.approx(loss.item(), rel=1e-6), name
        for found, expected in zip((step.calls[0][0], step.weight), leaves, strict=True):
            torch.testing.assert_close(found.grad.double(), expected.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scene", SCENES)
def test_scenes_are_the_same_step(scene, inputs) -> None:
    hidden, weight, targets = inputs
    objective = bench_heads.objectives(*inputs)["profit 0.8"]
    plain = Step("plain", hidden, weight.detach().clone(), targets)
    step = Step(scene, hidden, weight.detach().clone(), targets)
    loss = plain.run(CANDIDATES["full logits"], objective)
    for name in ("ours", "full logits"):
        step.clear()
        assert step.run(CANDIDATES[name], objective) == pytest.approx(loss, rel=1e-6)
        expected = plain.weight.grad
        if scene == "tied":
            expected = expected.index_add(0, step.inputs, plain.calls[0][0].grad)
        torch.testing.assert_close(step.weight.grad, expected, rtol=1e-4, atol=1e-7)


def test_thresholds_keep_the_stated_shares_of_spread_probabilities(inputs) -> None:
    hidden, weight, targets = inputs
    p = (hidden.double() @ weight.double().T).softmax(-1)[torch.arange(TOKENS), targets]
    assert p.min() < 0.05 and p.max() > 0.8 and ((p > 0.1) & (p < 0.9)).float().mean() > 0.2
    for row, objective in bench_heads.objectives(*inputs).items():
        if row.startswith("profit"):
            assert int((p > objective["tau"]).sum()) == round(float(row.split()[1]) * TOKENS)


def test_equally_likely_tokens_have_no_threshold() -> None:
    with pytest.raises(RuntimeError, match="expected 2"):
        bench_heads.threshold(torch.full((4,), -1.0), 0.5)


def test_every_measurement_is_written(written) -> None:
    assert written["setup"]["vocabulary"] == 500 and written["versions"]["torch"] == torch.__version__
    assert written["hardware"]["cpu"] and written["hardware"]["gpu"] is None
    plain = {record["row"] for record in written["time"] if record["scene"] == "plain"}
    assert plain == set(ROWS) == {record["row"] for record in written["error"]}
    for scene in SCENES[1:]:
        assert {record["row"] for record in written["time"] if record["scene"] == scene} == set(bench.SCENE_ROWS)
    for row in ROWS:
        names = [
            record["candidate"] for record in written["time"] if (record["row"], record["scene"]) == (row, "plain")
        ]
        assert names == bench_heads.candidates(ROWS[row][0]["name"], "cpu")
    assert all(record[key] < 1e-5 for record in written["error"] for key in ("loss", "hidden", "weight"))


def test_ratios_are_those_of_the_measured_seconds(written) -> None:
    own = {(r["row"], r["scene"]): r["seconds"] for r in written["time"] if r["candidate"] == "ours"}
    for record in written["time"]:
        assert len(record["seconds"]) == 2 and record["median"] == statistics.median(record["seconds"])
        ratios = [a / b for a, b in zip(own[record["row"], record["scene"]], record["seconds"], strict=True)]
        if record["candidate"] != "ours":
            found = [record[key] for key in ("ratio", "ratio_min", "ratio_max")]
            assert found == [statistics.median(ratios), min(ratios), max(ratios)]


def test_full_logits_are_extrapolated_and_marked(written) -> None:
    for record in written["memory"]:
        assert record["bytes"] == pytest.approx(10 + 3 * record["tokens"])
        assert record["extrapolated"] == (record["candidate"] == "full logits" and record["tokens"] == 256)
    measured = [record["tokens"] for record in written["memory"] if record["candidate"] == "ours"]
    assert measured == [*MEMORY_TOKENS, *MEMORY_TOKENS, 256, 256]


def test_targets_say_whether_they_are_met(written) -> None:
    targets = {target["target"]: target for target in written["targets"]}
    flat = targets["memory of sft: growth from 64 to 256 tokens, MiB, against 10 % or 32 MiB"]
    assert flat["found"] == 3 * 192 / 2**20 and flat["limit"] == 32 and flat["met"]
    same = targets["memory of profit 0.8 at 256 tokens, tied: MiB, against 5 % of full logits"]
    assert same["found"] == pytest.approx(20 * same["limit"]) and same["met"] is False
    ratio = next(r["ratio"] for r in written["time"] if (r["row"], r["candidate"]) == ("profit 0.8", "full logits"))
    time = targets["time of profit 0.8, plain: ours / full logits"]
    assert time["found"] == ratio and time["met"] == (ratio <= 0.75)
    assert targets["largest relative error of a gradient"]["met"]
    beside_trl = targets["time of sft, plain: ours / full logits"], targets["time of profit 0.8, tied: ours / TRL"]
    assert [target["met"] is None for target in beside_trl] == [False, not bench_heads.installed("TRL")]


def test_targets_of_a_gpu_are_those_beside_liger() -> None:
    def record(row: str, name: str, **values: float) -> dict:
        return {"row": row, "scene": "plain", "candidate": name, "tokens": 8, **values}

    found = {
        "time": [record("sft", "Liger", ratio=0.9)],
        "memory": [record("sft", "ours", bytes=2**20), record("sft", "Liger", bytes=3 * 2**20)],
        "error": [],
    }
    judged = {target["target"]: target["met"] for target in bench.judge(found, "cuda", 8, [2, 4, 8])}
    assert judged == {
        "time of sft: ours / Liger": True,
        "time of profit 0.8: ours / Liger": None,
        "memory of sft at 8 tokens: ours - Liger, MiB": True,
        "memory of profit 0.8 at 8 tokens: ours - Liger, MiB": None,
    }


def test_extrapolation_is_the_line_of_least_squares() -> None:
    assert bench.extrapolate([(1, 5.0), (3, 9.0)], 10) == pytest.approx(23)
    assert bench.extrapolate([(0, 0.0), (1, 2.0), (2, 1.0)], 4) == pytest.approx(1 + 0.5 * 3)


def test_memory_of_full_logits_is_three_of_them_and_ours_is_less() -> None:
    setup = Setup(vocabulary=20000, hidden=16, device="cpu", threads=1)
    spec = {"scene": "plain", "objective": {"name": "profit", "tau": 0.1}, "tokens": 1024}
    logits = setup.vocabulary * spec["tokens"] * 4
    # Logits, their softmax, and their log-softmax; nothing of the process that asks counts.
    ballast = torch.ones(2**26)
    full, own = (bench.memory_of(setup, candidate=name, **spec) for name in ("full logits", "ours"))
    del ballast
    assert full == pytest.approx(3 * logits, rel=0.15)
    assert own < 1.3 * logits


def test_a_failed_measurement_of_memory_says_why() -> None:
    with pytest.raises(RuntimeError, match="unknown objective|objective: found 'none such'"):
        spec = {"scene": "plain", "candidate": "ours", "objective": {"name": "none such"}, "tokens": 8}
        bench.memory_of(Setup(64, 8, "cpu", 1), **spec)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocabulary", "5"], "--vocabulary: found 5"),
        (["--hidden", "0"], "--hidden: found 0"),
        (["--tokens", "64", "3"], "--tokens: found 3"),
        (["--rounds", "0"], "--rounds: found 0"),
        (["--threads", "0"], "--threads: found 0"),
        (["--memory-tokens", "64", "128"], "--memory-tokens: found .* expected at least three rising"),
        (["--memory-tokens", "64", "256", "128"], "--memory-tokens: found .* expected at least three rising"),
    ],
)
def test_bad_options_are_refused(arguments, message, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        bench.main([*arguments, "--output", str(tmp_path / "head.json")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--steps", "0"], "--steps: found 0"), (["--heads", "3"], "--kv-heads: found 8, expected a divisor")],
)
def test_bad_options_of_whole_steps_are_refused(arguments, message, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        bench_step.main([*arguments, "--output", str(tmp_path / "step.json")])


@pytest.mark.filterwarnings("ignore")
def test_whole_steps_end_to_end(tmp_path: Path, capsys) -> None:
    path = tmp_path / "step.json"
    bench_step.main([*STEP_ARGUMENTS, "--output", str(path)])
    written, printed = json.loads(path.read_text()), capsys.readouterr().out
    records = {(record["tuning"], record["candidate"]): record for record in written["steps"]}
    names = ["ours, sft", "ours, profit 0.8", *(["TRL, sft"] if bench_heads.installed("TRL") else [])]
    assert list(records) == [(tuning, name) for tuning in bench_step.TUNINGS for name in names]
    assert written["shape"]["length"] == 24 and 0 < records["full", "ours, profit 0.8"]["tau"] < 0.1
    for (tuning, name), record in records.items():
        speeds = record["tokens_per_second"]
        assert len(speeds) == 2 and min(speeds) > 0 and record["median"] == statistics.median(speeds)
        assert f"{tuning}, {name}: {speeds[0]:.0f} tokens per second" in printed
        if "ratio" in record:
            other = records[tuning, "TRL, sft"]["tokens_per_second"]
            assert record["ratio"] == statistics.median(a / b for a, b in zip(speeds, other, strict=True))


@needs_trl
@pytest.mark.skipif(torch.cuda.is_available(), reason="bf16 losses are only nearly the same")
@pytest.mark.filterwarnings("ignore")
def test_trainers_minimise_the_same_loss(monkeypatch) -> None:
    shape = bench_step.Shape(300, 16, 1, 2, 1, 8, 16, batch=2, length=24, steps=2)
    data, losses = bench_step.make_data(shape), {}
    tau = bench_step.tau_of(shape, data)
    original = bench_step.Trainer.training_step

    def watched(self, *arguments, **others):
        loss = original(self, *arguments, **others)
        losses.setdefault(name, []).append(loss.item())
        return loss

    monkeypatch.setattr(bench_step.Trainer, "training_step", watched)
    for name, make in bench_step.trainers(tau).items():  # noqa: B007 - `watched` reads the name
        bench_step.speed(make, shape, "full", data)
    assert len(losses["ours, sft"]) == 4 and losses["ours, sft"] == pytest.approx(losses["TRL, sft"], rel=1e-5)
    # About four tokens of five are kept, of a model to which all are nearly alike.
    assert 0.7 < sum(losses["ours, profit 0.8"]) / sum(losses["ours, sft"]) < 0.9
