"""Episodes: places of steps, windows that stay inside episodes, selection, joining, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.datasets.episodes import Episode, Episodes


def make(lengths=(3, 1, 2), **attributes):
    start, parts = 0, []
    for i, n in enumerate(lengths):
        x = np.arange(start, start + n + 1, dtype=float)[:, None]
        facts = {k: v[i] for k, v in attributes.items()}
        parts.append(Episode(x, x[:-1] * 10, rewards=x[:-1, 0], terminated=i % 2 == 0, attributes=facts))
        start += 100
    return Episodes.from_list(parts)


def test_steps_lie_one_episode_after_another():
    e = make()
    assert (len(e), e.steps, e.action_dim, e.keys) == (3, 6, 1, ("observation",))
    assert e.starts.tolist() == [0, 3, 4] and e.ends.tolist() == [2, 3, 5]
    assert e.episode_of.tolist() == [0, 0, 0, 1, 2, 2]
    assert e.terminated.tolist() == [False, False, True, False, False, True]
    assert e.truncated.tolist() == [False, False, False, True, False, False]
    assert e.returns.tolist() == [3.0, 100.0, 401.0]


def test_next_observations_take_the_last_one_from_the_end_of_the_episode():
    e = make()
    assert e.next_observations().ravel().tolist() == [1, 2, 3, 101, 201, 202]
    assert e.next_observations(rows=np.array([2, 0])).ravel().tolist() == [3, 1]


def test_windows_repeat_the_border_and_say_so():
    w = make().windows(3, before=1)
    assert w.rows.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 3], [4, 4, 5], [4, 5, 5]]
    assert w.valid.tolist() == [
        [False, True, True], [True, True, True], [True, True, False], [False, True, False],
        [False, True, True], [True, True, False],
    ]  # fmt: skip
    assert make().windows(3, pad=False).rows.tolist() == [[0, 1, 2]]
    with pytest.raises(ValueError, match="length"):
        make().windows(0)
    with pytest.raises(ValueError, match="before"):
        make().windows(2, before=2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(1, 9), st.data())
def test_a_window_never_leaves_its_episode(lengths, length, data):
    e = make(lengths)
    before = data.draw(st.integers(0, length - 1))
    rows, valid = e.windows(length, before=before)
    assert (e.episode_of[rows] == e.episode_of[:, None]).all()
    assert (rows[:, before] == np.arange(e.steps)).all() and valid[:, before].all()
    steps = np.diff(rows, axis=1)
    assert ((steps == 1) | ~(valid[:, 1:] & valid[:, :-1])).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.randoms())
def test_episodes_come_back_from_any_selection(lengths, random):
    e = make(lengths, task=[str(i) for i in range(len(lengths))])
    order = list(range(len(e)))
    random.shuffle(order)
    back = e.select(order).select(np.argsort(order))
    assert back.fingerprint == e.fingerprint
    parts = Episodes.concatenate([e.select([i]) for i in range(len(e))])
    assert parts.fingerprint == e.fingerprint


def test_facts_per_episode_are_selected_and_facts_on_all_are_kept():
    e = dataclasses.replace(make(task=["a", "b", "a"]), attributes={"task": np.array(["a", "b", "a"]), "env_id": "X"})
    chosen = e.select(e.attributes["task"] == "a")
    assert chosen.lengths.tolist() == [3, 2] and chosen.attributes["env_id"] == "X"
    assert chosen.attributes["task"].tolist() == ["a", "a"]
    assert e[1].attributes == {"task": "b", "env_id": "X"}
    assert [len(one) for one in e] == [3, 1, 2]


def test_missing_facts_are_nan_or_empty_when_data_sets_are_joined():
    a, b = make((2,), success=[1.0]), make((1, 1))
    both = Episodes.concatenate([a, b])
    assert both.attributes["success"][0] == 1.0 and np.isnan(both.attributes["success"][1:]).all()
    c = Episodes.concatenate([make((2,), task=["x"]), b])
    assert c.attributes["task"].tolist() == ["x", "", ""]


def test_numbers_become_float32_and_pictures_and_choices_stay_whole():
    image = np.zeros((3, 4, 4, 3), np.uint8)
    e = Episodes.from_list([Episode({"camera": image, "x": torch.zeros(3, 2, dtype=torch.float64)}, [0, 1])])
    assert e.observations["camera"].dtype == np.uint8 and e.is_image("camera") and not e.is_image("x")
    assert e.observations["x"].dtype == np.float32 and e.actions.dtype == np.int64 and e.actions.shape == (2, 1)


def test_statistics_leave_pictures_out():
    image = np.zeros((3, 4, 4, 3), np.uint8)
    e = Episodes.from_list([Episode({"camera": image, "x": [[0.0], [2.0], [9.0]]}, [[1.0], [3.0]])])
    s = e.statistics()
    assert set(s) == {"x", "action"}
    assert (s["x"].mean, s["x"].std, s["x"].low, s["x"].high) == (1.0, 1.0, 0.0, 2.0)
    assert (s["action"].mean, s["action"].std) == (2.0, 1.0)


def test_any_change_changes_the_fingerprint():
    e = make()
    for name in ("actions", "rewards"):
        changed = getattr(e, name).copy()
        changed[4] += 1
        assert dataclasses.replace(e, **{name: changed}).fingerprint != e.fingerprint
    assert dataclasses.replace(e, attributes={"a": 1}).fingerprint != e.fingerprint
    assert make().fingerprint == e.fingerprint


def test_a_number_that_is_not_finite_is_named_by_episode_and_step():
    x = np.zeros((5, 2))
    x[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"episode 1: observations 'observation' .* step 2 is not"):
        Episodes.from_list([Episode(np.zeros((2, 2)), np.zeros((1, 1))), Episode(x, np.zeros((4, 1)))])
    with pytest.raises(ValueError, match=r"episode 0: actions .* step 0 is not"):
        Episodes.from_list([Episode(np.zeros((2, 2)), [[np.inf]])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": np.zeros(5)}, "rewards has the shape"),
        ({"lengths": np.array([3, 0, 3])}, "episode 1 has no steps"),
        ({"lengths": np.array([], int)}, "at least one episode"),
        ({"observations": {"observation": np.zeros((5, 1))}}, "5 rows"),
        ({"final_observations": {"observation": np.zeros((2, 1))}}, "final_observations"),
        ({"final_observations": {"other": np.zeros((3, 1))}}, "final_observations has the keys"),
        ({"terminated": np.array([True] + [False] * 5)}, "step 0 of episode 0 is marked as an end"),
        ({"terminated": np.full(6, 2)}, "booleans"),
        ({"observations": {}, "final_observations": {}}, "observation key"),
        ({"actions": np.zeros((6, 1, 1))}, "actions must have the shape"),
        ({"actions": np.zeros((6, 0))}, "actions must have the shape"),
        ({"final_observations": {"observation": np.full((3, 1), np.nan)}}, "what was seen after episode 0 is not"),
        ({"rewards": np.full(6, 1e300)}, "rewards must be finite numbers, and step 0 of episode 0"),
        ({"rewards": np.ma.masked_equal(np.arange(6.0), 3)}, "some are masked"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make(), **change)


def test_what_was_seen_last_may_be_given_apart():
    whole = Episodes.from_list([Episode([[0.0], [1.0], [2.0]], [[1.0], [1.0]])])
    apart = Episodes.from_list(
        [Episode([[0.0], [1.0]], [[1.0], [1.0]], final_observations={"observation": np.array([2.0])})]
    )
    assert apart.fingerprint == whole.fingerprint
    with pytest.raises(ValueError, match=r"episode 0: final observations \['b'\] are of no key"):
        Episodes.from_list([Episode([[0.0]], [[1.0]], final_observations={"b": [2.0]})])


def test_other_mistakes_are_named():
    e = make()
    with pytest.raises(TypeError, match="episode 0: object of type 'float' has no len"):
        Episodes.from_list([Episode([[0.0]], 1.0)])
    with pytest.raises(ValueError, match="2 actions and 5 rows"):
        Episodes.from_list([Episode(np.zeros((5, 1)), np.zeros((2, 1)))])
    with pytest.raises(ValueError, match=r"episode 1 has observations \['b'\] instead of .* in episode 0"):
        Episodes.from_list([Episode([[0.0]], [[0.0]]), Episode({"b": [[0.0]]}, [[0.0]])])
    with pytest.raises(ValueError, match="episode 1: there are no steps"):
        Episodes.from_list([Episode([[0.0]], [[0.0]]), Episode([[0.0]], np.zeros((0, 1)))])
    with pytest.raises(ValueError, match="episode 1 has the action dimension 2 instead of 1"):
        Episodes.from_list([Episode([[0.0]], [[0.0]]), Episode([[0.0]], [[0.0, 1.0]])])
    with pytest.raises(TypeError, match="lengths must be whole numbers"):
        dataclasses.replace(e, lengths=np.array([3.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="mask"):
        e.select(np.array([True]))
    with pytest.raises(ValueError, match="no episode"):
        e.select([])
    with pytest.raises(ValueError, match="numbered 0 to 2"):
        e.select([3])
    with pytest.raises(IndexError):
        e[3]
    with pytest.raises(TypeError, match="numbers"):
        Episodes.from_list([Episode([["a"]], [[0.0]])])
    with pytest.raises(ValueError, match="at least one"):
        Episodes.from_list([])
    with pytest.raises(ValueError, match="data set 1 has observations"):
        Episodes.concatenate([e, Episodes.from_list([Episode({"b": [[0.0]]}, [[0.0]])])])
