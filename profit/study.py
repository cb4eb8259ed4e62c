"""The schema of a study: one YAML file with models, data, methods, sweeps, benchmarks and analysis.

Everything is typed and an unknown key is an error, so that a typing mistake stops before any job starts. A missing key
takes the default written here and in `profit.methods`. `profit.runs` expands the methods and sweeps.

    python -m profit.study check workflow/studies/miniature.yaml
    python -m profit.study schema > workflow/studies/study.schema.json
"""

import argparse
import difflib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from profit.files import InputError
from profit.methods import Count, Lora, Method, Name, Positive, Seed, Seeds, Some, Training
from profit.miniature.world import ITEM_SET_NAMES, Pretraining, Share, Strict, World
from profit.settings import conflict
from profit.strict_yaml import line_of, load_yaml

TASKS = Path(__file__).resolve().parent.parent / "workflow" / "benchmarks"


class Model(Strict):
    """A base model; `miniature` is pretrained by the study itself."""

    source: Literal["miniature"] = "miniature"
    pretraining: Pretraining = Pretraining()


class Data(Strict):
    """The references: `prompts` problems with `references` answers each, of which `held` are never trained on."""

    prompts: Count = 300
    references: Count = 8
    held: Annotated[int, Field(ge=0)] = 3
    careful: Annotated[int, Field(ge=0)] = Field(1000, description="fresh prompts, answered in the base's own wording")

    @model_validator(mode="after")
    def _some_are_trained(self) -> "Data":
        if self.held >= self.references:
            raise ValueError(f"held: found {self.held}, expected less than references = {self.references}")
        return self


class ThresholdSweep(Strict):
    """Each method at each tau."""

    methods: Some[Name]
    tau: Some[Share]
    seeds: Seeds = 1


class RankSweep(Strict):
    """Each method tuned by LoRA of each rank."""

    methods: Some[Name]
    rank: Some[Count]
    seeds: Seeds = 1


class EpochSweep(Strict):
    """One run a method and seed of so many epochs, each epoch's checkpoint evaluated."""

    methods: Some[Name]
    epochs: Count
    seeds: Seeds = 1


class OverfittingSweep(Strict):
    """One method on more and more references a prompt, at equal steps and at equal epochs."""

    method: Name
    references: Some[Count]
    budgets: Some[Literal["steps", "epochs"]] = ["steps", "epochs"]
    seeds: Seeds = 3


class Sweeps(Strict):
    """Descriptive sweeps; a sweep that is left out is not run and its figure not drawn."""

    threshold: ThresholdSweep | None = None
    lora_rank: RankSweep | None = None
    epochs: EpochSweep | None = None
    overfitting: OverfittingSweep | None = None


class Benchmark(Strict):
    """An lm-eval task of workflow/benchmarks with its problems and limits."""

    task: Name
    questions: Count = 100
    samples: Count = Field(2, description="answers a question; accuracy is their mean")
    max_new_tokens: Count
    tight_tokens: Count = Field(description="a second limit: correct answers within it count for accuracy_tight")
    chance: Share = 0.0
    paper: str | None = Field(None, description="benchmark of the paper in whose place it stands")

    @model_validator(mode="after")
    def _task_exists(self) -> "Benchmark":
        tasks = sorted(path.stem for path in TASKS.glob("[!_]*.yaml"))
        if self.task not in tasks:
            raise ValueError(f"task: {unknown(self.task, tasks)}")
        return self


class Tune(Strict):
    """Choice of the learning rate (target `tune`): best mean accuracy on validation problems, at seeds of its own."""

    method: Name = "sft"
    learning_rates: Some[Positive]
    seeds: Some[Seed]
    validation: Benchmark


class WorldCheck(Strict):
    """SFT on the careful answers: what it gains over the base is what there is to learn in this world."""

    learning_rate: Positive = 3e-4
    epochs: Count = 1
    seeds: Seeds = 3


class Decoding(Strict):
    """Sampling of answers, the paper's by default; the batch size decides speed and memory alone."""

    temperature: Positive = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.8
    top_k: Count = 20
    batch_size: Count = 100


class Analysis(Strict):
    """Correlation of probability with importance."""

    annotators: Some[Literal["truth", "agreement"]] = ["truth", "agreement"]
    taus: Some[Share] = [0.1, 0.3, 0.5, 0.7, 0.9]
    resamples: Count = Field(999_999, description="of prompts, for the permutation test")
    bootstrap: Count = Field(2000, description="of prompts, for intervals")
    seed: int = 0


