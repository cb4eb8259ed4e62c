"""Random draws of tokens against Python's own integers, their independence and uniformity."""

import torch

from profit.draws import token_draws


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
