import copy
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from anytask.continual import TAME

CONTRACT = {"n_classes": 2, "window": 10, "selector": {"hidden": (8,), "epochs": 3, "buffer": 20}}

FAST = {"window": 10, "hidden": (16,), "selector": {"hidden": (16,), "epochs": 20}, "n_classes": 2}


def small(**params):
    """TAME's small preset, made faster."""
    return TAME.from_preset("small", **{**FAST, **params})


def part(n, seed, swapped=False):
    """Two well-separated classes; in the swapped part the labels change places and input 1 says so."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 4)) * 0.3
    x[:, 0] += 2 * y
    if swapped:
        x[:, 1] += 2
        y = 1 - y
    return x.astype(np.float32), y


def recurring(n=640, seed=0):
    return [part(n, seed), part(n, seed + 1, swapped=True), part(n, seed + 2)]


def learn(model, parts):
    for x, y in parts:
        model.partial_fit(x, y)
    return model


def frozen(expert):
    """Every bit of an expert's network, buffers included, and of its optimiser."""
    return copy.deepcopy((dict(expert.network.state_dict()), expert.optimizer.state_dict()))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def with_batch_norm(shape, n_outputs):
    return nn.Sequential(nn.Linear(shape[0], 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, n_outputs))


def test_recurring_task_is_given_back_to_its_expert_at_the_border():
    model = learn(small(), recurring())
    assert model.n_experts_ == 2
    assert model.history_ == [(0, 0), (40, 1), (80, 0)]
    assert model.borders_ == [40, 80] and model.switches_ == 2 and model.active_ == 0


def test_selector_routes_and_random_routing_does_not():
    model = learn(small(), recurring())
    parts = [part(200, 10), part(200, 11, swapped=True)]
    x, y = (np.concatenate(v) for v in zip(*parts))
    route = np.repeat([model.active_, 1 - model.active_], 200)  # the first part came last
    selected, told, misled = model.predict(x), model.predict_with(x, route), model.predict_with(x, 1 - route)
    assert np.array_equal(selected, model.predict_with(x, model.predict_expert(x)))
    random = model.set_params(selector__routing="random").predict(x)
    right = [(labels == y).mean() for labels in (selected, told, random, misled)]
    assert min(right[:2]) > right[2] + 0.3 and right[2] > right[3] + 0.3
    assert np.array_equal(random, model.predict(x))


@pytest.mark.parametrize("parts", [recurring()[:2]])
def test_an_inactive_expert_is_bit_identical_after_anothers_segment(parts):
    model = learn(small(backbone=with_batch_norm), parts[:1])
    before = frozen(model.experts_[0])
    assert before[1]["state"], "momentum buffers exist"
    model.partial_fit(*parts[1])
    assert model.active_ == 1 and model.experts_[1].steps == 40
    assert same(frozen(model.experts_[0]), before)


def test_losses_are_measured_in_evaluation_mode_before_the_step():
    model = small(backbone=with_batch_norm)
    x, y = part(16, 0)
    model.partial_fit(x, y)
    fresh = small(backbone=with_batch_norm)
    fresh._first_chunk(torch.from_numpy(x), y)
    fresh.n_slots_ = 2
    fresh._new_expert()
    codes = torch.from_numpy(fresh._encode(y))
    with torch.no_grad():
        out = fresh.experts_[0].network.eval()(torch.from_numpy(x)).sigmoid()
    l0 = float(nn.functional.cross_entropy(out, codes))
    assert list(model.experts_[0].detector.losses) == [math.log(2), pytest.approx(l0, abs=1e-7)]
    assert model.experts_[0].detector.ema == pytest.approx(l0, abs=1e-7) and model.experts_[0].r == pytest.approx(l0)


def test_squashed_loss_is_bounded_so_a_young_expert_starts_near_ln_c():
    # sigmoid outputs lie in (0, 1): the worst loss is ln(1 + (C - 1) e), the best ln(1 + (C - 1) / e)
    model = small()
    outputs = torch.tensor([[200.0, -200.0]])
    losses = [float(model._cross_entropy(outputs, torch.tensor([c]))) for c in (1, 0)]
    assert losses == [pytest.approx(math.log(1 + math.e)), pytest.approx(math.log(1 + 1 / math.e))]
    assert float(small(squash_logits=False)._cross_entropy(outputs, torch.tensor([1]))) == pytest.approx(400.0)


