"""The two towers of a CLIP model of transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from anytask.models.loading import load_pretrained, pack_pretrained
from anytask.pretrain.pair_baselines import TemperedSides
from anytask.pretrain.parts.item_towers import Encoded

#: Mean and deviation of the pixels that CLIP was trained on.
_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip_sides(
    source: str | os.PathLike[str] | Mapping[str, str], max_tokens: int
) -> tuple[TemperedSides, dict[str, str]]:
    """Return the towers and the temperature of a ``CLIPModel``, and the files of which they can be made again.

    Parameters
    ----------
    source : str, path or mapping
        A name or folder; or the files of one, which is then made with random weights, to be loaded.
    max_tokens : int
        Tokens of a text that are read, at most those that the model has places for.
    """
    from transformers import AutoConfig, AutoTokenizer, CLIPModel

    if isinstance(source, Mapping):
        with TemporaryDirectory() as folder:
            for name, text in source.items():
                Path(folder, Path(name).name).write_text(text, encoding="utf-8")
            model: Any = CLIPModel(load_pretrained(AutoConfig, folder))
            tokenizer = load_pretrained(AutoTokenizer, folder)
        files = dict(source)
    else:
        model, tokenizer = load_pretrained(CLIPModel, source, complete=True), load_pretrained(AutoTokenizer, source)
        files = pack_pretrained(model, tokenizer)["files"]
    sides = TemperedSides(ClipImages(model), ClipTexts(model, tokenizer, max_tokens))
    sides.log_temperature.data.copy_(-model.logit_scale.detach())
    return sides, files


class ClipImages(nn.Module):
    """Images (n, 1 or 3, h, w) in [0, 1], of any size, as one token of CLIP's common space."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.body, self.out = model.vision_model, model.visual_projection
        self.size = model.config.vision_config.image_size
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_DEVIATION)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Encoded:
        x = (x.to(self.shift.device).expand(-1, 3, -1, -1) - self.shift) / self.scale
        other = tuple(x.shape[2:]) != (self.size, self.size)
        h = self.out(self.body(pixel_values=x, interpolate_pos_encoding=other).pooler_output)
        return h[:, None], h.new_ones(len(h), 1, dtype=torch.bool)


class ClipTexts(nn.Module):
    """Texts as one token of CLIP's common space."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        super().__init__()
        self.body, self.out, self.tokenizer = model.text_model, model.text_projection, tokenizer
        self.max_tokens = min(max_tokens, model.config.text_config.max_position_embeddings)

    def forward(self, texts: Sequence[str]) -> Encoded:
        given = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        given = {name: given[name].to(self.out.weight.device) for name in ("input_ids", "attention_mask")}
        h = self.out(self.body(**given).pooler_output)
        return h[:, None], h.new_ones(len(h), 1, dtype=torch.bool)
