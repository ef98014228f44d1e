"""The base of the problems on labelled data: it leaves a problem its baselines and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.settings import choice, of_kind, real, taken, text, whole
from anytask.datasets.builtin import BUILTIN
from anytask.datasets.inputs import Inputs
from anytask.datasets.labelled import MISSING, LabelledData, load_labelled
from anytask.models.real import REAL
from anytask.problems.base import Entrant
from anytask.problems.options import Options
from anytask.problems.splits import check_groups, split_rows
from anytask.problems.training import LoadedData, Progress, TrainingProblem


class LabelledOptions(Options):
    """How labelled data are read, and which rows may be tested on.

    Options called as an argument of :func:`~anytask.datasets.labelled.load_labelled` are passed on to it.
    """

    read_only: ClassVar[tuple[str, ...]] = (
        *("target", "task", "group", "weights", "image_size", "missing", "missing_marks", "categorical", "decimal"),
    )

    target: str | None = text(None, "column, array or file with the labels", optional=True)
    image_size: Any = of_kind(
        None, (int, str, Sequence), "a whole number or a text such as 32x48",
        "size to which a folder's images are resized, as 32 or 32x48", optional=True,
    )  # fmt: skip
    missing: str = choice(
        "refuse",
        MISSING,
        "missing inputs: an error, the median of their column (impute), or NaN for who reads it (native)",
    )
    missing_marks: Any = of_kind(
        (), (str, Sequence), "a text or several", "values that stand for a missing one beside empty cells, as NA,?"
    )
    categorical: Any = of_kind(
        (), (str, Sequence), "a text or several", "columns that are categories although they hold numbers, as zip,month"
    )
    decimal: str = choice("auto", ("auto", ".", ","), "mark before the decimals of a table where it is not clear")
    weights: str | None = text(
        None, "column, array or file of what each row counts, in every metric and in training", optional=True
    )
    split: str = choice(
        "random",
        ("random", "ordered"),
        "which rows are tested on: drawn by seed, or the last ones of each class (as in time)",
    )
    group: str | None = text(
        None, "column, array or file of what must not be trained and tested on at once, as a patient", optional=True
    )

    def _check_settings(self) -> None:
        if self.group is not None and self.split == "ordered":
            raise ValueError("group draws whole groups to test on, and split='ordered' takes the last rows: choose one")


class SplitOptions(LabelledOptions):
    """How much of each class is tested on."""

    test_size: float = real(0.25, "share of each class that is kept for testing", above=0, below=1)
    max_per_class: int | None = whole(
        None, "at most this many rows of each class (of each task in domain), chosen by seed", at_least=2, optional=True
    )


@dataclass(frozen=True)
class LabelledSet(LoadedData):
    """Labelled inputs, which a seed splits."""

    source: LabelledData

    def facts(self) -> dict[str, Any]:
        """Return the number of examples, their shape, and the classes with their sizes."""
        source = self.source
        classes, counts = np.unique(source.y, return_counts=True)
        if source.label_names is not None:
            classes, counts = source.label_names, source.y.sum(axis=0)
        return {
            "kind": self.source.kind,
            "examples": len(self.source.y),
            "input_shape": list(self.source.input_shape),
            "classes": {str(c): int(n) for c, n in zip(classes.tolist(), counts)},
        }

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train on and those to test on; they depend on the seed alone."""
        o = self.options
        return split_rows(
            self.source.strata, None, o.test_size, o.max_per_class, seed,
            ordered=o.split == "ordered", groups=self.source.group,
        )  # fmt: skip

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Return the inputs of these rows, shape (n, \\*input_shape)."""
        return np.asarray(self.source.X[rows])

    def weights(self, rows: np.ndarray) -> np.ndarray | None:
        """Return what these rows count; None where all count the same."""
        return None if self.source.weights is None else self.source.weights[rows]

    def passed_over(self, fit: Any) -> list[str]:
        """Return a note on a method that takes no weights where there are some."""
        unused = self.source.weights is not None and not taken(fit, sample_weight=None)
        return [f"Trained without the weights: its {fit.__name__} takes no sample_weight."] if unused else []


class LabelledProblem(TrainingProblem):
    """Base of the problems on labelled data: it loads them, makes the classifier, and fits it to a seed's split.

    A subclass has ``options_class`` (with :class:`LabelledOptions` as a base), ``data_class``, baselines and
    :meth:`test`, whose metrics count rows by :meth:`LabelledSet.weights`; it checks in :meth:`fit_options` what can be
    checked only against the data.
    """

    needs: ClassVar[tuple[str, ...]] = ("fit(X, y)", "predict_proba(X)")
    data_class: ClassVar[type[LabelledSet]]
    #: Whether its data may have several labels a row.
    several: ClassVar[bool] = False
    #: What a built-in name stands for here.
    builtin: ClassVar[dict[str, str]] = {}

    def load(self, source: Any, **options: Any) -> Any:
        """Return the inputs with checked options; ``source`` as in :func:`anytask.datasets.labelled.load_labelled`."""
        checked = self.check_options(options)
        source = self.builtin.get(source, source) if isinstance(source, str) else source
        labelled = load_labelled(source, several=self.several, **taken(load_labelled, **checked.as_dict()))
        check_groups(labelled)
        try:
            settled, notes = self.fit_options(checked, labelled)
        except ValueError as error:
            message = str(error)
            raise BadData(message if message.startswith(labelled.name) else f"{labelled.name}: {message}") from error
        if labelled.weights is not None:
            notes += (f"Rows count as {checked.weights} says, in every metric and where training takes sample_weight.",)
        return self.data_class(labelled, settled, notes)

    def fit_options(self, options: Any, labelled: LabelledData) -> tuple[Any, tuple[str, ...]]:
        """Return options that fit the data, and notes on what was settled; a ``ValueError`` says why they do not."""
        return options, ()

    def refuses(self, entrant: Entrant, data: Any) -> str | None:
        """Refuse classes that cannot learn from inputs of this shape, or where some are missing."""
        if reason := super().refuses(entrant, data):
            return reason
        if hasattr(entrant.load(), "check_shape"):
            try:
                entrant.make("small").check_shape(data.source.input_shape)
            except ValueError as error:
                return f"{error}."
        if not data.source.has_missing:
            return None
        model = entrant.make("small")  # scikit-learn's tags say who reads NaN
        reads = hasattr(model, "__sklearn_tags__") and model.__sklearn_tags__().input_tags.allow_nan
        return None if reads else f"{entrant.name} cannot read missing inputs: fill them in (missing=impute)."

    def train(self, entrant: Entrant, data: Any, seed: int, progress: Progress) -> Any:
        """Fit a classifier to the training rows; a preset ``small`` is taken where the entrant names none."""
        rows, _ = data.split(seed)
        model = entrant.make("small", seed=seed, random_state=seed)
        return self.fit(model, data, rows, progress)

    def fit(self, model: Any, data: Any, rows: np.ndarray, progress: Progress, **offered: Any) -> Any:
        """Fit a model to these rows, with those of the offered arguments that its ``fit`` takes."""
        known = taken(model.fit, progress=progress, sample_weight=data.weights(rows), **offered)
        model.fit(data.inputs(rows), data.source.y[rows], **known)
        return model


def pretrained_here(input_shape: tuple[int, ...]) -> bool:
    """Return whether EfficientNet-lite0 with its ImageNet weights is here, and reads inputs of this shape."""
    real = REAL["efficientnet-lite0"]
    return len(input_shape) == 3 and input_shape[0] in (1, 3) and real.is_here and real.lacking() is None


def usable(
    entrant: Entrant,
    model: Any,
    labelled: LabelledData,
    statistics: tuple[np.ndarray, np.ndarray] | None = None,
    told: str = "",
) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Return what is saved beside each other so that a model can be used, and the lines of Python that use it.

    Parameters
    ----------
    entrant, model
        The classifier, trained.
    labelled : LabelledData
        What it learned from: new data become inputs in the same way.
    statistics : (mean, std), optional
        What inputs were standardised by.
    told : str
        Further arguments of ``predict``, as ", task=0".
    """
    load = f'{entrant.class_name}.load("{{folder}}")'
    if statistics is None and labelled.kind != "images" and (not labelled.feature_names or labelled.name in BUILTIN):
        low, high = labelled.value_range
        shape = ", ".join(map(str, labelled.input_shape))
        about = f"numbers from {low:g} to {high:g} of shape (n, {shape}), as in {labelled.name}"
        return (model,), (entrant.import_line, f"model = {load}", f"labels = model.predict(X{told})  # X: {about}")
    inputs = Inputs.of(labelled, statistics)
    return (model, inputs), (
        entrant.import_line,
        "from anytask.datasets.inputs import Inputs",
        f'model, inputs = {load}, Inputs.load("{{folder}}")',
        f"labels = model.predict(inputs(X){told})  # X: {inputs.wanted}",
    )
