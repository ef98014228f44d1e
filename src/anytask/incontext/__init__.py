"""In-context learning: what to annotate, what to show, and how to ask a frozen language model."""

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
