"""A tokenizer whose tokens are words."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\S+")


class WordTokens:
    """A tokenizer of white-space-separated words, for models and searches that think in words.

    Examples
    --------
    >>> tokens = WordTokens()
    >>> tokens.decode(tokens.encode("to be or not to be")[::2])
    'to or to'
    """

    def __init__(self) -> None:
        self._words: list[str] = []
        self._ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        """Return one id per word; unknown words get new ids."""
        ids = []
        for word in _WORD.findall(text):
            if word not in self._ids:
                self._ids[word] = len(self._words)
                self._words.append(word)
            ids.append(self._ids[word])
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words, separated by spaces."""
        return " ".join(self._words[i] for i in ids)

    def count_tokens(self, text: str) -> int:
        """Return the number of words."""
        return len(_WORD.findall(text))
