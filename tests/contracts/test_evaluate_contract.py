"""NERO and the classifiers that it is compared on, run through the protocol of the evaluate family."""

import random
import re

import numpy as np
import pandas as pd
import pytest
import torch
from cases import cases, everyone
from damaged import damaged_files_are_refused
from hard import BAD_INPUTS, BAD_LABELS, SAME, refused
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError

from anytask.core.persistence import save_tree
from anytask.core.settings import settings_of
from anytask.evaluate import NERO, NeroResult
from anytask.evaluate.baselines import AugmentedMLP, C4AveragedMLP, Chosen, LinearClassifier, PlainMLP
from anytask.parts.planar_groups import Shifts, cyclic

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(24, 4, 4)).astype(np.float32)
Y = np.arange(24) % 3
GROUP = cyclic(4)
LEARNERS = [PlainMLP, AugmentedMLP, C4AveragedMLP, LinearClassifier, Chosen]
EVALUATORS = cases("evaluate", lambda cls: hasattr(cls, "evaluate"), {})
each_evaluator = everyone(EVALUATORS)
BOXES = [{"boxes": [[0, 0, 2, 2]], "labels": [1]}] * 24


def model(x):
    scores = np.asarray(x).reshape(len(x), -1)[:, :3] + 0.1
    return scores / scores.sum(axis=1, keepdims=True)


def boxes(x):
    return [{"boxes": [[0, 0, 2, 2]], "scores": [0.9], "labels": [1]} for _ in x]


def evaluated(labels=Y, inputs=X, **settings):
    return NERO(GROUP, **settings).evaluate(model, inputs, labels)


def made(cls):
    return cls() if cls is Chosen else cls(epochs=5)


def fitted(cls):
    return made(cls).fit(X, Y, GROUP)


# -- settings ---------------------------------------------------------------------------------------------------------

