"""Behaviour cloning: imitate episodes by maximum likelihood, on steps or short windows, from one or more sources.

:class:`BehaviourCloning` is a policy for itself and the last stage of retrieval methods: it takes several
:class:`Source` and gives each of them exactly the same share of every batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from anytask.control.parts.imitation_nets import Head, PolicyNet, make_head
from anytask.core.devices import resolve_device
from anytask.core.rng import derive
from anytask.core.rollback import rollback
from anytask.datasets.episodes import OBSERVATION, Episodes, Statistics


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
    _cumulative: np.ndarray = field(init=False, repr=False)
    _last: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.weights is None:
            return
        w = np.asarray(self.weights, dtype=np.float64)
        if w.shape != (self.episodes.steps,):
            raise ValueError(f"weights must have the shape ({self.episodes.steps},), one per step, got {w.shape}")
        if not np.isfinite(w).all() or (w < 0).any():
            raise ValueError("weights must be finite numbers of at least 0")
        if not w.any():
            raise ValueError("all weights are 0: there is nothing to draw from")
        object.__setattr__(self, "_cumulative", np.cumsum(w))
        object.__setattr__(self, "_last", int(np.flatnonzero(w)[-1]))

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``n`` steps (n,), drawn with replacement in proportion to their weights."""
        if self.weights is None:
            return rng.integers(self.episodes.steps, size=n)
        drawn = np.searchsorted(self._cumulative, rng.random(n) * self._cumulative[-1], side="right")
        return np.minimum(drawn, self._last)


