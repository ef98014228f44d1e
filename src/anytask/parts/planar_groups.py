"""Groups that move images in their plane: rotations, shifts, flips, the symmetries of the square, and time reversal."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from anytask.core.checks import check_counts
from anytask.parts.transforms import Batch, Group

_EPS = 1e-9


class PlanarGroup(Group):
    """Base of the groups on images: finds the two image axes of a batch, for arrays and tensors alike.

    Parameters common to its groups
    -------------------------------
    image_shape : sequence of int, optional
        Shape (height, width) or (channels, height, width) that flat inputs (n, d) are read as.
    channels_last : bool, default False
        Images are (n, height, width, channels) instead of (n, ..., height, width).
    v_axis : {"up", "down"}, default "up"
        Where positive v of a vector field (u, v) points: up, as in measurements of fluids, or down with the rows, as
        in optical flow.
    """

    kinds: ClassVar[tuple[str, ...]] = ("invariant", "boxes", "positions", "image", "field")
    image_shape: tuple[int, ...] | None = None
    channels_last: bool = False
    v_axis: str = "up"

    def _set_common(self, image_shape: Sequence[int] | None, channels_last: bool, v_axis: str) -> None:
        if v_axis not in ("up", "down"):
            raise ValueError(f"v_axis must be 'up' or 'down', got {v_axis!r}")
        self.image_shape = None if image_shape is None else tuple(int(side) for side in image_shape)
        self.channels_last, self.v_axis = bool(channels_last), v_axis

    def _common(self) -> dict[str, Any]:
        shape = None if self.image_shape is None else list(self.image_shape)
        return {"image_shape": shape, "channels_last": self.channels_last, "v_axis": self.v_axis}

    def as_images(self, X: Batch) -> Batch:
        """Return a batch as (n, ..., height, width): flat inputs unfolded, channels moved forward."""
        if self.image_shape is not None and X.ndim == 2:
            if int(np.prod(self.image_shape)) != X.shape[1]:
                raise ValueError(f"image_shape {self.image_shape} does not hold the {X.shape[1]} values of an input")
            X = X.reshape(len(X), *self.image_shape)
        if X.ndim < 3:
            raise ValueError(
                f"{type(self).__name__} moves images (n, ..., height, width); the inputs have shape {tuple(X.shape)}: "
                "pass image_shape=(height, width) for flat ones"
            )
        return _moveaxis(X, -1, -3) if self.channels_last and X.ndim >= 4 else X

    def _back(self, images: Batch, X: Batch) -> Batch:
        if self.channels_last and images.ndim >= 4:
            images = _moveaxis(images, -3, -1)
        if X.ndim == 2:
            images = images.reshape(len(X), -1)
        return images.copy() if isinstance(images, np.ndarray) else images.contiguous()

    def phi(self, g: Any, X: Batch) -> Batch:
        return self._back(self._move(g, self.as_images(X)), X)

    def _move(self, g: Any, images: Batch) -> Batch:
        """Move the pixels of (n, ..., height, width)."""
        raise NotImplementedError

    def matrix(self, g: Any) -> np.ndarray:
        """Return the 2 x 2 matrix that ``g`` applies to vectors (x to the right, y upwards)."""
        raise NotImplementedError

    def _psi_image(self, g: Any, maps: Batch) -> Batch:
        return self._move(g, maps)

    def _psi_field(self, g: Any, field: Batch) -> Batch:
        if field.ndim != 4 or field.shape[1] != 2:
            raise ValueError(f"a vector field has shape (n, 2, height, width), got {tuple(field.shape)}")
        moved = self._move(g, field)
        M = self._in_rows(self.matrix(g)) if self.v_axis == "down" else self.matrix(g)
        u, v = moved[:, 0], moved[:, 1]
        parts = [M[0, 0] * u + M[0, 1] * v, M[1, 0] * u + M[1, 1] * v]
        if isinstance(field, np.ndarray):
            return np.stack(parts, axis=1).astype(field.dtype, copy=False)
        import torch

        return torch.stack(parts, dim=1)

    def _psi_positions(self, g: Any, points: Batch, shape: tuple[int, int]) -> Batch:
        center = np.array([shape[1] / 2, shape[0] / 2])
        return (np.asarray(points) - center) @ self._in_rows(self.matrix(g)).T + center

    @staticmethod
    def _in_rows(M: np.ndarray) -> np.ndarray:
        """The same map for y that grows downwards."""
        return M * np.array([[1, -1], [-1, 1]])


class Rotations(PlanarGroup):
    """Rotations of images about their centre, counter-clockwise, in degrees.

    Multiples of 90 degrees of square images are exact (pixels are only moved). All others interpolate bilinearly, which
    leaves the image of 0 degrees as it is and blurs the others a little; what comes in from outside is ``fill``.

    Parameters
    ----------
    step : float > 0, default 5
        Degrees between elements.
    start, stop : float, default 0 and 360
        First and last angle. 0 and 360 are the same element: both are listed, and count once in averages.
    closed : bool, default True
        Whether a full circle lists its last element, which repeats the first.
    fill : float, default 0.0
        Value of what lies outside the image.
    pad : int, default 0
        Pixels of ``fill`` put around the image before it is turned, so that its corners stay in view. The model then
        sees images larger by ``2 * pad``, at 0 degrees as well.
    image_shape, channels_last, v_axis
        As in :class:`PlanarGroup`.

    Examples
    --------
    >>> group = Rotations(step=90)
    >>> group.phi(90.0, np.array([[[1, 2], [3, 4]]])).tolist()
    [[[2, 4], [1, 3]]]
    >>> len(group), len(group.distinct), group.weights.tolist()
    (5, 4, [0.125, 0.25, 0.25, 0.25, 0.125])
    """

    name = "rotations"

    def __init__(
        self,
        step: float = 5.0,
        start: float = 0.0,
        stop: float = 360.0,
        *,
        closed: bool = True,
        fill: float = 0.0,
        pad: int = 0,
        image_shape: Sequence[int] | None = None,
        channels_last: bool = False,
        v_axis: Literal["up", "down"] = "up",
    ) -> None:
        if not step > 0 or not stop >= start:
            raise ValueError(f"rotations need step > 0 and stop >= start, got step={step}, start={start}, stop={stop}")
        if pad < 0 or pad != int(pad):
            raise ValueError(f"pad must be a whole number of pixels, at least 0, got {pad!r}")
        self._set_common(image_shape, channels_last, v_axis)
        self.fill, self.pad = float(fill), int(pad)
        angles = [round(start + step * k, 9) for k in range(math.floor((stop - start) / step + _EPS) + 1)]
        if not closed and len(angles) > 1 and self.key(angles[0]) == self.key(angles[-1]):
            angles.pop()
        self.options = {
            "step": step, "start": start, "stop": stop, "closed": closed, "fill": fill, "pad": pad, **self._common(),
        }  # fmt: skip
        super().__init__(
            angles, [[a] for a in angles], ["rotation (degrees)"], [f"{a:g}°" for a in angles], "polar", 0.0
        )

    def key(self, g: Any) -> Hashable:
        return round(g % 360, 6) % 360

    def inverse(self, g: Any) -> float:
        return (-g) % 360

    def matrix(self, g: Any) -> np.ndarray:
        quarter = self._quarters(g)
        if quarter is not None:
            return _turn(quarter)
        a = math.radians(g)
        return np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])

    def canvas(self, shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        return (shape[0] + 2 * self.pad, shape[1] + 2 * self.pad), (-self.pad, -self.pad)

    def phi(self, g: Any, X: Batch) -> Batch:
        return self._back(self._move(g, self._padded(self.as_images(X))), X)

    def orbit(self, X: Batch, elements: Sequence[Any] | None = None) -> Batch:
        images = self._padded(self.as_images(X))
        angles: Sequence[Any] = self.elements if elements is None else elements
        moved = self._rotate(images, list(angles))
        parts = [self._back(part, X) for part in moved]
        if isinstance(X, np.ndarray):
            return np.stack(parts)
        import torch

        return torch.stack(parts)

    def _move(self, g: Any, images: Batch) -> Batch:
        return self._rotate(images, [g])[0]

    def _padded(self, images: Batch) -> Batch:
        if not self.pad:
            return images
        if isinstance(images, np.ndarray):
            width = [(0, 0)] * (images.ndim - 2) + [(self.pad, self.pad)] * 2
            return np.pad(images, width, constant_values=self.fill)
        from torch.nn.functional import pad

        return pad(images, (self.pad,) * 4, value=self.fill)

    def _quarters(self, g: float) -> int | None:
        """How many quarter turns ``g`` is, or None if it is no whole number of them."""
        quarters = (g % 360) / 90
        return round(quarters) % 4 if abs(quarters - round(quarters)) < _EPS else None

    def _rotate(self, images: Batch, angles: list[float]) -> list[Batch]:
        """Turn a batch (n, ..., height, width) by each angle."""
        height, width = images.shape[-2:]
        turned: list[Batch] = [None] * len(angles)
        between = []
        for k, g in enumerate(angles):
            quarters = self._quarters(g)
            if quarters is not None and (height == width or quarters % 2 == 0):
                turned[k] = _rot90(images, quarters)
            else:
                between.append(k)
        if between:
            for k, part in zip(between, self._interpolate(images, [angles[k] for k in between])):
                turned[k] = part
        return turned

    def _interpolate(self, images: Batch, angles: list[float]) -> Batch:
        import torch
        from torch.nn.functional import grid_sample

        is_array = isinstance(images, np.ndarray)
        tensor = torch.from_numpy(np.ascontiguousarray(images)) if is_array else images
        kind = tensor.dtype
        x = (tensor if kind in (torch.float32, torch.float64) else tensor.float()) - self.fill
        height, width = x.shape[-2:]
        rows = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
        columns = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
        a = torch.deg2rad(torch.tensor(angles, dtype=torch.float64))[:, None, None]
        # The place each pixel comes from, about the centre, with y downwards; scaled to [-1, 1] over the whole image.
        source_x = a.cos() * columns[None, None, :] - a.sin() * rows[None, :, None]
        source_y = a.sin() * columns[None, None, :] + a.cos() * rows[None, :, None]
        grid = torch.stack([source_x * 2 / width, source_y * 2 / height], dim=-1).to(x)  # (angles, height, width, 2)
        # Samples and channels share each angle's grid, so all of them are channels here and the angles are the batch.
        flat = x.reshape(1, -1, height, width).expand(len(angles), -1, -1, -1)
        out = grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + self.fill
        out = out.reshape(len(angles), *x.shape)
        if not kind.is_floating_point:
            out = out.round()
        out = out.to(kind)
        return out.numpy() if is_array else out


class Shifts(PlanarGroup):
    """Shifts of images by whole pixels, to the right by dx and down by dy.

    Parameters
    ----------
    dx, dy : sequence of int
        Shifts along each axis; every pair is an element. Default: -64, -60, ..., 60 both ways (for 128 x 128 windows);
        ``dy`` is ``dx`` if left out.
    mode : {"fill", "wrap"}, default "fill"
        What comes in from outside: ``fill``, or what went out on the other side (an exact group).
    fill : float, default 0.0
        Value of what lies outside the image.
    window : (height, width), optional
        The model sees a window of the image: at (0, 0) its middle, at (dx, dy) the window that shows the content
        shifted by (dx, dy). So real surroundings come in. Boxes and positions of the truth stay in image coordinates.
    image_shape, channels_last, v_axis
        As in :class:`PlanarGroup`.

    Examples
    --------
    >>> group = Shifts(dx=(-1, 0, 1), dy=(0,))
    >>> group.phi((1, 0), np.array([[[1, 2, 3]]])).tolist()
    [[[0, 1, 2]]]
    >>> group.psi((1, 0), [{"boxes": [[0, 0, 2, 1]]}], "boxes", (1, 3))[0]["boxes"].tolist()
    [[1.0, 0.0, 3.0, 1.0]]
    """

    name = "shifts"

    def __init__(
        self,
        dx: Sequence[int] = range(-64, 61, 4),
        dy: Sequence[int] | None = None,
        *,
        mode: Literal["fill", "wrap"] = "fill",
        fill: float = 0.0,
        window: Sequence[int] | None = None,
        image_shape: Sequence[int] | None = None,
        channels_last: bool = False,
        v_axis: Literal["up", "down"] = "up",
    ) -> None:
        if mode not in ("fill", "wrap"):
            raise ValueError(f"mode must be 'fill' or 'wrap', got {mode!r}")
        along_x, along_y = list(dx), list(dx if dy is None else dy)
        if any(value != int(value) for value in (*along_x, *along_y)):
            raise ValueError("shifts are whole numbers of pixels")
        self._set_common(image_shape, channels_last, v_axis)
        self.mode, self.fill = mode, float(fill)
        self.window = None if window is None else (int(window[0]), int(window[1]))
        pairs = [(int(x), int(y)) for y in along_y for x in along_x]
        self.options = {
            "dx": [int(x) for x in along_x], "dy": [int(y) for y in along_y], "mode": mode, "fill": fill,
            "window": None if window is None else list(window), **self._common(),
        }  # fmt: skip
        labels = [f"({x:+d}, {y:+d}) px" if x or y else "(0, 0) px" for x, y in pairs]
        super().__init__(pairs, pairs or np.zeros((0, 2)), ["dx (pixels)", "dy (pixels)"], labels, "grid", (0, 0))

    def inverse(self, g: Any) -> tuple[int, int]:
        return -g[0], -g[1]

    def matrix(self, g: Any) -> np.ndarray:
        return np.eye(2)

    def canvas(self, shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        if self.window is None:
            return shape, (0, 0)
        if self.window[0] > shape[0] or self.window[1] > shape[1]:
            raise ValueError(f"the window {self.window} is larger than the images, {shape}")
        return self.window, ((shape[1] - self.window[1]) // 2, (shape[0] - self.window[0]) // 2)

    def phi(self, g: Any, X: Batch) -> Batch:
        images = self.as_images(X)
        shape, corner = self.canvas(tuple(images.shape[-2:]))
        return self._back(self._cut(g, images, shape, corner), X)

    def _move(self, g: Any, images: Batch) -> Batch:
        return self._cut(g, images, tuple(images.shape[-2:]), (0, 0))

    def _cut(self, g: Any, images: Batch, shape: tuple[int, int], corner: tuple[int, int]) -> Batch:
        rows = np.arange(shape[0]) + corner[1] - g[1]
        columns = np.arange(shape[1]) + corner[0] - g[0]
        height, width = images.shape[-2:]
        if self.mode == "wrap":
            return images[..., rows[:, None] % height, columns[None, :] % width]
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
        out = images[..., rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)[None, :]]
        if not inside.all():
            r, c = np.nonzero(~inside)
            out[..., r, c] = self.fill
        return out

    def _psi_positions(self, g: Any, points: Batch, shape: tuple[int, int]) -> Batch:
        return np.asarray(points) + np.array(g, dtype=float)


class Dihedral(PlanarGroup):
    """The eight symmetries of the square (D4): quarter turns, with or without a mirror image first. Exact.

    An element (f, r) mirrors left to right if f is 1, then turns r times 90 degrees counter-clockwise. Images must be
    square.

    Parameters
    ----------
    image_shape, channels_last, v_axis
        As in :class:`PlanarGroup`.

    Examples
    --------
    The vector (1, 2) at the upper left of a 2 x 2 field goes to the lower left under a quarter turn, as (-2, 1).

    >>> field = np.zeros((1, 2, 2, 2))
    >>> field[0, :, 0, 0] = 1, 2
    >>> Dihedral().psi((0, 1), field, "field")[0, :, 1, 0]
    array([-2.,  1.])
    """

    name = "d4"
    _ELEMENTS: ClassVar[tuple[tuple[int, int], ...]] = tuple((f, r) for f in (0, 1) for r in range(4))
    _AXES: ClassVar[tuple[str, ...]] = ("quarter turns", "mirrored")

    def __init__(
        self,
        *,
        image_shape: Sequence[int] | None = None,
        channels_last: bool = False,
        v_axis: Literal["up", "down"] = "up",
    ) -> None:
        self._set_common(image_shape, channels_last, v_axis)
        self.options = self._common()
        labels = ["mirrored, " * f + f"{90 * r}°" for f, r in self._ELEMENTS]
        super().__init__(self._ELEMENTS, [(r, f) for f, r in self._ELEMENTS], self._AXES, labels, "tiles", (0, 0))

    def inverse(self, g: Any) -> tuple[int, int]:
        f, r = g
        return (f, r) if f else (f, -r % 4)

    def matrix(self, g: Any) -> np.ndarray:
        f, r = g
        return _turn(r) @ np.diag([-1.0 if f else 1.0, 1.0])

    def _move(self, g: Any, images: Batch) -> Batch:
        f, r = g
        if r % 2 and images.shape[-1] != images.shape[-2]:
            raise ValueError(f"quarter turns need square images, got {tuple(images.shape[-2:])}")
        if f:
            images = images[..., ::-1] if isinstance(images, np.ndarray) else images.flip(-1)
        return _rot90(images, r)


class Flips(Dihedral):
    """Mirror images: none, left to right, upside down, or both. Exact, for images of any shape.

    Parameters
    ----------
    axes : {"both", "horizontal", "vertical"}, default "both"
        Which mirror images are elements, beside the image itself.
    image_shape, channels_last, v_axis
        As in :class:`PlanarGroup`.

    Examples
    --------
    >>> Flips("horizontal").phi((1, 0), np.array([[[1, 2], [3, 4]]])).tolist()
    [[[2, 1], [4, 3]]]
    """

    name = "flips"
    _NAMES: ClassVar[dict[tuple[int, int], str]] = {
        (0, 0): "as it is", (1, 0): "left to right", (1, 2): "upside down", (0, 2): "both mirrored",
    }  # fmt: skip

    def __init__(
        self,
        axes: Literal["both", "horizontal", "vertical"] = "both",
        *,
        image_shape: Sequence[int] | None = None,
        channels_last: bool = False,
        v_axis: Literal["up", "down"] = "up",
    ) -> None:
        chosen = {"both": tuple(self._NAMES), "horizontal": ((0, 0), (1, 0)), "vertical": ((0, 0), (1, 2))}
        if axes not in chosen:
            raise ValueError(f"axes must be 'both', 'horizontal' or 'vertical', got {axes!r}")
        self._set_common(image_shape, channels_last, v_axis)
        self.options = {"axes": axes, **self._common()}
        elements = chosen[axes]
        mirrored = {(0, 0): (0, 0), (1, 0): (1, 0), (1, 2): (0, 1), (0, 2): (1, 1)}
        Group.__init__(
            self, elements, [mirrored[g] for g in elements], ["mirrored left to right", "mirrored upside down"],
            [self._NAMES[g] for g in elements], "tiles", (0, 0),
        )  # fmt: skip


class TimeReversal(Group):
    """A pair of frames in its order or the reverse; the motion between them changes its sign. Exact.

    Parameters
    ----------
    axis : int >= 1, default 1
        The axis of the inputs that holds the two frames.

    Examples
    --------
    >>> TimeReversal().phi(1, np.array([[10, 20]])).tolist()
    [[20, 10]]
    """

    name = "time-reversal"
    kinds = ("invariant", "image", "field", "vectors")

    def __init__(self, axis: int = 1) -> None:
        if axis < 1:
            raise ValueError(f"axis must be at least 1 (axis 0 holds the samples), got {axis}")
        self.axis = int(axis)
        self.options = {"axis": self.axis}
        super().__init__((0, 1), [[0], [1]], ["time reversed"], ["forward", "backward"], "tiles", 0)

    def inverse(self, g: Any) -> int:
        return g

    def phi(self, g: Any, X: Batch) -> Batch:
        if X.ndim <= self.axis or X.shape[self.axis] != 2:
            raise ValueError(
                f"axis {self.axis} of the inputs must hold the 2 frames of a pair, got shape {tuple(X.shape)}"
            )
        if not g:
            return X
        return np.flip(X, self.axis).copy() if isinstance(X, np.ndarray) else X.flip(self.axis)

    def _psi_image(self, g: Any, maps: Batch) -> Batch:
        return maps

    def _psi_field(self, g: Any, field: Batch) -> Batch:
        return -field if g else field

    _psi_vectors = _psi_field


def cyclic(n: int, **options: Any) -> Rotations:
    """Return C_n: rotations by the multiples of 360/n degrees, each listed once. C4 of square images is exact.

    Examples
    --------
    >>> cyclic(4).labels
    ('0°', '90°', '180°', '270°')
    """
    check_counts(n=n)
    return Rotations(step=360 / n, stop=360.0 if n > 1 else 0.0, closed=n == 1, **options)


def _turn(quarters: int) -> np.ndarray:
    return np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), quarters % 4)


def _rot90(images: Batch, quarters: int) -> Batch:
    if isinstance(images, np.ndarray):
        return np.rot90(images, quarters, axes=(-2, -1))
    return images.rot90(quarters, (-2, -1))


def _moveaxis(X: Batch, source: int, target: int) -> Batch:
    return np.moveaxis(X, source, target) if isinstance(X, np.ndarray) else X.movedim(source, target)
