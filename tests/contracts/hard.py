"""Inputs of every kind, for the contract of every family: data in other clothes, and data that nobody can use.

A spoiled input or label comes with what the error says of it, in one line.
"""

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

Spoil = Callable[[np.ndarray], object]


def with_value(row: int, value: float) -> Spoil:
    """Return what puts a value into the last entry of a row."""

    def spoil(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x.reshape(len(x), -1)[row, -1] = value
        return x

    return spoil


def masked(a: np.ndarray) -> np.ndarray:
    return np.ma.masked_array(a, np.arange(a.size).reshape(a.shape) == 6)


#: What inputs (n, ...), n >= 8, are made into.
BAD_INPUTS: dict[str, tuple[Spoil, str]] = {
    "empty": (lambda x: x[:0], "0 sample"),
    "no features": (lambda x: x.reshape(len(x), -1)[:, :0], "0 feature"),
    "nan": (with_value(5, np.nan), "row 5"),
    "inf": (with_value(7, np.inf), "row 7"),
    "one dimension": (lambda x: x.reshape(len(x), -1)[:, 0], "shape"),
    "no dimension": (lambda x: np.float32(1), "shape"),
    "sparse": (lambda x: scipy.sparse.csr_matrix(x.reshape(len(x), -1)), "sparse"),
    "sparse tensor": (lambda x: torch.from_numpy(x).to_sparse(), "dense tensor"),
    "meta tensor": (lambda x: torch.from_numpy(x).to("meta"), "holds values"),
    "nested tensor": (
        lambda x: torch.nested.nested_tensor(list(torch.from_numpy(x)), layout=torch.jagged),
        "got nested",
    ),
    "masked": (masked, "X is a masked array with masked values"),
    "complex": (lambda x: x + 1j, "Complex"),
    "complex tensor": (lambda x: torch.from_numpy(x) + 1j, "Complex"),
    "nothing": (lambda x: None, "X must"),
    "an object": (lambda x: object(), "X must"),
    "ragged": (lambda x: [row.ravel()[: 1 + i % 3].tolist() for i, row in enumerate(x)], "one shape"),
    "dates": (lambda x: np.full(x.shape, np.datetime64("2020-01-01")), "numeric"),
    "words": (lambda x: np.full(x.shape, "a"), "numeric"),
    "too large": (lambda x: x.astype(float) * 1e300, "infinity"),
    "objects that are no numbers": (lambda x: np.full(x.shape, {}, dtype=object), "numeric"),
    "missing values": (lambda x: pd.DataFrame(x.reshape(len(x), -1)).astype("Float64").mask(lambda f: f > 0), "NaN"),
}
#: What labels (n,), 0 and 1 among them, are made into.
BAD_LABELS: dict[str, tuple[Spoil, str]] = {
    "lengths": (lambda y: y[:-1], "rows and y has"),
    "no dimension": (lambda y: np.float32(1), "shape"),
    "two columns": (lambda y: np.stack([y, y], 1), "shape"),
    "mixed": (lambda y: np.array(["a", *y[1:].tolist()], dtype=object), "mixes kinds"),
    "continuous": (lambda y: y + 0.5, "continuous"),
    "nan": (lambda y: np.where(np.arange(len(y)) == 3, np.nan, y), "row 3"),
    "masked": (masked, "y is a masked array with masked values"),
    "sparse": (lambda y: torch.from_numpy(y).to_sparse(), "y must be a dense tensor"),
    "meta": (lambda y: torch.from_numpy(y).to("meta"), "y must be a dense tensor"),
    "missing": (lambda y: pd.array([None, *y[1:]], dtype="Int64"), "y contains NaN .* row 0"),
    "complex": (lambda y: y + 1j, "Complex"),
    "dates": (lambda y: np.full(y.shape, np.datetime64("2020-01-01")), "labels must be integers or strings"),
    "None": (lambda y: np.array([*y[:3], None, *y[4:]], dtype=object), "NaN or None in row 3"),
    "floats that are no integers": (lambda y: np.where(np.arange(len(y)) == 3, 1e200, y), r"\[3\] is a float beyond"),
    "integers that are too large": (lambda y: np.array([2**70, *y[1:].tolist()], dtype=object), "beyond 64 bits"),
}
#: The same labels, 0 and 1, in other clothes.
SAME_LABELS: dict[str, Callable[[np.ndarray], object]] = {
    "categories": lambda y: pd.Series(y, index=[7] * len(y), dtype="category"),
    "a categorical": pd.Categorical,
    "integers with room for gaps": lambda y: pd.array(y.tolist(), dtype="Int64"),
    "objects": lambda y: y.astype(object),
    "half precision": lambda y: y.astype(np.float16),
    "unsigned": lambda y: y.astype(np.uint64),
}
#: The same numbers in other clothes; what is asked of them is exact in half precision.
SAME: dict[str, Callable[[np.ndarray], object]] = {
    "float64": lambda a: a.astype(np.float64),
    "big-endian": lambda a: a.astype(np.dtype(np.float64).newbyteorder(">")),
    "list": lambda a: a.tolist(),
    "objects": lambda a: a.astype(object),
    "column-major": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "read-only": lambda a: np.broadcast_to(a, a.shape),
    "masked array without masked values": np.ma.masked_array,
    "tensor": torch.from_numpy,
    "tensor in float64": lambda a: torch.from_numpy(a).double(),
    "tensor with gradients": lambda a: torch.from_numpy(a).float().requires_grad_(),
    "half precision": lambda a: a.astype(np.float16),
    "tensor in half precision": lambda a: torch.from_numpy(a).bfloat16(),
    "pandas with one index for all rows": lambda a: pd.DataFrame(a, index=[7] * len(a)).squeeze(axis=1),
}


class Text(str):
    """A text of a class of its own."""

    def __str__(self):
        return "what a text of a class of its own shows"


def _odd(values, **how):
    return pd.Series(list(values), index=[7] * len(values), **how)


#: The same texts in other clothes.
SAME_TEXTS: dict[str, Callable[[list[str]], object]] = {
    "tuple": tuple,
    "deque": collections.deque,
    "iterator": iter,
    "generator": lambda texts: (text for text in texts),
    "values of a mapping": lambda texts: dict(enumerate(texts)).values(),
    "array of fixed width": np.array,
    "array of objects": lambda texts: np.array(texts, dtype=object),
    "array of strings of any length": lambda texts: np.array(texts, dtype=np.dtypes.StringDType()),
    "strided": lambda texts: np.repeat(np.array(texts), 2)[::2],
    "backwards": lambda texts: np.array(texts[::-1])[::-1],
    "masked array without masked values": lambda texts: np.ma.masked_array(np.array(texts)),
    "pandas with one index for all rows": _odd,
    "pandas backwards": lambda texts: pd.Series(texts[::-1])[::-1],
    "pandas strings": lambda texts: _odd(texts, dtype="string"),
    "pandas categories": lambda texts: _odd(texts, dtype="category"),
    "pandas index": pd.Index,
    "texts of another class": lambda texts: [Text(text) for text in texts],
}
#: What a list of texts is made into that is no sequence of texts any more.
NO_TEXTS: dict[str, Callable[[list[str]], object]] = {
    "one text": lambda texts: texts[0],
    "nothing": lambda texts: None,
    "a number": lambda texts: 3,
    "numbers": lambda texts: list(range(len(texts))),
    "bytes": lambda texts: b"a text",
    "array of bytes": lambda texts: np.array([text.encode() for text in texts]),
    "set": set,
    "mapping": lambda texts: dict.fromkeys(texts, 1),
    "table": lambda texts: pd.DataFrame({"text": texts, "label": texts}),
    "one column of a table": lambda texts: pd.DataFrame({"text": texts}),
    "array of two dimensions": lambda texts: np.array(texts)[:, None],
    "array without a dimension": lambda texts: np.array(texts[0]),
    "nested lists": lambda texts: [[text] for text in texts],
    "None among them": lambda texts: [*texts[:-1], None],
    "NaN among them": lambda texts: pd.Series([*texts[:-1], np.nan], dtype=object),
    "NA among pandas strings": lambda texts: _odd([*texts[:-1], None], dtype="string"),
    "NA among categories": lambda texts: _odd([*texts[:-1], None], dtype="category"),
    "masked": lambda texts: np.ma.masked_array(np.array(texts), np.arange(len(texts)) == 1),
    "sparse matrix": lambda texts: scipy.sparse.eye_array(len(texts)).tocsr(),
    "tensor": lambda texts: torch.ones(len(texts)),
}
BAD_TEXTS = {kind: (spoil, ".{20}") for kind, spoil in NO_TEXTS.items()}


def refused(call: Callable[[object], object], given: Any, bad: dict[str, tuple[Callable[[Any], object], str]]) -> None:
    """Give ``call`` everything that is bad: each time one line says why."""
    for kind, (spoil, says) in bad.items():
        with pytest.raises((ValueError, TypeError), match=says) as error:
            call(spoil(given))
        assert "\n" not in str(error.value), kind


def same(a: object, b: object) -> bool:
    """Whether two trees of arrays and tensors are bit-identical."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
