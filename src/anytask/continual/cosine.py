"""Cosine fine-tuning: the plain baseline of prototype methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from anytask.continual.parts.cosine import SMALL, CosineClassifier
from anytask.core.settings import choice

__all__ = ["CosineFineTuning"]


class CosineFineTuning(CosineClassifier):
    """Cross-entropy on cosines with one prototype per class, and nothing against forgetting.

    The baseline for systems with a cosine classifier: same encoder, views and optimizer as
    :class:`~anytask.continual.prd.PRD`, so a difference between the two is due to PRD's losses.

    Parameters
    ----------
    backbone, feature_dim, hidden, relu, views, lr, momentum, weight_decay, prototypes_lr, schedule
        As in :class:`~anytask.continual.prd.PRD`. The first task is what comes before the first :meth:`end_task`.
    tau : float > 0, default 0.1
        Temperature of the softmax over cosines.
    competitors : {"all", "batch"}, default "all"
        Which classes the softmax runs over in training: all seen so far, or those of the mini-batch, which keeps new
        classes from pushing old prototypes away.
    batch_size, epochs, seed, device
        As in :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    encoder_ : torch.nn.Module
    prototypes_ : anytask.continual.parts.prototypes.Prototypes

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 400)
    >>> X = np.eye(2)[y] @ rng.normal(size=(2, 10)) * 3 + rng.normal(size=(400, 10))
    >>> bool(CosineFineTuning.from_preset("small", epochs=3).fit(X, y).score(X, y) > 0.5 + 0.3)  # chance is 0.5
    True
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": SMALL}

    competitors: str = choice("all", ("all", "batch"), "classes that the softmax runs over in training")

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.prototypes_(self.encoder_(x)) / self.tau
        if self.competitors == "batch":
            absent = torch.ones(logits.shape[1], dtype=torch.bool, device=x.device)
            absent[y] = False
            logits = logits.masked_fill(absent, -torch.inf)
        return F.cross_entropy(logits, y)
