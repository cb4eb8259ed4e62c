"""The step log of a run: one row an optimizer step, as JSON lines while it runs and Parquet when it ends.

A row is flushed before the next step begins. A run that resumes cuts the log back to its checkpoint's step, so that
each step stands in it once whatever was killed when.

No command: written by `profit.train`; of the run that it is paired with, a random mask reads the column `kept`, and a
run that matches updates the column `update_norm`.
"""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd

from profit.files import InputError, read_parquet

# loss: mean cross-entropy of all target tokens, whatever their weights; objective_loss: what is minimised; kept…:
# share of the tokens (of a label; none where no token of the step has it) with a weight above zero; near_tau: tokens
# within 5 % of tau; grad_norm: unclipped; update_norm: L2 norm of the change of the trained parameters, none
# where many millions are trained and nobody asked for it.
COLUMNS = (
    "step", "epoch", "loss", "objective_loss", "kept", "kept_core", "kept_replaceable", "kept_fixed", "kept_end",
    "weight_mean", "near_tau", "grad_norm", "clipped", "update_norm", "learning_rate", "tokens", "tokens_per_second",
)  # fmt: skip


class StepLog:
    """JSON lines at `path`; `rows` are those in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    self.rows.append(json.loads(line))
                except json.JSONDecodeError:
                    break  # the line that the process was writing when it was killed

    def append(self, row: dict[str, Any]) -> None:
        """Add the row of the next step; a key for each of COLUMNS."""
        self.rows.append({name: row[name] for name in COLUMNS})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")

    def cut(self, step: int) -> None:
        """Forget what comes after `step`."""
        self.rows = self.rows[:step]
        temporary = self.path.with_suffix(".part")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        os.replace(temporary, self.path)

    def frame(self) -> pd.DataFrame:
        """The log as a table with the columns COLUMNS; near_tau is null for an objective without tau."""
        frame = pd.DataFrame(self.rows, columns=list(COLUMNS))
        kinds = dict.fromkeys(COLUMNS, "float64") | {"step": "int64", "tokens": "int64", "clipped": "bool"}
        return frame.astype(kinds | {"near_tau": "Int64"})


def paired_column(path: str | Path, column: str, steps: int) -> list[float]:
    """A column of the paired run's steps.parquet, such as the share of target tokens that it kept in each step.

    Raises:
        InputError: missing or damaged file, steps other than 1 … `steps`, or a step without a number there.
    """
    frame = read_parquet(path, ["step", column])
    if frame["step"].tolist() != list(range(1, steps + 1)):
        raise InputError(f"{path}: found {len(frame)} steps, expected the {steps} of the run paired with it")
    if frame[column].isna().any():
        raise InputError(f"{path}, column {column}: found steps without a number, expected the paired run to log it")
    return frame[column].tolist()
