"""Read users' labelled texts: JSONL and CSV files, checked line by line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.errors import BadData


@dataclass(frozen=True)
class TextData:
    """Texts with labels, wherever they came from.

    Attributes
    ----------
    name : str
        Name of the file, or "texts".
    texts : tuple of n str
        The inputs.
    labels : tuple of n str
        The right answers.
    ids : tuple of n str
        Names of the rows: the file's ``id`` column, or the line numbers.
    choices : tuple of n tuples of str, or None
        The possible answers of each row, where the file has a ``choices`` column.
    fingerprint : str
        Hash of all of the content.
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    ids: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...] | None
    fingerprint: str

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.labels)))

    def describe(self) -> dict[str, Any]:
        """Facts for a report."""
        return {"source": self.name, "texts": len(self), "classes": len(self.classes)}


def load_text(source: Any, text: str = "text", label: str = "label", *, min_rows: int = 1) -> TextData:
    """Read labelled texts.

    Parameters
    ----------
    source : path, TextData, or pair (texts, labels)
        A ``.jsonl``/``.ndjson`` file (one JSON object per line), a ``.csv``/``.tsv`` file with a header, or what is in
        memory. UTF-8. The columns ``id`` and ``choices`` (a JSON list, or in CSV choices joined by ``|``) are read
        where they are.
    text, label : str
        Names of the columns with the inputs and the answers.
    min_rows : int, default 1
        Fewest rows that will do.

    Raises
    ------
    BadData
        If the file cannot be used; one line naming file, line and column.

    Examples
    --------
    >>> data = load_text((["good film", "bad film"], ["pos", "neg"]))
    >>> len(data), data.classes
    (2, ('neg', 'pos'))
    """
    if isinstance(source, TextData):
        return source
    if isinstance(source, (tuple, list)):
        rows, name, places = _from_memory(source, text, label), "texts", None
    else:
        path = Path(source)
        name = path.name
        rows, places = _from_file(path)
    texts, labels, ids, choices = [], [], [], []
    for number, row in enumerate(rows):
        where = f"{name}, row {number}" if places is None else f"{name}, line {places[number]}"
        for column in (text, label):
            if column not in row:
                raise BadData(f"{where}: column {column!r} is missing; there are {', '.join(map(repr, row)) or 'none'}")
        value = row[text]
        if not isinstance(value, str) or not value.strip():
            raise BadData(f"{where}, column {text!r}: a text is wanted, got {_shown(value)}")
        answer = _label(row[label], f"{where}, column {label!r}")
        texts.append(value)
        labels.append(answer)
        ids.append(str(row.get("id", number if places is None else places[number])))
        choices.append(_choices(row.get("choices"), answer, f"{where}, column 'choices'"))
    if len(texts) < min_rows:
        raise BadData(f"{name}: {len(texts)} rows, and at least {min_rows} are needed")
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise BadData(f"{name}, column 'id': {twice!r} appears more than once")
    given = [one is not None for one in choices]
    if any(given) and not all(given):
        raise BadData(f"{name}: only {sum(given)} of {len(given)} rows have choices; give them to all rows or to none")
    digest = hashlib.sha256(json.dumps([texts, labels, ids, choices]).encode()).hexdigest()[:16]
    kept = tuple(one for one in choices if one is not None)
    return TextData(name, tuple(texts), tuple(labels), tuple(ids), kept or None, digest)


def _from_memory(source: Sequence[Any], text: str, label: str) -> list[Mapping[str, Any]]:
    if len(source) != 2:
        raise BadData(f"a pair (texts, labels) is wanted, got {len(source)} things")
    texts, labels = (list(part) for part in source)
    if len(texts) != len(labels):
        raise BadData(f"texts and labels differ in length: {len(texts)} and {len(labels)}")
    return [{text: a, label: b} for a, b in zip(texts, labels)]


def _from_file(path: Path) -> tuple[list[Mapping[str, Any]], list[int]]:
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".ndjson", ".csv", ".tsv"):
        raise BadData(f"{path}: a .jsonl, .ndjson, .csv or .tsv file is wanted")
    if not path.is_file():
        raise BadData(f"{path}: there is no such file")
    raw = path.read_bytes()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise BadData(f"{path.name}, line {line}: not UTF-8; save the file as UTF-8") from error
    if kind in (".jsonl", ".ndjson"):
        return _json_lines(content, path.name)
    return _table(content, path.name, "\t" if kind == ".tsv" else ",")


def _json_lines(content: str, name: str) -> tuple[list[Mapping[str, Any]], list[int]]:
    rows: list[Mapping[str, Any]] = []
    places: list[int] = []
    for place, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadData(f"{name}, line {place}, character {error.colno}: not JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise BadData(f"{name}, line {place}: a JSON object is wanted, got {_shown(row)}")
        rows.append(row)
        places.append(place)
    return rows, places


def _table(content: str, name: str, delimiter: str) -> tuple[list[Mapping[str, Any]], list[int]]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    rows: list[Mapping[str, Any]] = []
    places: list[int] = []
    try:
        header = next(reader, None)
        if header is None:
            raise BadData(f"{name}: the file is empty")
        for column in header:
            if header.count(column) > 1:
                raise BadData(f"{name}, line 1: the column {column!r} appears more than once")
        start = reader.line_num + 1
        for values in reader:
            if values:
                if len(values) != len(header):
                    raise BadData(
                        f"{name}, line {start}: {len(values)} values for the {len(header)} columns of the header"
                    )
                rows.append(dict(zip(header, values)))
                places.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise BadData(f"{name}, line {reader.line_num}: {error}") from error
    return rows, places


def _label(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, np.integer, np.str_)) or not str(value).strip():
        raise BadData(f"{where}: a word or a whole number is wanted, got {_shown(value)}")
    return str(value)


def _choices(value: Any, answer: str, where: str) -> tuple[str, ...] | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = value.split("|")
    if not isinstance(value, list) or len(value) < 2:
        raise BadData(f"{where}: a list of at least two choices is wanted, got {_shown(value)}")
    choices = tuple(_label(one, where) for one in value)
    if len(set(choices)) < len(choices):
        raise BadData(f"{where}: a choice appears more than once")
    if answer not in choices:
        raise BadData(f"{where}: the label {answer!r} is not one of the choices")
    return choices


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
