"""Rule `collect`: references for training from real data, local or on the hub (paper §5.1), several to a prompt.

Rows of one or more sources (profit.sources), in the shapes of profit.shapes, become the table that every other rule
reads. Sources are joined by their prompt, each adding its answers in its own order. Two prompts are one if they differ
in white space alone, as far as `white_space` says; likewise two answers, under `distinct`. What is kept of a text is
its first form, character for character.

A row that gives no reference is reported by file and row, and counted; above the share `bad_rows` of a source nothing
is written. Prompts with fewer than `references` answers are dropped and counted. Duplicates are dropped before that:
three sources of which two gave the same answer are two references.

    python -m profit collect --data '{"sources": [{"file": "train.jsonl"}]}' --output references.parquet
        --report collect.json
"""

import argparse
import hashlib
import itertools
import json
import logging
import statistics
from collections import Counter
from typing import Any

import pandas as pd

from profit import provenance
from profit.data import REFERENCE_COLUMNS
from profit.files import InputError, canonical_json, write_json, write_parquet
from profit.shapes import BadRow, Collected, Source, columns_of, exchange, same
from profit.sources import file_rows, hub_rows
from profit.validation import validated

log = logging.getLogger(__name__)

LOGGED = 20
FIRST_ROWS = 20


def collect(settings: Collected) -> tuple[pd.DataFrame, dict[str, Any]]:
    """References (the columns of profit.data, sorted, spans null, steps 0) and the report without its provenance.

    Raises:
        InputError: a source that is missing, damaged, empty, of unclear shape or with too many bad rows; no
            prompt with enough answers.
    """
    answers: dict[str, dict[str | int, str]] = {}
    prompts: dict[str, str] = {}
    sources, bad, found = [], [], 0
    for source in settings.sources:
        pairs, account, sentences = read_source(source, settings)
        sources.append(account)
        bad += sentences
        for prompt, answer in pairs:
            key = same(prompt, settings.white_space)
            prompts.setdefault(key, prompt)
            known = answers.setdefault(key, {})
            known.setdefault(same(answer, settings.white_space) if settings.distinct else len(known), answer)
            found += 1
    enough = [key for key, listed in answers.items() if len(listed) >= settings.references]
    if not enough:
        most = max((len(listed) for listed in answers.values()), default=0)
        raise InputError(f"sources: found at most {most} answers to a prompt, expected references = "
                         f"{settings.references} for some")  # fmt: skip
    if settings.order == "seed":
        enough.sort(key=lambda key: _digest(f"{settings.seed} order {prompt_id(key)}"))
    taken = enough[: settings.prompts]
    table = _table(settings, {key: (prompts[key], list(answers[key].values())) for key in taken})
    counts = Counter(len(listed) for listed in answers.values())
    report = {
        "rows": sum(source["rows"] for source in sources),
        "bad_rows": {
            "count": len(bad),
            "by_kind": dict(Counter(kind for kind, _ in bad)),
            "rows": [sentence for _, sentence in bad],
        },
        "sources": sources,
        "prompts": len(taken),
        "references": len(table),
        "held": int(table["held"].sum()),
        "prompts_by_answers": counts,
        "dropped": {
            "duplicate_answers": found - sum(map(len, answers.values())),
            "prompts_with_fewer_references": len(answers) - len(enough),
            "prompts_beyond_the_most": len(enough) - len(taken),
            "answers_beyond_references": sum(len(answers[key]) - settings.references for key in taken),
        },
        "characters": {
            "prompt": _lengths([prompts[key] for key in taken]),
            "answer": _lengths(table["answer"].tolist()),
        },
        "world": content_hash(table),
    }
    return table, report


def read_source(
    source: Source, settings: Collected
) -> tuple[list[tuple[str, str]], dict[str, Any], list[tuple[str, str]]]:
    """(prompt, answer) of every good row; the source's account; (kind, sentence) of every bad row, the first logged.

    Raises:
        InputError: as `collect` for this source.
    """
    rows = hub_rows(source) if source.hub else file_rows(source)
    first = list(itertools.islice(rows, FIRST_ROWS))
    shape, names = columns_of(source, [row for _, row in first])
    pairs, bad, total = [], [], 0
    for where, row in itertools.chain(first, rows):
        total += 1
        try:
            pairs.append(exchange(row, names, settings))
        except BadRow as error:
            bad.append((error.kind, f"{where}: {error}"))
            if len(bad) <= LOGGED:
                log.warning("%s", bad[-1][1])
    if len(bad) > settings.bad_rows * total:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(kind for kind, _ in bad).most_common())
        raise InputError(
            f"{source.name}: found {len(bad)} bad rows of {total} ({kinds}), expected a share of at most "
            f"bad_rows = {settings.bad_rows:g}; the first is {bad[0][1]}"
        )
    if len(bad) > LOGGED:
        log.warning("%s: %d more bad rows, all of them in the report", source.name, len(bad) - LOGGED)
    return pairs, {"name": source.name, "shape": shape, "rows": total, "bad_rows": len(bad)}, bad


def prompt_id(key: str) -> str:
    """The name of a prompt in every table, from what `profit.shapes.same` leaves of its text."""
    return f"p{_digest(key)[:16]}"


def content_hash(table: pd.DataFrame) -> str:
    """16 hexadecimal digits that every result of these references carries, as those of a miniature world do."""
    return _digest(canonical_json(table.drop(columns="spans").values.tolist()))[:16]


def _table(settings: Collected, chosen: dict[str, tuple[str, list[str]]]) -> pd.DataFrame:
    rows = []
    for key, (prompt, answers) in chosen.items():
        name = prompt_id(key)
        draws = [_digest(f"{settings.seed} held {name} {number}") for number in range(settings.references)]
        held = sorted(draws)[: settings.held]
        rows += [(name, number, prompt, answers[number], draw in held, 0, None) for number, draw in enumerate(draws)]
    return pd.DataFrame(rows, columns=REFERENCE_COLUMNS).sort_values(["prompt_id", "reference_id"], ignore_index=True)


def parse_settings(text: str) -> Collected:
    """Read the JSON of --data; InputError names each key that is unknown, missing or out of range."""
    try:
        return validated(Collected, json.loads(text), "--data")
    except json.JSONDecodeError as error:
        raise InputError(f"--data: found no JSON ({error}), expected the data block of a study") from None


def _lengths(texts: list[str]) -> dict[str, float]:
    lengths = [len(text) for text in texts]
    return {"mean": statistics.fmean(lengths), "median": statistics.median(lengths), "max": max(lengths)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profit collect", description="References for training from local files or the hub."
    )
    parser.add_argument("--data", required=True, help="JSON of the study's data block (profit.shapes.Collected)")
    parser.add_argument("--output", required=True, help="references.parquet")
    parser.add_argument("--report", required=True, help="JSON: counts, bad rows, lengths")
    return parser


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = make_parser().parse_args(argv)
    settings = parse_settings(args.data)
    with provenance.job("collect", settings.model_dump()) as job:
        table, report = collect(settings)
        job.world = report["world"]
        write_parquet(args.output, table, {"provenance": job.record()})
        write_json(args.report, {**report, "provenance": job.record()})
    log.info(
        "%s: %d references to %d prompts from %d rows (%d bad)",
        args.output, len(table), report["prompts"], report["rows"], report["bad_rows"]["count"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
