"""UniQA: images scored by a dual encoder that reads texts on quality and on beauty (Zhou et al., 2024).

Phase 1 makes texts: scores become five levels, a chat model that sees images writes captions of their level, and
people's comments are cleaned by these captions (:func:`quality_levels`, :func:`describe_images`, :func:`purify`).
Phase 2, :meth:`UniQA.fit`, trains two towers by symmetric InfoNCE, and draws one of an image's captions at each visit.
Phase 3, :meth:`UniQA.fit_scores`, freezes them. With h the vector of an image and t_gl that of a prompt,

    h' = h + ReLU(W_2 ReLU(W_1 h)),    p_gl = softmax_l(cos(h', t_gl) / temperature),    score = mean_g sum_l c_l p_gl,

where l runs over the five levels of group g of prompts; W_1, W_2 and c, which begins as (.2, .4, .6, .8, 1), are
learned by the squared error. Without them, and with c as it begins, the score is zero-shot.

Departures from the paper
-------------------------
* Random crops and flips of labelled images are encoded once, ``views`` of each, and one is drawn at each visit: the
  encoder is frozen, and this saves its passes.
* Weight decay is that of AdamW. Published values are the preset ``paper``, on a CLIP with a vision transformer, since
  transformers has none with a ResNet.
* Crops of test images lie at the same relative places of all of them, so that a score does not depend on what else is
  scored. Images smaller than a crop are enlarged, which the released code refuses.
* The scales of relevance and informativeness (each from 0 to 1 within an image) and K = 4 are from memory.
* What is between the ends of the prompt groups is written by us; the paper's abstract and code name the ends.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import check_same_length, require_finite
from anytask.core.progress import Progress
from anytask.core.rng import derive, isolated
from anytask.core.settings import Settings, flag, free, group, of_kind, real, whole
from anytask.core.training import train
from anytask.parts.residual_adapter import ResidualAdapter
from anytask.pretrain.pair_baselines import DualEncoder, TemperedSides, pooled
from anytask.pretrain.parts.clip_towers import clip_sides
from anytask.pretrain.parts.crops import CENTER, FIVE, Crops, check_images, read_crops
from anytask.pretrain.parts.items import Items, Pairs, read_items
from anytask.pretrain.uniqa.texts import LEVELS, describe_images, normalized, purify, quality_levels

__all__ = ["UniQA", "describe_images", "purify", "quality_levels"]


def _ends(worst: str, poor: str, fair: str, good: str, best: str) -> tuple[str, ...]:
    return tuple(f"{look} image" for look in (worst, poor, fair, good, best))


_LEVEL_GROUP = _ends(*LEVELS)
_ENSEMBLE = (
    _LEVEL_GROUP,
    _ends("extremely blurry", "blurry", "slightly blurry", "sharp", "extremely sharp"),
    _ends("extremely noisy", "noisy", "slightly noisy", "noise-free", "extremely noise-free"),
    _ends("extremely low-quality", "low-quality", "medium-quality", "high-quality", "extremely high-quality"),
)
#: Groups of five prompts, worst first, by name.
PROMPTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "levels": (_LEVEL_GROUP,),
    "quality": (tuple(f"{level} quality image" for level in LEVELS),),
    "aesthetics": (tuple(f"{level} aesthetics image" for level in LEVELS),),
    "ensemble": _ENSEMBLE,
    "generated": (*_ENSEMBLE, tuple(f"{level} content" for level in LEVELS)),
}


def _check_prompts(value: Any) -> None:
    if isinstance(value, str) and value in PROMPTS:
        return
    groups = isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value)
    if not groups or any(
        not isinstance(g, Sequence)
        or isinstance(g, (str, bytes))
        or len(g) != 5
        or not all(isinstance(t, str) and t.strip() for t in g)
        for g in value
    ):
        raise ValueError(f"prompts must be one of {', '.join(PROMPTS)}, or groups of five texts, got {value!r:.80}")


class AdapterSettings(Settings):
    """How a few scores are learned.

    Parameters
    ----------
    reduction : int
        How many times narrower than a feature the bottleneck is.
    rectified : bool
        Whether the adapter ends with a ReLU, and so can only add.
    lr, epochs, batch_size
        Of Adam, whose rate falls as a cosine.
    views : int
        Random crops of each labelled image, where the model crops or flips.
    flip : bool
        Whether half of the views are mirrored.
    """

    reduction: int = whole(2, "how many times narrower the bottleneck is")
    rectified: bool = flag(True, "whether the adapter ends with a ReLU")
    lr: float = real(2e-4, "learning rate of Adam", above=0)
    epochs: int = whole(50, "passes over the scored images", at_least=0)
    batch_size: int = whole(8, "scored images in a step")
    views: int = whole(10, "random crops of each scored image")
    flip: bool = flag(True, "whether half of the views are mirrored")


class UniQA(DualEncoder):
    """Scores of images by prompts: zero-shot, or with an adapter that a few scores train.

    Pick it where images have few scores and there are texts on how good other ones look; with a CLIP model by name it
    scores without any training (``epochs=0``).

    Parameters
    ----------
    clip : str or path, optional
        A ``CLIPModel`` of transformers by name or folder, for both sides; else ``left_encoder`` and ``right_encoder``.
    crop : int, optional
        Side of the crops that are seen of an image; images may then have any size. None: whole images of one size.
    test_crops : int or "five", default 10
        Crops over which a score is averaged: so many at random places that the seed draws, or center and corners.
    prompts : str or sequence of sequences of five str, default "levels"
        "levels", "quality", "aesthetics", "ensemble", "generated", or groups of five texts, the worst first.
    adapter : AdapterSettings
        How :meth:`fit_scores` learns.
    left_encoder, right_encoder, width, hidden, max_tokens, targets, temperature
        See :class:`~anytask.pretrain.pair_baselines.DualEncoder`; images are left, captions right. ``targets="all"``
        helps where captions are few and come again, as those made of levels do.
    lr, weight_decay, warmup, epochs, batch_size, precision, seed, device
        See :class:`~anytask.pretrain.parts.pairs.PairEncoder`; an epoch visits each image once.

    Attributes
    ----------
    adapter_ : Adapter
        What :meth:`fit_scores` learned: W_1, W_2 and c.

    Examples
    --------
    Bright images are good:

    >>> rng = np.random.default_rng(0)
    >>> light = rng.random(200)
    >>> X = (0.8 * light[:, None, None, None] + 0.2 * rng.random((200, 1, 8, 8))).astype(np.float32)
    >>> captions = [[f"{level} image", f"an image that looks {level}"] for level in quality_levels(light)]
    >>> model = UniQA.from_preset("small", epochs=20).fit(X, captions)
    >>> bool(np.corrcoef(model.predict(X), light)[0, 1] > 0.8)
    True
    >>> marks = model.fit_scores(X[:20], 10 * light[:20], score_range=(0, 10)).predict(X)
    >>> bool(abs(marks - 10 * light).mean() < 2)
    True

    References
    ----------
    Zhou et al., 2024, "UniQA: Unified Vision-Language Pre-training for Image Quality and Aesthetic Assessment",
    arXiv:2406.01069.
    """

    KINDS: ClassVar[tuple[str | None, str | None]] = ("arrays", "texts")
    INFERENCE: ClassVar[tuple[str, ...]] = ("prompts", "test_crops", "adapter")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "width": 32, "lr": 2e-3, "epochs": 60, "crop": None, "targets": "all",
            "adapter": {"lr": 2e-3, "epochs": 50, "flip": False},
        },
        "paper": {
            "clip": "openai/clip-vit-base-patch16", "lr": 1e-5, "weight_decay": 0.2, "batch_size": 196, "epochs": 50,
            "crop": 224,
        },
    }  # fmt: skip

    clip: Any = of_kind(None, (str, os.PathLike), "a name or a folder", "CLIPModel of both sides", optional=True)
    crop: int | None = whole(None, "side of the crops; None: whole images of one size", optional=True)
    test_crops: int | str = whole(10, "crops over which a score is averaged, or 'five'", words=("five",))
    prompts: Any = free("levels", "name of groups of prompts, or groups of five texts, worst first", _check_prompts)
    adapter: AdapterSettings = group(AdapterSettings, "how a few scores are learned")

    def _check_settings(self) -> None:
        if self.clip is not None and (self.left_encoder is not None or self.right_encoder is not None):
            raise ValueError("clip has both towers: leave left_encoder and right_encoder out")

    # -- phase 2: pairs of images and captions ----------------------------------------------------------------------

    def fit(self, left: Any, right: Any, *, progress: Progress | None = None) -> Self:
        """Learn which captions belong to which images.

        Parameters
        ----------
        left : array of shape (n, channels, height, width) in [0, 1]
            Images; with ``crop`` also a list of arrays of other sizes, of paths, or of Pillow's images.
        right : sequence of n str, or of n sequences of str
            Captions: one of several is drawn each time.
        progress : callable, optional
            Told the finished share.

        Raises
        ------
        ValueError, TypeError
            For sides of different lengths, empty texts, and images that cannot be used.
        NotFinite
            If training made a NaN or infinite weight; the model is left as it was.
        """
        images = self._images(left, "left", torch.rand)
        return self._fit({"": with_captions(images, right)}, progress)

    def _images(self, X: Any, name: str, place: Callable[[int, int], Tensor] = CENTER.expand) -> Items:
        if self.crop is not None:
            return read_crops(X, name, self.crop, place)
        return read_items(check_images(X, name), name, "arrays")

    def _read_side(self, items: Any, side: str, name: str) -> Items:
        if side == "right" or self.crop is None:
            return super()._read_side(items, side, name)
        read = self._images(items, name)
        if read.facts["shape"] != self.facts_["left"]["shape"]:
            known = self.facts_["left"]["shape"][0]
            raise ValueError(f"{name} has {read.facts['shape'][0]} channels, but UniQA learned from {known}")
        return read

    def _network(self) -> TemperedSides:
        if self.clip is None:
            return super()._network()
        facts = self.facts_["left"]
        sides, facts["files"] = clip_sides(facts.get("files", self.clip), self.max_tokens)
        return sides

    def _edges(self, pairs: Pairs) -> Tensor:
        counts = pairs.edges[:, 0].bincount(minlength=len(pairs.left))
        first = counts.cumsum(0) - counts  # edges are sorted by image
        return pairs.edges[first + (torch.rand(len(counts)) * counts).long()]

    # -- phase 3: scores --------------------------------------------------------------------------------------------

    def fit_scores(
        self,
        X: Any,
        scores: ArrayLike,
        *,
        score_range: tuple[float, float] | None = None,
        lower_is_better: bool = False,
        progress: Progress | None = None,
    ) -> Self:
        """Learn to score from a few images with scores, on frozen towers; learns anew each time.

        Parameters
        ----------
        X : as ``left`` of :meth:`fit`
        scores : array of shape (n,)
            Mean opinion scores of one scale.
        score_range : (low, high), optional
            Ends of the scale; the smallest and the largest score by default.
        lower_is_better : bool, default False
            Whether low scores are good; predictions are on the same scale.
        progress : callable, optional
            Told the finished share.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before :meth:`fit`.
        ValueError
            For images or scores that cannot be used.
        """
        self._check_use("left")
        items = self._read_side(X, "left", "X")
        s, (low, high) = normalized(scores, score_range, lower_is_better)
        check_same_length(items.values, s, "X", "scores")
        target, how = torch.from_numpy(s).float().to(self._device), self.adapter
        with self._update(), isolated(derive(self.seed, "scores")):
            self.scoring_: dict[str, Any] = {
                "low": low, "high": high, "lower_is_better": bool(lower_is_better),
                "reduction": how.reduction, "rectified": bool(how.rectified),
            }  # fmt: skip
            T = self._prompt_vectors()
            self.adapter_ = self._fresh_adapter()
            H = self._views(items)  # (views, n, D)
            steps = how.epochs * math.ceil(len(s) / how.batch_size)
            if steps:
                optimizer = torch.optim.Adam(self.adapter_.parameters(), how.lr)
                batches = (b for _ in range(how.epochs) for b in torch.randperm(len(s)).split(how.batch_size))

                def loss(rows: Tensor) -> Tensor:
                    h = H[torch.randint(len(H), (len(rows),)), rows]
                    return F.mse_loss(self.adapter_(h, T, self._inverse_temperature()), target[rows])

                train(
                    self.adapter_, lambda _step: next(batches), loss, steps=steps, optimizer=optimizer,
                    schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps), stage="learning scores",
                    progress=progress,
                )  # fmt: skip
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return a score for each image: on the scale of :meth:`fit_scores`, or from 0.2 to 1 zero-shot.

        Parameters
        ----------
        X : as ``left`` of :meth:`fit`

        Returns
        -------
        array of shape (n,)
        """
        P = torch.from_numpy(self.level_probabilities(X))
        c = self.adapter_.c.detach().cpu().double() if hasattr(self, "adapter_") else WEIGHTS.double()
        s = require_finite((P @ c).mean(1), "a score").numpy()
        if not hasattr(self, "adapter_"):
            return s
        low, high = self.scoring_["low"], self.scoring_["high"]
        return low + (1 - s if self.scoring_["lower_is_better"] else s) * (high - low)

    def level_probabilities(self, X: Any) -> np.ndarray:
        """Return how well each prompt fits, among the five of its group: the mean over the test crops.

        Parameters
        ----------
        X : as ``left`` of :meth:`fit`

        Returns
        -------
        array of shape (n, groups, 5)
            Levels from worst to best, with sum 1.
        """
        self._check_use("left")
        read = self._read_side(X, "left", "X")
        with torch.no_grad(), isolated(derive(self.seed, "transform")):
            T, scale = self._prompt_vectors(), self._inverse_temperature()
            adapt = self.adapter_.body if hasattr(self, "adapter_") else nn.Identity()
            looks = list(read.at(self._places())) if isinstance(read, Crops) else [read]
            P = torch.stack([level_softmax(adapt(self._vectors(look)), T, scale) for look in looks]).double().mean(0)
        return require_finite(P, "a probability").cpu().numpy()

    def _places(self) -> Tensor:
        """Return where the crops of a test image are, in shares, shape (crops, 2)."""
        if self.test_crops == "five":
            return FIVE
        generator = torch.Generator().manual_seed(derive(self.seed, "crops"))
        return torch.rand(int(self.test_crops), 2, generator=generator)

    def _views(self, items: Items) -> Tensor:
        """Return vectors (views, n, D) of random crops of scored images, of which each second may be mirrored."""
        flip, n_views = self.adapter.flip, 1 + self.adapter.flip
        if isinstance(items, Crops):
            items, n_views = replace(items, place=torch.rand), self.adapter.views
        with torch.no_grad():
            return torch.stack([self._vectors(items, mirrored=flip and view % 2 == 1) for view in range(n_views)])

    def _vectors(self, items: Items, side: str = "left", mirrored: bool = False) -> Tensor:
        """Return unit vectors (n, D) of items."""
        found = []
        for rows in torch.arange(len(items)).split(self._items_at_once(items)):
            given = items.taken(rows)
            h = pooled(*getattr(self.net_, side)(given.flip(-1) if mirrored else given))
            found.append(F.normalize(require_finite(h.float(), "a feature"), dim=1))
        return torch.cat(found)

    def _prompt_vectors(self) -> Tensor:
        """Return unit vectors (groups, 5, D) of the prompts."""
        groups = PROMPTS[self.prompts] if isinstance(self.prompts, str) else self.prompts
        texts = Items("texts", [text for one in groups for text in one])
        with torch.no_grad():
            return self._vectors(texts, "right").unflatten(0, (len(groups), 5))

    def _inverse_temperature(self) -> Tensor:
        return self._scale().detach()

    def _build(self) -> None:
        super()._build()
        if hasattr(self, "scoring_"):
            self.adapter_ = self._fresh_adapter()

    def _fresh_adapter(self) -> Adapter:
        D = self._prompt_vectors().shape[-1]
        return Adapter(D, self.scoring_["reduction"], self.scoring_["rectified"]).to(self._device)


