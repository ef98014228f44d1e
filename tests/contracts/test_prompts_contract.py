"""Every system of the prompts family, run through the family's protocol."""

import json
import random
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from cases import speakers
from damaged import damaged_files_are_refused
from hard import BAD_TEXTS, NO_TEXTS, SAME_TEXTS, refused
from sklearn.exceptions import NotFittedError

from anytask import prompts
from anytask.core.discovery import published
from anytask.core.settings import Settings, settings_of
from anytask.datasets.scripted_prompt import ScriptedPromptLM
from anytask.lm import load_tiny
from anytask.lm.protocol import Capabilities, MissingCapability, OptionScore
from anytask.prompts import LLMLingua2, PromptQuine, TAPruning
from anytask.prompts.base import Compressor, PromptSearcher, SearchResult
from anytask.prompts.baselines import (
    GreedyPruning,
    RandomDeletion,
    RandomMasks,
    SurprisalCompressor,
    Truncation,
    Uncompressed,
)

V = (" A", " B")
LM = ScriptedPromptLM(0)
SEARCH, VALIDATION = LM.examples(8, "search"), LM.examples(8, "validation")
TEXT = "On the 14th of March, Helena Brandt paid 2350 euros for a boat. The library closed!"
WORDS = [[f"word{(i * j) % 7}" for j in range(1, 6)] for i in range(8)]
LABELS = [[word != "word0" for word in text] for text in WORDS]


def searcher(cls, **small):
    return lambda **kw: cls(**{"prompt": LM.prompt, "verbalizers": V, **small, **kw})


#: What keeps a search small.
OWN = {
    PromptQuine: {"budget": 60, "population": 6, "offspring": 8},
    TAPruning: {"budget": 12},
    RandomMasks: {"budget": 12},
    GreedyPruning: {"budget": 60},
}
SEARCHERS = {cls: searcher(cls, **OWN.get(cls, {})) for cls in speakers("prompts", ["search"])}
COMPRESSORS = {cls: cls for cls in speakers("prompts", ["compress"])}
MAKERS = SEARCHERS | COMPRESSORS


def ready(cls, **params):
    made = COMPRESSORS[cls](**params)
    return made.fit([TEXT]) if cls is SurprisalCompressor else made


def outcome(cls, **params):
    if cls in SEARCHERS:
        return SEARCHERS[cls](**params).search(ScriptedPromptLM(0), SEARCH, VALIDATION)
    return ready(cls, **params).compress([TEXT, TEXT[:30]], 0.5)


def ids(cls):
    return cls.__name__


def test_every_public_class_with_settings_is_here_and_speaks_the_protocol():
    public = {getattr(prompts, name) for name in published("anytask.prompts")}
    assert {cls for cls in public if isinstance(cls, type) and issubclass(cls, Settings)} <= set(MAKERS)
    assert all(isinstance(make(), PromptSearcher) for make in SEARCHERS.values())
    assert all(isinstance(make(), Compressor) for make in COMPRESSORS.values())


@pytest.mark.parametrize("cls", MAKERS, ids=ids)
def test_wrong_values_are_refused_by_name_at_construction_and_later(cls):
    for setting in (s for s in settings_of(cls) if s.wanted):
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


