"""References and questions of our own in the columns and formats of the paper's (tests/paper_smoke.py).

Short word problems with numbers, each answered in up to four ways: one source in the shape of Infinity-Instruct, three
in that of s1K answered at three efforts. Some rows are bad, some answers alike, some prompts not everywhere.

No command: used by tests/paper_smoke.py, whose models also learn from these texts.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from profit.protocol import EXAMPLES

# prompt, sign, the same in TeX, what is counted
STORIES = [
    ("A bakery bakes {a} loaves before noon and {b} after. How many loaves is that?", "+", "+", "loaves"),
    ("A train has {a} seats, and {b} of them are taken. How many seats are free?", "-", "-", "free seats"),
    ("Each of {b} boxes holds {a} pencils. How many pencils are there?", "×", r"\times", "pencils"),
    ("Mia’s garden has {a} tulips; she plants {b} more. How many tulips are there now?", "+", "+", "tulips"),
    ("Of {a} letters, Tom has sent {b}. How many letters are left?", "-", "-", "letters"),
    ("A hall has {b} rows of {a} chairs.\nHow many chairs are in the hall?", "×", r"\times", "chairs"),
    ("Yesterday {a} people came to the café, today {b}. How many came on both days?", "+", "+", "people"),
    ("A tank holds {a} litres, and {b} litres flow out. How many litres remain?", "-", "-", "litres"),
    ("One ticket costs {a} euros. How many euros do {b} tickets cost?", "×", r"\times", "euros"),
]
ANSWERS = {
    "infinity": "Let us go step by step.\n\n1. We are given {a} and {b}.\n2. We want the number of {unit}.\n"
    "3. {a} {sign} {b} = {c}\n\n**Answer:** {c} {unit}.",
    "low": "{a} {sign} {b} = {c}, so the answer is {c} {unit}.",
    "middle": "We need the number of {unit}.\n\n\\[\n{a} {tex} {b} = {c}\n\\]\n\n\\[\n\\boxed{{{c}}}\n\\]",
    "high": "First, note what is known: the numbers {a} and {b}. To find how many {unit} there are, we compute "
    "{a} {sign} {b}. This gives {c}. As a check, {c} is {size} than {a}, as it should be. So there are {c} {unit}: "
    "$\\boxed{{{c}}}$",
}
# Prompts that a source answers; what `collect` makes of them is reckoned in tests/test_paper_smoke.py.
ANSWERED = {"infinity": range(28), "low": range(36), "middle": range(34), "high": [*range(30), 34, 35]}
ALIKE, LONG, AFTER_A_BREAK = 29, 3, 28


def story(number: int) -> dict[str, Any]:
    """Numbers and words of a prompt."""
    prompt, sign, tex, unit = STORIES[number % len(STORIES)]
    a, b = 40 + 13 * number, 3 + 7 * number % 36
    c = {"+": a + b, "-": a - b, "×": a * b}[sign]
    size = "less" if c < a else "more"
    return {"prompt": prompt.format(a=a, b=b), "a": a, "b": b, "c": c, "sign": sign, "tex": tex, "unit": unit,
            "size": size}  # fmt: skip


def answered(source: str) -> Iterator[tuple[str, str]]:
    """(prompt, answer) of a source's good rows."""
    for number in ANSWERED[source]:
        style = "low" if (source, number) == ("middle", ALIKE) else source
        told = story(number)
        answer = "\n" * ((source, number) == ("high", AFTER_A_BREAK)) + ANSWERS[style].format(**told)
        yield told["prompt"], answer + " And so on." * 200 * ((source, number) == ("infinity", LONG))


