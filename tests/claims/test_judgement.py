"""How claims are judged, on numbers worked out by hand."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats

from anytask.claims.base import Beats, Claim, Experiment, RealTrial, Size, Table, interval, judge, overall
from anytask.problems.base import Entrant, Metric


class Problem:
    metrics = (Metric("accuracy", "accuracy"), Metric("forgetting", "forgetting", higher_is_better=False))


@dataclass
class Run:
    entrant_name: str
    seed: int
    metrics: dict = field(default_factory=dict)
    status: str = "done"


def table(metric="accuracy", **values):
    runs = [Run(name, seed, {metric: v}) for name, vs in values.items() for seed, v in enumerate(vs)]
    return Table(runs, Problem())


def outcome(check, **values):
    return judge(check, "x", table(check.metric, **values)).outcome


AB = Beats("a", ("b",), "accuracy")


def test_the_interval_is_students():
    values = np.array([0.1, 0.4, 0.3, 0.2, 0.5])
    _, low, high = interval(values)
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)


def test_shown_not_shown_contradicted():
    base = [0.50, 0.52, 0.48]
    assert outcome(AB, a=[0.80, 0.83, 0.79], b=base) == "shown"
    assert outcome(AB, a=[0.55, 0.50, 0.57], b=base) == "not shown"  # differences .05, -.02, .09: zero is inside
    assert outcome(AB, a=[0.40, 0.43, 0.37], b=base) == "contradicted"


def test_a_gain_that_is_certain_but_too_small_is_not_shown():
    a, b = [0.505, 0.525, 0.485], [0.500, 0.520, 0.480]  # .005 on every seed
    assert outcome(AB, a=a, b=b) == "not shown"
    assert outcome(Beats("a", ("b",), "accuracy", worth=0.004), a=a, b=b) == "shown"


def test_what_is_worth_having_can_be_a_share_of_the_rivals_mean():
    check = Beats("a", ("b",), "forgetting", worth=0.05, share=True)
    judged = judge(check, "x", table("forgetting", a=[0.194, 0.195], b=[0.20, 0.20]))
    assert judged.worth == pytest.approx(0.01) and judged.mean == pytest.approx(0.0055)
    assert judged.outcome == "not shown"


def test_the_strongest_rival_is_the_one_with_the_best_mean():
    check = Beats("a", ("b", "c"), "accuracy")
    judged = judge(check, "x", table(a=[0.9, 0.9], b=[0.2, 0.9], c=[0.6, 0.6]))  # means .55 and .6
    assert judged.rival == "c" and judged.values == pytest.approx((0.3, 0.3))
    assert judged.means == pytest.approx({"a": 0.9, "b": 0.55, "c": 0.6})
    lower = judge(
        Beats("a", ("b", "c"), "forgetting"), "x", table("forgetting", a=[0.1, 0.1], b=[0.2, 0.2], c=[0.6, 0.6])
    )
    assert lower.rival == "b" and lower.mean == pytest.approx(0.1)


def test_differences_are_paired_by_seed():
    spread = [0.1, 0.5, 0.9]  # far apart from seed to seed, while the paired difference is constant
    judged = judge(AB, "x", table(a=[v + 0.2 for v in spread], b=spread))
    assert judged.outcome == "shown" and (judged.low, judged.high) == pytest.approx((0.2, 0.2))


def test_two_metrics_of_one_training_are_compared():
    runs = [Run("a", seed, {"after": 0.8 + seed / 100, "before": 0.6}) for seed in range(3)]
    judged = judge(Beats("a", ("a",), "after", rival_metric="before"), "x", Table(runs, Problem()))
    assert judged.outcome == "shown" and judged.mean == pytest.approx(0.21)


def test_a_failed_run_shows_nothing():
    runs = [Run("a", s, {"accuracy": 0.9}) for s in range(3)] + [Run("b", s, {"accuracy": 0.1}) for s in range(3)]
    runs[1].status = "failed"
    judged = judge(AB, "x", Table(runs, Problem()))
    assert judged.outcome == "not shown" and math.isnan(judged.values[1]) and judged.mean == pytest.approx(0.8)


def test_a_rival_that_failed_on_every_seed_is_not_the_strongest_and_leaves_nothing_shown():
    runs = [Run(name, s, {"accuracy": v}) for name, v in (("a", 0.9), ("b", 0.1)) for s in range(2)]
    runs += [Run("c", s, {}, "failed") for s in range(2)]
    judged = judge(Beats("a", ("c", "b"), "accuracy"), "x", Table(runs, Problem()))
    assert judged.rival == "b" and judged.outcome == "not shown"


def test_one_seed_shows_nothing():
    assert outcome(AB, a=[0.9], b=[0.1]) == "not shown"
    assert outcome(AB, a=[0.1], b=[0.9]) == "not shown"


def test_the_headline_is_as_good_as_its_worst_comparison():
    good, unclear, bad = (judge(AB, "x", table(a=a, b=[0.5, 0.5])) for a in ([0.8, 0.8], [0.2, 0.9], [0.1, 0.1]))
    assert overall([good]) == "shown"
    assert overall([good, unclear]) == "not shown"
    assert overall([good, unclear, bad]) == "contradicted"


def test_a_claim_names_only_what_it_runs():
    experiment = Experiment("x", "task-stream", "digits", (Entrant("a", "m:A"), Entrant("b", "m:B")), plain="b")
    for claim, words in (
        ({"headline": (Beats("a", ("c",), "accuracy"),)}, r"\['c'\], not in 'x'"),
        ({"headline": (Beats("a", ("b",), "accuracy", "y"),)}, "unknown experiment 'y'"),
        ({"headline": ()}, "one or two headline comparisons"),
        ({"headline": (AB,), "sizes": (Size("d", "accuracy", "s"),)}, r"\['d'\], not in 'x'"),
    ):
        with pytest.raises(ValueError, match=words):
            Claim("tame", "s", (experiment,), **claim)
    with pytest.raises(ValueError, match="no plain reference"):
        Claim("tame", "s", (Experiment("x", "task-stream", "digits", experiment.entrants),), (AB,))
    with pytest.raises(ValueError, match="mnist names"):
        RealTrial("mnist", (experiment,), (Beats("a", ("c",), "accuracy"),))
