"""The blocks of a study that say what is answered and how it is looked at: references, benchmarks, tables, analysis.

No command: used by profit.study, whose `check` reads these blocks. Imports nothing heavy.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from profit.judge_settings import Judge
from profit.methods import Count, ModelName, Name, Positive, Seed, Some
from profit.miniature.world import Share, Strict
from profit.protocol import BENCHMARKS
from profit.shapes import Collected, References, Source
from profit.validation import unknown

TASKS = Path(__file__).resolve().parent.parent / "workflow" / "benchmarks"


class Generated(References):
    """References of a miniature: `prompts` problems with `references` answers each, those of the world's check, and
    those of unseen prompts."""

    prompts: Count = 300
    references: Count = 8
    held: Annotated[int, Field(ge=0)] = 3
    careful: Annotated[int, Field(ge=0)] = Field(1000, description="fresh prompts, answered in the base's own wording")
    unseen: Annotated[int, Field(ge=0)] = Field(
        0,
        description="prompts that no method trains on, with `held` references each, which analysis.account counts too",
    )

    @model_validator(mode="after")
    def _unseen_are_answered(self) -> "Generated":
        if self.unseen and not self.held:
            raise ValueError(f"unseen: found {self.unseen} with held = 0, expected references to answer them")
        return self


class Benchmark(Strict):
    """An lm-eval task of workflow/benchmarks with its problems and limits."""

    task: Name
    questions: Count = Field(100, description="made by the world, or expected of the source")
    samples: Count = Field(2, description="answers a question; accuracy is their mean")
    max_new_tokens: Count
    tight_tokens: Count | None = Field(
        None, description="a second limit: correct answers within it count for accuracy_tight; default: the first"
    )
    paper: str | None = Field(None, description="benchmark of the paper in whose place it stands")
    source: Source | None = Field(None, description="real problems: a data set of the hub, or local files")
    protocol: Literal[tuple(BENCHMARKS)] | None = Field(None, description="default: the benchmark's name")
    options: dict[str, Any] = Field({}, description="of the protocol; profit/protocol.py lists them")

    @model_validator(mode="after")
    def _task_exists(self) -> "Benchmark":
        tasks = sorted(path.stem for path in TASKS.glob("[!_]*.yaml"))
        if self.task not in tasks:
            raise ValueError(f"task: {unknown(self.task, tasks)}")
        return self

    @property
    def tight(self) -> int:
        """The second limit."""
        return min(self.tight_tokens or self.max_new_tokens, self.max_new_tokens)


class Table(Strict):
    """A table of results: its average is that of these benchmarks, which its models are asked."""

    models: Some[ModelName] | None = Field(None, description="default: all")
    benchmarks: Some[Name] | None = Field(None, description="default: all")


class Tune(Strict):
    """Choice of learning rates (target `tune`): best mean accuracy on validation problems, at seeds of its own."""

    methods: Some[Name] = Field(["sft"], description="the first decides the learning rate of the study")
    learning_rates: Some[Positive]
    seeds: Some[Seed]
    models: Some[ModelName] | None = Field(None, description="default: all")
    validation: Benchmark


class Gradients(Strict):
    """Theorem 1 on each base: so many prompts make the batch, so many of its tokens are checked one by one."""

    prompts: Count = 64
    tokens: Annotated[int, Field(ge=2)] = 60
    exact: int = Field(3, ge=0, description="of them with the smallest singular value itself; 0 for a large model")


class Timing(Strict):
    """Seconds of an optimizer step of several methods, trained step by step in turn on each base (profit.timing)."""

    methods: Annotated[list[Name], Field(min_length=2)]
    seeds: Annotated[int, Field(ge=2)] = 10
    steps: Annotated[int, Field(ge=2)] = Field(21, description="of each training; the first is not counted")


class Analysis(Strict):
    """Correlation of probability with importance, and what training did to the tokens of held references."""

    annotators: list[Literal["truth", "agreement", "llm"]] = Field(
        ["truth", "agreement"], description="truth: of a miniature alone; agreement: of at least two references"
    )
    judge: Judge | None = Field(None, description="of annotator llm")
    gradients: Gradients | None = Field(None, description="default: not measured")
    account: list[Name] = Field([], description="methods whose change of every reference token is accounted for")
    drift: list[Name] = Field([], description="methods whose divergence from the base is measured")
    answer_style: list[Name] = Field([], description="methods whose sampled answers are described, the base included")
    timing: Timing | None = Field(None, description="default: not measured, and costs are those of whole runs")
    taus: Some[Share] = [0.1, 0.3, 0.5, 0.7, 0.9]
    resamples: Count = Field(999_999, description="of prompts, for the permutation test")
    bootstrap: Count = Field(2000, description="of prompts, for intervals")
    seed: int = 0


def data_class(content: Any) -> type[Strict]:
    """Which kind of references some content describes."""
    return Collected if isinstance(content, dict) and "sources" in content else Generated
