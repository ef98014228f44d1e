"""Kernels on feature vectors, and kernel ridge regression in closed form.

References
----------
Rahimi, Recht, 2007, "Random Features for Large-Scale Kernel Machines" (random Fourier features).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from anytask.parts.vae import diagonal_gaussian_kl


class Kernel(Protocol):
    """A positive semi-definite function of two sets of vectors: (n, d), (m, d) -> (n, m)."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor: ...


class FeatureKernel(Kernel, Protocol):
    """A kernel that is an inner product of explicit features, which allows the primal solution."""

    def features(self, a: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Linear:
    """``k(a, b) = a . b``."""

    def features(self, a: Tensor) -> Tensor:
        return a

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b.T


@dataclass(frozen=True)
class Polynomial:
    """``k(a, b) = (a . b + offset)^degree``."""

    degree: int = 3
    offset: float = 1.0

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T + self.offset) ** self.degree


@dataclass(frozen=True)
class Laplacian:
    """``k(a, b) = exp(-scale ||a - b||_1)``, which some codes call "rbf"."""

    scale: float = 0.25

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-self.scale * torch.cdist(a, b, p=1.0))


@dataclass(frozen=True)
class Gaussian:
    """``k(a, b) = exp(-||a - b||^2 / (2 sigma^2))``."""

    sigma: float = 1.0

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T
        return torch.exp(-squared.clamp_min(0.0) / (2 * self.sigma**2))


@dataclass(frozen=True)
class RandomFourier:
    """``k(a, b) = phi(a) . phi(b)`` with ``phi(a) = sqrt(2 / L) cos(omega^T a + phase)``.

    Approaches the Gaussian kernel of width sigma, with an error of about ``1 / sqrt(L)``, when the columns of omega are
    drawn from N(0, I / sigma^2).

    Parameters
    ----------
    omega : Tensor of shape (d, L)
        Frequencies.
    phase : Tensor of shape (L,)
        Uniform in [0, 2 pi).

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> kernel = RandomFourier.draw(2, 4096, generator=rng)
    >>> a = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> bool((kernel(a, a) - Gaussian()(a, a)).abs().max() < 0.05)
    True
    """

    omega: Tensor
    phase: Tensor

    @classmethod
    def draw(cls, d: int, L: int = 2048, sigma: float = 1.0, generator: torch.Generator | None = None) -> RandomFourier:
        """Draw the frequencies of a Gaussian kernel of width ``sigma`` on d-dimensional inputs."""
        omega = torch.randn(d, L, generator=generator) / sigma
        return cls(omega, 2 * math.pi * torch.rand(L, generator=generator))

    def features(self, a: Tensor) -> Tensor:
        omega, phase = self.omega.to(a), self.phase.to(a)
        return math.sqrt(2 / omega.shape[1]) * torch.cos(a @ omega + phase)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return self.features(a) @ self.features(b).T


class Frequencies(nn.Module):
    """Frequencies of random Fourier features: fixed ones, or given by a network of mean features (variational).

    Parameters
    ----------
    d, L : int
        Width of the features that the kernel compares, and number of random features.
    variational : bool
    """

    omega: Tensor
    phase: Tensor

    def __init__(self, d: int, L: int, variational: bool) -> None:
        super().__init__()
        self.net: nn.Module = nn.Identity()
        if variational:
            self.net = nn.Sequential(nn.Linear(d, d), nn.ELU(), nn.Linear(d, d), nn.ELU(), nn.Linear(d, 2 * d))
        self.register_buffer("omega", torch.randn(d, L))
        self.register_buffer("phase", 2 * math.pi * torch.rand(L))

    def fixed(self, sigma: float) -> RandomFourier:
        """Return the features of a Gaussian kernel of width ``sigma``."""
        return RandomFourier(self.omega / sigma, self.phase)

    def variational(self, S: Tensor, generator: torch.Generator | None) -> RandomFourier:
        """Return features with omega drawn from the posterior that the network gives for a support S (m, d)."""
        m, log_s = self.net(S.mean(0)).chunk(2)
        eps = torch.randn(len(self.phase), len(m), generator=generator).to(m)
        return RandomFourier((m + (0.5 * log_s).exp() * eps).T, self.phase)

    def divergence(self, S: Tensor, Q: Tensor) -> Tensor:
        """Return KL(posterior || prior) of omega, the prior being what the network gives for queries Q (n, d)."""
        return diagonal_gaussian_kl(*self.net(S.mean(0)).chunk(2), *self.net(Q.mean(0)).chunk(2))


