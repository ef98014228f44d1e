"""Arrays in memory and in .npy and .npz files, mapped in place where they are numbers saved uncompressed."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.errors import BadData, one_line
from anytask.core.files import require_regular
from anytask.core.memory import require_room
from anytask.datasets.archives import Npz, opened_npz
from anytask.datasets.images import ImageFiles
from anytask.datasets.labels import as_labels, as_matrix, as_weights, row_number
from anytask.datasets.rows import Parts, Rows, near


@dataclass(frozen=True)
class MappedArray:
    """An array that stays in its file; ``array[indices]`` reads those rows alone, as float32.

    Pickling it pickles the path, never the content. With ``images``, uint8 rows (height, width) or
    (height, width, channels) come out as (channels, height, width) in [0, 1].
    """

    path: str
    offset: int
    file_shape: tuple[int, ...]
    dtype: str
    fortran: bool = False
    images: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the rows look like when they are read."""
        return _image_shape(self.file_shape) if self.images else self.file_shape

    def __len__(self) -> int:
        return self.file_shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        order: Any = "F" if self.fortran else "C"
        on_disk = np.memmap(self.path, np.dtype(self.dtype), "r", self.offset, self.file_shape, order)
        rows = np.asarray(on_disk[index])
        return as_images(rows) if self.images else rows.astype(np.float32)


def read_arrays(arrays: tuple[Any, ...], several: bool = False) -> Parts:
    """Return a tuple (X, y) or (X, y, task); masked values are missing.

    Where there may be ``several`` labels, y may be a matrix of zeros and ones.
    """
    if len(arrays) not in (2, 3):
        raise BadData(f"a tuple of data is (X, y) or (X, y, task), got {len(arrays)} items")
    X, y, *rest = arrays
    rows: Any = X if isinstance(X, (np.memmap, MappedArray, ImageFiles)) else np.asanyarray(X)
    return _from_parts(
        "arrays", _mapped(rows), [("y", np.asanyarray(y)), *(("task", np.asanyarray(task)) for task in rest)], several
    )


def read_npz(
    path: Path, target: str | None, task: str | None, group: str | None, weights: str | None, several: bool = False
) -> Parts:
    """Return the arrays ``X``, ``y`` (or ``target``), ``task`` and those that are named."""
    with opened_npz(path) as archive:
        keys = list(archive.arrays)
        task = "task" if task is None and "task" in keys else task
        names = ("y" if target is None else target, task, group, weights)
        chosen = [name for name in names if name]
        for key in ("X", *chosen):
            if key not in keys:
                raise BadData(f"{path}: no array {key!r}{near(key, keys)}; its arrays: {', '.join(keys) or 'none'}")
        X: Any = _map_member(archive, "X")
        whole = archive.read(*chosen, *(["X"] if X is None else []))
        labels = dict(zip(chosen, whole))
    return _from_parts(
        str(path), whole[-1] if X is None else X, [(name or "", labels[name] if name else None) for name in names],
        several,
    )  # fmt: skip


def read_npy(
    path: Path, target: str | None, task: str | None, group: str | None, weights: str | None, several: bool = False
) -> Parts:
    """Return the array of a file, with the labels of the file beside it."""
    if target is None:
        stem = re.sub(r"[Xx]$", "y", path.stem)
        if stem == path.stem:
            raise BadData(f"{path}: name the file with the labels (target=...); y.npy is found beside X.npy by itself")
        target = f"{stem}.npy"
    files = (target, task, group, weights)
    labels = [(name or "", _in_memory(path.parent / name) if name else None) for name in files]
    return _from_parts(str(path), _mapped(_load_npy(path)), labels, several)


def _mapped(rows: Any) -> Any:
    """Return a whole map by the name of its file, so that it is not copied into memory when it goes to a worker."""
    whole = isinstance(rows, np.memmap) and isinstance(rows.base, mmap.mmap) and rows.filename is not None
    if not whole or rows.dtype.kind not in "biuf" or not rows.ndim or not rows.flags.forc:
        return rows
    return MappedArray(str(rows.filename), int(rows.offset), rows.shape, rows.dtype.str, not rows.flags.c_contiguous)


