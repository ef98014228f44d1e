"""A stream of customer messages, a few intents at a time, as vectors of a real sentence encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from anytask.continual import OVOR
from anytask.datasets.text import load_text
from anytask.problems.task_stream import TaskStream


class Intents(TaskStream):
    """Learn to tell apart the classes of a text set that keep coming, from MiniLM's vectors (n, 384)."""

    key = "intents"

    def load(self, source: Any, **options: Any) -> Any:
        """Return the vectors of a built-in text set, with checked options."""
        from anytask.lm import Embedder

        data = load_text(source)
        return super().load((Embedder().embed(data.texts), np.array(data.labels)), scenario="class", **options)


def as_they_are(input_shape: tuple[int, ...], n_outputs: int | None) -> nn.Module:
    """Return a network that gives its inputs."""
    return nn.Flatten()


class OnVectors(OVOR):
    """OVOR's head on vectors that another encoder has made."""

    backbone = as_they_are
