"""Features that everybody has, by scikit-learn and by networks that never learned."""

import numpy as np
import torch
from sklearn.decomposition import PCA

from anytask.pretrain import PCAFeatures, PretrainedEncoder, RandomEncoder, RawFeatures

CONTRACT = {
    "PretrainedEncoder": {"backbone": "small_cnn", "n_features": 8, "size": 16},
    "PCAFeatures": {"n_components": 5},
}
X = np.random.default_rng(0).normal(size=(30, 1, 8, 8)).astype(np.float32)


def test_raw_features_are_the_values():
    assert np.array_equal(RawFeatures().fit_transform(X), X.reshape(30, 64).astype(float))


def test_principal_components_are_those_of_scikit_learn():
    flat = X.reshape(30, 64).astype(float)
    found, right = PCAFeatures(n_components=5).fit_transform(X), PCA(5).fit_transform(flat)
    np.testing.assert_allclose(abs(found), abs(right), atol=1e-5)
    assert PCAFeatures().fit_transform(X).shape == (30, 30)  # no more than rows


def test_a_random_encoder_does_not_learn_from_what_it_is_shown():
    a = RandomEncoder(seed=1).fit(X).transform(X)
    assert np.array_equal(RandomEncoder(seed=1).fit(2 * X).transform(X), a)
    assert not np.array_equal(RandomEncoder(seed=2).fit(X).transform(X), a)


def test_small_images_are_enlarged_before_a_pretrained_encoder_sees_them():
    class Edge(torch.nn.Module):
        def forward(self, x):
            return x.new_full((len(x), 1), x.shape[-1])

    assert (PretrainedEncoder(backbone=Edge(), size=20).fit_transform(X) == 20).all()
    assert (PretrainedEncoder(backbone=Edge(), size=4).fit_transform(X) == 8).all()
