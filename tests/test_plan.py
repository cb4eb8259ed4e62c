"""The plan counts the jobs that Snakemake will run and grows with the work; what cannot run stops before the first."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_costs import hub, item, real

from profit import lease, plan, progress
from profit.costs import GPUS
from profit.files import InputError
from profit.lease import CLUSTER
from profit.progress import Progress, begin, check_leave, check_limit
from profit.study import load_study

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "workflow" / "studies").glob("*.yaml"))
MODELS = {"first": hub("some/first-0.6B"), "second": hub("some/second-7B")}
NONE, SFT = {"objective": "none", "seeds": 1}, {"objective": "sft", "seeds": 2}
LABELLED = {
    "data": {"sources": [{"hub": "some/data"}], "prompts": 2000, "references": 3, "held": 1},
    "analysis": {
        "annotators": ["agreement", "llm"],
        "judge": {"model": "judge", "base_url": "https://host/v1"},
    },
}


def snakemake(path, folder, *arguments, **variables):
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PROFIT_", "SNAKEMAKE", "HF_ALLOW"))
    }
    command = [Path(sys.executable).parent / "snakemake", "--snakefile", ROOT / "Snakefile", "--configfile", path]
    command += ["--directory", folder, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=clean | variables)
    return done.returncode, done.stdout + done.stderr


def counted_by_snakemake(path, folder):
    """Jobs by rule in an empty folder, where everything is to be made."""
    _, text = snakemake(path, folder, "-n")
    table = text.split("Job stats:\n")[1].split("\n\n")[0]
    found = {rule: int(count) for rule, count in re.findall(r"\n(\w+) +(\d+)\b", table)}
    assert found.pop("total") == sum(found.values())
    return {rule: count for rule, count in found.items() if rule != "all"}


def written(folder, study):
    path = folder / "real.yaml"
    path.write_text(json.dumps(study.model_dump(exclude_unset=True)))
    return path


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_plan_has_the_jobs_of_a_dry_run(path, tmp_path):
    counted = Counter(job.rule for job in plan.jobs_of(load_study(path)))
    assert counted_by_snakemake(path, tmp_path) == dict(counted)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (
            # iw_sft and the overfitting read their base's scores, excess those of the pair; two epochs are evaluated.
            {
                "methods": {
                    "vanilla": NONE,
                    "sft": SFT,
                    "weighted": {"objective": "iw_sft", "seeds": 1, "models": ["second"]},
                    "excess": {"objective": "excess", "seeds": 1, "paired_with": "sft", "models": ["first"]},
                },
                "sweeps": {
                    "epochs": {"methods": ["sft"], "epochs": 2, "models": ["first"]},
                    "overfitting": {"method": "sft", "references": [1], "benchmark": "gsm8k", "seeds": 1,
                                    "models": ["first"]},
                },
                "data": LABELLED["data"],
                "benchmarks": {name: item(name) for name in ("gsm8k", "math_500", "humaneval")},
                "tables": {
                    "main": {"benchmarks": ["gsm8k", "math_500"]},
                    "general": {"benchmarks": ["humaneval"], "models": ["first"]},
                },
            },
            {"collect": 1, "fetch": 2, "questions": 3, "score": 3, "train": 4 + 1 + 1 + 1,
             "evaluate": 2 + 4 + 1 + 1 + 2, "overfit": 1, "tabulate": 1, "claims": 1, "draw": 5, "report": 1},
        ),
        (
            # All bases are scored for the annotators' sake; the sweep with one reference is sft itself.
            {
                "methods": {"vanilla": NONE, "sft": SFT},
                "sweeps": {"overfitting": {"method": "sft", "references": [1, 2], "budgets": ["steps"],
                                           "benchmark": "gsm8k", "seeds": 1, "models": ["first"]}},
                **LABELLED,
            },
            {"collect": 1, "fetch": 2, "questions": 1, "score": 2, "annotate": 2, "agreement": 1, "correlate": 4,
             "train": 4 + 1, "evaluate": 2 + 4 + 1, "overfit": 2, "tabulate": 1, "claims": 1, "draw": 6, "report": 1},
        ),
    ],
    ids=["nobody annotates", "two annotators"],
)  # fmt: skip
def test_jobs_of_real_models_are_those_counted_by_hand(blocks, expected, tmp_path):
    study = real(models=MODELS, **blocks)
    assert Counter(job.rule for job in plan.jobs_of(study)) == expected
    # The shipped studies have annotators.
    if not study.analysis.annotators:
        assert counted_by_snakemake(written(tmp_path, study), tmp_path) == expected


def test_more_work_costs_more():
    study = load_study(ROOT / "workflow" / "studies" / "miniature.yaml")
    data = study.data.model_copy(update={"prompts": 2 * study.data.prompts})
    wall = [plan.wall_seconds(plan.jobs_of(item), 2, 1.0) for item in (study, study.model_copy(update={"data": data}))]
    assert wall[1] > 1.2 * wall[0]
    jobs = plan.jobs_of(study)
    assert plan.wall_seconds(jobs, 1, 1.0) > plan.wall_seconds(jobs, 2, 1.0) > plan.wall_seconds(jobs, 2, 0.5)
    assert plan.wall_seconds(jobs, 2, 1.0) > 10 * plan.wall_seconds(jobs[:2], 2, 1.0)


@pytest.mark.parametrize(
    ("bases", "cores", "expected"),
    [
        (1, 2, 30 / plan.TWO_THREADS + 100 / 2),
        (3, 6, 30 / plan.TWO_THREADS + 100 / 6),  # all at once, ahead of the rest
        (3, 2, (90 + 100) / 2),  # each beside another job
        (1, 1, 30 + 100),
    ],
)
def test_when_bases_are_pretrained(bases, cores, expected):
    jobs = [plan.Job("train", 100.0), *[plan.Job("pretrain", 30.0)] * bases]
    overhead = (len(jobs) + 1) * plan.OVERHEAD
    assert plan.wall_seconds(jobs, cores, 1.0) == pytest.approx(plan.SERVER + expected, abs=overhead)


def test_jobs_of_a_model_with_more_prompts_take_longer():
    study = load_study(ROOT / "workflow" / "studies" / "audit.yaml")
    runs = plan.runs_of(study)
    for rule in ("train", "overfit", "score"):
        mini, more = (
            plan.job_seconds(study, runs, rule, {"model": model, "method": "sft", "seed": 0, "scored": "base"})
            for model in ("mini", "more")
        )
        fixed = plan.COSTS[rule].fixed
        assert more - fixed == pytest.approx(2 * (mini - fixed)) and mini > fixed
    keys = {"model": "mini", "method": "sft_1ref_2x", "seed": 0}
    assert plan.job_seconds(study, runs, "train", keys) == plan.job_seconds(
        study, runs, "train", {"model": "more", "method": "sft", "seed": 0}
    )


def test_unseen_prompts_cost_little_and_only_where_they_are_accounted_for():
    study = load_study(ROOT / "workflow" / "studies" / "miniature.yaml")
    without = study.model_copy(update={"data": study.data.model_copy(update={"unseen": 0})})
    jobs, others = (Counter(job.rule for job in plan.jobs_of(item)) for item in (study, without))
    accounts = jobs["account"]
    assert jobs - others == {"unseen": 1, "annotate": 1, "score": accounts + 1} and accounts == 20
    seconds, more = (sum(job.seconds for job in plan.jobs_of(item)) for item in (without, study))
    assert 0 < more - seconds < 25
    keys = {"model": "mini", "scored": "unseen/base"}
    share = study.data.unseen * study.data.held / (study.data.prompts * study.data.references)
    known, unseen = (
        plan.job_seconds(study, {}, "score", keys | {"scored": name}) - plan.COSTS["score"].fixed
        for name in ("base", "unseen/base")
    )
    assert unseen == pytest.approx(share * known)


def test_clock():
    expected = {0.4: "0 s", 59.6: "1 min 0 s", 75: "1 min 15 s", 7260: "2 h 1 min", 180_000: "2 d 2 h"}
    assert {seconds: plan.clock(seconds) for seconds in expected} == expected


def test_runs_that_choose_learning_rates_are_named_where_they_are_run():
    audit, miniature = (load_study(ROOT / f"workflow/studies/{name}.yaml") for name in ("audit", "miniature"))
    tune = audit.tune
    count = len(tune.methods) * len(tune.models) * len(tune.learning_rates) * len(tune.seeds)
    assert plan.headline(audit).endswith(f" of them trained, and {count} that choose learning rates")
    assert plan.headline(miniature).endswith(" of them trained")


def test_command_line(capsys):
    plan.main([str(ROOT / "workflow" / "studies" / "smoke.yaml"), "--cores", "2"])
    text = capsys.readouterr().out
    assert "study smoke:" in text and re.search(r"jobs, predicted to take .* on 2 cores", text)
    with pytest.raises(SystemExit, match="not found"):
        plan.main(["nowhere.yaml"])


def test_command_line_for_real_models(tmp_path, capsys):
    blocks = {"models": {"large": hub("some/large-14B"), "other": hub("some/other")}}
    path = written(tmp_path, real(**blocks, data={"sources": [{"hub": "some/data"}]}))
    plan.main([str(path), "--gpu", "A100", "--gpus", "8"])
    text = capsys.readouterr().out
    assert re.search(r"\ntrain +2 +\d+\.\d \+ unknown\n", text) and re.search(r"\nfetch +2 +-\n", text)
    assert "+ unknown GPU-hours, how long they take is unknown on 8 x A100" in text
    assert "2,000 prompts (data.prompts is not set), 650 tokens a reference" in text
    assert "WARNING: models.other.parameters: found none, expected how many billions" in text
    large = r"WARNING: training large/sft takes 1 x 342 GB, an A100 has 80: up to 64 processes would not do, "
    assert re.search(large + "compute.gradient_checkpointing needs less", text)
    assert re.search(r"WARNING: evaluating large takes 1 x 156 GB if no answer ends, an A100 has 80", text)
    keys = {"precision": "bfloat16", "processes": 8, "gradient_checkpointing": True, "backend": "vllm"}
    path = written(tmp_path, real(models={"large": hub("some/large-14B", compute=keys)}))
    plan.main([str(path), "--gpus", "4"])
    warnings = re.findall("WARNING: (.*)", capsys.readouterr().out)
    assert len(warnings) == 1 and warnings[0].startswith("a job of large asks for 8 GPUs, found 4")
    plan.main([str(path), "--gpus", "8"])
    text = capsys.readouterr().out
    assert "WARNING" not in text and re.search(r"GPU-hours, predicted to take .* on 8 x H100", text)


def test_wall_time_is_shared_by_the_gpus_but_for_what_waits():
    jobs = [plan.Job("fetch", 100.0), plan.Job("report", 10.0), plan.Job("annotate", 40.0)]
    jobs += [plan.Job("train", 60.0, 2), plan.Job("evaluate", 50.0, 1), plan.Job("evaluate", 30.0, 1)]
    wall = {gpus: plan.wall_seconds_on_gpus(jobs, gpus) for gpus in (1, 2, 4, 100)}
    assert wall == {1: None, 2: 110 + 100, 4: 110 + 60, 100: 110 + 60}
    assert plan.wall_seconds_on_gpus(jobs[:3], 0) == 150
    assert plan.wall_seconds_on_gpus([*jobs, plan.Job("score", None, 1)], 4) is None
    # 120 + 80 GPU-seconds.
    hours = [plan.gpu_hours(some) for some in (jobs, [*jobs, plan.Job("score", None, 1)], jobs[:3])]
    assert hours == ["0.1", "0.1 + unknown", "0.0"] and plan.gpu_hours([plan.Job("score", None, 1)]) == "unknown"


# What Snakemake shows and refuses before the first job


def workflow(study, gpus, local=False):
    """As much of a workflow as `begin` reads, with every job of a study pending, and a rule that is not planned."""
    named = [*plan._named(study, plan.study_runs(plan.runs_of(study))), ("all", {})]
    jobs = [
        SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards_dict=keys, number=number)
        for number, (rule, keys) in enumerate(named)
    ]
    return SimpleNamespace(
        dag=SimpleNamespace(needrun_jobs=lambda: jobs, jobid=lambda job: job.number),
        global_resources={"gpu": SimpleNamespace(value=gpus)},
        resource_settings=SimpleNamespace(cores=2),
        local_exec=local,
    )


def test_a_cluster_shows_the_plan_of_real_models(monkeypatch, capsys):
    monkeypatch.setenv(CLUSTER, "1")
    study = real()
    assert begin(workflow(study, 8), study) == {}
    text = capsys.readouterr().err
    assert text.startswith("study real: 2 runs, 1 of them trained\nrule ") and "on 8 x H100\n" in text
    assert f"\n{len(plan.jobs_of(study))} jobs, " in text and "WARNING" in text
    monkeypatch.setenv(CLUSTER, "0")
    begin(workflow(study, 8), study)
    assert "how long they take is unknown on a machine without a GPU" in capsys.readouterr().err


def test_a_local_run_is_predicted_for_the_gpus_in_reach(monkeypatch):
    listed = "GPU 0: NVIDIA H20 (UUID: GPU-aa11)\nGPU 1: NVIDIA H20 (UUID: GPU-ab22)\n"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv(CLUSTER, "1")
    monkeypatch.setattr(lease, "_listed", lambda: listed)
    found = [progress._gpus_of(workflow(real(), limit, local=True)) for limit in (0, 1, 8)]
    assert found == [(0, None), (1, GPUS["H20"]), (2, GPUS["H20"])]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert progress._gpus_of(workflow(real(), 8, local=True)) == (1, GPUS["H20"])
    monkeypatch.setattr(lease, "_listed", lambda: listed.replace("H20", "Tesla T4"))
    assert progress._gpus_of(workflow(real(), 8, local=True)) == (1, None)
    monkeypatch.setattr(lease, "_listed", lambda: "")
    assert progress._gpus_of(workflow(real(), 8, local=True)) == (0, None)


def test_a_job_of_more_gpus_than_there_are_is_refused(monkeypatch):
    monkeypatch.setenv(CLUSTER, "1")
    study = real(models={"base": hub(compute={"processes": 8})})
    with pytest.raises(SystemExit, match=r"^found 4 GPUs that jobs may use, expected the 8 that a job of rule train"):
        begin(workflow(study, 4), study)
    jobs = plan.jobs_of(study)
    for gpus in (0, 8, 9):
        check_limit(jobs, gpus)
    check_limit([], 1)
    with pytest.raises(InputError, match="found 7 GPUs"):
        check_limit(jobs, 7)


def test_code_of_a_model_runs_only_with_leave():
    tables = {"main": {"benchmarks": ["gsm8k"]}, "general": {"benchmarks": ["code"], "models": ["second"]}}
    benchmarks = {"gsm8k": item("gsm8k"), "code": item("humaneval", protocol="humaneval")}
    study = real(models=MODELS, benchmarks=benchmarks, tables=tables)
    check_leave(study, {"HF_ALLOW_CODE_EVAL": "1"})
    check_leave(study, {}, {"first"})
    check_leave(study, {}, set())
    for environment, models in (({}, None), ({"HF_ALLOW_CODE_EVAL": "0"}, {"first", "second"})):
        with pytest.raises(InputError, match=r"^benchmarks.code: found code by second .*HF_ALLOW_CODE_EVAL=1"):
            check_leave(study, environment, models)
    check_leave(real(), {})


def test_snakemake_ends_with_that_sentence_before_any_job(tmp_path):
    path = written(tmp_path, real(benchmarks={"humaneval": item("humaneval")}))
    status, text = snakemake(path, tmp_path, "--cores", "1")
    assert status == 1 and not (tmp_path / "results").exists()
    last = text.rstrip().splitlines()[-1]
    assert last.startswith("benchmarks.humaneval: found code by base") and last.endswith("nothing was started")
    assert "Error" not in text and "Traceback" not in text


def test_progress_without_a_prediction_counts_jobs(monkeypatch):
    jobs = {i: plan.Job("evaluate", None, 1) for i in range(10)}
    shown = Progress(jobs, None)
    assert shown.left() is None
    monkeypatch.setattr(progress, "say", print)
    shown.finished = {0, 1}
    shown.started -= 20
    assert shown.left() == pytest.approx(80, rel=0.01)


def test_progress_weighs_jobs_by_what_they_take_of_all_gpus():
    jobs = {0: plan.Job("train", 50.0, 8), 1: plan.Job("evaluate", 100.0, 1), 2: plan.Job("draw", 0.0)}
    shown = Progress(jobs, 1000.0)
    assert shown.left() == pytest.approx(1000, rel=0.01)
    shown.started -= 80
    shown.finished = {0, 2}
    assert shown.left() == pytest.approx(80 * 0.2 / 0.8, rel=0.01)
