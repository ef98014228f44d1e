"""Distillation: students within a budget, against the teacher itself and against training one directly."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.progress import heard
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.distillation.data import DistillationData, DistillationOptions, read_texts
from anytask.problems.few_labels import FewLabels
from anytask.problems.training import Progress

#: What a student may have where nobody says it.
BUDGETS = {True: 6_000_000, False: 12_000}
_DIRECT = "anytask.pretrain:EncoderClassifier"


class Distillation(FewLabels):
    """Classify from few labels with a student that fits a budget.

    A teacher and inputs without labels are there for all: an encoder of texts by name ("minilm"), or of arrays a small
    one (``taught=masked``, by every entrant for itself; ``taught=labels``, once for all). The whole teacher,
    fine-tuned, exceeds the budget and shows what there is to reach. Students of the largest shape within it begin at
    random or with slices of the teacher, and learn the labels, or the fine-tuned teacher's answers on all inputs.

    Metrics
    -------
    * ``accuracy`` on the test inputs (ranks); ``balanced_accuracy``; ``log_loss``: as in few-labels;
    * ``parameters`` of the encoder that answers.

    Examples
    --------
    >>> problem = Distillation()
    >>> data = problem.load("digits", unlabeled=100, max_test=200, budget=5_000)
    >>> outcome = problem.run(problem.baselines(data)[1], data, seed=0)
    >>> outcome.metrics["parameters"]
    4572.0
    """

    key: ClassVar[str] = "distillation"
    title: ClassVar[str] = "Students for a budget"
    metrics: ClassVar[tuple[Metric, ...]] = (
        *FewLabels.metrics, Metric("parameters", "Parameters of the encoder", False, "parameters"),
    )  # fmt: skip
    options_class = DistillationOptions
    data_class = DistillationData
    _taught: ClassVar[dict[tuple[str, int], Any]] = {}

    def load(self, source: Any, **options: Any) -> DistillationData:
        """Return texts, as :func:`anytask.datasets.text.load_text` reads them, or arrays, as few-labels does."""
        texts = read_texts(source)
        if texts is None:
            return super().load(source, **options)
        try:
            settled, notes = self.fit_options(self.check_options(options), texts)
        except ValueError as error:
            raise BadData(f"{texts.name}: {error}") from error
        return DistillationData(texts, settled, notes)

    def fit_options(self, options: Any, labelled: Any) -> tuple[Any, tuple[str, ...]]:
        """Settle the budget, and show at most the inputs that are left."""
        if options.budget is None:
            options = options.evolve(budget=BUDGETS[labelled.kind == "texts"])
        _, counts = np.unique(labelled.y, return_counts=True)
        if counts.min() > options.per_class:  # else the base says so
            left = len(DistillationData(labelled, options).pool(0))
            options = options.evolve(unlabeled=min(options.unlabeled, left))
        settled, notes = super().fit_options(options, labelled)
        return settled, notes

    def baselines(self, data: Any) -> tuple[Entrant, ...]:
        """Return the whole teacher, and students that are made for the task."""
        rows: list[tuple[str, dict[str, Any]]] = [
            ("whole teacher", {"start": "whole"}),
            ("directly trained", {"start": "random"}),
            ("slices, not distilled", {"start": "slices"}),
            ("teacher's answers", {"start": "slices", "answers": True}),
        ]
        plain = Entrant("linear", "anytask.evaluate.baselines:LinearClassifier", {}, "baseline")
        found = [Entrant(name, _DIRECT, params, "baseline") for name, params in rows]
        return tuple(found) if data.texts else (*found, plain)

    def refuses(self, entrant: Entrant, data: Any) -> str | None:
        """Refuse classifiers of arrays where there are texts."""
        if data.texts and not getattr(entrant.load(), "reads_texts", False):
            return f"{entrant.name} does not read texts."
        return super().refuses(entrant, data)

    def train(self, entrant: Entrant, data: Any, seed: int, progress: Progress) -> Any:
        """Fit an entrant to the labelled rows and those without labels, with the budget and the teacher."""
        model, pool = self._made(entrant, data, seed), data.pool(seed)
        shown = {"unlabeled": data.inputs(pool)} if len(pool) else {}
        return self.fit(model, data, data.split(seed)[0], progress, **shown)

    def refit(self, entrant: Entrant, data: Any, seed: int, progress: Progress | None = None) -> Trained:
        """Fit an entrant to all of the rows."""
        model = self._made(entrant, data, seed)
        self.fit(model, data, np.arange(len(data.source.y)), heard(progress))
        usage = (
            entrant.import_line,
            f'model = {entrant.class_name}.load("{{folder}}")',
            f"labels = model.predict(X)  # X: {'texts' if data.texts else f'arrays (n, *{data.source.input_shape})'}",
        )
        return Trained((model,), usage, (*data.source.notes, *data.notes))

    def _made(self, entrant: Entrant, data: Any, seed: int) -> Any:
        o = data.options
        given: dict[str, Any] = {"seed": seed, "random_state": seed, "budget": o.budget}
        if data.texts:
            return entrant.make("minilm", teacher=o.teacher, **given)
        teacher = {"teacher": self.teacher(data, seed)} if o.taught == "labels" else {}
        return entrant.make("small", **teacher, **given)

    def teacher(self, data: Any, seed: int) -> Any:
        """Return a small encoder that learned the labels of all inputs that are not tested on."""
        from anytask.pretrain import EncoderClassifier

        key = (data.fingerprint, seed)
        if key not in self._taught:
            rows = data.known(seed)
            model = EncoderClassifier.from_preset("small", seed=seed, small={"steps": 0}, finetuning={"epochs": 12})
            self._taught.clear()
            self._taught[key] = model.fit(data.inputs(rows), data.source.y[rows]).classifier_.encoder
        return self._taught[key]

    def test(self, entrant: Entrant, trained: Any, data: Any, seed: int, progress: Progress) -> Outcome:
        """Measure a classifier, and count the parameters of its encoder."""
        outcome = super().test(entrant, trained, data, seed, progress)
        encoder = getattr(getattr(trained, "classifier_", None), "encoder", None)
        if encoder is not None:
            size = float(sum(weight.numel() for weight in encoder.parameters()))
            outcome.metrics["parameters"] = size
            if size > data.options.budget:
                outcome.notes.append(f"Above the budget of {data.options.budget:,.0f} parameters.")
        return outcome

    def release(self, data: Any) -> None:
        """Free the teacher."""
        self._taught.clear()
        super().release(data)
