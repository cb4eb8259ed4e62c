"""Variances recovered from planted ones, power against simulation."""

import numpy as np
import pytest
from scipy import stats

from profit.power import MOST_SEEDS, Variances, least_effect, power, questions_needed, seeds_needed, split


def planted(rng, seeds, questions, seed, question, rest):
    return (
        0.03
        + rng.normal(0, seed, (seeds, 1))
        + rng.normal(0, question, (1, questions))
        + rng.normal(0, rest, (seeds, questions))
    )


def test_split_recovers_planted_variances():
    rng = np.random.default_rng(0)
    found = [split(planted(rng, 12, 60, 0.05, 0.2, 0.4)) for _ in range(400)]
    means = np.mean([(item.seed, item.question, item.rest) for item in found], axis=0)
    assert means == pytest.approx([0.05**2, 0.2**2, 0.4**2], rel=0.08)


def test_split_of_a_sum_without_interaction_is_exact():
    rows, columns = np.array([0.0, 0.1, 0.4]), np.array([0.0, 0.2])
    found = split(rows[:, None] + columns)
    assert found.rest == pytest.approx(0)
    assert (found.seed, found.question) == pytest.approx((rows.var(ddof=1), columns.var(ddof=1)))


def test_variance_of_the_mean_is_that_of_repeated_studies():
    rng = np.random.default_rng(1)
    questions = rng.normal(0, 0.2, (1, 40))
    means = [
        (rng.normal(0, 0.05, (8, 1)) + questions + rng.normal(0, 0.4, (8, 40))).mean() for _ in range(4000)
    ]  # fmt: skip
    assert np.var(means) == pytest.approx(Variances(0.05**2, 0.2**2, 0.4**2).of_mean(8, 40), rel=0.1)


def test_power_against_simulation():
    rng = np.random.default_rng(2)
    values = rng.normal(0.05, 0.08, (20_000, 10))
    found = (stats.ttest_1samp(values, 0, axis=1, alternative="greater").pvalue < 0.05).mean()
    assert power(0.05, 0.08 / 10**0.5, 10) == pytest.approx(found, abs=0.01)
    assert power(0.0, 1.0, 10) == pytest.approx(0.05)
    assert power(0.1, 0.0, 3) == 1.0 and power(0.0, 0.0, 3) == 0.0


@pytest.mark.parametrize("seeds", [3, 5, 10, 30])
def test_least_effect_and_seeds_needed_are_inverse(seeds):
    variances = Variances(0.01**2, 0.2**2, 0.3**2)
    effect = least_effect(variances, seeds, 200)
    assert power(effect, variances.of_mean(seeds, 200) ** 0.5, seeds) == pytest.approx(0.8, abs=1e-6)
    assert seeds_needed(variances, effect * 1.0001, 200) == seeds
    assert least_effect(variances, seeds, 400) < effect < least_effect(variances, seeds - 1, 200)


@pytest.mark.parametrize("seeds", [3, 10])
def test_least_effect_and_questions_needed_are_inverse(seeds):
    variances = Variances(0.01**2, 0.2**2, 0.3**2)
    effect = least_effect(variances, seeds, 200)
    assert questions_needed(variances, effect * 1.0001, seeds) == 200
    # What seeds alone hide, no question shows.
    assert questions_needed(variances, 0.9 * least_effect(Variances(0.01**2, 0, 0), seeds, 1), seeds) is None


def test_edges():
    assert least_effect(Variances(0, 1, 0), 5, 10) == 0.0
    assert seeds_needed(Variances(1.0, 0, 0), 1e-4, 10) is None and MOST_SEEDS >= 1000
    assert seeds_needed(Variances(0, 0, 0), 0.1, 10) == 2
    with pytest.raises(ValueError, match="expected more than 0"):
        seeds_needed(Variances(1, 0, 0), 0.0, 10)
    with pytest.raises(ValueError, match="expected more than 0"):
        questions_needed(Variances(1, 0, 0), -0.1, 10)
    with pytest.raises(ValueError, match="at least 2"):
        power(0.1, 0.1, 1)


@pytest.mark.parametrize("values", [np.zeros((1, 5)), np.zeros((5, 1)), np.zeros(5), np.full((3, 3), np.nan)])
def test_bad_differences_are_refused(values):
    with pytest.raises(ValueError, match="expected finite .seeds, questions., two of each"):
        split(values)
