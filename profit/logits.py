"""Logits of an LM head a few hundred tokens at a time, and what they say of each target token.

z = softcap tanh(scale (W h + b) / softcap) for hidden states h; of target y: log p_y = z_y - log sum_v exp z_v,
entropy -sum_v p_v log p_v, rank. The logits of a whole batch never exist together, and they are fp32 whatever the
precision of the model: bf16 logits move p by several per cent, and with it the mask at a threshold.

No command: `profit.head` trains on it, `profit.score` reads.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from profit.objectives import TOP

IGNORED = -100  # torch's and transformers' mark of a label that is no target
CHUNK_BYTES = 2**28  # of logits that exist at a time: 416 tokens of 151,936 entries
BLOCK_BYTES = 2**23  # of logits that are read and rewritten while a CPU's cache holds them
TILE = 2048  # vocabulary entries that a CPU multiplies at a time

# Columns of some tokens, (b,) each, and None or what has a gradient: places in the block (k,) and factors (k,). Their
# rows of z are then slopes: d loss / d (W h + b) = factor x slope.
Visited = tuple[dict[str, Tensor], tuple[Tensor, Tensor] | None]


@dataclass(frozen=True)
class LMHead:
    """z = softcap tanh(scale (W h + b) / softcap): `weight` (V, d), `bias` (V,) or None; no capping with None."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


@torch.no_grad()
@torch.compiler.disable
def token_statistics(
    hidden: Tensor, head: LMHead, targets: Tensor, needs: Sequence[str] = (), chunk_bytes: int = CHUNK_BYTES
) -> dict[str, Tensor]:
    """What the model says of each of the n target tokens: {"logprob": (n,), …}, in row order, without gradients.

    `needs` may name entropy (nats), top_entropy (nats, of the 20 largest probabilities renormalised) and rank (number
    of vocabulary entries with a larger logit, int64). Shapes and errors as `token_loss`, but NaN is handed on.
    """
    rows = target_rows(hidden, head, targets)
    chosen = targets.flatten()[rows]

    def read(z: Tensor, part: Tensor) -> Visited:
        return read_targets(z, chosen[part], needs), None

    if not len(rows):
        return {name: hidden.new_zeros(0) for name in ("logprob", *needs)}
    columns = sweep(select_rows(hidden, rows), head, torch.arange(len(rows), device=hidden.device), read, chunk_bytes)
    return {name: columns[name] for name in ("logprob", *needs)}


def target_rows(hidden: Tensor, head: LMHead, targets: Tensor) -> Tensor:
    """Places (n,) of the target tokens in the flattened `targets`; ValueError as `token_loss`."""
    size, width = head.weight.shape
    if hidden.shape != (*targets.shape, width):
        raise ValueError(
            f"hidden: found shape {tuple(hidden.shape)}, expected {(*targets.shape, width)}: one state of the LM "
            "head's width for each target"
        )
    if head.bias is not None and head.bias.shape != (size,):
        raise ValueError(f"bias: found shape {tuple(head.bias.shape)}, expected {(size,)} as the weight has")
    flat = targets.flatten()
    wrong = ((flat != IGNORED) & ((flat < 0) | (flat >= size))).nonzero()
    if len(wrong):
        row = int(wrong[0, 0])
        raise ValueError(
            f"targets{place(row, targets.shape)}: found {int(flat[row])}, expected {IGNORED} or a token from 0 to "
            f"{size - 1}"
        )
    return (flat != IGNORED).nonzero().squeeze(1)


