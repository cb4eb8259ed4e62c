"""The workflow as a person meets it: a smoke study from nothing, what reruns after an edit, what a kill leaves."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import pytest

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "workflow" / "studies").glob("*.yaml"))
SMOKE = "workflow/studies/smoke.yaml"
PROFILE = "workflow/profiles/default"
RULES = [
    rule for path in (ROOT / "workflow" / "rules").glob("*.smk") for rule in re.split(r"\n(?=rule )", path.read_text())
]
RULES = {rule.split(":")[0].removeprefix("rule "): rule for rule in RULES if rule.startswith("rule ")}


def tool(name, *arguments, folder=ROOT, check=True, **variables):
    """Run a program of this Python's environment, with no settings of a surrounding Snakemake."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PROFIT_", "SNAKEMAKE", "PYTEST"))}
    command = [str(Path(sys.executable).parent / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=clean | variables, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def snakemake(folder, *arguments, check=True, **variables):
    done = tool("snakemake", *arguments, folder=folder, check=check, **variables)
    return done.stdout + done.stderr


def timed(folder, **options):
    """What a run with the shipped profile, whose timespan is a minute, says, and how many seconds it takes."""
    started = time.monotonic()
    text = snakemake(folder, "--profile", PROFILE, "--cores", "2", "--configfile", SMOKE, **options)
    return text, time.monotonic() - started


def pending(folder, *arguments, study=SMOKE):
    """Jobs that a dry run would run, by the verb of their message: {"Train": {"mini/sft, seed 0", …}, …}."""
    found = {}
    for verb, rest in re.findall(r"\nJob \d+: (\w+) (.*)", snakemake(folder, "-n", *arguments, "--configfile", study)):
        found.setdefault(verb, set()).add(rest)
    return found


def runs_of(model, methods, *seeds):
    return {f"{model}/{method}, seed {seed}" for method in methods for seed in seeds}


def copy_repository(target):
    for name in ("profit", "workflow", "results/published"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, target / name)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A copy of the repository in which the smoke study has been run; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    copy_repository(folder)
    (folder / "output.txt").write_text(timed(folder)[0])
    return folder


@pytest.fixture
def edited(finished, tmp_path):
    """A copy of the finished study that a test may change; results, metadata and times are kept."""
    target = tmp_path / "repository"
    shutil.copytree(finished, target, symlinks=True)
    return target


def numbers(folder, *keys):
    """What a run and its evaluation found, without what depends on the clock."""
    run = "/".join(keys)
    steps = pd.read_parquet(folder / f"results/smoke/runs/{run}/steps.parquet").drop(columns="tokens_per_second")
    summary = json.loads((folder / f"results/smoke/evaluations/{run}/final/summary.json").read_text())
    samples = pd.read_parquet(folder / f"results/smoke/evaluations/{run}/final/samples.parquet")
    return steps.to_dict("list"), summary["benchmarks"], samples.to_dict("list")


def forget(folder, *keys):
    """Remove a run and its evaluation."""
    for stage in ("runs", "evaluations"):
        shutil.rmtree(folder.joinpath("results/smoke", stage, *keys))


# Before anything runs


def test_lint():
    assert "good condition" in snakemake(ROOT, "--lint", "--configfile", SMOKE)


def test_code_is_formatted():
    tool("snakefmt", "--check", "Snakefile", "workflow")
    tool("ruff", "check")
    tool("ruff", "format", "--check")


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_dry_run_of_every_study_is_quick(study, tmp_path):
    copy_repository(tmp_path)
    started = time.monotonic()
    jobs = pending(tmp_path, study=study)
    assert len(jobs["Train"]) > 1 and "the report" in jobs["Write"]
    assert time.monotonic() - started < 20


def test_the_default_is_the_miniature_and_its_configuration_alone(tmp_path):
    copy_repository(tmp_path)
    text = snakemake(tmp_path, "-n")
    counts = dict(re.findall(r"\n(\w+) +(\d+)\b", text))
    assert int(counts["train"]) <= 80 and int(counts["evaluate"]) <= 95 and int(counts["draw"]) == 12
    assert "results/miniature/report.html" in text and "smoke" not in text


@pytest.mark.parametrize("name", ["audit", "phase"])
def test_a_target_may_name_its_study(tmp_path, name):
    copy_repository(tmp_path)
    text = snakemake(tmp_path, "-n", name)
    assert f"results/{name}/report.html" in text and "results/miniature" not in text
    assert "MissingRuleException" in snakemake(tmp_path, "-n", name, "--configfile", SMOKE, check=False)


def test_one_study_does_not_leak_into_another(tmp_path):
    copy_repository(tmp_path)
    found = {re.split("[/,]", job)[1] for job in pending(tmp_path)["Train"]}
    assert {"sft", "profit", "random", "profit_tau0.5", "sft_rank4", "sft_epochs", "sft_2ref_steps"} <= found
    assert not any(job.startswith(("entropy", "dft", "keep_low", "sft_3ref")) for job in found)


def test_more_than_one_file_or_a_setting_by_hand_is_refused():
    for extra in (["--configfile", SMOKE, STUDIES[0]], ["--configfile", SMOKE, "--config", "name=other"]):
        text = snakemake(ROOT, "-n", *extra, check=False)
        assert "A study is one file" in text


def test_a_mistake_in_the_study_stops_everything(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text((ROOT / SMOKE).read_text().replace("objective: random", "objective: randon"))
    text = snakemake(ROOT, "-n", "--configfile", path, check=False)
    assert re.search(r"wrong.yaml:\d+: methods.random.objective: found 'randon'.*did you mean 'random'", text)
    assert "Traceback" not in text


def test_parsing_loads_nothing_heavy():
    code = (
        "import sys\nfrom snakemake.cli import main\n"
        # The executor plugin for Slurm loads pandas wherever it is installed.
        "from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry as Executors\n"
        "Executors()\nbefore = set(sys.modules)\n"
        f"try: main(['-n', '--quiet', '--configfile', '{SMOKE}', '--directory', sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'pyarrow', 'datasets', 'lm_eval', 'matplotlib'}\n"
        "print('loaded:', *heavy & set(sys.modules) - before, 'profit.study' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, "."], cwd=ROOT, capture_output=True, text=True)
    assert "loaded: True" in done.stdout, done.stdout + done.stderr


def test_every_rule_is_complete():
    parts = ("output", "log", "benchmark", "threads", "resources", "params", "message", "shell")
    for name, rule in RULES.items():
        if name != "figures":
            assert all(f"\n    {part}:" in rule for part in parts), name
            assert "code=" in rule or name == "report", name
            assert "mem_mb=" in rule and "runtime=" in rule, name
        assert "\n    input:" in rule or name == "generate", name


def test_every_rule_calls_a_module_with_options_it_knows():
    for name, rule in RULES.items():
        call = re.search(r"python -m profit (\w+)(.*)", rule.split("shell:")[-1], flags=re.S)
        if call:
            known = importlib.import_module(f"profit.{call[1]}").make_parser()._option_string_actions
            given = set(re.findall(r"(--[a-z][a-z-]*)", call[2]))
            required = {option for option, action in known.items() if action.required}
            assert given <= set(known), name
            assert required - given <= {"--settings"}, name


def test_gpu_jobs_run_one_at_a_time_unless_told_otherwise(tmp_path):
    (tmp_path / "Snakefile").write_text(
        "from profit.lease import asks_for_gpus\nasks_for_gpus(workflow)\n"
        "rule all:\n    input: 'a', 'b'\nrule job:\n    output: '{name}'\n    resources: gpu=1\n"
        "    shell: 'date +%s.%N > {output}; sleep 1; date +%s.%N >> {output}'\n"
    )

    def overlap(*arguments):
        snakemake(tmp_path, "--cores", "2", "--forceall", *arguments, PYTHONPATH=str(ROOT))
        (begun, ended), (begun_b, ended_b) = (map(float, (tmp_path / name).read_text().split()) for name in "ab")
        return begun < ended_b and begun_b < ended

    assert not overlap()
    assert overlap("--resources", "gpu=2")


def test_tune_trains_the_grid_on_validation_problems(tmp_path):
    copy_repository(tmp_path)
    jobs = pending(tmp_path, "tune", study="workflow/studies/miniature.yaml")
    assert len(jobs["Train"]) == len(jobs["Evaluate"]) == 15
    assert {job.split("/")[1][:6] for job in jobs["Train"]} == {"sft_lr"}


# On a finished smoke study


def test_the_smoke_study_makes_everything(finished):
    for path in ("report.html", "tables/main.csv", "tables/table1_main.md", "benchmarks/account.json"):
        assert (finished / "results/smoke" / path).stat().st_size > 100, path
    figures = sorted(path.name for path in (finished / "figures/smoke").iterdir())
    assert len(figures) == 26 and figures[0] == "account.pdf"
    main = pd.read_csv(finished / "results/smoke/tables/main.csv")
    assert set(main["method"]) == {"vanilla", "sft", "profit", "random", "iw_sft", "excess", "asft"}
    report = (finished / "results/smoke/report.html").read_text()
    assert "Figure 4 of the paper" in report and "System Message" not in report
    opening = json.loads(re.search(r"var workflow_desc = (.*);\n", report)[1])
    judged = json.loads((finished / "results/smoke/claims.json").read_text())["over_bases"]
    assert "Verdicts of study smoke" in opening and opening.count("<tr>") == len(judged) + 1
    assert opening.index("ProFit beats SFT on average") < opening.index("above SFT at 100 % of the thresholds")


def test_a_person_sees_plan_progress_and_account(finished):
    text = (finished / "output.txt").read_text()
    assert re.search(r"\d+ jobs, predicted to take .* on 2 cores", text)
    assert re.search(r"\[\d+ of \d+ jobs done, about .* left\] running: train mini/\w+", text)
    assert re.search(r"Took .*, predicted .*\.", text) and "for start-up and imports" in text
    account = json.loads((finished / "results/smoke/benchmarks/account.json").read_text())[0]
    assert Counter(job["rule"] for job in account["jobs"])["train"] >= 10
    assert account["cpu_seconds"] > account["cpu_seconds_imports"] > 1


def test_a_second_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in snakemake(finished, "--cores", "2", "--configfile", SMOKE)


def test_a_comment_reruns_nothing(edited):
    for name in ("train.py", "objectives.py", "files.py", "evaluate.py"):
        path = edited / "profit" / name
        path.write_text(path.read_text().replace("\nimport ", "\n# a comment\n\nimport ", 1) + "\n\n# the end\n")
    edit(edited / SMOKE, "name: smoke", "# a comment\nname: smoke")
    assert pending(edited) == {}


def test_an_edited_objective_reruns_its_runs_only(edited):
    edit(
        edited / "profit/objectives.py",
        "    return keep_first(tokens.draw",
        "    0.0\n    return keep_first(tokens.draw",
    )
    jobs = pending(edited)
    assert jobs["Train"] == runs_of("mini", ["random"], 0, 1)
    assert jobs["Evaluate"] == {f"{run}, final" for run in jobs["Train"]}
    assert set(jobs) == {"Train", "Evaluate", "Gather", "Judge", "Draw", "Write"}


def test_an_edited_method_reruns_its_runs_and_those_paired_with_it(edited):
    edit(edited / SMOKE, "objective: profit, tau: 0.1", "objective: profit, tau: 0.2")
    jobs = pending(edited)
    assert jobs["Train"] == runs_of("mini", ["profit", "random"], 0, 1) | runs_of("mini", ["profit_tau0.1"], 0)
    scored = [f"mini/{folder}profit_seed{seed}" for folder in ("", "unseen/") for seed in (0, 1)]
    assert jobs["Score"] == {f"the reference tokens under {name}" for name in scored}
    assert jobs["Account"] == {f"for the tokens that mini/profit, seed {seed}, moved" for seed in (0, 1)}
    assert jobs["Time"] == {"the methods on mini"}
    verbs = {"Train", "Evaluate", "Score", "Account", "Describe", "Time", "Gather", "Judge", "Draw", "Write"}
    assert set(jobs) == verbs


def test_unseen_prompts_concern_the_accounts_alone(edited):
    edit(edited / SMOKE, ", unseen: 6", "")
    jobs = pending(edited)
    assert set(jobs) == {"Account", "Gather", "Judge", "Draw", "Write"} and len(jobs["Account"]) == 4
    edit(edited / SMOKE, "careful: 16", "careful: 16, unseen: 9")
    jobs = pending(edited)
    assert jobs["Generate"] == {"the unseen prompts of world shared"} and jobs["Annotate"] == {"the unseen by truth"}
    assert all(job.startswith("the reference tokens under mini/unseen/") for job in jobs["Score"])
    assert set(jobs) == {"Generate", "Annotate", "Score", "Account", "Gather", "Judge", "Draw", "Write"}


def test_an_edited_figure_is_drawn_alone(edited):
    edit(edited / "profit/figures/kept_share.py", "def draw(", "EXTRA = 1\n\n\ndef draw(")
    assert pending(edited) == {}
    text = (edited / "profit/figures/kept_share.py").read_text()
    place = re.search(r"\ndef draw\([^\n]*\n(?:.*\n)*?    \"\"\"(?:.*?)\"\"\"\n", text).end()
    (edited / "profit/figures/kept_share.py").write_text(text[:place] + "    0.0\n" + text[place:])
    assert pending(edited)["Draw"] == {"kept_share of smoke"}


def test_snakemake_ends_with_its_last_job(edited):
    (edited / "results/smoke/report.html").unlink()
    text, seconds = timed(edited)
    assert "Took " in text and seconds < 45


def test_a_truncated_result_is_named_on_the_screen(edited):
    path = edited / "results/smoke/data/shared/references.parquet"
    path.write_bytes(path.read_bytes()[:200])
    text, seconds = timed(edited, check=False)
    assert seconds < 45
    assert "FAILED: " in text and "references.parquet: found a truncated or foreign file" in text
    assert re.search(r"whole log: results/smoke/logs/\w+", text)


def test_the_same_numbers_without_the_fork_server(edited):
    """Hooks off, as on a cluster: the job runs in its own process."""
    before = numbers(edited, "mini", "random", "seed1")
    forget(edited, "mini", "random", "seed1")
    target = "results/smoke/evaluations/mini/random/seed1/final/summary.json"
    text = snakemake(edited, "--cores", "2", "--no-hooks", target, "--configfile", SMOKE)
    assert "predicted" not in text and "Train mini/random, seed 1" in text
    assert numbers(edited, "mini", "random", "seed1") == before


def descendants_of(folder):
    """Processes that work in a folder or below it."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_kill_9_leaves_no_process_and_the_study_goes_on_to_the_same_numbers(edited):
    run = ("mini", "profit", "seed1")
    before = numbers(edited, *run)
    forget(edited, *run)
    log = edited / "results/smoke/logs/train/mini/profit/seed1.log"
    log.unlink()
    command = [Path(sys.executable).parent / "snakemake", "--cores", "2", "--configfile", SMOKE]
    target = "results/smoke/evaluations/mini/profit/seed1/final/summary.json"
    with (edited / "killed.txt").open("w") as output:
        killed = subprocess.Popen([*command[:3], target, *command[3:]], cwd=edited, stdout=output, stderr=output)
    limit = time.monotonic() + 120
    while not (log.is_file() and log.read_text()):
        assert killed.poll() is None and time.monotonic() < limit, (edited / "killed.txt").read_text()
        time.sleep(0.05)
    assert len(descendants_of(edited)) >= 4
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    limit = time.monotonic() + 10
    while left := descendants_of(edited):
        assert time.monotonic() < limit, left
        time.sleep(0.1)
    snakemake(edited, "--unlock", "--configfile", SMOKE)
    snakemake(edited, "--cores", "2", "--rerun-incomplete", target, "--configfile", SMOKE)
    assert numbers(edited, *run) == before
