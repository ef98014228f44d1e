"""MLE+ERM: the formulas of its three models and of its predictors, and what the two phases reach on them."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.linear_model import RidgeCV
from sklearn.mixture import GaussianMixture

from anytask.core.checks import NotFinite
from anytask.pretrain import MLEERM
from anytask.pretrain.provable_pretraining import heads, latent

CONTRACT = {
    "MLEERM": {"n_components": 3},
    "MLEERM-mixture": {"model": "mixture", "n_components": 3},
    "MLEERM-contrastive": {"model": "contrastive", "n_components": 3, "pairs": {"steps": 20}},
    "MLEERM-perceptron": {
        "model": "contrastive", "n_components": 3, "pairs": {"backbone": None, "steps": 5, "batch_size": 8},
    },
}  # fmt: skip
RNG = np.random.default_rng(0)


def factor_world(seed, n=60, d=30, r=2, noise=0.3):
    """Rows of the factor model with unit noise, and labels that are linear in the factors."""
    rng = np.random.default_rng(seed)
    B, beta = rng.normal(size=(d, r)), np.ones(r)
    Z = rng.normal(size=(n, r))
    return Z @ B.T + rng.normal(size=(n, d)), Z @ beta + noise * rng.normal(size=n), B, beta


def mixture_world(seed, n, d=10, K=4, apart=6.0, psi=(0.95, 0.95, 0.05, 0.05)):
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.normal(size=(d, d)))[0][:K] * apart / np.sqrt(2)
    z = rng.integers(K, size=n)
    return U[z] + rng.normal(size=(n, d)), (rng.random(n) < np.array(psi)[z]).astype(int)


# -- A: factors -------------------------------------------------------------------------------------------------------


def test_loadings_of_a_diagonal_covariance():
    lam, U = np.array([5.0, 2.0, 1.0, 0.5]), np.eye(4)
    B = latent.loadings(lam, U, 2)
    np.testing.assert_allclose(B, [[2, 0], [0, 1], [0, 0], [0, 0]])
    assert latent.loadings(lam, U, 4)[:, 2:].tolist() == [[0, 0]] * 4  # eigenvalues of 1 and below, and no NaN


def test_both_formulas_of_the_posterior_mean_agree():
    np.testing.assert_allclose(latent.posterior_weights(np.array([[2.0], [0.0]])), [[0.4, 0]])
    B = np.array([[1.0, 0], [1, 1], [0, 2]])
    W = latent.posterior_weights(B)
    np.testing.assert_allclose(W, B.T @ np.linalg.inv(B @ B.T + np.eye(3)), atol=1e-12)
    right = [[0.352941, 0.294118, -0.117647], [-0.058824, 0.117647, 0.352941]]
    np.testing.assert_allclose(W, right, atol=1e-6)


def test_log_density_of_the_factor_model():
    found = latent.factor_log_likelihood(np.array([[1.0, 0], [0, 2], [1, 1]]), np.ones((2, 1)))
    np.testing.assert_allclose(found, [-2.720517, -3.720517, -2.720517], atol=1e-6)


def test_the_spectrum_of_few_rows_is_that_of_the_second_moments():
    X = RNG.normal(size=(6, 9))
    lam, U = latent.spectrum(X)
    np.testing.assert_allclose(lam, np.linalg.eigvalsh(X.T @ X / 6)[::-1], atol=1e-12)
    np.testing.assert_allclose(X.T @ X / 6, U * lam[:6] @ U.T, atol=1e-12)
    np.testing.assert_allclose(latent.spectrum(X.repeat(2, axis=0))[0], lam, atol=1e-12)


def test_unknown_noise_gives_probabilistic_pca_of_scikit_learn():
    X = factor_world(0, 200, 8)[0].astype(np.float32)
    model, pca = MLEERM(n_components=2, scale=False).fit(X), PCA(2).fit(X.astype(float))
    ours = model.noise_**2 * (model.B_ @ model.B_.T + np.eye(8))
    np.testing.assert_allclose(ours, pca.get_covariance() * 199 / 200, atol=1e-5)  # it divides by m - 1
    gap = model.log_likelihood(X).mean() - pca.score(X.astype(float))
    assert 0 <= gap < 1e-3  # ours is the maximum


def test_factor_analysis_of_scikit_learn_finds_the_same_where_its_noise_is_alike():
    B = RNG.normal(size=(6, 2))
    X = np.linalg.qr(RNG.normal(size=(300, 7)) - 0)[0]
    X = np.linalg.qr(X - X.mean(0))[0][:, :6]
    X = np.sqrt(300) * (X - X.mean(0)) @ np.linalg.cholesky(B @ B.T + np.eye(6)).T  # moments B B' + I, exactly
    found = FactorAnalysis(2, tol=1e-10, max_iter=5000).fit(X)
    for model in (MLEERM.from_preset("paper", n_components=2), MLEERM(n_components=2, scale=False)):
        model.fit(X)
        np.testing.assert_allclose(model.noise_, 1, atol=1e-5)
        np.testing.assert_allclose(model.B_ @ model.B_.T, B @ B.T, atol=1e-4)
        np.testing.assert_allclose(found.get_covariance(), B @ B.T + np.eye(6), atol=1e-2)
        np.testing.assert_allclose(model.log_likelihood(X).mean(), found.score(X), atol=1e-3)


def test_units_do_not_matter_once_columns_are_scaled():
    X, y, *_ = factor_world(1)
    units = np.logspace(-2, 2, 30)
    a, b = (MLEERM(n_components=2, scale=scale).fit(data, y) for data, scale in ((X, True), (X * units + 5, "auto")))
    np.testing.assert_allclose(a.predict(X), b.predict(X * units + 5), atol=1e-3)
    np.testing.assert_allclose(a.log_likelihood(X) - np.log(units).sum(), b.log_likelihood(X * units + 5), atol=1e-2)
    assert (MLEERM(n_components=2).fit(X).scale_ == 1).all()  # no column is ten times another
    assert (MLEERM(n_components=2).fit((X * units).reshape(-1, 5, 6)).scale_ == 1).all()  # and an image has one unit


def test_a_rotation_of_the_loadings_is_absorbed_by_the_predictor():
    X, y, *_ = factor_world(2)
    model = MLEERM(n_components=2).fit(X, y)
    before = model.predict(X)
    model.B_ = model.B_ @ np.linalg.qr(RNG.normal(size=(2, 2)))[0]
    np.testing.assert_allclose(model.fit_head(X, y).predict(X), before, atol=1e-8)


def test_the_number_of_factors_is_that_above_the_edge_of_noise():
    assert latent.edge(25, 100) == 2.25
    X = factor_world(3, 500)[0]
    assert MLEERM().fit(X).n_components_ == 2
    assert 2 <= MLEERM.from_preset("paper").fit(X).n_components_ <= 3  # the noise's largest may pass its edge
    assert MLEERM(model="mixture").fit(mixture_world(0, 400)[0]).n_components_ == 4
    with pytest.warns(UserWarning, match="nothing tells"):
        assert MLEERM(noise=1.2).fit(RNG.normal(size=(500, 5))).n_components_ == 1


def test_outlying_labels_are_dropped_by_the_truncated_loss():
    H = RNG.normal(size=(40, 2))
    y = H @ [1.0, -2.0]
    y[:4] += 50
    np.testing.assert_allclose(heads.truncated_least_squares(H, y, L=100.0), [1, -2], atol=1e-9)
    assert abs(heads.truncated_least_squares(H, y) - [1, -2]).max() > 0.1
    np.testing.assert_array_equal(heads.truncated_least_squares(H, y, np.inf), np.linalg.lstsq(H, y, rcond=None)[0])


# -- B: mixture -------------------------------------------------------------------------------------------------------


def test_one_step_of_em():
    X, means = np.array([[-2.0], [-1], [1], [3]]), np.array([[-1.0], [1]])
    P, _ = latent.responsibilities(X, means)
    np.testing.assert_allclose(P[:, 0], [0.982014, 0.880797, 0.119203, 0.002473], atol=1e-6)
    np.testing.assert_allclose(latent.update_means(X, P, means).ravel(), [-1.369727, 1.844792], atol=1e-6)


def test_the_likelihood_is_that_of_scikit_learn_and_never_falls():
    X = mixture_world(1, 200, apart=2.0)[0]
    for noise in (1.0, "auto"):
        model = MLEERM(model="mixture", n_components=4, noise=noise, scale=False, tol=0.0, restarts=1).fit(X)
        assert (np.diff(model.likelihoods_) > -1e-9).all()
        theirs = GaussianMixture(4, covariance_type="spherical")
        theirs.weights_, theirs.means_ = np.full(4, 0.25), model.means_ + model.mean_
        theirs.precisions_cholesky_ = np.full(4, 1 / model.noise_)
        theirs.covariances_ = np.full(4, model.noise_**2)
        np.testing.assert_allclose(model.log_likelihood(X), theirs.score_samples(X), atol=1e-4)
        np.testing.assert_allclose(model.transform(X), theirs.predict_proba(X), atol=1e-4)


def test_more_starts_never_end_lower():
    X = mixture_world(2, 150, K=6, psi=[0.5] * 6)[0]
    ends = [latent.fit_mixture(X, 6, variance=1.0, restarts=n, max_iter=50, tol=1e-6, seed=0)[2][-1] for n in (1, 3, 9)]
    assert ends == sorted(ends)


def test_classes_of_components_are_enumerated_and_ties_broken():
    P = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.5, 0.5, 0]])
    assert heads.enumerated(P, np.array([1, 0, 1]), 2).tolist() == [1, 0, 0]  # 1 from a half on
    assert heads.enumerated(P[:1], np.array([0]), 2).tolist() == [0, 0, 0]
    assert heads.enumerated(np.eye(3), np.array([2, 0, 1]), 3).tolist() == [2, 0, 1]


def test_the_surrogate_never_raises_the_log_loss_and_keeps_the_simplex():
    P, y = RNG.dirichlet(np.ones(5), 60), RNG.integers(3, size=60)

    def loss(steps):
        return -np.log((P @ heads.surrogate(P, y, 3, steps))[np.arange(60), y]).mean()

    losses = [loss(steps) for steps in (0, 1, 5, 50, 500)]
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[-1]
    psi = heads.surrogate(P, y, 3)
    assert np.allclose(psi.sum(1), 1) and (psi >= 0).all()


def test_a_mixture_learns_from_a_handful_of_labels():
    X, y = mixture_world(3, 700)
    model = MLEERM(model="mixture").fit(X[:16], y[:16], unlabeled=X[16:500])
    assert model.score(X[500:], y[500:]) > 0.85
    assert sorted(model.psi_[:, 1]) == [0, 0, 1, 1]
    names = np.array(["no", "yes"])[y]
    assert (
        model.fit_head(X[:16], names[:16]).predict(X)
        == np.array(["no", "yes"])[model.fit_head(X[:16], y[:16]).predict(X)]
    ).all()
    surrogate = model.set_params(erm="surrogate").fit_head(X[:16], y[:16])
    assert surrogate.score(X[500:], y[500:]) > 0.85


# -- C: pairs ---------------------------------------------------------------------------------------------------------


def test_the_loss_of_pairs():
    f, g = torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[2.0, 1], [1, -1]])
    found = latent.pair_log_likelihood(f, g, torch.tensor([1.0, -1]))
    np.testing.assert_allclose(found, [-0.126928, -0.126928], atol=1e-6)


def test_pairs_of_views_are_half_of_one_row_and_half_of_two():
    X = torch.arange(6.0)[:, None]
    a, b, t = latent.pairs_of_views(X, lambda x, generator: x, torch.Generator().manual_seed(0))
    assert ((a == b).ravel() == (t == 1)).all() and t.sum() == 0 and len(t) == 12


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    V = rng.normal(size=(2, 12)) / np.sqrt(6)
    A, B = rng.normal(size=(2, 2000, 12))
    scores = ((A @ V.T) * (B @ V.T)).sum(1)
    return V, A, B, np.where(rng.random(2000) < 1 / (1 + np.exp(-scores)), 1, -1)


def test_pairs_identify_f_up_to_a_rotation(pairs):
    V, A, B, t = pairs
    model = MLEERM.from_preset("paper", model="contrastive", n_components=2, pairs={"steps": 30}).fit_pairs(A, B, t)
    found = model.f_[1].weight.detach().double().numpy()
    gram = V.T @ V
    assert np.linalg.norm(found.T @ found - gram) < 0.3 * np.linalg.norm(gram)
    assert model.log_likelihood(A, B, t).mean() > np.log(0.5) + 0.1
    beta = np.array([1.0, -1.0])
    y = A[:10] @ V.T @ beta
    assert model.fit_head(A[:10], y).score(A[1000:], A[1000:] @ V.T @ beta) > 0.8


def test_pairs_are_refused_where_they_make_no_sense(pairs):
    _, A, B, t = pairs
    model = MLEERM(model="contrastive", n_components=2)
    for bad, says in [((A, B[:5], t), "shapes"), ((A, B, t[:5]), "shapes"), ((A, B, t * 2), "t must hold")]:
        with pytest.raises(ValueError, match=says):
            model.fit_pairs(*bad)
    assert not model.__sklearn_is_fitted__() and "_signs" not in vars(model)
    with pytest.raises(ValueError, match="contrastive"):
        MLEERM().fit_pairs(A, B, t)


def test_likelihoods_are_of_signs(pairs):
    _, A, B, t = pairs
    model = MLEERM(model="contrastive", n_components=2, pairs={"steps": 2}).fit_pairs(A, B, t)
    for bad, says in [(t[:, None], "shapes"), (t[:5], "shapes"), (t * 0, "t must hold"), (t * np.nan, "t must hold")]:
        with pytest.raises(ValueError, match=says):
            model.log_likelihood(A, B, bad)


@pytest.mark.parametrize("model", ["factors", "mixture", "contrastive"])
def test_units_do_not_matter(model):
    X, y, *_ = factor_world(12, 300)
    answers = [MLEERM(model=model, n_components=2).fit(c * X).fit_head(c * X[:20], y[:20]).predict(c * X)
               for c in (1.0, 2.0**-8, 2.0**8)]  # fmt: skip
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], rtol=1e-5)


def test_training_of_f_that_diverges_is_refused(pairs):
    model = MLEERM(model="contrastive", n_components=2, pairs={"backbone": None, "lr": 1e30, "steps": 5})
    with pytest.raises(NotFinite, match=r"loss|weight"):
        model.fit(pairs[1][:50])


def test_what_no_label_tells_of_has_the_mean_of_the_labels():
    X, y, *_ = factor_world(13)
    for model in (MLEERM(n_components=2), MLEERM(model="mixture", n_components=4, scale=False)):
        model.fit(X).fit_head(np.repeat(X[:1], 8, axis=0), 1000 + y[:8])
        np.testing.assert_allclose(model.predict(X), 1000 + y[:8].mean(), atol=1e-6)


def test_responsibilities_of_what_lies_far_off_sum_to_one():
    X = mixture_world(4, 100)[0]
    model = MLEERM(model="mixture", n_components=4).fit(X)
    np.testing.assert_allclose(model.transform(1e30 * X).sum(1), 1)


# -- two phases -------------------------------------------------------------------------------------------------------


def test_two_phases_beat_ridge_regression_unless_the_structure_of_the_columns_is_destroyed():
    errors = []
    for seed in range(10):
        X, y, *_ = factor_world(seed, 1500, d=60, r=3)
        model = MLEERM(n_components=3).fit(X[:10], y[:10], unlabeled=X[10:1000])
        ridge = RidgeCV(np.logspace(-3, 4, 15)).fit(X[:10], y[:10])
        spoiled = MLEERM(n_components=3).fit(RNG.permuted(X[:1000], axis=0)).fit_head(X[:10], y[:10])
        errors.append([1 - one.score(X[1000:], y[1000:]) for one in (model, ridge, spoiled)])
    two, alone, destroyed = np.mean(errors, axis=0)
    assert two < 0.85 * alone < alone < destroyed


def test_one_latent_model_serves_several_predictors():
    X, y, *_ = factor_world(5, 800)
    model = MLEERM().fit(X[:500])
    H = model.transform(X)
    assert model.fit_head(X[:50], y[:50]).score(X[500:], y[500:]) > 0.7
    labels = np.where(y > 0, "high", "low")
    assert model.fit_head(X[:50], labels[:50]).score(X[500:], labels[500:]) > 0.8
    assert model.predict_proba(X).shape == (800, 2) and not hasattr(model, "psi_")
    np.testing.assert_array_equal(model.transform(X), H)
    three = np.digitize(y, [-1, 1])
    assert model.fit_head(X[:200], three[:200]).predict_proba(X).shape == (800, 3)
    assert model.score(X[500:], three[500:]) > 0.6


def test_labels_that_are_all_alike_are_what_everybody_is_given():
    X = factor_world(6)[0]
    for model in (MLEERM(n_components=2), MLEERM(model="mixture", n_components=2)):
        model.fit(X)
        with pytest.warns(UserWarning, match="all labels are"):
            assert (model.fit_head(X[:5], ["a"] * 5).predict(X) == "a").all()
        with pytest.warns(UserWarning, match="all labels are"):
            np.testing.assert_allclose(model.fit_head(X[:5], np.full(5, 2.5)).predict(X), 2.5)


def test_what_cannot_be_fitted_is_refused_and_leaves_no_trace():
    X, y, *_ = factor_world(7)
    model = MLEERM(n_components=4).fit(X, y)
    before = model.predict(X)
    for call, says in [
        (lambda: model.fit_head(X[:3], y[:3]), "3 labels are too few"),
        (lambda: model.fit(X[:3], y[:3]), "too many for 3 rows"),
        (lambda: model.fit(X, y, unlabeled=X[:, :4]), "unlabeled holds"),
        (lambda: model.fit(X, y[:-1]), "rows and y has"),
        (lambda: model.fit_head(X, np.where(y > 1, np.nan, y)), "NaN"),
        (lambda: model.fit(X, y, unlabeled=np.full_like(X, np.nan)), "unlabeled contains NaN"),
        (lambda: model.predict_proba(X), "fitted to numbers"),
        (lambda: model.log_likelihood(X[:, :2]), "features"),
        (lambda: MLEERM().fit(X).predict(X), "seen no labels"),
        (lambda: MLEERM(model="mixture", n_components=70).fit(X), "too many for 60 rows"),
        (lambda: MLEERM(model="contrastive", n_components=1).fit(X[:1]), "2 rows"),
        (lambda: MLEERM(model="contrastive", n_components=1, pairs={"steps": 2}).fit(X).log_likelihood(X), "of pairs"),
        (lambda: MLEERM(model="mixture", n_components=13, erm="enumerate").fit(X, y > 0), "assignments"),
        (lambda: MLEERM().rates(10), "before a fit"),
        (lambda: model.rates(0), "n must"),
        (lambda: model.rates(10, m=0), "m must"),
        (lambda: model.log_likelihood(X, X, np.ones(60)), "of inputs, not of pairs"),
        (lambda: model.rates(10, delta=1.0), "delta must"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=says):
            call()
    np.testing.assert_array_equal(model.predict(X), before)


def test_the_predictor_is_saved_with_the_model(tmp_path):
    X, y = mixture_world(8, 100)
    model = MLEERM(model="mixture", n_components=4).fit(X, np.array(["b", "a"])[y])
    model.save(tmp_path)
    assert (MLEERM.load(tmp_path).predict(X) == model.predict(X)).all()


# -- will it pay? -----------------------------------------------------------------------------------------------------


def test_rates_have_the_terms_of_the_bound():
    found = MLEERM(n_components=3).rates(n=100, m=4000, d=60, L=2.0, delta=0.1, kappa=1.5)
    assert (found.C_phi, found.C_psi, found.C) == (180, 3, 60)
    assert found.pretrain == pytest.approx(12 * 1.5 * 2 * np.sqrt((180 * np.log(4000) + np.log(10)) / 4000))
    assert found.labelled == pytest.approx(4 * np.sqrt(0.03) + 4 * np.sqrt(np.log(40) / 200))
    assert found.supervised == pytest.approx(4 * np.sqrt(0.6) + 4 * np.sqrt(np.log(40) / 200))
    at = [MLEERM(n_components=3).rates(n=100, m=found.m_needed + k, d=60, L=2.0, delta=0.1, kappa=1.5) for k in (-1, 0)]
    assert [one.pretrain <= one.labelled for one in at] == [False, True]
    pays = [MLEERM(n_components=3).rates(n=100, m=found.m_to_pay + k, d=60).pays for k in (-1, 1)]
    assert pays == [False, True]
    assert MLEERM(n_components=60).rates(n=100, m=4000, d=60).m_to_pay == np.inf
    assert "constants not tight" in str(found) and len(found.table()) == 5


def test_the_diagnosis_tells_structure_from_noise():
    X, y, *_ = factor_world(9, 900)
    good = MLEERM(n_components=2).diagnose(X[:40], y[:40], X[40:])
    assert good.informative and good.gain > 1 and "is informative" in str(good)
    noise = np.random.default_rng(1).normal(size=X.shape)
    bad = MLEERM(n_components=2).diagnose(noise[:40], y[:40], noise[40:], rounds=1)
    assert not bad.informative and bad.gain < good.gain / 5 and "not informative" in str(bad)
    assert len(good.table()) == 3
    pairs = MLEERM(model="contrastive", n_components=2, pairs={"steps": 20}).diagnose(X[:40], y[:40], X[40:], rounds=1)
    assert pairs.gain > 0


def test_learning_curves_over_labels_and_rows_without_labels():
    X, y, *_ = factor_world(10, 800)
    curve = MLEERM(n_components=2).learning_curve(X[:200], y[:200], X[200:], n=(8, 100), m=(30, 600), repeats=3)
    assert curve.two_phases.shape == (3, 2, 2) and curve.labels_alone.shape == (3, 2)
    scores = curve.two_phases.mean(0)
    assert scores[1, 0] > curve.labels_alone[:, 0].mean() + 0.1 and scores[1, 1] > scores[0, 0]
    again = MLEERM(n_components=2).learning_curve(X[:200], y[:200], X[200:], n=np.array([8]), m=(600,), repeats=1)
    assert again.n == (8,) and again.two_phases[0, 0, 0] == curve.two_phases[0, 1, 0]
    assert len(curve.table()) == 4 and len(curve.plot().data) == 3
    told = []
    MLEERM(n_components=1).learning_curve(X[:80], (y > 0)[:80], repeats=1, progress=told.append)
    assert told[-1] == 1


def test_studies_refuse_what_tells_nothing():
    X, y, *_ = factor_world(11)
    model, rare = MLEERM(n_components=2), np.arange(60) == 0
    for call, says in [
        (lambda: model.learning_curve(X, y, n=(70,)), "n must be integers from 2 to 45"),
        (lambda: model.learning_curve(X, y, n=5), "n must be integers"),
        (lambda: model.learning_curve(X, y, m="all"), "m must be integers"),
        (lambda: model.learning_curve(X, np.zeros(60)), "all labels are 0"),
        (lambda: model.diagnose(X, rare), "rarest class, which is 1, got 5"),
        (lambda: model.diagnose(X, y, folds=61), "which is 60, got 61"),
        (lambda: model.diagnose(X[:5], y[:5]), "too few to hold some out"),
        (lambda: model.diagnose(X, np.where(y > 1, np.nan, y)), "NaN"),
    ]:
        with pytest.raises(ValueError, match=says):
            call()
