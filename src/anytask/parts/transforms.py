"""Families of input changes and groups with their actions: the list of elements, phi on inputs and psi on outputs.

:class:`Transforms` is any finite list of changes with coordinates, such as corruptions of growing severity.
:class:`Group` adds what makes a change accountable: an inverse, and what a well-behaved model's output must do when
its input is changed. The planar groups are in :mod:`anytask.parts.planar_groups`, those on points, items and
signs in :mod:`anytask.parts.set_groups`; :func:`make_group` builds any of them by name.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

Layout = Literal["polar", "grid", "tiles", "polar-grid", "line"]
#: An array or a tensor, one sample per row.
Batch: TypeAlias = Any
#: Detections of one image: "boxes" (k, 4) as x1, y1, x2, y2 in pixels, and as a rule "scores" (k,), "labels" (k,).
Detections: TypeAlias = Mapping[str, Any]

#: Registry name -> module and class; :func:`make_group` reads it.
GROUPS = {
    "rotations": "planar_groups:Rotations",
    "shifts": "planar_groups:Shifts",
    "flips": "planar_groups:Flips",
    "d4": "planar_groups:Dihedral",
    "time-reversal": "planar_groups:TimeReversal",
    "permutations": "set_groups:Permutations",
    "sign-flips": "set_groups:SignFlips",
    "rotations-3d": "set_groups:AxisRotations",
    "quaternions": "set_groups:QuaternionRotations",
}


class Transforms:
    """A finite list of changes to inputs, each with coordinates and a label.

    Parameters
    ----------
    elements : sequence of hashable
        The changes g_1 ... g_m, in the terms of the subclass (an angle, a shift, a severity).
    coords : array of shape (m, d)
        Where each element lies on the axes.
    axes : sequence of str
        Name of each axis, with its unit.
    labels : sequence of str
        How to call each element.
    layout : {"polar", "grid", "tiles", "polar-grid", "line"}
        The natural way to draw a value per element.
    identity : hashable or None
        The element that changes nothing, if there is one in the list.

    Attributes
    ----------
    elements, coords, axes, labels, layout
        As given; ``elements`` and ``labels`` as tuples.

    Raises
    ------
    ValueError
        For an empty list, or coordinates and labels that do not match it.

    Examples
    --------
    >>> class Darker(Transforms):
    ...     def phi(self, g, X):
    ...         return X * g
    >>> family = Darker([1.0, 0.5], [[1.0], [0.5]], ["brightness"], ["x 1", "x 0.5"], identity=1.0)
    >>> family.orbit(np.array([[4.0, 8.0]])).tolist(), family.identity
    ([[[4.0, 8.0]], [[2.0, 4.0]]], 0)
    """

    name: ClassVar[str] = "transforms"
    #: Whether neighbours in the list are alike, so that a line between their values means something.
    ordered: ClassVar[bool] = True
    #: Constructor arguments, JSON-able, from which :func:`make_group` builds the same family; None for your own.
    options: dict[str, Any] | None = None

    def __init__(
        self,
        elements: Sequence[Hashable],
        coords: Any,
        axes: Sequence[str],
        labels: Sequence[str],
        layout: Layout = "line",
        identity: Hashable | None = None,
    ) -> None:
        if len(elements) == 0:
            raise ValueError(f"{type(self).__name__} has no elements: an orbit needs at least one")
        self.elements = tuple(elements)
        self.coords = np.asarray(coords, dtype=np.float64)
        self.axes = tuple(axes)
        self.labels = tuple(map(str, labels))
        self.layout: Layout = layout
        if self.coords.shape != (len(self.elements), len(self.axes)) or len(self.labels) != len(self.elements):
            raise ValueError(
                f"{len(self.elements)} elements on {len(self.axes)} axes need coordinates of shape "
                f"{(len(self.elements), len(self.axes))} and as many labels, got {self.coords.shape} and "
                f"{len(self.labels)} labels"
            )
        self._identity_key = None if identity is None else self.key(identity)

    def __len__(self) -> int:
        return len(self.elements)

    def phi(self, g: Any, X: Batch) -> Batch:
        """Return the inputs (n, ...) changed by ``g``."""
        raise NotImplementedError

    def orbit(self, X: Batch, elements: Sequence[Any] | None = None) -> Batch:
        """Return the inputs under several elements (default: all), shape (m, n, ...)."""
        parts = [self.phi(g, X) for g in (self.elements if elements is None else elements)]
        if isinstance(parts[0], np.ndarray):
            return np.stack(parts)
        import torch

        return torch.stack(parts)

    def key(self, g: Any) -> Hashable:
        """Return the same value for elements that are the same change (0 and 360 degrees), else different ones."""
        return g

    @cached_property
    def representative(self) -> np.ndarray:
        """For each element, the index of the first that is the same change, shape (m,)."""
        first: dict[Hashable, int] = {}
        return np.array([first.setdefault(self.key(g), k) for k, g in enumerate(self.elements)])

    @cached_property
    def distinct(self) -> np.ndarray:
        """Indices of the different elements, in their order."""
        return np.unique(self.representative)

    @cached_property
    def weights(self) -> np.ndarray:
        """Weights of an average over the orbit, shape (m,), sum 1: every different element counts once in total."""
        counts = np.bincount(self.representative, minlength=len(self))[self.representative]
        return 1 / (counts * len(self.distinct))

    @property
    def identity(self) -> int | None:
        """Index of the element that changes nothing, or None."""
        return next((k for k, g in enumerate(self.elements) if self.key(g) == self._identity_key), None)

    def nearest(self, coords: Sequence[float]) -> int:
        """Return the index of the element whose coordinates are closest."""
        wanted = np.asarray(coords, dtype=np.float64).reshape(-1)
        if wanted.shape != (len(self.axes),) or not np.isfinite(wanted).all():
            wants = f"{len(self.axes)} finite coordinates ({', '.join(self.axes)})"
            raise ValueError(f"{wants} are needed, got {wanted.tolist()}")
        return int(np.argmin(np.linalg.norm(self.coords - wanted, axis=1)))

    def canvas(self, shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return what a model sees of images (height, width): the shape, and its upper left corner (x, y) in them."""
        return shape, (0, 0)


