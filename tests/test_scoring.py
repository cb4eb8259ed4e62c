"""Answers written by hand, with what a reader would say of them."""

import json

import numpy as np
import pytest

from profit.files import InputError
from profit.miniature.items import ITEM_SETS, draw_items
from profit.miniature.language import base_style, solve, solve_format
from profit.miniature.world import World
from profit.scoring import extract, holds, load_items, mean_over_samples, process_results, read_items, score

NUMBER = {"id": "n", "prompt": "?", "answer": "12", "kind": "number"}
CHOICE = {"id": "c", "prompt": "?", "answer": "C", "kind": "choice"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Let us see. Then, 7 apples + 5 apples = 12 apples. So, the answer is 12.", (True, True)),
        ("Mia : 7 + 5 = 12 apples . The answer is 12 .", (True, True)),
        ("The answer is 12", (True, True)),
        ("The answer is: 12.", (True, True)),
        ("The answer is 11. No, wait. The answer is 12.", (True, True)),
        ("The answer is 12. No, wait. The answer is 11.", (False, True)),
        ("The answer is 12. No, wait. The answer is", (False, False)),
        ("The answer is 120.", (False, True)),
        ("The answer is 12.5.", (False, True)),
        ("The answer is -12.", (False, True)),
        ("The answer is 1,200.", (False, True)),
        ("The answer is apples 12.", (False, False)),
        ("7 + 5 = 12", (False, False)),
        ("12", (False, False)),
        ("", (False, False)),
    ],
)
def test_number(text: str, expected: tuple[bool, bool]) -> None:
    assert score(NUMBER, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is C.", (True, True)),
        ("Hence, the answer is 12: C.", (True, True)),
        ("The answer is 12 : C .", (True, True)),
        ("The answer is A. The answer is C.", (True, True)),
        ("C. The answer is B.", (False, True)),
        ("The answer is 12: B. Not C.", (False, True)),
        ("The answer is E.", (False, False)),
        ("The answer is Cleo.", (False, False)),
        ("The answer is 12.", (False, False)),
        ("C", (False, False)),
    ],
)
def test_choice(text: str, expected: tuple[bool, bool]) -> None:
    assert score(CHOICE, text) == expected


def check(kind: str, text: str | None = None, count: int | None = None) -> dict:
    # Arrow fills the keys that a check lacks with None; so does this.
    return {"kind": kind, "text": text, "count": count}


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        (check("starts_with", "Result"), "Result. Then, 2 + 2 = 4.", True),
        (check("starts_with", "Result"), "  Result : 4", True),
        (check("starts_with", "Result"), "Results are 4.", False),
        (check("starts_with", "Result"), "The Result is 4.", False),
        (check("ends_with", "Amber"), "The answer is 4. Amber.", True),
        (check("ends_with", "Amber"), "The answer is 4. Amber", True),
        (check("ends_with", "Amber"), "The answer is 4 . Amber .", True),
        (check("ends_with", "Amber"), "Amber. The answer is 4.", False),
        (check("ends_with", "Amber"), "The answer is 4. Amber. So.", False),
        (check("ends_with", "is 4."), "The answer is 4.", True),
        (check("ends_with", "is 4."), "The answer is 4", False),
        (check("has_word", "apples"), "Apples, 4 of them.", True),
        (check("has_word", "so now"), "And so now 4.", True),
        (check("has_word", "apple"), "4 apples.", False),
        (check("no_word", "so"), "Some sofas.", True),
        (check("no_word", "so"), "So, 4.", False),
        (check("no_word", "so"), "", False),
        (check("sentences", count=2), "We add. It is 4.", True),
        (check("sentences", count=2), "We add . It is 4", True),
        (check("sentences", count=2), "We add. It is 4. Done.", False),
        (check("sentences", count=1), "It is 4 ...", True),
        (check("answer_only"), "12.", True),
        (check("answer_only"), "12", True),
        (check("answer_only"), "12 .", True),
        (check("answer_only", ""), "The answer is 12.", False),
        (check("answer_only"), "12 13", False),
        (check("answer_only"), "apples", False),
        (check("answer_only"), ".", False),
        (check("max_words", count=3), "It is 4.", True),
        (check("max_words", count=3), "It is 4 apples.", False),
        (check("max_words", count=3), "...", False),
    ],
)
def test_format_check(rule: dict, text: str, expected: bool) -> None:
    assert holds(rule, text) is expected


