"""Every system of the continual family, run through the family's protocol."""

import copy
import functools
import random
import re

import numpy as np
import pytest
import torch
from cases import cases
from cases import everyone as each_of
from hard import BAD_INPUTS, BAD_LABELS, SAME, refused, same
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from anytask.continual import ContinualClassifier
from anytask.core.checks import NotFinite
from anytask.core.settings import settings_of

SMALL = {"batch_size": 8, "epochs": 2, "hidden": (8,), "seed": 3}
CASES = cases("continual", lambda cls: issubclass(cls, ContinualClassifier) and cls is not ContinualClassifier, SMALL)
WITH_TEST_TASK = [name for name, case in CASES.items() if case.cls.sees == "test"]
everyone = each_of(CASES)


def make(name, **params):
    return CASES[name].cls.from_preset("small", **{**CASES[name].params, **params})


def chunk(task=0, n=32, seed=0, dim=4):
    """Two classes per task, labels 2t and 2t + 1."""
    rng = np.random.default_rng([seed, task])
    y = np.tile([0, 1], n)[:n] + 2 * task
    x = rng.normal(size=(n, dim)).astype(np.float32) * 0.3
    x[np.arange(n), y % dim] += 2
    return x, y


def feed(model, tasks=(0, 1), labels=lambda y: y, seed=0):
    for t in tasks:
        x, y = chunk(t, seed=seed)
        model.partial_fit(x, labels(y), task=t)
        model.end_task()
    return model


@functools.cache
def _fed(name, tasks):
    return feed(make(name), tasks)


def fed(name, tasks=(0, 1)):
    """A model that has learned these tasks, trained once for all tests."""
    return copy.deepcopy(_fed(name, tasks))


def ask(model, x, task=0):
    return model.predict_proba(x, task=task if model.needs == "test" else None)


@everyone
def test_predictions_have_one_column_per_label_and_sum_to_one(name):
    model = fed(name)
    x, y = chunk(0)
    p = ask(model, x)
    assert p.shape == (len(x), 4) and np.allclose(p.sum(1), 1, atol=1e-5) and (p >= 0).all()
    assert model.classes_.tolist() == [0, 1, 2, 3] and model.n_features_in_ == 4
    labels = model.predict(x, task=0 if model.needs == "test" else None)
    assert labels.shape == y.shape and set(labels) <= {0, 1, 2, 3}


#: What a chunk (x, y) is made into after the first, and what the error says.
OTHER = {
    "features": (lambda x, y: (x[:, :3], y), "3 features.* expecting 4"),
    "three dimensions": (lambda x, y: (x[:, :, None], y), r"shape \(4, 1\)"),
    "other labels": (lambda x, y: (x, y.astype(str)), "keep to one kind"),
}


@everyone
def test_bad_chunks_are_refused_in_one_line_and_leave_no_trace(name):
    model = fed(name, (0,))
    before = copy.deepcopy(model._state())
    x, y = chunk(1)
    refused(lambda bad: model.partial_fit(bad, y, task=1), x, BAD_INPUTS)
    refused(lambda bad: model.partial_fit(x, bad, task=1), y, BAD_LABELS)
    for spoil, says in OTHER.values():
        with pytest.raises((ValueError, TypeError), match=says):
            model.partial_fit(*spoil(x, y), task=1)
    assert same(model._state(), before) and model.n_chunks_ == 1


@everyone
def test_inputs_and_labels_of_every_kind_are_learned_alike(name):
    plain, model = make(name), make(name)
    q, _ = chunk(0, seed=9)
    q = np.round(8 * q) / 8  # exact in half precision
    for seed, (kind, convert) in enumerate(SAME.items()):
        x, y = chunk(0, n=8, seed=seed)
        x = np.round(8 * x) / 8
        plain.partial_fit(x, y, task=0)
        model.partial_fit(convert(x), convert(y), task=0)
        reference = ask(plain, q)
        assert np.array_equal(ask(model, q), reference), kind
        p = ask(model, convert(q))
        assert isinstance(p, torch.Tensor) == ("tensor" in kind)
        assert np.allclose(np.asarray(p), reference, atol=1e-6), kind


@everyone
def test_a_nan_in_any_entry_is_refused(name):
    model = fed(name, (0,))
    for row, column in np.ndindex(2, 4):
        x, y = (part[:2] for part in chunk(0))
        x[row, column] = np.nan
        for call in (lambda x=x, y=y: model.partial_fit(x, y, task=0), lambda x=x: ask(model, x)):
            with pytest.raises(ValueError, match=f"row {row}"):
                call()


