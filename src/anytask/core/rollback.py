"""Undo what a failed update did: a structural snapshot of an object that is put back in place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, range, type, torch.dtype, torch.device, torch.Size)


class _Snapshot:
    """The mutable content reachable from an object, remembered so that it can be put back into the same objects."""

    def __init__(self, root: object, skip: frozenset[str]) -> None:
        self._undo: list[Callable[[], Any]] = []
        self._tensors: list[torch.Tensor] = []
        self._seen: set[int] = set()
        self._fields(root, {k: v for k, v in vars(root).items() if k not in skip})
        self._copies = [t.detach().clone() for t in self._tensors]

    def restore(self) -> None:
        with torch.no_grad():
            for tensor, copy in zip(self._tensors, self._copies, strict=True):
                tensor.data.copy_(copy)
        for undo in reversed(self._undo):
            undo()

    def _fields(self, obj: Any, walk: dict[str, Any]) -> None:
        self._undo.append(partial(_refill, vars(obj), dict(vars(obj))))
        for value in walk.values():
            self._record(value)

    def _record(self, obj: Any) -> None:
        if isinstance(obj, _IMMUTABLE) or id(obj) in self._seen:
            return
        self._seen.add(id(obj))
        if isinstance(obj, torch.Tensor):
            self._tensors.append(obj)
        elif isinstance(obj, np.ndarray):
            self._undo.append(partial(np.copyto, obj, obj.copy()))
        elif isinstance(obj, np.random.Generator):
            self._undo.append(partial(setattr, obj.bit_generator, "state", obj.bit_generator.state))
        elif isinstance(obj, torch.Generator):
            self._undo.append(partial(obj.set_state, obj.get_state()))
        elif isinstance(obj, dict):
            self._undo.append(partial(_refill, obj, dict(obj)))
            for value in list(obj.values()):
                self._record(value)
        elif isinstance(obj, (list, deque)):
            self._undo.append(partial(_refill, obj, list(obj)))
            for value in list(obj):
                self._record(value)
        elif isinstance(obj, set):
            self._undo.append(partial(_refill, obj, set(obj)))
        elif isinstance(obj, tuple):
            for value in obj:
                self._record(value)
        elif hasattr(obj, "__snapshot__"):
            self._undo.append(obj.__snapshot__())
        elif isinstance(obj, torch.nn.Module):
            hooks = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")
            self._fields(obj, {k: v for k, v in vars(obj).items() if not k.endswith(hooks)})
        elif hasattr(obj, "__dict__") and not callable(obj):
            self._fields(obj, dict(vars(obj)))


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, (list, deque)):
        container.extend(content)
    else:
        container.update(content)


@contextmanager
def rollback(obj: object, skip: frozenset[str] = frozenset()) -> Iterator[None]:
    """Leave ``obj`` exactly as it was if the block raises, interrupts included.

    Tensors, arrays, generators, containers, modules and optimisers reachable from the attributes of ``obj`` are put
    back *in place*, so references between them (an optimiser's parameters) stay valid. An object that knows a cheaper
    way to undo its changes may offer ``__snapshot__()``, which returns the function that undoes them.

    Parameters
    ----------
    obj : object
        What the block changes.
    skip : frozenset of str
        Attributes not to look into because the block does not change what they hold.

    Examples
    --------
    >>> class Counter:
    ...     def __init__(self):
    ...         self.seen = [1]
    >>> counter = Counter()
    >>> try:
    ...     with rollback(counter):
    ...         counter.seen.append(2)
    ...         raise RuntimeError("no")
    ... except RuntimeError:
    ...     counter.seen
    [1]
    """
    snapshot = _Snapshot(obj, skip)
    try:
        yield
    except BaseException:
        snapshot.restore()
        raise
