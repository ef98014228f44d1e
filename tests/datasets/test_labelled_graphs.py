"""Labelled graphs by name and from folders, and what is wrong with a folder in one line."""

import networkx as nx
import numpy as np
import pytest

from anytask.core.errors import BadData
from anytask.datasets.graphs import GRAPHS, edges_of, graph_families, is_graphs, load_graphs


@pytest.mark.parametrize("name", GRAPHS)
def test_named_graphs_are_undirected_and_labelled(name):
    data = load_graphs(name)
    assert is_graphs(name) and data.fingerprint == load_graphs(name).fingerprint
    assert len(data.y) == (data.graphs[0][1] if data.level == "nodes" else len(data.graphs))
    for edges, n, _ in data.graphs:
        assert set(map(tuple, edges.T.tolist())) == set(map(tuple, edges[::-1].T.tolist())) and edges.max() < n


def test_families_differ_in_more_than_the_number_of_edges():
    graphs, family = graph_families(3, 30)
    again, _ = graph_families(3, 30)
    assert all(map(np.array_equal, graphs, again)) and not np.array_equal(graphs[0], graph_families(4, 30)[0][0])
    spread = [np.std(np.bincount(edges[0], minlength=16)) for edges in graphs]
    mean = [np.mean(spread, where=family == kind) for kind in range(3)]
    assert mean[2] < mean[0] < mean[1]


NODES, EDGES = "node,label,age\na,x,1\nb,y,2\nc,x,3\nd,y,4\n", "from,to\na,b\nb,a\nb,c\n"


def lists(folder, nodes=NODES, edges=EDGES):
    (folder / "nodes.csv").write_text(nodes)
    (folder / "edges.csv").write_text(edges)
    return folder


def test_lists_of_edges_and_nodes_are_read(tmp_path):
    data = load_graphs(lists(tmp_path))
    [(edges, n, x)] = data.graphs
    assert is_graphs(tmp_path) and (data.level, n, data.y.tolist()) == ("nodes", 4, ["x", "y", "x", "y"])
    assert edges.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]] and x.tolist() == [[1], [2], [3], [4]]
    [(_, _, x)] = load_graphs(lists(tmp_path, "node,label\n1,x\n2,y\n3,x\n4,y\n", "from,to\n1,2\n")).graphs
    assert x is None
    nodes, edges = (
        "node;label;on\nNA;x;True\n b;y;False\nc ;x;True\nd;y;True\n",
        "from, to, weight\nNA, b, 0.5\nb, c, 2\n",
    )
    data = load_graphs(lists(tmp_path, nodes, edges))
    [(edges, _, x)] = data.graphs
    assert edges.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]] and x.tolist() == [[1], [0], [1], [1]]
    assert "not read: weight" in data.notes[0]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"edges": EDGES + "c,q\n"}, r"edges\.csv, line 5 names a node that nodes\.csv lacks"),
        ({"edges": EDGES + "c,c\n"}, r"edges\.csv, line 5 is an edge from a node to itself"),
        ({"nodes": NODES + "a,x,1\n"}, r"nodes\.csv, line 6: node 'a' is there twice"),
        ({"nodes": NODES.replace("label", "kind")}, "no column 'label'"),
        ({"nodes": NODES.replace("x,3", "x,old")}, r"nodes\.csv, line 4: age is no finite number"),
        ({"nodes": NODES.replace("c,x", "c,")}, r"nodes\.csv.*'label'.*missing"),
        ({"nodes": NODES.replace("y", "x")}, "one class only"),
        ({"nodes": ""}, r"nodes\.csv: the file is empty"),
        ({"nodes": "node,label\n", "edges": "from,to\n"}, "'label' holds no value"),
        ({"nodes": NODES + ",x,5\n"}, r"nodes\.csv: column 'node', line 6: the value is missing"),
        ({"edges": EDGES + "c,\n"}, r"edges\.csv: column 'to', line 5: the value is missing"),
        ({"edges": EDGES.removeprefix("from,to\n")}, r"edges\.csv: the first line is an edge"),
        ({"nodes": NODES.replace("x,3", "x,1e300")}, r"nodes\.csv, line 4: age is no finite number"),
        ({"edges": "from\na\n"}, "2 columns or more, got 1"),
    ],
)
def test_what_is_wrong_with_lists_is_said_in_one_line(tmp_path, parts, says):
    with pytest.raises(BadData, match=says) as error:
        load_graphs(lists(tmp_path, **parts))
    assert "\n" not in str(error.value)


def tu_folder(folder, **changes):
    files = {
        "A": "1, 2\n2, 1\n2, 3\n3, 2\n4, 4\n5, 6\n6, 5\n", "graph_indicator": "1\n1\n1\n2\n3\n3\n4\n",
        "graph_labels": "1\n-1\n1\n-1\n", "node_labels": "0\n1\n0\n0\n2\n0\n0\n",
        "node_attributes": "1\n2\n3\n4\n5\n6\n7\n",
    }  # fmt: skip
    for name, text in {**files, **changes}.items():
        if text is not None:
            (folder / f"TOY_{name}.txt").write_text(text)
    return folder


def test_folders_of_the_tu_collection_are_read_as_pytorch_geometric_reads_them(tmp_path):
    from torch_geometric.io import read_tu_data

    data = load_graphs(tu_folder(tmp_path))
    assert data.level == "graphs" and data.y.tolist() == [1, -1, 1, -1]
    assert [n for _, n, _ in data.graphs] == [3, 1, 2, 1] and [e.shape[1] for e, _, _ in data.graphs] == [4, 0, 2, 0]
    assert data.graphs[2][0].tolist() == [[0, 1], [1, 0]] and data.graphs[0][2][:, 0].tolist() == [1, 2, 3]
    theirs, slices, _ = read_tu_data(str(tmp_path), "TOY")
    assert np.array_equal(np.concatenate([x for _, _, x in data.graphs]), theirs.x.numpy())
    assert np.array_equal(data.graphs[0][0], theirs.edge_index[:, : slices["edge_index"][1]].numpy())
    once = load_graphs(tu_folder(tmp_path, A="1, 2\n3, 2\n6, 5\n"))
    assert once.fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"A": "1, 9\n"}, "nodes 1 to 7"),
        ({"A": "1, two\n"}, "TOY_A.txt"),
        ({"graph_labels": None}, "wanted are TOY_A.txt"),
        ({"graph_labels": "1\n-1\n1\n"}, "graphs 1 to 3, in order"),
        ({"graph_indicator": "1\n2\n1\n2\n3\n3\n4\n"}, "in order"),
        ({"node_labels": "0\n"}, "other numbers of node labels"),
        ({"A": "1, 2\n2, 1\n3, 4\n"}, "TOY_A.txt, line 3: an edge between nodes of two graphs"),
        ({"node_attributes": "1\n2\nnan\n4\n5\n6\n7\n"}, "TOY_node_attributes.txt, line 3: no finite"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path, changes, says):
    with pytest.raises(BadData, match=says) as error:
        load_graphs(tu_folder(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_edges_of_a_graph_are_places_both_ways():
    assert edges_of(nx.Graph([("b", "a"), ("a", "c")])).tolist() == [[0, 1, 1, 2], [1, 2, 0, 1]]
    assert edges_of(nx.empty_graph(3)).shape == (2, 0)
