"""SADE: the numbers of its losses and of its stability, what adaptation moves and what it leaves."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anytask.robust import SADE
from anytask.robust.long_tail_baselines import LongTailTraining, PriorEstimation
from anytask.robust.parts.long_tail import expert_offsets, inverse_prior, profile
from anytask.robust.sade import stability

CONTRACT = {"steps": 4}
PRIOR = torch.tensor([0.7, 0.2, 0.1])
ONE = torch.tensor([[[2.0, 0, 0], [1, 1, 0], [0, 0, 2]]])
TWO = torch.tensor([[[2.0, 0.2, 0], [0, 1, 1], [0, 0, 1.8]]])


def tail(seed=0, counts=(120, 40, 12), d=6, apart=2.0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    X = rng.normal(size=(len(y), d)).astype(np.float32)
    X[np.arange(len(y)), y] += apart
    return X, y


@pytest.fixture(scope="module")
def model():
    return SADE(steps=150, views={"noise_scale": 0.5}).fit(*tail())


@pytest.mark.parametrize(("prior", "wanted"), [
    ([0.7, 0.2, 0.1], [0.1, 0.2, 0.7]), ([0.2, 0.7, 0.1], [0.2, 0.1, 0.7]),
    ([0.1, 0.3, 0.4, 0.2], [0.4, 0.2, 0.1, 0.3]), ([0.25] * 4, [0.25] * 4),
])  # fmt: skip
def test_the_inverse_prior_swaps_ranks(prior, wanted):
    assert torch.allclose(inverse_prior(torch.tensor(prior)), torch.tensor(wanted))


def test_the_losses_of_three_experts():
    offsets = expert_offsets(PRIOR, ("forward", 0, 2))
    labels = torch.arange(3)

    def losses(logits, k):
        return F.cross_entropy((logits + offsets[k]).expand(3, 3), labels, reduction="none").tolist()

    assert losses(torch.zeros(3), 1) == pytest.approx([0.356675, 1.609438, 2.302585], abs=1e-5)
    assert losses(torch.zeros(3), 2) == pytest.approx([0.071710, 2.710768, 5.909441], abs=1e-5)
    model = SADE()
    model.prior_ = PRIOR
    total = model._loss(torch.tensor([[1.0, 0, -1]]).expand(1, 3, 3), torch.tensor([2]))
    assert total.item() == pytest.approx(14.334856, abs=1e-4)
    even = expert_offsets(torch.full((3,), 1 / 3), ("forward", 0, 2))
    assert torch.allclose(F.log_softmax(even, 1), F.log_softmax(torch.zeros(3, 3), 1), atol=1e-6)


def test_the_unstable_expert_loses_weight():
    a = torch.full((3,), 1 / 3, requires_grad=True)
    S = stability(ONE, TWO, a)
    assert S.item() == pytest.approx(0.9629339, abs=1e-6)
    (gradient,) = torch.autograd.grad(S, a)
    assert gradient.tolist() == pytest.approx([0.0200289, -0.0509104, 0.0308815], abs=1e-6)
    same_views = stability(ONE, ONE, a)
    assert same_views.item() == pytest.approx(1)
    assert torch.autograd.grad(same_views, a)[0].abs().max() < 1e-6


def test_adaptation_moves_the_weights_of_the_experts_and_nothing_else(model):
    changed, (X, y) = copy.deepcopy(model), tail(seed=1, counts=(10, 40, 120))
    assert changed.shares == pytest.approx([1 / 3] * 3)
    forward, _, backward = changed.adapt(X).shares
    assert backward > forward and sum(changed.shares) == pytest.approx(1)
    for name, value in model.net_.state_dict().items():
        assert torch.equal(changed.net_.state_dict()[name], value)
    assert (changed.predict(X) == y).mean() > (model.predict(X) == y).mean() - 0.02
    again = changed.adapt(X).shares
    assert again == changed.adapt(X).shares  # it begins anew
    assert changed.adapt(X, epochs=0).shares == pytest.approx([1 / 3] * 3)


def test_without_random_views_nothing_moves(model):
    still = SADE(steps=5, views={"kind": "none"}, adapt_weight_decay=0).fit(*tail())
    assert still.adapt(tail(seed=1)[0]).shares == pytest.approx([1 / 3] * 3, abs=1e-5)


def test_a_stream_goes_on_from_the_present_weights(model):
    changed, X = copy.deepcopy(model), tail(seed=1, counts=(10, 40, 120))[0]
    first = changed.adapt(X[:64], restart=False, epochs=1).shares
    second = changed.adapt(X[64:128], restart=False, epochs=1).shares
    assert first != second
    changed.adapt(X[:1], restart=False, epochs=1)  # a single input is a batch


def test_the_guard_ends_adaptation(model):
    changed, X = copy.deepcopy(model), tail(seed=1, counts=(10, 40, 120))[0]
    one_pass = changed.set_params(guard=0.34, adapt_epochs=50).adapt(X).shares  # below even shares: after one pass
    assert one_pass == pytest.approx(changed.adapt(X, epochs=1).shares)


def test_bad_adaptation_is_refused_and_leaves_the_weights(model):
    changed, X = copy.deepcopy(model), tail(seed=1)[0]
    before = changed.adapt(X).shares
    bad = X.copy()
    bad[3, 0] = np.nan
    for given, says in ((bad, "row 3"), (X[:0], "0 sample"), (X[:, :2], "features")):
        with pytest.raises(ValueError, match=says):
            changed.adapt(given)
    for epochs in (-1, 1.5, True):
        with pytest.raises(ValueError, match="epochs must be an integer"):
            changed.adapt(X, epochs=epochs)
    for restart in ("no", None, 0):
        with pytest.raises(ValueError, match="restart must be True or False"):
            changed.adapt(X, restart=restart)

    def interrupt(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        changed.adapt(X, progress=interrupt)
    assert changed.shares == before


@pytest.mark.parametrize("experts", [(), "forward", ("backward",), (-1.0,), (float("nan"),), (True,)])
def test_experts_that_are_none(experts):
    with pytest.raises(ValueError, match="experts must be a list"):
        SADE(experts=experts)


def test_experts_are_trained_for_their_frequencies(model):
    X = tail(seed=2, counts=(100, 100, 100))[0]
    P = model.expert_proba(torch.from_numpy(X))
    rare = P[:, :, 2].mean(0)  # how often each expert says the rarest class
    assert rare[0] < rare[1] < rare[2]


def test_estimated_frequencies_follow_the_test_inputs():
    X, y = tail(seed=3, counts=(20, 60, 200), apart=3.0)
    for way in ("cross-entropy", "logit adjustment"):
        model = PriorEstimation(way=way, steps=200).fit(*tail(apart=3.0))
        before = (model.predict(X) == y).mean()
        found = np.array(model.adapt(X).shares_)
        assert np.abs(found - np.bincount(y) / len(y)).max() < 0.15
        assert (model.predict(X) == y).mean() >= before


def test_ways_to_meet_a_long_tail_raise_the_rarest_class():
    X = tail(seed=4, counts=(100, 100, 100))[0]
    found = {
        way: (LongTailTraining(way=way, steps=150).fit(*tail()).predict(X) == 2).mean()
        for way in ("cross-entropy", "logit adjustment", "class weights", "balanced sampling")
    }
    assert min(value for way, value in found.items() if way != "cross-entropy") > found["cross-entropy"]


def test_late_stages_are_copied_for_each_expert():
    model = SADE(steps=2, branch=lambda d: torch.nn.Sequential(torch.nn.Linear(d, 5), torch.nn.ReLU())).fit(*tail())
    assert [branch[1].weight.shape[1] for branch in model.net_.branches] == [5, 5, 5]


def test_profiles_fall_rise_and_keep_one_of_each():
    assert profile(3, 4, 1000).tolist() == [4, 1, 1] and profile(3, 10, 1).tolist() == [10, 10, 10]
