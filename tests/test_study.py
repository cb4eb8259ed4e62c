"""The study file: shipped ones are valid, mistakes are named, runs are what was asked for."""

import json
import math
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from profit.files import InputError
from profit.methods import Method
from profit.miniature.items import ITEM_SETS
from profit.miniature.world import ITEM_SET_NAMES
from profit.objectives import check_objective
from profit.plan import jobs_of, wall_seconds
from profit.runs import benchmarks_of, default_runs, runs_of, study_runs
from profit.settings import OBJECTIVE_SETTINGS, SETTINGS
from profit.strict_yaml import load_yaml
from profit.study import Study, json_schema, load_study, main

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
        ("unseen: 60", "unseen: -1", "data.unseen: found -1, expected"),
        ("held: 3,", "held: 0,", "unseen: found 60 with held = 0, expected references to answer them"),
        ("  account: [sft, profit]\n", "", "data.unseen: found 60 without analysis.account, which alone reads them"),
        ("[sft, profit, sft_3ref], seeds", "[sft, proft], seeds", "analysis.timing.methods: found 'proft'.*'profit'"),
        ("[sft, profit, sft_3ref], seeds", "[vanilla, sft], seeds", "analysis.timing.methods: found vanilla with obj"),
        ("[sft, profit, sft_3ref], seeds", "[sft, random], seeds", "analysis.timing.methods: found random with obj"),
        ("[sft, profit, sft_3ref], seeds", "[sft], seeds", "analysis.timing.methods: found .*at least 2 items"),
        ("seeds: 10, steps: 21", "seeds: 10, steps: 58", "timing.steps: found 58, expected at most the 57 of sft"),
        ("seeds: 10, steps: 21", "seeds: 1, steps: 21", "timing.seeds: found 1, expected"),
        ("[sft, profit, keep_low], rank", "[sft, proft], rank", "sweeps.lora_rank.methods: found 'proft'.*'profit'"),
        ("[profit, keep_low], tau", "[sft], tau", "sweeps.threshold.methods: found sft"),
        ("task: mini_longer", "task: mini_long", "benchmarks.longer.task: found 'mini_long'.*'mini_longer'"),
        ("source: miniature", "source: minature", "models.mini.source: found 'minature'.*'miniature'"),
        ("seeds: [101", "seeds: [1", r"tune.seeds: found \[1\], expected seeds used nowhere else"),
        ("seeds: 1}\n  lora_rank", "seeds: [102]}\n  lora_rank", r"tune.seeds: found \[102\]"),
        ("seeds: 3}\n", "seeds: [0, 101]}\n", r"tune.seeds: found \[101\]"),
        ("epochs: 1, seeds: 2", "epochs: 1, seeds: [103]", r"tune.seeds: found \[103\]"),
        ("task: mini_validation", "task: mini_valid", "tune.validation.task: found 'mini_valid'.*'mini_validation'"),
        ("  longer:", "  long:", "benchmarks.long: found 'long', expected one of same_length, .*'longer'"),
        (
            "  longer:",
            "  validation:",
            "benchmarks.validation: found other settings than in tune.validation",
        ),
        (
            "  same_length:",
            "  validation:",
            "overfitting.benchmark: found .same_length.",
        ),
        (
            "paired_with: profit",
            "paired_with: random",
            "methods.random.paired_with: found random with objective random",
        ),
        (
            "paired_with: profit",
            "paired_with: vanilla",
            "methods.random.paired_with: found vanilla with objective none",
        ),
        ("paired_with: profit", "paired_with: profit, epochs: 2", "methods.random.epochs: found 2, expected 3 as in"),
        ("paired_with: profit", "paired_with: sft_3ref", "methods.random.references: found 1, expected 3 as in sft_3"),
        ("paired_with: profit", "paired_with: profit, budget: steps", "random.budget: found steps, expected epochs"),
        ("[sft, profit, keep_low], rank", "[random], rank", "sweeps.lora_rank.methods: found random.*needs no pair"),
        ("[sft, profit, keep_low], epochs", "[random], epochs", "sweeps.epochs.methods: found random.*needs no pair"),
        ("method: sft, references", "method: vanilla, references", "overfitting.method: found vanilla.*that trains"),
        ("  methods: [sft]\n", "  methods: [random]\n", "tune.methods: found random.*needs no pair"),
        ("objective: dft, seeds: 5", "objective: dft, seeds: 0", "methods.dft.seeds: found 0.*or equal to 1"),
        ("objective: dft, seeds: 5", "objective: dft, seeds: []", r"methods.dft.seeds: found \[\].*at least 1 item"),
        ("seeds: [101, 102, 103]", "seeds: []", r"tune.seeds: found \[\].*at least 1 item"),
        ("learning_rates: [3e-5, 1e-4, 3e-4, 1e-3, 3e-3]", "learning_rates: []", "tune.learning_rates: .*at least 1"),
        ("tau: [0.1, 0.3, 0.5, 0.7, 0.9]", "tau: []", "sweeps.threshold.tau: .*at least 1 item"),
        ("methods: [profit, keep_low]", "methods: []", "sweeps.threshold.methods: .*at least 1 item"),
        ("rank: [4, 16, 64]", "rank: []", "sweeps.lora_rank.rank: .*at least 1 item"),
        ("references: [1, 3, 5]", "references: []", "sweeps.overfitting.references: .*at least 1 item"),
        ("budgets: [steps, epochs]", "budgets: []", "sweeps.overfitting.budgets: .*at least 1 item"),
        (
            "annotators: [truth, agreement]",
            "annotators: []",
            "analysis.annotators: found .*truth in a mini",
        ),
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


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("objective: dft", "objective: dtf", "methods.dft.objective"),
        ("task: mini_validation", "task: mini_dtf", "tune.validation.task"),
        ("  longer:", "  dtf:", "benchmarks.dtf"),
    ],
)
def test_the_line_of_a_mistake_is_right(tmp_path, old, new, key):
    path = changed(tmp_path, old, new)
    line = next(n for n, text in enumerate(path.read_text().splitlines(), start=1) if "dtf" in text)
    with pytest.raises(InputError, match=f":{line}: {key}: "):
        load_study(path)


