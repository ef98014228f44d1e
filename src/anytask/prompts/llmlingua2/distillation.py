"""Training data of LLMLingua-2: compressions by a chat model, word labels aligned with them, and filters."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytask.core.rng import derive
from anytask.core.settings import Settings, free, of_kind, real, whole
from anytask.lm.protocol import ChatRequest, check_texts, require

#: English endings, what takes their place, and the length that a word has to exceed.
_ENDINGS = (("ies", "y", 4), ("ing", "", 4), ("ed", "", 4), ("s", "", 3))
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


#: What the chat model is asked to do; ``{text}`` is the chunk.
INSTRUCTION = """Compress the text below by deleting words, so that another language model can still tell
all it says.

Rules:
- You may only delete words. Keep the order of those that stay.
- Never change a word, its ending or its spelling; never abbreviate; never add a word, a symbol or a comment.
- Delete every word that the reader can do without, and as many as you can.

Answer with the shortened text alone.

Text:
{text}"""


def chunk_text(text: str, encode: Callable[[str], Sequence[Any]], max_tokens: int = 512) -> list[str]:
    """Cut a document into chunks of at most ``max_tokens`` that end at a full stop or a newline where there is one.

    Longer inputs make a chat model delete too much. The chunks joined are the document.

    Parameters
    ----------
    text : str
    encode : callable
        Text -> token ids of the chat model's tokenizer.
    max_tokens : int, default 512

    Examples
    --------
    >>> chunk_text("One two. Three four five. Six", str.split, max_tokens=3)
    ['One two.', ' Three four five.', ' Six']
    """
    chunks: list[str] = []
    start = 0

    def too_long(n: int) -> bool:
        return len(encode(text[start : start + n])) > max_tokens

    while too_long(len(text)):
        fits = start + max(1, bisect_left(range(1, len(text) - start), True, key=too_long))
        end = max(text.rfind(".", start, fits), text.rfind("\n", start, fits)) + 1 or fits
        chunks.append(text[start:end])
        start = end
    return [*chunks, text[start:]] if text[start:].strip() else chunks


def split_words(text: str) -> list[str]:
    """Return words and punctuation marks, one by one.

    Examples
    --------
    >>> split_words("Don't go, Bob!")
    ["Don't", 'go', ',', 'Bob', '!']
    """
    return _WORD.findall(text)


def casefold_lemma(words: Sequence[str]) -> list[str]:
    """Fold case, and the plainest English endings, so that small changes of inflection still align.

    Examples
    --------
    >>> casefold_lemma(["Cities", "walked", "walks", "glass"])
    ['city', 'walk', 'walk', 'glass']
    """
    out = []
    for word in words:
        w = word.casefold().replace("\u2019", "'").removesuffix("'s")
        ending, instead = next((e for e in _ENDINGS if w.endswith(e[0]) and len(w) > e[2]), ("", "", 0))[:2]
        out.append(w if w.endswith(("ss", "us", "is")) else w.removesuffix(ending) + instead)
    return out


def spacy_lemma(model: str = "en_core_web_sm") -> Callable[[Sequence[str]], list[str]]:
    """Return a lemmatiser made of a spaCy pipeline, to be given as ``lemmatize``.

    Raises
    ------
    ImportError
        If spaCy or the pipeline is not installed.
    """
    try:
        import spacy

        pipeline = spacy.load(model, disable=["parser", "ner"])
    except (ImportError, OSError) as error:
        raise ImportError(f"spacy_lemma needs spaCy: pip install spacy && python -m spacy download {model}") from error
    from spacy.tokens import Doc

    return lambda words: [token.lemma_ for token in pipeline(Doc(pipeline.vocab, words=list(words)))]


@dataclass(frozen=True)
class Alignment:
    """Keep-labels of an original's words, and how well the compression fits the original.

    ``variation_rate`` is the share of the compression's words that the original lacks, ``hitting_rate`` the number of
    the others over the original's words, ``matching_rate`` the share of labelled words, and ``alignment_gap`` the
    difference of the last two: what the window missed.
    """

    labels: tuple[bool, ...]
    variation_rate: float
    hitting_rate: float
    matching_rate: float

    @property
    def alignment_gap(self) -> float:
        return self.hitting_rate - self.matching_rate


def annotate(original: Sequence[str], compressed: Sequence[str], window: int = 150) -> Alignment:
    """Find each compressed word in the original, near the place of the one before it, each place used once.

    Parameters
    ----------
    original, compressed : sequence of str
        Words, lemmatised if inflections may differ; compared without case.
    window : int, default 150
        How far to look on either side (400 in the released recipe).

    Examples
    --------
    >>> original = "the cat sat on the mat the end".split()
    >>> [i for i, kept in enumerate(annotate(original, "cat on mat end".split(), window=4).labels) if kept]
    [1, 3, 5, 7]
    """
    o, q = [word.casefold() for word in original], [word.casefold() for word in compressed]
    n, labels, p = len(o), [False] * len(original), 0
    vocabulary = set(o)
    known = [word for word in q if word in vocabulary]
    for word in known:
        near = (place for i in range(window) for place in (min(p + i, n - 1), max(p - i, 0)))
        found = next((place for place in near if o[place] == word and not labels[place]), None)
        if found is not None:
            labels[found] = True
            # After a far jump forward only half the window is walked, so that what was jumped over stays in reach.
            p = p + window // 2 if found - p > window // 2 else found
    return Alignment(
        tuple(labels),
        variation_rate=1 - len(known) / len(q) if q else 0.0,
        hitting_rate=len(known) / n if n else 0.0,
        matching_rate=sum(labels) / n if n else 0.0,
    )


def quality_filter(alignments: Sequence[Alignment], variation: float = 90, gap: float = 90) -> list[int]:
    """Return the indices of the alignments worth training on.

    Drops those whose variation rate reaches the ``variation``-th percentile, and of the rest those whose alignment gap
    reaches the ``gap``-th. A percentile of 100 drops nothing. Those at the minimum are kept in any case: where most
    compressions are perfect, perfect ones are not thrown away for being tied.

    Examples
    --------
    >>> good, bad = Alignment((True,), 0.0, 1.0, 1.0), Alignment((True,), 0.5, 0.5, 0.5)
    >>> quality_filter([good] * 8 + [bad, bad])
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    kept = list(range(len(alignments)))
    for percentile, name in ((variation, "variation_rate"), (gap, "alignment_gap")):
        values = [getattr(alignments[i], name) for i in kept]
        if values and percentile < 100:
            limit = np.percentile(values, percentile)
            kept = [i for i, value in zip(kept, values) if value < limit or value == min(values)]
    return kept