@everyone
def test_before_the_first_chunk_there_is_nothing_to_ask_save_or_count(name, tmp_path):
    model = make(name)
    x, _ = chunk(0)
    for call in (lambda: ask(model, x), lambda: model.predict(x, task=0), lambda: model.save(tmp_path), model.cost):
        with pytest.raises(NotFittedError, match=type(model).__name__):
            call()
    assert not list(tmp_path.iterdir())


@everyone
def test_bad_queries(name):
    x, y = chunk(0)
    model = fed(name, (0,))
    refused(lambda bad: ask(model, bad), x, BAD_INPUTS)
    for kind in ("features", "three dimensions"):
        with pytest.raises(ValueError, match=OTHER[kind][1]):
            ask(model, OTHER[kind][0](x, y)[0])
    if model.sees == "test":
        with pytest.raises(TypeError, match="task must be an integer or a string, got float"):
            model.partial_fit(x, y, task=0.5)
        with pytest.raises(ValueError, match="'new' was never trained"):
            model.predict(x, task="new")
    if model.needs in ("train", "test"):
        with pytest.raises(ValueError, match="needs to know the task"):
            model.partial_fit(x, y)
    if model.needs == "test":
        with pytest.raises(ValueError, match="needs to know the task at test"):
            model.predict(x)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if hasattr(case.cls, "embed")])
def test_features_are_a_row_for_each_input_and_are_saved_with_the_model(name, tmp_path):
    model = fed(name)
    x, _ = chunk(0, seed=9)
    z = model.embed(x)
    assert len(z) == len(x) and z.ndim == 2 and np.isfinite(z).all() and z.std(0).max() > 0
    assert np.allclose(model.embed(torch.from_numpy(x)).numpy(), z, atol=1e-6)
    refused(model.embed, x, BAD_INPUTS)
    model.save(tmp_path)
    assert np.array_equal(type(model).load(tmp_path).embed(x), z)


@pytest.mark.parametrize("name", WITH_TEST_TASK)
def test_a_given_task_rules_out_the_classes_of_the_others(name):
    model = fed(name)
    p = model.predict_proba(chunk(0)[0], task=1)
    assert (p[:, :2] == 0).all() and np.allclose(p.sum(1), 1, atol=1e-5)


@everyone
def test_save_and_load_predict_and_learn_on_alike(name, tmp_path):
    model = fed(name).partial_fit(*chunk(2, seed=5), task=2)  # in the middle of a task
    x, _ = chunk(0, seed=9)
    model.save(tmp_path)
    loaded = type(model).load(tmp_path)
    assert np.array_equal(ask(loaded, x), ask(model, x))
    for m in (model, loaded):
        feed(m, tasks=(2,))
    assert np.array_equal(ask(loaded, x), ask(model, x))
    assert loaded.classes_.tolist() == [0, 1, 2, 3, 4, 5]


def choices(cls):
    """Give what a system's words and flags can be instead of their defaults, one at a time, as parameters."""
    for setting in settings_of(cls):
        words = (True, False) if setting.wanted.startswith("True or False") else ()
        words = re.findall("'(.*?)'", setting.wanted) if setting.wanted.startswith("one of") else words
        yield from ({setting.name.replace(".", "__"): word} for word in words if word != setting.default)


@everyone
def test_every_choice_answers_with_and_without_the_task_or_is_refused_before_it_learns(name):
    x, _ = chunk(0)
    for params in choices(CASES[name].cls):
        said = None
        try:
            model = make(name).set_params(**params).partial_fit(*chunk(0), task=0)
        except (ValueError, ImportError) as error:
            said = error
        if said is None:
            feed(model, (1,))
            for task in [None] * (model.needs != "test") + [0, 1] * (model.sees == "test"):
                assert np.allclose(model.predict_proba(x, task=task).sum(1), 1, atol=1e-5), (params, task)
        assert not isinstance(said, NotFinite), params


#: Networks, and whether they do not fit inputs of four numbers.
NETWORKS = [
    (nn.Linear(4, 5).requires_grad_(False), False),
    (nn.Identity(), False),
    (nn.Linear(3, 5), True),
    (nn.Unflatten(1, (2, 2)), True),
]
UNFIT = "inputs of shape|maps 2 inputs|no encoder|no convolution|no linear layer"


