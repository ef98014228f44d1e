"""A head for label maps, on the maps of all stages of a hierarchical network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import check_counts


class DenseHead(nn.Module):
    """Upsample the maps of all stages to the finest, and make one map of outputs of them, in the manner of HRNet.

    Parameters
    ----------
    channels : sequence of int
        Of the map of each stage: for Swin-T 192, 384, 768, 768.
    outputs : int
        Classes, or numbers, of a pixel.
    reduced : sequence of int, optional
        Channels that a 1x1 convolution brings each map to first; 3/32 of them, as of Swin-T's, unless given.

    Examples
    --------
    >>> head = DenseHead([64, 128], 5)
    >>> head([torch.zeros(2, 64, 8, 8), torch.zeros(2, 128, 4, 4)], size=(32, 32)).shape
    torch.Size([2, 5, 32, 32])
    """

    def __init__(self, channels: Sequence[int], outputs: int, reduced: Sequence[int] | None = None) -> None:
        super().__init__()
        reduced = [max(1, 3 * c // 32) for c in channels] if reduced is None else reduced
        check_counts(outputs=outputs, **{f"channels[{i}]": c for i, c in enumerate(channels)})
        if not channels or len(reduced) != len(channels):
            raise ValueError(f"there must be a number of channels for each map, got {channels} and reduced={reduced}")
        self.reduce = nn.ModuleList(nn.Conv2d(c, r, 1) for c, r in zip(channels, reduced))
        d = sum(reduced)
        self.last = nn.Sequential(nn.Conv2d(d, d, 1), nn.BatchNorm2d(d), nn.ReLU(), nn.Conv2d(d, outputs, 1))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return outputs (n, outputs, \\*size) of maps (n, channels, height, width), the finest first."""
        if len(maps) != len(self.reduce):
            raise ValueError(f"the head is for {len(self.reduce)} maps, got {len(maps)}")
        finest = maps[0].shape[-2:]
        narrow = [_resized(reduce(one), finest) for reduce, one in zip(self.reduce, maps)]
        return _resized(self.last(torch.cat(narrow, 1)), size)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear")
