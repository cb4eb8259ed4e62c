"""Train one run: model x method x seed, on the objective of profit.objectives.

    python -m profit train --run '{"model": …, "method": …, "seed": 0, "objective": {"name": "profit", …}, …}' \\
        --model results/S/models/M --references results/S/data/references.parquet \\
        [--annotations results/S/annotations/references/truth.parquet] [--compute '{"processes": 2, …}'] \\
        [--paired …/steps.parquet] [--scores …/base.parquet] \\
        --scratch results/S/scratch/M --output-model …/model --output-steps …/steps.parquet \\
        --output-summary …/train.json

The references of a run and their order depend on the seed alone, so all methods of a seed see the same data in the
same order. A killed run resumes from its last complete checkpoint and ends with the numbers of an undisturbed one. On
several processes, which this command starts itself (profit.processes), every step is on the same answers as on one.

Keys of a run beside objective and settings, all of which may be left out: `match: update_norm` brings each update to
the size of the paired run's (profit.updates); `stop` is the share of the planned steps after which the training ends,
its learning rate as planned for all; `mix` writes theta_base + mix (theta - theta_base) in place of theta, the weights
trained; `update_norm` measures the updates of a model too large to do so unasked.
"""

import argparse
import gc
import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from profit import processes, provenance
from profit.bases import Compute
from profit.checkpoints import Completed, claim, last_complete, step_of
from profit.code_version import code_version
from profit.data import prepare_examples
from profit.files import InputError, file_hash, write_folder, write_json, write_parquet
from profit.fuse import fuse_head
from profit.models import PLAIN, context_length, load_tokenizer, load_weights, pad_token, parse_compute, weights_hash
from profit.objectives import OBJECTIVES, check_objective
from profit.run_trainer import Length, RunTrainer, collate, training_arguments, unseen_examples
from profit.settings import copies_steps
from profit.steplog import StepLog, paired_column
from profit.updates import MOST_MEASURED, Updates

log = logging.getLogger(__name__)

# Of a model's block: what the numbers of a training depend on.
DECISIVE = {"precision", "attention", "gradient_checkpointing", "processes"}


def check(run: dict[str, Any], annotations: Path | None, paired: Path | None, scores: Path | None) -> None:
    """Raise InputError for wrong settings, labels that it lacks, or files of other runs that it lacks or reads not."""
    objective, match = run["objective"], run.get("match")
    try:
        check_objective(objective)
    except ValueError as error:
        raise InputError(f"--run: {error}") from None
    if match not in (None, "update_norm"):
        raise InputError(f"--run: match: found {match!r}, expected update_norm or null")
    for key in ("stop", "mix"):
        value = run.get(key, 1.0)
        if not 0 < value <= 1:
            raise InputError(f"--run: {key}: found {value}, expected a number above 0 and at most 1")
        if value < 1 and run["keep_epochs"]:
            raise InputError(f"--run: {key}: found {value} with keep_epochs, expected 1")
    needs, named = OBJECTIVES[objective["name"]].needs, f"objective {objective['name']}"
    named += f" and match {match}" if match else ""
    if "role" in needs and annotations is None:
        raise InputError(f"--annotations: found nothing, expected the labels of the references with {named}")
    wanted = {
        "--paired": (paired, copies_steps(run), "the step log of the run to copy"),
        "--scores": (scores, "reference" in needs, "the scores of the references under another model"),
    }
    for option, (given, wants, what) in wanted.items():
        if wants != (given is not None):
            expected = what if wants else "nothing"
            raise InputError(f"{option}: found {given or 'nothing'}, expected {expected} with {named}")


def accumulation_of(run: dict[str, Any], count: int) -> int:
    """Micro-batches of a step on each of `count` processes; InputError for a batch that is no multiple of theirs."""
    training = run["training"]
    accumulation, rest = divmod(training["batch_size"], training["micro_batch_size"] * count)
    if rest or not accumulation:
        together = f", with {count} processes," if count > 1 else ","
        raise InputError(
            f"--run: training.micro_batch_size: found {training['micro_batch_size']}{together} expected a divisor of "
            f"batch_size = {training['batch_size']}" + (f" / {count}" if count > 1 else "")
        )
    return accumulation


def plan(run: dict[str, Any], examples: int) -> Length:
    """Steps of the run; InputError as `accumulation_of`."""
    training = run["training"]
    # With budget `steps`, several references a prompt share the steps that one would get.
    each = examples if run["budget"] == "epochs" else examples // run["references"]
    planned = math.ceil(each / training["batch_size"]) * training["epochs"]
    steps = max(1, round(run.get("stop", 1.0) * planned))
    return Length(steps, planned, accumulation_of(run, processes.count()))


