"""Worlds with a latent model behind the inputs, whose best predictor is known; and rivals that learn in one phase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from anytask.core.rng import derive
from anytask.core.settings import Settings, flag, real, taken, whole
from anytask.pretrain import MLEERM
from anytask.pretrain.provable_pretraining.latent import posterior_weights, responsibilities
from anytask.pretrain.provable_pretraining.studies import linear
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.options import Options
from anytask.problems.training import Builtin, LoadedData, Progress, TrainingProblem

#: The share of "good" in each of the mixture's clusters.
PSI = np.array([0.95, 0.95, 0.05, 0.05])


class LatentOptions(Options):
    """How many rows there are, and what the world is like."""

    n: int = whole(30, "labelled rows")
    m: int = whole(4000, "rows or pairs without labels")
    tested: int = whole(2000, "rows tested on")
    d: int = whole(60, "values in a row", at_least=4)
    r: int = whole(3, "factors, or features of a pair")
    signal: float = real(30.0, "mean eigenvalue of B'B, in units of the noise", above=0)
    apart: float = real(4.0, "distance of two clusters, in units of the noise", above=0)
    noise: float = real(0.3, "standard deviation of the labels' noise", at_least=0)
    wrong: float = real(0.0, "share of labels that are 10 too large", at_least=0, below=1)


@dataclass(frozen=True)
class World:
    """What one seed shows: rows or pairs without labels, labelled rows, test rows and the best answers there."""

    unlabeled: Any
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    best: np.ndarray  # E[y | x], or the share of "good"


@dataclass(frozen=True)
class LatentData(LoadedData):
    """The name of a world that a seed draws anew."""

    def world(self, seed: int) -> World:
        """Return what one seed shows."""
        rng = np.random.default_rng(derive(seed, "latent-worlds", self.name))
        return _WORLDS[self.name](self.options, rng)


def _factors(o: LatentOptions, rng: np.random.Generator) -> World:
    """x = B z + noise and y = beta.z + noise."""
    B, beta = rng.normal(size=(o.d, o.r)) * np.sqrt(o.signal / o.d), rng.normal(size=o.r)
    beta *= np.sqrt(o.r) / np.linalg.norm(beta)
    z = rng.normal(size=(o.m + o.n + o.tested, o.r))
    x = z @ B.T + rng.normal(size=(len(z), o.d))
    y = z @ beta + o.noise * rng.normal(size=len(z)) + 10 * (rng.random(len(z)) < o.wrong)
    U, X, X_test = np.split(x, [o.m, o.m + o.n])
    return World(U, X, y[o.m : o.m + o.n], X_test, X_test @ posterior_weights(B).T @ beta)


def _mixture(o: LatentOptions, rng: np.random.Generator) -> World:
    """Four clusters of noise, two of each class but for one label in twenty."""
    means = np.linalg.qr(rng.normal(size=(o.d, o.d)))[0][:4] * o.apart / np.sqrt(2)
    z = rng.integers(4, size=o.m + o.n + o.tested)
    x, y = means[z] + rng.normal(size=(len(z), o.d)), (rng.random(len(z)) < PSI[z]).astype(int)
    U, X, X_test = np.split(x, [o.m, o.m + o.n])
    return World(U, X, y[o.m : o.m + o.n], X_test, responsibilities(X_test, means)[0] @ PSI)


def _pairs(o: LatentOptions, rng: np.random.Generator) -> World:
    """Pairs that belong together with probability 1 / (1 + exp(-f(x).f(x'))), f linear; y = beta.(f(x) + noise)."""
    V = np.linalg.qr(rng.normal(size=(o.d, o.d)))[0][: o.r]
    beta = rng.normal(size=o.r)
    beta /= np.linalg.norm(beta)
    A, B = rng.normal(size=(2, o.m, o.d))
    t = np.where(rng.random(o.m) < expit(((A @ V.T) * (B @ V.T)).sum(1)), 1, -1)
    x = rng.normal(size=(o.n + o.tested, o.d))
    y = (x @ V.T + rng.normal(size=(len(x), o.r))) @ beta + o.noise * rng.normal(size=len(x))
    return World((A, B, t), x[: o.n], y[: o.n], x[o.n :], x[o.n :] @ V.T @ beta)


_WORLDS: dict[str, Callable[[LatentOptions, np.random.Generator], World]] = {
    "factors": _factors, "mixture": _mixture, "pairs": _pairs,
}  # fmt: skip


class LatentWorlds(TrainingProblem):
    """Predict what depends on the latent variables alone, from few labels and many rows without."""

    key: ClassVar[str] = "latent-worlds"
    title: ClassVar[str] = "Latent worlds"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("excess", "Excess risk over the best predictor", False, "risk"),)
    needs: ClassVar[tuple[str, ...]] = ("fit(X, y)", "predict(X)")
    options_class = LatentOptions

    def load(self, source: Any, **options: Any) -> LatentData:
        """Return the world of this name, with checked options."""
        return LatentData(Builtin(source), self.check_options(options))

    def baselines(self, data: LatentData) -> tuple[Entrant, ...]:
        """Return none: the claim names all."""
        return ()

    def train(self, entrant: Entrant, data: LatentData, seed: int, progress: Progress) -> Any:
        """Fit an entrant to the labelled rows, with the others where it takes them."""
        world, model = data.world(seed), entrant.make(seed=seed)
        if isinstance(world.unlabeled, tuple) and hasattr(model, "fit_pairs"):
            return model.fit_pairs(*world.unlabeled).fit_head(world.X, world.y)
        return model.fit(world.X, world.y, **taken(model.fit, unlabeled=world.unlabeled))

    def test(self, entrant: Entrant, trained: Any, data: LatentData, seed: int, progress: Progress) -> Outcome:
        """Measure how much worse than the best predictor an entrant is."""
        world = data.world(seed)
        answers = np.asarray(trained.predict(world.X_test))
        excess = (answers - world.best) ** 2
        if data.name == "mixture":
            excess = abs(2 * world.best - 1) * (answers != (world.best >= 0.5))
        return Outcome({"excess": float(excess.mean())}, cost={"labels": float(len(world.y))})


class Spoiled(MLEERM):
    """Both phases with one thing taken away from the first."""

    permute: bool = flag(False, "permute each column of the rows without labels")
    pool: int | None = whole(None, "rows without labels that are used; None for all", optional=True)
    at_random: bool = flag(False, "replace B by a random one of its size")

    def fit(self, X: Any, y: Any = None, *, unlabeled: Any = None, progress: Progress | None = None) -> Self:
        """Learn without what is taken away."""
        rng = np.random.default_rng(derive(self.seed, "spoiled"))
        if self.permute:
            unlabeled = rng.permuted(unlabeled, axis=0)
        super().fit(unlabeled[: self.pool], progress=progress)
        if self.at_random:
            learned: np.ndarray = vars(self)["B_"]
            B = rng.normal(size=learned.shape)
            self.B_ = B * np.linalg.norm(learned) / np.linalg.norm(B)
        return self.fit_head(X, y)


class TunedLogistic(Settings):
    """Logistic regression of standardized inputs, or of principal components that inputs without labels have.

    Its strength is chosen by three-fold cross-validation on the labels.
    """

    components: int | None = whole(None, "principal components; None for the inputs themselves", optional=True)

    def fit(self, X: Any, y: Any, *, unlabeled: Any = None) -> Self:
        """Learn from labels, and the components from all inputs."""
        X, pool = np.reshape(X, (len(X), -1)), None
        if self.components:
            pool = np.concatenate([X, np.reshape(unlabeled, (len(unlabeled), -1))])
        self._model = linear(X, np.asarray(y), False, self.components, pool)
        self.classes_ = self._model.classes_
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable labels."""
        return self._model.predict(np.reshape(X, (len(X), -1)))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities."""
        return self._model.predict_proba(np.reshape(X, (len(X), -1)))


class ComponentRegression(Settings):
    """Least squares on principal components of all inputs, their number chosen by cross-validation on the labels."""

    most: int = whole(8, "at most so many components")

    def fit(self, X: Any, y: Any, *, unlabeled: Any = None) -> Self:
        """Learn the components from all inputs, and their number and weights from labels."""
        pca = PCA(self.most, random_state=0).fit(np.concatenate([X, unlabeled]))
        H, errors = pca.transform(X), []
        fold = np.arange(len(y)) % 5
        for r in range(1, self.most + 1):
            parts = [(fold != k, fold == k) for k in range(5)]
            fits = [(LinearRegression().fit(H[a, :r], y[a]), b) for a, b in parts]
            errors.append(np.mean([np.mean((model.predict(H[b, :r]) - y[b]) ** 2) for model, b in fits]))
        r = int(np.argmin(errors)) + 1
        self._pca, self._r, self._model = pca, r, LinearRegression().fit(H[:, :r], y)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return numbers."""
        return self._model.predict(self._pca.transform(X)[:, : self._r])
