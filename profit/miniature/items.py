"""References and benchmark items of the miniature language.

Each set draws from one pool of contents and no content twice; pools share none (`check_disjoint`).
"""

from dataclasses import dataclass

import numpy as np

from profit.files import InputError
from profit.miniature.language import (
    Problem,
    Style,
    annotator_styles,
    base_style,
    draw_problem,
    format_problem,
    list_options,
    solve,
    solve_format,
    statement,
)
from profit.miniature.lexicon import MARKERS, PEOPLE, SLOTS, THINGS
from profit.miniature.world import World


@dataclass(frozen=True)
class ItemSet:
    """How the items of one benchmark are drawn; steps None means as in the references."""

    steps: int | None = None
    rare: bool = True
    pool: str = "test"
    kind: str = "number"


# The five benchmarks stand in the places of the paper's five columns; validation serves the choice of learning rates;
# shorter is ready to be added to a study.
ITEM_SETS = {
    "same_length": ItemSet(),
    "longer": ItemSet(steps=4, rare=False),
    "choice": ItemSet(kind="choice"),
    "longest": ItemSet(steps=5, rare=False),
    "format": ItemSet(kind="format"),
    "validation": ItemSet(pool="validation"),
    "shorter": ItemSet(steps=1, rare=False),
}


def item_set(name: str) -> ItemSet:
    """How benchmark `name` is drawn; InputError if the miniature does not make it."""
    if name not in ITEM_SETS:
        raise InputError(f"benchmarks.{name}: the miniature makes {', '.join(ITEM_SETS)}")
    return ITEM_SETS[name]


def draw_problems(world: World, chosen: ItemSet, count: int, rng: np.random.Generator) -> list[Problem]:
    """`count` problems of distinct content; where steps vary, each number of steps comes equally often."""
    low, high = (chosen.steps, chosen.steps) if chosen.steps else world.reference_steps
    rare = world.rare_in_references if chosen.rare else world.rare_in_pretraining
    problems: dict[tuple, Problem] = {}
    for _ in range(20 * count):
        if len(problems) == count:
            return list(problems.values())
        problem = draw_problem(world, low + len(problems) % (high - low + 1), rare, chosen.pool, rng)
        problems.setdefault(problem.content, problem)
    raise InputError(
        f"world: found {len(problems)} distinct problems in pool {chosen.pool!r}, expected {count}, widen the ranges"
    )


def draw_items(world: World, name: str, count: int) -> tuple[list[dict], list[Problem]]:
    """The items of benchmark `name` as its lm-eval task reads them, and their problems."""
    chosen = item_set(name)
    rng = np.random.default_rng([world.seed, 4, list(ITEM_SETS).index(name)])
    problems = draw_problems(world, chosen, count, rng)
    items = []
    for number, problem in enumerate(problems):
        item = {
            "id": f"{name}_{number:04d}",
            "prompt": statement(problem, rng),
            "answer": str(problem.answer),
            "kind": "format" if chosen.kind == "format" else "number",
            "steps": len(problem.operations),
        }
        if chosen.kind == "choice":
            item["prompt"] += " " + list_options(problem, world, rng)
        elif chosen.kind == "format":
            instructions, item["checks"] = format_problem(problem, rng)
            item["prompt"] += " " + instructions
        items.append(item)
    return items, problems


def draw_references(world: World, prompts: int, references: int, held: int) -> tuple[list[dict], list[Problem]]:
    """Rows of references.parquet: exchangeable answers to each prompt, `held` of them, at random, never trained on."""
    rng = np.random.default_rng([world.seed, 5])
    problems = draw_problems(world, ItemSet(pool="tuning"), prompts, rng)
    return _answered("prompt", problems, references, held, world, annotator_styles(world), rng), problems


