"""One encoding of a table's columns as numbers, found on the data of a comparison and applied again to new data."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from anytask.core.errors import BadData
from anytask.datasets.labels import BOOLEANS, Locate

#: Values that often stand for a missing one; among numbers they are asked about, never taken for a category.
_MARKS = {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "?", "-", "--", ".", "missing"}
_FEW = 20  # so many different values may be a category whatever the number of rows
_SPACES = " '’\u00a0\u202f"
_UNIT = r"[$€£¥₹]|USD|EUR|GBP|CHF|JPY|%"


def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    grouped = rf"[1-9]\d{{0,2}}([{re.escape(thousands)}{_SPACES}])\d{{3}}(?:\1\d{{3}})*"
    point = re.escape(decimal)
    return re.compile(rf"[+-]?(?:(?:{grouped}|\d+)(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?", re.ASCII)


_STYLES = {".": _pattern(".", ","), ",": _pattern(",", ".")}


@dataclass(frozen=True)
class Column:
    """How one column becomes numbers: as a number with this decimal mark, or one-hot over ``values``."""

    name: str
    values: tuple[str, ...] | None = None
    decimal: str = "."

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the numbers that it becomes."""
        return (self.name,) if self.values is None else tuple(f"{self.name}={value}" for value in self.values)


@dataclass(frozen=True)
class TableEncoding:
    """Columns of a table as numbers.

    Attributes
    ----------
    columns : tuple of Column
        In the order of the features; numbers first.
    marks : tuple of str
        Values that stand for a missing one, beside empty cells.

    Examples
    --------
    >>> frame = pd.DataFrame({"price": ["$1,200.50", "$3", ""], "color": ["red", "blue", "red"]})
    >>> encoding, notes = TableEncoding.fit(frame, "prices.csv", lambda row: f"row {row}")
    >>> encoding.feature_names
    ('price', 'color=blue', 'color=red')
    >>> encoding.encode(frame, "prices.csv").tolist()
    [[1200.5, 0.0, 1.0], [3.0, 1.0, 0.0], [nan, 0.0, 1.0]]
    """

    columns: tuple[Column, ...]
    marks: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls, frame: pd.DataFrame, where: str, locate: Locate, *, marks: Sequence[str] = (),
        categorical: Collection[str] = (), decimal: str = "auto",
    ) -> tuple[Self, list[str]]:  # fmt: skip
        """Return the encoding of a table, and notes on what is not kept as it is.

        Raises
        ------
        BadData
            For dates, free text, stray texts among numbers, and marks that can be read in two ways; the message names
            the option that settles it.
        """
        plain: list[Column] = []
        encoded: list[Column] = []
        numeric: dict[str, _Distinct] = {}
        mostly: list[str] = []
        for name in frame.columns:
            values = frame[name]
            if pd.api.types.is_datetime64_any_dtype(values.dtype) or pd.api.types.is_timedelta64_dtype(values.dtype):
                raise BadData(f"{where}: column {name!r} holds dates; turn them into numbers, or leave the column out")
            if pd.api.types.is_complex_dtype(values.dtype):
                raise BadData(f"{where}: column {name!r} holds complex numbers; split them, or leave the column out")
            if name not in categorical and pd.api.types.is_numeric_dtype(values.dtype):
                plain.append(Column(name))
                continue
            texts = as_texts(values, marks)
            found = _Distinct(texts)
            if name not in categorical and found.all_numbers:
                found.check_units(name, where)
                numeric[name] = found
                plain.append(Column(name))
                continue
            if name not in categorical:
                mostly += [name] if _check_category(texts, found, name, where, locate) else []
            encoded.append(Column(name, tuple(sorted(found.values))))
        plain, notes = _settle_decimals(plain, numeric, decimal, where, locate)
        if encoded:
            listing = ", ".join(f"{c.name} ({len(c.values or ())} values)" for c in encoded)
            kind = "Text columns" if not set(categorical) & {c.name for c in encoded} else "Columns"
            notes.append(f"{kind} were one-hot encoded: {listing}.")
        if mostly:
            notes.append(f"Most values of {', '.join(mostly)} are numbers; read as categories because others are not.")
        return cls((*plain, *encoded), tuple(marks)), notes

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features; ``"color=red"`` is 1 where the column ``color`` holds ``red``."""
        return tuple(feature for column in self.columns for feature in column.features)

    def encode(self, frame: pd.DataFrame, where: str, locate: Locate = lambda row: f"row {row}") -> np.ndarray:
        """Return the table as float32 (n, features), NaN where a value is missing.

        Raises
        ------
        BadData
            For missing columns, texts where numbers are wanted, categories not seen before, and infinite values.
        """
        X = np.empty((len(frame), len(self.feature_names)), dtype=np.float32)
        at = 0
        for column in self.columns:
            if column.name not in frame.columns:
                raise BadData(f"{where}: no column {column.name!r}; its columns: {', '.join(map(str, frame.columns))}")
            values, here = frame[column.name], f"{where}: column {column.name!r}"
            if column.values is None:
                numbers = self._numbers(column, values, here, locate)
                with np.errstate(over="ignore"):
                    X[:, at] = numbers
                if (bad := np.isinf(X[:, at])).any():
                    row = int(np.argmax(bad))
                    raise BadData(f"{here}, {locate(row)}: the value is infinite (or too large for float32)")
            else:
                texts = as_texts(values, self.marks)
                codes = pd.Index(column.values, dtype=object).get_indexer(pd.Index(texts))
                missing = texts.isna().to_numpy()
                if (unknown := (codes < 0) & ~missing).any():
                    value, known = texts[unknown].iloc[0], ", ".join(column.values)
                    raise BadData(f"{here}, {locate(int(np.argmax(unknown)))} holds {value!r}; known are {known}")
                block = codes[:, None] == np.arange(len(column.values))
                X[:, at : at + block.shape[1]] = np.where(missing[:, None], np.nan, block)
            at += len(column.features)
        return X

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """Return what :meth:`to_json` gave."""
        columns = [{**c, "values": None if c["values"] is None else tuple(c["values"])} for c in plain["columns"]]
        return cls(tuple(Column(**c) for c in columns), tuple(plain["marks"]))

    def _numbers(self, column: Column, values: pd.Series, here: str, locate: Locate) -> np.ndarray:
        if pd.api.types.is_numeric_dtype(values.dtype):
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
            marked = pd.to_numeric(pd.Series(self.marks, dtype=object), errors="coerce").dropna()
            return np.where(np.isin(numbers, marked), np.nan, numbers)
        texts = as_texts(values, self.marks)
        found = _Distinct(texts)
        numbers = found.numbers(column.decimal)
        if (bad := np.isnan(numbers) & texts.notna().to_numpy()).any():
            row = int(np.argmax(bad))
            raise BadData(f"{here}, {locate(row)}: {texts.iloc[row]!r} is not a number")
        return numbers


def as_texts(values: pd.Series, marks: Collection[str] = ()) -> pd.Series:
    """Return values as texts without blanks around them, NaN where empty or one of ``marks``."""
    missing = values.isna().to_numpy()
    texts = values.astype(object).astype(str).str.strip().astype(object)
    return texts.mask(missing | texts.isin(["", *marks]).to_numpy(), np.nan)


def order_notes(X: np.ndarray, names: Sequence[str]) -> list[str]:
    """Say which features rise or fall from each row to the next, as a counter or a date of entry does."""
    if len(X) < 10:
        return []
    steps = np.diff(X, axis=0)
    ordered = (steps > 0).all(axis=0) | (steps < 0).all(axis=0)
    found = ", ".join(name for name, yes in zip(names, np.atleast_1d(ordered)) if yes)
    return [f"Features that follow the order of the rows, and so may give labels away: {found}."] if found else []


class _Distinct:
    """The distinct texts of a column, and the numbers that they may be."""

    def __init__(self, texts: pd.Series) -> None:
        self.codes, uniques = pd.factorize(texts)
        self.values: list[str] = [str(value) for value in uniques]
        self.fast = pd.to_numeric(pd.Series(self.values, dtype=object), errors="coerce").to_numpy(dtype=np.float64)
        self.plain = bool(np.isfinite(self.fast).all()) or all(
            np.isfinite(x) or re.fullmatch(r"[+-]?inf(inity)?", v, re.I) for x, v in zip(self.fast, self.values)
        )
        self.boolean = bool(self.values) and all(v.lower() in BOOLEANS for v in self.values)
        self.bare = self.values if self.plain else [_bare(value) for value in self.values]

    def fits(self, decimal: str) -> list[bool]:
        return [_STYLES[decimal].fullmatch(value) is not None for value in self.bare]

    @property
    def all_numbers(self) -> bool:
        return self.plain or self.boolean or all(self.fits(".")) or all(self.fits(","))

    def check_units(self, name: str, where: str) -> None:
        units = {u for v in self.values for u in re.findall(_UNIT, v)} if not self.plain else set()
        if len(units) > 1 or (units == {"%"} and not all(v.endswith("%") for v in self.values)):
            raise BadData(f"{where}: column {name!r} mixes values in {' and '.join(sorted(units))} with other values")

    def numbers(self, decimal: str) -> np.ndarray:
        """Return one number per row; NaN where a text is none."""
        if self.boolean:
            out = np.array([BOOLEANS[value.lower()] for value in self.values])
        elif self.plain and decimal == ".":
            out = self.fast
        else:
            out = np.array([_number(v, b, decimal) for v, b in zip(self.values, self.bare)], dtype=np.float64)
        return np.append(out, np.nan)[self.codes]  # the code of a missing value is -1


def _bare(value: str) -> str:
    """Return a number's text without currency and percent signs."""
    value = re.sub(rf"^([+-]?)\s*(?:{_UNIT})\s*", r"\1", value.replace("\u2212", "-"))
    return re.sub(rf"\s*(?:{_UNIT})$", "", value)


