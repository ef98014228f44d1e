"""The prompts that are tried: points of a grid, and what they share - labels, words, descriptions, the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from scipy.special import log_softmax

from anytask.incontext import Pipeline
from anytask.incontext.pool import embed
from anytask.lm.prompting import PromptTemplate
from anytask.prompts import LLMLingua2


@dataclass(frozen=True)
class Point:
    """One way to ask: a point of the grid.

    Attributes
    ----------
    k : int
        Demonstrations in a prompt.
    show : {"fixed", "similar", "random"}
        One drawn set for all queries (as many of every label as can be), the nearest to each query, or drawn for each.
    description, words : str
        Names of the sentence that opens the prompt and of the words that labels are called by; "" for none, and for the
        labels as they are.
    calibrate, chat : bool
        Contextual calibration; the model's chat template.
    rate : float in (0, 1]
        Share of the inputs' tokens that LLMLingua-2 keeps; 1 leaves them alone.
    pruned : bool
        The prompt was searched by PromptQuine, starting from this one.
    """

    k: int = 0
    show: str = "fixed"
    description: str = ""
    words: str = ""
    calibrate: bool = False
    chat: bool = False
    rate: float = 1.0
    pruned: bool = False

    def __str__(self) -> str:
        shown = {"similar": "nearest", "fixed": "fixed", "random": "random"}[self.show]
        parts = [f"{self.k} {shown} demonstration{'s' * (self.k > 1)}" if self.k else "no demonstrations"]
        parts += [f"description ({self.description})"] * bool(self.description) + [self.words] * bool(self.words)
        parts += ["calibrated"] * self.calibrate + ["chat template"] * self.chat
        parts += [f"inputs cut to {self.rate:.0%}"] * (self.rate < 1) + ["pruned"] * self.pruned
        return ", ".join(parts)


#: What is asked first, because it pays most often.
LIKELY = (Point(0, "fixed", "labels"), Point(4, "fixed", "labels", calibrate=True))


def grid(
    ks: Sequence[int], *, descriptions: Sequence[str], words: Sequence[str], calibrate: bool, chat: Sequence[bool]
) -> list[Point]:
    """Return all points, those first that pay most often, then those with fewer demonstrations.

    Examples
    --------
    >>> [str(point) for point in grid([0, 4], descriptions=[""], words=[""], calibrate=False, chat=[False])]
    ['no demonstrations', '4 fixed demonstrations', '4 nearest demonstrations']
    """
    shows = ("fixed", "similar")
    every = product(ks, shows, descriptions, words, (False, True) if calibrate else (False,), chat)
    points = [Point(*one) for one in every if one[0] or one[1] == "fixed"]
    return sorted(points, key=lambda point: (replace(point, chat=False) not in LIKELY, point.k, point.calibrate))


@dataclass
class Judged:
    """What is known of a point, one number for each labelled text, NaN where it was not asked: shape (n,).

    Attributes
    ----------
    correct, margin, logprob : ndarray
        Whether the answer is right; by how much the right label's rank value is above the best other one's, and the
        log of its share, both NaN where the model gives no scores.
    tokens : ndarray
        Length of the prompt.
    said : list of str
        The answers, "" where it was not asked.
    example : str
        The prompt of the first text that was asked.
    """

    correct: np.ndarray
    margin: np.ndarray
    logprob: np.ndarray
    tokens: np.ndarray
    said: list[str]
    example: str = ""

    @classmethod
    def blank(cls, n: int) -> Judged:
        """Return one of ``n`` texts of which nothing is known."""
        correct, margin, logprob, tokens = np.full((4, n), np.nan)
        return cls(correct, margin, logprob, tokens, [""] * n)

    @property
    def n(self) -> int:
        """How many texts were asked about."""
        return int(np.isfinite(self.correct).sum())

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(np.nanmean(self.correct))


@dataclass
class Task:
    """What all points share.

    Parameters
    ----------
    texts, labels : sequences of n str
        The labelled texts.
    choices : sequence of str
        All labels.
    template : PromptTemplate
    models : mapping of bool to anytask.lm.ScoringModel
        By whether prompts are put into the chat template.
    prompts : mapping of Point to str
        Those that were searched, with ``{text}`` where the query goes.
    description : str, optional
        The user's own sentence.
    words : mapping of name to a mapping of labels to words
    vectors : mapping of text to ndarray of shape (d,)
        Embeddings that are known.
    """

    texts: Sequence[str]
    labels: Sequence[str]
    choices: Sequence[str]
    template: PromptTemplate
    models: Mapping[bool, Any]
    description: str | None = None
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    context: int | None = None
    embedder: Any = "minilm"
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    prompts: dict[Point, str] = field(default_factory=dict)
    seed: int = 0

    def word(self, point: Point, label: str) -> str:
        """Return what a label is called at a point."""
        return self.words[point.words][label] if point.words else label

    def pipeline(self, point: Point, *, embedder: Any = None, **more: Any) -> Pipeline:
        """Return what asks as a point says, with all labelled texts."""
        words = [self.word(point, label) for label in self.choices]
        if point.rate < 1:
            more |= {"compress": self.compressor, "rate": point.rate}
        pipeline = Pipeline(
            self.models[point.chat], choices=words,
            template=replace(self.template, description=describe(point.description, words, self.description)),
            labels=len(self.texts), k=point.k, retrieve=point.show, balanced=point.show == "fixed",
            calibrate=point.calibrate, context=self.context, embedder=embedder or self, seed=self.seed, **more,
        ).fit(self.texts, [self.word(point, label) for label in self.labels])  # fmt: skip
        pipeline.prompt_ = self.prompts[point] if point.pruned else None
        return pipeline

    @cached_property
    def compressor(self) -> LLMLingua2:
        """LLMLingua-2 with the weights that ship with the package, to the rate exactly."""
        settings: dict[str, Any] = {"cut": "exact", "seed": self.seed}
        return LLMLingua2(**settings)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of texts, each embedded once."""
        if new := [text for text in dict.fromkeys(texts) if text not in self.vectors]:
            self.vectors.update(zip(new, embed(self.embedder, new)))
        return np.array([self.vectors[text] for text in texts])

    def judge(self, point: Point, places: Sequence[int], into: Judged, pipeline: Pipeline | None = None) -> None:
        """Answer some of the labelled texts by the others' labels: none is a demonstration of itself."""
        pipeline = pipeline or self.pipeline(point)
        frame = self.models[False].context_length - self.models[True].context_length if point.chat else 0
        for i, answer in zip(places, pipeline.answer([self.texts[i] for i in places])):
            right = self.word(point, self.labels[i])
            into.correct[i], into.said[i] = answer.output == right, self._label(point, answer.output)
            into.example = into.example or answer.prompt.text
            into.tokens[i] = (answer.prompt.n_tokens or 0) + frame
            if answer.scores:
                logs = dict(zip(answer.scores, log_softmax(list(answer.scores.values()))))
                own = logs.pop(right)
                into.margin[i], into.logprob[i] = np.clip([own - max(logs.values()), own], -50, 50)

    def _label(self, point: Point, word: str) -> str:
        return next((label for label in self.choices if self.word(point, label) == word), word)


def models_of(lm: Any, chat: bool | None) -> Iterator[tuple[bool, Any]]:
    """Yield the ways to read prompts that a model has and that are wanted: as they are, and in its chat template."""
    if not hasattr(lm, "in_chat_template") or not lm.capabilities.chat:
        if chat:
            raise ValueError(f"{lm.name} has no chat template")
        yield False, lm
        return
    yield False, lm.in_chat_template(False)
    if chat is not False:
        yield True, lm.in_chat_template(True)


def describe(name: str, choices: Sequence[str], own: str | None = None) -> str | None:
    """Return the sentence that opens a prompt, by its name: none, one that lists the labels, or the user's own.

    Examples
    --------
    >>> describe("labels", ["card lost", "refund"])
    'Classify each input with one of these labels: card lost, refund.'
    """
    if name == "labels":
        return f"Classify each input with one of these labels: {', '.join(choices)}."
    return own if name == "own" else None
