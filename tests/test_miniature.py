"""The miniature language: labels are true by intervention, pools are disjoint, text and tokens agree."""

import numpy as np
import pytest
from pydantic import ValidationError

from profit.files import InputError
from profit.generate import check_caps, generate
from profit.miniature.documents import chat, pretraining_documents
from profit.miniature.items import ITEM_SETS, check_disjoint, draw_items, draw_references, longest_answer
from profit.miniature.language import (
    Problem,
    annotator_styles,
    base_style,
    draw_problem,
    is_valid,
    solve,
    statement,
)
from profit.miniature.lexicon import SLOTS
from profit.miniature.tokenizer import build_tokenizer
from profit.miniature.world import World

WORLD = World()
LONGEST = {name: longest_answer(WORLD, name) for name in ITEM_SETS}
BENCHMARKS = [
    {"name": name, "questions": 12, "max_new_tokens": 3 * longest, "tight_tokens": longest}
    for name, longest in LONGEST.items()
]


def _solutions(count: int):
    rng = np.random.default_rng(7)
    styles = annotator_styles(WORLD)
    for number in range(count):
        problem = draw_problem(WORLD, 1 + number % 4, 0.3, "tuning", rng)
        yield problem, solve(problem, WORLD, styles[number % len(styles)], rng)


def test_swapping_a_core_word_breaks_the_solution_and_only_that():
    vocabulary = [token[1:] for token in build_tokenizer(WORLD.largest).get_vocab() if token.startswith("▁")]
    rng = np.random.default_rng(1)
    for problem, solution in _solutions(40):
        assert is_valid(problem, solution.text)
        for start, end, label in solution.spans:
            if label == "core":
                word = solution.text[start:end]
                for other in rng.choice([w for w in vocabulary if w != word], 8, replace=False):
                    assert not is_valid(problem, solution.text[:start] + other + solution.text[end:])


def test_any_wording_of_a_slot_serves_as_well():
    for problem, solution in _solutions(40):
        spans = solution.spans
        number = 0
        while number < len(spans):
            last = number
            while last + 1 < len(spans) and spans[last + 1][2] == spans[number][2] == "replaceable":
                last += 1
            if spans[number][2] == "replaceable":
                start, end = spans[number][0], spans[last][1]
                phrase = solution.text[start:end]
                slot = next(wordings for wordings in SLOTS.values() if phrase in wordings)
                for other in slot:
                    assert is_valid(problem, solution.text[:start] + other + solution.text[end:])
            number = last + 1


def test_a_wrong_or_incomplete_derivation_is_not_valid():
    problem = Problem(7, (("add", 5), ("double", 0)), "Mia", "pens")
    right = "Then, 5 + 7 = 12 pens. Now, 12 + 12 = 24 pens. So, the answer is 24."
    assert is_valid(problem, right)
    for old, new in (
        ("12 pens. Now", "13 pens. Now"), ("= 24", "= 25"), ("answer is 24", "answer is 12"), ("12 + 12", "12 + 13"),
        ("Then, 5 + 7 = 12 pens. ", ""), ("5 + 7", "6 + 6"), ("24 pens", "24 cups"),
        (" So, the answer is 24.", ""),
    ):  # fmt: skip
        assert old in right and not is_valid(problem, right.replace(old, new)), (old, new)


def test_every_wording_is_common_or_rare_and_annotators_differ_from_the_base():
    base = np.diff(base_style(WORLD).cumulative["connector"], prepend=0)
    assert base.max() > 0.15 and base.min() < 0.03 and base.sum() == pytest.approx(1)
    rare = base < np.median(base)
    for style in annotator_styles(WORLD):
        weights = np.diff(style.cumulative["connector"], prepend=0)
        assert weights[rare].sum() > base[rare].sum()


def test_pools_are_disjoint_and_an_overlap_is_refused():
    references, problems = draw_references(WORLD, 60, 8, 3)
    assert len(references) == 480 and {problem.pool for problem in problems} == {"tuning"}
    assert len({problem.content for problem in problems}) == 60
    held = {}
    for row in references:
        held[row["prompt_id"]] = held.get(row["prompt_id"], 0) + row["held"]
    assert set(held.values()) == {3}
    test = draw_items(WORLD, "same_length", 60)[1]
    check_disjoint({"tuning": problems, "test": test})
    with pytest.raises(InputError, match="also stands in tuning"):
        check_disjoint({"tuning": problems, "test": [*test, problems[0]]})


