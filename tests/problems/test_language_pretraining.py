"""The problem `language-pretraining`: what is pretrained on, asked and measured, and what is refused."""

import numpy as np
import pytest

from anytask import problems
from anytask.core.errors import BadData
from anytask.problems.base import Entrant
from anytask.problems.language_pretraining import LanguagePretraining

PROBLEM = LanguagePretraining()
TINY = {
    "steps": 3, "batch_size": 4, "length": 16, "finetuning": {"min_steps": 4},
    "sizes": {"layers": 1, "width": 8, "heads": 2, "branch_width": 4},
}  # fmt: skip
ERNIE = Entrant("ernie3", "anytask.pretrain:ERNIE3", TINY, key="ernie3")


def texts(n=40):
    words = np.random.default_rng(0).choice(["tea", "milk", "rice"], size=(n, 3))
    y = ["good" if i % 2 else "bad" for i in range(n)]
    return [f"{' '.join(row)} tastes {'fine' if label == 'good' else 'foul'}" for row, label in zip(words, y)], y


def test_it_is_registered():
    assert isinstance(problems.get("language-pretraining"), LanguagePretraining)


@pytest.mark.filterwarnings("ignore:.*longer than")
def test_facts_are_probed_tuned_asked_and_read():
    data = PROBLEM.load("fact-texts", documents=30, tested=40, shots=2, draws=1)
    outcome = PROBLEM.run(ERNIE, data, seed=0)
    assert set(outcome.metrics) == {metric.key for metric in PROBLEM.metrics}
    assert outcome.metrics["perplexity"] > 1 and outcome.cost["labels"] == 8
    assert outcome.cost["module_parameters"] < outcome.cost["finetuned_parameters"]
    assert data.world(0).corpus == data.world(0).corpus != data.world(1).corpus
    words = PROBLEM.run(PROBLEM.baselines(data)[0], data, seed=0)
    assert set(words.metrics) == {"accuracy"}


def test_own_texts_are_pretrained_on_without_those_that_are_tested(tmp_path):
    data = PROBLEM.load(texts(), shots=3, draws=1, finetune=False)
    world = data.world(0)
    assert not set(world.tested) - set(texts()[0]) and len(world.texts) == 30 and world.corpus.documents == world.texts
    assert set(PROBLEM.run(ERNIE, data, seed=0).metrics) == {"accuracy", "perplexity"}
    words = PROBLEM.baselines(data)[0]
    assert PROBLEM.run(words, data, seed=0).metrics["accuracy"] > 0.7
    assert len(PROBLEM.refit(ERNIE, data, 0).parts) == 1
    (tmp_path / "docs.txt").write_text("Tea is good.\n\nMilk is bad. Rice is good.\n")
    (tmp_path / "facts.csv").write_text("head,relation,tail\nTea,is,good\n")
    given = {"corpus": tmp_path / "docs.txt", "triples": tmp_path / "facts.csv"}
    asked = PROBLEM.load(texts(), shots=3, draws=1, finetune=False, prompt="{text} . It is [MASK] .", **given)
    assert len(asked.world(0).corpus) == 2 and asked.world(0).corpus.triples
    assert asked.fingerprint != data.fingerprint
    assert "zero_shot" in PROBLEM.run(ERNIE, asked, seed=0).metrics
    del given["corpus"]
    unknown = PROBLEM.run(ERNIE, PROBLEM.load(texts(), shots=3, draws=1, prompt="{text} [MASK]", **given), seed=0)
    assert "bad" in unknown.notes[0] and "zero_shot" not in unknown.metrics


def test_untrained_and_trained_models_take_part():
    data = PROBLEM.load("topics")
    names = [entrant.name for entrant in PROBLEM.baselines(data)]
    assert {"words", "masked language model", "causal language model", "trunk from scratch"} <= set(names)
    assert all(PROBLEM.refuses(entrant, data) is None for entrant in PROBLEM.baselines(data))
    assert "learns from bags" in PROBLEM.refuses(Entrant("m", "anytask.pretrain:MADELEINE"), data)


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        (texts(), {"shots": 20}, "one has 15"),
        ((["a b", "c d"], ["x", "x"]), {"shots": 1}, "1 classes"),
        (texts(), {"prompt": "no place"}, "prompt must hold"),
        (texts(), {"spans": "spans.csv"}, "name it, corpus"),
        (texts(), {"corpus": "nothing.txt"}, "nothing.txt"),
        ("nothing.csv", {}, "nothing.csv"),
    ],
)
def test_what_cannot_be_used_is_refused(source, options, says):
    with pytest.raises(BadData, match=says):
        PROBLEM.load(source, **options)