#: Weights of the five levels before any are learned.
WEIGHTS = torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0])


class Adapter(nn.Module):
    """The residual adapter of an image's vector, and the weights c of the five levels."""

    def __init__(self, width: int, reduction: int = 2, rectified: bool = True) -> None:
        super().__init__()
        self.body = ResidualAdapter(width, reduction, rectified)
        self.c = nn.Parameter(WEIGHTS.clone())

    def forward(self, h: Tensor, prompts: Tensor, scale: Tensor | float) -> Tensor:
        """Return scores (n,) of vectors h (n, D), given those of prompts (groups, 5, D) and 1 / temperature."""
        return (level_softmax(self.body(h), prompts, scale) @ self.c).mean(1)


def level_softmax(h: Tensor, prompts: Tensor, scale: Tensor | float) -> Tensor:
    """Return probabilities (n, groups, 5) of the levels, by a softmax inside each group of prompts (groups, 5, D)."""
    return (scale * torch.einsum("nd,gld->ngl", F.normalize(h, dim=1), prompts)).softmax(dim=2)


def with_captions(images: Items, right: Any) -> Pairs:
    """Return images with their captions, of which each may have several; equal ones are one item."""
    several = isinstance(right, (list, tuple)) and any(isinstance(own, (list, tuple)) for own in right)
    captions = right if several else [[text] for text in read_items(right, "right", "texts").values]
    if len(captions) != len(images):
        raise ValueError(f"left has {len(images)} items and right {len(captions)}: left[i] belongs with right[i]")
    own = [read_items([c] if isinstance(c, str) else c, f"right[{i}]", "texts").values for i, c in enumerate(captions)]
    texts = Items("texts", [text for one in own for text in one])
    owner = torch.tensor([row for row, one in enumerate(own) for _ in one])
    (rows, row), (columns, column) = (side.alike().unique(return_inverse=True) for side in (images, texts))
    edges = torch.stack([row[owner], column], dim=1).unique(dim=0)
    return Pairs(images if len(rows) == len(images) else images.only(rows), texts.only(columns), edges)
