"""Texts to be compressed, with questions about them where there are any: users' files, checked row by row."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from anytask.core.errors import BadData
from anytask.datasets.text import cleaned, rows_of


@dataclass(frozen=True)
class CompressionItem:
    """One text, with the words that a perfect compressor keeps, and a question about it, where there are any."""

    text: str
    gold: tuple[bool, ...] | None = None
    question: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class CompressionTexts:
    """The items of one source."""

    name: str
    items: tuple[CompressionItem, ...]

    @property
    def fingerprint(self) -> str:
        """The content."""
        return json.dumps([self.name, [astuple(item) for item in self.items]])

    @property
    def asks(self) -> bool:
        """Whether any item has a question."""
        return any(item.question is not None for item in self.items)


def load_questions(source: Any) -> CompressionTexts:
    """Read texts and the questions about them.

    Parameters
    ----------
    source : path or sequence of str
        A .jsonl, .csv or .tsv file with ``text`` and, where you have them, ``question`` and ``answer``; or texts.

    Raises
    ------
    BadData
        If there is none, or one cannot be used; one line naming file, line and column.

    Examples
    --------
    >>> [item.text for item in load_questions(["some text"]).items]
    ['some text']
    """
    if isinstance(source, (str, Path)):
        name, rows = Path(source).name, rows_of(Path(source))
        items = [_item(read(f"{name}, {place}"), f"{name}, {place}") for place, read in rows]
    else:
        name = "texts"
        items = [_item({"text": text}, f"{name}, row {number}") for number, text in enumerate(source)]
    if not items:
        raise BadData(f"{name}: there is no text")
    return CompressionTexts(name, tuple(items))


def _item(row: Any, where: str) -> CompressionItem:
    text, asked = row.get("text"), [row.get("question"), row.get("answer")]
    if not isinstance(text, str) or not text.strip():
        raise BadData(f"{where}, column 'text': a text is wanted, got {text!r:.40}")
    question, answer = (None if value is None or value == "" else str(value) for value in asked)
    if (question is None) != (answer is None):
        raise BadData(f"{where}: 'question' and 'answer' must come together")
    for column, value in (("text", text), ("question", question), ("answer", answer)):
        if cleaned(value) != value:
            raise BadData(f"{where}, column {column!r}: NUL or half of a surrogate pair")
    return CompressionItem(text, None, question, answer)
