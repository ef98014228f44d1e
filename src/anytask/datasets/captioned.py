"""Images with captions and the concepts they are of: a world with wrong pairs, and folders of a user."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.checks import check_inputs, check_labels
from anytask.core.errors import BadData, shown
from anytask.core.rng import derive
from anytask.datasets.images import SUFFIXES, checked_images, parse_size
from anytask.datasets.labelled import load_labelled
from anytask.datasets.tables import read_frame

#: The files of a folder: which text and concept an image has, and what is said of a concept.
CAPTIONS, PROMPTS = "captions.csv", "prompts.csv"
#: Words of the digits where a real model reads them, five for each.
DIGIT_WORDS = (
    ("zero", "none", "nil", "nought", "empty"), ("one", "single", "first", "alone", "unit"),
    ("two", "pair", "second", "double", "twice"), ("three", "triple", "third", "trio", "thrice"),
    ("four", "fourth", "quarter", "square", "quartet"), ("five", "fifth", "hand", "quintet", "pentagon"),
    ("six", "sixth", "hexagon", "sextet", "dice"), ("seven", "seventh", "week", "heptagon", "days"),
    ("eight", "eighth", "octopus", "octagon", "spider"), ("nine", "ninth", "cat lives", "nonet", "planets"),
)  # fmt: skip


@dataclass(frozen=True)
class Captioned:
    """Images, what is said of them, and what they are of.

    Attributes
    ----------
    name : str
    images : array of shape (n, ...)
    captions : list of n str
    concepts : array of shape (n,)
    prompts : dict of concept to list of str
    """

    name: str
    images: Any
    captions: list[str]
    concepts: np.ndarray
    prompts: dict[Any, list[str]]
    notes: tuple[str, ...] = ()
    digest: bytes = b""

    @property
    def fingerprint(self) -> str:
        """Hash of all of the content."""
        content = hashlib.sha256(self.digest or np.ascontiguousarray(self.images, np.float32).tobytes())
        content.update(repr((self.captions, self.concepts.tolist(), self.prompts)).encode())
        return content.hexdigest()[:32]


def captioned_digits(
    source: str, seed: int, *, n: int = 300, wrong: float = 0.35, noise_words: int = 400
) -> tuple[Captioned, np.ndarray, np.ndarray]:
    """Return images of digits with captions, of which some are of another digit, and clean images to test on.

    A caption has 2 of the 5 words of its digit and 3 words that say nothing. A wrong pair has the caption, and the
    concept, of a digit that was drawn at random. Prompts are all words of a digit.

    Parameters
    ----------
    source : str
        "digits" (64 pixels, made-up words), or labelled images of digits, for which the words are English.
    seed : int
    n : int
        Images to learn from; 800 others at most are to test on.
    wrong : float in [0, 1]
        Share of the pairs whose caption is of a random digit.

    Examples
    --------
    >>> world, X, y = captioned_digits("digits", 0, n=50)
    >>> world.images.shape, world.captions[0], X.shape
    ((50, 64), 'd6w3 n222 d6w4 n225 n320', (800, 64))
    """
    X, labels = _images(source)
    rng = np.random.default_rng(derive(seed, "captioned", source))
    order = rng.permutation(len(labels))
    rows, test = order[:n], order[n : n + 800]
    real = source != "digits"
    said = DIGIT_WORDS if real else tuple(tuple(f"d{d}w{w}" for w in range(5)) for d in range(10))
    concepts = np.where(rng.random(n) < wrong, rng.integers(10, size=n), labels[rows])
    captions = []
    for concept in concepts:
        own = rng.choice(5, size=2, replace=False)
        words = [said[concept][w] for w in own] + [f"n{rng.integers(noise_words)}" for _ in range(3)]
        captions.append(" ".join(words[place] for place in rng.permutation(5)))
    prompts = {digit: [" ".join(said[digit])] for digit in range(10)}
    return Captioned(source, X[rows], captions, concepts, prompts), X[test], labels[test]


@lru_cache(maxsize=2)
def _images(source: str) -> tuple[np.ndarray, np.ndarray]:
    found = load_labelled(source)
    return np.asarray(found.X[np.arange(len(found.y))], dtype=np.float32), found.y.astype(int)


def load_captioned(source: Any, image_size: Any = None) -> Captioned:
    """Return a user's images with captions, concepts and prompts.

    Parameters
    ----------
    source : path or tuple
        A folder with ``captions.csv`` (columns ``file``, ``text`` and ``concept``) and ``prompts.csv`` (``concept`` and
        ``text``, a row for each prompt); or (images, captions, concepts, prompts).
    image_size : int, str or pair, optional
        Size to which images are resized.

    Raises
    ------
    BadData
        One line that names the file and the row.
    """
    if isinstance(source, tuple):
        return _given(*source) if len(source) == 4 else _wrong(f"a tuple of {len(source)}")
    if not isinstance(source, (str, Path)):
        return _wrong(shown(source))
    path = Path(source).expanduser()
    if not (path / CAPTIONS).is_file() or not (path / PROMPTS).is_file():
        raise BadData(f"{path}: wanted is a folder with {CAPTIONS} and {PROMPTS}")
    files, texts, concepts = _columns(path / CAPTIONS, ("file", "text", "concept"))
    labels, said = _columns(path / PROMPTS, ("concept", "text"))
    images = [path / name.strip() for name in files]
    for row, file in enumerate(images):
        if file.suffix.lower() not in SUFFIXES or not file.is_file() or path.resolve() not in file.resolve().parents:
            raise BadData(f"{path / CAPTIONS}, row {row}: no such image in the folder: {file.name}")
    distinct = list(dict.fromkeys(images))
    pixels, digest, notes = checked_images(distinct, parse_size(image_size))
    where = {file: row for row, file in enumerate(distinct)}
    prompts: dict[Any, list[str]] = {}
    for label, text in zip(labels, said):
        prompts.setdefault(label, []).append(text)
    X = np.asarray(pixels[np.array([where[file] for file in images])], dtype=np.float32)
    return _checked(Captioned(path.name, X, texts, np.array(concepts), prompts, tuple(notes), digest))


def _wrong(given: str) -> Any:
    raise BadData(f"captioned images are a folder, or (images, captions, concepts, prompts), got {given}")


def _given(images: Any, captions: Sequence[str], concepts: Any, prompts: Mapping[Any, Any]) -> Captioned:
    try:
        X, labels = check_inputs(images, "images").numpy(), check_labels(concepts, "concepts")
    except (TypeError, ValueError) as error:
        raise BadData(str(error)) from error
    if isinstance(captions, str) or not isinstance(captions, Collection):
        raise BadData(f"captions must be a list of texts, got {shown(captions)}")
    if not isinstance(prompts, Mapping):
        raise BadData(f"prompts must say for each concept what is said of it, got {shown(prompts)}")
    if not len(X) == len(captions) == len(labels):
        raise BadData(f"there are {len(X)} images, {len(captions)} captions and {len(labels)} concepts")
    if bad := [text for text in captions if not isinstance(text, str) or not text.strip()]:
        raise BadData(f"captions must be texts, got {shown(bad[0])}")
    listed = {label: [said] if isinstance(said, str) else said for label, said in prompts.items()}
    for label, said in listed.items():
        if not isinstance(said, Collection) or not said or any(not isinstance(x, str) or not x.strip() for x in said):
            raise BadData(f"concept {label!r} must have a text, or a list of texts, as its prompts, got {shown(said)}")
    listed = {label: list(said) for label, said in listed.items()}
    return _checked(Captioned("captioned", X, list(captions), labels, listed))


def _checked(data: Captioned) -> Captioned:
    if unsaid := sorted(set(data.concepts.tolist()) - set(data.prompts)):
        raise BadData(f"{data.name}: concept {unsaid[0]!r} has no prompt")
    if len(data.prompts) < 2:
        raise BadData(f"{data.name}: prompts of 2 concepts at least are wanted")
    return data


def _columns(file: Path, names: Sequence[str]) -> list[list[str]]:
    frame, locate = read_frame(file)
    if missing := [name for name in names if name not in frame]:
        raise BadData(f"{file}: no column {missing[0]!r}; wanted are {', '.join(names)}")
    found = []
    for name in names:
        values = list(frame[name])
        for row, value in enumerate(values):
            if not isinstance(value, str) or not value.strip():
                raise BadData(f"{file}, {locate(row)}: column {name!r} must hold a text, got {shown(value)}")
        found.append(values)
    return found
