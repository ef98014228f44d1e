"""Labelled bags of vectors in several views: what an encoder is shown of them, and whom it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.datasets.bags import LabelledBags, is_bags, load_bags
from anytask.datasets.labels import as_labels, check_classes
from anytask.problems.base import Entrant
from anytask.problems.frozen_features.data import OtherFeaturesData
from anytask.problems.splits import check_groups

_BASELINES = "anytask.pretrain.bag_baselines"


def read_labelled_bags(source: Any) -> LabelledBags | None:
    """Return labelled bags, or None for what holds no bags.

    Parameters
    ----------
    source : any
        A name, a file or a folder, see :func:`~anytask.datasets.bags.load_bags`; or a tuple (views, y) or (views, y,
        group) of a mapping of bags by view, as :func:`~anytask.pretrain.parts.bags.read_views` takes it, and arrays.

    Raises
    ------
    BadData
        For bags that cannot be used.
    """
    from anytask.pretrain.parts.bags import read_views

    if is_bags(source):
        return load_bags(source)
    if not (isinstance(source, tuple) and len(source) in (2, 3) and isinstance(source[0], Mapping)):
        return None
    try:
        views = read_views(source[0])
    except (TypeError, ValueError) as error:
        raise BadData(str(error)) from error
    n, anchor = len(next(iter(views.values()))), next(iter(views))
    named = [as_labels(np.asarray(values), "bags", name) for name, values in zip(("label", "group"), source[1:])]
    if wrong := [values.shape for values in named if values.shape != (n,)]:
        raise BadData(f"bags: there are {n} cases, and labels or groups of shape {wrong[0]}")
    check_classes(named[0], "bags", "label")
    if not bool(views[anchor].present.all()):
        case = int((~views[anchor].present).nonzero()[0])
        raise BadData(f"bags: case {case} has no bag of the first view {anchor!r}, and every case needs one")
    found = {
        name: tuple(bag.numpy() if len(bag) else None for bag in bags.tokens.split(bags.lengths.tolist()))
        for name, bags in views.items()
    }
    return LabelledBags("bags", found, named[0], named[1] if len(named) > 1 else None)


class BagFeaturesData(OtherFeaturesData):
    """Labelled cases, of which an encoder learns from all views, and is judged on the anchor alone."""

    source: LabelledBags  # type: ignore[assignment]
    kind: ClassVar[str] = "bags"

    def settled(self) -> tuple[str, ...]:
        """Say on which view encoders are judged."""
        if self.source.group is not None:
            check_groups(self.source)  # type: ignore[arg-type]
        views = list(self.source.views)
        return (f"Encoders learn from {len(views)} views, and are judged on the anchor {views[0]!r} alone.",)

    def facts(self) -> dict[str, Any]:
        """Return how many cases have which view, how long bags are, and the classes with their sizes."""
        source = self.source
        classes, counts = np.unique(source.y, return_counts=True)
        lengths = [len(bag) for bags in source.views.values() for bag in bags if bag is not None]
        return {
            "kind": self.kind,
            "cases": len(source.y),
            "views": {name: sum(bag is not None for bag in bags) for name, bags in source.views.items()},
            "tokens": [min(lengths), max(lengths)],
            "features": next(bag.shape[1] for bag in next(iter(source.views.values()))),
            "classes": {str(c): int(n) for c, n in zip(classes.tolist(), counts)},
        }

    def inputs(self, rows: np.ndarray) -> Any:
        """Return the bags of these cases by view."""
        return {name: [bags[row] for row in rows] for name, bags in self.source.views.items()}

    def features(self, model: Any, rows: np.ndarray) -> np.ndarray:
        """Return the features of these cases' anchors, shape (n, d)."""
        anchor = next(iter(self.source.views.values()))
        return np.asarray(model.transform([anchor[row] for row in rows]), dtype=np.float64)

    def baselines(self) -> list[Entrant]:
        """Return what there is of means and largest values, and an attention network that never learned."""
        listed = {"mean pooling": "MeanPooling", "max pooling": "MaxPooling", "principal components": "PCAMeans"}
        listed["prototypes"] = "PrototypePooling"
        if len(self.source.views) > 1:
            listed["canonical correlations"] = "MeanCCA"
        found = [Entrant(name, f"{_BASELINES}:{cls}", {}, "baseline") for name, cls in listed.items()]
        return [*found, Entrant("random encoder", "anytask.pretrain:MADELEINE", {"epochs": 0}, "baseline")]

    def usable(self, entrant: Entrant, model: Any) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        """Return the encoder, and the lines of Python that use it."""
        wanted = f"a list of arrays (tokens, {model.n_features_in_}) of the view {model.views_[0]!r}"
        return (model,), (
            entrant.import_line,
            f'model = {entrant.class_name}.load("{{folder}}")',
            f"features = model.transform(bags)  # bags: {wanted}",
        )
