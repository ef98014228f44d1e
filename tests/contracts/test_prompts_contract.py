"""Every system of the prompts family, run through the family's protocol."""

import random
import re

import numpy as np
import pytest
import torch
from damaged import damaged_files_are_refused
from sklearn.exceptions import NotFittedError

from anytask import prompts
from anytask.core.discovery import published
from anytask.core.settings import Settings, settings_of
from anytask.datasets.scripted_prompt import ScriptedPromptLM
from anytask.lm.protocol import Capabilities, MissingCapability, OptionScore
from anytask.prompts import LLMLingua2, PromptQuine, TAPruning
from anytask.prompts.base import Compressor, PromptSearcher, SearchResult
from anytask.prompts.baselines import (
    FullPrompt,
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


SEARCHERS = {
    PromptQuine: searcher(PromptQuine, budget=60, population=6, offspring=8),
    TAPruning: searcher(TAPruning, budget=12),
    RandomMasks: searcher(RandomMasks, budget=12),
    GreedyPruning: searcher(GreedyPruning, budget=60),
    FullPrompt: searcher(FullPrompt),
}
COMPRESSORS = {
    LLMLingua2: lambda **kw: LLMLingua2(**{"device": "cpu", **kw}),
    Truncation: Truncation,
    Uncompressed: Uncompressed,
    RandomDeletion: RandomDeletion,
    SurprisalCompressor: SurprisalCompressor,
}
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
        *((cls, {"verbalizers": "AB"}, "two different texts") for cls in SEARCHERS),
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


def test_a_classifier_that_is_not_finite_compresses_nothing():
    compressor = ready(LLMLingua2)
    compressor.compress(TEXT)
    with torch.no_grad():
        compressor.model_.classifier.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="NaN"):
        compressor.compress(TEXT, 0.5)


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
    with pytest.raises(TypeError, match="list of words"):
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
