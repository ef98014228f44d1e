"""The base of the problems on labelled data: it leaves a problem its split, its baselines and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.settings import choice, of_kind, text
from anytask.datasets.builtin import BUILTIN
from anytask.datasets.inputs import Inputs
from anytask.datasets.labelled import MISSING, LabelledData, load_labelled
from anytask.problems.base import Entrant
from anytask.problems.options import Options
from anytask.problems.training import LoadedData, Progress, TrainingProblem, taken

READING = ("image_size", "missing", "missing_marks", "categorical", "decimal")


class LabelledOptions(Options):
    """How labelled data are read."""

    read_only: ClassVar[tuple[str, ...]] = ("target", *READING)

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

    def reading(self) -> dict[str, Any]:
        """Return what :func:`anytask.datasets.labelled.load_labelled` is told beside target and task."""
        return {name: getattr(self, name) for name in READING}


@dataclass(frozen=True)
class LabelledSet(LoadedData):
    """Labelled inputs; a subclass says how a seed splits them."""

    source: LabelledData

    def facts(self) -> dict[str, Any]:
        """Return the number of examples, their shape, and the classes with their sizes."""
        classes, counts = np.unique(self.source.y, return_counts=True)
        return {
            "kind": self.source.kind,
            "examples": len(self.source.y),
            "input_shape": list(self.source.input_shape),
            "classes": {str(c): int(n) for c, n in zip(classes.tolist(), counts)},
        }

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train on and those to test on; they depend on the seed alone."""
        raise NotImplementedError

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Return the inputs of these rows, shape (n, \\*input_shape)."""
        return np.asarray(self.source.X[rows])


class LabelledProblem(TrainingProblem):
    """Base of the problems on labelled data: it loads them, makes the classifier, and fits it to a seed's split.

    A subclass has ``options_class`` (with :class:`LabelledOptions` as a base), ``data_class``, baselines and
    :meth:`test`; it checks in :meth:`fit_options` what can be checked only against the data.
    """

    data_class: ClassVar[type[LabelledSet]]
    #: What a built-in name stands for here.
    builtin: ClassVar[dict[str, str]] = {}

    def load(self, source: Any, **options: Any) -> Any:
        """Return the inputs with checked options; ``source`` as in :func:`anytask.datasets.labelled.load_labelled`."""
        checked = self.check_options(options)
        source = self.builtin.get(source, source) if isinstance(source, str) else source
        labelled = self.read(source, checked)
        try:
            return self.data_class(labelled, *self.fit_options(checked, labelled))
        except ValueError as error:
            message = str(error)
            raise BadData(message if message.startswith(labelled.name) else f"{labelled.name}: {message}") from error

    def read(self, source: Any, options: Any) -> LabelledData:
        """Return what the source holds."""
        return load_labelled(source, options.target, **options.reading())

    def fit_options(self, options: Any, labelled: LabelledData) -> tuple[Any, tuple[str, ...]]:
        """Return options that fit the data, and notes on what was settled; a ``ValueError`` says why they do not."""
        return options, ()

    def refuses(self, entrant: Entrant, data: Any) -> str | None:
        """Refuse classes that do not learn to classify, or not from inputs of this shape."""
        cls = entrant.load()
        if not (hasattr(cls, "fit") and hasattr(cls, "predict_proba")):
            return f"{entrant.name} has no fit and predict_proba."
        if hasattr(cls, "check_shape"):
            try:
                entrant.make("small").check_shape(data.source.input_shape)
            except ValueError as error:
                return f"{error}."
        return refuses_missing(entrant, data)

    def train(self, entrant: Entrant, data: Any, seed: int, progress: Progress) -> Any:
        """Fit a classifier to the training rows; a preset ``small`` is taken where the entrant names none."""
        rows, _ = data.split(seed)
        model = entrant.make("small", seed=seed, random_state=seed)
        return self.fit(model, data, rows, progress)

    def fit(self, model: Any, data: Any, rows: np.ndarray, progress: Progress, **offered: Any) -> Any:
        """Fit a model to these rows, with those of the offered arguments that its ``fit`` takes."""
        known = taken(model.fit, progress=progress, **offered)
        model.fit(data.inputs(rows), data.source.y[rows], **known)
        return model


def refuses_missing(entrant: Entrant, data: LabelledSet) -> str | None:
    """Return why an entrant cannot take part where inputs are missing, or None: scikit-learn's tags say who can."""
    if not data.source.has_missing:
        return None
    model = entrant.make("small")
    reads = hasattr(model, "__sklearn_tags__") and model.__sklearn_tags__().input_tags.allow_nan
    return None if reads else f"{entrant.name} cannot read missing inputs: fill them in (missing=impute)."


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
