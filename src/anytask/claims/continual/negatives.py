"""A stream of images of which a random half is shown as negatives, so that the mean of a class says nothing of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from anytask.problems.task_stream import TaskStream


class Negatives(TaskStream):
    """Learn from a stream of images with values in [0, 1], a random half of them inverted.

    Light digits on dark ground and dark ones on light ground are one class. The linear models and class means that
    suffice for plain digits, two at a time, are right by chance here; a network trained on all tasks at once is not.
    """

    key = "negatives"

    def load(self, source: Any, **options: Any) -> Any:
        """Return the inputs with checked options, half of them inverted; which half is the same for every seed."""
        data = super().load(source, **options)
        X = np.array(data.source.X[np.arange(len(data.source.y))])
        half = np.random.default_rng(0).random(len(X)) < 0.5
        X[half] = 1 - X[half]
        fingerprint = hashlib.sha256(f"negatives {data.source.fingerprint}".encode()).hexdigest()
        return replace(data, source=replace(data.source, X=X, fingerprint=fingerprint))
