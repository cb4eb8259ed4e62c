"""The trainer of a run: the study's batches in an order of their own, and a row of the step log after every step.

Order and draws depend on the seed alone, so that all methods of a seed see the same data in the same order, on however
many processes: a step is the same answers. Where they are labelled, the batches carry the label of every target token,
and the log counts what the objective keeps of each.

No command: used by `profit.train`.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Sampler
from transformers import TrainingArguments

from profit import processes
from profit.bases import Compute
from profit.data import LABELS
from profit.files import InputError
from profit.head import TokenLoss
from profit.logits import IGNORED
from profit.steplog import StepLog
from profit.trainer import ProFitTrainer
from profit.updates import Updates

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Length:
    """How long a run is: optimizer steps, those that its learning rate is planned for (it may stop before), and
    micro-batches a step and process."""

    steps: int
    planned: int
    accumulation: int


def training_arguments(run: dict[str, Any], length: Length, compute: Compute, folder: Path) -> TrainingArguments:
    """The Trainer's settings for a run; nothing is reported anywhere but in the step log."""
    training, sharded = run["training"], processes.sharded()
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=length.steps, per_device_train_batch_size=training["micro_batch_size"],
        gradient_accumulation_steps=length.accumulation, learning_rate=training["learning_rate"],
        lr_scheduler_type=SCHEDULES[training["schedule"]], warmup_steps=math.ceil(training["warmup"] * length.planned),
        weight_decay=training["weight_decay"], max_grad_norm=training["max_grad_norm"], seed=run["seed"],
        save_strategy="epoch", save_total_limit=2, logging_steps=1, remove_unused_columns=False, report_to=[],
        neftune_noise_alpha=training["neftune"] or None, bf16=compute.precision == "bfloat16",
        gradient_checkpointing=compute.gradient_checkpointing or None,
        gradient_checkpointing_kwargs={"use_reentrant": False} if compute.gradient_checkpointing else None,
        # Every process writes and reads its part of a checkpoint, instead of all of it in the memory of one.
        fsdp=sharded or None, fsdp_config={"state_dict_type": "SHARDED_STATE_DICT"} if sharded else None,
        ddp_find_unused_parameters=False, use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True, dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    # Several GPUs in one process would mean DataParallel, which splits a batch behind the objective's back.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def collate(examples: Sequence[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """A batch of examples {"input_ids", "prompt_length", "roles" (indices into LABELS, one a target), "example"}.

    Returns input_ids, labels (-100 but for targets) and roles (likewise), all int64 (batch, length) padded on the
    right to the longest, and example (batch,); reference_logprob, fp32 (batch, length). Without roles or
    reference_logprob in the examples there are none in the batch.
    """
    length = max(len(example["input_ids"]) for example in examples)
    batch = torch.full((3, len(examples), length), IGNORED)
    batch[0] = pad
    labelled = "roles" in examples[0]
    for i, example in enumerate(examples):
        ids, start = torch.tensor(example["input_ids"]), example["prompt_length"]
        batch[0, i, : len(ids)] = ids
        batch[1, i, start : len(ids)] = ids[start:]
        if labelled:
            batch[2, i, start : len(ids)] = torch.tensor(example["roles"])
    found = {"input_ids": batch[0], "labels": batch[1]} | ({"roles": batch[2]} if labelled else {})
    found["example"] = torch.tensor([example["example"] for example in examples])
    if "reference_logprob" in examples[0]:
        found["reference_logprob"] = torch.zeros(len(examples), length)
        for i, example in enumerate(examples):
            start, stored = example["prompt_length"], torch.tensor(example["reference_logprob"])
            found["reference_logprob"][i, start : start + len(stored)] = stored
    return found


def without_targets(example: dict[str, Any]) -> dict[str, Any]:
    """The first two tokens of an example, none of them a target."""
    empty = {name: [] for name in ("roles", "reference_logprob") if name in example}
    return {**example, **empty, "input_ids": example["input_ids"][:2], "prompt_length": 2}


class SeededOrder(Sampler[int]):
    """Every example once an epoch, in an order that depends on seed and epoch alone.

    `size` itself follows, as often as makes their number a multiple of `multiple`: in the last step of an epoch all
    processes get batches of one size, which accelerate would fill with examples of the epoch's beginning.
    """

    def __init__(self, size: int, seed: int, multiple: int = 1) -> None:
        self.size, self.seed, self.epoch = size, seed, 0
        self.fillers = -size % multiple

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's loader before each epoch, also when a run resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size + self.fillers

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist() + [self.size] * self.fillers)


def unseen_examples(size: int, seed: int, steps: int, batch_size: int) -> list[int]:
    """Examples that a run too short for one epoch never trains on, in ascending order."""
    return sorted(list(SeededOrder(size, seed))[steps * batch_size :])


class RunTrainer(ProFitTrainer):
    """ProFitTrainer on batches of `collate`, which appends to `step_log` where there is one (in the first process).

    `planned` is the number of steps of the schedule of the learning rate. `shares` gives the share of tokens to keep
    in each step (objective random); `updates` measures the update_norm of the log. Further arguments are
    ProFitTrainer's.
    """

    def __init__(
        self,
        *,
        train_dataset: Sequence[dict[str, Any]],
        step_log: StepLog | list[dict[str, Any]] | None,
        planned: int,
        shares: Sequence[float] | None = None,
        updates: Updates | None = None,
        **arguments: Any,
    ) -> None:
        self.planned, self.shares, self.updates = planned, shares, updates
        self.answers = len(train_dataset)
        super().__init__(train_dataset=[*train_dataset, without_targets(train_dataset[0])], **arguments)
        self.step_log = step_log
        if updates is not None:
            self.add_callback(updates)
        self._clock = self._said = time.monotonic()
        if self.is_fsdp_enabled and self.args.bf16:
            # accelerate's own policy rounds the loss too, and adds up gradients in bf16. Those of an adapter are left
            # so: torch 2.13 cannot add up otherwise beside a frozen head that is a unit of its own.
            reduce = torch.float32 if not self._has_adapter() else None
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduce)
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = policy

    def kept_share(self) -> float | None:
        """That of the paired run in the same step, or the one stated."""
        return self.shares[self.state.global_step] if self.shares else super().kept_share()

    def create_scheduler(self, num_training_steps: int, *args: Any, **kwargs: Any) -> LRScheduler:
        """The Trainer's, for the steps that are planned."""
        return super().create_scheduler(self.planned, *args, **kwargs)

    def get_batch_samples(self, *args: Any) -> tuple[list[dict[str, Tensor]], int | None]:
        """As ProFitTrainer's; none after the last step, where a run that ended within an epoch would resume."""
        return super().get_batch_samples(*args) if self.state.global_step < self.state.max_steps else ([], None)

    def _get_train_sampler(self, *_: Any) -> SeededOrder:
        together = self.args.per_device_train_batch_size * self.args.world_size
        return SeededOrder(self.answers, self.args.seed, together if self.args.world_size > 1 else 1)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the Trainer's way walks over all parameters in every step."""
        return 0

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """As ProFitTrainer's; InputError that names the step instead of ValueError."""
        try:
            return super().compute_loss(*args, **kwargs)
        except ValueError as error:
            rate = self._get_learning_rate()
            raise InputError(
                f"step {self.state.global_step + 1}: {error}; the learning rate is {rate:g}, and the base may hold NaN"
            ) from None

    def measure(self, inputs: Mapping[str, Tensor], out: TokenLoss) -> dict[str, Tensor]:
        """Also the tokens of each label, and those that are kept."""
        found = super().measure(inputs, out)
        if "roles" not in inputs:
            return found
        roles = inputs["roles"][:, 1:]
        roles = roles[roles != IGNORED]
        for name, chosen in (("of", roles), ("kept", roles[out.weight > 0])):
            counts = torch.bincount(chosen, minlength=len(LABELS)).double()
            found |= {f"{name}_{label}": counts[i] for i, label in enumerate(LABELS)}
        return found

    def log(self, logs: dict[str, float], *_: Any) -> None:
        """Write the row of the step that just ended; InputError if its loss or gradient is no finite number."""
        if "grad_norm" not in logs:
            return
        sums = self.collected_sums()
        sums = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
        tokens, kept, now = sums["tokens"], sums["kept"], time.monotonic()
        row = {
            "step": self.state.global_step,
            "epoch": self.state.epoch,
            "loss": sums["nll"] / tokens,
            "objective_loss": sums["objective"] / (max(kept, 1.0) if self.kept_only else tokens),
            "kept": kept / tokens,
            **{
                f"kept_{label}": sums[f"kept_{label}"] / sums[f"of_{label}"] if sums.get(f"of_{label}") else None
                for label in LABELS
            },
            "weight_mean": sums["weight"] / tokens,
            "near_tau": int(sums["near_tau"]) if "tau" in self.objective else None,
            "grad_norm": logs["grad_norm"],
            "clipped": logs["grad_norm"] > self.args.max_grad_norm,
            "update_norm": None if self.updates is None else self.updates.norm,
            "learning_rate": logs["learning_rate"],
            "tokens": int(tokens),
            "tokens_per_second": tokens / (now - self._clock),
        }
        if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
            raise InputError(
                f"step {row['step']}: found loss {row['loss']} and gradient norm {row['grad_norm']}, expected finite "
                f"numbers; the learning rate is {row['learning_rate']:g}, and the base may hold NaN"
            )
        if self.step_log is not None:
            self.step_log.append(row)
        self._clock = now
        if now - self._said > PROGRESS_SECONDS or row["step"] in (1, self.state.max_steps):
            self._said = now
            log.info(
                "step %d of %d, loss %.4f, kept %.3f, gradient norm %.3f, %.0f tokens/s",
                *(row["step"], self.state.max_steps, row["loss"], row["kept"], row["grad_norm"]),
                row["tokens_per_second"],
            )
