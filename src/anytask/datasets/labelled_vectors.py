"""Labelled vectors, of a data set, of texts by their embeddings, or given: what selection and retrieval work on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anytask.core.errors import BadData, shown
from anytask.datasets.intents import intents
from anytask.datasets.text import TextData, load_text
from anytask.datasets.text_sets import TEXT_SETS
from anytask.lm.search import as_vectors

BUILTIN = ("digits", "intents", *TEXT_SETS)


@dataclass(frozen=True)
class LabelledVectors:
    """A labelled set.

    Attributes
    ----------
    name : str
        Where it is from.
    vectors : ndarray of shape (n, d)
        What similarity is computed on.
    labels : ndarray of shape (n,)
        The right answers.
    texts : tuple of str or None
        The texts, where there are any.
    notes : tuple of str
        Sentences on rows that were left out or cut.
    """

    name: str
    vectors: np.ndarray
    labels: np.ndarray
    texts: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of the content."""
        digest = hashlib.sha256(np.ascontiguousarray(self.vectors).tobytes())
        digest.update("\x1f".join(map(str, self.labels)).encode())
        return digest.hexdigest()[:32]


def load_vectors(
    source: Any,
    text: str = "text",
    label: str = "label",
    bad_rows: str = "refuse",
    readable: Callable[[TextData], TextData] | None = None,
) -> LabelledVectors:
    """Return a labelled set.

    Parameters
    ----------
    source : str, path, or pair
        ``"digits"``, ``"intents"``, one of :data:`~anytask.datasets.text_sets.TEXT_SETS`, a file or data frame as
        :func:`~anytask.datasets.text.load_text` reads it, or a pair (vectors or texts, labels). Texts are embedded by
        the packaged MiniLM.
    text, label, bad_rows
        See :func:`~anytask.datasets.text.load_text`.
    readable : callable, optional
        Makes of the texts those that can be used, before they are embedded.
    """
    if isinstance(source, str) and source == "digits":
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        return LabelledVectors("digits", X.astype(np.float32), y)
    if (
        isinstance(source, (tuple, list))
        and len(source) == 2
        and hasattr(source[0], "__iter__")
        and (isinstance(source[0], pd.DataFrame) or not isinstance(next(iter(source[0]), None), str))
    ):
        try:
            vectors = as_vectors(source[0], "vectors")
        except (TypeError, ValueError) as error:
            raise BadData(str(error)) from error
        labels = np.asarray(source[1])
        if labels.shape != (len(vectors),):
            raise BadData(f"labels must have shape ({len(vectors)},) like the vectors, got {labels.shape}")
        return LabelledVectors("vectors", vectors, labels)
    if isinstance(source, str) and source == "intents":
        source = intents()
    elif isinstance(source, str) and source not in BUILTIN and "." not in source and not Path(source).exists():
        raise BadData(f"no data {source!r}: built in are {', '.join(BUILTIN)}; else give a .jsonl or .csv file")
    data = load_text(source, text, label, min_rows=4, bad_rows=bad_rows)
    if readable is not None and not callable(readable):
        raise TypeError(f"readable must be a callable, got {shown(readable)}")
    data = data if readable is None else readable(data)
    from anytask.lm.embeddings import Embedder

    return LabelledVectors(data.name, Embedder().embed(data.texts), np.array(data.labels), data.texts, data.notes)
