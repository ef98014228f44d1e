"""Arrays in memory and in .npy and .npz files, mapped in place where they are numbers saved uncompressed."""

from __future__ import annotations

import math
import mmap
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.errors import BadData
from anytask.datasets.images import ImageFiles
from anytask.datasets.labels import as_labels
from anytask.datasets.rows import Parts, Rows, near, one_line, require_regular


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


def read_arrays(arrays: tuple[Any, ...]) -> Parts:
    """Return a tuple (X, y) or (X, y, task); masked values are missing."""
    if len(arrays) not in (2, 3):
        raise BadData(f"a tuple of data is (X, y) or (X, y, task), got {len(arrays)} items")
    X, y, *rest = arrays
    rows: Any = X if isinstance(X, (np.memmap, MappedArray, ImageFiles)) else np.asanyarray(X)
    return _from_parts(
        "arrays", _mapped(rows), [("y", np.asanyarray(y)), *(("task", np.asanyarray(task)) for task in rest)]
    )


def read_npz(path: Path, target: str | None, task: str | None, group: str | None) -> Parts:
    """Return the arrays ``X``, ``y`` (or ``target``), ``task`` and those that are named."""
    with _opened(path) as archive:
        keys = list(archive.files)
        names = ("y" if target is None else target, "task" if task is None and "task" in keys else task, group)
        for key in ("X", *filter(None, names)):
            if key not in keys:
                raise BadData(f"{path}: no array {key!r}{near(key, keys)}; its arrays: {', '.join(keys) or 'none'}")
        labels = [(name or "", archive[name] if name else None) for name in names]
        X: Any = _map_member(path, "X.npy")
        X = archive["X"] if X is None else X
    return _from_parts(str(path), X, labels)


def read_npy(path: Path, target: str | None, task: str | None, group: str | None) -> Parts:
    """Return the array of a file, with the labels of the file beside it."""
    if target is None:
        stem = re.sub(r"[Xx]$", "y", path.stem)
        if stem == path.stem:
            raise BadData(f"{path}: name the file with the labels (target=...); y.npy is found beside X.npy by itself")
        target = f"{stem}.npy"
    files = (target, task, group)
    labels = [(name or "", np.asarray(_load_npy(path.parent / name)) if name else None) for name in files]
    return _from_parts(str(path), _mapped(_load_npy(path)), labels)


def _mapped(rows: Any) -> Any:
    """Return a whole map by the name of its file, so that it is not copied into memory when it goes to a worker."""
    whole = isinstance(rows, np.memmap) and isinstance(rows.base, mmap.mmap) and rows.filename is not None
    if not whole or rows.dtype.kind not in "biuf" or not rows.ndim or not rows.flags.forc:
        return rows
    return MappedArray(str(rows.filename), int(rows.offset), rows.shape, rows.dtype.str, not rows.flags.c_contiguous)


def read_inputs(path: Path) -> np.ndarray:
    """Return the array of a .npy file, or ``X`` of a .npz file."""
    if path.suffix.lower() == ".npy":
        return _load_npy(path)
    with _opened(path) as archive:
        return archive["X"]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except BadData:
        raise
    except Exception as error:
        why = one_line(error) if zipfile.is_zipfile(path) else "np.savez writes one"
        raise BadData(f"{path}: not a readable .npz file ({why})") from error


def _load_npy(path: Path) -> np.ndarray:
    require_regular(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise BadData(f"{path}: not a readable .npy file ({one_line(error)})") from error


def _map_member(path: Path, member: str) -> MappedArray | None:
    """Map one array of an uncompressed .npz file in place; None if it is compressed or not numeric."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        bad = archive.testzip()
        if bad is not None:
            raise BadData(f"{path}: the array {bad.removesuffix('.npy')!r} is damaged (its checksum is wrong)")
    with open(path, "rb") as file:
        # A zip entry's local header is 30 bytes, a name and an extra field whose lengths stand at bytes 26 to 29.
        file.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        file.seek(info.header_offset + 30 + name_length + extra_length)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.kind not in "biuf" or 0 in shape or not shape:
            return None
        header = file.tell() - info.header_offset - 30 - name_length - extra_length
        if info.file_size - header != np.dtype(dtype).itemsize * math.prod(shape):
            raise BadData(
                f"{path}: the array {member.removesuffix('.npy')!r} holds {info.file_size - header} bytes, and its "
                f"header says {dtype} of shape {shape}"
            )
        return MappedArray(str(path), file.tell(), shape, dtype.str, fortran and len(shape) > 1)


def _from_parts(where: str, X: Any, named: list[tuple[str, np.ndarray | None]]) -> Parts:
    """Check X against labels, tasks and groups, each with a name; turn uint8 images into (channels, height, width)."""
    dtype = np.dtype(X.dtype) if not isinstance(X, ImageFiles) else np.dtype(np.float32)
    if dtype.kind not in "biuf":
        raise BadData(f"{where}: X must hold numbers, got {dtype}")
    if len(X.shape) < 2:
        raise BadData(f"{where}: X must have the shape (n, features...), got {tuple(X.shape)}")
    if 0 in X.shape:
        raise BadData(f"{where}: X is empty, its shape is {tuple(X.shape)}")
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
    kind = "images" if images or isinstance(X, ImageFiles) else "table" if len(X.shape) == 2 else "array"
    return Parts(rows, y, task, group, kind, named[0][0], notes)


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
