import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from anytask.continual import ExperienceReplay, FineTuning, JointTraining, LwF, NearestClassMean
from anytask.continual.baselines import GrowingClassifier
from anytask.core.checks import NotFinite
from anytask.models.build import build_body

CONTRACT = {"ExperienceReplay": {"buffer": 10}, "NearestClassMean-random": {"features": "random"}}

EXEMPT = {
    "JointTraining": {
        "test_a_failure_half_way_leaves_the_model_bit_identical": "trains when it is first asked",
        "test_a_chunk_leaves_finite_answers_or_an_error_with_the_cause_and_no_trace": "trains when it is asked",
    },
    "NearestClassMean": {
        "test_a_failure_half_way_leaves_the_model_bit_identical": "takes means instead of steps",
        "test_another_seed_gives_other_predictions": "draws nothing",
        "test_settings_changed_in_mid_stream_hold_from_the_next_chunk_on": "takes means, which no setting changes",
    },
    "NearestClassMean-random": {
        "test_a_failure_half_way_leaves_the_model_bit_identical": "takes means instead of steps",
        "test_settings_changed_in_mid_stream_hold_from_the_next_chunk_on": "takes means, which no setting changes",
    },
}

NET = {"hidden": (16,), "batch_size": 16}


def two_tasks(n=320):
    rng = np.random.default_rng(0)
    y = np.arange(2 * n) % 2 + 2 * (np.arange(2 * n) >= n)
    x = rng.normal(size=(2 * n, 4)).astype(np.float32) * 0.3
    x[np.arange(2 * n), y] += 2
    return (x[:n], y[:n]), (x[n:], y[n:])


def accuracy(model, data):
    return float((model.predict(data[0]) == data[1]).mean())


def test_remedies_remember_what_fine_tuning_forgets():
    first, second = two_tasks()
    kept, learned = {}, {}
    for make in (FineTuning, ExperienceReplay, JointTraining):
        model = make(**NET).partial_fit(*first).end_task().partial_fit(*second)
        kept[make], learned[make] = accuracy(model, first), accuracy(model, second)
    assert min(kept[ExperienceReplay], kept[JointTraining], *learned.values()) > kept[FineTuning] + 0.5


def test_growing_keeps_old_rows_and_their_momentum():
    network = GrowingClassifier(nn.Identity(), 3, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network.grow(2, optimizer)
    cross_entropy(network(torch.randn(8, 3)), torch.zeros(8, dtype=torch.long)).backward()
    optimizer.step()
    old, momentum = network.weight.detach().clone(), optimizer.state[network.weight]["momentum_buffer"].clone()
    network.grow(5, optimizer)
    assert torch.equal(network.weight[:2], old) and network.weight.shape == (5, 3)
    grown = optimizer.state[network.weight]["momentum_buffer"]
    assert torch.equal(grown[:2], momentum) and (grown[2:] == 0).all()
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in network.parameters()}


def test_a_row_does_not_depend_on_when_it_came():
    one, two = (GrowingClassifier(nn.Identity(), 3, seed=0) for _ in range(2))
    one.grow(4)
    two.grow(1)
    two.grow(4)
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)
    assert one.weight.abs().max() <= 3**-0.5


def test_lwf_with_lambda_0_is_fine_tuning():
    first, second = two_tasks()
    models = [LwF(**NET, lambda_=0.0), FineTuning(**NET)]
    p = [m.partial_fit(*first).end_task().partial_fit(*second).predict_proba(first[0]) for m in models]
    assert np.array_equal(*p)


def test_lwf_holds_the_old_outputs_where_the_new_data_are():
    first, second = two_tasks()
    moved = []
    for lambda_ in (0.0, 1.0):
        model = LwF(**NET, lambda_=lambda_).partial_fit(*first, task=0).end_task()
        before = model.predict_proba(second[0], task=0)
        model.partial_fit(*second, task=1)
        moved.append(np.abs(model.predict_proba(second[0], task=0)[:, :2] - before).mean())
    assert moved[1] < moved[0] / 2


