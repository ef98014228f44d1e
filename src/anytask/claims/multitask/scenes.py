"""Scenes of one to three digits on a texture: find the digits, name the texture, say them, and find what was said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import minmax_scale
from torch.nn import functional as F

from anytask.core.rng import derive
from anytask.core.settings import real, whole
from anytask.datasets.labelled import load_labelled
from anytask.multitask.uni_perceiver_v2.proposals import components, matched, prepare
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.options import Options
from anytask.problems.training import Builtin, LoadedData, TrainingProblem

_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEXTURES = ("rows", "columns", "diagonals")


class SceneOptions(Options):
    """How many scenes there are, and what they are like."""

    trained: int = whole(600, "training scenes")
    tested: int = whole(200, "test scenes")
    classes: int = whole(10, "how many of the ten digits there are", at_least=2, at_most=10)
    rare: float = real(0.25, "how often captions are drawn to be written, and to be found", above=0, below=0.5)
    side: int = whole(32, "pixels of a side of a scene", at_least=16)
    contrast: float = real(0.25, "brightness of the texture, where digits have up to 1", at_least=0, at_most=1)


@dataclass(frozen=True)
class Shown:
    """Scenes (n, 1, side, side) with their textures, and the boxes, names and captions of the digits in each."""

    images: np.ndarray
    textures: list[str]
    boxes: list[np.ndarray]
    names: list[list[str]]

    @property
    def captions(self) -> list[str]:
        """The digits of each from left to right."""
        return [" ".join(names) for names in self.names]

    def tasks(self, rare: float) -> dict[str, dict[str, Any]]:
        """Return the four tasks, as Uni-Perceiver v2 takes them, with how often each is drawn."""
        images, said = {"images": self.images, "ratio": 0.5 - rare}, {"images": self.images, "ratio": rare}
        return {
            "texture": {"kind": "classification", **images, "labels": self.textures},
            "digits": {"kind": "detection", **images, "boxes": self.boxes, "labels": self.names},
            "caption": {"kind": "caption", **said, "texts": self.captions},
            "retrieval": {"kind": "retrieval", **said, "texts": self.captions},
        }


@dataclass(frozen=True)
class SceneData(LoadedData):
    """Scenes that a seed draws; no digit is shown in training and in the test."""

    def instance(self, seed: int) -> tuple[Shown, Shown]:
        """Return the scenes to train on and to test on."""
        o, rng = self.options, np.random.default_rng(derive(seed, "scenes"))
        digits, labels = _digits(self.source.name, 5 * o.side // 16)
        order = rng.permutation(np.flatnonzero(labels < o.classes))
        pools = np.split(order, [2 * len(order) // 3])
        drawn = [
            [_scene(digits, labels, pool, o, rng) for _ in range(n)] for pool, n in zip(pools, (o.trained, o.tested))
        ]
        shown = [tuple(zip(*part)) for part in drawn]
        return tuple(Shown(np.stack(X)[:, None], *map(list, rest)) for X, *rest in shown)  # type: ignore[return-value]


class Scenes(TrainingProblem):
    """Learn four tasks on scenes with one to three digits on one of three textures."""

    key = "scenes"
    title = "Scenes of digits"
    metrics = (
        Metric("mean", "Mean of the four tasks"),
        Metric("detection", "Digits found and named (F1)"),
        Metric("texture", "Textures named"),
        Metric("caption", "Captions right in every word"),
        Metric("retrieval", "Captions found first"),
    )
    needs = ("fit(tasks)",)
    options_class = SceneOptions

    def load(self, source: Any, **options: Any) -> SceneData:
        """Return scenes of the images of a labelled data set, with checked options."""
        return SceneData(Builtin(source), self.check_options(options))

    def baselines(self, data: Any) -> tuple[Entrant, ...]:
        """Return none."""
        return ()

    def train(self, entrant: Entrant, data: SceneData, seed: int, progress: Callable[[float], object]) -> Any:
        """Fit a model to the training scenes."""
        shown = data.instance(seed)[0]
        return entrant.make("small", seed=seed).fit(shown.tasks(data.options.rare), progress=progress)

    def test(
        self, entrant: Entrant, trained: Any, data: SceneData, seed: int, progress: Callable[[float], object]
    ) -> Outcome:
        """Ask the model for the four tasks' answers on the test scenes; what it cannot do counts 0."""
        shown = data.instance(seed)[1]
        captions = np.array(shown.captions)
        found: dict[str, Any] = {
            "texture": trained.classify(shown.images, _TEXTURES) == np.array(shown.textures),
            "caption": np.array(trained.caption(shown.images)) == captions,
            "retrieval": captions[trained.retrieve(shown.images, captions)[:, 0]] == captions,
        }
        sees = getattr(getattr(trained, "image", None), "proposals", 1)
        found["detection"] = _f1(trained.detect(shown.images, _NAMES[: data.options.classes]), shown) if sees else 0.0
        progress(1.0)
        metrics = {name: float(np.mean(value)) for name, value in found.items()}
        return Outcome({"mean": float(np.mean(list(metrics.values()))), **metrics})


