"""Hill climbing that spends a whole budget: what evolution has to beat with as many prompts scored."""

from __future__ import annotations

from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.prompts.base import Candidate
from anytask.prompts.parts.prunable import PrunablePrompt
from anytask.prompts.parts.search import PruningSearch, Scores, top_field
from anytask.prompts.promptquine import TAPruning

#: Climbs in a row that score nothing new before the search is given up.
_PATIENCE = 20


class RestartedTAPruning(PruningSearch):
    """Repeat TAPruning over the tokens in other orders until the budget is spent, and choose as PromptQuine does.

    Parameters
    ----------
    prompt, verbalizers, evaluator, reward, budget, top, seed
        As in :class:`~anytask.prompts.PromptQuine`.

    Examples
    --------
    >>> from anytask.lm.word_tokens import WordTokens
    >>> def evaluate(prompts, examples):
    ...     return [1 - p.split().count("bad") / 6 for p in prompts]
    >>> search = RestartedTAPruning("bad bad good bad {text}", evaluator=evaluate, budget=30)
    >>> search.search(WordTokens(), [{"text": "x", "label": 0}]).score
    1.0
    """

    top: float = top_field()

    def _explore(self, units: PrunablePrompt, scores: Scores, share: Progress) -> list[Candidate]:
        history: list[Candidate] = []
        climbs = stale = 0
        while scores.left >= 1 and stale < _PATIENCE:
            left, seed = scores.left, derive(self.seed, "climb", climbs)
            climb = TAPruning(self.prompt, self.verbalizers, evaluator=self.evaluator, order="shuffled", seed=seed)
            history += climb._explore(units, scores, lambda done: None)
            climbs, stale = climbs + 1, stale + 1 if scores.left == left else 0
            share(1 - scores.left / self.budget)
        return history
