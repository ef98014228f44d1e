"""Long tails: some classes are rare in training, and nobody says how frequent they are at test time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from anytask.core.progress import heard, portion
from anytask.core.rng import derive
from anytask.core.settings import flag, real, whole
from anytask.datasets.labelled import LabelledData
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.labelled import LabelledProblem, LabelledSet, SplitOptions, usable
from anytask.problems.training import Progress
from anytask.robust.parts.long_tail import profile

_BASELINES = "anytask.robust.long_tail_baselines"
#: Which way the class frequencies of a test set go.
WAYS = ("forward", "uniform", "backward")


class LongTailOptions(SplitOptions):
    """How long the tail is, in training and in the tests."""

    test_size: float = real(0.5, "share of each class that is kept for testing", above=0, below=1)
    imbalance: float | None = real(
        20.0, "training rows of the most frequent class per row of the rarest; None: as the data have them",
        at_least=1, optional=True,
    )  # fmt: skip
    most: int | None = whole(100, "training rows of the most frequent class, where the tail is made", optional=True)
    shuffled: bool = flag(True, "whether a seed says which classes are rare, where the tail is made")
    test_imbalance: float = real(25.0, "test rows of the most frequent class per row of the rarest", at_least=1)


@dataclass(frozen=True)
class LongTailData(LabelledSet):
    """Labelled inputs and the checked options.

    Examples
    --------
    >>> data = LongTail().load("digits", most=60, imbalance=12)
    >>> train, tests = data.world(seed=0)
    >>> sorted(np.bincount(data.source.y[train]).tolist(), reverse=True)
    [60, 45, 34, 26, 19, 15, 11, 8, 6, 5]
    >>> {way: len(rows) for way, rows in tests.items()}
    {'forward': 293, 'uniform': 870, 'backward': 287}
    """

    def world(self, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the training rows, and the test rows of each way that the frequencies go; they depend on the seed."""
        o, y = self.options, self.source.y
        pool, held = self.split(seed)
        rng = np.random.default_rng(derive(seed, "long-tail"))
        classes = np.unique(y)
        order = rng.permutation(len(classes)) if o.shuffled else np.arange(len(classes))
        if o.imbalance is None:
            counts = np.array([np.sum(y[pool] == c) for c in classes])
            order, train = np.argsort(-counts, kind="stable"), pool
        else:
            own = [rng.permutation(pool[y[pool] == classes[place]]) for place in order]
            most = int(min(len(rows) for rows in own) if o.most is None else o.most)
            train = np.concatenate([rows[:size] for rows, size in zip(own, profile(len(classes), most, o.imbalance))])
        left = [rng.permutation(held[y[held] == classes[place]]) for place in order]
        tests = {}
        for way, ratio in zip(WAYS, (o.test_imbalance, 1.0, 1 / o.test_imbalance)):
            shares = profile(len(left), 10**6, ratio) / 10**6
            most = min(len(rows) / share for rows, share in zip(left, shares))
            tests[way] = np.sort(
                np.concatenate([rows[: max(1, int(most * share))] for rows, share in zip(left, shares)])
            )
        return np.sort(train), tests


