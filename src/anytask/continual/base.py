"""The protocol of the continual family: scikit-learn estimators that learn from a stream, one chunk at a time.

A chunk goes the same way in every system: ``partial_fit`` validates it, turns it into tensors and label codes, and
hands it to the system's ``_learn`` inside a rollback, so a failed call leaves the model as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from torch import Tensor, nn

from anytask.continual.parts.stream import Reservoir
from anytask.core.checks import (
    NotFinite,
    as_array,
    as_given,
    check_input_shape,
    check_inputs,
    check_label_matrix,
    check_labels,
    check_same_length,
    most_probable,
    require_finite,
    require_finite_weights,
)
from anytask.core.cost import cost_of
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated
from anytask.core.settings import whole
from anytask.parts.distillation import Snapshot

__all__ = ["ContinualClassifier"]

#: What a learner may be told of the task, from least to most.
ACCESS = ("none", "boundary", "train", "test")
_ADVICE = "lower lr, or check the scale of the inputs"
_PROBED = 16  # rows of a chunk that a system must be able to answer afterwards


class ContinualClassifier(ClassifierMixin, Estimator):
    """Base of the continual classifiers.

    A system lists its settings as fields and its small-data values in :attr:`PRESETS`, and implements four short
    methods: :meth:`_start` sets the plain values of the fitted state, :meth:`_build` makes its modules, optimizers and
    buffers, :meth:`_learn` and :meth:`_scores` are the method. Everything else is the same for all of them.

    Systems that are :attr:`multilabel` also learn inputs that have several labels at once, from matrices of zeros and
    ones: a chunk says which labels are annotated, its ``classes``, and nothing of the others.

    Settings that are changed on a fitted model take effect with the next chunk, those of inference with the next
    prediction; what was learned before is finished under the settings it was learned with. ``seed`` and the settings in
    :attr:`STRUCTURE` shape the fitted state: once they were changed, the model neither learns nor saves until they are
    set back or it is fitted anew.

    Parameters
    ----------
    epochs : int
        Passes that :meth:`fit` makes over its data; :meth:`partial_fit` makes one.
    batch_size : int
        Size of the mini-batches a chunk is cut into, in the order of its rows.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels seen so far, sorted; the columns of :meth:`predict_proba`.
    labels_ : list
        The same labels in order of appearance; the code of a label is its place here.
    n_features_in_ : int
        Number of values in one input.
    input_shape_ : tuple of int
        Shape of one input.
    n_chunks_ : int
        Chunks learned so far.
    task_codes_ : dict
        Task -> the codes of the labels seen in it, for systems that see the task.
    """

    #: The least a system must be told of the task, and the most it looks at; one of :data:`ACCESS` each.
    needs: ClassVar[str] = "none"
    sees: ClassVar[str] = "none"
    #: Settings that shape the fitted state, beside ``seed``; those of groups as ``group.name``.
    STRUCTURE: ClassVar[tuple[str, ...]] = ()
    #: Whether it learns inputs with several labels at once.
    multilabel: ClassVar[bool] = False
    #: Whether it was fitted to such.
    multilabel_ = False

    epochs: int = whole(10, "passes of fit over its data; partial_fit makes one")
    batch_size: int = whole(128, "rows of a mini-batch")

    # -- what users call ------------------------------------------------------------------------------------------

    def partial_fit(
        self,
        X: ArrayLike | Tensor,
        y: ArrayLike | Tensor,
        task: object = None,
        *,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Learn from one more chunk of the stream, in the order of its rows.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
            Inputs; the first call settles the shape of one input.
        y : array or tensor of shape (n,) or (n, k)
            Labels: integers or strings, new ones at any time. For systems that are :attr:`multilabel` also zeros and
            ones, a column for each of ``classes``.
        task : int or str, optional
            The chunk's task, for systems that see it; the others ignore it.
        classes : sequence of k labels, optional
            The labels that the columns of a matrix ``y`` stand for; 0, 1, ... unless given.

        Raises
        ------
        ValueError
            For empty chunks, NaN or infinite inputs, lengths that differ, another input shape than before, a missing
            ``task`` where the system needs one, or a changed setting of :attr:`STRUCTURE`. The model is left as it was.
        TypeError
            For labels of another kind than before.
        NotFinite
            If training made a NaN or infinite weight or answer; the model is left as it was. What is trained when a
            prediction is asked for (:class:`JointTraining`, TAME's selector) is checked then.
        """
        X_, y_, shown = self._check_annotated(X, y, task, classes)
        with self._update():
            if not self.__sklearn_is_fitted__():
                self._first_chunk(X_, shown)
                if y_.ndim == 2:
                    self.multilabel_ = True
            self._check_shape_kept()
            codes, told = self._encode(shown), self._task_for_learner(task)
            if told is not None:
                self.task_codes_.setdefault(told, set()).update(np.unique(codes).tolist())
            with isolated(derive(self.seed, "chunk", self.n_chunks_)):
                X_, targets = X_.to(self._device), self._annotated(y_, codes) if y_.ndim == 2 else codes
                self._learn(X_, torch.from_numpy(targets).to(self._device), told)
                require_finite_weights(self._trained(), f"after chunk {self.n_chunks_}")
                self._check_answers(X_[:_PROBED], told)
            self.n_chunks_ += 1
        return self

    def fit(
        self,
        X: ArrayLike | Tensor,
        y: ArrayLike | Tensor,
        task: object = None,
        *,
        classes: ArrayLike | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Forget everything, then make ``epochs`` shuffled passes over (X, y) as one task, and end that task."""
        X_, y_, shown = self._check_annotated(X, y, task, classes, fresh=True)
        if y_.ndim == 1 and len(np.unique(y_)) < 2:
            raise ValueError(f"y has one class only ({y_[0].item()!r}): a classifier needs at least 2 classes")
        progress = heard(progress)
        with self._refit():
            rng = np.random.default_rng(derive(self.seed, "fit"))
            for epoch in range(1, self.epochs + 1):
                order = rng.permutation(len(y_))
                columns = {"classes": shown} if y_.ndim == 2 else {}
                self.partial_fit(X_[torch.from_numpy(order)], y_[order], task=task, **columns)
                progress(epoch / self.epochs)
            self.end_task()
        return self

    def end_task(self) -> Self:
        """Tell the learner that the task so far is over; only systems that see at least ``boundary`` react."""
        return self

    def predict_proba(self, X: ArrayLike | Tensor, task: object = None) -> Any:
        """Return class probabilities, shape (n, n_classes), columns in the order of ``classes_``.

        Those of a row sum to 1, but for models of several labels at once, where each is a probability by itself. With
        ``task`` (systems that see it at test), the probability of classes never seen in that task is 0.
        """
        X_ = self._check_query(X)
        task = self._task_for_query(task)
        with torch.no_grad(), isolated(derive(self.seed, "predict")):
            scores = torch.cat([self._scores(part.to(self._device), task) for part in X_.split(4096)])
        probabilities = self._probabilities(scores)
        return as_given(probabilities, X)

    def predict(self, X: ArrayLike | Tensor, task: object = None) -> Any:
        """Return the most probable label of each input, shape (n,); a tensor for tensors with numeric labels.

        Models of several labels at once return zeros and ones (n, n_classes), columns in the order of ``classes_``.
        """
        probabilities = self.predict_proba(X, task)
        if self.multilabel_:
            return (probabilities >= 0.5) * 1
        return most_probable(probabilities, self.classes_)

    def set_params(self, **params: Any) -> Self:
        """Set parameters, nested ones as ``group__name``, from the next chunk or the next prediction on."""
        if params and self.__sklearn_is_fitted__():
            with suppress(NotFinite):  # what diverged under the old settings is trained under the new ones
                self._catch_up()
        return super().set_params(**params)

    def cost(self) -> dict[str, int]:
        """Return what the model keeps: trainable parameters, all stored numbers, and stored training samples."""
        self._check_fitted()
        kept = [getattr(self, name) for name in self._fitted() if name != "classes_"]
        return {**cost_of(kept), "stored_samples": sum(len(part) for part in kept if isinstance(part, Reservoir))}

    @classmethod
    def settings_for(cls, stream: Any) -> dict[str, Any]:
        """Return constructor arguments that the public facts of a stream settle (``batch_size``, ``epochs``, ...).

        Parameters
        ----------
        stream : anytask.problems.task_stream.stream.StreamFacts
            ``batch_size``, ``epochs``, ``input_shape`` and ``classes_per_task`` of the stream to come.
        """
        return {"batch_size": stream.batch_size, "epochs": stream.epochs}

    # -- what a system writes -------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Set the plain values of the fitted state before the first chunk (``load`` puts back what they had become)."""

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        """Update from a checked chunk: X (n, \\*input_shape) float32, y (n,) int64 codes in order of appearance.

        Of inputs with several labels: y (n, number of codes) float32, 0, 1, or NaN where it is not annotated.
        """
        raise NotImplementedError

    def _scores(self, X: Tensor, task: object) -> Tensor:
        """Return log-probabilities or logits (n, number of codes); ``-inf`` rules a class out."""
        raise NotImplementedError

    def _catch_up(self) -> None:
        """Train now what a system would train when it is next asked for a prediction."""

    @torch.no_grad()
    def _check_answers(self, X: Tensor, task: object) -> None:
        """Raise :class:`NotFinite` if the chunk under way left the system unable to answer some of its rows."""
        require_finite(self._normalized(self._scores(X, task)), f"an answer after chunk {self.n_chunks_}", _ADVICE)

    def _trained(self) -> Iterator[nn.Module]:
        """Give the modules that the chunk under way may have changed."""
        return (module for module in self._modules() if not isinstance(module, Snapshot))

    def _modules(self) -> Iterator[nn.Module]:
        """Give the modules of the fitted state."""
        return (getattr(self, name) for name in self._fitted() if isinstance(getattr(self, name), nn.Module))

    # -- shared steps ---------------------------------------------------------------------------------------------

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Train at the end of a task inside the block: under the settings of the fit, and finite or put back."""
        with self._update(), isolated(derive(self.seed, "end", self.n_chunks_)):
            self._check_shape_kept()
            yield
            require_finite_weights(self._trained(), "at the end of a task")

    def _minibatches(self, n: int) -> Iterator[slice]:
        for start in range(0, n, self.batch_size):
            yield slice(start, min(start + self.batch_size, n))

    def _mask_to_task(self, scores: Tensor, task: object) -> Tensor:
        """Rule out the classes that were never seen in ``task``; all stay in when ``task`` is None."""
        if task is None:
            return scores
        keep = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
        keep[sorted(self.task_codes_[task])] = True
        return scores.masked_fill(~keep, -torch.inf)

    def _first_chunk(self, X: Tensor, y: np.ndarray) -> None:
        self.input_shape_ = tuple(X.shape[1:])
        self.n_features_in_ = int(np.prod(self.input_shape_))
        self.labels_: list[Any] = []
        self.classes_ = np.array([], dtype=y.dtype)
        self.task_codes_: dict[Any, set[int]] = {}
        self.n_chunks_ = 0
        self._start()
        self._keep_shape()
        with isolated(derive(self.seed, "init")):
            self._build()

    def _shaping(self) -> tuple[str, ...]:
        return ("seed", *self.STRUCTURE)

    def _encode(self, y: np.ndarray) -> np.ndarray:
        code_of = {label: code for code, label in enumerate(self.labels_)}
        labels, first = np.unique(y, return_index=True)
        for label in labels[first.argsort()].tolist():
            code_of.setdefault(label, len(code_of))
        if len(code_of) > len(self.labels_):
            self.labels_ = list(code_of)
            self.classes_ = np.sort(np.array(self.labels_, dtype=np.result_type(self.classes_.dtype, y.dtype)))
        return np.array([code_of[label] for label in y.tolist()], dtype=np.int64)

    def _probabilities(self, scores: Tensor) -> Tensor:
        """Turn scores, whose columns are codes, into finite probabilities in the order of ``classes_``."""
        order = np.argsort(np.array(self.labels_, dtype=self.classes_.dtype), kind="stable")
        chosen = scores[:, torch.from_numpy(order).to(scores.device)]
        return require_finite(self._normalized(chosen), "a probability", _ADVICE)

    def _normalized(self, scores: Tensor) -> Tensor:
        return scores.sigmoid() if self.multilabel_ else scores.softmax(dim=1)

    def _annotated(self, y: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return a matrix over all labels (n, number of codes), NaN where the chunk's (n, k) says nothing."""
        Y = np.full((len(y), len(self.labels_)), np.nan, dtype=np.float32)
        Y[:, codes] = y
        return Y

    def _task_for_learner(self, task: object) -> object:
        return _task_key(task) if task is not None and ACCESS.index(self.sees) >= ACCESS.index("train") else None

    def _task_for_query(self, task: object) -> object:
        if task is None and self.needs == "test":
            raise ValueError(f"{type(self).__name__} needs to know the task at test time: pass predict(X, task=...)")
        if task is None or self.sees != "test":
            return None
        if _task_key(task) not in self.task_codes_:
            raise ValueError(f"task {task!r} was never trained; known tasks: {sorted(map(str, self.task_codes_))}")
        return _task_key(task)

    def _check_annotated(
        self,
        X: ArrayLike | Tensor,
        y: ArrayLike | Tensor,
        task: object,
        classes: ArrayLike | None,
        fresh: bool = False,
    ) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Return inputs, labels (n,) or (n, k), and the labels that the chunk shows: the former, or the k classes."""
        shape = as_array(y, "y").shape if self.multilabel else ()
        several = self.multilabel and (classes is not None or (len(shape) == 2 and shape[1] > 1))
        if classes is not None and not several:
            raise ValueError(f"classes names the columns of a matrix, and {type(self).__name__} learns one label a row")
        if self.__sklearn_is_fitted__() and not fresh and several != self.multilabel_:
            before = "matrices of zeros and ones" if self.multilabel_ else "one label a row"
            raise ValueError(f"y has the shape {shape}, and the model learned {before} before: keep to one kind")
        if not several:
            X_, y_ = self._check_chunk(X, y, task, fresh)
            return X_, y_, y_
        Y, shown = check_label_matrix(y, classes)
        X_, _ = self._check_chunk(X, np.resize(shown, len(Y)), task, fresh)  # a label a row, of the same kind
        return X_, Y, shown

    def _check_chunk(
        self, X: ArrayLike | Tensor, y: ArrayLike | Tensor, task: object, fresh: bool = False
    ) -> tuple[Tensor, np.ndarray]:
        X_, y_ = check_inputs(X), check_labels(y)
        check_same_length(X_, y_)
        if task is None and ACCESS.index(self.needs) >= ACCESS.index("train"):
            learner = type(self).__name__
            raise ValueError(f"{learner} needs to know the task in training: pass partial_fit(X, y, task=...)")
        if self.__sklearn_is_fitted__() and not fresh:
            check_input_shape(X_, self.input_shape_, type(self).__name__)
            if (y_.dtype.kind in "US") != (self.classes_.dtype.kind in "US"):
                raise TypeError(f"labels were {self.classes_.dtype} before and are {y_.dtype} now: keep to one kind")
        return X_, y_

    def _check_query(self, X: ArrayLike | Tensor) -> Tensor:
        self._check_fitted()
        X_ = check_inputs(X)
        check_input_shape(X_, self.input_shape_, type(self).__name__)
        return X_


class Embedding:
    """What learners with features add to the protocol: :meth:`embed`; they write ``_embed``."""

    def embed(self: Any, X: ArrayLike | Tensor) -> Any:
        """Return the features (n, d) that a new few-shot task starts from: compare them with its class means.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
        """
        X_ = self._check_query(X)
        with torch.no_grad(), isolated(derive(self.seed, "embed")):
            z = torch.cat([self._embed(part.to(self._device)).flatten(1) for part in X_.split(4096)])
        return as_given(require_finite(z, "a feature", _ADVICE), X)

    def _embed(self, X: Tensor) -> Tensor:
        """Return the features of checked inputs (n, \\*input_shape)."""
        raise NotImplementedError


def _task_key(task: object) -> object:
    plain = isinstance(task, np.generic) or (isinstance(task, Tensor) and task.numel() == 1 and not task.is_meta)
    value = task.item() if plain else task  # type: ignore[attr-defined]
    if not isinstance(value, (int, str)):
        raise TypeError(f"task must be an integer or a string, got {type(value).__name__}")
    return value
