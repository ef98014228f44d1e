"""Say in stubs, for editors and type checkers, which names a package publishes; pyproject.toml says the rest."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).parent / "src"


def write_stubs(source: Path = SOURCE) -> None:
    """Write ``__init__.pyi`` beside every ``__init__.py`` that gives its names on demand."""
    sys.path.insert(0, str(source))
    from anytask.core.discovery import published

    for file in source.rglob("__init__.py"):
        if "= publish(__name__)" in file.read_text(encoding="utf-8"):
            names = published(".".join(file.parent.relative_to(source).parts))
            lines = [f"from {module} import {name} as {name}" for name, module in names.items()]
            text = "\n".join(["from typing import Any", *lines, "def __getattr__(name: str) -> Any: ...", ""])
            file.with_suffix(".pyi").write_text(text, encoding="utf-8")


class Build(build_py):
    """Copy the package, stubs included; an editable installation keeps them in the source."""

    def run(self) -> None:
        write_stubs()
        super().run()


if __name__ == "__main__":
    setup(cmdclass={"build_py": Build})