@pytest.mark.parametrize("block", ["models", "methods", "benchmarks"])
def test_empty_blocks_are_refused(block):
    content = yaml.safe_load(MINIATURE.read_text()) | {block: {}}
    with pytest.raises(ValueError, match=f"{block}\n.*at least 1 item"):
        Study.model_validate(content)


def test_the_miniature_makes_the_benchmarks_that_a_study_may_name():
    assert tuple(ITEM_SETS) == ITEM_SET_NAMES


def test_validation_may_be_a_benchmark_with_the_settings_of_tune():
    study = load_study(MINIATURE)
    content = study.model_dump()
    content["benchmarks"]["validation"] = content["tune"]["validation"]
    assert Study.model_validate(content).benchmarks["validation"] == study.tune.validation


def test_a_pair_agrees_where_one_writes_the_default(tmp_path):
    path = changed(tmp_path, "paired_with: profit", "paired_with: profit, epochs: 3")
    before, after = (runs_of(load_study(file))["mini", "random", 0] for file in (MINIATURE, path))
    assert before.json == after.json


def test_objectives_and_their_settings_are_written_once():
    fields = json.loads(json_schema())["$defs"]["Method"]["properties"]
    assert fields["objective"]["enum"] == list(OBJECTIVE_SETTINGS)
    for name, setting in SETTINGS.items():
        kind = fields[name]["anyOf"][0]
        assert setting.meaning in fields[name]["description"]
        if setting.choices:
            assert kind["enum"] == list(setting.choices)
            continue
        assert kind.get("exclusiveMinimum" if setting.open_low else "minimum") == setting.low
        assert kind.get("exclusiveMaximum" if setting.open_high else "maximum", math.inf) == setting.high


VALUES = {
    **{name: (-1, 0, 0.3, 0.5, 0.7, 1, 2, "half", math.nan, math.inf) for name in SETTINGS},
    "direction": ("higher", "middle", "both", 1),
    "keep": ("core", "replaceable", "fixed", 1),
    "redraw": ("step", "never", "always", 0),
    "gap": ("linear", "flat", 0.5),
}


