"""Seconds of the jobs of a study of real models: arithmetic on stated assumptions, nothing of it measured.

With n parameters, a token costs 2n operations forward and 4n backward, 2n of which make gradients of weights and fall
away where only LoRA adapters learn (Kaplan et al. 2020, arXiv 2001.08361, §2.1; attention over the context, a few per
cent at these lengths, is left out). Gradient checkpointing, a frozen model to compare with, and an objective that
reads the whole step first cost 2n more each. A GPU does PEAK_SHARE of its peak, communication of shards included.

Answers to benchmarks: their lengths are taken as exponential with the mean of `uncut_tokens`, cut at the limit. A step
that adds a token to b answers takes the longest of what memory (weights, keys and values, at BANDWIDTH_SHARE of the
bandwidth), arithmetic (2n b operations) and STEP_SECONDS of launching allow. Of those asked at once, as many as run
beside each other (hf: all; vllm: what its memory holds, at most VLLM_ROWS) are kept going until none waits; the last
ones run out with the longest of them: ln b + 0.58 means, the expected longest of b, at most the limit.

GPUs: the makers' data sheets, dense (without sparsity); NVIDIA publishes none of the H20, whose numbers are those that
resellers and the press give. What is unknown of a study is a `None` here, and said by profit.plan.

No command: used by profit.plan, profit.sizes and profit.resources. Imports nothing heavy.
"""

import math
import re
from dataclasses import dataclass

from profit.bases import HubModel
from profit.runs import Run, benchmarks_of, runs_of, timed_runs
from profit.study import Benchmark, Study


@dataclass(frozen=True)
class GPU:
    """Peak TFLOPS in bfloat16 (tensor cores) and float32, memory bandwidth in TB/s and size in GB of 10^9 bytes."""

    name: str
    bfloat16: float
    float32: float
    bandwidth: float
    memory: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("H100", 989, 67, 3.35, 80),
        GPU("H200", 989, 67, 4.8, 141),
        GPU("H20", 148, 44, 4.0, 96),
        GPU("A100", 312, 19.5, 2.04, 80),
        GPU("L40S", 362, 91.6, 0.864, 48),
    )
}
DEFAULT_GPU = "H100"


def gpu_called(name: str) -> GPU | None:
    """The GPU that nvidia-smi calls so (NVIDIA H100 80GB HBM3), None if it is another or of another size."""
    words, size = re.split(r"[\s-]", name), re.search(r"(\d+)GB", name)
    fits = (gpu for gpu in GPUS.values() if gpu.name in words and (size is None or float(size[1]) == gpu.memory))
    return next(fits, None)


# Assumed of any GPU: shares of its peaks that are reached, seconds before the first step, and a disk's bytes a second.
PEAK_SHARE, BANDWIDTH_SHARE = 0.3, 0.6
START_SECONDS, DISK_RATE, NETWORK_RATE = 60.0, 1e9, 1e8
# Assumed of the data where a study does not say: prompts, and tokens of a prompt and of a reference.
PROMPTS, PROMPT_TOKENS, ANSWER_TOKENS = 2000, 150, 500
# Assumed of sampling: a step of Python (eager transformers) or of recorded graphs (vllm), and vllm's batch and memory.
STEP_SECONDS = {"hf": 0.03, "vllm": 0.005}
VLLM_ROWS, VLLM_MEMORY = 256, 0.9
# TOKENS_AT_ONCE of profit.vllm_lm, which imports vllm.
VLLM_TOKENS = 2**23
# Keys and values of a token in bfloat16: 28 to 40 layers x 8 heads x 128 x 2 x 2 bytes, as in Qwen3 from 0.6B to 14B
# and Llama-3.1-8B; a model whose heads share nothing (OLMo-2-7B) keeps three to four times as much.
CACHE_BYTES = 150e3
# LoRA of rank r on every linear layer has about r x 35 sqrt(n) parameters (within a third for Qwen3 and Llama).
LORA_PARAMETERS = 35
BYTES = {"bfloat16": 2, "float32": 4}
# Seconds of a CPU job and of one reply of a judge.
CPU_SECONDS = {"collect": 60, "questions": 30, "annotate": 60, "agreement": 60, "correlate": 300,
               "account": 60, "answer_style": 120, "tabulate": 120, "tune": 30, "claims": 30, "draw": 10,
               "report": 60}  # fmt: skip
