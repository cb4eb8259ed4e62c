"""Whose gradient a batch follows, by token probability; and the norm bound of Theorem 1, token by token (paper §4.2).

Theorem 1 bounds the length of one token's gradient from below and says nothing of its direction. So, for the loss
l_t = -log p_t of each target token of the sampled prompts (one reference each): G = sum_t grad l_t, over all
parameters; G_b the sum over the tokens of a bin of p_t (and of a label); share_b = <G_b, G> / |G|^2, the part of the
fall of the batch's loss, to first order in a plain gradient step, that is due to them. Shares of the bins sum to 1,
and one may be negative. Beside it: the share of the tokens; `ratio`, the one over the other; the cosine of G_b and G;
`norm`, |G_b| over the number of all tokens. <grad l_t, G> comes for every token at once, by differentiating
sum_t w_t <grad l_t, G> by w. Intervals: 95 % percentile bootstrap of prompts, in which G stays that of the sample, an
approximation. The sample is one batch: the smaller a batch, the more a token's share of itself, |grad l_t|^2, weighs.

The bound, for `tokens` of these tokens drawn at random: |grad l_t| >= gamma (1 - p_t), gamma <= sigma_min(J). What
gamma is, and what is known of sigma_min, stands in profit.jacobian. Columns of such a token: gradient_norm |grad l_t|;
logit_gradient_norm |grad_z l_t|; head_factor; bound = head_factor (1 - p_t); sigma_min and sigma_max, of the first
`exact` of them; `holds`, missing where the embeddings are tied, the norm is below the bound and sigma_min is unknown.
In the summary `looseness` is norm over bound: its 5 %, 50 % and 95 % quantile.

    python -m profit gradients --model DIR [--tuned DIR] --references R [--annotations A]
        --settings '{"prompts": 64, "tokens": 60, "seed": 0}' --output summary.json --tokens-output tokens.parquet
"""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import spearmanr
from torch import Tensor
from transformers import PreTrainedModel

from profit import provenance, statistics
from profit.correlate import BIN_EDGES, LEVEL, SPAN_COLUMNS, label_tokens
from profit.data import LABELS, Encoded, choose_references, encode_all, load_references
from profit.files import InputError, read_parquet, write_json, write_parquet
from profit.jacobian import dot, is_tied, prepare, singular_values, token_losses, token_norms
from profit.models import load_run, load_tokenizer
from profit.score import BATCH_TOKENS, batches, score_frame
from profit.validation import validated

log = logging.getLogger(__name__)

ROUNDING = 1e-5  # of the norm of a float32 gradient
NORMS = ["gradient_norm", "logit_gradient_norm", "head_factor", "bound", "sigma_min", "sigma_max"]


class Settings(BaseModel):
    """The JSON of --settings: prompts of the batch, tokens whose norm is checked, `exact` of them with sigma_min."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    prompts: int = Field(64, ge=1)
    tokens: int = Field(60, ge=2)
    exact: int = Field(3, ge=0)
    batch_tokens: int = Field(BATCH_TOKENS, ge=1)  # most tokens, padding included, of one pass
    bootstrap: int = Field(2_000, ge=1)
    seed: int = Field(0, ge=0)


def read_settings(text: str) -> Settings:
    """Read the JSON of --settings; InputError names what is unknown or out of range."""
    try:
        return validated(Settings, json.loads(text), "--settings")
    except json.JSONDecodeError as error:
        raise InputError(f"--settings: found {text!r} ({error}), expected JSON") from None


def passes(answers: Sequence[Encoded], chosen: NDArray[np.bool_], batch_tokens: int) -> Iterator[tuple[list, Tensor]]:
    """(answers, rows of their target tokens) of each pass over the answers that hold a token of `chosen` (tokens,)."""
    stops = np.cumsum([len(answer.spans) for answer in answers])
    own = np.split(np.arange(stops[-1]), stops[:-1])
    kept = [row for row in range(len(answers)) if chosen[own[row]].any()]
    for rows in batches([len(answers[row].input_ids) for row in kept], batch_tokens):
        numbers = np.concatenate([own[kept[row]] for row in rows])
        yield [answers[kept[row]] for row in rows], torch.from_numpy(numbers)


def group_gradient(
    model: PreTrainedModel, answers: Sequence[Encoded], chosen: NDArray[np.bool_], batch_tokens: int = BATCH_TOKENS
) -> list[Tensor]:
    """Sum of grad l_t over the `chosen` (tokens,) target tokens of `answers`, one tensor a parameter."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for part, numbers in passes(answers, chosen, batch_tokens):
        weight = torch.from_numpy(chosen)[numbers].double().to(model.device)
        found = torch.autograd.grad(token_losses(model, part)[0] @ weight, parameters, materialize_grads=True)
        for sum_, gradient in zip(total, found, strict=True):
            sum_ += gradient
    return total


