"""Memory, time, GPUs and threads that a job asks Snakemake for, and a cluster through it.

    mem_mb   main memory: a constant for the jobs of a miniature and those without a model, else profit.sizes with a
             quarter to spare
    runtime  minutes: likewise a constant, else at least that and MARGIN times the prediction of profit.costs on
             SLOW_GPU, because no study says which GPU it will meet; a day for a judge that is asked over a network
    gpu      GPUs that the job leases if GPUs are asked for at all: the processes of a training, the GPUs of an
             evaluation by vllm, else one for a job with a model
    threads  one, but where bases are pretrained (pretraining_threads)

A model of unknown size gets UNKNOWN. `--set-resources train:runtime=…` overrides all of it.

No command: used by the rules. Imports nothing heavy.
"""

import math

from profit.costs import GPUS, gpus_of, job_seconds
from profit.runs import Run
from profit.sizes import host_bytes
from profit.study import Study

# (MB, minutes) of rules whose jobs are alike in all studies or small in a miniature.
CONSTANT = {
    "generate": (2000, 10), "unseen": (2000, 10), "pretrain": (4000, 60), "collect": (8000, 60), "fetch": (4000, 240),
    "questions": (4000, 60), "score": (4000, 30), "annotate": (2000, 10), "agreement": (4000, 30),
    "correlate": (4000, 30), "train": (4000, 60), "evaluate": (4000, 60), "overfit": (4000, 30),
    "gradients": (4000, 30), "account": (4000, 30), "drift": (4000, 30), "answer_style": (4000, 30),
    "timing": (4000, 30), "claims": (2000, 10), "tabulate": (4000, 10), "tune": (2000, 10), "draw": (2000, 10),
    "report": (2000, 10),
}  # fmt: skip
# Tables of real data are larger: a row a token of every reference.
REAL = {"annotate": (8000, 60), "agreement": (8000, 60), "correlate": (16000, 120), "tabulate": (16000, 60)}
UNKNOWN = (64_000, 24 * 60)
JUDGE_MINUTES = 24 * 60
MARGIN, SPARE, SLOW_GPU = 3, 1.25, GPUS["A100"]


def resources_of(
    study: Study, rule: str, model: str | None = None, run: Run | None = None, annotator: str | None = None
) -> dict[str, int]:
    """mem_mb, runtime (minutes) and gpu of a job.

    Args:
        model: of a job that has one; left out where `run` is given.
        run: of train, evaluate and overfit.
        annotator: of annotate.
    """
    if run is not None:
        model = run.leaf["model"]
    memory, minutes = CONSTANT[rule] if study.miniature else REAL.get(rule, CONSTANT[rule])
    if annotator == "llm":
        minutes = JUDGE_MINUTES
    gpus = gpus_of(study, rule, model)
    if gpus and not study.miniature:
        seconds = job_seconds(study, rule, SLOW_GPU, model, run)
        if seconds is None:
            memory, minutes = UNKNOWN
        else:
            memory = max(memory, math.ceil(SPARE * host_bytes(study, rule, model) / 1e6))
            minutes = max(minutes, math.ceil(MARGIN * seconds / 60))
    return {"mem_mb": memory, "runtime": minutes, "gpu": gpus}


def pretraining_threads(bases: int, cores: int | None) -> int:
    """Threads to pretrain a base of a miniature on; their number does not change its weights.

    About half as fast again on two: a gain where the other core would wait, a loss where it has another base to train.

    Args:
        bases: bases that the study pretrains.
        cores: all cores of the run; None on a cluster.
    """
    return 2 if cores is None or 2 * bases <= cores else 1
