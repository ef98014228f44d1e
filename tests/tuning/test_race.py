"""The mathematics of the choice: smoothing, dropping, and accuracies that a search cannot flatter."""

import numpy as np
import pytest

from anytask.lm.protocol import BudgetExceeded
from anytask.tuning.grid import LIKELY, Point, grid
from anytask.tuning.race import behind, choose, hits_of, nested_hits, order_of, race, rounds_of, smoothed_hits

POINTS = grid([0, 1, 2, 4, 8], descriptions=["", "labels"], words=[""], calibrate=True, chat=[False])


def test_a_smoothed_hit_is_the_normal_distribution_of_margin_over_bandwidth():
    margin = np.array([1.0, -1.0, 3.0, -3.0])  # spread sqrt(5), bandwidth 2 sqrt(5) 4^-0.2 = 3.389
    expected = [0.6159, 0.3841, 0.8122, 0.1878]
    assert smoothed_hits(np.sign(margin) > 0, margin) == pytest.approx(expected, abs=1e-3)


def test_without_margins_hits_are_the_answers():
    correct = np.array([1.0, 0.0, np.nan])
    np.testing.assert_array_equal(smoothed_hits(correct, np.full(3, np.nan)), correct)


def test_of_points_that_are_as_good_the_shortest_prompt_is_chosen():
    hits, tokens = np.tile([1.0, 1, 0, 1], (3, 1)), np.array([30.0, 10, 20])
    assert choose(hits, tokens) == 1
    hits[2, 2] = 0.1
    assert choose(hits, tokens) == 2


def test_points_are_compared_text_by_text():
    # Behind by 1/4 on each text or by 1 on one of four: the same mean, and only the first is sure.
    hits = np.array([[0.5, 0.75, 1, 0.25], [0.25, 0.5, 0.75, 0.01], [0.5, 0.75, 0, 0.25]])
    sure, unsure = behind(hits)[1:]
    assert unsure == pytest.approx(1.0)  # mean 1/4, standard deviation 1/2, four texts
    assert sure > 50


def test_texts_are_asked_with_one_of_each_label_before_the_next_of_any():
    labels = ["a"] * 6 + ["b"] * 2
    order = order_of(labels, 0)
    assert sorted(order) == list(range(8)) and {labels[i] for i in order[:2]} == {"a", "b"}
    assert order_of(labels, 1) != order


def test_a_race_drops_the_losers_and_keeps_what_it_is_told_to():
    rng = np.random.default_rng(0)
    good = {point: 0.95 if point.description else 0.1 for point in POINTS}

    def judge(point, places, into):
        for i in places:
            into.correct[i] = rng.random() < good[point]

    found, finalists, stopped = race(POINTS, judge, ["a", "b"] * 16, keep=[Point()])
    assert not stopped and rounds_of(32) == [(0, 8), (8, 16), (16, 32)]
    asked = {point: one.n for point, one in found.items()}
    losers = [point for point in POINTS if not point.description and point != Point()]
    assert np.mean([asked[point] for point in losers]) < 16 and not set(losers) & set(finalists)
    assert asked[Point()] == 32 and Point() not in finalists
    assert len(finalists) > 5 and all(asked[point] == 32 for point in finalists)


def test_a_budget_that_ends_leaves_what_was_asked_first():
    def judge(point, places, into):
        if point == POINTS[3]:
            raise BudgetExceeded("it is spent")
        into.correct[list(places)] = 1.0

    found, finalists, stopped = race(POINTS, judge, ["a", "b"] * 8)
    assert stopped == "it is spent"
    assert [one.n for one in found.values()] == [8, 8, 8] + [0] * (len(POINTS) - 3)
    assert finalists == POINTS[:3]


def test_nested_accuracy_of_pure_chance_is_chance_where_the_best_of_many_is_far_above():
    rng = np.random.default_rng(0)
    best, nested = [], []
    for seed in range(60):
        answers = rng.integers(0, 2, size=(len(POINTS), 16)).astype(float)

        def judge(point, places, into, answers=answers):
            into.correct[list(places)] = answers[POINTS.index(point), places]
            into.tokens[list(places)] = 10

        found, finalists, _ = race(POINTS, judge, ["a", "b"] * 8, seed=seed)
        hits, asked = hits_of(found, finalists)
        best.append(hits[choose(hits[:, asked], np.full(len(finalists), 10))].mean())
        nested.append(np.nanmean(nested_hits(found, finalists)))
    assert np.mean(best) > 0.7 and np.mean(nested) < 0.6


def test_the_grid_asks_what_is_likely_first_and_no_point_twice():
    assert len(set(POINTS)) == len(POINTS) == (1 + 4 * 2) * 2 * 2
    assert {POINTS[0], POINTS[1]} == set(LIKELY)
    assert [point.k for point in POINTS[2:]] == sorted(point.k for point in POINTS[2:])
