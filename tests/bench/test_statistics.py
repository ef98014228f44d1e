"""Statistics against closed forms, SciPy and published tables."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from anytask.bench.statistics import (
    RESAMPLES,
    average_ranks,
    critical_value,
    friedman,
    holm,
    indistinguishable_groups,
    nemenyi,
    paired_difference,
    summarize,
)

values = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


def test_summary_of_two_values():
    """Resamples of (0, 2) have means 0, 1, 2 with chances 1/4, 1/2, 1/4: the 95 % interval is [0, 2]."""
    summary = summarize([0.0, 2.0])
    assert (summary.n, summary.mean, summary.sd) == (2, 1.0, pytest.approx(math.sqrt(2)))
    assert (summary.low, summary.high) == (0.0, 2.0)


@pytest.mark.parametrize("n", [2, 3, 7, 50])
@pytest.mark.parametrize("seed", [0, 3])
def test_percentile_intervals_are_those_of_scipy_to_the_last_digit(n, seed):
    x = np.random.default_rng(n).normal(0.7, 0.1, n)
    wanted = stats.bootstrap(
        (x,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    found = summarize(x, seed=seed)
    assert (found.low, found.high) == (wanted.low, wanted.high)


def test_bootstrap_interval_of_many_values_nears_the_normal_one():
    x = np.random.default_rng(0).standard_normal(400)
    summary = summarize(x)
    half = 1.96 * x.std() / math.sqrt(400)
    assert summary.low == pytest.approx(x.mean() - half, abs=0.01)
    assert summary.high == pytest.approx(x.mean() + half, abs=0.01)


def test_bca_leans_towards_the_long_tail():
    x = np.random.default_rng(1).exponential(size=15)
    assert summarize(x, method="BCa").high > summarize(x).high


@pytest.mark.parametrize("x", [[0.7], []])
def test_fewer_than_two_values_have_no_interval(x):
    summary = summarize(x)
    assert summary.low is None and summary.high is None and math.isnan(summary.sd)


def test_equal_values_have_an_interval_of_no_width():
    summary = summarize([0.1 + 0.2, 0.3, 0.3])
    assert summary.low == summary.high == pytest.approx(0.3)


def test_the_same_seed_gives_the_same_interval_and_the_global_generator_rests():
    x = [0.1, 0.5, 0.9, 0.4]
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert summarize(x, seed=3) == summarize(x, seed=3)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be"):
        summarize([1.0, 2.0], method="magic")


def test_paired_p_value_is_that_of_the_t_distribution():
    """Differences 1, 2, 3: mean 2, sd 1, so t = 2 sqrt 3 with 2 degrees of freedom."""
    difference = paired_difference([1, 2, 3], [0, 0, 0])
    assert difference.mean == 2.0
    assert difference.p == pytest.approx(2 * stats.t.sf(2 * math.sqrt(3), 2))


@given(values)
def test_swapping_the_pair_turns_the_sign(x):
    y = np.sin(x).tolist()
    one, other = paired_difference(x, y), paired_difference(y, x)
    assert one.mean == pytest.approx(-other.mean)
    assert one.p == pytest.approx(other.p, nan_ok=True)


@pytest.mark.parametrize(("a", "n"), [([0.4], 1), ([], 0)])
def test_fewer_than_two_pairs_say_nothing_about_chance(a, n):
    difference = paired_difference(a, a)
    assert difference.n == n and difference.low is None and math.isnan(difference.p)


def test_differences_without_spread():
    assert paired_difference([0.3, 0.6], [0.1, 0.4]).p == 0.0
    assert paired_difference([0.3, 0.6], [0.3, 0.6]).p == 1.0


def test_pairs_need_equal_lengths():
    with pytest.raises(ValueError, match="a has 2 values and b has 1"):
        paired_difference([1, 2], [1])


def test_holm_of_a_textbook_example():
    """Sorted .005, .01, .03, .04 times 4, 3, 2, 1 gives .02, .03, .06, .04, which may not fall: .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_missing_values_out():
    adjusted = holm([0.04, math.nan, 0.02])
    assert adjusted[0] == pytest.approx(0.04) and math.isnan(adjusted[1]) and adjusted[2] == pytest.approx(0.04)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p):
    adjusted = holm(p)
    assert all(a >= b and a <= min(1.0, len(p) * b) + 1e-12 for a, b in zip(adjusted, p))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@pytest.mark.parametrize(
    ("k", "q"), list(enumerate([1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164], start=2))
)
def test_critical_values_are_those_of_the_published_table(k, q):
    """Demšar 2006, table 5(a), which is rounded (and cut) to three decimals."""
    assert critical_value(k) == pytest.approx(q, abs=0.001)


def test_nemenyi_of_demsars_example():
    """Four classifiers on 14 data sets: 2.569 sqrt(4 * 5 / (6 * 14)) = 1.25."""
    assert nemenyi(4, 14) == pytest.approx(1.2536, abs=5e-4)


def test_ties_share_the_mean_of_their_ranks():
    assert average_ranks([[0.5, 0.5, 0.1, 0.9]]).tolist() == [2.5, 2.5, 4.0, 1.0]
    assert average_ranks([[3, 1, 2]], higher_is_better=False).tolist() == [3.0, 1.0, 2.0]


@given(st.integers(2, 5), st.integers(2, 6), st.integers(0, 99))
def test_average_ranks_sum_to_their_total_and_ignore_monotone_maps(n, k, seed):
    x = np.random.default_rng(seed).integers(0, 4, (n, k)).astype(float)
    ranks = average_ranks(x)
    assert ranks.sum() == pytest.approx(k * (k + 1) / 2)
    assert ranks.tolist() == average_ranks(np.exp(x)).tolist()


def test_friedman_without_ties_is_the_closed_form():
    """chi2 = 12 n / (k (k + 1)) (sum R_j^2 - k (k + 1)^2 / 4)."""
    x = np.random.default_rng(2).standard_normal((6, 4))
    result = friedman(x)
    n, k = x.shape
    chi2 = 12 * n / (k * (k + 1)) * (np.square(result.average_ranks).sum() - k * (k + 1) ** 2 / 4)
    assert result.statistic == pytest.approx(chi2)
    assert result.p == pytest.approx(stats.chi2.sf(chi2, k - 1))


@pytest.mark.parametrize("x", [[[1.0, 2.0], [1.0, 2.0]], [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]])
def test_friedman_is_nan_where_it_says_nothing(x):
    assert math.isnan(friedman(x).p)


@pytest.mark.parametrize("x", [[[1.0, 2.0]], [[1.0], [2.0]], [[1.0, math.nan], [1.0, 2.0]]])
def test_ranks_need_enough_finite_values(x):
    with pytest.raises(ValueError, match="ranks need"):
        friedman(x)


def test_groups_are_the_longest_runs_within_the_critical_difference():
    assert indistinguishable_groups([3.0, 1.0, 2.0], 1.5) == [(1, 2), (2, 0)]
    assert indistinguishable_groups([1.0, 2.0, 3.0], 5.0) == [(0, 1, 2)]
    assert indistinguishable_groups([1.0, 3.0], 1.0) == []
