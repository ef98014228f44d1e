"""Random views for contrastive pretraining: crops, flips, colors and blur; turns, scales and shifts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from anytask.core.settings import free, real
from anytask.parts.views import KINDS, Augment, ViewSettings, flip, noise

#: Kinds of views beside those of :data:`anytask.parts.views.KINDS`.
OWN = ("simclr", "crop-flip", "affine")
#: How far values may lie outside of 0 to 1, as those that were computed do.
_SLACK = 1e-3
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def _check_kind(kind: object) -> None:
    if not callable(kind) and not (isinstance(kind, str) and kind in (*KINDS, *OWN)):
        raise ValueError(f"kind must be a callable or one of {(*OWN, *KINDS)}, got {kind!r}")


class TwoViews(ViewSettings):
    """How the two views of an input are drawn.

    Parameters
    ----------
    kind : str or callable
        ``"simclr"``: random resized crop, flip, colors, gray, blur; ``"crop-flip"``: the first two of them;
        ``"affine"``: turn, scale, shift, brightness and noise, for images that flips and crops would make others, such
        as digits; and those of :class:`~anytask.parts.views.ViewSettings`, of which ``"auto"`` stands for ``"simclr"``
        for images and ``"noise"`` for all else. A callable is called as ``kind(x, generator)``.
    strength : float
        Of the colors, s: brightness, contrast and saturation change by up to 0.8 s, hue by up to 0.2 s.
    blur : float
        Probability of a blur, with a kernel of a tenth of the height; none below 20 pixels.
    smallest : float
        Least share of the image that a crop keeps.
    turn, scale, move : float
        Of ``"affine"``: largest turn in radians, change of size as a share, and shift as a share of the image.
    image_shape, noise_scale, max_shift
        See :class:`~anytask.parts.views.ViewSettings`.

    Examples
    --------
    >>> view = TwoViews(kind="affine", turn=0.0, scale=0.0, move=0.0, strength=0.0, noise_scale=0.0).maker((1, 4, 4))
    >>> x = torch.rand(2, 1, 4, 4)
    >>> torch.allclose(view(x, torch.Generator().manual_seed(0)), x, atol=1e-5)
    True
    """

    #: What "auto" stands for, of images.
    of_images: ClassVar[str] = "simclr"

    kind: Any = free("auto", "a name, or a callable (x, generator) -> x", _check_kind)
    strength: float = real(1.0, "of the colors", at_least=0, at_most=1)
    blur: float = real(0.5, "probability of a blur", at_least=0, at_most=1)
    smallest: float = real(0.08, "least share of the image that a crop keeps", above=0, at_most=1)
    turn: float = real(0.3, "of affine: largest turn, in radians", at_least=0)
    scale: float = real(0.2, "of affine: largest change of size, as a share", at_least=0, below=1)
    move: float = real(0.25, "of affine: largest shift, as a share of the image", at_least=0, at_most=1)

    def maker(self, input_shape: tuple[int, ...]) -> Augment:
        """Return the view maker for inputs of this shape, or a ``ValueError`` for images asked of other inputs."""
        shape, kind = tuple(self.image_shape or input_shape), self._settled(input_shape)
        if callable(kind) or kind not in OWN:
            return ViewSettings(
                kind=kind, image_shape=self.image_shape, noise_scale=self.noise_scale, max_shift=self.max_shift
            ).maker(input_shape)
        if len(shape) not in (2, 3) or math.prod(shape) != math.prod(input_shape):
            raise ValueError(f"{kind!r} views need images: pass image_shape=, one input has shape {input_shape}")
        make = {"simclr": self._simclr, "crop-flip": self._crop_flip, "affine": self._affine}[kind]

        def view(x: Tensor, generator: torch.Generator) -> Tensor:
            images = x.reshape(len(x), *(1, *shape)[-3:])
            return make(images, generator).reshape(x.shape)

        return view

    def check(self, X: Tensor) -> None:
        """Raise a ``ValueError`` if inputs (n, ...) are of a shape or in a range that views are not made for."""
        shape = tuple(X.shape[1:])
        self.maker(shape)
        low, high = float(X.min()), float(X.max())
        if (kind := self._settled(shape)) in ("simclr", "crop-flip") and (low < -_SLACK or high > 1 + _SLACK):
            raise ValueError(
                f"{kind!r} views are of images with values from 0 to 1, got {low:g} to {high:g}: scale them (images of "
                "whole numbers up to 255 are divided by 255), or choose another kind of views"
            )

    def _settled(self, input_shape: tuple[int, ...]) -> Any:
        if callable(self.kind) or self.kind != "auto":
            return self.kind
        return self.of_images if len(tuple(self.image_shape or input_shape)) > 1 else "noise"

    def _crop_flip(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return flip(crop(x, generator, self.smallest), generator).clamp(0, 1)

    def _simclr(self, x: Tensor, generator: torch.Generator) -> Tensor:
        x = colors(self._crop_flip(x, generator), generator, self.strength)
        kernel = x.shape[-2] // 10
        return blurred(x, generator, self.blur, kernel) if kernel >= 2 and self.blur else x

    def _affine(self, x: Tensor, generator: torch.Generator) -> Tensor:
        n, device = len(x), x.device
        u = 2 * torch.rand(5, n, generator=generator, device=device) - 1
        angle, size = self.turn * u[0], 1 + self.scale * u[1]
        cos, sin = angle.cos() / size, angle.sin() / size
        theta = torch.stack(
            [torch.stack([cos, -sin, 2 * self.move * u[2]], 1), torch.stack([sin, cos, 2 * self.move * u[3]], 1)], 1
        )  # (n, 2, 3)
        moved = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
        bright = moved * (1 + 0.3 * self.strength * u[4])[:, None, None, None]
        return noise(bright, generator, self.noise_scale)


class LabelledViews(TwoViews):
    """The same for labelled inputs, of which the paper changes no colors: ``"auto"`` stands for ``"crop-flip"``.

    Examples
    --------
    >>> gray = torch.full((1, 3, 8, 8), 0.5)
    >>> view = LabelledViews().maker((3, 8, 8))
    >>> torch.allclose(view(gray, torch.Generator().manual_seed(0)), gray, atol=1e-5)
    True
    """

    of_images: ClassVar[str] = "crop-flip"


def crop(x: Tensor, generator: torch.Generator, smallest: float) -> Tensor:
    """Cut a rectangle of ``smallest`` to all of the area and of ratio 3/4 to 4/3 out of each image, and enlarge it.

    Rectangles that would reach beyond the image are narrowed to it.
    """
    n, device = len(x), x.device
    u = torch.rand(4, n, generator=generator, device=device)
    area = smallest + (1 - smallest) * u[0]
    ratio = ((2 * u[1] - 1) * math.log(4 / 3)).exp()
    w, h = ((area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1))
    cx, cy = (2 * u[2] - 1) * (1 - w), (2 * u[3] - 1) * (1 - h)  # centers, in [-1, 1]
    zero = torch.zeros_like(w)
    theta = torch.stack([torch.stack([w, zero, cx], 1), torch.stack([zero, h, cy], 1)], 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def colors(x: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Change brightness, contrast, saturation and hue of 4 in 5 images, in one random order for each batch.

    Values stay in [0, 1]. One in five images becomes gray. Images without colors have brightness and contrast alone.
    """
    n, device = len(x), x.device
    u = 2 * torch.rand(4, n, 1, 1, 1, generator=generator, device=device) - 1
    coin, gray = torch.rand(2, n, 1, 1, 1, generator=generator, device=device)

    def brightness(x: Tensor) -> Tensor:
        return x * (1 + 0.8 * strength * u[0])

    def contrast(x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3), keepdim=True)
        return mean + (x - mean) * (1 + 0.8 * strength * u[1])

    def saturation(x: Tensor) -> Tensor:
        return _gray(x) + (x - _gray(x)) * (1 + 0.8 * strength * u[2])

    def hue(x: Tensor) -> Tensor:
        angle = (2 * math.pi * 0.2 * strength * u[3]).reshape(n, 1, 1)
        y, i, q = torch.einsum("cd,ndhw->cnhw", _YIQ.to(x), x)
        turned = torch.stack([y, i * angle.cos() - q * angle.sin(), i * angle.sin() + q * angle.cos()])
        return torch.einsum("cd,dnhw->nchw", torch.linalg.inv(_YIQ).to(x), turned)

    changes: Sequence[Any] = (brightness, contrast, *((saturation, hue) if x.shape[1] == 3 else ()))
    changed = x
    for place in torch.randperm(len(changes), generator=generator, device=device).tolist():
        changed = changes[place](changed).clamp(0, 1)
    x = torch.where(coin < 0.8, changed, x)
    return torch.where(gray < 0.2, _gray(x).expand_as(x), x) if x.shape[1] == 3 else x


def blurred(x: Tensor, generator: torch.Generator, probability: float, kernel: int) -> Tensor:
    """Blur each image with a probability by a Gaussian of sigma in [0.1, 2], in two passes."""
    n, channels = x.shape[:2]
    kernel += 1 - kernel % 2
    sigma = 0.1 + 1.9 * torch.rand(n, 1, generator=generator, device=x.device)
    place = torch.arange(kernel, device=x.device) - kernel // 2
    g = (-0.5 * (place / sigma).square()).exp()
    g = (g / g.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # (n channels, kernel)
    flat = x.reshape(1, n * channels, *x.shape[2:])
    half = kernel // 2
    flat = F.conv2d(F.pad(flat, (0, 0, half, half), "replicate"), g[:, None, :, None], groups=n * channels)
    flat = F.conv2d(F.pad(flat, (half, half, 0, 0), "replicate"), g[:, None, None, :], groups=n * channels)
    coin = torch.rand(n, 1, 1, 1, generator=generator, device=x.device)
    return torch.where(coin < probability, flat.reshape(x.shape), x)


def _gray(x: Tensor) -> Tensor:
    return (x * _YIQ[0].to(x)[:, None, None]).sum(1, keepdim=True)
