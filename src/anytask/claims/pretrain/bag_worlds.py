"""Bags that a seed draws anew: of a generated world, and of digits in several renderings among scrambled ones."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import real, whole
from anytask.datasets.bags import LabelledBags, stained_bags
from anytask.datasets.labelled import load_labelled
from anytask.pretrain import MADELEINE, PretrainedEncoder
from anytask.pretrain.parts.bags import Bags
from anytask.problems.base import Entrant, Outcome
from anytask.problems.frozen_features import FrozenFeatures
from anytask.problems.frozen_features.bags import BagFeaturesData
from anytask.problems.frozen_features.data import FrozenFeaturesOptions

#: Pools of digits, of which none is both learned from and tested on.
_POOLS = 7


class DrawnBagsOptions(FrozenFeaturesOptions):
    """How many cases there are, and how many of their tokens tell."""

    cases: int = whole(700, "cases, of which some are tested on")
    telling: float = real(0.4, "share of the tokens that tell of the case", above=0, at_most=1)
    loud: float = real(0.0, "deviation of further noise on the others", at_least=0)
    mark: float = real(0.0, "how far the telling ones are shifted", at_least=0)


class DrawnBags(FrozenFeatures):
    """Learn from bags in several views, of a generated world that each seed draws anew."""

    key = "drawn-bags"
    options_class = DrawnBagsOptions

    def drawn(self, options: Any, seed: int) -> LabelledBags:
        """Return the bags of a seed."""
        shape = {name: getattr(options, name) for name in ("telling", "loud", "mark")}
        return stained_bags(options.cases, seed, **shape)

    def load(self, source: Any, **options: Any) -> BagFeaturesData:
        """Return those of seed 0 with checked options; ``source`` is a name for the report."""
        checked = self.check_options(options)
        return BagFeaturesData(replace(self.drawn(checked, 0), name=source), checked)  # type: ignore[arg-type]

    def train(self, entrant: Entrant, data: Any, seed: int, progress: Progress) -> Any:
        """Fit an encoder to the seed's training cases."""
        return super().train(entrant, replace(data, source=self.drawn(data.options, seed)), seed, progress)

    def test(self, entrant: Entrant, trained: Any, data: Any, seed: int, progress: Progress) -> Outcome:
        """Probe the features of the seed's test cases."""
        return super().test(entrant, trained, replace(data, source=self.drawn(data.options, seed)), seed, progress)


class DigitBagsOptions(FrozenFeaturesOptions):
    """How many cases there are, of how many patches, and how many of these show the digit."""

    cases: int = whole(700, "cases, of which some are tested on")
    patches: int = whole(9, "patches of a bag")
    telling: int = whole(2, "patches that show a digit of the case's class")
    per_class: int = whole(70, "digits of each class that are read", at_least=_POOLS)
    size: int = whole(112, "edge to which a patch is enlarged for the encoder")


class DigitBags(DrawnBags):
    """Learn from bags of patches, of which few show a digit of the case, in three renderings.

    The patches of one canvas and rendering are a bag: a few digits of the case's class, and scrambled digits. Each view
    has canvases of its own, so that views agree on the class and on no image. Cases are drawn from pools of digits, and
    no pool is both learned from and tested on.
    """

    key = "digit-bags"
    options_class = DigitBagsOptions  # type: ignore[assignment]

    def drawn(self, options: Any, seed: int) -> LabelledBags:
        """Return the bags of a seed."""
        digits, scrambled, y = patch_features(options.per_class, options.size)
        rng = np.random.default_rng(derive(seed, "digit bags"))
        classes, pools = rng.integers(10, size=options.cases), rng.integers(_POOLS, size=options.cases)
        place = np.arange(len(y)) % _POOLS  # which pool a digit is in
        views: dict[str, list[np.ndarray | None]] = {name: [] for name in digits}
        anchor = next(iter(views))
        for c, pool in zip(classes, pools):
            shown = iter(rng.permutation(np.flatnonzero((y == c) & (place == pool))))
            for name, bags in views.items():  # no digit is in two views
                mine = [next(shown) for _ in range(options.telling)]
                rest = rng.choice(np.flatnonzero(place == pool), options.patches - options.telling)
                there = name == anchor or rng.random() < 0.7
                bags.append(np.concatenate([digits[name][mine], scrambled[name][rest]]) if there else None)
        return LabelledBags("digit-bags", views, classes, pools)


@lru_cache(maxsize=2)
def patch_features(per_class: int, size: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Return EfficientNet-lite0's features of digits and of scrambled digits by rendering (n, 1280), and labels (n,).

    ``n`` is ten times ``per_class``, digit by digit of all classes in turn.
    """
    plain = load_labelled("mnist-5k")
    rows = np.concatenate([np.flatnonzero(plain.y == c)[:per_class] for c in range(10)])
    images = torch.from_numpy(np.asarray(plain.X[rows], dtype=np.float32))  # (n, 1, 28, 28)
    rng = np.random.default_rng(0)
    tiles = images.unfold(2, 7, 7).unfold(3, 7, 7).reshape(len(images), 16, 7, 7)
    mixed = torch.stack([one[torch.from_numpy(rng.permutation(16))] for one in tiles])
    mixed = mixed.reshape(-1, 4, 4, 7, 7).transpose(2, 3).reshape(-1, 1, 28, 28)
    encoder = PretrainedEncoder(size=size).fit(rendered(images[:1], "ink"))
    found = [
        {name: np.asarray(encoder.transform(rendered(part, name))) for name in RENDERINGS} for part in (images, mixed)
    ]
    return found[0], found[1], plain.y[rows]


#: Paper and ink of each rendering, as RGB.
RENDERINGS = {
    "ink": ((1, 1, 1), (0, 0, 0)),
    "rose": ((1, 0.9, 0.9), (0.5, 0, 0.4)),
    "night": ((0, 0, 0.2), (1, 1, 0.6)),
}


def rendered(images: torch.Tensor, name: str) -> torch.Tensor:
    """Return images (n, 1, h, w) in the colors of a rendering, (n, 3, h, w)."""
    paper, ink = (torch.tensor(color, dtype=torch.float32)[None, :, None, None] for color in RENDERINGS[name])
    return paper + images * (ink - paper)


class Misaligned(MADELEINE):
    """MADELEINE on views whose cases are shuffled, each view's apart."""

    def _train(self, data: dict[str, Bags], progress: Progress) -> None:
        anchor, *others = data
        shuffled = {name: _shuffled(data[name]) for name in others}
        super()._train({anchor: data[anchor], **shuffled}, progress)


def _shuffled(bags: Bags) -> Bags:
    each = bags.tokens.split(bags.lengths.tolist())
    return Bags.of([each[row] for row in torch.randperm(len(bags)).tolist()])
