"""Task streams: how tasks are cut and shown, what is measured, and that no learner is shown more than it may see."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask import problems
from anytask.bench import compare
from anytask.core.colors import PALETTE, color_of
from anytask.core.errors import BadData
from anytask.datasets.labelled import load_labelled
from anytask.problems.base import Entrant
from anytask.problems.splits import split_rows
from anytask.problems.task_stream import (
    IDENTITY,
    TaskStream,
    forward_transfer,
    match_borders,
    stream_metrics,
)

PROBLEM = TaskStream()
RNG = np.random.default_rng(0)
MEANS = "anytask.continual:NearestClassMean"


def blobs(n_classes: int = 4, per_class: int = 12, names: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Well separated classes; the first value of each row is its own number, so rows can be told apart."""
    y = np.repeat(np.arange(n_classes), per_class)
    X = np.column_stack([np.arange(len(y)), 10.0 * y, np.ones(len(y))])
    return X, np.array([f"class {label}" for label in y]) if names else y


def stream_of(seed: int = 0, **options: Any) -> Any:
    options = {"scale": "none", "epochs": 2, **options}
    return PROBLEM.load(options.pop("source", blobs()), **options).stream(seed)


class Spy:
    """Nearest class mean that writes down all it is shown."""

    sees: ClassVar[str] = "test"
    needs: ClassVar[str] = "none"
    log: ClassVar[list[tuple[Any, ...]]] = []
    made_with: ClassVar[dict[str, Any]] = {}

    def __init__(self, **params: Any) -> None:
        type(self).made_with = params
        type(self).log = []
        self.sums: dict[Any, np.ndarray] = {}
        self.counts: Counter[Any] = Counter()

    def partial_fit(self, X: np.ndarray, y: np.ndarray, task: object = None) -> None:
        self.log.append(("fit", task, X, y))
        for label in np.unique(y).tolist():
            self.sums[label] = self.sums.get(label, 0) + X[y == label].sum(0)
            self.counts[label] += int((y == label).sum())

    def end_task(self) -> None:
        self.log.append(("end",))

    def predict(self, X: np.ndarray, task: object = None) -> np.ndarray:
        self.log.append(("predict", task, X))
        labels = list(self.sums)
        means = np.stack([self.sums[label] / self.counts[label] for label in labels])
        distance = ((X[:, None, 1:] - means[None, :, 1:]) ** 2).sum(-1).reshape(len(X), len(labels), -1).sum(-1)
        return np.array(labels)[distance.argmin(1)]


class Blind(Spy):
    sees: ClassVar[str] = "none"


class BoundarySpy(Spy):
    sees: ClassVar[str] = "boundary"
    needs: ClassVar[str] = "boundary"


class TrainSpy(Spy):
    sees: ClassVar[str] = "train"
    needs: ClassVar[str] = "train"


class TestSpy(Spy):
    __test__ = False
    needs: ClassVar[str] = "test"


class Preset(Blind):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"paper": {}, "small": {}}

    @classmethod
    def settings_for(cls, facts: Any) -> dict[str, Any]:
        return {"batch_size": facts.batch_size, "width": facts.n_classes}


class Detective(Blind):
    """Says that a new segment began at mini-batches 0, 7 and one more; keeps two experts."""

    n_experts_ = 2
    borders_: ClassVar[list[int]] = [0, 7, 2]

    def cost(self) -> dict[str, int]:
        return {"stored_samples": 5}


def entrant(cls: type, **params: Any) -> Entrant:
    return Entrant(cls.__name__.lower(), f"{__name__}:{cls.__name__}", params)


@dataclass(frozen=True)
class Handed(Entrant):
    """An entrant whose class is handed over as it is: test modules are not always importable by name."""

    cls: type = object

    def load(self) -> type:
        return self.cls


def run(cls: type, seed: int = 0, **options: Any) -> Any:
    options = {"scale": "none", "epochs": 2, **options}
    load_from = options.pop("source", blobs())
    params = options.pop("params", {})
    return PROBLEM.run(Handed(cls.__name__, "", params, cls=cls), PROBLEM.load(load_from, **options), seed)


# -- metrics ------------------------------------------------------------------------------------------------------

R3 = np.array([[0.90, 0.20, 0.10], [0.60, 0.80, 0.40], [0.70, 0.50, 1.00]])


def test_metrics_of_a_worked_3_by_3_matrix() -> None:
    metrics = stream_metrics(R3, [0, 1, 2])
    assert metrics["accuracy"] == pytest.approx((0.7 + 0.5 + 1.0) / 3)
    assert metrics["forgetting"] == pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2)
    assert metrics["backward_transfer"] == pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2)
    assert metrics["learning_accuracy"] == pytest.approx((0.9 + 0.8 + 1.0) / 3)
    same = [{0, 1}] * 3
    assert forward_transfer(R3, [0, 1, 2], same) == pytest.approx(((0.2 - 0.5) + (0.4 - 0.5)) / 2)


def test_forgetting_counts_the_best_accuracy_before_the_end() -> None:
    R = np.array([[0.5, 0.0, 0.0], [0.9, 0.8, 0.0], [0.7, 0.9, 1.0]])
    assert stream_metrics(R, [0, 1, 2])["forgetting"] == pytest.approx(((0.9 - 0.7) + (0.8 - 0.9)) / 2)