def _number(value: str, bare: str, decimal: str) -> float:
    if not _STYLES[decimal].fullmatch(bare):
        return np.nan
    thousands = "," if decimal == "." else "."
    number = float(re.sub(f"[{thousands}{_SPACES}]", "", bare).replace(",", "."))
    return number / 100 if value.endswith("%") else number


def _settle_decimals(
    plain: list[Column], numeric: dict[str, _Distinct], decimal: str, where: str, locate: Locate
) -> tuple[list[Column], list[str]]:
    """Give each column its decimal mark: from its own values, else from the other columns, else from the user."""
    styles = {n: [s for s in _STYLES if all(d.fits(s))] for n, d in numeric.items() if not d.boolean}
    marked = [name for name in styles if not numeric[name].plain]
    if not marked:
        return plain, []
    sure = {found[0] for found in styles.values() if len(found) == 1}
    shared = decimal if decimal != "auto" else sure.pop() if len(sure) == 1 else None
    out, notes = [], []
    for column in plain:
        name, own = column.name, styles.get(column.name, ["."])
        found = numeric.get(name)
        unclear = [i for i, b in enumerate(found.bare) if re.search("[.,]", b)] if found and len(own) == 2 else []
        mark = shared if unclear else own[0] if own else "."
        if mark is None and name in marked and found:
            value = found.values[unclear[0]]
            place = locate(int(np.argmax(found.codes == unclear[0])))
            raise BadData(
                f"{where}: column {name!r}, {place}: {value!r} can be read in two ways: say by decimal=, or decimal=. "
                "which mark stands before the decimals"
            )
        out.append(Column(name, None, mark or "."))
        if found and (name in marked or mark == ","):
            i = next((i for i, b in enumerate(found.bare) if re.search(r"\D", b)), 0)
            number = found.numbers(mark or ".")[found.codes == i][0]
            notes.append(f"Column {name} was read as numbers: {found.values[i]} is {number:.12g}.")
    return out, notes


