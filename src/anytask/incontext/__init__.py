"""In-context learning: what to annotate, what to show, and how to ask a frozen language model."""

from anytask.core.lazy import lazy

_LAZY = {
    "GPT3": "gpt3",
    "VoteK": "votek",
    "UDR": "udr",
    "Pipeline": "pipeline",
}

__getattr__, __dir__ = lazy(__name__, _LAZY)
__all__ = sorted(_LAZY)
