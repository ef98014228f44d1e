"""Was the test in the training text? N-gram overlap: the report on a benchmark, and the cleaning of a corpus."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy import stats

from anytask.core.checks import as_array, check_counts, require_finite_rows
from anytask.lm.protocol import check_texts

# Punctuation of every script, loose accents, and characters without a width: what editors and typesetters change.
_KINDS = {"Cf", "Sk", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps"}
_CHANGED = "".join(chr(i) for i in range(0x10000) if unicodedata.category(chr(i)) in _KINDS)
_STRIP = str.maketrans("", "", string.punctuation + _CHANGED)
_DASH = re.compile("--+|[\u2014\u2015]")  # between words, as opposed to the hyphen or the range inside one


def words(text: str) -> list[str]:
    """Return the lower-cased words of ``text`` without punctuation, however quotes and dashes are typeset.

    Examples
    --------
    >>> words("It's 9 o'clock--'time' to go!") == words("It\u2019s 9 o\u2019clock \u2014 \u2018time\u2019 to go!")
    True
    """
    return _bare(_DASH.sub(" ", text)).split()


def _bare(text: str) -> str:
    return unicodedata.normalize("NFKC", text.translate(_STRIP)).lower()


def choose_n(items: Sequence[str], low: int = 8, high: int = 13) -> int:
    """Return N: the 5th percentile of the items' length in words, clipped to [low, high].

    Examples
    --------
    >>> choose_n(["w " * 4] * 10), choose_n(["w " * 10] * 10), choose_n(["w " * 50] * 10)
    (8, 10, 13)
    """
    if not items:
        raise ValueError("no items: N is a percentile of their lengths")
    return int(np.clip(np.percentile([len(words(t)) for t in items], 5), low, high))


@dataclass(frozen=True)
class ContaminationReport:
    """Scores of a benchmark on all, clean and dirty items.

    Attributes
    ----------
    n : int
        Words per N-gram.
    dirty : tuple of bool
        Which items share an N-gram with the training text.
    score_all, score_clean, score_dirty : float
        Mean scores (NaN without items).
    relative_difference : float
        (clean - all) / all.
    flagged : bool
        Whether the clean score is more than 1 % off the score on all items (relative).
    """

    n: int
    dirty: tuple[bool, ...]
    score_all: float
    score_clean: float
    score_dirty: float
    relative_difference: float
    flagged: bool

    def table(self) -> str:
        """Return the report as text."""
        counts = len(self.dirty), len(self.dirty) - sum(self.dirty), sum(self.dirty)
        scores = self.score_all, self.score_clean, self.score_dirty
        rows = zip(("all", "clean", "dirty"), counts, scores)
        lines = [f"{name:<6} {count:>7} {score:>8.4f}" for name, count, score in rows]
        verdict = "FLAGGED: clean differs by more than 1 %" if self.flagged else "no flag"
        return "\n".join([f"N = {self.n}", "subset   items    score", *lines, verdict])


def find_dirty(items: Sequence[str], corpus: Iterable[str], n: int | None = None) -> list[bool]:
    """Say for each item whether any of its N-grams occurs in ``corpus``; shorter items count as one whole.

    The items' N-grams are held in memory and the corpus streams past them, so its size does not matter.

    Examples
    --------
    >>> text = "one two three four five six seven eight nine"
    >>> find_dirty(["Three, four, FIVE six seven eight nine ten", text, "six seven"], [text], n=8)
    [False, True, True]
    """
    items = check_texts(items, "items")
    n = choose_n(items) if n is None else n
    check_counts(n=n)
    owners: dict[tuple[str, ...], set[int]] = {}
    for i, item in enumerate(items):
        if w := words(item):
            for gram in _grams(w, min(n, len(w))):
                owners.setdefault(gram, set()).add(i)
    lengths = {len(gram) for gram in owners}
    dirty: set[int] = set()
    for document in corpus:
        w = words(document)
        dirty.update(*(owners.get(gram, ()) for length in lengths for gram in _grams(w, length)))
    return [i in dirty for i in range(len(items))]


def contamination_report(
    items: Sequence[str], scores: Sequence[float], corpus: Iterable[str], n: int | None = None
) -> ContaminationReport:
    """Compare a benchmark's score on all items with that on the clean ones.

    Parameters
    ----------
    items : sequence of str
        The test items' whole texts.
    scores : sequence of float, same length
        What the model reached on each, such as 0 or 1.
    corpus : iterable of str
        The training documents.
    n : int, optional
        Words per N-gram; default :func:`choose_n`.

    Examples
    --------
    >>> leaked = "the quick brown fox jumps over the lazy dog again"
    >>> items = [leaked] + [f"a fresh question with number {i} and more words in it" for i in range(9)]
    >>> report = contamination_report(items, [1.0] + [0.5] * 9, ["News: " + leaked])
    >>> report.n, sum(report.dirty), round(report.score_clean, 3), report.flagged
    (10, 1, 0.5, True)

    References
    ----------
    Brown et al. (2020), arXiv 2005.14165, section 4 and appendix C.
    """
    items, s = check_texts(items, "items"), as_array(scores, "scores").astype(float)
    if s.shape != (len(items),):
        raise ValueError(f"scores must be one number for each of the {len(items)} items, got shape {s.shape}")
    require_finite_rows(s, "scores")
    n = choose_n(items) if n is None else n
    dirty = np.array(find_dirty(items, corpus, n))
    total = float(s.mean())
    clean = float(s[~dirty].mean()) if (~dirty).any() else float("nan")
    bad = float(s[dirty].mean()) if dirty.any() else float("nan")
    relative = (clean - total) / total if total else float("nan") if np.isnan(clean) else 0.0
    return ContaminationReport(n, tuple(map(bool, dirty)), total, clean, bad, relative, bool(abs(relative) > 0.01))


def clean_corpus(
    corpus: Sequence[str],
    items: Sequence[str],
    *,
    n: int = 13,
    around: int = 200,
    min_length: int = 200,
    max_pieces: int = 10,
    max_documents: int = 10,
) -> Iterator[str]:
    """Cut the items' N-grams out of a corpus and yield the pieces that remain.

    Parameters
    ----------
    corpus : sequence of str
        Read twice: once to count how many documents hold an N-gram.
    items : sequence of str
        Test items that must not be seen in training.
    n : int, default 13
        Words per N-gram; shorter items are not looked for.
    around : int, default 200
        Characters deleted on each side of a match; the document is split there.
    min_length : int, default 200
        Shorter pieces are dropped (an untouched document never is).
    max_pieces : int, default 10
        A document cut into more pieces is dropped.
    max_documents : int, default 10
        An N-gram found in more documents is a commonplace and is ignored.

    Examples
    --------
    >>> leak = " ".join(f"w{i}" for i in range(13))
    >>> pieces = list(clean_corpus(["a" * 500 + " " + leak + " " + "b" * 500], [leak]))
    >>> [(p[0], len(p)) for p in pieces]
    [('a', 301), ('b', 301)]
    """
    check_counts(n=n, max_pieces=max_pieces, max_documents=max_documents)
    wanted = {gram for w in map(words, items) for gram in _grams(w, n)}
    seen: Counter[tuple[str, ...]] = Counter(
        chain.from_iterable({gram for gram, _, _ in _matches(document, wanted, n)} for document in corpus)
    )
    wanted -= {gram for gram, count in seen.items() if count > max_documents}
    for document in corpus:
        cuts: list[list[int]] = []
        for _, start, end in _matches(document, wanted, n):
            start, end = max(0, start - around), min(len(document), end + around)
            if cuts and start <= cuts[-1][1]:
                cuts[-1][1] = max(cuts[-1][1], end)
            else:
                cuts.append([start, end])
        if not cuts:
            yield document
            continue
        edges = [0, *chain.from_iterable(cuts), len(document)]
        pieces = [document[a:b] for a, b in zip(edges[::2], edges[1::2]) if b > a]
        if len(pieces) <= max_pieces:
            yield from (piece for piece in pieces if len(piece) >= min_length)


def _grams(w: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(w[j : j + n]) for j in range(len(w) - n + 1))


def _matches(document: str, wanted: set[tuple[str, ...]], n: int) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Yield (N-gram, first character, character after the last) of each occurrence."""
    spaced = _DASH.sub(lambda dash: " " * len(dash[0]), document)
    found = [(word, m.start(), m.end()) for m in re.finditer(r"\S+", spaced) if (word := _bare(m[0]))]
    for j in range(len(found) - n + 1):
        gram = tuple(w for w, _, _ in found[j : j + n])
        if gram in wanted:
            yield gram, found[j][1], found[j + n - 1][2]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval (Student's t)."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean of ``values`` and its confidence interval.

    Examples
    --------
    >>> i = mean_interval([1.0, 2.0, 3.0])
    >>> round(i.mean, 3), round(i.low, 3), round(i.high, 3)
    (2.0, -0.484, 4.484)
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs at least two values, got {len(values)}")
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)
