"""The model under evaluation: lm-eval's HFLM that keeps what HFLM throws away, with a sampling loop of its own.

HFLM decodes without special tokens and pads finished answers, so that the end token, the cut-offs and the token counts
are lost; here every answer's new tokens and its end are recorded (`generations`). HFLM also cuts a prompt that is too
long with a mere warning; here it is an error before anything is generated.

transformers' `generate` computes every row of a batch up to the longest answer. The loop below prefills a prompt once
for all of its samples and drops rows as they end: on a small model about four times faster. A token is drawn by
inverting the cumulative distribution at a uniform number that belongs to (seed, request, position), after temperature,
top-k and top-p in the order of transformers; so neither the batch size nor another row's length decides a draw, and
two models of one seed share their random numbers.

No command: used by the rule `evaluate`.
"""

from dataclasses import dataclass

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from profit.files import InputError


@dataclass(frozen=True)
class Generation:
    """One answer: text without special tokens, number of new tokens with the end token, and whether it ended so."""

    text: str
    tokens: int
    ended: bool


class RecordingLM(HFLM):
    """HFLM that answers `generate_until` requests by `sample`; `generations` holds the last call's, in its order."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.generations: list[Generation] = []

    def encode_requests(self, requests: list[Instance]) -> list[list[int]]:
        """Tokens of each request's prompt.

        Raises:
            InputError: a prompt leaves less of the context than its max_gen_toks.
        """
        # The chat template has already put in every special token.
        prompts = self.tokenizer([request.args[0] for request in requests], add_special_tokens=False)["input_ids"]
        for request, prompt in zip(requests, prompts, strict=True):
            new = request.args[1]["max_gen_toks"]
            if len(prompt) + new > self.max_length:
                raise InputError(
                    f"{request.task_name}, item {request.doc.get('id', request.doc_id)}: found a prompt of "
                    f"{len(prompt)} tokens and {new} new tokens, expected at most {self.max_length} together "
                    "(the model's context)"
                )
        return prompts

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answer the requests of one task; generation_kwargs: arguments of `sample`, max_gen_toks, seed, until.

        Raises:
            InputError: a prompt is too long, or `until` holds stop texts: only an end token or the cap ends an answer.
        """
        task, settings = requests[0].task_name, dict(requests[0].args[1])
        if settings.pop("until"):
            raise InputError(f"{task}/generation_kwargs/until: found stop texts, expected []")
        prompts = self.encode_requests(requests)
        random = torch.Generator().manual_seed(settings.pop("seed"))
        uniforms = torch.rand(len(prompts), settings.pop("max_gen_toks"), generator=random)
        ends = end_tokens(self.model, self.tokenizer)
        answers: list[list[int]] = [[] for _ in prompts]
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in tqdm(range(0, len(prompts), self.batch_size), desc=f"{task} batches", disable=disable_tqdm):
            rows = by_length[start : start + self.batch_size]
            found = sample(self.model, [prompts[i] for i in rows], uniforms[rows], ends, **settings)
            for i, answer in zip(rows, found, strict=True):
                answers[i] = answer
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        self.generations = [
            Generation(text, len(answer), answer[-1] in ends) for text, answer in zip(texts, answers, strict=True)
        ]
        return texts


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the tokenizer's end token and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*configured, tokenizer.eos_token_id] if token is not None})


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
