"""Canvases of two digits: what they show, and whose labels are wrong."""

import numpy as np

from anytask.claims.multitask.overlaid import Overlaid, SharpnessAware
from anytask.multitask import SharedTrunk


def test_half_of_the_second_digits_training_labels_are_wrong_and_no_others():
    shown = [Overlaid().load("digits-images", per_task=400, tested=300, noise=noise).instance(3) for noise in (0, 0.5)]
    right, spoiled = (world.table.Y.to_numpy() for world in shown)
    assert np.array_equal(shown[0].table.X, shown[1].table.X) and shown[0].table.X.shape == (700, 144)
    assert np.array_equal(shown[0].train, np.arange(400)) and np.array_equal(shown[0].test, np.arange(400, 700))
    wrong = right != spoiled
    assert not wrong[:, 0].any() and not wrong[400:].any() and 0.35 < wrong[:400, 1].mean() < 0.55


def test_digits_stand_in_two_corners_and_are_trained_or_tested_on():
    world = Overlaid().load("digits-images", per_task=900, tested=900).instance(0)
    canvases = world.table.X.reshape(-1, 12, 12)
    assert not canvases[:, :4, 8:].any() and not canvases[:, 8:, :4].any() and canvases.max() == 1
    uncovered = canvases[:, :4, :8].reshape(1800, -1)
    trained, tested = ({row.tobytes() for row in uncovered[rows]} for rows in (world.train, world.test))
    assert len(trained) > 400 and len(trained & tested) < 10  # two digits may have their upper halves in common


def test_the_rival_perturbs_all_tasks_alike():
    X, Y = np.random.default_rng(0).normal(size=(2, 60, 3))
    plain, same = (model.fit(X, Y).predict(X) for model in (SharedTrunk(epochs=3), SharpnessAware(rho=0, epochs=3)))
    np.testing.assert_allclose(plain, same, atol=1e-5)
    assert not np.allclose(SharpnessAware(epochs=3).fit(X, Y).predict(X), plain)
