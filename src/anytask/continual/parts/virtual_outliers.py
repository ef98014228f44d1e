"""Features that lie outside of what was seen, made out of what was seen."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def neighbor_distances(X: Tensor, of: Tensor, k: int) -> Tensor:
    """Return the squared distance (n,) from each row of X to its k-th nearest row of ``of``; itself counts, if there.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [0.1], [0.2], [0.3], [2.0]])
    >>> [round(float(d), 2) for d in neighbor_distances(x, x, 2)]
    [0.01, 0.01, 0.01, 0.01, 2.89]
    """
    k = min(k, len(of))
    return torch.cat([torch.cdist(part, of).kthvalue(k, dim=1).values for part in X.split(2048)]) ** 2


def virtual_outliers(
    features: Tensor,
    n: int,
    *,
    k: int,
    select: int,
    sample_from: int,
    cov: float,
    center: str,
    generator: torch.Generator,
) -> Tensor:
    """Return at most ``n`` features (n, d) at the edge of the given ones (NPOS; Tao et al., 2023).

    The ``select`` features that are loneliest, by the distance to their k-th neighbor on the unit sphere, get
    ``sample_from`` Gaussian offsets each, of standard deviation ``cov``; the loneliest of these are returned.

    Parameters
    ----------
    features : Tensor (m, d)
    n : int
        How many are wanted; there are at most ``select * sample_from``.
    k, select, sample_from, cov
        See above; k and select are at most m.
    center : {"boundary", "origin"}
        What offsets are added to: the loneliest features, or nothing, as released code does.
    generator : torch.Generator
    """
    on_sphere = F.normalize(features, dim=1)
    edge = features[neighbor_distances(on_sphere, on_sphere, k).topk(min(select, len(features))).indices]
    offsets = torch.randn(sample_from, features.shape[1], generator=generator).to(features) * cov
    around = edge if center == "boundary" else torch.zeros_like(edge)
    candidates = (around[:, None] + offsets).flatten(0, 1)  # (select * sample_from, d)
    lonely = neighbor_distances(F.normalize(candidates, dim=1), on_sphere, k)
    return candidates[lonely.topk(min(n, len(candidates))).indices]


def energy_hinges(s_in: Tensor, s_out: Tensor, delta_in: float, delta_out: float) -> Tensor:
    """Return the mean Huber loss of energies (n,), (m,): of those inside above a bound and of those outside below one.

    Examples
    --------
    >>> s = -torch.tensor([[2.0, 1.0]]).logsumexp(1)
    >>> round(energy_hinges(s, s, -15.0, -3.0).item(), 6), round(energy_hinges(s, s, -1.0, -1.0).item(), 6)
    (12.186738, 0.813262)
    """
    inside, outside = F.relu(s_in - delta_in), F.relu(delta_out - s_out)
    return F.huber_loss(inside, torch.zeros_like(inside)) + F.huber_loss(outside, torch.zeros_like(outside))


def logit_spread(logits: Tensor) -> Tensor:
    """Return how far the energies -logsumexp of logits (n, c) lie below their means, on average: the unit of bounds.

    What is added to all logits of a row does not change it; logits that tell nothing apart have log c.

    Examples
    --------
    >>> z = torch.tensor([[2.0, 1.0]])
    >>> round(logit_spread(z).item(), 6), round(logit_spread(z + 5).item(), 6), round(logit_spread(20 * z).item(), 6)
    (0.813262, 0.813262, 10.0)
    """
    return (logits.logsumexp(1) - logits.mean(1)).mean()
