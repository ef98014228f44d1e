"""What NERO measures: per-sample metrics of classes, detections, vector fields and numbers, and mAP over a set.

Each kind of task is one small class with ``measure(outputs, targets)``: a batch of outputs and of targets in, a value
per row and metric out. Targets have already been moved by psi where the task's outputs move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from anytask.core.checks import check_labels


@dataclass(frozen=True)
class NeroMetric:
    """One quantity e(output, target).

    Attributes
    ----------
    key, label : str
        Name in code, and in figures.
    higher_is_better : bool
        Which way is better: False for losses and errors.
    limits : tuple of float or None
        Range of its values, if it has one.
    of : callable, optional
        ``of(outputs, targets) -> (n,)`` for metrics of your own; outputs and targets are batches. NaN stands for a
        value that is undefined, and takes no part in averages; an infinite one makes the sample a failure.
    """

    key: str
    label: str
    higher_is_better: bool = True
    limits: tuple[float, float] | None = (0.0, 1.0)
    of: Callable[[Any, Any], np.ndarray] | None = field(default=None, compare=False)


def _error(key: str, label: str) -> NeroMetric:
    return NeroMetric(key, label, higher_is_better=False, limits=None)


class Task:
    """A kind of output with its metrics.

    Parameters
    ----------
    kind : str
        The kind of output that psi is asked for, as in :class:`anytask.parts.transforms.Group`.
    metrics : sequence of str or NeroMetric, or dict of name -> function, optional
        What is measured, the first by default; None: all that the task knows.

    Attributes
    ----------
    key : str
        Name of the kind of task.
    follows : str or None
        How its outputs follow the input where nothing else is said.
    options : dict
        What else can be set, and its defaults.
    metrics : dict of NeroMetric
        What is measured, by key.
    """

    key: ClassVar[str]
    follows: ClassVar[str | None] = None
    options: ClassVar[Mapping[str, Any]] = {}
    known: ClassVar[tuple[NeroMetric, ...]]

    def __init__(
        self, kind: str, metrics: Sequence[Any] | Mapping[str, Callable] | None = None, **options: Any
    ) -> None:
        vars(self).update({**self.options, **options})
        table = {metric.key: metric for metric in self.known}
        if isinstance(metrics, Mapping):
            metrics = [NeroMetric(key, key, limits=None, of=function) for key, function in metrics.items()]
        self.kind, self.metrics = kind, {}
        for wanted in table if metrics is None else [metrics] if isinstance(metrics, str) else metrics:
            metric = wanted if isinstance(wanted, NeroMetric) else table.get(wanted)
            if metric is None:
                raise ValueError(f"{self.key} has no metric {wanted!r}; its metrics: {', '.join(table)}")
            if metric.of is None and metric.key not in table:
                raise ValueError(f"metric {metric.key!r} needs a function: NeroMetric(..., of=function)")
            self.metrics[metric.key] = metric
        if not self.metrics:
            raise ValueError(f"no metric was chosen; {self.key} has {', '.join(table)}")

    def measure(self, outputs: Any, targets: Any) -> dict[str, np.ndarray]:
        """Return each metric of each row."""
        values = self._measure(outputs, targets)
        for metric in self.metrics.values():
            if metric.of is not None:
                own = np.asarray(metric.of(outputs, targets), dtype=float)
                if own.shape != (len(outputs),):
                    raise ValueError(f"metric {metric.key!r} must give {len(outputs)} values, got shape {own.shape}")
                values[metric.key] = own
        return {key: values[key] for key in self.metrics}

    def _measure(self, outputs: Any, targets: Any) -> dict[str, np.ndarray]:
        raise NotImplementedError


class Classification(Task):
    """Class probabilities (n, C) against codes (n,): the true class's probability, correctness, and log loss."""

    key = "classification"
    follows = "invariant"
    known = (
        NeroMetric("confidence", "confidence in the reference class"),
        NeroMetric("correctness", "accuracy"),
        _error("loss", "log loss"),
    )

    def _measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        confidence = outputs[np.arange(len(outputs)), targets]
        return {
            "confidence": confidence,
            "correctness": (outputs.argmax(axis=1) == targets).astype(float),
            "loss": -np.log(np.maximum(confidence, np.finfo(np.float32).tiny)),
        }


class Fields(Task):
    """Vector fields (n, 2, height, width) against fields: errors averaged over pixels."""

    key = "field"
    follows = "field"
    known = (
        _error("rmse", "root mean squared error"),
        _error("mse", "mean squared error"),
        _error("mae", "mean absolute error"),
        _error("aee", "average endpoint error"),
    )

    def _measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        values = {key: error.mean(axis=(1, 2)) for key, error in error_maps(outputs, targets).items()}
        return values | {"rmse": np.sqrt(values["mse"])}


