"""transformers' Trainer on a token objective (profit.objectives), with the fused LM head (profit.head).

    ProFitTrainer(model=model, args=args, train_dataset=data, objective={"name": "profit", "tau": 0.1}).train()

loss = (1 / N) sum_t w_t (-log p_t) over the target tokens of an optimizer step, over all its micro-batches and
processes: gradient accumulation and the number of processes change nothing. `ObjectiveMixin` gives the same to any
subclass of Trainer, such as TRL's: `class Mine(ObjectiveMixin, SFTTrainer): pass`.

No command: used by `profit.train` and by other people's code.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import EvalLoopOutput

from profit.fuse import fuse_head
from profit.head import FROM_LOGITS, TokenLoss, token_loss
from profit.logits import IGNORED, LMHead, token_statistics
from profit.objectives import OBJECTIVES, ROLES, TokenStatistics, check_objective, needs_whole_step
from profit.step import Targets, weigh_step

NEAR = 0.05  # a probability this near to tau, relatively, is one that rounding may move across
OWN_COLUMNS = ("labels", "roles", "example", "reference_logprob", "token_weight")


class ObjectiveMixin:
    """Put it before a Trainer class: training and evaluation then minimise `objective`.

    Batches are those of a causal language model: input_ids and labels (batch, length), -100 for what is no target,
    position_ids where several sequences share a row. Three columns may be added: `example` (batch,), a number that
    identifies an example wherever it is batched (random mask), `reference_logprob` (batch, length), the stored
    log-probability of each label under another model (profit_fixed, iw_sft, psft, excess), and `roles` (batch,
    length), the place of each label in ROLES of profit.objectives (truth).

    `reference_model` is the frozen model of objectives that compare whole distributions (asft, gift); with a peft
    model it may be left out, and is the model without its adapter. Further arguments are the Trainer's.

    Logged beside the loss: cross_entropy (of all target tokens, unweighted), kept (share of them with a weight above
    zero), weight_mean and, with a threshold, near_tau (share of what it is compared with within 5 % of it).

    The loss of an evaluation is that of all its target tokens, however they are batched; only an objective that
    compares the tokens of a step compares those of a batch there.

    Raises:
        ValueError: a wrong objective or one that lacks something, an argument of the Trainer that would do nothing
            here; as profit.fuse.fuse_head and profit.head.token_loss.
    """

    # The loss is divided by the target tokens of the whole step here, so the Trainer must not divide it again; it asks
    # one or the other, by its version.
    loss_is_scaled_for_ga = True

    def __init__(
        self, *args: Any, objective: dict[str, Any], reference_model: PreTrainedModel | None = None, **kwargs: Any
    ) -> None:
        check_objective(objective)
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True
        self.objective, self.chosen = objective, OBJECTIVES[objective["name"]]
        self.kept_only = objective.get("normaliser", "all") == "kept" and self.chosen.form != "logits"
        self.whole_step = needs_whole_step(objective) and self.chosen.form != "logits"
        self.reference_model = reference_model
        self.step_sums: dict[str, Tensor] = {}
        self.evaluated: list[Tensor] = []
        self.unweighed: list[tuple[dict[str, Tensor], Targets]] = []
        self.kept: int | None = None
        self._check_arguments()
        fuse_head(self.model)
        if "reference_logits" in self.chosen.needs and reference_model is None and not self._has_adapter():
            raise ValueError(f"objective {objective['name']}: found no reference_model, expected the frozen base")
        if reference_model is not None:
            fuse_head(reference_model.requires_grad_(False).eval().to(self.args.device))
        if "share" in self.chosen.needs and self.kept_share() is None:
            raise ValueError(f"objective {objective['name']}: share: found nothing, expected the share to keep")

    def kept_share(self) -> float | None:
        """Share of tokens that objective random keeps in the current step."""
        return self.objective.get("share")

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], int | None]:
        """The micro-batches of an optimizer step, and how many target tokens the loss is divided by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        targets = [Targets.of(batch) for batch in batches]
        count = sum(len(part) for part in targets)
        if self.accelerator.num_processes > 1:
            count = int(self.accelerator.reduce(torch.tensor(count, device=device)))
        if not count:
            raise ValueError(
                f"step {self.state.global_step + 1}: found no target token, every label is {IGNORED}, expected some"
            )
        self.unweighed, self.kept = [], None
        if self.whole_step and len(batches) * self.accelerator.num_processes > 1:
            self.unweighed = list(zip(batches, targets, strict=True))
        elif self.kept_only:
            # The call of the loss sees the whole step, and counts what it keeps.
            return batches, None
        return batches, count

    def training_step(
        self, model: PreTrainedModel, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The Trainer's, on the first micro-batch of a step after the weights of all: a resumed training has only then
        the random state that dropout and noise are drawn from."""
        if self.unweighed:
            batches, targets = zip(*self.unweighed, strict=True)
            self.unweighed = []
            weights, kept = self._weigh(batches, targets)
            if self.kept_only:
                self.kept = max(kept, 1)
            if self.chosen.scope == "batch":
                for batch, weight in zip(batches, weights, strict=True):
                    batch["token_weight"] = weight
        count = num_items_in_batch if self.kept is None else self.kept
        return super().training_step(model, inputs, count)

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch; its sum over micro-batches, and mean over processes, is the loss of the step."""
        targets = Targets.of(inputs)
        if not model.training:
            # An evaluation has no step: `evaluation_loop` divides by all its tokens.
            num_items_in_batch = None if len(targets) else 1
        arguments = {"known": self._known(inputs, targets), "reference": self._reference(model, inputs)}
        arguments |= {"weight": inputs.get("token_weight"), "count": num_items_in_batch}

        def head(hidden: Tensor, lm_head: LMHead) -> TokenLoss:
            return token_loss(hidden[:, :-1], lm_head, targets.targets, self.objective, **arguments)

        out: TokenLoss = self._forward(model, inputs, head)
        if model.training:
            for name, value in self.measure(inputs, out).items():
                self.step_sums[name] = self.step_sums.get(name, 0) + value
        else:
            self.evaluated.append(self._row_sums(targets, out))
        # Gradients are averaged over processes, while N counts the tokens of all of them.
        loss = out.loss if num_items_in_batch is None else out.loss * self.accelerator.num_processes
        return (loss, {"loss": loss}) if return_outputs else loss

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """The Trainer's, with the loss of all target tokens where it takes the mean of batches."""
        self.evaluated = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        loss, tokens, kept = torch.stack(self.evaluated).sum(0).tolist()
        if not tokens:
            raise ValueError(f"evaluation: found no target token, every label is {IGNORED}, expected some")
        output.metrics[f"{metric_key_prefix}_loss"] = loss / (max(kept, 1) if self.kept_only else tokens)
        return output

    def measure(self, inputs: Mapping[str, Tensor], out: TokenLoss) -> dict[str, Tensor]:
        """What a micro-batch adds to the sums of its step, float64."""
        logprob, tau = out.tokens.logprob, self.objective.get("tau") or math.nan
        compared = logprob if out.tokens.reference is None else out.tokens.reference
        found = {
            "tokens": torch.tensor(len(logprob), device=logprob.device),
            "nll": -logprob.sum(),
            "objective": out.token_loss.sum(),
            "weight": out.weight.sum(),
            "kept": (out.weight > 0).sum(),
            "near_tau": ((compared.exp() - tau).abs() <= NEAR * tau).sum(),
        }
        return {name: value.double() for name, value in found.items()}

    def collected_sums(self) -> dict[str, Tensor]:
        """The sums of `measure` since this was last called, over all processes."""
        sums, self.step_sums = self.step_sums, {}
        if self.accelerator.num_processes > 1:
            sums = dict(zip(sums, self.accelerator.reduce(torch.stack(list(sums.values()))), strict=True))
        return sums

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add to the Trainer's logs what the objective did since the last ones."""
        if "loss" in logs and self.step_sums:
            sums = {name: float(value) for name, value in self.collected_sums().items()}
            tokens = sums["tokens"]
            logs |= {"cross_entropy": sums["nll"] / tokens, "kept": sums["kept"] / tokens}
            logs["weight_mean"] = sums["weight"] / tokens
            if self.objective.get("tau"):
                logs["near_tau"] = sums["near_tau"] / tokens
        super().log(logs, *args, **kwargs)

    def _row_sums(self, targets: Targets, out: TokenLoss) -> Tensor:
        """Loss, target tokens and kept ones of the rows of a batch on every process, summed, float64 (3,)."""
        rows = (targets.targets != IGNORED).nonzero()[:, 0]
        values = torch.stack([out.token_loss, torch.ones_like(out.weight), out.weight > 0], dim=1).double()
        sums = values.new_zeros(len(targets.targets), 3).index_add(0, rows, values)
        # Without the rows that only fill the last batch.
        return self.accelerator.gather_for_metrics(sums).sum(0)

    def _check_arguments(self) -> None:
        """ValueError for what a Trainer takes and this one would leave out in silence."""
        args, loss_type = self.args, getattr(self.args, "loss_type", "nll")
        liger = args.use_liger_kernel and (args.liger_kernel_config or {}).get("fused_linear_cross_entropy", True)
        router = getattr(self.model.config.get_text_config(), "output_router_logits", False)
        for name, found, expected in (
            ("label_smoothing_factor", args.label_smoothing_factor, "0 (there is an objective label_smoothing)"),
            ("loss_type", loss_type != "nll" and loss_type, "nll: the objective says the loss"),
            ("compute_loss_func", self.compute_loss_func, "none: the objective says the loss"),
            ("compute_metrics", self.compute_metrics, "none: there are no logits to compute them from"),
            ("use_liger_kernel", liger, 'liger_kernel_config={"fused_linear_cross_entropy": False} beside it'),
            ("output_router_logits", router, "False (router_aux_loss_coef=0.0 in TRL): the router has no loss here"),
            ("GPUs in one process", args.n_gpu > 1 and args.n_gpu, "one (accelerate launch or torchrun)"),
        ):
            if found:
                raise ValueError(f"{name}: found {found}, expected {expected}")

    def _set_signature_columns_if_needed(self) -> None:
        """The Trainer drops the columns that these do not name."""
        super()._set_signature_columns_if_needed()
        wanted = {"reference": "reference_logprob", "role": "roles", "draw": "example"}
        self._signature_columns += [
            column
            for need, column in wanted.items()
            if need in self.chosen.needs and column not in self._signature_columns
        ]

    def _weigh(self, batches: Sequence[dict[str, Tensor]], targets: Sequence[Targets]) -> tuple[list[Tensor], int]:
        """Weights of a step in several pieces; where they depend on the model, from a pass without gradients."""
        from_model = not set(self.chosen.needs) <= {"draw", "share"} or self.chosen.scope != "batch"
        self.model_wrapped.train()
        pieces = []
        # The pass draws the dropout and noise that training will draw: the same masks see the same model.
        with torch.no_grad(), torch.random.fork_rng([self.args.device] if self.args.device.type == "cuda" else []):
            for batch, part in zip(batches, targets, strict=True):
                statistics = self._statistics(self._prepare_inputs(batch), part) if from_model else {}
                known = self._known(batch, part)
                for name in ("reference", "role"):
                    if name in self.chosen.needs:
                        statistics[name] = getattr(known, name)
                pieces.append((part, statistics))
        return weigh_step(
            self.objective, pieces, self.kept_share(), self.args.seed, self._drawn_at, self._gather,
            self.accelerator.process_index,
        )  # fmt: skip

    @property
    def _drawn_at(self) -> int:
        """The step of the random numbers: 0 where they stay for all steps."""
        return 0 if self.objective.get("redraw") == "never" else self.state.global_step + 1

    def _statistics(self, inputs: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        needs = [name for name in self.chosen.needs if name in FROM_LOGITS]
        return self._forward(
            self.model_wrapped,
            inputs,
            lambda hidden, head: token_statistics(hidden[:, :-1], head, targets.targets, needs),
        )

    def _gather(self, table: Tensor) -> list[Tensor]:
        """The tables (k, n_p) of all processes."""
        if self.accelerator.num_processes == 1:
            return [table]
        sizes = self.accelerator.gather(torch.tensor([table.shape[1]], device=table.device)).tolist()
        padded = self.accelerator.pad_across_processes(table, dim=1)
        parts = self.accelerator.gather(padded[None])
        return [part[:, :size] for part, size in zip(parts, sizes, strict=True)]

    def _known(self, inputs: Mapping[str, Tensor], targets: Targets) -> TokenStatistics:
        """What is known of the target tokens before the model is asked."""
        needs, known = self.chosen.needs, {}
        if "reference" in needs:
            self._expect(inputs, "reference_logprob", "the stored log-probability of each label under another model")
            known["reference"] = inputs["reference_logprob"][:, 1:][targets.targets != IGNORED]
        if "role" in needs:
            self._expect(inputs, "roles", f"the place of each label's role in {', '.join(ROLES)}, from 0")
            known["role"] = role = inputs["roles"][:, 1:][targets.targets != IGNORED]
            if len(wrong := role[(role < 0) | (role >= len(ROLES))]):
                raise ValueError(f"roles: found {int(wrong[0])} at a label, expected 0 to {len(ROLES) - 1}")
        if "draw" in needs:
            if not self._drawn_at:
                self._expect(inputs, "example", "a number of its own for each example, by which its draws stay")
            known["draw"] = targets.draws(self.args.seed, self._drawn_at)
        if "sequence" in needs:
            known["sequence"] = targets.sequence
        if "share" in needs:
            known["share"] = self.kept_share()
        return TokenStatistics(logprob=None, **known)

    def _expect(self, inputs: Mapping[str, Tensor], column: str, what: str) -> None:
        if column not in inputs:
            raise ValueError(
                f"objective {self.objective['name']}: found a batch with the columns {sorted(inputs)}, expected also "
                f"{column}: {what}"
            )

    def _reference(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[Tensor, LMHead] | None:
        """Hidden states and head of the reference model, for an objective that needs its logits."""
        if "reference_logits" not in self.chosen.needs:
            return None
        training, own = model.training, self.reference_model is None
        try:
            with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter() if own else nullcontext():
                reference = model.eval() if own else self.reference_model
                return self._forward(reference, inputs, lambda hidden, head: (hidden[:, :-1], head))
        finally:
            model.train(training)

    def _has_adapter(self) -> bool:
        return hasattr(self.model, "disable_adapter") and hasattr(self.model, "get_base_model")

    def _forward(self, model: Any, inputs: Mapping[str, Tensor], head: Callable[[Tensor, LMHead], Any]) -> Any:
        """`head` of the hidden states of a batch."""
        given = {name: value for name, value in inputs.items() if name not in OWN_COLUMNS}
        return model(**given | {"use_cache": False}, token_head=head)


class ProFitTrainer(ObjectiveMixin, Trainer):
    """transformers' Trainer that minimises a token objective; see ObjectiveMixin."""
