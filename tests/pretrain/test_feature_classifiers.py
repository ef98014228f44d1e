"""Frozen features under a linear model: what is scaled, who learns from inputs without labels, and what is saved."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from anytask.pretrain import FeatureClassifier, SelfTraining

CONTRACT = {
    "FeatureClassifier": {"params": {"n_components": 5}},
    "FeatureClassifier-network": {
        "encoder": "SimCLRv2",
        "params": {"backbone": None, "views": {"kind": "noise"}, "labelled_views": {"kind": "noise"}, "epochs": 1},
    },
}
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(60, 5)) * [1, 1, 1, 100, 0.01]).astype(np.float32)
Y = np.where(X[:, 0] + X[:, 3] / 100 > 0, "yes", "no")


@pytest.mark.parametrize("classes", [2, 3])
def test_raw_features_are_logistic_regression_of_a_standardized_table(classes):
    y = np.arange(60) % 3 if classes == 3 else Y
    rows = np.concatenate([np.flatnonzero(y == c)[:4] for c in np.unique(y)])
    found = FeatureClassifier(encoder="RawFeatures").fit(X[rows], y[rows], unlabeled=np.delete(X, rows, 0))
    scaler = StandardScaler().fit(X)
    right = LogisticRegression(max_iter=1000).fit(scaler.transform(X[rows]), y[rows])
    np.testing.assert_allclose(found.predict_proba(X), right.predict_proba(scaler.transform(X)), atol=2e-3)


def test_units_of_columns_do_not_matter():
    a = FeatureClassifier(params={"n_components": 2}).fit(X[:12], Y[:12], unlabeled=X[12:])
    b = FeatureClassifier(params={"n_components": 2}).fit(4 * X[:12], Y[:12], unlabeled=4 * X[12:])
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(4 * X), atol=1e-3)


def test_self_training_is_that_of_scikit_learn_and_a_plain_head_without_more_inputs():
    found = SelfTraining(threshold=0.8).fit(X[:6], Y[:6], unlabeled=X[6:])
    scaled = StandardScaler().fit_transform(X)
    known = np.concatenate([(Y[:6] == "yes").astype(int), np.full(54, -1)])
    right = SelfTrainingClassifier(LogisticRegression(max_iter=1000), threshold=0.8).fit(scaled, known)
    assert (right.transduction_ >= 0).sum() > 6
    np.testing.assert_allclose(found.predict_proba(X), right.predict_proba(scaled), atol=2e-3)
    alone = SelfTraining().fit(X[:6], Y[:6]).predict_proba(X)
    assert np.array_equal(alone, FeatureClassifier(encoder="RawFeatures").fit(X[:6], Y[:6]).predict_proba(X))


@pytest.mark.parametrize("name", ["Nobody", "IsoCVGAE", None, 3])
def test_encoders_of_other_inputs_are_refused(name):
    with pytest.raises(ValueError, match="encoder must name a class"):
        FeatureClassifier(encoder=name)


def test_labels_count_by_their_weights():
    weights = np.arange(6) % 3 + 0.5
    found = FeatureClassifier(encoder="RawFeatures").fit(X[:6], Y[:6], unlabeled=X[6:], sample_weight=weights)
    scaled = StandardScaler().fit_transform(X)
    right = LogisticRegression().fit(scaled[:6], Y[:6], sample_weight=weights)
    np.testing.assert_allclose(found.predict_proba(X), right.predict_proba(scaled), atol=2e-3)


def test_labels_must_be_learned_before_they_are_asked_for():
    with pytest.raises(ValueError, match="learned no labels yet"):
        FeatureClassifier().fit(X).predict(X)