def test_lwf_teacher_stands_still():
    first, second = two_tasks()
    model = LwF(**NET).partial_fit(*first).end_task()
    before = {k: v.clone() for k, v in model.teacher_.module.state_dict().items()}
    model.partial_fit(*second)
    assert all(torch.equal(v, before[k]) for k, v in model.teacher_.module.state_dict().items())
    assert model.cost()["stored_parameters"] > model.cost()["trainable_parameters"]


def test_joint_training_makes_as_many_steps_as_the_stream(monkeypatch):
    first, second = two_tasks()
    model = JointTraining(**NET).partial_fit(*first).partial_fit(*second)
    steps, step = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: steps.append(1) or step(self))
    model.predict(first[0])
    model.predict(second[0])
    assert len(steps) == model.steps_ == 40


def test_joint_training_that_diverges_says_so_when_asked_and_is_trained_anew_at_another_rate():
    first, second = two_tasks()
    model = JointTraining(**{**NET, "lr": 1e6}).partial_fit(*first).partial_fit(*second)
    for _ in range(2):
        with pytest.raises(NotFinite, match=r"training on all \d+ samples \(inputs of up to .*lower lr"):
            model.predict(first[0])
    assert np.isfinite(model.set_params(lr=0.05).predict_proba(first[0])).all()


def test_replay_memory_is_bounded_and_counts_repeats_once():
    first, second = two_tasks()
    model = ExperienceReplay(**NET, buffer=30).partial_fit(*first).partial_fit(*first).partial_fit(*second)
    assert model.cost()["stored_samples"] == 30
    small = ExperienceReplay(**NET, buffer=500).partial_fit(first[0][:20], first[1][:20])
    assert small.partial_fit(first[0][:20], first[1][:20]).cost()["stored_samples"] == 20


@pytest.mark.parametrize("features", ["raw", nn.Linear(4, 3)])
def test_class_means_are_means(features):
    (x, y), _ = two_tasks()
    model = NearestClassMean(features=features).partial_fit(x, y)
    with torch.no_grad():
        z = x if features == "raw" else features(torch.from_numpy(x)).numpy()
    means = np.stack([z[y == c].astype(np.float64).mean(0) for c in (0, 1)])
    assert np.allclose(model.sums_ / model.counts_[:, None], means, atol=1e-6)
    nearest = np.linalg.norm(z[:, None] - means, axis=2).argmin(1)
    assert np.array_equal(model.predict(x), nearest)


def test_raw_class_means_are_bit_identical_for_every_cut():
    (x, y), _ = two_tasks()
    whole, cut = NearestClassMean().partial_fit(x, y), NearestClassMean()
    for rows in np.split(np.arange(len(x)), [1, 3, 100, 101]):
        cut.partial_fit(x[rows], y[rows])
    assert np.array_equal(whole.sums_, cut.sums_)


def test_a_given_module_is_copied_and_its_width_found_out():
    body = nn.Linear(4, 7)
    model = FineTuning(backbone=body).partial_fit(*two_tasks()[0])
    assert model.network_.weight.shape == (2, 7)
    assert not torch.equal(model.network_.body.weight, body.weight)
    with pytest.raises(ValueError, match="the backbone fails on inputs of shape"):
        FineTuning(backbone=nn.Linear(5, 7)).partial_fit(*two_tasks()[0])
    with pytest.raises(ValueError, match=r"maps 2 inputs to shape \(2, 2, 2\)"):
        FineTuning(backbone=nn.Unflatten(1, (2, 2))).partial_fit(*two_tasks()[0])


def test_default_body_is_the_mlp_without_its_last_layer():
    body, width = build_body(None, (4,), (8, 6), 512, seed=0)
    assert width == 6 and [p.shape for p in body.parameters()] == [(8, 4), (8,), (6, 8), (6,)]
    assert (body(torch.randn(10, 4)) >= 0).all()
    assert build_body(None, (2, 3), (), 512, seed=0)[1] == 6