JUDGE_SECONDS = 5.0

# Objectives that read the tokens of a whole step before they weigh one, that compare with a frozen base, and whose
# loss needs no weights (there the normaliser `kept` means nothing).
READ_FIRST, COMPARE, WITHOUT_WEIGHTS = ("entropy", "excess"), ("asft", "gift"), ("label_smoothing", "gem")


def parameters_of(study: Study, model: str) -> float | None:
    """Parameters of a model: as stated, else what the name of its source or its own says (0.6B, 160M), else None."""
    base = study.models[model]
    if not isinstance(base, HubModel):
        return None
    if base.parameters is not None:
        return base.parameters * 1e9
    for name in (base.source, model):
        if found := re.findall(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])", name):
            number, unit = found[-1]
            return float(number) * (1e9 if unit in "bB" else 1e6)
    return None


def trained_parameters(study: Study, run: Run) -> float | None:
    """Parameters that a run trains: all of the model's, or its adapters'."""
    n, tuning = parameters_of(study, run.leaf["model"]), run.leaf["tuning"]
    if n is None or tuning["kind"] == "full":
        return n
    return min(n, tuning["rank"] * LORA_PARAMETERS * math.sqrt(n))


def reference_tokens(study: Study) -> int:
    """Tokens of a prompt and its answer, as far as training and scoring read them."""
    return min(PROMPT_TOKENS + ANSWER_TOKENS, study.training.max_length)


def prompts_of(study: Study) -> int:
    """Prompts of a study of real data."""
    return study.data.prompts or PROMPTS


def uncut_tokens(limit: int) -> float:
    """Mean tokens of an answer if none were cut: half of a small limit, but 500 at most; an eighth of a large one."""
    return max(min(limit / 2, 500), limit / 8)


def mean_tokens(limit: int) -> float:
    """Mean tokens of an answer that is cut at the limit."""
    return uncut_tokens(limit) * (1 - math.exp(-limit / uncut_tokens(limit)))


def gpus_of(study: Study, rule: str, model: str | None) -> int:
    """GPUs that a job of a rule leases, where GPUs are asked for at all."""
    if rule not in ("pretrain", "score", "train", "evaluate", "overfit", "gradients", "drift", "timing"):
        return 0
    compute = study.compute_of(model)
    return {"train": compute.processes, "evaluate": compute.evaluation_gpus}.get(rule, 1)


def job_seconds(
    study: Study, rule: str, gpu: GPU, model: str | None = None, run: Run | None = None, annotator: str | None = None
) -> float | None:
    """Seconds of a job of a study of real models, None if the parameters of its model are unknown."""
    if rule == "annotate" and annotator == "llm":
        judge = study.analysis.judge
        answers = min(judge.sample or math.inf, prompts_of(study)) * study.data.references
        return answers * JUDGE_SECONDS / judge.concurrency
    if rule in CPU_SECONDS:
        return CPU_SECONDS[rule]
    n = parameters_of(study, model)
    if n is None:
        return None
    if rule == "fetch":
        return 2 * n / NETWORK_RATE
    started = START_SECONDS + 2 * n / DISK_RATE
    if rule == "train":
        return started + _train(study, run, n, gpu)
    if rule == "evaluate":
        items = benchmarks_of(study, run).values()
        return started + sum(_answer(study, model, item, n, gpu) for item in items)
    if rule == "timing":
        each, timing = timed_runs(study, runs_of(study).values())[model].values(), study.analysis.timing
        answers = timing.steps * study.training.batch_size
        trained = sum(_learn(study, run, n, gpu, answers) for run in each)
        return started + timing.seeds * (2 * n / DISK_RATE * len(each) + trained)
    tokens = prompts_of(study) * study.data.references * reference_tokens(study)
    return started + 2 * n * tokens / _rate(study, model, gpu)


