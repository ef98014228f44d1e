"""The systems of a family as fast instances, found from the files that are there.

A system's own test file, ``tests/<family>/test_<key>.py`` (or ``test_<family>_<key>.py``, where another family has a
file of that name), may state two literals, which are read without running it:

``CONTRACT = {"window": 10, "TAME-wide": {"hidden": (32,)}}``
    Parameters of a fast instance. A key that is a class of the system, or a class and a name of a variant, holds
    parameters of that case alone; a variant is one more case.
``EXEMPT = {"test_training_does_not_depend_on_the_cut": "trains chunk by chunk"}``
    Contract tests that the system does not promise to pass, each with the reason, in the same form.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anytask.core import discovery
from anytask.core.settings import Settings

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """One class with its parameters, and the contract tests that it need not pass."""

    cls: type
    params: dict[str, Any]
    exempt: dict[str, str]

    def make(self, **params):
        return self.cls(**{**self.params, **params})


def cases(
    family: str, wanted: Callable[[type], bool], small: Mapping[str, Any], tests: Path = TESTS
) -> dict[str, Case]:
    """Return the published classes of a family that are ``wanted``, with ``small`` where they have such parameters."""
    found = {}
    for name, module in discovery.published(f"anytask.{family}").items():
        cls = discovery.load(f"{module}:{name}")
        if not (isinstance(cls, type) and wanted(cls)):
            continue
        key = module.split(".")[2]
        files = [file for stem in (key, f"{family}_{key}") if (file := tests / family / f"test_{stem}.py").exists()]
        contract, exempt = (next((discovery.literal(f, v) for f in files), None) or {} for v in ("CONTRACT", "EXEMPT"))
        taken = {key for base in cls.__mro__ for key in inspect.signature(base.__init__).parameters}  # past **params
        general = {key: value for key, value in small.items() if key in taken}
        for case in dict.fromkeys([name, *(key for key in contract if key.partition("-")[0] == name)]):
            found[case] = Case(cls, {**general, **_of(case, contract)}, _of(case, exempt))
    return found


def _of(case: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what holds for every case, and what holds for this one; classes begin with a capital letter."""
    return {key: value for key, value in stated.items() if not key[0].isupper()} | stated.get(case, {})


def everyone(found: Mapping[str, Case]) -> Callable[[Callable], Callable]:
    """Return the decorator that runs a test, by ``name``, for every case that is not exempt from it."""

    def parametrized(test):
        return pytest.mark.parametrize("name", [name for name in found if test.__name__ not in found[name].exempt])(
            test
        )

    return parametrized


def speaks(cls: type, verb: str) -> bool:
    """Return whether a class has a method of that name, which a setting may have as well."""
    return inspect.isfunction(getattr(cls, verb, None))


def speakers(family: str, verbs: Iterable[str]) -> list[type]:
    """Return the classes with settings of a family, published or not, that have one of the ``verbs`` and no heirs."""
    modules = [importlib.import_module(name) for name in discovery.modules(f"anytask.{family}")]
    found = {
        cls
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Settings) and cls.__module__ == module.__name__
    }
    bases = {base for cls in found for base in cls.__mro__[1:]}
    return sorted(
        (cls for cls in found - bases if any(speaks(cls, verb) for verb in verbs)), key=lambda cls: cls.__name__
    )
