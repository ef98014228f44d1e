"""Labelled cases that are bags of vectors in several views: a folder of files, one HDF5 file, and a generated world."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from anytask.core.errors import BadData, shown
from anytask.core.memory import require_room
from anytask.core.rng import derive
from anytask.datasets.archives import opened_npz
from anytask.datasets.episode_files.hdf5 import opened, require_declared
from anytask.datasets.labels import Locate, as_labels, check_classes, from_texts
from anytask.datasets.tables import read_frame

#: Names of generated bags.
BAGS = ("stained-bags", "loud-bags")
#: A world in which the means of bags say little: few tokens tell, in a place of their own, and the others are loud.
LOUD: dict[str, Any] = {"telling": 0.2, "loud": 3.0, "mark": 8.0}
#: The file of a folder that lists its cases.
CASES = "cases.csv"
_HDF5, _NPZ = (".h5", ".hdf5"), ".npz"
#: What a file's array of vectors is called, where there are several.
_FEATURES = "features"

#: The views that are found, the cases that have bags, and what reads the bag of a case and a view.
_Opened = tuple[list[str], Collection[str], Callable[[str, str], "np.ndarray | None"]]


@dataclass(frozen=True)
class LabelledBags:
    """Cases with a label each, and bags of them by view.

    Attributes
    ----------
    name : str
    views : mapping of str to sequence of n matrices (tokens, d) or None
        The first view is the anchor, which every case has.
    y : ndarray of shape (n,)
    group : ndarray of shape (n,) or None
        What must not be on both sides of a split, such as the patient of each case.
    notes : tuple of str
    """

    #: Bags have no shape, and nothing of them may be missing.
    input_shape: ClassVar[tuple[int, ...]] = ()
    has_missing: ClassVar[bool] = False

    name: str
    views: Mapping[str, Sequence[Any]]
    y: np.ndarray
    group: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def strata(self) -> np.ndarray:
        """What each case is drawn by, shape (n,): its label."""
        return self.y

    @property
    def fingerprint(self) -> str:
        """Hash of all of the content."""
        content = hashlib.sha256("\\x1f".join([*map(str, self.y.tolist()), str(self.group)]).encode())
        for name, bags in self.views.items():
            content.update(name.encode())
            for bag in bags:
                content.update(b"-" if bag is None else b"%d" % len(bag))
                content.update(b"" if bag is None else np.ascontiguousarray(bag, np.float32).data)
        return content.hexdigest()[:32]


def is_bags(source: Any) -> bool:
    """Return whether a name, a file or a folder is one of bags."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = Path(source).expanduser()
    if path.is_dir():
        return (path / CASES).is_file() or any(file.suffix.lower() in (*_HDF5, _NPZ) for file in path.glob("*/*"))
    return str(source) in BAGS or path.suffix.lower() in _HDF5


def load_bags(source: Any) -> LabelledBags:
    """Return labelled bags.

    Parameters
    ----------
    source : str or path
        * a name in :data:`BAGS`;
        * a folder with ``cases.csv`` and one file for each bag, ``VIEW/CASE.h5`` or ``VIEW/CASE.npz``, whose array
          ``features`` (or only array) has the shape (tokens, d);
        * one HDF5 file with a data set (tokens, d) for each bag, ``CASE/VIEW``, and beside ``NAME.h5`` the file
          ``NAME.csv``.

        The ``.csv`` file has the columns ``case`` and ``label``, perhaps ``group``, and perhaps a column of zeros and
        ones for each view, the anchor's first. Without such columns all views that are found are taken, in the order
        of their names.

    Raises
    ------
    BadData
        One line that names the file, the case and the view.
    """
    if str(source) in BAGS:
        return stained_bags(700, 0, **(LOUD if str(source) == "loud-bags" else {}))
    path = Path(source).expanduser()
    if not path.exists():
        raise BadData(f"{path}: no such file or folder")
    table = path / CASES if path.is_dir() else path.with_suffix(".csv")
    if not table.is_file():
        raise BadData(f"{path}: bags need a list of their cases, {table.name}, with the columns case and label")
    frame, locate = read_frame(table)
    for column in ("case", "label"):
        if column not in frame:
            raise BadData(f"{table}: no column {column!r}; its columns: {', '.join(map(str, frame.columns))}")
    cases = _cases(frame, str(table), locate)
    y = as_labels(from_texts(frame["label"].to_numpy(object)), str(table), "label", locate)
    check_classes(y, str(table), "label")
    group = as_labels(frame["group"].to_numpy(object), str(table), "group", locate) if "group" in frame else None
    columns = [str(name) for name in frame.columns if name not in ("case", "label", "group")]
    flags = {name: as_labels(from_texts(frame[name].to_numpy(object)), str(table), name, locate) for name in columns}
    for name, values in flags.items():
        if values.dtype.kind not in "iu" or not np.isin(values, (0, 1)).all():
            raise BadData(f"{table}: column {name!r} must say with 0 and 1 which cases have this view")
    with (_folder if path.is_dir() else _file)(path) as (found, held, read):
        return _assembled(path, table, cases, y, group, flags, found, held, read)


