"""SCOLD: images and captions aligned with soft targets, which say what else in a batch means the same (2025).

For N drawn pairs with image vectors u and text vectors v of length 1, and ``S = u v' / tau``:

    T = (1 - alpha) I + alpha R,    loss = (CE(T, softmax of rows of S) + CE(T', softmax of columns of S)) / 2,

where row i of R says how much each pair j of the batch belongs with i. No gradient flows through T.

Departures from the paper
-------------------------
* The formula of its "contextual soft targets" is not known to us: R above is a **reconstruction** in five variants
  (``targets``), and what is shown of them says nothing of the released model.
* Text vectors are masked means; ``pooling="first+mean"`` adds the first token, and ``"released"`` averages over padding
  too, as the released model does, whose vectors so depend on what they are padded to.
* The optimizer's values are ours, since the paper's are not known. The released model's additive scalar, which only a
  sigmoid loss has use for, is left out, and its weights have no loader here.
* Vision models by name get pixels normalized as ImageNet's, where the released model takes them as they are in [0, 1].
* All captions of an image are in each epoch; ``per_image="one"`` draws one of them each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from anytask.core.checks import check_labels
from anytask.core.progress import Progress
from anytask.core.settings import choice, flag, real
from anytask.parts.contrastive import contrastive_loss, soft_target
from anytask.pretrain.pair_baselines import DualEncoder, pooled
from anytask.pretrain.parts.item_towers import Encoded, ImageTower, encoded
from anytask.pretrain.parts.items import Pairs, paired, read_items, words
from anytask.pretrain.parts.pairs import PairBatch

__all__ = ["SCOLD"]


class SCOLD(DualEncoder):
    """Align images and captions where many captions say the same: class names, symptoms, attributes of a concept.

    Pick it where pairs are noisy or repeat a few concepts, which makes most of what CLIP's loss pushes apart belong
    together, and the concepts of the pairs are known. Where only these concepts are to be told apart, a classifier
    trained on them did as well or better; like captions alone (``targets="caption"``) showed no gain over smoothing.
    :class:`~anytask.pretrain.parts.zero_shot.PromptClassifier` says classes by prompts, with a few labels too.

    Of the paper we know the abstract (source: abstract), and the released model: the loss is a reconstruction.

    What is not listed here (``left_encoder``, ``right_encoder``, ``width`` and so on) is as in
    :class:`~anytask.pretrain.DualEncoder`; images stand on the left.

    Parameters
    ----------
    targets : {"auto", "concept", "caption", "self", "uniform", "none"}, default "auto"
        Who else is right: pairs of the same concept; of like captions, by the cosine of their words; of like vectors of
        the model itself; all alike (label smoothing); nobody (CLIP). "auto": concepts where :meth:`fit` gets them, else
        captions.
    alpha : float in [0, 1], default 0.5
        Share of the target that others get.
    affinity_temperature : float, default 0.1
        Of the softmax over likenesses, for "caption" and "self".
    pooling : {"mean", "first+mean", "released"}, default "mean"
        How the tokens of a text make its vector.
    per_image : {"all", "one"}, default "all"
        Captions of an image that an epoch has: each of them, or one that is drawn at random.
    flat : bool, default False
        Whether the vector of an image is linear in all cells of its map, as in the released model, or in their mean.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 3
    >>> X = (np.eye(3)[y] + 0.3 * rng.normal(size=(60, 3))).astype(np.float32)
    >>> captions = [f"{['red', 'green', 'blue'][c]} seen on day {i}" for i, c in enumerate(y)]
    >>> model = SCOLD.from_preset("small", epochs=20).fit(X, captions, concepts=y)
    >>> from anytask.pretrain.parts.zero_shot import PromptClassifier
    >>> PromptClassifier(model, {0: "red", 1: "green", 2: "blue"}).predict(np.eye(3, dtype=np.float32)).tolist()
    [0, 1, 2]

    References
    ----------
    "A Vision-Language Foundation Model for Leaf Disease Identification", 2025, Expert Systems with Applications,
    arXiv:2505.07019.
    """

    KINDS: ClassVar = ("arrays", "texts")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"width": 32, "hidden": 256, "lr": 5e-3, "epochs": 30, "batch_size": 128},
        "paper": {
            "left_encoder": "microsoft/swin-base-patch4-window7-224-in22k", "right_encoder": "roberta-base",
            "width": 512, "flat": True, "pooling": "released", "max_tokens": 77, "lr": 1e-5, "epochs": 10,
        },
    }  # fmt: skip

    MODES: ClassVar = ("auto", "concept", "caption", "self", "uniform", "none")
    targets: str = choice("auto", MODES, "who else is right; 'auto': by concepts where there are any, else by captions")
    alpha: float = real(0.5, "share of the target that others get", at_least=0, at_most=1)
    affinity_temperature: float = real(0.1, "of the softmax over likenesses", above=0)
    pooling: str = choice("mean", ("mean", "first+mean", "released"), "how tokens make the vector of a text")
    per_image: str = choice("all", ("all", "one"), "captions of an image that an epoch has: all, or one at random")
    flat: bool = flag(False, "vectors linear in all cells of an image's map")

    def fit(self, left: Any, right: Any, *, concepts: Any = None, progress: Progress | None = None) -> Self:
        """Learn which captions belong to which images.

        Parameters
        ----------
        left : array of shape (n, channels, height, width), or (n, ...)
            An image that has several captions is given once for each.
        right : sequence of n str
        concepts : array of shape (n,), optional
            What each pair is of: labels of any kind.
        progress : callable, optional
            Told the finished share, in [0, 1].

        Raises
        ------
        ValueError, TypeError
            As the base, and for ``targets="concept"`` without concepts, or one pair that is of two concepts.
        """
        sides = read_items(left, "left", self.KINDS[0]), read_items(right, "right", self.KINDS[1])
        pairs = paired(*sides)
        self._concepts: dict[tuple[int, int], int] = {}
        if concepts is not None:
            labels = check_labels(concepts, "concepts")
            if len(labels) != len(sides[0]):
                raise ValueError(f"left has {len(sides[0])} items and concepts {len(labels)}")
            codes = np.unique(labels, return_inverse=True)[1].tolist()
            places = [items.alike().unique(return_inverse=True)[1].tolist() for items in sides]
            for pair, code in zip(zip(*places), codes):
                if self._concepts.setdefault(pair, code) != code:
                    raise ValueError(f"the pair of left {pair[0]} and right {pair[1]} is of two concepts")
        elif self.targets == "concept":
            raise ValueError("targets='concept' needs concepts: fit(left, right, concepts=...)")
        try:
            return self._fit({"": pairs}, progress)
        finally:
            del self._concepts

    # -- training -------------------------------------------------------------------------------------------------

    def _tower(self, side: str, encoder: Any) -> nn.Module:
        tower = super()._tower(side, encoder)
        if side == "right":
            return PooledTexts(tower, self.pooling)
        if self.flat and isinstance(tower, ImageTower):
            return FlatImages(tower, self.facts_["left"]["shape"], self.width)
        return tower

    def _edges(self, pairs: Pairs) -> Tensor:
        if self.per_image == "all":
            return pairs.edges
        edges = pairs.edges[torch.randperm(len(pairs.edges))]
        _, first = np.unique(edges[:, 0].numpy(), return_index=True)
        return edges[torch.as_tensor(first)]

    def _loss(self, batch: PairBatch) -> Tensor:
        a, b, mask_a, mask_b = self._batch_tokens(batch)
        u, v = (nn.functional.normalize(pooled(*side), dim=1) for side in ((a, mask_a), (b, mask_b)))
        u, v = u[batch.drawn[:, 0]], v[batch.drawn[:, 1]]
        T = self._target(batch, u.detach(), v.detach())
        # All likenesses are symmetric, so that those of the columns are the same.
        return contrastive_loss(u @ v.T * self._scale(), T, target_columns=T.T, symmetric=True)

    def _target(self, batch: PairBatch, u: Tensor, v: Tensor) -> Tensor:
        """Return T (N, N) for the drawn pairs of a batch with vectors u and v."""
        mode, N = self.targets, len(batch.drawn)
        if mode == "auto":
            mode = "concept" if self._concepts else "caption"
        if mode == "none":
            return torch.eye(N, device=u.device)
        if mode == "uniform":
            return soft_target(torch.zeros(N, N, device=u.device), self.alpha)
        if mode == "self":
            return soft_target((u @ u.T + v @ v.T) / 2, self.alpha, self.affinity_temperature)
        columns = batch.columns[batch.drawn[:, 1]].tolist()
        if mode == "concept":
            rows = batch.rows[batch.drawn[:, 0]].tolist()
            concept = torch.tensor([self._concepts[pair] for pair in zip(rows, columns)])
            return concept_target(concept, self.alpha).to(u.device)
        alike = word_cosines([batch.pairs.right.values[column] for column in columns])
        return soft_target(alike, self.alpha, self.affinity_temperature).to(u.device)


class PooledTexts(nn.Module):
    """A tower of texts whose tokens are made one."""

    def __init__(self, tower: nn.Module, how: str) -> None:
        super().__init__()
        self.tower, self.how = tower, how

    def forward(self, texts: Any) -> Encoded:
        tokens, mask = encoded(self.tower(texts), len(texts), "right")
        h = tokens.mean(1) if self.how == "released" else pooled(tokens, mask)
        if self.how != "mean":
            h = h + tokens[:, 0]
        return h[:, None], mask.new_ones(len(mask), 1)


class FlatImages(nn.Module):
    """A tower of images under a linear layer on all cells of its map at once."""

    def __init__(self, tower: ImageTower, shape: Sequence[int], width: int) -> None:
        super().__init__()
        self.tower = tower.tower
        with torch.no_grad():
            d = self.tower(torch.zeros(1, *shape)).flatten(1).shape[1]
        self.out = nn.Linear(d, width)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Encoded:
        h = self.out(self.tower(x.to(self.out.weight.device)).flatten(1))
        return h[:, None], torch.ones(len(h), 1, dtype=torch.bool, device=h.device)


def concept_target(concept: Tensor, alpha: float) -> Tensor:
    """Return ``(1 - alpha) I + alpha R``, where R is even over the pairs of the same concept.

    Examples
    --------
    >>> concept_target(torch.tensor([0, 0, 1]), 0.4)[0]
    tensor([0.8000, 0.2000, 0.0000])
    """
    same = concept[:, None] == concept[None, :]
    return soft_target(torch.zeros(same.shape).masked_fill(~same, -torch.inf), alpha)


def word_cosines(texts: Sequence[str]) -> Tensor:
    """Return the cosines (n, n) of the counts of the words of texts.

    Examples
    --------
    >>> word_cosines(["a b", "b c", "d"])
    tensor([[1.0000, 0.5000, 0.0000],
            [0.5000, 1.0000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    said = [words(text) for text in texts]
    places = {word: place for place, word in enumerate(dict.fromkeys(word for one in said for word in one))}
    counts = torch.zeros(len(texts), len(places))
    for row, one in enumerate(said):
        counts[row].index_add_(0, torch.tensor([places[word] for word in one]), torch.ones(len(one)))
    counts = nn.functional.normalize(counts, dim=1)
    return counts @ counts.T
