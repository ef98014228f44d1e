"""Real models by name."""

from __future__ import annotations

from typing import Any

from anytask.core.errors import instance_of
from anytask.models.efficientnet import EfficientNetLite0
from anytask.models.loading import load_pretrained

__all__ = ["load"]


def load(name: str) -> Any:
    """Load a real model by name.

    Parameters
    ----------
    name : {"smollm2-135m", "efficientnet-lite0"}

    Returns
    -------
    torch.nn.Module
        In evaluation mode: a causal language model of transformers, or an
        :class:`~anytask.models.efficientnet.EfficientNetLite0`.

    Raises
    ------
    ValueError
        For another name, and for a model that was not fetched yet; the message says how to get it.
    ImportError
        Without the extra ``real``, where the model needs it.

    Examples
    --------
    >>> load("efficientnet")
    Traceback (most recent call last):
    ValueError: no real model 'efficientnet'; there are smollm2-135m and efficientnet-lite0
    """
    instance_of("name", str, optional=False)(name)
    if name == "smollm2-135m":
        from transformers import AutoModelForCausalLM

        return load_pretrained(AutoModelForCausalLM, name, complete=True).eval()
    if name == "efficientnet-lite0":
        return EfficientNetLite0.pretrained()
    raise ValueError(f"no real model {name!r}; there are smollm2-135m and efficientnet-lite0")
