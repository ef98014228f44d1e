import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from anytask import problems
from anytask.core.errors import BadData
from anytask.evaluate.baselines import PlainMLP
from anytask.problems.base import Entrant
from anytask.problems.equivariance import Equivariance, _quarter_turns

PROBLEM = Equivariance()
SMALL = {"max_per_class": 12}
LINEAR = Entrant("linear", "anytask.evaluate.baselines:LinearClassifier", {}, "baseline")


def test_the_problem_is_registered():
    assert isinstance(problems.get("equivariance"), Equivariance)


def test_a_run_gives_all_metrics_costs_and_curves_that_are_json():
    data = PROBLEM.load("digits", step=45, **SMALL)
    outcome = PROBLEM.run(LINEAR, data, seed=0)
    assert set(outcome.metrics) == {m.key for m in PROBLEM.metrics}
    assert outcome.metrics["accuracy"] > outcome.metrics["orbit_accuracy"] > outcome.metrics["worst_accuracy"]
    curve = json.loads(json.dumps(outcome.details))["curve"]
    assert len(curve) == 8 and np.mean(curve) == pytest.approx(outcome.metrics["orbit_accuracy"], abs=1e-6)
    assert outcome.cost["labels"] == 90
    again = PROBLEM.run(LINEAR, data, seed=0)
    assert again.metrics == outcome.metrics


def test_the_averaged_model_is_flat_over_quarter_turns_and_the_plain_one_is_not():
    data = PROBLEM.load("digits", step=45, **SMALL)
    averaged = Entrant("averaged", "anytask.evaluate.baselines:C4AveragedMLP", {"epochs": 15}, "baseline")
    flat, plain = (PROBLEM.run(entrant, data, seed=0).metrics["quarter_turn_gap"] for entrant in (averaged, LINEAR))
    assert flat < 1e-5 and plain > flat + 0.3


def test_the_evaluator_hands_in_the_model_it_finds_best():
    data = PROBLEM.load("digits", step=90, **SMALL)
    outcome = PROBLEM.run(Entrant("nero", "anytask.evaluate:NERO", {}, "system", "nero"), data, seed=0)
    assert outcome.notes[0].startswith("Chose ") and "by orbit" in outcome.notes[0]


def test_test_rows_depend_on_the_seed_alone_and_are_never_trained_on(monkeypatch):
    data = PROBLEM.load("digits", step=90, **SMALL)
    train, test = data.split(3)
    assert not set(train) & set(test) and len(test) == 30
    np.testing.assert_array_equal(data.split(3)[1], test)
    seen = []
    monkeypatch.setattr(PlainMLP, "_training_set", lambda self, X, y, group: (seen.append(X), (X, y))[1])
    PROBLEM.run(LINEAR, data, seed=3)
    np.testing.assert_array_equal(seen[0], data.inputs(train))


def test_quarter_turns_are_found_among_rotations_only():
    data = PROBLEM.load("digits", step=45)
    assert _quarter_turns(data.group()) == [2, 3, 4, 5, 6, 7, 0, 1]
    assert _quarter_turns(PROBLEM.load("digits", start=-40, stop=40, step=8).group()) is None
    assert _quarter_turns(PROBLEM.load("digits", transforms="d4").group()) is None


@pytest.mark.parametrize("group", ["rotations", "shifts", "flips", "d4"])
def test_all_groups_run(group):
    options = {"step": 90} if group == "rotations" else {}
    outcome = PROBLEM.run(LINEAR, PROBLEM.load("digits", transforms=group, **options, **SMALL), seed=0)
    assert 0 <= outcome.metrics["orbit_accuracy"] <= 1


def test_folders_of_images_and_npz_files_are_read(tmp_path):
    rng = np.random.default_rng(0)
    for name, value in (("dark", 40), ("bright", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            image = np.clip(rng.normal(value, 10, (10, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "images" / name / f"{i}.png")
    data = PROBLEM.load(str(tmp_path / "images"), transforms="flips")
    assert data.image_shape == (3, 10, 8) and "C4-averaged MLP" not in [e.name for e in PROBLEM.baselines(data)]
    assert PROBLEM.run(LINEAR, data, seed=0).metrics["orbit_accuracy"] == 1
    np.savez(tmp_path / "flat.npz", X=rng.normal(size=(12, 16)), y=np.arange(12) % 2)
    with pytest.raises(BadData, match="the rows are flat, 16 values each: say image_shape"):
        PROBLEM.load(tmp_path / "flat.npz")
    assert PROBLEM.load(tmp_path / "flat.npz", image_shape="4x4").image_shape == (4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5}, "no option 'steps'"),
        ({"transforms": "scale"}, "transforms must be one of"),
        ({"transforms": "d4", "step": 5}, "step is for rotations and shifts"),
        ({"step": 0}, "step must be a number above 0"),
        ({"step": "5"}, "step must be a number"),
        ({"transforms": "shifts", "step": 0.5}, "whole numbers of pixels"),
        ({"test_size": 1.5}, "test_size"),
        ({"max_per_class": 1}, "max_per_class"),
        ({"image_shape": "8by8"}, "image_shape must be integers of at least 1, as 4x3x3"),
        ({"image_shape": "4x4"}, "does not hold the 64 values"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(BadData, match=message):
        PROBLEM.load("digits", **options)


def test_the_fingerprint_tells_options_apart_and_facts_are_json():
    one, other = PROBLEM.load("digits"), PROBLEM.load("digits", step=30)
    assert one.fingerprint != other.fingerprint == PROBLEM.load("digits", step=30).fingerprint
    assert json.loads(json.dumps(one.describe()))["elements"] == 24


def test_classes_that_cannot_classify_are_refused():
    data = PROBLEM.load("digits", **SMALL)
    assert "no fit(X, y) and no predict_proba" in PROBLEM.refuses(Entrant("x", "builtins:dict"), data)
    with pytest.raises(ValueError, match=r"no fit\(X, y\) and no predict_proba"):
        PROBLEM.run(Entrant("x", "builtins:dict"), data, 0)


def test_the_figures_show_every_entrant():
    class Run:
        def __init__(self, name, outcome):
            self.entrant_name, self.status, self.details = name, "done", outcome.details

    data = PROBLEM.load("digits", step=90, **SMALL)
    runs = [Run("linear", PROBLEM.run(LINEAR, data, seed)) for seed in (0, 1)]
    drawn = PROBLEM.figures(data, runs)
    assert [title for title, *_ in drawn] == ["Accuracy over the orbit", "Accuracy against the model's own consensus"]
    assert drawn[0][2].data[0].name == "linear" and PROBLEM.figures(data, []) == []
    read_back = SimpleNamespace(
        options=SimpleNamespace(**data.options.as_dict())
    )  # as a store has it: no images, no group
    assert PROBLEM.figures(read_back, runs)[0][2] == drawn[0][2]
