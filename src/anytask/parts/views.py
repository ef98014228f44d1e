"""Random views of a batch for contrastive learning: shifts, noise, flips, crops and colour, in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from anytask.core.settings import Settings, free, numbers, real, whole

#: A view maker: (batch (n, ...), generator on the batch's device) -> one random view of each row, of the same shape.
Augment: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]

KINDS = ("auto", "noise", "shift-noise", "flip-crop", "flip-crop-jitter", "none")


def noise(x: Tensor, generator: torch.Generator, scale: float = 0.1) -> Tensor:
    """Add Gaussian noise of standard deviation ``scale``, in the units of the inputs."""
    return x + scale * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def shift(x: Tensor, generator: torch.Generator, max_shift: int = 1) -> Tensor:
    """Shift every image (n, ..., height, width) by up to ``max_shift`` pixels each way; zeros come in from outside."""
    n, (h, w) = len(x), x.shape[-2:]
    flat = F.pad(x.reshape(n, -1, h, w), (max_shift,) * 4)
    offsets = torch.randint(0, 2 * max_shift + 1, (2, n), generator=generator, device=x.device)
    rows = offsets[0][:, None] + torch.arange(h, device=x.device)  # (n, h)
    columns = offsets[1][:, None] + torch.arange(w, device=x.device)  # (n, w)
    sample = torch.arange(n, device=x.device)[:, None, None]
    moved = flat[sample, :, rows[:, :, None], columns[:, None, :]]  # (n, h, w, channels)
    return moved.permute(0, 3, 1, 2).reshape(x.shape)


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every image (n, ..., width) left to right with probability 1/2."""
    coin = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(coin.reshape(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)


def jitter(x: Tensor, generator: torch.Generator, strength: float = 0.4) -> Tensor:
    """Change brightness and contrast of every image by factors in ``1 +- strength``; in 1 of 5 remove its colour."""
    shape = (len(x), *[1] * (x.ndim - 1))
    brightness, contrast = 1 + strength * (2 * torch.rand(2, *shape, generator=generator, device=x.device) - 1)
    mean = x.flatten(1).mean(dim=1).reshape(shape)
    x = ((x - mean) * contrast + mean) * brightness
    gray = torch.rand(shape, generator=generator, device=x.device) < 0.2
    return torch.where(gray, x.mean(dim=1, keepdim=True).expand_as(x), x) if x.ndim == 4 else x


def check_kind(kind: object) -> None:
    """Say so if ``kind`` is neither a callable nor one of :data:`KINDS`."""
    if not callable(kind) and not (isinstance(kind, str) and kind in KINDS):
        raise ValueError(f"kind must be a callable or one of {KINDS}, got {kind!r}")


class ViewSettings(Settings):
    """How random views of inputs are made.

    Parameters
    ----------
    kind : {"auto", "noise", "shift-noise", "flip-crop", "flip-crop-jitter", "none"} or callable, default "auto"
        ``"auto"``: ``"flip-crop-jitter"`` for inputs (channels, height, width), ``"shift-noise"`` for (height, width)
        or a given ``image_shape``, ``"noise"`` for other inputs. Crops pad by an eighth of the height. A callable is
        called as ``kind(x, generator)`` and returns a view of each row.
    image_shape : sequence of int, optional
        (height, width) or (channels, height, width) that flat inputs are to be read as; None for inputs as they come.
    noise_scale : float >= 0, default 0.1
        Standard deviation of the noise, in the units of the inputs.
    max_shift : int >= 0, default 1
        Largest shift, in pixels.

    Examples
    --------
    >>> view = ViewSettings(kind="shift-noise", image_shape=(4, 4), noise_scale=0.0).maker((16,))
    >>> view(torch.eye(16)[5:6], torch.Generator().manual_seed(1)).shape
    torch.Size([1, 16])
    """

    kind: Any = free("auto", "a name, or a callable (x, generator) -> x", check_kind)
    image_shape: Sequence[int] | None = numbers(
        None, "shape that flat inputs are read as; None for as they come", at_least=1, integers=True, optional=True
    )
    noise_scale: float = real(0.1, "standard deviation of the noise, in the inputs' units", at_least=0)
    max_shift: int = whole(1, "largest shift, in pixels", at_least=0)

    def maker(self, input_shape: tuple[int, ...]) -> Augment:
        """Return the view maker for inputs of this shape, or a ``ValueError`` for images asked of other inputs."""
        kind, scale, max_shift = self.kind, self.noise_scale, self.max_shift
        if callable(kind):
            return kind
        shape = input_shape if self.image_shape is None else tuple(int(side) for side in self.image_shape)
        if torch.Size(shape).numel() != torch.Size(input_shape).numel():
            raise ValueError(f"image_shape {shape} does not hold as many values as one input, {input_shape}")
        if kind == "auto":
            images = "shift-noise" if self.image_shape is not None or len(shape) == 2 else "flip-crop-jitter"
            kind = "noise" if len(shape) < 2 else images
        if kind == "none":
            return lambda x, generator: x
        if kind == "noise":
            return lambda x, generator: noise(x, generator, scale)
        if len(shape) < 2:
            raise ValueError(f"{kind!r} views need images: pass image_shape=, one input has shape {input_shape}")
        if kind == "shift-noise":
            return lambda x, generator: noise(
                shift(x.reshape(-1, *shape), generator, max_shift).reshape(x.shape), generator, scale
            )
        pad = max(1, shape[-2] // 8)

        def flip_crop(x: Tensor, generator: torch.Generator) -> Tensor:
            images = shift(flip(x.reshape(-1, *shape), generator), generator, pad)
            return (jitter(images, generator) if kind == "flip-crop-jitter" else images).reshape(x.shape)

        return flip_crop
