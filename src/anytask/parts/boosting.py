"""LightGBM for learners of several families: its import, and boosters out of text, in which fitted models keep them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


def lightgbm() -> Any:
    """Return the package.

    Raises
    ------
    ImportError
        Where it is missing; the message names the extras.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ImportError("LightGBM is missing: pip install 'anytask[multitask]' or 'anytask[robust]'") from error
    return lightgbm


@lru_cache(maxsize=128)
def booster(text: str) -> Any:
    """Return the booster that ``model_to_string`` wrote."""
    return lightgbm().Booster(model_str=text)