def read_inputs(path: Path) -> np.ndarray:
    """Return the array of a .npy file, or ``X`` of a .npz file."""
    if path.suffix.lower() == ".npy":
        return _in_memory(path)
    with opened_npz(path) as archive:
        if "X" not in archive.arrays:
            raise BadData(f"{path}: no array 'X'; its arrays: {', '.join(archive.arrays) or 'none'}")
        return archive.read("X")[0]


def _load_npy(path: Path) -> np.memmap:
    require_regular(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:
        raise BadData(f"{path}: not a readable .npy file ({one_line(error)})") from error


def _in_memory(path: Path) -> np.ndarray:
    array = _load_npy(path)
    require_room(path, array.nbytes + 4 * array.size)
    return np.asarray(array)


def _map_member(archive: Npz, name: str) -> MappedArray | None:
    """Map one array of an uncompressed .npz file in place; None if it is compressed or not numeric."""
    offset, header = archive.offset(name), archive.header(name)
    if offset is None or header.dtype.kind not in "biuf" or 0 in header.shape or not header.shape:
        return None
    fortran = header.fortran and len(header.shape) > 1
    return MappedArray(str(archive.path), offset + header.start, header.shape, header.dtype.str, fortran)


def _from_parts(where: str, X: Any, named: list[tuple[str, np.ndarray | None]], several: bool = False) -> Parts:
    """Check X against labels, tasks, groups and weights, each with its name; put uint8 images into channels first."""
    dtype = np.dtype(X.dtype) if not isinstance(X, ImageFiles) else np.dtype(np.float32)
    if dtype.kind not in "biuf":
        raise BadData(f"{where}: X must hold numbers, got {dtype}")
    if len(X.shape) < 2:
        raise BadData(f"{where}: X must have the shape (n, features...), got {tuple(X.shape)}")
    if 0 in X.shape:
        raise BadData(f"{where}: X is empty, its shape is {tuple(X.shape)}")
    names, Y = None, named[0][1]
    if several and Y is not None and Y.ndim == 2 and Y.shape[1] > 1 and len(Y) == len(X):
        names = np.arange(Y.shape[1])
        columns = [as_labels(column, where, named[0][0]) for column in Y.T]
        matrix = as_matrix(columns, names.tolist(), where, row_number)
        named = [(named[0][0], matrix[:, 0]), *named[1:]]
    for what, array in named:
        if array is not None and array.shape != (len(X),) and array.shape != (len(X), 1):
            raise BadData(f"{where}: X has {len(X)} rows, and {what} has the shape {array.shape}: give one per row")
    notes = []
    images = dtype == np.uint8 and len(X.shape) in (3, 4)
    rows: Rows = X
    if images:
        notes.append("uint8 images were divided by 255 and put into the order (channels, height, width).")
        if np.ma.is_masked(X):
            raise BadData(f"{where}: X holds images with masked pixels; fill them")
        rows = replace(X, images=True) if isinstance(X, MappedArray) else as_images(np.ma.getdata(X))
    elif not isinstance(X, (MappedArray, ImageFiles)):
        with np.errstate(over="ignore"):  # what is too large for float32 is found as infinite
            rows = np.asarray(np.ma.filled(X.astype(np.float32), np.nan))
    read = [
        None if array is None else as_labels(array.reshape(-1), where, name, what=what)
        for (name, array), what in zip(named, ("labels", "tasks", "groups"))
    ]
    y, task, group = [*read, None, None][:3]
    assert y is not None
    name, array = named[3] if len(named) > 3 else ("", None)
    weights = None if array is None else as_weights(array.reshape(-1), where, name)
    kind = "images" if images or isinstance(X, ImageFiles) else "table" if len(X.shape) == 2 else "array"
    y = y if names is None else matrix
    return Parts(rows, y, task, group, kind, named[0][0], notes, weights=weights, label_names=names)


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 3:
        return (shape[0], 1, *shape[1:])
    return (shape[0], shape[3], shape[1], shape[2]) if _channels_last(shape) else shape


def _channels_last(shape: tuple[int, ...]) -> bool:
    return shape[-1] in (1, 3, 4) and shape[-3] not in (1, 3, 4)


def as_images(rows: np.ndarray) -> np.ndarray:
    """Turn uint8 (n, height, width) or (n, height, width, channels) into float32 (n, channels, height, width)."""
    values = rows.astype(np.float32) / np.float32(255)
    if values.ndim == 3:
        return values[:, None]
    return np.ascontiguousarray(np.moveaxis(values, -1, 1)) if _channels_last(rows.shape) else values
