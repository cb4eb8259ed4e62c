"""The block of a study that describes a judge, a large model that labels words.

No command: used by profit.judge and by profit.study, whose `check` reads this block. Imports pydantic alone.
"""

from typing import Any

from pydantic import Field

from profit.endpoint_settings import EndpointSettings

# Core and replaceable are the paper's two labels (core, trivial); the third is asked for with `fixed`.
LABELS = ("core", "replaceable", "fixed")


class Judge(EndpointSettings):
    """The JSON of --judge: whom to ask, at what price (per million tokens, None: unknown), and how patiently."""

    fixed: bool = False  # ask for the third label too; the paper has two
    temperature: float | None = Field(None, ge=0, allow_inf_nan=False)  # None: the endpoint's own
    sample: int | None = Field(None, ge=1)  # number of prompts, None: all
    seed: int = 0

    @property
    def labels(self) -> list[str]:
        """Labels that the judge may give."""
        return list(LABELS[: 3 if self.fixed else 2])

    def record(self) -> dict[str, Any]:
        """The settings for the record: of the address its host alone."""
        return self.model_dump(exclude={"base_url"}) | {"host": self.host}