def train_operations(study: Study, run: Run) -> float:
    """Operations a token and parameter of a training."""
    objective, training = run.leaf["objective"], run.leaf["training"]
    name = objective["name"]
    weighs = name not in (*COMPARE, *WITHOUT_WEIGHTS)
    first = name in READ_FIRST or objective["normaliser"] == "kept" and weighs and name != "random"
    passes = (
        first and training["batch_size"] > training["micro_batch_size"],
        name in COMPARE,
        study.compute_of(run.leaf["model"]).gradient_checkpointing,
    )
    return 2 + (4 if run.leaf["tuning"]["kind"] == "full" else 2) + 2 * sum(passes)


def answer_bytes(study: Study, model: str, limit: float, rows: float) -> float:
    """Bytes of weights, keys and values while `rows` answers of `limit` tokens are sampled."""
    each = BYTES[study.compute_of(model).precision]
    return each * parameters_of(study, model) + rows * (PROMPT_TOKENS + limit) * CACHE_BYTES * each / 2


def _rate(study: Study, model: str, gpu: GPU) -> float:
    """Operations a second of one GPU."""
    return PEAK_SHARE * getattr(gpu, study.compute_of(model).precision) * 1e12


def _train(study: Study, run: Run, n: float, gpu: GPU) -> float:
    training = run.leaf["training"]
    references = run.leaf["references"] if run.leaf["budget"] == "epochs" else 1
    answers = run.leaf["stop"] * training["epochs"] * prompts_of(study) * references
    # A checkpoint an epoch (weights and two moments in float32), and the weights that are kept.
    written = trained_parameters(study, run) * (12 * training["epochs"] + 4 * kept_models(run))
    return _learn(study, run, n, gpu, answers) + written / DISK_RATE


def _learn(study: Study, run: Run, n: float, gpu: GPU, answers: float) -> float:
    """Seconds of training on so many answers."""
    operations, model = train_operations(study, run) * n * answers * reference_tokens(study), run.leaf["model"]
    return operations / (_rate(study, model, gpu) * study.compute_of(model).processes)


def kept_models(run: Run) -> int:
    """Models that a run leaves behind: the final one, and with them those of its epochs."""
    return 1 + run.leaf["keep_epochs"] * run.leaf["training"]["epochs"]


def _answer(study: Study, model: str, item: Benchmark, n: float, gpu: GPU) -> float:
    """Seconds of one benchmark."""
    compute = study.compute_of(model)
    rate, bandwidth = _rate(study, model, gpu), BANDWIDTH_SHARE * gpu.bandwidth * 1e12
    rate, bandwidth = rate * compute.evaluation_gpus, bandwidth * compute.evaluation_gpus
    limit, mean, answers = item.max_new_tokens, mean_tokens(item.max_new_tokens), item.questions * item.samples
    asked = study.decoding_of(model).batch_size
    if compute.backend == "vllm":
        asked = max(asked, VLLM_TOKENS // limit)
    calls = math.ceil(answers / asked)
    asked = rows = answers / calls
    if compute.backend == "vllm":
        room = VLLM_MEMORY * gpu.memory * 1e9 * compute.evaluation_gpus - answer_bytes(study, model, 0, 0)
        each = answer_bytes(study, model, mean, 1) - answer_bytes(study, model, 0, 0)
        rows = min(rows, VLLM_ROWS, max(room / each, 1))
    longest = min(limit, uncut_tokens(limit) * (math.log(rows) + 0.58))

    def step(beside: float) -> float:
        moved = answer_bytes(study, model, mean / 2, beside) / bandwidth
        return max(STEP_SECONDS[compute.backend], moved, 2 * n * beside / rate)

    call = (asked - rows) * mean / rows * step(rows) + longest * step(rows * mean / longest)
    return calls * call + 2 * n * PROMPT_TOKENS * item.questions / rate
