"""Labelled graphs out of whatever holds them: built-in ones, folders, lists of edges, and graphs of other libraries."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.datasets.labels import Locate, as_labels, check_classes, from_texts
from anytask.datasets.tables import read_frame

#: Names of graphs: three of networkx, whose nodes have labels, and generated ones that have them themselves.
GRAPHS = ("karate", "davis", "les-miserables", "graph-families")
#: The families of ``graph-families``.
FAMILIES = ("random", "preferential attachment", "rewired ring")

#: Edges (2, m), each both ways, the number of nodes, and features of nodes (n, d) or None.
Graph = tuple[np.ndarray, int, "np.ndarray | None"]


@dataclass(frozen=True)
class LabelledGraphs:
    """Graphs with a label each, or one graph whose nodes have labels.

    Attributes
    ----------
    name : str
    graphs : tuple of (edges, nodes, features)
        Edges of shape (2, m), each both ways; the number of nodes; their features, of shape (n, d), or None.
    y : ndarray of shape (n,)
        Labels of the nodes of one graph, or of the graphs.
    level : {"nodes", "graphs"}
        What has labels.
    notes : tuple of str
    """

    #: Graphs have no shape, and nothing of them may be missing.
    input_shape: ClassVar[tuple[int, ...]] = ()
    has_missing: ClassVar[bool] = False

    name: str
    graphs: tuple[Graph, ...]
    y: np.ndarray
    level: str
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of all of the content."""
        content = hashlib.sha256("\x1f".join(map(str, self.y.tolist())).encode())
        for edges, n, x in self.graphs:
            content.update(np.ascontiguousarray(edges, np.int64).data)
            content.update(b"%d" % n if x is None else np.ascontiguousarray(x, np.float32).data)
        return content.hexdigest()[:32]

    @property
    def featured(self) -> bool:
        """Whether nodes have features."""
        return self.graphs[0][2] is not None


def is_graphs(source: Any) -> bool:
    """Return whether a name or a path stands for graphs.

    Examples
    --------
    >>> is_graphs("karate"), is_graphs("iris")
    (True, False)
    """
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = Path(source).expanduser()
    return str(source) in GRAPHS or (path.is_dir() and ((path / "edges.csv").is_file() or _tu_prefix(path) is not None))


def load_graphs(source: str | os.PathLike[str], *, labelled: bool = True) -> LabelledGraphs:
    """Return labelled graphs by name or from a folder.

    Parameters
    ----------
    source : str or path
        * a name in :data:`GRAPHS`: ``karate`` (34 members of a club, labelled by the half that they joined), ``davis``
          (18 women and the 14 events that they went to), ``les-miserables`` (77 characters, labelled by the communities
          that greedy modularity finds, as no other labels come with them); and ``graph-families``, 120 graphs of 16
          nodes, of three families of random graphs;
        * a folder of the TUDataset collection, with ``NAME_A.txt``, ``NAME_graph_indicator.txt``,
          ``NAME_graph_labels.txt`` and, if there are any, ``NAME_node_labels.txt`` and ``NAME_node_attributes.txt``;
        * a folder with ``edges.csv``, whose first two columns are the ends of an edge, and ``nodes.csv``, whose first
          column names the nodes; a column ``label`` and, if you like, columns of numbers are their features.
    labelled : bool
        Whether labels are needed; without, ``nodes.csv`` need not have any, and all may be the same.

    Raises
    ------
    BadData
        One line that names the file and the row, for whatever cannot be used.
    ImportError
        If the extra ``graphs`` is missing.

    Examples
    --------
    >>> club = load_graphs("karate")
    >>> club.level, len(club.y), club.graphs[0][0].shape
    ('nodes', 34, (2, 156))
    """
    path = Path(source).expanduser()
    if str(source) in GRAPHS:
        loaded = _builtin(str(source))
    elif (path / "edges.csv").is_file():
        loaded = _of_lists(path, labelled)
    elif (prefix := _tu_prefix(path)) is not None:
        loaded = _of_tu_folder(path, prefix)
    else:
        raise BadData(f"{source}: no graphs are called so, and no folder has an edges.csv or a NAME_A.txt")
    if labelled:
        check_classes(loaded.y, str(source), "label")
    return loaded


