"""How much memory one input may take, asked before it is read, and what becomes of memory that was freed.

A small archive can declare more than a machine has.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import sys

import psutil

from anytask.core.errors import BadData

#: Environment variable that sets the limit: bytes, or a number with a unit, such as 8GB.
VARIABLE = "ANYTASK_MAX_BYTES"
_SMALL = 1 << 24
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def max_bytes() -> int:
    """Return how many bytes one input may take: what ``ANYTASK_MAX_BYTES`` says, or half of the free memory.

    Raises
    ------
    ValueError
        If the variable holds no number of bytes.

    Examples
    --------
    >>> from anytask.core.environment import environment
    >>> with environment({"ANYTASK_MAX_BYTES": "1.5GB"}):
    ...     max_bytes()
    1500000000
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        return psutil.virtual_memory().available // 2
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", given.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"{VARIABLE} must be a number of bytes, such as 8000000000 or 8GB, got {given!r}")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def require_room(where: object, needed: int) -> None:
    """Refuse what declares more bytes than :func:`max_bytes`, before any of them is read.

    Raises
    ------
    BadData
        Naming the place, the declared size, the limit, and how to raise it.

    Examples
    --------
    >>> require_room("zeros.npz", 10**15)
    Traceback (most recent call last):
    anytask.core.errors.BadData: zeros.npz: 1,000,000 GB would be read into memory, and at most ... GB may be ...
    """
    if needed < _SMALL and VARIABLE not in os.environ:
        return  # asking the machine takes longer than decoding a small image
    limit = max_bytes()
    if needed > limit:
        source = f"as {VARIABLE} says" if VARIABLE in os.environ else "half of what is free"
        raise BadData(
            f"{where}: {size_of(needed)} would be read into memory, and at most {size_of(limit)} may be ({source}); "
            f"if you trust it and have the memory, set {VARIABLE}={needed}"
        )


def size_of(n_bytes: float) -> str:
    """Return a number of bytes with a unit, to three digits.

    Examples
    --------
    >>> size_of(1234), size_of(99_500_000), size_of(6_800_000_000)
    ('1.23 KB', '99.5 MB', '6.8 GB')
    """
    power = next((p for p in (9, 6, 3) if n_bytes >= 10**p), 0)
    value = n_bytes / 10**power
    return f"{value:,.0f}{_NAMES[power]}" if value >= 100 else f"{value:.3g}{_NAMES[power]}"


_NAMES = {0: " bytes", 3: " KB", 6: " MB", 9: " GB"}


def give_back() -> None:
    """Return freed memory to the system, which allocators keep for the process: of the GPU too, where one was used."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # the C library is another one
            ctypes.CDLL(None).malloc_trim(0)
