"""A seeded miniature language: the training corpus of the tiny models, and data for problems and tests.

:class:`AttributeLanguage` writes short English-like sentences of which every one carries four latent attributes (topic,
sentiment, tense, place), so that one sentence answers several classification tasks, and documents that hold such tasks
as worked examples. A third of its sentences (by hash) is *held out*: no training document ever contains them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {
    "topic": {
        "sport": ("match", "player", "coach", "goal", "race"),
        "food": ("soup", "bread", "cook", "dinner", "cake"),
        "music": ("song", "singer", "drum", "band", "piano"),
        "weather": ("storm", "rain", "wind", "snow", "fog"),
    },
    "sentiment": {
        "positive": ("good", "lovely", "great", "superb", "nice", "splendid"),
        "negative": ("bad", "awful", "poor", "dreadful", "nasty", "terrible"),
    },
    "tense": {
        "past": ("yesterday", "earlier", "once", "formerly", "previously", "before"),
        "future": ("tomorrow", "soon", "later", "eventually", "shortly", "afterwards"),
    },
    "place": {
        "home": ("kitchen", "bedroom", "garage", "attic"),
        "city": ("street", "market", "station", "museum"),
        "nature": ("forest", "river", "mountain", "meadow"),
    },
}
"""Attribute -> value (also its natural label) -> the words that express it."""

INSTRUCTIONS: dict[str, str] = {name: f"Classify the {name} of the input." for name in ATTRIBUTES}
"""Attribute -> the instruction that names it."""

LABEL_WORDS: tuple[str, ...] = (
    "red", "blue", "green", "gold", "pink", "gray", "alpha", "beta", "gamma", "delta", "omega", "sigma",
    "cat", "dog", "fox", "owl", "bee", "elk", "yes", "no", "left", "right", "up", "down",
)  # fmt: skip
"""Label words without a meaning of their own; a task that uses them can only be solved from its examples."""

CODES: dict[str, tuple[str, ...]] = {
    "topic": ("red", "blue", "green", "gold"),
    "sentiment": ("yes", "no"),
    "tense": ("left", "right"),
    "place": ("alpha", "beta", "gamma"),
}
"""Attribute -> the words of its coded tasks. Code ``shift`` gives value i the word i + shift (cyclically), so that the
words tell the attribute and only the pairs of input and label tell the code."""

TEMPLATES: tuple[str, ...] = (
    "{tense} a {sentiment} {topic} in the {place}",
    "the {topic} in the {place} {tense} {verb} {sentiment}",
    "{topic} {tense} {place} {sentiment}",
    "the {sentiment} {topic} {verb} near the {place} {tense}",
    "{sentiment} {topic} near {place} {tense}",
    "{tense} {place} {topic} {verb} {sentiment}",
)
"""Sentence templates seen in training."""

HELD_OUT_TEMPLATES: tuple[str, ...] = (
    "{tense} in the {place} the {topic} {verb} {sentiment}",
    "a {sentiment} {topic} {tense} near the {place}",
)
"""Sentence templates no training document uses."""

VERBS: tuple[str, ...] = ("seems", "looks", "is", "feels")
_FUNCTION_WORDS = ("a", "the", "in", "near", "of", "input")


Labeling = Literal["natural", "coded", "random"]
"""Labels are the values' own names, words of a code of :data:`CODES`, or words drawn anew for every document."""


@dataclass(frozen=True)
class Sentence:
    """A sentence and the value of each of its attributes."""

    text: str
    attributes: dict[str, str]
    words: dict[str, str]  # attribute -> the word that expresses it


@dataclass(frozen=True)
class Document:
    """A task written down as worked examples; ``clean[i]`` says that example i shows its right label."""

    text: str
    attribute: str
    labeling: Labeling
    labels: dict[str, str]  # attribute value -> label word
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    clean: tuple[bool, ...]


def vocabulary() -> list[str]:
    """Every word and mark of the attribute language, in a fixed order.

    Examples
    --------
    >>> words = vocabulary()
    >>> len(words) == len(set(words)), "forest" in words, "sport" in words
    (True, True, True)
    """
    words = ["\n", "\n\n", ":", ".", ",", "Input", "Label", "Classify", *_FUNCTION_WORDS, *VERBS, *ATTRIBUTES]
    for values in ATTRIBUTES.values():
        words += [*values, *(word for group in values.values() for word in group)]
    return list(dict.fromkeys([*words, *LABEL_WORDS]))


def is_held_out(text: str) -> bool:
    """Whether a sentence belongs to the third that training never shows (decided by a hash of its text)."""
    return hashlib.sha256(text.encode()).digest()[0] % 3 == 0


