"""Random numbers for thousands of parallel environments: one independent stream each, drawn without a loop.

A stream is a key and a counter, and its numbers are a hash of both (splitmix64; Steele, Lea, Flood, 2014, "Fast
Splittable Pseudorandom Number Generators"). What one environment draws does not depend on how many others there are,
where it stands among them, or the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# 64-bit constants of splitmix64, as signed integers: torch's integer arithmetic wraps around modulo 2^64.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


class CounterRandom:
    """One random stream per environment.

    Parameters
    ----------
    seeds : Tensor of int64, shape (n,)
        Seed of each environment's stream.

    Attributes
    ----------
    keys, counters : Tensor of int64, shape (n,)
        The whole state; copy or restore them to repeat a draw.

    Examples
    --------
    >>> both = CounterRandom(torch.tensor([7, 8])).uniform(3)
    >>> torch.equal(both[1], CounterRandom(torch.tensor([8])).uniform(3)[0])
    True
    """

    def __init__(self, seeds: Tensor) -> None:
        self.keys = _mix(seeds.to(torch.int64) * _GAMMA + _MIX_1)
        self.counters = torch.zeros_like(self.keys)

    def bits(self, k: int, rows: Tensor | None = None) -> Tensor:
        """Return the next ``k`` 64-bit integers of each environment (n, k), or of those at ``rows`` (m,) -> (m, k)."""
        keys, counters = (self.keys, self.counters) if rows is None else (self.keys[rows], self.counters[rows])
        steps = torch.arange(1, k + 1, device=keys.device)
        out = _mix(keys[:, None] + (counters[:, None] + steps) * _GAMMA)
        if rows is None:
            self.counters += k
        else:
            self.counters[rows] += k
        return out

    def uniform(self, k: int, low: float = 0.0, high: float = 1.0, rows: Tensor | None = None) -> Tensor:
        """Return ``k`` float32 numbers per environment, uniform on [low, high)."""
        unit = _shift(self.bits(k, rows), 40).to(torch.float32) * 2.0**-24
        return low + (high - low) * unit

    def normal(self, k: int, rows: Tensor | None = None) -> Tensor:
        """Return ``k`` standard normal float32 numbers per environment (Box-Muller)."""
        u = _shift(self.bits(2 * k, rows), 40).to(torch.float32)
        radius = (-2.0 * ((u[:, :k] + 1.0) * 2.0**-24).log()).sqrt()
        return radius * (2.0 * math.pi * u[:, k:] * 2.0**-24).cos()

    def integers(self, k: int, high: int, rows: Tensor | None = None) -> Tensor:
        """Return ``k`` integers per environment, uniform on 0..high-1."""
        return _shift(self.bits(k, rows), 33) % high
