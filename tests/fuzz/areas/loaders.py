"""Readers of users' files: whole files give what was written, damaged ones are refused or give finite numbers."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from PIL import Image

from anytask.core import discovery
from fuzz import world
from fuzz.calls import Call, Wrong
from fuzz.values import ODD, numbers_in, same, shown, spoiled

SHARE = 26

CELLS = [
    "", " ", "NA", "nan", "inf", "-inf", "1e400", "1,5", "1.234,5", '"', '""', "'", "x" * 5000, "\x00", "\x1b[31m",
    "\n", "٣", "−1", "1_000", "0x10", "True", "2020-01-01", "1e-320", "9" * 30, "=1+1", ";", ",", "\t", "\ud800",
    "a\rb", "50%", "$3", "null", "-", "1 000", "\ufeff", "#",
]  # fmt: skip


@functools.cache
def loaders() -> dict[str, Callable[..., Any]]:
    """Return the public functions of ``anytask.datasets`` that read what their first parameter names."""
    found = {}
    for module in discovery.modules("anytask.datasets"):
        for name, function in inspect.getmembers(importlib.import_module(module), inspect.isfunction):
            if function.__module__ == module and name.startswith("load_"):
                found[name] = function
    return found


# -- whole files: each writer returns the path and what a reader finds in it -------------------------------


def _table(call: Call) -> pd.DataFrame:
    x, y = world.rows(int(call.rng.integers(6, 24)), 2, 2, seed=int(call.rng.integers(99)))
    frame = pd.DataFrame({"size": np.round(x[:, 0].astype(float), 3), "width": np.round(x[:, 1].astype(float), 3)})
    if call.chance(0.5):
        frame["color"] = np.array(["red", "blue"])[np.arange(len(y)) // 2 % 2]
    frame["label"] = np.array(["no", "yes"])[y] if call.chance(0.5) else y
    return frame


def csv(call: Call) -> tuple[Path, Any]:
    frame, path = _table(call), call.folder / "mine.csv"
    separator = call.pick([",", ";", "\t"])
    text = frame.to_csv(index=False, sep=separator, quoting=call.pick([0, 2]), lineterminator=call.pick(["\n", "\r\n"]))
    path.write_bytes(text.encode(call.pick(["utf-8", "utf-8-sig"])))
    return path, frame


def parquet(call: Call) -> tuple[Path, Any]:
    frame, path = _table(call), call.folder / "mine.parquet"
    frame.to_parquet(path, index=False)
    return path, frame


def npz(call: Call) -> tuple[Path, Any]:
    x, y = (world.images if call.chance(0.3) else world.rows)(12, 2)
    x = x.astype(call.pick([np.float32, np.float64, ">f4"]))
    path = call.folder / "mine.npz"
    (np.savez if call.chance(0.5) else np.savez_compressed)(path, X=x, y=y)
    return path, {"X": x, "y": y}


def npy(call: Call) -> tuple[Path, Any]:
    x, y = world.rows(12, 2)
    np.save(call.folder / "X.npy", x)
    np.save(call.folder / "y.npy", y)
    return call.folder / "X.npy", {"X": x, "y": y}


def images(call: Call) -> tuple[Path, Any]:
    folder = call.folder / "images"
    suffix, mode = call.pick([".png", ".bmp", ".tif"]), call.pick(["L", "RGB"])
    pixels = call.rng.integers(0, 256, (6, 5, 4, *([3] if mode == "RGB" else [])), dtype=np.uint8)
    for i, image in enumerate(pixels):
        place = folder / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image, mode).save(place / f"{i}{suffix}")
    order = [0, 2, 4, 1, 3, 5]
    x = pixels[order] / 255
    return folder, {"X": x[:, None] if mode == "L" else np.moveaxis(x, -1, 1), "y": np.array(["a"] * 3 + ["b"] * 3)}


def _texts(call: Call) -> list[dict[str, Any]]:
    texts, labels = world.texts(int(call.rng.integers(6, 20)))
    return [{"text": text, "label": label} for text, label in zip(texts, labels)]


def jsonl(call: Call) -> tuple[Path, Any]:
    rows, path = _texts(call), call.folder / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=call.chance(0.5)) for row in rows) + "\n", encoding="utf-8")
    return path, rows


def text_csv(call: Call) -> tuple[Path, Any]:
    rows, path = _texts(call), call.folder / "texts.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path, rows


def plain_text(call: Call) -> tuple[Path, Any]:
    path = call.folder / "texts.txt"
    path.write_text("\n".join(row["text"] for row in _texts(call)), encoding="utf-8")
    return path, None


def questions(call: Call) -> tuple[Path, Any]:
    path = call.folder / "questions.jsonl"
    rows = [{"text": f"a is {i} and b is {i + 1}", "question": "what is a?", "answer": str(i)} for i in range(6)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path, None


def vectors(call: Call) -> tuple[Path, Any]:
    rows, y = world.rows(12, 2)
    path = call.folder / "vectors.jsonl"
    path.write_text("\n".join(json.dumps({"vector": r.tolist(), "label": int(k)}) for r, k in zip(rows, y)), "utf-8")
    return path, None


def episodes(call: Call) -> tuple[Path, Any]:
    from anytask.datasets.episode_files import save_episodes

    kind = call.pick(["npz", "robomimic", "minari"])
    path = call.folder / {"npz": "mine.npz", "robomimic": "mine.hdf5", "minari": "minari"}[kind]
    truth = world.VALUES["episodes"][0]()
    save_episodes(path, truth, kind)
    return path, truth


WRITERS = (csv, parquet, npz, npy, images, jsonl, text_csv, plain_text, questions, vectors, episodes)


@functools.cache
def _kinds(loader: str) -> list[Callable[..., Any]]:
    """Return the writers whose files a reader reads."""
    import tempfile

    class Plain:
        draw = staticmethod(lambda strategy: 0)
        chance = staticmethod(lambda share: False)
        pick = staticmethod(lambda options: next(iter(options)))

        def __init__(self, folder: str) -> None:
            self.folder, self.rng = Path(folder), np.random.default_rng(0)

    found = []
    for writer in WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                loaders()[loader](writer(Plain(folder))[0])
            except Exception:
                continue
            found.append(writer)
    return found


# -- damage --------------------------------------------------------------------------------------------------------


def _damaged(call: Call, path: Path) -> str:
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    file = call.pick(files)
    way = call.pick([*["cells"] * 5, "bytes", "cut", "empty", "gone", "twice", "other", "link", "renamed"])
    data = file.read_bytes()
    if way == "cells":
        return _cells(call, file, data)
    if way == "bytes":
        changed = bytearray(data)
        for _ in range(call.draw(st.integers(1, 8))):
            if changed:
                changed[call.draw(st.integers(0, len(changed) - 1))] = call.draw(st.integers(0, 255))
        file.write_bytes(bytes(changed))
    elif way == "cut":
        file.write_bytes(data[: call.draw(st.integers(0, max(0, len(data) - 1)))])
    elif way == "empty":
        file.write_bytes(b"")
    elif way == "gone":
        file.unlink()
    elif way == "twice":
        file.write_bytes(data + data)
    elif way == "link":
        file.unlink()
        file.symlink_to(call.pick([file.name, "/dev/null", "nowhere", "."]))
    elif way == "renamed":
        file.rename(file.with_suffix(call.pick([".csv", ".npz", ".png", ".jsonl", ".txt", ".parquet", ".hdf5", ""])))
    else:
        other = [b"\x80\x04K\x01.", b"PK\x05\x06" + 18 * b"\0", b"\x93NUMPY", b"{}", b"[]", b"\xff\xfe\x00"]
        file.write_bytes(call.pick(other))
    return way


def _cells(call: Call, file: Path, data: bytes) -> str:
    """Change single values, as a person with an editor does."""
    if file.suffix == ".npz":
        try:
            arrays = dict(np.load(file))
            key = call.pick(arrays)
            changed = spoiled(call, arrays[key])
            arrays[key] = np.asarray(changed if not isinstance(changed, (set, dict)) else 0)
            np.savez(file, **arrays)
        except (ValueError, TypeError, AttributeError, OverflowError):
            file.write_bytes(data[:-1])
        return "an array changed"
    if file.suffix == ".parquet":
        frame = pd.read_parquet(file)
        column = call.pick(frame.columns)
        try:
            frame[column] = spoiled(call, frame[column].to_numpy())
            frame.to_parquet(file)
        except Exception:
            frame.drop(columns=column).to_parquet(file)
        return f"column {column} changed"
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in data.decode("utf-8").splitlines() if line]
        i = call.draw(st.integers(0, len(rows) - 1))
        rows[i] = spoiled(call, rows[i]) if call.chance(0.7) else call.draw(ODD)
        try:
            file.write_text("\n".join(json.dumps(row, default=str) for row in rows), encoding="utf-8")
        except (UnicodeError, ValueError, TypeError):
            file.write_text("\n".join(map(repr, rows)), encoding="utf-8", errors="replace")
        return "a row changed"
    if file.suffix in (".csv", ".txt"):
        text = data.decode("utf-8")
        separator = next((s for s in ("\t", ";", ",") if s in text), " ")
        lines = [line.split(separator) for line in text.splitlines()]
        for _ in range(call.draw(st.integers(1, 3))):
            line = lines[call.draw(st.integers(0, len(lines) - 1))]
            if line:
                line[call.draw(st.integers(0, len(line) - 1))] = call.pick(CELLS)
            if call.chance(0.2):
                line.append("1")
        file.write_bytes("\n".join(map(separator.join, lines)).encode("utf-8", "surrogatepass"))
        return "cells changed"
    file.write_bytes(data[:-1])
    return "cut by one byte"


# -- the area ------------------------------------------------------------------------------------------------------


def run(call: Call) -> None:
    loader = call.target(loaders())
    read = loaders()[loader]
    writer = call.pick(_kinds(loader)) if call.chance(0.9) and _kinds(loader) else call.pick(WRITERS)
    path, truth = writer(call)
    damage = _damaged(call, path) if call.chance(0.55) else ""
    options = {}
    for name, parameter in list(world.parameters(read).items())[1:]:
        if call.chance(0.06) and parameter.kind is not parameter.VAR_KEYWORD:
            options[name] = call.draw(ODD) if call.chance(0.5) else call.pick(_words(truth))
    source: Any = path if call.chance(0.5) else str(path)
    if call.chance(0.05):
        source = call.draw(ODD)
        damage = "odd source"
    words = [writer.__name__, *([damage] if damage else []), *(f"{k}={shown(v)}" for k, v in options.items())]
    call.doing(f"{loader}({', '.join(words)})")
    if damage or options or writer not in _kinds(loader):
        found = read(source, **options)
    else:
        found = call.must(f"a whole file of {writer.__name__}", lambda: read(source))
        _as_written(found, truth)
        _permuted(call, read, writer, path, found, truth)
    if options.get("missing") != "native":
        _sound(found)


def _words(truth: Any) -> list[Any]:
    names = list(truth) if isinstance(truth, (dict, pd.DataFrame)) else ["text", "label"]
    return [
        *names,
        "",
        "no such",
        3,
        "impute",
        "native",
        "refuse",
        ",",
        ".",
        ["size"],
        "size,label",
        True,
        "8x8",
        (2, 3),
    ]


def _sound(found: Any) -> None:
    """What was read is finite, and of one length."""
    rows = {}
    for name, value in getattr(found, "__dict__", {}).items():
        if name in ("X", "vectors", "texts", "labels", "y", "task", "group"):
            if value is None:
                continue
            rows[name] = len(value)
            dense = value[np.arange(len(value))] if name in ("X", "vectors") else value
            for place, numbers in numbers_in(dense, name):
                if not np.isfinite(numbers).all():
                    raise Wrong(f"{place} holds {numbers[~np.isfinite(numbers)].flat[0]}")
    if len(set(rows.values())) > 1:
        raise Wrong(f"lengths differ: {rows}")
    if isinstance(found, list | tuple):
        for place, numbers in numbers_in(found):
            if not np.isfinite(numbers).all():
                raise Wrong(f"{place} is not finite")


def _as_written(found: Any, truth: Any) -> None:
    if isinstance(truth, pd.DataFrame):
        if not hasattr(found, "y"):
            return
        if list(map(str, found.y)) != list(map(str, truth["label"])):
            raise Wrong("the labels are not those of the file")
        X, names = np.asarray(found.X[np.arange(len(truth))]), list(found.feature_names)
        for column in ("size", "width"):
            if not np.allclose(X[:, names.index(column)], truth[column], atol=1e-5):
                raise Wrong(f"the column {column} is not that of the file")
    elif isinstance(truth, dict) and hasattr(found, "y"):
        X = np.asarray(found.X[np.arange(len(truth["y"]))])
        if not same(np.asarray(found.y).astype(str), np.asarray(truth["y"]).astype(str)):
            raise Wrong("the labels are not those of the file")
        if X.shape != truth["X"].shape or not np.allclose(X, truth["X"], atol=1e-5):
            raise Wrong("the inputs are not those of the file")
    elif isinstance(truth, list) and hasattr(found, "texts") and hasattr(found, "labels"):
        if list(found.texts) != [row["text"] for row in truth] or list(found.labels) != [row["label"] for row in truth]:
            raise Wrong("texts or labels are not those of the file")
    elif truth is not None and hasattr(truth, "actions") and type(found) is type(truth):
        pairs = [(name, getattr(found, name), getattr(truth, name)) for name in ("actions", "rewards", "lengths")]
        pairs += [(key, found.observations[key][:], seen[:]) for key, seen in truth.observations.items()]
        for name, a, b in pairs:
            if not np.allclose(np.asarray(a), np.asarray(b), atol=1e-6):
                raise Wrong(f"{name} are not those of the file")


def _permuted(call: Call, read: Any, writer: Any, path: Path, found: Any, truth: Any) -> None:
    if writer is not parquet or not hasattr(found, "y"):
        return
    order = call.rng.permutation(len(truth))
    truth.iloc[order].to_parquet(path, index=False)
    again = call.must("permuted rows", lambda: read(path))
    for name in ("X", "y"):
        a, b = (np.asarray(getattr(one, name)[np.arange(len(order))]) for one in (again, found))
        if not same(a, b[order]):
            raise Wrong(f"permuted rows give another {name}")
