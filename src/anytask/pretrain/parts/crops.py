"""Images of any size, of which crops are scored: to resize a whole image would take away what its quality shows by."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from anytask.core.checks import check_numbers, require_finite_rows
from anytask.core.errors import shown
from anytask.datasets.images import read_image
from anytask.pretrain.parts.items import Items

#: Where the center and the corners are, as shares of what is left of the height and of the width.
FIVE = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
CENTER = FIVE[:1]


@dataclass(frozen=True)
class Crops(Items):
    """Images that keep their size, given as square crops.

    Attributes
    ----------
    values : list of Tensor of shape (channels, height, width), or of paths, which are read when they are asked for
    size : int
        Side of a crop.
    channels : int
    place : callable
        ``place(n, 2)`` says where the crop of each of n images is, in [0, 1].
    """

    size: int
    channels: int
    place: Callable[[int, int], Tensor] = CENTER.expand

    def taken(self, rows: Tensor) -> Tensor:
        """Return a crop of each of some images, shape (n, channels, size, size)."""
        places = self.place(len(rows), 2)
        return torch.stack([crop(pixels(self.values[i]), self.size, at) for i, at in zip(rows.tolist(), places)])

    def alike(self) -> Tensor:
        """Return the place of each image: they are not compared."""
        return torch.arange(len(self))

    def at(self, places: Tensor) -> Iterator[Crops]:
        """Yield the crops of all images at each of some places (k, 2)."""
        for place in places:
            yield replace(self, place=place.expand)

    @property
    def facts(self) -> dict[str, Any]:
        """What a tower for such images has to know."""
        return {"kind": "arrays", "shape": [self.channels, self.size, self.size]}


def crop(image: Tensor, size: int, place: Tensor) -> Tensor:
    """Return a square of an image (channels, h, w), which is enlarged first if it is smaller.

    Parameters
    ----------
    image : Tensor
    size : int
    place : Tensor of shape (2,)
        In [0, 1]: how far down and to the right.

    Examples
    --------
    >>> image = torch.arange(12.0).reshape(1, 3, 4)
    >>> crop(image, 2, torch.tensor([1.0, 0.0])).tolist()
    [[[4.0, 5.0], [8.0, 9.0]]]
    """
    h, w = image.shape[1:]
    if min(h, w) < size:
        h, w = (max(size, round(side * size / min(h, w))) for side in (h, w))
        image = F.interpolate(image[None], (h, w), mode="bilinear", align_corners=False)[0]
    top, left = (round(float(share) * (side - size)) for share, side in zip(place, (h, w)))
    return image[:, top : top + size, left : left + size]


def read_crops(X: Any, name: str, size: int, place: Callable[[int, int], Tensor] = CENTER.expand) -> Crops:
    """Return images of any sizes, or say what is wrong with them.

    Parameters
    ----------
    X : sequence of arrays of shape (channels, height, width), of paths of images, or of Pillow's images
    name : str
        For messages.
    size, place
        See :class:`Crops`.
    """
    values = [_read(item, f"{name}[{row}]") for row, item in enumerate(check_images(X, name))]
    channels = [3 if isinstance(value, Path) else len(value) for value in values]
    if odd := [row for row, c in enumerate(channels) if c != channels[0]]:
        raise ValueError(f"{name}[{odd[0]}] has {channels[odd[0]]} channels, and {name}[0] {channels[0]}")
    return Crops("arrays", values, size, channels[0], place)


def check_images(X: Any, name: str) -> Sequence[Any]:
    """Return images as a sequence of one at least."""
    if isinstance(X, (str, bytes, Mapping)) or not isinstance(X, Iterable):
        raise TypeError(f"{name} must be a list of images, got {shown(X)}: wrap a single one in a list")
    given: Any = X if hasattr(X, "shape") or isinstance(X, Sequence) else list(X)
    if not len(given):
        raise ValueError(f"{name} holds 0 items, and at least 1 is required")
    return given


def pixels(image: Any) -> Tensor:
    """Return the pixels (channels, height, width) of what :func:`read_crops` keeps of an image."""
    return torch.from_numpy(read_image(image)) if isinstance(image, Path) else image


def _read(item: Any, where: str) -> Tensor | Path:
    if isinstance(item, (str, os.PathLike)):
        path = Path(item)
        if not path.is_file():
            raise ValueError(f"{where} names no file: {path}")
        return path
    if isinstance(item, Image.Image):
        return torch.from_numpy(np.asarray(item.convert("RGB"), np.float32).transpose(2, 0, 1) / 255)
    image = check_numbers(item, where).cpu().to(torch.float32)
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"{where} has shape {tuple(image.shape)}, wanted is (channels, height, width)")
    return require_finite_rows(image, where)
