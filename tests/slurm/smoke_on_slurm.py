"""The smoke study on a real Slurm of one node has the numbers of a local run: `make test-slurm`, not `make test`."""

import json
import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import pytest
from one_node import one_node
from test_workflow import ROOT, SMOKE, copy_repository, snakemake

CPUS, GPUS = 2, 3
PROFILE = "workflow/profiles/slurm"
GPU_JOBS = """
from profit.lease import asks_for_gpus
GPU = int(asks_for_gpus(workflow))
rule all:
    input: "none", "one", "two"
rule job:
    output: "{name}"
    resources: mem_mb=100, runtime=5, gpu=lambda wildcards: GPU * {"none": 0, "one": 1, "two": 2}[wildcards.name]
    shell: "echo ${{SLURM_GPUS_ON_NODE:-0}} > {output}"
"""


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Two copies of the repository, made at once: minutes pass between the runs, and somebody may edit."""
    folders = [tmp_path_factory.mktemp(name) for name in ("local", "slurm")]
    for folder in folders:
        copy_repository(folder)
    return folders


@pytest.fixture(scope="module")
def local(copies):
    folder, _ = copies
    started = time.monotonic()
    snakemake(folder, "--cores", CPUS, "--configfile", SMOKE)
    print(f"local: {time.monotonic() - started:.0f} s")
    return folder


@pytest.fixture(scope="module")
def on_slurm(copies):
    """A copy of the repository in which Slurm has run the smoke study; what Snakemake said, and Slurm of its jobs."""
    _, folder = copies
    with one_node(CPUS, GPUS) as variables:
        started = time.monotonic()
        options = ["--profile", PROFILE, "--resources", "gpu=0", "--slurm-init-seconds-before-status-checks", "5"]
        text = snakemake(folder, *options, "--configfile", SMOKE, **variables)
        print(f"Slurm: {time.monotonic() - started:.0f} s")
        listed = ["squeue", "--states=all", "--noheader", "--format=%T %k"]
        jobs = subprocess.run(listed, env=os.environ | variables, capture_output=True, text=True, check=True).stdout
    (folder / "output.txt").write_text(text)
    (folder / "jobs.txt").write_text(jobs)
    return folder


def runs_in(folder):
    return sorted(path.parent.relative_to(folder / "results/smoke/runs").parts for path in folder.rglob("train.json"))


def test_every_run_was_a_job_of_slurm_that_ended_well(on_slurm):
    states, comments = zip(
        *(line.split(" ", 1) for line in (on_slurm / "jobs.txt").read_text().splitlines()), strict=True
    )
    assert set(states) == {"COMPLETED"}
    counts = Counter(comment.removeprefix("rule_").partition("_wildcards")[0] for comment in comments)
    runs = len(runs_in(on_slurm))
    assert runs >= 10 and counts["train"] == runs
    assert counts["pretrain"] == counts["tabulate"] == counts["report"] == 1 and counts["draw"] == 8


def test_no_fork_server_was_started(on_slurm):
    assert "fork server" not in (on_slurm / "output.txt").read_text()
    assert not (on_slurm / "results/smoke/benchmarks/account.json").exists()


def test_the_weights_are_the_same_bit_for_bit(local, on_slurm):
    found = [path.relative_to(local) for path in sorted(local.glob("results/smoke/**/*.safetensors"))]
    assert len(found) >= 1 + len(runs_in(local))
    assert found == [path.relative_to(on_slurm) for path in sorted(on_slurm.glob("results/smoke/**/*.safetensors"))]
    different = [str(path) for path in found if (local / path).read_bytes() != (on_slurm / path).read_bytes()]
    assert not different


def test_steps_answers_and_accuracies_are_the_same(local, on_slurm):
    def same(pattern, at_least, read):
        found = [path.relative_to(local) for path in sorted(local.glob(f"results/smoke/{pattern}"))]
        assert len(found) >= at_least
        assert [path for path in found if read(local / path) != read(on_slurm / path)] == []

    def table(path, *left_out):
        return pd.read_parquet(path).drop(columns=list(left_out)).to_dict("list")

    runs = runs_in(local)
    assert runs == runs_in(on_slurm)
    same("runs/**/steps.parquet", len(runs), lambda path: table(path, "tokens_per_second"))
    same("evaluations/**/samples.parquet", len(runs), table)
    same("evaluations/**/summary.json", len(runs), lambda path: json.loads(path.read_text())["benchmarks"])
    same("tables/main.csv", 1, Path.read_bytes)


def test_a_job_gets_the_gpus_it_asks_for_though_the_submitting_machine_has_none(tmp_path):
    (tmp_path / "Snakefile").write_text(GPU_JOBS)
    options = ["--profile", ROOT / PROFILE, "--slurm-init-seconds-before-status-checks", "5"]
    with one_node(CPUS, GPUS) as variables:
        snakemake(tmp_path, *options, "--resources", "gpu=3", PYTHONPATH=str(ROOT), **variables)
        assert [(tmp_path / name).read_text() for name in ("none", "one", "two")] == ["0\n", "1\n", "2\n"]
        snakemake(tmp_path, *options, "--resources", "gpu=0", "--forceall", PYTHONPATH=str(ROOT), **variables)
    assert {(tmp_path / name).read_text() for name in ("none", "one", "two")} == {"0\n"}


def test_a_slurm_whose_user_fails_leaves_nothing_behind():
    with pytest.raises(ZeroDivisionError), one_node(CPUS, GPUS) as variables:
        folder = Path(variables["SLURM_CONF"]).parent
        command = ["sbatch", "--output=/dev/null", f"--wrap=exec tail -f {folder}/slurm.conf"]
        subprocess.run(command, env=os.environ | variables, check=True, capture_output=True)
        _ = 1 / 0
    assert not folder.exists()
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if str(folder) in command]
