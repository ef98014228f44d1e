"""Labels and tasks as int64 or text, without two of them becoming one."""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from anytask.core.errors import BadData, shown

Locate = Callable[[int], str]
#: Words that stand for 0 and 1 where a column holds nothing else.
BOOLEANS = {"true": 1.0, "false": 0.0}
_EXACT = 2.0**53  # from here on, whole numbers that differ may be one float64
_LIMITS = np.iinfo(np.int64)


def require_names(**named: object) -> None:
    """Raise :class:`BadData` for a value that is neither the name of a column nor None."""
    for name, value in named.items():
        if value is not None and not isinstance(value, str):
            raise BadData(f"{name} must be the name of a column, got {shown(value)}")


def row_number(row: int) -> str:
    """Return the place of a row of an array."""
    return f"row {row} (counted from 0)"


def as_labels(
    values: np.ndarray, where: str, column: str, locate: Locate = row_number, what: str = "labels"
) -> np.ndarray:
    """Return labels (or tasks) as int64 or text; blanks around texts are removed.

    Raises
    ------
    BadData
        For missing values, fractions, and floats too large to tell whole numbers apart; the message names the row.

    Examples
    --------
    >>> as_labels(np.array([1.0, 2.0]), "mine.npz", "y").tolist()
    [1, 2]
    >>> as_labels(np.array([2**64 - 1, 0], np.uint64), "", "y").tolist()
    ['18446744073709551615', '0']
    """
    here = f"{where}: column {column!r}"
    plain = np.ma.getdata(values)
    missing = np.ma.getmaskarray(values) | np.asarray(pd.isna(plain))
    if missing.any():
        raise BadData(f"{here}, {locate(int(np.argmax(missing)))}: the value is missing (or NaN)")
    if plain.dtype.kind == "O" and all(isinstance(v, numbers.Number) for v in plain.tolist()):
        broken = np.array([v != v // 1 for v in plain.tolist()])
        _whole(broken, plain, here, locate, what)
        return _integers([int(v) for v in plain.tolist()])
    if plain.dtype.kind == "f":
        _whole(plain != np.floor(plain), plain, here, locate, what)
        large = np.abs(plain) > _EXACT
        if large.any():
            row = int(np.argmax(large))
            raise BadData(
                f"{here}, {locate(row)}: {plain[row]} is too large for a label: floats beyond 2**53 cannot tell whole "
                "numbers apart; give integers or texts"
            )
        return plain.astype(np.int64)
    if plain.dtype.kind in "biu":
        return _integers(plain.tolist()) if plain.dtype == np.uint64 else plain.astype(np.int64)
    if plain.dtype.kind in "OUS":
        return np.array([(v.decode() if isinstance(v, bytes) else str(v)).strip() for v in plain.tolist()])
    raise BadData(f"{here}: {what} must be texts or whole numbers, got {plain.dtype}")


def as_weights(values: np.ndarray, where: str, column: str, locate: Locate = row_number) -> np.ndarray:
    """Return sample weights as float64 (n,).

    Raises
    ------
    BadData
        For what is no finite number of at least 0, naming row and value, and where no weight is above 0.

    Examples
    --------
    >>> as_weights(np.array([1, 0.5]), "mine.npz", "w").tolist()
    [1.0, 0.5]
    >>> as_weights(np.array([1, -2]), "mine.npz", "w")
    Traceback (most recent call last):
    anytask.core.errors.BadData: mine.npz: column 'w', row 1 (counted from 0): a weight is a finite number ...
    """
    here = f"{where}: column {column!r}"
    try:
        weights = np.ma.filled(np.ma.asarray(values).astype(np.float64), np.nan)
    except (TypeError, ValueError) as error:
        raise BadData(f"{here}: weights are finite numbers of at least 0 ({error})") from error
    if (bad := ~(np.isfinite(weights) & (weights >= 0))).any():
        row = int(np.argmax(bad))
        raise BadData(f"{here}, {locate(row)}: a weight is a finite number of at least 0, got {values[row]}")
    if not weights.any():
        raise BadData(f"{here}: all weights are 0")
    return weights


def from_texts(texts: np.ndarray) -> np.ndarray:
    """Turn the texts of a column into numbers where no information is lost by it; ``007`` stays a text.

    Examples
    --------
    >>> [from_texts(np.array(t, dtype=object)).tolist() for t in (["1", "2"], ["007", "7"], ["1e300", "2e300"])]
    [[1, 2], ['007', '7'], ['1e300', '2e300']]
    """
    distinct = set(texts.tolist())
    if distinct and all(isinstance(t, str) for t in distinct):
        if all(t.lower() in BOOLEANS for t in distinct):
            return np.array([int(BOOLEANS[t.lower()]) for t in texts.tolist()])
        if all(re.fullmatch(r"-?(0|[1-9]\d*)", t, re.ASCII) for t in distinct):
            return _integers([int(t) for t in texts.tolist()])
        if all(re.fullmatch(r"[+-]?(0|[1-9]\d*)?(\.\d*)?([eE][+-]?\d+)?", t, re.ASCII) for t in distinct):
            numeric = pd.to_numeric(pd.Series(texts), errors="coerce").to_numpy(dtype=np.float64)
            if (np.abs(numeric) < _EXACT).all():  # False for NaN too
                return numeric
    return texts


def check_classes(y: np.ndarray, where: str, column: str) -> None:
    """Refuse fewer than two classes, and classes with one example."""
    classes, counts = np.unique(y, return_counts=True)
    if not len(classes):
        raise BadData(f"{where}: column {column!r} holds no value")
    if len(classes) < 2:
        only = classes.tolist()[0]
        raise BadData(f"{where}: column {column!r} holds one class only ({only!r}): at least 2 classes are needed")
    if counts.min() < 2:
        rare = classes[counts < 2].tolist()
        more = f" (and {len(rare) - 1} more such classes)" if len(rare) > 1 else ""
        if len(rare) > 20 and len(rare) > len(classes) / 2:
            more += f"; are the {len(classes)} different values of this column really labels?"
        raise BadData(f"{where}: column {column!r}: class {rare[0]!r} has 1 example{more}, and at least 2 are needed")


def as_matrix(columns: Sequence[np.ndarray], names: Sequence[object], where: str, locate: Locate) -> np.ndarray:
    """Return a matrix (n, k) of zeros and ones out of its columns.

    Raises
    ------
    BadData
        For another value, naming its place, and for a label that fewer than two rows have, or that all have.

    Examples
    --------
    >>> has = np.array([1, 1, 0])
    >>> as_matrix([has, 1 - has], ["cat", "dog"], "mine.csv", row_number)
    Traceback (most recent call last):
    anytask.core.errors.BadData: mine.csv: label 'dog' has 1 example, and at least 2 are needed
    """
    for column, name in zip(columns, names, strict=True):
        here = f"{where}: label {name!r}"
        if (bad := ~np.isin(column, (0, 1))).any():
            row = int(np.argmax(bad))
            raise BadData(f"{here}, {locate(row)}: with several labels a row, each is 0 or 1, got {column[row]}")
        if (count := int(column.sum())) < 2:
            raise BadData(f"{here} has {count} example{'' if count else 's'}, and at least 2 are needed")
        if count == len(column):
            raise BadData(f"{here}: all rows have it")
    return np.stack(columns, axis=1).astype(np.int64)


def _whole(broken: np.ndarray, values: np.ndarray, here: str, locate: Locate, what: str) -> None:
    if broken.any():
        row = int(np.argmax(broken))
        raise BadData(f"{here}, {locate(row)}: {values[row]} is not whole; {what} are whole numbers or texts")


def _integers(values: list[int]) -> np.ndarray:
    """Return int64, or texts where that is too small."""
    fits = all(_LIMITS.min <= v <= _LIMITS.max for v in values)
    return np.array(values, dtype=np.int64) if fits else np.array([str(v) for v in values])
