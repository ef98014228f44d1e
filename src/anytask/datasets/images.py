"""Folders of images, decoded when their rows are asked for, with one scaling per kind of pixel."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from anytask.core.errors import BadData, shown
from anytask.core.files import require_regular
from anytask.core.memory import require_room
from anytask.datasets.archives import opened_image
from anytask.datasets.labels import as_labels, as_matrix, from_texts
from anytask.datasets.rows import Parts
from anytask.datasets.tables import read_frame

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
#: The file of a folder that gives each image several labels.
LABEL_FILE = "labels.csv"
_ORIENTATION = 0x0112
#: What is black and white by kind of pixel: 8, 16 and 32 bits, floats. The last two are widened to what a folder holds.
RANGES = {"8": (0.0, 255.0), "16": (0.0, 65535.0), "32": (0.0, 65535.0), "float": (0.0, 1.0)}


@dataclass(frozen=True)
class ImageFiles:
    """Images that stay in their files; ``images[indices]`` decodes those alone, as float32 in [0, 1].

    Images are turned upright as EXIF says and laid on white where they are transparent; grey ones are repeated in
    three channels where ``color``. ``ranges`` are the (black, white) of 32-bit and of float pixels.
    """

    paths: tuple[str, ...]
    size: tuple[int, int]  # height, width
    color: bool
    resize: bool = False
    ranges: tuple[tuple[float, float], tuple[float, float]] = (RANGES["32"], RANGES["float"])

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, channels, height, width)."""
        return (len(self.paths), 3 if self.color else 1, *self.size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = np.atleast_1d(np.arange(len(self.paths))[index])
        rows = np.empty((len(chosen), *self.shape[1:]), dtype=np.float32)
        for i, which in enumerate(chosen):
            rows[i] = self._decode(self.paths[which])
        return rows if np.ndim(np.arange(len(self.paths))[index]) else rows[0]

    def _decode(self, path: str) -> np.ndarray:  # -> (channels, height, width)
        with opened_image(path, path) as file:
            image = _upright(file)
        depth = _depth(image)
        if depth == "8":
            image = image.convert("RGB" if self.color else "L")
        else:  # Pillow clips deep pixels when it converts them to 8 bits
            image = Image.fromarray(np.asarray(image, dtype=np.float32))
        if self.resize:
            image = image.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR)
        low, high = (RANGES | {"32": self.ranges[0], "float": self.ranges[1]})[depth]
        values = (np.asarray(image, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
        if values.ndim == 3:
            return values.transpose(2, 0, 1)
        return np.broadcast_to(values, (3 if self.color else 1, *values.shape))


def read_image(path: str | Path) -> np.ndarray:
    """Return the pixels of an image file in its own size, of shape (3, height, width), float32 in [0, 1]."""
    return np.ascontiguousarray(ImageFiles((str(path),), (0, 0), color=True)._decode(str(path)))


def read_folder(path: Path, image_size: int | str | Sequence[int] | None) -> Parts:
    """Return the images of a folder of class folders, or of task folders that hold such, all of them checked once."""
    size = parse_size(image_size)
    top = _subfolders(path)
    if not top:
        raise BadData(f"{path}: a folder of images has one subfolder per class, and here is no subfolder")
    two_levels = not any(map(image_files, top)) and any(map(_subfolders, top))
    pairs = [(task, label) for task in top for label in _subfolders(task)] if two_levels else [(f, f) for f in top]
    found: list[tuple[Path, str, str]] = []  # file, class and task
    for domain, label in pairs:
        files = image_files(label)
        if not files:
            raise BadData(f"{label}: no image in this class folder (wanted: {', '.join(SUFFIXES)})")
        found += [(file, label.name, domain.name) for file in files]
    paths, y, tasks = zip(*found)
    images, digest, said = checked_images(paths, size)
    notes = []
    left_out = sum(1 for file in path.rglob("*") if file.is_file() and not _hidden(file)) - len(paths)
    if left_out:
        notes.append(f"{left_out} files in the folder are not images in a class folder and were left out.")
    task = np.array(tasks) if two_levels else None
    return Parts(images, np.array(y), task, None, "images", "class folders", said + notes, digest=digest)


def read_listed(path: Path, image_size: int | str | Sequence[int] | None) -> Parts:
    """Return the images of a folder that its :data:`LABEL_FILE` names, with the labels that it gives each.

    The file has a column ``file``, a path in the folder, and one of zeros and ones for each label.
    """
    table = path / LABEL_FILE
    frame, locate = read_frame(table)
    if "file" not in frame or len(frame.columns) < 3 or not len(frame):
        raise BadData(f"{table}: wanted are a column 'file' and a column of zeros and ones for each of several labels")
    files = [path / str(name).strip() for name in frame.pop("file")]
    for row, file in enumerate(files):
        if file.suffix.lower() not in SUFFIXES or not file.is_file() or path.resolve() not in file.resolve().parents:
            raise BadData(f"{table}, {locate(row)}: no such image in the folder: {file.name}")
    names = [str(name) for name in frame.columns]
    columns = [as_labels(from_texts(frame[name].to_numpy(object)), str(table), name, locate) for name in names]
    Y = as_matrix(columns, names, str(table), locate)
    images, digest, notes = checked_images(files, parse_size(image_size))
    return Parts(images, Y, None, None, "images", LABEL_FILE, notes, digest=digest, label_names=np.array(names))


def checked_images(paths: Sequence[Path], size: tuple[int, int] | None) -> tuple[ImageFiles, bytes, list[str]]:
    """Look at all images once; return them with the hash of their content, and what was done to them."""
    seen = _Survey()
    for file in paths:
        seen.add(file)
        if size is None and seen.sizes[-1] != seen.sizes[0]:
            (h, w), (h0, w0) = seen.sizes[-1], seen.sizes[0]
            unlike = f"{h}x{w}, and {paths[0]} is {h0}x{w0}"
            raise BadData(f"{file}: the image is {unlike}: make them equal, or give image_size=HEIGHTxWIDTH")
    ranges = (seen.ranges["32"], seen.ranges["float"])
    color = bool(seen.counts["color"])
    images = ImageFiles(tuple(map(str, paths)), size or seen.sizes[0], color, size is not None, ranges)
    notes = [f"Images were resized to {size[0]}x{size[1]}."] if size else []
    digest = hashlib.sha256(seen.content.digest() + repr((images.shape, ranges)).encode()).digest()
    return images, digest, notes + seen.notes()


def image_files(path: Path) -> list[Path]:
    """Return the images of a folder in the order of their names.

    Raises
    ------
    BadData
        If something that is no regular file, such as a named pipe, has the name of an image.
    """
    found = sorted(c for c in path.iterdir() if c.suffix.lower() in SUFFIXES and not _hidden(c) and not c.is_dir())
    for file in found:
        require_regular(file)
    return found


def parse_size(size: int | str | Sequence[int] | None) -> tuple[int, int] | None:
    """Return (height, width) of a number, "HEIGHTxWIDTH" or a pair."""
    if size is None:
        return None
    parts: Any = size if isinstance(size, (list, tuple)) else [size]
    if isinstance(size, str):
        parts = re.split(r"[x,]", size)
    try:
        numbers = [int(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers, default=0) < 1:
        raise BadData(f"image_size must be a number or HEIGHTxWIDTH, such as 32 or 32x48, got {shown(size)}")
    return numbers[0], numbers[-1]


class _Survey:
    """What is in the files of a folder: sizes, kinds of pixels and their values, and what is done to them."""

    def __init__(self) -> None:
        self.content = hashlib.sha256()
        self.sizes: list[tuple[int, int]] = []
        self.counts: Counter[str] = Counter()
        self.ranges = dict(RANGES)

    def add(self, file: Path) -> None:
        require_room(file, require_regular(file))
        self.content.update(hashlib.sha256(file.read_bytes()).digest())
        with opened_image(file, file) as opened:
            opened.load()
            facts = {
                "turned": opened.getexif().get(_ORIENTATION, 1) not in (0, 1),
                "transparent": opened.has_transparency_data
                and opened.convert("RGBA").getchannel("A").histogram()[255] < opened.width * opened.height,
                "frames": getattr(opened, "n_frames", 1) > 1,
                "color": not (opened.mode in ("1", "L", "LA", "La", "F") or opened.mode.startswith("I")),
            }
            image = _upright(opened)
        self.sizes.append((image.height, image.width))
        depth = _depth(image)
        self.counts.update([depth, *(name for name, yes in facts.items() if yes)])
        if depth in ("32", "float"):
            pixels = np.asarray(image)
            if not np.isfinite(pixels).all():
                raise BadData(f"{file}: the image holds values that are NaN or infinite")
            low, high = self.ranges[depth]
            self.ranges[depth] = (min(low, float(pixels.min())), max(high, float(pixels.max())))

    def notes(self) -> list[str]:
        said = {
            "turned": "were turned upright as their EXIF orientation says",
            "transparent": "have transparent pixels and were laid on white",
            "frames": "have several frames, of which the first was read",
        }
        out = [f"{self.counts[name]} images {what}." for name, what in said.items() if self.counts[name]]
        names = {"8": "8-bit", "16": "16-bit", "32": "32-bit", "float": "float"}
        if any(self.counts[depth] for depth in ("16", "32", "float")):
            seen = {names[d]: span for d, span in self.ranges.items() if self.counts[d]}
            listed = (f"{name} from {low:g} to {high:g}" for name, (low, high) in seen.items())
            out.append(f"Pixel values were scaled to [0, 1] by kind: {', '.join(listed)}.")
        if 0 < self.counts["color"] < len(self.sizes):
            out.append(f"{len(self.sizes) - self.counts['color']} grey images were given three equal channels.")
        return out


def _upright(image: Image.Image) -> Image.Image:
    """Return the image as it is to be seen: turned as EXIF says, on white where it is transparent."""
    image.load()
    turned = ImageOps.exif_transpose(image) or image
    if not turned.has_transparency_data:
        return turned
    layers = turned.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return flat.convert("L" if turned.mode in ("LA", "La", "L") else "RGB")


def _depth(image: Image.Image) -> str:
    if image.mode.startswith("I;16"):
        return "16"
    return {"I": "32", "F": "float"}.get(image.mode, "8")


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__"))


def _subfolders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not _hidden(child))
