"""Scores of images that everybody has: ridge regression on pixels, on a network's features, on a dual encoder's."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import RidgeCV

from anytask.core.checks import as_array, check_inputs
from anytask.core.estimator import Estimator
from anytask.core.settings import flag
from anytask.pretrain.baselines import PretrainedEncoder
from anytask.pretrain.pair_baselines import DualEncoder
from anytask.pretrain.parts.items import read_items
from anytask.pretrain.uniqa import with_captions

__all__ = ["ProbedDualEncoder", "RidgeScores"]

_ALPHAS = np.logspace(-3, 4, 15)


def _ridge(H: np.ndarray, scores: ArrayLike) -> dict[str, np.ndarray]:
    """Return the mean, the weights and the intercept of a ridge regression whose strength leave-one-out chooses."""
    mean = H.mean(0)
    found = RidgeCV(_ALPHAS).fit(H - mean, as_array(scores, "scores").astype(float))
    return {"mean": mean, "weights": found.coef_, "intercept": np.array([found.intercept_])}


def _answers(H: np.ndarray, line: dict[str, np.ndarray]) -> np.ndarray:
    return (H - line["mean"]) @ line["weights"] + line["intercept"][0]


class RidgeScores(Estimator):
    """Ridge regression of scores on pixels, or on the features of EfficientNet-lite0 where it was fetched.

    Parameters
    ----------
    pretrained : bool, default False
        Whether on features.
    """

    pretrained: bool = flag(False, "on features of EfficientNet-lite0, not on pixels")

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Learn from images (n, ...) and their scores (n,)."""
        H = self._features(X)
        with self._refit():
            self.line_ = _ridge(H, y)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return a score for each image, shape (n,)."""
        self._check_fitted()
        return _answers(self._features(X), self.line_)

    def _features(self, X: Any) -> np.ndarray:
        if self.pretrained:
            return np.asarray(PretrainedEncoder().fit(X[:1]).transform(X), dtype=float)
        return check_inputs(X).flatten(1).double().cpu().numpy()


class ProbedDualEncoder(DualEncoder):
    """A dual encoder of images and captions, under ridge regression on its frozen vectors of images."""

    KINDS: ClassVar[tuple[str | None, str | None]] = ("arrays", "texts")

    def fit(self, left: Any, right: Any, *, progress: Any = None) -> Self:
        """Learn which captions, of which an image may have several, belong to which images."""
        return self._fit({"": with_captions(read_items(left, "left", "arrays"), right)}, progress)

    def fit_scores(self, X: Any, scores: ArrayLike) -> Self:
        """Learn scores (n,) of images on the frozen encoder."""
        H = self.transform(X)
        with self._update():
            self.line_ = _ridge(H, scores)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return a score for each image, shape (n,)."""
        return _answers(self.transform(X), self.line_)
