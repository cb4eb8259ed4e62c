"""Models that live in worlds of their own: the schema, the plan, and a small study of three worlds and two bases."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml

from profit import plan
from profit.files import InputError, read_json
from profit.study import Study, load_study

ROOT = Path(__file__).parent.parent
TINY = {"steps": 6, "documents_per_step": 4, "layers": 1, "hidden": 16, "intermediate": 16, "heads": 2}
ITEM = {"questions": 4, "samples": 1, "max_new_tokens": 129, "tight_tokens": 43}
STUDY = {
    "name": "three_worlds",
    "models": {
        "mini": {"pretraining": TINY},
        "other": {"pretraining": {**TINY, "seed": 1}, "world": {"seed": 1}},
        "shifted": {"like": "mini", "world": {"wording_lean": -0.5}},
    },
    "data": {"prompts": 6, "references": 3, "held": 1, "careful": 4},
    "training": {"epochs": 1, "batch_size": 2, "micro_batch_size": 2},
    "methods": {
        "vanilla": {"objective": "none", "seeds": 1},
        "sft": {"objective": "sft", "seeds": 1},
        "profit": {"objective": "profit", "seeds": 1},
    },
    "benchmarks": {"same_length": {"task": "mini_same_length", **ITEM}},
    "analysis": {"annotators": ["truth"], "resamples": 100, "bootstrap": 100},
}


def write_study(folder, content=STUDY):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_worlds_and_bases_of_models():
    study = Study.model_validate(STUDY)
    assert list(study.worlds) == ["shared", "other", "shifted"]
    assert [study.world_of(model) for model in study.models] == ["shared", "other", "shifted"]
    assert [study.base_of(model) for model in study.models] == ["mini", "other", "mini"]
    assert study.worlds["shared"] == study.world and study.worlds["other"].seed == 1
    assert study.worlds["shifted"] == study.world.model_copy(update={"wording_lean": -0.5})


def test_the_study_s_own_world_is_made_only_where_a_model_lives_in_it():
    models = {"other": STUDY["models"]["other"]}
    assert list(Study.model_validate({**STUDY, "models": models}).worlds) == ["other"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"world": {"leen": 1}}, "models.new.world: found 'leen', expected one of seed, largest"),
        ({"world": {"start": [9, 2]}}, r"models.new.world.start: found \(9, 2\), expected 1 <= low <= high"),
        ({"world": {"habit": -1}}, "models.new.world.habit: found -1, expected: input should be greater"),
        ({"like": "mino"}, "models.new.like: found 'mino', expected one of mini, other; did you mean 'mini'"),
        ({"like": "shifted"}, "models.new.like: found 'shifted', expected one of mini, other"),
        ({"like": "mini", "pretraining": TINY}, "pretraining: found it with like mini, which is pretrained already"),
        ({"like": "mini", "world": {"largest": 60}}, "models.new.world: found largest, expected only what decides"),
        ({"like": "other"}, "models.new.world: found seed, expected only what decides the references"),
    ],
)
def test_mistakes_are_named(tmp_path, model, expected):
    path = write_study(tmp_path, {**STUDY, "models": {**STUDY["models"], "new": model}})
    with pytest.raises(InputError, match=expected) as error:
        load_study(path)
    assert str(error.value).startswith(f"{path}:")


def snakemake(folder, *arguments):
    command = [Path(sys.executable).parent / "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PROFIT_", "SNAKEMAKE", "PYTEST"))}
    clean["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    path = write_study(folder)
    said = snakemake(folder, "-n", "--configfile", path)
    snakemake(folder, "--cores", "2", "--configfile", path)
    return folder, dict(re.findall(r"\n(\w+) +(\d+)\b", said))


def test_the_plan_counts_every_world_and_base(finished):
    counted = Counter(job.rule for job in plan.jobs_of(Study.model_validate(STUDY)))
    assert {rule: int(finished[1][rule]) for rule in counted} == dict(counted)
    assert (counted["generate"], counted["pretrain"], counted["annotate"]) == (3, 2, 3)


def test_a_base_in_another_world_is_the_same_base(finished):
    tables = finished[0] / "results" / "three_worlds" / "tables"
    runs = pd.read_csv(tables / "runs.csv")
    worlds = runs.groupby("model")["world"].unique()
    models = pd.read_csv(tables / "models.csv")
    assert models.drop(columns=["study", "world"]).to_dict("list") == {
        "model": list(STUDY["models"]), "base": ["mini", "other", "mini"], "prompts": [6] * 3,
        "pretraining_steps": [6] * 3, "world_seed": [0, 1, 0],
        "wording_lean": [0.3, 0.3, -0.5], "rare_in_references": [0.3] * 3,
    }  # fmt: skip
    assert models.set_index("model")["world"].to_dict() == worlds.str[0].to_dict()
    assert worlds.map(len).tolist() == [1, 1, 1] and len(set(worlds.str[0])) == 3
    data = finished[0] / "results" / "three_worlds" / "data"
    # The same questions and the same base: only what is learnt from differs.
    names = ["same_length"]
    problems = {world: [read_json(data / world / "benchmarks" / f"{name}.json") for name in names]
                for world in ("shared", "other", "shifted")}  # fmt: skip
    assert problems["shared"] == problems["shifted"] != problems["other"]
    answers = {world: pd.read_parquet(data / world / "references.parquet")[["prompt", "answer"]] for world in problems}
    assert answers["shared"]["prompt"].equals(answers["shifted"]["prompt"])
    assert not answers["shared"]["answer"].equals(answers["shifted"]["answer"])
    models = finished[0] / "results" / "three_worlds" / "models"
    assert sorted(path.name for path in models.iterdir()) == ["mini", "other"]
    samples = {
        model: pd.read_parquet(
            finished[0] / f"results/three_worlds/evaluations/{model}/vanilla/seed0/final/samples.parquet"
        )
        for model in STUDY["models"]
    }
    pd.testing.assert_frame_equal(samples["mini"], samples["shifted"])
    assert not samples["mini"].equals(samples["other"])


def test_a_base_in_two_worlds_makes_a_map(finished):
    cells = pd.read_csv(finished[0] / "results" / "three_worlds" / "tables" / "phase.csv")
    cells = cells[cells["benchmark"] == "average"]
    cells, means = cells[cells["model"] != "all"], cells[cells["model"] == "all"]
    assert means[["base", "method", "pretraining_steps"]].to_numpy().tolist() == [["mini", "profit", 6]]
    assert means["difference"].item() == pytest.approx(cells["difference"].mean())
    assert cells[["model", "method", "wording_lean", "pretraining_steps"]].to_numpy().tolist() == [
        ["mini", "profit", 0.3, 6], ["shifted", "profit", -0.5, 6]
    ]  # fmt: skip
    assert cells["core_low"].between(0, 1).all() and cells["replaceable_probability"].nunique() == 2
    assert (finished[0] / "figures" / "three_worlds" / "phase.png").stat().st_size > 1000


def test_a_result_of_another_world_is_refused(finished):
    results = finished[0] / "results" / "three_worlds"
    from profit import gather

    names = {"mini": "shared", "other": "other", "shifted": "shifted"}
    hashes = gather.worlds_of(results, names)
    path = results / "runs" / "shifted" / "sft" / "seed0" / "train.json"
    assert gather.provenance(path, hashes["shifted"])["rule"] == "train"
    with pytest.raises(InputError, match="found '.*', expected '.*', its model's world"):
        gather.provenance(path, hashes["mini"])
