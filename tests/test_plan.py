"""The plan counts the jobs that Snakemake will run and grows with the work."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from profit import plan
from profit.study import load_study

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "workflow" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_plan_has_the_jobs_of_a_dry_run(path, tmp_path):
    """Nothing has been made in the empty folder, so everything is to be run."""
    snakefile = ROOT / "Snakefile"
    command = [Path(sys.executable).parent / "snakemake", "-n", "--snakefile", snakefile, "--configfile", path]
    done = subprocess.run([*command, "--directory", tmp_path], capture_output=True, text=True)
    stats = dict(re.findall(r"\n(\w+) +(\d+)\b", done.stdout + done.stderr))
    counted = Counter(job.rule for job in plan.jobs_of(load_study(path)))
    assert {rule: int(stats[rule]) for rule in counted} == dict(counted)
    assert int(stats["total"]) == sum(counted.values()) + 1


def test_more_work_costs_more():
    study = load_study(ROOT / "workflow" / "studies" / "miniature.yaml")
    data = study.data.model_copy(update={"prompts": 2 * study.data.prompts})
    wall = [plan.wall_seconds(plan.jobs_of(item), 2, 1.0) for item in (study, study.model_copy(update={"data": data}))]
    assert wall[1] > 1.2 * wall[0]
    jobs = plan.jobs_of(study)
    assert plan.wall_seconds(jobs, 1, 1.0) > plan.wall_seconds(jobs, 2, 1.0) > plan.wall_seconds(jobs, 2, 0.5)
    assert plan.wall_seconds(jobs, 2, 1.0) > 10 * plan.wall_seconds(jobs[:2], 2, 1.0)


def test_clock():
    expected = {0.4: "0 s", 59.6: "1 min 0 s", 75: "1 min 15 s", 7260: "2 h 1 min"}
    assert {seconds: plan.clock(seconds) for seconds in expected} == expected


def test_command_line(capsys):
    plan.main([str(ROOT / "workflow" / "studies" / "smoke.yaml"), "--cores", "2"])
    text = capsys.readouterr().out
    assert "study smoke:" in text and re.search(r"jobs, predicted to take .* on 2 cores", text)
    with pytest.raises(SystemExit, match="not found"):
        plan.main(["nowhere.yaml"])
