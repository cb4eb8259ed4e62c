"""What the base model reads: problems of all lengths, multiple choice, format instructions."""

import numpy as np

from profit.miniature.language import (
    Style,
    draw_problem,
    format_problem,
    list_options,
    solve,
    solve_format,
    statement,
)
from profit.miniature.tokenizer import ASSISTANT, END, USER
from profit.miniature.world import World


def chat(prompt: str, answer: str) -> str:
    """One exchange as the chat template renders it (a test holds the two together)."""
    return f"{USER}{prompt}{ASSISTANT}{answer}{END}"


def pretraining_documents(world: World, style: Style, count: int, seed: int) -> list[str]:
    """`count` documents in random order, all from the pretraining pool of contents."""
    rng = np.random.default_rng([world.seed, 3, seed])
    mixture = world.mixture
    edges = np.cumsum([mixture.plain, mixture.choice, mixture.format])
    lengths = np.cumsum(world.pretraining_steps)
    lengths[-1] = 1.0
    documents = []
    for kind, length in zip(rng.random(count), rng.random(count), strict=True):
        steps = int(np.searchsorted(lengths, length)) + 1
        problem = draw_problem(world, steps, world.rare_in_pretraining, "pretraining", rng)
        prompt = statement(problem, rng)
        if kind < edges[0]:
            documents.append(f"{prompt} {solve(problem, world, style, rng).text}{END}")
        elif kind < edges[1]:
            prompt = f"{prompt} {list_options(problem, world, rng)}"
            documents.append(chat(prompt, solve(problem, world, style, rng).text))
        elif kind < edges[2]:
            instructions, checks = format_problem(problem, rng)
            documents.append(chat(f"{prompt} {instructions}", solve_format(problem, checks, world, style, rng).text))
        else:
            documents.append(chat(prompt, solve(problem, world, style, rng).text))
    return documents
