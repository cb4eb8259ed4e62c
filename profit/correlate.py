"""Correlation of probability with importance: are core tokens more probable than replaceable ones (paper Figure 3)?

From the scores of a model and the labels of an annotator: means by label, core share, effect sizes, a test, what a
threshold tau destroys and spares, how the tokens fill the probability axis, the densities of Figure 3, and counts by
prompt, for who resamples prompts later.

Tokens of one prompt are not independent, so the prompt is the unit of every resampling. Test: per prompt with both
labels, d = mean probability of its core tokens - mean of its replaceable tokens; null: exchanging the two labels of a
whole prompt changes nothing, that is, d is symmetric about 0; each resample flips the sign of every d at random;
two-sided p = (b + 1) / (resamples + 1), where b resamples have |mean d| at least the observed. With the default
999,999 resamples the smallest possible p is 1e-6, the paper's figure. Intervals: 95 % percentile bootstrap of prompts.

`core_and_replaceable` is the paper's "overall" (it has two labels); `all` adds fixed tokens and end tokens.

An answer without any labelled span (a judge labels a sample of prompts, and may fail on some) is left out and counted.

    python -m profit correlate --scores S --annotations A [--truth T] --settings '{"model":"mini","annotator":"truth"}'
        --output summary.json --densities densities.parquet --prompts prompts.parquet
"""

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from profit import provenance, statistics
from profit.annotate import recovery
from profit.data import LABELS
from profit.files import InputError, read_parquet, write_json, write_parquet

log = logging.getLogger(__name__)

GROUPS = {**{label: (label,) for label in LABELS}, "core_and_replaceable": LABELS[:2], "all": LABELS}
TAUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BIN_EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
DENSITY_BINS = 100
LOW = 0.1
LEVEL = 0.95
ANSWER = ["prompt_id", "reference_id"]
SCORE_COLUMNS = [*ANSWER, "start", "end", "logprob"]
SPAN_COLUMNS = [*ANSWER, "start", "end", "label"]


@dataclass(frozen=True)
class Settings:
    """Whose scores and labels are compared, under which thresholds, and how often prompts are resampled."""

    model: str
    annotator: str
    taus: tuple[float, ...] = TAUS
    resamples: int = 999_999
    bootstrap: int = 2_000
    seed: int = 0


def parse_settings(text: str) -> Settings:
    """Read the JSON of --settings; InputError names what is unknown, missing or out of range."""
    allowed = [field.name for field in fields(Settings)]
    try:
        found = json.loads(text)
        settings = Settings(**found)
    except (json.JSONDecodeError, TypeError) as error:
        raise InputError(
            f"--settings: found {text} ({error}), expected a JSON object with keys of {allowed}"
        ) from None
    for name in ("resamples", "bootstrap"):
        if not isinstance(getattr(settings, name), int) or getattr(settings, name) < 1:
            raise InputError(f"--settings {name}: found {getattr(settings, name)!r}, expected a whole number from 1")
    if not all(isinstance(tau, (int, float)) and 0 <= tau <= 1 for tau in settings.taus):
        raise InputError(f"--settings taus: found {settings.taus!r}, expected numbers in [0, 1]")
    return settings


def read_scores(path: str, columns: list[str]) -> pd.DataFrame:
    """Read scores; InputError if there is no row, a log-probability is NaN or infinite, or is above 0."""
    scores = read_parquet(path, columns)
    if scores.empty:
        raise InputError(f"{path}: found no row, expected scores")
    wrong = ~(np.isfinite(scores.logprob) & (scores.logprob <= 1e-4))
    if wrong.any():
        row = scores[wrong].iloc[0]
        raise InputError(
            f"{path}, prompt {row.prompt_id}, reference {row.reference_id}, column logprob: found {row.logprob} "
            f"({int(wrong.sum())} such rows), expected finite numbers up to 0"
        )
    return scores


