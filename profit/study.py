"""The schema of a study: one YAML file with models, data, methods, sweeps, benchmarks and analysis.

Everything is typed and an unknown key is an error, so that a typing mistake stops before any job starts. A missing key
takes the default written here and in the modules of its block. A study is either a miniature, whose world makes
models, references and problems, or it takes all three from the hub and from files. `profit.runs` expands methods and
sweeps.

    python -m profit.study check workflow/studies/miniature.yaml
    python -m profit.study pin workflow/studies/paper.yaml
    python -m profit.study schema > workflow/studies/study.schema.json
"""

import argparse
import json
import math
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from profit.bases import Base, Compute, Decoding, HubModel, Miniature
from profit.blocks import Analysis, Benchmark, Generated, Table, Tune, data_class
from profit.files import InputError
from profit.methods import Lora, Method, ModelName, Name, Training, seed_list
from profit.miniature.world import ITEM_SET_NAMES, REFERENCE_KEYS, Strict, World
from profit.protocol import BENCHMARKS, check_options
from profit.settings import STORED_SCORES, conflict, copies_steps
from profit.shapes import Collected
from profit.strict_yaml import line_of, load_yaml
from profit.sweeps import Sweeps, WorldCheck
from profit.validation import either, sentences, unknown

# The folder of the world of all models that have none of their own.
SHARED = "shared"