class LinearModels:
    """The plain reference: logistic regression on pixels for the texture and for each proposal, the rest by rule.

    A caption is the names of the proposals from left to right, and the caption that is found first is the one that
    shares most of its words with it.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, tasks: Mapping[str, Mapping[str, Any]], progress: Any = None) -> LinearModels:
        """Fit both."""
        task = tasks["digits"]
        X, truth = _crops(task["images"])
        rows = [(crop, names[place]) for crops, found, boxes, names in zip(X, truth, task["boxes"], task["labels"])
                for crop, place in zip(crops, matched(found, boxes)) if place >= 0]  # fmt: skip
        self.digits_ = LogisticRegression(max_iter=200).fit(*map(np.array, zip(*rows)))
        images = tasks["texture"]["images"]
        self.texture_ = LogisticRegression(max_iter=200).fit(
            images.reshape(len(images), -1), tasks["texture"]["labels"]
        )
        return self

    def classify(self, images: np.ndarray, candidates: Any) -> np.ndarray:
        """Name the textures."""
        return self.texture_.predict(images.reshape(len(images), -1))

    def detect(self, images: np.ndarray, class_names: Any) -> list[dict[str, Any]]:
        """Name the proposals."""
        named = [
            (boxes.numpy(), self.digits_.predict(crops) if len(crops) else np.array([]))
            for crops, boxes in zip(*_crops(images))
        ]
        return [{"boxes": boxes, "labels": labels} for boxes, labels in named]

    def caption(self, images: np.ndarray) -> list[str]:
        """Say the names from left to right."""
        return [" ".join(one["labels"][one["boxes"][:, 0].argsort()]) for one in self.detect(images, _NAMES)]

    def retrieve(self, images: np.ndarray, captions: Any) -> np.ndarray:
        """Put captions first that share most words in their places."""
        said = [one.split() for one in self.caption(images)]
        listed = [str(one).split() for one in captions]
        S = [[sum(map(str.__eq__, a, b)) - abs(len(a) - len(b)) for b in listed] for a in said]
        return np.argsort(-np.array(S), axis=1, kind="stable")


def _crops(images: np.ndarray) -> tuple[list[np.ndarray], list[torch.Tensor]]:
    X = torch.from_numpy(images)
    found = components(X)
    scenes = [prepare(x[None], [one], len(one.boxes), 16, 1).crops[0] for x, one in zip(X, found)]
    return [crops.flatten(1).numpy() for crops in scenes], [one.boxes for one in found]


def _f1(answers: list[dict[str, Any]], shown: Shown) -> float:
    right = 0
    for answer, boxes, names in zip(answers, shown.boxes, shown.names):
        places = matched(torch.as_tensor(answer["boxes"], dtype=torch.float32), boxes)
        right += sum(place >= 0 and names[place] == label for place, label in zip(places, answer["labels"]))
    return 2 * right / max(1, sum(len(answer["boxes"]) for answer in answers) + sum(map(len, shown.boxes)))


def _scene(digits: Any, labels: Any, pool: Any, o: SceneOptions, rng: Any) -> tuple[Any, ...]:
    side, size = o.side, digits.shape[1]
    y, x = np.mgrid[:side, :side]
    texture, period, offset = rng.integers(3), side // 8, rng.integers(side)
    waves = (y, x, x + y)[texture]
    image = o.contrast * ((waves + offset) % period < period / 2).astype(np.float32)
    boxes, names = [], []
    for column in np.sort(rng.choice(3, rng.integers(1, 4), replace=False)):
        row = rng.choice(pool)
        left = column * side // 3 + rng.integers(side // 3 - size + 1)
        top, digit = rng.integers(side - size + 1), digits[row]
        part = image[top : top + size, left : left + size]
        np.maximum(part, digit, out=part)
        ys, xs = np.nonzero(digit > 0.5)
        boxes.append((left + xs.min(), top + ys.min(), left + xs.max() + 1, top + ys.max() + 1))
        names.append(_NAMES[labels[row]])
    return image, _TEXTURES[texture], np.array(boxes, np.float32) / side, names


@lru_cache(maxsize=2)
def _digits(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return digits (n, size, size) in [0, 1] and labels (n,)."""
    plain = load_labelled(name)
    images = torch.as_tensor(np.asarray(plain.X[np.arange(len(plain.y))], dtype=np.float32))
    sized = F.interpolate(images, (size, size), mode="bilinear", antialias=True).flatten(1).numpy()
    return minmax_scale(sized, axis=1).reshape(-1, size, size), np.asarray(plain.y).astype(int)
