"""Digits anywhere on a larger canvas, which no linear model and no distance of pixels reads well."""

from __future__ import annotations

from typing import Any

import numpy as np

from anytask.datasets.labelled import load_labelled
from anytask.problems.few_labels import FewLabels


class Scattered(FewLabels):
    """Name the digit on a canvas, from few labels and many canvases without.

    Parameters
    ----------
    margin : float
        By how much the canvas is larger, as a share of the digit's side.
    """

    key = "scattered"

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__()
        self.margin = margin

    def load(self, source: Any, **options: Any) -> Any:
        """Return canvases of the images of a labelled data set, the same for every seed, with checked options."""
        plain = load_labelled(source)
        images = np.asarray(plain.X[np.arange(len(plain.y))], dtype=np.float32)  # (n, 1, side, side)
        side = images.shape[-1]
        wide = round(side * (1 + self.margin))
        X = np.zeros((len(images), 1, wide, wide), dtype=np.float32)
        places = np.random.default_rng(0).integers(0, wide - side + 1, (len(images), 2))
        for canvas, image, (top, left) in zip(X, images, places):
            canvas[:, top : top + side, left : left + side] = image
        return super().load((X, plain.y), **options)
