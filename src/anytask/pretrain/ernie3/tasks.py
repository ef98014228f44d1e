"""What ERNIE 3.0 learns from a corpus: masked units, orders and distances of sentences, facts, whole documents."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, permutations
from typing import Any, NamedTuple

import numpy as np

from anytask.datasets.corpora import TextCorpus
from anytask.pretrain.ernie3.words import IGNORED, Words

#: The five tasks; documents are what the branch learns that generates.
TASKS = ("knowledge-masking", "documents", "reordering", "distance", "facts")
_ENDS = re.compile(r"(?<=[.!?])\s+|\n+")


class Sentence(NamedTuple):
    """Tokens, and units of several tokens among them as (start, end)."""

    ids: tuple[int, ...]
    units: tuple[tuple[int, int], ...] = ()


class Fact(NamedTuple):
    """A triple as tokens, and a sentence that holds its head and its tail."""

    head: tuple[int, ...]
    relation: tuple[int, ...]
    tail: tuple[int, ...]
    sentence: Sentence


class Batch(NamedTuple):
    """Rows of tokens, and what is to be predicted: a token or :data:`IGNORED` at each place, or a class of each row."""

    rows: list[list[int]]
    targets: list[Any]


def orders(most: int) -> list[tuple[int, ...]]:
    """Return the permutations of 1, ..., ``most`` segments; the class of one is its place in this list.

    Examples
    --------
    >>> len(orders(3)), orders(3)[:4]
    (9, [(0,), (0, 1), (1, 0), (0, 1, 2)])
    """
    return [order for n in range(1, most + 1) for order in permutations(range(n))]


def joined(sentences: Sequence[Sentence]) -> Sentence:
    """Return several sentences as one.

    Examples
    --------
    >>> joined([Sentence((5, 6), ((0, 2),)), Sentence((7, 8), ((0, 1),))])
    Sentence(ids=(5, 6, 7, 8), units=((0, 2), (2, 3)))
    """
    ids: list[int] = []
    units: list[tuple[int, int]] = []
    for sentence in sentences:
        units += [(a + len(ids), b + len(ids)) for a, b in sentence.units]
        ids += sentence.ids
    return Sentence(tuple(ids), tuple(units))


def cut(sentence: Sentence, length: int) -> Sentence:
    """Return the beginning of a sentence, with the units that are whole in it."""
    return Sentence(sentence.ids[:length], tuple(unit for unit in sentence.units if unit[1] <= length))


def masked(
    sentence: Sentence, rate: float, mask: int, others: Sequence[int], rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Return tokens of which whole units are masked (80 %), replaced (10 %) or kept (10 %), and what they were.

    Units are drawn until they hold a share ``rate`` of the tokens; a token that no unit holds is one of its own.

    Examples
    --------
    >>> masked(Sentence((5, 6, 7), ((0, 2),)), 0.6, 0, [9], np.random.default_rng(0))
    ([0, 0, 7], [5, 6, -100])
    """
    ids, target = list(sentence.ids), [IGNORED] * len(sentence.ids)
    held = {place for a, b in sentence.units for place in range(a, b)}
    units = [*sentence.units, *((i, i + 1) for i in range(len(ids)) if i not in held)]
    left = max(1, round(rate * len(ids)))
    for place in rng.permutation(len(units)):
        a, b = units[place]
        target[a:b], draw = sentence.ids[a:b], rng.random()
        if draw < 0.9:
            ids[a:b] = [mask] * (b - a) if draw < 0.8 else [others[i] for i in rng.integers(len(others), size=b - a)]
        if (left := left - (b - a)) <= 0:
            break
    return ids, target


