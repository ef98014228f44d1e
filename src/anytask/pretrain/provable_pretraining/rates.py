"""Will pretraining pay? The excess risk of two phases against that of supervised learning, as rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_LABEL = "rate, constants not tight"


@dataclass(frozen=True)
class Rates:
    """The terms of the excess risk: rates whose constants are not tight, and no certificates.

    With C_Phi for the latent model, C_Psi for the predictor on top of it and C for both at once, a loss of at most L
    and confidence 1 - delta:

    * ``pretrain``: ``12 kappa L sqrt((C_Phi log m + log(1 / delta)) / m)``;
    * ``labelled``: ``2 L sqrt(C_Psi / n) + 2 L sqrt(log(4 / delta) / (2 n))``;
    * ``supervised``: the same with C in place of C_Psi.

    Attributes
    ----------
    m, n : int
        Rows without labels, and with labels.
    C_phi, C_psi, C : float
        Numbers of parameters.
    L, delta, kappa : float
    """

    m: int
    n: int
    C_phi: float
    C_psi: float
    C: float
    L: float = 1.0
    delta: float = 0.05
    kappa: float = 1.0

    @property
    def pretrain(self) -> float:
        """The term of the rows without labels."""
        return self._pretrain(self.m)

    @property
    def labelled(self) -> float:
        """The term of the labelled rows."""
        return self._labels(self.C_psi)

    @property
    def supervised(self) -> float:
        """What labels alone reach."""
        return self._labels(self.C)

    @property
    def pays(self) -> bool:
        """Whether two phases have the lower rate without constants: ``sqrt(C_Phi / m) + sqrt(C_Psi / n)``."""
        return math.sqrt(self.C_phi / self.m) + math.sqrt(self.C_psi / self.n) < math.sqrt(self.C / self.n)

    @property
    def m_to_pay(self) -> float:
        """The m from which on :attr:`pays`; infinite if labels alone are as good at any m."""
        gap = math.sqrt(self.C / self.n) - math.sqrt(self.C_psi / self.n)
        return math.ceil(self.C_phi / gap**2) if gap > 0 else math.inf

    @property
    def m_needed(self) -> int:
        """The m from which on :attr:`pretrain` is below :attr:`labelled`."""
        low, high = 3, 8  # log(m) / m falls from 3 on
        while self._pretrain(high) > self.labelled:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._pretrain(middle) > self.labelled else (low, middle)
        return high

    def __str__(self) -> str:
        """Say in one sentence whether pretraining should pay."""
        need = "at no m" if math.isinf(self.m_to_pay) else f"from m = {self.m_to_pay} on"
        return (
            f"By rate ({_LABEL}), pretraining on m = {self.m} {'pays' if self.pays else 'does not pay'} "
            f"with n = {self.n} labels; it does {need}."
        )

    def table(self) -> pd.DataFrame:
        """Return the terms as a table: ``term, value, what``."""
        import pandas as pd

        rows = [
            ("pretrain", self.pretrain, f"term of the unlabelled rows ({_LABEL})"),
            ("labelled", self.labelled, f"term of the labels, after pretraining ({_LABEL})"),
            ("supervised", self.supervised, f"the labels alone ({_LABEL})"),
            ("m_needed", self.m_needed, "unlabelled rows from which on their term is the smaller one"),
            ("m_to_pay", self.m_to_pay, "unlabelled rows from which on pretraining pays, without constants"),
        ]
        return pd.DataFrame(rows, columns=["term", "value", "what"])

    def _pretrain(self, m: int) -> float:
        return 12 * self.kappa * self.L * math.sqrt((self.C_phi * math.log(m) + math.log(1 / self.delta)) / m)

    def _labels(self, C: float) -> float:
        return 2 * self.L * (math.sqrt(C / self.n) + math.sqrt(math.log(4 / self.delta) / (2 * self.n)))
