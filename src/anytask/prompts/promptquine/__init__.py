"""PromptQuine: evolve a few-shot prompt by deleting tokens; and TAPruning, hill climbing with threshold accepting.

Report ``result.validation`` or a test score, never ``result.score``: with few examples the search over-fits. The
model's kind is in ``result.kind``; a ``tiny`` or ``sim`` result is evidence about the search alone.

Departures from the paper: one random generator for the whole search instead of re-seeding by the clock, so that a seed
gives one result. Skipped children and texts that were scored before don't count as evaluations. A search also ends when
20 generations in a row find nothing new. Text after ``{mask_token}`` is scored as part of the continuation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from anytask.core.checks import require_finite
from anytask.core.progress import Progress, portion
from anytask.core.settings import Settings, choice, flag, free, numbers, real, whole
from anytask.prompts.base import Candidate, Example, SearchResult
from anytask.prompts.parts.evaluators import (
    Evaluator,
    Score,
    VerbalizerEvaluator,
    as_scores,
    check_verbalizers,
    example_fingerprint,
)
from anytask.prompts.parts.prunable import PrunablePrompt, check_prompt
from anytask.prompts.promptquine.evolution import MaskEvolution, read_json, write_json

__all__ = ["PromptQuine", "TAPruning"]


def accepts(s: float, best: float, theta: float) -> bool:
    """Threshold accepting: is a score ``s`` close enough to the ``best`` so far?

    The ratio s / best must reach ``theta``. Where rewards may be negative the ratio turns round, so the same slack is
    given on the other side: ``s >= best / theta``; at best = 0 there is no slack.

    Examples
    --------
    >>> accepts(0.77, 0.80, 0.96), accepts(0.765, 0.80, 0.96), accepts(-10.3, -10, 0.96), accepts(-11, -10, 0.96)
    (True, False, True, False)
    """
    return s >= (theta * best if best > 0 else best / theta)


def rerank(history: Sequence[Candidate], top: float) -> list[Candidate]:
    """Return the candidates worth a second look: the share ``top`` by search score, ties included.

    ``top`` of 1 or more is a number of candidates instead. A text that was scored more than once counts as scored last.
    """
    last = list({candidate.text: candidate for candidate in history}.values())
    last.sort(key=lambda candidate: -candidate.score)
    if top >= 1:
        return last[: int(top)]
    floor = float(np.percentile([candidate.score for candidate in last], 100 * (1 - top)))
    return [candidate for candidate in last if candidate.score >= floor]


def _check_evaluator(evaluator: Any) -> None:
    if evaluator is not None and not callable(evaluator):
        raise TypeError(f"evaluator must be callable (prompts, examples) -> scores, got {evaluator!r}")


class PruningSearch(Settings):
    """What the searches over subsequences of a prompt share: the task, the accounts, the choice at the end.

    Parameters
    ----------
    prompt, verbalizers, evaluator, reward, seed
        As in :class:`PromptQuine`.
    """

    prompt: str = free(attrs.NOTHING, "the full prompt", check_prompt, kw_only=False)
    verbalizers: Sequence[str] | None = free(
        None, "one continuation per class, None: an evaluator", check_verbalizers, kw_only=False
    )
    evaluator: Evaluator | None = free(None, "scores prompts on examples, None: verbalizers", _check_evaluator)
    reward: str = choice("margin", ("margin", "accuracy"), "what steers a classification search")
    seed: int = whole(0, "everything random follows from it", at_least=0)

    #: Share of the explored prompts, or their number, that is re-ranked on the validation examples.
    top: float = 1

    def _check_settings(self) -> None:
        if (self.verbalizers is None) == (self.evaluator is None):
            raise ValueError("give either verbalizers (a classification task) or an evaluator (any task)")

    def _prepare(self, lm: Any, examples: Sequence[Example]) -> tuple[PrunablePrompt, Evaluator, int]:
        """Return the prompt's units, the evaluator, and the calls that it had counted before."""
        if not examples:
            raise ValueError("there must be at least one search example")
        evaluator = self.evaluator
        if evaluator is None:
            assert self.verbalizers is not None
            evaluator = VerbalizerEvaluator(lm, self.verbalizers, self.reward)
        return PrunablePrompt(self.prompt, lm), evaluator, int(getattr(evaluator, "calls", 0))

    def _fingerprint(self, lm: Any, examples: Sequence[Example]) -> str:
        task = None if self.verbalizers is None else [list(self.verbalizers), self.reward]
        evaluator = None if self.evaluator is None else getattr(self.evaluator, "__qualname__", None)
        if self.evaluator is not None and evaluator is None:
            evaluator = type(self.evaluator).__qualname__
        return json.dumps([self.prompt, task, evaluator, getattr(lm, "name", None), example_fingerprint(examples)])

    def _choose(
        self,
        history: Sequence[Candidate],
        units: PrunablePrompt,
        evaluator: Evaluator,
        validation: Sequence[Example],
    ) -> tuple[Candidate, list[Candidate]]:
        """Re-score the best prompts on the validation examples; ties go to the search score, then to brevity."""
        shortlist = rerank(history, self.top)
        if validation:
            accuracy = as_scores(evaluator([candidate.text for candidate in shortlist], validation))
            shortlist = [
                Candidate(c.text, c.kept, c.score, score.accuracy) for c, score in zip(shortlist, accuracy, strict=True)
            ]
        scored = {candidate.text: candidate for candidate in shortlist}
        best = max(shortlist, key=lambda c: (c.validation or 0.0, c.score, -units.length(c.text)))
        return best, [scored.get(candidate.text, candidate) for candidate in history]

    def _result(
        self,
        best: Candidate,
        trace: Sequence[Candidate],
        units: PrunablePrompt,
        evaluator: Evaluator,
        before: int,
        evaluations: float,
        lm: Any,
    ) -> SearchResult:
        return SearchResult(
            prompt=best.text,
            score=best.score,
            validation=best.validation,
            kept=best.kept,
            n_tokens=units.length(best.text),
            evaluations=evaluations,
            lm_calls=int(getattr(evaluator, "calls", 0)) - before,
            trace=tuple(trace),
            kind=getattr(lm, "kind", None),
        )


