"""Summaries of many tokens by few: learned selectors, or the merging of those that are alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def selection(sh: Tensor, xh: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the weights (n, s, T) by which selectors sh (s, d) summarize tokens xh (n, T, d): A in A xh.

    Each row is a softmax over the tokens of their products with a selector, divided by sqrt(d); tokens that are not
    ``valid`` (n, T) have no weight.

    Examples
    --------
    >>> selection(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]))
    tensor([[[0.4458, 0.1084, 0.4458],
             [0.1978, 0.4011, 0.4011]]])
    """
    scores = sh @ xh.transpose(1, 2) / math.sqrt(xh.shape[-1])
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None], -torch.inf)
    return scores.softmax(-1)


def merged(x: Tensor, s: int) -> Tensor:
    """Merge tokens (n, T, d) that are alike until there are s of them (bipartite soft matching; Bolya et al., 2023).

    In turns, every other token looks for the one most like it, by cosine, among the rest, and the closest pairs become
    their mean, in which each token counts as many as it was made of.

    Examples
    --------
    >>> x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [3.0, 0.0]]])
    >>> merged(x, 2)
    tensor([[[0.0000, 1.5000],
             [2.0000, 0.0000]]])
    """
    size = torch.ones_like(x[..., :1])  # (n, T, 1)
    while x.shape[1] > s:
        a, b, size_a, size_b = x[:, ::2], x[:, 1::2], size[:, ::2], size[:, 1::2]
        likeness, partner = (F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(1, 2)).max(-1)
        r = min(x.shape[1] - s, b.shape[1])
        order = likeness.argsort(1, descending=True)  # (n, |a|), the closest pairs first
        gone, kept = order[:, :r], order[:, r:]
        target = partner.gather(1, gone)  # (n, r)
        mass = _add(b * size_b, target, _rows(a * size_a, gone))
        size_b = _add(size_b, target, _rows(size_a, gone))
        x = torch.cat([_rows(a, kept), mass / size_b], 1)
        size = torch.cat([_rows(size_a, kept), size_b], 1)
    return x


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _add(x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    return x.scatter_add(1, index[..., None].expand(-1, -1, x.shape[-1]), values)
