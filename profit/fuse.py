"""Gives a transformers model a forward that ends in a function of hidden states and LM head, without logits.

    fuse_head(model)
    out = model(input_ids=ids, token_head=lambda hidden, head: token_loss(hidden[:, :-1], head, labels[:, 1:], …))

The function runs inside the model's own forward, where FSDP has the weight of the LM head at hand. Without
`token_head` the model does what it did before. Bias, scale and soft cap of the logits are read from the model, and the
logits that follow are compared with its own once: a model that does more to them is refused, not trained wrongly.

No command: used by `profit.trainer` and `profit.score`.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial

from profit.logits import LMHead, make_logits

PROBE = 4  # tokens whose logits are compared
# Names of the factor that a model's configuration puts on its logits, and the power it comes in.
SCALES = {"logit_scale": 1, "output_multiplier": 1, "lm_head_multiplier": 1, "logits_scaling": -1}


def fuse_head(model: torch.nn.Module) -> None:
    """Let `model`, a causal language model of transformers or a peft model around one, take `token_head`.

    Its forward then returns token_head(hidden, head): hidden (batch, length, d) are the states that reach the LM head.
    Wrap the model in DDP or FSDP, or compile it, after that.

    Raises:
        ValueError: no causal language model, an LM head that is no plain linear layer (an adapter on it, quantised),
            or logits that are more than weight, bias, scale and soft cap make of the hidden states. The model is then
            as it was.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(causal, "_head_is_fused", False):
        return
    before, original = causal.__dict__.get("forward"), causal.forward
    # As a function, so that a copy of the model calls its own forward.
    function = getattr(original, "__func__", None)
    lm_head(causal)
    if causal.config.is_encoder_decoder or causal.base_model is causal:
        raise ValueError(f"{type(causal).__name__}: found no backbone of its own, expected a causal language model")

    # The Trainer and `generate` ask for the arguments of forward, so they must stay those of the model.
    @functools.wraps(type(causal).forward)
    def forward(self: torch.nn.Module, *args: Any, token_head: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
        if token_head is None:
            return function(self, *args, **kwargs) if function else original(*args, **kwargs)
        # peft hands over arguments that nobody gave, some of which only the whole model knows.
        given = {key: value for key, value in kwargs.items() if value is not None}
        hidden = self.base_model(*args, **given)[0]
        return _finish(self, hidden, token_head)

    causal.forward = types.MethodType(forward, causal)
    causal._head_is_fused = True
    try:
        _compare(causal, original)
    except Exception:
        del causal.forward, causal._head_is_fused
        if before is not None:
            causal.forward = before
        raise


@torch.compiler.disable
def _finish(model: torch.nn.Module, hidden: Tensor, token_head: Callable[..., Any]) -> Any:
    """Where a compiled graph ends: the number of tokens that matter differs from batch to batch."""
    return token_head(hidden, lm_head(model))


def lm_head(model: torch.nn.Module) -> LMHead:
    """The LM head of a causal language model of transformers; ValueError as `fuse_head`."""
    layer = getattr(model, "get_output_embeddings", lambda: None)()
    if not isinstance(layer, torch.nn.Linear) or not layer.weight.is_floating_point():
        kind = "no LM head" if layer is None else f"an LM head of type {type(layer).__module__}.{type(layer).__name__}"
        raise ValueError(
            f"{type(model).__name__}: found {kind}, expected torch.nn.Linear with floating-point weights: the loss "
            "reads its weight directly, and would never train an adapter or a copy of it (leave it out of "
            "target_modules, modules_to_save and the units of FSDP1)"
        )
    if layer.weight.dim() != 2 or not layer.weight.numel():
        raise ValueError(
            f"{type(model).__name__}: found an LM-head weight of shape {tuple(layer.weight.shape)}, expected a "
            "matrix: fuse the head before FSDP1 or ZeRO shards it, and let the model's root hold it"
        )
    config = model.config.get_text_config()
    scale = 1.0
    for name, power in SCALES.items():
        # HyperCLOVA X multiplies by what the others divide by.
        power = abs(power) if config.model_type == "hyperclovax" else power
        scale *= (getattr(config, name, None) or 1.0) ** power
    softcap = getattr(config, "final_logit_softcapping", None)
    return LMHead(_whole(layer.weight), None if layer.bias is None else _whole(layer.bias), scale, softcap)


def _whole(parameter: Tensor) -> Tensor:
    """All of a parameter of which FSDP2 holds a part, because it shards the LM head as a unit of its own."""
    if not isinstance(parameter, DTensor):
        return parameter
    mesh = parameter.device_mesh
    found = parameter.full_tensor(grad_placements=[Partial("sum")] * mesh.ndim)
    if found.requires_grad:
        # The mean over processes, as FSDP gives; gloo has no reduction that takes it.
        found.register_hook(lambda gradient: gradient / mesh.size())
    return found


@torch.no_grad()
def _compare(model: torch.nn.Module, original: Callable[..., Any]) -> None:
    """ValueError unless the head makes the logits of the model's own forward, on a few tokens."""
    weight = model.get_output_embeddings().weight
    if weight.is_meta:
        return
    training = [module for module in model.modules() if module.training]
    model.eval()
    ids = torch.arange(PROBE, device=weight.device)[None] % weight.shape[0]
    try:
        own = original(input_ids=ids, use_cache=False).logits[0].float()
        made: Tensor = model(
            input_ids=ids, use_cache=False, token_head=lambda hidden, head: make_logits(hidden[0], head)
        ).float()
    finally:
        for module in training:
            module.training = True
    # The model's own logits are rounded to its precision; a scale or cap that was missed moves them by far more.
    eps = torch.finfo(weight.dtype).eps
    tolerance = float(own.abs().nan_to_num().max()) * (4 * eps if eps > 1e-4 else 1e-5)
    if not torch.allclose(made, own, rtol=0, atol=tolerance, equal_nan=True):
        raise ValueError(
            f"{type(model).__name__}: found logits up to {float((made - own).abs().max()):.3g} away from those that "
            "weight, bias, scale and soft cap of its LM head make, expected the same: its forward does more"
        )