@dataclass(frozen=True)
class KernelRidge:
    """The solution of a kernel ridge regression; call it with queries (n, d) to get predictions (n, C)."""

    kernel: Kernel
    support: Tensor | None  # (m, d), None in primal form
    coefficients: Tensor  # (m, C) dual, or (number of features, C) primal; float64

    def __call__(self, queries: Tensor) -> Tensor:
        Q = queries.to(self.coefficients.dtype)
        if self.support is None:
            return (self.kernel.features(Q) @ self.coefficients).to(queries.dtype)  # type: ignore[attr-defined]
        return (self.kernel(Q, self.support) @ self.coefficients).to(queries.dtype)


def kernel_ridge(kernel: Kernel, S: Tensor, Y: Tensor, lambda_: Tensor | float, form: str = "auto") -> KernelRidge:
    """Solve ``alpha = (K_SS + lambda I)^{-1} Y`` by Cholesky in float64; gradients flow through S, Y and lambda.

    Parameters
    ----------
    kernel : Kernel
    S : Tensor of shape (m, d)
        Support inputs.
    Y : Tensor of shape (m, C)
        Support targets.
    lambda_ : float or scalar Tensor > 0
        Ridge.
    form : {"auto", "dual", "primal"}, default "auto"
        The primal form solves a system of the size of the kernel's explicit features instead of m; ``"auto"`` takes it
        when the kernel has such features and they are fewer than m. Both give the same predictions.

    Raises
    ------
    ValueError
        For an empty support, lengths that differ, a ridge that is not above 0, ``form="primal"`` with a kernel that has
        no explicit features, or a system that is singular in float64.

    Examples
    --------
    >>> S = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> Y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> kernel_ridge(Linear(), S, Y, 0.11)(torch.tensor([[2.0, 1.0]]))
    tensor([[0.9328, 0.9965]])
    """
    if len(S) == 0 or len(S) != len(Y):
        raise ValueError(f"the support has {len(S)} inputs and {len(Y)} targets: wanted as many of both, at least one")
    if not lambda_ > 0:
        raise ValueError(f"lambda_ must be above 0, got {lambda_!r}")
    explicit = hasattr(kernel, "features")
    if form not in ("auto", "dual", "primal") or (form == "primal" and not explicit):
        raise ValueError(f"form must be 'auto', 'dual' or, for kernels with explicit features, 'primal'; got {form!r}")
    S, Y = S.double(), Y.double()
    if form != "dual" and explicit:
        phi = kernel.features(S)  # type: ignore[attr-defined]
        if form == "primal" or phi.shape[1] < len(S):
            return KernelRidge(kernel, None, _solve(phi.T @ phi, phi.T @ Y, lambda_))
    return KernelRidge(kernel, S, _solve(kernel(S, S), Y, lambda_))


def _solve(K: Tensor, Y: Tensor, lambda_: Tensor | float) -> Tensor:
    identity = torch.eye(len(K), dtype=K.dtype, device=K.device)
    A = K + lambda_ * identity
    factor, failed = torch.linalg.cholesky_ex(A)
    if int(failed):
        # Rounding can push the smallest eigenvalue of a large kernel matrix below -lambda.
        factor, failed = torch.linalg.cholesky_ex(A + 1e-10 * K.diagonal().mean().detach() * identity)
    if int(failed):
        raise ValueError(f"the kernel system of size {len(K)} is not positive definite: use a larger ridge")
    return torch.cholesky_solve(Y, factor)
