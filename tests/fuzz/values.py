"""Values that nobody meant, what mistakes make of good values, and the same values in other clothes."""

from __future__ import annotations

import datetime
import decimal
import fractions
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from hypothesis import strategies as st

WORDS = [
    "", " ", "\x00", "\x1b[31mred", "a\nb", "nan", "None", "-1", "0", "1e400", "../x", "/", "~", "café", "\ud800",
    "٣", "\u202e", "x" * 3000, "[red]", "{a}", "%s", "all", "auto", "cpu", "cuda:99", "http://127.0.0.1:9/x",
]  # fmt: skip

#: Values that no parameter means, or that few do.
HARD: list[Callable[[], Any]] = [
    *(lambda value=value: value for value in (
        None, True, False, 0, 1, -1, 2, 3, 10**9, 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 0.5, -1.5, 1e-320, 1e300,
        math.nan, math.inf, -math.inf, 1j, b"", b"x", (), "x", Ellipsis, int, range(3), slice(None),
    )),
    *(lambda word=word: word for word in WORDS),
    object, list, dict, set, lambda: [None], lambda: {"x": 1}, lambda: {1: 2}, lambda: [1, "a"], lambda: [[1], [1, 2]],
    lambda: (lambda *args, **kwargs: None), lambda: iter([1, 2]), lambda: (i for i in range(2)),
    lambda: frozenset("a"),
    lambda: Path("nowhere"), lambda: np.float32("nan"), lambda: np.int64(3), lambda: np.bool_(True),
    lambda: np.str_("a"),
    lambda: np.zeros(0), lambda: np.zeros(3), lambda: np.zeros((2, 0)), lambda: np.zeros((2, 3, 4, 5, 6)),
    lambda: np.array(5.0), lambda: np.array([None, 1], dtype=object), lambda: np.array(["a", "b"]),
    lambda: np.array(["2020-01-01"], dtype="datetime64[D]"), lambda: np.zeros(2, dtype=[("a", int)]),
    lambda: np.ma.masked_array([1.0, 2.0], [True, False]), lambda: np.full((3, 4), np.nan),
    lambda: torch.zeros(0), lambda: torch.zeros(2, 3).to_sparse(), lambda: torch.zeros(2, 3, device="meta"),
    lambda: torch.tensor(3), lambda: torch.ones(2, 2, dtype=torch.complex64), lambda: torch.ones(3, requires_grad=True),
    lambda: torch.ones(2, dtype=torch.bool), lambda: pd.Series([1, None]), lambda: pd.DataFrame({"a": [1]}),
    lambda: pd.NA, lambda: pd.Timestamp(0), lambda: scipy.sparse.eye(3).tocsr(), lambda: torch.nn.Linear(2, 2),
    lambda: decimal.Decimal("1"), lambda: fractions.Fraction(1, 3), lambda: datetime.date(2020, 1, 1),
    lambda: torch.Generator(), lambda: np.random.default_rng(0), lambda: torch.device("cpu"), lambda: ValueError("x"),
]  # fmt: skip

_plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=4))
ODD = st.one_of(
    st.sampled_from(HARD).map(lambda make: make()),
    _plain,
    st.recursive(_plain, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=3), s, max_size=3)),
)


