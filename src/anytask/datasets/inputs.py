"""The way from new data to the inputs of a saved model: the same encoding and scaling as in the comparison."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from anytask.core.errors import BadData
from anytask.datasets.labelled import BUILTIN, ImageFiles, LabelledData, as_images, image_files, load_labelled, read_csv

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
    feature_names : tuple of str or None
        Columns of a table after one-hot encoding; ``"color=red"`` is 1 where the column ``color`` holds ``red``.
    resized : bool
        Whether images are resized to ``input_shape``.
    mean, std : ndarray of shape input_shape, or None
        What inputs are standardised by.

    Examples
    --------
    >>> inputs = Inputs((3,), "table", ("size", "color=blue", "color=red"))
    >>> inputs(pd.DataFrame({"color": ["red", "blue"], "size": [1.5, 2.0]})).tolist()
    [[1.5, 0.0, 1.0], [2.0, 1.0, 0.0]]
    """

    input_shape: tuple[int, ...]
    kind: str = "array"
    feature_names: tuple[str, ...] | None = None
    resized: bool = False
    mean: np.ndarray | None = None
    std: np.ndarray | None = None

    @classmethod
    def of(cls, labelled: LabelledData, statistics: tuple[np.ndarray, np.ndarray] | None = None) -> Self:
        """Return the way of these data; ``statistics`` are (mean, std) where they were standardised."""
        resized = isinstance(labelled.X, ImageFiles) and labelled.X.resize
        names = labelled.feature_names if labelled.name not in BUILTIN else None
        return cls(labelled.input_shape, labelled.kind, names, resized, *(statistics or (None, None)))

    @property
    def wanted(self) -> str:
        """What :meth:`__call__` takes, in words."""
        shape = f"(n, {', '.join(map(str, self.input_shape))})"
        if self.feature_names is not None:
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
        if not np.isfinite(X).all():
            place = ", ".join(map(str, np.argwhere(~np.isfinite(X))[0].tolist()))
            raise BadData(f"X[{place}] (counted from 0) is missing, NaN or infinite")
        return X if self.mean is None else (X - self.mean) / self.std

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``inputs.json`` into ``folder``."""
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / _FILE).write_text(json.dumps(plain), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote."""
        path = Path(folder) / _FILE
        if not path.is_file():
            raise FileNotFoundError(f"no saved inputs in {folder}: {_FILE} is missing")
        fields = json.loads(path.read_text(encoding="utf-8"))
        for name in ("input_shape", "feature_names"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        for name in ("mean", "std"):
            fields[name] = None if fields[name] is None else np.array(fields[name], dtype=np.float32)
        return cls(**fields)

    def _read(self, source: Any) -> np.ndarray:
        if isinstance(source, pd.DataFrame):
            return self._encode(source, "the table")
        if not isinstance(source, (str, os.PathLike)):
            X = np.asarray(source)
            return as_images(X) if X.dtype == np.uint8 and X.ndim in (3, 4) else X.astype(np.float32)
        if source in BUILTIN:
            return load_labelled(source).X[:]
        path = Path(source).expanduser()
        if path.is_dir():
            size = (self.input_shape[-2], self.input_shape[-1])
            files = ImageFiles(tuple(map(str, image_files(path))), size, self.input_shape[0] == 3, self.resized)
            try:
                return files[:]
            except BadData:
                raise
            except ValueError as error:
                raise BadData(f"{path}: the images must be {size[0]}x{size[1]} ({error})") from error
        if not path.is_file():
            raise BadData(f"{path}: no such file or folder")
        if path.suffix.lower() == ".csv":
            return self._encode(read_csv(path)[0], str(path))
        if path.suffix.lower() == ".parquet":
            return self._encode(pd.read_parquet(path), str(path))
        if path.suffix.lower() not in (".npy", ".npz"):
            raise BadData(f"{path}: files of kind {path.suffix!r} are not read; wanted: {self.wanted}")
        content = np.load(path, allow_pickle=False)
        return self._read(content if path.suffix.lower() == ".npy" else content["X"])

    def _encode(self, frame: pd.DataFrame, where: str) -> np.ndarray:
        if self.feature_names is None:
            raise BadData(f"{where}: a table is given; wanted: {self.wanted}")
        X = np.empty((len(frame), len(self.feature_names)), dtype=np.float32)
        texts: dict[str, set[str]] = {}
        for j, name in enumerate(self.feature_names):
            if name in frame.columns:
                X[:, j] = pd.to_numeric(frame[name], errors="coerce")
                continue
            column = max((c for c in frame.columns if name.startswith(f"{c}=")), key=len, default=None)
            if column is None:
                raise BadData(f"{where}: no column {name.partition('=')[0]!r}; its columns: {', '.join(frame.columns)}")
            value = name[len(column) + 1 :]
            X[:, j] = frame[column].astype(str) == value
            texts.setdefault(column, set()).add(value)
        for column, known in texts.items():
            unknown = ~frame[column].astype(str).isin(known)
            if unknown.any():
                value = frame[column][unknown].iloc[0]
                raise BadData(f"{where}: column {column!r} holds {value!r}; known are {', '.join(sorted(known))}")
        return X
