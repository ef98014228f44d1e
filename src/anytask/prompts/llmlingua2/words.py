"""From text to words: which tokens make a word, what it costs, and where a text may be cut."""

from __future__ import annotations

import functools
import hashlib
import math
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anytask.prompts.parts.words import NO_SPACES, Words, is_unspaced, runs

_PUNCTUATION = frozenset(string.punctuation)
_MARKS = "\u2581\u0120\u010a\u0109\u010d"  # how tokenizers spell white space: the metaspace, and byte-level ones' bytes
#: Letters and digits in a row, a number's sign before them, and marks between digits: 1,234.56 is one word, 2024-03-01
#: and 10:45 are, -5 and 3.5e-7 too.
_WORD = re.compile(
    rf"(?:(?<!\w)[+\-\u2212]?\.?(?=\d))?[^\W_{NO_SPACES}]+"
    rf"(?:(?<=\d)(?:[.,:/_'\u2019\u00b7\u2010-\u2013\uff0c\uff0e\uff1a-]|[eE][+-])(?=\d)[^\W_{NO_SPACES}]+"
    rf"|(?<=\d[eE])[+-](?=\d)\d+)*"
)


def check_target(target: Any) -> None:
    """Raise unless ``target`` is None, a callable, or the name of a tiktoken encoding that can be had."""
    if isinstance(target, str):
        counter_of(target)
    elif target is not None and not callable(target):
        raise TypeError(f"target must be a tiktoken name or a callable text -> int, got {target!r}")


@functools.lru_cache(8)
def counter_of(target: str | Callable[[str], int]) -> Callable[[str], int]:
    """Return text -> number of tokens, words that come again counted once.

    Examples
    --------
    >>> counter_of(lambda text: len(text.split()))("a b")
    2
    """
    if callable(target):
        return functools.lru_cache(100_000)(target)
    try:
        import tiktoken
    except ImportError as error:
        raise ImportError(f"target={target!r} needs tiktoken: pip install tiktoken") from error
    try:
        encoding = tiktoken.encoding_for_model(target)
    except KeyError:
        encoding = tiktoken.get_encoding(target)
    return functools.lru_cache(100_000)(lambda text: len(encoding.encode_ordinary(text)))


#: Token ids of model inputs -> their tokens' keep-probabilities.
Classify = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


