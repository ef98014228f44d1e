"""L1-A-MTRL: which source tasks to label how much, for a target task with few labels (Wang et al., 2023).

Tasks share a representation phi: y of task t is ``phi(x) w_t``. With W the sources' heads and w the target's,

1. the same number of labels is drawn from each source, phi and W are fitted to them, and w to the target's labels on
   phi as it is;
2. ``nu = argmin ||W nu - w||^2 / 2 + lambda ||nu||_1`` says of which sources the target is made;
3. labels are drawn in proportion to ``|nu_t|``, phi and W are fitted anew, from where they were, and so is w; with
   several ``rounds``, 2 and 3 are repeated, each time with twice as many new labels. The paper proves its bounds for
   one, and repeats them in its experiments.

A linear phi is fitted by alternating least squares, any other by Adam on the same loss, the sum over all labels. Before
the Lasso, phi is brought to covariance 1, so that nu depends neither on its scale nor on a rotation of it.

Departures from the paper
-------------------------
* The text was not at hand as a whole: this is a reconstruction from the abstract, the opening and the equations.
* Labels of step 1 count in the budget and are used again. Step 3 adds to them until ``max(s |nu_t|, n_t)`` spends it,
  which is the least risk that is possible with what is drawn; the paper's floor comes on top of the budget instead.
* Heads have offsets, and w is brought to length 1 for the Lasso, to which ``lambda_`` refers.
* With costs c_t, the Lasso is weighted by ``sqrt(c_t)`` and ``n_t ~ |nu_t| / sqrt(c_t)``; fixed costs of a source are
  not modelled.
* The Lasso may find nothing, the pools may run dry: lambda is halved, the budget goes to others, and a warning says so.
* Labels of classes are ones and minus ones, one column for each class (one in all for two), as numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from anytask.core.checks import require_finite
from anytask.core.progress import Progress, heard, portion
from anytask.core.rng import derive
from anytask.core.settings import choice, flag, numbers, real, taken, whole
from anytask.core.training import train
from anytask.models.build import backbone_field, build_body
from anytask.multitask.base import Cells, MultiTaskEstimator
from anytask.multitask.parts.label_budget import basis_pursuit, lasso, least_norm
from anytask.multitask.parts.label_sources import (
    Source,
    check_budget,
    check_costs,
    check_heads,
    draw,
    labelled,
    named,
    warn_of_dry,
)
from anytask.multitask.parts.shared_subspace import fit_heads, fit_subspace, whitening
from anytask.multitask.parts.targets import Targets
from anytask.multitask.shared_trunk import Scaled, Trunk

__all__ = ["L1AMTRL", "select_sources"]


class L1AMTRL(MultiTaskEstimator):
    """Active multi-task representation learning: finds the sources that a target is made of, and labels more of them.

    Pick it when labels of the target are few and those of other tasks can be bought: :meth:`select` says from which
    task how many, draws them, and fits a representation that the tasks share and the target's head on it. Sources have
    to share one representation with the target that is narrower than their number. ``fit(X, y, task)`` learns all tasks
    from labels that are there already, and :meth:`relevance` then says of which others each is made. Tasks are either
    all regression or all classification with the same classes.

    Parameters
    ----------
    rule : {"l1", "l2", "uniform"}, default "l1"
        Sources by the Lasso, in proportion to ``|nu|``; by the nu of the least 2-norm, in proportion to ``nu^2``, of
        earlier work; or all alike.
    lambda_ : float, default 0.02
        Of the Lasso, for a target's head of length 1. Larger values choose fewer sources.
    n_components : int, default 5
        Width k of the representation.
    explore : int, default 25
        Labels of each source that are drawn first; fewer, with a warning, where that is over half of the budget.
    rounds : int, default 4
        Times that sources are chosen and labels drawn after that.
    floor : int, default 4
        Least labels of each source.
    top : int or None
        Keep only so many sources, those of the largest ``|nu|``.
    equal : bool, default False
        Divide the budget equally among the sources that are kept.
    representation : {"linear", "network"}, default "linear"
    ridge : float, default 1e-6
        On the diagonal of the least squares, of heads and of a linear representation: raise it to a few labels' worth
        where there are fewer labels than weights.
    iterations : int, default 25
        At most so many turns of the alternating least squares.
    backbone, hidden, n_features, lr, epochs, batch_size
        Of the network, as for :class:`~anytask.multitask.SharedTrunk`; a linear layer makes k features of its own.
    scale_inputs : bool, default True
        Shift and scale each value of an input to mean 0 and deviation 1.
    standardize : bool or "task", default True
        Bring numbers to mean 0 and deviation 1, all together, or those of each task: for tasks on different scales,
        whose heads would look cheap or dear. A few labels tell a task's deviation badly.
    seed, device
        See :class:`~anytask.multitask.base.MultiTaskEstimator`.

    Attributes
    ----------
    heads_, offsets_ : ndarray of shape (k, n_tasks * columns), (n_tasks * columns,)
    selection : Selection
        What the last :meth:`select` did.

    Examples
    --------
    The target is made of the first two of eight sources, whose labels are then bought:

    >>> rng = np.random.default_rng(0)
    >>> W = np.linalg.qr(rng.normal(size=(10, 8)))[0]
    >>> pools = []
    >>> for w in W.T:
    ...     X = rng.normal(size=(1000, 10))
    ...     pools.append((X, X @ w + rng.normal(size=1000)))
    >>> X = rng.normal(size=(300, 10))
    >>> target = X, X @ (W[:, 0] + W[:, 1]) + rng.normal(size=300)
    >>> model = L1AMTRL(n_components=8)
    >>> found = model.select(target, pools, budget=1000)
    >>> found.table().source[:2].tolist(), int(found.counts.sum())
    ([0, 1], 1000)
    >>> model.predict(X[:2], found.target).shape
    (2,)

    References
    ----------
    Wang, Chen, Jamieson, Du, 2023, "Improved Active Multi-Task Representation Learning via Lasso", arXiv:2306.02556
    (source: abstract).
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {}}
    alike: ClassVar[bool] = True
    INFERENCE: ClassVar[tuple[str, ...]] = ("rule", "lambda_", "top", "equal")

    rule: str = choice("l1", ("l1", "l2", "uniform"), "sources by the Lasso, by the least 2-norm, or all alike")
    lambda_: float = real(0.02, "of the Lasso, for a target's head of length 1", above=0)
    n_components: int = whole(5, "width of the representation")
    explore: int = whole(25, "labels of each source that are drawn first", at_least=2)
    rounds: int = whole(4, "times that sources are chosen and labels drawn after that")
    floor: int = whole(4, "least labels of each source", at_least=2)
    top: int | None = whole(None, "keep only so many sources; None: all", optional=True)
    equal: bool = flag(False, "divide the budget equally among the sources that are kept")
    representation: str = choice("linear", ("linear", "network"), "what maps inputs to features")
    ridge: float = real(1e-6, "on the diagonal of the least squares", above=0)
    iterations: int = whole(25, "linear: at most so many turns of the least squares")
    backbone: Any = backbone_field(None, "network: from inputs to features")
    hidden: Sequence[int] = numbers((128, 64), "network: widths of the perceptron", at_least=1, integers=True)
    n_features: int | None = whole(None, "network: width of a named backbone's features", optional=True)
    lr: float = real(1e-3, "network: learning rate of Adam", above=0)
    epochs: int = whole(60, "network: passes over the labels")
    batch_size: int = whole(64, "network: labels of a mini-batch")
    scale_inputs: bool = flag(True, "bring the values of inputs to mean 0 and deviation 1")
    standardize: Any = flag(True, "bring numbers to mean 0 and deviation 1, 'task': of each task", words=("task",))

    #: While sources are chosen: the target, which is kept from the representation; and the representation before.
    _target: Any = None
    _before: Any = None

    # -- choosing sources -----------------------------------------------------------------------------------------

    def select(
        self, target: tuple[Any, Any], sources: Any, budget: float, *, costs: ArrayLike | None = None,
        heads: tuple[ArrayLike, ArrayLike] | None = None, kinds: str | None = None, progress: Progress | None = None,
    ) -> Selection:  # fmt: skip
        """Buy labels of the sources for the target, and fit all tasks to them.

        Parameters
        ----------
        target : (X, y)
            The labelled rows of the target.
        sources : mapping or sequence
            By name (a string or an integer), or in their order: pools ``(X, y)``, of which rows are drawn by seed and
            without putting them back, or objects whose ``draw(n)`` returns ``(X, y)`` of n new rows, or of fewer once
            they run dry.
        budget : float
            What all labels of the sources may cost together.
        costs : array of shape (n_sources,), optional
            Of one label of each source; 1 unless given.
        heads : (W, w), optional
            The sources' heads (k, n_sources) and the target's (k,) where these are known: nothing is then explored,
            and nu is that of the least norm with ``W nu = w``.
        kinds : {"regression", "classification"}, optional
            Told by the values unless given, as in :meth:`fit`.
        progress : callable, optional
            Told the finished share, in [0, 1].

        Returns
        -------
        Selection
            The target's id in ``predict`` is its ``target``: ``"target"``, or the next integer after the sources'.

        Raises
        ------
        ValueError, TypeError
            For a budget that does not reach every source, and whatever :meth:`fit` refuses. The model is then left as
            it was; labels that were drawn are spent.
        """
        names, name = named(sources)
        T, told = len(names), heard(progress)
        c = check_costs(costs, T)
        check_budget(budget, c, self.floor)
        known = None if heads is None else self._shares(*check_heads(heads, T), c, exact=True)
        values = list(sources.values()) if isinstance(sources, Mapping) else list(sources)
        target_ = labelled(target, "the target")
        made = [Source(values[t], names[t], *target_, derive(self.seed, "pool", t)) for t in range(T)]
        history: list[dict[str, np.ndarray]] = []

        def learn(stage: int, stages: int) -> None:
            data = [target_, *((one.X, one.y) for one in made)]
            ids = np.repeat(np.array([name, *names]), [len(y) for _, y in data])
            said = kinds or (self.kinds_[0] if stage else None)
            X, y = torch.cat([X for X, _ in data]), np.concatenate([y for _, y in data])
            self._before = self.trunk_.state_dict() if stage else None
            self.fit(X, y, ids, kinds=said, progress=portion(told, stage / stages, (stage + 1) / stages))

        def buy(shares: np.ndarray, total: float) -> None:
            draw(made, shares, total, c, self.floor)
            nu = abs(shares) / max(abs(shares).sum(), 1e-300)
            history.append({"counts": np.array([len(one.y) for one in made]), "relevance": nu})

        with self._refit():
            self._target = name
            try:
                if known is not None or self.rule == "uniform":
                    buy(c if known is None else known, budget)
                    learn(0, 1)
                else:
                    explored = self._explored(made, c, budget)
                    draw(made, c, explored, c, self.floor)
                    history.append({"counts": np.array([len(one.y) for one in made]), "relevance": np.full(T, 1 / T)})
                    for r in range(1, self.rounds + 1):  # the new labels double
                        learn(r - 1, self.rounds + 1)
                        part = (2**r - 1) / (2**self.rounds - 1)
                        buy(self._shares(*self._heads_for(name, names), c), explored + (budget - explored) * part)
                    learn(self.rounds, self.rounds + 1)
            finally:
                self._target = self._before = None
            self.history_, self.sources_, self.target_, self.costs_ = history, np.array(names), name, c
        warn_of_dry(made, history[-1]["relevance"], budget, c)
        return self.selection

    @property
    def selection(self) -> Selection:
        """What the last :meth:`select` did."""
        self._check_fitted()
        if not hasattr(self, "history_"):
            raise AttributeError("this model was fitted to given labels, and selected none: call select")
        last = self.history_[-1]
        explored = self.history_[0]["counts"] if len(self.history_) > 1 else 0 * last["counts"]
        found = last["counts"], explored, last["relevance"]
        return Selection(self.target_, self.sources_, *found, self.costs_, self)

    def relevance(self, task: Any) -> np.ndarray:
        """Return nu of shape (n_tasks,): how the other tasks' heads make up this task's, by the ``rule``; 0 for itself.

        Parameters
        ----------
        task : int or str
        """
        self._check_fitted()
        self._check_shape_kept()
        own = int(self._codes(task, 1)[0])
        others = np.delete(np.arange(len(self.tasks_)), own)
        nu = np.zeros(len(self.tasks_))
        nu[others] = self._nu(*self._heads_for(self.tasks_[own].item(), self.tasks_[others].tolist()))
        return nu

    # -- the method -----------------------------------------------------------------------------------------------

    def _nu(self, W: np.ndarray, w: np.ndarray, exact: bool = False) -> np.ndarray:
        """Return nu (T,) of heads W (k, T) and w (k,), with ``W nu = w`` if they are exact."""
        if self.rule == "uniform":
            return np.full(W.shape[1], 1 / max(W.shape[1], 1))
        if self.rule == "l2":
            return least_norm(W, w)
        if exact:
            return basis_pursuit(W, w)
        size = np.linalg.norm(w)
        nothing = size <= 1e-9 * np.linalg.norm(W)
        return np.zeros(W.shape[1]) if nothing else lasso(W / size, w / size, self.lambda_)

    def _shares(self, W: np.ndarray, w: np.ndarray, costs: np.ndarray, exact: bool = False) -> np.ndarray:
        """Return what part of the budget each source gets: ``sqrt(c) |nu|``, or its square, of those that are kept."""
        u = abs(self._nu(W / np.sqrt(costs), w, exact))
        u = u / (u.max() or 1.0)
        kept = u > 1e-9
        if self.top is not None and self.rule != "uniform":
            kept[np.argsort(-u, kind="stable")[self.top :]] = False
        if not kept.any():
            warnings.warn("Nothing of the target is found in the sources: all get the same.", stacklevel=4)
            return costs
        return np.where(kept, costs if self.equal or self.rule == "uniform" else u**2 if self.rule == "l2" else u, 0.0)

    def _heads_for(self, target: Any, sources: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the heads of sources, one under the other where tasks have several: (k columns, T), (k columns,)."""
        k, T = len(self.heads_), len(self.tasks_)
        heads = self.heads_.reshape(k, T, self._width_of_heads()).transpose(0, 2, 1).reshape(-1, T)
        place = {name: code for code, name in enumerate(self.tasks_.tolist())}
        return heads[:, [place[one] for one in sources]], heads[:, place[target]]

    def _explored(self, sources: list[Source], costs: np.ndarray, budget: float) -> float:
        """Return what labelling each source alike may cost: half of the budget at most."""
        n = int(min(self.explore, max(self.floor, budget / 2 // costs.sum())))
        if n < self.explore:
            asked = f"explore={self.explore} labels of each of {len(costs)} sources are over half of the budget"
            warnings.warn(f"{asked}: {n} of each are drawn", stacklevel=3)
        return n * costs.sum()

    def _statistics(self, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
        alone = super()._statistics(replace(targets, column=np.arange(len(targets.tasks))))
        if self.standardize == "task":
            return alone
        wide = alone[1][np.bincount(targets.task) >= 10]  # fewer labels do not tell
        if self.standardize and targets.form == "rows" and len(wide) and wide.max() > 10 * wide.min():
            many = "Targets of some tasks deviate over ten times as much as those of others"
            warnings.warn(f"{many}: standardize='task' takes each by itself.", stacklevel=4)
        return super()._statistics(targets)

    def _build(self) -> None:
        k, shape, seed = self.n_components, self.input_shape_, derive(self.seed, "trunk")
        if self.representation == "linear":
            body: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(self.n_features_in_, k, bias=False))
        else:
            body, width = build_body(self.backbone, shape, self.hidden, self.n_features, seed)
            body = nn.Sequential(body, nn.Linear(width, k, bias=False))
        self.trunk_ = Trunk(Scaled(shape), body).to(self._device).eval()

    def _train(self, cells: Cells, progress: Progress) -> None:
        row, head, y = self._columns(cells)
        held_out = -1 if self._target is None else int(np.argmax(self.tasks_ == self._target))
        columns = self._width_of_heads()
        own = head // columns == held_out
        codes = np.unique(head[~own], return_inverse=True)[1]  # of the sources' heads, without gaps
        seen = np.unique(row[~own])
        if self._before is not None:
            self.trunk_.load_state_dict(self._before)
        if self.scale_inputs:
            cast(Scaled, self.trunk_[0]).fit(cells.X[torch.from_numpy(seen)])
        fit = self._fit_linear if self.representation == "linear" else self._fit_network
        fit(cells.X, row[~own], codes, y[~own], progress)
        Z = require_finite(self._raw(cells.X), "a feature after training", "lower lr")
        self.middle_, self.map_ = whitening(Z[seen])
        z = (Z - self.middle_) @ self.map_  # (n, k)
        self.heads_, self.offsets_ = fit_heads(z[row], head, y, columns * len(self.tasks_), self.ridge)
        require_finite(self.heads_, "a weight of a head", "check the scale of the targets")

    def _fit_linear(self, X: Tensor, row: np.ndarray, head: np.ndarray, y: np.ndarray, progress: Progress) -> None:
        scaled, (_, linear) = cast(Any, self.trunk_)
        x, weight = scaled(X).flatten(1).double().cpu().numpy()[row], linear.weight
        start = None if self._before is None else weight.detach().double().cpu().numpy().T
        B = fit_subspace(
            x, head, y, len(weight), iterations=self.iterations, ridge=self.ridge, start=start, progress=progress
        )
        with torch.no_grad():
            weight.copy_(torch.from_numpy(B.T))
        progress(1.0)

    def _fit_network(self, X: Tensor, row: np.ndarray, head: np.ndarray, y: np.ndarray, progress: Progress) -> None:
        rows, heads, numbers_ = (torch.from_numpy(one).to(X.device) for one in (row, head, y.astype(np.float32)))
        outputs = nn.Linear(self.n_components, int(head.max()) + 1).to(X.device)
        net = nn.ModuleList([self.trunk_, outputs])
        orders = (torch.randperm(len(y), device=X.device) for _ in range(self.epochs))
        batches = (batch for order in orders for batch in order.split(self.batch_size))

        def loss(batch: Tensor) -> Tensor:
            found = outputs(self.trunk_(X[rows[batch]])).gather(1, heads[batch][:, None])[:, 0]
            return (found - numbers_[batch]).square().mean()

        steps = self.epochs * math.ceil(len(y) / self.batch_size)
        train(
            net, lambda _: next(batches), loss, steps=steps, optimizer=torch.optim.Adam(net.parameters(), self.lr),
            progress=progress,
        )  # fmt: skip

    def _width_of_heads(self) -> int:
        """Return how many columns of numbers a task has."""
        return 1 if self._width(0) <= 2 else self._width(0)

    def _columns(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return row, column of ``heads_`` and number of each label: of each class's column, where there are any."""
        _, row, task, y = cells.arrays()
        K, k = self._width(0), self._width_of_heads()
        if K == 1:
            return row, task, y
        ones = 2.0 * (y[:, None] == (np.arange(k) if k > 1 else [1])) - 1  # (m, k)
        return row.repeat(k), (task[:, None] * k + np.arange(k)).ravel(), ones.ravel()

    def _raw(self, X: Tensor) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([self.trunk_(part) for part in X.split(4096)]).double().cpu().numpy()

    def _outputs(self, X: Tensor, codes: list[int]) -> list[Tensor]:
        k = self._width_of_heads()
        scores = (self._raw(X) - self.middle_) @ self.map_ @ self.heads_ + self.offsets_
        own = (scores[:, code * k : (code + 1) * k] for code in codes)
        two = self._width(0) == 2
        return [torch.from_numpy(np.hstack([-one, one]) if two else one) for one in own]


@dataclass(frozen=True)
class Selection:
    """What :meth:`L1AMTRL.select` did.

    Attributes
    ----------
    target : int or str
        The target's id in the model's ``predict``.
    sources : ndarray of shape (n_sources,)
    counts, explored : int ndarray of shape (n_sources,)
        Labels in all, and how many of them were drawn before sources were chosen.
    relevance : ndarray of shape (n_sources,)
        Part of the budget that each source was meant to have, of sum 1: by ``|nu|``, or the rule's.
    costs : ndarray of shape (n_sources,)
        Of one label.
    model : L1AMTRL
        Fitted to all labels.
    """

    target: Any
    sources: np.ndarray
    counts: np.ndarray
    explored: np.ndarray
    relevance: np.ndarray
    costs: np.ndarray
    model: L1AMTRL = field(repr=False)

    @property
    def spent(self) -> float:
        """What all labels cost."""
        return float(self.counts @ self.costs)

    @property
    def support(self) -> np.ndarray:
        """The sources that were chosen: those of a relevance above 0."""
        return self.sources[self.relevance > 0]

    def table(self) -> pd.DataFrame:
        """Return a row for each source, those with most labels first: ``source, labels, explored, relevance, cost``."""
        columns = {"source": self.sources, "labels": self.counts, "explored": self.explored}
        table = pd.DataFrame({**columns, "relevance": self.relevance, "cost": self.counts * self.costs})
        return table.sort_values(["labels", "relevance"], ascending=False, kind="stable", ignore_index=True)


def select_sources(target: tuple[Any, Any], sources: Any, budget: float, **settings: Any) -> Selection:
    """Buy labels of source tasks for a target with few; return how many of each, and a model of all.

    Parameters
    ----------
    target, sources, budget
        See :meth:`L1AMTRL.select`.
    **settings
        Of :class:`L1AMTRL`, and ``costs``, ``heads``, ``kinds`` and ``progress`` of its ``select``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 6))
    >>> pools = {"same": (X, X[:, 0] + X[:, 1]), "other": (X, X[:, 2]), "more": (X, X[:, 3] - X[:, 4])}
    >>> found = select_sources((X[:40], X[:40, 0] + X[:40, 1]), pools, budget=200, n_components=3)
    >>> found.support.tolist(), found.counts.tolist()
    (['same'], [150, 25, 25])
    """
    given = taken(L1AMTRL.select, **settings)
    model = L1AMTRL(**{name: value for name, value in settings.items() if name not in given})
    return model.select(target, sources, budget, **given)
