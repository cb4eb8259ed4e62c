r"""Scoring of answers to the paper's benchmarks: one function a kind, text in, (correct, parsed) out (paper §5.1).

    letter        multiple choice, "ANSWER: X" (GPQA-Diamond, HellaSwag, ARC, MMLU-Pro)
    number        the last number before a new "Question:" (GSM8K)
    math          the last \boxed{…}, by math-verify (MATH-500, AIME'24)
    instructions  IFEval's own checks, in lm-eval's copy; prompt-level strict, loose beside it
    code          the tests of HumanEval, run

The task YAMLs in `workflow/benchmarks/` name `load_items` and `process_results`; `python -m profit questions` writes
the items. With lm-eval alone:

    lm-eval run --model hf --model_args pretrained=MODEL --include_path workflow/benchmarks --tasks paper_math_500 \
        --apply_chat_template --fewshot_as_multiturn true --metadata '{"items": "math_500.json"}'

Kind `code` runs what a model wrote, in a process with limits but no wall around it, and only where the environment
says HF_ALLOW_CODE_EVAL=1: do that in a container without network, or on a machine that may be lost.
"""

import ast
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profit.files import InputError, read_json
from profit.scoring import numbered_items
from profit.verifiers import boxed, check_instructions, equal, follows, runs

if TYPE_CHECKING:
    from datasets import Dataset

