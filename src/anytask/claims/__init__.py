"""Executable statements of the papers' effects at small scale, one module per system.

A claim is there as soon as a module under this package sets ``CLAIM = Claim(system="key", ...)``.

Examples
--------
>>> from anytask import claims
>>> "tame" in claims.KEYS
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anytask.core.discovery import constructed, load, publish

if TYPE_CHECKING:
    from anytask.claims.base import Claim

_CLAIMS = constructed(__name__, "CLAIM", "system")

#: Catalogue keys of the systems that have a claim.
KEYS = tuple(_CLAIMS)


def get(key: str) -> Claim:
    """Return the claim of a system; a ``ValueError`` naming those that exist if it has none."""
    if key not in _CLAIMS:
        from anytask import catalogue

        catalogue.get(key)  # an unknown system is told apart from one without a claim
        raise ValueError(f"{key!r} has no claim yet; systems with one: {', '.join(KEYS)}")
    return load(_CLAIMS[key])


__getattr__, __dir__ = publish(__name__)
