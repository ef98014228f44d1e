"""Encoders of graphs: the protocol, message-passing networks, and the way in which they are trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from anytask.core.checks import as_given
from anytask.core.progress import Progress
from anytask.core.settings import choice, numbers, real, whole
from anytask.core.training import train
from anytask.pretrain.base import PretrainEstimator
from anytask.pretrain.parts.graphs import GraphBatch, listed, read_graphs, read_pairs


def geometric() -> Any:
    """Return ``torch_geometric.nn``, or say how to install it."""
    try:
        import torch_geometric.nn
    except ImportError as error:
        raise ImportError("networks on graphs need PyTorch Geometric: pip install 'anytask[graphs]'") from error
    return torch_geometric.nn


def perceptron(width_in: int, width: int, width_out: int, hidden: int = 2) -> nn.Module:
    """Return hidden layers (linear, batch normalization, ReLU) and a linear layer without bias."""
    widths = [width_in, *[width] * hidden, width_out]
    return geometric().MLP(widths, norm="batch_norm", act="relu", bias=[True] * hidden + [False])


class MessagePassing(nn.Module):
    """Layers that pass messages between neighbors; each has its normalization, but for the last.

    Parameters
    ----------
    kind : {"gin", "gcn"}
    widths : sequence of int
        d_0 of the features, then those of the layers.
    activation : {"relu", "identity"}
        After each layer but the last.
    norm : {"batch", "pair"}
    dropout : float
        Before each layer but the first.
    """

    def __init__(self, kind: str, widths: Sequence[int], activation: str, norm: str, dropout: float) -> None:
        super().__init__()
        pyg, pairs = geometric(), list(pairwise(widths))
        if kind == "gin":
            layers: list[Any] = [GraphIsomorphism(a, b) for a, b in pairs]
        else:
            layers = [GraphConvolution(a, b) for a, b in pairs]
        self.layers = nn.ModuleList(layers)
        norms = [pyg.PairNorm(20.0, True) if norm == "pair" else pyg.BatchNorm(b) for b in widths[1:-1]]
        self.norms, self.by_graph = nn.ModuleList(norms), norm == "pair"
        self.act = nn.ReLU() if activation == "relu" else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: GraphBatch) -> list[Tensor]:
        """Return ``h^0 = x, h^1, ..., h^K``, each (n, d_k)."""
        hs = [batch.x]
        norm_args = (batch.graph,) if self.by_graph else ()
        for k, layer in enumerate(self.layers):
            h = layer(hs[-1] if k == 0 else self.dropout(hs[-1]), batch)
            hs.append(self.act(self.norms[k](h, *norm_args)) if k < len(self.norms) else h)
        return hs


class GraphIsomorphism(nn.Module):
    """``nn(h + A h)``: PyTorch Geometric's ``GINConv``, which would transpose A for each gradient."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        network: Any = perceptron(width_in, width_out, width_out)
        network.reset_parameters()  # as GINConv draws
        self.nn = network

    def forward(self, h: Tensor, batch: GraphBatch) -> Tensor:
        return self.nn(batch.around(h) + h)


