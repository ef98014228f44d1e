"""The protocol of the multi-task family: scikit-learn estimators that learn several tasks at once.

A batch goes the same way in every system. Data come in two forms: rows with a task each, ``fit(X, y, task)``, or a
matrix of targets, ``fit(X, Y)``, whose columns are tasks and whose missing values are not labelled. ``fit`` validates
them, brings both to one form, the labelled cells (:class:`Cells`: an input, a task, a target), makes the modules and
hands the cells to the system's ``_train``. ``predict(X, task)`` asks the system's ``_outputs`` for the tasks of the
rows, ``predict(X)`` for all tasks at once, so that a shared trunk sees each row once. A fit that fails leaves the model
as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from anytask.core.checks import check_input_shape, check_inputs, check_same_length, require_finite
from anytask.core.errors import shown
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated
from anytask.core.settings import flag
from anytask.multitask.parts.targets import Targets, as_ids, read_targets

__all__ = ["MultiTaskEstimator"]


@dataclass(frozen=True)
class Cells:
    """What a system learns from, on its device.

    Attributes
    ----------
    X : Tensor of shape (n, \\*input_shape)
        The inputs, float32.
    row, task : Tensor of shape (m,)
        Which input and which task (its place in ``tasks_``) a target belongs to, sorted by row; int64.
    y : Tensor of shape (m,)
        The targets, float64: standardised numbers, or places in the task's ``classes_``.
    """

    X: Tensor
    row: Tensor
    task: Tensor
    y: Tensor

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return ``X`` of shape (n, d), ``row``, ``task`` and ``y`` as arrays."""
        return tuple(part.cpu().numpy() for part in (self.X.flatten(1), self.row, self.task, self.y))


