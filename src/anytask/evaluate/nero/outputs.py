"""From what models return to what NERO measures: probabilities, detections, and finite numbers, one row per input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytask.evaluate.nero.adapters import Predictor
from anytask.evaluate.nero.metrics import clean_detections
from anytask.evaluate.parts.transforms import Group, Transforms


class BadOutput(ValueError):
    """An output that cannot be measured, such as NaN; ``row`` is its place in the batch."""

    def __init__(self, message: str, row: int = 0) -> None:
        super().__init__(message)
        self.row = row


class BadCall(ValueError):
    """A fault of the call and not of one sample: it ends the evaluation."""


@dataclass(frozen=True)
class Reading:
    """How to read one model's answers.

    Attributes
    ----------
    task : str
        "classification", "detection", "field" or "regression".
    classes : ndarray or None
        Labels of the columns of class outputs.
    logits : bool
        Whether class outputs go through a softmax.
    labels : bool
        Whether the answers are class labels.
    """

    task: str
    classes: np.ndarray | None = None
    logits: bool = False
    labels: bool = False

    def read(self, raw: Any) -> Any:
        """Return a batch of raw answers in the task's form, or raise :class:`BadOutput`."""
        if self.task == "detection":
            out = []
            for row, one in enumerate(raw):
                try:
                    out.append(clean_detections(one, "the output"))
                except ValueError as error:
                    raise BadOutput(str(error), row) from error
            return out
        outputs = np.asarray(raw)
        if self.labels and self.classes is not None:
            return (outputs.reshape(-1, 1) == self.classes).astype(np.float64)
        if outputs.dtype.kind not in "fiub":
            raise BadOutput(f"the outputs are of type {outputs.dtype}, and numbers are wanted")
        finite = np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
        if not finite.all():
            raise BadOutput("the output holds NaN or infinite values", int(np.argmin(finite)))
        if self.logits:
            shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            return shifted / shifted.sum(axis=1, keepdims=True)
        return outputs

    @classmethod
    def settle(cls, raw: Any, predictor: Predictor, task: str, classes: Any, logits: bool | None, y: Any) -> Reading:
        """Decide from a first batch of answers how to read them; ``task`` may be "auto"."""
        known = predictor.classes if classes is None else np.asarray(classes)
        if task == "auto":
            task = _guess(raw, predictor, known, y)
        if task == "detection" and not isinstance(raw, list):
            raise BadCall("detection outputs are lists of dicts with 'boxes', 'scores' and 'labels'")
        if task != "detection" and isinstance(raw, list):
            raise BadCall(f"the outputs are detections, and task={task!r}")
        if task == "field" and (raw.ndim != 4 or raw.shape[1] != 2):
            raise BadCall(f"vector fields have shape (n, 2, height, width), got {raw.shape}")
        if task != "classification":
            return cls(task)
        if predictor.answers_labels:
            return cls(task, known, False, True)
        if raw.ndim != 2 or raw.shape[1] < 2:
            raise BadCall(f"class outputs have shape (n, classes) with at least 2 classes, got {raw.shape}")
        if known is None:
            known = np.arange(raw.shape[1])
        if len(known) != raw.shape[1]:
            raise BadCall(f"{len(known)} classes are named, and the outputs have {raw.shape[1]} columns")
        return cls(task, known, not are_probabilities(raw) if logits is None else logits, False)


def _guess(raw: Any, predictor: Predictor, classes: np.ndarray | None, y: Any) -> str:
    if isinstance(raw, list):
        return "detection"
    if predictor.answers_labels:
        return "classification"
    if raw.ndim == 4 and raw.shape[1] == 2:
        return "field"
    if raw.ndim == 2 and raw.shape[1] > 1:
        labels = None if y is None else np.asarray(y)
        if labels is not None and (labels.ndim > 1 or labels.dtype.kind not in "iubUSO"):
            return "regression"
        if classes is not None or labels is not None or are_probabilities(raw):
            return "classification"
    return "regression"


def are_probabilities(outputs: np.ndarray) -> bool:
    """Return whether all finite rows are at least 0 and sum to 1.

    Examples
    --------
    >>> are_probabilities(np.array([[0.25, 0.75]])), are_probabilities(np.array([[-1.0, 2.0]]))
    (True, False)
    """
    finite = outputs[np.isfinite(outputs).all(axis=-1)]
    return bool(len(finite) and finite.min() >= -1e-6 and np.abs(finite.sum(axis=-1) - 1).max() < 1e-3)


def clipped(rows: Sequence[Mapping[str, Any]], shape: tuple[int, int]) -> list[dict[str, np.ndarray]]:
    """Cut boxes at the border of an image (height, width), and drop those that lie outside.

    Examples
    --------
    >>> boxes = {"boxes": np.array([[-2.0, 1, 3, 4], [9, 0, 12, 4]]), "labels": np.array([1, 2])}
    >>> clipped([boxes], (8, 8))[0]["boxes"].tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    """
    out = []
    for row in rows:
        boxes = np.clip(row["boxes"], 0, [shape[1], shape[0], shape[1], shape[0]])
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        out.append({key: (boxes if key == "boxes" else np.asarray(value))[inside] for key, value in row.items()})
    return out


def on_canvas(maps: np.ndarray, shape: tuple[int, int], corner: tuple[int, int]) -> np.ndarray:
    """Cut or pad (with zeros) maps (n, ..., height, width) to the part of the images that a model sees."""
    out = np.zeros((*maps.shape[:-2], *shape))
    rows, columns = np.arange(shape[0]) + corner[1], np.arange(shape[1]) + corner[0]
    r = (rows >= 0) & (rows < maps.shape[-2])
    c = (columns >= 0) & (columns < maps.shape[-1])
    out[..., np.flatnonzero(r)[:, None], np.flatnonzero(c)] = maps[..., rows[r][:, None], columns[c]]
    return out


def move_targets(
    group: Transforms, elements: Sequence[Any], targets: Any, kind: str, shape: tuple[int, int]
) -> list[Any]:
    """Return psi(g, targets) for each element; boxes are cut at the border of what the model sees."""
    if kind == "invariant" or not isinstance(group, Group):
        return [targets for _ in elements]
    moved = [group.psi(g, targets, kind, shape) for g in elements]
    return [clipped(row, shape) for row in moved] if kind == "boxes" and shape != (0, 0) else moved
