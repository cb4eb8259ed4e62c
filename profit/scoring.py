"""Scoring of generated answers: number, choice letter, and verifiable instructions about the output's format.

The task YAMLs in `workflow/benchmarks/` name `load_items`, `process_results` and `mean_over_samples`; a person can run
them with lm-eval alone:

    lm-eval run --model hf --model_args pretrained=MODEL --include_path workflow/benchmarks --tasks mini_choice \
        --apply_chat_template --metadata '{"items": "results/miniature/data/shared/benchmarks/choice.json"}'

Every sample is scored by itself and a benchmark's accuracy is the mean over samples and questions, the avg@n of the
paper's §5.1 (lm-eval's own metrics read the first sample only). Format items are correct if every check holds, the
prompt-level accuracy of IFEval (Zhou et al. 2023, arXiv 2311.07911).
"""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profit.files import InputError, read_json

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = ("number", "choice", "format")
NUMBER = r"-?\d+(?:,\d{3})*(?:\.\d+)?"
ANSWER = re.compile(r"\bthe answer is\b", re.IGNORECASE)
AFTER = {
    "number": re.compile(rf"\s*:?\s*({NUMBER})"),
    "choice": re.compile(rf"\s*:?\s*(?:{NUMBER}\s*:?\s*)?([A-D])\b"),
}
SENTENCE_ENDS = (".", "!", "?")


def read_items(path: str | Path) -> list[dict[str, Any]]:
    """Return the items of a benchmark: {"id", "prompt", "answer", "kind"} and for kind "format" also "checks".

    Raises:
        InputError: an unreadable or empty file, or an item without a key, with an id twice, an unknown kind or check.
    """
    items = read_json(path)
    for place, item in numbered_items(items, path, KINDS):
        if item["kind"] != "format" and extract(f"The answer is {item['answer']}.", item["kind"]) is None:
            raise InputError(f"{place}/answer: found {item['answer']!r}, expected a {item['kind']}")
        if item["kind"] == "format":
            _read_checks(item.get("checks"), place)
    return items


