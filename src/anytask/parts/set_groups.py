"""Groups on sets and vectors: permutations of items, changes of sign, and rotations of points in space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from anytask.parts.transforms import Batch, Group

_PLANES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}


class Permutations(Group):
    """Orders of the items of an input: tokens of a sequence, points of a cloud (the group S_n).

    Parameters
    ----------
    n_items : int >= 1
        Items per input.
    n_elements : int >= 1, default 24
        Orders that are tried: the given one first, then different random ones; all of them if there are no more.
    axis : int >= 1, default 1
        The axis of the inputs that holds the items.
    seed : int, default 0
        Picks the random orders.

    Examples
    --------
    >>> group = Permutations(3, n_elements=6)
    >>> len(group), group.phi((2, 0, 1), np.array([[10, 20, 30]])).tolist()
    (6, [[30, 10, 20]])
    """

    name = "permutations"
    ordered = False
    kinds = ("invariant", "items")

    def __init__(self, n_items: int, n_elements: int = 24, *, axis: int = 1, seed: int = 0) -> None:
        if n_items < 1 or n_elements < 1:
            raise ValueError(f"n_items and n_elements must be at least 1, got {n_items} and {n_elements}")
        if axis < 1:
            raise ValueError(f"axis must be at least 1 (axis 0 holds the samples), got {axis}")
        self.axis = int(axis)
        self.options = {"n_items": n_items, "n_elements": n_elements, "axis": axis, "seed": seed}
        here = tuple(range(n_items))
        if n_items <= 12 and math.factorial(n_items) <= n_elements:
            orders = list(itertools.permutations(here))
        else:
            rng = np.random.default_rng(seed)
            found = {here: None}
            while len(found) < n_elements:
                found.setdefault(tuple(rng.permutation(n_items).tolist()))
            orders = list(found)
        labels = ["given order", *(f"order {k}" for k in range(1, len(orders)))]
        super().__init__(orders, np.arange(len(orders))[:, None], ["order"], labels, "line", here)

    def inverse(self, g: Any) -> tuple[int, ...]:
        return tuple(np.argsort(g).tolist())

    def phi(self, g: Any, X: Batch) -> Batch:
        if X.ndim <= self.axis or X.shape[self.axis] != len(g):
            raise ValueError(f"axis {self.axis} of the inputs must hold {len(g)} items, got shape {tuple(X.shape)}")
        return _take(X, g, self.axis)

    def _psi_items(self, g: Any, outputs: Batch) -> Batch:
        return _take(outputs, g, 1)


class SignFlips(Group):
    """Changes of the signs of features, as eigenvectors allow.

    Parameters
    ----------
    n_features : int >= 1
        Length of the last axis of the inputs.
    n_elements : int >= 1, default 16
        Patterns that are tried: all plus first, then different random ones; all 2^n if there are no more.
    seed : int, default 0
        Picks the random patterns.

    Examples
    --------
    >>> SignFlips(2).elements
    ((1, 1), (1, -1), (-1, 1), (-1, -1))
    """

    name = "sign-flips"
    ordered = False
    kinds = ("invariant", "vectors")

    def __init__(self, n_features: int, n_elements: int = 16, *, seed: int = 0) -> None:
        if n_features < 1 or n_elements < 1:
            raise ValueError(f"n_features and n_elements must be at least 1, got {n_features} and {n_elements}")
        self.options = {"n_features": n_features, "n_elements": n_elements, "seed": seed}
        here = (1,) * n_features
        if n_features <= 20 and 2**n_features <= n_elements:
            patterns = list(itertools.product((1, -1), repeat=n_features))
        else:
            rng = np.random.default_rng(seed)
            found = {here: None}
            while len(found) < n_elements:
                found.setdefault(tuple(rng.choice([1, -1], n_features).tolist()))
            patterns = list(found)
        labels = ["".join("+" if s > 0 else "−" for s in p) if n_features <= 16 else f"pattern {k}"
                  for k, p in enumerate(patterns)]  # fmt: skip
        super().__init__(patterns, np.arange(len(patterns))[:, None], ["pattern"], labels, "line", here)

    def inverse(self, g: Any) -> tuple[int, ...]:
        return g

    def phi(self, g: Any, X: Batch) -> Batch:
        if X.shape[-1] != len(g):
            raise ValueError(f"the inputs must have {len(g)} features, got shape {tuple(X.shape)}")
        return X * _like(np.array(g), X)

    def _psi_vectors(self, g: Any, outputs: Batch) -> Batch:
        return self.phi(g, outputs)


class SpaceGroup(Group):
    """Base of the rotations of points in space: a subclass says the matrix of each element."""

    kinds = ("invariant", "points", "vectors")

    def matrix(self, g: Any) -> np.ndarray:
        """Return the 3 x 3 rotation matrix."""
        raise NotImplementedError

    def key(self, g: Any) -> Hashable:
        return tuple((self.matrix(g).round(6) + 0.0).ravel().tolist())

    def phi(self, g: Any, X: Batch) -> Batch:
        if X.shape[-1] != 3:
            raise ValueError(f"points in space have 3 coordinates on the last axis, got shape {tuple(X.shape)}")
        return X @ _like(self.matrix(g).T, X)

    def _psi_points(self, g: Any, outputs: Batch) -> Batch:
        return self.phi(g, outputs)

    _psi_vectors = _psi_points


class AxisRotations(SpaceGroup):
    """Rotations of points in space about axes that lie in a coordinate plane.

    Parameters
    ----------
    planes : str or sequence of str, default "xy"
        Planes among "xy", "xz" and "yz" that the axes lie in.
    axis_step : float > 0, default 5
        Degrees between the directions of the axes, from 0 up to, and without, 360.
    angle_step : float > 0, default 15
        Degrees between the angles of rotation, from 0 to ``max_angle``.
    max_angle : float, default 180
        Largest angle of rotation.

    Notes
    -----
    Rotations by 0 degrees are the same for every axis, and half turns about opposite axes are the same: each counts
    once in averages. Inputs are (n, points, 3), or (n, 3) for single vectors.

    Examples
    --------
    >>> group = AxisRotations("xy", axis_step=90, angle_step=90)
    >>> point = np.array([[[0.0, 0.0, 1.0]]])
    >>> group.phi(("xy", 0.0, 90.0), point).round(6).tolist()  # a quarter turn about x takes z to -y
    [[[0.0, -1.0, 0.0]]]
    """

    name = "rotations-3d"

    def __init__(
        self,
        planes: str | Sequence[str] = "xy",
        *,
        axis_step: float = 5.0,
        angle_step: float = 15.0,
        max_angle: float = 180.0,
    ) -> None:
        chosen = [planes] if isinstance(planes, str) else list(planes)
        if not chosen or any(plane not in _PLANES for plane in chosen):
            raise ValueError(f"planes must be among {', '.join(_PLANES)}, got {planes!r}")
        if not axis_step > 0 or not angle_step > 0 or max_angle < 0:
            raise ValueError("axis_step and angle_step must be positive, and max_angle at least 0")
        self.planes, self.axis_step, self.angle_step = tuple(chosen), float(axis_step), float(angle_step)
        self.options = {
            "planes": chosen, "axis_step": axis_step, "angle_step": angle_step, "max_angle": max_angle,
        }  # fmt: skip
        directions = [round(axis_step * k, 9) for k in range(math.ceil(360 / axis_step - 1e-9))]
        angles = [round(angle_step * k, 9) for k in range(math.floor(max_angle / angle_step + 1e-9) + 1)]
        elements = [(p, d, a) for p in chosen for a in angles for d in directions]
        super().__init__(
            elements,
            [(chosen.index(p), d, a) for p, d, a in elements],
            ["plane", "direction of the axis (degrees)", "rotation (degrees)"],
            [f"{a:g}° about the axis at {d:g}° in {p}" for p, d, a in elements],
            "polar-grid",
            (chosen[0], 0.0, 0.0),
        )

    def matrix(self, g: Any) -> np.ndarray:
        """Return the 3 x 3 rotation matrix."""
        from scipy.spatial.transform import Rotation

        plane, direction, angle = g
        axis = np.zeros(3)
        i, j = _PLANES[plane]
        axis[i], axis[j] = math.cos(math.radians(direction)), math.sin(math.radians(direction))
        return Rotation.from_rotvec(math.radians(angle) * axis).as_matrix()

    def inverse(self, g: Any) -> tuple[str, float, float]:
        return g[0], g[1], -g[2]


class QuaternionRotations(SpaceGroup):
    """Rotations of points in space, each given by a quaternion.

    Parameters
    ----------
    quaternions : array of shape (m, 4)
        x, y, z, w with the real part last, as SciPy has them; of any length but 0. q and -q are the same rotation, and
        count once in averages.
    scalar_first : bool, default False
        The real part comes first: w, x, y, z.

    Raises
    ------
    ValueError
        For another shape, and for quaternions that are 0, NaN or infinite.

    Examples
    --------
    >>> group = QuaternionRotations([[0, 0, 0, 1], [1, 0, 0, 1]])  # the second is a quarter turn about x
    >>> group.phi(group.elements[1], np.array([[0.0, 0.0, 1.0]])).round(6).tolist(), group.identity
    ([[0.0, -1.0, 0.0]], 0)
    """

    name = "quaternions"
    ordered = False

    def __init__(self, quaternions: Any, *, scalar_first: bool = False) -> None:
        given = np.asarray(quaternions, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != 4 or not len(given):
            raise ValueError(f"quaternions must have shape (m, 4) with m of at least 1, got {given.shape}")
        lengths = np.linalg.norm(given, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            row = int(np.argmin(np.isfinite(lengths) & (lengths > 0)))
            raise ValueError(f"quaternion {row} is no rotation: {given[row].tolist()}")
        self.options = {"quaternions": given.tolist(), "scalar_first": bool(scalar_first)}
        unit = np.roll(given, -1, axis=1) if scalar_first else given
        elements = [tuple(q) for q in (unit / lengths).tolist()]
        degrees = [math.degrees(2 * math.acos(min(1.0, abs(q[3])))) for q in elements]
        labels = [f"rotation {k} ({angle:.0f}°)" for k, angle in enumerate(degrees)]
        super().__init__(
            elements, np.arange(len(elements))[:, None], ["rotation"], labels, "line", (0.0, 0.0, 0.0, 1.0)
        )

    def matrix(self, g: Any) -> np.ndarray:
        from scipy.spatial.transform import Rotation

        return Rotation.from_quat(g).as_matrix()

    def inverse(self, g: Any) -> tuple[float, ...]:
        return -g[0], -g[1], -g[2], g[3]


def _take(X: Batch, order: Sequence[int], axis: int) -> Batch:
    if isinstance(X, np.ndarray):
        return np.take(X, order, axis=axis)
    import torch

    return X.index_select(axis, torch.tensor(order, device=X.device))


def _like(values: np.ndarray, X: Batch) -> Any:
    """The values as an array or tensor of the kind of ``X``; floating-point unless ``X`` holds whole numbers."""
    if isinstance(X, np.ndarray):
        return values.astype(X.dtype) if X.dtype.kind == "f" or values.dtype.kind == "i" else values
    import torch

    return torch.as_tensor(values, device=X.device).to(X.dtype if X.dtype.is_floating_point else torch.int64)
