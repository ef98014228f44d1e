"""From text to words and back: which tokens make a word, where a text may be cut, and how kept words are written."""

from __future__ import annotations

import functools
import hashlib
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytask.prompts.base import Compression

_PUNCTUATION = frozenset(string.punctuation)
_MARKS = "\u2581\u0120\u010a\u0109\u010d"  # how tokenizers spell white space: the metaspace, and byte-level ones' bytes
#: Letters and digits in a row, with marks between digits: 1,234.56 is one word, 2024-03-01 and 10:45 are.
_WORD = re.compile(r"[^\W_]+(?:(?<=\d)[.,:/-](?=\d)[^\W_]+)*")
#: Scripts without spaces between words: Thai to Tibetan, Burmese, Khmer, Chinese and Japanese.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def check_target(target: Any) -> None:
    """Raise unless ``target`` is None, a callable, or the name of a tiktoken encoding that can be had."""
    if isinstance(target, str):
        counter_of(target)
    elif target is not None and not callable(target):
        raise TypeError(f"target must be a tiktoken name or a callable text -> int, got {target!r}")


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


@dataclass
class TokenisedText:
    """A context with its forced tokens replaced, tokenised, and cut into chunks [start, end)."""

    text: str
    tokens: list[str]
    ids: np.ndarray
    offsets: np.ndarray  # (n, 2)
    cost: np.ndarray  # (n,) tokens that a token counts for
    starts: np.ndarray  # (n,) whether it begins a word
    sure: np.ndarray  # (n,) whether it is kept in any case
    chunks: list[tuple[int, int]]


@dataclass
class ChunkWords:
    """Words of one model input: where they come from, and what the classifier thinks of them."""

    context: int
    words: list[str]
    gaps: list[bool]  # white space before the word
    p: np.ndarray  # (w,) keep-probabilities before forcing
    forced_p: np.ndarray  # (w,) with forced words at 1
    cost: np.ndarray  # (w,) tokens of the target model


