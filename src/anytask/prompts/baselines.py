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

from anytask.core.estimator import Fitted
from anytask.core.progress import Progress
from anytask.core.settings import free, numbers, real, whole
from anytask.prompts.base import Candidate, Compression, check_rate
from anytask.prompts.parts.prunable import PrunablePrompt
from anytask.prompts.parts.search import PruningSearch, Scores, top_field

_WORD = re.compile(r"\S+")


# Compression --------------------------------------------------------------------------------------------------------


def count_words(text: str) -> int:
    """Return the number of words between white space."""
    return len(_WORD.findall(text))


def _check_counter(count_tokens: Any) -> None:
    if not callable(count_tokens):
        raise TypeError(f"count_tokens must be callable text -> int, got {count_tokens!r}")


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
    count_tokens: Callable[[str], int] = free(count_words, "text -> tokens of the target model", _check_counter)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def scores(self, words: Sequence[str]) -> np.ndarray:
        """Return one number per word, larger for words to keep."""
        raise NotImplementedError

    def compress(self, text: str | Sequence[str], rate: float | None = None) -> Compression:
        """Compress one text, or several contexts, to ``ceil(rate * n)`` of their n words each."""
        rate = self.rate if rate is None else rate
        check_rate(rate)
        contexts = [text] if isinstance(text, str) else list(text)
        texts: list[str] = []
        words: list[str] = []
        labels: list[bool] = []
        probabilities: list[float] = []
        owner: list[int] = []
        for i, context in enumerate(contexts):
            found = _WORD.findall(context)
            score = np.asarray(self.scores(found), dtype=float) if found else np.zeros(0)
            keep = np.zeros(len(found), dtype=bool)
            keep[np.argsort(-score, kind="stable")[: math.ceil(rate * len(found) - 1e-9)]] = True
            rank = np.empty(len(found))
            rank[np.argsort(score, kind="stable")] = np.arange(1, len(found) + 1) / max(1, len(found))
            texts.append(context if keep.all() else " ".join(w for w, k in zip(found, keep) if k))
            words += found
            labels += keep.tolist()
            probabilities += rank.tolist()
            owner += [i] * len(found)
        joined = "\n\n".join(texts)
        return Compression(
            *(joined, tuple(texts), tuple(words), tuple(labels), tuple(probabilities), tuple(owner)),
            origin_tokens=sum(map(self.count_tokens, contexts)),
            compressed_tokens=sum(map(self.count_tokens, texts)),
        )


class Truncation(WordCompressor):
    """Keep the first words.

    Examples
    --------
    >>> Truncation(rate=0.5).compress("a b c d").text
    'a b'
    """

    def scores(self, words: Sequence[str]) -> np.ndarray:
        return -np.arange(len(words), dtype=float)


class RandomDeletion(WordCompressor):
    """Keep words at random; the same text and seed give the same words.

    Examples
    --------
    >>> len(RandomDeletion(rate=0.5, seed=0).compress("a b c d").kept)
    2
    """

    def scores(self, words: Sequence[str]) -> np.ndarray:
        content = np.frombuffer(" ".join(words).encode("utf-8", "surrogatepass"), dtype=np.uint8)
        return np.random.default_rng([self.seed, *content[:256].tolist(), len(words)]).random(len(words))


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

    lm: Any = free(None, "gives token log-probabilities, None: an n-gram model of fit's texts", kw_only=False)
    order: int = whole(2, "of the n-gram model: word frequencies, or bigrams", at_most=2)

    def __sklearn_is_fitted__(self) -> bool:
        return self.lm is not None or hasattr(self, "unigrams_")

    def fit(self, texts: Sequence[str]) -> Self:
        """Count the n-grams of a corpus; not needed with a language model."""
        with self._refit():
            self.unigrams_: Counter[str] = Counter()
            self.bigrams_: Counter[str] = Counter()
            for text in texts:
                words = ["", *_WORD.findall(text)]
                self.unigrams_.update(words)
                self.bigrams_.update(f"{a} {b}" for a, b in pairwise(words))
        return self

    def _load_state(self, state: Any) -> None:
        for name, counts in state["values"].items():
            setattr(self, name, Counter(counts))

    def scores(self, words: Sequence[str]) -> np.ndarray:
        if self.lm is not None:
            return self._lm_surprisal(words)
        if not hasattr(self, "unigrams_"):
            raise NotFittedError(
                "SurprisalCompressor without a language model must be fitted on texts first: fit(texts)"
            )
        size = len(self.unigrams_) + 1
        if self.order == 1:
            total = sum(self.unigrams_.values())
            return np.array([-math.log((self.unigrams_[w] + 1) / (total + size)) for w in words])
        return np.array(
            [
                -math.log((self.bigrams_[f"{a} {b}"] + 1) / (self.unigrams_[a] + size))
                for a, b in zip(["", *words], words)
            ]
        )

    def _lm_surprisal(self, words: Sequence[str]) -> np.ndarray:
        """Mean surprisal of each word's tokens, the text scored as the continuation of its own first word."""
        spaced = [words[0], *(f" {word}" for word in words[1:])]
        if len(words) == 1:
            return np.zeros(1)
        option = self.lm.score([spaced[0]], [["".join(spaced[1:])]], tag="surprisal")[0][0]
        ids = self.lm.encode("".join(spaced))
        logprobs = list(option.token_logprobs)
        shares = np.zeros(len(words))
        counts = np.zeros(len(words))
        ends = np.cumsum([len(piece) for piece in spaced])
        text = 0
        for position in range(1, len(ids) + 1):
            start, text = text, len(self.lm.decode(ids[:position]))
            scored = position - 1 - (len(ids) - len(logprobs))  # the first word's tokens have no score
            if scored >= 0:
                word = int(np.searchsorted(ends, min((start + text) / 2, ends[-1] - 0.5), side="right"))
                shares[word] -= logprobs[scored]
                counts[word] += 1
        surprisal = shares / np.maximum(counts, 1)
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
