"""Token objectives against plain loops, their invariants, the random draws, bad settings."""

import math

import pytest
import torch

from profit.code_version import reachable
from profit.objectives import (
    OBJECTIVES,
    TokenStatistics,
    check_objective,
    main,
    token_draws,
    token_weights,
)
from profit.study import OBJECTIVE_SETTINGS


@pytest.fixture()
def logits():
    return torch.randn(40, 12, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture()
def tokens(logits):
    logprobs = logits.log_softmax(-1)
    draw = torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return TokenStatistics(logprobs[:, 3], -(logprobs.exp() * logprobs).sum(-1), draw, share=0.3)


def test_each_weight_is_its_equation(tokens):
    p = [math.exp(value) for value in tokens.logprob.tolist()]
    by_entropy = sorted(range(40), key=lambda t: -tokens.entropy[t].item())
    by_draw = sorted(range(40), key=lambda t: tokens.draw[t].item())
    expected = {
        '{"name": "sft"}': [1.0] * 40,
        '{"name": "profit", "tau": 0.1, "direction": "higher"}': [float(value > 0.1) for value in p],
        '{"name": "profit", "tau": 0.4, "direction": "lower"}': [float(value <= 0.4) for value in p],
        '{"name": "dft"}': p,
        '{"name": "entropy", "share": 0.2}': [float(t in by_entropy[:8]) for t in range(40)],
        '{"name": "random"}': [float(t in by_draw[:12]) for t in range(40)],
    }
    assert {eval(key)["name"] for key in expected} == set(OBJECTIVES)
    for objective, weights in expected.items():
        found = token_weights(eval(objective), tokens)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.tensor(weights))


def test_settings_left_out_take_the_defaults(tokens):
    full = {"name": "profit", "tau": 0.1, "direction": "higher", "normaliser": "all"}
    assert token_weights({"name": "profit"}, tokens).equal(token_weights(full, tokens))
    assert token_weights({"name": "entropy"}, tokens).sum() == 8


def test_both_directions_of_profit_share_out_the_tokens(tokens):
    for tau in (0.0, 0.1, 0.5, 0.9, 1.0):
        higher, lower = (
            token_weights({"name": "profit", "tau": tau, "direction": direction}, tokens)
            for direction in ("higher", "lower")
        )
        assert (higher + lower).equal(torch.ones(40))
    assert token_weights({"name": "profit", "tau": 0.0}, tokens).equal(token_weights({"name": "sft"}, tokens))
    assert token_weights({"name": "profit", "tau": 1.0}, tokens).sum() == 0


def test_the_mask_is_strict_at_tau():
    at = TokenStatistics(torch.tensor([0.5]).log())
    assert token_weights({"name": "profit", "tau": 0.5}, at).item() == 0
    assert token_weights({"name": "profit", "tau": 0.5, "direction": "lower"}, at).item() == 1


def test_the_gradient_of_dft_is_that_of_minus_the_probability(logits):
    gradients = []
    for loss in (
        lambda logprob: -(token_weights({"name": "dft"}, TokenStatistics(logprob)) * logprob).sum(),
        lambda logprob: -logprob.exp().sum(),
    ):
        leaf = logits.clone().requires_grad_()
        loss(leaf.log_softmax(-1)[:, 3]).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_weights_carry_no_gradient(logits):
    logprob = logits.requires_grad_().log_softmax(-1)[:, 3]
    for name in ("sft", "profit", "dft"):
        assert not token_weights({"name": name}, TokenStatistics(logprob)).requires_grad


@pytest.mark.parametrize("share", [0.0, 0.013, 0.5, 1.0])
def test_a_random_mask_keeps_exactly_its_share_also_among_equal_draws(tokens, share):
    for draw in (tokens.draw, torch.zeros(40, dtype=torch.float64)):
        kept = token_weights({"name": "random"}, TokenStatistics(tokens.logprob, draw=draw, share=share))
        assert kept.sum() == round(40 * share)


def splitmix(seed: int, step: int, example: int, position: int) -> float:
    """The draw in Python's own integers."""

    def mix(bits: int) -> int:
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits = (bits ^ bits >> shift) * factor % 2**64
        return bits ^ bits >> 31

    bits = seed
    for part in (step, example, position):
        bits = mix((bits * 0x9E3779B97F4A7C15 + part + 1) % 2**64)
    return (mix(bits) >> 11) / 2**53


def test_draws_depend_on_seed_step_example_and_position_alone():
    example, position = torch.arange(300).repeat_interleave(40), torch.arange(40).repeat(300)
    draws = token_draws(3, 17, example, position)
    for t in (0, 1, 57, 11_999):
        assert draws[t].item() == splitmix(3, 17, example[t].item(), position[t].item())
    order = torch.randperm(len(draws))
    assert token_draws(3, 17, example[order], position[order]).equal(draws[order])
    assert len(draws.unique()) == len(draws) and draws.min() >= 0 and draws.max() < 1
    for seed, step in ((4, 17), (3, 18), (17, 3)):
        other = token_draws(seed, step, example, position)
        assert abs(torch.corrcoef(torch.stack([draws, other]))[0, 1]) < 0.04


def test_draws_are_uniform():
    example, position = torch.arange(1000).repeat_interleave(50), torch.arange(50).repeat(1000)
    draws = token_draws(0, 1, example, position)
    counts = torch.histc(draws.float(), 20, 0, 1)
    assert ((counts - 2500) ** 2 / 2500).sum() < 43.8  # chi-squared with 19 degrees of freedom, p = 0.001
    grid = draws.reshape(1000, 50)
    for a, b in ((grid[:, 0], grid[:, 1]), (grid[0], grid[1])):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.45 * (50 / len(a)) ** 0.5 + 0.05


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"name": "proft"}, "found 'proft', expected one of sft, profit"),
        ({"name": "sft", "tau": 0.1}, "found key 'tau'"),
        ({"name": "profit", "tau": 1.5}, "tau: found 1.5"),
        ({"name": "profit", "tau": float("nan")}, "tau: found nan"),
        ({"name": "profit", "tau": "0.1"}, "tau: found '0.1'"),
        ({"name": "profit", "direction": "None"}, "direction: found 'None'"),
        ({"name": "entropy", "share": -0.2}, "share: found -0.2"),
        ({"name": "dft", "normaliser": "mean"}, "normaliser: found 'mean'"),
    ],
)
def test_wrong_settings_are_refused(objective, message):
    with pytest.raises(ValueError, match=message):
        check_objective(objective)


def test_the_study_knows_the_same_settings():
    settings = {name: objective.settings for name, objective in OBJECTIVES.items()}
    assert settings == {name: found for name, found in OBJECTIVE_SETTINGS.items() if name != "none"}


def test_main_prints_every_objective(capsys):
    main()
    printed = capsys.readouterr().out
    for name, objective in OBJECTIVES.items():
        assert name in printed and objective.equation in printed and objective.citation in printed


def test_the_code_of_one_objective_is_covered_by_its_own_runs_alone():
    """Else an edit of one objective would train the runs of the others again."""
    functions = {name: f"profit.objectives:{objective.weight.__name__}" for name, objective in OBJECTIVES.items()}
    for chosen in OBJECTIVES:
        covered = reachable("profit.train", "main", chosen)
        assert [name for name, function in functions.items() if function in covered] == [chosen]
