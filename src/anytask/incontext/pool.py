"""A pool of unlabelled examples, the labels bought for some of them, and prompts made of those and of nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from anytask.core.checks import as_array, require_finite
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive
from anytask.core.settings import Settings, choice, flag, free, of_kind, positional, real, taken, texts, whole
from anytask.incontext.base import (
    Answer,
    check_answers,
    check_places,
    check_queries,
    choices_field,
    shots,
    template_field,
)
from anytask.incontext.gpt3 import GPT3
from anytask.lm.prompting import Demonstration, Prompt, PromptTemplate
from anytask.lm.protocol import check_lm, check_texts, require
from anytask.lm.search import as_vectors, unit

Annotate = Callable[[Sequence[int]], Sequence[Any]]


class Unannotated(LookupError):
    """A label was asked for that nobody has annotated."""


def embedder_field(default: str = "minilm") -> Any:
    """Return the field of what makes vectors of texts; "minilm" is the packaged MiniLM."""
    help = "'minilm', a model's name or folder, or an object with embed(texts)"
    return free(default, help, _check_embedder)


def embed(embedder: Any, texts: Sequence[str], device: Any = "auto") -> np.ndarray:
    """Return the vectors of ``texts``, shape (n, d), by the embedder given or that of a name or folder."""
    _check_embedder(embedder)
    if isinstance(embedder, (str, os.PathLike)):
        embedder = _named_embedder(os.fspath(embedder), str(device))
    return as_vectors(embedder.embed(check_texts(texts, "texts")), "the embedding of the texts")


@lru_cache(maxsize=4)
def _named_embedder(name: str, device: str) -> Any:
    from anytask.lm.embeddings import Embedder

    return Embedder(None if name == "minilm" else name, device=device)


def _check_embedder(embedder: Any) -> None:
    if not isinstance(embedder, (str, os.PathLike)) and not hasattr(embedder, "embed"):
        raise TypeError(f"embedder must be 'minilm', a model's name or folder, or have embed(texts), got {embedder!r}")


class Labels(dict[int, Any]):
    """The labels bought so far, by index; any other index raises :class:`Unannotated`."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __missing__(self, index: int) -> Any:
        if not 0 <= index < self._size:
            raise IndexError(f"index {index} is outside the pool of {self._size}")
        raise Unannotated(f"item {index} of the pool has no label: only {len(self)} items were annotated")


