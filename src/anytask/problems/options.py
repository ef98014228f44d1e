"""Options of a problem: fields with range, default and help, as ``anytask compare PROBLEM --help`` lists them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from numbers import Integral
from typing import Any, ClassVar, Self

import attrs

from anytask.core.errors import BadData
from anytask.core.settings import Settings


class Options(Settings):
    """Base of the options of a problem.

    Examples
    --------
    >>> from anytask.core.settings import text, whole
    >>> class Mine(Options):
    ...     read_only: ClassVar = ("target",)
    ...     shots: int = whole(2, "examples per class")
    ...     target: str = text("label", "column of the labels")
    >>> Mine(shots=3).as_dict(), Mine(shots=3).of_a_run()
    ({'shots': 3, 'target': 'label'}, {'shots': 3})
    """

    #: Options that only say how to read the data, whose content the fingerprint holds anyway.
    read_only: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def checked(cls, given: Mapping[str, Any], whose: str) -> Self:
        """Return options with these values, and the defaults of the others.

        Parameters
        ----------
        given : mapping of str to value
        whose : str
            Whose options they are, for messages.

        Raises
        ------
        BadData
            Naming an option that there is not, with the nearest one, or a value that is out of its range.
        """
        known = [field.name for field in attrs.fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}? Its" if near else "its"
                raise BadData(f"{whose} has no option {name!r}; {hint} options: {', '.join(known) or 'none'}")
        try:
            return cls(**given)
        except (ValueError, TypeError) as error:
            raise BadData(str(error)) from error

    def evolve(self, **changes: Any) -> Self:
        """Return options with other values, checked as at construction."""
        return attrs.evolve(self, **changes)  # type: ignore[misc]

    @property
    def seeds(self) -> int:
        """With how many seeds entrants run where nobody says it."""
        return 5

    def release(self) -> None:
        """Free what this process has read for these options."""

    def as_dict(self) -> dict[str, Any]:
        """Return all values by name, sequences as lists."""
        values = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def of_a_run(self) -> dict[str, Any]:
        """Return the values that change what a run sees."""
        return {name: value for name, value in self.as_dict().items() if name not in self.read_only}


def listed(
    help: str,
    kind: type = str,
    *,
    separator: str = ",",
    at_least: float | None = None,
    lengths: tuple[int, ...] | None = None,
) -> Any:
    """Return a field for several values, none unless given: a sequence, or a text such as ``4,3,3``.

    Parameters
    ----------
    help : str
    kind : {str, int, float}
        Of each value.
    separator : str
        Stands between the values in a text.
    at_least : float, optional
        Least value.
    lengths : tuple of int, optional
        How many values there may be.

    Examples
    --------
    >>> class Mine(Options):
    ...     sizes: tuple[int, ...] | None = listed("classes of each task", int, at_least=1)
    >>> Mine(sizes="4,3,3").sizes, Mine(sizes=2).sizes, Mine().sizes
    ((4, 3, 3), (2,), None)
    >>> Mine(sizes="4,0")
    Traceback (most recent call last):
        ...
    ValueError: sizes must be integers of at least 1, as 4,3,3, got '4,0'
    """
    words, example = {str: ("texts", "a,b,c"), int: ("integers", "4,3,3"), float: ("numbers", "0,45,90")}[kind]
    wanted = words + ("" if at_least is None else f" of at least {at_least}")
    wanted += f", as {example.replace(',', separator)}"

    def convert(value: Any, field: Any) -> Any:
        if value is None:
            return None
        parts = value.split(separator) if isinstance(value, str) else value
        parts = list(parts) if hasattr(parts, "__iter__") and not isinstance(parts, bytes) else [parts]
        one: Any = (lambda part: str(part).strip()) if kind is str else kind
        try:
            found: list[Any] = [one(part) for part in parts]
            exact = all(
                isinstance(p, (str, Integral)) if kind is str else isinstance(p, str) or f == p
                for f, p in zip(found, parts)
            )
        except (TypeError, ValueError, OverflowError):
            found, exact = [], False
        small = kind is str or all(abs(f) < 2**63 for f in found)  # and finite: no array holds larger integers
        fits = (
            small
            and (at_least is None or all(f >= at_least for f in found))
            and (lengths is None or len(found) in lengths)
        )
        if not found or not exact or not fits:
            raise ValueError(f"{field.name} must be {wanted}, got {value!r}")
        return tuple(found)

    return attrs.field(
        default=None,
        converter=attrs.Converter(convert, takes_field=True),
        metadata={"help": help, "wanted": wanted},
    )


def mapping(help: str) -> Any:
    """Return a field for a mapping (on a command line: JSON), none unless given."""

    def check(_instance: Any, field: Any, value: Any) -> None:
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"{field.name} must be a mapping, got {value!r}")

    return attrs.field(default=None, validator=check, metadata={"help": help, "wanted": "a mapping, or None"})
