"""Train one run: model x method x seed, on the objective of profit.objectives.

    python -m profit train --run '{"model": …, "method": …, "seed": 0, "objective": {"name": "profit", …}, …}' \\
        --model results/S/models/M --references results/S/data/references.parquet \\
        --annotations results/S/annotations/references/truth.parquet --scratch results/S/scratch/M \\
        --output-model …/model --output-steps …/steps.parquet --output-summary …/train.json

The references of a run and their order depend on the seed alone, so all methods of a seed see the same data in the
same order. A killed run resumes from its last complete checkpoint and ends with the numbers of an undisturbed one.
"""

import argparse
import copy
import gc
import json
import logging
import math
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
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

from profit import provenance
from profit.checkpoints import Completed, claim, last_complete, step_of
from profit.code_version import code_version
from profit.data import prepare_examples
from profit.files import InputError, file_hash, write_folder, write_json, write_parquet
from profit.models import context_length, load_tokenizer, load_weights, pad_token
from profit.objectives import OBJECTIVES, check_objective
from profit.run_trainer import RunTrainer, collate, unseen_examples
from profit.steplog import StepLog, paired_shares

log = logging.getLogger(__name__)

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Length:
    """How long a run is."""

    steps: int
    accumulation: int
    shares: list[float] | None


def check(run: dict[str, Any], paired: Path | None, scores: Path | None) -> None:
    """Raise InputError for a wrong objective, or files of other runs that it lacks or does not read."""
    objective = run["objective"]
    try:
        check_objective(objective)
    except ValueError as error:
        raise InputError(f"--run: {error}") from None
    needs = OBJECTIVES[objective["name"]].needs
    wanted = {
        "--paired": (paired, "share" in needs and objective.get("share") is None, "the step log of the run to copy"),
        "--scores": (scores, "reference" in needs, "the scores of the references under another model"),
    }
    for option, (given, wants, what) in wanted.items():
        if wants != (given is not None):
            expected = what if wants else "nothing"
            raise InputError(
                f"{option}: found {given or 'nothing'}, expected {expected} with objective {objective['name']}"
            )


def plan(run: dict[str, Any], examples: int, paired: Path | None) -> Length:
    """Steps of the run and what it copies from its paired run.

    Raises:
        InputError: a batch that is no multiple of the micro-batch, a paired log of another length.
    """
    training = run["training"]
    accumulation, rest = divmod(training["batch_size"], training["micro_batch_size"])
    if rest or not accumulation:
        raise InputError(
            f"--run: training.micro_batch_size: found {training['micro_batch_size']}, expected a divisor of "
            f"batch_size = {training['batch_size']}"
        )
    # With budget `steps`, several references a prompt share the steps that one would get.
    each = examples if run["budget"] == "epochs" else examples // run["references"]
    steps = math.ceil(each / training["batch_size"]) * training["epochs"]
    return Length(steps, accumulation, paired_shares(paired, steps) if paired is not None else None)


def trainable_model(run: dict[str, Any], folder: Path) -> PreTrainedModel:
    """The model to train, fp32, with fresh LoRA adapters where the run asks for them.

    Raises:
        InputError: weights that do not load; adapters on the embeddings or the LM head, which a head that reads the
            weight directly would leave untrained.
    """
    model = load_weights(folder)
    tuning = run["tuning"]
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


