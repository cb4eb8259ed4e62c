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

from profit.logits import LMHead, make_logits

PROBE = 4  # tokens whose logits are compared


def fuse_head(model: torch.nn.Module) -> None:
    """Let `model`, a causal language model of transformers or a peft model around one, take `token_head`.

    Its forward then returns token_head(hidden, head): hidden (batch, length, d) are the states that reach the LM head.

    Raises:
        ValueError: no LM head, one that is no plain linear layer (an adapter on it, or quantised), or logits that are
            more than weight, bias, scale and soft cap make of the hidden states.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(causal, "_head_is_fused", False):
        return
    original = causal.forward
    # As a function, so that a copy of the model calls its own forward.
    function = getattr(original, "__func__", None)
    lm_head(causal)

    @functools.wraps(original)
    def forward(self: torch.nn.Module, *args: Any, token_head: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
        if token_head is None:
            return function(self, *args, **kwargs) if function else original(*args, **kwargs)
        # peft hands over arguments that nobody gave, some of which only the whole model knows.
        given = {key: value for key, value in kwargs.items() if value is not None}
        hidden = self.base_model(*args, **given)[0]
        return token_head(hidden, lm_head(self))

    causal.forward = types.MethodType(forward, causal)
    causal._head_is_fused = True
    try:
        _compare(causal, original)
    except ValueError:
        causal.forward = original
        causal._head_is_fused = False
        raise


def lm_head(model: torch.nn.Module) -> LMHead:
    """The LM head of a causal language model of transformers; ValueError as `fuse_head`."""
    layer = model.get_output_embeddings()
    if not isinstance(layer, torch.nn.Linear) or not layer.weight.is_floating_point():
        kind = "no LM head" if layer is None else f"an LM head of type {type(layer).__name__}"
        raise ValueError(
            f"{type(model).__name__}: found {kind}, expected torch.nn.Linear with floating-point weights: the loss "
            "reads its weight directly and would never train an adapter on it (leave it out of target_modules)"
        )
    config = model.config.get_text_config()
    scale = 1.0
    for name, power in (("logit_scale", 1), ("logits_scaling", -1), ("lm_head_multiplier", 1)):
        scale *= (getattr(config, name, None) or 1.0) ** power
    return LMHead(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def _compare(model: torch.nn.Module, original: Callable[..., Any]) -> None:
    """ValueError unless the head makes the logits of the model's own forward, on a few tokens."""
    weight = model.get_output_embeddings().weight
    if weight.is_meta:
        return
    training = model.training
    model.eval()
    ids = torch.arange(PROBE, device=weight.device)[None] % weight.shape[0]
    try:
        own = original(input_ids=ids, use_cache=False).logits[0].float()
        made: Tensor = model(
            input_ids=ids, use_cache=False, token_head=lambda hidden, head: make_logits(hidden[0], head)
        ).float()
    finally:
        model.train(training)
    # The model's own logits are rounded to its precision; a scale or cap that was missed moves them by far more.
    eps = torch.finfo(weight.dtype).eps
    tolerance = float(own.abs().nan_to_num().max()) * (4 * eps if eps > 1e-4 else 1e-5)
    if not torch.allclose(made, own, rtol=0, atol=tolerance, equal_nan=True):
        raise ValueError(
            f"{type(model).__name__}: found logits up to {float((made - own).abs().max()):.3g} away from those that "
            "weight, bias, scale and soft cap of its LM head make, expected the same: its forward does more"
        )
