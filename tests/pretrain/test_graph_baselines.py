"""Vectors of nodes that are counted, and a network that rebuilds edges."""

import itertools

import networkx as nx
import numpy as np
import pytest
import torch
from sklearn.manifold import spectral_embedding

from anytask.pretrain import DegreeFeatures, GraphVAE, LinkHeuristics, RandomGraphEncoder, SpectralFeatures
from anytask.pretrain.parts.graphs import read_graphs

CONTRACT = {
    "GraphVAE": {"hidden": (8, 4), "epochs": 2},
    "RandomGraphEncoder": {"hidden": (8, 4)},
    "SpectralFeatures": {"n_components": 3},
}
GRAPH = nx.karate_club_graph()
nx.set_edge_attributes(GRAPH, 1, "weight")


def test_degrees_come_with_their_means_over_neighbors():
    H = DegreeFeatures(hops=1).fit_transform(GRAPH)
    around = nx.average_neighbor_degree(GRAPH)
    np.testing.assert_allclose(H, [[GRAPH.degree(node), around[node]] for node in GRAPH], rtol=1e-6)


def test_eigenvectors_are_those_of_scikit_learn_and_eigenvalues_those_of_the_laplacian():
    theirs = spectral_embedding(nx.to_numpy_array(GRAPH, weight=None), n_components=3, random_state=0)
    ours = SpectralFeatures(n_components=3).fit_transform(GRAPH)
    ratio = ours / theirs
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-3)
    values = np.sort(nx.normalized_laplacian_spectrum(GRAPH, weight=None))
    np.testing.assert_allclose(
        SpectralFeatures(n_components=3).fit(GRAPH).transform_graphs(GRAPH)[0], values[1:4], atol=1e-5
    )


def test_few_eigenvectors_of_a_large_graph_are_those_of_all(monkeypatch):
    graph = nx.barabasi_albert_graph(80, 3, seed=0)
    dense = SpectralFeatures(n_components=3).fit_transform(graph)
    monkeypatch.setattr("anytask.pretrain.graph_baselines._DENSE", 10)
    np.testing.assert_allclose(SpectralFeatures(n_components=3).fit_transform(graph), dense, atol=1e-3)


def test_strangers_are_of_one_graph_and_have_no_edge():
    batch = read_graphs([nx.cycle_graph(5), nx.complete_graph(4), GRAPH])
    u, v = batch.strangers()
    assert (batch.graph[u] == batch.graph[v]).all() and (u != v).all() and set(batch.graph[u].tolist()) == {0, 2}
    assert (batch.adjacency.to_dense()[u, v] == 0).all()


def test_a_network_that_rebuilds_edges_knows_them_better_than_one_that_never_learned():
    ring = nx.cycle_graph(20)
    known = nx.to_numpy_array(ring) > 0

    def told_apart(model):
        H = model.fit_transform((np.stack(known.nonzero()), np.eye(20)))  # each node is its own feature
        inner = H @ H.T
        return np.mean(inner[known][:, None] > inner[~known & ~np.eye(20, dtype=bool)])  # area under the curve

    learned, random = (cls(hidden=(16, 8)) for cls in (GraphVAE, RandomGraphEncoder))
    assert told_apart(learned) > told_apart(random) + 0.15


def test_graphs_without_edges_are_refused_where_edges_are_all_there_is():
    with pytest.raises(ValueError, match="X has no edges"):
        GraphVAE().fit([nx.empty_graph(3), nx.empty_graph(2)])
    assert torch.equal(read_graphs(nx.empty_graph(3)).strangers(), torch.zeros(2, 0, dtype=torch.int64))


def test_scores_of_pairs_are_those_of_networkx():
    graph = nx.barabasi_albert_graph(30, 3, seed=0)
    pairs = [(u, v) for u, v in itertools.combinations(range(30), 2) if not graph.has_edge(u, v)]
    found = LinkHeuristics().fit(graph).transform_links(graph, pairs)
    right = [
        [len(list(nx.common_neighbors(graph, u, v))) for u, v in pairs],
        [score for *_, score in nx.adamic_adar_index(graph, pairs)],
        [score for *_, score in nx.jaccard_coefficient(graph, pairs)],
    ]
    np.testing.assert_allclose(found, np.transpose(right), rtol=1e-5)
    for place, kind in enumerate(("common", "adamic-adar", "jaccard")):
        alone = LinkHeuristics(kind=kind).fit(graph).transform_links(graph, pairs)
        np.testing.assert_allclose(alone[:, 0], right[place], rtol=1e-5)


@pytest.mark.parametrize(
    ("pairs", "says"),
    [([[0, 30]], "nodes from 0 to 30"), ([[-1, 2]], "nodes from -1"), ([0, 1], "shape"), ([[0.5, 1]], "integers")],
)
def test_pairs_are_checked(pairs, says):
    graph = nx.path_graph(30)
    with pytest.raises(ValueError, match=says):
        DegreeFeatures().fit(graph).transform_links(graph, pairs)


def test_vectors_of_pairs_are_products():
    graph = nx.path_graph(5)
    model = DegreeFeatures().fit(graph)
    H = model.transform(graph)
    np.testing.assert_allclose(model.transform_links(graph, [[0, 1], [3, 2]]), H[[0, 3]] * H[[1, 2]])
