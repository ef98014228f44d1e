"""Frozen features of pairs of nodes: what is held out, whom encoders see, and how pairs without an edge are drawn."""

import networkx as nx
import numpy as np
import pytest

from anytask.core.errors import BadData
from anytask.problems.base import Entrant
from anytask.problems.frozen_features import FrozenFeatures

PROBLEM = FrozenFeatures()
CLUSTERED = nx.convert_node_labels_to_integers(nx.planted_partition_graph(6, 15, 0.5, 0.02, seed=0))


def keys(edges):
    return {tuple(sorted(edge)) for edge in np.asarray(edges).reshape(-1, 2).tolist()}


@pytest.mark.parametrize("source", [CLUSTERED, [nx.gnp_random_graph(12, 0.3, seed=seed) for seed in range(8)]])
def test_edges_that_are_asked_for_are_out_of_the_graphs_before_an_encoder_sees_them(source):
    data = PROBLEM.load(source, predict="links", shots=5)
    for seed in (0, 1):
        drawn = data.drawn(seed)
        shown = drawn.shown(drawn.split(seed)[0])
        first, seen, every = 0, set(), set()
        graphs = source if isinstance(source, list) else [source]
        for graph, (edges, x) in zip(graphs, shown if isinstance(shown, list) else [shown]):
            assert len(x) == len(graph) and len(keys(edges.T)) == edges.shape[1] // 2  # both ways
            seen |= keys(edges.T + first)
            every |= keys(np.array(graph.edges) + first)
            first += len(graph)
        asked = drawn.source.y == "edge"
        held, others = keys(drawn.pairs[asked]), keys(drawn.pairs[~asked])
        assert len(held) == len(others) == round(0.25 * len(every))
        assert held | seen == every and not held & seen and not others & every
        train, test = drawn.split(seed)
        assert not set(train) & set(test) and len(train) + len(test) == len(drawn.pairs)
    assert keys(data.drawn(0).pairs) != keys(data.drawn(1).pairs)
    whole = data.shown(np.arange(1))  # what is saved learns from all
    assert sum(edges.shape[1] for edges, _ in (whole if isinstance(whole, list) else [whole])) == 2 * len(every)


def test_an_encoder_of_the_answers_finds_none():
    class Memory:
        """Says of each pair whether it saw an edge."""

        def __init__(self, seed=0):
            self.seed = seed

        def fit(self, X):
            self.seen = keys(X[0].T)
            return self

        def transform_links(self, X, pairs):
            return np.array([[float(tuple(sorted(pair)) in self.seen)] for pair in pairs.tolist()])

    data = PROBLEM.load(CLUSTERED, predict="links", shots=5).drawn(0)
    train, test = data.split(0)
    model = Memory().fit(data.shown(train))
    assert data.features(model, train).sum() == data.features(model, test).sum() == 0


def test_neighborhoods_tell_edges_of_clusters_and_degrees_do_not():
    data = PROBLEM.load(CLUSTERED, predict="links", shots="1,10")
    by_name = {entrant.name: entrant for entrant in PROBLEM.baselines(data)}
    assert set(by_name) == {
        "raw features", "spectral embedding", "random encoder", "graph auto-encoder", "common neighbors", "Adamic-Adar",
        "Jaccard", "all three",
    }  # fmt: skip
    degrees = Entrant("degree", "anytask.pretrain:DegreeFeatures", {"hops": 0})
    found = {one.name: PROBLEM.run(one, data, 0).metrics["auc"] for one in (by_name["common neighbors"], degrees)}
    assert found["common neighbors"] > found["degree"] + 0.2


def test_ends_of_pairs_without_an_edge_are_as_well_connected_as_those_of_edges():
    graph = nx.barabasi_albert_graph(400, 3, seed=0)
    data = PROBLEM.load(graph, predict="links", shots=5).drawn(0)
    degree = np.array([d for _, d in graph.degree])
    edge = data.source.y == "edge"
    ends = [np.log(degree[data.pairs[rows]]).mean() for rows in (edge, ~edge)]
    evenly = np.log(degree).mean()
    assert abs(ends[0] - ends[1]) < 0.35 * (ends[0] - evenly)


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        (nx.complete_graph(9), {}, "find no pair without an edge"),
        (nx.path_graph(9), {}, "2 of 8 edges are held out"),
        ("digits", {}, "predict=links is for graphs"),
        ("karate", {"split": "ordered"}, "split is for other data"),
        (({"a": [np.ones((2, 3))] * 4}, [0, 1] * 2), {}, "predict is for other data, and these are bags"),
    ],
)
def test_data_without_links_to_predict_are_refused(source, options, says):
    with pytest.raises(BadData, match=says):
        PROBLEM.load(source, predict="links", **options)


def test_a_list_of_edges_needs_no_labels_and_what_is_saved_gives_features_of_pairs(tmp_path):
    (tmp_path / "edges.csv").write_text("a,b\n" + "\n".join(f"{u},{v}" for u, v in CLUSTERED.edges))
    (tmp_path / "nodes.csv").write_text("node\n" + "\n".join(map(str, CLUSTERED)))
    with pytest.raises(BadData, match="wanted are 2 columns"):
        PROBLEM.load(tmp_path)
    data = PROBLEM.load(tmp_path, predict="links", shots=2)
    trained = PROBLEM.refit(Entrant("it", "anytask.pretrain:IsoCVGAE", {"hidden": (8, 4), "epochs": 2}), data, 0)
    for part in trained.parts:
        part.save(tmp_path)
    used: dict = {"graphs": CLUSTERED, "pairs": [[0, 1], [2, 80]]}
    exec("\n".join(trained.usage).replace("{folder}", str(tmp_path)), used)
    assert used["features"].shape == (2, 4)
