"""The gradient of one token's loss and the singular values that bound its norm: Theorem 1 (paper §4.2) in parts.

z = s (W h + b) are the logits before a target y, p their softmax, l = -log p_y, J the Jacobian of z by all parameters,
V x |theta|. Theorem 1: |grad l| = |J^T (p - e_y)| >= gamma (1 - p_y) wherever sigma_min(J) >= gamma > 0, all norms
Euclidean. What is known of its parts, exactly:

* grad_z l = p - e_y, so |grad_z l|^2 = (1 - p_y)^2 + sum_{v != y} p_v^2, within [1, sqrt 2] times 1 - p_y.
* W acts linearly: with a head of its own J J^T = s^2 (a I + W K W^T), a = |h|^2 (+ 1 with a bias) and K = D D^T, D the
  Jacobian of h by all other parameters. W K W^T is positive, of rank d < V at most, so sigma_min = s sqrt(a), the
  *head factor*: the largest gamma of the theorem is known of every token, and positive.
* Embeddings tied to the head act through h too, and the two ways may cancel: J J^T = s^2 (a I + W K W^T + N W^T +
  W N^T), row v of N (dh / dW_v) h, which is 0 unless word v is in the context. Where W^T u = 0 all but a I vanishes in
  u^T J J^T u, so sigma_min <= s sqrt(a). A norm above the head factor times 1 - p_y thus obeys the theorem whatever
  sigma_min is; for one below, sigma_min decides.
* sigma_min and sigma_max come exactly from D (d backward passes, d |theta| numbers of memory) and the eigenvalues of a
  matrix of size 2 d. The norm lies between sigma_min and sqrt 2 sigma_max times 1 - p_y.

The premise fails for adapters: where W is frozen J = s W D has rank d < V at most and sigma_min = 0. So an adapter is
merged here, and theta is every parameter of the model. A soft cap on the logits is refused.

No command: used by `profit.gradients`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from profit.data import Encoded
from profit.files import InputError
from profit.fuse import fuse_head, lm_head
from profit.logits import LMHead


def prepare(model: torch.nn.Module, source: str) -> PreTrainedModel:
    """The model with adapters merged, its head fused and every parameter free.

    Raises:
        InputError: a soft cap on the logits, or a vocabulary no larger than the width.
    """
    model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    fuse_head(model)
    head = lm_head(model)
    if head.softcap:
        raise InputError(f"{source}: found a soft cap of {head.softcap} on the logits, expected linear ones")
    if head.weight.shape[0] <= head.weight.shape[1]:
        raise InputError(
            f"{source}: found {head.weight.shape[0]} tokens and width {head.weight.shape[1]}, expected more tokens"
        )
    return model.requires_grad_(True)


def is_tied(model: PreTrainedModel) -> bool:
    """Whether one matrix is both the embeddings of the input and the LM head."""
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def token_losses(model: PreTrainedModel, answers: Sequence[Encoded]) -> tuple[Tensor, Tensor, LMHead]:
    """Losses (n,) of all target tokens of `answers`, in order, the states (n, d) they are read from, and the LM head.

    Differentiable, twice too; logits and losses are float64.
    """
    length = max(len(answer.input_ids) for answer in answers)
    ids = torch.zeros(len(answers), length, dtype=torch.long)
    is_target = torch.zeros(len(answers), length, dtype=torch.bool)
    for row, answer in enumerate(answers):
        ids[row, : len(answer.input_ids)] = torch.tensor(answer.input_ids)
        is_target[row, answer.prompt_length : len(answer.input_ids)] = True
    ids, is_target = ids.to(model.device), is_target[:, 1:].to(model.device)
    # The other kernels of attention have no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        hidden, head = model(input_ids=ids, use_cache=False, token_head=lambda hidden, head: (hidden, head))
    states = hidden[:, :-1][is_target]
    loss = torch.nn.functional.cross_entropy(logits_of(states, head), ids[:, 1:][is_target], reduction="none")
    return loss, states, head


def logits_of(states: Tensor, head: LMHead) -> Tensor:
    """Differentiable logits (n, V) of states (n, d), float64: in float32 nothing is left of 1 - p of a sure token."""
    bias = None if head.bias is None else head.bias.double()
    return head.scale * torch.nn.functional.linear(states.double(), head.weight.double(), bias)


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of two gradients, one tensor a parameter, added up in float64."""
    return sum(((x * y).sum(dtype=torch.float64) for x, y in zip(a, b, strict=True)), start=torch.tensor(0.0))


def token_norms(model: PreTrainedModel, answer: Encoded, position: int) -> dict[str, float]:
    """|grad l|, |grad_z l|, head factor, and bound = head factor (1 - p), of the target at `position` of `answer`."""
    loss, states, head = token_losses(model, [up_to(answer, position)])
    gradient = torch.autograd.grad(loss[-1], list(model.parameters()), materialize_grads=True)
    with torch.no_grad():
        slope = logits_of(states[-1:], head)[0].softmax(-1)
        rest = -torch.expm1(-loss[-1])
        slope[answer.input_ids[answer.prompt_length + position]] = rest
        factor = float(head.scale * (states[-1].double().square().sum() + (head.bias is not None)).sqrt())
    return {
        "gradient_norm": float(dot(gradient, gradient).sqrt()),
        "logit_gradient_norm": float(slope.norm()),
        "head_factor": factor,
        "bound": factor * float(rest),
    }


def singular_values(model: PreTrainedModel, answer: Encoded, position: int) -> dict[str, float]:
    """Smallest and largest singular value of J, the Jacobian of the logits of the target at `position` of `answer`."""
    _, states, head = token_losses(model, [up_to(answer, position)])
    state, size = states[-1], head.weight.numel()
    others = [p for p in model.parameters() if p is not head.weight and p is not head.bias]
    through = [head.weight, *others] if is_tied(model) else others
    rows = state.new_empty(len(state), sum(parameter.numel() for parameter in through))
    for row, value in zip(rows, state, strict=True):
        found = torch.autograd.grad(value, through, retain_graph=True, materialize_grads=True)
        torch.cat([gradient.flatten() for gradient in found], out=row)
    with torch.no_grad():
        weight, state = head.weight.double(), state.double()
        inner, against = (rows @ rows.T).double(), torch.zeros_like(weight)
        if is_tied(model):
            against = torch.einsum("ivj,j->vi", rows[:, :size].view(-1, *weight.shape).double(), state)
        unit = torch.eye(len(state), dtype=torch.float64, device=state.device)
        middle = torch.cat([torch.cat([inner, unit], 1), torch.cat([unit, torch.zeros_like(unit)], 1)])
        triangle = torch.linalg.qr(torch.cat([weight, against], 1), mode="r").R
        added = torch.linalg.eigvalsh(triangle @ middle @ triangle.T)
        own = state.square().sum() + (head.bias is not None)
        # V > d: some direction has added eigenvalue 0.
        ends = torch.stack([own + added[0].clamp(max=0), own + added[-1].clamp(min=0)]).clamp(min=0).sqrt()
    return dict(zip(("sigma_min", "sigma_max"), (head.scale * ends).tolist(), strict=True))


def up_to(answer: Encoded, position: int) -> Encoded:
    """The answer as far as the target at `position`, all that its gradient depends on."""
    stop = answer.prompt_length + position + 1
    return Encoded(answer.input_ids[:stop], answer.prompt_length, answer.spans[: position + 1])
