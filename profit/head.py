"""The LM head fused with the loss: token objectives and exact gradients without the logits of a whole batch.

loss = (1 / N) sum_t w_t (-log p_t) for the objectives of profit.objectives, from hidden states h_t and the weight W of
the LM head. The logits z of a few hundred target tokens at a time are made, read and, in the same memory, turned into
the gradient softmax(z) - onehot(y); the products with h and W follow at once. So memory does not grow with the batch,
no logits are made twice, and a token with weight 0 costs no backward at all. Probabilities are those of fp32 logits
whatever the model's precision: bf16 logits move p by several per cent, and with it the mask at a threshold.

    out = token_loss(hidden[:, :-1], LMHead(lm_head.weight), labels[:, 1:], {"name": "profit", "tau": 0.1})
    out.loss.backward()

An objective that compares tokens (scope sequence or batch) reads all tokens of the call first, and makes the logits of
those that it keeps a second time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from profit.logits import (
    CHUNK_BYTES,
    IGNORED,
    LMHead,
    Visited,
    exact_dtype,
    low_dtype,
    make_logits,
    place,
    read_targets,
    select_rows,
    sweep,
    target_rows,
    tiles,
)
from profit.objectives import OBJECTIVES, TokenStatistics, check_objective, logits_loss, token_terms

NARROW_BYTES = 76 * 2**20
FROM_LOGITS = ("entropy", "top_entropy")  # statistics that the head reads off the logits for an objective


class TokenLoss(NamedTuple):
    """`loss`, a scalar to call backward on; and of the n target tokens, detached: `tokens` (what is known of them),
    `weight` (n,) and `token_loss` (n,), what each adds to the sum that is divided by N."""

    loss: Tensor
    tokens: TokenStatistics
    weight: Tensor
    token_loss: Tensor


@torch.compiler.disable
def token_loss(
    hidden: Tensor,
    head: LMHead,
    targets: Tensor,
    objective: dict[str, Any],
    *,
    known: TokenStatistics | None = None,
    weight: Tensor | None = None,
    count: Tensor | float | None = None,
    reference: tuple[Tensor, LMHead] | None = None,
    chunk_bytes: int | None = None,
) -> TokenLoss:
    """Loss of `objective` on hidden states (…, d) and target tokens (…,), aligned; a target of -100 is none.

    Args:
        known: what is known of the n target tokens, in row order, beside what the head tells: stored reference
            log-probabilities, draws, sequences (its `logprob` is not read).
        weight: weights (n,) of an objective of scope batch, where they were made from a step in several pieces.
        count: N, by default that of this call: all target tokens, or with the normaliser `kept` those with a weight
            above zero. A step in several pieces needs the count of the whole step here.
        reference: hidden states (…, d') and head of another model, for objectives that need its logits.
        chunk_bytes: of logits that exist at a time, by default 256 MiB, or 76 MiB while the weight holds a gradient of
            its own already (accumulation), beside which a second one is made; changes values by rounding alone.

    Raises:
        ValueError: shapes that do not fit, targets outside the vocabulary or (without `count`) none at all, logits
            that are no finite numbers, a wrong objective, or one that needs what is not given.
    """
    check_objective(objective)
    rows = target_rows(hidden, head, targets)
    if count is None and not len(rows):
        raise ValueError(f"targets: found {targets.numel()} labels, all ignored ({IGNORED}), expected a target token")
    if count is not None and not count > 0:
        raise ValueError(f"count: found {count}, expected the positive number of tokens to divide the loss by")
    known = known or TokenStatistics(logprob=None)
    _check_given(objective, known, weight, reference, len(rows))
    if reference is not None:
        target_rows(*reference, targets)
        reference = (select_rows(reference[0], rows), reference[1])
    if chunk_bytes is None:
        holds_gradient = head.weight.is_leaf and head.weight.grad is not None
        chunk_bytes = NARROW_BYTES if holds_gradient else CHUNK_BYTES
    call = _Call(
        targets.flatten()[rows], objective, known, weight, count, reference, chunk_bytes, torch.is_grad_enabled()
    )
    selected = select_rows(hidden, rows)
    loss, weight, losses, *found = _Fused.apply(selected, head.weight, head.bias, head, call)
    tokens = replace(known, **dict(zip(("logprob", *call.needs), found, strict=True)))
    broken = (~tokens.logprob.isfinite()).nonzero()
    if len(broken):
        row = int(broken[0, 0])
        culprit = "logits" if selected[row].isfinite().all() else "hidden states"
        raise ValueError(
            f"{culprit}{place(int(rows[row]), targets.shape)}: found NaN or infinite values ({len(broken)} of "
            f"{len(rows)} target tokens), expected finite numbers"
        )
    return TokenLoss(loss, tokens, weight, losses)


@dataclass(frozen=True)
class _Call:
    """What `token_loss` was asked for, of the n target tokens alone."""

    targets: Tensor
    objective: dict[str, Any]
    known: TokenStatistics
    weight: Tensor | None
    count: Tensor | float | None
    reference: tuple[Tensor, LMHead] | None
    chunk_bytes: int
    gradients: bool

    @property
    def needs(self) -> list[str]:
        return [name for name in OBJECTIVES[self.objective["name"]].needs if name in FROM_LOGITS]


class _Fused(torch.autograd.Function):
    """The loss, whose gradients are made with it; backward hands them over."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: LMHead, call: _Call
    ) -> tuple[Tensor, ...]:
        if hidden.is_cuda and torch.is_autocast_enabled("cuda"):
            head = replace(head, weight=weight.to(torch.get_autocast_dtype("cuda")))
        exact = exact_dtype(hidden, weight)
        count = call.count
        if count is None and call.objective.get("normaliser", "all") == "all":
            count = len(hidden)
        elif count is not None:
            count = torch.as_tensor(count, dtype=exact, device=hidden.device)
        wanted = [call.gradients and needed for needed in ctx.needs_input_grad]
        sums = _Sums.of((hidden, weight, bias), wanted, exact)
        # N goes into the gradients as they are made, unless it is known only at the end (`kept`).
        with torch.autocast(hidden.device.type, enabled=False):
            columns = _columns(hidden, head, call, sums, 1.0 if count is None else 1.0 / count)
        if count is None:
            count = (columns["weight"] > 0).sum().clamp(min=1).to(exact)
            sums.late = 1.0 / count
        ctx.sums, ctx.dtypes = sums, [None if tensor is None else tensor.dtype for tensor in (hidden, weight, bias)]
        outputs = [columns[name] for name in ("weight", "loss", "logprob", *call.needs)]
        ctx.mark_non_differentiable(*outputs)
        return columns["loss"].sum() / count, *outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.sums is None:
            raise RuntimeError("token_loss: found a second backward, expected one: its gradients are handed over once")
        sums, ctx.sums = ctx.sums, None
        return *sums.handed_over(upstream, ctx.dtypes), None, None


