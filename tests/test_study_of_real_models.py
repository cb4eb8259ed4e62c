"""The schema of studies that take models, data and problems from the hub or from files, and what they expand to."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from profit.bases import Compute, Decoding, HubModel
from profit.files import InputError
from profit.runs import benchmarks_of, listed, runs_of, study_runs
from profit.study import Study, load_study

ITEM = {"task": "paper_gsm8k", "questions": 1319, "samples": 8, "max_new_tokens": 8192}
STUDY = {
    "name": "real",
    "models": {
        "Small-0.6B": {"source": "owner/small", "max_new_tokens": 1000},
        "Large-14B": {
            "source": "owner/large",
            "compute": {"processes": 4, "micro_batch_size": 1, "precision": "bfloat16"},
            "decoding": {"temperature": 0.6, "top_k": 0},
        },
    },
    "data": {"sources": [{"file": "a.jsonl"}], "references": 3, "held": 1, "choice": "first"},
    "training": {"batch_size": 32, "micro_batch_size": 4},
    "methods": {
        "sft": {"objective": "sft", "seeds": 2},
        "profit": {"objective": "profit", "seeds": 2, "models": ["Small-0.6B"]},
        "random": {"objective": "random", "paired_with": "profit", "seeds": 1, "models": ["Small-0.6B"]},
    },
    "sweeps": {"threshold": {"methods": ["profit"], "tau": [0.1, 0.5], "models": ["Large-14B"]}},
    "benchmarks": {
        "gsm8k": {**ITEM, "source": {"file": "gsm8k.jsonl"}},
        "gsm8k_official": {
            **ITEM, "task": "paper_gsm8k_official", "max_new_tokens": 512,
            "source": {"hub": "openai/gsm8k", "config": "main", "split": "test"},
        },
        "again": {**ITEM, "protocol": "gsm8k", "options": {"commas": False}, "source": {"file": "gsm8k.jsonl"}},
    },
    "tables": {
        "table1": {"benchmarks": ["gsm8k"]},
        "table2": {"models": ["Large-14B"], "benchmarks": ["gsm8k_official", "again"]},
    },
    "analysis": {"annotators": ["agreement"]},
}  # fmt: skip


def changed(**paths):
    """STUDY with values at dotted paths replaced, None: removed."""
    content = copy.deepcopy(STUDY)
    for path, value in paths.items():
        *parents, last = path.split("/")
        block = content
        for key in parents:
            block = block[key]
        if value is None:
            del block[last]
        else:
            block[last] = value
    return content


@pytest.fixture
def study():
    return Study.model_validate(STUDY)


def test_what_a_model_is_asked_and_how(study):
    assert list(study.asked("Small-0.6B")) == ["gsm8k"]
    assert list(study.asked("Large-14B")) == ["gsm8k", "gsm8k_official", "again"]
    assert study.asked("Small-0.6B")["gsm8k"].max_new_tokens == 1000 == study.asked("Small-0.6B")["gsm8k"].tight
    assert study.asked("Large-14B")["gsm8k"].max_new_tokens == 8192
    assert study.decoding_of("Large-14B") == Decoding(temperature=0.6, top_k=0)
    assert study.decoding_of("Small-0.6B") == study.decoding
    assert study.compute_of("Large-14B").processes == 4 and study.compute_of("Small-0.6B") == Compute()
    assert not study.miniature and study.labels == "agreement"


def test_methods_and_sweeps_of_some_models(study):
    found = {}
    for model, method, _ in runs_of(study):
        found.setdefault(model, []).append(method)
    assert found == {
        "Small-0.6B": ["sft", "sft", "profit", "profit", "random"],
        "Large-14B": ["sft", "sft", "profit", "profit_tau0.5"],
    }
    groups = {key: run.groups for key, run in runs_of(study).items()}
    assert groups["Large-14B", "profit", 0] == ("threshold",)
    assert groups["Small-0.6B", "profit", 0] == ("main",)


def test_epochs_of_several_thresholds():
    sweep = {"methods": ["sft", "profit"], "epochs": 2, "tau": [0.1, 0.5], "models": ["Small-0.6B"]}
    runs = runs_of(Study.model_validate(changed(**{"sweeps/epochs": sweep})))
    found = {key[1]: run.leaf["objective"].get("tau") for key, run in runs.items() if "epochs" in run.groups}
    assert found == {"sft_epochs": None, "profit_epochs": 0.1, "profit_tau0.5_epochs": 0.5}
    del sweep["tau"]
    runs = runs_of(Study.model_validate(changed(**{"sweeps/epochs": sweep})))
    assert [key[1] for key, run in runs.items() if "epochs" in run.groups] == ["sft_epochs", "profit_epochs"]


def test_a_leaf_says_what_decides_the_numbers(study):
    leaves = {key: run.leaf for key, run in runs_of(study).items()}
    assert leaves["Large-14B", "sft", 0]["training"]["micro_batch_size"] == 1
    assert leaves["Small-0.6B", "sft", 0]["training"]["micro_batch_size"] == 4
    assert leaves["Small-0.6B", "sft", 0]["choice"] == "first"
    assert "source" not in json.dumps(leaves["Small-0.6B", "sft", 0])


def test_the_list_for_the_tables(study):
    content = listed(study, study_runs(runs_of(study)))
    assert content["tables"] == {
        "table1": {"models": ["Small-0.6B", "Large-14B"], "benchmarks": ["gsm8k"]},
        "table2": {"models": ["Large-14B"], "benchmarks": ["gsm8k_official", "again"]},
    }
    assert len(content["runs"]) == 9 and json.dumps(content)


def test_a_rule_is_told_what_concerns_it_alone():
    compute = Compute(
        precision="bfloat16", processes=4, gradient_checkpointing=True, backend="vllm", evaluation_gpus=2,
        attention="flash_attention_2", micro_batch_size=2,
    )  # fmt: skip
    told = {"precision": "bfloat16", "attention": "flash_attention_2"}
    assert compute.of("score") == compute.of("overfit") == compute.of("drift") == told
    assert compute.of("train") == told | {"processes": 4, "gradient_checkpointing": True}
    assert compute.of("evaluate") == {"precision": "bfloat16", "backend": "vllm", "evaluation_gpus": 2}
    assert Compute().of("train") == {}
    for rule in ("train", "score", "evaluate"):
        assert Compute.model_validate(compute.of(rule)).precision == "bfloat16"


def test_a_sweep_is_asked_what_its_figures_read(study):
    runs = runs_of(study)
    assert list(benchmarks_of(study, runs["Large-14B", "sft", 0])) == ["gsm8k", "gsm8k_official", "again"]
    assert list(benchmarks_of(study, runs["Large-14B", "profit_tau0.5", 0])) == ["gsm8k"]
    sweep = {"method": "sft", "references": [2], "benchmark": "again", "seeds": 1, "models": ["Large-14B"]}
    swept = Study.model_validate(changed(**{"sweeps/overfitting": sweep}))
    assert list(benchmarks_of(swept, runs_of(swept)["Large-14B", "sft_2ref_steps", 0])) == ["gsm8k", "again"]


def test_a_folder_is_fetched_by_what_decides_it():
    model = HubModel(source="owner/small", parameters=0.6, compute=Compute(processes=2))
    assert set(model.fetched) == {"source", "revision", "chat_template", "end_token", "stop_tokens", "stop"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"models/Small-0.6B/source": "miniature"},
            "models.Small-0.6B: found 'max_new_tokens', expected one of source",
        ),
        (
            {"models/Small-0.6B": {}},
            "models.Small-0.6B.source: found 'miniature', expected the hub or a folder with da",
        ),
        ({"data": {"prompts": 3}}, "models.Small-0.6B.source: found 'owner/small', expected miniature"),
        ({"models/Large-14B/compute/micro_batch_size": 3}, "Large-14B.compute: found 12 answers at once, .* = 32"),
        ({"models/Large-14B/compute/attention": "flash"}, "compute.attention: found 'flash', .*flash_attention_2'"),
        ({"models/Large-14B/compute/evaluation_gpus": 2}, "evaluation_gpus: found 2, expected 1 with backend hf"),
        (
            {"models/Small-0.6B/compute": {"attention": "flash_attention_2"}},
            "attention: .*expected sdpa or eager with pre",
        ),
        ({"models/Small-0.6B/chat_template": "no.jinja"}, "chat_template: found no file no.jinja, expected a Jinja"),
        ({"models/Large-14B/compute/processess": 2}, "Large-14B.compute: found 'processess', .*mean 'processes'"),
        ({"data/sources": [{"fil": "a"}]}, r"data.sources.0: found 'fil', expected one of file, hub.*mean 'file'"),
        ({"data/sources": [{"file": "a", "hub": "b"}]}, r"data.sources.0: found file 'a' and hub 'b', expected one"),
        ({"data/held": 3}, "data.held: found 3, expected less than references = 3"),
        ({"world": {"seed": 1}}, "world: found it with data.sources, expected it in a miniature alone"),
        ({"world_check": {}}, "world_check: found it with data.sources"),
        ({"benchmarks/gsm8k/source": None}, "benchmarks.gsm8k.source: found none, expected where its problems are"),
        (
            {"benchmarks/again/protocol": None},
            "benchmarks.again.protocol: found 'again', expected one of gpqa_diamond",
        ),
        ({"benchmarks/again/protocol": "gms8k"}, "again.protocol: found 'gms8k', .*did you mean 'gsm8k'"),
        ({"benchmarks/again/options": {"comma": 1}}, "benchmarks.again.options: found 'comma', .*'commas'"),
        ({"benchmarks/again/options": {"commas": 1}}, "benchmarks.again.options.commas: found 1, expected a bool"),
        ({"benchmarks/gsm8k/task": "paper_gsm"}, "gsm8k.task: found 'paper_gsm', .*did you mean 'paper_gsm8k'"),
        ({"tables/table1/benchmarks": ["gsm"]}, "tables.table1.benchmarks: found 'gsm', expected one of gsm8k"),
        ({"tables/table1/models": ["Large-14B"]}, "tables: found none with model Small-0.6B, expected every model"),
        ({"methods/profit/models": ["Small"]}, "methods.profit.models: found 'Small', .*did you mean 'Small-0.6B'"),
        (
            {"methods/random/models": None},
            "methods.random.models: found .'Large-14B'., expected only models of profit",
        ),
        ({"sweeps/threshold/models": ["x"]}, "sweeps.threshold.models: found 'x', expected one of Small-0.6B"),
        (
            {"sweeps/epochs": {"methods": ["profit"], "epochs": 2, "tau": [1.5]}},
            "epochs.tau.0: found 1.5, expected: input",
        ),
        (
            {"methods/sft": {"objective": "truth"}},
            "methods.sft.objective: found truth, expected it in a miniature alone",
        ),
        (
            {"methods/profit": {"objective": "profit", "stop": 0.5}, "methods/random/models": None},
            "methods.random.stop: found 1.0, expected 0.5 as in profit, step by step",
        ),
        (
            {
                "methods/profit": {"objective": "profit", "mix": 0.5},
                "sweeps/epochs": {"methods": ["profit"], "epochs": 2},
            },
            "sweeps.epochs.methods: found profit with stop or mix, expected whole runs",
        ),
        ({"analysis/annotators": ["truth"]}, "analysis.annotators: found truth with data.sources"),
        ({"analysis/annotators": ["llm"]}, "analysis.judge: expected with annotator llm, and with it alone"),
        ({"data/references": 1, "data/held": 0}, "found agreement with data.references = 1, expected at least 2"),
        (
            {"sweeps/overfitting": {"method": "sft", "references": [1]}},
            "overfitting.benchmark: found 'same_length', expected a benchmark that Small-0.6B is asked",
        ),
        (
            {"data/held": 0, "sweeps/overfitting": {"method": "sft", "references": [1], "benchmark": "gsm8k"}},
            "data.held: found 0, expected references to compare with",
        ),
        (
            {"analysis": {"annotators": ["llm"], "judge": {"model": "m", "base_url": "http://me:secret99@host/v1"}}},
            "analysis.judge.base_url: .*expected http",
        ),
    ],
)
def test_mistakes_are_named_with_line_and_key(tmp_path: Path, changes, expected):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(changed(**changes), sort_keys=False))
    with pytest.raises(InputError, match=expected) as error:
        load_study(path)
    assert all(line.startswith(f"{path}:") for line in str(error.value).splitlines())
    assert "secret99" not in str(error.value)


def test_a_miniature_takes_no_problems_from_elsewhere(tmp_path):
    content = yaml.safe_load((Path(__file__).parent.parent / "workflow/studies/smoke.yaml").read_text())
    content["benchmarks"]["choice"]["source"] = {"file": "a.csv"}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="benchmarks.choice.source: found it in a miniature"):
        load_study(path)


@pytest.mark.parametrize(
    "analysis",
    [
        {"annotators": [{"llm": {"base_url": "https://me:secret99@h"}}]},
        {"annotators": ["llm"], "judge": {"model": {"base_url": "https://me:secret99@h/v1"}, "base_url": "http://h"}},
        {"annotators": ["https://me:secret99@h"]},
    ],
)
def test_the_password_of_an_address_in_the_wrong_place_is_not_repeated(tmp_path, analysis):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(changed(analysis=analysis), sort_keys=False))
    with pytest.raises(InputError, match="//…@h") as error:
        load_study(path)
    assert "secret99" not in str(error.value)


def test_the_variants_of_a_run_are_in_its_leaf():
    matched = {
        "objective": "sft",
        "paired_with": "profit",
        "match": "update_norm",
        "seeds": 1,
        "models": ["Small-0.6B"],
    }
    mixed = {"objective": "sft", "stop": 0.5, "mix": 0.25, "update_norm": True, "seeds": 1}
    runs = runs_of(Study.model_validate(changed(**{"methods/matched": matched, "methods/mixed": mixed})))
    keys = ("match", "stop", "mix", "update_norm")
    found = {name: [run.leaf[key] for key in keys] for (_, name, _), run in runs.items()}
    assert found["sft"] == [None, 1.0, 1.0, False]
    assert found["matched"] == ["update_norm", 1.0, 1.0, False] and found["mixed"] == [None, 0.5, 0.25, True]
