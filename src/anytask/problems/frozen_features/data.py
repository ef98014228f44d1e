"""The data of frozen-features: labelled inputs, whose labels are for the probe alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import attrs
import numpy as np

from anytask.core.errors import BadData
from anytask.core.settings import choice, whole
from anytask.datasets.inputs import Inputs
from anytask.problems.base import Entrant
from anytask.problems.labelled import LabelledSet, SplitOptions, pretrained_here
from anytask.problems.options import listed
from anytask.problems.splits import split_rows

_BASELINES = "anytask.pretrain.baselines"
#: Numbers of labels of each class, where nobody says them.
SHOTS = (1, 10, 100)


class FrozenFeaturesOptions(SplitOptions):
    """How many labels the probe sees, and how often they are drawn."""

    shots: tuple[int, ...] | None = listed("labels of each class that the probe sees (1,10,100)", int, at_least=1)
    draws: int = whole(5, "draws of the labels, for each number of them")
    featureless: str = choice(
        "ones", ("ones", "identity"), "graphs whose nodes have no features: ones, or each node is its own (nodes only)"
    )
    predict: str = choice(
        "labels", ("labels", "links"), "graphs: what the probe tells, labels, or edges that encoders never saw"
    )


@dataclass(frozen=True)
class FrozenFeaturesData(LabelledSet):
    """Labelled inputs, whose labels are for the probe alone.

    Data of another kind have a class with these methods of their own.
    """

    #: What its inputs are, as :attr:`~anytask.pretrain.PretrainEstimator.takes` says it.
    kind: ClassVar[str] = "arrays"

    def drawn(self, seed: int) -> Any:
        """Return the data of a run with this seed, where rows and labels are drawn by it; else the same for all."""
        return self

    def shown(self, rows: np.ndarray) -> Any:
        """Return what an encoder learns from."""
        return self.inputs(rows)

    def features(self, model: Any, rows: np.ndarray) -> np.ndarray:
        """Return the features that a fitted encoder gives these rows, shape (n, d)."""
        return np.asarray(model.transform(self.inputs(rows)), dtype=np.float64).reshape(len(rows), -1)

    def baselines(self) -> list[Entrant]:
        """Return the values, their principal components, a random encoder, and for images a real one if fetched."""
        shape = self.source.input_shape
        images = len(shape) == 3 and shape[0] in (1, 3)
        random = {"backbone": "small_cnn", "n_features": 64} if images else {}
        found = [
            Entrant("raw features", f"{_BASELINES}:RawFeatures", {}, "baseline"),
            Entrant("principal components", f"{_BASELINES}:PCAFeatures", {}, "baseline"),
            Entrant("10 principal components", f"{_BASELINES}:PCAFeatures", {"n_components": 10}, "baseline"),
            Entrant("random encoder", f"{_BASELINES}:RandomEncoder", random, "baseline"),
        ]
        if pretrained_here(shape):
            found.append(Entrant("efficientnet-lite0", f"{_BASELINES}:PretrainedEncoder", {}, "baseline"))
        return found

    def usable(self, entrant: Entrant, model: Any) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        """Return what is saved so that an encoder can be used, and the lines of Python that use it."""
        inputs = Inputs.of(self.source)
        return (model, inputs), (
            entrant.import_line,
            "from anytask.datasets.inputs import Inputs",
            f'model, inputs = {entrant.class_name}.load("{{folder}}"), Inputs.load("{{folder}}")',
            f"features = model.transform(inputs(X))  # X: {inputs.wanted}",
        )


class OtherFeaturesData(FrozenFeaturesData):
    """Base of what is not rows of an array: it has few of the options, and every row counts the same."""

    #: Options that these data have; others may not be given.
    reads: ClassVar[tuple[str, ...]] = ("shots", "draws", "split", "test_size", "max_per_class")

    @classmethod
    def checked(cls, source: Any, options: Any) -> Self:
        """Return data with options that fit them; a :class:`BadData` says why they do not."""
        data = cls(source, options)
        try:
            for field in attrs.fields(type(options)):
                if field.name not in cls.reads and getattr(options, field.name) != field.default:
                    raise ValueError(f"{field.name} is for other data, and these are {cls.kind}")
            notes = data.settled()
            once = data.drawn(0)
            settled, left_out = fitted_shots(options, once.source.y[once.split(0)[0]])
        except ValueError as error:
            raise BadData(str(error) if isinstance(error, BadData) else f"{source.name}: {error}") from error
        return replace(data, options=settled, notes=(*left_out, *notes))

    def settled(self) -> tuple[str, ...]:
        """Return notes on what encoders are shown; a ``ValueError`` says why the options do not fit the data."""
        return ()

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train on and those to test on; they depend on the seed alone."""
        o, groups = self.options, getattr(self.source, "group", None)
        return split_rows(
            self.source.y, None, o.test_size, o.max_per_class, seed, ordered=o.split == "ordered", groups=groups
        )

    def weights(self, rows: np.ndarray) -> None:
        """Return None: all count the same."""


def fitted_shots(options: FrozenFeaturesOptions, y: np.ndarray) -> tuple[FrozenFeaturesOptions, tuple[str, ...]]:
    """Return options with the numbers of labels that every class has, and a note if some were left out.

    Raises
    ------
    ValueError
        If numbers were asked for, and a class has fewer labels.
    """
    classes, counts = np.unique(y, return_counts=True)
    least = int(counts.min())
    if options.shots is not None:
        if (most := max(options.shots)) > least:
            rare = classes[counts.argmin()].item()
            raise ValueError(f"class {rare!r} has {least} rows for training, not {most}: lower shots or test_size")
        return options.evolve(shots=tuple(sorted(set(options.shots)))), ()
    kept = tuple(shots for shots in SHOTS if shots <= least)
    left_out = [str(shots) for shots in SHOTS if shots > least]
    notes = (f"No class is probed with {' or '.join(left_out)} labels: one has {least} rows for training.",)
    return options.evolve(shots=kept), notes if left_out else ()
