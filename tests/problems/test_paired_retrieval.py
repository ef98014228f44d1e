"""Paired retrieval: what is shown, what is held out, what is measured, and who takes part."""

import numpy as np
import pytest

from anytask.core.errors import BadData
from anytask.parts.ranking import ranking_metrics
from anytask.problems.base import Entrant
from anytask.problems.paired_retrieval import PairedRetrieval

PROBLEM = PairedRetrieval()
GRAPHS = {
    "job": [(f"job {i}", f"skill {(i * j) % 13}") for i in range(20) for j in (1, 2, 5)],
    "alias": [(f"alias {i}", f"skill {i}") for i in range(13)],
}


def test_metrics_by_hand():
    S = np.array([[4.0, 3, 2, 1], [4, 3, 2, 1]])
    found = ranking_metrics(S, np.array([[False, True, True, False], [False] * 4]))  # who has none is left out
    assert found["map"] == pytest.approx(0.583333, abs=1e-6)
    assert (found["mrr"], found["recall1"], found["recall10"], found["rp10"]) == (0.5, 0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="no query has a relevant target"):
        ranking_metrics(S, np.zeros((2, 4), dtype=bool))


def test_no_training_pair_shows_a_tested_query_or_a_held_out_target():
    data = PROBLEM.load(GRAPHS)
    every = {(a, b) for pairs in GRAPHS.values() for a, b in pairs}
    drawn = data.draw(1)
    left = {a for a, _ in (pair for graph in drawn.graphs.values() for pair in zip(*graph))}
    right = {b for _, b in (pair for graph in drawn.graphs.values() for pair in zip(*graph))}
    for name, ranking in drawn.known.items():
        assert not left & set(ranking.queries) and ranking.relevant.any(1).all()
        for query, row in zip(ranking.queries, ranking.relevant):
            for target, yes in zip(ranking.targets, row):
                assert yes == ((query, target) in GRAPHS[name])
    for ranking in drawn.unseen.values():
        assert not right & set(ranking.targets) and ranking.relevant.any(1).all() and ranking.relevant.any(0).all()
    assert {pair for graph in drawn.graphs.values() for pair in zip(*graph)} < every
    assert data.draw(1).known["job"].targets == drawn.known["job"].targets != data.draw(2).known["job"].targets


def test_captions_of_one_image_each_are_held_out_with_it():
    data = PROBLEM.load(([f"image {i // 2}" for i in range(16)], [f"caption {i}" for i in range(16)]))
    drawn = data.draw(0)
    assert drawn.unseen is drawn.known and len(drawn.graphs[""][0]) == 12
    assert sorted(drawn.known[""].relevant.sum(1)) == [2, 2] and len(drawn.known[""].targets) == 4
    metrics = PROBLEM.run(PROBLEM.baselines(data)[0], data, 0).metrics
    assert metrics["zero_shot"] == metrics["map"]


def test_encoders_learn_from_pairs_or_from_graphs(monkeypatch):
    class Spy:
        def __init__(self):
            pass

        def fit(self, *given):
            self.given = given
            return self

        def scores(self, left, right):
            return np.zeros((len(left), len(right)))

    data, entrant = PROBLEM.load(GRAPHS), Entrant("spy", "anytask.pretrain.pair_baselines:DualEncoder", {})
    object.__setattr__(entrant, "make", lambda *_args, **_given: spy)
    for takes in ("pairs", "graphs"):
        spy = Spy()
        spy.takes = takes
        PROBLEM.run(entrant, data, 0)
        assert set(spy.given[0]) == {"job", "alias"} if takes == "graphs" else len(spy.given[0]) == len(spy.given[1])


def test_words_that_both_sides_share_are_found_and_images_get_no_text_baselines():
    data = PROBLEM.load("vacancies", n=30, tested=30)
    entrants = {entrant.name: entrant for entrant in PROBLEM.baselines(data)}
    assert list(entrants) == ["BM25", "dual encoder, hard targets", "dual encoder, all positives"]
    found = PROBLEM.run(entrants["BM25"], data, 0).metrics
    assert min(found["map"], found["zero_shot"], found["reverse"]) > 0.6
    images = PROBLEM.load((np.random.default_rng(0).normal(size=(12, 1, 4, 4)), [f"text {i}" for i in range(12)]))
    names = [entrant.name for entrant in PROBLEM.baselines(images)]
    assert names == ["dual encoder, hard targets", "dual encoder, all positives"]
    assert "takes texts on the left" in PROBLEM.refuses(entrants["BM25"], images)
    assert 0 < PROBLEM.run(PROBLEM.baselines(images)[1], images, 0).metrics["map"] <= 1


def test_texts_are_compared_with_minilm():
    names = [entrant.name for entrant in PROBLEM.baselines(PROBLEM.load(GRAPHS))]
    assert {"MiniLM", "MiniLM, fine-tuned"} <= set(names)


def test_what_leaves_nothing_to_learn_or_to_test_is_refused():
    with pytest.raises(BadData, match="no pairs to learn from"):
        PROBLEM.load((["a", "b"], ["c", "c"]), unseen=0.9)
    with pytest.raises(BadData, match="n must be"):
        PROBLEM.load("vacancies", n=0)


def test_signed_sentences_are_ranked_among_those_of_the_tested_sequences():
    data = PROBLEM.load("signing", n=20, tested=12)
    drawn = data.draw(3)
    assert data.kinds == ("sequences", "texts") and drawn.unseen is drawn.known
    assert len(drawn.graphs[""][0]) == 20 and drawn.known[""].relevant.sum() == 12
    for sequence, sentence in zip(*drawn.graphs[""]):
        assert sequence.shape[1] == 16 and 3 <= len(sentence.split()) <= min(6, len(sequence))
    metrics = PROBLEM.run(PROBLEM.baselines(data)[1], data, 0).metrics
    assert metrics["zero_shot"] == metrics["map"]


def test_no_training_pair_holds_a_target_of_the_graph_that_is_held_out():
    data = PROBLEM.load("skills-jobs", held_out="title_job")
    drawn = data.draw(0)
    jobs = {job.casefold() for job in drawn.unseen["title_job"].targets}
    assert list(drawn.unseen) == ["title_job"] and len(drawn.unseen["title_job"].queries) == 87
    assert not jobs & {item.casefold() for graph in drawn.graphs.values() for side in graph for item in side}
    assert {"name_skill", "sentence_skill"} <= set(drawn.graphs)
    with pytest.raises(BadData, match="held_out must be a graph of texts, got 'none'; graphs: 'job_skill'"):
        PROBLEM.load("skills-jobs", held_out="none")