class Pool:
    """Unlabelled examples as vectors (and texts), with a way to buy labels.

    Parameters
    ----------
    vectors : array of shape (n, d), optional
        One vector per example. They are centred on the pool's mean and scaled to length 1.
    texts : sequence of str, optional
        The examples' texts. Without ``vectors`` they are embedded by ``embedder``.
    annotate : callable, optional
        ``annotate(indices) -> labels``: asks the annotator. Each index is asked for once.
    embedder : str, path or anytask.lm.Embedder, default "minilm"
        Makes vectors of texts: the packaged MiniLM, or see :class:`~anytask.lm.Embedder`.
    center : bool, default True
        Subtract the pool's mean vector, from queries too.

    Attributes
    ----------
    vectors : ndarray of shape (n, d)
        Centred vectors of length 1.
    labels : Labels
        What was bought, in the order of buying; an index that was not bought raises :class:`Unannotated`.

    Examples
    --------
    >>> pool = Pool([[0, 1], [1, 0], [1, 1]], annotate=lambda indices: ["abc"[i] for i in indices])
    >>> pool.annotate([2])
    ['c']
    >>> pool.labels[0]
    Traceback (most recent call last):
        ...
    anytask.incontext.pool.Unannotated: item 0 of the pool has no label: only 1 items were annotated
    """

    def __init__(
        self,
        vectors: ArrayLike | None = None,
        *,
        texts: Sequence[str] | None = None,
        annotate: Annotate | None = None,
        embedder: Any = "minilm",
        center: bool = True,
    ) -> None:
        self.embedder = embedder
        self.texts = None if texts is None else check_texts(texts, "texts")
        raw = self._raw(vectors, self.texts, "vectors")
        if self.texts is not None and len(self.texts) != len(raw):
            raise ValueError(f"texts and vectors differ in length: {len(self.texts)} and {len(raw)}")
        self.mean = raw.mean(axis=0) if center else np.zeros(raw.shape[1], dtype=np.float32)
        self.vectors = unit(raw - self.mean)
        self.labels = Labels(len(raw))
        self._annotate = _check_annotate(annotate)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def can_annotate(self) -> bool:
        """Whether labels can be bought."""
        return self._annotate is not None

    @cached_property
    def originals(self) -> np.ndarray:
        """For each item the first one with the same vector: itself, unless it is a copy."""
        first: dict[int, int] = {}
        return np.array([first.setdefault(hash(row.tobytes()), i) for i, row in enumerate(self.vectors)])

    def annotate(self, indices: Sequence[int]) -> list[Any]:
        """Return the labels of ``indices``, asking the annotator for those not known yet."""
        wanted = [int(i) for i in indices]
        new = list(dict.fromkeys(i for i in wanted if i not in self.labels))
        if outside := [i for i in new if not 0 <= i < len(self)]:
            raise IndexError(f"index {outside[0]} is outside the pool of {len(self)}")
        if new:
            if self._annotate is None:
                raise Unannotated(f"labels of {len(new)} items are wanted, and the pool has no annotate callback")
            labels = check_answers(self._annotate(new), "the labels that annotate returned")
            if len(labels) != len(new):
                raise ValueError(f"annotate was asked for {len(new)} labels and returned {len(labels)}")
            self.labels.update(zip(new, labels))
        return [self.labels[i] for i in wanted]

    def place(self, vectors: ArrayLike | None = None, texts: Sequence[str] | None = None) -> np.ndarray:
        """Return query vectors (n, d) in the pool's space: the pool's mean subtracted, length 1."""
        return unit(self._raw(vectors, texts, "queries", self.vectors.shape[1]) - self.mean)

    def _raw(
        self, vectors: ArrayLike | None, texts: Sequence[str] | None, name: str, dim: int | None = None
    ) -> np.ndarray:
        if vectors is None:
            if texts is None:
                raise ValueError(f"{name} are needed, or texts to embed")
            vectors = embed(self.embedder, texts)
        return as_vectors(vectors, name, dim)


def _check_annotate(annotate: Annotate | None) -> Annotate | None:
    if annotate is not None and not callable(annotate):
        raise TypeError(f"annotate must be a callable (indices) -> labels, got {type(annotate).__name__}")
    return annotate


def as_pool(pool: Any, annotate: Annotate | None = None) -> Pool:
    """Return ``pool`` as a :class:`Pool`: itself, or made of an array of vectors or a sequence of texts."""
    if isinstance(pool, Pool):
        if annotate is not None:
            pool._annotate = _check_annotate(annotate)
        return pool
    if isinstance(pool, Iterator):
        pool = list(pool)
    one_column = isinstance(pool, Collection) and getattr(pool, "ndim", 1) == 1
    if one_column and any(isinstance(text, str) for text in pool):
        return Pool(texts=pool, annotate=annotate)
    return Pool(pool, annotate=annotate)


@dataclass
class Selection:
    """Which examples to annotate, in the order in which they were chosen.

    Attributes
    ----------
    indices : ndarray of shape (budget,)
        Distinct positions in the pool.
    scores : ndarray of shape (budget,)
        What the method gave each when it chose it (votes, gain, minus confidence); NaN where it drew at random.
    stage : ndarray of shape (budget,)
        Which stage of the method chose each: 1, 2, ..., and 0 for random filling.
    method : str
        The method's name.
    confidences : ndarray of shape (n,) or None
        Confidence in every example of the pool, NaN for those not asked; None where no model was asked.
    details : dict
        Facts for a report, such as ``k``.
    """

    indices: np.ndarray
    scores: np.ndarray
    stage: np.ndarray
    method: str
    confidences: np.ndarray | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices.tolist())

    def __getitem__(self, place: int) -> int:
        return int(self.indices[place])


def check_selection(chosen: Any, n: int, budget: int) -> list[int]:
    """Return what ``select`` returned as a list of distinct places in a pool of ``n``, or say what is wrong with it."""
    indices = [int(i) for i in getattr(chosen, "indices", chosen)]
    differ = len(set(indices))
    if not len(indices) == differ == budget:
        raise ValueError(f"select must return {budget} distinct items, got {len(indices)} of which {differ} differ")
    return check_places(indices, n, "select")


