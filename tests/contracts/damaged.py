"""What somebody may do to a saved folder, for the contract of every family that saves."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest


def damaged_files_are_refused(load: Callable[[], object], folder: Path) -> None:
    """Damage a saved folder in a dozen ways: each time ``load`` says so by a ValueError that names it."""
    file, tensors = folder / "state.json", next(folder.glob("*.safetensors"))
    whole, weights = file.read_bytes(), tensors.read_bytes()
    head = json.loads(whole)
    outside = folder.parent / "outside.safetensors"
    outside.write_bytes(weights)
    for body in (
        b"", whole[: len(whole) // 2], b"[]", b"{}", b"null", b"\x80\x04K\x01.", b"\xff\xfe",
        json.dumps({k: v for k, v in head.items() if k != "sha256"}).encode(),
        json.dumps({**head, "tensors": "../outside.safetensors"}).encode(),
        json.dumps({**head, "tensors": str(outside)}).encode(),
    ):  # fmt: skip
        file.write_bytes(body)
        with pytest.raises(ValueError, match=re.escape(str(folder))):
            load()
    file.write_bytes(whole)
    for data in (b"", weights[:-1], weights[: len(weights) // 2], b"\x80\x04K\x01."):
        tensors.write_bytes(data)
        with pytest.raises(ValueError, match=re.escape(str(folder))):
            load()
    tensors.unlink()
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        load()
    file.unlink()
    with pytest.raises(FileNotFoundError, match="no saved state"):
        load()
