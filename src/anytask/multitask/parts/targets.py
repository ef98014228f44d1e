"""Targets of several tasks, in a column beside the tasks or in a matrix, brought to one form."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from anytask.core.checks import as_array, check_labels, check_same_length, require_finite_rows
from anytask.core.errors import shown

KINDS = ("regression", "classification")
#: Whole numbers of at most so many different values are classes, where nobody says what they are.
MOST_CLASSES = 20


@dataclass(frozen=True)
class Targets:
    """The labelled cells: of which input, for which task, what.

    Attributes
    ----------
    tasks : ndarray of shape (n_tasks,)
        Ids: integers or strings, sorted where they came beside the rows, else in the order of the columns.
    kinds : tuple of {"regression", "classification"}
        Of each task.
    classes : tuple of (ndarray or None)
        The labels of each task, sorted; None for regression.
    column : ndarray of shape (n_tasks,)
        The column of y that a task's targets stand in; all 0 where tasks came beside the rows.
    row, task : ndarray of shape (m,)
        Place of the input and of the task, sorted by row.
    y : ndarray of shape (m,)
        The target as float64, the place of the label in ``classes`` where the task is classification.
    form : {"rows", "matrix", "flat"}
        Tasks beside the rows, a matrix with a column each, or one dimension and no tasks.
    """

    tasks: np.ndarray
    kinds: tuple[str, ...]
    classes: tuple[np.ndarray | None, ...]
    column: np.ndarray
    row: np.ndarray
    task: np.ndarray
    y: np.ndarray
    form: str = "rows"

    def alike(self, learner: str) -> Targets:
        """Return targets of one kind, and of one set of classes, or say that they are of two."""
        if len(set(self.kinds)) > 1:
            odd = self.kinds.index("classification"), self.kinds.index("regression")
            one, other = (self.tasks[place].item() for place in odd)
            raise ValueError(
                f"{learner} learns tasks of one kind: {one!r} is classification and {other!r} regression; kinds= says "
                "which are which"
            )
        if self.kinds[0] == "regression" or self.form != "matrix":
            return self
        own = [labels for labels in self.classes if labels is not None]
        if len({labels.dtype.kind in "US" for labels in own}) > 1:
            raise TypeError(f"{learner} learns tasks with one set of classes, and these mix strings and numbers")
        union = np.unique(np.concatenate(own))
        y = np.empty_like(self.y)
        for code, labels in enumerate(own):
            cells = self.task == code
            y[cells] = np.searchsorted(union, labels)[self.y[cells].astype(int)]
        return replace(self, classes=(union,) * len(own), y=y)


def read_targets(y: Any, task: Any, kinds: Any, n: int) -> Targets:
    """Return the labelled cells of ``n`` inputs.

    Parameters
    ----------
    y : array, tensor or data frame of shape (n,) or (n, n_tasks)
        Missing values (NaN, None) are not labelled.
    task : array of shape (n,), or None
        With it, y has one column.
    kinds : str, sequence or mapping, optional
        Of the columns; those not named are told by their values: texts, booleans, pandas' categories and whole numbers
        of at most :data:`MOST_CLASSES` different values are classes, all others are numbers.

    Examples
    --------
    >>> found = read_targets([[1.5, "a"], [None, "b"]], None, None, 2)
    >>> found.kinds, found.row.tolist(), found.task.tolist(), found.y.tolist()
    (('regression', 'classification'), [0, 0, 1], [0, 1, 1], [1.5, 0.0, 1.0])
    >>> read_targets([3.5, 4.5], ["x", "x"], None, 2).tasks.tolist()
    ['x']
    """
    names, columns, flat = _columns(y)
    ids = None if task is None else as_ids(task)
    for name, given in (("y", columns[0]), *([] if ids is None else [("task", ids)])):
        check_same_length(np.empty(n), given, y_name=name)
    if ids is not None and len(columns) > 1:
        raise ValueError(f"y has shape ({n}, {len(columns)}): with a task for each row it must have shape (n,)")
    found = [_read(column, kind, name) for column, kind, name in zip(columns, _kinds_of(kinds, names), names)]
    if ids is not None:
        labelled, kind, labels, values = found[0]
        tasks, codes = np.unique(ids[labelled], return_inverse=True)
        if unlabelled := sorted(set(ids.tolist()) - set(tasks.tolist())):
            raise ValueError(f"no row of task {unlabelled[0]!r} has a target")
        _warn_of_given_away(codes, values, labels, len(tasks))
        each = len(tasks)
        column = np.zeros(each, dtype=int)
        return Targets(tasks, (kind,) * each, (labels,) * each, column, np.flatnonzero(labelled), codes, values)
    row = np.concatenate([np.flatnonzero(labelled) for labelled, *_ in found])
    codes = np.repeat(np.arange(len(found)), [len(values) for *_, values in found])
    order = np.lexsort((codes, row))
    values = np.concatenate([values for *_, values in found])
    ids = np.array(names)
    return Targets(
        ids, tuple(kind for _, kind, *_ in found), tuple(labels for _, _, labels, _ in found), np.arange(len(ids)),
        row[order], codes[order], values[order], "flat" if flat else "matrix",
    )  # fmt: skip


def as_ids(task: Any) -> np.ndarray:
    """Return ids of tasks, (n,), as integers or strings, or say what is wrong with them."""
    ids = check_labels(task, "task")
    if ids.dtype.kind == "u" and (ids > np.iinfo(np.int64).max).any():
        raise ValueError("task holds an integer beyond 63 bits: use strings")
    return ids if ids.dtype.kind == "U" else ids.astype(np.int64)


def _columns(y: Any) -> tuple[list[Any], list[Any], bool]:
    """Return names and values of the columns of y, and whether it has but one dimension."""
    if y is None:
        raise ValueError("This estimator requires y to be passed, but the target y is None")
    if isinstance(y, pd.DataFrame):
        names = [name.item() if isinstance(name, np.generic) else name for name in y.columns]
        if len(set(names)) < len(names) or np.array(names).dtype.kind not in "iU" or {*map(type, names)} - {int, str}:
            raise ValueError(f"the columns of y name the tasks: different strings or integers, got {shown(names)}")
        columns = [y.iloc[:, place] for place in range(len(names))]
        if not columns or not len(y):
            raise ValueError(f"y must have shape (n,) or (n, n_tasks), got {y.shape}")
        return names, columns, False
    if isinstance(y, (pd.Series, pd.api.extensions.ExtensionArray)):
        return [0], [pd.Series(y)], True
    values = as_array(y if hasattr(y, "dtype") or not _nested(y) else np.array(y, dtype=object), "y")
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(f"y must have shape (n,) or (n, n_tasks), got {values.shape}")
    matrix = values[:, None] if values.ndim == 1 else values
    return list(range(matrix.shape[1])), list(matrix.T), values.ndim == 1


def _nested(y: Any) -> bool:
    """Whether a list holds rows, whose columns may be of different kinds."""
    return isinstance(y, (list, tuple)) and bool(y) and isinstance(y[0], (list, tuple))


def _read(column: Any, kind: str | None, name: Any) -> tuple[np.ndarray, str, np.ndarray | None, np.ndarray]:
    """Return which rows are labelled, the kind, the labels, and the targets of the labelled rows."""
    labelled = ~np.asarray(pd.isna(column if isinstance(column, pd.Series) else as_array(column, "y")))
    if not labelled.any():
        raise ValueError(f"task {name!r} has no target: all values of its column of y are missing")
    values = as_array(column[labelled], "y")  # without gaps, for which integers would become floats
    if values.dtype.kind == "O":
        types = {type(value) for value in values.tolist()}
        numbers = all(issubclass(one, (int, float, np.number, np.bool_)) for one in types)
        if not numbers and not all(issubclass(one, str) for one in types):
            found = ", ".join(sorted(one.__name__ for one in types))
            what = (
                f"y mixes kinds of targets: {found}"
                if len(types) > 1
                else f"targets must be numbers or strings: {found}"
            )
            raise TypeError(f"{what} in task {name!r}")
        values = np.array(values.tolist()) if numbers else values.astype(str)
    if values.dtype.kind not in "biufU":
        raise TypeError(f"targets must be numbers or strings, got {values.dtype}")
    if kind is None:
        few = values.dtype.kind in "iu" and len(np.unique(values)) <= MOST_CLASSES
        named = values.dtype.kind in "bU" or isinstance(getattr(column, "dtype", None), pd.CategoricalDtype)
        kind = "classification" if few or named else "regression"
    if kind == "classification":
        values = check_labels(values)
        values = values.astype(np.int64) if values.dtype.kind == "f" else values
        labels, codes = np.unique(values, return_inverse=True)
        if len(labels) < 2:
            raise ValueError(f"task {name!r} has one class only ({labels.tolist()[0]!r}): 2 are needed at least")
        if len(labels) > max(MOST_CLASSES, len(values) / 2):
            message = f"task {name!r} has {len(labels)} classes in {len(values)} rows, which are hardly to be learned"
            warnings.warn(message + (no_number(values) if values.dtype.kind == "U" else ""), stacklevel=4)
        return labelled, kind, labels, codes.astype(np.float64)
    if values.dtype.kind == "U":
        raise ValueError(f"task {name!r} is to be regression, and its targets are strings{no_number(values)}")
    numbers_ = np.zeros(len(labelled))
    numbers_[labelled] = values
    require_finite_rows(numbers_, "y")
    return labelled, kind, None, numbers_[labelled]


def no_number(texts: np.ndarray) -> str:
    """Return the first text that is no number, as the end of a message; nothing where all are, or half are not.

    Examples
    --------
    >>> no_number(np.array(["1.5", "12,50", "8"]))
    ": '12,50' is no number"
    """
    odd = pd.to_numeric(pd.Series(texts), errors="coerce").isna().to_numpy()
    return f": {shown(texts[odd][0].item(), 60)} is no number" if 0 < odd.mean() < 0.5 else ""


def _kinds_of(kinds: Any, names: Sequence[Any]) -> list[str | None]:
    """Return the kind that is said of each column, None where nothing is."""
    if kinds is None or isinstance(kinds, str):
        found = [kinds] * len(names)
    elif isinstance(kinds, Mapping):
        if unknown := [name for name in kinds if name not in names]:
            raise ValueError(f"kinds names the column {unknown[0]!r}, and y has {', '.join(map(repr, names))}")
        found = [kinds.get(name) for name in names]
    else:
        found = list(kinds) if isinstance(kinds, Sequence) else [kinds]
    if len(found) != len(names) or any(kind not in (None, *KINDS) for kind in found):
        wanted = f"{' or '.join(map(repr, KINDS))}, for all columns of y or for each of its {len(names)}"
        raise ValueError(f"kinds must be {wanted}, got {shown(kinds)}")
    return found


def _warn_of_given_away(codes: np.ndarray, values: np.ndarray, labels: np.ndarray | None, n_tasks: int) -> None:
    """Warn where the task alone says the label."""
    pairs = len(np.unique(np.stack([codes, values]), axis=1).T)
    if labels is not None and n_tasks > 1 and pairs == n_tasks < len(codes):
        warnings.warn("Every task has one class: the task alone says the label, and X is not needed.", stacklevel=4)
