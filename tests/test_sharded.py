"""A model spread over two processes by DDP, FSDP1 or FSDP2 has loss and gradients of the same model in one."""

from pathlib import Path

import pytest
import torch
from sharded import CASES, OBJECTIVES, step
from test_invariance import launch

SCRIPT = Path(__file__).with_name("sharded.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    output = tmp_path_factory.mktemp("sharded") / "steps.pt"
    launch(SCRIPT, 2, output)
    return torch.load(output)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[" ".join(map(str, case)) for case in CASES])
def test_sharding_changes_nothing(number, found):
    _, tied, tuning, objective = CASES[number]
    expected = step("plain", tied, tuning, OBJECTIVES[objective])
    torch.testing.assert_close(found[number], expected, rtol=1e-9, atol=1e-12)
    trained = [name for name, value in expected["gradients"].items() if value.norm() > 0]
    assert len(trained) == (8 if tuning == "lora" else len(expected["gradients"]))
