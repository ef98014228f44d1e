"""Every system of the in-context family, run through the family's protocol."""

import inspect
import json
import random
import re
import zlib
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from cases import speakers, speaks
from damaged import damaged_files_are_refused
from hard import BAD_INPUTS, BAD_TEXTS, NO_TEXTS, SAME, SAME_TEXTS, refused
from sklearn.exceptions import NotFittedError

from anytask import incontext
from anytask.core.discovery import published
from anytask.core.estimator import Fitted
from anytask.core.settings import Settings, settings_of
from anytask.datasets.attribute_language import AttributeLanguage
from anytask.datasets.retrieval_tasks import Blocks, RetrievalTask, ScriptedFeedback
from anytask.incontext import GPT3, UDR, Pipeline, VoteK
from anytask.incontext.base import InContextLearner, Retriever, Selector
from anytask.incontext.baselines import EmbeddingClassifier
from anytask.incontext.feedback import LMFeedback
from anytask.incontext.pool import AnnotatedPrompter, LMConfidence, NearestVote, Pool, as_pool
from anytask.incontext.retrievers import BM25Retriever, LearnedRetriever, SimilarRetriever
from anytask.incontext.selection import Diversity, FacilityLocation, LeastConfidence, RandomSelection
from anytask.lm import load_tiny
from anytask.lm.prompting import PromptTemplate
from anytask.lm.protocol import Capabilities, MissingCapability, OptionScore
from anytask.prompts import PromptQuine


class Words:
    """Embeds a text as the bag of its words."""

    def embed(self, texts, progress=False):
        out = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in zip(out, texts):
            for word in text.split():
                row[zlib.crc32(word.encode()) % 64] += 1
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


class NotFiniteScores:
    """A model whose scores are not numbers."""

    def __init__(self, lm):
        self._lm = lm

    def __getattr__(self, name):
        return getattr(self._lm, name)

    def score(self, prompts, options, *, tag="score"):
        return [[OptionScore(float("nan"), 1, 1, (float("nan"),)) for _ in row] for row in options]


LM = load_tiny("icl")
_LANGUAGE = AttributeLanguage(seed=3)
_SENTENCES = [_LANGUAGE.sentence(held_out=True) for _ in range(24)]
X, Y = [s.text for s in _SENTENCES], [s.attributes["topic"] for s in _SENTENCES]
CHOICES = sorted(set(Y))
SIXTY = np.random.default_rng(0).normal(size=(60, 3))
WORLD = Blocks(n_train=24, n_test=4)
SMALL = {"candidates": {"initial": "vectors", "n_first": 12, "n_mined": 12}, "steps": 3, "rounds": 2}


def vectors_pool():
    return Pool(SIXTY, annotate=lambda indices: [int(SIXTY[i, 0] > 0) for i in indices])


def annotated_pool():
    pool = Pool(texts=X, annotate=lambda indices: [Y[i] for i in indices], embedder=Words())
    pool.annotate(range(12))
    return pool


def feedback(seed=0):
    return ScriptedFeedback(seed)


def small_udr(**params):
    return UDR.from_preset("small", **{**SMALL, **params})


def again(cls):
    """What a saved model cannot bring along."""
    given = {name: SHARED[name] for name in ("lm", "embedder") if name in inspect.signature(cls).parameters}
    return given | ({"device": "cpu"} if cls is UDR else {})


#: What classes are made with that have such a setting, and what one class is made with beside it, afresh each time.
SHARED = {"lm": LM, "choices": CHOICES, "embedder": Words()}
OWN = {
    GPT3: lambda: {"k": 4},
    Pipeline: lambda: {"labels": 6, "k": 3},
    AnnotatedPrompter: lambda: {"pool": annotated_pool(), "k": 3},
    LearnedRetriever: lambda: {"udr": small_udr(embedder=Words()), "lm": feedback()},
    UDR: lambda: SMALL,
}


def maker(cls):
    def make(**params):
        shared = {name: value for name, value in SHARED.items() if name in inspect.signature(cls).parameters}
        given = {**shared, **OWN.get(cls, dict)(), **params}
        return cls.from_preset("small", **given) if "small" in getattr(cls, "PRESETS", ()) else cls(**given)

    return make


