"""Encoders of pairs that everybody has: two towers, one vector for each item, and InfoNCE."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anytask.core.rng import derive
from anytask.core.settings import choice, flag, real, whole
from anytask.parts.contrastive import contrastive_loss, cosine_scores, one_hot_target
from anytask.pretrain.parts.item_towers import encoder_field, item_tower
from anytask.pretrain.parts.pairs import PairBatch, PairEncoder, Sides

__all__ = ["DualEncoder"]


class DualEncoder(PairEncoder):
    """Two towers, the mean of whose tokens is compared by cosine: CLIP's loss on any two kinds of items.

    Pick it as the reference that whatever is cleverer has to beat, and where one vector for each item has to do, since
    an index of vectors is what you have.

    Parameters
    ----------
    left_encoder, right_encoder : None, str, path or torch.nn.Module
        None for small towers; a text or vision model by name or folder ("minilm", "efficientnet-lite0"); or a module
        that gives tokens (n, t, d) and their mask (n, t).
    width, hidden : int, default 64
        Width of a vector, and of the layer before it in the small tower of vectors.
    max_tokens : int, default 64
        Tokens of a text that are read.
    frozen : bool, default False
        Whether text models by name stay as they are, and only the linear layer on them is trained.
    targets : {"one", "all"}, default "one"
        Whether each drawn pair has one right partner in its batch, as CLIP has it, or all that an edge leads to.
    temperature : float, default 0.07
        What cosines are divided by at first; it is learned, between 0.01 and 1.
    lr, weight_decay, warmup, epochs, batch_size, precision, seed, device
        See :class:`~anytask.pretrain.parts.pairs.PairEncoder`.

    Examples
    --------
    >>> left = [f"part {i % 8} of lot {i}" for i in range(64)]
    >>> right = [f"shelf {'abcdefgh'[i % 8]}" for i in range(64)]
    >>> model = DualEncoder(epochs=20, lr=0.01, targets="all").fit(left, right)
    >>> places, scores = model.rank(["part 3 of lot 99"], ["shelf a", "shelf d"])
    >>> places.tolist()
    [[1, 0]]

    References
    ----------
    Radford et al., 2021, "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"width": 32, "lr": 0.01, "epochs": 30},
        "minilm": {"left_encoder": "minilm", "right_encoder": "minilm", "lr": 2e-5, "epochs": 3, "width": 384},
    }

    left_encoder: Any = encoder_field("of the left items; None: a small tower")
    right_encoder: Any = encoder_field("of the right items; None: a small tower")
    width: int = whole(64, "width of a vector")
    hidden: int = whole(64, "width of the layer before, in the small tower of vectors")
    max_tokens: int = whole(64, "tokens of a text that are read")
    frozen: bool = flag(False, "text models by name stay as they are under a linear layer")
    targets: str = choice("one", ("one", "all"), "right partners in a batch: that of the drawn pair, or all")
    temperature: float = real(0.07, "what cosines are divided by at first", at_least=0.01, at_most=1)

    net_: TemperedSides

    @property
    def temperature_(self) -> float:
        """What cosines are divided by, as it was learned."""
        self._check_fitted()
        return math.exp(float(self.net_.log_temperature.detach()))

    def _network(self) -> TemperedSides:
        net = TemperedSides(self._tower("left", self.left_encoder), self._tower("right", self.right_encoder))
        net.log_temperature.data.fill_(math.log(self.temperature))
        return net

    def _tower(self, side: str, encoder: Any) -> nn.Module:
        return item_tower(
            self.facts_[side], encoder, width=self.width, linked=True, frozen=self.frozen, max_tokens=self.max_tokens,
            hidden=self.hidden, seed=derive(self.seed, side),
        )  # fmt: skip

    def _score(self, a: Tensor, b: Tensor, mask_a: Tensor, mask_b: Tensor) -> Tensor:
        return cosine_scores(pooled(a, mask_a), pooled(b, mask_b))

    def _scale(self) -> Tensor:
        return (-self.net_.log_temperature).exp()

    def _loss(self, batch: PairBatch) -> Tensor:
        if self.targets == "all":
            return super()._loss(batch)
        # Each edge is a pair of its own, and other partners of its items count as wrong.
        edges = batch.drawn
        S = self._score_batch(batch)[edges[:, 0]][:, edges[:, 1]] * self._scale()
        return contrastive_loss(S, one_hot_target(len(S), device=S.device), symmetric=True)

    def _after_step(self) -> Callable[[int], object]:
        return lambda step: self.net_.log_temperature.data.clamp_(math.log(0.01), 0.0)


class TemperedSides(Sides):
    """Towers with a temperature that is learned."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__(left, right)
        self.log_temperature = nn.Parameter(torch.zeros(()))


def pooled(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (n, d) of the tokens (n, t, d) that a mask (n, t) says are real."""
    return (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