class Study(Strict):
    """A whole study."""

    name: Name
    models: dict[Name, Model] = Field(min_length=1)
    world: World = World()
    data: Data = Data()
    training: Training = Training()
    lora: Lora = Lora()
    methods: dict[Name, Method] = Field(min_length=1)
    sweeps: Sweeps = Sweeps()
    world_check: WorldCheck | None = None
    tune: Tune | None = None
    benchmarks: dict[Literal[ITEM_SET_NAMES], Benchmark] = Field(min_length=1)
    decoding: Decoding = Decoding()
    analysis: Analysis = Analysis()

    @model_validator(mode="after")
    def _methods_fit(self) -> "Study":
        if self.name in ("reference", "published"):
            raise ValueError(f"name: found {self.name!r}, expected another: that folder of results is shipped")
        for name, method in self.methods.items():
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
                for tau in self.sweeps.threshold.tau if name == "threshold" else ():
                    if wrong := conflict(found.objective, found.settings | {"tau": tau}):
                        raise ValueError(f"sweeps.threshold.{': '.join(wrong)} ({method})")
        if sweep := self.sweeps.overfitting:
            self._lone_method("sweeps.overfitting.method", sweep.method)
            for count in sweep.references:
                self._enough_references("sweeps.overfitting.references", count)
            if "same_length" not in self.benchmarks:
                raise ValueError("sweeps.overfitting: found no benchmark same_length, on which it measures diversity")
        return self

    @model_validator(mode="after")
    def _tune_fits(self) -> "Study":
        if not self.tune:
            return self
        self._lone_method("tune.method", self.tune.method)
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
        # A random mask copies the pair's steps; excess reads its scores alone.
        for key in ("epochs", "references", "budget") if method.objective == "random" else ():
            own, other = (getattr(item, key) or self.training.epochs for item in (method, paired))
            if own != other:
                raise ValueError(f"{where}.{key}: found {own}, expected {other} as in {name}, step by step")

    def _enough_references(self, where: str, count: int) -> None:
        if count > (most := self.data.references - self.data.held):
            raise ValueError(f"{where}: found {count}, expected at most data.references - data.held = {most}")


def seed_list(seeds: int | list[int]) -> list[int]:
    """The seeds themselves: 5 means 0 to 4."""
    return list(range(seeds)) if isinstance(seeds, int) else seeds


def load_study(path: str | Path) -> Study:
    """Read and check a study file.

    Raises:
        InputError: with one line an error: file, line, key path, what was found, what is allowed, the nearest name.
    """
    content, node = load_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__}, expected a mapping with the keys {_keys(Study)}")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        sentences: dict[str, list[str]] = {}
        for item in error.errors():
            where, what = _sentence(path, node, item)
            sentences.setdefault(where, []).append(what)
        raise InputError("\n".join(f"{where}: {', or '.join(what)}" for where, what in sentences.items())) from None


def unknown(found: Any, allowed: Any) -> str:
    """A sentence that names what was found, the nearest allowed name, and all allowed names."""
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(found), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"found {str(found)!r}, expected one of {', '.join(names)}{hint}"


def _sentence(path: str | Path, node: yaml.Node, error: Any) -> tuple[str, str]:
    """One pydantic error as ("file:line: key.path", "found …, expected …")."""
    keys = tuple(key for key in error["loc"] if key != "[key]" and not str(key).startswith(("list[", "constrained")))
    what = error["msg"].removeprefix("Value error, ")
    kind = error["type"]
    if kind == "value_error":
        inner, _, rest = what.partition(": ")
        keys, what = (*keys, *inner.split(".")), rest
    elif kind == "extra_forbidden":
        what = unknown(keys[-1], _keys(_schema_at(keys[:-1])))
        keys = keys[:-1]
    elif kind == "literal_error":
        what = unknown(
            error["input"], [part.strip("' ") for part in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        )
    elif kind == "missing":
        what = f"not found, expected among the keys {_keys(_schema_at(keys[:-1]))}"
    else:
        what = f"found {error['input']!r}, expected: {what[0].lower()}{what[1:]}"
    return f"{path}:{line_of(node, keys)}: {'.'.join(str(key) for key in keys) or 'study'}", what


def _keys(schema: Any) -> list[str]:
    return list(schema.model_fields) if schema is not None else []


def _schema_at(keys: tuple[Any, ...]) -> type[BaseModel] | None:
    """The block of the schema that the key path leads to."""
    schema: Any = Study
    for key in keys:
        schema = schema.model_fields[key].annotation if _is_block(schema) else get_args(schema)[-1]
        if not _is_block(schema) and get_origin(schema) is not dict:
            schema = next((part for part in get_args(schema) if _is_block(part)), schema)
    return schema if _is_block(schema) else None


def _is_block(schema: Any) -> bool:
    return isinstance(schema, type) and issubclass(schema, BaseModel)


def json_schema() -> str:
    """The JSON schema that editors use to complete and check a study file."""
    return json.dumps(Study.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Check study files, or print the JSON schema."""
    parser = argparse.ArgumentParser(prog="python -m profit.study", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("schema", help="print the JSON schema")
    commands.add_parser("check", help="check study files").add_argument("files", nargs="+")
    arguments = parser.parse_args(argv)
    if arguments.command == "schema":
        print(json_schema(), end="")
        return
    try:
        for file in arguments.files:
            study = load_study(file)
            print(f"{file}: {study.name}, {len(study.methods)} methods, {len(study.benchmarks)} benchmarks")
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
