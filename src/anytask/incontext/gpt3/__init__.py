"""GPT-3: solve tasks by text alone, a description and worked examples in the context of one frozen language model.

Departures from the paper: items of several choices may come with their own options; contextual calibration, balanced
draws and per-byte scores are additions that users of the method ask for, all off by default.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from itertools import count
from typing import Any, Literal, Self

import numpy as np
from scipy.special import softmax

from anytask.core.checks import require_finite
from anytask.core.errors import check_each, instance_of
from anytask.core.estimator import Fitted
from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import choice, flag, free, of_kind, positional, real, text, texts, whole
from anytask.incontext.base import (
    Answer,
    Retriever,
    beams_field,
    check_places,
    check_queries,
    scoring_field,
    shots,
    template_field,
)
from anytask.lm.option_scoring import RULES, calibrate, check_options, score_options
from anytask.lm.prompting import Demonstration, Prompt, PromptTemplate
from anytask.lm.protocol import check_lm, check_text, check_texts, require
from anytask.lm.writing import choose, write

__all__ = ["GPT3"]

CONTENT_FREE = ("N/A", "[MASK]", "")


def _check_demos(demos: Any) -> None:
    if demos not in ("per-item", "fixed") if isinstance(demos, str) else not isinstance(demos, Retriever):
        raise TypeError(f"demos must be 'per-item', 'fixed' or have retrieve(query, k), got {demos!r}")


class GPT3(Fitted):
    """Zero-, one- and few-shot answers from a frozen language model.

    Pick it when you have a language model and a handful of examples, and want answers now: no gradient step, no head,
    no weight change. The only thing made for the task is the text of the prompt. ``fit`` stores the examples that
    prompts are built from; every query then gets K of them, drawn for it alone. What the model cannot do, and settings
    that do not go together, are refused at construction.

    Parameters
    ----------
    lm : ScoringModel or ChatModel
        Local weights or an endpoint; what only chats gets the prompt as a message.
    k : int >= 0 or "max", default 8
        Most demonstrations per prompt: 0 (zero-shot), 1 (one-shot), more (few-shot), or all that fit, as in the paper;
        small models lose the query among very many.
    template, description : PromptTemplate and str, optional
        How examples are written, default ``Input: ... / Label: ...``; the sentence that opens the prompt.
    scoring : str, default "auto"
        How options are ranked: per-token "mean" of the log-probability, its "sum", per "bytes", or "unconditional"
        (minus the option's log-probability after ``answer_context``); "choose": the model writes which it takes;
        "auto": "mean" if the model gives log-probabilities, else "choose". Or no options at all: "generate" free text
        by beam search up to a line break, or "cloze", the first word of it.
    demos : {"per-item", "fixed"} or Retriever, default "per-item"
        Drawn for every query, one drawn set for all (its results vary more between seeds), or chosen by the query,
        the most similar last.
    balanced, calibrate : bool, default False
        Draw the same number of every output; divide out the label bias that the prompt shows on inputs without content.
    leak : {"exclude", "error", "allow"}, default "exclude"
        What to do when a query stands in the pool: never show it to itself, refuse, or show it.
    rewrite : callable str -> str, optional
        What is done to inputs before they are written into a prompt, such as compression; demonstrations are drawn by
        the inputs as they are.
    answer_context, budget : str and int, optional
        Prompt of the unconditional rule ("Label:"); tokens of prompt and completion, at most the model's context.
    beam_width, length_penalty, max_tokens, stop : int or "auto", float, int, texts, default "auto", 0.6, 32, line break
        Of generated answers; "auto" beams are the paper's 4, and 1 for a model without local weights, which has none.
    seed : int, default 0

    Attributes
    ----------
    pool_, options_ : list of Demonstration, and list of str or None
        The examples given to ``fit``, and the outputs to choose from.
    cost_ : Tally or None
        Calls, tokens and seconds of the last batch of answers (None if the model keeps no accounts).

    References
    ----------
    Brown et al., "Language Models are Few-Shot Learners" (2020), arXiv 2005.14165.

    Examples
    --------
    >>> from anytask.lm import load_tiny
    >>> from anytask.datasets.attribute_language import AttributeLanguage
    >>> language = AttributeLanguage(seed=1)
    >>> sentences = [language.sentence() for _ in range(40)]
    >>> X, y = [s.text for s in sentences], [s.attributes["topic"] for s in sentences]
    >>> few_shot = GPT3(load_tiny("icl"), k=8).fit(X[:30], y[:30])
    >>> few_shot.score(X[30:], y[30:]) > 1 / len(set(y)) + 0.3  # chance is one over the number of topics
    True
    """

    lm: Any = positional(free, "the frozen language model", check_lm, kw_only=False)
    k: int | Literal["max"] = positional(shots, default=8, kw_only=False)
    template: PromptTemplate = template_field(PromptTemplate())
    description: str | None = text(None, "sentence that opens the prompt, None: the template's", optional=True)
    scoring: str = scoring_field("cloze")
    demos: Any = free(
        "per-item", "which demonstrations a query gets: 'per-item', 'fixed', or a retriever", _check_demos
    )
    balanced: bool = flag(False, "draw the same number of every output")
    calibrate: bool = flag(False, "divide out the label bias on inputs without content")
    leak: str = choice("exclude", ("exclude", "error", "allow"), "what to do when a query stands in the pool")
    rewrite: Callable[[str], str] | None = of_kind(
        None, (Callable,), "a callable str -> str", "what is done to inputs before they are written", optional=True
    )
    answer_context: str | None = text(None, "prompt of the unconditional rule, None: the template's", optional=True)
    budget: int | None = whole(None, "tokens of prompt and completion, None: the model's context", optional=True)
    beam_width: int | str = beams_field()
    length_penalty: float = real(0.6, "exponent of the length that divides a beam's log-probability", at_least=0)
    max_tokens: int = whole(32, "most tokens of a generated answer")
    stop: Sequence[str] = texts(("\n",), "where a generated answer ends")

    def _check_settings(self) -> None:
        if self.how in RULES:
            require(self.lm, "logprobs", method=f"GPT3(scoring={self.scoring!r}), unlike scoring='choose',")
        elif self.calibrate:
            raise ValueError(f"calibrate corrects the scores of options, and scoring={self.how!r} has none")
        else:
            if not self.lm.capabilities.completions:
                require(self.lm, "chat", method=f"GPT3(scoring={self.how!r})")
            if self.beam_width not in ("auto", 1):
                require(self.lm, "local_weights", method=f"beam_width={self.beam_width}, unlike beam_width=1,")
        if self.balanced and not isinstance(self.demos, str):
            raise ValueError("balanced goes with random draws, and demos is a retriever, which chooses by the query")
        if self.scoring == "unconditional" and not self._context:
            raise ValueError("scoring='unconditional' needs words between input and output: give answer_context=")
        if self.room is None:
            if self.k == "max":
                raise ValueError("k='max' needs to know what fits: give budget= or use a model with a context_length")
        elif not hasattr(self.lm, "count_tokens"):
            raise ValueError(f"budget={self.room} tokens need a model that counts them: this one has no count_tokens")
        else:
            self.assemble([], "", self.max_tokens if self.how in ("generate", "cloze") else 0)

    @property
    def how(self) -> str:
        """How answers are found: ``scoring``, with what "auto" is for this model."""
        if self.scoring != "auto":
            return self.scoring
        return "mean" if self.lm.capabilities.logprobs else "choose"

    @property
    def room(self) -> int | None:
        """Tokens that prompt and completion may take, None: nobody knows."""
        limits = [n for n in (self.budget, getattr(self.lm, "context_length", None)) if n is not None]
        return min(limits, default=None)

    @property
    def _context(self) -> str:
        return self._template.answer_context if self.answer_context is None else self.answer_context

    @property
    def _template(self) -> PromptTemplate:
        return self.template if self.description is None else replace(self.template, description=self.description)

    def fit(self, X: Sequence[str], y: Sequence[str], *, options: Sequence[str] | None = None, ids: Any = None) -> Self:
        """Store worked examples as the context.

        Parameters
        ----------
        X, y : sequences of str of equal length
            Inputs and right outputs; may be empty for zero-shot.
        options : sequence of str, optional
            The outputs to choose from; default the sorted distinct ``y``. Give labels words with a meaning ("True",
            not "1"): the model reads them. Per-item options go to ``predict``.
        ids : sequence, optional
            Names of the examples; default their places.

        Raises
        ------
        ValueError
            For unequal lengths, empty outputs, empty or repeated options.
        """
        self._check_settings()
        X, y = check_texts(X, "X"), check_texts(y, "y")
        instance_of("ids", Iterable)(ids)
        names = list(range(len(X)) if ids is None else ids)
        if not len(X) == len(y) == len(names):
            raise ValueError(f"X, y and ids must have equal lengths, got {len(X)}, {len(y)} and {len(names)}")
        if empty := [i for i, text in enumerate(y) if not text.strip()]:
            raise ValueError(f"y[{empty[0]}] is empty; a demonstration without an answer shows nothing")
        chosen = sorted(set(y)) if options is None else check_texts(options, "options")
        if self._chooses and chosen:
            check_options(chosen, self.how)
        self.pool_ = [Demonstration(*row) for row in zip(X, y, names)]
        self.options_: list[str] | None = chosen or None
        return self

    def prompt(self, query: str, *, reserve: int | None = None) -> Prompt:
        """Build the prompt that ``query`` gets.

        ``reserve`` tokens are kept free for the completion; default: what the longest option or a written answer needs.
        """
        self._check_fitted()
        query = check_text(query, "query")
        places = self._draw(query)

        def write(text: str) -> str:
            return text if self.rewrite is None else check_text(self.rewrite(text), "what rewrite returns")

        shown = [replace(self.pool_[i], input=write(self.pool_[i].input)) for i in places]
        prompt = self.assemble(shown, write(query), reserve)
        return replace(prompt, demos_used=tuple(places[i] for i in prompt.demos_used))

    def assemble(self, demos: Sequence[Demonstration], query: str, reserve: int | None = None) -> Prompt:
        """Write these demonstrations and the query, as many of the last as fit; ``reserve`` as in :meth:`prompt`."""
        demos, query = check_each(demos, Demonstration, "demos"), check_text(query, "query")
        if reserve is None:
            reserve = self._reserve(getattr(self, "options_", None) or ()) if self._chooses else self.max_tokens
        count = getattr(self.lm, "count_tokens", None)
        return self._template.assemble(demos, query, count_tokens=count, budget=self.room, reserve=reserve)

    @property
    def _chooses(self) -> bool:
        return self.how not in ("generate", "cloze")

    def _reserve(self, options: Sequence[str]) -> int:
        count = getattr(self.lm, "count_tokens", len)
        blank = max(map(count, CONTENT_FREE)) if self.calibrate else 0  # they take the place of shorter queries
        return max((count(self._template.completion(o)) for o in options), default=0) + 1 + blank

    def answer(
        self,
        X: Sequence[str],
        *,
        options: Sequence[Sequence[str]] | None = None,
        progress: Progress | None = None,
    ) -> list[Answer]:
        """Answer each query, with scores, prompt and the demonstrations shown.

        Parameters
        ----------
        X : sequence of str
        options : sequence of sequences of str, optional
            Each query's own options (multiple choice); default the options of ``fit``.
        progress : callable, optional
            Told the finished share.

        Raises
        ------
        ValueError
            If options are missing, a query stands in the pool (``leak="error"``), or description and query do not fit.
        """
        self._check_fitted()
        X = check_queries(X, "X")
        accounts = getattr(getattr(self.lm, "usage", None), "total", None)
        if self._chooses:
            answers = self._choose(X, options, progress)
        else:
            answers = self.write([self.prompt(x) for x in X], progress)
        self.cost_ = None if accounts is None else self.lm.usage.total - accounts
        return answers

    def predict(self, X: Sequence[str], *, options: Sequence[Sequence[str]] | None = None) -> np.ndarray:
        """Return each query's chosen option or generated text, shape (n,)."""
        return np.array([a.output for a in self.answer(X, options=options)], dtype=object)

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:
        """Return the soft-max of the rank values over ``options_``, shape (n, n_options).

        With ``scoring="sum"`` (and options of which one is right) these are the model's own probabilities.
        """
        if self.how not in RULES:
            raise ValueError(f"scoring={self.how!r} ranks no options and has no probabilities")
        return np.array([softmax(list(a.scores.values())) for a in self.answer(X)])

    def score(self, X: Sequence[str], y: Sequence[str]) -> float:
        """Return the share of queries answered exactly right."""
        X, y = check_queries(X, "X"), check_texts(y, "y")
        if len(X) != len(y):
            raise ValueError(f"X and y must have equal lengths, got {len(X)} inputs and {len(y)} outputs")
        return float(np.mean(self.predict(X) == np.array(y, dtype=object)))

    def _state(self) -> Any:
        return {"pool": [astuple(demo) for demo in self.pool_], "options": self.options_}

    def _load_state(self, state: Any) -> None:
        X, y, ids = zip(*state["pool"]) if state["pool"] else ((), (), ())
        self.fit(X, y, options=state["options"], ids=ids)

    def _draw(self, query: str) -> list[int]:
        """Step D.1: places of the demonstrations, farthest from the query first."""
        same = _key(query)
        leaks = {i for i, d in enumerate(self.pool_) if self.leak != "allow" and _key(d.input) == same}
        if leaks and self.leak == "error":
            raise ValueError(f"the query stands in the pool at {min(leaks)}: {query!r}; its answer would be shown")
        n = len(self.pool_)
        k = n if self.k == "max" else min(int(self.k), n)
        if k == 0:
            return []
        if isinstance(self.demos, str):
            order = self.order("fixed" if self.demos == "fixed" else query)
        else:
            order = check_places(self.demos.retrieve(query, min(n, k + len(leaks))), n, "the retriever of demos")
        return [i for i in order if i not in leaks][:k][::-1]

    def order(self, name: str) -> list[int]:
        """Return the random order of the examples that goes with a name, such as a query.

        Balanced: each round of the distinct outputs comes before the next.
        """
        rng = np.random.default_rng(derive(self.seed, "demonstrations", name))
        order = rng.permutation(len(self.pool_)).tolist()
        if self.balanced:
            seen: defaultdict[str, Iterator[int]] = defaultdict(count)
            rounds = {i: next(seen[self.pool_[i].output]) for i in order}
            order.sort(key=rounds.__getitem__)
        return order

    def _choose(self, X: list[str], options: Sequence[Sequence[str]] | None, progress: Progress | None) -> list[Answer]:
        if options is None:
            if self.options_ is None:
                raise ValueError("no options to choose from: give fit(..., options=) or predict(..., options=)")
            options = [self.options_] * len(X)
        options = _check_rows(options, len(X))
        prompts = [self.prompt(x, reserve=self._reserve(row)) for x, row in zip(X, options)]
        return self.judge(prompts, options, progress)

    def judge(
        self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]], progress: Progress | None = None
    ) -> list[Answer]:
        """Choose among the options after prompts that are written already."""
        rule: Any = self.how
        prompts = check_each(prompts, Prompt, "prompts")
        options = _check_rows(options, len(prompts))
        if rule == "choose":
            said = choose(self.lm, [p.text for p in prompts], options, tag="gpt3", progress=progress)
            return [Answer(one, p, p.demos_used, {}, self.lm.kind) for one, p in zip(said, prompts)]
        rows = [[self._template.completion(o) for o in row] for row in options]
        blanks, n = CONTENT_FREE if self.calibrate else (), len(prompts)
        texts = [p.text for p in prompts] + [self._replace_query(p, blank) for blank in blanks for p in prompts]
        scored = score_options(
            self.lm, texts, rows * (1 + len(blanks)), rule=rule, answer_context=self._context, tag="gpt3",
            progress=progress,
        )  # fmt: skip
        scores = [require_finite(row, "the language model's score of an option") for row in scored]
        if blanks:
            scores = [calibrate(scores[i], np.array(scores[n + i :: n])) for i in range(n)]
        return [
            Answer(row[int(s.argmax())], p, p.demos_used, dict(zip(row, map(float, s))), self.lm.kind)
            for row, s, p in zip(options, scores, prompts)
        ]

    def write(self, prompts: Sequence[Prompt], progress: Progress | None = None) -> list[Answer]:
        """Go on from prompts that are written already."""
        prompts = check_each(prompts, Prompt, "prompts")
        beams = self.beam_width if self.beam_width != "auto" else 4 if self.lm.capabilities.local_weights else 1
        written = write(
            self.lm, [p.text for p in prompts], max_tokens=self.max_tokens, stop=tuple(self.stop), tag="gpt3",
            beam_width=beams, length_penalty=self.length_penalty, seed=self.seed, progress=progress,
        )  # fmt: skip
        outputs = [text.strip() for text in written]
        if self.how == "cloze":
            outputs = [(text.split() or [""])[0] for text in outputs]
        return [Answer(o, p, p.demos_used, {}, self.lm.kind) for o, p in zip(outputs, prompts)]

    def _replace_query(self, prompt: Prompt, text: str) -> str:
        (span,) = [s for s in prompt.spans if s.role == "query" and s.part == "input"]
        return prompt.text[: span.start] + text + prompt.text[span.end :]


def _check_rows(options: Any, n: int) -> list[list[str]]:
    instance_of("options", Iterable, optional=False, wanted="the options of each query")(options)
    rows = [check_texts(row, f"options[{i}]") for i, row in enumerate(options)]
    if len(rows) != n:
        raise ValueError(f"options must be given for every query, got {len(rows)} for {n}")
    return rows


def _key(text: str) -> str:
    return " ".join(text.lower().split())
