"""Vectors of nodes and graphs that everybody has: degrees, eigenvectors, networks that rebuild edges or are random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.progress import Progress
from anytask.core.settings import choice, real, whole
from anytask.parts.vae import diagonal_gaussian_kl
from anytask.pretrain.parts.graph_networks import GraphEncoder, GraphNetwork, TrainedGraphNetwork
from anytask.pretrain.parts.graphs import GraphBatch

__all__ = ["DegreeFeatures", "GraphVAE", "LinkHeuristics", "RandomGraphEncoder", "SpectralFeatures"]

#: Nodes up to which all eigenvalues are computed at once.
_DENSE = 500


class DegreeFeatures(GraphEncoder):
    """A node's own features, its degree, and means of both over its neighbors, hop by hop; nothing is learned.

    Parameters
    ----------
    hops : int
        How often means over the neighbors are taken; 0 is a node's own features and degree.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Examples
    --------
    >>> import networkx as nx
    >>> DegreeFeatures(hops=1).fit_transform(nx.star_graph(3)).tolist()
    [[3.0, 1.0], [1.0, 3.0], [1.0, 3.0], [1.0, 3.0]]
    """

    hops: int = whole(1, "how often means over the neighbors are taken", at_least=0)

    def _train(self, data: GraphBatch, progress: Progress) -> None:
        progress(1.0)

    def _features(self, data: GraphBatch) -> Tensor:
        degree = data.degree[:, None]
        found = [torch.cat([data.x, degree], 1) if data.featured else degree]
        for _ in range(self.hops):
            found.append(data.adjacency @ found[-1] / degree.clamp(min=1))
        return torch.cat(found, 1)


class LinkHeuristics(DegreeFeatures):
    """What two nodes' neighborhoods say of an edge between them: common neighbors, their Adamic-Adar index (each counts
    1 / log of its degree) and Jaccard coefficient (their share of all neighbors of either); nothing is learned.

    Vectors of nodes are those of :class:`DegreeFeatures`.

    Parameters
    ----------
    kind : {"all", "common", "adamic-adar", "jaccard"}
        "all": three values for each pair.
    hops, seed, device
        See :class:`DegreeFeatures`.

    Examples
    --------
    >>> import networkx as nx
    >>> LinkHeuristics(kind="common").fit(nx.star_graph(3)).transform_links(nx.star_graph(3), [[1, 2], [0, 1]]).tolist()
    [[1.0], [0.0]]
    """

    kind: str = choice("all", ("all", "common", "adamic-adar", "jaccard"), "which of them, for each pair")

    def _links(self, data: GraphBatch, u: Tensor, v: Tensor) -> Tensor:
        n, degree = len(data.x), data.degree.cpu().numpy()
        edges = data.edges.cpu().numpy()
        A = sparse.csr_array((np.ones(edges.shape[1]), (edges[0], edges[1])), shape=(n, n))
        shared = A[u.numpy()].multiply(A[v.numpy()]).tocsr()
        rarity = np.where(degree > 1, 1 / np.log(np.maximum(degree, 2)), 0.0)
        common = np.asarray(shared.sum(axis=1)).ravel()
        either = degree[u] + degree[v] - common
        found = {"common": common, "adamic-adar": shared @ rarity, "jaccard": common / np.maximum(either, 1)}
        return torch.from_numpy(np.stack([found[name] for name in found if self.kind in ("all", name)], axis=1)).float()


class SpectralFeatures(GraphEncoder):
    """Laplacian eigenmaps: the first eigenvectors of each graph's normalized Laplacian for its nodes, and the first
    eigenvalues for the graph; nothing is learned, and features of nodes are not read.

    Parameters
    ----------
    n_components : int
        Eigenvectors after the constant one; zeros where a graph has fewer.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Examples
    --------
    Of two cliques with a bridge, the first one tells the cliques apart.

    >>> import networkx as nx
    >>> H = SpectralFeatures(n_components=1).fit_transform(nx.barbell_graph(4, 0))
    >>> len({value > 0 for value in H[:4, 0]}), len({value > 0 for value in H[4:, 0]}), bool(H[0, 0] * H[-1, 0] < 0)
    (1, 1, True)
    """

    n_components: int = whole(8, "eigenvectors after the constant one")

    def transform_graphs(self, X: Any) -> Any:
        """Return the first eigenvalues of each graph's Laplacian after 0, shape (g, n_components)."""
        return self._encoded(X, lambda data: torch.stack([values for values, _ in self._spectra(data)]))

    def _train(self, data: GraphBatch, progress: Progress) -> None:
        progress(1.0)

    def _features(self, data: GraphBatch) -> Tensor:
        return torch.cat([vectors for _, vectors in self._spectra(data)])

    def _spectra(self, data: GraphBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the eigenvalues (k,) and eigenvectors (n, k) of each graph's Laplacian."""
        k = self.n_components
        for place in range(len(data.sizes)):
            graph = data.take(torch.tensor([place]))
            n, (u, v) = len(graph.x), graph.edges.numpy()
            scale = 1 / np.sqrt(np.maximum(graph.degree.numpy().astype(np.float64), 1))
            matrix = sparse.csr_array((scale[u] * scale[v], (u, v)), shape=(n, n))  # I - Laplacian
            if n <= max(_DENSE, k + 2):
                values, vectors = np.linalg.eigh(matrix.toarray())
            else:
                values, vectors = eigsh(matrix, k + 1, which="LA", v0=np.ones(n))
            order = np.argsort(-values, kind="stable")[1 : k + 1]
            vectors = vectors[:, order] * scale[:, None] * np.sqrt(n)
            vectors = vectors * np.where(vectors[abs(vectors).argmax(0), np.arange(len(order))] < 0, -1, 1)
            missing = k - len(order)
            yield (
                torch.from_numpy(np.pad(1 - values[order], (0, missing))).float(),
                torch.from_numpy(np.pad(vectors, ((0, 0), (0, missing)))).float(),
            )


class RandomGraphEncoder(GraphNetwork):
    """A message-passing network with the weights that it began with.

    Parameters
    ----------
    encoder, hidden, activation, norm, dropout, seed, device
        See :class:`~anytask.pretrain.parts.graph_networks.GraphNetwork`.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"hidden": (32, 32, 8)}}

    def _train(self, data: GraphBatch, progress: Progress) -> None:
        progress(1.0)


class GraphVAE(TrainedGraphNetwork):
    """Variational graph auto-encoder: inner products of the nodes' vectors say which of them are neighbors.

    For each edge one pair of its graph without an edge is drawn, and both count the same. Vectors are the means.

    Parameters
    ----------
    beta : float
        Weight of the divergence from N(0, I), summed over a vector's values.
    encoder, hidden, activation, norm, dropout, lr, weight_decay, epochs, patience, batch_size, seed, device
        See :class:`~anytask.pretrain.parts.graph_networks.TrainedGraphNetwork`.

    Examples
    --------
    >>> import networkx as nx
    >>> GraphVAE.from_preset("small", epochs=5).fit_transform(nx.davis_southern_women_graph()).shape
    (32, 8)

    References
    ----------
    Kipf, Welling, 2016, "Variational Graph Auto-Encoders", arXiv:1611.07308.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"hidden": (32, 32, 8), "epochs": 150}}

    beta: float = real(0.01, "weight of the divergence from N(0, I)", at_least=0)

    def _build(self) -> None:
        super()._build()
        width = int(self.hidden[-1])
        self.log_sigma_ = nn.Linear(width, width).to(self._device)

    def _modules(self) -> nn.ModuleList:
        return nn.ModuleList([self.encoder_, self.log_sigma_])

    def _train(self, data: GraphBatch, progress: Progress) -> None:
        if data.edges.shape[1] == 0:
            raise ValueError("X has no edges, and there is nothing else to rebuild")
        super()._train(data, progress)

    def _loss(self, batch: GraphBatch) -> Tensor:
        mu = self.encoder_(batch)[-1]
        log_sigma = self.log_sigma_(mu).clamp(-5, 5)
        z, zero = mu + log_sigma.exp() * torch.randn_like(mu), mu.new_zeros(())
        edges, others = batch.edges, batch.strangers()
        near, far = ((z[u] * z[v]).sum(1) for u, v in (edges, others))
        rebuilt = F.softplus(-near).sum() / max(1, len(near)) + F.softplus(far).sum() / max(1, len(far))
        return rebuilt + self.beta * diagonal_gaussian_kl(mu, 2 * log_sigma, zero, zero).mean()
