"""One model along the orbits: how its answers are read, what is measured on them, what is kept, and its failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from anytask.core.checks import as_numbers, check_labels, require_finite_rows
from anytask.evaluate.nero.adapters import Predictor, is_detections
from anytask.evaluate.nero.consensus import Consensus, orbit_consensus
from anytask.evaluate.nero.metrics import NOTHING, TASKS, Detection, Task, as_rows, clean_detections, matched
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

    def read(self, raw: np.ndarray) -> np.ndarray:
        """Return a batch of raw answers in the task's form, or raise :class:`BadOutput`."""
        if self.task == "detection":
            found = []
            for row, one in enumerate(raw):
                try:
                    found.append(clean_detections(one, "the output"))
                except (ValueError, TypeError) as error:
                    raise BadOutput(str(error), row) from error
            return as_rows(found)
        if self.labels:
            columns = raw.reshape(-1, 1) == self.classes
            if not (known := columns.any(axis=1)).all():
                row = int(np.argmin(known))
                raise BadOutput(f"the answer {raw[row]!r} is none of the classes", row)
            return columns.astype(np.float64)
        finite = np.isfinite(raw).reshape(len(raw), -1).all(axis=1)
        if not finite.all():
            raise BadOutput("the output holds NaN or infinite values", int(np.argmin(finite)))
        return softmax(raw, axis=1) if self.logits else raw

    @classmethod
    def settle(cls, raw: np.ndarray, predictor: Predictor, settings: Any, y: Any) -> Reading:
        """Decide from a first batch of answers, the settings of NERO and the labels how to read the answers."""
        known = predictor.classes if settings.classes is None else np.asarray(settings.classes)
        task, boxes = settings.task, is_detections(raw)
        if task == "auto":
            task = _guess(raw, predictor, known, y)
        if boxes != (task == "detection"):
            raise ValueError(
                f"the outputs are detections, and task={task!r}" if boxes else
                "detection outputs are lists of dicts with 'boxes', 'scores' and 'labels'"
            )  # fmt: skip
        if task == "field" and (raw.ndim != 4 or raw.shape[1] != 2):
            raise ValueError(f"vector fields have shape (n, 2, height, width), got {raw.shape}")
        if task != "classification":
            return cls(task)
        if predictor.answers_labels:
            return cls(task, known, False, True)
        if raw.ndim != 2 or raw.shape[1] < 2:
            raise ValueError(f"class outputs have shape (n, classes) with at least 2 classes, got {raw.shape}")
        if known is None:
            known = np.arange(raw.shape[1])
        if len(known) != raw.shape[1]:
            raise ValueError(f"{len(known)} classes are named, and the outputs have {raw.shape[1]} columns")
        return cls(task, known, not are_probabilities(raw) if settings.logits is None else settings.logits)