@dataclass
class AttributeLanguage:
    """Sentences with four attributes each, and documents of worked examples about one of them.

    Parameters
    ----------
    seed : int, default 0
        Start of the generator's random numbers.
    noise : float in [0, 1), default 0.15
        Share of wrong labels in those documents that have any: with natural labels the right answer to a question about
        another attribute, else another label of the task.
    p_noisy, p_natural, p_coded, p_instruction : float in [0, 1], defaults 0.3, 0.5, 0.4, 0.5
        Probability that a document has wrong labels, uses the natural label words, those of a code (else random ones),
        and starts with the instruction that names its attribute.

    Examples
    --------
    >>> language = AttributeLanguage(seed=0)
    >>> sentence = language.sentence(topic="music", held_out=True)
    >>> sentence.attributes["topic"], is_held_out(sentence.text)
    ('music', True)
    >>> document = language.document(examples=2)
    >>> document.text.count("Input:"), document.text.count("Label:")
    (2, 2)
    """

    seed: int = 0
    noise: float = 0.15
    p_noisy: float = 0.3
    p_natural: float = 0.5
    p_coded: float = 0.4
    p_instruction: float = 0.5
    _rng: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def _pick(self, items: Sequence[str]) -> str:
        return items[int(self._rng.random() * len(items))]

    def sentence(self, *, held_out: bool | None = False, new_template: bool = False, **fixed: str) -> Sentence:
        """Draw a sentence.

        Parameters
        ----------
        held_out : bool or None, default False
            Draw from the training two thirds (False), the held-out third (True) or both (None).
        new_template : bool, default False
            Use the templates that training never shows.
        **fixed : str
            Attribute = value pairs to hold fixed, such as ``topic="food"``.
        """
        for name, value in fixed.items():
            if value not in ATTRIBUTES.get(name, {}):
                known = {a: tuple(v) for a, v in ATTRIBUTES.items()}
                raise ValueError(f"unknown attribute {name}={value!r}; known: {known}")
        while True:
            values = {name: fixed.get(name) or self._pick(tuple(ATTRIBUTES[name])) for name in ATTRIBUTES}
            words = {name: self._pick(ATTRIBUTES[name][value]) for name, value in values.items()}
            sentence = self._write(values, words, HELD_OUT_TEMPLATES if new_template else TEMPLATES)
            if held_out is None or is_held_out(sentence.text) == held_out:
                return sentence

    def rephrase(self, sentence: Sentence, *, held_out: bool | None = False) -> Sentence:
        """Say the same again: the same attribute words in a template drawn anew (a fresh sentence if none fits)."""
        for _ in range(10):
            again = self._write(sentence.attributes, sentence.words, TEMPLATES)
            if held_out is None or is_held_out(again.text) == held_out:
                return again
        fixed: dict[str, Any] = dict(sentence.attributes)
        return self.sentence(held_out=held_out, **fixed)

    def _write(self, values: dict[str, str], words: dict[str, str], templates: Sequence[str]) -> Sentence:
        return Sentence(self._pick(templates).format(verb=self._pick(VERBS), **words), values, words)

    def labels(self, attribute: str, labeling: Labeling) -> dict[str, str]:
        """Return a label word for each value of ``attribute``: its own name, a code's word, or a random word."""
        values = tuple(ATTRIBUTES[attribute])
        if labeling == "natural":
            return {value: value for value in values}
        if labeling == "coded":
            shift = int(self._rng.integers(len(values)))
            return {value: CODES[attribute][(i + shift) % len(values)] for i, value in enumerate(values)}
        words = self._rng.choice(len(LABEL_WORDS), size=len(values), replace=False)
        return {value: LABEL_WORDS[int(i)] for value, i in zip(values, words)}

    def fragment(self, attribute: str, n_attributes: int) -> Sentence:
        """Draw bare words that express ``n_attributes`` attributes, ``attribute`` among them, in any order."""
        others = [name for name in ATTRIBUTES if name != attribute]
        names = [attribute, *(others[int(i)] for i in self._rng.permutation(len(others))[: n_attributes - 1])]
        values = {name: self._pick(tuple(ATTRIBUTES[name])) for name in names}
        words = {name: self._pick(ATTRIBUTES[name][value]) for name, value in values.items()}
        return Sentence(" ".join(words[names[int(i)]] for i in self._rng.permutation(len(names))), values, words)

    def document(
        self, examples: int, *, held_out: bool | None = False, related: float = 0.0, n_attributes: int | None = None
    ) -> Document:
        """Write one task as ``examples`` worked examples in the format ``Input: ...\\nLabel: ...``.

        Parameters
        ----------
        examples : int
        held_out : bool or None, default False
            Which sentences to draw from; see :meth:`sentence`.
        related : float in [0, 1], default 0
            Probability that an example rephrases an earlier one, as documents on one subject do.
        n_attributes : int, optional
            Write fragments of so many attribute words (one to four) in place of sentences.
        """
        attribute = self._pick(tuple(ATTRIBUTES))
        draw = self._rng.random() - self.p_natural
        labeling: Labeling = "natural" if draw < 0 else "coded" if draw < self.p_coded else "random"
        labels = self.labels(attribute, labeling)
        noise = self.noise if self._rng.random() < self.p_noisy else 0.0
        inputs, outputs, clean = [], [], []
        seen: list[Sentence] = []
        for _ in range(examples):
            again = bool(seen) and self._rng.random() < related
            earlier = seen[int(self._rng.random() * len(seen))] if again else None
            if n_attributes is not None:
                s = earlier or self.fragment(attribute, n_attributes)
            elif earlier is not None:
                s = self.rephrase(earlier, held_out=held_out)
            else:
                s = self.sentence(held_out=held_out)
            seen.append(s)
            right = labels[s.attributes[attribute]]
            wrong = self._rng.random() < noise
            shown = right
            if wrong and labeling == "natural":  # the answer to another question about the same sentence
                shown = self._pick([v for name, v in s.attributes.items() if name != attribute] or [right])
            elif wrong:
                shown = self._pick([w for w in labels.values() if w != right])
            inputs.append(s.text)
            outputs.append(shown)
            clean.append(shown == right)
        text = "\n\n".join(f"Input: {x}\nLabel: {y}" for x, y in zip(inputs, outputs))
        if self._rng.random() < self.p_instruction:
            text = f"{INSTRUCTIONS[attribute]}\n\n{text}"
        return Document(text, attribute, labeling, labels, tuple(inputs), tuple(outputs), tuple(clean))
