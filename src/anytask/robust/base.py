"""The protocol of the robust family: scikit-learn classifiers around torch modules.

``fit(X, y)`` validates its data, makes the modules and hands tensors to the system's ``_train``; ``predict_proba`` is
the softmax of its ``_scores``. A fit that fails leaves the model as it was. Systems that change with the test data add
``adapt(X)``, those that find anomalies ``score_samples(X)``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from torch import Tensor

from anytask.core.checks import (
    as_given,
    check_input_shape,
    check_inputs,
    check_labels,
    check_same_length,
    check_weights,
    class_codes,
    most_probable,
    require_finite,
)
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated

__all__ = ["RobustClassifier"]


class RobustClassifier(ClassifierMixin, Estimator):
    """Base of the robust classifiers: a system writes :meth:`_build`, :meth:`_train` and :meth:`_scores`.

    Parameters
    ----------
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; the columns of :meth:`predict_proba`.
    n_features_in_ : int
        Number of values in one input.
    input_shape_ : tuple of int
        Shape of one input.
    """

    #: What a system looks at of the task; see :class:`~anytask.continual.base.ContinualClassifier`.
    sees: ClassVar[str] = "none"
    INFERENCE: ClassVar[tuple[str, ...]] = ()

    def fit(
        self,
        X: ArrayLike | Tensor,
        y: ArrayLike | Tensor,
        *,
        sample_weight: ArrayLike | Tensor | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learn from labelled inputs.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
        y : array or tensor of shape (n,)
            Labels: integers or strings, of two classes at least.
        sample_weight : array or tensor of shape (n,), optional
            How much each input counts, at least 0; those of weight 0 are left out. Only ratios matter.
        progress : callable, optional
            Told the finished share, in [0, 1].

        Raises
        ------
        ValueError
            For empty data, NaN or infinite inputs, lengths that differ, weights below 0, or one class alone.
        NotFinite
            If training made a NaN or infinite weight; the model is left as it was.
        """
        X_, y_ = check_inputs(X), check_labels(y)
        check_same_length(X_, y_)
        weights = None
        if sample_weight is not None:
            given = check_weights(sample_weight, len(y_))
            X_, y_, given = X_[given > 0], y_[given > 0], given[given > 0]
            weights = torch.from_numpy(given / given.mean()).float()
        classes, codes = class_codes(y_, len(X_))
        self.check_shape(tuple(X_.shape[1:]))
        with self._refit():
            self.classes_, self.input_shape_ = classes, tuple(X_.shape[1:])
            self.n_features_in_ = int(np.prod(self.input_shape_))
            with isolated(derive(self.seed, "init")):
                self._build()
            with isolated(derive(self.seed, "train")):
                device = self._device
                w = None if weights is None else weights.to(device)
                self._train(X_.to(device), torch.from_numpy(codes).to(device), w, heard(progress))
            self._keep_shape()
        return self

    def predict_proba(self, X: ArrayLike | Tensor) -> Any:
        """Return class probabilities, shape (n, n_classes), columns in the order of ``classes_``."""
        X_ = self._asked(X)
        with torch.no_grad():
            scores = torch.cat([self._scores(part.to(self._device)) for part in X_.split(1024)])
        probabilities = require_finite(scores, "a score").double().softmax(dim=1)
        return as_given(probabilities, X)

    def predict(self, X: ArrayLike | Tensor) -> Any:
        """Return the most probable label of each input, shape (n,); a tensor for tensors with numeric labels."""
        return most_probable(self.predict_proba(X), self.classes_)

    def check_shape(self, input_shape: tuple[int, ...]) -> None:
        """Raise a ``ValueError`` for inputs of a shape that the system cannot learn from."""

    def _asked(self, X: ArrayLike | Tensor) -> Tensor:
        """Return the checked inputs that a model is asked about, or say why it cannot answer."""
        self._check_fitted()
        self._check_settings()
        self._check_shape_kept()
        X_ = check_inputs(X)
        check_input_shape(X_, self.input_shape_, type(self).__name__)
        return X_

    # -- what a system writes -------------------------------------------------------------------------------------

    def _train(self, X: Tensor, y: Tensor, w: Tensor | None, progress: Progress) -> None:
        """Train on checked data.

        X (n, \\*input_shape) is float32, y (n,) holds int64 codes in the order of ``classes_``, w (n,) positive weights
        of mean 1, None where all count alike.
        """
        raise NotImplementedError

    def _scores(self, X: Tensor) -> Tensor:
        """Return logits (n, n_classes)."""
        raise NotImplementedError