def test_metrics_of_a_recurring_stream() -> None:
    # Tasks 0, 1, 0, 2: task 0 was learned twice, and counts from its last visit on for backward transfer.
    R = np.array([[1.0, 0.5, 0.0], [0.4, 0.9, 0.0], [0.8, 0.3, 0.0], [0.6, 0.2, 1.0]])
    metrics = stream_metrics(R, [0, 1, 0, 2])
    assert metrics["forgetting"] == pytest.approx(((1.0 - 0.6) + (0.9 - 0.2)) / 2)
    assert metrics["backward_transfer"] == pytest.approx(((0.6 - 0.8) + (0.2 - 0.9)) / 2)
    assert metrics["learning_accuracy"] == pytest.approx((1.0 + 0.9 + 0.8 + 1.0) / 4)
    assert forward_transfer(R, [0, 1, 0, 2], [{0, 1}, {0, 1}, {5}]) == pytest.approx(0.5 - 0.5)


def test_forward_transfer_is_undefined_for_new_classes_and_unasked_tasks() -> None:
    assert math.isnan(forward_transfer(R3, [0, 1, 2], [{0}, {1}, {2}]))
    assert math.isnan(forward_transfer(np.full((3, 3), np.nan), [0, 1, 2], [{0, 1}] * 3))


@given(
    found=st.lists(st.integers(0, 39), unique=True, max_size=12),
    true=st.lists(st.integers(1, 39), unique=True, max_size=5).map(sorted),
)
def test_border_matching_agrees_with_brute_force(found: list[int], true: list[int]) -> None:
    # Walk through the batches with one open border at most; a detection closes it or is a false alarm.
    delays, alarms, open_since = [], 0, None
    for batch in range(40):
        if batch in true:
            open_since = batch
        if batch in found and batch > 0:
            if open_since is None:
                alarms += 1
            else:
                delays.append(batch - open_since)
                open_since = None
    assert match_borders(found, true, 40) == (delays, alarms, len(true) - len(delays))


# -- tasks --------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(n_classes=st.integers(2, 8), n_tasks=st.integers(2, 8), seed=st.integers(0, 99))
def test_classes_are_partitioned_over_tasks(n_classes: int, n_tasks: int, seed: int) -> None:
    n_tasks = min(n_tasks, n_classes)
    data = PROBLEM.load(blobs(n_classes, 5), scenario="class", n_tasks=n_tasks, epochs=1, identity="train")
    stream = data.stream(seed)
    everything = np.concatenate([task.classes for task in stream.tasks])
    assert sorted(everything.tolist()) == list(range(n_classes))
    sizes = [len(task.classes) for task in stream.tasks]
    assert len(sizes) == data.options.n_tasks and max(sizes) - min(sizes) <= 1
    rows = np.concatenate([np.concatenate([task.train, task.test]) for task in stream.tasks])
    assert sorted(rows.tolist()) == list(range(5 * n_classes))


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(2, 20), min_size=2, max_size=5),
    test_size=st.floats(0.05, 0.95),
    cap=st.none() | st.integers(2, 10),
    seed=st.integers(0, 9),
)
def test_split_is_disjoint_and_stratified(counts: list[int], test_size: float, cap: int | None, seed: int) -> None:
    y = np.repeat(np.arange(len(counts)), counts)
    train, test = split_rows(y, None, test_size, cap, seed)
    assert not set(train) & set(test)
    for label, count in enumerate(counts):
        n, n_test = min(count, cap or count), int((y[test] == label).sum())
        assert n_test + int((y[train] == label).sum()) == n
        assert 1 <= n_test <= n - 1 and abs(n_test - test_size * n) <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(2, 12), st.integers(0, 99))
