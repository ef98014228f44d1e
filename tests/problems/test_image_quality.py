"""Image quality: what is shown, tables of files, and what is measured."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anytask.core.errors import BadData
from anytask.datasets.rated import LOOKS, load_rated, rated_digits
from anytask.pretrain.score_baselines import RidgeScores
from anytask.problems.base import Entrant
from anytask.problems.image_quality import ImageQuality


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        light = 5 + 6 * i
        pixels = np.clip(rng.normal(light, 5, (6, 6)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append({"file": f"{i}.png", "score": i / 4, "dark": -light, "comment": "bright" if i > 20 else ""})
    path = tmp_path / "rated.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_rated_digits_are_what_their_scores_say():
    rated = rated_digits("digits-images", 0, 300)
    (q, a), X = rated.scores.T, rated.images
    assert len(np.unique(np.c_[q, a])) == 600 and rated.texts[0][1].split()[:2] == list(
        LOOKS["aesthetics"][int(5 * a[0])]
    )
    low = X.min((1, 2, 3)) - 0.25 * (1 - a)  # pixels that were 0
    assert np.corrcoef(low[q < 0.5], q[q < 0.5])[0, 1] > 0.5  # noisy images reach below


def test_a_table_is_read_with_its_scores_and_comments(table):
    rated = load_rated(table, ("score", "dark"), lower_is_better=True)
    assert rated.images.shape == (40, 1, 6, 6) and rated.scores[4].tolist() == [-1.0, 29.0]
    assert rated.texts[20] == [] and rated.texts[21] == ["bright"]
    for names, says in ((("beauty",), "no column 'beauty'"), (("comment",), "must hold a number")):
        with pytest.raises(BadData, match=says):
            load_rated(table, names)
    (table.parent / "7.png").unlink()
    with pytest.raises(BadData, match=r"no such image: 7\.png"):
        load_rated(table)


def test_texts_are_of_images_that_have_some_or_levels_of_the_shown_scores(table):
    problem = ImageQuality()
    data = problem.load(table, labels=5)
    shown, few, test = data.draw(seed=1)
    assert {tuple(texts) for texts in shown.texts} == {("bright",)} and len(few.images) == 5 and len(test.images) == 10
    assert not set(test.scores[:, 0]) & {*shown.scores[:, 0], *few.scores[:, 0]}
    frame = pd.read_csv(table).drop(columns="comment")
    frame.to_csv(table, index=False)
    shown, few, _ = problem.load(table, labels=5).draw(seed=1)
    assert np.array_equal(shown.images, few.images)  # the scores of others are not told in words either
    assert {text for texts in shown.texts for text in texts} >= {"bad image", "perfect image"}


def test_ridge_learns_brightness_and_the_worst_score_counts(table):
    problem = ImageQuality()
    data = problem.load(table, scores="score,dark", labels=15)
    outcome = problem.run(problem.baselines(data)[0], data, seed=0)
    each = outcome.details["scores"]
    assert outcome.metrics["srcc"] == min(own["srcc"] for own in each.values()) > 0.9
    assert "zero_shot" not in outcome.metrics


def test_encoders_of_pairs_take_part_and_are_asked_before_scores_are_shown():
    problem = ImageQuality()
    data = problem.load("rated-digits", n=60, tested=40, labels=10)
    params = {"epochs": 1, "adapter": {"epochs": 1}}
    outcome = problem.run(Entrant("uniqa", "anytask.pretrain:UniQA", params), data, seed=0)
    assert {"srcc", "plcc", "zero_shot"} == set(outcome.metrics) and outcome.cost["labels"] == 20
    probe = next(e for e in problem.baselines(data) if "dual" in e.name)
    assert np.isfinite(problem.run(Entrant("p", probe.entry, {"epochs": 1}), data, seed=0).metrics["srcc"])
    model = problem.refit(Entrant("uniqa", "anytask.pretrain:UniQA", params), data, 0).parts[0]
    assert np.isfinite(model.predict(data.draw(0)[2].images)).all()


def test_ridge_is_saved(tmp_path):
    X = np.random.default_rng(0).random((20, 1, 4, 4))
    model = RidgeScores().fit(X, X.mean((1, 2, 3)))
    model.save(tmp_path)
    assert np.array_equal(RidgeScores.load(tmp_path).predict(X), model.predict(X))