class Group(Transforms):
    """Changes that can be undone, and their action psi on outputs.

    A kind of output says how it has to follow the input. Subclasses implement ``_psi_boxes``, ``_psi_field`` and so on
    for the kinds they know, and list them in :attr:`kinds`:

    * ``"invariant"``: it stays (class probabilities, scores);
    * ``"boxes"``: lists of :data:`Detections`;
    * ``"positions"``: points (n, k, 2) as x, y in pixels from the upper left corner of the image, where the pixel in
      row r and column c covers x in [c, c + 1] and y in [r, r + 1]; boxes use the same coordinates;
    * ``"image"``: maps (n, ..., height, width) that move with the pixels;
    * ``"field"``: vector fields (n, 2, height, width), whose vectors (u, v) turn as well;
    * ``"items"``: one output per token or point, (n, items, ...);
    * ``"points"``, ``"vectors"``: point clouds (n, k, 3) and vectors (n, d).
    """

    kinds: ClassVar[tuple[str, ...]] = ("invariant",)

    def inverse(self, g: Any) -> Any:
        """Return g^-1; it need not be in the list of elements."""
        raise NotImplementedError

    def psi(self, g: Any, outputs: Any, kind: str, shape: tuple[int, int] | None = None) -> Any:
        """Return what the outputs of an equivariant model become when its inputs are changed by ``g``.

        Parameters
        ----------
        g : element
            One of :attr:`elements`, or an inverse.
        outputs : array, tensor or list of Detections
            A batch of outputs.
        kind : str
            One of :attr:`kinds`.
        shape : (height, width), optional
            Size of the images that the model sees; needed for boxes and positions.

        Raises
        ------
        ValueError
            If the group has no action on this kind of output.
        """
        self.check_kind(kind)
        if kind == "invariant":
            return outputs
        if kind in ("boxes", "positions"):
            if shape is None:
                raise ValueError(f"psi on {kind} needs the shape (height, width) of the images")
            if kind == "positions":
                return self._psi_positions(g, outputs, shape)
            return [{**d, "boxes": self._psi_boxes(g, np.asarray(d["boxes"], float), shape)} for d in outputs]
        return getattr(self, f"_psi_{kind}")(g, outputs)

    def undo(self, g: Any, outputs: Any, kind: str, shape: tuple[int, int] | None = None) -> Any:
        """Return psi(g^-1, outputs)."""
        return self.psi(self.inverse(g), outputs, kind, shape)

    def check_kind(self, kind: str) -> None:
        """Raise a ``ValueError`` if the group has no action on this kind of output."""
        if kind not in self.kinds:
            raise ValueError(
                f"psi is missing: {type(self).__name__} has no action on outputs of kind {kind!r}, only on "
                f"{', '.join(self.kinds)}; a CustomGroup takes your own psi"
            )

    def _psi_positions(self, g: Any, points: Batch, shape: tuple[int, int]) -> Batch:
        raise NotImplementedError

    def _psi_boxes(self, g: Any, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Move the four corners (k, 4) and take the upright box around them."""
        if not len(boxes):
            return boxes.reshape(0, 4)
        corners = np.stack([boxes[:, [0, 1]], boxes[:, [2, 1]], boxes[:, [0, 3]], boxes[:, [2, 3]]], axis=1)
        moved = self._psi_positions(g, corners, shape)  # (k, 4, 2)
        return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)


class Product(Group):
    """All pairs of elements of two groups, the first acting first.

    The two actions must commute, as those of turns and time reversal do; :meth:`undo` takes them back in reverse order.

    Examples
    --------
    >>> from anytask.parts.planar_groups import Dihedral, TimeReversal
    >>> both = Product(Dihedral(), TimeReversal())
    >>> len(both), both.layout, both.kinds
    (16, 'tiles', ('invariant', 'image', 'field'))
    """

    name = "product"

    def __init__(self, first: Group, second: Group) -> None:
        self.first, self.second = first, second
        pairs = [(a, b) for a in range(len(first)) for b in range(len(second))]
        layouts = {first.layout, second.layout}
        layout: Layout = "tiles" if layouts == {"tiles"} else "line"
        if layout == "line" and len(first.axes) == len(second.axes) == 1:
            layout = "grid"
        here = first.identity, second.identity
        self.kinds = tuple(k for k in first.kinds if k in second.kinds)  # type: ignore[misc]
        super().__init__(
            [(first.elements[a], second.elements[b]) for a, b in pairs],
            [[*first.coords[a], *second.coords[b]] for a, b in pairs],
            [*first.axes, *second.axes],
            [f"{first.labels[a]}, {second.labels[b]}" for a, b in pairs],
            layout,
            None if None in here else (first.elements[here[0]], second.elements[here[1]]),  # type: ignore[index]
        )

    def key(self, g: Any) -> Hashable:
        return self.first.key(g[0]), self.second.key(g[1])

    def phi(self, g: Any, X: Batch) -> Batch:
        return self.second.phi(g[1], self.first.phi(g[0], X))

    def inverse(self, g: Any) -> Any:
        return self.first.inverse(g[0]), self.second.inverse(g[1])

    def psi(self, g: Any, outputs: Any, kind: str, shape: tuple[int, int] | None = None) -> Any:
        self.check_kind(kind)
        return self.second.psi(g[1], self.first.psi(g[0], outputs, kind, shape), kind, shape)

    def undo(self, g: Any, outputs: Any, kind: str, shape: tuple[int, int] | None = None) -> Any:
        self.check_kind(kind)
        return self.first.undo(g[0], self.second.undo(g[1], outputs, kind, shape), kind, shape)


class CustomGroup(Group):
    """Your own elements, each a triple (phi, psi, inverse) of functions on batches.

    Parameters
    ----------
    actions : sequence of (phi, psi, inverse)
        ``phi(X) -> X`` changes inputs; ``psi(outputs) -> outputs`` says what a right output becomes (None: it stays);
        ``inverse`` undoes psi: a function on outputs, or the index of the inverse element in this list (None: psi
        cannot be undone, and there is no consensus for outputs that move).
    coords : array of shape (m, d), optional
        Coordinates; 0, 1, ... if left out.
    axes, labels : sequence of str, optional
        Names of the axes and of the elements.
    layout : {"line", "polar", "grid", "tiles", "polar-grid"}, default "line"
        How to draw a value per element. "polar" wants degrees, "grid" two axes.
    identity : int or None, default 0
        Index of the element that changes nothing.

    Examples
    --------
    Scaling inputs by 2 doubles what an equivariant regression must answer.

    >>> group = CustomGroup([(lambda X: X, None, 0), (lambda X: 2 * X, lambda y: 2 * y, lambda y: y / 2)])
    >>> group.psi(1, np.array([3.0]), "custom"), group.undo(1, np.array([6.0]), "custom")
    (array([6.]), array([3.]))
    """

    name = "custom"
    kinds = ("invariant", "custom", "boxes", "positions", "image", "field", "items", "points", "vectors")

    def __init__(
        self,
        actions: Sequence[tuple[Callable[[Batch], Batch], Callable[[Any], Any] | None, Any]],
        *,
        coords: Any = None,
        axes: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        layout: Layout = "line",
        identity: int | None = 0,
    ) -> None:
        self.actions = tuple(actions)
        for k, action in enumerate(self.actions):
            if not isinstance(action, (tuple, list)) or len(action) != 3 or not callable(action[0]):
                raise TypeError(f"element {k} must be a triple (phi, psi, inverse) with a callable phi, got {action!r}")
        positions = np.arange(len(self.actions))[:, None] if coords is None else np.asarray(coords, dtype=float)
        names = [f"axis {j + 1}" for j in range(positions.shape[1])] if positions.ndim == 2 else []
        super().__init__(
            range(len(self.actions)),
            positions,
            axes or (["element"] if coords is None else names),
            labels or [f"element {k}" for k in range(len(self.actions))],
            layout,
            identity,
        )

    def phi(self, g: Any, X: Batch) -> Batch:
        return self.actions[g][0](X)

    def psi(self, g: Any, outputs: Any, kind: str, shape: tuple[int, int] | None = None) -> Any:
        action = self.actions[g][1]
        return outputs if kind == "invariant" or action is None else action(outputs)

    def inverse(self, g: Any) -> Any:
        back = self.actions[g][2]
        if isinstance(back, (int, np.integer)) and not isinstance(back, bool):
            return int(back)
        raise ValueError(f"the inverse of {self.labels[g]} is not one of the elements")

    def undo(self, g: Any, outputs: Any, kind: str, shape: tuple[int, int] | None = None) -> Any:
        _, psi, back = self.actions[g]
        if kind == "invariant" or psi is None:
            return outputs
        if callable(back):
            return back(outputs)
        if back is None:
            raise ValueError(f"{self.labels[g]} has no inverse, so outputs cannot be brought back")
        return self.psi(self.inverse(g), outputs, kind, shape)


def make_group(name: str, **options: Any) -> Group:
    """Build a group of the registry by name.

    Parameters
    ----------
    name : str
        A key of :data:`GROUPS`.
    **options
        The constructor's arguments.

    Raises
    ------
    ValueError
        For an unknown name or option; the message names those that exist.

    Examples
    --------
    >>> make_group("rotations", step=90).labels
    ('0°', '90°', '180°', '270°', '360°')
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be the name of a group, got {type(name).__name__}")
    if name not in GROUPS:
        near = difflib.get_close_matches(name, GROUPS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ";"
        raise ValueError(f"unknown group {name!r}{hint} Groups: {', '.join(GROUPS)}")
    module, cls = GROUPS[name].split(":")
    group = getattr(importlib.import_module(f"anytask.parts.{module}"), cls)
    known = list(inspect.signature(group).parameters)
    if unknown := set(options) - set(known):
        raise ValueError(f"{name} has no option {min(unknown)!r}; its options: {', '.join(known)}")
    return group(**options)


class ListedTransforms(Transforms):
    """The elements of a family whose actions are not known any more: enough to draw and to average."""

    name = "listed"

    def __init__(self, keys: Sequence[int], coords: Any, axes: Sequence[str], labels: Sequence[str],
                 layout: Layout, identity: int | None) -> None:  # fmt: skip
        self._keys = [int(key) for key in keys]
        super().__init__(range(len(self._keys)), coords, axes, labels, layout, identity)

    def key(self, g: Any) -> Hashable:
        return self._keys[g]

    def phi(self, g: Any, X: Batch) -> Batch:
        raise ValueError("the actions of this group were not saved: give the group when loading, load(folder, group=)")


def group_state(group: Transforms) -> dict[str, Any]:
    """Return a tree from which :func:`group_from_state` makes the same group, or, for your own, its list of elements.

    Examples
    --------
    >>> group_from_state(group_state(make_group("rotations", step=45))).labels[:2]
    ('0°', '45°')
    """
    if isinstance(group, Product):
        parts = [group_state(group.first), group_state(group.second)]
        if all(part["name"] != "listed" for part in parts):
            return {"name": "product", "parts": parts}
    if group.options is not None and group.name in GROUPS:
        return {"name": group.name, "options": group.options}
    return {
        "name": "listed",
        "keys": group.representative.tolist(),
        "coords": group.coords,
        "axes": list(group.axes),
        "labels": list(group.labels),
        "layout": group.layout,
        "identity": group.identity,
    }


def group_from_state(state: Mapping[str, Any]) -> Transforms:
    """Make a group of what :func:`group_state` returned."""
    if state["name"] == "product":
        first, second = (group_from_state(part) for part in state["parts"])
        assert isinstance(first, Group)
        assert isinstance(second, Group)
        return Product(first, second)
    if state["name"] != "listed":
        return make_group(state["name"], **state["options"])
    names = ("keys", "coords", "axes", "labels", "layout", "identity")
    return ListedTransforms(**{name: state[name] for name in names})
