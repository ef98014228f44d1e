"""The protocol of the pretraining family: scikit-learn transformers that learn features without labels.

``fit(X)`` reads its data, makes the modules and hands the data to the system's ``_train``; ``transform(X)`` returns
what the system's ``_features`` makes of them, a vector for each input. A fit that fails leaves the model as it was.
Data are arrays unless a system reads others: it then writes ``_read``, ``_note`` and ``_check_alike`` too.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import TransformerMixin
from torch import Tensor

from anytask.core.checks import as_given, check_input_shape, check_inputs, require_finite
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated

__all__ = ["PretrainEstimator"]


class PretrainEstimator(TransformerMixin, Estimator):
    """Base of the encoders: a system writes :meth:`_build`, :meth:`_train` and :meth:`_features`.

    Parameters
    ----------
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    n_features_in_ : int
        Number of values in one input.
    input_shape_ : tuple of int
        Shape of one input.
    """

    #: What a system looks at of the task; see :class:`~anytask.continual.base.ContinualClassifier`.
    sees: ClassVar[str] = "none"
    #: What it learns from: "arrays" of any shape, "images", "bags", "graphs" or "texts".
    takes: ClassVar[str] = "arrays"
    INFERENCE: ClassVar[tuple[str, ...]] = ()

    def fit(self, X: Any, y: Any = None, *, progress: Progress | None = None) -> Self:
        """Learn from inputs without labels.

        Parameters
        ----------
        X : array or tensor of shape (n, ...), or what the system reads
        y : ignored
            There for scikit-learn's pipelines.
        progress : callable, optional
            Told the finished share, in [0, 1].

        Raises
        ------
        ValueError, TypeError
            For empty data, and NaN or infinite inputs.
        NotFinite
            If training made a NaN or infinite weight; the model is left as it was.
        """
        data = self._read(X)
        told = heard(progress)
        with self._refit():
            self._note(data)
            with isolated(derive(self.seed, "init")):
                self._build()
            with isolated(derive(self.seed, "train")):
                self._train(data, told)
            self._keep_shape()
        return self

    def fit_transform(self, X: Any, y: Any = None, *, progress: Progress | None = None) -> Any:
        """Learn from inputs, and return their features; labels, which pipelines pass, are ignored."""
        return self.fit(X, progress=progress).transform(X)

    def transform(self, X: Any) -> Any:
        """Return the features of inputs.

        Parameters
        ----------
        X : array or tensor of shape (n, ...), or what the system reads

        Returns
        -------
        array or tensor of shape (n, d)
            A tensor for tensors, where they came from.
        """
        return self._encoded(X, self._features)

    # -- shared steps ---------------------------------------------------------------------------------------------

    def _pool(self, X: Tensor, unlabeled: Any) -> Tensor:
        """Return checked inputs with further ones below them, on the CPU; with none where these are None."""
        if unlabeled is None:
            return X
        more = check_inputs(unlabeled, "unlabeled")
        if more.shape[1:] != X.shape[1:]:
            shapes = f"{tuple(more.shape[1:])}, and X of shape {tuple(X.shape[1:])}"
            raise ValueError(f"unlabeled holds inputs of shape {shapes}: they must match")
        return torch.cat([X.cpu(), more.cpu()])

    def _encoded(self, X: Any, encode: Any) -> Any:
        """Return what ``encode`` makes of checked data, as it was given."""
        self._check_fitted()
        self._check_settings()
        self._check_shape_kept()
        data = self._read(X)
        self._check_alike(data)
        with torch.no_grad(), isolated(derive(self.seed, "transform")):
            H = require_finite(encode(data), "a feature")
        return self._as_given(H, X)

    # -- what a system that reads other data writes ---------------------------------------------------------------

    def _read(self, X: Any) -> Any:
        """Return checked data; arrays come as float32 tensors (n, \\*input_shape)."""
        return check_inputs(X)

    def _note(self, data: Any) -> None:
        """Keep the shape of one input, as plain values that end in an underscore."""
        self.input_shape_ = tuple(data.shape[1:])
        self.n_features_in_ = int(np.prod(self.input_shape_))

    def _check_alike(self, data: Any) -> None:
        """Raise a ``ValueError`` unless these data have the shape of those of the fit."""
        check_input_shape(data, self.input_shape_, type(self).__name__)

    def _as_given(self, H: Tensor, X: Any) -> Any:
        """Return features as the inputs came: a tensor where these were one, or a float64 array."""
        return as_given(H, X)

    # -- what a system writes -------------------------------------------------------------------------------------

    def _train(self, data: Any, progress: Progress) -> None:
        """Train on checked data, which are not yet on the device."""
        raise NotImplementedError

    def _features(self, data: Any) -> Tensor:
        """Return features (n, d) of checked data, on any device."""
        raise NotImplementedError
