"""Find systems by what is meant: sentence embeddings where they are installed, shared words otherwise."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from anytask.catalogue import SYSTEMS, Card
from anytask.core.discovery import docstring, keyed

logger = logging.getLogger(__name__)

#: Below this similarity nothing is said to fit, and below this share of the best one the list ends.
_LEAST, _SHARE = 0.3, 0.6
_MOST = 24
_FALLBACK = 6

_WORD = re.compile(r"\w+")
_EMPTY_WORDS = frozenset(
    _WORD.findall(
        "a all also an and are as at be by can do does for from has have how i if in is it its me my no not of on or "
        "our should so some that the their them they this to up use want we what when where which who with you your"
    )
)


def problem_words(key: str) -> str:
    """Return what a kind of problem is, as its own class says it; the words of its key where it has none yet.

    Examples
    --------
    >>> problem_words("equivariance"), problem_words("tea-tasting")
    ('Classify images that may come turned, shifted or mirrored.', 'tea tasting')
    """
    return _summaries().get(key, key.replace("-", " "))


@cache
def _summaries() -> dict[str, str]:
    """The first sentence of each problem's class; reading all of their files takes a moment."""
    found = keyed("anytask.problems", "key")
    return {key: " ".join(docstring(entry).split("\n\n")[0].split()) for key, entry in found.items()}


@dataclass(frozen=True)
class Found:
    """What a search found, best first.

    Attributes
    ----------
    cards : tuple of Card
        The systems.
    how : str
        ``"meaning"``, or ``"words"`` where no embeddings are at hand (yet).
    fits : bool
        False where nothing fits well and these are only the nearest.
    """

    cards: tuple[Card, ...]
    how: str
    fits: bool


class CatalogueSearch:
    """Search the catalogue by meaning; by words until, or where, the embedding model isn't there.

    Pick :meth:`warm_up` to load the model (some seconds) while something else goes on; searches don't wait for it.

    Parameters
    ----------
    meaning : bool, default True
        Whether to use the sentence embeddings of ``anytask[text]`` where they are installed.
    cards : sequence of Card, optional
        What to search; default: the whole catalogue.

    Examples
    --------
    >>> search = CatalogueSearch(meaning=False)
    >>> found = search.find("shorten long prompts")
    >>> found.cards[0].key, found.how
    ('llmlingua2', 'words')
    """

    def __init__(self, meaning: bool = True, cards: Sequence[Card] = SYSTEMS) -> None:
        self.meaning = meaning
        self.cards = tuple(cards)
        self._vectors: np.ndarray | None = None  # (n cards, n texts per card, dim)
        self._embed: Callable[[list[str]], np.ndarray] | None = None
        self._lock = threading.Lock()
        self._queries: dict[str, np.ndarray] = {}

    @property
    def how(self) -> str:
        """``"meaning"`` or ``"words"``: what the next search goes by."""
        return "meaning" if self._vectors is not None else "words"

    def warm_up(self) -> threading.Thread:
        """Load the embedding model and embed the cards in a thread of its own; return the thread."""
        thread = threading.Thread(target=self.load, name="catalogue-search", daemon=True)
        thread.start()
        return thread

    def load(self) -> bool:
        """Make the index of words and the embeddings of the cards now; return whether searches go by meaning."""
        self._by_words("")
        with self._lock:
            if self.meaning and self._vectors is None:
                try:
                    from anytask.lm.embeddings import Embedder

                    embedder = Embedder(device="cpu")
                    texts = [text for card in self.cards for text in _texts(card)]
                    vectors = embedder.embed(texts).reshape(len(self.cards), -1, embedder.dim)
                except Exception as error:  # a missing extra, or damaged weights: words do as well
                    logger.info("searching the catalogue by words: %s", error)
                    self.meaning = False
                else:
                    self._embed, self._vectors = embedder.embed, vectors
        return self._vectors is not None

    def find(self, query: str) -> Found:
        """Return the systems that fit a query, best first; all of them, in their order, for an empty one."""
        query = " ".join(query.split())[:500]
        if not query:
            return Found(self.cards, self.how, True)
        words = self._by_words(query)
        how = self.how
        scores = (
            words if how == "words" else np.maximum(self._by_meaning(query) + 0.2 * words, _named(query, self.cards))
        )
        order = np.lexsort((np.arange(len(scores)), -scores))
        best = float(scores[order[0]])
        least = 1e-9 if how == "words" else _LEAST
        if best < least:
            nearest = order[:_FALLBACK] if how == "meaning" else order[:0]
            return Found(tuple(self.cards[i] for i in nearest), how, False)
        kept = [i for i in order[:_MOST] if scores[i] >= max(least, _SHARE * best if how == "meaning" else 0.0)]
        return Found(tuple(self.cards[i] for i in kept), how, True)

    def _by_meaning(self, query: str) -> np.ndarray:
        assert self._embed is not None
        assert self._vectors is not None
        if query not in self._queries:
            if len(self._queries) > 1000:
                self._queries.clear()
            with self._lock:
                self._queries[query] = self._embed([query])[0]
        return (self._vectors @ self._queries[query]).max(axis=1)

    def _by_words(self, query: str) -> np.ndarray:
        """Shares of the best score in [0, 1]: BM25 where it is installed, else the share of the query's words."""
        wanted = set(_WORD.findall(query.lower())) - _EMPTY_WORDS
        if self._bm25 is not None:
            scores = np.asarray(self._bm25.scores(" ".join(sorted(wanted))), dtype=float)
            scores = scores / scores.max() if scores.max() > 0 else scores
        else:
            scores = np.array([len(wanted & set(_WORD.findall(text))) for text in self._documents], dtype=float)
            scores /= max(1, len(wanted))
        return np.maximum(scores, _named(query, self.cards))

    @cached_property
    def _documents(self) -> list[str]:
        return [f"{card.key} {card.name} {card.family} {' '.join(_texts(card))}".lower() for card in self.cards]

    @cached_property
    def _bm25(self) -> Any:
        try:
            from anytask.lm.bm25 import BM25Index

            return BM25Index(self._documents)
        except ImportError:
            return None


def _texts(card: Card) -> tuple[str, str, str]:
    """What is compared with a query: what a system does, its paper's title, and the problems it is for."""
    return (
        f"{card.name}: {card.use}",
        card.title,
        " ".join(map(problem_words, card.problems)),
    )


def _named(query: str, cards: Sequence[Card]) -> np.ndarray:
    """2 for the cards whose key or name begins with the query, so that a name finds its system."""
    text = query.lower() if len(query) > 1 else "\n"
    return np.array([2.0 if card.key.startswith(text) or card.name.lower().startswith(text) else 0.0 for card in cards])
