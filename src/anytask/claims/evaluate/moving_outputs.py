"""The claim's own problem: a consensus of outputs that move with their inputs, with a known right answer.

Two models that are nearly equivariant and wrong in a way that a consensus can mend. The first returns the gradient of a
smooth picture with a fixed bias to one side, on the symmetries of the square; the second returns the box of a bright
rectangle with its corners rounded to a grid of 4 pixels, as a network of stride 4 would, on shifts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter

from anytask.core.rng import derive
from anytask.core.settings import whole
from anytask.evaluate.nero import NERO
from anytask.evaluate.nero.metrics import iou
from anytask.parts.planar_groups import Dihedral, Shifts
from anytask.problems.base import Entrant, Metric, Outcome, Problem
from anytask.problems.options import Options

_SIDE = 24
_BIAS = 0.3


class SingleAnswer:
    """The model's answer to the input as it is, in place of a consensus."""


class MovingOutputsOptions(Options):
    """How many inputs each seed draws."""

    n: int = whole(40, "inputs per seed")


@dataclass(frozen=True)
class MovingOutputsData:
    """The options; the inputs are drawn by each seed."""

    options: MovingOutputsOptions
    name: str = "moving outputs"

    @property
    def fingerprint(self) -> str:
        """Differs with every option that changes what a run sees."""
        return f"moving-outputs-{self.options.n}"

    def describe(self) -> dict[str, Any]:
        """Return facts for the report."""
        return {"source": self.name, "inputs": self.options.n, "side": _SIDE}


class MovingOutputs(Problem):
    """Agree on a vector field and on a box.

    Metrics: ``field_error``, the average endpoint error of the agreed field, relative to the mean length of the true
    vectors; ``box_iou``, the IoU of the agreed box with the true one.
    """

    key: ClassVar[str] = "moving-outputs"
    title: ClassVar[str] = "Consensus of outputs that move"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("field_error", "Relative error of the agreed field", higher_is_better=False),
        Metric("box_iou", "IoU of the agreed box"),
    )
    options_class = MovingOutputsOptions

    def load(self, source: Any, **options: Any) -> MovingOutputsData:
        """Return the size; the inputs are drawn by each seed."""
        return MovingOutputsData(self.check_options(options))

    def baselines(self, data: MovingOutputsData) -> tuple[Entrant, ...]:
        """Return the model's single answer."""
        return (Entrant("single answer", f"{__name__}:SingleAnswer", {}, "baseline"),)

    def run(
        self,
        entrant: Entrant,
        data: MovingOutputsData,
        seed: int,
        progress: Callable[[float], None] | None = None,
    ) -> Outcome:
        """Let one entrant agree on both kinds of output."""
        n = data.options.n
        rng = np.random.default_rng(derive(seed, "moving-outputs"))
        pictures = np.stack([gaussian_filter(rng.normal(size=(_SIDE, _SIDE)), 3) for _ in range(n)])
        pictures /= pictures.std(axis=(1, 2), keepdims=True)
        fields = gradient(pictures)
        rectangles, boxes = np.zeros((n, 2 * _SIDE, 2 * _SIDE)), np.zeros((n, 4))
        for i in range(n):
            x, y = rng.integers(2, 12, 2)
            w, h = rng.integers(7, 15, 2)
            rectangles[i, y : y + h, x : x + w] = 1
            boxes[i] = x, y, x + w, y + h
        if entrant.load() is NERO:
            agreed = entrant.make(group=Dihedral()).evaluate(biased_gradient, pictures).consensus["model"].value
            # Shifts to one side only: those to both sides would cancel in a mean even where they are not undone.
            shifted = entrant.make(group=Shifts(range(0, 13, 2))).evaluate(coarse_boxes, rectangles)
            found = np.array([one["boxes"][0] for one in shifted.consensus["model"].value])
        else:
            agreed = biased_gradient(pictures)
            found = np.array([one["boxes"][0] for one in coarse_boxes(rectangles)])
        lengths = np.hypot(fields[:, 0], fields[:, 1]).mean(axis=(1, 2))
        errors = np.hypot(*np.moveaxis(agreed - fields, 1, 0)).mean(axis=(1, 2)) / lengths
        overlap = [float(iou(a, b)[0, 0]) for a, b in zip(found, boxes)]
        return Outcome({"field_error": float(errors.mean()), "box_iou": float(np.mean(overlap))})


def gradient(pictures: np.ndarray) -> np.ndarray:
    """Return the gradient of pictures (n, height, width) as fields (n, 2, height, width), v upwards."""
    down, right = np.gradient(pictures, axis=(1, 2))
    return np.stack([right, -down], axis=1)


def biased_gradient(pictures: np.ndarray) -> np.ndarray:
    """Return the gradient with a bias to the right, 0.3 of the mean length of the vectors."""
    fields = gradient(pictures)
    length = np.hypot(fields[:, 0], fields[:, 1]).mean(axis=(1, 2))
    fields[:, 0] += _BIAS * length[:, None, None]
    return fields


def coarse_boxes(images: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Return the box of the bright pixels of each image, corners rounded to multiples of 4."""
    out = []
    for image in images:
        rows, columns = np.flatnonzero(image.max(axis=1) > 0.5), np.flatnonzero(image.max(axis=0) > 0.5)
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=float)
        out.append({"boxes": (4 * np.round(box / 4))[None], "scores": np.ones(1), "labels": np.zeros(1, dtype=int)})
    return out
