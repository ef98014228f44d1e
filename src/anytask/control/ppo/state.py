"""The state of a policy-gradient learner on disk: what a file can hold of it, and whether two states are alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from anytask.control.actor_critic import space_to_tree
from anytask.core.persistence import load_tree


def writable(params: Mapping[str, Any], objects: tuple[str, ...]) -> dict[str, Any]:
    """Return constructor arguments for a file: of ``objects`` that are no plain values the type's name is kept."""
    return {
        name: {"lost": type(value).__name__} if name in objects and not _plain(value) else value
        for name, value in params.items()
        if name != "device"
    }


def given_again(saved: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved constructor arguments with those in ``params`` instead, which must make up for what was lost."""
    lost = [name for name, value in saved.items() if _is_lost(value) and name not in params]
    if lost:
        raise ValueError(f"{', '.join(lost)} could not be saved: pass it to load again")
    return {**saved, **params}


def has_checkpoint(folder: str | os.PathLike[str] | None) -> bool:
    """Whether a folder holds something to go on from."""
    return folder is not None and (Path(folder) / "state.json").is_file()


def read_checkpoint(folder: str | os.PathLike[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state in a checkpoint, unless it belongs to another learner than ``own`` or is no checkpoint."""
    tree = load_tree(folder)
    for name in ("class", "params", "spaces"):
        if not same(tree.get(name), own[name]):
            raise ValueError(f"the checkpoint in {folder} belongs to another training: its {name} differ")
    if "run" not in tree:
        raise ValueError(f"{folder} holds a saved policy and no checkpoint: load it, and train on")
    return tree


def alike(a: gymnasium.Space, b: gymnasium.Space) -> bool:
    """Whether two spaces are the same."""
    return same(space_to_tree(a), space_to_tree(b))


def same(a: Any, b: Any) -> bool:
    """Equality of nested state, in which a list and a tuple of the same values are the same."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return bool(a == b)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _is_lost(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"lost"}
