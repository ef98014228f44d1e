"""The networks of Uni-Perceiver v2: image encoder, text encoder, and the decoder that all tasks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.settings import Settings, flag, of_kind, whole
from anytask.models.loading import load_pretrained
from anytask.models.towers import Tower
from anytask.multitask.uni_perceiver_v2.proposals import Scenes
from anytask.multitask.uni_perceiver_v2.tasks import START, UNKNOWN, words
from anytask.parts.contrastive import cosine_scores

#: The smallest temperature.
TAU = 0.01


def attribute(kind: str, side: str) -> tuple[float, ...]:
    """Return the attributes by which a task's tokens are routed to experts.

    The bits: images are given; texts are given; answers stand at regions; answers are texts; the token is of an image;
    of a text; of an answer; and it sees only what comes before.

    Parameters
    ----------
    kind : str
        Of the task. Retrieval is classification with captions for class names, and is routed alike.
    side : {"image", "text", "answer"}

    Examples
    --------
    >>> attribute("classification", "image"), attribute("caption", "text")
    ((1, 0, 0, 1, 1, 0, 0, 0), (1, 1, 0, 1, 0, 1, 0, 1))
    """
    written = kind in ("caption", "language")
    bits = (kind != "language", written, kind == "detection", True, side == "image", side != "image", side == "answer")
    return tuple(map(int, (*bits, side == "text")))


class ConditionalFFN(nn.Module):
    """A mixture of experts whose gates depend on the attributes of tokens alone.

    Tokens with equal attributes go through the same ``top_k`` of the experts, so that these are one dense network,
    ``top_k`` times as wide: it is what :meth:`merged` gives, and what is computed.

    Examples
    --------
    >>> ffn = ConditionalFFN(width=4, hidden=8, experts=3, top_k=2)
    >>> [weight.shape for weight in ffn.merged((1,) * 8)[::2]]
    [torch.Size([16, 4]), torch.Size([4, 16])]
    """

    def __init__(
        self, width: int, hidden: int, experts: int, top_k: int, activation: Callable[[], nn.Module] = nn.GELU
    ) -> None:
        super().__init__()
        self.top_k, self.activation = top_k, activation()
        self.embed, self.norm, self.gate = nn.Linear(8, width), nn.LayerNorm(width), nn.Linear(width, experts)
        self.up = nn.ModuleList(nn.Linear(width, hidden) for _ in range(experts))
        self.down = nn.ModuleList(nn.Linear(hidden, width) for _ in range(experts))

    def gates(self, attributes: Sequence[float]) -> tuple[Tensor, list[int]]:
        """Return the gates (top_k,), which sum to 1, and the places of their experts."""
        bits = torch.tensor(attributes, dtype=torch.float32, device=self.gate.weight.device)
        best = self.gate(self.norm(self.embed(bits))).softmax(-1).topk(self.top_k)
        return best.values / best.values.sum(), best.indices.tolist()

    def merged(self, attributes: Sequence[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the weights and biases of the dense network of tokens with these attributes: into it, and out."""
        gates, places = self.gates(attributes)
        up, down = ([cast(nn.Linear, layers[place]) for place in places] for layers in (self.up, self.down))
        scaled = torch.cat([gate * one.weight for gate, one in zip(gates, down)], 1)  # (width, top_k * hidden)
        bias = torch.stack([gate * one.bias for gate, one in zip(gates, down)]).sum(0)
        return torch.cat([one.weight for one in up]), torch.cat([one.bias for one in up]), scaled, bias

    def forward(self, x: Tensor, attributes: Sequence[float]) -> Tensor:  # (n, length, width) -> the same
        """Return what the experts of these attributes make of tokens."""
        up, up_bias, down, down_bias = self.merged(attributes)
        return F.linear(self.activation(F.linear(x, up, up_bias)), down, down_bias)


