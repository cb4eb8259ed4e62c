r"""Rule `questions`: a data set of the hub, or local files in its own columns, as the items of a benchmark.

    python -m profit questions --benchmark gpqa_diamond --source '{"file": "gpqa_diamond.csv"}' \
        --options '{"seed": 0, "take": "first"}' --expected 198 \
        --output results/S/data/shared/benchmarks/gpqa_diamond.json

Every row becomes an item (profit.protocol) or the rule ends: a benchmark with rows left out is another benchmark.
"""

import argparse
import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from profit.answers import check_items
from profit.files import InputError, write_json
from profit.protocol import BENCHMARKS, GSM8K_COLUMNS, Row, check_options, solved_example
from profit.shapes import BadRow, Source
from profit.sources import file_rows, hub_rows
from profit.validation import validated

log = logging.getLogger(__name__)


def make_items(name: str, source: Source, options: Row, expected: int | None = None) -> list[Row]:
    """The items of a benchmark, checked (profit.answers), solved examples first.

    Raises:
        InputError: a source that cannot be had, a row that lacks something, an option that does not exist, or not the
            `expected` number of questions.
    """
    benchmark, options = BENCHMARKS[name], read_options(name, options)
    items = []
    for number, (place, row) in enumerate(rows_of(source, benchmark.columns), start=1):
        try:
            item = benchmark.make({**row, "_number": number}, options)
        except BadRow as bad:
            raise InputError(f"{place}: {bad}") from None
        if item is not None:
            found = row.get(benchmark.name) if benchmark.name else None
            items.append({"id": f"{name}-{number:05d}" if found is None else str(found), **item})
    if not items:
        raise InputError(f"{source.name}: found no question of {name}, expected some")
    if expected is not None and len(items) != expected:
        raise InputError(
            f"{source.name}: found {len(items)} questions of {name}, expected {expected}: another data set or revision"
        )
    if "examples" in options:
        items = solved(options, source) + items
    return check_items(items, source.name)


def solved(options: Row, source: Source) -> list[Row]:
    """The solved questions of GSM8K's train split that begin as the option `examples` says, in its order."""
    if not options["train"] and source.file:
        raise InputError('options/train: found nothing, expected the source of the train split, {"file": …}')
    train = (
        validated(Source, options["train"], "options.train")
        if options["train"]
        else source.model_copy(update={"split": "train"})
    )
    rows = list(rows_of(train, GSM8K_COLUMNS))
    items = []
    for number, opening in enumerate(options["examples"], start=1):
        place, row = next((found for found in rows if found[1]["question"].startswith(opening)), ("", None))
        if row is None:
            raise InputError(f"options/examples: found no question of {train.name} that begins {opening!r}")
        try:
            items.append({"id": f"example-{number}", **solved_example(row)})
        except BadRow as bad:
            raise InputError(f"{place}: {bad}") from None
    return items


def rows_of(source: Source, columns: dict[str, type]) -> Iterator[tuple[str, Row]]:
    """("file: row N", row) with every column as the benchmark needs it; whole numbers pass for text.

    Raises:
        InputError: a source that cannot be had, or a row without a column or with another type in it.
    """
    if source.hub and not source.split:
        raise InputError(f"source/split: found none, expected the split of {source.hub} that is asked")
    read = hub_rows if source.hub else _csv_rows if str(source.file).endswith(".csv") else file_rows
    for place, row in read(source):
        if isinstance(row, BadRow) or not isinstance(row, dict):
            raise InputError(f"{place}: {row if isinstance(row, BadRow) else f'found {row!r}, expected an object'}")
        row = {key: str(value) if type(value) is int else value for key, value in row.items()}
        for key, form in columns.items():
            if not isinstance(row.get(key), form) or not (row[key].strip() if form is str else row[key]):
                expected = {str: "a text", list: "a list", dict: "an object"}[form]
                raise InputError(f"{place}/{key}: found {row.get(key)!r}, expected {expected}")
        yield place, row


def _csv_rows(source: Source) -> Iterator[tuple[str, Row]]:
    path = Path(source.file or "")
    if not path.is_file():
        raise InputError(f"{path}: not found, expected a CSV file")
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            for number, row in enumerate(csv.DictReader(file), start=1):
                yield f"{path}: row {number}", row
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: found a damaged file ({error}), expected CSV") from None


def read_options(name: str, given: Row) -> Row:
    """Return the options of a benchmark, `given` in place of their defaults; InputError as `check_options`."""
    try:
        check_options(f"{name}: options", name, given)
    except ValueError as error:
        raise InputError(str(error)) from None
    known = BENCHMARKS[name].options
    return {key: value[0] if isinstance(value, tuple) else value for key, value in known.items()} | given


def make_parser() -> argparse.ArgumentParser:
    """The command line of this rule."""
    parser = argparse.ArgumentParser(prog="python -m profit.questions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    parser.add_argument("--source", required=True, type=json.loads, help='JSON: {"file": …} or {"hub": …, "split": …}')
    parser.add_argument("--options", default={}, type=json.loads, help="JSON of the benchmark's options")
    parser.add_argument("--expected", type=int, help="how many questions there are; default: any number")
    parser.add_argument("--output", required=True, help="JSON: the items")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Write the items of one benchmark."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = make_parser().parse_args(argv)
    source = validated(Source, arguments.source, "--source")
    items = make_items(arguments.benchmark, source, arguments.options, arguments.expected)
    write_json(arguments.output, items)
    log.info("%s: %d items of %s", arguments.benchmark, len(items), source.name)


if __name__ == "__main__":
    main()
