"""The data of equivariance: images with their classes, and the group that moves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.core.settings import choice, real
from anytask.problems.labelled import LabelledSet, SplitOptions
from anytask.problems.options import listed

if TYPE_CHECKING:
    from anytask.parts.transforms import Group

_RANGED = ("rotations", "shifts")  # those with a first and a last element
GROUPS = (*_RANGED, "flips", "d4")


class EquivarianceOptions(SplitOptions):
    """What images undergo."""

    transforms: str = choice("rotations", GROUPS, "what the images undergo")
    start: float | None = real(None, "first angle in degrees (none: 0) or shift in pixels (none: -2)", optional=True)
    stop: float | None = real(None, "last angle (none: 360 - step) or shift (none: 2)", optional=True)
    step: float | None = real(None, "degrees (none: 15) or pixels (none: 1) between elements", above=0, optional=True)
    image_shape: Sequence[int] | None = listed(
        "shape of flat rows, as 28x28 or 3x32x32", int, separator="x", at_least=1, lengths=(2, 3)
    )

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.group in GROUPS:
            raise ValueError(f"group names a column; what images undergo is transforms={self.group}")
        given = [name for name in ("start", "stop", "step") if getattr(self, name) is not None]
        if given and self.transforms not in _RANGED:
            raise ValueError(f"{given[0]} is for rotations and shifts, and transforms is {self.transforms!r}")


@dataclass(frozen=True)
class EquivarianceData(LabelledSet):
    """Labelled images and the checked options.

    Examples
    --------
    >>> from anytask.problems.equivariance import Equivariance
    >>> data = Equivariance().load("digits", start=-40, stop=40, step=8)
    >>> data.group().labels[:3], len(data.split(seed=0)[1])
    (('-40°', '-32°', '-24°'), 450)
    """

    def facts(self) -> dict[str, Any]:
        """Return the facts on the images, and the number of elements."""
        return super().facts() | {"image_shape": list(self.image_shape), "elements": len(self.group())}

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self.options.image_shape or self.source.input_shape)

    def group(self) -> Group:
        """Return the group whose orbits are evaluated."""
        return group_of(self.options)

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Return these images, float32 (n, \\*image_shape)."""
        return np.asarray(self.source.X[rows], dtype=np.float32).reshape(len(rows), *self.image_shape)


def settled(options: EquivarianceOptions) -> EquivarianceOptions:
    """Return the options with the ends and the step of their group; a ``ValueError`` says what does not fit."""
    if options.transforms not in _RANGED:
        return options
    turn = options.transforms == "rotations"
    step = (15.0 if turn else 1.0) if options.step is None else float(options.step)
    start = (0.0 if turn else -2.0) if options.start is None else float(options.start)
    stop = (start + 360.0 - step if turn else 2.0) if options.stop is None else float(options.stop)
    if stop < start:
        raise ValueError(f"stop must be at least start, got start={start}, stop={stop}")
    if not turn and not all(map(float.is_integer, (step, start, stop))):
        raise ValueError("shifts are whole numbers of pixels")
    return options.evolve(step=step, start=start, stop=stop)


def group_of(options: Any) -> Group:
    """Return the group that settled options of the problem name."""
    from anytask.parts.transforms import make_group

    more = {}
    if options.transforms == "rotations":
        more = {"step": options.step, "start": options.start, "stop": options.stop}
    if options.transforms == "shifts":
        more = {"dx": [int(d) for d in np.arange(options.start, options.stop + 1, options.step)]}
    return make_group(options.transforms, **more)
