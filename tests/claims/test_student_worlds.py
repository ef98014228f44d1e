"""The worlds of AutoDistil's claim: members that are asked for, and one student for three tasks of texts."""

import numpy as np
import pytest
from transformers import BertConfig, BertModel

from anytask.claims.pretrain.autodistil import CLAIM
from anytask.claims.pretrain.student_worlds import PROBES, Probes, ThreeTasks
from anytask.pretrain import AutoDistil
from anytask.problems.base import Entrant


def test_every_space_of_the_claim_holds_the_members_that_are_asked_for():
    own, single, _ = CLAIM.experiments[1].entrants
    shapes = [
        {(one.layers, one.heads, one.width, one.ratio) for space in entrant.make("small")._spaces.values()
         for one in space.members} for entrant in (own, single)
    ]  # fmt: skip
    assert all(set(PROBES.values()) <= members for members in shapes)
    # half of the steps for each SuperLM: 4 passes for each of two, 8 for one
    assert 2 * own.params["epochs"] == single.params["epochs"]


def test_probes_are_rows_of_the_table(monkeypatch):
    data = Probes().load("digits", per_class=1, unlabeled=30, max_test=30)
    entrant = Entrant("a", "anytask.pretrain:AutoDistil", {"epochs": 1, "small": {"steps": 1}})
    metrics = Probes().run(entrant, data, 0).metrics
    table = entrant.make("small", seed=0).fit(data.inputs(data.pool(0))).table()
    assert (
        metrics["smallest"]
        == table["loss"][(table[["layers", "heads", "width", "ratio"]] == list(PROBES["smallest"])).all(axis=1)].item()
    )


class _Letters:
    pad_token_id = 0

    def __call__(self, texts, truncation, max_length):
        return {"input_ids": [[1 + ord(letter) % 30 for letter in text][:max_length] for text in texts]}


def test_what_distils_without_labels_does_it_once_for_three_tasks(monkeypatch):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    teacher = BertModel(BertConfig(vocab_size=31, max_position_embeddings=12, **shape))
    space = {"name": "a", "layers": [1], "heads": [1], "width": [8], "ratio": [1]}
    params = {
        "teacher": teacher,
        "tokenizer": _Letters(),
        "spaces": [space],
        "finetuning": {"min_steps": 1, "epochs": 1},
    }
    problem, pools, fit = ThreeTasks(), [], AutoDistil.fit
    data = problem.load(n_train=20, n_test=6)
    monkeypatch.setattr(AutoDistil, "fit", lambda self, X, *a, **how: (pools.append(X), fit(self, X, *a, **how))[1])
    outcome = problem.run(Entrant("a", "anytask.pretrain:AutoDistil", {**params, "epochs": 1}), data, 0)
    tested = {query for _, queries, _ in data.draw(0) for query in queries}
    assert len(pools) == 1 and not tested & set(pools[0]) and len(pools[0]) > 900
    assert set(outcome.details) == {"reviews", "customer-intents", "topics"}
    assert outcome.metrics["accuracy"] == pytest.approx(np.mean(list(outcome.details.values())))
    direct = Entrant("b", "anytask.pretrain:EncoderClassifier", {**params, "start": "random"})
    assert 0 <= problem.run(direct, data, 0).metrics["accuracy"] <= 1
