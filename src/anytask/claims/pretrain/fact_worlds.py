"""What else learns relations from a graph and sentences; and texts on skills and jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.datasets.corpora import TextCorpus, load_corpus
from anytask.datasets.text_sets import TEXT_SETS, skills_jobs
from anytask.pretrain import ERNIE3
from anytask.pretrain.ernie3.tasks import Texts
from anytask.pretrain.ernie3.words import Words, word_tokenizer
from anytask.pretrain.text_baselines import SentenceFeatures, TextFeatures
from anytask.problems.language_pretraining import LanguageData, LanguagePretraining, LanguageWorld
from anytask.problems.training import Builtin


class DistantSupervision(TextFeatures):
    """Relations of a graph as labels of the sentences that hold a head and a tail, for a linear model on their words.

    Its features are the probabilities of the relations; heads and tails are left out of the words.
    """

    def _train(self, data: TextCorpus, progress: Progress) -> None:
        self.tokenizer_, self.specials_ = word_tokenizer([*data.documents, *map(" ".join, data.triples)], 20_000)
        self._words = Words(self.tokenizer_, self.specials_, (), self._device)
        facts = Texts.of(data, self._words).facts
        rows = [_without(fact.sentence.ids, (*fact.head, *fact.tail)) for fact in facts]
        names = [self._words.tokenizer.decode(list(fact.relation)) for fact in facts]
        self._counts = TfidfVectorizer(token_pattern=r"\d+").fit(rows)
        self._model = LogisticRegression(C=10.0, max_iter=1000).fit(self._counts.transform(rows), names)
        self.classes_ = self._model.classes_.tolist()
        progress(1.0)

    def _features(self, data: TextCorpus) -> Tensor:
        return torch.from_numpy(self._probabilities(data.documents)).float()

    def _probabilities(self, given: Sequence[str]) -> np.ndarray:
        special, rows = self._words.special, []
        for text in given:
            ids = self._words.encode(text)
            end = ids.index(special.sep) if special.sep in ids else 0
            rows.append(_without(ids[end:], (*ids[:end], special.sep)))
        return self._model.predict_proba(self._counts.transform(rows))

    def score(self, prompts: Sequence[str], options: Sequence[str]) -> np.ndarray:
        """Return the probabilities of the relations that ``options`` names, shape (n, k)."""
        return self._probabilities(prompts)[:, [self.classes_.index(str(option)) for option in options]]


def _without(ids: Sequence[int], out: Sequence[int]) -> str:
    return " ".join(str(token) for token in ids if token not in out)


#: Relations of the graph of skills and jobs, by the word that stands for each, with what a sentence says of it.
WORDINGS = {
    "needs": (
        "job_skill",
        "A {} must be good at {}.",
        "Nobody is hired as {} without {}.",
        "For the work of a {}, people ask for {}.",
    ),
    "title": (
        "title_job",
        "A {} is the same as a {}.",
        "Some firms write {} where others write {}.",
        "Whoever is called {} does the work of a {}.",
    ),
    "synonym": (
        "name_skill",
        "By {} we mean {}.",
        "What some call {} is {} to others.",
        "The word {} stands for {}.",
    ),
}


class SkillRelations(LanguagePretraining):
    """Tell which relation of the graph of skills and jobs a sentence states, in wordings that no label has.

    The corpus are the texts of three sets, and a sentence for each edge that is trained on, in a wording of three.
    Labelled sentences are of one wording, those that are tested of the two others, on edges that are held out.
    """

    key = "skill-relations"

    def load(self, source: Any, **options: Any) -> SkillData:
        """Take the name of the graph, with checked options."""
        return SkillData(Builtin(source), self.check_options(options))


class SkillData(LanguageData):
    """The graph of skills and jobs, with three sets of texts."""

    def world(self, seed: int) -> LanguageWorld:
        """Return what one seed shows."""
        rng = np.random.default_rng(derive(seed, "skills"))
        documents = [text for name in TEXT_SETS for text in load_corpus(name).documents]
        triples, few, asked = [], [], []
        for word, (name, *wordings) in WORDINGS.items():
            edges = [skills_jobs().relations[name][i] for i in rng.permutation(len(skills_jobs().relations[name]))]
            own, trained = edges[: len(edges) // 3], edges[len(edges) // 3 :]
            for place, (head, tail) in enumerate(trained):
                triples.append((head, word, tail, wordings[place % 3].format(head, tail)))
            few += [(_asked(edge, wordings[0]), word) for edge in own[: self.options.shots]]
            asked += [(_asked(edge, wordings[1 + i % 2]), word) for i, edge in enumerate(own[self.options.shots :])]
        held = documents[:: len(documents) // 50]
        kept = [text for text in documents if text not in set(held)]
        corpus = TextCorpus.of([*kept, *(sentence for *_, sentence in triples)], (), triples, "skill-relations")
        texts, tested = (tuple(text for text, _ in rows) for rows in (few, asked))
        y, y_tested = (np.array([word for _, word in rows]) for rows in (few, asked))
        return LanguageWorld(corpus, texts, y, tested, y_tested, tuple(held), tested)


def _asked(edge: tuple[str, str], wording: str) -> str:
    return f"{edge[0]} [MASK] {edge[1]} [SEP] {wording.format(*edge)}"


class PlainSentences(SentenceFeatures):
    """Vectors of the sentence alone, without the question before it."""

    def _features(self, data: TextCorpus) -> Tensor:
        return super()._features(TextCorpus.of([text.split("[SEP]")[-1].strip() for text in data.documents]))


class Untrained(ERNIE3):
    """ERNIE 3.0 as it begins, also in a quick look, which gives every entrant a few steps."""

    def _train(self, data: TextCorpus, progress: Progress) -> None:
        progress(1.0)


class RandomRelations(ERNIE3):
    """ERNIE 3.0 on a graph whose edges have each other's relations, at random."""

    def _note(self, data: TextCorpus) -> None:
        order = np.random.default_rng(derive(self.seed, "relations")).permutation(len(data.triples))
        mixed = tuple((a, data.triples[i][1], b) for (a, _, b), i in zip(data.triples, order))
        super()._note(replace(data, triples=mixed))
