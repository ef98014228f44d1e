"""The evolutionary search: its steps by their formulas, its budget, and the scores that survive a kill."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.lm.protocol import BadNumber
from anytask.lm.word_tokens import WordTokens
from anytask.prompts.base import Candidate
from anytask.prompts.baselines import FullPrompt, GreedyPruning, RandomMasks
from anytask.prompts.parts.prunable import PrunablePrompt
from anytask.prompts.parts.search import Scores
from anytask.prompts.promptquine import PromptQuine, TAPruning
from anytask.prompts.promptquine.evolution import Evolution, delete_some, survivors, tournament

EXAMPLES = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]


def _member(score, name="x"):
    return Candidate(name, (0,), score)


def _prompt(n):
    return " ".join([*map(str, range(n)), "{text}"])


def _odd(prompts, examples):
    """Words with odd numbers help, even ones harm."""
    return [float(sum(1 if int(w) % 2 else -1 for w in p.split() if w.isdigit())) for p in prompts]


def _search(n, evaluator=_odd, cls=PromptQuine, state_file=None, **params):
    searcher = cls(_prompt(n), evaluator=evaluator, **params)
    return searcher.search(WordTokens(), EXAMPLES, state_file=state_file)


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
    assert [m.score for m in kept] == [float(i) for i in range(49, 19, -1)]


def test_with_twenty_children_thirty_old_ones_compete():
    old = [_member(float(i), "old") for i in range(40)]
    new = [_member(0.5, "new")] * 20
    kept = survivors(old, new, window=50, size=30)
    assert [m.score for m in kept] == [float(i) for i in range(39, 9, -1)]  # the last 50 hold old members 10..39


def _halving(values):
    """Return an evolution with halving over "a b {text}", its scores, and what it asked."""
    asked = []

    def evaluate(prompts, examples):
        asked.append((examples[0]["text"], [p.split()[0] for p in prompts]))
        return [values[p.split()[0], examples[0]["text"]] for p in prompts]

    scores = Scores(evaluate, EXAMPLES, 100, None, "")
    units = PrunablePrompt("a b {text}", WordTokens(), ("text",))
    search = PromptQuine("a b {text}", evaluator=evaluate, halving=True)
    return Evolution(search, units, scores), scores, asked


def test_halving_scores_the_second_half_only_from_the_minimum_on_and_counts_halves():
    evolution, scores, asked = _halving({("a", "a"): 0.4, ("b", "a"): 0.6, ("b", "b"): 0.7})
    members = evolution.score([(0, 2), (1, 2)], minimum=0.5)
    assert [m.score for m in members] == pytest.approx([0.4, 0.65])
    assert asked == [("a", ["a", "b"]), ("b", ["b"])]
    assert scores.spent == 1.5


def test_halving_scores_the_rest_of_a_known_child_once_it_is_worthy():
    evolution, _, _ = _halving({("b", "a"): 0.6, ("b", "b"): 0.7})
    assert evolution.score([(1, 2)], minimum=0.9)[0].score == 0.6
    assert evolution.score([(1, 2)], minimum=0.5)[0].score == pytest.approx(0.65)
    assert evolution.score([(1, 2)], minimum=0.9)[0].score == pytest.approx(0.65)
    assert [m.score for m in evolution.history] == pytest.approx([0.6, 0.65])


@pytest.mark.parametrize("algorithm", ["gga", "ssga"])
@pytest.mark.parametrize("halving", [False, True])
def test_scoring_one_by_one_gives_the_same_search(algorithm, halving):
    def single(prompts, examples):
        return [_odd([prompt], examples)[0] for prompt in prompts]

    a, b = (_search(20, e, min_length=8, algorithm=algorithm, halving=halving, seed=4) for e in (_odd, single))
    assert a == b


def test_a_text_is_paid_for_once():
    counts = {}

    def evaluate(prompts, examples):
        for prompt in prompts:
            counts[prompt] = counts.get(prompt, 0) + 1
        return _odd(prompts, examples)

    result = _search(24, evaluate, init="random", seed=1)
    assert set(counts.values()) == {1}
    assert result.evaluations == len(counts) == len(result.trace)


@pytest.mark.parametrize(
    ("cls", "params"),
    [
        *((PromptQuine, {"min_length": 1, **p}) for p in ({}, {"halving": True}, {"algorithm": "ssga"})),
        *((cls, {}) for cls in (TAPruning, RandomMasks, GreedyPruning)),
    ],
)
def test_no_search_scores_more_than_its_budget(cls, params):
    asked = 0.0

    def evaluate(prompts, examples):
        nonlocal asked
        asked += len(prompts) * len(examples) / len(EXAMPLES)
        return _odd(prompts, examples)

    result = _search(30, evaluate, cls, budget=40, **params)
    assert result.evaluations == asked <= 40
    assert asked > 39 or cls is TAPruning


def test_a_search_ends_where_nothing_can_be_deleted():
    assert _search(1, min_length=0).evaluations == 1  # one free position cannot go


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.sampled_from(["gga", "ssga"]), st.booleans())
def test_a_search_goes_on_from_its_state_file_to_the_same_result(tmp_path_factory, seed, stop, algorithm, halving):
    params = {
        "min_length": 6,
        "algorithm": algorithm,
        "halving": halving,
        "seed": seed,
        "population": 8,
        "offspring": 12,
        "budget": 120,
    }
    folder, calls, paid, dying = tmp_path_factory.mktemp("state"), 0, 0, False
    path, dead = folder / "s.json", folder / "dead.json"

    def evaluate(prompts, examples):
        nonlocal calls, paid
        calls += dying
        paid += len(prompts)
        if calls == stop and path.exists():
            shutil.copy(path, dead)  # what a process killed now leaves behind
        if dying and calls > stop:
            raise KeyboardInterrupt
        return _odd(prompts, examples)

    whole = _search(20, evaluate, **params)
    full_price, dying = paid, True
    with pytest.raises(KeyboardInterrupt):
        _search(20, evaluate, state_file=path, **params)
    dying = False
    for file in (path, dead):
        paid = 0
        assert _search(20, evaluate, state_file=file, **params) == whole
        assert paid < full_price or file is dead


@pytest.mark.parametrize("cls", [PromptQuine, TAPruning, RandomMasks])
def test_a_foreign_or_damaged_state_is_refused(cls, tmp_path):
    path = tmp_path / "s.json"
    _search(20, cls=cls, budget=60, state_file=path)
    with pytest.raises(ValueError, match="another search"):
        _search(21, cls=cls, budget=60, state_file=path)
    for content in ("{", "[]", json.dumps({"fingerprint": ""}), json.dumps({"fingerprint": "", "scores": {}})):
        path.write_text(content)
        with pytest.raises(ValueError, match="damaged"):
            _search(20, cls=cls, budget=60, state_file=path)


@pytest.mark.parametrize("cls", [PromptQuine, TAPruning, RandomMasks, GreedyPruning])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), BadNumber])
def test_a_score_that_is_not_finite_discards_one_prompt_and_is_said(cls, wrong, tmp_path):
    def evaluate(prompts, examples):
        if wrong is BadNumber and any("3" not in p.split() for p in prompts):
            raise BadNumber("a log-probability is NaN")
        return [wrong if "3" not in p.split() else v for p, v in zip(prompts, _odd(prompts, examples))]

    params = {"budget": 80, "state_file": tmp_path / "s.json"} | ({"min_length": 3} if cls is PromptQuine else {})
    for _ in range(2):  # the second time from the file
        with pytest.warns(UserWarning, match="NaN or infinite, and were left out"):
            result = _search(12, evaluate, cls, **params)
        assert result.discarded >= 1
        assert "3" in result.prompt.split()
        assert all(np.isfinite(c.score) and "3" in c.text.split() for c in result.trace)


@pytest.mark.parametrize("cls", [PromptQuine, TAPruning, RandomMasks, GreedyPruning, FullPrompt])
def test_a_search_without_a_finite_score_ends_with_the_cause(cls):
    def broken(prompts, examples):
        raise BadNumber("a score of 'lm' is NaN: its weights are damaged")

    with pytest.raises(FloatingPointError, match=r"no prompt could be scored: .* its weights are damaged"):
        _search(8, broken, cls)
    with pytest.raises(FloatingPointError, match="no prompt could be scored: their scores are NaN"):
        _search(8, lambda prompts, examples: [float("nan")] * len(prompts), cls)


def test_scores_that_tell_nothing_apart_are_said():
    with pytest.warns(UserWarning, match="all prompts scored 0.5"):
        _search(8, lambda prompts, examples: [0.5] * len(prompts), min_length=3)
