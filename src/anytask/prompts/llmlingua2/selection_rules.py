"""Which words stay, and which contexts: thresholds by rate, budgets, forced tokens, questions."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from numbers import Integral

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


def select_words(
    chunks: Sequence[ChunkWords],
    rate: float,
    threshold: float | None = None,
    *,
    cut: str = "percentile",
    pooled: bool = False,
    single: Collection[str] = (),
) -> list[np.ndarray]:
    """Return a mask over the words of each chunk.

    Parameters
    ----------
    chunks : sequence of ChunkWords
    rate : float
    threshold : float, optional
        Keeps the words whose probability reaches it, instead of a rate.
    cut : {"percentile", "exact"}
        As in :class:`~anytask.prompts.LLMLingua2`.
    pooled : bool
        One percentile for all chunks, instead of the paper's for each.
    single : collection of str
        Words that lose their probability where they recur and the cut kept nothing in between.
    """

    def masks(p: list[np.ndarray]) -> list[np.ndarray]:
        cost = [chunk.cost for chunk in chunks]
        if threshold is not None:
            return [q >= threshold for q in p]
        if rate >= 1 or not p:
            return [np.ones(len(q), dtype=bool) for q in p]
        if cut == "exact":
            return most_probable(p, cost, rate)
        if pooled:
            tau = percentile_threshold(np.concatenate(p), np.concatenate(cost), 1 - rate)
            return [above(q, tau) for q in p]
        return [above(q, percentile_threshold(q, c, 1 - rate)) for q, c in zip(p, cost)]

    kept = masks([chunk.forced_p for chunk in chunks])
    if single:
        again = [_recurs(chunk.words, mask, single) for chunk, mask in zip(chunks, kept)]
        kept = masks([np.where(r, 0.0, chunk.forced_p) for chunk, r in zip(chunks, again)])
        kept = [mask & ~r for mask, r in zip(kept, again)]
    return kept


def _recurs(words: Sequence[str], mask: np.ndarray, single: Collection[str]) -> np.ndarray:
    again, before = np.zeros(len(words), dtype=bool), None
    for i in np.flatnonzero(mask).tolist():
        again[i] = words[i] == before and before in single
        before = words[i]
    return again


def keep_one(chunks: Sequence[ChunkWords], masks: Sequence[np.ndarray]) -> None:
    """Keep the most probable word of a prompt of which a cut by rate would leave nothing."""
    p = [np.where([word != "" for word in chunk.words], chunk.forced_p, -1.0) for chunk in chunks]
    if p and not any((q[mask] >= 0).any() for q, mask in zip(p, masks)):
        best = max(range(len(p)), key=lambda i: p[i].max())
        masks[best][p[best].argmax()] |= p[best].max() >= 0


def context_share(
    n: int,
    origin: int,
    rate: float,
    target_tokens: int | None = None,
    token_filter: bool = True,
    context_rate: float | None = None,
    context_tokens: int | None = None,
    n_contexts: int | None = None,
) -> float:
    """Return r_c, the share of ``n`` contexts, of ``origin`` tokens together, that stays."""
    if n_contexts is not None:
        return min(n_contexts / n, 1.0)
    if context_tokens is None and context_rate is None and target_tokens is not None:
        context_tokens = (2 if token_filter else 1) * target_tokens
    if context_tokens is not None:
        return min(context_tokens / max(1, origin), 1.0)
    if context_rate is not None:
        return context_rate
    return (rate + 1) / 2 if token_filter else rate


def select_contexts(chunks: Sequence[ChunkWords], n: int, share: float, force: Collection[int]) -> list[int]:
    """Return the indices of the contexts whose mean keep-probability reaches the percentile, and of forced ones."""
    wrong = [i for i in force if not 0 <= i < n]
    if wrong:
        raise ValueError(f"force_contexts must be indices in [0, {n}), got {wrong}")
    p = [[chunk.p for chunk in chunks if chunk.context == i] for i in range(n)]
    score = np.array([np.concatenate(parts).mean() if parts else 0.0 for parts in p])
    tau = np.percentile(score, min(max(int(100 * (1 - share)), 0), 100))
    return [i for i in range(n) if score[i] >= tau or i in force]


def favour(chunks: Sequence[ChunkWords], question: str) -> set[int]:
    """Raise the probability of the question's words: p <- p^(1 - 1/n) for a word that occurs n times.

    Returns the contexts that alone name one of the words.
    """
    asked = {word.casefold() for word in re.findall(r"\w+", question)}
    spelled = [[word.casefold() for word in chunk.words] for chunk in chunks]
    counts = Counter(word for words in spelled for word in words if word in asked)
    for chunk, words in zip(chunks, spelled):
        exponent = np.array([1 - 1 / counts[word] if word in asked else 1.0 for word in words])
        chunk.p = chunk.p**exponent
        chunk.forced_p = np.where(chunk.forced_p >= 1.0, 1.0, chunk.forced_p**exponent)
    places = [{chunk.context for chunk, words in zip(chunks, spelled) if word in words} for word in counts]
    return {min(found) for found in places if len(found) == 1}


def dynamic_rates(groups: Sequence[Sequence[ChunkWords]], rate: float) -> list[float]:
    """Return rate_i = rate * mean p_i / mean over the texts, in [0, 1]: dense texts get more of the budget."""
    means = np.array([np.concatenate([chunk.p for chunk in group]).mean() if group else 0.0 for group in groups])
    rates: list[float] = np.clip(rate * means / max(float(means.mean()), 1e-12), 0.0, 1.0).tolist()
    return rates


def check_budget(rate: float, threshold: float | None = None, **counts: int | None) -> float:
    """Return the rate, or raise a ValueError for a wrong or contradictory budget."""
    check_rate(rate)
    for name, count in counts.items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, Integral) or count < 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {count!r}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a probability in [0, 1], got {threshold}")
    if counts.get("target_tokens") is not None and threshold is not None:
        raise ValueError("give target_tokens or threshold, not both")
    return rate
