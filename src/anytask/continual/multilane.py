"""MULTI-LANE: each task reads a frozen transformer in a lane of its own, which no other task can touch.

A lane is a class token that goes through the frozen blocks beside the tokens of the input, of which it sees a few
summaries: learned selectors weigh the tokens, and in the first blocks learned prompts join as keys and values. What
attention makes of the summaries is dropped (Drop-and-Replace), and the next block summarizes its own tokens.

Departures from the paper: each task has rows of the classifier in a head of its own, and an optimizer of its own,
so that nothing of another task can move. Lanes run one after the other instead of as one batch, so that an answer does
not depend, in its last bits, on how many there are. The rate falls by mini-batches, not by epochs, where
``steps_per_task`` says how long a task is, and C in the loss are the classes shown so far. The paper puts the learned
selectors into every block; the released code lets them pass through norm and perceptron of each block
(``carried=True``). Without Drop-and-Replace the summaries of the first block go on as A x, before the norm. The query
of the ablation ``route="nearest"`` is compared with the mean of a task's frozen features, which is what a key trained
on their cosine becomes. Encoders without a class token of their own (BERT, CLIP) start a lane from the first token with
its position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.parts.growing import GrowingHead
from anytask.continual.parts.label_matrices import masked_loss
from anytask.continual.parts.lanes import merged, selection
from anytask.continual.parts.task_heads import TaskHeads
from anytask.core.checks import require_finite
from anytask.core.rng import derive
from anytask.core.settings import choice, flag, real, whole
from anytask.models.build import backbone_field
from anytask.models.small_vit import small_vit
from anytask.parts.frozen_transformer import FrozenTransformer

__all__ = ["MultiLane"]


class Lane(nn.Module):
    """What a task adds to the encoder: selectors S (s, d) and, for each of the first blocks, prompts P (2k, d).

    ``key`` (d,) is the sum of the features of its inputs, each of norm 1, in the encoder without lanes.
    """

    def __init__(self, s: int, k: int, blocks: int, width: int, scale: float) -> None:
        super().__init__()
        self.S = _orthogonal(s, width, scale)
        self.P = nn.ParameterList(_orthogonal(2 * k, width, scale) for _ in range(blocks if k else 0))
        self.key: Tensor
        self.register_buffer("key", torch.zeros(width))


class Image(NamedTuple):
    """What lanes read of a batch: the tokens that enter each block, as they are and as attention takes them, which are
    no padding, the class token (n, 1, d) that lanes start from, and the frozen features (n, d), of norm 1."""

    x: tuple[Tensor, ...]  # (n, T, d) each
    xh: tuple[Tensor, ...]
    valid: Tensor | None
    start: Tensor
    feature: Tensor


class MultiLane(TaskHeads):
    """Patch-token summaries in lanes, one a task (De Min et al., 2024).

    Learns new labels task by task on a frozen pretrained transformer, without storing a sample: of inputs that have
    several labels at once, of which a task annotates its own, or of inputs that have one. What was learned before never
    changes, and nobody tells the task of a query: all lanes answer, each for its classes. Pick it where a good encoder
    exists and inputs carry labels of many tasks; where the encoder is poor a linear probe on its features does as well
    or better: try it first.

    Parameters
    ----------
    backbone : None, str or torch.nn.Module
        A folder or name of an encoder of transformers with a class token (paper: ViT-B/16), or such an encoder;
        ``None`` for a random one of width ``width``.
    width : int
        Width of the random encoder, even.
    s, k, blocks : int
        Selectors of a lane; prompts (pairs of a key and a value) in each of the first ``blocks`` blocks, 0 for none.
    summary : {"selectors", "merging"}
        What the s summaries of a block's tokens are: weighed by selectors, or merged by likeness.
    drop_and_replace : bool
        Whether each block summarizes anew; False: the first one alone, whose summaries go on as tokens.
    carried : bool
        Whether selectors pass through the blocks, as in the released code.
    normalize : bool
        Whether the head gets the class token at norm 1.
    lanes : {"per task", "shared"}
        A lane for each task, or one that all train after each other.
    route : {"all", "nearest"}
        Who answers where no task is told: all lanes, or the one whose task's inputs are most like the query.
    lr : float
        Adam, begun anew for each task. The paper's rates are for 256 rows: times batch_size / 256.
    steps_per_task : int, optional
        Mini-batches over which the rate falls to 0, along a cosine; None for a constant rate.
    init_scale : float
        Norm of selectors and prompts at the start; a later lane starts from the one before it.
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    lanes_, heads_ : torch.nn.ModuleList
        What is learned.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> W = rng.normal(size=(4, 8))
    >>> Y = rng.integers(0, 2, (640, 4))
    >>> X = Y @ W + 0.1 * rng.normal(size=(640, 8))
    >>> model = MultiLane.from_preset("small")
    >>> for labels in [(0, 1), (2, 3)]:
    ...     for _ in range(5):
    ...         _ = model.partial_fit(X, Y[:, labels], classes=labels)
    ...     _ = model.end_task()
    >>> bool((model.predict(X) == Y).mean() > 0.5 + 0.3)  # chance is 0.5
    True

    References
    ----------
    De Min, Mancini, Lathuiliere, Roy, Ricci, 2024, "Less is more: Summarizing Patch Tokens for efficient Multi-Label
    Class-Incremental Learning", CoLLAs, arXiv:2405.15633.
    """

    multilabel: ClassVar[bool] = True
    STRUCTURE: ClassVar[tuple[str, ...]] = ("backbone", "width", "s", "k", "blocks", "lanes")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "backbone": None, "s": 6, "k": 4, "blocks": 2, "lr": 0.01, "batch_size": 32, "normalize": False,
        }
    }  # fmt: skip

    backbone: Any = backbone_field("google/vit-base-patch16-224", "an encoder of transformers; None for a random one")
    width: int = whole(32, "width of the random encoder, even", at_least=2)
    s: int = whole(20, "selectors of a lane")
    k: int = whole(20, "prompts of a block; 0 for none", at_least=0)
    blocks: int = whole(5, "blocks with prompts", at_least=0)
    summary: str = choice("selectors", ("selectors", "merging"), "how tokens are summarized")
    drop_and_replace: bool = flag(True, "each block summarizes anew")
    carried: bool = flag(False, "selectors pass through the blocks, as in the released code")
    normalize: bool = flag(True, "the head gets the class token at norm 1")
    lanes: str = choice("per task", ("per task", "shared"), "whose lanes are")
    route: str = choice("all", ("all", "nearest"), "which lanes answer")
    batch_size: int = whole(128, "rows of a mini-batch")
    lr: float = real(0.015, "learning rate of Adam", above=0)
    steps_per_task: int | None = whole(None, "mini-batches over which the rate falls; None: constant", optional=True)
    init_scale: float = real(1.0, "norm of selectors and prompts at the start", above=0)

    def _check_settings(self) -> None:
        if self.width % 2:
            raise ValueError(f"width must be even, since the random encoder has two heads, got {self.width}")

    # -- construction ---------------------------------------------------------------------------------------------

    def _build(self) -> None:
        encoder = self._pretrained()
        if encoder is None:
            self._axes = (1,) * (3 - len(self.input_shape_))  # vectors are images of one row
            encoder = small_vit(self.input_shape_, self.width, seed=derive(self.seed, "backbone"))
        self.network_ = FrozenTransformer(encoder)
        self._width, depth = self.network_.width, self.network_.depth
        if self.network_.model.main_input_name == "pixel_values" and self.network_.class_token is None:
            raise ValueError(f"lanes start from a class token, and {type(encoder).__name__} has none")
        if self.blocks > depth:
            raise ValueError(f"blocks={self.blocks} blocks with prompts, and the encoder has {depth}")
        self.lanes_ = nn.ModuleList()
        super()._build()

    def _add_task(self) -> GrowingHead:
        if not self.lanes_ or self.lanes == "per task":
            lane = Lane(self.s, self.k, self.blocks, self._width, self.init_scale).to(self._device)
            if self.lanes_:  # a warm start; the key is its own
                lane.load_state_dict({**self.lanes_[-1].state_dict(), "key": lane.key})
            self.lanes_.append(lane)
        return super()._add_task()

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([*self.lanes_[-1].parameters(), *self.heads_[-1].parameters()], self.lr)

    # -- training -------------------------------------------------------------------------------------------------

    def _observe(self, x: Tensor, y: Tensor) -> None:
        """Train the lane of the task and its rows of the classifier, and nothing else."""
        image, lane = self._image(x), cast(Lane, self.lanes_[-1])
        lane.key += image.feature.sum(0)
        v = self._read(lane, image)
        if y.dim() == 2:
            head, codes = self._meet((~y.isnan()).any(0).nonzero()[:, 0].tolist())
            loss = masked_loss(v.new_zeros(y.shape).index_copy(1, torch.tensor(codes, device=y.device), head(v)), y)
        else:
            head, target = self._targets(y)
            loss = F.cross_entropy(head(v), target)
        self._step(loss)

    def _rate(self) -> float:
        share = 0.0 if self.steps_per_task is None else min(1.0, self.steps_ / self.steps_per_task)
        return self.lr * (1 + math.cos(math.pi * share)) / 2

    # -- the lanes ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _image(self, x: Tensor) -> Image:
        """Run the frozen encoder, which is common to all lanes."""
        network = self.network_
        tokens = network(x.reshape(len(x), *self._axes, *x.shape[1:]))
        before = tokens.before[: network.depth]
        own = network.class_token
        start = before[0][:, :1] if own is None else own.expand(len(x), -1, -1)
        feature = F.normalize(network.normalized(tokens.before[-1])[:, 0], dim=1)
        return Image(before, tuple(map(network.entering, range(network.depth), before)), tokens.valid, start, feature)

    def _read(self, lane: Lane, image: Image) -> Tensor:
        """Return what the head of a lane gets (n, d)."""
        network, c, sel = self.network_, image.start, lane.S[None]
        for i in range(network.depth):
            prefix = network.as_prefix(lane.P[i]) if i < len(lane.P) else None
            if self.drop_and_replace:
                c = network.run_block(i, c, beside=self._summary(i, sel, image, image.xh[i]), prefix=prefix)
                sel = network.run_block(i, sel, attends=False) if self.carried else sel
            else:
                c = c if i else torch.cat([c, self._summary(0, sel, image, image.x[0])], 1)
                c = network.run_block(i, c, prefix=prefix)
        v = network.normalized(c)[:, 0]
        return F.normalize(v, dim=1) if self.normalize else v

    def _summary(self, i: int, sel: Tensor, image: Image, x: Tensor) -> Tensor:
        """Return s summaries (n, s, d) of the tokens x (n, T, d) of block i."""
        if self.summary == "merging":
            return merged(x, self.s)
        return selection(self.network_.entering(i, sel)[0], image.xh[i], image.valid) @ x

    def _scores(self, X: Tensor, task: object) -> Tensor:
        scores = torch.full((len(X), len(self.labels_)), -torch.inf, device=X.device)
        for rows in self._minibatches(len(X)):
            image = self._image(X[rows])
            lanes = cast("list[Lane]", list(self.lanes_))
            v = [self._read(lane, image) for lane in lanes]
            nearest = (image.feature @ torch.stack([F.normalize(lane.key, dim=0) for lane in lanes]).T).argmax(1)
            for t, (codes, head) in enumerate(zip(self.codes_, self.heads_)):
                own = t if len(lanes) > 1 else 0
                block = head(v[own])
                if self.route == "nearest" and task is None:
                    block = block.masked_fill((nearest != own)[:, None], -torch.inf)
                scores[rows, codes] = block
        return self._mask_to_task(scores, task)

    @torch.no_grad()
    def _check_answers(self, X: Tensor, task: object) -> None:
        """Look at the lane under way: no other can have changed."""
        answers = self.heads_[-1](self._read(cast(Lane, self.lanes_[-1]), self._image(X)))
        require_finite(answers, f"an answer after chunk {self.n_chunks_}", "lower lr, or check the scale of the inputs")

    def _trained(self) -> Iterator[nn.Module]:
        return iter((self.lanes_, self.heads_))


def _orthogonal(n: int, width: int, scale: float) -> nn.Parameter:
    return nn.Parameter(nn.init.orthogonal_(torch.empty(n, width), gain=scale))
