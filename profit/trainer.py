"""transformers' Trainer with a token objective in place of the mean cross-entropy.

loss = (1 / N) sum_t w_t (-log p_t) over the target tokens t of an optimizer step (profit.objectives). With the
normaliser `all`, N counts every target token of the step over all its micro-batches and processes, so that gradient
accumulation changes nothing; `kept` counts those with a weight above zero. Every step leaves a row in the step log.

No command: used by `profit.train`.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer

from profit.data import IGNORED, LABELS
from profit.files import InputError
from profit.objectives import (
    OBJECTIVES,
    TokenStatistics,
    check_objective,
    needs_whole_step,
    token_draws,
    token_weights,
)
from profit.steplog import StepLog

log = logging.getLogger(__name__)

NEAR = 0.05
PROGRESS_SECONDS = 5.0


def target_statistics(
    model: PreTrainedModel, input_ids: Tensor, labels: Tensor, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target token, differentiable, and on demand the entropy there, detached; fp32 nats (n,).

    `input_ids` and `labels` are (batch, length), padded on the right: no mask is needed there, since a causal model
    never looks to the right. Targets are the labels that are not -100, row by row.
    """
    logits = model(input_ids=input_ids, use_cache=False).logits[:, :-1]
    targets = labels[:, 1:]
    rows = (targets != IGNORED).flatten().nonzero().squeeze(1)
    logprobs = logits.flatten(0, 1).index_select(0, rows).float().log_softmax(-1)
    chosen = logprobs.gather(1, targets.flatten()[rows, None]).squeeze(1)
    if not entropy:
        return chosen, None
    with torch.no_grad():
        return chosen, -(logprobs.exp() * logprobs).sum(-1)