MAKERS = {cls: maker(cls) for cls in speakers("incontext", ("select", "index", "retrieve", "predict"))}
SELECTORS = [cls for cls in MAKERS if speaks(cls, "select")]
RETRIEVERS = [cls for cls in MAKERS if speaks(cls, "index")]
LEARNERS = [cls for cls in MAKERS if speaks(cls, "fit") and speaks(cls, "predict")]
SAVED = [cls for cls in MAKERS if issubclass(cls, Fitted)]


def fitted(cls, **params):
    model = MAKERS[cls](**params)
    if cls is UDR:
        return model.fit(WORLD.draw(0)[0], feedback())
    return model.fit(X[:18], Y[:18])


def answers(model):
    """Everything that a fitted object answers, as plain values."""
    if isinstance(model, UDR):
        queries = WORLD.draw(0)[1]
        found = [model.retrieve(f"block {t}", vectors=queries[t][0], k=5) for t in range(3)]
        return [[(one.indices.tolist(), one.similarities.round(4).tolist()) for one in task] for task in found]
    if isinstance(model, GPT3):
        return [(a.output, a.scores, a.demos) for a in model.answer(X[18:])]
    return list(model.predict(X[18:])), model.predict_proba(X[18:]).round(6).tolist()


def outcome(cls, **params):
    """What a class does with its part of the protocol, as plain values."""
    if cls in SELECTORS:
        return MAKERS[cls](**params).select(vectors_pool(), 9).indices.tolist()
    if cls in RETRIEVERS:
        retriever = MAKERS[cls](**params)
        retriever.index(X[:18], Y[:18])
        return [list(retriever.retrieve(query, 4)) for query in X[18:]]
    if cls is NearestVote:
        pool = annotated_pool()
        return list(MAKERS[cls](**params).predict(pool, Words().embed(X[12:])))
    if cls is AnnotatedPrompter:
        return MAKERS[cls](**params).predict(X[12:], Words().embed(X[12:]))
    return answers(fitted(cls, **params))


def ids(cls):
    return cls.__name__


def test_every_public_class_with_settings_is_here_and_speaks_the_protocol():
    public = {getattr(incontext, name) for name in published("anytask.incontext")}
    assert {cls for cls in public if isinstance(cls, type) and issubclass(cls, Settings)} <= set(MAKERS)
    for kind, classes in ((Selector, SELECTORS), (Retriever, RETRIEVERS), (InContextLearner, LEARNERS)):
        assert all(isinstance(MAKERS[cls](), kind) for cls in classes)


@pytest.mark.parametrize("cls", MAKERS, ids=ids)
def test_wrong_values_are_refused_by_name_at_construction_and_later(cls):
    checked = [s for s in settings_of(cls) if s.wanted]
    for setting in checked:
        group, _, inner = setting.name.partition(".")
        for wrong in (object(), float("nan"), -1e9, "no such word"):
            if isinstance(wrong, str) and re.match("a string|.*a name|the name", setting.wanted):
                continue
            with pytest.raises((ValueError, TypeError), match=inner or group):
                MAKERS[cls](**{group: {inner: wrong} if inner else wrong})
        model = MAKERS[cls]()
        before = repr(model.get_params())
        with pytest.raises((ValueError, TypeError), match=inner or group):
            model.set_params(**{setting.name.replace(".", "__"): object()})
        assert repr(model.get_params()) == before
    assert checked or cls in (FacilityLocation, BM25Retriever, SimilarRetriever)


@pytest.mark.parametrize("cls", MAKERS, ids=ids)
def test_one_seed_gives_one_result_and_no_global_generator_is_touched(cls):
    def states():
        legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return torch.get_rng_state().tolist(), legacy, random.getstate(), torch.get_num_threads()

    before = states()
    first = outcome(cls)
    with torch.no_grad():
        again = outcome(cls)
    assert first == again
    assert states() == before


@pytest.mark.parametrize("cls", [GPT3, Pipeline, UDR, RandomSelection, Diversity, LeastConfidence], ids=ids)
def test_another_seed_gives_another_result(cls):
    assert len({repr(outcome(cls, seed=seed)) for seed in range(3)}) > 1


