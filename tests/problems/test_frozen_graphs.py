"""Frozen features of graphs: what encoders see of them, and who takes part."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from anytask.core.errors import BadData
from anytask.problems.base import Entrant
from anytask.problems.frozen_features import FrozenFeatures

PROBLEM = FrozenFeatures()


def test_the_halves_of_the_club_are_named_by_eigenvectors_and_not_by_degrees():
    data = PROBLEM.load("karate", shots=5, draws=3)
    by_name = {entrant.name: entrant for entrant in PROBLEM.baselines(data)}
    assert set(by_name) == {"raw features", "spectral embedding", "random encoder", "graph auto-encoder"}
    found = {name: PROBLEM.run(by_name[name], data, 0).metrics["accuracy"] for name in list(by_name)[:2]}
    assert found["spectral embedding"] > found["raw features"] + 0.2


def test_encoders_see_all_nodes_of_one_graph_and_only_training_graphs_of_several():
    whole = PROBLEM.load("karate")
    rows, test = whole.split(0)
    assert len(whole.shown(rows)[1]) == 34 == len(rows) + len(test) and "see the whole graph" in whole.notes[-1]
    several = PROBLEM.load("graph-families")
    rows, test = several.split(0)
    assert len(several.shown(rows)) == len(rows) == 90 and not set(rows) & set(test)


def test_nodes_without_features_are_ones_or_themselves():
    assert (PROBLEM.load("karate").inputs(np.arange(34))[1] == np.ones((34, 1))).all()
    assert (PROBLEM.load("karate", featureless="identity").inputs(np.arange(34))[1] == np.eye(34)).all()
    with pytest.raises(BadData, match="identity is for one graph without features, and there are several"):
        PROBLEM.load("graph-families", featureless="identity")


def test_graphs_in_memory_are_read_with_their_labels():
    graph, y = nx.les_miserables_graph(), np.arange(77) % 2
    nx.set_edge_attributes(graph, 1, "weight")
    one, several = PROBLEM.load((graph, y)), PROBLEM.load(([graph, nx.path_graph(5)] * 3, [0, 1] * 3))
    assert (one.source.level, several.source.level) == ("nodes", "graphs") and len(several.source.graphs) == 6
    edges = torch.tensor([[0, 1], [1, 0]])
    pyg = [Data(edge_index=edges, x=torch.ones(2, 3), y=torch.tensor([place % 2])) for place in range(8)]
    data = PROBLEM.load(pyg)
    assert data.source.y.tolist() == [0, 1] * 4 and data.inputs(np.array([3]))[0][1].shape == (2, 3)


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        (nx.path_graph(4), {}, "without labels"),
        ((nx.path_graph(4), [0, 1]), {}, "4 nodes, and labels of shape"),
        ((nx.path_graph(4), [0, 0, 0, 0]), {}, "one class"),
        ((nx.DiGraph([(0, 1)]), [0, 1]), {}, "graphs is directed"),
        ("karate", {"target": "club"}, "target is for other data, and these are graphs"),
        ("karate", {"shots": 20}, "class 'Mr. Hi' has 13 rows for training"),
    ],
)
def test_graphs_that_cannot_be_used_are_refused(source, options, says):
    with pytest.raises(BadData, match=says):
        PROBLEM.load(source, **options)


def test_encoders_of_arrays_do_not_take_part():
    data = PROBLEM.load("karate")
    for entry, takes in (("anytask.pretrain:PCAFeatures", "arrays"), ("anytask.pretrain:IsoCVGAE", None)):
        reason = PROBLEM.refuses(Entrant("it", entry), data)
        assert reason is None if takes is None else f"learns from {takes}, and here are graphs" in reason


@pytest.mark.parametrize("name", ["karate", "graph-families"])
def test_what_is_saved_gives_features_of_graphs(tmp_path, name):
    data = PROBLEM.load(name)
    entrant = Entrant("isocvgae", "anytask.pretrain:IsoCVGAE", {"hidden": (8, 4), "epochs": 2})
    trained = PROBLEM.refit(entrant, data, 0)
    for part in trained.parts:
        part.save(tmp_path)
    used: dict = {"graphs": nx.path_graph(5)}
    exec("\n".join(trained.usage).replace("{folder}", str(tmp_path)), used)
    assert used["features"].shape == (5 if name == "karate" else 1, 4)
