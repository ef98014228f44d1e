"""Small data of every kind that encoders without labels learn from, and how each kind is spoiled."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
import torch
from hard import BAD_INPUTS, SAME
from torch_geometric.data import Data

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class World:
    """Data of one kind: what is fitted, what is asked for, and how many features come back."""

    X: Any
    query: Any
    n: int
    one: Any  # a single input
    bad: dict[str, tuple[Callable[[Any], Any], str]]  # name -> (spoil X, what the error says)
    same: dict[str, Callable[[Any], Any]] = field(default_factory=dict)  # X in other clothes
    other: Any = None  # data of another shape
    constant: Any = None  # data in which nothing varies


_ARRAYS = np.round(8 * RNG.normal(size=(40, 1, 8, 8))).astype(np.float32) / 8  # exact in half precision
_FLAT = _ARRAYS.reshape(40, 64)


def _edges(graph: nx.Graph) -> np.ndarray:
    return np.stack(nx.to_scipy_sparse_array(graph, dtype=np.int64).nonzero()).astype(np.int64)


def _graph(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).integers(-8, 8, (n, 2)) / 8  # exact in half precision
    return _edges(nx.barabasi_albert_graph(n, 2, seed=seed)), x.astype(np.float32)


def _spoiled(spoil: Callable[[np.ndarray, np.ndarray], Any]) -> Callable[[Any], Any]:
    return lambda graphs: [graphs[0], spoil(*graphs[1]), *graphs[2:]]


def _as_networkx(edges: np.ndarray, x: np.ndarray) -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from((node, {"x": row.tolist()}) for node, row in enumerate(x))
    graph.add_edges_from(edges.T.tolist())
    return graph


_GRAPHS = [_graph(seed, 6 + seed) for seed in range(10)]
_LONE = (np.zeros((2, 0), np.int64), np.ones((3, 2), np.float32))  # without edges
_BAD_GRAPHS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "empty": (lambda graphs: [], "0 graph"),
    "no features": (_spoiled(lambda edges, x: (edges, x[:, :0])), "features"),
    "nan": (_spoiled(lambda edges, x: (edges, np.where(np.arange(len(x))[:, None] == 5, np.nan, x))), "row 5"),
    "directed": (_spoiled(lambda edges, x: (edges[:, 1:], x)), "none back"),
    "self-loop": (_spoiled(lambda edges, x: (np.append(edges, [[2], [2]], axis=1), x)), "self-loop"),
    "no nodes": (_spoiled(lambda edges, x: nx.Graph()), "without nodes"),
    "nothing": (lambda graphs: None, "X must"),
}

WORLDS: dict[str, World] = {
    "arrays": World(
        _FLAT, _FLAT[:7], 7, _FLAT[:1], BAD_INPUTS, SAME, other=_FLAT[:, :5], constant=np.ones_like(_FLAT)
    ),
    "images": World(
        _ARRAYS, _ARRAYS[:7], 7, _ARRAYS[:1], BAD_INPUTS,
        {kind: convert for kind, convert in SAME.items() if "pandas" not in kind},
        other=np.zeros((4, 1, 5, 5), np.float32), constant=np.ones_like(_ARRAYS),
    ),
    "graphs": World(
        _GRAPHS, [*_GRAPHS[:2], _LONE], 16, _GRAPHS[:1], _BAD_GRAPHS,
        {
            "networkx": lambda graphs: [_as_networkx(*graph) for graph in graphs],
            "tensors": lambda graphs: [tuple(map(torch.from_numpy, graph)) for graph in graphs],
            "tensors of PyTorch Geometric": lambda graphs: [
                Data(edge_index=torch.from_numpy(edges), x=torch.from_numpy(x).double()) for edges, x in graphs
            ],
            "lists": lambda graphs: [(edges[:, ::-1].tolist(), x.tolist()) for edges, x in graphs],
        },
        other=[(edges, x[:, :1]) for edges, x in _GRAPHS],
        constant=[(_edges(nx.cycle_graph(n)), None) for n in (3, 6, 9)],
    ),
}  # fmt: skip


def numbers(features: Any) -> np.ndarray:
    """Return features as an array."""
    return features.numpy() if isinstance(features, torch.Tensor) else np.asarray(features)
