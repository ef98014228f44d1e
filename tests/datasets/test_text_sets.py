"""The texts that were written for this project: sizes, balance, frozen content, no near-duplicates."""

from collections import Counter
from itertools import combinations

import pytest

from anytask.core.errors import BadData
from anytask.datasets.text import load_text
from anytask.datasets.text_sets import TEXT_SETS, skills_jobs


# Recorded results speak of exactly these rows: a change needs a new file, not a new number here.
@pytest.mark.parametrize(
    ("name", "classes", "fingerprint"),
    [
        ("reviews", 2, "aba5cd5d96632aa2"),
        ("customer-intents", 14, "9fc6b7de4206e15c"),
        ("topics", 5, "0b4fc1288053d83a"),
    ],
)
def test_text_sets_are_balanced_and_frozen(name, classes, fingerprint):
    data = load_text(name)
    counts = Counter(data.labels)
    assert len(counts) == classes and len(set(counts.values())) == 1
    assert 300 <= len(data) <= 400
    assert data.fingerprint == fingerprint and data.name == name


@pytest.mark.parametrize("name", list(TEXT_SETS))
def test_no_two_texts_of_a_set_share_most_of_their_words(name):
    words = [frozenset(text.lower().split()) for text in load_text(name).texts]
    assert max(len(a & b) / len(a | b) for a, b in combinations(words, 2)) < 0.5


def test_every_edge_of_the_graph_ends_at_a_node_and_every_node_has_an_edge():
    graph = skills_jobs()
    edges = graph.relations
    ends = {
        "job_skill": graph.skills,
        "title_job": graph.jobs,
        "name_skill": graph.skills,
        "sentence_skill": graph.skills,
    }
    for name, nodes in ends.items():
        assert {end for _, end in edges[name]} <= set(nodes)
        assert len(set(edges[name])) == len(edges[name])
    assert {job for job, _ in edges["job_skill"]} == set(graph.jobs)
    assert {skill for _, skill in edges["job_skill"]} == set(graph.skills)
    assert {job for _, job in edges["title_job"]} == set(graph.jobs)


def test_columns_of_built_in_texts_cannot_be_named_otherwise():
    with pytest.raises(BadData, match="reviews: built-in texts have the columns 'text' and 'label', not 'body'"):
        load_text("reviews", text="body")