WRONG = {
    "group": "sideways", "task": "sorting", "psi": "", "consensus": 1, "undo": None, "logits": 3, "iou_threshold": 0,
    "score_threshold": 2, "pixel_offset": 2, "batch_size": 0, "keep_outputs": "yes", "device": "nowhere",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_refused_by_name_at_construction_and_later(name):
    with pytest.raises((ValueError, TypeError, RuntimeError), match=name):
        NERO(**{name: WRONG[name]})
    nero = NERO(GROUP)
    before = nero.get_params()
    with pytest.raises((ValueError, TypeError, RuntimeError), match=name):
        nero.set_params(**{name: WRONG[name]})
    assert nero.get_params() == before


@pytest.mark.parametrize(("cls", "name", "wrong"), [
    *((cls, name, wrong) for cls in LEARNERS[:4] for name, wrong in (("hidden", 0), ("epochs", 0.5), ("seed", -1))),
    (Chosen, "by", "looks"), (Chosen, "holdout", 1.0), (Chosen, "seed", -1),
])  # fmt: skip
def test_a_wrong_setting_of_a_learner_is_refused_by_name(cls, name, wrong):
    with pytest.raises(ValueError, match=name):
        cls(**{name: wrong})


@pytest.mark.parametrize("cls", [NERO, *LEARNERS])
def test_settings_have_help_and_clones_share_them(cls):
    assert all(setting.help for setting in settings_of(cls))
    assert clone(cls()).get_params() == cls().get_params()


def test_the_group_may_be_given_by_its_place_and_has_a_default():
    assert NERO("d4").group == "d4" and clone(NERO(GROUP)).group.labels == GROUP.labels
    result = NERO().evaluate(model, X, Y)
    assert result.table().shape[0] == 6 and result.plot().data and len(result.group) == 73


# -- input validation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [0, 11, 23])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_inputs_that_are_not_finite_are_refused_with_their_row(row, value):
    spoiled = X.copy()
    spoiled[row, 1, 2] = value
    with pytest.raises(ValueError, match=rf"NaN or infinity in row {row}\b"):
        NERO(GROUP, batch_size=8).evaluate(model, spoiled, Y)
    for cls in LEARNERS:
        with pytest.raises(ValueError, match=rf"row {row}\b"):
            made(cls).fit(spoiled, Y, GROUP)


@each_evaluator
def test_bad_inputs_and_labels_are_refused_in_one_line_before_the_model_is_asked(name):
    evaluator, asked = EVALUATORS[name].make(), []
    before = str(evaluator.get_params())

    def counting(x):
        asked.append(len(x))
        return model(x)

    # Inputs keep their precision, and images are no table.
    kept = {kind: bad for kind, bad in BAD_INPUTS.items() if kind not in ("too large", "missing values")}
    refused(lambda bad: evaluator.evaluate(counting, bad, Y), X, kept)
    assert not asked
    refused(lambda bad: evaluator.evaluate(model, X, bad), Y, BAD_LABELS)
    with pytest.raises(ValueError, match="none of the classes"):
        evaluator.evaluate(model, X, Y + 3)
    assert str(evaluator.get_params()) == before


@each_evaluator
def test_inputs_labels_and_answers_of_every_kind_mean_the_same(name):
    inputs = np.round(8 * X) / 8  # exact in half precision
    inputs[:, 0, 0] = Y

    def answer(x):
        return np.eye(3)[np.asarray(x, np.float64)[:, 0, 0].astype(int) % 3]

    evaluator = EVALUATORS[name].make()
    found = evaluator.evaluate(answer, inputs, Y).table().to_numpy().tolist()
    for kind, convert in SAME.items():
        if "pandas" not in kind:  # images are no table
            other = evaluator.evaluate(answer, convert(inputs), convert(Y)).table()
            assert repr(other.to_numpy().tolist()) == repr(found), kind
        other = evaluator.evaluate(lambda x, convert=convert: convert(answer(x)), inputs, convert(Y)).table()
        assert repr(other.to_numpy().tolist()) == repr(found), kind


@each_evaluator
def test_answers_that_cannot_be_read_are_said_in_one_line(name):
    evaluator = EVALUATORS[name].make()
    for kind in ("sparse", "sparse tensor", "meta tensor", "masked", "complex", "ragged", "words", "nothing", "empty"):
        spoil, _ = BAD_INPUTS[kind]
        with pytest.raises((ValueError, TypeError), match="fails on every sample") as error:
            evaluator.evaluate(lambda x, spoil=spoil: spoil(model(x)), X, Y)
        assert "\n" not in str(error.value) and re.search("output|answer|returned", str(error.value)), kind


@pytest.mark.parametrize("labels", [
    Y.astype(float), Y.tolist(), torch.from_numpy(Y), pd.Series(Y, index=range(100, 124)), Y[:, None],
], ids=["floats", "list", "tensor", "series", "column"])  # fmt: skip
def test_other_forms_of_labels_mean_the_same(labels):
    assert evaluated(labels).table().equals(evaluated().table())
    assert evaluated(labels).select(3).label == Y[3]


def test_a_column_of_labels_is_taken_by_learners_with_a_warning():
    with pytest.warns(DataConversionWarning):
        assert LinearClassifier().fit(X, Y[:, None]).classes_.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="one class"):
        LinearClassifier().fit(X, Y * 0)


@pytest.mark.parametrize(("box", "says"), [
    ([2, 0, 0, 2], "ends before it begins"), ([0, 2, 2, 0], "ends before it begins"), ([0, 0, np.nan, 2], "NaN"),
])  # fmt: skip
def test_boxes_that_are_none_are_refused_as_truth_and_failures_as_outputs(box, says):
    nero = NERO(Shifts([0, 1]))
    with pytest.raises(ValueError, match=rf"y\[7\].*{says}"):
        nero.evaluate(boxes, X, [*BOXES[:7], {"boxes": [box], "labels": [1]}, *BOXES[8:]])
    marked = X.copy()
    marked[7] = 2

    def wrong(x):
        return [{**one, "boxes": [box]} if image.max() > 1.5 else one for image, one in zip(x, boxes(x))]

    with pytest.warns(UserWarning, match="on 1 of 24 samples"):
        failures = nero.evaluate(wrong, marked, BOXES).failures
    assert [f.sample for f in failures] == [7] and says in failures[0].error


@pytest.mark.parametrize("cls", LEARNERS)
def test_unfitted_learners_say_so(cls, tmp_path):
    for call in (lambda m: m.predict(X), lambda m: m.predict_proba(X), lambda m: m.save(tmp_path)):
        with pytest.raises(NotFittedError):
            call(cls())


@pytest.mark.parametrize("cls", LEARNERS)
def test_queries_of_another_shape_or_with_nan_are_refused(cls):
    learner = fitted(cls)
    with pytest.raises(ValueError, match="shape"):
        learner.predict(X[:, :3, :3])
    with pytest.raises(ValueError, match="row 2"):
        learner.predict(np.where(np.arange(24)[:, None, None] == 2, np.nan, X))


