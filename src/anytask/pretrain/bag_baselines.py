"""Features of bags that everybody has: their means and largest values, linear maps of means, and prototypes."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from anytask.core.progress import Progress
from anytask.core.settings import real, whole
from anytask.pretrain.parts.bags import BagEncoder, Bags

__all__ = ["MaxPooling", "MeanCCA", "MeanPooling", "PCAMeans", "PrototypePooling"]

#: Tokens whose nearest prototypes are found at a time.
_AT_ONCE = 65_536


class MeanPooling(BagEncoder):
    """The mean of a bag's tokens.

    Examples
    --------
    >>> MeanPooling().fit_transform([[[1.0, 2.0], [3.0, 4.0]]]).tolist()
    [[2.0, 3.0]]
    """

    def _train(self, data: dict[str, Bags], progress: Progress) -> None:
        progress(1.0)

    def _features_of(self, bags: Bags, place: int) -> Tensor:
        return means(bags)


class MaxPooling(MeanPooling):
    """The largest of a bag's values, in each of the dimensions.

    Examples
    --------
    >>> MaxPooling().fit_transform([[[1.0, 4.0], [3.0, 2.0]]]).tolist()
    [[3.0, 4.0]]
    """

    def _features_of(self, bags: Bags, place: int) -> Tensor:
        return torch.stack([bag.amax(0) for bag in bags.tokens.split(bags.lengths.tolist())])


class PCAMeans(BagEncoder):
    """The principal components of the means of the anchors' bags.

    Parameters
    ----------
    n_components : int
        At most so many; fewer where tokens have fewer values, or there are fewer cases.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.
    """

    n_components: int = whole(64, "at most so many components")

    def _train(self, data: dict[str, Bags], progress: Progress) -> None:
        anchor = next(iter(data.values()))
        M = means(anchor)[anchor.present].double()
        self.mean_ = M.mean(0)
        self.components_ = torch.linalg.svd(M - self.mean_, full_matrices=False).Vh[: self.n_components]
        progress(1.0)

    def _features_of(self, bags: Bags, place: int) -> Tensor:
        M = means(bags).double().to(self.mean_.device)
        return ((M - self.mean_) @ self.components_.T).float()


class MeanCCA(PCAMeans):
    """What the mean of an anchor's bag has in common with the means of the other views: canonical correlations.

    For each other view, over the cases that have both, the directions of the anchor's means that correlate most with
    directions of the view's means, each times its correlation. Learned of the anchor alone.

    Parameters
    ----------
    n_components : int
        Directions for each other view: at most so many.
    ridge : float
        Share of the mean variance that is added to all variances.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Examples
    --------
    The first value of the anchor's tokens is the second of the other view's, and the rest is noise:

    >>> rng = torch.Generator().manual_seed(0)
    >>> b, noise = torch.randn(100, 1, 1, generator=rng), torch.randn(2, 100, 4, 1, generator=rng)
    >>> first = torch.cat([b.expand(-1, 4, -1), noise[0]], dim=2)
    >>> second = torch.cat([noise[1], b.expand(-1, 4, -1)], dim=2)
    >>> H = MeanCCA(n_components=1).fit({"first": first, "second": second}).transform(first)
    >>> bool(torch.corrcoef(torch.stack([H[:, 0], b[:, 0, 0]]))[0, 1].abs() > 0.95)
    True
    """

    n_components: int = whole(8, "at most so many directions for each other view")
    ridge: float = real(0.01, "share of the mean variance that is added to all", above=0)

    def _train(self, data: dict[str, Bags], progress: Progress) -> None:
        anchor, *others = data.values()
        M = means(anchor).double()
        self.mean_ = M[anchor.present].mean(0)
        found = []
        for view in others:
            both = anchor.present & view.present
            if both.sum() >= 2:
                A, B = ((X[both] - X[both].mean(0)) for X in (M, means(view).double()))
                white = [_whitening(X, self.ridge) for X in (A, B)]
                U, s, _ = torch.linalg.svd(white[0] @ (A.T @ B / len(A)) @ white[1])
                found.append((white[0] @ U[:, : self.n_components] * s[: self.n_components]).T)
        if not found:
            raise ValueError("no view is there in two cases beside the anchor: nothing can be correlated")
        self.components_ = torch.cat(found)
        progress(1.0)

    def _features_of(self, bags: Bags, place: int) -> Tensor:
        if place:
            raise ValueError(f"MeanCCA learns directions of the anchor {self.views_[0]!r} alone: leave view out")
        return super()._features_of(bags, place)


class PrototypePooling(BagEncoder):
    """How many of a bag's tokens are near each of some prototypes, and where their mean lies from it.

    Prototypes are the centers of scikit-learn's k-means on tokens of the anchors.

    Parameters
    ----------
    n_prototypes : int
        At most so many; fewer where there are fewer tokens.
    max_tokens : int
        Tokens that are drawn for k-means, where there are more.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Examples
    --------
    >>> H = PrototypePooling(n_prototypes=2).fit_transform([[[0.0], [0.2], [8.0]], [[7.8], [8.0], [8.2]]])
    >>> sorted(H[0, :2].round(2).tolist())  # shares of the first bag's tokens
    [0.33, 0.67]
    """

    n_prototypes: int = whole(8, "at most so many prototypes")
    max_tokens: int = whole(20_000, "tokens that are drawn for k-means")

    def _train(self, data: dict[str, Bags], progress: Progress) -> None:
        every = next(iter(data.values())).tokens
        tokens = every[torch.randperm(len(every))[: self.max_tokens]].numpy()
        k = min(self.n_prototypes, len(np.unique(tokens, axis=0)))
        found = KMeans(k, n_init=1, random_state=self.seed % 2**32).fit(tokens)
        self.prototypes_ = torch.from_numpy(found.cluster_centers_.astype(np.float32))
        progress(1.0)

    def _features_of(self, bags: Bags, place: int) -> Tensor:
        P = self.prototypes_.cpu()
        nearest = torch.cat([torch.cdist(part, P).argmin(1) for part in bags.tokens.split(_AT_ONCE)])
        cell = torch.arange(len(bags)).repeat_interleave(bags.lengths) * len(P) + nearest
        counts = torch.bincount(cell, minlength=len(bags) * len(P))
        offsets = torch.zeros(len(counts), P.shape[1]).index_add_(0, cell, bags.tokens - P[nearest])
        offsets /= counts.clamp(min=1)[:, None]
        shares = counts.reshape(len(bags), -1) / bags.lengths[:, None]
        return torch.cat([shares, offsets.reshape(len(bags), -1)], dim=1)


def means(bags: Bags) -> Tensor:
    """Return the mean of each bag (n, d), 0 where there is none."""
    owner = torch.arange(len(bags)).repeat_interleave(bags.lengths)
    total = bags.tokens.new_zeros(len(bags), bags.tokens.shape[1]).index_add_(0, owner, bags.tokens)
    return total / bags.lengths.clamp(min=1)[:, None]


def _whitening(X: Tensor, ridge: float) -> Tensor:
    C = X.T @ X / len(X)
    variances, directions = torch.linalg.eigh(C)
    return directions / (variances.clamp(min=0) + ridge * C.trace() / len(C) + 1e-12).sqrt() @ directions.T
