"""The data of few-shot-text: labelled texts, what may be bought of them, and what answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.core.settings import choice, flag, free, real, whole
from anytask.datasets.text import KINDS, TextData
from anytask.lm.option_scoring import RULES
from anytask.problems.language import TextOptions
from anytask.problems.training import LoadedData

#: Which demonstrations a query is shown: drawn for each, one set for all, or the nearest to it in meaning or in words.
RETRIEVALS = ("random", "fixed", "similar", "bm25")


def check_verbalizer(words: Any) -> None:
    if words is None:
        return
    texts = isinstance(words, Mapping) and all(isinstance(t, str) and t.strip() for pair in words.items() for t in pair)
    if not texts or len(set(words.values())) < len(words):
        raise ValueError(f"verbalizer must be a mapping of labels to different words, got {words!r}")


def verbalized(data: TextData, words: Mapping[str, str] | None) -> TextData:
    """Return the data with every label called by its word."""
    if not words:
        return data
    known = {*data.labels, *(one for row in data.choices or () for one in row)}
    if wrong := sorted(known ^ set(words)):
        raise BadData(f"{data.name}: verbalizer must name all labels and no other, and these differ: {wrong[:9]}")
    choices = data.choices and tuple(tuple(words[one] for one in row) for row in data.choices)
    return replace(data, labels=tuple(words[label] for label in data.labels), choices=choices)


class FewShotOptions(TextOptions):
    """What may be bought, what a prompt shows, and what is tested."""

    kind: str = choice("auto", ("auto", *KINDS), "kind of task; multiple-choice needs rows with choices")
    labels: int = whole(18, "how many labels may be bought", at_least=0)
    k: Any = whole(
        8, "most demonstrations in a prompt; max: as many as fit; auto: chosen by leave-one-out on the bought labels",
        at_least=0, words=("max", "auto"),
    )  # fmt: skip
    demos: str = choice(
        "auto", ("auto", *RETRIEVALS), "which of them a query is shown; auto: what goes with the system, else random"
    )
    balanced: bool | None = flag(
        None, "show every label equally often where demonstrations are drawn (none: in one set for all)", optional=True
    )
    context: int | None = whole(None, "most tokens of a prompt with its answer (none: the model's)", optional=True)
    scoring: str = choice("auto", ("auto", *RULES, "choose"), "how options are ranked; auto: by what the model offers")
    calibrate: bool = flag(False, "divide by the labels' probabilities after a query without content")
    verbalizer: dict[str, str] | None = free(None, "the word that each label is to be called by", check_verbalizer)
    rate: float = real(0.5, "share of an input's tokens that compressors keep", above=0, at_most=1)
    search_budget: int = whole(100, "prompts that a search may score; more find better ones")
    test_size: float = real(0.3, "share of the texts that is tested on", above=0, below=1)
    max_test: int = whole(200, "most test items")
    max_pool: int = whole(3000, "most texts in the pool")

    def shows_equally(self, one_set: bool) -> bool:
        """Return whether drawn demonstrations are balanced: as said, else where one set is shown to all queries."""
        return one_set if self.balanced is None else self.balanced


@dataclass(frozen=True)
class FewShotData(LoadedData):
    """Texts with their answers, and the options."""

    source: TextData

    @property
    def choices(self) -> list[str] | None:
        """The labels, for classification."""
        return list(self.source.classes) if self.options.kind == "classification" else None

    def facts(self) -> dict[str, Any]:
        """Return the sizes of the pool and of the test, and the labels."""
        pool, test = self.split(0)
        return {"texts": len(self.source.texts), "pool": len(pool), "test": len(test), "choices": self.choices}

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the pool and of the test items; the same seed splits alike for every entrant."""
        o, labels = self.options, np.array(self.source.labels)
        stratify = labels if o.kind == "classification" and np.unique(labels, return_counts=True)[1].min() > 1 else None
        how: dict[str, Any] = {"random_state": derive(seed, "split") % 2**32, "stratify": stratify}
        try:
            pool, test = train_test_split(np.arange(len(labels)), test_size=o.test_size, **how)
        except ValueError as error:
            raise BadData(f"{self.name}: {len(labels)} texts cannot be split into pool and test: {error}") from None
        return pool[: o.max_pool], test[: o.max_test]
