"""Features of texts that everybody has: weighted counts of words, and the vectors of a sentence encoder."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from anytask.core.progress import Progress
from anytask.core.settings import path, whole
from anytask.datasets.corpora import TextCorpus
from anytask.lm.protocol import check_texts
from anytask.pretrain.base import PretrainEstimator

__all__ = ["SentenceFeatures", "TfidfFeatures"]


class TextFeatures(PretrainEstimator):
    """Base of the features of texts: reads sequences of texts and corpora."""

    takes: ClassVar[str] = "texts"

    def _read(self, X: Any) -> TextCorpus:
        return X if isinstance(X, TextCorpus) else TextCorpus.of(check_texts(X, "X"), name="X")

    def _note(self, data: TextCorpus) -> None:
        """Keep nothing but what training finds."""

    def _check_alike(self, data: Any) -> None:
        """Take every text."""


class TfidfFeatures(TextFeatures):
    """Counts of words by scikit-learn, weighted by how few documents have the word.

    Parameters
    ----------
    max_features : int
        Most words, the most frequent first.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Examples
    --------
    >>> TfidfFeatures().fit(["red fox", "red hen"]).transform(["a hen"]).round(2).tolist()
    [[0.0, 1.0, 0.0]]
    """

    max_features: int = whole(2_000, "most words, the most frequent first")

    def _train(self, data: TextCorpus, progress: Progress) -> None:
        try:
            words = TfidfVectorizer(max_features=self.max_features).fit(data.documents)
        except ValueError as error:
            raise ValueError("X has no word: there is nothing to count") from error
        self.vocabulary_, self.idf_ = words.get_feature_names_out().tolist(), words.idf_
        progress(1.0)

    def _features(self, data: TextCorpus) -> Tensor:
        words = TfidfVectorizer(vocabulary=self.vocabulary_)
        words.idf_ = np.asarray(self.idf_)
        return torch.from_numpy(words.transform(data.documents).toarray()).float()


class SentenceFeatures(TextFeatures):
    """Vectors of a sentence encoder that somebody else trained, as it is.

    Parameters
    ----------
    encoder : str or path, default "minilm"
        A name or folder of sentence-transformers; "minilm" is all-MiniLM-L6-v2, which the extra ``text`` brings.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.
    """

    encoder: Any = path("minilm", "sentence encoder, by name or folder, or 'minilm'")

    def _train(self, data: TextCorpus, progress: Progress) -> None:
        self.width_ = self._embedder().dim
        progress(1.0)

    def _features(self, data: TextCorpus) -> Tensor:
        return torch.from_numpy(self._embedder().embed(data.documents))

    def _embedder(self) -> Any:
        from anytask.lm.embeddings import Embedder

        return Embedder(None if self.encoder == "minilm" else self.encoder, device=str(self._device))
