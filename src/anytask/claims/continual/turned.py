"""Classes of images that keep coming, whose images come in any of four orientations."""

from __future__ import annotations

from typing import Any

import numpy as np

from anytask.datasets.labelled import load_labelled
from anytask.problems.task_stream import TaskStream


class Turned(TaskStream):
    """Learn square images a few classes at a time, each turned by 0 to 3 right angles, the same for every seed."""

    key = "turned"

    def load(self, source: Any, **options: Any) -> Any:
        """Return the images (n, channels, side, side) of a data set with checked options."""
        plain = load_labelled(source)
        turns = np.random.default_rng(0).integers(4, size=len(plain.y))
        X = np.stack([np.rot90(x, k, axes=(-2, -1)) for x, k in zip(plain.X[np.arange(len(plain.y))], turns)])
        return super().load((X, plain.y), scenario="class", **options)
