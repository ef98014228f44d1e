"""Behavior cloning: imitate episodes by maximum likelihood, on steps or short windows, from one or more sources.

Its network has trunks per observation key, a core over the window, and a head over actions.
:class:`BehaviorCloning` is a policy for itself and the last stage of retrieval methods: it takes several
:class:`Source` and gives each of them exactly the same share of every batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from anytask.control.parts.acting import Given, check_fits, checked_rows, require_episodes
from anytask.control.parts.observation_encoders import as_images, build_trunks, image_shape, trunk_field
from anytask.control.parts.recurrent import MLPCore
from anytask.core.checks import require_finite
from anytask.core.errors import check_flags
from anytask.core.estimator import Estimator
from anytask.core.rng import derive, isolated
from anytask.core.settings import Settings, choice, free, numbers, real, whole
from anytask.core.training import train
from anytask.datasets.episodes import Episodes, Statistics, is_image, statistics_of


def check_head(head: Any) -> None:
    """Say so if ``head`` is neither a head's name nor a module."""
    if not isinstance(head, nn.Module) and not (isinstance(head, str) and head in ("gmm", "gaussian", "mse")):
        raise ValueError(f"head must be 'gmm', 'gaussian', 'mse' or a module, got {head!r}")


def check_core(core: Any) -> None:
    """Say so if ``core`` is neither a core's name nor a module with ``width``."""
    if isinstance(core, nn.Module) and not hasattr(core, "width"):
        raise ValueError(f"a core needs the attribute width, and {type(core).__name__} has none")
    if not isinstance(core, nn.Module) and not (isinstance(core, str) and core in ("lstm", "mlp")):
        raise ValueError(f"core must be 'mlp', 'lstm' or a module, got {core!r}")


