"""Agreement of two annotators: accuracy, Cohen's kappa (Cohen 1960) and confusion, with intervals over prompts.

Annotators cut answers in their own ways, so the unit is neither's: each answer is cut into words (annotate.WORD), and
a word has the label of the span that holds its first character, `fixed` in none. An answer that only one of the two
labelled is left out and counted. Words of one prompt are not independent, so the bootstrap draws whole prompts: one
confusion table a prompt is enough for every resample. The paper reports no agreement of its annotator with another
(§4.1).

    python -m profit agreement --first llm.parquet --second agreement.parquet --references references.parquet
        --names llm agreement --output agreement.json
"""

import argparse
import logging
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from profit import provenance
from profit.annotate import WORD, repeat_keys
from profit.correlate import SPAN_COLUMNS, has_labels, label_tokens
from profit.data import LABELS, load_references
from profit.files import InputError, read_parquet, write_json
from profit.statistics import bootstrap_weights, percentile_interval

log = logging.getLogger(__name__)


def compare_words(
    spans: dict[str, pd.DataFrame], references: pd.DataFrame, resamples: int = 2_000, seed: int = 0
) -> dict[str, Any]:
    """`compare_labels` of the words of all answers that both annotators labelled.

    Args:
        spans: of the two annotators, by file: prompt_id, reference_id, start, end, label.
        references: prompt_id, reference_id, answer.

    Returns:
        Also the unit, and how many answers were compared and how many had labels of one annotator alone.

    Raises:
        InputError: no answer has labels of both; a span that `correlate.label_tokens` refuses.
    """
    ours, theirs = (has_labels(references, own) for own in spans.values())
    counts = {
        "answers": int((ours & theirs).sum()),
        "answers_of_first_alone": int((ours & ~theirs).sum()),
        "answers_of_second_alone": int((theirs & ~ours).sum()),
    }
    if not counts["answers"]:
        raise InputError(f"{', '.join(spans)}: found {counts}, expected some answers with labels of both annotators")
    shared = references[ours & theirs]
    cuts = [np.array([match.span() for match in WORD.finditer(answer)], dtype=np.int32) for answer in shared.answer]
    words = repeat_keys(shared, [len(cut) for cut in cuts])
    words[["start", "end"]] = np.concatenate(cuts)
    labels = [label_tokens(words, own, path) for path, own in spans.items()]
    return {"unit": "word", **counts, **compare_labels(*labels, words.prompt_id.to_numpy(), resamples, seed)}


def compare_labels(
    first: NDArray, second: NDArray, prompts: NDArray, resamples: int = 2_000, seed: int = 0
) -> dict[str, Any]:
    """Agreement of two annotators on the same words (or tokens, or characters), with intervals over prompts.

    Args:
        first, second: labels, shapes (n,).
        prompts: prompt of each, shape (n,).

    Returns:
        `all` and `core_and_replaceable` (what neither calls fixed or end): counts, and accuracy and kappa with 95 %
        percentile bootstrap intervals of whole prompts (None where undefined); `confusion`: counts by the first's
        label, then the second's.

    Raises:
        ValueError: shapes differ or are empty, or a label is none of LABELS.
    """
    numbers = [pd.Index(LABELS).get_indexer(np.asarray(labels)) for labels in (first, second)]
    if not len(numbers[0]) == len(numbers[1]) == len(prompts) > 0:
        raise ValueError(
            f"labels: found {[*map(len, numbers), len(prompts)]} of them, expected as many each, and some"
        )
    if min(found.min() for found in numbers) < 0:
        raise ValueError(f"labels: found one that is none of {', '.join(LABELS)}")
    names, prompt = np.unique(prompts, return_inverse=True)
    size = len(LABELS)
    cells = np.ravel_multi_index((prompt, *numbers), (len(names), size, size))
    tables = np.bincount(cells, minlength=len(names) * size**2).reshape(len(names), size, size)
    weights = bootstrap_weights(len(names), resamples, seed)
    return {
        "all": table_agreement(tables, weights),
        "core_and_replaceable": table_agreement(tables[:, :2, :2], weights),
        "confusion": {
            label: dict(zip(LABELS, counts, strict=True))
            for label, counts in zip(LABELS, tables.sum(axis=0).tolist(), strict=True)
        },
    }


def table_agreement(tables: NDArray[np.int64], weights: NDArray[np.float64]) -> dict[str, Any]:
    """Accuracy and kappa of tables (prompts, labels, labels), and intervals by weights (resamples, prompts)."""
    draws = (weights @ tables.reshape(len(tables), -1)).reshape(-1, *tables.shape[1:])
    ratios = accuracy_and_kappa(tables.sum(axis=0, keepdims=True))
    found = {"units": int(tables.sum()), "prompts": int((tables.sum(axis=(1, 2)) > 0).sum())}
    for name, value, drawn in zip(("accuracy", "kappa"), ratios, accuracy_and_kappa(draws), strict=True):
        defined = np.isfinite(value).all() and np.isfinite(drawn).any()
        low, high = percentile_interval(drawn) if defined else (None, None)
        found[name] = {"value": float(value[0]) if defined else None, "low": low, "high": high}
    return found


def accuracy_and_kappa(tables: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy and Cohen's kappa of each confusion table, shape (tables, labels, labels); NaN where undefined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = tables.sum(axis=(1, 2))
        observed = np.trace(tables, axis1=1, axis2=2) / total
        chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / total**2
        return observed, np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit agreement", description="Compare the labels of two annotators, word by word."
    )
    parser.add_argument("--first", required=True, help="labelled spans, from profit.annotate")
    parser.add_argument("--second", required=True, help="those of another annotator")
    parser.add_argument("--references", required=True, help="references.parquet that both labelled")
    parser.add_argument("--names", required=True, nargs=2, metavar=("FIRST", "SECOND"), help="the two annotators")
    parser.add_argument("--bootstrap", type=int, default=2_000, help="resamples of prompts, for intervals")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, help="JSON")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO)
    args = make_parser().parse_args(argv)
    names = dict(zip(("first", "second"), args.names, strict=True))
    settings = {**names, "bootstrap": args.bootstrap, "seed": args.seed}
    for option, (first, second) in {"--names": args.names, "--first, --second": (args.first, args.second)}.items():
        if first == second:
            raise InputError(f"{option}: found {first} twice, expected two annotators")
    if args.bootstrap < 1 or args.seed < 0:
        raise InputError(f"--bootstrap, --seed: found {args.bootstrap}, {args.seed}, expected at least 1 and 0")
    references = load_references(args.references)
    with provenance.job("agreement", settings=settings, world=provenance.world_of(args.references)) as job:
        spans = {path: read_parquet(path, SPAN_COLUMNS) for path in (args.first, args.second)}
        found = compare_words(spans, references, args.bootstrap, args.seed)
        write_json(args.output, {**names, **found, "provenance": job.record()})
    for name in ("all", "core_and_replaceable"):
        log.info("%s: %s against %s, %s: %s", args.output, *args.names, name, found[name])
    log.info("%s: confusion, rows %s, columns %s: %s", args.output, *args.names, found["confusion"])


if __name__ == "__main__":
    main()
