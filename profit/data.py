"""References as training examples: which answers a run sees, their tokens, and the label of every token.

A chat template turns prompt and answer into tokens. Targets are the tokens after the prompt up to and including the
first end token; whatever a template adds after it is dropped. Every target token knows its character span in the
answer, so that labels given to characters (core, replaceable, fixed) become labels of tokens.

No command: used by the rules that score, train and evaluate.
"""

import hashlib
import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from profit.files import InputError, read_parquet

log = logging.getLogger(__name__)

LABELS = ("core", "replaceable", "fixed", "end")
END_SPAN = (-1, -1)
REFERENCE_COLUMNS = ["prompt_id", "reference_id", "prompt", "answer", "held", "steps", "spans"]

Span = tuple[int, int]
LabelledSpan = tuple[int, int, str]


@dataclass(frozen=True)
class Encoded:
    """Tokens of one prompt with its answer.

    `input_ids` (prompt + targets), `prompt_length` tokens of prompt, and for each target token its `spans` entry:
    the characters [start, end) of the answer without leading white space; (-1, -1) for the end token; an empty span
    for a token that the template put beside the answer.
    """

    input_ids: list[int]
    prompt_length: int
    spans: list[Span]


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Raise InputError unless the tokenizer loaded from `folder` has a chat template, an end token and offsets."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(f"{folder}: found a tokenizer without a chat template, expected one (chat_template.jinja)")
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: found a tokenizer without an end token, expected eos_token")
    if not tokenizer.is_fast:
        raise InputError(
            f"{folder}: found a slow tokenizer, expected a fast one (tokenizer.json), which knows offsets"
        )


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Encoded:
    """Tokens of one prompt with its answer; errors as `encode_all`."""
    return encode_all(tokenizer, [prompt], [answer])[0]


def encode_all(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]) -> list[Encoded]:
    """Tokens of many prompts with their answers, in the same order; one call of the tokenizer for all of them.

    Raises:
        InputError: the template changes the answer, re-tokenises the prompt or puts no end token after the answer.
    """
    users = [[{"role": "user", "content": prompt}] for prompt in prompts]
    chats = [[*user, {"role": "assistant", "content": answer}] for user, answer in zip(users, answers, strict=True)]
    if not chats:
        return []
    heads = tokenizer.apply_chat_template(users, tokenize=False, add_generation_prompt=True)
    texts = tokenizer.apply_chat_template(chats, tokenize=False)
    options = {"add_special_tokens": False, "return_attention_mask": False}
    head_ids = tokenizer(heads, **options)["input_ids"]
    full = tokenizer(texts, return_offsets_mapping=True, **options)
    rows = zip(heads, texts, answers, head_ids, full["input_ids"], full["offset_mapping"], strict=True)
    return [_encoded(tokenizer, *row) for row in rows]


def _encoded(
    tokenizer: PreTrainedTokenizerBase, head: str, text: str, answer: str, head_ids: list[int], ids: list[int],
    offsets: list[Span],
) -> Encoded:  # fmt: skip
    length = len(head_ids)
    if ids[:length] != head_ids:
        ids, offsets = _apart(tokenizer, head, text, head_ids, ids)
    try:
        stop = ids.index(tokenizer.eos_token_id, length)
    except ValueError:
        raise InputError(f"chat template: found no end token after the answer: {text!r}") from None
    # The last place before the end: a template may put a word of the answer before it.
    begin = text.rfind(answer, len(head), offsets[stop][0])
    if begin < 0:
        if tokenizer.eos_token in answer:
            raise InputError(f"answer {answer!r}: found the end token {tokenizer.eos_token!r} in it, expected none")
        raise InputError(f"chat template: the answer is not in the text as it stands: {text!r}, expected {answer!r}")
    spans = [_span(start - begin, end - begin, answer) for start, end in offsets[length:stop]]
    return Encoded(ids[: stop + 1], length, [*spans, END_SPAN])


def _apart(
    tokenizer: PreTrainedTokenizerBase, head: str, text: str, head_ids: list[int], ids: list[int]
) -> tuple[list[int], list[Span]]:
    """Tokens and offsets of a text whose answer's first characters would join the prompt's last token.

    The prompt is read before there is an answer, so the two are cut apart, as a sampled answer is.
    """
    rest = tokenizer(text[len(head) :], return_offsets_mapping=True, add_special_tokens=False)
    apart = [*head_ids, *rest["input_ids"]]
    if not text.startswith(head) or tokenizer.decode(apart) != tokenizer.decode(ids):
        raise InputError(f"chat template: the tokens of prompt and answer do not begin with the prompt's: {text!r}")
    after = [(start + len(head), end + len(head)) for start, end in rest["offset_mapping"]]
    return apart, [(0, 0)] * len(head_ids) + after


