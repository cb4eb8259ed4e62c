"""What a study will take, before the first job starts: runs, jobs and time; of real models also memory and disk.

A miniature: CPU seconds of a job = fixed + work x unit x size, with the constants of `COSTS` measured on the machine
that profit.probe calls the reference; wall time = the serial stages, then the rest shared by the cores. Bases that
are pretrained on two threads each come before the rest, on one they are part of it.

Real models: GPU-hours by the arithmetic of profit.costs, memory and disk by that of profit.sizes; wall time = what the
rest waits for or what waits for the rest, and the rest shared by the GPUs, at least the longest job.

    python -m profit.plan workflow/studies/miniature.yaml
    python -m profit.plan workflow/studies/paper.yaml --gpu H20 --gpus 8
"""

import argparse
import os
import sys
from collections import Counter
from dataclasses import dataclass

from profit import costs, sizes
from profit.costs import DEFAULT_GPU, GPU, GPUS
from profit.files import InputError
from profit.miniature.world import Pretraining
from profit.outputs import compared, figures_of
from profit.probe import speed
from profit.resources import pretraining_threads
from profit.runs import Run, benchmarks_of, default_runs, looked_at, runs_of, study_runs, timed_runs, tune_runs
from profit.settings import STORED_SCORES
from profit.study import Study, load_study

Runs = dict[tuple[str, str, int], Run]

