"""Random numbers without the global generators."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral

from anytask.core.errors import shown


def derive(seed: int, *path: object) -> int:
    """Return a 63-bit seed that depends on ``seed`` and on every item of ``path``, alike on every machine.

    Examples
    --------
    >>> derive(0, "train", 3) == derive(0, "train", 3), derive(0, "train", 3) == derive(0, "train", 4)
    (True, False)
    """
    _check_seed(seed)
    text = "\x1f".join([str(int(seed)), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block and put its state back afterwards.

    Layer initialisation and dropout draw from the global generator; inside this block they are reproducible, and the
    caller's own random numbers are what they would have been without it.
    """
    _check_seed(seed)
    import torch  # here, so that seeds can be derived without it

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _check_seed(seed: object) -> None:
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be an integer, got {shown(seed)}")