@dataclass
class Texts:
    """A corpus as tokens: the sentences of each document that has any, and facts with the sentences that hold them."""

    documents: list[list[Sentence]]
    facts: list[Fact] = field(default_factory=list)

    @classmethod
    def of(cls, corpus: TextCorpus, words: Words) -> Texts:
        """Read a corpus.

        A sentence without a word is left out, and so is a triple without a sentence that holds its head and its tail as
        whole words; heads and tails are units wherever they stand.

        Raises
        ------
        ValueError
            If there is no word, or a relation has one that the tokenizer does not know.
        """

        def encode(text: str) -> Any:
            return words.tokenizer.encode(text, add_special_tokens=False)

        def tokens(text: str) -> tuple[int, ...]:
            return tuple(encode(text).ids)

        known = {part: tokens(part) for triple in corpus.triples for part in triple[:3]}
        for _, relation, _, *_ in corpus.triples:
            if words.special.unk in known[relation] or not known[relation]:
                raise ValueError(f"the relation {relation!r} has a word that is not in the vocabulary")
        entities = {known[part] for triple in corpus.triples for part in (triple[0], triple[2])} - {()}
        sizes = sorted({len(entity) for entity in entities})

        def found(ids: Sequence[int], of: Sequence[Any]) -> Iterator[tuple[int, int]]:
            for start in range(len(ids)):
                for end in (start + size for size in sizes if start + size <= len(ids)):
                    whole = start == 0 or of[start - 1] != of[start]
                    whole = whole and (end == len(ids) or of[end - 1] != of[end])
                    if whole and tuple(ids[start:end]) in entities:
                        yield start, end

        def sentence(ids: Sequence[int], of: Sequence[Any], given: Sequence[tuple[int, int]]) -> Sentence:
            units: list[tuple[int, int]] = []
            for a, b in sorted({*given, *found(ids, of)}, key=lambda unit: unit[0] - unit[1]):
                if all(b <= start or end <= a for start, end in units):  # the longest of those that overlap
                    units.append((a, b))
            return Sentence(tuple(ids), tuple(sorted(units)))

        triples: dict[tuple[Any, Any], list[tuple[int, ...]]] = {}
        for head, relation, tail, *_ in corpus.triples:
            triples.setdefault((known[head], known[tail]), []).append(known[relation])
        spans: dict[int, list[tuple[int, int]]] = {}
        for place, start, end in corpus.spans:
            spans.setdefault(place, []).append((start, end))
        texts = cls([])
        for place, text in enumerate(corpus.documents):
            read, sentences = encode(text), []
            first = [start for start, _ in read.offsets]
            borders = [0, *(bisect_right(first, end.end() - 1) for end in _ENDS.finditer(text)), len(first)]
            units = [(bisect_right(first, a - 1), bisect_right(first, b - 1)) for a, b in spans.get(place, ())]
            for a, b in pairwise(borders):
                if a < b:
                    inside = [(x - a, y - a) for x, y in units if a <= x < y <= b]
                    sentences.append(sentence(read.ids[a:b], read.word_ids[a:b], inside))
            texts.documents += [sentences] if sentences else []
        if not texts.documents:
            raise ValueError("X has no word: there is nothing to learn from")
        for one in [one for document in texts.documents for one in document] if triples else ():
            there = dict.fromkeys(one.ids[a:b] for a, b in one.units)
            for h, t in ((a, b) for a in there for b in there if (a, b) in triples):
                texts.facts += [Fact(h, r, t, one) for r in triples[h, t]]
        for triple in corpus.triples:
            for read in map(encode, triple[3:]):
                one, (h, r, t) = sentence(read.ids, read.word_ids, ()), (known[part] for part in triple[:3])
                if {h, t} <= {one.ids[a:b] for a, b in one.units}:
                    texts.facts.append(Fact(h, r, t, one))
        return texts

    def allow(self, task: str) -> str | None:
        """Return what a task lacks here, in words, or None if it can be learned."""
        longest, lacks = max(map(len, self.documents)), None
        if task == "reordering" and longest < 2:
            lacks = "a document of two sentences"
        elif task == "distance" and (longest < 3 or len(self.documents) < 2):
            lacks = "two documents, one of them of three sentences"
        elif task == "facts" and not self.facts:
            lacks = "triples whose head and tail stand in one sentence"
        return lacks


