"""The verdict rule against scipy, on studies whose truth is known, and at its edges."""

import math

import numpy as np
import pytest
from scipy import stats

from profit.verdicts import Effect, Finding, adjusted, effect, holm, over_bases, resampled, verdicts

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [2, 5, 10])
def test_effect_is_the_one_sided_t_test(size):
    values = RNG.normal(0.02, 0.03, size)
    found = effect(values)
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    upper = stats.ttest_1samp(values, 0, alternative="less").confidence_interval(0.95).high
    assert found.upper == pytest.approx(upper) and found.seeds == size


def test_effect_without_spread_or_of_one_seed():
    assert effect([0.1, 0.1, 0.1]) == Effect(*[pytest.approx(0.1)] * 3, 0.0, pytest.approx(0.1), 3)
    assert effect([0.0, 0.0]).p == 1.0 and effect([-0.1, -0.1]).p == 1.0
    assert math.isnan(effect([0.1]).p) and math.isnan(effect([0.1]).upper)
    with pytest.raises(ValueError, match="found 1 values that are NaN"):
        effect([0.1, math.nan])
    with pytest.raises(ValueError, match="at least one value"):
        effect([])


def test_holm_against_its_definition():
    values = [0.01, 0.04, 0.03, 0.005]
    assert holm(values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == [] and holm([0.5]) == [0.5]
    for _ in range(50):
        values = RNG.uniform(size=6)
        order = np.argsort(values)
        rejected = np.zeros(6, dtype=bool)
        for place, i in enumerate(order):
            if values[i] * (6 - place) >= 0.3:
                break
            rejected[i] = True
        assert (np.array(holm(values)) < 0.3).tolist() == rejected.tolist()


def claim(*values, smallest=0.05, family="f", **options):
    return Finding([effect(part) for part in values], smallest, family, **options)


SURE, NONE, OPEN = [0.1, 0.11, 0.09, 0.1, 0.12], [0.01, -0.01, 0.0, 0.005, -0.005], [0.3, -0.2, 0.1, -0.1, 0.2]


def test_the_three_verdicts_and_the_two_without_a_test():
    claims = {
        "sure": claim(SURE), "none": claim(NONE), "open": claim(OPEN), "few": claim(SURE[:4]),
        "fixed": claim(SURE, by_construction=True),
    }  # fmt: skip
    assert verdicts(claims) == {
        "sure": "replicated", "none": "not replicated", "open": "inconclusive", "few": "descriptive",
        "fixed": "by construction",
    }  # fmt: skip


def test_an_effect_may_be_real_and_too_small():
    assert verdicts({"small": claim([0.02, 0.021, 0.019, 0.02, 0.02])}) == {"small": "not replicated"}
    assert verdicts({"small": claim([0.02, 0.021, 0.019, 0.02, 0.02], smallest=0.01)}) == {"small": "replicated"}


def test_parts_must_all_hold_and_one_refutes():
    assert verdicts({"each": claim(SURE, SURE)}) == {"each": "replicated"}
    assert verdicts({"each": claim(SURE, OPEN)}) == {"each": "inconclusive"}
    assert verdicts({"each": claim(SURE, OPEN, NONE)}) == {"each": "not replicated"}
    assert verdicts({"each": claim(SURE, SURE[:2])}) == {"each": "descriptive"}


def test_claims_without_a_test_do_not_spend_the_family():
    weak = [0.06, 0.01, 0.08, 0.09, 0.02]  # p about 0.02: holds alone, not beside another
    assert 0.0125 < effect(weak).p < 0.025
    assert verdicts({"a": claim(weak), "few": claim(SURE[:4]), "b": claim(SURE, family="g")})["a"] == "replicated"
    many = {f"{i}": claim(OPEN) for i in range(3)}
    assert verdicts({"a": claim(weak), **many})["a"] == "inconclusive"


def test_bad_claims_are_refused():
    with pytest.raises(ValueError, match="claim a: found 0 parts"):
        verdicts({"a": Finding([], 0.05, "f")})
    with pytest.raises(ValueError, match="smallest effect -0.01"):
        verdicts({"a": claim(SURE, smallest=-0.01)})
    with pytest.raises(ValueError, match="smallest effect nan"):
        verdicts({"a": claim(SURE, smallest=math.nan)})


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1.0, "replicated"), (1.1, "not replicated"), (1.049, "inconclusive")]
)
def test_non_inferiority_is_the_distance_to_a_margin(ratio, expected):
    margin = 1.05 - (ratio + np.array([-0.02, 0.01, 0.0, 0.02, -0.01]))
    assert verdicts({"costs no more": claim(margin, smallest=0)}) == {"costs no more": expected}
    lower = stats.ttest_1samp(1.05 - margin, 0, alternative="greater").confidence_interval(0.95).low
    assert (effect(margin).upper < 0) == (lower > 1.05)


def test_the_largest_p_of_the_parts_enters_holm():
    weak = [0.06, 0.01, 0.08, 0.09, 0.02]
    found = adjusted(
        {"each": claim(SURE, weak), "a": claim(SURE), "few": claim(SURE[:4]), "b": claim(SURE, family="g")}
    )
    assert found["each"] == pytest.approx(effect(weak).p) and found["a"] == pytest.approx(2 * effect(SURE).p)
    assert found["b"] == pytest.approx(effect(SURE).p) and "few" not in found


def test_fewer_seeds_for_information():
    assert verdicts({"few": claim(SURE[:3])}, minimum=3) == {"few": "replicated"}
    assert verdicts({"few": claim(SURE[:2])}, minimum=3) == {"few": "descriptive"}


def test_resampled_effects():
    draws = RNG.normal(0.1, 0.05, 1999)
    found = resampled(0.1, draws, 40)
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]))
    assert found.upper == pytest.approx(np.quantile(draws, 0.95)) and (found.mean, found.seeds) == (0.1, 40)
    assert found.p == pytest.approx(((draws <= 0).sum() + 1) / 2000) and found.p < 0.05
    assert resampled(1.0, [1.0, 2.0, 3.0], 5).p == 0.25  # never below what the number of draws can show
    with pytest.raises(ValueError, match="draws: found 1 values that are NaN"):
        resampled(0.1, [0.1, math.nan], 5)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["replicated"] * 3, "replicated"),
        (["replicated", "not replicated", "inconclusive"], "depends on base"),
        (["replicated", "inconclusive", "replicated"], "inconclusive"),
        (["not replicated"], "not replicated"),
    ],
)
def test_over_bases(found, expected):
    assert over_bases(dict(enumerate(found))) == expected


def test_over_bases_needs_one():
    with pytest.raises(ValueError, match="at least one base"):
        over_bases({})
