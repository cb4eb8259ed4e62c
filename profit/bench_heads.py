"""What the benchmark measures: ways to the loss of a token objective, and the steps that they are measured on.

A candidate is a function of hidden states (n, d), weight (V, d), targets (n,), an objective and the number of tokens
to divide by, and gives a scalar to call backward on. `full logits` is the reference: cross-entropy as transformers
computes it (ForCausalLMLoss), ProFit as the official code of arXiv 2601.09195 does, its formula written anew.

No command: used by `profit.bench`.
"""

import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.torch_version import TorchVersion

from profit.head import token_loss
from profit.logits import IGNORED, LMHead, token_statistics
from profit.objectives import TOP

# Distribution and version that a candidate needs. Older TRL has another head; older Liger made wrong gradients of
# losses that are weighted by token.
PACKAGES = {
    "TRL": ("trl", "1.16"),
    "Liger": ("liger_kernel", "0.8.2"),
    "cut-cross-entropy": ("cut-cross-entropy", "25"),
}

# Row -> objective, and the share of tokens that a threshold is to keep.
ROWS: dict[str, tuple[dict[str, Any], float | None]] = {
    "sft": ({"name": "sft"}, None),
    **{f"profit {share:g}": ({"name": "profit"}, share) for share in (0.5, 0.8, 0.95, 1.0)},
    "dft": ({"name": "dft"}, None),
    "eaft": ({"name": "eaft"}, None),
    "entropy 0.2": ({"name": "entropy", "share": 0.2}, None),
}
SPREAD = 6.0  # the log-odds of the targets' probabilities lie within about this of 0

Candidate = Callable[[Tensor, Tensor, Tensor, dict[str, Any], int], Tensor]


def ours(hidden: Tensor, weight: Tensor, targets: Tensor, objective: dict[str, Any], count: int) -> Tensor:
    """The fused head of this package."""
    return token_loss(hidden, LMHead(weight), targets, objective, count=count).loss


def full_logits(hidden: Tensor, weight: Tensor, targets: Tensor, objective: dict[str, Any], count: int) -> Tensor:
    """The objective on the logits of all tokens: sft as transformers computes it, profit as its official code."""
    logits = hidden @ weight.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    name = objective["name"]
    if name == "profit":
        # As there, the probabilities of the whole vocabulary are kept for a backward that never comes.
        probabilities = logits.softmax(-1)
        chosen = probabilities.gather(1, targets[:, None])[:, 0]
        targets = targets.masked_fill(chosen.detach() < objective["tau"], IGNORED)
    if name in ("sft", "profit"):
        return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum") / count
    losses = F.cross_entropy(logits, targets, reduction="none")
    if name == "dft":
        weights = (-losses.detach()).exp()
    elif name == "eaft":
        top = logits.detach().topk(TOP).values.log_softmax(-1)
        weights = -(top.exp() * top).sum(1) / 3
    else:
        logprobs = logits.detach().log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(1)
        weights = torch.zeros_like(losses)
        weights[entropy.topk(round(objective["share"] * len(targets))).indices] = 1
    return (weights * losses).sum() / count


def full_logits_sft(hidden: Tensor, weight: Tensor, targets: Tensor, objective: dict[str, Any], count: int) -> Tensor:
    """Plain cross-entropy on the logits of all tokens, whatever the objective."""
    return full_logits(hidden, weight, targets, {"name": "sft"}, count)


def trl(hidden: Tensor, weight: Tensor, targets: Tensor, objective: dict[str, Any], count: int) -> Tensor:
    """TRL's fused head, asked for log-probabilities alone."""
    from trl.kernels import ChunkedLogProbFunction

    logprob = ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 32768, None, 1.0, ())[0]
    return of_losses(-logprob, objective, count)


def liger(hidden: Tensor, weight: Tensor, targets: Tensor, objective: dict[str, Any], count: int) -> Tensor:
    """Liger's fused loss: summed for sft, its own token scaling for dft, by token for profit."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    if objective["name"] == "profit":
        return of_losses(liger_fused_linear_cross_entropy(hidden, weight, targets, reduction="none"), objective, count)
    scaled = objective["name"] == "dft"
    return liger_fused_linear_cross_entropy(hidden, weight, targets, reduction="sum", use_token_scaling=scaled) / count


def cut(hidden: Tensor, weight: Tensor, targets: Tensor, objective: dict[str, Any], count: int) -> Tensor:
    """Apple's cut cross-entropy, as it is set by default."""
    from cut_cross_entropy import linear_cross_entropy

    return of_losses(linear_cross_entropy(hidden, weight, targets, reduction="none"), objective, count)