def draw_unseen(world: World, prompts: int, unseen: int, references: int) -> tuple[list[dict], list[Problem]]:
    """Rows of unseen.parquet: held answers to the `unseen` problems drawn next after the `prompts` of the references.

    No content of those occurs again. The pool has few contents of one step, and those likely to be drawn go first: of
    the rare ones, like one doubling, few or none are left.

    Raises:
        InputError: the pool has no contents left for so many.
    """
    problems = draw_problems(world, ItemSet(pool="tuning"), prompts + unseen, np.random.default_rng([world.seed, 5]))
    rng = np.random.default_rng([world.seed, 7])
    rows = _answered("prompt", problems[prompts:], references, references, world, annotator_styles(world), rng)
    numbers = np.repeat(np.arange(prompts, prompts + unseen), references)
    names = [{"prompt_id": f"prompt_{number:04d}"} for number in numbers]
    return [row | name for row, name in zip(rows, names, strict=True)], problems[prompts:]


def draw_careful(world: World, prompts: int, avoid: list[Problem]) -> tuple[list[dict], list[Problem]]:
    """Rows of careful.parquet: one answer each to fresh prompts, worded as the base words them.

    What training on them gains is what there is to learn in this world. Contents of `avoid` do not occur, others may
    occur more than once.
    """
    rng = np.random.default_rng([world.seed, 6])
    known = {problem.content for problem in avoid}
    low, high = world.reference_steps
    problems: list[Problem] = []
    while len(problems) < prompts:
        steps = low + len(problems) % (high - low + 1)
        problem = draw_problem(world, steps, world.rare_in_references, "tuning", rng)
        if problem.content not in known:
            problems.append(problem)
    return _answered("careful", problems, 1, 0, world, [base_style(world)], rng), problems


def _answered(
    name: str,
    problems: list[Problem],
    references: int,
    held: int,
    world: World,
    styles: list[Style],
    rng: np.random.Generator,
) -> list[dict]:
    rows = []
    for number, problem in enumerate(problems):
        prompt = statement(problem, rng)
        held_out = set(rng.permutation(references)[:held].tolist())
        for reference in range(references):
            answer = solve(problem, world, styles[rng.integers(len(styles))], rng)
            rows.append(
                {
                    "prompt_id": f"{name}_{number:04d}",
                    "reference_id": reference,
                    "prompt": prompt,
                    "answer": answer.text,
                    "held": reference in held_out,
                    "steps": len(problem.operations),
                    "spans": [{"start": start, "end": end, "label": label} for start, end, label in answer.spans],
                }
            )
    return rows


def check_disjoint(pools: dict[str, list[Problem]]) -> None:
    """Fail if problems used for different ends share a content (start and operations).

    Args:
        pools: by pool (tuning, validation, test), the problems drawn for it.

    Raises:
        InputError: names the two pools and the shared content.
    """
    owner: dict[tuple, str] = {}
    for pool, problems in pools.items():
        for problem in problems:
            if problem.pool == "pretraining":
                raise InputError(f"{pool}: problem {problem.content} is one the base may read, expected another")
            if owner.setdefault(problem.content, pool) != pool:
                raise InputError(f"{pool}: problem {problem.content} also stands in {owner[problem.content]}")


def longest_answer(world: World, name: str) -> int:
    """Tokens of the longest valid answer to benchmark `name`, end token included."""
    chosen = item_set(name)
    problem = Problem(1, (("add", 1),) * (chosen.steps or world.reference_steps[1]), PEOPLE[0], THINGS[0])
    style, rng = _LongestStyle(), np.random.default_rng(0)
    if chosen.kind == "format":
        checks = [{"kind": kind, "text": MARKERS[0]} for kind in ("starts_with", "ends_with")]
        return len(solve_format(problem, checks, world, style, rng).spans) + 1
    return len(solve(problem, world, style, rng).spans) + 1


class _LongestStyle:
    """Always the wording with the most words."""

    def pick(self, slot: str, rng: np.random.Generator) -> str:
        return max(SLOTS[slot], key=lambda wording: len(wording.split()))
