"""The target tokens of an optimizer step: which they are, and weights that depend on all of them.

A step may come in several micro-batches and on several processes. An objective that compares all its tokens (entropy
share, excess loss, random mask) and the normaliser `kept` look at the step as a whole: what is known of its tokens is
put together in one order, by micro-batch, process, sequence and position, and every process computes the same weights
from it. Random draws are keyed by what a token is, never by where it was computed.

No command: used by `profit.trainer`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from profit.draws import token_draws
from profit.logits import IGNORED
from profit.objectives import TokenStatistics, token_terms


@dataclass(frozen=True)
class Targets:
    """The target tokens of a batch: `targets` (batch, length - 1), those of the states before them, -100 for none; and
    for each of the n target tokens, row by row, its sequence (0, 1, … in order), position among the targets of its
    sequence, and example: what identifies it in the data set, the sequence where the batch does not say. int64 (n,).
    """

    targets: Tensor
    sequence: Tensor
    position: Tensor
    example: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Tensor]) -> "Targets":
        """Of `labels` (batch, length), `attention_mask` (batch, length) if there is one, `position_ids` where several
        sequences share a row, and `example` (batch,).

        The first token of a sequence is no target: nothing that belongs to it stands before it.

        Raises:
            ValueError: no labels, or some that are no batch of rows.
        """
        if "labels" not in batch:
            raise ValueError(f"labels: found a batch with the columns {sorted(batch)}, expected also labels")
        labels = batch["labels"]
        if labels.dim() != 2:
            raise ValueError(f"labels: found shape {tuple(labels.shape)}, expected (batch, length)")
        starts = torch.zeros_like(labels, dtype=torch.bool)
        starts[:, 0] = True
        if batch.get("position_ids") is not None:
            starts |= batch["position_ids"] == 0
        mask = batch.get("attention_mask")
        if mask is not None and mask.shape == labels.shape:
            starts[:, 1:] |= mask[:, :-1] == 0
        targets = labels[:, 1:].masked_fill(starts[:, 1:], IGNORED)
        chosen = targets != IGNORED
        number = starts.flatten().cumsum(0).view_as(starts)[:, 1:][chosen]
        _, sequence, counts = torch.unique_consecutive(number, return_inverse=True, return_counts=True)
        position = torch.arange(len(sequence), device=labels.device) - (counts.cumsum(0) - counts)[sequence]
        example = sequence
        if "example" in batch:
            example = batch["example"][:, None].expand_as(targets)[chosen]
        return cls(targets, sequence, position, example)

    def __len__(self) -> int:
        return len(self.sequence)

    def draws(self, seed: int, step: int) -> Tensor:
        """A random number for each target token, float64 (n,); arguments as of profit.draws.token_draws."""
        return token_draws(seed, step, self.example, self.position)


def weigh_step(
    objective: dict[str, Any],
    pieces: list[tuple[Targets, dict[str, Tensor]]],
    share: float | None,
    seed: int,
    step: int,
    gather: Callable[[Tensor], list[Tensor]],
    process: int,
) -> tuple[list[Tensor], int]:
    """Weights of the target tokens of this process, one tensor (n_j,) a micro-batch, and how many all processes keep.

    Args:
        pieces: of each micro-batch of this process its targets, and statistics as TokenStatistics names them, (n_j,).
        share: share of tokens to keep (objective random).
        seed, step: of the draws, as profit.draws.token_draws takes them.
        gather: gives the tensors (k, n_p) that all processes call it with, in their order.
        process: place of this process in that order.
    """
    dtypes = {name: value.dtype for name, value in pieces[0][1].items()}
    parts = gather(torch.cat([_rows(piece, *parts) for piece, parts in enumerate(pieces)], dim=1))
    table = torch.cat([torch.cat([torch.full_like(part[:1], p), part]) for p, part in enumerate(parts)], dim=1)
    of_process, piece, sequence, position, example, *values = table
    order = torch.arange(table.shape[1], device=table.device)
    for key in (position, sequence, of_process, piece):
        order = order[key[order].argsort(stable=True)]
    triples = torch.stack([piece, of_process, sequence])[:, order]
    _, number = torch.unique_consecutive(triples, dim=1, return_inverse=True)
    # Examples that nobody named are numbered through the step, as one batch of it all would number them.
    example = torch.where(example[order] < 0, number, example[order]).long()
    known = {name: value[order].to(dtypes[name]) for name, value in zip(dtypes, values, strict=True)}
    known.setdefault("logprob", torch.zeros(len(order), device=table.device))
    draw = token_draws(seed, step, example, position[order].long())
    in_order, _ = token_terms(objective, TokenStatistics(**known, draw=draw, sequence=number, share=share))
    weight = torch.empty_like(in_order)
    weight[order] = in_order
    own = weight[of_process == process]
    return list(own.split([len(targets) for targets, _ in pieces])), int((weight > 0).sum())


def _rows(piece: int, targets: Targets, statistics: dict[str, Tensor]) -> Tensor:
    """One float64 column a target token: micro-batch, sequence, position, example (-1 for none), statistics."""
    named = targets.example if targets.example is not targets.sequence else torch.full_like(targets.sequence, -1)
    columns = [torch.full_like(named, piece), targets.sequence, targets.position, named, *statistics.values()]
    return torch.stack([column.double() for column in columns])
