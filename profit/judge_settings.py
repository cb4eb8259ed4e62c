"""The block of a study that describes a judge, a large model that labels words: whom to ask, and how patiently.

No command: used by profit.judge and by profit.study, whose `check` reads this block. Imports pydantic alone; a key is
never among the settings, only the name of the environment variable that holds it. Where someone writes one all the
same, no error may repeat it: what could hold a secret is checked here, since pydantic's own errors carry the value.
"""

import re
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# Core and replaceable are the paper's two labels (core, trivial); the third is asked for with `fixed`.
LABELS = ("core", "replaceable", "fixed")
VARIABLE = "^[A-Z_][A-Z0-9_]*$"


class Judge(BaseModel):
    """The JSON of --judge: whom to ask, at what price (per million tokens, None: unknown), and how patiently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str = Field(min_length=1)
    base_url: str
    key_variable: str = Field("OPENAI_API_KEY", json_schema_extra={"pattern": VARIABLE})
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

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, content: Any) -> Any:
        if not isinstance(content, dict | Judge):
            raise ValueError(f"found {type(content).__name__}, expected a mapping with keys of {[*cls.model_fields]}")
        return content

    @field_validator("base_url", mode="before")
    @classmethod
    def _plain_address(cls, value: Any) -> str:
        try:
            parts = urlsplit(value if isinstance(value, str) else "")
            plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            plain = plain and "@" not in parts.netloc and not parts.query
        except ValueError:  # a port that is no number, half an IPv6 address
            plain = False
        if not plain:
            expected = "http(s)://host[:port]/path without user, password or query"
            raise ValueError(f"found something else (not repeated here: it may hold a secret), expected {expected}")
        return value

    @field_validator("key_variable", mode="before")
    @classmethod
    def _name_of_a_variable(cls, value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(VARIABLE, value):
            expected = "the name of an environment variable in capitals, which holds the key"
            raise ValueError(f"found something else (not repeated here: it may be the key), expected {expected}")
        return value

    @model_validator(mode="after")
    def _priced(self) -> "Judge":
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
