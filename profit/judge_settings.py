"""The block of a study that describes a judge, a large model that labels words: whom to ask, and how patiently.

No command: used by profit.judge and by profit.study, whose `check` reads this block. Imports pydantic alone; a key is
never among the settings, only the name of the environment variable that holds it.
"""

from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# Core and replaceable are the paper's two labels (core, trivial); the third is asked for with `fixed`.
LABELS = ("core", "replaceable", "fixed")


class Judge(BaseModel):
    """The JSON of --judge: whom to ask, at what price (per million tokens, None: unknown), and how patiently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str = Field(min_length=1)
    base_url: str
    key_variable: str = Field("OPENAI_API_KEY", pattern="^[A-Z_][A-Z0-9_]*$")
    prompt_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    answer_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    budget: float | None = Field(None, ge=0, allow_inf_nan=False)
    concurrency: int = Field(4, ge=1, le=256)
    timeout: float = Field(60.0, gt=0, allow_inf_nan=False)
    retries: int = Field(5, ge=0)
    backoff: float = Field(1.0, ge=0, allow_inf_nan=False)  # seconds before the first retry
    repairs: int = Field(2, ge=0)  # how often a bad reply is asked for again
    failures: float = Field(0.02, ge=0, le=1)  # largest share of answers without labels
    fixed: bool = False  # ask for the third label too; the paper has two
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)  # None: the endpoint's own
    sample: int | None = Field(None, ge=1)  # number of prompts, None: all
    seed: int = 0

    @field_validator("base_url")
    @classmethod
    def plain_address(cls, value: str) -> str:
        """Refuse what is no address, or may hold a secret."""
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            raise ValueError("expected http(s)://host[:port]/path without user, password or query")
        return value

    @model_validator(mode="after")
    def priced(self) -> "Judge":
        """A budget needs prices."""
        if self.budget is not None and None in (self.prompt_price, self.answer_price):
            raise ValueError("budget: found one without prompt_price and answer_price, expected both with it")
        return self

    @property
    def labels(self) -> list[str]:
        """Labels that the judge may give."""
        return list(LABELS[: 3 if self.fixed else 2])

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float | None:
        """Price of so many tokens, None if unknown."""
        if self.prompt_price is None or self.answer_price is None:
            return None
        return (prompt_tokens * self.prompt_price + answer_tokens * self.answer_price) / 1e6

    def record(self) -> dict[str, Any]:
        """The settings for the record: of the address its host alone."""
        return self.model_dump(exclude={"base_url"}) | {"host": urlsplit(self.base_url).hostname}
