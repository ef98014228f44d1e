"""The data of prompt-compression: texts with questions or an artificial language, and who tells what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from anytask.core.progress import Progress, portion
from anytask.core.settings import real, taken, text, whole
from anytask.datasets.questions import CompressionItem, CompressionTexts
from anytask.lm.placeholders import fill
from anytask.lm.writing import write
from anytask.problems.language import TextOptions
from anytask.problems.training import Builtin, LoadedData

#: Artificial languages.
BUILTIN = ("modifiers", "key-value")


class CompressionOptions(TextOptions):
    """How much is kept, of which texts, and who reads."""

    target: str = text("answer", "name of the column or key that holds the answer")
    question: str = text("question", "name of the column or key that holds the question")
    template: str = text(
        "{input}\n\nQuestion: {question}\nAnswer:", "how a text is asked about, with the places {input} and {question}"
    )
    rate: float | None = real(
        None, "share of the tokens to keep (none: the gold rate for modifiers, else 0.5)", above=0, at_most=1,
        optional=True,
    )  # fmt: skip
    train: int = whole(1600, "training texts of a built-in language", at_least=2)
    test: int = whole(200, "test texts of a built-in language; most texts of a file", at_least=2)
    length: int = whole(48, "words of a text of the modifiers language", at_least=2)
    noise: float = real(0.05, "share of wrong training labels in the modifiers language", at_least=0, at_most=1)
    rephrased: float = real(
        0.1, "share of the key-value training texts that the scripted chat model rephrases", at_least=0, at_most=1
    )
    max_answer: int = whole(16, "most tokens of an answer", at_least=2)

    def _check_settings(self) -> None:
        for place in ("{input}", "{question}"):
            if place not in self.template:
                raise ValueError(f"template must name {place}, got {self.template!r}")

    def asked(self, text: str, question: str) -> str:
        """Return the prompt that asks about a text."""
        written = "".join(fill(self.template, {"input": text, "question": question}, ("input", "question")))
        return written if self.description is None else f"{self.description}\n\n{written}"


@dataclass(frozen=True)
class CompressionData(LoadedData):
    """The user's items, or a built-in language, drawn anew for each seed; and the options."""

    source: CompressionTexts | Builtin

    @property
    def items(self) -> tuple[CompressionItem, ...]:
        """The user's items, none for a built-in language."""
        return () if isinstance(self.source, Builtin) else self.source.items

    @property
    def judge(self) -> str | None:
        """Who tells what is left of the user's texts: the model by answers or log-probabilities, or embeddings."""
        if isinstance(self.source, Builtin):
            return None
        lm = self.options.model
        if lm is not None and self.source.asks:
            return "answers"
        return "information" if lm is not None and lm.capabilities.logprobs else "closeness"

    def facts(self) -> dict[str, Any]:
        """Return the number of texts."""
        return {"texts": len(self.items)} if self.items else {}


class Reader:
    """The language model that tells what a text is still worth: by its answers, or by what it can tell of the whole."""

    def __init__(self, options: CompressionOptions) -> None:
        self.options, self.lm = options, options.model

    def answer(self, texts: Sequence[str], questions: Sequence[str], progress: Progress | None = None) -> list[str]:
        """Return the answer to each question from its text."""
        prompts = [self.options.asked(text, question) for text, question in zip(texts, questions)]
        how: dict[str, Any] = {"max_tokens": self.options.max_answer, "stop": ("\n",), "tag": "reader"}
        return write(self.lm, prompts, **how, progress=progress)

    def information(self, texts: Sequence[str], wholes: Sequence[str], progress: Progress | None = None) -> float:
        """Return the share of what whole texts tell of themselves that these texts tell of them.

        (l(whole | text) - l(whole)) / (l(whole | whole) - l(whole)), each a log-probability summed over all texts.
        NaN where even the whole texts tell the model nothing.
        """
        most, least = _ends(self.lm, tuple(wholes), portion(progress, 0.0, 0.5))
        reached = _told_of(self.lm, texts, wholes, portion(progress, 0.5, 1.0))
        return float((reached - least) / (most - least)) if most > least else math.nan


@lru_cache(maxsize=1)
def _measured(lm: Any, wholes: tuple[str, ...]) -> list[float]:
    """Return where what is the same for all entrants is kept."""
    return []


def _ends(lm: Any, wholes: tuple[str, ...], progress: Progress) -> tuple[float, float]:
    """Return what the whole texts and nothing at all tell of the whole texts, which a process asks for once."""
    kept = _measured(lm, wholes)
    if not kept:
        own, nothing = [portion(progress, *part) for part in ((0.0, 0.5), (0.5, 1.0))]
        kept += [_told_of(lm, wholes, wholes, own), _told_of(lm, [""] * len(wholes), wholes, nothing)]
    return kept[0], kept[1]


def _told_of(lm: Any, texts: Sequence[str], wholes: Sequence[str], progress: Progress) -> float:
    options = [[f" {whole}"] for whole in wholes]
    scores = lm.score(list(map(told, texts)), options, tag="reader", **taken(lm.score, progress=progress))
    return float(np.sum([row[0].logprob for row in scores]))


def told(text: str) -> str:
    """Return the prompt after which a model tells the whole of a text."""
    return f"Notes: {text}\n\nFull text:"


def closeness(texts: Sequence[str], wholes: Sequence[str]) -> float:
    """Return the mean cosine between the sentence embeddings of texts and of the whole texts, 100 words at a time."""
    from anytask.incontext.pool import embed

    def vectors(texts: Sequence[str]) -> np.ndarray:
        words = [text.split() or [""] for text in texts]
        parts = [[" ".join(w[i : i + 100]) for i in range(0, len(w), 100)] for w in words]
        every = iter(embed("minilm", [part for own in parts for part in own]))
        means = np.array([np.mean([next(every) for _ in own], axis=0) for own in parts])  # (n, d)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    return float((vectors(texts) * vectors(wholes)).sum(axis=1).mean())
