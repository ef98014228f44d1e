"""How claims are judged, on numbers worked out by hand."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats

from anytask.claims.base import Beats, Claim, Experiment, Reaches, Steadier, Table, interval, judge, overall
from anytask.problems.base import Entrant, Metric


class Problem:
    metrics = (Metric("accuracy", "accuracy"), Metric("forgetting", "forgetting", higher_is_better=False))


@dataclass
class Run:
    entrant_name: str
    seed: int
    metrics: dict = field(default_factory=dict)
    status: str = "done"


def table(**values):
    metric = values.pop("metric", "accuracy")
    runs = [Run(name, seed, {metric: v}) for name, vs in values.items() for seed, v in enumerate(vs)]
    return Table(runs, Problem())


def test_the_interval_is_students():
    values = np.array([0.1, 0.4, 0.3, 0.2, 0.5])
    _, low, high = interval(values)
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)


def test_shown_not_shown_contradicted():
    check = Beats("a", "b", by=0.1, metric="accuracy")
    base = [0.5, 0.52, 0.48]
    assert judge(check, "x", table(a=[0.8, 0.82, 0.79], b=base)).outcome == "shown"
    assert judge(check, "x", table(a=[0.55, 0.57, 0.53], b=base)).outcome == "not shown"  # better, short of the margin
    assert judge(check, "x", table(a=[0.40, 0.43, 0.37], b=base)).outcome == "contradicted"


def test_differences_are_paired_by_seed():
    spread = [0.1, 0.5, 0.9]  # means are far apart within each, the paired difference is constant
    judged = judge(Beats("a", "b", by=0.1, metric="accuracy"), "x", table(a=[v + 0.2 for v in spread], b=spread))
    assert judged.outcome == "shown"
    assert (judged.low, judged.high) == pytest.approx((0.2, 0.2))


def test_lower_is_better_turns_the_difference():
    judged = judge(
        Beats("a", "b", by=0.1, metric="forgetting"), "x", table(metric="forgetting", a=[0.1, 0.1], b=[0.3, 0.3])
    )
    assert judged.mean == pytest.approx(0.2) and judged.outcome == "shown"


def test_a_factor_states_a_ratio():
    halved = Beats("a", "b", by=0.0, metric="forgetting", factor=0.5)
    assert judge(halved, "x", table(metric="forgetting", a=[0.1, 0.1], b=[0.3, 0.3])).outcome == "shown"
    assert judge(halved, "x", table(metric="forgetting", a=[0.2, 0.2], b=[0.3, 0.3])).outcome == "contradicted"


def test_a_negative_margin_means_at_most_that_far_behind():
    near = Beats("a", "b", by=-0.05, metric="accuracy")
    assert judge(near, "x", table(a=[0.58, 0.58], b=[0.6, 0.6])).outcome == "shown"
    assert judge(near, "x", table(a=[0.5, 0.5], b=[0.6, 0.6])).outcome == "contradicted"


def test_reaches_has_two_bounds():
    check = Reaches("a", "accuracy", at_least=4, at_most=6)
    assert judge(check, "x", table(a=[5, 5, 5])).outcome == "shown"
    assert judge(check, "x", table(a=[3, 5, 5])).outcome == "not shown"
    assert judge(check, "x", table(a=[8, 8, 8])).outcome == "contradicted"


def test_steadier_compares_deviations_from_the_median():
    # medians 0.5: |a - .5| = (.01, 0, .01), |b - .5| = (.2, 0, .1); half of b's less a's: .09, 0, .04
    judged = judge(Steadier("a", "b", 0.5, "accuracy"), "x", table(a=[0.49, 0.5, 0.51], b=[0.3, 0.5, 0.6]))
    assert judged.values == pytest.approx((0.09, 0.0, 0.04))
    assert judged.outcome == "not shown"
    even = judge(Steadier("a", "b", 0.5, "accuracy"), "x", table(a=[0.5] * 4, b=[0.3, 0.7, 0.3, 0.7]))
    assert even.outcome == "shown"


def test_a_failed_run_shows_nothing():
    runs = [
        Run("a", 0, {"accuracy": 0.9}),
        Run("a", 1, status="failed"),
        Run("b", 0, {"accuracy": 0.1}),
        Run("b", 1, {"accuracy": 0.1}),
    ]
    judged = judge(Beats("a", "b", by=0.1, metric="accuracy"), "x", Table(runs, Problem()))
    assert judged.outcome == "not shown" and math.isnan(judged.values[1])


def test_one_seed_shows_nothing():
    assert judge(Beats("a", "b", by=0.1, metric="accuracy"), "x", table(a=[0.9], b=[0.1])).outcome == "not shown"


def test_overall_is_the_worst():
    good = judge(Reaches("a", "accuracy", at_least=0), "x", table(a=[1, 1]))
    unclear = judge(Reaches("a", "accuracy", at_least=0), "x", table(a=[1, -1]))
    bad = judge(Reaches("a", "accuracy", at_least=2), "x", table(a=[1, 1]))
    assert overall([good]) == "shown"
    assert overall([good, unclear]) == "not shown"
    assert overall([good, unclear, bad]) == "contradicted"


def test_a_claim_checks_only_what_it_runs():
    experiment = Experiment("x", "task-stream", "digits", (Entrant("a", "m:A"), Entrant("b", "m:B")))
    with pytest.raises(ValueError, match=r"\['c'\], not in 'x'"):
        Claim("tame", "s", (experiment,), (Beats("a", "c", by=0, metric="accuracy"),))
    with pytest.raises(ValueError, match="unknown experiment 'y'"):
        Claim("tame", "s", (experiment,), (Beats("a", "b", by=0, metric="accuracy", experiment="y"),))
    with pytest.raises(ValueError, match="Beats check first"):
        Claim("tame", "s", (experiment,), (Reaches("a", "accuracy", at_least=0),))
