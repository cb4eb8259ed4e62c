"""Problems and worded solutions of the miniature language, with the true label of every word.

A solution states each step as an equation between replaceable phrases:

    Mia has 7 pens, buys 5, loses 3. How many pens now?
    From here, 7 + 5 = 12 pens. Next, 12 - 3 = 9 pens. In the end, the answer is 9.

*core*: amounts, things, operators, the equals sign, the answer: swapping one makes the solution invalid (`is_valid`);
*replaceable*: the words of a slot's wording, any other wording of the slot serves as well; *fixed*: forced words that
carry nothing (punctuation, "the answer is"). Core and replaceable are the core and trivial of paper §4.1, with the
generator for an annotator.
"""

import re
import zlib
from dataclasses import dataclass, field

import numpy as np

from profit.files import InputError
from profit.miniature.lexicon import INSTRUCTIONS, MARKERS, PEOPLE, SIGNS, SLOTS, THINGS, VERBS
from profit.miniature.world import World

CORE, REPLACEABLE, FIXED = "core", "replaceable", "fixed"
_POOL_OF_BUCKET = ("pretraining",) * 13 + ("tuning",) * 2 + ("validation",) * 2 + ("test",) * 3


@dataclass(frozen=True)
class Problem:
    """A start amount and operations on it; person and thing are dress, the rest is content."""

    start: int
    operations: tuple[tuple[str, int], ...]
    person: str
    thing: str

    @property
    def content(self) -> tuple:
        """What two problems must not share across pools: start and operations."""
        return (self.start, self.operations)

    @property
    def amounts(self) -> list[int]:
        """The running amount, from the start to the answer: steps + 1 numbers."""
        amounts = [self.start]
        for operation, operand in self.operations:
            amounts.append(apply(operation, amounts[-1], operand))
        return amounts

    @property
    def answer(self) -> int:
        return self.amounts[-1]

    @property
    def pool(self) -> str:
        """The pool this content belongs to: a hash of it, so that pools cannot overlap."""
        return _POOL_OF_BUCKET[zlib.crc32(repr(self.content).encode()) % len(_POOL_OF_BUCKET)]


@dataclass
class Text:
    """Words put together to readable text, with a character span and a label for each."""

    text: str = ""
    spans: list[tuple[int, int, str]] = field(default_factory=list)

    def add(self, words: str, label: str) -> "Text":
        """Append space-separated words; punctuation joins the word before it."""
        for word in words.split():
            if self.text and word not in ".,:?":
                self.text += " "
            self.spans.append((len(self.text), len(self.text) + len(word), label))
            self.text += word
        return self


@dataclass(frozen=True)
class Style:
    """Cumulative probabilities of each slot's wordings."""

    cumulative: dict[str, np.ndarray]

    def pick(self, slot: str, rng: np.random.Generator) -> str:
        return SLOTS[slot][int(np.searchsorted(self.cumulative[slot], rng.random()))]


def base_style(world: World) -> Style:
    """The base's wordings: a Zipf law over an order of the wordings drawn from the world's seed."""
    return _style({slot: _base_preference(world, slot) for slot in SLOTS})


def annotator_styles(world: World) -> list[Style]:
    """The annotators' wordings: the base's log-preference times `wording_lean`, plus habits of their own."""
    rng = np.random.default_rng([world.seed, 2])
    return [
        _style(
            {
                slot: world.wording_lean * _base_preference(world, slot) + rng.normal(0, world.habit, len(SLOTS[slot]))
                for slot in SLOTS
            }
        )
        for _ in range(world.annotators)
    ]


def _base_preference(world: World, slot: str) -> np.ndarray:
    order = np.random.default_rng([world.seed, 1, len(slot)]).permutation(len(SLOTS[slot]))
    return -world.wording_exponent * np.log1p(order)


def _style(preferences: dict[str, np.ndarray]) -> Style:
    cumulative = {}
    for slot, preference in preferences.items():
        weights = np.exp(preference - preference.max())
        cumulative[slot] = np.cumsum(weights / weights.sum())
        cumulative[slot][-1] = 1.0
    return Style(cumulative)


def apply(operation: str, amount: int, operand: int) -> int:
    """The amount after one operation; doubling, written as the amount added to itself, has no operand of its own."""
    return {"add": amount + operand, "subtract": amount - operand, "double": amount + amount}[operation]


