"""GKCL: a kernel classifier per task on support sets that one generator makes when they are needed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.base import ContinualClassifier, parameter_count
from anytask.continual.gkcl.kernels import (
    Gaussian,
    Kernel,
    KernelRidge,
    Laplacian,
    Linear,
    Polynomial,
    RandomFourier,
    kernel_ridge,
)
from anytask.continual.parts.distillation import Snapshot
from anytask.core.rng import derive, isolated
from anytask.models.build import Backbone, PretrainedVision, build_backbone
from anytask.parts.contrastive import supcon
from anytask.parts.vae import ConditionalVAE, ConvDecoder, diagonal_gaussian_kl

__all__ = ["GKCL"]

KERNELS = ("linear", "polynomial", "rbf", "gaussian", "rff", "vrff")


class GKCL(ContinualClassifier):
    """Generative Kernel Continual Learning (Derakhshani et al., 2021).

    Each task has a kernel ridge classifier, solved in closed form on a small support set. No sample is stored: a
    conditional VAE generates the support of any task when it is needed, and is kept from forgetting by replaying what
    its own frozen copy generates. Memory does not grow with the samples seen, only by one component of the generator
    per class and three numbers per task.

    Pick it when the task of every chunk and of every query is known and samples may not be stored. With
    ``support="stored", generative=False`` it is its predecessor, kernel continual learning (KCL), which stores a few
    samples per class.

    Per mini-batch (x, y) of task t, with the trunk E of the VAE's encoder and features ``psi(x) = normalise(E(x))``:

    1. Support: generated samples of the classes of t, S = psi of them, Y their one-hot labels.
    2. ``L_cls``: cross-entropy of ``f(q) = gamma_t K_qS (K_SS + (|lambda_t| + 0.01) I)^{-1} Y + beta_t`` on the batch.
    3. ``L_vae``: negative evidence bound of the batch, with the prior ``p(z|y) = N(m_y, diag(exp v_y))``.
    4. Replay: ``L_vae`` of samples of the classes of other tasks, from the copy G_old of the generator. Nothing else is
       replayed, and the lambda, gamma, beta of other tasks stand still.
    5. ``L_con``: supervised contrastive loss on the posterior means of batch and replayed samples.

    and one step on ``cls_weight L_cls + L_vae + w_r L_vae(replay) + eta L_con (+ tau_kl KL(omega))``.

    Parameters
    ----------
    backbone : None, str, torch.nn.Module or callable, default None
        The trunk E, trained, as in :func:`anytask.models.build.build_backbone` with ``trunk_dim`` outputs; a ReLU and
        dropout follow.
    preset : {"paper", "small"}, default "paper"
        Fills in what is left at None. "paper": one pass over the permuted or rotated digits; "small": some hundred
        samples per task, many passes.
    frozen : None, str, torch.nn.Module or callable, default None
        A frozen feature extractor in front of everything: trunk, generator and replay then live in its feature space. A
        name is read as a Hugging Face checkpoint without a head; a callable gets ``(input_shape, None)``.
    trunk_dim, hidden : int, sequence of int
        Width H of E's output, and hidden widths of the default E.
    decoder : {"mlp", "conv"} or callable, default "mlp"
        Decoder after its first layer (of width ``trunk_dim``): the trunk's widths mirrored, transposed convolutions for
        images, or ``decoder(width, shape) -> module``.
    latent_dim : int
        Width Z of the latent space. 100 in "paper" is from memory of the paper, not checked.
    likelihood : {"auto", "bernoulli", "gaussian"}, default "auto"
        Of inputs given z; ``"auto"`` takes Bernoulli when the first chunk lies in [0, 1].
    prior : {"class", "standard"}, default "class"
        Learnable Gaussian per class, or N(0, I) shared by all (an ablation).
    label : {"concat", "gate"}, default "concat"
        How the label enters the decoder.
    kernel : {"linear", "polynomial", "rbf", "gaussian", "rff", "vrff"}, default "linear"
        ``a.b``; ``(a.b + 1)^3``; ``exp(-0.25 ||a - b||_1)`` (so named in the released KCL code); the Gaussian of width
        ``sigma``; its random Fourier features; variational random features, whose frequencies come from a network.
    n_features : int, default 2048
        Random features L.
    sigma : float > 0, default 1.0
        Width of "gaussian" and "rff".
    normalise : {"l2", "minmax", "none"}, default "l2"
        Feature normalisation. ``"minmax"`` scales by the extremes of the whole batch, as the released KCL code does:
        predictions then depend on the other queries of the call.
    support : {"generated", "stored"}, default "generated"
        Where supports come from. Stored samples are a uniform draw from the distinct samples of their class.
    generative : bool, default True
        Train the generator, with its replay and ``L_con``. ``support="stored", generative=False`` is KCL as published;
        ``support="stored"`` alone changes nothing but the support.
    support_size : int
        Samples m in a support. 20 in the KCL code for digits, 100 for CIFAR.
    support_per : {"task", "class"}
        Whether ``support_size`` counts per task or per class.
    replay : bool, default True
        Replay the generator (False is an ablation).
    replay_weight : float or "tasks"
        ``w_r``; ``"tasks"`` is the number of other tasks.
    replay_cap : float, optional
        Upper limit of ``"tasks"``.
    eta, contrastive_temperature : float >= 0, float > 0
        Weight and temperature of ``L_con``.
    cls_weight, tau_kl : float >= 0
        Weights of ``L_cls`` and of the divergence of variational random features (1e-4 in the KCL code).
    warm_up : {"real", "vae", "none"}, default "real"
        While the generator of the first task makes noise only: take half the batch as the support of the other half,
        or train the VAE alone.
    warm_up_steps : int >= 0
        Length of the warm-up, in mini-batches.
    warm_up_error : float, optional
        End the warm-up earlier, when the mean squared error per value falls below this.
    optimizer : {"sgd", "adam"}
    lr, momentum : float
        Learning rate of the first task, and SGD's momentum. 0.1 and 0.8 in the KCL code.
    lr_decay, lr_floor : float
        The rate of the k-th task is ``max(lr * lr_decay^k, lr_floor)``. 0.4 and 5e-5 in the KCL code.
    dropout : float in [0, 1)
        After E; 0.25 for digits and 0.05 for CIFAR in the KCL code.
    batch_size, epochs, seed, device
        As in :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    vae_ : anytask.parts.vae.ConditionalVAE
        Generator and, in its ``trunk``, E. With ``generative=False`` only the trunk is trained.
    scalars_ : dict
        Task -> its lambda, gamma and beta.
    losses_ : dict
        The terms of the last step.

    Raises
    ------
    ValueError
        For a chunk or query without ``task``, a query of a task never trained, fewer support samples than classes, or
        inputs outside [0, 1] with a Bernoulli likelihood.

    Examples
    --------
    Two tasks of two classes; the support of the first is generated after the second was learned.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> centres = rng.uniform(0.2, 0.8, size=(4, 12))
    >>> model = GKCL(preset="small", seed=0, warm_up_steps=10)
    >>> for task, labels in enumerate([(0, 1), (2, 3)]):
    ...     for _ in range(60):
    ...         y = rng.choice(labels, 32)
    ...         _ = model.partial_fit(np.clip(centres[y] + 0.1 * rng.normal(size=(32, 12)), 0, 1), y, task=task)
    >>> y = rng.choice([0, 1], 200)
    >>> x = np.clip(centres[y] + 0.1 * rng.normal(size=(200, 12)), 0, 1)
    >>> bool((model.predict(x, task=0) == y).mean() > 0.5 + 0.3), model.cost()["stored_samples"]  # chance is 0.5
    (True, 0)

    Notes
    -----
    A chunk of another task than the last ends the last: G_old is then copied. A task may come back; its classes are
    learned from its data while all others are replayed. A label that occurs in several tasks has a component of the
    generator in each of them.

    Departures from the paper
    -------------------------
    The kernel part, the numbers per task and the hyper-parameters follow the released code of KCL; no code of GKCL
    could be read. The generative part is a **reconstruction** from the abstract and summaries: how supports are drawn
    in training (no gradient into the samples), the form of the class prior, the replay of the generator's loss alone,
    its weight, the contrastive term on posterior means and its temperature, and the warm-up.
    Features are scaled to norm 1 by default, because min-max scaling makes predictions depend on each other.
    The linear system is solved by Cholesky in float64 instead of an explicit inverse. Other classes get ``-inf``
    instead of -1e10. Variational random features take the frequencies of the support's posterior at test, with fixed
    noise.

    References
    ----------
    Derakhshani, Zhen, Shao, Snoek, 2021, "Generative Kernel Continual Learning", arXiv:2112.13410; and the same
    authors, 2021, "Kernel Continual Learning", ICML, arXiv:2107.05757.
    """

    needs: ClassVar[str] = "test"
    sees: ClassVar[str] = "test"
    PRESETS: ClassVar = {
        "paper": {
            "trunk_dim": 256, "hidden": (256,), "latent_dim": 100, "support_size": 20, "support_per": "task",
            "replay_weight": 1.0, "eta": 1.0, "cls_weight": 1.0, "warm_up_steps": 100, "optimizer": "sgd", "lr": 0.1,
            "momentum": 0.8, "lr_decay": 0.4, "lr_floor": 5e-5, "dropout": 0.25, "batch_size": 10, "epochs": 1,
        },
        "small": {
            "trunk_dim": 128, "hidden": (128,), "latent_dim": 16, "support_size": 10, "support_per": "class",
            "replay_weight": "tasks", "replay_cap": 3.0, "eta": 1.0, "cls_weight": 5.0, "warm_up_steps": 40,
            "optimizer": "adam", "lr": 2e-3, "momentum": 0.0, "lr_decay": 1.0, "lr_floor": 5e-5, "dropout": 0.0,
            "batch_size": 32, "epochs": 30,
        },
    }  # fmt: skip

    def __init__(
        self,
        backbone: Backbone = None,
        *,
        preset: str = "paper",
        frozen: Backbone = None,
        trunk_dim: int | None = None,
        hidden: Sequence[int] | None = None,
        decoder: str | Callable[[int, tuple[int, ...]], nn.Module] = "mlp",
        latent_dim: int | None = None,
        likelihood: Literal["auto", "bernoulli", "gaussian"] = "auto",
        prior: Literal["class", "standard"] = "class",
        label: Literal["concat", "gate"] = "concat",
        kernel: str = "linear",
        n_features: int = 2048,
        sigma: float = 1.0,
        normalise: Literal["l2", "minmax", "none"] = "l2",
        support: Literal["generated", "stored"] = "generated",
        generative: bool = True,
        support_size: int | None = None,
        support_per: Literal["task", "class"] | None = None,
        replay: bool = True,
        replay_weight: float | Literal["tasks"] | None = None,
        replay_cap: float | None = None,
        eta: float | None = None,
        contrastive_temperature: float = 0.1,
        cls_weight: float | None = None,
        tau_kl: float = 1e-4,
        warm_up: Literal["real", "vae", "none"] = "real",
        warm_up_steps: int | None = None,
        warm_up_error: float | None = None,
        optimizer: Literal["sgd", "adam"] | None = None,
        lr: float | None = None,
        momentum: float | None = None,
        lr_decay: float | None = None,
        lr_floor: float | None = None,
        dropout: float | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.preset = preset
        self.frozen = frozen
        self.trunk_dim = trunk_dim
        self.hidden = hidden
        self.decoder = decoder
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.prior = prior
        self.label = label
        self.kernel = kernel
        self.n_features = n_features
        self.sigma = sigma
        self.normalise = normalise
        self.support = support
        self.generative = generative
        self.support_size = support_size
        self.support_per = support_per
        self.replay = replay
        self.replay_weight = replay_weight
        self.replay_cap = replay_cap
        self.eta = eta
        self.contrastive_temperature = contrastive_temperature
        self.cls_weight = cls_weight
        self.tau_kl = tau_kl
        self.warm_up = warm_up
        self.warm_up_steps = warm_up_steps
        self.warm_up_error = warm_up_error
        self.optimizer = optimizer
        self.lr = lr
        self.momentum = momentum
        self.lr_decay = lr_decay
        self.lr_floor = lr_floor
        self.dropout = dropout
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed
        self.device = device

    vae_: ConditionalVAE
    frozen_: Snapshot | None
    omega_net_: nn.Module
    scalars_: dict[object, nn.ParameterDict]
    losses_: dict[str, float]
    _old: Snapshot | None  # G_old
    _task: object
    _task_components: dict[object, list[int]]
    _code_of: list[int]  # the class code of each component of the generator
    _stored: dict[int, dict[str, Tensor]]  # component -> hash -> sample
    _steps: int
    _cache: dict[object, KernelRidge]
    _optimizer: torch.optim.Optimizer

    # -- training -------------------------------------------------------------------------------------------------

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        s = self._settings()
        x = self._features(X)
        self._check_likelihood(x, s)
        if task != self._task:
            self.end_task()
            self._begin(task)
        index = {code: self._component(task, code) for code in y.unique().tolist()}
        self._support_sizes(task, s)
        component = torch.tensor([index[code] for code in y.tolist()], device=x.device)
        for part in self._minibatches(len(x)):
            self._store(x[part], component[part], s)
            self._step(x[part], y[part], component[part], s)
        self._cache.clear()

    def _step(self, x: Tensor, y: Tensor, component: Tensor, s: Any) -> None:
        self.vae_.train()
        losses: dict[str, Tensor] = {}
        posterior = self.vae_.posterior(x)
        if s.generative:
            losses |= self._generator_losses(x, y, component, posterior, s)
        warming = s.support == "generated" and self._warming(x, component, posterior[1], s)
        if not (warming and s.warm_up == "vae"):
            losses |= self._classifier_losses(x, component, posterior[0], warming, s)
        loss = torch.stack(list(losses.values())).sum()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._steps += 1
        self.losses_ = {name: value.item() for name, value in losses.items()}

    def _classifier_losses(self, x: Tensor, component: Tensor, h: Tensor, warming: bool, s: Any) -> dict[str, Tensor]:
        components = self._task_components[self._task]
        if warming and len(x) > 1:
            x_s, c_s = x[::2], component[::2]
            h, component = h[1::2], component[1::2]
        elif s.support == "stored":
            x_s, c_s = self._stored_support(self._task)
        else:
            with torch.no_grad():
                c_s = self._draw_support(self._task, s, torch.default_generator)
                x_s = self.vae_.sample(c_s)
        S, Q = self._normalise(self.vae_.trunk(x_s)), self._normalise(h)
        kernel, divergence = self._kernel_for(S, Q, None)
        ridge = kernel_ridge(kernel, S, _one_hot(c_s, components), self._ridge(self._task))
        logits = self._classify(self._task, ridge, Q)
        wanted = _one_hot(component, components).argmax(dim=1)
        losses = {"L_cls": s.cls_weight * F.cross_entropy(logits, wanted)}
        return losses if divergence is None else losses | {"KL_omega": s.tau_kl * divergence}

    def _generator_losses(
        self, x: Tensor, y: Tensor, component: Tensor, posterior: tuple[Tensor, ...], s: Any
    ) -> dict[str, Tensor]:
        losses = {"L_vae": torch.stack(self.vae_.loss(x, component, posterior=posterior)).sum(0).mean()}
        means, labels = posterior[1], y
        own = set(self._task_components[self._task])
        others = [c for c in range(len(self._code_of)) if c not in own]
        if s.replay and self._old is not None and others:
            c_r = torch.tensor(others, device=x.device)[torch.randint(len(others), (len(x),)).to(x.device)]
            with torch.no_grad():
                x_r = cast(ConditionalVAE, self._old.module).sample(c_r)
            replayed = self.vae_.posterior(x_r)
            n_tasks = len(self._task_components) - 1
            w_r = min(n_tasks, s.replay_cap or math.inf) if s.replay_weight == "tasks" else s.replay_weight
            losses["L_replay"] = w_r * torch.stack(self.vae_.loss(x_r, c_r, posterior=replayed)).sum(0).mean()
            means = torch.cat([means, replayed[1]])
            labels = torch.cat([labels, torch.tensor(self._code_of, device=x.device)[c_r]])
        if s.eta > 0 and len(labels.unique()) < len(labels):
            losses["L_con"] = s.eta * supcon(means, labels, s.contrastive_temperature, missing="skip")
        return losses

    def _warming(self, x: Tensor, component: Tensor, mu: Tensor, s: Any) -> bool:
        if s.warm_up == "none" or len(self._task_components) > 1 or self._steps >= s.warm_up_steps:
            return False
        if s.warm_up_error is None:
            return True
        with torch.no_grad():
            x_hat = self.vae_.mean_of(self.vae_.decode(mu, component))
        return float((x_hat - x).square().mean()) >= s.warm_up_error

    def end_task(self) -> GKCL:
        """Copy the generator: the next tasks replay what this copy generates. Without new data, do nothing."""
        if hasattr(self, "input_shape_") and self._task is not None:
            self._old = Snapshot(self.vae_) if self.generative else None
            self._task = None
        return self

    def _begin(self, task: object) -> None:
        self._task = task
        self._task_components.setdefault(task, [])
        if task not in self.scalars_:
            values = {"lambda": 0.1, "gamma": 1.0, "beta": 0.0}
            self.scalars_[task] = nn.ParameterDict({k: nn.Parameter(torch.tensor(v)) for k, v in values.items()})
            self.scalars_[task].to(self.device_)
        self._optimizer = self._make_optimizer()

    def _component(self, task: object, code: int) -> int:
        own = self._task_components[task]
        for component in own:
            if self._code_of[component] == code:
                return component
        own.append(len(self._code_of))
        self._code_of.append(code)
        self._optimizer.param_groups[0]["params"].extend(self.vae_.grow(len(self._code_of)))
        return own[-1]

    def _make_optimizer(self) -> torch.optim.Optimizer:
        s = self._settings()
        generative = [*self.vae_.m, *self.vae_.v, *self.vae_.label_in]
        per_class = {id(p) for p in generative}
        # Per-component parameters last and in the order of their birth, so that a loaded optimiser finds them again.
        shared = [p for p in self.vae_.parameters() if id(p) not in per_class]
        births = [p for c in range(self.vae_.n_classes) for p in self._parameters_of(c)]
        params = [*shared, *self.omega_net_.parameters(), *self.scalars_[self._task].parameters(), *births]
        lr = max(s.lr * s.lr_decay ** list(self.scalars_).index(self._task), s.lr_floor)
        return torch.optim.Adam(params, lr=lr) if s.optimizer == "adam" else torch.optim.SGD(params, lr, s.momentum)

    def _parameters_of(self, component: int) -> list[nn.Parameter]:
        prior = [self.vae_.m[component], self.vae_.v[component]] if self.vae_.prior == "class" else []
        return [self.vae_.label_in[component], *prior]

    # -- the support ------------------------------------------------------------------------------------------------

    def _support_sizes(self, task: object, s: Any) -> list[int]:
        n = len(self._task_components[task])
        if s.support_per == "class":
            return [s.support_size] * n
        if s.support_size < n:
            raise ValueError(f"support_size={s.support_size} per task is less than the {n} classes of task {task!r}")
        return [s.support_size // n + (i < s.support_size % n) for i in range(n)]

    def _draw_support(self, task: object, s: Any, generator: torch.Generator) -> Tensor:
        # Classes equally often; who gets the remainder is drawn.
        own = self._task_components[task]
        order = torch.randperm(len(own), generator=generator).tolist()
        sizes = self._support_sizes(task, s)
        drawn = [own[i] for i, size in zip(order, sizes, strict=True) for _ in range(size)]
        return torch.tensor(drawn, device=self.device_)

    def _store(self, x: Tensor, component: Tensor, s: Any) -> None:
        # The samples with the smallest hashes: a uniform draw from the distinct samples, however often each is shown.
        if s.support != "stored":
            return
        for row, c in zip(x.cpu(), component.tolist(), strict=True):
            kept = self._stored.setdefault(c, {})
            key = hashlib.sha256(str(self.seed).encode() + row.contiguous().numpy().tobytes()).hexdigest()
            kept.setdefault(key, row.clone())
        for c, size in zip(self._task_components[self._task], self._support_sizes(self._task, s), strict=True):
            for worst in sorted(self._stored.get(c, {}))[size:]:
                del self._stored[c][worst]

    def _stored_support(self, task: object) -> tuple[Tensor, Tensor]:
        rows = [(x, c) for c in self._task_components[task] for _, x in sorted(self._stored[c].items())]
        x_s, c_s = torch.stack([x for x, _ in rows]), torch.tensor([c for _, c in rows])
        return x_s.to(self.device_), c_s.to(self.device_)

    # -- the classifier -----------------------------------------------------------------------------------------------

    def _scores(self, X: Tensor, task: object) -> Tensor:
        self.vae_.eval()
        components = self._task_components[task]
        Q = self._normalise(self.vae_.trunk(self._features(X)))
        if task not in self._cache:
            self._cache[task] = self._solve(task)
        values = self._classify(task, self._cache[task], Q)  # (n, classes of the task)
        scores = values.new_full((len(X), len(self._codes)), -torch.inf)
        scores[:, [self._code_of[c] for c in components]] = values
        return scores

    def _solve(self, task: object) -> KernelRidge:
        """Return alpha of a task for the weights as they are now; the same noise every time."""
        s = self._settings()
        if s.support == "stored":
            x_s, c_s = self._stored_support(task)
        else:
            seed = derive(self.seed, "support", task)
            c_s = self._draw_support(task, s, torch.Generator().manual_seed(seed))
            with isolated(seed):
                x_s = self.vae_.sample(c_s)
        S = self._normalise(self.vae_.trunk(x_s))
        kernel, _ = self._kernel_for(S, None, derive(self.seed, "omega", task))
        return kernel_ridge(kernel, S, _one_hot(c_s, self._task_components[task]), self._ridge(task))

    def _ridge(self, task: object) -> Tensor:
        return self.scalars_[task]["lambda"].double().abs() + 0.01

    def _classify(self, task: object, ridge: KernelRidge, Q: Tensor) -> Tensor:
        return self.scalars_[task]["gamma"] * ridge(Q) + self.scalars_[task]["beta"]

    def _normalise(self, h: Tensor) -> Tensor:
        if self.normalise == "l2":
            return F.normalize(h, dim=1, eps=1e-8)
        if self.normalise == "minmax":
            return (h - h.min()) / (h.max() - h.min()).clamp_min(1e-8)
        return h

    def _kernel_for(self, S: Tensor, Q: Tensor | None, seed: int | None) -> tuple[Kernel, Tensor | None]:
        """Return the kernel and, for variational random features with queries, KL(posterior || prior) of omega."""
        if self.kernel == "rff":
            return RandomFourier(self.omega_ / self.sigma, self.phase_), None
        if self.kernel == "vrff":
            m, log_s = self.omega_net_(S.mean(0)).chunk(2)
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            eps = torch.randn(self.n_features, len(m), generator=generator).to(m)
            omega = (m + (0.5 * log_s).exp() * eps).T
            kernel = RandomFourier(omega, self.phase_)
            if Q is None:
                return kernel, None
            return kernel, diagonal_gaussian_kl(m, log_s, *self.omega_net_(Q.mean(0)).chunk(2))
        plain: dict[str, Kernel] = {
            "linear": Linear(),
            "polynomial": Polynomial(),
            "rbf": Laplacian(),
            "gaussian": Gaussian(self.sigma),
        }
        return plain[self.kernel], None

    # -- construction, state ----------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        s = self._settings()
        choices: dict[str, tuple[str, ...]] = {
            "kernel": KERNELS, "normalise": ("l2", "minmax", "none"), "support": ("generated", "stored"),
            "support_per": ("task", "class"), "prior": ("class", "standard"), "label": ("concat", "gate"),
            "likelihood": ("auto", "bernoulli", "gaussian"), "warm_up": ("real", "vae", "none"),
            "optimizer": ("sgd", "adam"),
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(s, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(s, name)!r}")
        for name in ("lr", "sigma", "contrastive_temperature", "lr_decay"):
            if not getattr(s, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(s, name)!r}")
        for name in ("eta", "cls_weight", "tau_kl", "warm_up_steps", "lr_floor", "momentum"):
            if not getattr(s, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(s, name)!r}")
        for name in ("trunk_dim", "latent_dim", "support_size", "n_features"):
            if int(getattr(s, name)) != getattr(s, name) or getattr(s, name) < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {getattr(s, name)!r}")
        if s.support == "generated" and not s.generative:
            raise ValueError("support='generated' needs the generator: generative=False goes with support='stored'")
        if not 0 <= s.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {s.dropout!r}")
        if s.replay_weight != "tasks" and (isinstance(s.replay_weight, str) or not s.replay_weight >= 0):
            raise ValueError(f"replay_weight must be at least 0 or 'tasks', got {s.replay_weight!r}")
        if isinstance(s.decoder, str) and s.decoder not in ("mlp", "conv"):
            raise ValueError(f"decoder must be 'mlp', 'conv' or a callable, got {s.decoder!r}")

    def _build(self, input_shape: tuple[int, ...]) -> None:
        s = self._settings()
        self.frozen_ = None
        shape = input_shape
        if s.frozen is not None:
            self.frozen_ = Snapshot(_headless(s.frozen, input_shape, derive(s.seed, "frozen")).to(self.device_))
            shape = tuple(self.frozen_(torch.zeros(2, *input_shape, device=self.device_)).shape[1:])
        trunk = build_backbone(s.backbone, shape, s.trunk_dim, seed=derive(s.seed, "trunk"), hidden=s.hidden)
        decoder = {"mlp": None, "conv": ConvDecoder}[s.decoder] if isinstance(s.decoder, str) else s.decoder
        self.vae_ = ConditionalVAE(
            nn.Sequential(trunk, nn.ReLU(), nn.Dropout(s.dropout)), s.trunk_dim, shape, latent_dim=s.latent_dim,
            decoder_width=s.trunk_dim, decoder=decoder, decoder_hidden=tuple(reversed(s.hidden)), prior=s.prior,
            label=s.label,
        ).to(self.device_)  # fmt: skip
        self.omega_net_ = nn.Identity()
        if s.kernel == "vrff":
            H = s.trunk_dim
            self.omega_net_ = nn.Sequential(
                nn.Linear(H, H), nn.ELU(), nn.Linear(H, H), nn.ELU(), nn.Linear(H, 2 * H)
            ).to(self.device_)
        self.omega_ = torch.randn(s.trunk_dim, s.n_features).to(self.device_)
        self.phase_ = (2 * math.pi * torch.rand(s.n_features)).to(self.device_)
        self.scalars_, self.losses_ = {}, {}
        self._old, self._task = None, None
        self._task_components, self._code_of, self._stored = {}, [], {}
        self._steps = 0
        self._cache = {}

    def _features(self, X: Tensor) -> Tensor:
        return X if self.frozen_ is None else self.frozen_(X)

    def _check_likelihood(self, x: Tensor, s: Any) -> None:
        inside = bool((x >= 0).all()) and bool((x <= 1).all())
        if self._steps == 0:
            self.vae_.likelihood = s.likelihood
            if s.likelihood == "auto":
                self.vae_.likelihood = "bernoulli" if inside else "gaussian"
        if self.vae_.likelihood == "bernoulli" and s.generative and not inside:
            raise ValueError(
                f"a Bernoulli likelihood takes values in [0, 1], got {float(x.min()):.4g} to {float(x.max()):.4g}: "
                "scale X, or pass likelihood='gaussian'"
            )

    def cost(self) -> dict[str, int]:
        """Return what is kept: beside the usual counts, the generator's part and the values in stored samples."""
        self._check_fitted()
        scalars = parameter_count(*self.scalars_.values())
        trunk = parameter_count(self.vae_.trunk, self.omega_net_)
        generator = parameter_count(self.vae_) - parameter_count(self.vae_.trunk) if self.generative else 0
        old = 0 if self._old is None else parameter_count(self._old.module)
        frozen = 0 if self.frozen_ is None else parameter_count(self.frozen_.module)
        random = self.omega_.numel() + self.phase_.numel() if self.kernel == "rff" else 0
        random = self.phase_.numel() if self.kernel == "vrff" else random
        samples = [x for kept in self._stored.values() for x in kept.values()]
        return {
            "trainable_parameters": trunk + generator + scalars,
            "stored_parameters": trunk + generator + scalars + old + frozen + random,
            "stored_samples": len(samples),
            "generator_parameters": generator + old,
            "stored_values": sum(x.numel() for x in samples),
        }

    def _state(self) -> Any:
        return {
            "vae": self.vae_.state_dict(),
            "likelihood": self.vae_.likelihood,
            "omega_net": self.omega_net_.state_dict(),
            "omega": self.omega_,
            "phase": self.phase_,
            "scalars": {task: dict(p.state_dict()) for task, p in self.scalars_.items()},
            "old": None if self._old is None else self._old.module.state_dict(),
            "task": self._task,
            "optimizer": None if self._task is None else self._optimizer.state_dict(),
            "task_components": self._task_components,
            "code_of": self._code_of,
            "stored": self._stored,
            "steps": self._steps,
            "losses": self.losses_,
        }

    def _load_state(self, state: Any) -> None:
        self._code_of, self._task_components = state["code_of"], state["task_components"]
        self._stored, self._steps, self.losses_ = state["stored"], state["steps"], state["losses"]
        self.vae_.likelihood = state["likelihood"]
        if state["old"] is not None:
            self.vae_.grow(sum(name.startswith("label_in.") for name in state["old"]))
            self.vae_.load_state_dict(state["old"])
            self._old = Snapshot(self.vae_)
        self.vae_.grow(len(self._code_of))
        self.vae_.load_state_dict(state["vae"])
        self.omega_net_.load_state_dict(state["omega_net"])
        self.omega_, self.phase_ = state["omega"].to(self.device_), state["phase"].to(self.device_)
        for task, values in state["scalars"].items():
            self.scalars_[task] = nn.ParameterDict({k: nn.Parameter(v) for k, v in values.items()}).to(self.device_)
        self._task = state["task"]
        if self._task is not None:
            self._optimizer = self._make_optimizer()
            self._optimizer.load_state_dict(state["optimizer"])


def _one_hot(component: Tensor, components: Sequence[int]) -> Tensor:  # (n,) -> (n, len(components))
    return (component[:, None] == torch.tensor(components, device=component.device)).float()


def _headless(frozen: Any, input_shape: tuple[int, ...], seed: int) -> nn.Module:
    if isinstance(frozen, str):
        module = build_backbone(frozen, input_shape, 1, seed=seed)
        if isinstance(module, PretrainedVision):
            module.head = nn.Identity()  # type: ignore[assignment]
        return module
    if isinstance(frozen, nn.Module):
        return frozen
    if callable(frozen):
        with isolated(seed):
            return frozen(input_shape, None)
    raise TypeError(f"frozen must be None, a name, a torch module or a callable, got {type(frozen).__name__}")
