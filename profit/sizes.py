"""Memory and disk that the jobs of a study of real models need: arithmetic on stated assumptions, nothing measured.

Bytes of a GPU while t of n parameters are trained, on p processes that share everything but activations:

    full    16 t / p (float32 weights, gradients and AdamW's two moments); in bfloat16 on one process 2 t more, the
            copies that autocast keeps
    LoRA    (2 or 4 n + 16 t) / p (frozen weights in the model's precision)
    both    a frozen base to compare with (2 or 4 n / p, full tuning alone); RESERVED; and for each token of a
            micro-batch, at training.max_length, ACTIVATION sqrt(n) bytes in bfloat16 and twice that in float32: 50 a
            layer and unit of width (Korthikanti et al. 2022, arXiv 2205.05198: 34 without attention scores; a gated
            MLP has more), where layers x width = 1.7 sqrt(n), from n = 12 layers x width^2 with 34 layers. With
            gradient checkpointing CHECKPOINTED sqrt(n): the inputs of all layers, and one of them whole

Scoring holds the weights, sampling also the keys and values of profit.costs: for hf of a whole batch at the limit of
the longest benchmark, which is what a base needs that does not end; vllm takes VLLM_MEMORY of its GPUs whatever comes.

Disk: a base in bfloat16 (2 n), the trained weights in float32 (4 t a model that a run leaves), while a run trains its
last two checkpoints (12 t each: weights and moments) and its epochs a second time, and texts of answers.

No command: used by profit.plan and profit.resources. Imports nothing heavy.
"""

import math

from profit.costs import (
    BYTES,
    COMPARE,
    GPU,
    PEAK_SHARE,
    PROMPTS,
    VLLM_MEMORY,
    answer_bytes,
    gpus_of,
    kept_models,
    mean_tokens,
    parameters_of,
    reference_tokens,
    trained_parameters,
)
from profit.runs import Run, benchmarks_of
from profit.study import Benchmark, Study

# The context of CUDA, the allocator's slack, chunks of the head, and the shard that is whole at the moment.
RESERVED = 3e9
ACTIVATION, CHECKPOINTED = 90.0, 10.0
# Bytes of an answer's token in samples.parquet and lm_eval.json.
TEXT_BYTES = 10
MOST_PROCESSES = 64


def train_bytes(study: Study, run: Run, processes: int | None = None) -> float | None:
    """Bytes of each GPU of a training, on `compute.processes` of them or another number."""
    model, training = run.leaf["model"], run.leaf["training"]
    n, t, compute = parameters_of(study, model), trained_parameters(study, run), study.compute_of(model)
    if n is None:
        return None
    processes, each, full = processes or compute.processes, BYTES[compute.precision], t == n
    shared = 16 * t + (0 if full else each * n)
    if full and run.leaf["objective"]["name"] in COMPARE:
        shared += each * n
    copies = 2 * t if full and processes == 1 and compute.precision == "bfloat16" else 0
    tokens = training["micro_batch_size"] * training["max_length"]
    activation = CHECKPOINTED if compute.gradient_checkpointing else ACTIVATION
    return shared / processes + copies + tokens * activation * math.sqrt(n) * each / 2 + RESERVED


def fewest_processes(study: Study, run: Run, gpu: GPU) -> int | None:
    """The smallest number of processes that share the batches of a training and fit the GPU; None if none does."""
    training = run.leaf["training"]
    for processes in range(1, MOST_PROCESSES + 1):
        shares = training["batch_size"] % (training["micro_batch_size"] * processes) == 0
        if shares and train_bytes(study, run, processes) <= gpu.memory * 1e9:
            return processes
    return None


def evaluate_bytes(study: Study, run: Run, gpu: GPU) -> float | None:
    """Bytes of each GPU of an evaluation."""
    model = run.leaf["model"]
    if parameters_of(study, model) is None:
        return None
    compute = study.compute_of(model)
    if compute.backend == "vllm":
        return max(VLLM_MEMORY * gpu.memory * 1e9, answer_bytes(study, model, 0, 1) / compute.evaluation_gpus)
    rows = study.decoding_of(model).batch_size
    items = benchmarks_of(study, run).values()
    longest = max(answer_bytes(study, model, item.max_new_tokens, min(rows, _answers(item))) for item in items)
    return longest + RESERVED


def score_bytes(study: Study, model: str) -> float | None:
    """Bytes of the GPU of a job that scores references."""
    n = parameters_of(study, model)
    return None if n is None else BYTES[study.compute_of(model).precision] * n + RESERVED