def draw_problem(world: World, steps: int, rare: float, pool: str, rng: np.random.Generator) -> Problem:
    """A problem of `steps` operations whose amounts stay within 1 … `largest`, from the given pool of contents.

    Raises:
        InputError: the world's ranges leave the pool next to nothing.
    """
    for _ in range(20_000):
        amount = start = int(rng.integers(world.start[0], world.start[1] + 1))
        operations = []
        for _ in range(steps):
            operation, operand = "double", 0
            if rng.random() >= rare:
                operation = "add" if rng.random() < 0.5 else "subtract"
                operand = int(rng.integers(world.amount[0], world.amount[1] + 1))
            elif amount > world.amount[1]:
                break  # so that doubling needs no sum that additions do not
            amount = apply(operation, amount, operand)
            if not 0 < amount <= world.largest:
                break
            operations.append((operation, operand))
        else:
            problem = Problem(
                start, tuple(operations), PEOPLE[rng.integers(len(PEOPLE))], THINGS[rng.integers(len(THINGS))]
            )
            if problem.pool == pool:
                return problem
    raise InputError(f"world: found no problem of {steps} steps in pool {pool!r}, expected wider ranges")


def statement(problem: Problem, rng: np.random.Generator) -> str:
    """The problem in words, ending with the question."""
    person, thing = problem.person, problem.thing
    clauses = [f"{person} has {problem.start} {thing}"]
    for operation, operand in problem.operations:
        verbs = VERBS[operation]
        verb = verbs[rng.integers(len(verbs))]
        clauses.append(f"{verb} {'them' if operation == 'double' else operand}")
    return f"{', '.join(clauses)}. How many {thing} now?"


def solve(problem: Problem, world: World, style: Style, rng: np.random.Generator) -> Text:
    """A worded solution that ends with the number."""
    return _derive(Text(), problem, world, style, rng, problem.thing)


def _derive(
    solution: Text, problem: Problem, world: World, style: Style, rng: np.random.Generator, thing: str
) -> Text:
    """Append the steps and the answer to `solution`."""
    amount = problem.start
    for operation, operand in problem.operations:
        solution.add(style.pick("connector", rng), REPLACEABLE).add(",", FIXED)
        result = apply(operation, amount, operand)
        left, right = amount, amount if operation == "double" else operand
        if operation == "add" and rng.random() < world.swapped:
            left, right = operand, amount
        solution.add(f"{left} {SIGNS[operation]} {right} = {result} {thing}", CORE).add(".", FIXED)
        amount = result
    solution.add(style.pick("closer", rng), REPLACEABLE).add(", the answer is", FIXED)
    return solution.add(str(problem.answer), CORE).add(".", FIXED)


def is_valid(problem: Problem, text: str) -> bool:
    """Whether the text derives the answer: each step as a true equation, in order, then the answer."""
    equations = re.findall(rf"(\d+) ([-+]) (\d+) = (\d+) {re.escape(problem.thing)}\.", text)
    answers = re.findall(r"the answer is (\d+)\.", text)
    if (
        len(equations) != len(problem.operations)
        or text.count("=") != len(equations)
        or answers != [str(problem.answer)]
    ):
        return False
    for (operation, operand), amount, result, found in zip(
        problem.operations, problem.amounts, problem.amounts[1:], equations, strict=False
    ):
        left, sign, right, stated = found
        second = amount if operation == "double" else operand
        operands = {(amount, second), (second, amount)} if operation == "add" else {(amount, second)}
        if sign != SIGNS[operation] or (int(left), int(right)) not in operands or int(stated) != result:
            return False
    return True


def list_options(problem: Problem, world: World, rng: np.random.Generator) -> str:
    """The answer among three wrong amounts that lie near it, in random order, as a sentence."""
    low, high = max(1, problem.answer - 9), min(world.largest, problem.answer + 9)
    wrong = [number for number in range(low, high + 1) if number != problem.answer]
    options = [problem.answer, *rng.choice(wrong, 3, replace=False).tolist()]
    rng.shuffle(options)
    return f"Options: {', '.join(map(str, options))}."


def format_problem(problem: Problem, rng: np.random.Generator) -> tuple[str, list[dict]]:
    """Instructions about the output's form, as sentences, and the checks that verify them."""
    kinds = ["answer_only"]
    if rng.random() > 0.15:
        kinds = [kind for kind in ("starts_with", "ends_with", "no_word") if rng.random() < 0.6]
    checks = []
    for kind in kinds or ["starts_with"]:
        words = {"no_word": problem.thing, "answer_only": ""}
        checks.append({"kind": kind, "text": words.get(kind, MARKERS[rng.integers(len(MARKERS))])})
    sentences = [INSTRUCTIONS[c["kind"]].format(word=c["text"], thing=c["text"]) for c in checks]
    return " ".join(sentences), checks


def solve_format(problem: Problem, checks: list[dict], world: World, style: Style, rng: np.random.Generator) -> Text:
    """A worded solution that follows the instructions."""
    asked = {check["kind"]: check["text"] for check in checks}
    if "answer_only" in asked:
        return Text().add(str(problem.answer), CORE).add(".", FIXED)
    solution = Text()
    if "starts_with" in asked:
        solution.add(asked["starts_with"], CORE).add(".", FIXED)
    _derive(solution, problem, world, style, rng, "" if "no_word" in asked else problem.thing)
    if "ends_with" in asked:
        solution.add(asked["ends_with"], CORE).add(".", FIXED)
    return solution
