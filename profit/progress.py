"""What a person sees while Snakemake works: jobs done of all, time left, what runs, and the end of a failed job's log.

Imported by the Snakefile, so the standard library and the study's schema only. `begin` and `end` are its onstart and
onsuccess.
"""

import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from profit import forkserver, lease, plan, sizes
from profit.costs import DEFAULT_GPU, GPU, GPUS, gpu_called
from profit.files import InputError, read_json, write_json
from profit.probe import speed
from profit.runs import runs_of, study_runs
from profit.study import Study

LAST_LINES = 20
QUIET_SECONDS = 30.0
LEAVE = "HF_ALLOW_CODE_EVAL"


class Progress(logging.Handler):
    """Turns Snakemake's log events into one line a started job, and one now and then while nothing starts."""

    def __init__(self, jobs: dict[int, plan.Job], predicted: float | None) -> None:
        super().__init__()
        self.jobs, self.predicted = jobs, predicted
        self.started = time.monotonic()
        self.running: dict[int, str] = {}
        self.finished: set[int] = set()
        self._spoken = self.started
        threading.Thread(target=self._speak_now_and_then, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Handle one record of Snakemake's logger; other records pass by."""
        event = str(getattr(record, "event", ""))
        if event == "job_info" and record.jobid in self.jobs:
            wildcards = "/".join(str(value) for value in record.wildcards.values())
            self.running[record.jobid] = f"{record.rule_name} {wildcards}".strip()
            self.speak()
        elif event == "job_finished":
            self.running.pop(record.job_id, None)
            self.finished.update({record.job_id} & self.jobs.keys())
        elif event == "job_error":
            name = self.running.pop(record.jobid, record.rule_name)
            say(f"FAILED: {name}", *(line for path in record.log for line in last_lines(Path(path))))

    def speak(self) -> None:
        """Print the line of progress."""
        self._spoken = time.monotonic()
        left = self.left()
        rest = "time left unknown" if left is None else f"about {plan.clock(left)} left"
        done = f"{len(self.finished)} of {len(self.jobs)} jobs done, {rest}"
        say(f"[{done}] running: {', '.join(self.running.values())}")

    def left(self) -> float | None:
        """Seconds left: the predicted share of the work that is not done, at the pace so far once a tenth is done.

        Where nothing was predicted, all jobs count alike, and until then it is None.
        """
        known = self.predicted is not None
        work = {name: job.seconds * max(job.gpus, 1) if known else 1.0 for name, job in self.jobs.items()}
        done = sum(work[name] for name in self.finished) / (sum(work.values()) or 1.0)
        elapsed = time.monotonic() - self.started
        if done >= 0.1:
            return elapsed * (1 - done) / done
        return max(self.predicted - elapsed, self.predicted * (1 - done) / 2) if known else None

    def _speak_now_and_then(self) -> None:
        while True:
            time.sleep(1.0)
            with self.lock:
                if self.running and time.monotonic() - self._spoken > QUIET_SECONDS:
                    self.speak()


def begin(workflow: Any, study: Study) -> dict[str, Any]:
    """Check that the pending jobs can run, show their plan, start the fork server and follow them.

    On a cluster the jobs of real models are planned too, but none is followed. What cannot run ends Snakemake with one
    sentence; any exception but SystemExit would show as a traceback through the Snakefile.
    """
    runs, local = runs_of(study), workflow.local_exec
    pending = {
        workflow.dag.jobid(job): (job.rule.name, dict(job.wildcards_dict))
        for job in workflow.dag.needrun_jobs()
        if job.rule.name in plan.RULES
    }
    gpus, gpu = _gpus_of(workflow)
    jobs = {name: plan.job_of(study, runs, rule, wildcards, gpu) for name, (rule, wildcards) in pending.items()}
    try:
        check_leave(study, os.environ, {str(keys["model"]) for rule, keys in pending.values() if rule == "evaluate"})
        check_limit(list(jobs.values()), gpus)
        if local:
            check_reach(study, {str(keys["model"]) for rule, keys in pending.values() if rule == "evaluate"}, gpus)
    except InputError as error:
        sys.exit(str(error))
    if study.miniature and not local:
        return {}
    if any(job.rule == "train" for job in jobs.values()):
        say(plan.headline(study))
    predicted = _show(study, list(jobs.values()), workflow.resource_settings.cores, gpu, gpus)
    if not local:
        return {}
    if not workflow.output_settings.quiet:
        _replace_output(Progress(jobs, predicted))
    return {"predicted": predicted, "started": time.monotonic(), "account": forkserver.start()}


def check_leave(study: Study, environment: Mapping[str, str], models: Collection[str] | None = None) -> None:
    """Raise InputError if an evaluation of some models (default: all) would run their code without leave to do so."""
    for model in study.models if models is None else models:
        for name, item in study.asked(model).items():
            if not study.miniature and (item.protocol or name) == "humaneval" and environment.get(LEAVE) != "1":
                raise InputError(
                    f"benchmarks.{name}: found code by {model} that this machine would run, expected {LEAVE}=1 "
                    "in the environment: set it where that may do no harm (profit/answers.py), or leave the benchmark "
                    "out; nothing was started"
                )


def check_reach(study: Study, evaluated: Collection[str], gpus: int) -> None:
    """Raise InputError if answers of a model are to be sampled by vLLM here and it, or a GPU, is not to be had."""
    model = next((model for model in evaluated if study.compute_of(model).backend == "vllm"), None)
    if model is None:
        return
    lacks = "no vllm installed" if find_spec("vllm") is None else "" if gpus else "no GPU in reach that jobs may use"
    if lacks:
        raise InputError(
            f"models.{model}.compute.backend: found vllm and {lacks}, expected both (see README) or backend hf; "
            "nothing was started"
        )


def check_limit(jobs: list[plan.Job], gpus: int) -> None:
    """Raise InputError if a job wants more GPUs than there are: Snakemake would give it fewer without a word."""
    if gpus and (most := max(jobs, key=lambda job: job.gpus, default=None)) and most.gpus > gpus:
        raise InputError(
            f"found {gpus} GPUs that jobs may use, expected the {most.gpus} that a job of rule {most.rule} asks for "
            f"(--resources gpu={most.gpus}, and as many in reach); nothing was started"
        )


def _gpus_of(workflow: Any) -> tuple[int, GPU | None]:
    """How many GPUs all jobs together may use, and of which kind, where that is known; a cluster's are not seen."""
    gpus = workflow.global_resources["gpu"].value if os.environ.get(lease.CLUSTER) == "1" else 0
    if not workflow.local_exec:
        return gpus, GPUS[DEFAULT_GPU] if gpus else None
    gpus = min(gpus, len(lease.in_reach(lease.list_gpus(), os.environ.get(lease.VISIBLE))))
    return gpus, gpu_called(lease.gpu_name()) if gpus else None


def _show(study: Study, jobs: list[plan.Job], cores: int, gpu: GPU | None, gpus: int) -> float | None:
    """Print the plan of some jobs; the predicted wall seconds, None if unknown."""
    if study.miniature:
        slower = speed(cores)
        say(plan.table(jobs, cores, slower))
        return plan.wall_seconds(jobs, cores, slower)
    say(plan.table_on_gpus(jobs, gpu, gpus))
    if gpu:
        say(sizes.needs(study, study_runs(runs_of(study)), gpu, gpus))
    return plan.wall_seconds_on_gpus(jobs, gpus)


def _replace_output(progress: Progress) -> None:
    """Let `progress` speak in place of Snakemake's lines about single jobs; Snakemake's own log file keeps all."""
    logger = logging.getLogger("snakemake.logging")
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.addFilter(_said_by_progress)
    logger.addHandler(progress)


def _said_by_progress(record: logging.LogRecord) -> bool:
    silent = str(getattr(record, "event", "")) in ("job_info", "job_finished", "progress")
    return not silent and not record.getMessage().startswith(("Select jobs", "Execute "))


def end(begun: dict[str, Any], results: str) -> None:
    """Show wall time beside the prediction, and CPU seconds with the share of start-up; append them to a file."""
    if not begun:
        return
    taken = time.monotonic() - begun["started"]
    predicted = begun["predicted"]
    said = "of unknown length before" if predicted is None else f"predicted {plan.clock(predicted)}"
    say(f"Took {plan.clock(taken)}, {said}.")
    account = begun["account"]
    if not account.is_file():
        return
    entries = [json.loads(line) for line in account.read_text().splitlines()]
    total = {key: sum(entry[key] for entry in entries) for key in ("cpu_seconds", "cpu_seconds_imports")}
    share = total["cpu_seconds_imports"] / total["cpu_seconds"]
    say(f"{total['cpu_seconds']:.0f} CPU seconds in jobs, {share:.1%} of them for start-up and imports.")
    path = Path(results) / "benchmarks" / "account.json"
    before = read_json(path) if path.is_file() else []
    now = {"wall_seconds": taken, "predicted_seconds": predicted, **total, "jobs": entries}
    write_json(path, [*before, now])


def let_go() -> None:
    """Cancel Snakemake's timers, which would keep it after the last job for the timespan of its profile."""
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()


def last_lines(path: Path) -> list[str]:
    """The end of a log and where to find it."""
    if not path.is_file():
        return [f"no log at {path}"]
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip() for line in deque(file, LAST_LINES)]
    return [*(f"  | {line}" for line in lines), f"  whole log: {path}"]


def say(*lines: str) -> None:
    """Write to where Snakemake writes."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)