@pytest.mark.parametrize("objective", [name for name in OBJECTIVE_SETTINGS if name != "none"])
def test_the_schema_and_the_objectives_admit_the_same(objective):
    pair = {"paired_with": "profit"} if objective == "excess" else {}
    stated = {"share": 0.5} if objective == "random" else {}
    cases = [(key, value) for key in OBJECTIVE_SETTINGS[objective] for value in VALUES[key]]
    for key, value in cases:
        # An upper threshold is read with direction middle alone.
        settings = stated | {key: value} | ({"direction": "middle"} if key == "tau_high" else {})
        try:
            check_objective({"name": objective, **settings})
            allowed = True
        except ValueError:
            allowed = False
        try:
            Method.model_validate({"objective": objective, **settings, **pair})
            assert allowed, settings
        except ValidationError:
            assert not allowed, settings


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("objective: sft, tau: 0.1", "tau: found 0.1, expected no such key with sft"),
        ("objective: power, tau_high: 0.5", "tau_high: found 0.5, expected no such key with power"),
        ("objective: profit, tau_high: 0.5", "tau_high: found 0.5, expected no such key with direction higher"),
        ("objective: profit, direction: middle, tau: 0.95", "tau: found 0.95, expected less than tau_high = 0.9"),
        ("objective: power, direction: middle", "direction: found 'middle', expected higher or lower with power"),
        ("objective: infosft, cap: 0.5", "cap: found 0.5, expected: input should be greater than 0.5"),
        ("objective: gift, beta: .inf", "beta: found inf, expected: input should be a finite number"),
        ("objective: gem, gap: flat", "gap: found 'flat', expected one of linear, logsigmoid"),
        ("objective: random", "paired_with: found None, expected a method with random"),
        ("objective: excess", "paired_with: found None, expected a method with random"),
        ("objective: random, share: 0.5, paired_with: sft", "paired_with: found 'sft', expected .* else no such key"),
        ("objective: psft, paired_with: sft", "paired_with: found 'sft', expected .* else no such key"),
        ("objective: sft, match: update_norm", "paired_with: found None, expected .* with match, else no such key"),
        ("objective: sft, match: loss, paired_with: profit", "match: found 'loss', expected .*'?update_norm"),
        ("objective: sft, stop: 0", "stop: found 0, expected: input should be greater than 0"),
        ("objective: sft, mix: 1.5", "mix: found 1.5, expected: input should be less than or equal to 1"),
        ("objective: none, stop: 0.5", "stop: found 0.5, expected no such key with none"),
        ("objective: truth, keep: fixed", "keep: found 'fixed', expected one of core, replaceable"),
        ("objective: sft, redraw: never", "redraw: found 'never', expected no such key with sft"),
        ("objective: excess, paired_with: vanilla", "paired_with: found vanilla with objective none"),
        ("objective: excess, paired_with: random", "paired_with: found random with objective random"),
        ("objective: excess, paired_with: sft, seeds: [0, 50]", r"seeds: found \[50\], expected only seeds of sft"),
        ("objective: sft, neftune: -1", "neftune: found -1, expected: input should be greater than or equal to 0"),
    ],
)
def test_mistakes_in_the_settings_of_an_objective_are_named(tmp_path, method, expected):
    path = changed(tmp_path, "methods:\n", f"methods:\n  new: {{{method}}}\n")
    with pytest.raises(InputError, match=rf"methods\.new\.{expected}"):
        load_study(path)


def added(tmp_path, *methods):
    """The runs of seed 0 of the default study with methods new0, new1, … added."""
    lines = "".join(f"  new{count}: {{{method}, seeds: 1}}\n" for count, method in enumerate(methods))
    runs = runs_of(load_study(changed(tmp_path, "methods:\n", f"methods:\n{lines}")))
    return [runs["mini", f"new{count}", 0].leaf for count in range(len(methods))]


def test_leaves_hold_the_settings_that_their_objective_reads(tmp_path):
    leaves = added(
        tmp_path,
        "objective: profit, direction: middle, tau_high: 0.8",
        "objective: random, share: 0.5",
        "objective: excess, paired_with: sft_3ref, epochs: 1",
        "objective: gem, beta: 1, normaliser: kept",
    )
    assert [leaf["objective"] for leaf in leaves] == [
        {"name": "profit", "tau": 0.1, "direction": "middle", "tau_high": 0.8, "normaliser": "all"},
        {"name": "random", "share": 0.5, "redraw": "step", "normaliser": "all"},
        {"name": "excess", "share": 0.6, "normaliser": "all"},
        {"name": "gem", "beta": 1.0, "gap": "logsigmoid", "normaliser": "kept"},
    ]
    assert [leaf["paired_with"] for leaf in leaves] == [None, None, "sft_3ref", None]
    paired = runs_of(load_study(MINIATURE))["mini", "random", 0].leaf
    assert paired["objective"] == {"name": "random", "share": None, "redraw": "step", "normaliser": "all"}
    for leaf in leaves:
        check_objective(leaf["objective"])


def test_noise_on_the_embeddings_is_that_of_training_unless_the_method_says_otherwise(tmp_path):
    leaves = added(tmp_path, "objective: sft", "objective: sft, neftune: 5")
    assert [leaf["training"]["neftune"] for leaf in leaves] == [0, 5]
    content = yaml.safe_load(MINIATURE.read_text())
    content["training"]["neftune"] = 3
    content["methods"]["quiet"] = {"objective": "sft", "neftune": 0}
    runs = runs_of(Study.model_validate(content))
    assert [runs["mini", name, 0].leaf["training"]["neftune"] for name in ("sft", "quiet")] == [3, 0]


