"""Overfitting of a run to its references, and the diversity of its answers (paper §3.2, Figures 1 and 2).

Per part of the targets (all; core and replaceable where there are labels), with NLL the mean negative log-probability
a token in nats:

    overfit = [NLL(held) - NLL(trained)] under the run's model - [NLL(held) - NLL(trained)] under its base

trained: the references this run learnt from; held: the references of the same prompts that no run learns from. The
base's own difference is subtracted because one set may be worded more likely than the other by chance.

Diversity of the sampled answers to one benchmark, words split at white space: distinct_2 = distinct word pairs over
all word pairs of all answers; pair_distance = mean over questions of 1 - Jaccard similarity of the word-pair sets of
two answers to the same question.

    python -m profit overfit --run LEAF --model BASE --tuned DIR --references P --base-scores P [--annotations P]
        --train train.json --samples samples.parquet --output JSON
"""

import argparse
import itertools
import json
import logging
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from profit import provenance
from profit.correlate import SPAN_COLUMNS, label_tokens, read_scores
from profit.data import choose_references, load_references
from profit.files import InputError, read_json, read_parquet, write_json
from profit.models import PLAIN, load_run, load_tokenizer, parse_compute
from profit.score import score_frame

log = logging.getLogger(__name__)

PARTS = {"all": None, "core": "core", "replaceable": "replaceable"}
KEYS = ["prompt_id", "reference_id"]


def select_references(
    references: pd.DataFrame, k: int, seed: int, unseen: list[int], choice: str = "seed"
) -> pd.DataFrame:
    """References of a run, trained ones (as it chose them) and held ones of the same prompts; `held` tells them apart.

    `unseen` names the chosen ones, by number, that the run was too short to reach; they count for neither.

    Raises:
        InputError: fewer than k references to train on, or no held reference.
    """
    trained = choose_references(references, k, seed, choice).drop(index=unseen)
    held = references[references.held & references.prompt_id.isin(trained.prompt_id)]
    if held.empty:
        raise InputError("references: found no held reference of the trained prompts, expected at least one")
    return pd.concat([trained, held]).sort_values(KEYS, ignore_index=True)


def base_rows(scores: pd.DataFrame, tuned: pd.DataFrame, source: str) -> NDArray[np.float64]:
    """Base's log-probabilities of the tokens of `tuned`, in its order; shape (tokens,).

    Raises:
        InputError: a token is missing in `scores`, or has another token_id there (another tokenizer or text).
    """
    joined = tuned[[*KEYS, "position", "token_id"]].merge(
        scores, on=[*KEYS, "position"], how="left", suffixes=("", "_base"), validate="one_to_one"
    )
    wrong = joined.token_id_base != joined.token_id
    if wrong.any():
        row = joined[wrong].iloc[0]
        found = "no row" if np.isnan(row.token_id_base) else f"token {row.token_id_base:.0f}"
        raise InputError(
            f"{source}, prompt {row.prompt_id}, reference {row.reference_id}, position {row.position}: found {found}, "
            f"expected token {row.token_id} ({int(wrong.sum())} such tokens)"
        )
    return joined.logprob.to_numpy(np.float64)


def overfit_parts(
    tuned: NDArray[np.float64],
    base: NDArray[np.float64],
    held: NDArray[np.bool_],
    labels: NDArray[np.object_] | None,
) -> dict[str, dict[str, float | None]]:
    """Mean NLL a token of trained and held references under run and base, and the overfit, for each of PARTS.

    Args: log-probabilities under the run and the base, whether the token's reference is held, and its label; all of
        shape (tokens,). Without labels there is the part `all` alone. A part without trained or without held tokens
        has None where a mean is undefined.
    """
    parts = {}
    for part, label in PARTS.items():
        if labels is None and label is not None:
            continue
        chosen = np.ones(len(held), dtype=bool) if label is None else labels == label
        values: dict[str, float | None] = {}
        for name, logprob in (("nll", tuned), ("base", base)):
            for kind, mask in (("trained", chosen & ~held), ("held", chosen & held)):
                values[f"{name}_{kind}"] = float(-logprob[mask].mean()) if mask.any() else None
        run, before = ((values[f"{name}_held"], values[f"{name}_trained"]) for name in ("nll", "base"))
        values["overfit"] = None if None in (*run, *before) else (run[0] - run[1]) - (before[0] - before[1])
        parts[part] = values
    return parts


