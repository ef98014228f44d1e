"""Read and write episodes: npz, HDF5 in robomimic's layout, Minari folders, and LeRobot parquet folders (read only).

Whatever goes wrong names the file, the episode and the step. Files are complete or absent: they are written beside
their place and moved in. Images in large HDF5 files stay there and are read row by row.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from anytask.core.errors import instance_of, shown
from anytask.core.files import as_path, require_regular
from anytask.datasets.episode_files import hdf5, lerobot, minari, npz, robomimic
from anytask.datasets.episode_files.common import reading
from anytask.datasets.episodes import Episodes

Format = Literal["npz", "robomimic", "minari", "lerobot"]


def load_episodes(
    path: str | os.PathLike[str], format: Format | None = None, *, lazy: bool | None = None, mask: str | None = None
) -> Episodes:
    """Read a data set of episodes.

    Parameters
    ----------
    path : path
        An ``.npz`` file of :func:`save_episodes`; an ``.hdf5`` file in robomimic's layout
        (``data/demo_0/{obs/<key>, actions, rewards, dones, next_obs/<key>}``; only ``obs`` and ``actions`` must be
        there); a Minari folder (``data/main_data.hdf5`` and ``data/metadata.json``); or a LeRobot folder (version 2:
        ``meta/info.json`` and ``data/chunk-*/episode_*.parquet``).
    format : {"npz", "robomimic", "minari", "lerobot"}, optional
        Told apart by the files that are there if not given.
    lazy : bool, optional
        Leave images in the HDF5 file and read the rows that are asked for. By default only those of 256 MiB or more.
    mask : str, optional
        Which episodes of a robomimic file: the name of one of its masks, such as "valid", or "all". By default those of
        "train" where the file has that mask, and else all but those of "valid".

    Returns
    -------
    Episodes
        Facts of a file (environment, masks, seeds) are in its ``attributes``. Where a format does not say what was seen
        after the last step, the last observation stands for it; where it does not tell a terminal state from a time
        limit (robomimic's ``dones``), a final ``done`` counts as terminal. Nested observations get keys like ``a/b``.

    Raises
    ------
    FileNotFoundError
        If there is nothing there.
    ValueError
        If it is no regular file or folder of a known kind, or its content is not what the format wants; the message
        names file, episode and step. :class:`~anytask.core.errors.BadData` where the file is to blame.
    ImportError
        For HDF5 without the extra ``control``.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from anytask.datasets.episodes import Episode
    >>> episodes = Episodes.from_list([Episode([[0.0], [1.0]], [[0.5]], attributes={"success": True})])
    >>> with TemporaryDirectory() as folder:
    ...     save_episodes(Path(folder, "walk.npz"), episodes)
    ...     load_episodes(Path(folder, "walk.npz")).attributes
    {'success': array([ True])}
    """
    path = as_path(path)
    if format is not None and not (isinstance(format, str) and format in get_args(Format)):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, got {shown(format)}")
    if not path.exists():
        raise FileNotFoundError(f"no episodes at {path}: there is no such file or folder")
    if not path.is_dir():
        require_regular(path)
    with reading(path):
        format = format or _detect(path)
        if mask is not None and format != "robomimic":
            raise ValueError(f"mask={mask!r} names a mask of a robomimic file, and this is {format}")
        if format == "npz":
            return npz.read(path)
        if format == "lerobot":
            return lerobot.read(path)
        return minari.read(path, lazy) if format == "minari" else robomimic.read(path, lazy, mask)


def save_episodes(
    path: str | os.PathLike[str], episodes: Episodes, format: Literal["npz", "robomimic", "minari"] | None = None
) -> None:
    """Write a data set of episodes, replacing what is there.

    Parameters
    ----------
    path : path
        Its ending settles the format if none is given: ``.npz``; ``.hdf5`` or ``.h5`` (robomimic's layout); none, which
        makes a Minari folder that ``minari.MinariDataset(path / "data")`` reads.
    episodes : Episodes
    format : {"npz", "robomimic", "minari"}, optional

    Raises
    ------
    ValueError
        For an unknown format, or a folder that is to be replaced and holds something else.
    TypeError
        If an attribute is of a kind that the file cannot hold.
    """
    path = as_path(path)
    instance_of("episodes", Episodes, optional=False)(episodes)
    by_ending = {".npz": "npz", ".hdf5": "robomimic", ".h5": "robomimic", "": "minari"}
    chosen = by_ending.get(path.suffix) if format is None else format
    writers: dict[Any, Callable[[Path, Episodes], None]] = {
        "npz": npz.write, "robomimic": robomimic.write, "minari": minari.write,
    }  # fmt: skip
    if chosen not in writers:
        raise ValueError(f"episodes are written as npz, robomimic or minari; {path.name} ({chosen!r}) is none of them")
    writers[chosen](path, episodes)


def _detect(path: Path) -> Format:
    if path.is_dir():
        if minari.data_file(path).is_file():
            return "minari"
        if (path / lerobot.INFO).is_file():
            return "lerobot"
        raise ValueError(f"it holds neither {minari.DATA_FILE} (Minari) nor {lerobot.INFO} (LeRobot)")
    if path.suffix == ".npz":
        return "npz"
    if path.suffix in (".hdf5", ".h5"):
        with hdf5.opened(path) as file:
            return "robomimic" if "data" in file else "minari"
    raise ValueError("not an .npz or .hdf5 file, nor a folder of episodes")
