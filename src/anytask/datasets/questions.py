"""Texts to be compressed, with questions about them where there are any: users' files, checked row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

import pandas as pd

from anytask.core.errors import BadData
from anytask.datasets.labels import require_names
from anytask.datasets.text import fitting_rows, rows_of, usable_rows


@dataclass(frozen=True)
class CompressionItem:
    """One text, with the words that a perfect compressor keeps, and a question about it, where there are any."""

    text: str
    gold: tuple[bool, ...] | None = None
    question: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class CompressionTexts:
    """The items of one source, the place of each in words, and notes on rows that were left out or cut."""

    name: str
    items: tuple[CompressionItem, ...]
    places: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The content."""
        return json.dumps([self.name, [astuple(item) for item in self.items]])

    @property
    def asks(self) -> bool:
        """Whether any item has a question."""
        return any(item.question is not None for item in self.items)

    def fitting(self, fits: Callable[[str], bool], room: str, bad_rows: str = "refuse") -> CompressionTexts:
        """Return the texts that fit, see :func:`~anytask.datasets.text.fitting_rows`."""
        texts, notes = fitting_rows([item.text for item in self.items], self.places, fits, room, bad_rows)
        items = tuple(replace(self.items[i], text=text) for i, text in texts.items())
        return CompressionTexts(self.name, items, tuple(self.places[i] for i in texts), (*self.notes, *notes))


def load_questions(
    source: Any, bad_rows: str = "refuse", *, text: str = "text", question: str = "question", answer: str = "answer"
) -> CompressionTexts:
    """Read texts and the questions about them.

    Parameters
    ----------
    source : path, data frame or sequence of str
        A .jsonl, .csv or .tsv file with ``text`` and, where you have them, ``question`` and ``answer``; or texts.
    bad_rows : {"refuse", "skip", "cut"}, default "refuse"
        What to do with a row that cannot be used, see :func:`~anytask.datasets.text.load_text`.
    text, question, answer : str
        Names of the columns.

    Raises
    ------
    BadData
        If there is none, or one cannot be used; one line naming file, line and column.

    Examples
    --------
    >>> [item.text for item in load_questions(["some text"]).items]
    ['some text']
    """
    require_names(text=text, question=question, answer=answer)
    if isinstance(source, (list, tuple, pd.Series)):
        source = pd.DataFrame({"text": list(source)})
    name, rows = rows_of(source)
    columns = (text, question, answer)
    kept, notes = usable_rows(name, rows, columns, lambda row, where: _item(row, where, *columns), bad_rows)
    if not kept:
        raise BadData(" ".join([f"{name}: there is no text", *notes]))
    items, places = zip(*kept)
    if not any(item.question for item in items) and (question, answer) != ("question", "answer"):
        raise BadData(f"{name}: no row has both columns {question!r} and {answer!r}")
    return CompressionTexts(name, items, places, tuple(notes))


def _item(row: Mapping[str, Any], where: str, *columns: str) -> tuple[CompressionItem, str]:
    text, *asked = map(row.get, columns)
    if not isinstance(text, str) or not text.strip():
        raise BadData(f"{where}, column {columns[0]!r}: a text is wanted, got {text!r:.40}")
    question, answer = (None if value is None or value == "" else str(value) for value in asked)
    if (question is None) != (answer is None):
        raise BadData(f"{where}: {columns[1]!r} and {columns[2]!r} must come together")
    return CompressionItem(text, None, question, answer), where
