"""The problem of demonstration selection: labels are revealed only for what was chosen, and budgets hold."""

import pickle

import numpy as np
import pytest

from anytask import problems
from anytask.core.errors import BadData
from anytask.datasets.intents import intents
from anytask.lm.protocol import Capabilities, OptionScore
from anytask.problems.base import Entrant
from anytask.problems.demonstration_selection import DemonstrationSelection

PROBLEM = DemonstrationSelection()
HERE = __name__


def _blobs(n=120, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=n)
    return 4 * np.eye(4)[y] + rng.normal(size=(n, 4)), y


@pytest.fixture(scope="module")
def data():
    return PROBLEM.load(_blobs(), budget=8, pool=60)


class First:
    """Chooses the first items, and does what it is told on the way."""

    def __init__(self, annotate=(), ids=None, peek=None):
        self.annotate, self.ids, self.peek = annotate, ids, peek

    def select(self, pool, budget):
        if self.annotate:
            pool.annotate(self.annotate)
        if self.peek is not None:
            pool.labels[self.peek]
        return list(range(budget)) if self.ids is None else self.ids


def _run(data, seed=0, **params):
    return PROBLEM.run(Entrant("first", f"{HERE}:First", params), data, seed)


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, HERE, sys.modules[First.__module__])


def test_the_problem_is_registered():
    assert isinstance(problems.get("demonstration-selection"), DemonstrationSelection)
    assert PROBLEM.primary.key == "accuracy"


@pytest.mark.parametrize("name", ["random", "diversity", "facility location", "least confidence", "vote-k"])
def test_every_entrant_buys_exactly_the_budget(data, name):
    entrants = {e.name: e for e in PROBLEM.baselines(data)} | {"vote-k": Entrant("vote-k", "anytask.incontext:VoteK")}
    shares = []
    outcome = PROBLEM.run(entrants[name], data, 0, progress=shares.append)
    assert outcome.metrics["labels"] == outcome.cost["labels"] == 8
    assert 0.25 < outcome.metrics["accuracy"] <= 1 and 0 < outcome.metrics["covered"] <= 1
    assert outcome.metrics["covered"] == len(outcome.details["annotated"]) / 4
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert outcome.metrics == PROBLEM.run(entrants[name], data, 0).metrics
    assert outcome.kind is None


def test_accuracy_is_that_of_the_weighted_vote(data):
    outcome = _run(data, seed=3)
    from anytask.core.rng import derive

    order = np.random.default_rng(derive(3, "demonstration-selection")).permutation(120)
    train, test = order[:60], order[60:]
    mean = data.source.vectors[train].mean(axis=0)
    scale = lambda X: (X - mean) / np.linalg.norm(X - mean, axis=1, keepdims=True)  # noqa: E731
    cosine = scale(data.source.vectors[test]) @ scale(data.source.vectors[train[:8]]).T
    right = 0
    for row, truth in zip(cosine, data.source.labels[test]):
        votes = np.zeros(4)
        for j in np.argsort(-row)[:3]:
            votes[data.source.labels[train[j]]] += np.exp(row[j] / 0.1)
        right += votes.argmax() == truth
    assert outcome.metrics["accuracy"] == pytest.approx(right / 60)


def test_seeds_draw_other_pools_and_all_entrants_see_the_same(data):
    assert _run(data, 0).metrics == _run(data, 0).metrics
    assert _run(data, 0).details["annotated"] != _run(data, 1).details["annotated"]


def test_labels_that_were_not_bought_stay_hidden(data):
    with pytest.raises(LookupError, match="item 5 of the pool has no label"):
        _run(data, annotate=[0, 1], peek=5)
    _run(data, annotate=[0, 5], peek=5)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"annotate": list(range(9))}, "asked for more than the budget of 8"),
        ({"annotate": [50]}, "annotated item 50, which it did not choose"),
        ({"ids": [0] * 8}, "8 distinct items, got 8 of which 1"),
        ({"ids": [0, 1]}, "8 distinct items, got 2"),
        ({"ids": [60, *range(7)]}, r"places in \[0, 59\]"),
    ],
)
def test_cheating_and_wrong_answers_fail_the_run(data, params, message):
    with pytest.raises(ValueError, match=message):
        _run(data, **params)


def test_classes_without_select_are_refused(data):
    assert "no select(pool, budget)" in PROBLEM.refuses(Entrant("x", "anytask.incontext:UDR"), data)
    assert PROBLEM.refuses(Entrant("x", "anytask.incontext:VoteK"), data) is None