class Block(nn.Module):
    """Attention over all tokens, and a conditional mixture of experts for each part of the sequence."""

    def __init__(self, width: int, heads: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn = ConditionalFFN(width, 4 * width // top_k, experts, top_k)  # as wide as a dense one

    def forward(self, x: Tensor, sees: Tensor, spans: Sequence[tuple[int, Sequence[float]]]) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.before(x)).chunk(3, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=sees)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        parts = self.between(x).split([length for length, _ in spans], 1)
        return x + torch.cat([self.ffn(part, bits) for part, (_, bits) in zip(parts, spans)], 1)


class Decoder(nn.Module):
    """The decoder g: a transformer on [SPE] and the tokens of images, texts or both."""

    def __init__(self, width: int, layers: int, heads: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.spe = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(Block(width, heads, experts, top_k) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, parts: Sequence[tuple[Tensor, Tensor, Sequence[float]]], causal: int = 0) -> Tensor:
        """Return an output for [SPE] and each token.

        Parameters
        ----------
        parts : sequence of (tokens (n, length, width), present (n, length), attributes)
        causal : int
            So many tokens at the end see only what comes before them, and are seen by none of the others.

        Returns
        -------
        Tensor of shape (n, 1 + total length, width)
        """
        n = len(parts[0][0])
        x = torch.cat([self.spe.expand(n, 1, -1), *(tokens for tokens, _, _ in parts)], 1)
        there = torch.cat([parts[0][1].new_ones(n, 1), *(present for _, present, _ in parts)], 1)
        length = x.shape[1]
        sees = torch.ones(length, length, dtype=torch.bool, device=x.device)
        if causal:
            sees[:, -causal:] = torch.ones_like(sees).tril()[:, -causal:]
        sees = (sees & there[:, None])[:, None]  # (n, 1, length, length)
        first, *others = [(tokens.shape[1], bits) for tokens, _, bits in parts]
        for block in self.blocks:
            x = block(x, sees, [(1 + first[0], first[1]), *others])
        return self.norm(x)


class ImageSettings(Settings):
    """The image encoder.

    Parameters
    ----------
    tower : None, str or torch.nn.Module
        Maps pixels in [0, 1] to maps (n, d, h, w) or tokens: None for three small convolutions,
        ``"efficientnet-lite0"``, a vision model of the Hugging Face hub by name or folder, or a module.
    freeze_tower : bool, default False
        Ask the tower once for each image, and train what comes after it.
    image_size, crop_size : int or None
        Pixels of a side to which images (as they are unless given) and crops of proposals are brought.
    proposer : "components" or callable
        :func:`~anytask.multitask.uni_perceiver_v2.proposals.components`, or a function of the same form.
    proposals : int, default 8
        N, how many of an image's proposals are kept; 0 for global tokens alone.
    global_tokens : bool, default True
        False for proposals alone.
    pools : int, default 4
        M', attention poolings.
    mask_size : int, default 28
        Pixels of a side to which masks are pooled.
    """

    tower: Any = of_kind(
        None, (str, nn.Module), "a name, a folder or a module", "maps images to features", optional=True
    )
    freeze_tower: bool = flag(False, "train what comes after the tower alone")
    image_size: int | None = whole(None, "pixels of a side to which images are brought", at_least=8, optional=True)
    crop_size: int = whole(16, "pixels of a side to which crops of proposals are brought", at_least=8)
    proposer: Any = of_kind("components", (str, Callable), "'components' or a callable", "finds objects in images")
    proposals: int = whole(8, "how many of an image's proposals are kept", at_least=0)
    global_tokens: bool = flag(True, "see the whole image beside its proposals")
    pools: int = whole(4, "attention poolings of the whole image")
    mask_size: int = whole(28, "pixels of a side to which masks are pooled")

    def _check_settings(self) -> None:
        if isinstance(self.proposer, str) and self.proposer != "components":
            raise ValueError(f"proposer must be 'components' or a callable, got {self.proposer!r}")
        if not self.proposals and not self.global_tokens:
            raise ValueError("proposals=0 and global_tokens=False leave nothing of an image")


class ImageEncoder(nn.Module):
    """Tokens of images: learned poolings and cells of the tower's maps, then the proposals.

    Parameters
    ----------
    o : ImageSettings
    tower : Tower or None
        None where a frozen one has been asked before.
    features, region_features : int
        Features of the tower's maps, and of the proposals.
    width : int
    """

    def __init__(self, o: ImageSettings, tower: Tower | None, features: int, region_features: int, width: int) -> None:
        super().__init__()
        self.tower, self.global_tokens = tower, o.global_tokens
        self.queries = nn.Parameter(torch.randn(o.pools, width))
        self.keys, self.cells = nn.Linear(features, width), nn.Linear(features, width)
        self.semantic = nn.Linear(region_features, width)
        self.box, self.mask = nn.Linear(4 * width, width), nn.Linear(o.mask_size**2, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, scenes: Scenes) -> tuple[Tensor, Tensor]:
        """Return tokens (n, length, width), the N proposals last, and which of them are present (n, length)."""
        tokens, there = scenes.maps.new_zeros(len(scenes.maps), 0, self.norm.weight.numel()), scenes.scores >= 0
        if scenes.boxes.shape[1]:
            tokens = (
                self._semantic(scenes) + self.box(self._place(scenes.boxes)) + self.mask(scenes.masks)
            )  # (n, N, width)
        if self.global_tokens:
            maps = scenes.maps if self.tower is None else self.tower(scenes.maps)
            F_L = maps.flatten(2).transpose(1, 2)  # (n, h w, features)
            A = (self.queries @ self.keys(F_L).transpose(1, 2) / math.sqrt(self.queries.shape[1])).softmax(2)
            cells = self.cells(F_L) + self.box(self._place(_grid(maps)))
            tokens = torch.cat([self.cells(A @ F_L), cells, tokens], 1)
            there = F.pad(there, (tokens.shape[1] - there.shape[1], 0), value=True)
        return self.norm(tokens), there

    def _semantic(self, scenes: Scenes) -> Tensor:  # (n, N, width)
        if scenes.crops.ndim == 3 or self.tower is None:
            return self.semantic(scenes.crops)
        there = scenes.scores >= 0
        seen = self.semantic(self.tower(scenes.crops[there]).mean((2, 3)))
        return seen.new_zeros(*there.shape, seen.shape[1]).masked_scatter(there[..., None], seen)

    def _place(self, boxes: Tensor) -> Tensor:  # (..., 4) -> (..., 4 * width)
        return sinusoids(100 * boxes, self.norm.weight.numel()).flatten(-2)


def _grid(maps: Tensor) -> Tensor:
    """Return the boxes of a map's cells (h w, 4)."""
    h, w = maps.shape[2:]
    y, x = torch.meshgrid(torch.arange(h) / h, torch.arange(w) / w, indexing="ij")
    return torch.stack([x, y, x + 1 / w, y + 1 / h], 2).flatten(0, 1).to(maps.device)


def sinusoids(places: Tensor, width: int) -> Tensor:
    """Return sines and cosines (..., width) of places (...,) at wavelengths from 2 pi to 20000 pi.

    Examples
    --------
    >>> sinusoids(torch.zeros(1), 4)
    tensor([[0., 0., 1., 1.]])
    """
    rates = torch.exp(-math.log(10000.0) * torch.arange(width // 2, device=places.device) / (width // 2))
    angles = places[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


class WordEncoder(nn.Module):
    """The small text encoder: a vector for each word of a vocabulary, and one layer of a transformer."""

    def __init__(self, vocabulary: Sequence[str], width: int, heads: int) -> None:
        super().__init__()
        self.place = {word: place for place, word in enumerate(vocabulary)}
        self.embedding = nn.Embedding(len(vocabulary), width)
        self.layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)

    def key(self, text: str) -> tuple[Any, ...]:
        """Return what is equal for texts that are read alike."""
        return tuple(words(text))

    def unknown(self, text: str) -> list[str]:
        """Return the words of a text that it does not know."""
        return [word for word in words(text) if word not in self.place]

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return features (n, length, width) of texts, and which of them are words (n, length)."""
        ids = [[self.place.get(word, self.place[UNKNOWN]) for word in words(text)] for text in texts]
        rows = nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True, padding_value=-1)
        rows = rows.to(self.embedding.weight.device)
        there, width = rows >= 0, self.embedding.embedding_dim
        positions = sinusoids(torch.arange(rows.shape[1], device=rows.device), width)
        x = self.embedding(rows.clamp(min=0)) + positions
        return self.layer(x, src_key_padding_mask=~there), there


class HubEncoder(nn.Module):
    """A text encoder of transformers under a linear layer."""

    def __init__(self, source: str, width: int) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        self.model = load_pretrained(AutoModel, source)
        self.tokenizer = load_pretrained(AutoTokenizer, source)
        self.out = nn.Linear(self.model.config.hidden_size, width)

    def key(self, text: str) -> tuple[Any, ...]:
        """Return what is equal for texts that are read alike."""
        return tuple(self.tokenizer(text, truncation=True)["input_ids"])

    def unknown(self, text: str) -> list[str]:
        """Return nothing: its tokens spell any word."""
        return []

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return features (n, length, width) of texts, and which of them are tokens (n, length)."""
        given = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        given = {name: given[name].to(self.out.weight.device) for name in ("input_ids", "attention_mask")}
        return self.out(self.model(**given).last_hidden_state), given["attention_mask"].bool()


class Perceiver(nn.Module):
    """Encoders f, the decoder g, and the temperature.

    Parameters
    ----------
    image : ImageEncoder
    text_encoder : str or None
        Of the hub, by name or folder; None for a small one.
    vocabulary : sequence of str
        What the small one reads.
    decoder : Decoder
    heads : int
    tau : float
    """

    def __init__(
        self, image: ImageEncoder, text_encoder: str | None, vocabulary: Sequence[str], decoder: Decoder, heads: int,
        tau: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.image, self.decoder, width = image, decoder, decoder.spe.numel()
        self.text: WordEncoder | HubEncoder = (
            WordEncoder(vocabulary, width, heads) if text_encoder is None else HubEncoder(text_encoder, width)
        )
        self.log_tau = nn.Parameter(torch.tensor(math.log(tau)))

    def answers(self, texts: Sequence[str], kind: str) -> Tensor:
        """Return the representations (m, width) of candidate answers."""
        return self.decoder([(*self.text(texts), attribute(kind, "answer"))])[:, 0]

    def look(self, scenes: Scenes, kind: str) -> tuple[Tensor, Tensor]:
        """Return the representations of images (n, width) and of their N proposals (n, N, width)."""
        tokens, there = self.image(scenes)
        out = self.decoder([(tokens, there, attribute(kind, "image"))])
        return out[:, 0], out[:, out.shape[1] - scenes.boxes.shape[1] :]

    def each_word(self, vocabulary: Sequence[str]) -> Tensor:
        """Return the features (m + 1, width) of m words, each read alone, and of what texts begin with."""
        features, there = self.text([*vocabulary, START])
        return (features * there[..., None]).sum(1) / there.sum(1, keepdim=True)

    def write(self, seen: tuple[Tensor, Tensor] | None, before: Tensor, kind: str) -> Tensor:
        """Return what stands at each place of texts (n, length, width) so far, of images' tokens or of none."""
        positions = sinusoids(torch.arange(before.shape[1], device=before.device), before.shape[2])
        there = torch.ones(before.shape[:2], dtype=torch.bool, device=before.device)
        parts = [] if seen is None else [(*seen, attribute(kind, "image"))]
        out = self.decoder([*parts, (before + positions, there, attribute(kind, "text"))], causal=before.shape[1])
        return out[:, -before.shape[1] :]

    def logits(self, a: Tensor, b: Tensor) -> Tensor:
        """Return cosines (..., m) of a (..., width) with b (m, width), by the temperature."""
        return cosine_scores(a, b) / self.log_tau.exp().clamp(min=TAU)
