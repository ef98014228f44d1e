"""What is around a node: how much of it a linear probe reads from vectors that were learned without labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anytask.core.rng import derive
from anytask.core.settings import taken, whole
from anytask.datasets.graphs import graph_families, load_graphs
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.options import Options
from anytask.problems.training import Builtin, LoadedData, Progress, TrainingProblem

#: What is asked of a node, as columns of :func:`surroundings`.
ASKED = ("degree", "neighbors", "two_hop", "triangles")
_STRENGTHS = np.logspace(-3, 3, 7)


class StructureOptions(Options):
    """How many graphs of each family are learned from, and tested on."""

    learned: int = whole(20, "graphs of each family to learn from and to train the probe on", at_least=2)
    tested: int = whole(20, "other graphs of each family, which are tested on", at_least=2)


@dataclass(frozen=True)
class StructureData(LoadedData):
    """Random graphs that a seed draws, or real ones, of whose nodes it draws a third to test on."""

    @property
    def real(self) -> bool:
        """Whether the graphs are given."""
        return self.source.name != "graph-families"

    def drawn(self, seed: int) -> tuple[list[Any], np.ndarray]:
        """Return the graphs to learn from, those of the test after them, and the family of each."""
        if self.real:
            return [(edges, np.ones((n, 1))) for edges, n in _real()], np.zeros(3, int)
        each = self.options.learned + self.options.tested
        graphs, family = graph_families(derive(seed, "structure"), each)
        order = np.argsort(np.arange(len(graphs)) % each >= self.options.learned, kind="stable")
        return [(graphs[place], np.ones((16, 1))) for place in order], family[order]


class Structure(TrainingProblem):
    """Name a node's degree, its neighbors' mean degree, the nodes at two hops and its triangles from its vector.

    An encoder learns from graphs without labels and without features of nodes. A ridge regression, whose strength is
    chosen by cross-validation, learns the four numbers from the vectors of these graphs' nodes, and is tested on graphs
    that the encoder never saw; of real graphs, on nodes that the regression never saw.
    """

    key = "structure"
    title = "Structure around nodes"
    metrics = (
        Metric("two_hop", "R2 of the number of nodes at two hops"),
        Metric("r2", "Mean R2 of the four numbers"),
        Metric("degree", "R2 of the degree"),
        Metric("neighbors", "R2 of the neighbors' mean degree"),
        Metric("triangles", "R2 of the number of triangles"),
        Metric("family", "Accuracy of the family of graphs"),
    )
    needs = ("fit(X)", "transform(X)", "transform_graphs(X)")
    options_class = StructureOptions

    def load(self, source: Any, **options: Any) -> StructureData:
        """Return graphs by their name, with checked options."""
        return StructureData(Builtin(source), self.check_options(options))

    def baselines(self, data: Any) -> tuple[Entrant, ...]:
        """Return nobody."""
        return ()

    def train(self, entrant: Entrant, data: Any, seed: int, progress: Progress) -> Any:
        """Fit an encoder to graphs."""
        graphs, _ = data.drawn(seed)
        model = entrant.make("small", seed=seed)
        shown = graphs if data.real else graphs[: 3 * data.options.learned]
        return model.fit(shown, **taken(model.fit, progress=progress))

    def test(self, entrant: Entrant, trained: Any, data: Any, seed: int, progress: Progress) -> Outcome:
        """Probe the vectors of nodes, and of graphs."""
        graphs, family = data.drawn(seed)
        H, Y = trained.transform(graphs), np.concatenate([surroundings(edges, len(x)) for edges, x in graphs])
        first = 3 * data.options.learned
        if data.real:
            tested = np.zeros(len(H), bool)
            tested[np.random.default_rng(derive(seed, "nodes")).permutation(len(H))[: len(H) // 3]] = True
        else:
            tested = np.arange(len(H)) >= 16 * first
        probe = make_pipeline(StandardScaler(), RidgeCV(_STRENGTHS)).fit(H[~tested], Y[~tested])
        found = r2_score(Y[tested], probe.predict(H[tested]), multioutput="raw_values")
        metrics = {"r2": float(found.mean()), **dict(zip(ASKED, map(float, found)))}
        if not data.real:
            G = trained.transform_graphs(graphs)
            classify = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            metrics["family"] = float(classify.fit(G[:first], family[:first]).score(G[first:], family[first:]))
        return Outcome(metrics)


def surroundings(edges: np.ndarray, n: int) -> np.ndarray:
    """Return degree, neighbors' mean degree, nodes at two hops and triangles of each node, shape (n, 4).

    Examples
    --------
    >>> ring_with_chord = np.array([[0, 1, 1, 2, 2, 3, 3, 0, 0, 2], [1, 0, 2, 1, 3, 2, 0, 3, 2, 0]])
    >>> surroundings(ring_with_chord, 4)[:2].tolist()
    [[3.0, 2.3333333333333335, 0.0, 2.0], [2.0, 3.0, 1.0, 1.0]]
    """
    A = sparse.csr_array((np.ones(edges.shape[1]), (edges[0], edges[1])), shape=(n, n)).toarray()
    degree, paths = A.sum(1), A @ A
    two_hop = ((paths > 0) & (A == 0) & ~np.eye(n, dtype=bool)).sum(1)
    return np.stack([degree, A @ degree / degree.clip(1), two_hop, (paths * A).sum(1) / 2], axis=1)


@lru_cache(maxsize=1)
def _real() -> list[tuple[np.ndarray, int]]:
    return [load_graphs(name).graphs[0][:2] for name in ("karate", "davis", "les-miserables")]
