"""LAF with the repair that follows it where labels are at hand (LAF+R)."""

from typing import Any

from torch import Tensor, nn

from anytask.continual import LAF
from anytask.core.progress import Progress


class Repaired(LAF):
    """Forget without labels, and then train the head for one pass over what remains."""

    def forget(
        self,
        model: nn.Module,
        *,
        forget: Any,
        retain: Any,
        progress: Progress | None = None,
        retain_labels: Tensor | None = None,
    ) -> nn.Module:
        """Return a copy of a classifier that has forgotten, and was repaired where labels are given."""
        forgetful = super().forget(model, forget=forget, retain=retain, progress=progress)
        return forgetful if retain_labels is None else self.repair(forgetful, retain, retain_labels)