def test_no_group_is_on_both_sides_and_every_class_with_two_groups_is_trained_and_tested(
    n_classes: int, n_groups: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    y, groups = rng.integers(0, n_classes, 200), rng.integers(0, n_groups, 200)
    train, test = split_rows(y, None, 0.25, None, seed, groups=groups)
    assert sorted([*train, *test]) == list(range(200)) and not set(groups[train]) & set(groups[test])
    assert set(y[train]) == set(y[test]) == set(y)
    assert n_groups < 8 or 0.1 < len(test) / 200 < 0.5


def test_an_ordered_split_tests_on_the_last_rows_of_each_class_and_task() -> None:
    X, y = blobs(4, 12)
    stream = stream_of(source=(X, y), split="ordered", n_tasks=2)
    assert [row % 12 for task in stream.tasks for row in task.test.tolist()] == [9, 10, 11] * 4
    site = np.tile(["a", "b"], 24)
    stream = stream_of(source=(X, y, site), split="ordered", test_size=0.5)
    assert all((row % 12) >= 6 for task in stream.tasks for row in task.test.tolist())


class Gaps(Spy):
    """Reads missing inputs as zeros."""

    def partial_fit(self, X: np.ndarray, y: np.ndarray, task: object = None) -> None:
        super().partial_fit(np.nan_to_num(X), y, task)

    def predict(self, X: np.ndarray, task: object = None) -> np.ndarray:
        return super().predict(np.nan_to_num(X), task)

    def __sklearn_tags__(self) -> Any:
        return SimpleNamespace(input_tags=SimpleNamespace(allow_nan=True))


def test_missing_inputs_go_to_who_can_read_them() -> None:
    X, y = blobs()
    X[::7, 0] = np.nan
    data = PROBLEM.load((X, y), missing="native", n_tasks=2, epochs=1)
    told = PROBLEM.refuses(Entrant("means", MEANS), data)
    assert told == "means cannot read missing inputs: fill them in (missing=impute)."
    mean, std = data.stream(0).statistics
    assert np.isfinite(mean).all() and np.isfinite(std).all()
    outcome = PROBLEM.run(Handed("gaps", "", cls=Gaps), data, 0)
    assert outcome.metrics["accuracy"] > 0.9
    assert PROBLEM.refuses(Entrant("means", MEANS), PROBLEM.load((X, y), missing="impute")) is None


def test_groups_come_from_a_column_and_are_checked(tmp_path: Any) -> None:
    X, y = blobs(4, 12)
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(label=y, patient=[f"p{i % 6}" for i in range(48)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    np.savez(tmp_path / "t.npz", X=X, y=y, patient=frame["patient"].to_numpy(str))
    for name in ("t.csv", "t.npz"):
        data = PROBLEM.load(tmp_path / name, group="patient", n_tasks=2)
        assert data.source.input_shape == (3,)
        for task in data.stream(0).tasks:
            assert not set(data.source.group[task.train]) & set(data.source.group[task.test])
        with pytest.raises(BadData, match=r"no .* 'doctor'"):
            PROBLEM.load(tmp_path / name, group="doctor")
    with pytest.raises(BadData, match="group draws whole groups"):
        PROBLEM.load(tmp_path / "t.csv", group="patient", split="ordered")
    frame.assign(patient=y).to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(BadData, match="all rows of class 0 are of one group"):
        PROBLEM.load(tmp_path / "one.csv", group="patient")
    with pytest.raises(BadData, match="cannot hold two of labels, tasks, groups and weights"):
        PROBLEM.load(tmp_path / "t.csv", group="patient", task="patient")
    with pytest.raises(BadData, match="group names a column"):
        PROBLEM.load((X, y), group="patient")


@pytest.mark.parametrize("scenario", ["class", "permuted", "rotated", "blurred", "recurring"])
def test_no_test_row_is_ever_trained_on(scenario: str) -> None:
    stream = stream_of(source=(RNG.random((48, 1, 4, 4)), blobs()[1]), scenario=scenario, n_tasks=2, blur=0.5)
    trained = {row for rows, _ in stream.batches for row in rows.tolist()}
    assert not trained & {row for task in stream.tasks for row in task.test.tolist()}


def test_seed_settles_the_stream() -> None:
    def key(seed: int) -> Any:
        stream = stream_of(seed, source="digits")
        return [t.classes.tolist() for t in stream.tasks], np.concatenate([rows for rows, _ in stream.batches]).tolist()

    assert key(0) == key(0)
    assert key(0)[0] != key(1)[0] and key(0)[1] != key(1)[1]


def test_each_training_row_is_shown_once_per_epoch_in_batches_no_larger_than_asked() -> None:
    for blur in (0.0, 0.6):
        stream = stream_of(epochs=3, batch_size=5, blur=blur, n_tasks=2)
        shown = Counter(row for rows, _ in stream.batches for row in rows.tolist())
        assert set(shown) == {row for task in stream.tasks for row in task.train.tolist()}
        assert set(shown.values()) == {3}
        assert max(len(rows) for rows, _ in stream.batches) <= 5
    sharp = stream_of(epochs=3, batch_size=5, n_tasks=2)
    first_epoch = [row for rows, _ in sharp.batches for row in rows.tolist()][: len(sharp.tasks[0].train)]
    assert sorted(first_epoch) == sharp.tasks[0].train.tolist()


def test_borders_are_where_the_next_segment_starts() -> None:
    stream = stream_of(source=blobs(8), batch_size=5, n_tasks=4)
    assert stream.borders == stream.ends[:-1]
    assert all(len(set(owners.tolist())) == 1 for _, owners in stream.batches)


def test_blurred_borders_mix_a_share_of_the_batches_with_a_growing_part_of_the_next_task() -> None:
    stream = stream_of(source=blobs(2, 400), n_tasks=2, epochs=10, blur=0.5, batch_size=10)
    share = np.array([owners.mean() for _, owners in stream.batches])  # of segment 1
    mixed = np.flatnonzero((share > 0) & (share < 1))
    n = stream.ends[0]
    window = 0.5 * n  # half of it on either side of the border
    assert abs(mixed[0] - (n - window / 2)) <= 0.1 * window and abs(mixed[-1] - (n + window / 2)) <= 0.1 * window
    assert stream.borders == [mixed[0]]
    middle = share[n - int(window / 2) : n + int(window / 2)]
    line = np.linspace(0, 1, len(middle))
    assert np.abs(np.convolve(middle - line, np.ones(15) / 15, mode="valid")).max() < 0.15


def test_recurring_order_and_local_labels() -> None:
    stream = stream_of(source="digits", scenario="recurring", n_tasks=5, order="1,2,3,2,4", labels="local")
    assert stream.visits == [0, 1, 2, 1, 3] and len(stream.tasks) == 4
    assert stream.facts.n_classes == 2 and stream.facts.classes_per_task == 2
    for k, task in enumerate(stream.tasks):
        assert set(stream.labels(task.train, k).tolist()) == {0, 1}
    assert stream_of(scenario="recurring", n_tasks=3, source=blobs(6)).visits == [0, 1, 2, 1]
    assert stream_of(scenario="recurring", n_tasks=4, source=blobs(8)).visits == [0, 1, 2, 1, 3]
    assert stream_of(scenario="recurring", n_tasks=2).visits == [0, 1, 0]


def test_class_order_and_classes_per_task() -> None:
    source = blobs(4, names=True)
    named = {"order": "class 3,class 0,class 2,class 1", "identity": "train"}
    stream = stream_of(source=source, classes_per_task="1,3", **named)
    assert [task.classes.tolist() for task in stream.tasks] == [["class 3"], ["class 0", "class 1", "class 2"]]
    data = PROBLEM.load(source, order=["class 3", "class 0"], n_tasks=2, identity="none")
    assert data.notes == ("Classes left out by order: class 1, class 2.",)
    assert [len(t.classes) for t in stream_of(source=blobs(5), classes_per_task=2).tasks] == [2, 3]


def test_domain_stream_follows_the_task_column() -> None:
    X, y = blobs(2, 12)
    domain = np.array(["b", "a", "c"] * 8)
    stream = stream_of(source=(X, y, domain))
    assert [task.name for task in stream.tasks] == ["b", "a", "c"]
    for task in stream.tasks:
        assert set(domain[np.concatenate([task.train, task.test])]) == {task.name}
        assert set(y[task.test]) == {0, 1}
    again = stream_of(source=(X, y, domain), order="c,a,c")
    assert [again.tasks[k].name for k in again.visits] == ["c", "a", "c"]


# -- inputs -------------------------------------------------------------------------------------------------------


def test_permutations_are_invertible_and_the_first_is_the_identity() -> None:
    stream = stream_of(source="digits", scenario="permuted", n_tasks=3, max_per_class=20)
    rows = np.arange(30)
    X = stream.data.source.X[rows]
    np.testing.assert_array_equal(stream.inputs(rows, 0), X)
    for k in (1, 2):
        permuted = stream.inputs(rows, k)
        assert not np.array_equal(permuted, X)
        np.testing.assert_array_equal(permuted[:, np.argsort(stream.tasks[k].level)], X)
    np.testing.assert_array_equal(stream.labels(rows, 0), stream.labels(rows, 2))


def test_right_angles_turn_back_exactly_and_small_angles_nearly() -> None:
    rows = np.arange(20)
    stream = stream_of(source="digits-images", scenario="rotated", levels="0,90,-90,360", max_per_class=20)
    X = stream.data.source.X[rows]
    np.testing.assert_array_equal(stream.inputs(rows, 0), X)
    np.testing.assert_array_equal(stream.inputs(rows, 3), X)
    np.testing.assert_array_equal(np.rot90(stream.inputs(rows, 1), -1, axes=(2, 3)), X)
    np.testing.assert_array_equal(np.rot90(stream.inputs(rows, 2), 1, axes=(2, 3)), X)
    # A smooth hill, turned by an angle next to 90 degrees, comes out next to its right-angled turn: same direction.
    u, v = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21))
    hill = np.exp(-4 * ((u - 0.3) ** 2 + v**2)).astype(np.float32)[None, None].repeat(4, 0)
    near = stream_of(source=(hill, [0, 0, 1, 1]), scenario="rotated", levels=[0, 89.9, 90], test_size=0.5)
    assert np.abs(near.inputs(rows[:4], 1) - near.inputs(rows[:4], 2))[..., 2:-2, 2:-2].max() < 0.01
    assert np.abs(near.inputs(rows[:4], 1) - hill).max() > 0.3


def test_blurring_grows_and_keeps_the_mean_of_a_flat_image() -> None:
    X = RNG.random((8, 1, 16, 16)).astype(np.float32)
    stream = stream_of(source=(X, [0] * 4 + [1] * 4), scenario="blurred", n_tasks=4)
    spread = [stream.inputs(np.arange(8), k).std() for k in range(4)]
    assert stream.tasks[0].level == 0 and spread == sorted(spread, reverse=True) and spread[3] < 0.5 * spread[0]
    flat = stream_of(source=(np.full((8, 1, 6, 6), 0.5), [0] * 4 + [1] * 4), scenario="blurred", n_tasks=3)
    np.testing.assert_allclose(flat.inputs(np.arange(8), 2), 0.5, rtol=1e-6)


def test_scale_uses_the_training_rows_of_the_first_task_alone() -> None:
    X, y = blobs(4, 12)
    X = X.astype(np.float32)
    stream = PROBLEM.load((X, y), n_tasks=2, epochs=1).stream(0)
    first = stream.tasks[stream.visits[0]].train
    mean, std = X[first].mean(0), X[first].std(0)
    std[2] = 1  # a constant column is only centred
    np.testing.assert_allclose(stream.inputs(np.arange(48), 1), (X - mean) / std, rtol=1e-4, atol=1e-5)
    # What other tasks and the test rows hold changes nothing.
    other = X.copy()
    other[np.setdiff1d(np.arange(48), first)] *= 100
    np.testing.assert_array_equal(
        PROBLEM.load((other, y), n_tasks=2).stream(0).inputs(first, 0), stream.inputs(first, 0)
    )


def test_scale_is_off_for_values_in_0_1_and_on_request() -> None:
    assert not PROBLEM.load("digits").stream(0).scaled and not PROBLEM.load("digits-images").stream(0).scaled
    assert PROBLEM.load("wine").stream(0).scaled and not PROBLEM.load("wine", scale="none").stream(0).scaled
    assert PROBLEM.load("digits", scale="standard").stream(0).scaled


# -- what learners are shown --------------------------------------------------------------------------------------


def shown(cls: type[Spy]) -> tuple[set[Any], int, set[Any]]:
    fits = {entry[1] for entry in cls.log if entry[0] == "fit"}
    ends = sum(entry[0] == "end" for entry in cls.log)
    asked = {entry[1] for entry in cls.log if entry[0] == "predict"}
    return fits, ends, asked


@pytest.mark.parametrize(
    ("identity", "fits", "ends", "asked"),
    [
        ("none", {None}, 0, {None}),
        ("boundary", {None}, 2, {None}),
        ("train", {0, 1}, 2, {None}),
        ("train+test", {0, 1}, 2, {0, 1, None}),
    ],
)
def test_identity_bounds_what_a_curious_learner_is_shown(identity: str, fits: set, ends: int, asked: set) -> None:
    outcome = run(Spy, identity=identity, n_tasks=2)
    assert shown(Spy) == (fits, ends, asked)
    # Only the last question, for accuracy_without_task, leaves the task out where it is shown.
    assert ("accuracy_without_task" in outcome.metrics) == (identity == "train+test")
    level = ("none", "boundary", "train", "test")[IDENTITY.index(identity)]
    assert outcome.details["shown"] == level == PROBLEM.told(Spy.sees, {"identity": identity})


class Router(Spy):
    """Takes every input for one of the second task."""

    def route(self, X: Any) -> np.ndarray:
        return np.ones(len(X), dtype=int)


def test_the_routed_accuracy_counts_rows_whose_task_and_label_are_right() -> None:
    outcome = run(Router, identity="train+test", n_tasks=2)
    right = outcome.details["accuracy_matrix"][-1]  # the spy answers alike, told or not
    assert outcome.metrics["routed_accuracy"] == pytest.approx(right[1] / 2)
    assert "routed_accuracy" not in run(Router, identity="train", n_tasks=2).metrics
    assert "routed_accuracy" not in run(Spy, identity="train+test", n_tasks=2).metrics


@pytest.mark.parametrize(
    ("cls", "fits", "ends", "asked"),
    [
        (Blind, {None}, 0, {None}),
        (BoundarySpy, {None}, 2, {None}),
        (TrainSpy, {0, 1}, 2, {None}),
        (TestSpy, {0, 1}, 2, {0, 1}),
    ],
)
def test_a_learner_is_shown_no_more_than_it_declares(cls: type[Spy], fits: set, ends: int, asked: set) -> None:
    run(cls, identity="train+test", n_tasks=2, blur=0.5)
    assert shown(cls) == (fits, ends, asked)


def test_a_blind_learner_cannot_read_the_task_from_the_order_of_rows_in_a_mixed_batch() -> None:
    run(Blind, n_tasks=2, blur=1.0, batch_size=8, source=blobs(2, 200), epochs=4)
    batches = [entry[3] for entry in Blind.log if entry[0] == "fit"]
    sorted_runs = [np.count_nonzero(np.diff(y)) <= 1 for y in batches if 3 <= y.sum() <= len(y) - 3]
    assert len(sorted_runs) > 20 and np.mean(sorted_runs) < 0.4


def test_learners_that_know_the_task_get_one_task_a_call() -> None:
    run(TrainSpy, n_tasks=2, blur=1.0, labels="local", source=blobs(4, 40))
    numbers = [(entry[1], set((entry[2][:, 1] // 10).tolist())) for entry in TrainSpy.log if entry[0] == "fit"]
    shown = [set().union(*(classes for told, classes in numbers if told == task)) for task in (0, 1)]
    assert [len(classes) for classes in shown] == [2, 2] and not shown[0] & shown[1]


@pytest.mark.parametrize("scenario", ["class", "permuted"])
def test_test_rows_never_reach_partial_fit(scenario: str) -> None:
    run(Blind, n_tasks=2, scenario=scenario, blur=0.3)
    trained = {tuple(np.sort(row)) for entry in Blind.log if entry[0] == "fit" for row in entry[2]}
    asked = {tuple(np.sort(row)) for entry in Blind.log if entry[0] == "predict" for row in entry[2]}
    assert trained and asked and not trained & asked


def test_refuses_learners_that_need_more_than_is_shown() -> None:
    def reason(cls: type, identity: str) -> str | None:
        data = PROBLEM.load(blobs(), identity=identity)
        return PROBLEM.refuses(Handed("spy", "", cls=cls), data)

    for cls, least in ((Blind, 0), (BoundarySpy, 1), (TrainSpy, 2), (TestSpy, 3)):
        assert [reason(cls, identity) is None for identity in IDENTITY] == [i >= least for i in range(4)]
    assert reason(TestSpy, "none") == "spy needs to be told the task at test, and identity='none' does not show it."
    assert "has no partial_fit" in str(reason(dict, "none"))
    with pytest.raises(ValueError, match="needs to be told"):
        run(TestSpy, identity="train")


# -- runs ---------------------------------------------------------------------------------------------------------


def test_nearest_means_learn_separated_classes_without_forgetting() -> None:
    outcome = run(Blind, n_tasks=4, batch_size=4, identity="none")
    assert outcome.metrics["accuracy"] == 1.0 and outcome.metrics["forgetting"] == 0.0
    assert math.isnan(outcome.metrics["forward_transfer"])
    matrix = outcome.details["accuracy_matrix"]
    assert matrix == [[1.0 if k <= s else 0.0 for k in range(4)] for s in range(4)]
    curve = outcome.details["curve"]
    assert Counter(point["task"] for point in curve) == {0: 4, 1: 4, 2: 4, 3: 4}
    assert [point["position"] for point in curve][3::4] == [1.0, 2.0, 3.0, 4.0]
    assert all(point["accuracy"] == 1.0 for point in curve)
    assert outcome.cost["labels"] == 36 and outcome.cost["train_seconds"] > 0 and outcome.cost["predict_seconds"] > 0
    assert not {"detection_delay", "experts", "accuracy_without_task"} & set(outcome.metrics)
    json.dumps(outcome.details, allow_nan=False)
    assert set(outcome.metrics) <= {metric.key for metric in PROBLEM.metrics}


def test_learners_told_the_task_are_not_asked_about_tasks_they_never_met() -> None:
    outcome = run(TestSpy, n_tasks=3, scenario="permuted")
    matrix = outcome.details["accuracy_matrix"]
    assert [[value is None for value in row] for row in matrix] == [
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]
    assert math.isnan(outcome.metrics["forward_transfer"]) and "accuracy_without_task" not in outcome.metrics


def test_forward_transfer_on_domains_starts_from_chance() -> None:
    X, y = blobs(2, 12)
    outcome = run(Blind, source=(X, y, np.array(["a", "b"] * 12)))
    assert outcome.metrics["forward_transfer"] == 0.5  # 1.0 on the second domain before it comes, and chance is 1/2


def test_detections_are_scored() -> None:
    outcome = run(Detective, n_tasks=2, batch_size=6)  # 18 rows, 2 epochs: 6 batches a task, the border at 6
    assert outcome.details["borders_true"] == [6] and outcome.details["borders_found"] == [0, 7, 2]
    assert outcome.metrics["detection_delay"] == 1.0 and outcome.metrics["false_alarms"] == 1.0
    assert outcome.metrics["missed_borders"] == 0.0 and outcome.metrics["experts"] == 2.0
    assert outcome.cost["stored_samples"] == 5.0


def test_settings_parameters_seed_and_preset_reach_the_constructor() -> None:
    outcome = run(Preset, seed=3, params={"width": 7}, batch_size=9)
    assert Preset.made_with == {"batch_size": 9, "width": 7, "seed": 3, "preset": "small"}
    assert outcome.details["preset"] == "small" and "Used the preset 'small'." in outcome.notes
    run(Preset, params={"preset": "paper"})
    assert Preset.made_with["preset"] == "paper" and Preset.made_with["width"] == 4
    run(Blind, seed=5)
    assert Blind.made_with == {"seed": 5}


def test_same_seed_same_outcome_and_progress_grows_to_one() -> None:
    shares: list[float] = []
    data = PROBLEM.load("iris", epochs=1)
    given = Handed("blind", "", cls=Blind)
    first = PROBLEM.run(given, data, 1, shares.append)
    second = PROBLEM.run(given, pickle.loads(pickle.dumps(data)), 1)
    assert first.metrics == pytest.approx(second.metrics, nan_ok=True) and first.details == second.details
    assert shares == sorted(shares) and shares[-1] == 1.0 and shares[0] > 0


# -- the data object ----------------------------------------------------------------------------------------------


def test_fingerprint_follows_content_and_options() -> None:
    base = PROBLEM.load(blobs())
    assert pickle.loads(pickle.dumps(base)).fingerprint == base.fingerprint == PROBLEM.load(blobs()).fingerprint
    others = [PROBLEM.load(blobs(), epochs=3), PROBLEM.load(blobs(), identity="none"), PROBLEM.load(blobs(4, 13))]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_description_is_json() -> None:
    facts = PROBLEM.load("iris", scenario="recurring", identity="train").describe()
    json.dumps(facts, allow_nan=False)
    assert facts["classes"] == {"0": 50, "1": 50, "2": 50} and facts["segments"] == [1, 2, 1]
    assert facts["notes"] == ["3 classes make 2 tasks."] and facts["options"]["scenario"] == "recurring"


def test_lists_may_be_texts_and_the_key_is_known() -> None:
    data = problems.get("task-stream").load("iris", classes_per_task="1,2", order="2,0,1", identity="train")
    assert data.options.classes_per_task == (1, 2) and data.options.order == ("2", "0", "1")
    defaults = {name: default for name, (default, _) in PROBLEM.options.items()}
    assert PROBLEM.load("digits", **defaults).fingerprint == PROBLEM.load("digits").fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenaro": "class"}, "no option 'scenaro'; did you mean 'scenario'?"),
        ({"scenario": "classes"}, "scenario must be one of 'class', 'permuted'"),
        ({"identity": "all"}, "identity must be one of 'none', 'boundary', 'train', 'train"),
        ({"n_tasks": 1}, "n_tasks must be an integer of at least 2, got 1"),
        ({"n_tasks": 11}, "digits: 10 classes cannot make 11 tasks"),
        ({"n_tasks": 2.5}, "n_tasks must be an integer of at least 2, got 2.5"),
        ({"epochs": "many"}, "epochs must be an integer of at least 1, got 'many'"),
        ({"test_size": 1}, "test_size must be a number above 0 and below 1, got 1"),
        ({"blur": -0.1}, "blur must be a number from 0 to 1"),
        ({"scenario": "rotated"}, "needs images, .*digits-images are the same digits"),
        ({"scenario": "domain"}, "needs the task of each row"),
        ({"scenario": "recurring", "order": "1,6"}, "order names '6', which is not there"),
        ({"scenario": "recurring", "order": "1,1,2"}, "twice in a row"),
        ({"scenario": "recurring", "order": "2"}, "at least 2 different tasks"),
        ({"order": "1,2,1"}, "names a class twice; scenario 'recurring' brings tasks back"),
        ({"classes_per_task": "4,4"}, "adds up to 8, not to 10"),
        ({"n_tasks": 10}, "10 of 10 tasks hold a single class"),
        ({"classes_per_task": "1,9"}, "1 of 2 tasks hold a single class"),
        ({"classes_per_task": "1,9", "identity": "none", "labels": "local"}, "1 of 2 tasks hold a single class"),
        ({"scenario": "recurring", "n_tasks": 6}, "2 of 6 tasks hold a single class"),
        ({"classes_per_task": 2, "scenario": "permuted"}, "classes_per_task is for"),
        ({"levels": "0,1"}, "levels is for the scenarios rotated and blurred"),
    ],
)
def test_bad_options_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadData, match=message) as caught:
        PROBLEM.load("digits", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["breast-cancer", "iris"])
def test_too_few_classes_for_two_a_task_make_a_domain_incremental_stream_and_say_so(name: str) -> None:
    data = PROBLEM.load(name)
    assert data.options.scenario == "permuted" and data.options.n_tasks == 5
    assert "cannot make tasks of 2 classes" in data.notes[0]
    assert min(len(task.classes) for task in data.stream(0).tasks) >= 2
    with pytest.raises(BadData, match="2 tasks hold a single class" if name != "iris" else "1 of 2 tasks"):
        PROBLEM.load(name, scenario="class", n_tasks=2)
    assert PROBLEM.load(name, scenario="class", n_tasks=2, identity="train").options.n_tasks == 2


def test_domains_of_a_single_class_are_left_out_where_the_task_may_be_told() -> None:
    X, y = blobs(2, 24)
    site = np.where(y == 0, np.tile(["a", "b", "c"], 16), np.tile(["a", "b"], 24))
    data = PROBLEM.load((X, y, site))
    assert data.notes == ("Tasks left out, as they hold a single class: c.",)
    assert [task.name for task in data.stream(0).tasks] == ["a", "b"] and data.options.n_tasks == 2
    assert PROBLEM.load((X, y, site), identity="train").options.n_tasks == 3
    with pytest.raises(BadData, match="1 of 2 tasks hold a single class"):
        PROBLEM.load((X, y, site), order="a,c,a")


@pytest.mark.parametrize(
    ("options", "repeats"),
    [({}, False), ({"blur": 0.5}, True), ({"scenario": "permuted"}, True), ({"labels": "local"}, True),
     ({"scenario": "recurring"}, True)],
)  # fmt: skip
def test_learners_of_new_classes_alone_are_left_out_of_streams_that_repeat_them(options: Any, repeats: bool) -> None:
    data = PROBLEM.load(blobs(), n_tasks=2, **options)
    assert data.stream(0).facts.repeats == repeats
    prd = Entrant("prd", "anytask.continual:PRD")
    assert ("classes come back" in str(PROBLEM.refuses(prd, data))) == repeats
    allowed = Entrant("prd", "anytask.continual:PRD", {"repeated_classes": "allow"})
    assert PROBLEM.refuses(allowed, data) is None


def test_systems_that_cannot_take_part_are_left_out_before_anything_runs() -> None:
    X, y = blobs(2, 12)
    given = {
        "source": (X, y, np.tile(["a", "b"], 12)),
        "seeds": 1,
        "baselines": False,
        "epochs": 1,
        "backend": "sequential",
    }
    result = compare("task-stream", given.pop("source"), ["prd", Entrant("means", MEANS)], **given)
    assert [name for name, _ in result.left_out] == ["prd"] and not result.failed
    with pytest.raises(ValueError, match="prd cannot take part: classes come back"):
        compare("task-stream", (X, y), ["prd"], scenario="permuted", baselines=False)


def test_domains_that_cannot_be_tested_are_refused() -> None:
    X, y = blobs(2, 2)
    with pytest.raises(BadData, match="holds one task only"):
        PROBLEM.load((X, y, ["a"] * 4))
    with pytest.raises(BadData, match="no row of the task 'b' is left to test on"):
        PROBLEM.load((X, y, ["a", "a", "a", "b"]))


def test_streams_from_disk_read_rows_when_they_are_shown(tmp_path: Any) -> None:
    X, y = blobs()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    on_disk, in_memory = PROBLEM.load(tmp_path / "X.npy"), PROBLEM.load((X, y))
    assert not isinstance(on_disk.source.X, np.ndarray)
    assert on_disk.source.fingerprint == in_memory.source.fingerprint == load_labelled((X, y)).fingerprint
    rows = np.array([40, 3, 17])
    np.testing.assert_array_equal(on_disk.stream(0).inputs(rows, 0), in_memory.stream(0).inputs(rows, 0))


# -- baselines and figures ----------------------------------------------------------------------------------------


def test_baselines_are_named() -> None:
    baselines = PROBLEM.baselines(PROBLEM.load(blobs()))
    assert [b.name for b in baselines] == [
        "fine-tuning", "joint-training", "replay", "lwf", "ewc", "mas", "nearest-mean",
    ]  # fmt: skip
    assert all(b.role == "baseline" and b.entry.startswith("anytask.continual:") for b in baselines)


def finished(n_seeds: int, n_entrants: int, status: str = "done") -> list[Any]:
    runs = []
    for e in range(n_entrants):
        for seed in range(n_seeds):
            outcome = run(Detective if e == 0 else TestSpy, seed=seed, n_tasks=3, batch_size=6, source=blobs(6))
            runs.append(
                SimpleNamespace(
                    entrant_name=f"learner {e}", role="system", seed=seed, metrics=outcome.metrics,
                    details=json.loads(json.dumps(outcome.details)), cost=outcome.cost, status=status,
                )
            )  # fmt: skip
    return runs


def test_figures_show_every_finished_entrant_in_one_color() -> None:
    runs = finished(n_seeds=2, n_entrants=3)
    runs.append(
        SimpleNamespace(entrant_name="broken", role="system", seed=0, metrics={}, details={}, cost={}, status="failed")
    )
    data = PROBLEM.load(blobs(6), n_tasks=3, blur=0.2)
    figures = PROBLEM.figures(data, runs)
    assert [title for title, _, _ in figures] == [
        "Accuracy on each task after each task", "Accuracy over the stream", "Forgetting",
    ]  # fmt: skip
    matrices, curves, forgetting = (figure for _, _, figure in figures)
    assert [trace.type for trace in matrices.data] == ["heatmap"] * 3
    expected = np.mean([np.array(r.details["accuracy_matrix"], float) for r in runs[:2]], axis=0)
    np.testing.assert_allclose(np.array(matrices.data[0].z, float), expected)
    names = [f"learner {e}" for e in range(3)]
    lines = {trace.name: trace.line.color for trace in curves.data if trace.name}
    assert lines == {name: color_of(name, [*names, "broken"]) for name in names}
    assert {trace.y[0] for trace in forgetting.data if trace.type == "bar"} == set(names)
    for _, caption, figure in figures:
        assert caption.endswith(".") and json.loads(figure.to_json())
    assert all(figure.layout.xaxis.title.text and figure.layout.yaxis.title.text for _, _, figure in figures)


def test_names_stay_text_in_figures() -> None:
    runs = finished(n_seeds=1, n_entrants=1)
    for one in runs:
        one.entrant_name = "<b>bold</b>"
    for _, _, figure in PROBLEM.figures(PROBLEM.load(blobs(6), n_tasks=3), runs):
        shown = figure.to_json().replace("\\u003c", "<")
        assert "<b>bold" not in shown.replace('"legendgroup":"<b>bold', "") and "&lt;b&gt;bold" in shown


def test_figures_of_one_seed_and_of_nothing() -> None:
    data = PROBLEM.load(blobs(6), n_tasks=3)
    assert len(PROBLEM.figures(data, finished(1, 1))) == 3
    assert PROBLEM.figures(data, finished(1, 1, status="failed")) == []


def test_colors_differ_and_stay() -> None:
    names = [f"n{i}" for i in range(30)]
    colors = [color_of(name, names) for name in names]
    assert len(set(colors)) == 30 and colors[: len(PALETTE)] == list(PALETTE)
    with pytest.raises(ValueError, match="is not one of"):
        color_of("x", names)


def test_a_stream_without_a_curve_has_the_same_metrics_and_no_curve_figure():
    problem = TaskStream()
    entrant = Entrant("mean", "anytask.continual:NearestClassMean")
    outcomes = []
    for points in (0, 4):
        data = problem.load("digits", n_tasks=2, epochs=1, max_per_class=8, curve_points=points)
        outcomes.append(problem.run(entrant, data, 0))
    assert outcomes[0].details["curve"] == []
    assert outcomes[0].metrics["accuracy"] == outcomes[1].metrics["accuracy"]
    runs = [
        SimpleNamespace(entrant_name="mean", role="baseline", seed=0, status="done", **vars(outcome))
        for outcome in outcomes
    ]
    titles = [[title for title, _, _ in problem.figures(data, [run])] for run in runs]
    assert "Accuracy over the stream" not in titles[0] and "Accuracy over the stream" in titles[1]
