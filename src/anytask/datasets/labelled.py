"""Read users' labelled data: built-in sets, tables, arrays and folders of images, with one clear line for bad ones.

Nothing larger than memory has to fit into it: ``.npy`` files, uncompressed ``.npz`` files and :class:`numpy.memmap`
inputs stay on disk and are mapped, images are decoded when their rows are asked for, and ``.parquet`` files are read
in batches of rows of which only the float32 values are kept. ``.csv`` files are read whole.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import mmap
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from anytask.core.errors import BadData

#: Names of the data sets that come with scikit-learn and can be named instead of a file.
BUILTIN = ("digits", "digits-images", "wine", "iris", "breast-cancer")

_TARGETS = ("label", "target", "class", "y")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_BLOCK_BYTES = 1 << 24


class Rows(Protocol):
    """Inputs, in memory or not: a shape, a length, and float32 rows for an array of indices."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, \\*input_shape)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> np.ndarray: ...


@dataclass(frozen=True)
class LabelledData:
    """Inputs with labels, wherever they came from.

    Attributes
    ----------
    name : str
        Built-in name, or the name of the file or folder.
    X : ndarray or array-like of shape (n, \\*input_shape)
        ``X[indices]`` gives float32 rows. An ndarray, or one of :class:`MappedArray` and :class:`ImageFiles`.
    y : ndarray of shape (n,)
        Labels: int64 or strings.
    task : ndarray of shape (n,) or None
        The task or domain of each row, where the data say so.
    feature_names : tuple of str or None
        Names of the columns of a table, after one-hot encoding.
    fingerprint : str
        Hash of all of the content.
    kind : {"table", "images", "array"}
        Images have the shape (channels, height, width) and values in [0, 1].
    notes : tuple of str
        What was done to the data on the way in, as sentences.
    value_range : tuple of float
        Smallest and largest value of the inputs.
    """

    name: str
    X: Rows
    y: np.ndarray
    task: np.ndarray | None
    feature_names: tuple[str, ...] | None
    fingerprint: str
    kind: str = "array"
    notes: tuple[str, ...] = ()
    value_range: tuple[float, float] = (-np.inf, np.inf)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.X.shape[1:])


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


