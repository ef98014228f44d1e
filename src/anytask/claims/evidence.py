"""Recorded outcomes of claims: ``evidence/<key>.json``."""

from __future__ import annotations

import importlib.metadata
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import anytask
from anytask.core.files import write_whole


def evidence_folder() -> Path:
    """The folder of recorded evidence: that of the source tree this package runs from, else ``./evidence``."""
    root = Path(anytask.__file__).resolve().parents[2]
    return root / "evidence" if (root / "pyproject.toml").is_file() else Path("evidence")


@lru_cache
def installed_evidence() -> Path | None:
    """The folder of the evidence that came with an installed package, or None: a source tree has it at its root."""
    try:
        files = importlib.metadata.files("anytask") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [file for file in files if file.parts[-4:-1] == ("share", "anytask", "evidence")]
    beside = Path(anytask.__file__).resolve().parents[1] / "share" / "anytask" / "evidence"  # pip install --target
    places = [*(Path(str(file.locate())).resolve().parent for file in found[:1]), beside]
    return next((place for place in places if place.is_dir()), None)


def read_evidence(key: str, folder: Path | None = None) -> dict[str, Any] | None:
    """Return the recorded evidence of a system, or None if there is none.

    Without a ``folder``, what ``anytask verify`` has recorded here comes first, then what came with the package.
    """
    folders = [folder] if folder is not None else [evidence_folder(), installed_evidence()]
    paths = [place / f"{key}.json" for place in folders if place is not None]
    path = next((path for path in paths if path.is_file()), None)
    return json.loads(path.read_text(encoding="utf-8")) if path is not None else None


def write_evidence(found: dict[str, Any], folder: Path | None = None) -> Path:
    """Write what :func:`anytask.claims.verify.verify` returned, replacing an earlier record in one step."""
    folder = folder or evidence_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found['system']}.json"
    write_whole(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return path
