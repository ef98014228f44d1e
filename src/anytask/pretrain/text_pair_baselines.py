"""Matchers of texts that everybody has: shared words, and a sentence encoder with its library's own loss."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, ClassVar, Self

import numpy as np
import torch

from anytask.core.checks import require_finite
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated
from anytask.core.settings import of_kind, real, whole
from anytask.core.training import train
from anytask.lm.bm25 import BM25Index
from anytask.pretrain.parts.items import Pairs, ranked, read_items, read_pairs

__all__ = ["BM25Pairs", "SentenceEncoder"]


class TextMatcher(Estimator):
    """Base of the matchers of texts that give no tokens: they write :meth:`_train` and :meth:`_scores`."""

    sees: ClassVar[str] = "none"
    KINDS: ClassVar[tuple[str, str]] = ("texts", "texts")

    def fit(self, left: Any, right: Any, *, progress: Progress | None = None) -> Self:
        """Learn from aligned texts, as :meth:`~anytask.pretrain.parts.pairs.PairEncoder.fit` does."""
        with self._refit():
            pairs = read_pairs(left, right, self.KINDS)
            self.n_pairs_ = len(pairs.edges)
            with isolated(derive(self.seed, "train")), torch.enable_grad():
                self._build()
                self._train(pairs, heard(progress))
            heard(progress)(1.0)
        return self

    def scores(self, left: Any, right: Any) -> Any:
        """Return how well each left text fits each right one, shape (n, m)."""
        self._check_fitted()
        a, b = (read_items(given, name, "texts").values for given, name in ((left, "left"), (right, "right")))
        return require_finite(np.asarray(self._scores(a, b), dtype=np.float64), "a score")

    def rank(self, queries: Any, targets: Any, *, k: int | None = None) -> Any:
        """Return the places of the targets that fit each query, the best first, and their scores, shape (n, k)."""
        return ranked(self.scores(queries, targets), k)

    def _train(self, pairs: Pairs, progress: Progress) -> None:
        """Learn from pairs; nothing by default."""

    def _scores(self, left: list[str], right: list[str]) -> Any:
        raise NotImplementedError


class BM25Pairs(TextMatcher):
    """The words that two texts share, by BM25; nothing is learned.

    Examples
    --------
    >>> model = BM25Pairs().fit(["a"], ["b"])
    >>> model.rank(["welds steel pipes"], ["bakes bread", "steel work"])[0].tolist()
    [[1, 0]]
    """

    def _scores(self, left: list[str], right: list[str]) -> Any:
        index = BM25Index(right)
        return np.stack([index.scores(text) for text in left])


class SentenceEncoder(TextMatcher):
    """A model of sentence-transformers, as it is or fine-tuned with that library's MultipleNegativesRankingLoss.

    Parameters
    ----------
    model : str or path, default "minilm"
        The packaged MiniLM, or a name or folder.
    epochs : int, default 3
        Passes over the pairs; 0 leaves the model as it is.
    lr : float, default 2e-5
        Highest rate of AdamW, reached after a tenth of the steps.
    batch_size : int, default 32
        Pairs in a step, in which no text appears twice.
    scale : float, default 20.0
        What the loss multiplies cosines with.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Examples
    --------
    >>> model = SentenceEncoder(epochs=0).fit(["a"], ["b"])
    >>> model.rank(["she fixes leaking taps"], ["baker", "plumber"])[0].tolist()
    [[1, 0]]
    """

    model: Any = of_kind("minilm", (str, os.PathLike), "a name or a folder", "of sentence-transformers, or minilm")
    epochs: int = whole(3, "passes over the pairs; 0: the model as it is", at_least=0)
    lr: float = real(2e-5, "highest learning rate of AdamW", above=0)
    batch_size: int = whole(32, "pairs in a step, in which no text appears twice", at_least=2)
    scale: float = real(20.0, "what the loss multiplies cosines with", above=0)

    def _build(self) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError("this encoder needs sentence-transformers: pip install 'anytask[text]'") from error
        from anytask.lm.embeddings import packaged_model
        from anytask.models.loading import read_pretrained

        source = str(packaged_model() if self.model == "minilm" else self.model)
        self.net_ = read_pretrained(source, SentenceTransformer, device=str(self._device)).eval()

    def _train(self, pairs: Pairs, progress: Progress) -> None:
        from sentence_transformers.util import batch_to_device

        try:
            library: Any = import_module("sentence_transformers.sentence_transformer.losses")
        except ImportError:  # at an older place
            library = import_module("sentence_transformers.losses")

        batches = [batch for _ in range(self.epochs) for batch in self._batches(pairs.edges)]
        if not batches:
            return
        loss = library.MultipleNegativesRankingLoss(self.net_, scale=self.scale)
        optimizer = torch.optim.AdamW(self.net_.parameters(), self.lr)
        warm = max(1, len(batches) // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm))

        def features(texts: list[str]) -> Any:
            return batch_to_device(getattr(self.net_, "preprocess", self.net_.tokenize)(texts), self._device)

        def losses(batch: torch.Tensor) -> torch.Tensor:
            sides = [side.taken(batch[:, place]) for place, side in enumerate((pairs.left, pairs.right))]
            return loss([features(texts) for texts in sides], torch.zeros(0))

        train(
            self.net_, lambda step: batches[step - 1], losses, steps=len(batches), optimizer=optimizer,
            schedule=schedule, progress=progress, stage="training",
        )  # fmt: skip

    def _batches(self, edges: torch.Tensor) -> list[torch.Tensor]:
        """Return all edges in batches of distinct texts, as the loss takes every other text for wrong."""
        left = edges[torch.randperm(len(edges))].tolist()
        found: list[torch.Tensor] = []
        while left:
            batch: list[list[int]] = []
            seen: tuple[set[int], set[int]] = (set(), set())
            rest = []
            for a, b in left:
                if len(batch) < self.batch_size and a not in seen[0] and b not in seen[1]:
                    batch.append([a, b])
                    seen[0].add(a)
                    seen[1].add(b)
                else:
                    rest.append([a, b])
            left = rest
            if len(batch) > 1 or not found:
                found.append(torch.tensor(batch))
        return found

    def _scores(self, left: list[str], right: list[str]) -> Any:
        a, b = (
            self.net_.encode(side, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False)
            for side in (left, right)
        )
        return a @ b.T
