"""A prompt as a sequence of units that may be deleted, with placeholders that may not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

#: What counts as a placeholder: {sentence_1}, {question_1}, {option_1}, {mask_token}, {text}, ...
PLACEHOLDER = re.compile(r"\{[A-Za-z_][A-Za-z_0-9]*\}")


def token_spans(ids: Sequence[int], decode: Any) -> tuple[str, list[tuple[int, int]]]:
    """Return the decoded text and, for each token, the characters that it contributes.

    A token's characters run from the end of the text of the tokens before it, as far as that text is a prefix of the
    whole. This needs nothing of the tokenizer but ``decode``, and holds when a token is only a part of a character.
    """
    text = decode(ids)
    ends = [0]
    for i in range(1, len(ids) + 1):
        prefix = decode(ids[:i])
        size = min(len(prefix), len(text))
        common = next((j for j in range(size) if prefix[j] != text[j]), size)
        ends.append(max(ends[-1], common))
    ends[-1] = len(text)
    return text, list(pairwise(ends))


def protected(ids: Sequence[int], decode: Any) -> frozenset[int]:
    """Return the positions of the tokens that share a character with a placeholder.

    A brace that the tokenizer merged with its neighbours is thus protected too, with the neighbours in the same token.

    Examples
    --------
    >>> pieces = ["It is", " {", "text", "}.", " So"]
    >>> sorted(protected(range(5), lambda ids: "".join(pieces[i] for i in ids)))
    [1, 2, 3]
    """
    text, spans = token_spans(ids, decode)
    # A token whose last character completes only with the next one (part of a code point) has an empty span: harmless,
    # since placeholders are ASCII.
    taken = [(match.start(), match.end()) for match in PLACEHOLDER.finditer(text)]
    return frozenset(i for i, (a, b) in enumerate(spans) if any(a < end and start < b for start, end in taken))


def check_prompt(prompt: Any) -> None:
    """Raise a ``ValueError`` unless ``prompt`` is a text that is not empty."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"the prompt must be a text that is not empty, got {prompt!r}")


@dataclass(frozen=True)
class _Run:
    """Consecutive units: token ids between two fixed texts, or a placeholder (no ids, all text)."""

    ids: tuple[int, ...]
    before: str
    after: str


class PrunablePrompt:
    """A prompt under a language model's tokenizer; any subset of its units that keeps the placeholders is a prompt.

    Where the tokenizer can spell the placeholders, the prompt is tokenised as a whole and the units are its tokens.
    Where it cannot (a closed vocabulary), the text between the placeholders is tokenised piece by piece, each
    placeholder is one unit, and the white space around a piece stays.

    Parameters
    ----------
    text : str
        The prompt; placeholders are names in braces.
    lm : ScoringModel
        ``encode`` and ``decode`` are used.

    Attributes
    ----------
    n : int
        Number of units.
    fixed : frozenset of int
        Units that must be kept.

    Examples
    --------
    >>> from anytask.lm.word_tokens import WordTokens
    >>> prompt = PrunablePrompt("good film -> great {text} -> {mask_token}", WordTokens())
    >>> prompt.n, sorted(prompt.fixed)
    (7, [4, 6])
    >>> prompt.render((0, 3, 4, 6))
    'good great {text} {mask_token}'
    """

    def __init__(self, text: str, lm: Any) -> None:
        check_prompt(text)
        self.text, self._lm = text, lm
        names = PLACEHOLDER.findall(text)
        ids = list(lm.encode(text))
        self._ids: list[int] | None = None
        self._runs: list[_Run] = []
        if PLACEHOLDER.findall(lm.decode(ids)) == names and (names or lm.decode(ids).strip()):
            self._ids = ids
            self.n = len(ids)
            self.fixed = protected(ids, lm.decode)
        else:
            self._cut(text)
        if self.n == 0:
            raise ValueError(f"the prompt {text!r} has no tokens under this tokenizer")

    def _cut(self, text: str) -> None:
        fixed: list[int] = []
        at = n = 0
        for match in [*PLACEHOLDER.finditer(text), None]:
            piece = text[at : match.start() if match else len(text)]
            if piece:
                core = piece.strip()
                head = piece[: len(piece) - len(piece.lstrip())]
                ids = tuple(self._lm.encode(core)) if core else ()
                self._runs.append(_Run(ids, head, piece[len(head) + len(core) :]))
                n += len(ids)
            if match:
                self._runs.append(_Run((), match.group(), ""))
                fixed.append(n)
                n += 1
                at = match.end()
        self.n, self.fixed = n, frozenset(fixed)

    def render(self, kept: Sequence[int]) -> str:
        """Return the text of the kept units, in their order."""
        if self._ids is not None:
            return self._lm.decode([self._ids[i] for i in kept])
        wanted, parts, at = set(kept), [], 0
        for run in self._runs:
            size = len(run.ids) or int(PLACEHOLDER.fullmatch(run.before) is not None)
            ids = [t for i, t in enumerate(run.ids, start=at) if i in wanted]
            parts += [run.before, self._lm.decode(ids) if ids else "", run.after]
            at += size
        return "".join(parts)

    def length(self, text: str) -> int:
        """Return the number of units of a pruned prompt once it is tokenised afresh."""
        if self._ids is not None:
            return len(self._lm.encode(text))
        return sum(
            1 if PLACEHOLDER.fullmatch(piece) else len(self._lm.encode(piece.strip())) if piece.strip() else 0
            for piece in re.split(f"({PLACEHOLDER.pattern})", text)
        )

    def units(self) -> tuple[Any, ...]:
        """Return what tells the units apart: token ids, and placeholders by name."""
        if self._ids is not None:
            return tuple(self._ids)
        out: list[Any] = []
        for run in self._runs:
            out += run.ids or ([run.before] if PLACEHOLDER.fullmatch(run.before) else [])
        return tuple(out)
