"""A scripted model whose answers depend on the words of the prompt in a known way, with pairs that must go together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anytask.lm.protocol import Capabilities, Kind, OptionScore
from anytask.lm.word_tokens import WordTokens

#: Words of the prompt, without its placeholder.
LENGTH = 48

_PAIRS, _HELPFUL, _HARMFUL = 5, 8, 10
_LABELS = (" A", " B")


class ScriptedPromptLM(WordTokens):
    """A simulated model that answers better or worse depending on which of 48 words its prompt holds.

    The quality of a prompt that keeps the words m is

        q(m) = -0.9 + sum_i w_i m_i - 0.35 #{pairs with exactly one word kept} + 0.25 #{pairs with no word kept}

    with 5 pairs, 8 helpful words (w = 0.25), 10 harmful ones (w = -0.12), and w ~ N(0, 0.06) for all others. An item
    "item <margin> <class>" is answered rightly iff margin + q > 0. A deletion of one word cannot leave a pair without
    loss; a deletion of two can.

    Parameters
    ----------
    seed : int, default 0
        Draws the words' roles, the weights and the items.

    Attributes
    ----------
    prompt : str
        The full prompt: 48 words, then ``{text}``.
    calls : int
        Items answered.

    Examples
    --------
    >>> lm = ScriptedPromptLM(seed=0)
    >>> float(round(lm.quality(lm.prompt) - (lm.weights.sum() - 0.9), 9))
    0.0
    """

    kind: Kind = "sim"
    capabilities = Capabilities(chat=False, logprobs=True, completions=True)
    context_length = 4096

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed, self.name, self.usage, self.calls = seed, f"scripted-prompt-{seed}", None, 0
        rng = np.random.default_rng(seed)
        order = rng.permutation(LENGTH)
        self.weights = rng.normal(0, 0.06, LENGTH)
        self.pairs = order[: 2 * _PAIRS].reshape(_PAIRS, 2)
        self.weights[order[2 * _PAIRS : 2 * _PAIRS + _HELPFUL]] = 0.25
        self.weights[order[2 * _PAIRS + _HELPFUL : 2 * _PAIRS + _HELPFUL + _HARMFUL]] = -0.12
        self.prompt = " ".join([*(f"w{i:02d}" for i in range(LENGTH)), "{text}"])
        self._known: dict[str, float] = {}

    def quality(self, prompt: str) -> float:
        """Return q of the words in a prompt."""
        if prompt not in self._known:
            m = np.zeros(LENGTH, dtype=bool)
            m[[int(word[1:]) for word in prompt.split() if word[0] == "w" and word[1:].isdigit()]] = True
            kept = m[self.pairs].sum(axis=1)
            q = -0.9 + self.weights[m].sum() - 0.35 * (kept == 1).sum() + 0.25 * (kept == 0).sum()
            self._known[prompt] = float(q)
        return self._known[prompt]

    def score(
        self, prompts: Sequence[str], options: Sequence[Sequence[str]], *, tag: str = "score"
    ) -> list[list[OptionScore]]:
        """Return log sigmoid(+-(margin + q)) for the right and the wrong class of each prompt's item."""
        out = []
        for prompt, row in zip(prompts, options, strict=True):
            instruction, _, item = prompt.partition("item ")
            margin, answer = item.split()
            z = float(margin) + self.quality(instruction)
            out.append([OptionScore(-math.log1p(math.exp(-z if o == f" {answer}" else z)), 1, len(o)) for o in row])
        self.calls += len(out)
        return out

    def generate(self, prompts: Sequence[str], **_: Any) -> list[str]:
        """Return the likelier class of each prompt's item."""
        rows = self.score(prompts, [_LABELS] * len(prompts))
        return [_LABELS[int(row[1].logprob > row[0].logprob)] for row in rows]

    def examples(self, n: int, part: str) -> list[Mapping[str, Any]]:
        """Draw ``n`` items with margins N(0, 1); ``part`` names independent sets ("search", "validation", "test")."""
        parts = ("search", "validation", "test")
        if part not in parts:
            raise ValueError(f"part must be one of {parts}, got {part!r}")
        rng = np.random.default_rng([self.seed, parts.index(part) + 1])
        margins, labels = rng.normal(size=n), rng.integers(2, size=n)
        return [{"text": f"item {m:.9f} {'AB'[y]}", "label": int(y)} for m, y in zip(margins, labels)]

    def accuracy(self, prompt: str, examples: Sequence[Mapping[str, Any]]) -> float:
        """Return the share of the items that this prompt gets right."""
        q = self.quality(prompt)
        return float(np.mean([float(example["text"].split()[1]) + q > 0 for example in examples]))
