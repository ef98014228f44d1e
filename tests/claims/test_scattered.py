"""Canvases of the claim of SimCLRv2: the digit is on them, whole, at some place."""

import numpy as np

from anytask.claims.pretrain.scattered import Scattered
from anytask.claims.pretrain.self_training import SelfTraining
from anytask.datasets.labelled import load_labelled


def test_every_canvas_holds_its_digit_and_nothing_else():
    data = Scattered().load("digits-images", per_class=2)
    plain = load_labelled("digits-images")
    rows = np.arange(50)
    canvases, digits = data.inputs(rows), np.asarray(plain.X[rows])
    assert canvases.shape[1:] == (1, 12, 12) and np.array_equal(data.source.y, plain.y)
    np.testing.assert_allclose(canvases.sum((1, 2, 3)), digits.sum((1, 2, 3)), rtol=1e-5)
    moved = [abs(c[0, :8, :8] - d[0]).max() > 0 for c, d in zip(canvases, digits)]
    assert 0.5 < np.mean(moved) < 1


def test_self_training_takes_its_confident_answers_for_labels():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 50)
    X = np.stack([y, y], 1) + 0.2 * rng.normal(size=(100, 2))
    far = np.array([[8.0, -3.0], [-6.0, 5.0]]).repeat(20, 0)  # on either side, where the first column decides
    alone, more = SelfTraining().fit(X, y), SelfTraining().fit(X, y, far)
    slopes = [model.model_.coef_[0] if model is alone else model.model_.estimator_.coef_[0] for model in (alone, more)]
    assert slopes[1][0] - slopes[1][1] > slopes[0][0] - slopes[0][1] + 0.1
    assert more.predict_proba(X).argmax(1).tolist() == alone.predict_proba(X).argmax(1).tolist()
