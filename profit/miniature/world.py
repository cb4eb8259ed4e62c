"""The settings of a miniature world: what may occur in its problems, how it is worded, what the base reads.

Imports pydantic alone, so that a study file can be checked at once. The default study's values were set on the base
model only, before any method was trained; `workflow/studies/miniature.yaml` records them with the base's figures.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[int, int]

# The keys of profit.miniature.items.ITEM_SETS, which needs numpy: the benchmarks that the miniature makes.
ITEM_SET_NAMES = ("same_length", "longer", "choice", "longest", "format", "validation", "shorter")


# What decides the references and not what a base reads: a base may be asked to learn from several such worlds.
REFERENCE_KEYS = ("reference_steps", "rare_in_references", "wording_lean", "annotators", "habit")


class Strict(BaseModel):
    """A block of settings that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Mixture(Strict):
    """Shares of the kinds of pretraining documents; the rest are chat problems with free answers."""

    plain: Share = 0.1
    choice: Share = 0.15
    format: Share = 0.08


class World(Strict):
    """One miniature world: number range, operations, wordings, and the mixture of its documents."""

    seed: int = 0
    largest: int = Field(99, gt=1, description="no amount on the way exceeds this")
    start: Range = (1, 50)
    amount: Range = (1, 30)
    pretraining_steps: list[Share] = Field(
        [0.24, 0.22, 0.2, 0.18, 0.16], description="share of problems of 1, 2, … steps"
    )
    reference_steps: Range = (1, 3)
    rare_in_pretraining: Share = Field(
        0.002, description="share of steps that double the amount, as the base sees them"
    )
    rare_in_references: Share = Field(0.3, description="the same in references and in the same-length benchmark")
    swapped: Share = Field(0.3, description="share of additions that name the second amount first")
    wording_exponent: float = Field(1.2, ge=0, description="Zipf exponent of the base's wordings: 0 is uniform")
    wording_lean: float = Field(
        0.3, description="weight left to the base's order when annotators word: 1 base, -1 inverse"
    )
    annotators: int = Field(
        4, ge=1, description="each answer is worded by one of so many annotators, each with habits of its own"
    )
    habit: float = Field(0.5, ge=0, description="standard deviation of an annotator's log-preference for each wording")
    mixture: Mixture = Mixture()

    @model_validator(mode="after")
    def _coherent(self) -> "World":
        for name in ("start", "amount", "reference_steps"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"{name}: found ({low}, {high}), expected 1 <= low <= high")
        if self.start[1] > self.largest:
            raise ValueError(f"start: found {self.start[1]}, expected at most largest = {self.largest}")
        if abs(sum(self.pretraining_steps) - 1) > 1e-6:
            raise ValueError(f"pretraining_steps: shares sum to {sum(self.pretraining_steps):.4f}, expected 1")
        if sum(self.mixture.model_dump().values()) > 1:
            raise ValueError("mixture: shares sum to more than 1")
        return self


class Pretraining(Strict):
    """Architecture and training of the miniature's base model."""

    seed: int = 0
    steps: int = Field(1400, ge=1)
    documents_per_step: int = Field(48, ge=1)
    learning_rate: float = Field(5e-3, gt=0, description="AdamW, for the embedding and the norms")
    matrix_learning_rate: float = Field(0.02, gt=0, description="Muon, for the matrices")
    weight_decay: float = Field(0.01, ge=0)
    warmup: Share = Field(0.05, description="share of the steps that raises the rates")
    decay: Share = Field(0.4, description="share of the steps that lowers them to zero")
    checkpoints: int = Field(4, ge=0, description="how often the state is saved on the way")
    layers: int = Field(3, ge=1)
    hidden: int = Field(128, ge=8)
    intermediate: int = Field(344, ge=8)
    heads: int = Field(4, ge=1)
    kv_heads: int = Field(2, ge=1)
    context: int = Field(256, ge=16)
