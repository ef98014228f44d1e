"""Rivals of LLMLingua-2: what the training labels tell of words alone, and a real model's surprisal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from anytask.problems.language import model_of
from anytask.prompts.baselines import SurprisalCompressor, WordCompressor
from anytask.prompts.llmlingua2.distillation import Distillation
from anytask.prompts.parts.words import Words


class KeepRates(WordCompressor):
    """Keep the words that the training labels keep most often, whatever stands beside them.

    It learns from the labels that :class:`~anytask.prompts.LLMLingua2` learns from; what the encoder adds is context.

    Examples
    --------
    >>> KeepRates().fit([["the", "cat"], ["a", "cat"]], [[False, True], [False, True]]).compress("the cat", 0.5).text
    'cat'
    """

    model = None  # trained here, as the encoder is

    def fit(self, words: Sequence[Sequence[str]], labels: Sequence[Sequence[bool]]) -> Self:
        """Count; a word that was never met counts as kept in half of the cases."""
        with self._refit():
            counts: dict[str, list[int]] = {}
            for row, flags in zip(words, labels, strict=True):
                for word, flag in zip(row, flags, strict=True):
                    counts.setdefault(word, []).append(flag)
            self.rates_ = {word: (sum(flags) + 0.5) / (len(flags) + 1) for word, flags in counts.items()}
        return self

    def distill(self, chat: Any, texts: Sequence[str]) -> Self:
        """Have a chat model compress ``texts``, and count in what passes the filters."""
        distilled = Distillation().distill(chat, texts, seed=self.seed)
        self.fit(distilled.words, distilled.labels)
        self.distilled_ = distilled
        return self

    def scores(self, words: Words) -> np.ndarray:
        """Return the rate of each word."""
        return np.array([self.rates_.get(word, 0.5) for word in words.text])


class SelectiveContext(SurprisalCompressor):
    """Keep the words that a real causal language model found hardest to predict, as Selective Context does."""

    def scores(self, words: Words) -> np.ndarray:
        """Return the surprisal of each word."""
        return SurprisalCompressor(model_of("smollm2-135m?dtype=float32")).scores(words)
