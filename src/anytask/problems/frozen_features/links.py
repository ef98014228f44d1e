"""Pairs of nodes, with an edge or without, of graphs out of which these edges are taken before an encoder sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from anytask.core.rng import derive
from anytask.datasets.graphs import LabelledGraphs
from anytask.problems.base import Entrant
from anytask.problems.frozen_features.graphs import GraphFeaturesData
from anytask.problems.splits import split_rows

_HEURISTICS = "anytask.pretrain.graph_baselines:LinkHeuristics"
#: Edges that are held out at most, where nobody says how many.
MOST = 5000


@dataclass(frozen=True)
class LinkFeaturesData(GraphFeaturesData):
    """Graphs of which a seed holds out edges, half of them to train the probe and half to test it.

    For each held-out edge there is a pair of the same graph without an edge. Both of its nodes are drawn as ends of
    edges are, so that a node with many neighbors is in as many pairs of either kind: pairs that are drawn evenly would
    be told by degrees alone. Features of the nodes are shown as they are; where they were computed from the edges, as
    degrees are, they may give them away.

    Attributes
    ----------
    pairs : array of shape (p, 2) or None
        Numbers of nodes, counted through the graphs, of the pairs that a seed drew.

    Examples
    --------
    >>> from anytask.problems.frozen_features import FrozenFeatures
    >>> data = FrozenFeatures().load("karate", predict="links", shots=5).drawn(seed=0)
    >>> data.pairs.shape, data.source.y[[0, -1]].tolist(), data.source.graphs[0][0].shape
    ((40, 2), ['edge', 'no edge'], (2, 116))
    """

    source: LabelledGraphs
    reads: ClassVar[tuple[str, ...]] = tuple(name for name in GraphFeaturesData.reads if name != "split")

    pairs: Any = None

    def settled(self) -> tuple[str, ...]:
        """Say how much of the graphs is held out."""
        super().settled()
        edges = sum(edges.shape[1] // 2 for edges, _, _ in self.source.graphs)
        held = len(self.drawn(0).pairs) // 2
        return (f"Of {edges} edges {held} are taken out of the graphs before encoders see them, by the seed.",)

    def facts(self) -> dict[str, Any]:
        """Return how many graphs, nodes and edges there are."""
        return {name: fact for name, fact in super().facts().items() if name != "classes"} | {"labelled": "links"}

    def drawn(self, seed: int) -> LinkFeaturesData:
        """Return the graphs without the edges that this seed holds out, and these with as many other pairs."""
        graphs, rng = self.source.graphs, np.random.default_rng(derive(seed, "frozen-features", "links"))
        sizes = np.array([n for _, n, _ in graphs])
        first = np.cumsum(sizes) - sizes
        one_way = [edges.T[edges[0] < edges[1]] for edges, _, _ in graphs]
        ends = np.concatenate([edges + start for edges, start in zip(one_way, first)])  # (m, 2)
        graph = np.repeat(np.arange(len(graphs)), [len(edges) for edges in one_way])
        o = self.options
        k = min(round(o.test_size * len(ends)), o.max_per_class or MOST)
        if k < 4:
            raise ValueError(f"{k} of {len(ends)} edges are held out, and at least 4 are needed: raise test_size")
        held = np.sort(rng.permutation(len(ends))[:k])
        others = _strangers(ends, graph, held, rng)
        left = np.ones(len(ends), dtype=bool)
        left[held] = False
        parts = np.split(ends[left], np.searchsorted(graph[left], np.arange(1, len(graphs))))
        kept = tuple(
            (np.concatenate([part - start, (part - start)[:, ::-1]]).T, n, x)
            for part, start, (_, n, x) in zip(parts, first, graphs)
        )
        source = replace(self.source, graphs=kept, y=np.repeat(["edge", "no edge"], k))
        return replace(self, source=source, pairs=np.concatenate([ends[held], others]))

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs to train on and those to test on, half of each kind."""
        return split_rows(self.source.y, None, 0.5, None, seed)

    def inputs(self, rows: np.ndarray) -> Any:
        """Return all graphs, without the edges that were held out."""
        return super().inputs(np.arange(len(self.source.graphs)))

    def features(self, model: Any, rows: np.ndarray) -> np.ndarray:
        """Return the features of these pairs, shape (n, d)."""
        return np.asarray(model.transform_links(self.inputs(rows), self.pairs[rows]), dtype=np.float64)

    def baselines(self) -> list[Entrant]:
        """Return what there is for nodes, and what neighborhoods have in common."""
        kinds = {"common neighbors": "common", "Adamic-Adar": "adamic-adar", "Jaccard": "jaccard", "all three": "all"}
        own = [Entrant(name, _HEURISTICS, {"kind": kind}, "baseline") for name, kind in kinds.items()]
        return [*super().baselines(), *own]

    def usable(self, entrant: Entrant, model: Any) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        """Return the encoder, and the lines of Python that use it."""
        parts, lines = super().usable(entrant, model)
        used = "features = model.transform_links(graphs, pairs)  # pairs (p, 2) of nodes, by their places in graphs"
        return parts, (*lines[:-1], used)


def _strangers(ends: np.ndarray, graph: np.ndarray, held: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a pair without an edge (k, 2) for each held-out edge, of nodes drawn as ends of edges in its graph.

    Raises
    ------
    ValueError
        If there are too few such pairs.
    """
    n = int(ends.max()) + 1
    start, stop = (np.searchsorted(graph, graph[held], side=side) for side in ("left", "right"))
    known = np.sort(ends.min(1) * n + ends.max(1))
    found, open_ = np.zeros((len(held), 2), dtype=np.int64), np.arange(len(held))
    for _ in range(200):
        drawn = rng.integers(start[open_, None], stop[open_, None], size=(len(open_), 2))
        pairs = ends[drawn, rng.integers(2, size=drawn.shape)]
        keys = pairs.min(1) * n + pairs.max(1)
        fresh = np.zeros(len(keys), dtype=bool)
        fresh[np.unique(keys, return_index=True)[1]] = True
        good = fresh & (pairs[:, 0] != pairs[:, 1]) & ~np.isin(keys, known)
        found[open_[good]] = pairs[good]
        known, open_ = np.concatenate([known, keys[good]]), open_[~good]
        if not len(open_):
            return found
    raise ValueError(f"{len(held)} edges are held out, and {len(open_)} find no pair without an edge: lower test_size")