@pytest.mark.parametrize(
    ("cls", "params", "words"),
    [
        *((cls, {"verbalizers": None}, "either verbalizers") for cls in SEARCHERS),
        *((cls, {"evaluator": len}, "either verbalizers") for cls in SEARCHERS),
        *((cls, {"verbalizers": "AB"}, "different strings, at least 2") for cls in SEARCHERS),
        *((cls, {"prompt": " "}, "not empty") for cls in SEARCHERS),
        (PromptQuine, {"counts": ()}, "counts"),
        (LLMLingua2, {"model": torch.nn.Linear(1, 1)}, "needs its tokenizer"),
        (LLMLingua2, {"force_tokens": "abc"}, "force_tokens"),
        (LLMLingua2, {"force_tokens": [str(i) for i in range(101)]}, "at most 100"),
        (LLMLingua2, {"target": 3}, "target"),
        (Truncation, {"count_tokens": 3}, "count_tokens"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_construction(cls, params, words):
    with pytest.raises((ValueError, TypeError), match=words):
        MAKERS[cls](**params)


@pytest.mark.parametrize("cls", MAKERS, ids=ids)
def test_one_seed_gives_one_result_and_no_global_generator_is_touched(cls):
    def states():
        legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return torch.get_rng_state().tolist(), legacy, random.getstate()

    before = states()
    assert outcome(cls, seed=5) == outcome(cls, seed=5)
    assert states() == before


def test_another_seed_gives_another_result():
    for cls in (PromptQuine, RandomMasks):
        assert outcome(cls, seed=1).trace != outcome(cls, seed=2).trace
    assert outcome(RandomDeletion, seed=1) != outcome(RandomDeletion, seed=2)
    shuffled = [outcome(TAPruning, order="shuffled", seed=seed).trace for seed in range(3)]
    assert shuffled[0] != shuffled[1] or shuffled[1] != shuffled[2]


@pytest.mark.parametrize("cls", COMPRESSORS, ids=ids)
def test_a_saved_compressor_compresses_alike_and_other_folders_are_refused(cls, tmp_path):
    compressor = ready(cls, rate=0.4)
    compressor.save(tmp_path)
    loaded = cls.load(tmp_path)
    assert loaded.rate == 0.4
    assert loaded.compress(TEXT) == compressor.compress(TEXT)
    for other in set(COMPRESSORS) - {cls}:
        with pytest.raises(ValueError, match="holds a"):
            other.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        cls.load(tmp_path / "missing")
    damaged_files_are_refused(lambda: cls.load(tmp_path), tmp_path)


def test_a_found_prompt_is_saved_without_its_trace(tmp_path):
    found = outcome(TAPruning)
    found.save(tmp_path)
    assert SearchResult.load(tmp_path).prompt == found.prompt
    with pytest.raises(FileNotFoundError):
        SearchResult.load(tmp_path / "missing")


def test_a_damaged_prompt_is_refused_and_its_folder_named(tmp_path):
    outcome(TAPruning).save(tmp_path)
    file = tmp_path / "prompt.json"
    whole = json.loads(file.read_text())
    for body in (
        "", "{", "[]", "null", "3", json.dumps({**whole, "more": 1}), json.dumps({**whole, "prompt": 3}),
        json.dumps({**whole, "kept": 3}), *(json.dumps({k: v for k, v in whole.items() if k != name}) for name in
        ("prompt", "score", "kept")),
    ):  # fmt: skip
        file.write_text(body)
        with pytest.raises(ValueError, match=f"the prompt saved in {re.escape(str(tmp_path))} is damaged"):
            SearchResult.load(tmp_path)


@pytest.mark.parametrize("cls", SEARCHERS, ids=ids)
def test_the_budget_is_kept_to_the_call(cls):
    variants = [{}]
    if cls is PromptQuine:  # whose generations are larger than what is left of the budget
        variants = [{"algorithm": a, "halving": h, "offspring": 50} for a in ("gga", "ssga") for h in (False, True)]
    for budget in (1, 7, 40):
        for variant in variants:
            scored = []

            class Counting(ScriptedPromptLM):
                def score(self, prompts, options, *, tag="score", scored=scored):
                    scored.extend(prompts)
                    return super().score(prompts, options, tag=tag)

            found = SEARCHERS[cls](budget=budget, **variant).search(Counting(0), SEARCH)
            assert found.evaluations == len(scored) / len(SEARCH) <= budget, variant


@pytest.mark.parametrize("cls", SEARCHERS, ids=ids)
def test_scores_that_are_none_and_labels_that_tell_nothing_are_said(cls):
    for scores, says in (
        (lambda n: None, "one score for each prompt"),
        (lambda n: ["good"] * n, "must give numbers"),
        (lambda n: [[0.5]] * n, "must give numbers"),
        (lambda n: [0.5] * (n + 1), "scores, one for each prompt"),
    ):
        search = SEARCHERS[cls](verbalizers=None, evaluator=lambda prompts, examples, f=scores: f(len(prompts)))
        with pytest.raises((ValueError, TypeError), match=says):
            search.search(LM, SEARCH)
    with pytest.warns(UserWarning, match="search examples have the label 0"):
        SEARCHERS[cls]().search(LM, [example for example in SEARCH if example["label"] == 0])


@pytest.mark.parametrize("cls", SEARCHERS, ids=ids)
def test_searches_name_what_is_wrong_with_examples_and_models(cls):
    make = SEARCHERS[cls]
    with pytest.raises(ValueError, match="at least one search example"):
        make().search(LM, [])
    for label in (2, -1, True, "A", None):
        with pytest.raises(ValueError, match="class index"):
            make().search(LM, [{"text": "item 0 A", "label": label}])
    with pytest.raises(ValueError, match="placeholder"):
        make(prompt="a {question}").search(LM, [{"text": "item 0 A", "label": 0}])

    class ChatOnly(ScriptedPromptLM):
        capabilities = Capabilities()

    with pytest.raises(MissingCapability, match="logprobs"):
        make().search(ChatOnly(0), SEARCH)

    class NotFinite(ScriptedPromptLM):
        def score(self, prompts, options, *, tag="score"):
            return [[OptionScore(float("nan"), 1, 1) for _ in row] for row in options]

    with pytest.raises(FloatingPointError, match="NaN"):
        make().search(NotFinite(0), SEARCH)


@pytest.mark.parametrize("cls", COMPRESSORS, ids=ids)
def test_compressors_name_what_is_wrong_with_rates(cls):
    compressor = ready(cls)
    for rate in (0, 1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match="rate"):
            compressor.compress(TEXT, rate)
    assert compressor.compress("").text == ""


def compressions(compressor, texts):
    found = [compressor.compress(texts(), 0.5)]
    return found + (compressor.compress_many(texts(), 0.5) if isinstance(compressor, LLMLingua2) else [])


@pytest.mark.parametrize("cls", COMPRESSORS, ids=ids)
def test_texts_of_every_kind_are_compressed_alike_and_everything_else_is_refused_in_one_line(cls):
    texts, compressor = [TEXT, TEXT[:30], "The cat."], ready(cls)
    expected = compressions(compressor, lambda: texts)
    for kind, convert in SAME_TEXTS.items():
        assert compressions(compressor, lambda convert=convert: convert(texts)) == expected, kind
    assert compressor.compress(np.str_(TEXT)) == compressor.compress(TEXT)
    refused(compressor.compress, texts, {kind: bad for kind, bad in BAD_TEXTS.items() if kind != "one text"})
    if cls is LLMLingua2:
        refused(compressor.compress_many, texts, BAD_TEXTS)
    assert compressions(compressor, lambda: texts) == expected


def test_words_and_texts_to_train_on_may_be_of_every_kind():
    words, labels = WORDS, np.array(LABELS)
    expected = LLMLingua2(device="cpu", training={"epochs": 1}).fit(words, LABELS).compress(TEXT)
    for rows, flags in (
        (np.array(words), labels),
        (pd.Series(words, index=[7] * 8), pd.Series(LABELS, index=[7] * 8)),
        ([tuple(row) for row in words], iter(LABELS)),
        ((np.array(row, dtype=object) for row in words), torch.from_numpy(labels)),
    ):
        assert LLMLingua2(device="cpu", training={"epochs": 1}).fit(rows, flags).compress(TEXT) == expected
    fitted = SurprisalCompressor().fit([TEXT] * 3)
    for kind, convert in SAME_TEXTS.items():
        assert SurprisalCompressor().fit(convert([TEXT] * 3)).compress(TEXT) == fitted.compress(TEXT), kind
    refused(fitted.fit, [TEXT] * 3, BAD_TEXTS)
    flat = {kind: bad for kind, bad in BAD_TEXTS.items() if kind not in ("nested lists", "array of two dimensions")}
    refused(lambda row: LLMLingua2().fit(row, LABELS[:5]), words[0], flat)
    refused(lambda row: LLMLingua2().fit([row] * 8, LABELS), words[0], flat)
    for wrong in (None, 3, [[True]] * 7, [[True] * 4] * 8, [[None] * 5] * 8, [[0.5] * 5] * 8, [["yes"] * 5] * 8):
        refused(lambda labels: LLMLingua2().fit(words, labels), wrong, {"": (lambda given: given, ".{20}")})
    assert fitted.compress(TEXT) == SurprisalCompressor().fit([TEXT] * 3).compress(TEXT)


@pytest.mark.parametrize("cls", SEARCHERS, ids=ids)
def test_examples_and_words_of_every_kind_are_searched_with_alike(cls):
    expected = outcome(cls)
    best = expected.prompt, expected.score, expected.validation
    table = pd.DataFrame(SEARCH, index=[7] * len(SEARCH))
    for kind, examples in {
        "tuple": tuple(SEARCH),
        "generator": (example for example in SEARCH),
        "table": table,
        "table of strings": table.assign(text=table["text"].astype("string")),
        "array of objects": np.array(SEARCH, dtype=object),
        "column": pd.Series(SEARCH, index=[7] * len(SEARCH)),
        "labels of numpy": [{**example, "label": np.int64(example["label"])} for example in SEARCH],
        "whole numbers": [{**example, "label": float(example["label"])} for example in SEARCH],
    }.items():
        found = SEARCHERS[cls]().search(ScriptedPromptLM(0), examples, iter(VALIDATION))
        assert (found.prompt, found.score, found.validation) == best, kind
    for kind in ("tuple", "array of fixed width", "array of objects", "pandas strings", "pandas index"):
        assert outcome(cls, verbalizers=SAME_TEXTS[kind](list(V))) == expected, kind
    words = {kind: (spoil, "verbalizers") for kind, spoil in NO_TEXTS.items()}
    refused(lambda given: SEARCHERS[cls](verbalizers=given, evaluator=None), [*V, " C"], words)
    whole = {"text": "item 0 A", "label": 0}
    for wrong in (
        None, 3, "text", b"text", whole, ["text"], [3], [None], [[whole]], np.zeros((2, 2)), torch.ones(3),
        [{"text": "item 0 A"}], [{**whole, "text": None}], [{**whole, "text": float("nan")}],
        [{**whole, "text": pd.NA}], [{**whole, "label": 0.5}], [{**whole, "label": float("nan")}],
        [{**whole, "label": "1"}], [{**whole, "label": np.array([0])}], table.assign(label=0.5),
        table.drop(columns="label"),
    ):  # fmt: skip
        refused(lambda given: SEARCHERS[cls]().search(LM, given), wrong, {"": (lambda given: given, ".{20}")})


@pytest.mark.parametrize("cls", COMPRESSORS, ids=ids)
def test_a_text_that_falls_to_a_few_characters_is_warned_of(cls):
    compressor, long = ready(cls), "word " + "x" * 4000
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = compressor.compress(long, 0.5)
        if isinstance(compressor, LLMLingua2):
            compressor.compress_many(["word", long], 0.5)
    assert (len(found.text) < 100) == any("fell further than asked" in str(w.message) for w in seen)
    assert len(found.text) > 100 or cls not in (Uncompressed,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rate in (0.1, 0.5, 0.9, 1.0):
            compressor.compress(" ".join([TEXT] * 20), rate)


def test_a_classifier_that_is_not_finite_compresses_nothing():
    compressor = ready(LLMLingua2)
    compressor.compress(TEXT)
    with torch.no_grad():
        compressor.model_.classifier.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="NaN"):
        compressor.compress(TEXT, 0.5)


def test_a_text_longer_than_the_model_reads_is_judged_in_parts():
    lm = load_tiny("icl")
    compressor = SurprisalCompressor(lm)
    long = " ".join(["the band feels awful", "a meal is wonderful", "the chef looks superb"] * 60)
    assert lm.count_tokens(long) > 2 * lm.context_length
    found = compressor.compress(long, 0.5)
    assert len(found.kept) == 360 and np.isfinite(found.probabilities).all()
    with pytest.raises(TypeError, match="question must be a string"):
        LLMLingua2().compress(TEXT, 0.5, question=3)


def test_unfitted_use_says_so(tmp_path):
    with pytest.raises(NotFittedError):
        SurprisalCompressor().compress(TEXT)
    with pytest.raises(NotFittedError):
        SurprisalCompressor().save(tmp_path)


@pytest.mark.parametrize("cls", [PromptQuine, TAPruning], ids=ids)
def test_a_resumed_search_asks_only_for_what_is_missing(cls, tmp_path):
    whole = SEARCHERS[cls](seed=3).search(LM, SEARCH)
    path, asked = tmp_path / "state.json", 0

    class Dies(ScriptedPromptLM):
        def score(self, prompts, options, *, tag="score"):
            nonlocal asked
            if asked + len(prompts) > (20 if cls is PromptQuine else 6) * len(SEARCH):
                raise KeyboardInterrupt
            asked += len(prompts)
            return super().score(prompts, options, tag=tag)

    with pytest.raises(KeyboardInterrupt):
        SEARCHERS[cls](seed=3).search(Dies(0), SEARCH, state_file=path)
    again = ScriptedPromptLM(0)
    resumed = SEARCHERS[cls](seed=3).search(again, SEARCH, state_file=path)
    assert (resumed.prompt, resumed.trace, resumed.evaluations) == (whole.prompt, whole.trace, whole.evaluations)
    assert resumed.lm_calls == again.calls <= whole.lm_calls
    with pytest.raises(ValueError, match="another search"):
        SEARCHERS[cls](seed=3).search(LM, LM.examples(9, "search"), state_file=path)


@pytest.mark.parametrize("cls", [PromptQuine, TAPruning, LLMLingua2], ids=ids)
def test_progress_ends_at_1(cls):
    shares = []
    if cls is LLMLingua2:
        ready(cls, training={"epochs": 2}).fit(WORDS, LABELS, progress=shares.append)
        ready(cls).compress_many([TEXT] * 3, 0.5, progress=shares.append)
        assert shares.count(1.0) >= 2
    else:
        SEARCHERS[cls]().search(LM, SEARCH, progress=shares.append)
    assert shares[-1] == 1.0


def test_training_is_reproducible_and_refuses_wrong_data():
    a, b = (ready(LLMLingua2, training={"epochs": 1}, seed=4).fit(WORDS, LABELS) for _ in range(2))
    assert a.compress(" ".join(WORDS[0])) == b.compress(" ".join(WORDS[0]))
    with pytest.raises(ValueError, match="2 words and 1 labels"):
        LLMLingua2().fit([["a", "b"], ["a"]], [[True], [True]])
    with pytest.raises(TypeError, match="got one string"):
        LLMLingua2().fit(["a b", "c"], [[True], [True]])
    with pytest.raises(ValueError, match="needs labels"):
        LLMLingua2().fit([["a"]])


def test_defaults_work():
    assert LLMLingua2().compress(TEXT).text
    assert Truncation().compress(TEXT).text and RandomDeletion().compress(TEXT).text
    example = [{"text": "x", "label": 0}]
    for cls in SEARCHERS:
        found = cls("good bad {text}", evaluator=lambda texts, examples: [-len(t) for t in texts])
        assert "{text}" in found.search(LM, example).prompt
