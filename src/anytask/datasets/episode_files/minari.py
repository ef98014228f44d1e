"""Episodes in Minari's layout. Minari itself stays out: only the tests depend on it, and users without it read these.

A folder with ``data/main_data.hdf5``, a group per episode, and ``data/metadata.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.files import replacing
from anytask.datasets.episode_files import hdf5
from anytask.datasets.episode_files.common import read_json, reading, split_attributes
from anytask.datasets.episodes import OBSERVATION, Episodes

DATA_FILE = Path("data", "main_data.hdf5")
_VERSION = "0.5.3"


def data_file(path: Path) -> Path:
    """Return where the episodes of a data set lie: its folder, the folder ``data`` in it, or the file may be given."""
    if not path.is_dir():
        return path
    inner = path / DATA_FILE.name
    return inner if inner.is_file() else path / DATA_FILE


def read(path: Path, lazy: bool | None) -> Episodes:
    path = data_file(path)
    metadata_path = path.with_name("metadata.json")
    metadata = read_json(metadata_path) if metadata_path.exists() else {}
    with hdf5.opened(path) as file:
        hdf5.require_declared(path, file)
        names, episodes = hdf5.numbered(file, "episode"), []
        for name in names:
            with reading(f"{path}: {name}"):
                facts = hdf5.facts_of(file[name].attrs, ("id", "total_steps"))
                episodes.append(hdf5.read_episode(path, file[name], "observations", 1, facts))
    attributes = dict(metadata.get("anytask_attributes", {}))
    if isinstance(metadata.get("env_spec"), str):
        attributes.setdefault("env_id", json.loads(metadata["env_spec"]).get("id"))
    if metadata.get("dataset_id"):
        attributes.setdefault("name", metadata["dataset_id"])
    return hdf5.assembled(path, episodes, attributes, names, lazy)


def write(path: Path, episodes: Episodes) -> None:
    whole, single = split_attributes(episodes)
    if path.exists() and not (path / DATA_FILE).is_file():
        raise ValueError(f"{path} exists and is not a Minari data set: it is left as it is")
    plain = episodes.keys == (OBSERVATION,)
    spaces = {k: _box(np.dtype(v.dtype), episodes.shape_of(k)) for k, v in episodes.observations.items()}
    metadata = {
        "total_episodes": len(episodes), "total_steps": episodes.steps, "data_format": "hdf5", "jpeg_encoding": False,
        "observation_space": json.dumps(spaces[OBSERVATION] if plain else _nested(spaces)),
        "action_space": json.dumps(_box(episodes.actions.dtype, (episodes.action_dim,))),
        "dataset_id": path.name, "minari_version": _VERSION, "anytask_attributes": whole,
    }  # fmt: skip
    with replacing(path) as temporary:
        (temporary / "data").mkdir(parents=True)
        with hdf5.h5py().File(temporary / DATA_FILE, "w", libver="latest", track_order=True) as file:
            for i, episode in enumerate(episodes):
                group, n = file.create_group(f"episode_{i}"), len(episode)
                group.attrs["id"], group.attrs["total_steps"] = i, n
                hdf5.write_facts(group, single, i)
                for key, value in episode.observations.items():
                    hdf5.write(group, "observations" if plain else f"observations/{key}", value)
                hdf5.write(group, "actions", episode.actions)
                hdf5.write(group, "rewards", episode.rewards)
                hdf5.write(group, "terminations", hdf5.at_last(n, episode.terminated))
                hdf5.write(group, "truncations", hdf5.at_last(n, bool(episode.truncated)))
        metadata["dataset_size"] = round((temporary / DATA_FILE).stat().st_size / 1e6, 1)
        (temporary / "data" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


def _box(dtype: np.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    if dtype.kind == "f":
        low, high = -np.inf, np.inf
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    full = {n: np.full(shape, v, dtype).tolist() for n, v in (("low", low), ("high", high))}
    return {"type": "Box", "dtype": str(dtype), "shape": list(shape), **full}


def _nested(spaces: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the keys ``a/b`` into spaces within spaces."""
    out: dict[str, Any] = {"type": "Dict", "subspaces": {}}
    for key, space in spaces.items():
        *above, last = key.split("/")
        place = out
        for head in above:
            place = place["subspaces"].setdefault(head, {"type": "Dict", "subspaces": {}})
        place["subspaces"][last] = space
    return out
