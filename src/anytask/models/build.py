"""Turn what a user calls a backbone into a module that maps inputs to ``n_outputs`` numbers."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from anytask.core.checks import check_sizes
from anytask.core.discovery import decorated, load
from anytask.core.errors import NotFinite, brief
from anytask.core.rng import isolated
from anytask.core.settings import of_kind
from anytask.models.loading import load_pretrained

__all__ = ["MLP", "build_backbone"]

Network: TypeAlias = Callable[[tuple[int, ...], int | None], nn.Module]
Backbone: TypeAlias = None | str | nn.Module | Network


def network(build: Network) -> Network:
    """Make a function ``(input_shape, n_outputs) -> module`` known to :func:`build_backbone` by its name.

    Any module under :mod:`anytask.models` may hold such functions: they are found from the files.

    Examples
    --------
    >>> resnet18((3, 32, 32), 10).head.out_features
    10
    """
    return build


class MLP(nn.Module):
    """A multi-layer perceptron on flattened inputs: ReLU between the layers, no activation at the end.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one input, without the batch axis.
    n_outputs : int
        Width of the last layer.
    hidden : sequence of int, default (64, 64)
        Widths of the hidden layers.
    dropout : float in [0, 1), default 0.0
        Drop probability after every hidden activation.

    Examples
    --------
    >>> MLP((8, 8), 3)(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self, input_shape: tuple[int, ...], n_outputs: int, hidden: Sequence[int] = (64, 64), dropout: float = 0.0
    ) -> None:
        super().__init__()
        widths = [math.prod(input_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], n_outputs))

    def forward(self, x: Tensor) -> Tensor:  # (n, *input_shape) -> (n, n_outputs)
        return self.layers(x)


class PretrainedVision(nn.Module):
    """A Hugging Face vision encoder with a linear layer on its pooled features.

    Parameters
    ----------
    encoder : transformers.PreTrainedModel
        Called with ``pixel_values`` of shape (n, channels, height, width).
    n_outputs : int or None
        Width of the linear layer; None for the pooled features as they are.
    """

    def __init__(self, encoder: nn.Module, n_outputs: int | None) -> None:
        super().__init__()
        self.encoder = encoder
        config: Any = encoder.config
        width = config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size
        self.head = nn.Identity() if n_outputs is None else nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> Tensor:  # (n, channels, height, width) -> (n, n_outputs)
        out = self.encoder(pixel_values=x)
        pooled = getattr(out, "pooler_output", None)
        if pooled is None:
            pooled = out.last_hidden_state[:, 0]
        return self.head(pooled.flatten(1))


@network
def resnet18(input_shape: tuple[int, ...], n_outputs: int | None) -> nn.Module:
    """A randomly initialised ResNet-18 (transformers' own) for images of shape (channels, height, width)."""
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        num_channels=input_shape[0], embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2],
        layer_type="basic",
    )  # fmt: skip
    return PretrainedVision(ResNetModel(config), n_outputs)


def backbone_field(default: Backbone, help: str) -> Any:
    """Return a field of settings for what :func:`build_backbone` takes.

    Parameters
    ----------
    default : None, str, module or callable
    help : str
        What the module maps to what.
    """
    kinds = (str, nn.Module, Callable)
    return of_kind(default, kinds, "a name, a folder, a module or a callable", help, optional=True)


