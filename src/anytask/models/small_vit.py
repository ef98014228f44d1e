"""A small vision transformer with random weights, for inputs of any shape."""

from __future__ import annotations

from typing import Any

from anytask.core.rng import isolated


def small_vit(
    input_shape: tuple[int, ...], width: int = 32, *, depth: int = 2, heads: int = 2, most: int = 8, seed: int = 0
) -> Any:
    """Return a ViT of transformers for images (channels, height, width); vectors (d,) are images of one row.

    An image is cut into at most ``most`` x ``most`` patches, a vector into as many in a row.

    Examples
    --------
    >>> small_vit((1, 16, 16)).embeddings.patch_embeddings.projection.kernel_size
    (2, 2)
    >>> small_vit((100,)).embeddings.patch_embeddings.projection.kernel_size
    (1, 2)
    """
    from transformers import ViTConfig, ViTModel

    channels, *size = (1, 1, *input_shape) if len(input_shape) == 1 else (1, *input_shape)[-3:]
    sides = (1, most**2) if len(input_shape) == 1 else (most, most)
    patch = [next(p for p in range(1, n + 1) if n % p == 0 and n // p <= at_most) for n, at_most in zip(size, sides)]
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=2 * width,
        image_size=size, patch_size=patch, num_channels=channels, initializer_range=width**-0.5,
    )  # fmt: skip
    with isolated(seed):
        return ViTModel(config, add_pooling_layer=False)
