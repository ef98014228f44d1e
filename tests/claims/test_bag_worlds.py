"""Bags that seeds draw: what differs between seeds, and what a view shares with the others."""

import numpy as np
import torch

from anytask.claims.pretrain import bag_worlds
from anytask.claims.pretrain.bag_worlds import DigitBags, DrawnBags, Misaligned, rendered
from anytask.pretrain import MADELEINE


def test_a_seed_draws_its_own_bags_and_splits_them():
    problem = DrawnBags()
    data = problem.load("some", cases=40, shots=(2,))
    seen = []

    class Spy:
        def fit(self, X):
            seen.append(X)
            return self

    entrant = type("", (), {"make": lambda self, *_, **__: Spy()})()
    for seed in (0, 0, 1):
        problem.train(entrant, data, seed, lambda share: None)
    first = [X["anchor"][0] for X in seen]
    assert np.array_equal(first[0], first[1]) and not np.array_equal(first[0], first[2])


def test_digits_of_a_case_are_of_its_class_and_pool_and_in_one_view_each(monkeypatch):
    y = np.repeat(np.arange(10), 42)
    marks = np.arange(420.0)[:, None]
    clear = {name: np.concatenate([marks, np.full_like(marks, place)], 1) for place, name in enumerate("abc")}
    mixed = {name: np.full((420, 2), -1.0) for name in "abc"}
    monkeypatch.setattr(bag_worlds, "patch_features", lambda per_class, size: (clear, mixed, y))
    options = DigitBags().check_options({"cases": 60, "shots": (1,)})
    data = DigitBags().drawn(options, 3)
    assert all(bag is not None for bag in data.views["a"]) and any(bag is None for bag in data.views["b"])
    for case in range(60):
        bags = [bags[case] for bags in data.views.values() if bags[case] is not None]
        shown = np.concatenate([bag[bag[:, 0] >= 0, 0] for bag in bags]).astype(int)
        assert len(set(shown)) == len(shown) == 2 * len(bags) and {len(bag) for bag in bags} == {9}
        assert set(y[shown]) == {data.y[case]} and set(shown % 7) == {data.group[case]}


def test_renderings_color_paper_and_ink():
    image = torch.tensor([[[[0.0, 1.0]]]])
    assert torch.equal(rendered(image, "ink")[0, :, 0], torch.tensor([[1.0, 0.0]] * 3))
    assert torch.allclose(rendered(image, "night")[0, :, 0, 1], torch.tensor([1.0, 1.0, 0.6]))


def test_shuffled_cases_keep_their_bags_and_lose_their_partners(monkeypatch):
    seen = {}
    monkeypatch.setattr(MADELEINE, "_train", lambda self, data, progress: seen.update(data))
    bags = [np.full((n, 1), n, np.float32) for n in range(1, 30)]
    Misaligned().fit({"a": bags, "b": bags})
    assert seen["a"].lengths.tolist() == list(range(1, 30)) != seen["b"].lengths.tolist()
    assert sorted(seen["b"].lengths.tolist()) == list(range(1, 30))
    values = seen["b"].tokens.split(seen["b"].lengths.tolist())
    assert all((bag == len(bag)).all() for bag in values)
