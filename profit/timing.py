"""Rule `timing`: seconds of an optimizer step of several methods, trained step by step in turn on one machine.

Runs of a study are trained minutes apart, and a machine whose speed wanders would decide which method costs more. Here
the methods of a seed train side by side from the base, each on the answers and in the order of its own runs: a step of
the first, a step of the second, and so on; every other seed begins with the last. The first step, which makes the
optimizer's state and fills caches, is not counted. Seconds are those of the processor, or of the clock where a GPU
does the work.

    python -m profit timing --runs '{"sft": {"objective": {"name": "sft"}, …}, "profit": {…}}' --seeds 10 --steps 21 \\
        --model results/S/models/M --references results/S/data/W/references.parquet [--compute …] \\
        --scratch results/S/scratch/timing/M --output results/S/timing/M.parquet

The output has a row a method, seed and counted step: seconds, and the target tokens of the step.
"""

import argparse
import gc
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy
from transformers.utils.logging import disable_progress_bar

from profit import provenance
from profit.bases import Compute
from profit.data import Examples, prepare_examples
from profit.files import InputError, write_parquet
from profit.models import PLAIN, context_length, load_tokenizer, pad_token, parse_compute
from profit.objectives import OBJECTIVES
from profit.run_trainer import RunTrainer, collate, training_arguments
from profit.settings import copies_steps
from profit.train import frozen_base, plan, trainable_model

log = logging.getLogger(__name__)

COLUMNS = ["method", "seed", "step", "tokens", "seconds"]


class Turns:
    """Lets one of several threads work at a time, each until it hands on to the next of those that are not done."""

    def __init__(self, count: int) -> None:
        self._may = {number: threading.Semaphore(0) for number in range(count)}

    def take(self, number: int) -> None:
        """Wait until it is the turn of thread `number`."""
        self._may[number].acquire()

    def hand_on(self, number: int, done: bool = False) -> None:
        """End the turn of thread `number`; -1 begins that of the first."""
        if done:
            del self._may[number]
        if self._may:
            self._may[min(self._may, key=lambda other: (other <= number, other))].release()


class Clock(TrainerCallback):
    """Hands on before every step of training `number`, and measures the step: `seconds`, one each."""

    def __init__(self, turns: Turns, number: int) -> None:
        self.turns, self.number, self.seconds = turns, number, []
        self._began = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer with the batches of the step at hand."""
        self.turns.hand_on(self.number)
        self.turns.take(self.number)
        self._began = self._now()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer when the parameters are updated."""
        self.seconds.append(self._now() - self._began)

    @staticmethod
    def _now() -> float:
        # Seconds of all threads, of which one works.
        if not torch.cuda.is_available():
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def make_trainer(
    run: dict[str, Any], arguments: argparse.Namespace, examples: Examples, pad: int, clock: Clock, said: list
) -> RunTrainer:
    """The trainer of a run's first steps, as `profit.train` has it; it keeps nothing, and `said` is its step log."""
    length, compute, folder = plan(run, len(examples.rows)), arguments.compute, arguments.model
    if arguments.steps > length.planned:
        what = f"found {arguments.steps}, expected at most the {length.planned} steps of {run['method']}"
        raise InputError(f"--steps: {what}")
    settings = training_arguments(run, length, compute, arguments.scratch)
    settings.max_steps, settings.save_strategy = arguments.steps, SaveStrategy.NO
    return RunTrainer(
        model=trainable_model(run, folder, compute), args=settings, train_dataset=examples.rows,
        data_collator=partial(collate, pad=pad), callbacks=[clock], objective=run["objective"], step_log=said,
        planned=length.planned, reference_model=frozen_base(run, folder, compute),
    )  # fmt: skip


