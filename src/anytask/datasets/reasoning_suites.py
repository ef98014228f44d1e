"""Reasoning suites made on the fly: arithmetic, scrambled words, novel words and four-way analogies.

Every generator is seeded and makes as many items as asked for, so that none of them can have stood in a training
corpus. Items are question and answer texts; analogies also carry their options.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anytask.core.rng import derive
from anytask.lm.prompting import PromptTemplate

QA_TEMPLATE = PromptTemplate("Q: {input}\nA: {output}", separator="\n\n")
"""The suites' question form."""


@dataclass(frozen=True)
class Item:
    """A question, its one right answer, and the options where it is a choice."""

    input: str
    output: str
    options: tuple[str, ...] = ()


OPERATIONS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "+": ("plus", lambda a, b: a + b),
    "-": ("minus", lambda a, b: a - b),
    "*": ("times", lambda a, b: a * b),
}

ARITHMETIC = ("2D+", "2D-", "3D+", "3D-", "4D+", "4D-", "5D+", "5D-", "2Dx", "1DC")
"""Addition and subtraction of 2 to 5 digits, two-digit multiplication, one-digit composites."""


def arithmetic(task: str, n: int, *, seed: int = 0) -> list[Item]:
    """Make ``n`` arithmetic questions.

    Parameters
    ----------
    task : str
        One of :data:`ARITHMETIC`. Operands of dD tasks are uniform in [0, 10^d), and a difference may be negative;
        "1DC" is ``a op (b op c)`` on single digits with op in ``+``, ``-``, ``*``.
    n : int
    seed : int, default 0

    Examples
    --------
    >>> print(arithmetic("2D+", 1)[0].input)
    What is 92 plus 35?
    >>> item = arithmetic("1DC", 1, seed=1)[0]
    >>> print(item.input, item.output)
    What is 1*(8*9)? 72
    """
    if task not in ARITHMETIC:
        raise ValueError(f"unknown arithmetic task {task!r}; known: {', '.join(ARITHMETIC)}")
    rng = np.random.default_rng(derive(seed, "arithmetic", task))
    items = []
    for _ in range(n):
        if task == "1DC":
            a, b, c = (int(v) for v in rng.integers(10, size=3))
            outer, inner = (list(OPERATIONS)[int(v)] for v in rng.integers(3, size=2))
            answer = OPERATIONS[outer][1](a, OPERATIONS[inner][1](b, c))
            items.append(Item(f"What is {a}{outer}({b}{inner}{c})?", str(answer)))
        else:
            a, b = (int(v) for v in rng.integers(10 ** int(task[0]), size=2))
            word, compute = OPERATIONS[{"+": "+", "-": "-", "x": "*"}[task[2]]]
            items.append(Item(f"What is {a} {word} {b}?", str(compute(a, b))))
    return items


SCRAMBLES = ("CL", "A1", "A2", "RI", "RW")
"""Cycled letters; anagrams that keep the first and last letter, or two of each; random insertion; reversed words."""


def scramble(word: str, kind: str, *, seed: int = 0) -> str:
    """Scramble one word.

    Examples
    --------
    >>> scramble("inevitably", "RW"), sorted(scramble("inevitably", "CL")) == sorted("inevitably")
    ('ylbativeni', True)
    >>> scramble("opponent", "A2")[:2], scramble("opponent", "A2")[-2:]
    ('op', 'nt')
    """
    if kind not in SCRAMBLES:
        raise ValueError(f"unknown scramble {kind!r}; known: {', '.join(SCRAMBLES)}")
    keep = {"A1": 1, "A2": 2}.get(kind, 0)
    if len(word) < max(2, 2 * keep + 2):
        raise ValueError(f"{kind} needs a word of at least {max(2, 2 * keep + 2)} letters, got {word!r}")
    rng = np.random.default_rng(derive(seed, kind, word))
    if kind == "RW":
        return word[::-1]
    if kind == "CL":
        shift = int(rng.integers(1, len(word)))
        return word[shift:] + word[:shift]
    if kind == "RI":
        marks = string.punctuation + " "
        return word[0] + "".join(marks[int(rng.integers(len(marks)))] + letter for letter in word[1:])
    middle = list(word[keep : len(word) - keep])
    if len(set(middle)) > 1:  # else every order reads the same
        shuffled = middle
        while shuffled == middle:
            shuffled = [middle[i] for i in rng.permutation(len(middle))]
        middle = shuffled
    return word[:keep] + "".join(middle) + word[len(word) - keep :]


def unscrambling(kind: str, words: Sequence[str], *, seed: int = 0) -> list[Item]:
    """Make one unscrambling question per word that is long enough for ``kind``.

    Examples
    --------
    >>> print(unscrambling("RW", ["stand"])[0].input)
    Please unscramble the letters into a word, and write that word: dnats
    """
    least = 6 if kind == "A2" else 4 if kind == "A1" else 2
    return [
        Item(f"Please unscramble the letters into a word, and write that word: {scramble(w, kind, seed=seed)}", w)
        for w in words
        if len(w) >= least
    ]


