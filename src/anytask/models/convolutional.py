"""Convolutional networks for small images, (channels, height, width) -> ``n_outputs`` features."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from anytask.models.build import network


@network
def small_cnn(input_shape: tuple[int, ...], n_outputs: int | None) -> nn.Module:
    """Three 3 x 3 convolutions (16, 32, 32) with batch norm, halving the image twice, and a linear layer with ReLU.

    Examples
    --------
    >>> import torch
    >>> small_cnn((1, 8, 8), 64)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 64])
    """
    if n_outputs is None:
        raise ValueError("small-cnn has no width of its own: give one")
    layers: list[nn.Module] = []
    for n_in, n_out, stride in ((input_shape[0], 16, 1), (16, 32, 2), (32, 32, 2)):
        layers += [nn.Conv2d(n_in, n_out, 3, stride, 1), nn.BatchNorm2d(n_out), nn.ReLU()]
    width = 32 * -(-input_shape[1] // 4) * -(-input_shape[2] // 4)  # two halvings, rounded up
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, n_outputs), nn.ReLU())


@network
def resnet32(input_shape: tuple[int, ...], n_outputs: int | None) -> nn.Module:
    """The CIFAR ResNet of depth 32 (He et al., 2016): 3 stages of 5 blocks (16, 32, 64), global average, 64 features.

    A linear layer follows only where ``n_outputs`` is not 64. transformers' ResNets begin with a large stride, which
    leaves nothing of images of 32 pixels.

    Examples
    --------
    >>> import torch
    >>> resnet32((3, 32, 32), 64)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 64])
    """
    stem = nn.Conv2d(input_shape[0], 16, 3, 1, 1, bias=False)
    widths = [16, *(w for w in (16, 32, 64) for _ in range(5))]
    blocks = [_Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(16), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *([nn.Linear(64, n_outputs)] if n_outputs not in (None, 64) else []))


class _Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.grow = stride, n_out - n_in
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(n_out), nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        # The shortcut drops pixels and pads channels with zeros, without parameters (option A of the paper).
        short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.grow // 2, self.grow - self.grow // 2))
        return F.relu(out + short)
