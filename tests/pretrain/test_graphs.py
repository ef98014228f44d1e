"""Graphs: read alike from whatever holds them, refused where they are none, and joined without touching."""

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import sparse
from torch_geometric.data import Batch, Data

from anytask.pretrain.parts.graphs import is_graph, read_graphs

PATH = np.array([[0, 1, 1, 2], [1, 0, 2, 1]])
X = np.array([[1.0], [2.0], [6.0]])


def test_the_mean_around_a_node_has_the_node_in_it_and_a_lone_node_has_its_own_value():
    batch = read_graphs([(PATH, X), (np.zeros((2, 0)), [[7.0]])])
    assert batch.neighborhood_mean(batch.x).flatten().tolist() == [1.5, 3, 4, 7]


def clothes():
    edges, x = torch.from_numpy(PATH), torch.from_numpy(X)
    graph = nx.path_graph(3)
    nx.set_node_attributes(graph, {node: X[node].tolist() for node in graph}, "x")
    yield Data(x=x, edge_index=edges)
    yield graph
    yield edges, x
    yield PATH[:, ::-1].tolist(), X.tolist()
    yield Batch.from_data_list([Data(x=x, edge_index=edges)])


def test_a_graph_is_read_alike_from_whatever_holds_it():
    for graph in clothes():
        batch = read_graphs(graph)
        assert batch.edges.tolist() == PATH.tolist() and batch.x.flatten().tolist() == [1, 2, 6]
    bare = [
        sparse.coo_array((np.ones(4), PATH)),
        nx.path_graph(3),
        (PATH, None),
        Data(edge_index=torch.from_numpy(PATH)),
    ]
    for graph in bare:
        batch = read_graphs(graph)
        assert batch.edges.tolist() == PATH.tolist() and batch.x.tolist() == [[1]] * 3 and not batch.featured


def test_graphs_are_joined_and_taken_apart():
    graphs = [(PATH, X), (np.zeros((2, 0)), X[:1]), (PATH[:, :2], X[1:])]
    batch = read_graphs(graphs)
    assert batch.sizes.tolist() == [3, 1, 2] and batch.graph.tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.degree.tolist() == [1, 2, 1, 0, 1, 1] and batch.total(batch.x).flatten().tolist() == [9, 1, 8]
    for order in ([2, 0], [1], [1, 2], [0, 1, 2]):
        some, alone = batch.take(torch.tensor(order)), read_graphs([graphs[place] for place in order])
        assert torch.equal(some.x, alone.x) and torch.equal(some.edges, alone.edges)
        assert torch.equal(some.adjacency.to_dense(), alone.adjacency.to_dense())


LOOP, NAN = np.array([[0, 1, 1], [1, 0, 1]]), np.array([[1.0], [np.nan], [2.0]])
WEIGHTED, MULTI = nx.Graph(), nx.MultiGraph([(0, 1)])
WEIGHTED.add_edge(0, 1, weight=2)
BAD = {
    "directed": ((PATH[:, :3], X), r"X\[1\] has an edge from node 1 to 2, and none back"),
    "directed matrix": (sparse.coo_array(np.triu(np.ones((3, 3)), 1)), "has an edge from node 0 to 1, and none back"),
    "directed networkx": (nx.DiGraph([(0, 1)]), "is directed"),
    "weighted": (WEIGHTED, "is weighted"),
    "weighted matrix": (sparse.csr_array(2 * np.array([[0.0, 1], [1, 0]])), "is weighted"),
    "weighted data": (
        Data(x=torch.ones(3, 1), edge_index=torch.from_numpy(PATH), edge_weight=torch.arange(4)),
        "weight",
    ),
    "several edges": (MULTI, "simple graph"),
    "self-loop": ((LOOP, X), "from node 1 to 1, itself"),
    "twice": ((np.concatenate([PATH, PATH], 1), X), "from node 0 to 1 twice"),
    "nan": ((PATH, NAN), "x contains NaN or infinity in row 1"),
    "no nodes": (nx.Graph(), "without nodes"),
    "no nodes but edges": ((np.zeros((2, 0)), None), "without nodes"),
    "stranger": ((PATH, X[:2]), "nodes from 0 to 2, and there are 2"),
    "other features": ((PATH, np.ones((3, 2))), "has 2 features, the graphs before have 1"),
    "no features": (nx.path_graph(3), "has no features, other than"),
    "flat features": ((PATH, X.ravel()), "x must have shape"),
    "real edges": ((PATH + 0.5, X), "integers"),
    "one row of edges": ((PATH[:1], X), "shape"),
    "no edge_index": (Data(x=torch.ones(3, 1)), "has no edge_index"),
    "square": (sparse.csr_array(np.ones((2, 3))), "square"),
    "nothing": (None, "must be a PyG Data"),
    "an array": (np.ones((3, 3)), "must be a PyG Data"),
    "words": (("edges", X), "."),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_simple_graph_is_refused_in_one_line_that_names_it(kind):
    graph, says = BAD[kind]
    featured = isinstance(graph, (tuple, Data)) or kind == "no features"
    with pytest.raises((ValueError, TypeError), match=says) as error:
        read_graphs([(PATH, X if featured else None), graph])
    assert "\n" not in str(error.value) and "X[1]" in str(error.value)


def test_a_tuple_of_graphs_is_a_list_of_them():
    graphs = (nx.path_graph(3), nx.path_graph(4))
    assert read_graphs(graphs).sizes.tolist() == [3, 4]
    assert read_graphs(((PATH, X), (PATH, X))).sizes.tolist() == [3, 3]


@pytest.mark.parametrize("X", [np.array(1.0), torch.ones(2), np.ones((3, 3)), [[[0]], [[1]]], [1, 0], "ab", None])
def test_arrays_with_labels_are_no_graph(X):
    assert not is_graph((X, [0, 1]))


def test_an_empty_list_is_refused():
    with pytest.raises(ValueError, match="0 graph"):
        read_graphs([])
