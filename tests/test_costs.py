"""Predictions for real models follow from numbers worked out by hand, from real architectures and from simulation."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from profit import costs, progress, sizes
from profit.costs import GPUS, gpu_called, job_seconds, mean_tokens, parameters_of, train_operations, uncut_tokens
from profit.files import InputError
from profit.objectives import OBJECTIVES
from profit.resources import CONSTANT, pretraining_threads, resources_of
from profit.runs import runs_of, study_runs
from profit.study import Study, load_study

ROOT = Path(__file__).parent.parent
BFLOAT16 = {"precision": "bfloat16"}
# Hidden size, layers, query heads, key-value heads, head size, width of the MLP, parameters: the models' config.json.
ARCHITECTURES = {
    "Qwen3-0.6B": (1024, 28, 16, 8, 128, 3072, 0.60e9),
    "Qwen3-4B": (2560, 36, 32, 8, 128, 9728, 4.02e9),
    "Qwen3-14B": (5120, 40, 40, 8, 128, 17408, 14.8e9),
    "Llama-3.1-8B": (4096, 32, 32, 8, 128, 14336, 8.03e9),
}


def hub(source="some/model-4B", **keys):
    """The block of a model of 4 billion parameters, in bfloat16."""
    return {"source": source, "compute": BFLOAT16} | keys


def item(task, **keys):
    limits = {"task": f"paper_{task}", "questions": 100, "samples": 8, "max_new_tokens": 8192}
    return limits | {"source": {"hub": f"some/{task}", "split": "test"}} | keys


def real(**blocks):
    """A study of one model of the hub with two methods and one benchmark; `blocks` replace its own."""
    content = {
        "name": "real",
        "models": {"base": hub()},
        "data": {"sources": [{"hub": "some/data"}], "prompts": 2000},
        "training": {"epochs": 1, "batch_size": 32, "micro_batch_size": 1, "max_length": 8192},
        "methods": {"vanilla": {"objective": "none", "seeds": 1}, "sft": {"objective": "sft", "seeds": 1}},
        "benchmarks": {"gsm8k": item("gsm8k")},
        "analysis": {"annotators": []},
    }
    return Study.model_validate(content | blocks)


def with_method(**keys):
    """A study whose only method `own` has such keys, and its run."""
    study = real(methods={"own": {"objective": "sft", "seeds": 1} | keys})
    return study, runs_of(study)["base", "own", 0]


def compute(**keys):
    return real(models={"base": hub(compute=BFLOAT16 | keys)})


def seconds(study, rule, gpu="H100", method="sft"):
    return job_seconds(study, rule, GPUS[gpu], "base", runs_of(study)["base", method, 0])


# Models and GPUs


@pytest.mark.parametrize(
    ("name", "source", "stated", "expected"),
    [
        ("a", "Qwen/Qwen3-0.6B-Base", None, 0.6e9),
        ("a", "allenai/OLMo-2-1124-7B", None, 7e9),
        ("a", "meta-llama/Llama-3.1-8B", 8.03, 8.03e9),
        ("a", "EleutherAI/pythia-160m-deduped", None, 160e6),
        ("a", "Qwen/Qwen3-30B-A3B", None, 30e9),
        ("Qwen3-14B-Base", "/data/models/snapshot", None, 14e9),
        ("a", "some/GPT-2", None, None),
        ("a", "some/model-v2B3", None, None),
    ],
)
def test_parameters_are_stated_or_read_off_a_name(name, source, stated, expected):
    found = parameters_of(real(models={name: hub(source, parameters=stated)}), name)
    assert found == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("", None),
    ],
)
def test_a_gpu_is_known_by_the_name_of_its_driver(name, expected):
    assert gpu_called(name) == GPUS.get(expected)


# Time


def test_the_objectives_that_cost_a_pass_more_are_those_of_the_trainer():
    """As profit.trainer reads `needs`, `scope` and `form`."""
    free = {"draw", "share"}
    first = [name for name, own in OBJECTIVES.items() if own.scope == "batch" and not set(own.needs) <= free]
    compare = [name for name, own in OBJECTIVES.items() if "reference_logits" in own.needs]
    whole = [name for name, own in OBJECTIVES.items() if own.form == "logits" and name not in compare]
    found = costs.READ_FIRST, costs.COMPARE, costs.WITHOUT_WEIGHTS
    assert tuple(map(sorted, found)) == tuple(map(sorted, (first, compare, whole)))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({}, 6),
        ({"rank": 8}, 4),
        ({"objective": "profit", "normaliser": "kept"}, 8),
        ({"objective": "random", "share": 0.5, "normaliser": "kept"}, 6),
        ({"objective": "entropy"}, 8),
        ({"objective": "asft", "normaliser": "kept"}, 8),
        ({"objective": "gem", "normaliser": "kept"}, 6),
        ({"objective": "gift", "rank": 8}, 6),
    ],
)
def test_operations_a_token_and_parameter(method, expected):
    study, run = with_method(**method)
    assert train_operations(study, run) == expected
    model = study.models["base"].model_copy(
        update={"compute": study.compute_of("base").model_copy(update={"gradient_checkpointing": True})}
    )
    assert train_operations(study.model_copy(update={"models": {"base": model}}), run) == expected + 2


def test_a_step_of_one_micro_batch_is_read_once():
    training = {"epochs": 1, "batch_size": 32, "micro_batch_size": 32}
    study = real(training=training, methods={"own": {"objective": "entropy", "seeds": 1}})
    assert train_operations(study, runs_of(study)["base", "own", 0]) == 6


def test_training_by_hand():
    """2,000 x 650 tokens x 6 x 4e9 operations at 0.3 x 989e12; 60 s, 8 GB read, 12 + 4 bytes a parameter written."""
    assert seconds(real(), "train") == pytest.approx(105.16 + 60 + 8 + 64, abs=0.1)
    assert seconds(real(), "score") == pytest.approx(105.16 / 3 + 60 + 8, abs=0.1)
    eight = compute(processes=8)
    assert seconds(eight, "train") == pytest.approx(105.16 / 8 + 60 + 8 + 64, abs=0.1)
    # At the shortest training.max_length, half the tokens.
    short = real(training={"epochs": 1, "batch_size": 32, "micro_batch_size": 1, "max_length": 325})
    assert seconds(short, "train") == pytest.approx(105.16 / 2 + 60 + 8 + 64, abs=0.1)
    assert job_seconds(real(), "fetch", GPUS["H100"], "base") == 80


def test_references_and_steps_are_counted():
    base = seconds(real(), "train") - 132
    data = {"sources": [{"hub": "some/data"}], "prompts": 2000, "references": 3}
    for keys, factor in (({"epochs": 2}, 2), ({"references": 3}, 3), ({"references": 3, "budget": "steps"}, 1)):
        study = real(data=data, methods={"sft": {"objective": "sft", "seeds": 1, **keys}})
        written = 12 * 4 * (keys.get("epochs", 1) - 1)
        assert seconds(study, "train") - 132 - written == pytest.approx(factor * base)
    unknown = real(data={"sources": [{"hub": "some/data"}]})
    assert costs.prompts_of(unknown) == 2000


@pytest.mark.parametrize("limit", [256, 1024, 8192, 32768])
def test_batches_of_hf_last_as_long_as_simulated_ones(limit):
    """Answers of exponential length, cut at the limit, in batches of 100; each step takes the time of a launch."""
    study = real(benchmarks={"gsm8k": item("gsm8k", questions=1000, samples=8, max_new_tokens=limit)})
    lengths = np.random.default_rng(0).exponential(uncut_tokens(limit), (80, 100)).clip(1, limit)
    assert mean_tokens(limit) == pytest.approx(lengths.mean(), rel=0.05)
    prefill = 2 * 4e9 * 150 * 1000 / (0.3 * 989e12)
    simulated = 0.03 * lengths.max(1).sum() + prefill
    assert seconds(study, "evaluate") - 68 == pytest.approx(simulated, rel=0.08)


def test_a_step_takes_the_longest_of_memory_arithmetic_and_launching():
    def predicted(gpu, n, **keys):
        return seconds(real(models={"base": hub(parameters=n, **keys)}), "evaluate", gpu) - 60 - 2 * n

    # 40 times the weights: memory decides; 4.8 / 3.35 is what an H200 reads more in a second.
    assert predicted("H100", 400) / predicted("H200", 400) == pytest.approx(4.8 / 3.35, rel=0.01)
    # In float32 weights are twice as wide.
    assert predicted("H100", 400, compute={}) / predicted("H100", 400) == pytest.approx(2, rel=0.15)
    assert predicted("H100", 0.1) == pytest.approx(predicted("L40S", 0.1), rel=0.01)


@pytest.mark.parametrize(
    ("gpu", "limit", "questions"), [("H100", 8192, 1000), ("L40S", 8192, 1000), ("H100", 512, 500)]
)
def test_vllm_refills_its_rows_as_a_simulated_one(gpu, limit, questions):
    """Whoever ends is replaced by the next of its call; a step reads weights and the keys and values of all rows."""
    study = real(
        models={"base": hub(compute=BFLOAT16 | {"backend": "vllm"})},
        benchmarks={"gsm8k": item("gsm8k", questions=questions, max_new_tokens=limit)},
    )
    mean, random, found = mean_tokens(limit), np.random.default_rng(0), GPUS[gpu]
    rows = int(min(256, (0.9 * found.memory * 1e9 - 8e9) / (150e3 * (150 + mean))))
    assert rows == (256 if gpu == "H100" else 199)
    simulated, left = 2 * 4e9 * 150 * questions / (0.3 * found.bfloat16 * 1e12), 8 * questions
    calls = math.ceil(left / (2**23 // limit))
    for _ in range(calls):
        waiting = list(random.exponential(uncut_tokens(limit), left // calls).clip(1, limit))
        running = [waiting.pop() for _ in range(min(rows, len(waiting)))]
        while running:
            steps = min(running)
            read = (8e9 + len(running) * (150 + mean / 2) * 150e3) / (0.6 * found.bandwidth * 1e12)
            simulated += steps * max(0.005, read)
            running = [rest - steps for rest in running if rest > steps]
            running += [waiting.pop() for _ in range(min(rows - len(running), len(waiting)))]
    assert seconds(study, "evaluate", gpu) - 68 == pytest.approx(simulated, rel=0.15)


def test_vllm_is_faster_and_shares_its_gpus():
    vllm, two = compute(backend="vllm"), compute(backend="vllm", evaluation_gpus=2)
    assert seconds(two, "evaluate") < seconds(vllm, "evaluate") < seconds(real(), "evaluate") / 5
    source = (ROOT / "profit" / "vllm_lm.py").read_text()
    assert "TOKENS_AT_ONCE = 2**23" in source and costs.VLLM_TOKENS == 2**23


def test_unknown_parameters_are_no_prediction():
    study = real(models={"base": hub("some/model")})
    assert all(seconds(study, rule) is None for rule in ("fetch", "score", "train", "evaluate"))
    assert seconds(study, "collect") == costs.CPU_SECONDS["collect"]


def test_a_judge_is_waited_for():
    judge = {"model": "judge", "base_url": "https://host/v1", "concurrency": 10, "sample": 100}
    analysis = {"annotators": ["llm"], "judge": judge}
    study = real(analysis=analysis, data={"sources": [{"hub": "some/data"}], "references": 3})
    assert job_seconds(study, "annotate", GPUS["H100"], annotator="llm") == 100 * 3 * costs.JUDGE_SECONDS / 10


# Memory and disk


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_approximations_of_an_architecture_hold_for_real_ones(name):
    hidden, layers, queries, keys, size, mlp, n = ARCHITECTURES[name]
    attention = 2 * (hidden + queries * size) + 2 * (hidden + keys * size)
    lora = layers * (attention + 3 * (hidden + mlp))
    assert costs.LORA_PARAMETERS * math.sqrt(n) == pytest.approx(lora, rel=0.4)
    assert layers * keys * size * 4 == pytest.approx(costs.CACHE_BYTES, rel=0.25)
    assert layers * hidden == pytest.approx(1.7 * math.sqrt(n), rel=0.35)


def train_bytes(study, processes=None):
    return sizes.train_bytes(study, runs_of(study)["base", "sft", 0], processes)


def test_memory_of_a_training_by_hand():
    """4e9 parameters, 8,192 tokens at once: 63,246 = sqrt(4e9)."""
    activation = 8192 * 63245.55
    assert train_bytes(real()) == pytest.approx(18 * 4e9 + 90 * activation + 3e9)
    checkpointed = compute(gradient_checkpointing=True)
    assert train_bytes(checkpointed) == pytest.approx(18 * 4e9 + 10 * activation + 3e9)
    assert train_bytes(checkpointed, 8) == pytest.approx(16 * 4e9 / 8 + 10 * activation + 3e9)
    single = real(models={"base": hub(compute={})})
    assert train_bytes(single) == pytest.approx(16 * 4e9 + 180 * activation + 3e9)
    study, run = with_method(rank=16)
    adapter = 16 * 35 * 63245.55
    assert sizes.train_bytes(study, run) == pytest.approx(2 * 4e9 + 16 * adapter + 90 * activation + 3e9)
    study, run = with_method(objective="asft")
    assert sizes.train_bytes(study, run) == pytest.approx(train_bytes(real()) + 2 * 4e9)


@pytest.mark.parametrize(("n", "expected"), [(0.6, 1), (4, 2), (14, 4), (32, 16), (2000, None)])
def test_the_fewest_processes_that_fit(n, expected):
    keys = {"parameters": n, "compute": {"precision": "bfloat16", "gradient_checkpointing": True}}
    study = real(models={"base": hub(**keys)})
    run = runs_of(study)["base", "sft", 0]
    found = sizes.fewest_processes(study, run, GPUS["H100"])
    assert found == expected
    fits = [p for p in (1, 2, 4, 8, 16, 32) if train_bytes(study, p) <= 80e9]
    assert fits[:1] == ([found] if found else [])


def test_memory_of_sampling_is_that_of_a_batch_that_never_ends():
    run = runs_of(real())["base", "sft", 0]
    cache = 100 * (150 + 8192) * 150e3
    assert sizes.evaluate_bytes(real(), run, GPUS["H100"]) == pytest.approx(8e9 + cache + 3e9)
    assert sizes.evaluate_bytes(compute(backend="vllm"), run, GPUS["H100"]) == pytest.approx(72e9)
    assert sizes.score_bytes(real(), "base") == 11e9


def test_disk_by_hand():
    sweep = {"epochs": {"methods": ["sft"], "epochs": 5}, "lora_rank": {"methods": ["sft"], "rank": [16]}}
    study = real(models={"base": hub(), "other": hub("some/unknown")}, sweeps=sweep)
    found = sizes.disk_bytes(study, study_runs(runs_of(study)))
    adapter = 16 * 35 * 63245.55
    # One run, five epochs and a last model of another, an adapter.
    assert found["runs"] == pytest.approx(4 * 4e9 * 7 + 4 * adapter)
    assert found["models"] == 8e9
    assert found["training"] == pytest.approx(2 * 12 * 4e9 + 5 * 4 * 4e9)
    # Both models: the base itself, a run, five epochs and the run with adapters.
    assert found["answers"] == pytest.approx(2 * 8 * 800 * 1024 * sizes.TEXT_BYTES, rel=1e-3)


def test_methods_timed_in_turn_take_their_share_of_each_run():
    timing = {"annotators": [], "timing": {"methods": ["sft", "asft"], "seeds": 3, "steps": 21}}
    methods = {"sft": {"objective": "sft", "seeds": 1}, "asft": {"objective": "asft", "seeds": 1}}
    study = real(methods=methods, analysis=timing)
    # 21 steps on 32 answers of 650 tokens; forward and backward, and those of a frozen model.
    learnt = (6 + 8) * 4e9 * 21 * 32 * 650 / (costs.PEAK_SHARE * 989e12)
    loaded = 8e9 / costs.DISK_RATE
    expected = costs.START_SECONDS + loaded + 3 * (2 * loaded + learnt)
    assert job_seconds(study, "timing", GPUS["H100"], "base") == pytest.approx(expected)
    with pytest.raises(ValueError, match="analysis.timing: found models.base.compute.processes = 2, expected 1"):
        real(methods=methods, analysis=timing, models={"base": hub(compute=BFLOAT16 | {"processes": 2})})
    with pytest.raises(ValueError, match="timing.methods: found asft with objective psft, expected one that"):
        real(methods=methods | {"asft": {"objective": "psft", "seeds": 1}}, analysis=timing)


# Resources


def test_resources_of_a_miniature_are_constants():
    study = load_study(ROOT / "workflow" / "studies" / "smoke.yaml")
    for rule, (memory, minutes) in CONSTANT.items():
        found = resources_of(study, rule, "mini")
        gpu = int(rule in ("pretrain", "score", "train", "evaluate", "overfit", "gradients", "drift", "timing"))
        assert found == {"mem_mb": memory, "runtime": minutes, "gpu": gpu}


def test_resources_grow_with_the_model_and_never_below_the_constants():
    keys = {"precision": "bfloat16", "processes": 8, "backend": "vllm", "evaluation_gpus": 2}
    for n in (0.001, 1, 14, 70):
        study = real(models={"base": hub(parameters=n, compute=keys)})
        run = runs_of(study)["base", "sft", 0]
        for rule, gpu in (("train", 8), ("evaluate", 2), ("score", 1), ("overfit", 1), ("fetch", 0), ("collect", 0)):
            found = resources_of(study, rule, "base", run if rule in ("train", "evaluate", "overfit") else None)
            assert found["gpu"] == gpu and all(type(value) is int for value in found.values())
            assert found["mem_mb"] >= CONSTANT[rule][0] and found["runtime"] >= CONSTANT[rule][1]
            assert not gpu or found["runtime"] * 60 >= 3 * job_seconds(study, rule, GPUS["A100"], "base", run)
    # Weights in float32 and 8 GB for each of the eight processes, with a quarter to spare.
    assert resources_of(study, "train", run=run)["mem_mb"] == 1.25 * (8 * 4 * 70 + 8 * 8) * 1000


def test_a_judge_may_take_a_day_and_an_unknown_model_too():
    analysis = {"annotators": ["llm"], "judge": {"model": "judge", "base_url": "https://host/v1"}}
    study = real(analysis=analysis, models={"base": hub("some/unknown")})
    assert resources_of(study, "annotate", annotator="llm")["runtime"] == 24 * 60
    assert resources_of(study, "train", run=runs_of(study)["base", "sft", 0])["runtime"] == 24 * 60
    assert resources_of(study, "draw") == {"mem_mb": 2000, "runtime": 10, "gpu": 0}


@pytest.mark.parametrize(
    ("bases", "cores", "threads"),
    [(1, 1, 1), (1, 2, 2), (2, 2, 1), (3, 2, 1), (3, 4, 1), (3, 6, 2), (3, None, 2)],
)
def test_bases_are_pretrained_on_two_threads_where_none_waits_for_it(bases, cores, threads):
    assert pretraining_threads(bases, cores) == threads


def test_nothing_heavy_is_imported():
    code = "import sys, profit.plan, profit.resources, profit.progress\n"
    code += "print(*{'torch', 'pandas', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_vllm_without_a_gpu_or_the_package_stops_before_anything_starts(monkeypatch):
    study = real(models={"base": hub(parameters=1, compute={"backend": "vllm", "precision": "bfloat16"})})
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match="models.base.compute.backend: found vllm and no vllm installed.*nothing was s"
    ):
        progress.check_reach(study, {"base"}, 1)
    progress.check_reach(study, set(), 0)
    monkeypatch.setattr(progress, "find_spec", lambda name: name)
    with pytest.raises(InputError, match="found vllm and no GPU in reach"):
        progress.check_reach(study, {"base"}, 0)
    progress.check_reach(study, {"base"}, 1)
