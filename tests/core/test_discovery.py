"""Nothing is registered by hand: files that are added are found, wherever names are read from files."""

import importlib
import pkgutil
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import anytask
from anytask.core import discovery

ROOT = Path(__file__).parents[2]
PACKAGES = [
    f"anytask.{module.name}"
    for module in pkgutil.iter_modules(anytask.__path__)
    if module.ispkg and discovery.published(f"anytask.{module.name}")
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_published_name_can_be_imported(package):
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in discovery.published(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_submodule_carries_the_name_of_a_published_object(package):
    """Importing such a submodule would put it in the object's place."""
    assert not {f"{package}.{name}" for name in discovery.published(package)} & set(discovery.modules(package))


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    """Return a function that writes a package ``anytask.zoo`` of modules with the given sources."""
    monkeypatch.setattr(anytask, "__path__", [*anytask.__path__, str(tmp_path)])

    def write(**sources):
        (tmp_path / "zoo").mkdir()
        for name, source in {"__init__": "", **sources}.items():
            (tmp_path / "zoo" / f"{name}.py").write_text(source)
        discovery.published.cache_clear()
        importlib.invalidate_caches()

    yield write
    discovery.published.cache_clear()


def test_a_name_that_two_modules_publish_is_an_error_that_names_both(zoo):
    zoo(otter="__all__ = ['Otter']", badger="__all__ = ['Otter']")
    with pytest.raises(ValueError, match=r"'Otter' stands twice in anytask\.zoo: in \S+badger and in \S+otter"):
        discovery.published("anytask.zoo")


def test_names_that_are_computed_are_an_error_that_names_file_and_line(zoo):
    zoo(otter="\n__all__ = sorted(globals())")
    with pytest.raises(ValueError, match=r"otter\.py, line 2: __all__ must be a literal"):
        discovery.published("anytask.zoo")


def test_a_module_that_cannot_be_imported_is_found_all_the_same(zoo):
    source = "__all__ = ['Otter']\nclass Otter:\n    key: str = 'otter'\n"
    zoo(otter=f"{source}raise RuntimeError('finding must not run this')")
    assert discovery.published("anytask.zoo") == {"Otter": "anytask.zoo.otter"}
    assert discovery.keyed("anytask.zoo", "key") == {"otter": "anytask.zoo.otter:Otter"}


NEW_SYSTEM = {
    "src/anytask/continual/otter.py": """
        from anytask.continual.baselines import FineTuning

        __all__ = ["Otter"]

        class Otter(FineTuning):
            '''Swims.'''
    """,
    "src/anytask/claims/continual/otter.py": """
        from types import SimpleNamespace as Claim

        CLAIM = Claim(system="otter")
    """,
    "src/anytask/problems/river.py": """
        from typing import ClassVar

        class River:
            key: ClassVar[str] = "river"
    """,
    "src/anytask/models/net.py": """
        from torch import nn

        from anytask.models.build import network

        @network
        def otter_net(input_shape, n_outputs):
            return nn.Sequential(nn.Flatten(), nn.LazyLinear(n_outputs))
    """,
    "tests/continual/test_otter.py": """
        CONTRACT = {"hidden": (3,), "Otter-wide": {"hidden": (5,)}}
        EXEMPT = {"test_of_what_it_does_not_promise": "it is an otter"}
    """,
}
ASKED = """
import dataclasses, sys
from anytask import catalogue, claims, continual, problems

card = dataclasses.replace(catalogue.get("tame"), key="otter", name="Otter", entry="anytask.continual:Otter")
assert catalogue.state(card) == "available"
assert "Otter" in dir(continual) and "otter" in claims.KEYS and "river" in problems.KEYS
assert not {"torch", "transformers"} & set(sys.modules)
assert catalogue.load(card) is continual.Otter
assert claims.get("otter").system == "otter"
assert type(problems.get("river")).__name__ == "River"

from anytask.models import build_backbone
assert len(build_backbone("otter_net", (1, 2, 2), 3, seed=0)) == 2

sys.path.insert(0, "tests/contracts")
from cases import cases
found = cases("continual", lambda cls: cls is continual.Otter, {"epochs": 1, "hidden": (8,)})
assert {name: case.params for name, case in found.items()} == {
    "Otter": {"epochs": 1, "hidden": (3,)}, "Otter-wide": {"epochs": 1, "hidden": (5,)},
}
assert all("test_of_what_it_does_not_promise" in case.exempt for case in found.values())
"""


def test_a_new_system_is_found_everywhere_with_no_table_edited(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    shutil.copytree(ROOT / "tests" / "contracts", tmp_path / "tests" / "contracts")
    for name, source in NEW_SYSTEM.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(source))
    command, env = [sys.executable, "-c", ASKED], {"PYTHONPATH": "src"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_stubs_say_what_a_package_publishes(tmp_path):
    package = tmp_path / "anytask" / "continual"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text("__getattr__, __dir__ = publish(__name__)\n")
    setup = ROOT / "setup.py"
    before = list(sys.path)
    runpy.run_path(str(setup))["write_stubs"](tmp_path)
    sys.path[:] = before
    assert "from anytask.continual.tame import TAME as TAME\n" in package.joinpath("__init__.pyi").read_text()
