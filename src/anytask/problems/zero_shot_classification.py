"""Zero-shot classification: images and captions to learn from, then classes by what is said of them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.progress import heard
from anytask.core.rng import derive
from anytask.core.settings import of_kind, real, taken, whole
from anytask.datasets.captioned import Captioned, captioned_digits, load_captioned
from anytask.pretrain.baselines import PretrainedEncoder
from anytask.pretrain.parts.zero_shot import PromptClassifier
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.options import Options
from anytask.problems.training import Builtin, LoadedData, Progress, TrainingProblem

#: Built-in worlds, by the images that they are of; of MNIST, the features that EfficientNet-lite0 has of them.
WORLDS = {"captioned-digits": "digits", "captioned-mnist": "mnist-5k"}
_TOWERS = "anytask.pretrain.pair_baselines"


class ZeroShotOptions(Options):
    """How data are read, and what is held out."""

    read_only = ("image_size",)

    image_size: Any = of_kind(
        None, (int, str, Sequence), "a whole number or a text such as 32x48",
        "size to which a folder's images are resized, as 32 or 32x48", optional=True,
    )  # fmt: skip
    test_size: float = real(0.25, "own data: share of the images that is kept for testing", above=0, below=1)
    n: int = whole(300, "built-in: images to learn from")
    wrong: float = real(0.35, "built-in: share of the pairs that are of a random concept", at_least=0, at_most=1)


@dataclass(frozen=True)
class ZeroShotData(LoadedData):
    """Captioned images and the checked options."""

    source: Captioned | Builtin

    def facts(self) -> dict[str, Any]:
        """Return how many images there are, and of what."""
        s = self.source
        if isinstance(s, Builtin):
            return {"kind": "images of digits with captions, some of them wrong", "images": self.options.n}
        return {"kind": "images with captions", "images": len(s.captions), "classes": len(s.prompts)}

    def draw(self, seed: int) -> tuple[Captioned, Any, np.ndarray]:
        """Return what is learned from, and images with their classes to test on."""
        s, o = self.source, self.options
        if isinstance(s, Builtin):
            return _drawn(WORLDS[s.name], seed, o.n, o.wrong)
        order = np.random.default_rng(derive(seed, "zero-shot")).permutation(len(s.captions))
        n = max(1, round(o.test_size * len(order)))
        return self.part(order[n:]), s.images[order[:n]], s.concepts[order[:n]]

    def part(self, rows: np.ndarray) -> Captioned:
        """Return some of the pairs."""
        s: Any = self.source
        return Captioned(s.name, s.images[rows], [s.captions[row] for row in rows], s.concepts[rows], s.prompts)


class ZeroShotClassification(TrainingProblem):
    """Learn from images with captions, then say classes by prompts: who needs no labels, and is right to be sure?

    Encoders of pairs learn from images and captions, and from the concepts of the pairs where they take them. Images to
    test on are of the class whose prompts fit best. Classifiers, which see images and concepts and no text, compete.

    Metrics
    -------
    * ``accuracy`` on images of known class (ranks);
    * ``ece``: expected calibration error, in 15 bins of equal width; ``log_loss``.

    Examples
    --------
    >>> problem = ZeroShotClassification()
    >>> data = problem.load("captioned-digits", n=200, wrong=0)
    >>> problem.run(problem.baselines(data)[-1], data, seed=0).metrics["accuracy"] > 0.7
    True
    """

    key: ClassVar[str] = "zero-shot-classification"
    title: ClassVar[str] = "Classes by prompts"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Accuracy"),
        Metric("ece", "Expected calibration error", False),
        Metric("log_loss", "Mean negative log-probability of the true class", False, "nats"),
    )
    needs: ClassVar[tuple[str, ...]] = ("fit(X, y)",)
    options_class = ZeroShotOptions

    def load(self, source: Any, **options: Any) -> ZeroShotData:
        """Take one of :data:`WORLDS`, which a seed draws, or :func:`~anytask.datasets.captioned.load_captioned`'s."""
        checked = self.check_options(options)
        if isinstance(source, str) and source in WORLDS:
            return ZeroShotData(Builtin(source), checked)
        captioned = load_captioned(source, checked.image_size)
        if len(captioned.captions) < 4:
            raise BadData(f"{captioned.name}: {len(captioned.captions)} images, and 4 at least are wanted")
        return ZeroShotData(captioned, checked, captioned.notes)

    def baselines(self, data: ZeroShotData) -> tuple[Entrant, ...]:
        """Return two towers with hard targets or all positives, and classifiers that learn the concepts."""
        return (
            Entrant("dual encoder, hard targets", f"{_TOWERS}:DualEncoder", {}, "baseline"),
            Entrant("dual encoder, all positives", f"{_TOWERS}:DualEncoder", {"targets": "all"}, "baseline"),
            Entrant("network on concepts", "anytask.robust.long_tail_baselines:LongTailTraining", {}, "baseline"),
            Entrant("linear on concepts", "anytask.evaluate.baselines:LinearClassifier", {}, "baseline"),
        )

    def refuses(self, entrant: Entrant, data: ZeroShotData) -> str | None:
        """Refuse encoders of pairs that do not take images and texts."""
        left, right = getattr(entrant.load(), "KINDS", (None, None))
        if left in (None, "arrays") and right in (None, "texts"):
            cls: Any = entrant.load()
            if hasattr(cls, "encode") or "y" in inspect.signature(cls.fit).parameters:
                return super().refuses(entrant, data)
            return f"{entrant.name} has no fit(images, captions), and no fit(images, y)."
        return f"{entrant.name} learns from {left} and {right}, and here are images and texts."

    def train(self, entrant: Entrant, data: ZeroShotData, seed: int, progress: Progress) -> Any:
        """Fit an encoder to images and captions, or a classifier to images and concepts."""
        return _fitted(entrant, data.draw(seed)[0], seed, progress)

    def refit(self, entrant: Entrant, data: ZeroShotData, seed: int, progress: Progress | None = None) -> Trained:
        """Fit to all pairs."""
        whole = data.draw(seed)[0] if isinstance(data.source, Builtin) else data.source
        model = _fitted(entrant, whole, seed, heard(progress))
        load = f'model = {entrant.class_name}.load("{{folder}}")'
        if hasattr(model, "predict"):
            return Trained((model,), (entrant.import_line, load, "labels = model.predict(images)"), data.notes)
        lines = (
            entrant.import_line, "from anytask.pretrain.parts.zero_shot import PromptClassifier", load,
            "labels = PromptClassifier(model, prompts).predict(images)  # prompts: what is said of each class",
        )  # fmt: skip
        return Trained((model,), lines, data.notes)

    def test(self, entrant: Entrant, trained: Any, data: ZeroShotData, seed: int, progress: Progress) -> Outcome:
        """Count what is right, and how sure the answers are."""
        world, X, y = data.draw(seed)
        told = trained if hasattr(trained, "predict_proba") else PromptClassifier(trained, world.prompts)
        P, classes = np.asarray(told.predict_proba(X)), np.asarray(told.classes_)
        own = np.where(y[:, None] == classes[None, :], P, 0).sum(axis=1)
        right = classes[P.argmax(axis=1)] == y
        progress(1.0)
        metrics = {
            "accuracy": float(right.mean()),
            "ece": calibration_error(P.max(axis=1), right),
            "log_loss": float(-np.log(np.maximum(own, 1e-12)).mean()),
        }
        return Outcome(metrics, {}, {"pairs": float(len(world.captions))})


