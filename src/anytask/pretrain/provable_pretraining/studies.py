"""Is my pretraining informative, and what would more rows or more labels bring? Measured on the user's own data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anytask.core.checks import check_counts, check_input_shape, check_inputs, check_same_length
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive
from anytask.pretrain.provable_pretraining import heads, latent

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

#: Share of the rows that a study holds out.
HELD_OUT = 0.25


def linear(X: np.ndarray, y: np.ndarray, regression: bool, n_components: int | None = None, pool: Any = None) -> Any:
    """Return a linear model fitted to labels, of cross-validated strength; of principal components of a pool if asked.

    Examples
    --------
    >>> X = np.arange(20.0)[:, None]
    >>> bool(linear(X, 3 * X[:, 0], True).score(X, 3 * X[:, 0]) > 0.99)
    True
    """
    model: Any = RidgeCV(np.logspace(-3, 4, 15))
    if not regression:
        rarest = int(np.unique(y, return_counts=True)[1].min())
        model = LogisticRegression(max_iter=1000)
        if rarest > 1:
            model = GridSearchCV(model, {"C": np.logspace(-2, 1, 4)}, cv=StratifiedKFold(min(3, rarest)))
    known = X if pool is None else pool
    steps = [StandardScaler().fit(known)]
    if n_components is not None:
        steps.append(PCA(min(n_components, *known.shape), random_state=0).fit(steps[0].transform(known)))
    for step in steps:
        X = step.transform(X)
    return make_pipeline(*steps, model.fit(X, y))


@dataclass(frozen=True)
class Diagnosis:
    """Whether a latent model is informative.

    Attributes
    ----------
    gain : float
        Log-likelihood of held-out inputs above that of a model without structure, in nats an input (or a pair).
    scores : dict of str to ndarray of shape (rounds * folds,)
        Accuracy or R^2 on held-out labelled rows: of both phases ("two phases"), and of a linear model with strength
        chosen by cross-validation, on as many principal components and on the raw features.
    n_components : int
    """

    gain: float
    scores: dict[str, np.ndarray]
    n_components: int

    @property
    def informative(self) -> bool:
        """Whether held-out inputs became likelier, and both phases beat the raw features by more than an error."""
        difference = self.scores["two phases"] - self.scores["raw features"]
        return bool(self.gain > 0 and difference.mean() > difference.std() / np.sqrt(len(difference)))

    def __str__(self) -> str:
        """Say it in one sentence."""
        means = ", ".join(f"{name} {values.mean():.3f}" for name, values in self.scores.items())
        return (
            f"The pretraining is {'' if self.informative else 'not '}informative: {self.gain:+.3f} nats an input on "
            f"held-out inputs with {self.n_components} components; on held-out labels {means}."
        )

    def table(self) -> pd.DataFrame:
        """Return the scores as a table: ``features, mean, std``."""
        import pandas as pd

        rows = [(name, values.mean(), values.std()) for name, values in self.scores.items()]
        return pd.DataFrame(rows, columns=["features", "mean", "std"])


def diagnose(model: Any, X: Any, y: Any, unlabeled: Any, *, folds: int, rounds: int) -> Diagnosis:
    """Measure what :meth:`~anytask.pretrain.MLEERM.diagnose` says."""
    check_counts(rounds=rounds, folds=folds)
    inputs, regression, y, pool = _data(model, X, y, unlabeled)
    order = np.random.default_rng(derive(model.seed, "diagnose")).permutation(len(pool))
    held = max(int(HELD_OUT * len(pool)), 1)
    least = len(y) if regression else int(np.unique(y, return_counts=True)[1].min())
    if len(pool) < 8:
        raise ValueError(f"{len(pool)} inputs are too few to hold some out: 8 at least")
    if not 2 <= folds <= least:
        where = "labels" if regression else "labels of the rarest class"
        raise ValueError(f"folds must be from 2 to the number of {where}, which is {least}, got {folds}")
    learned = clone(model).fit(pool[order[held:]])
    gain = _gain(learned, pool[order[held:]], pool[order[:held]])
    raw, known = inputs.reshape(len(inputs), -1), pool.reshape(len(pool), -1)
    scores: dict[str, list[float]] = {"two phases": [], "principal components": [], "raw features": []}
    for round_ in range(rounds):
        seed = derive(model.seed, "folds", str(round_)) % 2**32
        kind = KFold if regression else StratifiedKFold
        for fit, test in kind(folds, shuffle=True, random_state=seed).split(raw, y):
            scores["two phases"].append(learned.fit_head(inputs[fit], y[fit]).score(inputs[test], y[test]))
            for name, r, pool_ in (
                ("principal components", learned.n_components_, known),
                ("raw features", None, None),
            ):
                found = linear(raw[fit], y[fit], regression, r, pool_)
                scores[name].append(_score(y[test], found.predict(raw[test]), regression))
    return Diagnosis(gain, {name: np.array(values) for name, values in scores.items()}, learned.n_components_)


def _gain(model: Any, fitted: np.ndarray, held: np.ndarray) -> float:
    """Return the mean log-likelihood of held-out inputs above noise of one variance, or of pairs above chance."""
    if model.model == "contrastive":
        X = model._scaled(torch.from_numpy(held)).float().to(model._device)
        generator = torch.Generator(X.device).manual_seed(derive(model.seed, "held-out"))
        a, b, t = latent.pairs_of_views(X, model.pairs.maker(model.input_shape_), generator)
        with torch.no_grad():
            return float(latent.pair_log_likelihood(model.f_(a), model.f_(b), t).mean() + np.log(2))
    z, known = (((part.reshape(len(part), -1) - model.mean_) / model.scale_) for part in (held, fitted))
    variance = float((known**2).mean()) or 1.0
    plain = stats.norm.logpdf(z, scale=np.sqrt(variance)).sum(1) - np.log(model.scale_).sum()
    return float((model.log_likelihood(held) - plain).mean())


@dataclass(frozen=True)
class LearningCurve:
    """Scores over a grid of labels and of rows without labels.

    Attributes
    ----------
    n, m : tuple of int
        Labels, and rows without labels.
    two_phases : ndarray of shape (repeats, len(m), len(n))
        Accuracy or R^2.
    labels_alone : ndarray of shape (repeats, len(n))
        That of a linear model with the same labels, its strength chosen by cross-validation.
    """

    n: tuple[int, ...]
    m: tuple[int, ...]
    two_phases: np.ndarray
    labels_alone: np.ndarray

    def table(self) -> pd.DataFrame:
        """Return means with 95 % intervals: ``m, n, two_phases, low, high, labels_alone``."""
        import pandas as pd

        mean, half = self.two_phases.mean(0), self._half(self.two_phases)
        rows = [
            (m, n, mean[i, j], mean[i, j] - half[i, j], mean[i, j] + half[i, j], self.labels_alone[:, j].mean())
            for i, m in enumerate(self.m)
            for j, n in enumerate(self.n)
        ]
        return pd.DataFrame(rows, columns=["m", "n", "two_phases", "low", "high", "labels_alone"])

    def plot(self) -> go.Figure:
        """Return scores against labels, a line for each number of rows without labels, and one for labels alone."""
        import plotly.graph_objects as go

        lines: list[tuple[str, np.ndarray, dict[str, str]]] = [
            (f"two phases, m = {m}", self.two_phases[:, i], {}) for i, m in enumerate(self.m)
        ]
        lines.append(("labels alone", self.labels_alone, {"dash": "dot", "color": "black"}))
        figure = go.Figure(
            [
                go.Scatter(x=self.n, y=values.mean(0), name=name, line=line, mode="lines+markers",
                           error_y={"array": self._half(values)})
                for name, values, line in lines
            ]
        )  # fmt: skip
        return figure.update_xaxes(title="labels n", type="log").update_yaxes(title="score on held-out labels")

    @staticmethod
    def _half(values: np.ndarray) -> np.ndarray:
        repeats = len(values)
        if repeats < 2:
            return np.zeros(values.shape[1:])
        return stats.t.ppf(0.975, repeats - 1) * values.std(0, ddof=1) / np.sqrt(repeats)


def learning_curve(
    model: Any,
    X: Any,
    y: Any,
    unlabeled: Any,
    *,
    n: Sequence[int] | None,
    m: Sequence[int] | None,
    repeats: int,
    progress: Progress | None,
) -> LearningCurve:
    """Measure what :meth:`~anytask.pretrain.MLEERM.learning_curve` shows."""
    check_counts(repeats=repeats)
    told = heard(progress)
    inputs, regression, y, pool = _data(model, X, y, unlabeled)
    train = len(y) - max(int(HELD_OUT * len(y)), 1)
    most = train if unlabeled is None else len(pool)
    r = clone(model).fit(pool).n_components_  # grids begin where every cell can be fitted
    ns = _grid(n, train, 4, "n", max(8, 2 * r + 2) if regression else max(8, len(np.unique(y))))
    ms = _grid(m, most, 3, "m", max(8, 2 * r))
    both, alone = np.zeros((repeats, len(ms), len(ns))), np.zeros((repeats, len(ns)))
    for repeat in range(repeats):
        rng = np.random.default_rng(derive(model.seed, "curve", str(repeat)))
        order = rng.permutation(len(y))
        own, test = order[:train], order[train:]
        own = own if regression else own[_interleaved(y[own])]
        rows = inputs[own] if unlabeled is None else pool
        rows = rows[rng.permutation(len(rows))]
        for j, size in enumerate(ns):
            few = own[:size]
            if not regression and len(np.unique(y[few])) < 2:
                raise ValueError(f"n={size} labels are of one class: a grid starts at {len(np.unique(y))} or more")
            found = linear(inputs[few].reshape(size, -1), y[few], regression)
            alone[repeat, j] = _score(y[test], found.predict(inputs[test].reshape(len(test), -1)), regression)
        for i, size in enumerate(ms):
            learned = clone(model).fit(rows[:size])
            for j, labels in enumerate(ns):
                few = own[:labels]
                both[repeat, i, j] = learned.fit_head(inputs[few], y[few]).score(inputs[test], y[test])
            told((repeat * len(ms) + i + 1) / (repeats * len(ms)))
    return LearningCurve(ns, ms, both, alone)


def _data(model: Any, X: Any, y: Any, unlabeled: Any) -> tuple[np.ndarray, bool, np.ndarray, np.ndarray]:
    inputs = check_inputs(X).cpu().numpy()
    regression, labels = heads.targets(y, model.head)
    check_same_length(inputs, labels)
    if len(np.unique(labels)) < 2:
        raise ValueError(f"all labels are {labels[0].item()!r}: there is nothing to tell apart")
    pool = inputs
    if unlabeled is not None:
        more = check_inputs(unlabeled, "unlabeled")
        check_input_shape(more, inputs.shape[1:], type(model).__name__)
        pool = more.cpu().numpy()
    return inputs, regression, labels, pool


def _grid(given: Sequence[int] | None, most: int, steps: int, name: str, least: int) -> tuple[int, ...]:
    if given is None:
        return tuple(sorted({max(int(most / 4**k), min(most, least)) for k in range(steps)}))
    given = given.tolist() if isinstance(given, np.ndarray) else given
    values = sorted(set(given)) if isinstance(given, Sequence) and not isinstance(given, str) else []
    whole = all(isinstance(value, (int, np.integer)) and 2 <= value <= most for value in values)
    if not values or not whole:
        raise ValueError(f"{name} must be integers from 2 to {most}, the rows that are not held out, got {given!r}")
    return tuple(values)


def _interleaved(y: np.ndarray) -> np.ndarray:
    """Return an order in which the classes take turns."""
    turn = np.zeros(len(y), dtype=int)
    for label in np.unique(y):
        turn[y == label] = np.arange((y == label).sum())
    return np.argsort(turn, kind="stable")


def _score(truth: np.ndarray, answers: np.ndarray, regression: bool) -> float:
    return float(r2_score(truth, answers) if regression else accuracy_score(truth, answers))
