"""The data of prompt-compression: texts with questions or an artificial language, and the model that reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from anytask.core.settings import choice, real, text, whole
from anytask.datasets.questions import CompressionItem, CompressionTexts
from anytask.datasets.text import BAD_ROWS
from anytask.lm.protocol import ChatRequest, require
from anytask.problems.language import model_of
from anytask.problems.options import Options
from anytask.problems.training import Builtin, LoadedData

#: Artificial languages.
BUILTIN = ("modifiers", "key-value")


class CompressionOptions(Options):
    """How much is kept, of which texts, and who reads."""

    read_only: ClassVar[tuple[str, ...]] = ("bad_rows",)

    rate: float | None = real(
        None, "share of the tokens to keep (none: the gold rate for modifiers, else 0.5)", above=0, at_most=1,
        optional=True,
    )  # fmt: skip
    lm: str | None = text(
        None, "language model that answers the questions: a folder, a Hugging Face name or tiny:NAME", optional=True
    )
    train: int = whole(1600, "training texts of a built-in language", at_least=2)
    test: int = whole(200, "test texts of a built-in language; most texts of a file", at_least=2)
    length: int = whole(48, "words of a text of the modifiers language", at_least=2)
    noise: float = real(0.05, "share of wrong training labels in the modifiers language", at_least=0, at_most=1)
    rephrased: float = real(
        0.1, "share of the key-value training texts that the scripted chat model rephrases", at_least=0, at_most=1
    )
    max_answer: int = whole(16, "most tokens of an answer", at_least=2)
    bad_rows: str = choice("refuse", BAD_ROWS, "rows that cannot be used: an error, left out, or cut")


@dataclass(frozen=True)
class CompressionData(LoadedData):
    """The user's items, or a built-in language, drawn anew for each seed; and the options."""

    source: CompressionTexts | Builtin

    @property
    def items(self) -> tuple[CompressionItem, ...]:
        """The user's items, none for a built-in language."""
        return () if isinstance(self.source, Builtin) else self.source.items

    def facts(self) -> dict[str, Any]:
        """Return the number of texts."""
        return {"texts": len(self.items)} if self.items else {}


def question_about(text: str, question: str) -> str:
    return f"{text}\n\nQuestion: {question}\nAnswer:"


def model_reader(spec: str, max_tokens: int) -> tuple[Callable[[str, str], str], str]:
    lm = model_of(spec)
    if not lm.capabilities.completions:
        require(lm, "chat", method="the reader")

    def read(text: str, question: str) -> str:
        prompt = question_about(text, question)
        if lm.capabilities.completions:
            return lm.generate([prompt], max_tokens=max_tokens, stop=("\n",), tag="reader")[0]
        request = ChatRequest(({"role": "user", "content": prompt},), max_tokens=max_tokens, stop=("\n",), tag="reader")
        return lm.chat(request).text

    return read, lm.kind
