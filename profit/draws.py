"""Random numbers of tokens that nothing but seed, step, example and position decides.

A random mask must not change with micro-batches, packing, processes or device, so its numbers are a hash of what names
a token, and not drawn from the state of a generator.

No command: used by profit.trainer.
"""

import torch
from torch import Tensor


def token_draws(seed: int, step: int, example: Tensor, position: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float64 (n,), one a token, that depend on nothing but the four arguments.

    `example` and `position` are int64 (n,); `step` counts from 1, and 0 draws what is to stay for all steps. Each
    argument in turn is mixed into 64 bits by the finaliser of SplitMix64 (Steele, Lea and Flood 2014), so neither
    batching nor the device can change a draw.
    """
    bits = torch.full_like(example, seed)
    for part in (torch.full_like(example, step), example, position):
        bits = _mix(bits * _GAMMA + part + 1)
    return (_mix(bits) >> 11 & (1 << 53) - 1).double() * 2.0**-53


# The constants of SplitMix64 as signed 64-bit numbers; torch multiplies modulo 2^64.
_GAMMA, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(bits: Tensor) -> Tensor:
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        bits = (bits ^ _shift(bits, shift)) * factor
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, count: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign."""
    return bits >> count & (1 << 64 - count) - 1
