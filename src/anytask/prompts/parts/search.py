"""What the searches over subsequences of a prompt share: the task, the accounts, the choice at the end."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.checks import NotFinite
from anytask.core.files import as_path, write_whole
from anytask.core.progress import Progress, portion
from anytask.core.settings import Settings, choice, free, of_kind, positional, real, texts, whole
from anytask.lm.placeholders import names_of
from anytask.prompts.base import Candidate, Example, SearchResult, check_examples
from anytask.prompts.parts.evaluators import WORDS, Evaluator, Score, VerbalizerEvaluator, as_scores
from anytask.prompts.parts.prunable import PrunablePrompt, check_prompt

#: Parts of the search examples: all of them, and their halves.
ALL, FIRST, SECOND = "", "first half", "second half"


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


def score_each(evaluator: Evaluator, prompts: Sequence[str], examples: Sequence[Example]) -> tuple[list[Score], str]:
    """Return the scores of prompts, NaN for those at which the evaluator, or its model, met NaN; and what it said."""
    try:
        scores = as_scores(evaluator(prompts, examples))
        if len(scores) != len(prompts):
            raise ValueError(f"the evaluator must give {len(prompts)} scores, one for each prompt, got {len(scores)}")
        return scores, ""
    except NotFinite as error:
        if len(prompts) == 1:
            return [Score(math.nan, math.nan)], str(error)
        found = [score_each(evaluator, [prompt], examples) for prompt in prompts]
        return [score for scores, _ in found for score in scores], str(error)


class Scores:
    """Scores of texts by one search: each paid for once, within the budget, and kept in a file so that none is lost.

    Parameters
    ----------
    evaluator : Evaluator
    examples : sequence of dict
    budget : int
        Texts that may be scored; half of the examples count 0.5.
    path : path, optional
        If the file exists, the scores in it are not asked for again.
    fingerprint : str
        What the scores depend on.

    Attributes
    ----------
    spent : float
        Texts that this search scored, an interrupted run of it included.
    discarded : int
        Those whose score is no finite number.
    cause : str
        What the evaluator, or its model, said of the last of them.

    Raises
    ------
    ValueError
        If the file is damaged, or belongs to a search of another prompt or with other data.
    """

    _EVERY = 25  # scores between two writes

    def __init__(
        self, evaluator: Evaluator, examples: Sequence[Example], budget: int, path: Path | None, fingerprint: str
    ) -> None:
        half = len(examples) // 2
        self._examples = {ALL: examples, FIRST: examples[:half], SECOND: examples[half:]}
        self._evaluator, self._budget, self._path, self._fingerprint = evaluator, budget, path, fingerprint
        self._paid: dict[str, dict[str, float | None]] = {part: {} for part in self._examples}
        self._seen: dict[tuple[str, str], float | None] = {}
        self.spent, self._unsaved, self.cause = 0.0, 0, "their scores are NaN or infinite"
        if path is None or not path.exists():
            return
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            found, self._paid = state["fingerprint"], {part: state["scores"][part] for part in self._examples}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the search state in {path} is damaged: {error!r}; remove it to start anew") from error
        if found != fingerprint:
            raise ValueError(
                f"the search state in {path} belongs to another search (prompt, data, task or model differ); "
                "give another state file, or remove it to start anew"
            )

    @property
    def left(self) -> float:
        """What remains of the budget."""
        return self._budget - self.spent

    @property
    def discarded(self) -> int:
        return sum(reward is None for reward in self._seen.values())

    @property
    def all_equal(self) -> bool:
        """Whether several texts were scored, and all alike."""
        return len(self._seen) > 1 and len(set(self._seen.values())) == 1

    def knows(self, text: str, part: str = ALL) -> bool:
        """Return whether this search has scored a text on a part of the examples."""
        return (part, text) in self._seen

    def __call__(self, texts: Sequence[str], part: str = ALL) -> dict[str, float]:
        """Return the rewards of texts, but for those that are not finite, and for which the budget has no room."""
        cost, paid = 1.0 if part == ALL else 0.5, self._paid[part]
        new = [text for text in dict.fromkeys(texts) if not self.knows(text, part)][: int(self.left / cost)]
        if asked := [text for text in new if text not in paid]:
            found, cause = score_each(self._evaluator, asked, self._examples[part])
            self.cause, rewards = cause or self.cause, [score.reward for score in found]
            paid.update(zip(asked, [r if math.isfinite(r) else None for r in rewards], strict=True))
            self._unsaved += len(asked)
        self._seen |= {(part, text): paid[text] for text in new}
        self.spent += cost * len(new)
        if self._unsaved >= self._EVERY:
            self.save()
        known = {text: self._seen.get((part, text)) for text in texts}
        return {text: reward for text, reward in known.items() if reward is not None}

    def candidates(self, units: PrunablePrompt, masks: Iterable[tuple[int, ...]]) -> list[Candidate]:
        """Score the prompts that keep these units, and return those with a score."""
        texts: dict[str, tuple[int, ...]] = {}
        for kept in masks:
            if units.valid(text := units.render(kept)):
                texts.setdefault(text, kept)
        return [Candidate(text, texts[text], reward) for text, reward in self(list(texts)).items()]

    def save(self) -> None:
        """Write the scores: the file holds either the old or the new ones, whenever the process is killed."""
        if self._path is not None and self._unsaved:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps({"fingerprint": self._fingerprint, "scores": self._paid}))
            self._unsaved = 0


class PruningSearch(Settings):
    """Base of the searches over subsequences of a prompt; a subclass says which are explored.

    Parameters
    ----------
    prompt, verbalizers, evaluator, reward, budget, seed
        As in :class:`~anytask.prompts.PromptQuine`.
    """

    prompt: str = positional(free, "the full prompt", check_prompt, kw_only=False)
    verbalizers: Sequence[str] | None = positional(
        texts, f"{WORDS}, None: an evaluator", at_least=2, distinct=True, optional=True, default=None, kw_only=False
    )
    evaluator: Evaluator | None = of_kind(
        None, (Callable,), "a callable", "(prompts, examples) -> scores, None: verbalizers", optional=True
    )
    reward: str = choice("margin", ("margin", "accuracy"), "what steers a classification search")
    budget: int = whole(10_000, "most prompts scored")
    seed: int = whole(0, "everything random follows from it", at_least=0)

    #: Share of the explored prompts, or their number, that is re-ranked on the validation examples.
    top: float = 1

    def _check_settings(self) -> None:
        if (self.verbalizers is None) == (self.evaluator is None):
            raise ValueError("give either verbalizers (a classification task) or an evaluator (any task)")

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

        A prompt whose score is not finite is left out, with a warning.

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
            Keeps the scores that were paid for; a repeated search reads them instead of asking the model, and so an
            interrupted one goes on to the same result.
        progress : callable, optional
            Called with the finished share in [0, 1].

        Returns
        -------
        SearchResult

        Raises
        ------
        ValueError
            If examples lack a label or a placeholder, or a state file belongs to another search.
        NotFinite
            If no prompt has a finite score.
        MissingCapability
            If ``verbalizers`` are given and the model offers no log-probabilities.
        """
        examples, validation = check_examples(examples, "examples"), check_examples(validation, "validation")
        if not examples:
            raise ValueError("there must be at least one search example")
        evaluator = self.evaluator
        if evaluator is None:
            evaluator = VerbalizerEvaluator(lm, self.verbalizers, reward=self.reward)
        if self.evaluator is None and len(examples) > 1 and len({example.get("label") for example in examples}) == 1:
            told = f"all {len(examples)} search examples have the label {examples[0].get('label')!r}"
            warnings.warn(f"{told}: a prompt that always gives it scores best", stacklevel=2)
        before = int(getattr(evaluator, "calls", 0))
        units = PrunablePrompt(self.prompt, lm, names_of([*examples, *validation]))
        units.check()
        path, share = None if state_file is None else as_path(state_file, "state_file"), portion(progress, 0.0, 1.0)
        scores = Scores(evaluator, examples, self.budget, path, self._fingerprint(lm, examples))
        try:
            trace = self._explore(units, scores, portion(share, 0.0, 0.8 if validation else 1.0))
        finally:
            scores.save()
        shortlist = self._shortlist(trace)
        considered = len(shortlist)
        if validation and shortlist:
            judged: list[Candidate] = []
            for place, candidate in enumerate(shortlist, 1):
                [score], cause = score_each(evaluator, [candidate.text], validation)
                scores.cause = cause or scores.cause
                judged += [replace(candidate, validation=score.accuracy)] * math.isfinite(score.accuracy)
                share(0.8 + 0.2 * place / considered)
            shortlist = judged
        discarded = scores.discarded + considered - len(shortlist)
        if not shortlist:
            raise NotFinite(f"no prompt could be scored: {scores.cause}")
        if discarded:
            warnings.warn(
                f"{discarded} of {len(trace) + scores.discarded} prompts had a score that is NaN or infinite, "
                "and were left out", stacklevel=2,
            )  # fmt: skip
        if scores.all_equal:
            text = f"all prompts scored {shortlist[0].score:g}: the examples and the reward tell none apart"
            warnings.warn(text, stacklevel=2)
        # Ties go to the search score, then to brevity.
        best = max(shortlist, key=lambda c: (c.validation or 0.0, c.score, -units.length(c.text)))
        validated = {candidate.text: candidate for candidate in shortlist}
        share(1.0)
        return SearchResult(
            best.text, best.score, best.validation, best.kept, units.length(best.text),
            evaluations=scores.spent, lm_calls=int(getattr(evaluator, "calls", 0)) - before,
            trace=tuple(validated.get(candidate.text, candidate) for candidate in trace),
            kind=getattr(lm, "kind", None), discarded=discarded,
        )  # fmt: skip

    def _explore(self, units: PrunablePrompt, scores: Scores, share: Progress) -> list[Candidate]:
        """Return the explored prompts in the order of scoring."""
        raise NotImplementedError

    def _shortlist(self, trace: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates that the validation examples choose from."""
        return rerank(trace, self.top) if trace else []

    def _fingerprint(self, lm: Any, examples: Sequence[Example]) -> str:
        task = None if self.verbalizers is None else [list(self.verbalizers), self.reward]
        evaluator = getattr(self.evaluator, "__qualname__", type(self.evaluator).__qualname__)
        content = repr([sorted((str(k), repr(v)) for k, v in example.items()) for example in examples])
        data = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return json.dumps([self.prompt, task, evaluator, getattr(lm, "name", None), data])


def top_field() -> Any:
    """Return the field of searches that re-rank their best prompts."""
    return real(0.1, "share, or from 1 on number, of the explored prompts that is re-ranked", above=0)
