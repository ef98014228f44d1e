"""Graphs as one block-diagonal batch: read from what holds them, checked, and joined."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from anytask.core.checks import as_numbers, require_finite_rows
from anytask.core.errors import shown


@dataclass(frozen=True)
class GraphBatch:
    """Undirected graphs beside each other, without edges between them.

    Attributes
    ----------
    x : tensor of shape (n, d)
        Features of the nodes, graph after graph; ones where none were given.
    edges : tensor of shape (2, m)
        Source and target, each edge both ways, in the order of the sources.
    sizes : tensor of shape (g,)
        Nodes of each graph.
    featured : bool
        Whether features were given.
    """

    x: Tensor
    edges: Tensor
    sizes: Tensor
    featured: bool = True

    @cached_property
    def degree(self) -> Tensor:
        """Neighbors of each node (n,)."""
        return torch.bincount(self.edges[0], minlength=len(self.x)).to(self.x)

    @cached_property
    def graph(self) -> Tensor:
        """The graph of each node (n,)."""
        return torch.arange(len(self.sizes), device=self.x.device).repeat_interleave(self.sizes)

    @cached_property
    def adjacency(self) -> Tensor:
        """A (n, n), sparse in rows: products take no memory for each edge."""
        n, zero = len(self.x), self.edges.new_zeros(1)
        rows = torch.cat([zero, torch.bincount(self.edges[0], minlength=n).cumsum(0)])
        ones = self.x.new_ones(self.edges.shape[1])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support")
            return torch.sparse_csr_tensor(rows, self.edges[1], ones, (n, n), check_invariants=False)

    def around(self, h: Tensor) -> Tensor:
        """Return the sum of ``h`` (n, d) over each node's neighbors, ``A h``."""
        return _SymmetricProduct.apply(self.adjacency, h)

    def neighborhood_mean(self, h: Tensor) -> Tensor:
        """Return the mean of ``h`` (n, d) over each node and its neighbors.

        Examples
        --------
        >>> path = read_graphs(([[0, 1, 1, 2], [1, 0, 2, 1]], [[1.0], [2.0], [6.0]]))
        >>> path.neighborhood_mean(path.x).flatten().tolist()
        [1.5, 3.0, 4.0]
        """
        return (h + self.around(h)) / (self.degree + 1)[:, None]

    def total(self, h: Tensor) -> Tensor:
        """Return the sum of ``h`` (n, ...) over the nodes of each graph, shape (g, ...)."""
        return h.new_zeros(len(self.sizes), *h.shape[1:]).index_add(0, self.graph, h)

    def strangers(self) -> Tensor:
        """Return pairs (2, at most m) of nodes of one graph without an edge, drawn with a partner for each edge's end.

        Pairs that turn out to have an edge, or to be one node twice, are left out.
        """
        u = self.edges[0]
        graph = self.graph[u]
        first = (self.sizes.cumsum(0) - self.sizes)[graph]
        v = first + (torch.rand(len(u), device=u.device) * self.sizes[graph]).long()
        n = len(self.x)
        keys, wanted = self.edges[0] * n + self.edges[1], u * n + v
        at = torch.searchsorted(keys, wanted).clamp(max=max(0, len(keys) - 1))
        kept = (keys[at] != wanted) & (u != v)
        return torch.stack([u, v])[:, kept]

    def take(self, graphs: Tensor) -> GraphBatch:
        """Return the batch of some of the graphs, in this order."""
        ends = self.sizes.cumsum(0)
        last = self.degree.long().cumsum(0)[ends - 1]  # of each graph's edges
        nodes, edges, shift = [], [], 0
        for place in graphs.tolist():
            stop, size = int(ends[place]), int(self.sizes[place])
            first = 0 if place == 0 else int(last[place - 1])
            nodes.append(self.x[stop - size : stop])
            edges.append(self.edges[:, first : int(last[place])] - (stop - size) + shift)
            shift += size
        return GraphBatch(torch.cat(nodes), torch.cat(edges, 1), self.sizes[graphs], self.featured)

    def to(self, device: torch.device) -> GraphBatch:
        """Return the batch on a device."""
        return GraphBatch(self.x.to(device), self.edges.to(device), self.sizes.to(device), self.featured)


