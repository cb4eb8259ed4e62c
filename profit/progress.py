"""What a person sees while Snakemake works: jobs done of all, time left, what runs, and the end of a failed job's log.

Imported by the Snakefile, so the standard library and the study's schema only. `begin` and `end` are its onstart and
onsuccess.
"""

import json
import logging
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from profit import forkserver, plan
from profit.files import read_json, write_json
from profit.runs import runs_of
from profit.study import Study

LAST_LINES = 20
QUIET_SECONDS = 30.0


class Progress(logging.Handler):
    """Turns Snakemake's log events into one line a started job, and one now and then while nothing starts."""

    def __init__(self, jobs: dict[int, plan.Job], predicted: float) -> None:
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
        done = f"{len(self.finished)} of {len(self.jobs)} jobs done, about {plan.clock(self.left())} left"
        say(f"[{done}] running: {', '.join(self.running.values())}")

    def left(self) -> float:
        """Seconds left: the predicted share of the work that is not done, at the pace so far once a tenth is done."""
        total = sum(job.seconds for job in self.jobs.values()) or 1.0
        done = sum(self.jobs[job].seconds for job in self.finished if job in self.jobs) / total
        elapsed = time.monotonic() - self.started
        if done < 0.1:
            return max(self.predicted - elapsed, self.predicted * (1 - done) / 2)
        return elapsed * (1 - done) / done

    def _speak_now_and_then(self) -> None:
        while True:
            time.sleep(1.0)
            with self.lock:
                if self.running and time.monotonic() - self._spoken > QUIET_SECONDS:
                    self.speak()


def begin(workflow: Any, study: Study) -> dict[str, Any]:
    """Show the plan of the pending jobs, start the fork server and follow the jobs; local execution only."""
    cores = workflow.resource_settings.cores
    runs = runs_of(study)
    if not workflow.local_exec:
        return {}
    jobs = {
        workflow.dag.jobid(job): plan.Job(
            job.rule.name, plan.job_seconds(study, runs, job.rule.name, dict(job.wildcards_dict))
        )
        for job in workflow.dag.needrun_jobs()
        if job.rule.name in plan.COSTS
    }
    speed = plan.probe()
    predicted = plan.wall_seconds(list(jobs.values()), cores, speed)
    if any(job.rule == "train" for job in jobs.values()):
        say(plan.headline(study))
    say(plan.table(list(jobs.values()), cores, speed))
    if not workflow.output_settings.quiet:
        _replace_output(Progress(jobs, predicted))
    return {"predicted": predicted, "started": time.monotonic(), "account": forkserver.start()}


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
    say(f"Took {plan.clock(taken)}, predicted {plan.clock(begun['predicted'])}.")
    account = begun["account"]
    if not account.is_file():
        return
    entries = [json.loads(line) for line in account.read_text().splitlines()]
    total = {key: sum(entry[key] for entry in entries) for key in ("cpu_seconds", "cpu_seconds_imports")}
    share = total["cpu_seconds_imports"] / total["cpu_seconds"]
    say(f"{total['cpu_seconds']:.0f} CPU seconds in jobs, {share:.1%} of them for start-up and imports.")
    path = Path(results) / "benchmarks" / "account.json"
    before = read_json(path) if path.is_file() else []
    now = {"wall_seconds": taken, "predicted_seconds": begun["predicted"], **total, "jobs": entries}
    write_json(path, [*before, now])


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
