"""Where the noise of a comparison comes from, and what it lets a study of a given size find.

Every run of two methods answers the same questions, so the differences d(s, q) of their accuracies on question q with
seed s are crossed:

    d(s, q) = effect + seed(s) + question(q) + rest(s, q)

The three variances come from the mean squares of a two-way layout with one value a cell (Searle, Casella and McCulloch
1992, Ch. 4); a negative estimate is zero. Over fixed questions the mean difference of S seeds and Q questions has
variance (seed + rest / Q) / S: more questions help only while rest / Q counts. The least effect found with a given
power solves the noncentral t distribution of the one-sided test of profit.verdicts.

No command: used by profit.claims.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from profit.verdicts import LEVEL

POWER = 0.8
MOST_SEEDS = 1000
MOST_QUESTIONS = 1_000_000


@dataclass(frozen=True)
class Variances:
    """Variances of a difference: between seeds, between questions, and of the rest (their interaction, sampling)."""

    seed: float
    question: float
    rest: float

    def of_mean(self, seeds: int, questions: int) -> float:
        """Variance of the mean difference over new seeds and the same questions."""
        return (self.seed + self.rest / questions) / seeds


def split(differences: ArrayLike) -> Variances:
    """The variances of differences, shape (seeds, questions).

    Raises:
        ValueError: fewer than two seeds or questions, or a value that is NaN or infinite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 2 or not np.isfinite(values).all():
        raise ValueError(f"differences: found shape {values.shape}, expected finite (seeds, questions), two of each")
    seeds, questions = values.shape
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    residual = values - rows[:, None] - columns + values.mean()
    rest = float((residual**2).sum() / ((seeds - 1) * (questions - 1)))
    return Variances(
        seed=max(0.0, float(rows.var(ddof=1)) - rest / questions),
        question=max(0.0, float(columns.var(ddof=1)) - rest / seeds),
        rest=rest,
    )


def power(effect: float, error: float, seeds: int, level: float = LEVEL) -> float:
    """Probability that the one-sided t test finds a true mean difference `effect` with standard error `error`."""
    if seeds < 2 or error < 0:
        raise ValueError(f"power: found {seeds} seeds and error {error}, expected at least 2 and no negative error")
    if error == 0:
        return float(effect > 0)
    return float(stats.nct.sf(stats.t.ppf(1 - level, seeds - 1), seeds - 1, effect / error))


def least_effect(variances: Variances, seeds: int, questions: int, level: float = LEVEL) -> float:
    """Smallest true difference that the test finds with probability POWER."""
    error = variances.of_mean(seeds, questions) ** 0.5
    if error == 0:
        return 0.0
    return error * float(optimize.brentq(lambda ratio: power(ratio, 1.0, seeds, level) - POWER, 0, 200))


def seeds_needed(variances: Variances, effect: float, questions: int, level: float = LEVEL) -> int | None:
    """Fewest seeds with which the test finds `effect` with probability POWER; None if MOST_SEEDS are too few."""
    return _fewest(lambda seeds: _chance(variances, effect, seeds, questions, level), 2, MOST_SEEDS)


def questions_needed(variances: Variances, effect: float, seeds: int, level: float = LEVEL) -> int | None:
    """Fewest questions with which it does on `seeds` seeds; None if MOST_QUESTIONS are too few.

    They are of the same kinds and in the same proportions as those that the variances come from.
    """
    return _fewest(lambda questions: _chance(variances, effect, seeds, questions, level), 1, MOST_QUESTIONS)


def _chance(variances: Variances, effect: float, seeds: int, questions: int, level: float) -> float:
    if effect <= 0:
        raise ValueError(f"effect: found {effect}, expected more than 0")
    return power(effect, variances.of_mean(seeds, questions) ** 0.5, seeds, level)


def _fewest(chance: Callable[[int], float], least: int, most: int) -> int | None:
    """The first number from `least` to `most` whose chance, which rises with it, is POWER; None if there is none."""
    if chance(most) < POWER:
        return None
    low, high = least - 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) >= POWER else (middle, high)
    return high
