"""IsoC-VGAE: vectors of nodes and graphs from which every layer of the encoder can be undone (2023).

An encoder of K layers makes ``h^0 = X, h^1, ..., h^K``. A decoder walks back from k = K to 1; layer k is undone by

1. ``mu = F_k(h^k) + P_k(z^k)`` and ``log sigma = S_k(h^k)``, where ``z^k`` is what layer k + 1 gave for ``h^k``; the
   top layer has no second term;
2. ``z^(k-1) = mu + sigma eps``, ``eps ~ N(0, I)``, which estimates ``h^(k-1)``.

Of each layer are asked, as means over nodes and values,

* what the node was: ``L_self = (z^(k-1) - h^(k-1))^2``;
* what was around it: ``L_nbr = KL(N(mu, sigma^2) || N(m, 1))``, with m the mean of ``h^(k-1)`` over the node and its
  neighbors;
* how many there were: ``L_deg = (ReLU(D_k(h^k)) - degree)^2``.

The loss is ``lam_self L_self + lam_nbr L_nbr + lam_deg L_deg``, each a mean over the layers. A model is isomorphic-
consistent of order k if nodes have equal vectors where, and only where, their neighborhoods of k hops are isomorphic.
A layer that can be undone keeps apart what it was given apart, so that K layers are consistent of order K; a decoder of
edges binds neighbors alone, which is order 1. No network that passes messages tells graphs apart that the 1-WL test
does not: the nodes of a ring of six and of two rings of three have one vector.

Departures from the paper
-------------------------
* In the released code the activation is the identity in every layer, by a variable that is bound late; here it is a
  ReLU but for the last layer, and ``activation="identity"`` is theirs.
* The released learning rate of 5e-6 moves the encoder so little in 30 epochs that it stays a random one. The default is
  5e-3 for up to 200 epochs; the released values are the preset ``paper``.
* With these defaults the loss falls to a fiftieth within 60 epochs, and yet vectors are hardly better than those of a
  random network as wide, by a probe that standardizes them (one seed; families of graphs, one and ten labels of each:
  .86 and .97 after 60 epochs, .84 and .95 at random; the karate club, each member its own feature, one and five labels:
  .60 and .85, at random .72 and .82, and with GCN .75 and .95, at random .72 and .95).
* Layers are 256 wide, not 512, so that a graph of 100,000 nodes and 1,000,000 edges is learned from in 8 GiB (5.9, and
  about a minute an epoch on one busy core).
* ``log sigma`` is kept in [-5, 5].
* PairNorm centers vectors before it scales them (PN-SI, in PyTorch Geometric), where the released code does both at
  once (PN-SCS).
* The weights after the step with the lowest loss are kept, where the released code keeps the vectors before it.
* ``log_degree`` asks for log(1 + degree), for graphs in which a few large degrees would outweigh all else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anytask.core.settings import flag, real
from anytask.parts.vae import diagonal_gaussian_kl
from anytask.pretrain.parts.graph_networks import TrainedGraphNetwork, perceptron
from anytask.pretrain.parts.graphs import GraphBatch

__all__ = ["IsoCVGAE"]

#: Range in which log sigma is kept, so that its exponential cannot overflow.
LOG_SIGMA_RANGE = (-5.0, 5.0)


class IsoCVGAE(TrainedGraphNetwork):
    """Vectors of nodes and graphs, without labels, that keep what is several hops away.

    Pick it where the place of a node in its surroundings says what you want to know (roles, kinds of graphs), and when
    several tasks are to share one set of vectors. Compare it with a random encoder, and with degrees and their means
    over neighbors (:class:`~anytask.pretrain.DegreeFeatures`), which often say as much; where communities are wanted,
    spectral embedding and a :class:`~anytask.pretrain.GraphVAE`, which rebuild edges, are the better choice.

    Graphs are undirected and without weights, see :func:`~anytask.pretrain.parts.graphs.read_graphs`: a PyTorch
    Geometric ``Data``, a networkx graph, a SciPy sparse matrix, ``(edge_index, x)``, or a list of these.

    Parameters
    ----------
    lam_self, lam_nbr, lam_deg : float, default 1, 0.1, 1
        Weights of a node's own vector, of the mean around it and of its degree; 0 switches one off.
    top_down : bool, default True
        Whether the decoder hands what it made of one layer on to the next below.
    sample : bool, default True
        Whether it draws this from its Gaussian in training, or takes the mean.
    log_degree : bool, default False
        Ask for the logarithm of 1 + degree.
    degree_lr : float, default 0.01
        Learning rate of the heads that name degrees.
    encoder : {"gin", "gcn"}, default "gin"
        The paper has GIN for graphs, and GCN for nodes and links.
    hidden, activation, norm, dropout, lr, weight_decay, epochs, patience, batch_size, seed, device
        See :class:`~anytask.pretrain.parts.graph_networks.TrainedGraphNetwork`.

    Attributes
    ----------
    loss_curve_ : list of float
        Loss of each epoch.

    Examples
    --------
    Two cliques with a node between them: nodes in like places have like vectors.

    >>> import networkx as nx, numpy as np
    >>> graph = nx.barbell_graph(4, 1)  # nodes 3 and 5 have the bridge, node 4
    >>> H = IsoCVGAE.from_preset("small", epochs=20).fit_transform(graph)
    >>> H.shape
    (9, 8)
    >>> vector = dict(zip(graph, H))
    >>> [bool(np.allclose(vector[0], vector[node], atol=1e-4)) for node in (1, 8, 3, 4)]
    [True, True, False, False]

    References
    ----------
    Chen et al., 2023, "Isomorphic-Consistent Variational Graph Auto-Encoders for Multi-Level Graph Representation
    Learning", arXiv:2312.05519.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"hidden": (32, 32, 8), "epochs": 150},
        "paper": {"hidden": (512, 512), "lr": 5e-6, "epochs": 30, "patience": 10},
    }

    lam_self: float = real(1.0, "weight of a node's own vector", at_least=0)
    lam_nbr: float = real(0.1, "weight of the mean around a node", at_least=0)
    lam_deg: float = real(1.0, "weight of a node's degree", at_least=0)
    top_down: bool = flag(True, "hand what was made of one layer on to the next below")
    sample: bool = flag(True, "draw it from its Gaussian in training, or take the mean")
    log_degree: bool = flag(False, "ask for the logarithm of 1 + degree")
    degree_lr: float = real(1e-2, "learning rate of the heads that name degrees", above=0)

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.lam_self == self.lam_nbr == self.lam_deg == 0:
            raise ValueError("lam_self, lam_nbr and lam_deg are all 0: nothing is asked of the vectors")

    def score_samples(self, X: Any) -> Any:
        """Return how badly each node is rebuilt: its loss, with means in place of draws; higher is more anomalous.

        Parameters
        ----------
        X : graph, or list of graphs

        Returns
        -------
        array or tensor of shape (n,)
        """
        return self._encoded(X, self._scores)

    def score_graphs(self, X: Any) -> Any:
        """Return how badly each graph is rebuilt, the mean over its nodes, shape (g,)."""
        return self._encoded(X, lambda data: data.total(self._scores(data).cpu()) / data.sizes)

    # -- the decoder ----------------------------------------------------------------------------------------------

    def _build(self) -> None:
        super()._build()
        widths = [self.n_features_in_, *map(int, self.hidden)]
        top = len(self.hidden) - 1
        layers = [InverseLayer(a, b, k == top) for k, (a, b) in enumerate(pairwise(widths))]
        self.decoder_ = nn.ModuleList(layers).to(self._device).eval()

    def _modules(self) -> nn.ModuleList:
        return nn.ModuleList([self.encoder_, self.decoder_])

    def _groups(self) -> list[dict[str, Any]]:
        heads = [p for name, p in self.decoder_.named_parameters() if ".degree." in name]
        names = set(map(id, heads))
        rest = [p for p in self._modules().parameters() if id(p) not in names]
        return [{"params": rest}, {"params": heads, "lr": self.degree_lr}]

    def _loss(self, batch: GraphBatch) -> Tensor:
        return self._node_losses(batch, torch.randn_like if self.sample else None).mean()

    def _scores(self, data: GraphBatch) -> Tensor:
        return self._node_losses(data.to(self._device), None)

    def _node_losses(self, batch: GraphBatch, eps: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Return the loss of each node (n,); ``eps(mu)`` are the draws, and None takes means."""
        weights = (self.lam_self, self.lam_nbr, self.lam_deg)
        layers = list(self._undone(batch, eps))
        return torch.stack([w * loss for layer in layers for w, loss in zip(weights, layer)]).sum(0) / len(layers)

    def _undone(self, batch: GraphBatch, eps: Callable[[Tensor], Tensor] | None) -> Iterator[tuple[Tensor, ...]]:
        """Yield L_self, L_nbr and L_deg of each node, shape (n,), from the top layer down."""
        hs, z = self.encoder_(batch), None
        degree = batch.degree.log1p() if self.log_degree else batch.degree
        for k in reversed(range(len(self.decoder_))):
            layer: Any = self.decoder_[k]
            h, target = hs[k + 1], hs[k]
            mu = layer.mean(h)  # (n, d_(k-1))
            if self.top_down and z is not None:
                mu = mu + layer.from_above(z)
            log_sigma = layer.log_sigma(h).clamp(*LOG_SIGMA_RANGE)
            z = mu if eps is None else mu + log_sigma.exp() * eps(mu)
            own = (z - target).square().mean(1)
            around = neighborhood_loss(mu, log_sigma, batch.neighborhood_mean(target))
            yield own, around, (layer.degree(h)[:, 0].relu() - degree).square()


class InverseLayer(nn.Module):
    """F_k, S_k, D_k and, below the top, P_k: what undoes a layer from ``width_in`` to ``width_out`` values."""

    def __init__(self, width_in: int, width_out: int, top: bool) -> None:
        super().__init__()
        self.mean = perceptron(width_out, width_out, width_in)
        self.log_sigma = perceptron(width_out, width_out, width_in)
        self.from_above = None if top else perceptron(width_out, width_out, width_in)
        self.degree = perceptron(width_out, width_out, 1, hidden=3)


def neighborhood_loss(mu: Tensor, log_sigma: Tensor, m: Tensor) -> Tensor:
    """Return ``KL(N(mu, sigma^2) || N(m, 1))`` of each node (n,), the mean over its values (n, d).

    Examples
    --------
    >>> mu, sigma, m = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 2.0]])
    >>> round(neighborhood_loss(mu, sigma.log(), m).item(), 6)  # of the entries 0.5 and 1.5 - ln 2
    0.653426
    """
    return diagonal_gaussian_kl(mu, 2 * log_sigma, m, mu.new_zeros(())) / mu.shape[1]