def rigged(model, losses, r, windows, emas, active):
    """A model whose experts have these statistics, and the mini-batch losses that will be measured."""
    model._first_chunk(torch.zeros(2, 4), np.array([0, 1]))
    model._encode(np.array([0, 1]))
    model.n_slots_ = 2
    for j, (r_j, w, ema) in enumerate(zip(r, windows, emas)):
        model._new_expert()
        detector = model.experts_[j].detector
        detector.losses.clear()
        detector.losses.extend(w)
        detector.ema, model.experts_[j].r, model.experts_[j].steps = ema, r_j, 1
    model.active_, model.history_, model.t_ = active, [(0, active)], 1
    model._loss_of = lambda expert, X, slots: losses[model.experts_.index(expert)]
    model._observe(torch.zeros(16, 4), torch.zeros(16, dtype=torch.long))
    return model


@pytest.mark.parametrize(("pick", "chosen"), [("first", 0), ("best", 1)])
def test_pick_the_first_or_the_best_of_those_that_fit(pick, chosen):
    # v_0 = 0.2*0.5 + 0.8*0.5 = 0.5, v_1 = 0.4, v_2 = 0.2*2 + 0.8*0.3 = 0.64 > tau_2 = 0.3 + 0.015; other taus: 0.615
    model = rigged(
        small(pick=pick),
        [0.5, 0.4, 2.0],
        [0.5, 0.4, 0.3],
        [[0.6, 0.6], [0.6, 0.6], [0.3, 0.3]],
        [0.5, 0.4, 0.3],
        2,
    )
    assert model.active_ == chosen and model.borders_ == [1]


def test_choosing_the_same_expert_again_is_not_a_switch():
    # s = 0.8*0.9 + 0.2*0.5 = 0.82 > tau = 0.615, but v = 0.2*0.5 + 0.8*0.5 = 0.5 < tau: s is inflated from idle time
    model = rigged(small(), [0.5], [0.5], [[0.6, 0.6]], [0.9], 0)
    assert model.n_experts_ == 1 and model.switches_ == 0 and list(model.experts_[0].detector.losses) == [0.6, 0.6, 0.5]


def test_an_expert_that_was_never_active_is_judged_by_its_loss_alone():
    model = rigged(small(), [0.5, 2.0], [None, 0.3], [[0.6, 0.6], [0.3, 0.3]], [0.5, 0.3], 1)
    assert model.active_ == 0


def test_nothing_fits_so_a_new_expert_is_made_with_the_window_of_a_guess():
    model = rigged(small(), [2.0, 0.7], [0.3], [[0.3, 0.3]], [0.3], 0)
    assert model.n_experts_ == 2 and model.active_ == 1 and model.borders_ == [1]
    assert list(model.experts_[1].detector.losses) == [math.log(2), 0.7]
    assert list(model.experts_[0].detector.losses) == [0.3, 0.3], "an idle window stands still"


def test_selector_buffer_keeps_the_expert_of_first_sight():
    x, y = part(640, 0)
    model = small(selector={**FAST["selector"], "buffer": 50}).partial_fit(x, y)
    model.partial_fit(*part(640, 1, swapped=True))
    rows, ids = model.buffer_.data()
    assert len(rows) == 50 and set(ids.tolist()) == {0, 1}
    model.partial_fit(x, y)
    again, ids_again = model.buffer_.data()
    assert torch.equal(rows, again) and torch.equal(ids, ids_again)
    assert torch.equal(ids == 1, rows[:, 1] > 1)


def test_balanced_buffer_holds_as_many_of_each_label():
    x, y = part(640, 0)
    model = small(selector={"buffer": 40, "balanced": True}).partial_fit(x[y == 0], y[y == 0] * 0)
    model.partial_fit(x[y == 1][:30], y[y == 1][:30])
    rows, _ = model.buffer_.data()
    assert int((rows[:, 0] > 1).sum()) == 20 and len(rows) == 40


def test_predictions_leave_no_trace_in_the_training():
    plain, asked = small(), small()
    for x, y in recurring(n=320):
        plain.partial_fit(x, y)
        asked.partial_fit(x, y)
        first = asked.predict_proba(x)
        assert np.array_equal(asked.predict_proba(x), first)
    assert same(plain._state(), asked._state())