@dataclass(frozen=True)
class ImageFiles:
    """Images that stay in their files; ``images[indices]`` decodes those alone, as float32 in [0, 1]."""

    paths: tuple[str, ...]
    size: tuple[int, int]  # height, width
    colour: bool
    resize: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, channels, height, width)."""
        return (len(self.paths), 3 if self.colour else 1, *self.size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = np.atleast_1d(np.arange(len(self.paths))[index])
        rows = np.empty((len(chosen), *self.shape[1:]), dtype=np.float32)
        for i, which in enumerate(chosen):
            rows[i] = self._decode(self.paths[which])
        return rows if np.ndim(np.arange(len(self.paths))[index]) else rows[0]

    def _decode(self, path: str) -> np.ndarray:  # -> (channels, height, width)
        from PIL import Image

        try:
            with Image.open(path) as image:
                # Pillow clips 16-bit grey values when it converts them to 8 bits: scale those by hand.
                if image.mode.startswith("I;16") and not self.colour and not self.resize:
                    return (np.asarray(image, dtype=np.float32) / 65535.0)[None]
                picture = image.convert("RGB" if self.colour else "L")
        except Exception as error:
            raise BadData(f"{path}: not a readable image ({_one_line(error)})") from error
        if self.resize:
            picture = picture.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR)
        values = np.asarray(picture, dtype=np.float32) / 255.0
        return values.transpose(2, 0, 1) if self.colour else values[None]


def load_labelled(
    source: Any,
    target: str | None = None,
    task: str | None = None,
    *,
    image_size: int | str | Sequence[int] | None = None,
) -> LabelledData:
    """Return labelled data from a built-in name, a file, a folder of images, or arrays.

    Parameters
    ----------
    source : str, path or tuple of arrays
        * a name in :data:`BUILTIN` (``digits`` are divided by 16; ``digits-images`` are the same as 1 x 8 x 8 images);
        * ``.csv`` or ``.parquet``: a table with one example a row. Numeric columns are kept as they are; text columns
          are one-hot encoded;
        * ``.npz`` with the arrays ``X``, ``y`` and, if you like, ``task``. Mapped if it was saved uncompressed
          (:func:`numpy.savez`);
        * ``.npy`` with the inputs; the labels are in ``y.npy`` beside ``X.npy`` (``train_y.npy`` beside
          ``train_X.npy``), or in the file that ``target`` names. Mapped;
        * a folder with one subfolder of images per class, or with task folders that hold such class folders. Decoded
          when asked for; all of them once while loading, so that a damaged file is found before the first run;
        * a tuple (X, y) or (X, y, task) of arrays; a :class:`numpy.memmap` stays on disk.

        uint8 arrays of shape (n, height, width[, channels]) are images: they come out as (channels, height, width)
        in [0, 1].
    target : str, optional
        Column (tables), array (``.npz``) or file (``.npy``) with the labels. Without it, a table's only column among
        label, target, class and y.
    task : str, optional
        Column, array or file with the task of each row.
    image_size : int, "HEIGHTxWIDTH" or (height, width), optional
        Size to which the images of a folder are resized; without it they must have one size.

    Raises
    ------
    BadData
        One line that names the file, the column and the row, for whatever cannot be used.

    Examples
    --------
    >>> data = load_labelled("digits")
    >>> data.X.shape, float(data.X[[0, 1]].max()), sorted(set(data.y.tolist()))[:3]
    ((1797, 64), 1.0, [0, 1, 2])
    >>> load_labelled("digit")
    Traceback (most recent call last):
    anytask.core.errors.BadData: digit: no such file or folder, and no built-in data; did you mean 'digits'? ...
    """
    if isinstance(source, tuple):
        return _from_arrays(source)
    if not isinstance(source, (str, Path)):
        raise BadData(f"data must be a name, a path or a tuple of arrays (X, y[, task]), got {type(source).__name__}")
    if str(source) in BUILTIN:
        return _builtin(str(source), target, task)
    path = Path(source).expanduser()
    if not path.exists():
        raise BadData(_missing(path))
    if path.is_dir():
        if target is not None or task is not None:
            raise BadData(f"{path}: a folder names its classes and tasks by its subfolders: leave target and task out")
        return _from_folder(path, image_size)
    if image_size is not None:
        raise BadData(f"{path}: image_size resizes the images of a folder, and this is a file")
    if path.stat().st_size == 0:
        raise BadData(f"{path}: the file is empty")
    readers: dict[str, Callable[[Path, str | None, str | None], LabelledData]] = {
        ".csv": _from_csv, ".parquet": _from_parquet, ".npz": _from_npz, ".npy": _from_npy,
    }  # fmt: skip
    if path.suffix.lower() not in readers:
        kinds = ", ".join(readers)
        raise BadData(f"{path}: files of kind {path.suffix or '(no suffix)'!r} are not read; save the data as {kinds}")
    return readers[path.suffix.lower()](path, target, task)


def blocks(X: Rows) -> Iterator[tuple[int, np.ndarray]]:
    """Go through ``X`` in blocks of rows of about 16 MB: (index of the first row, rows)."""
    size = max(1, _BLOCK_BYTES // max(1, 4 * int(np.prod(X.shape[1:]))))
    for start in range(0, len(X), size):
        yield start, X[start : start + size]


# -- sources ------------------------------------------------------------------------------------------------------


def _builtin(name: str, target: str | None, task: str | None) -> LabelledData:
    from sklearn import datasets

    if target is not None or task is not None:
        raise BadData(f"{name}: built-in data have their own labels and no tasks: leave target and task out")
    makers = {"wine": datasets.load_wine, "iris": datasets.load_iris, "breast-cancer": datasets.load_breast_cancer}
    bunch = makers.get(name, datasets.load_digits)()
    X = bunch.data.astype(np.float32)
    if name.startswith("digits"):
        X = X / np.float32(16)
    images = name == "digits-images"
    X = X.reshape(-1, 1, 8, 8) if images else X
    names = None if images else tuple(map(str, bunch.feature_names))
    return _finish(name, X, bunch.target.astype(np.int64), None, "labels", "images" if images else "table", names)


def _from_arrays(arrays: tuple[Any, ...]) -> LabelledData:
    if len(arrays) not in (2, 3):
        raise BadData(f"a tuple of data is (X, y) or (X, y, task), got {len(arrays)} items")
    X, y, *rest = arrays
    rows: Any = X if isinstance(X, (np.memmap, MappedArray, ImageFiles)) else np.asarray(X)
    # A whole C-ordered map is kept by its file name, so that it is not copied into memory when it goes to a worker.
    if isinstance(rows, np.memmap):
        whole = isinstance(rows.base, mmap.mmap) and rows.flags.c_contiguous and rows.filename is not None
        if whole and rows.dtype.kind in "biuf":
            rows = MappedArray(str(rows.filename), int(rows.offset), rows.shape, rows.dtype.str)
    return _from_parts("arrays", rows, np.asarray(y), np.asarray(rest[0]) if rest else None, "y", "task")


def _from_npz(path: Path, target: str | None, task: str | None) -> LabelledData:
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = list(archive.files)
            target = "y" if target is None else target
            task = "task" if task is None and "task" in keys else task
            for key in ("X", target, *([task] if task else [])):
                if key not in keys:
                    raise BadData(
                        f"{path}: no array {key!r}{_near(key, keys)}; its arrays: {', '.join(keys) or 'none'}"
                    )
            y, tasks = archive[target], archive[task] if task else None
            X: Any = _map_member(path, "X.npy")
            X = archive["X"] if X is None else X
    except BadData:
        raise
    except Exception as error:
        why = _one_line(error) if zipfile.is_zipfile(path) else "np.savez writes one"
        raise BadData(f"{path}: not a readable .npz file ({why})") from error
    return _from_parts(path.name, X, y, tasks, target, task or "task", str(path))


def _from_npy(path: Path, target: str | None, task: str | None) -> LabelledData:
    if target is None:
        stem = re.sub(r"[Xx]$", "y", path.stem)
        if stem == path.stem:
            raise BadData(f"{path}: name the file with the labels (target=...); y.npy is found beside X.npy by itself")
        target = f"{stem}.npy"
    y = np.asarray(_load_npy(path.parent / target))
    tasks = None if task is None else np.asarray(_load_npy(path.parent / task))
    on_disk = _load_npy(path)
    X: Any = on_disk
    if on_disk.dtype.kind in "biuf" and on_disk.ndim and isinstance(on_disk, np.memmap):
        fortran = on_disk.flags.f_contiguous and not on_disk.flags.c_contiguous
        X = MappedArray(str(path), int(on_disk.offset), on_disk.shape, on_disk.dtype.str, fortran)
    return _from_parts(path.name, X, y, tasks, target, task or "task", str(path))


def _load_npy(path: Path) -> np.ndarray:
    if not path.exists():
        raise BadData(_missing(path))
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise BadData(f"{path}: not a readable .npy file ({_one_line(error)})") from error


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
        return MappedArray(str(path), file.tell(), shape, dtype.str, fortran and len(shape) > 1)


def _from_parts(
    name: str, X: Any, y: np.ndarray, task: np.ndarray | None, target: str, task_name: str, where: str | None = None
) -> LabelledData:
    """Check arrays against one another and turn uint8 images into (channels, height, width)."""
    where = name if where is None else where
    dtype = np.dtype(X.dtype) if not isinstance(X, ImageFiles) else np.dtype(np.float32)
    if dtype.kind not in "biuf":
        raise BadData(f"{where}: X must hold numbers, got {dtype}")
    if len(X.shape) < 2:
        raise BadData(f"{where}: X must have the shape (n, features...), got {tuple(X.shape)}")
    if 0 in X.shape:
        raise BadData(f"{where}: X is empty, its shape is {tuple(X.shape)}")
    for array, what in ((y, target), (task, task_name)):
        if array is not None and array.shape != (len(X),) and array.shape != (len(X), 1):
            raise BadData(f"{where}: X has {len(X)} rows, and {what} has the shape {array.shape}: give one per row")
    notes = []
    images = dtype == np.uint8 and len(X.shape) in (3, 4)
    if images:
        notes.append("uint8 images were divided by 255 and put into the order (channels, height, width).")
        rows: Rows = (
            MappedArray(X.path, X.offset, X.file_shape, X.dtype, X.fortran, True)
            if isinstance(X, MappedArray)
            else as_images(X)
        )
    elif isinstance(X, np.ndarray) and not isinstance(X, np.memmap):
        rows = X.astype(np.float32)
    else:
        rows = X if not isinstance(X, np.memmap) else np.asarray(X, dtype=np.float32)
    y = _labels(y.reshape(-1), where, target, lambda i: f"row {i} (counted from 0)")
    if task is not None:
        task = _labels(task.reshape(-1), where, task_name, lambda i: f"row {i} (counted from 0)", "tasks")
    kind = "images" if images or isinstance(X, ImageFiles) else "table" if len(X.shape) == 2 else "array"
    return _finish(name, rows, y, task, target, kind, None, tuple(notes), where)


def read_csv(path: Path) -> tuple[pd.DataFrame, str]:
    """Return a .csv file as a table, and its separator."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path, sep=separator, encoding="utf-8-sig", index_col=False, low_memory=False, skip_blank_lines=False
            )
    except pd.errors.EmptyDataError as error:
        raise BadData(f"{path}: the file is empty") from error
    except pd.errors.ParserError as error:
        line = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if line:
            raise BadData(f"{path}: line {line[2]} has {line[3]} columns, and {line[1]} are expected") from error
        raise BadData(f"{path}: not a readable .csv file ({_one_line(error)})") from error
    except pd.errors.ParserWarning as error:
        raise BadData(f"{path}: the rows have more columns than the header (line 1)") from error
    except (UnicodeDecodeError, OSError) as error:
        raise BadData(f"{path}: not a readable .csv file in UTF-8 ({_one_line(error)})") from error
    filled = frame.notna().any(axis=1).to_numpy()
    frame = frame.iloc[: int(np.flatnonzero(filled)[-1]) + 1 if filled.any() else 0]  # blank lines at the end
    frame.columns = [str(column).strip() for column in frame.columns]
    return frame, separator


