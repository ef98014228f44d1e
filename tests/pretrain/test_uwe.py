"""UWE: the brief's fixed values, batches and positives, concatenation, kept tokens, and what scorers are for."""

import json

import numpy as np
import pytest
import torch

from anytask.datasets.vacancies import vacancies
from anytask.parts.contrastive import contrastive_loss
from anytask.parts.ranking import ranking_metrics
from anytask.pretrain import UWE
from anytask.pretrain.parts.items import read_pairs

CONTRACT = {"width": 8, "scale_dot": True}
GRAPHS = {
    "job": [(f"job {i}", f"skill {(i * j) % 7}") for i in range(9) for j in (1, 2)],
    "alias": [("other 3", "Skill 3"), ("other 4", "skill 4"), ("more 3", "skill  3")],
}
TOKENS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
TARGET = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


class Spelled(torch.nn.Module):
    """Gives the tokens that a text spells, and what is not to be looked at behind them."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, texts):
        rows = [torch.tensor(json.loads(text)) for text in texts]
        x = torch.full((len(rows), 2 + max(map(len, rows)), 2), 9.0)
        for place, row in enumerate(rows):
            x[place, : len(row)] = row
        return x * self.one, torch.arange(x.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]


def spelled(**params):
    model = UWE(encoder=Spelled(), epochs=0, **params)
    return model.fit(["[[1.0, 0.0]]"], ["[[0.0, 1.0]]"])


def said(tokens):
    return [json.dumps(tokens.tolist())]


@pytest.mark.parametrize(("tau_a", "score"), [(0.5, 0.874610), (1e-3, 0.926777), (1e4, 0.569062)])
def test_the_score_of_the_brief_and_its_limits(tau_a, score):
    for kept in (False, True):
        model = spelled(scorer="query_to_target", tau_a=tau_a)
        a, b = said(TOKENS), said(TARGET)
        S = model.scores(model.encode(a, side="left"), model.encode(b)) if kept else model.scores(a, b)
        assert S.item() == pytest.approx(score, abs=2e-5)
    model.set_params(reduce="sum")
    assert model.scores(a, b).item() == pytest.approx(2 * score, abs=4e-5)


SCORERS = ("both", "query_to_target", "target_to_query", "target_mean", "maxsim", "mean_pool")


@pytest.mark.parametrize("scorer", SCORERS)
def test_kept_tokens_order_and_padding_change_no_score(scorer):
    rng = np.random.default_rng(1)
    left = [json.dumps(rng.normal(size=(n, 2)).round(3).tolist()) for n in (1, 4, 2)]
    right = [json.dumps(rng.normal(size=(n, 2)).round(3).tolist()) for n in (3, 1, 5, 2)]
    model = spelled(scorer=scorer, scale_dot=True)
    S = model.scores(left, right)
    direct = torch.cat([torch.cat([  # one pair at a time: nothing is padded
        model._score(*(torch.tensor([json.loads(text)]) for text in (a, b)), *(
            torch.ones(1, len(json.loads(text)), dtype=torch.bool) for text in (a, b)
        )) for b in right], dim=1) for a in left]).numpy()  # fmt: skip
    np.testing.assert_allclose(S, direct, atol=1e-6)
    np.testing.assert_allclose(model.scores(model.encode(left, side="left"), model.encode(right)), S, atol=1e-6)
    turned = [json.dumps(json.loads(text)[::-1]) for text in right]
    np.testing.assert_allclose(model.scores(left, turned), S, atol=1e-6)
    if scorer in ("both", "mean_pool"):
        np.testing.assert_allclose(model.scores(right, left).T, S, atol=1e-6)


def test_the_loss_of_the_brief_is_the_sum_of_both_directions():
    S, P = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]), torch.tensor([[1, 1, 0], [0, 0, 1]])
    assert 2 * contrastive_loss(S, P, symmetric=True).item() == pytest.approx(0.973274, abs=1e-6)


def test_a_batch_has_a_partner_of_each_drawn_item_in_each_graph_and_every_edge_is_positive():
    graphs = {name: read_pairs(*zip(*edges)) for name, edges in GRAPHS.items()}
    model = UWE(batch_size=5)
    batches = list(model._batches(graphs))
    assert len(batches) == 4  # 18 edges of the larger graph, 5 at a time
    for step in batches:
        for name, batch in step.items():
            pairs = graphs[name]
            edges = {tuple(edge) for edge in pairs.edges.tolist()}
            assert len(batch.columns.unique()) == len(batch.columns) == len(batch.drawn) <= 5
            for i, row in enumerate(batch.rows.tolist()):
                for j, column in enumerate(batch.columns.tolist()):
                    assert bool(batch.positive[i, j]) == ((row, column) in edges)
    drawn = [batch.columns for step in batches for name, batch in step.items() if name == "alias"]
    assert drawn and {graphs["alias"].right.values[row] for rows in drawn for row in rows} <= {"Skill 3", "skill 4"}
    both = [step for step in batches if len(step) == 2]
    for step in both:  # the graphs speak of the same skills
        names = {name: {step[name].pairs.right.values[c].casefold() for c in step[name].columns} for name in step}
        assert names["alias"] <= names["job"]


@pytest.mark.parametrize("shared", ["right", "left"])
def test_a_joined_partner_shares_no_drawn_item_and_what_it_brings_is_no_negative(shared):
    sides = [f"text {i}" for i in range(12)], [f"skill {i % 6}" for i in range(12)]
    pairs = read_pairs(*(sides if shared == "right" else sides[::-1]))
    model = UWE(shared=shared, batch_size=6)
    torch.manual_seed(0)
    batch = next(iter(model._batches({"": pairs})))[""]
    side = "left" if shared == "right" else "right"
    for share, least in ((1.0, 3), (0.0, 0)):
        joined, candidates = model._concatenated(batch, share)
        rows = joined.rows if side == "left" else joined.columns
        texts = getattr(joined.pairs, side).taken(rows)
        P, may = (batch.positive, candidates) if side == "left" else (batch.positive.T, candidates.T)
        skills = getattr(pairs, shared).taken(batch.columns if side == "left" else batch.rows)
        assert sum(text.count("text") == 2 for text in texts) >= least
        for text, positive, allowed in zip(texts, P, may):
            told = {f"skill {int(word) % 6}" for word in text.split() if word.isdigit()}
            own = {skills[j] for j in positive.nonzero().flatten()}
            assert own <= told and {skills[j] for j in (~allowed).nonzero().flatten()} == told - own


def test_numbers_of_graphs_are_asked_for_by_name():
    model = UWE.from_preset("small", epochs=1, alpha={"job": 1, "alias": 0.5}, tau={"job": 0.05}, concatenation=0.8)
    with pytest.raises(ValueError, match="tau holds no number for the graph 'alias'; it has job"):
        model.fit(GRAPHS)
    model.set_params(tau={"job": 0.05, "alias": 0.02}).fit(GRAPHS)
    assert np.isfinite(model.scores(["job 1"], ["skill 1"])).all()
    for wrong, says in (
        ({"tau": {"job": 0}}, "tau"),
        ({"alpha": {}}, "alpha"),
        ({"concatenation": 2}, "concatenation"),
    ):
        with pytest.raises(ValueError, match=says):
            UWE(**wrong)
    with pytest.raises(ValueError, match=r"'job'.*no pair"):
        model.fit({"job": [("a", "b", "c")]})
    for graphs, right in (({}, None), (GRAPHS, ["a"])):
        with pytest.raises(ValueError, match="at least one graph"):
            model.fit(graphs, right)


def test_tokens_are_kept_in_a_folder_and_encoded_once(tmp_path, monkeypatch):
    model = UWE.from_preset("small", epochs=1).fit(GRAPHS)
    targets = [f"skill {i} of many" for i in range(300)]
    S = model.scores(["job 2", "other 3"], targets)
    tokens = model.encode(targets, cache=tmp_path)
    np.testing.assert_array_equal(model.scores(["job 2", "other 3"], tokens), S)
    monkeypatch.setattr(type(model.net_), "forward", lambda *_: 1 / 0)
    assert torch.equal(model.encode(targets, cache=tmp_path).bags.tokens, tokens.bags.tokens)
    with pytest.raises(ZeroDivisionError):
        model.encode(targets[1:], cache=tmp_path)
    monkeypatch.undo()
    model.encode(targets, cache=tmp_path)
    (tmp_path / "tokens.f32").write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"tokens\.f32 has 4 bytes"):
        model.encode(targets, cache=tmp_path)


def test_tokens_that_meet_find_what_a_mean_blurs():
    world = vacancies(0, n=300, tested=60)
    rows, columns = np.nonzero(world.train[1])
    left, right = [world.train[0][row] for row in rows], [world.skills[column] for column in columns]
    targets = [name for name, known in zip(world.skills, world.known) if known]
    found = {}
    for scorer in ("both", "mean_pool"):
        model = UWE.from_preset("small", scorer=scorer, epochs=5).fit(left, right)
        S = model.scores(world.tested[0], targets)
        found[scorer] = ranking_metrics(S, world.tested[1][:, world.known])["map"]
    assert found["both"] > found["mean_pool"] + 0.15
