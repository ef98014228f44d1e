"""Lengths by the tokenizer of the model that will read the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np


def check_target(target: Any) -> None:
    """Raise unless ``target`` is None, a callable, or the name of a tiktoken encoding that can be had."""
    if target is not None and not isinstance(target, str) and not callable(target):
        raise TypeError(f"target must be a tiktoken name or a callable text -> int, got {target!r}")
    if isinstance(target, str):
        TargetTokens(target)


class TargetTokens:
    """Count the tokens of texts and of words.

    Parameters
    ----------
    target : str or callable
        A tiktoken model or encoding name, or text -> number of tokens.

    Raises
    ------
    ImportError
        If ``target`` names a tiktoken encoding and tiktoken is not installed.

    Examples
    --------
    >>> TargetTokens(lambda text: len(text.split())).of_words(["a b", "c"]).tolist()
    [2, 1]
    """

    _REMEMBERED = 1_000_000

    def __init__(self, target: str | Callable[[str], int]) -> None:
        self.target = target
        self.known: dict[str, int] = {}
        if callable(target):
            self.count = target
            return
        try:
            import tiktoken
        except ImportError as error:
            raise ImportError(f"target={target!r} needs tiktoken: pip install tiktoken") from error
        try:
            encoding = tiktoken.encoding_for_model(target)
        except KeyError:
            encoding = tiktoken.get_encoding(target)
        self.count = lambda text: len(encoding.encode_ordinary(text))

    def of_texts(self, texts: Iterable[str]) -> list[int]:
        """Return the number of tokens of each text."""
        return [self.count(text) for text in texts]

    def of_words(self, words: Sequence[str]) -> np.ndarray:
        """Return the number of tokens of each word; a word is counted once and remembered."""
        if len(self.known) > self._REMEMBERED:
            self.known.clear()
        for word in set(words).difference(self.known):
            self.known[word] = self.count(word)
        return np.array([self.known[word] for word in words], dtype=np.int64)
