"""Episodes in robomimic's layout: one HDF5 file with a group per demonstration, and masks that name some of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from anytask.core.files import replacing
from anytask.datasets.episode_files import hdf5
from anytask.datasets.episode_files.common import reading, split_attributes
from anytask.datasets.episodes import Episodes

logger = logging.getLogger(__name__)


def read(path: Path, lazy: bool | None, mask: str | None) -> Episodes:
    with hdf5.opened(path) as file:
        if "data" not in file:
            raise ValueError(f"there is no data/demo_0, data/demo_1, ...; it holds {', '.join(file) or 'nothing'}")
        hdf5.require_declared(path, file)
        data = file["data"]
        masks = {
            name: {n.decode() if isinstance(n, bytes) else str(n) for n in item[()]}
            for name, item in file.get("mask", {}).items()
        }
        names = _chosen(hdf5.numbered(data, "demo"), masks, mask)
        episodes = []
        for name in names:
            with reading(f"{path}: data/{name}"):
                demo = data[name]
                facts = {f"mask/{mask}": name in members for mask, members in masks.items()}
                facts |= hdf5.facts_of(demo.attrs, ("num_samples", "model_file"))
                episodes.append(hdf5.read_episode(path, demo, "obs", 0, facts))
        attributes = hdf5.facts_of(data.attrs, ("total", "attributes"))
        attributes |= json.loads(data.attrs.get("attributes", "{}"))
    if isinstance(attributes.get("env_args"), str):
        attributes["env_args"] = json.loads(attributes["env_args"])
    return hdf5.assembled(path, episodes, attributes, [f"data/{name}" for name in names], lazy)


def _chosen(names: list[str], masks: Mapping[str, set[str]], mask: str | None) -> list[str]:
    """Return the demonstrations of a mask; without one, those to train on."""
    if mask is not None and mask != "all" and mask not in masks:
        raise ValueError(f"there is no mask {mask!r}; its masks: {', '.join(masks) or 'none'}, and 'all' takes all")
    if mask is None and "train" not in masks:
        chosen = [name for name in names if name not in masks.get("valid", ())]
    else:
        chosen = names if mask == "all" else [name for name in names if name in masks[mask or "train"]]
    if not chosen:
        raise ValueError(f"none of its {len(names)} demonstrations is in the mask {mask or 'train'!r}")
    if len(chosen) < len(names):
        logger.info("%d of %d demonstrations are read, those of mask %r", len(chosen), len(names), mask or "train")
    return chosen


def write(path: Path, episodes: Episodes) -> None:
    whole, single = split_attributes(episodes)
    masks = {name: values for name, values in single.items() if name.startswith("mask/")}
    facts = {name: values for name, values in single.items() if name not in masks}
    with replacing(path) as temporary, hdf5.h5py().File(temporary, "w", libver="latest") as file:
        data = file.create_group("data")
        data.attrs["total"] = episodes.steps
        env_args = whole.get("env_args") or {"env_name": str(whole.get("env_id", "")), "type": 2, "env_kwargs": {}}
        data.attrs["env_args"] = json.dumps(env_args)
        data.attrs["attributes"] = json.dumps({k: v for k, v in whole.items() if k != "env_args"})
        for name, values in masks.items():
            members = [f"demo_{i}" for i in np.flatnonzero(values)]
            hdf5.write(file, name, np.array(members, dtype="S"))
        for i, episode in enumerate(episodes):
            n, ended, limited = len(episode), episode.terminated, bool(episode.truncated)
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = n
            hdf5.write_facts(demo, facts, i)
            for key, value in episode.observations.items():
                packed = {"compression": "gzip", "compression_opts": 1} if value.dtype == np.uint8 else {}
                hdf5.write(demo, f"obs/{key}", value[:-1], **packed)
                hdf5.write(demo, f"next_obs/{key}", value[1:], **packed)
            flags = {"terminated": ended, "truncated": limited, "dones": ended or limited}
            for name, flag in flags.items():
                hdf5.write(demo, name, hdf5.at_last(n, flag).astype(np.int64 if name == "dones" else bool))
            hdf5.write(demo, "actions", episode.actions)
            hdf5.write(demo, "rewards", episode.rewards)
