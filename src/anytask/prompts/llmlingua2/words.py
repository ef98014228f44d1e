"""From text to words and back: which tokens make a word, where a text may be cut, and how kept words are written."""

from __future__ import annotations

import functools
import hashlib
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

_PUNCTUATION = frozenset(string.punctuation)
_MARKS = "\u2581\u0120\u010a\u0109\u010d"  # how tokenizers spell white space: the metaspace, and byte-level ones' bytes
#: Scripts without spaces between words: Thai to Tibetan, Burmese, Khmer, Tai, Chinese and Japanese.
_NO_SPACES = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u2e80-\u312f\u3190-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(f"[{_NO_SPACES}]")
#: Letters and digits in a row, a number's sign before them, and marks between digits: 1,234.56 is one word, 2024-03-01
#: and 10:45 are, -5 and 3.5e-7 too.
_WORD = re.compile(
    rf"(?:(?<!\w)[+\-\u2212]?\.?(?=\d))?[^\W_{_NO_SPACES}]+"
    rf"(?:(?<=\d)(?:[.,:/_'\u2019\u00b7\u2010-\u2013\uff0c\uff0e\uff1a-]|[eE][+-])(?=\d)[^\W_{_NO_SPACES}]+"
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


def is_unspaced(char: str) -> bool:
    """Return whether a character belongs to a script without spaces between words."""
    return _UNSPACED.match(char) is not None


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


@dataclass
class Page:
    """One context, tokenised, cut into chunks, and its tokens grouped to words."""

    ids: np.ndarray  # (n,)
    stops: list[int]  # where chunks begin
    sure: np.ndarray  # (n,) whether a token is kept in any case
    first: np.ndarray  # (w,) the first token of each word
    text: list[str]
    gap: list[bool]
    cost: np.ndarray  # (w,)

    @property
    def chunks(self) -> list[np.ndarray]:
        """Token ids of each model input."""
        return np.split(self.ids, self.stops[1:])


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
        return np.array([self._costs(*pair).sum() for pair in zip(texts, encoded)])

    def _costs(self, text: str, encoding: Any) -> np.ndarray:
        """Return how many tokens each token counts for: what is unknown, one for each four bytes, about a GPT's."""
        return np.array(
            [
                1 if i != self._unknown else -(-len(text[a:b].encode("utf-8", "replace")) // 4) or 1
                for i, (a, b) in zip(encoding.ids, encoding.offsets)
            ],
            dtype=np.int64,
        )

    def read(self, contexts: Sequence[str]) -> list[Page]:
        """Replace forced tokens by their stand-ins, tokenise, cut into chunks, and find the words."""
        for name in self._stands_for:
            if any(name in context for context in contexts):
                raise ValueError(f"the text contains {name!r}, which stands for a forced token; rename it first")
        texts = [self._split.sub(lambda m: self.stand_in[m.group()], context) for context in contexts]
        return [self._page(*pair) for pair in zip(texts, self.backend.encode_batch(texts, add_special_tokens=False))]

    def _page(self, text: str, encoding: Any) -> Page:
        begin, end = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
        pieces = [text[a:b].strip() for a, b in encoding.offsets]
        starts = np.diff(np.array(encoding.word_ids, dtype=np.int64), prepend=-1) != 0
        starts |= np.array([piece in _PUNCTUATION for piece in pieces], dtype=bool)
        if not self._released:
            inside, after_unspaced = np.zeros((2, len(text) + 1), dtype=bool)
            for word in _WORD.finditer(text):
                inside[word.start() + 1 : word.end()] = True
                after_unspaced[word.start()] = is_unspaced(text[word.start() - 1 : word.start()])
            starts = (starts & ~inside[begin]) | after_unspaced[begin]
            starts |= np.array([piece[:1].isalnum() and is_unspaced(piece) for piece in pieces], dtype=bool)
        sure = np.array([token.lstrip(_MARKS) in self._forced for token in encoding.tokens], dtype=bool) & starts
        if self._settings.force_digits:
            sure |= np.array([re.search(r"\d", p) is not None and p not in self._forced for p in pieces], dtype=bool)
        stops = self._cut(text, begin, end, starts)
        starts[stops] = True
        first = np.flatnonzero(starts)
        if len(first) and not self._released:  # a forced token makes its whole word certain
            sure = np.logical_or.reduceat(sure, first)[np.cumsum(starts) - 1]
        words, gap = self._spell(text, begin[first], end[np.append(first[1:], len(begin))[: len(first)] - 1])
        cost = self._word_costs(text, encoding, first, words, gap)
        return Page(np.array(encoding.ids, dtype=np.int64), stops, sure, first, words, gap, cost)

    def _cut(self, text: str, begin: np.ndarray, end: np.ndarray, starts: np.ndarray) -> list[int]:
        """Return where chunks begin that fit, each ending at the last chunk end inside it (if there is one)."""
        n = len(begin)
        ends = np.array([m.end() for m in self._ends.finditer(text)])
        after = np.append(begin[1:], len(text))[:n]
        is_end = np.searchsorted(ends, end) < np.searchsorted(ends, after, side="right")
        is_end &= np.append(starts[1:], True)[:n]
        last = np.maximum.accumulate(np.where(is_end, np.arange(n), -1))  # last chunk end at or before a token
        stops = [0] if n else []
        while stops and n - stops[-1] > self._room:
            stop = stops[-1] + self._room + self._released
            stops.append(int(last[stop - 1]) + 1 if last[stop - 1] > stops[-1] else stop)
        return stops

    def _spell(self, text: str, begin: np.ndarray, end: np.ndarray) -> tuple[list[str], list[bool]]:
        """Return the words at these places, and whether there is white space before each."""
        # A mark that stands alone may claim the character after it, which is the next word's.
        end = np.minimum(end, np.append(begin[1:], len(text))[: len(begin)])
        raw = [text[a:b] for a, b in zip(begin, end)]
        words = [self._stands_for.get(piece.strip(), piece.strip()) for piece in raw]
        begin = begin + [len(piece) - len(piece.lstrip()) for piece in raw]
        done = np.maximum.accumulate(np.append(0, begin + [len(piece.strip()) for piece in raw]))
        return words, [w != "" and any(map(str.isspace, text[a:b])) for w, a, b in zip(words, done, begin)]

    def _word_costs(self, text: str, encoding: Any, first: np.ndarray, words: list[str], gap: list[bool]) -> np.ndarray:
        if self._count is None:
            return np.add.reduceat(self._costs(text, encoding), first)
        spelled = [f" {word}" if wide else word for word, wide in zip(words, gap)]
        if self._released:  # it counts words as the tokenizer spells them, border marks included
            rest = [token.lstrip(_MARKS).removeprefix("##") for token in encoding.tokens]
            places = zip(first, np.append(first[1:], len(rest)))
            spelled = ["".join([encoding.tokens[i], *rest[i + 1 : j]]) for i, j in places]
            spelled = [self._stands_for.get(word, word) for word in spelled]
        return np.array([self._count(word) for word in spelled], dtype=np.int64)

    def words(self, pages: Sequence[Page], p: np.ndarray) -> Words:
        """Merge the keep-probabilities of all pages' tokens to those of their words."""
        size = np.array([len(page.ids) for page in pages])
        offset = np.cumsum(size) - size
        first = np.concatenate([page.first + at for page, at in zip(pages, offset)])
        begins = np.concatenate([np.array(page.stops, dtype=int) + at for page, at in zip(pages, offset)])
        certain = np.where(np.concatenate([page.sure for page in pages]), 1.0, p)
        if self._settings.token_to_word == "mean":
            tokens = np.diff(first, append=len(p))
            p, certain = (np.add.reduceat(q, first) / tokens for q in (p, certain))
        else:
            p, certain = p[first], certain[first]
        return Words(
            text=np.array([word for page in pages for word in page.text], dtype=object),
            gap=np.array([gap for page in pages for gap in page.gap], dtype=bool),
            context=np.repeat(np.arange(len(pages)), [len(page.first) for page in pages]),
            chunk=np.searchsorted(begins, first, side="right"),
            cost=np.concatenate([page.cost for page in pages]),
            p=p,
            forced_p=certain,
        )


def check_contexts(contexts: Sequence[str]) -> list[str]:
    """Return the contexts of a prompt as a list, or say which of them is no text."""
    contexts = list(contexts)
    for i, context in enumerate(contexts):
        if not isinstance(context, str):
            raise TypeError(f"context {i} must be a text, got {type(context).__name__}")
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