def top_field() -> Any:
    """Return the field of searches that re-rank their best prompts."""
    return real(0.1, "share, or from 1 on number, of the explored prompts that is re-ranked", above=0)


class PromptQuine(PruningSearch):
    """Prune a few-shot prompt by evolution until a frozen language model does better with it.

    Takes an ordinary prompt with demonstrations and searches its subsequences of tokens: nothing is added or reordered.
    The winner is often unreadable and still better. Pick it when you have about 8 labels per class, a model whose
    weights you cannot or don't want to change, and some thousand cheap calls; with less, take :class:`TAPruning`.

    Parameters
    ----------
    prompt : str
        The full prompt. Placeholders in braces ({text}, {sentence_1}, {mask_token}, ...) are never pruned; each example
        gives their values, and ``{mask_token}`` marks the answer's place (default: the end).
    verbalizers : sequence of str, optional
        For classification: one continuation per class. Examples carry the class index as ``label``.
    evaluator : Evaluator, optional
        For any other task, instead of ``verbalizers``: (prompts, examples) -> scores.
    reward : {"margin", "accuracy"}, default "margin"
        Steers a classification search: the margin reward suits aligned models, see
        :func:`~anytask.prompts.parts.evaluators.margin_reward`.
    algorithm : {"gga", "ssga"}, default "gga"
        Generational (children scored in one batch; fast), or steady state (each child may be a parent at once).
    init : {"duplicate", "random"}, default "duplicate"
        Copies of the full prompt, or randomly thinned ones (the paper's choice for style transfer).
    population, offspring : int, default 30 and 50
    counts : sequence of int, default (1, 2, 3, 4)
        Tokens deleted from a parent.
    tournament : float, default 0.2
        Share of the population in a tournament.
    ageing : bool, default True
    halving : bool, default False
        Score children on half the examples first (the paper's choice for generation and reasoning).
    budget : float, default 10000
        Prompts scored.
    min_length : float, default 15
        Mean length in tokens at which the search ends.
    top : float, default 0.1
        Share of the explored prompts that is re-ranked on the validation examples; a number from 1 on (20 in the paper
        for style transfer) means that many.
    seed : int, default 0

    Examples
    --------
    A stand-in model that is right more often the fewer of the words "bad" its prompt has:

    >>> from anytask.lm.word_tokens import WordTokens
    >>> def evaluate(prompts, examples):
    ...     return [1 - p.split().count("bad") / 6 for p in prompts]
    >>> search = PromptQuine("bad bad good bad good bad good bad bad {text}", evaluator=evaluate, min_length=4)
    >>> result = search.search(WordTokens(), [{"text": "x", "label": 0}])
    >>> result.prompt, result.score
    ('good {text}', 1.0)

    References
    ----------
    Wang et al. (2025), "Evolving Prompts In-Context: An Open-ended, Self-replicating Perspective", arXiv:2506.17930.
    """

    algorithm: str = choice("gga", ("gga", "ssga"), "generational, or steady state")
    init: str = choice("duplicate", ("duplicate", "random"), "copies of the full prompt, or thinned ones")
    population: int = whole(30, "members that survive a generation")
    offspring: int = whole(50, "children attempted in a generation")
    counts: Sequence[int] = numbers((1, 2, 3, 4), "tokens deleted from a parent", at_least=1, integers=True)
    tournament: float = real(0.2, "share of the population in a tournament", above=0, at_most=1)
    ageing: bool = flag(True, "parents die of age")
    halving: bool = flag(False, "score children on half the examples first")
    budget: float = real(10_000, "prompts scored", above=0)
    min_length: float = real(15, "mean length in tokens at which the search ends", at_least=0)
    top: float = top_field()

    def _check_settings(self) -> None:
        super()._check_settings()
        if not len(self.counts):
            raise ValueError("counts must name at least one number of deletions")

    def search(
        self,
        lm: Any,
        examples: Sequence[Example],
        validation: Sequence[Example] = (),
        *,
        state_file: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> SearchResult:
        """Search on ``examples`` and choose on ``validation``.

        Parameters
        ----------
        lm : ScoringModel
            Its tokenizer defines the units; its scores the fitness, unless an evaluator was given.
        examples : sequence of dict
            Placeholder values and ``label``.
        validation : sequence of dict, optional
            Other examples (the paper: 200) to choose among the best by accuracy. Without them the best search score is
            returned, which over-fits.
        state_file : path, optional
            Written after every generation; an interrupted search goes on from it to the same result.
        progress : callable, optional
            Called with the finished share in [0, 1].

        Returns
        -------
        SearchResult

        Raises
        ------
        ValueError
            If examples lack a label or a placeholder, or a state file belongs to another search.
        MissingCapability
            If ``verbalizers`` are given and the model offers no log-probabilities.
        """
        units, evaluator, before = self._prepare(lm, examples)
        if self.halving and len(examples) < 2:
            raise ValueError("halving needs at least two search examples")
        half = len(examples) // 2
        parts = {None: examples, 0: examples[:half], 1: examples[half:]}

        def fitness(texts: Sequence[str], part: int | None) -> list[float]:
            return [score.reward for score in as_scores(evaluator(texts, parts[part]))]

        shared = (
            "population",
            "offspring",
            "counts",
            "tournament",
            "init",
            "ageing",
            "halving",
            "budget",
            "min_length",
        )
        given = {name: getattr(self, name) for name in (*shared, "seed")}
        task = (units.n, units.fixed, units.render, units.length)
        evolution = MaskEvolution(*task, steady=self.algorithm == "ssga", **given)
        evolution.run(fitness, state_file=state_file, fingerprint=self._fingerprint(lm, examples), progress=progress)
        history = [Candidate(m.text, m.kept, m.fitness) for m in evolution.history_]
        best, trace = self._choose(history, units, evaluator, validation)
        return self._result(best, trace, units, evaluator, before, evolution.evaluations_, lm)


class TAPruning(PruningSearch):
    """Prune a prompt token by token, accepting what is nearly as good: a cheap first try before :class:`PromptQuine`.

    Passes over the tokens; a token whose removal keeps the score within ``theta`` of the best stays removed. Costs
    about one to three evaluations per token.

    Parameters
    ----------
    prompt, verbalizers, evaluator, reward, seed
        As in :class:`PromptQuine`.
    theta : float in (0, 1], default 0.96
        Share of the best score that a shorter prompt must reach; see :func:`accepts`.
    accept : {"threshold", "improvement"}, default "threshold"
        "improvement" is the steep variant (SAHC): only a strictly better score is accepted.
    order : {"left", "shuffled"}, default "left"
        Order of the tokens within a pass.
    budget : int, optional
        Largest number of evaluations; default: until a pass removes nothing.

    Examples
    --------
    >>> from anytask.lm.word_tokens import WordTokens
    >>> def evaluate(prompts, examples):
    ...     return [1 - p.split().count("bad") / 6 for p in prompts]
    >>> TAPruning("bad good bad {text}", evaluator=evaluate).search(WordTokens(), [{"text": "x", "label": 0}]).prompt
    '{text}'

    Notes
    -----
    Source: Wang et al. (2025), arXiv:2506.17930. The last prompt with the largest search score is returned, as in the
    paper; ``validation`` examples only measure it.

    Departures from the paper
    -------------------------
    For negative rewards, where the ratio s / best turns round, a score must reach best / theta. A prompt keeps at least
    one token.
    """

    theta: float = real(0.96, "share of the best score that a shorter prompt must reach", above=0, at_most=1)
    accept: str = choice("threshold", ("threshold", "improvement"), "nearly as good is accepted, or better alone")
    order: str = choice("left", ("left", "shuffled"), "order of the tokens within a pass")
    budget: int | None = whole(None, "most evaluations, None: until a pass removes nothing", optional=True)

    def search(
        self,
        lm: Any,
        examples: Sequence[Example],
        validation: Sequence[Example] = (),
        *,
        state_file: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> SearchResult:
        """Search on ``examples``; parameters as in :meth:`PromptQuine.search`.

        The state file keeps the scores that were paid for; a repeated search reads them instead of asking the model.
        """
        first, evaluator, before = self._prepare(lm, examples)
        scores = _Scores(evaluator, examples, state_file, self._fingerprint(lm, examples), self.budget)
        rng, share = np.random.default_rng(self.seed), portion(progress, 0.0, 1.0)
        units = first
        origin: list[int] | None = list(range(units.n))  # this tokenisation's units as positions of the first one's
        kept = list(range(units.n))
        text = units.render(kept)
        best = scores(text)
        log = [Candidate(text, tuple(range(units.n)), best)]
        while True:
            free = [i for i in kept if i not in units.fixed]
            if self.order == "shuffled":
                free = rng.permutation(free).tolist()
            pruned = False
            for step, i in enumerate(free):
                if len(kept) == 1 or scores.exhausted:
                    break
                trial = [j for j in kept if j != i]
                text = units.render(trial)
                if not text.strip():
                    continue
                s = scores(text)
                if accepts(s, best, self.theta) if self.accept == "threshold" else s > best:
                    kept, best, pruned = trial, max(best, s), True
                    log.append(Candidate(text, None if origin is None else tuple(origin[j] for j in kept), s))
                share((step + 1) / len(free) * (1 - len(kept) / first.n))
            scores.commit()
            if not pruned or scores.exhausted:
                break
            before_drift = [units.units()[i] for i in kept]
            if origin is not None:
                origin = [origin[i] for i in kept]
            units = PrunablePrompt(units.render(kept), lm)
            if list(units.units()) != before_drift:
                origin = None
            kept = list(range(units.n))
        chosen = max(reversed(log), key=lambda candidate: candidate.score)
        if validation:
            accuracy = as_scores(evaluator([chosen.text], validation))[0].accuracy
            chosen = Candidate(chosen.text, chosen.kept, chosen.score, accuracy)
        share(1.0)
        return self._result(chosen, log, first, evaluator, before, scores.evaluations, lm)


class _Scores:
    """Scores of texts by one search: each paid for once, and kept in a file so that none is lost."""

    _EVERY = 25  # evaluations between two writes

    def __init__(
        self,
        evaluator: Evaluator,
        examples: Sequence[Example],
        state_file: str | os.PathLike[str] | None,
        fingerprint: str,
        budget: int | None,
    ) -> None:
        self._evaluator, self._examples, self._fingerprint = evaluator, examples, fingerprint
        self._path = None if state_file is None else Path(state_file)
        state = None if self._path is None else read_json(self._path, fingerprint)
        self._paid: dict[str, list[float]] = {} if state is None else state["scores"]
        self._seen: set[str] = set()
        self._unsaved, self._budget = 0, budget

    @property
    def evaluations(self) -> int:
        """Different texts this search has scored, an interrupted run of it included."""
        return len(self._seen)

    @property
    def exhausted(self) -> bool:
        return self._budget is not None and self.evaluations >= self._budget

    def __call__(self, text: str) -> float:
        if text not in self._paid:
            self._paid[text] = list(as_scores(self._evaluator([text], self._examples))[0])
            self._unsaved += 1
            if self._unsaved >= self._EVERY:
                self.commit()
        self._seen.add(text)
        return float(require_finite(Score(*self._paid[text]).reward, f"the score of the prompt {text!r}"))

    def commit(self) -> None:
        if self._path is not None and self._unsaved:
            write_json(self._path, {"fingerprint": self._fingerprint, "scores": self._paid})
            self._unsaved = 0
