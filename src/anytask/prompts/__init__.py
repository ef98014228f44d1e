"""Prompts: compression and search."""

from anytask.core.lazy import lazy

_LAZY = {
    "LLMLingua2": "llmlingua2",
    "PromptQuine": "promptquine",
    "TAPruning": "promptquine",
}

__getattr__, __dir__ = lazy(__name__, _LAZY)
__all__ = sorted(_LAZY)
