"""Features of bags that everybody has: their means and largest values, and linear maps of means."""

from __future__ import annotations

import torch
from torch import Tensor

from anytask.core.progress import Progress
from anytask.core.settings import real, whole
from anytask.pretrain.parts.bags import BagEncoder, Bags

__all__ = ["MaxPooling", "MeanCCA", "MeanPooling", "PCAMeans"]


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


def means(bags: Bags) -> Tensor:
    """Return the mean of each bag (n, d), 0 where there is none."""
    owner = torch.arange(len(bags)).repeat_interleave(bags.lengths)
    total = bags.tokens.new_zeros(len(bags), bags.tokens.shape[1]).index_add_(0, owner, bags.tokens)
    return total / bags.lengths.clamp(min=1)[:, None]


def _whitening(X: Tensor, ridge: float) -> Tensor:
    C = X.T @ X / len(X)
    variances, directions = torch.linalg.eigh(C)
    return directions / (variances.clamp(min=0) + ridge * C.trace() / len(C) + 1e-12).sqrt() @ directions.T
