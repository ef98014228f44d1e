"""Few-shot text: every entrant buys the same labels, sees the same pool, and is measured on the same queries."""

import json

import pytest

from anytask import catalogue, problems
from anytask.core.errors import BadData
from anytask.datasets.attribute_language import AttributeLanguage
from anytask.problems.base import Entrant

FEW = {"lm": "tiny:icl", "labels": 6, "k": 3, "max_test": 8, "search_budget": 8}


@pytest.fixture(scope="module")
def rows():
    language = AttributeLanguage(seed=7)
    return [(s.text, s.attributes["topic"]) for s in (language.sentence(held_out=True) for _ in range(60))]


@pytest.fixture(scope="module")
def file(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "mine.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows))
    return path


@pytest.fixture(scope="module")
def problem():
    return problems.get("few-shot-text")


@pytest.fixture(scope="module")
def data(problem, file):
    return problem.load(file, **FEW)


def test_pool_and_test_are_disjoint_and_depend_on_the_seed(data):
    pool, test = data.split(0)
    assert not set(pool) & set(test) and len(test) == 8
    assert data.split(0)[1].tolist() == test.tolist()
    assert data.split(1)[1].tolist() != test.tolist()


@pytest.mark.parametrize("name", ["zero-shot", "random demonstrations", "BM25 neighbours", "contextual calibration"])
def test_baselines_run_and_buy_no_more_than_allowed(problem, data, name):
    entrant = next(e for e in problem.baselines(data) if e.name == name)
    outcome = problem.run(entrant, data, 0)
    assert 0 <= outcome.metrics["accuracy"] <= 1
    assert outcome.metrics["labels"] == (0 if name == "zero-shot" else 6)
    assert outcome.kind == "tiny"
    assert outcome.metrics["lm_calls"] >= 8
    assert json.dumps(outcome.details)


@pytest.mark.parametrize("key", ["gpt3", "votek", "udr", "promptquine", "llmlingua2"])
def test_each_system_takes_part_as_the_stage_that_it_is(problem, data, key):
    card = catalogue.get(key)
    outcome = problem.run(Entrant(key, card.entry, key=key), data, 0)
    assert outcome.metrics["labels"] == 6
    stages = [stage["stage"] for stage in outcome.details["stages"]]
    wanted = {"votek": "select", "udr": "retrieve", "promptquine": "prune", "llmlingua2": "compress"}.get(key)
    assert wanted is None or wanted in stages


def test_the_same_seed_gives_the_same_outcome(problem, data):
    entrant = Entrant("few-shot", "anytask.incontext:Pipeline")
    assert problem.run(entrant, data, 3).metrics == problem.run(entrant, data, 3).metrics


def test_buying_too_many_labels_is_an_error(problem, data):
    class Greedy:
        def fit(self, texts, annotate):
            annotate(range(7))

    entrant = Entrant("greedy", f"{__name__}:Greedy")
    object.__setattr__(entrant, "load", lambda: Greedy)
    with pytest.raises(RuntimeError, match="7 labels, and 6 may be bought"):
        problem.run(entrant, data, 0)


def test_rows_with_choices_are_multiple_choice(problem, rows, tmp_path):
    path = tmp_path / "choices.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": y, "choices": [y, "none"]}) + "\n" for t, y in rows))
    data = problem.load(path, **FEW)
    assert data.options.kind == "multiple-choice"
    outcome = problem.run(Entrant("few-shot", "anytask.incontext:Pipeline"), data, 0)
    assert 0 <= outcome.metrics["accuracy"] <= 1
    search = Entrant("promptquine", "anytask.prompts:PromptQuine")
    assert "one set of labels" in problem.refuses(search, data)


def test_free_answers_are_generated(problem, rows, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": f"{y} {i}"}) + "\n" for i, (t, y) in enumerate(rows)))
    data = problem.load(path, **FEW)
    assert data.options.kind == "generation"
    outcome = problem.run(Entrant("few-shot", "anytask.incontext:Pipeline"), data, 0)
    assert "token_f1" in outcome.metrics


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"lm": None}, ValueError, "needs a language model"),
        ({"lm": "/no/such/folder"}, ValueError, "no such folder"),
        ({"labels": 1000}, BadData, "from a pool of 42"),
        ({"labels": -1}, ValueError, "labels must be"),
        ({"kind": "regression"}, ValueError, "kind must be"),
        ({"kind": "multiple-choice"}, BadData, "rows with choices"),
        ({"test_size": 2}, ValueError, "test_size"),
        ({"target": "lable"}, BadData, "label"),
        ({"shots": 3}, ValueError, "no option 'shots'"),
    ],
)
def test_wrong_options_are_refused(problem, file, changes, error, words):
    with pytest.raises(error, match=words):
        problem.load(file, **{**FEW, **changes})