def joint_batch(sources: Sequence[Source], batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the steps that start a batch's windows: ``batch_size`` per source, whatever the sources' sizes.

    Examples
    --------
    >>> from anytask.datasets.episodes import Episode
    >>> small, large = (Episodes.from_list([Episode(np.zeros((n, 1)), np.zeros((n, 1)))]) for n in (3, 3000))
    >>> [len(rows) for rows in joint_batch([Source(small), Source(large)], 8, np.random.default_rng(0))]
    [8, 8]
    """
    return [source.draw(batch_size, rng) for source in sources]


class Rows:
    """The observations of episodes as tensors, row by row; what lives in a file is read when it is asked for."""

    def __init__(self, episodes: Episodes, keys: Sequence[str], device: torch.device) -> None:
        self.device = device
        self.tables: dict[str, Any] = {}
        for key in keys:
            value = episodes.observations[key]
            small = isinstance(value, np.ndarray) and not episodes.is_image(key)
            self.tables[key] = torch.from_numpy(value).to(device) if small else value

    def __getitem__(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Return key -> (\\*rows.shape, \\*shape)."""
        index = torch.from_numpy(rows).to(self.device)
        return {
            key: table[index]
            if isinstance(table, Tensor)
            else torch.from_numpy(np.asarray(table[rows])).to(self.device)
            for key, table in self.tables.items()
        }


# -- the policy -------------------------------------------------------------------------------------------------------


class BehaviourCloning:
    """A policy that imitates episodes.

    Pick it as the plain baseline for demonstrations, or as the last stage of a method that chooses its data. It is a
    :class:`~anytask.control.base.Policy`, and takes pictures, vectors or both.

    Parameters
    ----------
    head : {"gmm", "gaussian", "mse"} or torch.nn.Module, default "gmm"
        Gaussian mixture (several ways to go on from the same place), Gaussian, or the mean alone. A module has
        ``loss(h, a)``, ``log_prob(h, a)`` and ``act(h, how, generator)``.
    core : {"lstm", "mlp"} or torch.nn.Module, default "lstm"
        What joins the features of the observation keys; only the LSTM remembers. A module maps (n, features) to
        (n, ``width``).
    hidden : sequence of int, default (400, 400)
        Layers of the core.
    window : int, optional
        Steps per training window; by default 10 for the LSTM and 1 otherwise. An LSTM forgets after as many steps when
        it acts, since it was never trained for longer.
    modes, min_std : int and float, default 5 and 1e-4
        Of the mixture; the standard deviation in units of that of the actions.
    evaluation : {"low-noise", "mode"}, default "low-noise"
        What ``act(deterministic=True)`` does: draw a component and shrink its spread to ``min_std``, or take the mean
        of the most probable one.
    trunks, trunk_width
        Per observation key, as in :func:`anytask.control.parts.observation_encoders.build_trunk`: ``"cnn"``,
        ``"spatial-softmax"`` (ResNet-18 with 32 keypoints), ``"frozen:NAME"``, a module, ...; one name is used for all
        images.
    crop : int, optional
        Side of the square cut out of images: at random in training, from the centre when acting.
    lr, batch_size, steps : float, int, int
        Adam's learning rate, windows per source and batch, and gradient steps.
    seed : int, default 0
    device : str, default "auto"

    Attributes
    ----------
    net_ : PolicyNet
    losses_ : list of float
        Training loss, averaged over each hundredth of the steps.
    steps_ : int
        Gradient steps so far.

    Raises
    ------
    ValueError
        For sources with other keys or shapes than each other, integer actions, or parameters out of range.

    Examples
    --------
    Two ways round an obstacle: a mixture keeps both, the mean goes right through.

    >>> from anytask.datasets.episodes import Episode
    >>> rng = np.random.default_rng(0)
    >>> ways = [Episode(np.zeros((2, 1)), [[w]]) for w in rng.choice([-1.0, 1.0], 200)]
    >>> settings = {"core": "mlp", "hidden": (16,), "lr": 1e-2, "batch_size": 64, "steps": 300, "device": "cpu"}
    >>> acts = {}
    >>> for head in ("gmm", "mse"):
    ...     policy = BehaviourCloning(head, **settings).fit(Episodes.from_list(ways))
    ...     acts[head] = policy.act(torch.zeros(100, 1)).abs().mean().item()
    >>> acts["gmm"] > acts["mse"] + 0.5
    True

    References
    ----------
    Mandlekar et al., 2021, "What Matters in Learning from Offline Human Demonstrations for Robot Manipulation",
    arXiv:2108.03298 (recurrent cloning with a mixture head, keypoints, crops, low-noise evaluation).
    """

    def __init__(
        self,
        head: Head | nn.Module = "gmm",
        core: str | nn.Module = "lstm",
        hidden: Sequence[int] = (400, 400),
        *,
        window: int | None = None,
        modes: int = 5,
        min_std: float = 1e-4,
        evaluation: Literal["low-noise", "mode"] = "low-noise",
        trunks: Any = None,
        trunk_width: int | None = None,
        crop: int | None = None,
        lr: float = 1e-4,
        batch_size: int = 100,
        steps: int = 10_000,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        for name, value in (("window", 1 if window is None else window), ("modes", modes), ("batch_size", batch_size),
                            ("steps", steps)):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name, number in (("lr", lr), ("min_std", min_std)):
            if not number > 0:
                raise ValueError(f"{name} must be above 0, got {number!r}")
        if evaluation not in ("low-noise", "mode"):
            raise ValueError(f"evaluation must be 'low-noise' or 'mode', got {evaluation!r}")
        self.head, self.core, self.hidden = head, core, tuple(hidden)
        self.window = (10 if core == "lstm" else 1) if window is None else int(window)
        self.modes, self.min_std, self.evaluation = modes, min_std, evaluation
        self.trunks, self.trunk_width, self.crop = trunks, trunk_width, crop
        self.lr, self.batch_size, self.steps, self.seed = lr, batch_size, steps, seed
        self.device = resolve_device(device)
        self.losses_: list[float] = []
        self.steps_ = 0
        self._memory: dict[str, Tensor] | None = None

    net_: PolicyNet
    _optimizer: torch.optim.Optimizer
    _generator: torch.Generator

    @property
    def _head(self) -> Any:
        return self.net_.head

    # -- training -------------------------------------------------------------------------------------------------

    def fit(
        self,
        episodes: Episodes | Source | Sequence[Source],
        *,
        statistics: Mapping[str, Statistics] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> BehaviourCloning:
        """Start afresh and imitate.

        Parameters
        ----------
        episodes : Episodes, Source or sequence of Source
            Several sources have equal shares of every batch, and a batch has ``batch_size`` windows of each.
        statistics : mapping, optional
            :meth:`Episodes.statistics` to normalise with; by default those of all sources together.
        progress : callable, optional
            Called with the finished share.
        """
        sources = _sources(episodes)
        data = [s.episodes for s in sources]
        if statistics is None:
            statistics = pooled_statistics(data)
        before = dict(vars(self))
        try:
            self.build({k: data[0].shape_of(k) for k in sorted(data[0].keys)}, data[0].action_dim, statistics)
            return self.train(sources, self.steps, progress)
        except BaseException:
            self.__dict__ = before
            raise

    def build(
        self, shapes: Mapping[str, tuple[int, ...]], action_dim: int, statistics: Mapping[str, Statistics]
    ) -> None:
        """Make an untrained network for observations of these shapes."""
        net = PolicyNet(
            shapes,
            action_dim,
            trunks=self.trunks,
            trunk_width=self.trunk_width,
            crop=self.crop,
            core=self.core,
            hidden=self.hidden,
            make_head=lambda width: make_head(self.head, width, action_dim, self.modes, self.min_std),
            seed=derive(self.seed, "policy"),
        )
        net.set_statistics(statistics)
        self.net_ = net.to(self.device)
        self._optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=self.lr, fused=True)
        self.losses_, self.steps_ = [], 0
        self.reset()

    def train(
        self,
        sources: Episodes | Source | Sequence[Source],
        steps: int,
        progress: Callable[[float], None] | None = None,
    ) -> BehaviourCloning:
        """Go on training for ``steps`` gradient steps; a failure leaves the policy as it was."""
        self._check_fitted()
        sources = _sources(sources)
        tables = []
        for i, source in enumerate(sources):
            self._check(source.episodes, f"source {i}")
            e = source.episodes
            tables.append((Rows(e, list(self.net_.shapes), self.device), torch.from_numpy(e.actions).to(self.device)))
        rng = np.random.default_rng(derive(self.seed, "batches", self.steps_))
        crops = torch.Generator(self.device).manual_seed(derive(self.seed, "crops", self.steps_))
        every, total = max(steps // 100, 1), 0.0
        with rollback(self, skip=frozenset({"trunks", "core", "head"})):
            self.net_.train()
            for step in range(1, steps + 1):
                loss = self._loss(sources, tables, rng, crops)
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self._optimizer.step()
                total += float(loss.detach())
                if step % every == 0 or step == steps:
                    count = every if step % every == 0 else steps % every
                    self.losses_.append(total / count)
                    if not math.isfinite(total):
                        raise RuntimeError(
                            f"the loss is not finite after {step} steps: a lower lr than {self.lr} may help"
                        )
                    total = 0.0
                    if progress:
                        progress(step / steps)
            self.steps_ += steps
        self.net_.eval()
        self.reset()
        return self

    def _loss(
        self, sources: Sequence[Source], tables: list[Any], rng: np.random.Generator, crops: torch.Generator
    ) -> Tensor:
        windows, actions, valid = [], [], []
        offset = np.arange(self.window)
        for source, (rows, acts), starts in zip(sources, tables, joint_batch(sources, self.batch_size, rng)):
            raw = starts[:, None] + offset  # (n, window)
            ends = source.episodes.ends[source.episodes.episode_of[starts]][:, None]
            index = np.minimum(raw, ends)  # past the end the last step is repeated, and does not count
            windows.append(rows[index])
            actions.append(acts[torch.from_numpy(index).to(self.device)])
            valid.append(torch.from_numpy(raw <= ends).to(self.device))
        window = {key: torch.cat([w[key] for w in windows]) for key in windows[0]}
        h = self.net_(window, crops)
        losses = self._head.loss(h, self.net_.normalised(torch.cat(actions)))
        keep = torch.cat(valid)
        return (losses * keep).sum() / keep.sum()

    # -- acting ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        """Return actions (n, d) for observations (n, ...) or key -> (n, ...); one observation gives one action."""
        self._check_fitted()
        batch, single = self._batch(obs)
        f = self.net_.features(batch)
        h = self._remember(f) if self.net_.recurrent else self.net_.core(f)
        how = self.evaluation if deterministic else "sample"
        a = self._head.act(h, how, self._generator) * self.net_.action_std + self.net_.action_mean
        return a[0].cpu().numpy() if single else a

    def _remember(self, f: Tensor) -> Tensor:
        core = self.net_.core
        assert isinstance(core, nn.LSTM)
        n = len(f)
        if self._memory is None or len(self._memory["age"]) != n:
            zeros = torch.zeros(core.num_layers, n, core.hidden_size, device=f.device)
            self._memory = {"h": zeros, "c": zeros.clone(), "age": torch.zeros(n, dtype=torch.int64, device=f.device)}
        m = self._memory
        fresh = m["age"] % self.window == 0
        h, c = (m[k].masked_fill(fresh[None, :, None], 0.0) for k in "hc")
        out, (m["h"], m["c"]) = core(f[:, None], (h, c))
        m["age"] = torch.where(fresh, 0, m["age"]) + 1
        return out[:, 0]

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget the recurrent state of the copies ``rows`` (m,), or all, and then start the noise afresh."""
        if rows is None:
            self._memory = None
            self._generator = torch.Generator(self.device).manual_seed(derive(self.seed, "act"))
        elif self._memory is not None:
            self._memory["age"][rows] = 0

    def _batch(self, obs: Any) -> tuple[dict[str, Tensor], bool]:
        keyed = obs if isinstance(obs, Mapping) else {OBSERVATION: obs}
        batch, single = {}, False
        for key, shape in self.net_.shapes.items():
            if key not in keyed:
                raise ValueError(f"observation {key!r} is missing; got {sorted(keyed)}")
            x = torch.as_tensor(keyed[key], device=self.device)
            if tuple(x.shape) == shape:
                x, single = x[None], True
            if tuple(x.shape[1:]) != shape:
                raise ValueError(f"observation {key!r} must have the shape (n, *{shape}), got {tuple(x.shape)}")
            batch[key] = x
        return batch, single

    @torch.no_grad()
    def log_prob(self, episodes: Episodes, *, batch_size: int = 1024) -> np.ndarray:
        """Return the log-density of each recorded action (T,), in the units of the actions."""
        self._check_fitted()
        self._check(episodes, "the episodes")
        self.net_.eval()
        rows = Rows(episodes, list(self.net_.shapes), self.device)
        acts = self.net_.normalised(torch.from_numpy(episodes.actions).to(self.device))
        out = np.empty(episodes.steps, dtype=np.float32)
        # Every window starts where the acting policy's memory would start: at multiples of the window.
        within = np.arange(episodes.steps) - episodes.starts[episodes.episode_of]
        starts = np.flatnonzero(within % self.window == 0)
        scale = float(self.net_.action_std.log().sum())
        for part in np.array_split(starts, max(1, math.ceil(len(starts) * self.window / batch_size))):
            raw = part[:, None] + np.arange(self.window)
            ends = episodes.ends[episodes.episode_of[part]][:, None]
            index = np.minimum(raw, ends)
            h = self.net_(rows[index])
            value = self._head.log_prob(h, acts[torch.from_numpy(index).to(self.device)]) - scale
            out[raw[raw <= ends]] = value.cpu().numpy()[raw <= ends]
        return out

    @torch.no_grad()
    def predict(self, episodes: Episodes) -> np.ndarray:
        """Return what the policy would do (T, d) at every recorded step, remembering the steps before."""
        self._check_fitted()
        self._check(episodes, "the episodes")
        rows, out = Rows(episodes, list(self.net_.shapes), self.device), np.empty_like(episodes.actions)
        self.reset()
        for t in range(int(episodes.lengths.max())):
            running = episodes.starts[episodes.lengths > t] + t
            index = np.minimum(episodes.starts + t, episodes.ends)  # finished episodes repeat their end
            out[running] = self.act(rows[index]).cpu().numpy()[episodes.lengths > t]
        self.reset()
        return out

    # -- state ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that training changed, as a tree for :func:`anytask.core.persistence.save_tree`."""
        self._check_fitted()
        return {
            "net": self.net_.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "shapes": {k: list(v) for k, v in self.net_.shapes.items()},
            "action_dim": int(self.net_.action_mean.numel()),
            "losses": self.losses_,
            "steps": self.steps_,
        }

    def load_state(self, state: Mapping[str, Any]) -> BehaviourCloning:
        """Put back what :meth:`state` returned."""
        shapes = {k: tuple(v) for k, v in state["shapes"].items()}
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        neutral = {k: Statistics(zero, one, zero, one) for k in [*shapes, "action"]}
        self.build(shapes, state["action_dim"], neutral)
        self.net_.load_state_dict(state["net"])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # the moments must not be shared
        self.losses_, self.steps_ = list(state["losses"]), int(state["steps"])
        self.net_.eval()
        return self

    def _check(self, episodes: Episodes, what: str) -> None:
        if episodes.actions.dtype.kind != "f":
            raise ValueError(f"{what}: behaviour cloning imitates real-valued actions, these are integers")
        if episodes.action_dim != self.net_.action_mean.numel():
            wanted = self.net_.action_mean.numel()
            raise ValueError(f"{what}: actions of {episodes.action_dim} numbers, and {wanted} are wanted")
        for key, shape in self.net_.shapes.items():
            if key not in episodes.keys:
                raise ValueError(f"{what}: observation {key!r} is missing; it has {sorted(episodes.keys)}")
            if episodes.shape_of(key) != shape:
                raise ValueError(f"{what}: observation {key!r} has shape {episodes.shape_of(key)}, {shape} is wanted")

    def _check_fitted(self) -> None:
        if not hasattr(self, "net_"):
            raise RuntimeError("this policy has not been trained yet: call fit")


def pooled_statistics(data: Sequence[Episodes]) -> dict[str, Statistics]:
    """Return the statistics of several data sets together, as if they were one; only the keys of all of them."""
    parts = [(d.steps, d.statistics()) for d in data]
    total = sum(n for n, _ in parts)
    out = {}
    for key in parts[0][1]:
        if not all(key in s for _, s in parts):
            continue
        mean = sum((n / total) * s[key].mean.astype(np.float64) for n, s in parts)
        second = sum((n / total) * (s[key].std.astype(np.float64) ** 2 + (s[key].mean - mean) ** 2) for n, s in parts)
        low, high = (f.reduce([getattr(s[key], n) for _, s in parts])
                     for f, n in ((np.minimum, "low"), (np.maximum, "high")))  # fmt: skip
        out[key] = Statistics(np.asarray(mean, np.float32), np.sqrt(second).astype(np.float32), low, high)
    return out


def _sources(given: Episodes | Source | Sequence[Source]) -> list[Source]:
    if isinstance(given, Episodes):
        return [Source(given)]
    if isinstance(given, Source):
        return [given]
    sources = list(given)
    if not sources or not all(isinstance(s, Source) for s in sources):
        raise TypeError("fit takes Episodes, a Source or a non-empty sequence of Source")
    return sources
