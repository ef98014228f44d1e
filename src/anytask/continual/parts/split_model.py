"""A classifier seen as an extractor and a head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Embedder(nn.Module):
    """The embeddings (n, d) that a classifier's head is given.

    Parameters
    ----------
    model : torch.nn.Module
        Maps inputs to logits; kept, not copied.
    head : str, optional
        Name of the module whose input is the embedding; by default the last linear layer.

    Raises
    ------
    ValueError
        For a model without such a module; at a call, if what it is given is no (n, d), or it is not called.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> Embedder(model)(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, model: nn.Module, head: str | None = None) -> None:
        super().__init__()
        named = dict(model.named_modules())
        if head is None:
            head = next((name for name in reversed(named) if isinstance(named[name], nn.Linear)), None)
        if head is None or head not in named or not head:
            known = ", ".join(name for name in list(named)[1:][-6:]) or "none"
            raise ValueError(f"the model has no head {head!r} whose input is the embedding; its last modules: {known}")
        self.model, self._head = model, head

    @property
    def head(self) -> nn.Module:
        """The module whose input is the embedding."""
        return self.model.get_submodule(self._head)

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda module, args: _take(seen, args))
        try:
            self.model(x)
        finally:
            hook.remove()
        if not seen or seen[0].dim() != 2:
            got = f"a tensor of shape {tuple(seen[0].shape)}" if seen else "nothing"
            raise ValueError(f"the head {self._head!r} is given {got}, and an embedding (n, d) is wanted")
        return seen[0]

    @torch.no_grad()
    def all(self, X: Tensor, size: int = 256) -> Tensor:
        """Return the embeddings of many inputs, a few at a time, without gradients."""
        return torch.cat([self(part) for part in X.split(size)])


def logits_of(model: nn.Module, x: Tensor) -> int:
    """Return how many logits a classifier has, or raise a ValueError where it cannot forget.

    Parameters
    ----------
    model : torch.nn.Module
        Run on one input, in evaluation mode, and left as it was.
    x : Tensor (1, \\*input_shape)

    Examples
    --------
    >>> logits_of(nn.Linear(4, 3), torch.zeros(1, 4))
    3
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "all weights of the model are frozen (requires_grad=False): there is nothing that could forget"
        )
    device, training = next(model.parameters()).device, model.training
    try:
        with torch.no_grad():
            return int(model.eval()(x.to(device)).shape[1])
    except (RuntimeError, IndexError, AttributeError) as error:
        raise ValueError(f"the model maps no inputs of shape {tuple(x.shape[1:])} to logits: {error}") from error
    finally:
        model.train(training)


def _take(seen: list[Tensor], args: Any) -> None:
    seen.append(args[0])
