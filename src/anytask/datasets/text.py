"""Read users' labelled texts: JSONL and CSV files, checked line by line."""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from anytask.core.errors import BadData, shown
from anytask.core.files import require_regular
from anytask.core.memory import require_room
from anytask.datasets.csv_files import layout, records, require_distinct
from anytask.datasets.labels import require_names
from anytask.datasets.text_sets import TEXT_SETS, text_set

_T = TypeVar("_T")

#: What may be done with rows that cannot be used: an error, leave them out, or cut them to what can be used.
BAD_ROWS = ("refuse", "skip", "cut")
#: Kinds of tasks that labelled texts may be.
KINDS = ("classification", "multiple-choice", "generation")
# NUL, and halves of surrogate pairs, which no tokenizer and no file in UTF-8 can hold.
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


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
    places : tuple of n str
        File and line of each row, for messages.
    notes : tuple of str
        Sentences on rows that were left out or cut.
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    ids: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...] | None
    places: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.labels)))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all of the content."""
        content = [self.texts, self.labels, self.ids, self.choices or [None] * len(self)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def kind(self, asked: str = "auto") -> str:
        """Return one of :data:`KINDS`: the one asked for, if the data allow it, or the one that they look like."""
        distinct = len(self.classes)
        if asked == "auto":
            if self.choices is not None:
                return "multiple-choice"
            return "classification" if 2 <= distinct <= max(2, min(50, len(self) // 3)) else "generation"
        if asked == "multiple-choice" and self.choices is None:
            raise BadData(f"{self.name}: multiple choice needs rows with choices")
        if asked == "classification" and distinct < 2:
            raise BadData(f"{self.name}: all texts have one label ({self.labels[0]!r}); at least 2 are needed")
        return asked

    def describe(self) -> dict[str, Any]:
        """Facts for a report."""
        return {"source": self.name, "texts": len(self), "classes": len(self.classes)}

    def fitting(self, fits: Callable[[str], bool], room: str, bad_rows: str = "refuse") -> TextData:
        """Return the data with texts that fit, see :func:`fitting_rows`."""
        texts, notes = fitting_rows(self.texts, self.places, fits, room, bad_rows)
        columns: dict[str, Any] = {"labels": self.labels, "ids": self.ids, "places": self.places}
        if self.choices is not None:
            columns["choices"] = self.choices
        columns = {name: tuple(column[i] for i in texts) for name, column in columns.items()}
        return replace(self, texts=tuple(texts.values()), notes=(*self.notes, *notes), **columns)


def load_text(
    source: Any, text: str = "text", label: str = "label", *, min_rows: int = 1, bad_rows: str = "refuse"
) -> TextData:
    """Read labelled texts.

    Parameters
    ----------
    source : path, data frame, TextData, or pair (texts, labels)
        ``"reviews"``, ``"customer-intents"`` or ``"topics"`` (texts written for this project), a ``.jsonl``/``.ndjson``
        file (one JSON object per line), a ``.csv``/``.tsv`` file with a header, or what is in memory. UTF-8; the
        separator of a .csv file is told from its rows. The columns ``id`` and ``choices`` (a JSON list, or in CSV
        choices joined by ``|``) are read where they are. Blanks around labels are removed.
    text, label : str
        Names of the columns with the inputs and the answers.
    min_rows : int, default 1
        Fewest rows that will do.
    bad_rows : {"refuse", "skip", "cut"}, default "refuse"
        What to do with a row that cannot be used (no text, no label, not JSON, NUL or half of a surrogate pair in it):
        refuse the file, leave the row out, or cut the characters that cannot be used and refuse what remains unusable.
        :attr:`TextData.notes` say how many rows were left out or cut.

    Raises
    ------
    BadData
        If the file cannot be used; one line naming file, line and column.

    Examples
    --------
    >>> data = load_text((["good film", "bad film"], ["pos", "neg"]))
    >>> len(data), data.classes
    (2, ('neg', 'pos'))
    >>> load_text((["good", "bad\\ud83d"], ["pos", "neg"]), bad_rows="skip").notes[0][:33]
    '1 row was left out (bad_rows=skip'
    """
    require_names(text=text, label=label)
    if not isinstance(min_rows, int) or min_rows < 0:
        raise BadData(f"min_rows must be an integer of at least 0, got {shown(min_rows)}")
    if isinstance(source, TextData):
        return source
    if isinstance(source, (tuple, list)):
        name, rows = "texts", rows_of(_as_frame(source, text, label))[1]
    elif str(source) in TEXT_SETS and (text, label) != ("text", "label"):
        raise BadData(f"{source}: built-in texts have the columns 'text' and 'label', not {text!r} and {label!r}")
    else:
        name, rows = rows_of(source)
    blanks = False

    def read(row: Mapping[str, Any], where: str) -> tuple[Any, ...]:
        nonlocal blanks
        found = (*_checked(row, text, label, where), str(row.get("id", where.split()[-1])), where)
        blanks = blanks or str(row[label]) != found[1]
        return found

    kept, notes = usable_rows(name, rows, (text, label, "id", "choices"), read, bad_rows)
    if blanks:
        notes.append(f"Blanks around the values of column {label} were removed.")
    if len(kept) < min_rows:
        raise BadData(" ".join([f"{name}: {len(kept)} rows, and at least {min_rows} are needed.", *notes]))
    texts, labels, choices, ids, places = zip(*kept) if kept else ((),) * 5
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise BadData(f"{name}, column 'id': {twice!r} appears more than once")
    given = sum(one is not None for one in choices)
    if 0 < given < len(choices):
        raise BadData(f"{name}: only {given} of {len(choices)} rows have choices; give them to all rows or to none")
    return TextData(name, texts, labels, ids, choices if given else None, places, tuple(notes))


#: Rows in their order: the place of each, and what reads it, so that a row that cannot be read can be left out.
Rows = Iterator[tuple[str, Callable[[str], Mapping[str, Any]]]]


def usable_rows(
    name: str, rows: Rows, columns: Sequence[str], read: Callable[[Mapping[str, Any], str], _T], bad_rows: str
) -> tuple[list[_T], list[str]]:
    """Return what is made of the rows that can be used, and a note on the others.

    Parameters
    ----------
    name : str
        Of the source, for messages.
    rows : iterator of (place, reader)
    columns : sequence of str
        Columns that are looked at: they may not hold characters that cannot be used.
    read : callable
        Makes something of a row, given its place in words; a :class:`BadData` says why it cannot.
    bad_rows : {"refuse", "skip", "cut"}
        Refuse what cannot be used, leave it out, or cut the characters that cannot be used and refuse the rest.
    """
    if not isinstance(bad_rows, str) or bad_rows not in BAD_ROWS:
        raise BadData(f"bad_rows must be one of {', '.join(BAD_ROWS)}, got {bad_rows!r}")
    kept: list[_T] = []
    faults: list[str] = []
    for place, load in rows:
        where = f"{name}, {place}"
        try:
            row = load(where)
            clean = {column: cleaned(row[column]) for column in row if column in columns}
            if strange := [column for column in clean if clean[column] != row[column]]:
                fault = f"{where}, column {strange[0]!r}: NUL or half of a surrogate pair (bad_rows=cut takes it out)"
                if bad_rows != "cut":
                    raise BadData(fault)
                faults.append(fault)
            kept.append(read({**row, **clean}, where))
        except BadData as error:
            if bad_rows != "skip":
                raise BadData(f"{error}; bad_rows=skip leaves such rows out") from error
            faults.append(str(error))
    return kept, [_note(len(faults), bad_rows, faults[0])] if faults else []


def fitting_rows(
    texts: Sequence[str], places: Sequence[str], fits: Callable[[str], bool], room: str, bad_rows: str
) -> tuple[dict[int, str], tuple[str, ...]]:
    """Return the texts that fit by their places in the sequence, and a note on the others.

    Parameters
    ----------
    texts, places : sequences of str
        The texts, and file and line of each.
    fits : callable
        Whether a text is short enough; so is then every beginning of it.
    room : str
        The limit in words, such as "the 2048 tokens of the model's context".
    bad_rows : {"refuse", "skip", "cut"}
        Refuse texts that do not fit, leave them out, or cut them to the longest beginning that fits.

    Raises
    ------
    BadData
        Naming the first text that does not fit.
    """
    found = dict(enumerate(texts))
    long = [i for i, text in found.items() if not fits(text)]
    if not long:
        return found, ()
    fault = f"{places[long[0]]}: a text of {len(texts[long[0]].split())} words does not fit into {room}"
    if bad_rows == "refuse":
        raise BadData(f"{fault}; bad_rows=skip leaves such rows out, bad_rows=cut cuts them")
    for i in long:
        if bad_rows == "cut":
            found[i] = _beginning(found[i], fits)
        else:
            del found[i]
    return found, (_note(len(long), bad_rows, fault),)


def _as_frame(source: Sequence[Any], text: str, label: str) -> pd.DataFrame:
    if len(source) != 2:
        raise BadData(f"a pair (texts, labels) is wanted, got {len(source)} things")
    for part in source:
        if not isinstance(part, Iterable):
            raise BadData(f"a pair (texts, labels) is wanted, got {shown(part)} as one of them")
    texts, labels = (list(part) for part in source)
    if len(texts) != len(labels):
        raise BadData(f"texts and labels differ in length: {len(texts)} and {len(labels)}")
    return pd.DataFrame({text: texts, label: labels}, dtype=object)


def rows_of(source: Any) -> tuple[str, Rows]:
    """Return the name of a file, a built-in set or a data frame, and its rows, each read when it is asked for."""
    if isinstance(source, pd.DataFrame):
        names = list(map(str, source.columns))
        values = source.astype(object).where(source.notna(), None).itertuples(index=False, name=None)
        return "the table", ((f"row {n}", partial(_by_name, names, row)) for n, row in enumerate(values))
    if not isinstance(source, (str, Path)):
        raise BadData(f"a path or a data frame is wanted, got {type(source).__name__}")
    if str(source) in TEXT_SETS:
        return str(source), _of_file(text_set(str(source)))
    return Path(source).name, _of_file(Path(source))


def _of_file(path: Path) -> Rows:
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".ndjson", ".csv", ".tsv"):
        raise BadData(f"{path}: a .jsonl, .ndjson, .csv or .tsv file is wanted, or {', '.join(TEXT_SETS)}")
    if not path.exists():
        raise BadData(f"{path}: there is no such file")
    require_room(path, require_regular(path))
    raw = path.read_bytes()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise BadData(f"{path.name}, line {line}: not UTF-8; save the file as UTF-8") from error
    if kind in (".jsonl", ".ndjson"):
        lines = enumerate(content.split("\n"), start=1)
        return ((f"line {number}", partial(_from_json, line)) for number, line in lines if line.strip())
    return _from_table(path, "\t" if kind == ".tsv" else None)


def _from_table(path: Path, separator: str | None) -> Rows:
    form = layout(path, separator)
    found = records(path, form, strict=True)
    _, header = next(found, (1, []))
    if not header:
        raise BadData(f"{path.name}: the file is empty")
    names = [*(name.strip() for name in header), *[""] * (form.width - len(header))]
    require_distinct(path, [name for name in names if name])
    for line, values in found:
        if values:
            yield f"line {line}", partial(_by_name, names, values)


def _from_json(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadData(f"{where}, character {error.colno}: not JSON ({error.msg})") from error
    if not isinstance(row, dict):
        raise BadData(f"{where}: a JSON object is wanted, got {_shown(row)}")
    return row


def _by_name(names: Sequence[str], values: Sequence[Any], where: str) -> Mapping[str, Any]:
    if len(values) != len(names):
        raise BadData(f"{where}: {len(values)} values for the {len(names)} columns of the header")
    return dict(zip(names, values))


def cleaned(value: Any) -> Any:
    """Return a value without characters that cannot be used."""
    if isinstance(value, list):
        return [cleaned(one) for one in value]
    return _UNUSABLE.sub("", value) if isinstance(value, str) else value


def _checked(row: Mapping[str, Any], text: str, label: str, where: str) -> tuple[str, str, tuple[str, ...] | None]:
    for column in (text, label):
        if column not in row:
            raise BadData(f"{where}: column {column!r} is missing; there are {', '.join(map(repr, row)) or 'none'}")
    value = row[text]
    if not isinstance(value, str) or not value.strip():
        raise BadData(f"{where}, column {text!r}: a text is wanted, got {_shown(value)}")
    answer = _label(row[label], f"{where}, column {label!r}")
    return value, answer, _choices(row.get("choices"), answer, f"{where}, column 'choices'")


def _label(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, np.integer)) or not str(value).strip():
        raise BadData(f"{where}: a word or a whole number is wanted, got {_shown(value)}")
    return str(value).strip()


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


def _beginning(text: str, fits: Callable[[str], bool]) -> str:
    """Return the longest beginning that fits, by bisection."""
    return text[: bisect_left(range(1, len(text)), True, key=lambda n: not fits(text[:n]))].rstrip()


def _note(n: int, bad_rows: str, first: str) -> str:
    done = {"skip": "left out", "cut": "cut"}[bad_rows]
    return f"{n} {'row was' if n == 1 else 'rows were'} {done} (bad_rows={bad_rows}), the first: {first}."


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
