"""Behavior Retrieval: few-shot imitation by keeping what looks like the expert in a large unlabelled data set."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from anytask.control.behavior_retrieval.nearest import nearest_distance
from anytask.control.behavior_retrieval.state_action_vae import PlainFeatures, StateActionVAE, TimeContrastive
from anytask.control.imitator import Imitator, Progress
from anytask.control.parts.imitation import Head, Rows, Source
from anytask.control.parts.observation_encoders import is_image
from anytask.core.devices import resolve_device
from anytask.core.rng import derive
from anytask.core.rollback import rollback
from anytask.datasets.episodes import Episode, Episodes, Statistics

__all__ = ["BehaviorRetrieval"]


class BehaviorRetrieval(Imitator):
    """Behavior Retrieval (Du et al., 2023).

    You have a handful of demonstrations of a new task, and a large data set of other or poor behaviour without labels,
    rewards or task names. The system scores every transition of the large set by how much it looks like one of the
    expert's, in what is seen *and* done, keeps those above a threshold, and imitates the expert and the kept ones in
    equal shares.

    Pick it when demonstrations are too few to imitate alone and the large set holds some useful behaviour, such as
    parts of the way that other tasks share. Its scores also show which parts of a data set matter for a task.

    1. An embedder is trained on the prior data alone: a VAE over all observation keys and the action, ``z = m(o, a)``.
    2. ``e(o, a) = [m(o, a), a]``: the raw action is appended. For each prior transition j,
       ``d_j = min_i ||e_i - e_j||`` over the expert's transitions i, and
       ``S_j = (max d - d_j) / (max d - min d)``; kept are those with ``S_j >= delta``.
    3. A policy is trained on batches of half expert, half kept windows. The embedder takes no part in it.

    Parameters
    ----------
    preset : {"paper", "small"}, default "paper"
        Fills in what is left at None; see :class:`~anytask.control.imitator.Imitator`.
    delta : float in [0, 1], optional
        Least similarity of what is kept: 0 keeps everything, 1 only the closest. Paper: 0.85 for images, 0.75 for
        numbers; "small": 0.8.
    quantile : float in (0, 1], optional
        Keep this share of the prior data instead, the most similar first. One far outlier squeezes all S towards 1, and
        a share does not mind.
    embedder : {"vae", "time-contrastive", "raw"}, "frozen:NAME" or torch.nn.Module, default "vae"
        What makes z: the VAE; an encoder under which a transition is like those soon after it (the released code's
        alternative); the normalised observation itself; frozen features of a Hugging Face vision model for images and
        numbers as they are; or a module with ``embed(obs, action)``, taken as it is.
    latent_dim : int, optional
        Width of z. Paper: 128 for images, 14 for numbers; "small": 8.
    embedder_hidden : sequence of int, optional
        Layers of its perceptrons. Paper: (300, 400); "small": (128, 128).
    decoder_channels : int, optional
        Maps that the VAE's image decoder starts from; 256, or 64 in "small" (ours).
    beta : float >= 0, default 1e-4
        Weight of the VAE's divergence.
    embedder_lr : float, default 1e-3
    embedder_batch_size, embedder_steps : int, optional
        Paper: 50 (images) or 100, and 1,000,000 (2000 epochs of 500 steps; its checkpoints from a tenth of that on were
        used). "small": 100, and 1500.
    action_in_embedding : bool, default True
        Append the raw action to z (an ablation without).
    scramble : bool, default False
        Deal the scores to the prior transitions at random, which leaves as many of them (an ablation).
    index : {"exact", "faiss"}, default "exact"
        How nearest transitions are found, as in :func:`anytask.control.behavior_retrieval.nearest.nearest_distance`.
    ring, burn_in, correction_delta, correction_steps : int, int, float, int, default 1000, 10, 0.8, 1000
        Of :meth:`correct`: corrected transitions remembered, episodes before the first update, threshold, gradient
        steps per update.
    head, core, hidden, window, modes, min_std, evaluation, trunks, trunk_width, crop, lr, batch_size, steps, policy
        Of the policy, as in :class:`~anytask.control.imitator.Imitator`. ``trunks`` and ``trunk_width`` also make the
        embedder's image trunks; crops are for the policy only.
    seed, device
        As in :class:`~anytask.control.imitator.Imitator`.

    Attributes
    ----------
    scores_ : array (T,)
        Similarity S of each prior transition.
    distances_ : array (T,)
        d, what the scores are made of.
    selected_ : array (T,) of bool
        Which prior transitions were kept.
    embedder_ : torch.nn.Module
    prior_embeddings_, expert_embeddings_ : array (T, d)
        e of the prior and of the expert.
    policy_ : BehaviourCloning
    ring_ : list of Episode
        The corrections that :meth:`correct` remembers.

    Raises
    ------
    ValueError
        From :meth:`fit`: without prior data, for data that do not fit together, or a threshold that keeps nothing.

    Examples
    --------
    A walker in a corridor: the expert goes right, half of the prior data goes left in the same places.

    >>> rng = np.random.default_rng(0)
    >>> def walk(way, n=20):
    ...     x = np.cumsum(np.full(n + 1, 0.1 * way)) + rng.normal()
    ...     return Episode(x[:, None], np.full((n, 1), way) + 0.1 * rng.normal(size=(n, 1)), attributes={"way": way})
    >>> expert = Episodes.from_list([walk(1.0)])
    >>> prior = Episodes.from_list([walk(way) for way in (1.0, -1.0) * 10])
    >>> model = BehaviorRetrieval(preset="small", embedder_steps=100, steps=100, device="cpu").fit(expert, prior)
    >>> went_right = prior.attributes["way"][prior.episode_of] > 0
    >>> bool(model.selected_.any()), bool(model.selected_[~went_right].any())
    (True, False)

    Notes
    -----
    What is kept are transitions. A recurrent policy learns from windows that *start* at a kept one; the steps after it
    may not be kept themselves. Observations and actions are normalised by mean and standard deviation of the prior, in
    both data sets alike, so that no part of e outweighs the others by its units. When all distances are equal, every
    S is 1.

    Departures from the paper
    -------------------------
    Actions are normalised to unit variance, where the released code relies on actions in [-1, 1] and squashes the
    mixture's means with tanh. Steps past an episode's end do not count in the loss (they are repeated and counted in
    the released code). Every batch has its retrieved half; in the released code one in each pass over the data lacks
    it. Image trunks have group instead of batch normalisation. The number of policy steps is not part of the method;
    the preset's is that of the library the released code builds on.

    References
    ----------
    Du, Nair, Sadigh, Finn, 2023, "Behavior Retrieval: Few-Shot Imitation Learning by Querying Unlabeled Datasets", RSS,
    arXiv:2304.08742.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            **Imitator.PRESETS["paper"], "delta": 0.75, "latent_dim": 14, "embedder_batch_size": 100,
            "embedder_hidden": (300, 400), "embedder_steps": 1_000_000, "decoder_channels": 256,
        },
        "paper with images": {
            **Imitator.PRESETS["paper with images"], "delta": 0.85, "latent_dim": 128, "embedder_batch_size": 50,
        },
        "small": {
            **Imitator.PRESETS["small"], "delta": 0.8, "latent_dim": 8, "embedder_batch_size": 100,
            "embedder_hidden": (128, 128), "embedder_steps": 1500, "decoder_channels": 64,
        },
        "small with images": {"embedder_batch_size": 50},
    }  # fmt: skip

    def __init__(
        self,
        *,
        preset: str = "paper",
        delta: float | None = None,
        quantile: float | None = None,
        embedder: str | nn.Module = "vae",
        latent_dim: int | None = None,
        embedder_hidden: Sequence[int] | None = None,
        decoder_channels: int | None = None,
        beta: float = 1e-4,
        embedder_lr: float = 1e-3,
        embedder_batch_size: int | None = None,
        embedder_steps: int | None = None,
        action_in_embedding: bool = True,
        scramble: bool = False,
        index: Literal["exact", "faiss"] = "exact",
        ring: int = 1000,
        burn_in: int = 10,
        correction_delta: float = 0.8,
        correction_steps: int = 1000,
        head: Head | nn.Module = "gmm",
        core: str | nn.Module | None = None,
        hidden: Sequence[int] | None = None,
        window: int | None = None,
        modes: int = 5,
        min_std: float = 1e-4,
        evaluation: Literal["low-noise", "mode"] = "low-noise",
        trunks: Any = None,
        trunk_width: int | None = None,
        crop: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        steps: int | None = None,
        policy: Any = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        super().__init__(
            preset=preset, head=head, core=core, hidden=hidden, window=window, modes=modes, min_std=min_std,
            evaluation=evaluation, trunks=trunks, trunk_width=trunk_width, crop=crop, lr=lr, batch_size=batch_size,
            steps=steps, policy=policy, seed=seed, device=device,
        )  # fmt: skip
        for name, share in (("delta", delta), ("correction_delta", correction_delta)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} must be between 0 (keep all) and 1 (keep the closest), got {share!r}")
        if quantile is not None and not 0 < quantile <= 1:
            raise ValueError(f"quantile must be in (0, 1], the share to keep, got {quantile!r}")
        if delta is not None and quantile is not None:
            raise ValueError("give delta or quantile, not both")
        counts = {
            "latent_dim": latent_dim, "decoder_channels": decoder_channels, "embedder_batch_size": embedder_batch_size,
            "embedder_steps": embedder_steps, "ring": ring, "correction_steps": correction_steps,
        }  # fmt: skip
        for name, count in counts.items():
            if count is not None and (not isinstance(count, (int, np.integer)) or count < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
        if beta < 0 or burn_in < 0:
            raise ValueError(f"beta and burn_in must be at least 0, got {beta!r} and {burn_in!r}")
        if not embedder_lr > 0:
            raise ValueError(f"embedder_lr must be above 0, got {embedder_lr!r}")
        if index not in ("exact", "faiss"):
            raise ValueError(f"index must be 'exact' or 'faiss', got {index!r}")
        known = isinstance(embedder, str) and (embedder in _EMBEDDERS or embedder.startswith("frozen:"))
        if not known and not hasattr(embedder, "embed"):
            raise ValueError(
                f"embedder must be one of {[*_EMBEDDERS, 'frozen:NAME']} or have embed(), got {embedder!r}"
            )
        self.delta, self.quantile, self.embedder, self.latent_dim = delta, quantile, embedder, latent_dim
        self.embedder_hidden, self.decoder_channels = embedder_hidden, decoder_channels
        self.beta, self.embedder_lr = beta, embedder_lr
        self.embedder_batch_size, self.embedder_steps = embedder_batch_size, embedder_steps
        self.action_in_embedding, self.scramble, self.index = action_in_embedding, scramble, index
        self.ring, self.burn_in = ring, burn_in
        self.correction_delta, self.correction_steps = correction_delta, correction_steps

    scores_: np.ndarray
    distances_: np.ndarray
    selected_: np.ndarray
    embedder_: Any
    prior_embeddings_: np.ndarray
    expert_embeddings_: np.ndarray
    embedder_losses_: list[float]
    ring_: list[Episode]
    n_corrections_: int
    _prior: Episodes | None

    # -- the three phases -----------------------------------------------------------------------------------------

    def _sources(self, episodes: Episodes, prior: Episodes | None, progress: Progress) -> list[Source]:
        if prior is None:
            raise ValueError("Behavior Retrieval needs prior data to retrieve from: fit(episodes, prior=...)")
        self.ring_, self.n_corrections_, self._prior = [], 0, prior
        self.embedder_ = self._make_embedder()
        self.embedder_losses_ = self._train_embedder(prior, progress)
        self.prior_embeddings_ = self.embed(prior)
        self.expert_embeddings_ = self.embed(episodes)
        s = self._settings()
        self._select(self.expert_embeddings_, None if self.quantile else s.delta, self.quantile)
        return [Source(episodes), Source(prior, self.selected_)]

    def _train_embedder(self, prior: Episodes, progress: Progress) -> list[float]:
        s = self._settings()
        if self.embedder not in ("vae", "time-contrastive"):
            return []  # what comes from elsewhere is taken as it is
        data = _Transitions(prior, self._shapes, self.statistics_, self._device)
        rng = np.random.default_rng(derive(self.seed, "embedder batches"))
        noise = torch.Generator(self._device).manual_seed(derive(self.seed, "embedder noise"))
        trainable = [p for p in self.embedder_.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=s.embedder_lr, fused=True)
        self.embedder_.train()
        every, total, losses = max(s.embedder_steps // 100, 1), 0.0, []
        for step in range(1, s.embedder_steps + 1):
            rows = rng.integers(prior.steps, size=s.embedder_batch_size)
            if isinstance(self.embedder_, TimeContrastive):
                later = np.minimum(rows + rng.geometric(0.1, size=len(rows)), prior.ends[prior.episode_of[rows]])
                loss, _ = self.embedder_.loss(*data[rows], *data[later])
            else:
                loss, _ = self.embedder_.loss(*data[rows], noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
            if step % every == 0:
                if not math.isfinite(total):
                    raise RuntimeError(f"the embedder's loss is not finite after {step} steps: lower embedder_lr")
                losses.append(total / every)
                total = 0.0
                if progress:
                    progress(step / s.embedder_steps)
        self.embedder_.requires_grad_(False).eval()
        for parameter in self.embedder_.parameters():
            parameter.grad = None
        return losses

    @torch.no_grad()
    def embed(self, episodes: Episodes, *, batch_size: int = 1024) -> np.ndarray:
        """Return ``e(o, a)`` of every transition, (T, d) float32."""
        data = _Transitions(episodes, self._shapes, self.statistics_, self._device)
        parts = []
        self.embedder_.eval()
        for start in range(0, episodes.steps, batch_size):
            obs, action = data[np.arange(start, min(start + batch_size, episodes.steps))]
            z = self.embedder_.embed(obs, action)
            parts.append(torch.cat([z, action], -1) if self.action_in_embedding else z)
        return torch.cat(parts).float().cpu().numpy()

    def _select(self, expert_embeddings: np.ndarray, delta: float | None, quantile: float | None) -> None:
        self.distances_ = nearest_distance(
            self.prior_embeddings_, expert_embeddings, index=self.index, device=self._device
        )
        if self.scramble:
            self.distances_ = np.random.default_rng(derive(self.seed, "scramble")).permutation(self.distances_)
        self.scores_ = similarity_scores(self.distances_)
        self.selected_ = retrieve(self.scores_, delta, quantile)

    # -- corrections ----------------------------------------------------------------------------------------------

    def correct(
        self, corrections: Episode | Episodes, prior: Episodes | None = None, progress: Progress = None
    ) -> BehaviorRetrieval:
        """Learn from what a person did who took over, as in human-gated DAgger: call it after each such episode.

        The last ``ring`` corrected transitions are remembered. From ``burn_in`` episodes on, the prior is scored anew
        against them, and the policy goes on training for ``correction_steps`` on batches of half remembered, half
        retrieved windows (threshold ``correction_delta``).

        Parameters
        ----------
        corrections : Episode or Episodes
            The steps in which the person acted: observations, and the person's actions.
        prior : Episodes, optional
            The prior data again, where the system was loaded from a folder.
        progress : callable, optional

        Examples
        --------
        See the guide "a robot policy from ten demonstrations".
        """
        self._check_fitted()
        prior = prior or self._prior
        if prior is None:
            raise ValueError("the prior data are not saved with the system: correct(corrections, prior=...)")
        if prior.steps != len(self.prior_embeddings_):
            raise ValueError(
                f"prior has {prior.steps} steps, and the system was trained on {len(self.prior_embeddings_)}"
            )
        new = corrections if isinstance(corrections, Episodes) else Episodes.from_list([corrections])
        for key, shape in self._shapes.items():
            if key not in new.keys or new.shape_of(key) != shape:
                raise ValueError(f"corrections need observations {key!r} of shape {shape}, got {sorted(new.keys)}")
        with rollback(self, skip=frozenset({"_prior", "embedder_", "policy", "embedder", "prior_embeddings_"})):
            self._prior = prior
            self.ring_ = _last_steps([*self.ring_, *new], self.ring)
            self.n_corrections_ += len(new)
            if self.n_corrections_ < self.burn_in:
                return self
            ring = Episodes.from_list(self.ring_)
            self._select(self.embed(ring), self.correction_delta, None)
            sources = [Source(ring), Source(prior, self.selected_)]
            self.policy_.train(sources, self.correction_steps, progress)
        return self

    # -- construction, state --------------------------------------------------------------------------------------

    @property
    def _device(self) -> torch.device:
        return resolve_device(self.device)

    def _make_embedder(self) -> Any:
        if not isinstance(self.embedder, str):
            return copy.deepcopy(self.embedder).to(self._device).requires_grad_(False)
        s = self._settings()
        seed = derive(self.seed, "embedder")
        common = {"trunks": s.trunks, "trunk_width": s.trunk_width, "seed": seed}
        if self.embedder.startswith("frozen:"):
            return PlainFeatures(self._shapes, trunks=self.embedder, seed=seed).to(self._device)
        if self.embedder == "raw":
            return PlainFeatures(self._shapes, **common).to(self._device)
        common |= {"latent_dim": s.latent_dim, "hidden": tuple(s.embedder_hidden)}
        if self.embedder == "vae":
            decoder = {"beta": s.beta, "decoder_channels": s.decoder_channels}
            return StateActionVAE(self._shapes, self._action_dim, **decoder, **common).to(self._device)
        return TimeContrastive(self._shapes, self._action_dim, **common).to(self._device)

    def cost(self) -> dict[str, int]:
        """Return trainable parameters (the policy's), and all stored numbers, the embedder's included."""
        cost = super().cost()
        cost["stored_parameters"] += sum(p.numel() for p in self.embedder_.parameters())
        return cost

    def _state(self) -> dict[str, Any]:
        ring = [{"observations": e.observations, "actions": e.actions, "terminated": e.terminated} for e in self.ring_]
        return super()._state() | {
            "embedder": self.embedder_.state_dict(),
            "ring": ring,
            **{name: getattr(self, name) for name in _ARRAYS},
            "embedder_losses": self.embedder_losses_,
            "n_corrections": self.n_corrections_,
        }

    def _load_state(self, state: Mapping[str, Any]) -> None:
        super()._load_state(state)
        self.embedder_ = self._make_embedder()
        self.embedder_.load_state_dict(state["embedder"])
        self.embedder_.requires_grad_(False).eval()
        self.ring_ = [Episode(e["observations"], e["actions"], terminated=e["terminated"]) for e in state["ring"]]
        for name in _ARRAYS:
            setattr(self, name, state[name])
        self.embedder_losses_, self.n_corrections_ = state["embedder_losses"], state["n_corrections"]
        self._prior = None


_EMBEDDERS = ("vae", "time-contrastive", "raw")
_ARRAYS = ("scores_", "distances_", "selected_", "prior_embeddings_", "expert_embeddings_")


def similarity_scores(distances: ArrayLike) -> np.ndarray:
    """Return ``S = (max d - d) / (max d - min d)``: 1 for the closest, 0 for the farthest, 1 for all if all are equal.

    Examples
    --------
    >>> similarity_scores([1.0, 2.0, 0.5, 4.0]).round(6).tolist()
    [0.857143, 0.571429, 1.0, 0.0]
    """
    d = np.asarray(distances, dtype=np.float64)
    if d.ndim != 1 or len(d) == 0 or not np.isfinite(d).all():
        raise ValueError("distances must be finite numbers, one per transition")
    span = d.max() - d.min()
    return np.ones_like(d) if span == 0 else (d.max() - d) / span


def retrieve(scores: ArrayLike, delta: float | None = None, quantile: float | None = None) -> np.ndarray:
    """Return which transitions are kept (T,): those with ``S >= delta``, or the most similar share; ties stay together.

    Raises
    ------
    ValueError
        If nothing is similar enough.

    Examples
    --------
    >>> retrieve([0.86, 0.57, 1.0, 0.0], delta=0.8).tolist()
    [True, False, True, False]
    >>> retrieve([0.86, 0.57, 1.0, 0.0], quantile=0.25).tolist()
    [False, False, True, False]
    """
    s = np.asarray(scores, dtype=np.float64)
    if (delta is None) == (quantile is None):
        raise ValueError("give delta or quantile")
    least = 0.0 if delta is None else delta
    if quantile is not None:
        least = float(np.sort(s)[-max(1, math.ceil(quantile * len(s) - 1e-9))])
    kept = s >= least
    if not kept.any():
        raise ValueError(f"no prior transition has a similarity of {least}: the highest is {s.max():.3f}, lower delta")
    return kept


class _Transitions:
    """Normalised observations and actions of episodes, by rows."""

    def __init__(
        self,
        episodes: Episodes,
        shapes: Mapping[str, tuple[int, ...]],
        statistics: Mapping[str, Statistics],
        device: torch.device,
    ) -> None:
        self.rows, self.device = Rows(episodes, list(shapes), device), device
        self.scale = {k: _scale(statistics[k], device) for k, shape in shapes.items() if not is_image(shape)}
        mean, std = _scale(statistics["action"], device)
        self.actions = (torch.from_numpy(episodes.actions).to(device) - mean) / std

    def __getitem__(self, rows: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        obs = self.rows[rows]
        for key, (mean, std) in self.scale.items():
            obs[key] = (obs[key].float() - mean) / std
        return obs, self.actions[torch.from_numpy(rows).to(self.device)]


def _scale(s: Statistics, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = torch.as_tensor(s.mean).to(device), torch.as_tensor(s.std).to(device)
    return mean, torch.where(std > 1e-6, std, torch.ones_like(std))  # what never varies is only centred


def _last_steps(episodes: list[Episode], most: int) -> list[Episode]:
    """Return the last ``most`` steps of episodes, the oldest cut off."""
    kept: list[Episode] = []
    for e in reversed(episodes):
        room = most - sum(len(k) for k in kept)
        if room <= 0:
            break
        cut = max(len(e) - room, 0)
        seen = {k: np.asarray(v)[cut:] for k, v in dict(e.observations).items()}
        kept.append(Episode(seen, np.asarray(e.actions)[cut:], terminated=e.terminated))
    return kept[::-1]
