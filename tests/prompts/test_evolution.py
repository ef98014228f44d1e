"""The evolutionary search: its steps by their formulas, and the state that survives a kill."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.prompts.promptquine.evolution import Individual, MaskEvolution, delete_some, survivors, tournament


def _member(fitness, name="x"):
    return Individual((0,), name, fitness)


def _render(kept):
    return " ".join(map(str, kept))


def _length(text):
    return len(text.split())


def _odd(texts, half):
    return [float(sum(1 if int(w) % 2 else -1 for w in text.split())) for text in texts]


def test_tournament_finds_the_single_best_with_probability_1_minus_29_30_to_the_6():
    rng = np.random.default_rng(0)
    fitness = [0.0] * 30
    fitness[17] = 1.0
    wins = np.mean([tournament(rng, fitness, 6) == 17 for _ in range(20_000)])
    expected = 1 - (29 / 30) ** 6  # 0.18406
    assert expected == pytest.approx(0.18406, abs=1e-5)
    assert wins == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 20_000))


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(0, 40))
def test_a_child_is_its_parent_less_one_to_four_free_positions(seed, n_free, n_fixed):
    n = n_free + n_fixed
    rng = np.random.default_rng(seed)
    fixed = frozenset(rng.choice(n, size=n_fixed, replace=False).tolist())
    child = delete_some(rng, tuple(range(n)), fixed, (1, 2, 3, 4))
    if child is None:
        assert n_free <= 4  # only then can r >= free happen ten times
    else:
        assert 1 <= n - len(child) <= 4
        assert list(child) == sorted(set(child))
        assert fixed <= set(child)
        assert len(child) > n_fixed  # one free position is always left


def test_a_parent_with_one_free_position_has_no_child():
    assert delete_some(np.random.default_rng(0), (0, 1), frozenset({0}), (1, 2)) is None


def test_with_fifty_children_no_parent_survives():
    old = [_member(10.0, "old")] * 30
    new = [_member(float(i)) for i in range(50)]
    kept = survivors(old, new, window=50, size=30)
    assert [m.fitness for m in kept] == [float(i) for i in range(49, 19, -1)]


def test_with_twenty_children_thirty_old_ones_compete():
    old = [_member(float(i), "old") for i in range(40)]
    new = [_member(0.5, "new")] * 20
    kept = survivors(old, new, window=50, size=30)
    assert [m.fitness for m in kept] == [float(i) for i in range(39, 9, -1)]  # the last 50 hold old members 10..39


def test_halving_scores_the_second_half_only_from_the_minimum_on_and_counts_halves():
    asked = []

    def fitness(texts, half):
        asked.append((half, list(texts)))
        return [{"a": 0.4, "b": 0.6}[t] if half == 0 else 0.7 for t in texts]

    search = MaskEvolution(2, (), lambda kept: "ab"[kept[0]], len, halving=True)
    search._begin(lambda texts, half: [0.5] * len(texts))
    search._cache.clear()
    search.evaluations_, search.history_ = 0.0, []
    members = search._score([(0,), (1,)], fitness, minimum=0.5)
    assert [m.fitness for m in members] == pytest.approx([0.4, 0.65])
    assert asked == [(0, ["a", "b"]), (1, ["b"])]
    assert search.evaluations_ == 1.5


def test_halving_scores_the_rest_of_a_cached_child_once_it_is_worthy():
    search = MaskEvolution(2, (), lambda kept: "ab"[kept[0]], len, halving=True)
    search._begin(lambda texts, half: [0.5] * len(texts))
    search._score([(1,)], lambda texts, half: [0.6], minimum=0.9)
    assert search._score([(1,)], lambda texts, half: [0.7], minimum=0.5)[0].fitness == pytest.approx(0.65)


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("halving", [False, True])
def test_scoring_one_by_one_gives_the_same_population(steady, halving):
    def single(texts, half):
        return [_odd([text], half)[0] for text in texts]

    runs = []
    for fitness in (_odd, single):
        search = MaskEvolution(20, {3}, _render, _length, min_length=8, steady=steady, halving=halving, seed=4)
        search.run(fitness)
        runs.append((search.population_, search.history_, search.evaluations_))
    assert runs[0] == runs[1]


def test_every_member_keeps_the_fixed_positions_and_a_text_is_paid_for_once():
    counts = {}

    def fitness(texts, half):
        for text in texts:
            counts[text] = counts.get(text, 0) + 1
        return _odd(texts, half)

    search = MaskEvolution(24, {2, 5}, _render, _length, init="random", seed=1)
    search.run(fitness)
    assert all({2, 5} <= set(m.kept) and list(m.kept) == sorted(m.kept) for m in search.history_)
    assert set(counts.values()) == {1}
    assert search.evaluations_ == len(counts) == len(search.history_)


def test_the_search_ends_at_the_budget_and_where_nothing_can_be_deleted():
    search = MaskEvolution(30, (), _render, _length, budget=60, min_length=1)
    search.run(_odd)
    assert 60 <= search.evaluations_ < 60 + 50
    search = MaskEvolution(3, {0, 1}, _render, _length, min_length=0)
    search.run(_odd)
    assert search.evaluations_ == 1  # the full sequence: one free position cannot go


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.booleans(), st.booleans())
def test_an_interrupted_search_ends_like_an_uninterrupted_one(tmp_path_factory, seed, stop, steady, halving):
    def make():
        return MaskEvolution(20, {0}, _render, _length, min_length=6, steady=steady, halving=halving, seed=seed)

    whole = make()
    whole.run(_odd)
    path = tmp_path_factory.mktemp("state") / "s.json"
    calls = 0

    def failing(texts, half):
        nonlocal calls
        calls += 1
        if calls > stop:
            raise KeyboardInterrupt
        return _odd(texts, half)

    with pytest.raises(KeyboardInterrupt):
        make().run(failing, state_file=path)
    second = make()
    second.run(_odd, state_file=path)
    assert (second.history_, second.population_) == (whole.history_, whole.population_)
    assert (second.evaluations_, second.generations_) == (whole.evaluations_, whole.generations_)


_SCRIPT = """
import json, os, signal, sys
from anytask.prompts.promptquine.evolution import MaskEvolution
path, kill = sys.argv[1], sys.argv[2:]
def fitness(texts, half):
    if kill and os.path.exists(path) and json.load(open(path))["generations"] >= 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(sum(1 if int(w) % 2 else -1 for w in t.split())) for t in texts]
