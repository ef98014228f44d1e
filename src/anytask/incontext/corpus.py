"""Corpus building for pre-training: a quality filter, fuzzy de-duplication and a weighted mixture, all streaming."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

from anytask.core.checks import check_counts
from anytask.core.settings import Settings, real, whole
from anytask.lm.protocol import check_sequence, check_texts

MIXTURE: dict[str, float] = {"crawl": 0.60, "curated": 0.22, "books1": 0.08, "books2": 0.08, "encyclopedia": 0.03}
"""The paper's sampling weights by source (as printed they sum to 1.01; :func:`mix` normalises)."""


def keep_probability(score: float | np.ndarray, shape: float = 9.0) -> float | np.ndarray:
    """Return P(keep) = (2 - s)^-shape of a document with quality score s in [0, 1].

    It is the probability that a Lomax draw (``numpy``'s ``pareto``) exceeds 1 - s.

    Examples
    --------
    >>> [round(float(keep_probability(s)), 6) for s in (0.0, 0.5, 0.9, 1.0)]
    [0.001953, 0.026012, 0.424098, 1.0]
    """
    return (2.0 - np.asarray(score, dtype=float)) ** -shape


class QualityFilter(Settings):
    """Keep raw documents that read like curated text, and now and then one that does not.

    Parameters
    ----------
    n_features : int, default 2**18
        Hashed word features (unigrams).
    shape : float, default 9 (the paper's)
        Shape of the Pareto rule: a document with score s is kept iff ``rng.pareto(shape) > 1 - s``.
    C : float, default 1.0
        Inverse regularisation of the logistic regression.
    seed : int, default 0
        Seed of the Pareto draws.

    Examples
    --------
    >>> good = ["the council approved the budget after a long debate"] * 20
    >>> bad = ["click here buy cheap pills now now now"] * 20
    >>> quality = QualityFilter().fit(good, bad)
    >>> g, b = quality.score_samples([good[0], bad[0]])
    >>> bool(g > b + 0.5)
    True
    >>> len(list(quality.filter(bad * 10)))
    1
    """

    n_features: int = whole(2**18, "hashed word features")
    shape: float = real(9.0, "shape of the Pareto rule", above=0)
    C: float = real(1.0, "inverse regularization of the logistic regression", above=0)
    seed: int = whole(0, "seed of the Pareto draws", at_least=0)

    def fit(self, curated: Iterable[str], raw: Iterable[str]) -> QualityFilter:
        """Learn to tell ``curated`` text (positive) from the ``raw`` crawl (negative)."""
        curated, raw = check_texts(curated, "curated"), check_texts(raw, "raw")
        if not curated or not raw:
            raise ValueError(f"both classes need documents, got {len(curated)} curated and {len(raw)} raw")
        self._vectorizer = HashingVectorizer(n_features=self.n_features, alternate_sign=False)
        X = self._vectorizer.transform([*curated, *raw])
        y = np.r_[np.ones(len(curated)), np.zeros(len(raw))]
        self.classifier_ = LogisticRegression(C=self.C, max_iter=1000).fit(X, y)
        return self

    def score_samples(self, documents: Sequence[str]) -> np.ndarray:
        """Return each document's probability of being curated, shape (n,)."""
        check_is_fitted(self)
        documents = check_texts(documents, "documents")
        if not documents:
            return np.zeros(0)
        return self.classifier_.predict_proba(self._vectorizer.transform(documents))[:, 1]

    def filter(self, documents: Iterable[str], *, batch: int = 1000) -> Iterator[str]:
        """Yield the documents that the Pareto rule keeps, in their order."""
        rng = np.random.default_rng(self.seed)
        for chunk in _chunks(documents, batch):
            scores = self.score_samples(chunk)
            for document, kept in zip(chunk, rng.pareto(self.shape, size=len(chunk)) > 1 - scores):
                if kept:
                    yield document