def host_bytes(study: Study, rule: str, model: str) -> float | None:
    """Bytes of main memory: weights in float32 as they are loaded, by every process of a training."""
    n = parameters_of(study, model)
    if n is None:
        return None
    processes = study.compute_of(model).processes if rule == "train" else 1
    return 8e9 * processes + 4 * n * processes


def disk_bytes(study: Study, runs: list[Run]) -> dict[str, float]:
    """Bytes by what they are: models, runs (what stays of them), training (while the largest runs), answers.

    Models of unknown size are left out.
    """
    sizes = {model: parameters_of(study, model) for model in study.models}
    trained = [run for run in runs if run.trained and sizes[run.leaf["model"]] is not None]
    sampled = {
        run.key: sum(_answers(item) * mean_tokens(item.max_new_tokens) for item in benchmarks_of(study, run).values())
        for run in runs
    }
    return {
        "models": sum(2 * n for n in sizes.values() if n is not None),
        "runs": sum(4 * trained_parameters(study, run) * kept_models(run) for run in trained),
        "training": max((_scratch_bytes(study, run) for run in trained), default=0.0),
        "answers": sum(TEXT_BYTES * sampled[run.key] * len(run.checkpoints) for run in runs),
    }


def needs(study: Study, runs: list[Run], gpu: GPU, gpus: int) -> str:
    """Peak memory of the jobs of each model, disk, what was assumed, and a warning for each job that does not fit."""
    lines = [f"{'GPUs x GB of a job':<24}{'parameters':>12}{'train':>12}{'evaluate':>12}{'score':>12}"]
    warnings = []
    for model in study.models:
        n = parameters_of(study, model)
        if n is None:
            lines.append(f"{model:<24}{'unknown':>12}")
            warnings.append(f"models.{model}.parameters: found none, expected how many billions, to predict its jobs")
            continue
        own = [run for run in runs if run.leaf["model"] == model]
        trained = max((run for run in own if run.trained), key=lambda run: train_bytes(study, run), default=None)
        peaks = {
            "train": train_bytes(study, trained) if trained else 0.0,
            "evaluate": max(evaluate_bytes(study, run, gpu) for run in own),
            "score": score_bytes(study, model),
        }
        shown = {rule: f"{gpus_of(study, rule, model)} x {peak / 1e9:.0f}" for rule, peak in peaks.items()}
        lines.append(f"{model:<24}{n / 1e9:>10.3g} B" + "".join(f"{text:>12}" for text in shown.values()))
        has, limit = f"an {gpu.name} has {gpu.memory:.0f}", gpu.memory * 1e9
        if peaks["train"] > limit:
            warnings.append(
                f"training {model}/{trained.leaf['method']} takes {shown['train']} GB, {has}: "
                f"{_way_out(study, trained, gpu)}"
            )
        if peaks["evaluate"] > limit:
            cure = "evaluation_gpus" if study.compute_of(model).backend == "vllm" else "decoding.batch_size or backend"
            warnings.append(f"evaluating {model} takes {shown['evaluate']} GB if no answer ends, {has}: change {cure}")
        if (most := max(gpus_of(study, rule, model) for rule in peaks)) > gpus:
            warnings.append(
                f"a job of {model} asks for {most} GPUs, found {gpus} (here --gpus, then --resources gpu=…)"
            )
    disk = {name: f"{size / 1e9:,.0f} GB" for name, size in disk_bytes(study, runs).items()}
    lines.append(
        f"disk: {disk['models']} of models, {disk['runs']} of trained weights, {disk['answers']} of answers, and "
        f"{disk['training']} of checkpoints while the largest run trains"
    )
    prompts = f"{PROMPTS:,} prompts (data.prompts is not set), " if study.data.prompts is None else ""
    lines.append(
        f"assumed, as profit/costs.py and profit/sizes.py say: {prompts}{reference_tokens(study)} tokens a reference, "
        f"{PEAK_SHARE:.0%} of a GPU's peak"
    )
    return "\n".join([*lines, *(f"WARNING: {warning}" for warning in warnings)])


def _way_out(study: Study, run: Run, gpu: GPU) -> str:
    """What would let a training fit."""
    enough = fewest_processes(study, run, gpu)
    cure = f"compute.processes: {enough} would do" if enough else f"up to {MOST_PROCESSES} processes would not do"
    checkpointing = study.compute_of(run.leaf["model"]).gradient_checkpointing
    return cure if checkpointing else f"{cure}, compute.gradient_checkpointing needs less"


def _scratch_bytes(study: Study, run: Run) -> float:
    epochs = run.leaf["training"]["epochs"]
    return trained_parameters(study, run) * (12 * min(epochs, 2) + 4 * (kept_models(run) - 1))


def _answers(item: Benchmark) -> int:
    return item.questions * item.samples