_ONSETS = ("b", "d", "f", "g", "gl", "h", "j", "k", "l", "m", "n", "pl", "r", "s", "t", "tr", "w", "y", "z")
_VOWELS = ("a", "e", "i", "o", "u", "ee", "oo")
_KINDS = (
    ("a small animal with {0} fur that lives in the {1}", "We saw a {word} with {0} fur in the {1}."),
    ("a tool for cutting {0} things in the {1}", "He took the {word} to cut something {0} in the {1}."),
    ("a {0} dish that people eat in the {1}", "For lunch they ate a {0} {word} in the {1}."),
    ("a game with {0} balls that is played in the {1}", "The children played {word} with {0} balls in the {1}."),
)
_QUALITIES = ("red", "soft", "long", "heavy", "green", "bright", "cold", "round")
_PLACES = ("forest", "kitchen", "garden", "village", "desert", "harbour", "school", "mountains")


def invented_word(rng: np.random.Generator) -> str:
    """Invent a pronounceable word of two or three syllables."""
    syllables = (
        _ONSETS[int(rng.integers(len(_ONSETS)))] + _VOWELS[int(rng.integers(len(_VOWELS)))]
        for _ in range(int(rng.integers(2, 4)))
    )
    return "".join(syllables) + ("", "n", "p", "x")[int(rng.integers(4))]


def novel_words(n: int, *, seed: int = 0) -> list[Item]:
    """Make ``n`` definitions of invented words, each with a sentence that uses its word.

    The given sentence is one right answer of many: judge others by :func:`uses_word` or by readers.

    Examples
    --------
    >>> item = novel_words(1)[0]
    >>> word = item.input.split('"')[1]
    >>> uses_word(item.output, word)
    True
    """
    rng = np.random.default_rng(derive(seed, "novel words"))
    items = []
    for _ in range(n):
        word = invented_word(rng)
        meaning, use = _KINDS[int(rng.integers(len(_KINDS)))]
        quality, place = _QUALITIES[int(rng.integers(8))], _PLACES[int(rng.integers(8))]
        question = f'A "{word}" is {meaning.format(quality, place)}. An example of a sentence that uses the word is:'
        items.append(Item(question, use.format(quality, place, word=word)))
    return items


def uses_word(sentence: str, word: str) -> bool:
    """Whether ``word`` (or its plural) occurs as a word of ``sentence``."""
    words = {w.strip(string.punctuation).lower() for w in sentence.split()}
    return word.lower() in words or f"{word.lower()}s" in words


RELATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "opposite": (("hot", "cold"), ("up", "down"), ("early", "late"), ("rich", "poor"), ("loud", "quiet")),
    "part of": (("finger", "hand"), ("page", "book"), ("wheel", "car"), ("petal", "flower"), ("key", "keyboard")),
    "young of": (("puppy", "dog"), ("kitten", "cat"), ("calf", "cow"), ("lamb", "sheep"), ("foal", "horse")),
    "place of work": (("teacher", "school"), ("chef", "kitchen"), ("nurse", "hospital"), ("judge", "court")),
    "used for": (("pen", "write"), ("knife", "cut"), ("oven", "bake"), ("broom", "sweep"), ("shovel", "dig")),
    "stronger": (("warm", "hot"), ("big", "huge"), ("bad", "awful"), ("damp", "wet"), ("like", "love")),
}
"""Relation -> word pairs that stand in it; a user's own go to :func:`analogies`."""


def analogies(n: int, *, relations: dict[str, tuple[tuple[str, str], ...]] | None = None, seed: int = 0) -> list[Item]:
    """Make ``n`` analogies "a is to b as" with four options, one of the same relation.

    Examples
    --------
    >>> item = analogies(1)[0]
    >>> len(item.options), item.output in item.options
    (4, True)
    """
    relations = RELATIONS if relations is None else relations
    if len(relations) < 4 or any(len(pairs) < 2 for pairs in relations.values()):
        raise ValueError("four-way analogies need at least four relations of at least two pairs each")
    rng = np.random.default_rng(derive(seed, "analogies"))
    names = list(relations)
    items = []
    for _ in range(n):
        right, *wrong = (names[int(i)] for i in rng.choice(len(names), size=4, replace=False))
        i, j = rng.choice(len(relations[right]), size=2, replace=False)
        a, b = relations[right][int(i)]
        pairs = [relations[right][int(j)]] + [relations[w][int(rng.integers(len(relations[w])))] for w in wrong]
        texts = [f"{x} is to {y}" for x, y in pairs]
        options = tuple(texts[int(i)] for i in rng.permutation(4))
        items.append(Item(f"{a} is to {b} as", texts[0], options))
    return items
