"""From what a robot observes to a feature vector: states, images, point clouds, and frozen pretrained image features.

A *trunk* is a module that maps one observation key (n, \\*shape) to (n, width) and has the attribute ``width``.
:func:`build_trunk` makes one; :class:`ObservationEncoder` joins the trunks of several keys over a window of past
observations, and can be trained with the regularisers that keep its features meaningful.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.rng import isolated
from anytask.core.settings import of_kind
from anytask.datasets.episodes import CHANNELS, is_image
from anytask.models.build import MLP
from anytask.models.loading import load_pretrained
from anytask.parts.vae import ConvDecoder, diagonal_gaussian_kl

Trunk: TypeAlias = "None | str | nn.Module | Callable[[tuple[int, ...]], nn.Module]"


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (channels, height, width) of an image observation, whose channels may stand last (Gymnasium) or first.

    Examples
    --------
    >>> image_shape((32, 48, 3)), image_shape((3, 32, 48))
    ((3, 32, 48), (3, 32, 48))
    """
    if not is_image(shape):
        raise ValueError(f"an image has three axes, one of them with 1, 3 or 4 channels, got shape {tuple(shape)}")
    last = shape[-1] in CHANNELS
    return (shape[2], shape[0], shape[1]) if last else (shape[0], shape[1], shape[2])


def as_images(x: Tensor) -> Tensor:
    """Return images as float32 (n, channels, height, width) in [0, 1]; bytes are divided by 255.

    Parameters
    ----------
    x : Tensor, shape (n, height, width, channels) or (n, channels, height, width)

    Examples
    --------
    >>> as_images(torch.full((2, 8, 8, 3), 255, dtype=torch.uint8)).shape
    torch.Size([2, 3, 8, 8])
    """
    channels_last = x.shape[-1] in CHANNELS
    x = x.float() / 255.0 if x.dtype == torch.uint8 else x.float()
    return x.movedim(-1, 1).contiguous() if channels_last else x