def _assembled(
    path: Path, table: Path, cases: list[str], y: np.ndarray, group: np.ndarray | None,
    flags: Mapping[str, np.ndarray], found: Sequence[str], held: Collection[str],
    read: Callable[[str, str], np.ndarray | None],
) -> LabelledBags:  # fmt: skip
    names = list(flags) or list(found)
    if not names:
        raise BadData(f"{path}: there are no views: a folder of files for each, or a data set CASE/VIEW")
    views: dict[str, list[Any]] = {name: [] for name in names}
    width, size = None, 0
    for place, case in enumerate(cases):
        for name in names:
            wanted = bool(flags[name][place]) if flags else None
            bag = read(case, name) if wanted is not False else None
            if bag is None and (wanted or name == names[0]):
                first = f"every case needs one of the first view, which columns of {table.name} can say"
                why = f"{table.name} says that there is one" if wanted else first
                raise BadData(f"{path}: the case {case!r} has no bag of the view {name!r}, and {why}")
            if bag is not None:
                bag = _checked(bag, f"{path}: case {case!r}, view {name!r}")
                width, size = width or bag.shape[1], size + bag.nbytes
                require_room(path, size)
                if bag.shape[1] != width:
                    raise BadData(
                        f"{path}: case {case!r}, view {name!r} has {bag.shape[1]} features, and others have {width}"
                    )
            views[name].append(bag)
    notes = [] if flags else [f"The anchor is {names[0]!r}: {table.name} has no columns that order the views."]
    if spare := sorted(set(held) - set(cases)):
        notes.append(
            f"Left out, as {table.name} does not list them: {len(spare)} cases with bags, such as {spare[0]!r}."
        )
    return LabelledBags(path.name, {name: tuple(bags) for name, bags in views.items()}, y, group, tuple(notes))


def _cases(frame: pd.DataFrame, where: str, locate: Locate) -> list[str]:
    cases = [str(case).strip() for case in as_labels(frame["case"].to_numpy(object), where, "case", locate).tolist()]
    for row, case in enumerate(cases):
        if case in cases[:row]:
            raise BadData(f"{where}, {locate(row)}: the case {shown(case)} is listed more than once")
        if not case or Path(case).name != case or case == "..":
            raise BadData(f"{where}, {locate(row)}: {shown(case)} cannot be the name of a file")
    return cases


@contextmanager
def _folder(path: Path) -> Iterator[_Opened]:
    def read(case: str, view: str) -> np.ndarray | None:
        for suffix in (*_HDF5, _NPZ):
            if (file := path / view / f"{case}{suffix}").is_file():
                return _features(file)
        return None

    views = sorted(part.name for part in path.iterdir() if part.is_dir() and not part.name.startswith("."))
    held = {file.stem for view in views for file in (path / view).iterdir() if file.suffix in (*_HDF5, _NPZ)}
    yield views, held, read


