"""CLR: filters of single channels, what is frozen, what belongs to a task, and who finds the task."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from anytask.continual.clr import CLR
from anytask.continual.parts.reprogramming import Reprogrammed, reprogram
from anytask.problems.base import Entrant
from anytask.problems.task_stream import TaskStream

torch.set_num_threads(1)
CONTRACT = {"image_shape": (2, 2), "n_features": 8}
EXEMPT = {
    "test_plain_defaults_learn_and_every_method_works_with_them": "its default anchor is fetched; `small` learns here"
}


def convnet(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(width, 2 * width, 3, stride=2, groups=2), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def images(task=0, n=60, seed=0):
    """Two classes of bars, in each task seen otherwise."""
    rng = np.random.default_rng([seed, task])
    y = np.arange(n) % 2
    X = 0.3 * rng.normal(size=(n, 8, 8)).astype(np.float32)
    X[y == 0, 2:4] += 2
    X[y == 1, :, 2:4] += 2
    return np.roll(-X if task % 2 else X, 3 * (task // 2), axis=(1, 2)), y


def learned(tasks, **params):
    model = CLR(**{"backbone": convnet().eval(), "lr": 5e-3, "batch_size": 16, **params})
    for task in tasks:
        for _ in range(3):
            model.partial_fit(*images(task), task=task)
    return model


def test_a_filter_maps_each_channel_alone():
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.data[:] = 1
    layer = Reprogrammed(conv, 3)
    x = torch.arange(1.0, 10).reshape(1, 1, 3, 3)
    assert torch.equal(layer(x), x)  # a Dirac kernel leaves the map as it is
    layer.R.data[0, 0] = torch.tensor([[0, 0.5, 0], [0, 1, 0], [0, 0, -1]])
    assert layer(x)[0, 0].tolist() == [[-4, -4, 3], [-3.5, -3, 7.5], [9, 10.5, 12]]


def test_no_channel_reaches_another():
    layer = Reprogrammed(nn.Conv2d(3, 3, 1, bias=False), 3)
    layer.conv.weight.data = torch.eye(3)[:, :, None, None]  # h is x
    layer.R.data.normal_()
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    for j in range(3):
        (grad,) = torch.autograd.grad(layer(x)[0, j].sum(), x)
        assert [bool(grad[0, i].any()) for i in range(3)] == [i == j for i in range(3)]


@pytest.mark.parametrize("placement", ["spatial", "all", "matched"])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_reprogrammed_network_begins_as_the_anchor(placement, mixed):
    network, x = convnet().eval(), torch.randn(4, 1, 8, 8)
    reprogrammed = copy.deepcopy(network)
    count = reprogram(reprogrammed, placement, mixed=mixed)
    assert count == (2 if placement == "spatial" else 3)
    assert torch.allclose(reprogrammed(x), network(x), atol=1e-6)
    sizes = {len(m.R[0, 0]) for m in reprogrammed.modules() if isinstance(m, Reprogrammed)}
    assert sizes == ({3, 1} if placement == "matched" else {3})


@pytest.mark.parametrize(
    ("depths", "layer", "filters"), [([2, 2, 2, 2], "basic", 35136), ([3, 4, 6, 3], "bottleneck", 34560)]
)
def test_the_number_of_filter_weights_of_a_resnet_is_the_papers(depths, layer, filters):
    transformers = pytest.importorskip("transformers")
    sizes = [64, 128, 256, 512] if layer == "basic" else [256, 512, 1024, 2048]
    with torch.device("meta"):
        network = transformers.ResNetModel(
            transformers.ResNetConfig(hidden_sizes=sizes, depths=depths, layer_type=layer)
        )
        reprogram(network)
    assert sum(m.R.numel() for m in network.modules() if isinstance(m, Reprogrammed)) == filters


def test_later_tasks_leave_the_anchor_and_earlier_answers_bit_for_bit():
    model = learned([0])
    anchor, x = copy.deepcopy(model.anchor_.module.state_dict()), images(0, seed=1)[0]
    before = model.predict_proba(x, task=0)
    for task in (1, 2):
        model.partial_fit(*images(task), task=task)
    assert all(torch.equal(value, anchor[name]) for name, value in model.anchor_.module.state_dict().items())
    assert np.array_equal(model.predict_proba(x, task=0), before)
    assert bool(model.own_[0]["1.running_mean"].any())  # statistics are the task's own, too


def test_what_a_task_learns_does_not_depend_on_the_tasks_before():
    anchor = convnet().eval()
    one, other = learned([0, 1], backbone=anchor), learned([1, 0], backbone=anchor)
    for task in (0, 1):
        a, b = (m.own_[m.tasks_.index(task)].tensors() for m in (one, other))
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_removing_a_task_leaves_the_others_and_asks_for_it_no_more():
    model, x = learned([0, 1, 2]), images(2, seed=1)[0]
    before = model.predict_proba(x, task=2)
    model.remove_task(1)
    assert model.tasks_ == [0, 2] and np.array_equal(model.predict_proba(x, task=2), before)
    with pytest.raises(ValueError, match="task 1 was never trained"):
        model.predict(x, task=1)
    model.partial_fit(*images(1), task=1).partial_fit(*images(2), task=2)
    assert model.tasks_ == [0, 2, 1]


def test_what_a_task_has_learned_tells_more_than_the_anchor_under_its_head():
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32).reshape(-1, 8, 8)
    train, test = np.arange(0, 800), np.arange(800, 1400)
    model = CLR.from_preset("small", epochs=8)
    model.fit(X[train], y[train], "upright")
    turned = np.rot90(X, axes=(1, 2)).copy()
    for _ in range(8):
        model.partial_fit(turned[train], y[train], task="turned")
    bare = copy.deepcopy(model)
    bare.own_[1].load_state_dict(bare.own_[0].state_dict())  # the first task's filters and normalization
    score = (model.predict(turned[test], task="turned") == y[test]).mean()
    assert score > (bare.predict(turned[test], task="turned") == y[test]).mean() + 0.3
    assert (model.route(turned[test]) == "turned").mean() > 0.5
    assert model.added("turned")["filters"] == 9 * (16 + 32 + 32)


def test_no_filters_and_frozen_normalization_are_a_linear_probe():
    model = learned([0], placement="none", norm="frozen")
    assert not model.own_[0].tensors()
    x = torch.from_numpy(images(0, seed=1)[0])[:, None]
    logits = model.heads_[0](model.anchor_.module(x))
    assert np.allclose(model.predict_proba(x[:, 0].numpy(), task=0), logits.softmax(1).detach().numpy(), atol=1e-6)


def test_the_first_task_can_make_the_anchor_and_keeps_its_answers():
    model = learned([0], backbone="small-cnn", n_features=16, anchor="first task")
    x = images(0, seed=1)[0]
    before = model.predict_proba(x)
    assert model.anchor_ is None
    model.partial_fit(*images(1), task=1)
    assert model.anchor_ is not None
    assert np.allclose(model.predict_proba(x, task=0), before, atol=1e-5)


def test_add_task_keeps_its_best_pass_and_stops_early():
    model = CLR(backbone=convnet().eval(), lr=5e-3, batch_size=16, epochs=40, patience=1)
    shares = []
    model.add_task(*images(0), "bars", progress=shares.append)
    assert model.n_chunks_ < 40 and shares[-1] == 1.0 and shares == sorted(shares)
    with pytest.raises(ValueError, match="'bars' was learned before"):
        model.add_task(*images(0), "bars")


@pytest.mark.parametrize(
    ("params", "data", "says"),
    [
        ({"backbone": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}, images(), "no convolution"),
        ({}, (images()[0].reshape(60, 64), images()[1]), "pass image_shape"),
        ({"image_shape": (4, 4)}, images(), "pass image_shape"),
    ],
)
def test_what_it_cannot_learn_from_is_said(params, data, says):
    with pytest.raises(ValueError, match=says):
        CLR(**{"backbone": convnet(), **params}).partial_fit(*data, task=0)


def test_who_routes_nothing_asks_for_the_task():
    model = learned([0, 1], router="none")
    with pytest.raises(ValueError, match="pass predict\\(X, task="):
        model.predict(images()[0])
    problem, params = TaskStream(), {"image_shape": [8, 8]}
    for identity, left_out in (("train", True), ("train+test", False)):
        data = problem.load("digits", identity=identity, n_tasks=2)
        for by in ({"params": {**params, "router": "none"}}, {"params": params, "after": {"router": "none"}}):
            reason = problem.refuses(Entrant("clr", "anytask.continual:CLR", **by), data)
            assert (reason is not None and "told the task at test" in reason) == left_out
    with pytest.raises(ValueError, match="kernel must be odd"):
        CLR(kernel=4)


def test_the_mean_of_the_first_task_is_of_the_network_that_was_kept():
    model = CLR.from_preset("small", n_features=16, epochs=6, lr=0.05).add_task(*images(0), 0)
    with torch.no_grad():
        z = model.network_(torch.from_numpy(images(0)[0])[:, None])
    assert torch.allclose(model.sums_[0] / model.counts_[0], z.double().mean(0), atol=1e-4)


def test_routes_are_tasks_as_they_were_named_and_there_are_none_without_tasks():
    model = learned([0])
    model.partial_fit(*images(1), task="other")
    found = model.route(images(0)[0][:9])
    assert set(found) <= {0, "other"} and 0 in found
    model.remove_task(0).remove_task("other")
    for ask in (model.route, model.predict):
        with pytest.raises(ValueError, match="all tasks were removed"):
            ask(images(0)[0])


def test_statistics_of_a_task_follow_its_batches_however_slow_the_anchors_are():
    slow = convnet().eval()
    for layer in (slow[1], slow[5]):
        layer.momentum = 1e-4
    own = [learned([0], backbone=slow, momentum=momentum).own_[0] for momentum in (1e-4, 0.1)]
    moved = [max(float(value.abs().max()) for name, value in one.named_buffers() if "mean" in name) for one in own]
    assert moved[1] > 10 * moved[0]
