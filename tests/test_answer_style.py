"""Style of answers: the recogniser against what the generator wrote, the measures by hand, and bad input."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from profit import answer_style, plan
from profit.answer_style import adopted, count_wordings, describe_references, describe_run, rare_wordings
from profit.files import InputError, read_parquet, read_parquet_metadata, write_json, write_parquet
from profit.generate import world_hash
from profit.miniature.items import draw_careful, draw_references
from profit.miniature.language import base_style
from profit.miniature.lexicon import SLOTS
from profit.miniature.tokenizer import build_tokenizer
from profit.miniature.world import World
from profit.outputs import figures_of, tables_of
from profit.overfit import diversity
from profit.runs import listed, runs_of, study_runs
from profit.study import Study

SETTINGS = {"model": "mini", "runs": [["vanilla", 0], ["vanilla", 1], ["sft", 0]], "base": "vanilla"}


def written(row: dict[str, Any]) -> list[str]:
    """The wordings that the generator put into an answer: its runs of replaceable words."""
    found = []
    for label, spans in groupby(row["spans"], key=lambda span: span["label"]):
        spans = list(spans)
        if label == "replaceable":
            found.append(row["answer"][spans[0]["start"] : spans[-1]["end"]])
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_the_recogniser_counts_what_the_generator_wrote(seed: int) -> None:
    world = World(seed=seed)
    rare = rare_wordings(world)
    references, problems = draw_references(world, 60, 8, 3)
    careful, _ = draw_careful(world, 300, avoid=problems)
    shares = []
    for rows in (references, careful):
        wordings = [wording for row in rows for wording in written(row)]
        assert len(wordings) == sum(row["steps"] + 1 for row in rows) and set(wordings) <= rare.keys()
        tail = sum(rare[wording] for wording in wordings)
        assert count_wordings([row["answer"] for row in rows], rare) == (len(wordings), tail)
        shares.append(tail / len(wordings))
    law = np.arange(1, 21) ** -1.2
    assert law[10:].sum() / law.sum() == pytest.approx(0.137, abs=5e-4)
    # 900 and more wordings worded by the base's law.
    assert shares[1] == pytest.approx(0.137, abs=0.035) and shares[0] > 2 * shares[1]


def test_rare_are_the_ten_of_each_slot_that_the_base_uses_least() -> None:
    found = {seed: rare_wordings(World(seed=seed)) for seed in (0, 1)}
    for seed, rare in found.items():
        style, rng = base_style(World(seed=seed)), np.random.default_rng(0)
        for slot, wordings in SLOTS.items():
            drawn = [rare[style.pick(slot, rng)] for _ in range(4000)]
            # Any ten others would make more of it, but for a swap of the tenth and the eleventh.
            assert 0.12 < np.mean(drawn) < 0.155 and sum(rare[wording] for wording in wordings) == 10
    assert found[0] != found[1] and len(found[0]) == 40
    assert rare_wordings(World(wording_exponent=0)) is None


def test_a_wording_opens_a_sentence_and_is_the_longest_there() -> None:
    rare = dict.fromkeys(rare_wordings(World()), False) | {"After this step": True, "So": True, "At last": True}
    text = "Frost. After this step, 2 + 2 = 4.So now, 4 - 1 = 3 eggs.  So, the answer is 3. At last, Gold"
    assert count_wordings([text], rare) == (4, 3)
    nothing = ["", "After that", "So the answer is 3.", "2 + 2 = 4 so, Then, 3.", "then, 3 + 1 = 4.", "Nowhere, 3."]
    assert count_wordings(nothing, rare) == (0, 0)
    assert count_wordings(["1 + 1 = 2 pens. With this"], rare) == (0, 0)


def samples(*texts: str, benchmark: str = "longer", ended: bool = True) -> pd.DataFrame:
    """Two answers a question."""
    rows = [(benchmark, f"q{place // 2}", ended, len(text.split()), text) for place, text in enumerate(texts)]
    return pd.DataFrame(rows, columns=answer_style.SAMPLE)


def test_measures_by_hand() -> None:
    rare = {"So": False, "In turn": True}
    longer = ["So, 1 . So, 2 .", "In turn, 1 . So, 2 .", "So, 1 .", "So, 1 ."]
    frame = pd.concat([samples(*longer), samples("In turn, 3 .", "4 .", benchmark="choice", ended=False)])
    by_name = {row.pop("benchmark"): row for row in describe_run(frame, rare)}
    assert list(by_name) == ["longer", "choice", "all"]
    expected = {"answers": 4, "tokens_mean": (6 + 7 + 3 + 3) / 4, "cut": 0, "ended": 1, "wordings": 6, "rare": 1 / 6}
    assert by_name["longer"] == expected | diversity(["q0", "q0", "q1", "q1"], longer)
    assert by_name["all"] == pytest.approx(
        {"answers": 6, "tokens_mean": 25 / 6, "cut": 1 / 3, "ended": 2 / 3, "wordings": 7, "rare": 2 / 7}
    )
    unknown = describe_run(frame, None)[-1]
    assert unknown["wordings"] is unknown["rare"] is None and unknown["tokens_mean"] == pytest.approx(25 / 6)
    assert describe_run(samples("4 .", "5 ."), rare)[0]["rare"] is None


def test_tokens_of_references_are_those_of_the_tokenizer() -> None:
    world = World()
    rows, _ = draw_references(world, 20, 3, 1)
    frame = pd.DataFrame(rows)
    found, tokenizer = describe_references(frame, rare_wordings(world)), build_tokenizer(world.largest)
    trained = frame[~frame.held]
    lengths = [len(ids) + 1 for ids in tokenizer(trained.answer.tolist())["input_ids"]]
    assert (found["answers"], found["benchmark"]) == (40, "same_length")
    assert found["tokens_mean"] == np.mean(lengths) and np.isnan([found["cut"], found["ended"]]).all()
    assert found["pair_distance"] == diversity(trained.prompt_id.tolist(), trained.answer.tolist())["pair_distance"]
    unlabelled = describe_references(frame.assign(spans=None), None)
    assert unlabelled["benchmark"] == "all" and np.isnan(unlabelled["tokens_mean"])


def test_adopted_is_0_for_the_base_and_1_for_the_references() -> None:
    rows = pd.DataFrame(
        [("base", "longer", 0.1), ("base", "longer", 0.2), ("base", "choice", 0.0), ("sft", "longer", 0.25),
         ("sft", "choice", 0.25), ("sft", "format", 0.3), ("references", "choice", 0.5)],
        columns=["method", "benchmark", "rare"],
    )  # fmt: skip
    found = adopted(rows, "base")
    shift = 0.5 - 0.15
    expected = [-0.05 / shift, 0.05 / shift, 0, 0.1 / shift, 0.5, np.nan, 1]
    assert found.tolist() == pytest.approx(expected, nan_ok=True)
    assert adopted(rows, None).isna().all()
    same = rows.assign(rare=0.3)
    assert adopted(same, "base").isna().all()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Inputs of the command: references of a world as generated, the careful answers as samples of three runs."""
    world = World()
    rows, problems = draw_references(world, 20, 4, 1)
    careful, _ = draw_careful(world, 40, avoid=problems)
    made = {"provenance": {"world": world_hash(world)}}
    paths = {"references": tmp_path / "references.parquet", "world": tmp_path / "world.json"}
    write_parquet(paths["references"], pd.DataFrame(rows), made)
    write_json(paths["world"], {"world": world_hash(world), "settings": world.model_dump()})
    paths |= {"evaluations": tmp_path / "evaluations", "output": tmp_path / "out.parquet"}
    answers = {"vanilla": [row["answer"] for row in careful], "sft": [row["answer"] for row in rows[:40]]}
    for method, seed in (("vanilla", 0), ("vanilla", 1), ("sft", 0)):
        write_parquet(place(paths, method, seed), samples(*answers[method][seed:]), made)
    return paths


