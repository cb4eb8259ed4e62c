"""How long a study will take here: jobs by rule and wall time, before the first job starts.

CPU seconds of a job = fixed + work x unit x size, with the constants of `COSTS` measured on the machine whose `probe`
takes REFERENCE_PROBE seconds; wall time = the serial stages, then the rest shared by the cores.

    python -m profit.plan workflow/studies/miniature.yaml
"""

import argparse
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass

from profit.files import InputError
from profit.miniature.world import Pretraining
from profit.runs import Run, benchmarks_of, runs_of, study_runs
from profit.settings import STORED_SCORES
from profit.study import Study, load_study


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a job: `fixed`, and `unit` for each thousand units of work in a base of the default's size."""

    fixed: float
    unit: float = 0.0


# Work is counted in documents read (pretrain), answers (train, overfit, score) and answers generated (evaluate).
COSTS = {
    "generate": Cost(1.3),
    "pretrain": Cost(0.5, 5.4),
    "score": Cost(0.2, 1.4),
    "annotate": Cost(0.7),
    "correlate": Cost(1.0),
    "train": Cost(0.3, 5.0),
    "evaluate": Cost(0.4, 2.8),
    "overfit": Cost(0.2, 1.2),
    "tabulate": Cost(3.0),
    "tune": Cost(1.0),
    "draw": Cost(0.9),
    "report": Cost(3.0),
}
# Seconds of Snakemake's own work around each job, and of loading the fork server before the first one.
OVERHEAD, SERVER = 0.3, 5.0
# Rules whose jobs run alone, one after another, before anything else can start; two threads are not twice as fast.
SERIAL = ("generate", "pretrain", "tabulate", "report", "tune")
TWO_THREADS = 1.4
REFERENCE_PROBE, PROBES = 0.017, 10
DEFAULT_SIZE = 3 * 128**2


@dataclass(frozen=True)
class Job:
    """One job of a study, as much of it as its cost depends on."""

    rule: str
    seconds: float


def jobs_of(study: Study) -> list[Job]:
    """Every job of the default target of a study."""
    runs = study_runs(runs_of(study))
    names = [("generate", {}), ("tabulate", {}), ("report", {})]
    names += [(rule, {"model": model}) for rule in ("pretrain", "score") for model in study.models]
    names += [("annotate", {})] * (len(study.analysis.annotators) + (study.world_check is not None))
    names += [("correlate", {})] * len(study.models) * len(study.analysis.annotators)
    names += [("draw", {})] * (4 + sum(value is not None for _, value in study.sweeps))
    pairs = [run for run in runs if STORED_SCORES.get(run.leaf["objective"]["name"]) == "pair"]
    scored = {(run.leaf["model"], run.leaf["paired_with"], run.leaf["seed"]) for run in pairs}
    names += [("score", {"model": model}) for model, _, _ in scored]
    for run in runs:
        keys = dict(zip(("model", "method", "seed"), run.key, strict=True))
        names += [("train", keys)] * run.trained + [("overfit", keys)] * ("overfitting" in run.groups)
        names += [("evaluate", keys)] * len(run.checkpoints)
    by_key = runs_of(study)
    return [Job(rule, job_seconds(study, by_key, rule, wildcards)) for rule, wildcards in names]


def job_seconds(study: Study, runs: dict[tuple[str, str, int], Run], rule: str, wildcards: dict[str, object]) -> float:
    """Predicted CPU seconds of a job on the reference machine."""
    if rule not in COSTS:
        return 0.0
    cost, work, data = COSTS[rule], 0.0, study.data
    model = study.models.get(str(wildcards.get("model")))
    pretraining = model.pretraining if model else Pretraining()
    if "seed" in wildcards:
        run = runs[str(wildcards["model"]), str(wildcards["method"]), int(str(wildcards["seed"]))]
        if rule == "train":
            references = run.leaf["references"] if run.leaf["budget"] == "epochs" else 1
            answers = data.careful if run.leaf["data"] == "careful" else data.prompts * references
            work = run.leaf["training"]["epochs"] * answers
        elif rule == "evaluate":
            work = sum(item.questions * item.samples for item in benchmarks_of(study, run).values())
        else:
            work = data.prompts * data.references
    elif rule == "pretrain":
        work = pretraining.steps * pretraining.documents_per_step
    elif rule == "score":
        work = data.prompts * data.references
    # The smaller the model, the more of a step is overhead that does not shrink with it.
    size = 0.4 + 0.6 * pretraining.layers * pretraining.hidden**2 / DEFAULT_SIZE
    return cost.fixed + cost.unit * work / 1000 * size


def wall_seconds(jobs: list[Job], cores: int, speed: float) -> float:
    """Predicted wall seconds of jobs on so many cores of a machine `speed` times as slow as the reference."""
    faster = {"pretrain": TWO_THREADS if cores > 1 else 1.0}
    serial = sum(job.seconds / faster.get(job.rule, 1.0) for job in jobs if job.rule in SERIAL)
    shared = sum(job.seconds + OVERHEAD for job in jobs if job.rule not in SERIAL)
    return speed * (SERVER + serial + shared / cores)


def probe() -> float:
    """How many times slower than the reference machine this one is, from a fifth of a second of arithmetic."""
    return min(_arithmetic() for _ in range(PROBES)) / REFERENCE_PROBE


def _arithmetic() -> float:
    # CPU seconds, and the least of several: what else runs at this moment says nothing of the hours to come.
    started = time.process_time()
    total = 0
    for number in range(300_000):
        total += number * number % 7
    return time.process_time() - started


def table(jobs: list[Job], cores: int, speed: float) -> str:
    """Jobs and CPU seconds by rule, and the wall time, as text."""
    counts = Counter(job.rule for job in jobs)
    lines = [f"{'rule':<12}{'jobs':>6}{'CPU seconds':>14}"]
    for rule in sorted(counts, key=lambda name: list(COSTS).index(name)):
        seconds = speed * sum(job.seconds for job in jobs if job.rule == rule)
        lines.append(f"{rule:<12}{counts[rule]:>6}{seconds:>14.0f}")
    wall = wall_seconds(jobs, cores, speed)
    lines.append(f"{len(jobs)} jobs, predicted to take {clock(wall)} on {cores} cores")
    return "\n".join(lines)


def headline(study: Study) -> str:
    """Name and number of runs of a study, those that choose the learning rate apart."""
    runs = study_runs(runs_of(study))
    return f"study {study.name}: {len(runs)} runs, {sum(run.trained for run in runs)} of them trained"


def clock(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def main(argv: list[str] | None = None) -> None:
    """Print the plan of a study."""
    parser = argparse.ArgumentParser(prog="python -m profit.plan", description=__doc__.split("\n")[0])
    parser.add_argument("study", help="study file")
    parser.add_argument(
        "--cores", type=int, default=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    )
    arguments = parser.parse_args(argv)
    try:
        study = load_study(arguments.study)
    except InputError as error:
        sys.exit(str(error))
    print(headline(study))
    print(table(jobs_of(study), arguments.cores, probe()))


if __name__ == "__main__":
    main()
