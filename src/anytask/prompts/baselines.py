"""What a prompt system must beat: cutting off, random deletion, surprisal, and searches without evolution."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
from sklearn.exceptions import NotFittedError

from anytask.core.checks import require_finite
from anytask.core.estimator import Fitted
from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import free, numbers, of_kind, positional, real, whole
from anytask.lm.protocol import check_texts
from anytask.prompts.base import Candidate, Compression, check_rate
from anytask.prompts.parts.prunable import PrunablePrompt
from anytask.prompts.parts.search import PruningSearch, Scores, top_field
from anytask.prompts.parts.words import (
    NO_SPACES,
    Words,
    check_contexts,
    compressed,
    runs,
    warn_of_short,
    write_contexts,
)

#: White space, and a word: what stands between white space, but a character at a time in scripts without spaces.
_WORD = re.compile(rf"(\s*)([^\s{NO_SPACES}]+|[{NO_SPACES}](?:(?!\w)[{NO_SPACES}])*)")


# Compression --------------------------------------------------------------------------------------------------------


def count_words(text: str) -> int:
    """Return the number of words between white space, and of characters in scripts without spaces."""
    return len(_WORD.findall(text))


class WordCompressor(Fitted):
    """Keep the share ``rate`` of the words with the highest score; subclasses say what the score is.

    Parameters
    ----------
    rate : float in (0, 1], default 0.5
        Used where :meth:`compress` is given none.
    count_tokens : callable, default :func:`count_words`
        Text -> number of tokens of the target model.
    seed : int, default 0
    """

    rate: float = real(0.5, "share of the words to keep", above=0, at_most=1)
    count_tokens: Callable[[str], int] = of_kind(
        count_words, (Callable,), "a callable", "text -> tokens of the target model"
    )

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def scores(self, words: Words) -> np.ndarray:
        """Return one number per word of a context, larger for words to keep."""
        raise NotImplementedError

    def compress(self, text: str | Sequence[str], rate: float | None = None) -> Compression:
        """Compress one text, or several contexts, to ``ceil(rate * n)`` of their n words each."""
        rate = self.rate if rate is None else rate
        check_rate(rate)
        contexts = check_contexts(text)
        found = [(i, match) for i, context in enumerate(contexts) for match in _WORD.finditer(context)]
        context = np.array([i for i, _ in found], dtype=int)
        spelled = np.array([match.group(2) for _, match in found], dtype=object)
        gap = np.array([match.group(1) != "" for _, match in found], dtype=bool)
        words = Words(spelled, gap, context, context, *(np.ones(len(found)) for _ in range(3)))
        kept = np.zeros(len(found), dtype=bool)
        for rows in runs(context):
            score = np.asarray(self.scores(words.take(rows)), dtype=float)
            require_finite(score, f"a word's score by {type(self).__name__}", "its language model's are, or its counts")
            kept[rows[np.argsort(-score, kind="stable")[: math.ceil(rate * len(rows) - 1e-9)]]] = True
            words.forced_p[rows[np.argsort(score, kind="stable")]] = np.arange(1, len(rows) + 1) / len(rows)
        texts = write_contexts(contexts, words, kept)
        warn_of_short(["".join(contexts)], ["".join(texts)], rate)
        return compressed(
            words, kept, texts, (sum(map(self.count_tokens, contexts)), sum(map(self.count_tokens, texts)))
        )


class Uncompressed(WordCompressor):
    """Keep every word, whatever the rate: what a compression is measured against.

    Examples
    --------
    >>> Uncompressed().compress("a b", rate=0.5).text
    'a b'
    """

    def compress(self, text: str | Sequence[str], rate: float | None = None) -> Compression:
        """Return the text as it is."""
        check_rate(self.rate if rate is None else rate)
        return super().compress(text, 1.0)

    def scores(self, words: Words) -> np.ndarray:
        return np.ones(len(words.text))


class Truncation(WordCompressor):
    """Keep the first words.

    Examples
    --------
    >>> Truncation(rate=0.5).compress("a b c d").text
    'a b'
    """

    def scores(self, words: Words) -> np.ndarray:
        return -np.arange(len(words.text), dtype=float)


class RandomDeletion(WordCompressor):
    """Keep words at random; the same text and seed give the same words.

    Examples
    --------
    >>> len(RandomDeletion(rate=0.5, seed=0).compress("a b c d").kept)
    2
    """

    def scores(self, words: Words) -> np.ndarray:
        return np.random.default_rng(derive(self.seed, *words.text)).random(len(words.text))


class SurprisalCompressor(WordCompressor):
    """Keep the words that a language model found hardest to predict (self-information).

    Parameters
    ----------
    lm : ScoringModel, optional
        Gives token log-probabilities. Without one, an n-gram model of :meth:`fit`'s texts is used.
    order : {1, 2}, default 2
        Of the n-gram model: word frequencies, or bigrams.
    rate, count_tokens, seed
        As in :class:`WordCompressor`.

    Examples
    --------
    >>> compressor = SurprisalCompressor(order=1, rate=0.4).fit(["the cat sat on the mat", "the dog sat on the log"])
    >>> compressor.compress("the dog sat on the").text
    'dog sat'

    Notes
    -----
    Source: Li et al. (2023), "Compressing Context to Enhance Inference Efficiency of Large Language Models",
    arXiv:2310.06201 (Selective Context), on words instead of phrases.
    """

    lm: Any = positional(
        free, "gives token log-probabilities, None: an n-gram model of fit's texts", default=None, kw_only=False
    )
    order: int = whole(2, "of the n-gram model: word frequencies, or bigrams", at_most=2)

    def __sklearn_is_fitted__(self) -> bool:
        return self.lm is not None or hasattr(self, "unigrams_")

    def fit(self, texts: Sequence[str]) -> Self:
        """Count the n-grams of a corpus; not needed with a language model."""
        texts = check_texts(texts, "texts")
        with self._refit():
            self.unigrams_: Counter[str] = Counter()
            self.bigrams_: Counter[str] = Counter()
            for text in texts:
                words = ["", *(match.group(2) for match in _WORD.finditer(text))]
                self.unigrams_.update(words)
                self.bigrams_.update(f"{a} {b}" for a, b in pairwise(words))
        return self

    def _load_state(self, state: Any) -> None:
        for name, counts in state["values"].items():
            setattr(self, name, Counter(counts))

    def scores(self, words: Words) -> np.ndarray:
        if self.lm is not None:
            return self._lm_surprisal(words)
        if not hasattr(self, "unigrams_"):
            raise NotFittedError(
                "SurprisalCompressor without a language model must be fitted on texts first: fit(texts)"
            )
        size, total = len(self.unigrams_) + 1, sum(self.unigrams_.values())
        known = ((self.bigrams_[f"{a} {b}"], self.unigrams_[a]) for a, b in pairwise(["", *words.text]))
        if self.order == 1:
            known = ((self.unigrams_[word], total) for word in words.text)
        return np.array([-math.log((n + 1) / (of + size)) for n, of in known])

    def _lm_surprisal(self, words: Words) -> np.ndarray:
        """Mean surprisal of each word's tokens, the text scored as the continuation of its own first word."""
        spaced = [f" {word}" if gap and i else word for i, (word, gap) in enumerate(zip(words.text, words.gap))]
        room = getattr(self.lm, "context_length", None) or math.inf
        ends = np.cumsum([len(self.lm.encode(piece)) for piece in spaced])
        if ends[-1] + 2 > room and len(spaced) > 1:  # in parts that the model can read, each without what comes before
            halves = np.split(np.arange(len(spaced)), [max(1, int(np.searchsorted(ends, room - 2, side="right")))])
            return np.concatenate([self._lm_surprisal(words.take(rows)) for rows in halves if len(rows)])
        if len(spaced) == 1:
            return np.zeros(1)
        option = self.lm.score([spaced[0]], [["".join(spaced[1:])]], tag="surprisal")[0][0]
        ids = self.lm.encode("".join(spaced))
        text = np.array([len(self.lm.decode(ids[:i])) for i in range(len(ids) + 1)])
        middle = ((text[:-1] + text[1:]) / 2)[len(ids) - len(option.token_logprobs) :]  # the first word has no score
        ends = np.cumsum([len(piece) for piece in spaced])
        word = np.searchsorted(ends, np.minimum(middle, ends[-1] - 0.5), side="right")
        lost = -np.maximum(option.token_logprobs, -1e4)  # NaN stays, and log 0 does not
        counts = np.maximum(np.bincount(word, minlength=len(spaced)), 1)
        surprisal = np.bincount(word, weights=lost, minlength=len(spaced)) / counts
        surprisal[0] = surprisal[1:].mean()
        return surprisal


