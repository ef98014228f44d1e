"""SLA: label augmentation by self-supervision (Lee, Hwang and Shin, 2020).

Departures from the paper
-------------------------
* The checkpoint is selected on images held out of the training set (``validation_fraction``), by single inference.
* The heads for few-shot episodes (:class:`~anytask.robust.parts.few_shot.FewShotHead`) follow our reading: each support
  image enters under all M transformations as N M classes, and a query is scored by the mean over its own columns. Their
  "ridge" head is the closed form that stands for MetaOptNet's convex solver; no meta-training is included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from anytask.core.settings import choice, flag, real
from anytask.parts.distillation import kl_distillation
from anytask.robust.parts.joint_labels import aggregate, joint_labels, own_columns
from anytask.robust.parts.transformed import TransformedTraining, cross_entropy, weighted_mean

__all__ = ["SLA"]


class SLA(TransformedTraining):
    """Classify images by the joint label of class and transformation, and average over the transformations.

    Each image is learned under M transformations (four rotations, say) as M different classes (y, j), so that the
    network need not be invariant to them, as plain augmentation asks it to be. Pick it when labels are few and images
    have an orientation or colors that carry meaning; training costs M forward passes, prediction M or one.

    What is not listed here (``backbone``, ``transforms``, ``views``, ``steps``, ``lr`` and so on) is as in
    :class:`~anytask.robust.parts.transformed.TransformedTraining`. The defaults are those of CIFAR;
    ``SLA.from_preset("small")`` is for some hundred small images.

    Parameters
    ----------
    inference : {"aggregated", "single", "distilled"}, default "aggregated"
        ``"aggregated"``: the mean logit of (y, j) over the M transformed images; ``"single"``: the logits of (y, 1) on
        the image alone; ``"distilled"``: a head of N classes that learned from the aggregated answer, in one pass.
        ``set_params(inference=...)`` changes it after training.
    distill : bool, default False
        Train that head along (SLA+SD).
    temperature, beta : float, default 1.0 and 1.0
        T of the distillation, and the weight of the head's cross-entropy.
    sum_over_transforms : bool, default False
        Multiply the loss of the joint labels by M, as the released code does for ImageNet and iNaturalist.
    accumulate : bool, default False
        One transformation at a time, for M times less memory; the same gradients unless batch statistics are used.

    Examples
    --------
    A bar that is upright or lies flat: as augmentation, quarter turns would make the two classes one.

    >>> rng = torch.Generator().manual_seed(0)
    >>> X = 0.3 * torch.randn(80, 1, 8, 8, generator=rng)
    >>> y = torch.arange(80) % 2
    >>> X[y == 0, :, 1:7, 3:5] += 1
    >>> X[y == 1, :, 3:5, 1:7] += 1
    >>> model = SLA.from_preset("small", steps=40).fit(X[:40], y[:40])
    >>> bool((model.predict(X[40:]) == y[40:]).float().mean() > 0.9)
    True

    References
    ----------
    Lee, Hwang, Shin, 2020, "Self-supervised Label Augmentation via Input Transformations", ICML, arXiv:1910.05872.
    """

    INFERENCE: ClassVar = ("inference",)
    MODES: ClassVar = ("aggregated", "single", "distilled")

    inference: str = choice("aggregated", MODES, "how to predict")
    distill: bool = flag(False, "train the distilled head along")
    temperature: float = real(1.0, "T of the distillation", above=0)
    beta: float = real(1.0, "weight of the distilled head's cross-entropy", at_least=0)
    sum_over_transforms: bool = flag(False, "multiply the loss of the joint labels by M")
    accumulate: bool = flag(False, "back-propagate one transformation at a time")

    def _check_settings(self) -> None:
        if self.inference == "distilled" and not self.distill:
            raise ValueError("inference='distilled' needs distill=True")

    def _head_sizes(self, N: int, M: int) -> dict[str, int]:
        return {"w": N * M} | ({"u": N} if self.distill else {})

    def _losses(self, x: Tensor, y: Tensor, w: Tensor | None = None) -> Iterator[Tensor]:
        # The identity comes last, since distillation needs the sum of all own columns.
        passes = [[j] for j in reversed(range(self.M))] if self.accumulate else [list(range(self.M))]
        weight = None if self._weight is None else self._weight.repeat_interleave(self.M)
        s = torch.zeros(())
        for js in passes:
            z = self.f(self.expand(x, js))  # (B * len(js), D)
            logits = self.net_["w"](z).unflatten(0, (len(x), len(js)))  # (B, len(js), N * M)
            L_sla = cross_entropy(logits.flatten(0, 1), joint_labels(y, js, self.M).flatten(), weight, w)
            loss = L_sla * len(js) / (1 if self.sum_over_transforms else self.M)
            s = s + own_columns(logits, js, self.M).sum(1).detach() / self.M  # (B, N)
            if self.distill and 0 in js:
                u = self.net_["u"](z[:: len(js)])  # (B, N), of the identity's features
                loss = loss + self.beta * cross_entropy(u, y, self._weight, w)
                loss = loss + weighted_mean(kl_distillation(u, s, self.temperature, reduction="none", scale=True), w)
            yield loss

    def _scores(self, X: Tensor) -> Tensor:
        x = self.images(X)
        if self.inference == "single":
            return self._single(x)
        if self.inference == "distilled":
            return self.net_["u"](self.f(x))
        return aggregate(self.net_["w"](self.f(self.expand(x))).unflatten(0, (len(x), self.M)))

    def _single(self, x: Tensor) -> Tensor:
        return self.net_["w"](self.f(x))[:, :: self.M]
