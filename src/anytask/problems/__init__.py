"""Kinds of problems: what the data look like, what is shown when, what is measured, and who must be beaten.

Examples
--------
>>> from anytask import problems
>>> problems.KEYS[:3]
('task-stream', 'few-shot-text', 'demonstration-selection')
"""

from __future__ import annotations

import difflib
import importlib

from anytask.core.errors import BadData
from anytask.problems.base import Entrant, Metric, Outcome, Problem

_MODULES = {
    "task-stream": "task_stream:TaskStream",
    "few-shot-text": "few_shot_text:FewShotText",
    "demonstration-selection": "demonstration_selection:DemonstrationSelection",
    "prompt-compression": "prompt_compression:PromptCompression",
    "prompt-search": "prompt_search:PromptSearch",
    "few-demos": "few_demos:FewDemos",
    "visuomotor": "visuomotor:Visuomotor",
    "equivariance": "equivariance:Equivariance",
    "rearrangement": "rearrangement:Rearrangement",
}

#: The keys of the problems.
KEYS = tuple(_MODULES)


def get(key: str) -> Problem:
    """Return the problem of this key; a ``ValueError`` with the nearest key if there is none."""
    if key not in _MODULES:
        near = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown problem {key!r}{hint} Problems: {', '.join(KEYS)}")
    module, name = _MODULES[key].split(":")
    return getattr(importlib.import_module(f"anytask.problems.{module}"), name)()


__all__ = ["KEYS", "BadData", "Entrant", "Metric", "Outcome", "Problem", "get"]
