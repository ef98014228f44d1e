"""Inputs that have several labels at once, of which a chunk annotates some: their loss, and how a memory keeps them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def label_loss(scores: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy for codes y (n,), or the mean binary one over what is annotated in a matrix (n, C).

    Examples
    --------
    >>> scores = torch.tensor([[0.7, -1.2, 9.0]])
    >>> round(label_loss(scores, torch.tensor([[1.0, 0.0, torch.nan]])).item(), 6)
    0.333234
    """
    if y.dim() == 1:
        return F.cross_entropy(scores, y)
    known = ~y.isnan()
    return F.binary_cross_entropy_with_logits(scores[known], y[known])


def masked_loss(scores: Tensor, y: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over a whole matrix (n, C), in which NaN counts as a constant ln 2.

    So scores and targets of what is not annotated are as good as 0, and have no gradient.

    Examples
    --------
    >>> y = torch.full((1, 10), torch.nan)
    >>> y[0, :2] = torch.tensor([1.0, 0.0])
    >>> round(masked_loss(torch.tensor([[0.7, -1.2, *[9.0] * 8]]), y).item(), 6)
    0.621165
    """
    known = ~y.isnan()
    return F.binary_cross_entropy_with_logits(scores.where(known, 0.0), y.where(known, 0.0))


def numbered(Y: Tensor, sets: list[list[int]]) -> Tensor:
    """Return a number (n,) for each row of a label matrix (n, C), its place in ``sets``, which gets the new ones.

    So a memory keeps one integer a row. A row has the same number whatever labels came after those it annotates.

    Examples
    --------
    >>> sets = []
    >>> numbered(torch.tensor([[1.0, 0.0], [0.0, torch.nan], [1.0, 0.0]]), sets).tolist(), sets
    ([0, 1, 0], [[1, 0], [0]])
    """
    known = {tuple(row): number for number, row in enumerate(sets)}
    numbers = []
    for row in Y.nan_to_num(-1).long().tolist():
        while row and row[-1] < 0:
            row.pop()
        numbers.append(known.setdefault(tuple(row), len(known)))
        if len(known) > len(sets):
            sets.append(row)
    return torch.tensor(numbers, device=Y.device)


def label_matrix(numbers: Tensor, sets: list[list[int]], n_classes: int) -> Tensor:
    """Return the rows (n, n_classes) that have these numbers, NaN where they say nothing.

    Examples
    --------
    >>> label_matrix(torch.tensor([1, 0]), [[1, 0], [0]], 3)
    tensor([[0., nan, nan],
            [1., 0., nan]])
    """
    rows = torch.tensor([row + [-1] * (n_classes - len(row)) for row in sets], dtype=torch.float32)
    return rows.masked_fill(rows < 0, torch.nan)[numbers.cpu()].to(numbers.device)
