"""Unstructured magnitude pruning with masks that stay."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def prunable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that pruning looks at: those of linear and convolution layers, not biases or norms."""
    layers = {f"{name}.weight" if name else "weight" for name, m in module.named_modules() if isinstance(m, _LAYERS)}
    return {name: weight for name, weight in module.named_parameters() if name in layers}


def magnitude_masks(module: nn.Module, rho: float) -> dict[str, Tensor]:
    """Choose the weights of smallest magnitude, over all layers together.

    Parameters
    ----------
    module : torch.nn.Module
        Its linear and convolution weights are pooled (P numbers) and compared with one another.
    rho : float in [0, 1)
        Share to remove: the masks hold exactly ``round(rho * P)`` zeros.

    Returns
    -------
    dict of str to bool tensor
        By weight name, true where the weight survives.

    Raises
    ------
    ValueError
        If ``rho`` is out of range or there is nothing to prune.

    Examples
    --------
    >>> layer = nn.Linear(4, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -1.0, 0.5, -2.0]]))
    >>> magnitude_masks(layer, 0.5)["weight"]
    tensor([[ True, False, False,  True]])
    """
    if not 0 <= rho < 1:
        raise ValueError(f"rho must be in [0, 1), got {rho!r}")
    weights = prunable(module)
    if not weights:
        raise ValueError(f"nothing to prune: {type(module).__name__} has no linear or convolution layer")
    flat = torch.cat([w.detach().abs().flatten() for w in weights.values()])  # (P,)
    keep = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
    keep[flat.argsort(stable=True)[: round(rho * len(flat))]] = False
    parts = keep.split([w.numel() for w in weights.values()])
    return {name: part.view_as(weight) for (name, weight), part in zip(weights.items(), parts, strict=True)}


@torch.no_grad()
def apply_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the masked weights of ``module`` to 0, in place; called after every step it keeps them there.

    Momentum and weight decay move weights whose gradient is 0, so masking gradients would not be enough.
    """
    weights = dict(module.named_parameters())
    for name, keep in masks.items():
        weights[name].mul_(keep)
