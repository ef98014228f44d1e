"""What the problems that ask a language model about texts share: the model by its name, and texts that it can read."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from anytask.datasets.text import TextData
from anytask.lm.prompting import PromptTemplate


def model_of(lm: Any) -> Any:
    """Return a language model given as an object or by its name; a process keeps the last two that it read."""
    return _read(str(lm)) if isinstance(lm, (str, Path)) else lm


@lru_cache(maxsize=2)
def _read(spec: str) -> Any:
    from anytask.lm import load_lm

    return load_lm(spec)


def answerable(
    data: TextData, lm: Any, template: PromptTemplate, *, budget: int | None, written: bool, bad_rows: str
) -> TextData:
    """Return the data with texts about which the model can be asked, see :meth:`TextData.fitting`.

    Parameters
    ----------
    data : TextData
    lm : anytask.lm.ScoringModel or ChatModel
    template : PromptTemplate
        How a query is written.
    budget : int or None
        Most tokens of a prompt with its answer, at most the model's context.
    written : bool
        Whether answers are written (in at most 32 tokens) and not chosen among the labels.
    bad_rows : {"refuse", "skip", "cut"}
    """
    from anytask.incontext import GPT3

    if not hasattr(lm, "count_tokens"):
        return data
    outputs = () if written else {*data.labels, *(one for row in data.choices or () for one in row)}
    longest = max((lm.count_tokens(template.completion(one)) for one in outputs), default=31) + 1
    alone = GPT3(lm, 0, template=template, budget=budget, scoring="generate", beam_width=1, max_tokens=longest)
    return data.fitting(alone.fit([], []).fits, f"a prompt of {alone.room} tokens with its answer", bad_rows)
