"""SimCLRv2: its losses by hand, what fine-tuning keeps, and what a student learns."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anytask.core.checks import NotFinite
from anytask.parts.distillation import kl_distillation
from anytask.pretrain import SimCLRv2
from anytask.pretrain.parts.lars import LARS, lars_groups
from anytask.pretrain.parts.two_views import TwoViews, blurred, colors, crop
from anytask.pretrain.simclrv2 import ProjectionHead, nt_xent
from anytask.problems.base import Entrant
from anytask.problems.few_labels import FewLabels

CONTRACT = {"epochs": 2, "batch_size": 16, "finetuning": {"epochs": 2, "min_steps": 2}, "distillation": {"epochs": 1}}
RNG = np.random.default_rng(0)
X = RNG.random((40, 1, 8, 8)).astype(np.float32)
Y = np.arange(40) % 3
IMAGES = torch.rand(64, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def made(**params):
    return SimCLRv2.from_preset("small", **{**CONTRACT, **params})


def generator():
    return torch.Generator().manual_seed(1)


def test_nt_xent_of_two_pairs_by_hand():
    z = torch.tensor([[1, 0], [0, 1], [0.6, 0.8], [0.8, -0.6]])
    rows = [-math.log(math.exp(S[p]) / sum(math.exp(S[j]) for j in range(4) if j != i))
            for i, p in enumerate([2, 3, 0, 1]) for S in [(z[i] @ z.T / 0.1).tolist()]]  # fmt: skip
    assert rows == pytest.approx([2.127223, 14.000336, 2.127223, 14.000336], abs=1e-5)
    assert nt_xent(z, 0.1).item() == pytest.approx(np.mean(rows), abs=1e-5)
    assert nt_xent(z[[2, 3, 0, 1]], 0.1).item() == pytest.approx(nt_xent(z, 0.1).item())


def test_nt_xent_of_many_pairs_is_taken_in_chunks_that_change_nothing(monkeypatch):
    z, memory = (F.normalize(torch.randn(k, 4, dtype=torch.float64), dim=1) for k in (10, 5))
    found = []
    for at_once in (1024, 3):
        monkeypatch.setattr("anytask.pretrain.simclrv2._AT_ONCE", at_once)
        for given in ((), (z, memory)):
            own = z.clone().requires_grad_()
            loss = nt_xent(own, 0.5, *given)
            found.append((loss, torch.autograd.grad(loss, own)[0]))
    for whole, chunked in zip(found[:2], found[2:]):
        torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)


def test_nt_xent_with_a_memory_counts_it_among_the_negatives():
    z = F.normalize(torch.randn(6, 4, generator=generator()), dim=1)
    assert nt_xent(z, 0.5, z, torch.zeros(0, 4)).item() == pytest.approx(nt_xent(z, 0.5).item())
    memory = F.normalize(torch.randn(5, 4, generator=generator()), dim=1)
    S = torch.cat([z @ z.T, z @ memory.T], 1) / 0.5
    S[torch.arange(6), torch.arange(6)] = -math.inf
    expected = F.cross_entropy(S, (torch.arange(6) + 3) % 6)
    assert nt_xent(z, 0.5, z, memory).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("T", "cross_entropy"), [(1.0, 0.8778710), (2.0, 4.0121415)])
def test_distillation_differs_from_the_cross_entropy_by_the_teachers_entropy(T, cross_entropy):
    teacher, student = torch.tensor([[2.0, 0.0, -2.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    q = (teacher / T).softmax(1)
    entropy = -(q * q.log()).sum().item()
    loss = kl_distillation(student, teacher, T, scale=True).item()
    assert loss + T**2 * entropy == pytest.approx(cross_entropy, abs=1e-5)


def test_lars_leaves_norms_and_biases_to_plain_momentum():
    net = ProjectionHead(4, 2, 2)
    matrices, vectors = lars_groups([net], 0.1)
    assert [w.ndim for w in matrices["params"]] == [2, 2] and vectors["weight_decay"] == 0
    w = torch.nn.Parameter(torch.zeros(2, 2))
    w.grad = torch.ones(2, 2)
    LARS([w], lr=0.5).step()  # no weight yet: trust 1
    assert w.tolist() == [[-0.5, -0.5], [-0.5, -0.5]]
    v = torch.nn.Parameter(torch.ones(2))
    optimizer = LARS([{"params": [v], "adapt": False}], lr=0.1, momentum=0.5)
    for _ in range(2):
        v.grad = torch.ones(2)
        optimizer.step()
    assert v.tolist() == pytest.approx([1 - 0.1 - 0.15] * 2)


def test_fine_tuning_begins_at_log_c_and_keeps_what_lies_above_it():
    model = made().fit(X)
    model.classes_ = np.arange(3)
    logits = model._classifier(model.encoder_, 1)(torch.from_numpy(X))
    assert F.cross_entropy(logits, torch.from_numpy(Y)).item() == pytest.approx(math.log(3))
    del model.classes_
    before = {name: value.clone() for name, value in [*model.encoder_.state_dict().items(),
                                                      *model.head_.state_dict().items()]}  # fmt: skip
    features = model.transform(X)
    model.finetune(X, Y)
    after = {**model.encoder_.state_dict(), **model.head_.state_dict()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert np.array_equal(model.transform(X), features)
    for layers, parts in ((0, 2), (1, 3), (3, 5)):  # the encoder, so many layers of the head, the linear layer
        model.set_params(finetuning__layers=layers).finetune(X, Y)
        assert len(model.classifier_) == parts
    assert not torch.equal(model.classifier_[0][0].weight, model.encoder_[0].weight)  # it moved with the labels


def test_labels_are_answered_after_fine_tuning_alone_and_are_saved(tmp_path):
    model = made().fit(X)
    with pytest.raises(ValueError, match=r"call finetune\(X, y\) first"):
        model.predict(X)
    names = np.array(["a", "b", "c"])[Y]
    p = model.finetune(X, names).predict_proba(X)
    assert p.shape == (40, 3) and np.allclose(p.sum(1), 1) and set(model.predict(X)) <= {"a", "b", "c"}
    model.save(tmp_path)
    loaded = SimCLRv2.load(tmp_path, device="cpu")
    assert np.array_equal(loaded.predict_proba(X), p) and np.array_equal(loaded.transform(X), model.transform(X))
    for bad, says in ((Y * 0, "one class only"), (Y[:-1], "rows and y has"), (Y + 0.5, "continuous")):
        with pytest.raises(ValueError, match=says):
            model.finetune(X, bad)
    assert np.array_equal(model.predict_proba(X), p)
    with pytest.raises(NotFinite, match="fine-tuning"):
        model.set_params(finetuning__lr=1e30).finetune(X, Y)
    assert np.array_equal(model.predict_proba(X), p)


def test_a_student_learns_the_teachers_answers_in_another_shape():
    teacher = made(finetuning={"epochs": 30, "min_steps": 1}).fit(X).finetune(X[:12], Y[:12])
    student = teacher.distill(X, backbone="small_cnn", n_features=5)
    long = (
        made(finetuning={"epochs": 30, "min_steps": 1}, distillation={"epochs": 60})
        .fit(X)
        .finetune(X[:12], Y[:12])
        .distill(X)
    )
    assert student.transform(X).shape == (40, 5) and student.classes_.tolist() == [0, 1, 2]

    def off(model):
        return np.abs(model.predict_proba(X) - teacher.predict_proba(X)).mean()

    assert off(long) < 0.7 * off(student)
    with pytest.raises(ValueError, match="label 7"):
        teacher.distill(X, np.full(40, 7))
    mixed = teacher.set_params(distillation__alpha=0.5).distill(X, Y)
    assert not np.array_equal(mixed.predict_proba(X), teacher.distill(X).predict_proba(X))


def test_students_that_would_learn_nothing_are_refused_and_labels_that_count_nothing_are_told_of():
    teacher = made().fit(X).finetune(X, Y)
    assert teacher.distill(X, n_features=5).transform(X).shape == (40, 5)
    assert teacher.distill(X, backbone="small_cnn").transform(X).shape == (40, 64)
    with pytest.raises(ValueError, match="at least 2 inputs"):
        teacher.distill(X[:1])
    with pytest.warns(UserWarning, match="labels count nothing"):
        teacher.distill(X, Y)
    with pytest.raises(ValueError, match="learn nothing"):
        teacher.set_params(distillation__epochs=0).distill(X)


def test_the_rate_of_lars_follows_the_size_of_the_mini_batches():
    a, b = (made(optimizer="lars", lr=0.1, batch_size=size).fit(X).transform(X) for size in (40, 4000))
    assert np.array_equal(a, b)


def test_tables_are_learned_from_by_a_perceptron():
    table = SimCLRv2(backbone=None, n_features=8, epochs=2).fit(X.reshape(40, 64))
    assert table.transform(X.reshape(40, 64)).shape == (40, 8)


def test_all_three_phases_in_one_call_leave_the_features_alone():
    one = made().fit(X, Y, unlabeled=X[::-1])
    two = made().fit(np.concatenate([X, X[::-1]]))
    assert np.array_equal(one.transform(X), two.transform(X)) and one.predict(X).shape == (40,)


def test_a_memory_changes_what_is_learned():
    a, b = (made(memory=memory).fit(X).transform(X) for memory in (0, 64))
    assert not np.allclose(a, b)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="at most head_layers, 3"):
        made(finetuning={"layers": 4})
    with pytest.raises(ValueError, match="at least 2 inputs"):
        made().fit(X[:1])
    with pytest.raises(ValueError, match="from 0 to 1, got"):
        made(views={"kind": "simclr"}).fit(255 * X)
    with pytest.raises(ValueError, match="from 0 to 1, got"):
        made(labelled_views={"kind": "crop-flip"}).fit(255 * X).finetune(255 * X, Y)
    with pytest.raises(ValueError, match="need images"):
        made().fit(X.reshape(40, 64))


def test_problems_refuse_tables_before_anything_is_run():
    problem = FewLabels()
    entrant = Entrant("simclrv2", "anytask.pretrain:SimCLRv2", {}, "system", "simclrv2")
    assert "need images" in problem.refuses(entrant, problem.load("iris", per_class=8))
    assert problem.refuses(entrant, problem.load("digits", per_class=8)) is None


@pytest.mark.parametrize("kind", ["simclr", "crop-flip", "affine"])
def test_views_keep_shape_and_range_and_follow_the_generator(kind):
    view = TwoViews(kind=kind, noise_scale=0.0).maker((3, 24, 24))
    a, b = view(IMAGES, generator()), view(IMAGES, generator())
    assert (
        a.shape == IMAGES.shape and torch.equal(a, b) and not torch.equal(a, view(IMAGES, generator().manual_seed(2)))
    )
    assert (kind == "affine") or (a.min() >= 0 and a.max() <= 1)


def test_a_crop_of_everything_is_the_image_and_small_ones_show_parts():
    x = torch.arange(24.0).expand(8, 1, 24, 24) / 24  # brighter to the right
    small = crop(x, generator(), 0.01).flatten(1)
    spread = small.amax(1) - small.amin(1)
    assert spread.min() < 0.5 * (x.max() - x.min())


def test_colors_of_strength_0_make_some_images_gray_and_leave_the_others():
    same = colors(IMAGES, generator(), 0.0)
    gray = (same.amax(1) - same.amin(1)).flatten(1).amax(1) < 1e-6
    assert 2 < gray.sum() < 30 and torch.allclose(same[~gray], IMAGES[~gray], atol=1e-4)
    assert torch.allclose(colors(IMAGES[:, :1], generator(), 0.0), IMAGES[:, :1], atol=1e-6)


def test_a_blur_keeps_constant_images_and_smooths_others():
    flat = torch.full((4, 3, 24, 24), 0.3)
    assert torch.allclose(blurred(flat, generator(), 1.0, 2), flat, atol=1e-6)
    smooth = blurred(IMAGES, generator(), 1.0, 3)
    assert smooth.flatten(1).std(1).mean() < 0.8 * IMAGES.flatten(1).std(1).mean()
    assert torch.equal(blurred(IMAGES, generator(), 0.0, 3), IMAGES)


def test_statistics_after_fine_tuning_are_those_of_the_labelled_inputs_and_few_labels_make_enough_steps():
    model = made(finetuning={"epochs": 1, "min_steps": 7}).fit(X).finetune(X[:6], Y[:6])
    first = model.classifier_[0][1]  # normalizes what the first convolution makes
    maps = model.classifier_[0][0](torch.from_numpy(X[:6]))
    torch.testing.assert_close(first.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert first.momentum == 0.1 and not first.training
    told = []
    model.finetune(X[:6], Y[:6], progress=told.append)
    assert len(told) == 7
