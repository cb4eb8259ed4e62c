"""Verifiers: equality of mathematics, instructions on form, programs against their tests (paper §5.1).

`equal` asks math-verify. A comparison may take for ever (9^9^9^9) and no signal handler of Python interrupts it, so it
runs in a process of its own, which a timer of the kernel kills after some seconds of its CPU time; the next comparison
starts another. That works in any thread and any forked child, and the process ends with the one that started it.

`follows` asks lm-eval's copy of IFEval's checks (Zhou et al. 2023, arXiv 2311.07911). Two of them split sentences with
data of nltk that no package brings; lm-eval would download them at import, here `check_instructions` says what to do.

`runs` starts a program that a model wrote: with limits, without a wall around it.

No command: used by profit.answers.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

from profit.files import InputError

EQUAL_SECONDS = 5.0
MEMORY = 4 * 2**30
BOX = re.compile(r"\\(?:boxed|fbox)\s*")
SEPARATOR = re.compile(r"(?<=\d)(?:\\[, !]|\{,\}|~)\s*(?=\d{3}(?!\d))")
SENTENCES = ("length_constraints:number_sentences", "change_case:capital_word_frequency")
SUCCESS = 37
GUARD = f"""
import os, resource, signal, sys
signal.alarm(int(sys.argv[1]) + 1)
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]) + 1,) * 2)
if sys.platform == "linux":
    resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
exec(compile(sys.stdin.read(), "answer", "exec"), {{"__name__": "answer"}})
os._exit({SUCCESS})
"""

_lock = threading.Lock()
_worker: subprocess.Popen[bytes] | None = None


def boxed(text: str) -> str | None:
    r"""Return what the last \boxed{…} of an answer holds; None if there is none or the last is empty or not closed."""
    starts = [match.end() for match in BOX.finditer(text)]
    if not starts:
        return None
    content = text[starts[-1] :]
    if not content.startswith("{"):
        bare = re.match(r"[^\s$]+", content)
        return bare[0].rstrip(",;") or None if bare else None
    depth = 0
    # A brace behind a backslash is a mark of the answer.
    for match in re.finditer(r"\\.|[{}]", content, re.DOTALL):
        depth += (match[0] == "{") - (match[0] == "}")
        if depth == 0:
            return content[1 : match.start()].strip() or None
    return None


@lru_cache(maxsize=65536)
def equal(gold: str, found: str) -> bool:
    """Whether `found` is worth as much as `gold`: the same text, or equal to math-verify within the limits.

    Raises:
        RuntimeError: the checking process does not start.
    """
    gold, found = (SEPARATOR.sub("", text.strip().rstrip(".")) for text in (gold, found))
    return gold == found or _ask(gold, found)


def _ask(gold: str, found: str) -> bool:
    global _worker
    with _lock:
        if _worker is None:
            _worker = _start()
        with suppress(BrokenPipeError):
            _worker.stdin.write(json.dumps([gold, found]).encode() + b"\n")
        answer = _worker.stdout.readline()
        if not answer:
            status = _worker.wait()
            _drop()
            if status >= 0:
                raise RuntimeError(f"the checker of mathematics ended with status {status}, expected an answer")
    return answer == b"1\n"


def _start() -> "subprocess.Popen[bytes]":
    # By its name, so that the hash of the code sees that it is used. -P: a module of this package is no `statistics`.
    command = [
        sys.executable,
        "-P",
        "-c",
        f"from {__name__} import {serve.__name__}; {serve.__name__}({EQUAL_SECONDS})",
    ]
    paths = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    # Sympy's way through an expression depends on the hashes of its symbols.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONHASHSEED": "0"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment)


def _drop() -> None:
    """Forget the process without ending it: it is dead, or the parent's."""
    global _worker
    if _worker is not None:
        _worker.stdin.close()
        _worker.stdout.close()
        _worker = None


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    if _worker is not None:
        # Not this process's child: Popen must not wait for it.
        _worker.returncode = 0
    _drop()


