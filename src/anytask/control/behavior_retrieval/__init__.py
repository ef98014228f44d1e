"""Behavior Retrieval: few-shot imitation by keeping what looks like the expert in a large unlabelled data set.

What is kept are transitions. A recurrent policy learns from windows that *start* at a kept one; the steps after it may
not be kept themselves. Observations and actions are normalized by mean and standard deviation of the prior, in both
data sets alike, so that no part of e outweighs the others by its units. When all distances are equal, every S is 1.

Departures: actions are normalized to unit variance, where the released code relies on actions in [-1, 1] and squashes
the mixture's means with tanh. Steps past an episode's end do not count in the loss (they are repeated and counted in
the released code). Every batch has its retrieved half; in the released code one in each pass over the data lacks it.
Image trunks have group instead of batch normalization. The number of policy steps is not part of the method; the
default is that of the library the released code builds on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from anytask.control.behavior_retrieval.state_action_vae import PlainFeatures, StateActionVAE, TimeContrastive
from anytask.control.imitator import Imitator
from anytask.control.parts.acting import check_fits
from anytask.control.parts.imitation import Rows, Source, by_hundredths
from anytask.core.checks import check_counts, require_finite
from anytask.core.errors import instance_of
from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.rollback import rollback
from anytask.core.settings import Settings, choice, flag, free, group, numbers, real, whole
from anytask.core.training import train
from anytask.datasets.episodes import Episode, Episodes


def nearest_distance(
    queries: Any,
    points: Any,
    *,
    index: Literal["exact", "faiss"] = "exact",
    chunk: int = 4096,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Return ``min_i ||q_j - p_i||_2`` for every query.

    Parameters
    ----------
    queries : array (n, d)
    points : array (m, d)
    index : {"exact", "faiss"}, default "exact"
        Exact distances, computed in blocks that never hold more than ``chunk * chunk`` of them; or a faiss index of the
        points, for large sets: exact up to 50,000 points, an approximate one (HNSW) beyond.
    chunk : int, default 4096
        Rows per block.
    device : default "cpu"
        Where exact distances are computed.

    Returns
    -------
    array (n,) of float64

    Raises
    ------
    ImportError
        For ``index="faiss"`` without the extra ``text``.

    Examples
    --------
    >>> nearest_distance([[0.0, 1.0], [3.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]).tolist()
    [1.0, 2.0]
    """
    check_counts(chunk=chunk)
    q, p = (_matrix(x, name) for x, name in ((queries, "queries"), (points, "points")))
    if q.shape[1] != p.shape[1]:
        raise ValueError(f"queries have {q.shape[1]} numbers each and points {p.shape[1]}")
    if len(p) == 0:
        raise ValueError("there are no points to be near to")
    if index == "faiss":
        return _with_faiss(q, p)
    if index != "exact":
        raise ValueError(f"index must be 'exact' or 'faiss', got {index!r}")
    parts = [part.to(device) for part in p.split(chunk)]
    # Differences, not dot products: those lose the small distances that decide who is nearest.
    exact = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = [q.new_zeros(0)]
    for block in q.split(chunk):
        nearest.append(torch.stack([exact(block.to(device), part).amin(1) for part in parts]).amin(0).cpu())
    return torch.cat(nearest).numpy()


def _matrix(x: Any, name: str) -> Tensor:
    x = torch.as_tensor(np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x), dtype=torch.float64)
    if x.dim() != 2:
        raise ValueError(f"{name} must be a table (rows, numbers), got shape {tuple(x.shape)}")
    return x


def _with_faiss(q: Tensor, p: Tensor) -> np.ndarray:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("index='faiss' needs faiss: pip install 'anytask[text]'") from error
    table = faiss.IndexFlatL2(p.shape[1]) if len(p) <= 50_000 else faiss.IndexHNSWFlat(p.shape[1], 32)
    table.add(p.float().numpy())
    squared, _ = table.search(q.float().numpy(), 1)
    return np.sqrt(np.maximum(squared[:, 0].astype(np.float64), 0.0))


__all__ = ["BehaviorRetrieval"]