@pytest.mark.parametrize("cls", SAVED, ids=ids)
def test_a_saved_model_answers_alike_and_other_folders_are_refused(cls, tmp_path):
    with pytest.raises(NotFittedError):
        MAKERS[cls]().save(tmp_path / "none")
    model = fitted(cls)
    model.save(tmp_path)
    loaded = cls.load(tmp_path, **again(cls))
    assert answers(loaded) == answers(model)
    assert "device" not in json.loads((tmp_path / "state.json").read_text())["tree"]["items"][1][1]
    with pytest.raises(ValueError, match="pass it again"):
        cls.load(tmp_path)
    for other in set(SAVED) - {cls}:
        with pytest.raises(ValueError, match="holds a"):
            other.load(tmp_path, **again(other))
    with pytest.raises(FileNotFoundError):
        cls.load(tmp_path / "missing", **again(cls))
    damaged_files_are_refused(lambda: cls.load(tmp_path, **again(cls)), tmp_path)


@pytest.mark.parametrize("cls", SAVED, ids=ids)
def test_a_refit_that_fails_leaves_the_model_as_it_was(cls):
    model = fitted(cls)
    before = answers(model)
    with pytest.raises(ValueError):
        if cls is UDR:
            model.fit(WORLD.draw(0)[0], lambda task, query, demos: [float("nan")] * len(demos))
        else:
            model.fit(X[:3], Y[:2])
    assert answers(model) == before


def test_unfitted_use_says_so():
    calls = [
        *(lambda cls=cls: MAKERS[cls]().predict(X[:1]) for cls in LEARNERS),
        *(lambda cls=cls: MAKERS[cls]().predict_proba(X[:1]) for cls in LEARNERS),
        lambda: MAKERS[GPT3]().prompt("a"),
        lambda: MAKERS[Pipeline]().prompts(["a"]),
        lambda: small_udr().retrieve("t", ["a"]),
        lambda: small_udr().add_task(RetrievalTask("t", ["a"], ["b"])),
        lambda: small_udr().cost(),
        lambda: SimilarRetriever(Words()).retrieve("a", 1),
        lambda: BM25Retriever().retrieve("a", 1),
        lambda: MAKERS[LearnedRetriever]().retrieve("a", 1),
    ]
    for call in calls:
        with pytest.raises(NotFittedError):
            call()


@pytest.mark.parametrize("cls", SELECTORS, ids=ids)
def test_selectors_refuse_bad_pools_and_budgets(cls):
    selector = MAKERS[cls]()

    def label(indices):
        return [0] * len(indices)

    for budget in (0, 61, 2.0, True, "three"):
        with pytest.raises(ValueError, match=r"budget must be an integer in \[1, 60\]"):
            selector.select(vectors_pool(), budget)
    for row, column in np.ndindex(4, 3):
        wrong = SIXTY[:4].copy()
        wrong[row, column] = np.nan
        with pytest.raises(ValueError, match=f"NaN or infinity in row {row}"):
            selector.select(wrong, 1, annotate=label)
    for wrong in (np.zeros((0, 3)), np.zeros(3), np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="shape"):
            selector.select(wrong, 1, annotate=label)
    refused(lambda pool: selector.select(pool, 1, annotate=label), SIXTY, NO_VECTORS)


@pytest.mark.parametrize("cls", SELECTORS, ids=ids)
def test_selections_are_distinct_for_every_budget_and_progress_ends_at_1(cls):
    for budget in (1, 13, 60):
        shares = []
        chosen = MAKERS[cls]().select(vectors_pool(), budget, progress=shares.append)
        assert len(set(chosen.indices.tolist())) == budget == len(chosen.scores) == len(chosen.stage)
        assert shares == sorted(shares) and shares[-1] == 1.0


@pytest.mark.parametrize("cls", SELECTORS, ids=ids)
def test_items_that_are_annotated_are_not_chosen_again(cls):
    pool = vectors_pool()
    first = MAKERS[cls]().select(pool, 12).indices.tolist()
    pool.annotate(first)
    second = MAKERS[cls]().select(pool, 12).indices.tolist()
    assert len({*first, *second}) == 24
    with pytest.raises(ValueError, match=r"budget must be an integer in \[1, \d+\] for a pool of 60 of which"):
        MAKERS[cls]().select(pool, 49)


