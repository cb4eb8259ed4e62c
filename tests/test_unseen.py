"""Unseen prompts against an enumeration of the pool, their own text read back, and bad input."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from profit import generate, unseen
from profit.annotate import truth_spans
from profit.data import load_references
from profit.files import InputError, read_parquet, read_parquet_metadata
from profit.miniature.items import draw_references, draw_unseen
from profit.miniature.language import Problem, is_valid
from profit.miniature.lexicon import VERBS
from profit.miniature.world import World
from profit.study import load_study

STUDIES = Path(__file__).parent.parent / "workflow" / "studies"
AUDIT = load_study(STUDIES / "audit.yaml")
OPERATIONS = {verb: name for name, verbs in VERBS.items() for verb in verbs}
DATA = {"prompts": 12, "references": 4, "held": 2, "careful": 0}


def content(prompt: str) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Start and operations as the text of a prompt tells them."""
    first, *clauses = prompt.split(". How many")[0].split(", ")
    operations = []
    for clause in clauses:
        verb, operand = clause.rsplit(" ", 1)
        operations.append((OPERATIONS[verb], 0 if operand == "them" else int(operand)))
    return int(re.search(r"\d+", first)[0]), tuple(operations)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unseen") / "data"
    generate.main(["--world", "{}", "--data", json.dumps(DATA), "--benchmarks", "[]", "--output-folder", str(folder)])
    return folder / "references.parquet"


def call(references: Path, output: Path, world: str = "{}", **changes: Any) -> pd.DataFrame:
    data = {"prompts": DATA["prompts"], "held": DATA["held"], "unseen": 9} | changes
    unseen.main(
        ["--world", world, "--data", json.dumps(data), "--references", str(references), "--output", str(output)]
    )
    return read_parquet(output)


def test_command_writes_references_like_the_others(references: Path, tmp_path: Path) -> None:
    found = call(references, tmp_path / "unseen.parquet")
    known = read_parquet(references)
    assert found.dtypes.to_dict() == known.dtypes.to_dict() and found.held.all() and len(found) == 18
    assert list(found.prompt_id.unique()) == [f"prompt_{number:04d}" for number in range(12, 21)]
    assert set(found.groupby("prompt_id").reference_id.agg(list).map(tuple)) == {(0, 1)}
    assert found.drop_duplicates("prompt_id").steps.tolist() == [1, 2, 3] * 3
    records = [read_parquet_metadata(path)["provenance"] for path in (references, tmp_path / "unseen.parquet")]
    assert records[0]["world"] == records[1]["world"] and records[1]["rule"] == "unseen"
    assert call(references, tmp_path / "again.parquet").equals(found)


def test_answers_solve_what_their_prompt_asks_and_carry_true_labels(references: Path, tmp_path: Path) -> None:
    call(references, tmp_path / "unseen.parquet")
    frame = load_references(tmp_path / "unseen.parquet")
    spans = truth_spans(frame).merge(frame)
    for row in frame.itertuples():
        start, operations = content(row.prompt)
        thing = re.search(r"How many (\w+) now", row.prompt)[1]
        assert len(operations) == row.steps and is_valid(Problem(start, operations, "Mia", thing), row.answer)
    words = [row.answer[row.start : row.end] for row in spans.itertuples()]
    assert all(label == "core" for word, label in zip(words, spans.label, strict=True) if word.isdigit())
    assert {"core", "replaceable", "fixed"} == set(spans.label)
    # Two references of a prompt are worded apart.
    assert (frame.groupby("prompt_id").answer.nunique() == 2).mean() > 0.5


@pytest.mark.parametrize("model", ["second", "more"])
def test_no_content_is_known_and_the_pool_is_all_there_is(model: str) -> None:
    world, data = AUDIT.worlds[AUDIT.world_of(model)], AUDIT.data_of(AUDIT.world_of(model))
    known = {content(row["prompt"]) for row in draw_references(world, data.prompts, 1, 0)[0]}
    left = 675 - data.prompts
    assert left >= data.unseen
    found = [problem.content for problem in draw_unseen(world, data.prompts, left, 1)[1]]
    assert len(known) == data.prompts and len(set(found)) == left and not known & set(found)
    rows, problems = draw_unseen(world, data.prompts, data.unseen, 3)
    assert found[: data.unseen] == [content(row["prompt"]) for row in rows[::3]] == [item.content for item in problems]
    amounts = range(world.amount[0], world.amount[1] + 1)
    operations = [("double", 0), *((name, amount) for name in ("add", "subtract") for amount in amounts)]
    problems = [
        Problem(start, (operation,), "Mia", "pens")
        for start in range(world.start[0], world.start[1] + 1)
        for operation in operations
    ]
    pool = {item.content for item in problems if item.pool == "tuning" and 1 <= item.answer <= world.largest}
    # Only amounts that occur as operands are doubled.
    pool = {(start, ((name, n),)) for start, ((name, n),) in pool if name != "double" or start <= world.amount[1]}
    assert len(pool) == 225 and {item for item in known | set(found) if len(item[1]) == 1} == pool
    # Those of one doubling are among the references.
    assert all(operations != (("double", 0),) for _, operations in found)
    with pytest.raises(InputError, match="found 675 distinct problems in pool 'tuning', expected 676"):
        draw_unseen(world, data.prompts, left + 1, 1)


def test_generation_is_not_told_of_them() -> None:
    """What a world's references are made of stays the same text, so that no finished study begins anew."""
    smoke = load_study(STUDIES / "smoke.yaml")
    assert smoke.unseen == 6 and smoke.data_of("shared").model_dump(exclude={"unseen"}) == {
        "prompts": 24, "references": 4, "held": 2, "careful": 16,
    }  # fmt: skip
    assert load_study(STUDIES / "objectives.yaml").unseen == load_study(STUDIES / "paper.yaml").unseen == 0


@pytest.mark.parametrize(
    ("world", "changes", "expected"),
    [
        ('{"seed": 1}', {}, r"references.parquet: found references of world \w{16}, expected \w{16}"),
        ('{"sed": 1}', {}, "--world: found 'sed'"),
        ("{}", {"prompts": 13}, "references: found 12 prompts, expected 13 as in --data"),
        ("{}", {"unseen": 0}, "--data.unseen: found 0, expected at least 1"),
        ("{}", {"held": 0}, "--data.held: found 0, expected at least 1"),
    ],
)
def test_bad_input_is_named(references: Path, tmp_path: Path, world: str, changes: dict, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        call(references, tmp_path / "unseen.parquet", world, **changes)
    assert not (tmp_path / "unseen.parquet").exists()


def test_a_world_too_narrow_for_more_prompts_is_refused() -> None:
    with pytest.raises(InputError, match="widen the ranges"):
        draw_unseen(World(start=(1, 3), amount=(1, 2), reference_steps=(1, 1)), 1, 9, 1)
