"""Rows of a source of references or questions: local JSON lists, JSONL and Parquet, or a data set on the hub.

Every row comes with the words that name it in a report. A damaged line of JSONL is one bad row; a JSON list or a
Parquet file cannot be read in part, so damage there is an error.

No command: used by profit.collect and profit.questions.
"""

import glob
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from profit.files import InputError, read_json
from profit.shapes import BadRow, Source

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")


def file_rows(source: Source) -> Iterator[tuple[str, Any]]:
    """("file: row N", row) of every file of the source, rows counted from 1; a line that is no JSON is a BadRow.

    Raises:
        InputError: no such file, another kind of file, a damaged one, or one without a row.
    """
    literal = Path(source.file).exists()
    files = [source.file] if literal else sorted(glob.glob(source.file, recursive=True))
    if not files:
        raise InputError(f"{source.file}: not found, expected a file or a glob that matches some")
    for file in files:
        path = Path(file)
        if not path.is_file() or path.suffix not in SUFFIXES:
            found = "a folder" if path.is_dir() else f"the ending {path.suffix!r}"
            raise InputError(f"{file}: found {found}, expected a file with one of the endings {', '.join(SUFFIXES)}")
        rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
        number = 0
        for number, row in rows:
            yield f"{file}: row {number}", row
        if not number:
            raise InputError(f"{file}: found no row, expected at least one")


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows of a JSON list, counted from 1, or of a file with one object a line, by line."""
    with open(path, "rb") as file:
        opening = next((line.lstrip()[:1] for line in file if line.strip()), b"")
        if path.suffix == ".json" and opening == b"[":
            yield from enumerate(read_json(path), start=1)
            return
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                yield number, BadRow("not JSON", f"found a line that is no JSON ({error}), expected an object")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches()
        yield from enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches), start=1)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: found a truncated or foreign file ({error}), expected Parquet") from None


def hub_rows(source: Source) -> Iterator[tuple[str, Any]]:
    """("id@revision: row N", row) of a data set on the hub or in its cache, rows counted from 1.

    Raises:
        InputError: whatever `datasets` could not do, with what to do instead; no row.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(
            source.hub, name=source.config, revision=source.revision, split=source.split or "train"
        )
    except MemoryError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise InputError(
            f"{source.name}: found no such data set within reach ({reason}), expected one of: a local copy (`file` "
            f"instead of `hub`); a cache filled where the hub can be reached (HF_HOME); HF_TOKEN for a data set that "
            f"asks for consent; an id, revision, config and split that exist"
        ) from None
    if not len(loaded):
        raise InputError(f"{source.name}: found no row, expected at least one")
    for number, row in enumerate(loaded, start=1):
        yield f"{source.name}: row {number}", row
