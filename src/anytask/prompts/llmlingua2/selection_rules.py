"""Which words stay, and which contexts: thresholds by rate, budgets, forced tokens, questions."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anytask.prompts.base import check_rate
from anytask.prompts.llmlingua2.words import ChunkWords


def percentile_threshold(p: np.ndarray, cost: np.ndarray, reduce: float) -> float:
    """Return tau, the ``int(100 reduce + 1)``-th percentile of the words' probabilities, each counted ``cost`` times.

    Parameters
    ----------
    p : (w,) array
    cost : (w,) array of int
        Tokens of each word.
    reduce : float in [0, 1]
        One minus the rate.

    Examples
    --------
    >>> p = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    >>> round(percentile_threshold(p, np.ones(10, dtype=int), 0.5), 3)
    0.459
    """
    repeated = np.repeat(p, cost)
    if not repeated.size:
        return -np.inf
    return float(np.percentile(repeated, min(int(100 * reduce + 1), 100)))


def above(p: np.ndarray, tau: float) -> np.ndarray:
    """Keep p > tau, and p = tau where tau is 1: forced words survive a threshold of forced words."""
    return (p > tau) | ((p == tau) & (tau == 1.0))


def most_probable(p: Sequence[np.ndarray], cost: Sequence[np.ndarray], rate: float) -> list[np.ndarray]:
    """Keep the most probable words, over all chunks, while they fit into the rate's tokens; certain words always."""
    if not p:
        return []
    q, c = np.concatenate(p), np.concatenate(cost)
    order = np.argsort(-q, kind="stable")
    fits = np.cumsum(c[order]) <= math.floor(rate * c.sum() + 0.5)
    keep = np.zeros(len(q), dtype=bool)
    keep[order] = fits | (q[order] >= 1.0)
    return np.split(keep, np.cumsum([len(part) for part in p])[:-1])


@dataclass(frozen=True)
class TokenFilter:
    """Decide for each word whether it stays, by rate or threshold.

    Parameters
    ----------
    cut, force_tokens, drop_consecutive
        As in :class:`~anytask.prompts.LLMLingua2`.
    """

    cut: str = "percentile"
    force_tokens: tuple[str, ...] = ()
    drop_consecutive: bool = False

    def select(self, chunks: Sequence[ChunkWords], rate: float, threshold: float | None = None) -> list[np.ndarray]:
        """Return a mask over the words of each chunk; the paper's threshold is each chunk's own."""
        reduce = max(0.0, 1 - rate)
        p = [self._without_repeats(chunk, reduce, threshold) for chunk in chunks]
        if threshold is not None:
            kept = [q >= threshold for q in p]
        elif self.cut == "exact":
            kept = most_probable(p, [chunk.cost for chunk in chunks], rate)
        else:
            kept = [above(q, percentile_threshold(q, chunk.cost, reduce)) for q, chunk in zip(p, chunks)]
        if self.drop_consecutive:
            for chunk, mask in zip(chunks, kept):
                before = None
                for i in np.flatnonzero(mask):
                    if chunk.words[i] in self.force_tokens and chunk.words[i] == before:
                        mask[i] = False
                    else:
                        before = chunk.words[i]
        return kept

    def select_pooled(self, chunks: Sequence[ChunkWords], rate: float) -> list[np.ndarray]:
        """Return masks by one threshold for all chunks."""
        if not chunks:
            return []
        p, cost = [chunk.forced_p for chunk in chunks], [chunk.cost for chunk in chunks]
        if self.cut == "exact":
            return most_probable(p, cost, rate)
        tau = percentile_threshold(np.concatenate(p), np.concatenate(cost), 1 - rate)
        return [above(q, tau) for q in p]

    def _without_repeats(self, chunk: ChunkWords, reduce: float, threshold: float | None) -> np.ndarray:
        """Return the words' probabilities, 0 for a forced token that recurs with nothing kept in between."""
        if not self.drop_consecutive:
            return chunk.forced_p
        p = chunk.forced_p.copy()
        tau = float(np.percentile(p, int(100 * reduce))) if threshold is None else threshold
        between, previous = False, None
        for i, word in enumerate(chunk.words):
            if word in self.force_tokens:
                if between:
                    between = False
                elif word == previous:
                    p[i] = 0.0
                previous = word
            else:
                between |= bool(p[i] > tau)
        return p


@dataclass(frozen=True)
class ContextFilter:
    """Decide which contexts of a prompt stay, by their mean keep-probability.

    Parameters
    ----------
    rate, tokens, n : optional
        Budget: a share, a number of tokens, or a number of contexts; default: from the token filter's rate.
    force : sequence of int
        Contexts that stay in any case.
    """

    rate: float | None = None
    tokens: int | None = None
    n: int | None = None
    force: Sequence[int] = ()

    def share(self, n: int, origin: int, rate: float, target_tokens: int | None, token_filter: bool) -> float:
        """Return r_c, the share of the ``n`` contexts, of ``origin`` tokens together, that stays."""
        if self.n is not None:
            return min(self.n / n, 1.0)
        if self.tokens is not None:
            return min(self.tokens / max(1, origin), 1.0)
        if self.rate is not None:
            return self.rate
        if target_tokens is not None:
            return min((2 if token_filter else 1) * target_tokens / max(1, origin), 1.0)
        return (rate + 1) / 2 if token_filter else rate

    def select(self, chunks: Sequence[ChunkWords], n: int, share: float) -> list[int]:
        """Return the indices of the contexts that reach the percentile."""
        wrong = [i for i in self.force if not 0 <= i < n]
        if wrong:
            raise ValueError(f"force_contexts must be indices in [0, {n}), got {wrong}")
        p = [[chunk.p for chunk in chunks if chunk.context == i] for i in range(n)]
        score = np.array([np.concatenate(parts).mean() if parts else 0.0 for parts in p])
        tau = np.percentile(score, min(max(int(100 * (1 - share)), 0), 100))
        return [i for i in range(n) if score[i] >= tau or i in self.force]


def favour(chunks: Sequence[ChunkWords], question: str) -> None:
    """Raise the probability of the question's words: p <- p^(1 - 1/n) for a word that occurs n times."""
    asked = {word.casefold() for word in re.findall(r"\w+", question)}
    spelled = [[word.casefold() for word in chunk.words] for chunk in chunks]
    counts = Counter(word for words in spelled for word in words if word in asked)
    for chunk, words in zip(chunks, spelled):
        exponent = np.array([1 - 1 / counts[word] if word in asked else 1.0 for word in words])
        chunk.p = chunk.p**exponent
        chunk.forced_p = np.where(chunk.forced_p >= 1.0, 1.0, chunk.forced_p**exponent)


def dynamic_rates(groups: Sequence[Sequence[ChunkWords]], rate: float) -> list[float]:
    """Return rate_i = rate * mean p_i / mean over the texts, in [0, 1]: dense texts get more of the budget."""
    means = np.array([np.concatenate([chunk.p for chunk in group]).mean() if group else 0.0 for group in groups])
    rates: list[float] = np.clip(rate * means / max(float(means.mean()), 1e-12), 0.0, 1.0).tolist()
    return rates


def check_budget(rate: float, target_tokens: int | None, threshold: float | None) -> float:
    """Return the rate, or raise a ValueError for a wrong or contradictory budget."""
    check_rate(rate)
    if target_tokens is not None and target_tokens < 0:
        raise ValueError(f"target_tokens must not be negative, got {target_tokens}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a probability in [0, 1], got {threshold}")
    if target_tokens is not None and threshold is not None:
        raise ValueError("give target_tokens or threshold, not both")
    return rate
