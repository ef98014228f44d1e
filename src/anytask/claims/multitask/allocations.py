"""L1-A-MTRL with what it is told or kept from, for its claim."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from anytask.core.rng import derive
from anytask.multitask import L1AMTRL


class Told(L1AMTRL):
    """Knows the true heads of sources and target, and explores nothing."""

    told_heads: ClassVar[bool] = True


class Permuted(L1AMTRL):
    """Gives the labels of the chosen sources to as many others, drawn by the seed."""

    def _nu(self, W: np.ndarray, w: np.ndarray, exact: bool = False) -> np.ndarray:
        return np.random.default_rng(derive(self.seed, "permuted")).permutation(super()._nu(W, w, exact))