class _SymmetricProduct(torch.autograd.Function):
    """``A h``, whose gradient is ``A g``: torch would transpose A anew in each backward pass."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, h: Tensor) -> Tensor:
        ctx.A = A
        return A @ h

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        return None, ctx.A @ g


def read_graphs(X: Any, name: str = "X") -> GraphBatch:
    """Return one graph, or a list of them, as a checked batch.

    Parameters
    ----------
    X : graph, or list of graphs
        A graph is a PyTorch Geometric ``Data``; a networkx graph, with features in the nodes' attribute ``x`` if there
        are any; a SciPy sparse adjacency matrix; or a tuple ``(edge_index, x)`` with edges of shape (2, m), each both
        ways, and features of shape (n, d) or None. A PyTorch ``Dataset`` or ``Batch`` of graphs is a list. Attributes
        of edges are not read.
    name : str
        Named in errors.

    Raises
    ------
    ValueError, TypeError
        For what is no graph, edges that are directed, weighted, from a node to itself, there twice or to a node that is
        not there, features that are NaN, infinite or of other widths, and graphs without nodes; with the graph.

    Examples
    --------
    >>> import networkx as nx
    >>> batch = read_graphs([nx.path_graph(3), nx.complete_graph(4)])
    >>> batch.degree.tolist(), batch.sizes.tolist()
    ([1.0, 2.0, 1.0, 3.0, 3.0, 3.0, 3.0], [3, 4])
    >>> read_graphs(nx.DiGraph([(0, 1)]))
    Traceback (most recent call last):
        ...
    ValueError: X is directed: make it undirected (graph.to_undirected())
    """
    several = listed(X)
    graphs = [X] if several is None else several
    if not graphs:
        raise ValueError(f"{name} holds 0 graph(s) while a minimum of 1 is required")
    wheres = [name if several is None else f"{name}[{place}]" for place in range(len(graphs))]
    read = [_read(graph, where) for graph, where in zip(graphs, wheres)]
    featured = read[0][2] is not None
    xs: list[Tensor] = []
    edges, shift = [], 0
    for (edge_index, n, x), where in zip(read, wheres):
        if (x is not None) != featured:
            raise ValueError(f"{where} has {'' if x is not None else 'no '}features, other than the graphs before")
        x = torch.ones(n, 1) if x is None else x
        if x.shape[1] != (xs or [x])[0].shape[1]:
            raise ValueError(f"{where} has {x.shape[1]} features, the graphs before have {xs[0].shape[1]}")
        xs.append(x)
        edges.append(edge_index + shift)
        shift += len(x)
    sizes = torch.tensor([len(x) for x in xs])
    return GraphBatch(torch.cat(xs), _undirected(torch.cat(edges, 1), sizes, wheres), sizes, featured)


def read_pairs(pairs: Any, n: int) -> Tensor:
    """Return pairs of n nodes, given as (p, 2), with shape (2, p).

    Examples
    --------
    >>> read_pairs([[0, 2], [1, 2]], 3).tolist()
    [[0, 1], [2, 2]]
    >>> read_pairs([[0, 3]], 3)
    Traceback (most recent call last):
        ...
    ValueError: pairs has nodes from 0 to 3, and there are 3
    """
    given = as_numbers(pairs, "pairs")
    found = given.cpu() if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    if found.ndim != 2 or found.shape[1] != 2 or found.is_floating_point() or found.dtype == torch.bool:
        kind = str(found.dtype).removeprefix("torch.")
        raise ValueError(f"pairs must be integers of shape (pairs, 2), got {kind} {tuple(found.shape)}")
    if len(found) and (int(found.min()) < 0 or int(found.max()) >= n):
        raise ValueError(f"pairs has nodes from {found.min()} to {found.max()}, and there are {n}")
    return found.T.long()


def listed(X: Any) -> list[Any] | None:
    """Return the graphs of what holds several, or None for what is one.

    Examples
    --------
    >>> pair = [0, 1], [1, 0]
    >>> listed((pair, None)), len(listed(((pair, None), (pair, None))))
    (None, 2)
    """
    if hasattr(X, "to_data_list"):
        return X.to_data_list()
    if isinstance(X, tuple):
        return list(X) if X and not is_graph(X) and all(map(is_graph, X)) else None
    return list(cast(Any, X)) if isinstance(X, (list, torch.utils.data.Dataset)) else None


def is_graph(value: Any) -> bool:
    """Return whether something is meant as a graph, whatever is wrong with it.

    Examples
    --------
    >>> is_graph((np.zeros((2, 0)), None)), is_graph(([1.0, 2.0], [0, 1]))
    (True, False)
    """
    if isinstance(value, tuple):
        return len(value) == 2 and _is_edges(value[0])
    known = ("edge_index", "num_nodes"), ("is_directed", "adjacency")
    return sparse.issparse(value) or any(all(hasattr(value, name) for name in names) for names in known)


def _is_edges(value: Any) -> bool:
    """Return whether something has the shape (2, m)."""
    if isinstance(value, (np.ndarray, Tensor)):
        return value.ndim == 2 and len(value) == 2
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    return all(
        row.ndim == 1 if isinstance(row, (np.ndarray, Tensor))
        else isinstance(row, (list, tuple)) and not isinstance(next(iter(row), 0), (list, tuple, np.ndarray, Tensor))
        for row in value
    )  # fmt: skip


def _read(graph: Any, where: str) -> tuple[Tensor, int, Tensor | None]:
    """Return edges (2, m), the number of nodes, and features (n, d) or None."""
    if isinstance(graph, tuple) and len(graph) == 2:
        edges, x = graph
        n = None
    elif sparse.issparse(graph):
        edges, x, n = *_of_matrix(graph, where), graph.shape[0]
    elif hasattr(graph, "is_directed") and hasattr(graph, "adjacency"):
        edges, x, n = *_of_networkx(graph, where), len(graph)
    elif hasattr(graph, "edge_index") and hasattr(graph, "num_nodes"):
        if graph.edge_index is None:
            raise ValueError(f"{where} has no edge_index: without edges it is of shape (2, 0)")
        edges, x, n = graph.edge_index, graph.x, graph.num_nodes
        weight = getattr(graph, "edge_weight", None)
        if weight is not None and not bool((weight == 1).all()):
            raise ValueError(f"{where} has an edge_weight: edges are there or not, leave it out")
    else:
        kinds = "a PyG Data, a networkx graph, a SciPy sparse matrix, a tuple (edge_index, x), or a list of these"
        raise TypeError(f"{where} must be {kinds}, got {shown(graph)}")
    if x is not None:
        x = as_numbers(x, f"{where}: x")
        x = (x if isinstance(x, Tensor) else torch.from_numpy(np.array(x))).to("cpu", torch.float32)
        if x.ndim != 2 or 0 in x.shape:
            raise ValueError(f"{where}: x must have shape (nodes, features), both at least 1, got {tuple(x.shape)}")
        require_finite_rows(x, f"{where}: x")
        if n is not None and n != len(x):
            raise ValueError(f"{where} has {n} nodes, and features of {len(x)}")
        n = len(x)
    return *_numbered(edges, n, where), x


def _numbered(edges: Any, n: int | None, where: str) -> tuple[Tensor, int]:
    """Return edges (2, m) between n nodes, and n."""
    edges = as_numbers(edges, f"{where}: edge_index")
    edges = edges.cpu() if isinstance(edges, Tensor) else torch.from_numpy(np.array(edges))
    if edges.numel() == 0:
        edges = torch.zeros(2, 0, dtype=torch.int64)
    if edges.ndim != 2 or len(edges) != 2 or edges.is_floating_point() or edges.dtype == torch.bool:
        kind = str(edges.dtype).removeprefix("torch.")
        raise ValueError(f"{where}: edge_index must be integers of shape (2, edges), got {kind} {tuple(edges.shape)}")
    if n is None:
        n = int(edges.max()) + 1 if edges.numel() else 0
    if n == 0:
        raise ValueError(f"{where} is a graph without nodes")
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= n):
        raise ValueError(f"{where}: edge_index has nodes from {edges.min()} to {edges.max()}, and there are {n}")
    return edges.to(torch.int64), n


def _of_matrix(matrix: Any, where: str) -> tuple[np.ndarray, None]:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{where}: an adjacency matrix is square, got {matrix.shape}")
    found = matrix.tocsr().tocoo()
    there = found.data != 0
    if not (found.data[there] == 1).all():
        raise ValueError(f"{where} is weighted: an adjacency matrix holds zeros and ones, as (matrix != 0) does")
    return np.stack([found.row[there], found.col[there]]).astype(np.int64), None


def _of_networkx(graph: Any, where: str) -> tuple[np.ndarray, Any]:
    if graph.is_directed():
        raise ValueError(f"{where} is directed: make it undirected (graph.to_undirected())")
    if graph.is_multigraph():
        raise ValueError(f"{where} may have an edge twice: make it a simple graph (networkx.Graph(graph))")
    if any(weight != 1 for *_, weight in graph.edges(data="weight", default=1)):
        raise ValueError(f"{where} is weighted: make all weights 1 (networkx.set_edge_attributes(graph, 1, 'weight'))")
    place = {node: number for number, node in enumerate(graph)}
    one_way = np.array([(place[u], place[v]) for u, v in graph.edges], dtype=np.int64).reshape(-1, 2).T
    both = np.concatenate([one_way, one_way[::-1]], axis=1)
    values = dict(graph.nodes(data="x"))
    lacking = [node for node, value in values.items() if value is None]
    if 0 < len(lacking) < len(values):
        raise ValueError(f"{where}: node {lacking[0]!r} has no features x, and others have")
    return both, None if len(lacking) == len(values) else list(values.values())


def _undirected(edges: Tensor, sizes: Tensor, wheres: list[str]) -> Tensor:
    """Return the edges (2, m) of all graphs in order, or say which is no edge of a simple undirected graph."""
    n, starts = int(sizes.sum()), sizes.cumsum(0) - sizes

    def said(u: int, v: int) -> str:
        graph = int(torch.searchsorted(starts, u, right=True)) - 1
        first = int(starts[graph])
        return f"{wheres[graph]} has an edge from node {u - first} to {v - first}"

    if bool((loops := edges[0] == edges[1]).any()):
        u = int(edges[0][loops][0])
        raise ValueError(f"{said(u, u)}, itself: remove self-loops")
    keys = (edges[0] * n + edges[1]).sort().values
    if bool((twice := keys[1:] == keys[:-1]).any()):
        key = int(keys[1:][twice][0])
        raise ValueError(f"{said(key // n, key % n)} twice: remove one of them")
    back = (edges[1] * n + edges[0]).sort().values
    if bool((lone := keys != back).any()):
        key = int(torch.minimum(keys, back)[lone][0])
        u, v = (key // n, key % n) if bool((keys == key).any()) else (key % n, key // n)
        raise ValueError(f"{said(u, v)}, and none back: edges are undirected, give each both ways")
    return torch.stack([keys // n, keys % n])
