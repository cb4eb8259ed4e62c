"""Labels of the references' characters: which are core, which replaceable, which fixed (paper §4.1, Figure 3).

The paper asked a large model: `llm` does so too (profit.judge). Two annotators need none:

`truth` copies the labels that the generator of the miniature language stored beside each answer.

`agreement` takes a word as core where the references of its prompt agree on it. Each answer is cut into words and
punctuation marks; every two answers of a prompt are aligned in order (difflib's longest matching blocks, letter case
ignored, since a capital often only marks the start of a sentence). The support of a word is the share of the other
answers in which it is aligned to the same word; support >= threshold makes it core, less makes it replaceable. It
cannot know `fixed`: forced punctuation is agreed upon too and counts as core. The default threshold 0.5 asks for a
majority: a wording that two or three of eight answers share by chance must not become core, and one answer that goes
another way must not unmake the core of the others.

`recovery` says how well labels agree with a known truth; how well two annotators agree with each other,
profit.agreement.

    python -m profit annotate --annotator truth|agreement|llm --references references.parquet --output spans.parquet
        [--judge '{"model":"…","base_url":"https://…/v1"}' --cache FOLDER]
"""

import argparse
import difflib
import itertools
import logging
import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from profit import provenance
from profit.data import LABELS, load_references
from profit.files import InputError, write_parquet
from profit.statistics import cohens_kappa

log = logging.getLogger(__name__)

THRESHOLD = 0.5
# A number with its decimals, a word with its apostrophes, or one mark of punctuation.
WORD = re.compile(r"\d+(?:[.,]\d+)*|\w+(?:['’]\w+)*|[^\w\s]")


def truth_spans(references: pd.DataFrame) -> pd.DataFrame:
    """Spread the stored labels of `references` (column spans) to one row a span.

    Returns:
        prompt_id, reference_id, start, end (characters of the answer), label, in the order of `references`.

    Raises:
        InputError: an answer without stored labels, an unknown label, or a span that is empty or leaves the answer.
    """
    without = references.spans.isna()
    if without.any():
        row = references[without].iloc[0]
        raise InputError(
            f"references, prompt {row.prompt_id}, reference {row.reference_id}: found no stored labels (null spans), "
            f"expected them for annotator truth; possible here: agreement"
        )
    counts = references.spans.map(len).to_numpy()
    spans = pd.DataFrame.from_records(
        list(itertools.chain.from_iterable(references.spans)), columns=["start", "end", "label"]
    )
    table = pd.concat([repeat_keys(references, counts), spans], axis=1).astype({"start": "int32", "end": "int32"})
    lengths = np.repeat(references.answer.str.len().to_numpy(), counts)
    wrong = ~table.label.isin(LABELS[:3]) | (table.start < 0) | (table.end <= table.start) | (table.end > lengths)
    if wrong.any():
        row = table[wrong].iloc[0]
        raise InputError(
            f"references, prompt {row.prompt_id}, reference {row.reference_id}: found span {row.start}-{row.end} "
            f"{row.label!r}, expected a label of {', '.join(LABELS[:3])} and a span within the answer"
        )
    return table