class MultiTaskEstimator(Estimator):
    """Base of the multi-task estimators: a system writes :meth:`_build`, :meth:`_train` and :meth:`_outputs`.

    Parameters
    ----------
    standardize : bool, default True
        Bring the numbers of each column of y to mean 0 and deviation 1 for training, and answers back. Tasks that come
        beside the rows share one column, so that the signs and scales in which they differ are kept.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    tasks_ : ndarray of shape (n_tasks,)
        Ids of the tasks, sorted where they came beside the rows, else in the order of the columns.
    kinds_ : tuple of {"regression", "classification"}
        Of each task.
    classes_ : tuple of (ndarray or None)
        The labels of each task, sorted; None for regression. All labels where tasks came beside the rows.
    center_, scale_ : ndarray of shape (n_tasks,)
        What targets were standardised by.
    form_ : {"rows", "matrix", "flat"}
        How the targets came: a task beside each row, a matrix with a column for each, or neither, and thus one task.
    n_features_in_ : int
        Number of values in one input.
    input_shape_ : tuple of int
        Shape of one input.
    """

    #: What a system looks at of the task; see :class:`~anytask.continual.base.ContinualClassifier`.
    sees: ClassVar[str] = "test"
    #: Whether all tasks have to be of one kind, and classification tasks of one set of classes.
    alike: ClassVar[bool] = False
    #: Whether it answers, with a warning, for tasks that it was not trained on.
    new_tasks: ClassVar[bool] = False
    INFERENCE: ClassVar[tuple[str, ...]] = ()

    standardize: bool = flag(True, "bring the numbers of each column of y to mean 0 and deviation 1 in training")

    def fit(
        self,
        X: ArrayLike | Tensor,
        y: Any,
        task: Any = None,
        *,
        kinds: str | Sequence[str] | Mapping[Any, str] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learn all tasks.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
        y : array, tensor or data frame of shape (n,) or (n, n_tasks)
            Numbers, or labels: integers or strings. Missing values (NaN, None) are not labelled, and are passed over.
        task : array of shape (n,), optional
            The task of each row: integers or strings. y then has one column; without it, each column is a task, named
            as in the data frame, or 0, 1, ...
        kinds : str, sequence or mapping, optional
            ``"regression"`` or ``"classification"``, for all columns of y, each of them, or some by their names. The
            others are told by their values: strings, booleans, pandas' categories and whole numbers of at most 20
            different values are classes, all others are numbers. A matrix with NaN holds no whole numbers.
        progress : callable, optional
            Told the finished share, in [0, 1].

        Raises
        ------
        ValueError, TypeError
            For empty data, NaN or infinite inputs, infinite targets, lengths that differ, a task without a target, one
            class alone, and tasks of two kinds where the system learns one.
        NotFinite
            If training made a NaN or infinite weight; the model is left as it was.
        """
        X_ = check_inputs(X)
        targets = read_targets(y, task, kinds, len(X_))
        targets = targets.alike(type(self).__name__) if self.alike else targets
        told = heard(progress)
        with self._refit():
            self.input_shape_, self.n_features_in_ = tuple(X_.shape[1:]), int(np.prod(X_.shape[1:]))
            self.tasks_, self.kinds_, self.classes_ = targets.tasks, targets.kinds, targets.classes
            self.form_ = targets.form
            self.center_, self.scale_ = self._statistics(targets)
            numbers = (targets.y - self.center_[targets.task]) / self.scale_[targets.task]
            given = (torch.from_numpy(values) for values in (targets.row, targets.task, numbers))
            cells = Cells(*(value.to(self._device) for value in (X_, *given)))
            with isolated(derive(self.seed, "init")):
                self._build()
            with isolated(derive(self.seed, "train")):
                self._train(cells, told)
            self._keep_shape()
        return self

    def predict(self, X: ArrayLike | Tensor, task: Any = None) -> Any:
        """Return the answers for one task of each row, or for all tasks.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
        task : int, str or array of shape (n,), optional
            The task of all rows, or of each.

        Returns
        -------
        array or tensor of shape (n,), or (n, n_tasks) without ``task``
            Numbers, or labels; of the type ``object`` where strings and numbers meet. A tensor for tensors where all
            are numbers. Of shape (n,) too if y was, without a task beside it.

        Raises
        ------
        ValueError
            For a task that was not there in training, unless the system answers for :attr:`new_tasks`; it then warns.
        """
        X_ = self._check_query(X)
        codes = np.arange(len(self.tasks_)) if task is None else self._codes(task, len(X_))
        answers = np.empty((len(X_), len(codes)) if task is None else len(X_), dtype=self._answer_type(codes))
        for rows, columns, outputs in self._asked(X_, codes, task is None):
            for code, column, output in zip(codes[columns], columns, outputs):
                place = (rows, column) if task is None else rows
                if self.kinds_[code] == "classification":
                    answers[place] = self.classes_[code][output.argmax(1)]
                else:
                    answers[place] = output[:, 0] * self.scale_[code] + self.center_[code]
        answers = answers[:, 0] if task is None and self.form_ == "flat" else answers
        if isinstance(X, Tensor) and answers.dtype.kind in "iufb":
            return torch.from_numpy(answers).to(X.device)
        return answers

    def predict_proba(self, X: ArrayLike | Tensor, task: Any = None) -> Any:
        """Return class probabilities for one task of each row, or for all tasks.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
        task : int, str or array of shape (n,), optional
            The task of all rows, or of each; all must have one set of classes.

        Returns
        -------
        array of shape (n, n_classes), or a list of them without ``task``
            Columns in the order of the task's ``classes_``.
        """
        X_ = self._check_query(X)
        codes = np.arange(len(self.tasks_)) if task is None else self._codes(task, len(X_))
        for code in np.unique(codes):
            labels, first = self.classes_[code], self.classes_[codes[0]]
            if labels is None:
                raise ValueError(f"task {self.tasks_[code].item()!r} is regression, and has no probabilities")
            if task is not None and not np.array_equal(labels, first):
                raise ValueError("the rows' tasks have different classes: ask for the probabilities of one at a time")
        answers = [np.empty((len(X_), len(self.classes_[c]))) for c in (codes if task is None else codes[:1])]
        for rows, columns, outputs in self._asked(X_, codes, task is None):
            for column, output in zip(columns, outputs):
                answers[column if task is None else 0][rows] = torch.from_numpy(output).softmax(1).numpy()
        return answers if task is None and self.form_ != "flat" else answers[0]

    # -- shared steps ---------------------------------------------------------------------------------------------

    def _load_state(self, state: Any) -> None:
        super()._load_state(state)
        for value in (getattr(self, name) for name in self._fitted()):
            if isinstance(value, nn.Module):
                value.eval()

    def _statistics(self, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
        center, scale = np.zeros(len(targets.tasks)), np.ones(len(targets.tasks))
        for column in np.unique(targets.column) if self.standardize else ():
            own = targets.column == column
            if targets.kinds[int(own.argmax())] == "regression":
                y = targets.y[own[targets.task]]
                with np.errstate(over="ignore", invalid="ignore"):
                    mean, std = require_finite(np.array([y.mean(), y.std()]), "y's mean or deviation", "rescale y")
                center[own], scale[own] = mean, std if std > 1e-12 * abs(y).max() else 1.0
        return center, scale

    def _check_query(self, X: ArrayLike | Tensor) -> Tensor:
        self._check_fitted()
        self._check_settings()
        self._check_shape_kept()
        X_ = check_inputs(X)
        check_input_shape(X_, self.input_shape_, type(self).__name__)
        return X_

    def _codes(self, task: Any, n: int) -> np.ndarray:
        """Return the place of each row's task; -1 for new ones, which share the last task's kind, classes and scale."""
        ids = as_ids(np.full(n, task) if np.ndim(task) == 0 else task)
        check_same_length(np.empty(n), ids, y_name="task")
        if (ids.dtype.kind == "U") != (self.tasks_.dtype.kind == "U"):
            raise TypeError(f"tasks were {self.tasks_.dtype} in fit and are {ids.dtype} now: keep to one kind")
        place = {name: code for code, name in enumerate(self.tasks_.tolist())}
        asked, inverse = np.unique(ids, return_inverse=True)
        if unknown := [name for name in asked.tolist() if name not in place]:
            known = shown(self.tasks_.tolist(), 100)
            if not self.new_tasks or self.form_ != "rows":
                raise ValueError(f"{type(self).__name__} was not trained on task {unknown[0]!r}; its tasks: {known}")
            warnings.warn(f"Not trained on task {unknown[0]!r} (its tasks: {known}): {self._new_task}", stacklevel=3)
        return np.array([place.get(name, -1) for name in asked.tolist()])[inverse]

    def _asked(self, X: Tensor, codes: np.ndarray, every: bool) -> Iterator[tuple[Any, list[int], list[np.ndarray]]]:
        """Yield rows, places in ``codes``, and the outputs for the tasks there as arrays (rows, outputs).

        With ``every`` all tasks are asked for all rows, else the task of each row.
        """
        if every:
            groups: list[tuple[Any, list[int]]] = [(slice(None), list(range(len(codes))))]
        else:
            groups = [(codes == code, [int(np.argmax(codes == code))]) for code in np.unique(codes)]
        for rows, columns in groups:
            wanted = codes[columns].tolist()
            with torch.no_grad(), isolated(derive(self.seed, "predict")):
                parts = [self._outputs(part.to(self._device), wanted) for part in X[rows].split(4096)]
            outputs = [require_finite(torch.cat(one).double(), "an answer").cpu().numpy() for one in zip(*parts)]
            yield rows, columns, outputs

    def _width(self, code: int) -> int:
        """Return how many outputs a task has."""
        labels = self.classes_[code]
        return 1 if labels is None else len(labels)

    def _answer_type(self, codes: np.ndarray) -> Any:
        labels = [self.classes_[code] for code in np.unique(codes)]
        types = [np.dtype(np.float64) if one is None else one.dtype for one in labels]
        return object if len({one.kind == "U" for one in types}) > 1 else np.result_type(*types)

    # -- what a system writes -------------------------------------------------------------------------------------

    #: How it answers for new tasks, as the end of a warning.
    _new_task: ClassVar[str] = ""

    def _train(self, cells: Cells, progress: Progress) -> None:
        """Train on checked data."""
        raise NotImplementedError

    def _outputs(self, X: Tensor, codes: list[int]) -> list[Tensor]:
        """Return for each of the tasks (places in ``tasks_``, -1 for a new one) a tensor (n, outputs).

        One output where the task is regression, a logit for each class where it is classification.
        """
        raise NotImplementedError