def shown(value: Any, room: int = 60) -> str:
    """Return a value in a few characters, for the report."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"{type(value).__name__}{list(value.shape)}:{value.dtype}"
    if isinstance(value, (pd.DataFrame, pd.Series)):
        return f"{type(value).__name__}{list(value.shape)}"
    try:
        text = ascii(value)
    except Exception as error:
        text = f"<{type(value).__name__} without a repr: {error}>"
    return text if len(text) <= room else f"{text[: room - 3]}..."


def spoiled(call: Any, value: Any) -> Any:
    """Return what a mistake makes of a good value."""
    if isinstance(value, torch.Tensor):
        made = spoiled(call, value.detach().cpu().numpy())
        return torch.from_numpy(made) if isinstance(made, np.ndarray) and made.dtype.kind in "biuf" else made
    if isinstance(value, np.ndarray):
        return _spoiled_array(call, value)
    if isinstance(value, (bool, np.bool_)):
        return call.draw(ODD)
    if isinstance(value, (int, np.integer)):
        return call.pick([0, -1, int(value) - 1, int(value) + 1, 10**6, 2**63, float(value), str(value), -(10**400)])
    if isinstance(value, float):
        return call.pick([0.0, -1.0, math.nan, math.inf, 1e-320, 1e300, -value, str(value), [value]])
    if isinstance(value, str):
        cut = call.draw(st.integers(0, len(value)))
        return call.pick(
            ["", value + " ", value.upper(), value[:cut], value + "\x00", value.encode(), [value], 9 * value]
        )
    if isinstance(value, Mapping) and value:
        key, rest = next(iter(value)), dict(value)
        kept = rest.pop(key)
        inner = spoiled(call, kept) if call.chance(0.5) else call.draw(ODD)
        return call.pick([rest, {**rest, f"{key}x": kept}, {**rest, key: inner}, list(value.items()), {}])
    if isinstance(value, (list, tuple)) and value:
        i, kind = call.draw(st.integers(0, len(value) - 1)), type(value)
        inner = spoiled(call, value[i]) if call.chance(0.6) else call.draw(ODD)
        changed = [*value[:i], inner, *value[i + 1 :]]
        if hasattr(value, "_fields"):
            return tuple(changed)
        return call.pick([kind(changed), value[:i], kind([*value, value[i]]), kind(), set(map(repr, value)), value[i]])
    return call.draw(ODD)


def _spoiled_array(call: Any, value: np.ndarray) -> Any:
    value = np.atleast_1d(value)

    def with_entry(entry: Any) -> np.ndarray:
        out = value.astype(object if isinstance(entry, str) or entry is None else np.float64)
        if out.size:
            out.flat[int(call.rng.integers(out.size))] = entry
        return out

    ways: list[Callable[[], Any]] = [
        lambda: value[:0], lambda: value[:1], lambda: value[:-1], lambda: value[None], lambda: value[..., None],
        lambda: value.T, lambda: value.ravel(), lambda: value[0] if len(value) else value,
        lambda: np.concatenate([value] * 2),
        lambda: np.full_like(value, value.flat[0]) if value.size else value, lambda: value.astype(object),
        lambda: [*value.tolist()[:-1], None], lambda: value.astype(str), lambda: value.tolist(), lambda: None,
    ]  # fmt: skip
    if value.dtype.kind in "biuf":
        ways += [
            *(lambda entry=entry: with_entry(entry) for entry in (np.nan, np.inf, -np.inf, "x", None, 1e300, 0.5)),
            lambda: value * -1.0,
            *(lambda scale=scale: value.astype(np.float64) * scale for scale in (1e6, 1e20, 1e30, 1e38)),
            lambda: value + 1j, lambda: value > 0,
            lambda: np.ma.masked_array(value, np.arange(value.size).reshape(value.shape) == 1),
            lambda: value[..., :-1] if value.ndim > 1 else value, lambda: torch.from_numpy(value.copy()).to("meta"),
            lambda: scipy.sparse.csr_matrix(value.reshape(len(value), -1)) if len(value) else value,
        ]  # fmt: skip
    return call.pick(ways)()


#: The same numbers in other clothes: what a model learns from these is what it learns from the plain array.
CLOTHES: dict[str, Callable[[np.ndarray], Any]] = {
    "float64": lambda a: a.astype(np.float64),
    "list": lambda a: a.tolist(),
    "objects": lambda a: a.astype(object),
    "column-major": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "read-only": lambda a: np.broadcast_to(a, a.shape),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "masked array without masked values": np.ma.masked_array,
    "tensor": lambda a: torch.from_numpy(a.copy()),
    "tensor with gradients": lambda a: torch.from_numpy(a.astype(np.float32)).requires_grad_(),
    "pandas": lambda a: pd.DataFrame(a, index=[7] * len(a)) if a.ndim == 2 else a,
}


def numbers_in(value: Any, place: str = "answer", depth: int = 4) -> Any:
    """Give (place, array) for the numbers of an answer: arrays, tensors, tables, containers, fields of results."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and value.layout is torch.strided and value.device.type != "meta":
            yield place, value.detach().float().cpu().numpy()
    elif isinstance(value, np.ndarray):
        if value.dtype.kind == "f":
            yield place, value
    elif isinstance(value, (float, np.floating)):
        yield place, np.asarray(value)
    elif depth and isinstance(value, Mapping):
        for key, inner in value.items():
            yield from numbers_in(inner, f"{place}[{shown(key, 20)}]", depth - 1)
    elif depth and isinstance(value, (list, tuple)):
        for i, inner in enumerate(value[:50]):
            yield from numbers_in(inner, f"{place}[{i}]", depth - 1)


def same(a: Any, b: Any) -> bool:
    """Whether two answers are the same, NaN for NaN."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and same(a.detach().cpu().numpy(), b.detach().cpu().numpy())
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, (pd.DataFrame, pd.Series)):
        return type(a) is type(b) and a.equals(b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if hasattr(a, "__dict__") and not callable(a):
        return type(a) is type(b) and same(vars(a), vars(b))
    return bool(a is b or a == b)
