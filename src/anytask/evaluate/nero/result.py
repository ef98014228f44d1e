"""What NERO found: values on orbits, their summaries, a look at single samples and elements, and saving."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from anytask.evaluate.base import Result
from anytask.evaluate.nero.adapters import to_numpy
from anytask.evaluate.nero.metrics import Task, error_maps
from anytask.evaluate.nero.outputs import move_targets
from anytask.evaluate.nero.records import Detail, ElementView, Failure, ModelPart, SampleOrbit
from anytask.evaluate.nero.saving import SAVED_AS, arguments_of, tree_of
from anytask.evaluate.nero.summary import along_orbits, nanmean, sample_table, summary_table
from anytask.evaluate.parts.transforms import Transforms

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["NeroResult"]

Reference = Literal["truth", "consensus"]


class NeroResult(Result):
    """The outcome of :meth:`anytask.evaluate.nero.NERO.evaluate`.

    Made by NERO and by :meth:`load`, not by hand. Wherever ``metric`` is left out, the task's first is meant; where
    ``reference`` is left out, the truth if there are labels, else the consensus.

    Attributes
    ----------
    group : Transforms
        The m elements.
    task : str
        "classification", "detection", "field" or "regression".
    kind : str
        The kind of output that psi acts on.
    models : tuple of str
        Names of the models.
    metrics : dict of NeroMetric
        What was measured, by key.
    references : tuple of str
        "truth", "consensus", or both.
    X, y : array
        The samples and their labels (None without).
    classes : dict
        Model -> labels of the columns of class outputs (None for other tasks).
    consensus : dict
        Model -> :class:`~anytask.evaluate.nero.consensus.Consensus`; empty without.
    failures : list of Failure
        Samples left out.
    seconds : float
        Time the evaluation took.
    """

    def __init__(
        self,
        *,
        group: Transforms,
        task: Task,
        X: Any,
        y: Any,
        shape: tuple[int, int],
        parts: Mapping[str, ModelPart],
        failures: Sequence[Failure],
        seconds: float,
    ) -> None:
        self.group, self._task, self.X, self.y, self.shape = group, task, X, y, shape
        self._parts = dict(parts)
        self.failures, self.seconds = list(failures), float(seconds)
        self.task, self.kind, self.metrics = task.key, task.kind, task.metrics
        self.models = tuple(self._parts)
        first = next(iter(self._parts.values()))
        self.references: tuple[str, ...] = tuple(
            r for r in ("truth", "consensus") if any(k[0] == r for k in first.values)
        )
        self.classes = {name: part.reading.classes for name, part in self._parts.items()}
        self.consensus = {name: part.consensus for name, part in self._parts.items() if part.consensus is not None}
        self._maps: dict[tuple[str, str, str], tuple[np.ndarray, str]] = {}
        self._place = np.searchsorted(group.distinct, group.representative)  # element -> row among the different ones

    def __len__(self) -> int:
        return next(iter(next(iter(self._parts.values())).values.values())).shape[1]

    def __repr__(self) -> str:
        return (
            f"NeroResult({self.task}, models={list(self.models)}, {len(self.group)} elements x {len(self)} samples, "
            f"references={list(self.references)}, failures={len(self.failures)})"
        )

    # -- values ---------------------------------------------------------------------------------------------------

    def values(self, metric: str | None = None, reference: str | None = None) -> np.ndarray:
        """Return E, shape (models, m, n); NaN where a sample failed or the metric is undefined."""
        key = self._key(metric, reference)
        return np.stack([part.values[key][self._place] for part in self._parts.values()])

    def select(self, sample: int, reference: str | None = None) -> SampleOrbit:
        """Return one sample along its orbit."""
        i = self._sample(sample)
        values = {metric: self.values(metric, reference)[:, :, i] for metric in self.metrics}
        label = None if self.y is None else self.y[i]
        return SampleOrbit(i, label, values, self.per_sample(reference=reference, samples=[i]).droplevel("sample"))

    def at(self, *coords: float, index: int | None = None, reference: str | None = None) -> ElementView:
        """Return all samples under the element nearest to the coordinates, or of the given index."""
        k = self.element(*coords, index=index)
        values = {metric: self.values(metric, reference)[:, k] for metric in self.metrics}
        return ElementView(k, self.group.labels[k], values)

    def element(self, *coords: float, index: int | None = None) -> int:
        """Return the index of the element nearest to the coordinates (default: the identity, else the first)."""
        if index is not None:
            if not -len(self.group) <= index < len(self.group):
                raise ValueError(f"there are {len(self.group)} elements, got index {index}")
            return index % len(self.group)
        return self.group.nearest(coords) if coords else (self.group.identity or 0)

    def top(
        self,
        k: int,
        by: Literal["mean", "variance"] = "mean",
        *,
        metric: str | None = None,
        model: str | None = None,
        reference: str | None = None,
        largest: bool = True,
    ) -> list[int]:
        """Return the k samples whose orbits have the largest (or smallest) mean or variance, for one model."""
        if by not in ("mean", "variance"):
            raise ValueError(f"by must be 'mean' or 'variance', got {by!r}")
        values = self.intensity(by, metric, reference)[self._model(model)]
        good = np.flatnonzero(np.isfinite(values))
        order = np.argsort(-values[good] if largest else values[good], kind="stable")
        return good[order][:k].tolist()

    def intensity(
        self, by: Literal["mean", "variance"] = "mean", metric: str | None = None, reference: str | None = None
    ) -> np.ndarray:
        """Return the mean or the variance of every sample's orbit, shape (models, n)."""
        mean, std, *_ = along_orbits(self.values(metric, reference), self.group.weights, True)
        return mean if by == "mean" else std**2

    def reduce(
        self, method: str = "pca", metric: str | None = None, reference: str | None = None
    ) -> tuple[np.ndarray, str]:
        """Place the samples in the plane by their orbits: points (models, n, 2) in [-1, 1], and a notice or "".

        All models are placed together, by the different elements of the orbit only; see
        :func:`anytask.evaluate.nero.reduction.reduce_orbits`.
        """
        from anytask.evaluate.nero.reduction import reduce_orbits

        key = (method, *self._key(metric, reference))
        if key not in self._maps:
            orbits = np.concatenate([part.values[key[1:]].T for part in self._parts.values()]).astype(float)
            means = nanmean(orbits, axis=1)
            orbits = np.where(np.isnan(orbits), means[:, None], orbits)  # undefined elements say nothing
            reduction = reduce_orbits(orbits, method)
            self._maps[key] = reduction.points.reshape(len(self.models), -1, 2), reduction.notice
        return self._maps[key]

    def rows(self, subset: Any = None, class_: Any = None, model: str | None = None) -> np.ndarray:
        """Return the indices of a subset, of a class, or of all samples.

        The class is the true label, or, without labels, the consensus of the model; for detections, a sample counts
        for every class that it has a true box of.
        """
        chosen = np.arange(len(self)) if subset is None else np.arange(len(self))[np.asarray(subset)]
        if class_ is None:
            return chosen
        labels = self.labels(model)
        mine = np.array([class_ in (row if isinstance(row, set) else {row}) for row in labels])
        if not mine.any():
            raise ValueError(f"no sample has class {class_!r}")
        return chosen[mine[chosen]]

    def labels(self, model: str | None = None) -> list[Any]:
        """Return each sample's true class, or its consensus class without labels; a set of them for detections."""
        part = list(self._parts.values())[self._model(model)]
        if self.task == "detection":
            rows = part.truth if part.truth is not None else part.consensus.value  # type: ignore[union-attr]
            return [set(row["labels"].tolist()) for row in rows]
        if self.task != "classification":
            raise ValueError(f"{self.task} has no classes")
        assert part.reading.classes is not None
        names = part.reading.classes.tolist()
        if part.truth is not None:
            return [names[code] for code in part.truth]
        assert part.consensus is not None
        finite = np.isfinite(part.consensus.value).all(axis=1)
        return [names[c] if ok else None for c, ok in zip(np.nan_to_num(part.consensus.value).argmax(axis=1), finite)]

    def truth(self, model: str | None = None) -> Any:
        """Return the true labels in the form of the outputs, or None without labels.

        Classes are given as columns of the model's outputs, shape (n,); detections as one dict per sample; fields and
        numbers as arrays (n, ...). Positions are those in what the models see.
        """
        return list(self._parts.values())[self._model(model)].truth

    def class_names(self) -> list[Any]:
        """Return the classes that occur among the samples, sorted; [] for tasks without classes."""
        if self.task not in ("classification", "detection"):
            return []
        found: set[Any] = set()
        for row in self.labels():
            found |= row if isinstance(row, set) else {row}
        return sorted(found - {None}, key=lambda name: (str(type(name)), name))

    def aggregate(
        self, metric: str | None = None, reference: str | None = None, *, subset: Any = None, class_: Any = None
    ) -> np.ndarray:
        """Return the aggregate curve, shape (models, m): the mean over samples, or mAP over all of them.

        Parameters
        ----------
        metric, reference : str, optional
            Which values.
        subset : index array or mask, optional
            Samples to average over.
        class_ : label, optional
            Class to average over; see :meth:`rows`.
        """
        key = self._key(metric, reference)
        curves = []
        for name, part in self._parts.items():
            rows = self.rows(subset, class_, name)
            if key[1] == "map":
                curve = np.array([matches.map_of(rows) for matches in part.matches[key[0]]])
            else:
                curve = nanmean(part.values[key][:, rows], axis=1)
            curves.append(curve[self._place])
        return np.stack(curves)

    # -- summaries --------------------------------------------------------------------------------------------------

    def summary(self, *, subset: Any = None, class_: Any = None) -> pd.DataFrame:
        """Return one row per model, reference and metric.

        ``identity``, ``mean``, ``worst`` and ``gap`` are those of the aggregate curve: its value at the identity, its
        mean over the orbit, its worst element, and largest minus smallest. ``sample_std``, ``sample_worst`` and
        ``sample_gap`` are taken along each sample's own orbit and then averaged over samples. ``residual``,
        ``agreement`` and ``coverage`` are those of the consensus; ``consensus_correct`` is the share of samples whose
        consensus class is the true one.
        """
        return summary_table(self, subset, class_)

    def table(self) -> pd.DataFrame:
        """Return :meth:`summary` over all samples."""
        return self.summary()

    def per_sample(
        self, metric: str | None = None, reference: str | None = None, *, samples: Sequence[int] | None = None
    ) -> pd.DataFrame:
        """Return one row per model and sample: mean, std, worst and gap along the orbit, and the consensus."""
        reference, metric = self._key(metric, reference)
        chosen = np.arange(len(self)) if samples is None else np.array([self._sample(i) for i in samples])
        return sample_table(self, metric, reference, chosen)

    # -- one sample under one element -------------------------------------------------------------------------------

    def detail(self, sample: int, *coords: float, index: int | None = None) -> Detail:
        """Return one sample under one element: input, outputs, truth and consensus, moved with the input.

        Raises
        ------
        ValueError
            If the outputs were not kept and the result was loaded without models.
        """
        i, k = self._sample(sample), self.element(*coords, index=index)
        g = self.group.elements[k]
        x = self.group.phi(g, np.asarray(self.X[i : i + 1]))
        outputs, consensus, maps = {}, {}, {}
        truth = None
        failed = {(f.model, f.sample) for f in self.failures}
        for name, part in self._parts.items():
            if part.truth is not None and truth is None:
                truth = self._moved(g, part.truth[i], part)
            if (name, i) in failed:
                continue
            outputs[name] = self._output(name, i, k, x)
            if part.consensus is not None:
                value = part.consensus.value[i]
                consensus[name] = self._moved(g, int(value.argmax()) if self.task == "classification" else value, part)
            target = truth if truth is not None else consensus.get(name)
            if self.task == "field" and target is not None:
                found = error_maps(np.asarray(outputs[name])[None], np.asarray(target)[None])
                maps[name] = {key: found[key][0] for key in found}
        return Detail(i, k, self.group.labels[k], x[0], outputs, truth, consensus, maps)

    def _moved(self, g: Any, target: Any, part: ModelPart) -> Any:
        if self.task == "classification":
            assert part.reading.classes is not None
            return part.reading.classes.tolist()[int(target)]
        if self.kind == "invariant":
            return target
        one = [target] if self.task == "detection" else target[None]
        return move_targets(self.group, [g], one, self.kind, self.shape)[0][0]

    def _output(self, name: str, i: int, k: int, x: np.ndarray) -> Any:
        part = self._parts[name]
        if part.outputs is not None:
            return part.outputs[self._place[k]][i]
        if part.predictor is None:
            raise ValueError(
                "the outputs were not kept, and this result was loaded without its models: "
                "NeroResult.load(folder, models={name: model})"
            )
        return part.reading.read(to_numpy(part.predictor(x)))[0]

    # -- figures ----------------------------------------------------------------------------------------------------

    def plot(
        self, kind: Literal["aggregate", "individual", "samples", "detail"] = "aggregate", **options: Any
    ) -> go.Figure:
        """Return one of the figures of :mod:`anytask.evaluate.nero.figures`, with its arguments."""
        from anytask.evaluate.nero import figures as nero_figures

        makers: dict[str, Any] = {
            "aggregate": nero_figures.aggregate_figure,
            "individual": nero_figures.individual_figure,
            "samples": nero_figures.sample_map,
            "detail": nero_figures.detail_figure,
        }
        if kind not in makers:
            raise ValueError(f"kind must be one of {', '.join(makers)}, got {kind!r}")
        return makers[kind](self, **options)

    def to_html(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write the interactive report as one HTML file; see :func:`anytask.evaluate.nero.report.write_html`."""
        from anytask.evaluate.nero.report import write_html

        write_html(self, path, **options)

    def explore(self, *, name: str | None = None, port: int = 0, open_browser: bool = True) -> None:
        """Look at the result in the browser, on the NERO page of ``anytask app``, until Ctrl-C.

        Parameters
        ----------
        name : str, optional
            What the page calls it; default: the names of the models.
        port : int, default 0
            The port at 127.0.0.1; 0 takes a free one.
        open_browser : bool, default True
            Open the page; its address is logged either way.

        Raises
        ------
        ImportError
            If ``anytask[app]`` is not installed.
        """
        import logging
        import webbrowser

        from anytask.app import serve

        def ready(address: str) -> None:
            logging.getLogger(__name__).info("the NERO page is at %snero", address)
            if open_browser:
                webbrowser.open(f"{address}nero")

        serve(port=port, results=[self] if name is None else {name: self}, on_ready=ready)

    # -- persistence ------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str], *, inputs: bool = True, outputs: bool = True) -> None:
        """Write the result, without the models, to a folder.

        Parameters
        ----------
        folder : path
            Made if need be.
        inputs, outputs : bool, default True
            Whether the samples, and the outputs if they were kept, are saved too; detail views need them.
        """
        from anytask.core.persistence import save_tree

        save_tree(folder, tree_of(self, self._parts, self._task, inputs=inputs, outputs=outputs))

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **context: Any) -> Self:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        folder : path
            The folder given to :meth:`save`.
        models : dict of name -> model, optional
            The models, for details whose outputs were not kept.
        group : Transforms, optional
            The group, if it was your own and inputs are to be transformed again.
        X : array, optional
            The samples, if they were not saved.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such result in the folder.
        """
        from anytask.core.persistence import load_tree

        unknown = set(context) - {"models", "group", "X"}
        if unknown:
            raise TypeError(f"load has no argument {min(unknown)!r}; it takes models, group and X")
        tree = load_tree(folder)
        if tree.get("class") != SAVED_AS:
            raise ValueError(f"{folder} holds a {tree.get('class')}, not a NeroResult")
        return cls(**arguments_of(tree, **context))

    # -- small steps ------------------------------------------------------------------------------------------------

    def _key(self, metric: str | None, reference: str | None) -> tuple[str, str]:
        metric = next(iter(self.metrics)) if metric is None else metric
        reference = self.references[0] if reference is None else reference
        if metric not in self.metrics:
            raise ValueError(f"there is no metric {metric!r}; measured were {', '.join(self.metrics)}")
        if reference not in self.references:
            why = "without labels there is no truth" if reference == "truth" else "there was none to be had"
            raise ValueError(f"there is no reference {reference!r} ({why}); there is {', '.join(self.references)}")
        return reference, metric

    def _model(self, model: str | None) -> int:
        if model is None:
            return 0
        if model not in self.models:
            raise ValueError(f"there is no model {model!r}; there are {', '.join(self.models)}")
        return self.models.index(model)

    def _sample(self, sample: int) -> int:
        if not -len(self) <= sample < len(self):
            raise ValueError(f"there are {len(self)} samples, got {sample}")
        return int(sample) % len(self)
