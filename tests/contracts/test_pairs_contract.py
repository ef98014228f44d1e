"""Every encoder of pairs, run through their protocol on each kind of item that it takes."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from cases import cases
from hard import same
from protocol import (
    bad_settings_are_refused_by_name,
    copies_answer_alike,
    progress_ends_at_one_and_an_interrupted_fit_leaves_the_model,
    saved_models_answer_alike,
    the_seed_settles_everything,
)
from sklearn.exceptions import NotFittedError

from anytask.core.checks import NotFinite
from anytask.pretrain import DualEncoder
from anytask.pretrain.parts.pairs import PairEncoder
from anytask.pretrain.parts.zero_shot import PromptClassifier

CASES = cases(
    "pretrain",
    lambda cls: isinstance(cls, type) and issubclass(cls, PairEncoder) and cls is not PairEncoder,
    {"seed": 3, "epochs": 2, "batch_size": 8, "device": "cpu"},
)
RNG = np.random.default_rng(0)
NAMES = ["nurse", "welder", "baker", "driver", "tailor", "miner", "pilot", "judge"]
ITEMS: dict[str, list[Any]] = {
    "texts": [f"{name} of {RNG.integers(30)} years in the {'north' if i % 3 else 'south'}"
              for i, name in enumerate(NAMES * 3)],
    "arrays": list(RNG.normal(size=(24, 1, 8, 8)).astype(np.float32)),
    "sequences": [RNG.normal(size=(1 + i % 5, 6)).astype(np.float32) for i in range(24)],
}  # fmt: skip


@dataclass(frozen=True)
class Spoiled:
    """An item that nobody can use, and what the error says."""

    item: Any
    says: str


BAD = {
    "texts": [Spoiled("  ", "empty text"), Spoiled(3, "string"), Spoiled(None, "string")],
    "arrays": [
        Spoiled(np.full((1, 8, 8), np.nan, np.float32), "NaN"), Spoiled(np.ones((1, 4, 4), np.float32), "shape"),
    ],
    "sequences": [
        Spoiled(np.full((2, 6), np.inf), "case 3.* NaN or inf"), Spoiled(np.ones((2, 5)), "case 3.*5 features"),
        Spoiled(np.ones((0, 6)), "case 3"), Spoiled(None, r"left\[3\]|right\[3\]"),
    ],
}  # fmt: skip


def kinds(cls):
    """Return the kinds of both sides that a class is tried on: all where it takes any."""
    left, right = cls.KINDS
    return [(a, right or "texts") for a in ([left] if left else list(ITEMS))]


WAYS = [
    pytest.param(name, sides, id="-".join([name, *sides]))
    for name, case in CASES.items()
    for sides in kinds(case.cls)
]  # fmt: skip


def each(test):
    return pytest.mark.parametrize(
        ("name", "sides"), [way for way in WAYS if test.__name__ not in CASES[way.values[0]].exempt]
    )(test)


def make(name, **params):
    case = CASES[name]
    params = {**case.params, **params}
    return case.cls.from_preset("small", **params) if "small" in case.cls.PRESETS else case.cls(**params)


def world(sides, n=24):
    return [ITEMS[kind][:n] for kind in sides]


def fitted(name, sides, **params):
    return make(name, **params).fit(*world(sides))


@each
def test_every_pair_gets_a_finite_score_and_kept_tokens_give_the_same(name, sides):
    model, (left, right) = fitted(name, sides), world(sides, 7)
    S = model.scores(left[:5], right)
    assert S.shape == (5, 7) and np.isfinite(S).all() and S.dtype == np.float64
    a, b = model.encode(left[:5], side="left"), model.encode(right)
    np.testing.assert_allclose(model.scores(a, b), S, atol=1e-6)
    with pytest.raises(ValueError, match="wanted is the left one"):
        model.scores(b, a)


@each
def test_the_score_of_a_pair_does_not_depend_on_the_others(name, sides, monkeypatch):
    model, (left, right) = fitted(name, sides), world(sides, 9)
    S = model.scores(left, right)
    np.testing.assert_allclose(model.scores(left[2:3], right[4:5]), S[2:3, 4:5], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("anytask.pretrain.parts.pairs.PRODUCTS", 1)  # one row and one column at a time
    np.testing.assert_allclose(model.scores(left, right), S, rtol=1e-4, atol=1e-5)


@each
def test_ranks_are_those_of_the_scores_in_both_directions(name, sides):
    model, (left, right) = fitted(name, sides), world(sides, 9)
    S = model.scores(left, right)
    places, found = model.rank(left, right, k=4)
    np.testing.assert_array_equal(places, np.argsort(-S, axis=1, kind="stable")[:, :4])
    np.testing.assert_array_equal(found, np.take_along_axis(S, places, axis=1))
    np.testing.assert_array_equal(model.rank(right, left, side="right")[0], np.argsort(-S.T, axis=1, kind="stable"))
    for k in (0, 1.5, True):
        with pytest.raises(ValueError, match="k must be an integer of at least 1"):
            model.rank(left, right, k=k)


@each
def test_transform_gives_unit_vectors(name, sides):
    model, (left, right) = fitted(name, sides), world(sides, 5)
    for side, items in (("left", left), ("right", right)):
        np.testing.assert_allclose(np.linalg.norm(model.transform(items, side=side), axis=1), 1, atol=1e-4)
    with pytest.raises(ValueError, match="side must be 'left' or 'right'"):
        model.transform(left, side="top")


@each
def test_duplicated_pairs_and_other_spellings_change_nothing(name, sides):
    left, right = world(sides)
    expected = make(name).fit(left, right).scores(left, right)

    def again(items):
        return [f" {item.upper()} " if isinstance(item, str) else item.copy() for item in items]

    twice = make(name).fit([*left, *again(left)], [*right, *again(right)])
    assert np.array_equal(twice.scores(left, right), expected)


@each
def test_bad_items_are_refused_and_leave_no_trace(name, sides):
    model, given = fitted(name, sides), world(sides)
    before = copy.deepcopy(model._state())
    for place, kind in enumerate(sides):
        for bad in BAD[kind]:
            spoiled = list(given[place])
            spoiled[3] = bad.item
            for call in (model.fit, model.scores):
                with pytest.raises((ValueError, TypeError), match=bad.says) as caught:
                    call(*(spoiled if side == place else given[side] for side in (0, 1)))
                assert "\n" not in str(caught.value)
        for nothing in ([], None, "a", 3):
            with pytest.raises((ValueError, TypeError), match=r"left|right"):
                model.fit(*(nothing if side == place else given[side] for side in (0, 1)))
    with pytest.raises(ValueError, match="left has 24 items and right 23"):
        model.fit(given[0], given[1][:-1])
    assert same(model._state(), before)


@each
def test_one_concept_one_pair_and_equal_items_are_learned_from(name, sides):
    left, right = world(sides, 12)
    assert np.isfinite(make(name).fit(left, [right[0]] * 12).scores(left, right)).all()
    assert np.isfinite(make(name).fit([left[0]] * 12, right).scores(left, right)).all()
    assert np.isfinite(make(name).fit(left[:1], right[:1]).scores(left, right)).all()


@each
def test_unfitted_use_is_refused(name, sides, tmp_path):
    model, (left, right) = make(name), world(sides)
    calls = (
        lambda: model.scores(left, right), lambda: model.rank(left, right), lambda: model.encode(right),
        lambda: model.transform(left), lambda: model.save(tmp_path), model.cost,
    )  # fmt: skip
    for call in calls:
        with pytest.raises(NotFittedError, match=type(model).__name__):
            call()


@each
def test_models_copies_and_seeds(name, sides, tmp_path):
    left, right = world(sides, 7)

    def answer(model):
        return model.scores(left, right)

    model = fitted(name, sides)
    saved_models_answer_alike(model, answer, tmp_path)
    copies_answer_alike(model, answer)
    the_seed_settles_everything(lambda: answer(fitted(name, sides)))


@each
def test_progress_and_interruption(name, sides):
    model, given = make(name), world(sides)
    progress_ends_at_one_and_an_interrupted_fit_leaves_the_model(
        lambda progress: model.fit(*given, progress=progress), lambda model: model.scores(*given)
    )


@pytest.mark.parametrize("name", CASES)
def test_every_bad_setting_is_refused_by_name(name):
    bad_settings_are_refused_by_name(make(name))


@each
def test_training_that_diverges_is_refused(name, sides):
    with pytest.raises(NotFinite, match=r"loss|weight|after|size"), np.errstate(all="ignore"):
        make(name, lr=1e30).fit(*world(sides))


@each
def test_settings_that_shape_the_model_cannot_be_changed_behind_its_back(name, sides):
    model = fitted(name, sides)
    for setting in ("lr", "epochs"):
        changed = copy.deepcopy(model)
        setattr(changed, setting, 2 * getattr(changed, setting))
        with pytest.raises(ValueError, match=f"{setting} shapes the fitted model"):
            changed.scores(*world(sides))


@each
def test_without_training_towers_stay_as_they_were_given(name, sides):
    model = make(name, epochs=0)
    weights = copy.deepcopy(model.fit(*world(sides)).net_.state_dict())
    assert same(weights, make(name, epochs=0).fit(*world(sides)).net_.state_dict())
    assert np.isfinite(model.scores(*world(sides))).all()


class Given(torch.nn.Module):
    """A tower of a user that gives something else than tokens and their mask."""

    def __init__(self, gives):
        super().__init__()
        self.gives, self.layer = gives, torch.nn.Linear(1, 4)

    def forward(self, items):
        n = len(items[0]) if isinstance(items, tuple) else len(items)
        tokens = self.layer(torch.ones(n, 3, 1))
        return self.gives(tokens, torch.ones(n, 3, dtype=torch.bool))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "right_encoder" in case.cls._param_names()])
@pytest.mark.parametrize(
    "gives",
    [
        lambda tokens, mask: tokens, lambda tokens, mask: (tokens[:, 0], mask), lambda tokens, mask: (tokens, mask[:1]),
        lambda tokens, mask: (tokens[:1], mask[:1]), lambda tokens, mask: (tokens, None), lambda tokens, mask: None,
    ],
)  # fmt: skip
def test_towers_of_a_user_that_give_no_tokens_are_refused_by_name(name, gives):
    sides = kinds(CASES[name].cls)[0]
    with pytest.raises(ValueError, match=r"right_encoder must give tokens"):
        make(name, right_encoder=Given(gives)).fit(*world(sides))


PROMPTS = {
    "missing": ({None: "a", "b": "c"}, "mix"), "nan": ({float("nan"): "a", 1.0: "b"}, "NaN"),
    "mixed": ({0: "a", "b": "c"}, "mix"), "bool and int": ({False: "a", 2: "c"}, "mix"),
    "pairs": ({(1, 2): "a", (3, 4): "b"}, "shape"), "no text": ({0: 3, 1: "a"}, "class 0"),
    "nan text": ({0: float("nan"), 1: "a"}, "class 0"), "bytes": ({0: b"a", 1: "a"}, "class 0"),
    "mapping": ({0: "a", 1: {"a": 1}}, "class 1"), "no prompt": ({0: [], 1: "a"}, "class 0"),
    "empty text": ({0: "a", 1: ["b", " "]}, "class 1"), "nested": ({0: [["a"]], 1: "a"}, "class 0"),
    "list": (["a", "b"], "prompts"), "one": ({0: "a"}, "2 classes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_that_say_nothing_of_a_class_are_refused_in_one_line(kind):
    prompts, says = PROMPTS[kind]
    model = DualEncoder(epochs=1).fit(ITEMS["texts"], ITEMS["texts"])
    with pytest.raises((TypeError, ValueError), match=says) as caught:
        PromptClassifier(model, prompts)
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="model must be"):
        PromptClassifier("DualEncoder", {0: "a", 1: "b"})


@pytest.mark.parametrize("labels", [(0, 1), (np.int64(3), 4), ("a", "b"), (True, False), (0.0, 1.0)])
def test_classes_of_prompts_are_labels_as_they_were_given(labels):
    model = DualEncoder(epochs=1).fit(ITEMS["texts"], ITEMS["texts"])
    found = PromptClassifier(model, dict(zip(labels, ("one", "two")))).classes_.tolist()
    assert found == list(labels) and [type(label) for label in found] == [type(np.array(x).item()) for x in labels]
