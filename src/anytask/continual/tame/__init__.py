"""TAME: a growing set of experts, switched by the loss, and a selector that routes at test time.

Departures from the paper: each expert keeps its own pruning buffer until it is pruned, instead of one buffer that is
emptied for every new expert: when an earlier expert takes over in between, one buffer would mix two experts' samples.
All idle experts not yet pruned are pruned when a new one is made; the end of a stream is not visible to the learner, so
call :meth:`TAME.prune_experts` there. An expert that becomes active again after pruning is trained under its mask.
Sampling priorities are hashes of the samples instead of fresh draws, which gives the same distribution and recognizes a
sample seen before without a list of all samples.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anytask.continual.base import ContinualClassifier
from anytask.continual.parts.pruning import apply_masks, magnitude_masks
from anytask.continual.parts.sgd import ScheduleSettings, mode, sgd_step, train_on, tune
from anytask.continual.parts.stream import LossShiftDetector, Reservoir, content_keys
from anytask.continual.tame.expert import Expert
from anytask.core.checks import as_array, check_labels, require_finite
from anytask.core.cost import parameter_count
from anytask.core.rng import derive, isolated
from anytask.core.settings import Settings, choice, flag, free, group, numbers, real, whole
from anytask.models.build import backbone_field, build_backbone

__all__ = ["TAME"]

logger = logging.getLogger(__name__)


def _check_selector(backbone: Any) -> None:
    if isinstance(backbone, nn.Module) or not (backbone is None or isinstance(backbone, str) or callable(backbone)):
        raise TypeError(
            "backbone of the selector must be None, a name or a callable: its width is the number of experts, "
            "which grows"
        )


class SelectorSettings(Settings):
    """The network that sends each test input to an expert, and its training.

    Parameters
    ----------
    backbone : None, str or callable
        The network (see :func:`anytask.models.build.build_backbone`); its width is the number of experts, so a module
        cannot be given.
    hidden : sequence of int
        Hidden widths of the default network.
    buffer : int
        C_s, samples kept for it (paper: 2500 to 7500).
    balanced : bool
        Keep the same number of samples of each label instead of a uniform sample (the released code does; it makes
        sense where tasks have labels of their own).
    epochs, lr, batch_size, weight_decay
        Its training, from scratch, whenever predictions are asked for after new data (paper: 200; 0.1 on MNIST, 1e-4 on
        CIFAR; 128; 5e-4 taken from the experts).
    routing : {"selector", "random"}
        ``"random"`` sends every input to an expert drawn at random: the ablation.
    """

    backbone: Any = free(None, "the network; None for an MLP, a name or a callable", _check_selector)
    hidden: Sequence[int] = numbers((128,), "hidden widths of the default network", at_least=1, integers=True)
    buffer: int = whole(5000, "samples kept for it")
    balanced: bool = flag(False, "keep the same number of samples of each label")
    epochs: int = whole(200, "passes over its samples")
    lr: float = real(0.1, "learning rate", above=0)
    batch_size: int = whole(128, "rows of a mini-batch")
    weight_decay: float = real(5e-4, "weight decay", at_least=0)
    routing: str = choice("selector", ("selector", "random"), "who sends an input to an expert")


class PruningSettings(Settings):
    """Pruning of experts when a new one is made, and of the selector after its training.

    Parameters
    ----------
    enabled : bool
    rho_expert, rho_selector : float in [0, 1)
        Share of the weights to remove (paper: 0.98, 0.5).
    buffer : int
        C_p, samples of its own that an expert is retrained on (paper: 200 to 6000).
    retrain : bool
        Retrain the surviving weights.
    epochs, lr, selector_lr, weight_decay
        That retraining (paper: 200, 0.1, 1e-3, 1e-4).
    """

    enabled: bool = flag(True, "prune experts when a new one is made, and the selector after its training")
    rho_expert: float = real(0.98, "share of an expert's weights to remove", at_least=0, below=1)
    rho_selector: float = real(0.5, "share of the selector's weights to remove", at_least=0, below=1)
    buffer: int = whole(6000, "samples of its own that an expert is retrained on")
    retrain: bool = flag(True, "retrain the surviving weights")
    epochs: int = whole(200, "passes of the retraining")
    lr: float = real(0.1, "learning rate of an expert's retraining", above=0)
    selector_lr: float = real(1e-3, "learning rate of the selector's retraining", above=0)
    weight_decay: float = real(1e-4, "weight decay of the retraining", at_least=0)


class TAME(ContinualClassifier):
    """Learn from a stream whose tasks change unannounced; find the changes, and route at test time without task ids.

    One expert network is trained at a time. When its smoothed loss rises above a threshold from its own recent losses,
    the distribution has changed: an earlier expert whose loss is low takes over (a task that comes back is recognized),
    or a new expert is made. A selector network, trained on a small sample of the stream, sends each test input to an
    expert. Pick it when tasks come in long runs, nobody can say when they change, and old tasks must stay exactly as
    they were learned; when every mini-batch mixes all classes, a single network with a replay buffer is simpler.

    Parameters
    ----------
    backbone, hidden
        The expert (see :func:`anytask.models.build.build_backbone`), with ``n_classes`` outputs; a module is copied.
        ``hidden`` are the widths of the default one.
    n_classes : int, at least 2, optional
        C, the number of classes inside one task; the loss of a guess, ln C, starts each expert's window. ``None``: the
        number of labels in the first chunk; labels that would then share an output are refused. The i-th label to
        appear belongs to output i mod C, and each expert counts which labels it met at each output, so tasks may have
        labels of their own (C per task) or share them.
    alpha, window, k, floor
        Weight of the newest loss in the moving averages, and the threshold mean + ``k`` * max(std, ``floor``) of the
        last ``window`` losses (paper: 0.2, 100, 3, 0.005; its released script for split MNIST: a window of 35).
    pick : {"first", "best"}
        Among earlier experts that qualify: the oldest (paper), or the one with the lowest smoothed loss.
    squash_logits : bool
        Pass the outputs of experts and selector through a sigmoid before the softmax (paper). This bounds the loss of a
        young expert near ln C, so that it does not look like another change.
    lr, momentum, nesterov, weight_decay, schedule : float, float, bool, float, :class:`ScheduleSettings`
        SGD of the experts.
    selector, pruning : :class:`SelectorSettings`, :class:`PruningSettings`
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`. A last mini-batch of less than half the size is
        joined to the one before it, because its loss would be too noisy to judge.

    Attributes
    ----------
    experts_ : list of Expert
        In the order of their making; ``n_experts_`` are there, and ``active_`` is the one in training.
    history_ : list of (int, int)
        (mini-batch, expert) for every time another expert became active, the first one included; ``borders_`` are the
        mini-batches of all but the first, and ``switches_`` is their number.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y, x = rng.integers(0, 2, 2400), rng.normal(size=(2400, 4)) * 0.3
    >>> x[:, 0] += 2 * y
    >>> x[800:1600, 1] += 2
    >>> y[800:1600] = 1 - y[800:1600]
    >>> model = TAME.from_preset("small", n_classes=2, window=20).partial_fit(x, y)
    >>> model.n_experts_, model.borders_
    (2, [50, 100])

    References
    ----------
    Zhu, Majzoubi, Jain, Choromanska, 2022, "TAME: Task Agnostic Continual Learning using Multiple Experts",
    arXiv:2210.03869.
    """

    STRUCTURE: ClassVar[tuple[str, ...]] = (
        "backbone", "hidden", "n_classes", "window", "selector.backbone", "selector.hidden", "selector.buffer",
        "selector.balanced", "pruning.buffer",
    )  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "batch_size": 16, "window": 35, "nesterov": False, "selector": {"buffer": 500, "batch_size": 64},
            "pruning": {"enabled": False, "rho_expert": 0.9, "buffer": 200},
        }
    }  # fmt: skip

    backbone: Any = backbone_field(None, "the expert; None for an MLP")
    n_classes: int | None = whole(
        None, "classes inside one task; None for the number of labels in the first chunk", at_least=2, optional=True
    )
    hidden: Sequence[int] = numbers((64, 64), "hidden widths of the default expert", at_least=1, integers=True)
    alpha: float = real(0.2, "weight of the newest loss in the moving averages", above=0, at_most=1)
    window: int = whole(100, "losses the threshold looks back on", at_least=2)
    k: float = real(3.0, "standard deviations above the mean that count as a change", above=0)
    floor: float = real(0.005, "smallest standard deviation assumed", at_least=0)
    pick: str = choice("first", ("first", "best"), "which of the earlier experts that qualify takes over")
    squash_logits: bool = flag(True, "pass outputs through a sigmoid before the softmax")
    lr: float = real(0.1, "learning rate of the experts", above=0)
    momentum: float = real(0.9, "momentum of the experts and the selector", at_least=0, below=1)
    nesterov: bool = flag(True, "Nesterov momentum")
    weight_decay: float = real(5e-4, "weight decay of the experts", at_least=0)
    schedule: ScheduleSettings = group(ScheduleSettings, "learning rate of an expert over its own steps")
    selector: SelectorSettings = group(SelectorSettings, "the network that sends inputs to experts")
    pruning: PruningSettings = group(PruningSettings, "pruning of experts and selector")

    def _check_settings(self) -> None:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum above 0")

    def _start(self) -> None:
        self.active_ = 0
        self.history_: list[tuple[int, int]] = []
        self.t_ = 0  # mini-batches so far
        self.n_slots_ = 0  # C; 0 until the first chunk

    def _build(self) -> None:
        self.experts_: list[Expert] = []
        seed = derive(self.seed, "selector buffer")
        self.buffer_ = Reservoir(self.selector.buffer, seed, balanced=self.selector.balanced)  # (x, expert)
        self.selector_: nn.Module | None = None  # None when it has to be trained again

    # -- training -------------------------------------------------------------------------------------------------

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        if not self.n_slots_:
            self.n_slots_ = self.n_classes or len(torch.unique(y))
            if self.n_slots_ < 2:
                raise ValueError(
                    "n_classes (C, the number of classes inside one task) is not given, and the first chunk has "
                    "one label only: pass TAME(n_classes=...)"
                )
        for expert in self.experts_:
            detector = expert.detector
            detector.alpha, detector.k, detector.floor = self.alpha, self.k, self.floor
        for rows in self._minibatches(len(X)):
            self._observe(X[rows], y[rows])

    def _minibatches(self, n: int) -> Iterator[slice]:
        """Give the mini-batches of a chunk, a last one of less than half the size joined to the one before."""
        size = self.batch_size
        starts = size * np.arange(max(1, n // size + (2 * (n % size) >= size)))
        yield from map(slice, starts, [*starts[1:], n])

    def _observe(self, X: Tensor, y: Tensor) -> None:
        """One mini-batch: measure every loss, judge, choose, step, and only then let the loss into the window."""
        slots = y % self.n_slots_
        if not self.experts_:
            self._new_expert()
            self.history_.append((self.t_, 0))
        losses = [self._measure(expert, X, slots) for expert in self.experts_]
        active = self.experts_[self.active_]
        if active.steps and active.detector.shifted:  # before its first step an expert has nothing to compare with
            chosen = self._choose(losses)
            if chosen is None:
                chosen = self._new_expert()
                losses.append(self._measure(self.experts_[chosen], X, slots))
            if chosen != self.active_:  # the window that fired may pick the same expert again: no switch
                self.history_.append((self.t_, chosen))
                logger.debug("mini-batch %d: expert %d takes over from %d", self.t_, chosen, self.active_)
                self.active_ = chosen
        self._step(self.experts_[self.active_], losses[self.active_], X, y, slots)
        self._fill_buffers(X, y)
        self.t_ += 1

    def _measure(self, expert: Expert, X: Tensor, slots: Tensor) -> float:
        """Return the loss of an expert before the step, and smooth it."""
        loss = self._loss_of(expert, X, slots)
        expert.detector.smooth(loss)
        return loss

    def _choose(self, losses: list[float]) -> int | None:
        """The expert that explains this mini-batch, the active one included; None if there is none."""
        smoothed = [self._smooth(expert.r, loss) for expert, loss in zip(self.experts_, losses, strict=True)]
        fitting = [j for j, expert in enumerate(self.experts_) if smoothed[j] < expert.detector.threshold]
        if not fitting:
            return None
        return fitting[0] if self.pick == "first" else min(fitting, key=lambda j: smoothed[j])

    def _smooth(self, r: float | None, loss: float) -> float:
        return loss if r is None else self.alpha * loss + (1 - self.alpha) * r

    def _step(self, expert: Expert, loss: float, X: Tensor, y: Tensor, slots: Tensor) -> None:
        expert.about_to_change()
        tune(expert.optimizer, **{**self._sgd(), "lr": self.schedule.rate(self.lr, expert.steps)})
        network = expert.network
        sgd_step(network, expert.optimizer, lambda: self._cross_entropy(network(X), slots), len(X), expert.masks)
        expert.steps += 1
        expert.detector.record(loss)
        expert.r = self._smooth(expert.r, loss)
        expert.count(slots.cpu().numpy(), y.cpu().numpy())
        shared = expert.slots[(expert.slots > 0).sum(axis=1) > 1]
        if self.n_classes is None and len(shared):
            raise ValueError(
                f"labels {[self.labels_[code] for code in np.flatnonzero(shared[0])]} would share an output: n_classes "
                f"(C, the number of classes inside one task) is not given, and the first chunk held {self.n_slots_} "
                "labels, or the change to another task was not noticed: pass TAME(n_classes=...)"
            )

    def _sgd(self) -> dict[str, Any]:
        return {"lr": self.lr, "momentum": self.momentum, "nesterov": self.nesterov, "weight_decay": self.weight_decay}

    def _fill_buffers(self, X: Tensor, y: Tensor) -> None:
        if self.buffer_.add(X, torch.full_like(y, self.active_), groups=y):
            self.selector_ = None
        expert = self.experts_[self.active_]
        if self.pruning.enabled and not expert.masks:
            expert.samples.add(X, y, keys=content_keys(X, y))

    def _loss_of(self, expert: Expert, X: Tensor, slots: Tensor) -> float:
        with torch.no_grad(), mode(expert.network, training=False):
            loss = float(self._cross_entropy(expert.network(X), slots))
        number = self.experts_.index(expert)
        return require_finite(loss, f"the loss of expert {number} at mini-batch {self.t_}", "lower lr may help")

    def _cross_entropy(self, outputs: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(self._squash(outputs), target)

    def _squash(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid() if self.squash_logits else outputs

    def _new_expert(self) -> int:
        """Make an expert, and prune the idle ones: their segments have ended."""
        if self.pruning.enabled:
            self._prune_experts()
        self._add_expert()
        self.selector_ = None
        return len(self.experts_) - 1

    def _add_expert(self) -> None:
        m = len(self.experts_)
        network = self._network(self.backbone, self.n_slots_, self.hidden, "expert", m)
        optimizer = torch.optim.SGD(network.parameters(), **self._sgd())
        detector = LossShiftDetector(self.alpha, self.window, self.k, self.floor, initial=math.log(self.n_slots_))
        samples = Reservoir(self.pruning.buffer, derive(self.seed, "pruning buffer", m))
        slots = np.zeros((self.n_slots_, 0), dtype=np.int64)
        self.experts_.append(Expert(network, optimizer, detector, samples, slots))

    def _network(self, backbone: Any, width: int, hidden: Sequence[int], *path: object) -> nn.Module:
        seed = derive(self.seed, *path)
        return build_backbone(backbone, self.input_shape_, width, seed=seed, hidden=hidden).to(self._device)

    def _check_answers(self, X: Tensor, task: object) -> None:
        with torch.no_grad():
            for expert in self.experts_:
                if expert.changed:
                    self._loss_of(expert, X, torch.zeros(len(X), dtype=torch.long, device=X.device))

    # -- pruning --------------------------------------------------------------------------------------------------

    def prune_experts(self) -> Self:
        """Prune every expert not yet pruned, the active one included: for the end of a stream."""
        self._check_fitted()
        with self._update():
            self._prune_experts()
        return self

    @contextmanager
    def _update(self) -> Iterator[None]:
        with super()._update():
            yield
        for expert in self.experts_:
            expert.stays_changed()

    def _prune_experts(self) -> None:
        s = self.pruning
        for m, expert in enumerate(self.experts_):
            if expert.masks or not expert.steps:
                continue
            expert.about_to_change()
            expert.masks = self._prune(expert.network, s.rho_expert, expert.samples, self.n_slots_, s.lr, "retrain", m)
            expert.samples.clear()
            # Momentum from before would push against the mask should the expert become active again.
            expert.optimizer.load_state_dict({**expert.optimizer.state_dict(), "state": {}})

    def _prune(
        self, network: nn.Module, rho: float, samples: Reservoir, width: int, lr: float, *path: object
    ) -> dict[str, Tensor]:
        """Set the smallest weights of a network to 0 and retrain the others; return which they are."""
        masks, s = magnitude_masks(network, rho), self.pruning
        apply_masks(network, masks)
        if s.retrain and len(samples):
            sgd = {"lr": lr, "weight_decay": s.weight_decay}
            self._train(network, samples, width, sgd, s.epochs, self.batch_size, masks, *path)
        return masks

    def _train(
        self, network: nn.Module, samples: Reservoir, width: int, sgd: dict[str, float], epochs: int, batch_size: int,
        masks: dict[str, Tensor] | None, *path: object,
    ) -> None:  # fmt: skip
        X, y = (t.to(self._device) for t in samples.data())
        steps, seed = epochs * math.ceil(len(X) / batch_size), derive(self.seed, *path)
        optimizer = torch.optim.SGD(network.parameters(), **{**self._sgd(), **sgd})
        with isolated(seed):
            train_on(
                network, optimizer, X, y % width, self._cross_entropy,
                batch_size=batch_size, steps=steps, seed=seed, masks=masks, stage=f"the {path[0]}",
            )  # fmt: skip

    # -- prediction -----------------------------------------------------------------------------------------------

    def _fit_selector(self) -> nn.Module | None:
        """Train the selector on its buffer (x -> expert), unless nothing was added since; None for a single expert."""
        if self.n_experts_ == 1 or self.selector_ is not None:
            return self.selector_
        s, p, width, network = self.selector, self.pruning, self.n_experts_, self._fresh_selector()
        sgd = {"lr": s.lr, "weight_decay": s.weight_decay}
        self._train(network, self.buffer_, width, sgd, s.epochs, s.batch_size, None, "selector order")
        if p.enabled:
            self._prune(network, p.rho_selector, self.buffer_, width, p.selector_lr, "retrain selector")
        self.selector_ = network.eval()
        return network

    def _catch_up(self) -> None:
        self._fit_selector()

    def _fresh_selector(self) -> nn.Module:
        return self._network(self.selector.backbone, self.n_experts_, self.selector.hidden, "selector")

    @torch.no_grad()
    def _route(self, X: Tensor) -> Tensor:
        """The expert of each row, (n,)."""
        if self.selector.routing == "random":
            return torch.randint(self.n_experts_, (len(X),)).to(X.device)
        selector = self._fit_selector()
        if selector is None:
            return torch.zeros(len(X), dtype=torch.long, device=X.device)
        return require_finite(selector(X), "the output of the selector").argmax(dim=1)

    def _scores(self, X: Tensor, task: object) -> Tensor:
        return self._scores_of(X, self._route(X))

    @torch.no_grad()
    def _scores_of(self, X: Tensor, route: Tensor) -> Tensor:
        """Log-probabilities (n, codes) by each row's expert: log of p(output) times the label's share of it."""
        scores = torch.full((len(X), len(self.labels_)), -torch.inf, device=X.device)
        for j in route.unique().tolist():
            expert, rows = self.experts_[j], route == j
            with mode(expert.network, training=False):
                p = self._squash(expert.network(X[rows])).softmax(dim=1)  # (rows, C)
            share = expert.slots / np.maximum(1, expert.slots.sum(axis=1, keepdims=True))  # (C, codes)
            scores[rows, : share.shape[1]] = (p @ torch.from_numpy(share).to(p)).log()
        return scores

    def predict_expert(self, X: ArrayLike | Tensor) -> np.ndarray:
        """Return which expert each input is sent to, shape (n,)."""
        X_ = self._check_query(X)
        with isolated(derive(self.seed, "predict")):
            return self._route(X_.to(self._device)).cpu().numpy()

    def predict_with(self, X: ArrayLike | Tensor, experts: int | ArrayLike) -> np.ndarray:
        """Return labels, shape (n,), from experts that the caller names: one for all, or one per row (an oracle)."""
        X_ = self._check_query(X)
        named = check_labels(np.atleast_1d(as_array(experts, "experts")), "experts")
        if len(named) not in (1, len(X_)):
            raise ValueError(f"experts must be one for all or one for each of the {len(X_)} rows, got {len(named)}")
        route = np.broadcast_to(named, (len(X_),))
        if route.dtype.kind not in "iu" or route.min() < 0 or route.max() >= self.n_experts_:
            raise ValueError(f"experts must be integers from 0 to {self.n_experts_ - 1}, got {experts!r}")
        scores = self._scores_of(X_.to(self._device), torch.tensor(route.astype(np.int64), device=self._device))
        return self.classes_[self._probabilities(scores).argmax(dim=1).cpu().numpy()]

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

    def _modules(self) -> Iterator[nn.Module]:
        yield from super()._modules()
        yield from (expert.network for expert in self.experts_)

    def _trained(self) -> Iterator[nn.Module]:
        return (expert.network for expert in self.experts_ if expert.changed)

    def _state(self) -> Any:
        self._catch_up()
        state = super()._state()
        state["values"]["experts_"] = [expert.state_dict() for expert in self.experts_]
        return state

    def _load_state(self, state: Any) -> None:
        values, modules = dict(state["values"]), dict(state["modules"])
        experts, selector = values.pop("experts_"), modules.pop("selector_", None)
        super()._load_state({"values": values, "modules": modules})
        for saved in experts:
            self._add_expert()
            self.experts_[-1].load_state_dict(saved)
        if selector is not None:
            self.selector_ = self._fresh_selector().eval()
            self.selector_.load_state_dict(selector)

    def cost(self) -> dict[str, int]:
        """Return what the model keeps: experts, selector and samples; pruned weights do not count as stored."""
        self._check_fitted()
        networks = [e.network for e in self.experts_]
        selector = [] if self.n_experts_ == 1 else [self._fresh_selector()]
        removed = sum(int((~m).sum()) for e in self.experts_ for m in e.masks.values())
        return {
            "trainable_parameters": parameter_count(networks[self.active_]),
            "stored_parameters": parameter_count(*networks, *selector) - removed,
            "stored_samples": len(self.buffer_) + sum(len(e.samples) for e in self.experts_),
        }

    @classmethod
    def settings_for(cls, stream: Any) -> dict[str, Any]:
        """Return ``batch_size``, ``epochs`` and ``n_classes`` of a stream to come."""
        return {**super().settings_for(stream), "n_classes": max(2, stream.classes_per_task)}