os.register_at_fork(after_in_child=_after_fork)


def serve(seconds: float) -> None:
    """Answer lines of [gold, found] from standard input with 1 or 0, each in `seconds`: the checking process."""
    import logging

    logging.disable(logging.CRITICAL)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # Ctrl-C ends the process that asks; this one sees the end of its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    compare("1", "2")
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        same = compare(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(b"1\n" if same else b"0\n")


def compare(gold: str, found: str) -> bool:
    """What math-verify says of two LaTeX expressions; False for one that it cannot read. Without limits."""
    from math_verify import LatexExtractionConfig, parse, verify

    reading = [LatexExtractionConfig(boxed_match_priority=0)]
    try:
        parsed = [
            parse(rf"\boxed{{{text}}}", extraction_config=reading, parsing_timeout=None) for text in (gold, found)
        ]
        return bool(parsed[0] and parsed[1]) and verify(*parsed, timeout_seconds=None)
    except Exception:
        return False


def check_instructions(item: dict[str, Any], place: str) -> None:
    """Refuse an item with "instruction_id_list" and "kwargs" that lm-eval's checks cannot decide.

    Raises:
        InputError: an unknown instruction, missing or unfit arguments, or missing data of nltk.
    """
    names, arguments = item["instruction_id_list"], item["kwargs"]
    if not names or len(names) != len(arguments):
        raise InputError(
            f"{place}/kwargs: found {len(arguments)} for {len(names)} instructions, expected one for each"
        )
    checkers, _ = _ifeval()
    for name, given in zip(names, arguments, strict=True):
        if name not in checkers or not isinstance(given, dict):
            raise InputError(f"{place}: found instruction {name!r} with {given!r}, expected one of IFEval's")
        # As lm-eval's check does, for which nothing and zero are the same.
        known = {key: value for key, value in given.items() if value}
        checker = checkers[name](name)
        try:
            checker.build_description(**known)
        except Exception as error:
            raise InputError(f"{place}/kwargs: found {known} for {name}, which refuses it: {error}") from None
        # What is missing would be drawn at random, anew for every answer.
        missing = set(checker.get_instruction_args_keys()) - set(known)
        if missing:
            raise InputError(f"{place}/kwargs: found {known} for {name}, expected also {', '.join(sorted(missing))}")
    if set(names) & set(SENTENCES) and not _has_sentences():
        raise InputError(
            f"{place}: found no data punkt_tab of nltk, which {' and '.join(SENTENCES)} need: run `python -m "
            "nltk.downloader punkt_tab` where there is network and set NLTK_DATA to the folder it wrote"
        )


def follows(item: dict[str, Any], text: str, loose: bool = False) -> bool:
    """Whether all instructions hold; `loose`: each in one of eight variants, without stars, first or last line."""
    _, functions = _ifeval()
    check = functions.test_instruction_following_loose if loose else functions.test_instruction_following_strict
    asked = functions.InputExample(0, item["instruction_id_list"], item["prompt"], item["kwargs"])
    return bool(check(asked, text).follow_all_instructions)


@cache
def _ifeval() -> tuple[dict[str, Any], Any]:
    """Lm-eval's checks by name, and the module of its functions over all of an item's."""
    import langdetect

    # The language of a text is estimated from random draws.
    langdetect.DetectorFactory.seed = 0
    # Only rank 0 downloads, at import.
    with mock.patch.dict(os.environ, LOCAL_RANK="1"):
        from lm_eval.tasks.ifeval import instructions_registry, utils
    return instructions_registry.INSTRUCTION_DICT, utils


@cache
def _has_sentences() -> bool:
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True


def runs(program: str, seconds: int) -> bool:
    """Whether a program reaches its end in time, in a process, folder and environment of its own; nothing survives."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", GUARD, str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=folder, env={}, start_new_session=True,
        )  # fmt: skip
        try:
            process.communicate(program.encode(errors="replace"), timeout=seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # A program may have left children; the group outlives its leader.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode == SUCCESS
