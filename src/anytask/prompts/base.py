"""What the prompt systems share: ``compress(text, rate)`` and ``search(lm, examples)``, and their results."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from anytask.core.checks import is_missing
from anytask.core.files import as_path
from anytask.lm.placeholders import fill, names_of
from anytask.lm.protocol import check_text

__all__ = ["SearchResult"]

#: One labelled example: the values of the prompt's placeholders, and the answer under ``"label"``.
Example = Mapping[str, Any]


@dataclass(frozen=True)
class Compression:
    """What a compressor made of a text (or of several contexts).

    Attributes
    ----------
    text : str
        The compressed text; contexts are separated by a blank line.
    texts : tuple of str
        The compressed contexts, one by one; contexts dropped as a whole are left out.
    words : tuple of str
        Words of the original, in order.
    labels : tuple of bool
        For each word, whether it was kept.
    probabilities : tuple of float
        For each word, the score in [0, 1] that ranked it (1 for forced words).
    contexts : tuple of int
        For each word, the index of the context it comes from.
    origin_tokens, compressed_tokens : int
        Lengths counted by the target model's tokenizer.
    kind, weights : str or None
        Kind and name of the model that judged the words, where there was one: ``tiny`` for weights that ship with the
        package or were trained from scratch, ``local`` for given ones.
    """

    text: str
    texts: tuple[str, ...]
    words: tuple[str, ...]
    labels: tuple[bool, ...]
    probabilities: tuple[float, ...]
    contexts: tuple[int, ...]
    origin_tokens: int
    compressed_tokens: int
    kind: str | None = field(default=None, compare=False)
    weights: str | None = field(default=None, compare=False)

    @property
    def kept(self) -> tuple[str, ...]:
        """The kept words."""
        return tuple(word for word, label in zip(self.words, self.labels) if label)

    @property
    def rate(self) -> float:
        """Compressed over original tokens (1.0 for an empty original)."""
        return self.compressed_tokens / self.origin_tokens if self.origin_tokens else 1.0

    @property
    def ratio(self) -> float:
        """Original over compressed tokens: 4.0 means four times shorter."""
        return self.origin_tokens / self.compressed_tokens if self.compressed_tokens else float("inf")


def check_rate(rate: float) -> None:
    """Raise a ValueError unless 0 < rate <= 1."""
    if not 0 < rate <= 1:
        raise ValueError(f"rate is the share of tokens to keep, in (0, 1], got {rate}")


def check_examples(examples: Any, name: str) -> list[Example]:
    """Return examples as a list of mappings, the rows of a table too, or say which is none or lacks a value."""
    if hasattr(examples, "columns"):
        examples = examples.to_dict("records")
    if not isinstance(examples, Iterable) or isinstance(examples, (str, bytes, Mapping)):
        raise TypeError(f"{name} must be a sequence of mappings, got {type(examples).__name__}")
    found = list(examples)
    for i, example in enumerate(found):
        if not isinstance(example, Mapping):
            raise TypeError(f"{name}[{i}] must be a mapping of values to placeholders, got {type(example).__name__}")
        if missing := [key for key, value in example.items() if key != "label" and is_missing(value)]:
            raise ValueError(f"{name}[{i}] has no value for {missing[0]!r}: got {example[missing[0]]!r}")
    return found


@runtime_checkable
class Compressor(Protocol):
    """Shortens text before it is sent to a language model."""

    def compress(self, text: str | Sequence[str], rate: float | None = None) -> Compression:
        """Compress one text, or several contexts of one prompt, to about ``rate`` of its tokens."""
        ...


@dataclass(frozen=True)
class Candidate:
    """One explored prompt: its text, the kept positions of the original prompt (None after a drift of the
    tokenisation), its search score, and its validation score where it was re-scored.
    """

    text: str
    kept: tuple[int, ...] | None
    score: float
    validation: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a prompt search found, and what it cost.

    Attributes
    ----------
    prompt : str
        The chosen prompt, placeholders included.
    score : float
        Its score on the search examples: optimistic, since it was chosen by it. Report ``validation``, or a test score.
    validation : float or None
        Its accuracy on the validation examples, where there were some.
    kept : tuple of int or None
        Kept positions of the original prompt's units; None if re-tokenising between passes moved token borders.
    n_tokens : int
        Length of the chosen prompt in tokens, placeholders included.
    evaluations : float
        Prompts scored on the search examples (half of the examples count 0.5).
    lm_calls : int
        Questions put to the language model, search and validation together; cached ones don't count.
    trace : tuple of Candidate
        Explored prompts in the order of scoring (for threshold accepting: the accepted ones).
    kind : str or None
        Kind of the language model: ``http``, ``local``, ``tiny`` or ``sim``.
    discarded : int
        Prompts that were left out, because a score was NaN or infinite.
    """

    prompt: str
    score: float
    validation: float | None
    kept: tuple[int, ...] | None
    n_tokens: int
    evaluations: float
    lm_calls: int
    trace: tuple[Candidate, ...] = field(default=(), repr=False)
    kind: str | None = None
    discarded: int = 0

    def fill(self, **values: Any) -> str:
        """Return the prompt for one input, up to the answer's place, its placeholders filled with ``values``."""
        return fill(self.prompt, values, names_of([values]))[0]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write everything but the trace to ``prompt.json`` in ``folder``."""
        folder = as_path(folder, "folder")
        folder.mkdir(parents=True, exist_ok=True)
        found = {name: value for name, value in vars(self).items() if name != "trace"}
        (folder / "prompt.json").write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote."""
        path = as_path(folder, "folder") / "prompt.json"
        if not path.is_file():
            raise FileNotFoundError(f"no saved prompt in {folder}: {path.name} is missing")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            result = cls(**{**found, "kept": None if found["kept"] is None else tuple(map(int, found["kept"]))})
            check_text(result.prompt, "prompt")
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"the prompt saved in {folder} is damaged: {error!r}") from error
        return result


@runtime_checkable
class PromptSearcher(Protocol):
    """Looks for a prompt that makes a frozen language model better."""

    def search(self, lm: Any, examples: Sequence[Example], validation: Sequence[Example] = ()) -> SearchResult:
        """Search on ``examples``, choose on ``validation``."""
        ...
