"""Data sets that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from anytask.datasets.rows import Parts

#: Names of the data sets that come with scikit-learn and can be named instead of a file.
BUILTIN = ("digits", "digits-images", "wine", "iris", "breast-cancer")


def read_builtin(name: str) -> Parts:
    """Return one of :data:`BUILTIN`; ``digits`` are divided by 16, ``digits-images`` are 1 x 8 x 8 images of them."""
    from sklearn import datasets

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
