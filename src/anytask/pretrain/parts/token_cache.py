"""Token vectors on disk, read from there while they are scored."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anytask.core.files import as_path, write_whole
from anytask.pretrain.parts.bags import Bags

_TOKENS, _LENGTHS, _TOLD = "tokens.f32", "lengths.npy", "cache.json"


def kept(folder: str | os.PathLike[str], key: str, make: Callable[[], Iterable[list[Tensor]]]) -> Bags:
    """Return bags that a folder keeps under a key, or make them and keep them there.

    Parameters
    ----------
    folder : path
        Made if need be; what it keeps under another key is replaced.
    key : str
        Hash of all that the bags follow from.
    make : callable
        Returns lists of tokens (t, d), which are written as they come.

    Returns
    -------
    Bags
        Of which the tokens are mapped from their file: memory holds what is looked at.

    Raises
    ------
    ValueError
        If a file of the folder is damaged.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     bags = kept(folder, "k", lambda: [[torch.ones(2, 3)], [torch.zeros(1, 3)]])
    ...     again = kept(folder, "k", lambda: 1 / 0)
    ...     again.lengths.tolist(), again.tokens.shape
    ([2, 1], torch.Size([3, 3]))
    """
    path = as_path(folder, "cache")
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"cannot keep tokens in {path}: it is a file, and a folder is wanted")
    path.mkdir(parents=True, exist_ok=True)
    told = path / _TOLD
    if not told.is_file() or json.loads(told.read_text(encoding="utf-8")).get("key") != key:
        told.unlink(missing_ok=True)
        _write(path, key, make())
    return _mapped(path)


def _write(path: Path, key: str, parts: Iterable[list[Tensor]]) -> None:
    lengths, width, unfinished = [], 0, path / f"{_TOKENS}.part"
    with open(unfinished, "wb") as file:
        for bag in (bag for part in parts for bag in part):
            lengths.append(len(bag))
            width = bag.shape[1]
            file.write(np.ascontiguousarray(bag.numpy(), dtype="<f4").data)
    unfinished.replace(path / _TOKENS)
    np.save(path / _LENGTHS, np.array(lengths, dtype=np.int64))
    write_whole(path / _TOLD, json.dumps({"key": key, "width": width}))  # last: it says that all is there


def _mapped(path: Path) -> Bags:
    width = int(json.loads((path / _TOLD).read_text(encoding="utf-8"))["width"])
    lengths = np.load(path / _LENGTHS, allow_pickle=False)
    total, found = int(lengths.sum()), (path / _TOKENS).stat().st_size
    if found != 4 * total * width:
        raise ValueError(f"{path / _TOKENS} has {found} bytes, and {4 * total * width} are expected: delete {path}")
    # Copy-on-write, as torch warns of arrays that cannot be written to; nobody writes.
    tokens = np.memmap(path / _TOKENS, dtype="<f4", mode="c", shape=(total, width))
    return Bags(torch.from_numpy(tokens), torch.from_numpy(lengths))
