"""Words as the columns of one table: what the compressors judge, and what they write again."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from anytask.lm.protocol import check_texts
from anytask.prompts.base import Compression

#: Scripts without spaces between words: Thai to Tibetan, Burmese, Khmer, Tai, Chinese and Japanese.
NO_SPACES = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u2e80-\u312f\u3190-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(f"[{NO_SPACES}]")


def is_unspaced(char: str) -> bool:
    """Return whether a character belongs to a script without spaces between words."""
    return _UNSPACED.match(char) is not None


def runs(labels: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each run of equal labels."""
    return np.split(np.arange(len(labels)), np.flatnonzero(np.diff(labels)) + 1) if len(labels) else []


@dataclass(frozen=True)
class Words:
    """The words of some contexts, in order, as the columns of a table."""

    text: np.ndarray  # (w,) of str, "" for a border mark that stands alone
    gap: np.ndarray  # (w,) white space before the word
    context: np.ndarray  # (w,) index of the context
    chunk: np.ndarray  # (w,) index of the model input, over all contexts
    cost: np.ndarray  # (w,) tokens of the target model
    p: np.ndarray  # (w,) keep-probability before forcing
    forced_p: np.ndarray  # (w,) with forced words at 1

    def take(self, rows: np.ndarray | slice) -> Self:
        """Return some of the rows."""
        return type(self)(*(column[rows] for column in vars(self).values()))


def check_contexts(contexts: str | Iterable[str]) -> list[str]:
    """Return one text, or the contexts of a prompt, as a list, or say which of them is no text."""
    contexts = check_texts([contexts] if isinstance(contexts, str) else contexts, "contexts")
    for i, context in enumerate(contexts):
        if broken := re.search("[\ud800-\udfff]", context):
            raise ValueError(
                f"context {i} has half a character (a lone surrogate) at {broken.start()}: repair the text"
            )
    if not contexts:
        raise ValueError("there is no context to compress")
    return contexts


def write_contexts(contexts: Sequence[str], words: Words, kept: np.ndarray) -> list[str]:
    """Return each context with its kept words, or as it was if all of them are kept.

    Words keep the white space before them; where a deletion would fuse two words, a space is put between, but not in
    scripts that have none.
    """
    parts: list[list[str]] = [[] for _ in contexts]
    before_kept = [True] * len(contexts)
    real = words.text != ""
    for word, gap, i, keep in zip(*(c[real] for c in (words.text, words.gap, words.context, kept))):
        if keep:
            border = parts[i][-1][-1] + word[0] if parts[i] else ""
            fused = not before_kept[i] and border.isalnum() and not any(map(is_unspaced, border))
            parts[i].append(f" {word}" if border and (gap or fused) else word)
        before_kept[i] = keep
    shortened = set(words.context[real & ~kept].tolist())
    return ["".join(parts[i]) if i in shortened else context for i, context in enumerate(contexts)]


def warn_of_short(before: Sequence[str], after: Sequence[str], rate: float | np.ndarray) -> None:
    """Warn of texts that fell to less than half of what ``rate`` asks for, and by more than a hundred characters."""
    n, m = (np.array([len(text) for text in texts]) for texts in (before, after))
    wanted = n * rate
    if len(short := np.flatnonzero((2 * m < wanted) & (wanted - m > 100))):
        i = int(short[0])
        warnings.warn(
            f"{len(short)} of {len(n)} texts fell further than asked, the first from {n[i]} characters to {m[i]} where "
            f"the rate asks for about {wanted[i]:.0f}: a word is kept or deleted as a whole, words of one score are "
            f"together, and the longest here has {max(map(len, before[i].split()))} characters", stacklevel=3,
        )  # fmt: skip


def compressed(
    words: Words, kept: np.ndarray, texts: Sequence[str], lengths: tuple[int, int], source: tuple[str | None, ...] = ()
) -> Compression:
    """Return the result for the texts of the kept contexts.

    Parameters
    ----------
    words : Words
    kept : (w,) array of bool
    texts : sequence of str
    lengths : pair of int
        Tokens before and after.
    source : pair of str, optional
        Kind and name of the model that judged the words.
    """
    columns = (words.text, kept, words.forced_p, words.context)
    text, labels, p, context = (tuple(column[words.text != ""].tolist()) for column in columns)
    return Compression("\n\n".join(texts), tuple(texts), text, labels, p, context, *lengths, *source)
