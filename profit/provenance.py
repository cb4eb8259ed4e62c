"""What every result says about its making: settings, code, versions, machine, seconds, memory, tokens.

with provenance.job("train", settings=leaf, world=world_hash) as job:
    ...
    job.tokens(12_345)
    write_json(output, {..., "provenance": job.record()})
"""

import hashlib
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from profit.__main__ import CLIENT_SECONDS
from profit.code_version import code_version
from profit.files import canonical_json, read_parquet_metadata

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "lm_eval", "vllm", "math-verify", "sympy", "nltk", "langdetect",
    "snakemake",
)  # fmt: skip


class Job:
    """The account of one job; made by `job`."""

    def __init__(self, rule: str, settings: dict[str, Any], world: str | None) -> None:
        self.rule, self.settings, self.world = rule, settings, world
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self._client = float(os.environ.get(CLIENT_SECONDS, 0.0))
        self._imports = time.process_time()
        self._wall = time.monotonic()
        self._tokens: dict[str, int] = {}

    def tokens(self, count: int, kind: str = "trained") -> None:
        """Add `count` tokens to the account of `kind` (trained, generated, scored, pretrained)."""
        self._tokens[kind] = self._tokens.get(kind, 0) + int(count)

    def record(self) -> dict[str, Any]:
        """Return the account so far: seconds are CPU seconds of this process and its client, memory is in MB."""
        return {
            "rule": self.rule,
            "settings": self.settings,
            "settings_hash": hashlib.sha256(canonical_json(self.settings).encode()).hexdigest()[:16],
            "world": self.world,
            "code": code_version(self.rule, self.settings.get("objective", {}).get("name")),
            "versions": versions(),
            "seed": self.settings.get("seed"),
            "device": device(),
            "cpu_seconds": round(time.process_time() + self._client, 3),
            "cpu_seconds_imports": round(self._imports + self._client, 3),
            "wall_seconds": round(time.monotonic() - self._wall, 3),
            "peak_memory_mb": round(peak_memory_mb(), 1),
            "tokens": dict(self._tokens),
            "started": self.started,
            "git": git_revision(),
        }


@contextmanager
def job(rule: str, settings: dict[str, Any], world: str | None = None) -> Iterator[Job]:
    """Open the account of a job; CPU seconds spent before this point count as start-up and imports."""
    yield Job(rule, settings, world)


def world_of(path: str | Path) -> str | None:
    """Hash of the world that the table at `path` was made of, from the provenance it carries."""
    return read_parquet_metadata(path).get("provenance", {}).get("world")


@cache
def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide about numbers; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def device() -> str:
    """ "cuda: <name of the GPU>" where torch is loaded and sees one, else "cpu"."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return "cpu"


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far; pages shared with the fork server count in full."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@cache
def git_revision() -> str | None:
    """Commit of the checkout this code runs from, with "-dirty" where it was edited; None outside a checkout."""
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent)]
    describe = ["describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        return subprocess.run(
            [*command, *describe], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