def copied(run: dict[str, Any], paired: Path | None, steps: int) -> tuple[list[float] | None, list[float] | None]:
    """Share of tokens to keep and norm of the update of each step, each None unless it is that of the paired run.

    Raises:
        InputError: as profit.steplog.paired_column.
    """
    match = run.get("match")
    shares = paired is not None and copies_steps({**run, "match": None})
    return (
        paired_column(paired, "kept", steps) if shares else None,
        paired_column(paired, match, steps) if match else None,
    )


def trainable_model(run: dict[str, Any], folder: Path, compute: Compute) -> PreTrainedModel:
    """The model to train, fp32; with LoRA the base in the precision of `compute` with fresh fp32 adapters.

    Raises:
        InputError: weights that do not load; adapters on the embeddings or the LM head, which a head that reads the
            weight directly would leave untrained.
    """
    tuning, flash = run["tuning"], compute.attention == "flash_attention_2"
    # Fusing the head runs the model, perhaps on a CPU or in fp32, where flash attention does not work.
    loaded = compute.model_copy(update={"attention": PLAIN.attention}) if flash else compute
    model = load_weights(folder, loaded, frozen=tuning["kind"] == "lora")
    if flash:
        fuse_head(model)
        model.set_attn_implementation(compute.attention)
    if tuning["kind"] == "full":
        return model
    set_seed(run["seed"])
    model = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM", r=tuning["rank"], lora_alpha=tuning["alpha"],
            target_modules=tuning["target_modules"], lora_dropout=tuning.get("dropout", 0.0),
        ),
    )  # fmt: skip
    if any(
        isinstance(layer, BaseTunerLayer) for layer in (model.get_output_embeddings(), model.get_input_embeddings())
    ):
        raise InputError(
            f"--run: tuning.target_modules: found {tuning['target_modules']!r}, which adapts the LM head or the "
            "embeddings, expected only layers between them"
        )
    return model


def frozen_base(run: dict[str, Any], folder: Path, compute: Compute) -> PreTrainedModel | None:
    """A copy of the base for an objective that compares with it, None where none is wanted."""
    compares = "reference_logits" in OBJECTIVES[run["objective"]["name"]].needs
    # An adapter that is switched off leaves the base; full tuning changes it.
    return load_weights(folder, compute, frozen=True) if compares and run["tuning"]["kind"] == "full" else None


