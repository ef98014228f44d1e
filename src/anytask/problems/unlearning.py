"""Unlearning: a trained classifier is to forget some of its training rows, as if it had never seen them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from anytask.core.errors import BadData
from anytask.core.rng import derive, isolated
from anytask.core.settings import real, taken, text, whole
from anytask.core.training import train
from anytask.datasets.labelled import LabelledData
from anytask.models.build import MLP
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.labelled import LabelledProblem, LabelledSet, SplitOptions
from anytask.problems.training import Learned, Progress

_BASELINES = "anytask.continual.unlearning"
_KINDS = ("class", "random", "noise", "rows")


class UnlearningOptions(SplitOptions):
    """What is to be forgotten, and how the classifier was trained."""

    forget: str = text(
        "random:0.1", "class:LABEL, random:SHARE of the rows, noise:SHARE (rows that had a wrong label), or rows:FILE"
    )
    hidden: int = whole(128, "width of the network's hidden layer")
    embedding: int = whole(32, "width of its embedding")
    epochs: int = whole(40, "passes of its training")
    lr: float = real(2e-3, "learning rate of Adam in its training", above=0)


@dataclass(frozen=True)
class Instance:
    """What one seed shows: inputs (n, \\*input_shape), labels as they were trained on and as they are, the rows that
    are trained on and those that are not, and which of the former are to be forgotten."""

    X: torch.Tensor
    trained: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    test: np.ndarray
    forgotten: np.ndarray


@dataclass(frozen=True)
class UnlearningData(LabelledSet):
    """Labelled inputs and the checked options.

    Examples
    --------
    >>> data = Unlearning().load("digits", forget="class:3")
    >>> world = data.instance(seed=0)
    >>> set(world.y[world.rows[world.forgotten]].tolist())
    {3}
    """

    def instance(self, seed: int) -> Instance:
        """Return what one seed shows."""
        kind, what = self.options.forget.split(":", 1)
        classes, y = np.unique(self.source.y, return_inverse=True)
        rows, test = self.split(seed)
        rng = np.random.default_rng(derive(seed, "unlearning"))
        trained = y.copy()
        if kind == "class":
            forgotten = classes[y[rows]].astype(str) == what
        elif kind == "rows":
            forgotten = np.isin(rows, _rows_of(what))
        else:
            forgotten = np.zeros(len(rows), dtype=bool)
            forgotten[rng.permutation(len(rows))[: round(float(what) * len(rows))]] = True
        if kind == "noise":
            wrong = rows[forgotten]
            trained[wrong] = (y[wrong] + rng.integers(1, len(classes), len(wrong))) % len(classes)
        X = torch.as_tensor(np.asarray(self.source.X), dtype=torch.float32)
        return Instance(X, trained, y, rows, test, forgotten)


class Unlearning(LabelledProblem):
    """Make a trained classifier forget some of its training rows, and compare it with one trained without them.

    A network (a perceptron whose last layers are called ``head``) is trained on everything; each entrant gets it, the
    inputs that are to be forgotten and those that remain, and, where it takes them, their labels.

    Metrics
    -------
    * ``gap`` to the network trained anew without the rows: the mean difference of accuracy on forgotten, remaining and
      unseen rows (ranks; less is better);
    * ``forgotten``, ``remaining``, ``unseen``: these accuracies, by the labels that were trained on for the first two;
      unseen rows of a forgotten class are left out, and counted in ``unseen_forgotten``;
    * ``attack``: share of the forgotten rows that a membership attack takes for training rows;
    * ``share_of_time``: seconds, over those of training anew.

    Examples
    --------
    >>> problem = Unlearning()
    >>> data = problem.load("iris", forget="class:0", epochs=20)
    >>> outcome = problem.run(problem.baselines(data)[0], data, seed=0)
    >>> outcome.metrics["gap"], outcome.metrics["forgotten"]
    (0.0, 0.0)
    """

    key: ClassVar[str] = "unlearning"
    title: ClassVar[str] = "Unlearning"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("gap", "Gap to training anew", higher_is_better=False),
        Metric("forgotten", "Accuracy on forgotten rows", higher_is_better=False),
        Metric("remaining", "Accuracy on remaining rows"),
        Metric("unseen", "Accuracy on unseen rows"),
        Metric("unseen_forgotten", "Accuracy on unseen rows of the forgotten class", higher_is_better=False),
        Metric("attack", "Forgotten rows taken for training rows", higher_is_better=False),
        Metric("share_of_time", "Time, over training anew", higher_is_better=False),
    )
    bounds = {"training anew": "upper"}  # noqa: RUF012 (declared by the base class)
    privileges: ClassVar[Mapping[str, str]] = {"training anew": "the labels, and as much time as the first training"}
    needs: ClassVar[tuple[str, ...]] = ("forget(model, forget=, retain=)",)
    options_class = UnlearningOptions
    data_class = UnlearningData

    def fit_options(self, options: UnlearningOptions, labelled: LabelledData) -> tuple[Any, tuple[str, ...]]:
        """Check what is to be forgotten against the data."""
        kind, _, what = options.forget.partition(":")
        if kind not in _KINDS or not what:
            raise ValueError(
                f"forget must be class:LABEL, random:SHARE, noise:SHARE or rows:FILE, got {options.forget!r}"
            )
        if kind in ("random", "noise"):
            share = _number(what)
            if share is None or not 0 < share < 1:
                raise ValueError(f"forget={options.forget!r}: a share lies between 0 and 1")
        if kind == "rows" and len(beyond := (rows := _rows_of(what))[rows >= len(labelled.y)]):
            raise ValueError(
                f"forget={options.forget!r} names row {beyond[0]}, and there are rows 0 to {len(labelled.y) - 1}"
            )
        forgotten = UnlearningData(labelled, options).instance(0).forgotten
        if not forgotten.any() or forgotten.all():
            which = "none" if not forgotten.any() else "all"
            raise ValueError(
                f"forget={options.forget!r} names {which} of the {len(forgotten)} rows that are trained on"
            )
        return options, ()

    def baselines(self, data: UnlearningData) -> tuple[Entrant, ...]:
        """Return training anew, and what is cheap and knows the labels."""
        o = data.options
        rows = [
            ("training anew", "RetrainedModel", {"epochs": o.epochs, "lr": o.lr}),
            ("training on", "Retained", {"lr": o.lr}),
            ("gradient ascent", "GradientAscent", {}),
            ("random labels", "RandomLabels", {"lr": o.lr}),
            ("nothing", "Untouched", {}),
        ]
        return tuple(Entrant(name, f"{_BASELINES}:{cls}", params, "baseline") for name, cls, params in rows)

    def train(self, entrant: Entrant, data: UnlearningData, seed: int, progress: Progress) -> Any:
        """Train the classifier, and let the entrant make it forget."""
        world, o = data.instance(seed), data.options
        rows, y = world.rows, torch.from_numpy(world.trained)
        model = _classifier(o, tuple(world.X.shape[1:]), int(world.y.max()) + 1, seed)
        _fit(model, world.X[rows], y[rows], o, seed)
        system = entrant.make("small", seed=seed)
        if getattr(system, "head", "") is None:
            system.set_params(head="head")
        u, s = rows[world.forgotten], rows[~world.forgotten]
        more = taken(system.forget, forget_labels=y[u], retain_labels=y[s], progress=progress)
        start = time.perf_counter()
        unlearned = system.forget(model, forget=world.X[u], retain=world.X[s], **more)
        return Learned(system, (world, model, unlearned, time.perf_counter() - start))

    def test(self, entrant: Entrant, trained: Any, data: UnlearningData, seed: int, progress: Progress) -> Outcome:
        """Compare it with a network trained anew on the remaining rows."""
        from anytask.continual.unlearning import RetrainedModel, membership_attack, probabilities

        world, model, unlearned, seconds = trained.world
        o, y = data.options, torch.from_numpy(world.trained)
        u, s = world.rows[world.forgotten], world.rows[~world.forgotten]
        start = time.perf_counter()
        anew = RetrainedModel(epochs=o.epochs, lr=o.lr, seed=seed).forget(
            model, forget=world.X[u], retain=world.X[s], forget_labels=y[u], retain_labels=y[s]
        )
        whole = time.perf_counter() - start
        gone = np.isin(world.y[world.test], np.setdiff1d(world.y[u], world.y[s]))  # classes that are not left
        parts = {"forgotten": u, "remaining": s, "unseen": world.test[~gone], "unseen_forgotten": world.test[gone]}
        parts = {name: part for name, part in parts.items() if len(part)}
        own, aim = ({n: _accuracy(net, world, part) for n, part in parts.items()} for net in (unlearned, anew))
        gap = np.mean([abs(own[name] - aim[name]) for name in ("forgotten", "remaining", "unseen") if name in own])
        P_s, P_t, P_u = (probabilities(unlearned, world.X[part]) for part in (s, parts["unseen"], u))
        progress(1.0)
        metrics = {"gap": float(gap), **own, "attack": membership_attack(P_s, P_t, P_u, seed)}
        return Outcome({**metrics, "share_of_time": seconds / whole}, {"anew": aim})


def _accuracy(model: nn.Module, world: Instance, rows: np.ndarray) -> float:
    from anytask.continual.unlearning import probabilities

    right = world.trained if np.isin(rows, world.rows).all() else world.y
    return float((probabilities(model, world.X[rows]).argmax(1) == right[rows]).mean())


def _classifier(o: UnlearningOptions, shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    with isolated(derive(seed, "classifier")):
        head = nn.Sequential(nn.Linear(o.embedding, o.embedding), nn.Linear(o.embedding, n_classes))
        return nn.Sequential(OrderedDict(body=MLP(shape, o.embedding, (o.hidden,)), head=head))


def _fit(model: nn.Module, X: torch.Tensor, y: torch.Tensor, o: UnlearningOptions, seed: int) -> None:
    generator = torch.Generator().manual_seed(derive(seed, "order"))
    order = [rows for _ in range(o.epochs) for rows in torch.randperm(len(X), generator=generator).split(32)]
    adam = torch.optim.Adam(model.parameters(), o.lr)
    train(
        model, lambda step: order[step - 1], lambda rows: F.cross_entropy(model(X[rows]), y[rows]), steps=len(order),
        optimizer=adam, stage="the classifier",
    )  # fmt: skip


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _rows_of(file: str) -> np.ndarray:
    """Return the numbers of rows, from 0 on, that a text file lists, one to a line."""
    path = Path(file)
    if not path.is_file():
        raise BadData(f"forget=rows:{file}: there is no such file")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            if not line.strip().isdecimal():
                raise BadData(f"{file}, line {number}: {line.strip()[:40]!r} is no number of a row, which count from 0")
            found.append(int(line))
    return np.array(found, dtype=np.int64)
