"""The protocol for several labels at once: what is annotated, how memories keep it, and what is refused."""

import numpy as np
import pytest
import torch

from anytask.continual import ExperienceReplay, FineTuning, JointTraining, LwF
from anytask.continual.parts.label_matrices import label_loss, label_matrix, masked_loss, numbered

SEVERAL = [FineTuning, JointTraining, ExperienceReplay]
RNG = np.random.default_rng(0)
W = RNG.normal(size=(8, 4))


def chunk(classes, n=256):
    Y = (RNG.random((n, 4)) < 0.4).astype(int)
    return 2 * Y @ W.T + 0.2 * RNG.normal(size=(n, 8)), Y[:, classes]


def taught(cls, **params):
    model = cls.from_preset("small", hidden=(32,), **params)
    for classes in ([2, 0], [1, 3]):
        X, Y = chunk(classes)
        for _ in range(4):
            model.partial_fit(X, Y, classes=np.array(["a", "b", "c", "d"])[classes])
        model.end_task()
    return model


@pytest.mark.parametrize("cls", SEVERAL)
def test_labels_come_chunk_by_chunk_and_are_answered_together(cls, tmp_path):
    model = taught(cls)
    X, Y = chunk([0, 1, 2, 3])
    P = model.predict_proba(X)
    assert model.classes_.tolist() == ["a", "b", "c", "d"] and P.shape == (256, 4)
    assert np.array_equal(model.predict(X), P >= 0.5)
    assert ((P >= 0.5) == Y)[:, [1, 3]].mean() > 0.5 + 0.2  # the last task's
    model.save(tmp_path)
    assert np.array_equal(cls.load(tmp_path).predict_proba(X), P)


def test_unannotated_labels_neither_cost_nor_move_their_outputs():
    scores = torch.randn(5, 3, requires_grad=True)
    y = torch.tensor([[1.0, torch.nan, 0.0]] * 5)
    label_loss(scores, y).backward()
    assert (scores.grad[:, 1] == 0).all() and (scores.grad[:, [0, 2]] != 0).all()


def test_a_memory_gives_back_what_it_was_given():
    sets: list[list[int]] = []
    first = torch.tensor([[1.0, 0.0], [0.0, torch.nan]])
    later = torch.tensor([[torch.nan, torch.nan, 1.0], [1.0, 0.0, torch.nan]])
    numbers = torch.cat([numbered(first, sets), numbered(later, sets)])
    assert numbers.tolist() == [0, 1, 2, 0]
    wanted = torch.cat([torch.nn.functional.pad(first, (0, 1), value=torch.nan), later])
    assert torch.equal(label_matrix(numbers, sets, 3).nan_to_num(-1), wanted.nan_to_num(-1))


@pytest.mark.parametrize("kind", ["float64", "bool", "object", "str", torch.bool, torch.bfloat16])
def test_matrices_of_every_kind_are_learned_alike(kind):
    X, Y = chunk([0, 1], 32)
    given = torch.from_numpy(Y).to(kind) if isinstance(kind, torch.dtype) else Y.astype(kind)
    plain, other = (FineTuning.from_preset("small").partial_fit(X, y) for y in (Y, given))
    assert np.array_equal(plain.predict_proba(X), other.predict_proba(X))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_body_is_a_linear_probe(frozen):
    body = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU())
    model = taught(FineTuning, backbone=body, frozen=frozen)
    own = model.network_.body.module if frozen else model.network_.body
    same = [torch.equal(a, b) for a, b in zip(own.state_dict().values(), body.state_dict().values())]
    assert all(same) == frozen and model.cost()["trainable_parameters"] == (4 * 17 if frozen else 4 * 17 + 8 * 16 + 48)


def test_what_is_no_matrix_of_labels_is_refused():
    X, Y = chunk([0, 1])
    for bad, classes, says in (
        (Y * 0.5, None, r"zeros and ones .* is 0.5"),
        (Y, ["a"], "must name the 2 columns"),
        (Y, ["a", "a"], "all different"),
        (Y[:-1], None, "256 rows and y has 255"),
        (Y[:, 0], ["a"], r"got shape \(256,\)"),
    ):
        with pytest.raises(ValueError, match=says):
            FineTuning().partial_fit(X, bad, classes=classes)
    with pytest.raises(ValueError, match="keep to one kind"):
        FineTuning().partial_fit(X, Y).partial_fit(X, Y[:, 0])
    with pytest.raises(ValueError, match="learns one label a row"):
        LwF().partial_fit(X, Y, classes=["a", "b"])
    with pytest.raises(ValueError, match=r"must have shape \(n,\)"):
        LwF().partial_fit(X, Y)


def test_the_loss_counts_what_is_not_annotated_as_ln_2_and_gives_it_no_gradient():
    scores = torch.tensor([[0.7, -1.2, *[5.0] * 8]], requires_grad=True)
    y = torch.tensor([[1.0, 0.0, *[torch.nan] * 8]])
    loss = masked_loss(scores, y)
    loss.backward()
    assert loss.item() == pytest.approx((0.403186 + 0.263282 + 8 * np.log(2)) / 10, abs=1e-6)
    assert (scores.grad[0, 2:] == 0).all() and (scores.grad[0, :2] != 0).all()
