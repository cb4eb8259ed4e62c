"""Rule `evaluate`: sample a model's answers to the study's benchmarks through lm-eval and score them (paper §5.1).

Each benchmark is an lm-eval task of `workflow/benchmarks/` on a local items file, with n sampled answers a question
and the paper's decoding (temperature 0.7, top_p 0.8, top_k 20). Its random numbers depend on the run's seed and the
benchmark's name alone: they are the same for all methods of a seed, and another benchmark more or less changes none.
`--compute` says who samples (backend hf or vllm), how precisely and, with vllm, on how many GPUs.

    python -m profit.evaluate --run '{"model": "mini", "method": "sft", "seed": 0, …}' --model results/S/models/mini \
        --tuned results/S/runs/mini/sft/seed0/model --checkpoint final --scratch results/S/scratch/… \
        --benchmarks '[{"name": "choice", "task": "mini_choice", "items": "…/choice.json", "samples": 2,
                        "max_new_tokens": 150, "tight_tokens": 50}]' \
        --decoding '{"temperature": 0.7, "top_p": 0.8, "top_k": 20, "batch_size": 400}' \
        --compute '{"precision": "bfloat16", "backend": "vllm"}' \
        --output-summary summary.json --output-samples samples.parquet --output-lm-eval lm_eval.json

The samples have one row a sample; `lm_eval.json` holds lm-eval's own results with its samples. Finished benchmarks and
finished batches of the others are kept in the scratch folder under a fingerprint of all that decides their numbers: a
killed job resumes, and an added benchmark leaves the others alone.
"""

import argparse
import gc
import hashlib
import json
import logging
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lm_eval
import pandas as pd
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from profit import answers, provenance, scoring
from profit.bases import Decoding
from profit.code_version import code_version
from profit.files import InputError, canonical_json, file_hash, read_json, write_folder, write_json, write_parquet
from profit.lm import RecordingLM
from profit.models import PLAIN, context_length, load_run, load_tokenizer, parse_compute, weights_hash
from profit.recording import Recording, chat_text, derived_seed, encode_requests
from profit.validation import validated

log = logging.getLogger(__name__)

TASKS = Path(__file__).resolve().parent.parent / "workflow" / "benchmarks"

# The functions that a task YAML may name together; written out here, the code hash of this rule covers them.
TASK_FUNCTIONS = [
    {"custom_dataset": scoring.load_items, "process_results": scoring.process_results},
    {"custom_dataset": answers.load_items, "process_results": answers.process_results},
]
SAMPLE_COLUMNS = ["benchmark", "question_id", "sample", "correct", "ended", "parsed", "tokens", "text"]


def load_task(folder: Path, benchmark: dict[str, Any], decoding: Decoding, seed: int) -> ConfigurableTask:
    """Load a benchmark's task YAML from `folder`, the study's items, samples, cap and decoding in place of its own.

    Raises:
        InputError: no such task, a YAML that lm-eval rejects or with none of `TASK_FUNCTIONS`, bad items, or items of
            kind code without leave to run what a model writes.
    """
    name, file = benchmark["task"], folder / f"{benchmark['task']}.yaml"
    # The index of lm-eval's own tasks would take 12 seconds.
    manager = TaskManager(include_path=folder, include_defaults=False, metadata={"items": str(benchmark["items"])})
    if name not in manager.all_subtasks and not file.is_file():
        raise InputError(
            f"{benchmark['name']}/task: found {name!r}, expected one of {', '.join(manager.all_subtasks)}"
        )
    generation = {
        "until": [],
        "do_sample": True,
        **decoding.model_dump(exclude={"batch_size"}),
        "max_gen_toks": benchmark["max_new_tokens"],
        # Equal for all methods of a run seed.
        "seed": derived_seed(seed, benchmark["name"]),
    }
    keep_all = {"name": "all_samples", "filter": [{"function": "take_first_k", "k": benchmark["samples"]}]}
    settings = {"repeats": benchmark["samples"], "generation_kwargs": generation, "filter_list": [keep_all]}
    try:
        if name not in manager.all_subtasks:
            manager.load([str(file)])
        # A task inside a group is lm-eval's way to override parts of its YAML.
        task = manager.load([{"group": "study", "task": [{"task": name, **settings}]}])["tasks"][name]
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{file}: lm-eval rejects it: {type(error).__name__}: {error}") from error
    found = {key: getattr(task.config, key) for key in TASK_FUNCTIONS[0]}
    if found not in TASK_FUNCTIONS:
        raise InputError(f"{file}: found {found}, expected both of profit.scoring or both of profit.answers")
    return task