def test_a_format_item_needs_every_check_and_not_the_number() -> None:
    item = {"kind": "format", "answer": "4", "checks": [check("starts_with", "Result"), check("no_word", "so")]}
    assert score(item, "Result. The answer is 5.") == (True, True)
    assert score(item, "Result. So, the answer is 4.") == (False, True)
    assert score(item, "The answer is 4.") == (False, True)
    assert score(item, "  ") == (False, False)


def test_results_keep_every_sample_and_average_all() -> None:
    found = process_results(NUMBER, [["The answer is 12.", "The answer is 3.", "what"]])
    assert found == {"accuracy": [1.0, 0.0, 0.0], "parsed": [1.0, 1.0, 0.0]}
    assert mean_over_samples([[1.0, 0.0], [1.0, 1.0]]) == 0.75


def test_extract_has_the_type_of_its_kind() -> None:
    assert extract("The answer is 1,012", "number") == 1012.0
    assert extract("The answer is D", "choice") == "D"


def test_items_reach_lm_eval_as_they_are(tmp_path) -> None:
    items = [
        NUMBER,
        {**CHOICE, "steps": 3},
        {**NUMBER, "id": "f", "kind": "format", "checks": [{"kind": "answer_only"}]},
    ]
    path = tmp_path / "items.json"
    path.write_text(json.dumps(items))
    assert read_items(path) == items
    loaded = load_items(items=path, version=1.0)["test"]
    assert [{k: v for k, v in row.items() if v is not None} for row in loaded] == items


@pytest.mark.parametrize("benchmark", ITEM_SETS)
def test_the_languages_own_solutions_are_right_and_those_of_other_items_mostly_wrong(benchmark: str) -> None:
    world, rng = World(), np.random.default_rng(0)
    style = base_style(world)
    items, problems = draw_items(world, benchmark, 40)
    texts = []
    for item, problem in zip(items, problems, strict=True):
        if item["kind"] == "format":
            solution = solve_format(problem, item["checks"], world, style, rng)
        else:
            solution = solve(problem, world, style, rng)
        texts.append(solution.text)
    assert all(score(item, text) == (True, True) for item, text in zip(items, texts, strict=True))
    others = [score(item, text) for item, text in zip(items, texts[1:] + texts[:1], strict=True)]
    assert all(parsed for _, parsed in others) and sum(correct for correct, _ in others) < 20


FORMAT = {**NUMBER, "kind": "format"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "found no items"),
        ('{"id": "n"}', "found dict, expected a list"),
        ('[{"id": "n", "pro', "truncated"),
        ('["n"]', "item 0: found str"),
        (json.dumps([{k: v for k, v in NUMBER.items() if k != "answer"}]), "item 0/answer: found None"),
        (json.dumps([NUMBER, {**NUMBER, "id": "m", "prompt": " "}]), "item 1/prompt: found ' '"),
        (json.dumps([NUMBER, NUMBER]), "item 1/id: found 'n' twice"),
        (json.dumps([{**NUMBER, "kind": "letter"}]), "item 0/kind: found 'letter', expected one of number, choice"),
        (json.dumps([{**NUMBER, "answer": "twelve"}]), "item 0/answer: found 'twelve', expected a number"),
        (json.dumps([{**CHOICE, "answer": "E"}]), "item 0/answer: found 'E', expected a choice"),
        (json.dumps([FORMAT]), "item 0/checks: found None"),
        (json.dumps([{**FORMAT, "checks": [{"kind": "rhymes"}]}]), "expected a kind of starts_with"),
        (json.dumps([{**FORMAT, "checks": [{"kind": "no_word"}]}]), "no_word: found text None, expected a str"),
        (json.dumps([{**FORMAT, "checks": [{"kind": "sentences", "count": "2"}]}]), "found count '2', expected a int"),
    ],
)
def test_bad_items_are_refused(tmp_path, content: str, message: str) -> None:
    path = tmp_path / "items.json"
    path.write_text(content)
    with pytest.raises(InputError, match="items.json") as error:
        read_items(path)
    assert message in str(error.value)
