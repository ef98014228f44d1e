"""A model whose answers follow from what a prompt shows, and vectors without a network: searches in milliseconds."""

import hashlib

import numpy as np

from anytask.lm.accounts import Accounts
from anytask.lm.base import LanguageModel
from anytask.lm.protocol import Capabilities, OptionScore
from anytask.lm.word_tokens import WordTokens

LABELS = ("cold", "warm")


def uniform(*parts):
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


class Scripted(LanguageModel):
    """Right with a margin that ``worth(shown, described)`` says, less noise that depends on the query."""

    kind, name, context_length = "sim", "scripted", 10_000

    def __init__(self, worth, fails_after=None):
        self.worth, self.codec, self.usage, self.left = worth, WordTokens(), Accounts(), fails_after

    @property
    def capabilities(self):
        return Capabilities(logprobs=True, completions=True)

    def _score(self, asked, tag, tell):
        if self.left is not None:
            self.left -= len(asked)
            if self.left < 0:
                raise KeyboardInterrupt
        self.usage.record(tag, calls=len(asked), prompt_tokens=sum(map(self.count_tokens, asked)))
        return [self._one(prompt, row) for prompt, row in asked.items()]

    def _one(self, prompt, row):
        query = prompt.split("Input:")[-1]
        margin = self.worth(prompt.count("\nLabel: "), "Classify" in prompt) - 2 * uniform(prompt, query)
        right = "warm" if "sun" in query else "cold"
        logprobs = {option: -4.0 if option.strip() == right else -4.0 - margin for option in row}
        return {option: OptionScore(value, 1, len(option), (value,)) for option, value in logprobs.items()}


class Vectors:
    """Sentence vectors out of digests."""

    def embed(self, texts):
        return np.array([np.random.default_rng(int(2**40 * uniform(text))).normal(size=8) for text in texts])


def pile(n=40):
    texts = [f"day {i} of {'sun' if i % 2 else 'snow'}" for i in range(n)]
    return texts, ["warm" if i % 2 else "cold" for i in range(n)]
