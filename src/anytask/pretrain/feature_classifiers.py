"""Classifiers that learn features from all inputs, freeze them, and learn few labels by a linear model on top."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import SelfTrainingClassifier
from torch import Tensor

from anytask.core import discovery
from anytask.core.checks import as_given, check_weights, class_codes, most_probable
from anytask.core.progress import Progress, heard, portion
from anytask.core.settings import free, of_kind, real
from anytask.parts.few_label_logistic import few_label_logistic
from anytask.pretrain.base import PretrainEstimator

__all__ = ["FeatureClassifier", "SelfTraining"]


def encoder_class(name: Any) -> type[PretrainEstimator]:
    """Return the encoder of arrays or images that ``anytask.pretrain`` publishes under a name."""
    known = discovery.published("anytask.pretrain")
    cls = discovery.load(f"{known[name]}:{name}") if isinstance(name, str) and name in known else None
    if not (isinstance(cls, type) and issubclass(cls, PretrainEstimator) and cls.takes in ("arrays", "images")):
        raise ValueError(f"encoder must name a class of anytask.pretrain that encodes arrays or images, got {name!r}")
    return cls


class FeatureClassifier(PretrainEstimator):
    """An encoder that learns without labels, frozen, under a logistic regression.

    Columns of tables are standardized before the encoder sees them, and features are centered and brought to one scale,
    by all inputs. The strength of the regression is chosen by cross-validation on the labels, and is 1 where a class
    has fewer than five.

    Parameters
    ----------
    encoder : str
        A class of :mod:`anytask.pretrain` that encodes arrays or images.
    params : mapping
        Its settings; those of its preset ``small`` unless given, where it has one.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`; the encoder has the same.

    Attributes
    ----------
    encoder_ : PretrainEstimator
    classes_, coef_, intercept_
        The labels and, for each, what a feature (n_classes, d) and a constant add to its logit, after labels were seen.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(400, 20)), np.arange(400) % 2
    >>> X[:, :10] += 2 * y[:, None] * rng.random((400, 1))  # one direction varies most
    >>> model = FeatureClassifier(params={"n_components": 1}).fit(X[:20], y[:20], unlabeled=X[20:300])
    >>> bool((model.predict(X[300:]) == y[300:]).mean() > 0.75)
    True
    """

    encoder: str = free("PCAFeatures", "a class of anytask.pretrain that encodes arrays or images", encoder_class)
    params: Mapping[str, Any] = of_kind({}, (Mapping,), "a mapping", "settings of the encoder")

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        unlabeled: Any = None,
        sample_weight: Any = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learn features from inputs without labels; with labels, go on to learn these.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
        y : array of shape (n,), optional
            Labels, that leave :meth:`transform` as it is.
        unlabeled : array or tensor of shape (m, ...), optional
            Further inputs for the features.
        sample_weight : array of shape (n,), optional
            How much each label counts.
        progress : callable, optional
            Told the finished share.
        """
        told, X = heard(progress), self._read(X)
        pool = self._pool(X, unlabeled)
        if y is None:
            return super().fit(pool, progress=told)
        classes, codes = class_codes(y, len(X))
        weights = None if sample_weight is None else check_weights(sample_weight, len(codes))
        with self._refit():
            super().fit(pool, progress=portion(told, 0.0, 0.9))
            H = (self._features(pool).cpu().double().numpy() - self.center_) / self.unit_
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                head = self._head(H, codes, weights)
            binary = len(classes) == 2  # of which scikit-learn has one row
            self.classes_ = classes
            self.coef_ = np.concatenate([0 * head.coef_, head.coef_]) if binary else head.coef_
            self.intercept_ = np.concatenate([[0.0], head.intercept_]) if binary else head.intercept_
            told(1.0)
        return self

    def predict_proba(self, X: Any) -> Any:
        """Return class probabilities, shape (n, n_classes), columns in the order of ``classes_``."""
        self._check_fitted()
        if not hasattr(self, "classes_"):
            raise ValueError(f"this {type(self).__name__} has learned no labels yet: call fit(X, y)")
        H = self.transform(X)
        H_ = H if isinstance(H, Tensor) else torch.from_numpy(H)
        center, coef, intercept = (
            torch.as_tensor(v).to(H_).double() for v in (self.center_, self.coef_, self.intercept_)
        )
        return as_given(((H_.double() - center) / self.unit_ @ coef.T + intercept).softmax(1), X)

    def predict(self, X: Any) -> Any:
        """Return the most probable label of each input, shape (n,); a tensor for tensors with numeric labels."""
        return most_probable(self.predict_proba(X), self.classes_)

    def check_shape(self, input_shape: tuple[int, ...]) -> None:
        """Raise a ``ValueError`` for inputs of a shape that the encoder cannot learn from, which problems ask first."""
        encoder = self._new_encoder()
        if encoder.takes == "images" and len(input_shape) != 3:
            raise ValueError(f"{self.encoder} learns from images (channels, height, width), not from {input_shape}")
        if hasattr(encoder, "check_shape"):
            encoder.check_shape(input_shape)

    def cost(self) -> dict[str, int]:
        """Return how many numbers are trained and stored, the encoder's among them."""
        own = super().cost()
        return {name: own[name] + number for name, number in self.encoder_.cost().items()}

    def _head(self, H: np.ndarray, codes: np.ndarray, weights: np.ndarray | None) -> LogisticRegression:
        """Return a regression of features (n, d), of which the first have these labels."""
        head = few_label_logistic(codes, self.seed).fit(H[: len(codes)], codes, sample_weight=weights)
        return getattr(head, "best_estimator_", head)

    # -- the encoder ----------------------------------------------------------------------------------------------

    def _new_encoder(self) -> PretrainEstimator:
        cls = encoder_class(self.encoder)
        params = {"seed": self.seed, "device": self.device, **self.params}
        return cls.from_preset("small", **params) if "small" in cls.PRESETS else cls(**params)

    def _train(self, data: Tensor, progress: Progress) -> None:
        mean, std = data.mean(0), data.std(0, correction=0)
        table = data.ndim == 2
        self.mean_ = mean.cpu() if table else torch.zeros(())
        self.scale_ = torch.where(std > 0, std, 1.0).cpu() if table else torch.ones(())
        self.encoder_ = self._new_encoder().fit(self._standardized(data), progress=progress)
        H = self._features(data).cpu().double().numpy()
        self.center_ = H.mean(0)
        self.unit_ = float(np.sqrt(H.var(0).mean())) or 1.0

    def _features(self, data: Tensor) -> Tensor:
        return self.encoder_.transform(self._standardized(data)).flatten(1)

    def _standardized(self, data: Tensor) -> Tensor:
        return (data - self.mean_.to(data)) / self.scale_.to(data)

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        del state["values"]["encoder_"]
        return {**state, "encoder": self.encoder_._state()}

    def _load_state(self, state: Any) -> None:
        self.encoder_ = self._new_encoder()
        self.encoder_._load_state(state["encoder"])
        super()._load_state(state)


class SelfTraining(FeatureClassifier):
    """A logistic regression on features that takes its own confident answers for labels, by scikit-learn.

    Parameters
    ----------
    threshold : float in (0, 1)
        Probability from which on an answer is taken for a label.
    encoder, params, seed, device
        See :class:`FeatureClassifier`; the values themselves unless another encoder is named.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(400, 2)), np.arange(400) % 2
    >>> X[:, 0] += 6 * y
    >>> model = SelfTraining().fit(X[:4], y[:4], unlabeled=X[4:300])
    >>> bool((model.predict(X[300:]) == y[300:]).mean() > 0.95)
    True
    """

    encoder: str = free("RawFeatures", "a class of anytask.pretrain that encodes arrays or images", encoder_class)
    threshold: float = real(0.75, "probability from which on an answer is taken for a label", above=0, below=1)

    def fit(self, X: Any, y: Any = None, *, unlabeled: Any = None, progress: Progress | None = None) -> Self:  # type: ignore[override]
        """Learn as :meth:`FeatureClassifier.fit` does, from labels that all count the same."""
        return super().fit(X, y, unlabeled=unlabeled, progress=progress)

    def _head(self, H: np.ndarray, codes: np.ndarray, weights: np.ndarray | None) -> LogisticRegression:
        first = super()._head(H, codes, None)
        if len(H) == len(codes):
            return first
        known = np.concatenate([codes, np.full(len(H) - len(codes), -1)])
        plain = LogisticRegression(C=first.C, max_iter=1000)
        return SelfTrainingClassifier(plain, threshold=self.threshold).fit(H, known).estimator_
