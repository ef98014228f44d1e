"""Texts as tokens: the words of a corpus, or what an encoder's tokenizer makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: A target that is not to be predicted.
IGNORED = -100


class Specials(NamedTuple):
    """Ids of the special tokens."""

    cls: int
    sep: int
    mask: int
    pad: int
    unk: int


class Words:
    """A tokenizer with the tokens that can be predicted.

    Parameters
    ----------
    saved : str
        What ``to_str()`` of a tokenizer of the library tokenizers returned.
    specials : sequence of int
    known : sequence of int
        Tokens that can be predicted; a score's place among the scores is the token's place here.
    device : torch.device
    """

    def __init__(self, saved: str, specials: Sequence[int], known: Sequence[int], device: Any) -> None:
        from tokenizers import Tokenizer

        self.tokenizer: Any = Tokenizer.from_str(saved)
        self.special, self.known, self.device = Specials(*specials), list(known), device
        self.place = {token: place for place, token in enumerate(self.known)}
        self.size = self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, in which [MASK] and [SEP] are the tokenizer's own."""
        for mark, token in (("[MASK]", self.special.mask), ("[SEP]", self.special.sep)):
            text = text.replace(mark, self.tokenizer.id_to_token(token))
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return rows of tokens as a tensor (n, L), and which are no padding (n, L)."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[self.special.pad] * (longest - len(row))] for row in rows], device=self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        return ids, torch.arange(longest, device=self.device) < lengths[:, None]

    def targets(self, rows: Sequence[Sequence[int]], length: int) -> Tensor:
        """Return tokens as places among the scores (n, L), :data:`IGNORED` where there is none to predict."""
        places = [[self.place.get(token, IGNORED) for token in row] + [IGNORED] * (length - len(row)) for row in rows]
        return torch.tensor(places, device=self.device)


def word_tokenizer(texts: Iterable[str], most: int) -> tuple[str, list[int]]:
    """Return a tokenizer of the most frequent words in lower case, and the ids of its special tokens.

    Examples
    --------
    >>> saved, _ = word_tokenizer(["To be or not to be."], 20)
    >>> Words(saved, range(5), (), "cpu").tokenizer.encode("Be [MASK] bold").tokens
    ['be', '[MASK]', '[UNK]']
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    marks = [f"[{name.upper()}]" for name in Specials._fields]
    words: Any = Tokenizer(models.WordLevel({}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    trainer: Any = trainers.WordLevelTrainer(vocab_size=most, special_tokens=marks, show_progress=False)
    words.train_from_iterator(texts, trainer)
    return words.to_str(), [words.token_to_id(mark) for mark in marks]


def encoder_and_tokenizer(source: Any) -> tuple[Any, str, list[int]]:
    """Return an encoder of transformers, its tokenizer, and the ids of its special tokens.

    Parameters
    ----------
    source : str or path
        A name or a folder, or "minilm", which the extra ``text`` brings.

    Raises
    ------
    ValueError
        If nothing can be read there, or its tokenizer has no mask.
    """
    from transformers import AutoModel, AutoTokenizer

    from anytask.lm.embeddings import packaged_model
    from anytask.models.loading import load_pretrained

    place = packaged_model() if source == "minilm" else source
    tokenizer = load_pretrained(AutoTokenizer, place)
    ids = [getattr(tokenizer, f"{name}_token_id") for name in Specials._fields]
    if None in ids or not getattr(tokenizer, "is_fast", False):
        lacking = [name for name, token in zip(Specials._fields, ids) if token is None]
        raise ValueError(f"the tokenizer of {source} is none of a masked model: it lacks {lacking or 'a fast form'}")
    words = tokenizer.backend_tokenizer
    words.no_truncation(), words.no_padding()
    return load_pretrained(AutoModel, place), words.to_str(), ids
