"""From text to words and back: which tokens make a word, where a text may be cut, and how kept words are written."""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from anytask.prompts.base import Compression
from anytask.prompts.llmlingua2.training import special_frame

_PUNCTUATION = frozenset(string.punctuation)
_BYTE_SPACES = "\u0120\u010a\u0109\u010d"  # how byte-level tokenizers spell a space, a newline, a tab, a return
_BLANK = np.array([chr(c).isspace() for c in range(0x3001)] + [False])  # white space ends at the ideographic space


class WordMarks:
    """Which tokens of a vocabulary begin a word, read from the tokenizer itself and not from a model's name.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast

    Attributes
    ----------
    kind : {"metaspace", "bytelevel", "wordpiece", "word"}
        How word borders are spelled: a mark on the first token, a byte for the space, a prefix on all tokens but the
        first, or not at all because every token is a word.
    starts : (V,) array of bool
        Whether a token begins a word wherever it stands.
    digits : (V,) array of bool
        Whether a token contains a digit.
    pure : list of str
        Tokens without their mark.

    Raises
    ------
    ValueError
        If the tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"LLMLingua2 needs a fast tokenizer (one that gives character offsets), got {type(tokenizer).__name__}"
            )
        description = json.loads(backend.to_str())
        model = description["model"]
        types = set(re.findall(r'"type": ?"(\w+)"', json.dumps([description["pre_tokenizer"], description["decoder"]])))
        prefix = model.get("continuing_subword_prefix") or ""
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.tokens: list[str] = [token or "" for token in tokens]
        added = set(tokenizer.get_added_vocab())
        if "Metaspace" in types or model["type"] == "Unigram":
            self.kind = "metaspace"
            bare = [token.lstrip("\u2581") for token in self.tokens]
            starts = [token.startswith("\u2581") for token in self.tokens]
        elif "ByteLevel" in types:
            self.kind = "bytelevel"
            bare = [token.lstrip(_BYTE_SPACES) for token in self.tokens]
            starts = [token[:1] in _BYTE_SPACES and token != "" for token in self.tokens]
        elif prefix:
            self.kind = "wordpiece"
            bare = [token.removeprefix(prefix) for token in self.tokens]
            starts = [not token.startswith(prefix) for token in self.tokens]
        else:
            self.kind = "word"
            bare, starts = self.tokens, [True] * len(self.tokens)
        self.pure: list[str] = bare
        self.starts = np.array(
            [s or token in _PUNCTUATION or token in added for s, token in zip(starts, self.tokens)], dtype=bool
        )
        self.digits = np.array([re.search(r"\d", t) is not None and t not in added for t in self.tokens], dtype=bool)


@dataclass
class TokenisedText:
    """A context with its forced tokens replaced, tokenised, and cut into chunks [start, end)."""

    text: str
    ids: np.ndarray
    offsets: np.ndarray  # (n, 2)
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
    is_end : (V,) array of bool
        Whether a chunk may end at a token.
    prefix, suffix : list of int
        Special tokens around a chunk.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        force_tokens: Sequence[str] = (),
        force_digits: bool = False,
        token_to_word: Literal["mean", "first"] = "mean",
        chunk_ends: Sequence[str] = (".", "\n"),
        max_length: int = 512,
        convention: Literal["paper", "released"] = "paper",
    ) -> None:
        self.tokenizer, self.force_digits, self.token_to_word = tokenizer, force_digits, token_to_word
        self.chunk_ends, self.max_length, self.convention = chunk_ends, max_length, convention
        split = [t for t in force_tokens if not self._is_one_token(t)]
        # The name depends on the token alone, so that a saved compressor finds the embedding it was saved with.
        self.stand_in = {t: f"[NEW{hashlib.blake2b(t.encode(), digest_size=6).hexdigest()}]" for t in split}
        if split:
            from tokenizers import AddedToken

            known = tokenizer.get_vocab()
            new = [AddedToken(n, normalized=False, special=False) for n in self.stand_in.values() if n not in known]
            tokenizer.add_tokens(new)
        self.marks = marks = WordMarks(tokenizer)
        own, forced = set(self.stand_in.values()), set(force_tokens)
        self._is_own = np.array([token in own for token in marks.tokens], dtype=bool)
        whole = [start and pure in forced for start, pure in zip(marks.starts, marks.pure)]
        self._is_forced = self._is_own | np.array(whole, dtype=bool)
        ends = {*chunk_ends, *(self.stand_in[e] for e in chunk_ends if e in self.stand_in)}
        self.is_end = np.array([token in ends for token in marks.pure], dtype=bool)
        self.prefix, self.suffix = special_frame(tokenizer)
        if convention == "released":  # it writes BERT's names, which other vocabularies read as unknown tokens
            self.prefix, self.suffix = ([tokenizer.convert_tokens_to_ids(t)] for t in ("[CLS]", "[SEP]"))

    def _is_one_token(self, text: str) -> bool:
        tokens = self.tokenizer.tokenize(text)
        bare = tokens[0].lstrip("\u2581" + _BYTE_SPACES) if len(tokens) == 1 else ""
        return bare == text or (len(tokens) == 1 and self.convention == "released")

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        encoded = self.tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encoded]

    def tokenise(self, contexts: Sequence[str]) -> list[TokenisedText]:
        """Replace forced tokens by their stand-ins, tokenise, and cut into chunks."""
        if self.stand_in:
            clash = [name for name in self.stand_in.values() if any(name in context for context in contexts)]
            if clash:
                raise ValueError(f"the text contains {clash[0]!r}, which stands for a forced token; rename it first")
            whole = self.convention == "paper"
            pattern = "|".join(
                ("(?<!\\w)" if whole and t[0].isalnum() else "")
                + re.escape(t)
                + ("(?!\\w)" if whole and t[-1].isalnum() else "")
                for t in sorted(self.stand_in, key=len, reverse=True)
            )
            contexts = [re.sub(pattern, lambda m: self.stand_in[m.group()], context) for context in contexts]
        encoded = self.tokenizer.backend_tokenizer.encode_batch(list(contexts), add_special_tokens=False)
        out = []
        for text, encoding in zip(contexts, encoded):
            ids = np.array(encoding.ids, dtype=np.int64)
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            out.append(TokenisedText(text, ids, offsets, self._cut(text, ids, offsets)))
        return out

    def _cut(self, text: str, ids: np.ndarray, offsets: np.ndarray) -> list[tuple[int, int]]:
        """Cut a token sequence into chunks that fit, each ending at the last chunk end inside it (if there is one)."""
        n, size = len(ids), self.max_length - len(self.prefix) - len(self.suffix)
        if n <= size:
            return [(0, n)] if n else []
        end = self.is_end[ids]
        if "\n" in self.chunk_ends:
            seen = np.concatenate([[0], np.cumsum(_code_points(text) == 10)])  # newlines before a character
            end[:-1] |= seen[offsets[1:, 0]] > seen[offsets[:-1, 1]]
        last = np.maximum.accumulate(np.where(end, np.arange(n), -1))  # last chunk end at or before a token
        chunks, start = [], 0
        extra = int(self.convention == "released")
        while start < n:
            if n - start <= size:
                chunks.append((start, n))
                break
            stop = start + size + extra
            if last[stop - 1] > start:
                stop = int(last[stop - 1]) + 1
            chunks.append((start, min(stop, n)))
            start = chunks[-1][1]
        return chunks

    def merge(
        self,
        tokenised: TokenisedText,
        context: int,
        probabilities: Sequence[np.ndarray],
        costs: Callable[[Sequence[str]], np.ndarray] | None = None,
    ) -> list[ChunkWords]:
        """Merge the tokens of each chunk to words.

        Parameters
        ----------
        tokenised : TokenisedText
        context : int
            Its index, to be remembered.
        probabilities : sequence of (n_chunk,) arrays
            Keep-probabilities of each chunk's tokens.
        costs : callable, optional
            Words -> their numbers of tokens for the target model; default: the encoder's tokens.
        """
        if not len(tokenised.ids):
            return []
        text = tokenised.text
        blank = _BLANK[np.minimum(_code_points(text), len(_BLANK) - 1)]
        blanks = np.concatenate([[0], np.cumsum(blank)])  # blank characters before a position
        n = len(blank)
        right = np.minimum.accumulate(np.where(blank, n, np.arange(n))[::-1])[::-1]  # next visible character
        right = np.append(right, n)
        left = np.maximum.accumulate(np.where(blank, -1, np.arange(n)))  # last visible character
        names = {name: token for token, name in self.stand_in.items()}
        released = self.convention == "released"
        out = []
        end_before = 0  # where the word before ended, in characters
        for (a, b), p in zip(tokenised.chunks, probabilities):
            ids, offsets = tokenised.ids[a:b], tokenised.offsets[a:b]
            starts = self.marks.starts[ids]
            starts[0] = True
            starts[1:] |= self._is_own[ids[:-1]]  # what follows a stand-in is not part of it
            first = np.flatnonzero(starts)
            size = np.diff(np.append(first, b - a))
            begin, finish = right[offsets[first, 0]], offsets[first + size - 1, 1]
            finish = np.where(finish > 0, left[np.maximum(finish - 1, 0)] + 1, 0)
            # A mark that stands alone may claim the character after it, which is the next word's.
            after = n if b == len(tokenised.ids) else int(right[tokenised.offsets[b, 0]])
            finish = np.minimum(finish, np.append(begin[1:], after))
            words = [text[s:e] for s, e in zip(begin.tolist(), finish.tolist())]
            ends = np.maximum.accumulate(np.append(end_before, finish))
            gaps = ((finish > begin) & (begin > ends[:-1]) & (blanks[begin] > blanks[ends[:-1]])).tolist()
            end_before = int(ends[-1])
            if names:
                words = [names.get(word, word) for word in words]
            certain = p
            if self._is_forced.any() or self.force_digits:
                sure = self._is_forced[ids] & starts
                certain = np.where(sure | self.marks.digits[ids] if self.force_digits else sure, 1.0, p)
            if self.token_to_word == "mean":
                mean, forced_mean = (np.add.reduceat(q, first) / size for q in (p, certain))
            else:
                mean, forced_mean = p[first], certain[first]
            if not released:
                sure = self._is_forced[ids[first]]
                if self.force_digits:
                    sure = sure | np.array([re.search(r"\d", word) is not None for word in words])
                forced_mean = np.where(sure, 1.0, forced_mean)
            if costs is None:
                cost = size
            elif released:
                cost = costs(self._marked(ids.tolist(), first.tolist(), size.tolist(), names))
            else:
                cost = costs([f" {word}" if gap else word for word, gap in zip(words, gaps)])
            out.append(ChunkWords(context, words, gaps, mean, forced_mean, cost))
        return out

    def _marked(self, ids: list[int], first: list[int], size: list[int], names: dict[str, str]) -> list[str]:
        """Return the words as the tokenizer spells them, border marks included."""
        tokens, pure = self.marks.tokens, self.marks.pure
        spelled = [
            tokens[ids[i]] if k == 1 else tokens[ids[i]] + "".join([pure[t] for t in ids[i + 1 : i + k]])
            for i, k in zip(first, size)
        ]
        return [names.get(word, word) for word in spelled] if names else spelled


def as_contexts(text: str | Sequence[str]) -> list[str]:
    """Return the contexts of a prompt, one text being one context."""
    contexts = [text] if isinstance(text, str) else list(text)
    for i, context in enumerate(contexts):
        if not isinstance(context, str):
            raise TypeError(f"context {i} must be a text, got {type(context).__name__}")
    return contexts


def write_contexts(
    contexts: Sequence[str], chunks: Sequence[ChunkWords], masks: Sequence[np.ndarray], keep: Sequence[int]
) -> list[str]:
    """Return the kept contexts, each with its kept words, or as it was if all of them are kept.

    Words keep the white space before them; where a deletion would fuse two words, a space is put between.
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
                fused = not before_kept[i] and parts[i] and word[0].isalnum() and parts[i][-1][-1:].isalnum()
                parts[i].append(f" {word}" if parts[i] and (gap or fused) else word)
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


def unchanged(contexts: Sequence[str], origin: Sequence[int], source: tuple[str | None, str | None]) -> Compression:
    """Return the result of a compression that deletes nothing."""
    words = [(word, i) for i, context in enumerate(contexts) for word in re.findall(r"\w+|[^\w\s]", context)]
    n = len(words)
    return Compression(
        *("\n\n".join(contexts), tuple(contexts), tuple(word for word, _ in words), (True,) * n, (1.0,) * n),
        *(tuple(i for _, i in words), sum(origin), sum(origin), *source),
    )


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
