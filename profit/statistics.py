"""Statistics of the study: small pure functions from arrays to numbers.

Two units of repetition occur. Runs are repeated over seeds: `mean_interval` and `paired_difference` give Student's t
intervals. Tokens come in prompts, and the tokens of a prompt are not independent: `sign_flip_test` and the bootstrap
resample whole prompts. Effect sizes are the area under the ROC curve (AUC, the probability that a value of the first
sample exceeds one of the second, ties counted half; Mann and Whitney 1947), Cliff's delta = 2 AUC - 1 (Cliff 1993) and
Cohen's d (Cohen 1988).

No command: imported by `profit.correlate` and `profit.tabulate`.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]


def finite(values: ArrayLike, name: str = "values") -> Floats:
    """Return `values` as a one-dimensional float64 array, shape (n,); ValueError if empty, NaN or infinite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: found shape {array.shape}, expected one dimension and at least one value")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: found {int((~np.isfinite(array)).sum())} values that are NaN or infinite")
    return array


def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent values, shape (n,), with its two-sided Student's t interval: (mean, low, high).

    One value has a mean but no spread: low and high are NaN then.
    """
    array = finite(values)
    mean = float(array.mean())
    if array.size == 1:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf((1 + level) / 2, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size))
    return mean, mean - half, mean + half


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> tuple[float, float, float, float]:
    """Mean of a - b, shapes (n,) paired by position (seed), with t interval and two-sided p: (mean, low, high, p).

    One pair gives NaN for low, high and p. Differences without spread give p = 1 if they are all zero, else 0.
    ValueError if the lengths differ.
    """
    first, second = finite(a, "a"), finite(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"paired_difference: found {first.size} and {second.size} values, expected pairs")
    mean, low, high = mean_interval(first - second, level)
    if first.size == 1:
        return mean, low, high, math.nan
    if low == high:
        return mean, low, high, 1.0 if mean == 0 else 0.0
    error = float((first - second).std(ddof=1)) / math.sqrt(first.size)
    return mean, low, high, float(2 * stats.t.sf(abs(mean) / error, first.size - 1))


def sign_flip_test(differences: ArrayLike, resamples: int, seed: int) -> float:
    """Two-sided p of a mean of differences, shape (n,), under the null that each is symmetric about zero.

    Each resample gives every difference a random sign. p = (b + 1) / (resamples + 1) where b resamples have a mean at
    least as far from zero as the observed one (Phipson and Smyth 2010), so p is never below 1 / (resamples + 1).
    """
    array = finite(differences, "differences")
    observed = abs(array.sum())
    tolerance = 1e-12 * np.abs(array).sum()  # the observed signs, drawn again, must count in spite of rounding
    rng = np.random.default_rng(seed)
    beyond, chunk = 0, max(1, 4_000_000 // array.size)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        draws = np.frombuffer(rng.bytes(size * math.ceil(array.size / 8)), dtype=np.uint8).reshape(size, -1)
        positive = np.unpackbits(draws, axis=1, count=array.size).astype(np.float64)
        beyond += int((np.abs(2 * (positive @ array) - array.sum()) >= observed - tolerance).sum())
    return (beyond + 1) / (resamples + 1)


def auc(a: ArrayLike, b: ArrayLike) -> float:
    """P(a > b) + P(a = b) / 2 for values drawn from samples of shapes (n,) and (m,)."""
    first, second = finite(a, "a"), finite(b, "b")
    ranks = stats.rankdata(np.concatenate([first, second]))[: first.size]
    return float((ranks.sum() - first.size * (first.size + 1) / 2) / (first.size * second.size))


def cliffs_delta(area: float) -> float:
    """Cliff's delta, P(a > b) - P(a < b), of an AUC."""
    return 2 * area - 1


def cohens_d(a: ArrayLike, b: ArrayLike) -> float:
    """Difference of the means of samples (n,) and (m,) over their pooled standard deviation; NaN if that is 0."""
    first, second = finite(a, "a"), finite(b, "b")
    freedom = first.size + second.size - 2
    if freedom < 1:
        return math.nan
    pooled = math.sqrt(
        ((first.size - 1) * sample_variance(first) + (second.size - 1) * sample_variance(second)) / freedom
    )
    return float((first.mean() - second.mean()) / pooled) if pooled > 0 else math.nan


def sample_variance(values: Floats) -> float:
    """Unbiased variance of values (n,); 0 for a single value, which adds no degree of freedom to a pool."""
    return float(values.var(ddof=1)) if values.size > 1 else 0.0


def cohens_kappa(a: ArrayLike, b: ArrayLike) -> float:
    """Agreement of two labellings, shapes (n,), beyond chance (Cohen 1960); NaN if both are the same constant."""
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"cohens_kappa: found shapes {first.shape} and {second.shape}, expected equal and not empty")
    observed = float((first == second).mean())
    labels = np.union1d(first, second)
    chance = float(sum((first == label).mean() * (second == label).mean() for label in labels))
    return (observed - chance) / (1 - chance) if chance < 1 else math.nan


def bootstrap_weights(groups: int, resamples: int, seed: int) -> Floats:
    """How often each of `groups` groups is drawn in each bootstrap resample; shape (resamples, groups)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples).astype(np.float64)


def percentile_interval(draws: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval (low, high) of bootstrap draws, shape (resamples,); undefined draws (NaN) are left out."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(np.asarray(draws, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_ratio(sums: Floats, counts: Floats, weights: Floats) -> Floats:
    """Bootstrap draws of a mean over tokens when whole groups are drawn; shape (resamples,).

    sums, counts: per group, shape (groups,). A draw without any token is NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ sums) / (weights @ counts)


def wins_by_group(a: Floats, a_group: NDArray, b: Floats, b_group: NDArray, groups: int) -> Floats:
    """Count pairs (ties half) where a value of group i in `a` exceeds one of group j in `b`; shape (groups, groups).

    a: (n,), b: (m,), with group numbers 0 … groups-1 of the same shapes. Its sum over n m is the AUC, and with
    bootstrap weights w over groups the AUC of a resample is w' wins w / (w'n w'm): no resample ranks tokens again.
    """
    wins = np.zeros((groups, groups))
    order = np.argsort(a_group, kind="stable")
    bounds = np.searchsorted(a_group[order], np.arange(groups + 1))
    for group in range(groups):
        own = np.sort(a[order[bounds[group] : bounds[group + 1]]])
        if own.size:
            below, upto = np.searchsorted(own, b, "left"), np.searchsorted(own, b, "right")
            wins[group] = np.bincount(b_group, own.size - (below + upto) / 2, minlength=groups)
    return wins


def bootstrap_auc(wins: Floats, a_counts: Floats, b_counts: Floats, weights: Floats) -> Floats:
    """Bootstrap draws of the AUC when whole groups are drawn; wins as `wins_by_group`, shape (resamples,)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((weights @ wins) * weights).sum(axis=1) / ((weights @ a_counts) * (weights @ b_counts))
