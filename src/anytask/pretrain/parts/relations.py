"""Attention relations: how the tokens of a text relate to each other in an encoder's last block.

References
----------
Wang, Bao, Huang, Dong, Wei, 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing
Pretrained Transformers", arXiv:2012.15828.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anytask.parts.distillation import kl_distillation

#: What the three projections of a block are called in transformers' encoders.
_NAMES = (
    ("query", "key", "value"), ("query_proj", "key_proj", "value_proj"), ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"),
)  # fmt: skip


def relations(x: Tensor, heads: int) -> Tensor:
    """Return ``X X' / sqrt(d_r)`` of each relation head.

    Parameters
    ----------
    x : Tensor of shape (n, t, width)
        Queries, keys or values; the width is cut to a multiple of ``heads``.
    heads : int

    Returns
    -------
    Tensor of shape (n, heads, t, t)

    Raises
    ------
    ValueError
        If there are more heads than the width has numbers.

    Examples
    --------
    >>> relations(torch.eye(2)[None], 1)
    tensor([[[[0.7071, 0.0000],
              [0.0000, 0.7071]]]])
    """
    d = x.shape[-1] // heads
    if d < 1:
        raise ValueError(f"{heads} relation heads need a width of at least {heads}, got {x.shape[-1]}: lower them")
    x = x[..., : heads * d].unflatten(-1, (heads, d)).transpose(1, 2)  # (n, heads, t, d)
    return x @ x.mT / math.sqrt(d)


def relation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int, mask: Tensor | None = None, kind: str = "kl"
) -> Tensor:
    """Return how far a student's relations are from a teacher's: the sum over queries, keys and values.

    Parameters
    ----------
    student, teacher : sequences of Tensor of shape (n, t, width)
        Of any widths; no gradient flows into ``teacher``.
    heads : int
        Relation heads, of both.
    mask : bool Tensor of shape (n, t), optional
        Which tokens there are; all unless given.
    kind : {"kl", "mse"}
        The mean over heads and tokens of the divergence of the softmax over the tokens (paper), or the mean squared
        difference of the scores (released code).

    Examples
    --------
    >>> own, other = torch.eye(2)[None], torch.tensor([[[1.0, 0, 0, 0], [1, 0, 0, 0]]])
    >>> [round(relation_loss([own], [other], 1, kind=kind).item(), 5) for kind in ("kl", "mse")]
    [0.06124, 0.14645]
    """
    n, t = student[0].shape[:2]
    mask = student[0].new_ones(n, t, dtype=torch.bool) if mask is None else mask
    total = student[0].new_zeros(())
    for own, other in zip(student, teacher, strict=True):
        s, t_ = relations(own, heads), relations(other.detach(), heads)  # (n, heads, t, t)
        if kind == "mse":
            pairs = (mask[:, :, None] & mask[:, None, :])[:, None]
            total = total + ((s - t_).square() * pairs).sum() / (heads * pairs.sum())
        else:
            hidden, least = ~mask[:, None, None, :], torch.finfo(s.dtype).min
            rows = kl_distillation(s.masked_fill(hidden, least), t_.masked_fill(hidden, least), reduction="none")
            total = total + (rows * mask[:, None]).sum() / (heads * mask.sum())
    return total


def projections(encoder: nn.Module) -> list[nn.Module]:
    """Return the modules that make the queries, keys and values of an encoder's last block.

    Raises
    ------
    ValueError
        If no three modules have names that transformers' encoders give them.
    """
    modules = dict(encoder.named_modules())
    for names in _NAMES:
        owners = [path.removesuffix(f".{names[0]}") for path in modules if path.endswith(f".{names[0]}")]
        if owners := [owner for owner in owners if all(f"{owner}.{name}" in modules for name in names)]:
            return [modules[f"{owners[-1]}.{name}"] for name in names]
    raise ValueError(f"a {type(encoder).__name__} does not show the queries, keys and values of its last block")


@contextmanager
def recorded(made_by: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Keep what :func:`projections` (n, t, width) give in one forward pass inside the block."""
    found: list[Any] = [None] * len(made_by)

    def keep(place: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found[place] = output

        return hook

    handles = [module.register_forward_hook(keep(place)) for place, module in enumerate(made_by)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