def collate(examples: Sequence[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """A batch of examples {"input_ids", "prompt_length", "roles" (indices into LABELS, one a target), "example"}.

    Returns input_ids, labels (-100 but for targets) and roles (likewise), all int64 (batch, length) padded on the
    right to the longest, and example and prompt_length (batch,).
    """
    length = max(len(example["input_ids"]) for example in examples)
    batch = torch.full((3, len(examples), length), IGNORED)
    batch[0] = pad
    for i, example in enumerate(examples):
        ids, start = torch.tensor(example["input_ids"]), example["prompt_length"]
        batch[0, i, : len(ids)] = ids
        batch[1, i, start : len(ids)] = ids[start:]
        batch[2, i, start : len(ids)] = torch.tensor(example["roles"])
    numbers = {key: torch.tensor([example[key] for example in examples]) for key in ("example", "prompt_length")}
    return {"input_ids": batch[0], "labels": batch[1], "roles": batch[2], **numbers}


class SeededOrder(Sampler[int]):
    """Every example once an epoch, in an order that depends on seed and epoch alone."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's loader before each epoch, also when a run resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist())


def unseen_examples(size: int, seed: int, steps: int, batch_size: int) -> list[int]:
    """Examples that a run too short for one epoch never trains on, in ascending order."""
    return sorted(list(SeededOrder(size, seed))[steps * batch_size :])


class ProFitTrainer(Trainer):
    """Trainer that minimises `objective` and writes `step_log`; batches as `collate` makes them.

    `shares` gives the share of tokens to keep in each step (objective random). Further arguments are the Trainer's.

    Raises:
        ValueError: a wrong objective (profit.objectives.check_objective), or one that looks at the whole batch
            (scope batch, normaliser kept) with gradient accumulation or several processes.
    """

    def __init__(
        self, *, objective: dict[str, Any], step_log: StepLog, shares: Sequence[float] | None = None, **arguments: Any
    ) -> None:
        check_objective(objective)
        super().__init__(**arguments)
        self.objective, self.step_log, self.shares = objective, step_log, shares
        self.needs = OBJECTIVES[objective["name"]].needs
        self.kept_only = objective.get("normaliser", "all") == "kept"
        pieces = self.args.gradient_accumulation_steps * self.accelerator.num_processes
        if pieces > 1 and needs_whole_step(objective):
            raise ValueError(
                f"objective {objective['name']}, normaliser {objective.get('normaliser', 'all')}: found an optimizer "
                f"step in {pieces} pieces, expected one (micro_batch_size = batch_size): its weights depend on all "
                "target tokens of the step"
            )
        # The loss is divided by the target tokens of the whole step here, so the Trainer must not divide it again.
        self.model_accepts_loss_kwargs = True
        self._sums: Tensor | None = None
        self._clock = self._said = time.monotonic()

    def _get_train_sampler(self, *_: Any) -> SeededOrder:
        return SeededOrder(len(self.train_dataset), self.args.seed)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the Trainer's way walks over all parameters in every step."""
        return 0

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Loss of one micro-batch, a scalar; its sum over the micro-batches of a step is the loss of that step."""
        logprob, entropy = target_statistics(model, inputs["input_ids"], inputs["labels"], "entropy" in self.needs)
        tokens = TokenStatistics(logprob.detach(), entropy, **self._drawn(inputs))
        weights = token_weights(self.objective, tokens)
        kept = weights > 0
        weighted = -(weights * logprob).sum()
        self._count(tokens.logprob, weights, kept, weighted.detach(), inputs)
        if self.kept_only:
            return weighted / kept.sum().clamp(min=1)
        # Gradients are averaged over processes, while N counts the tokens of all of them.
        return weighted / num_items_in_batch * self.accelerator.num_processes

    def _drawn(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """Random number of each target token and share to keep in this step, for an objective that needs them."""
        if "draw" not in self.needs:
            return {}
        row, column = (inputs["labels"][:, 1:] != IGNORED).nonzero(as_tuple=True)
        position = column + 1 - inputs["prompt_length"][row]
        step = self.state.global_step
        draw = token_draws(self.args.seed, step + 1, inputs["example"][row], position)
        return {"draw": draw, "share": self.shares[step]}

    def _count(
        self, logprob: Tensor, weights: Tensor, kept: Tensor, weighted: Tensor, inputs: dict[str, Tensor]
    ) -> None:
        """Add a micro-batch to the step's sums: cross-entropy, loss, weights, tokens near tau, tokens by label."""
        roles = inputs["roles"][:, 1:]
        roles = roles[roles != IGNORED]
        tau = self.objective.get("tau", math.nan)
        near = ((logprob.exp() - tau).abs() <= NEAR * tau).sum()
        sums = torch.stack([-logprob.sum(), weighted, weights.sum(), near]).double()
        labels = [torch.bincount(chosen, minlength=len(LABELS)) for chosen in (roles, roles[kept])]
        sums = torch.cat([sums, *labels])
        self._sums = sums if self._sums is None else self._sums + sums

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write the row of the step that just ended; InputError if its loss or gradient is no finite number."""
        if "grad_norm" not in logs:
            return
        sums = self.accelerator.reduce(self._sums).tolist()
        self._sums = None
        nll, weighted, weight, near = sums[:4]
        by_label, kept_by_label = (dict(zip(LABELS, part, strict=True)) for part in (sums[4:8], sums[8:]))
        tokens, kept = sum(by_label.values()), sum(kept_by_label.values())
        now = time.monotonic()
        row = {
            "step": self.state.global_step,
            "epoch": self.state.epoch,
            "loss": nll / tokens,
            "objective_loss": weighted / (max(kept, 1.0) if self.kept_only else tokens),
            "kept": kept / tokens,
            **{f"kept_{label}": kept_by_label[label] / n if n else None for label, n in by_label.items()},
            "weight_mean": weight / tokens,
            "near_tau": int(near) if "tau" in self.objective else None,
            "grad_norm": logs["grad_norm"],
            "clipped": logs["grad_norm"] > self.args.max_grad_norm,
            "learning_rate": logs["learning_rate"],
            "tokens": int(tokens),
            "tokens_per_second": tokens / (now - self._clock),
        }
        if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
            raise InputError(
                f"step {row['step']}: found loss {row['loss']} and gradient norm {row['grad_norm']}, expected finite "
                f"numbers; the learning rate is {row['learning_rate']:g}, and the base may hold NaN"
            )
        self.step_log.append(row)
        self._clock = now
        if now - self._said > PROGRESS_SECONDS or row["step"] in (1, self.state.max_steps):
            self._said = now
            log.info(
                "step %d of %d, loss %.4f, kept %.3f, gradient norm %.3f, %.0f tokens/s",
                *(row["step"], self.state.max_steps, row["loss"], row["kept"], row["grad_norm"]),
                row["tokens_per_second"],
            )