def _span(start: int, end: int, answer: str) -> Span:
    """The part of answer[start:end] that exists, without leading white space unless it is nothing else."""
    if start < 0 or end > len(answer):
        start, end = (min(max(edge, 0), len(answer)) for edge in (start, end))
    piece = answer[start:end]
    return (end - len(piece.lstrip()), end) if piece[:1].isspace() and not piece.isspace() else (start, end)


def token_labels(token_spans: Sequence[Span], annotation_spans: Sequence[LabelledSpan]) -> list[str]:
    """Label of the annotation span (start, end, label) that holds each token's first character.

    "end" for the end token, "fixed" for a token in no annotation span. Annotation spans do not overlap.
    """
    ordered = sorted(annotation_spans)
    starts = [span[0] for span in ordered]
    labels = []
    for start, end in token_spans:
        if (start, end) == END_SPAN:
            labels.append("end")
            continue
        found = bisect_right(starts, start) - 1
        inside = end > start and found >= 0 and start < ordered[found][1]
        labels.append(ordered[found][2] if inside else "fixed")
    return labels


def load_references(path: str | Path) -> pd.DataFrame:
    """References sorted by prompt_id and reference_id; `spans` as lists of (start, end, label), None without truth.

    Raises:
        InputError: missing or damaged file, missing column, no row, empty text, or a reference that occurs twice.
    """
    frame = read_parquet(path, REFERENCE_COLUMNS).sort_values(["prompt_id", "reference_id"], ignore_index=True)
    if frame.empty:
        raise InputError(f"{path}: found no reference, expected at least one")
    for column in ("prompt", "answer"):
        empty = frame[column].isna() | (frame[column].astype(str).str.strip() == "")
        if empty.any():
            raise InputError(f"{path}: {column} of {_name(frame[empty].iloc[0])}: found nothing, expected text")
    twice = frame.duplicated(["prompt_id", "reference_id"])
    if twice.any():
        raise InputError(f"{path}: found {_name(frame[twice].iloc[0])} twice, expected each reference once")
    frame["held"] = frame["held"].astype(bool)
    frame["spans"] = [
        None if spans is None else [(span["start"], span["end"], span["label"]) for span in spans]
        for spans in frame["spans"]
    ]
    return frame


def load_annotations(path: str | Path, references: pd.DataFrame) -> dict[tuple[str, int], list[LabelledSpan]]:
    """Annotation spans of each of `references` that has some, keyed by (prompt_id, reference_id).

    Raises:
        InputError: missing or damaged file, missing column, or a label that is none of core, replaceable, fixed.
    """
    frame = read_parquet(path, ["prompt_id", "reference_id", "start", "end", "label"])
    frame = frame.merge(references[["prompt_id", "reference_id"]])
    unknown = sorted(set(frame["label"].unique()) - set(LABELS[:3]))
    if unknown:
        raise InputError(f"{path}: found label {unknown[0]!r}, expected one of {', '.join(LABELS[:3])}")
    spans: dict[tuple[str, int], list[LabelledSpan]] = {}
    for prompt, reference, *span in zip(*(frame[name].tolist() for name in frame.columns), strict=True):
        spans.setdefault((prompt, reference), []).append(tuple(span))
    return spans


def load_scores(path: str | Path) -> dict[tuple[str, int], tuple[list[int], list[float]]]:
    """Target tokens and their log-probabilities of each reference scored in `path`, by (prompt_id, reference_id).

    Raises:
        InputError: missing or damaged file, missing column, or a log-probability that is no finite number.
    """
    keys = ["prompt_id", "reference_id"]
    frame = read_parquet(path, [*keys, "position", "token_id", "logprob"]).sort_values([*keys, "position"])
    broken = frame[~np.isfinite(frame["logprob"])]
    if len(broken):
        row = broken.iloc[0]
        raise InputError(
            f"{path}: {_name(row)}, position {row['position']}: found {row['logprob']}, expected a number"
        )
    return {
        key: (group["token_id"].tolist(), group["logprob"].tolist()) for key, group in frame.groupby(keys, sort=False)
    }


