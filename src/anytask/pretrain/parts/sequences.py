"""Sequences of tokens: texts or arrays as batches for encoders of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anytask.core.checks import check_inputs
from anytask.lm.protocol import check_texts


@dataclass(frozen=True)
class Sequences:
    """n inputs as sequences of tokens: ids of different lengths, or vectors.

    Attributes
    ----------
    tokens : list of n int Tensors (t_i,), or Tensor of shape (n, t, d)
    pad : int
        The id of no token.

    Examples
    --------
    >>> two = Sequences([torch.tensor([5, 6]), torch.tensor([7])])
    >>> two.batch([0, 1])
    {'input_ids': tensor([[5, 6],
            [7, 0]]), 'attention_mask': tensor([[1, 1],
            [1, 0]])}
    """

    tokens: Any
    pad: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: Any, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Return what an encoder takes of some rows."""
        if isinstance(self.tokens, Tensor):
            x = self.tokens[rows].to(device)
            return {"inputs_embeds": x, "attention_mask": x.new_ones(x.shape[:2], dtype=torch.long)}
        own = [self.tokens[int(row)] for row in rows]
        ids = nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=self.pad)
        place, lengths = torch.arange(ids.shape[1]), torch.tensor([len(one) for one in own])
        return {"input_ids": ids.to(device), "attention_mask": (place < lengths[:, None]).long().to(device)}

    def part(self, rows: Any) -> Sequences:
        """Return some of the inputs."""
        whole = isinstance(self.tokens, Tensor)
        return Sequences(self.tokens[rows] if whole else [self.tokens[int(row)] for row in rows], self.pad)

    def batches(self, size: int, device: torch.device | str = "cpu") -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Yield rows and batches of all inputs, those of like lengths together."""
        order = np.argsort([len(one) for one in self.tokens], kind="stable")
        for part in np.split(order, range(size, len(order), size)):
            yield part, self.batch(part, device)

    def encoded(self, encode: Callable[[dict[str, Tensor]], Tensor], device: torch.device, size: int = 128) -> Tensor:
        """Return a row (n, d) for each input, in the order of the inputs."""
        rows, found = zip(*((rows, encode(batch)) for rows, batch in self.batches(size, device)))
        return torch.cat(found)[torch.from_numpy(np.argsort(np.concatenate(rows))).to(device)]


def are_texts(X: Any) -> bool:
    """Return whether the first of some inputs is a text."""
    flat = isinstance(X, (list, tuple)) or getattr(X, "ndim", 0) == 1
    return flat and len(X) > 0 and isinstance(next(iter(X)), str)


def read_inputs(X: Any, name: str = "X", *, texts: bool) -> list[str] | Tensor:
    """Return checked inputs: texts, or float32 numbers of shape (n, ...), or say what is wrong with them.

    Raises
    ------
    ValueError, TypeError
        For inputs of the other kind, none, an empty text, and NaN or infinite numbers.
    """
    if not texts:
        if are_texts(X):
            raise TypeError(f"{name} must be arrays for this encoder, got texts: name one that reads texts")
        return check_inputs(X, name).cpu()
    found = check_texts(X, name)
    if not found:
        raise ValueError(f"{name} holds 0 texts, and at least 1 is required")
    if empty := [row for row, text in enumerate(found) if not text.strip()]:
        raise ValueError(f"{name}[{empty[0]}] is an empty text: leave it out, or say something")
    return found


def as_tokens(x: Tensor) -> Tensor:
    """Return arrays as tokens (n, t, d): rows of images, with their channels; values of plain vectors.

    Examples
    --------
    >>> [tuple(as_tokens(torch.zeros(2, *shape)).shape) for shape in ((5,), (8, 4), (3, 8, 4))]
    [(2, 5, 1), (2, 8, 4), (2, 8, 12)]
    """
    if x.ndim == 2:
        return x[:, :, None]
    return x.transpose(1, 2).flatten(2) if x.ndim == 4 else x.flatten(2)


def tokenized(texts: list[str], tokenizer: Any, max_tokens: int) -> Sequences:
    """Return texts as token ids, cut to ``max_tokens``."""
    found = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
    return Sequences([torch.tensor(ids) for ids in found], int(tokenizer.pad_token_id or 0))


def shuffled(n: int, size: int) -> Iterator[Tensor]:
    """Yield rows of mini-batches for ever, each order drawn anew by torch's global generator."""
    while True:
        yield from torch.randperm(n).split(size)


def mean_and_deviation(x: Tensor) -> tuple[float, float]:
    """Return what numbers are shifted and divided by; 1 where they do not vary."""
    mean, deviation = float(x.double().mean()), float(x.double().std(correction=0))
    return mean, deviation if deviation > 1e-12 * max(1.0, abs(mean)) else 1.0
