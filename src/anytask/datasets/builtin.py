"""Data sets that can be named instead of a file: scikit-learn's, and real ones that are fetched once."""

from __future__ import annotations

import numpy as np

from anytask.datasets.arrays import read_npz
from anytask.datasets.rows import Parts
from anytask.datasets.tables import TableOptions, read_table
from anytask.models.real import fetched

#: Names of data sets. The last two lie in the user's cache once ``anytask models --fetch NAME`` has fetched them.
BUILTIN = ("digits", "digits-images", "wine", "iris", "breast-cancer", "mnist-5k", "segment")


def read_builtin(name: str) -> Parts:
    """Return one of :data:`BUILTIN`.

    ``digits`` are divided by 16, ``digits-images`` are 1 x 8 x 8 images of them; ``mnist-5k`` are 1 x 28 x 28 images.

    Raises
    ------
    BadData
        For data that were not fetched yet.
    """
    from sklearn import datasets

    if name == "mnist-5k":
        return read_npz(fetched(name) / "mnist-5k.npz", None, None, None, None)
    if name == "segment":
        return read_table(fetched(name) / "segment.csv", "category", None, None, None, TableOptions())
    makers = {"wine": datasets.load_wine, "iris": datasets.load_iris, "breast-cancer": datasets.load_breast_cancer}
    bunch = makers.get(name, datasets.load_digits)()
    X = bunch.data.astype(np.float32)
    if name.startswith("digits"):
        X = X / np.float32(16)
    images = name == "digits-images"
    X = X.reshape(-1, 1, 8, 8) if images else X
    names = None if images else tuple(map(str, bunch.feature_names))
    kind = "images" if images else "table"
    return Parts(X, bunch.target.astype(np.int64), kind=kind, feature_names=names)