def diversity(questions: list[str], texts: list[str]) -> dict[str, float | None]:
    """Diversity of answers `texts` to `questions` (same length, a question once an answer): distinct_2, pair_distance.

    None where no answer has two words, or no question two answers. Two answers without a word pair are at distance 0.
    """
    pairs = [list(itertools.pairwise(text.split())) for text in texts]
    total = sum(len(own) for own in pairs)
    by_question: dict[str, list[set[tuple[str, str]]]] = {}
    for question, own in zip(questions, pairs, strict=True):
        by_question.setdefault(question, []).append(set(own))
    distances = [
        np.mean([jaccard_distance(a, b) for a, b in itertools.combinations(sets, 2)])
        for sets in by_question.values()
        if len(sets) > 1
    ]
    return {
        "distinct_2": len(set(itertools.chain.from_iterable(pairs))) / total if total else None,
        "pair_distance": float(np.mean(distances)) if distances else None,
    }


def jaccard_distance(a: set, b: set) -> float:
    """1 - |a and b| / |a or b|; 0 for two empty sets."""
    return 1 - len(a & b) / len(a | b) if a or b else 0.0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit overfit", description="Measure a run's overfitting and the diversity of its answers."
    )
    parser.add_argument(
        "--run", required=True, help="JSON of the run: model, method, seed, references, budget, tuning"
    )
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--tuned", required=True, help="folder of the run's model, or of its adapter")
    parser.add_argument("--references", required=True, help="references.parquet")
    parser.add_argument("--base-scores", required=True, help="scores of the base, from profit.score")
    parser.add_argument("--annotations", help="labelled spans, from profit.annotate; left out: no part but all")
    parser.add_argument("--train", required=True, help="train.json of the run")
    parser.add_argument("--samples", required=True, help="samples.parquet of the run's evaluation")
    parser.add_argument("--benchmark", default="same_length", help="the diversity of whose answers is measured")
    parser.add_argument("--max-length", type=int, help="tokens at which longer answers are cut, as in --base-scores")
    parser.add_argument("--compute", type=parse_compute, default=PLAIN, help="how the model is held, as JSON")
    parser.add_argument("--output", required=True, help="JSON")
    return parser


def parse_run(text: str) -> dict[str, Any]:
    """Read the JSON of --run; InputError if it is none or lacks a key that is used here."""
    needed = {"model", "method", "seed", "references", "budget"}
    try:
        run = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--run: found {text!r} ({error}), expected JSON") from None
    if not isinstance(run, dict) or needed - run.keys():
        raise InputError(f"--run: found {text!r}, expected an object with the keys {sorted(needed)}")
    return run


def read_training(path: str) -> tuple[dict[str, float], list[int]]:
    """Tokens trained and seconds spent, and answers never reached, from train.json; InputError if it lacks them."""
    record = read_json(path)
    try:
        made = record["provenance"]
        cost = {
            "tokens_trained": made["tokens"]["trained"],
            "cpu_seconds": made["cpu_seconds"],
            "wall_seconds": made["wall_seconds"],
        }
        return cost, record["unseen"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: found no {error} in the provenance, expected tokens.trained and seconds") from None


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO)
    args = make_parser().parse_args(argv)
    run = parse_run(args.run)
    cost, unseen = read_training(args.train)
    samples = read_parquet(args.samples, ["benchmark", "question_id", "text"])
    samples = samples[samples.benchmark == args.benchmark]
    if samples.empty:
        raise InputError(f"{args.samples}, column benchmark: found no {args.benchmark!r}, expected its answers")
    base = read_scores(args.base_scores, [*KEYS, "position", "token_id", "logprob"])
    references = select_references(
        load_references(args.references), run["references"], run["seed"], unseen, run.get("choice", "seed")
    )
    spans = None if args.annotations is None else read_parquet(args.annotations, SPAN_COLUMNS)
    world = provenance.world_of(args.references)
    with provenance.job("overfit", settings={**run, "compute": args.compute.model_dump()}, world=world) as job:
        tokenizer = load_tokenizer(args.model)
        model = load_run(args.model, args.tuned, args.compute)
        scores = score_frame(model, tokenizer, references, max_length=args.max_length)
        job.tokens(len(scores), "scored")
        counts = scores.groupby(KEYS, sort=False).size()
        parts = overfit_parts(
            scores.logprob.to_numpy(np.float64),
            base_rows(base, scores, args.base_scores),
            np.repeat(references.held.to_numpy(), counts.to_numpy()),
            None if spans is None else label_tokens(scores, spans, args.annotations),
        )
        answers = diversity(samples.question_id.tolist(), samples.text.tolist())
        named = {key: run[key] for key in ("model", "method", "seed", "references", "budget")}
        write_json(args.output, {**named, "parts": parts, **cost, "diversity": answers, "provenance": job.record()})
    log.info("%s: overfit %s", args.output, {part: values["overfit"] for part, values in parts.items()})


if __name__ == "__main__":
    main()
