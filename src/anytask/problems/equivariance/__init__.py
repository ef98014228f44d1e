"""Equivariance: classifiers of images, tested on the images as they are and on all that they look like when moved."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np

from anytask.datasets.labelled import LabelledData
from anytask.problems.base import Entrant, Metric, Outcome, finished
from anytask.problems.equivariance.data import EquivarianceData, EquivarianceOptions, group_of, settled
from anytask.problems.labelled import LabelledProblem
from anytask.problems.training import Progress

_BASELINES = "anytask.evaluate.baselines"
#: What a run keeps for the figures: key, title, caption, label of the values.
_CURVES = (
    ("curve", "Accuracy over the orbit",
     "Mean over seeds and test images, for every element of the group; an invariant model is even.", "accuracy"),
    ("consensus_curve", "Accuracy against the model's own consensus",
     "The same without labels. A consensus can be wrong with confidence: compare with the curve above.",
     "accuracy against the consensus"),
)  # fmt: skip


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

        done, group, drawn = finished(runs), group_of(data.options), []  # the options are all that a store gives back
        for key, title, text, label in _CURVES if done else ():
            curves = np.array([np.mean([run.details[key] for run in mine], axis=0) for mine in done.values()])
            drawn.append((title, text, orbit_figure(group, curves, list(done), NeroMetric(key, label))))
        return drawn


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