@pytest.mark.parametrize("name", [name for name in CASES if "backbone" in make(name).get_params()])
def test_a_network_is_learned_on_or_refused_in_words_that_say_what_does_not_fit(name):
    for backbone, unfit in NETWORKS:
        said = None
        try:
            model = feed(make(name, backbone=backbone))
        except (ValueError, TypeError) as error:
            said = str(error)
        if said is None:
            assert not unfit and np.isfinite(ask(model, chunk(0)[0])).all()
        else:
            assert re.search(UNFIT, said)


#: What takes a network of a user's: not those that want an encoder of transformers or a network of images.
GIVEN = [
    (name, path)
    for name in CASES
    for path in make(name).get_params()
    if (path == "backbone" or (name, path) == ("GKCL", "frozen")) and name not in ("CLR", "MultiLane")
]


@pytest.mark.parametrize(("name", "path"), GIVEN)
def test_a_network_that_is_passed_again_gets_the_weights_that_were_saved(name, path, tmp_path):
    def network(scale):
        def made(input_shape, n_outputs):
            layer = nn.Linear(4, n_outputs or 5)
            nn.init.uniform_(layer.weight, 0, scale)
            return nn.Sequential(layer, nn.BatchNorm1d(n_outputs or 5), nn.Sigmoid())

        return made

    model = feed(make(name, **{path: network(1)}))
    model.save(tmp_path)
    loaded = type(model).load(tmp_path, **{path: network(2)})
    x, _ = chunk(0, seed=9)
    assert np.array_equal(ask(loaded, x), ask(model, x))


@everyone
def test_the_seed_settles_everything(name):
    x, _ = chunk(0, seed=9)
    a = ask(feed(make(name)), x)
    with torch.no_grad():
        b = ask(feed(make(name)), x)
    assert np.array_equal(a, b)


@everyone
def test_another_seed_gives_other_predictions(name):
    x, _ = chunk(0, seed=9)
    assert not np.array_equal(*(ask(feed(make(name, seed=seed)), x) for seed in (3, 4)))


@everyone
def test_global_generators_and_threads_are_left_alone(name, tmp_path):
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), torch.get_num_threads()  # noqa: NPY002
    model = fed(name)
    ask(model, chunk(0)[0])
    model.save(tmp_path)
    type(model).load(tmp_path)
    model.fit(*chunk(0), task=0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2:] == (random.getstate(), torch.get_num_threads())


@everyone
def test_string_labels_learn_what_numbers_learn(name):
    names = np.array(["d", "a", "ccc", "bb"])
    numbers, words = feed(make(name)), feed(make(name), labels=lambda y: names[y])
    x, _ = chunk(1, seed=9)
    assert words.classes_.tolist() == ["a", "bb", "ccc", "d"]
    assert np.allclose(
        ask(words, x, 1)[:, [3, 0, 2, 1]], ask(numbers, x, 1), atol=1e-6
    )  # the softmax sums in another order


@everyone
def test_labels_may_appear_late_inside_a_task(name):
    x, y = chunk(0)
    model = make(name)
    model.partial_fit(x[y == 0], y[y == 0], task=0).partial_fit(x, y, task=0)
    assert ask(model, x).shape == (32, 2)


@everyone
def test_training_does_not_depend_on_the_cut(name):
    x, y = (np.concatenate(v) for v in zip(chunk(0), chunk(1)))
    whole, cut = make(name).partial_fit(x, y, task=0), make(name)
    for rows in np.split(np.arange(64), [8, 24, 56]):
        cut.partial_fit(x[rows], y[rows], task=0)
    assert np.array_equal(ask(whole, x), ask(cut, x))


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=["error", "interrupt"])
@everyone
def test_a_failure_half_way_leaves_the_model_bit_identical(name, error, monkeypatch):
    model = fed(name)
    x, y = chunk(2)
    before, p = fed(name)._state(), ask(model, x)
    calls = []
    with monkeypatch.context() as patch:
        for optimizer in (torch.optim.SGD, torch.optim.Adam):

            def failing(self, *args, step=optimizer.step, **kwargs):
                calls.append(1)
                if len(calls) == 3:
                    raise error
                return step(self, *args, **kwargs)

            patch.setattr(optimizer, "step", failing)
        with pytest.raises(type(error)):
            model.partial_fit(x, y, task=2)
    assert same(model._state(), before) and np.array_equal(ask(model, x), p)
    assert model.classes_.tolist() == [0, 1, 2, 3] and model.n_chunks_ == 2
    assert same(feed(model, tasks=(2,))._state(), feed(make(name), (0, 1, 2))._state())


