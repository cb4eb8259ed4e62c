"""The settings of every command that asks a model behind an endpoint: whom, at what price, and how patiently.

No command: used by profit.judge_settings and profit.respond. Imports pydantic alone, since a study file is checked
with it; a key is never among the settings, only the name of the environment variable that holds it. Where someone
writes one all the same, no error may repeat it: what could hold a secret is checked here, since pydantic's own errors
carry the value.
"""

import re
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

VARIABLE = "^[A-Z_][A-Z0-9_]*$"


class EndpointSettings(BaseModel):
    """Whom to ask, at what price (per million tokens, None: unknown), and how patiently."""

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
    repairs: int = Field(2, ge=0)  # how often a reply that cannot be used is asked for again
    failures: float = Field(0.02, ge=0, le=1)  # largest share of answers that may be missing in the end

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, content: Any) -> Any:
        if not isinstance(content, dict | cls):
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
    def _priced(self) -> Self:
        if self.budget is not None and None in (self.prompt_price, self.answer_price):
            raise ValueError("budget: found one without prompt_price and answer_price, expected both with it")
        return self

    @property
    def host(self) -> str:
        """Host of the address, without path or port."""
        return urlsplit(self.base_url).hostname or ""

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float | None:
        """Price of so many tokens, None if unknown."""
        if self.prompt_price is None or self.answer_price is None:
            return None
        return (prompt_tokens * self.prompt_price + answer_tokens * self.answer_price) / 1e6
