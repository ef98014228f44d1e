"""Text and token ids: the parts of a Hugging Face tokenizer that scoring and generation need, safe under threads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Joint:
    """A prompt and its continuation, tokenized together.

    Attributes
    ----------
    ids : tuple of int
        The prompt's BOS token if the tokenizer has one, the prompt, and the continuation.
    start : int
        First token of the continuation. Tokens before it are the same as in the prompt alone.
    n_bytes : int
        UTF-8 bytes of the text from ``start`` on. More than the continuation's where a token spans the border: the
        split then moves back to the last token that prompt and joint text have in common.
    """

    ids: tuple[int, ...]
    start: int
    n_bytes: int


class Codec:
    """Encodes and decodes with a Hugging Face tokenizer.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase

    Attributes
    ----------
    head : tuple of int
        Special tokens that the tokenizer puts in front of a text (``<s>``), or nothing.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()  # fast tokenizers may not be reconfigured by two threads at once
        self.head = self._head()

    def _head(self) -> tuple[int, ...]:
        probe = self.tokenizer.decode([next(i for i in range(len(self.tokenizer)) if i not in self.special)])
        bare, full = self.encode(probe), self.encode(probe, special=True)
        for first in range(len(full) - len(bare) + 1):
            if full[first : first + len(bare)] == bare:
                return tuple(full[:first])
        return ()

    @property
    def special(self) -> frozenset[int]:
        return frozenset(self.tokenizer.all_special_ids)

    def with_head(self, ids: Sequence[int]) -> tuple[int, ...]:
        """``ids`` behind ``head``, unless the text has it already, as chat templates write it."""
        return tuple(ids) if tuple(ids[: len(self.head)]) == self.head else (*self.head, *ids)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of ``text``, with the tokenizer's own special tokens around them only if ``special``."""
        if not isinstance(text, str):
            raise TypeError(f"text to encode is a str, and {type(text).__name__} was given")
        with self._lock:
            ids = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return [int(i) for i in ids]

    def encode_with_spans(self, text: str, *, special: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and each token's character span in ``text``."""
        if not self.tokenizer.is_fast:
            raise TypeError(
                f"character spans need a fast tokenizer (tokenizer.json), and {type(self.tokenizer).__name__} is not"
            )
        with self._lock:
            out = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        return [int(i) for i in out["input_ids"]], [(int(a), int(b)) for a, b in out["offset_mapping"]]

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        with self._lock:
            return str(
                self.tokenizer.decode(list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)
            )

    def joint(self, prompt: str, prompt_ids: Sequence[int], continuation: str) -> Joint:
        """Tokenise ``prompt + continuation`` and find where the continuation starts."""
        if not continuation:
            raise ValueError("an option is empty: there is nothing to score")
        ids = self.encode(prompt + continuation)
        start = common_prefix(prompt_ids, ids)
        if start == len(ids):
            raise ValueError(f"the option {continuation!r} adds no token to its prompt ({prompt[-40:]!r})")
        n_bytes = len(continuation.encode())
        if start < len(prompt_ids):
            if self.tokenizer.is_fast:
                _, spans = self.encode_with_spans(prompt + continuation)
                n_bytes = len((prompt + continuation)[spans[start][0] :].encode())
            else:
                n_bytes = len(self.decode(ids[start:]).encode())
        whole = self.with_head(ids)
        return Joint(whole, len(whole) - len(ids) + start, n_bytes)

    def continuation(self, before: Sequence[int], new: Sequence[int]) -> str:
        """The text that ``new`` tokens add after ``before``, spaces between words included."""
        tail = list(before)[-16:]
        stem = self.decode(tail, skip_special=True)
        whole = self.decode([*tail, *new], skip_special=True)
        return whole[len(stem) :] if whole.startswith(stem) else self.decode(new, skip_special=True)

    def fit(self, text: str, max_tokens: int, keep: str = "end") -> str:
        """Cut ``text`` to at most ``max_tokens`` tokens at a token's border; see :meth:`LocalLM.fit`."""
        if keep not in ("start", "end"):
            raise ValueError(f"keep is 'start' or 'end', and {keep!r} was given")
        if max_tokens < 0:
            raise ValueError(f"max_tokens is >= 0, and {max_tokens} was given")
        n = len(self.encode(text))
        if n <= max_tokens:
            return text
        _, spans = self.encode_with_spans(text)
        while max_tokens > 0:
            cut = text[: spans[max_tokens - 1][1]] if keep == "start" else text[spans[-max_tokens][0] :]
            if len(self.encode(cut)) <= max_tokens:  # the cut text may split into more tokens than its part did
                return cut
            max_tokens -= 1
        return ""

    def fingerprint(self) -> str:
        """A digest of the vocabulary and of the rules that split text."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.sha256(text.encode()).hexdigest()


def check_tokenizer(tokenizer: Any) -> None:
    """Say so if a value names no tokenizer, and is neither None nor one."""
    named = isinstance(tokenizer, (str, os.PathLike)) and os.fspath(tokenizer)
    if not (tokenizer is None or named or all(callable(getattr(tokenizer, f, None)) for f in ("encode", "decode"))):
        raise TypeError(f"tokenizer must be a name, a folder, or have encode and decode, got {tokenizer!r}")


def codec_of(tokenizer: Any) -> Any:
    """Return what encodes and decodes by a tokenizer: of Hugging Face, by its name, or any with ``encode``."""
    if isinstance(tokenizer, (str, os.PathLike)):
        from transformers import AutoTokenizer

        from anytask.models.loading import load_pretrained

        try:
            tokenizer = load_pretrained(AutoTokenizer, tokenizer)
        except ValueError as error:
            raise ValueError(f"tokenizer {os.fspath(tokenizer)!r}: {error}") from None
    return Codec(tokenizer) if hasattr(tokenizer, "all_special_ids") else tokenizer


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of leading items that are equal."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)
