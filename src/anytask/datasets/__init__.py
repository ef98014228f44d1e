"""Readers of users' files, built-in data, and generated worlds."""

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