def numbered_items(items: Any, path: str | Path, kinds: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place for messages, item) of each item of a benchmark, whatever its kind: texts, known kinds, ids that differ.

    Raises:
        InputError: no list, nothing in it, or an item that is otherwise.
    """
    if not isinstance(items, list) or not items:
        found = "no items" if items == [] else type(items).__name__
        raise InputError(f"{path}: found {found}, expected a list of items")
    seen: set[str] = set()
    for number, item in enumerate(items):
        place = f"{path}: item {number}"
        if not isinstance(item, dict):
            raise InputError(f"{place}: found {type(item).__name__}, expected an object")
        for key in ("id", "prompt", "answer", "kind"):
            if not isinstance(item.get(key), str) or (key in ("id", "prompt") and not item[key].strip()):
                raise InputError(f"{place}/{key}: found {item.get(key)!r}, expected a text")
        if item["kind"] not in kinds:
            raise InputError(f"{place}/kind: found {item['kind']!r}, expected one of {', '.join(kinds)}")
        if item["id"] in seen:
            raise InputError(f"{place}/id: found {item['id']!r} twice, expected an id of its own")
        seen.add(item["id"])
        yield place, item


def _read_checks(checks: Any, place: str) -> None:
    if not isinstance(checks, list) or not checks:
        raise InputError(f"{place}/checks: found {checks!r}, expected a list of checks")
    for check in checks:
        if not isinstance(check, dict) or check.get("kind") not in CHECKS:
            raise InputError(f"{place}/checks: found {check!r}, expected a kind of {', '.join(CHECKS)}")
        key, form = ARGUMENTS.get(check["kind"], (None, object))
        if key and (not isinstance(check.get(key), form) or isinstance(check[key], bool) or not check[key]):
            raise InputError(
                f"{place}/checks/{check['kind']}: found {key} {check.get(key)!r}, expected a {form.__name__}"
            )


def load_items(items: str | Path, **_: Any) -> "dict[str, Dataset]":
    """Return {"test": Dataset} of an items file: lm-eval's `custom_dataset`, which hands on the task's metadata.

    Made in memory: the `json` builder of the datasets library writes a cache, under locks that parallel jobs share.
    """
    from datasets import Dataset

    rows = read_items(items)
    # The columns of a Dataset are the keys of its first row.
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return {"test": Dataset.from_list([{key: row.get(key) for key in keys} for row in rows])}


def process_results(item: dict[str, Any], results: list[list[str]]) -> dict[str, list[float]]:
    """Return {"accuracy", "parsed"}, each with one 0 or 1 a sample; `results` is [[text of each sample]]."""
    scored = [score(item, text) for text in results[0]]
    return {"accuracy": [float(correct) for correct, _ in scored], "parsed": [float(parsed) for _, parsed in scored]}


def mean_over_samples(questions: list[list[float]]) -> float:
    """Return the mean over questions of the mean over samples (avg@n)."""
    return sum(sum(samples) / len(samples) for samples in questions) / len(questions)


def score(item: dict[str, Any], text: str) -> tuple[bool, bool]:
    """Return (correct, parsed): parsed says that an answer was found (format: that there is any text)."""
    if item["kind"] == "format":
        parsed = bool(text.strip())
        return parsed and all(holds(check, text) for check in item["checks"]), parsed
    found = extract(text, item["kind"])
    return found is not None and found == extract(f"The answer is {item['answer']}", item["kind"]), found is not None


def extract(text: str, kind: str) -> str | float | None:
    """Return what follows the last "the answer is": a number as float, a letter A-D as text; None if there is neither.

    A choice may state the number before its letter, "the answer is 12: C".
    """
    starts = [match.end() for match in ANSWER.finditer(text)]
    match = AFTER[kind].match(text, starts[-1]) if starts else None
    if match is None:
        return None
    return float(match[1].replace(",", "")) if kind == "number" else match[1]


def words_of(text: str) -> list[str]:
    """Split into words and single punctuation marks, so that the space before a mark does not matter."""
    return re.findall(r"\w+|[^\w\s]", text)


def holds(check: dict[str, Any], text: str) -> bool:
    """Whether `text` obeys one check {"kind", "text" or "count"}; text without a word obeys none."""
    words = words_of(text)
    return any(word[0].isalnum() for word in words) and CHECKS[check["kind"]](words, check)


def _starts_with(words: list[str], check: dict[str, Any]) -> bool:
    wanted = words_of(check["text"])
    return words[: len(wanted)] == wanted


def _ends_with(words: list[str], check: dict[str, Any]) -> bool:
    """The closing mark may follow the wanted words, unless they bring their own."""
    wanted = words_of(check["text"])
    if wanted[-1] not in SENTENCE_ENDS and words[-1] in SENTENCE_ENDS:
        words = words[:-1]
    return words[-len(wanted) :] == wanted


def _has_word(words: list[str], check: dict[str, Any]) -> bool:
    """The words in a row anywhere; case is ignored, as in IFEval's keyword checks."""
    wanted = words_of(check["text"].lower())
    lower = [word.lower() for word in words]
    return any(lower[i : i + len(wanted)] == wanted for i in range(len(lower)))


def _no_word(words: list[str], check: dict[str, Any]) -> bool:
    return not _has_word(words, check)


def _sentences(words: list[str], check: dict[str, Any]) -> bool:
    """Stretches of words between closing marks; the last may lack its mark."""
    sentences = [part for part in re.split(r"[.!?]", " ".join(words)) if re.search(r"\w", part)]
    return len(sentences) == check["count"]


def _answer_only(words: list[str], check: dict[str, Any]) -> bool:
    """A number and at most a full stop."""
    return re.fullmatch(r"(- )?\d+( \.)?", " ".join(words)) is not None


def _max_words(words: list[str], check: dict[str, Any]) -> bool:
    return sum(word[0].isalnum() for word in words) <= check["count"]


CHECKS = {
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "has_word": _has_word,
    "no_word": _no_word,
    "sentences": _sentences,
    "answer_only": _answer_only,
    "max_words": _max_words,
}
ARGUMENTS: dict[str, tuple[str, type]] = {
    **dict.fromkeys(("starts_with", "ends_with", "has_word", "no_word"), ("text", str)),
    **dict.fromkeys(("sentences", "max_words"), ("count", int)),
}
