"""Cores that carry a memory through a sequence and drop it where an episode starts, behind one interface.

A core maps inputs (T, n, d) of n copies to outputs (T, n, width) and passes a state (n, state_dim) on. Step t with
``starts[t]`` set begins an episode: the state before it is zero. A multi-layer perceptron is the core without a memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}


class Core(nn.Module):
    """Base of the cores.

    Attributes
    ----------
    width : int
        Of the outputs.
    state_dim : int
        Numbers remembered per copy; 0 for a core without a memory.
    """

    width: int
    state_dim: int

    def initial_state(self, n: int, device: str | torch.device = "cpu") -> Tensor:
        """Return the state (n, state_dim) at the start of an episode."""
        return torch.zeros(n, self.state_dim, device=device)

    def step(self, x: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step of inputs (n, d) with ``starts`` (n,): outputs (n, width) and the next state."""
        y, state = self(x[None], state, None if starts is None else starts[None])
        return y[0], state

    def forward(self, x: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A sequence of inputs (T, n, d) with ``starts`` (T, n) bool: outputs (T, n, width) and the state after it."""
        raise NotImplementedError


class MLPCore(Core):
    """Layers with activations after each; no memory.

    Parameters
    ----------
    n_in : int
    hidden : sequence of int, default (64, 64)
    activation : {"tanh", "relu", "elu"}, default "tanh"

    Examples
    --------
    >>> core = MLPCore(3, (8,))
    >>> core.step(torch.zeros(5, 3), core.initial_state(5))[0].shape
    torch.Size([5, 8])
    """

    state_dim = 0

    def __init__(self, n_in: int, hidden: Sequence[int] = (64, 64), activation: str = "tanh") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise([n_in, *hidden]):
            layer = nn.Linear(a, b)
            nn.init.orthogonal_(layer.weight, 2**0.5)
            nn.init.zeros_(layer.bias)
            layers += [layer, ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)
        self.width = hidden[-1] if len(hidden) else n_in

    def forward(self, x: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.layers(x), state


class RecurrentCore(Core):
    """A GRU or LSTM whose state starts anew inside the sequence wherever an episode does.

    The sequences of all copies are cut at the starts and run as one packed batch, so that a sequence with many episodes
    costs no more than one without.

    Parameters
    ----------
    n_in, width : int
    cell : {"gru", "lstm"}, default "gru"
    layers : int >= 1, default 1

    Examples
    --------
    After a start, what came before no longer matters.

    >>> core = RecurrentCore(2, 4)
    >>> x, starts = torch.randn(3, 1, 2), torch.tensor([[True], [False], [True]])
    >>> y, _ = core(x, torch.ones(1, 4), starts)
    >>> alone, _ = core(x[2:], core.initial_state(1))
    >>> torch.allclose(y[2], alone[0])
    True
    """

    def __init__(self, n_in: int, width: int, cell: str = "gru", layers: int = 1) -> None:
        super().__init__()
        if cell not in ("gru", "lstm"):
            raise ValueError(f"cell must be 'gru' or 'lstm', got {cell!r}")
        self.rnn = (nn.GRU if cell == "gru" else nn.LSTM)(n_in, width, layers)
        for name, weight in self.rnn.named_parameters():
            nn.init.zeros_(weight) if "bias" in name else nn.init.orthogonal_(weight)
        self.cell, self.width, self.layers = cell, width, layers
        self.state_dim = width * layers * (2 if cell == "lstm" else 1)

    def forward(self, x: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        T, n = x.shape[:2]
        if starts is None or not bool(starts[1:].any()):
            if starts is not None:
                state = state.masked_fill(starts[0][:, None], 0.0)
            y, hidden = self.rnn(x, self._unpack(state))
            return y, self._pack(hidden)
        # Each copy's column falls into segments; `segment` numbers them, `place` counts the steps within one.
        first = starts.clone()
        first[0] = True
        column = first.t().flatten()  # copies one after another, (n * T,)
        segment = column.cumsum(0) - 1
        begin = column.nonzero()[:, 0]  # (S,)
        place = torch.arange(n * T, device=x.device) - begin[segment]
        length = torch.bincount(segment)
        rank_to_segment = length.argsort(descending=True, stable=True)
        rank = torch.empty_like(rank_to_segment)
        rank[rank_to_segment] = torch.arange(len(rank), device=x.device)
        order = (place * len(length) + rank[segment]).argsort()  # a packed sequence: by step, then longest first
        flat = x.transpose(0, 1).flatten(0, 1)
        initial = state.new_zeros(len(length), state.shape[1])
        heads = segment[torch.arange(n, device=x.device) * T]  # the first segment of each copy continues the old state
        initial = initial.index_copy(0, heads, state.masked_fill(starts[0][:, None], 0.0))
        packed = PackedSequence(flat[order], torch.bincount(place).cpu())
        out, hidden = self.rnn(packed, self._unpack(initial[rank_to_segment]))
        y = torch.empty_like(out.data).index_copy(0, order, out.data)
        tails = segment[torch.arange(n, device=x.device) * T + T - 1]
        return y.reshape(n, T, -1).transpose(0, 1), self._pack(hidden)[rank[tails]]

    def _unpack(self, state: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        parts = state.reshape(len(state), -1, self.width).transpose(0, 1).contiguous()  # (layers or 2 layers, n, width)
        return parts if self.cell == "gru" else (parts[: self.layers].contiguous(), parts[self.layers :].contiguous())

    def _pack(self, hidden: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        parts = hidden if isinstance(hidden, Tensor) else torch.cat(hidden)
        return parts.transpose(0, 1).flatten(1)
