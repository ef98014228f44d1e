"""A frozen model whose weights are a function of a few coefficients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn import functional as F

from anytask.core.errors import shown
from anytask.multitask.parts.logits import logits_of, read_rows
from anytask.multitask.parts.task_vectors import Block, LowRank, dense

Map: TypeAlias = Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    """Return x."""
    return x


def stored(tau: Block | None, theta: Tensor, storage: str) -> Block | None:
    """Return a vector's block as it is held in training: float16 for values that it can tell from 0 and infinity."""
    if tau is None or isinstance(tau, LowRank):
        return tau and LowRank(tau.B.to(theta), tau.A.to(theta))
    size = float(tau.abs().max())
    if storage == "given" or (storage == "float16" and not 1e-4 < size < 6e4):
        return tau.detach().to(theta)
    return tau.detach().to(theta.device, getattr(torch, storage))


class Scaled:
    """A block of the model: its vectors, and the groups of its entries where there are several."""

    def __init__(self, taus: list[Block | None], groups: Tensor | None, n_groups: int, theta_0: Tensor) -> None:
        self.taus, self.groups, self.n_groups, self.theta_0 = taus, groups, n_groups, theta_0

    def delta(self, lambda_: Tensor) -> Tensor:
        """Return ``sum_i lambda_i tau_i`` for coefficients (b, K)."""
        total = torch.zeros_like(self.theta_0)
        for scale, tau in zip(lambda_.to(total), self.taus):
            if isinstance(tau, LowRank) and self.groups is None:
                total.addmm_(scale * tau.B, tau.A)
            elif tau is not None:
                total += (scale if self.groups is None else scale[self.groups]) * dense(tau).to(total)
        return total

    def dots(self, G: Tensor) -> Tensor:
        """Return the inner products (b, K) of a gradient by the block with its vectors."""
        found = torch.zeros(len(self.taus), self.n_groups, dtype=G.dtype, device=G.device)
        for own, tau in zip(found, self.taus):
            if isinstance(tau, LowRank) and self.groups is None:
                own += ((G @ tau.A.T) * tau.B).sum()
            elif tau is not None:
                product = G * dense(tau).to(G)
                if self.groups is None:
                    own += product.sum()
                else:
                    own.index_add_(0, self.groups.flatten(), product.flatten())
        return found