@lru_cache(maxsize=1)
def _drawn(source: str, seed: int, n: int, wrong: float) -> tuple[Captioned, Any, np.ndarray]:
    """Return a built-in world; images that are not of 64 pixels as the features of EfficientNet-lite0."""
    world, X, y = captioned_digits(source, seed, n=n, wrong=wrong)
    if source == "digits":
        return world, X, y
    encoder = PretrainedEncoder().fit(X[:1])
    seen, tested = (np.asarray(encoder.transform(part), dtype=np.float32) for part in (world.images, X))
    return replace(world, images=seen), tested, y


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over bins of equal width, weighted by their sizes.

    Examples
    --------
    >>> round(calibration_error(np.array([0.9, 0.9, 0.6]), np.array([True, False, True])), 4)
    0.4
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    sums = np.bincount(place, confidence - right, minlength=bins)
    return float(np.abs(sums).sum() / len(confidence))


def _fitted(entrant: Entrant, world: Captioned, seed: int, progress: Progress) -> Any:
    model = entrant.make("small", seed=seed, random_state=seed)
    told = taken(model.fit, progress=progress)
    if not hasattr(model, "encode"):  # a classifier
        return model.fit(world.images, world.concepts, **told) or model
    return model.fit(world.images, world.captions, **told, **taken(model.fit, concepts=world.concepts))
