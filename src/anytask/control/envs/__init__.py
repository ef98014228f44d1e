"""The environments of this package, and their ids for Gymnasium.

Importing this package (or :mod:`anytask.control`) registers them, so that ``gymnasium.make("anytask/Reach-v0")`` and
``gymnasium.make_vec("anytask/Reach-v0", num_envs=64)`` work; without the import, Gymnasium's module prefix does it:
``gymnasium.make("anytask.control:anytask/Reach-v0")``. ``make`` gives one environment on arrays, ``make_vec`` and
:func:`anytask.control.make` the batched one in tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anytask.core.discovery import keyed, load

if TYPE_CHECKING:
    from anytask.control.base import BatchedEnv, SingleEnv

try:
    import gymnasium
except ImportError as error:  # pragma: no cover - exercised in a process of its own
    raise ImportError("the control family needs Gymnasium: pip install 'anytask[control]'") from error

#: Id -> where its batched class is: every class in these modules that sets its ``env_id``.
ENVIRONMENTS = keyed(__name__, "env_id")


def batched_class(env_id: str) -> type[BatchedEnv]:
    """Return the batched class behind one of this package's ids.

    Examples
    --------
    >>> batched_class("anytask/Reach-v0").__name__
    'Reach'
    """
    return load(ENVIRONMENTS[env_id])


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


def __getattr__(name: str) -> Callable[..., SingleEnv]:
    """Return what makes one environment of the id ``anytask/<name>``.

    Gymnasium finds an entry point by its name, which keeps specs serialisable.
    """
    if f"anytask/{name}" not in ENVIRONMENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return functools.partial(_single, f"anytask/{name}")


def _single(env_id: str, **options: Any) -> SingleEnv:
    from anytask.control.base import SingleEnv

    return SingleEnv(batched_class(env_id), **options)


for _id, _entry in ENVIRONMENTS.items():
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=f"{__name__}:{_id.removeprefix('anytask/')}", vector_entry_point=_entry)
