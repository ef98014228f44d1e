"""LAF with the repair that follows it where labels are at hand (LAF+R)."""

from typing import Any

from torch import Tensor, nn

from anytask.continual import LAF


class Repaired(LAF):
    """Forget without labels, and then train the head for one pass over what remains."""

    def forget(self, model: nn.Module, *, retain: Any, retain_labels: Tensor, **rest: Any) -> nn.Module:
        """Return a copy of a classifier that has forgotten, and was repaired."""
        return self.repair(super().forget(model, retain=retain, **rest), retain, retain_labels)
