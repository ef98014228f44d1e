"""Two small languages whose needed words are known: modifiers that need what follows, and facts between fillers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anytask.core.rng import derive
from anytask.datasets.questions import CompressionItem
from anytask.lm.protocol import Capabilities, ChatReply, ChatRequest, Choice, Kind

#: Kinds of words of :class:`Modifiers`: how many there are, and how often one is drawn.
KINDS = {
    "function": (10, 0.25),  # never needed
    "essential": (8, 0.15),  # always needed
    "plain": (8, 0.15),  # nouns, never needed
    "ambiguous": (8, 0.35),  # needed before a noun or a strong modifier
    "strong": (6, 0.10),  # always needed
}


class Modifiers:
    """Texts over 40 words, of which some matter only by the word that follows them.

    A compressor that reads from left to right cannot know; that is why LLMLingua-2 has an encoder.

    Parameters
    ----------
    seed : int
    length : int, default 48
        Words of a text.
    noise : float, default 0.05
        Share of the training labels that are wrong.

    Examples
    --------
    >>> language = Modifiers(seed=0)
    >>> language.gold("ambiguous0 plain1 ambiguous2 function3 strong0".split())
    (True, False, False, False, True)
    """

    def __init__(self, seed: int, length: int = 48, noise: float = 0.05) -> None:
        self.seed, self.length, self.noise = seed, length, noise
        self._words = [f"{kind}{i}" for kind, (n, _) in KINDS.items() for i in range(n)]
        self._p = np.array([share / n for n, share in KINDS.values() for _ in range(n)])

    def gold(self, words: Sequence[str]) -> tuple[bool, ...]:
        """Return which words are needed."""
        kinds = [word.rstrip("0123456789") for word in words]
        nexts = [*kinds[1:], ""]
        return tuple(
            kind in ("essential", "strong") or (kind == "ambiguous" and after in ("essential", "plain", "strong"))
            for kind, after in zip(kinds, nexts)
        )

    def _draw(self, n: int, part: str) -> tuple[list[list[str]], np.random.Generator]:
        rng = np.random.default_rng(derive(self.seed, "modifiers", part))
        rows = rng.choice(len(self._words), size=(n, self.length), p=self._p)
        return [[self._words[i] for i in row] for row in rows], rng

    def documents(self, n: int, part: str) -> list[str]:
        """Return ``n`` texts; ``part`` names independent sets."""
        return [" ".join(text) for text in self._draw(n, part)[0]]

    def labelled(self, n: int) -> tuple[list[list[str]], list[list[bool]]]:
        """Return the words of the training texts, and noisy labels."""
        texts, rng = self._draw(n, "train")
        flips = rng.random((n, self.length)) < self.noise
        return texts, [[bool(g) != bool(f) for g, f in zip(self.gold(text), flip)] for text, flip in zip(texts, flips)]

    def items(self, n: int) -> list[CompressionItem]:
        """Return test texts and true labels."""
        return [CompressionItem(" ".join(text), self.gold(text)) for text in self._draw(n, "test")[0]]

    def teach(self, compressor: Any, n: int) -> tuple[dict[str, float], dict[str, float]]:
        """Fit a compressor on the labels of ``n`` texts; return nothing to measure, and no cost."""
        compressor.fit(*self.labelled(n))
        return {}, {}


class KeyValue:
    """Documents of facts between filler words; also the chat model that compresses them, and the reader.

    A fact is a key, fillers, and its value. As a chat model it deletes the fillers from the request's text, and for
    a share of the texts it rephrases: fillers survive and the facts are told in words that the text does not have. The
    reader knows which words are keys and which are values, and takes the first value after the key.

    Parameters
    ----------
    seed : int
    rephrased : float, default 0.1
        Share of the texts that the chat model rephrases.

    Examples
    --------
    >>> world = KeyValue(seed=0)
    >>> world.read("key3 is value7 . key4 value1", "key4")
    'value1'
    """

    name = "scripted-compressor"
    kind: Kind = "sim"
    capabilities = Capabilities()
    facts = 6

    _FILLERS = ("the", "a", "of", "and", "so", "to", "in", "that", "it", "was", "on", "for", "as", "with", "at", "by")

    def __init__(self, seed: int, rephrased: float = 0.1) -> None:
        self.seed, self.rephrased, self.calls = seed, rephrased, 0

    def documents(self, n: int, part: str) -> list[str]:
        """Return ``n`` documents; ``part`` names independent sets."""
        rng = np.random.default_rng(derive(self.seed, "key-value", part))
        out = []
        for _ in range(n):
            words: list[str] = []
            for key, value in zip(rng.choice(30, self.facts, replace=False), rng.choice(60, self.facts)):
                a, b, c = (rng.choice(self._FILLERS, size=int(rng.integers(1, 4))).tolist() for _ in range(3))
                words += [*a, f"key{key}", *b, f"value{value}", *c, "."]
            out.append(" ".join(words))
        return out

    def items(self, n: int) -> list[CompressionItem]:
        """Return test documents, each with a key to ask for and its value."""
        rng = np.random.default_rng(derive(self.seed, "questions", "test"))
        out = []
        for text in self.documents(n, "test"):
            keys = [word for word in text.split() if word.startswith("key")]
            key = keys[int(rng.integers(len(keys)))]
            out.append(CompressionItem(text, self.gold(text), key, self.read(text, key)))
        return out

    def teach(self, compressor: Any, n: int) -> tuple[dict[str, float], dict[str, float]]:
        """Let a compressor distil from ``n`` documents; return what came of the rephrased ones, and the cost."""
        texts = self.documents(n, "train")
        compressor.distill(self, texts)
        kept = {compressor.distilled_.chunks[i] for i in compressor.distilled_.kept}
        rephrased = [text for text in texts if self.rephrases(text)]
        share = sum(text in kept for text in rephrased) / max(1, len(rephrased))
        return {"rephrased_kept": share}, {"lm_calls": float(self.calls)}

    def gold(self, text: str) -> tuple[bool, ...]:
        """Return which words are needed: keys and values."""
        return tuple(word.startswith(("key", "value")) for word in text.split())

    def read(self, text: str, question: str) -> str:
        """Return the first value after the asked key, if no other key comes first."""
        words = text.split()
        if question in words:
            for word in words[words.index(question) + 1 :]:
                if word.startswith("value"):
                    return word
                if word.startswith("key"):
                    break
        return "unknown"

    def rephrases(self, text: str) -> bool:
        """Return whether this text is one of those that the chat model rephrases."""
        return derive(self.seed, "rephrase", text.strip()) % 10_000 < 10_000 * self.rephrased

    def chat(self, request: ChatRequest) -> ChatReply:
        """Compress the text after the last "Text:" of the request."""
        self.calls += 1
        text = request.messages[-1]["content"].rpartition("Text:\n")[2]
        words = text.split()
        if self.rephrases(text):
            short = [word if word in self._FILLERS else f"new{word}" for word in words if word != "."]
        else:
            short = [word for word in words if word.startswith(("key", "value"))]
        message = {"role": "assistant", "content": " ".join(short)}
        return ChatReply((Choice(message),), model=self.name, kind=self.kind)

    def chat_many(self, requests: Sequence[ChatRequest], max_concurrency: int = 8) -> list[ChatReply]:
        """Answer many requests in their order."""
        return [self.chat(request) for request in requests]