class Confidence(Protocol):
    """How sure a model is of unlabelled examples, given the annotated ones."""

    def __call__(self, pool: Pool, queries: np.ndarray) -> np.ndarray:
        """Return one number for each of ``queries`` (indices into the pool); higher is surer."""
        ...


class PoolSelector(Settings):
    """Base of what chooses items of a pool: a subclass says how."""

    def select(
        self,
        pool: Any,
        budget: int,
        annotate: Annotate | None = None,
        confidence: Confidence | None = None,
        progress: Progress | None = None,
    ) -> Selection:
        """Choose ``budget`` items that are not annotated yet; those that are count as chosen before.

        Parameters
        ----------
        pool : Pool, array of shape (n, d), or list of str
            What can be annotated; texts are embedded by the packaged MiniLM.
        budget : int
            How many items to choose, at most as many as are not annotated.
        annotate : callable, optional
            ``annotate(indices) -> labels``, for methods that need labels on the way; a :class:`Pool` may bring its own.
        confidence : Confidence, optional
            ``confidence(pool, indices)``, such as :class:`LMConfidence`, for methods that ask a model; default
            :class:`NearestVote`.
        progress : callable, optional
            Called with the finished share in [0, 1].

        Raises
        ------
        ValueError
            For budgets outside the pool, a missing way to annotate, or confidences of the wrong length or NaN.
        """
        pool = as_pool(pool, annotate)
        n, known = len(pool), len(pool.labels)
        if not isinstance(budget, (int, np.integer)) or isinstance(budget, bool) or not 1 <= budget <= n - known:
            told = f" of which {known} are annotated" if known else ""
            raise ValueError(f"budget must be an integer in [1, {n - known}] for a pool of {n}{told}, got {budget!r}")
        if confidence is not None and not callable(confidence):
            raise TypeError(f"confidence must be a callable (pool, indices) -> numbers, got {confidence!r}")
        share = portion(progress, 0.0, 1.0)
        chosen = self._choose(pool, int(budget), confidence or NearestVote(), share)
        share(1.0)
        return chosen

    def _choose(self, pool: Pool, budget: int, confidence: Confidence, share: Progress) -> Selection:
        raise NotImplementedError


def least_confident(
    pool: Pool, confidence: Confidence, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Ask how sure the model is of all items that are not annotated.

    Returns
    -------
    confidences : ndarray of shape (n,)
        NaN where it was not asked.
    ranked : ndarray
        The items that were asked for, least confident first; copies of annotated items and of others come last, so that
        no label is spent on a copy while there is anything else.
    """
    rest = np.setdiff1d(np.arange(len(pool)), list(pool.labels))
    values = np.asarray(as_array(confidence(pool, rest, **taken(confidence, progress=progress)), "confidence"))
    if values.dtype.kind not in "biuf":
        raise TypeError(f"confidence must return numbers, got {values.dtype}")
    values = values.astype(np.float64)
    if values.shape != (len(rest),) or np.isnan(values).any():
        raise ValueError(f"confidence must return {len(rest)} numbers without NaN, got shape {values.shape}")
    confidences = np.full(len(pool), np.nan)
    confidences[rest] = values
    own = pool.originals[rest]
    _, first = np.unique(own, return_index=True)
    copy = ~np.isin(np.arange(len(rest)), first) | np.isin(own, pool.originals[list(pool.labels)])
    return confidences, rest[np.lexsort((rest, values, copy))]


class NearestVote(Settings):
    """Predict by a vote of the nearest annotated examples: a stand-in for a language model that reads them.

    Parameters
    ----------
    n_neighbors : int, default 3
        How many annotated examples vote.
    temperature : float > 0, default 0.1
        A neighbour of cosine c votes with weight ``exp(c / temperature)``.

    Examples
    --------
    >>> pool = Pool([[0.0, 1], [1, 0], [-1, 0], [0, -1]], annotate=lambda indices: ["up", "right"])
    >>> _ = pool.annotate([0, 1])
    >>> NearestVote().predict(pool, [[0.1, 2.0]])
    array(['up'], dtype='<U5')
    """

    n_neighbors: int = whole(3, "annotated examples that vote")
    temperature: float = real(0.1, "temperature of the vote's weights", above=0)

    def shares(self, pool: Pool, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes, sorted, and each one's share of the vote, shape (n_queries, n_classes).

        ``queries`` are vectors in the pool's space, see :meth:`Pool.place`.
        """
        if not len(pool.labels):
            raise Unannotated("nothing is annotated yet: there is nobody to vote")
        known = np.fromiter(pool.labels, dtype=np.int64)
        classes, codes = np.unique(np.array([pool.labels[i] for i in known]), return_inverse=True)
        cosine = queries @ pool.vectors[known].T  # (n_queries, n_known)
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, : self.n_neighbors]
        near = np.take_along_axis(cosine, nearest, axis=1)
        weights = np.exp((near - near.max(axis=1, keepdims=True)) / self.temperature)
        votes = np.zeros((len(queries), len(classes)))
        np.add.at(votes, (np.arange(len(queries))[:, None], codes[nearest]), weights)
        return classes, votes / votes.sum(axis=1, keepdims=True)

    def predict(self, pool: Pool, queries: ArrayLike) -> np.ndarray:
        """Return the class with the largest share for each raw query vector, shape (n_queries,)."""
        classes, shares = self.shares(pool, pool.place(queries))
        return classes[shares.argmax(axis=1)]

    def __call__(self, pool: Pool, queries: np.ndarray) -> np.ndarray:
        """Return the largest share as the confidence in each of the pool's ``queries`` (indices)."""
        return self.shares(pool, pool.vectors[queries])[1].max(axis=1)