def of_losses(losses: Tensor, objective: dict[str, Any], count: int) -> Tensor:
    """sft, profit or dft of the negative log-likelihoods (n,) of the targets."""
    logprob = -losses.detach()
    if objective["name"] == "profit":
        losses = losses * (logprob.exp() > objective["tau"])
    elif objective["name"] == "dft":
        losses = losses * logprob.exp()
    return losses.sum() / count


CANDIDATES: dict[str, Candidate] = {
    "ours": ours,
    "full logits": full_logits,
    "full logits SFT": full_logits_sft,
    "TRL": trl,
    "Liger": liger,
    "cut-cross-entropy": cut,
}


def candidates(objective: str, device: str) -> list[str]:
    """Names of the candidates that are installed and serve an objective on a device, cpu or cuda."""
    found = ["ours", "full logits", *(["full logits SFT"] if objective != "sft" else [])]
    if objective in ("sft", "profit", "dft"):
        found += [name for name in PACKAGES if (device == "cuda" or name == "TRL") and installed(name)]
    return found


def installed(candidate: str) -> bool:
    """Whether the package of a candidate is there, and new enough."""
    package, least = PACKAGES[candidate]
    try:
        return TorchVersion(importlib.metadata.version(package)) >= least
    except importlib.metadata.PackageNotFoundError:
        return False


@dataclass(frozen=True)
class Setup:
    """What all measurements share; `device` is cpu or cuda."""

    vocabulary: int
    hidden: int
    device: str
    threads: int


def make_inputs(setup: Setup, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (n, d), weight (V, d) and targets (n,), the same on every call."""
    place: dict[str, Any] = {"generator": torch.Generator(setup.device).manual_seed(0), "device": setup.device}
    dtype = torch.bfloat16 if setup.device == "cuda" else torch.float32
    weight = torch.randn(setup.vocabulary, setup.hidden, dtype=dtype, **place).div_(setup.hidden**0.5)
    targets = torch.randint(setup.vocabulary, (tokens,), **place)
    lean = math.log(setup.vocabulary) + SPREAD * (2 * torch.rand(tokens, 1, **place) - 1)
    hidden = torch.randn(tokens, setup.hidden, **place) + lean * weight[targets]
    return hidden.to(dtype), weight, targets


def objectives(hidden: Tensor, weight: Tensor, targets: Tensor) -> dict[str, dict[str, Any]]:
    """The objective of each row, with the threshold that these inputs need."""
    logprob = token_statistics(hidden, LMHead(weight), targets)["logprob"]
    return {
        row: objective if share is None else objective | {"tau": threshold(logprob, share)}
        for row, (objective, share) in ROWS.items()
    }


def threshold(logprob: Tensor, share: float) -> float:
    """A tau that leaves round(share n) of n tokens above it: halfway, in nats, between two of `logprob` (n,).

    Raises:
        RuntimeError: no tau does, as where two tokens are equally likely.
    """
    kept = round(share * len(logprob))
    if kept == len(logprob):
        return 0.0
    ordered = logprob.double().sort(descending=True).values
    tau = float((ordered[kept - 1] + ordered[kept]).div(2).exp())
    reached = int((ordered.exp() > tau).sum())
    if reached != kept:
        raise RuntimeError(f"share {share}: found a threshold that keeps {reached} tokens, expected {kept}")
    return tau


class Step:
    """One step in a scene: `weight`, and `calls`, the hidden states and targets of each call.

    In the scene `tied`, the hidden states of a call are the rows `inputs` of the weight plus what `calls` holds.
    """

    def __init__(self, scene: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
        self.weight, self.count, self.inputs = weight.requires_grad_(), len(targets), None
        if scene == "tied":
            self.inputs = targets.roll(1)
            hidden = hidden - weight.detach()[self.inputs]
        calls = 2 if scene == "accumulation 2" else 1
        self.calls = [
            (part.clone().requires_grad_(self.inputs is None), chosen)
            for part, chosen in zip(hidden.chunk(calls), targets.chunk(calls), strict=True)
        ]

    def run(self, candidate: Candidate, objective: dict[str, Any]) -> float:
        """Forward and backward; the loss."""
        total = 0.0
        for states, targets in self.calls:
            if self.inputs is not None:
                states = F.embedding(self.inputs, self.weight) + states
            loss = candidate(states, self.weight, targets, objective, self.count)
            loss.backward()
            total += loss.item()
        return total

    def clear(self) -> None:
        """Drop the gradients."""
        self.weight.grad = None
        for states, _ in self.calls:
            states.grad = None
