"""Layers between encoder and heads: without a memory, and with one that is dropped where an episode starts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}


class MLPCore(nn.Module):
    """Layers with activations after each; no memory.

    Parameters
    ----------
    n_in : int
    hidden : sequence of int, default (64, 64)
    activation : {"tanh", "relu", "elu"}, default "tanh"
    orthogonal : bool, default True
        Initial weights are orthogonal with biases of 0, and not torch's own.

    Examples
    --------
    >>> MLPCore(3, (8,))(torch.zeros(5, 3)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self, n_in: int, hidden: Sequence[int] = (64, 64), activation: str = "tanh", *, orthogonal: bool = True
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise([n_in, *hidden]):
            layer = nn.Linear(a, b)
            if orthogonal:
                nn.init.orthogonal_(layer.weight, 2**0.5)
                nn.init.zeros_(layer.bias)
            layers += [layer, ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)
        self.width = hidden[-1] if len(hidden) else n_in

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class RecurrentCore(nn.Module):
    """A GRU or LSTM whose state starts anew inside the sequence wherever an episode does.

    It maps inputs (T, n, d) of n environments, with ``starts`` (T, n) and a state (n, ``state_dim``), to outputs
    (T, n, width) and the state after them; or one step of them, without the first axis. Before step t with
    ``starts[t]`` set, the state is zero.

    The sequences of all environments are cut at the starts and run as one packed batch, so that a sequence with many
    episodes costs no more than one without.

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
    >>> alone, _ = core(x[2:], torch.zeros(1, 4), starts[:1])
    >>> torch.allclose(y[2], alone[0])
    True
    """

    def __init__(self, n_in: int, width: int, cell: str = "gru", layers: int = 1) -> None:
        super().__init__()
        self.rnn = (nn.GRU if cell == "gru" else nn.LSTM)(n_in, width, layers)
        for name, weight in self.rnn.named_parameters():
            nn.init.zeros_(weight) if "bias" in name else nn.init.orthogonal_(weight)
        self.cell, self.width, self.layers = cell, width, layers
        self.state_dim = width * layers * (2 if cell == "lstm" else 1)

    def forward(self, x: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        if x.dim() == 2:
            y, state = self(x[None], state, starts[None])
            return y[0], state
        T, n = x.shape[:2]
        state = state.masked_fill(starts[0][:, None], 0.0)
        if not bool(starts[1:].any()):
            y, hidden = self.rnn(x, self._unpack(state))
            return y, self._pack(hidden)
        # Each environment's column falls into segments; `segment` numbers them, `place` counts the steps within one.
        first = starts.clone()
        first[0] = True
        column = first.t().flatten()  # environments one after another, (n * T,)
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
        initial = initial.index_copy(0, segment[::T], state)  # each environment's first segment continues its state
        packed = PackedSequence(flat[order], torch.bincount(place).cpu())
        out, hidden = self.rnn(packed, self._unpack(initial[rank_to_segment]))
        y = torch.empty_like(out.data).index_copy(0, order, out.data)
        return y.reshape(n, T, -1).transpose(0, 1), self._pack(hidden)[rank[segment[T - 1 :: T]]]

    def _unpack(self, state: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        parts = state.reshape(len(state), -1, self.width).transpose(0, 1).contiguous()  # (layers or 2 layers, n, width)
        return parts if self.cell == "gru" else (parts[: self.layers].contiguous(), parts[self.layers :].contiguous())

    def _pack(self, hidden: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        parts = hidden if isinstance(hidden, Tensor) else torch.cat(hidden)
        return parts.transpose(0, 1).flatten(1)
