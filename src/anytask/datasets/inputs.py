"""The way from new data to the inputs of a saved model: the same encoding and scaling as in the comparison."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from anytask.core.errors import BadData, one_line
from anytask.core.files import as_path, require_regular
from anytask.core.memory import require_room
from anytask.datasets.arrays import as_images, read_inputs
from anytask.datasets.builtin import BUILTIN, read_builtin
from anytask.datasets.encoding import TableEncoding
from anytask.datasets.images import ImageFiles, image_files
from anytask.datasets.labelled import LabelledData
from anytask.datasets.labels import Locate
from anytask.datasets.tables import read_frame

_FILE = "inputs.json"


@dataclass(frozen=True)
class Inputs:
    """Turn new data into inputs as a comparison turned its own: the same columns, one-hot codes, image size and scale.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of one input.
    kind : {"table", "images", "array"}
        As in :class:`~anytask.datasets.labelled.LabelledData`.
    encoding : TableEncoding or None
        How the columns of a table become numbers.
    resized : bool
        Whether images are resized to ``input_shape``.
    ranges : pair of (black, white), or None
        Of 32-bit and of float pixels, as in :class:`~anytask.datasets.images.ImageFiles`.
    fill : ndarray of shape input_shape, or None
        What missing inputs are filled with.
    native : bool
        Whether missing inputs stay NaN.
    mean, std : ndarray of shape input_shape, or None
        What inputs are standardised by.

    Examples
    --------
    >>> from anytask.datasets.encoding import Column
    >>> inputs = Inputs((3,), "table", TableEncoding((Column("size"), Column("color", ("blue", "red")))))
    >>> inputs(pd.DataFrame({"color": ["red", "blue"], "size": [1.5, 2.0]})).tolist()
    [[1.5, 0.0, 1.0], [2.0, 1.0, 0.0]]
    """

    input_shape: tuple[int, ...]
    kind: str = "array"
    encoding: TableEncoding | None = None
    resized: bool = False
    ranges: tuple[tuple[float, float], tuple[float, float]] | None = None
    fill: np.ndarray | None = None
    native: bool = False
    mean: np.ndarray | None = None
    std: np.ndarray | None = None

    @classmethod
    def of(cls, labelled: LabelledData, statistics: tuple[np.ndarray, np.ndarray] | None = None) -> Self:
        """Return the way of these data; ``statistics`` are (mean, std) where they were standardised."""
        files = labelled.X if isinstance(labelled.X, ImageFiles) else None
        resized, ranges = (files.resize, files.ranges) if files else (False, None)
        mean, std = statistics or (None, None)
        return cls(
            labelled.input_shape, labelled.kind, labelled.encoding, resized, ranges, labelled.fill,
            labelled.has_missing, mean, std,
        )  # fmt: skip

    @property
    def wanted(self) -> str:
        """What :meth:`__call__` takes, in words."""
        shape = f"(n, {', '.join(map(str, self.input_shape))})"
        if self.encoding is not None:
            return f"a .csv or .parquet file or a DataFrame with the columns of the data, or numbers of shape {shape}"
        if self.kind == "images":
            return f"a folder of images, uint8 images, or numbers in [0, 1] of shape {shape}"
        return f"a .npy or .npz file, or numbers of shape {shape}"

    def __call__(self, source: Any) -> np.ndarray:
        """Return the inputs of new data, float32 of shape (n, \\*input_shape).

        Parameters
        ----------
        source : path, DataFrame or array
            A ``.csv`` or ``.parquet`` table with the columns of the data (others are passed over), a ``.npz`` file with
            the array ``X``, a ``.npy`` file, a folder of images in the order of their names, or an array as it was
            given to the comparison. A built-in name stands for its data.

        Raises
        ------
        BadData
            For missing columns, texts that the encoding does not know, another shape, and values that are not finite.
        """
        X = self._read(source)
        if X.shape[1:] != self.input_shape:
            raise BadData(f"inputs have the shape {X.shape[1:]}, and the model was trained on {self.input_shape}")
        if self.fill is not None:
            X = np.where(np.isnan(X), self.fill, X)
        bad = np.isinf(X) if self.native else ~np.isfinite(X)
        if bad.any():
            place = ", ".join(map(str, np.argwhere(bad)[0].tolist()))
            raise BadData(f"X[{place}] (counted from 0) is missing, NaN or infinite")
        return X if self.mean is None else (X - self.mean) / self.std

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``inputs.json`` into ``folder``."""
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}
        plain["encoding"] = None if self.encoding is None else self.encoding.to_json()
        folder = as_path(folder, "folder")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FILE).write_text(json.dumps(plain), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote."""
        path = as_path(folder, "folder") / _FILE
        if not path.is_file():
            raise FileNotFoundError(f"no saved inputs in {folder}: {_FILE} is missing")
        made: dict[str, Callable[[Any], Any]] = {
            "input_shape": tuple,
            "encoding": TableEncoding.from_json,
            "ranges": lambda pairs: tuple(map(tuple, pairs)),
            **dict.fromkeys(("fill", "mean", "std"), lambda values: np.array(values, dtype=np.float32)),
        }
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            given = {name: value for name, value in fields.items() if value is not None}
            return cls(**{name: made.get(name, lambda value: value)(value) for name, value in given.items()})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the inputs saved in {folder} are damaged: {error}") from error

    def _read(self, source: Any) -> np.ndarray:
        if isinstance(source, pd.DataFrame):
            return self._encode(*read_frame(source), "the table")
        if not isinstance(source, (str, os.PathLike)):
            try:
                masked = np.ma.isMaskedArray(source)
                X = np.ma.filled(source.astype(np.float32), np.nan) if masked else np.asarray(source)
                return as_images(X) if X.dtype == np.uint8 and X.ndim in (3, 4) else X.astype(np.float32)
            except (RuntimeError, TypeError, ValueError) as error:
                raise BadData(f"X holds no numbers of one shape ({one_line(error)}); wanted: {self.wanted}") from error
        if source in BUILTIN:
            return read_builtin(str(source)).X[:]
        path = Path(source).expanduser()
        if path.is_dir():
            size = (self.input_shape[-2], self.input_shape[-1])
            color, ranges = self.input_shape[0] == 3, {} if self.ranges is None else {"ranges": self.ranges}
            files = ImageFiles(tuple(map(str, image_files(path))), size, color, self.resized, **ranges)
            require_room(path, 4 * int(np.prod(files.shape)))
            try:
                return files[:]
            except BadData:
                raise
            except ValueError as error:
                raise BadData(f"{path}: the images must be {size[0]}x{size[1]} ({error})") from error
        if not path.exists():
            raise BadData(f"{path}: no such file or folder")
        require_regular(path)
        if path.suffix.lower() in (".csv", ".parquet"):
            return self._encode(*read_frame(path), str(path))
        if path.suffix.lower() not in (".npy", ".npz"):
            raise BadData(f"{path}: files of kind {path.suffix!r} are not read; wanted: {self.wanted}")
        return self._read(read_inputs(path))

    def _encode(self, frame: pd.DataFrame, locate: Locate, where: str) -> np.ndarray:
        if self.encoding is None:
            raise BadData(f"{where}: a table is given; wanted: {self.wanted}")
        return self.encoding.encode(frame, where, locate)
