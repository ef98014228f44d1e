"""Towers of sequences of vectors: even thinning, a transformer with a class token, and the two towers of CLIP."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from anytask.pretrain.parts.item_towers import Encoded, hub_model
from anytask.pretrain.parts.items import words


def spread(lengths: Tensor, limit: int) -> Tensor:
    """Return ``limit`` places (n, limit) that are spread evenly over each length: all places where they suffice.

    Examples
    --------
    >>> spread(torch.tensor([3, 9]), 3)
    tensor([[0, 1, 2],
            [0, 4, 8]])
    """
    place = torch.arange(limit, device=lengths.device)
    return torch.where(lengths[:, None] > limit, place * (lengths[:, None] - 1) // max(limit - 1, 1), place)


class Thinned(nn.Module):
    """A tower that reads at most ``limit`` vectors of a sequence, or words of a text, evenly spread over it."""

    def __init__(self, tower: nn.Module, limit: int) -> None:
        super().__init__()
        self.tower, self.limit = tower, limit

    def forward(self, given: Encoded | Sequence[str]) -> Encoded:
        if not isinstance(given, tuple):
            return self.tower([self.shortened(text) for text in given])
        x, mask = given
        lengths = mask.sum(1)
        if x.shape[1] > self.limit:
            places = spread(lengths, self.limit).clamp(max=x.shape[1] - 1)  # (n, limit)
            x = x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
            mask = torch.arange(self.limit, device=mask.device) < lengths[:, None]
        return self.tower((x, mask))

    def shortened(self, text: str) -> str:
        """Return a text of at most ``limit`` words."""
        said = words(text)
        if len(said) <= self.limit:
            return text
        return " ".join(said[i] for i in spread(torch.tensor([len(said)]), self.limit)[0].tolist())

    def names(self, text: str) -> list[str]:
        """Return what the tokens of a text are called."""
        text, tokenizer = self.shortened(text), getattr(self.tower, "tokenizer", None)
        if tokenizer is None:
            return words(text)
        ids = tokenizer(text, truncation=True, max_length=self.tower.max_tokens)["input_ids"]
        return tokenizer.convert_ids_to_tokens(ids)


class SequenceTransformer(nn.Module):
    """A transformer over a sequence of vectors with a class token and positions, of which the class token is dropped.

    Parameters
    ----------
    d, width : int
        Of a vector that comes in, and of a token that goes out.
    hidden, layers, heads : int
        Width, number and heads of the layers.
    limit : int
        Vectors of the longest sequence.
    """

    def __init__(self, d: int, width: int, *, hidden: int, layers: int, heads: int, limit: int) -> None:
        super().__init__()
        self.link = nn.Linear(d, hidden)
        self.start = nn.Parameter(0.02 * torch.randn(hidden))
        self.positions = nn.Parameter(0.02 * torch.randn(limit + 1, hidden))
        self.before = nn.LayerNorm(hidden)
        layer = nn.TransformerEncoderLayer(
            hidden, heads, 4 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, given: Encoded) -> Encoded:
        x, mask = (part.to(self.start.device) for part in given)
        x, seen = with_start(self.link(x), mask, self.start)
        x = self.before(x + self.positions[: x.shape[1]])
        return self.out(self.layers(x, src_key_padding_mask=~seen))[:, 1:], mask


class ClipSequenceTower(nn.Module):
    """The image tower of CLIP on a sequence of vectors in place of patches, with its own positions.

    Parameters
    ----------
    source : str, path or mapping
        A name, a folder, or the files of one; see :func:`~anytask.pretrain.parts.item_towers.hub_model`.
    d, limit : int
        Width of a vector, and vectors of the longest sequence.
    """

    def __init__(self, source: str | os.PathLike[str] | Mapping[str, str], d: int, limit: int) -> None:
        super().__init__()
        model, _, self.files = hub_model(source)
        vision = model.vision_model
        start = vision.embeddings.class_embedding
        self.link = nn.Linear(d, len(start))
        self.start = nn.Parameter(start.detach().clone())
        self.positions = nn.Parameter(0.02 * torch.randn(limit + 1, len(start)))
        self.positions.data[0] = vision.embeddings.position_embedding.weight[0].detach()
        self.before, self.layers, self.after = vision.pre_layrnorm, vision.encoder, vision.post_layernorm
        self.out = model.visual_projection

    def forward(self, given: Encoded) -> Encoded:
        x, mask = (part.to(self.start.device) for part in given)
        x, seen = with_start(self.link(x), mask, self.start)
        x = self.before(x + self.positions[: x.shape[1]])
        hidden = torch.zeros_like(seen, dtype=x.dtype).masked_fill(~seen, torch.finfo(x.dtype).min)
        hidden = hidden[:, None, None].expand(-1, 1, x.shape[1], -1)
        tokens = self.layers(inputs_embeds=x, attention_mask=hidden).last_hidden_state
        return self.out(self.after(tokens))[:, 1:], mask


class ClipTextTower(nn.Module):
    """The text tower of CLIP, of which all tokens are projected, those of start and end among them.

    Parameters
    ----------
    source : str, path or mapping
        As in :class:`ClipSequenceTower`.
    max_tokens : int
    """

    def __init__(self, source: str | os.PathLike[str] | Mapping[str, str], max_tokens: int) -> None:
        super().__init__()
        model, self.tokenizer, self.files = hub_model(source)
        self.max_tokens = min(max_tokens, model.config.text_config.max_position_embeddings)
        self.layers, self.out = model.text_model, model.text_projection

    def forward(self, texts: Sequence[str]) -> Encoded:
        given = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        ids, mask = (given[name].to(self.out.weight.device) for name in ("input_ids", "attention_mask"))
        return self.out(self.layers(input_ids=ids, attention_mask=mask).last_hidden_state), mask.bool()


def with_start(x: Tensor, mask: Tensor, start: Tensor) -> Encoded:
    """Return tokens (n, t + 1, d) and their mask with a first token in front of all."""
    x = torch.cat([start.expand(len(x), 1, -1), x], dim=1)
    return x, torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)