def place(files: dict[str, Path], method: str, seed: int) -> Path:
    return files["evaluations"] / "mini" / method / f"seed{seed}" / "final" / "samples.parquet"


def call(files: dict[str, Path], settings: dict[str, Any] = SETTINGS) -> pd.DataFrame:
    """Run the command; its table."""
    paths = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    answer_style.main(["--settings", json.dumps(settings), *paths])
    return read_parquet(files["output"])


def test_command(files: dict[str, Path]) -> None:
    table = call(files)
    assert list(table) == answer_style.COLUMNS and set(table.model) == {"mini"}
    keys = list(table[["method", "seed", "benchmark"]].itertuples(index=False, name=None))
    expected = [(method, seed, name) for method, seed in SETTINGS["runs"] for name in ("longer", "all")]
    assert keys == [*expected, ("references", 0, "same_length")]
    whole = table[table.benchmark == "all"].set_index("method")
    assert whole.adopted["vanilla"].mean() == pytest.approx(0, abs=1e-12)
    rare = rare_wordings(World())
    found, tail = count_wordings(read_parquet(place(files, "sft", 0)).text, rare)
    assert (whole.wordings["sft"], whole.rare["sft"]) == (found, tail / found) and whole.distinct_2.isna().all()
    assert whole.adopted["sft"] > 0.5 and np.isnan(table.adopted.iloc[-1])
    assert read_parquet_metadata(files["output"])["provenance"]["rule"] == "answer_style"


