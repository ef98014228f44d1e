"""The mathematics of the choice: smoothing, neighbors, dropping, and accuracies that a search cannot flatter."""

import numpy as np
import pytest

from anytask.lm.protocol import BudgetExceeded
from anytask.tuning.grid import LIKELY, Judged, Point, grid
from anytask.tuning.race import choose, estimate, nested_hits, order_of, race, rounds_of, smoothed_hits, table_of

POINTS = grid([0, 1, 2, 4, 8], descriptions=["", "labels"], words=[""], calibrate=True, chat=[False])


def judged(correct, points=POINTS):
    found = {}
    for point, row in zip(points, correct):
        one = Judged.blank(len(row))
        one.correct[:], one.tokens[:] = row, 10 + 20 * point.k
        found[point] = one
    return found


def test_a_smoothed_hit_is_the_normal_distribution_of_margin_over_bandwidth():
    margin = np.array([1.0, -1.0, 3.0, -3.0])  # spread sqrt(5), bandwidth 1.06 sqrt(5) 4^-0.2 = 1.796
    expected = [0.7112, 0.2888, 0.9526, 0.0474]
    assert smoothed_hits(np.sign(margin) > 0, margin) == pytest.approx(expected, abs=1e-3)


def test_without_margins_hits_are_the_answers():
    correct = np.array([1.0, 0.0, np.nan])
    np.testing.assert_array_equal(smoothed_hits(correct, np.full(3, np.nan)), correct)


def test_points_that_are_all_alike_are_worth_the_same():
    hits = np.tile([1.0, 0, 1, 1], (3, 1))
    found = estimate(hits, 1.0 - np.eye(3))
    assert found.mean == pytest.approx([0.75] * 3, abs=1e-9)


def test_an_easy_text_does_not_flatter_the_points_that_saw_no_other():
    hits = np.array([[1.0, 0, 0, 0], [1, 0, 0, 0], [1, np.nan, np.nan, np.nan]])
    found = estimate(hits, 1.0 - np.eye(3))
    assert found.mean[2] == pytest.approx(0.25, abs=0.02)  # and not the 1.0 of its only answer


def test_distances_count_the_settings_that_differ_and_the_doublings():
    a = Point(1, "fixed", "labels")
    assert a.distance(a) == 0
    assert a.distance(Point(3, "fixed", "labels")) == pytest.approx(1)  # log2(4) - log2(2)
    assert a.distance(Point(1, "similar", "", calibrate=True)) == 3
    assert Point(0, "fixed").distance(Point(1, "similar")) == 1  # no demonstration is neither fixed nor nearest


def test_of_points_that_are_as_good_the_shortest_prompt_is_chosen():
    hits, tokens = np.tile([1.0, 1, 0, 1], (3, 1)), np.array([30.0, 10, 20])
    assert choose(hits, 1.0 - np.eye(3), tokens) == 1


def test_a_point_that_was_not_asked_is_foretold_by_its_neighbors_and_less_surely():
    hits = np.vstack([np.tile([1.0, 1, 1, 0], (3, 1)), np.tile([0.0, 0, 1, 0], (3, 1)), np.full((1, 4), np.nan)])
    distances = np.where(np.equal.outer(np.arange(7) // 3, np.arange(7) // 3), 1.0, 6.0)
    distances[6, :3] = distances[:3, 6] = 1.0
    np.fill_diagonal(distances, 0)
    found = estimate(hits, distances)
    assert found.mean[6] > 0.6 > 0.4 > found.mean[5]
    assert found.covariance[6, 6] > found.covariance[0, 0]


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

    found, stopped = race(POINTS, judge, ["a", "b"] * 16, keep=[Point()])
    assert not stopped and rounds_of(32) == [(0, 8), (8, 16), (16, 32)]
    asked = {point: one.n for point, one in found.items()}
    assert asked[Point()] == 32
    losers = [point for point in POINTS if not point.description and point != Point()]
    assert all(asked[point] <= 8 for point in losers)
    assert any(asked[point] == 0 for point in losers)  # foretold by their neighbors
    assert max(asked[point] for point in POINTS if point.description) == 32


def test_a_budget_that_ends_leaves_what_was_asked_first():
    def judge(point, places, into):
        if point == POINTS[3]:
            raise BudgetExceeded("it is spent")
        into.correct[list(places)] = 1.0

    found, stopped = race(POINTS, judge, ["a", "b"] * 8)
    assert stopped == "it is spent"
    assert [one.n for one in found.values()] == [8, 8, 8] + [0] * (len(POINTS) - 3)


def test_nested_accuracy_of_pure_chance_is_chance_where_the_best_of_many_is_far_above():
    rng = np.random.default_rng(0)
    best, nested = [], []
    for _ in range(30):
        found = judged(rng.integers(0, 2, size=(len(POINTS), 16)).astype(float))
        points, hits, distances = table_of(found)
        tokens = np.array([np.nanmean(found[point].tokens) for point in points])
        best.append(found[points[choose(hits, distances, tokens)]].accuracy)
        nested.append(nested_hits(found)[0].mean())
    assert np.mean(nested) < 0.6 and np.mean(best) > np.mean(nested) + 0.1


def test_the_grid_asks_what_is_likely_first_and_no_point_twice():
    assert len(set(POINTS)) == len(POINTS) == (1 + 4 * 2) * 2 * 2
    assert {POINTS[0], POINTS[1]} == set(LIKELY)
    assert [point.k for point in POINTS[2:]] == sorted(point.k for point in POINTS[2:])
