"""The worlds of ERNIE 3.0's claim: what is held out, and what stands beside it."""

import numpy as np

from anytask.claims.pretrain.fact_worlds import WORDINGS, DistantSupervision, RandomRelations, SkillRelations
from anytask.datasets.fact_texts import fact_texts


def test_no_edge_that_is_asked_for_is_learned_from():
    world = SkillRelations().load("skills-jobs", shots=5).world(0)
    known = {(head, tail) for head, _, tail, _ in world.corpus.triples}
    asked = [text.split(" [SEP]")[0].split(" [MASK] ") for text in (*world.texts, *world.tested)]
    assert not known & {tuple(edge) for edge in asked}
    assert set(world.y) == set(world.y_tested) == set(WORDINGS) and len(world.y) == 15
    assert not set(world.held_out) & set(world.corpus.documents)


def test_labelled_sentences_have_another_wording_than_those_that_are_tested():
    world = SkillRelations().load("skills-jobs", shots=5).world(0)
    starts = [{text.split("[SEP] ")[1].split()[0] for text in part} for part in (world.texts, world.tested)]
    assert {"A", "By"} >= starts[0] and {"Nobody", "Some", "Whoever", "What"} <= starts[1]


def test_a_graph_supervises_a_linear_model():
    world = fact_texts(0, documents=100, tested=60)
    model = DistantSupervision().fit(world.corpus)
    best = model.score(world.test_questions, world.relations).argmax(1)
    assert np.mean([world.relations[i] == label for i, label in zip(best, world.test_labels)]) > 0.6
    assert model.transform(list(world.test_questions)).shape == (60, 4)


def test_random_relations_are_those_of_the_graph_on_other_edges():
    world = fact_texts(0, documents=20, tested=4)
    small = {"sizes": {"layers": 1, "width": 8, "branch_width": 4}, "steps": 0, "device": "cpu"}
    seen = []

    class Looked(RandomRelations.__base__):
        def _note(self, data):
            seen.append(data.triples)
            super()._note(data)

    class Mixed(RandomRelations, Looked):
        pass

    Mixed(**small).fit(world.corpus)
    assert [(h, t) for h, _, t in seen[0]] == [(h, t) for h, _, t in world.corpus.triples]
    assert sorted(r for _, r, _ in seen[0]) == sorted(r for _, r, _ in world.corpus.triples)
    assert seen[0] != world.corpus.triples
