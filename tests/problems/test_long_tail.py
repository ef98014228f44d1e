"""Long tails: what is trained on, which test sets there are, who adapts, and own tails."""

import numpy as np
import pytest

from anytask.core.errors import BadData
from anytask.problems.base import Entrant
from anytask.problems.long_tail import WAYS, LongTail

PROBLEM = LongTail()
SADE = Entrant("sade", "anytask.robust:SADE", {"steps": 30, "views": {"kind": "noise"}}, key="sade")


def test_tails_follow_the_seed_and_tests_go_three_ways():
    data = PROBLEM.load("digits", most=60, imbalance=12, test_imbalance=6)
    y = data.source.y
    train, tests = data.world(1)
    counts = np.bincount(y[train])
    order = np.argsort(-counts)
    assert counts.max() == 60 and counts.min() == 5 and set(tests) == set(WAYS)
    sizes = {way: np.bincount(y[rows], minlength=10)[order] for way, rows in tests.items()}
    assert (np.diff(sizes["forward"]) <= 0).all() and (np.diff(sizes["backward"]) >= 0).all()
    assert sizes["forward"][0] / sizes["forward"][-1] == pytest.approx(6, rel=0.1) and np.ptp(sizes["uniform"]) == 0
    assert not any(set(rows) & set(train) for rows in tests.values())
    assert np.array_equal(data.world(1)[0], train)
    other = np.bincount(y[data.world(2)[0]])
    assert not np.array_equal(other, counts)


def test_data_with_a_tail_of_their_own_keep_it():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], [20, 200, 60])
    data = PROBLEM.load((rng.normal(size=(280, 4)), y), imbalance=None, test_imbalance=4)
    train, tests = data.world(0)
    assert {c: int((y[train] == c).sum()) for c in "abc"} == {"a": 10, "b": 100, "c": 30}
    backward = y[tests["backward"]]
    assert (backward == "a").sum() > (backward == "b").sum()


def test_as_many_rows_as_the_rarest_class_has():
    data = PROBLEM.load("iris", most=500, imbalance=5)
    assert data.options.most == 25 and "25 training rows" in data.notes[0]
    for options in ({"imbalance": 0.5}, {"most": 0}, {"test_imbalance": 0}, {"tail": 3}):
        with pytest.raises(BadData, match=next(iter(options))):
            PROBLEM.load("iris", **options)


def test_everybody_takes_part_on_a_table_and_who_adapts_says_its_shares(tmp_path):
    data = PROBLEM.load("iris", most=25, imbalance=5, test_imbalance=5)
    assert [e.name for e in PROBLEM.baselines(data)][-2:] == ["lightgbm, weighted", "linear"]
    for entrant in (*PROBLEM.baselines(data), SADE):
        outcome = PROBLEM.run(entrant, data, 0)
        found = outcome.metrics
        assert found["accuracy"] == pytest.approx(np.mean([found[way] for way in WAYS]))
        assert set(outcome.details.get("shares", WAYS)) == set(WAYS)
    assert found["accuracy"] > 0.4
    trained = PROBLEM.refit(SADE, data, 0)
    trained.parts[0].save(tmp_path)