def graph_families(seed: int, per_family: int, n: int = 16) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the edges (2, m) of random graphs of three families with about as many edges, and the family of each.

    They are Erdos and Renyi's with a probability of 0.2, Barabasi and Albert's with two edges for each new node, and
    Watts and Strogatz' rings of four neighbors, 30 % of them rewired.

    Examples
    --------
    >>> graphs, family = graph_families(seed=0, per_family=2)
    >>> [edges.shape[1] // 2 for edges in graphs], family.tolist()
    ([24, 21, 28, 28, 32, 32], [0, 0, 1, 1, 2, 2])
    """
    nx = _networkx()
    makers = (
        lambda s: nx.gnp_random_graph(n, 0.2, seed=s),
        lambda s: nx.barabasi_albert_graph(n, 2, seed=s),
        lambda s: nx.watts_strogatz_graph(n, 4, 0.3, seed=s),
    )
    graphs = [
        edges_of(make(derive(seed, "families", family, place) % 2**32))
        for family, make in enumerate(makers)
        for place in range(per_family)
    ]
    return graphs, np.repeat(np.arange(len(makers)), per_family)


def edges_of(graph: Any) -> np.ndarray:
    """Return the edges of a networkx graph, shape (2, m), each both ways, with nodes as places."""
    place = {node: number for number, node in enumerate(graph)}
    one_way = np.array([(place[u], place[v]) for u, v in graph.edges], dtype=np.int64).reshape(-1, 2).T
    return np.concatenate([one_way, one_way[::-1]], axis=1)


def _networkx() -> Any:
    try:
        import networkx
    except ImportError as error:
        raise ImportError("graphs need networkx: pip install 'anytask[graphs]'") from error
    return networkx


def _builtin(name: str) -> LabelledGraphs:
    nx = _networkx()
    if name == "graph-families":
        graphs, family = graph_families(0, 40)
        return LabelledGraphs(name, tuple((edges, 16, None) for edges in graphs), np.array(FAMILIES)[family], "graphs")
    notes: tuple[str, ...] = ()
    if name == "karate":
        graph = nx.karate_club_graph()
        y: Sequence[str] = [club for _, club in graph.nodes(data="club")]
    elif name == "davis":
        graph = nx.davis_southern_women_graph()
        y = ["event" if side else "woman" for _, side in graph.nodes(data="bipartite")]
    else:
        graph = nx.les_miserables_graph()
        groups = nx.community.greedy_modularity_communities(graph)
        y = [f"group {next(i for i, members in enumerate(groups) if node in members)}" for node in graph]
        notes = ("Labels are the communities that greedy modularity finds: no others come with the graph.",)
    return LabelledGraphs(name, ((edges_of(graph), len(graph), None),), np.array(y), "nodes", notes)


def _of_lists(path: Path, labelled: bool) -> LabelledGraphs:
    """Read ``edges.csv`` and ``nodes.csv``."""
    nodes_csv, edges_csv = path / "nodes.csv", path / "edges.csv"
    if not nodes_csv.is_file():
        raise BadData(f"{nodes_csv}: there is no such file, which names the nodes and their labels")
    (nodes, node), (edges, edge) = read_frame(nodes_csv), read_frame(edges_csv)
    for file, table in ((nodes_csv, nodes), (edges_csv, edges)):
        if len(table.columns) < (2 if labelled or file == edges_csv else 1):
            raise BadData(f"{file}: wanted are 2 columns or more, got {len(table.columns)}")
    if labelled and "label" not in nodes.columns[1:]:
        raise BadData(f"{nodes_csv}: there is no column 'label', it has {', '.join(nodes.columns)}")
    ids = pd.Index(_names(nodes, 0, nodes_csv, node))
    if ids.has_duplicates:
        row = int(ids.duplicated().argmax())
        raise BadData(f"{nodes_csv}, {node(row)}: node {ids[row]!r} is there twice")
    if all(name in ids for name in edges.columns[:2]):
        raise BadData(f"{edges_csv}: the first line is an edge, and wanted there are the names of the columns")
    place = np.stack([ids.get_indexer(_names(edges, column, edges_csv, edge)) for column in (0, 1)], axis=1)
    for wrong, what in (
        ((place < 0).any(axis=1), "names a node that nodes.csv lacks"),
        (place[:, 0] == place[:, 1], "is an edge from a node to itself"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            raise BadData(f"{edges_csv}, {edge(row)} {what}: {', '.join(map(repr, edges.iloc[row, :2]))}")
    both = np.unique(np.concatenate([place, place[:, ::-1]]), axis=0).T.astype(np.int64)
    names = [name for name in nodes.columns[1:] if name != "label"]
    numeric = [pd.to_numeric(from_texts(nodes[name].to_numpy(object)), errors="coerce") for name in names]
    x = _float32(np.stack(numeric, axis=1)) if names else None
    if x is not None and not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0].tolist()
        raise BadData(f"{nodes_csv}, {node(row)}: {names[column]} is no finite number")
    y = np.zeros(len(ids), dtype=np.int64)
    if labelled:
        y = as_labels(from_texts(nodes["label"].to_numpy(object)), str(nodes_csv), "label", node)
    unread = ", ".join(edges.columns[2:])
    notes = (f"Of edges.csv are not read: {unread}. Edges have no weights and no features.",) if unread else ()
    return LabelledGraphs(path.name, ((both, len(ids), x),), y, "nodes", notes)


def _names(frame: pd.DataFrame, column: int, file: Path, locate: Locate) -> np.ndarray:
    return as_labels(frame.iloc[:, column].to_numpy(object), str(file), str(frame.columns[column]), locate)


def _float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _tu_prefix(path: Path) -> str | None:
    found = sorted(path.glob("*_graph_indicator.txt")) if path.is_dir() else []
    return found[0].name.removesuffix("_graph_indicator.txt") if found else None


def _of_tu_folder(path: Path, prefix: str) -> LabelledGraphs:
    """Read a folder of the TUDataset collection; edges from a node to itself are left out, as its readers do.

    Edges that are listed one way only are taken both ways.
    """

    def column(what: str, kind: type = np.int64) -> np.ndarray | None:
        file = path / f"{prefix}_{what}.txt"
        if not file.is_file():
            return None
        try:
            return np.loadtxt(file, dtype=kind, delimiter=",", ndmin=2)
        except (ValueError, UnicodeDecodeError, OSError) as error:
            raise BadData(f"{file}: {str(error).splitlines()[0]}") from error

    ends, graph, y = column("A"), column("graph_indicator"), column("graph_labels")
    if ends is None or graph is None or y is None:
        raise BadData(f"{path}: wanted are {prefix}_A.txt, {prefix}_graph_indicator.txt and {prefix}_graph_labels.txt")
    graph, n = graph[:, 0] - 1, len(graph)
    if ends.shape[1] != 2 or (ends.size and (ends.min() < 1 or ends.max() > n)):
        raise BadData(f"{path / prefix}_A.txt: wanted are two of the nodes 1 to {n} in each line")
    sizes = np.bincount(graph.clip(0), minlength=len(y))
    if (np.diff(graph) < 0).any() or graph.min() < 0 or len(sizes) != len(y) or not sizes.all():
        raise BadData(
            f"{path / prefix}_graph_indicator.txt: wanted are the graphs 1 to {len(y)}, in order, for each node"
        )
    if (across := graph[ends[:, 0] - 1] != graph[ends[:, 1] - 1]).any():
        line = int(across.argmax()) + 1
        raise BadData(f"{path / prefix}_A.txt, line {line}: an edge between nodes of two graphs")
    labels, found = column("node_labels"), column("node_attributes", np.float32)
    if found is not None and not (finite := np.isfinite(found).all(axis=1)).all():
        raise BadData(f"{path / prefix}_node_attributes.txt, line {int(finite.argmin()) + 1}: no finite numbers")
    parts = [] if found is None else [found]
    parts += [] if labels is None else [(own[:, None] == np.unique(own)).astype(np.float32) for own in labels.T]
    if any(len(part) != n for part in parts):
        raise BadData(f"{path}: there are {n} nodes, and other numbers of node labels or attributes")
    x = np.concatenate(parts, axis=1) if parts else None
    ends = ends[ends[:, 0] != ends[:, 1]] - 1
    edges = np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0).T  # (2, m), in the order of the graphs
    first = np.concatenate([[0], np.cumsum(sizes)])
    cut = np.searchsorted(edges[0], first)
    graphs = [
        (edges[:, cut[g] : cut[g + 1]] - first[g], int(sizes[g]), None if x is None else x[first[g] : first[g + 1]])
        for g in range(len(y))
    ]
    return LabelledGraphs(path.name, tuple(graphs), y[:, 0], "graphs")
