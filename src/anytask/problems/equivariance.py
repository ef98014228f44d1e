"""Equivariance: classifiers of images, tested on the images as they are and on all that they look like when moved."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.datasets.labelled import LabelledData, load_labelled
from anytask.problems.base import Entrant, Metric, Outcome, Problem

if TYPE_CHECKING:
    from anytask.evaluate.parts.transforms import Group

GROUPS = ("rotations", "shifts", "flips", "d4")
_BASELINES = "anytask.evaluate.baselines"


@dataclass(frozen=True)
class EquivarianceData:
    """Labelled images and the checked options.

    Examples
    --------
    >>> data = Equivariance().load("digits", start=-40, stop=40, step=8)
    >>> data.group().labels[:3], len(data.split(seed=0)[1])
    (('-40°', '-32°', '-24°'), 450)
    """

    labelled: LabelledData
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.labelled.name

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of every option."""
        content = json.dumps([self.labelled.fingerprint, dict(self.options)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def describe(self) -> dict[str, Any]:
        """Return facts for the report."""
        classes, counts = np.unique(self.labelled.y, return_counts=True)
        return {
            "source": self.name,
            "examples": len(self.labelled.y),
            "image_shape": list(self.image_shape),
            "classes": {str(c): int(n) for c, n in zip(classes.tolist(), counts)},
            "elements": len(self.group()),
            "options": dict(self.options),
            "notes": list(self.labelled.notes),
            "fingerprint": self.fingerprint,
        }

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        given = self.options["image_shape"]
        return tuple(given) if given is not None else self.labelled.input_shape

    def group(self) -> Group:
        """Return the group whose orbits are evaluated."""
        return group_of(self.options)

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train and to test on; every class is in both, and the split depends on the seed alone."""
        from sklearn.model_selection import train_test_split

        rows = np.arange(len(self.labelled.y))
        most = self.options["max_per_class"]
        if most is not None:
            rng = np.random.default_rng(derive(seed, "equivariance", "rows"))
            y = self.labelled.y
            rows = np.sort(np.concatenate([rng.permutation(rows[y == c])[:most] for c in np.unique(y)]))
        train, test = train_test_split(
            rows, test_size=self.options["test_size"], stratify=self.labelled.y[rows],
            random_state=derive(seed, "equivariance", "split") % 2**32,
        )  # fmt: skip
        return np.sort(train), np.sort(test)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Return these images, float32 (n, \\*image_shape)."""
        return np.asarray(self.labelled.X[rows], dtype=np.float32).reshape(len(rows), *self.image_shape)


class Equivariance(Problem):
    """Classify images that may come turned, shifted or mirrored.

    Every entrant learns from the training images and may know the group. Test images are shown as they are, and under
    all elements of the group; :class:`~anytask.evaluate.nero.NERO` measures the orbits. An evaluator among the entrants
    (NERO itself) trains the baselines on most of the training images, and hands in the one that it finds best on the
    rest; "chosen by accuracy" does the same by accuracy alone.

    Your own data: ``digits``, a folder with one subfolder of images per class, or an ``.npz`` file with ``X``
    (n, height, width) or (n, channels, height, width) and ``y``; flat rows with ``image_shape``.

    Metrics
    -------
    * ``orbit_accuracy``: accuracy over all test images under all elements (ranks);
    * ``accuracy``: on the images as they are; ``worst_accuracy``: under the worst element; ``gap``: best minus worst;
    * ``confidence_spread``: standard deviation of the true class's probability along the orbit of an image, averaged;
    * ``consensus_correct``: share of images whose consensus class, found without labels, is right;
    * ``agreement``: share of the orbit that is for the consensus;
    * ``consensus_correlation``: correlation, over the elements, of the mean probability of the consensus class with
      that of the true class; NaN where either is flat;
    * ``quarter_turn_gap``: largest change of the true class's probability under quarter turns, over all test images and
      elements; for rotations that contain the quarter turns of their elements.

    Examples
    --------
    >>> problem = Equivariance()
    >>> data = problem.load("digits", group="d4", max_per_class=20)
    >>> entrant = Entrant("linear", "anytask.evaluate.baselines:LinearClassifier")
    >>> outcome = problem.run(entrant, data, seed=0)
    >>> outcome.metrics["accuracy"] > outcome.metrics["orbit_accuracy"] + 0.3
    True
    """

    key: ClassVar[str] = "equivariance"
    title: ClassVar[str] = "Images that come turned or moved"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("orbit_accuracy", "Mean accuracy over the orbit"),
        Metric("accuracy", "Accuracy at the identity"),
        Metric("worst_accuracy", "Accuracy under the worst element"),
        Metric("gap", "Gap between best and worst element", higher_is_better=False),
        Metric("confidence_spread", "Spread of the true class's probability along an orbit", higher_is_better=False),
        Metric("consensus_correct", "Share of right consensus classes"),
        Metric("agreement", "Self-agreement of the consensus"),
        Metric("consensus_correlation", "Correlation of consensus and true curve"),
        Metric("quarter_turn_gap", "Largest change under quarter turns", higher_is_better=False),
    )
    options: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "group": ("rotations", "what the images undergo: rotations, shifts, flips or d4"),
        "start": (None, "first angle in degrees (default 0) or shift in pixels (default -2)"),
        "stop": (None, "last angle (default: 360 - step) or shift (default 2)"),
        "step": (None, "degrees (default 15) or pixels (default 1) between elements"),
        "test_size": (0.25, "share of each class that is kept for testing, above 0 and below 1"),
        "max_per_class": (None, "at most this many images of each class, chosen by seed"),
        "target": (None, "array or column with the labels"),
        "image_size": (None, "size to which a folder's images are resized, as 32 or 32x48"),
        "image_shape": (None, "shape of flat rows, as 28x28 or 3x32x32"),
    }

    def load(self, source: Any, **options: Any) -> EquivarianceData:
        """Return the images with checked options; ``source`` as in :func:`anytask.datasets.labelled.load_labelled`."""
        unknown = set(options) - set(self.options)
        if unknown:
            raise BadData(f"equivariance has no option {min(unknown)!r}; its options: {', '.join(self.options)}")
        o = {name: default for name, (default, _) in self.options.items()} | options
        target, size = o.pop("target"), o.pop("image_size")
        if isinstance(source, str) and source == "digits":
            source = "digits-images"
        labelled = load_labelled(source, target, image_size=size)
        data = EquivarianceData(labelled, _checked(o, labelled))
        try:
            data.group().orbit(data.images(np.array([0])))
        except ValueError as error:
            raise BadData(f"{labelled.name}: {error}") from error
        return data

    def baselines(self, data: EquivarianceData) -> tuple[Entrant, ...]:
        """Return a plain and an augmented perceptron, an averaged one for square images, a linear model, a chooser."""
        rows = [("plain MLP", "PlainMLP"), ("augmented MLP", "AugmentedMLP")]
        if data.image_shape[-1] == data.image_shape[-2]:
            rows.append(("C4-averaged MLP", "C4AveragedMLP"))
        rows += [("linear", "LinearClassifier"), ("chosen by accuracy", "Chosen")]
        return tuple(Entrant(name, f"{_BASELINES}:{cls}", {}, "baseline") for name, cls in rows)

    def refuses(self, entrant: Entrant, data: EquivarianceData) -> str | None:
        """Refuse classes that neither learn to classify nor evaluate those that do."""
        cls = entrant.load()
        if hasattr(cls, "evaluate") or (hasattr(cls, "fit") and hasattr(cls, "predict_proba")):
            return None
        return f"{entrant.name} has no fit and predict_proba, and no evaluate."

    def run(
        self, entrant: Entrant, data: EquivarianceData, seed: int, progress: Callable[[float], None] | None = None
    ) -> Outcome:
        """Train one classifier and evaluate it on the orbits of the test images."""
        from anytask.evaluate.baselines import Chosen
        from anytask.evaluate.nero import NERO

        if reason := self.refuses(entrant, data):
            raise ValueError(reason)
        share = progress or (lambda value: None)
        group = data.group()
        train, test = data.split(seed)
        X, y = data.images(train), data.labelled.y[train]
        cls = entrant.load()
        model = Chosen(by="orbit", seed=seed) if hasattr(cls, "evaluate") else cls(**_settings(cls, entrant, seed))
        start = time.perf_counter()
        if "group" in inspect.signature(model.fit).parameters:
            model.fit(X, y, group=group)
        else:
            model.fit(X, y)
        trained = time.perf_counter()
        share(0.7)
        nero = NERO(group, metrics=["correctness", "confidence"], keep_outputs=False)
        result = nero.evaluate(
            model, data.images(test), data.labelled.y[test], progress=lambda done: share(0.7 + 0.3 * done)
        )
        if result.failures:
            raise ValueError(f"{entrant.name} fails on a test image: {result.failures[0].error}")
        cost = {
            "train_seconds": trained - start,
            "predict_seconds": time.perf_counter() - trained,
            "labels": float(len(train)),
        }
        notes = []
        if isinstance(model, Chosen):
            scores = ", ".join(f"{name} {value:.3f}" for name, value in model.scores_.items())
            notes.append(f"Chose {model.chosen_} by {model.by} on held-out training images ({scores}).")
        return Outcome(orbit_metrics(result), _details(result), cost, None, notes)

    def figures(self, data: EquivarianceData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return the accuracy over the orbit of every entrant."""
        from anytask.evaluate.nero.figures import orbit_figure
        from anytask.evaluate.nero.metrics import NeroMetric

        names = list(dict.fromkeys(run.entrant_name for run in runs if run.status == "done"))
        if not names:
            return []
        # What is read back from a store has the options in another form, and no images.
        group = group_of(data.options if isinstance(data.options, Mapping) else vars(data.options))
        out = []
        for key, title, label in (
            ("curve", "Accuracy over the orbit", "accuracy"),
            ("consensus_curve", "Accuracy against the model's own consensus", "accuracy against the consensus"),
        ):
            curves = [
                np.mean([run.details[key] for run in runs if run.status == "done" and run.entrant_name == name], axis=0)
                for name in names
            ]
            text = "Mean over seeds and test images, for every element of the group; an invariant model is even."
            if key == "consensus_curve":
                text = (
                    "The same without labels. A consensus can be wrong with confidence: compare with the curve above."
                )
            out.append((title, text, orbit_figure(group, np.array(curves), names, NeroMetric(key, label))))
        return out


def group_of(options: Mapping[str, Any]) -> Group:
    """Return the group that checked options of :class:`Equivariance` name."""
    from anytask.evaluate.parts.planar_groups import Dihedral, Flips, Rotations, Shifts

    if options["group"] == "rotations":
        return Rotations(options["step"], options["start"], options["stop"])
    if options["group"] == "shifts":
        return Shifts([int(d) for d in np.arange(options["start"], options["stop"] + 1, options["step"])])
    return Flips() if options["group"] == "flips" else Dihedral()


def orbit_metrics(result: Any) -> dict[str, float]:
    """Return the metrics of :class:`Equivariance` for an evaluation of one classifier with labels."""
    table = result.table().set_index(["reference", "metric"])
    truth = table.loc[("truth", "correctness")]
    curve, agreed = (result.aggregate("confidence", r)[0] for r in ("truth", "consensus"))
    flat = np.ptp(curve) == 0 or np.ptp(agreed) == 0
    metrics = {
        "orbit_accuracy": float(truth["mean"]),
        "accuracy": float(truth["identity"]),
        "worst_accuracy": float(truth["worst"]),
        "gap": float(truth["gap"]),
        "confidence_spread": float(table.loc[("truth", "confidence")]["sample_std"]),
        "consensus_correct": float(truth["consensus_correct"]),
        "agreement": float(truth["agreement"]),
        "consensus_correlation": float("nan") if flat else float(np.corrcoef(curve, agreed)[0, 1]),
    }
    turned = _quarter_turns(result.group)
    if turned is not None:
        confidence = result.values("confidence", "truth")[0]
        metrics["quarter_turn_gap"] = float(np.abs(confidence - confidence[turned]).max())
    return metrics


def _quarter_turns(group: Any) -> list[int] | None:
    """Index of each element's quarter turn, if the group consists of rotations and has all of them."""
    if group.name != "rotations":
        return None
    place = {group.key(g): k for k, g in enumerate(group.elements)}
    turned = [place.get(group.key(g + 90)) for g in group.elements]
    return None if None in turned else turned  # type: ignore[return-value]


def _details(result: Any) -> dict[str, Any]:
    confidence = result.aggregate("confidence", "truth")[0]
    return {
        "labels": list(result.group.labels),
        "curve": result.aggregate("correctness", "truth")[0].tolist(),
        "consensus_curve": result.aggregate("correctness", "consensus")[0].tolist(),
        "confidence_curve": confidence.tolist(),
    }


def _settings(cls: type, entrant: Entrant, seed: int) -> dict[str, Any]:
    known = inspect.signature(cls).parameters
    name = next((n for n in ("seed", "random_state") if n in known), None)
    return {**({name: seed} if name else {}), **entrant.params}


def _checked(o: dict[str, Any], labelled: LabelledData) -> dict[str, Any]:
    if o["group"] not in GROUPS:
        raise BadData(f"group must be one of {', '.join(GROUPS)}, got {o['group']!r}")
    moves = o["group"] in ("rotations", "shifts")
    given = [name for name in ("start", "stop", "step") if o[name] is not None]
    if given and not moves:
        raise BadData(f"{given[0]} is for rotations and shifts, and group is {o['group']!r}")
    for name in given:
        if isinstance(o[name], bool) or not isinstance(o[name], (int, float)) or not np.isfinite(o[name]):
            raise BadData(f"{name} must be a number, got {o[name]!r}")
    if moves:
        turn = o["group"] == "rotations"
        step = (15.0 if turn else 1.0) if o["step"] is None else o["step"]
        start = (0.0 if turn else -2.0) if o["start"] is None else o["start"]
        stop = (start + 360.0 - step if turn else 2.0) if o["stop"] is None else o["stop"]
        if step <= 0 or stop < start:
            raise BadData(f"step must be positive and stop at least start, got step={step}, start={start}, stop={stop}")
        if not turn and any(value != int(value) for value in (step, start, stop)):
            raise BadData("shifts are whole numbers of pixels")
        o |= {"step": float(step), "start": float(start), "stop": float(stop)}
    if not isinstance(o["test_size"], float) or not 0 < o["test_size"] < 1:
        raise BadData(f"test_size must be above 0 and below 1, got {o['test_size']!r}")
    if o["max_per_class"] is not None and (not isinstance(o["max_per_class"], int) or o["max_per_class"] < 2):
        raise BadData(f"max_per_class must be a whole number of at least 2, got {o['max_per_class']!r}")
    shape = o["image_shape"]
    if shape is not None:
        try:
            parts = shape.replace(",", "x").split("x") if isinstance(shape, str) else shape
            shape = [int(side) for side in parts]
        except (TypeError, ValueError):
            shape = []
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise BadData(f"image_shape must be like 28x28 or 3x32x32, got {o['image_shape']!r}")
        if int(np.prod(shape)) != int(np.prod(labelled.input_shape)):
            raise BadData(f"image_shape {shape} does not hold the {int(np.prod(labelled.input_shape))} values of a row")
    elif len(labelled.input_shape) < 2:
        raise BadData(
            f"{labelled.name}: the rows are flat, {labelled.input_shape[0]} values each: say image_shape, as 28x28"
        )
    counts = np.unique(labelled.y, return_counts=True)
    if counts[1].min() < 2:
        raise BadData(f"{labelled.name}: class {counts[0][counts[1].argmin()]!r} has 1 image, at least 2 are needed")
    return o | {"image_shape": shape}
