"""Labelled data out of whatever holds them: built-in sets, tables, arrays and folders of images, checked and counted.

Nothing larger than memory has to fit into it: ``.npy`` files, uncompressed ``.npz`` files and :class:`numpy.memmap`
inputs stay on disk and are mapped, images are decoded when their rows are asked for, and ``.parquet`` files are read
in batches of rows of which floats are kept in single precision. ``.csv`` files are read whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anytask.core.errors import BadData, shown
from anytask.core.files import require_regular
from anytask.core.memory import require_room
from anytask.datasets.arrays import read_arrays, read_npy, read_npz
from anytask.datasets.builtin import BUILTIN, read_builtin
from anytask.datasets.encoding import TableEncoding
from anytask.datasets.images import LABEL_FILE, read_folder, read_listed
from anytask.datasets.labels import check_classes, require_names
from anytask.datasets.rows import Parts, Rows, blocks, near
from anytask.datasets.tables import TableOptions, joined, missing_place, read_table

#: What may be done about missing inputs.
MISSING = ("refuse", "impute", "native")


@dataclass(frozen=True)
class LabelledData:
    """Inputs with labels, wherever they came from.

    Attributes
    ----------
    name : str
        Built-in name, or the name of the file or folder.
    X : ndarray or array-like of shape (n, \\*input_shape)
        ``X[indices]`` gives float32 rows. An ndarray, or one of :class:`~anytask.datasets.arrays.MappedArray`
        and :class:`~anytask.datasets.images.ImageFiles`.
    y : ndarray of shape (n,)
        Labels: int64 or strings. With ``label_names``, zeros and ones of shape (n, labels).
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
    encoding : TableEncoding or None
        How the columns of a file became numbers.
    group : ndarray of shape (n,) or None
        What must not be on both sides of a split, such as the patient of each row.
    weights : ndarray of shape (n,) or None
        What each row counts, above 0: 2 is as much as two rows alike.
    label_names : ndarray of shape (labels,) or None
        The labels, where a row may have several at once.
    fill : ndarray of input_shape, or None
        What missing inputs were filled with, where they were imputed.
    has_missing : bool
        Whether inputs are NaN, as ``missing="native"`` leaves them.
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
    encoding: TableEncoding | None = None
    group: np.ndarray | None = None
    fill: np.ndarray | None = None
    has_missing: bool = False
    weights: np.ndarray | None = None
    label_names: np.ndarray | None = None

    @property
    def classes(self) -> np.ndarray:
        """The different labels."""
        return np.unique(self.y) if self.label_names is None else self.label_names

    def shows(self, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return which of these rows have one of the classes."""
        if self.label_names is None:
            return np.isin(self.y[rows], classes)
        return self.y[rows][:, np.isin(self.label_names, classes)].any(axis=1)

    @property
    def strata(self) -> np.ndarray:
        """What each row is drawn by, shape (n,): its label, or the place of the rarest of several, -1 without any."""
        if self.label_names is None:
            return self.y
        rarest = np.where(self.y > 0, self.y.sum(axis=0), np.inf).argmin(axis=1)
        return np.where(self.y.any(axis=1), rarest, -1)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.X.shape[1:])


def load_labelled(
    source: Any,
    target: str | None = None,
    task: str | None = None,
    *,
    group: str | None = None,
    weights: str | None = None,
    image_size: int | str | Sequence[int] | None = None,
    missing: str = "refuse",
    missing_marks: str | Sequence[str] = (),
    categorical: str | Sequence[str] = (),
    decimal: str = "auto",
    several: bool = False,
) -> LabelledData:
    """Return labelled data from a built-in name, a file, a folder of images, or arrays.

    Parameters
    ----------
    source : str, path, data frame or tuple of arrays
        * a name in :data:`BUILTIN` (``digits`` are divided by 16; ``digits-images`` are the same as 1 x 8 x 8 images);
        * ``.csv`` or ``.parquet``: a table with one example a row. Numeric columns are kept as they are, also those
          written with decimal commas, thousands marks, currency or percent signs; text columns are one-hot encoded. The
          nameless index column that ``to_csv`` writes is left out;
        * ``.npz`` with the arrays ``X``, ``y`` and, if you like, ``task``. Mapped if it was saved uncompressed
          (:func:`numpy.savez`);
        * ``.npy`` with the inputs; the labels are in ``y.npy`` beside ``X.npy`` (``train_y.npy`` beside
          ``train_X.npy``), or in the file that ``target`` names. Mapped;
        * a folder with one subfolder of images per class, or with task folders that hold such class folders. Decoded
          when asked for; all of them once while loading, so that a damaged file is found before the first run;
        * a :class:`pandas.DataFrame`, read as such a file is, whatever its index;
        * a tuple (X, y) or (X, y, task) of arrays, or with a data frame for X; a :class:`numpy.memmap` stays on disk.

        Images are turned upright as EXIF says, laid on white where they are transparent, and scaled to [0, 1] by kind
        of pixel (8 bits, 16 bits, floats). Masked values of arrays are missing. uint8 arrays of shape (n, height,
        width[, channels]) are images: they come out as (channels, height, width) in [0, 1].
    target : str, optional
        Column (tables), array (``.npz``) or file (``.npy``) with the labels. Without it, a table's only column among
        label, target, class and y.
    task, group : str, optional
        Column, array or file with the task of each row, and with what must not be on both sides of a split.
    weights : str, optional
        Column, array or file with what each row counts: finite numbers of at least 0. Rows of weight 0 are left out.
    image_size : int, "HEIGHTxWIDTH" or (height, width), optional
        Size to which the images of a folder are resized; without it they must have one size.
    missing : {"refuse", "impute", "native"}, default "refuse"
        What is done about missing inputs: an error; the median of the column (of one-hot columns the mean) over all
        rows, for tables and arrays; or NaN, for systems that can read it. Labels and tasks are never filled in.
    missing_marks : str or sequence of str
        Values that stand for a missing one, as ``"NA,?"``, beside empty cells. Any other text stays a text.
    categorical : str or sequence of str
        Columns that are one-hot encoded although they hold numbers, as ``"zip,month"``.
    decimal : {"auto", ".", ","}
        The mark before the decimals, where the values of a table could be read in two ways.
    several : bool
        Whether a row may have several labels at once, each 0 or 1: in the columns of a table that ``target`` names, as
        ``"cat,dog"``, in a matrix y, or in a file ``labels.csv`` of a folder of images, whose column ``file`` names
        them, beside a column for each label.

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
    anytask.core.errors.BadData: digit: no such file or folder, and no built-in data (did you mean 'digits' or ...
    """
    if not isinstance(missing, str) or missing not in MISSING:
        raise BadData(f"missing must be {', '.join(MISSING)}, got {shown(missing)}")
    require_names(target=target, task=task, group=group, weights=weights)
    options = TableOptions(_names(missing_marks), _names(categorical), decimal)
    if isinstance(source, pd.DataFrame):
        parts = read_table(source, target, task, group, weights, options, several)
        return _finish("table", "the table", parts, missing)
    if not isinstance(source, (str, Path, tuple)):
        wanted = "a name, a path, a data frame or a tuple of arrays (X, y[, task])"
        raise BadData(f"data must be {wanted}, got {type(source).__name__}")
    if isinstance(source, tuple) or str(source) in BUILTIN or Path(source).is_dir():
        for name, given in (("group", group), ("weights", weights)):
            if given is not None:
                raise BadData(f"{name} names a column of a table, an array of a .npz file or a file beside a .npy file")
    if isinstance(source, tuple):
        if source and isinstance(source[0], pd.DataFrame):
            parts = read_table(*joined(source), None, None, options)
        else:
            parts = read_arrays(source, several)
        return _finish("arrays", "arrays", parts, missing)
    if str(source) in BUILTIN:
        if target is not None or task is not None:
            raise BadData(f"{source}: built-in data have their own labels and no tasks: leave target and task out")
        return _finish(str(source), str(source), read_builtin(str(source)), missing)
    path = Path(source).expanduser()
    if not path.exists():
        raise BadData(_no_such(path))
    kind = path.suffix.lower()
    if path.is_dir():
        if target is not None or task is not None:
            raise BadData(f"{path}: a folder names its classes and tasks by its subfolders: leave target and task out")
        listed = several and (path / LABEL_FILE).is_file()
        return _finish(path.name, str(path), (read_listed if listed else read_folder)(path, image_size), missing)
    if image_size is not None:
        raise BadData(f"{path}: image_size resizes the images of a folder, and this is a file")
    if require_regular(path) == 0:
        raise BadData(f"{path}: the file is empty")
    if kind in (".csv", ".parquet"):
        parts = read_table(path, target, task, group, weights, options, several)
    elif kind in (".npz", ".npy"):
        parts = (read_npz if kind == ".npz" else read_npy)(path, target, task, group, weights, several)
    else:
        wanted = ".csv, .parquet, .npz, .npy"
        raise BadData(f"{path}: files of kind {path.suffix or '(no suffix)'!r} are not read; save the data as {wanted}")
    return _finish(path.name, str(path), parts, missing)


def _finish(name: str, where: str, parts: Parts, missing: str) -> LabelledData:
    """Check the values and the classes in one pass over the rows, and take the fingerprint on the way."""
    kept = slice(None) if parts.weights is None or parts.weights.all() else np.flatnonzero(parts.weights)
    if parts.label_names is None:
        check_classes(parts.y[kept], where, parts.target)
    fill = None
    if missing == "impute" and parts.kind != "images":
        parts, fill = imputed(parts, where)
    low, high, empty = np.inf, -np.inf, 0
    if parts.digest is None:
        content = hashlib.sha256()
        for start, rows in blocks(parts.X):
            absent = np.isnan(rows)
            bad = absent | np.isinf(rows) if missing != "native" else np.isinf(rows)
            if bad.any():
                first = np.argwhere(bad)[0].tolist()
                if parts.encoding is not None:
                    place = missing_place(parts, where, first[0] + start, first[1])
                    raise BadData(f"{place}; missing=impute fills it in")
                place = ", ".join(map(str, (first[0] + start, *first[1:])))
                raise BadData(f"{where}: X[{place}] (counted from 0) is missing, NaN or infinite")
            content.update(np.ascontiguousarray(rows).data)
            empty += int(absent.sum())
            if not absent.all():
                low, high = min(low, float(np.nanmin(rows))), max(high, float(np.nanmax(rows)))
        digest = content.digest()
    else:
        low, high, digest = 0.0, 1.0, parts.digest
    notes = [*parts.notes, *([f"{empty} inputs are missing and stay so (NaN)."] if empty else [])]
    head = f"{tuple(parts.X.shape)}{parts.feature_names}".encode()
    several = () if parts.label_names is None else (parts.label_names,)
    fingerprint = _hash([head, digest], parts.y.ravel(), parts.task, parts.group, parts.weights, *several)
    X: Rows = parts.X
    y, task, group, weights = parts.y, parts.task, parts.group, parts.weights
    if isinstance(kept, np.ndarray):
        notes.append(f"{len(y) - len(kept)} rows of weight 0 were left out.")
        require_room(where, 4 * int(np.prod(X.shape)))
        X, y = X[kept], y[kept]
        task, group, weights = (None if one is None else one[kept] for one in (task, group, weights))
    return LabelledData(
        name, X, y, task, parts.feature_names, fingerprint, parts.kind,
        tuple(notes), (low, high), parts.encoding, group, fill, empty > 0, weights, parts.label_names,
    )  # fmt: skip


def imputed(parts: Parts, where: str) -> tuple[Parts, np.ndarray | None]:
    """Fill in missing inputs; they are then in memory."""
    if not any(np.isnan(rows).any() for _, rows in blocks(parts.X)):
        return parts, None
    require_room(where, 4 * int(np.prod(parts.X.shape)))
    X = np.array(parts.X[:])
    absent = np.isnan(X)
    if absent.all(axis=0).any():
        feature = np.argwhere(absent.all(axis=0))[0].tolist()
        what = parts.feature_names[feature[0]] if parts.feature_names else feature
        raise BadData(f"{where}: all values of {what} are missing; leave it out")
    fill = np.nanmedian(X, axis=0)
    if parts.encoding is not None:
        texts = [column.values is not None for column in parts.encoding.columns for _ in column.features]
        fill = np.where(texts, np.nanmean(X, axis=0), fill)
    fill = fill.astype(np.float32)
    note = f"{int(absent.sum())} missing inputs were filled in by the median (one-hot columns: mean) over all rows."
    return replace(parts, X=np.where(absent, fill, X), notes=[*parts.notes, note]), fill


def _hash(parts: list[bytes], y: np.ndarray, task: np.ndarray | None, *more: np.ndarray | None) -> str:
    digest = hashlib.sha256(b"\x1f".join(parts))
    for array in (y, task, *(one for one in more if one is not None)):
        digest.update(
            b"\x1e" if array is None else f"\x1e{array.dtype.kind}".encode() + "\x1f".join(map(str, array)).encode()
        )
    return digest.hexdigest()[:32]


def _names(given: str | float | Sequence[str] | None) -> tuple[str, ...]:
    """Return names joined by commas, or one by one."""
    if isinstance(given, (str, int, float)):  # --set missing_marks=-999 comes as a number
        given = str(given).split(",") if given != "" else ()
    if given is not None and not isinstance(given, (list, tuple, set, frozenset)):
        raise BadData(f"names or marks must be one text, commas between them, or a list of texts, got {shown(given)}")
    return tuple(str(part).strip() for part in given or ())


def _no_such(path: Path) -> str:
    siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = near(path.name, [*BUILTIN, *siblings])
    return f"{path}: no such file or folder, and no built-in data{hint}; built-in: {', '.join(BUILTIN)}"