def has_labels(tokens: pd.DataFrame, spans: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether the answer of each token has a labelled span; shape (tokens,). Columns as in `label_tokens`."""
    return pd.MultiIndex.from_frame(tokens[ANSWER]).isin(pd.MultiIndex.from_frame(spans[ANSWER].drop_duplicates()))


def label_tokens(tokens: pd.DataFrame, spans: pd.DataFrame, source: str = "annotations") -> NDArray[np.object_]:
    """Label of each token by the characters it covers; shape (tokens,), the vectorised `profit.data.token_labels`.

    A token gets the label of the span that holds its first character, `end` if it is the end token (start -1),
    `fixed` if no span holds it.

    Args:
        tokens: prompt_id, reference_id, start, end (characters of the answer, end exclusive).
        spans: prompt_id, reference_id, start, end, label.

    Raises:
        InputError: an unknown label, overlapping spans, or an answer of `tokens` without any span.
    """
    unknown = sorted(set(spans.label.unique()) - set(LABELS[:3]))
    if unknown:
        raise InputError(f"{source}, column label: found {unknown}, expected {list(LABELS[:3])}")
    answers = pd.MultiIndex.from_frame(spans[ANSWER].drop_duplicates())
    numbers = answers.get_indexer(pd.MultiIndex.from_frame(tokens[ANSWER]))
    if (numbers < 0).any():
        row = tokens[numbers < 0].iloc[0]
        raise InputError(
            f"{source}: found no span of prompt {row.prompt_id}, reference {row.reference_id}, expected some"
        )
    # One integer axis for all answers: answer number times a width that no answer reaches, plus the character.
    width = int(max(spans.end.max(), tokens.end.max())) + 2
    base = answers.get_indexer(pd.MultiIndex.from_frame(spans[ANSWER])).astype(np.int64) * width
    order = np.argsort(base + spans.start.to_numpy(), kind="stable")
    starts, ends = (base + spans.start.to_numpy())[order], (base + spans.end.to_numpy())[order]
    if (starts[1:] < ends[:-1]).any():
        row = spans.iloc[order[1:][starts[1:] < ends[:-1]][0]]
        raise InputError(
            f"{source}, prompt {row.prompt_id}, reference {row.reference_id}: found a span at {row.start} within "
            f"the one before it, expected spans apart"
        )
    offset = numbers.astype(np.int64) * width
    first = offset + tokens.start.to_numpy()
    found = np.searchsorted(starts, first, side="right") - 1
    held = (found >= 0) & (first < ends[found]) & (tokens.end.to_numpy() > tokens.start.to_numpy())
    labels = np.where(held, spans.label.to_numpy(dtype=object)[order][found], "fixed")
    labels[tokens.start.to_numpy() < 0] = "end"
    return labels


def summarise(
    probability: NDArray[np.float64], labels: NDArray[np.object_], prompts: NDArray, settings: Settings
) -> dict[str, Any]:
    """Compute the whole comparison of probabilities (tokens,) by labels (tokens,) and prompts (tokens,).

    Raises:
        InputError: no core token, no replaceable token, or no prompt with both.
    """
    names, prompt = np.unique(prompts, return_inverse=True)
    masks = {name: np.isin(labels, members) for name, members in GROUPS.items()}
    core, other = masks["core"], masks["replaceable"]
    counts = {name: np.bincount(prompt[mask], minlength=len(names)).astype(float) for name, mask in masks.items()}
    sums = {name: np.bincount(prompt[mask], probability[mask], minlength=len(names)) for name, mask in masks.items()}
    both = (counts["core"] > 0) & (counts["replaceable"] > 0)
    if not both.any():
        raise InputError(
            f"annotations {settings.annotator}: found {int(core.sum())} core, {int(other.sum())} replaceable tokens, "
            f"no prompt with both, expected at least one"
        )
    weights = statistics.bootstrap_weights(len(names), settings.bootstrap, settings.seed)
    draws = {name: statistics.bootstrap_ratio(sums[name], counts[name], weights) for name in GROUPS}
    share = statistics.bootstrap_ratio(counts["core"], counts["core_and_replaceable"], weights)
    within = (sums["core"][both] / counts["core"][both]) - (sums["replaceable"][both] / counts["replaceable"][both])
    # Ascending, since each prompt's tokens are searched for all of these: a third of the seconds for 600,000.
    rising = np.flatnonzero(other)[np.argsort(probability[other])]
    wins = statistics.wins_by_group(probability[core], prompt[core], probability[rising], prompt[rising], len(names))
    area = float(wins.sum() / (core.sum() * other.sum()))
    areas = statistics.bootstrap_auc(wins, counts["core"], counts["replaceable"], weights)
    return {
        "prompts": len(names),
        "probability": {
            name: {
                "tokens": int(mask.sum()),
                "mean": float(probability[mask].mean()) if mask.any() else None,
                "median": float(np.median(probability[mask])) if mask.any() else None,
                **(interval(draws[name]) if mask.any() else {"low": None, "high": None}),
            }
            for name, mask in masks.items()
        },
        "core_share": {
            "of_core_and_replaceable": float(core.sum() / (core.sum() + other.sum())),
            **interval(share),
            "of_all": float(core.mean()),
        },
        "difference": {
            "mean": float(probability[core].mean() - probability[other].mean()),
            **interval(draws["core"] - draws["replaceable"]),
        },
        "test": {
            "unit": "prompt: the signs of within-prompt differences (mean core - mean replaceable) are flipped",
            "statistic": float(within.mean()),
            "p": statistics.sign_flip_test(within, settings.resamples, settings.seed),
            "resamples": settings.resamples,
            "smallest_p": 1 / (settings.resamples + 1),
            "prompts": int(both.sum()),
            "prompts_left_out": int((~both).sum()),
        },
        "effect": {
            "cohens_d": statistics.cohens_d(probability[core], probability[other]),
            "cliffs_delta": statistics.cliffs_delta(area),
            "auc": area,
            **{f"auc_{key}": value for key, value in interval(areas).items()},
        },
        "thresholds": thresholds(probability, masks, settings.taus),
        "bins": bins(probability, masks),
    }


def interval(draws: NDArray[np.float64]) -> dict[str, float]:
    """Name the two ends of a bootstrap interval."""
    low, high = statistics.percentile_interval(draws, LEVEL)
    return {"low": low, "high": high}


def thresholds(
    probability: NDArray[np.float64], masks: dict[str, NDArray[np.bool_]], taus: Sequence[float]
) -> list[dict[str, Any]]:
    """What a mask p > tau does, for each tau.

    core_below: share of the core tokens it destroys (p <= tau). replaceable_above: share of the replaceable ones that
    survive (p > tau). below: share of all tokens under it; core_share_below: share of core among those (None if none).
    """
    rows = []
    for tau in taus:
        below = probability <= tau
        rows.append(
            {
                "tau": tau,
                "core_below": float(below[masks["core"]].mean()),
                "replaceable_above": float((~below)[masks["replaceable"]].mean()),
                "below": float(below.mean()),
                "core_share_below": float(masks["core"][below].mean()) if below.any() else None,
            }
        )
    return rows


def bins(probability: NDArray[np.float64], masks: dict[str, NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """Occupancy of [0,.1) [.1,.3) [.3,.5) [.5,.7) [.7,.9) [.9,1]: share of all tokens, count of each label."""
    counts = {name: np.histogram(probability[mask], BIN_EDGES)[0] for name, mask in masks.items()}
    return [
        {
            "low": BIN_EDGES[i],
            "high": BIN_EDGES[i + 1],
            "share": float(counts["all"][i] / len(probability)),
            **{label: int(counts[label][i]) for label in LABELS},
        }
        for i in range(len(BIN_EDGES) - 1)
    ]


def densities(probability: NDArray[np.float64], labels: NDArray[np.object_], settings: Settings) -> pd.DataFrame:
    """Count tokens of each label in DENSITY_BINS equal bins of probability; the last one includes 1."""
    edges = np.arange(DENSITY_BINS + 1) / DENSITY_BINS
    parts = [
        pd.DataFrame(
            {
                "model": settings.model,
                "annotator": settings.annotator,
                "label": label,
                "low": edges[:-1],
                "high": edges[1:],
                "tokens": np.histogram(probability[labels == label], edges)[0],
            }
        )
        for label in LABELS
    ]
    return pd.concat(parts, ignore_index=True)


def by_prompt(
    probability: NDArray[np.float64], labels: NDArray[np.object_], prompts: NDArray, settings: Settings
) -> pd.DataFrame:
    """Tokens, sum of probabilities and tokens with p <= LOW: one row a prompt and label, core and replaceable."""
    names, prompt = np.unique(prompts, return_inverse=True)
    parts = []
    for label in LABELS[:2]:
        own = labels == label
        columns = {"tokens": None, "probability_sum": probability[own], "low": probability[own] <= LOW}
        sums = {name: np.bincount(prompt[own], values, len(names)) for name, values in columns.items()}
        keys = {"model": settings.model, "annotator": settings.annotator, "prompt_id": names, "label": label}
        parts.append(pd.DataFrame({**keys, **sums}).astype({"tokens": int, "low": int}))
    return pd.concat(parts, ignore_index=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit correlate", description="Compare the probabilities of core and replaceable tokens."
    )
    parser.add_argument("--scores", required=True, help="scores of a model, from profit.score")
    parser.add_argument("--annotations", required=True, help="labelled spans, from profit.annotate")
    parser.add_argument("--truth", help="spans of the true labels, where they are known")
    parser.add_argument("--settings", required=True, help="JSON: model, annotator, taus, resamples, bootstrap, seed")
    parser.add_argument("--output", required=True, help="summary, JSON")
    parser.add_argument("--densities", required=True, help="token counts by label and probability, Parquet")
    parser.add_argument("--prompts", required=True, help="counts and sums by prompt and label, Parquet")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO)
    args = make_parser().parse_args(argv)
    settings = parse_settings(args.settings)
    scores = read_scores(args.scores, SCORE_COLUMNS)
    world = provenance.world_of(args.scores)
    with provenance.job("correlate", settings=asdict(settings), world=world) as job:
        spans = read_parquet(args.annotations, SPAN_COLUMNS)
        found = len(scores[ANSWER].drop_duplicates())
        scores = scores[has_labels(scores, spans)]
        answers = len(scores[ANSWER].drop_duplicates())
        if not answers:
            raise InputError(f"{args.annotations}: found no span of any of the {found} answers of {args.scores}")
        if answers < found:
            log.warning("%s: %d of %d answers have no labels and are left out", args.output, found - answers, found)
        labels = label_tokens(scores, spans, args.annotations)
        probability = np.minimum(np.exp(scores.logprob.to_numpy(np.float64)), 1.0)
        summary = {"model": settings.model, "annotator": settings.annotator}
        summary |= {"answers": answers, "answers_without_labels": found - answers}
        summary |= summarise(probability, labels, scores.prompt_id.to_numpy(), settings)
        if args.truth:
            truth = label_tokens(scores, read_parquet(args.truth, SPAN_COLUMNS), args.truth)
            summary["recovery"] = recovery(labels, truth)
        record = {"provenance": job.record()}
        write_parquet(args.densities, densities(probability, labels, settings), record)
        write_parquet(args.prompts, by_prompt(probability, labels, scores.prompt_id.to_numpy(), settings), record)
        write_json(args.output, {**summary, "provenance": job.record()})
    means = {name: summary["probability"][name]["mean"] for name in ("core", "replaceable", "all")}
    log.info("%s: means %s, p %.2g, AUC %.3f", args.output, means, summary["test"]["p"], summary["effect"]["auc"])


if __name__ == "__main__":
    main()
