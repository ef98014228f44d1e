"""The errors that several floors raise and the command line turns into one line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any


def shown(value: Any, room: int = 200) -> str:
    """Return a value as an error shows it: in one line, cut where it is long.

    Examples
    --------
    >>> shown("x" * 1000, 10)
    "'xxxxxx..."
    """
    return brief(repr(value), room)


def brief(text: str, room: int = 1000) -> str:
    """Return a text in one line, cut where it is long.

    Examples
    --------
    >>> brief("two\\n  lines", 8)
    'two l...'
    """
    text = " ".join(text.split())
    return text if len(text) <= room else f"{text[: room - 3]}..."


def instance_of(name: str, *kinds: Any, optional: bool = True, wanted: str = "") -> Callable[[Any], None]:
    """Return a check that a value is of one of some kinds, or None if that is a value too.

    Parameters
    ----------
    name : str
        Of the parameter, as the subject of the message.
    *kinds : type
    optional : bool, default True
        Whether None is a value too.
    wanted : str, optional
        The kinds in words; default: their names.

    Examples
    --------
    >>> instance_of("name", str)(3)
    Traceback (most recent call last):
        ...
    TypeError: name must be a str, got 3
    """

    def check(value: Any) -> None:
        fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if not fits and not (optional and value is None):
            said = wanted or f"a {' or a '.join(kind.__name__ for kind in kinds)}"
            raise TypeError(f"{name} must be {said}, got {shown(value)}")

    return check


def check_each(values: Any, kind: type, name: str) -> list[Any]:
    """Return several objects of one kind as a list, or say which is of another.

    Examples
    --------
    >>> check_each([1, "a"], int, "ids")
    Traceback (most recent call last):
        ...
    TypeError: ids must hold objects of the kind int, got 'a' at place 1
    """
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
        raise TypeError(f"{name} must hold several objects of the kind {kind.__name__}, got {shown(values)}")
    found = list(values)
    for place, value in enumerate(found):
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(
                f"{name} must hold objects of the kind {kind.__name__}, got {shown(value)} at place {place}"
            )
    return found


def check_word(value: Any, words: Collection[str], name: str) -> str:
    """Return one of a few words, or say that it is none of them.

    Examples
    --------
    >>> check_word("slow", ("fast", "exact"), "how")
    Traceback (most recent call last):
        ...
    ValueError: how must be one of 'fast', 'exact', got 'slow'
    """
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}, got {shown(value)}")
    return value


def check_flags(**named: Any) -> None:
    """Say so if a named value is neither True nor False.

    Examples
    --------
    >>> check_flags(details=[])
    Traceback (most recent call last):
        ...
    TypeError: details must be True or False, got []
    """
    for name, value in named.items():
        if not isinstance(value, bool) and type(value).__name__ != "bool_":  # numpy's own, without numpy
            raise TypeError(f"{name} must be True or False, got {shown(value)}")


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
