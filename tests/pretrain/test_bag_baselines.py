"""Plain features of bags: against numpy and scikit-learn, and what they refuse."""

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA

from anytask.pretrain import MaxPooling, MeanCCA, MeanPooling, PCAMeans, PrototypePooling

CONTRACT = {"PCAMeans": {"n_components": 3}}
RNG = np.random.default_rng(0)
B = RNG.normal(size=(80, 2))
MAPS = RNG.normal(size=(2, 2, 4))
VIEWS = {name: [b @ M + 0.5 * RNG.normal(size=(RNG.integers(1, 6), 4)) for b in B] for name, M in zip(("a", "b"), MAPS)}
MEANS = {name: np.stack([bag.mean(0) for bag in bags]) for name, bags in VIEWS.items()}


def test_means_and_largest_values_are_those_of_numpy():
    np.testing.assert_allclose(MeanPooling().fit_transform(VIEWS), MEANS["a"], atol=1e-6)
    right = np.stack([bag.max(0) for bag in VIEWS["b"]])
    np.testing.assert_allclose(MaxPooling().fit(VIEWS).transform(VIEWS, view="b"), right, atol=1e-6)


def test_components_of_means_are_those_of_scikit_learn():
    found, right = PCAMeans(n_components=3).fit_transform(VIEWS), PCA(3).fit_transform(MEANS["a"])
    np.testing.assert_allclose(abs(found), abs(right), atol=1e-5)


def test_canonical_directions_are_those_of_scikit_learn():
    found = MeanCCA(n_components=2, ridge=1e-9).fit_transform(VIEWS)
    right = CCA(2, scale=False, max_iter=5000, tol=1e-10).fit(MEANS["a"], MEANS["b"]).transform(MEANS["a"])
    for mine, theirs in zip(found.T, right.T):
        assert abs(np.corrcoef(mine, theirs)[0, 1]) > 0.9999
    with pytest.raises(ValueError, match="anchor 'a' alone"):
        MeanCCA().fit(VIEWS).transform(VIEWS, view="b")
    with pytest.raises(ValueError, match="nothing can be correlated"):
        MeanCCA().fit(VIEWS["a"])


def test_shares_and_offsets_by_prototype_make_up_the_mean():
    model = PrototypePooling(n_prototypes=3).fit(VIEWS)
    H = model.transform(VIEWS)
    shares, offsets = H[:, :3], H[:, 3:].reshape(80, 3, 4)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    mean = np.einsum("nk,nkd->nd", shares, offsets + model.prototypes_.numpy())
    np.testing.assert_allclose(mean, MEANS["a"], atol=1e-5)
    assert not offsets[shares == 0].any()
