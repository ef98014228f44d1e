"""GKCL: a kernel classifier per task on support sets that one generator makes when they are needed.

Departures from the paper: the kernel part, the numbers per task and the hyper-parameters follow the released code of
KCL; no code of GKCL could be read. The generative part is a **reconstruction** from the abstract and summaries: how
supports are drawn in training (no gradient into the samples), the form of the class prior, the replay of the
generator's loss alone, its weight, the contrastive term on posterior means and its temperature, and the warm-up.
Features are scaled to norm 1 by default, because min-max scaling makes predictions depend on each other. The linear
system is solved by Cholesky in float64 instead of an explicit inverse. Other classes get ``-inf`` instead of -1e10.
Variational random features take the frequencies of the support's posterior at test, with fixed noise.
Optimizer, learning rate and passes are the smallest change from KCL's published ones (preset ``paper``: SGD at 0.1,
times 0.4 with every task, one pass) that learns digits of 8 x 8 and 28 x 28 pixels: the evidence bound is summed over
pixels, at which SGD's rate diverges or learns nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.base import ContinualClassifier
from anytask.continual.gkcl import kernels
from anytask.continual.gkcl.settings import GeneratorSettings, KernelSettings, SupportSettings
from anytask.continual.parts.sgd import tune
from anytask.core.checks import require_finite
from anytask.core.cost import parameter_count
from anytask.core.rng import derive, isolated
from anytask.core.settings import choice, flag, group, numbers, real, whole
from anytask.models.build import backbone_field, build_backbone
from anytask.parts.contrastive import supcon
from anytask.parts.distillation import Snapshot
from anytask.parts.vae import ConditionalVAE, ConvDecoder

__all__ = ["GKCL"]


class GKCL(ContinualClassifier):
    """Generative Kernel Continual Learning (Derakhshani et al., 2021).

    Each task has a kernel ridge classifier, solved in closed form on a small support set. No sample is stored: a
    conditional VAE generates the support of any task when it is needed, and is kept from forgetting by replaying what
    its own frozen copy generates. Memory does not grow with the samples seen, only by one component of the generator
    per class and three numbers per task. Pick it when the task of every chunk and of every query is known and samples
    may not be stored. With ``support={"source": "stored"}, generative=False`` it is its predecessor, kernel continual
    learning (KCL), which stores a few samples per class.

    Per mini-batch (x, y) of task t, with the trunk E of the VAE's encoder and features ``psi(x) = normalize(E(x))``:

    1. Support: generated samples of the classes of t, S = psi of them, Y their one-hot labels.
    2. ``L_cls``: cross-entropy of ``f(q) = gamma_t K_qS (K_SS + (|lambda_t| + 0.01) I)^{-1} Y + beta_t`` on the batch.
    3. ``L_vae``: negative evidence bound of the batch, with the prior ``p(z|y) = N(m_y, diag(exp v_y))``.
    4. Replay: ``L_vae`` of samples of the classes of other tasks, from the copy G_old of the generator. Nothing else is
       replayed, and the lambda, gamma, beta of other tasks stand still.
    5. ``L_con``: supervised contrastive loss on the posterior means of batch and replayed samples.

    and one step on ``cls_weight L_cls + L_vae + w_r L_vae(replay) + eta L_con (+ tau_kl KL(omega))``. A chunk of
    another task than the last ends the last. A task may come back; a label of several tasks has a component in each.

    Parameters
    ----------
    backbone, trunk_dim, hidden, dropout
        The trunk E (:func:`anytask.models.build.build_backbone`), trained, with ``trunk_dim`` outputs; a ReLU and
        dropout follow (0.25 for digits and 0.05 for CIFAR in the KCL code).
    frozen : None, str, torch.nn.Module or callable
        A frozen feature extractor in front of everything: trunk, generator and replay then live in its feature space. A
        name is read as a Hugging Face checkpoint without a head; a callable gets ``(input_shape, None)``.
    kernel, support, generator
        ``KernelSettings``, ``SupportSettings`` and ``GeneratorSettings`` of :mod:`anytask.continual.gkcl.settings`.
    generative : bool
        Train the generator, with its replay and ``L_con``; False goes with stored supports.
    cls_weight, eta, optimizer, lr, momentum, lr_decay, lr_floor : {"sgd", "adam"}, float
        Weights of ``L_cls`` and ``L_con``. The rate of the k-th task is
        ``max(lr * lr_decay^k, lr_floor)``; ``momentum`` is SGD's.

    Attributes
    ----------
    vae_, scalars_, components_, losses_
        Generator and, in its ``trunk``, E; lambda, gamma and beta of each task; task -> its components of the
        generator, in order of appearance; the terms of the last step.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> centers = rng.uniform(0.2, 0.8, size=(4, 12))
    >>> model = GKCL.from_preset("small", generator={"warm_up_steps": 10})
    >>> for task, labels in enumerate([(0, 1), (2, 3)]):
    ...     y = rng.choice(labels, 1920)
    ...     _ = model.partial_fit(np.clip(centers[y] + 0.1 * rng.normal(size=(1920, 12)), 0, 1), y, task=task)
    >>> model.predict(centers[:2], task=0).tolist(), model.cost()["stored_samples"]
    ([0, 1], 0)

    References
    ----------
    Derakhshani, Zhen, Shao, Snoek, 2021, "Generative Kernel Continual Learning", arXiv:2112.13410 (source: abstract);
    and the same authors, 2021, "Kernel Continual Learning", ICML, arXiv:2107.05757 (its code).
    """

    needs: ClassVar[str] = "test"
    sees: ClassVar[str] = "test"
    STRUCTURE: ClassVar[tuple[str, ...]] = (
        "backbone", "frozen", "trunk_dim", "hidden", "dropout", "generative", "optimizer", "kernel.name",
        "kernel.n_features", "support.source", "generator.latent_dim", "generator.decoder", "generator.likelihood",
        "generator.prior", "generator.label",
    )  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"optimizer": "sgd", "lr": 0.1, "lr_decay": 0.4, "epochs": 1},
        "small": {
            "trunk_dim": 128, "hidden": (128,), "dropout": 0.0, "cls_weight": 5.0, "batch_size": 32, "epochs": 30,
            "support": {"size": 10, "per": "class"},
            "generator": {"latent_dim": 16, "replay_weight": "tasks", "replay_cap": 3.0, "warm_up_steps": 40},
        },
    }  # fmt: skip

    backbone: Any = backbone_field(None, "the trunk; None for an MLP")
    frozen: Any = backbone_field(None, "a frozen feature extractor in front")
    trunk_dim: int = whole(256, "width of the trunk's output")
    hidden: Sequence[int] = numbers((256,), "hidden widths of the default trunk", at_least=1, integers=True)
    dropout: float = real(0.25, "dropout after the trunk", at_least=0, below=1)
    kernel: KernelSettings = group(KernelSettings, "the kernel on features")
    support: SupportSettings = group(SupportSettings, "the support sets")
    generator: GeneratorSettings = group(GeneratorSettings, "the conditional VAE, its warm-up and its replay")
    generative: bool = flag(True, "train the generator, with its replay and L_con")
    cls_weight: float = real(1.0, "weight of L_cls", at_least=0)
    eta: float = real(1.0, "weight of L_con", at_least=0)
    optimizer: str = choice("adam", ("sgd", "adam"), "which optimizer")
    lr: float = real(2e-3, "learning rate of the first task", above=0)
    momentum: float = real(0.8, "momentum of SGD", at_least=0, below=1)
    lr_decay: float = real(1.0, "factor of the learning rate from task to task", above=0)
    lr_floor: float = real(5e-5, "smallest learning rate", at_least=0)
    batch_size: int = whole(10, "rows of a mini-batch")
    epochs: int = whole(5, "passes of fit over its data")

    # -- construction -----------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        if self.support.source == "generated" and not self.generative:
            raise ValueError("generated supports need the generator: generative=False goes with stored ones")

    def _start(self) -> None:
        self.task_: object = None
        self.components_: dict[object, list[int]] = {}
        self.code_of_: list[int] = []  # the label's code of each component of the generator
        self.n_old_ = 0  # components of G_old
        self.stored_: dict[int, dict[str, np.ndarray]] = {}  # component -> hash -> sample
        self.likelihood_: Literal["bernoulli", "gaussian"] | None = None
        self.steps_ = 0
        self.losses_: dict[str, float] = {}

    def _build(self) -> None:
        s, shape = self.generator, self.input_shape_
        self.frozen_: Snapshot | None = None
        if self.frozen is not None:
            self.frozen_ = Snapshot(_headless(self.frozen, shape, derive(self.seed, "frozen")).to(self._device))
            shape = tuple(self.frozen_(torch.zeros(2, *shape, device=self._device)).shape[1:])
        seed = derive(self.seed, "trunk")
        trunk = build_backbone(self.backbone, shape, self.trunk_dim, seed=seed, hidden=self.hidden)
        decoder = {"mlp": None, "conv": ConvDecoder}[s.decoder] if isinstance(s.decoder, str) else s.decoder
        self.vae_ = ConditionalVAE(
            nn.Sequential(trunk, nn.ReLU(), nn.Dropout(self.dropout)), self.trunk_dim, shape, latent_dim=s.latent_dim,
            decoder_width=self.trunk_dim, decoder=decoder, decoder_hidden=tuple(reversed(self.hidden)), prior=s.prior,
            label=s.label, likelihood=self.likelihood_ or "bernoulli",
        ).to(self._device)  # fmt: skip
        variational = self.kernel.name == "vrff"
        self.frequencies_ = kernels.Frequencies(self.trunk_dim, self.kernel.n_features, variational).to(self._device)
        self.vae_.grow(self.n_old_)
        self.old_: Snapshot | None = Snapshot(self.vae_) if self.n_old_ else None
        self.vae_.grow(len(self.code_of_))
        self.scalars_ = nn.ModuleList([self._fresh_scalars() for _ in self.components_])
        self.optimizer_: Any = None if self.task_ is None else self._fresh_optimizer()
        self._cache: dict[object, kernels.KernelRidge] = {}

    # -- training -------------------------------------------------------------------------------------------------

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        x = self._features(X)
        self._check_likelihood(x)
        if task != self.task_:
            self.end_task()
            self._begin(task)
        index = {code: self._component(task, code) for code in y.unique().tolist()}
        self._support_sizes(task)
        tune(self.optimizer_, **self._rates())
        component = torch.tensor([index[code] for code in y.tolist()], device=x.device)
        for part in self._minibatches(len(x)):
            self._store(x[part], component[part])
            self._step(x[part], y[part], component[part])
        self._cache.clear()

    def _step(self, x: Tensor, y: Tensor, component: Tensor) -> None:
        self.vae_.train()
        losses: dict[str, Tensor] = {}
        posterior = self.vae_.posterior(x)
        if self.generative:
            losses |= self._generator_losses(x, y, component, posterior)
        warming = self.support.source == "generated" and self._warming(x, component, posterior[1])
        if not (warming and self.generator.warm_up == "vae"):
            losses |= self._classifier_losses(x, component, posterior[0], warming)
        loss = torch.stack(list(losses.values())).sum()
        require_finite(loss.detach(), f"the loss at step {self.steps_}", "lower lr, or scale the inputs")
        self.optimizer_.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer_.step()
        self.steps_ += 1
        self.losses_ = {name: value.item() for name, value in losses.items()}

    def _classifier_losses(self, x: Tensor, component: Tensor, h: Tensor, warming: bool) -> dict[str, Tensor]:
        task = self.task_
        if warming and len(x) > 1:
            x_s, c_s = x[::2], component[::2]
            h, component = h[1::2], component[1::2]
        else:
            with torch.no_grad():
                x_s, c_s = self._support(task, torch.default_generator)
        S, Q = self._normalize(self.vae_.trunk(x_s)), self._normalize(h)
        logits = self._classify(task, self._solve(task, S, c_s, None), Q)
        wanted = _one_hot(component, self.components_[task]).argmax(dim=1)
        losses = {"L_cls": self.cls_weight * F.cross_entropy(logits, wanted)}
        if self.kernel.name == "vrff":
            losses["KL_omega"] = self.kernel.tau_kl * self.frequencies_.divergence(S, Q)
        return losses

    def _generator_losses(
        self, x: Tensor, y: Tensor, component: Tensor, posterior: tuple[Tensor, ...]
    ) -> dict[str, Tensor]:
        s = self.generator
        losses = {"L_vae": torch.stack(self.vae_.loss(x, component, posterior=posterior)).sum(0).mean()}
        code_of = torch.tensor(self.code_of_, device=x.device)
        means, mixed = posterior[1], component
        others = [c for c in range(len(self.code_of_)) if c not in self.components_[self.task_]]
        if s.replay and self.old_ is not None and others:
            c_r = torch.tensor(others, device=x.device)[torch.randint(len(others), (len(x),)).to(x.device)]
            with torch.no_grad():
                x_r = cast(ConditionalVAE, self.old_.module).sample(c_r)
            replayed = self.vae_.posterior(x_r)
            tasks = min(len(self.components_) - 1, s.replay_cap or math.inf)
            w_r = tasks if s.replay_weight == "tasks" else s.replay_weight
            losses["L_replay"] = w_r * torch.stack(self.vae_.loss(x_r, c_r, posterior=replayed)).sum(0).mean()
            means, mixed = torch.cat([means, replayed[1]]), torch.cat([mixed, c_r])
        labels = code_of[mixed] if s.contrast == "label" else mixed
        if self.eta > 0 and len(labels.unique()) < len(labels):
            losses["L_con"] = self.eta * supcon(means, labels, s.temperature, missing="skip")
        return losses

    def _warming(self, x: Tensor, component: Tensor, mu: Tensor) -> bool:
        s = self.generator
        if s.warm_up == "none" or len(self.components_) > 1 or self.steps_ >= s.warm_up_steps:
            return False
        if s.warm_up_error is None:
            return True
        with torch.no_grad():
            x_hat = self.vae_.mean_of(self.vae_.decode(mu, component))
        return float((x_hat - x).square().mean()) >= s.warm_up_error

    def end_task(self) -> Self:
        """Copy the generator: the next tasks replay what this copy generates. Without new data, do nothing."""
        if self.__sklearn_is_fitted__() and self.task_ is not None:
            if self.generative:
                self.old_, self.n_old_ = Snapshot(self.vae_), len(self.code_of_)
            self.task_ = self.optimizer_ = None
        return self

    def _begin(self, task: object) -> None:
        self.task_ = task
        if task not in self.components_:
            self.components_[task] = []
            self.scalars_.append(self._fresh_scalars())
        self.optimizer_ = self._fresh_optimizer()

    def _fresh_scalars(self) -> nn.ParameterDict:
        values = {"lambda": self.kernel.lambda_, "gamma": self.kernel.gamma, "beta": self.kernel.beta}
        return nn.ParameterDict({k: nn.Parameter(torch.tensor(float(v))) for k, v in values.items()}).to(self._device)

    def _numbers(self, task: object) -> Any:
        return self.scalars_[list(self.components_).index(task)]

    def _component(self, task: object, code: int) -> int:
        own = self.components_[task]
        known = {self.code_of_[component]: component for component in own}
        if code not in known:
            known[code] = len(self.code_of_)
            own.append(known[code])
            self.code_of_.append(code)
            self.optimizer_.param_groups[0]["params"].extend(self.vae_.grow(len(self.code_of_)))
        return known[code]

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        # Per-component parameters last and in the order of their making, so that a loaded optimizer finds them again.
        components = self.vae_.class_parameters()
        own = set(components)
        shared = [p for p in self.vae_.parameters() if p not in own]
        numbers = self._numbers(self.task_).parameters()
        params = [*shared, *self.frequencies_.parameters(), *numbers, *components]
        return torch.optim.Adam(params) if self.optimizer == "adam" else torch.optim.SGD(params)

    def _rates(self) -> dict[str, float]:
        lr = max(self.lr * self.lr_decay ** list(self.components_).index(self.task_), self.lr_floor)
        return {"lr": lr} if self.optimizer == "adam" else {"lr": lr, "momentum": self.momentum}

    # -- the support ------------------------------------------------------------------------------------------------

    def _support_sizes(self, task: object) -> list[int]:
        n, size = len(self.components_[task]), self.support.size
        if self.support.per == "class":
            return [size] * n
        if size < n:
            raise ValueError(f"support_size={size} per task is less than the {n} classes of task {task!r}")
        return [size // n + (i < size % n) for i in range(n)]

    def _draw_support(self, task: object, generator: torch.Generator) -> Tensor:
        # Classes equally often; who gets the remainder is drawn.
        own = self.components_[task]
        order = torch.randperm(len(own), generator=generator).tolist()
        drawn = [own[i] for i, size in zip(order, self._support_sizes(task), strict=True) for _ in range(size)]
        return torch.tensor(drawn, device=self._device)

    def _support(self, task: object, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the support of a task and its components: what is stored, or samples out of the global generator."""
        if self.support.source == "generated":
            c_s = self._draw_support(task, generator)
            return self.vae_.sample(c_s), c_s
        rows = [(x, c) for c in self.components_[task] for _, x in sorted(self.stored_[c].items())]
        x_s, c_s = torch.from_numpy(np.stack([x for x, _ in rows])), torch.tensor([c for _, c in rows])
        return x_s.to(self._device), c_s.to(self._device)

    def _store(self, x: Tensor, component: Tensor) -> None:
        # The samples with the smallest hashes: a uniform draw from the distinct samples, however often each is shown.
        if self.support.source != "stored":
            return
        for row, c in zip(x.cpu().numpy(), component.tolist(), strict=True):
            key = hashlib.sha256(str(self.seed).encode() + row.tobytes()).hexdigest()
            self.stored_.setdefault(c, {}).setdefault(key, row.copy())
        for c, size in zip(self.components_[self.task_], self._support_sizes(self.task_), strict=True):
            for worst in sorted(self.stored_.get(c, {}))[size:]:
                del self.stored_[c][worst]

    # -- the classifier -----------------------------------------------------------------------------------------------

    def _scores(self, X: Tensor, task: object) -> Tensor:
        self.vae_.eval()
        Q = self._normalize(self.vae_.trunk(self._features(X)))
        key = (task, str(self.support), str(self.kernel))
        if key not in self._cache:
            seed = derive(self.seed, "support", task)  # the same noise every time
            with isolated(seed):
                x_s, c_s = self._support(task, torch.Generator().manual_seed(seed))
            noise = torch.Generator().manual_seed(derive(self.seed, "omega", task))
            self._cache[key] = self._solve(task, self._normalize(self.vae_.trunk(x_s)), c_s, noise)
        values = self._classify(task, self._cache[key], Q)  # (n, classes of the task)
        scores = values.new_full((len(X), len(self.labels_)), -torch.inf)
        scores[:, [self.code_of_[c] for c in self.components_[task]]] = values
        return scores

    def _solve(self, task: object, S: Tensor, c_s: Tensor, generator: torch.Generator | None) -> kernels.KernelRidge:
        """Return alpha of a task on support features S with components c_s."""
        targets = _one_hot(c_s, self.components_[task])
        return kernels.kernel_ridge(self._kernel_for(S, generator), S, targets, self._ridge(task))

    def _ridge(self, task: object) -> Tensor:
        return self._numbers(task)["lambda"].double().abs() + 0.01

    def _classify(self, task: object, ridge: kernels.KernelRidge, Q: Tensor) -> Tensor:
        numbers = self._numbers(task)
        return numbers["gamma"] * ridge(Q) + numbers["beta"]

    def _normalize(self, h: Tensor) -> Tensor:
        if self.kernel.normalize == "l2":
            return F.normalize(h, dim=1, eps=1e-8)
        if self.kernel.normalize == "minmax":
            return (h - h.min()) / (h.max() - h.min()).clamp_min(1e-8)
        return h

    def _kernel_for(self, S: Tensor, generator: torch.Generator | None) -> kernels.Kernel:
        name, sigma = self.kernel.name, self.kernel.sigma
        if name == "vrff":
            return self.frequencies_.variational(S, generator)
        if name == "rff":
            return self.frequencies_.fixed(sigma)
        others: dict[str, kernels.Kernel] = {
            "linear": kernels.FeatureKernel(), "polynomial": kernels.polynomial, "rbf": kernels.laplacian,
            "gaussian": partial(kernels.gaussian, sigma=sigma),
        }  # fmt: skip
        return others[name]

    def _features(self, X: Tensor) -> Tensor:
        return X if self.frozen_ is None else require_finite(self.frozen_(X), "the output of the frozen extractor")

    def _check_likelihood(self, x: Tensor) -> None:
        inside = bool((x >= 0).all()) and bool((x <= 1).all())
        if self.likelihood_ is None:
            given = self.generator.likelihood
            self.likelihood_ = ("bernoulli" if inside else "gaussian") if given == "auto" else given
            self.vae_.likelihood = self.likelihood_
        if self.likelihood_ == "bernoulli" and self.generative and not inside:
            raise ValueError(
                f"a Bernoulli likelihood takes values in [0, 1], got {float(x.min()):.4g} to {float(x.max()):.4g}: "
                "scale X, or pass generator={'likelihood': 'gaussian'}"
            )

    def cost(self) -> dict[str, int]:
        """Return what is kept: beside the usual counts, the generator's part and the values in stored samples."""
        self._check_fitted()
        trunk = parameter_count(self.scalars_, self.vae_.trunk, self.frequencies_)
        generator = parameter_count(self.vae_) - parameter_count(self.vae_.trunk) if self.generative else 0
        old, frozen = (0 if m is None else parameter_count(m) for m in (self.old_, self.frozen_))
        omega, phase = self.frequencies_.omega.numel(), self.frequencies_.phase.numel()
        random = {"rff": omega + phase, "vrff": phase}.get(self.kernel.name, 0)
        samples = [x for kept in self.stored_.values() for x in kept.values()]
        return {
            "trainable_parameters": trunk + generator,
            "stored_parameters": trunk + generator + old + frozen + random,
            "stored_samples": len(samples),
            "generator_parameters": generator + old,
            "stored_values": sum(x.size for x in samples),
        }


def _one_hot(component: Tensor, components: Sequence[int]) -> Tensor:  # (n,) -> (n, len(components))
    return (component[:, None] == torch.tensor(components, device=component.device)).float()


def _headless(frozen: Any, input_shape: tuple[int, ...], seed: int) -> nn.Module:
    if isinstance(frozen, nn.Module):
        return frozen
    if isinstance(frozen, str):
        return build_backbone(frozen, input_shape, None, seed=seed)
    with isolated(seed):
        return frozen(input_shape, None)
