"""Scenes of digits and unbalanced regressions: what they show, and that their measures tell right from wrong."""

import numpy as np
import pytest

from anytask.claims.multitask.scenes import _NAMES, LinearModels, Scenes
from anytask.claims.multitask.unbalanced import RATIOS, OneLayer, Unbalanced
from anytask.problems.base import Entrant

SCENES = Scenes().load("digits-images", trained=60, tested=40, classes=5, rare=0.1)


class Oracle:
    """Answers with the truth, or with that of the next scene."""

    def __init__(self, shift=0):
        shown = SCENES.instance(0)[1]
        self.boxes, self.names, self.textures, self.captions = (
            part[shift:] + part[:shift] for part in (shown.boxes, shown.names, shown.textures, shown.captions)
        )

    def classify(self, images, candidates):
        return np.array(self.textures)

    def detect(self, images, class_names):
        return [{"boxes": boxes, "labels": names} for boxes, names in zip(self.boxes, self.names)]

    def caption(self, images):
        return self.captions

    def retrieve(self, images, captions):
        return np.array([[captions.tolist().index(caption)] for caption in self.captions])


def measured(model):
    return Scenes().test(Entrant("x", "x:X"), model, SCENES, 0, lambda share: None).metrics


def test_the_truth_is_right_in_all_tasks_and_that_of_another_scene_in_few():
    right, wrong = (measured(Oracle(shift)) for shift in (0, 1))
    assert all(value == pytest.approx(1) for value in right.values())
    assert wrong["detection"] < 0.3 and wrong["caption"] < 0.3 and wrong["retrieval"] < 0.3


def test_scenes_show_their_digits_from_left_to_right_and_on_their_textures():
    trained, tested = SCENES.instance(0)
    assert trained.images.shape == (60, 1, 32, 32) and len(tested.captions) == 40
    assert {name for names in trained.names for name in names} == set(_NAMES[:5])
    for image, boxes, names in zip(trained.images, trained.boxes, trained.names):
        assert 1 <= len(names) == len(boxes) <= 3 and (np.diff(boxes[:, 0]) > 0).all()
        for left, top, right, bottom in np.round(32 * boxes).astype(int):
            assert image[0, top:bottom, left:right].max() > 0.9
    tasks = trained.tasks(0.1)
    assert sum(task["ratio"] for task in tasks.values()) == pytest.approx(1) and tasks["caption"]["ratio"] == 0.1
    assert len({task["images"].ctypes.data for task in tasks.values()}) == 1  # prepared once


def test_the_plain_reference_reads_digits():
    metrics = measured(LinearModels().fit(SCENES.instance(0)[0].tasks(0.25)))
    assert metrics["detection"] > 0.4 and metrics["caption"] > 0.2


def test_regressions_are_new_for_each_seed_and_mixed_or_single_steps_learn_them():
    data = Unbalanced().load("regressions", trained=200, tested=100)
    (train, test), (other, _) = data.instance(0), data.instance(1)
    assert train.X.shape == (3, 200, 20) and test.Y.shape == (3, 100) and not np.allclose(train.Y, other.Y)
    assert sum(RATIOS.values()) == pytest.approx(1)
    for how in ("tbgn", "adamw", "uncertainty"):
        models = [OneLayer(how=how, steps=steps, lr=0.02).fit(train.X, train.Y) for steps in (1, 60)]
        errors = [np.square(model.predict(train.X) - train.Y).mean(1) for model in models]
        assert errors[1][0] < 0.7 * errors[0][0]
