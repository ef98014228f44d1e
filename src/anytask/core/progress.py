"""Progress: one callable that is told the finished share."""

from __future__ import annotations

from collections.abc import Callable

from anytask.core.errors import shown

#: What ``progress=`` takes everywhere: called with the finished share in [0, 1]; the last call says 1.
Progress = Callable[[float], object]


def silent(share: float) -> None:
    """Take the share and tell nobody."""


def heard(progress: Progress | None) -> Progress:
    """Return what is told the finished share, :func:`silent` for None, or say that it can be told nothing.

    Examples
    --------
    >>> heard("yes")
    Traceback (most recent call last):
        ...
    TypeError: progress must be a callable that takes the finished share, got 'yes'
    """
    if progress is None:
        return silent
    if not callable(progress):
        raise TypeError(f"progress must be a callable that takes the finished share, got {shown(progress)}")
    return progress


def portion(progress: Progress | None, start: float, stop: float) -> Progress:
    """Return the progress of one stage that takes the shares from ``start`` to ``stop`` of the whole.

    Examples
    --------
    >>> told = []
    >>> portion(told.append, 0.5, 1.0)(0.5)
    >>> told
    [0.75]
    """
    told = heard(progress)

    def tell(share: float) -> None:
        told(start + (stop - start) * share)

    return tell