def test_a_sweep_of_thresholds_stays_below_the_upper_one(tmp_path):
    path = changed(tmp_path, "methods:\n", "methods:\n  mid: {objective: profit, direction: middle, tau_high: 0.7}\n")
    path.write_text(path.read_text().replace("methods: [profit, keep_low], tau", "methods: [mid], tau"))
    with pytest.raises(InputError, match="sweeps.threshold.tau: found 0.7, expected less than tau_high = 0.7 .mid."):
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


def test_the_smoke_study_stays_short():
    smoke = load_study(STUDIES / "smoke.yaml")
    assert wall_seconds(jobs_of(smoke), 2, 1.0) < 50


def test_sweeps_share_runs_with_equal_settings():
    study = load_study(MINIATURE)
    runs = runs_of(study)
    methods = {run.leaf["method"] for run in runs.values()}
    assert {"profit_tau0.3", "keep_low_tau0.9", "sft_rank16", "sft_epochs", "sft_5ref_steps", "sft_5ref"} <= methods
    assert not {"profit_tau0.1", "sft_1ref", "sft_1ref_steps"} & methods
    assert "threshold" in runs["mini", "profit", 0].groups and "overfitting" in runs["mini", "sft", 2].groups
    texts = [run.json for run in runs.values()]
    assert len(set(texts)) == len(texts)


def test_arms_of_the_overfitting_differ_in_what_they_are_named_by():
    study = load_study(STUDIES / "audit.yaml")
    runs = {key: run for key, run in runs_of(study).items() if "overfitting" in run.groups and key[2] == 0}
    found = {
        key[:2]: (run.leaf["references"], run.leaf["budget"], run.leaf["training"]["epochs"] / study.training.epochs)
        for key, run in runs.items()
    }
    expected = {("mini", "sft"): (1, "epochs", 1), ("more", "sft"): (1, "epochs", 1)}
    expected |= {("mini", f"sft_1ref_{count}x"): (1, "epochs", count) for count in (2, 3, 5)}
    expected |= {("mini", f"sft_{count}ref"): (count, "epochs", 1) for count in (2, 3, 5)}
    expected |= {("mini", f"sft_{count}ref_steps"): (count, "steps", 1) for count in (2, 3, 5)}
    assert found == expected
    assert {key[1] for key in runs_of(study) if key[0] == "more"} == {"sft"}
    assert study.base_of("more") == "mini" and study.worlds["more"] == study.world
    # As many steps as two references at equal epochs, and as one for twice as long.
    assert study.data_of(study.world_of("more")).prompts == 2 * study.data_of(study.world_of("mini")).prompts


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


def test_methods_at_every_learning_rate():
    content = yaml.safe_load(MINIATURE.read_text())
    content["methods"]["slow"] = {"objective": "sft", "learning_rate": 1e-4, "seeds": 1}
    content["tune"]["methods"] = ["sft", "profit"]
    before = Study.model_validate(content)
    content["sweeps"]["learning_rate"] = {"seeds": 2}
    study = Study.model_validate(content)
    runs, old = runs_of(study), runs_of(before)
    assert all(runs[key].json == run.json for key, run in old.items())
    swept = {run.leaf["method"] for run in runs.values() if "learning_rate" in run.groups}
    rates = ("3e-05", "0.001", "0.003")
    # SFT's rate of 1e-4 is a main method; 3e-4 is that of the study.
    derived = {f"{method}_lr{rate}" for method in ("sft", "profit") for rate in rates}
    assert swept == {"sft", "slow", "profit", "profit_lr0.0001"} | derived
    run = runs["mini", "profit_lr0.001", 1]
    expected = {**runs["mini", "profit", 1].leaf, "method": "profit_lr0.001"}
    expected["training"] = expected["training"] | {"learning_rate": 1e-3}
    assert run.leaf == expected and set(benchmarks_of(study, run)) == set(study.benchmarks)
    assert ("mini", "slow", 1) in runs and ("mini", "slow", 2) not in runs
    tuned = {run.leaf["method"] for run in runs.values() if run.groups == ("tune",)}
    assert tuned == derived | {f"{method}_lr0.000{digit}" for method in ("sft", "profit") for digit in "13"}
    assert default_runs(study, runs) == list(runs.values())
    assert default_runs(before, old) == study_runs(old) != list(old.values())


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


def test_a_method_may_not_take_the_name_of_a_derived_one(tmp_path):
    path = changed(tmp_path, "methods:\n", "methods:\n  sft_rank16: {objective: sft}\n")
    with pytest.raises(InputError, match="methods.sft_rank16: found a name that a sweep gives to other settings"):
        runs_of(load_study(path))


def test_two_methods_of_equal_settings_both_run(tmp_path):
    path = changed(tmp_path, "methods:\n", "methods:\n  twin: {objective: sft, seeds: 2}\n")
    runs = runs_of(load_study(path))
    assert ("mini", "twin", 1) in runs and ("mini", "sft", 9) in runs
