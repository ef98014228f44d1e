"""The data of distillation: labelled texts or arrays, of which a few labels are shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.settings import choice, real, text, whole
from anytask.datasets.labelled import LabelledData
from anytask.datasets.text import TextData, load_text
from anytask.datasets.text_sets import TEXT_SETS
from anytask.problems.few_labels import FewLabelsData, FewLabelsOptions


class DistillationOptions(FewLabelsOptions):
    """What a student may cost, who teaches, and what is shown."""

    budget: float | None = real(
        None, "parameters that a student may have (none: 12,000 of arrays, 6 million of texts)", above=0, optional=True
    )
    teacher: str = text("minilm", "whom students of texts learn from, by name or folder; of arrays it is a small one")
    taught: str = choice(
        "masked", ("masked", "labels"), "what a small teacher learned: to fill in masked tokens, or the labels of all "
        "inputs that are not tested on",
    )  # fmt: skip
    per_class: int = whole(5, "labelled examples of each class")
    unlabeled: int = whole(500, "further examples that are shown without labels, at most", at_least=0)
    max_test: int = whole(500, "at most this many of the other examples are tested on")


@dataclass(frozen=True)
class LabelledTexts:
    """Texts in the place of arrays, for problems on labelled inputs.

    Examples
    --------
    >>> texts = read_texts((["good film", "bad film"], ["pos", "neg"]))
    >>> texts.X.tolist(), texts.y.tolist(), texts.input_shape
    (['good film', 'bad film'], ['pos', 'neg'], ())
    """

    name: str
    fingerprint: str
    X: np.ndarray
    y: np.ndarray
    notes: tuple[str, ...] = ()
    kind: str = "texts"
    input_shape: tuple[int, ...] = ()
    has_missing: bool = False
    label_names: None = None
    group: None = None
    weights: None = None

    @property
    def strata(self) -> np.ndarray:
        """The labels."""
        return self.y


def read_texts(source: Any) -> LabelledTexts | None:
    """Return labelled texts, or None where a source holds none: see :func:`anytask.datasets.text.load_text`."""
    named = isinstance(source, (str, Path)) and (
        str(source) in TEXT_SETS or Path(source).suffix in (".jsonl", ".ndjson")
    )
    pair = isinstance(source, (tuple, list)) and len(source) == 2 and len(source[0]) and isinstance(source[0][0], str)
    if not (named or pair or isinstance(source, TextData)):
        return None
    read = load_text(source)
    X, y = np.array(read.texts, dtype=object), np.array(read.labels)
    return LabelledTexts(read.name, read.fingerprint, X, y, read.notes)


@dataclass(frozen=True)
class DistillationData(FewLabelsData):
    """Labelled inputs, and the options."""

    source: LabelledData | LabelledTexts  # type: ignore[assignment]

    @property
    def texts(self) -> bool:
        """Whether inputs are texts."""
        return self.source.kind == "texts"

    def inputs(self, rows: np.ndarray) -> Any:
        """Return the inputs of these rows: a list of texts, or an array (n, ...)."""
        return [str(text) for text in self.source.X[rows]] if self.texts else super().inputs(rows)

    def known(self, seed: int) -> np.ndarray:
        """Return the rows that are not tested on."""
        return np.setdiff1d(np.arange(len(self.source.y)), self.split(seed)[1])
