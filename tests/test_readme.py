"""The README keeps its promises: blocks of YAML work, targets exist, files are there, the figures redraw."""

import re
import runpy
import shlex
import shutil
import time
from pathlib import Path

import pytest
import yaml
from test_workflow import copy_repository, snakemake, tool

from profit.objectives import OBJECTIVES
from profit.runs import runs_of
from profit.settings import OBJECTIVE_SETTINGS
from profit.study import load_study

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BLOCKS = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
COMMANDS = sorted(set(re.findall(r"`(snakemake --cores all[^`]*)`", README)))
MENTIONED = sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README)))


def merged(into: dict, block: dict) -> dict:
    """`into` with the keys of `block` added, level by level, as a person would paste them."""
    for key, value in block.items():
        into[key] = merged(into[key], value) if isinstance(value, dict) and key in into else value
    return into


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_extends_the_study(block: str, tmp_path: Path):
    study = ROOT / "workflow" / "studies" / "miniature.yaml"
    content = merged(yaml.safe_load(study.read_text()), yaml.safe_load(block))
    content["training"]["learning_rate"] = float(content["training"]["learning_rate"])
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    before, after = load_study(study), load_study(path)
    assert len(runs_of(after)) > len(runs_of(before)) or set(after.benchmarks) > set(before.benchmarks)


def test_there_are_blocks_for_a_method_a_model_and_a_benchmark():
    assert {key for block in BLOCKS for key in yaml.safe_load(block)} == {"methods", "models", "benchmarks"}


@pytest.mark.parametrize("example", EXAMPLES, ids=["trainer", "trl", "loop"])
def test_each_example_trains_a_model(example: str, model_folder: Path, tmp_path: Path, monkeypatch, capsys):
    assert len(example.splitlines()) < 40
    if "trl" in example:
        pytest.importorskip("trl")
    code, changed = re.subn(r'(?<=^MODEL = ").*(?="$)', str(model_folder), example, flags=re.MULTILINE)
    assert changed == 1
    script = tmp_path / "script.py"
    script.write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    losses = [float(loss) for loss in re.findall(r"^loss (\S+?),?(?: |$)", capsys.readouterr().out, re.MULTILINE)]
    assert losses and all(0 < loss < 20 for loss in losses)


def objectives_table() -> str:
    """The table of all objectives, as the README has it."""
    lines = ["| objective | formula | settings and defaults | source |", "|---|---|---|---|"]
    for name, objective in OBJECTIVES.items():
        defaults = OBJECTIVE_SETTINGS[name].items()
        settings = [f"`{key}` {'(none)' if value is None else value}" for key, value in defaults]
        lines.append(f"| `{name}` | `{objective.equation}` | {', '.join(settings)} | {objective.citation} |")
    return "\n".join(lines)


def test_the_table_of_objectives_is_that_of_the_code():
    assert objectives_table() in README


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_builds_its_jobs(command: str, tmp_path: Path):
    copy_repository(tmp_path)
    shutil.copytree(ROOT / "results" / "reference", tmp_path / "results" / "reference")
    assert "This was a dry-run" in snakemake(tmp_path, *shlex.split(command)[1:], "-n")


@pytest.mark.parametrize("path", MENTIONED)
def test_each_file_it_links_to_exists(path: str):
    assert (ROOT / path).exists()


def test_the_shipped_figures_are_redrawn_within_a_minute(tmp_path: Path):
    copy_repository(tmp_path)
    shutil.copytree(ROOT / "results" / "reference", tmp_path / "results" / "reference")
    started = time.monotonic()
    output = snakemake(tmp_path, "--cores", "2", "figures")
    drawn = sorted(path.name for path in (tmp_path / "figures" / "reference").iterdir())
    assert len(drawn) == 24 and time.monotonic() - started < 60
    assert "train" not in output
    assert "Nothing to be done" in snakemake(tmp_path, "--cores", "2", "figures")


def test_what_is_shipped_is_small():
    sizes = [path.stat().st_size for path in (ROOT / "results" / "reference").rglob("*") if path.is_file()]
    assert sum(sizes) < 2_000_000


def test_the_rulegraph_is_that_of_the_workflow():
    graph = tool("snakemake", "--rulegraph", "mermaid-js").stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", graph) if a != b}
    assert edges and edges == set(re.findall(r"    (\w+) --> (\w+)", README))
