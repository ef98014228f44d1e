"""Towers of pairs: modules that make token vectors of the items of one side."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from anytask.core.settings import of_kind
from anytask.models.loading import load_pretrained, pack_pretrained
from anytask.models.towers import build_tower
from anytask.pretrain.parts.items import words

#: Token vectors (n, t, d), and which of them are real (n, t).
Encoded: TypeAlias = tuple[Tensor, Tensor]


def encoder_field(help: str) -> Any:
    """Return a field of settings for the encoder of one side: see :func:`item_tower`."""
    return of_kind(None, (str, os.PathLike, nn.Module), "a name, a folder or a module", help, optional=True)


def encoded(found: Any, n: int, side: str) -> Encoded:
    """Return what a tower made of n items, or say that it made something else; ``side`` names its setting."""
    parts = found if isinstance(found, tuple) else (found,)
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
    if len(shapes) != 2 or len(shapes[0]) != 3 or shapes[0][0] != n or shapes[1] != shapes[0][:2]:
        raise ValueError(f"{side}_encoder must give tokens ({n}, t, d) and their mask ({n}, t), got {shapes}")
    return found


class WordTower(nn.Module):
    """The small tower of texts: a vector for each known word, and one residual layer; the order of words is not read.

    Words that no training text had share one vector.
    """

    def __init__(self, vocabulary: Sequence[str], width: int, max_tokens: int) -> None:
        super().__init__()
        self.places = {word: place for place, word in enumerate(vocabulary, start=1)}
        self.max_tokens = max_tokens
        self.table = nn.Embedding(len(vocabulary) + 1, width)
        self.layer = nn.Linear(width, width)

    def forward(self, texts: Sequence[str]) -> Encoded:
        ids = [torch.tensor([self.places.get(word, 0) for word in words(text)][: self.max_tokens]) for text in texts]
        rows = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1).to(self.table.weight.device)
        e = self.table(rows.clamp(min=0))
        return e + torch.tanh(self.layer(e)), rows >= 0


def hub_model(source: str | os.PathLike[str] | Mapping[str, str]) -> tuple[Any, Any, dict[str, str]]:
    """Return a model of transformers, its tokenizer, and the files that make both again with random weights.

    Parameters
    ----------
    source : str, path or mapping
        A name or folder, "minilm" for the packaged MiniLM, or such files, whose weights are to be loaded.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    if isinstance(source, Mapping):
        with TemporaryDirectory() as folder:
            for name, text in source.items():
                Path(folder, Path(name).name).write_text(text, encoding="utf-8")
            model = AutoModel.from_config(load_pretrained(AutoConfig, folder))
            return model, load_pretrained(AutoTokenizer, folder), dict(source)
    if str(source) == "minilm":
        from anytask.lm.embeddings import packaged_model

        source = packaged_model()
    model, tokenizer = load_pretrained(AutoModel, source), load_pretrained(AutoTokenizer, source)
    return model, tokenizer, pack_pretrained(model, tokenizer)["files"]


class HubTower(nn.Module):
    """A text encoder of transformers, or of sentence-transformers: the hidden states of its last layer.

    Parameters
    ----------
    source : str, path or mapping
        See :func:`hub_model`.
    max_tokens : int
    width : int, optional
        Put a linear layer on the hidden states that brings them to this width.
    frozen : bool, default False
        Whether the encoder stays as it is; each text is then encoded once, and its hidden states are kept.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Mapping[str, str],
        max_tokens: int,
        width: int | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.model: Any
        self.max_tokens = max_tokens
        self.model, self.tokenizer, self.files = hub_model(source)
        d = self.model.config.hidden_size
        self.out: nn.Module = nn.Identity() if width is None else nn.Linear(d, width)
        self.kept: dict[str, Tensor] | None = {} if frozen else None
        self.model.requires_grad_(not frozen)

    def forward(self, texts: Sequence[str]) -> Encoded:
        if self.kept is None:
            tokens, mask = self._hidden(texts)
            return self.out(tokens), mask
        self.model.eval()
        if new := [text for text in dict.fromkeys(texts) if text not in self.kept]:
            with torch.no_grad():
                tokens, mask = self._hidden(new)
            self.kept |= {text: t[m] for text, t, m in zip(new, tokens, mask)}
        found = nn.utils.rnn.pad_sequence([self.kept[text] for text in texts], batch_first=True)
        lengths = torch.tensor([len(self.kept[text]) for text in texts], device=found.device)
        return self.out(found), torch.arange(found.shape[1], device=found.device) < lengths[:, None]

    def _hidden(self, texts: Sequence[str]) -> Encoded:
        given = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        device = next(self.model.parameters()).device
        given = {name: given[name].to(device) for name in ("input_ids", "attention_mask")}
        return self.model(**given).last_hidden_state, given["attention_mask"].bool()


class ImageTower(nn.Module):
    """A vision model under a linear layer: one token for each cell of its map."""

    def __init__(self, encoder: Any, shape: Sequence[int], width: int, seed: int) -> None:
        super().__init__()
        self.tower, d = build_tower(encoder, tuple(shape), width, seed)
        self.out = nn.Linear(d, width)

    def forward(self, x: Tensor) -> Encoded:
        tokens = self.out(self.tower(x.to(self.out.weight.device)).flatten(2).mT)
        return tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool)


class VectorTower(nn.Module):
    """The small tower of sequences and of plain vectors: two layers on each vector by itself."""

    def __init__(self, d: int, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, given: Tensor | Encoded) -> Encoded:
        x, mask = given if isinstance(given, tuple) else (given[:, None], torch.ones(len(given), 1, dtype=torch.bool))
        device = next(self.parameters()).device
        return self.layers(x.to(device)), mask.to(device)


def item_tower(
    facts: dict[str, Any],
    encoder: Any,
    *,
    width: int,
    linked: bool = False,
    frozen: bool = False,
    max_tokens: int = 64,
    hidden: int = 64,
    seed: int = 0,
) -> nn.Module:
    """Return a fresh tower for items of one kind, which maps what :meth:`Items.taken` returns to :data:`Encoded`.

    Parameters
    ----------
    facts : dict
        :attr:`Items.facts`; the files of a tower of the hub are put into it, so that it can be made again.
    encoder : None, str, path or torch.nn.Module
        None for a small tower; for texts and images a model by name or folder ("minilm", "efficientnet-lite0", ...); or
        a module, which is copied, and for texts and sequences gives tokens and mask itself.
    width : int
        Width of a token.
    linked : bool, default False
        Whether a text model of the hub is brought to that width by a linear layer too; else it keeps its own.
    frozen : bool, default False
        Whether a text model of the hub stays as it is.
    max_tokens : int
        Tokens of a text that are read.
    hidden : int
        Width of the small tower of vectors.
    seed : int

    Raises
    ------
    ValueError
        For a name where items are neither texts nor images.
    """
    kind, shape = facts["kind"], facts.get("shape", [])
    if kind == "arrays" and len(shape) == 3:
        return ImageTower(encoder, shape, width, seed)
    if isinstance(encoder, nn.Module):
        return copy.deepcopy(encoder)
    if kind == "texts":
        if encoder is None:
            return WordTower(facts["words"], width, max_tokens)
        hub = HubTower(facts.get("files", encoder), max_tokens, width if linked else None, frozen)
        facts["files"] = hub.files
        return hub
    if encoder is not None:
        raise ValueError(f"{kind} of shape {tuple(shape)} have no encoder by name: give a module, or None")
    tower = VectorTower(math.prod(shape), width, hidden)
    return nn.Sequential(nn.Flatten(), tower) if len(shape) > 1 else tower
