"""From a study to its runs: every model x method x seed with all its settings, the sweeps included.

A sweep makes derived methods: `profit_tau0.3`, `sft_rank16`, `sft_epochs`, `sft_5ref_steps`. One whose settings are
those of a method that exists already *is* that method: tau 0.1 of the threshold sweep is `profit`. Those that choose
learning rates (`sft_lr0.0003`) keep names of their own, whatever rate is chosen.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from profit.files import InputError, canonical_json
from profit.methods import Method, seed_list
from profit.study import Benchmark, Study

# Keys of a method that change how a run is trained or written beside its objective.
VARIANTS = ("match", "stop", "mix", "update_norm")
GROUPS = ("main", "threshold", "lora_rank", "epochs", "overfitting", "learning_rate", "world", "tune")


@dataclass(frozen=True)
class Run:
    """One model x method x seed."""

    leaf: dict[str, Any]
    label: str
    groups: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str, int]:
        """(model, method, seed), which name its files."""
        return self.leaf["model"], self.leaf["method"], self.leaf["seed"]

    @property
    def trained(self) -> bool:
        """Whether there is anything to train."""
        return self.leaf["objective"]["name"] != "none"

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoints to evaluate: every epoch's where they are kept, else the final one."""
        if self.leaf["keep_epochs"]:
            return [f"epoch{epoch + 1}" for epoch in range(self.leaf["training"]["epochs"])]
        return ["final"]

    @property
    def json(self) -> str:
        """The leaf as jobs get it; two runs with equal text are the same work."""
        return canonical_json(self.leaf)


def runs_of(study: Study) -> dict[tuple[str, str, int], Run]:
    """All runs of a study by (model, method, seed), those of the tuning of the learning rate last.

    Raises:
        InputError: a method has the name that a sweep gives to other settings.
    """
    methods: dict[str, tuple[str, dict[str, Any]]] = {}
    names: dict[str, str] = {}
    groups: dict[str, dict[tuple[str, int], list[str]]] = {}
    for found in _methods(study):
        name = found.name
        if found.group == "main":
            names.setdefault(canonical_json(found.settings), name)
        elif found.group != "tune":
            name = names.setdefault(canonical_json(found.settings), name)
        if methods.get(name, (found.label, found.settings))[1] != found.settings:
            raise InputError(f"methods.{name}: found a name that a sweep gives to other settings, expected another")
        methods.setdefault(name, (found.label, found.settings))
        for place in product(found.models or study.models, found.seeds):
            if name not in (getattr(study.models[place[0]], "methods", None) or [name]):
                continue
            groups.setdefault(name, {}).setdefault(place, []).append(found.group)
    runs = [
        Run(
            {"model": model, "method": name, "seed": seed, **_on_model(study, model, settings)},
            label,
            tuple(dict.fromkeys(groups[name][model, seed])),
        )
        for model in study.models
        for name, (label, settings) in methods.items()
        for seed in sorted(seed for own, seed in groups.get(name, ()) if own == model)
    ]
    runs.sort(key=lambda run: GROUPS.index(run.groups[0]))
    return {run.key: run for run in runs}