@everyone
def test_a_failure_in_learn_leaves_the_predictions(name, monkeypatch):
    model = fed(name, (0,))
    x, y = chunk(1)
    p, learn = ask(model, x), type(model)._learn

    def failing(self, *args):
        learn(self, *args)
        raise RuntimeError("late")

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "_learn", failing)
        with pytest.raises(RuntimeError, match="late"):
            model.partial_fit(x, y, task=1)
    assert np.array_equal(ask(model, x), p) and model.classes_.tolist() == [0, 1]
    fresh = make(name)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "_learn", failing)
        with pytest.raises(RuntimeError, match="late"):
            fresh.partial_fit(x, y, task=1)
    assert not hasattr(fresh, "input_shape_")


@everyone
def test_clone_copies_the_parameters_and_nothing_else(name):
    model = fed(name, (0,))
    copy = clone(model)
    assert str(copy.get_params()) == str(model.get_params()) and not hasattr(copy, "classes_")


@everyone
def test_cost_counts(name):
    cost = fed(name).cost()
    assert {"trainable_parameters", "stored_parameters", "stored_samples"} <= set(cost)
    assert all(isinstance(v, int) and v >= 0 for v in cost.values()) and cost["stored_parameters"] > 0


@everyone
def test_every_bad_setting_is_refused_by_name_at_construction_and_later(name):
    model, cls = make(name), CASES[name].cls
    before = str(model.get_params())
    for setting in settings_of(cls):
        if not setting.wanted:
            continue
        path = setting.name.split(".")
        nested = {path[0]: object()} if len(path) == 1 else {path[0]: {path[1]: object()}}
        with pytest.raises(ValueError, match=f"{path[-1]} must be"):
            cls(**nested)
        with pytest.raises(ValueError, match=f"{path[-1]} must be"):
            model.set_params(**{"__".join(path): object()})
    with pytest.raises(ValueError, match="has no preset 'huge'"):
        cls.from_preset("huge")
    assert str(model.get_params()) == before


@everyone
def test_settings_changed_in_mid_stream_hold_from_the_next_chunk_on(name, tmp_path):
    model, twin = fed(name), fed(name)
    x, _ = chunk(0, seed=9)
    changed = {"lr": model.lr / 5}
    model.set_params(**changed)
    assert np.array_equal(ask(model, x), ask(twin, x))
    twin.save(tmp_path)
    loaded = CASES[name].cls.load(tmp_path, **changed)
    answers = [ask(feed(m, tasks=(2,)), x) for m in (model, loaded, twin)]
    assert np.array_equal(answers[0], answers[1]) and not np.array_equal(answers[0], answers[2])


@everyone
def test_settings_that_shape_the_model_wait_for_the_next_fit(name, tmp_path):
    model = fed(name)
    x, y = chunk(0)
    before = ask(model, x)
    model.set_params(seed=77)
    for call in (lambda: model.partial_fit(x, y, task=1), lambda: model.save(tmp_path)):
        with pytest.raises(ValueError, match="seed shapes the fitted model, which has 3, and is 77 now"):
            call()
    model.set_params(seed=3).save(tmp_path)
    assert np.array_equal(ask(model, x), before)
    assert model.set_params(seed=77).fit(x, y, task=0).n_chunks_ == model.epochs


@pytest.mark.parametrize("changed", [{"lr": 1e37}, {"seed": 77}], ids=str)
@everyone
def test_the_end_of_a_task_is_finite_and_under_the_settings_of_the_fit_or_refused(name, changed):
    model, twin = (make(name).partial_fit(*chunk(0), task=0) for _ in range(2))
    before = copy.deepcopy(model._state())
    model.set_params(**{key: value for key, value in changed.items() if hasattr(model, key)})
    try:
        model.end_task()
    except (NotFinite, ValueError) as error:
        said = str(error)
        assert next(iter(changed)) in said and same(model._state(), before)
    else:
        if "seed" in changed:
            model.set_params(seed=twin.seed)
            assert same(model._state(), twin.end_task()._state())
        assert np.isfinite(ask(model, chunk(0)[0])).all()


