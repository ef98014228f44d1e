"""Images of flat worlds: :class:`Canvas` draws a batch of observations in torch, :class:`Drawing` an image for people.

The coverage of a pixel of a canvas is taken from its distance to the shape's edge, so nothing jumps when a shape moves
by less than a pixel, and a disc touches only the pixels around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor


class Canvas:
    """``n`` square images of the world [-extent, extent]², y upwards.

    Parameters
    ----------
    n : int
        Environments.
    size : int
        Pixels along an edge.
    extent : float
        Half the edge of the world that is shown, in world units.
    background : str or Canvas
        A color as ``#rrggbb``, or a canvas of one image that all start from.
    margin : float, default 0
        World units beyond the edges in which a disc may be placed; larger radii and far centers need more.
    device : torch device, default "cpu"

    Examples
    --------
    >>> canvas = Canvas(2, size=8, extent=1.0, margin=0.5)
    >>> canvas.disc(torch.tensor([[0.0, 0.0], [0.5, 0.5]]), 0.3, "#000000")
    >>> canvas.pixels()[:, :, :, 0].lt(128).nonzero().tolist()[:4]  # image, row, column
    [[0, 3, 3], [0, 3, 4], [0, 4, 3], [0, 4, 4]]
    """

    def __init__(
        self,
        n: int,
        size: int,
        extent: float,
        background: str | Canvas = "#ffffff",
        *,
        margin: float = 0.0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.n, self.size, self.extent, self.device = n, size, extent, torch.device(device)
        self.scale = size / (2 * extent)  # pixels per world unit
        self.margin: int  # pixels
        self._data: Tensor  # (n, edge, edge, 3) uint8, margins included
        if isinstance(background, Canvas):
            if background.size != size or background.extent != extent or background.n != 1:
                raise ValueError("a background canvas must hold one image of the same size and extent")
            self.margin = background.margin
            self._data = background._data.expand(n, -1, -1, -1).clone()
        else:
            self.margin = math.ceil(margin * self.scale) + 2
            edge = size + 2 * self.margin
            color = torch.tensor(ImageColor.getrgb(background), dtype=torch.uint8, device=self.device)
            self._data = color.expand(n, edge, edge, 3).clone()

    def pixels(self) -> Tensor:
        """Return the images (n, size, size, 3) uint8."""
        m = self.margin
        return self._data[:, m : m + self.size, m : m + self.size].contiguous()

    def disc(self, centers: Tensor, radius: float, color: str, alpha: float = 1.0) -> None:
        """Draw a disc at ``centers`` (n, 2); only the pixels around it are touched."""
        r = radius * self.scale
        edge = self._data.shape[1]
        w = min(2 * math.ceil(r + 0.5) + 2, edge)
        center = self._to_pixels(centers)  # (n, 2) as (row, column)
        corner = (center - w / 2 + 0.5).floor().clamp(0, edge - w)
        places = corner[:, :, None] + torch.arange(w, device=self.device)  # (n, 2, w)
        offset = places + 0.5 - center[:, :, None]
        distance = (offset[:, 0, :, None] ** 2 + offset[:, 1, None, :] ** 2).sqrt()  # (n, w, w)
        rows, columns = places.long()[:, 0, :, None], places.long()[:, 1, None, :]
        numbers = torch.arange(len(centers), device=self.device)[:, None, None]
        coverage = alpha * (r - distance + 0.5).clamp(0, 1)
        self._data[numbers, rows, columns] = _mixed(self._data[numbers, rows, columns], coverage, color)

    def ring(self, center: Sequence[float], radius: float, width: float, color: str) -> None:
        """Draw a circle line in all images."""
        distance = (self._offsets(center) ** 2).sum(-1).sqrt()
        self._paint((width - (distance - radius).abs() * 2) / 2, color)

    def box(self, low: Sequence[float], high: Sequence[float], color: str) -> None:
        """Fill the box from ``low`` to ``high`` (x, y) in all images."""
        center = [(a + b) / 2 for a, b in zip(low, high)]
        half = torch.tensor([(b - a) / 2 for a, b in zip(low, high)], device=self.device)
        self._paint((half - self._offsets(center).abs()).amin(-1), color)

    def bar(self, shares: Tensor, height: int, color: str) -> None:
        """Draw a bar along the lower edge, as long as ``shares`` (n,) of the width; ``height`` in pixels."""
        m = self.margin
        columns = torch.arange(self.size, device=self.device)
        coverage = (shares[:, None] * self.size - columns).clamp(0, 1)  # (n, size)
        rows = slice(m + self.size - height, m + self.size)
        old = self._data[:, rows, m : m + self.size]
        self._data[:, rows, m : m + self.size] = _mixed(old, coverage[:, None, :].expand(-1, height, -1), color)

    def _to_pixels(self, points: Tensor) -> Tensor:
        x, y = points[:, 0], points[:, 1]
        return torch.stack([(self.extent - y) * self.scale, (x + self.extent) * self.scale], 1) + self.margin

    def _offsets(self, center: Sequence[float]) -> Tensor:
        """Return the vectors (edge, edge, 2) from ``center`` to every pixel, in world units (x, y)."""
        place = (torch.arange(self._data.shape[1], device=self.device) + 0.5 - self.margin) / self.scale - self.extent
        y, x = torch.meshgrid(-place, place, indexing="ij")
        return torch.stack([x - center[0], y - center[1]], -1)

    def _paint(self, depth: Tensor, color: str) -> None:
        """Color the pixels that lie inside a shape; ``depth`` (edge, edge) is the distance to its edge, inside > 0."""
        self._data.copy_(_mixed(self._data, (depth * self.scale + 0.5).clamp(0, 1), color))


def _mixed(old: Tensor, coverage: Tensor, color: str) -> Tensor:
    tint = torch.tensor(ImageColor.getrgb(color), dtype=torch.float32, device=old.device)
    base = old.to(torch.float32)
    return (base + coverage[..., None] * (tint - base)).round().to(torch.uint8)


class Drawing:
    """An image for people of the world from ``low`` to ``high``, drawn several times too large and reduced.

    Parameters
    ----------
    low, high : (float, float)
        Corners, in world units; the first axis runs to the right.
    longest : int
        Pixels along the longer edge.
    background : str
    up : bool, default True
        Whether the second axis runs upwards.

    Examples
    --------
    >>> drawing = Drawing((-1, -1), (1, 1), 40)
    >>> drawing.box((0.5, 0.5), (0.5, 0.5), "#0072b2")
    >>> drawing.pixels()[5, 35].tolist(), drawing.pixels()[35, 5].tolist()
    ([0, 114, 178], [255, 255, 255])
    """

    _FINE = 4  # how many times too large

    def __init__(
        self, low: Sequence[float], high: Sequence[float], longest: int, background: str = "#ffffff", *, up: bool = True
    ) -> None:
        self.pixel = max(b - a for a, b in zip(low, high)) / longest  # in world units
        self._scale, self._corner, self._up = self._FINE / self.pixel, (low[0], high[1] if up else low[1]), up
        size = [self._FINE * math.ceil((b - a) / self.pixel - 1e-9) for a, b in zip(low, high)]
        self.image = Image.new("RGB", (size[0], size[1]), background)
        self._pen = ImageDraw.Draw(self.image, "RGBA")

    def _at(self, point: Sequence[float]) -> tuple[float, float]:
        down = self._corner[1] - point[1] if self._up else point[1] - self._corner[1]
        return (point[0] - self._corner[0]) * self._scale, down * self._scale

    def _around(self, center: Sequence[float], half: Sequence[float]) -> list[float]:
        (x, y), (hx, hy) = self._at(center), (half[0] * self._scale, half[1] * self._scale)
        return [x - hx, y - hy, max(x - hx, x + hx - 1), max(y - hy, y + hy - 1)]  # both corners are painted

    def box(self, center: Sequence[float], half: Sequence[float], color: str, alpha: float = 1.0) -> None:
        """Fill a box of these half extents."""
        self._pen.rectangle(self._around(center, half), fill=_tint(color, alpha))

    def disc(
        self, center: Sequence[float], radius: float, color: str, alpha: float = 1.0, ring: float | None = None
    ) -> None:
        """Fill a disc, or draw a circle line of the width ``ring``."""
        tint = _tint(color, alpha)
        around = self._around(center, [radius + (ring or 0.0) / 2] * 2)
        if ring is None:
            self._pen.ellipse(around, fill=tint)
        else:
            self._pen.ellipse(around, outline=tint, width=max(1, round(ring * self._scale)))

    def line(self, points: Sequence[Sequence[float]], width: float, color: str, alpha: float = 1.0) -> None:
        """Draw a line through points, at least a pixel wide."""
        wide = max(self._FINE, round(width * self._scale))
        self._pen.line([self._at(point) for point in points], fill=_tint(color, alpha), width=wide, joint="curve")

    def text(self, center: Sequence[float], text: str, color: str, height: int) -> None:
        """Write text of so many pixels' height."""
        font = ImageFont.load_default(size=height * self._FINE)
        self._pen.text(self._at(center), text, fill=color, font=font, anchor="mm")

    def pixels(self) -> np.ndarray:
        """Return the image (height, width, 3) uint8."""
        return np.asarray(self.image.reduce(self._FINE))


def _tint(color: str, alpha: float) -> tuple[int, ...]:
    return (*ImageColor.getrgb(color)[:3], round(255 * alpha))