class KeepEpochs(TrainerCallback):
    """Keeps the model after every epoch as an ordinary folder epoch1, epoch2, … in `folder`."""

    def __init__(self, trainer: RunTrainer, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        self.trainer, self.tokenizer, self.folder = trainer, tokenizer, folder

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer before it writes the checkpoint of the epoch."""
        weights = gathered_weights(self.trainer)
        if processes.first():
            with write_folder(self.folder / f"epoch{round(state.epoch)}") as folder:
                save_model(self.trainer, weights, self.tokenizer, folder)


def gathered_weights(trainer: RunTrainer) -> dict[str, Tensor] | None:
    """All weights of a model that is spread over the processes, in the first; None where each has all of it."""
    return trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None


def mixed(weights: Mapping[str, Tensor], base: Mapping[str, Tensor] | None, mix: float) -> dict[str, Tensor]:
    """theta_base + mix (theta - theta_base) for all weights by name; without a `base` they are an adapter's, B A."""
    if base is None:
        return {name: value * mix if ".lora_B." in name else value for name, value in weights.items()}
    made: dict[int, Tensor] = {}  # by place in memory: what is tied stays one
    for name, value in weights.items():
        if value.data_ptr() not in made:
            apart = value.is_floating_point()
            made[value.data_ptr()] = torch.lerp(base[name], value.to(base[name]), mix) if apart else value
    return {name: made[value.data_ptr()] for name, value in weights.items()}


def save_model(
    trainer: RunTrainer, weights: dict[str, Tensor] | None, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write weights (of the adapter alone with LoRA), configuration, generation configuration and tokenizer."""
    trainer.model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def fingerprint(run: dict[str, Any], compute: Compute, model: Path, files: list[Path | None]) -> dict[str, Any]:
    """What a checkpoint belongs to: settings, code, versions and the content of every input."""
    return {
        "run": run,
        "compute": compute.model_dump(include=DECISIVE),
        "code": code_version("train", run["objective"]["name"]),
        "versions": provenance.versions(),
        "inputs": weights_hash(model) | {file.name: file_hash(file) for file in files if file},
    }


def train(arguments: argparse.Namespace, job: provenance.Job) -> None:
    """Train the run of the command line, from its last complete checkpoint if there is one, and write its outputs."""
    run, folder, compute = arguments.run, arguments.model, arguments.compute
    tokenizer, context = load_tokenizer(folder), context_length(folder)
    examples = prepare_examples(run, tokenizer, arguments.references, arguments.annotations, context, arguments.scores)
    length = plan(run, len(examples.rows))
    shares, norms = copied(run, arguments.paired, length.steps)
    files = [arguments.references, arguments.annotations, arguments.paired, arguments.scores]
    first, scratch = processes.first(), arguments.scratch
    with claim(scratch, fingerprint(run, compute, folder, files)) if first else nullcontext():
        step_log = StepLog(scratch / "steps.jsonl") if first else None
        checkpoint = processes.agree(lambda: last_complete(scratch, logged=len(step_log.rows)))
        done = step_of(checkpoint) if checkpoint else 0
        if first:
            step_log.cut(done)
        model = trainable_model(run, folder, compute)
        asked = run.get("update_norm") or norms is not None
        measured = asked or model.num_parameters(only_trainable=True) < MOST_MEASURED
        trainer = RunTrainer(
            model=model, args=training_arguments(run, length, compute, scratch), train_dataset=examples.rows,
            data_collator=partial(collate, pad=pad_token(tokenizer)), callbacks=[Completed()],
            objective=run["objective"], step_log=step_log, planned=length.planned, shares=shares,
            updates=Updates(norms) if measured else None,
            reference_model=frozen_base(run, folder, compute),
        )  # fmt: skip
        if run["keep_epochs"]:
            trainer.add_callback(KeepEpochs(trainer, tokenizer, scratch / "epochs"))
        log.info(
            "%s, %s, seed %d: %d answers, %d targets, %d steps%s", run["model"], run["method"], run["seed"],
            len(examples.rows), examples.tokens, length.steps, f", resumed after step {done}" if checkpoint else "",
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        weights, others = gathered_weights(trainer), processes.total(0.0 if first else time.process_time())
        if not first:
            return
        steps = step_log.frame()
        job.tokens(steps["tokens"].sum())
        if run.get("mix", 1.0) < 1:
            base = load_weights(folder).state_dict() if run["tuning"]["kind"] == "full" else None
            weights = mixed(trainer.model.state_dict() if weights is None else weights, base, run["mix"])
        with write_folder(arguments.output_model) as output:
            save_model(trainer, weights, tokenizer, output)
            if run["keep_epochs"]:
                shutil.copytree(scratch / "epochs", output, dirs_exist_ok=True)
        record = job.record()
        # Seconds are those of all processes, memory is that of the first.
        record["cpu_seconds"] = round(record["cpu_seconds"] + others, 3)
        summary = {
            "examples": len(examples.rows),
            "truncated": examples.truncated,
            "unseen": unseen_examples(len(examples.rows), run["seed"], length.steps, run["training"]["batch_size"]),
            "steps": length.steps,
            "tokens_trained": int(steps["tokens"].sum()),
            "kept": float((steps["kept"] * steps["tokens"]).sum() / steps["tokens"].sum()),
            "clip_rate": float(steps["clipped"].mean()),
            "loss_first": steps["loss"].iloc[0],
            "loss_last": steps["loss"].iloc[-1],
            "parameters": model.num_parameters(),
            "parameters_trained": model.num_parameters(only_trainable=True),
            "resumed_after_step": done if checkpoint else None,
            "provenance": record,
        }
        write_parquet(arguments.output_steps, steps, {"provenance": record})
        write_json(arguments.output_summary, summary)


def make_parser() -> argparse.ArgumentParser:
    """The command line of this rule."""
    parser = argparse.ArgumentParser(prog="python -m profit train", description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=json.loads, required=True, help="settings of the run as JSON")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--references", type=Path, required=True, help="references.parquet")
    parser.add_argument("--annotations", type=Path, help="labels of the references (Parquet); left out: none counted")
    parser.add_argument("--paired", type=Path, help="steps.parquet of the run to copy, step by step")
    parser.add_argument("--scores", type=Path, help="scores of the references under another model (Parquet)")
    parser.add_argument("--compute", type=parse_compute, default=PLAIN, help="how the model is held and run, as JSON")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for checkpoints, removed at the end")
    parser.add_argument("--output-model", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--output-steps", type=Path, required=True, help="step log (Parquet)")
    parser.add_argument("--output-summary", type=Path, required=True, help="summary and provenance (JSON)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; more than one changes the last digits")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the rule."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = make_parser().parse_args(argv)
    run, compute = arguments.run, arguments.compute
    level = logging.INFO if processes.first() else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    check(run, arguments.annotations, arguments.paired, arguments.scores)
    accumulation_of(run, compute.processes)
    if compute.processes > processes.count():
        processes.launch("profit.train", argv, compute.processes)
        return
    disable_progress_bar()  # loading and saving draw one each; progress is in the lines of the log
    torch.set_num_threads(arguments.threads)
    gc.freeze()  # the Trainer collects garbage at its start, which would walk over every imported module
    world = provenance.world_of(arguments.references)
    with provenance.job("train", settings={**run, "compute": compute.model_dump()}, world=world) as job:
        train(arguments, job)


if __name__ == "__main__":
    main()
