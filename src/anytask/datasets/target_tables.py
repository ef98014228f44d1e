"""Tables with several target columns, or with a target and the task of each row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anytask.core.errors import BadData
from anytask.core.files import require_regular
from anytask.datasets.encoding import TableEncoding, as_texts, order_notes
from anytask.datasets.inputs import Inputs
from anytask.datasets.labelled import imputed
from anytask.datasets.labels import as_labels, from_texts
from anytask.datasets.rows import Parts, near
from anytask.datasets.tables import label_column, missing_place, read_frame, without_index

#: Names of data that can be given instead of a file. ``grunfeld`` comes with statsmodels (the extra ``multitask``).
TARGET_TABLES = ("diabetes-age", "linnerud", "grunfeld")
_AGES = (30, 40, 50, 60)  # upper ends of the age bands but the last


@dataclass(frozen=True)
class TargetTable:
    """Inputs with targets.

    Attributes
    ----------
    name : str
    X : ndarray of shape (n, d)
        float32.
    Y : DataFrame of shape (n, n_targets)
        Numbers, whole numbers and texts, with gaps.
    task : ndarray of shape (n,) or None
        The task of each row; ``Y`` then has one column.
    inputs : Inputs
        How new rows become inputs.
    notes : tuple of str
    """

    name: str
    X: np.ndarray
    Y: pd.DataFrame
    task: np.ndarray | None
    inputs: Inputs
    notes: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all of the content."""
        parts = [self.X.tobytes(), self.Y.to_csv(index=False).encode()]
        parts += [] if self.task is None else [repr(self.task.tolist()).encode()]
        return hashlib.sha256(b"\x1f".join(parts)).hexdigest()[:32]


def load_targets(
    source: Any, targets: Sequence[str] | None = None, task: str | None = None, *, missing: str = "refuse"
) -> TargetTable:
    """Return a table of inputs and targets; rows without any target are left out.

    Parameters
    ----------
    source : str, path, data frame or tuple of arrays
        One of :data:`TARGET_TABLES`, a .csv or .parquet file, a table, or (X, Y) or (X, y, task).
    targets : sequence of str
        The columns of a table that are targets; with ``task``, one. Empty cells are not labelled.
    task : str, optional
        The column with the task of each row.
    missing : {"refuse", "impute"}
        Missing inputs: an error, or the median of their column (of one-hot columns the mean).

    Raises
    ------
    BadData
        One line that names file and column, for whatever cannot be used.

    Examples
    --------
    >>> table = pd.DataFrame({"size": [1.0, 2.0, 3.0], "price": [10.0, 20.0, None], "sold": ["yes", "no", "yes"]})
    >>> found = load_targets(table, ["price", "sold"])
    >>> found.X.ravel().tolist(), list(found.Y.columns)
    ([1.0, 2.0, 3.0], ['price', 'sold'])
    """
    named = [*(targets or ()), *([task] if task else [])]
    if isinstance(source, tuple) or (isinstance(source, str) and source in TARGET_TABLES):
        name = "arrays" if isinstance(source, tuple) else source
        if named:
            raise BadData(f"{name}: these data have their own targets and tasks: leave targets and task out")
        table = _arrays(source) if isinstance(source, tuple) else _builtin(source)
    elif isinstance(source, (str, Path, pd.DataFrame)):
        table = _read(source if isinstance(source, pd.DataFrame) else _file(source), named, task, missing)
    else:
        raise BadData(f"data must be a name, a path, a data frame or a tuple of arrays, got {type(source).__name__}")
    empty = table.Y.isna().all(axis=1).to_numpy()
    if empty.all():
        raise BadData(f"{table.name}: no row has a target")
    if not empty.any():
        return table
    note = f"{int(empty.sum())} rows without any target were left out."
    tasks = None if table.task is None else table.task[~empty]
    Y = table.Y[~empty].reset_index(drop=True)
    return replace(table, X=table.X[~empty], Y=Y, task=tasks, notes=(*table.notes, note))


