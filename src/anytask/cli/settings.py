"""What commands take alike: options by NAME=VALUE, and files that are to be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def chosen_options(named: dict[str, str | None], extra: list[str]) -> dict[str, Any]:
    """Merge the named options and the --set ones, whose values are JSON where they can be read so."""
    chosen: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    for item in extra:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes NAME=VALUE, got {item!r}")
        try:
            chosen[name.replace("-", "_")] = json.loads(text)
        except json.JSONDecodeError:
            chosen[name.replace("-", "_")] = text
    return chosen


def check_destinations(*paths: Path | None) -> None:
    """Refuse files that cannot be written."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise ValueError(f"{path} is a folder, and a file is wanted")
        if not path.resolve().parent.is_dir():
            raise ValueError(f"the folder {path.resolve().parent} does not exist")
