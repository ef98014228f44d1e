"""One model along the orbits: its answers, how they are read, the values measured on them, and its failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.evaluate.nero.adapters import Predictor, to_numpy
from anytask.evaluate.nero.consensus import Consensus, orbit_consensus
from anytask.evaluate.nero.metrics import TASKS, Detection, Matches, Task, clean_detections
from anytask.evaluate.nero.outputs import BadCall, BadOutput, Reading, move_targets, on_canvas
from anytask.evaluate.nero.records import Failure, ModelPart
from anytask.evaluate.parts.planar_groups import PlanarGroup
from anytask.evaluate.parts.transforms import Group, Transforms

if TYPE_CHECKING:
    from anytask.evaluate.nero import NERO

_KEPT_BYTES = 1 << 28


@dataclass
class ModelRun:
    """What one model has answered so far, and how its answers are read."""

    name: str
    predictor: Predictor
    settings: NERO
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
            labels = np.asarray(self.y)
            place = {label: k for k, label in enumerate(reading.classes.tolist())}
            unknown = [label for label in labels.tolist() if label not in place]
            if unknown:
                raise BadCall(
                    f"label {unknown[0]!r} in y is none of the classes of {self.name} "
                    f"({', '.join(map(str, list(place)[:12]))}): pass classes=, in the order of the columns"
                )
            return np.array([place[label] for label in labels.tolist()])
        if reading.task == "detection":
            rows = [clean_detections(one, f"y[{i}]", truth=True) for i, one in enumerate(self.y)]
            corner = np.array([*self.corner, *self.corner], dtype=float)
            return [{**row, "boxes": row["boxes"] - corner} for row in rows]
        truth = np.asarray(to_numpy(self.y), dtype=np.float64)
        if not np.isfinite(truth).all():
            raise BadCall("y holds NaN or infinite values")
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