def write_references(folder: Path) -> None:
    """Infinity-Instruct's columns as Parquet and JSONL, with rows that no run can train on; s1K's as three JSON lists.

    The bad rows: an empty answer, several turns, a system message, no answer at all.
    """
    good = [[("human", prompt), ("gpt", answer)] for prompt, answer in answered("infinity")]
    bad = [
        [("human", "Say nothing."), ("gpt", "")],
        [("human", "Hello."), ("gpt", "Hello!"), ("human", "What is 2 + 2?"), ("gpt", "4")],
        [("system", "You are a poet."), ("human", "Write a line."), ("gpt", "The sea is 7 miles wide.")],
        [("human", "Is anyone there?")],
    ]
    rows = [
        {"id": number, "conversations": [{"from": role, "value": value} for role, value in turns],
         "label": {"ability_en": ["math ability"], "cate_ability_en": []}, "langdetect": "en", "source": "Objective",
         "reward": 20.5 - number}
        for number, turns in enumerate([*good, *bad])
    ]  # fmt: skip
    write_lines(folder / "infinity.jsonl", rows)
    pd.DataFrame(rows).to_parquet(folder / "infinity.parquet")
    for effort in ("low", "middle", "high"):
        rows = [
            {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
             "meta": {"reasoning_effort": effort}}
            for prompt, answer in answered(effort)
        ]  # fmt: skip
        (folder / f"s1k_{effort}.json").write_text(json.dumps(rows + rows[:1] * (effort == "low"), indent=1))


def write_questions(folder: Path) -> None:
    """Questions of our own in the columns and formats of the five benchmarks, and GSM8K's solved examples."""
    gsm8k = [
        ("Ann reads 12 pages a day. How many pages does she read in 5 days?", "12*5=<<12*5=60>>60 pages\n#### 60"),
        ("A shop sells 600 cards on each of 2 days. How many cards?", "600*2=<<600*2=1200>>1,200 cards\n#### 1,200"),
        ("Ben has 31 coins and gives away 4. How many are left?", "31-4=<<31-4=27>>27 coins\n#### 27"),
    ]
    shown = [(f"{opening} …; one step makes {n}. How much?", f"It is <<{n}={n}>>{n}.\n#### {n}")
             for n, opening in enumerate(EXAMPLES, start=1)]  # fmt: skip
    for split, pairs in (("test", gsm8k), ("train", [*gsm8k[:1], *shown])):
        write_lines(folder / f"gsm8k_{split}.jsonl", [{"question": q, "answer": a} for q, a in pairs])
    mathematics = [("What is half of 3?", r"\frac{3}{2}"), ("Solve $x^2 = 49$ for $x > 0$.", "7"),
                   (r"Find $\sqrt{2} \cdot \sqrt{8}$.", "4")]  # fmt: skip
    write_lines(folder / "math_500.jsonl", [
        {"problem": problem, "solution": f"It is $\\boxed{{{answer}}}$.", "answer": answer, "subject": "Algebra",
         "level": 1, "unique_id": f"test/algebra/{number}.json"}
        for number, (problem, answer) in enumerate(mathematics)
    ])  # fmt: skip
    pd.DataFrame([
        {"id": 60 + number, "problem": f"Find the remainder of {n} on division by 100.", "solution": "Divide.",
         "answer": f"{n % 100:03d}", "url": "https://example.org", "year": "2024"}
        for number, n in enumerate((1234, 4321, 90005))
    ]).to_parquet(folder / "aime_2024.parquet")  # fmt: skip
    choices = [("Which gas is lightest?", "Hydrogen", "Helium", "Neon, cold", "Argon\n"),
               ("How many sides has a cube?", "6", "4", "8", "12"),
               ("Which is a prime?", "29", "27", "33", "35")]  # fmt: skip
    with open(folder / "gpqa_diamond.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        answers = ["Correct Answer", *(f"Incorrect Answer {number}" for number in (1, 2, 3))]
        writer.writerow(["Pre-Revision Question", "Question", *answers, "Explanation", "Subdomain", "Record ID"])
        for number, (question, *options) in enumerate(choices):
            writer.writerow([question, f"{question}\n", *options, "By definition.", "Physics", f"rec{number}"])
    instructions = [
        ("Name three rivers without a comma.", ["punctuation:no_comma"], [{}]),
        ("Write of the sea in less than 9 words, and mark two parts, like *this*.",
         ["length_constraints:number_words", "detectable_format:number_highlighted_sections"],
         [{"relation": "less than", "num_words": 9}, {"num_highlights": 2}]),
        ("Write a title in double angular brackets, such as <<Rain>>, and name the moon.",
         ["detectable_format:title", "keywords:existence"], [{}, {"keywords": ["moon"]}]),
    ]  # fmt: skip
    write_lines(folder / "ifeval.jsonl", [
        {"key": 1000 + number, "prompt": prompt, "instruction_id_list": names, "kwargs": arguments}
        for number, (prompt, names, arguments) in enumerate(instructions)
    ])  # fmt: skip


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSONL."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
