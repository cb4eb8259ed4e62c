"""Backend hf: lm-eval's HFLM with a sampling loop of its own.

transformers' `generate` computes every row of a batch up to the longest answer. The loop below prefills a prompt once
for all of its samples and drops rows as they end: on a small model about four times faster. A token is drawn by
inverting the cumulative distribution at a uniform number that belongs to (seed, request, position), after temperature,
top-k and top-p in the order of transformers; so neither the batch size nor another row's length decides a draw, and
two models of one seed share their random numbers.

No command: used by the rule `evaluate`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from profit.recording import Recording, end_tokens


class RecordingLM(Recording, HFLM):
    """HFLM whose answers are those of `sample`, recorded."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.ends = end_tokens(model.generation_config, tokenizer)

    def answers(
        self, prompts: list[list[int]], batches: list[list[int]], seed: int, max_gen_toks: int, **decoding: Any
    ) -> Iterator[list[list[int]]]:
        """As `Recording.answers`; decoding: arguments of `sample`."""
        uniforms = torch.rand(len(prompts), max_gen_toks, generator=torch.Generator().manual_seed(seed))
        for rows in batches:
            yield sample(self.model, [prompts[row] for row in rows], uniforms[rows], self.ends, **decoding)


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    prompts: list[list[int]],
    uniforms: torch.Tensor,
    ends: list[int],
    do_sample: bool = True,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> list[list[int]]:
    """Continue each prompt until it draws one of `ends` (kept) or has as many new tokens as `uniforms` has columns.

    Args:
        prompts: tokens of each row; equal prompts are computed once.
        uniforms: (rows, max_new_tokens), in [0, 1): the random number of each row's every draw.

    Returns:
        The new tokens of each row.
    """
    device = model.device
    distinct = {tuple(prompt): i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    width = max(map(len, distinct))
    # Left padding: every row's last prompt token stands in the last column.
    padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in distinct]
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in distinct], device=device)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    logits = model(
        torch.tensor(padded, device=device),
        attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True, logits_to_keep=1,
    ).logits[:, -1]  # fmt: skip
    rows = torch.tensor([distinct[tuple(prompt)] for prompt in prompts], device=device)
    alive = torch.arange(len(prompts), device=device)
    uniforms, stops = uniforms.to(device), torch.tensor(ends, device=device)
    drawn = torch.full(uniforms.shape, -1, device=device)
    cache.batch_select_indices(rows)
    logits, mask, place = logits[rows], mask[rows], places[rows, -1:]
    for step in range(uniforms.shape[1]):
        tokens = draw(logits, uniforms[alive, step], temperature, top_k, top_p) if do_sample else logits.argmax(-1)
        drawn[alive, step] = tokens
        going = torch.isin(tokens, stops, invert=True).nonzero()[:, 0]
        if len(going) == 0 or step + 1 == uniforms.shape[1]:
            break
        if len(going) < len(alive):
            cache.batch_select_indices(going)
            alive, tokens, mask, place = alive[going], tokens[going], mask[going], place[going]
        mask, place = torch.nn.functional.pad(mask, (0, 1), value=1), place + 1
        logits = model(
            tokens[:, None], attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=True
        ).logits[:, -1]
    return [[token for token in row if token >= 0] for row in drawn.tolist()]


def draw(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """Draw one token a row: the first whose cumulative probability, likeliest first, exceeds its uniform number.

    Args:
        logits: (rows, vocabulary).
        uniforms: (rows,), in [0, 1).
        top_k: so many likeliest tokens are kept; 0 keeps all.
        top_p: of these, the likeliest until their share reaches `top_p` (Holtzman et al. 2020, arXiv 1904.09751).

    Returns:
        Token ids, (rows,).
    """
    kept = min(top_k or logits.shape[-1], logits.shape[-1])
    values, tokens = (logits.float() / temperature).topk(kept)
    shares = values.softmax(-1)
    cumulative = shares.cumsum(-1)
    # A token stays while those before it hold less than top_p; the first always does.
    stays = cumulative - shares < top_p
    stays[:, 0] = True
    total = (shares * stays).sum(-1, keepdim=True)
    chosen = (cumulative <= uniforms[:, None] * total).sum(-1, keepdim=True)
    # Rounding may carry a number just under 1 past the last token that stays.
    chosen = torch.minimum(chosen, stays.sum(-1, keepdim=True) - 1)
    return tokens.gather(-1, chosen)[:, 0]
