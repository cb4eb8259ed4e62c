"""The probe measures this machine: a slower one is slower, busy cores count."""

import subprocess
import sys

import pytest

from profit import probe


def test_speed_is_that_of_a_piece_over_the_reference(monkeypatch, tmp_path):
    done = subprocess.run([sys.executable, "-m", "profit.probe"], capture_output=True, text=True, check=True)
    piece = float(done.stdout)
    assert 1e-3 < piece < 1
    assert probe.speed(1) > 1e-3 / probe.REFERENCE_SECONDS
    said = tmp_path / "said.py"
    said.write_text(f"print({3 * probe.REFERENCE_SECONDS})")
    with monkeypatch.context() as patched:
        patched.setattr(probe, "__file__", str(said))
        assert probe.speed(2) == pytest.approx(3)
    monkeypatch.setattr(probe, "REFERENCE_SECONDS", probe.REFERENCE_SECONDS / 100)
    assert probe.speed(2) > 20 * 1e-3 / probe.REFERENCE_SECONDS / 100