def inner_products(
    model: PreTrainedModel, answers: Sequence[Encoded], direction: list[Tensor], batch_tokens: int = BATCH_TOKENS
) -> NDArray[np.float64]:
    """<grad l_t, direction> of every target token of `answers`, shape (tokens,); `direction` as `group_gradient`."""
    parameters = list(model.parameters())
    every = np.ones(sum(len(answer.spans) for answer in answers), dtype=bool)
    products = np.empty(len(every))
    for part, numbers in passes(answers, every, batch_tokens):
        loss = token_losses(model, part)[0]
        weight = torch.ones_like(loss, requires_grad=True)
        found = torch.autograd.grad(loss @ weight, parameters, create_graph=True, materialize_grads=True)
        products[numbers] = torch.autograd.grad(dot(found, direction), weight)[0].cpu().numpy()
    return products


def draw_prompts(references: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """One reference of each of `prompts` random prompts: what a run of this seed on one reference trains on first."""
    chosen = choose_references(references, 1, settings.seed)
    if len(chosen) < settings.prompts:
        raise InputError(f"--settings prompts: found {settings.prompts}, expected at most the {len(chosen)} there are")
    drawn = np.random.default_rng(settings.seed).permutation(len(chosen))[: settings.prompts]
    return chosen.iloc[np.sort(drawn)].reset_index(drop=True)


def shares(
    model: PreTrainedModel, answers: Sequence[Encoded], tokens: pd.DataFrame, settings: Settings
) -> tuple[NDArray[np.float64], list[dict[str, Any]]]:
    """Each token's share <grad l_t, G> / |G|^2, shape (tokens,), and one row a label (and `all`) and bin (and [0, 1]).

    `tokens` is one row a target token of `answers`, with prompt_id, probability and label (None: labels unknown).
    """
    size, count = settings.batch_tokens, len(tokens)
    total = group_gradient(model, answers, np.ones(count, dtype=bool), size)
    square = float(dot(total, total))
    share = inner_products(model, answers, total, size) / square
    prompt = np.unique(tokens.prompt_id, return_inverse=True)[1]
    weights = statistics.bootstrap_weights(prompt.max() + 1, settings.bootstrap, settings.seed)
    bin_ = np.searchsorted(BIN_EDGES[1:-1], tokens.probability, side="right")
    rows = []
    for label in ("all", *(LABELS if tokens.label.notna().any() else ())):
        for number, (low, high) in enumerate([(BIN_EDGES[0], BIN_EDGES[-1]), *pairwise(BIN_EDGES)], start=-1):
            chosen = ((label == "all") | (tokens.label == label)).to_numpy() & ((number < 0) | (bin_ == number))
            own = group_gradient(model, answers, chosen, size)
            norm = float(dot(own, own).sqrt())
            cosine = float(dot(own, total)) / (norm * square**0.5) if norm else None
            row = {"label": label, "low": low, "high": high, "tokens": int(chosen.sum())}
            row |= {"norm": norm / count, "cosine": cosine}
            rows.append(row | share_of(chosen, share, prompt, weights))
    return share, rows


def share_of(
    chosen: NDArray[np.bool_], share: NDArray[np.float64], prompt: NDArray[np.int64], weights: NDArray[np.float64]
) -> dict[str, float | None]:
    """Shares of gradient and of tokens of the `chosen` (tokens,), and their ratio, None without any, with intervals.

    Args: each token's share and the number of its prompt, (tokens,); bootstrap weights (resamples, prompts).
    """

    def draws(values: NDArray) -> NDArray[np.float64]:
        sums = [np.bincount(prompt, part, minlength=weights.shape[1]) for part in (values * chosen, values)]
        return statistics.bootstrap_ratio(*sums, weights)

    row = {"token_share": float(chosen.mean()), "share": float(share[chosen].sum())}
    shares_drawn = draws(share)
    row["share_low"], row["share_high"] = statistics.percentile_interval(shares_drawn, LEVEL)
    if not chosen.any():
        return row | {"ratio": None, "ratio_low": None, "ratio_high": None}
    # Resamples without a token of the group have no ratio.
    tokens_drawn = draws(np.ones(len(share)))
    present = tokens_drawn > 0
    low, high = statistics.percentile_interval(shares_drawn[present] / tokens_drawn[present], LEVEL)
    return row | {"ratio": row["share"] / row["token_share"], "ratio_low": low, "ratio_high": high}


def norms(
    model: PreTrainedModel, answers: Sequence[Encoded], tokens: pd.DataFrame, settings: Settings
) -> pd.DataFrame:
    """NORMS and `holds` of `tokens` random target tokens, indexed by their rows in `tokens`, in the order drawn."""
    drawn = np.random.default_rng(settings.seed).permutation(len(tokens))[: settings.tokens]
    owner = np.repeat(np.arange(len(answers)), [len(answer.spans) for answer in answers])[drawn]
    rows = []
    for number, (own, position) in enumerate(zip(owner, tokens.position.to_numpy()[drawn].tolist(), strict=True)):
        row = token_norms(model, answers[own], position)
        rows.append(row | (singular_values(model, answers[own], position) if number < settings.exact else {}))
    found = pd.DataFrame(rows, index=drawn, columns=NORMS, dtype=np.float64)
    norm = found.gradient_norm * (1 + ROUNDING)
    found["holds"] = (norm >= found.bound).astype("boolean")
    if is_tied(model):
        exact = norm >= found.bound * found.sigma_min / found.head_factor
        found.loc[~found.holds, "holds"] = exact.astype("boolean").mask(found.sigma_min.isna())
    return found


def summarise_norms(found: pd.DataFrame, tokens: pd.DataFrame, tied: bool) -> dict[str, Any]:
    """How often the bound held, how loose it is, and how norm and share follow 1 - p (Spearman's rank correlation)."""
    rest, exact = found.bound / found.head_factor, found.sigma_min.notna()
    looseness = found.gradient_norm / found.bound
    return {
        "tied": tied,
        "tokens": len(found),
        "violations": int((~found.holds).sum()),
        "undecided": int(found.holds.isna().sum()),
        "above_head_bound": int((looseness * (1 + ROUNDING) >= 1).sum()),
        "looseness": dict(zip(("low", "median", "high"), looseness.quantile([0.05, 0.5, 0.95]), strict=True)),
        "rank_correlation": {
            "norm": float(spearmanr(rest, found.gradient_norm).statistic),
            "share_of_all_tokens": float(spearmanr(1 - tokens.probability, tokens.share).statistic),
        },
        "exact": {
            "tokens": int(exact.sum()),
            "sigma_min_over_head_factor": (found.sigma_min / found.head_factor)[exact].tolist(),
            "sigma_max_over_sigma_min": (found.sigma_max / found.sigma_min)[exact].tolist(),
            "looseness": (found.gradient_norm / (found.sigma_min * rest))[exact].tolist(),
        },
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit gradients", description="Measure gradients by token probability, and Theorem 1."
    )
    parser.add_argument("--model", required=True, help="Hugging Face model folder")
    parser.add_argument("--tuned", help="model or adapter folder of a run from it; left out: the base itself")
    parser.add_argument("--references", required=True, help="references.parquet")
    parser.add_argument("--annotations", help="labelled spans, from profit.annotate; left out: no labels")
    parser.add_argument(
        "--settings", required=True, help="JSON: prompts, tokens, exact, batch_tokens, bootstrap, seed"
    )
    parser.add_argument("--output", required=True, help="summary, JSON")
    parser.add_argument("--tokens-output", required=True, help="one row a target token of the sample, Parquet")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO)
    args = make_parser().parse_args(argv)
    settings = read_settings(args.settings)
    spans = None if args.annotations is None else read_parquet(args.annotations, SPAN_COLUMNS)
    chosen = draw_prompts(load_references(args.references), settings)
    named = {"model": args.model, "tuned": args.tuned, **settings.model_dump()}
    with provenance.job("gradients", settings=named, world=provenance.world_of(args.references)) as job:
        tokenizer = load_tokenizer(args.model)
        model = prepare(load_run(args.model, args.tuned), args.tuned or args.model)
        tokens = score_frame(model, tokenizer, chosen, settings.batch_tokens)
        if len(tokens) < settings.tokens:
            raise InputError(f"--settings tokens: found {settings.tokens}, expected at most the {len(tokens)} drawn")
        tokens["probability"] = np.minimum(np.exp(tokens.logprob.to_numpy(np.float64)), 1.0)
        tokens["label"] = None if spans is None else label_tokens(tokens, spans, args.annotations)
        answers = encode_all(tokenizer, chosen.prompt.tolist(), chosen.answer.tolist())
        tokens["share"], groups = shares(model, answers, tokens, settings)
        found = norms(model, answers, tokens, settings)
        job.tokens(len(tokens), "scored")
        record = job.record()
        tokens = tokens.drop(columns=["start", "end", "logprob", "entropy", "rank"]).join(found)
        write_parquet(args.tokens_output, tokens, {"provenance": record})
        summary = summarise_norms(found, tokens, is_tied(model))
        sample = {
            "prompts": len(chosen),
            "tokens": len(tokens),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
        write_json(args.output, {"sample": sample, "theorem": summary, "groups": groups, "provenance": record})
    log.info("%s: %s", args.output, {key: summary[key] for key in ("violations", "undecided", "rank_correlation")})


if __name__ == "__main__":
    main()
