"""GPT-3's pre-training recipe: schedules counted in tokens, packed documents, AdamW, one page of loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import NotFinite
from anytask.core.progress import Progress, portion
from anytask.core.settings import Settings, numbers, real, whole

log = logging.getLogger(__name__)


class Recipe(Settings):
    """The numbers of the recipe; the defaults are the paper's for the 125M size.

    Parameters
    ----------
    lr : float, default 6e-4
        Peak learning rate (see ``SIZES`` for the other sizes').
    total_tokens : int, default 300e9
        Tokens to train on.
    warmup_tokens : int, default 375e6
        Linear warm-up of the learning rate from 0.
    decay_tokens : int, default 260e9
        Where the cosine reaches its floor; flat afterwards.
    floor : float, default 0.1
        The floor, as a share of the peak.
    batch_tokens, first_batch_tokens : int, defaults 500_000 and 32_000
        Final and first batch size.
    ramp_tokens : int, default 4e9
        Tokens over which the batch grows linearly (4 to 12 billion in the paper, by size).
    betas, eps, weight_decay, max_grad_norm : defaults (0.9, 0.95), 1e-8, 0.1, 1.0
        AdamW, and the largest global gradient norm.

    Examples
    --------
    >>> recipe = Recipe()
    >>> [round(recipe.learning_rate(t), 7) for t in (187.5e6, 375e6, 130.1875e9, 260e9, 300e9)]
    [0.0003, 0.0006, 0.00033, 6e-05, 6e-05]
    >>> recipe.batch_size(0), recipe.batch_size(2e9), recipe.batch_size(4e9)
    (32000, 266000, 500000)

    The same shape for a small run:

    >>> Recipe.scaled(total_tokens=1_000_000, lr=1e-3, batch_tokens=3136).warmup_tokens
    1250
    """

    lr: float = real(6e-4, "peak learning rate", above=0)
    total_tokens: int = whole(300_000_000_000, "tokens to train on")
    warmup_tokens: int = whole(375_000_000, "tokens of linear warm-up", at_least=0)
    decay_tokens: int = whole(260_000_000_000, "tokens after which the cosine reaches its floor")
    floor: float = real(0.1, "the floor, as a share of the peak", at_least=0, at_most=1)
    batch_tokens: int = whole(500_000, "tokens of a batch in the end")
    first_batch_tokens: int = whole(32_000, "tokens of the first batch")
    ramp_tokens: int = whole(4_000_000_000, "tokens over which the batch grows", at_least=0)
    betas: tuple[float, float] = numbers((0.9, 0.95), "AdamW's averages", at_least=0, below=1, length=2)
    eps: float = real(1e-8, "AdamW's epsilon", above=0)
    weight_decay: float = real(0.1, "of matrices and embeddings", at_least=0)
    max_grad_norm: float = real(1.0, "largest global gradient norm", above=0)

    def _check_settings(self) -> None:
        if not self.warmup_tokens < self.decay_tokens:
            raise ValueError(
                f"warm-up must end before the cosine does: got warmup_tokens={self.warmup_tokens}, "
                f"decay_tokens={self.decay_tokens}"
            )
        if self.first_batch_tokens > self.batch_tokens:
            raise ValueError(
                f"first_batch_tokens must lie in 1..batch_tokens, got {self.first_batch_tokens} of {self.batch_tokens}"
            )

    @classmethod
    def scaled(cls, total_tokens: int, *, lr: float, batch_tokens: int, **changes: Any) -> Recipe:
        """Return the recipe with its token counts in the paper's proportion to ``total_tokens`` (constant batch)."""
        paper = cls()
        share = total_tokens / paper.total_tokens
        counts: dict[str, Any] = {
            "warmup_tokens": int(paper.warmup_tokens * share),
            "decay_tokens": int(paper.decay_tokens * share),
            "first_batch_tokens": batch_tokens,
            "ramp_tokens": 0,
        }
        return cls(lr=lr, total_tokens=total_tokens, batch_tokens=batch_tokens, **(counts | changes))

    def learning_rate(self, tokens: float) -> float:
        """Learning rate after ``tokens`` training tokens."""
        if tokens < self.warmup_tokens:
            return self.lr * tokens / self.warmup_tokens
        done = min(1.0, (tokens - self.warmup_tokens) / (self.decay_tokens - self.warmup_tokens))
        return self.lr * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done)))

    def batch_size(self, tokens: float) -> int:
        """Batch size in tokens after ``tokens`` training tokens."""
        if tokens >= self.ramp_tokens:
            return self.batch_tokens
        grown = (self.batch_tokens - self.first_batch_tokens) * tokens / self.ramp_tokens
        return int(self.first_batch_tokens + grown)


