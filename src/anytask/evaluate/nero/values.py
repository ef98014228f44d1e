"""Values on orbits: one sample, one element, aggregate curves, summaries, and a look at single outputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anytask.core.checks import as_array, check_place
from anytask.core.errors import check_flags, check_word, shown
from anytask.evaluate.nero.consensus import Consensus
from anytask.evaluate.nero.metrics import Task, error_maps, map_of
from anytask.evaluate.nero.reduction import METHODS, reduce_orbits
from anytask.evaluate.nero.runs import Detail, ElementView, Failure, ModelPart, SampleOrbit, move_targets
from anytask.parts.transforms import Transforms

if TYPE_CHECKING:
    import pandas as pd


class OrbitValues:
    """What models did on the orbits of samples.

    Wherever ``metric`` is left out, the task's first is meant; where ``reference`` is left out, the truth if there are
    labels, else the consensus.

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
        self, *, group: Transforms, task: Task, X: Any, y: Any, shape: tuple[int, int], parts: Mapping[str, ModelPart],
        failures: Sequence[Failure], seconds: float,
    ) -> None:  # fmt: skip
        self.group, self._task, self.X, self.y, self.shape = group, task, X, y, shape
        self._parts, self.failures, self.seconds = dict(parts), list(failures), float(seconds)
        self.task, self.kind, self.metrics, self.models = task.key, task.kind, task.metrics, tuple(parts)
        measured = {reference for reference, _ in parts[self.models[0]].values}
        self.references: tuple[str, ...] = tuple(r for r in ("truth", "consensus") if r in measured)
        self.classes = {name: part.reading.classes for name, part in parts.items()}
        self.consensus: dict[str, Consensus] = {n: part.consensus for n, part in parts.items() if part.consensus}
        self._maps: dict[tuple[str, str, str], tuple[np.ndarray, str]] = {}
        self._place = np.searchsorted(group.distinct, group.representative)  # element -> row among the different ones

    def __len__(self) -> int:
        return next(iter(self._parts[self.models[0]].values.values())).shape[1]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.task}, models={list(self.models)}, {len(self.group)} elements x {len(self)} "
            f"samples, references={list(self.references)}, failures={len(self.failures)})"
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
            return check_place(index, len(self.group), "elements")
        return self.group.nearest(coords) if coords else (self.group.identity or 0)

    def top(
        self, k: int, by: Literal["mean", "variance"] = "mean", *, metric: str | None = None, model: str | None = None,
        reference: str | None = None, largest: bool = True,
    ) -> list[int]:  # fmt: skip
        """Return the k samples whose orbits have the largest (or smallest) mean or variance, for one model."""
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 0:
            raise ValueError(f"k must be an integer of at least 0, got {k!r}")
        check_flags(largest=largest)
        values = self.intensity(by, metric, reference)[self._model(model)]
        good = np.flatnonzero(np.isfinite(values))
        order = np.argsort(-values[good] if largest else values[good], kind="stable")
        return good[order][:k].tolist()

    def intensity(
        self, by: Literal["mean", "variance"] = "mean", metric: str | None = None, reference: str | None = None
    ) -> np.ndarray:
        """Return the mean or the variance of every sample's orbit, shape (models, n)."""
        if not isinstance(by, str) or by not in ("mean", "variance"):
            raise ValueError(f"by must be 'mean' or 'variance', got {by!r}")
        found = along_orbits(self.values(metric, reference), self.group.weights, True)
        return found["mean"] if by == "mean" else found["std"] ** 2

    def reduce(
        self, method: str = "pca", metric: str | None = None, reference: str | None = None
    ) -> tuple[np.ndarray, str]:
        """Place the samples in the plane by their orbits: points (models, n, 2) in [-1, 1], and a notice or "".

        All models are placed together, by the different elements of the orbit only; see
        :func:`anytask.evaluate.nero.reduction.reduce_orbits`.
        """
        check_word(method, METHODS, "method")
        key = self._key(metric, reference)
        if (method, *key) not in self._maps:
            orbits = np.concatenate([part.values[key].T for part in self._parts.values()]).astype(float)
            orbits = np.where(np.isnan(orbits), nanmean(orbits, axis=1)[:, None], orbits)  # undefined says nothing
            reduction = reduce_orbits(orbits, method)
            self._maps[method, *key] = reduction.points.reshape(len(self.models), -1, 2), reduction.notice
        return self._maps[method, *key]

    def rows(self, subset: Any = None, class_: Any = None, model: str | None = None) -> np.ndarray:
        """Return the indices of a subset, of a class, or of all samples.

        The class is the true label, or, without labels, the consensus of the model; for detections, a sample counts
        for every class that it has a true box of.
        """
        everyone = np.arange(len(self))
        given = everyone if subset is None else np.atleast_1d(as_array(subset, "samples"))
        if given.ndim != 1:
            raise ValueError(f"samples must be indices or a mask of shape ({len(self)},), got shape {given.shape}")
        is_mask = given.dtype == bool and given.shape == everyone.shape
        if not is_mask and (given.dtype.kind not in "iu" or not np.isin(given, np.r_[-len(self) : len(self)]).all()):
            given = np.array([self._sample(i) for i in given.tolist()], dtype=np.int64)  # which says what is wrong
        chosen = everyone[given]
        if class_ is None:
            return chosen
        if np.ndim(class_) or not isinstance(class_, Hashable):
            raise TypeError(f"class_ must be one label, got {shown(class_)}")
        mine = np.array([class_ in (row if isinstance(row, set) else {row}) for row in self.labels(model)])
        if not mine.any():
            raise ValueError(f"no sample has class {class_!r}")
        return chosen[mine[chosen]]

    def labels(self, model: str | None = None) -> list[Any]:
        """Return each sample's true class, or its consensus class without labels; a set of them for detections."""
        name = self.models[self._model(model)]
        truth: Any = self._parts[name].truth
        agreed = self.consensus.get(name)
        if self.task == "detection":
            return [set(row["labels"].tolist()) for row in (agreed.value if truth is None and agreed else truth)]
        if self.task != "classification":
            raise ValueError(f"{self.task} has no classes")
        names: list[Any] = self.classes[name].tolist()  # type: ignore[union-attr]
        if truth is not None or agreed is None:
            return [names[code] for code in truth]
        return [names[c] if np.isfinite(p).all() else None for c, p in zip(agreed.labels(), agreed.value)]

    def label_texts(self, model: str | None = None) -> list[list[str]]:
        """Return :meth:`labels` as texts, several of a sample in order."""
        return [sorted(map(str, row)) if isinstance(row, set) else [str(row)] for row in self.labels(model)]

    def truth(self, model: str | None = None) -> Any:
        """Return the true labels in the form of the outputs, or None without labels.

        Classes are given as columns of the model's outputs, shape (n,); detections as one dict per sample; fields and
        numbers as arrays (n, ...). Positions are those in what the models see.
        """
        return self._parts[self.models[self._model(model)]].truth

    def class_names(self) -> list[Any]:
        """Return the classes that occur among the samples, sorted; [] for tasks without classes."""
        if self.task not in ("classification", "detection"):
            return []
        found = {name for row in self.labels() for name in (row if isinstance(row, set) else {row})}
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
                curve = np.array([map_of(matches, rows) for matches in part.matches[key[0]]])
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
        consensus class is the true one, ``consensus_error`` the error of the consensus of other tasks (the IoU of
        boxes) against the truth, on inputs as they are.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        chosen = [self.rows(subset, class_, name) for name in self.models]
        consensus = [self._about_consensus(name, mine) for name, mine in zip(self.models, chosen)]
        identity, weights = self.group.identity, self.group.weights
        for reference, metric in ((r, m) for r in self.references for m in self.metrics.values()):
            curves = self.aggregate(metric.key, reference, subset=subset, class_=class_)
            values = self.values(metric.key, reference)
            of_curve = along_orbits(curves[:, :, None], weights, metric.higher_is_better)
            for j, name in enumerate(self.models):
                of_samples = along_orbits(values[j : j + 1, :, chosen[j]], weights, metric.higher_is_better)
                rows.append({
                    "model": name, "reference": reference, "metric": metric.key,
                    "identity": np.nan if identity is None else float(curves[j, identity]),
                    **{key: float(of_curve[key][j, 0]) for key in ("mean", "worst", "gap")},
                    **{f"sample_{key}": float(nanmean(of_samples[key][0], axis=0)) for key in ("std", "worst", "gap")},
                    **consensus[j],
                })  # fmt: skip
        return pd.DataFrame(rows)

    def table(self) -> pd.DataFrame:
        """Return :meth:`summary` over all samples."""
        return self.summary()

    def per_sample(
        self, metric: str | None = None, reference: str | None = None, *, samples: Sequence[int] | None = None
    ) -> pd.DataFrame:
        """Return one row per model and sample: mean, std, worst and gap along the orbit, and the consensus."""
        import pandas as pd

        reference, metric = self._key(metric, reference)
        chosen = self.rows(samples)
        values, higher = self.values(metric, reference)[:, :, chosen], self.metrics[metric].higher_is_better
        along, frames = along_orbits(values, self.group.weights, higher), []
        for j, name in enumerate(self.models):
            columns = {"model": name, "sample": chosen, **{key: one[j] for key, one in along.items()}}
            if agreed := self.consensus.get(name):
                columns |= {key: getattr(agreed, key)[chosen] for key in ("residual", "agreement", "coverage")}
                if self.task == "classification":
                    columns["consensus"] = self.classes[name][agreed.labels()[chosen]]  # type: ignore[index]
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames).set_index(["model", "sample"])

    def _about_consensus(self, name: str, rows: np.ndarray) -> dict[str, float]:
        agreed, truth = self.consensus.get(name), self.truth(name)
        found = dict.fromkeys(("residual", "agreement", "coverage", "consensus_correct", "consensus_error"), np.nan)
        if agreed is not None:
            for key in ("residual", "agreement", "coverage"):
                found[key] = float(nanmean(getattr(agreed, key)[rows], axis=0))
        if agreed is not None and truth is not None:
            if self.task == "classification":
                good = rows[np.isfinite(agreed.value[rows]).all(axis=1)]
                found["consensus_correct"] = float(nanmean((agreed.labels() == truth)[good].astype(float), axis=0))
            else:
                values = type(self._task)(self.kind).measure(agreed.value[rows], truth[rows])
                found["consensus_error"] = float(nanmean(values.get("iou", next(iter(values.values()))), axis=0))
        return found | {"failed": float(len(self.failed(name)))}

    # -- one sample under one element -------------------------------------------------------------------------------

    def detail(self, sample: int, *coords: float, index: int | None = None) -> Detail:
        """Return one sample under one element: input, outputs, truth and consensus, moved with the input.

        Raises
        ------
        ValueError
            If inputs or outputs were not kept and the result was loaded without models.
        """
        i, k = self._sample(sample), self.element(*coords, index=index)
        inputs, outputs = self.orbits([i], [k])
        named: dict[str, dict[str, Any]] = {"truth": {}, "consensus": {}, "maps": {}}
        answers = {name: found[0, 0] for name, found in outputs.items() if i not in self.failed(name)}
        for name in self.models:
            for reference in self.references:
                right = self.targets(name, reference, [i], [k])[0, 0]
                classes = self.classes[name]
                named[reference][name] = right if classes is None else classes.tolist()[right]
            if self.task == "field" and name in answers:
                found = error_maps(answers[name][None], named[self.references[0]][name][None])
                named["maps"][name] = {key: error[0] for key, error in found.items()}
        consensus = {name: right for name, right in named["consensus"].items() if name in answers}
        truth = next(iter(named["truth"].values()), None)
        return Detail(i, k, self.group.labels[k], inputs[0, 0], answers, truth, consensus, named["maps"])

    def inputs(self, samples: Any) -> np.ndarray:
        """Return the inputs of some samples as they are, or raise a ``ValueError`` if there are none."""
        if self.X is None:
            raise ValueError("the inputs were not saved with the result: NeroResult.load(folder, X=X)")
        return np.asarray(self.X[self.rows(samples)])

    def orbits(self, samples: Any, elements: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return inputs phi(g, x_i) and outputs O[g, i] by model, (elements, samples, ...), for indices of both.

        Outputs that were not kept are computed; those of a sample on which the model failed are NaN or None.

        Raises
        ------
        ValueError
            If inputs or outputs were not kept and the result was loaded without models.
        """
        samples, elements = (
            self.rows(samples),
            [self.element(index=k) for k in np.atleast_1d(as_array(elements, "elements")).ravel().tolist()],
        )
        if not elements:
            raise ValueError("there are no elements to show")
        inputs = self.group.orbit(self.inputs(samples), [self.group.elements[k] for k in elements])
        outputs = {}
        for name, part in self._parts.items():
            if part.outputs is not None:
                outputs[name] = part.outputs[self._place[elements]][:, samples]
                continue
            if part.predictor is None:
                raise ValueError(
                    "the outputs were not kept, and this result was loaded without its models: "
                    "NeroResult.load(folder, models={name: model})"
                )
            outputs[name] = np.full(inputs.shape[:2], None)
            if (good := ~np.isin(samples, list(self.failed(name)))).any():
                mine = inputs[:, good]
                found = part.reading.read(part.predictor(mine.reshape(-1, *mine.shape[2:])))
                blank = None if found.dtype == object else np.nan
                outputs[name] = np.full((*inputs.shape[:2], *found.shape[1:]), blank, dtype=found.dtype)
                outputs[name][:, good] = found.reshape(*mine.shape[:2], *found.shape[1:])
        return inputs, outputs

    def targets(self, model: str, reference: str, samples: Any, elements: Any) -> np.ndarray:
        """Return psi(g, y_i) or psi(g, c_i), (elements, samples, ...); classes are columns of the model's outputs."""
        right = self.truth(model)
        if reference == "consensus":
            agreed = self.consensus[model]
            right = agreed.labels() if self.task == "classification" else agreed.value
        chosen = [self.group.elements[k] for k in elements]
        return move_targets(self.group, chosen, right[samples], self.kind, self.shape)

    def failed(self, model: str) -> set[int]:
        """Return the samples on which a model could not be evaluated."""
        return {failure.sample for failure in self.failures if failure.model == model}

    # -- small steps ------------------------------------------------------------------------------------------------

    def _key(self, metric: str | None, reference: str | None) -> tuple[str, str]:
        metric = next(iter(self.metrics)) if metric is None else metric
        reference = self.references[0] if reference is None else reference
        if not isinstance(metric, str) or metric not in self.metrics:
            raise ValueError(f"there is no metric {shown(metric)}; measured were {', '.join(self.metrics)}")
        if not isinstance(reference, str) or reference not in self.references:
            why = "without labels there is no truth" if reference == "truth" else "there was none to be had"
            raise ValueError(f"there is no reference {shown(reference)} ({why}); there is {', '.join(self.references)}")
        return reference, metric

    def _model(self, model: str | None) -> int:
        if model is None:
            return 0
        if not isinstance(model, str) or model not in self.models:
            raise ValueError(f"there is no model {shown(model)}; there are {', '.join(self.models)}")
        return self.models.index(model)

    def _sample(self, sample: int) -> int:
        return check_place(sample, len(self), "samples")


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean along an axis of what is finite; NaN where nothing is."""
    good = np.isfinite(values)
    count = good.sum(axis=axis)
    total = np.where(good, values, 0).sum(axis=axis, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def along_orbits(values: np.ndarray, weights: np.ndarray, higher: bool) -> dict[str, np.ndarray]:
    """Return mean, std, worst and gap over the elements of (models, m, n), NaN left out; each (models, n)."""
    good = np.isfinite(values)
    w = np.where(good, weights[None, :, None], 0.0)
    total = w.sum(axis=1)
    some, safe = total > 0, np.where(total > 0, total, 1.0)
    filled = np.where(good, values, 0.0).astype(np.float64)
    low = np.where(good, filled, np.inf).min(axis=1)
    high = np.where(good, filled, -np.inf).max(axis=1)
    above = np.where(good, filled - low[:, None], 0.0)  # from the lowest value up, so that a flat orbit is exactly flat
    mean = low + (w * above).sum(axis=1) / safe
    variance = (w * np.where(good, filled - mean[:, None], 0.0) ** 2).sum(axis=1) / safe
    gap = np.where(some, high, 0) - np.where(some, low, 0)
    found = {"mean": mean, "std": np.sqrt(variance), "worst": low if higher else high, "gap": gap}
    return {key: np.where(some, one, np.nan) for key, one in found.items()}
