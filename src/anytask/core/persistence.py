"""Save nested state as safetensors + JSON, and read it back. No pickle, and never half a folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import deque
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from anytask.core.files import as_path, write_whole

_TREE = "state.json"
#: What goes wrong where a saved tree that was read does not hold what its reader wants.
DAMAGED = (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError)


def save_tree(folder: str | os.PathLike[str], tree: Any) -> None:
    """Write ``tree`` into ``folder``, replacing what an earlier call left there.

    Parameters
    ----------
    folder : path
        Made if need be. The files are complete or absent: they are written beside it and moved in.
    tree : nested dict (string or integer keys), list, tuple, set, deque
        of numbers, strings, None, booleans, tensors (any device), arrays, and NumPy scalars.

    Raises
    ------
    TypeError
        If a value is of another kind; the message gives its place in the tree.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save_tree(folder, {"w": torch.ones(2), "names": ("a", "b")})
    ...     load_tree(folder)
    {'w': tensor([1., 1.]), 'names': ('a', 'b')}
    """
    tensors: dict[str, torch.Tensor] = {}
    encoded = _encode(tree, "", tensors)
    folder = as_path(folder, "folder")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot save to {folder}: it is a file, and a folder is wanted")
    folder.mkdir(parents=True, exist_ok=True)
    data = save(tensors)
    name = f"state-{_digest(data)}.safetensors"
    # The JSON is the commit: it names its tensor file, which is complete before the JSON is moved into place.
    write_whole(folder / name, data)
    body = json.dumps(encoded)
    write_whole(folder / _TREE, json.dumps({"tensors": name, "tree": encoded, "sha256": _digest(body.encode())}))
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def load_tree(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> Any:
    """Read what :func:`save_tree` wrote; tensors are placed on ``device``, arrays stay arrays.

    Raises
    ------
    FileNotFoundError
        If the folder holds no saved state; the message names the folder and what is missing.
    ValueError
        If a file is damaged.
    """
    folder = as_path(folder, "folder")
    if not (folder / _TREE).is_file():
        raise FileNotFoundError(f"no saved state in {folder}: {_TREE} is missing")
    try:
        head = json.loads((folder / _TREE).read_text(encoding="utf-8"))
        tree, name = head["tree"], head["tensors"]
        if not re.fullmatch(r"state-[0-9a-f]{16}\.safetensors", name):
            raise ValueError(f"{name!r} is no file that saving writes")
        data = (folder / name).read_bytes()
        if f"state-{_digest(data)}.safetensors" != name:
            raise ValueError(f"the checksum of {name} is wrong")
        if _digest(json.dumps(tree).encode()) != head["sha256"]:
            raise ValueError(f"the checksum of {_TREE} is wrong")
        return _decode(tree, load(data), torch.device(device))
    except Exception as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"the saved state in {folder} is damaged: {said}") from error


def _encode(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    if value is None or isinstance(value, (bool, str, int, float)):
        return value
    if isinstance(value, np.generic):
        if value.dtype.kind in "biufU":
            return {"$": "scalar", "dtype": value.dtype.str, "value": value.item()}
        raise TypeError(f"cannot save a {value.dtype} scalar at {place or 'the root'}")
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"$": "tensor", "name": name}
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "US":
            shape, values = list(value.shape), value.ravel().tolist()
            return {"$": "strings", "shape": shape, "dtype": value.dtype.str, "values": values}
        if value.dtype.kind == "O":
            raise TypeError(f"cannot save an array of objects at {place or 'the root'}")
        name = f"t{len(tensors)}"
        tensors[name] = torch.from_numpy(np.ascontiguousarray(value).copy())
        return {"$": "array", "name": name, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, dict):
        pairs = [[_encode(k, place, tensors), _encode(v, f"{place}/{k}", tensors)] for k, v in value.items()]
        return {"$": "dict", "items": pairs}
    for kind, cls in (("list", list), ("tuple", tuple), ("set", set), ("deque", deque)):
        if isinstance(value, cls):
            items = sorted(value) if kind == "set" else value
            maxlen = {"maxlen": value.maxlen} if isinstance(value, deque) else {}
            return {"$": kind, "items": [_encode(v, f"{place}/{i}", tensors) for i, v in enumerate(items)], **maxlen}
    raise TypeError(f"cannot save a {type(value).__name__} at {place or 'the root'}")


def _decode(value: Any, tensors: dict[str, torch.Tensor], device: torch.device) -> Any:
    if not isinstance(value, dict):
        return value
    kind = value["$"]
    if kind == "tensor":
        return tensors[value["name"]].to(device)
    if kind == "array":
        return tensors[value["name"]].numpy().astype(value["dtype"]).reshape(value["shape"])
    if kind == "strings":
        return np.array(value["values"], dtype=value["dtype"]).reshape(value["shape"])
    if kind == "scalar":
        return np.dtype(value["dtype"]).type(value["value"])
    if kind == "dict":
        return {_decode(k, tensors, device): _decode(v, tensors, device) for k, v in value["items"]}
    items = [_decode(v, tensors, device) for v in value["items"]]
    if kind == "deque":
        return deque(items, maxlen=value["maxlen"])
    return {"list": list, "tuple": tuple, "set": set}[kind](items)
