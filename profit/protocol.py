"""The protocol of the paper's benchmarks (paper §5.1, App. B): how a row of each data set becomes a question.

The options, with the paper's or, where it is silent, the published configuration's way as default:

    seed, order      GPQA's options by a hash of seed and question, or turned round by one a row (circular, official)
    take, reading    which "ANSWER: X" counts, and how narrowly it is read (profit.answers.score_letter)
    commas           GSM8K: 1,200 is a number; the official reading, 1 and 200, calls every such answer wrong
    examples, train  the solved questions shown in gsm8k_official, by how they begin (the four of the published
                     configuration, with the data set's own solutions, as there), and the source they stand in
    choices          ARC: questions with so many options alone, 4 as the paper's shares of 295 show; 0: all
    category         MMLU-Pro's subject
    seconds          HumanEval: time for a program and its tests

The wording of the prompts is ours, to the same effect.

No command: used by profit.questions.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from profit.answers import letters
from profit.shapes import BadRow

Row = dict[str, Any]

CHOICE = (
    "Answer this multiple-choice question. Reason step by step, then close with one line of the form ANSWER: X, where "
    "X is one of the letters {letters}.\n\n{question}\n\n{options}"
)
MATH = "{problem}\n\nReason step by step and put the final answer in \\boxed{{}}."
GSM8K = "{question}\n\nReason step by step and close with a line that gives the answer as a number."
GSM8K_OFFICIAL = "Question: {question}\nThink step by step.\nAnswer:"
HELLASWAG = "{ctx}\n\nWhich of these endings continues the text best?"
HUMANEVAL = (
    "Complete this Python function. Answer with the whole function in one block of code.\n\n```python\n{prompt}\n```"
)
ANSWERS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
EXAMPLES = [
    "Angelo and Melanie want to plan",
    "Mark's basketball team scores 25",
    "Bella has two times as many marbles",
    "A group of 4 fruit baskets contains 9 apples",
]


@dataclass(frozen=True)
class Benchmark:
    """What a row of the data set must have, how an item is made of it, and the options with their defaults.

    A tuple of options holds all that are allowed, the default first. `make` returns the item without its id, or None
    for a row that is not of this benchmark. `name` is the column of the ids; without one they are row numbers.
    """

    columns: dict[str, type]
    make: Callable[[Row, Row], Row | None]
    options: dict[str, Any] = field(default_factory=dict)
    name: str | None = None


def gpqa(row: Row, options: Row) -> Row:
    """The correct answer is the first of the columns, and goes where the permutation puts it."""
    answers = [row[key].strip() for key in ANSWERS]
    if options["order"] == "circular":
        order = [(row["_number"] + i) % 4 for i in range(4)]
    else:
        keys = [f"{options['seed']} {row['Question']} {i}".encode() for i in range(4)]
        order = sorted(range(4), key=lambda i: hashlib.sha256(keys[i]).digest())
    return choice(row["Question"].strip(), [answers[i] for i in order], order.index(0), options)


def choice(question: str, answers: list[str], correct: int, options: Row) -> Row:
    """An item of kind letter, its options in the given order."""
    if not all(isinstance(answer, str) for answer in answers):
        raise BadRow("options", f"found options {answers!r}, expected texts")
    named = letters(len(answers))
    listed = "\n".join(f"{letter}) {answer}" for letter, answer in zip(named, answers, strict=True))
    return {
        "kind": "letter", "answer": named[correct], "options": len(answers), "take": options["take"],
        "reading": options["reading"], "prompt": CHOICE.format(letters=named, question=question, options=listed),
    }  # fmt: skip


def hellaswag(row: Row, options: Row) -> Row:
    """Endings in the data set's own order."""
    return choice(HELLASWAG.format(ctx=row["ctx"]), row["endings"], _place("label", row["label"], "0123"), options)


def arc(row: Row, options: Row) -> Row | None:
    """Options in the data set's own order; their labels are letters or digits."""
    answers, labels = row["choices"].get("text"), row["choices"].get("label")
    if not isinstance(answers, list) or not isinstance(labels, list) or len(answers) != len(labels):
        raise BadRow("choices", f"choices: found {row['choices']!r}, expected as many texts as labels")
    if options["choices"] not in (0, len(answers)):
        return None
    return choice(row["question"], answers, _place("answerKey", row["answerKey"], labels), options)


def mmlu_pro(row: Row, options: Row) -> Row | None:
    """The questions of one category, options in the data set's own order."""
    if row["category"] != options["category"]:
        return None
    correct = _place("answer", row["answer"], letters(len(row["options"])))
    return choice(row["question"], row["options"], correct, options)


def gsm8k(row: Row, options: Row) -> Row:
    """The number behind #### of the data set's own solution."""
    prompt = (GSM8K_OFFICIAL if "examples" in options else GSM8K).format(question=row["question"])
    return {"kind": "number", "answer": solution(row)[1], "commas": options["commas"], "prompt": prompt}


