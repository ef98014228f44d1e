"""Filters behind the convolutions of a frozen network."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class Reprogrammed(nn.Module):
    """A frozen convolution, and a filter for each of its output channels: ``h'_j = R_j * h_j``, no channel mixed.

    Parameters
    ----------
    conv : torch.nn.Conv2d or torch.nn.ConvTranspose2d
        With c output channels.
    k : int
        Edge of the filters R (c, 1, k, k), which begin as Dirac kernels.
    mixed : bool
        Keep h and add ``A_j (R_j * h_j)``, with A (c, 1, 1) beginning at 0.
    """

    def __init__(self, conv: nn.Module, k: int, mixed: bool = False) -> None:
        super().__init__()
        channels = int(conv.out_channels)  # type: ignore[arg-type]
        self.conv, self.padding = conv, k // 2
        self.R = nn.Parameter(torch.zeros(channels, 1, k, k))
        self.R.data[:, :, k // 2, k // 2] = 1
        self.A = nn.Parameter(torch.zeros(channels, 1, 1)) if mixed else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)  # (n, c, height, width)
        filtered = F.conv2d(h, self.R, padding=self.padding, groups=len(self.R))
        return filtered if self.A is None else h + self.A * filtered


def reprogram(network: nn.Module, placement: str = "spatial", k: int = 3, mixed: bool = False) -> int:
    """Put a :class:`Reprogrammed` in place of the convolutions of a network, in place, and return how many they are.

    Parameters
    ----------
    network : torch.nn.Module
    placement : {"spatial", "all", "matched"}
        After convolutions with kernels larger than 1 x 1 (the paper's), after all, or after all with filters of 1 x 1
        where the convolution has such kernels.
    k, mixed
        As in :class:`Reprogrammed`.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 1))
    >>> reprogram(network), network[0].R.shape
    (1, torch.Size([4, 1, 3, 3]))
    """
    found = [(name, conv) for name, conv in network.named_modules() if name and isinstance(conv, _CONVOLUTIONS)]
    if not found:
        raise ValueError("the anchor has no convolution (Conv2d) to reprogram: CLR needs a convolutional network")
    count = 0
    for name, conv in found:
        spatial = max(conv.kernel_size) > 1
        if spatial or placement != "spatial":
            parent, _, place = name.rpartition(".")
            size = k if spatial or placement == "all" else 1
            setattr(network.get_submodule(parent), place, Reprogrammed(conv, size, mixed))
            count += 1
    if count < 2:
        warnings.warn(
            f"{count} of {len(found)} convolutions were reprogrammed: placement='all' takes all", stacklevel=2
        )
    return count
