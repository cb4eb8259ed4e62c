"""What a run raised and what it lowered against its base, token by token (what the mask of paper §4.2 does to whom).

Per set of references, label and bin of the base's probability: number of tokens; mean change of log-probability, run
less base, in nats, with a 95 % percentile bootstrap of prompts; shares of the tokens raised and lowered by more than
THRESHOLD; mean probability before and after. Sets: `trained`, the references that the run learnt from; `held`, those
of the same prompts that no run learns from; `new`, those of prompts that have held references alone (unseen prompts,
from profit.unseen in further files). Any other reference counts for none.

`mean_loss_change` of a set is the mean of log p_base - log p_run: how much less likely its tokens have become. It is
no divergence: its tokens are those of the references, and only over samples of the base itself would it estimate
KL(base || run), how far the run has drifted.

    python -m profit account --run LEAF [--train train.json] --base-scores P [P] --scores P [P] --references P [P]
        [--annotations P [P]] --output summary.json --cells cells.parquet
"""

import argparse
import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from profit import provenance, statistics
from profit.correlate import BIN_EDGES, LEVEL, SPAN_COLUMNS, label_tokens, read_scores
from profit.data import LABELS, choose_references, load_references
from profit.files import InputError, read_parquet, write_json, write_parquet
from profit.overfit import KEYS, base_rows, parse_run, read_training

log = logging.getLogger(__name__)

SETS = ("trained", "held", "new")
THRESHOLD = 0.01  # nats: less counts as unmoved
RESAMPLES = 2_000
NAMES = ["model", "method", "seed", "references", "budget"]
COLUMNS = ["prompt_id", "reference_id", "position", "token_id", "start", "end", "logprob"]


def read_all(read: Callable[[str, list[str]], pd.DataFrame], paths: list[str], columns: list[str]) -> pd.DataFrame:
    """The rows of all files."""
    return pd.concat([read(path, columns) for path in paths], ignore_index=True)


def join_references(paths: list[str]) -> tuple[pd.DataFrame, str | None]:
    """The references of the first file and those of unseen prompts of any further ones; hash of their world.

    Raises:
        InputError: a further file of another world, with a reference that is not held, or with a prompt known before.
    """
    world, frames = provenance.world_of(paths[0]), [load_references(paths[0])]
    for path in paths[1:]:
        frame = load_references(path)
        if (found := provenance.world_of(path)) != world:
            raise InputError(f"{path}: found references of world {found}, expected {world} as in {paths[0]}")
        known = frame.prompt_id.isin(pd.concat(frames).prompt_id)
        for wrong, what in ((known, "that stands in a file before it"), (~frame.held, "with a reference not held")):
            if wrong.any():
                name = frame[wrong].iloc[0].prompt_id
                raise InputError(f"{path}: found prompt {name} {what}, expected unseen prompts, all references held")
        frames.append(frame)
    return pd.concat(frames, ignore_index=True), world


def assign_sets(references: pd.DataFrame, run: dict[str, Any], unseen: list[int]) -> pd.DataFrame:
    """prompt_id, reference_id and `set` of every reference that counts for one.

    `unseen` names the references chosen by the run, by number, that it was too short to reach.

    Raises:
        InputError: fewer references to train on than the run has, or no held reference of a trained prompt.
    """
    is_new = references.groupby("prompt_id").held.transform("all")
    known = references[~is_new]
    trained = choose_references(known, run["references"], run["seed"], run.get("choice", "seed")).drop(index=unseen)
    held = known[known.held & known.prompt_id.isin(trained.prompt_id)]
    if held.empty:
        raise InputError("references: found no held reference of the trained prompts, expected at least one")
    parts = zip(SETS, (trained, held, references[is_new]), strict=True)
    return pd.concat([part[KEYS].assign(set=name) for name, part in parts], ignore_index=True)


def tokens_of(sets: pd.DataFrame, scores: pd.DataFrame, source: str) -> pd.DataFrame:
    """Rows of `scores` of the references in `sets`, with `set`; InputError for one that `source` does not score."""
    tokens = sets.merge(scores, on=KEYS, how="left")
    missing = tokens[tokens.logprob.isna()]
    if len(missing):
        row = missing.iloc[0]
        raise InputError(
            f"{source}: found no score of prompt {row.prompt_id}, reference {row.reference_id} ({row.set}; "
            f"{len(missing)} such references), expected all that are trained on or held"
        )
    return tokens


