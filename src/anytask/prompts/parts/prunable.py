"""A prompt as a sequence of units that may be deleted, with placeholders that may not."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from anytask.lm.placeholders import MASK, pattern_of


def check_prompt(prompt: Any) -> None:
    """Raise a ``ValueError`` unless ``prompt`` is a text that is not empty."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"the prompt must be a text that is not empty, got {prompt!r}")


class PrunablePrompt:
    """A prompt under a language model's tokenizer; any subset of its units that keeps the placeholders is a prompt.

    The text between the placeholders is tokenised piece by piece, and each placeholder is one unit, so that no
    tokenizer can merge it with its neighbours. The white space around a piece stays with it.

    Parameters
    ----------
    text : str
        The prompt; placeholders are ``names`` in braces.
    lm : ScoringModel
        ``encode`` and ``decode`` are used.
    names : sequence of str

    Attributes
    ----------
    units : list
        Token ids, and placeholders by name.
    n : int
        Number of units.
    fixed : frozenset of int
        Units that must be kept.

    Examples
    --------
    >>> from anytask.lm.word_tokens import WordTokens
    >>> prompt = PrunablePrompt("good film -> great {text} -> {mask_token}", WordTokens(), ("text", "mask_token"))
    >>> prompt.n, sorted(prompt.fixed)
    (7, [4, 6])
    >>> prompt.render((0, 3, 4, 6))
    'good great {text} {mask_token}'
    """

    def __init__(self, text: str, lm: Any, names: Sequence[str]) -> None:
        self._lm, self._names = lm, tuple(names)
        self._runs: list[tuple[str, list[int], str, str]] = []
        self.units: list[Any] = []
        for piece, place in self._pieces(text):
            core = piece.strip()
            start = piece.index(core)
            ids = list(lm.encode(core)) if core else []
            self._runs.append((piece[:start], ids, piece[start + len(core) :], place))
            self.units += [*ids, place] if place else ids
        self.fixed = frozenset(i for i, unit in enumerate(self.units) if isinstance(unit, str))
        self.n = len(self.units)

    def _pieces(self, text: str) -> Iterator[tuple[str, str]]:
        """Give the text before each placeholder with the placeholder, and the rest with ""."""
        at = 0
        for match in pattern_of(self._names).finditer(text):
            if not match.group(1):
                yield text[at : match.start()], match.group()
                at = match.end()
        yield text[at:], ""

    def check(self) -> None:
        """Raise unless there is a placeholder for an example's input, and warn of what merely looks like one."""
        text = self.render(range(self.n))
        if not {unit for unit in self.units if isinstance(unit, str)} - {MASK}:
            known = ", ".join(f"{{{name}}}" for name in self._names)
            raise ValueError(f"the prompt has no placeholder for an example's input, such as {known}: {text!r}")
        known_places = {f"{{{name}}}" for name in self._names}
        if other := [p for p in re.findall(r"(?<!\{)\{[A-Za-z_]\w*\}", text) if p not in known_places]:
            warnings.warn(f"the prompt has {other[0]}, which no example has: it is read as text", stacklevel=4)

    def retokenized(self, kept: Sequence[int]) -> PrunablePrompt:
        """Return the pruned prompt as a prompt of its own; its token borders may be others."""
        return PrunablePrompt(self.render(kept), self._lm, self._names)

    def render(self, kept: Sequence[int]) -> str:
        """Return the text of the kept units, in their order."""
        wanted, parts, at = set(kept), [], 0
        for head, ids, tail, place in self._runs:
            left = [token for i, token in enumerate(ids, start=at) if i in wanted]
            if ids and not left:  # of a piece that is gone, white space stays between placeholders alone
                head, tail = "", (head or tail) if at and place else ""
            parts += [head, self._lm.decode(left) if left else "", tail, place]
            at += len(ids) + bool(place)
        return "".join(parts)

    def valid(self, text: str) -> bool:
        """Return whether a pruned prompt still has the placeholders, and no other that the pruning made."""
        places = [place for _, place in self._pieces(text) if place]
        return places == [unit for unit in self.units if isinstance(unit, str)]

    def length(self, text: str) -> int:
        """Return the number of units of a pruned prompt once it is tokenised afresh."""
        pieces = ((piece.strip(), place) for piece, place in self._pieces(text))
        return sum(len(self._lm.encode(core)) * bool(core) + bool(place) for core, place in pieces)
