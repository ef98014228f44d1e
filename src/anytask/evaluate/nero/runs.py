"""One model along the orbits: how its answers are read, what is measured on them, what is kept, and its failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.core.checks import check_labels
from anytask.evaluate.nero.adapters import Predictor, to_numpy
from anytask.evaluate.nero.consensus import Consensus, orbit_consensus
from anytask.evaluate.nero.metrics import TASKS, Detection, Matches, Task, clean_detections
from anytask.parts.planar_groups import PlanarGroup
from anytask.parts.transforms import Group, Transforms

if TYPE_CHECKING:
    import pandas as pd

_KEPT_BYTES = 1 << 28


class BadOutput(ValueError):
    """An output that cannot be measured, such as NaN; ``row`` is its place in the batch."""

    def __init__(self, message: str, row: int = 0) -> None:
        super().__init__(message)
        self.row = row


class BadCall(ValueError):
    """A fault of the call and not of one sample: it ends the evaluation."""


# -- records --------------------------------------------------------------------------------------------------------


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
        if np.ndim(y) > 1:
            return "regression"
        if classes is not None or y is not None or are_probabilities(raw):
            return "classification"
    return "regression"


@dataclass(frozen=True)
class Failure:
    """A sample that a model could not be evaluated on, the first element it failed at ("" if unknown), and why."""

    model: str
    sample: int
    element: str
    error: str


@dataclass
class ModelPart:
    """What is kept of one model: values (different elements, n), consensus, matches, outputs, truth, how to read it."""

    values: dict[tuple[str, str], np.ndarray]
    consensus: Consensus | None
    matches: dict[str, list[Matches]]
    outputs: Any
    truth: Any
    reading: Reading
    predictor: Predictor | None


@dataclass(frozen=True)
class SampleOrbit:
    """One sample along its orbit.

    Attributes
    ----------
    sample : int
        Its index.
    label : object
        Its true label, or None.
    values : dict
        Metric -> array of shape (models, m), for the reference of the call.
    summary : pandas.DataFrame
        Per model: mean, std, worst, gap, residual, agreement, consensus.
    """

    sample: int
    label: Any
    values: dict[str, np.ndarray]
    summary: pd.DataFrame


@dataclass(frozen=True)
class ElementView:
    """All samples under one element.

    Attributes
    ----------
    index : int
        Index of the element.
    label : str
        How to call it.
    values : dict
        Metric -> array of shape (models, n).
    """

    index: int
    label: str
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Detail:
    """One sample under one element: what the models saw, what they answered, and what was right.

    Attributes
    ----------
    sample, element : int
        Indices.
    label : str
        How to call the element.
    input : ndarray
        phi(g, x_i).
    outputs : dict
        Model -> O[g, i]: probabilities (C,), a detections dict, a field (2, height, width), or numbers.
    truth : object
        psi(g, y_i) in the form of the outputs (a class label for classes), or None.
    consensus : dict
        Model -> psi(g, c_i) (a class label for classes); empty without consensus.
    maps : dict
        For vector fields: model -> metric -> error of each pixel (height, width), against truth if there is one.
    """

    sample: int
    element: int
    label: str
    input: np.ndarray
    outputs: dict[str, Any]
    truth: Any
    consensus: dict[str, Any]
    maps: dict[str, dict[str, np.ndarray]]


# -- a run -----------------------------------------------------------------------------------------------------------


@dataclass
class ModelRun:
    """What one model has answered so far, and how its answers are read."""

    name: str
    predictor: Predictor
    settings: Any  # the NERO
    group: Transforms
    X: Any
    y: Any
    first: np.ndarray  # the first transformed input: what the model sees
    failures: list[Failure] = field(default_factory=list)
    cause: Exception | None = None
    task: Task = field(init=False)
    reading: Reading | None = None
    truth: Any = None  # the labels in the task's form and the coordinates of what the model sees

    def __post_init__(self) -> None:
        self.n, self.distinct = len(self.X), [self.group.elements[k] for k in self.group.distinct]
        self.shape, self.corner = self._canvas()
        self.values: dict[tuple[str, str], np.ndarray] = {}  # (reference, metric) -> (different elements, n)
        self.agreed: list[tuple[np.ndarray, Consensus]] = []
        self.matches: dict[str, list[list[Matches]]] = {}
        self.kept: Any = None
        self.keeps = self.settings.keep_outputs is not False

    def answers(self, flat: np.ndarray) -> Any:
        """Call the model on a batch; return its raw outputs, one per input."""
        raw = to_numpy(self.predictor(flat))
        if np.ndim(raw) == 0 or len(raw) != len(flat):
            found = "a single value" if np.ndim(raw) == 0 else f"{len(raw)} outputs"
            raise ValueError(f"{self.name} returned {found} for {len(flat)} inputs")
        return raw

    def take(self, blocks: list[Any], rows: np.ndarray) -> None:
        """Measure the raw outputs of some samples over the whole orbit (elements first), and remember the values."""
        raw = [one for block in blocks for one in block] if isinstance(blocks[0], list) else np.concatenate(blocks)
        if self.reading is None:
            self._settle(raw)
        assert self.reading is not None
        flat = self.reading.read(raw)
        self._measure(flat, _by_element(flat, len(self.distinct)), rows)

    def take_alone(self, x: np.ndarray, row: int, per_call: int) -> None:
        """Evaluate one sample by itself; if that fails, note the sample, the element and the error."""
        blocks = []
        for begin in range(0, len(self.distinct), per_call):
            elements = self.distinct[begin : begin + per_call]
            moved = self.group.orbit(x, elements)
            try:
                blocks.append(self.answers(moved.reshape(-1, *moved.shape[2:])))
            except Exception as error:
                self._fail(row, *self._blame(x, begin, elements, error))
                return
        try:
            self.take(blocks, np.array([row]))
        except BadOutput as error:
            self._fail(row, error.row, error)

    def _blame(self, x: np.ndarray, begin: int, elements: list[Any], error: Exception) -> tuple[int | None, Exception]:
        """Find the first element on which the model fails; it may be none, when only the whole batch is too much."""
        for k, g in enumerate(elements):
            try:
                self.answers(self.group.phi(g, x))
            except Exception as own:
                return begin + k, own
        return None, error

    def _fail(self, row: int, place: int | None, error: Exception) -> None:
        label = "" if place is None else self.group.labels[self.group.distinct[place]]
        text = str(error) if isinstance(error, BadOutput) else f"{type(error).__name__}: {error}"
        self.failures.append(Failure(self.name, row, label, text))
        self.cause = self.cause or error

    # -- the form of the task ---------------------------------------------------------------------------------------

    def _settle(self, raw: Any) -> None:
        """Decide from the first outputs which task this is, and bring the labels to its form."""
        s = self.settings
        reading = Reading.settle(raw, self.predictor, s.task, s.classes, s.logits, self.y)
        kind = s.psi or {"classification": "invariant", "detection": "boxes", "field": "field"}.get(reading.task)
        if kind is None:
            if np.ndim(raw) > 1 and np.prod(np.shape(raw)[1:]) > 1:
                raise BadCall(
                    f"psi is missing: the outputs have shape {np.shape(raw)[1:]} per sample, and it must be said how "
                    "they follow the inputs: psi='invariant' if they stay, else one of "
                    f"{', '.join(getattr(self.group, 'kinds', ('invariant',)))}"
                )
            kind = "invariant"
        if kind != "invariant":
            if not isinstance(self.group, Group):
                raise BadCall(f"psi is missing: {type(self.group).__name__} has no action on outputs of kind {kind!r}")
            self.group.check_kind(kind)
        if self.y is None and kind != "invariant" and not isinstance(self.group, Group):
            raise BadCall(f"there are no labels, and {type(self.group).__name__} has no inverse for a consensus")
        if reading.task == "detection":
            self.task = Detection(
                kind, s.metrics, iou_threshold=s.iou_threshold, score_threshold=s.score_threshold,
                pixel_offset=s.pixel_offset,
            )  # fmt: skip
        else:
            self.task = TASKS[reading.task](kind, s.metrics)
        if self.y is not None:
            self.truth = self._read_truth(reading, kind, np.shape(raw)[1:] if not isinstance(raw, list) else ())
        self.reading = reading

    def _read_truth(self, reading: Reading, kind: str, output_shape: tuple[int, ...]) -> Any:
        if reading.task == "classification":
            assert reading.classes is not None
            labels, place = check_labels(self.y).tolist(), {c: k for k, c in enumerate(reading.classes.tolist())}
            unknown = [label for label in labels if label not in place]
            if unknown:
                raise BadCall(
                    f"label {unknown[0]!r} in y is none of the classes of {self.name} "
                    f"({', '.join(map(str, list(place)[:12]))}): pass classes=, in the order of the columns"
                )
            return np.array([place[label] for label in labels])
        if reading.task == "detection":
            if not isinstance(self.y, list):
                raise BadCall("the labels of detections are a list of dicts with 'boxes' and 'labels'")
            rows = [clean_detections(one, f"y[{i}]", truth=True) for i, one in enumerate(self.y)]
            corner = np.array([*self.corner, *self.corner], dtype=float)
            return [{**row, "boxes": row["boxes"] - corner} for row in rows]
        if isinstance(self.y, list) or self.y.dtype.kind not in "fiub":
            raise BadCall(f"y must hold numbers for {reading.task}, as the outputs of {self.name} do")
        truth = np.asarray(self.y, dtype=np.float64)
        check_finite(truth, "y")
        if kind == "positions":
            truth = truth - np.array(self.corner, dtype=float)
        if kind in ("field", "image") and self.corner != (0, 0):
            truth = on_canvas(truth, self.shape, self.corner)
        if truth.shape[1:] != output_shape:
            if truth[0].size != 1 or np.prod(output_shape) != 1:
                raise BadCall(f"y has shape {truth.shape[1:]} per sample, and the outputs have {output_shape}")
            truth = truth.reshape(len(truth), *output_shape)
        return truth

    def _canvas(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Size of the images that the model sees, and where their corner lies in the given ones; (0, 0) for others."""
        if isinstance(self.group, PlanarGroup):
            before = self.group.as_images(np.asarray(self.X[:1])).shape[-2:]
            return self.group.canvas((int(before[0]), int(before[1])))
        if self.first.ndim >= 3:
            return (int(self.first.shape[-2]), int(self.first.shape[-1])), (0, 0)
        return (0, 0), (0, 0)

    # -- measuring --------------------------------------------------------------------------------------------------

    def _measure(self, flat: Any, outputs: Any, rows: np.ndarray) -> None:
        task, elements = self.task, self.distinct
        references: dict[str, list[Any]] = {}
        if self.truth is not None:
            mine = [self.truth[r] for r in rows] if isinstance(self.truth, list) else self.truth[rows]
            references["truth"] = move_targets(self.group, elements, mine, task.kind, self.shape)
        if self.settings.consensus and (task.kind == "invariant" or isinstance(self.group, Group)):
            agreed = orbit_consensus(self.group, elements, outputs, task.kind, task.key, self.shape, self.settings.undo)
            self.agreed.append((rows, agreed))
            value = agreed.labels() if task.key == "classification" else agreed.value
            references["consensus"] = move_targets(self.group, elements, value, task.kind, self.shape)
        for reference, targets in references.items():
            together = [t for row in targets for t in row] if task.key == "detection" else np.concatenate(targets)
            for key, values in task.measure(flat, together).items():
                table = self.values.setdefault(
                    (reference, key), np.full((len(elements), self.n), np.nan, dtype=np.float32)
                )
                table[:, rows] = values.reshape(len(elements), len(rows))
            if isinstance(task, Detection) and "map" in task.metrics:
                found = self.matches.setdefault(reference, [[] for _ in elements])
                for k in range(len(elements)):
                    found[k].append(Matches.of(task, outputs[k], targets[k], rows))
        if self.keeps:
            self._keep(outputs, rows)

    def _keep(self, outputs: Any, rows: np.ndarray) -> None:
        listed = isinstance(outputs, list)
        if self.kept is None:
            boxes = sum(len(one["scores"]) for row in outputs for one in row) if listed else 0
            size = 64.0 * boxes + 400 * len(rows) * len(outputs) if listed else outputs.size * 4
            if self.settings.keep_outputs is None and size / len(rows) * self.n > _KEPT_BYTES:
                self.keeps = False  # too large: details compute them again when they are asked for
                return
            if listed:
                self.kept = [[None] * self.n for _ in outputs]
            else:
                self.kept = np.full((len(outputs), self.n, *outputs.shape[2:]), np.nan, dtype=np.float32)
        if not listed:
            self.kept[:, rows] = outputs
            return
        for k, row in enumerate(outputs):
            for j, one in zip(rows, row):
                self.kept[k][j] = one

    def part(self) -> ModelPart:
        """Return what the result keeps of this model."""
        consensus = None
        if self.agreed:
            consensus = Consensus.scattered([a for _, a in self.agreed], [r for r, _ in self.agreed], self.n)
        matches = {ref: [Matches.joined(parts) for parts in found] for ref, found in self.matches.items()}
        assert self.reading is not None
        return ModelPart(self.values, consensus, matches, self.kept, self.truth, self.reading, self.predictor)


def _by_element(flat: Any, m: int) -> Any:
    """(elements x samples, ...) as (elements, samples, ...), or a list of lists."""
    if isinstance(flat, list):
        n = len(flat) // m
        return [flat[k : k + n] for k in range(0, len(flat), n)]
    return flat.reshape(m, -1, *flat.shape[1:])


# -- outputs ---------------------------------------------------------------------------------------------------------


def check_finite(values: np.ndarray, name: str, first: int = 0) -> None:
    """Raise a ``ValueError`` that names the first row with a NaN or an infinite value; rows count from ``first``."""
    if values.dtype.kind == "f" and not (good := np.isfinite(values)).all():
        row = first + int(np.argmin(good.reshape(len(good), -1).all(axis=1)))
        raise ValueError(f"{name} contains NaN or infinity in row {row}: only finite values are accepted")


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
