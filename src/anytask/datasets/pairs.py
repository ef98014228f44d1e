"""Pairs of items that belong together, in one or several graphs: from files, folders and objects in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anytask.core.errors import BadData, shown
from anytask.datasets.archives import opened_npz
from anytask.datasets.images import SUFFIXES, checked_images, parse_size
from anytask.datasets.labels import Locate
from anytask.datasets.tables import read_frame
from anytask.datasets.text_sets import skills_jobs

#: The file of a folder that says which text belongs to which image or sequence.
CAPTIONS = "captions.csv"
SKILLS_JOBS = "skills-jobs"


def plain(text: str) -> str:
    """Return what is equal for texts that say the same: without case, and with single spaces.

    Examples
    --------
    >>> plain(" Load  Rigging ")
    'load rigging'
    """
    return " ".join(text.casefold().split())


def alike(items: Iterable[Any]) -> np.ndarray:
    """Return for each item the first one that equals it, shape (n,): texts by :func:`plain`, arrays by their values.

    Examples
    --------
    >>> alike(["Nurse", "welder", "nurse "]).tolist(), alike([np.ones(2), np.ones(2)]).tolist()
    ([0, 1, 0], [0, 0])
    """
    first: dict[Any, int] = {}
    return np.array([first.setdefault(_key(item), row) for row, item in enumerate(items)], dtype=np.int64)


def _key(item: Any) -> Any:
    if isinstance(item, str):
        return plain(item)
    values = np.ascontiguousarray(item)
    return values.shape, hashlib.sha256(values.data).digest()


@dataclass(frozen=True)
class PairedData:
    """Distinct items of two sides, and which of them belong together.

    Attributes
    ----------
    name : str
    left, right : list of str, array of shape (n, \\*shape) or images in files, or list of arrays of shape (n_i, d)
    edges : dict of str to int array of shape (m, 2)
        Distinct (left, right) places, by graph.
    notes : tuple of str
    digest : bytes
        Hash of images that stay in their files.
    """

    name: str
    left: Any
    right: Any
    edges: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()
    digest: bytes = b""

    @property
    def kinds(self) -> tuple[str, str]:
        """What stands on each side: texts, arrays or sequences."""
        return _kind(self.left), _kind(self.right)

    @property
    def fingerprint(self) -> str:
        """Hash of all of the content."""
        content = hashlib.sha256(self.digest)
        for graph, edges in self.edges.items():
            content.update(graph.encode() + b"\x1e" + np.ascontiguousarray(edges, np.int64).tobytes())
        for items in (self.left, self.right):
            if not self.digest or isinstance(items, list):
                for item in items:
                    raw = item.encode() if isinstance(item, str) else np.ascontiguousarray(item, np.float32).tobytes()
                    content.update(raw + b"\x1f")
        return content.hexdigest()[:32]


def taken(items: Any, rows: np.ndarray) -> Any:
    """Return some items of one side."""
    return [items[row] for row in rows] if isinstance(items, list) else np.asarray(items[rows])


def _kind(items: Any) -> str:
    if not isinstance(items, list):
        return "arrays"
    return "texts" if isinstance(items[0], str) else "sequences"


def load_pairs(
    source: Any, *, left: str = "left", right: str = "right", graph: str | None = None, image_size: Any = None
) -> PairedData:
    """Return pairs.

    Parameters
    ----------
    source
        * ``"skills-jobs"``, the graph of :func:`~anytask.datasets.text_sets.skills_jobs`;
        * a .csv or .parquet file, or a data frame, with a row for each pair of texts;
        * a folder with ``captions.csv``, whose columns ``file`` and ``text`` say what belongs to an image, or to an
          .npz file whose only array, or array ``vectors``, has the shape (n_i, d); or a folder of .npz files that hold
          ``vectors`` and ``text`` themselves;
        * aligned sides (left, right), or a mapping of such, or of lists of pairs, by the name of their graph.
    left, right : str
        Columns of a table.
    graph : str, optional
        Column that says of which graph a pair is; by default ``graph``, where a table has one.
    image_size : int, str or pair, optional
        Size to which images are resized.

    Raises
    ------
    BadData
        One line that names the file and the row.

    Examples
    --------
    >>> found = load_pairs((["nurse", "Nurse", "welder"], ["gives care", "draws blood", "joins metal"]))
    >>> found.left, found.edges[""].tolist()
    (['nurse', 'welder'], [[0, 0], [0, 1], [1, 2]])
    """
    if isinstance(source, str) and source == SKILLS_JOBS:
        return _gathered(SKILLS_JOBS, {name: aligned(name, pairs) for name, pairs in skills_jobs().relations.items()})
    if isinstance(source, Mapping):
        return _gathered("pairs", {str(name): aligned(str(name), given) for name, given in source.items()})
    if isinstance(source, tuple):
        return _gathered("pairs", {"": aligned("pairs", source)})
    if isinstance(source, pd.DataFrame):
        return _table(source, "the table", left, right, graph)
    if not isinstance(source, (str, os.PathLike)):
        raise BadData(f"pairs are a name, a file, a folder, (left, right) or a mapping of graphs, got {shown(source)}")
    path = Path(source).expanduser()
    if not path.exists():
        raise BadData(f"{path}: no such file or folder, and no built-in pairs ({SKILLS_JOBS})")
    if path.is_dir():
        return _folder(path, image_size)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise BadData(f"{path}: pairs come from a .csv or .parquet file, or from a folder")
    return _table(path, path.name, left, right, graph)


def aligned(name: str, given: Any) -> tuple[Any, Any]:
    """Return two aligned sides of a graph that is given so, or as a list of pairs."""
    where = f"pairs of {name!r}" if name else "pairs"
    if not isinstance(given, Sequence) or isinstance(given, str) or not len(given):
        raise BadData(f"{where}: (left, right) or a list of pairs is wanted, got {shown(given)}")
    if not isinstance(given, tuple) or all(isinstance(one, tuple) for one in given):
        if bad := [one for one in given if not isinstance(one, Sequence) or isinstance(one, str) or len(one) != 2]:
            raise BadData(f"{where}: {shown(bad[0])} is no pair")
        given = tuple([one[side] for one in given] for side in (0, 1))
    if len(given) != 2 or any(isinstance(side, str) or not hasattr(side, "__len__") for side in given):
        raise BadData(f"{where}: two aligned sides are wanted, got {shown(given)}")
    if len(given[0]) != len(given[1]) or not len(given[0]):
        raise BadData(f"{where}: left has {len(given[0])} items and right {len(given[1])}")
    return given[0], given[1]


def _gathered(name: str, graphs: Mapping[str, tuple[Any, Any]], **told: Any) -> PairedData:
    """Return aligned sides of graphs as distinct items and edges."""
    if not graphs:
        raise BadData(f"{name}: there are no graphs")
    sides, places = [], []
    for side in (0, 1):
        every = [item for graph in graphs.values() for item in graph[side]]
        for row, item in enumerate(every):
            if isinstance(item, str) != isinstance(every[0], str) or (isinstance(item, str) and not item.strip()):
                raise BadData(f"{name}: {('left', 'right')[side]}[{row}] is {shown(item)}, and texts are wanted")
        kept, place = np.unique(alike(every), return_inverse=True)
        items: Any = [every[row] for row in kept]
        if not isinstance(items[0], str):
            items = _numbers(items, f"{name}: {('left', 'right')[side]}")
        sides.append(items)
        places.append(place)
    edges, start = {}, 0
    for graph, (left, _) in graphs.items():
        rows = slice(start, start + len(left))
        edges[graph] = np.unique(np.stack([place[rows] for place in places], axis=1), axis=0)
        start += len(left)
    return PairedData(name, sides[0], sides[1], edges, **told)


def _numbers(items: list[Any], where: str) -> Any:
    """Return arrays of one shape as one, and sequences (n_i, d) as a list, or say which is neither."""
    found = []
    for row, item in enumerate(items):
        try:
            with np.errstate(over="ignore"):
                found.append(np.asarray(item, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise BadData(f"{where} holds {shown(item)}, and texts or numbers are wanted") from error
        values, first = found[-1], found[0]
        if not np.isfinite(values).all():
            raise BadData(f"{where}: distinct item {row} contains NaN or infinity")
        alone = values.ndim != 2 and values.shape != first.shape
        if alone or 0 in values.shape or values.ndim != first.ndim or values.shape[-1:] != first.shape[-1:]:
            raise BadData(f"{where}: distinct item {row} has the shape {values.shape}, and others have {first.shape}")
    return found if found[0].ndim == 2 else np.stack(found)


def _table(source: Any, name: str, left: str, right: str, graph: str | None) -> PairedData:
    frame, locate = read_frame(source if isinstance(source, pd.DataFrame) else Path(source), (left, right))
    column = graph or ("graph" if "graph" in frame else None)
    for wanted in (left, right, *([column] if column else [])):
        if wanted not in frame:
            raise BadData(f"{name}: no column {wanted!r}; its columns: {', '.join(map(str, frame.columns))}")
    sides = [_texts(frame, wanted, name, locate) for wanted in (left, right)]
    of = np.array([""] * len(frame) if column is None else _texts(frame, column, name, locate), dtype=object)
    rows = {which: np.flatnonzero(of == which) for which in dict.fromkeys(of)}
    return _gathered(name, {which: (taken(sides[0], r), taken(sides[1], r)) for which, r in rows.items()})


def _texts(frame: pd.DataFrame, column: str, name: str, locate: Locate) -> list[str]:
    values = frame[column].to_numpy(object)
    if not len(values):
        raise BadData(f"{name}: there are no pairs")
    for row, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise BadData(f"{name}, {locate(row)}: column {column!r} must hold a text, got {shown(value)}")
    return list(values)


def _folder(path: Path, image_size: Any) -> PairedData:
    table = path / CAPTIONS
    if table.is_file():
        frame, locate = read_frame(table)
        if not {"file", "text"} <= set(frame):
            raise BadData(f"{table}: wanted are the columns 'file' and 'text'")
        texts = _texts(frame, "text", CAPTIONS, locate)
        files = [path / name.strip() for name in _texts(frame, "file", CAPTIONS, locate)]
        for row, file in enumerate(files):
            known = file.suffix.lower() in (*SUFFIXES, ".npz") and file.is_file()
            if not known or path.resolve() not in file.resolve().parents:
                raise BadData(f"{table}, {locate(row)}: no such image or .npz file in the folder: {file.name}")
    else:
        files = sorted(path.glob("*.npz"))
        if not files:
            raise BadData(f"{path}: wanted is {CAPTIONS}, or .npz files with the arrays 'vectors' and 'text'")
        texts = [_text_of(file) for file in files]
    distinct = list(dict.fromkeys(files))
    kinds = {file.suffix.lower() == ".npz" for file in distinct}
    if len(kinds) > 1:
        raise BadData(f"{table}: there are images and .npz files; choose one kind")
    if kinds == {True}:
        vectors = {file: _vectors(file) for file in distinct}
        widths = {len(v[0]) for v in vectors.values()}
        if len(widths) > 1:
            raise BadData(f"{path}: sequences must have vectors of one width, and there are {sorted(widths)}")
        return _gathered(path.name, {"": ([vectors[file] for file in files], texts)})
    images, digest, notes = checked_images(distinct, parse_size(image_size))
    kept, place = np.unique(alike(texts), return_inverse=True)
    where = {file: row for row, file in enumerate(distinct)}
    edges = np.unique(np.stack([[where[file] for file in files], place], axis=1), axis=0)
    return PairedData(path.name, images, [texts[row] for row in kept], {"": edges}, tuple(notes), digest)


def _text_of(file: Path) -> str:
    with opened_npz(file) as archive:
        if "text" not in archive.arrays:
            raise BadData(f"{file}: no array 'text', and no {CAPTIONS} beside it")
        (value,) = archive.read("text")
    if value.dtype.kind != "U" or value.size != 1 or not str(value.reshape(-1)[0]).strip():
        raise BadData(f"{file}: 'text' must be one text")
    return str(value.reshape(-1)[0])


def _vectors(file: Path) -> np.ndarray:
    with opened_npz(file) as archive:
        names = [name for name in archive.arrays if name != "text"]
        if "vectors" not in names and len(names) != 1:
            raise BadData(f"{file}: no array 'vectors'; its arrays: {', '.join(names) or 'none'}")
        (value,) = archive.read("vectors" if "vectors" in names else names[0])
    if value.ndim != 2 or 0 in value.shape or value.dtype.kind not in "biuf":
        raise BadData(f"{file}: vectors must be numbers of shape (n, d), got {value.dtype} of shape {value.shape}")
    with np.errstate(over="ignore"):
        vectors = value.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise BadData(f"{file}: vectors contain NaN or infinity in row {int(np.argmin(np.isfinite(vectors).all(1)))}")
    return vectors
