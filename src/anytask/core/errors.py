"""The errors that several floors raise and the command line turns into one line."""

from __future__ import annotations

from typing import Any


def shown(value: Any, room: int = 200) -> str:
    """Return a value as an error shows it: in one line, cut where it is long.

    Examples
    --------
    >>> shown("x" * 1000, 10)
    "'xxxxxx..."
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= room else f"{text[: room - 3]}..."


class BadData(ValueError):
    """The user's data cannot be used; the message is one line naming file, column and row."""


class NotFinite(FloatingPointError, ValueError):
    """A number that training or a model made is NaN or infinite; the message names the stage."""


def one_line(error: BaseException) -> str:
    """Return the message of an error in at most 120 characters.

    Examples
    --------
    >>> one_line(ValueError("first\\n  second"))
    'first second'
    """
    text = " ".join(str(error).split())
    return (text[:117] + "...") if len(text) > 120 else text or type(error).__name__


class StoreError(ValueError):
    """A SQLite file of the package cannot be used; the message is one line naming it."""


class ComparisonFailed(RuntimeError):
    """A comparison could not go on, or not be reported, after runs had begun; what had ended is in its store."""
