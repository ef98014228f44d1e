"""The protocol of the evaluate family: an evaluator looks at a finished model and returns a :class:`Result`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["Result"]


class Result(ABC):
    """What an evaluation found: a table to read, a figure to look at, and a folder to keep it in.

    An evaluator is a class whose constructor says how to evaluate, and whose ``evaluate(model, ...)`` returns a result;
    it trains nothing and changes no model.
    """

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """Return the findings as a table, one row per model and quantity."""

    @abstractmethod
    def plot(self) -> go.Figure:
        """Return the figure to look at first."""

    @abstractmethod
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the result to ``folder`` as safetensors + JSON, without the models."""

    @classmethod
    @abstractmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote."""
