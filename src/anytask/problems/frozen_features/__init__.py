"""Frozen features: which encoder that learns without labels gives features with which few labels go far?"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from anytask.core.progress import heard
from anytask.core.settings import taken
from anytask.datasets.labelled import LabelledData
from anytask.problems.base import Entrant, Metric, Outcome, Trained, finished
from anytask.problems.frozen_features.bags import BagFeaturesData, read_labelled_bags
from anytask.problems.frozen_features.data import FrozenFeaturesData, FrozenFeaturesOptions, fitted_shots
from anytask.problems.frozen_features.graphs import GraphFeaturesData, read_labelled
from anytask.problems.frozen_features.links import LinkFeaturesData
from anytask.problems.frozen_features.probe import probe
from anytask.problems.labelled import LabelledProblem
from anytask.problems.training import Progress


class FrozenFeatures(LabelledProblem):
    """Learn features without labels, freeze them, and let a plain model with few labels judge them.

    An encoder is fitted to the training inputs, without their labels. Then a logistic regression and nearest neighbors
    learn from the features of a few labelled rows (``shots=1,10,100`` of each class, drawn ``draws`` times), and are
    tested on rows that the encoder never saw; of one graph it sees all nodes. The values themselves, their principal
    components (of graphs: degrees and eigenvectors; of bags: means, and what the views' means have in common) and an
    encoder that never learned always take part: features that are not better are not worth their training.

    With ``predict=links`` the rows are pairs of nodes, with an edge or without: edges are taken out of the graphs
    before an encoder sees them (:class:`~anytask.problems.frozen_features.links.LinkFeaturesData`).

    Metrics
    -------
    * ``accuracy`` of the logistic regression, mean over the numbers of labels (ranks);
    * ``few``, ``many``: with the fewest and the most labels;
    * ``neighbors``: accuracy of the nearest neighbors, mean over the numbers of labels;
    * ``auc``: of two classes, area under the ROC curve of the logistic regression, mean over the numbers of labels.

    Examples
    --------
    >>> problem = FrozenFeatures()
    >>> data = problem.load("digits", shots="1,10", draws=2)
    >>> raw = problem.run(problem.baselines(data)[0], data, seed=0).metrics
    >>> 0.5 < raw["few"] < raw["accuracy"] < raw["many"]
    True
    """

    key: ClassVar[str] = "frozen-features"
    title: ClassVar[str] = "Frozen features"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Accuracy of a logistic regression, mean over the numbers of labels"),
        Metric("few", "Accuracy with the fewest labels"),
        Metric("many", "Accuracy with the most labels"),
        Metric("neighbors", "Accuracy of the nearest neighbors"),
        Metric("auc", "Area under the ROC curve of the logistic regression"),
    )
    needs: ClassVar[tuple[str, ...]] = ("fit(X)", "transform(X)")
    options_class = FrozenFeaturesOptions
    data_class = FrozenFeaturesData
    builtin: ClassVar[dict[str, str]] = {"digits": "digits-images"}

    def fit_options(
        self, options: FrozenFeaturesOptions, labelled: LabelledData
    ) -> tuple[FrozenFeaturesOptions, tuple[str, ...]]:
        """Keep the numbers of labels that every class has among its training rows."""
        if options.predict == "links":
            raise ValueError("predict=links is for graphs")
        train, _ = FrozenFeaturesData(labelled, options).split(0)
        return fitted_shots(options, labelled.y[train])

    def load(self, source: Any, **options: Any) -> Any:
        """Return labelled inputs, graphs or bags of vectors, with checked options.

        Parameters
        ----------
        source
            As in :func:`anytask.datasets.labelled.load_labelled`; or graphs, as
            :func:`anytask.problems.frozen_features.graphs.read_labelled` reads them; or bags, as
            :func:`anytask.problems.frozen_features.bags.read_labelled_bags` does.
        """
        checked = self.check_options(options)
        if (bags := read_labelled_bags(source)) is not None:
            return BagFeaturesData.checked(bags, checked)
        links = checked.predict == "links"
        if (graphs := read_labelled(source, labelled=not links)) is None:
            return super().load(source, **options)
        return (LinkFeaturesData if links else GraphFeaturesData).checked(graphs, checked)

    def baselines(self, data: Any) -> tuple[Entrant, ...]:
        """Return what everybody has for data of this kind, an encoder that never learned among them."""
        return tuple(entrant for entrant in data.baselines() if self.refuses(entrant, data) is None)

    def refuses(self, entrant: Entrant, data: Any) -> str | None:
        """Refuse encoders of inputs of another kind."""
        if reason := super().refuses(entrant, data):
            return reason
        takes = getattr(entrant.load(), "takes", data.kind)
        kinds = {data.kind, "images"} if len(data.source.input_shape) == 3 else {data.kind}
        return None if takes in kinds else f"{entrant.name} learns from {takes}, and here are {data.kind}."

    def train(self, entrant: Entrant, data: Any, seed: int, progress: Progress) -> Any:
        """Fit an encoder to the training inputs."""
        data = data.drawn(seed)
        return _fitted(entrant, data, data.split(seed)[0], seed, progress)

    def refit(self, entrant: Entrant, data: Any, seed: int, progress: Progress | None = None) -> Trained:
        """Fit an encoder to all inputs."""
        model = _fitted(entrant, data, np.arange(len(data.source.y)), seed, heard(progress))
        parts, usage = data.usable(entrant, model)
        return Trained(parts, usage, (*data.source.notes, *data.notes))

    def test(self, entrant: Entrant, trained: Any, data: Any, seed: int, progress: Progress) -> Outcome:
        """Probe the features of the test inputs."""
        data = data.drawn(seed)
        rows, test = data.split(seed)
        F, F_test, y = data.features(trained, rows), data.features(trained, test), data.source.y
        weights, times = data.weights(test), data.options.draws
        curve = {}
        for place, shots in enumerate(data.options.shots, start=1):
            curve[shots] = probe(F, y[rows], F_test, y[test], shots, weights=weights, times=times, seed=seed)
            progress(place / len(data.options.shots))
        logistic = [found["logistic"] for found in curve.values()]
        metrics = {
            "accuracy": float(np.mean(logistic)),
            "few": logistic[0],
            "many": logistic[-1],
            "neighbors": float(np.mean([found["knn"] for found in curve.values()])),
        }
        if ranked := [found["auc"] for found in curve.values() if "auc" in found]:
            metrics["auc"] = float(np.mean(ranked))
        details = {"curve": {str(shots): found["logistic"] for shots, found in curve.items()}}
        cost = {"labels": float(max(data.options.shots) * len(np.unique(y))), "features": float(F.shape[1])}
        return Outcome(metrics, details, cost)

    def figures(self, data: Any, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return accuracy against the number of labels."""
        import plotly.graph_objects as go

        lines = []
        for name, mine in finished(runs).items():
            curves = [run.details["curve"] for run in mine]
            lines.append(go.Scatter(x=[int(s) for s in curves[0]], name=name, mode="lines+markers",
                                    y=[float(np.mean([curve[s] for curve in curves])) for s in curves[0]]))  # fmt: skip
        figure = go.Figure(lines)
        figure.update_xaxes(title="labels of each class", type="log")
        figure.update_yaxes(title="accuracy")
        return [("Accuracy by the number of labels", "Logistic regression on frozen features.", figure)] * bool(lines)


def _fitted(entrant: Entrant, data: Any, rows: np.ndarray, seed: int, progress: Progress) -> Any:
    model = entrant.make("small", seed=seed, random_state=seed)
    model.fit(data.shown(rows), **taken(model.fit, progress=progress))
    return model