# -- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", LEARNERS)
def test_learners_are_loaded_alike_and_by_their_own_class_alone(cls, tmp_path):
    learner = fitted(cls)
    learner.save(tmp_path)
    np.testing.assert_array_equal(cls.load(tmp_path).predict_proba(X), learner.predict_proba(X))
    with pytest.raises(ValueError, match="holds a"):
        (PlainMLP if cls is not PlainMLP else LinearClassifier).load(tmp_path)
    with pytest.raises(ValueError, match="not a NeroResult"):
        NeroResult.load(tmp_path)


def test_results_are_loaded_alike_and_damage_and_other_trees_are_refused(tmp_path):
    result = evaluated()
    result.save(tmp_path / "result")
    assert NeroResult.load(tmp_path / "result").table().equals(result.table())
    with pytest.raises(ValueError, match="holds"):
        PlainMLP.load(tmp_path / "result")
    save_tree(tmp_path / "other", [1, 2])
    with pytest.raises(ValueError, match="not a NeroResult"):
        NeroResult.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        NeroResult.load(tmp_path / "nowhere")
    state = tmp_path / "result" / "state.json"
    state.write_text(state.read_text().replace("confidence", "confidenze"))
    with pytest.raises(ValueError, match="damaged"):
        NeroResult.load(tmp_path / "result")
    result.save(tmp_path / "again")
    damaged_files_are_refused(lambda: NeroResult.load(tmp_path / "again"), tmp_path / "again")


@pytest.mark.parametrize("index", [24, -25, 1.5, True, float("nan"), "a", None])
def test_samples_and_elements_that_are_not_there_are_refused_and_not_rounded(index):
    result = evaluated()
    calls = [
        lambda: result.select(index), lambda: result.detail(index), lambda: result.plot("individual", sample=index),
        lambda: result.per_sample(samples=[index]), lambda: result.aggregate(subset=[index]),
    ]  # fmt: skip
    if index is not None:
        calls += [
            lambda: result.at(index=index), lambda: result.plot(element=index),
            lambda: result.plot("samples", selected=index), lambda: result.plot("detail", sample=0, element=index),
        ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match=r"there are \d+ (samples|elements), got index"):
            call()


def test_what_is_chosen_of_a_result_is_checked(tmp_path):
    result = evaluated()
    assert len(result.rows([])) == 0 and np.isnan(result.aggregate(subset=[])).all()
    assert result.rows(np.arange(24) > 21).tolist() == result.rows([-2, -1]).tolist() == [22, 23]
    for call, says in (
        (lambda: result.rows(np.ones(5, bool)), "24 samples, got index True"),
        (lambda: result.at(float("nan")), "finite coordinates"),
        (lambda: result.top(-1), "k must be an integer of at least 0, got -1"),
        (lambda: result.to_html(tmp_path / "r.html", max_side=0), "max_side must be an integer of at least 1"),
        (lambda: result.to_html(tmp_path / "r.html", methods=()), "at least one method"),
        (lambda: NERO(GROUP).evaluate({1: model, "1": model}, X, Y), "two models have the same name"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    assert not list(tmp_path.iterdir())


# -- seeds, progress, global state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [PlainMLP, AugmentedMLP, C4AveragedMLP])
def test_the_seed_settles_everything(cls):
    one, other = (made(cls).set_params(seed=seed).fit(X, Y, GROUP).predict_proba(X) for seed in (3, 4))
    with torch.no_grad():
        two = made(cls).set_params(seed=3).fit(X, Y, GROUP).predict_proba(X)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_progress_rises_to_one():
    told = []
    NERO(GROUP, batch_size=8).evaluate(model, X, Y, progress=told.append)
    assert told == sorted(told) and len(told) > 2 and told[-1] == 1


def test_global_generators_threads_and_inputs_are_left_alone(tmp_path):
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), torch.get_num_threads()  # noqa: NPY002
    copy = X.copy()
    result = evaluated()
    result.reduce("ica"), result.save(tmp_path / "r"), result.to_html(tmp_path / "r.html")
    for cls in LEARNERS:
        fitted(cls).predict(X)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2:] == (random.getstate(), torch.get_num_threads()) and np.array_equal(copy, X)
