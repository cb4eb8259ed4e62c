"""Jobs lease GPUs that nobody else holds, of those they may see, and a dead job holds none. All GPUs are made up."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from profit.files import InputError
from profit.lease import asks_for_gpus, gpu_in_reach, gpu_name, in_reach, lease, list_gpus

ROOT = Path(__file__).parent.parent
UUIDS = ["GPU-aa11", "GPU-ab22", "GPU-cc33", "GPU-dd44"]
HOLDER = """
import os, sys, time
from pathlib import Path
from profit.lease import lease
count, folder, marks, seconds = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
chosen = lease(count, folder)
begun = time.monotonic()
(marks / f"{os.getpid()}.part").write_text("")
(marks / f"{os.getpid()}.part").rename(marks / str(os.getpid()))
time.sleep(seconds)
print(os.environ.get("CUDA_VISIBLE_DEVICES"), begun, time.monotonic(), flush=True)
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make a machine of n GPUs of the `nvidia-smi` that stands first on the PATH."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "SLURM_JOB_ID", "PROFIT_CLUSTER_GPUS"):
        monkeypatch.delenv(name, raising=False)

    def make(count, fails=False):
        lines = [f"GPU {i}: NVIDIA H200 (UUID: {uuid})" for i, uuid in enumerate(UUIDS[:count])]
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir()
        tool.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + f"\nEND\nexit {int(fails)}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")

    return make


@pytest.fixture
def start(tmp_path):
    """Start a process that leases GPUs and holds them for some seconds; all are killed with the test."""
    folder, marks = tmp_path / "leases", tmp_path / "marks"
    marks.mkdir()
    started = []

    def start(count, seconds=60.0, **variables):
        command = [sys.executable, "-c", HOLDER, str(count), str(folder), str(marks), str(seconds)]
        process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
            stdout=subprocess.PIPE,
            stderr=(tmp_path / f"{len(started)}.log").open("w"),
            text=True,
        )
        process.log = tmp_path / f"{len(started)}.log"
        process.mark = marks / str(process.pid)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition, seconds=20.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def result(process):
    """GPUs, begin and end of a holder that has ended."""
    output = process.communicate(timeout=30)[0].split()
    assert process.returncode == 0, process.log.read_text()
    return set(output[0].split(",")), float(output[1]), float(output[2])


def test_no_gpu_ever_has_two_holders(machine, start):
    machine(3)
    found = [result(process) for process in [start(count, 0.3) for count in (1, 2, 1, 3, 1, 2, 1)]]
    assert [len(gpus) for gpus, _, _ in found] == [1, 2, 1, 3, 1, 2, 1]
    assert set.union(*(gpus for gpus, _, _ in found)) == {"0", "1", "2"}
    for i, (gpus, begun, ended) in enumerate(found):
        for others, other_begun, other_ended in found[:i]:
            assert not gpus & others or begun >= other_ended or other_begun >= ended


def test_jobs_that_fit_run_at_once(machine, start):
    machine(4)
    holders = [start(1), start(2), start(1)]
    wait_for(lambda: all(holder.mark.exists() for holder in holders))
    # Any of them may have said that it waits for another to choose.
    leased = [holder.log.read_text().splitlines()[-1].split()[1] for holder in holders]
    assert sorted(",".join(leased).split(",")) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("mask", ["0,1,2,3", "3,1,0,2"])
def test_trainings_on_two_gpus_each_never_share_one(machine, start, mask):
    machine(4)
    first, second = start(2, CUDA_VISIBLE_DEVICES=mask), start(2, CUDA_VISIBLE_DEVICES=mask)
    wait_for(lambda: first.mark.exists() and second.mark.exists())
    # One of them may have said that it waits for the other to choose.
    said = [holder.log.read_text().splitlines()[-1].split()[1] for holder in (first, second)]
    held = [set(gpus.split(",")) for gpus in said]
    assert len(held[0]) == len(held[1]) == 2 and held[0] | held[1] == set("0123")
    third = start(2, 0.0, CUDA_VISIBLE_DEVICES=mask)
    wait_for(lambda: f"Waiting for 2 of the GPUs {mask.replace(',', ', ')}" in third.log.read_text())
    assert not third.mark.exists()
    second.kill()
    assert result(third)[0] == held[1]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_job_gives_its_gpu_back_and_who_waits_says_so(machine, start, signal_number):
    machine(1)
    first = start(1)
    wait_for(first.mark.exists)
    second = start(1, 0.0)
    wait_for(lambda: "Waiting for 1 of the GPUs 0: other jobs hold them\n" in second.log.read_text())
    time.sleep(0.6)
    assert not second.mark.exists()
    first.send_signal(signal_number)
    assert result(second)[0] == {"0"}
    assert second.log.read_text().count("Waiting") == 1


