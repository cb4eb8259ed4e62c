"""The blocks of a study that make runs beside its main methods: descriptive sweeps, and the check of a world.

No command: used by profit.study, whose `check` reads these blocks; `profit.runs` expands them.
"""

from typing import Literal

from pydantic import Field

from profit.methods import Count, ModelName, Name, Positive, Seeds, Some
from profit.miniature.world import Share, Strict


class ThresholdSweep(Strict):
    """Each method at each tau."""

    methods: Some[Name]
    tau: Some[Share]
    seeds: Seeds = 1
    models: Some[ModelName] | None = Field(None, description="default: all")


class RankSweep(Strict):
    """Each method tuned by LoRA of each rank."""

    methods: Some[Name]
    rank: Some[Count]
    seeds: Seeds = 1
    models: Some[ModelName] | None = Field(None, description="default: all")


class EpochSweep(Strict):
    """One run a method and seed of so many epochs, each epoch's checkpoint evaluated."""

    methods: Some[Name]
    epochs: Count
    tau: Some[Share] | None = Field(None, description="of the methods that have one; default: their own")
    seeds: Seeds = 1
    models: Some[ModelName] | None = Field(None, description="default: all")


class OverfittingSweep(Strict):
    """One method on more and more references a prompt, at equal steps and at equal epochs, each with its own schedule.

    `longer` is their control: one reference for as many steps as several take at equal epochs.
    """

    method: Name
    references: Some[Count]
    budgets: Some[Literal["steps", "epochs", "longer"]] = ["steps", "epochs"]
    benchmark: Name = Field("same_length", description="the diversity of whose answers is measured")
    seeds: Seeds = 3
    models: Some[ModelName] | None = Field(None, description="default: all")


class LearningRateSweep(Strict):
    """Each method of `tune` at each of its learning rates, asked the benchmarks: each method at its own best."""

    seeds: Seeds = 1
    models: Some[ModelName] | None = Field(None, description="default: those of tune")


class Sweeps(Strict):
    """Sweeps; a sweep that is left out is not run and its figure not drawn."""

    threshold: ThresholdSweep | None = None
    lora_rank: RankSweep | None = None
    epochs: EpochSweep | None = None
    overfitting: OverfittingSweep | None = None
    learning_rate: LearningRateSweep | None = None


class WorldCheck(Strict):
    """SFT on the careful answers: what it gains over the base is what there is to learn in this world."""

    learning_rate: Positive = 3e-4
    epochs: Count = 1
    seeds: Seeds = 3
