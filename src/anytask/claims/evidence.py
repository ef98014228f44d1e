"""Recorded outcomes of claims: ``evidence/<key>.json``."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import anytask


def evidence_folder() -> Path:
    """The folder of recorded evidence: that of the source tree this package runs from, else ``./evidence``."""
    root = Path(anytask.__file__).resolve().parents[2]
    return root / "evidence" if (root / "pyproject.toml").is_file() else Path("evidence")


def read_evidence(key: str, folder: Path | None = None) -> dict[str, Any] | None:
    """Return the recorded evidence of a system, or None if there is none."""
    path = (folder or evidence_folder()) / f"{key}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_evidence(found: dict[str, Any], folder: Path | None = None) -> Path:
    """Write what :func:`anytask.claims.verify.verify` returned, replacing an earlier record in one step."""
    folder = folder or evidence_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found['system']}.json"
    handle, scratch = tempfile.mkstemp(dir=folder, prefix=f".{found['system']}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1, ensure_ascii=False)
            file.write("\n")
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    return path