class WordReader:
    """Tokenise contexts, cut them into chunks that fit the encoder, and merge tokens to words.

    Word borders are those of the tokenizer's pre-tokenizer, but never inside a row of letters and digits or a number
    with inner marks (1,234.56); in scripts without spaces every token is a word.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        Gets one added token for each forced text that it would split.
    force_tokens, force_digits, token_to_word, chunk_ends, max_length, convention
        As in :class:`~anytask.prompts.LLMLingua2`.

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

    def __init__(
        self,
        tokenizer: Any,
        *,
        force_tokens: Sequence[str] = (),
        force_digits: bool = False,
        token_to_word: str = "mean",
        chunk_ends: Sequence[str] = (".", "\n"),
        max_length: int = 512,
        convention: str = "paper",
    ) -> None:
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if self.backend is None:
            raise ValueError(
                f"LLMLingua2 needs a fast tokenizer (one that gives character offsets), got {type(tokenizer).__name__}"
            )
        self.backend.no_truncation()
        self.backend.no_padding()
        self.force_digits, self.token_to_word = force_digits, token_to_word
        self.released = convention == "released"
        split = [t for t in force_tokens if not self._is_one_token(t)]
        # The name depends on the token alone, so that a saved compressor finds the embedding it was saved with.
        self.stand_in = {t: f"[NEW{hashlib.blake2b(t.encode(), digest_size=6).hexdigest()}]" for t in split}
        if new := [name for name in self.stand_in.values() if name not in tokenizer.get_vocab()]:
            from tokenizers import AddedToken

            tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in new])
        self._forced = {*force_tokens, *self.stand_in.values()}
        ends = [name for end in chunk_ends for name in (end, self.stand_in.get(end, end))]
        self._ends = re.compile("|".join(map(re.escape, ends)) or "(?!)")
        edges = [] if self.released else [r"(?<!\w)", r"(?!\w)"]  # a forced word matches whole words only
        self._split = re.compile(
            "|".join(
                (edges[0] if edges and t[0].isalnum() else "")
                + re.escape(t)
                + (edges[1] if edges and t[-1].isalnum() else "")
                for t in sorted(self.stand_in, key=len, reverse=True)
            )
            or "(?!)"
        )
        one = tokenizer("a", return_special_tokens_mask=True)
        inner = [i for i, special in enumerate(one["special_tokens_mask"]) if not special]
        self.prefix, self.suffix = one["input_ids"][: inner[0]], one["input_ids"][inner[-1] + 1 :]
        if self.released:  # it writes BERT's names, which other vocabularies read as unknown tokens
            self.prefix, self.suffix = ([tokenizer.convert_tokens_to_ids(t)] for t in ("[CLS]", "[SEP]"))
        self.room = max_length - len(self.prefix) - len(self.suffix)
        words_only = type(self.backend.model).__name__ == "WordLevel"  # here an unknown word is one token like others
        self._unknown = None if words_only else tokenizer.unk_token_id

    def _is_one_token(self, text: str) -> bool:
        tokens = self.backend.encode(text, add_special_tokens=False).tokens
        return len(tokens) == 1 and (self.released or tokens[0].lstrip(_MARKS) == text)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [int(self._costs(*pair).sum()) for pair in zip(texts, encoded)]

    def _costs(self, text: str, encoding: Any) -> np.ndarray:
        """Return how many tokens each token counts for: what is unknown, one for each four bytes, about a GPT's."""
        return np.array(
            [
                1 if i != self._unknown else -(-len(text[a:b].encode("utf-8", "replace")) // 4) or 1
                for i, (a, b) in zip(encoding.ids, encoding.offsets)
            ],
            dtype=np.int64,
        )

    def tokenise(self, contexts: Sequence[str]) -> list[TokenisedText]:
        """Replace forced tokens by their stand-ins, tokenise, and cut into chunks."""
        for name in self.stand_in.values():
            if any(name in context for context in contexts):
                raise ValueError(f"the text contains {name!r}, which stands for a forced token; rename it first")
        texts = [self._split.sub(lambda m: self.stand_in[m.group()], context) for context in contexts]
        return [self._read(*pair) for pair in zip(texts, self.backend.encode_batch(texts, add_special_tokens=False))]

    def _read(self, text: str, encoding: Any) -> TokenisedText:
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        pieces = [text[a:b].strip() for a, b in encoding.offsets]
        starts = np.diff(np.array(encoding.word_ids, dtype=np.int64), prepend=-1) != 0
        starts |= np.array([piece in _PUNCTUATION for piece in pieces], dtype=bool)
        if not self.released:
            inside = np.zeros(len(text) + 1, dtype=bool)
            for word in _WORD.finditer(text):
                inside[word.start() + 1 : word.end()] = True
            starts &= ~inside[offsets[:, 0]]
            starts |= np.array([piece[:1].isalnum() and is_unspaced(piece[0]) for piece in pieces], dtype=bool)
        forced = np.array([token.lstrip(_MARKS) in self._forced for token in encoding.tokens], dtype=bool) & starts
        if self.force_digits:
            forced |= np.array([re.search(r"\d", p) is not None and p not in self._forced for p in pieces], dtype=bool)
        ids, cost = np.array(encoding.ids, dtype=np.int64), self._costs(text, encoding)
        out = TokenisedText(text, encoding.tokens, ids, offsets, cost, starts, forced, [])
        out.chunks = self._cut(out)
        return out

    def _cut(self, t: TokenisedText) -> list[tuple[int, int]]:
        """Cut a token sequence into chunks that fit, each ending at the last chunk end inside it (if there is one)."""
        n = len(t.ids)
        if n <= self.room:
            return [(0, n)] if n else []
        ends = np.array([m.end() for m in self._ends.finditer(t.text)])
        after = np.append(t.offsets[1:, 0], len(t.text))
        is_end = np.searchsorted(ends, t.offsets[:, 1]) < np.searchsorted(ends, after, side="right")
        is_end &= np.append(t.starts[1:], True)
        last = np.maximum.accumulate(np.where(is_end, np.arange(n), -1))  # last chunk end at or before a token
        chunks, start = [], 0
        while n - start > self.room:
            stop = start + self.room + self.released
            if last[stop - 1] > start:
                stop = int(last[stop - 1]) + 1
            chunks.append((start, stop))
            start = stop
        return [*chunks, (start, n)] if start < n else chunks

    def merge(
        self,
        t: TokenisedText,
        context: int,
        probabilities: Sequence[np.ndarray],
        count: Callable[[str], int] | None = None,
    ) -> list[ChunkWords]:
        """Merge the tokens of each chunk to words.

        Parameters
        ----------
        t : TokenisedText
        context : int
            Its index, to be remembered.
        probabilities : sequence of (n_chunk,) arrays
            Keep-probabilities of each chunk's tokens.
        count : callable, optional
            Word -> its number of tokens for the target model; default: the encoder's tokens.
        """
        names = {name: token for token, name in self.stand_in.items()}
        out, done = [], 0  # done: where the word before ended, in characters
        for (a, b), p in zip(t.chunks, probabilities):
            starts, sure = t.starts[a:b].copy(), t.sure[a:b]
            starts[0] = True
            first = np.flatnonzero(starts)
            size = np.diff(first, append=b - a)
            words, gaps = [], []
            for i, k in zip((a + first).tolist(), size.tolist()):
                # A mark that stands alone may claim the character after it, which is the next word's.
                limit = t.offsets[i + k, 0] if i + k < len(t.ids) else len(t.text)
                raw = t.text[t.offsets[i, 0] : min(t.offsets[i + k - 1, 1], limit)]
                begin = int(t.offsets[i, 0]) + len(raw) - len(raw.lstrip())
                words.append(names.get(raw.strip(), raw.strip()))
                gaps.append(bool(words[-1]) and any(map(str.isspace, t.text[done:begin])))
                done = max(done, begin + len(raw.strip()))
            certain = np.where(sure, 1.0, p)
            if self.token_to_word == "mean":
                mean, forced = (np.add.reduceat(q, first) / size for q in (p, certain))
            else:
                mean, forced = p[first], certain[first]
            if not self.released:
                forced = np.where(np.logical_or.reduceat(sure, first), 1.0, forced)
            if count is None:
                cost = np.add.reduceat(t.cost[a:b], first)
            elif self.released:  # it counts words as the tokenizer spells them, border marks included
                rest = [token.lstrip(_MARKS).removeprefix("##") for token in t.tokens[a:b]]
                marked = [t.tokens[a + i] + "".join(rest[i + 1 : i + k]) for i, k in zip(first, size)]
                cost = np.array([count(names.get(word, word)) for word in marked])
            else:
                cost = np.array([count(f" {word}" if gap else word) for word, gap in zip(words, gaps)])
            out.append(ChunkWords(context, words, gaps, mean, forced, cost))
        return out


def is_unspaced(char: str) -> bool:
    """Return whether a character belongs to a script without spaces between words."""
    return _UNSPACED.match(char) is not None


def as_contexts(text: str | Sequence[str]) -> list[str]:
    """Return the contexts of a prompt, one text being one context."""
    contexts = [text] if isinstance(text, str) else list(text)
    for i, context in enumerate(contexts):
        if not isinstance(context, str):
            raise TypeError(f"context {i} must be a text, got {type(context).__name__}")
        if broken := re.search("[\ud800-\udfff]", context):
            raise ValueError(
                f"context {i} has half a character (a lone surrogate) at {broken.start()}: repair the text"
            )
    return contexts


def write_contexts(
    contexts: Sequence[str], chunks: Sequence[ChunkWords], masks: Sequence[np.ndarray], keep: Sequence[int]
) -> list[str]:
    """Return the kept contexts, each with its kept words, or as it was if all of them are kept.

    Words keep the white space before them; where a deletion would fuse two words, a space is put between, but not in
    scripts that have none.
    """
    parts: dict[int, list[str]] = {i: [] for i in keep}
    whole = dict.fromkeys(keep, True)
    before_kept = dict.fromkeys(keep, True)
    for chunk, mask in zip(chunks, masks):
        i = chunk.context
        if i not in parts:
            continue
        for word, gap, kept in zip(chunk.words, chunk.gaps, mask.tolist()):
            if not word:
                continue
            if kept:
                border = parts[i][-1][-1] + word[0] if parts[i] else ""
                fused = not before_kept[i] and border.isalnum() and not any(map(is_unspaced, border))
                parts[i].append(f" {word}" if border and (gap or fused) else word)
            before_kept[i] = kept
            whole[i] &= kept
    return [contexts[i] if whole[i] else "".join(parts[i]) for i in keep]


def compression(
    texts: Sequence[str],
    origin: Sequence[int],
    lengths: Sequence[int],
    chunks: Sequence[ChunkWords],
    masks: Sequence[np.ndarray],
    source: tuple[str | None, str | None],
) -> Compression:
    """Return the result for the kept contexts' texts; ``source`` is the kind and name of the model."""
    rows = [
        (word, label, p, chunk.context)
        for chunk, mask in zip(chunks, masks)
        for word, label, p in zip(chunk.words, mask.tolist(), chunk.forced_p.tolist())
        if word
    ]
    words, labels, probabilities, owner = zip(*rows) if rows else ((), (), (), ())
    return Compression(
        *("\n\n".join(texts), tuple(texts), words, labels, probabilities, owner, sum(origin), sum(lengths), *source)
    )