def test_a_short_tail_joins_the_mini_batch_before():
    model = small(batch_size=10)
    sizes = {n: [r.stop - r.start for r in model._minibatches(n)] for n in (4, 10, 14, 15, 23, 25)}
    assert sizes == {4: [4], 10: [10], 14: [14], 15: [10, 5], 23: [10, 13], 25: [10, 10, 5]}


def test_new_labels_in_every_task_share_the_outputs_and_keep_their_names():
    parts = [part(640, 0), part(640, 1, swapped=True)]
    named = [(x, np.array([["cat", "dog"], ["ant", "bee"]][t])[y]) for t, (x, y) in enumerate(parts)]
    model = learn(small(), named)
    assert model.n_experts_ == 2 and model.classes_.tolist() == ["ant", "bee", "cat", "dog"]
    for x, y in named:
        assert (model.predict(x) == y).mean() > 1 / 2 + 0.3  # half of a part has the same label
    proba = model.predict_proba(named[0][0][:50])
    assert np.allclose(proba.sum(1), 1) and (proba[:, :2] == 0).all()


def test_k_of_a_half_over_segments():
    noisy = [(x, np.where(np.random.default_rng(9).random(len(y)) < 0.2, 1 - y, y)) for x, y in recurring(n=960)]
    few, many = (learn(small(k=k), noisy) for k in (3.0, 0.5))
    assert many.n_experts_ > few.n_experts_


def test_schedule_counts_the_experts_own_steps():
    schedule = {"steps_per_epoch": 10, "milestones": (2, 3), "gamma": 0.5, "warmup_epochs": 1}
    model = small(lr=1.0, schedule=schedule)
    rates = [model.schedule.rate(1.0, t) for t in (0, 4, 9, 19, 20, 29, 30)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.5, 0.25])
    assert small().schedule.rate(1.0, 10**6) == 1.0
    learn(model, recurring(n=320))
    assert [e.steps for e in model.experts_] == [40, 20]
    assert [e.optimizer.param_groups[0]["lr"] for e in model.experts_] == [0.25, 1.0]  # of the steps before the last


PRUNED = {"hidden": (32, 32), "pruning": {"enabled": True, "epochs": 5}}


def zeros(network):
    return sum(int((w == 0).sum()) for name, w in network.named_parameters() if w.ndim > 1)


def test_pruning_at_the_end_of_a_segment_leaves_round_rho_p_zeros():
    model = learn(small(**PRUNED), recurring()[:2])
    p = 4 * 32 + 32 * 32 + 32 * 2
    assert [zeros(e.network) for e in model.experts_] == [round(0.9 * p), 0]
    assert len(model.experts_[0].samples) == 0 and len(model.experts_[1].samples) == 200
    before = model.cost()["stored_parameters"]
    assert [zeros(e.network) for e in model.prune_experts().experts_] == [round(0.9 * p)] * 2
    assert before - model.cost()["stored_parameters"] == round(0.9 * p)
    selector = model._fit_selector()
    assert zeros(selector) == round(0.5 * (4 * 16 + 16 * 2))


def test_a_pruned_expert_that_comes_back_is_trained_under_its_mask():
    model = learn(small(**PRUNED), recurring()[:2])
    before = frozen(model.experts_[0])[0]
    masks = model.experts_[0].masks
    model.partial_fit(*recurring()[2])
    assert model.active_ == 0
    weights = dict(model.experts_[0].network.named_parameters())
    assert not same(before, frozen(model.experts_[0])[0])
    assert all((weights[name][~keep] == 0).all() for name, keep in masks.items())


def test_pruning_costs_accuracy_and_retraining_brings_it_back():
    x, y = load_digits(return_X_y=True)
    x = x / 16
    accuracy = {}
    for retrain in (False, True):
        model = TAME.from_preset(
            "small", n_classes=10, pruning={"enabled": True, "rho_expert": 0.95, "retrain": retrain, "epochs": 50}
        )
        for _ in range(5):
            model.partial_fit(x[:1000], y[:1000])
        full = (model.predict(x[1000:]) == y[1000:]).mean()
        accuracy[retrain] = (model.prune_experts().predict(x[1000:]) == y[1000:]).mean()
    assert model.n_experts_ == 1
    assert min(full, accuracy[True]) > accuracy[False] + 0.15


