"""Read and write episodes: npz, HDF5 in robomimic's layout, Minari folders, and LeRobot parquet folders (read only).

Whatever goes wrong names the file, the episode and the row. Files are complete or absent: they are written beside their
place and moved in. Pictures in large HDF5 files stay there and are read row by row.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anytask.datasets.episodes import OBSERVATION, Episodes, column_of

logger = logging.getLogger(__name__)

Format = Literal["npz", "robomimic", "minari", "lerobot"]
#: Pictures of at least this many bytes in all stay in their HDF5 file.
LAZY_BYTES = 256 * 2**20
_MINARI_FILE = Path("data", "main_data.hdf5")
_MINARI_VERSION = "0.5.3"


def load_episodes(path: str | os.PathLike[str], format: Format | None = None, *, lazy: bool | None = None) -> Episodes:
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
        Leave pictures in the HDF5 file and read the rows that are asked for. By default only those of 256 MiB or more.

    Returns
    -------
    Episodes
        Facts of a file (environment, masks, seeds) are in its ``attributes``. Where a format does not say what was seen
        after the last step, the last observation stands for it; where it does not tell a terminal state from a time
        limit (robomimic's ``dones``), a final ``done`` counts as terminal. Nested observations get keys like ``a/b``.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing there, or the content is not what the format wants; the message names file, episode and row.
    ImportError
        For HDF5 without the extra ``control``.

    Examples
    --------
    >>> from anytask.datasets.episodes import Episode
    >>> episodes = Episodes.from_list([Episode([[0.0], [1.0]], [[0.5]], attributes={"success": True})])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_episodes(Path(folder, "walk.npz"), episodes)
    ...     load_episodes(Path(folder, "walk.npz")).attributes
    {'success': array([ True])}
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no episodes at {path}: there is no such file or folder")
    format = format or _detect(path)
    if format == "npz":
        return _read_npz(path)
    if format == "lerobot":
        return _read_lerobot(path)
    if format == "robomimic":
        return _read_robomimic(path, lazy)
    if format == "minari":
        return _read_minari(path, lazy)
    raise ValueError(f"format must be npz, robomimic, minari or lerobot, got {format!r}")


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
    path = Path(path)
    if format is None:
        format = {".npz": "npz", ".hdf5": "robomimic", ".h5": "robomimic", "": "minari"}.get(path.suffix)  # type: ignore[assignment]
    writers: dict[Any, Callable[[Path, Episodes], None]] = {
        "npz": _write_npz,
        "robomimic": _write_robomimic,
        "minari": _write_minari,
    }
    if format not in writers:
        raise ValueError(f"episodes are written as npz, robomimic or minari; {path.name} ({format!r}) is none of them")
    writers[format](path, episodes)


def _detect(path: Path) -> Format:
    if path.is_dir():
        if (path / _MINARI_FILE).is_file() or (path / _MINARI_FILE.name).is_file():
            return "minari"
        if (path / "meta" / "info.json").is_file():
            return "lerobot"
        raise ValueError(f"{path} holds neither {_MINARI_FILE} (Minari) nor meta/info.json (LeRobot)")
    if path.suffix == ".npz":
        return "npz"
    if path.suffix in (".hdf5", ".h5"):
        with _open(path) as file:
            return "robomimic" if "data" in file else "minari"
    raise ValueError(f"{path} is not an .npz or .hdf5 file, nor a folder of episodes")


# -- from episodes one by one to a data set ---------------------------------------------------------------------------


@dataclass
class _Record:
    """One episode as it was read; ``seen`` may hold rows that stay in the file."""

    name: str
    seen: dict[str, Any]  # key -> (T, ...)
    final: dict[str, np.ndarray]  # key -> (...)
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    facts: dict[str, Any] = field(default_factory=dict)


def _assemble(path: Path, records: list[_Record], attributes: Mapping[str, Any]) -> Episodes:
    if not records:
        raise ValueError(f"{path} holds no episodes")
    first = records[0]
    for r in records:
        n = len(r.actions)
        if n == 0:
            raise ValueError(f"{path}, {r.name}: there are no actions")
        if set(r.seen) != set(first.seen):
            raise ValueError(f"{path}, {r.name}: observations {sorted(r.seen)}, {sorted(first.seen)} in {first.name}")
        if r.rewards.shape != (n,):
            raise ValueError(f"{path}, {r.name}: {n} actions and rewards of shape {r.rewards.shape}")
        tables = {f"observation {k!r}": (v, first.seen[k]) for k, v in r.seen.items()}
        tables |= {"actions": (r.actions, first.actions), "rewards": (r.rewards, first.rewards)}
        for what, (value, like) in tables.items():
            if len(value) != n:
                raise ValueError(f"{path}, {r.name}: {len(value)} rows of {what} and {n} actions")
            if value.shape[1:] != like.shape[1:]:
                there = f"{tuple(like.shape[1:])} in {first.name}"
                raise ValueError(f"{path}, {r.name}: {what} has the shape {tuple(value.shape[1:])} per step, {there}")
            if isinstance(value, np.ndarray):
                if value.dtype.kind not in "fiub":
                    raise ValueError(f"{path}, {r.name}: {what} must be numbers, got {value.dtype}")
                bad = ~np.isfinite(value.reshape(n, -1)).all(1)
                if bad.any():
                    raise ValueError(f"{path}, {r.name}, row {int(bad.argmax())}: {what} is not a finite number")
    lengths = np.array([len(r.actions) for r in records])
    ends = np.cumsum(lengths) - 1
    terminated, truncated = np.zeros((2, int(lengths.sum())), dtype=bool)
    terminated[ends], truncated[ends] = [r.terminated for r in records], [r.truncated for r in records]
    names = dict.fromkeys(name for r in records for name in r.facts)
    facts = {name: column_of([r.facts.get(name) for r in records]) for name in names}
    try:
        return Episodes(
            {k: _join([r.seen[k] for r in records]) for k in first.seen},
            np.concatenate([r.actions for r in records]),
            np.concatenate([r.rewards for r in records]),
            terminated,
            truncated,
            {k: np.stack([r.final[k] for r in records]) for k in first.seen},
            lengths,
            {**attributes, **facts},
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _join(parts: list[Any]) -> Any:
    if isinstance(parts[0], StoredRows):
        return StoredRows(parts[0].path, [piece for part in parts for piece in part.pieces], parts[0].shape[1:])
    return np.concatenate(parts)


class StoredRows:
    """Rows of uint8 pictures that stay in an HDF5 file; ``rows[i]`` reads those that are asked for.

    Parameters
    ----------
    path : path
    pieces : list of (data set, rows)
        Where the rows lie, one piece per episode, and how many of the first rows of it count.
    shape : tuple of int
        Of one row.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, pieces: list[tuple[str, int]], shape: tuple[int, ...]) -> None:
        self.path, self.pieces = Path(path), pieces
        self._borders = np.concatenate([[0], np.cumsum([n for _, n in pieces])]).astype(np.int64)
        self.shape = (int(self._borders[-1]), *shape)
        self._file: Any = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # an open file does not travel to other processes

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, tuple):
            raise TypeError("pictures in a file are read by whole rows")
        if self._file is None:
            self._file = _h5py().File(self.path, "r")
        wanted = np.arange(len(self))[rows]
        flat = wanted.reshape(-1)
        out = np.empty((len(flat), *self.shape[1:]), dtype=self.dtype)
        piece_of = np.searchsorted(self._borders, flat, side="right") - 1
        for p in np.unique(piece_of):
            here = np.flatnonzero(piece_of == p)
            local, back = np.unique(flat[here] - self._borders[p], return_inverse=True)  # h5py wants rising rows
            stored = self._file[self.pieces[p][0]]
            span = slice(int(local[0]), int(local[-1]) + 1)
            dense = span.stop - span.start <= 2 * len(local)
            read = stored[span][local - local[0]] if dense else stored[local]
            out[here] = read[back]
        return out.reshape(*wanted.shape, *self.shape[1:])


