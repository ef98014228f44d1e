"""What is shown in a terminal: control characters are written out, and never obeyed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

#: Escape and other controls (C0 but newline and tab, DEL, C1), separators of lines, overrides of the direction of
#: writing, and what no encoding can write.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return a text whose control characters are written out; newlines and tabs stay.

    Examples
    --------
    >>> print(visible("a\x1b[2Jb\u202ec"))
    a\x1b[2Jb\u202ec
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class SafeConsole(Console):
    """A console that shows the control characters of names, data, models' texts and errors instead of obeying them.

    Examples
    --------
    >>> SafeConsole(force_terminal=False).print("\\x1b[2J")  # of the console's markup nothing changes
    \\x1b[2J
    """

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return a text with its markup as Rich does, without control characters."""
        return super().render_str(visible(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Give the segments of anything, without control characters that are not the console's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
