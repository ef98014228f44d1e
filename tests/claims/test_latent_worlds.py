"""Worlds with latent variables: what their best predictor is, and what is taken away from phase 1."""

import numpy as np
import pytest

from anytask.claims.pretrain.latent_worlds import LatentWorlds, Spoiled, TunedLogistic
from anytask.pretrain import MLEERM
from anytask.problems.base import Entrant

LEAST = Entrant("least squares", "sklearn.linear_model:LinearRegression", {"fit_intercept": False}, "baseline")


@pytest.mark.parametrize("name", ["factors", "pairs"])
def test_least_squares_on_very_many_labels_comes_near_the_best_predictor(name):
    problem = LatentWorlds()
    few, many = (problem.run(LEAST, problem.load(name, n=n, m=10, d=20), 3).metrics["excess"] for n in (30, 20000))
    assert 0 < many < 0.01 < few


def test_the_best_answers_of_a_mixture_have_no_excess_and_their_opposite_all_of_it():
    problem = LatentWorlds()
    data = problem.load("mixture", d=10, m=20)
    world = data.world(0)
    right, wrong = (
        problem.test(LEAST, type("Known", (), {"predict": lambda self, X, y=y: y})(), data, 0, float).metrics["excess"]
        for y in (world.best >= 0.5, world.best < 0.5)
    )
    assert right == 0 and wrong == pytest.approx(abs(2 * world.best - 1).mean())


def test_what_is_taken_away_from_the_first_phase():
    world = LatentWorlds().load("factors", m=500, tested=10).world(1)
    shown = {"unlabeled": world.unlabeled}
    plain = MLEERM(n_components=3).fit(world.unlabeled[:100]).fit_head(world.X, world.y)
    fewer = Spoiled(n_components=3, pool=100).fit(world.X, world.y, **shown)
    assert np.array_equal(fewer.predict(world.X_test), plain.predict(world.X_test))
    lam = MLEERM(n_components=3).fit(world.unlabeled).eigenvalues_
    spoiled = Spoiled(n_components=3, permute=True).fit(world.X, world.y, **shown).eigenvalues_
    assert spoiled.sum() == pytest.approx(lam.sum(), rel=1e-4) and spoiled[0] < lam[2]
    random = Spoiled(n_components=3, at_random=True).fit(world.X, world.y, **shown)
    kept = Spoiled(n_components=3).fit(world.X, world.y, **shown)
    assert np.linalg.norm(random.B_) == pytest.approx(np.linalg.norm(kept.B_)) and not np.allclose(random.B_, kept.B_)


def test_components_of_the_rival_come_from_inputs_without_labels_too():
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(300, 1)) @ rng.normal(size=(1, 12)) + 0.3 * rng.normal(size=(300, 12))
    y = (pool[:, 0] > 0).astype(int)
    model = TunedLogistic(components=1).fit(pool[:20], y[:20], unlabeled=pool[20:])
    assert (model.predict(pool) == y).mean() > 0.8 and np.allclose(model.predict_proba(pool).sum(1), 1)
    assert model._model.steps[1][1].n_samples_ == 300
