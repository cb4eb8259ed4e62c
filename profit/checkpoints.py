"""A run's scratch folder: who may use it, what in it may be resumed from, and when it is stale.

`claim` locks the folder, so that two jobs never write in it at once, and empties it unless it belongs to the same
job (settings, code, data). The Trainer writes its checkpoints there, every process of the job its part; `Completed`
adds a list of files and sizes to each once it is whole, and `last_complete` passes over those where the list or a file
is missing or a file is short: without its random state a resumed run would go on with other numbers.

No command: used by `profit.train`.
"""

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from profit import processes
from profit.files import InputError, canonical_json, write_json

log = logging.getLogger(__name__)

FINGERPRINT, COMPLETE = "fingerprint.json", "complete.json"
WAIT_SECONDS = 30.0


@contextmanager
def claim(folder: Path, fingerprint: dict[str, Any], wait: float = WAIT_SECONDS) -> Iterator[Path]:
    """Hold `folder` for this process alone, empty unless what lies there has the same `fingerprint`.

    The lock ends with the process, however it ends. When the block ends without an error the folder is removed.

    Raises:
        InputError: another process still holds the folder after `wait` seconds.
    """
    descriptor = _lock(folder, wait)
    try:
        known = folder / FINGERPRINT
        text = canonical_json(fingerprint)
        if not known.exists() or known.read_text(encoding="utf-8") != text:
            _empty(folder)
            temporary = folder / "fingerprint.part"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, known)
        yield folder
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def _lock(folder: Path, wait: float) -> int:
    deadline, told = time.monotonic() + wait, False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have removed the folder between our opening and our locking it.
            if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise InputError(f"{folder}: found in use by another process, expected to be alone there") from None
            if not told:
                log.warning("%s is in use by another process; waiting up to %.0f s", folder, wait)
                told = True
            time.sleep(0.2)
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


class Completed(TrainerCallback):
    """Marks each checkpoint as whole after every process wrote its last file."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by the Trainer after a checkpoint."""
        processes.meet()
        if processes.first():
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            files = [file for file in folder.rglob("*") if file.is_file()]
            write_json(folder / COMPLETE, {str(file.relative_to(folder)): file.stat().st_size for file in files})


def last_complete(folder: Path, logged: int) -> Path | None:
    """The whole checkpoint of the latest step in `folder` that the step log reaches, which has `logged` steps.

    Those passed over are removed: the Trainer keeps two and would remove a good one for the sake of a bad one.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        fault = _fault(checkpoint) if step_of(checkpoint) <= logged else f"the step log ends at step {logged}"
        if fault is None:
            return checkpoint
        log.warning("%s passed over: %s", checkpoint, fault)
        shutil.rmtree(checkpoint)
    return None


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done at a checkpoint, from its name."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _fault(checkpoint: Path) -> str | None:
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return f"no {COMPLETE}, its writing was cut short"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, expected {size}"
    return None