def _from_csv(path: Path, target: str | None, task: str | None) -> LabelledData:
    frame, separator = read_csv(path)

    def locate(row: int) -> str:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator)
            for _ in range(row + 1):  # the header and the rows before this one; quoted texts may span lines
                next(reader)
            return f"line {reader.line_num + 1}"

    return _from_table(path, list(frame.columns), [frame], target, task, locate)


def _from_parquet(path: Path, target: str | None, task: str | None) -> LabelledData:
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        columns = list(file.schema_arrow.names)
    except Exception as error:
        raise BadData(f"{path}: not a readable .parquet file ({_one_line(error)})") from error

    def frames() -> Iterator[pd.DataFrame]:
        try:
            for batch in file.iter_batches():
                yield batch.to_pandas()
        except Exception as error:
            raise BadData(f"{path}: damaged after its header ({_one_line(error)})") from error

    try:
        return _from_table(path, columns, frames(), target, task, lambda row: f"row {row} (counted from 0)")
    finally:
        file.close()


def _from_table(
    path: Path, columns: list[str], frames: Iterable[pd.DataFrame], target: str | None, task: str | None,
    locate: Callable[[int], str],
) -> LabelledData:  # fmt: skip
    target = _target_column(path, columns, target)
    for name in (target, *([task] if task is not None else [])):
        if name not in columns:
            raise BadData(f"{path}: no column {name!r}{_near(name, columns)}; its columns: {', '.join(columns)}")
    if task == target:
        raise BadData(f"{path}: column {task!r} cannot hold the labels and the tasks at once")
    if not set(columns) - {target, task}:
        raise BadData(f"{path}: no column is left for the inputs beside {', '.join(filter(None, (target, task)))}")
    parts: list[pd.DataFrame] = []
    start = 0
    for frame in frames:
        parts.append(_checked_frame(path, frame, start, {target, task}, locate))
        start += len(frame)
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    if not len(table):
        raise BadData(f"{path}: there is a header and no row")
    y = _labels(table.pop(target).to_numpy(), str(path), target, locate)
    tasks = None if task is None else _labels(table.pop(task).to_numpy(), str(path), task, locate, "tasks")
    texts = [column for column in table.columns if not pd.api.types.is_numeric_dtype(table[column].dtype)]
    notes = []
    for column in texts:
        _check_text_column(path, table[column], locate)
    if texts:
        n_columns = {column: table[column].nunique() for column in texts}
        listing = ", ".join(f"{column} ({n} values)" for column, n in n_columns.items())
        notes.append(f"Text columns were one-hot encoded: {listing}.")
        table = pd.get_dummies(table, columns=texts, prefix_sep="=", dtype=np.float32)
    names = tuple(map(str, table.columns))
    X = table.to_numpy(dtype=np.float32)
    return _finish(path.name, X, y, tasks, target, "table", names, tuple(notes), str(path))


