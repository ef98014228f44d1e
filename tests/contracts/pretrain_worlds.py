"""Small data of every kind that encoders without labels learn from, and how each kind is spoiled."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import torch
from hard import BAD_INPUTS, SAME
from torch_geometric.data import Data

from anytask.datasets.corpora import TextCorpus

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
    odd: dict[str, Any] = field(default_factory=dict)  # what is unusual, and learned from all the same


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


def _half_featured(edges: np.ndarray, x: np.ndarray) -> nx.Graph:
    graph = _as_networkx(edges, x)
    del graph.nodes[0]["x"]
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
    "a node without features": (_spoiled(lambda edges, x: _half_featured(edges, x)), "node 0 has no features"),
    "nothing": (lambda graphs: None, "X must"),
}


def _bags(n: int, missing: int, seed: int) -> list[Any]:
    """Return n bags of one to six vectors, of which every ``missing``-th is not there; the first has one vector."""
    rng = np.random.default_rng(seed)
    sizes = [1, *rng.integers(1, 7, size=n - 1)]
    bags = [np.round(8 * rng.normal(size=(size, 5))).astype(np.float32) / 8 for size in sizes]
    return [None if missing and case % missing == 0 else bag for case, bag in enumerate(bags)]


def _with_bag(view: str, case: int, bag: Any) -> Callable[[Any], Any]:
    return lambda views: views | {view: [bag if i == case else old for i, old in enumerate(views[view])]}


def _each(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda views: {name: [None if b is None else convert(b) for b in bags] for name, bags in views.items()}


_VIEWS = {"a": _bags(12, 0, 1), "b": _bags(12, 3, 2), "c": _bags(12, 4, 3)}
_BAGS = World(
    _VIEWS, _VIEWS["a"][:7], 7, _VIEWS["a"][:1],
    {
        "nan": (_with_bag("b", 4, np.full((2, 5), np.nan)), "case 4 of the view 'b' contains NaN"),
        "inf": (_with_bag("a", 4, np.full((2, 5), np.inf)), "case 4 of the view 'a' contains NaN or inf"),
        "another width": (_with_bag("a", 2, np.ones((2, 3))), "case 2 of the view 'a' has tokens of 3 features"),
        "one vector": (_with_bag("a", 2, np.ones(5)), "case 2 of the view 'a' must have shape"),
        "an empty bag": (_with_bag("a", 2, np.ones((0, 5))), "case 2 of the view 'a' must have shape"),
        "words": (_with_bag("c", 1, [["a"] * 5]), "case 1 of the view 'c' must be numeric"),
        "lengths": (lambda views: views | {"b": views["b"][:-1]}, "'b' has 11 cases"),
        "no view": (lambda views: {}, "at least one view"),
        "nothing": (lambda views: None, "X must"),
        "no bag": (lambda views: {"a": [None, None]}, "at least one bag"),
        "an anchor that nobody has": (lambda views: views | {"a": [None] * 12}, "(anchor|view) 'a'"),
    },
    {kind: _each(SAME[kind]) for kind in ("float64", "list", "strided", "tensor", "half precision", "objects")},
    other=[np.ones((2, 4), np.float32)] * 3,
    constant={name: [np.ones((2, 5), np.float32)] * 8 for name in "ab"},
    odd={"a view that nobody has": _VIEWS | {"d": [None] * 12},
         "bags of one vector": {name: [np.full((1, 5), i, np.float32) for i in range(9)] for name in "ab"},
         "a case without the anchor": _VIEWS | {"a": [_VIEWS["a"][0], None, *_VIEWS["a"][2:]]}},
)  # fmt: skip

_TEXTS = [
    f"{who} lives in {where}. {who} likes it. It rains." for who in ("Ann", "Bob", "Eve") for where in ("Oslo", "Rome")
]

WORLDS: dict[str, World] = {
    "texts": World(
        _TEXTS, [*_TEXTS[:3], "", "Zoe left [MASK]."], 5, _TEXTS[:1],
        {
            "empty": (lambda texts: [], "0 documents"),
            "one text": (lambda texts: texts[0], "one string"),
            "a number": (lambda texts: [*texts[:2], 3], r"X\[2\] must be a string"),
            "bytes": (lambda texts: [*texts[:2], b"Ann"], r"X\[2\] must be a string"),
            "a table": (lambda texts: np.array([texts]), "shape"),
            "nothing": (lambda texts: None, "X must"),
        },
        {
            "array": np.array,
            "tuple": tuple,
            "series of pandas": pd.Series,
            "corpus": TextCorpus.of,
        },
        constant=["Ann left."] * 4,
        odd={
            "one text": ["Ann left"],
            "a text without words": [*_TEXTS, " "],
            "spans and triples": TextCorpus.of(_TEXTS, [(0, 4, 12)], [("Ann", "lives in", "Oslo")]),
            "equal texts": _TEXTS[:1] * 5,
        },
    ),
    "bags": _BAGS,
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
            "a tuple of tensors": lambda graphs: tuple(tuple(map(torch.from_numpy, graph)) for graph in graphs),
            "lists": lambda graphs: [(edges[:, ::-1].tolist(), x.tolist()) for edges, x in graphs],
        },
        other=[(edges, x[:, :1]) for edges, x in _GRAPHS],
        constant=[(_edges(nx.cycle_graph(n)), None) for n in (3, 6, 9)],
    ),
}  # fmt: skip


def numbers(features: Any) -> np.ndarray:
    """Return features as an array."""
    return features.numpy() if isinstance(features, torch.Tensor) else np.asarray(features)