class KeepEpochs(TrainerCallback):
    """Keeps the model after every epoch as an ordinary folder epoch1, epoch2, … in `folder`."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        self.folder, self.tokenizer = folder, tokenizer

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: PreTrainedModel, **_: Any
    ) -> None:
        """Called by the Trainer before it writes the checkpoint of the epoch."""
        with write_folder(self.folder / f"epoch{round(state.epoch)}") as folder:
            save_model(model, self.tokenizer, folder)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights (of the adapter alone with LoRA), configuration, generation configuration and tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fingerprint(run: dict[str, Any], model: Path, files: list[Path | None]) -> dict[str, Any]:
    """What a checkpoint belongs to: settings, code, versions and the content of every input."""
    inputs = [*sorted(file for file in model.iterdir() if file.is_file()), *(file for file in files if file)]
    return {
        "run": run,
        "code": code_version("train", run["objective"]["name"]),
        "versions": provenance.versions(),
        "inputs": {file.name: file_hash(file) for file in inputs},
    }


def training_arguments(run: dict[str, Any], length: Length, folder: Path) -> TrainingArguments:
    """The Trainer's settings for a run; nothing is reported anywhere but in the step log."""
    training = run["training"]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=length.steps, per_device_train_batch_size=training["micro_batch_size"],
        gradient_accumulation_steps=length.accumulation, learning_rate=training["learning_rate"],
        lr_scheduler_type=SCHEDULES[training["schedule"]], warmup_steps=math.ceil(training["warmup"] * length.steps),
        weight_decay=training["weight_decay"], max_grad_norm=training["max_grad_norm"], seed=run["seed"],
        save_strategy="epoch", save_total_limit=2, logging_steps=1, remove_unused_columns=False, report_to=[],
        neftune_noise_alpha=training["neftune"] or None,
        disable_tqdm=True, dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    # Several GPUs in one process would mean DataParallel, which splits a batch behind the objective's back.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def train(arguments: argparse.Namespace, job: provenance.Job) -> None:
    """Train the run of the command line, from its last complete checkpoint if there is one, and write its outputs."""
    run, folder = arguments.run, arguments.model
    check(run, arguments.paired, arguments.scores)
    tokenizer, context = load_tokenizer(folder), context_length(folder)
    examples = prepare_examples(run, tokenizer, arguments.references, arguments.annotations, context, arguments.scores)
    length = plan(run, len(examples.rows), arguments.paired)
    files = [arguments.references, arguments.annotations, arguments.paired, arguments.scores]
    with claim(arguments.scratch, fingerprint(run, folder, files)) as scratch:
        step_log = StepLog(scratch / "steps.jsonl")
        checkpoint = last_complete(scratch, logged=len(step_log.rows))
        step_log.cut(step_of(checkpoint) if checkpoint else 0)
        model = trainable_model(run, folder)
        compares = "reference_logits" in OBJECTIVES[run["objective"]["name"]].needs
        # An adapter that is switched off leaves the base; full tuning changes it, so a copy is kept.
        base = copy.deepcopy(model) if compares and run["tuning"]["kind"] == "full" else None
        callbacks: list[TrainerCallback] = [Completed()]
        if run["keep_epochs"]:
            callbacks.append(KeepEpochs(scratch / "epochs", tokenizer))
        trainer = RunTrainer(
            model=model, args=training_arguments(run, length, scratch), train_dataset=examples.rows,
            data_collator=partial(collate, pad=pad_token(tokenizer)), callbacks=callbacks, objective=run["objective"],
            step_log=step_log, shares=length.shares, reference_model=base,
        )  # fmt: skip
        log.info(
            "%s, %s, seed %d: %d answers, %d targets, %d steps%s", run["model"], run["method"], run["seed"],
            len(examples.rows), examples.tokens, length.steps,
            f", resumed after step {step_of(checkpoint)}" if checkpoint else "",
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        steps = step_log.frame()
        job.tokens(steps["tokens"].sum())
        with write_folder(arguments.output_model) as output:
            save_model(model, tokenizer, output)
            if run["keep_epochs"]:
                shutil.copytree(scratch / "epochs", output, dirs_exist_ok=True)
        summary = {
            "examples": len(examples.rows),
            "truncated": examples.truncated,
            "unseen": unseen_examples(len(examples.rows), run["seed"], length.steps, run["training"]["batch_size"]),
            "steps": length.steps,
            "tokens_trained": int(steps["tokens"].sum()),
            "kept": float((steps["kept"] * steps["tokens"]).sum() / steps["tokens"].sum()),
            "loss_first": steps["loss"].iloc[0],
            "loss_last": steps["loss"].iloc[-1],
            "parameters": model.num_parameters(),
            "parameters_trained": model.num_parameters(only_trainable=True),
            "resumed_after_step": step_of(checkpoint) if checkpoint else None,
            "provenance": job.record(),
        }
        write_parquet(arguments.output_steps, steps, {"provenance": summary["provenance"]})
        write_json(arguments.output_summary, summary)


def make_parser() -> argparse.ArgumentParser:
    """The command line of this rule."""
    parser = argparse.ArgumentParser(prog="python -m profit train", description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=json.loads, required=True, help="settings of the run as JSON")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--references", type=Path, required=True, help="references.parquet")
    parser.add_argument("--annotations", type=Path, required=True, help="annotations of the references (Parquet)")
    parser.add_argument("--paired", type=Path, help="steps.parquet of the run whose kept share a step is copied")
    parser.add_argument("--scores", type=Path, help="scores of the references under another model (Parquet)")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for checkpoints, removed at the end")
    parser.add_argument("--output-model", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--output-steps", type=Path, required=True, help="step log (Parquet)")
    parser.add_argument("--output-summary", type=Path, required=True, help="summary and provenance (JSON)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; more than one changes the last digits")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the rule."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    disable_progress_bar()  # loading and saving draw one each; progress is in the lines of the log
    torch.set_num_threads(arguments.threads)
    gc.freeze()  # the Trainer collects garbage at its start, which would walk over every imported module
    world = provenance.world_of(arguments.references)
    with provenance.job("train", settings=arguments.run, world=world) as job:
        train(arguments, job)


if __name__ == "__main__":
    main()
