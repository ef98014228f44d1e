"""Corpora to pretrain on: documents, spans of phrases and entities in them, and triples of a knowledge graph."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anytask.core.errors import BadData, shown
from anytask.core.files import require_regular
from anytask.datasets.text import load_text, rows_of
from anytask.datasets.text_sets import TEXT_SETS

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class TextCorpus:
    """Documents, with what is known of them.

    Attributes
    ----------
    documents : tuple of str
    spans : tuple of (int, int, int)
        Phrases and named entities: document, first character, and the one after the last.
    triples : tuple of tuple of str
        Facts: head, relation, tail, and after these a sentence that states the fact, where one is known.
    name : str
    """

    documents: tuple[str, ...]
    spans: tuple[tuple[int, int, int], ...] = ()
    triples: tuple[tuple[str, ...], ...] = ()
    name: str = "texts"

    def __len__(self) -> int:
        return len(self.documents)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all of the content."""
        return hashlib.sha256(json.dumps([self.documents, self.spans, self.triples]).encode()).hexdigest()[:16]

    @classmethod
    def of(cls, documents: Any, spans: Any = (), triples: Any = (), name: str = "texts") -> TextCorpus:
        """Return checked content as a corpus.

        Raises
        ------
        BadData
            For what is no text, a span outside of its document, and a triple without three texts.

        Examples
        --------
        >>> TextCorpus.of(["Ann lives in Oslo."], spans=[(0, 0, 3)], triples=[("Ann", "lives in", "Oslo")]).spans
        ((0, 0, 3),)
        >>> TextCorpus.of(["Ann"], spans=[(0, 0, 9)])
        Traceback (most recent call last):
            ...
        anytask.core.errors.BadData: texts: span 0 is from 0 to 9 in document 0, which has 3 characters
        """
        if isinstance(documents, (str, bytes)) or not isinstance(documents, Iterable):
            raise BadData(f"{name}: a sequence of documents is wanted, got {shown(documents)}")
        texts = tuple(documents)
        if not texts:
            raise BadData(f"{name}: there are 0 documents, and at least 1 is needed")
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise BadData(f"{name}: document {place} must be a text, got {shown(text)}")
        found: list[Any] = [[], []]
        for kept, rows, size in zip(found, (spans, triples), ("three whole numbers", "three or four texts")):
            for place, row in enumerate(rows):
                kept.append(tuple(row) if isinstance(row, Sequence) and not isinstance(row, str) else (row,))
                kind, sizes = (int, (3,)) if size.endswith("numbers") else (str, (3, 4))
                if len(kept[-1]) not in sizes or not all(isinstance(part, kind) for part in kept[-1]):
                    said = "span" if kind is int else "triple"
                    raise BadData(f"{name}: {said} {place} must be {size}, got {shown(row)}")
        for place, (document, start, end) in enumerate(found[0]):
            if not 0 <= document < len(texts):
                raise BadData(f"{name}: span {place} is in document {document}, and there are {len(texts)}")
            if not 0 <= start < end <= len(texts[document]):
                where = f"document {document}, which has {len(texts[document])} characters"
                raise BadData(f"{name}: span {place} is from {start} to {end} in {where}")
        for place, triple in enumerate(found[1]):
            if not all(part.strip() for part in triple[:3]):
                raise BadData(f"{name}: triple {place} has an empty part: {shown(triple)}")
        return cls(tuple(str.__str__(text) for text in texts), tuple(found[0]), tuple(found[1]), name)


def load_corpus(source: Any, spans: Any = None, triples: Any = None, *, text: str = "text") -> TextCorpus:
    """Read a corpus.

    Parameters
    ----------
    source : path, sequence of str or TextCorpus
        A ``.txt`` file, in which blank lines stand between documents; a table (``.csv``, ``.tsv``, ``.jsonl``) with a
        document in each row; a folder whose ``.txt`` files are documents, in the order of their names, with
        ``spans`` and ``triples`` as tables beside them; one of ``"reviews"``, ``"customer-intents"`` and ``"topics"``;
        or texts in memory.
    spans : path or sequence of (int, int, int), optional
        A table with the columns ``document``, ``start`` and ``end``: the place of the document and characters in it.
    triples : path or sequence of tuple of str, optional
        A table with the columns ``head``, ``relation``, ``tail`` and, if there are any, ``sentence``.
    text : str
        Column of the documents in a table.

    Raises
    ------
    BadData
        If a file cannot be used; one line naming it.

    Examples
    --------
    >>> len(load_corpus("topics")), load_corpus(["One sentence. Another."]).documents
    (320, ('One sentence. Another.',))
    """
    if isinstance(source, TextCorpus):
        corpus = source
    elif isinstance(source, str) and source in TEXT_SETS:
        corpus = TextCorpus.of(load_text(source).texts, name=source)
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if path.is_dir():
            files = sorted(path.glob("*.txt"))
            corpus = TextCorpus.of([_read(file) for file in files], name=path.name)
            beside = {kind: [path / f"{kind}{end}" for end in _TABLES] for kind in ("spans", "triples")}
            spans, triples = (
                next((file for file in beside[kind] if file.is_file()), None) if given is None else given
                for kind, given in (("spans", spans), ("triples", triples))
            )
        elif path.suffix.lower() == ".txt":
            parts = re.split(r"\n\s*\n", _read(path))
            corpus = TextCorpus.of([part.strip() for part in parts if part.strip()], name=path.name)
        else:
            corpus = TextCorpus.of([row[0] for row in _columns(path, (text,))], name=path.name)
    else:
        corpus = TextCorpus.of(source)
    if spans is None and triples is None:
        return corpus
    spans, triples = corpus.spans if spans is None else spans, corpus.triples if triples is None else triples
    if isinstance(spans, (str, os.PathLike)):
        spans = [_whole(row, spans) for row in _columns(spans, ("document", "start", "end"))]
    if isinstance(triples, (str, os.PathLike)):
        triples = _columns(triples, ("head", "relation", "tail"), "sentence")
    return TextCorpus.of(corpus.documents, spans, triples, corpus.name)


def _read(path: Path) -> str:
    try:
        require_regular(path)
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"{path.name}: not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise BadData(f"{path}: {error.strerror or error}") from error


def _columns(source: Any, names: Sequence[str], optional: str | None = None) -> list[tuple[Any, ...]]:
    """Return the values of some columns of a table, with those of an optional one where a row has it."""
    name, rows = rows_of(Path(source))
    found = []
    for place, load in rows:
        row = load(f"{name}, {place}")
        if missing := [column for column in names if column not in row]:
            raise BadData(f"{name}, {place}: column {missing[0]!r} is missing; there are {', '.join(map(repr, row))}")
        more = (row[optional],) if optional and row.get(optional) else ()
        found.append((*(row[column] for column in names), *more))
    return found


def _whole(row: Sequence[Any], source: Any) -> tuple[int, ...]:
    try:
        return tuple(int(value) for value in row)
    except (TypeError, ValueError):
        raise BadData(f"{Path(source).name}: a span is three whole numbers, got {shown(tuple(row))}") from None
