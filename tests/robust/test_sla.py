"""SLA's formulas on numbers worked out by hand, and its own errors."""

import numpy as np
import pytest
import torch
from torch import nn

from anytask.parts.planar_groups import Rotations
from anytask.robust import SLA, FewShotHead, PlainTraining, Spreading, TransformAugmentation
from anytask.robust.parts.joint_labels import aggregate, joint_labels
from anytask.robust.parts.transformed import make_transforms

CONTRACT = {"steps": 4, "batch_size": 8}

#: N = 2, M = 2: joint logits (y0t0, y0t1, y1t0, y1t1) of t1(x) and t2(x).
LOGITS = torch.tensor([[2.0, 0, 1, 0], [0, 1, 0, 3]])
X, Y = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([0])


class Features(nn.Module):
    """Features of an image: one of two rows of LOGITS, by its first pixel (0 upright, 1 turned)."""

    def forward(self, x):
        return LOGITS[x[:, 0, 0, 0].long()]


def sla(**settings):
    """An SLA whose joint head passes the features on, for one image [[0, 1]] and its half turn [[1, 0]]."""
    model = SLA.from_preset("small", transforms="rotations2", backbone=Features(), feature_dim=4, **settings)
    model.classes_, model.input_shape_, model._weight = np.arange(2), (1, 1, 2), None
    model._build()
    with torch.no_grad():
        model.net_["w"].weight.copy_(torch.eye(4))
        model.net_["w"].bias.zero_()
        if "u" in model.net_:  # u(z) = (1, 0) for every z
            model.net_["u"].weight.zero_()
            model.net_["u"].bias.copy_(torch.tensor([1.0, 0.0]))
    return model


def images(n=24, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 1, 4, 4)).astype(np.float32), np.arange(n) % 3


def mlp(input_shape, n):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, n), nn.ReLU())


def test_class_3_under_transformation_2_of_4_is_unit_14_and_batches_are_image_major():
    assert joint_labels(torch.tensor([3]), [2], 4).item() == 14
    assert joint_labels(torch.tensor([0, 5]), [0, 1], 2).tolist() == [[0, 1], [10, 11]]
    pair = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 4.0]]]])
    assert sla().expand(pair).flatten(1).tolist() == [[1, 2], [2, 1], [3, 4], [4, 3]]


def test_aggregation_averages_own_logits():
    assert aggregate(LOGITS[None]).tolist() == [[1.5, 2.0]]
    assert sla().predict_proba(X)[0].tolist() == pytest.approx([0.377541, 0.622459], abs=1e-6)
    assert sla(inference="single").predict_proba(X)[0].tolist() == pytest.approx([0.731059, 0.268941], abs=1e-6)


@pytest.mark.parametrize("accumulate", [False, True])
def test_the_loss_is_the_mean_cross_entropy_of_joint_labels(accumulate):
    # (0.493812 + 2.210998) / 2: CE of (2, 0, 1, 0) at unit 0, of (0, 1, 0, 3) at unit 1.
    assert sum(sla(accumulate=accumulate)._losses(X, Y)).item() == pytest.approx(1.352405, abs=1e-6)
    summed = sla(accumulate=accumulate, sum_over_transforms=True)
    assert sum(summed._losses(X, Y)).item() == pytest.approx(2 * 1.352405, abs=1e-6)
    # + KL = 0.272874 of softmax(1.5, 2) from softmax(1, 0), + CE = 0.313262 of (1, 0) at class 0.
    distilled = sla(accumulate=accumulate, distill=True)
    assert sum(distilled._losses(X, Y)).item() == pytest.approx(1.938540, abs=1e-5)


def test_no_gradient_of_the_distillation_reaches_the_joint_head():
    grads = []
    for distill in (False, True):
        model = sla(distill=distill)
        sum(model._losses(X, Y)).backward()
        grads.append(model.net_["w"].weight.grad)
    assert torch.equal(*grads)


def test_one_transformation_is_plain_training():
    inputs, labels = images()
    same = {"transforms": "identity", "backbone": mlp, "steps": 20}
    model, plain = (cls.from_preset("small", **same).fit(inputs, labels) for cls in (SLA, PlainTraining))
    # The heads w and u have one shape and are drawn alike, so that all three agree.
    assert np.allclose(model.predict_proba(inputs), plain.predict_proba(inputs), atol=1e-6)
    single = model.set_params(inference="single").predict_proba(inputs)
    assert np.allclose(single, plain.predict_proba(inputs), atol=1e-6)