def _checked_frame(
    path: Path, frame: pd.DataFrame, start: int, kept: set[str | None], locate: Callable[[int], str]
) -> pd.DataFrame:
    """Refuse missing and infinite values and dates; make numeric inputs float32."""
    columns: dict[str, Any] = {}
    for column in frame.columns:
        values = frame[column]
        missing = values.isna().to_numpy()
        if missing.any():
            where = locate(start + int(np.argmax(missing)))
            raise BadData(f"{path}: column {column!r}, {where}: the value is missing (or NaN)")
        if pd.api.types.is_datetime64_any_dtype(values.dtype) or pd.api.types.is_timedelta64_dtype(values.dtype):
            raise BadData(f"{path}: column {column!r} holds dates; turn them into numbers, or leave the column out")
        if column not in kept and pd.api.types.is_numeric_dtype(values.dtype):
            numbers = values.to_numpy(dtype=np.float32)
            infinite = ~np.isfinite(numbers)
            if infinite.any():
                where = locate(start + int(np.argmax(infinite)))
                raise BadData(f"{path}: column {column!r}, {where}: the value is infinite (or too large for float32)")
            columns[str(column)] = numbers
        elif column not in kept or not pd.api.types.is_numeric_dtype(values.dtype):
            columns[str(column)] = values.astype(str).to_numpy(dtype=object)
        else:
            columns[str(column)] = values.to_numpy()
    return pd.DataFrame(columns)


