"""Classes by prompts: built-in worlds, own folders, and what is measured."""

import numpy as np
import pytest
from PIL import Image

from anytask.core.errors import BadData
from anytask.datasets.captioned import captioned_digits, load_captioned
from anytask.pretrain import SCOLD
from anytask.pretrain.parts.zero_shot import PromptClassifier
from anytask.problems.base import Entrant
from anytask.problems.zero_shot_classification import ZeroShotClassification, calibration_error

PROBLEM = ZeroShotClassification()
ENTRANT = Entrant("scold", "anytask.pretrain:SCOLD", {"epochs": 5, "batch_size": 10}, key="scold")


def folder(path, n=12):
    rows = ["file,text,concept"]
    for i in range(n):
        Image.fromarray(np.full((8, 8), 40 if i % 2 else 210, np.uint8)).save(path / f"{i}.png")
        rows.append(f"{i}.png,a {'dark' if i % 2 else 'light'} tile {i},{'night' if i % 2 else 'day'}")
    (path / "captions.csv").write_text("\n".join(rows))
    (path / "prompts.csv").write_text("concept,text\nnight,dark\nnight,a dark tile\nday,light\n")
    return path


def test_wrong_pairs_have_the_caption_and_concept_of_another_digit():
    clean = captioned_digits("digits", 3, n=200, wrong=0.0)[0]
    spoiled, X, y = captioned_digits("digits", 3, n=200, wrong=0.5)
    assert np.array_equal(clean.images, spoiled.images) and len(X) == len(y) == 800
    differ = clean.concepts != spoiled.concepts
    assert 0.35 < differ.mean() < 0.55
    for caption, concept in zip(spoiled.captions, spoiled.concepts):
        assert sum(word.startswith(f"d{concept}w") for word in caption.split()) == 2 and len(caption.split()) == 5


def test_own_folders_are_learned_from_and_the_winner_is_used(tmp_path):
    data = PROBLEM.load(folder(tmp_path))
    assert data.source.prompts == {"night": ["dark", "a dark tile"], "day": ["light"]}
    for entrant in (*PROBLEM.baselines(data), ENTRANT):
        metrics = PROBLEM.run(entrant, data, 0).metrics
        assert set(metrics) == {"accuracy", "ece", "log_loss"} and all(map(np.isfinite, metrics.values()))
    trained = PROBLEM.refit(ENTRANT, data, 0)
    trained.parts[0].save(tmp_path / "kept")
    model = SCOLD.load(tmp_path / "kept", device="cpu")
    assert set(PromptClassifier(model, data.source.prompts).predict(data.source.images)) <= {"night", "day"}
    assert "PromptClassifier" in trained.usage[1]


@pytest.mark.parametrize(("file", "text", "says"), [
    ("captions.csv", "file,text\n0.png,a\n", "no column 'concept'"),
    ("captions.csv", "file,text,concept\nno.png,a,day\n", "no such image"),
    ("captions.csv", "file,text,concept\n0.png,,day\n", "column 'text' must hold a text"),
    ("captions.csv", "file,text,concept\n0.png,a,dawn\n", "concept 'dawn' has no prompt"),
    ("prompts.csv", "concept,text\nday,light\n", "has no prompt"),
])  # fmt: skip
def test_folders_that_are_wrong_are_refused_by_file(tmp_path, file, text, says):
    (folder(tmp_path) / file).write_text(text)
    with pytest.raises(BadData, match=says):
        PROBLEM.load(tmp_path)


def test_arrays_and_what_is_none():
    X, y = np.eye(8, dtype=np.float32), ["a", "b"] * 4
    data = PROBLEM.load((X, [f"shows {c}" for c in y], y, {"a": "shows a", "b": "shows b"}))
    assert len(data.draw(0)[2]) == 2
    for bad in ((X, ["a"], y, {}), (X, [3] * 8, y, {}), (X, y), 3, "nowhere"):
        with pytest.raises(BadData):
            PROBLEM.load(bad)
    assert "learns from" in PROBLEM.refuses(Entrant("cico", "anytask.pretrain:CiCo", {}), data)


def test_calibration_is_weighted_by_the_size_of_bins():
    sure, right = np.array([0.95] * 10 + [0.35] * 10), np.array([True] * 9 + [False] + [True] * 3 + [False] * 7)
    assert calibration_error(sure, right) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (0, np.full((8, 4), np.nan), "images contains NaN"), (0, 3, "images"), (0, [[1], [1, 2]] * 4, "images"),
        (0, np.ones(8), "images"), (0, np.full((8, 4), "a"), "images"), (1, None, "captions"), (1, "a" * 8, "captions"),
        (1, ["a", None] * 4, "captions"), (2, [np.nan, 1.0] * 4, "concepts"), (2, np.zeros((8, 2)), "concepts"),
        (2, np.array([0, "b"] * 4, dtype=object), "concepts"), (2, [0.5] * 8, "concepts"), (2, [0, 2] * 4, "concept 2"),
        (3, ["a", "b"], "prompts"), (3, {0: None, 1: "b"}, "concept 0"), (3, {0: 3, 1: "b"}, "concept 0"),
        (3, {0: " ", 1: "b"}, "concept 0"), (3, {0: "a", 1: []}, "concept 1"), (3, {0: ["a", 2], 1: "b"}, "concept 0"),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_used_are_refused_in_one_line(place, value, says):
    given = [np.ones((8, 4)), ["a b"] * 8, np.arange(8) % 2, {0: "a", 1: ["b"]}]
    assert load_captioned(tuple(given)).prompts == {0: ["a"], 1: ["b"]}
    given[place] = value
    with pytest.raises(BadData, match=says) as caught:
        load_captioned(tuple(given))
    assert "\n" not in str(caught.value)
