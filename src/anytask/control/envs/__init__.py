"""The environments of this package, and their ids for Gymnasium.

Importing this package (or :mod:`anytask.control`) registers them, so that ``gymnasium.make("anytask/Reach-v0")`` and
``gymnasium.make_vec("anytask/Reach-v0", num_envs=64)`` work; without the import, Gymnasium's module prefix does it:
``gymnasium.make("anytask.control:anytask/Reach-v0")``. ``make`` gives one environment on arrays, ``make_vec`` and
:func:`anytask.control.make` the batched one in tensors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytask.control.base import BatchedEnv, SingleEnv

try:
    import gymnasium
except ImportError as error:  # pragma: no cover - exercised in a process of its own
    raise ImportError("the control family needs Gymnasium: pip install 'anytask[control]'") from error

#: Id -> where its batched class is.
ENVIRONMENTS = {
    "anytask/Reach-v0": "anytask.control.envs.reach:Reach",
    "anytask/WalledReach-v0": "anytask.control.envs.reach:WalledReach",
    "anytask/WaypointReach-v0": "anytask.control.envs.reach:WaypointReach",
    "anytask/Rearrangement-v0": "anytask.control.envs.rearrangement:Rearrangement",
    "anytask/FetchRearrangement-v0": "anytask.control.envs.rearrangement:FetchRearrangement",
}


def batched_class(env_id: str) -> type[BatchedEnv]:
    """Return the batched class behind one of this package's ids.

    Examples
    --------
    >>> batched_class("anytask/Reach-v0").__name__
    'Reach'
    """
    module, name = ENVIRONMENTS[env_id].split(":")
    return getattr(importlib.import_module(module), name)


def id_of(env: Any) -> str | None:
    """Return the id of one of this package's environments, wrapped or not; None for any other.

    Examples
    --------
    >>> from anytask.control import make
    >>> id_of(make("anytask/Reach-v0", 2))
    'anytask/Reach-v0'
    """
    kind = type(getattr(env.unwrapped, "batched", env.unwrapped))
    entry = f"{kind.__module__}:{kind.__qualname__}"
    return next((env_id for env_id, its_entry in ENVIRONMENTS.items() if its_entry == entry), None)


def _single(env_id: str, options: dict[str, Any]) -> SingleEnv:
    from anytask.control.base import SingleEnv

    return SingleEnv(batched_class(env_id), **options)


# Gymnasium finds an entry point by its name, which keeps specs serialisable; hence one function per id.
def single_reach(**options: Any) -> SingleEnv:
    """Return one :class:`~anytask.control.envs.reach.Reach`."""
    return _single("anytask/Reach-v0", options)


def single_walled_reach(**options: Any) -> SingleEnv:
    """Return one :class:`~anytask.control.envs.reach.WalledReach`."""
    return _single("anytask/WalledReach-v0", options)


def single_waypoint_reach(**options: Any) -> SingleEnv:
    """Return one :class:`~anytask.control.envs.reach.WaypointReach`."""
    return _single("anytask/WaypointReach-v0", options)


def single_rearrangement(**options: Any) -> SingleEnv:
    """Return one ``Rearrangement``."""
    return _single("anytask/Rearrangement-v0", options)


def single_fetch_rearrangement(**options: Any) -> SingleEnv:
    """Return one ``FetchRearrangement``."""
    return _single("anytask/FetchRearrangement-v0", options)


_SINGLE = {
    "anytask/Reach-v0": "single_reach",
    "anytask/WalledReach-v0": "single_walled_reach",
    "anytask/WaypointReach-v0": "single_waypoint_reach",
    "anytask/Rearrangement-v0": "single_rearrangement",
    "anytask/FetchRearrangement-v0": "single_fetch_rearrangement",
}

for _id, _entry in ENVIRONMENTS.items():
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=f"{__name__}:{_SINGLE[_id]}", vector_entry_point=_entry)
