"""Read .csv files as texts: the separator told from the rows, Excel's ``sep=`` line, trailing separators, places."""

from __future__ import annotations

import csv
import itertools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from anytask.core.errors import BadData, one_line
from anytask.core.files import require_regular
from anytask.core.memory import require_room

SEPARATORS = (",", ";", "\t", "|")
_SAMPLE = 200


@dataclass(frozen=True)
class Layout:
    """How a file is written: its separator, lines before the header, and values per row."""

    separator: str
    skip: int
    width: int


def layout(path: Path, separator: str | None = None) -> Layout:
    """Tell the layout from the first rows: the separator is the one by which they have as many values as the header.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "t.csv")
    ...     _ = path.write_text('"weight, in kg";"height, in cm";label\\n0,4;1,7;x\\n')
    ...     layout(path)
    Layout(separator=';', skip=0, width=3)
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        named = re.fullmatch(r"sep=(.)\s*", file.readline(), re.IGNORECASE)
    skip = 1 if named else 0
    separator = named[1] if named else separator
    best, best_score = Layout(separator or ",", skip, 1), (-1.0, 0)
    for candidate in (separator,) if separator else SEPARATORS:
        rows = list(itertools.islice(records(path, Layout(candidate, skip, 0)), _SAMPLE))
        if not rows:
            continue
        width, values = len(rows[0][1]), [row for _, row in rows[1:] if row]
        if values and all(len(row) == width + 1 and not row[-1] for row in values):
            width += 1  # each row ends with a separator, and the header does not
        score = (sum(len(row) == width for row in values) / max(1, len(values)) if width > 1 else 0.0, width)
        if score > best_score:
            best, best_score = Layout(candidate, skip, width), score
    return best


def records(path: Path, form: Layout, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Give each record, the header first, with the line on which it starts; blank lines are empty records.

    What is no CSV ends the records, for a guess at the separator may be wrong; ``strict`` makes it an error.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(itertools.islice(file, form.skip, None), delimiter=form.separator, strict=strict)
        start = form.skip + 1
        try:
            for values in reader:
                yield start, values
                start = form.skip + reader.line_num + 1
        except csv.Error as error:
            if strict:
                raise BadData(f"{path.name}, line {form.skip + reader.line_num}: {error}") from error


def read_csv(path: Path) -> tuple[pd.DataFrame, Layout]:
    """Return the values of a .csv file as texts, NaN where a cell is empty, and how the file is written.

    Columns without a name and without a value (trailing separators) are left out; other nameless ones are called
    ``Unnamed: 0``, ... by their place. Blank lines at the end are left out.

    Raises
    ------
    BadData
        For files that are not UTF-8, rows of another length, and headers in which a name appears twice.
    """
    require_room(path, require_regular(path))
    try:
        form = layout(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path, sep=form.separator, encoding="utf-8-sig", header=None, names=list(range(form.width)),
                skiprows=form.skip, index_col=False, dtype=str, keep_default_na=False, na_values=[""],
                skip_blank_lines=False,
            )  # fmt: skip
    except pd.errors.EmptyDataError as error:
        raise BadData(f"{path}: the file is empty") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        for line, values in records(path, form):
            if len(values) > form.width:
                raise BadData(
                    f"{path}: line {line} has {len(values)} columns, and {form.width} are expected"
                ) from error
        raise BadData(f"{path}: not a readable .csv file ({one_line(error)})") from error
    except (UnicodeDecodeError, OSError) as error:
        raise BadData(f"{path}: not a readable .csv file in UTF-8 ({one_line(error)})") from error
    if frame.empty:
        raise BadData(f"{path}: the file is empty")
    header = ["" if pd.isna(value) else str(value).strip() for value in frame.iloc[0]]
    frame = frame.iloc[1:].reset_index(drop=True)
    filled = frame.notna().any(axis=1).to_numpy()
    frame = frame.iloc[: int(np.flatnonzero(filled)[-1]) + 1 if filled.any() else 0]
    kept = [i for i, name in enumerate(header) if name or frame[i].notna().any()]
    names = [header[i] or f"Unnamed: {i}" for i in kept]
    require_distinct(path, names)
    frame = frame[kept]
    frame.columns = names
    return frame, form


def line_of(path: Path, form: Layout, row: int) -> str:
    """Return the line on which a row after the header starts; quoted texts may span lines."""
    return f"line {next(itertools.islice(records(path, form), row + 1, None))[0]}"


def require_distinct(path: Path, names: list[str]) -> None:
    """Refuse two columns of one name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadData(f"{path}: the header names the column {twice!r} more than once; rename one of them")
