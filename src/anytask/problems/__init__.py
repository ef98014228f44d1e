"""Kinds of problems: what the data look like, what is shown when, what is measured, and who must be beaten.

A problem is there as soon as a class in one of these modules sets its ``key``.

Examples
--------
>>> from anytask import problems
>>> problems.KEYS[:3]
('demonstration-selection', 'distillation', 'equivariance')
"""

from __future__ import annotations

import difflib

from anytask.core.discovery import keyed, load
from anytask.core.errors import BadData
from anytask.problems.base import Entrant, Metric, Outcome, Problem

_PROBLEMS = keyed(__name__, "key")

#: The keys of the problems.
KEYS = tuple(_PROBLEMS)


def get(key: str) -> Problem:
    """Return the problem of this key; a ``ValueError`` with the nearest key if there is none."""
    if key not in _PROBLEMS:
        near = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown problem {key!r}{hint} Problems: {', '.join(KEYS)}")
    return load(_PROBLEMS[key])()


__all__ = ["KEYS", "BadData", "Entrant", "Metric", "Outcome", "Problem", "get"]