def _file(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if not path.exists():
        raise BadData(f"{path}: no such file, and no built-in data ({', '.join(TARGET_TABLES)})")
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise BadData(f"{path}: a table is a .csv or .parquet file")
    if require_regular(path) == 0:
        raise BadData(f"{path}: the file is empty")
    return path


def _read(source: Path | pd.DataFrame, named: list[str], task: str | None, missing: str) -> TargetTable:
    """Return a table whose columns ``named`` hold the targets and, last, the task where one is given."""
    path = Path("the table") if isinstance(source, pd.DataFrame) else source
    targets = named[:-1] if task else named
    if not targets:
        raise BadData(f"{path}: name the columns of the targets: targets=price,churn")
    notes: list[str] = []
    frame, locate = read_frame(source, named, notes)
    frame = without_index(frame, notes)
    columns = list(map(str, frame.columns))
    for name in named:
        if name not in columns:
            raise BadData(f"{path}: no column {name!r}{near(name, columns)}; its columns: {', '.join(columns)}")
    if len(set(named)) < len(named):
        raise BadData(f"{path}: one column cannot hold two of targets and task at once: {', '.join(named)}")
    if not set(columns) - set(named) or not len(frame):
        raise BadData(f"{path}: {'no column is left for the inputs' if len(frame) else 'there is a header and no row'}")
    Y = pd.DataFrame({name: _values(frame.pop(name)) for name in targets})
    tasks = label_column(frame.pop(task), path, task, locate, "tasks", (), notes) if task else None
    encoding, said = TableEncoding.fit(frame, str(path), locate)
    X, names, fill = encoding.encode(frame, str(path), locate), encoding.feature_names, None
    notes += said + order_notes(X, names)
    parts = Parts(X, Y.to_numpy(), kind="table", notes=notes, encoding=encoding, feature_names=names, locate=locate)
    if missing == "impute":
        parts, fill = imputed(parts, str(path))
    elif np.isnan(X).any():
        row, feature = np.argwhere(np.isnan(X))[0].tolist()
        raise BadData(f"{missing_place(parts, str(path), row, feature)}; missing=impute fills it in")
    name = "table" if isinstance(source, pd.DataFrame) else path.name
    inputs = Inputs(X.shape[1:], "table", encoding, fill=fill)
    return TargetTable(name, parts.X[:], Y, tasks, inputs, tuple(parts.notes))


def _values(values: pd.Series) -> pd.Series:
    """Return numbers, integers where all are whole, or texts; missing where empty."""
    if not pd.api.types.is_numeric_dtype(values.dtype):
        texts = as_texts(values)
        there = texts.dropna()
        values = pd.Series(from_texts(there.to_numpy(object)), there.index).convert_dtypes().reindex(texts.index)
    return values.convert_dtypes() if pd.api.types.is_numeric_dtype(values.dtype) else values.astype(object)


def _arrays(source: tuple[Any, ...]) -> TargetTable:
    if len(source) not in (2, 3):
        raise BadData(f"a tuple of data is (X, Y) or (X, y, task), got {len(source)} items")
    try:
        X = np.asarray(source[0], dtype=np.float32)
        Y = source[1] if isinstance(source[1], pd.DataFrame) else pd.DataFrame(np.asarray(source[1]))
    except (TypeError, ValueError) as error:
        raise BadData(f"arrays: {error}") from error
    task = None if len(source) == 2 else as_labels(np.asarray(source[2]), "arrays", "task", what="tasks")
    lengths = [len(X), len(Y), *([] if task is None else [len(task)])]
    if X.ndim != 2 or len(set(lengths)) > 1 or not np.isfinite(X).all():
        raise BadData(f"arrays: X must be finite numbers of shape (n, d), with n targets; got {X.shape}, {Y.shape}")
    return TargetTable("arrays", X, Y.reset_index(drop=True), task, Inputs(X.shape[1:]))


def _builtin(name: str) -> TargetTable:
    from sklearn import datasets

    if name == "linnerud":
        bunch = datasets.load_linnerud(as_frame=True)
        return _numbers(name, bunch.data, bunch.target, None)
    if name == "diabetes-age":
        bunch = datasets.load_diabetes(as_frame=True, scaled=False)
        band = np.digitize(bunch.data.age, _AGES)
        bands = np.array(["below 30", "30 to 39", "40 to 49", "50 to 59", "60 and above"])
        return _numbers(name, bunch.data, bunch.target.to_frame("progression"), bands[band])
    try:
        from statsmodels.datasets import grunfeld
    except ImportError as error:
        raise BadData("grunfeld comes with statsmodels: pip install 'anytask[multitask]'") from error
    frame = grunfeld.load_pandas().data
    return _numbers(name, frame[["value", "capital", "year"]], frame[["invest"]], frame.firm.to_numpy(str))


def _numbers(name: str, X: pd.DataFrame, Y: pd.DataFrame, task: np.ndarray | None) -> TargetTable:
    values = X.to_numpy(np.float32)
    return TargetTable(name, values, Y.astype(np.float64), task, Inputs((values.shape[1],)))
