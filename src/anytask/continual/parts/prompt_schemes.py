"""Which prompts a frozen transformer gets for an input: one for all, a pool chosen from, one per task, or a mixture.

All are prefixes (:meth:`anytask.parts.frozen_transformer.FrozenTransformer.as_prefix`): half keys, half values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Prompts = dict[int, Tensor]


def _uniform(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(*shape))


class PromptScheme(nn.Module):
    """Base of the schemes.

    Parameters
    ----------
    lengths : mapping of int to int
        Block -> length of its prompts, keys and values together.
    width : int
        Width d of a token.
    """

    #: Whether prompts depend on the features of the input in the unprompted network.
    asks: ClassVar[bool] = False

    def __init__(self, lengths: Mapping[int, int], width: int) -> None:
        super().__init__()
        self.lengths, self.width = dict(lengths), width

    def begin_task(self) -> None:
        """Prepare for one more task; what belongs to the tasks before moves no more."""

    def forward(self, query: Tensor | None, training: bool) -> tuple[Prompts, Tensor | float]:
        """Return block -> prompts (length, d) or (n, length, d), and a loss to add in training."""
        raise NotImplementedError


class OnePrompt(PromptScheme):
    """One set of prompts for all inputs and tasks, trained on and on."""

    def __init__(self, lengths: Mapping[int, int], width: int) -> None:
        super().__init__(lengths, width)
        self.prompts = nn.ParameterDict({str(block): _uniform(n, width) for block, n in lengths.items()})

    def forward(self, query: Tensor | None, training: bool) -> tuple[Prompts, Tensor | float]:
        return {block: self.prompts[str(block)] for block in self.lengths}, 0.0


class PromptPool(PromptScheme):
    """L2P (Wang et al., 2022): the prompts of a pool whose keys are nearest to the query by cosine.

    Parameters
    ----------
    size, top : int
        Prompts in the pool, each of the block's length, and how many an input gets, one behind the other.
    """

    asks = True

    def __init__(self, lengths: Mapping[int, int], width: int, size: int = 30, top: int = 5) -> None:
        super().__init__(lengths, width)
        self.top = min(top, size)
        self.keys = _uniform(size, width)
        self.prompts = nn.ParameterDict({str(block): _uniform(size, n, width) for block, n in lengths.items()})

    def forward(self, query: Tensor | None, training: bool) -> tuple[Prompts, Tensor | float]:
        assert query is not None
        near, chosen = _cosines(query, self.keys).topk(self.top, dim=1)  # (n, top)
        prompts = {block: _joined(self.prompts[str(block)][chosen]) for block in self.lengths}
        return prompts, (1 - near).sum(1).mean()


class PromptPerTask(PromptScheme):
    """DualPrompt (Wang et al., 2022): general prompts for all, and expert prompts for each task, found by their key.

    Parameters
    ----------
    general : sequence of int
        The blocks whose prompts all tasks share.
    """

    asks = True

    def __init__(self, lengths: Mapping[int, int], width: int, general: Sequence[int] = ()) -> None:
        super().__init__(lengths, width)
        self.general = OnePrompt({block: lengths[block] for block in general if block in lengths}, width)
        self.experts = nn.ModuleList()
        self.keys = nn.ParameterList()

    def begin_task(self) -> None:
        for old in (*self.experts.parameters(), *self.keys):
            old.requires_grad_(False)
        place = next(self.general.parameters(), torch.zeros(0)).device
        own = {block: n for block, n in self.lengths.items() if block not in self.general.lengths}
        self.experts.append(OnePrompt(own, self.width).to(place))
        self.keys.append(_uniform(self.width).to(place))

    def forward(self, query: Tensor | None, training: bool) -> tuple[Prompts, Tensor | float]:
        assert query is not None
        near = _cosines(query, torch.stack(list(self.keys)))  # (n, tasks)
        task = near.argmax(1) if not training else torch.full((len(query),), len(self.keys) - 1, device=query.device)
        prompts, _ = self.general(None, training)
        sets = [expert(None, training)[0] for expert in self.experts]
        for block in sets[0]:
            prompts[block] = torch.stack([one[block] for one in sets])[task]
        return prompts, (1 - near[:, -1]).mean()


class PromptMixture(PromptScheme):
    """CODA-Prompt (Smith et al., 2023): a sum of components, each weighted by the attention of its key to the query.

    Parameters
    ----------
    size : int
        Components that each task adds; they begin orthogonal to each other and to the older ones, which are frozen.
    """

    asks = True

    def __init__(self, lengths: Mapping[int, int], width: int, size: int = 10) -> None:
        super().__init__(lengths, width)
        self.size, self.attention, self.keys = size, nn.ParameterList(), nn.ParameterList()
        self.components = nn.ModuleDict({str(block): nn.ParameterList() for block in lengths})

    def begin_task(self) -> None:
        lists = {self.width: [self.attention, self.keys]}
        for block, n in self.lengths.items():
            lists.setdefault(n * self.width, []).append(self.components[str(block)])  # type: ignore[arg-type]
        for columns, parts in lists.items():
            for part in parts:
                old = [p.requires_grad_(False).flatten(1) for p in part]
                part.append(nn.Parameter(_orthogonal(self.size, columns, old)))

    def forward(self, query: Tensor | None, training: bool) -> tuple[Prompts, Tensor | float]:
        assert query is not None
        A, K = torch.cat(list(self.attention)), torch.cat(list(self.keys))  # (components, d)
        weights = F.cosine_similarity(query[:, None] * A, K, dim=-1)  # (n, components)
        parts = {block: cast(nn.ParameterList, self.components[str(block)]) for block in self.lengths}
        mixed = {block: weights @ torch.cat(list(part)) for block, part in parts.items()}
        return {block: flat.unflatten(1, (-1, self.width)) for block, flat in mixed.items()}, 0.0


SCHEMES: dict[str, type[PromptScheme]] = {
    "one": OnePrompt, "pool": PromptPool, "per task": PromptPerTask, "mixture": PromptMixture
}  # fmt: skip


def _cosines(query: Tensor, keys: Tensor) -> Tensor:
    return F.normalize(query, dim=1) @ F.normalize(keys, dim=1).T


def _joined(prompts: Tensor) -> Tensor:
    """Join prompts (n, top, length, d) to (n, top * length, d): all halves of keys first, then all of values."""
    return torch.cat([half.flatten(1, 2) for half in prompts.chunk(2, dim=2)], dim=1)


def _orthogonal(n: int, width: int, old: Sequence[Tensor]) -> Tensor:
    """Return n unit rows (n, width), by Gram and Schmidt orthogonal to each other and to the old rows, as far as there
    is room."""
    rows = [row / row.norm().clamp_min(1e-8) for part in old for row in part]
    for _ in range(n):
        row = torch.randn(width, device=old[0].device if old else None)
        for other in rows[-(width - 1) :] if width > 1 else []:
            row = row - (row @ other) * other
        rows.append(row / row.norm().clamp_min(1e-8))
    return torch.stack(rows[-n:])
