"""What Uni-Perceiver v2 learns from: tasks of five kinds as mappings, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anytask.core.checks import as_array, check_inputs, check_labels, check_numbers, check_same_length
from anytask.core.errors import check_each, check_word, shown
from anytask.core.settings import check_number

#: What the tasks of each kind have to hold.
KINDS: dict[str, tuple[str, ...]] = {
    "classification": ("images", "labels"), "detection": ("images", "boxes", "labels"), "caption": ("images", "texts"),
    "retrieval": ("images", "texts"), "language": ("texts",),
}  # fmt: skip
#: The class of proposals that show nothing; the words that begin and end a caption, and stand for unknown ones.
BACKGROUND, START, END, UNKNOWN = "background", "[start]", "[end]", "[unknown]"


@dataclass(frozen=True)
class Task:
    """One task, checked.

    Attributes
    ----------
    name, kind : str
    images : Tensor of shape (n, channels, height, width), or None
        In [0, 1].
    texts : list of str
        A text of each image; of ``classification`` its label.
    boxes, labels : list of n arrays (k, 4), and of n lists of k str
        The objects of each image.
    ratio : float or None
        How often it is drawn.
    omega, weight : float
        Its say in balanced steps, and what its loss is multiplied by.
    """

    name: str
    kind: str
    images: Tensor | None
    texts: list[str] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    labels: list[list[str]] = field(default_factory=list)
    ratio: float | None = None
    omega: float = 1.0
    weight: float = 1.0

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.labels or self.texts)

    @property
    def classes(self) -> list[str]:
        """The class names of its labels, sorted; :data:`BACKGROUND` last where proposals may show nothing."""
        if self.kind == "detection":
            return [*sorted({label for labels in self.labels for label in labels}), BACKGROUND]
        return sorted(set(self.texts))


def words(text: str) -> list[str]:
    """Return the words and marks of a text, in lower case.

    Examples
    --------
    >>> words("Three, seven: it's one")
    ['three', ',', 'seven', ':', "it's", 'one']
    """
    return [text] if text in (START, END, UNKNOWN) else re.findall(r"[\w']+|[^\w\s]", text.lower())


def vocabulary_of(tasks: Sequence[Task]) -> tuple[list[str], list[str], int]:
    """Return the words of all texts, those of captions, and how many the longest caption has."""
    texts = chain.from_iterable((*task.texts, *chain(*task.labels), BACKGROUND) for task in tasks)
    written = [words(text) for task in tasks if task.kind in ("caption", "language") for text in task.texts]
    every, of_captions = chain((START, END, UNKNOWN), *map(words, texts)), chain((END,), *written)
    return list(dict.fromkeys(every)), list(dict.fromkeys(of_captions)), max(map(len, written), default=0)


def read_tasks(tasks: Any) -> list[Task]:
    """Return checked tasks, or say which task is wrong, and where."""
    if not isinstance(tasks, Mapping) or not tasks:
        raise TypeError(f"tasks must be a mapping of names to tasks, got {shown(tasks)}")
    if len({str(name) for name in tasks}) < len(tasks):
        raise ValueError(f"two tasks have the same name: {shown(list(tasks))}")
    seen: dict[int, Tensor] = {}  # tasks on the same images are given one tensor
    read = [_read(str(name), task, seen) for name, task in tasks.items()]
    if len({task.ratio is None for task in read}) > 1:
        raise ValueError("give the ratio of every task, or of none")
    if len({task.images.shape[1] for task in read if task.images is not None}) > 1:
        raise ValueError("the images of all tasks must have as many channels")
    return read


def read_images(images: Any, where: str = "images") -> Tensor:
    """Return images as a tensor (n, channels, height, width) in [0, 1], or say what is wrong with them.

    Examples
    --------
    >>> read_images(np.full((2, 8, 8), 255, np.uint8)).shape
    torch.Size([2, 1, 8, 8])
    """
    given = check_numbers(images, where)
    whole = not given.is_floating_point() and given.dtype != torch.bool
    pixels = check_inputs(given, where) / (255 if whole else 1)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4:
        raise ValueError(f"{where} must have shape (n, channels, height, width), got {tuple(given.shape)}")
    if pixels.shape[1] > 4 and pixels.shape[-1] <= 4:
        raise ValueError(f"{where} of shape {tuple(given.shape)} have their channels last: bring them to the front")
    if pixels.min() < 0 or pixels.max() > 1:
        found = f"{given.min().item():g} to {given.max().item():g}"
        raise ValueError(f"{where} must hold numbers in [0, 1], or integers from 0 to 255; they go from {found}")
    return pixels


def read_texts(texts: Any, where: str) -> list[str]:
    """Return a list of strings with a word in each, or say which one is none."""
    found = [str(text) for text in check_each(texts, str, where)]
    if not found:
        raise ValueError(f"{where} is empty: give one text at least")
    if bare := [place for place, text in enumerate(found) if not words(text)]:
        raise ValueError(f"{where}[{bare[0]}] has no word: {shown(found[bare[0]])}")
    return found


def _read(name: str, task: Any, seen: dict[int, Tensor]) -> Task:
    where = f"task {name!r}"
    if not isinstance(task, Mapping) or "kind" not in task:
        raise TypeError(f"{where} must be a mapping with a kind, {', '.join(KINDS)}, and its data, got {shown(task)}")
    kind = check_word(task["kind"], KINDS, f"the kind of {where}")
    wanted = KINDS[kind]
    if missing := [key for key in wanted if key not in task]:
        raise ValueError(f"{where} is {kind}, and lacks {', '.join(missing)}")
    if more := sorted(set(map(str, task)) - {*wanted, "kind", "ratio", "omega", "weight"}):
        raise ValueError(f"{where} is {kind}, and takes no {more[0]!r}: it takes {', '.join(wanted)}")
    images = None
    if "images" in wanted:
        images = seen.setdefault(id(task["images"]), read_images(task["images"], f"images of {where}"))
    if kind == "detection":
        boxes, labels = _objects(task["boxes"], task["labels"], where)
        data: dict[str, Any] = {"boxes": boxes, "labels": labels}
    else:
        key = "labels" if kind == "classification" else "texts"
        given = check_labels(task[key], f"{key} of {where}").astype(str) if key == "labels" else task[key]
        data = {"texts": read_texts(given, f"{key} of {where}")}
    if kind in ("classification", "retrieval") and len(set(data["texts"])) < 2:
        raise ValueError(f"{key} of {where} are of one class only: {data['texts'][0]!r}")
    if images is not None:
        check_same_length(images, [*data.values()][-1], f"images of {where}", "texts or labels")
    numbers: dict[str, Any] = {key: task[key] for key in ("ratio", "omega", "weight") if task.get(key) is not None}
    for key, value in numbers.items():
        check_number(value, f"{key} of {where}", above=0)
    return Task(name, kind, images, **data, **numbers)


def _objects(boxes: Any, labels: Any, where: str) -> tuple[list[np.ndarray], list[list[str]]]:
    boxes, labels = (check_each(x, object, f"{what} of {where}") for x, what in ((boxes, "boxes"), (labels, "labels")))
    check_same_length(boxes, labels, f"boxes of {where}", "labels")
    read, named = [], []
    for row, (own, names) in enumerate(zip(boxes, labels)):
        array, place = as_array(own, f"boxes[{row}] of {where}"), f"labels[{row}] of {where}"
        array = array if array.size else np.zeros((0, 4))
        named.append(read_texts(names, place) if check_each(names, str, place) else [])
        fits = array.dtype.kind in "iuf" and array.ndim == 2 and array.shape[1] == 4
        if not fits or not ((array >= 0) & (array <= 1)).all() or not (array[:, :2] < array[:, 2:]).all():
            raise ValueError(f"boxes[{row}] of {where} must be (left, top, right, bottom) in [0, 1], got {shown(own)}")
        if len(array) != len(named[-1]):
            raise ValueError(f"image {row} of {where} has {len(array)} boxes and {len(named[-1])} labels")
        read.append(array.astype(np.float32))
    if not any(named):
        raise ValueError(f"{where} has no box in any image")
    if any(BACKGROUND in names for names in named):
        raise ValueError(f"{BACKGROUND!r} is the name of proposals that show nothing: name that class of {where} anew")
    return read, named