def test_accumulation_reaches_the_same_weights_without_batch_statistics():
    inputs, labels = images()
    same = {"backbone": mlp, "steps": 20, "distill": True, "balanced": True}
    a, b = (SLA.from_preset("small", accumulate=each, **same).fit(inputs, labels) for each in (False, True))
    assert np.allclose(a.predict_proba(inputs), b.predict_proba(inputs), atol=1e-5)


def test_a_joint_head_that_ignores_the_transformation_aggregates_like_averaged_augmentation():
    inputs, labels = images()
    da = TransformAugmentation.from_preset("small", average=True, backbone=mlp, steps=5).fit(inputs, labels)
    model = SLA.from_preset("small", backbone=mlp, steps=1).fit(inputs, labels)
    model.net_["f"].load_state_dict(da.net_["f"].state_dict())
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(model.net_["w"], name).copy_(getattr(da.net_["u"], name).repeat_interleave(4, 0))
    assert np.allclose(model.predict_proba(inputs), da.predict_proba(inputs), atol=1e-6)


def test_class_weights_are_those_of_the_class_under_every_transformation():
    inputs, _ = images(20)
    labels = np.array([0] * 15 + [1] * 5)
    model = SLA.from_preset("small", balanced=True, backbone=mlp, steps=1).fit(inputs, labels)
    assert model._weight.tolist() == pytest.approx([20 / (2 * 15), 20 / (2 * 5)])


def test_transformations_in_the_papers_order():
    x = torch.arange(3.0).reshape(1, 3, 1, 1)
    colors = make_transforms("colors")
    orders = ["".join("RGB"[int(c)] for c in colors.phi(g, x).flatten()) for g in colors.elements]
    assert orders == ["RGB", "RBG", "GRB", "GBR", "BRG", "BGR"]
    three = make_transforms("colors3")
    assert [three.phi(g, x).flatten().tolist() for g in three.elements] == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    both = make_transforms("rotations2+colors3")
    assert len(both) == 6 and len(make_transforms("rotations+colors3")) == 12
    assert torch.equal(both.phi(both.elements[1], x), three.phi(1, x))  # rotation-major


def test_what_augmentation_makes_one_class_the_joint_label_keeps_apart():
    # The second class is the first one's half turn.
    base = np.random.default_rng(0).normal(size=(1, 4, 4))
    labels = np.arange(40) % 2
    inputs = np.where(labels[:, None, None, None] == 0, base, base[:, ::-1, ::-1])
    inputs = (inputs + 0.1 * np.random.default_rng(1).normal(size=inputs.shape)).astype(np.float32)
    same = {"transforms": "rotations2", "steps": 40, "backbone": mlp}
    model, da = (cls.from_preset("small", **same).fit(inputs, labels) for cls in (SLA, TransformAugmentation))
    assert (model.predict(inputs) == labels).mean() > (da.predict(inputs) == labels).mean() + 0.2


@pytest.mark.parametrize("head", ["cosine", "prototype", "ridge"])
def test_few_shot_heads_tell_new_classes_apart_by_a_few_images(head):
    inputs, labels = images()
    model = SLA.from_preset("small", backbone=mlp, steps=5).fit(inputs, labels)
    shift = np.random.default_rng(5).normal(size=(1, 4, 4)).astype(np.float32)
    new = np.concatenate([inputs[:12] * 0.3 + shift, inputs[12:] * 0.3 - shift])
    names = np.repeat(["a", "b"], 12)
    few = FewShotHead(model, head=head).fit(new[::4], names[::4])
    assert (few.predict(new) == names).mean() > 0.9
    one = FewShotHead(model, head=head, joint=False).fit(new[::4], names[::4])
    assert not np.array_equal(one.predict_proba(new), few.predict_proba(new))


def test_the_cosine_head_of_one_support_image_is_the_mean_cosine_over_the_transformations():
    model = sla()
    other = X.flip(-1)
    head = FewShotHead(model, temperature=1.0).fit(torch.cat([X, other]), [0, 1])
    # Features of X under (t1, t2) are the rows of LOGITS, those of its half turn the same in reverse.
    a, b = (row / row.norm() for row in LOGITS)
    cosines = torch.tensor([1.0, (a @ b).item()])
    assert head.predict_proba(X)[0].tolist() == pytest.approx(cosines.softmax(0).tolist(), abs=1e-6)


def test_label_spreading_uses_what_has_no_labels():
    # Two chains; the labels stand at their ends, and the middles are only reached along the chain.
    steps = np.linspace(0, 1, 40)[:, None]
    chains = np.concatenate([np.c_[steps * 10, steps * 0], np.c_[steps * 10, steps * 0 + 1.5]]).astype(np.float32)
    truth = np.repeat([0, 1], 40)
    ends = [0, 79]
    middle = np.delete(np.arange(80), ends)
    spread = Spreading(neighbors=2).fit(chains[ends], truth[ends], unlabeled=chains[middle])
    assert (spread.predict(chains) == truth).all()
    alone = Spreading(neighbors=2).fit(chains[ends], truth[ends])
    assert alone.predict(chains[ends]).tolist() == [0, 1]  # the nearest counts most
    assert (alone.predict(chains) == truth).mean() < 0.7


