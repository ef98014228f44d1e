"""Enrichment: further pairs for rare targets, written by a language model that is shown what is known of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anytask.core.checks import check_counts
from anytask.core.errors import instance_of
from anytask.core.progress import Progress, heard
from anytask.datasets.pairs import aligned, plain
from anytask.lm.accounts import Budget
from anytask.lm.metered import Metered
from anytask.lm.protocol import BudgetExceeded, check_lm, check_texts
from anytask.lm.writing import write

__all__ = ["Enriched", "enrich"]

#: Requests of one call.
_SIDE_BY_SIDE = 8
_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*")


@dataclass(frozen=True)
class Enriched:
    """Pairs that a language model added.

    Attributes
    ----------
    pairs : list of (str, str)
        New pairs alone.
    refused : dict of str to int
        Lines that were not taken, by why: ``known``, ``the target itself``, ``too long``, ``more than asked``.
    ungrounded : list of str
        Rare targets that were not asked about, as nothing is known of them.
    kind : str
        Of the model: http, local, tiny or sim.
    finished : bool
        Whether all rare targets were asked about before the budget ended.
    """

    pairs: list[tuple[str, str]]
    refused: dict[str, int]
    ungrounded: list[str]
    kind: str
    finished: bool


def enrich(
    pairs: Any,
    lm: Any,
    *,
    descriptions: Mapping[str, str] | None = None,
    what: str = "sentences of job advertisements that ask for it without naming it",
    least: int = 5,
    shown: int = 3,
    max_words: int = 40,
    max_tokens: int = 256,
    budget: Budget | Mapping[str, float] | None = None,
    cache: str | os.PathLike[str] = ":memory:",
    progress: Progress | None = None,
) -> Enriched:
    """Let a language model write left texts for right ones that have few, so that each has a minimum of pairs.

    Each request is grounded: it carries the target's description and left texts that are known to belong to it. Targets
    with neither are not asked about.

    Parameters
    ----------
    pairs : two aligned sides of str, or list of (left, right)
    lm : ChatModel or ScoringModel
        Anything of :mod:`anytask.lm`.
    descriptions : mapping of str to str, optional
        What a target means.
    what : str
        What is to be written, in words.
    least : int, default 5
        Pairs that each target is to have.
    shown : int, default 3
        Known texts in a request.
    max_words, max_tokens : int
        Of a line that is taken, and of an answer.
    budget : Budget or mapping of its limits, optional
        Such as ``{"calls": 500, "tokens": 200_000}``; what was written before it ended is returned.
    cache : path, optional
        A file that keeps the answers, so that an interrupted run goes on from there.
    progress : callable, optional

    Raises
    ------
    ValueError, TypeError
        For sides of different lengths, or counts below 1.

    Examples
    --------
    >>> from anytask.lm import load_tiny
    >>> found = enrich([("joins pipes", "welding")], load_tiny("icl"), least=2, budget={"calls": 1}, max_tokens=8)
    >>> found.kind, found.finished, all(target == "welding" for _, target in found.pairs)
    ('tiny', True, True)
    """
    check_counts(least=least, shown=shown, max_words=max_words, max_tokens=max_tokens)
    check_lm(lm)
    left, right = (check_texts(side, name) for side, name in zip(aligned("", pairs), ("left", "right")))
    instance_of("descriptions", Mapping)(descriptions)
    check_texts((descriptions or {}).values(), "descriptions")
    known: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for text, target in zip(left, right):
        names.setdefault(plain(target), target)
        known.setdefault(plain(target), []).append(text)
    told = {plain(target): text for target, text in (descriptions or {}).items()}
    for target in descriptions or {}:  # targets without a single pair too
        names.setdefault(plain(target), target)
        known.setdefault(plain(target), [])
    rare = [key for key, texts in known.items() if len({plain(t) for t in texts}) < least]
    asked = [key for key in rare if told.get(key) or known[key]]
    prompts = [_prompt(names[key], told.get(key), known[key][:shown], least - len(known[key]), what) for key in asked]
    answers, finished = _answers(Metered(lm, cache, budget), prompts, max_tokens, progress)
    found, refused = [], Counter[str]()
    for key, answer in zip(asked, answers):
        seen, wanted = {plain(text) for text in known[key]}, max(1, least - len(known[key]))
        for line in (_MARK.sub("", line).strip() for line in (answer or "").splitlines()):
            if not line:
                continue
            why = (
                "known" if plain(line) in seen
                else "the target itself" if plain(line) == key
                else "too long" if len(line.split()) > max_words
                else "more than asked" if not wanted
                else None
            )  # fmt: skip
            if why is not None:
                refused[why] += 1
                continue
            seen.add(plain(line))
            wanted -= 1
            found.append((line, names[key]))
    ungrounded = [names[key] for key in rare if key not in set(asked)]
    return Enriched(found, dict(refused), ungrounded, str(lm.kind), finished)


def _prompt(target: str, description: str | None, examples: Sequence[str], n: int, what: str) -> str:
    lines = [f"Target: {target}"]
    if description:
        lines.append(f"Description: {description}")
    if examples:
        lines += ["Known examples:", *(f"- {text}" for text in examples)]
    lines += [f"Write {max(1, n)} different {what}, true to what stands above, one in a line and nothing else.", ""]
    return "\n".join(lines)


def _answers(
    lm: Metered, prompts: list[str], max_tokens: int, progress: Progress | None
) -> tuple[list[str | None], bool]:
    """Return the answers before the budget's end, None behind it, and whether all are there."""
    found: list[str | None] = []
    size = _SIDE_BY_SIDE
    while len(found) < len(prompts):
        try:
            found += write(lm, prompts[len(found) : len(found) + size], max_tokens=max_tokens, tag="enrich")
        except BudgetExceeded:
            if size == 1:
                return found + [None] * (len(prompts) - len(found)), False
            size = 1  # the budget is asked for all requests of a call: what is left may do for some
        heard(progress)(len(found) / len(prompts))
    return found, True
