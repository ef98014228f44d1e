"""GPT-3's pre-training recipe: schedules counted in tokens, packed documents, AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.progress import Progress
from anytask.core.settings import Settings, numbers, real, whole
from anytask.core.training import train


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
            raise ValueError(f"warmup_tokens={self.warmup_tokens} must be less than decay_tokens={self.decay_tokens}")
        if self.first_batch_tokens > self.batch_tokens:
            raise ValueError(f"first_batch_tokens={self.first_batch_tokens} exceeds batch_tokens={self.batch_tokens}")

    @classmethod
    def scaled(cls, total_tokens: int, *, lr: float, batch_tokens: int, **changes: Any) -> Recipe:
        """Return the recipe with its token counts in the paper's proportion to ``total_tokens`` (constant batch)."""
        paper = cls()
        share = total_tokens / paper.total_tokens
        counts: dict[str, Any] = {name: int(getattr(paper, name) * share) for name in ("warmup_tokens", "decay_tokens")}
        counts |= {"batch_tokens": batch_tokens, "first_batch_tokens": batch_tokens, "ramp_tokens": 0}
        return cls(lr=lr, total_tokens=total_tokens, **(counts | changes))

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
        return int(self.first_batch_tokens + (self.batch_tokens - self.first_batch_tokens) * tokens / self.ramp_tokens)

    def batches(self, n_ctx: int) -> Iterator[tuple[int, int]]:
        """Yield (sequences, tokens seen after it) of every batch until ``total_tokens`` are seen."""
        tokens = 0
        while tokens < self.total_tokens:
            size = max(1, self.batch_size(tokens) // n_ctx)
            tokens += size * n_ctx
            yield size, tokens


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
    ids = chain.from_iterable(chain(document, [end_of_text]) for document in documents)
    while len(sequence := list(islice(ids, n_ctx))) == n_ctx:
        yield sequence


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


def pretrain(
    model: nn.Module,
    recipe: Recipe,
    sequences: Iterable[list[int]],
    *,
    micro_batch: int = 64,
    progress: Progress | None = None,
) -> list[float]:
    """Train a left-to-right language model in place until the recipe's tokens are seen or the sequences end.

    Parameters
    ----------
    model : nn.Module
        Any causal model whose output has ``logits``.
    recipe : Recipe
    sequences : iterable of list of int
        Token ids, all of one length, such as :func:`pack` makes.
    micro_batch : int, default 64
        Sequences in one forward pass; a step's batch is made of as many as it needs.
    progress : callable, optional
        Told the finished share.

    Returns
    -------
    list of float
        Loss of every step, nats per token.

    Raises
    ------
    NotFinite
        If a loss is NaN or infinite; the weights are those before that step.

    Examples
    --------
    >>> from anytask.incontext.gpt3.model import build_gpt3, gpt3_config
    >>> model = build_gpt3(gpt3_config(L=1, d=16, heads=2, n_ctx=8, vocab_size=9))
    >>> sequences = pack(([i % 8 + 1 for i in range(s, s + 7)] for s in range(4000)), n_ctx=8, end_of_text=0)
    >>> recipe = Recipe.scaled(total_tokens=8 * 3200, lr=1e-2, batch_tokens=8 * 32)
    >>> losses = pretrain(model, recipe, sequences)
    >>> len(losses), losses[-1] < losses[0] / 2
    (100, True)

    References
    ----------
    Brown et al., "Language Models are Few-Shot Learners" (2020), arXiv 2005.14165.
    """
    source = iter(sequences)
    first = list(islice(source, 1))
    if not first:
        raise ValueError("there is no sequence to train on")
    source = chain(first, source)
    plan = list(recipe.batches(len(first[0])))
    device = next(model.parameters()).device
    groups = parameter_groups(model, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps)

    def rate(step: int) -> float:  # the update that ends the warm-up's first batch already moves
        return recipe.learning_rate(plan[min(step, len(plan) - 1)][1]) / recipe.lr

    def draw(step: int) -> Tensor:
        batch = list(islice(source, plan[step - 1][0]))
        if not batch:
            raise StopIteration
        return torch.tensor(batch, device=device)

    def losses(ids: Tensor) -> Iterator[Tensor]:
        for part in ids.split(micro_batch):
            yield next_token_loss(model, part) * (len(part) / len(ids))

    return train(
        model, draw, losses, steps=len(plan), optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, rate),
        max_grad_norm=recipe.max_grad_norm, stage="pre-training", progress=progress,
    )  # fmt: skip