search = MaskEvolution(40, {0}, lambda k: " ".join(map(str, k)), lambda t: len(t.split()), seed=3)
search.run(fitness, state_file=path)
print(search.evaluations_, max(search.history_, key=lambda m: m.fitness).text)
"""


def test_kill_9_loses_nothing_but_the_running_generation(tmp_path):
    path = tmp_path / "state.json"
    run = [sys.executable, "-c", _SCRIPT]
    assert subprocess.run([*run, str(path), "kill"], check=False).returncode == -signal.SIGKILL
    killed_at = json.loads(path.read_text())["generations"]
    resumed = subprocess.run([*run, str(path)], capture_output=True, text=True, check=True).stdout
    whole = subprocess.run([*run, str(tmp_path / "other.json")], capture_output=True, text=True, check=True).stdout
    assert resumed == whole
    assert 2 == killed_at < json.loads(path.read_text())["generations"]


def test_a_foreign_or_damaged_state_is_refused(tmp_path):
    path = tmp_path / "s.json"
    MaskEvolution(20, (), _render, _length).run(_odd, state_file=path)
    with pytest.raises(ValueError, match="another search"):
        MaskEvolution(20, (), _render, _length, seed=1).run(_odd, state_file=path)
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        MaskEvolution(20, (), _render, _length).run(_odd, state_file=path)


def test_a_fitness_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        MaskEvolution(5, (), _render, _length).run(lambda texts, half: [float("nan")] * len(texts))
