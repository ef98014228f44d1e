"""TAME: a growing set of experts, switched by the loss, and a selector that routes at test time."""

from __future__ import annotations

import copy
import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anytask.continual.base import ContinualClassifier, parameter_count
from anytask.continual.parts.pruning import apply_masks, magnitude_masks
from anytask.continual.parts.sgd import mode, sgd_step, train_on
from anytask.continual.parts.stream import LossShiftDetector, Reservoir, content_keys
from anytask.core.rng import derive, isolated
from anytask.core.rollback import rollback
from anytask.models.build import Backbone, build_backbone

__all__ = ["TAME"]

logger = logging.getLogger(__name__)


class Expert:
    """One expert: a network with its own optimiser, loss statistics, label slots and pruning buffer.

    Attributes
    ----------
    network : torch.nn.Module
        Maps (n, \\*input_shape) to (n, C).
    optimizer : torch.optim.SGD
        Holds this network's parameters only.
    detector : LossShiftDetector
        The smoothed loss s over all mini-batches and the window w over those in which the expert was active.
    r : float or None
        Smoothed loss over the mini-batches in which the expert was active.
    steps : int
        Optimiser steps so far; the learning-rate schedule counts these.
    slots : ndarray of shape (C, labels seen)
        How often each label code met each of the C outputs while the expert was active.
    masks : dict of bool tensors
        Weights that survived pruning; empty before it.
    samples : Reservoir
        The expert's own (x, y), kept for retraining after pruning.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.SGD,
        detector: LossShiftDetector,
        n_slots: int,
        samples: Reservoir,
    ) -> None:
        self.network, self.optimizer, self.detector, self.samples = network, optimizer, detector, samples
        self.r: float | None = None
        self.steps = 0
        self.slots = np.zeros((n_slots, 0), dtype=np.int64)
        self.masks: dict[str, Tensor] = {}
        self._kept: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def count(self, slots: np.ndarray, codes: np.ndarray) -> None:
        """Note which label code met which output."""
        wide = max(self.slots.shape[1], int(codes.max()) + 1)
        counted = np.zeros((len(self.slots), wide), dtype=np.int64)
        counted[:, : self.slots.shape[1]] = self.slots
        np.add.at(counted, (slots, codes), 1)
        self.slots = counted

    def about_to_change(self) -> None:
        """Remember the weights, once per chunk, so that a failed chunk can put them back.

        Experts that a chunk leaves alone are never copied, however many there are.
        """
        if self._kept is None:
            weights = {name: t.detach().clone() for name, t in self.network.state_dict().items()}
            self._kept = weights, copy.deepcopy(self.optimizer.state_dict())

    def __snapshot__(self) -> Callable[[], None]:
        light = {k: v for k, v in vars(self).items() if k not in ("network", "optimizer")}
        parts = self.detector.__snapshot__(), self.samples.__snapshot__()
        light["_kept"] = self._kept = None

        def undo() -> None:
            if self._kept is not None:
                self.network.load_state_dict(self._kept[0])
                self.optimizer.load_state_dict(self._kept[1])
            vars(self).update(light)
            for part in parts:
                part()

        return undo

    def state(self) -> dict[str, Any]:
        """Return everything :meth:`load_state` needs."""
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "detector": self.detector.state(),
            "r": self.r,
            "steps": self.steps,
            "slots": self.slots,
            "masks": dict(self.masks),
            "samples": self.samples.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.detector.load_state(state["detector"])
        self.r, self.steps, self.slots = state["r"], state["steps"], state["slots"]
        device = next(self.network.parameters()).device
        self.masks = {name: mask.to(device) for name, mask in state["masks"].items()}
        self.samples.load_state(state["samples"])


class TAME(ContinualClassifier):
    """Learn from a stream whose tasks change unannounced; find the changes, and route at test time without task ids.

    One expert network is trained at a time. When its smoothed loss rises above a threshold from its own recent losses,
    the distribution has changed: an earlier expert whose loss is low takes over (a task that comes back is recognised),
    or a new expert is made. A selector network, trained on a small sample of the stream, sends each test input to an
    expert. Pick it when tasks come in long runs, nobody can say when they change, and old tasks must stay exactly as
    they were learned; when every mini-batch mixes all classes, a single network with a replay buffer is simpler.

    Parameters
    ----------
    backbone : None, str, torch.nn.Module or callable
        The expert (see :func:`anytask.models.build.build_backbone`), with ``n_classes`` outputs. Every expert starts
        as a fresh one; a module given here is copied.
    selector : None, str or callable
        The selector, likewise; its width is the number of experts, so a module cannot be given.
    n_classes : int, at least 2, optional
        C, the number of classes inside one task; the loss of a guess, ln C, starts each expert's window. ``None``: the
        number of labels in the first chunk.
    hidden, selector_hidden : sequence of int
        Hidden widths of the default networks.
    alpha : float in (0, 1]
        a, weight of the newest loss in the moving averages (paper: 0.2).
    window : int, at least 2
        W, losses the threshold looks back on (paper: 100; its released script for split MNIST: 35).
    k, floor : float
        The threshold is mean + ``k`` * max(std, ``floor``) (paper: 3, 0.005).
    pick : {"first", "best"}, default "first"
        Among earlier experts that qualify: the oldest (paper), or the one with the lowest smoothed loss.
    squash_logits : bool, default True
        Pass the outputs of experts and selector through a sigmoid before the softmax (paper). This bounds the loss of a
        young expert near ln C, so that it does not look like another change.
    lr, momentum, nesterov, weight_decay
        SGD of the experts (paper: 0.1, 0.9, True, 5e-4).
    steps_per_epoch : int, optional
        A stream announces no epochs: give their length in mini-batches to switch the two schedules below on.
    milestones, gamma
        Epochs of the expert's own at which ``gamma`` multiplies its learning rate (paper: 60, 120, 160, 230; 0.2).
    warmup_epochs : float
        Epochs over which a new expert's learning rate rises linearly from 0 (paper: 1 for CIFAR-100, 0 for MNIST).
    selector_buffer : int
        C_s, samples kept for the selector (paper: 2500 to 7500).
    balanced_buffer : bool, default False
        Keep the same number of samples of each label instead of a uniform sample (the released code does; it makes
        sense where tasks have labels of their own).
    selector_epochs, selector_lr, selector_batch_size, selector_weight_decay
        Training of the selector (paper: 200; 0.1 on MNIST, 1e-4 on CIFAR; 128; 5e-4 taken from the experts).
    prune : bool
        Prune experts when a new one is made, and the selector after its training.
    rho_expert, rho_selector : float in [0, 1)
        Share of the weights to remove (paper: 0.98, 0.5).
    pruning_buffer : int
        C_p, samples of its own that an expert is retrained on after pruning (paper: 200 to 6000).
    retrain : bool, default True
        Retrain the surviving weights after pruning.
    retrain_epochs, retrain_lr, selector_retrain_lr, retrain_weight_decay
        That retraining (paper: 200, 0.1, 1e-3, 1e-4).
    routing : {"selector", "random"}, default "selector"
        ``"random"`` sends every input to an expert drawn at random: the ablation.
    preset : {"paper", "small"}, default "paper"
        ``"small"`` is for streams of a few thousand small inputs: batch 16 (64 for the selector), window 35, selector
        buffer 500, no Nesterov momentum, no pruning (and a rate of 0.9 and 200 samples if it is switched on).
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`. A last mini-batch of less than half the size is
        joined to the one before it, because its loss would be too noisy to judge.

    Attributes
    ----------
    experts_ : list of Expert
        In the order of their making.
    n_experts_ : int
        How many there are.
    active_ : int
        The one that is being trained.
    history_ : list of (int, int)
        (mini-batch, expert) for every time another expert became active, the first one included.
    borders_ : list of int
        Mini-batches at which a switch to another or to a new expert happened.
    switches_ : int
        ``len(borders_)``.
    classes_ : ndarray
        Labels seen so far, sorted.

    Raises
    ------
    ValueError
        If ``n_classes`` is neither given nor visible in the first chunk, or a parameter is out of range.
    FloatingPointError
        If an expert's loss is NaN or infinite; the model is left as it was before the chunk.

    Notes
    -----
    An expert has C outputs, not one per label: the i-th label to appear belongs to output i mod C, and each expert
    counts which labels it met at each output. Its probability of a label is that of the output times the label's share
    there. So streams with new labels in every task (C = classes per task) and streams with the same labels in every
    task (C = all classes) go the same way.

    The selector is trained when predictions are asked for after new data, from scratch, and asking leaves no trace in
    the training. It takes ``selector_epochs`` passes over at most ``selector_buffer`` samples.

    Examples
    --------
    In the second of three parts the labels are swapped, and then the first part comes back; nobody says so:

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 2400)
    >>> x = rng.normal(size=(2400, 4)) * 0.3
    >>> x[:, 0] += 2 * y
    >>> x[800:1600, 1] += 2
    >>> y[800:1600] = 1 - y[800:1600]
    >>> model = TAME(preset="small", n_classes=2, window=20, selector_epochs=20).partial_fit(x, y)
    >>> model.n_experts_, model.borders_
    (2, [50, 100])
    >>> routed = (model.predict(x) == y).mean()
    >>> bool(routed > (model.set_params(routing="random").predict(x) == y).mean() + 0.3)
    True

    References
    ----------
    H. Zhu, M. Majzoubi, A. Jain, A. Choromanska. TAME: Task Agnostic Continual Learning using Multiple Experts.
    2022, arXiv:2210.03869.

    **Departures from the paper.** Each expert keeps its own pruning buffer until it is pruned, instead of one buffer
    that is emptied for every new expert: when an earlier expert takes over in between, one buffer would mix two
    experts' samples. All idle experts not yet pruned are pruned when a new one is made; the end of a stream is not
    visible to the learner, so call :meth:`prune_experts` there. An expert that becomes active again after pruning is
    trained under its mask. Sampling priorities are hashes of the samples instead of fresh draws, which gives the same
    distribution and recognises a sample seen before without a list of all samples.
    """

    experts_: list[Expert]
    active_: int
    history_: list[tuple[int, int]]
    _t: int  # mini-batches so far
    _n_slots: int  # C; 0 until the first chunk
    _buffer: Reservoir  # (x, expert) for the selector
    _selector_net: nn.Module | None  # None when it has to be trained again

    needs: ClassVar[str] = "none"
    sees: ClassVar[str] = "none"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "batch_size": 128, "epochs": 10, "window": 100, "nesterov": True, "selector_buffer": 5000,
            "selector_batch_size": 128, "prune": True,
            "rho_expert": 0.98, "pruning_buffer": 6000,
        },
        "small": {
            "batch_size": 16, "epochs": 10, "window": 35, "nesterov": False, "selector_buffer": 500,
            "selector_batch_size": 64, "prune": False,
            "rho_expert": 0.9, "pruning_buffer": 200,
        },
    }  # fmt: skip

    def __init__(
        self,
        backbone: Backbone = None,
        selector: Backbone = None,
        *,
        n_classes: int | None = None,
        hidden: Sequence[int] = (64, 64),
        selector_hidden: Sequence[int] = (128,),
        alpha: float = 0.2,
        window: int | None = None,
        k: float = 3.0,
        floor: float = 0.005,
        pick: Literal["first", "best"] = "first",
        squash_logits: bool = True,
        lr: float = 0.1,
        momentum: float = 0.9,
        nesterov: bool | None = None,
        weight_decay: float = 5e-4,
        steps_per_epoch: int | None = None,
        milestones: Sequence[int] = (60, 120, 160, 230),
        gamma: float = 0.2,
        warmup_epochs: float = 0,
        selector_buffer: int | None = None,
        balanced_buffer: bool = False,
        selector_epochs: int = 200,
        selector_lr: float = 0.1,
        selector_batch_size: int | None = None,
        selector_weight_decay: float = 5e-4,
        prune: bool | None = None,
        rho_expert: float | None = None,
        rho_selector: float = 0.5,
        pruning_buffer: int | None = None,
        retrain: bool = True,
        retrain_epochs: int = 200,
        retrain_lr: float = 0.1,
        selector_retrain_lr: float = 1e-3,
        retrain_weight_decay: float = 1e-4,
        routing: Literal["selector", "random"] = "selector",
        preset: str = "paper",
        epochs: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.selector = selector
        self.n_classes = n_classes
        self.hidden = hidden
        self.selector_hidden = selector_hidden
        self.alpha = alpha
        self.window = window
        self.k = k
        self.floor = floor
        self.pick = pick
        self.squash_logits = squash_logits
        self.lr = lr
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.steps_per_epoch = steps_per_epoch
        self.milestones = milestones
        self.gamma = gamma
        self.warmup_epochs = warmup_epochs
        self.selector_buffer = selector_buffer
        self.balanced_buffer = balanced_buffer
        self.selector_epochs = selector_epochs
        self.selector_lr = selector_lr
        self.selector_batch_size = selector_batch_size
        self.selector_weight_decay = selector_weight_decay
        self.prune = prune
        self.rho_expert = rho_expert
        self.rho_selector = rho_selector
        self.pruning_buffer = pruning_buffer
        self.retrain = retrain
        self.retrain_epochs = retrain_epochs
        self.retrain_lr = retrain_lr
        self.selector_retrain_lr = selector_retrain_lr
        self.retrain_weight_decay = retrain_weight_decay
        self.routing = routing
        self.preset = preset
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    # -- training -------------------------------------------------------------------------------------------------

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        s = self._settings()
        if not self._n_slots:
            self._n_slots = s.n_classes or len(torch.unique(y))
            if self._n_slots < 2:
                raise ValueError(
                    "n_classes (C, the number of classes inside one task) is not given, and the first chunk has "
                    "one label only: pass TAME(n_classes=...)"
                )
        for rows in self._joined(len(X)):
            self._observe(X[rows], y[rows], s)

    def _joined(self, n: int) -> Iterator[slice]:
        """Mini-batches of a chunk, a last one of less than half the size joined to the one before."""
        slices = list(self._minibatches(n))
        if len(slices) > 1 and 2 * (slices[-1].stop - slices[-1].start) < slices[0].stop:
            tail = slices.pop()
            slices[-1] = slice(slices[-1].start, tail.stop)
        yield from slices

    def _observe(self, X: Tensor, y: Tensor, s: SimpleNamespace) -> None:
        """One mini-batch: measure every loss, judge, choose, step, and only then let the loss into the window."""
        slots = y % self._n_slots
        if not self.experts_:
            self._new_expert(s)
            self.history_.append((self._t, 0))
        losses = [self._loss_of(e, X, slots) for e in self.experts_]
        for expert, loss in zip(self.experts_, losses, strict=True):
            expert.detector.smooth(loss)
        if self.experts_[self.active_].detector.shifted:
            chosen = self._choose(losses, s)
            if chosen is None:
                chosen = self._new_expert(s)
                losses.append(self._loss_of(self.experts_[chosen], X, slots))
                self.experts_[chosen].detector.smooth(losses[chosen])
            if chosen != self.active_:  # the window that fired may pick the same expert again: no switch
                self.history_.append((self._t, chosen))
                logger.debug("mini-batch %d: expert %d takes over from %d", self._t, chosen, self.active_)
                self.active_ = chosen
        self._step(self.experts_[self.active_], losses[self.active_], X, y, slots, s)
        self._fill_buffers(X, y, s)
        self._t += 1

    def _choose(self, losses: list[float], s: SimpleNamespace) -> int | None:
        """The expert that explains this mini-batch, the active one included; None if there is none."""
        fitting = {}
        for j, (expert, loss) in enumerate(zip(self.experts_, losses, strict=True)):
            v = s.alpha * loss + (1 - s.alpha) * (loss if expert.r is None else expert.r)
            if v < expert.detector.threshold:
                fitting[j] = v
        if not fitting:
            return None
        return min(fitting) if s.pick == "first" else min(fitting, key=lambda j: fitting[j])

    def _step(self, expert: Expert, loss: float, X: Tensor, y: Tensor, slots: Tensor, s: SimpleNamespace) -> None:
        expert.about_to_change()
        for group in expert.optimizer.param_groups:
            group["lr"] = self._learning_rate(expert.steps, s)
        sgd_step(
            expert.network,
            expert.optimizer,
            lambda: self._cross_entropy(expert.network(X), slots),
            len(X),
            expert.masks,
        )
        expert.steps += 1
        expert.detector.record(loss)
        expert.r = loss if expert.r is None else s.alpha * loss + (1 - s.alpha) * expert.r
        expert.count(slots.cpu().numpy(), y.cpu().numpy())

    def _learning_rate(self, steps: int, s: SimpleNamespace) -> float:
        if s.steps_per_epoch is None:
            return s.lr
        epoch = steps / s.steps_per_epoch
        warm = min(1.0, (steps + 1) / (s.warmup_epochs * s.steps_per_epoch)) if s.warmup_epochs else 1.0
        return s.lr * warm * s.gamma ** bisect_right(sorted(s.milestones), epoch)

    def _fill_buffers(self, X: Tensor, y: Tensor, s: SimpleNamespace) -> None:
        ids = torch.full_like(y, self.active_)
        if self._buffer.add(X, ids, groups=y):
            self._selector_net = None
        expert = self.experts_[self.active_]
        if s.prune and not expert.masks:
            expert.samples.add(X, y, keys=content_keys(X, y))

    def _loss_of(self, expert: Expert, X: Tensor, slots: Tensor) -> float:
        with torch.no_grad(), mode(expert.network, training=False):
            loss = float(self._cross_entropy(expert.network(X), slots))
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss of expert {self.experts_.index(expert)} is {loss} at mini-batch {self._t}: lower lr may help"
            )
        return loss

    def _cross_entropy(self, outputs: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(self._squash(outputs), target)

    def _squash(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid() if self.squash_logits else outputs

    def _new_expert(self, s: SimpleNamespace) -> int:
        """Make an expert, and prune the idle ones: their segments have ended."""
        if s.prune:
            self._prune_experts(s)
        m = len(self.experts_)
        network = build_backbone(
            s.backbone, self.input_shape_, self._n_slots, seed=derive(self.seed, "expert", m), hidden=s.hidden
        ).to(self.device_)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=s.lr, momentum=s.momentum, nesterov=s.nesterov, weight_decay=s.weight_decay
        )
        detector = LossShiftDetector(s.alpha, s.window, s.k, s.floor, initial=math.log(self._n_slots))
        samples = Reservoir(s.pruning_buffer, derive(self.seed, "pruning buffer", m))
        self.experts_.append(Expert(network, optimizer, detector, self._n_slots, samples))
        self._selector_net = None
        return m

    # -- pruning --------------------------------------------------------------------------------------------------

    def prune_experts(self) -> TAME:
        """Prune every expert not yet pruned, the active one included: for the end of a stream."""
        self._check_fitted()
        with rollback(self, skip=frozenset(self.get_params(deep=False))):
            self._prune_experts(self._settings())
        return self

    def _prune_experts(self, s: SimpleNamespace) -> None:
        for m, expert in enumerate(self.experts_):
            if expert.masks or not expert.steps:
                continue
            expert.about_to_change()
            masks = magnitude_masks(expert.network, s.rho_expert)
            apply_masks(expert.network, masks)
            if s.retrain and len(expert.samples):
                X, y = (t.to(self.device_) for t in expert.samples.data())
                self._retrain(expert.network, masks, X, y % self._n_slots, s.retrain_lr, ("retrain", m), s)
            expert.masks = masks
            expert.samples.clear()
            # Momentum from before would push against the mask should the expert become active again.
            expert.optimizer.load_state_dict({**expert.optimizer.state_dict(), "state": {}})

    def _retrain(
        self,
        network: nn.Module,
        masks: dict[str, Tensor],
        X: Tensor,
        y: Tensor,
        lr: float,
        path: tuple,
        s: SimpleNamespace,
    ) -> None:
        optimizer = torch.optim.SGD(
            network.parameters(), lr=lr, momentum=s.momentum, nesterov=s.nesterov, weight_decay=s.retrain_weight_decay
        )
        steps, seed = s.retrain_epochs * math.ceil(len(X) / s.batch_size), derive(self.seed, *path)
        with isolated(seed):
            train_on(
                network, optimizer, X, y, self._cross_entropy,
                batch_size=s.batch_size, steps=steps, seed=seed, masks=masks,
            )  # fmt: skip

    # -- prediction -----------------------------------------------------------------------------------------------

    def _fit_selector(self) -> nn.Module | None:
        """Train the selector on its buffer (x -> expert), unless nothing was added since; None for a single expert."""
        if self.n_experts_ == 1 or self._selector_net is not None:
            return self._selector_net
        s = self._settings()
        X, experts = (t.to(self.device_) for t in self._buffer.data())
        network = self._build_selector(s)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=s.selector_lr, momentum=s.momentum, nesterov=s.nesterov,
            weight_decay=s.selector_weight_decay,
        )  # fmt: skip
        steps, seed = s.selector_epochs * math.ceil(len(X) / s.selector_batch_size), derive(self.seed, "selector order")
        with isolated(seed):
            train_on(
                network, optimizer, X, experts, self._cross_entropy,
                batch_size=s.selector_batch_size, steps=steps, seed=seed,
            )  # fmt: skip
        if s.prune:
            masks = magnitude_masks(network, s.rho_selector)
            apply_masks(network, masks)
            if s.retrain:
                self._retrain(network, masks, X, experts, s.selector_retrain_lr, ("retrain selector",), s)
        self._selector_net = network.eval()
        return network

    def _build_selector(self, s: SimpleNamespace) -> nn.Module:
        seed = derive(self.seed, "selector")
        network = build_backbone(s.selector, self.input_shape_, self.n_experts_, seed=seed, hidden=s.selector_hidden)
        return network.to(self.device_)

    @torch.no_grad()
    def _route(self, X: Tensor) -> Tensor:
        """The expert of each row, (n,)."""
        if self.routing == "random":
            return torch.randint(self.n_experts_, (len(X),)).to(X.device)
        selector = self._fit_selector()
        if selector is None:
            return torch.zeros(len(X), dtype=torch.long, device=X.device)
        return selector(X).argmax(dim=1)

    def _scores(self, X: Tensor, task: object) -> Tensor:
        return self._scores_of(X, self._route(X))

    @torch.no_grad()
    def _scores_of(self, X: Tensor, route: Tensor) -> Tensor:
        """Log-probabilities (n, codes) by each row's expert: log of p(output) times the label's share of it."""
        scores = torch.full((len(X), len(self._codes)), -torch.inf, device=X.device)
        for j in route.unique().tolist():
            expert, rows = self.experts_[j], route == j
            with mode(expert.network, training=False):
                p = self._squash(expert.network(X[rows])).softmax(dim=1)  # (rows, C)
            share = torch.from_numpy(
                expert.slots / np.maximum(1, expert.slots.sum(axis=1, keepdims=True))
            )  # (C, codes)
            scores[rows, : share.shape[1]] = (p @ share.to(p)).log()
        return scores

    def predict_expert(self, X: ArrayLike | Tensor) -> np.ndarray:
        """Return which expert each input is sent to, shape (n,)."""
        X_ = self._check_query(X)
        with isolated(derive(self.seed, "predict")):
            return self._route(X_.to(self.device_)).cpu().numpy()

    def predict_with(self, X: ArrayLike | Tensor, experts: int | ArrayLike) -> np.ndarray:
        """Return labels, shape (n,), from experts that the caller names: one for all, or one per row (an oracle)."""
        X_ = self._check_query(X)
        route = np.broadcast_to(np.asarray(experts), (len(X_),))
        if route.min() < 0 or route.max() >= self.n_experts_:
            raise ValueError(f"experts must be between 0 and {self.n_experts_ - 1}, got {route.min()} to {route.max()}")
        scores = self._scores_of(X_.to(self.device_), torch.tensor(route.astype(np.int64), device=self.device_))
        return self.classes_[scores[:, torch.from_numpy(self._order)].argmax(dim=1).cpu().numpy()]

    # -- state ----------------------------------------------------------------------------------------------------

    @property
    def n_experts_(self) -> int:
        """How many experts there are."""
        return len(self.experts_)

    @property
    def borders_(self) -> list[int]:
        """Mini-batches at which another expert became active."""
        return [t for t, _ in self.history_[1:]]

    @property
    def switches_(self) -> int:
        """How often another expert became active."""
        return len(self.history_) - 1

    def _build(self, input_shape: tuple[int, ...]) -> None:
        s = self._settings()
        self.experts_ = []
        self.active_ = 0
        self.history_ = []
        self._t = 0
        self._n_slots = 0
        self._buffer = Reservoir(s.selector_buffer, derive(self.seed, "selector buffer"), balanced=s.balanced_buffer)
        self._selector_net = None

    def _check_params(self) -> None:
        super()._check_params()
        s = self._settings()
        if s.n_classes is not None and s.n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {s.n_classes!r}")
        if s.pick not in ("first", "best"):
            raise ValueError(f"pick must be 'first' or 'best', got {s.pick!r}")
        if s.routing not in ("selector", "random"):
            raise ValueError(f"routing must be 'selector' or 'random', got {s.routing!r}")
        if isinstance(s.selector, nn.Module):
            raise TypeError(
                "selector must be None, a name or a callable: its width is the number of experts, which grows"
            )
        for name in ("rho_expert", "rho_selector"):
            if not 0 <= getattr(s, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(s, name)!r}")
        LossShiftDetector(s.alpha, s.window, s.k, s.floor)  # checks its own

    def _state(self) -> dict[str, Any]:
        selector = self._fit_selector()
        return {
            "experts": [e.state() for e in self.experts_],
            "active": self.active_,
            "history": self.history_,
            "t": self._t,
            "n_slots": self._n_slots,
            "buffer": self._buffer.state(),
            "selector": None if selector is None else dict(selector.state_dict()),
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        s = self._settings()
        self._n_slots, self._t, self.active_, self.history_ = (
            state["n_slots"],
            state["t"],
            state["active"],
            state["history"],
        )
        for saved in state["experts"]:
            self._new_expert(SimpleNamespace(**{**vars(s), "prune": False}))
            self.experts_[-1].load_state(saved)
        self._buffer.load_state(state["buffer"])
        if state["selector"] is not None:
            selector = self._build_selector(s).eval()
            selector.load_state_dict(state["selector"])
            self._selector_net = selector

    def cost(self) -> dict[str, int]:
        """Return what the model keeps: experts, selector and samples; pruned weights do not count as stored."""
        self._check_fitted()
        networks = [e.network for e in self.experts_]
        selector = [] if self.n_experts_ == 1 else [self._build_selector(self._settings())]
        removed = sum(int((~m).sum()) for e in self.experts_ for m in e.masks.values())
        return {
            "trainable_parameters": parameter_count(networks[self.active_]),
            "stored_parameters": parameter_count(*networks, *selector) - removed,
            "stored_samples": len(self._buffer) + sum(len(e.samples) for e in self.experts_),
        }

    @classmethod
    def settings_for(cls, stream: Any) -> dict[str, Any]:
        """Return ``batch_size``, ``epochs`` and ``n_classes`` of a stream to come."""
        return {**super().settings_for(stream), "n_classes": stream.classes_per_task}
