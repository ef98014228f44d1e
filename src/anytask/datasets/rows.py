"""What every reader of labelled data gives back, and how its rows are gone through."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from anytask.datasets.labels import Locate, row_number

if TYPE_CHECKING:
    from anytask.datasets.encoding import TableEncoding

_BLOCK_BYTES = 1 << 24


class Rows(Protocol):
    """Inputs, in memory or not: a shape, a length, and float32 rows for an array of indices."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, \\*input_shape)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> np.ndarray: ...


@dataclass
class Parts:
    """Inputs, labels and what else each row has, as they were read.

    ``digest`` is the hash of the inputs where it was taken; ``locate`` names the place of a row; with ``label_names``,
    ``y`` is a matrix of zeros and ones with a column for each.
    """

    X: Rows
    y: np.ndarray
    task: np.ndarray | None = None
    group: np.ndarray | None = None
    kind: str = "array"
    target: str = "labels"
    notes: list[str] = field(default_factory=list)
    encoding: TableEncoding | None = None
    feature_names: tuple[str, ...] | None = None
    digest: bytes | None = None
    weights: np.ndarray | None = None
    locate: Locate = row_number
    label_names: np.ndarray | None = None


def blocks(X: Rows) -> Iterator[tuple[int, np.ndarray]]:
    """Go through ``X`` in blocks of rows of about 16 MB: (index of the first row, rows)."""
    size = max(1, _BLOCK_BYTES // max(1, 4 * int(np.prod(X.shape[1:]))))
    for start in range(0, len(X), size):
        yield start, X[start : start + size]


def near(name: str, names: Sequence[str]) -> str:
    """Return ", did you mean ...?" in brackets, or nothing."""
    lower = {candidate.lower(): candidate for candidate in names}
    found = [lower[match] for match in difflib.get_close_matches(name.lower(), list(lower), n=2)]
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""