class Sampler:
    """Draws the batches of the tasks that understand.

    Parameters
    ----------
    texts : Texts
    words : Words
    rate : float
        Share of the tokens that is masked.
    segments : int
        m, the most segments of a text that is reordered.
    whole_units : bool
        Whether units are masked as wholes.
    seed : int
    """

    def __init__(
        self, texts: Texts, words: Words, rate: float, segments: int, whole_units: bool, seed: int
    ) -> None:  # fmt: skip
        self.texts, self.special, self.whole_units = texts, words.special, whole_units
        self.rng, self.orders = np.random.default_rng(seed), orders(segments)
        others = [token for token in words.known if token != words.special.sep]
        self.mask: Callable[[Sentence], Any] = lambda s: masked(s, rate, words.special.mask, others, self.rng)
        self.places = [(d, s) for d, document in enumerate(texts.documents) for s in range(len(document))]
        self.long = {n: [d for d, doc in enumerate(texts.documents) if len(doc) >= n] for n in (2, 3)}

    def batch(self, task: str, n: int, length: int) -> Batch:
        """Return ``n`` rows of at most ``length`` tokens."""
        draw = {"knowledge-masking": self._words, "reordering": self._order, "distance": self._distance}
        found = [draw.get(task, self._fact)(length) for _ in range(n)]
        return Batch([row for row, _ in found], [target for _, target in found])

    def _words(self, length: int) -> tuple[list[int], Any]:
        ids, target = self.mask(self._plain(cut(joined(self._passage(length - 2)), length - 2)))
        return self._row(ids), [IGNORED, *target, IGNORED]

    def _order(self, length: int) -> tuple[list[int], int]:
        document = self.texts.documents[self._one(self.long[2])]
        sentences = self._passage(length - 2, document)
        n = 1 + self.rng.integers(min(len(sentences), max(map(len, self.orders))))
        borders = [0, *sorted(1 + self.rng.permutation(len(sentences) - 1)[: n - 1]), len(sentences)]
        chosen = self._one([place for place, order in enumerate(self.orders) if len(order) == n])
        parts = [sentences[borders[i] : borders[i + 1]] for i in self.orders[chosen]]
        text = joined([sentence for part in parts for sentence in part])
        return self._row(text.ids[: length - 2]), chosen

    def _distance(self, length: int) -> tuple[list[int], int]:
        kind = int(self.rng.integers(3))
        if kind == 2:
            a, b = (self._one(self.texts.documents[d]) for d in self.rng.permutation(len(self.texts.documents))[:2])
        else:
            document = self.texts.documents[self._one(self.long[2 + kind])]
            i = int(self.rng.integers(len(document) - 1 - kind))
            j = i + 1 if kind == 0 else int(self.rng.integers(i + 2, len(document)))
            a, b = document[i], document[j]
            if self.rng.random() < 0.5:
                a, b = b, a
        half = (length - 3) // 2
        return self._row(a.ids[:half], b.ids[:half]), kind

    def _fact(self, length: int) -> tuple[list[int], Any]:
        fact = self.texts.facts[self.rng.integers(len(self.texts.facts))]
        head, relation, tail = fact.head, fact.relation, fact.tail
        triple, sentence = (*head, *relation, *tail), self._plain(fact.sentence)
        sentence = cut(sentence, max(1, length - 3 - len(triple)))
        if self.rng.random() < 0.5:
            seen = [*head, *[self.special.mask] * len(relation), *tail]
            wanted = [*[IGNORED] * len(head), *relation, *[IGNORED] * (len(tail) + 1 + len(sentence.ids))]
            ids = list(sentence.ids)
        else:
            ids, target = self.mask(sentence)
            seen, wanted = list(triple), [*[IGNORED] * (len(triple) + 1), *target]
        return self._row(seen, ids)[:length], [IGNORED, *wanted, IGNORED][:length]

    def _passage(self, length: int, document: Sequence[Sentence] | None = None) -> list[Sentence]:
        """Return consecutive sentences of a document, from a random one on; the first is always among them."""
        if document is None:
            d, start = self.places[self.rng.integers(len(self.places))]
            document = self.texts.documents[d]
        else:
            start = int(self.rng.integers(len(document) - 1))
        taken, size = [document[start]], len(document[start].ids)
        for sentence in document[start + 1 :]:
            if (size := size + len(sentence.ids)) > length:
                break
            taken.append(sentence)
        return taken

    def _plain(self, sentence: Sentence) -> Sentence:
        return sentence if self.whole_units else Sentence(sentence.ids)

    def _one(self, among: Sequence[Any]) -> Any:
        return among[int(self.rng.integers(len(among)))]

    def _row(self, *parts: Sequence[int]) -> list[int]:
        return [self.special.cls, *(token for part in parts for token in (*part, self.special.sep))]


class Streams:
    """Documents read side by side, segment by segment.

    Parameters
    ----------
    documents : sequence of sequence of int
        Tokens, each with those that begin and end a document.
    seed : int

    Examples
    --------
    >>> streams = Streams([[1, 2, 3, 4]], seed=0)
    >>> streams.next(1, 2), streams.next(1, 2)
    (([[1, 2]], [[2, 3]], [True]), ([[3]], [[4]], [False]))
    """

    def __init__(self, documents: Sequence[Sequence[int]], seed: int) -> None:
        self.documents, self.rng = documents, np.random.default_rng(seed)
        self.left: list[Sequence[int]] = []

    def next(self, n: int, length: int) -> tuple[list[list[int]], list[list[int]], list[bool]]:
        """Return a segment of each of ``n`` streams, the tokens after each of its own, and whether it is a first."""
        self.left += [()] * (n - len(self.left))
        inputs, targets, fresh = [], [], []
        for place in range(n):
            left = self.left[place]
            fresh.append(len(left) < 2)
            left = self.documents[int(self.rng.integers(len(self.documents)))] if fresh[-1] else left
            inputs.append(list(left[:-1][:length]))
            targets.append(list(left[1 : length + 1]))
            self.left[place] = left[length:]
        return inputs, targets, fresh