def side_by_side(
    runs: list[dict[str, Any]], arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerBase, context: int
) -> pd.DataFrame:
    """Train the runs in turn, step by step; method, seed, step, tokens and seconds of every step but the first."""
    turns, pad = Turns(len(runs)), pad_token(tokenizer)
    clocks, logs = [Clock(turns, number) for number in range(len(runs))], [[] for _ in runs]
    trainers = []
    for run, clock, said in zip(runs, clocks, logs, strict=True):
        examples = prepare_examples(run, tokenizer, arguments.references, None, context)
        trainers.append(make_trainer(run, arguments, examples, pad, clock, said))

    def train(number: int) -> None:
        turns.take(number)
        torch.set_num_threads(1)  # of this thread
        try:
            trainers[number].train()
        finally:
            turns.hand_on(number, done=True)

    with ThreadPoolExecutor(len(runs)) as threads:
        working = [threads.submit(train, number) for number in range(len(runs))]
        turns.hand_on(-1)
    for future in working:
        future.result()
    rows = [
        {"method": run["method"], "seed": run["seed"], **{key: row[key] for key in ("step", "tokens")}, "seconds": own}
        for run, clock, said in zip(runs, clocks, logs, strict=True)
        for row, own in list(zip(said, clock.seconds, strict=True))[1:]
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def timing(arguments: argparse.Namespace, job: provenance.Job) -> pd.DataFrame:
    """The rows of all methods and seeds of the command line."""
    tokenizer, context, found = load_tokenizer(arguments.model), context_length(arguments.model), []
    for seed in range(arguments.seeds):
        runs = [{**run, "seed": seed} for run in arguments.runs.values()]
        rows = side_by_side(runs[:: -1 if seed % 2 else 1], arguments, tokenizer, context)
        job.tokens(rows["tokens"].sum())
        found.append(rows)
        log.info("seed %d: %s", seed, by_method(rows))
    return pd.concat(found, ignore_index=True)


def by_method(rows: pd.DataFrame) -> str:
    """Mean seconds of a step of each method, as text."""
    means = rows.groupby("method")["seconds"].mean()
    return ", ".join(f"{method} {seconds:.4f} s a step" for method, seconds in means.items())


def check(runs: dict[str, dict[str, Any]], compute: Compute, steps: int) -> None:
    """Raise InputError for methods that need more than base and references, several processes, or too few steps."""
    for method, run in runs.items():
        name = run["objective"]["name"]
        alone = name in OBJECTIVES and {"role", "reference"}.isdisjoint(OBJECTIVES[name].needs)
        if not alone or copies_steps(run):
            expected = "one that learns from the references alone, without labels, scores or another run"
            raise InputError(f"--runs: {method}: found objective {name}, expected {expected}")
    if compute.processes > 1:
        raise InputError(f"--compute: processes: found {compute.processes}, expected 1: one process times all methods")
    if steps < 2:
        raise InputError(f"--steps: found {steps}, expected at least 2: the first is not counted")


def make_parser() -> argparse.ArgumentParser:
    """The command line of this rule."""
    parser = argparse.ArgumentParser(prog="python -m profit timing", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=json.loads, required=True, help="settings of a run of each method, as JSON")
    parser.add_argument("--seeds", type=int, required=True, help="how many, from 0")
    parser.add_argument("--steps", type=int, required=True, help="of each training; the first is not counted")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--references", type=Path, required=True, help="references.parquet")
    parser.add_argument("--compute", type=parse_compute, default=PLAIN, help="how the model is held and run, as JSON")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of the trainings; nothing is kept in it")
    parser.add_argument("--output", type=Path, required=True, help="Parquet: one row a step")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the rule."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    check(arguments.runs, arguments.compute, arguments.steps)
    disable_progress_bar()
    torch.set_num_threads(1)
    gc.freeze()
    settings = {"runs": arguments.runs, "seeds": arguments.seeds, "steps": arguments.steps}
    settings["compute"] = arguments.compute.model_dump()
    with provenance.job("timing", settings, provenance.world_of(arguments.references)) as job:
        rows = timing(arguments, job)
        write_parquet(arguments.output, rows, {"provenance": job.record()})


if __name__ == "__main__":
    main()