def _check_embedder(embedder: Any) -> None:
    known = isinstance(embedder, str) and (embedder in _EMBEDDERS or embedder.startswith("frozen:"))
    if not known and not hasattr(embedder, "embed"):
        raise ValueError(f"embedder must be one of {[*_EMBEDDERS, 'frozen:NAME']} or have embed(), got {embedder!r}")


class EmbeddingSettings(Settings):
    """What maps a transition to z; the defaults are the paper's for numbers."""

    embedder: Any = free("vae", "vae, time-contrastive, raw, frozen:NAME, or a module with embed()", _check_embedder)
    latent_dim: int = whole(14, "width of z")
    hidden: Sequence[int] = numbers((300, 400), "layers of its perceptrons", at_least=1, integers=True)
    decoder_channels: int = whole(256, "maps that the VAE's image decoder starts from")
    beta: float = real(1e-4, "weight of the VAE's divergence", at_least=0)
    lr: float = real(1e-3, "Adam's learning rate", above=0)
    batch_size: int = whole(100, "transitions per step")
    steps: int = whole(1_000_000, "gradient steps")


class CorrectionSettings(Settings):
    """Learning from what a person does who takes over."""

    ring: int = whole(1000, "corrected transitions that are remembered")
    burn_in: int = whole(10, "episodes before the first update", at_least=0)
    delta: float = real(0.8, "least similarity of what is kept", at_least=0, at_most=1)
    steps: int = whole(1000, "gradient steps per update")


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
    delta : float in [0, 1], default 0.75
        Least similarity of what is kept: 0 keeps everything, 1 only the closest. Paper: 0.75 for numbers, 0.85 for
        images (preset "images"); "small": 0.8.
    quantile : float in (0, 1], optional
        Keep this share of the prior data instead, the most similar first. One far outlier squeezes all S towards 1, and
        a share does not mind.
    embedding : EmbeddingSettings or mapping
        What makes z. ``embedder`` is the VAE; an encoder under which a transition is like those soon after it
        ("time-contrastive", the released code's alternative); the normalized observation itself ("raw"); frozen
        features of a Hugging Face vision model for images and numbers as they are ("frozen:NAME"); or a module with
        ``embed(obs, action)``, taken as it is.
    action_in_embedding : bool, default True
        Append the raw action to z (an ablation without).
    scramble : bool, default False
        Deal the scores to the prior transitions at random, which leaves as many of them (an ablation).
    index : {"exact", "faiss"}, default "exact"
        How nearest transitions are found, as in :func:`anytask.control.behavior_retrieval.nearest_distance`.
    corrections : CorrectionSettings or mapping
        Of :meth:`correct`.
    cloning, policy, seed, device
        As in :class:`~anytask.control.imitator.Imitator`. ``trunks`` and ``trunk_width`` of the policy also make the
        embedder's image trunks; crops are for the policy only.

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
    policy_ : BehaviorCloning
    ring_ : list of Episode
        The corrections that :meth:`correct` remembers.

    Examples
    --------
    A walker in a corridor: the expert goes right, half of the prior data goes left in the same places.

    >>> rng = np.random.default_rng(0)
    >>> def walk(way, n=20):
    ...     x = np.cumsum(np.full(n + 1, 0.1 * way)) + rng.normal()
    ...     return Episode(x[:, None], np.full((n, 1), way) + 0.1 * rng.normal(size=(n, 1)), attributes={"way": way})
    >>> expert = Episodes.from_list([walk(1.0)])
    >>> prior = Episodes.from_list([walk(way) for way in (1.0, -1.0) * 10])
    >>> short = {"cloning": {"steps": 100}, "embedding": {"steps": 100}, "device": "cpu"}
    >>> model = BehaviorRetrieval.from_preset("small", **short).fit(expert, prior)
    >>> went_right = prior.attributes["way"][prior.episode_of] > 0
    >>> bool(model.selected_.any()), bool(model.selected_[~went_right].any())
    (True, False)

    References
    ----------
    Du, Nair, Sadigh, Finn, 2023, "Behavior Retrieval: Few-Shot Imitation Learning by Querying Unlabeled Datasets", RSS,
    arXiv:2304.08742.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "images": {
            **Imitator.PRESETS["images"], "delta": 0.85, "embedding": {"latent_dim": 128, "batch_size": 50},
        },
        "small": {
            **Imitator.PRESETS["small"], "delta": 0.8,
            "embedding": {"latent_dim": 8, "hidden": (128, 128), "steps": 1500, "decoder_channels": 64},
        },
    }  # fmt: skip

    delta: float = real(0.75, "least similarity of what is kept: 0 keeps all, 1 the closest", at_least=0, at_most=1)
    quantile: float | None = real(
        None, "share to keep instead of a threshold; None: by delta", above=0, at_most=1, optional=True
    )
    embedding: EmbeddingSettings = group(EmbeddingSettings, "what compares transitions")
    action_in_embedding: bool = flag(True, "append the raw action to z (off: an ablation)")
    scramble: bool = flag(False, "deal the scores at random (an ablation)")
    index: Any = choice("exact", ("exact", "faiss"), "how nearest transitions are found")
    corrections: CorrectionSettings = group(CorrectionSettings, "learning from interventions")

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

    def _sources(self, episodes: Episodes, prior: Any, progress: Progress | None) -> list[Source]:
        self.ring_, self.n_corrections_, self._prior = [], 0, prior
        self._build()
        self.embedder_losses_ = self._train_embedder(prior, progress)
        self.embedder_.requires_grad_(False).eval()
        self.prior_embeddings_ = self.embed(prior)
        self.expert_embeddings_ = self.embed(episodes)
        self._select(self.expert_embeddings_, None if self.quantile else self.delta, self.quantile)
        return [Source(episodes), Source(prior, self.selected_)]

    def _train_embedder(self, prior: Episodes, progress: Progress | None) -> list[float]:
        s = self.embedding
        if s.embedder not in ("vae", "time-contrastive"):
            return []  # what comes from elsewhere is taken as it is
        data = self._transitions(prior)
        rng = np.random.default_rng(derive(self.seed, "embedder batches"))
        noise = torch.Generator(self._device).manual_seed(derive(self.seed, "embedder noise"))

        def draw(step: int) -> tuple[Any, ...]:
            rows = rng.integers(prior.steps, size=s.batch_size)
            if s.embedder == "vae":
                return (*data[rows], noise)
            later = np.minimum(rows + rng.geometric(0.1, size=len(rows)), prior.ends[prior.episode_of[rows]])
            return (*data[rows], *data[later])

        trained = [p for p in self.embedder_.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=s.lr, fused=True)
        curve = train(
            self.embedder_, draw, lambda batch: self.embedder_.loss(*batch)[0], steps=s.steps, optimizer=optimizer,
            stage="the embedder", progress=progress,
        )  # fmt: skip
        optimizer.zero_grad(set_to_none=True)
        return by_hundredths(curve)

    @torch.no_grad()
    def embed(self, episodes: Episodes, *, batch_size: int = 1024) -> np.ndarray:
        """Return ``e(o, a)`` of every transition, (T, d) float32."""
        check_counts(batch_size=batch_size)
        data, parts = self._transitions(episodes), []
        self.embedder_.eval()
        for start in range(0, episodes.steps, batch_size):
            obs, action = data[np.arange(start, min(start + batch_size, episodes.steps))]
            z = self.embedder_.embed(obs, action)
            parts.append(torch.cat([z, action], -1) if self.action_in_embedding else z)
        advice = "check the embedder and the scale of the observations"
        return require_finite(torch.cat(parts).float().cpu().numpy(), "the embedding of a transition", advice)

    def _transitions(self, episodes: Episodes) -> Rows:
        """Return observations and actions by rows, with the mean and standard deviation of the prior taken out."""
        check_fits(episodes, self.shapes_, self.action_dim_)
        of = self.statistics_
        seen = {k: (v[:] - of[k].mean) / of[k].scale if k in of else v for k, v in episodes.observations.items()}
        actions = (episodes.actions - of["action"].mean) / of["action"].scale
        return Rows(replace(episodes, observations=seen, actions=actions), list(self.shapes_), self._device)

    def _select(self, expert_embeddings: np.ndarray, delta: float | None, quantile: float | None) -> None:
        d = nearest_distance(self.prior_embeddings_, expert_embeddings, index=self.index, device=self._device)
        self.distances_ = require_finite(d, "the distance of a prior transition to the expert's")
        if self.scramble:
            self.distances_ = np.random.default_rng(derive(self.seed, "scramble")).permutation(self.distances_)
        self.scores_ = similarity_scores(self.distances_)
        self.selected_ = retrieve(self.scores_, delta, quantile)

    # -- corrections ----------------------------------------------------------------------------------------------

    def correct(
        self, corrections: Episode | Episodes, prior: Episodes | None = None, progress: Progress | None = None
    ) -> BehaviorRetrieval:
        """Learn from what a person did who took over, as in human-gated DAgger: call it after each such episode.

        The last ``ring`` corrected transitions are remembered. From ``burn_in`` episodes on, the prior is scored anew
        against them, and the policy goes on training for ``steps`` on batches of half remembered, half retrieved
        windows (threshold ``delta``); these are the settings ``corrections``.

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
        prior = self._prior if prior is None else prior
        if prior is None:
            raise ValueError("the prior data are not saved with the system: correct(corrections, prior=...)")
        instance_of("prior", Episodes, optional=False)(prior)
        if prior.steps != len(self.prior_embeddings_):
            raise ValueError(f"prior has {prior.steps} steps, the system was fitted to {len(self.prior_embeddings_)}")
        new = Episodes.from_list([corrections]) if isinstance(corrections, Episode) else corrections
        check_fits(new, self.shapes_, self.action_dim_, "the corrections")
        c, kept_apart = self.corrections, {"_prior", "embedder_", "prior_embeddings_"}
        with rollback(self, skip=frozenset({*self._param_names(), *kept_apart})):
            self._prior = prior
            self.ring_ = _last_steps([*self.ring_, *new], c.ring)
            self.n_corrections_ += len(new)
            if self.n_corrections_ >= c.burn_in:
                ring = Episodes.from_list(self.ring_)
                self._select(self.embed(ring), c.delta, None)
                self.policy_.train([Source(ring), Source(prior, self.selected_)], c.steps, progress)
        return self

    # -- construction, state --------------------------------------------------------------------------------------

    def _build(self) -> None:
        s, made = self.embedding, self.embedding.embedder
        common: dict[str, Any] = {"trunk_width": self.cloning.trunk_width, "seed": derive(self.seed, "embedder")}
        common["trunks"] = made if str(made).startswith("frozen:") else self.cloning.trunks
        sizes: dict[str, Any] = {"latent_dim": s.latent_dim, "hidden": tuple(s.hidden), **common}
        if not isinstance(made, str):
            self.embedder_ = copy.deepcopy(made)
        elif made == "vae":
            sizes |= {"beta": s.beta, "decoder_channels": s.decoder_channels}
            self.embedder_ = StateActionVAE(self.shapes_, self.action_dim_, **sizes)
        elif made == "time-contrastive":
            self.embedder_ = TimeContrastive(self.shapes_, self.action_dim_, **sizes)
        else:
            self.embedder_ = PlainFeatures(self.shapes_, **common)
        self.embedder_.to(self._device)

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        state["values"]["ring_"] = [(e.observations, e.actions, e.terminated) for e in self.ring_]
        return state

    def _load_state(self, state: Mapping[str, Any]) -> None:
        super()._load_state(state)
        self.embedder_.requires_grad_(False).eval()
        ring: Any = self.ring_  # as _state wrote it
        self.ring_ = [Episode(seen, actions, terminated=ended) for seen, actions, ended in ring]
        self._prior = None


_EMBEDDERS = ("vae", "time-contrastive", "raw")


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
    least: Any = delta if quantile is None else np.sort(s)[-max(1, math.ceil(quantile * len(s) - 1e-9))]
    kept = s >= least
    if not kept.any():
        raise ValueError(f"no prior transition has a similarity of {least}: the highest is {s.max():.3f}, lower delta")
    return kept


def _last_steps(episodes: list[Episode], most: int) -> list[Episode]:
    """Return the last ``most`` steps of episodes, the oldest cut off."""
    kept: list[Episode] = []
    for e in reversed(episodes):
        cut = max(len(e) - most, 0)
        seen = {key: value[cut:] for key, value in e.observations.items()}
        kept.append(Episode(seen, e.actions[cut:], terminated=e.terminated))
        most -= len(kept[-1])
        if most <= 0:
            break
    return kept[::-1]
