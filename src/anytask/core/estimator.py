"""Settings with presets, and the base of everything with a ``fit``: state that saves, loads and counts itself."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, ClassVar, Self

import attrs
import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from anytask.core.cost import cost_of
from anytask.core.devices import resolve_device
from anytask.core.errors import brief
from anytask.core.persistence import DAMAGED, load_tree, save_tree
from anytask.core.rng import derive, isolated
from anytask.core.rollback import rollback
from anytask.core.settings import Settings, free, merged, whole
from anytask.core.training import gradients


class Preset(Settings):
    """Base of everything that has named sets of values, and draws.

    Parameters
    ----------
    seed : int
        Everything random follows from it; the global generators are not touched.
    """

    #: Named sets of values that differ from the defaults.
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    seed: int = whole(0, "everything random follows from it", at_least=0)

    @classmethod
    def from_preset(cls, preset: str, **params: Any) -> Self:
        """Return an object with the values of one of :attr:`PRESETS`, but for those given, in groups too.

        Raises
        ------
        ValueError
            For an unknown preset; the message names those that exist.
        """
        if not isinstance(preset, str) or preset not in cls.PRESETS:
            known = ", ".join(cls.PRESETS) or "none"
            raise ValueError(f"{cls.__name__} has no preset {preset!r}; presets: {known}")
        return cls(**merged(cls.PRESETS[preset], params))


class Tool(Preset):
    """Base of what works on a model that it is given, on a device, and keeps nothing: there is nothing to save.

    Parameters
    ----------
    seed : int
        Everything random follows from it; the global generators are not touched.
    device : str or torch.device
        ``"auto"`` (CUDA when there is one), or a torch device.
    """

    device: Any = free("auto", "'auto' (CUDA when there is one), or a torch device", resolve_device)

    @property
    def _device(self) -> torch.device:
        return resolve_device(self.device)


class Fitted(Preset):
    """Base of everything with a fitted state and no device of its own: saving, refits that can fail.

    A subclass lists its settings as fields. Attributes that ``fit`` sets and that end in an underscore are the fitted
    state: plain values, arrays, tensors, containers of them, and modules or other objects with ``state_dict`` and
    ``load_state_dict``, such as optimizers. All of it is saved, loaded, counted and put back after a failure without a
    line of the subclass, if :meth:`_build` makes these objects from the settings and the plain values. State of another
    shape is said by :meth:`_state` and :meth:`_load_state`. Attributes that begin with an underscore are rebuilt, never
    saved.

    Parameters
    ----------
    seed : int
        Everything random follows from it; the global generators are not touched.
    """

    #: Settings that may be changed on a fitted model, and all others belong to the fit; None where all may be changed.
    INFERENCE: ClassVar[tuple[str, ...] | None] = None

    # -- what users call ------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model to ``folder`` as safetensors + JSON; :meth:`load` gives the same answers.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before the first fit.
        """
        self._check_fitted()
        self._check_shape_kept()
        params = {name: param_to_json(getattr(self, name)) for name in self._param_names() if name != "device"}
        fitted = sorted(self._fitted())
        save_tree(folder, {"class": class_name(type(self)), "params": params, "fitted": fitted, "state": self._state()})

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str = "auto", **params: Any) -> Self:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        folder : path
            The folder given to :meth:`save`.
        device : str
            Where the model is to live, whichever device saved it (classes with a device).
        **params
            Settings that cannot be saved, such as a backbone given as a module: pass them again.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no model of this class there, a file is damaged, or a setting has to be passed again.
        """
        tree = load_tree(folder)
        if not isinstance(tree, dict) or not {"class", "params", "state"} <= set(tree):
            raise ValueError(f"{folder} holds no saved model")
        if tree["class"] != class_name(cls):
            raise ValueError(f"{folder} holds a {tree['class']}, not a {class_name(cls)}")
        place = {"device": device} if "device" in cls._param_names() else {}
        try:
            saved = {name: param_from_json(name, p) for name, p in tree["params"].items() if name not in params}
            model = cls(**{**saved, **params, **place})
            model._load_state(tree["state"])
            if missing := sorted(set(tree.get("fitted", ())) - set(model._fitted())):
                raise ValueError(f"it lacks {', '.join(missing)}")
        except DAMAGED as error:
            why = brief(str(error))
            raise ValueError(f"the model saved in {folder} does not fit {class_name(cls)}: {why}") from error
        return model

    def cost(self) -> dict[str, int]:
        """Return how many numbers are trained and stored."""
        self._check_fitted()
        return cost_of([getattr(self, name) for name in self._fitted()])

    # -- what a system may write ----------------------------------------------------------------------------------

    def _build(self) -> None:
        """Make the modules of the fitted state from settings and plain values (called by ``fit`` and by ``load``)."""

    def _state(self) -> Any:
        """Return the fitted state as a tree that :func:`anytask.core.persistence.save_tree` takes."""
        fitted = {name: getattr(self, name) for name in self._fitted()}
        return {
            "values": {name: value for name, value in fitted.items() if not _stateful(value)},
            "modules": {name: value.state_dict() for name, value in fitted.items() if _stateful(value)},
        }

    def _load_state(self, state: Any) -> None:
        """Put back what :meth:`_state` returned."""
        for name, value in state["values"].items():
            if not name.endswith("_") or name.startswith("_"):
                raise ValueError(f"{name!r} names no fitted attribute")
            setattr(self, name, _to(value, self._device))
        with isolated(derive(self.seed, "init")):
            self._build()
        built = {name for name in self._fitted() if _stateful(getattr(self, name))}
        if built != set(state["modules"]):
            raise ValueError(f"it has weights of {', '.join(state['modules'])}, wanted are {', '.join(sorted(built))}")
        for name, weights in state["modules"].items():
            getattr(self, name).load_state_dict(weights)
        self._keep_shape()

    # -- shared steps ---------------------------------------------------------------------------------------------

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu")

    @classmethod
    def _param_names(cls) -> list[str]:
        return [field.name for field in attrs.fields(cls)]

    def _fitted(self) -> list[str]:
        params = set(self._param_names())  # lambda_ and its like end in an underscore too
        return [n for n in vars(self) if n.endswith("_") and not n.startswith("_") and n not in params]

    def __sklearn_is_fitted__(self) -> bool:
        return bool(self._fitted())

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(f"this {type(self).__name__} has not been fitted yet: call fit first")

    def _shaping(self) -> Iterable[str]:
        """Return the settings that shape the fitted state, those of groups as ``group.name``."""
        free = self._param_names() if self.INFERENCE is None else (*self.INFERENCE, "device")
        return [name for name in self._param_names() if name not in free]

    def _keep_shape(self) -> None:
        """Remember the settings that shape the fitted state as they are saved, and as they are shown."""
        values = {name: attrgetter(name)(self) for name in self._shaping()}
        self._shape = {n: (json.dumps(param_to_json(v), sort_keys=True), repr(v)) for n, v in values.items()}

    def _check_shape_kept(self) -> None:
        """Raise a ``ValueError`` if one of the settings that shape the fitted state has changed since the fit."""
        for name, (before, shown) in getattr(self, "_shape", {}).items():
            value = attrgetter(name)(self)
            if json.dumps(param_to_json(value), sort_keys=True) != before:
                raise ValueError(
                    f"{name} shapes the fitted model, which has {shown}, and is {value!r} now: set it back, or call fit"
                )

    @contextmanager
    def _refit(self) -> Iterator[None]:
        """Forget the fitted state inside the block, and put it back if the block fails."""
        self._check_settings()
        before = dict(vars(self))
        for name in self._fitted():
            delattr(self, name)
        try:
            with gradients():
                yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    @contextmanager
    def _update(self) -> Iterator[None]:
        """Change the fitted state in place inside the block, and put it back if the block fails."""
        self._check_settings()
        with rollback(self, skip=frozenset(self._param_names())), gradients():
            yield


class Estimator(Tool, Fitted):
    """Base of the systems that learn: a :class:`Fitted` that computes on a device, with the parameters of a Tool."""


def class_name(cls: type) -> str:
    """Return the name under which a class is saved: its public place, which outlives moves inside its family.

    Examples
    --------
    >>> from anytask.continual import PRD
    >>> class_name(PRD)
    'anytask.continual:PRD'
    """
    module = cls.__module__
    if module.startswith("anytask."):
        module = ".".join(module.split(".")[:2])
    return f"{module}:{cls.__qualname__}"


def param_to_json(value: Any) -> Any:
    """Return a setting as JSON; what cannot be saved is marked, so that loading asks for it."""
    if isinstance(value, Fitted):  # its settings are not what makes it
        return {"again": type(value).__name__}
    if isinstance(value, Settings):
        fields = {f.name: param_to_json(getattr(value, f.name)) for f in attrs.fields(type(value))}
        return {"group": fields}
    if dataclasses.is_dataclass(value) and _importable(type(value)):
        fields = {f.name: param_to_json(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"dataclass": f"{type(value).__module__}:{type(value).__qualname__}", "fields": fields}
    if isinstance(value, nn.Module) or (callable(value) and not _importable(value)):
        return {"again": type(value).__name__}
    if callable(value):
        return {"import": f"{value.__module__}:{value.__qualname__}"}
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return {"again": type(value).__name__}
    return {"value": value}


def param_from_json(name: str, saved: Mapping[str, Any]) -> Any:
    """Return what :func:`param_to_json` was given, groups as mappings, or say that it has to be passed again."""
    if "group" in saved:
        return {inner: param_from_json(f"{name}.{inner}", value) for inner, value in saved["group"].items()}
    if "again" in saved:
        raise ValueError(f"{name} (a {saved['again']}) could not be saved: pass it again, load(folder, {name}=...)")
    if "import" in saved:
        return _imported(name, saved["import"])
    if "dataclass" in saved:
        cls = _imported(name, saved["dataclass"])
        if not dataclasses.is_dataclass(cls):
            raise ValueError(f"{name} names {saved['dataclass']}, which is no class of settings: refused")
        fields = {inner: param_from_json(f"{name}.{inner}", value) for inner, value in saved["fields"].items()}
        return cls(**fields)  # type: ignore[operator]
    return saved["value"]


def _imported(name: str, place: str) -> Any:
    module, attribute = place.split(":")
    if not module.startswith("anytask."):
        raise ValueError(f"{name} names {place}, which is not part of anytask: refused")
    found = getattr(importlib.import_module(module), attribute)
    if not _importable(found) or found.__module__ != module:
        raise ValueError(f"{name} names {place}, which is no function of anytask: refused")
    return found


def _importable(value: Any) -> bool:
    # A saved file may only name the library's own functions: loading must not import a module of the file's choice.
    module, name = str(getattr(value, "__module__", "")), getattr(value, "__qualname__", "<>")
    return module.startswith("anytask.") and "<" not in name and "." not in name


def _stateful(value: Any) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(inner, device) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to(inner, device) for inner in value)
    return value