def solution(row: Row) -> tuple[str, str]:
    """GSM8K's own steps without their <<...>> annotations, and the number behind ####, without commas."""
    steps, mark, answer = row["answer"].rpartition("####")
    answer = answer.strip().replace(",", "")
    if not mark or not re.fullmatch(r"-?\d+(\.\d+)?", answer):
        raise BadRow("answer", f"answer: found {row['answer'][-40:]!r}, expected a number behind ####")
    return re.sub(r"<<.*?>>", "", steps).strip(), answer


def solved_example(row: Row) -> Row:
    """A question of GSM8K with the data set's own solution, as gsm8k_official shows it."""
    steps, answer = solution(row)
    prompt = GSM8K_OFFICIAL.format(question=row["question"])
    return {"kind": "example", "prompt": prompt, "answer": f"{steps}\nThe answer is {answer}"}


def mathematics(row: Row, options: Row) -> Row:
    """MATH and AIME."""
    return {"kind": "math", "answer": row["answer"].strip(), "prompt": MATH.format(problem=row["problem"].strip())}


def ifeval(row: Row, options: Row) -> Row:
    """The prompt as it is; Arrow fills the arguments that an instruction does not have with nothing."""
    if not all(isinstance(given, dict) for given in row["kwargs"]):
        raise BadRow("kwargs", f"kwargs: found {row['kwargs']!r}, expected a list of objects")
    arguments = [{key: value for key, value in given.items() if value is not None} for given in row["kwargs"]]
    names = row["instruction_id_list"]
    return {"kind": "instructions", "answer": "", "prompt": row["prompt"], "instruction_id_list": names,
            "kwargs": arguments}  # fmt: skip


def humaneval(row: Row, options: Row) -> Row:
    """The prompt is the head of a function, the tests a function `check` of it."""
    return {
        "kind": "code", "answer": row["canonical_solution"], "prompt": HUMANEVAL.format(prompt=row["prompt"].rstrip()),
        "program": row["prompt"], "test": row["test"], "entry_point": row["entry_point"],
        "seconds": options["seconds"],
    }  # fmt: skip


def _place(key: str, answer: str, labels: Sequence[str]) -> int:
    """Where the label of the correct option stands among all."""
    if answer not in list(labels):
        raise BadRow(key, f"{key}: found {answer!r}, expected one of {', '.join(labels)}")
    return list(labels).index(answer)


READING = {"take": ("first", "last"), "reading": ("official", "tolerant")}
GSM8K_COLUMNS = {"question": str, "answer": str}
MATH_COLUMNS = {"problem": str, "answer": str}
MMLU_PRO_COLUMNS = {"question": str, "options": list, "answer": str, "category": str}
BENCHMARKS = {
    "gpqa_diamond": Benchmark(
        dict.fromkeys(["Question", *ANSWERS], str), gpqa, {"seed": 0, "order": ("hash", "circular"), **READING},
        "Record ID",
    ),
    "gsm8k": Benchmark(GSM8K_COLUMNS, gsm8k, {"commas": True}),
    "gsm8k_official": Benchmark(GSM8K_COLUMNS, gsm8k, {"commas": False, "examples": EXAMPLES, "train": {}}),
    "math_500": Benchmark(MATH_COLUMNS, mathematics, name="unique_id"),
    "aime_2024": Benchmark(MATH_COLUMNS, mathematics, name="id"),
    "ifeval": Benchmark({"prompt": str, "instruction_id_list": list, "kwargs": list}, ifeval, name="key"),
    "hellaswag": Benchmark({"ctx": str, "endings": list, "label": str}, hellaswag, READING),
    "arc_challenge": Benchmark(
        {"question": str, "choices": dict, "answerKey": str}, arc, {"choices": 4, **READING}, "id"
    ),
    "mmlu_pro_history": Benchmark(MMLU_PRO_COLUMNS, mmlu_pro, {"category": "history", **READING}, "question_id"),
    "mmlu_pro_chemistry": Benchmark(MMLU_PRO_COLUMNS, mmlu_pro, {"category": "chemistry", **READING}, "question_id"),
    "humaneval": Benchmark(
        dict.fromkeys(["prompt", "canonical_solution", "test", "entry_point"], str), humaneval, {"seconds": 10},
        "task_id",
    ),
}  # fmt: skip


def check_options(where: str, name: str, given: Row) -> None:
    """Raise ValueError for an option that the benchmark `name` does not have, or of another type or value."""
    known = BENCHMARKS[name].options
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"{where}: found {key!r}, expected some of {list(known)}")
        default = known[key]
        if value not in default if isinstance(default, tuple) else type(value) is not type(default):
            expected = f"one of {default}" if isinstance(default, tuple) else f"a {type(default).__name__}"
            raise ValueError(f"{where}.{key}: found {value!r}, expected {expected}")