class IdentityTrunk(nn.Module):
    """Passes a state vector on, flattened."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.width = math.prod(shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.float().flatten(1)


class StateTrunk(nn.Module):
    """A multi-layer perceptron on a state vector."""

    def __init__(self, shape: tuple[int, ...], width: int = 64, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        self.width = width
        self.layers = MLP(shape, width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x.float()))


class SmallCNN(nn.Module):
    """Strided convolutions for small pictures (16 to about 96 pixels): halves the image until at most 4 pixels remain.

    Parameters
    ----------
    shape : tuple of int
        Of one picture, channels last or first.
    width : int, default 64
        Width of the features.
    channels : int, default 16
        Maps of the first layer; each layer doubles them, up to 64.

    Examples
    --------
    >>> SmallCNN((32, 32, 3))(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape
    torch.Size([2, 64])
    """

    def __init__(self, shape: tuple[int, ...], width: int = 64, channels: int = 16) -> None:
        super().__init__()
        c, h, w = image_shape(shape)
        self.width = width
        layers: list[nn.Module] = []
        while max(h, w) > 4:
            layers += [nn.Conv2d(c, channels, 3, stride=2, padding=1), nn.ReLU()]
            c, channels, h, w = channels, min(2 * channels, 64), math.ceil(h / 2), math.ceil(w / 2)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(c * h * w, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(as_images(x))


class SpatialSoftmax(nn.Module):
    """The expected image position of each feature map under the softmax of its activations (Levine et al., 2016).

    Parameters
    ----------
    channels : int
        Input maps.
    keypoints : int, default 32
        Maps after a 1x1 convolution; each gives one position.
    temperature : float > 0, default 1.0

    Returns
    -------
    Tensor (n, 2 * keypoints)
        x then y of each keypoint, from -1 (left, top) to 1.

    Examples
    --------
    A map with one bright pixel in the upper right corner.

    >>> layer = SpatialSoftmax(1, keypoints=1)
    >>> _ = torch.nn.init.ones_(layer.mix.weight)
    >>> image = torch.zeros(1, 1, 5, 5)
    >>> image[0, 0, 0, 4] = 50.0
    >>> [round(v, 3) for v in layer(image)[0].tolist()]
    [1.0, -1.0]
    """

    def __init__(self, channels: int, keypoints: int = 32, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature!r}")
        self.mix = nn.Conv2d(channels, keypoints, 1)
        self.temperature = temperature
        self.width = 2 * keypoints

    def forward(self, maps: Tensor) -> Tensor:  # (n, channels, h, w) -> (n, 2 * keypoints)
        maps = self.mix(maps)
        h, w = maps.shape[-2:]
        p = (maps.flatten(2) / self.temperature).softmax(-1).reshape(maps.shape)
        x = (p.sum(-2) * torch.linspace(-1, 1, w, device=maps.device)).sum(-1)
        y = (p.sum(-1) * torch.linspace(-1, 1, h, device=maps.device)).sum(-1)
        return torch.cat([x, y], -1)


class ResNetTrunk(nn.Module):
    """A ResNet-18 (transformers' own), then spatial softmax keypoints and a linear layer: the usual trunk of imitation.

    Parameters
    ----------
    shape : tuple of int
        Of one picture, channels last or first.
    width : int, default 128
        Width of the features.
    keypoints : int, default 32
    group_norm : bool, default True
        Group instead of batch normalisation, whose running statistics disturb averaged weights and small batches.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 128, keypoints: int = 32, group_norm: bool = True) -> None:
        super().__init__()
        self.width = width
        self.resnet = _resnet18(image_shape(shape)[0], 64)
        if group_norm:
            _group_norm(self.resnet)
        self.keypoints = SpatialSoftmax(512, keypoints)
        self.head = nn.Linear(2 * keypoints, width)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.resnet(pixel_values=as_images(x)).last_hidden_state  # (n, 512, h / 32, w / 32)
        return F.relu(self.head(self.keypoints(maps)))


class HalfResNet(nn.Module):
    """A ResNet-18 (transformers' own) of half the width with group normalization, and a compression layer.

    Parameters
    ----------
    shape : tuple of int
        Of one image, channels first or last; RGB and depth together have 4 channels.
    width : int, default 512
        Width of the features.

    Examples
    --------
    >>> HalfResNet((4, 64, 64), width=8)(torch.zeros(1, 4, 64, 64)).shape
    torch.Size([1, 8])
    """

    def __init__(self, shape: tuple[int, ...], width: int = 512) -> None:
        super().__init__()
        channels, height, breadth = image_shape(shape)
        self.width = width
        self.resnet = _resnet18(channels, 32)
        _group_norm(self.resnet)
        cells = math.ceil(height / 32) * math.ceil(breadth / 32)
        # Squeezed to about 2048 numbers before the linear layer, so that its size does not follow the image's.
        squeezed = max(1, round(2048 / cells))
        self.compression = nn.Sequential(
            nn.Conv2d(256, squeezed, 3, padding=1, bias=False), nn.GroupNorm(1, squeezed), nn.ReLU(), nn.Flatten(),
            nn.Linear(squeezed * cells, width), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.compression(self.resnet(pixel_values=as_images(x)).last_hidden_state)


def _resnet18(channels: int, width: int) -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        num_channels=channels, embedding_size=width, hidden_sizes=[width, 2 * width, 4 * width, 8 * width],
        depths=[2, 2, 2, 2], layer_type="basic",
    )  # fmt: skip
    return ResNetModel(config)


def _group_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(child.num_features // 16, child.num_features))
        else:
            _group_norm(child)


class PointCloudTrunk(nn.Module):
    """A shared perceptron on every point, then the maximum over points (after PointNet; Qi et al., 2017).

    The features do not depend on the order of the points, nor on repeating some of them.

    Parameters
    ----------
    shape : tuple of int
        (points, coordinates); any number of points may come later.
    width : int, default 64
    hidden : sequence of int, default (64, 128)

    Examples
    --------
    >>> trunk, cloud = PointCloudTrunk((512, 3)), torch.randn(2, 512, 3)
    >>> torch.equal(trunk(cloud), trunk(cloud.flip(1)))
    True
    """

    def __init__(self, shape: tuple[int, ...], width: int = 64, hidden: Sequence[int] = (64, 128)) -> None:
        super().__init__()
        if len(shape) != 2:
            raise ValueError(f"a point cloud has the shape (points, coordinates), got {tuple(shape)}")
        self.width = width
        widths = [shape[1], *hidden]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.ReLU()]
        self.each = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(widths[-1], width), nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:  # (n, points, coordinates) -> (n, width)
        return self.head(self.each(x.float()).amax(1))


class FrozenImageFeatures(nn.Module):
    """Pooled features of a frozen Hugging Face vision model (DINOv2, CLIP, ViT, ...), by name or folder.

    Parameters
    ----------
    model : str, path or transformers.PreTrainedModel
        A checkpoint's name or folder, or a loaded vision model. It runs in eval mode without gradients, and its weights
        are not stored with the policy's.
    size : int, optional
        Pictures are scaled to this height and width; by default the model's own image size if it has one.
    mean, std : sequence of float, default those of ImageNet
        Normalisation of the channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: Any,
        size: int | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            from transformers import AutoModel

            model = load_pretrained(AutoModel, str(model))
        model = getattr(model, "vision_model", model)
        config = model.config
        # A plain attribute, not a submodule: neither optimisers nor saved policies should see these weights.
        self.frozen = [model.requires_grad_(False).eval()]
        sizes = getattr(config, "hidden_sizes", None)
        self.width = int(sizes[-1] if sizes else config.hidden_size)
        own = getattr(config, "image_size", None)
        self.size = size or (own if isinstance(own, int) else None)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.frozen[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        x = as_images(x)
        if self.size and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        out = self.frozen[0](pixel_values=(x - self.mean) / self.std)
        pooled = getattr(out, "pooler_output", None)
        return (out.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1)


_TRUNKS: dict[str, Callable[..., nn.Module]] = {
    "identity": IdentityTrunk,
    "mlp": StateTrunk,
    "cnn": SmallCNN,
    "spatial-softmax": ResNetTrunk,
    "half-resnet18": HalfResNet,
    "pointnet": PointCloudTrunk,
}


def trunk_field(default: Trunk, help: str) -> Any:
    """Return the field of settings for what :func:`build_trunk` takes, or a mapping of observation keys to it."""
    wanted = "a name, a module, a callable or a mapping of keys to these"
    return of_kind(
        default, (str, nn.Module, Mapping, Callable), wanted, help + "; None: by their shapes", optional=True
    )


def build_trunk(trunk: Trunk, shape: tuple[int, ...], *, seed: int, width: int | None = None) -> nn.Module:
    """Return a fresh trunk for observations of one key.

    Parameters
    ----------
    trunk : None, str, torch.nn.Module or callable
        ``None``: by the shape, ``"cnn"`` for images, ``"pointnet"`` for two axes, ``"identity"`` for vectors. Otherwise
        ``"identity"``, ``"mlp"``, ``"cnn"``, ``"spatial-softmax"`` (ResNet-18 with keypoints), ``"half-resnet18"``,
        ``"pointnet"``, ``"frozen:NAME_OR_FOLDER"`` (a Hugging Face vision model), a module with the attribute
        ``width``, or a callable that makes one from the shape.
    shape : tuple of int
        Of one observation.
    seed : int
        Seed of the initialisation; the global generator is left alone.
    width : int, optional
        Width of the features, where the trunk lets it be chosen.

    Examples
    --------
    >>> build_trunk(None, (7,), seed=0).width, build_trunk(None, (32, 32, 3), seed=0).width
    (7, 64)
    """
    if trunk is None:
        trunk = "cnn" if is_image(shape) else "pointnet" if len(shape) == 2 else "identity"
    with isolated(seed):
        if isinstance(trunk, nn.Module):
            module = trunk
        elif isinstance(trunk, str) and trunk.startswith("frozen:"):
            module = FrozenImageFeatures(trunk.removeprefix("frozen:"))
        elif isinstance(trunk, str):
            if trunk not in _TRUNKS:
                raise ValueError(
                    f"trunk must be one of {[*_TRUNKS, 'frozen:NAME']}, a module or callable; got {trunk!r}"
                )
            chosen = {} if width is None or trunk == "identity" else {"width": width}
            module = _TRUNKS[trunk](tuple(shape), **chosen)
        elif callable(trunk):
            module = trunk(tuple(shape))
        else:
            raise TypeError(f"trunk must be None, a string, a module or a callable, got {type(trunk).__name__}")
    if not hasattr(module, "width"):
        raise ValueError(f"a trunk needs the attribute width, and {type(module).__name__} has none")
    return module


class Trunks(nn.ModuleList):
    """Trunks whose features are joined: one input (n, \\*shape) each to (n, ``width``)."""

    @property
    def width(self) -> int:
        """Width of the joined features."""
        return sum(int(trunk.width) for trunk in self)  # type: ignore[arg-type, misc]

    def forward(self, inputs: Iterable[Tensor]) -> Tensor:
        return torch.cat([trunk(x) for trunk, x in zip(self, inputs, strict=True)], -1)


def build_trunks(
    shapes: Mapping[str, tuple[int, ...]], trunks: Any, seeds: Iterable[int], width: int | None = None
) -> Trunks:
    """Return a fresh trunk for each observation key, in their order.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of one observation, by key.
    trunks : None, str, module, callable or mapping of key to these
        As in :func:`build_trunk`: one for all keys (the name of a trunk for images is for them alone), or one per key.
    seeds : iterable of int
        One per key.
    width : int, optional
        Width of trunks that have a choice.
    """
    if isinstance(trunks, Mapping) and (unknown := set(trunks) - set(shapes)):
        raise ValueError(f"trunks for unknown observations {sorted(unknown)}; the keys are {sorted(shapes)}")
    of_images = isinstance(trunks, str) and trunks not in ("identity", "mlp", "pointnet")
    built = Trunks()
    for (key, shape), seed in zip(shapes.items(), seeds, strict=False):
        one = trunks.get(key) if isinstance(trunks, Mapping) else trunks
        one = None if of_images and not is_image(shape) else one
        built.append(build_trunk(copy.deepcopy(one), shape, seed=seed, width=width))
    return built


class ObservationEncoder(nn.Module):
    """Features c = phi(o) of a window of observations: a trunk per key, joined, for each of the last ``n_obs`` steps.

    Vectors are scaled to [-1, 1] by the ranges that :meth:`set_ranges` was given; images are bytes or in [0, 1]; point
    clouds are taken as they are.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Observation key -> shape of one observation.
    n_obs : int, default 1
        Steps in the window, the oldest first.
    trunks : None, str, module, callable or mapping of key to these, default None
        As in :func:`build_trunk`; one for all keys, or one per key.
    width : int, optional
        Width of trunks that have a choice.
    bottleneck : int, optional
        Width of a variational bottleneck behind the joined trunks of one step: features are its mean, and in training a
        sample, paid for by the KL divergence to N(0, I).
    reconstruct : bool, default False
        Decoders for every key, for :meth:`regulariser`.
    seed : int, default 0

    Attributes
    ----------
    width : int
        Width of the features: ``n_obs`` times that of a step.

    Examples
    --------
    >>> encoder = ObservationEncoder({"image": (16, 16, 3), "joints": (5,)}, n_obs=2, bottleneck=8, reconstruct=True)
    >>> window = {"image": torch.zeros(4, 2, 16, 16, 3), "joints": torch.zeros(4, 2, 5)}
    >>> encoder(window).shape
    torch.Size([4, 16])
    >>> c, losses = encoder.regularized(window, torch.Generator().manual_seed(0))
    >>> sorted(losses)
    ['kl', 'reconstruction']
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        n_obs: int = 1,
        *,
        trunks: Any = None,
        width: int | None = None,
        bottleneck: int | None = None,
        reconstruct: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not shapes:
            raise ValueError("an encoder needs at least one observation key")
        self.shapes = {key: tuple(shape) for key, shape in sorted(shapes.items())}
        self.n_obs = n_obs
        self.trunks = build_trunks(self.shapes, trunks, itertools.count(seed), width)
        with isolated(seed):
            self.bottleneck = None if bottleneck is None else nn.Linear(self.trunks.width, 2 * bottleneck)
            step = self.trunks.width if bottleneck is None else bottleneck
            self.decoders = nn.ModuleList(_decoder(step, s) for s in self.shapes.values()) if reconstruct else None
        self.step_width, self.width = step, n_obs * step
        for i, shape in enumerate(self.shapes.values()):
            if len(shape) == 1:
                self.register_buffer(f"low_{i}", -torch.ones(shape))
                self.register_buffer(f"high_{i}", torch.ones(shape))

    def set_ranges(self, ranges: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take the smallest and largest value (each of the key's shape) of vector observations."""
        for i, key in enumerate(self.shapes):
            if key in ranges and len(self.shapes[key]) == 1:
                getattr(self, f"low_{i}").copy_(ranges[key][0])
                getattr(self, f"high_{i}").copy_(ranges[key][1])

    def _scaled(self, i: int, x: Tensor) -> Tensor:
        if not hasattr(self, f"low_{i}"):  # pictures and point clouds
            return x
        low, high = getattr(self, f"low_{i}"), getattr(self, f"high_{i}")
        span = high - low
        # What never varied in the data stays at 0 and cannot blow up.
        return torch.where(span > 1e-6, 2 * (x.float() - low) / span.clamp_min(1e-6) - 1, 0.0)

    def _joined(self, window: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        for key, shape in self.shapes.items():
            if key not in window:
                raise ValueError(f"observation {key!r} is missing; got {sorted(window)}")
            if tuple(window[key].shape[1:]) != (self.n_obs, *shape):
                got = tuple(window[key].shape)
                raise ValueError(f"observation {key!r} must have shape (n, {self.n_obs}, *{shape}), got {got}")
        inputs = [self._scaled(i, window[key].flatten(0, 1)) for i, key in enumerate(self.shapes)]
        return self.trunks(inputs), inputs

    def forward(self, window: Mapping[str, Tensor]) -> Tensor:
        """Return features (n, width) of a window: key -> (n, n_obs, \\*shape)."""
        h, _ = self._joined(window)
        if self.bottleneck is not None:
            h = self.bottleneck(h)[:, : self.step_width]
        return h.reshape(-1, self.width)

    def regularized(
        self, window: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return features for training (a sample, behind a bottleneck) and the regularisers that apply.

        ``reconstruction`` is the mean squared error of vectors and images plus the Chamfer distance of point clouds;
        ``kl`` the divergence of the bottleneck, in nats per step.
        """
        h, inputs = self._joined(window)
        losses = {}
        if self.bottleneck is not None:
            mean, log_variance = self.bottleneck(h).chunk(2, -1)
            log_variance = log_variance.clamp(-10.0, 10.0)
            zero = torch.zeros_like(mean)
            losses["kl"] = diagonal_gaussian_kl(mean, log_variance, zero, zero).mean()
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            h = mean + (0.5 * log_variance).exp() * noise
        if self.decoders is not None:
            losses["reconstruction"] = sum(
                (_reconstruction(decoder(h), x) for decoder, x in zip(self.decoders, inputs, strict=True)),
                start=torch.zeros((), device=h.device),
            )
        return h.reshape(-1, self.width), losses


def _decoder(width: int, shape: tuple[int, ...]) -> nn.Module:
    if is_image(shape):
        return ConvDecoder(width, image_shape(shape), channels=64)
    return MLP((width,), math.prod(shape), (128,))


def _reconstruction(output: Tensor, target: Tensor) -> Tensor:
    if is_image(target.shape[1:]):
        return F.mse_loss(output, as_images(target))
    output = output.reshape(target.shape)
    return chamfer(output, target.float()).mean() if target.dim() == 3 else F.mse_loss(output, target.float())


def chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Return the Chamfer distance (n,) of point clouds a (n, p, d) and b (n, q, d).

    The mean squared distance from each point to the nearest one of the other cloud, summed over both directions.

    Examples
    --------
    >>> a, b = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 0.0]]])
    >>> chamfer(a, b).item()
    0.5
    """
    squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()  # (n, p, q)
    return squared.amin(2).mean(1) + squared.amin(1).mean(1)