# Search -------------------------------------------------------------------------------------------------------------


class FullPrompt(PruningSearch):
    """The prompt as it is: no search, one evaluation."""

    def _explore(self, units: PrunablePrompt, scores: Scores, share: Progress) -> list[Candidate]:
        return scores.candidates(units, [tuple(range(units.n))])


class RandomMasks(PruningSearch):
    """Score random subsequences of the prompt, and choose as :class:`~anytask.prompts.PromptQuine` does.

    The full prompt is among them. Each mask keeps every free token with a probability of its own, drawn uniformly from
    ``keep``.

    Parameters
    ----------
    prompt, verbalizers, evaluator, reward, top, seed
        As in :class:`~anytask.prompts.PromptQuine`.
    budget : int, default 770
        Prompts scored.
    keep : pair of float, default (0.1, 1.0)
    """

    budget: int = whole(770, "prompts scored")
    keep: tuple[float, float] = numbers(
        (0.1, 1.0), "range of a mask's keep-probability", at_least=0, at_most=1, length=2
    )
    top: float = top_field()

    def _explore(self, units: PrunablePrompt, scores: Scores, share: Progress) -> list[Candidate]:
        rng = np.random.default_rng(self.seed)
        masks = {units.render(range(units.n)): tuple(range(units.n))}
        for _ in range(50 * self.budget):
            if len(masks) >= self.budget:
                break
            keep = rng.random(units.n) < rng.uniform(*self.keep)
            kept = tuple(i for i in range(units.n) if keep[i] or i in units.fixed)
            if units.valid(text := units.render(kept)):
                masks.setdefault(text, kept)
        return scores.candidates(units, masks.values())


class GreedyPruning(PruningSearch):
    """Delete, step by step, the one token whose removal helps most; stop when none helps or the budget is spent.

    Parameters
    ----------
    prompt, verbalizers, evaluator, reward, budget, top, seed
        As in :class:`~anytask.prompts.PromptQuine`.
    """

    top: float = top_field()

    def _explore(self, units: PrunablePrompt, scores: Scores, share: Progress) -> list[Candidate]:
        history = step = scores.candidates(units, [tuple(range(units.n))])
        best = -math.inf
        while step and (winner := max(step, key=lambda candidate: candidate.score)).score > best:
            best, kept = winner.score, winner.kept or ()
            step = scores.candidates(units, (tuple(j for j in kept if j != i) for i in kept if i not in units.fixed))
            history = [*history, *step]
        return history
