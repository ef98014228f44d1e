"""L1-A-MTRL: the brief's numbers for relevance and allocation, the shared subspace, and who gets the labels."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anytask.multitask import L1AMTRL, select_sources
from anytask.multitask.parts.label_budget import allocate, basis_pursuit, cheapest, lasso, least_norm
from anytask.multitask.parts.shared_subspace import fit_heads, fit_subspace, whitening

CONTRACT = {"L1AMTRL-network": {"representation": "network", "hidden": (8,), "epochs": 2}}
EXEMPT = {
    "L1AMTRL": {
        "test_training_that_diverges_is_refused": "least squares has no learning rate",
        "test_a_frozen_backbone_is_left_as_it_is": "the defaults are linear, without a backbone",
        "test_backbones_that_cannot_be_used_are_refused": "the defaults are linear, without a backbone",
        "test_batches_of_one_row_are_learned_from": "least squares has no mini-batches",
    },
    "L1AMTRL-network": {"test_defaults_learn_what_tasks_differ_in": "the defaults are linear"},
}


def world(seed=0, d=8, k=3, T=12):
    """Heads of T sources and a target in a subspace, of length 1."""
    rng = np.random.default_rng(seed)
    B, W = np.linalg.qr(rng.normal(size=(d, k)))[0], rng.normal(size=(k, T + 1))
    return B, W / np.linalg.norm(W, axis=0)


class Sampler:
    """Draws rows of one linear task, up to a number of them, and counts them."""

    def __init__(self, weights, seed=0, most=10**9, noise=0.3):
        self.weights, self.rng, self.left, self.noise, self.drawn = weights, np.random.default_rng(seed), most, noise, 0

    def draw(self, n):
        n = min(n, self.left)
        self.left, self.drawn = self.left - n, self.drawn + n
        X = self.rng.normal(size=(n, len(self.weights)))
        return X, X @ self.weights + self.noise * self.rng.normal(size=n)


def samplers(B, W, kind=Sampler, **options):
    return [kind(B @ w, seed, **options) for seed, w in enumerate(W[:, :-1].T)]


def target(B, W, n=300):
    return Sampler(B @ W[:, -1], 99).draw(n)


def small(**params):
    return L1AMTRL(**{"n_components": 3, "explore": 15, "rounds": 2, **params})


# -- the brief's exact values ----------------------------------------------------------------------------------------


def test_sources_get_labels_in_proportion_to_nu_and_the_others_the_floor():
    nu = np.array([3.0, -1, 0, 0])
    n = allocate(abs(nu), 820, lower=10)
    assert n.tolist() == [600, 200, 10, 10]
    assert (nu**2 / n).sum() == pytest.approx(0.02) == pytest.approx(abs(nu).sum() ** 2 / 800)
    by_square = allocate(nu**2, 800)
    assert by_square.tolist() == [720, 80, 0, 0]
    assert (nu[:2] ** 2 / by_square[:2]).sum() == pytest.approx(0.025) == pytest.approx(2 * (nu**2).sum() / 800)


@given(st.integers(-150, 150), st.integers(-150, 150))
def test_the_1_norm_solution_does_not_depend_on_the_scale_of_heads(a, b):
    W, w = world()[1][:, :-1], world()[1][:, -1]
    nu = basis_pursuit(W * 10.0**a, w * 10.0**b) * 10.0 ** (a - b)
    assert nu == pytest.approx(basis_pursuit(W, w), abs=1e-9)


def test_the_least_1_norm_and_the_least_2_norm_of_the_worked_example():
    W, w = np.array([[1, 0, 0.5**0.5], [0, 1, 0.5**0.5]]), np.ones(2)
    assert basis_pursuit(W, w) == pytest.approx([0, 0, 2**0.5], abs=1e-9)
    assert least_norm(W, w) == pytest.approx([0.5, 0.5, 0.5**0.5]) and (least_norm(W, w) ** 2).sum() == pytest.approx(1)


def test_of_equal_sources_the_first_is_taken():
    assert basis_pursuit(np.ones((1, 4)), np.array([2.0])) == pytest.approx([2, 0, 0, 0])


@given(st.integers(0, 10**6), st.integers(2, 5), st.floats(0.01, 0.5))
def test_with_the_identity_the_lasso_thresholds_softly(seed, k, lambda_):
    w = np.random.default_rng(seed).normal(size=k) + 1
    w[0] = 1  # so that not all are 0
    assert lasso(np.eye(k), w, lambda_) == pytest.approx(np.sign(w) * np.maximum(abs(w) - lambda_, 0), abs=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 30))
def test_the_1_norm_solution_is_exact_sparse_and_short(seed, k, more):
    rng = np.random.default_rng(seed)
    W, w = rng.normal(size=(k, k + more)), rng.normal(size=k)
    one, two = basis_pursuit(W, w), least_norm(W, w)
    assert np.abs(W @ one - w).max() < 1e-6 and (abs(one) > 1e-9).sum() <= k
    assert abs(one).sum() <= abs(two).sum() + 1e-6 <= np.sqrt(k + more) * np.linalg.norm(two) + 2e-6


def test_a_lambda_that_finds_nothing_is_halved_until_half_is_explained_and_0_remains_where_nothing_can_be():
    W, w = np.array([[1.0, 0], [0, 0.2]]), np.array([0.5, 0.3])
    nu = lasso(W, w, 10.0)
    assert 0 < np.linalg.norm(W @ nu - w) <= np.linalg.norm(w) / 2
    assert not lasso(np.array([[1.0], [0.0]]), np.array([0.0, 1.0]), 0.1).any()
    assert not lasso(np.array([[1.0], [0.1]]), np.array([0.1, 1.0]), 10.0).any()


def test_equal_costs_change_nothing_and_a_doubled_one_divides_labels_by_the_root_of_2():
    W, w = world()[1][:, :-1], world()[1][:, -1]
    nu = abs(basis_pursuit(W, w))
    assert allocate(nu * 3**0.5, 3 * 900, costs=3).tolist() == allocate(nu, 900).tolist()
    even, dear = cheapest(np.eye(2), np.array([2.0, 1]), np.ones(2), 0.1)[1], cheapest(
        np.eye(2), np.array([2.0, 1]), np.array([2.0, 1]), 0.1
    )[1]  # fmt: skip
    assert (dear[0] / dear[1]) / (even[0] / even[1]) == pytest.approx(0.5**0.5)
    nu, n = cheapest(W, w, np.linspace(1, 3, 12), 0.1)
    used = n > 0
    assert (nu[used] ** 2 / n[used]).sum() == pytest.approx(0.01) and np.abs(W @ nu - w).max() < 1e-6


# -- allocation ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 2000))
def test_the_budget_is_spent_to_the_last_label_within_the_bounds(seed, T, budget):
    rng = np.random.default_rng(seed)
    shares = rng.exponential(size=T) * (rng.random(T) < 0.6)
    lower = rng.integers(0, 6, T)
    upper = lower + rng.integers(0, 400, T)
    n = allocate(shares, budget, lower=lower, upper=upper)
    assert (n >= lower).all() and (n <= upper).all()
    assert n.sum() == np.clip(budget, lower.sum(), upper.sum())


def test_labels_that_a_pool_lacks_go_to_the_next_and_then_to_those_that_were_not_wanted():
    shares = np.array([3.0, 1, 0, 0])
    assert allocate(shares, 400, upper=[100, 900, 900, 900]).tolist() == [100, 300, 0, 0]
    assert allocate(shares, 400, upper=[100, 100, 900, 900]).tolist() == [100, 100, 100, 100]
    assert allocate(shares, 400, upper=10).tolist() == [10] * 4


def test_an_allocation_is_the_least_risk_that_the_bounds_leave():
    rng = np.random.default_rng(0)
    nu, costs = rng.exponential(size=6), rng.uniform(0.5, 2, 6)
    n = allocate(np.sqrt(costs) * nu, 20_000, costs=costs, lower=1000, upper=5000)
    risk = (nu**2 / n).sum()
    for i in range(6):
        for j in range(6):  # moving money between two sources does not help
            moved = n + 60 * ((np.arange(6) == i) / costs - (np.arange(6) == j) / costs)
            if (moved >= 1000).all() and (moved <= 5000).all():
                assert (nu**2 / moved).sum() > risk - 1e-6


# -- the representation ----------------------------------------------------------------------------------------------


def rows(B, W, n=60, noise=0.0, seed=1):
    rng = np.random.default_rng(seed)
    head = np.repeat(np.arange(W.shape[1]), n)
    X = rng.normal(size=(len(head), len(B))) + 1
    return X, head, ((X @ B) * W.T[head]).sum(1) + head + noise * rng.normal(size=len(head))


def test_least_squares_recovers_the_subspace_whatever_the_offsets():
    B, W = world()
    X, head, y = rows(B, W, n=6)  # fewer rows than features for each task
    found = fit_subspace(X, head, y, 3, iterations=200)
    assert found.T @ found == pytest.approx(np.eye(3), abs=1e-9)
    assert found @ (found.T @ B) == pytest.approx(B, abs=1e-3)
    w, offset = fit_heads(X @ found, head, y, 13)
    assert found @ w == pytest.approx(B @ W, abs=1e-2) and offset == pytest.approx(np.arange(13), abs=2e-2)


def test_turns_of_least_squares_end_where_the_gradient_is_0():
    B, W = world()
    X, head, y = rows(B, W, noise=0.5)
    found = fit_subspace(X, head, y, 3, iterations=100)
    w, offset = fit_heads(X @ found, head, y, 13)
    off = ((X @ found) * w.T[head]).sum(1) + offset[head] - y
    gradient = X.T @ (off[:, None] * w.T[head])
    assert np.abs(gradient).max() < 0.02 * np.linalg.norm(off)


def test_relevance_does_not_change_when_the_representation_is_rotated_or_scaled():
    B, W = world()
    X, head, y = rows(B, W, noise=0.3)
    nus = []
    for change in (np.eye(3), np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0], np.diag([1, 5, 0.1])):
        Z = X @ B @ change
        mean, A = whitening(Z)
        heads, _ = fit_heads((Z - mean) @ A, head, y, 13)
        size = np.linalg.norm(heads[:, -1])
        nus.append(lasso(heads[:, :-1] / size, heads[:, -1] / size, 0.02))
        assert np.cov((Z - mean) @ A, rowvar=False, bias=True) == pytest.approx(np.eye(3), abs=1e-8)
    assert nus[1] == pytest.approx(nus[0], abs=1e-3) and nus[2] == pytest.approx(nus[0], abs=1e-3)


def test_the_target_is_kept_from_the_representation():
    B, W = world()
    X, y = target(B, W)
    one, other = small(standardize=False), small(standardize=False)
    one.select((X, y), samplers(B, W), 600, heads=(W[:, :-1], W[:, -1]))
    other.select((X, -3 * y), samplers(B, W), 600, heads=(W[:, :-1], W[:, -1]))
    torch.testing.assert_close(one.trunk_[1][1].weight, other.trunk_[1][1].weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other.predict(X, 12), -3 * one.predict(X, 12), rtol=1e-3, atol=1e-4)


# -- select ----------------------------------------------------------------------------------------------------------


def test_known_heads_need_no_exploration_and_their_nu_is_followed():
    B, W = world()
    found = small().select(target(B, W), samplers(B, W), 2000, heads=(W[:, :-1], W[:, -1]))
    nu = abs(basis_pursuit(W[:, :-1], W[:, -1]))
    assert set(found.support) == set(np.flatnonzero(nu > 1e-8)) and not found.explored.any()
    assert found.counts.sum() == 2000 and found.counts.min() == 4
    assert found.relevance == pytest.approx(nu / nu.sum(), abs=1e-6)


@pytest.mark.parametrize("rule", ["l1", "l2", "uniform"])
def test_the_budget_counts_explored_labels_and_is_what_samplers_were_asked_for(rule):
    B, W = world()
    sources = samplers(B, W)
    found = small(rule=rule).select(target(B, W), sources, 900)
    assert found.spent == 900 == sum(one.drawn for one in sources)
    assert found.counts.tolist() == [one.drawn for one in sources] and (found.counts >= found.explored).all()
    assert len(found.support) <= 6 if rule == "l1" else len(found.support) == 12
    table = found.table()
    assert table.labels.sum() == 900 and table.labels.is_monotonic_decreasing and len(table) == 12


def test_labels_that_are_chosen_lower_the_error_more_than_labels_of_all_alike():
    errors = {"l1": [], "uniform": []}
    for seed in range(3):
        B, W = world(seed)
        X = np.random.default_rng(7).normal(size=(2000, 8))
        for rule, found in errors.items():
            model = small(rule=rule)
            model.select(target(B, W), samplers(B, W), 600)
            found.append(((model.predict(X, 12) - X @ B @ W[:, -1]) ** 2).mean())
    assert np.mean(errors["l1"]) < 0.8 * np.mean(errors["uniform"])


def test_a_source_that_is_the_target_gets_all_labels_where_there_is_little_noise():
    B, W = world()
    W[:, 3] = W[:, -1]
    found = small().select(target(B, W), samplers(B, W, noise=0.01), 600)
    assert found.counts.argmax() == 3 and found.counts[3] > 350


def test_dear_sources_get_fewer_labels_and_costs_are_counted():
    W, B = np.eye(3)[:, [0, 0, 1, 2, 0]], world()[0]
    found = small().select(target(B, W), samplers(B, W), 900, costs=[1, 4, 1, 1])
    assert found.counts[0] > 5 * found.counts[1] and found.spent == pytest.approx(900, abs=4)


def test_only_the_largest_are_kept_where_asked_and_may_share_equally():
    B, W = world()
    found = small(top=2, equal=True).select(target(B, W), samplers(B, W), 2000, heads=(W[:, :-1], W[:, -1]))
    best = np.argsort(-abs(basis_pursuit(W[:, :-1], W[:, -1])))[:2]
    assert set(found.support) == set(best) and found.counts[best].tolist() == [980, 980]


def test_pools_are_drawn_from_without_putting_back_and_run_dry_with_a_warning():
    B, W = world()
    pools = {f"s{t}": one.draw(60) for t, one in enumerate(samplers(B, W))}
    with pytest.warns(UserWarning, match="ran dry.*others were drawn from"):
        found = small().select(target(B, W), pools, 600)
    assert found.target == "target" and found.spent == 600 and found.counts.max() == 60
    with pytest.warns(UserWarning, match="120 of the budget is left"):
        assert small(rule="uniform").select(target(B, W), pools, 840).spent == 720
    with pytest.warns(UserWarning, match="ran dry"):
        limited = small().select(target(B, W), samplers(B, W, most=60), 600)
    assert limited.spent == 600


def test_samplers_of_tensors_run_dry_and_money_that_buys_no_more_of_a_chosen_source_is_no_dry_one():
    B, W = world()

    class Tensors(Sampler):
        def draw(self, n):
            return tuple(torch.tensor(part) for part in super().draw(n))

    with pytest.warns(UserWarning, match="ran dry"):
        assert small().select(target(B, W), samplers(B, W, kind=Tensors, most=15), 600).spent == 180
    W, costs = np.eye(3)[:, [0, 1, 2, 1]], [1, 50, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = small().select(target(B, W), samplers(B, W), 440, costs=costs, heads=(W[:, :3], W[:, 3]))
    assert found.counts.tolist() == [4, 8, 4]


def test_labels_that_the_target_lacks_may_be_nan_or_none():
    B, W = world()
    X, y = target(B, W)
    gaps, rest = np.where(np.arange(300) == 3, np.nan, y), np.arange(300) != 3
    pools = [one.draw(600) for one in samplers(B, W)]
    words = [(x, np.where(t > 0, "yes", "no")) for x, t in pools]
    for own, others in ((gaps, pools), (np.where(gaps > 0, "yes", "no"), words)):
        given = X, np.array([None if missing else one for missing, one in zip(~rest, own.tolist())], dtype=object)
        found = small().select(given, others, 600)
        assert found.counts.tolist() == small().select((X[rest], own[rest]), others, 600).counts.tolist()


def test_a_target_that_is_noise_or_constant_falls_back_to_all_sources():
    B, W = world()
    X, _ = target(B, W)
    with pytest.warns(UserWarning, match="Nothing of the target is found"):
        found = small().select((X, np.ones(len(X))), samplers(B, W), 600, kinds="regression")
    assert found.counts.tolist() == [50] * 12
    flat = [(np.ones((90, 8)), np.arange(90.0))] * 3
    with pytest.warns(UserWarning, match="Nothing of the target is found"):
        assert small().select((np.ones((20, 8)), np.arange(20.0)), flat, 90).counts.tolist() == [30] * 3


def test_a_budget_that_exploring_would_eat_is_explored_with_half():
    B, W = world()
    with pytest.warns(UserWarning, match="explore=15 labels of each of 12 sources are over half of the budget: 8"):
        found = small().select(target(B, W), samplers(B, W), 200)
    assert found.explored.tolist() == [8] * 12 and found.spent == 200


def test_classes_and_a_network_are_learned_and_saved(tmp_path):
    B, W = world()
    for shift, labels in enumerate((["no", "yes"], ["a", "b", "c"])):
        pools = {}
        for name, w in zip("stuvwxyz", W.T):
            X = Sampler(B @ w, ord(name)).draw(400)[0]
            pools[name] = X, np.array(labels)[np.digitize(X @ B @ w, [0, 1][: 1 + shift])]
        given = pools.pop("z")
        net = {"representation": "network", "hidden": (64,), "n_components": 8, "epochs": 20, "lr": 5e-3}
        model = small(rounds=1, **(net if shift else {}))
        found = model.select((given[0][:80], given[1][:80]), pools, 500)
        right = given[1][80:, None] == np.array(labels)
        own = model.predict(given[0][80:], "target") == given[1][80:]
        assert own.mean() > right.mean(0).max() + 0.1  # than the most frequent label
        model.save(tmp_path / str(shift))
        loaded = L1AMTRL.load(tmp_path / str(shift))
        assert np.array_equal(loaded.predict(given[0]), model.predict(given[0]))
        assert loaded.selection.table().equals(found.table()) and loaded.selection.spent == 500


def test_the_same_seed_buys_the_same_and_another_other_rows():
    B, W = world()
    pools = [one.draw(600) for one in samplers(B, W)]
    one, same, other = (small(seed=seed) for seed in (0, 0, 1))
    tables = [model.select(target(B, W), pools, 700).table() for model in (one, same, other)]
    assert tables[0].equals(tables[1]) and not np.array_equal(one.heads_, other.heads_)


def test_tasks_on_other_scales_are_warned_of_and_taken_by_themselves():
    B, W = world()
    X, head, y = rows(B, W, noise=0.1)
    scaled = y * np.where(head == 2, 1e3, 1)
    with pytest.warns(UserWarning, match="standardize='task'"):
        small().fit(X, scaled, head)
    one, other = (small(standardize="task").fit(X, values, head) for values in (y, scaled))
    np.testing.assert_allclose(one.heads_, other.heads_, atol=1e-4)


def test_relevance_names_the_tasks_that_a_task_is_made_of():
    B, W = world()
    W[:, 0] = -2 * W[:, 5]
    X, head, y = rows(B, W, noise=0.1)
    nu = small().fit(X, y, head).relevance(0)
    assert nu[5] < -0.6 and np.abs(np.delete(nu, 5)).max() < 0.1 and nu[0] == 0
    for named in ([0], np.array(0), torch.tensor(0), np.int64(0), 0.0):
        assert np.array_equal(small().fit(X, y, head).relevance(named), nu)
    for rule in ("l1", "l2", "uniform"):
        assert small(rule=rule).fit(X, y).relevance(0).tolist() == [0]


def test_one_call_selects():
    B, W = world()
    found = select_sources(target(B, W), samplers(B, W), 600, n_components=3, explore=10, costs=np.ones(12))
    assert found.model.explore == 10 and found.spent == 600


@pytest.mark.parametrize(("bad", "says"), [
    ({"budget": 0}, "above 0"), ({"budget": 40}, "at least 48"), ({"budget": float("nan")}, "above 0"),
    ({"budget": "many"}, "budget"), ({"sources": []}, "sequence of one source"), ({"sources": 3}, "sequence"),
    ({"sources": {"target": None, "b": None}}, "rename"), ({"sources": {"a": None, 1: None}}, "strings or by integers"),
    ({"sources": {2**63 - 1: None, 1: None}}, "arrays keep"), ({"sources": {"a\0": None, "a": None}}, "arrays keep"),
    ({"sources": [3]}, r"a pool \(X, y\)"), ({"costs": [1, 2]}, "12 finite"),
    ({"costs": "a"}, "costs must be numeric"), ({"costs": np.zeros(12)}, "above 0"),
    ({"heads": (np.ones((3, 2)), np.ones(3))}, r"W \(k, 12\)"),
    ({"heads": (np.full((3, 12), np.nan), np.ones(3))}, "finite"),
    ({"target": (np.ones((3, 8)), [1, 2])}, "target"), ({"target": (np.full((2, 8), np.nan), [1, 2])}, "target"),
    ({"target": 3}, "target"), ({"heads": 3}, "pair"), ({"progress": 3}, "progress"),
    ({"sources": [(np.ones((9, 8)), np.full(9, np.nan))] * 2}, "missing"),
    ({"sources": [(np.full((9, 8), np.inf), np.ones(9))] * 2}, "source 0"),
    ({"sources": [(np.ones((9, 8)), list("abcdefghi"))] * 2}, "labels of source 0 are <U1"),
    ({"sources": [(np.ones((9, 7)), np.arange(9.0) / 3)] * 2}, "features"),
    ({"sources": [Sampler(np.ones(8), most=0)] * 2}, "no rows"),
])  # fmt: skip
def test_bad_calls_are_refused_and_leave_the_model(bad, says):
    B, W = world()
    model = small().fit(*(part[::7] for part in (lambda X, h, y: (X, y, h))(*rows(B, W))))
    before = model.predict(np.ones((2, 8)))
    call = {"target": target(B, W), "sources": samplers(B, W), "budget": 600, **bad}
    with warnings.catch_warnings(), pytest.raises((ValueError, TypeError), match=says):
        warnings.simplefilter("ignore")
        model.select(**call)
    assert np.array_equal(model.predict(np.ones((2, 8))), before)
