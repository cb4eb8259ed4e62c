"""The verdict on a claim: replicated, not replicated, or inconclusive; written before a method was compared by it.

The unit is the seed. Samples and questions are averaged within a run, and an effect is the paired difference of two
runs of the same seed, oriented so that above zero agrees with the paper. With S seeds, mean m and standard error e,

    p = P(T > m / e), T of Student with S - 1 degrees of freedom        upper = m + t(0.95, S - 1) e

    not replicated   upper is below the smallest effect of interest
    replicated       otherwise, and p < 0.05 after Holm's correction within the claim's family (Holm 1979)
    inconclusive     neither

A claim in parts ("on each benchmark", "at every tau") is an intersection-union test (Berger 1982): its p, which enters
Holm's correction, is the largest of its parts', and one part below its smallest effect refutes it. A claim that
something is not worse by more than a margin (non-inferiority) takes the distance to the margin as its effect, and 0 as
its smallest. Fewer than MINIMUM seeds are descriptive; a claim whose outcome the world's calibration fixes holds by
construction; both have no p and count in no family.

A true effect of exactly the smallest is refuted in 5 % of studies, however many seeds they have. A trimmed mean would
bear runs that collapse, but not count that one method collapses more often than the other: the mean stays (what the
rule finds, and misses, in drawn studies: tests/planted.py).

No command: used by profit.claims.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from profit.statistics import finite

LEVEL = 0.05
MINIMUM = 5
VERDICTS = ("replicated", "not replicated", "inconclusive", "descriptive", "by construction")


@dataclass(frozen=True)
class Effect:
    """An effect with its two-sided 95 % interval, one-sided p and upper bound; `seeds` that it rests on.

    Where prompts are resampled `seeds` counts prompts.
    """

    mean: float
    low: float
    high: float
    p: float
    upper: float
    seeds: int


def effect(differences: ArrayLike) -> Effect:
    """The effect that paired differences by seed show, shape (seeds,), positive in the paper's direction.

    One seed has neither interval nor p: they are NaN. Differences without spread have p 0 above zero, else 1.

    Raises:
        ValueError: no difference, or one that is NaN or infinite.
    """
    values = finite(differences, "differences")
    mean, size = float(values.mean()), values.size
    if size == 1:
        return Effect(mean, math.nan, math.nan, math.nan, math.nan, 1)
    error = float(values.std(ddof=1)) / math.sqrt(size)
    # Equal differences may differ in the last bit, which is no spread.
    if error <= 1e-12 * max(abs(mean), 1e-300):
        return Effect(mean, mean, mean, 0.0 if mean > 0 else 1.0, mean, size)
    half = float(stdtrit(size - 1, 1 - LEVEL / 2)) * error
    upper = mean + float(stdtrit(size - 1, 1 - LEVEL)) * error
    return Effect(mean, mean - half, mean + half, float(stdtr(size - 1, -mean / error)), upper, size)


def resampled(value: float, draws: ArrayLike, units: int) -> Effect:
    """The effect `value` with the percentiles of its bootstrap draws, shape (resamples,); `units` were resampled.

    p = (b + 1) / (resamples + 1), where b draws are not above 0 (Davison and Hinkley 1997, Ch. 4).

    Raises:
        ValueError: no draw, or a value or draw that is NaN or infinite.
    """
    found = finite(draws, "draws")
    low, high, upper = np.quantile(found, [LEVEL / 2, 1 - LEVEL / 2, 1 - LEVEL]).tolist()
    p = (int((found <= 0).sum()) + 1) / (found.size + 1)
    return Effect(float(finite([value], "value")[0]), low, high, p, upper, units)


@dataclass(frozen=True)
class Finding:
    """A claim as it is judged: its parts (one, unless it says "each" or "every"), and what is too small to matter."""

    parts: Sequence[Effect]
    smallest: float
    family: str
    by_construction: bool = False

    def judged(self, minimum: int = MINIMUM) -> bool:
        """Whether it has a p: `minimum` seeds in every part, and an outcome that the world leaves open."""
        return not self.by_construction and min(part.seeds for part in self.parts) >= minimum

    @property
    def p(self) -> float:
        """The largest p of its parts."""
        return max(part.p for part in self.parts)

    @property
    def refuted(self) -> bool:
        """Whether some part is surely below the smallest effect of interest."""
        return any(part.upper < self.smallest for part in self.parts)


def adjusted(claims: Mapping[str, Finding], minimum: int = MINIMUM) -> dict[str, float]:
    """The p of each claim that is judged, corrected within its family."""
    corrected: dict[str, float] = {}
    for family in dict.fromkeys(claim.family for claim in claims.values()):
        own = {name: claim.p for name, claim in claims.items() if claim.family == family and claim.judged(minimum)}
        corrected |= dict(zip(own, holm(own.values()), strict=True))
    return corrected


def verdicts(claims: Mapping[str, Finding], minimum: int = MINIMUM) -> dict[str, str]:
    """The verdict on each claim; with `minimum` seeds instead of MINIMUM it is for information.

    Raises:
        ValueError: a claim without parts, or with a smallest effect below zero.
    """
    for name, claim in claims.items():
        if not claim.parts or not claim.smallest >= 0:
            found = f"{len(claim.parts)} parts, smallest effect {claim.smallest}"
            raise ValueError(f"claim {name}: found {found}, expected at least one part and an effect of at least 0")
    corrected = adjusted(claims, minimum)
    return {name: _verdict(claim, corrected.get(name)) for name, claim in claims.items()}


def _verdict(claim: Finding, p: float | None) -> str:
    if claim.by_construction:
        return "by construction"
    if p is None:
        return "descriptive"
    if claim.refuted:
        return "not replicated"
    return "replicated" if p < LEVEL else "inconclusive"


def holm(values: Iterable[float]) -> list[float]:
    """Holm's corrected p values, in the order of `values`."""
    given = np.array(list(values), dtype=np.float64)
    order = np.argsort(given, kind="stable")
    stepped = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected.tolist()


def over_bases(by_base: Mapping[str, str]) -> str:
    """One word for the verdicts on several bases: theirs if they agree, else what they say together.

    Replicated on one and not replicated on another depends on the base; with an inconclusive one among others of one
    mind the claim is inconclusive.
    """
    found = set(by_base.values())
    if not found:
        raise ValueError("verdicts: found none, expected at least one base")
    if len(found) == 1:
        return found.pop()
    return "depends on base" if {"replicated", "not replicated"} <= found else "inconclusive"
