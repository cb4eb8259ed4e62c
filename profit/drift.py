"""Drift of a run from its base: divergence of their predictions on held references, and distance of their weights.

With p the base's distribution over the whole vocabulary at a target token, and q the run's, in nats a token:

    KL(base || run) = sum_v p_v log(p_v / q_v)        KL(run || base) = sum_v q_v log(q_v / p_v)

exactly, in float64 from float32 logits, a few hundred tokens at a time; means over the targets of the held references,
and over those of each label where there are labels. Of all weights theta, an adapter merged and tied ones once:
||theta_run - theta_base||_2, also relative to ||theta_base||_2, in float32 whatever the precision of --compute.

    python -m profit drift --model BASE --tuned RUN --references P [--annotations P] [--max-length N] [--compute …]
        --output JSON
"""

import argparse
import logging
import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from profit import provenance
from profit.data import LABELS, Encoded, cut_all, encode_all, load_annotations, load_references, token_labels
from profit.files import InputError, write_json
from profit.fuse import fuse_head
from profit.logits import CHUNK_BYTES, LMHead, Visited, make_logits, select_rows, sweep, target_rows
from profit.models import (
    PLAIN,
    context_length,
    load_model,
    load_run,
    load_tokenizer,
    load_weights,
    pad_token,
    parse_compute,
)
from profit.run_trainer import collate
from profit.score import BATCH_TOKENS, batches

log = logging.getLogger(__name__)

DIRECTIONS = ("kl_base_run", "kl_run_base")


@torch.inference_mode()
def divergences(base: torch.nn.Module, run: torch.nn.Module, batch: list[Encoded], pad: int) -> NDArray[np.float64]:
    """KL(base || run) and KL(run || base) at every target of some encoded answers, row by row; (targets, 2), nats.

    Both models are fused (profit.fuse) and on one device.
    """
    rows = [{"input_ids": item.input_ids, "prompt_length": item.prompt_length, "example": 0} for item in batch]
    inputs = collate(rows, pad)
    ids, targets = (inputs[name].to(base.device) for name in ("input_ids", "labels"))

    def states(model: torch.nn.Module) -> tuple[Tensor, LMHead]:
        # Padding stands on the right, where a causal model's targets cannot see it: no attention mask is needed.
        return model(input_ids=ids, use_cache=False, token_head=lambda hidden, head: (hidden[:, :-1], head))

    (hidden, head), (other, other_head) = states(base), states(run)
    places = target_rows(hidden, head, targets[:, 1:])
    other = select_rows(other, places)

    def visit(z: Tensor, part: Tensor) -> Visited:
        p, q = (logits.double().log_softmax(-1) for logits in (z, make_logits(other[part], other_head)))
        return dict(zip(DIRECTIONS, (divergence(p, q), divergence(q, p)), strict=True)), None

    found = sweep(select_rows(hidden, places), head, torch.arange(len(places), device=ids.device), visit, CHUNK_BYTES)
    return torch.stack([found[name] for name in DIRECTIONS], dim=1).cpu().numpy()


