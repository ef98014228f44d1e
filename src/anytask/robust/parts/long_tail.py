"""Class counts with a long tail: profiles that make them, priors, and losses that know the prior.

References
----------
Menon et al., 2021, "Long-tail Learning via Logit Adjustment", ICLR, arXiv:2007.07314.
Ren et al., 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS, arXiv:2007.10740.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def profile(n_classes: int, most: int, ratio: float) -> np.ndarray:
    """Return class sizes that fall geometrically from ``most`` to ``most / ratio``, at least 1 each.

    Parameters
    ----------
    n_classes : int
    most : int
        Size of the first class; of the last one for a ratio below 1.
    ratio : float > 0
        Size of the first class per that of the last; below 1 they rise.

    Examples
    --------
    >>> profile(4, 100, 20), profile(4, 100, 1 / 20)
    (array([100,  36,  13,   5]), array([  5,  13,  36, 100]))
    """
    if ratio < 1:
        return profile(n_classes, most, 1 / ratio)[::-1].copy()
    shares = ratio ** (-np.arange(n_classes) / max(1, n_classes - 1))
    return np.floor(most * shares + 1e-9).astype(int).clip(1)


def inverse_prior(prior: Tensor) -> Tensor:
    """Return the prior in which the largest class has the smallest share and so on; of equals the first is smaller.

    Examples
    --------
    >>> inverse_prior(torch.tensor([0.1, 0.3, 0.4, 0.2]))
    tensor([0.4000, 0.2000, 0.1000, 0.3000])
    """
    order = prior.argsort(stable=True)
    return torch.empty_like(prior).index_copy_(0, order, prior[order.flip(0)])


def expert_offsets(prior: Tensor, experts: Sequence[str | float]) -> Tensor:
    """Return what is added to the logits of each expert (K, C) in training, so that it comes to like certain classes.

    Parameters
    ----------
    prior : Tensor of shape (C,)
        Shares of the classes in training, all above 0.
    experts : sequence of "forward" or float >= 0
        "forward" learns the shares as they are; a number s is for the prior that is inverted with strength s: 0 for
        even classes, more for those in which the rare ones are frequent.

    Examples
    --------
    >>> expert_offsets(torch.tensor([0.7, 0.2, 0.1]), ["forward", 0, 2])[2]
    tensor([ 4.2485,  1.6094, -1.5892])
    """
    log, inverse = prior.log(), inverse_prior(prior).log()
    return torch.stack([torch.zeros_like(log) if e == "forward" else log - float(e) * inverse for e in experts])


class CosineHead(nn.Module):
    """A linear head whose weights and inputs have length 1, times a scale.

    Parameters
    ----------
    d, n_classes : int
    scale : float
    """

    def __init__(self, d: int, n_classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(n_classes, d), a=5**0.5))

    def forward(self, h: Tensor) -> Tensor:
        return self.scale * F.normalize(h, dim=-1) @ F.normalize(self.weight, dim=-1).T
