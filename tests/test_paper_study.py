"""The paper's studies: models, methods and benchmarks by the published numbers; the options in their comments."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from profit.pin import entries_of
from profit.runs import benchmarks_of, runs_of
from profit.strict_yaml import load_yaml
from profit.study import Study, load_study

ROOT = Path(__file__).parent.parent
PAPER, REFERENCES = (ROOT / "workflow" / "studies" / f"{name}.yaml" for name in ("paper", "paper_references"))
# max_position_embeddings of the models' configurations.
CONTEXTS = {"Qwen3": 32768, "Qwen2.5": 32768, "OLMo-2": 4096, "Llama-3.1": 131072}
LONGEST_PROMPT = 1024


def published(table: str) -> pd.DataFrame:
    frame = pd.read_csv(ROOT / "results" / "published" / f"{table}.csv")
    return frame[~frame["benchmark"].isin(["average", "difference_vs_vanilla"])]


@pytest.mark.parametrize("name", ["table1", "table2", "table3"])
def test_every_published_cell_is_measured(name: str) -> None:
    study, frame = load_study(PAPER), published(name)
    table = study.tables[name]
    assert table.models == list(frame["model"].unique())
    assert table.benchmarks == list(frame["benchmark"].unique())
    runs = {(model, method) for model, method, _ in runs_of(study)}
    assert set(zip(frame["model"], frame["method"], strict=True)) <= runs
    for model in table.models:
        assert set(table.benchmarks) <= set(study.asked(model))


@pytest.mark.parametrize("name", ["table1", "table2", "table3"])
def test_published_accuracies_are_shares_of_so_many_answers(name: str) -> None:
    study = load_study(PAPER)
    for row in published(name).itertuples():
        item = study.benchmarks[row.benchmark]
        count = row.accuracy / 100 * item.questions * item.samples
        printed = 0.005001 / 100 * item.questions * item.samples
        assert abs(count - round(count)) <= printed, row


@pytest.mark.parametrize("path", [PAPER, REFERENCES], ids=lambda path: path.stem)
def test_models_have_templates_that_write_their_end_and_room_for_a_prompt(path: Path) -> None:
    study = load_study(path)
    assert all(entry.revision for entry in entries_of(study))
    for run in runs_of(study).values():
        name = run.leaf["model"]
        model = study.models[name]
        context = next(length for family, length in CONTEXTS.items() if name.startswith(family))
        caps = {item.max_new_tokens for item in benchmarks_of(study, run).values()}
        assert max(caps) + LONGEST_PROMPT <= context, (name, caps)
        if model.chat_template:
            template = (ROOT / model.chat_template).read_text()
            assert model.end_token in template


def option(path: Path, tmp_path: Path, opening: str) -> dict[str, Any]:
    """The block of a study that stands in a comment and begins so."""
    found: list[str] = []
    depth = 0
    for line in path.read_text().splitlines():
        inside = re.fullmatch(r" *# ?( *)(\S.*)", line)
        if inside and (inside[2].startswith(opening) or found and len(inside[1]) > depth):
            depth = depth if found else len(inside[1])
            found.append(inside[1] + inside[2])
        elif found:
            break
    (tmp_path / "option.yaml").write_text(textwrap.dedent("\n".join(found)))
    return load_yaml(tmp_path / "option.yaml")[0]


@pytest.mark.parametrize(
    ("block", "opening"),
    [("models", "Qwen3-4B-Base-think:"), ("methods", "profit_kept:"), ("methods", "sft_lr5e6:")]
    + [("methods", "sft_lr2e5:")],
)
def test_options_of_the_paper_are_valid(tmp_path: Path, block: str, opening: str) -> None:
    content = load_yaml(PAPER)[0]
    content[block] |= option(PAPER, tmp_path, opening)
    assert opening.rstrip(":") in getattr(Study.model_validate(content), block)


def test_options_of_the_references_are_valid(tmp_path: Path) -> None:
    content = load_yaml(REFERENCES)[0]
    other = Study.model_validate(content | option(REFERENCES, tmp_path, "data:"))
    assert other.data.references == 3 and other.data.choice == "first" and len(other.data.sources) == 2
    judged = {**option(REFERENCES, tmp_path, "annotators:"), **option(REFERENCES, tmp_path, "judge:")}
    assert Study.model_validate(content | {"analysis": judged}).analysis.judge.sample == 200
    overfitting = content | option(REFERENCES, tmp_path, "sweeps:")
    overfitting["data"] = content["data"] | {"held": 1}
    overfitting["methods"] = {name: block for name, block in content["methods"].items() if "3ref" not in name}
    assert Study.model_validate(overfitting).sweeps.overfitting.references == [1, 2]
