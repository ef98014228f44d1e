"""MLE+ERM: two-phase learning with a guarantee (Ge, Tang, Fan, Jin, 2023).

Phase 1 fits a model p_phi(x, s) of latent variables z to m rows without labels, by maximum likelihood. Phase 2 fits a
small predictor psi to n labelled rows by empirical risk minimization: with phi frozen, ``g_{phi,psi}(x)`` is the best
answer under p_phi(z | x) and p_psi(y | z). Three models of the paper are ready:

=============  ======================================================  ===========================  ===================
``model``      phi                                                     features of x                psi
=============  ======================================================  ===========================  ===================
factors        x = B z + mu, z ~ N(0, I_r), mu ~ N(0, sigma^2 I_d)     (I + B'B)^-1 B' x            least squares
mixture        z uniform on 1..K, x | z = k ~ N(u_k, sigma^2 I_d)      p(z = k | x)                 one class per k
contrastive    p(t = 1 | x, x') = 1 / (1 + exp(-f(x).f(x')))           f(x)                         least squares
=============  ======================================================  ===========================  ===================

B has a closed form, ``U_r diag(sqrt(max(lam_i - 1, 0)))``, of the eigenvalues lam and -vectors U of the second moments
in units of the noise. The mixture is fitted by EM with equal weights, f by the logistic loss of pairs. Each is unique
only up to a group (rotations, permutations) that psi absorbs.

Departures from the paper
-------------------------
* Inputs are centered, the columns of a table are divided by their standard deviations where these differ more than
  tenfold, and the variance of the noise is estimated; ``from_preset("paper")`` takes inputs as they come, with noise of
  variance 1 and no intercept.
* Unless it is given, the number of factors is that of the eigenvalues above the Marchenko-Pastur edge
  ``sigma^2 (1 + sqrt(d / m))^2``, and K of centered inputs is one more. Noise that is not known is taken to have the
  whole variance there: on real data eigenvalues fall so slowly that no estimate from the smaller ones ends the count.
* Classification on factors or contrastive features takes logistic regression, as the 0-1 loss cannot be minimized
  there. For a mixture of up to 4,096 assignments of classes to components all are tried; beyond, a log-loss that is
  convex in psi stands in for the 0-1 loss, minimized by multiplicative steps rather than by projected gradients.
* Least squares on factors gives the predictions of least squares on as many principal components: what the model adds
  is their number, and a likelihood.
* Written from the abstract and public reviews: the constants of the bound are from memory, and not checked.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import softmax
from sklearn.metrics import accuracy_score, r2_score
from torch import Tensor

from anytask.core.checks import (
    as_array,
    as_given,
    as_numbers,
    check_counts,
    check_inputs,
    check_labels,
    check_same_length,
    most_probable,
    require_finite,
)
from anytask.core.cost import parameter_count
from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import check_number, choice, flag, group, real, whole
from anytask.pretrain.base import PretrainEstimator
from anytask.pretrain.provable_pretraining import heads, latent
from anytask.pretrain.provable_pretraining.latent import PairSettings
from anytask.pretrain.provable_pretraining.rates import Rates

if TYPE_CHECKING:
    from anytask.pretrain.provable_pretraining.studies import Diagnosis, LearningCurve

__all__ = ["MLEERM"]


class MLEERM(PretrainEstimator):
    """Learn a latent model from inputs without labels, then a small predictor from few labels.

    Pick it for tables and embeddings with many rows and few labels, where a few factors, clusters or a notion of "two
    views of one thing" lie behind the inputs. :meth:`rates` says what the theory expects, :meth:`diagnose` whether the
    latent model tells anything about your labels, :meth:`learning_curve` what more rows or labels would bring. Where no
    such structure is plain, label spreading and a regularized linear model do better, as on the real tables tried.
    ``fit(X)`` learns without labels and ``fit_head(X, y)`` from labels; ``fit(X, y, unlabeled=U)`` does both.

    Parameters
    ----------
    model : {"factors", "mixture", "contrastive"}, default "factors"
        The latent model.
    n_components : int or "auto", default "auto"
        r or K; "auto": by the Marchenko-Pastur edge.
    noise : float > 0 or "auto", default "auto"
        Its standard deviation in the units of the scaled inputs; "auto": estimated.
    center : bool, default True
        Subtract the columns' means, and fit an intercept.
    scale : bool or "auto", default "auto"
        Divide by the columns' standard deviations; "auto": in tables, where these differ more than tenfold. The
        contrastive model otherwise divides all by one number then, the root of their mean square.
    head : {"auto", "regression", "classification"}, default "auto"
        "auto": regression for numbers that are not all whole, else classification.
    truncation : float > 0 or "none", default "none"
        L of the truncated loss ``min((y - g)^2, L)`` of regression.
    penalty : float >= 0, default 1.0
        Squared penalty of logistic regression.
    erm : {"auto", "enumerate", "surrogate"}, default "auto"
        How classes of the mixture's components are found; "auto": by enumeration up to 4,096 assignments.
    restarts, max_iter, tol : default 5, 100, 1e-6
        Of EM: starts, steps, and the gain in likelihood at which it ends.
    pairs : PairSettings
        Of the contrastive model.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    n_components_, noise_, mean_, scale_, eigenvalues_
        What was settled; eigenvalues (d,) of the scaled inputs, decreasing.
    B_ : ndarray of shape (d, r), in units of the noise; ``means_``: ndarray of shape (K, d); ``f_``: module
        The latent model.
    coef_, intercept_ or psi_ (K, n_classes), classes_
        The predictor, after labels were seen.

    Examples
    --------
    Four clusters behind twenty columns, two of each class, and ten labels, which take logistic regression to .91:

    >>> rng = np.random.default_rng(0)
    >>> X, cluster = rng.normal(size=(1500, 20)), rng.integers(4, size=1500)
    >>> X[np.arange(1500), cluster] += 4
    >>> y = np.where(cluster < 2, "good", "bad")
    >>> model = MLEERM(model="mixture").fit(X[:10], y[:10], unlabeled=X[10:1000])
    >>> model.score(X[1000:], y[1000:]) > 0.95, model.n_components_
    (True, 4)

    References
    ----------
    Ge et al., 2023, "On the Provable Advantage of Unsupervised Pretraining", arXiv:2303.01566 (source: abstract).
    """

    INFERENCE: ClassVar[tuple[str, ...]] = ("head", "truncation", "penalty", "erm")  # of the next fit_head
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"center": False, "scale": False, "noise": 1.0}}

    model: str = choice("factors", ("factors", "mixture", "contrastive"), "the latent model")
    n_components: int | str = whole("auto", "r or K, 'auto': by the Marchenko-Pastur edge", words=("auto",))
    noise: float | str = real("auto", "standard deviation of the noise, 'auto': estimated", above=0, words=("auto",))
    center: bool = flag(True, "subtract the columns' means, and fit an intercept")
    scale: bool | str = flag("auto", "divide columns by their standard deviations, 'auto': in tables of several units",
                             words=("auto",))  # fmt: skip
    head: str = choice("auto", ("auto", "regression", "classification"), "what labels are")
    truncation: float | str = real("none", "L of the truncated squared loss, 'none': without end", above=0,
                                   words=("none",))  # fmt: skip
    penalty: float = real(1.0, "squared penalty of logistic regression", at_least=0)
    erm: str = choice("auto", ("auto", "enumerate", "surrogate"), "how the classes of components are found")
    restarts: int = whole(5, "starts of EM")
    max_iter: int = whole(100, "steps of EM")
    tol: float = real(1e-6, "gain in likelihood at which EM ends", at_least=0)
    pairs: PairSettings = group(PairSettings, "f and its training, for the contrastive model")

    # -- phase 1: maximum likelihood without labels ---------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, unlabeled: Any = None, progress: Progress | None = None) -> Self:
        """Learn from inputs without labels, and from labels where there are some.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
        y : array or tensor of shape (n,), optional
            Labels of X, for the predictor alone.
        unlabeled : array or tensor of shape (m, ...), optional
            Further inputs for the latent model, which learns from those of X too; where it should not, call
            ``fit(unlabeled)`` and ``fit_head(X, y)``.
        progress : callable, optional
            Told the finished share, in [0, 1].

        Raises
        ------
        ValueError, TypeError
            For data that cannot be used, more components than rows or columns allow, and fewer labels than weights.
        """
        X_ = self._read(X)
        if y is not None:
            check_same_length(X_, heads.targets(y, self.head)[1])
        pool = self._pool(X_, unlabeled)
        if y is None:
            return super().fit(pool, progress=progress)
        with self._refit():
            super().fit(pool, progress=progress)
            return self.fit_head(X_, y)

    def fit_pairs(self, A: Any, B: Any, t: Any, *, progress: Progress | None = None) -> Self:
        """Learn from pairs of inputs that belong together, or do not (``model="contrastive"``).

        Parameters
        ----------
        A, B : array or tensor of shape (m, ...)
        t : array of shape (m,)
            1 for pairs that belong together, -1 for others.
        progress : callable, optional
            Told the finished share, in [0, 1].
        """
        if self.model != "contrastive":
            raise ValueError(f"model={self.model!r} learns from inputs, not from pairs: use model='contrastive'")
        sides = self._read(A, "A"), self._read(B, "B")
        self._signs = torch.from_numpy(_signs(t, *sides, ("A", "B"))).float()
        try:
            return super().fit(torch.cat(sides), progress=progress)
        finally:
            del self._signs

    def _read(self, X: Any, name: str = "X") -> Tensor:
        return check_inputs(X, name)

    def _note(self, data: Tensor) -> None:
        """Settle mean, scale, number of components, and noise."""
        super()._note(data)
        X = data.flatten(1).double().cpu().numpy()
        m, d = X.shape
        self.mean_ = X.mean(0) if self.center else np.zeros(d)
        varies = np.ptp(X, axis=0) > 0
        std = np.where(varies, X.std(0), 1.0)
        apart = data.ndim == 2 and varies.any() and std[varies].max() > 10 * std[varies].min()
        self.scale_ = std if (apart if self.scale == "auto" else self.scale) else np.ones(d)
        if self.scale == "auto" and not apart and self.model == "contrastive" and varies.any():
            self.scale_ = np.full(d, np.sqrt(X.var(0)[varies].mean()))  # views have noise in units of it
        self.eigenvalues_, self._axes = latent.spectrum((X - self.mean_) / self.scale_)
        variance = None if self.noise == "auto" else float(self.noise) ** 2
        columns = int((varies if self.center else X.any(axis=0)).sum())
        mixture = self.model == "mixture"
        extra, limit = int(mixture and self.center), m if mixture else min(m, d)
        r = self.n_components
        if isinstance(r, str):
            found = latent.count_factors(self.eigenvalues_, columns, m, variance) + extra
            if found == extra:
                warnings.warn(
                    "no eigenvalue lies above the edge of pure noise: nothing tells that there is a structure to learn",
                    stacklevel=4,
                )
            r = min(max(found, 1), limit)
        if r > limit:
            raise ValueError(f"n_components={r} is too many for {m} rows of {d} values: at most {limit}")
        if variance is None:
            variance = latent.noise_variance(self.eigenvalues_, r - extra, columns)
        self.n_components_, self.noise_, self.m_ = int(r), float(np.sqrt(variance)), m
        if hasattr(self, "_signs"):
            self.m_ //= 2  # pairs

    def _build(self) -> None:
        if self.model == "contrastive":
            f = self.pairs.build(self.input_shape_, self.n_components_, derive(self.seed, "f"))
            self.f_ = f.to(self._device).eval()

    def _train(self, data: Tensor, progress: Progress) -> None:
        axes, X = self.__dict__.pop("_axes"), self._scaled(data)
        if self.model == "contrastive":
            rows, signs = X.float().to(self._device), getattr(self, "_signs", None)
            self.pairs.train(self.f_, rows, signs, derive(self.seed, "pairs"), progress)
        elif self.model == "factors":
            self.B_ = latent.loadings(self.eigenvalues_ / self.noise_**2, axes, self.n_components_)
            progress(1.0)
        else:
            known = None if self.noise == "auto" else self.noise_**2
            self.means_, variance, self.likelihoods_ = latent.fit_mixture(
                X.flatten(1).numpy(), self.n_components_, variance=known, restarts=self.restarts,
                max_iter=self.max_iter, tol=self.tol, seed=derive(self.seed, "em"), progress=progress,
            )  # fmt: skip
            self.noise_ = float(np.sqrt(variance))

    def _scaled(self, data: Tensor) -> Tensor:
        X = (data.flatten(1).double().cpu() - torch.from_numpy(self.mean_)) / torch.from_numpy(self.scale_)
        return X.unflatten(1, data.shape[1:])

    def _features(self, data: Tensor) -> Tensor:
        """Return posterior means, responsibilities, or f(x)."""
        X = self._scaled(data)
        if self.model == "contrastive":
            return torch.cat([self.f_(part.to(self._device)).cpu() for part in X.float().split(1024)]).double()
        rows = X.flatten(1).numpy()
        if self.model == "mixture":
            return torch.from_numpy(latent.responsibilities(rows, self.means_, self.noise_**2)[0])
        return torch.from_numpy(rows / self.noise_ @ latent.posterior_weights(self.B_).T)

    # -- phase 2: empirical risk minimization on labels -----------------------------------------------------------

    def fit_head(self, X: ArrayLike | Tensor, y: ArrayLike | Tensor) -> Self:
        """Fit the predictor to labelled inputs; the latent model stays as it is.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
        y : array or tensor of shape (n,)
            Numbers, or labels.

        Raises
        ------
        ValueError
            For fewer labels than least squares has weights.
        """
        regression, values = heads.targets(y, self.head)
        H, mixture = self._matrix(X), self.model == "mixture"
        check_same_length(H, values)
        with self._update():
            for name in ("classes_", "coef_", "intercept_", "psi_"):
                self.__dict__.pop(name, None)
            if (values == values[0]).all():
                message = f"all labels are {values[0].item()!r}: that is what every input will be given"
                warnings.warn(message, stacklevel=2)
            if regression:
                L = np.inf if self.truncation == "none" else float(self.truncation)
                level = values.mean() if mixture else 0.0  # of a component that no labelled row belongs to
                self.coef_, bias = heads.least_squares(H, values - level, L, self.center and not mixture)
                self.intercept_ = bias + float(level)
                return self
            self.classes_, codes = np.unique(values, return_inverse=True)
            if mixture:
                self.psi_ = heads.of_components(H, codes, len(self.classes_), self.erm)
            else:
                how = (codes, len(self.classes_), self.penalty, self.center)
                self.coef_, self.intercept_ = heads.logistic(H, *how)
        return self

    def predict(self, X: ArrayLike | Tensor) -> Any:
        """Return numbers, or the most probable labels, shape (n,); a tensor for tensors."""
        H = self._matrix(X)
        self._check_head()
        if not hasattr(self, "classes_"):
            return as_given(torch.from_numpy(H @ self.coef_ + self.intercept_), X)
        turned = torch.from_numpy(self._shares(H)[:, ::-1].copy())  # of two equals the last, as psi is chosen
        return most_probable(as_given(turned, X), self.classes_[::-1].copy())

    def predict_proba(self, X: ArrayLike | Tensor) -> Any:
        """Return class probabilities, shape (n, n_classes), columns in the order of ``classes_``.

        Raises
        ------
        ValueError
            After labels that are numbers.
        """
        H = self._matrix(X)
        self._check_head()
        if not hasattr(self, "classes_"):
            raise ValueError("the predictor was fitted to numbers, and has no classes: use predict")
        return as_given(torch.from_numpy(self._shares(H)), X)

    def score(self, X: ArrayLike | Tensor, y: ArrayLike | Tensor) -> float:
        """Return the accuracy, or R^2 of numbers."""
        answers = as_array(self.predict(X))
        labels = hasattr(self, "classes_")
        truth = check_labels(y) if labels else heads.numbers(y)
        check_same_length(answers, truth)
        return float((accuracy_score if labels else r2_score)(truth, answers))

    def _shares(self, H: np.ndarray) -> np.ndarray:
        shares = H @ self.psi_ if hasattr(self, "psi_") else softmax(H @ self.coef_.T + self.intercept_, axis=1)
        return require_finite(shares / shares.sum(axis=1, keepdims=True), "a probability")

    def _matrix(self, X: ArrayLike | Tensor) -> np.ndarray:
        return as_array(self.transform(X)).astype(np.float64)

    def _check_head(self) -> None:
        if not {"coef_", "psi_"} & set(vars(self)):
            raise ValueError(f"this {type(self).__name__} has seen no labels yet: call fit_head(X, y) first")

    # -- what the model says of the data --------------------------------------------------------------------------

    def log_likelihood(self, X: Any, other: Any = None, t: Any = None) -> np.ndarray:
        """Return the log-density of each input, or of the signs t of pairs, shape (n,).

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
        other, t : arrays of shape (n, ...) and (n,), optional
            The other side of each pair and its sign, which a contrastive model needs.
        """
        if self.model == "contrastive":
            if other is None or t is None:
                raise ValueError("a contrastive model gives the likelihood of pairs: log_likelihood(X, other, t)")
            f, g = (torch.from_numpy(self._matrix(side)) for side in (X, other))
            signs = _signs(t, f, g, ("X", "other"))
            return latent.pair_log_likelihood(f, g, torch.from_numpy(signs)).numpy()
        if other is not None or t is not None:
            raise ValueError(f"model={self.model!r} gives the likelihood of inputs, not of pairs: log_likelihood(X)")
        return as_array(self._encoded(X, self._density))

    def _density(self, data: Tensor) -> Tensor:
        X = self._scaled(data).flatten(1).numpy()
        if self.model == "mixture":
            logs = latent.responsibilities(X, self.means_, self.noise_**2)[1]
        else:
            logs = latent.factor_log_likelihood(X / self.noise_, self.B_) - X.shape[1] * np.log(self.noise_)
        return torch.from_numpy(logs - np.log(self.scale_).sum())

    def rates(
        self, n: int, m: int | None = None, d: int | None = None, *, L: float = 1.0, delta: float = 0.05,
        kappa: float = 1.0,
    ) -> Rates:  # fmt: skip
        """Return what the theory expects of n labels: rates, whose constants are not tight.

        Parameters
        ----------
        n : int
            Labelled rows.
        m, d : int, optional
            Rows without labels and values in each; those of the fit unless given.
        L : float
            Largest loss.
        delta : float in (0, 1)
            Probability that the bound does not hold.
        kappa : float
            How far errors of p(x, s) can be those of p(x, z).

        Raises
        ------
        ValueError
            Where m, d or the number of components are not known: before a fit, all have to be given.

        Examples
        --------
        >>> found = MLEERM(n_components=3).rates(n=100, m=10_000, d=60)
        >>> found.pays, found.m_to_pay
        (True, 498)
        """
        r = getattr(self, "n_components_", self.n_components)
        m = getattr(self, "m_", None) if m is None else m
        d = getattr(self, "n_features_in_", None) if d is None else d
        if isinstance(r, str) or m is None or d is None:
            raise ValueError("before a fit, rates needs m, d and a number of components: MLEERM(n_components=3)")
        check_counts(n=n, m=m, d=d)
        check_number(L, "L", above=0), check_number(kappa, "kappa", above=0)
        check_number(delta, "delta", above=0, below=1)
        weights = parameter_count(self.f_) if hasattr(self, "f_") else d * r
        linear = self.model != "mixture" and weights == d * r
        return Rates(m, n, weights, r, d if linear else weights, L, delta, kappa)

    def diagnose(self, X: Any, y: Any, unlabeled: Any = None, *, folds: int = 5, rounds: int = 4) -> Diagnosis:
        """Say whether a model with these settings is informative; this one is left as it is.

        It is fitted to three quarters of the unlabelled inputs. On the others the gain in likelihood over noise without
        structure is measured; on the labelled ones, by cross-validation, what both phases reach, and a linear model on
        as many principal components and on the raw features.

        Parameters
        ----------
        X, y : arrays of shape (n, ...) and (n,)
            Labelled inputs.
        unlabeled : array of shape (m, ...), optional
            Inputs for the latent model; those of X unless given.
        folds, rounds : int
            Of cross-validation, and how often it is repeated.

        Returns
        -------
        result with ``informative``, ``gain``, ``scores`` and ``table()``; as a text it is a sentence
        """
        from anytask.pretrain.provable_pretraining.studies import diagnose

        return diagnose(self, X, y, unlabeled, folds=folds, rounds=rounds)

    def learning_curve(
        self, X: Any, y: Any, unlabeled: Any = None, *, n: Sequence[int] | None = None, m: Sequence[int] | None = None,
        repeats: int = 5, progress: Progress | None = None,
    ) -> LearningCurve:  # fmt: skip
        """Measure both phases, and labels alone, over grids of labels and of rows without labels.

        Labels alone are a linear model's, its strength chosen by cross-validation. This model is left as it is.

        Parameters
        ----------
        X, y : arrays of shape (rows, ...) and (rows,)
            Labelled inputs, of which a quarter is held out each time.
        unlabeled : array of shape (rows, ...), optional
            Inputs for the latent model; those of X that are not held out unless given.
        n, m : sequence of int, optional
            The grids, of labels and of rows without labels; up to four and three steps to all there is unless given.
        repeats : int
            Draws of the held-out and the labelled rows.
        progress : callable, optional
            Told the finished share.

        Returns
        -------
        result with ``two_phases``, ``labels_alone``, ``table()`` and ``plot()``
        """
        from anytask.pretrain.provable_pretraining.studies import learning_curve

        return learning_curve(self, X, y, unlabeled, n=n, m=m, repeats=repeats, progress=progress)


def _signs(t: Any, a: Tensor, b: Tensor, names: tuple[str, str]) -> np.ndarray:
    """Return the signs of pairs (m,) as float64, or say what is wrong with them or with the sides of the pairs."""
    signs = as_array(as_numbers(t, "t"), "t").astype(np.float64)
    if a.shape != b.shape or signs.shape != a.shape[:1]:
        shapes = ", ".join(str(tuple(part.shape)) for part in (a, b, signs))
        raise ValueError(f"{names[0]}, {names[1]} and t must have shapes (m, ...), (m, ...) and (m,), got {shapes}")
    if not np.isin(signs, (-1, 1)).all():
        raise ValueError("t must hold 1 for pairs that belong together and -1 for others")
    return signs
