"""A miniature language whose sentences state facts: to see what pretraining on a knowledge graph teaches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anytask.core.rng import derive
from anytask.datasets.corpora import TextCorpus


@dataclass(frozen=True)
class FactTexts:
    """A corpus with a knowledge graph, and sentences whose relation is asked for.

    Attributes
    ----------
    corpus : TextCorpus
        Sentences on facts of the graph, a few to a document; entities are spans.
    questions, test_questions : tuple of str
        ``head [MASK] tail [SEP] sentence``: what stands at the mask is the relation that the sentence states.
    labels, test_labels : tuple of str
    held_out : tuple of str
        Documents of the same kind that the corpus does not have.
    relations : tuple of str
    """

    corpus: TextCorpus
    questions: tuple[str, ...]
    labels: tuple[str, ...]
    test_questions: tuple[str, ...]
    test_labels: tuple[str, ...]
    held_out: tuple[str, ...]
    relations: tuple[str, ...]


def fact_texts(
    seed: int = 0,
    *,
    entities: int = 30,
    relations: int = 4,
    verbs: int = 8,
    fillers: int = 20,
    facts: int = 90,
    documents: int = 300,
    sentences: int = 4,
    labelled: int = 16,
    tested: int = 400,
    aligned: bool = True,
) -> FactTexts:
    """Draw a graph, and documents on it.

    A sentence is ``filler? head filler verb filler? tail filler?``, and each relation has verbs of its own. Labelled
    questions use the first two verbs of each relation, those that are tested the others; both are on pairs of entities
    that the graph does not have.

    Parameters
    ----------
    seed : int
    entities, relations, verbs, fillers, facts : int
        Words of each kind (verbs: of each relation), and edges of the graph, which has at most one between two
        entities.
    documents, sentences : int
        Documents of the corpus, and sentences of each.
    labelled, tested : int
        Questions.
    aligned : bool
        False: sentences state a random relation, whatever the graph says of their entities.

    Examples
    --------
    >>> world = fact_texts(0)
    >>> len(world.corpus), len(world.corpus.triples), world.corpus.triples[0]
    (300, 90, ('e23', 'r1', 'e21'))
    >>> world.questions[0]
    'e15 [MASK] e3 [SEP] f9 e15 f4 v0x1 e3 f13 .'
    """
    rng = np.random.default_rng(derive(seed, "fact texts"))
    pairs = np.array([(a, b) for a in range(entities) for b in range(entities) if a != b])
    order = rng.permutation(len(pairs))
    known, new = pairs[order[:facts]], pairs[order[facts:]]
    kind = rng.integers(relations, size=facts)

    def sentence(head: int, relation: int, tail: int, choice: Sequence[int]) -> str:
        verb = f"v{relation}x{choice[int(rng.integers(len(choice)))]}"
        maybe = [f"f{rng.integers(fillers)}" if rng.random() < 0.5 else "" for _ in range(3)]
        words = [maybe[0], f"e{head}", f"f{rng.integers(fillers)}", verb, maybe[1], f"e{tail}", maybe[2], "."]
        return " ".join(word for word in words if word)

    def document() -> str:
        rows = rng.integers(facts, size=sentences)
        stated = kind[rows] if aligned else rng.integers(relations, size=sentences)
        return " ".join(sentence(known[row][0], r, known[row][1], range(verbs)) for row, r in zip(rows, stated))

    def questions(n: int, choice: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        asked, answers = [], []
        for place in range(n):
            (head, tail), r = new[rng.integers(len(new))], place % relations
            asked.append(f"e{head} [MASK] e{tail} [SEP] {sentence(head, r, tail, choice)}")
            answers.append(f"r{r}")
        return tuple(asked), tuple(answers)

    texts = [document() for _ in range(documents)]
    held_out = tuple(document() for _ in range(max(20, documents // 10)))
    triples = [(f"e{a}", f"r{r}", f"e{b}") for (a, b), r in zip(known, kind)]
    few, test = questions(labelled, (0, 1)), questions(tested, range(2, verbs))
    spans = [(i, *found.span()) for i, text in enumerate(texts) for found in re.finditer(r"\be\d+", text)]
    corpus = TextCorpus.of(texts, spans, triples, "fact-texts")
    return FactTexts(corpus, *few, *test, held_out, tuple(f"r{r}" for r in range(relations)))
