"""Episodes in one .npz file of arrays: the fields of :class:`~anytask.datasets.episodes.Episodes` by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from anytask.core.files import replacing
from anytask.datasets.archives import opened_npz
from anytask.datasets.episode_files.common import split_attributes
from anytask.datasets.episodes import Episodes


def write(path: Path, episodes: Episodes) -> None:
    whole, single = split_attributes(episodes)
    arrays = {n: getattr(episodes, n) for n in ("actions", "rewards", "terminated", "truncated", "lengths")}
    arrays |= {f"observations/{k}": np.asarray(v[:]) for k, v in episodes.observations.items()}
    arrays |= {f"final_observations/{k}": np.asarray(v[:]) for k, v in episodes.final_observations.items()}
    arrays |= {f"attributes/{k}": v for k, v in single.items()}
    arrays["attributes"] = np.array(json.dumps(whole))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read(path: Path) -> Episodes:
    with opened_npz(path) as archive:
        arrays = dict(zip(archive.arrays, archive.read(*archive.arrays)))
    seen = _under(arrays, "observations")
    missing = [name for name in ("actions", "lengths") if name not in arrays] + ([] if seen else ["observations/*"])
    if missing:
        raise ValueError(f"{', '.join(missing)} missing; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    actions, lengths = arrays["actions"], arrays["lengths"]
    if lengths.ndim != 1 or lengths.sum() != len(actions):
        raise ValueError(f"lengths add up to {lengths.sum()}, and there are {len(actions)} actions")
    ends = np.cumsum(lengths) - 1
    at_end = np.isin(np.arange(len(actions)), ends)
    terminated = arrays.get("terminated", np.zeros_like(at_end))
    return Episodes(
        seen,
        actions,
        arrays.get("rewards", np.zeros(len(actions))),
        terminated,
        arrays["truncated"] if "truncated" in arrays else at_end & ~terminated,
        _under(arrays, "final_observations") or {k: v[ends] for k, v in seen.items()},
        lengths,
        {**json.loads(str(arrays.get("attributes", "{}"))), **_under(arrays, "attributes")},
    )


def _under(arrays: Mapping[str, np.ndarray], folder: str) -> dict[str, np.ndarray]:
    return {name[len(folder) + 1 :]: value for name, value in arrays.items() if name.startswith(f"{folder}/")}
