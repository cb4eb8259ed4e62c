"""Batch 8 = 8 micro-batches of 1 = two processes of 4, for every objective and normaliser."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from steps_of_training import CASES, train

SCRIPT = Path(__file__).with_name("steps_of_training.py")


def launch(script, processes, *arguments):
    """Run `script` in so many processes that find each other by gloo; its standard error if one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env=os.environ | here | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in running]
    assert all(process.returncode == 0 for process in running), "\n".join(said)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    output = tmp_path_factory.mktemp("two") / "steps.pt"
    launch(SCRIPT, 2, output, 4, 1)
    return torch.load(output)


@pytest.fixture(scope="module")
def whole():
    return [train(case, 8, 1) for case in CASES]


def check_same(found, expected):
    for name, value in expected.items():
        # The Trainer logs losses and norms rounded to fp32 or to some digits.
        tolerance = 1e-9 if name in ("parameters", "evaluated") else 1e-4
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(case) for case in CASES])
def test_accumulation_and_processes_change_nothing(number, whole, two_processes):
    check_same(train(CASES[number], 1, 8), whole[number])
    check_same(two_processes[number], whole[number])


def test_the_cases_keep_some_tokens_and_drop_some(whole):
    for case, found in zip(CASES, whole, strict=True):
        if case["name"] in ("profit", "profit_fixed", "truth", "power", "entropy", "random", "excess"):
            assert 0.05 < found["kept"].min() and found["kept"].max() < 0.95, case
    first = [found["parameters"] for found in whole]
    assert all(not first[0].equal(other) for other in first[2:])
