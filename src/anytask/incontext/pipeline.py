"""From unlabelled text to a cheap prompt: select -> retrieve -> prune -> compress -> predict, as one object.

Pruning needs one prompt for all queries. The retriever then votes: the demonstrations that it returns most often for
the labelled examples (each example is kept from voting for itself) form the block that is pruned. Half of the labelled
examples outside the block steer the search, the other half choose among its best prompts. Compression takes the rest:
without pruning the inputs of demonstrations and queries, with pruning the queries'.

The budget is one: the labels are shared by all stages (no stage sees another label), and so are the model's accounts; a
:class:`~anytask.lm.Budget` on the model stops any stage.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from scipy.special import softmax

from anytask.core.estimator import Fitted
from anytask.core.files import as_path
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive
from anytask.core.settings import flag, free, of_kind, positional, real, taken, whole
from anytask.incontext.base import (
    Answer,
    Selector,
    beams_field,
    check_places,
    check_queries,
    choices_field,
    scoring_field,
    shots,
    template_field,
)
from anytask.incontext.gpt3 import GPT3
from anytask.incontext.pool import Annotate, Pool, check_selection, embedder_field
from anytask.incontext.retrievers import BM25Retriever, SimilarRetriever
from anytask.incontext.selection import RandomSelection
from anytask.lm.option_scoring import RULES
from anytask.lm.placeholders import escape, fill, names_of
from anytask.lm.prompting import Demonstration, Prompt, PromptTemplate
from anytask.lm.protocol import MissingCapability, check_lm, check_sequence, check_texts

__all__ = ["Pipeline"]

#: What a prompt searcher takes for places in a prompt; of these only ``{text}`` is one.
PLACES = names_of([{"text": ""}])
RETRIEVALS = ("random", "fixed", "similar", "bm25")


def _check_retrieve(retrieve: Any) -> None:
    known = retrieve in RETRIEVALS if isinstance(retrieve, str) else hasattr(retrieve, "retrieve")
    if not known:
        raise ValueError(f"retrieve must be {', '.join(RETRIEVALS)} or an object with retrieve, got {retrieve!r}")


def _check_compress(compress: Any) -> None:
    if compress is not None and not hasattr(compress, "compress"):
        raise TypeError(f"compress must be None or an object with compress(text, rate), got {compress!r}")


@dataclass
class StageReport:
    """What one stage did and cost: labels bought, calls and tokens of the language model, seconds."""

    stage: str
    method: str
    labels: int = 0
    lm_calls: int = 0
    lm_tokens: int = 0
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


class Pipeline(Fitted):
    """Label a few examples, show the right ones, shorten the prompt, and let a frozen language model answer.

    Every stage may be left out. Pick it to find out what each adds, and to run the best combination afterwards.

    Parameters
    ----------
    lm : anytask.lm.ScoringModel
        The frozen model.
    choices : sequence of str, optional
        The possible labels. Without them every query comes with its own options (multiple choice), or, with
        ``scoring="generate"``, the model writes the answer.
    template : PromptTemplate, optional
        How demonstrations and queries are written.
    labels : int, default 18
        Annotation budget m: how many labels are bought (vote-k's smaller budget).
    select : object with ``select(pool, budget)``, optional
        Which examples to label, such as :class:`~anytask.incontext.VoteK`; default: a random sample.
    retrieve : {"random", "fixed", "similar", "bm25"} or object, default "random"
        Which labelled examples a query is shown; an object has ``index(inputs, outputs)`` and ``retrieve(query, k)``.
    prune : callable, optional
        ``prune(prompt, verbalizers, seed=...)`` makes a prompt searcher, such as
        :class:`~anytask.prompts.PromptQuine` (bind further arguments with :func:`functools.partial`).
    compress, rate : object with ``compress(text, rate)``, and float in (0, 1], default None and 0.5
        Shortens inputs to that share of their tokens, such as :class:`~anytask.prompts.LLMLingua2`.
    k, context : int >= 0 or "max", and int, default 8 and None
        Most demonstrations in a prompt ("max": as many as fit), and most tokens of it with its answer, at most the
        model's context.
    scoring : {"auto", "mean", "sum", "bytes", "unconditional", "choose", "generate"}, default "auto"
        See :class:`~anytask.incontext.GPT3`.
    balanced, calibrate : bool, default False
        Random and fixed demonstrations of every label equally often; contextual calibration (arXiv 2102.09690).
    beam_width : "auto" or int, default "auto"
        Beams of written answers, 4 where the model has beams.
    embedder, seed : str, path or anytask.lm.Embedder, and int, default "minilm" and 0
        For selection and "similar" retrieval.

    Attributes
    ----------
    demos_ : list of Demonstration
        The labelled examples; ``id`` is the place in the pool.
    prompt_ : str or None
        The pruned prompt, with ``{text}`` where the query goes; braces of data that look alike are doubled.
    stages_ : list of StageReport
        What each stage did and cost; the last one, "predict", grows with every call of :meth:`predict`.

    Raises
    ------
    MissingCapability, ValueError
        At construction, for what the model cannot do, and stages that do not go together.

    Examples
    --------
    >>> from anytask.lm import load_tiny
    >>> texts = ["the chef looks superb", "the band feels awful", "a meal is wonderful", "a song seems terrible"]
    >>> said = ["positive", "negative", "positive", "negative"]
    >>> pipeline = Pipeline(load_tiny("icl"), choices=["positive", "negative"], labels=2, k=2)
    >>> len(pipeline.fit(texts, said).predict(["the meal looks awful"]))
    1
    >>> [(stage.stage, stage.labels) for stage in pipeline.stages_]
    [('select', 2), ('retrieve', 0), ('predict', 0)]
    """

    lm: Any = positional(free, "the frozen language model", check_lm, kw_only=False)
    choices: Sequence[str] | None = choices_field("possible labels, None: each query brings its own")
    template: PromptTemplate = template_field(PromptTemplate())
    labels: int = whole(18, "labels that are bought", at_least=0)
    select: Any = of_kind(
        None, (Selector,), "an object with select", "selector of what is labelled, None: a random sample", optional=True
    )
    retrieve: Any = free("random", "which labelled examples a query is shown", _check_retrieve)
    prune: Any = of_kind(None, (Callable,), "a callable", "makes a prompt searcher, None: no pruning", optional=True)
    compress: Any = free(None, "compressor of the inputs, None: no compression", _check_compress)
    rate: float = real(0.5, "share of an input's tokens that the compressor keeps", above=0, at_most=1)
    k: int | Literal["max"] = shots()
    context: int | None = whole(None, "most tokens of a prompt with its answer, None: the model's", optional=True)
    scoring: str = scoring_field()
    balanced: bool = flag(False, "draw the same number of every output")
    calibrate: bool = flag(False, "divide by the labels' probabilities after a content-free query")
    beam_width: int | str = beams_field()
    embedder: Any = embedder_field()

    def _check_settings(self) -> None:
        self._learner()  # what it refuses is refused now
        if self.balanced and self.retrieve not in ("random", "fixed"):
            raise ValueError("balanced goes with demonstrations that are drawn, and here a retriever chooses them")
        if hasattr(self.retrieve, "check"):
            self.retrieve.check(self.labels, self.choices)
        if self.prune is not None:
            self._check_pruning()

    def _check_pruning(self) -> None:
        if self.choices is None:
            raise ValueError("pruning searches a prompt for one set of labels: give choices")
        if self.labels < 3:
            raise ValueError("pruning shows some labelled examples and searches with others: labels must be at least 3")
        if self.scoring in ("generate", "choose") or self.calibrate:
            told = f"scoring={self.scoring!r}, calibrate={self.calibrate}"
            raise ValueError(f"{told} does not go with prune, which scores choices as they are")
        try:
            self.lm.encode("{text}")
        except (AttributeError, MissingCapability) as error:
            raise MissingCapability(f"pruning deletes tokens, and needs a model with a tokenizer: {error}") from error
        searcher = self.prune("{text}", self._completions(), seed=0)
        if not hasattr(searcher, "search"):
            raise TypeError(f"prune must make an object with search(lm, examples), got {searcher!r}")

    def _learner(self) -> GPT3:
        """What asks the model with the settings as they are now; before :meth:`fit` it knows no example."""
        demos: Any = getattr(self, "_retriever", None) or ("fixed" if self.retrieve == "fixed" else "per-item")
        known = getattr(self, "demos_", ())
        return GPT3(
            self.lm, self.k, template=self.template, scoring=self.scoring, demos=demos,
            balanced=self.balanced and isinstance(demos, str), calibrate=self.calibrate, rewrite=self._shorten,
            budget=self.context, beam_width=self.beam_width, seed=self.seed,
        ).fit([d.input for d in known], [d.output for d in known], options=self.choices)  # fmt: skip

    # -- the stages -----------------------------------------------------------------------------------------------

    def fit(
        self,
        texts: Sequence[str],
        annotate: Annotate | Sequence[str],
        vectors: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Select, buy labels, and prepare retrieval, pruning and compression.

        Parameters
        ----------
        texts : sequence of str
            The unlabelled pool.
        annotate : callable or sequence of str
            ``annotate(indices) -> labels``, or all labels, of which only the ones bought are looked at.
        vectors : array of shape (n, d), optional
            The texts' embeddings, if you have them.
        progress : callable, optional
            Told the finished share.
        """
        texts = check_texts(texts, "texts")
        if not texts:
            raise ValueError("the pool is empty: there is nothing to label")
        if self.labels > len(texts):
            raise ValueError(f"labels={self.labels} exceeds the pool of {len(texts)} texts")
        ask: Any = annotate
        if not callable(annotate):
            labels = list(check_sequence(annotate, "annotate"))
            if len(labels) != len(texts):
                raise ValueError(f"there are {len(texts)} texts and {len(labels)} labels: they must match")
            ask = lambda indices: [labels[i] for i in indices]  # noqa: E731
        with self._refit():
            self.stages_: list[StageReport] = []
            self.demos_ = self._select(texts, ask, vectors, portion(progress, 0.0, 0.2))
            for demo in self.demos_:
                if self.choices is not None and demo.output not in self.choices:
                    raise ValueError(f"item {demo.id} is labelled {demo.output!r}, which is not among {self.choices}")
            self.prompt_: str | None = None
            self._get_ready(search=self.prune is not None, progress=portion(progress, 0.2, 1.0))
        return self

    def _select(self, texts: Sequence[str], ask: Annotate, vectors: Any, tell: Progress) -> list[Demonstration]:
        with self._spending(self._report("select", _name(self.select, "random"))) as report:
            if self.select is None and vectors is None:
                vectors = np.zeros((len(texts), 1), dtype=np.float32)  # a random choice looks at none
            pool = Pool(vectors, texts=texts, annotate=ask, embedder=self.embedder)
            if self.labels:
                selector: Any = self.select or RandomSelection(seed=derive(self.seed, "select"))
                chosen = selector.select(pool, self.labels, **taken(selector.select, progress=tell))
                pool.annotate(check_selection(chosen, len(pool), self.labels))
            report.labels = len(pool.labels)
        return [Demonstration(texts[i], str(label), i) for i, label in pool.labels.items()]

    def _get_ready(self, search: bool, progress: Progress | None = None) -> None:
        self._short: dict[tuple[str, float], str] = {}
        with self._spending(self._report("retrieve", _name(self.retrieve, "random"))):
            self._retriever: Any = None
            if self.demos_ and self.retrieve not in ("random", "fixed"):
                makers = {"similar": lambda: SimilarRetriever(self.embedder), "bm25": BM25Retriever}
                self._retriever = makers[self.retrieve]() if isinstance(self.retrieve, str) else self.retrieve
                told = taken(self._retriever.index, progress=portion(progress, 0.0, 0.5 if search else 1.0))
                self._retriever.index([d.input for d in self.demos_], [d.output for d in self.demos_], **told)
        if search:
            self._prune(progress)
        if self.compress is not None:
            self._report("compress", type(self.compress).__name__).facts = {"rate": self.rate}
        self._report("predict", self._learner().how)

    def _prune(self, progress: Progress | None) -> None:
        assert self.choices is not None
        choices, demos, count = list(self.choices), self.demos_, self.lm.count_tokens
        with self._spending(self._report("prune", _name(self.prune, "none"))) as report:
            size = max(1, len(demos) // 2)
            size = size if self.k == "max" else min(self.k or size, size)
            votes: Counter[int] = Counter()
            for own, demo in enumerate(demos):
                votes.update([place for place in self._ranked(demo.input) if place != own][:size])
            block = [place for place, _ in votes.most_common(size)][::-1]  # the favourite next to the query
            reserve = self._longest_option() + max(count(demo.input) for demo in demos)
            shown = self._learner().assemble([demos[i] for i in block], "", reserve)
            (query,) = [span for span in shown.spans if span.role == "query" and span.part == "input"]
            around = shown.text[: query.start], shown.text[query.end :]
            whole = "{text}".join(escape(part, PLACES) for part in around)
            rest = [i for i in range(len(demos)) if i not in block]
            examples = [{"text": self._shorten(demos[i].input), "label": choices.index(demos[i].output)} for i in rest]
            searcher = self.prune(whole, self._completions(), seed=derive(self.seed, "prune"))
            told = taken(searcher.search, progress=portion(progress, 0.5 if self._retriever else 0.0, 1.0))
            found = searcher.search(self.lm, examples[::2], examples[1::2], **told)
            self.prompt_ = found.prompt
            report.facts = {"tokens_before": count(whole), "tokens_after": found.n_tokens}
            report.facts |= {"evaluations": found.evaluations, "validation": found.validation}

    def _ranked(self, query: str) -> list[int]:
        """Places in ``demos_``, best first; a seeded order without a retriever."""
        if self._retriever is not None:
            found = self._retriever.retrieve(query, len(self.demos_))
            return check_places(found, len(self.demos_), "the retriever")
        return self._learner().order("fixed")

    def _shorten(self, text: str) -> str:
        if self.compress is None:
            return text
        key = text, self.rate
        if key not in self._short:
            self._short[key] = self.compress.compress(text, self.rate).text
        return self._short[key]

    def _report(self, stage: str, method: str) -> StageReport:
        self.stages_.append(StageReport(stage, method))
        return self.stages_[-1]

    @contextmanager
    def _spending(self, report: StageReport) -> Iterator[StageReport]:
        """Add what the block spends to a report."""
        start, before = time.perf_counter(), self.lm.usage.total
        yield report
        spent = self.lm.usage.total - before
        report.lm_calls += spent.calls
        report.lm_tokens += spent.total_tokens
        report.seconds += time.perf_counter() - start

    # -- answers --------------------------------------------------------------------------------------------------

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """Return the prompt of each query, as the model will read it."""
        self._check_fitted()
        return [prompt.text for prompt in self._prompts(check_texts(texts, "texts"), self._learner())]

    def _prompts(self, texts: Sequence[str], learner: GPT3) -> list[Prompt]:
        if self.prompt_ is None:
            return [learner.prompt(text) for text in texts]
        written = [fill(self.prompt_, {"text": self._shorten(text)}, PLACES)[0] for text in texts]
        return [Prompt(prompt, (), n_tokens=self.lm.count_tokens(prompt)) for prompt in written]

    def answer(
        self,
        texts: Sequence[str],
        *,
        options: Sequence[Sequence[str]] | None = None,
        progress: Progress | None = None,
    ) -> list[Answer]:
        """Answer each query, with scores and prompt; ``options`` are each query's own, where there are no choices."""
        self._check_fitted()
        texts = check_queries(texts, "texts")
        if self.prompt_ is not None and options is not None:
            raise ValueError("the prompt was pruned for the pipeline's own choices: options cannot be given")
        with self._spending(self.stages_[-1]) as report:
            learner = self._learner()
            if self.prompt_ is None:
                found = learner.answer(texts, options=options, progress=progress)
            else:
                found = learner.judge(self._prompts(texts, learner), [self.choices or ()] * len(texts), progress)
        seen = report.facts.get("queries", 0)
        total = report.facts.get("prompt_tokens", 0.0) * seen + sum(a.prompt.n_tokens or 0 for a in found)
        report.facts = {"queries": seen + len(found), "prompt_tokens": total / (seen + len(found))}
        return found

    def predict(self, texts: Sequence[str], *, options: Sequence[Sequence[str]] | None = None) -> list[str]:
        """Return the answer to each query; ``options`` are each query's own, where there are no shared choices."""
        return [answer.output for answer in self.answer(texts, options=options)]

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of each choice for each query, shape (n, n_choices)."""
        if self.choices is None or self._learner().how not in RULES:
            raise ValueError("probabilities need shared choices and a scoring rule")
        return softmax(np.array([list(answer.scores.values()) for answer in self.answer(texts)]), axis=1)

    # -- saving ---------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the labelled examples, the pruned prompt and the settings; never the language model.

        A retriever or compressor given as an object is saved by its own ``save`` in the folder ``retrieve`` or
        ``compress`` within, and handed to :meth:`load` again.
        """
        self._check_fitted()
        for name in ("retrieve", "compress"):
            if not isinstance(getattr(self, name), (str, type(None))):
                getattr(self, name).save(as_path(folder, "folder") / name)
        super().save(folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str = "auto", **params: Any) -> Self:
        """Read what :meth:`save` wrote: ``Pipeline.load(folder, lm=...)``.

        ``retrieve``, ``compress`` and ``embedder`` are given again where they were objects. Nothing is selected or
        pruned again.
        """
        return super().load(folder, device=device, **{"select": None, "prune": None, **params})

    def _state(self) -> Any:
        return {"demos": [(d.input, d.output, d.id) for d in self.demos_], "prompt": self.prompt_}

    def _load_state(self, state: Any) -> None:
        self.demos_, self.prompt_ = [Demonstration(*row) for row in state["demos"]], state["prompt"]
        self.stages_ = []
        self._get_ready(search=False)

    def _completions(self) -> list[str]:
        return [self.template.completion(choice) for choice in self.choices or []]

    def _longest_option(self) -> int:
        return max((self.lm.count_tokens(option) for option in self._completions()), default=32)


def _name(stage: Any, default: str) -> str:
    if stage is None:
        return default
    if isinstance(stage, str):
        return stage
    inner = getattr(stage, "func", stage)
    return getattr(inner, "__name__", type(inner).__name__)
