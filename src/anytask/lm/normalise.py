"""Four ways to compare log-probabilities of options that differ in length and in how usual they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anytask.lm.protocol import OptionScore, ScoringModel

Normalisation = Literal["sum", "mean", "bytes", "unconditional"]
NORMALISATIONS: tuple[Normalisation, ...] = ("sum", "mean", "bytes", "unconditional")


def normalise(
    scores: Sequence[OptionScore],
    how: Normalisation = "mean",
    unconditional: Sequence[OptionScore] | None = None,
) -> NDArray[np.float64]:
    """Turn the scores of one prompt's options into comparable numbers; the largest is the answer.

    Parameters
    ----------
    scores : sequence of OptionScore
    how : {"sum", "mean", "bytes", "unconditional"}, default "mean"
        "sum": the log-probability; favours short options. "mean": per token. "bytes": per UTF-8 byte, so that it does
        not depend on the tokenizer. "unconditional": minus the log-probability of the same option after an answer
        context alone (such as ``"Answer:"``), which takes out how usual the option is.
    unconditional : sequence of OptionScore, optional
        For "unconditional": the options' scores after the answer context.

    Returns
    -------
    ndarray (n_options,)

    Examples
    --------
    >>> a, b = OptionScore(-1.0, 1, 3, (-1.0,)), OptionScore(-1.2, 2, 3, (-0.6, -0.6))
    >>> plain = [OptionScore(-1.2, 1, 3), OptionScore(-3.0, 2, 3)]
    >>> ["AB"[int(normalise([a, b], how, plain).argmax())] for how in ("sum", "mean", "unconditional")]
    ['A', 'B', 'B']

    References
    ----------
    Brown et al. (2020), Language models are few-shot learners, arXiv:2005.14165, section 2.4.
    """
    if how == "sum":
        return np.array([s.logprob for s in scores])
    if how == "mean":
        return np.array([s.logprob / s.n_tokens for s in scores])
    if how == "bytes":
        return np.array([s.logprob / s.n_bytes for s in scores])
    if how == "unconditional":
        if unconditional is None or len(unconditional) != len(scores):
            given = "none were" if unconditional is None else f"{len(unconditional)} were"
            raise ValueError(f"{len(scores)} options need {len(scores)} unconditional scores, and {given} given")
        return np.array([s.logprob - u.logprob for s, u in zip(scores, unconditional)])
    raise ValueError(f"how is one of {', '.join(NORMALISATIONS)}, and {how!r} was given")


def choose(
    lm: ScoringModel,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    how: Normalisation = "mean",
    answer_context: str = "Answer:",
    tag: str = "choose",
) -> list[int]:
    """Index of the best option of every prompt under a normalisation.

    Parameters
    ----------
    lm : ScoringModel
    prompts, options
        As :meth:`ScoringModel.score` takes them.
    how : str, default "mean"
        See :func:`normalise`.
    answer_context : str, default "Answer:"
        What options follow in the unconditional scores; each distinct option is scored once.
    tag : str, default "choose"
    """
    rows = lm.score(prompts, options, tag=tag)
    if how != "unconditional":
        return [int(normalise(row, how).argmax()) for row in rows]
    distinct = list(dict.fromkeys(option for row in options for option in row))
    plain = dict(zip(distinct, lm.score([answer_context], [distinct], tag=tag)[0])) if distinct else {}
    return [int(normalise(r, how, [plain[o] for o in names]).argmax()) for r, names in zip(rows, options)]