def _on_model(study: Study, model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a method, with as many answers at once as the model has room for."""
    size = study.compute_of(model).micro_batch_size
    if size is None or settings["training"] is None:
        return settings
    return {**settings, "training": {**settings["training"], "micro_batch_size": size}}


def study_runs(runs: dict[tuple[str, str, int], Run]) -> list[Run]:
    """The runs that tables and claims are about: all but those that choose learning rates."""
    return [run for run in runs.values() if run.groups[0] != "tune"]


def default_runs(study: Study, runs: dict[tuple[str, str, int], Run]) -> list[Run]:
    """The runs of the default target: those that choose learning rates are in it where the study sweeps these."""
    return list(runs.values()) if study.sweeps.learning_rate else study_runs(runs)


def tuned_method(name: str, rate: float) -> str:
    """The method that is tried at a learning rate under some name: sft of sft_lr0.0003."""
    return name.removesuffix(f"_{_rate_suffix(rate)}")


def _rate_suffix(rate: float) -> str:
    return f"lr{rate:g}"


def tune_runs(runs: dict[tuple[str, str, int], Run]) -> list[Run]:
    """The runs that choose learning rates."""
    return [run for run in runs.values() if run.groups[0] == "tune"]


def benchmarks_of(study: Study, run: Run) -> dict[str, Benchmark]:
    """What the run is evaluated on: the study's benchmarks, or the validation problems while tuning."""
    if run.groups[0] == "tune":
        return {"validation": study.tune.validation}
    asked = study.asked(run.leaf["model"])
    if "main" in run.groups:
        return asked
    # Figures of sweeps read the model's first table alone.
    first = study.tables[study.tables_with(run.leaf["model"])[0]].benchmarks or study.benchmarks
    further = {study.sweeps.overfitting.benchmark} if "overfitting" in run.groups else set()
    return {name: item for name, item in asked.items() if name in {*first, *further}}


def listed(study: Study, runs: list[Run]) -> dict[str, Any]:
    """A study as its tables list it: leaves with first group, evaluated checkpoints, and what is measured of them."""
    return {
        "name": study.name,
        "annotators": study.analysis.annotators,
        "gradients": study.analysis.gradients is not None,
        "worlds": {model: study.world_of(model) for model in study.models},
        "models": {model: described(study, model) for model in study.models},
        "phase": mapped(study),
        "timing": {model: study.analysis.timing.model_dump() for model in timed_runs(study, runs)},
        "tables": {
            name: {
                "models": [model for model in study.models if model in (table.models or study.models)],
                "benchmarks": [item for item in study.benchmarks if item in (table.benchmarks or study.benchmarks)],
            }
            for name, table in study.tables.items()
        },
        "runs": [
            {
                **run.leaf,
                "label": run.label,
                "group": run.groups[0],
                "evaluations": run.checkpoints,
                "overfit": "overfitting" in run.groups,
                "account": looked_at(study, run, "account"),
                "drift": looked_at(study, run, "drift"),
                "answer_style": looked_at(study, run, "answer_style"),
            }
            for run in runs
        ],
    }


def described(study: Study, model: str) -> dict[str, Any]:
    """A row of table models: whose base a model is, how long a miniature was pretrained, what references it meets."""
    base, name = study.base_of(model), study.world_of(model)
    row = {"base": base, "prompts": study.data_of(name).prompts}
    if not study.miniature:
        return row | dict.fromkeys(("pretraining_steps", "world_seed", "wording_lean", "rare_in_references"))
    world = study.worlds[name]
    row |= {"pretraining_steps": study.models[base].pretraining.steps, "world_seed": world.seed}
    return row | {key: getattr(world, key) for key in ("wording_lean", "rare_in_references")}


def mapped(study: Study) -> bool:
    """Whether there is a map of where a method beats SFT: a base meets references of several kinds."""
    met: dict[str, set[tuple[float, float]]] = {}
    for row in (described(study, model) for model in study.models):
        met.setdefault(row["base"], set()).add((row["wording_lean"], row["rare_in_references"]))
    objectives = {method.objective for method in study.methods.values()}
    return max(map(len, met.values())) > 1 and "sft" in objectives and not objectives.isdisjoint({"profit", "truth"})


def looked_at(study: Study, run: Run, what: str) -> bool:
    """Whether the analysis (account, drift, answer_style) names the method of this run; of the main group alone."""
    return "main" in run.groups and run.leaf["method"] in getattr(study.analysis, what)


def timed_runs(study: Study, runs: Iterable[Run]) -> dict[str, dict[str, Run]]:
    """By model and method, the first of `runs` of each that is timed beside the others; of models that have all."""
    timing, found = study.analysis.timing, {}
    if timing is None:
        return found
    runs = {run.key[:2]: run for run in reversed([*runs]) if "main" in run.groups}
    for model in study.models:
        own = {method: runs[model, method] for method in timing.methods if (model, method) in runs}
        if len(own) == len(timing.methods):
            found[model] = own
    return found


@dataclass(frozen=True)
class _Found:
    """A method with its settings, where it comes from and what it is run on; no models are all."""

    group: str
    name: str
    label: str
    settings: dict[str, Any]
    seeds: list[int]
    models: list[str] | None


def _methods(study: Study) -> list[_Found]:
    """The main methods, then those of the sweeps in their order."""
    sweeps, methods = study.sweeps, study.methods
    found = [
        _Found("main", name, method.label or name, _settings(study, method), seed_list(method.seeds), method.models)
        for name, method in methods.items()
    ]

    def derive(
        group: str,
        base: str,
        suffix: str,
        sweep: Any,
        models: list[str] | None = None,
        keep_epochs: bool = False,
        **changes: Any,
    ) -> None:
        method = methods[base].model_copy(update=changes)
        label = f"{methods[base].label or base} {suffix.replace('_', ' ')}"
        settings = _settings(study, method, keep_epochs)
        models = models or getattr(sweep, "models", None)
        found.append(_Found(group, f"{base}_{suffix}", label, settings, seed_list(sweep.seeds), models))

    if sweep := sweeps.threshold:
        for base in sweep.methods:
            for tau in sweep.tau:
                derive("threshold", base, f"tau{tau:g}", sweep, tau=tau)
    if sweep := sweeps.lora_rank:
        for base in sweep.methods:
            for rank in sweep.rank:
                derive("lora_rank", base, f"rank{rank}", sweep, rank=rank)
    if sweep := sweeps.epochs:
        for base in sweep.methods:
            own = methods[base].settings.get("tau")
            for tau in sweep.tau or [own] if own is not None else [None]:
                changes = {} if tau == own else {"tau": tau}
                suffix = f"tau{tau:g}_epochs" if changes else "epochs"
                derive("epochs", base, suffix, sweep, keep_epochs=True, epochs=sweep.epochs, **changes)
    if sweep := sweeps.overfitting:
        for count in sweep.references:
            for budget in sweep.budgets:
                suffix, changes = f"{count}ref", {"references": count, "budget": budget}
                if budget == "steps":
                    suffix += "_steps"
                elif budget == "longer":
                    epochs = count * (methods[sweep.method].epochs or study.training.epochs)
                    suffix, changes = f"1ref_{count}x", {"references": 1, "epochs": epochs}
                derive("overfitting", sweep.method, suffix, sweep, **changes)
    if sweep := sweeps.learning_rate:
        for base, rate in product(study.tune.methods, study.tune.learning_rates):
            models = sweep.models or study.tune.models
            derive("learning_rate", base, _rate_suffix(rate), sweep, models, learning_rate=rate)
    if check := study.world_check:
        method = Method(objective="sft", learning_rate=check.learning_rate, epochs=check.epochs)
        settings = _settings(study, method) | {"data": "careful"}
        found.append(_Found("world", "careful", "SFT on careful answers", settings, seed_list(check.seeds), None))
    if tune := study.tune:
        for base, rate in product(tune.methods, tune.learning_rates):
            derive("tune", base, _rate_suffix(rate), tune, learning_rate=rate)
    return found


def _settings(study: Study, method: Method, keep_epochs: bool = False) -> dict[str, Any]:
    """The leaf of a method without model, method and seed; defaults filled, equal work written equally."""
    objective = {"name": method.objective, **method.settings}
    if method.objective == "none":
        nothing = dict.fromkeys(("tuning", "training", "paired_with", "budget", "choice", *VARIANTS))
        return {"objective": objective, "references": 0, "keep_epochs": False, **nothing}
    objective["normaliser"] = method.normaliser or "all"
    training = study.training.model_dump()
    if method.rank is not None:
        training["learning_rate"] = study.lora.learning_rate
    training["epochs"] = method.epochs or training["epochs"]
    training["learning_rate"] = method.learning_rate or training["learning_rate"]
    training["neftune"] = training["neftune"] if method.neftune is None else method.neftune
    tuning: dict[str, Any] = {"kind": "full"}
    if method.rank is not None:
        alpha = method.rank * study.lora.alpha_per_rank
        tuning = {"kind": "lora", "rank": method.rank, "alpha": alpha, "target_modules": study.lora.target_modules}
    return {
        "objective": objective,
        "data": "references",
        "references": method.references,
        "choice": getattr(study.data, "choice", "seed"),
        "budget": method.budget if method.references > 1 else "epochs",
        "tuning": tuning,
        "training": training,
        "keep_epochs": keep_epochs,
        "paired_with": method.paired_with,
        **{key: getattr(method, key) for key in VARIANTS},
    }
