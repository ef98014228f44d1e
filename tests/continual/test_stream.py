import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from anytask.continual.parts.stream import LossShiftDetector, Reservoir, content_keys


def test_threshold_is_mean_plus_k_population_stds():
    detector = LossShiftDetector(window=35, initial=math.log(2))
    for loss in (0.5, 0.4, 0.3):
        detector.record(loss)
    assert np.mean(detector.losses) == pytest.approx(0.473287, abs=1e-6)
    assert np.std(detector.losses) == pytest.approx(0.145303, abs=1e-6)
    assert detector.threshold == pytest.approx(0.909195, abs=1e-6)


def test_flat_window_uses_the_floor():
    detector = LossShiftDetector(initial=0.2)
    for _ in range(10):
        detector.record(0.2)
    assert detector.threshold == pytest.approx(0.2 + 3 * 0.005)


def test_first_alarm_of_the_cosine_stream_is_at_the_jump():
    detector = LossShiftDetector(alpha=0.2, window=20, initial=math.log(3))
    for i in range(30):
        assert not detector.update(0.5 + 0.1 * math.cos(i))
    detector.smooth(2.0)
    assert detector.ema == pytest.approx(0.782126, abs=1e-6)
    assert detector.threshold == pytest.approx(0.708716, abs=1e-6)
    assert detector.shifted


@pytest.mark.parametrize(("share", "fires"), [(1.02, True), (0.98, False)])
def test_first_step_fires_iff_alpha_times_the_jump_exceeds_k_stds(share, fires):
    detector = LossShiftDetector(alpha=0.2, window=10, k=3)
    for i in range(400):  # alternating 0.9, 1.1: mean 1, std 0.1, and the EMA swings by d = 0.1 * a / (2 - a)
        detector.smooth(0.9 + 0.2 * (i % 2))
        detector.record(0.9 + 0.2 * (i % 2))
    offset = detector.ema - 1.0
    assert offset == pytest.approx(0.1 * 0.2 / 1.8, abs=1e-9)
    # s = 1 + (1 - a) * offset + a * D must exceed 1 + 3 * 0.1
    jump = share * (0.3 - 0.8 * offset) / 0.2
    detector.smooth(1.0 + jump)
    assert detector.shifted is fires


def test_a_small_jump_never_fires_because_it_raises_its_own_threshold():
    detector = LossShiftDetector(alpha=0.2, window=10, k=3)
    noise = [0.9, 1.1]
    assert not any([detector.update(noise[i % 2]) for i in range(100)][10:])
    assert not any(detector.update(noise[i % 2] + 0.4) for i in range(200))  # 4 standard deviations


def test_no_alarm_before_two_losses_without_an_initial_one():
    detector = LossShiftDetector()
    assert detector.threshold == math.inf
    assert [detector.update(0.1), detector.update(50.0)] == [False, False]
    assert detector.threshold < math.inf


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_diverged_loss_is_an_error_and_changes_nothing(loss):
    detector = LossShiftDetector(initial=1.0)
    detector.update(0.5)
    before = detector.state_dict()
    with pytest.raises(ValueError, match="finite"):
        detector.update(loss)
    assert detector.state_dict() == before


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"alpha": 1.5}, {"window": 1}, {"k": 0}, {"floor": -1}])
def test_detector_names_the_parameter_that_is_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LossShiftDetector(**wrong)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.lists(st.floats(0, 10), max_size=30))
@settings(max_examples=40, deadline=None)
def test_detector_goes_on_from_its_state(first, then):
    a = LossShiftDetector(window=5, initial=1.0)
    for loss in first:
        a.update(loss)
    b = LossShiftDetector(window=5)
    b._enough = 1
    b.load_state_dict(a.state_dict())
    assert [a.update(x) for x in then] == [b.update(x) for x in then]


def items(n):
    return torch.arange(float(n))[:, None], torch.arange(n)


