"""Which words stay, and which contexts: thresholds by rate, budgets, forced tokens, questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from anytask.core.settings import Settings, flag, numbers, real, whole
from anytask.prompts.parts.words import Words, runs


class Budget(Settings):
    """How much of a prompt stays.

    Parameters
    ----------
    rate : float in (0, 1], default 0.5
        Share of the tokens to keep; at 1 the text comes back unchanged.
    target_tokens : int, optional
        Number of tokens to keep instead.
    threshold : float in [0, 1], optional
        Keep the words whose probability reaches it instead, however many there are.
    context_filter : bool, default False
        First drop the contexts with the lowest mean probability, then words of the others.
    token_filter : bool, default True
        False drops whole contexts only.
    context_rate, context_tokens, n_contexts : optional
        Budget of the contexts: as a share, in tokens, or a number of contexts. Default ``(rate + 1) / 2``, or twice
        ``target_tokens``.
    force_contexts : sequence of int
        Contexts that are kept in any case.
    """

    rate: float = real(0.5, "share of the tokens to keep", above=0, at_most=1)
    target_tokens: int | None = whole(None, "number of tokens to keep instead of a rate", optional=True)
    threshold: float | None = real(None, "probability of a kept word", at_least=0, at_most=1, optional=True)
    context_filter: bool = flag(False, "first drop the contexts with the lowest mean probability")
    token_filter: bool = flag(True, "then drop words of the others")
    context_rate: float | None = real(None, "share of the contexts' tokens", above=0, at_most=1, optional=True)
    context_tokens: int | None = whole(None, "tokens of the contexts", optional=True)
    n_contexts: int | None = whole(None, "number of contexts", optional=True)
    force_contexts: Sequence[int] = numbers((), "contexts kept in any case", at_least=0, integers=True)

    def _check_settings(self) -> None:
        if self.target_tokens is not None and self.threshold is not None:
            raise ValueError("give target_tokens or threshold, not both")
        names = [name for name in ("context_rate", "context_tokens", "n_contexts") if getattr(self, name) is not None]
        if len(names) > 1:
            raise ValueError(f"give one of {' and '.join(names)}, not both")
        names += ["force_contexts"] * (len(self.force_contexts) > 0) + ["token_filter=False"] * (not self.token_filter)
        if names and not self.context_filter:
            raise ValueError(f"{names[0]} says which contexts stay, and needs context_filter=True")

    def context_share(self, n: int, origin: int) -> float:
        """Return r_c, the share of ``n`` contexts, of ``origin`` tokens together, that stays."""
        if self.n_contexts is not None:
            share = self.n_contexts / n
        elif self.context_rate is not None:
            share = self.context_rate
        elif tokens := self.context_tokens or (2 if self.token_filter else 1) * (self.target_tokens or 0):
            share = tokens / max(1, origin)
        else:
            share = (self.rate + 1) / 2 if self.token_filter else self.rate
        return min(share, 1.0)


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


def above_percentile(p: np.ndarray, cost: np.ndarray, rate: float) -> np.ndarray:
    """Keep p > tau, and p = tau where tau is 1: forced words survive a threshold of forced words."""
    tau = percentile_threshold(p, cost, 1 - rate)
    return (p > tau) | ((p == tau) & (tau == 1.0))


def most_probable(p: np.ndarray, cost: np.ndarray, rate: float) -> np.ndarray:
    """Keep the most probable words while they fit into the rate's tokens; certain words always."""
    order = np.argsort(-p, kind="stable")
    keep = np.zeros(len(p), dtype=bool)
    keep[order] = np.cumsum(cost[order]) <= math.floor(rate * cost.sum() + 0.5)
    return keep | (p >= 1.0)


def select_words(
    words: Words,
    units: np.ndarray,
    rate: float | np.ndarray,
    threshold: float | None = None,
    *,
    cut: str = "percentile",
    single: Collection[str] = (),
) -> np.ndarray:
    """Return which words are kept.

    Parameters
    ----------
    words : Words
    units : (w,) array
        Words of the same unit are cut together: the paper's chunks, texts, or all words.
    rate : float or (w,) array
    threshold : float, optional
        Keeps the words whose probability reaches it, instead of a rate.
    cut : {"percentile", "exact"}
        As in :class:`~anytask.prompts.LLMLingua2`.
    single : collection of str
        Words that lose their probability where they recur and the cut kept nothing in between.
    """
    rule = most_probable if cut == "exact" else above_percentile
    rates = np.broadcast_to(rate, len(units))

    def kept_of(p: np.ndarray) -> np.ndarray:
        if threshold is not None:
            return p >= threshold
        kept = np.ones(len(p), dtype=bool)
        for rows in runs(units):
            if rates[rows[0]] < 1:
                kept[rows] = rule(p[rows], words.cost[rows], float(rates[rows[0]]))
        return kept

    kept = kept_of(words.forced_p)
    if single:
        again = np.zeros_like(kept)
        rows = np.flatnonzero(kept & (words.text != ""))
        same = (words.text[rows[1:]] == words.text[rows[:-1]]) & (words.context[rows[1:]] == words.context[rows[:-1]])
        again[rows[1:]] = same & np.isin(words.text[rows[1:]].astype(str), list(single))
        kept = kept_of(np.where(again, 0.0, words.forced_p)) & ~again
    return kept


def keep_one(words: Words, owners: np.ndarray, kept: np.ndarray) -> int:
    """Keep the most probable word of each prompt (``owners``) that would be left without; return how many these are."""
    saved = 0
    for rows in runs(owners):
        real = rows[words.text[rows] != ""]
        if len(real) and not kept[real].any():
            kept[real[words.forced_p[real].argmax()]] = True
            saved += 1
    return saved


def context_means(words: Words, n: int) -> np.ndarray:
    """Return the mean keep-probability of each of ``n`` contexts, 0 where there is no word."""
    counts = np.bincount(words.context, minlength=n)
    return np.bincount(words.context, weights=words.p, minlength=n) / np.maximum(counts, 1)


def select_contexts(words: Words, n: int, share: float, force: Collection[int]) -> list[int]:
    """Return the indices of the contexts whose mean keep-probability reaches the percentile, and of forced ones."""
    score = context_means(words, n)
    tau = np.percentile(score, min(max(int(100 * (1 - share)), 0), 100))
    return [i for i in range(n) if score[i] >= tau or i in force]


def favour(words: Words, asked: Collection[str]) -> tuple[Words, set[int]]:
    """Raise the probability of the asked words: p <- p^(1 - 1/n) for a word that occurs n times.

    Returns the words, and the contexts that alone name one of the asked ones.
    """
    spelled = np.array([word.casefold() for word in words.text], dtype=object)
    counts = Counter(word for word in spelled if word in asked)
    exponent = np.array([1 - 1 / counts[word] if word in counts else 1.0 for word in spelled])
    forced = np.where(words.forced_p >= 1.0, 1.0, words.forced_p**exponent)
    places = [set(words.context[spelled == word].tolist()) for word in counts]
    named = {i for found in places if len(found) == 1 for i in found}
    return replace(words, p=words.p**exponent, forced_p=forced), named


def dynamic_rates(words: Words, n: int, rate: float) -> np.ndarray:
    """Return rate_i = rate * mean p_i / mean over the texts, in [0, 1]: dense texts get more of the budget."""
    means = context_means(words, n)
    return np.clip(rate * means / max(float(means.mean()), 1e-12), 0.0, 1.0)
