"""EfficientNet-lite0 with its ImageNet weights: a real image encoder that needs no hub."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from anytask.models.build import network
from anytask.models.real import REAL, fetched

#: What the network was trained on: pixels in [0, 255], less 127, by 128.
_CENTER, _SCALE = 127 / 255, 128 / 255


class EfficientNetLite0(nn.Module):
    """The network of the package ``efficientnet-lite-pytorch``, on pixels in [0, 1].

    Pixels are normalized here. The network was trained on crops of 224 x 224; it reads other sizes too, and below about
    100 pixels features get poor: enlarge such images first.

    Examples
    --------
    >>> network = EfficientNetLite0.pretrained()  # doctest: +SKIP
    >>> network(images).argmax(1)  # images: (n, 3, 224, 224) in [0, 1]; classes of ImageNet  # doctest: +SKIP
    tensor([985])
    >>> network.features(images).shape  # doctest: +SKIP
    torch.Size([1, 1280])
    """

    def __init__(self) -> None:
        super().__init__()
        if lacking := REAL["efficientnet-lite0"].lacking():
            raise ImportError(lacking)
        from efficientnet_lite_pytorch import EfficientNet

        self.network: Any = EfficientNet.from_name("efficientnet-lite0")

    @classmethod
    def pretrained(cls) -> Self:
        """Return the network with its weights, in evaluation mode."""
        from safetensors.torch import load_file

        weights = load_file(fetched("efficientnet-lite0") / "model.safetensors")
        module = cls()
        module.network.load_state_dict(weights)
        return module.eval()

    def features(self, x: Tensor) -> Tensor:  # (n, 3 or 1, height, width) in [0, 1] -> (n, 1280)
        """Return the pooled features before the classifier; gray images are read as three equal channels."""
        return self.maps(x).mean((2, 3))

    def maps(self, x: Tensor) -> Tensor:  # (n, 3 or 1, height, width) in [0, 1] -> (n, 1280, height / 32, width / 32)
        """Return the features of each cell."""
        return self.network.extract_features((x.expand(-1, 3, -1, -1) - _CENTER) / _SCALE)

    def forward(self, x: Tensor) -> Tensor:  # -> (n, 1000) logits
        """Return the logits of ImageNet's classes."""
        return self.network._fc(self.network._dropout(self.features(x)))


class _Encoder(nn.Module):
    def __init__(self, base: EfficientNetLite0, n_outputs: int | None) -> None:
        super().__init__()
        self.base, self.head = base, nn.Identity() if n_outputs is None else nn.Linear(1280, n_outputs)
        self.base.network._fc = nn.Identity()  # the classes of ImageNet are not used

    def forward(self, x: Tensor) -> Tensor:  # -> (n, n_outputs)
        return self.head(self.base.features(x))


@network
def efficientnet_lite0(input_shape: tuple[int, ...], n_outputs: int | None) -> nn.Module:
    """EfficientNet-lite0 with its ImageNet weights (see :func:`anytask.models.load`), under a new linear layer."""
    if input_shape[0] not in (1, 3):
        raise ValueError(f"efficientnet-lite0 takes images of 1 or 3 channels, got {input_shape[0]}")
    return _Encoder(EfficientNetLite0.pretrained(), n_outputs)
