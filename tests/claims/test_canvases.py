"""Canvases of digits: what they show, and that no image of a digit is both trained and tested on."""

import numpy as np

from anytask.claims.continual.canvases import Canvases, canvases


def test_a_canvas_shows_one_to_three_digits_in_quadrants_of_their_own():
    X, Y, _ = canvases(280)
    quadrants = X.reshape(280, 2, 8, 2, 8).max(axis=(2, 4)) > 0.5  # noise has a standard deviation of 0.05
    shown = quadrants.sum(axis=(1, 2))
    assert set(shown) == {1, 2, 3} and (Y.sum(1) <= shown).all() and (Y.sum(1) == shown).mean() > 0.8
    assert np.array_equal(X, canvases(280)[0])


def test_pools_of_images_are_trained_or_tested_on():
    data = Canvases().load(280, n_tasks=5, test_size=2 / 7)
    for seed in range(3):
        tasks = data.stream(seed).tasks
        trained = {pool for task in tasks for pool in data.source.group[task.train]}
        assert trained.isdisjoint(data.source.group[tasks[0].test]) and len(trained) >= 14