def is_adapter(tuned: str | None) -> bool:
    """Whether a run is a peft adapter, to be merged into the base, whose tokenizer and settings then hold."""
    return tuned is not None and (Path(tuned) / "adapter_config.json").is_file()


def load_lm(arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, context: int) -> Recording:
    """Load the base model, or the run `tuned` from it, for texts of at most `context` tokens.

    Raises:
        InputError: as the loaders of profit.models.
    """
    compute, batch_size = arguments.compute, arguments.decoding.batch_size
    if compute.backend == "hf":
        return RecordingLM(load_merged(arguments), tokenizer, batch_size)
    from profit.vllm_lm import RecordingVLLM

    if not is_adapter(arguments.tuned):
        return RecordingVLLM(Path(arguments.tuned or arguments.model), tokenizer, batch_size, context, compute)
    merged = Path(arguments.scratch) / "merged"
    with write_folder(merged) as folder:
        load_merged(arguments).save_pretrained(folder)
    # vLLM measures what is free on the GPU.
    gc.collect()
    torch.cuda.empty_cache()
    lm = RecordingVLLM(merged, tokenizer, batch_size, context, compute)
    shutil.rmtree(merged)
    return lm


def load_merged(arguments: argparse.Namespace) -> PreTrainedModel:
    """Load the base model or the run, an adapter merged into the base; errors as `load_run`."""
    loaded = load_run(arguments.model, arguments.tuned, arguments.compute)
    return loaded.merge_and_unload() if isinstance(loaded, PeftModel) else loaded