class _Delta(torch.autograd.Function):
    """A block's change as a function of its coefficients, with no copy of the vectors kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, lambda_: Tensor, block: Scaled) -> Tensor:
        ctx.block, ctx.dtype = block, lambda_.dtype
        return block.delta(lambda_)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Any:
        return ctx.block.dots(G).to(ctx.dtype), None


class Composition(nn.Module):
    """A frozen model with the weights ``theta_0 + sum_i Lambda_i tau_i``; the coefficients are its only parameters."""

    def __init__(
        self, model: nn.Module, names: list[str], blocks: Mapping[str, Scaled], per_block: bool, linearized: bool,
        autocast: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self._held = (model,)  # not a submodule: it is neither trained nor kept with the best coefficients
        self.names, self.blocks = names, dict(blocks)
        self.per_block, self.linearized, self.autocast = per_block, linearized, bool(autocast)
        first = next(iter(self.blocks.values())).theta_0
        self._dtype = torch.promote_types(first.dtype, torch.float32)
        self.choose(torch.arange(len(names))[:, None].expand(-1, len(blocks)))

    def choose(self, chosen: Tensor) -> None:
        """Keep the vectors ``chosen`` (b, m) of each block, with coefficients of 0."""
        for rows, block in zip(chosen.T.tolist(), self.blocks.values()):
            block.taus = [block.taus[i] for i in rows]
        self.chosen, k = chosen, next(iter(self.blocks.values()))
        m = len(self.blocks) if self.per_block else 1
        self.lambda_ = nn.Parameter(torch.zeros(len(chosen), m, k.n_groups, dtype=self._dtype, device=k.theta_0.device))

    def deltas(self) -> dict[str, Tensor]:
        """Return the change of each block."""
        m = self.lambda_.shape[1]
        return {
            name: _Delta.apply(self.lambda_[:, min(j, m - 1)], block)
            for j, (name, block) in enumerate(self.blocks.items())
        }

    def theta(self) -> dict[str, Tensor]:
        """Return the composed weights; for a linearized model the changes."""
        deltas = self.deltas()
        return deltas if self.linearized else {n: self.blocks[n].theta_0 + delta for n, delta in deltas.items()}

    def logits(self, theta: Mapping[str, Tensor], x: Tensor, head: Map | None = None) -> Tensor:
        """Return the logits (n, n_classes) of inputs, in at least float32."""
        x = x.to(self.lambda_.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            out = linear(self._held[0], theta, x) if self.linearized else logits_of(self._held[0], theta, x)
            out = out if head is None else head(out)
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def loss(
        self, theta: Mapping[str, Tensor], X: Tensor, y: Tensor, rows: Tensor, head: Map | None = None,
        augment: Map = lambda x: x,
    ) -> Tensor:  # fmt: skip
        """Return the cross-entropy of some rows."""
        return F.cross_entropy(self.logits(theta, augment(X[rows]), head), y[rows].to(self.lambda_.device))

    @torch.no_grad()
    def probabilities(self, X: Tensor, head: Map | None = None) -> Tensor:
        """Return probabilities (n, n_classes) with the present coefficients."""
        theta = self.theta()
        return torch.cat([self.logits(theta, part, head).softmax(1).cpu() for part in X.split(512)])

    def accuracy(self, X: Tensor, y: Tensor, head: Map | None = None) -> float:
        """Return the share of right answers with the present coefficients."""
        return float((self.probabilities(X, head).argmax(1) == y).float().mean())

    def alone(self, name: str, X: Tensor, y: Tensor, head: Map | None = None) -> float:
        """Return the accuracy of the model that is fine-tuned for a data set; 1 where there is none, or it is 0."""
        if name not in self.names or len(self.chosen) < len(self.names):
            return 1.0
        before = self.lambda_.detach().clone()
        self.lambda_.data[self.names.index(name)] = 1.0
        found = self.accuracy(X, y, head)
        self.lambda_.data.copy_(before)
        return found or 1.0

    @torch.no_grad()
    def coefficients(self) -> Tensor:
        """Return the coefficients (n, m, K) of all vectors, 0 for those that were not chosen."""
        b, m, K = len(self.chosen), len(self.blocks), self.lambda_.shape[2]
        every = self.lambda_.new_zeros(len(self.names), m, K)
        places = self.chosen.to(every.device)[:, :, None].expand(b, m, K)
        return every.scatter_(0, places, self.lambda_.expand(b, m, K))

    @torch.no_grad()
    def materialised(self, given: nn.Module) -> nn.Module:
        """Return the model with the composed weights in place, otherwise as given; the composition ends with it."""
        model, deltas = self._held[0].train(given.training), self.deltas()
        for weight, own in zip(model.parameters(), given.parameters()):
            weight.requires_grad_(own.requires_grad)
        if self.linearized:
            return Linearized(model, deltas).train(given.training)
        for name, delta in deltas.items():
            self.blocks[name].theta_0.data.add_(delta)
        return model

    def read(self, X: Any, y: Any = None, name: str = "X", head: Map | None = None) -> tuple[Tensor, Tensor]:
        """Return inputs as the model takes them, whole numbers as they are if it can, and labels."""
        theta: dict[str, Tensor] = self.theta() if self.linearized else {}
        dtype = next(iter(self.blocks.values())).theta_0.dtype
        return read_rows(lambda x: self.logits(theta, x, head), dtype, X, y, name)


class Linearized(nn.Module):
    """A model's first-order expansion: its output at ``theta_0``, and the change of it along ``delta``."""

    def __init__(self, model: nn.Module, delta: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model, self.names = model, list(delta)
        for place, value in enumerate(delta.values()):
            self.register_buffer(f"delta_{place}", value)

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.model, {name: getattr(self, f"delta_{i}") for i, name in enumerate(self.names)}, x)


def linear(model: nn.Module, delta: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return ``f(x; theta_0) + J f(x; theta_0) delta``."""
    theta_0 = {name: value.detach() for name, value in model.named_parameters() if name in delta}
    out, change = jvp(lambda theta: logits_of(model, theta, x), (theta_0,), (dict(delta),))[:2]
    return out + change


def pair_of(value: Any, name: str) -> tuple[Any, Any]:
    """Return X and y, or say that a value is no pair of them."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (X, y), got {shown(value, 60)}")
    return value[0], value[1]


def rows_of(n: int, size: int) -> Iterator[Tensor]:
    """Yield the rows of batches, in a new order for each pass."""
    while True:
        yield from torch.randperm(n).split(size)


def trusted(P: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of P (n, C) that are surest of each class, a tenth of its share and at most 100, and the classes.

    Examples
    --------
    >>> trusted(torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7]]))
    (tensor([1, 2]), tensor([0, 1]))
    """
    n, C = P.shape
    k = max(1, min(n // C // 10, 100))
    return P.topk(k, dim=0).indices.T.flatten(), torch.arange(C).repeat_interleave(k)