@contextmanager
def _file(path: Path) -> Iterator[_Opened]:
    with opened(path) as file:
        require_declared(path, file)
        groups = {case: group for case, group in file.items() if hasattr(group, "items")}

        def read(case: str, view: str) -> np.ndarray | None:
            if (stored := groups.get(case, {}).get(view)) is None:
                return None
            if not hasattr(stored, "dtype"):
                raise BadData(f"{path}: {case}/{view} is a group, and wanted is a data set of shape (tokens, d)")
            return stored[()]

        yield sorted({view for group in groups.values() for view in group}), groups, read


def _features(path: Path) -> np.ndarray:
    """Return the array ``features`` of a file, or its only one."""
    if path.suffix.lower() == _NPZ:
        with opened_npz(path) as archive:
            return archive.read(_only(path, list(archive.arrays)))[0]
    with opened(path) as file:
        require_declared(path, file)
        return file[_only(path, [name for name, value in file.items() if hasattr(value, "dtype")])][()]


def _only(path: Path, names: Sequence[str]) -> str:
    if _FEATURES not in names and len(names) != 1:
        raise BadData(f"{path}: no array {_FEATURES!r}; its arrays: {', '.join(names) or 'none'}")
    return _FEATURES if _FEATURES in names else names[0]


def _checked(bag: Any, where: str) -> np.ndarray:
    bag = np.asarray(bag)
    if bag.ndim != 2 or 0 in bag.shape or bag.dtype.kind not in "biuf":
        raise BadData(f"{where} must hold numbers of shape (tokens, d), got {bag.dtype} of shape {bag.shape}")
    with np.errstate(over="ignore"):
        values = bag.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadData(f"{where} contains NaN or infinity in row {int(np.argmin(np.isfinite(values).all(1)))}")
    return values


def stained_bags(
    cases: int, seed: int, *, views: int = 4, tokens: int = 24, d: int = 32, telling: float = 0.4,
    present: float = 0.7, loud: float = 0.0, mark: float = 0.0,
) -> LabelledBags:  # fmt: skip
    """Return generated cases, each with bags of the anchor and of most of the other views.

    A case has four numbers b ~ N(0, 1), which all of its views share, and its label says whether the first is above 0.
    In each view a share of the tokens carries b through a map of the view; all tokens of a bag carry eight further
    numbers, drawn anew for each bag, through another map of the view; and each token has noise of its own.

    Parameters
    ----------
    cases, seed : int
    views, tokens, d : int
        How many views there are, of how many tokens their bags are, and of how many values a token.
    telling : float
        Share of the tokens that carry b.
    present : float
        Share of the cases that have a view other than the anchor.
    loud : float
        Deviation of further noise on the values of the tokens that do not carry b, as of background.
    mark : float
        How far a view shifts the tokens that carry b, in a direction of its own.

    Examples
    --------
    >>> data = stained_bags(10, seed=0)
    >>> data.views["anchor"][0].shape, list(data.views), [bag is None for bag in data.views["stain 2"]].count(True)
    ((24, 32), ['anchor', 'stain 1', 'stain 2', 'stain 3'], 3)
    """
    rng = np.random.default_rng(derive(seed, "stained bags"))
    b = rng.normal(size=(cases, 4))
    found = {}
    for place in range(views):
        shared, own = rng.normal(size=(4, d)) / 2, rng.normal(size=(8, d)) / np.sqrt(8)
        X = (0.9 * rng.normal(size=(cases, 8)) @ own)[:, None] + 0.5 * rng.normal(size=(cases, tokens, d))
        tells, shift = (rng.random((cases, tokens)) < telling)[..., None], rng.normal(size=d)
        X += tells * ((b @ shared)[:, None] + mark * shift / np.linalg.norm(shift))
        X += loud * ~tells * rng.normal(size=X.shape)
        there = rng.random(cases) < present if place else np.ones(cases, dtype=bool)
        bags = tuple(bag if here else None for bag, here in zip(X.astype(np.float32), there))
        found["anchor" if place == 0 else f"stain {place}"] = bags
    return LabelledBags("loud-bags" if loud else "stained-bags", found, (b[:, 0] > 0).astype(np.int64))