class GraphConvolution(nn.Module):
    """``D^(-1/2) (A + I) D^(-1/2) h W``, with D of A + I: PyTorch Geometric's ``GCNConv``, which would copy A."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width_out, bias=False)

    def forward(self, h: Tensor, batch: GraphBatch) -> Tensor:
        scale = (batch.degree + 1).to(h).rsqrt()[:, None]
        h = scale * self.linear(h)
        return scale * (h + batch.around(h))


class GraphEncoder(PretrainEstimator):
    """Base of what gives vectors to nodes, and by their sums to graphs.

    ``fit`` and ``transform`` take a graph or a list of graphs, see :func:`~anytask.pretrain.parts.graphs.read_graphs`.
    Features are tensors where the first graph holds tensors, and arrays otherwise.
    """

    takes: ClassVar[str] = "graphs"

    def transform_graphs(self, X: Any) -> Any:
        """Return a vector for each graph, the sum of those of its nodes.

        Parameters
        ----------
        X : graph, or list of g graphs

        Returns
        -------
        array or tensor of shape (g, d)
        """
        return self._encoded(X, lambda data: data.total(self._features(data).cpu()))

    def transform_links(self, X: Any, pairs: Any) -> Any:
        """Return a vector for each pair of nodes, which says whether there should be an edge.

        Parameters
        ----------
        X : graph, or list of graphs
        pairs : array or tensor of shape (p, 2)
            Numbers of nodes: the places of their rows in what :meth:`transform` returns.

        Returns
        -------
        array or tensor of shape (p, d)
            The product of the two nodes' vectors, value by value, unless an encoder has its own way.
        """
        return self._encoded(X, lambda data: self._links(data, *read_pairs(pairs, len(data.x))))

    def _links(self, data: GraphBatch, u: Tensor, v: Tensor) -> Tensor:
        """Return vectors (p, d) of pairs of nodes u and v, each (p,)."""
        H = self._features(data).cpu()
        return H[u] * H[v]

    def _read(self, X: Any) -> GraphBatch:
        return read_graphs(X)

    def _note(self, data: GraphBatch) -> None:
        self.n_features_in_ = data.x.shape[1]

    def _check_alike(self, data: GraphBatch) -> None:
        if (found := data.x.shape[1]) != self.n_features_in_:
            name = type(self).__name__
            raise ValueError(
                f"X has {found} features, but {name} is expecting {self.n_features_in_} features as input."
            )

    def _as_given(self, H: Tensor, X: Any) -> Any:
        several = listed(X)
        first = X if several is None else several[0]
        edges = first[0] if isinstance(first, tuple) else getattr(first, "edge_index", None)
        return as_given(H, edges if edges is not None else np.empty(0))


class GraphNetwork(GraphEncoder):
    """Base of the encoders that pass messages: vectors are those of the last layer.

    Parameters
    ----------
    encoder : {"gin", "gcn"}
        Graph isomorphism network (sums over neighbors) or graph convolutions (weighted means).
    hidden : sequence of int
        Widths of the layers; the last one is that of the vectors.
    activation : {"relu", "identity"}
        After each layer but the last.
    norm : {"batch", "pair"}
        Batch normalization, or PairNorm with a length of 20 for each node, after each layer but the last.
    dropout : float
        Before each layer but the first, in training.
    """

    encoder: str = choice("gin", ("gin", "gcn"), "sums over neighbors (GIN), or weighted means (GCN)")
    hidden: Sequence[int] = numbers(
        (256, 256), "widths of the layers, the last of the vectors", at_least=1, integers=True
    )
    activation: str = choice("relu", ("relu", "identity"), "after each layer but the last")
    norm: str = choice("batch", ("batch", "pair"), "after each layer but the last: batch normalization or PairNorm")
    dropout: float = real(0.0, "share that is dropped before each layer but the first", at_least=0, below=1)

    def _check_settings(self) -> None:
        if len(self.hidden) == 0:
            raise ValueError("hidden must name the width of at least one layer")

    def _build(self) -> None:
        widths = (self.n_features_in_, *map(int, self.hidden))
        net = MessagePassing(self.encoder, widths, self.activation, self.norm, self.dropout)
        self.encoder_ = net.to(self._device).eval()

    def _features(self, data: GraphBatch) -> Tensor:
        return self.encoder_(data.to(self._device))[-1]


class TrainedGraphNetwork(GraphNetwork):
    """Base of the encoders that learn; a subclass writes :meth:`_loss`, and :meth:`_groups` if more than one.

    Parameters
    ----------
    lr, weight_decay : float
        Of Adam.
    epochs : int
        Passes over the graphs; one graph is one step.
    patience : int
        Epochs without a lower training loss after which training ends; the weights of the lowest are kept.
    batch_size : int
        Graphs of a step, at least; a pass over fewer is one step.
    encoder, hidden, activation, norm, dropout, seed, device
        See :class:`GraphNetwork`.
    """

    lr: float = real(5e-3, "learning rate", above=0)
    weight_decay: float = real(3e-4, "weight decay", at_least=0)
    epochs: int = whole(200, "passes over the graphs")
    patience: int = whole(50, "epochs without a lower training loss after which training ends")
    batch_size: int = whole(64, "graphs of a step, at least", at_least=2)

    def _modules(self) -> nn.ModuleList:
        return nn.ModuleList([self.encoder_])

    def _groups(self) -> list[dict[str, Any]]:
        return [{"params": self._modules().parameters()}]

    def _loss(self, batch: GraphBatch) -> Tensor:
        """Return the loss of a batch, in training."""
        raise NotImplementedError

    def _train(self, data: GraphBatch, progress: Progress) -> None:
        if len(data.x) < 2:
            raise ValueError("X has 1 node, and batch normalization needs at least 2 to learn from")
        if data.edges.shape[1] == 0:
            warnings.warn("X has no edges: vectors say what the features of the nodes do, and no more", stacklevel=4)
        data = data.to(self._device)
        parts = max(1, len(data.sizes) // self.batch_size)  # of two graphs or more, but for one in all
        order: list[Tensor] = []
        recent: list[float] = []
        history: list[float] = []

        def draw(step: int) -> GraphBatch:
            if stale(history) > self.patience:
                raise StopIteration
            if parts == 1:
                return data
            if not order:
                order.extend(torch.randperm(len(data.sizes)).tensor_split(parts))
            return data.take(order.pop())

        def losses(batch: GraphBatch) -> Tensor:
            loss = self._loss(batch)
            recent.append(loss.item())
            return loss

        def select() -> float:
            history.append(float(np.mean(recent)))
            recent.clear()
            return -history[-1]

        optimizer = torch.optim.Adam(self._groups(), lr=self.lr, weight_decay=self.weight_decay)
        train(
            self._modules(), draw, losses, steps=self.epochs * parts, optimizer=optimizer, select=select,
            select_every=parts, stage="pretraining", progress=progress,
        )  # fmt: skip
        self.loss_curve_ = history


def stale(history: Sequence[float]) -> int:
    """Return how many epochs ago the loss was lowest.

    Examples
    --------
    >>> stale([3.0, 1.0, 2.0, 2.5]), stale([])
    (2, 0)
    """
    return len(history) - 1 - int(np.argmin(history)) if history else 0
