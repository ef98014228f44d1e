"""From unlabelled text to a cheap prompt: select -> retrieve -> prune -> compress -> predict, as one object."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from scipy.special import softmax
from sklearn.exceptions import NotFittedError

from anytask.core.persistence import load_tree, save_tree
from anytask.core.rng import derive
from anytask.incontext.base import Retriever
from anytask.incontext.gpt3 import GPT3
from anytask.incontext.pool import Annotate, Pool
from anytask.incontext.retrievers import BM25Retriever, SimilarRetriever
from anytask.lm.option_scoring import RULES, Rule, check_options, score_options
from anytask.lm.prompting import Demonstration, PromptTemplate
from anytask.lm.protocol import require

__all__ = ["Pipeline"]

Retrieval = Literal["random", "fixed", "similar", "bm25"]


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


class Pipeline:
    """Label a few examples, show the right ones, shorten the prompt, and let a frozen language model answer.

    Every stage may be left out; what remains is few-shot prompting with random demonstrations. Pick it to find out what
    each stage adds on your own texts, and to run the best combination afterwards.

    Parameters
    ----------
    lm : anytask.lm.ScoringModel
        The frozen model; to choose between options it must offer log-probabilities.
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
        Which labelled examples a query is shown: random ones per query, the same random ones for all queries, the most
        similar by embedding, the best by BM25; or an object with ``index(inputs, outputs)`` and
        ``retrieve(query, k)``, best first.
    prune : callable, optional
        ``prune(prompt, verbalizers, seed=...)`` makes a prompt searcher, such as
        :class:`~anytask.prompts.PromptQuine` (bind further arguments with :func:`functools.partial`).
    compress : object with ``compress(text, rate)``, optional
        Shortens inputs, such as :class:`~anytask.prompts.LLMLingua2`.
    rate : float in (0, 1], default 0.5
        Share of an input's tokens that the compressor keeps.
    k : int, optional
        Most demonstrations in a prompt; default: as many as fit.
    context : int, optional
        Most tokens of a prompt with its answer; default, and at most, the model's context.
    scoring : {"mean", "sum", "bytes", "unconditional", "generate"}, default "mean"
        How options are ranked, or that the answer is written; see :class:`~anytask.incontext.GPT3`.
    calibrate : bool, default False
        Divide by the label's probability after a content-free query (contextual calibration, arXiv 2102.09690).
    embedder : anytask.lm.Embedder, optional
        For selection and "similar" retrieval; default: the packaged MiniLM.
    seed : int, default 0

    Attributes
    ----------
    pool_ : Pool
        The texts with the labels that were bought.
    demos_ : list of Demonstration
        The labelled examples; ``id`` is the place in the pool.
    prompt_ : str or None
        The pruned prompt, with ``{text}`` where the query goes; None without pruning.
    stages_ : list of StageReport
        What each stage did and cost; the last one, "predict", grows with every call of :meth:`predict`.

    Raises
    ------
    MissingCapability
        If options are to be scored by a model without log-probabilities.
    ValueError
        For fewer than two choices, budgets out of range, or labels that are not among the choices.

    Notes
    -----
    *Pruning needs one prompt for all queries.* The retriever then votes: the demonstrations that it returns most often
    for the labelled examples (each example is kept from voting for itself) form the block that is pruned. Half of the
    labelled examples outside the block steer the search, the other half choose among its best prompts.

    *Compression takes the rest*: without pruning the inputs of demonstrations and queries, with pruning the queries'.

    *The budget is one*: the labels are shared by all stages (no stage sees another label), and so are the model's
    accounts; a :class:`~anytask.lm.Budget` on the model stops any stage.

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

    def __init__(
        self,
        lm: Any,
        *,
        choices: Sequence[str] | None = None,
        template: PromptTemplate | None = None,
        labels: int = 18,
        select: Any = None,
        retrieve: Retrieval | Any = "random",
        prune: Callable[..., Any] | None = None,
        compress: Any = None,
        rate: float = 0.5,
        k: int | None = None,
        context: int | None = None,
        scoring: Rule | Literal["generate"] = "mean",
        calibrate: bool = False,
        embedder: Any = None,
        seed: int = 0,
    ) -> None:
        template = template or PromptTemplate()
        if scoring in RULES:
            require(lm, "logprobs", method=f"Pipeline(scoring={scoring!r})")
        if choices is not None:
            if len(choices) < 2:
                raise ValueError(f"choices must name at least 2 labels, got {list(choices)}")
            check_options([template.completion(choice) for choice in choices], scoring, "choices")
        elif prune is not None:
            raise ValueError("pruning searches a prompt for one set of labels: give choices")
        if labels < 0:
            raise ValueError(f"labels must be at least 0, got {labels}")
        if k is not None and k < 0:
            raise ValueError(f"k must be at least 0, got {k}")
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be in (0, 1], got {rate}")
        named = ("random", "fixed", "similar", "bm25")
        if isinstance(retrieve, str) and retrieve not in named:
            raise ValueError(f"retrieve must be {', '.join(named)} or an object, got {retrieve!r}")
        self.lm, self.choices, self.template = lm, None if choices is None else list(choices), template
        self.labels, self.select, self.retrieve = labels, select, retrieve
        self.prune, self.compress, self.rate = prune, compress, rate
        self.k, self.scoring, self.calibrate, self.seed = k, scoring, calibrate, seed
        self.context = min(context or lm.context_length, lm.context_length)
        self.embedder = embedder

    # -- the stages -----------------------------------------------------------------------------------------------

    def fit(self, texts: Sequence[str], annotate: Annotate | Sequence[str], vectors: np.ndarray | None = None) -> Self:
        """Select, buy labels, and prepare retrieval, pruning and compression.

        Parameters
        ----------
        texts : sequence of str
            The unlabelled pool.
        annotate : callable or sequence of str
            ``annotate(indices) -> labels``, or all labels, of which only the ones bought are looked at.
        vectors : array of shape (n, d), optional
            The texts' embeddings, if you have them.
        """
        if not len(texts):
            raise ValueError("the pool is empty: there is nothing to label")
        if self.labels > len(texts):
            raise ValueError(f"labels={self.labels} exceeds the pool of {len(texts)} texts")
        ask = annotate if callable(annotate) else _lookup(annotate, len(texts))
        stages: list[StageReport] = []
        pool = self._select(texts, ask, vectors, stages)
        demos = [Demonstration(texts[i], str(label), i) for i, label in pool.labels.items()]
        for demo in demos:
            if self.choices is not None and demo.output not in self.choices:
                raise ValueError(f"item {demo.id} is labelled {demo.output!r}, which is not among {self.choices}")
        self.pool_, self.demos_, self.prompt_ = pool, demos, None
        self._short: dict[str, str] = {}
        self._retriever = self._index(stages)
        if self.prune is not None and demos:
            self._prune(stages)
        return self._get_ready(stages)

    def _get_ready(self, stages: list[StageReport]) -> Self:
        if self.compress is not None:
            stages.append(StageReport("compress", type(self.compress).__name__, facts={"rate": self.rate}))
        stages.append(StageReport("predict", self.scoring))
        self._learner = self._make_learner()
        self.stages_ = stages
        return self

    def _select(self, texts: Sequence[str], ask: Annotate, vectors: Any, stages: list[StageReport]) -> Pool:
        with _Watch(self.lm, stages, "select", _name(self.select, "random")) as report:
            needs_vectors = self.select is not None
            if vectors is None and not needs_vectors:
                vectors = np.zeros((len(texts), 1), dtype=np.float32)
            pool = Pool(vectors, texts=texts, annotate=ask, embedder=self.embedder, center=needs_vectors)
            if not self.labels:
                return pool
            if self.select is None:
                rng = np.random.default_rng(derive(self.seed, "select"))
                chosen = rng.choice(len(texts), self.labels, replace=False)
            else:
                chosen = np.asarray(self.select.select(pool, self.labels).indices)
            pool.annotate(chosen.tolist())
            report.labels = len(pool.labels)
        return pool

    def _index(self, stages: list[StageReport]) -> Retriever | None:
        with _Watch(self.lm, stages, "retrieve", _name(self.retrieve, "random")):
            if not self.demos_ or self.retrieve in ("random", "fixed"):
                return None
            made: dict[str, Any] = {"similar": SimilarRetriever(self.pool_.embedder), "bm25": BM25Retriever()}
            retriever: Any = made[self.retrieve] if isinstance(self.retrieve, str) else self.retrieve
            retriever.index([d.input for d in self.demos_], [d.output for d in self.demos_])
            return retriever

    def _make_learner(self) -> GPT3:
        demos: Any = "fixed" if self.retrieve == "fixed" else "per-item"
        if self._retriever is not None:
            demos = _ByOriginal(self._retriever, self)
        learner = GPT3(
            self.lm,
            "max" if self.k is None or self.k >= len(self.demos_) else self.k,
            template=self.template,
            scoring=self.scoring,
            demos=demos,
            calibrate=self.calibrate,
            budget=self.context,
            seed=self.seed,
        )
        return learner.fit(
            [self._shorten(d.input) for d in self.demos_], [d.output for d in self.demos_], options=self.choices
        )

    def _prune(self, stages: list[StageReport]) -> None:
        assert self.prune is not None
        assert self.choices is not None
        choices = self.choices
        with _Watch(self.lm, stages, "prune", _name(self.prune, "none")) as report:
            size = min(self.k or len(self.demos_), max(1, len(self.demos_) // 2))
            votes: Counter[int] = Counter()
            for own, demo in enumerate(self.demos_):
                votes.update([place for place in self._ranked(demo.input) if place != own][:size])
            block = [place for place, _ in votes.most_common(size)][::-1]  # the favourite next to the query
            whole = self.template.assemble(
                [self.demos_[i] for i in block],
                "{text}",
                count_tokens=self.lm.count_tokens,
                budget=self.context,
                reserve=self._longest_option() + max(self.lm.count_tokens(demo.input) for demo in self.demos_),
            )
            rest = [i for i in range(len(self.demos_)) if i not in block] or list(range(len(self.demos_)))
            examples = [
                {"text": self._shorten(self.demos_[i].input), "label": choices.index(self.demos_[i].output)}
                for i in rest
            ]
            searcher = self.prune(whole.text, self._completions(), seed=derive(self.seed, "prune"))
            found = searcher.search(self.lm, examples[::2], examples[1::2])
            self.prompt_ = found.prompt
            report.facts = {
                "tokens_before": self.lm.count_tokens(whole.text),
                "tokens_after": found.n_tokens,
                "evaluations": found.evaluations,
                "validation": found.validation,
            }

    def _ranked(self, query: str) -> list[int]:
        """Places in ``demos_``, best first; a seeded order without a retriever."""
        if self._retriever is not None:
            return [int(i) for i in self._retriever.retrieve(query, len(self.demos_))]
        return np.random.default_rng(derive(self.seed, "block")).permutation(len(self.demos_)).tolist()

    def _shorten(self, text: str) -> str:
        # What is pruned was written in full; the compressor then takes the queries, else everything.
        if self.compress is None:
            return text
        if text not in self._short:
            self._short[text] = self.compress.compress(text, self.rate).text
        return self._short[text]

    # -- answers --------------------------------------------------------------------------------------------------

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """Return the prompt of each query, as the model will read it."""
        if not hasattr(self, "pool_"):
            raise NotFittedError("this Pipeline has seen no pool yet: call fit first")
        queries = [self._shorten(text) for text in texts]
        if self.prompt_ is not None:
            return [self.prompt_.replace("{text}", query) for query in queries]
        return [self._learner.prompt(query, reserve=self._longest_option()).text for query in queries]

    def predict(self, texts: Sequence[str], *, options: Sequence[Sequence[str]] | None = None) -> list[str]:
        """Return the answer to each query; ``options`` are each query's own, where there are no shared choices."""
        return self._answer(texts, options)[0]

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of each choice for each query, shape (n, n_choices)."""
        if self.choices is None or self.scoring not in RULES:
            raise ValueError("probabilities need shared choices and a scoring rule")
        return softmax(np.array(self._answer(texts, None)[1]), axis=1)

    def _answer(
        self, texts: Sequence[str], options: Sequence[Sequence[str]] | None
    ) -> tuple[list[str], list[list[float]]]:
        if not hasattr(self, "pool_"):
            raise NotFittedError("this Pipeline has seen no pool yet: call fit first")
        if not len(texts):
            raise ValueError("there are no queries")
        with _Watch(self.lm, [], "predict", self.scoring) as watched:
            queries = [self._shorten(text) for text in texts]
            if self.prompt_ is None:
                found = self._learner.answer(queries, options=options)
                outputs, scores = [a.output for a in found], [list(a.scores.values()) for a in found]
                lengths = [a.prompt.n_tokens or 0 for a in found]
            else:
                assert self.choices is not None
                prompts = [self.prompt_.replace("{text}", query) for query in queries]
                rule: Any = self.scoring
                rows = score_options(
                    self.lm, prompts, [self._completions()] * len(prompts), rule=rule,
                    answer_context=self.template.answer_context, tag="predict",
                )  # fmt: skip
                outputs, scores = [self.choices[int(row.argmax())] for row in rows], [row.tolist() for row in rows]
                lengths = [self.lm.count_tokens(prompt) for prompt in prompts]
        self._add(watched, lengths)
        return outputs, scores

    # -- saving ---------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the labelled examples, the pruned prompt and the settings; never the language model or the embedder.

        A retriever or compressor given as an object is saved by its own ``save`` in the folder ``retrieve`` or
        ``compress`` within, and handed to :meth:`load` again.
        """
        if not hasattr(self, "pool_"):
            raise NotFittedError("this Pipeline has seen no pool yet: call fit first")
        given = [n for n in ("retrieve", "compress") if not isinstance(getattr(self, n), (str, type(None)))]
        for name in given:
            getattr(self, name).save(Path(folder) / name)
        names = ("choices", "labels", "rate", "k", "context", "scoring", "calibrate", "seed", "retrieve")
        t = self.template
        save_tree(folder, {
            "class": "Pipeline", "settings": {n: getattr(self, n) for n in names if n not in given}, "given": given,
            "template": [t.demo_format, t.query_format, t.separator, t.description],
            "demos": [(d.input, d.output, d.id) for d in self.demos_], "prompt": self.prompt_,
        })  # fmt: skip

    @classmethod
    def load(cls, folder: str | os.PathLike[str], lm: Any, **given: Any) -> Self:
        """Read what :meth:`save` wrote, and answer with ``lm``.

        ``given`` are what was not saved, ``retrieve``, ``compress`` and ``embedder`` where they were objects, and
        settings to replace saved ones. Nothing is selected or pruned again.
        """
        tree = load_tree(folder)
        if tree.get("class") != "Pipeline":
            raise ValueError(f"{folder} holds a {tree.get('class')}, not a Pipeline")
        if missing := [name for name in tree["given"] if name not in given]:
            raise ValueError(f"{missing[0]} was an object: load it from {Path(folder) / missing[0]} and give it again")
        pipeline = cls(lm, **{"template": PromptTemplate(*tree["template"]), **tree["settings"], **given})
        pipeline.demos_, pipeline.prompt_ = [Demonstration(*row) for row in tree["demos"]], tree["prompt"]
        texts, labels = [d.input for d in pipeline.demos_] or [""], [d.output for d in pipeline.demos_]
        annotate = _lookup(labels or [""], len(texts))
        pool = Pool(np.zeros((len(texts), 1)), texts=texts, annotate=annotate, embedder=pipeline.embedder, center=False)
        pool.annotate(range(len(labels)))
        pipeline.pool_, pipeline._short = pool, {}
        stages: list[StageReport] = []
        pipeline._retriever = pipeline._index(stages)
        return pipeline._get_ready(stages)

    def _add(self, new: StageReport, lengths: list[int]) -> None:
        report = self.stages_[-1]
        report.lm_calls += new.lm_calls
        report.lm_tokens += new.lm_tokens
        report.seconds += new.seconds
        seen = report.facts.get("queries", 0)
        total = report.facts.get("prompt_tokens", 0.0) * seen + sum(lengths)
        report.facts = {"queries": seen + len(lengths), "prompt_tokens": total / (seen + len(lengths))}

    def _completions(self) -> list[str]:
        return [self.template.completion(choice) for choice in self.choices or []]

    def _longest_option(self) -> int:
        return max((self.lm.count_tokens(option) for option in self._completions()), default=32)


class _ByOriginal:
    """Retrieve by the query as it was before it was compressed."""

    def __init__(self, retriever: Retriever, pipeline: Pipeline) -> None:
        self._retriever, self._pipeline = retriever, pipeline

    def retrieve(self, query: str, k: int) -> Sequence[int]:
        originals = {short: text for text, short in self._pipeline._short.items()}
        return self._retriever.retrieve(originals.get(query, query), k)


class _Watch:
    """Fill a stage's report with what the block spent."""

    def __init__(self, lm: Any, stages: list[StageReport], stage: str, method: str) -> None:
        self._lm, self._stages, self._report = lm, stages, StageReport(stage, method)

    def __enter__(self) -> StageReport:
        self._start, self._before = time.perf_counter(), _spent(self._lm)
        return self._report

    def __exit__(self, *exc: object) -> None:
        calls, tokens = _spent(self._lm)
        self._report.lm_calls = calls - self._before[0]
        self._report.lm_tokens = tokens - self._before[1]
        self._report.seconds = time.perf_counter() - self._start
        self._stages.append(self._report)


def _spent(lm: Any) -> tuple[int, int]:
    return lm.usage.total.calls, lm.usage.total.total_tokens


def _lookup(labels: Sequence[str], n: int) -> Annotate:
    if len(labels) != n:
        raise ValueError(f"there are {n} texts and {len(labels)} labels: they must match")
    return lambda indices: [labels[i] for i in indices]


def _name(stage: Any, default: str) -> str:
    if stage is None:
        return default
    if isinstance(stage, str):
        return stage
    inner = getattr(stage, "func", stage)
    return getattr(inner, "__name__", type(inner).__name__)
