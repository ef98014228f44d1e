"""MTLoRA: one frozen network for several tasks, through low-rank pairs that they share and pairs of each.

Of a frozen linear layer ``W x + b``, with a pair ``(A, B)`` that all share, pairs ``(A_t, B_t)`` of the tasks, and a
scale alpha,

1. a task-agnostic layer gives ``y = W x + b + alpha B A drop(x)``, which is the same for all;
2. a task-specific one gives that to the blocks behind it, and to task t, whose own input is ``x_t``,
   ``y_t = y + alpha B_t A_t x_t``: the frozen product is made once, of the shared input, and serves all tasks;
3. all layers of the blocks are of the first kind, but for the projection and the perceptron of the last block of each
   stage; behind it each task's stream goes to its head, through what the stage does to the shared one, and the shared
   stream alone into the next stage;
4. pairs, norms, patch embedding and merging, position biases and heads are trained on ``sum_t w_t L_t``.

Departures from the paper
-------------------------
* ``mode="matrix"`` of the released code leaves the shared pair out of a task's output, ``y_t = W x + b + alpha B_t A_t
  x_t``. The last layer's shared pair is then read by nobody, and in a network of one stage, as most are, little of what
  tasks share is left: the default is its ``"matrixv2"``, and the preset ``paper`` has ``"matrix"``, which warns.
* Streams run as the mapped axis of torch.vmap, so that any network's own forward serves. Dropout and drop-path have
  one mask for all streams, where the released code draws one for each.
* A layer with pairs for tasks and none that are shared (rank 0), which the released code switches off, cannot be asked
  for. Task weights are 1 unless given, the rate does not scale with the batch, and lasts as many passes as given.
* In a network of one stage a head reads its task's stream at the network's end; where ``blocks`` names one that is not
  the last, streams go through the blocks behind it each for itself.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from sklearn.base import clone
from torch import Tensor, nn

from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import flag, group, numbers, of_kind, real
from anytask.models.build import build_body
from anytask.models.loading import load_pretrained
from anytask.multitask.base import Cells
from anytask.multitask.parts.dense_head import DenseHead
from anytask.multitask.parts.low_rank import LowRank, LowRankTasks
from anytask.multitask.parts.task_steps import Aggregate, TaskSteps
from anytask.multitask.shared_trunk import Scaled, SharedTrunk

__all__ = ["DenseHead", "LowRankTasks", "MTLoRA"]


class MTLoRA(SharedTrunk):
    """One frozen pretrained network that answers several tasks in one pass, through low-rank adaptation.

    Pick it where a good network exists, tasks have the same kind of inputs, and all of them are to be answered at the
    cost of about one: tasks learn from each other through the shared pairs, and differ through their own. For label
    maps and losses of your own see :class:`~anytask.multitask.parts.low_rank.LowRankTasks` and
    :class:`~anytask.multitask.parts.dense_head.DenseHead`.

    Parameters
    ----------
    backbone : None, str, torch.nn.Module or callable
        What :func:`~anytask.models.build.build_backbone` takes for images; or, for rows of token ids padded by -1 on
        the right, a language model of transformers, or its name or folder. None is a perceptron of random weights
        whose first layer is trained too: for a try-out.
    low_rank : LowRank
        Ranks, scale and places of the pairs: see :class:`~anytask.multitask.parts.low_rank.LowRank`.
    adapter : path, optional
        A LoRA adapter of PEFT, of the same rank, from which the shared pairs start.
    task_weights : sequence of float, optional
        w_t, in the order of the tasks; 1 unless given.
    scale_inputs : bool or "auto", default "auto"
        Bring inputs to mean 0 and deviation 1; ``"auto"``: for the perceptron alone.
    lr, weight_decay : float, default 1e-3 and 0.05
        Of AdamW; vectors do not decay.
    warmup : float, default 1/15
        Share of the steps in which the rate rises; it then falls along a cosine, to a hundredth.
    max_grad_norm : float, default 5.0
    hidden, n_features, balancer, epochs, batch_size, standardize, seed, device
        See :class:`~anytask.multitask.SharedTrunk`. Balancers take the shared weights' gradients.

    Examples
    --------
    A frozen layer, and two tasks that need the same change of it, and a further one each:

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> W, D = rng.normal(size=(8, 8)) / 3, 2 * np.outer(rng.normal(size=8), rng.normal(size=8)) / 3
    >>> X = rng.normal(size=(600, 8))
    >>> own = [np.outer(rng.normal(size=8), rng.normal(size=8)) / 3 for _ in range(2)]
    >>> Y = np.stack([np.tanh(X @ (W + D + E).T) @ rng.normal(size=8) for E in own], axis=1)
    >>> layer = nn.Linear(8, 8, bias=False)
    >>> layer.weight.data = torch.tensor(W, dtype=torch.float32)
    >>> pairs = {"rank": 1, "task_rank": 1, "dropout": 0.0}
    >>> model = MTLoRA(backbone=nn.Sequential(layer, nn.Tanh()), low_rank=pairs, lr=0.02, epochs=60)
    >>> model = model.fit(X[:300], Y[:300])
    >>> bool(((model.predict(X[300:]) - Y[300:]) ** 2).mean() < 0.3 * Y[300:].var())
    True

    References
    ----------
    Agiza, Neseem, Reda, 2024, "MTLoRA: A Low-Rank Adaptation Approach for Efficient Multi-Task Learning", CVPR,
    arXiv:2403.20320.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"low_rank": {"rank": 8}},
        "paper": {
            "backbone": "microsoft/swin-tiny-patch4-window7-224", "low_rank": {"rank": 64, "mode": "matrix"},
            "lr": 5e-4 * 32 / 512, "epochs": 300, "batch_size": 32,
        },
    }  # fmt: skip

    low_rank: LowRank = group(LowRank, "ranks, scale and places of the pairs")
    adapter: str | os.PathLike[str] | None = of_kind(
        None, (str, os.PathLike), "a folder", "adapter of PEFT that the shared pairs start from", optional=True
    )
    task_weights: Sequence[float] | None = numbers(None, "weights of the tasks' losses", above=0, optional=True)
    scale_inputs: Any = flag("auto", "bring inputs to mean 0 and deviation 1", words=("auto",))
    weight_decay: float = real(0.05, "of AdamW, on matrices", at_least=0)
    warmup: float = real(1 / 15, "share of the steps in which the rate rises", at_least=0, below=1)
    max_grad_norm: float = real(5.0, "norm that gradients are clipped to", above=0)

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.backbone is None and len(self.hidden) < 2:
            raise ValueError(f"a perceptron needs two hidden layers or more for pairs, got hidden={self.hidden}")

    def save_adapter(self, folder: str | os.PathLike[str]) -> None:
        """Write the shared pairs, and what is trained beside them in the backbone, as an adapter of PEFT."""
        self._check_fitted()
        self._streams.save_adapter(folder)

    # -- the network ----------------------------------------------------------------------------------------------

    @property
    def _streams(self) -> LowRankTasks:
        return cast(LowRankTasks, self.trunk_[1])

    def _body(self) -> tuple[nn.Module, int]:
        backbone, low_rank = self.backbone, self.low_rank
        if isinstance(backbone, str) and len(self.input_shape_) == 1:
            from transformers import AutoModel

            backbone = load_pretrained(AutoModel, backbone)
        if getattr(backbone, "main_input_name", None) == "input_ids":
            backbone = TokenFeatures(backbone)
        seed = derive(self.seed, "trunk")
        body, width = build_body(backbone, self.input_shape_, self.hidden, self.n_features, seed)
        if backbone is None:  # a random perceptron's first layer takes the place of a patch embedding
            target, trained = low_rank.target or r"layers\.(?!1$)", rf"{low_rank.trainable}|layers\.1\."
            low_rank = clone(low_rank).set_params(target=target, trainable=trained)
        return LowRankTasks(body.float(), len(self.tasks_), low_rank), width

    def _build(self) -> None:
        if self.task_weights is not None and len(self.task_weights) != len(self.tasks_):
            raise ValueError(f"there are {len(self.tasks_)} tasks, got {len(self.task_weights)} task_weights")
        super()._build()
        if self.scale_inputs is not True and (not self.scale_inputs or self.backbone is not None):
            self.trunk_[0] = Unscaled(self.input_shape_).to(self._device).eval()

    def _train(self, cells: Cells, progress: Progress) -> None:
        if self._streams.unread:
            warnings.warn(f"With mode='matrix' no task reads the shared pair of {self._streams.unread}", stacklevel=3)
        if self.adapter is not None:
            self._streams.load_adapter(self.adapter)
        super()._train(cells, progress)

    def _features(self, X: Tensor, codes: Sequence[int]) -> list[Tensor]:
        return self.trunk_[1](self.trunk_[0](X), tasks=codes)

    # -- training -------------------------------------------------------------------------------------------------

    def _losses(self, x: Tensor, place: Tensor, task: Tensor, y: Tensor) -> Iterator[Tensor]:
        weights = [1.0] * len(self.tasks_) if self.task_weights is None else self.task_weights
        for w, loss in zip(weights, super()._losses(x, place, task, y)):
            yield w * loss

    def _optimizer(self, weights: list[nn.Parameter], n_steps: int) -> torch.optim.Optimizer:
        decays = [[weight for weight in weights if (weight.dim() > 1) is matrix] for matrix in (True, False)]
        groups = [{"params": decays[0], "weight_decay": self.weight_decay}, {"params": decays[1], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, self.lr)
        rising = self.warmup * n_steps

        def share(step: int) -> float:
            if step < rising:
                return 1e-3 + (1 - 1e-3) * step / rising
            return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - rising) / (n_steps - rising))) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)

        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(weights, self.max_grad_norm)

        optimizer.register_step_pre_hook(clip)
        optimizer.register_step_post_hook(lambda *_: schedule.step())
        return optimizer

    def _steps(self, optimizer: torch.optim.Optimizer, aggregate: Aggregate) -> TaskSteps:
        own = [nn.ParameterList(self._streams.specific(task)) for task in range(len(self.tasks_))]
        taken = {id(weight) for pairs in own for weight in pairs}
        shared = nn.ParameterList(weight for weight in self.trunk_.parameters() if id(weight) not in taken)
        return TaskSteps(shared, [nn.ModuleList(pair) for pair in zip(self.heads_, own)], optimizer, aggregate)


