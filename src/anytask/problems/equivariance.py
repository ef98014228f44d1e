"""Equivariance: classifiers of images, tested on the images as they are and on all that they look like when moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from anytask.core.settings import choice, real
from anytask.datasets.labelled import LabelledData
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.labelled import LabelledProblem, LabelledSet, SplitOptions
from anytask.problems.options import listed
from anytask.problems.training import Progress

if TYPE_CHECKING:
    from anytask.parts.transforms import Group

_RANGED = ("rotations", "shifts")  # those with a first and a last element
GROUPS = (*_RANGED, "flips", "d4")
_BASELINES = "anytask.evaluate.baselines"
#: What a run keeps for the figures: key, title, caption, label of the values.
_CURVES = (
    ("curve", "Accuracy over the orbit",
     "Mean over seeds and test images, for every element of the group; an invariant model is even.", "accuracy"),
    ("consensus_curve", "Accuracy against the model's own consensus",
     "The same without labels. A consensus can be wrong with confidence: compare with the curve above.",
     "accuracy against the consensus"),
)  # fmt: skip


class EquivarianceOptions(SplitOptions):
    """What images undergo."""

    transforms: str = choice("rotations", GROUPS, "what the images undergo")
    start: float | None = real(None, "first angle in degrees (none: 0) or shift in pixels (none: -2)", optional=True)
    stop: float | None = real(None, "last angle (none: 360 - step) or shift (none: 2)", optional=True)
    step: float | None = real(None, "degrees (none: 15) or pixels (none: 1) between elements", above=0, optional=True)
    image_shape: Sequence[int] | None = listed(
        "shape of flat rows, as 28x28 or 3x32x32", int, separator="x", at_least=1, lengths=(2, 3)
    )

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.group in GROUPS:
            raise ValueError(f"group names a column; what images undergo is transforms={self.group}")
        given = [name for name in ("start", "stop", "step") if getattr(self, name) is not None]
        if given and self.transforms not in _RANGED:
            raise ValueError(f"{given[0]} is for rotations and shifts, and transforms is {self.transforms!r}")


@dataclass(frozen=True)
class EquivarianceData(LabelledSet):
    """Labelled images and the checked options.

    Examples
    --------
    >>> data = Equivariance().load("digits", start=-40, stop=40, step=8)
    >>> data.group().labels[:3], len(data.split(seed=0)[1])
    (('-40°', '-32°', '-24°'), 450)
    """

    def facts(self) -> dict[str, Any]:
        """Return the facts on the images, and the number of elements."""
        return super().facts() | {"image_shape": list(self.image_shape), "elements": len(self.group())}

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self.options.image_shape or self.source.input_shape)

    def group(self) -> Group:
        """Return the group whose orbits are evaluated."""
        return group_of(self.options)

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Return these images, float32 (n, \\*image_shape)."""
        return np.asarray(self.source.X[rows], dtype=np.float32).reshape(len(rows), *self.image_shape)


