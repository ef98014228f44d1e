"""Images with scores and with texts on how good they look: a table of a user, and digits that differ in both."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.datasets.images import checked_images
from anytask.datasets.labelled import load_labelled
from anytask.datasets.tables import read_frame

#: Words of the five levels of each score, worst first.
LOOKS = {
    "quality": (
        ("bad", "noisy"), ("poor", "grainy"), ("fair", "passable"), ("good", "clean"), ("perfect", "crisp"),
    ),
    "aesthetics": (
        ("bad", "dull"), ("poor", "pale"), ("fair", "plain"), ("good", "lively"), ("perfect", "vivid"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Rated:
    """Images, their scores, of which more is better, and texts on them.

    Attributes
    ----------
    name : str
    images : array of shape (n, ...)
    scores : array of shape (n, k)
    names : tuple of k str
    texts : list of n lists of str
        Some may be empty.
    """

    name: str
    images: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]
    texts: list[list[str]]
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of all of the content."""
        content = hashlib.sha256(np.ascontiguousarray(self.images, np.float32).tobytes())
        content.update(repr((self.scores.tolist(), self.names, self.texts)).encode())
        return content.hexdigest()[:32]

    def part(self, rows: np.ndarray) -> Rated:
        """Return some of the images."""
        texts = [self.texts[row] for row in rows]
        return Rated(self.name, self.images[rows], self.scores[rows], self.names, texts, self.notes)


def rated_digits(source: str, seed: int, n: int) -> Rated:
    """Return digits whose quality q and look a are uniform and independent: (.25 + .75 a) x + .25 (1 - a) + noise.

    The noise has a deviation of .45 (1 - q). A text on each score names its level, a look of that level, and the score.

    Parameters
    ----------
    source : str
        Labelled images in [0, 1].
    seed : int
    n : int
        How many images, at most.

    Examples
    --------
    >>> rated = rated_digits("digits-images", 0, 3)
    >>> rated.images.shape, rated.scores.shape, rated.texts[0]
    ((3, 1, 8, 8), (3, 2), ['good clean quality image', 'fair plain aesthetics image'])
    """
    X = _images(source)
    rng = np.random.default_rng(derive(seed, "rated", source))
    images = X[rng.permutation(len(X))[:n]]
    scores = rng.random((len(images), 2))
    q, a = (scores[:, k].reshape(-1, *[1] * (images.ndim - 1)) for k in (0, 1))
    images = images * (0.25 + 0.75 * a) + 0.25 * (1 - a) + rng.normal(size=images.shape) * 0.45 * (1 - q)
    texts = [
        [" ".join((*LOOKS[name][min(int(5 * s), 4)], name, "image")) for name, s in zip(LOOKS, own)] for own in scores
    ]
    return Rated(source, images.astype(np.float32), scores, tuple(LOOKS), texts)


@lru_cache(maxsize=2)
def _images(source: str) -> np.ndarray:
    found = load_labelled(source)
    X = np.asarray(found.X[np.arange(len(found.y))], dtype=np.float32)
    return X / max(1.0, float(X.max()))


def load_rated(source: Any, names: Sequence[str] = ("score",), lower_is_better: bool = False) -> Rated:
    """Return a user's images with scores and comments.

    Parameters
    ----------
    source : path
        A .csv or .parquet file with a column ``file``, of paths beside the table, those of the scores, and any number
        of columns whose names begin with ``comment``, in which cells may be empty. Images are of one size.
    names : sequence of str
        The columns of the scores.
    lower_is_better : bool, default False
        Whether scores count defects; they are turned around.

    Raises
    ------
    BadData
        One line that names the file and the row.
    """
    if not isinstance(source, (str, Path)):
        raise BadData(f"rated images are a table of files and scores, got a {type(source).__name__}")
    path = Path(source).expanduser()
    if not path.is_file():
        raise BadData(f"{path}: no such file; wanted is a table with the columns file, {', '.join(names)}")
    frame, locate = read_frame(path)
    if missing := [name for name in ("file", *names) if name not in frame]:
        raise BadData(f"{path}: no column {missing[0]!r}")
    files = [path.parent / str(name).strip() for name in frame["file"]]
    for row, file in enumerate(files):
        if not file.is_file():
            raise BadData(f"{path}, {locate(row)}: no such image: {file.name}")
    scores = np.empty((len(files), len(names)))
    for k, name in enumerate(names):
        for row, cell in enumerate(frame[name]):
            try:
                scores[row, k] = float(cell)
            except (TypeError, ValueError):
                scores[row, k] = np.nan
            if not np.isfinite(scores[row, k]):
                raise BadData(f"{path}, {locate(row)}: column {name!r} must hold a number, got {cell!r:.40}")
    said = [frame[name] for name in frame.columns if name.startswith("comment")]
    texts = [[str(c[row]).strip() for c in said if isinstance(c[row], str) and c[row].strip()]
             for row in range(len(files))]  # fmt: skip
    pixels, _, notes = checked_images(files, None)
    images = np.asarray(pixels[np.arange(len(files))], dtype=np.float32)
    return Rated(path.stem, images, -scores if lower_is_better else scores, tuple(names), texts, tuple(notes))