def undecided(chunks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return probabilities of 0, where only the words are wanted."""
    return [np.zeros(len(chunk)) for chunk in chunks]


class WordReader:
    """Tokenise contexts, cut them into chunks that fit the encoder, and merge tokens to words.

    Word borders are those of the tokenizer's pre-tokenizer, but never inside a row of letters and digits or a number
    with inner marks (1,234.56); in scripts without spaces every token is a word.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        Gets one added token for each forced text that it would split.
    settings : LLMLingua2
    count : callable, optional
        Word -> its number of tokens for the target model; default: the encoder's tokens.

    Attributes
    ----------
    stand_in : dict
        Forced text -> the added token that stands for it.
    prefix, suffix : list of int
        Special tokens around a chunk.

    Raises
    ------
    ValueError
        If the tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: Any, settings: Any, count: Callable[[str], int] | None = None) -> None:
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self.backend is None:
            raise ValueError(
                f"LLMLingua2 needs a fast tokenizer (one that gives character offsets), got {type(tokenizer).__name__}"
            )
        self.backend.no_truncation()
        self.backend.no_padding()
        self._settings, self._count, self._released = settings, count, settings.convention == "released"
        split = [token for token in settings.force_tokens if not self._is_one_token(token)]
        # The name depends on the token alone, so that a saved compressor finds the embedding it was saved with.
        self.stand_in = {t: f"[NEW{hashlib.blake2b(t.encode(), digest_size=6).hexdigest()}]" for t in split}
        self._stands_for = {name: token for token, name in self.stand_in.items()}
        if new := [name for name in self._stands_for if self.backend.token_to_id(name) is None]:
            from tokenizers import AddedToken

            tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in new])
        self._forced = {*settings.force_tokens, *self._stands_for}
        ends = [name for end in settings.chunk_ends for name in (end, self.stand_in.get(end, end))]
        self._ends = re.compile("|".join(map(re.escape, ends)) or "(?!)")
        longest_first = sorted(self.stand_in, key=len, reverse=True)
        whole = [f"{self._edge(t[0])}{re.escape(t)}{self._edge(t[-1])}" for t in longest_first]
        self._split = re.compile("|".join(whole) or "(?!)")
        one = tokenizer("a", return_special_tokens_mask=True)
        inner = [i for i, special in enumerate(one["special_tokens_mask"]) if not special]
        self.prefix, self.suffix = one["input_ids"][: inner[0]], one["input_ids"][inner[-1] + 1 :]
        if self._released:  # it writes BERT's names, which other vocabularies read as unknown tokens
            self.prefix, self.suffix = ([tokenizer.convert_tokens_to_ids(t)] for t in ("[CLS]", "[SEP]"))
        self._room = settings.max_length - len(self.prefix) - len(self.suffix)
        words_only = type(self.backend.model).__name__ == "WordLevel"  # here an unknown word is one token like others
        self._unknown = None if words_only else tokenizer.unk_token_id

    def _is_one_token(self, text: str) -> bool:
        tokens = self.backend.encode(text, add_special_tokens=False).tokens
        return len(tokens) == 1 and (self._released or tokens[0].lstrip(_MARKS) == text)

    def _edge(self, char: str) -> str:
        return r"\b" if char.isalnum() and not self._released else ""  # a forced word matches whole words only

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Return the number of tokens of each text, by the target's tokenizer."""
        if self._count is not None:
            return np.array([self._count(text) for text in texts])
        encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return np.array([self._costs(e.ids, [t[a:b] for a, b in e.offsets]).sum() for t, e in zip(texts, encoded)])

    def _costs(self, ids: Sequence[int], pieces: Sequence[str]) -> np.ndarray:
        """Return how many tokens each token counts for: what is unknown, one for each four bytes, about a GPT's."""
        size = [
            1 if i != self._unknown else math.ceil(len(piece.encode("utf-8", "replace")) / 4) or 1
            for i, piece in zip(ids, pieces)
        ]
        return np.array(size, dtype=np.int64)

    def words(self, contexts: Sequence[str], classify: Classify = undecided) -> Words:
        """Replace forced tokens by their stand-ins, tokenise, cut into chunks, classify, and merge tokens to words."""
        for name in self._stands_for:
            if any(name in context for context in contexts):
                raise ValueError(f"the text contains {name!r}, which stands for a forced token; rename it first")
        texts = [self._split.sub(lambda m: self.stand_in[m.group()], context) for context in contexts]
        encodings = self.backend.encode_batch(texts, add_special_tokens=False)
        # From here on the contexts are one text, and every array is over all of their tokens, or words.
        text = "\0".join(texts)
        context = np.repeat(np.arange(len(texts)), [len(e.ids) for e in encodings])  # (n,)
        ids, tokens, word_ids = ([x for e in encodings for x in getattr(e, n)] for n in ("ids", "tokens", "word_ids"))
        base = np.cumsum([0, *(len(t) + 1 for t in texts)])[context]
        offsets = np.array([pair for e in encodings for pair in e.offsets], dtype=np.int64).reshape(-1, 2)
        begin, end = (offsets + base[:, None]).T
        pieces = [text[a:b].strip() for a, b in zip(begin, end)]
        starts = (np.diff(np.array(word_ids, dtype=np.int64), prepend=-1) != 0) | (np.diff(context, prepend=-1) != 0)
        starts |= np.array([piece in _PUNCTUATION for piece in pieces], dtype=bool)
        if not self._released:
            inside, after_unspaced = np.zeros((2, len(text) + 1), dtype=bool)
            for word in _WORD.finditer(text):
                inside[word.start() + 1 : word.end()] = True
                after_unspaced[word.start()] = is_unspaced(text[word.start() - 1 : word.start()])
            starts = (starts & ~inside[begin]) | after_unspaced[begin]
            starts |= np.array([piece[:1].isalnum() and is_unspaced(piece) for piece in pieces], dtype=bool)
        sure = np.array([token.lstrip(_MARKS) in self._forced for token in tokens], dtype=bool) & starts
        if self._settings.force_digits:
            sure |= np.array([re.search(r"\d", p) is not None and p not in self._forced for p in pieces], dtype=bool)
        stops = self._cut(text, begin, end, starts, context)
        starts[stops] = True
        first = np.flatnonzero(starts)  # (w,)
        if len(first) and not self._released:  # a forced token makes its whole word certain
            sure = np.logical_or.reduceat(sure, first)[np.cumsum(starts) - 1]
        p = np.concatenate([np.zeros(0), *classify(np.split(np.array(ids, dtype=np.int64), stops[1:]))])
        certain = np.where(sure, 1.0, p)
        n_tokens = np.diff(first, append=len(p))
        if self._settings.token_to_word == "mean":
            p, certain = (np.add.reduceat(q, first) / n_tokens for q in (p, certain))
        else:
            p, certain = p[first], certain[first]
        spelled, gap = self._spell(text, begin[first], end[first + n_tokens - 1])
        if self._count is None:
            cost = np.add.reduceat(self._costs(ids, pieces), first)
        else:
            counted = [f" {word}" if wide else word for word, wide in zip(spelled, gap)]
            if self._released:  # it counts words as the tokenizer spells them, border marks included
                rest = [token.lstrip(_MARKS).removeprefix("##") for token in tokens]
                counted = ["".join([tokens[i], *rest[i + 1 : i + n]]) for i, n in zip(first, n_tokens)]
            cost = np.array([self._count(self._stands_for.get(word, word)) for word in counted], dtype=np.int64)
        chunk = np.searchsorted(stops, first, side="right")
        return Words(
            np.array(spelled, dtype=object), np.array(gap, dtype=bool), context[first], chunk, cost, p, certain
        )

    def _cut(self, text: str, begin: np.ndarray, end: np.ndarray, starts: np.ndarray, context: np.ndarray) -> list[int]:
        """Return where chunks begin that fit, each ending at the last chunk end inside it (if there is one)."""
        n = len(begin)
        ends = np.array([m.end() for m in self._ends.finditer(text)])
        after = np.append(begin[1:], len(text))[:n]
        is_end = np.searchsorted(ends, end) < np.searchsorted(ends, after, side="right")
        is_end &= np.append(starts[1:], True)[:n]
        last = np.maximum.accumulate(np.where(is_end, np.arange(n), -1))  # last chunk end at or before a token
        stops = []
        for rows in runs(context):
            start, stop = rows[0], rows[-1] + 1
            while start < stop:
                stops.append(int(start))
                full = start + self._room + self._released
                start = stop if stop - start <= self._room else last[full - 1] + 1 if last[full - 1] > start else full
        return stops

    def _spell(self, text: str, begin: np.ndarray, end: np.ndarray) -> tuple[list[str], list[bool]]:
        """Return the words at these places, and whether there is white space before each."""
        # A mark that stands alone may claim the character after it, which is the next word's.
        end = np.minimum(end, np.append(begin[1:], len(text))[: len(begin)])
        raw = [text[a:b] for a, b in zip(begin, end)]
        begin = begin + [len(piece) - len(piece.lstrip()) for piece in raw]
        words = [piece.strip() for piece in raw]
        done = np.maximum.accumulate(np.append(0, begin + [len(word) for word in words]))
        gap = [word != "" and any(map(str.isspace, text[a:b])) for word, a, b in zip(words, done, begin)]
        return [self._stands_for.get(word, word) for word in words], gap