@dataclass
class _Sums:
    """Gradients of hidden states, weight and bias as they add up, fp32 or float64; None where none is wanted.

    That of the weight is not cleared before `filled`: it is as large as the weight, and its first part overwrites it.
    """

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    filled: bool = False
    late: Tensor | float = 1.0

    @classmethod
    def of(cls, tensors: Sequence[Tensor | None], wanted: Sequence[bool], exact: torch.dtype) -> "_Sums":
        kinds = zip((torch.zeros_like, torch.empty_like, torch.zeros_like), tensors, wanted, strict=False)
        return cls(*(make(tensor, dtype=exact) if want else None for make, tensor, want in kinds))

    @property
    def wanted(self) -> bool:
        return any(tensor is not None for tensor in (self.hidden, self.weight, self.bias))

    def add(
        self, head: LMHead, scale: Tensor | float, rows: Tensor, states: Tensor, factor: Tensor, slope: Tensor
    ) -> None:
        """Add k tokens: places (k,), states (k, d), and d loss / d (W h + b) = factor x slope, (k,) and (k, V)."""
        low, factor = low_dtype(head.weight), factor * scale
        if self.bias is not None:
            self.bias.addmv_(slope.T, factor)
        if self.weight is not None:
            states = states.to(self.weight.dtype) * factor[:, None]
            old = int(self.filled)  # times what is there
            self.filled = True
            if low:
                exact, factors = self.weight.dtype, (slope.to(low).T, states.to(low))
                torch.addmm(self.weight, *factors, out_dtype=exact, beta=old, out=self.weight)
            else:
                self.weight.addmm_(slope.T, states, beta=old)
        if self.hidden is not None:
            if low:
                product = torch.mm(slope.to(low), head.weight, out_dtype=self.hidden.dtype)
            else:
                product = sum(slope[:, part] @ tile for part, tile in tiles(head.weight, slope.dtype))
            self.hidden[rows] = product * factor[:, None]

    def handed_over(self, upstream: Tensor, dtypes: Sequence[torch.dtype | None]) -> list[Tensor | None]:
        """The gradients times `upstream` in the dtypes of their tensors; scaled in place, so that no copy is made."""
        factor, found = upstream * self.late, []
        if self.weight is not None and not self.filled:
            self.weight.zero_()
        # Asking a GPU whether the factor is 1 would make it wait; on a CPU it saves a pass over the weight's gradient.
        scaled = factor.is_cuda or bool(factor != 1)
        for name, dtype in zip(("hidden", "weight", "bias"), dtypes, strict=True):
            tensor = getattr(self, name)
            setattr(self, name, None)
            if tensor is not None and scaled:
                tensor.mul_(factor)
            found.append(None if tensor is None else tensor.to(dtype))
        return found


