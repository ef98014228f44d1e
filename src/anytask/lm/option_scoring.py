"""A frozen language model as judge of given answers: the ways to turn log-probabilities into a choice.

For completion tokens c_1..c_n after prompt p, l(c | p) = sum_j log P(c_j | p, c_<j). The rules rank options by

===================  ===================  ============================================================
``"sum"``            l(c | p)             favors short options
``"mean"``           l(c | p) / n         n = tokens; the default
``"bytes"``          l(c | p) / bytes     known as "acc_norm" in evaluation harnesses; not ``"mean"``
``"unconditional"``  l(c | p) - l(c | a)  a = answer context such as "Answer:"; undoes frequent strings
===================  ===================  ============================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from scipy.special import log_softmax

from anytask.core.progress import Progress
from anytask.core.settings import taken
from anytask.lm.protocol import LMError, OptionScore, ScoringModel

Rule = Literal["sum", "mean", "bytes", "unconditional"]
RULES: tuple[str, ...] = get_args(Rule)


def normalize(score: OptionScore, rule: Rule = "mean", unconditional: OptionScore | None = None) -> float:
    """Return one option's rank value under ``rule``.

    Examples
    --------
    A has token log-probabilities (-1.0), B has (-0.6, -0.6); l(A | a) = -1.2, l(B | a) = -3.0:

    >>> A, B = OptionScore(-1.0, 1, 4), OptionScore(-1.2, 2, 9)
    >>> normalize(A, "sum") > normalize(B, "sum"), normalize(A, "mean") > normalize(B, "mean")
    (True, False)
    >>> a, b = OptionScore(-1.2, 1, 4), OptionScore(-3.0, 2, 9)
    >>> round(normalize(A, "unconditional", a), 6), round(normalize(B, "unconditional", b), 6)
    (0.2, 1.8)
    """
    if rule == "sum":
        return score.logprob
    if rule == "mean":
        return score.mean
    if rule == "bytes":
        return score.logprob / score.n_bytes
    if rule == "unconditional":
        if unconditional is None:
            raise ValueError("rule 'unconditional' needs the option's score after the answer context")
        return score.logprob - unconditional.logprob
    raise ValueError(f"unknown scoring rule {rule!r}; known: {', '.join(RULES)}")


def check_options(options: Sequence[str], rule: str, where: str = "options") -> None:
    """Refuse options that no rule can tell apart.

    Raises
    ------
    ValueError
        For no option, an empty option, two equal ones, or (rules that do not divide by the length) one that is the
        beginning of another: its score could never be the lower one.
    """
    if not options:
        raise ValueError(f"{where}: at least one option is needed, got none")
    for i, option in enumerate(options):
        if not option.strip():
            raise ValueError(f"{where}: option {i} is empty ({option!r}); an empty completion has no score")
    if len(set(options)) < len(options):
        raise ValueError(f"{where}: the options must differ, got {list(options)}")
    if rule == "sum":
        ordered = sorted(options)
        for short, long in pairwise(ordered):
            if long.startswith(short):
                raise ValueError(
                    f"{where}: {short!r} is the beginning of {long!r}, so its summed log-probability is never lower; "
                    "use rule 'mean' or 'bytes', or end every option with the same mark"
                )


def score_options(
    lm: ScoringModel,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    rule: Rule = "mean",
    answer_context: str | None = None,
    tag: str = "score",
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Score each prompt's options under one rule; entry i has shape (len(options[i]),).

    Parameters
    ----------
    lm : ScoringModel
        A model with log-probabilities.
    prompts, options : sequences of equal length
        ``options[i]`` are continuations of ``prompts[i]``, with the space that joins them.
    rule : {"sum", "mean", "bytes", "unconditional"}, default "mean"
    answer_context : str, optional
        The prompt ``a`` of rule "unconditional", such as ``"Answer:"``.
    tag : str
        Label for the model's accounts.
    progress : callable, optional
        Told the finished share, where the model tells it.
    """
    if rule not in RULES:
        raise ValueError(f"unknown scoring rule {rule!r}; known: {', '.join(RULES)}")
    for i, given in enumerate(options):
        check_options(given, rule, f"options of prompt {i}")
    scores = lm.score(prompts, options, tag=tag, **taken(lm.score, progress=progress))
    if [len(row) for row in scores] != [len(given) for given in options]:
        raise LMError(f"{lm.name!r} returned another number of scores than it was asked for")
    if rule != "unconditional":
        return [np.array([normalize(s, rule) for s in row]) for row in scores]
    if not answer_context:
        raise ValueError("rule 'unconditional' needs a non-empty answer_context, such as 'Answer:'")
    distinct = list(dict.fromkeys(option for row in options for option in row))
    (base,) = lm.score([answer_context], [distinct], tag=tag)
    unconditional = dict(zip(distinct, base))
    return [
        np.array([normalize(s, rule, unconditional[option]) for s, option in zip(row, given)])
        for row, given in zip(scores, options)
    ]


def score_shared_suffix(
    lm: ScoringModel, prefix: str, candidates: Sequence[str], suffix: str, *, tag: str = "score"
) -> np.ndarray:
    """Partial evaluation: log P(suffix | prefix + candidate) for each candidate, shape (len(candidates),).

    For items whose candidates stand in the middle of a sentence (Winograd schemas): only the words that all readings
    share are scored, so that the candidates' own frequency does not count.
    """
    check_options(candidates, "mean", "candidates")
    if not suffix.strip():
        raise ValueError(f"partial evaluation needs words after the candidate, got suffix {suffix!r}")
    scores = lm.score([prefix + c for c in candidates], [[suffix]] * len(candidates), tag=tag)
    return np.array([row[0].logprob for row in scores])


def calibrate(scores: np.ndarray, content_free: np.ndarray) -> np.ndarray:
    """Take the label bias out of rank values: the log-probabilities of the options divided by those without content.

    Parameters
    ----------
    scores : ndarray of shape (n_options,)
        Rank values of the item's options.
    content_free : ndarray of shape (n_inputs, n_options)
        Rank values of the same options after the same prompt with a content-free input ("N/A", "") in the query.

    Returns
    -------
    ndarray of shape (n_options,)
        log-softmax(scores) - log mean_i softmax(content_free_i). An item without content itself gets equal values.

    Notes
    -----
    Contextual calibration (Zhao et al., 2021; arXiv 2102.09690), not part of GPT-3.

    Examples
    --------
    >>> biased = np.log([0.6, 0.4])
    >>> int(calibrate(biased, np.log([[0.8, 0.2]])).argmax())
    1
    """
    bias = np.log(np.exp(log_softmax(content_free, axis=-1)).mean(axis=0))
    return log_softmax(scores) - bias