class Unscaled(Scaled):
    """Leave inputs as they are."""

    def fit(self, X: Tensor) -> None:
        """Take nothing."""


class TokenFeatures(nn.Module):
    """The features of texts in a language model of transformers.

    Of a model whose tokens see those before them alone, that of the last token; of any other the mean of all. Tokens
    below 0, or that the model takes for padding, are none.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = copy.deepcopy(model.base_model).float()  # without a head of its own
        self.model.config.use_cache = False
        self.last = any(getattr(module, "is_causal", False) for module in self.model.modules())

    def forward(self, x: Tensor) -> Tensor:  # ids (n, length) -> (n, d)
        pad = self.model.config.pad_token_id
        valid = (x >= 0) if pad is None else (x >= 0) & (x != pad)
        valid[:, 0] = True
        mask, ids, n = valid.long(), x.long(), self.model.config.vocab_size
        if bool((ids != x).any()) or ids.max() >= n:
            raise ValueError(f"the backbone reads token ids: whole numbers below {n}, and below 0 for padding")
        h = self.model(input_ids=ids.clamp(min=0), attention_mask=mask).last_hidden_state  # (n, length, d)
        place = torch.arange(x.shape[1], device=x.device)
        weight = (place == (place * mask).argmax(1, keepdim=True)) if self.last else valid
        return (h * weight[:, :, None]).sum(1) / weight.sum(1, keepdim=True)
