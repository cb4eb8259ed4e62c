"""The optimizer of the base model: Muon for matrices, AdamW for the embedding and the norms, behind one interface.

Muon (Jordan et al. 2024; torch.optim.Muon) halves the tokens the miniature's base needs, and takes matrices alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers that a Trainer drives as one; learning-rate schedules scale both alike."""

    def __init__(self, model: nn.Module, matrix_rate: float, rate: float, weight_decay: float) -> None:
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
        rest = [p for p in model.parameters() if p.ndim != 2 or id(p) in embeddings]
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=weight_decay),
            torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        )
        super().__init__([{"params": [*matrices, *rest]}], {})
        self._share_groups()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()

    def _share_groups(self) -> None:
        # The same dictionaries, so that a schedule that writes group["lr"] reaches the part that reads it.
        self.param_groups = [group for part in self.parts for group in part.param_groups]
