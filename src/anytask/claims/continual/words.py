"""A stream of word sequences whose tasks have words of their own, and a transformer's block that learns from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual import MIGU, ExperienceReplay, FineTuning, JointTraining
from anytask.problems.task_stream import TaskStream

N_TASKS, N_ROWS, LENGTH, WIDTH = 4, 600, 12, 64


class Words(TaskStream):
    """Tell good sequences from bad ones: of 12 words, 4 are of the label's list, 1 of the other's, 7 of a shared one.

    Each task has lists of its own, 10 words each. Words are fixed random vectors.
    """

    key = "words"

    def load(self, source: Any, **options: Any) -> Any:
        """Return the sequences (n, 12, 64) of all tasks; ``source`` is the seed of the world."""
        rng = np.random.default_rng(source)
        words = rng.normal(size=(20 * N_TASKS + 20, WIDTH)).astype(np.float32)
        y = np.tile([0, 1], N_TASKS * N_ROWS // 2)
        task = np.repeat(np.arange(N_TASKS), N_ROWS)
        own = (20 * task + 10 * y)[:, None] + rng.integers(10, size=(len(y), 4))
        other = (20 * task + 10 * (1 - y))[:, None] + rng.integers(10, size=(len(y), 1))
        shared = 20 * N_TASKS + rng.integers(20, size=(len(y), 7))
        ids = rng.permuted(np.concatenate([own, other, shared], axis=1), axis=1)
        return super().load((words[ids], y, task.astype(str)), scenario="domain", scale="none", **options)


class Block(nn.Module):
    """One block of a transformer with linear layers that can be watched, and the mean over the sequence."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:  # (n, length, width) -> (n, width)
        h = self.first(x)
        q, k, v = (layer(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return (x + self.down(F.gelu(self.up(self.second(x))))).mean(1)


def block(input_shape: tuple[int, ...], n_outputs: int | None) -> nn.Module:
    """Return a :class:`Block` for sequences (length, width)."""
    return Block(input_shape[1])


class GatedBlock(MIGU):
    """MIGU on a block."""

    backbone = block


class PlainBlock(FineTuning):
    """Fine-tuning of a block."""

    backbone = block


class ReplayBlock(ExperienceReplay):
    """Replay with a block."""

    backbone = block


class JointBlock(JointTraining):
    """A block that learns all tasks at once."""

    backbone = block
