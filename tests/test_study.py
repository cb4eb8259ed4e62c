"""The study file: shipped ones are valid, mistakes are named, runs are what was asked for."""

import json
from pathlib import Path

import pytest
import yaml

from profit import objectives
from profit.files import InputError
from profit.runs import benchmarks_of, runs_of
from profit.strict_yaml import load_yaml
from profit.study import OBJECTIVE_SETTINGS, Study, json_schema, load_study, main

STUDIES = Path(__file__).parent.parent / "workflow" / "studies"
MINIATURE = STUDIES / "miniature.yaml"


def changed(tmp_path, old, new):
    text = MINIATURE.read_text()
    assert old in text
    path = tmp_path / "changed.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_valid_and_name_the_schema(path):
    assert load_study(path).name == path.stem
    assert path.read_text().startswith("# yaml-language-server: $schema=study.schema.json\n")


def test_the_schema_file_agrees_with_the_code():
    assert (STUDIES / "study.schema.json").read_text() == json_schema(), (
        "run: python -m profit.study schema > workflow/studies/study.schema.json"
    )


def test_objectives_and_their_settings_agree_with_the_code():
    assert {name: item.settings for name, item in objectives.OBJECTIVES.items()} == {
        name: settings for name, settings in OBJECTIVE_SETTINGS.items() if name != "none"
    }


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("tau: 0.1, seeds: 10", "tua: 0.1, seeds: 10", "methods.profit: found 'tua'.*did you mean 'tau'"),
        ("tau: 0.1, seeds: 10", "tau: 1.1, seeds: 10", "methods.profit.tau: found 1.1.*less than or equal to 1"),
        ("tau: [0.1,", "tau: [-0.1,", "sweeps.threshold.tau.0: found -0.1"),
        ("objective: dft", "objective: dtf", "methods.dft.objective: found 'dtf'.*did you mean 'dft'"),
        ("objective: dft", "objective: dft, tau: 0.1", "methods.dft.tau: found 0.1, expected no such key with dft"),
        ("paired_with: profit", "paired_with: profi", "methods.random.paired_with: found 'profi'.*'profit'"),
        ("paired_with: profit, seeds: 5", "paired_with: profit, seeds: 11", r"random.seeds: found \[10\]"),
        (
            "references: 3, seeds",
            "references: 6, seeds",
            "methods.sft_3ref.references: found 6, expected at most .* = 5",
        ),
        ("references: [1, 3, 5]", "references: [1, 3, 6]", "sweeps.overfitting.references: found 6"),
        ("held: 3,", "held: 8,", "data.held: found 8, expected less than references"),
        ("[sft, profit, keep_low], rank", "[sft, proft], rank", "sweeps.lora_rank.methods: found 'proft'.*'profit'"),
        ("[profit, keep_low], tau", "[sft], tau", "sweeps.threshold.methods: found sft"),
        ("task: mini_longer", "task: mini_long", "benchmarks.longer.task: found 'mini_long'.*'mini_longer'"),
        ("source: miniature", "source: minature", "models.mini.source: found 'minature'.*'miniature'"),
        ("seeds: [101", "seeds: [1", r"tune.seeds: found \[1\], expected seeds used nowhere else"),
        ("name: miniature\n", "", "name: not found"),
        ("name: miniature\n", "name: reference\n", "name: found 'reference'"),
        ("name: miniature\n", "name: mini\nname: other\n", "found the key 'name' a second time, first in line"),
        ("seeds: 10}\n  sft_3ref", "seeds: ten}\n  sft_3ref", "methods.sft.seeds: found 'ten'"),
        ("micro_batch_size: 16", "micro_batch_size: 5", "micro_batch_size: found 5, expected a divisor of 16"),
        ("name: miniature", "name: [", "changed.yaml"),
    ],
)
def test_mistakes_are_named_with_file_line_and_key(tmp_path, old, new, expected):
    path = changed(tmp_path, old, new)
    with pytest.raises(InputError, match=expected) as error:
        load_study(path)
    assert str(error.value).startswith(f"{path}:")


def test_the_line_of_a_mistake_is_right(tmp_path):
    path = changed(tmp_path, "objective: dft", "objective: dtf")
    line = next(n for n, text in enumerate(path.read_text().splitlines(), start=1) if "dtf" in text)
    with pytest.raises(InputError, match=f":{line}: methods.dft.objective"):
        load_study(path)


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n"])
def test_a_file_that_is_no_study_is_named(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="odd.yaml: found"):
        load_study(path)
    with pytest.raises(InputError, match="not found"):
        load_study(tmp_path / "nowhere.yaml")


