"""The pipeline: what each stage sees, what it costs, and that leaving stages out gives plain few-shot prompting."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from anytask.datasets.attribute_language import AttributeLanguage
from anytask.incontext import GPT3, Pipeline
from anytask.lm import load_tiny
from anytask.lm.prompting import PromptTemplate
from anytask.prompts import TAPruning
from anytask.prompts.base import SearchResult


@pytest.fixture(scope="module")
def lm():
    return load_tiny("icl")


@pytest.fixture(scope="module")
def data():
    language = AttributeLanguage(seed=3)
    sentences = [language.sentence(held_out=True) for _ in range(40)]
    return [s.text for s in sentences], [s.attributes["topic"] for s in sentences]


@pytest.fixture(scope="module")
def choices(data):
    return sorted(set(data[1]))


class FirstOnes:
    def select(self, pool, budget):
        return SimpleNamespace(indices=np.arange(budget))


class Backwards:
    """Ranks the examples from the last to the first."""

    def index(self, inputs, outputs):
        self.n = len(inputs)

    def retrieve(self, query, k):
        return list(range(self.n))[::-1][:k]


class FirstTwoWords:
    def __init__(self):
        self.asked = []

    def compress(self, text, rate=None):
        self.asked.append((text, rate))
        return SimpleNamespace(text=" ".join(text.split()[:2]))


def test_without_stages_it_is_few_shot_prompting(lm, data, choices):
    texts, labels = data
    pipeline = Pipeline(lm, choices=choices, labels=8, k=4, seed=1).fit(texts[:30], labels[:30])
    bought = [(d.input, d.output) for d in pipeline.demos_]
    plain = GPT3(lm, 4, seed=1).fit(*map(list, zip(*bought)), options=choices)
    assert pipeline.predict(texts[30:]) == plain.predict(texts[30:]).tolist()
    assert np.allclose(pipeline.predict_proba(texts[30:]), plain.predict_proba(texts[30:]))


def test_only_the_bought_labels_are_looked_at(lm, data, choices):
    texts, labels = data
    asked = []

    def annotate(indices):
        asked.extend(indices)
        return [labels[i] for i in indices]

    pipeline = Pipeline(lm, choices=choices, labels=5, select=FirstOnes(), retrieve="similar")
    pipeline.fit(texts[:30], annotate, vectors=np.eye(30))
    assert sorted(asked) == [0, 1, 2, 3, 4]
    assert pipeline.stages_[0].labels == 5


def test_the_retrievers_favourite_stands_next_to_the_query(lm, data, choices):
    texts, labels = data
    pipeline = Pipeline(lm, choices=choices, labels=6, k=2, select=FirstOnes(), retrieve=Backwards())
    pipeline.fit(texts[:30], labels[:30], vectors=np.eye(30))
    (prompt,) = pipeline.prompts([texts[35]])
    assert prompt.index(texts[4]) < prompt.index(texts[5]) < prompt.index(texts[35])
    assert texts[3] not in prompt


def test_compression_takes_demonstrations_and_queries_but_not_labels(lm, data, choices):
    texts, labels = data
    compressor = FirstTwoWords()
    pipeline = Pipeline(lm, choices=choices, labels=4, compress=compressor, rate=0.4).fit(texts[:30], labels[:30])
    (prompt,) = pipeline.prompts([texts[35]])
    assert texts[35] not in prompt
    assert prompt.endswith(f"Input: {' '.join(texts[35].split()[:2])}\nLabel:")
    assert all(demo.output in prompt for demo in pipeline.demos_)
    assert {rate for _, rate in compressor.asked} == {0.4}
    assert len(compressor.asked) == len(set(compressor.asked)) == 5  # each text once


def test_retrieval_goes_by_the_uncompressed_query(lm, data, choices):
    texts, labels = data
    seen = []

    class Spy(Backwards):
        def retrieve(self, query, k):
            seen.append(query)
            return super().retrieve(query, k)

    pipeline = Pipeline(lm, choices=choices, labels=4, retrieve=Spy(), compress=FirstTwoWords())
    pipeline.fit(texts[:30], labels[:30]).predict([texts[35]])
    assert seen == [texts[35]]


def test_pruning_searches_one_block_and_keeps_the_query_s_place(lm, data, choices):
    texts, labels = data
    pipeline = Pipeline(lm, choices=choices, labels=8, k=3, retrieve="fixed", prune=partial(TAPruning, budget=12))
    pipeline.fit(texts[:30], labels[:30])
    assert pipeline.prompt_.count("{text}") == 1
    stage = pipeline.stages_[2]
    assert stage.stage == "prune" and stage.facts["tokens_after"] <= stage.facts["tokens_before"]
    assert stage.lm_calls > 0
    (prompt,) = pipeline.prompts([texts[35]])
    assert texts[35] in prompt
    assert set(pipeline.predict(texts[30:])) <= set(choices)


def test_the_block_and_the_search_examples_are_disjoint(lm, data, choices):
    texts, labels = data
    seen = {}

    class Look:
        def __init__(self, prompt, verbalizers, seed):
            seen["prompt"] = prompt

        def search(self, lm, examples, validation=()):
            seen["examples"] = [e["text"] for e in (*examples, *validation)]
            return SearchResult(seen["prompt"], 0.0, None, None, 1, 0, 0)

    Pipeline(lm, choices=choices, labels=8, k=3, retrieve=Backwards(), prune=Look).fit(texts[:30], labels[:30])
    assert len(seen["examples"]) == 5
    assert not any(text in seen["prompt"] for text in seen["examples"])


def test_the_predict_stage_adds_up_over_calls(lm, data, choices):
    texts, labels = data
    pipeline = Pipeline(lm, choices=choices, labels=3).fit(texts[:30], labels[:30])
    pipeline.predict(texts[30:33])
    pipeline.predict(texts[33:35])
    stage = pipeline.stages_[-1]
    assert stage.facts["queries"] == 5 and stage.lm_calls == 5
    lengths = [lm.count_tokens(prompt) for prompt in pipeline.prompts(texts[30:35])]
    assert stage.facts["prompt_tokens"] == pytest.approx(np.mean(lengths))


def test_settings_of_the_answers_take_effect_on_a_fitted_pipeline_at_once(lm, data, choices):
    texts, labels = data
    pipeline = Pipeline(lm, choices=choices, labels=6, compress=FirstTwoWords(), rate=0.4).fit(texts[:30], labels[:30])
    for k in (1, 3):
        pipeline.set_params(k=k)
        assert pipeline.prompts([texts[35]])[0].count("Label:") == k + 1
    plain = pipeline.predict_proba(texts[35:37])
    assert not np.allclose(pipeline.set_params(calibrate=True).predict_proba(texts[35:37]), plain)
    pipeline.set_params(rate=0.7).prompts(texts[35:36])
    assert (texts[35], 0.7) in pipeline.compress.asked


def test_zero_labels_is_zero_shot(lm, data, choices):
    pipeline = Pipeline(lm, choices=choices, labels=0).fit(data[0][:30], data[1][:30])
    assert pipeline.prompts([data[0][35]]) == [f"Input: {data[0][35]}\nLabel:"]


def test_each_query_may_bring_its_own_options(lm, data):
    texts, labels = data
    pipeline = Pipeline(lm, labels=4).fit(texts[:30], labels[:30])
    options = [["sport", "music"], ["food", "weather"]]
    said = pipeline.predict(texts[30:32], options=options)
    assert all(answer in own for answer, own in zip(said, options))


def test_bad_pools_are_refused(lm, data, choices):
    texts, labels = data
    pipeline = Pipeline(lm, choices=choices, labels=5)
    with pytest.raises(ValueError, match="pool is empty"):
        pipeline.fit([], [])
    with pytest.raises(ValueError, match="exceeds the pool of 3"):
        pipeline.fit(texts[:3], labels[:3])
    with pytest.raises(ValueError, match="6 texts and 5 labels"):
        pipeline.fit(texts[:6], labels[:5])
    with pytest.raises(ValueError, match="not among"):
        pipeline.fit(texts[:6], ["politics"] * 6)


def test_data_that_look_like_places_stay_data(lm, data, choices):
    texts, labels = data
    odd = [f"{text} {{text}} and {{key}} {{mask_token}}" for text in texts]

    class Whole:
        """Keeps the prompt as it is, and looks at what it would be filled with."""

        def __init__(self, prompt, verbalizers, seed):
            self.prompt = prompt

        def search(self, lm, examples, validation=()):
            found = TAPruning(self.prompt, [" a", " b"], budget=1)
            found.search(lm, [{**e, "label": 0} for e in examples], validation and [{**validation[0], "label": 0}])
            return SearchResult(self.prompt, 0.0, None, None, 1, 0, 0)

    template = PromptTemplate("{input} {key} -> {output}", description="Answer {text}.")
    made = {"choices": choices, "labels": 6, "k": 2, "retrieve": "fixed", "template": template}
    pruned = Pipeline(lm, **made, prune=Whole).fit(odd[:30], labels[:30])
    (prompt,) = pruned.prompts([odd[35]])
    shown = [demo for demo in pruned.demos_ if f"{demo.input} {{key}} -> {demo.output}" in prompt]
    assert len(shown) == 2
    assert prompt.startswith("Answer {text}.\n\n") and prompt.endswith(f"\n\n{odd[35]} {{key}} ->")
    plain = Pipeline(lm, **made).fit(odd[:30], labels[:30])
    assert plain.prompts([odd[35]])[0].endswith(f"\n\n{odd[35]} {{key}} ->")
