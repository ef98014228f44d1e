"""Students for a budget: who teaches, what is shown, and what each entrant's encoder may have."""

import numpy as np
import pytest
import tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from anytask.core.errors import BadData
from anytask.pretrain import EncoderClassifier
from anytask.problems.base import Entrant
from anytask.problems.distillation import Distillation

PROBLEM = Distillation()
FAST = {"small": {"steps": 2}, "finetuning": {"min_steps": 2, "epochs": 1}}
SYSTEM = Entrant("autodistil", "anytask.pretrain:AutoDistil", {**FAST, "epochs": 1}, key="autodistil")
TEXTS = [f"{word} {thing} {i}" for word in ("good", "bad") for thing in ("film", "book", "meal", "game") for i in "abc"]


def fast(entrant, **params):
    known = EncoderClassifier().get_params() if entrant.class_name == "EncoderClassifier" else {}
    more = {"distillation": {"epochs": 1}} if "distillation" in known else {}
    return Entrant(
        entrant.name, entrant.entry, {**entrant.params, **(FAST if known else {}), **more, **params}, "baseline"
    )


def test_students_keep_the_budget_and_the_whole_teacher_is_said_to_exceed_it():
    data = PROBLEM.load("digits", unlabeled=40, max_test=60, budget=5_000)
    sizes, notes = {}, {}
    for entrant in (*PROBLEM.baselines(data), SYSTEM):
        outcome = PROBLEM.run(fast(entrant) if entrant is not SYSTEM else entrant, data, 0)
        sizes[entrant.name], notes[entrant.name] = outcome.metrics.get("parameters"), outcome.notes
        assert 0 <= outcome.metrics["accuracy"] <= 1
    assert sizes.pop("linear") is None and sizes.pop("whole teacher") == 139_328
    assert all(size <= 5_000 for size in sizes.values())
    assert any("Above the budget of 5,000" in note for note in notes["whole teacher"])
    assert not notes["directly trained"]


def test_defaults_fit_the_data():
    data = PROBLEM.load("digits")
    assert data.options.budget == 12_000 and len(data.split(0)[0]) == 50 and len(data.pool(0)) == 500
    few = PROBLEM.load("iris", max_test=100)
    assert len(few.pool(0)) == few.options.unlabeled == 35
    with pytest.raises(BadData, match="examples, not 400"):
        PROBLEM.load("digits", per_class=400)
    with pytest.raises(BadData, match="budget"):
        PROBLEM.load("digits", budget=0)


def test_a_teacher_of_labels_is_shared_and_never_sees_the_test(monkeypatch):
    data, seen = PROBLEM.load("digits", taught="labels", max_test=1_500, unlabeled=40), []
    own = EncoderClassifier.fit

    def fit(self, X, y, **how):
        seen.append(np.asarray(X))
        return own(self.set_params(finetuning__epochs=1, finetuning__min_steps=1), X, y, **how)

    monkeypatch.setattr(EncoderClassifier, "fit", fit)
    teacher = PROBLEM.teacher(data, 0)
    assert PROBLEM.teacher(data, 0) is teacher and len(seen) == 1
    tested = {row.tobytes() for row in data.inputs(data.split(0)[1])}
    assert not tested & {row.tobytes() for row in seen[0]} and len(seen[0]) == 297
    model = PROBLEM._made(SYSTEM, data, 0)
    assert model.teacher is teacher and model.budget == 12_000


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{word: i + 2 for i, word in enumerate(words)}}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=8, **shape)).save_pretrained(folder)
    return folder


def test_texts_are_read_and_classifiers_of_arrays_refused(teacher):
    y = [text.split()[0] for text in TEXTS]
    data = PROBLEM.load((TEXTS, y), teacher=str(teacher), per_class=3, max_test=8, budget=1e6)
    assert data.texts and data.inputs(np.array([0, 1])) == TEXTS[:2] and len(data.pool(0)) == 10
    space = {"name": "tiny", "layers": [1], "heads": [1], "width": [8], "ratio": [1]}
    for entrant in (*PROBLEM.baselines(data), SYSTEM):
        model = fast(entrant, spaces=[space]) if entrant is not SYSTEM else Entrant(
            "autodistil", entrant.entry, {**SYSTEM.params, "spaces": [space]})  # fmt: skip
        outcome = PROBLEM.run(model, data, 0)
        assert outcome.metrics["parameters"] > 0
    linear = Entrant("linear", "anytask.evaluate.baselines:LinearClassifier", {}, "baseline")
    assert PROBLEM.refuses(linear, data) == "linear does not read texts."


def test_refitted_classifiers_are_saved_and_used(tmp_path):
    data = PROBLEM.load("digits", unlabeled=0, max_test=60)
    trained = PROBLEM.refit(fast(PROBLEM.baselines(data)[1]), data, 0)
    trained.parts[0].save(tmp_path)
    model = EncoderClassifier.load(tmp_path, device="cpu")
    X = data.inputs(np.arange(5))
    assert np.array_equal(model.predict_proba(X), trained.parts[0].predict_proba(X)) and "load" in trained.usage[1]


def test_settings_of_direct_students():
    with pytest.raises(ValueError, match="answers are learned by a student"):
        EncoderClassifier(answers=True)
    X, y = np.random.default_rng(0).random((20, 4, 3)), np.arange(20) % 2
    with pytest.raises(ValueError, match="nothing has a budget of 10 parameters"):
        EncoderClassifier.from_preset("small", start="random", budget=10, **FAST).fit(X, y)
    model = EncoderClassifier.from_preset("small", start="random", unit="flops", budget=20_000, **FAST)
    # 4 (4 24 32 + 2 4 32 + 2 24 24) + 24^2 + 4 3 24 = 18,784, and 4 (... + 2 36 24) + ... = 21,088
    assert model.fit(X, y, unlabeled=X).shape_ == (1, 2, 24, 1)