def test_one_that_needs_all_is_not_overtaken(machine, start):
    machine(2)
    first = start(1)
    wait_for(first.mark.exists)
    large = start(2, 0.0)
    wait_for(lambda: "Waiting" in large.log.read_text())
    small = start(1, 0.0)
    wait_for(lambda: "Waiting" in small.log.read_text())
    assert not large.mark.exists()
    first.kill()
    (gpus, begun, _), (_, small_begun, _) = result(large), result(small)
    assert gpus == {"0", "1"} and begun <= small_begun


def test_masks_are_kept_and_agree_on_what_is_held(machine, start):
    machine(3)
    by_number, by_uuid = start(1, 0.5, CUDA_VISIBLE_DEVICES="1"), start(1, 0.5, CUDA_VISIBLE_DEVICES="GPU-ab")
    beside = start(2, 0.5, CUDA_VISIBLE_DEVICES="2,0")
    (first, *one), (second, *other), (third, *_) = map(result, (by_number, by_uuid, beside))
    assert first == {"1"} and second == {"GPU-ab"} and third == {"0", "2"}
    assert one[0] >= other[1] or other[0] >= one[1]


def test_a_lease_hides_the_other_gpus_and_keeps_the_order_of_nvidia_smi(machine, tmp_path, monkeypatch):
    machine(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert gpu_name() == "NVIDIA H200"
    assert lease(2, tmp_path / "leases") == ["1", "0"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,0" and os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert (tmp_path / "leases").stat().st_mode & 0o1777 == 0o1777
    files = sorted((tmp_path / "leases").iterdir())
    assert [path.name for path in files] == ["GPU-aa11", "GPU-ab22", "turn"]
    # Any user may use them.
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666}


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        (None, ["0", "1", "2", "3"]),
        ("", []),
        ("2", ["2"]),
        (" 3, 1", ["3", "1"]),
        ("1,9,0", ["1"]),
        ("-1,0", []),
        ("GPU-c,GPU-aa11", ["GPU-c", "GPU-aa11"]),
        ("GPU-a", []),
        ("0,GPU-aa11,1", ["0"]),
        ("MIG-77/1", ["MIG-77/1"]),
    ],
)
def test_what_a_mask_shows(mask, names):
    found = in_reach(UUIDS, mask)
    assert list(found) == names
    known = {**{str(i): uuid for i, uuid in enumerate(UUIDS)}, "GPU-c": "GPU-cc33", "GPU-aa11": "GPU-aa11"}
    assert all(found[name] == known.get(name, name) for name in names)


def test_nothing_happens_without_a_gpu(tmp_path, monkeypatch, machine):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list_gpus() == [] and lease(1, tmp_path / "leases") == [] and gpu_name() == ""
    machine(0, fails=True)
    assert list_gpus() == [] and lease(1, tmp_path / "leases") == []
    assert "CUDA_VISIBLE_DEVICES" not in os.environ and not (tmp_path / "leases").exists()


def test_what_slurm_has_given_is_left_alone(tmp_path, monkeypatch, machine):
    machine(4)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert lease(2, tmp_path / "leases") == [] and os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    # A Snakemake that runs all its jobs within one allocation.
    assert lease(1, tmp_path / "leases") == ["2"]


def test_a_used_file_is_never_an_old_file(tmp_path, machine):
    machine(1)
    old = tmp_path / "leases" / "GPU-aa11"
    old.parent.mkdir()
    old.touch()
    os.utime(old, (0, 0))
    assert lease(1, tmp_path / "leases") == ["0"] and time.time() - old.stat().st_mtime < 60


def test_more_than_there_are_is_refused(tmp_path, machine):
    machine(2)
    with pytest.raises(InputError, match=r"found 2 GPUs \(0, 1\), expected the 3"):
        lease(3, tmp_path / "leases")
    assert not (tmp_path / "leases").exists()


def test_a_gpu_is_seen_where_its_tool_is_and_it_is_not_hidden(tmp_path, monkeypatch, machine):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not gpu_in_reach()
    machine(1)
    assert gpu_in_reach()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not gpu_in_reach()


@pytest.mark.parametrize(
    ("gpus", "limit", "nodes", "expected"),
    [(1, 1, None, True), (0, 1, None, False), (0, 8, 100, True), (1, 0, 100, False)],
    ids=["here", "none here", "cluster", "cluster without"],
)
def test_jobs_ask_for_gpus_here_or_on_the_cluster(machine, monkeypatch, tmp_path, gpus, limit, nodes, expected):
    monkeypatch.setenv("PATH", str(tmp_path))
    if gpus:
        machine(gpus)
    workflow = SimpleNamespace(
        is_main_process=True,
        global_resources={"gpu": SimpleNamespace(value=limit)},
        resource_settings=SimpleNamespace(nodes=nodes),
    )
    assert asks_for_gpus(workflow) == expected
    # Within a job, whatever its machine has.
    assert asks_for_gpus(SimpleNamespace(is_main_process=False)) == expected
