"""What a simulated skill is: parse the rendered text, solve it, and spread the reply over right and wrong ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Outcomes = list[tuple[float, str]]  # probability and reply text; the probabilities sum to 1


@dataclass(frozen=True)
class Ability:
    """The published error model of a level.

    Attributes
    ----------
    shift : float
        Added to every logit of being right: -1 weak, 0 medium, +1 strong.
    direct, direct_step : float
        A direct reply to n operations is right with logistic(direct - direct_step (n - 1) - distractor d).
    stepwise, stepwise_step : float
        Step i of a stepwise reply is right with logistic(stepwise - stepwise_step (i - 1) - distractor d).
    distractor : float
        d is a quarter of the number of irrelevant sentences.
    common : float
        Share of wrong replies that make one common mistake; the rest spreads over 8 values.
    check_finds, check_alarms : float
        Self-check: chance to find a wrong answer, and to reject a right one.
    tool : float
        Chance to write a tool call correctly.
    judge_noise, judge_bias : float
        A judge's verdict flips with the first, and approves more often by the second.
    known : float
        Share of the knowledge base that is remembered.
    read, read_decay : float
        A fact in the prompt is read with read * exp(-read_decay * surplus facts).
    unsure : float
        Share of unknown facts that are admitted; the others become a wrong value of the same type.
    p_rephrase : float
        Share of texts that are rephrased where only removing words was asked for.
    label, example_gain, example_harm : float
        A label is right with logistic(label + example_gain ln(1 + k) - example_harm w): k similar solved examples, w
        wrong ones.
    """

    shift: float = 0.0
    direct: float = 1.2
    direct_step: float = 0.9
    stepwise: float = 2.6
    stepwise_step: float = 0.25
    distractor: float = 0.3
    common: float = 0.4
    check_finds: float = 0.7
    check_alarms: float = 0.1
    tool: float = 0.985
    judge_noise: float = 0.15
    judge_bias: float = 0.1
    known: float = 0.35
    read: float = 0.98
    read_decay: float = 0.03
    unsure: float = 0.25
    p_rephrase: float = 0.1
    label: float = 1.0
    example_gain: float = 0.4
    example_harm: float = 0.6


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def uniform(*path: Any) -> float:
    """A number in [0, 1) from a digest of ``path``."""
    text = "\x1f".join(map(str, path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def spread(p: float, right: str, common: str, rest: Sequence[str], share: float) -> Outcomes:
    """``right`` with ``p``; of the wrong mass, ``share`` on ``common`` and the rest evenly over ``rest``."""
    wrong = 1 - p
    if not rest:
        return [(p, right), (wrong, common)]
    return [(p, right), (wrong * share, common), *((wrong * (1 - share) / len(rest), text) for text in rest)]
