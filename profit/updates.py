"""Size of the parameter updates of a run, step by step, and updates brought to the size of another run's.

The size of step t is the L2 norm of theta_{t+1} - theta_t over the trained parameters. AdamW divides a gradient by a
running mean of its own size, so equal gradient norms hardly make equal updates. A run that matches its paired run
keeps the direction of its own updates and takes the size of the other's:

    theta_{t+1} = theta_t + (size in the paired run / size here) (theta' - theta_t), theta' as the optimizer left it

The state of the optimizer stays its own.

No command: used by `profit.train`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from profit import processes
from profit.files import InputError

MOST_MEASURED = 50_000_000  # trained parameters; of more, the copy that measuring needs is made on request alone


class Updates(TrainerCallback):
    """Measures each update of a training as `norm`; where there are `norms`, one a step, it is first brought to them.

    A copy of the trained parameters is held while the optimizer steps; with FSDP, of the part of each process.
    """

    def __init__(self, norms: Sequence[float] | None = None) -> None:
        self.norms, self.norm = norms, math.nan
        self._before: list[Tensor] = []

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: torch.nn.Module, **_: Any
    ) -> None:
        """Called by the Trainer after the gradients are clipped."""
        self._before = [part.clone() for part in trained_parts(model)]

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: torch.nn.Module, **_: Any
    ) -> None:
        """Called by the Trainer; InputError if an update of nothing is to be brought to some size."""
        before, self._before = self._before, []
        after = trained_parts(model)
        self.norm = self._distance(model, before, after)
        if self.norms is None:
            return
        wanted = self.norms[state.global_step]
        if wanted and not self.norm:
            raise InputError(
                f"step {state.global_step + 1}: found an update of norm 0, expected one to bring to {wanted:g}, the "
                "norm of the paired run's"
            )
        for old, new in zip(before, after, strict=True):
            new.copy_(torch.lerp(old, new, wanted / self.norm if wanted else 0.0))
        self.norm = self._distance(model, before, after)

    @staticmethod
    def _distance(model: torch.nn.Module, before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
        changes = (new - old for old, new in zip(before, after, strict=True))
        square = float(sum(torch.linalg.vector_norm(change, dtype=torch.float64) ** 2 for change in changes))
        spread = any(isinstance(parameter, DTensor) for parameter in model.parameters())
        return math.sqrt(processes.total(square) if spread else square)


def trained_parts(model: torch.nn.Module) -> list[Tensor]:
    """The trained parameters, detached, of which FSDP2 leaves each process its own part."""
    found = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
    return [parameter.to_local() if isinstance(parameter, DTensor) else parameter for parameter in found]
