"""SimCLRv2: pretrain without labels, fine-tune on few, distil into a small student (Chen et al., 2020).

With z the unit vector of an image's projection and S = z z' / tau over both views of N images, pretraining minimises

    NT-Xent = mean over 2N rows i of  - log exp(S_i,p(i)) / sum_{j != i} exp(S_ij),    p(i) the other view;

fine-tuning keeps the encoder and the first ``q`` layers of its projection head under a linear layer that begins at 0;
a student learns the teacher's answers, ``T^2 CE(softmax(teacher / T), softmax(student / T))``, on the same views.

Departures from the paper
-------------------------
* The loss is the mean over the rows; the released code's is twice that, so that its rates are half of ours.
* Hues are turned in YIQ, not in HSV; crops that reach beyond the image are narrowed, not drawn again.
* Fine-tuning works on a copy: labels move what :meth:`SimCLRv2.predict` answers, never what
  :meth:`SimCLRv2.transform` returns.
* The rate of fine-tuning is constant; whether it falls in the released code is not checked.
* Fine-tuning makes ``min_steps`` steps at least, and statistics of batch normalization are then those of the labelled
  inputs: after a few dozen steps running ones would still be the pretrained network's.
* There is no classifier that watches pretraining: the problem ``frozen-features`` does that.
* The defaults are for thousands of images. On 768 digits they took a small network in 300 steps from .49 and .80 (with
  one and ten labels of each, probed; one seed) to .64 and .88; a ResNet-18 with 192 digits was no better after 100
  steps, or 300 with mini-batches of 64, than at random.
* Statistics of batch normalization are those of one device; selective kernels, and networks as wide and deep as the
  paper's, are a matter of the backbone: the preset ``paper`` has its values, and a ResNet-18 that begins at random.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import (
    as_given,
    check_input_shape,
    check_inputs,
    check_labels,
    check_same_length,
    class_codes,
    most_probable,
    require_finite,
)
from anytask.core.progress import Progress, heard, portion
from anytask.core.rng import derive, isolated
from anytask.core.settings import Settings, choice, group, real, whole
from anytask.core.training import train
from anytask.models.build import backbone_field, build_body
from anytask.parts.contrastive import LazyMatrix, contrastive_loss
from anytask.parts.distillation import Snapshot, kl_distillation
from anytask.pretrain.base import PretrainEstimator
from anytask.pretrain.parts.lars import LARS, lars_groups
from anytask.pretrain.parts.two_views import LabelledViews, TwoViews

__all__ = ["SimCLRv2"]

#: Rows of the loss that are held at a time, where there are more.
_AT_ONCE = 1024


class FineTuning(Settings):
    """How few labels are learned.

    Parameters
    ----------
    layers : int
        q: layers of the projection head that are kept. 1 for few labels, 0 where all are labelled (paper).
    epochs, min_steps
        Passes over the labelled inputs, and the least number of steps: few labels are few steps otherwise.
    batch_size, lr
        Rows of a mini-batch, rate of LARS or Adam.
    """

    layers: int = whole(1, "layers of the projection head that are kept", at_least=0)
    epochs: int = whole(60, "passes over the labelled inputs")
    min_steps: int = whole(500, "least number of steps")
    batch_size: int = whole(64, "labelled inputs of a mini-batch", at_least=2)
    lr: float = real(0.04, "learning rate", above=0)


class Distillation(Settings):
    """How a student learns from a teacher.

    Parameters
    ----------
    start : {"pretrained", "random"}
        What a student of the same network begins with; others always begin at random.
    temperature : float
        T.
    alpha : float
        Weight of the teacher where labels are given as well; ``1 - alpha`` is theirs.
    epochs, lr
        Passes over the inputs, 0 for no student where :meth:`SimCLRv2.fit` is given labels; rate of LARS or Adam.
        Mini-batches are those of pretraining.
    """

    start: str = choice(
        "pretrained", ("pretrained", "random"), "weights that a student of the same network begins with"
    )
    temperature: float = real(1.0, "of the teacher's answers", above=0)
    alpha: float = real(1.0, "weight of the teacher beside labels", at_least=0, at_most=1)
    epochs: int = whole(60, "passes over the inputs; 0: the fine-tuned network is kept", at_least=0)
    lr: float = real(0.6, "learning rate", above=0)


class SimCLRv2(PretrainEstimator):
    """Contrastive pretraining, fine-tuning from the middle of the projection head, and distillation.

    Two random views of each image are pulled together, and apart from all others; the features go into a classifier
    that a few labels train, and its answers on images without labels into a smaller network. Pick it where images
    without labels are many and labels few. What the views change is what features do not tell: for other data give
    views of your own, ``views={"kind": function}``.

    Parameters
    ----------
    backbone, n_features
        The encoder, from inputs to features: what :func:`~anytask.models.build.build_body` takes; None for a
        perceptron with two layers of ``n_features`` (64 unless given).
    head_layers, head_features : int, default 3, 128
        Of the projection head g, which is as wide as the features up to its last layer.
    views, labelled_views : TwoViews, LabelledViews
        What pretraining and distillation see, of images crops, flips, colors and blur in [0, 1]; and what fine-tuning
        sees, crops and flips alone.
    temperature : float, default 0.1
        tau.
    optimizer : {"lars", "adam"}, default "lars"
    lr : float, default 0.075
        Of pretraining, times the root of the mini-batch's size with LARS; it rises over ``warmup`` of the steps, and
        falls as a cosine.
    weight_decay : float
        Of pretraining and distillation.
    epochs, batch_size
        Passes over the inputs of pretraining, 0 for none; inputs of a mini-batch.
    memory, memory_decay : int, float
        Projections of earlier batches that are negatives too, made, like the positives, by a moving average of the
        network; 0 for none (paper: 65,536, and .999).
    finetuning, distillation : FineTuning, Distillation
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    encoder_, head_ : torch.nn.Module
        What pretraining learned.
    classifier_ : torch.nn.Module
        What fine-tuning or distillation learned; ``classes_`` are its labels.

    Examples
    --------
    Bars that lie or stand, at any place; four of each are labelled:

    >>> rng = np.random.default_rng(0)
    >>> y, place = np.arange(300) % 2, rng.integers(8, size=300)
    >>> X = 0.2 * rng.random((300, 1, 8, 8))
    >>> X[y == 0, 0, place[y == 0]] += 0.8
    >>> X[y == 1, 0, :, place[y == 1]] += 0.8
    >>> model = SimCLRv2.from_preset("small", epochs=5, views={"turn": 0.0}).fit(X)
    >>> bool((model.finetune(X[:8], y[:8]).predict(X[100:]) == y[100:]).mean() > 0.9)
    True

    References
    ----------
    Chen, Kornblith, Swersky, Norouzi, Hinton, 2020, "Big Self-Supervised Models are Strong Semi-Supervised Learners",
    NeurIPS, arXiv:2006.10029.
    """

    takes: ClassVar[str] = "images"
    INFERENCE: ClassVar[tuple[str, ...]] = ("finetuning", "distillation", "labelled_views")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "backbone": "small_cnn", "n_features": 64, "head_features": 32, "optimizer": "adam", "lr": 2e-3,
            "epochs": 60, "batch_size": 96, "weight_decay": 0.0, "views": {"kind": "affine", "noise_scale": 0.05},
            "labelled_views": {"kind": "affine", "noise_scale": 0.05}, "finetuning": {"lr": 2e-3},
            "distillation": {"lr": 2e-3, "epochs": 40},
        },
        "paper": {"batch_size": 4096, "epochs": 800, "lr": 0.1},
    }  # fmt: skip

    backbone: Any = backbone_field("resnet18", "the encoder, from inputs to features")
    n_features: int | None = whole(None, "width of the features of an encoder that has none of its own", optional=True)
    head_layers: int = whole(3, "layers of the projection head")
    head_features: int = whole(128, "width of the projection")
    views: TwoViews = group(TwoViews, "what pretraining and distillation see")
    labelled_views: LabelledViews = group(LabelledViews, "what fine-tuning sees")
    temperature: float = real(0.1, "tau", above=0)
    optimizer: str = choice("lars", ("lars", "adam"), "of all three phases")
    lr: float = real(0.075, "learning rate of pretraining; times the root of batch_size with LARS", above=0)
    weight_decay: float = real(1e-4, "of pretraining and distillation", at_least=0)
    warmup: float = real(0.05, "share of the steps over which the rate rises", at_least=0, below=1)
    epochs: int = whole(100, "passes over the inputs of pretraining; 0: labels alone", at_least=0)
    batch_size: int = whole(256, "inputs of a mini-batch", at_least=2)
    memory: int = whole(0, "projections of earlier batches that are negatives too", at_least=0)
    memory_decay: float = real(0.999, "of the moving average that makes them", at_least=0, below=1)
    finetuning: FineTuning = group(FineTuning, "how few labels are learned")
    distillation: Distillation = group(Distillation, "how a student learns")

    def _check_settings(self) -> None:
        if self.finetuning.layers > self.head_layers:
            raise ValueError(f"finetuning.layers must be at most head_layers, {self.head_layers}")

    def _build(self) -> None:
        seed = derive(self.seed, "encoder")
        hidden = (self.n_features or 64,) * 2
        body, width = build_body(self.backbone, self._image_shape, hidden, self.n_features, seed)
        self.encoder_ = body.to(self._device).eval()
        self.head_ = ProjectionHead(width, self.head_features, self.head_layers).to(self._device).eval()
        if hasattr(self, "classes_"):
            self.classifier_ = self._classifier(self.encoder_, vars(self)["layers_"])

    def _classifier(self, encoder: nn.Module, layers: int) -> nn.Sequential:
        """Return copies of the encoder and of the head's first layers, under a linear layer of zeros."""
        kept = [copy.deepcopy(part) for part in list(self.head_.layers)[:layers]]
        width = self.head_.width if layers < self.head_layers else self.head_features
        last = nn.Linear(width, len(self.classes_))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(copy.deepcopy(encoder), *kept, last).to(self._device).eval()

    # -- phase 1: pretraining -------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, unlabeled: Any = None, progress: Progress | None = None) -> Self:
        """Learn from inputs without labels; with labels, go on to fine-tune and to distil into the same network.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
            At least ``batch_size`` inputs are wanted; fewer are one mini-batch.
        y : array of shape (n,), optional
            Labels; they leave :meth:`transform` as it is. The student learns from all inputs.
        unlabeled : array or tensor of shape (m, ...), optional
            Further inputs.
        progress : callable, optional
            Told the finished share.
        """
        told, X = heard(progress), self._read(X)
        U = self._pool(X, unlabeled)
        if y is None:
            return super().fit(U, progress=told)
        class_codes(y, len(X))
        self.labelled_views.check(X)
        with self._refit():
            super().fit(U, progress=portion(told, 0.0, 0.6))
            self.finetune(X, y, progress=portion(told, 0.6, 0.8))
            if self.distillation.epochs:
                student = self.distill(U, progress=portion(told, 0.8, 1.0))
                self.classifier_, self.layers_ = student.classifier_, 0
            told(1.0)
        return self

    def _train(self, data: Tensor, progress: Progress) -> None:
        net = nn.ModuleDict({"f": self.encoder_, "g": self.head_})
        keys = Snapshot(net, train_mode=True) if self.memory else None  # normalizes by the batch
        queue = torch.zeros(0, self.head_features, device=self._device)

        def project(net: Any, x: Tensor) -> Tensor:
            return F.normalize(net["g"](net["f"](x)), dim=1)

        def losses(views: tuple[Tensor, Tensor]) -> Tensor:
            nonlocal queue
            x = torch.cat(views)
            z = project(net, x)  # (2N, d), unit vectors
            if keys is None:
                return nt_xent(z, self.temperature)
            with torch.no_grad():
                k = project(keys.module, x)
            loss = nt_xent(z, self.temperature, k, queue)
            queue = torch.cat([k, queue])[: self.memory]
            return loss

        def follow(step: int) -> None:
            if keys is not None:
                for slow, fast in zip(keys.module.state_dict().values(), net.state_dict().values()):
                    slow.copy_(fast if not slow.is_floating_point() else slow.lerp(fast, 1 - self.memory_decay))

        lr = self.lr * (min(self.batch_size, len(data)) ** 0.5 if self.optimizer == "lars" else 1)
        self._learn(net, data, losses, lr, self.epochs, self.weight_decay, "pretraining", progress, follow)

    def _features(self, data: Tensor) -> Tensor:
        return torch.cat([self.encoder_(self._images(part)) for part in data.split(256)])

    # -- phase 2: fine-tuning -------------------------------------------------------------------------------------

    def finetune(self, X: Any, y: Any, *, progress: Progress | None = None) -> Self:
        """Learn labels, from the pretrained encoder and the first layers of its head on.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
        y : array or tensor of shape (n,)
            Labels: integers or strings, of two classes at least.
        progress : callable, optional
            Told the finished share.

        Raises
        ------
        ValueError
            For data that cannot be used, and one class alone.
        sklearn.exceptions.NotFittedError
            Before :meth:`fit`.
        """
        X_ = self._asked(X)
        classes, codes = class_codes(y, len(X_))
        self.labelled_views.check(X_)
        tuning, target = self.finetuning, torch.from_numpy(codes).to(self._device)
        with self._update(), isolated(derive(self.seed, "finetune")):
            self.classes_, self.layers_ = classes, tuning.layers
            self.classifier_ = self._classifier(self.encoder_, tuning.layers)
            view = self.labelled_views.maker(self.input_shape_)
            weights = nn.ModuleList([self.classifier_])
            generator = torch.Generator(self._device).manual_seed(derive(self.seed, "labelled views"))
            batches = _Batches(len(X_), tuning.batch_size)

            def draw(step: int) -> tuple[Tensor, Tensor]:
                rows = batches.next()
                return view(X_[rows].to(self._device), generator), target[rows.to(self._device)]

            def losses(batch: tuple[Tensor, Tensor]) -> Tensor:
                return F.cross_entropy(self.classifier_(self._images(batch[0])), batch[1])

            train(
                weights, draw, losses, steps=max(tuning.epochs * batches.per_epoch, tuning.min_steps),
                optimizer=self._optimizer(weights, tuning.lr, 0.0), stage="fine-tuning", progress=progress,
            )  # fmt: skip
            self._settle(X_)
        return self

    @torch.no_grad()
    def _settle(self, X: Tensor) -> None:
        """Take the statistics of batch normalization that is trained from the labelled inputs as they are."""
        kinds = nn.modules.batchnorm._BatchNorm
        every = (m for m in self.classifier_.modules() if isinstance(m, kinds) and m.track_running_stats)
        norms = [m for m in every if m.weight is not None and m.weight.requires_grad]
        before = [m.momentum for m in norms]
        for m in norms:
            m.reset_running_stats()
            m.train().momentum = None  # the mean over the parts
        for part in X.tensor_split(max(1, len(X) // 256)) if norms else ():
            self.classifier_(self._images(part))
        for m, momentum in zip(norms, before):
            m.eval().momentum = momentum

    # -- phase 3: distillation ------------------------------------------------------------------------------------

    def distill(
        self,
        X: Any,
        y: Any = None,
        *,
        backbone: Any = None,
        n_features: int | None = None,
        progress: Progress | None = None,
    ) -> SimCLRv2:
        """Return a student that has learned this model's answers.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
            Inputs, without labels, or with some.
        y : array of shape (n,), optional
            Labels, that count ``1 - alpha``: with the default alpha of 1 nothing, of which a warning tells.
        backbone, n_features
            The student's; this model's unless given.
        progress : callable, optional
            Told the finished share.

        Returns
        -------
        SimCLRv2
            With ``classifier_``; its features are those of the student.

        Raises
        ------
        ValueError
            For data that cannot be used, a single input, ``distillation.epochs`` of 0, and before :meth:`finetune`.
        """
        X_ = self._asked(X)
        self._check_tuned()
        self.views.check(X_)
        if len(X_) < 2:
            raise ValueError("a student learns from at least 2 inputs, got 1")
        if not self.distillation.epochs:
            raise ValueError("distillation.epochs is 0, with which a student would learn nothing")
        target = None if y is None else self._places(y, len(X_))
        if target is not None and self.distillation.alpha == 1:
            warnings.warn("distillation.alpha is 1, with which labels count nothing: lower it", stacklevel=2)
        given = {"backbone": backbone, "n_features": n_features}
        own = {name: value for name, value in given.items() if value is not None}
        student = type(self)(**{**self.get_params(deep=False), **own})
        student.input_shape_, student.n_features_in_ = self.input_shape_, self.n_features_in_
        student.classes_, student.layers_ = self.classes_, 0
        with isolated(derive(self.seed, "student")):
            student._build()
            if not own and self.distillation.start == "pretrained":
                student.classifier_[0].load_state_dict(self.encoder_.state_dict())
            teacher, how = Snapshot(self.classifier_), self.distillation

            def losses(views: tuple[Tensor, Tensor, Tensor]) -> Tensor:
                x = self._images(views[0])
                answers, told = student.classifier_(x), teacher(x)
                T = how.temperature
                loss = kl_distillation(answers, told, T, scale=True)
                if target is None:
                    return loss
                return how.alpha * loss + (1 - how.alpha) * F.cross_entropy(answers, target[views[2]])

            weights = nn.ModuleList([student.classifier_])
            self._learn(weights, X_, losses, how.lr, how.epochs, self.weight_decay, "distillation", heard(progress))
        student.encoder_ = copy.deepcopy(student.classifier_[0])
        student._keep_shape()
        return student

    # -- answers --------------------------------------------------------------------------------------------------

    def predict_proba(self, X: Any) -> Any:
        """Return class probabilities, shape (n, n_classes), columns in the order of ``classes_``."""
        X_ = self._asked(X)
        self._check_tuned()
        with torch.no_grad():
            logits = torch.cat([self.classifier_(self._images(part)) for part in X_.split(256)])
        return as_given(require_finite(logits, "a score").double().softmax(1), X)

    def predict(self, X: Any) -> Any:
        """Return the most probable label of each input, shape (n,); a tensor for tensors with numeric labels."""
        return most_probable(self.predict_proba(X), self.classes_)

    def check_shape(self, input_shape: tuple[int, ...]) -> None:
        """Raise a ``ValueError`` if there are no views of inputs of this shape, which problems ask before a fit."""
        self.views.maker(input_shape), self.labelled_views.maker(input_shape)

    # -- shared steps ---------------------------------------------------------------------------------------------

    def _note(self, data: Tensor) -> None:
        super()._note(data)
        self.views.check(data)
        if len(data) < 2:
            raise ValueError("SimCLRv2 learns from at least 2 inputs: each is told apart from the others")

    @property
    def _image_shape(self) -> tuple[int, ...]:
        """Return the shape in which the encoder sees an input: images have a channel axis."""
        shape = tuple(self.views.image_shape or self.input_shape_)
        return (1, *shape) if len(shape) == 2 else shape

    def _images(self, x: Tensor) -> Tensor:
        return x.to(self._device).reshape(len(x), *self._image_shape)

    def _asked(self, X: Any) -> Tensor:
        self._check_fitted()
        self._check_settings()
        self._check_shape_kept()
        X_ = check_inputs(X)
        check_input_shape(X_, self.input_shape_, type(self).__name__)
        return X_

    def _check_tuned(self) -> None:
        if not hasattr(self, "classes_"):
            raise ValueError("this SimCLRv2 has learned no labels yet: call finetune(X, y) first")

    def _places(self, y: Any, n: int) -> Tensor:
        y_ = check_labels(y)
        check_same_length(np.empty(n), y_)
        if unknown := sorted(set(y_.tolist()) - set(self.classes_.tolist())):
            raise ValueError(f"y has label {unknown[0]!r}, which fine-tuning has not seen")
        return torch.from_numpy(np.searchsorted(self.classes_, y_)).to(self._device)

    def _optimizer(self, net: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        if self.optimizer == "adam":
            return torch.optim.AdamW(net.parameters(), lr, weight_decay=weight_decay)
        return LARS(lars_groups([net], weight_decay), lr)

    def _learn(
        self, net: nn.Module, X: Tensor, losses: Callable[[Any], Tensor], lr: float, epochs: int, weight_decay: float,
        stage: str, progress: Progress, after_step: Callable[[int], object] | None = None,
    ) -> None:  # fmt: skip
        """Train on two views of each input, under a rate that rises and falls."""
        view = self.views.maker(self.input_shape_)
        generator = torch.Generator(self._device).manual_seed(derive(self.seed, stage, "views"))
        batches = _Batches(len(X), self.batch_size)
        steps = epochs * batches.per_epoch
        optimizer, rising = self._optimizer(net, lr, weight_decay), max(1, round(self.warmup * steps))

        def rate(step: int) -> float:
            after = (step - rising) / max(1, steps - rising)
            return (step + 1) / rising if step < rising else 0.5 * (1 + math.cos(math.pi * after))

        def draw(step: int) -> tuple[Tensor, Tensor, Tensor]:
            rows = batches.next()
            x = X[rows].to(self._device)
            return view(x, generator), view(x, generator), rows.to(self._device)

        train(
            net, draw, lambda batch: losses(batch if stage == "distillation" else self._pair(batch)), steps=steps,
            optimizer=optimizer, schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, rate), stage=stage,
            progress=progress, after_step=after_step,
        )  # fmt: skip
        progress(1.0)

    def _pair(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self._images(batch[0]), self._images(batch[1])


class ProjectionHead(nn.Module):
    """Layers without bias, batch normalization after each, ReLU after all but the last, which has no shift.

    Parameters
    ----------
    width : int
        Of the features, and of all layers but the last.
    n_outputs, n_layers : int

    Examples
    --------
    >>> [tuple(h.shape) for h in ProjectionHead(8, 4, 3).outputs(torch.zeros(2, 8))]
    [(2, 8), (2, 8), (2, 8), (2, 4)]
    """

    def __init__(self, width: int, n_outputs: int, n_layers: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList()
        for _ in range(n_layers - 1):
            self.layers.append(nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()))
        scale = nn.BatchNorm1d(n_outputs)
        scale.bias.requires_grad_(False)  # stays 0
        self.layers.append(nn.Sequential(nn.Linear(width, n_outputs, bias=False), scale))

    def outputs(self, h: Tensor) -> list[Tensor]:
        """Return H_0, ..., H_L."""
        found = [h]
        for layer in self.layers:
            found.append(layer(found[-1]))
        return found

    def forward(self, h: Tensor) -> Tensor:  # (n, width) -> (n, n_outputs)
        return self.outputs(h)[-1]


def nt_xent(z: Tensor, temperature: float, keys: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
    """Return the mean NT-Xent of the projections of two views.

    Parameters
    ----------
    z : Tensor of shape (2n, d)
        Unit vectors: the first views, then the second ones.
    temperature : float
    keys : Tensor of shape (2n, d), optional
        What they are compared with, z itself unless given.
    memory : Tensor of shape (m, d), optional
        Further negatives.

    Examples
    --------
    >>> round(nt_xent(torch.eye(2).repeat(2, 1), 0.5).item(), 7)
    0.2395448
    """
    others = z if keys is None else torch.cat([keys, cast(Tensor, memory)])
    own, column = torch.arange(len(z), device=z.device)[:, None], torch.arange(len(others), device=z.device)
    positive = (own + len(z) // 2) % len(z)
    shape = len(z), len(others)
    return contrastive_loss(
        LazyMatrix(shape, lambda i, j: z[i] @ others[j].T / temperature),
        LazyMatrix(shape, lambda i, j: positive[i] == column[j]),
        candidates=LazyMatrix(shape, lambda i, j: own[i] != column[j]),
        chunk=_AT_ONCE if len(z) > _AT_ONCE else None,
    )


class _Batches:
    """Rows in a random order, batch by batch; the last of an order is left out if it is smaller."""

    def __init__(self, n: int, size: int) -> None:
        self.n, self.size = n, min(n, size)
        self.per_epoch = n // self.size
        self.left: list[Tensor] = []

    def next(self) -> Tensor:
        if not self.left:
            self.left = list(torch.randperm(self.n).split(self.size))[: self.per_epoch]
        return self.left.pop()