class LongTail(LabelledProblem):
    """Classify where some classes were rare in training, and the test data have frequencies that nobody announced.

    A tail is made on purpose, each seed with other rare classes, or the data have one (``imbalance`` none). The test
    rows come in three sets: *forward*, in which the classes are frequent in the order of training, *uniform*, and
    *backward*. Whoever has ``adapt(X)`` sees the inputs of a set, without labels, before it answers them.

    Metrics
    -------
    * ``accuracy``: mean over the three sets (ranks); ``forward``, ``uniform`` and ``backward``: on each of them;
    * ``many``, ``medium``, ``few``: on the uniform set, over the classes of the most frequent third in training, and so
      on; not a number where there is no such class.

    Examples
    --------
    >>> problem = LongTail()
    >>> data = problem.load("iris", most=20, imbalance=5, test_imbalance=5)
    >>> outcome = problem.run(problem.baselines(data)[0], data, seed=0)
    >>> outcome.metrics["accuracy"] > 0.5
    True
    """

    key: ClassVar[str] = "long-tail"
    title: ClassVar[str] = "Rare classes, test frequencies unknown"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Accuracy, mean over the frequencies"),
        *(Metric(way, f"Accuracy, {way} frequencies") for way in WAYS),
        *(Metric(third, f"Accuracy on the classes with {third} training rows")
          for third in ("many", "medium", "few")),
    )  # fmt: skip
    options_class = LongTailOptions
    data_class = LongTailData
    builtin: ClassVar[dict[str, str]] = {}

    def fit_options(self, options: LongTailOptions, labelled: LabelledData) -> tuple[LongTailOptions, tuple[str, ...]]:
        """Check that every class has the training rows asked for."""
        data = LongTailData(labelled, options)
        counts = np.unique(labelled.y[data.split(0)[0]], return_counts=True)[1]
        if options.imbalance is None or options.most is None or options.most <= counts.min():
            return options, ()
        note = f"The most frequent class has {counts.min()} training rows, since the rarest in the data has no more."
        return options.evolve(most=int(counts.min())), (note,)

    def setting(self, data: LongTailData) -> str:
        """Return what entrants have to do."""
        return (
            "Some classes are rare in training. Three test sets have other frequencies, which nobody is told; who can "
            "adapt sees the inputs of a set, without labels, before it answers."
        )

    def baselines(self, data: LongTailData) -> tuple[Entrant, ...]:
        """Return one network in the usual ways, with frequencies that are estimated, LightGBM and a linear model."""
        training = f"{_BASELINES}:LongTailTraining"
        rows = [
            *((way, training, {"way": way}) for way in ("cross-entropy", "logit adjustment", "class weights",
                                                        "balanced sampling")),
            ("estimated prior", f"{_BASELINES}:PriorEstimation", {}),
            ("estimated prior, logit adjustment", f"{_BASELINES}:PriorEstimation", {"way": "logit adjustment"}),
            ("lightgbm, weighted", f"{_BASELINES}:WeightedTrees", {}),
            ("linear", "anytask.evaluate.baselines:LinearClassifier", {}),
        ]  # fmt: skip
        found = (Entrant(name, entry, params, "baseline") for name, entry, params in rows)
        return tuple(entrant for entrant in found if self.refuses(entrant, data) is None)

    def train(self, entrant: Entrant, data: LongTailData, seed: int, progress: Progress) -> Any:
        """Fit a classifier to the training rows."""
        model = entrant.make("small", seed=seed, random_state=seed)
        return self.fit(model, data, data.world(seed)[0], progress)

    def refit(self, entrant: Entrant, data: LongTailData, seed: int, progress: Progress | None = None) -> Trained:
        """Fit a classifier to all of the rows."""
        model = entrant.make("small", seed=seed, random_state=seed)
        self.fit(model, data, np.arange(len(data.source.y)), heard(progress))
        parts, usage = usable(entrant, model, data.source)
        return Trained(parts, usage, (*data.source.notes, *data.notes))

    def test(self, entrant: Entrant, trained: Any, data: LongTailData, seed: int, progress: Progress) -> Outcome:
        """Show the inputs of each test set to who adapts, and count what is right in it."""
        train, tests = data.world(seed)
        metrics, shares, y = {}, {}, data.source.y
        for place, (way, rows) in enumerate(tests.items()):
            X = data.inputs(rows)
            if hasattr(trained, "adapt"):
                trained.adapt(X)
                shares[way] = [float(share) for share in getattr(trained, "shares", getattr(trained, "shares_", []))]
            right = np.asarray(trained.predict(X)) == y[rows]
            metrics[way] = float(np.average(right, weights=data.weights(rows)))
            if way == "uniform":
                metrics |= _thirds(right, y[rows], y[train])
            portion(progress, place / 3, (place + 1) / 3)(1.0)
        metrics["accuracy"] = float(np.mean([metrics[way] for way in WAYS]))
        details = {"shares": shares} if shares else {}
        return Outcome(metrics, details, {"labels": float(len(train))}, notes=data.passed_over(trained.fit))


def _thirds(right: np.ndarray, y: np.ndarray, trained_on: np.ndarray) -> dict[str, float]:
    """Return the accuracy over the classes that training had many, medium and few rows of."""
    classes, counts = np.unique(trained_on, return_counts=True)
    order = classes[np.argsort(-counts, kind="stable")]
    found = {}
    for third, own in zip(("many", "medium", "few"), np.array_split(order, 3)):
        mine = np.isin(y, own)
        found[third] = float(right[mine].mean()) if mine.any() else float("nan")
    return found