class Study(Strict):
    """A whole study."""

    name: Name
    models: dict[ModelName, Base] = Field(min_length=1)
    world: World = Field(World(), description="of a miniature")
    data: either(data_class, Generated, Collected) = Generated()
    training: Training = Training()
    lora: Lora = Lora()
    methods: dict[Name, Method] = Field(min_length=1)
    sweeps: Sweeps = Sweeps()
    world_check: WorldCheck | None = None
    tune: Tune | None = None
    benchmarks: dict[Name, Benchmark] = Field(min_length=1)
    tables: dict[Name, Table] = Field({"table1": Table()}, min_length=1)
    decoding: Decoding = Decoding()
    analysis: Analysis = Analysis()

    @property
    def miniature(self) -> bool:
        """Whether a world makes models, references and problems."""
        return isinstance(self.data, Generated)

    @cached_property
    def worlds(self) -> dict[str, World | None]:
        """Every world by the name of its folder: the study's own, and those of models of other settings or prompts."""
        found: dict[str, World | None] = {SHARED: self.world if self.miniature else None}
        for name, model in self.models.items():
            if self.world_of(name) == name:
                found[name] = World.model_validate(self.world.model_dump() | model.world)
        return {name: world for name, world in found.items() if name in set(map(self.world_of, self.models))}

    def world_of(self, model: str) -> str:
        """Name of the world of a model."""
        own = self.models[model]
        return model if getattr(own, "world", None) or getattr(own, "prompts", None) else SHARED

    def data_of(self, world: str) -> Generated:
        """The references of a world of a miniature."""
        prompts = self.models[world].prompts if world in self.models else None
        return self.data.model_copy(update={"prompts": prompts}) if prompts else self.data

    @property
    def unseen(self) -> int:
        """Prompts of each world that no method trains on."""
        return self.data.unseen if self.miniature else 0

    def base_of(self, model: str) -> str:
        """The model whose folder is its base: itself, unless it is like another."""
        return getattr(self.models[model], "like", None) or model

    @property
    def bases(self) -> list[str]:
        """The models that have a base of their own."""
        return [model for model in self.models if self.base_of(model) == model]

    @property
    def labels(self) -> str | None:
        """The annotator whose labels follow the references into training: one that leaves no answer out."""
        return next((name for name in ("truth", "agreement") if name in self.analysis.annotators), None)

    def compute_of(self, model: str) -> Compute:
        """How a model is held and run."""
        base = self.models[model]
        return base.compute if isinstance(base, HubModel) else Compute()

    def decoding_of(self, model: str) -> Decoding:
        """How a model's answers are sampled."""
        return getattr(self.models[model], "decoding", None) or self.decoding

    def tables_with(self, model: str) -> list[str]:
        """The tables that a model is in."""
        return [name for name, table in self.tables.items() if model in (table.models or self.models)]

    def asked(self, model: str) -> dict[str, Benchmark]:
        """The benchmarks of all tables that a model is in, in the study's order, capped as its context needs."""
        tables = [self.tables[name] for name in self.tables_with(model)]
        names = {name for table in tables for name in (table.benchmarks or self.benchmarks)}
        most = getattr(self.models[model], "max_new_tokens", None) or math.inf
        return {
            name: item.model_copy(update={"max_new_tokens": min(item.max_new_tokens, most)})
            for name, item in self.benchmarks.items()
            if name in names
        }

    @model_validator(mode="after")
    def _one_kind(self) -> "Study":
        for name, model in self.models.items():
            if isinstance(model, Miniature) != self.miniature:
                expected = (
                    "miniature without data.sources" if self.miniature else "the hub or a folder with data.sources"
                )
                raise ValueError(f"models.{name}.source: found {model.source!r}, expected {expected}")
            each = self.compute_of(name)
            together = (each.micro_batch_size or self.training.micro_batch_size) * each.processes
            if self.training.batch_size % together:
                expected = f"a divisor of training.batch_size = {self.training.batch_size}"
                raise ValueError(f"models.{name}.compute: found {together} answers at once, expected {expected}")
        for key in ("world", "world_check", "tune") if not self.miniature else ():
            if key in self.model_fields_set and getattr(self, key) is not None:
                raise ValueError(f"{key}: found it with data.sources, expected it in a miniature alone")
        for name, item in self.benchmarks.items():
            self._has_problems(name, item)
        return self

    def _has_problems(self, name: str, item: Benchmark) -> None:
        where = f"benchmarks.{name}"
        if self.miniature:
            if name not in ITEM_SET_NAMES:
                raise ValueError(f"{where}: {unknown(name, ITEM_SET_NAMES)}")
            given = [key for key in ("source", "protocol", "options") if getattr(item, key)]
            if given:
                raise ValueError(f"{where}.{given[0]}: found it in a miniature, whose world makes the problems")
            return
        if item.source is None:
            raise ValueError(f"{where}.source: found none, expected where its problems are: {{file: …}} or {{hub: …}}")
        if (item.protocol or name) not in BENCHMARKS:
            raise ValueError(f"{where}.protocol: {unknown(item.protocol or name, BENCHMARKS)}")
        check_options(f"{where}.options", item.protocol or name, item.options)

    @model_validator(mode="after")
    def _worlds_fit(self) -> "Study":
        for name, model in self.models.items():
            changes, like = getattr(model, "world", {}), getattr(model, "like", None)
            for key in changes:
                if key not in World.model_fields:
                    raise ValueError(f"models.{name}.world: {unknown(key, World.model_fields)}")
            try:
                World.model_validate(self.world.model_dump() | changes)
            except ValidationError as error:
                keys, what = next(sentences(World, error))
                raise ValueError(f"models.{name}.world.{'.'.join(map(str, keys))}: {what}") from None
            if like is not None:
                self._is_like(name, changes, like)
        return self

    def _is_like(self, name: str, changes: dict[str, Any], like: str) -> None:
        where = f"models.{name}"
        if like not in self.models or self.models[like].like is not None:
            raise ValueError(f"{where}.like: {unknown(like, self.bases)}")
        mine, theirs = (self.world.model_dump() | own for own in (changes, self.models[like].world))
        if other := [key for key in mine if mine[key] != theirs[key] and key not in REFERENCE_KEYS]:
            expected = f"only what decides the references ({', '.join(REFERENCE_KEYS)}) to differ from {like}"
            raise ValueError(f"{where}.world: found {other[0]}, expected {expected}")

    @model_validator(mode="after")
    def _names_exist(self) -> "Study":
        blocks = {f"methods.{name}": method for name, method in self.methods.items()}
        blocks |= {f"sweeps.{name}": sweep for name, sweep in self.sweeps if sweep}
        blocks |= {f"tables.{name}": table for name, table in self.tables.items()}
        blocks |= {f"models.{name}": model for name, model in self.models.items()}
        blocks |= {"tune": self.tune} if self.tune else {}
        known_names = {"models": self.models, "benchmarks": self.benchmarks, "methods": self.methods}
        for where, block in blocks.items():
            for key, known in known_names.items():
                for name in getattr(block, key, None) or ():
                    if name not in known:
                        raise ValueError(f"{where}.{key}: {unknown(name, known)}")
        for name in self.models:
            if not self.asked(name):
                raise ValueError(f"tables: found none with model {name}, expected every model in one")
        return self

    @model_validator(mode="after")
    def _annotators_fit(self) -> "Study":
        names, where = self.analysis.annotators, "analysis.annotators"
        if "truth" in names and not self.miniature:
            raise ValueError(f"{where}: found truth with data.sources, expected agreement, llm or neither ([])")
        if "agreement" in names and self.data.references < 2:
            raise ValueError(f"{where}: found agreement with data.references = 1, expected at least 2")
        for key in ("account", "drift"):
            for method in getattr(self.analysis, key):
                if method not in self.methods or self.methods[method].objective == "none":
                    trained = [name for name, item in self.methods.items() if item.objective != "none"]
                    raise ValueError(f"analysis.{key}: {unknown(method, trained)}")
        for method in self.analysis.answer_style:
            if method not in self.methods:
                raise ValueError(f"analysis.answer_style: {unknown(method, self.methods)}")
        if self.unseen and not self.analysis.account:
            raise ValueError(f"data.unseen: found {self.unseen} without analysis.account, which alone reads them")
        if ("llm" in names) != (self.analysis.judge is not None):
            raise ValueError("analysis.judge: expected with annotator llm, and with it alone")
        if len(set(names)) != len(names) or self.miniature and "truth" not in names:
            raise ValueError(f"{where}: found {names}, expected each once, and truth in a miniature")
        return self

    @model_validator(mode="after")
    def _methods_fit(self) -> "Study":
        if self.name in ("reference", "published"):
            raise ValueError(f"name: found {self.name!r}, expected another: that folder of results is shipped")
        for name, method in self.methods.items():
            if method.objective == "truth" and self.labels != "truth":
                raise ValueError(f"methods.{name}.objective: found truth, expected it in a miniature alone")
            self._enough_references(f"methods.{name}.references", method.references)
            if method.paired_with is not None:
                self._pair_fits(f"methods.{name}", method, method.paired_with)
        return self

    @model_validator(mode="after")
    def _sweeps_fit(self) -> "Study":
        for name in ("threshold", "lora_rank", "epochs"):
            for method in getattr(getattr(self.sweeps, name), "methods", []):
                found = self._lone_method(f"sweeps.{name}.methods", method)
                if name == "threshold" and found.objective != "profit":
                    raise ValueError(f"sweeps.threshold.methods: found {method}, expected methods with a tau (profit)")
                if name == "epochs" and (found.stop, found.mix) != (1.0, 1.0):
                    raise ValueError(f"sweeps.epochs.methods: found {method} with stop or mix, expected whole runs")
                taus = getattr(getattr(self.sweeps, name), "tau", None) if "tau" in found.settings else None
                for tau in taus or ():
                    if wrong := conflict(found.objective, found.settings | {"tau": tau}):
                        raise ValueError(f"sweeps.{name}.{': '.join(wrong)} ({method})")
        if self.sweeps.learning_rate and not self.tune:
            raise ValueError("sweeps.learning_rate: found it without tune, expected methods and rates there")
        if sweep := self.sweeps.overfitting:
            self._lone_method("sweeps.overfitting.method", sweep.method)
            for count in sweep.references:
                self._enough_references("sweeps.overfitting.references", count)
            if lacking := [name for name in sweep.models or self.models if sweep.benchmark not in self.asked(name)]:
                what = f"found {sweep.benchmark!r}, expected a benchmark that {lacking[0]} is asked (tables)"
                raise ValueError(f"sweeps.overfitting.benchmark: {what}")
            if not self.data.held:
                raise ValueError("data.held: found 0, expected references to compare with (sweeps.overfitting)")
        return self

    @model_validator(mode="after")
    def _timing_fits(self) -> "Study":
        timing, where = self.analysis.timing, "analysis.timing"
        for name in timing.methods if timing else ():
            method = self._lone_method(f"{where}.methods", name)
            if method.objective == "truth" or method.objective in STORED_SCORES:
                what = f"found {name} with objective {method.objective}"
                raise ValueError(f"{where}.methods: {what}, expected one that needs neither labels nor scores")
            steps = math.ceil(self.data.prompts / self.training.batch_size) if self.data.prompts else math.inf
            if timing.steps > (most := steps * (method.epochs or self.training.epochs)):
                raise ValueError(f"{where}.steps: found {timing.steps}, expected at most the {most} of {name}")
        for name in self.models if timing else ():
            if (processes := self.compute_of(name).processes) > 1:
                raise ValueError(f"{where}: found models.{name}.compute.processes = {processes}, expected 1")
        return self

    @model_validator(mode="after")
    def _tune_fits(self) -> "Study":
        if not self.tune:
            return self
        for name in self.tune.methods:
            self._lone_method("tune.methods", name)
        blocks = [*self.methods.values(), *dict(self.sweeps).values(), self.world_check]
        used = {seed for block in blocks if block for seed in seed_list(block.seeds)}
        if shared := sorted(used & set(self.tune.seeds)):
            raise ValueError(f"tune.seeds: found {shared}, expected seeds used nowhere else")
        rate, rates = self.training.learning_rate, self.tune.learning_rates
        if rate not in rates:
            raise ValueError(f"training.learning_rate: found {rate}, expected one of {rates}")
        if self.benchmarks.get("validation", self.tune.validation) != self.tune.validation:
            raise ValueError("benchmarks.validation: found other settings than in tune.validation, expected the same")
        return self

    def _lone_method(self, where: str, name: str) -> Method:
        if name not in self.methods:
            raise ValueError(f"{where}: {unknown(name, self.methods)}")
        found = self.methods[name]
        if found.objective == "none" or found.paired_with is not None:
            expected = "a method that trains and needs no pair (the pair of a random or excess mask is in no sweep)"
            raise ValueError(f"{where}: found {name} with objective {found.objective}, expected {expected}")
        return found

    def _pair_fits(self, where: str, method: Method, name: str) -> None:
        paired = self._lone_method(f"{where}.paired_with", name)
        if lacking := sorted(set(seed_list(method.seeds)) - set(seed_list(paired.seeds))):
            raise ValueError(f"{where}.seeds: found {lacking}, expected only seeds of {name}")
        if outside := sorted(set(method.models or self.models) - set(paired.models or self.models)):
            raise ValueError(f"{where}.models: found {outside}, expected only models of {name}")
        for model in method.models or self.models:
            only = getattr(self.models[model], "methods", None) or [name]
            if where.removeprefix("methods.") in only and name not in only:
                raise ValueError(f"models.{model}.methods: found {only}, expected {name} too, the pair of {where}")
        # Random masks and matched updates copy the pair's steps; excess reads its scores alone.
        copies = copies_steps({"objective": {"name": method.objective, "share": method.share}, "match": method.match})
        for key in ("epochs", "references", "budget", "stop") if copies else ():
            own, other = (getattr(item, key) or self.training.epochs for item in (method, paired))
            if own != other:
                raise ValueError(f"{where}.{key}: found {own}, expected {other} as in {name}, step by step")

    def _enough_references(self, where: str, count: int) -> None:
        if count > (most := self.data.references - self.data.held):
            raise ValueError(f"{where}: found {count}, expected at most data.references - data.held = {most}")


