"""One reference answer, token by token with probability and label: table `coloured`, the paper's Figure 11.

The paper does not say how it chose its answer. Here it is the most typical one, so that nobody picks a striking one.

No command: used by `profit.tabulate`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from profit.correlate import label_tokens
from profit.files import InputError, read_parquet

# Tokens that a page has room for.
LONGEST = 200


def typical_answer(results: Path, worlds: Mapping[str, str], annotator: str) -> pd.DataFrame:
    """One reference answer of each world, one row a token and model: the answer most like all of them.

    That is the one whose mean probabilities of core and of replaceable tokens, under the world's first model, lie
    nearest to those of all references that the annotator labelled (sum of both distances; the first of equals), of
    answers with at least two tokens of each and, where there are some, at most LONGEST tokens.
    """
    keys, parts, chosen = ["prompt_id", "reference_id"], [], {}
    for model, world in worlds.items():
        spans_path = results / "annotations" / world / "references" / f"{annotator}.parquet"
        spans = read_parquet(spans_path, [*keys, "start", "end", "label"])
        references = read_parquet(results / "data" / world / "references.parquet", [*keys, "prompt", "answer"])
        path = results / "scores" / model / "base.parquet"
        scores = read_parquet(path, [*keys, "position", "token", "start", "end", "logprob"])
        scores = scores.merge(spans[keys].drop_duplicates(), on=keys)
        if world in chosen:
            scores = scores[(scores[keys] == chosen[world]).all(axis=1)]
        if scores.empty:
            raise InputError(f"{path}: found no score of {chosen.get(world, 'a labelled answer')}, expected some")
        scores["probability"] = np.minimum(np.exp(scores["logprob"].astype(float)), 1.0)
        scores["label"] = label_tokens(scores, spans, str(spans_path))
        if world not in chosen:
            chosen[world] = list(most_typical(scores, keys))
        own = scores[(scores[keys] == chosen[world]).all(axis=1)].sort_values("position")
        text_of = references[(references[keys] == chosen[world]).all(axis=1)].iloc[0]
        parts.append(with_text(own, text_of["answer"]).assign(model=model, prompt=text_of["prompt"]))
    columns = ["model", *keys, "prompt", "position", "token", "probability", "label", "space_before"]
    return pd.concat(parts, ignore_index=True)[columns]


def most_typical(scores: pd.DataFrame, keys: list[str]) -> tuple[Any, ...]:
    """Keys of the answer that `typical_answer` describes."""
    kept = scores[scores["label"].isin(["core", "replaceable"])]
    every = kept.groupby("label")["probability"].mean()
    groups = kept.groupby([*keys, "label"])["probability"].agg(["mean", "size"]).unstack("label").dropna()
    enough = groups[(groups["size"] >= 2).all(axis=1)]
    short = scores.groupby(keys).size().reindex(enough.index) <= LONGEST
    enough = enough[short] if short.any() else enough
    distance = (enough["mean"] - every).abs().sum(axis=1)
    if distance.empty:
        raise InputError("scores: found no answer with two core and two replaceable tokens, expected one to colour")
    return distance.idxmin()


def with_text(tokens: pd.DataFrame, answer: str) -> pd.DataFrame:
    """Tokens as the answer spells them, and whether white space stands before each; the end token keeps its name.

    A line break within a token is ↵, and so is a token of white space with one; of other white space it is ·.
    """
    starts, ends = tokens["start"].to_numpy(), tokens["end"].to_numpy()
    before = np.concatenate([[0], ends[:-1]])
    pieces = [answer[a:b] if a >= 0 else token for a, b, token in zip(starts, ends, tokens["token"], strict=True)]
    texts = [piece.strip().replace("\n", "↵") or ("↵" if "\n" in piece else "·") for piece in pieces]
    space = [a < 0 or answer[last:b][:1].isspace() for last, a, b in zip(before, starts, ends, strict=True)]
    return tokens.assign(token=texts, space_before=space)
