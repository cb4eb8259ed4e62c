"""Reading and writing of every file that passes between rules.

A file is written under a temporary name beside its place, flushed to the disk and renamed, so that a reader sees the
whole file or none, whatever kills the writer. A file that cannot be read as expected is an `InputError` that names it.
"""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class InputError(Exception):
    """Input that a person can correct; the message says where it stands, what was found and what was expected."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; at success it is flushed and renamed onto `path`, at failure removed.

    Raises:
        OSError: as the system raised it, with a message that names `path` (full disk, no permission).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
        _flush(path.parent)
    except BaseException as error:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise OSError(error.errno, f"{path}: not written, nothing changed: {os.strerror(error.errno)}") from error
        raise


@contextmanager
def write_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `path` (replacing it) when the block ends without an error."""
    with atomic_path(path) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON with sorted keys; NaN and infinities (undefined values) become null."""
    text = json.dumps(_plain(content), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_parquet(path: str | Path, frame: "pd.DataFrame", metadata: dict[str, Any] | None = None) -> None:
    """Write `frame` without its index; each entry of `metadata` is kept in the file as JSON under its key."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    extra = {key.encode(): canonical_json(value).encode() for key, value in (metadata or {}).items()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **extra})
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")


def write_csv(path: str | Path, frame: "pd.DataFrame") -> None:
    """Write `frame` without its index; numbers keep six significant digits."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g")


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: the file is missing, truncated or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected a JSON file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: found a truncated or foreign file ({error}), expected JSON") from None


def read_parquet(path: str | Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Return the named columns (or all) of a Parquet file, in the order asked for.

    Raises:
        InputError: the file is missing, truncated or not Parquet, or lacks some of `columns`.
    """
    import pyarrow
    import pyarrow.parquet

    schema = _parquet_schema(path)
    missing = [name for name in columns or [] if name not in schema.names]
    if missing:
        raise InputError(f"{path}: found columns {schema.names}, expected also {missing}")
    try:
        return pyarrow.parquet.read_table(path, columns=columns).to_pandas()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected Parquet") from None


def read_parquet_metadata(path: str | Path) -> dict[str, Any]:
    """Return what `write_parquet` stored beside the table, e.g. {"provenance": {…}}."""
    found = _parquet_schema(path).metadata or {}
    return {key.decode(): json.loads(value) for key, value in found.items() if key not in (b"pandas", b"ARROW:schema")}


def canonical_json(content: Any) -> str:
    """Return `content` as JSON in one fixed form (sorted keys, no spaces), fit for hashes and command lines."""
    return json.dumps(_plain(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def file_hash(path: str | Path) -> str:
    """Return the first 16 hexadecimal digits of the file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _parquet_schema(path: str | Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not found, expected a Parquet file") from None
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: found a truncated or foreign file ({error}), expected Parquet") from None


def _plain(content: Any) -> Any:
    """Containers and numpy scalars as JSON knows them."""
    if isinstance(content, dict):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, Path):
        return str(content)
    if content is not None and not isinstance(content, (str, int, float)):
        return _plain(content.tolist())
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