def _guess(raw: Any, predictor: Predictor, classes: np.ndarray | None, y: Any) -> str:
    if is_detections(raw):
        return "detection"
    if raw.ndim == 4 and raw.shape[1] == 2 and not predictor.answers_labels:
        return "field"
    columns = raw.ndim == 2 and raw.shape[1] > 1 and np.ndim(y) < 2
    told = classes is not None or y is not None
    classes_ = predictor.answers_labels or (columns and (told or are_probabilities(raw)))
    return "classification" if classes_ else "regression"


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
    matches: dict[str, list[dict[str, np.ndarray]]]
    outputs: np.ndarray | None
    truth: np.ndarray | None
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
    truth: np.ndarray | None = None  # the labels in the task's form and the coordinates of what the model sees

    def __post_init__(self) -> None:
        self.distinct = [self.group.elements[k] for k in self.group.distinct]
        self.shape, self.corner = self._canvas()
        self.values: dict[Any, np.ndarray] = {}  # (reference, metric) -> (different elements, n)
        self.agreed: dict[Any, np.ndarray] = {}  # the fields of a Consensus
        self.kept: dict[Any, np.ndarray] = {}  # "outputs", where they are kept
        self.matches: dict[str, list[list[dict[str, np.ndarray]]]] = {}
        self.keeps = self.settings.keep_outputs

    def answers(self, flat: np.ndarray) -> np.ndarray:
        """Call the model on a batch; return its raw outputs, one per input."""
        raw = self.predictor(flat)
        if np.ndim(raw) == 0 or len(raw) != len(flat):
            found = "a single value" if np.ndim(raw) == 0 else f"{len(raw)} outputs"
            raise ValueError(f"{self.name} returned {found} for {len(flat)} inputs")
        return raw

    def take(self, blocks: list[np.ndarray], rows: np.ndarray) -> None:
        """Measure the raw outputs of some samples over the whole orbit (elements first), and remember the values."""
        raw = np.concatenate(blocks)
        if self.reading is None:
            self._settle(raw)
        assert self.reading is not None
        self._measure(self.reading.read(raw), rows)

    def take_alone(self, x: np.ndarray, row: int, per_call: int) -> None:
        """Evaluate one sample by itself; if that fails, note the sample, the first element it fails at, and why."""
        place: int | None = None
        blocks = []
        try:
            for begin in range(0, len(self.distinct), per_call):
                elements = self.distinct[begin : begin + per_call]
                try:
                    blocks.append(self.answers(self.group.orbit(x, elements)[:, 0]))
                except Exception:
                    for k, g in enumerate(elements):
                        place = begin + k
                        self.answers(self.group.phi(g, x))
                    place = None  # none of them by itself: all at once are too much
                    raise
        except Exception as error:
            self._fail(row, place, error)
            return
        try:
            self.take(blocks, np.array([row]))
        except BadOutput as error:
            self._fail(row, error.row, error)

    def _fail(self, row: int, place: int | None, error: Exception) -> None:
        label = "" if place is None else self.group.labels[self.group.distinct[place]]
        text = str(error) if isinstance(error, BadOutput) else f"{type(error).__name__}: {error}"
        self.failures.append(Failure(self.name, row, label, text))
        self.cause = self.cause or error

    # -- the form of the task ---------------------------------------------------------------------------------------

    def _settle(self, raw: np.ndarray) -> None:
        """Decide from the first outputs which task this is, and bring the labels to its form."""
        settings, group = self.settings, self.group
        reading = Reading.settle(raw, self.predictor, settings, self.y)
        task = TASKS[reading.task]
        kind = settings.psi or task.follows
        if kind is None:
            if np.prod(raw.shape[1:]) > 1:
                raise ValueError(
                    f"psi is missing: the outputs have shape {raw.shape[1:]} per sample, and it must be said how "
                    "they follow the inputs: psi='invariant' if they stay, else one of "
                    f"{', '.join(getattr(group, 'kinds', ('invariant',)))}"
                )
            kind = "invariant"
        if isinstance(group, Group):
            group.check_kind(kind)
        elif kind != "invariant":
            raise ValueError(f"psi is missing: {type(group).__name__} has no action on outputs of kind {kind!r}")
        self.task = task(kind, settings.metrics, **{name: getattr(settings, name) for name in task.options})
        if self.y is not None:
            self.truth = self._read_truth(reading, kind, raw.shape[1:])
        self.reading = reading

    def _read_truth(self, reading: Reading, kind: str, output_shape: tuple[int, ...]) -> np.ndarray:
        if reading.task == "classification":
            assert reading.classes is not None
            labels, place = check_labels(self.y).tolist(), {c: k for k, c in enumerate(reading.classes.tolist())}
            unknown = [label for label in labels if label not in place]
            if unknown:
                raise ValueError(
                    f"label {unknown[0]!r} in y is none of the classes of {self.name} "
                    f"({', '.join(map(str, list(place)[:12]))}): pass classes=, in the order of the columns"
                )
            return np.array([place[label] for label in labels])
        if reading.task == "detection":
            if not is_detections(self.y):
                raise ValueError("the labels of detections are a list of dicts with 'boxes' and 'labels'")
            rows = [clean_detections(one, f"y[{i}]", truth=True) for i, one in enumerate(self.y)]
            return as_rows([{**row, "boxes": row["boxes"] - np.array(2 * self.corner, dtype=float)} for row in rows])
        truth = require_finite_rows(np.asarray(as_numbers(self.y, "y"), dtype=np.float64), "y")
        if kind == "positions":
            truth = truth - np.array(self.corner, dtype=float)
        if kind in ("field", "image") and self.corner != (0, 0):
            truth = on_canvas(truth, self.shape, self.corner)
        if truth.shape[1:] != output_shape:
            if truth[0].size != 1 or np.prod(output_shape) != 1:
                raise ValueError(f"y has shape {truth.shape[1:]} per sample, and the outputs have {output_shape}")
            truth = truth.reshape(len(truth), *output_shape)
        return truth

    def _canvas(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Size of the images that the model sees, and where their corner lies in the given ones; (0, 0) for others."""
        if isinstance(self.group, PlanarGroup):
            before = self.group.as_images(np.asarray(self.X[:1])).shape[-2:]
            return self.group.canvas((int(before[0]), int(before[1])))
        shape = self.first.shape[-2:] if self.first.ndim >= 3 else (0, 0)
        return (int(shape[0]), int(shape[1])), (0, 0)

    # -- measuring --------------------------------------------------------------------------------------------------

    def _measure(self, flat: np.ndarray, rows: np.ndarray) -> None:
        task, elements, boxes = self.task, self.distinct, self.task.key == "detection"
        outputs = flat.reshape(len(elements), -1, *flat.shape[1:])
        right: dict[str, Any] = {}
        if self.truth is not None:
            right["truth"] = self.truth[rows]
            if boxes and len(said := {_kind_of_label(one) for one in (*flat, *right["truth"])} - {""}) > 1:
                raise ValueError(f"the labels of boxes are {' and '.join(sorted(said))}: those of {self.name} and of y")
        agreed = None
        if self.settings.consensus and (task.kind == "invariant" or isinstance(self.group, Group)):
            agreed = orbit_consensus(self.group, elements, outputs, task.kind, task.key, self.shape, self.settings.undo)
            right["consensus"] = agreed.labels() if task.key == "classification" else agreed.value
        tables, targets = {}, {}
        for reference, value in right.items():
            moved = targets[reference] = move_targets(self.group, elements, value, task.kind, self.shape)
            for key, values in task.measure(flat, moved.reshape(-1, *moved.shape[2:])).items():
                with np.errstate(over="ignore"):
                    table = tables[reference, key] = values.reshape(len(elements), -1).astype(np.float32)
                if np.isinf(table).any():  # nothing is put anywhere until all of it can be
                    raise BadOutput(f"{key} against the {reference} is infinite", int(np.isinf(table).argmax()))
        for name, values in vars(agreed).items() if agreed else ():
            self._put(self.agreed, name, rows, values)
        for place, table in tables.items():
            self._put(self.values, place, rows, table, axis=1)
        if isinstance(task, Detection) and "map" in task.metrics:
            for reference, moved in targets.items():
                found = self.matches.setdefault(reference, [[] for _ in elements])
                for k, part in enumerate(found):
                    part.append(matched(task, outputs[k], moved[k], rows))
        if self.keeps is None:  # as long as details need not compute them again when they are asked for
            size = sum(64.0 * len(one["scores"]) + 400 for one in flat) if boxes else flat.size * 4
            self.keeps = size / len(rows) * len(self.X) <= _KEPT_BYTES
        if self.keeps:
            self._put(self.kept, "outputs", rows, outputs if boxes else outputs.astype(np.float32), axis=1)

    def _put(self, store: dict[Any, np.ndarray], key: Any, rows: np.ndarray, values: np.ndarray, axis: int = 0) -> None:
        """Put the values of some samples into a table of all; those that failed have NaN, no box, or no outputs."""
        if key not in store:
            shape = (*values.shape[:axis], len(self.X), *values.shape[axis + 1 :])
            blank = np.nan if values.dtype != object else None if axis else NOTHING
            store[key] = np.full(shape, blank, dtype=values.dtype)
        store[key][(slice(None),) * axis + (rows,)] = values

    def part(self) -> ModelPart:
        """Return what the result keeps of this model."""
        assert self.reading is not None
        return ModelPart(
            values=self.values,
            consensus=Consensus(**self.agreed) if self.agreed else None,
            matches={
                ref: [{key: np.concatenate([one[key] for one in parts]) for key in parts[0]} for parts in found]
                for ref, found in self.matches.items()
            },
            outputs=self.kept.get("outputs"), truth=self.truth, reading=self.reading, predictor=self.predictor,
        )  # fmt: skip


# -- outputs ---------------------------------------------------------------------------------------------------------


def _kind_of_label(one: Mapping[str, np.ndarray]) -> str:
    return "" if not len(one["labels"]) else "texts" if one["labels"].dtype.kind == "U" else "numbers"


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
    group: Transforms, elements: Sequence[Any], targets: np.ndarray, kind: str, shape: tuple[int, int]
) -> np.ndarray:
    """Return psi(g, targets) for each element, (m, n, ...); boxes are cut at the border of what the model sees."""
    if kind == "invariant" or not isinstance(group, Group):
        return np.broadcast_to(targets, (len(elements), *targets.shape))
    moved = [group.psi(g, targets, kind, shape) for g in elements]
    if kind == "boxes" and shape != (0, 0):
        moved = [clipped(row, shape) for row in moved]
    return np.stack([as_rows(row) for row in moved] if targets.dtype == object else moved)