def _columns(hidden: Tensor, head: LMHead, call: _Call, sums: _Sums, scale: Tensor | float) -> dict[str, Tensor]:
    """logprob, what else the objective needs of the logits, weight and loss of each token, (n,) each.

    The gradients of the summed loss, times `scale`, are added to `sums`.
    """
    objective, chosen = call.objective, OBJECTIVES[call.objective["name"]]
    scale = scale * head.scale

    def terms(known: TokenStatistics, columns: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {name: columns[name] for name in ("logprob", *call.needs)}
        return dict(zip(("weight", "loss"), token_terms(objective, replace(known, **found)), strict=True))

    def read(z: Tensor, rows: Tensor) -> Visited:
        return read_targets(z, call.targets[rows], call.needs), None

    def by_terms(z: Tensor, rows: Tensor) -> Visited:
        bend = _bend(z, head.softcap) if sums.wanted else None
        columns, gradient = read_targets(z, call.targets[rows], call.needs), None
        columns |= terms(_part(call.known, rows), columns)
        if sums.wanted:
            gradient = _gradient(z, call.targets[rows], columns["weight"], columns["total"], bend)
        return columns, gradient

    def by_logits(z: Tensor, rows: Tensor) -> Visited:
        other = None if call.reference is None else make_logits(call.reference[0][rows], call.reference[1])
        leaf, gradient = z.clone(), None
        with torch.set_grad_enabled(sums.wanted):
            loss = logits_loss(objective, leaf.requires_grad_(sums.wanted), call.targets[rows], other)
            total = loss.sum()
        weight = torch.ones_like(loss)
        if sums.wanted:
            (slope,) = torch.autograd.grad(total, leaf)
            if head.softcap:
                slope.mul_(_bend(z, head.softcap))
            gradient = torch.arange(len(z), device=z.device), weight
        columns = read_targets(z, call.targets[rows], call.needs) | {"weight": weight, "loss": loss.detach()}
        if gradient is not None:
            z.copy_(slope)
        return columns, gradient

    def again(z: Tensor, rows: Tensor) -> Visited:
        bend = _bend(z, head.softcap)
        total = read_targets(z, call.targets[rows], ())["total"]
        return {}, _gradient(z, call.targets[rows], columns["weight"][rows], total, bend)

    every = torch.arange(len(hidden), device=hidden.device)
    if not len(every):
        return {
            name: hidden.new_zeros(0, dtype=exact_dtype(hidden, head.weight))
            for name in ("weight", "loss", "logprob", *call.needs)
        }
    walk = partial(sweep, hidden, head, chunk_bytes=call.chunk_bytes, add=partial(sums.add, head, scale))
    if chosen.form == "logits":
        return walk(every, by_logits)
    if chosen.scope == "token":
        return walk(every, by_terms)
    columns = walk(every, read)
    if call.weight is None:
        columns |= terms(call.known, columns)
    else:
        weight = call.weight.to(columns["logprob"].dtype)
        columns |= {"weight": weight, "loss": -weight * columns["logprob"]}
    if sums.wanted:
        walk(columns["weight"].nonzero().squeeze(1), again)
    return columns


def _gradient(
    scaled: Tensor, targets: Tensor, weight: Tensor, total: Tensor, bend: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradient of weight x (-log p of the target) as `sweep` takes it, for the tokens with a weight.

    `scaled` (b, V) and `total` (b,) are what `read_targets` leaves; `bend` (b, V) is that of a soft cap.
    """
    kept = weight.nonzero().squeeze(1)
    # Probabilities less onehot, times the total: dividing the factor is cheaper than dividing a row.
    scaled[kept, targets[kept]] -= total[kept]
    if bend is not None:
        scaled.mul_(bend)
    return kept, weight[kept] / total[kept]


def _bend(z: Tensor, softcap: float | None) -> Tensor | None:
    """d z / d u where z = softcap tanh(u / softcap)."""
    return 1 - (z / softcap) ** 2 if softcap else None


def _part(known: TokenStatistics, rows: Tensor) -> TokenStatistics:
    """The same statistics of some tokens."""
    found = {field.name: getattr(known, field.name) for field in fields(known)}
    return replace(known, **{name: value[rows] for name, value in found.items() if isinstance(value, Tensor)})


def _check_given(
    objective: dict[str, Any],
    known: TokenStatistics,
    weight: Tensor | None,
    reference: tuple[Tensor, LMHead] | None,
    count: int,
) -> None:
    """ValueError unless everything that the objective needs beside the head is there, one value a target token."""
    name, chosen = objective["name"], OBJECTIVES[objective["name"]]
    if weight is not None and chosen.scope != "batch":
        raise ValueError(f"weight: found weights for {name}, expected none: it makes its own from each call")
    given = {field.name: getattr(known, field.name) for field in fields(known)} | {"weight": weight}
    for key, value in given.items():
        if isinstance(value, Tensor) and key != "logprob" and value.shape != (count,):
            raise ValueError(f"{key}: found shape {tuple(value.shape)}, expected {(count,)}: one a target token")
    if "reference_logits" in chosen.needs and reference is None:
        raise ValueError(f"objective {name}: found no reference, expected hidden states and LM head of another model")
    for key in set(chosen.needs) - {*FROM_LOGITS, "reference_logits", "share"} if weight is None else ():
        if given[key] is None:
            raise ValueError(f"objective {name}: found no known.{key}, expected one value a target token")
