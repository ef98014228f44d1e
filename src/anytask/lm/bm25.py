"""BM25 over words (bm25s): ranks texts by the words that they share with a query.

An item can be left out of its own results *by position*, so duplicates of an item stay in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from anytask.core.checks import as_array
from anytask.core.errors import instance_of, shown
from anytask.core.settings import check_number
from anytask.lm.protocol import check_texts

__all__ = ["BM25Index"]


def excluded(k: Any, n: int, n_queries: int, exclude: ArrayLike | None) -> np.ndarray | None:
    """Check k against n stored items, and return the position that each query leaves out."""
    most = n - (exclude is not None)
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or not 1 <= k <= most:
        raise ValueError(f"k must be an integer in [1, {most}] with {n} stored, got {shown(k)}")
    own = None if exclude is None else as_array(exclude, "exclude")
    if own is not None and own.shape != (n_queries,):
        raise ValueError(f"exclude must hold one position for each of the {n_queries} queries, got {own.shape}")
    return own


def _words(text: str) -> list[str]:
    if not isinstance(text, str):
        raise TypeError(f"texts and queries must be strings, got {type(text).__name__}")
    return re.findall(r"\w+", text.lower())


class BM25Index:
    """Rank texts by the words they share with a query (BM25, Lucene's variant).

    Pick it where answers share words (code, named entities, structured output) and no embedding model is wanted.

    Parameters
    ----------
    texts : sequence of str
        The documents. Words are maximal runs of letters, digits and underscores, in lower case; none is left out.
    k1 : float, default 1.5
        How fast repetitions of a word stop counting.
    b : float in [0, 1], default 0.75
        How much long documents are discounted.

    Notes
    -----
    The score of document D for query Q is the sum over the words q of Q of
    ``idf(q) * tf / (tf + k1 * (1 - b + b * |D| / mean |D|))`` with ``idf(q) = ln(1 + (N - df + .5) / (df + .5))``.

    Examples
    --------
    >>> BM25Index(["a red cat", "a blue dog", "a red red dog"]).search(["red"], k=2)[1]
    array([[2, 0]])
    """

    def __init__(self, texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise ImportError("BM25 needs bm25s: pip install 'anytask[text]'") from error
        if not (texts := check_texts(texts, "texts")):
            raise ValueError("texts must be a sequence of at least one text")
        check_number(k1, "k1", at_least=0)
        check_number(b, "b", at_least=0, at_most=1)
        words = [_words(text) for text in texts]
        self.n = len(texts)
        # An index needs a vocabulary; texts without a single word score 0 for every query.
        self._bm25 = None
        if any(words):
            self._bm25 = bm25s.BM25(k1=k1, b=b, method="lucene")
            self._bm25.index(words, show_progress=False)
            self._vocabulary = set().union(*words)

    def __len__(self) -> int:
        return self.n

    def scores(self, query: str) -> np.ndarray:
        """Return the score of every text for one query, shape (n,)."""
        if self._bm25 is None:
            return np.zeros(self.n, dtype=np.float32)
        words = [word for word in _words(query) if word in self._vocabulary]
        return self._bm25.get_scores(words) if words else np.zeros(self.n, dtype=np.float32)

    def search(
        self,
        queries: Sequence[str],
        k: int,
        exclude: ArrayLike | None = None,
        shuffle: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and indices of the ``k`` best texts, both (n_queries, k), best first.

        Parameters
        ----------
        queries : sequence of str
            What to look for.
        k : int
            How many to return.
        exclude : sequence of int, optional
            For each query, the position of one text that must not be returned.
        shuffle : numpy Generator, optional
            Draws the order of equal scores, anew for each query; without it the smaller index comes first.
        """
        queries = check_texts(queries, "queries")
        instance_of("shuffle", np.random.Generator)(shuffle)
        own = excluded(k, self.n, len(queries), exclude)
        scores = np.empty((len(queries), k), dtype=np.float32)
        indices = np.empty((len(queries), k), dtype=np.int64)
        known: dict[str, np.ndarray] = {}  # answers repeat: each distinct query is scored once
        for row, query in enumerate(queries):
            if query not in known:
                known[query] = self.scores(query)
            all_scores = known[query]
            tie = np.arange(self.n) if shuffle is None else shuffle.permutation(self.n)
            order = np.lexsort((tie, -all_scores))
            if own is not None:
                order = order[order != own[row]]
            indices[row] = order[:k]
            scores[row] = all_scores[order[:k]]
        return scores, indices