# What each kind's items hold beside id, prompt and answer. An `example` is a solved question shown before the others.
FIELDS: dict[str, dict[str, type]] = {
    "letter": {"options": int, "take": str, "reading": str},
    "number": {"commas": bool},
    "math": {},
    "instructions": {"instruction_id_list": list, "kwargs": list},
    "code": {"program": str, "test": str, "entry_point": str, "seconds": int},
    "example": {},
}
MODULES = {"math": ("math_verify",), "instructions": ("langdetect", "immutabledict", "nltk")}
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
NUMBER_WITH_COMMAS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|-?\d+(?:\.\d+)?")
FENCE = re.compile(r"```\w*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def check_items(items: Any, place: str | Path) -> list[dict[str, Any]]:
    """Return `items` if they are as their kinds need them: "id", "prompt", "answer", "kind" and the kind's own keys.

    Raises:
        InputError: something else, an id twice, an answer that no text could give, a package or data that is missing.
    """
    for here, item in numbered_items(items, place, FIELDS):
        for module in MODULES.get(item["kind"], ()):
            if not find_spec(module):
                raise InputError(f"{here}: found no package {module}, which kind {item['kind']} needs: pip install it")
        for key, form in FIELDS[item["kind"]].items():
            if type(item.get(key)) is not form:
                raise InputError(f"{here}/{key}: found {item.get(key)!r}, expected a {form.__name__}")
        _check_answer(item, here)
    return items


def _check_answer(item: dict[str, Any], here: str) -> None:
    kind, answer = item["kind"], item["answer"]
    choices = {"take": ("first", "last"), "reading": ("official", "tolerant")} if kind == "letter" else {}
    for key, allowed in choices.items():
        if item[key] not in allowed:
            raise InputError(f"{here}/{key}: found {item[key]!r}, expected one of {', '.join(allowed)}")
    if kind == "letter" and answer not in list(letters(item["options"])):
        raise InputError(f"{here}/answer: found {answer!r}, expected one of {letters(item['options'])}")
    if kind == "number" and not re.fullmatch(NUMBER, answer):
        raise InputError(f"{here}/answer: found {answer!r}, expected a number")
    if kind in ("math", "example") and not answer.strip():
        raise InputError(f"{here}/answer: found {answer!r}, expected a text")
    if kind == "instructions":
        check_instructions(item, here)


def load_items(items: str | Path, **_: Any) -> "dict[str, Dataset]":
    """Return {"test": Dataset} of an items file, and {"fewshot": …} of its examples: lm-eval's `custom_dataset`.

    Raises:
        InputError: an unreadable file, bad items, or items of kind code without leave to run code.
    """
    from datasets import Dataset

    rows = check_items(read_json(items), items)
    if any(row["kind"] == "code" for row in rows):
        _ask_leave(f"{items}: ")
    parts = {
        "test": [row for row in rows if row["kind"] != "example"],
        "fewshot": [row for row in rows if row["kind"] == "example"],
    }
    if not parts["test"]:
        raise InputError(f"{items}: found examples alone, expected questions too")
    loaded = {}
    for split, chosen in parts.items():
        # The columns of a Dataset are the keys of its first row.
        keys = list(dict.fromkeys(key for row in chosen for key in row))
        if chosen:
            loaded[split] = Dataset.from_list([{key: row.get(key) for key in keys} for row in chosen])
    return loaded


def process_results(item: dict[str, Any], results: list[list[str]]) -> dict[str, list[float]]:
    """Return {"accuracy", "parsed"}, for instructions "loose" too, with one 0 or 1 a sample of [[text of each]]."""
    scored = [score(item, text) for text in results[0]]
    found = {"accuracy": [float(correct) for correct, _ in scored], "parsed": [float(parsed) for _, parsed in scored]}
    if item["kind"] == "instructions":
        found["loose"] = [float(follows(item, text, loose=True)) for text in results[0]]
    return found


def score(item: dict[str, Any], text: str) -> tuple[bool, bool]:
    """Return (correct, parsed) of one answer; parsed says that there was something to compare or to run."""
    return SCORERS[item["kind"]](item, text)


def letters(options: int) -> str:
    """The letters of so many options, "ABCD" for 4."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:options]


def score_letter(item: dict[str, Any], text: str) -> tuple[bool, bool]:
    r"""The first (or last) "ANSWER: X".

    reading official: the pattern of the official configuration, where "answer: c" is found but not C, and "Answer:
    Both" is B. tolerant: either case, in bold, parentheses, quotes, \text or \boxed, and no word begins with it.
    """
    span = f"[A-{letters(item['options'])[-1]}]"
    if item["reading"] == "official":
        found = re.findall(rf"(?i)ANSWER\s*:\s*({span})", text)
    else:
        dress = r"(?:[\s*_$('\"`\[{]|\\(?:boxed|text|textbf|mathrm|mathbf)\b)*"
        found = [x.upper() for x in re.findall(rf"(?i)\bANSWER[\s*_]*:{dress}({span})(?!\w|['’]\w)", text)]
    letter = found[0 if item["take"] == "first" else -1] if found else None
    return letter == item["answer"], letter is not None


def score_number(item: dict[str, Any], text: str) -> tuple[bool, bool]:
    """The last number before a new "Question:"; without `commas`, as official, 1,200 reads as 1 and 200."""
    pattern = NUMBER_WITH_COMMAS if item["commas"] else NUMBER
    numbers = pattern.findall(text.partition("Question:")[0])
    if not numbers:
        return False, False
    return abs(float(numbers[-1].replace(",", "")) - float(item["answer"])) < 1e-6, True


def score_math(item: dict[str, Any], text: str) -> tuple[bool, bool]:
    r"""The last \boxed{…}; an answer without one, or cut within it, is not parsed."""
    found = boxed(text)
    return found is not None and equal(item["answer"], found), found is not None


def score_instructions(item: dict[str, Any], text: str) -> tuple[bool, bool]:
    """Whether every instruction is followed to the letter, the prompt-level strict accuracy; any text is parsed."""
    return follows(item, text), bool(text.strip())


def score_code(item: dict[str, Any], text: str) -> tuple[bool, bool]:
    """Whether the first fenced block, else the whole answer, passes the tests behind the prompt's own code.

    The answer is the whole function or what follows the prompt's code; it is parsed if the two together are Python.
    """
    _ask_leave("")
    fenced = FENCE.search(text)
    program = f"{item['program'].rstrip()}\n{fenced[1] if fenced else text}\n"
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False, False
    return runs(f"{program}\n{item['test']}\n\ncheck({item['entry_point']})\n", item["seconds"]), True


def _ask_leave(place: str) -> None:
    if os.environ.get("HF_ALLOW_CODE_EVAL") != "1":
        raise InputError(
            f"{place}found code that a model writes and this machine would run, expected HF_ALLOW_CODE_EVAL=1: set it "
            "where that may do no harm (profit/answers.py), or leave the benchmark out"
        )


SCORERS = {
    "letter": score_letter,
    "number": score_number,
    "math": score_math,
    "instructions": score_instructions,
    "code": score_code,
}
