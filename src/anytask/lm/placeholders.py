"""Placeholders in a prompt, such as ``{text}``: positions that values take, and data that only look like one."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: Marks the answer's place in a prompt.
MASK = "{mask_token}"


@functools.lru_cache(256)
def pattern_of(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of ``{name}`` for each name; doubled braces, ``{{name}}``, are text that looks like it."""
    return re.compile(r"\{(\{)?(" + "|".join(map(re.escape, names)) + r")\}(?(1)\})")


def names_of(examples: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the names that are placeholders in braces: the examples' fields but ``label``, and ``mask_token``.

    Examples
    --------
    >>> names_of([{"text": "x", "label": 0}])
    ('mask_token', 'text')
    """
    return tuple(sorted({MASK[1:-1], *(name for example in examples for name in example)} - {"label"}))


def escape(text: str, names: Sequence[str]) -> str:
    """Double the braces of what looks like a placeholder, so that data in a prompt stay data.

    Examples
    --------
    >>> escape("{text} and {other}", ["text"])
    '{{text}} and {other}'
    """
    return pattern_of(tuple(names)).sub(r"{\g<0>}", text)


def fill(prompt: str, values: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, str]:
    """Return a prompt with the values in its placeholders: what comes before ``{mask_token}``, and what comes after.

    Other braces are text, and so are those of the values.

    Raises
    ------
    ValueError
        If there is no value for a placeholder of the prompt.

    Examples
    --------
    >>> fill("{text} is {mask_token}.", {"text": "{odd}", "label": 1}, ("mask_token", "text"))
    ('{odd} is ', '.')
    """

    def value(match: re.Match[str]) -> str:
        if match.group(1):
            return match.group()[1:-1]
        if match.group(2) not in values:
            raise ValueError(f"the prompt has the placeholder {match.group()}, and an example has only {list(values)}")
        return str(values[match.group(2)])

    pattern = pattern_of(names)
    mask = next((match for match in pattern.finditer(prompt) if match.group() == MASK), None)
    before, after = (prompt, "") if mask is None else (prompt[: mask.start()], prompt[mask.end() :])
    return pattern.sub(value, before), pattern.sub(value, after)
