"""Labelled graphs, and labelled nodes of a graph: what encoders are shown of them, and who is compared."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
import torch

from anytask.core.errors import BadData
from anytask.datasets.graphs import LabelledGraphs, is_graphs, load_graphs
from anytask.datasets.labels import as_labels, check_classes
from anytask.problems.base import Entrant
from anytask.problems.frozen_features.data import OtherFeaturesData

_BASELINES = "anytask.pretrain.graph_baselines"


def read_labelled(source: Any, labelled: bool = True) -> LabelledGraphs | None:
    """Return labelled graphs, or None for what holds no graphs.

    Parameters
    ----------
    source : any
        A name or a folder, see :func:`~anytask.datasets.graphs.load_graphs`; a tuple (graphs, y) of a graph and its
        nodes' labels or of a list of graphs and theirs, in any form that
        :func:`~anytask.pretrain.parts.graphs.read_graphs` takes; or what PyTorch Geometric has labels with: a ``Data``,
        or a list or ``Dataset`` of them.
    labelled : bool
        Whether labels are needed; graphs without come in the same forms.

    Raises
    ------
    BadData
        For graphs that cannot be used.
    """
    from anytask.pretrain.parts.graphs import is_graph, read_graphs

    if is_graphs(source):
        return load_graphs(source, labelled=labelled)
    graphs, y = source if isinstance(source, tuple) and len(source) == 2 and not is_graph(source) else (source, None)
    several = isinstance(graphs, (list, torch.utils.data.Dataset))
    graphs = list(cast(Any, graphs)) if several else graphs
    if not is_graph(graphs[0] if several and graphs else graphs):
        return None
    if y is None:
        y = [getattr(graph, "y", None) for graph in graphs] if several else getattr(graphs, "y", None)
        y = None if y is None or (several and any(label is None for label in y)) else np.asarray(y).reshape(-1)
    if y is None and labelled:
        raise BadData("graphs come without labels: give (graphs, y), or graphs with an attribute y")
    try:
        batch = read_graphs(graphs, "graphs")
    except (TypeError, ValueError) as error:
        raise BadData(str(error)) from error
    level, wanted = ("graphs", len(batch.sizes)) if several else ("nodes", len(batch.x))
    labels = as_labels(np.asarray(y), "graphs", "y") if labelled else np.zeros(wanted, dtype=np.int64)
    if labels.shape != (wanted,):
        raise BadData(f"graphs: there are {wanted} {level}, and labels of shape {labels.shape}")
    if labelled:
        check_classes(labels, "graphs", "y")
    each = (batch.take(torch.tensor([place])) for place in range(len(batch.sizes)))
    found = [(one.edges.numpy(), len(one.x), one.x.numpy() if batch.featured else None) for one in each]
    return LabelledGraphs("graphs", tuple(found), labels, level)


class GraphFeaturesData(OtherFeaturesData):
    """Labelled graphs, or one graph of which an encoder sees everything but the labels of the nodes."""

    source: LabelledGraphs  # type: ignore[assignment]
    kind: ClassVar[str] = "graphs"
    reads: ClassVar[tuple[str, ...]] = (*OtherFeaturesData.reads, "featureless", "predict")

    def settled(self) -> tuple[str, ...]:
        """Say what encoders see of one graph."""
        source = self.source
        if self.options.featureless == "identity" and (source.level == "graphs" or source.featured):
            why = "nodes have features" if source.featured else "there are several graphs"
            raise ValueError(f"featureless=identity is for one graph without features, and {why}")
        seen = "Encoders see the whole graph, with all nodes and edges; labels are for the probe alone."
        return (seen,) if source.level == "nodes" else ()

    def facts(self) -> dict[str, Any]:
        """Return how many graphs, nodes and edges there are, and the classes with their sizes."""
        source = self.source
        classes, counts = np.unique(source.y, return_counts=True)
        return {
            "kind": self.kind,
            "labelled": source.level,
            "graphs": len(source.graphs),
            "nodes": sum(n for _, n, _ in source.graphs),
            "edges": sum(edges.shape[1] // 2 for edges, _, _ in source.graphs),
            "classes": {str(c): int(n) for c, n in zip(classes.tolist(), counts)},
        }

    def inputs(self, rows: np.ndarray) -> Any:
        """Return the graph, or the graphs of these rows, as tuples (edges, features)."""
        graphs = self.source.graphs if self.source.level == "nodes" else [self.source.graphs[row] for row in rows]
        made = np.eye if self.options.featureless == "identity" else lambda n: np.ones((n, 1))
        found = [(edges, made(n).astype(np.float32) if x is None else x) for edges, n, x in graphs]
        return found[0] if self.source.level == "nodes" else found

    def features(self, model: Any, rows: np.ndarray) -> np.ndarray:
        """Return the features of these nodes or graphs, shape (n, d)."""
        shown = self.inputs(rows)
        found = model.transform(shown)[rows] if self.source.level == "nodes" else model.transform_graphs(shown)
        return np.asarray(found, dtype=np.float64)

    def baselines(self) -> list[Entrant]:
        """Return degrees and features, eigenvectors, a network that never learned, and one that rebuilds edges."""
        listed = {
            "raw features": "DegreeFeatures",
            "spectral embedding": "SpectralFeatures",
            "random encoder": "RandomGraphEncoder",
            "graph auto-encoder": "GraphVAE",
        }
        return [Entrant(name, f"{_BASELINES}:{cls}", {}, "baseline") for name, cls in listed.items()]

    def usable(self, entrant: Entrant, model: Any) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        """Return the encoder, and the lines of Python that use it."""
        verb, what = ("transform", "of the nodes") if self.source.level == "nodes" else ("transform_graphs", "of each")
        wanted = f"a graph or a list of graphs, with {model.n_features_in_} features of each node"
        return (model,), (
            entrant.import_line,
            f'model = {entrant.class_name}.load("{{folder}}")',
            f"features = model.{verb}(graphs)  # {what}; graphs: {wanted}",
        )
