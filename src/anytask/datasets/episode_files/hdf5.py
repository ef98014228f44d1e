"""What the layouts in HDF5 share: one episode in one group, and images that stay in the file."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.errors import BadData
from anytask.core.files import require_regular
from anytask.core.memory import require_room
from anytask.datasets.archives import opened_image
from anytask.datasets.episode_files.common import reading
from anytask.datasets.episodes import OBSERVATION, Episode, Episodes

#: Images of at least this many bytes in all stay in their file.
LAZY_BYTES = 256 * 2**20


def h5py() -> Any:
    """Return the package, or say how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install 'anytask[control]'") from error
    return h5py


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file for reading."""
    require_regular(path)
    try:
        file = h5py().File(path, "r")
    except OSError as error:
        raise BadData(f"{path}: not a readable HDF5 file ({error})") from error
    with file:
        yield file


class StoredRows:
    """Rows of uint8 images that stay in HDF5 files; ``rows[i]`` reads those that are asked for.

    Parameters
    ----------
    pieces : list of (path, data set, rows)
        Where the rows lie, one piece per episode, and how many of the first rows of it count.
    shape : tuple of int
        Of one row.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, pieces: list[tuple[Path, str, int]], shape: tuple[int, ...]) -> None:
        self.pieces = pieces
        self._borders = np.concatenate([[0], np.cumsum([n for _, _, n in pieces])]).astype(np.int64)
        self.shape = (int(self._borders[-1]), *shape)
        self._files: dict[Path, Any] = {}

    @classmethod
    def joined(cls, parts: Sequence[StoredRows]) -> StoredRows:
        """Return the rows of several, one after another."""
        return cls([piece for part in parts for piece in part.pieces], parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # an open file does not travel to other processes

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, tuple):
            raise TypeError("images in a file are read by whole rows")
        wanted = np.arange(len(self))[rows]
        flat = wanted.reshape(-1)
        out = np.empty((len(flat), *self.shape[1:]), dtype=self.dtype)
        piece_of = np.searchsorted(self._borders, flat, side="right") - 1
        for p in np.unique(piece_of):
            here = np.flatnonzero(piece_of == p)
            local, back = np.unique(flat[here] - self._borders[p], return_inverse=True)  # h5py wants rising rows
            path, name, _ = self.pieces[p]
            with reading(f"{path}, {name}"):
                if path not in self._files:
                    self._files[path] = h5py().File(path, "r")
                stored = self._files[path][name]
                span = slice(int(local[0]), int(local[-1]) + 1)
                dense = span.stop - span.start <= 2 * len(local)
                out[here] = (stored[span][local - local[0]] if dense else stored[local])[back]
        return out.reshape(*wanted.shape, *self.shape[1:])


def require_declared(path: Path, group: Any) -> None:
    """Refuse data sets that declare more than fits into memory, or that lie in other files.

    HDF5 allocates what a data set declares, whether or not the file holds it. Of images, which may stay in the file,
    and of ``next_obs`` one row is counted, and the largest chunk, which is the least that HDF5 unpacks.
    """
    needed, chunk = 0, 0
    for name, value in _leaves(group).items():
        if value.external or value.is_virtual or value.file != group.file:
            raise BadData(f"{path}, {name}: the values lie in another file, which is not followed")
        by_row = _is_images(value) or "/next_obs/" in f"/{name}"
        needed += value.nbytes // (max(1, len(value)) if by_row else 1)
        chunk = max(chunk, math.prod(value.chunks or ()) * value.dtype.itemsize)
    require_room(path, needed + chunk)


def numbered(group: Mapping[str, Any], stem: str) -> list[str]:
    """Return the members ``stem_0``, ``stem_1``, ... in the order of their numbers, or say that there are none."""
    names = [name for name in group if re.fullmatch(rf"{stem}_\d+", name)]
    if not names:
        raise ValueError(f"there is no {stem}_0, {stem}_1, ...; it holds {', '.join(group) or 'nothing'}")
    return sorted(names, key=lambda name: int(name.rpartition("_")[2]))


