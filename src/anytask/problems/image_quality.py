"""Image quality: scores of images from a few scores, and from texts on how good other images look."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from scipy.stats import pearsonr, spearmanr

from anytask.core.errors import BadData
from anytask.core.progress import heard
from anytask.core.rng import derive
from anytask.core.settings import flag, real, taken, whole
from anytask.datasets.rated import Rated, load_rated, rated_digits
from anytask.models.real import REAL
from anytask.pretrain.baselines import PretrainedEncoder
from anytask.pretrain.uniqa import quality_levels
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.options import Options, listed
from anytask.problems.training import Builtin, LoadedData, Progress, TrainingProblem

#: Built-in worlds, by the images that they are of; of MNIST, the features that EfficientNet-lite0 has of them.
WORLDS = {"rated-digits": "digits-images", "rated-mnist": "mnist-5k"}
_SCORES = "anytask.pretrain.score_baselines"


class ImageQualityOptions(Options):
    """How a table is read, and what is shown."""

    read_only = ("scores", "lower_is_better")

    scores: tuple[str, ...] | None = listed("columns of the scores, as quality,beauty; 'score' unless given")
    lower_is_better: bool = flag(False, "whether scores count defects")
    labels: int = whole(20, "images whose scores are shown", at_least=3)
    test_size: float = real(0.25, "own data: share of the images that is kept for testing", above=0, below=1)
    n: int = whole(900, "built-in: images with texts to learn from", at_least=3)
    tested: int = whole(800, "built-in: images to test on", at_least=10)


@dataclass(frozen=True)
class ImageQualityData(LoadedData):
    """Rated images and the checked options."""

    source: Rated | Builtin

    def facts(self) -> dict[str, Any]:
        """Return how many images there are, and what is scored."""
        s = self.source
        if isinstance(s, Builtin):
            return {"kind": "images of digits, with scores of quality and of aesthetics", "images": self.options.n}
        return {"kind": "images with scores", "images": len(s.images), "scores": list(s.names)}

    def draw(self, seed: int) -> tuple[Rated, Rated, Rated]:
        """Return images with texts to learn from, those with scores, and those to test on."""
        o, s = self.options, self.source
        rng = np.random.default_rng(derive(seed, "image-quality"))
        if isinstance(s, Builtin):
            shown, test = _drawn(WORLDS[s.name], seed, o.n, o.tested)
        else:
            order = rng.permutation(len(s.images))
            n = max(1, round(o.test_size * len(order)))
            shown, test = s.part(order[n:]), s.part(order[:n])
        few = shown.part(rng.permutation(len(shown.images))[: o.labels])
        with_texts = np.array([row for row, texts in enumerate(shown.texts) if texts], dtype=int)
        return (shown.part(with_texts) if len(with_texts) else leveled(few)), few, test


def leveled(rated: Rated) -> Rated:
    """Return rated images with texts that tell the levels of their scores."""
    names = ["image" if name == "score" else f"{name} image" for name in rated.names]
    levels = [quality_levels(column) for column in rated.scores.T]
    texts = [[f"{own[row]} {name}" for own, name in zip(levels, names)] for row in range(len(rated.images))]
    return replace(rated, texts=texts)


class ImageQuality(TrainingProblem):
    """Score images as people do, from the scores of a few, and from texts on how good others look.

    Encoders of pairs learn from images and texts first, those of a table without comments from the levels of the scores
    that are shown; then everybody learns each score from the images that have one. ``scores=quality,beauty`` names
    several columns; a metric is that of the one that is scored worst.

    Metrics
    -------
    * ``srcc``: Spearman's rank correlation with the scores (ranks); ``plcc``: Pearson's correlation, with no curve
      fitted before;
    * ``zero_shot``: rank correlation before any score is shown, of systems that can.

    Examples
    --------
    >>> problem = ImageQuality()
    >>> data = problem.load("rated-digits", labels=100)
    >>> -1 <= problem.run(problem.baselines(data)[0], data, seed=0).metrics["srcc"] <= 1
    True
    """

    key: ClassVar[str] = "image-quality"
    title: ClassVar[str] = "Image quality"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("srcc", "Rank correlation with the scores"),
        Metric("plcc", "Correlation with the scores"),
        Metric("zero_shot", "Rank correlation without scores"),
    )
    needs: ClassVar[tuple[str, ...]] = ("predict(X)",)
    options_class = ImageQualityOptions

    def load(self, source: Any, **options: Any) -> ImageQualityData:
        """Take one of :data:`WORLDS`, which a seed draws, or :func:`~anytask.datasets.rated.load_rated`'s table."""
        checked = self.check_options(options)
        if isinstance(source, str) and source in WORLDS:
            return ImageQualityData(Builtin(source), checked)
        rated = load_rated(source, checked.scores or ("score",), checked.lower_is_better)
        if len(rated.images) < checked.labels + 2:
            raise BadData(f"{rated.name}: {len(rated.images)} images, and {checked.labels + 2} at least are wanted")
        return ImageQualityData(rated, checked, rated.notes)

    def baselines(self, data: ImageQualityData) -> tuple[Entrant, ...]:
        """Return ridge regression on pixels, on features where they are to be had, and on a dual encoder."""
        rows = [Entrant("ridge on pixels", f"{_SCORES}:RidgeScores", {}, "baseline")]
        if REAL["efficientnet-lite0"].is_here and not isinstance(data.source, Builtin):
            rows.append(Entrant("ridge on EfficientNet", f"{_SCORES}:RidgeScores", {"pretrained": True}, "baseline"))
        return (*rows, Entrant("ridge on a dual encoder", f"{_SCORES}:ProbedDualEncoder", {}, "baseline"))

    def train(self, entrant: Entrant, data: ImageQualityData, seed: int, progress: Progress) -> Any:
        """Fit an encoder of pairs to images and texts; what learns from scores alone is made, and learns in a test."""
        model = entrant.make("small", seed=seed, random_state=seed)
        shown = data.draw(seed)[0]
        if hasattr(model, "fit_scores"):
            model.fit(shown.images, shown.texts, **taken(model.fit, progress=progress))
        return model

    def test(self, entrant: Entrant, trained: Any, data: ImageQualityData, seed: int, progress: Progress) -> Outcome:
        """Learn each score from the few images that have it, and correlate."""
        _, few, test = data.draw(seed)
        zero = trained.predict(test.images) if hasattr(trained, "level_probabilities") else None
        each = {}
        for k, name in enumerate(few.names):
            truth, answers = test.scores[:, k], _learn(trained, few.images, few.scores[:, k]).predict(test.images)
            each[name] = {"srcc": _finite(spearmanr(truth, answers)[0]), "plcc": _finite(pearsonr(truth, answers)[0])}
            if zero is not None:
                each[name]["zero_shot"] = _finite(spearmanr(truth, zero)[0])
        progress(1.0)
        metrics = {key: min(own[key] for own in each.values()) for key in next(iter(each.values()))}
        return Outcome(metrics, {"scores": each}, {"labels": float(few.scores.size)})

    def refit(self, entrant: Entrant, data: ImageQualityData, seed: int, progress: Progress | None = None) -> Trained:
        """Learn from all images, the first score."""
        s = data.source if isinstance(data.source, Rated) else data.draw(seed)[0]
        model, texts = entrant.make("small", seed=seed, random_state=seed), s if all(s.texts) else leveled(s)
        if hasattr(model, "fit_scores"):
            model.fit(s.images, texts.texts, **taken(model.fit, progress=heard(progress)))
        _learn(model, s.images, s.scores[:, 0])
        lines = (f'model = {entrant.class_name}.load("{{folder}}")', f"{s.names[0]} = model.predict(images)")
        return Trained((model,), (entrant.import_line, *lines), data.notes)


def _learn(model: Any, X: np.ndarray, y: np.ndarray) -> Any:
    return getattr(model, "fit_scores", model.fit)(X, y)


def _finite(correlation: float) -> float:
    """Return a correlation, 0 with what is constant."""
    return float(correlation) if np.isfinite(correlation) else 0.0


@lru_cache(maxsize=1)
def _drawn(source: str, seed: int, n: int, tested: int) -> tuple[Rated, Rated]:
    """Return a built-in world; images that are not of 64 pixels as the features of EfficientNet-lite0."""
    world = rated_digits(source, seed, n + tested)
    if source != "digits-images":
        encoder = PretrainedEncoder().fit(world.images[:1])
        world = replace(world, images=np.asarray(encoder.transform(world.images), dtype=np.float32))
    rows = np.arange(len(world.images))
    return world.part(rows[:-tested]), world.part(rows[-tested:])
