"""MADELEINE: the brief's numbers, what a view that is missing moves, and what aligned views teach."""

import warnings

import numpy as np
import pytest
import torch

from anytask.pretrain import MADELEINE
from anytask.pretrain.madeleine import BagNetwork, aligned, filled, smooth_rank

CONTRACT = {"heads": 2, "hidden": 6, "width": 5, "token_width": 4, "local_tokens": 3, "select_after": 1}
SMALL = {**CONTRACT, "epochs": 2, "batch_size": 8, "device": "cpu"}


def views(n=12, names=("HE", "ER", "KI67"), share=0.7, d=5, seed=0):
    rng = np.random.default_rng(seed)

    def bags(missing):
        there = rng.random(n) >= missing
        return [rng.normal(size=(rng.integers(1, 7), d)) if here else None for here in there]

    return {name: bags((1 - share) * (place > 0)) for place, name in enumerate(names)}


def test_alignment_of_two_cases_is_the_worked_example():
    anchor, view = torch.eye(2), torch.tensor([[0.8, 0.6], [0.6, -0.8]])
    there = torch.ones(2, dtype=torch.bool)
    assert aligned(anchor, view, there, 0.5).item() == pytest.approx(1.686024, abs=1e-6)


def test_what_stands_in_for_a_missing_view_has_no_part_in_the_loss():
    rng = torch.Generator().manual_seed(0)
    anchor, view = torch.randn(2, 6, 4, generator=rng)
    there = torch.tensor([True, False, True, True, False, True])
    anchor.requires_grad_()
    loss = aligned(anchor, view, there, 0.1)
    loss.backward()
    assert not anchor.grad[~there].any() and anchor.grad[there].all(1).any()
    noise = torch.where(there[:, None], view, torch.randn(6, 4, generator=rng))
    assert torch.equal(aligned(anchor, noise, there, 0.1), loss)
    assert torch.equal(filled(view[there], there)[there], view[there])


def test_smooth_rank_counts_directions():
    assert smooth_rank(torch.diag(torch.tensor([3.0, 1.0, 1.0]))) == pytest.approx(2.586410, abs=1e-5)
    assert smooth_rank(torch.ones(5, 1) @ torch.arange(4.0)[None]) == pytest.approx(1, abs=1e-4)
    assert np.isfinite(smooth_rank(torch.zeros(3, 2)))


def test_chunks_of_the_heads_are_interleaved():
    net = BagNetwork(3, 1, heads=2, hidden=4, width=3, token_width=2, view_width=0, dropout=0, gate_dropout=0)
    x = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    e = net.chunks(x, torch.zeros(1, dtype=torch.long))
    assert torch.equal(e[0, :, 1, 2], net.layers(x)[0, :, 2 * 2 + 1])


def test_vectors_see_neither_the_order_of_tokens_nor_copies_of_all():
    X = views()
    model = MADELEINE(**SMALL).fit(X)
    H = model.transform(X["HE"])
    for changed in ([bag[::-1] for bag in X["HE"]], [np.concatenate([bag, bag]) for bag in X["HE"]]):
        np.testing.assert_allclose(model.transform(changed), H, atol=1e-5)


def test_attention_is_a_share_for_each_token_and_head():
    X = views()
    weights = MADELEINE(**SMALL).fit(X).attention(X)
    assert [len(w) for w in weights] == [len(bag) for bag in X["HE"]]
    for w in weights:
        np.testing.assert_allclose(w.sum(0), [1, 1], atol=1e-6)


def test_any_view_can_be_asked_for():
    X = views(share=1)
    model = MADELEINE(**SMALL).fit(X)
    assert np.array_equal(model.transform(X, view="ER"), model.transform(X["ER"], view="ER"))
    assert not np.allclose(model.transform(X["ER"]), model.transform(X["ER"], view="ER"))  # taken for the anchor
    assert len(model.attention(X, view="ER")[0]) == len(X["ER"][0])
    plain = MADELEINE(**SMALL, view_width=0).fit(X)
    assert np.array_equal(plain.transform(X["ER"]), plain.transform(X["ER"], view="ER"))
    with pytest.raises(ValueError, match="view must be one of 'HE', 'ER', 'KI67', got 'PR'"):
        model.transform(X, view="PR")
    X["ER"][3] = None
    with pytest.raises(ValueError, match="case 3 of the view 'ER' has no bag"):
        model.transform(X, view="ER")


def test_views_that_nobody_has_are_warned_of_and_left_alone():
    X = views()
    X["PR"] = [None] * 12
    with pytest.warns(UserWarning, match="fewer than two cases beside the anchor.*'PR'"):
        model = MADELEINE(**SMALL).fit(X)
    assert np.isfinite(model.transform(X)).all()
    with pytest.raises(ValueError, match="case 0 of the view 'PR' has no bag"):
        model.transform(X, view="PR")


