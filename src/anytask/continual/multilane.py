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
from typing import Any, ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.base import ContinualClassifier
from anytask.continual.parts.growing import GrowingHead
from anytask.continual.parts.label_matrices import masked_loss
from anytask.continual.parts.lanes import merged, selection
from anytask.continual.parts.sgd import tune
from anytask.core.checks import require_finite
from anytask.core.rng import derive
from anytask.core.settings import choice, flag, real, whole
from anytask.models.build import backbone_field
from anytask.models.loading import load_pretrained
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


class MultiLane(ContinualClassifier):
    """Patch-token summaries in lanes, one a task (De Min et al., 2024).

    Learns new labels task by task on a frozen pretrained transformer, without storing a sample: of inputs that have
    several labels at once, of which a task annotates its own, or of inputs that have one. What was learned before never
    changes, and nobody tells the task of a query: all lanes answer, each for its classes. Pick it where a good encoder
    exists and inputs carry labels of many tasks; where the encoder is poor a linear probe on its features does as well.

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
        All lanes answer, or the one whose task's inputs are most like the query.
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

    needs: ClassVar[str] = "boundary"
    sees: ClassVar[str] = "test"
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

    # -- construction ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.codes_: list[list[int]] = []  # the codes of each task's outputs, in the order of their coming
        self.open_ = False  # whether the last task is under way
        self.task_: object = None
        self.steps_ = 0  # of that task

    def _build(self) -> None:
        self.network_ = self._frozen().to(self._device)
        self.lanes_, self.heads_ = nn.ModuleList(), nn.ModuleList()
        for codes in self.codes_:
            self._add_task().grow(len(codes))
        self.optimizer_ = self._fresh_optimizer() if self.open_ else None

    def _frozen(self) -> FrozenTransformer:
        backbone = self.backbone
        if backbone is None:
            backbone = small_vit(self.input_shape_, self.width, seed=derive(self.seed, "backbone"))
        elif isinstance(backbone, str):
            from transformers import AutoModel

            backbone = load_pretrained(AutoModel, backbone)
        network = FrozenTransformer(backbone)
        if network.model.main_input_name == "pixel_values" and network.class_token is None:
            raise ValueError(f"lanes start from a class token, and {type(backbone).__name__} has none")
        if self.blocks > network.depth:
            raise ValueError(f"blocks={self.blocks} blocks with prompts, and the encoder has {network.depth}")
        return network

    def _add_task(self) -> GrowingHead:
        width = self.network_.width
        if not self.lanes_ or self.lanes == "per task":
            lane = Lane(self.s, self.k, self.blocks, width, self.init_scale).to(self._device)
            if self.lanes_:  # a warm start; the key is its own
                lane.load_state_dict({**self.lanes_[-1].state_dict(), "key": lane.key})
            self.lanes_.append(lane)
        self.heads_.append(GrowingHead(width, derive(self.seed, "head", len(self.heads_))).to(self._device))
        return cast(GrowingHead, self.heads_[-1])

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([*self.lanes_[-1].parameters(), *self.heads_[-1].parameters()], self.lr)

    # -- training -------------------------------------------------------------------------------------------------

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        if task is not None and self.open_ and task != self.task_:
            self.open_ = False
        if not self.open_:
            self.codes_.append([])
            self._add_task()
            self.open_, self.steps_ = True, 0
            self.optimizer_ = self._fresh_optimizer()
        self.task_ = task
        for rows in self._minibatches(len(X)):
            self._observe(X[rows], y[rows])

    def _meet(self, shown: list[int]) -> None:
        """Give the head of the task a row for each label that is new."""
        codes = self.codes_[-1]
        if back := {code for old in self.codes_[:-1] for code in old}.intersection(shown):
            raise ValueError(
                f"classes {[self.labels_[code] for code in sorted(back)]} belong to a task that has ended: MULTI-LANE "
                "learns each class in one task"
            )
        codes += [code for code in dict.fromkeys(shown) if code not in codes]
        cast(GrowingHead, self.heads_[-1]).grow(len(codes), self.optimizer_)

    def _observe(self, x: Tensor, y: Tensor) -> None:
        """Train the lane of the task and its rows of the classifier, and nothing else."""
        shown = (~y.isnan()).any(0).nonzero()[:, 0] if y.dim() == 2 else y
        self._meet(shown.tolist())
        assert self.optimizer_ is not None
        image, lane, codes = self._image(x), cast(Lane, self.lanes_[-1]), self.codes_[-1]
        lane.key += image.feature.sum(0)
        share = 0.0 if self.steps_per_task is None else min(1.0, self.steps_ / self.steps_per_task)
        tune(self.optimizer_, lr=self.lr * (1 + math.cos(math.pi * share)) / 2)
        with torch.enable_grad():
            scores = self.heads_[-1](self._read(lane, image))  # (n, classes of the task)
            if y.dim() == 2:
                loss = masked_loss(scores.new_zeros(y.shape).index_copy(1, _index(codes, y), scores), y)
            else:
                loss = F.cross_entropy(scores, torch.tensor([codes.index(code) for code in y.tolist()]).to(y))
            self.optimizer_.zero_grad(set_to_none=True)
            loss.backward()
        self.optimizer_.step()
        self.steps_ += 1

    def end_task(self) -> Self:
        """Close the lane of the task: it never changes again."""
        if self.__sklearn_is_fitted__():
            self.open_, self.optimizer_ = False, None
        return self

    # -- the lanes ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _image(self, x: Tensor) -> Image:
        """Run the frozen encoder, which is common to all lanes."""
        network = self.network_
        if self.backbone is None and x.dim() < 4:  # vectors are images of one row
            x = x.reshape(len(x), 1, *((1,) if x.dim() == 2 else ()), *x.shape[1:])
        tokens = network(x)
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
                if self.route == "nearest":
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

    def refuses(self, stream: Any) -> str | None:
        """Return why it cannot learn from a stream with these facts, or None if it can."""
        return "classes come back in later tasks, and MULTI-LANE learns each once" if stream.repeats else None


def _orthogonal(n: int, width: int, scale: float) -> nn.Parameter:
    return nn.Parameter(nn.init.orthogonal_(torch.empty(n, width), gain=scale))


def _index(codes: list[int], like: Tensor) -> Tensor:
    return torch.tensor(codes, device=like.device)
