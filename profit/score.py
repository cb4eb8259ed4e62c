"""Log-probability, entropy and rank of every reference token under a model (paper §4.1: what Figure 3 is drawn from).

For target token y_t after prompt x and earlier targets y_<t, with p = softmax of the model's logits in float32:
log p(y_t | x, y_<t); entropy -sum_v p_v log p_v in nats; rank = number of vocabulary entries with a larger logit.
The end token is a target too. Without gradients; answers of like length share a batch, which cannot change a value
beyond rounding. With --max-length answers are cut as training cuts them, so that the scores are those of its targets.

    python -m profit score --model DIR [--tuned DIR] --references references.parquet --output scores.parquet
"""

import argparse
import logging

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from profit import provenance
from profit.data import Encoded, cut_all, encode_all, load_references
from profit.files import InputError, write_parquet
from profit.fuse import fuse_head
from profit.logits import IGNORED, token_statistics
from profit.models import PLAIN, load_run, load_tokenizer, pad_token, parse_compute

log = logging.getLogger(__name__)

# On a CPU, batches that stay in its cache are faster than larger ones.
BATCH_TOKENS = 2048


@torch.inference_mode()
def score_batch(
    model: torch.nn.Module, batch: list[Encoded], pad: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Score the targets of a few encoded answers; one (logprob, entropy, rank) each, arrays of shape (targets,)."""
    lengths = torch.tensor([len(item.input_ids) for item in batch])
    firsts = torch.tensor([item.prompt_length for item in batch])
    ids = torch.full((len(batch), int(lengths.max())), pad)
    for row, item in enumerate(batch):
        ids[row, : len(item.input_ids)] = torch.tensor(item.input_ids)
    places = torch.arange(ids.shape[1])
    outside = (places < firsts[:, None]) | (places >= lengths[:, None])
    targets = ids.masked_fill(outside, IGNORED)[:, 1:].to(model.device)
    # Padding stands on the right, where a causal model's targets cannot see it: no (slower) attention mask is needed.
    found = model(
        input_ids=ids.to(model.device),
        use_cache=False,
        token_head=lambda hidden, head: token_statistics(hidden[:, :-1], head, targets, ("entropy", "rank")),
    )
    cuts = (lengths - firsts).cumsum(0).tolist()[:-1]
    return list(zip(*(np.split(values.cpu().numpy(), cuts) for values in found.values()), strict=True))


def score_frame(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    frame: pd.DataFrame,
    batch_tokens: int = BATCH_TOKENS,
    max_length: int | None = None,
) -> pd.DataFrame:
    """Score every target token of the answers in `frame` (columns prompt_id, reference_id, prompt, answer).

    Args:
        batch_tokens: most tokens, padding included, of one forward pass; one answer is always allowed.
        max_length: tokens of prompt and answer; what is longer than that or the model's context is cut and counted.

    Returns:
        One row a target token in the order of `frame`: prompt_id, reference_id, position (0 = first of answer),
        token_id, token, start, end (characters of the answer; -1, -1 for the end token),
        logprob, entropy (nats), rank.

    Raises:
        InputError: no row, without `max_length` an answer longer than the model's context, with it a prompt that
            leaves no room for one, or a model that gives NaN.
    """
    if frame.empty:
        raise InputError("references: found no row, expected at least one answer to score")
    encoded = encode_all(tokenizer, frame.prompt.tolist(), frame.answer.tolist())
    context = getattr(model.config, "max_position_embeddings", None)
    if max_length is not None:
        encoded, _ = cut_all(encoded, frame.prompt_id.tolist(), min(max_length, context or max_length), "references")
    for item, name, number in zip(encoded, frame.prompt_id, frame.reference_id, strict=True):
        if context is not None and len(item.input_ids) > context:
            raise InputError(
                f"prompt {name}, reference {number}: found {len(item.input_ids)} tokens, "
                f"expected at most the model's context of {context}"
            )
    fuse_head(model)
    pad = pad_token(tokenizer)
    scored: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [()] * len(encoded)
    with tqdm(total=len(encoded), desc="scoring", unit="answer", mininterval=2) as progress:
        for rows in batches([len(item.input_ids) for item in encoded], batch_tokens):
            for row, values in zip(rows, score_batch(model, [encoded[row] for row in rows], pad), strict=True):
                scored[row] = values
            progress.update(len(rows))
    return token_table(tokenizer, frame, encoded, scored)


def batches(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Group row numbers by length so that rows times the longest length stays within `batch_tokens`."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not groups or (len(groups[-1]) + 1) * lengths[row] > batch_tokens:
            groups.append([])
        groups[-1].append(row)
    return groups


def token_table(
    tokenizer: PreTrainedTokenizerBase,
    frame: pd.DataFrame,
    encoded: list[Encoded],
    scored: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> pd.DataFrame:
    """Put encoded answers and their scores together to one row a target token."""
    counts = np.array([len(item.spans) for item in encoded])
    spans = np.array([span for item in encoded for span in item.spans], dtype=np.int32)
    ids = np.array([token for item in encoded for token in item.input_ids[item.prompt_length :]], dtype=np.int64)
    words = {int(token): tokenizer.convert_ids_to_tokens(int(token)) for token in np.unique(ids)}
    logprob, entropy, rank = (np.concatenate(values) for values in zip(*scored, strict=True))
    table = pd.DataFrame(
        {
            "prompt_id": np.repeat(frame.prompt_id.to_numpy(), counts),
            "reference_id": np.repeat(frame.reference_id.to_numpy(), counts),
            "position": np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
            "token_id": ids,
            "token": [words[token] for token in ids.tolist()],
            "start": spans[:, 0],
            "end": spans[:, 1],
            "logprob": logprob.astype(np.float32),
            "entropy": entropy.astype(np.float32),
            "rank": rank.astype(np.int32),
        }
    )
    broken = table[~np.isfinite(table.logprob) | ~np.isfinite(table.entropy)]
    if len(broken):
        row = broken.iloc[0]
        raise InputError(
            f"prompt {row.prompt_id}, reference {row.reference_id}, position {row.position}: found log-probability "
            f"{row.logprob} and entropy {row.entropy}, expected finite numbers ({len(broken)} such tokens)"
        )
    return table


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit score", description="Score every reference token under a model."
    )
    parser.add_argument("--model", required=True, help="Hugging Face model folder")
    parser.add_argument("--tuned", help="model or adapter folder of a run from it; left out: the base itself")
    parser.add_argument("--references", required=True, help="references.parquet")
    parser.add_argument("--output", required=True, help="Parquet, one row a target token")
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS, help="tokens of one forward pass")
    parser.add_argument("--max-length", type=int, help="cut longer answers at so many tokens, the prompt's included")
    parser.add_argument("--compute", type=parse_compute, default=PLAIN, help="how the model is held, as JSON")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO)
    args = make_parser().parse_args(argv)
    if args.batch_tokens < 1:
        raise InputError(f"--batch-tokens: found {args.batch_tokens}, expected at least 1")
    world = provenance.world_of(args.references)
    settings = {key: getattr(args, key) for key in ("model", "tuned", "max_length")}
    settings["compute"] = args.compute.model_dump()
    with provenance.job("score", settings=settings, world=world) as job:
        references = load_references(args.references)
        model, tokenizer = load_run(args.model, args.tuned, args.compute), load_tokenizer(args.model)
        scores = score_frame(model, tokenizer, references, args.batch_tokens, args.max_length)
        job.tokens(len(scores), "scored")
        write_parquet(args.output, scores, {"provenance": job.record()})
    log.info(
        "%s: %d tokens of %d answers, mean probability %.3f",
        args.output,
        len(scores),
        len(references),
        np.exp(scores.logprob.to_numpy(np.float64)).mean(),
    )


if __name__ == "__main__":
    main()