def test_a_study_of_real_models_has_no_wordings(files: dict[str, Path]) -> None:
    write_json(files["world"], {"world": world_hash(World()), "rows": 20})
    table = call(files)
    assert table[["wordings", "rare", "adopted"]].isna().all(axis=None)
    assert table[["tokens_mean", "cut"]].notna().sum().tolist() == [6, 6] and table.benchmark.iloc[-1] == "all"


def test_without_the_base_nothing_is_known_to_be_adopted(files: dict[str, Path]) -> None:
    table = call(files, {"model": "mini", "runs": [["sft", 0]], "base": None})
    assert table.adopted.isna().all() and table.rare.notna().all()


def test_a_study_names_methods_that_it_has_the_base_included() -> None:
    content = {
        "name": "mini",
        "models": {"mini": {}, "other": {"world": {"seed": 1}}},
        "methods": {
            "vanilla": {"objective": "none", "seeds": 2},
            "sft": {"objective": "sft", "seeds": 3, "models": ["mini"]},
        },
        "sweeps": {"epochs": {"methods": ["sft"], "epochs": 2}},
        "benchmarks": {"longer": {"task": "mini_longer", "questions": 50, "max_new_tokens": 200}},
    }
    counted = {}
    for methods in ([], ["sft"], ["sft", "vanilla"]):
        study = Study.model_validate(content | {"analysis": {"answer_style": methods}})
        jobs = [job.seconds for job in plan.jobs_of(study) if job.rule == "answer_style"]
        styled = [run["method"] for run in listed(study, study_runs(runs_of(study)))["runs"] if run["answer_style"]]
        counted[len(methods)] = len(jobs), styled.count("vanilla"), styled.count("sft"), len(styled)
        assert ("answer_style" in tables_of(study)) == ("answer_style" in figures_of(study)) == bool(methods)
    assert counted == {0: (0, 0, 0, 0), 1: (1, 0, 3, 3), 2: (2, 4, 3, 7)}
    # Five runs of the first model, two of the other: a hundred answers each.
    assert sorted(jobs) == pytest.approx([0.3 + 0.04 * answers / 1000 for answers in (200, 500)])
    with pytest.raises(ValueError, match="analysis.answer_style: found 'sfd', expected one of vanilla, sft"):
        Study.model_validate(content | {"analysis": {"answer_style": ["sfd"]}})


def test_bad_input_is_named(files: dict[str, Path]) -> None:
    path = place(files, "sft", 0)
    before, made = read_parquet(path), read_parquet_metadata(path)
    for frame, metadata, message in (
        (before.head(0), made, "found no answers"),
        (before.drop(columns="text"), made, "expected also .'text'"),
        (before, {"provenance": {"world": "ffff"}}, "key provenance.world: found 'ffff'"),
        (before, {}, "key provenance: found None"),
    ):
        write_parquet(path, frame, metadata)
        with pytest.raises(InputError, match=f"sft/seed0/final/samples.parquet.*{message}"):
            call(files)
    path.unlink()
    with pytest.raises(InputError, match="sft/seed0/final/samples.parquet: not found"):
        call(files)
    write_json(files["world"], {})
    with pytest.raises(InputError, match="world.json, key world: found None"):
        call(files)
    assert not files["output"].exists()
