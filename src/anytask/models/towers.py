"""Image towers: vision models that give a feature for each cell of an image."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from anytask.core.rng import derive, isolated
from anytask.models.build import tried
from anytask.models.by_name import load
from anytask.models.loading import load_pretrained
from anytask.models.real import REAL

#: Mean and deviation of ImageNet's pixels, which checkpoints of the hub were trained on.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Tower(nn.Module):
    """An image tower as maps: pixels (n, channels, height, width) to features (n, d, h, w)."""

    def __init__(self, module: nn.Module, from_hub: bool = False) -> None:
        super().__init__()
        self.module = module
        self.shift: Tensor
        self.scale: Tensor
        shift, scale = (_MEAN, _DEVIATION) if from_hub else ((0.0,), (1.0,))
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.shift) / self.scale
        module: Any = self.module
        hub = getattr(module, "main_input_name", None) == "pixel_values"
        out = module(pixel_values=x) if hub else module.maps(x) if hasattr(module, "maps") else module(x)
        out = getattr(out, "last_hidden_state", out)
        if out.ndim == 3:  # tokens; those that are of no cell come first
            side = math.isqrt(out.shape[1])
            out = out[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
        if out.ndim != 4:
            raise ValueError(f"the tower gives shape {tuple(out.shape)}, wanted maps (n, d, h, w) or tokens (n, t, d)")
        return out


def build_tower(
    tower: str | nn.Module | None, image_shape: tuple[int, ...], width: int, seed: int
) -> tuple[Tower, int]:
    """Return a fresh tower for images of a shape, and the number of its features.

    Parameters
    ----------
    tower : None, str or torch.nn.Module
        Three small convolutions; "efficientnet-lite0", or a vision model by name or folder; or a module, which is
        copied.
    image_shape : tuple of int
        Channels, height, width.
    width : int
        Features of the small one.
    seed : int
    """
    with isolated(derive(seed, "tower")):
        if isinstance(tower, nn.Module):
            built = Tower(copy.deepcopy(tower))
        elif tower is None:
            widths, layers = (image_shape[0], width // 2, width, width), []
            for n_in, n_out in pairwise(widths):
                groups = math.gcd(4, n_out)
                layers += [nn.Conv2d(n_in, n_out, 3, 2, 1), nn.GroupNorm(groups, n_out), nn.ReLU()]
            built = Tower(nn.Sequential(*layers))
        elif tower in REAL:
            built = Tower(load(tower))
        else:
            from transformers import AutoModel

            built = Tower(load_pretrained(AutoModel, tower), from_hub=True)
    return built, tried(built, image_shape).shape[1]