def test_every_item_is_kept_with_the_same_probability():
    n, capacity, repeats = 20, 5, 2000
    X, tags = items(n)
    keys = content_keys(X)
    counts = np.zeros(n)
    for seed in range(repeats):
        reservoir = Reservoir(capacity, seed)
        reservoir.add(X, tags, keys=keys)
        counts[reservoir.data()[1]] += 1
    assert counts.sum() == capacity * repeats
    # Drawn without replacement, so the statistic is below a chi-square's: the test is only too lenient by (n-k)/(n-1).
    statistic = chisquare(counts).statistic * (n - 1) / (n - capacity)
    assert statistic < 43.8  # the 0.999 quantile of chi-square with 19 degrees of freedom


@given(st.lists(st.integers(0, 30), min_size=1, max_size=120), st.integers(1, 10), st.integers(1, 13))
@settings(max_examples=60, deadline=None)
def test_capacity_first_sight_and_chunks(values, capacity, chunk):
    X, tags = torch.tensor(values, dtype=torch.float32)[:, None], torch.arange(len(values))
    whole, cut = Reservoir(capacity, 3), Reservoir(capacity, 3)
    whole.add(X, tags)
    for x, t in zip(X.split(chunk), tags.split(chunk)):
        cut.add(x, t)
        assert len(cut) <= capacity
    rows, kept = whole.data()
    assert len(whole) == min(capacity, len(set(values)))
    assert len(rows.unique()) == len(rows)
    assert [values.index(int(row)) for row in rows] == kept.tolist()  # the tag of its first sight
    assert torch.equal(cut.data()[0], rows) and torch.equal(cut.data()[1], kept)


def test_an_evicted_item_does_not_come_back():
    reservoir = Reservoir(5, seed=1)
    X, tags = items(100)
    reservoir.add(X, tags)
    before = reservoir.data()[1]
    assert reservoir.add(X, tags + 1000) == 0
    assert torch.equal(reservoir.data()[1], before)


def test_balanced_reservoir_shrinks_for_new_groups():
    reservoir = Reservoir(12, seed=0, balanced=True)
    X, tags = items(300)
    groups = tags // 100
    sizes = []
    for g in range(3):
        rows = groups == g
        reservoir.add(X[rows], groups[rows], groups=groups[rows])
        sizes.append(torch.bincount(reservoir.data()[1], minlength=3).tolist())
    assert sizes == [[12, 0, 0], [6, 6, 0], [4, 4, 4]]
    with pytest.raises(ValueError, match="cannot hold one item of each of 13 groups"):
        for g in range(3, 13):
            reservoir.add(X[g : g + 1] - 500, tags[:1], groups=torch.tensor([g]))


def test_reservoir_goes_on_from_its_state():
    X, tags = items(200)
    a, b = Reservoir(10, 5), Reservoir(10, 5)
    a.add(X[:100], tags[:100])
    b.load_state_dict(a.state_dict())
    for r in (a, b):
        r.add(X[50:], tags[50:])
    assert torch.equal(a.data()[1], b.data()[1])
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(a.sample(4, generators[0])[1], b.sample(4, generators[1])[1])


def test_snapshot_undoes_additions_and_eviction():
    X, tags = items(200)
    reservoir = Reservoir(10, 5)
    reservoir.add(X[:100], tags[:100])
    before = reservoir.data()[1]
    undo = reservoir.__snapshot__()
    assert reservoir.add(X[100:], tags[100:]) > 0
    undo()
    assert torch.equal(reservoir.data()[1], before)


def test_empty_and_impossible_reservoirs_say_so():
    with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
        Reservoir(0, 0)
    with pytest.raises(ValueError, match="empty"):
        Reservoir(3, 0).data()
    with pytest.raises(ValueError, match="empty"):
        Reservoir(3, 0).sample(1, torch.Generator())
    with pytest.raises(ValueError, match="groups"):
        Reservoir(3, 0, balanced=True).add(*items(2))


def test_kept_rows_are_copies():
    X, tags = items(3)
    reservoir = Reservoir(3, 0)
    reservoir.add(X, tags)
    X.zero_()
    assert sorted(reservoir.data()[0].flatten().tolist()) == [0.0, 1.0, 2.0]