def test_no_pruning_when_it_is_off():
    model = learn(small(hidden=(32, 32)), recurring())
    assert all(zeros(e.network) == 0 and not e.masks and not len(e.samples) for e in model.experts_)


def test_save_and_load_keeps_masks_windows_and_goes_on_alike(tmp_path):
    parts = recurring()
    model = learn(small(**PRUNED), parts[:2])
    model.save(tmp_path)
    loaded = TAME.load(tmp_path)
    assert np.array_equal(model.predict_proba(parts[1][0]), loaded.predict_proba(parts[1][0]))
    for m in (model, loaded):
        m.partial_fit(*parts[2])
    assert same(model._state(), loaded._state()) and loaded.borders_ == [40, 80]


def test_a_failure_after_a_switch_puts_every_expert_back():
    parts = recurring()
    model = learn(small(backbone=with_batch_norm, pruning={"enabled": True, "epochs": 5}), parts[:2])
    before = copy.deepcopy(model._state())
    step, calls = torch.optim.SGD.step, []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    torch.optim.SGD.step = failing
    try:
        with pytest.raises(KeyboardInterrupt):
            model.partial_fit(*parts[2])
    finally:
        torch.optim.SGD.step = step
    assert same(model._state(), before)
    other = learn(small(backbone=with_batch_norm, pruning={"enabled": True, "epochs": 5}), parts)
    assert same(model.partial_fit(*parts[2])._state(), other._state())


def test_a_diverged_loss_is_an_error_not_a_quiet_stream():
    model = small(squash_logits=False).partial_fit(*part(32, 0))
    before = copy.deepcopy(model._state())
    with torch.no_grad():
        next(model.experts_[0].network.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="expert 0 at mini-batch 2 is NaN"):
        model.partial_fit(*part(32, 1))
    assert model.t_ == before["values"]["t_"]


def test_the_first_mini_batch_is_no_border_however_large_its_loss():
    x, y = part(64, 0)
    model = small(squash_logits=False).partial_fit(x[:16] * 100, y[:16])
    assert model.experts_[0].detector.losses[1] > math.log(2) + 3 * 0.005, "above the window of a guess"
    assert model.history_ == [(0, 0)] and all(e.steps for e in model.experts_)
    assert np.isfinite(model.predict_proba(x)).all()


def test_labels_that_would_share_an_output_of_an_expert_are_refused_unless_n_classes_is_given():
    x, y = load_digits(return_X_y=True)
    first = np.isin(y, (0, 1, 2))
    given, guessed = (TAME.from_preset("small", n_classes=n).partial_fit(x[first], y[first]) for n in (10, None))
    before = guessed.predict_proba(x)
    with pytest.raises(ValueError, match=r"labels \[.*\] would share an output: .* the first chunk held 3 labels"):
        guessed.partial_fit(x[~first], y[~first])
    np.testing.assert_array_equal(guessed.predict_proba(x), before)
    assert given.partial_fit(x, y).n_slots_ == 10


def test_unknown_number_of_classes():
    x, y = part(32, 0)
    with pytest.raises(ValueError, match="pass TAME\\(n_classes="):
        TAME().partial_fit(x, y * 0)
    assert TAME(hidden=(8,)).partial_fit(x, y).n_slots_ == 2


def test_a_selector_module_is_refused_because_its_width_would_be_fixed():
    with pytest.raises(TypeError, match="number of experts, which grows"):
        TAME(selector={"backbone": nn.Linear(4, 2)})


def test_an_expert_that_is_not_there():
    model = small().partial_fit(*part(32, 0))
    for experts in (3, -1, 0.0, True, [0.5, 0, 0, 0], "first"):
        with pytest.raises(ValueError, match=r"experts must be integers from 0 to 0, got|continuous"):
            model.predict_with(part(4, 0)[0], experts)


def test_settings_for_a_stream():
    class Facts:
        batch_size, epochs, input_shape, classes_per_task = 16, 4, (64,), 10

    assert TAME.settings_for(Facts()) == {"batch_size": 16, "epochs": 4, "n_classes": 10}
