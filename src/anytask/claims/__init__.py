"""Executable statements of the papers' effects at small scale, one module per system.

Examples
--------
>>> from anytask import claims
>>> claims.KEYS[:3]
('tame', 'prd', 'gkcl')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from anytask.core.lazy import lazy

if TYPE_CHECKING:
    from anytask.claims.base import Claim

_MODULES = {
    "tame": "continual.tame",
    "prd": "continual.prd",
    "gkcl": "continual.gkcl",
    "votek": "incontext.votek",
    "udr": "incontext.udr",
    "promptquine": "prompts.promptquine",
    "llmlingua2": "prompts.llmlingua2",
    "gpt3": "incontext.gpt3",
    "behavior-retrieval": "control.behavior_retrieval",
    "rl100": "control.rl100",
    "galactic": "control.galactic",
    "nero": "evaluate.nero",
}

#: Catalogue keys of the systems that have a claim.
KEYS = tuple(_MODULES)


def get(key: str) -> Claim:
    """Return the claim of a system; a ``ValueError`` naming those that exist if it has none."""
    if key not in _MODULES:
        from anytask import catalogue

        catalogue.get(key)  # an unknown system is told apart from one without a claim
        raise ValueError(f"{key!r} has no claim yet; systems with one: {', '.join(KEYS)}")
    return importlib.import_module(f"anytask.claims.{_MODULES[key]}").CLAIM


__getattr__, __dir__ = lazy(__name__, dict.fromkeys(("Beats", "Claim", "Experiment", "Reaches", "Steadier"), "base"))
__all__ = ["KEYS", "Beats", "Claim", "Experiment", "Reaches", "Steadier", "get"]
