"""What all formats share: errors that say where, facts on episodes, and files that are there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.errors import BadData
from anytask.core.files import require_regular
from anytask.core.memory import require_room
from anytask.datasets.episodes import Episodes


@contextmanager
def reading(place: object) -> Iterator[None]:
    """Say where it was, whatever goes wrong in reading a file; the innermost place counts."""
    try:
        yield
    except (BadData, ImportError, MemoryError):
        raise
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise BadData(f"{place}: {f'{what} is missing' if isinstance(error, KeyError) else what}") from error


def read_text(path: Path) -> str:
    """Return the text of a file that fits into memory."""
    require_room(path, require_regular(path))
    with reading(path):
        return path.read_text(encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds."""
    text = read_text(path)
    with reading(path):
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"a JSON object is wanted, it holds a {type(content).__name__}")
        return content


def split_attributes(episodes: Episodes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the facts on all episodes (checked to be JSON), and those per episode."""
    single = {k: v for k, v in episodes.attributes.items() if episodes._per_episode(v)}
    whole = {k: v for k, v in episodes.attributes.items() if k not in single}
    for name, value in whole.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise TypeError(f"attribute {name!r} cannot be saved: {error}") from error
    for name, array in single.items():
        if array.dtype.kind not in "fiubU":
            raise TypeError(f"attribute {name!r} cannot be saved: it holds {array.dtype}")
    return whole, single
