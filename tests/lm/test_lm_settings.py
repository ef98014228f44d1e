"""Every parameter of the language-model classes refuses what it cannot mean, by its name."""

from __future__ import annotations

import inspect
import math

import pytest
from random_models import bpe_tokenizer, random_model

from anytask.core.settings import settings_of
from anytask.lm import Budget, ChatRequest, Embedder, Endpoint, LocalLM, SimulatedChat
from anytask.lm.bm25 import BM25Index
from anytask.lm.endpoint.transport import Options
from anytask.lm.prompting import PromptTemplate
from anytask.lm.search import VectorIndex

WRONG = [math.nan, math.inf, -1, 0, "x", "", None, True, [], {}]
TOKENIZER = bpe_tokenizer()
NEEDED = {
    LocalLM: {"model": (random_model("gpt2", TOKENIZER), TOKENIZER)},
    Endpoint: {"base_url": "http://localhost:1/v1", "model": "m"},
    Embedder: {},
    BM25Index: {"texts": ["a b"]},
    VectorIndex: {},
    Budget: {},
    SimulatedChat: {},
    PromptTemplate: {},
    ChatRequest: {"messages": ({"role": "user", "content": "x"},)},
}
#: What is a value after all, by the parameter's name.
RIGHT = {
    **dict.fromkeys(("name", "model", "api_key", "api_key_env", "cache", "separator", "description", "tag"), ("x", "")),
    "tool_choice": ("x", ""),
    "seed": (0, -1),
    **dict.fromkeys(("calls", "tokens", "money", "seconds"), (0, math.inf)),
    **dict.fromkeys(("k1", "b", "temperature", "top_logprobs"), (0,)),
    **dict.fromkeys(("tools", "stop"), ([],)),
    "completions": (True,),
    "budget": ({},),
    **dict.fromkeys(("metadata", "extra_body", "knowledge", "response_format"), ({},)),
}


def parameters(cls):
    names = list(inspect.signature(cls).parameters)
    if cls is Endpoint:
        names = [*names[:-1], *(setting.name for setting in settings_of(Options))]
    return [name for name in names if name not in ("args", "kwargs")]


def default(cls, name):
    settings = {setting.name: setting.default for setting in settings_of(Options)} if cls is Endpoint else {}
    return settings.get(name, getattr(inspect.signature(cls).parameters.get(name), "default", None))


@pytest.mark.parametrize("cls", NEEDED, ids=lambda cls: cls.__name__)
def test_wrong_values_are_refused_by_name(cls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in parameters(cls):
        usual = default(cls, name)
        for value in WRONG:
            right = any(value is one or (value == one and type(value) is type(one)) for one in RIGHT.get(name, ()))
            flag = isinstance(value, bool) and isinstance(usual, bool)
            if right or flag or value is usual or (type(value) is type(usual) and value == usual):
                continue
            with pytest.raises((ValueError, TypeError), match=name):
                cls(**{**NEEDED[cls], name: value})
                pytest.fail(f"{cls.__name__}({name}={value!r}) was accepted")
