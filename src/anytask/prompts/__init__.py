"""Prompts: compression and search."""

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
