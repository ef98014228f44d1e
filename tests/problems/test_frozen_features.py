"""Frozen features: what is learned from, what is judged, and who takes part."""

import numpy as np
import pytest

from anytask.core.errors import BadData
from anytask.problems.base import Entrant
from anytask.problems.frozen_features import FrozenFeatures
from anytask.problems.frozen_features.probe import draws, probe

PROBLEM = FrozenFeatures()


def test_encoders_see_training_inputs_and_no_label():
    seen = []

    class Spy:
        def fit(self, X):
            seen.append(X)
            return self

        def transform(self, X):
            return X

    data = PROBLEM.load("iris", shots=5, draws=1)
    train, test = data.split(0)
    entrant = Entrant("spy", "anytask.pretrain.baselines:RawFeatures", {})
    object.__setattr__(entrant, "make", lambda *_args, **_given: Spy())
    PROBLEM.run(entrant, data, 0)
    assert np.array_equal(seen[0], data.inputs(train)) and not set(train) & set(test)


def test_each_draw_has_as_many_labels_of_every_class():
    y = np.repeat([3, 1, 2], [50, 20, 30])
    drawn = list(draws(y, 7, 4, seed=0))
    assert all(np.bincount(y[rows]).tolist() == [0, 7, 7, 7] for rows in drawn)
    assert not np.array_equal(np.sort(drawn[0]), np.sort(drawn[1]))


def test_features_that_say_the_label_need_one_of_each_class_and_noise_says_nothing():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    right, noise = np.eye(3)[y], rng.normal(size=(300, 4))
    for shots in (1, 5):
        assert probe(right[:150], y[:150], right[150:], y[150:], shots)["logistic"] == 1
        assert probe(noise[:150], y[:150], noise[150:], y[150:], shots)["knn"] < 0.5


def test_weights_say_how_much_a_test_row_counts():
    F, y = np.array([[0.0], [0.1], [1.0], [0.9]]), np.array([0, 0, 1, 1])
    wrong = np.array([0, 1])
    found = probe(F, y, np.array([[0.0], [0.0]]), wrong, 1, weights=np.array([3.0, 1.0]))
    assert found == {"logistic": 0.75, "knn": 0.75, "auc": 0.5}


def test_numbers_of_labels_that_a_class_lacks_are_left_out_or_refused(tmp_path):
    data = PROBLEM.load("iris")
    assert data.options.shots == (1, 10) and "100 labels" in data.notes[0]
    with pytest.raises(BadData, match="class 0 has 38 rows for training, not 39"):
        PROBLEM.load("iris", shots="1,39")


def test_images_get_an_encoder_for_images_and_tables_do_not():
    for name, backbone in (("iris", None), ("digits", "small_cnn")):
        data = PROBLEM.load(name, shots=2, draws=1)
        found = {entrant.name: entrant for entrant in PROBLEM.baselines(data)}
        assert found["random encoder"].params.get("backbone") == backbone
        assert ("efficientnet-lite0" in found) <= (name == "digits")


def test_what_is_saved_gives_features_of_new_rows(tmp_path):
    data = PROBLEM.load("iris", shots=2, draws=1)
    trained = PROBLEM.refit(PROBLEM.baselines(data)[1], data, 0)
    for part in trained.parts:
        part.save(tmp_path)
    used: dict = {"X": data.inputs(np.arange(3))}
    exec("\n".join(trained.usage).replace("{folder}", str(tmp_path)), used)
    assert used["features"].shape == (3, 4)