class Equivariance(LabelledProblem):
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
    >>> data = problem.load("digits", transforms="d4", max_per_class=20)
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
    options_class = EquivarianceOptions
    data_class = EquivarianceData
    builtin: ClassVar[dict[str, str]] = {"digits": "digits-images"}

    def fit_options(
        self, options: EquivarianceOptions, labelled: LabelledData
    ) -> tuple[EquivarianceOptions, tuple[str, ...]]:
        """Settle the ends of the group, and check it on an image."""
        size, shape = int(np.prod(labelled.input_shape)), options.image_shape
        if shape is None and len(labelled.input_shape) < 2:
            raise ValueError(f"the rows are flat, {size} values each: say image_shape, as 28x28")
        if shape is not None and int(np.prod(shape)) != size:
            raise ValueError(f"image_shape {list(shape)} does not hold the {size} values of a row")
        options = settled(options)
        data = EquivarianceData(labelled, options)
        data.group().orbit(data.inputs(np.array([0])))
        return options, ()

    def baselines(self, data: EquivarianceData) -> tuple[Entrant, ...]:
        """Return a plain and an augmented perceptron, an averaged one for square images, a linear model, a chooser."""
        rows = [("plain MLP", "PlainMLP"), ("augmented MLP", "AugmentedMLP")]
        if data.image_shape[-1] == data.image_shape[-2]:
            rows.append(("C4-averaged MLP", "C4AveragedMLP"))
        rows += [("linear", "LinearClassifier"), ("chosen by accuracy", "Chosen")]
        return tuple(Entrant(name, f"{_BASELINES}:{cls}", {}, "baseline") for name, cls in rows)

    def refuses(self, entrant: Entrant, data: EquivarianceData) -> str | None:
        """Refuse classes that neither learn to classify nor evaluate those that do."""
        return None if hasattr(entrant.load(), "evaluate") else super().refuses(entrant, data)

    def train(self, entrant: Entrant, data: EquivarianceData, seed: int, progress: Progress) -> Any:
        """Fit one classifier; an evaluator is stood for by the choice that it makes among the baselines."""
        from anytask.evaluate.baselines import Chosen

        rows, _ = data.split(seed)
        evaluates = hasattr(entrant.load(), "evaluate")
        model = Chosen(by="orbit", seed=seed) if evaluates else entrant.make("small", seed=seed, random_state=seed)
        return self.fit(model, data, rows, progress, group=data.group())

    def test(self, entrant: Entrant, trained: Any, data: EquivarianceData, seed: int, progress: Progress) -> Outcome:
        """Evaluate a classifier on the orbits of the test images."""
        from anytask.evaluate.nero import NERO

        train, test = data.split(seed)
        nero = NERO(data.group(), metrics=["correctness", "confidence"], keep_outputs=False)
        result = nero.evaluate(trained, data.inputs(test), data.source.y[test], progress=progress)
        if result.failures:
            raise ValueError(f"{entrant.name} fails on a test image: {result.failures[0].error}")
        notes = data.passed_over(trained.fit)
        if hasattr(trained, "chosen_"):
            scores = ", ".join(f"{name} {value:.3f}" for name, value in trained.scores_.items())
            notes.append(f"Chose {trained.chosen_} by {trained.by} on held-out training images ({scores}).")
        weights = data.weights(test)
        curves = {
            key: np.average(result.values("correctness", reference)[0], axis=1, weights=weights).tolist()
            for (key, *_), reference in zip(_CURVES, ("truth", "consensus"))
        }
        return Outcome(orbit_metrics(result, weights), curves, {"labels": float(len(train))}, None, notes)

    def figures(self, data: EquivarianceData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return the accuracy over the orbit of every entrant."""
        from anytask.evaluate.nero.figures import orbit_figure
        from anytask.evaluate.nero.metrics import NeroMetric

        details: dict[str, list[Any]] = {}
        for run in runs:
            if run.status == "done":
                details.setdefault(run.entrant_name, []).append(run.details)
        group, drawn = group_of(data.options), []  # the options are all that is read back from a store
        for key, title, text, label in _CURVES if details else ():
            curves = np.array([np.mean([one[key] for one in found], axis=0) for found in details.values()])
            drawn.append((title, text, orbit_figure(group, curves, list(details), NeroMetric(key, label))))
        return drawn


def settled(options: EquivarianceOptions) -> EquivarianceOptions:
    """Return the options with the ends and the step of their group; a ``ValueError`` says what does not fit."""
    if options.transforms not in _RANGED:
        return options
    turn = options.transforms == "rotations"
    step = (15.0 if turn else 1.0) if options.step is None else float(options.step)
    start = (0.0 if turn else -2.0) if options.start is None else float(options.start)
    stop = (start + 360.0 - step if turn else 2.0) if options.stop is None else float(options.stop)
    if stop < start:
        raise ValueError(f"stop must be at least start, got start={start}, stop={stop}")
    if not turn and not all(map(float.is_integer, (step, start, stop))):
        raise ValueError("shifts are whole numbers of pixels")
    return options.evolve(step=step, start=start, stop=stop)


def group_of(options: Any) -> Group:
    """Return the group that settled options of :class:`Equivariance` name."""
    from anytask.parts.transforms import make_group

    more = {}
    if options.transforms == "rotations":
        more = {"step": options.step, "start": options.start, "stop": options.stop}
    if options.transforms == "shifts":
        more = {"dx": [int(d) for d in np.arange(options.start, options.stop + 1, options.step)]}
    return make_group(options.transforms, **more)


def orbit_metrics(result: Any, weights: np.ndarray | None = None) -> dict[str, float]:
    """Return the metrics of :class:`Equivariance` for an evaluation of one classifier with labels, as rows weigh."""
    from anytask.evaluate.nero.values import along_orbits

    (name,), group = result.models, result.group
    correct, confidence = (result.values(metric, "truth")[0] for metric in ("correctness", "confidence"))  # (m, n)
    over_rows = partial(np.average, axis=-1, weights=weights)
    curve, agreed = over_rows(correct), result.consensus[name]
    certain = np.stack([over_rows(result.values("confidence", reference)[0]) for reference in ("truth", "consensus")])
    metrics = {
        "orbit_accuracy": np.average(curve, weights=group.weights),
        "accuracy": np.nan if group.identity is None else curve[group.identity],
        "worst_accuracy": curve.min(), "gap": np.ptp(curve),
        "confidence_spread": over_rows(along_orbits(confidence[None], group.weights, True)["std"][0]),
        "consensus_correct": over_rows(agreed.labels() == result.truth(name)),
        "agreement": over_rows(agreed.agreement),
        "consensus_correlation": np.nan if np.ptp(certain, axis=1).min() == 0 else np.corrcoef(certain)[0, 1],
    }  # fmt: skip
    if (turned := _quarter_turns(group)) is not None:
        metrics["quarter_turn_gap"] = np.abs(confidence - confidence[turned]).max()
    return {key: float(value) for key, value in metrics.items()}


def _quarter_turns(group: Any) -> list[int] | None:
    """Index of each element's quarter turn, if the group consists of rotations and has all of them."""
    if group.name != "rotations":
        return None
    place = {group.key(g): k for k, g in enumerate(group.elements)}
    turned = [place.get(group.key(g + 90)) for g in group.elements]
    return None if None in turned else turned  # type: ignore[return-value]