def test_training_progress_ends_at_1():
    shares = []
    small_udr().fit(WORLD.draw(0)[0], feedback(), progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0


@pytest.mark.parametrize("cls", LEARNERS, ids=ids)
def test_learners_refuse_bad_contexts(cls):
    for inputs, outputs in ((["a"], []), (["a"] * 8, ["b"] * 7)):
        with pytest.raises(ValueError, match=r"equal|match|exceeds"):
            MAKERS[cls]().fit(inputs, outputs)
    if cls is GPT3:
        with pytest.raises(ValueError, match=r"y\[1\] is empty"):
            MAKERS[cls](k=1).fit(["a", "b"], ["yes", " "])
        with pytest.raises(TypeError, match=r"y\[0\] must be a string"):
            MAKERS[cls](k=1).fit(["a"], [1])


#: What vectors (n, d) must not be, whatever their name is.
NO_VECTORS = {kind: (spoil, ".{20}") for kind, (spoil, _) in BAD_INPUTS.items()}


def refused_once(call):
    refused(lambda _: call(), None, {"": (lambda given: given, ".{20}")})


def queries_of(model):
    """The ways in which a fitted object takes texts to answer, each as a call that returns plain values."""
    if isinstance(model, UDR):
        return [lambda texts: [one.indices.tolist() for one in model.retrieve("t", texts, k=3)]]
    if isinstance(model, AnnotatedPrompter):
        return [model.predict]
    if type(model) in RETRIEVERS:
        return []
    return [lambda texts: list(model.predict(texts)), lambda texts: model.predict_proba(texts).tolist()]


def fit(model, X, y):
    if isinstance(model, UDR):
        return model.fit([RetrievalTask("t", X, y)], feedback())
    if type(model) in RETRIEVERS:
        return model.index(X, y)
    return model if isinstance(model, AnnotatedPrompter) else model.fit(X, y)


def told(model):
    if type(model) in RETRIEVERS:
        return [list(model.retrieve(query, 3)) for query in X[18:20]]
    return [ask(X[18:20]) for ask in queries_of(model)]


READERS = [*RETRIEVERS, *LEARNERS, AnnotatedPrompter, UDR]


@pytest.mark.parametrize("cls", READERS, ids=ids)
def test_texts_of_every_kind_are_read_alike_and_everything_else_is_refused_in_one_line(cls):
    model = fit(MAKERS[cls](), X[:18], Y[:18])
    expected = told(model)
    for kind, convert in SAME_TEXTS.items():
        for ask, answer in zip(queries_of(model), expected, strict=type(model) not in RETRIEVERS):
            assert ask(convert(X[18:20])) == answer, kind
        if cls is not UDR or kind in ("iterator", "pandas backwards"):  # whose training takes its time
            assert told(fit(MAKERS[cls](), convert(X[:18]), convert(Y[:18]))) == expected, kind
    for ask in queries_of(model):
        # Vectors may stand for what a UDR is asked.
        refused(ask, X[18:20], {kind: bad for kind, bad in BAD_TEXTS.items() if (cls, kind) != (UDR, "nothing")})
    for kind, spoil in NO_TEXTS.items():
        if cls is not AnnotatedPrompter:
            refused_once(lambda spoil=spoil: fit(model, spoil(X[:18]), Y[:18]))
            # Numbers are labels to some, some look only at what they buy, and some at no label at all.
            numbers = kind in ("numbers", "tensor") and cls in (EmbeddingClassifier, Pipeline)
            unseen = "among" in kind and cls is Pipeline
            if not numbers and not unseen and cls not in (SimilarRetriever, BM25Retriever):
                refused_once(lambda spoil=spoil: fit(model, X[:18], spoil(Y[:18])))
    for query in (None, 3, b"a", ["a"], np.array(["a"])):
        if cls in RETRIEVERS:
            refused_once(lambda query=query: model.retrieve(query, 3))
    assert told(model) == expected


@pytest.mark.parametrize("cls", SELECTORS, ids=ids)
def test_vectors_and_labels_of_every_kind_are_selected_from_alike(cls):
    def select(pool):
        return MAKERS[cls]().select(pool, 9).indices.tolist()

    rows = np.round(8 * SIXTY) / 8  # exact in half precision
    labels = [int(row[0] > 0) for row in rows]
    expected = select(Pool(rows, annotate=lambda indices: [labels[i] for i in indices]))
    for kind, convert in SAME.items():
        numbers = rows.astype(np.float32)
        assert select(Pool(convert(numbers), annotate=lambda indices: [labels[i] for i in indices])) == expected, kind
    words = [f"label {label}" for label in labels]
    for kind, convert in SAME_TEXTS.items():
        pool = Pool(rows, annotate=lambda indices, c=convert: c([words[i] for i in indices]))
        assert select(pool) == expected, kind
        assert all(type(label) is str for label in pool.labels.values()), kind


def test_pools_are_made_of_texts_and_of_vectors_of_every_kind():
    for kind, convert in SAME_TEXTS.items():
        assert as_pool(convert(X[:3])).texts == X[:3], kind
        assert Pool(texts=convert(X[:3]), embedder=Words()).texts == X[:3], kind
    refused(as_pool, X[:3], BAD_TEXTS)
    numbers = (np.round(8 * SIXTY) / 8).astype(np.float32)
    pool = Pool(numbers, annotate=lambda indices: ["ab"[int(numbers[i, 0] > 0)] for i in indices])
    pool.annotate(range(9))
    task = RetrievalTask("t", ["?"] * 60, list("ab" * 30), vectors=numbers, instruction_vector=numbers[0])
    udr = small_udr().fit([task], feedback())
    answers = [
        lambda queries: NearestVote().predict(pool, queries).tolist(),
        lambda queries: [one.indices.tolist() for one in udr.retrieve("t", vectors=queries, k=3)],
        lambda queries: RetrievalTask("t", ["?"] * 8, ["a"] * 8, vectors=queries).vectors.tolist(),
        lambda queries: Pool(queries).vectors.tolist(),
    ]
    for answer in answers:
        for kind, convert in SAME.items():
            assert answer(convert(numbers[:8])) == answer(numbers[:8].tolist()), kind
        refused(answer, numbers[:8], {kind: bad for kind, bad in NO_VECTORS.items() if kind != "nothing"})


def test_labels_that_are_missing_are_refused_and_none_is_kept():
    for missing in (None, float("nan"), pd.NA, np.datetime64("NaT")):
        pool = Pool(SIXTY, annotate=lambda indices, label=missing: [label if i == 3 else "a" for i in indices])
        with pytest.raises(ValueError, match=r"got .* at place 3"):
            pool.annotate(range(6))
        assert not pool.labels
    demos = fitted(Pipeline).demos_
    bought = {demo.id for demo in demos}
    holes = pd.Series([label if i in bought else None for i, label in enumerate(Y[:18])], index=[7] * 18)
    assert MAKERS[Pipeline]().fit(X[:18], holes).demos_ == demos  # the labels that were not bought are not looked at


def test_options_of_every_kind_are_chosen_from_alike():
    options = [CHOICES, CHOICES[::-1]]
    for make in (
        lambda: MAKERS[GPT3]().fit(X[:18], Y[:18]),
        lambda: MAKERS[Pipeline](choices=None).fit(X[:18], Y[:18]),
    ):
        model = make()
        expected = list(model.predict(X[18:20], options=options))
        for kind, convert in SAME_TEXTS.items():
            assert list(model.predict(X[18:20], options=[convert(row) for row in options])) == expected, kind
        assert list(model.predict(X[18:20], options=np.array(options))) == expected
        for spoil in NO_TEXTS.values():
            wrong = [spoil(row) for row in options]
            refused_once(lambda wrong=wrong, model=model: model.predict(X[18:20], options=wrong))
    for kind in ("tuple", "array of fixed width", "array of objects", "pandas with one index for all rows"):
        choices = SAME_TEXTS[kind](CHOICES)
        assert answers(fitted(Pipeline, choices=choices)) == answers(fitted(Pipeline)), kind
        assert answers(MAKERS[GPT3]().fit(X[:18], Y[:18], options=choices)) == answers(fitted(GPT3)), kind
        assert outcome(AnnotatedPrompter, choices=choices) == outcome(AnnotatedPrompter), kind
        assert outcome(LearnedRetriever, choices=choices) == outcome(LearnedRetriever), kind


@pytest.mark.parametrize("cls", READERS, ids=ids)
def test_nothing_to_answer_and_wrong_numbers_of_demonstrations_are_refused(cls):
    model = fit(MAKERS[cls](), X[:18], Y[:18])
    for ask in queries_of(model):
        with pytest.raises(ValueError, match="is empty: there is nothing to answer"):
            ask([])
    if isinstance(model, UDR) or cls in RETRIEVERS:
        for k in (0, -1, 2.5, "two", None, True):
            with pytest.raises(ValueError, match="k must be an integer of at least 1"):
                model.retrieve("t", X[:1], k=k) if cls is UDR else model.retrieve(X[0], k)


def test_what_objects_of_users_give_is_checked_before_it_is_used():
    class Wrong:
        def __init__(self, places):
            self.retrieve = self.select = lambda *args: places

        def index(self, inputs, outputs):
            pass

    for places in ([99], [-1], [0, 0]):
        with pytest.raises(ValueError, match=r"must return distinct places in \[0, 17\]"):
            MAKERS[GPT3](demos=Wrong(places)).fit(X[:18], Y[:18]).predict(X[18:])
        with pytest.raises(ValueError, match=r"select must return .*distinct"):
            MAKERS[Pipeline](select=Wrong([*places, 1, 2, 3, 4, 5][:6])).fit(X[:18], Y[:18])
    with pytest.raises(ValueError, match="select must return 6 distinct items, got 2"):
        MAKERS[Pipeline](select=Wrong([0, 1])).fit(X[:18], Y[:18])
    assert MAKERS[Pipeline](select=Wrong(range(6))).fit(X[:18], Y[:18]).demos_[5].id == 5
    with pytest.raises(TypeError, match="what rewrite returns must be a string"):
        MAKERS[GPT3](rewrite=len).fit(X[:18], Y[:18]).predict(X[18:])
    for wrong, says in ((3, "annotate must be a callable"), ("labels", "annotate must be a callable")):
        with pytest.raises(TypeError, match=says):
            VoteK().select(SIXTY, 3, annotate=wrong)
    with pytest.raises(TypeError, match="confidence must be a callable"):
        VoteK().select(vectors_pool(), 20, confidence=3)
    with pytest.raises(TypeError, match="confidence must return numbers"):
        VoteK().select(vectors_pool(), 20, confidence=lambda pool, queries: ["high"] * len(queries))
    with pytest.raises(ValueError, match="a Pool"):
        AnnotatedPrompter(X, LM)
    with pytest.raises(TypeError, match="tasks must be a sequence of RetrievalTask"):
        small_udr().fit(X, LM)
    udr = small_udr().fit(WORLD.draw(0)[0], feedback())
    with pytest.raises(ValueError, match="1 inputs and 4 vectors"):
        udr.retrieve("block 0", ["a"], vectors=WORLD.draw(0)[1][0][0])
    model = fitted(GPT3)
    for y in (Y[18:20], Y[18:19], [*Y[18:], "one more"]):  # of which one alone would be compared with every answer
        with pytest.raises(ValueError, match="X and y must have equal lengths"):
            model.score(X[18:], y)


def test_vectors_of_any_scale_are_selected_from_alike():
    for scale in (1e30, 1e-30):
        assert np.allclose(Pool(SIXTY * scale).vectors, Pool(SIXTY).vectors, atol=1e-5)


def test_embeddings_that_are_not_finite_are_refused_as_such():
    class Broken(Words):
        def embed(self, texts, progress=False):
            return np.where(np.arange(len(texts))[:, None] == 1, np.nan, super().embed(texts))

    tasks = [RetrievalTask("t", X, Y)]
    for use in (
        lambda: Pool(texts=X, embedder=Broken()),
        lambda: annotated_pool().place(Broken().embed(X)),
        lambda: SimilarRetriever(Broken()).index(X),
        lambda: MAKERS[EmbeddingClassifier](embedder=Broken()).fit(X, Y),
        lambda: fitted(EmbeddingClassifier).set_params(embedder=Broken()).predict(X),
        lambda: small_udr(embedder=Broken()).fit(tasks, feedback()),
        lambda: MAKERS[Pipeline](select=VoteK(), embedder=Broken()).fit(X, Y),
    ):
        with pytest.raises(ValueError, match=r"(embedding of the texts|queries) contains NaN or infinity in row 1"):
            use()


def test_scores_that_are_not_finite_never_become_an_answer():
    lm = NotFiniteScores(LM)
    for model in (fitted(GPT3, lm=lm), fitted(GPT3, lm=lm, calibrate=True), fitted(Pipeline, lm=lm)):
        with pytest.raises(FloatingPointError, match="NaN"):
            model.predict(X[18:20])
    with pytest.raises(FloatingPointError, match="NaN"):
        MAKERS[AnnotatedPrompter](lm=lm).predict(X[12:14], Words().embed(X[12:14]))
    with pytest.raises(ValueError, match="NaN"):
        VoteK().select(annotated_pool(), 10, confidence=LMConfidence(lm, choices=CHOICES))
    with pytest.raises(FloatingPointError, match="is NaN"):
        LMConfidence(lm)(annotated_pool(), np.arange(12, 14))
    with pytest.raises(ValueError, match="is NaN"):
        small_udr(embedder=Words()).fit([RetrievalTask("t", X, Y)], lm)


class Endpoint:
    """Offers what a chat server offers: texts, and nothing about tokens."""

    name, kind, context_length = "server", "http", 1000

    def __init__(self, logprobs):
        self.capabilities = Capabilities(logprobs=logprobs)

    def count_tokens(self, text):
        return len(text.split())

    def encode(self, text):
        raise MissingCapability("the server keeps its tokenizer to itself")


def prune(*args, **kwargs):
    raise AssertionError("nothing is pruned at construction")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GPT3(Endpoint(False), scoring="mean"), "scoring='choose'"),
        (lambda: GPT3(Endpoint(False), scoring="generate", beam_width=4), "beam_width=1"),
        (lambda: GPT3(LM, scoring="generate", calibrate=True), "calibrate"),
        (lambda: Pipeline(Endpoint(False), scoring="mean"), "logprobs"),
        (lambda: Pipeline(Endpoint(False), scoring="generate", beam_width=4), "beam_width=1"),
        (lambda: Pipeline(Endpoint(True), choices=CHOICES, prune=prune), "needs a model with a tokenizer"),
        (lambda: Pipeline(LM, prune=prune), "give choices"),
        (lambda: Pipeline(LM, choices=CHOICES, prune=prune, scoring="generate"), "does not go with prune"),
        (lambda: Pipeline(LM, choices=CHOICES, prune=prune, calibrate=True), "does not go with prune"),
        (lambda: Pipeline(LM, choices=CHOICES, prune=prune, labels=2), "labels must be at least 3"),
        (lambda: Pipeline(LM, choices=CHOICES, prune=lambda *args, **kwargs: None), "object with search"),
        (lambda: Pipeline(LM, choices=CHOICES, prune=partial(PromptQuine, budget=-1)), "budget must be"),
        (lambda: Pipeline(LM, choices=["a"]), "at least 2"),
        (lambda: Pipeline(LM, choices=["a", "a"]), "different strings"),
        (lambda: Pipeline(LM, choices=CHOICES, context=1), "are never cut"),
        (lambda: LearnedRetriever(small_udr(), Endpoint(False)), "logprobs"),
        (
            lambda: Pipeline(LM, choices=CHOICES, labels=6, retrieve=LearnedRetriever(UDR(), LM)),
            "at least l . 1 = 9 lab",
        ),
        (lambda: Pipeline(LM, choices=CHOICES, retrieve=LearnedRetriever(UDR(), LM, choices=["a", "b"])), "lack some"),
        (lambda: GPT3(LM, budget=1), "are never cut"),
        (lambda: GPT3(LM, balanced=True, demos=BM25Retriever()), "balanced"),
        (lambda: GPT3(LM, scoring="unconditional", template=PromptTemplate("{input} {output}")), "answer_context="),
        (lambda: AnnotatedPrompter(annotated_pool(), Endpoint(False), choices=CHOICES), "logprobs"),
        (lambda: Pipeline(LM, scoring="generate", calibrate=True), "calibrate"),
        (lambda: LMConfidence(LM, order="nearest"), "order"),
        (lambda: LMConfidence(Endpoint(False)), "logprobs"),
        (lambda: LMFeedback(Endpoint(False)), "logprobs"),
        (lambda: UDR(candidates={"l": 2, "n_top": 2}), "n_top"),
        (lambda: UDR(candidates={"n_first": 3, "n_random": 4}), "n_random"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_at_construction(make, words):
    with pytest.raises((ValueError, TypeError, MissingCapability), match=words):
        make()


def test_defaults_work():
    assert len(GPT3(LM).fit(X[:6], Y[:6]).predict(X[6:8])) == 2
    assert len(Pipeline(LM, labels=4).fit(X, Y).predict(X[:1], options=[CHOICES])) == 1
    assert len(UDR().fit(WORLD.draw(0)[0], feedback()).retrieve("block 0", vectors=WORLD.draw(0)[1][0][0])) == 4
    for cls in SELECTORS:
        assert len(cls().select(vectors_pool(), 5)) == 5
