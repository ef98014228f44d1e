"""Tables with one example a row, from .csv and .parquet files and from data frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anytask.core.errors import BadData, one_line, shown
from anytask.datasets.archives import opened_parquet, parquet_batches
from anytask.datasets.csv_files import line_of, read_csv, require_distinct
from anytask.datasets.encoding import TableEncoding, as_texts, order_notes
from anytask.datasets.labels import Locate, as_labels, as_matrix, as_weights, from_texts, row_number
from anytask.datasets.rows import Parts, near

_TARGETS = ("label", "target", "class", "y")
_PRECISION = 1000  # fewer steps of float32 than this between smallest and largest value may merge different ones


@dataclass(frozen=True)
class TableOptions:
    """How a table is read: see :func:`anytask.datasets.labelled.load_labelled`."""

    marks: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    decimal: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.decimal, str) or self.decimal not in ("auto", ".", ","):
            raise BadData(f"decimal must be auto, . or , (a comma), got {shown(self.decimal)}")


def read_frame(
    path: Path | pd.DataFrame, kept: Collection[str] = (), notes: list[str] | None = None
) -> tuple[pd.DataFrame, Locate]:
    """Return a .csv file (as texts), a .parquet file or a data frame whatever its index, and how its rows are named.

    Columns ``kept`` stay precise.
    """
    if isinstance(path, pd.DataFrame):
        frame = path.reset_index(drop=True).set_axis(list(map(str, path.columns)), axis="columns")
        require_distinct(Path("the table"), list(frame.columns))
        return frame, row_number
    if path.suffix.lower() == ".csv":
        frame, form = read_csv(path)
        return frame, lambda row: line_of(path, form, row)
    return pd.concat(list(_batches(path, kept, notes)), ignore_index=True), row_number


def joined(source: tuple[Any, ...]) -> tuple[pd.DataFrame, str, str | None]:
    """Return one table out of (X, y) or (X, y, task), row by row whatever their indexes, and its two columns' names."""
    if len(source) not in (2, 3):
        raise BadData(f"a tuple of data is (X, y) or (X, y, task), got {len(source)} items")
    X, names = source[0], []
    for name, values in zip(("label", "task"), source[1:]):
        column = np.asanyarray(values).reshape(-1) if np.ndim(values) else np.zeros(0)
        if len(column) != len(X):
            raise BadData(f"arrays: X has {len(X)} rows, and the {name}s have the shape {np.shape(values)}")
        while name in map(str, X.columns):
            name += "_"
        names.append(name)
        X = X.assign(**{name: column})
    return X, names[0], names[1] if len(names) > 1 else None


def read_table(
    source: Path | pd.DataFrame, target: str | None, task: str | None, group: str | None, weights: str | None,
    options: TableOptions, several: bool = False,
) -> Parts:  # fmt: skip
    """Return a table as numbers, with the encoding that makes them; missing values are NaN.

    Where there may be ``several`` labels, ``target`` may name several columns, as ``cat,dog``.
    """
    notes: list[str] = []
    path = Path("the table") if isinstance(source, pd.DataFrame) else source
    kept = {name for name in (target, task, group, weights) if name} | set(_TARGETS)
    frame, locate = read_frame(source, kept, notes)
    frame = without_index(frame, notes)
    columns = list(map(str, frame.columns))
    target = _target_column(path, columns, target)
    targets = [target]
    if several and target not in columns and "," in target:
        targets = list(dict.fromkeys(name.strip() for name in target.split(",")))
    named = (
        *((name, f"labels{place or ''}") for place, name in enumerate(targets)),
        *((task, "tasks"), (group, "groups"), (weights, "weights")),
    )
    roles = {name: what for name, what in named if name is not None}
    for name in (*roles, *options.categorical):
        if name not in columns:
            raise BadData(f"{path}: no column {name!r}{near(name, columns)}; its columns: {', '.join(columns)}")
    if len(roles) < sum(name is not None for name, _ in named):
        held = ", ".join(roles)
        raise BadData(f"{path}: one column cannot hold two of labels, tasks, groups and weights at once: {held}")
    if not set(columns) - set(roles):
        raise BadData(f"{path}: no column is left for the inputs beside {', '.join(roles)}")
    if not len(frame):
        raise BadData(f"{path}: there is a header and no row")
    read = {
        what: label_column(frame.pop(name), path, name, locate, what, options.marks, notes)
        for name, what in roles.items()
        if what != "weights"
    }
    encoding, said = TableEncoding.fit(
        frame, str(path), locate, marks=options.marks, categorical=options.categorical, decimal=options.decimal
    )
    X = encoding.encode(frame, str(path), locate)
    weighing = None
    if weights is not None:  # encoded with the others, whose decimal marks settle its own
        X, encoding, weighing = _without_weights(X, encoding, frame[weights], str(path), locate)
    notes += said + order_notes(X, encoding.feature_names) + _merged(frame, X, encoding)
    y, tasks, groups = read["labels"], read.get("tasks"), read.get("groups")
    label_names = None
    if len(targets) > 1:
        y = as_matrix([read[f"labels{place or ''}"] for place in range(len(targets))], targets, str(path), locate)
        label_names = np.array(targets)
    return Parts(
        X, y, tasks, groups, "table", target, notes, encoding, encoding.feature_names, weights=weighing, locate=locate,
        label_names=label_names,
    )  # fmt: skip