def pack(documents: Iterable[Iterable[int]], n_ctx: int, end_of_text: int) -> Iterator[list[int]]:
    """Yield full sequences of ``n_ctx`` ids from documents laid end to end, ``end_of_text`` after each.

    Nothing marks or masks the borders inside a sequence. What does not fill a last sequence is dropped.

    Examples
    --------
    >>> list(pack([[1, 2, 3], [4], [5, 6]], n_ctx=4, end_of_text=0))
    [[1, 2, 3, 0], [4, 0, 5, 6]]
    """
    if n_ctx < 2:
        raise ValueError(f"n_ctx must be at least 2, got {n_ctx}")
    buffer: list[int] = []
    for document in documents:
        buffer.extend(document)
        buffer.append(end_of_text)
        while len(buffer) >= n_ctx:
            yield buffer[:n_ctx]
            del buffer[:n_ctx]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters: matrices and embeddings decay, biases and LayerNorm gains do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean cross-entropy of ids[:, 1:] given what stands before, in nats per token; ``ids`` has shape (B, n_ctx)."""
    logits = model(input_ids=ids).logits[:, :-1]  # (B, n_ctx - 1, V)
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


@dataclass
class Pretraining:
    """Train a left-to-right language model on packed sequences.

    Parameters
    ----------
    model : nn.Module
        Any causal model whose output has ``logits``; trained in place.
    recipe : Recipe
    micro_batch : int, default 64
        Sequences in one forward pass; a step's batch is made of as many as it needs.

    Attributes
    ----------
    tokens : int
        Tokens trained on so far.
    losses : list of float
        Loss of every step, nats per token.

    Examples
    --------
    >>> from anytask.incontext.gpt3.model import build_gpt3, gpt3_config
    >>> model = build_gpt3(gpt3_config(L=1, d=16, heads=2, n_ctx=8, vocab_size=9))
    >>> sequences = pack(([i % 8 + 1 for i in range(s, s + 7)] for s in range(4000)), n_ctx=8, end_of_text=0)
    >>> recipe = Recipe.scaled(total_tokens=8 * 3200, lr=1e-2, batch_tokens=8 * 32)
    >>> run = Pretraining(model, recipe).run(sequences)
    >>> run.tokens, run.losses[-1] < run.losses[0] / 2
    (25600, True)

    References
    ----------
    Brown et al., "Language Models are Few-Shot Learners" (2020), arXiv 2005.14165.
    """

    model: nn.Module
    recipe: Recipe
    micro_batch: int = 64
    tokens: int = field(init=False, default=0)
    losses: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        r = self.recipe
        groups = parameter_groups(self.model, r.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=r.lr, betas=r.betas, eps=r.eps)

    def run(self, sequences: Iterable[list[int]], *, progress: Progress | None = None) -> Pretraining:
        """Train until ``recipe.total_tokens`` are seen or ``sequences`` (equal lengths) ends."""
        r, source, share = self.recipe, iter(sequences), portion(progress, 0.0, 1.0)
        device = next(self.model.parameters()).device
        was_training = self.model.training
        self.model.train()
        try:
            while self.tokens < r.total_tokens and (batch := self._next_batch(source)):
                self.step(torch.tensor(batch, device=device))
                share(min(1.0, self.tokens / r.total_tokens))
        finally:
            self.model.train(was_training)
        if self.tokens < r.total_tokens:
            log.info("the sequences ended after %d tokens", self.tokens)
        share(1.0)
        return self

    def step(self, ids: Tensor) -> float:
        """Make one update on a batch of ids, shape (B, n_ctx); returns its loss."""
        for group in self._optimizer.param_groups:
            # the update that ends the warm-up's first batch already moves
            group["lr"] = self.recipe.learning_rate(self.tokens + ids.numel())
        self._optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in ids.split(self.micro_batch):
            loss = next_token_loss(self.model, part) * (len(part) / len(ids))
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            self._optimizer.zero_grad(set_to_none=True)
            raise NotFinite(f"the loss is {total} after {self.tokens} tokens; the weights are those before this step")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
        self._optimizer.step()
        self.tokens += ids.numel()
        self.losses.append(total)
        return total

    def _next_batch(self, source: Iterator[list[int]]) -> list[list[int]]:
        batch: list[list[int]] = []
        size = self.recipe.batch_size(self.tokens)
        for sequence in source:
            batch.append(sequence)
            if (len(batch) + 1) * len(sequence) > size:
                break
        return batch