def sweep(
    hidden: Tensor,
    head: LMHead,
    rows: Tensor,
    visit: Callable[[Tensor, Tensor], Visited],
    chunk_bytes: int,
    add: Callable[[Tensor, Tensor, Tensor, Tensor], None] | None = None,
) -> dict[str, Tensor]:
    """Call visit(z (b, V), rows (b,)) on the logits of the tokens `rows`, a block at a time, in order.

    `visit` may overwrite z. The columns that it returns are put together; the gradients of a chunk are handed to
    add(rows, states, factor, slope), (k,), (k, d), (k,) and (k, V).
    """
    exact, size = exact_dtype(hidden, head.weight), head.weight.shape[0]
    row_bytes = size * exact.itemsize
    # Multiples of 32, which matrix products like, and as even as their number allows.
    most = max(1, chunk_bytes // row_bytes)
    most = most // 32 * 32 or most
    even = math.ceil(len(rows) / max(1, math.ceil(len(rows) / most)))
    length = max(1, min(most, math.ceil(even / 32) * 32))
    block = length if hidden.is_cuda else max(1, BLOCK_BYTES // row_bytes)
    buffer = hidden.new_empty(min(length, len(rows)), size, dtype=exact)
    columns: list[dict[str, Tensor]] = []
    for part in rows.split(length):
        states = hidden[part]
        chunk = make_logits(states, head, buffer[: len(part)])
        # The gradients of the kept tokens move to the front of the chunk, over logits that were read before.
        kept, factors, done = [], [], 0
        for start in range(0, len(part), block):
            found, gradient = visit(chunk[start : start + block], part[start : start + block])
            columns.append(found)
            if gradient is not None:
                places, factor = gradient
                _move_rows(chunk, places + start, done)
                done += len(places)
                kept.append(places + start)
                factors.append(factor)
        if done:
            chosen = torch.cat(kept)
            add(part[chosen], states[chosen], torch.cat(factors), chunk[:done])
    return {name: torch.cat([column[name] for column in columns]) for name in (columns or [{}])[0]}


def _move_rows(chunk: Tensor, places: Tensor, first: int) -> None:
    """Copy rows `places`, in ascending order, to the rows from `first` on, none of which lies behind its source."""
    if chunk.is_cuda:
        chunk[first : first + len(places)] = chunk[places]
        return
    # One by one: a copy of all, of another size each time, would leave holes in a CPU's heap that add up.
    for row, place in enumerate(places.tolist(), start=first):
        if row != place:
            chunk[row].copy_(chunk[place])


def read_targets(z: Tensor, targets: Tensor, needs: Sequence[str]) -> dict[str, Tensor]:
    """Columns logprob, total and `needs` of logits z (b, V), which become exp(z - max z); total (b,) is their sum.

    So the probabilities of a row are what is left in it over its total.
    """
    columns, target = {}, z.gather(1, targets[:, None])
    if "rank" in needs:
        columns["rank"] = (z > target).sum(1)
    if "top_entropy" in needs:
        top = z.topk(min(TOP, z.shape[1])).values.log_softmax(-1)
        columns["top_entropy"] = -(top.exp() * top).sum(1)
    # Not torch's log_softmax, which on a CPU adds up a long row one by one: off by some 3e-6 at 150,000 entries.
    largest = z.amax(1, keepdim=True)
    z.sub_(largest)
    below = z.clone() if "entropy" in needs else None
    z.exp_()
    columns["total"] = total = z.sum(1)
    columns["logprob"] = (target - largest)[:, 0] - total.log()
    if below is not None:
        # An excluded entry has log-probability -inf and adds nothing; 0 * -inf would be NaN.
        mean = (z * below.clamp_min_(torch.finfo(z.dtype).min)).sum(1) / total
        columns["entropy"] = total.log() - mean
    return columns


def make_logits(states: Tensor, head: LMHead, out: Tensor | None = None) -> Tensor:
    """z of hidden states (c, d), fp32 or float64 (c, V)."""
    exact, low = exact_dtype(states, head.weight), low_dtype(head.weight)
    if out is None:
        out = states.new_empty(len(states), head.weight.shape[0], dtype=exact)
    if low:
        torch.mm(states.to(low), head.weight.T, out_dtype=exact, out=out)
    elif out.is_cuda:
        torch.mm(states.to(exact), head.weight.to(exact).T, out=out)
    else:
        # A CPU makes narrow logits a sixth faster this way round, in tiles that its cache holds.
        transposed = states.to(exact).T.contiguous()
        made = out.new_empty(min(TILE, len(head.weight)), len(states))
        for start in range(0, len(head.weight), TILE):
            rows = head.weight[start : start + TILE].to(exact)
            out[:, start : start + TILE] = torch.mm(rows, transposed, out=made[: len(rows)]).T
    if head.bias is not None:
        out.add_(head.bias)
    if head.scale != 1:
        out.mul_(head.scale)
    return out if head.softcap is None else out.div_(head.softcap).tanh_().mul_(head.softcap)


def tiles(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """(entries, weight of those entries in `dtype`), so that a CPU never widens the whole weight at once."""
    if weight.dtype == dtype:
        yield slice(None), weight
    else:
        for start in range(0, len(weight), TILE):
            yield slice(start, start + TILE), weight[start : start + TILE].to(dtype)


def exact_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Precision of logits and of sums of gradients."""
    return torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)


def low_dtype(weight: Tensor) -> torch.dtype | None:
    """The 16-bit type in which a GPU multiplies, with fp32 results; a CPU multiplies in fp32."""
    return weight.dtype if weight.is_cuda and weight.dtype in (torch.bfloat16, torch.float16) else None


def select_rows(hidden: Tensor, rows: Tensor) -> Tensor:
    flat = hidden.flatten(0, -2)
    return flat if len(rows) == len(flat) else flat.index_select(0, rows)


def place(row: int, shape: torch.Size) -> str:
    """Where a flattened place lies in `shape`, for people."""
    return "[" + ", ".join(str(int(part)) for part in torch.unravel_index(torch.tensor(row), shape)) + "]"