def _check_text_column(path: Path, values: pd.Series, locate: Callable[[int], str]) -> None:
    numeric = pd.to_numeric(values, errors="coerce").notna().to_numpy()
    if numeric.mean() > 0.5:
        row = int(np.argmin(numeric))
        raise BadData(f"{path}: column {values.name!r}, {locate(row)}: {values.iloc[row]!r} is not a number")
    n_values = values.nunique()
    if n_values > 20 and n_values > len(values) / 2:
        raise BadData(
            f"{path}: column {values.name!r} holds {n_values} different texts in {len(values)} rows (such as "
            f"{values.iloc[0]!r} in {locate(0)}): too many to encode; leave the column out"
        )


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


def _from_folder(path: Path, image_size: int | str | Sequence[int] | None) -> LabelledData:
    from PIL import Image

    size = _parse_size(image_size)
    top = _subfolders(path)
    if not top:
        raise BadData(f"{path}: a folder of images has one subfolder per class, and here is no subfolder")
    flat: list[Path] = []
    deep: list[Path] = []
    for folder in top:
        (flat if image_files(folder) else deep).append(folder)
    two_levels = not flat and any(_subfolders(folder) for folder in deep)
    if not two_levels and deep:
        raise BadData(f"{deep[0]}: no image in this class folder (wanted: {', '.join(_IMAGES)})")
    paths: list[Path] = []
    y: list[str] = []
    task: list[str] = []
    for folder in top:
        for class_folder in _subfolders(folder) if two_levels else [folder]:
            files = image_files(class_folder)
            if not files:
                raise BadData(f"{class_folder}: no image in this class folder (wanted: {', '.join(_IMAGES)})")
            paths += files
            y += [class_folder.name] * len(files)
            task += [folder.name] * len(files)
    content = hashlib.sha256()
    sizes: list[tuple[int, int]] = []
    colour = False
    for file in paths:
        try:
            raw = file.read_bytes()
            with Image.open(io.BytesIO(raw)) as image:
                image.load()
                sizes.append((image.height, image.width))
                colour = colour or not (image.mode in ("1", "L") or image.mode.startswith("I"))
        except Exception as error:
            raise BadData(f"{file}: not a readable image ({_one_line(error)})") from error
        content.update(hashlib.sha256(raw).digest())
        if size is None and sizes[-1] != sizes[0]:
            sizes_text = f"{sizes[-1][0]}x{sizes[-1][1]}, and {paths[0]} is {sizes[0][0]}x{sizes[0][1]}"
            raise BadData(f"{file}: the image is {sizes_text}: make them equal, or give image_size=HEIGHTxWIDTH")
    images = ImageFiles(tuple(map(str, paths)), size or sizes[0], colour, size is not None)
    notes: tuple[str, ...] = (f"Images were resized to {size[0]}x{size[1]}.",) if size else ()
    left_out = sum(1 for file in path.rglob("*") if file.is_file() and not _hidden(file)) - len(paths)
    if left_out:
        notes += (f"{left_out} files in the folder are not images in a class folder and were left out.",)
    tasks = np.array(task) if two_levels else None
    labels = np.array(y)
    _check_classes(labels, str(path), "class folders")
    fingerprint = _hash([content.digest(), repr(images.shape).encode()], labels, tasks)
    return LabelledData(path.name, images, labels, tasks, None, fingerprint, "images", notes, (0.0, 1.0))


