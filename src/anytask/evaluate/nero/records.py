"""What a NERO result is made of: failures, what is kept of each model, and looks at single samples and elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.evaluate.nero.adapters import Predictor
from anytask.evaluate.nero.consensus import Consensus
from anytask.evaluate.nero.metrics import Matches
from anytask.evaluate.nero.outputs import Reading

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Failure:
    """A sample that a model could not be evaluated on, the first element it failed at ("" if unknown), and why."""

    model: str
    sample: int
    element: str
    error: str


@dataclass
class ModelPart:
    """What is kept of one model: values (different elements, n), consensus, matches, outputs, truth, how to read it."""

    values: dict[tuple[str, str], np.ndarray]
    consensus: Consensus | None
    matches: dict[str, list[Matches]]
    outputs: Any
    truth: Any
    reading: Reading
    predictor: Predictor | None


@dataclass(frozen=True)
class SampleOrbit:
    """One sample along its orbit.

    Attributes
    ----------
    sample : int
        Its index.
    label : object
        Its true label, or None.
    values : dict
        Metric -> array of shape (models, m), for the reference of the call.
    summary : pandas.DataFrame
        Per model: mean, std, worst, gap, residual, agreement, consensus.
    """

    sample: int
    label: Any
    values: dict[str, np.ndarray]
    summary: pd.DataFrame


@dataclass(frozen=True)
class ElementView:
    """All samples under one element.

    Attributes
    ----------
    index : int
        Index of the element.
    label : str
        How to call it.
    values : dict
        Metric -> array of shape (models, n).
    """

    index: int
    label: str
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Detail:
    """One sample under one element: what the models saw, what they answered, and what was right.

    Attributes
    ----------
    sample, element : int
        Indices.
    label : str
        How to call the element.
    input : ndarray
        phi(g, x_i).
    outputs : dict
        Model -> O[g, i]: probabilities (C,), a detections dict, a field (2, height, width), or numbers.
    truth : object
        psi(g, y_i) in the form of the outputs (a class label for classes), or None.
    consensus : dict
        Model -> psi(g, c_i) (a class label for classes); empty without consensus.
    maps : dict
        For vector fields: model -> metric -> error of each pixel (height, width), against truth if there is one.
    """

    sample: int
    element: int
    label: str
    input: np.ndarray
    outputs: dict[str, Any]
    truth: Any
    consensus: dict[str, Any]
    maps: dict[str, dict[str, np.ndarray]]
