"""PromptQuine: evolve a few-shot prompt by deleting tokens; and TAPruning, hill climbing with threshold accepting.

Report ``result.validation`` or a test score, never ``result.score``: with few examples the search over-fits. The
model's kind is in ``result.kind``; a ``tiny`` or ``sim`` result is evidence about the search alone.

Departures from the paper: one random generator for the whole search instead of re-seeding by the clock, so that a seed
gives one result. Skipped children and texts that were scored before don't count as evaluations, and no more prompts are
scored than the budget says, in the last generation either. A search also ends when 20 generations in a row find nothing
new. Text after ``{mask_token}`` is scored as part of the continuation. The text between placeholders is tokenised piece
by piece, and the white space beside a placeholder stays with its piece. A deletion that makes a placeholder of braces
is not taken, and a prompt whose score is not finite is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anytask.core.progress import Progress
from anytask.core.settings import choice, flag, numbers, real, whole
from anytask.prompts.base import Candidate
from anytask.prompts.parts.prunable import PrunablePrompt
from anytask.prompts.parts.search import PruningSearch, Scores, top_field
from anytask.prompts.promptquine.evolution import Evolution

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
    budget : int, default 10000
        Most prompts scored; half of the examples count 0.5.
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
    min_length: float = real(15, "mean length in tokens at which the search ends", at_least=0)
    top: float = top_field()

    def _check_settings(self) -> None:
        super()._check_settings()
        if not len(self.counts):
            raise ValueError("counts must name at least one number of deletions")

    def _explore(self, units: PrunablePrompt, scores: Scores, share: Progress) -> list[Candidate]:
        return Evolution(self, units, scores).run(share)


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
    budget : int, default 10000
        Most prompts scored; a search ends anyway where a pass removes nothing.

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

    def _explore(self, units: PrunablePrompt, scores: Scores, share: Progress) -> list[Candidate]:
        rng, n = np.random.default_rng(self.seed), units.n
        kept = tuple(range(n))
        origin: Sequence[int] | None = kept  # this tokenisation's units as positions of the first one's
        log = scores.candidates(units, [kept])
        best = log[0].score if log else 0.0
        pruned = bool(log)
        while pruned:
            pruned = False
            free = [i for i in kept if i not in units.fixed]
            if self.order == "shuffled":
                free = rng.permutation(free).tolist()
            for step, i in enumerate(free):
                trial = tuple(j for j in kept if j != i)
                for found in scores.candidates(units, [trial]):  # none where it is no prompt, or the budget is spent
                    s = found.score
                    if accepts(s, best, self.theta) if self.accept == "threshold" else s > best:
                        kept, best, pruned = trial, max(best, s), True
                        places = None if origin is None else tuple(origin[j] for j in trial)
                        log.append(Candidate(found.text, places, s))
                share((step + 1) / len(free) * (1 - len(kept) / n))
            before = [units.units[i] for i in kept]
            units = units.retokenized(kept)
            origin = None if origin is None or units.units != before else [origin[i] for i in kept]
            kept = tuple(range(units.n))
        return log

    def _shortlist(self, trace: Sequence[Candidate]) -> list[Candidate]:
        return [max(reversed(trace), key=lambda candidate: candidate.score)] if trace else []