def test_label_spreading_is_its_closed_form():
    # Rows at 0, 3 and, unlabeled, 1: W joins neighbors, S = D^-1/2 W D^-1/2, F = (I - alpha S)^-1 Y.
    X = np.array([[0.0], [1.0], [3.0]], dtype=np.float32)
    model = Spreading(neighbors=1, alpha=0.5).fit(X[[0, 2]], [0, 1], unlabeled=X[[1]])
    W = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=float)
    d = 1 / np.sqrt(W.sum(1))
    F = np.linalg.solve(np.eye(3) - 0.5 * d[:, None] * W * d, np.eye(3)[:, :2])
    np.testing.assert_allclose(model.shares_, F / F.sum(1, keepdims=True), atol=1e-9)


def test_what_defines_the_fit_may_not_be_changed_after_it(tmp_path):
    inputs, labels = images()
    model = SLA.from_preset("small", backbone=mlp, steps=2).fit(inputs, labels)
    model.set_params(inference="single").predict(inputs)
    for changed in ({"feature_dim": 32}, {"transforms": "rotations2+rotations2"}, {"distill": True}):
        before = {name: getattr(model, name) for name in changed}
        model.set_params(**changed)
        for call in (lambda: model.predict(inputs), lambda: model.save(tmp_path)):
            with pytest.raises(ValueError, match="shapes the fitted model"):
                call()
        model.set_params(**before)
    head = FewShotHead(model).fit(inputs[:6], labels[:6])
    before = head.predict_proba(inputs)
    model.fit(inputs[::-1].copy(), labels)
    assert np.array_equal(head.predict_proba(inputs), before)  # it keeps the network that it was fitted on
    other = SLA.from_preset("small", backbone=mlp, steps=2, transforms="rotations2").fit(inputs, labels)
    head.save(tmp_path)
    with pytest.raises(ValueError, match=r"load\(folder, model="):
        FewShotHead.load(tmp_path)
    with pytest.raises(ValueError, match="model is another one"):
        FewShotHead.load(tmp_path, model=other)


@pytest.mark.parametrize(("settings", "says"), [
    ({"inference": "distilled"}, "needs distill=True"), ({"transforms": "turns"}, "unknown name, 'turns'"),
    ({"transforms": 3}, "transforms must be"), ({"views": {"kind": "sideways"}}, "kind must be"),
])  # fmt: skip
def test_settings_that_cannot_be_used(settings, says):
    with pytest.raises((ValueError, TypeError), match=says):
        SLA(**settings)


@pytest.mark.parametrize(("settings", "shape", "says"), [
    ({}, (1, 4, 3), "square images"), ({}, (16,), "learns from images"),
    ({"transforms": [lambda x: x, lambda x: x[..., :2]]}, (1, 4, 4), "keep the shape"),
    ({"transforms": [lambda x: x.flip(-1)]}, (1, 4, 4), "must be the identity"),
    ({"transforms": "colors"}, (1, 4, 4), "3 color channels"), ({}, (4, 4, 3), "move the channels first"),
    ({"transforms": [lambda x: x, lambda x: x.neg_()]}, (1, 4, 4), "changes them in place"),
    ({"transforms": [lambda x: x, lambda x: x[:1]]}, (1, 4, 4), "keep the shape"),
    ({"transforms": [lambda x: x, lambda x: 5]}, (1, 4, 4), "gives int"),
    ({"transforms": [lambda x: x, lambda x: x / 0]}, (1, 4, 4), "NaN or infinite"),
    ({"transforms": Rotations(90)}, (1, 4, 4), "4 of these 5"),
    ({"validation_fraction": 0.9}, (1, 4, 4), "every class"),
    ({"batch_size": 1, "accumulate": True}, (1, 4, 4), "batch_size must be at least 2"),
    ({"views": {"image_shape": (1, 5, 5)}}, (16,), "does not hold"),
    ({"validation_fraction": 0.1}, (1, 4, 4), "validation_fraction"),
])  # fmt: skip
def test_inputs_that_do_not_fit(settings, shape, says):
    with pytest.raises(ValueError, match=says):
        SLA.from_preset("small", **settings).fit(np.zeros((6, *shape), dtype=np.float32), [0, 1] * 3)
