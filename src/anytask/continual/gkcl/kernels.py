"""Kernels on feature vectors, and kernel ridge regression in closed form.

References
----------
Rahimi, Recht, 2007, "Random Features for Large-Scale Kernel Machines" (random Fourier features).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anytask.core.checks import require_finite
from anytask.parts.vae import diagonal_gaussian_kl

#: A positive semi-definite function of two sets of vectors: (n, d), (m, d) -> (n, m).
Kernel = Callable[[Tensor, Tensor], Tensor]


class FeatureKernel:
    """``k(a, b) = features(a) . features(b)``: a kernel with explicit features, which allow the primal solution.

    The features are the vectors themselves, which is the linear kernel; a subclass has others.
    """

    def features(self, a: Tensor) -> Tensor:
        """Return the features (n, number of features) of vectors (n, d)."""
        return a

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return self.features(a) @ self.features(b).T


def polynomial(a: Tensor, b: Tensor, degree: int = 3, offset: float = 1.0) -> Tensor:
    """Return ``(a . b + offset)^degree``."""
    return (a @ b.T + offset) ** degree


def laplacian(a: Tensor, b: Tensor, scale: float = 0.25) -> Tensor:
    """Return ``exp(-scale ||a - b||_1)``, which some codes call "rbf"."""
    return torch.exp(-scale * torch.cdist(a, b, p=1.0))


def gaussian(a: Tensor, b: Tensor, sigma: float = 1.0) -> Tensor:
    """Return ``exp(-||a - b||^2 / (2 sigma^2))``."""
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T
    return torch.exp(-squared.clamp_min(0.0) / (2 * sigma**2))


@dataclass(frozen=True)
class RandomFourier(FeatureKernel):
    """Random features ``phi(a) = sqrt(2 / L) cos(omega^T a + phase)``.

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
    >>> with torch.random.fork_rng():
    ...     _ = torch.manual_seed(0)
    ...     kernel = Frequencies(2, 4096, variational=False).fixed(sigma=1.0)
    >>> a = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> bool((kernel(a, a) - gaussian(a, a)).abs().max() < 0.05)
    True
    """

    omega: Tensor
    phase: Tensor

    def features(self, a: Tensor) -> Tensor:
        omega, phase = self.omega.to(a), self.phase.to(a)
        return math.sqrt(2 / omega.shape[1]) * torch.cos(a @ omega + phase)


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
        K = self.kernel.features(Q) if self.support is None else self.kernel(Q, self.support)  # type: ignore[attr-defined]
        return (K @ self.coefficients).to(queries.dtype)


def kernel_ridge(
    kernel: Kernel, S: Tensor, Y: Tensor, lambda_: Tensor | float, *, primal: bool | None = None
) -> KernelRidge:
    """Solve ``alpha = (K_SS + lambda I)^{-1} Y`` by Cholesky in float64; gradients flow through S, Y and lambda.

    Parameters
    ----------
    kernel : callable
    S : Tensor of shape (m, d)
        Support inputs.
    Y : Tensor of shape (m, C)
        Support targets.
    lambda_ : float or scalar Tensor > 0
        Ridge.
    primal : bool, optional
        Solve a system of the size of the kernel's explicit features instead of m; by default where the kernel has such
        features and they are fewer than m. Both give the same predictions.

    Raises
    ------
    ValueError
        For an empty support, lengths that differ, a ridge that is not above 0, ``primal=True`` with a kernel that has
        no explicit features, or a system that is singular in float64.
    NotFinite
        If the kernel of the support is NaN or infinite.

    Examples
    --------
    >>> S = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> Y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> kernel_ridge(FeatureKernel(), S, Y, 0.11)(torch.tensor([[2.0, 1.0]]))
    tensor([[0.9328, 0.9965]])
    """
    if len(S) == 0 or len(S) != len(Y):
        raise ValueError(f"the support has {len(S)} inputs and {len(Y)} targets: wanted as many of both, at least one")
    if not lambda_ > 0:
        raise ValueError(f"lambda_ must be above 0, got {lambda_!r}")
    S, Y = S.double(), Y.double()
    phi = kernel.features(S) if isinstance(kernel, FeatureKernel) else None
    if primal and phi is None:
        raise ValueError("the primal form needs a kernel with explicit features")
    if phi is not None and (phi.shape[1] < len(S) if primal is None else primal):
        return KernelRidge(kernel, None, _solve(phi.T @ phi, phi.T @ Y, lambda_))
    return KernelRidge(kernel, S, _solve(kernel(S, S), Y, lambda_))


def _solve(K: Tensor, Y: Tensor, lambda_: Tensor | float) -> Tensor:
    require_finite(K, "the kernel of the support", "its features have diverged: lower lr, or scale the inputs")
    identity = torch.eye(len(K), dtype=K.dtype, device=K.device)
    A = K + lambda_ * identity
    factor, failed = torch.linalg.cholesky_ex(A)
    if int(failed):
        # Rounding can push the smallest eigenvalue of a large kernel matrix below -lambda.
        factor, failed = torch.linalg.cholesky_ex(A + 1e-10 * K.diagonal().mean().detach() * identity)
    if int(failed):
        raise ValueError(f"the kernel system of size {len(K)} is not positive definite: use a larger ridge")
    return torch.cholesky_solve(Y, factor)