# Every rule whose jobs are counted, in the order of the work.
RULES = (
    "collect", "generate", "unseen", "fetch", "pretrain", "questions", "score", "annotate", "agreement", "correlate",
    "train", "evaluate", "overfit", "gradients", "account", "drift", "answer_style", "timing", "tabulate", "tune",
    "claims", "draw", "report",
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a job: `fixed`, and `unit` for each thousand units of work in a base of the default's size."""

    fixed: float
    unit: float = 0.0


# Work is counted in documents read (pretrain), answers (train, timing, overfit, drift, score), answers generated
# (evaluate) or read (answer_style), tokens checked (gradients).
COSTS = {
    "generate": Cost(1.3),
    "unseen": Cost(0.5),
    "pretrain": Cost(0.5, 4.5),
    "score": Cost(0.2, 1.4),
    "annotate": Cost(0.7),
    "correlate": Cost(1.0),
    "train": Cost(0.3, 5.2),
    "evaluate": Cost(0.4, 3.0),
    "overfit": Cost(0.2, 1.2),
    "gradients": Cost(1.5, 70.0),
    "account": Cost(0.7),
    "drift": Cost(0.5, 1.3),
    "answer_style": Cost(0.3, 0.04),
    "timing": Cost(0.5, 5.5),
    "claims": Cost(1.5),
    "tabulate": Cost(3.0),
    "tune": Cost(1.0),
    "draw": Cost(0.9),
    "report": Cost(3.0),
}
# Seconds of Snakemake's own work around each job, and of loading the fork server before the first one.
OVERHEAD, SERVER = 0.15, 5.0
# Rules whose jobs run alone, one after another.
SERIAL = ("generate", "collect", "fetch", "tabulate", "claims", "report", "tune")
# How much faster two threads are than one, in pretraining.
TWO_THREADS = 1.4
DEFAULT_SIZE = 3 * 128**2


@dataclass(frozen=True)
class Job:
    """One job: its predicted seconds (of CPU in a miniature; None: unknown) and the GPUs that it holds meanwhile."""

    rule: str
    seconds: float | None
    gpus: int = 0


def jobs_of(study: Study, gpu: GPU = GPUS[DEFAULT_GPU]) -> list[Job]:
    """Every job of the default target of a study; of real models, as long as they take on such GPUs."""
    runs = runs_of(study)
    return [job_of(study, runs, rule, wildcards, gpu) for rule, wildcards in _named(study, default_runs(study, runs))]


def _named(study: Study, runs: list[Run]) -> list[tuple[str, dict[str, object]]]:
    """Rule and wildcards of every job."""
    annotators, models = study.analysis.annotators, study.models
    names: list[tuple[str, dict[str, object]]] = [("tabulate", {}), ("claims", {}), ("report", {})]
    if study.miniature:
        names += [("generate", {})] * len(study.worlds)
        names += [("pretrain", {"model": model}) for model in study.bases]
    else:
        asked = {name for model in models for name in study.asked(model)}
        names += [("collect", {}), *(("fetch", {"model": model}) for model in models)]
        names += [("questions", {"benchmark": name}) for name in asked]
    names += [("annotate", {"annotator": name}) for name in annotators] * len(study.worlds)
    careful = {study.world_of(run.leaf["model"]) for run in runs if run.leaf.get("data") == "careful"}
    names += [("annotate", {"annotator": study.labels})] * len(careful)
    names += [("agreement", {})] * bool(compared(annotators))
    names += [("correlate", {"model": model}) for model in models] * len(annotators)
    names += [("gradients", {"model": model}) for model in models if study.analysis.gradients]
    styled = {run.leaf["model"] for run in runs if looked_at(study, run, "answer_style")}
    names += [("answer_style", {"model": model}) for model in styled]
    names += [("timing", {"model": model}) for model in timed_runs(study, runs)]
    names += [("draw", {})] * len(figures_of(study)) + [("tune", {})] * bool(study.sweeps.learning_rate)
    accounted = [run.key for run in runs if study.unseen and looked_at(study, run, "account")]
    worlds = {study.world_of(model) for model, _, _ in accounted}
    names += [("unseen", {}), ("annotate", {"annotator": study.labels})] * len(worlds)
    scored = {(model, "base") for model in models if annotators}
    scored |= {(model, "unseen/base") for model, _, _ in accounted}
    scored |= {(model, f"unseen/{method}_seed{seed}") for model, method, seed in accounted}
    for run in runs:
        model, method, seed = run.key
        whose = STORED_SCORES.get(run.leaf["objective"]["name"])
        if whose == "base" or "overfitting" in run.groups:
            scored.add((model, "base"))
        if looked_at(study, run, "account"):
            scored |= {(model, "base"), (model, f"{method}_seed{seed}")}
        if whose == "pair":
            scored.add((model, f"{run.leaf['paired_with']}_seed{seed}"))
        keys = {"model": model, "method": method, "seed": seed}
        names += [("train", keys)] * run.trained + [("overfit", keys)] * ("overfitting" in run.groups)
        names += [("evaluate", keys)] * len(run.checkpoints)
        names += [(what, keys) for what in ("account", "drift") if looked_at(study, run, what)]
    return names + [("score", {"model": model, "scored": name}) for model, name in scored]


def job_of(study: Study, runs: Runs, rule: str, wildcards: dict[str, object], gpu: GPU | None) -> Job:
    """A job by its wildcards; without a GPU, nothing is known of a job that wants one."""
    if study.miniature:
        return Job(rule, job_seconds(study, runs, rule, wildcards))
    model, annotator = (str(wildcards[key]) if key in wildcards else None for key in ("model", "annotator"))
    run = runs[model, str(wildcards["method"]), int(str(wildcards["seed"]))] if "seed" in wildcards else None
    gpus = costs.gpus_of(study, rule, model)
    if gpus and gpu is None:
        return Job(rule, None, gpus)
    return Job(rule, costs.job_seconds(study, rule, gpu or GPUS[DEFAULT_GPU], model, run, annotator), gpus)


def job_seconds(study: Study, runs: Runs, rule: str, wildcards: dict[str, object]) -> float:
    """Predicted CPU seconds of a job of a miniature on the reference machine."""
    if rule not in COSTS:
        return 0.0
    cost, work = COSTS[rule], 0.0
    model = str(wildcards["model"]) if "model" in wildcards else None
    data = study.data_of(study.world_of(model)) if model else study.data
    pretraining = study.models[study.base_of(model)].pretraining if model else Pretraining()
    if "seed" in wildcards:
        run = runs[str(wildcards["model"]), str(wildcards["method"]), int(str(wildcards["seed"]))]
        if rule == "train":
            references = run.leaf["references"] if run.leaf["budget"] == "epochs" else 1
            answers = data.careful if run.leaf["data"] == "careful" else data.prompts * references
            work = run.leaf["stop"] * run.leaf["training"]["epochs"] * answers
        elif rule == "evaluate":
            work = sum(item.questions * item.samples for item in benchmarks_of(study, run).values())
        else:
            work = data.prompts * data.references
    elif rule == "gradients":
        # A token's singular value costs as much as the norms of so many others.
        work = study.analysis.gradients.tokens + 21 * study.analysis.gradients.exact
    elif rule == "timing":
        timing = study.analysis.timing
        work = timing.seeds * len(timing.methods) * timing.steps * study.training.batch_size
    elif rule == "answer_style":
        styled = [run for run in runs.values() if run.leaf["model"] == model and looked_at(study, run, rule)]
        work = sum(item.questions * item.samples for run in styled for item in benchmarks_of(study, run).values())
    elif rule == "pretrain":
        work = pretraining.steps * pretraining.documents_per_step
    elif rule == "score":
        is_unseen = str(wildcards["scored"]).startswith("unseen/")
        work = data.unseen * data.held if is_unseen else data.prompts * data.references
    # The smaller the model, the more of a step is overhead that does not shrink with it.
    size = 1.0 if rule == "answer_style" else 0.4 + 0.6 * pretraining.layers * pretraining.hidden**2 / DEFAULT_SIZE
    return cost.fixed + cost.unit * work / 1000 * size


def wall_seconds(jobs: list[Job], cores: int, speed: float) -> float:
    """Predicted wall seconds of jobs on so many cores of a machine `speed` times as slow as the reference."""
    bases = [job for job in jobs if job.rule == "pretrain"]
    ahead = bases if pretraining_threads(len(bases), cores) > 1 else []
    serial = sum(job.seconds for job in jobs if job.rule in SERIAL)
    serial += max((job.seconds for job in ahead), default=0.0) / TWO_THREADS
    shared = sum(job.seconds + OVERHEAD for job in jobs if job.rule not in SERIAL and job not in ahead)
    return speed * (SERVER + serial + shared / cores)


def wall_seconds_on_gpus(jobs: list[Job], gpus: int) -> float | None:
    """Predicted wall seconds of jobs with real models on so many GPUs; None if one is unknown or finds too few."""
    if any(job.seconds is None or job.gpus > gpus for job in jobs):
        return None
    serial = sum(job.seconds for job in jobs if job.rule in SERIAL)
    shared = [job for job in jobs if job.rule not in SERIAL]
    together = sum(job.seconds * job.gpus for job in shared) / max(gpus, 1)
    return serial + max([together, *(job.seconds for job in shared)])


def table(jobs: list[Job], cores: int, speed: float) -> str:
    """Jobs and CPU seconds by rule of a miniature, and the wall time, as text."""
    counts = Counter(job.rule for job in jobs)
    lines = [f"{'rule':<12}{'jobs':>6}{'CPU seconds':>14}"]
    for rule in sorted(counts, key=RULES.index):
        seconds = speed * sum(job.seconds for job in jobs if job.rule == rule)
        lines.append(f"{rule:<12}{counts[rule]:>6}{seconds:>14.0f}")
    wall = wall_seconds(jobs, cores, speed)
    lines.append(f"{len(jobs)} jobs, predicted to take {clock(wall)} on {cores} cores")
    return "\n".join(lines)


def table_on_gpus(jobs: list[Job], gpu: GPU | None, gpus: int) -> str:
    """Jobs and GPU-hours by rule of a study of real models, and the wall time, as text."""
    counts = Counter(job.rule for job in jobs)
    lines = [f"{'rule':<12}{'jobs':>6}{'GPU-hours':>18}"]
    for rule in sorted(counts, key=RULES.index):
        own = [job for job in jobs if job.rule == rule]
        lines.append(f"{rule:<12}{counts[rule]:>6}{gpu_hours(own) if any(job.gpus for job in own) else '-':>18}")
    wall = wall_seconds_on_gpus(jobs, gpus)
    unknown = "GPUs that profit/costs.py does not know" if gpus else "a machine without a GPU"
    where = f"{gpus} x {gpu.name}" if gpu else unknown
    taken = f"predicted to take {clock(wall)}" if wall is not None else "how long they take is unknown"
    lines.append(f"{len(jobs)} jobs, {gpu_hours(jobs)} GPU-hours, {taken} on {where}")
    return "\n".join(lines)


def gpu_hours(jobs: list[Job]) -> str:
    """Hours of all GPUs of some jobs together, those apart of which nothing is known."""
    on_gpus = [job for job in jobs if job.gpus]
    known = [job.seconds * job.gpus / 3600 for job in on_gpus if job.seconds is not None]
    if len(known) == len(on_gpus):
        return f"{sum(known):,.1f}"
    return f"{sum(known):,.1f} + unknown" if known else "unknown"


def headline(study: Study) -> str:
    """Name and number of runs of a study, those that choose learning rates apart."""
    every = runs_of(study)
    runs, tuned = study_runs(every), tune_runs(every) if study.sweeps.learning_rate else []
    more = f", and {len(tuned)} that choose learning rates" if tuned else ""
    return f"study {study.name}: {len(runs)} runs, {sum(run.trained for run in runs)} of them trained{more}"


def clock(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def main(argv: list[str] | None = None) -> None:
    """Print the plan of a study."""
    parser = argparse.ArgumentParser(prog="python -m profit.plan", description=__doc__.split("\n")[0])
    parser.add_argument("study", help="study file")
    parser.add_argument(
        "--cores", type=int, default=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    )
    parser.add_argument("--gpu", choices=GPUS, default=DEFAULT_GPU, help="of a study of real models")
    parser.add_argument("--gpus", type=int, default=1, help="how many of them")
    arguments = parser.parse_args(argv)
    try:
        study = load_study(arguments.study)
        print(headline(study))
    except InputError as error:
        sys.exit(str(error))
    if study.miniature:
        print(table(jobs_of(study), arguments.cores, speed(arguments.cores)))
        return
    gpu = GPUS[arguments.gpu]
    print(table_on_gpus(jobs_of(study, gpu), gpu, arguments.gpus))
    print(sizes.needs(study, study_runs(runs_of(study)), gpu, arguments.gpus))


if __name__ == "__main__":
    main()
