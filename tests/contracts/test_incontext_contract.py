"""Every system of the in-context family, run through the family's protocol."""

import json
import random
import re
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from damaged import damaged_files_are_refused
from sklearn.exceptions import NotFittedError

from anytask import incontext
from anytask.core.discovery import published
from anytask.core.settings import Settings, settings_of
from anytask.datasets.attribute_language import AttributeLanguage
from anytask.datasets.retrieval_tasks import Blocks, RetrievalTask, ScriptedFeedback
from anytask.incontext import GPT3, UDR, Pipeline, VoteK
from anytask.incontext.base import InContextLearner, Retriever, Selector
from anytask.incontext.baselines import EmbeddingClassifier
from anytask.incontext.feedback import LMFeedback
from anytask.incontext.pool import AnnotatedPrompter, LMConfidence, NearestVote, Pool
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
    pool = Pool(Words().embed(X), texts=X, annotate=lambda indices: [Y[i] for i in indices])
    pool.annotate(range(12))
    return pool


def feedback(seed=0):
    return ScriptedFeedback(seed)


def small_udr(**params):
    return UDR.from_preset("small", **{**SMALL, **params})


#: How each class of the family that has settings is made.
MAKERS = {
    GPT3: lambda **kw: GPT3(**{"lm": LM, "k": 4, **kw}),
    Pipeline: lambda **kw: Pipeline(**{"lm": LM, "choices": CHOICES, "labels": 6, "k": 3, **kw}),
    EmbeddingClassifier: lambda **kw: EmbeddingClassifier(**{"embedder": Words(), **kw}),
    VoteK: VoteK,
    RandomSelection: RandomSelection,
    Diversity: Diversity,
    FacilityLocation: FacilityLocation,
    LeastConfidence: LeastConfidence,
    NearestVote: NearestVote,
    AnnotatedPrompter: lambda **kw: AnnotatedPrompter(
        **{"pool": annotated_pool(), "lm": LM, "choices": CHOICES, "n": 3, **kw}
    ),
    SimilarRetriever: lambda **kw: SimilarRetriever(**{"embedder": Words(), **kw}),
    BM25Retriever: BM25Retriever,
    LearnedRetriever: lambda **kw: LearnedRetriever(
        **{"udr": small_udr(embedder=Words()), "lm": feedback(), "choices": CHOICES, **kw}
    ),
    UDR: small_udr,
}
SELECTORS = (VoteK, RandomSelection, Diversity, FacilityLocation, LeastConfidence)
RETRIEVERS = (SimilarRetriever, BM25Retriever, LearnedRetriever)
LEARNERS = (GPT3, Pipeline, EmbeddingClassifier)
SAVED = (GPT3, Pipeline, EmbeddingClassifier, UDR)


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
    first, again = outcome(cls), outcome(cls)
    assert first == again
    assert states() == before


@pytest.mark.parametrize("cls", [GPT3, Pipeline, UDR, RandomSelection, Diversity, LeastConfidence], ids=ids)
def test_another_seed_gives_another_result(cls):
    assert len({repr(outcome(cls, seed=seed)) for seed in range(3)}) > 1


@pytest.mark.parametrize("cls", SAVED, ids=ids)
def test_a_saved_model_answers_alike_and_other_folders_are_refused(cls, tmp_path):
    again = {GPT3: {"lm": LM}, Pipeline: {"lm": LM}, EmbeddingClassifier: {"embedder": Words()}, UDR: {"device": "cpu"}}
    with pytest.raises(NotFittedError):
        MAKERS[cls]().save(tmp_path / "none")
    model = fitted(cls)
    model.save(tmp_path)
    loaded = cls.load(tmp_path, **again[cls])
    assert answers(loaded) == answers(model)
    assert "device" not in json.loads((tmp_path / "state.json").read_text())["tree"]["items"][1][1]
    if cls is not UDR:
        with pytest.raises(ValueError, match="pass it again"):
            cls.load(tmp_path)
    for other in set(SAVED) - {cls}:
        with pytest.raises(ValueError, match="holds a"):
            other.load(tmp_path, **again[other])
    with pytest.raises(FileNotFoundError):
        cls.load(tmp_path / "missing", **again[cls])
    damaged_files_are_refused(lambda: cls.load(tmp_path, **again[cls]), tmp_path)


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
    with pytest.raises(TypeError, match="numeric"):
        selector.select(np.array([["a"], ["b"]]), 1, annotate=label)


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
        (lambda: GPT3(Endpoint(False)), "scoring='generate'"),
        (lambda: GPT3(Endpoint(False), scoring="generate"), "beam_width=1"),
        (lambda: GPT3(LM, scoring="generate", calibrate=True), "calibrate"),
        (lambda: Pipeline(Endpoint(False)), "logprobs"),
        (lambda: Pipeline(Endpoint(False), scoring="generate"), "beam_width=1"),
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