@pytest.mark.parametrize(("scale", "lr"), [(1e5, None), (1e30, None), (1, 1e6)])
@everyone
def test_a_chunk_leaves_finite_answers_or_an_error_with_the_cause_and_no_trace(name, scale, lr):
    model = fed(name, (0,))
    if lr and hasattr(model, "lr"):
        model.set_params(lr=lr)
    x, y = chunk(1)
    for _ in range(3):
        before, numbers = copy.deepcopy(model._state()), torch.get_rng_state()
        try:
            model.partial_fit(x * np.float32(scale), y, task=1)
        except NotFinite as error:
            said = str(error)
        else:
            said = None
        if said:
            assert "NaN or infinite: " in said and ("lr" in said or "scale" in said)
            assert same(model._state(), before) and torch.equal(torch.get_rng_state(), numbers)
            assert np.isfinite(ask(model, chunk(0)[0])).all()
            break
        assert np.isfinite(ask(model, x * np.float32(scale), 1)).all() and np.isfinite(ask(model, chunk(0)[0])).all()


@everyone
def test_another_class_and_a_damaged_folder_are_refused(name, tmp_path):
    fed(name).save(tmp_path)
    other = next(case.cls for case in CASES.values() if case.cls is not CASES[name].cls)
    with pytest.raises(ValueError, match=f"not a .*{other.__name__}"):
        other.load(tmp_path)
    next(tmp_path.glob("*.safetensors")).write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        CASES[name].cls.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no saved state"):
        CASES[name].cls.load(tmp_path / "nowhere")


@everyone
def test_the_device_is_not_saved_and_everything_goes_to_the_one_asked_for(name, tmp_path):
    feed(make(name, device="cpu")).save(tmp_path)
    assert CASES[name].cls.load(tmp_path).device == "auto"
    model = CASES[name].cls.load(tmp_path, device="meta")
    assert {p.device.type for module in model._modules() for p in module.parameters()} <= {"meta"}


@everyone
def test_progress_of_fit_ends_at_1(name):
    told = []
    make(name, epochs=3).fit(*chunk(0), task=0, progress=told.append)
    assert told == [1 / 3, 2 / 3, 1.0]


DEFAULTS = "test_plain_defaults_learn_and_every_method_works_with_them"


@pytest.mark.parametrize(
    "cls", dict.fromkeys(c.cls for c in CASES.values() if DEFAULTS not in c.exempt), ids=lambda cls: cls.__name__
)
def test_plain_defaults_learn_and_every_method_works_with_them(cls, tmp_path):
    model = cls()
    model.set_params(epochs=min(10, model.epochs))
    tasks = {"task": 0} if model.needs == "test" else {}
    n = 1600 // model.epochs  # each makes as many steps as its epochs and mini-batches give for 1600 rows
    rng = np.random.default_rng(0)
    centers, y = rng.uniform(0, 1, (4, 64)), np.arange(n + 400) % 4
    x = np.clip(centers[y] + 0.2 * rng.normal(size=(n + 400, 64)), 0, 1)
    model.fit(x[:n], y[:n], **tasks)
    model.save(tmp_path)
    assert (cls.load(tmp_path).predict(x[n:], **tasks) == y[n:]).mean() > 1 / 4 + 0.4
    fresh = 0 if hasattr(model, "n_classes") else 4  # which TAME has to be told to take new labels for a new task
    assert model.cost() and model.partial_fit(1 - x[:50], y[:50] + fresh, **tasks).end_task() is model


@pytest.mark.parametrize("name", ["FineTuning", "NearestClassMean"])
def test_scikit_learns_own_checks(name):
    exempt = {
        "check_estimators_partial_fit_n_features": "passes partial_fit(classes=...), see below",
        "check_n_features_in_after_fitting": "passes partial_fit(classes=...); this family takes labels as they come",
        "check_methods_sample_order_invariance": "asks 1e-7 of float32 networks; with their precision see below",
        "check_methods_subset_invariance": "asks 1e-7 of float32 networks; with their precision see below",
        "check_do_not_raise_errors_in_init_or_set_params": "a bad setting is refused as soon as it is given",
        "check_parameters_default_constructible": "groups of settings are objects",
    }
    results = check_estimator(make(name), expected_failed_checks=exempt, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed, {k: str(v)[:200] for k, v in failed.items()}


@everyone
def test_rows_are_answered_by_themselves(name):
    model = fed(name)
    x, _ = chunk(seed=1)
    together = ask(model, x)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_allclose(ask(model, x[order]), together[order], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([ask(model, row[None]) for row in x]), together, rtol=0, atol=1e-5)


def test_what_a_system_is_exempt_from_is_a_test_of_this_contract():
    assert {test for case in CASES.values() for test in case.exempt} <= set(globals())
