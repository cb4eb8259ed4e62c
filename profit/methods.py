"""The blocks of a study that say how a model is trained: training, LoRA, and the methods compared.

A method is an objective with its settings, a number of references and a kind of tuning. What the settings mean and may
be stands in `profit.settings` alone; the fields here are made from it.

No command: used by profit.study, whose `check` reads these blocks.
"""

import math
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints, create_model, model_validator

from profit.miniature.world import Share, Strict
from profit.settings import OBJECTIVE_SETTINGS, SETTINGS, Setting, conflict, copies_steps

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.]*$")]
# Models are called what the paper calls them: Qwen3-0.6B-Base.
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Part = Annotated[float, Field(gt=0, le=1)]
Item = TypeVar("Item")
Some = Annotated[list[Item], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0)]
Seeds = Count | Some[Seed]


class Training(Strict):
    """Optimisation, the same for every method unless its block says otherwise."""

    epochs: Count = 3
    batch_size: Count = 16
    micro_batch_size: Count = 16
    learning_rate: Positive = 1e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = Field(0.1, description="share of the steps")
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    max_length: Count = Field(256, description="tokens of prompt and answer; a longer answer is cut, said and counted")
    train_end: bool = Field(
        True, description="train the end token of an answer; without it no answer ends but by what the base knows"
    )
    neftune: NotNegative = Field(
        0.0, description="noise alpha / sqrt(length x width) on embeddings, arXiv 2310.05914; 0: none"
    )

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> "Training":
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size: found {self.micro_batch_size}, expected a divisor of {self.batch_size}"
            )
        return self


class Lora(Strict):
    """LoRA tuning: alpha = rank x alpha_per_rank."""

    learning_rate: Positive = 1e-3
    alpha_per_rank: Positive = 2
    target_modules: str | Some[str] = "all-linear"


class _Objective(Strict):
    label: str | None = Field(None, description="how figures and tables call it; default: its name")
    objective: Literal[tuple(OBJECTIVE_SETTINGS)]


def _kind(setting: Setting) -> Any:
    """The type of a setting that a study may leave out."""
    if setting.choices:
        return Literal[setting.choices] | None
    low = {"gt" if setting.open_low else "ge": setting.low}
    high = {"lt" if setting.open_high else "le": setting.high} if math.isfinite(setting.high) else {}
    return Annotated[float, Field(**low, **high, allow_inf_nan=False)] | None


def _description(name: str) -> str:
    """What a setting means, and the default of each objective that has it."""
    found = {key: settings[name] for key, settings in OBJECTIVE_SETTINGS.items() if name in settings}
    defaults = {key: "that of the pair" if value is None else value for key, value in found.items()}
    return f"{SETTINGS[name].meaning}; default: {', '.join(f'{text} ({key})' for key, text in defaults.items())}"


_Settings = create_model(
    "_Settings",
    __base__=_Objective,
    **{name: (_kind(setting), Field(None, description=_description(name))) for name, setting in SETTINGS.items()},
)


class Method(_Settings):
    """One objective with its settings, number of references and kind of tuning; `none` leaves the base as it is."""

    normaliser: Literal["all", "kept"] | None = Field(None, description="tokens the loss is divided by; default: all")
    references: Count = Field(1, description="trained references a prompt (K)")
    budget: Literal["epochs", "steps"] = Field("epochs", description="steps: as many steps as one reference gets")
    rank: Count | None = Field(None, description="LoRA rank; default: full fine-tuning")
    learning_rate: Positive | None = Field(None, description="default: that of training, or of lora with a rank")
    epochs: Count | None = Field(None, description="default: that of training")
    neftune: NotNegative | None = Field(None, description="default: that of training")
    paired_with: Name | None = Field(
        None,
        description="method whose kept share a step is copied (random), whose scores are the reference (excess), or "
        "whose updates are matched (match)",
    )
    match: Literal["update_norm"] | None = Field(
        None, description="bring each step's change of the parameters to the L2 norm of the paired run's in that step"
    )
    stop: Part = Field(1.0, description="share of the planned steps to train, at the learning rates planned for all")
    mix: Part = Field(1.0, description="write base + mix x (trained - base) in place of the trained weights")
    update_norm: bool = Field(
        False, description="log the norm of each update also where 50 million parameters or more are trained"
    )
    seeds: Seeds = 5
    models: Some[ModelName] | None = Field(None, description="default: all")

    @model_validator(mode="after")
    def _settings_of_the_objective(self) -> "Method":
        for key in sorted(SETTINGS):
            if getattr(self, key) is not None and key not in OBJECTIVE_SETTINGS[self.objective]:
                raise ValueError(f"{key}: found {getattr(self, key)!r}, expected no such key with {self.objective}")
        settings = self.settings
        if self.tau_high is not None and "tau_high" not in settings:
            raise ValueError(
                f"tau_high: found {self.tau_high}, expected no such key with direction {settings['direction']}"
            )
        if wrong := conflict(self.objective, settings):
            raise ValueError(": ".join(wrong))
        objective = {"name": self.objective, "share": self.share}
        pairs = self.objective == "excess" or copies_steps({"objective": objective, "match": self.match})
        if pairs != (self.paired_with is not None):
            raise ValueError(
                f"paired_with: found {self.paired_with!r}, expected a method with random (unless it states a share), "
                "with excess and with match, else no such key"
            )
        for key in ("match", "stop", "mix", "update_norm") if self.objective == "none" else ():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: found {getattr(self, key)!r}, expected no such key with none")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of its objective, defaults filled, less an upper threshold that its direction does not read."""
        defaults = OBJECTIVE_SETTINGS[self.objective]
        own = {key: getattr(self, key) for key in defaults}
        filled = {key: defaults[key] if value is None else value for key, value in own.items()}
        if filled.get("direction") != "middle":
            filled.pop("tau_high", None)
        return filled


def seed_list(seeds: int | list[int]) -> list[int]:
    """The seeds themselves: 5 means 0 to 4."""
    return list(range(seeds)) if isinstance(seeds, int) else seeds
