"""NERO: non-equivariance revealed on orbits, how a model's error varies as its inputs are turned, moved or flipped.

For samples x_i, i = 1 ... n, elements g_1 ... g_m with actions phi on inputs and psi on outputs, model F and metric e:

1. ``O[g, i] = F(phi(g, x_i))``, and with labels ``E[g, i] = e(O[g, i], psi(g, y_i))``.
2. Consensus ``c_i = mean_g psi(g^-1, O[g, i])``, and ``E_c[g, i] = e(O[g, i], psi(g, c_i))``.
3. Individual plot: ``g -> E[g, i]``; aggregate plot: ``g -> mean_i E[g, i]`` (mAP: once more over the set).
4. Sample map: the vectors ``E[., i]`` reduced to the plane.

Interpolation and cropping make phi only nearly a group action. The value at the identity is measured through the same
path as all others, so it is the one to compare with. Identical elements (0 and 360 degrees) are evaluated once, and
count once in every average. A sample on which a model raises, or answers NaN under any element, is left out for this
model as a whole: a warning names it, and ``result.failures`` lists all.

Departures from the paper
-------------------------
The released code averages the ids of labels in the consensus of detections, and divides their recall by 4; here labels
are voted on and recall is the share of boxes found. Where a model detects nothing, the released code stops; here the
values are 0 and the element takes no part in the consensus. Sample maps of several models are fitted together, so that
a place means the same in all of them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import torch

from anytask.core.checks import as_array, as_numbers, check_rows, check_same_length, require_finite_rows
from anytask.core.devices import resolve_device
from anytask.core.progress import Progress, portion
from anytask.core.settings import Settings, choice, flag, free, of_kind, positional, real, text, whole
from anytask.evaluate.nero.adapters import as_predictor, to_numpy
from anytask.evaluate.nero.metrics import TASKS, NeroMetric
from anytask.evaluate.nero.result import NeroResult
from anytask.evaluate.nero.runs import BadOutput, ModelRun
from anytask.parts.planar_groups import cyclic
from anytask.parts.transforms import Transforms, make_group

__all__ = ["NERO", "cyclic", "evaluate", "make_group"]

_BATCH_BYTES = 1 << 26


def _group(group: Transforms | str) -> Transforms:
    made = make_group(group) if isinstance(group, str) else group
    if not isinstance(made, Transforms):
        raise TypeError(f"group must be a Transforms or the name of a group, got {type(group).__name__}")
    return made


class NERO(Settings):
    """Non-Equivariance Revealed on Orbits (Zhao et al., 2023).

    A test score says how often a model is right on inputs as they are. NERO changes every input by all elements of a
    group (rotations, shifts, mirror images, permutations, ...) and records the model's error along this orbit: where it
    fails, for which samples, and how evenly. Works for any model of classes, detections, vector fields or numbers.
    Without labels, the model's own consensus over the orbit takes their place.

    Pick it before you trust a model with inputs that may come turned or moved, to compare two models that score alike,
    and to see whether augmentation or an equivariant architecture did what it should. ``result.to_html(path)`` writes
    the linked views as one file, and ``anytask app --nero FOLDER`` shows saved results.

    Parameters
    ----------
    group : Transforms, or str, default "rotations"
        The elements and their actions: :class:`~anytask.parts.planar_groups.Rotations` and its neighbors, or a name
        for :func:`anytask.parts.transforms.make_group`. Transforms without inverse give no consensus.
    task : {"auto", "classification", "detection", "field", "regression"}, default "auto"
        What the outputs are. "auto" looks at them: dicts with boxes are detections; (n, 2, height, width) are vector
        fields; (n, C) are classes if the model has classes, the labels are whole numbers or texts, or, without labels,
        the rows are probabilities; all else is regression.
    psi : str, optional
        For regression, how outputs follow (:class:`anytask.parts.transforms.Group`): "invariant" (the default for one
        number per sample), "positions", "vectors", "points", "items", "image".
    metrics : sequence of str or NeroMetric, or dict of name -> function, optional
        What to measure; default: all metrics of the task. Functions get a batch of outputs and of targets.
    consensus, undo : bool, default True
        Compute consensus and residuals too, where the group allows it; and form it with psi^-1 (False is wrong for
        outputs that move: to see by how much).
    logits, classes : bool, sequence, optional
        Whether class outputs are logits (by default if rows are no probabilities), and the labels of their columns (by
        default those the model knows, else 0, 1, ...).
    iou_threshold, score_threshold, pixel_offset : float, float, {0, 1}, default 0.5, 0.5, 0
        For detections: least IoU of a match; least score that precision, recall and F count; 1 takes sides as
        x2 - x1 + 1, as the paper's code does.
    batch_size : int, optional
        Most inputs in one call of a model; by default as many as fit in 64 MB, at most 4096.
    keep_outputs : bool, optional
        Keep all outputs O for detail views; by default if they fit in 256 MB. Else they are computed again.
    device : str, default "auto"
        Where torch modules run; "auto" leaves them where they are.

    Examples
    --------
    Two models that a plain test cannot tell apart: one looks at the total brightness, one at the left half.

    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> X = rng.uniform(0, 0.1, size=(40, 8, 8))
    >>> X[y == 1, 2:6, 0:4] += 1
    >>> total = lambda X: np.eye(2)[(X.sum(axis=(1, 2)) > 8).astype(int)]
    >>> left = lambda X: np.eye(2)[(X[:, :, :4].sum(axis=(1, 2)) > 8).astype(int)]
    >>> result = NERO("rotations", metrics=["correctness"]).evaluate({"total": total, "left": left}, X, y)
    >>> result.table()[["model", "reference", "identity", "worst"]].round(2).values.tolist()[:2]
    [['total', 'truth', 1.0, 1.0], ['left', 'truth', 1.0, 0.5]]

    References
    ----------
    Zhao, Matsuzawa, Irvine, Maire, Kindlmann, 2023, "Evaluating Machine Learning Models with NERO: Non-Equivariance
    Revealed on Orbits", arXiv:2305.19889.
    """

    sees: ClassVar[str] = "none"

    group: Transforms | str = positional(
        free, "the changes to inputs: a Transforms, or the name of a group", _group, default="rotations", kw_only=False
    )
    task: str = choice("auto", ("auto", *TASKS), "what the outputs are; 'auto' looks at them")
    psi: str | None = text(None, "kind of output that psi acts on, for regression; None: numbers stay", optional=True)
    metrics: Sequence[str | NeroMetric] | Mapping[str, Callable[[Any, Any], Any]] | None = of_kind(
        None, (list, tuple, Mapping), "a list of metrics or functions by name",
        "what to measure; None: all metrics of the task", optional=True,
    )  # fmt: skip
    consensus: bool = flag(True, "compute consensus and residuals too, where the group allows it")
    undo: bool = flag(True, "form the consensus with psi^-1")
    logits: bool | None = flag(None, "class outputs are logits; None: unless they are probabilities", optional=True)
    classes: Sequence[Any] | None = of_kind(
        None, (Sequence, np.ndarray), "a sequence of labels",
        "labels of the columns; None: those the model knows, else 0, 1, ...", optional=True,
    )  # fmt: skip
    iou_threshold: float = real(0.5, "least IoU of a match", above=0, at_most=1)
    score_threshold: float = real(0.5, "least score that precision, recall and F count", at_least=0, at_most=1)
    pixel_offset: int = whole(0, "1: sides of boxes are x2 - x1 + 1", at_least=0, at_most=1)
    batch_size: int | None = whole(None, "most inputs in one call; None: as fit in 64 MB, at most 4096", optional=True)
    keep_outputs: bool | None = flag(None, "keep outputs for details; None: if they fit in 256 MB", optional=True)
    device: str = free("auto", "where torch modules run; 'auto' leaves them where they are", resolve_device)

    def evaluate(self, models: Any, X: Any, y: Any = None, *, progress: Progress | None = None) -> NeroResult:
        """Evaluate one or several models on the orbits of all samples.

        Parameters
        ----------
        models : model, sequence of models, or dict of name -> model
            Anything :func:`anytask.evaluate.nero.adapters.as_predictor` takes.
        X : array or tensor of shape (n, ...)
            Inputs; whatever gives rows for a slice, such as a memory map, is read in chunks.
        y : array of shape (n, ...) or list of dicts, optional
            Labels; for detection a dict with "boxes" and "labels" per image, in the coordinates of the images.
        progress : callable, optional
            Called with the finished share in [0, 1].

        Returns
        -------
        NeroResult
            Values, summaries, figures and the HTML report.

        Raises
        ------
        ValueError, TypeError
            For empty or mismatched data, labels unknown to the model, a group without action on the outputs (psi
            missing), neither labels nor consensus, and when a model fails on every sample.
        """
        if y is None and not self.consensus:
            raise ValueError("labels and consensus are both absent: give y, or leave consensus on")
        group, named, tensors = _group(self.group), _named(models), hasattr(X, "detach")
        X, y = _checked_inputs(X), _checked_labels(y)
        if y is not None:
            check_same_length(X, y)
        first = group.phi(group.elements[0], np.asarray(X[:1]))  # raises here, before anything ran, if X does not fit
        batch = self.batch_size or int(np.clip(_BATCH_BYTES // max(first.nbytes, 1), 1, 4096))
        elements_per_call = min(len(group.distinct), batch)  # whole orbits in one call where they fit
        starts = range(0, len(X), max(1, batch // len(group.distinct)))
        for begin in starts:
            require_finite_rows(np.asarray(X[begin : begin + starts.step]), "X", begin)
        runs = [
            ModelRun(name, as_predictor(model, device=self.device, tensors=tensors), self, group, X, y, first)
            for name, model in named.items()
        ]
        start, tell = time.perf_counter(), portion(progress, 0, 1)
        for begin in starts:
            mine = np.asarray(X[begin : begin + starts.step])
            self._chunk(runs, group, mine, begin + np.arange(len(mine)), elements_per_call)
            tell((begin + len(mine)) / len(X))
        return self._result(runs, group, X, y, time.perf_counter() - start)

    def _chunk(self, runs: list[ModelRun], group: Transforms, X: np.ndarray, rows: np.ndarray, per_call: int) -> None:
        """Evaluate all models on the orbits of a few samples, every transformed batch being made once."""
        distinct = runs[0].distinct
        outputs: dict[str, list[Any]] = {run.name: [] for run in runs}
        broken: set[str] = set()
        for begin in range(0, len(distinct), per_call):
            moved = group.orbit(X, distinct[begin : begin + per_call])  # (elements, samples, ...)
            flat = moved.reshape(-1, *moved.shape[2:])
            for run in runs:
                if run.name in broken:
                    continue
                try:
                    outputs[run.name].append(run.answers(flat))
                except Exception:
                    broken.add(run.name)  # some sample is to blame: they are tried one by one below
        for run in runs:
            if run.name not in broken:
                with suppress(BadOutput):
                    run.take(outputs[run.name], rows)
                    continue
            for j, row in enumerate(rows):
                run.take_alone(X[j : j + 1], int(row), per_call)

    def _result(self, runs: list[ModelRun], group: Transforms, X: Any, y: Any, seconds: float) -> NeroResult:
        for run in runs:
            if len(run.failures) == len(X):
                first = run.failures[0]
                where = f" (at {first.element})" if first.element else ""
                raise ValueError(f"{run.name} fails on every sample; the first{where}: {first.error}") from run.cause
        tasks = {run.name: (run.task.key, run.task.kind) for run in runs}
        if len(set(tasks.values())) > 1:
            raise ValueError(f"the models answer different kinds of tasks: {tasks}")
        failures = [failure for run in runs for failure in run.failures]
        for run in runs:
            if run.failures:
                one = run.failures[0]
                warnings.warn(
                    f"{run.name} could not be evaluated on {len(run.failures)} of {len(X)} samples, which are left out "
                    f"of its values: sample {one.sample}{f' at {one.element}' if one.element else ''}: {one.error}",
                    stacklevel=3,
                )
        return NeroResult(
            group=group, task=runs[0].task, X=X, y=y, shape=runs[0].shape, parts={run.name: run.part() for run in runs},
            failures=failures, seconds=seconds,
        )  # fmt: skip


def evaluate(model: Any, data: Any, group: Transforms | str = "rotations", **options: Any) -> NeroResult:
    """Evaluate a model, or several, on orbits: ``NERO(group, **options).evaluate(model, X, y)``.

    Parameters
    ----------
    model
        As in :meth:`NERO.evaluate`.
    data : array, or tuple (X, y), or anything with attributes X and y
        Inputs, with or without labels.
    group : Transforms or str, default "rotations"
        As in :class:`NERO`.
    **options
        Arguments of :class:`NERO`, and ``progress``.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_digits(return_X_y=True)
    >>> model = LogisticRegression(C=0.01).fit(X[:600], y[:600])
    >>> result = evaluate(model, (X[600:700], y[600:700]), cyclic(4, image_shape=(8, 8)))
    >>> result.aggregate("correctness").shape  # (models, elements)
    (1, 4)
    """
    progress = options.pop("progress", None)
    if isinstance(data, tuple):
        if len(data) not in (1, 2):
            raise ValueError(f"data must be an array or (X, y), got a tuple of {len(data)}")
        X, y = (*data, None)[:2]
    elif hasattr(data, "X"):
        X, y = data.X, getattr(data, "y", None)
    else:
        X, y = data, None
    return NERO(group, **options).evaluate(model, X, y, progress=progress)


def _checked_inputs(X: Any) -> Any:
    held = isinstance(X, (np.ndarray, torch.Tensor)) or hasattr(X, "toarray") or hasattr(X, "to_numpy")
    if held or not all(hasattr(X, name) for name in ("shape", "dtype", "__getitem__")):
        X = as_numbers(as_array(X))
    elif np.dtype(X.dtype).kind not in "fiub":
        raise TypeError(f"X must be numeric, got {X.dtype}")
    check_rows(X)
    return X


def _checked_labels(y: Any) -> Any:
    """Return labels as an array, a column as a row; those of detections are dicts."""
    if y is None:
        return None
    y = to_numpy(y, "y")
    if not y.ndim:
        raise ValueError("y must have shape (n, ...), got ()")
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def _named(models: Any) -> dict[str, Any]:
    if isinstance(models, (list, tuple)):
        models = {f"model {k}": model for k, model in enumerate(models, 1)}
    named = {str(k): v for k, v in models.items()} if isinstance(models, Mapping) else {"model": models}
    if not named or len(named) < (len(models) if isinstance(models, Mapping) else 1):
        raise ValueError("two models have the same name" if named else "no model was given")
    return named
