"""Features that everybody has: the values themselves, their principal components, and encoders that never learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import numbers, whole
from anytask.models.build import backbone_field, build_body
from anytask.pretrain.base import PretrainEstimator

__all__ = ["PCAFeatures", "PretrainedEncoder", "RandomEncoder", "RawFeatures"]


class RawFeatures(PretrainEstimator):
    """The values of the inputs, as they are.

    Examples
    --------
    >>> RawFeatures().fit_transform([[[1.0, 2.0], [3.0, 4.0]]]).tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """

    def _train(self, data: Tensor, progress: Progress) -> None:
        progress(1.0)

    def _features(self, data: Tensor) -> Tensor:
        return data.flatten(1)


class PCAFeatures(RawFeatures):
    """The principal components, by scikit-learn.

    Parameters
    ----------
    n_components : int
        At most so many; fewer where inputs have fewer values, or there are fewer rows.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Examples
    --------
    >>> X = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    >>> PCAFeatures(n_components=1).fit_transform(X).abs().round(decimals=3).tolist()
    [[1.4140000343322754], [0.0], [1.4140000343322754]]
    """

    n_components: int = whole(64, "at most so many components")

    def _train(self, data: Tensor, progress: Progress) -> None:
        X = data.flatten(1).double().numpy()
        with np.errstate(invalid="ignore"):  # shares of no variance at all
            pca = PCA(min(self.n_components, *X.shape), random_state=self.seed % 2**32).fit(X)
        self.mean_, self.components_ = (torch.from_numpy(part.copy()) for part in (pca.mean_, pca.components_))
        progress(1.0)

    def _features(self, data: Tensor) -> Tensor:
        X = data.flatten(1).double()
        return ((X - self.mean_.to(X)) @ self.components_.to(X).T).float()


class RandomEncoder(PretrainEstimator):
    """A network with the weights that it began with.

    Parameters
    ----------
    backbone : None, str, torch.nn.Module or callable
        From inputs to features: None for a perceptron, or what :func:`~anytask.models.build.build_backbone` takes.
    hidden : sequence of int
        Widths of the perceptron.
    n_features : int or None
        Width of the features of a backbone that is named.
    size : int or None
        Edge to which smaller images are enlarged.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.
    """

    backbone: Any = backbone_field(None, "the encoder, from inputs to features")
    hidden: Sequence[int] = numbers((128, 64), "widths of the perceptron", at_least=1, integers=True)
    n_features: int | None = whole(None, "width of a named backbone's features", optional=True)
    size: int | None = whole(None, "edge to which smaller images are enlarged", optional=True)

    def _build(self) -> None:
        shape = self._enlarged(torch.empty(1, *self.input_shape_, device="meta")).shape[1:]
        body, _ = build_body(self.backbone, tuple(shape), self.hidden, self.n_features, derive(self.seed, "encoder"))
        self.encoder_ = body.to(self._device).eval()

    def _train(self, data: Tensor, progress: Progress) -> None:
        progress(1.0)

    def _features(self, data: Tensor) -> Tensor:
        parts = (self._enlarged(part.to(self._device)) for part in data.split(256))
        return torch.cat([self.encoder_(part) for part in parts]).flatten(1)

    def _enlarged(self, x: Tensor) -> Tensor:
        if self.size is None or x.ndim != 4 or min(x.shape[2:]) >= self.size:
            return x
        scale = self.size / min(x.shape[2:])
        return F.interpolate(x, [round(scale * edge) for edge in x.shape[2:]], mode="bilinear")


class PretrainedEncoder(RandomEncoder):
    """A network that somebody else trained on other images, as it is.

    Parameters
    ----------
    backbone : str or torch.nn.Module
        EfficientNet-lite0 with its ImageNet weights unless given; see :func:`~anytask.models.build.build_backbone`.
    size : int
        Edge to which smaller images are enlarged: below about 100 pixels its features are poor.
    hidden, n_features, seed, device
        See :class:`RandomEncoder`.
    """

    takes: ClassVar[str] = "images"

    backbone: Any = backbone_field("efficientnet-lite0", "the encoder, from images to features")
    size: int | None = whole(112, "edge to which smaller images are enlarged", optional=True)