@dataclass(frozen=True)
class Retrieved:
    """The demonstrations chosen for one query, in the order of the prompt: the most similar last.

    ``indices`` point into the pool, ``similarities`` are their cosines with the query (NaN for random retrieval),
    ``prompt`` is what the model reads.
    """

    indices: np.ndarray
    similarities: np.ndarray
    prompt: Prompt


class AnnotatedPrompter(Settings):
    """Prompts made of the annotated part of a pool, and a frozen language model's answers to them.

    Parameters
    ----------
    pool : Pool
        With texts, some of them annotated. Labels that were not bought cannot be reached.
    lm : anytask.lm.ScoringModel
        The frozen model; also counts tokens.
    template : PromptTemplate, optional
        How demonstrations and queries are written.
    choices : sequence of str, optional
        The possible answers. With them the answer is the choice of the highest mean token log-probability; without
        them the model writes.
    budget : int, default 1000
        Most tokens of a prompt and its answer together (the paper's value); never more than the model's context.
    cap : int, default 250
        Annotated examples longer than this many tokens are left out (the paper's value).
    k : int >= 0 or "max", default "max"
        Most demonstrations; "max": as many as fit.
    order : {"similar", "random"}, default "similar"
        The most similar, or random annotated examples, drawn with a seed made from ``seed`` and the query's text.
    skip_identical : bool, default True
        Leave out examples whose cosine with the query is 1 (up to 1e-6), so that a test item that is also in the pool
        does not read its own answer. Only in similarity mode.
    max_tokens : int, default 32
        Most tokens the model writes.
    stop : tuple of str, default ("--", "\\\\n", ";", "#")
        Where a written answer ends (the released code's).
    seed : int, default 0
        Seed of the random order.
    """

    pool: Pool = positional(of_kind, (Pool,), "a Pool", "the annotated pool", kw_only=False)
    lm: Any = positional(free, "the frozen language model", check_lm, kw_only=False)
    template: PromptTemplate = template_field(PromptTemplate())
    choices: Sequence[str] | None = choices_field("possible answers, None: the model writes")
    budget: int = whole(1000, "tokens of a prompt and its answer, at most the model's context")
    cap: int = whole(250, "tokens of the longest example shown")
    k: int | Literal["max"] = shots("max")
    order: str = choice("similar", ("similar", "random"), "which annotated examples are shown")
    skip_identical: bool = flag(True, "leave out examples identical to the query")
    max_tokens: int = whole(32, "most tokens the model writes")
    stop: Sequence[str] = texts(("--", "\n", ";", "#"), "where a written answer ends")
    seed: int = whole(0, "seed of the random order", at_least=0)

    def _check_settings(self) -> None:
        if self.pool.texts is None:
            raise ValueError("prompts need the pool's texts: Pool(..., texts=...)")
        self._learner()  # what it refuses is refused now

    def _learner(self) -> GPT3:
        """Judges and writes; which demonstrations are shown is settled here."""
        return GPT3(
            self.lm, "max", template=self.template, scoring="generate" if self.choices is None else "mean",
            budget=self.budget, beam_width=1, max_tokens=self.max_tokens, stop=self.stop, seed=self.seed,
        ).fit([], [], options=self.choices or [])  # fmt: skip

    def retrieve(self, texts: Sequence[str], vectors: ArrayLike | None = None) -> list[Retrieved]:
        """Return the demonstrations and the prompt of each text; ``vectors`` spare their embedding."""
        texts = check_queries(texts, "texts")
        return self._retrieve(texts, self.pool.place(vectors, texts), [None] * len(texts))

    def _retrieve(self, texts: list[str], placed: np.ndarray, own: Sequence[int | None]) -> list[Retrieved]:
        known = np.fromiter(self.pool.labels, dtype=np.int64)
        assert self.pool.texts is not None
        demos = [Demonstration(self.pool.texts[i], str(self.pool.labels[i]), int(i)) for i in known]
        head, tail = self.template.demo_format.split("{output}")
        written = [head.replace("{input}", demo.input) + demo.output + tail for demo in demos]
        short = np.array([self.lm.count_tokens(text) for text in written], dtype=np.int64) <= self.cap
        learner = self._learner()
        cosine = placed @ self.pool.vectors[known].T  # (n, n_known)
        out = []
        for row, text in enumerate(texts):
            usable = short & (known != (-1 if own[row] is None else own[row]))
            if self.order == "similar":
                if self.skip_identical:
                    usable = usable & (cosine[row] < 1 - 1e-6)
                best_first = np.argsort(-cosine[row], kind="stable")
            else:
                rng = np.random.default_rng(derive(self.seed, "random demonstrations", text))
                best_first = rng.permutation(len(known))
            chosen = best_first[usable[best_first]][: None if self.k == "max" else self.k][::-1]  # most similar last
            prompt = learner.assemble([demos[i] for i in chosen], text)
            used = chosen[list(prompt.demos_used)]
            similarities = cosine[row, used] if self.order == "similar" else np.full(len(used), np.nan)
            out.append(Retrieved(known[used], similarities, prompt))
        return out

    def predict(
        self, texts: Sequence[str], vectors: ArrayLike | None = None, progress: Progress | None = None
    ) -> list[str]:
        """Return the model's answer to each text."""
        return [answer.output for answer in self._answer(self.retrieve(texts, vectors), progress)]

    def _answer(self, found: Sequence[Retrieved], progress: Progress | None) -> list[Answer]:
        prompts = [one.prompt for one in found]
        if self.choices is None:
            return self._learner().write(prompts, progress)
        return self._learner().judge(prompts, [self.choices] * len(prompts), progress)

    def _confidence(self, answers: Sequence[Answer]) -> np.ndarray:
        """The mean log-probability of the tokens of each answer."""
        if self.choices is not None:
            return np.array([max(answer.scores.values()) for answer in answers])
        means = np.full(len(answers), -np.inf)
        said = [i for i, answer in enumerate(answers) if answer.output]
        options = [[self.template.completion(answers[i].output)] for i in said]
        rows = self.lm.score([answers[i].prompt.text for i in said], options, tag="confidence")
        means[said] = require_finite(
            np.array([row[0].mean for row in rows]), "the language model's score of its answer"
        )
        return means


class LMConfidence:
    """Confidence of a frozen language model prompted with the annotated examples nearest to the one in question.

    The mean log-probability of the predicted choice's tokens, or of the written answer's tokens where there are no
    choices; an empty answer is the least confident of all.

    Parameters
    ----------
    lm : anytask.lm.ScoringModel
        The frozen model.
    **options
        Of :class:`AnnotatedPrompter`: ``choices``, ``template``, ``budget``, ...
    """

    def __init__(self, lm: Any, **options: Any) -> None:
        require(lm, "logprobs", method="LMConfidence")
        AnnotatedPrompter(Pool(np.eye(2), texts=("", "")), lm, **options)  # wrong options are refused before any call
        self.lm = lm
        self.options = options

    def __call__(self, pool: Pool, queries: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        prompter = AnnotatedPrompter(pool, self.lm, **self.options)
        assert pool.texts is not None
        found = prompter._retrieve([pool.texts[i] for i in queries], pool.vectors[queries], [int(i) for i in queries])
        return prompter._confidence(prompter._answer(found, progress))
