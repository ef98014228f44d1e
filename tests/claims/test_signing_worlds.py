"""Worlds of signed sentences for claims: what is hidden, what is shared, and rivals that learn."""

import numpy as np
import pytest
import torch

from anytask.claims.pretrain import signing_worlds
from anytask.claims.pretrain.signing_worlds import DigitSigning, MaxSimEncoder, ShiftedSigns, WordRidge
from anytask.datasets.signing import signing
from anytask.problems.base import Entrant


def test_the_new_domain_is_the_old_one_turned():
    problem = ShiftedSigns()
    still, far = (problem.load("x", shift=shift, noise=0.01) for shift in (0.0, np.pi))
    x, y = still.vectors(1, "labelled")
    for data, sign in ((still, 1), (far, -1)):  # half a turn in each plane points away
        z, of = data.vectors(1, "tested")
        for c in range(5):
            np.testing.assert_allclose(z[of == c].mean(0), sign * x[y == c].mean(0), atol=0.02)
    assert not np.array_equal(still.vectors(1, "n")[1][:50], still.vectors(2, "n")[1][:50])


def test_the_untuned_copy_is_the_source_classifier():
    problem = ShiftedSigns()
    data = problem.load("x", shift=0.0, n=100, tested=200, labelled=2000, noise=0.2)
    entrant = Entrant("source", "anytask.claims.pretrain.signing_worlds:CopyOnVectors", {"epochs": 0})
    found = problem.run(entrant, data, 0).metrics
    assert min(found["accuracy"], found["labels"]) > 0.9 and 0 < found["sure"] <= 1


def test_maxsim_takes_the_best_partner_in_both_directions():
    a = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    b = torch.tensor([[[2.0, 0.0]]])
    every = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    # From a: (1 + 0) / 2; from b: 1.
    assert MaxSimEncoder()._score(a, b, *every).item() == pytest.approx(0.75)


def test_ridge_regression_finds_the_signs_of_a_sum():
    world = signing(0, n=400, tested=40)
    S = WordRidge().fit(*world.train).scores(*world.tested)
    assert (S.argmax(1) == np.arange(40)).mean() > 0.4


def test_digits_that_are_tested_on_are_not_learned_from(monkeypatch):
    X, y = np.arange(4 * 80, dtype=np.float32).reshape(4, 80, 1), np.arange(80) % 10
    monkeypatch.setattr(signing_worlds, "digit_vectors", lambda: (X, y, np.arange(80)))
    drawn = DigitSigning().load("digits", n=60, tested=30).draw(0)
    learned = {int(v) % 80 for sequence in drawn.graphs[""][0] for v in sequence[:, 0]}
    ranking = drawn.known[""]
    assert not learned & {int(v) % 80 for sequence in ranking.queries for v in sequence[:, 0]}
    for sequence, sentence in zip(ranking.queries, ranking.targets):
        turns = ("upright", "left", "inverted", "right")
        assert {f"{turns[int(v) // 80]}{int(v) % 80 % 10}" for v in sequence[:, 0]} == set(sentence.split())
