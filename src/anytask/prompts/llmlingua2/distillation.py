"""Training data of LLMLingua-2: compressions by a chat model, word labels aligned with them, and filters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anytask.core.rng import derive
from anytask.core.settings import Settings, real, whole
from anytask.lm.protocol import ChatRequest

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


class Distillation(Settings):
    """Filters and alignment of a chat model's compressions."""

    variation: float = real(90, "percentile of the variation rate at which chunks are dropped", at_least=0, at_most=100)
    gap: float = real(90, "percentile of the alignment gap from which chunks are dropped", at_least=0, at_most=100)
    window: int = whole(150, "words on either side in which a compressed word is looked for")


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
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    chunks = []
    while len(encode(text)) > max_tokens:
        low, high = 1, len(text)  # the longest prefix that fits, by bisection over the token count
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(encode(text[:middle])) <= max_tokens else (low, middle - 1)
        end = max(text.rfind(".", 0, low), text.rfind("\n", 0, low)) + 1
        end = end or low
        chunks.append(text[:end])
        text = text[end:]
    if text.strip():
        chunks.append(text)
    return chunks


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
        if len(w) > 4 and w.endswith("ies"):
            w = w[:-3] + "y"
        elif len(w) > 4 and w.endswith("ing"):
            w = w[:-3]
        elif len(w) > 4 and w.endswith("ed"):
            w = w[:-2]
        elif len(w) > 3 and w.endswith("s") and not w.endswith(("ss", "us", "is")):
            w = w[:-1]
        out.append(w)
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
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    o, q = [word.casefold() for word in original], [word.casefold() for word in compressed]
    n, labels, p = len(o), [False] * len(original), 0
    vocabulary = set(o)
    hits = sum(word in vocabulary for word in q)
    for word in q:
        if word not in vocabulary:
            continue
        for i in range(window):
            right, left = min(p + i, n - 1), max(p - i, 0)
            if o[right] == word and not labels[right]:
                labels[right] = True
                # After a far jump forward only half the window is walked, so that what was jumped over stays in reach.
                p = p + window // 2 if right - p > window // 2 else right
                break
            if o[left] == word and not labels[left]:
                labels[left] = True
                p = left
                break
    return Alignment(
        tuple(labels),
        variation_rate=1 - hits / len(q) if q else 0.0,
        hitting_rate=hits / n if n else 0.0,
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
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentiles lie in [0, 100], got {percentile}")
        if not kept or percentile == 100:
            continue
        values = np.array([getattr(alignments[i], name) for i in kept])
        limit = np.percentile(values, percentile)
        kept = [i for i, value in zip(kept, values) if value < limit or value == values.min()]
    return kept


@dataclass
class Distilled:
    """A data set for the classifier: words and labels of the chunks that passed the filters.

    ``alignments`` and ``compressions`` cover all chunks; ``kept`` are the indices of those that passed.
    """

    words: list[list[str]]
    labels: list[list[bool]]
    chunks: list[str] = field(default_factory=list)
    compressions: list[str] = field(default_factory=list)
    alignments: list[Alignment] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    kind: str | None = None


def label_pairs(
    chunks: Sequence[str],
    compressions: Sequence[str],
    *,
    window: int = 150,
    variation: float = 90,
    gap: float = 90,
    lemmatize: Callable[[Sequence[str]], list[str]] = casefold_lemma,
    kind: str | None = None,
) -> Distilled:
    """Turn (chunk, compression) pairs into a training set: words, alignment, filters.

    Commas are left out of the alignment, and labelled as dropped.

    Parameters
    ----------
    chunks, compressions : sequences of str, same length
    window, variation, gap
        As in :func:`annotate` and :func:`quality_filter`.
    lemmatize : callable, default :func:`casefold_lemma`
        Words -> comparison forms, same length; :func:`spacy_lemma` follows the paper.
    """
    if len(chunks) != len(compressions):
        raise ValueError(f"there must be one compression per chunk, got {len(compressions)} for {len(chunks)}")
    words, labels, alignments = [], [], []
    for chunk, compression in zip(chunks, compressions):
        o, q = split_words(chunk), [word for word in split_words(compression) if word != ","]
        places = [i for i, word in enumerate(o) if word != ","]
        alignment = annotate(lemmatize([o[i] for i in places]), lemmatize(q), window)
        flags = [False] * len(o)
        for i, flag in zip(places, alignment.labels):
            flags[i] = flag
        words.append(o)
        labels.append(flags)
        alignments.append(alignment)
    kept = [i for i in quality_filter(alignments, variation, gap) if words[i]]
    return Distilled(
        [words[i] for i in kept], [labels[i] for i in kept], list(chunks), list(compressions), alignments, kept, kind
    )


def distill(
    chat: Any,
    texts: Sequence[str],
    *,
    encode: Callable[[str], Sequence[Any]] = split_words,
    max_tokens: int = 512,
    instruction: str = INSTRUCTION,
    temperature: float = 0.3,
    top_p: float = 1.0,
    seed: int = 0,
    max_concurrency: int = 8,
    **labelling: Any,
) -> Distilled:
    """Ask a chat model to compress texts, and make a training set of its answers.

    Parameters
    ----------
    chat : ChatModel
    texts : sequence of str
    encode : callable, default words
        The chat model's tokenizer, for the chunks' length.
    max_tokens : int, default 512
        Length of a chunk.
    instruction : str
        With the place ``{text}``.
    temperature, top_p : float, default 0.3 and 1.0
    seed : int, default 0
        Each chunk's request gets a seed derived from it, so an answer does not depend on the order of arrival.
    **labelling
        Passed to :func:`label_pairs`.

    Raises
    ------
    ValueError
        If the instruction lacks ``{text}`` or there is no text.
    """
    if "{text}" not in instruction:
        raise ValueError("the instruction must contain the place {text}")
    chunks = [chunk for text in texts for chunk in chunk_text(text, encode, max_tokens)]
    if not chunks:
        raise ValueError("there is no text to distil from")
    requests = [
        ChatRequest(
            messages=({"role": "user", "content": instruction.replace("{text}", chunk.strip())},),
            temperature=temperature,
            top_p=top_p,
            max_tokens=2 * max_tokens,
            seed=derive(seed, "distil", i) % 2**31,
            tag="distil",
        )
        for i, chunk in enumerate(chunks)
    ]
    replies = chat.chat_many(requests, max_concurrency=max_concurrency)
    return label_pairs(chunks, [reply.text for reply in replies], kind=getattr(chat, "kind", None), **labelling)
