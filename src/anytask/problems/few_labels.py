"""Few labels: classifiers that learn from a handful of labelled examples of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from anytask.core.progress import heard
from anytask.core.rng import derive
from anytask.core.settings import real, whole
from anytask.datasets.labelled import LabelledData
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.labelled import LabelledOptions, LabelledProblem, LabelledSet, pretrained_here, usable
from anytask.problems.splits import split_rows
from anytask.problems.training import Progress

#: Share of each class that is tested on where the last rows or whole groups are.
HELD_OUT = 0.25
_BASELINES, _ON_FEATURES = "anytask.robust.baselines", "anytask.pretrain:FeatureClassifier"
#: SimCLRv2's network, trained on random views of the labelled images and nothing else.
_FROM_SCRATCH = {"epochs": 0, "distillation": {"epochs": 0}, "finetuning": {"layers": 0}}


class FewLabelsOptions(LabelledOptions):
    """How many labels there are, and what else is shown."""

    per_class: int = whole(10, "labelled examples of each class")
    imbalance: float = real(1.0, "labels of the rarest class per label of the most frequent", above=0, at_most=1)
    unlabeled: int = whole(0, "further examples that are shown without labels to those that use them", at_least=0)
    max_test: int = whole(800, "at most this many of the other examples are tested on")


@dataclass(frozen=True)
class FewLabelsData(LabelledSet):
    """Labelled inputs and the checked options.

    Examples
    --------
    >>> data = FewLabels().load("iris", per_class=8, imbalance=0.25)
    >>> rows, test = data.split(seed=0)
    >>> np.bincount(data.source.y[rows]).tolist(), len(test)
    ([8, 4, 2], 136)
    """

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the labelled rows and those to test on; the classes' sizes fall geometrically in their order."""
        return self._draw(seed)[:2]

    def pool(self, seed: int) -> np.ndarray:
        """Return the rows that are shown without labels."""
        return self._draw(seed)[2]

    def _draw(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y, o, groups = self.source.y, self.options, self.source.group
        order = np.random.default_rng(derive(seed, "few-labels", "split")).permutation(len(y))
        apart = o.split == "ordered" or groups is not None
        tested = np.zeros(len(y), dtype=bool)
        if apart:
            tested[split_rows(y, None, HELD_OUT, None, seed, ordered=o.split == "ordered", groups=groups)[1]] = True
        free, classes = order[~tested[order]], np.unique(y)
        sizes = np.rint(o.per_class * o.imbalance ** np.linspace(0, 1, len(classes))).clip(1).astype(int)
        own = [free[y[free] == c][:n] for c, n in zip(classes, sizes)]
        if short := [c for c, rows, n in zip(classes.tolist(), own, sizes) if len(rows) < n]:
            raise ValueError(f"class {short[0]!r} has too few examples apart from those tested on: lower per_class")
        taken = np.concatenate(own)
        rest = free[~np.isin(free, taken)]
        test, pool = (order[tested[order]], rest) if apart else (rest[: o.max_test], rest[o.max_test :])
        return np.sort(taken), np.sort(test[: o.max_test]), np.sort(pool[: o.unlabeled])


class FewLabels(LabelledProblem):
    """Classify from a few labelled examples of each class, drawn anew with every seed; the rest is for testing.

    With ``split=ordered`` the last quarter of each class is for testing, with ``group`` whole groups are.
    With ``imbalance`` below 1 some classes have fewer labels than others; with ``unlabeled`` learners whose ``fit`` has
    an argument of that name see further inputs without labels, which nobody is tested on. A system with a preset
    ``small`` takes part with it, unless its entrant names another.

    Metrics
    -------
    * ``accuracy`` on the test inputs (ranks); ``balanced_accuracy``: mean over the classes;
    * ``log_loss``: mean negative log-probability of the true class.

    Examples
    --------
    >>> problem = FewLabels()
    >>> data = problem.load("digits", per_class=5)
    >>> len(data.split(seed=0)[0])
    50
    >>> problem.run(problem.baselines(data)[-1], data, seed=0).metrics["accuracy"] > 0.5
    True
    """

    key: ClassVar[str] = "few-labels"
    title: ClassVar[str] = "Few labels per class"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Accuracy"),
        Metric("balanced_accuracy", "Mean accuracy over the classes"),
        Metric("log_loss", "Mean negative log-probability of the true class", False, "nats"),
    )
    options_class = FewLabelsOptions
    data_class = FewLabelsData
    builtin: ClassVar[dict[str, str]] = {"digits": "digits-images"}

    def fit_options(
        self, options: FewLabelsOptions, labelled: LabelledData
    ) -> tuple[FewLabelsOptions, tuple[str, ...]]:
        """Check that every class has the labels asked for and a test, and count what is left to show unlabeled."""
        classes, counts = np.unique(labelled.y, return_counts=True)
        if counts.min() <= options.per_class:
            few = classes[counts.argmin()]
            raise ValueError(f"class {few} has {counts.min()} examples, not {options.per_class} and one to test on")
        data = FewLabelsData(labelled, options)
        if (left := len(data.pool(0))) < options.unlabeled:
            raise ValueError(f"{left} examples are left to show unlabeled, not {options.unlabeled}: lower max_test")
        return options, ()

    def baselines(self, data: FewLabelsData) -> tuple[Entrant, ...]:
        """Return networks for images, what learns from inputs without labels where these are shown, and a linear model.

        Where the weights of EfficientNet-lite0 are here, its features under a linear model take part in images too.
        """
        shape = data.source.input_shape
        rows = [
            ("plain training", f"{_BASELINES}:PlainTraining", {}),
            ("rotations as augmentation", f"{_BASELINES}:TransformAugmentation", {}),
            ("rotations as a second task", f"{_BASELINES}:TransformMultiTask", {}),
            ("labels alone", "anytask.pretrain:SimCLRv2", _FROM_SCRATCH),
        ]
        if data.options.unlabeled:
            rows += [
                ("label spreading", f"{_BASELINES}:Spreading", {"standardize": len(shape) == 1}),
                ("self-training", "anytask.pretrain:SelfTraining", {}),
                ("10 principal components", _ON_FEATURES, {"params": {"n_components": 10}}),
            ]
        if pretrained_here(shape):
            rows.append(("efficientnet-lite0", _ON_FEATURES, {"encoder": "PretrainedEncoder"}))
        rows.append(("linear", _ON_FEATURES, {"encoder": "RawFeatures"}))
        found = (Entrant(name, entry, params, "baseline") for name, entry, params in rows)
        return tuple(entrant for entrant in found if self.refuses(entrant, data) is None)

    def train(self, entrant: Entrant, data: FewLabelsData, seed: int, progress: Progress) -> Any:
        """Fit a classifier to the labelled rows, with the unlabeled inputs where it takes them."""
        model = entrant.make("small", seed=seed, random_state=seed)
        pool = data.pool(seed)
        shown = {"unlabeled": data.inputs(pool)} if len(pool) else {}
        return self.fit(model, data, data.split(seed)[0], progress, **shown)

    def refit(self, entrant: Entrant, data: FewLabelsData, seed: int, progress: Progress | None = None) -> Trained:
        """Fit a classifier to all of the rows."""
        model = entrant.make("small", seed=seed, random_state=seed)
        self.fit(model, data, np.arange(len(data.source.y)), heard(progress))
        parts, usage = usable(entrant, model, data.source)
        return Trained(parts, usage, (*data.source.notes, *data.notes))

    def test(self, entrant: Entrant, trained: Any, data: FewLabelsData, seed: int, progress: Progress) -> Outcome:
        """Measure the probabilities that a classifier gives to the test inputs."""
        rows, test = data.split(seed)
        y, P = data.source.y[test], np.asarray(trained.predict_proba(data.inputs(test)))
        predicted, weights = trained.classes_[P.argmax(1)], data.weights(test)
        progress(1.0)
        metrics = {
            "accuracy": float(accuracy_score(y, predicted, sample_weight=weights)),
            "balanced_accuracy": float(balanced_accuracy_score(y, predicted, sample_weight=weights)),
            "log_loss": float(log_loss(y, P, labels=trained.classes_, sample_weight=weights)),
        }
        cost = {"labels": float(len(rows)), "unlabeled": float(len(data.pool(seed)))}
        return Outcome(metrics, {}, cost, notes=data.passed_over(trained.fit))
