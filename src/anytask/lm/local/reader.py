"""A local model as a reader of token sequences: which batches, which shared beginnings, which context."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from anytask.lm.codec import Codec, Joint, common_prefix
from anytask.lm.local.runner import Runner, padded
from anytask.lm.local.weights import Objective, context_length_of, objective_of
from anytask.lm.protocol import BadNumber


class Reader:
    """A model with its tokenizer, and what reading batches of sequences needs.

    Parameters
    ----------
    model, tokenizer
        Hugging Face objects.
    name : str
        For messages.
    batch_tokens : int
        Tokens held in one forward pass, padding included.
    context_length : int or None
        None: what the configuration says.
    autocast : bool
        Run in bfloat16 where that is safe.
    """

    def __init__(
        self, model: Any, tokenizer: Any, name: str, *, batch_tokens: int, context_length: int | None, autocast: bool
    ) -> None:
        self.model, self.tokenizer, self.name, self.batch_tokens = model, tokenizer, name, batch_tokens
        self.objective: Objective = objective_of(model)
        self.codec = Codec(tokenizer)
        self.runner = Runner(model, seq2seq=self.objective == "seq2seq", autocast=autocast)
        self.context_length = context_length or context_length_of(model, tokenizer)

    def groups(self, sequences: Sequence[Sequence[int]]) -> list[tuple[list[int], int]]:
        """Sort sequences into groups with a beginning worth computing once, and its length.

        A group is a run, in lexicographic order, whose common beginning is at least half of its first sequence. What
        shares nothing is one group with length 0. Inside a group sequences are sorted by length.
        """
        if not self.runner.can_pad_inside:
            return [(sorted(range(len(sequences)), key=lambda i: len(sequences[i])), 0)]
        order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
        groups: list[tuple[list[int], int]] = []
        alone: list[int] = []
        start = 0
        while start < len(order):
            first = sequences[order[start]]
            stop, shared = start + 1, len(first)
            while stop < len(order):
                common = common_prefix(first, sequences[order[stop]])
                if common < max(8, len(first) / 2):
                    break
                stop, shared = stop + 1, min(shared, common)
            members = order[start:stop]
            if len(members) == 1:
                alone += members
            else:  # every member keeps one token of its own, whose logits are wanted
                shared = min([shared, *(len(sequences[i]) - 1 for i in members)])
                groups.append((sorted(members, key=lambda i: len(sequences[i])), shared))
            start = stop
        if alone:
            groups.append((sorted(alone, key=lambda i: len(sequences[i])), 0))
        return groups

    def shared(self, sequences: Sequence[Sequence[int]]) -> int:
        """Return how many tokens reading the sequences computes, common beginnings once."""
        groups = self.groups(sequences) if self.objective == "causal" else [(list(range(len(sequences))), 0)]
        return sum(prefix + sum(len(sequences[i]) - prefix for i in group) for group, prefix in groups)

    @cached_property
    def speed(self) -> tuple[float, float]:
        """Seconds for a token that is read in a batch, and for one that is written in a batch of eight."""
        rows = [[0] * min(64, self.context_length - 2)] * 8
        spent = []
        with self.runner.inference():
            for _ in range(3):  # the first is warm-up
                began = time.perf_counter()
                if self.objective == "masked":
                    self.masked_logits(rows)
                    spent.append((time.perf_counter() - began, 0.0))
                    continue
                state = self.runner.start(rows)
                middle = time.perf_counter()
                self.runner.extend(state, torch.zeros(8, 1, dtype=torch.long, device=self.runner.device))
                spent.append((middle - began, time.perf_counter() - middle))
        read, wrote = map(min, zip(*spent))
        return read / sum(map(len, rows)), wrote / len(rows)

    def batches(self, items: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """Cut ``items``, whose lengths go up, into batches of at most ``batch_tokens`` padded tokens."""
        batches: list[list[int]] = []
        for item, length in zip(items, lengths):
            if batches and (len(batches[-1]) + 1) * length <= self.batch_tokens:
                batches[-1].append(item)
            else:
                batches.append([item])
        return batches

    def with_context(self, joint: Joint) -> Joint:
        """Put a token before a joint text whose prompt is empty."""
        ids = self.context(())
        return Joint((*ids, *joint.ids), len(ids), joint.n_bytes)

    def context(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """``ids``, or where there are none a token that a text may begin after."""
        if ids:
            return ids
        for special in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if special is not None:
                return (int(special),)
        raise ValueError(f"a prompt is empty, and the tokenizer of {self.name!r} has no BOS token to start from")

    def check_length(self, n: int, text: str, what: str) -> None:
        """Say so if ``n`` tokens of a text do not fit into the context."""
        if n > self.context_length:
            raise ValueError(
                f"{what} have {n} tokens, and {self.name!r} reads {self.context_length} at most; shorten the text that "
                f"begins with {text[:40]!r} (fit() cuts to a number of tokens)"
            )

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """Return the tokens that a prompt is read as."""
        if self.objective == "seq2seq":
            return tuple(self.codec.encode(prompt, special=True))
        return self.context(self.codec.with_head(self.codec.encode(prompt)))

    def masked_logits(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Return a masked model's logits (n, width, V) on padded sequences, in float32."""
        ids, mask = padded(sequences, self.runner.device, self.tokenizer.pad_token_id or 0)
        return self.model(input_ids=ids, attention_mask=mask).logits.float()

    def log_normalizer(self, logits: Tensor) -> Tensor:
        """Return the log-sum-exp (...) of ``logits`` (..., V), which is finite unless they are no logits."""
        total = logits.logsumexp(-1)
        if not bool(torch.isfinite(total).all()):
            raise BadNumber(
                f"{self.name!r} gives logits that are NaN or infinite: its weights are damaged, its training diverged, "
                "or its numbers overflow"
            )
        return total

    def logprob(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Log-softmax of ``logits`` (..., V) at ``tokens`` (...)."""
        return logits.gather(-1, tokens[..., None])[..., 0] - self.log_normalizer(logits)
