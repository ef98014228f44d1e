"""Images of flat worlds, a batch at once: anti-aliased discs, rings, boxes and lines, in torch.

Small images (24 to 32 pixels) are observations, large ones (256) are for people; both come from the same shapes. The
coverage of a pixel is taken from its distance to the shape's edge, so nothing jumps when a shape moves by less than a
pixel, and a disc touches only the pixels around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Color = Sequence[int]


def rgb(color: str) -> tuple[int, int, int]:
    """Return ``#rrggbb`` as three numbers.

    Examples
    --------
    >>> rgb("#0072b2")
    (0, 114, 178)
    """
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


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
    background : color or Canvas
        Three numbers in 0..255, or a canvas of one image that all start from.
    margin : float, default 0
        World units beyond the edges in which a disc may be placed; larger radii and far centers need more.
    device : torch device, default "cpu"

    Examples
    --------
    >>> canvas = Canvas(2, size=8, extent=1.0, margin=0.5)
    >>> canvas.disc(torch.tensor([[0.0, 0.0], [0.5, 0.5]]), 0.3, (0, 0, 0))
    >>> canvas.pixels()[:, :, :, 0].lt(128).nonzero().tolist()[:4]  # image, row, column
    [[0, 3, 3], [0, 3, 4], [0, 4, 3], [0, 4, 4]]
    """

    def __init__(
        self,
        n: int,
        size: int,
        extent: float,
        background: Color | Canvas = (255, 255, 255),
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
            color = torch.tensor(list(background), dtype=torch.uint8, device=self.device)
            self._data = color.expand(n, edge, edge, 3).clone()

    def pixels(self) -> Tensor:
        """Return the images (n, size, size, 3) uint8."""
        m = self.margin
        return self._data[:, m : m + self.size, m : m + self.size].contiguous()

    def disc(self, centers: Tensor, radius: float, color: Color, alpha: float = 1.0) -> None:
        """Draw a disc at ``centers`` (n, 2); only the pixels around it are touched."""
        r = radius * self.scale
        edge = self._data.shape[1]
        w = min(2 * math.ceil(r + 0.5) + 2, edge)
        centre = self._to_pixels(centers)  # (n, 2) as (row, column)
        corner = (centre - w / 2 + 0.5).floor().clamp(0, edge - w)
        places = corner[:, :, None] + torch.arange(w, device=self.device)  # (n, 2, w)
        offset = places + 0.5 - centre[:, :, None]
        distance = (offset[:, 0, :, None] ** 2 + offset[:, 1, None, :] ** 2).sqrt()  # (n, w, w)
        rows, columns = places.long()[:, 0, :, None], places.long()[:, 1, None, :]
        numbers = torch.arange(len(centers), device=self.device)[:, None, None]
        coverage = alpha * (r - distance + 0.5).clamp(0, 1)
        self._data[numbers, rows, columns] = _mixed(self._data[numbers, rows, columns], coverage, color)

    def ring(self, centre: Sequence[float], radius: float, width: float, color: Color, alpha: float = 1.0) -> None:
        """Draw a circle line in all images."""
        distance = (self._offsets(centre) ** 2).sum(-1).sqrt()
        self._paint((width - (distance - radius).abs() * 2) / 2, color, alpha)

    def box(self, low: Sequence[float], high: Sequence[float], color: Color, alpha: float = 1.0) -> None:
        """Fill the box from ``low`` to ``high`` (x, y) in all images."""
        centre = [(a + b) / 2 for a, b in zip(low, high)]
        half = torch.tensor([(b - a) / 2 for a, b in zip(low, high)], device=self.device)
        self._paint((half - self._offsets(centre).abs()).amin(-1), color, alpha)

    def line(self, start: Sequence[float], end: Sequence[float], width: float, color: Color, alpha: float = 1) -> None:
        """Draw a line with round ends in all images."""
        d = torch.tensor([b - a for a, b in zip(start, end)], device=self.device)
        offset = self._offsets(start)
        share = ((offset * d).sum(-1) / (d**2).sum().clamp_min(1e-12)).clamp(0, 1)
        distance = ((offset - share[..., None] * d) ** 2).sum(-1).sqrt()
        self._paint(width / 2 - distance, color, alpha)

    def bar(self, shares: Tensor, height: int, color: Color) -> None:
        """Draw a bar along the lower edge, as long as ``shares`` (n,) of the width; ``height`` in pixels."""
        m = self.margin
        columns = torch.arange(self.size, device=self.device)
        coverage = (shares[:, None] * self.size - columns).clamp(0, 1)  # (n, size)
        rows = slice(m + self.size - height, m + self.size)
        old = self._data[:, rows, m : m + self.size]
        self._data[:, rows, m : m + self.size] = _mixed(old, coverage[:, None, :].expand(-1, height, -1), color)

    def stencil(self, coverage: Tensor, color: Color) -> None:
        """Color all images through a mask (size, size) of shares in [0, 1], such as letters."""
        m = self.margin
        inner = self._data[:, m : m + self.size, m : m + self.size]
        inner.copy_(_mixed(inner, coverage, color))

    def _to_pixels(self, points: Tensor) -> Tensor:
        x, y = points[:, 0], points[:, 1]
        return torch.stack([(self.extent - y) * self.scale, (x + self.extent) * self.scale], 1) + self.margin

    def _offsets(self, centre: Sequence[float]) -> Tensor:
        """Return the vectors (edge, edge, 2) from ``centre`` to every pixel, in world units (x, y)."""
        place = (torch.arange(self._data.shape[1], device=self.device) + 0.5 - self.margin) / self.scale - self.extent
        y, x = torch.meshgrid(-place, place, indexing="ij")
        return torch.stack([x - centre[0], y - centre[1]], -1)

    def _paint(self, depth: Tensor, color: Color, alpha: float) -> None:
        """Color the pixels that lie inside a shape; ``depth`` (edge, edge) is the distance to its edge, inside > 0."""
        self._data.copy_(_mixed(self._data, alpha * (depth * self.scale + 0.5).clamp(0, 1), color))


def _mixed(old: Tensor, coverage: Tensor, color: Color) -> Tensor:
    tint = torch.tensor(list(color), dtype=torch.float32, device=old.device)
    base = old.to(torch.float32)
    return (base + coverage[..., None] * (tint - base)).round().to(torch.uint8)