def build_backbone(
    backbone: Backbone,
    input_shape: tuple[int, ...],
    n_outputs: int | None,
    *,
    seed: int,
    hidden: Sequence[int] = (64, 64),
) -> nn.Module:
    """Return a fresh module that maps (n, \\*input_shape) to (n, n_outputs).

    Parameters
    ----------
    backbone : None, str, torch.nn.Module or callable
        ``None``: an :class:`MLP`. The name of a :func:`network`, such as ``"resnet18"`` or ``"efficientnet-lite0"``
        (with its ImageNet weights). Any other string: a Hugging
        Face vision checkpoint, by name or folder, or such an encoder, under a new linear layer. Another module: a deep
        copy of it (its output width must be ``n_outputs``).
        A callable: called as ``backbone(input_shape, n_outputs)``.
    input_shape : tuple of int
        Shape of one input.
    n_outputs : int or None
        Width of the output; None for the features of a module or of a pretrained network as they are, without a new
        layer on top.
    seed : int
        Seed of the initialisation; the global generator is left alone.
    hidden : sequence of int
        Hidden widths of the default MLP.

    Raises
    ------
    TypeError
        If ``backbone`` is none of these, or a callable that returns no module.
    ValueError
        If the module does not map one input to ``n_outputs`` numbers, the inputs do not fit it, or a weight is NaN or
        infinite.

    Examples
    --------
    >>> build_backbone(None, (64,), 10, seed=0)(torch.zeros(2, 64)).shape
    torch.Size([2, 10])
    """
    check_sizes(input_shape, "input_shape")
    with isolated(seed):
        if isinstance(backbone, nn.Module):
            module = copy.deepcopy(backbone)
            if getattr(module, "main_input_name", None) == "pixel_values":  # an encoder of transformers
                module = PretrainedVision(getattr(module, "base_model", module), n_outputs)  # without a head of its own
        elif backbone is None:
            if n_outputs is None:
                raise ValueError("the default network has no width of its own: give one")
            module = MLP(input_shape, n_outputs, hidden)
        elif isinstance(backbone, str):
            if len(input_shape) != 3:
                raise ValueError(
                    f"backbone {backbone!r} takes images (channels, height, width), got inputs of shape {input_shape}"
                )
            named, name = decorated("anytask.models", "network"), backbone.replace("-", "_")
            if name in named:
                module = load(named[name])(input_shape, n_outputs)
            else:
                from transformers import AutoModel

                module = PretrainedVision(load_pretrained(AutoModel, backbone), n_outputs)
        elif callable(backbone):
            module = backbone(input_shape, n_outputs)
        else:
            raise TypeError(
                f"backbone must be None, a name, a torch module or a callable, got {type(backbone).__name__}"
            )
        if not isinstance(module, nn.Module):
            raise TypeError(f"the backbone's callable must return a torch module, got {type(module).__name__}")
        shape = output_shape(module, input_shape)
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor) and value.is_meta:
            raise ValueError(f"{name} of the backbone is on the meta device, and holds no values")
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            raise NotFinite(f"{name} of the backbone is NaN or infinite")
    if len(shape) != 2 or shape[0] != 2 or n_outputs not in (None, shape[1]):
        raise ValueError(f"the backbone maps 2 inputs to shape {shape}, wanted (2, {n_outputs or 'n_features'})")
    return module


def output_shape(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of what :func:`tried` returns.

    Examples
    --------
    >>> output_shape(nn.Linear(4, 3), (4,))
    (2, 3)
    """
    found = tried(module, input_shape)
    if not isinstance(found, Tensor):
        raise ValueError(f"the backbone returns a {type(found).__name__}, wanted is a tensor (n, n_features)")
    return tuple(found.shape)


def tried(module: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """Return what a module in evaluation mode makes of two inputs of zeros; the module is left as it was.

    Raises
    ------
    ValueError
        If the module fails on such inputs.
    """
    training = module.training
    module.eval()
    first = next(module.parameters(), None)
    probe = torch.zeros(2, *input_shape, device=first.device if first is not None else "cpu")
    try:
        with torch.no_grad():
            return module(probe)
    except Exception as error:
        raise ValueError(f"the backbone fails on inputs of shape {input_shape}: {brief(str(error))}") from error
    finally:
        module.train(training)


def build_body(
    backbone: Backbone, input_shape: tuple[int, ...], hidden: Sequence[int], n_features: int | None, seed: int
) -> tuple[nn.Module, int]:
    """Return a fresh module that maps (n, \\*input_shape) to features (n, d), and d.

    Parameters
    ----------
    backbone : None, str, torch.nn.Module or callable
        ``None``: an MLP of widths ``hidden``, whose last hidden layer is the features. A module: a copy; d is what it
        gives. A name or a callable: see :func:`build_backbone`, with ``n_features`` outputs.
    input_shape : tuple of int
        Shape of one input.
    hidden : sequence of int
        Widths of the MLP.
    n_features : int or None
        d for names and callables; None for the width of a pretrained network's own features.
    seed : int
        Seed of the initialisation.
    """
    if backbone is None:
        if not hidden:
            return nn.Flatten(), math.prod(input_shape)
        mlp = build_backbone(None, input_shape, hidden[-1], seed=seed, hidden=hidden[:-1])
        return nn.Sequential(mlp, nn.ReLU()), hidden[-1]
    module = build_backbone(backbone, input_shape, None if isinstance(backbone, nn.Module) else n_features, seed=seed)
    if any(weight.requires_grad and weight.element_size() < 4 for weight in module.parameters()):
        module = module.float()  # in half precision the steps of Adam are 0 or infinite
    return module, output_shape(module, input_shape)[-1]