def make_cells(tokens: pd.DataFrame) -> pd.DataFrame:
    """One row a set, label (and `all`) and bin of the base's probability (and [0, 1]), also where there is no token.

    Args:
        tokens: set, prompt_id, label (None: labels unknown), before and after (log-probabilities, nats).

    Returns:
        set, label, low, high, tokens, change, change_low, change_high (nats), raised, lowered (shares of the tokens),
        probability_before, probability_after (means); NaN where there is no token.
    """
    rows = []
    for name in SETS:
        own = tokens[tokens.set == name]
        if own.empty:
            continue
        change = (own.after - own.before).to_numpy(np.float64)
        before, after = (np.minimum(np.exp(own[when].to_numpy(np.float64)), 1.0) for when in ("before", "after"))
        prompts, prompt = np.unique(own.prompt_id, return_inverse=True)
        weights = statistics.bootstrap_weights(len(prompts), RESAMPLES, seed=0)
        bin_ = np.searchsorted(BIN_EDGES[1:-1], before, side="right")
        for label in ("all", *(LABELS if tokens.label.notna().any() else ())):
            for number, (low, high) in enumerate([(BIN_EDGES[0], BIN_EDGES[-1]), *pairwise(BIN_EDGES)], start=-1):
                chosen = ((label == "all") | (own.label == label)).to_numpy() & ((number < 0) | (bin_ == number))
                row = {"set": name, "label": label, "low": low, "high": high, "tokens": int(chosen.sum())}
                if chosen.any():
                    sums, counts = (
                        np.bincount(prompt[chosen], values, minlength=len(prompts)).astype(np.float64)
                        for values in (change[chosen], None)
                    )
                    ends = statistics.percentile_interval(statistics.bootstrap_ratio(sums, counts, weights), LEVEL)
                    row |= {"change": change[chosen].mean(), "change_low": ends[0], "change_high": ends[1]}
                    row |= {"raised": (change[chosen] > THRESHOLD).mean()}
                    row |= {"lowered": (change[chosen] < -THRESHOLD).mean()}
                    row |= {"probability_before": before[chosen].mean(), "probability_after": after[chosen].mean()}
                rows.append(row)
    return pd.DataFrame(rows)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit account", description="Say which tokens a run raised and which it lowered."
    )
    parser.add_argument(
        "--run", required=True, help="JSON of the run: model, method, seed, references, budget, choice"
    )
    parser.add_argument("--train", help="train.json of the run; left out: it reached every reference that it chose")
    files = {"nargs": "+", "metavar": "FILE"}
    parser.add_argument("--base-scores", required=True, help="scores of the base, from profit.score", **files)
    parser.add_argument("--scores", required=True, help="scores of the run, from profit.score", **files)
    parser.add_argument(
        "--references", required=True, help="references.parquet, then those of unseen prompts", **files
    )
    parser.add_argument("--annotations", help="labelled spans, from profit.annotate; left out: no labels", **files)
    parser.add_argument("--output", required=True, help="summary, JSON")
    parser.add_argument("--cells", required=True, help="one row a set, label and bin, Parquet")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO)
    args = make_parser().parse_args(argv)
    run = parse_run(args.run)
    unseen = [] if args.train is None else read_training(args.train)[1]
    references, world = join_references(args.references)
    sets = assign_sets(references, run, unseen)
    scores, base = (read_all(read_scores, paths, COLUMNS) for paths in (args.scores, args.base_scores))
    spans = None if args.annotations is None else read_all(read_parquet, args.annotations, SPAN_COLUMNS)
    with provenance.job("account", settings=run, world=world) as job:
        tokens = tokens_of(sets, scores, ", ".join(args.scores)).rename(columns={"logprob": "after"})
        tokens["before"] = base_rows(base, tokens, ", ".join(args.base_scores))
        tokens["label"] = None if spans is None else label_tokens(tokens, spans, ", ".join(args.annotations))
        cells = make_cells(tokens)
        named = {name: run[name] for name in NAMES}
        write_parquet(args.cells, cells.assign(**named)[[*NAMES, *cells]], {"provenance": job.record()})
        whole = cells[(cells.low == BIN_EDGES[0]) & (cells.high == BIN_EDGES[-1])]
        change = whole[whole.label == "all"].set_index("set").change
        summary = {
            **named,
            "threshold": THRESHOLD,
            "answers": sets["set"].value_counts().to_dict(),
            "mean_loss_change": (-change).to_dict(),
            "cells": whole.drop(columns=["low", "high"]).to_dict("records"),
        }
        write_json(args.output, {**summary, "provenance": job.record()})
    log.info("%s: mean loss change %s", args.output, summary["mean_loss_change"])


if __name__ == "__main__":
    main()
