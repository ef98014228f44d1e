"""ERNIE 3.0's network: one trunk for all tasks, a branch to understand and a branch to generate, with a memory.

A layer attends to what a mask lets it see; distances between tokens, not places, enter its scores (Transformer-XL):

    a_ij = (q_i + u) . k_j + (q_i + v) . W r_(i-j),    r a sinusoid of the distance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.settings import Settings, choice, whole


class Sizes(Settings):
    """The sizes of the network.

    Parameters
    ----------
    layers, width, heads : int
        n_u and d_u of a trunk of its own, and its attention heads.
    branch_layers, branch_width, branch_heads : int
        n_s and d_s of both branches, and their heads.
    memory : int
        M; 0 for none.
    recurrence : {"same-layer", "standard"}
        Whether a layer remembers its own outputs (ERNIE-Doc's, whose reach grows segment by segment) or its inputs
        (Transformer-XL's).
    """

    layers: int = whole(4, "layers of the trunk")
    width: int = whole(128, "width of the trunk")
    heads: int = whole(4, "attention heads of the trunk")
    branch_layers: int = whole(1, "layers of each branch")
    branch_width: int = whole(64, "width of each branch")
    branch_heads: int = whole(2, "attention heads of each branch")
    memory: int = whole(64, "tokens that generation remembers of the segment before", at_least=0)
    recurrence: str = choice("same-layer", ("same-layer", "standard"), "what a layer remembers: outputs, or inputs")

    def _check_settings(self) -> None:
        for width, heads in ((self.width, self.heads), (self.branch_width, self.branch_heads)):
            if width % heads or width % 2:
                raise ValueError(f"a width must be even, and a multiple of its heads, got {width} and {heads}")


class Memory(NamedTuple):
    """What each layer keeps of the tokens before (b, M, d), and which of these there are (b, M)."""

    layers: list[Tensor]
    valid: Tensor

    def of(self, fresh: Tensor) -> Memory:
        """Return a memory for the rows of ``fresh`` (b,), without what those remember that begin a document."""
        more = len(fresh) - len(self.valid)
        valid = F.pad(self.valid, (0, 0, 0, more)) & ~fresh[:, None]
        return Memory([F.pad(layer, (0, 0, 0, 0, 0, more)) for layer in self.layers], valid)


class Read(NamedTuple):
    """Vectors of a branch (b, L, d_s), those of the trunk (b, L, d_u), and the memory after them, if there is one."""

    branch: Tensor
    trunk: Tensor
    memory: Memory | None


class Layer(nn.Module):
    """Attention under a mask with relative positions and a memory, and a feed-forward network, norms first.

    Parameters
    ----------
    width, heads : int
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.keys_values = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.distance, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.u, self.v = (nn.Parameter(torch.zeros(heads, 1, width // heads)) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, sees: Tensor, memory: Tensor | None = None) -> Tensor:
        """Return x (b, L, d) after attention to a memory (b, M, d) and itself, where ``sees`` (b, L, M + L)."""
        given = self.norm(x if memory is None else torch.cat([memory, x], 1))
        q, (k, v) = self._split(self.query(given[:, -x.shape[1] :])), map(self._split, self._keys_values(given))
        length, far = x.shape[1], k.shape[2] - 1  # distances are from far down to 1 - length
        steps = torch.arange(far, -length, -1, device=x.device)  # (D,)
        r = self._split(self.distance(sinusoids(steps, x.shape[2]))[None])
        scores = (q + self.v) @ r.transpose(2, 3) / q.shape[3] ** 0.5  # (b, heads, L, D), row by row of one distance
        scores = F.pad(scores, (0, 1)).flatten(2)[:, :, length - 1 : length - 1 + length * len(steps)]
        scores = scores.unflatten(2, (length, len(steps)))[..., : far + 1]  # each row is one further than that before
        scores = scores.masked_fill(~sees[:, None], -torch.inf)
        mixed = F.scaled_dot_product_attention(q + self.u, k, v, attn_mask=scores)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.norm_out(x)))

    def _keys_values(self, given: Tensor) -> tuple[Tensor, ...]:
        return self.keys_values(given).chunk(2, dim=2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def sinusoids(distance: Tensor, width: int) -> Tensor:
    """Return sines and cosines of distances (n,) at wavelengths from 2 pi to 20,000 pi, shape (n, width).

    Examples
    --------
    >>> sinusoids(torch.tensor([0, 1]), 2).round(decimals=3).tolist()
    [[0.0, 1.0], [0.8410000205039978, 0.5400000214576721]]
    """
    angle = distance[:, None] / 10_000 ** (torch.arange(0, width, 2, device=distance.device) / width)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Stack(nn.Module):
    """Layers under one mask.

    Parameters
    ----------
    n, width, heads : int
    same_layer : bool
        Whether a layer remembers its own outputs; otherwise its inputs.
    """

    def __init__(self, n: int, width: int, heads: int, same_layer: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(n))
        self.norm, self.same_layer = nn.LayerNorm(width), same_layer

    def forward(self, x: Tensor, sees: Tensor, memory: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Return the last vectors (b, L, d), and what each layer would remember."""
        kept = []
        for place, layer in enumerate(self.layers):
            before, x = x, layer(x, sees, None if memory is None else memory[place])
            kept.append(x if self.same_layer else before)
        return self.norm(x), kept


class Trunk(nn.Module):
    """The universal module: token and segment embeddings, and layers with a memory."""

    def __init__(self, sizes: Sizes, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.segments = nn.Embedding(vocabulary, sizes.width), nn.Embedding(2, sizes.width)
        nn.init.normal_(self.tokens.weight, std=sizes.width**-0.5)
        self.dropout = nn.Dropout(0.0)
        self.stack = Stack(sizes.layers, sizes.width, sizes.heads, sizes.recurrence == "same-layer")
        self.width, self.remembers = sizes.width, sizes.layers

    def forward(
        self, ids: Tensor, segments: Tensor, sees: Tensor, memory: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return vectors (b, L, d_u), and what is to be remembered."""
        x = self.tokens(ids) * self.width**0.5 + self.segments(segments)
        return self.stack(self.dropout(x), sees, memory)


class EncoderTrunk(nn.Module):
    """An encoder of transformers under any mask; it has no memory, and places as it was trained with.

    Parameters
    ----------
    encoder : transformers.PreTrainedModel

    Raises
    ------
    ValueError
        If the encoder does not keep to a mask of its own for each token, so that text ahead would leak into
        generation.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.remembers = encoder, 0
        self.width = int(encoder.config.hidden_size)
        self.has_segments = getattr(encoder.config, "type_vocab_size", 0) >= 2
        was, ids = encoder.training, torch.tensor([[1, 2, 3], [1, 2, 4]], device=encoder.device)
        encoder.eval()
        with torch.no_grad():
            causal = torch.ones(2, 3, 3, dtype=torch.bool, device=ids.device).tril()
            first, second = self(ids, torch.zeros_like(ids), causal, None)[0]
        encoder.train(was)
        if not torch.allclose(first[:2], second[:2], atol=1e-4):
            raise ValueError(f"a {type(encoder).__name__} takes no mask for each token, so that it cannot be the trunk")

    @property
    def tokens(self) -> nn.Embedding:
        """The embeddings of tokens."""
        return self.encoder.get_input_embeddings()

    def forward(
        self, ids: Tensor, segments: Tensor, sees: Tensor, memory: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return vectors (b, L, d_u), and nothing to be remembered."""
        seen = sees[:, None, :, -ids.shape[1] :]
        mask = torch.zeros_like(seen, dtype=self.tokens.weight.dtype)
        mask = mask.masked_fill(~seen, torch.finfo(mask.dtype).min)
        kinds = {"token_type_ids": segments} if self.has_segments else {}
        return self.encoder(input_ids=ids, attention_mask=mask, **kinds).last_hidden_state, []


def encoder_of(config: str) -> Any:
    """Return an encoder with random weights, of what its ``config.to_json_string()`` returned."""
    from transformers import AutoConfig, AutoModel

    facts = json.loads(config)
    return AutoModel.from_config(AutoConfig.for_model(facts.pop("model_type"), **facts))


class Network(nn.Module):
    """A trunk, two branches, and heads for words, orders of sentences and distances between them.

    Parameters
    ----------
    trunk : Trunk or EncoderTrunk
    sizes : Sizes
    known : sequence of V int
        Ids of the tokens that can be predicted.
    separator : int
        Id of the token after which the second segment begins.
    orders : int
        Classes of the reordering head.
    """

    def __init__(self, trunk: Any, sizes: Sizes, known: Sequence[int], separator: int, orders: int) -> None:
        super().__init__()
        width, names = sizes.branch_width, ("understand", "generate")
        self.trunk, self.separator, self.memory = trunk, separator, sizes.memory
        self.register_buffer("known", torch.tensor(known), persistent=False)
        self.narrow = nn.ModuleDict({name: nn.Linear(trunk.width, width) for name in names})
        shape = (sizes.branch_layers, width, sizes.branch_heads, sizes.recurrence == "same-layer")
        self.branch = nn.ModuleDict({name: Stack(*shape) for name in names})
        self.words = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(width, trunk.width), nn.GELU(), nn.LayerNorm(trunk.width)) for name in names}
        )
        self.bias = nn.ParameterDict({name: nn.Parameter(torch.zeros(len(known))) for name in names})
        self.order, self.distance = nn.Linear(width, orders), nn.Linear(width, 3)

    def forward(self, ids: Tensor, valid: Tensor, branch: str = "understand", memory: Memory | None = None) -> Read:
        """Return vectors of tokens, and the memory after them, without gradient.

        Parameters
        ----------
        ids, valid : Tensor of shape (b, L)
            Tokens, and which are no padding.
        branch : {"understand", "generate"}
            The first sees the whole text; the second no token ahead, through the trunk too, and a memory.
        memory : Memory, optional
        """
        own = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
        ends, sees = ids == self.separator, valid[:, None, :].expand(-1, ids.shape[1], -1)
        segments = (ends.cumsum(1) - ends.long()).clamp(max=1)
        if branch == "generate":
            sees, segments = sees.tril(), torch.zeros_like(segments)
        else:
            memory = None
        sees = sees | own  # padding sees itself: of nothing a softmax is NaN
        if memory is not None:
            sees = torch.cat([memory.valid[:, None].expand(-1, ids.shape[1], -1), sees], dim=2)
        n, before = self.trunk.remembers, None if memory is None else memory.layers
        u, kept = self.trunk(ids, segments, sees, None if before is None else before[:n])
        h, more = self.branch[branch](self.narrow[branch](u), sees, None if before is None else before[n:])
        if branch != "generate" or not self.memory:
            return Read(h, u, None)
        kept = [layer.detach() for layer in (*kept, *more)]
        if memory is not None:
            kept = [torch.cat(pair, 1) for pair in zip(memory.layers, kept)]
            valid = torch.cat([memory.valid, valid], 1)
        return Read(h, u, Memory([layer[:, -self.memory :] for layer in kept], valid[:, -self.memory :]))

    def logits(self, h: Tensor, branch: str) -> Tensor:
        """Return scores (..., V) of the tokens that can be predicted; embeddings of the trunk are their weights."""
        return self.words[branch](h) @ self.trunk.tokens.weight[self.known].T + self.bias[branch]
