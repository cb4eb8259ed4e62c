"""What the verdict rule finds, and what it must not, in 1,000 drawn studies of known truth."""

import pandas as pd
import planted
import pytest

from profit.verdicts import verdicts

# Those of the miniature: ten of SFT and ProFit, five of the others.
SEEDS = planted.seeds_of(10, 5)
RIGHT = {name: 0.05 for name in SEEDS if name.startswith("profit")}
WRONG = {name: -0.05 for name in SEEDS if name.startswith("profit")}
WRONG |= {"profit": -0.1, "sft_3ref": -0.05, "keep_low": 0.05}
FIRST = ["profit_over_sft", "profit_over_three"]
# What collapses, of ten: a run of any method, a seed with the runs of all methods, nothing.
COLLAPSES = [(planted.COLLAPSE, False), (planted.COLLAPSE, True), (0.0, False)]


def replicated(effects, seeds=SEEDS, collapse=planted.COLLAPSE, shared=False, studies=1000):
    """Whether each claim (columns) is replicated in each of the drawn studies (rows)."""
    drawn = planted.draw(studies, seeds, effects, collapse, shared)
    return pd.DataFrame([verdicts(planted.findings(drawn, i)) for i in range(studies)]) == "replicated"


@pytest.mark.parametrize(("collapse", "shared"), COLLAPSES)
@pytest.mark.parametrize("others", [5, 10])
def test_false_verdicts_are_rare(others, collapse, shared):
    """At most 64 of 1,000: 5 % and two standard errors."""
    found = replicated({}, planted.seeds_of(10, others), collapse, shared)
    assert found[FIRST].any(axis=1).sum() <= 64 and found.drop(columns=FIRST).any(axis=1).sum() <= 64


@pytest.mark.parametrize("shared", [False, True])
def test_a_true_claim_does_not_carry_a_false_one(shared):
    found = replicated({"profit": 0.05, "sft_3ref": 0.05}, planted.seeds_of(10, 10), shared=shared).sum()
    assert found["profit_over_sft"] > 350 and found["profit_over_three"] <= 64 and found["keep_high"] <= 64


@pytest.mark.parametrize(("collapse", "shared"), COLLAPSES)
def test_opposite_effects_are_never_replicated(collapse, shared):
    assert not replicated(WRONG, collapse=collapse, shared=shared).any(axis=None)


@pytest.mark.parametrize(("collapse", "shared"), COLLAPSES[1:])
@pytest.mark.parametrize("others", [5, 10])
def test_ten_seeds_find_the_smallest_effect_also_where_seeds_collapse(others, collapse, shared):
    found = replicated(RIGHT, planted.seeds_of(10, others), collapse, shared)[FIRST]
    assert found.sum().min() >= 800


def test_where_runs_collapse_it_takes_twenty_five():
    """One run in ten that loses half of its accuracy hides 5 points from ten seeds, and half the time from both."""
    assert replicated(RIGHT, planted.seeds_of(25, 25))[FIRST].sum().min() >= 800
    found = replicated(RIGHT, planted.seeds_of(10, 10))[FIRST]
    assert 350 <= found.sum().min() and found.sum().max() <= 500


@pytest.mark.parametrize("shared", [False, True])
def test_what_collapses_loses_half(shared):
    few = {"sft": 4, "profit": 3}
    whole, drawn = planted.draw(5000, few, {}, 0.0), planted.draw(5000, few, {}, planted.COLLAPSE, shared)
    fallen = {name: (drawn[name] != whole[name])[:, :3, 0] for name in few}
    assert fallen["profit"].mean() == pytest.approx(planted.COLLAPSE, abs=0.01)
    both = (fallen["sft"] & fallen["profit"]).mean()
    assert both == pytest.approx(planted.COLLAPSE if shared else planted.COLLAPSE**2, abs=0.01 if shared else 0.003)
    assert drawn["profit"][fallen["profit"], 0] == pytest.approx(whole["profit"][fallen["profit"], 0] / 2)