def choose_references(frame: pd.DataFrame, k: int, seed: int, choice: str = "seed") -> pd.DataFrame:
    """The `k` references of each prompt that a run with this seed trains on, in the order of `frame`.

    Those not held are put in a random order that depends on seed and prompt alone (choice "seed") or in that of
    their numbers ("first"), and the first k are taken: what k = 1 chooses, k = 3 contains.

    Raises:
        InputError: a prompt has fewer than `k` references that are not held.
    """
    free = frame[~frame["held"]]
    counts = free.groupby("prompt_id").size().reindex(frame["prompt_id"].unique(), fill_value=0)
    if k < 1 or counts.min() < k:
        raise InputError(f"references: found {counts.min()} that are not held at {counts.idxmin()!r}, expected {k}")
    keys = free["reference_id"]
    if choice == "seed":
        keys = [
            hashlib.sha256(f"{seed} {prompt} {reference}".encode()).digest()
            for prompt, reference in zip(free["prompt_id"], free["reference_id"], strict=True)
        ]
    order = free.assign(_key=keys).sort_values("_key").groupby("prompt_id").cumcount()
    return free[order.reindex(free.index) < k].reset_index(drop=True)


def cut_all(
    encoded: Sequence[Encoded], prompt_ids: Sequence[str], limit: int, source: str | Path
) -> tuple[list[Encoded], int]:
    """The first `limit` tokens of each prompt with its answer, and how many answers that cuts.

    Raises:
        InputError: a prompt that leaves no room for an answer.
    """
    for prompt, item in zip(prompt_ids, encoded, strict=True):
        if item.prompt_length >= limit:
            raise InputError(
                f"{source}: prompt {prompt!r}: found {item.prompt_length} tokens, expected fewer than {limit} "
                "(the smaller of max_length and the model's context)"
            )
    cut = [
        replace(item, input_ids=item.input_ids[:limit], spans=item.spans[: limit - item.prompt_length])
        for item in encoded
    ]
    truncated = sum(len(item.input_ids) > limit for item in encoded)
    if truncated:
        log.warning("%d of %d answers are cut at %d tokens, without an end", truncated, len(cut), limit)
    return cut, truncated


def without_end(encoded: Encoded) -> Encoded:
    """The same without its end token, if it has not been cut before."""
    if encoded.spans[-1] != END_SPAN:
        return encoded
    return replace(encoded, input_ids=encoded.input_ids[:-1], spans=encoded.spans[:-1])


@dataclass(frozen=True)
class Examples:
    """Training examples as `profit.run_trainer.collate` takes them, and how many answers the length limit cut."""

    rows: list[dict[str, Any]]
    truncated: int

    @property
    def tokens(self) -> int:
        """Target tokens of one epoch."""
        return sum(len(row["input_ids"]) - row["prompt_length"] for row in self.rows)


def prepare_examples(
    run: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    references: str | Path,
    annotations: str | Path | None,
    context: int,
    scores: str | Path | None = None,
) -> Examples:
    """Tokens and labels of the references that the run trains on; at most min(max_length, `context`) tokens each.

    Without `annotations` there are no labels. With `scores` (profit.score, of any model with this tokenizer) every
    target also has its log-probability there.

    Raises:
        InputError: as load_references, choose_references, load_annotations, encode_all and cut_all; a reference
            without annotation, or with other tokens in `scores`.
    """
    chosen = choose_references(load_references(references), run["references"], run["seed"], run.get("choice", "seed"))
    spans = None if annotations is None else load_annotations(annotations, chosen)
    encoded = encode_all(tokenizer, chosen["prompt"].tolist(), chosen["answer"].tolist())
    limit = min(run["training"]["max_length"], context)
    encoded, truncated = cut_all(encoded, chosen["prompt_id"].tolist(), limit, references)
    if not run["training"].get("train_end", True):
        encoded = [without_end(item) for item in encoded]
    stored = None if scores is None else load_scores(scores)
    rows = []
    keys = zip(chosen["prompt_id"], chosen["reference_id"], strict=True)
    for number, (key, example) in enumerate(zip(keys, encoded, strict=True)):
        rows.append({"input_ids": example.input_ids, "prompt_length": example.prompt_length, "example": number})
        if spans is not None:
            if key not in spans:
                raise InputError(
                    f"{annotations}: found nothing for prompt {key[0]!r}, reference {key[1]}, expected spans"
                )
            rows[-1]["roles"] = [LABELS.index(label) for label in token_labels(example.spans, spans[key])]
        if stored is not None:
            tokens, logprobs = stored.get(key, ([], []))
            targets = example.input_ids[example.prompt_length :]
            # Scores of whole answers serve where training cuts them.
            if tokens[: len(targets)] != targets:
                raise InputError(
                    f"{scores}: prompt {key[0]!r}, reference {key[1]}: found {len(tokens)} tokens that are not those "
                    f"of the answer, expected its {len(targets)}"
                )
            rows[-1]["reference_logprob"] = logprobs[: len(targets)]
    return Examples(rows, truncated)


def _name(row: pd.Series) -> str:
    return f"prompt {row['prompt_id']!r}, reference {row['reference_id']}"