# -- checks -------------------------------------------------------------------------------------------------------


def _finish(
    name: str, X: Rows, y: np.ndarray, task: np.ndarray | None, target: str, kind: str,
    feature_names: tuple[str, ...] | None = None, notes: tuple[str, ...] = (), where: str | None = None,
) -> LabelledData:  # fmt: skip
    """Check the values and the classes in one pass over the rows, and take the fingerprint on the way."""
    where = name if where is None else where
    _check_classes(y, where, target)
    content = hashlib.sha256()
    low, high = np.inf, -np.inf
    for start, rows in blocks(X):
        if not np.isfinite(rows).all():
            first = np.argwhere(~np.isfinite(rows))[0]
            place = ", ".join(str(int(i)) for i in (first[0] + start, *first[1:]))
            raise BadData(f"{where}: X[{place}] (counted from 0) is NaN or infinite")
        content.update(np.ascontiguousarray(rows).data)
        low, high = min(low, float(rows.min())), max(high, float(rows.max()))
    fingerprint = _hash([f"{tuple(X.shape)}{feature_names}".encode(), content.digest()], y, task)
    return LabelledData(name, X, y, task, feature_names, fingerprint, kind, notes, (low, high))


def _hash(parts: list[bytes], y: np.ndarray, task: np.ndarray | None) -> str:
    digest = hashlib.sha256(b"\x1f".join(parts))
    for array in (y, task):
        digest.update(
            b"\x1e" if array is None else f"\x1e{array.dtype.kind}".encode() + "\x1f".join(map(str, array)).encode()
        )
    return digest.hexdigest()[:32]


def _labels(
    values: np.ndarray, where: str, column: str, locate: Callable[[int], str], what: str = "labels"
) -> np.ndarray:
    """Return labels (or tasks) as int64 or strings."""
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values)
        if bad.any():
            raise BadData(f"{where}: column {column!r}, {locate(int(np.argmax(bad)))}: the value is missing (or NaN)")
        broken = values != np.floor(values)
        if broken.any():
            row = int(np.argmax(broken))
            place = locate(row)
            raise BadData(
                f"{where}: column {column!r}, {place}: {values[row]} is not whole; {what} are whole numbers or texts"
            )
        return values.astype(np.int64)
    if values.dtype.kind in "biu":
        return values.astype(np.int64)
    if values.dtype.kind in "OUS":
        missing = np.array([value is None or value != value for value in values.tolist()])
        if missing.any():
            raise BadData(
                f"{where}: column {column!r}, {locate(int(np.argmax(missing)))}: the value is missing (or NaN)"
            )
        return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()])
    raise BadData(f"{where}: column {column!r}: {what} must be texts or whole numbers, got {values.dtype}")


def _check_classes(y: np.ndarray, where: str, column: str) -> None:
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        only = classes.tolist()[0]
        raise BadData(f"{where}: column {column!r} holds one class only ({only!r}): at least 2 classes are needed")
    if counts.min() < 2:
        rare = classes[counts < 2].tolist()
        more = f" (and {len(rare) - 1} more such classes)" if len(rare) > 1 else ""
        if len(rare) > 20 and len(rare) > len(classes) / 2:
            more += f"; are the {len(classes)} different values of this column really labels?"
        raise BadData(f"{where}: column {column!r}: class {rare[0]!r} has 1 example{more}, and at least 2 are needed")


# -- small steps --------------------------------------------------------------------------------------------------


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


def _parse_size(size: int | str | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    parts = re.split(r"[x,]", size) if isinstance(size, str) else [size] if isinstance(size, int) else list(size)
    try:
        numbers = [int(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers, default=0) < 1:
        raise BadData(f"image_size must be a number or HEIGHTxWIDTH, such as 32 or 32x48, got {size!r}")
    return numbers[0], numbers[-1]


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__"))


def _subfolders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not _hidden(child))


def image_files(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.suffix.lower() in _IMAGES and not _hidden(child))


def _missing(path: Path) -> str:
    siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, [*BUILTIN, *siblings], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{path}: no such file or folder, and no built-in data{hint} Built-in: {', '.join(BUILTIN)}"


def _near(name: str, names: Sequence[str]) -> str:
    lower = {candidate.lower(): candidate for candidate in names}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), list(lower), n=2)]
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text[:117] + "...") if len(text) > 120 else text or type(error).__name__