def test_data_are_picklable_and_their_fingerprint_follows_the_options(data):
    again = pickle.loads(pickle.dumps(data))
    assert again.fingerprint == data.fingerprint
    assert PROBLEM.load(_blobs(), budget=9, pool=60).fingerprint != data.fingerprint
    assert PROBLEM.load(_blobs(seed=1), budget=8, pool=60).fingerprint != data.fingerprint
    facts = data.describe()
    assert facts["items"] == 120 and facts["options"]["budget"] == 8
    assert facts["options"]["pool"] == facts["options"]["test"] == 60


def test_texts_are_embedded_and_intents_are_unequal(tmp_path):
    made = intents(150)
    counts = sorted((made.labels.count(c) for c in made.classes), reverse=True)
    assert len(counts) == 6 and counts[0] > 8 * counts[-1]
    path = tmp_path / "intents.csv"
    path.write_text("text,label\n" + "\n".join(f'"{t}",{c}' for t, c in zip(made.texts, made.labels)), encoding="utf-8")
    data = PROBLEM.load(path, budget=12)
    assert data.source.vectors.shape == (150, 384) and data.source.texts == made.texts and data.options.pool == 83
    accuracy = PROBLEM.run(Entrant("vote-k", "anytask.incontext:VoteK"), data, 0).metrics["accuracy"]
    assert accuracy > counts[0] / 150 + 0.2


class CopyLM:
    """Gives the answer of the last demonstration the highest probability."""

    name, kind, context_length, usage = "copy", "sim", 10_000, None
    capabilities = Capabilities(logprobs=True)

    def count_tokens(self, text):
        return len(text.split())

    def score(self, prompts, options, *, tag="score"):
        last = [prompt.split("Label: ")[-1].split("\n")[0] if "Label: " in prompt else "" for prompt in prompts]
        return [[OptionScore(-1.0 - (o.strip() != a), 1, 4) for o in row] for a, row in zip(last, options)]


def test_a_language_model_can_predict():
    made = intents(60)
    data = PROBLEM.load((made.texts, made.labels), budget=10, pool=30, lm=CopyLM())
    assert data.options.test == 30 and data.describe()["predictor"] == "sim:copy"
    outcome = PROBLEM.run(Entrant("vote-k", "anytask.incontext:VoteK"), data, 0)
    largest = max(map(made.labels.count, made.classes)) / 60
    assert outcome.kind == "sim" and outcome.metrics["accuracy"] > largest + 0.2


def test_texts_that_the_model_cannot_read_are_named_left_out_or_cut():
    made = intents(60)
    texts = [*made.texts[:3], "word " * 5000, *made.texts[4:]]
    with pytest.raises(BadData, match="texts, row 3: a text of 5000 words does not fit into a prompt of 1000 tokens"):
        PROBLEM.load((texts, made.labels), budget=10, pool=30, lm=CopyLM())
    data = PROBLEM.load((texts, made.labels), budget=10, pool=30, lm=CopyLM(), bad_rows="skip")
    assert len(data.source.texts) == 59 and data.describe()["notes"][0].startswith("1 row was left out")
    assert len(PROBLEM.load((texts, made.labels), budget=10, pool=30).source.texts) == 60  # vectors have no length


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("digitz", {}, "no data 'digitz': built in are digits, intents"),
        (_blobs(), {"budgt": 3}, "no option 'budgt'; did you mean 'budget'"),
        (_blobs(), {"pool": 100, "test": 30}, "need 130 items, and there are 120"),
        (_blobs(), {"budget": 70}, "budget 70 exceeds the pool of 66"),
        (_blobs(), {"budget": 0}, "budget must be an integer of at least 1"),
        (_blobs(), {"lm": "gpt"}, "reads texts, and these data are vectors"),
        (_blobs(), {"temperature": 0}, "temperature must be a number above 0"),
        ((np.eye(4), [0, 1]), {}, r"labels must have shape \(4,\)"),
        ((np.eye(4), [1, 1, 1, 1]), {}, "at least two classes"),
        ((np.full((4, 2), np.nan), [0, 1, 0, 1]), {}, "NaN or infinity in row 0"),
    ],
)
def test_bad_data_are_named(source, options, message):
    with pytest.raises(BadData, match=message):
        PROBLEM.load(source, **options)