class Regression(Task):
    """Numbers (n,) or arrays (n, ...) against the same: errors averaged over all entries of an output."""

    key = "regression"
    known = (
        _error("mae", "mean absolute error"),
        _error("mse", "mean squared error"),
        _error("rmse", "root mean squared error"),
    )

    def _measure(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        difference = (outputs - targets).reshape(len(outputs), -1)
        mse = (difference**2).mean(axis=1)
        return {"mae": np.abs(difference).mean(axis=1), "mse": mse, "rmse": np.sqrt(mse)}


class Detection(Task):
    """Detections against true boxes.

    A prediction and a true box of its label may match when their IoU reaches ``iou_threshold``; predictions choose in
    the order of their scores, and every true box is taken once. Confidence and IoU are those of the prediction of the
    right label that overlaps a true box most, averaged over the true boxes, 0 where there is none.

    Parameters
    ----------
    iou_threshold : float, default 0.5
        Least IoU of a match.
    score_threshold : float, default 0.5
        Least score of the predictions that precision, recall and F count.
    pixel_offset : {0, 1}, default 0
        1 measures sides as x2 - x1 + 1, as if corners named pixels.
    """

    key = "detection"
    follows = "boxes"
    options: ClassVar = {"iou_threshold": 0.5, "score_threshold": 0.5, "pixel_offset": 0}
    iou_threshold: float
    score_threshold: float
    pixel_offset: int
    known = (
        NeroMetric("conf_iou", "confidence x IoU"),
        NeroMetric("confidence", "confidence"),
        NeroMetric("iou", "IoU"),
        NeroMetric("precision", "precision"),
        NeroMetric("recall", "recall"),
        NeroMetric("f1", "F score"),
        NeroMetric("map", "mAP"),
    )

    def _measure(self, outputs: Sequence[Mapping], targets: Sequence[Mapping]) -> dict[str, np.ndarray]:
        rows = [self._row(output, target) for output, target in zip(outputs, targets)]
        return {metric.key: np.array([row[metric.key] for row in rows], dtype=float) for metric in self.known}

    def _row(self, output: Mapping, target: Mapping) -> dict[str, float]:
        matches, counted = self.matches(output, target), output["scores"] >= self.score_threshold
        labels, totals = np.unique(target["labels"], return_counts=True)
        if not len(labels):  # nothing to find: any prediction is a false one
            return dict.fromkeys((m.key for m in self.known), np.nan) | {"precision": 0.0 if counted.any() else np.nan}
        overlap = iou(output["boxes"], target["boxes"], self.pixel_offset)  # (predictions, truths)
        overlap = np.where(output["labels"][:, None] == target["labels"], overlap, 0.0)
        best_iou = overlap.max(axis=0, initial=0.0)
        best = np.where(best_iou > 0, output["scores"][overlap.argmax(axis=0)], 0.0) if len(overlap) else best_iou
        hits = int(matches[counted].sum())
        precision, recall = hits / max(counted.sum(), 1), hits / totals.sum()
        area = mean_average_precision(output["scores"], matches, output["labels"], dict(zip(labels, totals)))
        return {
            "conf_iou": (best * best_iou).mean(), "confidence": best.mean(), "iou": best_iou.mean(),
            "precision": precision, "recall": recall, "map": area,
            "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        }  # fmt: skip

    def matches(self, output: Mapping, target: Mapping) -> np.ndarray:
        """Return for each prediction whether it finds a true box that no prediction of a higher score found."""
        overlap = iou(output["boxes"], target["boxes"], self.pixel_offset)
        hit = np.zeros(len(overlap), dtype=bool)
        free = np.ones(len(target["labels"]), dtype=bool)
        for p in np.argsort(-output["scores"], kind="stable"):
            candidates = np.where(free & (target["labels"] == output["labels"][p]), overlap[p], -1.0)
            best = int(candidates.argmax()) if len(candidates) else -1
            if best >= 0 and candidates[best] >= self.iou_threshold:
                hit[p], free[best] = True, False
        return hit


def matched(task: Detection, outputs: Sequence[Mapping], targets: Sequence[Mapping], rows: Any) -> dict[str, Any]:
    """Return the predictions and true boxes of images with these row numbers: what mAP of any of them needs."""
    return {
        "row": np.repeat(rows, [len(o["scores"]) for o in outputs]),
        "score": np.concatenate([o["scores"] for o in outputs]),
        "hit": np.concatenate([task.matches(o, t) for o, t in zip(outputs, targets)]),
        "label": np.concatenate([o["labels"] for o in outputs]),
        "true_row": np.repeat(rows, [len(t["labels"]) for t in targets]),
        "true_label": np.concatenate([t["labels"] for t in targets]),
    }


def map_of(matches: Mapping[str, np.ndarray], rows: Any) -> float:
    """Return mAP over the images with these row numbers, from what :func:`matched` returned."""
    mine, true = np.isin(matches["row"], rows), np.isin(matches["true_row"], rows)
    counts = dict(zip(*np.unique(matches["true_label"][true], return_counts=True)))
    score, hit, label = (matches[key][mine] for key in ("score", "hit", "label"))
    return mean_average_precision(score, hit, label, counts)


def mean_average_precision(scores: np.ndarray, hits: np.ndarray, labels: np.ndarray, n_true: Mapping) -> float:
    """Return the mean over classes of the area under the precision-recall curve, NaN without any true box.

    The precision at a recall is the best at that recall or more, and the area is exact.

    Parameters
    ----------
    scores, hits, labels : arrays of shape (predictions,)
        Score, whether it found a true box, and label of each prediction of the set.
    n_true : mapping
        Label -> number of true boxes.

    Examples
    --------
    Two boxes to find; the second-best prediction is wrong: precision 1 up to recall 1/2, then 2/3.

    >>> labels = np.zeros(3, int)
    >>> round(mean_average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), labels, {0: 2}), 4)
    0.8333
    """
    areas = []
    for label, total in n_true.items():
        mine = labels == label
        order = np.argsort(-scores[mine], kind="stable")
        hit = hits[mine][order].astype(float)
        precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        areas.append(float((envelope * hit).sum() / total))
    return float(np.mean(areas)) if areas else float("nan")


def iou(a: np.ndarray, b: np.ndarray, pixel_offset: int = 0) -> np.ndarray:
    """Return the overlap of boxes over their union, shape (len(a), len(b)); boxes are x1, y1, x2, y2.

    Examples
    --------
    >>> iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2]])).round(4).tolist()
    [[0.3333]]
    """
    a, b = np.asarray(a, float).reshape(-1, 1, 4), np.asarray(b, float).reshape(1, -1, 4)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    inter = np.maximum(high - low + pixel_offset, 0).prod(axis=-1)
    sizes = [np.maximum(box[..., 2:] - box[..., :2] + pixel_offset, 0).prod(axis=-1) for box in (a, b)]
    union = sizes[0] + sizes[1] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def error_maps(outputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Return the error of each pixel of vector fields (n, 2, height, width) as maps (n, height, width).

    "mse" and "mae" average over the two components, "rmse" is the root of "mse", "aee" the length of the difference.
    """
    difference = outputs - targets
    squared = (difference**2).mean(axis=1)
    return {
        "rmse": np.sqrt(squared),
        "mse": squared,
        "mae": np.abs(difference).mean(axis=1),
        "aee": np.sqrt((difference**2).sum(axis=1)),
    }


#: The detections of an image on which there are none.
NOTHING: Mapping[str, np.ndarray] = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, np.int64)}


def as_rows(detections: Sequence[Any]) -> np.ndarray:
    """Return detections as an array of objects, one per image, so that all outputs are indexed alike."""
    rows = np.empty(len(detections), dtype=object)
    rows[:] = detections
    return rows


def pack_detections(rows: Any) -> dict[str, np.ndarray]:
    """Return the detections of many images as four arrays, for saving; None is left out."""
    found = [row for row in rows if row is not None]
    packed = {key: np.concatenate([empty, *(row[key] for row in found)]) for key, empty in NOTHING.items()}
    return packed | {"counts": np.array([len(row["labels"]) for row in found], dtype=np.int64)}


def unpack_detections(packed: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what :func:`pack_detections` packed."""
    ends = np.cumsum(packed["counts"])[:-1]
    columns = [np.split(packed[key], ends) if len(packed["counts"]) else [] for key in NOTHING]
    return as_rows([dict(zip(NOTHING, values)) for values in zip(*columns)])


def clean_detections(one: Any, where: str, *, truth: bool = False) -> dict[str, np.ndarray]:
    """Return one image's detections as arrays "boxes" (k, 4), "scores" (k,), "labels" (k,), or raise ``ValueError``.

    Truth needs no scores, and neither needs labels if there is one class only (they become 0).
    """
    if not isinstance(one, Mapping) or "boxes" not in one:
        raise ValueError(f"{where}: detections are dicts with 'boxes', 'scores' and 'labels', got {type(one).__name__}")
    boxes = np.asarray(one["boxes"], dtype=float)
    if boxes.size and boxes.shape[-1] != 4:
        raise ValueError(f"{where}: boxes are x1, y1, x2, y2, shape (k, 4), got shape {boxes.shape}")
    boxes = boxes.reshape(-1, 4)
    scores = np.asarray(one.get("scores", np.ones(len(boxes))), dtype=float).reshape(-1)
    labels = np.asarray(one.get("labels", np.zeros(len(boxes), dtype=np.int64))).reshape(-1)
    if not len(boxes) == len(scores) == len(labels):
        raise ValueError(f"{where}: {len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels do not match")
    labels = check_labels(labels, f"{where}: labels") if len(labels) else NOTHING["labels"]
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"{where}: the {'true boxes hold' if truth else 'output holds'} NaN or infinite values")
    if (turned := (boxes[:, 2:] < boxes[:, :2]).any(axis=1)).any():
        k = int(turned.argmax())
        raise ValueError(f"{where}: box {k} ends before it begins (x1, y1, x2, y2 = {boxes[k].tolist()})")
    return {"boxes": boxes, "scores": scores, "labels": labels}


TASKS: dict[str, type[Task]] = {t.key: t for t in (Classification, Detection, Fields, Regression)}
