"""The probe measures this machine: a slower one is slower, busy cores count."""

import subprocess
import sys

import pytest

from profit import probe


def test_speed_is_that_of_a_piece_over_the_reference(monkeypatch):
    done = subprocess.run([sys.executable, "-m", "profit.probe"], capture_output=True, text=True, check=True)
    piece = float(done.stdout)
    assert 1e-3 < piece < 1
    assert probe.speed(1) == pytest.approx(piece / probe.REFERENCE_SECONDS, rel=1.0)
    monkeypatch.setattr(probe, "REFERENCE_SECONDS", probe.REFERENCE_SECONDS / 100)
    assert probe.speed(2) > 20 * 1e-3 / probe.REFERENCE_SECONDS / 100
