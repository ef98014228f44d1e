"""What a simulated skill is: parse the rendered text, solve it, and spread the reply over right and wrong ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from anytask.core.settings import Settings, real


def _share(default: float, help: str) -> Any:
    return real(default, f"share: {help}", at_least=0, at_most=1)


Outcomes = list[tuple[float, str]]  # probability and reply text; the probabilities sum to 1


class Ability(Settings):
    """The published error model of a level: logits of being right, and shares of replies."""

    shift: float = real(0.0, "added to every logit of being right: -1 weak, 0 medium, +1 strong")
    direct: float = real(1.2, "a direct reply to n operations: logistic(direct - direct_step (n - 1) - distractor d)")
    direct_step: float = real(0.9, "what each further operation costs a direct reply")
    stepwise: float = real(2.6, "step i of a stepwise reply: logistic(stepwise - stepwise_step (i - 1) - distractor d)")
    stepwise_step: float = real(0.25, "what each further step costs a stepwise reply")
    distractor: float = real(0.3, "what d, a quarter of the number of irrelevant sentences, costs")
    common: float = _share(0.4, "wrong replies that make one common mistake; the rest spreads over 8 values")
    check_finds: float = _share(0.7, "wrong answers that a self-check finds")
    check_alarms: float = _share(0.1, "right answers that a self-check rejects")
    tool: float = _share(0.985, "tool calls written correctly")
    judge_noise: float = _share(0.15, "verdicts of a judge that flip")
    judge_bias: float = _share(0.1, "by how much a judge approves more often")
    known: float = _share(0.35, "the knowledge base that is remembered")
    read: float = real(0.98, "a fact in the prompt is read with read exp(-read_decay surplus facts)", above=0, below=1)
    read_decay: float = real(0.03, "what each surplus fact costs", at_least=0)
    unsure: float = _share(0.25, "unknown facts that are admitted; the others become a wrong value of the same type")
    p_rephrase: float = _share(0.1, "texts that are rephrased where only removing words was asked for")
    label: float = real(1.0, "a label: logistic(label + example_gain ln(1 + k) - example_harm w)")
    example_gain: float = real(0.4, "what k similar solved examples help")
    example_harm: float = real(0.6, "what each of w wrong examples harms")


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