def load_study(path: str | Path) -> Study:
    """Read and check a study file.

    Raises:
        InputError: with one line an error: file, line, key path, what was found, what is allowed, the nearest name.
    """
    content, node = load_yaml(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: found {type(content).__name__}, expected a mapping with the keys {list(Study.model_fields)}"
        )
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        found: dict[str, list[str]] = {}
        for keys, what in sentences(Study, error):
            found.setdefault(f"{path}:{line_of(node, keys)}: {'.'.join(map(str, keys)) or 'study'}: ", []).append(what)
        raise InputError("\n".join(f"{where}{', or '.join(what)}" for where, what in found.items())) from None


def json_schema() -> str:
    """The JSON schema that editors use to complete and check a study file."""
    return json.dumps(Study.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Check study files, pin what they take from the hub, or print the JSON schema."""
    parser = argparse.ArgumentParser(prog="python -m profit.study", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("schema", help="print the JSON schema")
    commands.add_parser("check", help="check study files").add_argument("files", nargs="+")
    pinning = commands.add_parser("pin", help="write the commits of models and data sets into study files")
    pinning.add_argument("files", nargs="+")
    pinning.add_argument("--update", action="store_true", help="the newest state of all, pinned ones included")
    arguments = parser.parse_args(argv)
    if arguments.command == "schema":
        print(json_schema(), end="")
        return
    try:
        if arguments.command == "pin":
            from profit.pin import pin

            pin(arguments.files, arguments.update)
            return
        for file in arguments.files:
            study = load_study(file)
            print(f"{file}: {study.name}, {len(study.methods)} methods, {len(study.benchmarks)} benchmarks")
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