def missing_place(parts: Parts, where: str, row: int, feature: int) -> str:
    """Name the column and the place of a missing value."""
    names = [c.name for c in parts.encoding.columns for _ in c.features] if parts.encoding else []
    return f"{where}: column {names[feature]!r}, {parts.locate(row)}: the value is missing (or NaN)"


def _without_weights(
    X: np.ndarray, encoding: TableEncoding, values: pd.Series, where: str, locate: Locate
) -> tuple[np.ndarray, TableEncoding, np.ndarray]:
    """Take the weights out of the features."""
    name = str(values.name)
    at = next(i for i, column in enumerate(encoding.columns) if column.name == name)
    if encoding.columns[at].values is not None:
        wrong = pd.to_numeric(values, errors="coerce").isna().to_numpy()
        row = int(np.argmax(wrong))
        found = f"{locate(row)}: a weight is a finite number of at least 0, got {values.iloc[row]!r}"
        raise BadData(f"{where}: column {name!r}, {found}")
    others = tuple(column for column in encoding.columns if column.name != name)
    weights = as_weights(X[:, at], where, name, locate)
    return np.delete(X, at, axis=1), replace(encoding, columns=others), weights


def _batches(path: Path, kept: Collection[str], notes: list[str] | None = None) -> Iterator[pd.DataFrame]:
    """Give the rows of a .parquet file, floats as float32 except in the columns ``kept``."""
    with opened_parquet(path) as file:
        names = list(file.schema_arrow.names)
        require_distinct(path, names)
        index = [name for name in names if name.startswith("__index_level_")]
        if index and notes is not None:
            notes.append("The nameless index of the table was left out.")
        columns = [name for name in names if name not in index]
        try:
            for batch in parquet_batches(path, file, columns):
                frame = batch.to_pandas(ignore_metadata=True)
                doubles = [c for c in columns if frame[c].dtype == np.float64 and c not in kept]
                with np.errstate(over="ignore"):
                    single = frame[doubles].astype(np.float32)
                precise = [c for c in doubles if not _coarse(single[c].to_numpy())]
                yield frame.assign(**{c: single[c] for c in precise})
            if not file.metadata.num_rows:
                yield file.schema_arrow.empty_table().to_pandas(ignore_metadata=True)[columns]
        except BadData:
            raise
        except Exception as error:
            raise BadData(f"{path}: damaged after its header ({one_line(error)})") from error


def without_index(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Leave out a nameless first column of distinct whole numbers, as ``to_csv`` writes the index."""
    if not len(frame.columns) or frame.columns[0] != "Unnamed: 0":
        return frame
    numbers = pd.to_numeric(frame["Unnamed: 0"], errors="coerce")
    if not pd.api.types.is_integer_dtype(numbers.dtype) or not numbers.is_unique:
        return frame
    notes.append("The nameless first column, which numbers the rows, was left out.")
    return frame.drop(columns="Unnamed: 0")


def _target_column(path: Path, columns: list[str], target: str | None) -> str:
    if target is not None:
        return target
    found = [column for column in columns if column.lower() in _TARGETS]
    if len(found) == 1:
        return found[0]
    why = f"columns {', '.join(found)} could all be it" if found else f"no column is called {', '.join(_TARGETS)}"
    raise BadData(
        f"{path}: which column holds the labels ({why})? Name it by target=...; columns: {', '.join(columns)}"
    )


def label_column(
    values: pd.Series, path: Path, name: str, locate: Locate, what: str, marks: Sequence[str], notes: list[str]
) -> np.ndarray:
    """Return a column of labels, tasks or groups as int64 or text, and add to ``notes`` where blanks were removed."""
    if pd.api.types.is_numeric_dtype(values.dtype):
        array = values.to_numpy(dtype=object) if values.isna().any() else values.to_numpy()
        return as_labels(array, str(path), name, locate, what)
    is_text = values.map(lambda value: isinstance(value, str))
    texts = as_texts(values, marks)
    if (values[is_text] != texts[is_text].fillna(values)).any():
        notes.append(f"Blanks around the values of column {name} were removed.")
    return as_labels(from_texts(texts.to_numpy(dtype=object)), str(path), name, locate, what)


def _merged(frame: pd.DataFrame, X: np.ndarray, encoding: TableEncoding) -> list[str]:
    """Say where values that differ became one number in float32."""
    notes = []
    for j, column in enumerate(encoding.columns):
        if column.values is not None:
            break  # numbers come first
        if not _coarse(X[:, j]):
            continue
        before, after = as_texts(frame[column.name]).nunique(), len(np.unique(X[:, j]))
        if 2 * after <= before:
            notes.append(
                f"Column {column.name}: {before} different values are {after} in single precision; subtract an offset "
                "from them, or leave the column out."
            )
    return notes


def _coarse(values: np.ndarray) -> bool:
    """Return whether float32 has few steps between the smallest and the largest value."""
    present = values[np.isfinite(values)]
    return bool(len(present)) and bool(np.ptp(present) < _PRECISION * np.spacing(np.abs(present).max()))