def fingerprint(task: ConfigurableTask, benchmark: dict[str, Any], arguments: argparse.Namespace) -> str:
    """Hash of all that decides a benchmark's numbers: its block and task, items, weights, batches, code, versions."""
    content = {
        "benchmark": {key: benchmark[key] for key in ("name", "task", "samples", "max_new_tokens")},
        "task": {key: value for key, value in task.dump_config().items() if key != "metadata"},
        "items": file_hash(benchmark["items"]),
        "model": [weights_hash(folder) for folder in (arguments.model, arguments.tuned) if folder],
        # vLLM makes batches of its own.
        "batch_size": arguments.decoding.batch_size if arguments.compute.backend == "hf" else None,
        "compute": arguments.compute.model_dump(include={"precision", "attention", "backend", "evaluation_gpus"}),
        "code": code_version("evaluate"),
        "versions": provenance.versions(),
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


def run_benchmark(lm: Recording, task: ConfigurableTask, benchmark: dict[str, Any]) -> dict[str, Any]:
    """Sample and score one benchmark: {"samples": rows of samples.parquet, "lm_eval": lm-eval's results}."""
    # `simple_evaluate` would add a report on the machine, at a third of a second; provenance has what matters of it.
    results = lm_eval.evaluate(
        lm, {"tasks": {task.task_name: task}}, bootstrap_iters=0, apply_chat_template=True, fewshot_as_multiturn=True
    )
    results = json.loads(json.dumps(results, default=handle_non_serializable))
    rows, generations = [], iter(lm.generations)
    for question in results["samples"][task.task_name]:
        for number, (correct, parsed) in enumerate(zip(question["accuracy"], question["parsed"], strict=True)):
            made = next(generations)
            marks = (bool(correct), made.ended, bool(parsed), made.tokens, made.text)
            rows.append(
                dict(zip(SAMPLE_COLUMNS, (benchmark["name"], question["doc"]["id"], number, *marks), strict=True))
            )
    # No filter changes an answer, and once is enough.
    for question in results["samples"][task.task_name]:
        del question["filtered_resps"]
    return {"samples": rows, "lm_eval": results}


def summarise(samples: pd.DataFrame, benchmark: dict[str, Any]) -> dict[str, float | int | None]:
    """Shares over all samples of one benchmark; accuracy_tight also asks for at most `tight_tokens`, accuracy_ended is
    the accuracy of the answers that ended by themselves (None if none did)."""
    correct, ended = samples["correct"], samples["ended"]
    return {
        "questions": samples["question_id"].nunique(),
        "samples": benchmark["samples"],
        "accuracy": correct.mean(),
        "accuracy_tight": (correct & (samples["tokens"] <= benchmark["tight_tokens"])).mean(),
        "accuracy_ended": correct[ended].mean() if ended.any() else None,
        "ended": ended.mean(),
        "cut": (~ended).mean(),
        "parsed": samples["parsed"].mean(),
        "tokens_mean": samples["tokens"].mean(),
    }


def evaluate(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return each benchmark's samples and lm-eval results, from the scratch folder where they are finished there.

    Raises:
        InputError: bad tasks, items, model folders or prompts, or no vllm, before anything is generated.
    """
    if arguments.compute.backend == "vllm" and not find_spec("vllm"):
        raise InputError("--compute/backend: found no vllm installed, expected it, and a GPU (see README)")
    benchmarks = {benchmark["name"]: benchmark for benchmark in arguments.benchmarks}
    tasks = {
        name: load_task(Path(arguments.tasks), benchmark, arguments.decoding, arguments.run["seed"])
        for name, benchmark in benchmarks.items()
    }
    folder = arguments.model if is_adapter(arguments.tuned) else arguments.tuned or arguments.model
    tokenizer, context, longest = load_tokenizer(folder), context_length(folder), 0
    for name, task in tasks.items():
        task.build_all_requests(
            apply_chat_template=True, fewshot_as_multiturn=True, chat_template=partial(chat_text, tokenizer)
        )
        prompts = encode_requests(task.instances, tokenizer, context)
        longest = max(longest, max(map(len, prompts)) + benchmarks[name]["max_new_tokens"])
    scratch = Path(arguments.scratch)
    pieces = {
        name: scratch / f"{name}-{fingerprint(tasks[name], benchmark, arguments)}.json"
        for name, benchmark in benchmarks.items()
    }
    batches = {name: piece.with_suffix(".jsonl") for name, piece in pieces.items()}
    for stale in set(scratch.glob("*.json*")) - {*pieces.values(), *batches.values()}:
        stale.unlink()
    missing = [name for name, piece in pieces.items() if not piece.is_file()]
    log.info("finished before: %s", ", ".join(name for name in pieces if name not in missing) or "none")
    lm = load_lm(arguments, tokenizer, longest) if missing else None
    for name in missing:
        lm.kept = batches[name]
        write_json(pieces[name], run_benchmark(lm, tasks[name], benchmarks[name]))
        batches[name].unlink(missing_ok=True)
    return {name: read_json(piece) for name, piece in pieces.items()}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m profit.evaluate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", required=True, type=json.loads, help="JSON of the method leaf (its seed is used)")
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--tuned", help="model or adapter folder of the run; left out: the base itself")
    parser.add_argument("--benchmarks", required=True, type=json.loads, help="JSON list of benchmark blocks")
    parser.add_argument(
        "--decoding", required=True, type=json.loads, help="JSON: temperature, top_p, top_k, batch_size"
    )
    parser.add_argument("--compute", default=PLAIN, type=parse_compute, help="JSON: precision, attention, backend, …")
    parser.add_argument("--tasks", default=TASKS, help="folder of task YAMLs")
    parser.add_argument("--scratch", required=True, help="folder for finished benchmarks, this checkpoint's own")
    parser.add_argument("--checkpoint", default="final", help="name of the checkpoint, for the provenance")
    parser.add_argument("--world", help="the world's world.json, whose hash the provenance gives")
    parser.add_argument("--output-summary", required=True, help="JSON: shares by benchmark")
    parser.add_argument("--output-samples", required=True, help="Parquet: one row a sample")
    parser.add_argument("--output-lm-eval", required=True, help="JSON: lm-eval's results by benchmark")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; more are slower for a small model")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = make_parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    arguments.decoding = validated(Decoding, arguments.decoding, "--decoding")
    blocks = {key: getattr(arguments, key).model_dump() for key in ("decoding", "compute")}
    settings = {**arguments.run, "checkpoint": arguments.checkpoint, "benchmarks": arguments.benchmarks, **blocks}
    world = read_json(arguments.world)["world"] if arguments.world else None
    with provenance.job("evaluate", settings, world) as job:
        finished = evaluate(arguments)
        samples = pd.DataFrame(
            [row for piece in finished.values() for row in piece["samples"]], columns=SAMPLE_COLUMNS
        )
        summary = {
            benchmark["name"]: summarise(samples[samples["benchmark"] == benchmark["name"]], benchmark)
            for benchmark in arguments.benchmarks
        }
        job.tokens(samples["tokens"].sum(), "generated")
        write_json(arguments.output_lm_eval, {name: piece["lm_eval"] for name, piece in finished.items()})
        record = job.record()
        write_parquet(arguments.output_samples, samples, {"provenance": record})
        write_json(arguments.output_summary, {"benchmarks": summary, "provenance": record})
    for name, found in summary.items():
        log.info(
            "%s: accuracy %.3f, ended %.3f, %.0f tokens", name, found["accuracy"], found["ended"], found["tokens_mean"]
        )


if __name__ == "__main__":
    main()
