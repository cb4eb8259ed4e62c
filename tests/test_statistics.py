"""Statistics against scipy, brute force and the textbook."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from profit import statistics


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_mean_interval_is_scipys(rng: np.random.Generator, level: float) -> None:
    values = rng.normal(3, 2, 7)
    low, high = stats.t.interval(level, 6, values.mean(), stats.sem(values))
    assert statistics.mean_interval(values, level) == pytest.approx((values.mean(), low, high))


def test_mean_interval_covers_as_often_as_it_says(rng: np.random.Generator) -> None:
    intervals = [statistics.mean_interval(rng.normal(1, 3, 5), 0.9) for _ in range(2000)]
    assert np.mean([low <= 1 <= high for _, low, high in intervals]) == pytest.approx(0.9, abs=0.025)


def test_one_value_has_a_mean_without_interval() -> None:
    mean, low, high = statistics.mean_interval([0.5])
    assert mean == 0.5 and math.isnan(low) and math.isnan(high)
    assert math.isnan(statistics.paired_difference([1.0], [0.5])[3])


def test_paired_difference_is_scipys(rng: np.random.Generator) -> None:
    a, b = rng.normal(0.4, 1, 10), rng.normal(0, 1, 10)
    found = stats.ttest_rel(a, b)
    interval = found.confidence_interval(0.95)
    expected = (np.mean(a - b), interval.low, interval.high, found.pvalue)
    assert statistics.paired_difference(a, b) == pytest.approx(expected)


def test_paired_difference_without_spread() -> None:
    assert statistics.paired_difference([1, 2], [1, 2]) == (0, 0, 0, 1)
    assert statistics.paired_difference([2, 3], [1, 2]) == (1, 1, 1, 0)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0]]])
def test_bad_values_are_refused(values: list) -> None:
    with pytest.raises(ValueError, match="values: found"):
        statistics.mean_interval(values)


def test_unpaired_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="found 2 and 1 values"):
        statistics.paired_difference([1, 2], [1])


def test_sign_flip_test_approaches_enumeration(rng: np.random.Generator) -> None:
    differences = rng.normal(0.5, 1, 10)
    signs = np.array(list(itertools.product([-1, 1], repeat=10)))
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
    assert statistics.sign_flip_test(differences, 200_000, 1) == pytest.approx(exact, abs=0.004)


def test_sign_flip_test_has_its_floor_and_ceiling() -> None:
    assert statistics.sign_flip_test(np.ones(60), 999, 0) == 1 / 1000
    assert statistics.sign_flip_test(np.zeros(5), 99, 0) == 1
    # All signs equal happens in 2 of 8 draws; rounding of 0.1 + 0.1 + 0.1 must not lose them.
    p = [statistics.sign_flip_test([0.1, 0.1, 0.1], 5_000, seed) for seed in range(20)]
    assert np.mean(p) == pytest.approx(0.25, abs=0.006)  # four standard errors


def test_sign_flip_test_is_level_under_the_null(rng: np.random.Generator) -> None:
    p = [statistics.sign_flip_test(rng.standard_t(3, 20), 199, seed) for seed in range(1000)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.03)


def test_sign_flip_test_repeats_with_its_seed(rng: np.random.Generator) -> None:
    differences = rng.normal(size=33)
    assert statistics.sign_flip_test(differences, 500, 3) == statistics.sign_flip_test(differences, 500, 3)


def test_auc_and_delta_are_pair_counts(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    above, ties = np.mean(a[:, None] > b), np.mean(a[:, None] == b)
    area = statistics.auc(a, b)
    assert area == pytest.approx(above + ties / 2)
    assert area == pytest.approx(stats.mannwhitneyu(a, b).statistic / (40 * 30))
    assert statistics.cliffs_delta(area) == pytest.approx(above - np.mean(a[:, None] < b))


def test_cohens_d_by_hand() -> None:
    assert statistics.cohens_d([2, 4], [1, 3]) == pytest.approx(1 / math.sqrt(2))
    assert math.isnan(statistics.cohens_d([1, 1], [1, 1]))
    assert math.isnan(statistics.cohens_d([1], [2]))
    assert statistics.cohens_d([5], [1, 3]) == pytest.approx(3 / math.sqrt(2))


def test_cohens_kappa_by_hand() -> None:
    # Two raters of 50: 20 yes-yes, 15 no-no, 5 and 10 apart: observed 0.7, by chance 0.5.
    a = np.repeat([True, False, True, False], [20, 15, 5, 10])
    b = np.repeat([True, False, False, True], [20, 15, 5, 10])
    assert statistics.cohens_kappa(a, b) == pytest.approx(0.4)
    assert statistics.cohens_kappa(a, a) == 1
    assert math.isnan(statistics.cohens_kappa(np.ones(3), np.ones(3)))
    with pytest.raises(ValueError, match="expected equal"):
        statistics.cohens_kappa([1, 2], [1])


def test_bootstrap_weights_are_resamples() -> None:
    weights = statistics.bootstrap_weights(9, 400, 0)
    assert weights.shape == (400, 9)
    assert (weights.sum(axis=1) == 9).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(9), abs=0.2)
    assert np.array_equal(weights, statistics.bootstrap_weights(9, 400, 0))


def test_bootstrap_ratio_is_the_mean_of_the_drawn_tokens(rng: np.random.Generator) -> None:
    group, values = np.array([0, 0, 1, 2, 2, 2]), rng.normal(size=6)
    weights = np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0.0]])
    sums, counts = np.bincount(group, values), np.bincount(group).astype(float)
    expected = [np.average(values, weights=row[group]) for row in weights]
    assert statistics.bootstrap_ratio(sums, counts, weights) == pytest.approx(expected)
    empty = statistics.bootstrap_ratio(np.array([1.0, 0]), np.array([2.0, 0]), np.array([[0, 2.0], [1, 1]]))
    assert math.isnan(empty[0]) and empty[1] == 0.5
    assert statistics.percentile_interval(empty) == (0.5, 0.5)


def test_bootstrap_auc_is_the_auc_of_the_drawn_tokens(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 9, 60).astype(float), rng.integers(0, 8, 40).astype(float)
    a_group, b_group = rng.integers(0, 5, 60), rng.integers(1, 6, 40)  # group 0 has no b, group 5 no a
    wins = statistics.wins_by_group(a, a_group, b, b_group, 6)
    a_counts, b_counts = (np.bincount(group, minlength=6).astype(float) for group in (a_group, b_group))
    assert wins.sum() / (60 * 40) == pytest.approx(statistics.auc(a, b))
    weights = statistics.bootstrap_weights(6, 20, 0)
    for row, found in zip(weights, statistics.bootstrap_auc(wins, a_counts, b_counts, weights), strict=True):
        drawn = np.repeat(a, row[a_group].astype(int)), np.repeat(b, row[b_group].astype(int))
        assert found == pytest.approx(statistics.auc(*drawn))


def test_percentile_interval_is_numpys(rng: np.random.Generator) -> None:
    draws = rng.normal(size=1000)
    assert statistics.percentile_interval(draws, 0.9) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])))
