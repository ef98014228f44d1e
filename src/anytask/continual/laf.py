"""LAF: a trained classifier forgets given inputs, without a single label.

Departures from the paper: reconstructions are linear by default, since embeddings are not bounded; the released code's
sigmoid (``vae.output="sigmoid"``) keeps the error large and its gradient small. Where the released code drops
incomplete batches, they are kept, so that a handful of inputs can be forgotten.

How the two losses share the work: at the start all embeddings are the original ones, where both cosine distances of the
alignment are at their minimum, and its gradient is 0. The loss that forgets moves the model off that point. Adam
divides gradients by their size, though, and makes full steps of what rounding leaves (6e-7 on small digits, where the
other loss has 47), so the alignment gets away alone, a little later, and then drives forgotten embeddings out as far as
cosines go. The loss that forgets therefore buys passes: with T = 20, 10 passes and embeddings scaled to deviation 1, a
class of digits was right in .28 with it and in .995 without (3 seeds); from 20 passes on it was gone either way.

``rho`` is flat where the squared error, summed over dimensions as in the released code, is far above 1. That is not why
the loss looks idle: auto-encoders of 100 passes instead of 30 bring the median error of forgotten embeddings from 6.5
to 1.1, where ``rho`` is 14 times as steep, and the loss alone then forgets less (.62 right after 40 passes, .29
before). A mean over dimensions in the sum's place is steep too, and tears everything down (.17 of the remaining rows
right). With ``vae.standardize`` this loss alone leaves .01 after 40 passes, and .87 of the remaining rows, which the
alignment gives back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.parts.split_model import Embedder, logits_of
from anytask.core.checks import check_inputs, label_places, require_finite, require_finite_weights
from anytask.core.errors import instance_of
from anytask.core.estimator import Tool
from anytask.core.progress import Progress, heard, portion
from anytask.core.rng import derive, isolated
from anytask.core.settings import Settings, choice, flag, group, real, text, whole
from anytask.core.training import gradients, train
from anytask.models.build import MLP
from anytask.parts.distillation import Snapshot
from anytask.parts.vae import ConditionalVAE, diagonal_gaussian_kl

__all__ = ["LAF"]


class VAESettings(Settings):
    """The two auto-encoders of embeddings, d - 128 - 32 - latent - 32 - 128 - d.

    Parameters
    ----------
    latent_dim, epochs, lr, beta
        Width of the code (paper: 8 and 16), and training: passes, rate of Adam, weight of the divergence.
    remaining_on : {"all", "remaining"}
        What the auto-encoder of the remaining inputs learns from: all inputs, as published (it need not be trained anew
        for every request), or the remaining ones.
    output : {"linear", "sigmoid"}
        Of the decoder; "sigmoid" is the released code's.
    standardize : bool
        Shift and scale embeddings by the mean and deviation that the original model gives them.
    """

    latent_dim: int = whole(8, "width of the code")
    epochs: int = whole(10, "passes")
    lr: float = real(1e-3, "learning rate", above=0)
    beta: float = real(0.025, "weight of the divergence from the prior", at_least=0)
    remaining_on: str = choice("all", ("all", "remaining"), "what the auto-encoder of remaining inputs learns from")
    output: str = choice("linear", ("linear", "sigmoid"), "output of the decoder")
    standardize: bool = flag(False, "shift and scale embeddings to mean 0 and deviation 1")


class LAF(Tool):
    """Label-Agnostic Forgetting (Shen et al., 2024).

    Takes the influence of some training inputs out of a classifier: its embeddings of what is to be forgotten are
    pushed off the manifold that they lay on, those of all else are held where they were. Labels are never read. Pick it
    when records or a class have to go, training anew is too dear, and labels are not at hand. Where records of all
    classes are to go and the model generalizes, there is little to forget: a model trained anew has them right as well.

    Parameters
    ----------
    head : str, optional
        Name of the module whose input is the embedding, such as "fc"; None for the last linear layer.
    epochs, batch_size
        Passes over pairs of batches, forgotten and remaining; a pass ends with the shorter of both.
    lr_forget, lr_align : float
        Adam on the loss that forgets (L_UE), and on the one that aligns (L_RA); 0 switches one off.
    temperature : float
        T of the alignment; it tempers the forgotten inputs alone.
    vae : :class:`VAESettings`
    lr_repair : float
        Adam of :meth:`repair`.
    seed, device
        See :class:`~anytask.core.estimator.Tool`.

    Attributes
    ----------
    losses_ : list of (float, float)
        L_UE and L_RA, the mean over the batches of each pass.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = torch.arange(300) % 3
    >>> X = 3 * torch.eye(8)[y] + 0.5 * torch.from_numpy(rng.normal(size=(300, 8))).float()
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> adam = torch.optim.Adam(model.parameters(), 0.01)
    >>> _ = train(model, lambda step: None, lambda _: F.cross_entropy(model(X), y), steps=100, optimizer=adam)
    >>> forgetful = LAF.from_preset("small", epochs=120).forget(model, forget=X[y == 0], retain=X[y > 0])
    >>> right = forgetful(X).argmax(1) == y
    >>> bool(right[y == 0].float().mean() < 0.3), bool(right[y > 0].float().mean() > 0.7)
    (True, True)

    References
    ----------
    Shen, Zhang, Zhao, Bialkowski, Chen, Xu, 2024, "Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep
    Models", ICLR, arXiv:2404.00506.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"epochs": 40, "lr_forget": 5e-4, "lr_align": 1e-3, "vae": {"epochs": 30, "lr": 3e-3}}
    }

    head: str | None = text(None, "module whose input is the embedding; None for the last linear layer", optional=True)
    epochs: int = whole(20, "passes over pairs of batches")
    batch_size: int = whole(32, "rows of a batch")
    lr_forget: float = real(5e-5, "learning rate of the loss that forgets", at_least=0)
    lr_align: float = real(1e-4, "learning rate of the loss that aligns", at_least=0)
    temperature: float = real(5.0, "temperature of the alignment", above=0)
    vae: VAESettings = group(VAESettings, "the auto-encoders of embeddings")
    lr_repair: float = real(1e-3, "learning rate of repair", above=0)

    losses_: list[tuple[float, float]]

    def _check_settings(self) -> None:
        if not self.lr_forget and not self.lr_align:
            raise ValueError("lr_forget and lr_align are both 0: then nothing is forgotten")

    @gradients()
    def forget(
        self,
        model: nn.Module,
        *,
        forget: ArrayLike | Tensor,
        retain: ArrayLike | Tensor,
        progress: Progress | None = None,
    ) -> nn.Module:
        """Return a copy of a classifier that has forgotten some of its training inputs.

        Parameters
        ----------
        model : torch.nn.Module
            Maps (n, \\*input_shape) to logits.
        forget, retain : array or tensor of shape (n, \\*input_shape)
            The training inputs to be forgotten, and those that remain.
        progress : callable, optional
            Told the finished share.

        Raises
        ------
        ValueError
            If there is nothing to forget or to remain, or the model has no embedding (n, d).
        NotFinite
            If training made a NaN or infinite weight.
        """
        instance_of("model", nn.Module, optional=False)(model)
        X_f, X_r = check_inputs(forget, "forget").to(self._device), check_inputs(retain, "retain").to(self._device)
        if X_f.shape[1:] != X_r.shape[1:]:
            raise ValueError(f"forget and retain differ in shape: {tuple(X_f.shape[1:])}, {tuple(X_r.shape[1:])}")
        logits_of(model, X_f[:1])
        progress = heard(progress)
        with isolated(derive(self.seed, "forget")):
            g = Embedder(copy.deepcopy(model).to(self._device), self.head).eval()
            g_0 = Snapshot(g)
            if not g(X_f[:1]).requires_grad:
                raise ValueError("no weight before the head is trained, and only those forget: say which head by head=")
            E_f, E_r = g.all(X_f), g.all(X_r)
            for name, E in (("forget", E_f), ("retain", E_r)):
                if len(zero := (E.norm(dim=1) == 0).nonzero()):
                    raise ValueError(f"the embedding of {name}, row {int(zero[0])}, is 0 and has no direction to align")
            scale = self._scale(E_r)
            V_f = self._fit_vae(scale(E_f), portion(progress, 0.0, 0.2))
            everything = torch.cat([E_r, E_f]) if self.vae.remaining_on == "all" else E_r
            V_r = self._fit_vae(scale(everything), portion(progress, 0.2, 0.4))
            self.losses_ = self._alternate(g, g_0, X_f, X_r, V_f, V_r, scale, portion(progress, 0.4, 1.0))
        require_finite_weights([g], "after forgetting")
        g.zero_grad()
        return g.model.train(model.training)

    @gradients()
    def repair(self, model: nn.Module, X: ArrayLike | Tensor, y: ArrayLike | Tensor) -> nn.Module:
        """Return a copy whose classifier, and nothing else, has made one pass over labelled remaining inputs (LAF+R).

        Parameters
        ----------
        model : torch.nn.Module
        X, y : array or tensor of shape (n, \\*input_shape), and integers (n,)
            Labels are places among the logits.
        """
        instance_of("model", nn.Module, optional=False)(model)
        X_ = check_inputs(X).to(self._device)
        y_ = label_places(y, X_, logits_of(model, X_[:1])).to(self._device)
        with isolated(derive(self.seed, "repair")):
            g = Embedder(copy.deepcopy(model).to(self._device), self.head).eval()
            g.model.requires_grad_(False)
            adam = torch.optim.Adam(g.head.requires_grad_(True).parameters(), self.lr_repair)
            for rows in torch.randperm(len(X_)).split(self.batch_size):
                adam.zero_grad()
                F.cross_entropy(g.model(X_[rows]), y_[rows]).backward()
                adam.step()
        require_finite_weights([g], "after the repair")
        g.zero_grad()
        for weight, given in zip(g.model.parameters(), model.parameters()):
            weight.requires_grad_(given.requires_grad)
        return g.model.train(model.training)

    # -- the steps ------------------------------------------------------------------------------------------------

    def _scale(self, E: Tensor) -> Any:
        if not self.vae.standardize:
            return lambda e: e
        mean, std = E.mean(0), E.std(0, correction=0)
        std = torch.where(std > 1e-6, std, 1.0)
        return lambda e: (e - mean) / std

    def _fit_vae(self, E: Tensor, progress: Progress) -> ConditionalVAE:
        """Phase 1: an auto-encoder of embeddings (n, d) of the original model."""
        s, d = self.vae, E.shape[1]
        trunk = nn.Sequential(MLP((d,), 32, (128,)), nn.ReLU())
        likelihood: Any = "gaussian" if s.output == "linear" else "bernoulli"
        V = ConditionalVAE(
            trunk, 32, (d,), latent_dim=s.latent_dim, decoder_width=32, decoder_hidden=(128,), prior="standard",
            likelihood=likelihood,
        ).to(E.device)  # fmt: skip
        V.grow(1)
        batches = _batches(len(E), self.batch_size)

        def loss(rows: Tensor) -> Tensor:
            q, mu, log_variance = _reconstruction(V, E[rows])
            kl = diagonal_gaussian_kl(mu, log_variance, torch.zeros_like(mu), torch.zeros_like(mu))
            return (q + s.beta * kl).mean()

        steps = s.epochs * -(-len(E) // self.batch_size)
        adam = torch.optim.Adam(V.parameters(), s.lr)
        train(
            V, lambda step: next(batches), loss, steps=steps, optimizer=adam, stage="an auto-encoder", progress=progress
        )
        return V.requires_grad_(False)

    def _alternate(
        self, g: Embedder, g_0: Snapshot, X_f: Tensor, X_r: Tensor, V_f: ConditionalVAE, V_r: ConditionalVAE,
        scale: Any, progress: Progress,
    ) -> list[tuple[float, float]]:  # fmt: skip
        """Phase 2: a step on L_UE, then one on L_RA of the embeddings that it left, batch after batch."""
        forgets, aligns = (torch.optim.Adam(g.parameters(), lr) for lr in (self.lr_forget, self.lr_align))
        log = []
        for epoch in range(1, self.epochs + 1):
            pairs = zip(
                torch.randperm(len(X_f)).split(self.batch_size), torch.randperm(len(X_r)).split(self.batch_size)
            )
            told = []
            for u, s in pairs:
                x_u, x_s = X_f[u], X_r[s]
                L_UE = extractor_unlearning(
                    _reconstruction(V_r, scale(g(x_s)))[0], _reconstruction(V_f, scale(g(x_u)))[0]
                )
                _descend(forgets, L_UE, self.lr_forget)
                L_RA = representation_alignment(
                    _distance(g(x_s), g_0(x_s)), _distance(g(x_u), g_0(x_u)), self.temperature
                )
                _descend(aligns, L_RA, self.lr_align)
                told.append(torch.stack([L_UE.detach(), L_RA.detach()]))
            mean = torch.stack(told).mean(0)
            require_finite(mean, f"a loss of pass {epoch}", "lower lr_forget and lr_align")
            log.append((float(mean[0]), float(mean[1])))
            progress(epoch / self.epochs)
        return log


def extractor_unlearning(q_s: Tensor, q_u: Tensor) -> Tensor:
    """Return L_UE: the sum of ``rho(q) = exp(q / (q + 1))`` over remaining samples, less that over forgotten ones.

    Parameters
    ----------
    q_s, q_u : Tensor (n,), (m,)
        Squared reconstruction errors, each sample's by the auto-encoder of its own set.

    Examples
    --------
    >>> q = torch.tensor([0.0, 1, 9])
    >>> [round(extractor_unlearning(one[None], q[:0]).item(), 4) for one in q]
    [1.0, 1.6487, 2.4596]
    """
    return (q_s / (q_s + 1)).exp().sum() - (q_u / (q_u + 1)).exp().sum()


def representation_alignment(c: Tensor, k: Tensor, temperature: float) -> Tensor:
    """Return L_RA: ``sum_i log(exp(c_i) / sum_j exp(k_j / T))`` of the cosine distances from the original embeddings.

    Parameters
    ----------
    c, k : Tensor (n,), (m,)
        Of remaining and of forgotten samples.
    temperature : float

    Examples
    --------
    >>> c, k = torch.tensor([0.0, 0.1]), torch.tensor([1.0, 0.5])
    >>> [round(representation_alignment(c, k, T).item(), 6) for T in (5.0, 20.0)]
    [-1.588793, -1.361451]
    """
    return c.sum() - len(c) * (k / temperature).logsumexp(0)


def _reconstruction(V: ConditionalVAE, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return squared errors (n,) of embeddings through an auto-encoder, noise and all, and its posterior."""
    _, mu, log_variance = V.posterior(e)
    z = mu + (0.5 * log_variance).exp() * torch.randn_like(mu)
    out = V.mean_of(V.decode(z, torch.zeros(len(e), dtype=torch.long, device=e.device)))
    return (out - e).square().sum(1), mu, log_variance


def _distance(e: Tensor, e_0: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(e, e_0, dim=1)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> None:
    if lr:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def _batches(n: int, size: int) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(n).split(size)
