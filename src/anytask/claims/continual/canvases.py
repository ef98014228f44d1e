"""A stream of canvases with one to three digits each, and a transformer pretrained on single ones."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from anytask.core.rng import isolated
from anytask.core.settings import whole
from anytask.core.training import train
from anytask.models.build import PretrainedVision
from anytask.models.small_vit import small_vit
from anytask.problems.task_stream import LABEL_METRICS, TaskStream
from anytask.problems.task_stream.options import StreamOptions

_PRETRAINING, _POOLS, _NOISE = 797, 28, 0.05


class CanvasOptions(StreamOptions):
    """The stream, and how long its transformer was pretrained."""

    pretraining: int = whole(12, "passes of the transformer over single digits in each quadrant")


class Canvases(TaskStream):
    """Learn which digits are on canvases of 16 x 16, with one to three of them in the quadrants.

    Who takes a ``backbone`` is offered a small vision transformer that was pretrained on canvases with one digit, none
    of whose images is in the stream. Images of digits are in pools, and no pool is both trained and tested on.
    """

    key = "canvases"
    metrics = LABEL_METRICS
    options_class = CanvasOptions

    def load(self, source: Any, **options: Any) -> Any:
        """Return as many canvases as ``source`` says."""
        X, Y, pools = canvases(int(source))
        data = super().load((X, Y), **options)
        fingerprint = hashlib.sha256(f"canvases {data.source.fingerprint}".encode()).hexdigest()
        return replace(data, source=replace(data.source, name="canvases", group=pools, fingerprint=fingerprint))

    def offers(self, stream: Any) -> dict[str, Any]:
        """Offer the pretrained transformer."""
        return {"backbone": pretrained(stream.data.options.pretraining)}


def canvases(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return canvases (n, 1, 16, 16), which of ten digits they show (n, 10), and the pool of each (n,)."""
    images, digits = _digits()
    rng = np.random.default_rng(1)
    pools, members = np.arange(n) % _POOLS, np.array_split(np.arange(_PRETRAINING, len(images)), _POOLS)
    X, Y = np.zeros((n, 1, 16, 16), dtype=np.float32), np.zeros((n, 10), dtype=np.int64)
    for i, pool in enumerate(pools):
        count = rng.integers(1, 4)
        for row, quadrant in zip(rng.choice(members[pool], count, replace=False), rng.permutation(4)):
            X[i, 0, _place(quadrant)[0], _place(quadrant)[1]] = images[row]
            Y[i, digits[row]] = 1
    return np.clip(X + _NOISE * rng.normal(size=X.shape), 0, 1).astype(np.float32), Y, pools


@lru_cache(maxsize=1)
def pretrained(epochs: int) -> Any:
    """Return a transformer of width 64, depth 4 and 16 patches, trained to tell single digits apart."""
    images, digits = (torch.from_numpy(part[:_PRETRAINING]) for part in _digits())
    with isolated(0):
        encoder = small_vit((1, 16, 16), 64, depth=4, heads=4, most=4)
        network = PretrainedVision(encoder, 10)

        def batch(_step: int) -> tuple[torch.Tensor, torch.Tensor]:
            rows = torch.randint(len(images), (64,))
            x = _NOISE * torch.randn(64, 1, 16, 16)
            for i, (row, quadrant) in enumerate(zip(rows.tolist(), torch.randint(4, (64,)).tolist())):
                x[i, 0, _place(quadrant)[0], _place(quadrant)[1]] += images[row]
            return x.clamp(0, 1), digits[rows]

        train(
            network, batch, lambda pair: F.cross_entropy(network(pair[0]), pair[1]),
            steps=epochs * 4 * _PRETRAINING // 64, optimizer=torch.optim.Adam(network.parameters(), 1e-3),
            stage="pretraining",
        )  # fmt: skip
    return encoder.eval()


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    return (bunch.images[order] / 16).astype(np.float32), bunch.target[order]


def _place(quadrant: int) -> tuple[slice, slice]:
    top, left = 8 * (int(quadrant) // 2), 8 * (int(quadrant) % 2)
    return slice(top, top + 8), slice(left, left + 8)
