"""What is asked of nodes, and that no graph is both learned from and tested on."""

import networkx as nx
import numpy as np
import pytest

from anytask.claims.pretrain.structure import Structure, surroundings
from anytask.datasets.graphs import edges_of
from anytask.problems.base import Entrant


def test_numbers_of_a_node_are_those_of_networkx():
    graph = nx.gnp_random_graph(20, 0.2, seed=1)
    degree, around, two_hop, triangles = surroundings(edges_of(graph), 20).T
    hops = dict(nx.all_pairs_shortest_path_length(graph, cutoff=2))
    assert degree.tolist() == [graph.degree(node) for node in graph]
    np.testing.assert_allclose(around, list(nx.average_neighbor_degree(graph).values()))
    assert two_hop.tolist() == [sum(d == 2 for d in hops[node].values()) for node in graph]
    assert triangles.tolist() == list(nx.triangles(graph).values())


def test_encoders_learn_from_other_graphs_than_those_of_the_test():
    problem, seen = Structure(), []

    class Spy:
        def fit(self, X):
            seen.extend(X)
            return self

    data = problem.load("graph-families", learned=3, tested=2)
    entrant = Entrant("spy", "anytask.pretrain:DegreeFeatures", {})
    object.__setattr__(entrant, "make", lambda *_args, **_given: Spy())
    problem.train(entrant, data, 0, lambda share: None)
    graphs, family = data.drawn(0)
    assert len(seen) == 9 and family.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 1, 1, 2, 2]
    assert not any(np.array_equal(a, b) for a, _ in seen for b, _ in graphs[9:])


@pytest.mark.parametrize("name", ["graph-families", "real-graphs"])
def test_degrees_say_degrees_and_little_of_what_is_two_hops_away(name):
    problem = Structure()
    entrant = Entrant("degree", "anytask.pretrain:DegreeFeatures", {"hops": 0})
    found = problem.run(entrant, problem.load(name), 0).metrics
    assert found["degree"] > 0.95 and found["two_hop"] < 0.5 and ("family" in found) == (name == "graph-families")