def held_divergences(
    base: torch.nn.Module, run: torch.nn.Module, encoded: list[Encoded], pad: int
) -> NDArray[np.float64]:
    """`divergences` of many answers, answers of like length together; (targets, 2), in the order of the answers."""
    fuse_head(base)
    fuse_head(run)
    values: list[NDArray[np.float64]] = [np.empty(0)] * len(encoded)
    for rows in batches([len(item.input_ids) for item in encoded], BATCH_TOKENS):
        found = divergences(base, run, [encoded[row] for row in rows], pad)
        cuts = np.cumsum([len(encoded[row].spans) for row in rows])[:-1]
        for row, own in zip(rows, np.split(found, cuts), strict=True):
            values[row] = own
    return np.concatenate(values)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) (n,) of log-probabilities (n, V); an entry of probability 0 adds nothing."""
    return torch.where(p > -math.inf, p.exp() * (p - q), 0.0).sum(-1)


def weights_distance(base: str, tuned: str) -> dict[str, float]:
    """L2 norm of the change of all weights from the base to a run, of the base's, and their ratio.

    Raises:
        InputError: as profit.models.load_run, or parameters of other names or shapes.
    """
    model = load_run(base, tuned)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    before, after = (dict(found.named_parameters()) for found in (load_weights(base), model))
    shapes = [{name: tuple(value.shape) for name, value in found.items()} for found in (before, after)]
    if odd := sorted(dict(shapes[0].items() ^ shapes[1].items())):
        found, expected = (shape.get(odd[0], "none") for shape in reversed(shapes))
        raise InputError(f"{tuned}: {odd[0]}: found shape {found}, expected {expected} as in {base}")
    with torch.no_grad():
        change = sum(float((after[name].cpu() - value).double().square().sum()) for name, value in before.items())
        whole = sum(float(value.double().square().sum()) for value in before.values())
    return {"distance": math.sqrt(change), "base": math.sqrt(whole), "relative": math.sqrt(change / whole)}


def parts_of(values: NDArray[np.float64], labels: NDArray[np.str_] | None) -> dict[str, dict[str, Any]]:
    """Tokens and mean of each of DIRECTIONS (None without a token) of all `values` (tokens, 2), and of each label."""
    masks = {"all": np.ones(len(values), dtype=bool)}
    masks |= {} if labels is None else {label: labels == label for label in LABELS}
    return {
        part: {"tokens": int(mask.sum())}
        | {name: float(values[mask, i].mean()) if mask.any() else None for i, name in enumerate(DIRECTIONS)}
        for part, mask in masks.items()
    }


def held_references(path: str) -> pd.DataFrame:
    """The references that no run learns from; InputError if there is none."""
    references = load_references(path)
    held = references[references.held].reset_index(drop=True)
    if held.empty:
        raise InputError(f"{path}: found no held reference, expected some that no run learns from")
    return held


def labels_of(encoded: list[Encoded], references: pd.DataFrame, path: str) -> NDArray[np.str_]:
    """Label of every target; InputError as profit.data.load_annotations, or for an answer without labels."""
    spans, labels = load_annotations(path, references), []
    for item, prompt, reference in zip(encoded, references.prompt_id, references.reference_id, strict=True):
        if (prompt, reference) not in spans:
            raise InputError(f"{path}: found nothing for prompt {prompt!r}, reference {reference}, expected spans")
        labels += token_labels(item.spans, spans[prompt, reference])
    return np.array(labels)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit drift", description="Measure how far a run's model drifted from its base."
    )
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--tuned", required=True, help="folder of the run's model, or of its adapter")
    parser.add_argument("--references", required=True, help="references.parquet")
    parser.add_argument("--annotations", help="labelled spans of all answers; left out: no part but all")
    parser.add_argument("--max-length", type=int, help="cut longer answers at so many tokens, the prompt's included")
    parser.add_argument("--compute", type=parse_compute, default=PLAIN, help="how the models are held, as JSON")
    parser.add_argument("--output", required=True, help="JSON")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO)
    args = make_parser().parse_args(argv)
    world = provenance.world_of(args.references)
    settings = {key: getattr(args, key) for key in ("model", "tuned", "max_length")}
    settings["compute"] = args.compute.model_dump()
    with provenance.job("drift", settings=settings, world=world) as job:
        references, tokenizer = held_references(args.references), load_tokenizer(args.model)
        encoded = encode_all(tokenizer, references.prompt.tolist(), references.answer.tolist())
        limit = min(args.max_length or math.inf, context_length(args.model))
        encoded, _ = cut_all(encoded, references.prompt_id.tolist(), limit, args.references)
        labels = None if args.annotations is None else labels_of(encoded, references, args.annotations)
        distance = weights_distance(args.model, args.tuned)
        base, run = load_model(args.model, compute=args.compute), load_run(args.model, args.tuned, args.compute)
        values = held_divergences(base, run, encoded, pad_token(tokenizer))
        if not np.isfinite(values).all():
            raise InputError(f"{args.tuned}: found divergences that are no finite numbers, expected finite logits")
        job.tokens(len(values), "scored")
        parts = parts_of(values, labels)
        found = {"references": len(references), "parts": parts, "weights": distance, "provenance": job.record()}
        write_json(args.output, found)
    log.info("%s: %s, weights moved by %.3g of their norm", args.output, parts["all"], distance["relative"])


if __name__ == "__main__":
    main()