@pytest.mark.parametrize(
    ("given", "params", "says"),
    [
        ({"HE": views()["HE"]}, {}, "X holds one"),
        (views()["HE"], {}, "X holds one"),
        (views(n=1, share=1), {}, "no view is there in two cases"),
        ({"HE": views()["HE"], "ER": [None] * 12}, {}, "no view is there in two cases"),
        ({name: [np.ones((2, 3))] * 5 for name in "ab"}, {"intra_weight": 1.0}, "needs 4 tokens: the longest has 2"),
    ],
)
def test_what_cannot_be_aligned_is_refused(given, params, says):
    with pytest.raises(ValueError, match=says):
        MADELEINE(**SMALL, **params).fit(given)


def test_a_batch_in_which_no_view_qualifies_takes_no_step():
    X = {"a": [np.ones((1, 2))] * 3 + [np.zeros((1, 2))] * 3, "b": [None] * 4 + [np.ones((1, 2))] * 2}
    model = MADELEINE(**SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X)
    before = [w.clone() for w in model.net_.parameters()]
    views = list(model._read(X).values())
    assert list(model._losses(views, torch.tensor([0, 1, 2, 4]), 1)) == []
    assert len(list(model._losses(views, torch.tensor([0, 4, 5]), 1))) == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.net_.parameters()))


def test_a_view_that_is_missing_moves_nothing_of_its_own():
    X = views(share=1)
    X["KI67"] = [None] * 12
    model = MADELEINE(**SMALL, weight_decay=0.0)
    with pytest.warns(UserWarning, match="KI67"):
        trained = model.fit(X).net_.views.weight.detach().clone()
    loss = next(iter(model._losses(list(model._read(X).values()), torch.arange(12), 3)))
    loss.backward()
    grads = model.net_.views.weight.grad
    assert grads[0].any() and grads[1].any() and not grads[2].any() and torch.isfinite(trained).all()


@pytest.mark.parametrize("params", [{"intra_weight": 1.0}, {"global_weight": 0.0}, {"local_weight": 0.0}])
def test_every_loss_can_be_switched(params):
    X = views()
    H = MADELEINE(**SMALL, **params).fit(X).transform(X)
    assert np.isfinite(H).all() and not np.allclose(H, MADELEINE(**SMALL).fit(X).transform(X))


def test_without_epochs_it_is_a_random_encoder():
    X = views()
    louder = {name: [None if bag is None else 2 * bag for bag in bags] for name, bags in X.items()}
    a, b, other = (MADELEINE(**SMALL | {"epochs": 0, "seed": s}).fit(Y) for Y, s in ((X, 1), (louder, 1), (X, 2)))
    assert np.array_equal(a.transform(X), b.transform(X)) and not np.allclose(a.transform(X), other.transform(X))


def test_half_precision_and_the_last_epoch_are_options():
    X = views()
    for params in ({"precision": "bfloat16"}, {"select_after": "never"}, {"warmup_epochs": 0}, {"tokens": 2}):
        assert np.isfinite(MADELEINE(**SMALL | params).fit(X).transform(X)).all()


def test_padded_batches_are_bags_one_at_a_time():
    X = views(n=30)
    model = MADELEINE(**SMALL).fit(X)
    np.testing.assert_allclose(
        model.transform(X["HE"]), np.concatenate([model.transform([b]) for b in X["HE"]]), atol=1e-5
    )


def test_what_the_views_agree_on_is_learned_and_nothing_of_shuffled_cases():
    rng = np.random.default_rng(0)
    b = rng.normal(size=(200, 1))

    def bags(cases):
        louder = rng.normal(size=(200, 1, 5)) + 0.3 * rng.normal(size=(200, 4, 5))
        return np.concatenate([0.7 * cases[:, None] + 0.1 * rng.normal(size=(200, 4, 1)), louder], axis=2)

    params = {"heads": 2, "hidden": 16, "width": 4, "view_width": 0, "local_weight": 0.0, "dropout": 0.0}
    params |= {"epochs": 20, "warmup_epochs": 1, "batch_size": 50, "lr": 1e-2, "select_after": "never"}
    found = []
    for partner in (b, rng.permutation(b)):
        H = MADELEINE(**params).fit({"a": bags(b), "b": bags(partner)}).transform(bags(b))
        H = np.c_[H, np.ones(200)]
        found.append(1 - (b - H @ np.linalg.lstsq(H, b, rcond=None)[0]).var() / b.var())
    assert found[0] > found[1] + 0.3
