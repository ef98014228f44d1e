"""Comparison methods: each greedy rule against its definition."""

import numpy as np
import pytest

from anytask.incontext.pool import NearestVote, Pool
from anytask.incontext.selection import Diversity, FacilityLocation, LeastConfidence


def _pool(n=60, d=3, seed=0):
    X = np.random.default_rng(seed).normal(size=(n, d))
    return Pool(X, annotate=lambda indices: [int(X[i, 0] > 0) for i in indices])


def test_diversity_takes_the_smallest_sum_of_cosines():
    pool = _pool()
    chosen = Diversity(seed=3).select(pool, 10).indices.tolist()
    for step in range(1, 10):
        sums = (pool.vectors @ pool.vectors[chosen[:step]].T).sum(axis=1)
        sums[chosen[:step]] = np.inf
        assert sums[chosen[step]] == pytest.approx(sums.min(), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_facility_location_is_the_plain_greedy_algorithm(seed):
    pool = _pool(seed=seed)
    cosine = pool.vectors @ pool.vectors.T
    nearest, plain, gains = np.full(60, -1.0), [], []
    for _ in range(12):
        gain = np.maximum(cosine - nearest, 0).sum(axis=1)
        gain[plain] = -1
        plain.append(int(gain.argmax()))
        gains.append(gain.max())
        nearest = np.maximum(nearest, cosine[plain[-1]])
    chosen = FacilityLocation().select(pool, 12)
    assert chosen.indices.tolist() == plain
    np.testing.assert_allclose(chosen.scores, gains, rtol=1e-5)
    # Initial maximum -1: after all picks the sum of gains is sum_i (max cosine + 1).
    assert chosen.scores.sum() == pytest.approx((nearest + 1).sum(), rel=1e-5)


def test_least_confidence_takes_the_least_sure_batch_after_batch():
    pool = _pool()
    chosen = LeastConfidence(batch_size=5, seed=1).select(pool, 12)
    assert chosen.stage.tolist() == [0] * 5 + [1] * 5 + [2] * 2
    assert sorted(pool.labels) == sorted(chosen.indices[:10].tolist())  # the last batch is not needed on the way
    again = _pool()
    again.annotate(chosen.indices[:5])
    rest = np.setdiff1d(np.arange(60), chosen.indices[:5])
    values = NearestVote()(again, rest)
    assert set(chosen.indices[5:10].tolist()) == set(rest[np.argsort(values, kind="stable")[:5]].tolist())


def test_least_confidence_needs_labels():
    with pytest.raises(ValueError, match="needs labels on the way"):
        LeastConfidence().select(np.eye(5), 3)


def test_greedy_rules_go_on_from_the_items_that_are_annotated():
    # Three groups, the first of which has its label: two more items come from the other two.
    X = np.repeat([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], 4, axis=0) + 0.01 * np.random.default_rng(0).normal(size=(12, 3))
    for selector in (Diversity(), FacilityLocation()):
        pool = Pool(X, center=False, annotate=lambda indices: [i // 4 for i in indices])
        pool.annotate([1])
        assert {i // 4 for i in selector.select(pool, 2)} == {1, 2}


def test_copies_do_not_fill_the_batch_of_the_least_confident():
    X = np.concatenate([np.random.default_rng(0).normal(size=(20, 3)), np.repeat([[0.1, 0.2, 0.3]], 20, axis=0)])
    pool = Pool(X, annotate=lambda indices: [0] * len(indices))
    chosen = LeastConfidence(batch_size=10, seed=0).select(
        pool, 21, confidence=lambda pool, queries: np.where(queries < 20, 1.0, 0.0)
    )
    copies = (chosen.indices[10:] >= 20).sum()
    assert copies <= 1 and len(set(chosen.indices.tolist())) == 21
