"""What is saved is loaded with the same answers; a damaged folder is refused, or answers as it did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fingerprints import fingerprint
from hypothesis import strategies as st

from fuzz import world
from fuzz.calls import Call, Wrong
from fuzz.values import ODD, same, spoiled

SHARE = 14


def _savers() -> list[str]:
    return [
        name
        for name, cls in world.published().items()
        if isinstance(cls, type)
        and hasattr(cls, "save")
        and hasattr(cls, "load")
        and (one := world.reach(name))
        and not one.trouble
    ]


def run(call: Call) -> None:
    name = call.pick(_savers())
    one = world.reach(name)
    model, folder = one.ready(), call.folder / "model"
    call.doing(f"{name}.save()")
    with call.unchanged(model, also_after_success=True):
        call.must("saving", lambda: model.save(folder))
    again = world.parameters(one.cls.load)
    context = {"device": "cpu"} if "device" in again else {}
    made_of = getattr(one.make, "args", ())
    parts = made_of[1] if len(made_of) > 1 else {}  # what cannot be saved is passed again
    context |= {k: v for k, v in parts.items() if k in world.required(one.cls) and k in ("lm", "model")}

    def load() -> Any:
        return one.cls.load(folder, **context)

    first = _answers(model)
    call.doing(f"{name}.load()")
    loaded = call.must("loading", load)
    if not _alike(_answers(loaded), first):
        raise Wrong("a loaded model gives other answers")
    if call.chance(0.3):
        loaded.save(call.folder / "again")
        if not _alike(_answers(one.cls.load(call.folder / "again", **context)), first):
            raise Wrong("a model that was saved twice gives other answers")
        if one.verb == "partial_fit":
            _learns_on(call, one, model, loaded)
    whole = load()
    damage = _damage(call, folder)
    call.doing(f"{name}.load({damage})")
    with call.unchanged(loaded):
        found = load()
    signed = (folder / "state.json").exists() and "signed" not in damage  # by its checksum, and by nobody since
    if signed and fingerprint(found) != fingerprint(whole):  # who signs may change weights
        raise Wrong(f"{damage} was loaded, and is another model")


def _learns_on(call: Call, one: Any, model: Any, loaded: Any) -> None:
    for each in (model, loaded):
        getattr(each, one.verb)(**one.given)
    if not _alike(_answers(loaded), _answers(model)):
        raise Wrong("a loaded model learns on differently")


#: Methods whose answers are compared, with the arguments that they get.
ASKED = ("predict_proba", "predict", "act", "retrieve", "compress", "search", "transform", "table", "cost", "fill")


def _answers(model: Any) -> dict[str, Any]:
    """Return what a model answers to good questions; the same object gives the same answers."""
    found: dict[str, Any] = {}
    for method in ASKED:
        if not callable(getattr(model, method, None)):
            continue
        function = getattr(model, method)
        names = [*world.required(function), *(n for n in ("task", "vectors") if n in world.parameters(function))]
        for given in world.combinations(names):
            if hasattr(model, "reset"):
                model.reset()
            try:
                found[method] = function(**given)
            except Exception:
                continue
            break
    return found


def _alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a.keys() != b.keys():
        return False
    for method, answer in a.items():
        other = b[method]
        if not same(answer, other) and fingerprint(answer) != fingerprint(other):
            if not isinstance(answer, (np.ndarray, torch.Tensor)):
                return False
            if not np.allclose(np.asarray(answer), np.asarray(other), atol=1e-6):
                return False
    return True


def _damage(call: Call, folder: Path) -> str:
    """Do to a folder what disks, editors and other programs do, and say what."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = call.pick(files)
    data = path.read_bytes()
    name = path.suffix if path.name.startswith("state-") else path.name
    ways = ["cut", "byte", "byte", "byte", "empty", "gone", "folder", "longer", "other", "json", "json", "json"]
    way = call.pick(ways)
    if way == "json" and path.suffix != ".json":
        tree = [one for one in files if one.suffix == ".json"]
        if tree:
            path, name = tree[0], tree[0].name
            data = path.read_bytes()
    if way == "cut":
        path.write_bytes(data[: call.draw(st.integers(0, max(0, len(data) - 1)))])
    elif way == "byte" and data:
        place, bit = call.draw(st.integers(0, len(data) - 1)), call.draw(st.integers(0, 7))
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])
    elif way == "longer":
        path.write_bytes(data + call.draw(st.binary(min_size=1, max_size=20)))
    elif way == "gone":
        path.unlink()
    elif way == "folder":
        path.unlink()
        path.mkdir()
    elif way == "other":
        path.write_bytes(call.pick([b"null", b"[]", b"{}", b"\x80\x04K\x01.", b'{"tree": 1}', b"\xff\xfe", b"NaN"]))
    elif way == "json":
        way = _edited(call, path, folder)
    else:
        path.write_bytes(b"")
    return f"{name}: {way}"


def _edited(call: Call, path: Path, folder: Path) -> str:
    """Change one value of a saved tree; where it is signed, as somebody who signs it again."""
    from anytask.core.persistence import load_tree, save_tree

    try:
        tree = None if call.chance(0.3) else load_tree(folder)
    except (ValueError, OSError):
        tree = None
    if tree is None:  # by hand, in an editor
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            if call.chance(0.5):
                plain = _changed(call, plain)
            else:
                _change_a_leaf(call, plain)
            path.write_text(json.dumps(plain, default=str), encoding="utf-8")
        except ValueError:
            path.write_bytes(b"{")
        return "a value changed"
    for _ in range(5):
        try:
            changed = _changed(call, tree)
            shutil.rmtree(folder)
            save_tree(folder, changed)
            return "a value changed and signed"
        except (TypeError, ValueError, OverflowError, UnicodeError, RuntimeError):
            save_tree(folder, tree)
    (folder / "state.json").write_bytes(b"{}")
    return "emptied"


def _change_a_leaf(call: Call, tree: Any) -> None:
    """Spoil one number or text, each as probable as any other, however deep it is."""

    def leaves(node: Any) -> Iterator[tuple[Any, Any]]:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, (dict, list)):
                yield from leaves(value)
            else:
                yield node, key

    if found := list(leaves(tree)) if isinstance(tree, (dict, list)) else []:
        node, key = found[int(call.rng.integers(len(found)))]
        node[key] = spoiled(call, node[key])


def _changed(call: Call, tree: Any) -> Any:
    """Return a tree with one entry dropped, renamed or spoiled, at any depth."""
    if isinstance(tree, dict) and tree:
        key = call.pick(tree)
        inner = tree[key]
        rest = {k: v for k, v in tree.items() if k != key}
        if isinstance(inner, (dict, list)) and inner and call.chance(0.8):
            return {**tree, key: _changed(call, inner)}
        how = call.pick(["drop", "rename", "spoil", "odd"])
        if how == "drop":
            return rest
        if how == "rename":
            return {**rest, f"{key}x": inner}
        return {**tree, key: spoiled(call, inner) if how == "spoil" else call.draw(ODD)}
    if isinstance(tree, list) and tree:
        i = call.draw(st.integers(0, len(tree) - 1))
        return [*tree[:i], _changed(call, tree[i]), *tree[i + 1 :]]
    return spoiled(call, tree)