@dataclass
class Distilled:
    """A data set for the classifier: words and labels of the chunks that passed the filters.

    ``alignments`` and ``compressions`` cover all chunks; ``kept`` are the indices of those that passed.
    """

    words: list[list[str]]
    labels: list[list[bool]]
    chunks: list[str]
    compressions: list[str]
    alignments: list[Alignment]
    kept: list[int]
    kind: str | None = None


def _check_instruction(instruction: Any) -> None:
    if not isinstance(instruction, str) or "{text}" not in instruction:
        raise ValueError(f"instruction must contain the place {{text}}, got {instruction!r}")


class Distillation(Settings):
    """Have a chat model compress texts, and make a training set of its answers: words, alignment, filters.

    Parameters
    ----------
    max_tokens : int, default 512
        Length of the chunks that the chat model gets, in tokens by ``encode`` (default: words).
    instruction : str
        With the place ``{text}``.
    temperature, top_p : float, default 0.3 and 1.0
    window, variation, gap : default 150, 90 and 90
        As in :func:`annotate` and :func:`quality_filter`.
    lemmatize : callable, default :func:`casefold_lemma`
        Words -> comparison forms, same length; :func:`spacy_lemma` follows the paper.
    """

    max_tokens: int = whole(512, "length of a chunk in tokens")
    encode: Callable[[str], Sequence[Any]] = of_kind(
        split_words, (Callable,), "a callable", "the chat model's tokenizer, for the chunks' length"
    )
    instruction: str = free(INSTRUCTION, "what the chat model is asked, with the place {text}", _check_instruction)
    temperature: float = real(0.3, "sampling temperature of the chat model", at_least=0)
    top_p: float = real(1.0, "share of the probability that is sampled from", above=0, at_most=1)
    window: int = whole(150, "words on either side in which a compressed word is looked for")
    variation: float = real(90, "percentile of the variation rate at which chunks are dropped", at_least=0, at_most=100)
    gap: float = real(90, "percentile of the alignment gap from which chunks are dropped", at_least=0, at_most=100)
    lemmatize: Callable[[Sequence[str]], list[str]] = of_kind(
        casefold_lemma, (Callable,), "a callable", "words -> the forms that are compared"
    )

    def distill(self, chat: Any, texts: Sequence[str], *, seed: int = 0, max_concurrency: int = 8) -> Distilled:
        """Ask a chat model to compress texts, and label their words by its answers.

        Each chunk's request gets a seed derived from ``seed``, so an answer does not depend on the order of arrival.
        """
        require(chat, "chat", method="distill")
        chunks = [
            chunk for text in check_texts(texts, "texts") for chunk in chunk_text(text, self.encode, self.max_tokens)
        ]
        if not chunks:
            raise ValueError("there is no text to distil from")
        how: Any = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": 2 * self.max_tokens}
        requests = [
            ChatRequest(
                ({"role": "user", "content": self.instruction.replace("{text}", chunk.strip())},),
                seed=derive(seed, "distil", i) % 2**31, tag="distil", **how,
            )
            for i, chunk in enumerate(chunks)
        ]  # fmt: skip
        replies = chat.chat_many(requests, max_concurrency=max_concurrency)
        return self.label(chunks, [reply.text for reply in replies], getattr(chat, "kind", None))

    def label(self, chunks: Sequence[str], compressions: Sequence[str], kind: str | None = None) -> Distilled:
        """Turn chunks and their compressions into a training set.

        Commas are left out of the alignment, and labelled as dropped.
        """
        if len(chunks) != len(compressions):
            raise ValueError(f"there must be one compression per chunk, got {len(compressions)} for {len(chunks)}")
        words, labels, alignments = [split_words(chunk) for chunk in chunks], [], []
        for o, compression in zip(words, compressions):
            q = [word for word in split_words(compression) if word != ","]
            places = [i for i, word in enumerate(o) if word != ","]
            alignment = annotate(self.lemmatize([o[i] for i in places]), self.lemmatize(q), self.window)
            needed = {i for i, flag in zip(places, alignment.labels) if flag}
            labels.append([i in needed for i in range(len(o))])
            alignments.append(alignment)
        kept = [i for i in quality_filter(alignments, self.variation, self.gap) if words[i]]
        chosen = [words[i] for i in kept], [labels[i] for i in kept]
        return Distilled(*chosen, list(chunks), list(compressions), alignments, kept, kind)
