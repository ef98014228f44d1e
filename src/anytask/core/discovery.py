"""Names read from the files that are there, without importing them.

Nothing is registered by hand: a package publishes what its modules list in ``__all__``, and a claim, a problem, an
environment or a named network is there as soon as its file is. Files are read as syntax trees, so that a module whose
optional dependencies are missing is found all the same, and finding costs no import of torch or transformers.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any


def modules(package: str) -> dict[str, Path]:
    """Return the modules below a package, at any depth, without the package itself.

    Parameters
    ----------
    package : str
        Dotted name. Only the packages above it are imported.

    Returns
    -------
    dict of str to pathlib.Path
        Dotted name -> file, sorted by name; empty if there is no such package.

    Examples
    --------
    >>> [name for name in modules("anytask.core") if "disc" in name]
    ['anytask.core.discovery']
    """
    spec = importlib.util.find_spec(package)
    found = {}
    for folder in map(Path, spec.submodule_search_locations or () if spec else ()):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if parts:
                found[".".join((package, *parts))] = file
    return dict(sorted(found.items()))


def literal(file: Path, variable: str) -> Any:
    """Return the value of a variable that a module sets to a literal at its top level; None if it sets none.

    Raises
    ------
    ValueError
        If the value is computed, so that it cannot be read without running the module.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "test_tame.py")
    ...     _ = file.write_text('CONTRACT = {"window": 10}')
    ...     literal(file, "CONTRACT"), literal(file, "MISSING")
    ({'window': 10}, None)
    """
    value = _assigned(_tree(file, variable), variable)
    if value is None:
        return None
    try:
        return ast.literal_eval(value)
    except ValueError as error:
        raise ValueError(f"{file}, line {value.lineno}: {variable} must be a literal") from error


@lru_cache
def published(package: str) -> dict[str, str]:
    """Return the public names of a package: what its modules, at any depth, list in ``__all__``.

    Returns
    -------
    dict of str to str
        Public name -> dotted name of the module that publishes it, sorted by name.

    Raises
    ------
    ValueError
        If two modules publish the same name.

    Examples
    --------
    >>> published("anytask.continual")["TAME"]
    'anytask.continual.tame'
    """
    return _unique(
        package,
        ((name, module) for module, file in modules(package).items() for name in literal(file, "__all__") or ()),
    )


def publish(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` by which a package gives its public names (PEP 562).

    A module is imported when one of its names is first asked for.

    Parameters
    ----------
    package : str
        The package's ``__name__``.

    Examples
    --------
    >>> getattr_, dir_ = publish("anytask.continual")
    >>> getattr_("TAME").__name__, "TAME" in dir_()
    ('TAME', True)
    """

    def __getattr__(name: str) -> Any:
        if name == "__all__":
            return __dir__()
        if name.startswith("__") or name not in published(package):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(published(package)[name]), name)

    def __dir__() -> list[str]:
        return list(published(package))

    return __getattr__, __dir__


def constructed(package: str, variable: str, keyword: str) -> dict[str, str]:
    """Return the modules that set ``variable = Something(keyword="value", ...)``, by that value.

    Examples
    --------
    >>> constructed("anytask.claims", "CLAIM", "system")["tame"]
    'anytask.claims.continual.tame:CLAIM'
    """

    def values() -> Iterator[tuple[str, str]]:
        for module, file in modules(package).items():
            call = _assigned(_tree(file, variable), variable)
            for given in call.keywords if isinstance(call, ast.Call) else ():
                if given.arg == keyword:
                    yield ast.literal_eval(given.value), f"{module}:{variable}"

    return _unique(package, values())


def keyed(package: str, attribute: str) -> dict[str, str]:
    """Return the classes that set a class attribute to a text, by that text.

    Examples
    --------
    >>> keyed("anytask.problems", "key")["task-stream"]
    'anytask.problems.task_stream:TaskStream'
    """

    def values() -> Iterator[tuple[str, str]]:
        for module, file in modules(package).items():
            for node in _tree(file, attribute).body:
                if not isinstance(node, ast.ClassDef):
                    continue
                value = _assigned(node, attribute)
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value, f"{module}:{node.name}"

    return _unique(package, values())


def decorated(package: str, decorator: str) -> dict[str, str]:
    """Return the functions that carry a decorator, by their names.

    Examples
    --------
    >>> decorated("anytask.models", "network")["resnet18"]
    'anytask.models.build:resnet18'
    """

    def values() -> Iterator[tuple[str, str]]:
        for module, file in modules(package).items():
            for node in _tree(file, f"@{decorator}").body:
                if isinstance(node, ast.FunctionDef) and decorator in map(ast.unparse, node.decorator_list):
                    yield node.name, f"{module}:{node.name}"

    return _unique(package, values())


def docstring(entry: str) -> str:
    """Return the docstring of the class that ``"module:Class"`` names, read without importing it; "" without one.

    Examples
    --------
    >>> docstring("anytask.problems.task_stream:TaskStream").splitlines()[0]
    'Learn from data that keep changing: tasks that come one after another, none of which may be forgotten.'
    """
    module, _, name = entry.partition(":")
    file = modules(module.rpartition(".")[0])[module]
    nodes = _tree(file, f"class {name}").body
    return next((ast.get_docstring(n) or "" for n in nodes if isinstance(n, ast.ClassDef) and n.name == name), "")


def source(module: str) -> str:
    """Return the text of a module, which is not imported.

    Examples
    --------
    >>> "SYSTEMS: tuple" in source("anytask.catalogue")
    True
    """
    return modules(module.rpartition(".")[0])[module].read_text(encoding="utf-8")


def load(entry: str) -> Any:
    """Import what ``"module:name"`` names.

    Examples
    --------
    >>> load("anytask.catalogue:get").__name__
    'get'
    """
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def _tree(file: Path, wanted: str) -> ast.Module:
    """Parse a file; one that does not hold the wanted text is taken for empty, which is much faster."""
    text = file.read_text(encoding="utf-8")
    return ast.parse(text if wanted in text else "", filename=str(file))


def _assigned(scope: ast.Module | ast.ClassDef, variable: str) -> ast.expr | None:
    """Return what a variable is set to at the top level of a module or class."""
    for node in scope.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and target.id == variable:
                return node.value
    return None


def _unique(package: str, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, place in pairs:
        if name in found:
            raise ValueError(f"{name!r} stands twice in {package}: in {found[name]} and in {place}")
        found[name] = place
    return dict(sorted(found.items()))
