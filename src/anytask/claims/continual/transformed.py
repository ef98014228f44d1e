"""A stream of images that come upright, and then inverted, turned, with their rows shuffled, and shifted."""

from __future__ import annotations

from typing import Any

import numpy as np

from anytask.datasets.labelled import load_labelled
from anytask.problems.task_stream import TaskStream


class Transformed(TaskStream):
    """Learn the same classes from square images with values in [0, 1], under one fixed transformation after another.

    Parameters
    ----------
    enlarge : int
        Each pixel is shown as so many by so many.
    """

    key = "transformed"

    def __init__(self, enlarge: int = 1) -> None:
        super().__init__()
        self.enlarge = enlarge

    def load(self, source: Any, **options: Any) -> Any:
        """Return the images of all tasks with checked options; transformations are the same for every seed."""
        plain = load_labelled(source)
        X = np.asarray(plain.X[np.arange(len(plain.y))]).repeat(self.enlarge, axis=2).repeat(self.enlarge, axis=3)
        side = X.shape[-1]
        order = np.random.default_rng(0).permutation(side)
        tasks = {
            "upright": X,
            "inverted": 1 - X,
            "turned": np.rot90(X, axes=(2, 3)).copy(),
            "rows shuffled": X[:, :, order],
            "shifted": np.roll(X, (round(3 / 8 * side), side // 2), axis=(2, 3)),
        }
        y, task = np.tile(plain.y, len(tasks)), np.repeat(list(tasks), len(X))
        return super().load((np.concatenate(list(tasks.values())), y, task), scenario="domain", **options)