class FuzzyDeduplicator(Settings):
    """Drop documents whose word sets nearly equal an earlier one's (MinHash with locality-sensitive hashing).

    Two documents with Jaccard similarity J agree in a hash with probability J; they are candidates when all hashes of
    one band agree, and duplicates when the share of agreeing hashes reaches ``threshold``.

    Parameters
    ----------
    n_hashes : int, default 10 (the paper's)
    bands : int, default 5
        Must divide ``n_hashes``; the paper does not give its bands.
    threshold : float in (0, 1], default 0.8
        Least share of agreeing hashes. The paper does not give its threshold.
    n_features : int, default 2**18
        Hashed word features, the quality filter's.
    seed : int, default 0
        Seed of the hash functions.

    Examples
    --------
    >>> text = "a long report on the state of the northern railways in winter"
    >>> list(FuzzyDeduplicator().filter([text, "something else entirely", text + " ."]))
    ['a long report on the state of the northern railways in winter', 'something else entirely']
    """

    _PRIME = (1 << 61) - 1

    n_hashes: int = whole(10, "hash functions")
    bands: int = whole(5, "bands of hashes that are looked up")
    threshold: float = real(0.8, "least share of agreeing hashes of a duplicate", above=0, at_most=1)
    n_features: int = whole(2**18, "hashed word features, the quality filter's", at_most=2**30)
    seed: int = whole(0, "seed of the hash functions", at_least=0)

    def _check_settings(self) -> None:
        if self.n_hashes % self.bands:
            raise ValueError(f"bands must divide n_hashes, got n_hashes={self.n_hashes} and bands={self.bands}")

    def signatures(self, documents: Sequence[str]) -> np.ndarray:
        """Return the MinHash signatures, shape (n, n_hashes); a document without words gets the largest value."""
        words = HashingVectorizer(n_features=self.n_features, alternate_sign=False, norm=None, binary=True)
        documents = check_texts(documents, "documents")
        X: csr_matrix = words.transform(documents).tocsr() if documents else csr_matrix((0, self.n_features))
        rng = np.random.default_rng(self.seed)
        a = rng.integers(1, 1 << 31, size=self.n_hashes, dtype=np.uint64)
        b = rng.integers(0, 1 << 31, size=self.n_hashes, dtype=np.uint64)
        out = np.full((X.shape[0], self.n_hashes), self._PRIME, dtype=np.uint64)
        # a * x + b stays below 2^61: x < n_features, a < 2^31
        hashed = (X.indices.astype(np.uint64)[:, None] * a + b) % np.uint64((1 << 31) - 1)
        for i in range(X.shape[0]):
            rows = hashed[X.indptr[i] : X.indptr[i + 1]]
            if len(rows):
                out[i] = rows.min(axis=0)
        return out

    def filter(self, documents: Iterable[str], *, batch: int = 1000) -> Iterator[str]:
        """Yield the documents of which no earlier one is a duplicate, in their order.

        What is remembered are the kept documents' signatures (``8 * n_hashes`` bytes each), not their texts.
        """
        kept: list[np.ndarray] = []
        tables: list[dict[bytes, list[int]]] = [{} for _ in range(self.bands)]
        for chunk in _chunks(documents, batch):
            for document, signature in zip(chunk, self.signatures(chunk)):
                keys = [part.tobytes() for part in np.split(signature, self.bands)]
                near = {i for table, key in zip(tables, keys) for i in table.get(key, ())}
                if any((kept[i] == signature).mean() >= self.threshold for i in near):
                    continue
                for table, key in zip(tables, keys):
                    table.setdefault(key, []).append(len(kept))
                kept.append(signature)
                yield document


def mix(
    sources: Mapping[str, Callable[[], Iterable[Any]]], weights: Mapping[str, float], *, seed: int = 0
) -> Iterator[tuple[str, Any]]:
    """Yield (source, document) without end, each draw from a source with probability proportional to its weight.

    Sources are calls that start a fresh pass, so that a small one with a large weight is seen several times while a
    large one is not finished: the weights are not proportional to the sizes.

    Examples
    --------
    >>> sources = {"crawl": lambda: iter(range(1000)), "books": lambda: ["a", "b"]}
    >>> stream = mix(sources, {"crawl": 0.6, "books": 0.4})
    >>> drawn = [next(stream)[0] for _ in range(1000)]
    >>> 0.55 < drawn.count("crawl") / 1000 < 0.65
    True
    """
    if set(sources) != set(weights):
        raise ValueError(f"sources and weights must name the same things: {sorted(sources)} and {sorted(weights)}")
    names = list(sources)
    w = np.array([weights[name] for name in names], dtype=float)
    if not len(w) or (w < 0).any() or w.sum() <= 0 or not np.isfinite(w).all():
        raise ValueError(f"weights must be >= 0 with a positive sum, got {dict(weights)}")
    rng = np.random.default_rng(seed)
    endless = {name: _endless(name, sources[name]) for name in names}
    while True:
        name = names[rng.choice(len(names), p=w / w.sum())]
        yield name, next(endless[name])


def _endless(name: str, source: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    while True:
        count = 0
        for count, document in enumerate(source(), 1):  # noqa: B007
            yield document
        if not count:
            raise ValueError(f"source {name!r} is empty")


def _chunks(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    check_counts(batch=size)
    source = iter(check_sequence(documents, "documents"))
    while chunk := list(islice(source, size)):
        yield chunk