def read_episode(path: Path, group: Any, seen: str, rows_after: int, facts: Mapping[str, Any]) -> Episode:
    """Read one episode.

    Parameters
    ----------
    path, group
        The file, and where the episode lies in it.
    seen : str
        Name of the observations.
    rows_after : {0, 1}
        Rows of observations beyond the number of actions; where there are none, ``next_obs`` may hold the last one.
    facts : mapping
        On this episode.
    """
    for need in (seen, "actions"):
        if need not in group:
            raise ValueError(f"{need} is missing; it holds {', '.join(group) or 'nothing'}")
    if hasattr(group["actions"], "items"):
        raise ValueError("actions of several parts are not supported")
    actions = group["actions"][()]
    n = len(actions)
    rows: dict[str, Any] = {}
    final: dict[str, Any] = {}
    after = _leaves(group["next_obs"]) if "next_obs" in group else {}
    for key, value in _leaves(group[seen]).items():
        if len(value) != n + rows_after:
            raise ValueError(f"{len(value)} rows of {seen}/{key} and {n} actions: {n + rows_after} are wanted")
        if _is_images(value) and n:
            rows[key], final[key] = StoredRows([(path, value.name, n)], value.shape[1:]), after.get(key, value)[-1]
        else:
            rows[key] = _decoded(value[()], f"{path}: {value.name}")
            if key in after and n:
                final[key] = after[key][-1]
    ended = _flag(group, ("terminated", "terminations", "dones"), n, False)
    limited = _flag(group, ("truncated", "truncations"), n, not ended)
    rewards = group["rewards"][()] if "rewards" in group else None
    return Episode(rows, actions, rewards, ended, limited, facts, final)


def assembled(
    path: Path, episodes: list[Episode], attributes: Mapping[str, Any], names: list[str], lazy: bool | None
) -> Episodes:
    """Return the data set; images that need not stay in the file are read now."""
    together = Episodes.from_list(episodes, attributes, names=names)
    images = {key: value for key, value in together.observations.items() if isinstance(value, StoredRows)}
    sizes = {key: math.prod(value.shape) for key, value in images.items()}
    now = [key for key, size in sizes.items() if (size < LAZY_BYTES if lazy is None else not lazy)]
    require_room(path, sum(sizes[key] for key in now))
    return replace(together, observations={**together.observations, **{key: images[key][:] for key in now}})


def facts_of(attributes: Mapping[str, Any], skip: tuple[str, ...]) -> dict[str, Any]:
    """Return those attributes of a group that are single numbers or texts."""
    out: dict[str, Any] = {}
    for name, value in attributes.items():
        value = value.decode() if isinstance(value, bytes) else value
        value = value.item() if isinstance(value, np.generic) else value
        if name not in skip and isinstance(value, (bool, int, float, str)):
            out[name] = value
    return out


def write_facts(group: Any, facts: Mapping[str, np.ndarray], i: int) -> None:
    """Write the facts on episode ``i`` as attributes of its group."""
    for name, values in facts.items():
        group.attrs[name] = str(values[i]) if values.dtype.kind == "U" else values[i]


def write(group: Any, name: str, values: Any, **options: Any) -> None:
    """Write a data set with checksums, which HDF5 compares when it is read."""
    group.create_dataset(name, data=values, fletcher32=True, **options)


def at_last(n: int, flag: bool) -> np.ndarray:
    """Return ``n`` booleans of which only the last may be True."""
    return (np.arange(n) == n - 1) & flag


def _leaves(group: Any, prefix: str = "") -> dict[str, Any]:
    """All data sets below a group, by their path; a data set itself has the key of a plain observation."""
    if not hasattr(group, "items"):
        return {OBSERVATION: group}
    out: dict[str, Any] = {}
    for name, item in group.items():
        out |= _leaves(item, f"{prefix}{name}/") if hasattr(item, "items") else {f"{prefix}{name}": item}
    return out


def _is_images(value: Any) -> bool:
    return value.dtype == np.uint8 and value.ndim == 4


def _flag(group: Any, names: Sequence[str], n: int, otherwise: bool) -> bool:
    """Return the last entry of the first of these arrays that is there."""
    for name in names:
        if name in group:
            if len(group[name]) != n:
                raise ValueError(f"{len(group[name])} rows of {name} and {n} actions")
            return bool(n and group[name][-1])
    return otherwise


def _decoded(stored: np.ndarray, where: str) -> np.ndarray:
    """Decode images that are stored as JPEG files, one per row; other arrays come back as they are."""
    is_jpeg = stored.ndim in (1, 2) and stored.dtype in (np.uint8, object) and len(stored) and len(stored[0]) > 3
    if not is_jpeg or bytes(np.asarray(stored[0][:3], dtype=np.uint8)) != b"\xff\xd8\xff":
        return stored

    def image(row: Any) -> np.ndarray:
        with opened_image(io.BytesIO(bytes(np.asarray(row, np.uint8))), where, 4 * len(stored)) as opened:
            return np.asarray(opened)

    return np.stack([image(row) for row in stored])
