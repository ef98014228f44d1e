"""A pile of texts of which few or none have labels: what is worth labelling, and where the labels come from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.checks import is_missing
from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.datasets.text import TextData, load_text, rows_of, usable_rows
from anytask.datasets.text_sets import TEXT_SETS
from anytask.incontext.pool import Annotate, Pool
from anytask.incontext.votek import VoteK

#: In a pile of so few texts for each label, vote-k has no neighborhoods to choose from.
FEWEST = 3


class Unanswered(BadData):
    """Labels are missing, and there is nobody to ask; ``texts`` wait for them."""

    def __init__(self, message: str, texts: Sequence[str]) -> None:
        super().__init__(message)
        self.texts = list(texts)


def load_pile(source: Any, text: str = "text", label: str = "label", bad_rows: str = "refuse") -> TextData:
    """Read texts, with the labels of those that have one and "" for the others.

    Parameters
    ----------
    source : path, list of str, or what :func:`anytask.datasets.text.load_text` reads
    text, label : str
        Names of the columns.
    bad_rows : {"refuse", "skip", "cut"}
        See :func:`anytask.datasets.text.load_text`.

    Raises
    ------
    BadData
        In one line, naming file, line and column.

    Examples
    --------
    >>> load_pile(["a storm", "a song"]).labels
    ('', '')
    """
    if isinstance(source, (TextData, tuple)) or str(source) in TEXT_SETS:
        return load_text(source, text, label, bad_rows=bad_rows)
    if isinstance(source, (list, np.ndarray)):
        import pandas as pd

        source = pd.DataFrame({text: list(source)}, dtype=object)
    name, rows = rows_of(source)

    def read(row: Mapping[str, Any], where: str) -> tuple[str, str, str]:
        value, answer = row.get(text), row.get(label)
        if text not in row:
            raise BadData(f"{where}: column {text!r} is missing; there are {', '.join(map(repr, row)) or 'none'}")
        if not isinstance(value, str) or not value.strip():
            raise BadData(f"{where}, column {text!r}: a text is wanted, got {value!r:.60}")
        return value, "" if is_missing(answer) else str(answer).strip(), where

    kept, notes = usable_rows(name, rows, (text, label), read, bad_rows)
    if not kept:
        raise BadData(" ".join([f"{name}: there is no text.", *notes]))
    texts, labels, places = zip(*kept)
    return TextData(name, texts, labels, tuple(map(str, range(len(texts)))), None, places, tuple(notes))


def worth_labelling(pile: TextData, n: int, vectors: np.ndarray, seed: int) -> list[int]:
    """Return the places of the texts to label: vote-k's, or drawn ones where there are few to choose from."""
    if n > len(pile):
        raise BadData(f"{pile.name}: {n} labels are wanted of {len(pile)} texts")
    if len(pile) < FEWEST * n:
        drawn = np.random.default_rng(derive(seed, "select")).choice(len(pile), n, replace=False)
        return sorted(map(int, drawn))
    chosen = VoteK(stages="fast", seed=seed).select(Pool(vectors, texts=pile.texts), n)
    return [int(i) for i in chosen.indices]


def bought(
    pile: TextData, places: Sequence[int], answers: Mapping[str, str], annotate: Annotate | None
) -> dict[int, str]:
    """Return the labels of the texts at these places: of the column, of the answers, or of who is asked.

    Raises
    ------
    Unanswered
        If some are in neither, and there is nobody to ask.
    """
    found = {i: pile.labels[i] or answers.get(pile.texts[i], "") for i in places}
    missing = [i for i in places if not found[i]]
    if missing and annotate is None:
        told = f"{pile.name}: {len(missing)} of {len(places)} texts that are worth labelling have no label"
        raise Unanswered(f"{told}, the first: {pile.texts[missing[0]]!r:.80}", [pile.texts[i] for i in missing])
    if missing and annotate is not None:
        labels = [str(label).strip() for label in annotate(missing)]
        if len(labels) != len(missing) or not all(labels):
            raise BadData(f"annotate was asked for {len(missing)} labels, and gave {len(list(filter(None, labels)))}")
        found |= dict(zip(missing, labels))
    return found


def read_answers(path: str | os.PathLike[str] | None, text: str = "text", label: str = "label") -> dict[str, str]:
    """Return the labels of a file of answers by their texts; rows without a label are left aside."""
    if path is None or not Path(path).exists() or not Path(path).stat().st_size:
        return {}
    pile = load_pile(Path(path), text, label)
    return {one: answer for one, answer in zip(pile.texts, pile.labels) if answer}


def append_answer(path: str | os.PathLike[str], row: Mapping[str, str]) -> None:
    """Add a text with its label, "" for one that is wanted, to a JSONL file; it is on the disk when this returns."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(row), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
