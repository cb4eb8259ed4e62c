"""Files are whole or absent, and what cannot be read is named."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from profit import files, provenance
from profit.files import InputError


def test_json_round_trip_keeps_values_and_turns_the_undefined_into_null(tmp_path):
    path = tmp_path / "deep" / "a.json"
    files.write_json(path, {"b": np.float32(0.5), "a": [np.int64(3), float("nan"), float("inf")], 1: (True, None)})
    assert files.read_json(path) == {"b": 0.5, "a": [3, None, None], "1": [True, None]}
    assert os.listdir(path.parent) == ["a.json"]


def test_parquet_keeps_nested_columns_and_metadata(tmp_path):
    frame = pd.DataFrame({"x": [1, 2], "spans": [[{"start": 0, "end": 2, "label": "core"}], None]})
    files.write_parquet(tmp_path / "a.parquet", frame, {"provenance": {"seed": 3}})
    found = files.read_parquet(tmp_path / "a.parquet", ["spans", "x"])
    assert list(found) == ["spans", "x"] and found["x"].tolist() == [1, 2]
    assert found["spans"][0][0] == {"start": 0, "end": 2, "label": "core"} and found["spans"][1] is None
    assert files.read_parquet_metadata(tmp_path / "a.parquet") == {"provenance": {"seed": 3}}


def test_csv_and_canonical_json_are_stable(tmp_path):
    files.write_csv(tmp_path / "a.csv", pd.DataFrame({"x": [1 / 3], "n": [7]}))
    assert (tmp_path / "a.csv").read_text() == "x,n\n0.333333,7\n"
    assert files.canonical_json({"b": 1, "a": [1.0, 3e-4]}) == files.canonical_json({"a": (1.0, 0.0003), "b": 1})
    assert files.canonical_json({"b": 1, "a": "ä"}) == '{"a":"ä","b":1}'
    assert files.file_hash(tmp_path / "a.csv") == files.file_hash(tmp_path / "a.csv")


@pytest.mark.parametrize("keep", [0, 1, 40])
def test_truncated_files_are_named(tmp_path, keep):
    files.write_json(tmp_path / "a.json", {"key": "some longer content for the cut"})
    files.write_parquet(tmp_path / "a.parquet", pd.DataFrame({"x": range(1000)}))
    for name, read in (("a.json", files.read_json), ("a.parquet", files.read_parquet)):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(InputError, match=f"{name}: found"):
            read(path)


def test_missing_files_and_columns_are_named(tmp_path):
    for read in (files.read_json, files.read_parquet):
        with pytest.raises(InputError, match="nowhere: not found"):
            read(tmp_path / "nowhere")
    files.write_parquet(tmp_path / "a.parquet", pd.DataFrame({"x": [1]}))
    with pytest.raises(InputError, match=r"a.parquet: found columns \['x'\], expected also \['y'\]"):
        files.read_parquet(tmp_path / "a.parquet", ["x", "y"])


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    for name in ("first", "second"):
        with files.write_folder(tmp_path / "model") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / name).touch()
            assert not (tmp_path / "model" / "sub" / name).exists()
    assert os.listdir(tmp_path / "model" / "sub") == ["second"]
    with pytest.raises(RuntimeError), files.write_folder(tmp_path / "model") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert os.listdir(tmp_path / "model" / "sub") == ["second"] and os.listdir(tmp_path) == ["model"]


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    writers = [
        lambda: files.write_json(path, {"new": 1}),
        lambda: files.write_parquet(path, pd.DataFrame({"x": [1]})),
        lambda: files.write_csv(path, pd.DataFrame({"x": [1]})),
    ]
    for write in writers:
        with pytest.raises(OSError, match="a.json: not written, nothing changed: No space left") as error:
            write()
        assert error.value.errno == errno.ENOSPC
    assert json.loads(path.read_text()) == {"old": 1} and os.listdir(tmp_path) == ["a.json"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    code = (
        "import os, signal; from profit import files\n"
        f"with files.atomic_path({str(path)!r}) as temporary:\n"
        "    temporary.write_text('{\"new'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert files.read_json(path) == {"old": 1}


def test_provenance_says_what_was_run():
    settings = {"seed": 7, "objective": {"name": "sft"}}
    with provenance.job("train", settings, world="abc") as job:
        job.tokens(5)
        job.tokens(6)
        job.tokens(2, "generated")
        sum(number * number for number in range(300_000))
        record = job.record()
    assert record["tokens"] == {"trained": 11, "generated": 2}
    assert record["seed"] == 7 and record["world"] == "abc" and record["settings"] == settings
    assert record["cpu_seconds"] > record["cpu_seconds_imports"] > 0 and record["peak_memory_mb"] > 10
    assert record["versions"]["torch"].startswith("2.") and len(record["code"]) == 12
    assert files.canonical_json(record)


def test_settings_hash_ignores_order_and_sees_values():
    def hashed(settings):
        with provenance.job("train", settings) as job:
            return job.record()["settings_hash"]

    assert hashed({"a": 1, "b": 2}) == hashed({"b": 2, "a": 1}) != hashed({"a": 1, "b": 3})


def test_the_seconds_of_the_client_count_as_imports(monkeypatch):
    monkeypatch.setenv(provenance.CLIENT_SECONDS, "100")
    with provenance.job("train", {}) as job:
        record = job.record()
    assert record["cpu_seconds_imports"] > 100 and record["cpu_seconds"] > 100
