"""The errors that several floors raise and the command line turns into one line."""

from __future__ import annotations


class BadData(ValueError):
    """The user's data cannot be used; the message is one line naming file, column and row."""