def agreement_spans(references: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """Label each word of each answer core or replaceable by the agreement of its prompt's answers.

    Args:
        references: columns prompt_id, reference_id, answer.
        threshold: least support, in (0, 1], of a core word.

    Returns:
        As `truth_spans`, one row a word.

    Raises:
        InputError: a threshold outside (0, 1], or a prompt with a single reference.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold: found {threshold}, expected more than 0 and at most 1")
    parts = []
    for prompt_id, group in references.groupby("prompt_id", sort=False):
        if len(group) < 2:
            raise InputError(
                f"references, prompt {prompt_id}: found 1 reference, expected at least 2 for annotator agreement"
            )
        spans = [[match.span() for match in WORD.finditer(answer)] for answer in group.answer]
        words = [
            [answer[start:end].casefold() for start, end in own]
            for answer, own in zip(group.answer, spans, strict=True)
        ]
        table = repeat_keys(group, [len(own) for own in spans])
        table[["start", "end"]] = np.array([span for own in spans for span in own], dtype=np.int32).reshape(-1, 2)
        table["label"] = np.where(np.concatenate(support(words)) >= threshold, "core", "replaceable")
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def support(answers: list[list[str]]) -> list[NDArray[np.float64]]:
    """Share of the other answers in which each word is aligned to the same word; per answer, shape (words,).

    answers: the words of at least two answers to one prompt.
    """
    counts = [np.zeros(len(words)) for words in answers]
    for first, second in itertools.combinations(range(len(answers)), 2):
        matcher = difflib.SequenceMatcher(None, answers[first], answers[second], autojunk=False)
        for block in matcher.get_matching_blocks():
            counts[first][block.a : block.a + block.size] += 1
            counts[second][block.b : block.b + block.size] += 1
    return [count / (len(answers) - 1) for count in counts]


def recovery(labels: NDArray, truth: NDArray) -> dict[str, Any]:
    """How well `labels` recover `truth`, token by token, among the tokens that are truly core or replaceable.

    Positive is core. Truly fixed tokens stand apart: `fixed_as_core` is the share of them labelled core. None where
    a ratio has no denominator.
    """
    kept = np.isin(truth, ("core", "replaceable"))
    said, true = labels[kept] == "core", truth[kept] == "core"
    hits, fixed = int((said & true).sum()), truth == "fixed"
    precision = hits / int(said.sum()) if said.any() else None
    recall = hits / int(true.sum()) if true.any() else None
    return {
        "tokens": int(kept.sum()),
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / int(said.sum() + true.sum()) if said.any() or true.any() else None,
        "accuracy": float((said == true).mean()) if kept.any() else None,
        "kappa": cohens_kappa(said, true) if kept.any() else None,
        "fixed_tokens": int(fixed.sum()),
        "fixed_as_core": float((labels[fixed] == "core").mean()) if fixed.any() else None,
    }


def llm_spans(references: pd.DataFrame, judge: str | None, cache: str | None) -> pd.DataFrame:
    """As profit.judge.judge_spans; imported late, since the other annotators need no client library."""
    from profit.judge import judge_spans

    return judge_spans(references, judge, cache)


def repeat_keys(references: pd.DataFrame, counts: NDArray | list[int]) -> pd.DataFrame:
    """Repeat prompt_id and reference_id of each answer `counts` times."""
    return pd.DataFrame({key: np.repeat(references[key].to_numpy(), counts) for key in ("prompt_id", "reference_id")})


ANNOTATORS = {"truth": truth_spans, "agreement": agreement_spans, "llm": llm_spans}
OPTIONS: dict[str, tuple[str, ...]] = {"truth": (), "agreement": ("threshold",), "llm": ("judge", "cache")}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit annotate", description="Label the references' characters core, replaceable or fixed."
    )
    parser.add_argument("--annotator", required=True, choices=list(ANNOTATORS))
    parser.add_argument("--references", required=True, help="references.parquet")
    parser.add_argument("--output", required=True, help="Parquet, one row a labelled span")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="least support of a core word (agreement)")
    parser.add_argument("--judge", help="JSON: model, base_url, … (llm; profit.judge_settings.Judge)")
    parser.add_argument("--cache", help="folder of the judge's answers; a second run asks only for the rest (llm)")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO)
    args = make_parser().parse_args(argv)
    references = load_references(args.references)
    world = provenance.world_of(args.references)
    options = {name: getattr(args, name) for name in OPTIONS[args.annotator]}
    with provenance.job("annotate", settings={"annotator": args.annotator}, world=world) as job:
        table = ANNOTATORS[args.annotator](references, **options)
        notes, table.attrs = table.attrs, {}
        job.settings |= notes.pop("settings", options)  # a judge's own are without its address
        write_parquet(args.output, table, {"provenance": job.record(), **notes})
    shares = table.label.value_counts(normalize=True).round(3).to_dict()
    labelled = len(table[["prompt_id", "reference_id"]].drop_duplicates())
    log.info("%s: %d spans of %d of %d answers, %s", args.output, len(table), labelled, len(references), shares)


if __name__ == "__main__":
    main()