class MixtureHead(nn.Module):
    """A Gaussian mixture over actions: ``p(a|h) = sum_k w_k N(a; mu_k, diag sigma_k^2)``.

    Parameters
    ----------
    width : int
        Of the features h.
    action_dim : int
    modes : int, default 5
    min_std : float, default 1e-4
        Added to the softplus that makes sigma; also the sigma of low-noise evaluation.
    """

    def __init__(self, width: int, action_dim: int, modes: int = 5, min_std: float = 1e-4) -> None:
        super().__init__()
        self.modes, self.action_dim, self.min_std = modes, action_dim, min_std
        self.out = nn.Linear(width, modes * (1 + 2 * action_dim))

    def parameters_of(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-weights (..., k), means (..., k, d) and standard deviations (..., k, d)."""
        k, d = self.modes, self.action_dim
        logits, mean, raw = self.out(h).split([k, k * d, k * d], -1)
        shape = (*h.shape[:-1], k, d)
        return logits.log_softmax(-1), mean.reshape(shape), F.softplus(raw).reshape(shape) + self.min_std

    def log_prob(self, h: Tensor, a: Tensor) -> Tensor:
        """Return the log-density (...,) of actions (..., d)."""
        return mixture_log_prob(a, *self.parameters_of(h))

    def loss(self, h: Tensor, a: Tensor) -> Tensor:
        return -self.log_prob(h, a)

    def act(self, h: Tensor, how: str, generator: torch.Generator | None) -> Tensor:
        log_weight, mean, std = self.parameters_of(h)
        if how == "mode":  # the mean of the most probable component
            chosen = log_weight.argmax(-1, keepdim=True)
        else:
            flat = log_weight.exp().reshape(-1, self.modes)
            chosen = torch.multinomial(flat, 1, generator=generator).reshape(*log_weight.shape[:-1], 1)
        pick = chosen[..., None].expand(*chosen.shape, self.action_dim)
        mean, std = mean.gather(-2, pick).squeeze(-2), std.gather(-2, pick).squeeze(-2)
        if how == "mode":
            return mean
        if how == "low-noise":
            std = torch.full_like(std, self.min_std)
        return mean + std * torch.randn(mean.shape, generator=generator, device=mean.device)


class MSEHead(nn.Module):
    """A single action: the mean, trained with the squared error (a Gaussian of unit variance)."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, action_dim)

    def log_prob(self, h: Tensor, a: Tensor) -> Tensor:
        return Normal(self.out(h), 1.0, validate_args=False).log_prob(a).sum(-1)

    def loss(self, h: Tensor, a: Tensor) -> Tensor:
        return (a - self.out(h)).square().mean(-1)

    def act(self, h: Tensor, how: str, generator: torch.Generator | None) -> Tensor:
        return self.out(h)


def mixture_log_prob(a: Tensor, log_weight: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return ``log sum_k w_k N(a; mu_k, diag sigma_k^2)``.

    Parameters
    ----------
    a : Tensor (..., d)
    log_weight : Tensor (..., k)
    mean, std : Tensor (..., k, d)

    Examples
    --------
    >>> one = mixture_log_prob(torch.zeros(1), torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1))
    >>> round(one.item(), 6)  # -log sqrt(2 pi)
    -0.918939
    """
    component = Normal(mean, std, validate_args=False).log_prob(a[..., None, :]).sum(-1)  # (..., k)
    return torch.logsumexp(log_weight + component, -1)


# -- networks ---------------------------------------------------------------------------------------------------------


class PolicyNet(nn.Module):
    """Trunks per observation key -> core over the window -> head. Normalizes observations and actions itself.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of one observation, by key.
    action_dim : int
    settings : CloningSettings
        Trunks, crop, core and head.
    seed : int
    """

    action_mean: Tensor
    action_std: Tensor

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], action_dim: int, settings: Any, *, seed: int) -> None:
        super().__init__()
        s = settings
        self.shapes = {k: tuple(v) for k, v in shapes.items()}
        self.crop = s.crop
        seen = {key: self._seen_shape(key, shape) for key, shape in self.shapes.items()}
        seeds = (derive(seed, "trunk", i) for i in range(len(seen)))
        self.trunks = build_trunks(seen, s.trunks, seeds, s.trunk_width)
        for i, shape in enumerate(self.shapes.values()):
            if not is_image(shape):
                self.register_buffer(f"mean_{i}", torch.zeros(shape))
                self.register_buffer(f"std_{i}", torch.ones(shape))
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_std", torch.ones(action_dim))
        with isolated(derive(seed, "core")):
            self.core: Any = _core(s.core, self.trunks.width, s.hidden)
            self.recurrent = isinstance(self.core, nn.LSTM)
            out: Any = self.core.hidden_size if self.recurrent else self.core.width
            self.head: Any = _head(s.head, out, action_dim, s.modes, s.min_std)

    def _seen_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not is_image(shape) or self.crop is None:
            return shape
        c, h, w = image_shape(shape)
        if not 1 <= self.crop <= min(h, w):
            raise ValueError(f"crop must be in 1..{min(h, w)} for images {key!r} of {h} x {w} pixels, got {self.crop}")
        return (c, self.crop, self.crop)

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        """Take mean and standard deviation of vectors and actions; what never varies is only centered."""
        vectors = {str(i): key for i, (key, shape) in enumerate(self.shapes.items()) if not is_image(shape)}
        for name, key in vectors.items():
            getattr(self, f"mean_{name}").copy_(torch.as_tensor(statistics[key].mean))
            getattr(self, f"std_{name}").copy_(torch.as_tensor(statistics[key].scale))
        self.action_mean.copy_(torch.as_tensor(statistics["action"].mean))
        self.action_std.copy_(torch.as_tensor(statistics["action"].scale))

    def normalized(self, a: Tensor) -> Tensor:
        """Return actions in units of their standard deviation."""
        return (a - self.action_mean) / self.action_std

    def features(self, obs: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """Return features (n, width) of observations key -> (n, \\*shape); crops at random if given a generator."""
        inputs = []
        for i, (key, shape) in enumerate(self.shapes.items()):
            if not is_image(shape):
                inputs.append((obs[key].float() - getattr(self, f"mean_{i}")) / getattr(self, f"std_{i}"))
            elif self.crop is None:
                inputs.append(as_images(obs[key]))
            else:
                inputs.append(_cropped(as_images(obs[key]), self.crop, generator))
        return self.trunks(inputs)

    def forward(self, window: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """Return the head's input (n, length, width) for windows key -> (n, length, \\*shape)."""
        n, length = next(iter(window.values())).shape[:2]
        f = self.features({k: v.flatten(0, 1) for k, v in window.items()}, generator)
        if self.recurrent:
            return self.core(f.reshape(n, length, -1))[0]
        return self.core(f).reshape(n, length, -1)


def _core(core: str | nn.Module, width: int, hidden: Sequence[int]) -> nn.Module:
    if isinstance(core, nn.Module):
        return copy.deepcopy(core)
    if core == "mlp":
        return MLPCore(width, hidden, "relu", orthogonal=False)
    return nn.LSTM(width, hidden[0], num_layers=len(hidden), batch_first=True)


def _head(head: str | nn.Module, width: int, action_dim: int, modes: int, min_std: float) -> nn.Module:
    if isinstance(head, nn.Module):
        return copy.deepcopy(head)
    if head == "mse":
        return MSEHead(width, action_dim)
    return MixtureHead(width, action_dim, modes if head == "gmm" else 1, min_std)


def _cropped(x: Tensor, size: int, generator: torch.Generator | None) -> Tensor:
    """Crop images (n, c, h, w): each at a random place, or all in the center without a generator."""
    h, w = x.shape[-2:]
    if generator is None:
        top, left = (h - size) // 2, (w - size) // 2
        return x[..., top : top + size, left : left + size]
    tops = torch.randint(h - size + 1, (len(x), 1), generator=generator, device=x.device)
    lefts = torch.randint(w - size + 1, (len(x), 1), generator=generator, device=x.device)
    span = torch.arange(size, device=x.device)
    n = torch.arange(len(x), device=x.device)[:, None, None]
    return x[n, :, (tops + span)[:, :, None], (lefts + span)[:, None, :]].movedim(-1, 1)


_Windows = tuple[dict[str, Tensor], Tensor, Tensor]
_FAR = "the observations may be far from those learned from"


@dataclass(frozen=True)
class Source:
    """Episodes, and how often each of their steps may start a training window.

    Parameters
    ----------
    episodes : Episodes
    weights : array (T,), optional
        Weights of at least 0; booleans select. All alike by default.
    """

    episodes: Episodes
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        require_episodes(self.episodes, "a source")
        if self.weights is None:
            return
        w = np.asarray(self.weights, dtype=np.float64)
        if w.shape != (self.episodes.steps,):
            raise ValueError(f"weights must have the shape ({self.episodes.steps},), one per step, got {w.shape}")
        if not np.isfinite(w).all() or (w < 0).any():
            raise ValueError("weights must be finite numbers of at least 0")
        if not w.any():
            raise ValueError("all weights are 0: there is nothing to draw from")

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return np.cumsum(np.ones(self.episodes.steps) if self.weights is None else self.weights, dtype=np.float64)

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``n`` steps (n,), drawn with replacement in proportion to their weights."""
        total = self._cumulative[-1]
        drawn = np.searchsorted(self._cumulative, rng.random(n) * total, side="right")
        return np.minimum(drawn, np.searchsorted(self._cumulative, total))  # not beyond the last that has a weight


class Rows:
    """Observations and actions of episodes as tensors, by rows; what lives in a file is read when it is asked for."""

    def __init__(self, episodes: Episodes, keys: Sequence[str], device: torch.device) -> None:
        self.device, self.actions = device, torch.from_numpy(episodes.actions).to(device)
        self.tables: dict[str, Any] = {}
        for key in keys:
            value = episodes.observations[key]
            small = isinstance(value, np.ndarray) and not episodes.is_image(key)
            self.tables[key] = torch.from_numpy(value).to(device) if small else value

    def __getitem__(self, rows: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """Return observations key -> (\\*rows.shape, \\*shape), and actions (\\*rows.shape, d)."""
        index = torch.from_numpy(rows).to(self.device)
        seen = {
            key: table[index]
            if isinstance(table, Tensor)
            else torch.from_numpy(np.asarray(table[rows])).to(self.device)
            for key, table in self.tables.items()
        }
        return seen, self.actions[index]


# -- the policy -------------------------------------------------------------------------------------------------------


def by_hundredths(curve: Sequence[float]) -> list[float]:
    """Return the means of a training curve over each hundredth of its steps."""
    every = max(len(curve) // 100, 1)
    return [float(np.mean(curve[i : i + every])) for i in range(0, len(curve), every)]


class CloningSettings(Settings):
    """The network and training of :class:`BehaviorCloning`."""

    head: Any = free("gmm", "Gaussian mixture (gmm), Gaussian, the mean alone (mse), or a module", check_head)
    core: Any = free("lstm", "joins the features of the observation keys: lstm, mlp, or a module", check_core)
    hidden: Sequence[int] = numbers((400, 400), "layers of the core", at_least=1, integers=True)
    window: Any = whole("auto", "steps per training window; auto: 10 for the LSTM, else 1", words=("auto",))
    modes: int = whole(5, "Gaussians of the mixture")
    min_std: float = real(1e-4, "least standard deviation, in units of that of the actions", above=0)
    evaluation: str = choice("low-noise", ("low-noise", "mode"), "best action: less spread, or the likeliest mean")
    trunks: Any = trunk_field(None, "trunk of all observations, or per key")
    trunk_width: int | None = whole(128, "width of image features; None: the trunk's own", optional=True)
    crop: int | None = whole(None, "side of the square cut out of images; None: no crop", optional=True)
    lr: float = real(1e-4, "Adam's learning rate", above=0)
    batch_size: int = whole(100, "windows per source and batch")
    steps: int = whole(200_000, "gradient steps")

    def _check_settings(self) -> None:
        if self.core == "lstm" and len(set(self.hidden)) != 1:
            raise ValueError(f"hidden: the layers of an LSTM are equally wide, got {tuple(self.hidden)}")


class BehaviorCloning(CloningSettings, Estimator):
    """A policy that imitates episodes.

    Pick it as the plain baseline for demonstrations, or as the last stage of a method that chooses its data. It is a
    :class:`~anytask.control.base.Policy`, and takes images, vectors or both.

    Parameters
    ----------
    head : {"gmm", "gaussian", "mse"} or torch.nn.Module, default "gmm"
        Gaussian mixture (several ways to go on from the same place), Gaussian, or the mean alone. A module has
        ``loss(h, a)``, ``log_prob(h, a)`` and ``act(h, how, generator)``.
    core : {"lstm", "mlp"} or torch.nn.Module, default "lstm"
        What joins the features of the observation keys; only the LSTM remembers, and forgets after ``window`` steps
        when it acts, since it was never trained for longer. A module maps (n, features) to (n, ``width``).
    evaluation : {"low-noise", "mode"}, default "low-noise"
        What ``act(deterministic=True)`` does: draw a component and shrink its spread to ``min_std``, or take the mean
        of the most probable one.
    trunks, trunk_width
        As in :func:`anytask.control.parts.observation_encoders.build_trunk`; one name is used for all images.
    hidden, window, modes, min_std, crop, lr, batch_size, steps, seed, device
        See the table of settings. Crops are random in training, and from the center when acting.

    Attributes
    ----------
    net_ : PolicyNet
    losses_ : list of float
        Training loss, averaged over each hundredth of the steps.
    steps_ : int
        Gradient steps so far.

    Examples
    --------
    Two ways round an obstacle: a mixture keeps both, the mean goes right through.

    >>> from anytask.datasets.episodes import Episode
    >>> rng = np.random.default_rng(0)
    >>> ways = [Episode(np.zeros((2, 1)), [[w]]) for w in rng.choice([-1.0, 1.0], 200)]
    >>> settings = {"core": "mlp", "hidden": (16,), "lr": 1e-2, "batch_size": 64, "steps": 300, "device": "cpu"}
    >>> acts = {}
    >>> for head in ("gmm", "mse"):
    ...     policy = BehaviorCloning(head=head, **settings).fit(Episodes.from_list(ways))
    ...     acts[head] = policy.act(torch.zeros(100, 1)).abs().mean().item()
    >>> acts["gmm"] > acts["mse"] + 0.5
    True

    References
    ----------
    Mandlekar et al., 2021, "What Matters in Learning from Offline Human Demonstrations for Robot Manipulation",
    arXiv:2108.03298 (recurrent cloning with a mixture head, keypoints, crops, low-noise evaluation).
    """

    net_: PolicyNet
    losses_: list[float]
    steps_: int
    shapes_: dict[str, tuple[int, ...]]
    action_dim_: int
    _memory: dict[str, Tensor] | None
    _optimizer: torch.optim.Optimizer
    _generator: torch.Generator

    @property
    def _window(self) -> int:
        return (10 if self.core == "lstm" else 1) if self.window == "auto" else int(self.window)

    # -- training -------------------------------------------------------------------------------------------------

    def fit(
        self,
        episodes: Episodes | Source | Sequence[Source],
        *,
        statistics: Mapping[str, Statistics] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> BehaviorCloning:
        """Start afresh and imitate.

        Parameters
        ----------
        episodes : Episodes, Source or sequence of Source
            Several sources have equal shares of every batch, and a batch has ``batch_size`` windows of each.
        statistics : mapping, optional
            :meth:`Episodes.statistics` to normalize with; by default those of all sources together.
        progress : callable, optional
            Called with the finished share.
        """
        sources = _sources(episodes)
        first = sources[0].episodes
        with self._refit():
            shapes = {k: first.shape_of(k) for k in sorted(first.keys)}
            self.build(shapes, first.action_dim, statistics or statistics_of([s.episodes for s in sources]))
            return self.train(sources, self.steps, progress)

    def build(
        self, shapes: Mapping[str, tuple[int, ...]], action_dim: int, statistics: Mapping[str, Statistics]
    ) -> None:
        """Make an untrained network for observations of these shapes."""
        self.shapes_, self.action_dim_ = {k: tuple(v) for k, v in shapes.items()}, action_dim
        self.losses_, self.steps_ = [], 0
        self._build()
        self.net_.set_statistics(statistics)

    def _build(self) -> None:
        self.net_ = PolicyNet(self.shapes_, self.action_dim_, self, seed=derive(self.seed, "policy")).to(self._device)
        trained = [p for p in self.net_.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(trained, lr=self.lr, fused=True)
        self.reset()

    def train(
        self,
        sources: Episodes | Source | Sequence[Source],
        steps: int,
        progress: Callable[[float], None] | None = None,
    ) -> BehaviorCloning:
        """Go on training for ``steps`` gradient steps; a failure leaves the policy as it was."""
        self._check_fitted()
        sources = _sources(sources)
        for i, source in enumerate(sources):
            check_fits(source.episodes, self.shapes_, self.action_dim_, f"source {i}")
        rows = [Rows(source.episodes, list(self.shapes_), self._device) for source in sources]
        rng = np.random.default_rng(derive(self.seed, "batches", self.steps_))
        crops = torch.Generator(self._device).manual_seed(derive(self.seed, "crops", self.steps_))

        def draw(step: int) -> _Windows:
            return self._draw(sources, rows, rng)

        with self._update():
            curve = train(
                self.net_, draw, lambda batch: self._loss(batch, crops), steps=steps, optimizer=self._optimizer,
                stage="behavior cloning", progress=progress,
            )  # fmt: skip
            self.losses_ += by_hundredths(curve)
            self.steps_ += steps
        self.reset()
        return self

    def _draw(self, sources: Sequence[Source], rows: Sequence[Rows], rng: np.random.Generator) -> _Windows:
        """Return windows key -> (n, window, *shape), actions (n, window, d), and which steps count (n, window)."""
        parts, valid = [], []
        for source, table in zip(sources, rows):
            starts = source.draw(self.batch_size, rng)  # equally many of each source, whatever their sizes
            window = source.episodes.windows(self._window, steps=starts)  # repeats the last step, which doesn't count
            parts.append(table[window.rows])
            valid.append(torch.from_numpy(window.valid).to(self._device))
        seen, actions = zip(*parts)
        windows = {key: torch.cat([part[key] for part in seen]) for key in self.shapes_}
        return windows, torch.cat(actions), torch.cat(valid)

    def _loss(self, batch: _Windows, crops: torch.Generator) -> Tensor:
        window, actions, valid = batch
        losses = self.net_.head.loss(self.net_(window, crops), self.net_.normalized(actions))  # (n, window)
        return (losses * valid).sum() / valid.sum()

    # -- acting ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        """Return actions (n, d) for observations (n, ...) or key -> (n, ...); one observation gives one action."""
        check_flags(deterministic=deterministic)
        self._check_fitted()
        given = Given(obs, self.shapes_, self._device)
        before = self._memory, self._generator.get_state()
        try:
            f = self.net_.features(given.tensors)
            h = self._remember(f) if self.net_.recurrent else self.net_.core(f)
            require_finite(h, "the encoded observation", _FAR)
            how = self.evaluation if deterministic else "sample"
            a = self.net_.head.act(h, how, self._generator) * self.net_.action_std + self.net_.action_mean
            return given.answer(require_finite(a, "the action", _FAR))
        except BaseException:
            self._memory, noise = before
            self._generator.set_state(noise)
            raise

    def _remember(self, f: Tensor) -> Tensor:
        core, n, m = self.net_.core, len(f), self._memory
        if m is None or len(m["age"]) != n:
            zeros = torch.zeros(core.num_layers, n, core.hidden_size, device=f.device)
            m = {"h": zeros, "c": zeros, "age": torch.zeros(n, dtype=torch.int64, device=f.device)}
        fresh = m["age"] % self._window == 0
        out, (h, c) = core(f[:, None], tuple(m[k].masked_fill(fresh[None, :, None], 0.0) for k in "hc"))
        self._memory = {"h": h, "c": c, "age": torch.where(fresh, 0, m["age"]) + 1}
        return out[:, 0]

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget the recurrent state of the environments ``rows`` (m,), or all, and then start the noise afresh."""
        if rows is None:
            self._memory = None
            self._generator = torch.Generator(self._device).manual_seed(derive(self.seed, "act"))
        elif self._memory is not None:
            age = self._memory["age"]
            age[checked_rows(rows, len(age), age.device)] = 0

    @torch.no_grad()
    def log_prob(self, episodes: Episodes, *, batch_size: int = 1024) -> np.ndarray:
        """Return the log-density of each recorded action (T,), in the units of the actions."""
        self._check_fitted()
        check_fits(episodes, self.shapes_, self.action_dim_)
        rows, out = Rows(episodes, list(self.shapes_), self._device), np.empty(episodes.steps)
        scale = self.net_.action_std.log().sum()  # of the change to units of the standard deviation
        first = np.flatnonzero((np.arange(episodes.steps) - episodes.starts[episodes.episode_of]) % self._window == 0)
        for part in np.array_split(first, max(1, math.ceil(len(first) * self._window / batch_size))):
            window = episodes.windows(self._window, steps=part)
            seen, actions = rows[window.rows]
            value = self.net_.head.log_prob(self.net_(seen), self.net_.normalized(actions)) - scale
            out[window.rows[window.valid]] = value.cpu().numpy()[window.valid]
        return require_finite(out, "the log-density of an action", _FAR)

    def predict(self, episodes: Episodes) -> np.ndarray:
        """Return what the policy would do (T, d) at every recorded step, remembering the steps before."""
        self._check_fitted()
        check_fits(episodes, self.shapes_, self.action_dim_)
        rows, out = Rows(episodes, list(self.shapes_), self._device), np.empty_like(episodes.actions)
        self.reset()
        try:
            for t in range(int(episodes.lengths.max())):
                seen, _ = rows[np.minimum(episodes.starts + t, episodes.ends)]  # finished episodes repeat their end
                running = episodes.lengths > t
                out[episodes.starts[running] + t] = self.act(seen).cpu().numpy()[running]
        finally:
            self.reset()
        return out

    # -- state ----------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "optimizer": self._optimizer.state_dict()}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        super()._load_state(state)
        self._optimizer.load_state_dict(state["optimizer"])
        self.net_.eval()


def _sources(given: Episodes | Source | Sequence[Source]) -> list[Source]:
    given = Source(given) if isinstance(given, Episodes) else given
    sources = [given] if isinstance(given, Source) else list(given) if isinstance(given, Sequence) else []
    if not sources or not all(isinstance(s, Source) for s in sources):
        raise TypeError("fit takes Episodes, a Source or a non-empty sequence of Source")
    return sources