def test_references_of_a_prompt_solve_its_problem():
    rows, problems = draw_references(WORLD, 30, 8, 3)
    for row in rows:
        assert is_valid(problems[int(row["prompt_id"].split("_")[1])], row["answer"])
        assert row["spans"][-1]["end"] == len(row["answer"])


def test_items_carry_their_answer():
    for name in ITEM_SETS:
        items, problems = draw_items(WORLD, name, 20)
        for item, problem in zip(items, problems, strict=True):
            if name == "choice":
                options = item["prompt"].split("Options: ")[1].rstrip(".").split(", ")
                assert len(set(options)) == 4 and item["answer"] == str(problem.answer) in options
            elif item["kind"] == "format":
                assert item["checks"] and all(check["text"] in item["prompt"] for check in item["checks"])
            else:
                assert item["answer"] == str(problem.answer)


def test_tokens_are_words_and_decoding_gives_the_text_back():
    tokenizer = build_tokenizer(WORLD.largest)
    for document in pretraining_documents(WORLD, base_style(WORLD), 300, 0):
        assert tokenizer.unk_token_id not in tokenizer(document, add_special_tokens=False)["input_ids"]
    for _, solution in _solutions(30):
        ids = tokenizer(solution.text, add_special_tokens=False)["input_ids"]
        assert len(ids) == len(solution.spans) and tokenizer.decode(ids) == solution.text


def test_chat_documents_are_what_the_template_renders():
    tokenizer = build_tokenizer(WORLD.largest)
    messages = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Sure."}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == chat("How many?", "Sure.")


def test_no_valid_answer_is_longer_than_the_longest():
    rng = np.random.default_rng(3)
    styles = annotator_styles(WORLD)
    longest = longest_answer(WORLD, "same_length")
    for _ in range(300):
        problem = draw_problem(WORLD, 3, 0.0, "test", rng)
        assert len(solve(problem, WORLD, styles[0], rng).spans) + 1 <= longest


def test_an_unknown_benchmark_is_named_with_those_there_are():
    benchmark = {"name": "longr", "questions": 5, "max_new_tokens": 200, "tight_tokens": 80}
    with pytest.raises(InputError, match=r"benchmarks.longr: the miniature makes same_length, longer"):
        generate(WORLD, {"prompts": 5, "references": 4, "held": 1, "careful": 0}, [benchmark])


def test_caps_that_cut_valid_answers_are_refused():
    benchmark = {"name": "longer", "questions": 5, "max_new_tokens": 100, "tight_tokens": 80}
    with pytest.raises(InputError, match=r"benchmarks.longer.max_new_tokens: found 100, expected at least"):
        check_caps(WORLD, benchmark)


def test_generation_is_the_same_every_time_and_follows_the_world_seed():
    data = {"prompts": 12, "references": 4, "held": 1, "careful": 9}
    first, items, manifest = generate(WORLD, data, BENCHMARKS)
    again, items_again, _ = generate(WORLD, data, BENCHMARKS)
    assert first["references"].equals(again["references"]) and items == items_again
    assert len(first["careful"]) == 9 and not set(first["careful"]["prompt"]) & set(first["references"]["prompt"])
    other, _, other_manifest = generate(World(seed=1), data, BENCHMARKS)
    assert not first["references"].equals(other["references"]) and manifest["world"] != other_manifest["world"]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"start": (5, 3)}, "start"),
        ({"largest": 10}, "start"),
        ({"pretraining_steps": [0.5]}, "pretraining_steps"),
        ({"mixture": {"plain": 0.9}}, "mixture"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_world_that_cannot_be_is_refused(settings: dict, key: str):
    with pytest.raises(ValidationError, match=key):
        World(**settings)


def test_a_world_too_narrow_for_its_items_is_refused():
    with pytest.raises(InputError, match="expected"):
        draw_items(World(start=(1, 1), amount=(1, 1), reference_steps=(1, 1)), "same_length", 50)


def test_statement_names_every_amount():
    rng = np.random.default_rng(0)
    problem = Problem(7, (("add", 5), ("double", 0)), "Mia", "pens")
    text = statement(problem, rng)
    assert text.startswith("Mia has 7 pens, ") and " 5, doubles them. How many pens now?" in text