def test_yaml_numbers_and_words(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 3e-4\nb: 1_000\nc: no\nd: 1.5\ne: .5\nf: true\ng: null\nh: 1:30\ni: -2\nj: 0.1.2\nk: 1e3\n")
    content, _ = load_yaml(path)
    expected = [3e-4, 1000, "no", 1.5, 0.5, True, None, "1:30", -2, "0.1.2", 1000.0]
    assert list(content.values()) == expected
    assert [type(value) for value in content.values()] == [type(value) for value in expected]


def test_runs_of_the_default_study_stay_within_its_budget():
    runs = [run for run in runs_of(load_study(MINIATURE)).values() if run.groups[0] != "tune"]
    assert sum(run.trained for run in runs) <= 80
    assert sum(len(run.checkpoints) for run in runs) <= 95
    seeds = {
        method: sum(run.leaf["method"] == method for run in runs) for method in ("sft", "profit", "dft", "random")
    }
    assert seeds == {"sft": 10, "profit": 10, "dft": 5, "random": 5}


def test_the_default_study_is_no_toy():
    study = load_study(MINIATURE)
    assert study.data.prompts >= 300 and study.data.references == 8
    assert len(study.benchmarks) == 5
    assert all(item.questions >= 100 and item.samples >= 2 for item in study.benchmarks.values())
    smoke = load_study(STUDIES / "smoke.yaml")
    assert len(smoke.methods) <= 4


def test_sweeps_share_runs_with_equal_settings():
    study = load_study(MINIATURE)
    runs = runs_of(study)
    methods = {run.leaf["method"] for run in runs.values()}
    assert {"profit_tau0.3", "keep_low_tau0.9", "sft_rank16", "sft_epochs", "sft_5ref_steps", "sft_5ref"} <= methods
    assert not {"profit_tau0.1", "sft_1ref", "sft_1ref_steps"} & methods
    assert "threshold" in runs["mini", "profit", 0].groups and "overfitting" in runs["mini", "sft", 2].groups
    texts = [run.json for run in runs.values()]
    assert len(set(texts)) == len(texts)


def test_leaves_hold_all_settings_and_only_their_own_seed():
    runs = runs_of(load_study(MINIATURE))
    leaf = runs["mini", "keep_low", 3].leaf
    assert leaf["objective"] == {"name": "profit", "tau": 0.1, "direction": "lower", "normaliser": "all"}
    assert leaf["tuning"] == {"kind": "full"} and leaf["references"] == 1 and leaf["paired_with"] is None
    lora = runs["mini", "sft_rank16", 0].leaf
    assert lora["tuning"] == {"kind": "lora", "rank": 16, "alpha": 32, "target_modules": "all-linear"}
    assert lora["training"]["learning_rate"] != leaf["training"]["learning_rate"]
    assert runs["mini", "sft_epochs", 0].checkpoints == ["epoch1", "epoch2", "epoch3", "epoch4", "epoch5"]
    assert runs["mini", "random", 4].leaf["paired_with"] == "profit"
    one, other = (dict(runs["mini", "sft", seed].leaf) for seed in (0, 1))
    assert one.pop("seed") == 0 and other.pop("seed") == 1 and one == other
    assert all(json.loads(run.json) == run.leaf for run in runs.values())


def test_equal_references_are_one_method_whatever_the_budget():
    content = yaml.safe_load(MINIATURE.read_text())
    content["methods"]["sft"]["budget"] = "steps"
    runs = runs_of(Study.model_validate(content))
    assert runs["mini", "sft", 0].leaf["budget"] == "epochs"


def test_tuning_runs_are_apart():
    study = load_study(MINIATURE)
    tune = [run for run in runs_of(study).values() if run.groups[0] == "tune"]
    assert len(tune) == 15 and all(run.groups == ("tune",) for run in tune)
    assert all(set(benchmarks_of(study, run)) == {"validation"} for run in tune)
    assert {run.leaf["training"]["learning_rate"] for run in tune} == set(study.tune.learning_rates)


def test_more_seeds_leave_the_other_runs_alone():
    study = load_study(MINIATURE)
    methods = {**study.methods, "sft": study.methods["sft"].model_copy(update={"seeds": 12})}
    before, after = runs_of(study), runs_of(study.model_copy(update={"methods": methods}))
    assert {key: run.json for key, run in before.items()}.items() <= {
        key: run.json for key, run in after.items()
    }.items()
    assert set(after) - set(before) == {("mini", "sft", 10), ("mini", "sft", 11)}


def test_command_line(tmp_path, capsys):
    main(["check", str(MINIATURE)])
    assert "8 methods, 5 benchmarks" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="methods.dft.objective"):
        main(["check", str(changed(tmp_path, "objective: dft", "objective: dtf"))])
