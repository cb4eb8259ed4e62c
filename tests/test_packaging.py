"""Versions, environments and the Makefile agree with each other."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["all"]]]


def pins():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in lines}


def test_pins_are_exact_and_without_local_suffix_or_address():
    found = pins()
    assert found["torch"] == "2.13.0"
    for name, version in found.items():
        assert not Version(version).local and not re.search(r"[/@]", version), name


def test_every_requirement_is_pinned_within_its_range():
    found = pins()
    for requirement in REQUIREMENTS:
        assert requirement.specifier.contains(found[requirement.name.lower()]), requirement


def test_ranges_admit_the_gpu_machine():
    ranges = {requirement.name: requirement.specifier for requirement in REQUIREMENTS}
    assert ranges["torch"].contains("2.11.0") and ranges["transformers"].contains("5.17.0")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains("3.12.0")
    assert not Requirement(f"python{PROJECT['requires-python']}").specifier.contains("3.10.9")


def test_the_environment_for_conda_is_the_same():
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert content["dependencies"][-1] == {"pip": ["-c constraints.txt", "-e .[all]"]}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (
            "*version_info*) exit 1;; *--version*) echo Python 3.9.2;;",
            "Found Python 3.9.2, expected Python 3.11 or later",
        ),
        ("*ensurepip*) exit 1;;", "install the package python3-venv"),
    ],
)
def test_make_says_what_is_missing(tmp_path, answers, expected):
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ncase "$*" in {answers} esac\nexit 0\n')
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", f"PYTHON={python}", "test"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert done.returncode != 0 and expected in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_continuous_integration_is_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and script.read_text().splitlines()[-1] == "exec make test"