def _check_category(texts: pd.Series, found: _Distinct, name: str, where: str, locate: Locate) -> bool:
    """Refuse numbers with a stray text, and free text; return whether most values of a category are numbers."""
    here = f"{where}: column {name!r}"
    known = [p or c for p, c in zip(found.fits("."), found.fits(","))]
    number = np.append(np.array(known, dtype=bool), True)[found.codes]
    present = texts.notna().to_numpy()
    mostly = bool(number[present].mean() > 0.5) if present.any() else False
    stray = [v for v, is_number in zip(found.values, known) if not is_number]
    n_values, counts = len(found.values), np.bincount(found.codes[found.codes >= 0])
    category = n_values <= _FEW and counts[[not k for k in known]].min(initial=2) > 1
    if mostly and (not category or all(v.lower() in _MARKS for v in stray)):
        row = int(np.argmin(number))
        value = texts.iloc[row]
        raise BadData(
            f"{here}, {locate(row)}: {value!r} is not a number; say missing_marks={value} if it stands for "
            f"a missing value, categorical={name} if the column holds categories"
        )
    if n_values > _FEW and n_values > len(texts) / 2:
        raise BadData(
            f"{here} holds {n_values} different texts in {len(texts)} rows (such as {found.values[0]!r} in "
            f"{locate(0)}): too many to encode; leave the column out, or say categorical={name}"
        )
    return mostly
