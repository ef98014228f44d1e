"""Cosine prototypes, snapshots, distillation and views."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anytask.continual.parts.distillation import Snapshot, kl_distillation
from anytask.continual.parts.prototypes import Prototypes
from anytask.continual.parts.views import ViewSettings, flip, jitter, noise, shift
from anytask.core.rollback import rollback


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_growing_keeps_rows_and_their_order():
    prototypes = Prototypes(4)
    prototypes.grow(["b", "a"], generator())
    before = prototypes.weight.detach().clone()
    assert prototypes.grow(["a", "c"], generator(1)) == ["c"]
    assert torch.equal(prototypes.weight[:2], before) and prototypes.rows == {"b": 0, "a": 1, "c": 2}
    assert prototypes.weight.abs().max() <= 0.5  # 1 / sqrt(4)
    assert prototypes.indices(["c", "b"]).tolist() == [2, 0]


@settings(deadline=None)
@given(st.floats(0.01, 100.0), st.integers(0, 1000))
def test_scores_and_attraction_ignore_the_scale_of_prototypes_and_the_gradient_is_orthogonal(factor, seed):
    prototypes = Prototypes(3).double()
    prototypes.grow([0, 1], generator(seed))
    z, rows = torch.randn(5, 3, generator=generator(seed), dtype=torch.float64), torch.tensor([0, 1, 1, 0, 0])
    scores, attraction = prototypes(z).detach(), prototypes.attraction(z, rows)
    attraction.backward()
    assert (prototypes.weight.grad * prototypes.weight).sum(1).abs().max() < 1e-12
    with torch.no_grad():
        prototypes.weight[1] *= factor
    torch.testing.assert_close(prototypes(z), scores)
    torch.testing.assert_close(prototypes.attraction(z, rows), attraction)


def test_attraction_reaches_the_rows_of_the_batch_alone_and_zero_features_are_defined():
    prototypes = Prototypes(3)
    prototypes.grow([0, 1, 2], generator())
    prototypes.attraction(torch.randn(2, 3, generator=generator()), torch.tensor([0, 2])).backward()
    assert (prototypes.weight.grad[1] == 0).all() and prototypes.weight.grad[0].abs().sum() > 0
    assert (prototypes(torch.zeros(1, 3)) == 0).all()


def test_snapshot_is_frozen_and_apart():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    teacher = Snapshot(net)
    x = torch.randn(8, 2, generator=generator())
    before = teacher(x).clone()
    net(x).sum().backward()
    with torch.no_grad():
        net[0].weight.add_(1.0)
    assert torch.equal(teacher(x), before) and not teacher(x).requires_grad
    assert all(p.grad is None and not p.requires_grad for p in teacher.module.parameters())


def test_a_snapshot_in_train_mode_moves_its_statistics_and_a_rollback_undoes_it():
    class Holder:
        def __init__(self):
            self.teacher = Snapshot(nn.BatchNorm1d(2), train_mode=True)

    holder, x = Holder(), torch.ones(4, 2)
    with pytest.raises(RuntimeError), rollback(holder):
        holder.teacher(x)
        assert holder.teacher.module.running_mean.abs().sum() > 0
        raise RuntimeError
    assert holder.teacher.module.running_mean.abs().sum() == 0


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 5.0))
def test_kl_distillation_is_torchs_divergence_along_either_axis(seed, T):
    student = torch.randn(4, 3, generator=generator(seed), dtype=torch.float64)
    teacher = torch.randn(4, 3, generator=generator(seed + 1), dtype=torch.float64)
    for dim in (0, 1):
        log_p, q = (student / T).log_softmax(dim), (teacher / T).softmax(dim)
        wanted = nn.functional.kl_div(log_p, q, reduction="none").sum(dim)
        got = kl_distillation(student, teacher, T, dim=dim, reduction="none")
        torch.testing.assert_close(got, wanted)
        assert (got >= -1e-12).all()
        torch.testing.assert_close(kl_distillation(student, teacher, T, dim=dim, scale=True), T**2 * wanted.mean())
        torch.testing.assert_close(kl_distillation(student, teacher, T, dim=dim, reduction="sum"), wanted.sum())


def test_kl_distillation_refuses_bad_input():
    with pytest.raises(ValueError, match="one shape"):
        kl_distillation(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="above 0"):
        kl_distillation(torch.zeros(2), torch.zeros(2), 0.0)


def test_a_shift_moves_every_pixel_alike_and_fills_with_zeros():
    image = torch.zeros(200, 1, 5, 5)
    image[:, 0, 2, 2] = 1.0
    moved = shift(image, generator(), 1)
    places = moved.flatten(1).argmax(1)
    assert (moved.sum((1, 2, 3)) == 1).all()
    assert set(places.tolist()) == {5 * r + c for r in (1, 2, 3) for c in (1, 2, 3)}
    assert torch.equal(shift(image, generator(), 0), image)


def test_flips_mirror_about_half_of_the_images():
    image = torch.arange(4.0).reshape(1, 1, 2, 2).repeat(400, 1, 1, 1)
    flipped = flip(image, generator())
    mirrored = (flipped[:, 0, 0, 0] == 1).float().mean().item()
    assert 0.4 < mirrored < 0.6
    assert torch.equal(flipped.sort(-1).values, image)


def test_noise_has_its_scale_and_jitter_keeps_shape_and_grey_images_grey():
    x = torch.zeros(100, 100)
    assert noise(x, generator(), 0.3).std().item() == pytest.approx(0.3, rel=0.05)
    colour = torch.rand(50, 3, 4, 4, generator=generator())
    out = jitter(colour, generator())
    assert out.shape == colour.shape
    grey = (out == out[:, :1]).flatten(1).all(1).float().mean()
    assert 0.05 < grey < 0.4


@pytest.mark.parametrize(
    ("augment", "input_shape", "image_shape"),
    [
        ("auto", (3, 16, 16), None), ("auto", (8, 8), None), ("auto", (64,), (8, 8)), ("auto", (5,), None),
        ("flip-crop-jitter", (192,), (3, 8, 8)), ("shift-noise", (2, 8, 8), None), ("none", (5,), None),
    ],
)  # fmt: skip
def test_named_views_keep_the_shape_and_repeat_with_the_generator(augment, input_shape, image_shape):
    x = torch.rand(4, *input_shape, generator=generator())
    view = ViewSettings(kind=augment, image_shape=image_shape).maker(input_shape)
    one, two = view(x, generator(1)), view(x, generator(1))
    assert one.shape == x.shape and torch.equal(one, two)
    assert torch.equal(one, x) == (augment == "none")


def test_views_refuse_unknown_names_and_images_that_are_none():
    with pytest.raises(ValueError, match="one of"):
        ViewSettings(kind="blur")
    with pytest.raises(ValueError, match="image_shape="):
        ViewSettings(kind="shift-noise").maker((4,))
    with pytest.raises(ValueError, match="as many values"):
        ViewSettings(image_shape=(8, 9)).maker((64,))