# -- npz --------------------------------------------------------------------------------------------------------------


def _write_npz(path: Path, episodes: Episodes) -> None:
    whole, single = _split_attributes(episodes)
    arrays = {n: getattr(episodes, n) for n in ("actions", "rewards", "terminated", "truncated", "lengths")}
    arrays |= {f"observations/{k}": np.asarray(v[:]) for k, v in episodes.observations.items()}
    arrays |= {f"final_observations/{k}": np.asarray(v[:]) for k, v in episodes.final_observations.items()}
    arrays |= {f"attributes/{k}": v for k, v in single.items()}
    arrays["attributes"] = np.array(json.dumps(whole))
    with _replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _read_npz(path: Path) -> Episodes:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:
        raise ValueError(f"{path} is not an .npz file of arrays: {error}") from error
    wanted = ("actions", "lengths")
    if missing := [n for n in wanted if n not in arrays] or (
        [] if _under(arrays, "observations") else ["observations/*"]
    ):
        raise ValueError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    seen, lengths = _under(arrays, "observations"), arrays["lengths"].astype(np.int64)
    total = int(lengths.sum()) if lengths.ndim == 1 and len(lengths) else -1
    if total != len(arrays["actions"]):
        raise ValueError(f"{path}: lengths add up to {total}, and there are {len(arrays['actions'])} actions")
    ends = np.cumsum(lengths) - 1
    flag = np.zeros(total, dtype=bool)
    terminated = arrays.get("terminated", flag)
    if "truncated" not in arrays:
        flag[ends] = ~terminated[ends]
    final = _under(arrays, "final_observations") or {k: v[ends] for k, v in seen.items() if len(v) == total}
    try:
        return Episodes(
            seen,
            arrays["actions"],
            arrays.get("rewards", np.zeros(total)),
            terminated,
            arrays.get("truncated", flag),
            final,
            lengths,
            {**json.loads(str(arrays.get("attributes", "{}"))), **_under(arrays, "attributes")},
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _under(arrays: Mapping[str, np.ndarray], folder: str) -> dict[str, np.ndarray]:
    return {name[len(folder) + 1 :]: value for name, value in arrays.items() if name.startswith(f"{folder}/")}


def _split_attributes(episodes: Episodes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Facts on all episodes (checked to be JSON), and facts per episode."""
    single = {k: v for k, v in episodes.attributes.items() if episodes._per_episode(v)}
    whole = {k: v for k, v in episodes.attributes.items() if k not in single}
    for name, value in whole.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise TypeError(f"attribute {name!r} cannot be saved: {error}") from error
    for name, array in single.items():
        if array.dtype.kind not in "fiubU":
            raise TypeError(f"attribute {name!r} cannot be saved: it holds {array.dtype}")
    return whole, single


# -- HDF5 -------------------------------------------------------------------------------------------------------------


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install 'anytask[control]'") from error
    return h5py


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    h5py = _h5py()
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error
    with file:
        yield file


def _leaves(group: Any, prefix: str = "") -> dict[str, Any]:
    """All data sets below a group, by their path; a data set itself has the key of a plain observation."""
    if not hasattr(group, "items"):
        return {OBSERVATION: group}
    out: dict[str, Any] = {}
    for name, item in group.items():
        out |= _leaves(item, f"{prefix}{name}/") if hasattr(item, "items") else {f"{prefix}{name}": item}
    return out


def _numbered(group: Any, stem: str) -> list[str]:
    return sorted((n for n in group if re.fullmatch(rf"{stem}_\d+", n)), key=lambda n: int(n.rpartition("_")[2]))


def _stays(items: Mapping[str, Any], count: int, lazy: bool | None) -> set[str]:
    """Keys whose pictures stay in the file."""
    pictures = {k for k, v in items.items() if v.dtype == np.uint8 and v.ndim == 4}
    if lazy is None:  # the first episode stands for all
        return {k for k in pictures if items[k].size * count >= LAZY_BYTES}
    return pictures if lazy else set()


def _facts(attributes: Mapping[str, Any], skip: tuple[str, ...]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in attributes.items():
        value = value.decode() if isinstance(value, bytes) else value
        value = value.item() if isinstance(value, np.generic) else value
        if name not in skip and isinstance(value, (bool, int, float, str)):
            out[name] = value
    return out


def _read_robomimic(path: Path, lazy: bool | None) -> Episodes:
    with _open(path) as file:
        data = file.get("data")
        names = _numbered(data, "demo") if data is not None else []
        if not names:
            raise ValueError(f"{path} has no data/demo_0, data/demo_1, ...; it holds {', '.join(file) or 'nothing'}")
        masks = {}
        for name, item in file.get("mask", {}).items():
            members = {n.decode() if isinstance(n, bytes) else str(n) for n in item[()]}
            masks[f"mask/{name}"] = members
        records = []
        for name in names:
            demo = data[name]
            for need in ("obs", "actions"):
                if need not in demo:
                    raise ValueError(f"{path}, data/{name}: {need} is missing; it holds {', '.join(demo) or 'nothing'}")
            items = _leaves(demo["obs"])
            after = _leaves(demo["next_obs"]) if "next_obs" in demo else {}
            actions = demo["actions"][()]
            n = len(actions)
            short = next((k for k, v in items.items() if len(v) < max(n, 1)), None)
            if short is not None:
                raise ValueError(f"{path}, data/{name}: {len(items[short])} rows of obs/{short} and {n} actions")
            stays = _stays(items, len(names), lazy)
            dones = demo["dones"][()] if "dones" in demo else np.zeros(n)
            ended = bool(demo["terminated"][-1]) if "terminated" in demo else bool(len(dones) and dones[-1])
            limited = bool(demo["truncated"][-1]) if "truncated" in demo else not ended
            facts = _facts(demo.attrs, ("num_samples", "model_file"))
            facts |= {mask: name in members for mask, members in masks.items()}
            records.append(
                _Record(
                    f"data/{name}",
                    {k: StoredRows(path, [(v.name, len(v))], v.shape[1:]) if k in stays else v[()]
                     for k, v in items.items()},
                    {k: np.asarray(after.get(k, v)[-1]) for k, v in items.items()},
                    actions,
                    demo["rewards"][()] if "rewards" in demo else np.zeros(n),
                    ended, limited, facts,
                )
            )  # fmt: skip
        attributes = _facts(data.attrs, ("total", "attributes"))
        attributes |= json.loads(data.attrs.get("attributes", "{}"))
    if isinstance(attributes.get("env_args"), str):
        attributes["env_args"] = json.loads(attributes["env_args"])
    return _assemble(path, records, attributes)


def _write_robomimic(path: Path, episodes: Episodes) -> None:
    h5py = _h5py()
    whole, single = _split_attributes(episodes)
    with _replacing(path) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = episodes.steps
        env_args = whole.get("env_args") or {"env_name": str(whole.get("env_id", "")), "type": 2, "env_kwargs": {}}
        data.attrs["env_args"] = json.dumps(env_args)
        data.attrs["attributes"] = json.dumps({k: v for k, v in whole.items() if k != "env_args"})
        for name in (n for n in single if n.startswith("mask/")):
            members = [f"demo_{i}" for i in np.flatnonzero(single[name])]
            file.create_dataset(name, data=np.array(members, dtype="S"))
        for i, episode in enumerate(episodes):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = len(episode)
            for name, values in single.items():
                if not name.startswith("mask/"):
                    demo.attrs[name] = _plain(values[i])
            for key, value in episode.observations.items():
                pictures = {"compression": "gzip", "compression_opts": 1} if value.dtype == np.uint8 else {}
                demo.create_dataset(f"obs/{key}", data=value[:-1], **pictures)
                demo.create_dataset(f"next_obs/{key}", data=value[1:], **pictures)
            flags = {"terminated": episode.terminated, "truncated": bool(episode.truncated)}
            for name, flag in flags.items():
                demo.create_dataset(name, data=_last(len(episode), flag))
            demo.create_dataset("dones", data=_last(len(episode), any(flags.values())).astype(np.int64))
            demo.create_dataset("actions", data=episode.actions)
            demo.create_dataset("rewards", data=episode.rewards)


def _read_minari(path: Path, lazy: bool | None) -> Episodes:
    file_path = path if path.is_file() else next(
        p for p in (path / _MINARI_FILE, path / _MINARI_FILE.name) if p.is_file()
    )  # fmt: skip
    metadata_path = file_path.with_name("metadata.json")
    metadata = json.loads(metadata_path.read_text(encoding="utf-8")) if metadata_path.is_file() else {}
    with _open(file_path) as file:
        names = _numbered(file, "episode")
        if not names:
            raise ValueError(f"{file_path} has no episode_0, episode_1, ...; it holds {', '.join(file) or 'nothing'}")
        records = []
        for name in names:
            group = file[name]
            for need in ("observations", "actions"):
                if need not in group:
                    raise ValueError(f"{file_path}, {name}: {need} is missing; it holds {', '.join(group)}")
            if hasattr(group["actions"], "items"):
                raise ValueError(f"{file_path}, {name}: actions of several parts are not supported")
            items = _leaves(group["observations"])
            actions = group["actions"][()]
            n = len(actions)
            short = next((k for k, v in items.items() if len(v) != n + 1), None)
            if short is not None:
                raise ValueError(
                    f"{file_path}, {name}: {len(items[short])} rows of observations {short!r} and {n} actions; "
                    f"{n + 1} are wanted"
                )
            stays = _stays(items, len(names), lazy)
            read = {k: _pictures(v[()]) for k, v in items.items() if k not in stays}
            rows = {k: StoredRows(file_path, [(items[k].name, n)], items[k].shape[1:]) for k in stays}
            ended = bool(group["terminations"][-1]) if "terminations" in group else False
            records.append(
                _Record(
                    name,
                    {k: rows[k] if k in stays else read[k][:n] for k in items},
                    {k: np.asarray(v[n]) if k in stays else read[k][n] for k, v in items.items()},
                    actions,
                    group["rewards"][()] if "rewards" in group else np.zeros(n),
                    ended,
                    bool(group["truncations"][-1]) if "truncations" in group else not ended,
                    _facts(group.attrs, ("id", "total_steps")),
                )
            )
    attributes = dict(metadata.get("anytask_attributes", {}))
    if isinstance(metadata.get("env_spec"), str):
        attributes.setdefault("env_id", json.loads(metadata["env_spec"]).get("id"))
    if metadata.get("dataset_id"):
        attributes.setdefault("name", metadata["dataset_id"])
    return _assemble(file_path, records, attributes)


def _pictures(stored: np.ndarray) -> np.ndarray:
    """Decode pictures that are stored as JPEG files, one per row; other arrays come back as they are."""
    is_jpeg = stored.ndim in (1, 2) and stored.dtype in (np.uint8, object) and len(stored) and len(stored[0]) > 3
    if not is_jpeg or bytes(np.asarray(stored[0][:3], dtype=np.uint8)) != b"\xff\xd8\xff":
        return stored
    from PIL import Image

    return np.stack([np.asarray(Image.open(io.BytesIO(bytes(np.asarray(row, np.uint8))))) for row in stored])


def _write_minari(path: Path, episodes: Episodes) -> None:
    h5py = _h5py()
    whole, single = _split_attributes(episodes)
    if path.exists() and not (path / _MINARI_FILE).is_file():
        raise ValueError(f"{path} exists and is not a Minari data set: it is left as it is")
    plain = episodes.keys == (OBSERVATION,)
    spaces = {k: _box(np.dtype(v.dtype), episodes.shape_of(k)) for k, v in episodes.observations.items()}
    metadata = {
        "total_episodes": len(episodes), "total_steps": episodes.steps, "data_format": "hdf5", "jpeg_encoding": False,
        "observation_space": json.dumps(spaces[OBSERVATION] if plain else {"type": "Dict", "subspaces": _nest(spaces)}),
        "action_space": json.dumps(_box(episodes.actions.dtype, (episodes.action_dim,))),
        "dataset_id": path.name, "minari_version": _MINARI_VERSION, "anytask_attributes": whole,
    }  # fmt: skip
    with _replacing(path, folder=True) as temporary:
        (temporary / "data").mkdir()
        with h5py.File(temporary / _MINARI_FILE, "w", track_order=True) as file:
            for i, episode in enumerate(episodes):
                group = file.create_group(f"episode_{i}")
                group.attrs["id"], group.attrs["total_steps"] = i, len(episode)
                for name, values in single.items():
                    group.attrs[name] = _plain(values[i])
                for key, value in episode.observations.items():
                    group.create_dataset("observations" if plain else f"observations/{key}", data=value)
                group.create_dataset("actions", data=episode.actions)
                group.create_dataset("rewards", data=episode.rewards)
                group.create_dataset("terminations", data=_last(len(episode), episode.terminated))
                group.create_dataset("truncations", data=_last(len(episode), bool(episode.truncated)))
        metadata["dataset_size"] = round((temporary / _MINARI_FILE).stat().st_size / 1e6, 1)
        (temporary / "data" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


def _box(dtype: np.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    if dtype.kind == "f":
        low, high = -np.inf, np.inf
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    full = {n: np.full(shape, v, dtype).tolist() for n, v in (("low", low), ("high", high))}
    return {"type": "Box", "dtype": str(dtype), "shape": list(shape), **full}


def _nest(spaces: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the keys ``a/b`` into spaces within spaces."""
    out: dict[str, Any] = {}
    for key, space in spaces.items():
        head, _, rest = key.partition("/")
        if rest:
            out.setdefault(head, {"type": "Dict", "subspaces": {}})["subspaces"] |= _nest({rest: space})
        else:
            out[head] = space
    return out


def _last(n: int, flag: bool) -> np.ndarray:
    out = np.zeros(n, dtype=bool)
    out[-1] = flag
    return out


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, np.str_) else value


# -- LeRobot ----------------------------------------------------------------------------------------------------------


def _read_lerobot(path: Path) -> Episodes:
    import pyarrow.parquet as pq

    info_path = path / "meta" / "info.json"
    if not info_path.is_file():
        raise ValueError(f"{path} has no meta/info.json, which a LeRobot folder needs")
    info = json.loads(info_path.read_text(encoding="utf-8"))
    files = sorted(path.glob("data/chunk-*/episode_*.parquet"))
    if not files:
        raise ValueError(f"{path} has no data/chunk-*/episode_*.parquet (LeRobot version 2)")
    features = info.get("features", {})
    videos = [k for k, f in features.items() if f.get("dtype") == "video"]
    if videos:
        logger.warning("%s: %s are videos and are left out", path, ", ".join(videos))
    tasks = {}
    if (tasks_path := path / "meta" / "tasks.jsonl").is_file():
        rows = [json.loads(line) for line in tasks_path.read_text(encoding="utf-8").splitlines() if line.strip()]
        tasks = {row["task_index"]: row["task"] for row in rows}
    records = []
    for file in files:
        try:
            table = pq.read_table(file)
        except Exception as error:
            raise ValueError(f"{file} is not a readable parquet file: {error}") from error
        columns = set(table.column_names)
        keys = sorted(c for c in columns if c == "observation" or c.startswith("observation."))
        if "action" not in columns or not keys:
            raise ValueError(f"{file}: columns 'action' and 'observation.*' are wanted, it has {sorted(columns)}")
        seen = {k.removeprefix("observation."): _parquet_column(path, file, table, k, features) for k in keys}
        n = table.num_rows
        done = bool(table["next.done"][-1].as_py()) if "next.done" in columns else False
        success = bool(table["next.success"][-1].as_py()) if "next.success" in columns else None
        facts: dict[str, Any] = {} if success is None else {"success": success}
        if "task_index" in columns:
            number = table["task_index"][0].as_py()
            facts["task"] = str(tasks.get(number, number))
        reward = table["next.reward"].to_numpy() if "next.reward" in columns else np.zeros(n)
        terminal = done and success is not False
        records.append(
            _Record(
                file.name, seen, {k: v[-1] for k, v in seen.items()},
                _parquet_column(path, file, table, "action", features), reward, terminal, not terminal, facts,
            )
        )  # fmt: skip
    attributes = {k: info[k] for k in ("robot_type", "fps") if info.get(k) is not None}
    return _assemble(path, records, attributes)


def _parquet_column(path: Path, file: Path, table: Any, name: str, features: Mapping[str, Any]) -> np.ndarray:
    values = table[name].to_pylist()
    if missing := [i for i, v in enumerate(values) if v is None]:
        raise ValueError(f"{file}, row {missing[0]}: {name} is missing")
    if isinstance(values[0], dict):  # pictures: the file's bytes, or its path
        from PIL import Image

        def opened(v: dict[str, Any]) -> Any:
            return Image.open(io.BytesIO(v["bytes"]) if v.get("bytes") else path / v["path"])

        return np.stack([np.asarray(opened(v).convert("RGB")) for v in values])
    try:
        array = np.array(values)
    except ValueError as error:
        raise ValueError(f"{file}: the rows of {name} have different lengths") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{file}: {name} must be numbers")
    shape = features.get(name, {}).get("shape")
    return array.reshape(len(array), *shape) if shape and len(shape) > 1 else array


# -- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def _replacing(path: Path, folder: bool = False) -> Iterator[Path]:
    """Give a place to write to, beside ``path``, and move what was written there to ``path``; nothing if it failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    else:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        os.close(handle)
        temporary = Path(name)
    try:
        yield temporary
        if folder and path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
            try:
                os.replace(path, old)
                try:
                    os.replace(temporary, path)
                except BaseException:
                    os.replace(old, path)
                    raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except BaseException:
        if folder:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise
