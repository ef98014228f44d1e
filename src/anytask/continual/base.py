"""The protocol of the continual family: scikit-learn estimators that learn from a stream, one chunk at a time.

A chunk goes the same way in every system: ``partial_fit`` checks it at the door, turns it into tensors and label
indices, and hands it to the system's ``_learn`` inside a rollback, so a failed call leaves the model as it was.
"""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import DataConversionWarning, NotFittedError
from torch import Tensor, nn

from anytask.core.devices import resolve_device
from anytask.core.persistence import load_tree, save_tree
from anytask.core.rng import derive, isolated
from anytask.core.rollback import rollback

__all__ = ["ContinualClassifier"]

#: What a learner may be told of the task, from least to most.
ACCESS = ("none", "boundary", "train", "test")


class ContinualClassifier(ClassifierMixin, BaseEstimator):
    """Base of the continual classifiers.

    A system declares its parameters in ``__init__`` (stored as they come, as scikit-learn asks), its two presets in
    :attr:`PRESETS`, and implements four short methods: :meth:`_learn`, :meth:`_scores`, :meth:`_state` and
    :meth:`_load_state`. Everything else is the same for all of them.

    Parameters every system has
    ---------------------------
    preset : {"paper", "small"}
        Which column of :attr:`PRESETS` fills in the parameters left at ``None``.
    epochs : int
        Passes that :meth:`fit` makes over its data; :meth:`partial_fit` makes one.
    batch_size : int
        Size of the mini-batches a chunk is cut into, in the order of its rows.
    seed : int
        Everything random follows from it; the global generators are not touched.
    device : str
        ``"auto"`` (CUDA when there is one), or a torch device.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels seen so far, sorted; the columns of :meth:`predict_proba`.
    n_features_in_ : int
        Number of values in one input.
    input_shape_ : tuple of int
        Shape of one input.
    """

    #: The least a system must be told of the task, and the most it looks at; a key of :data:`ACCESS` each.
    needs: ClassVar[str] = "none"
    sees: ClassVar[str] = "none"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "small": {}}

    # -- what users call ------------------------------------------------------------------------------------------

    def partial_fit(self, X: ArrayLike | Tensor, y: ArrayLike | Tensor, task: object = None) -> Self:
        """Learn from one more chunk of the stream, in the order of its rows.

        Parameters
        ----------
        X : array or tensor of shape (n, ...)
            Inputs; the first call settles the shape of one input.
        y : array or tensor of shape (n,)
            Labels: integers or strings, new ones at any time.
        task : int or str, optional
            The chunk's task, for systems that see it; the others ignore it.

        Raises
        ------
        ValueError
            For empty chunks, NaN or infinite inputs, lengths that differ, another input shape than before, or a
            missing ``task`` where the system needs one. The model is left as it was.
        TypeError
            For labels of another kind than before.
        """
        X_, y_ = self._check_chunk(X, y, task)
        new = not hasattr(self, "input_shape_")
        with rollback(self, skip=frozenset(self.get_params(deep=False))):
            if new:
                self._start(tuple(X_.shape[1:]), y_)
            codes = self._encode(y_)
            self._count_task(codes, task)
            with isolated(derive(self.seed, "chunk", self.n_chunks_)):
                self._learn(X_.to(self.device_), torch.from_numpy(codes).to(self.device_), self._task_for_learner(task))
            self.n_chunks_ += 1
        return self

    def fit(self, X: ArrayLike | Tensor, y: ArrayLike | Tensor, task: object = None) -> Self:
        """Forget everything, then make ``epochs`` shuffled passes over (X, y) as one task, and end that task."""
        X_, y_ = self._check_chunk(X, y, task, fresh=True)
        if len(np.unique(y_)) < 2:
            raise ValueError(f"y has one class only ({y_[0]!r}): a classifier needs at least 2 classes")
        before = dict(vars(self))
        try:
            params = self.get_params(deep=False)  # lambda_ and its like end in an underscore too
            for name in [n for n in vars(self) if n.endswith("_") and n not in params]:
                delattr(self, name)
            rng = np.random.default_rng(derive(self.seed, "fit"))
            for _ in range(self.epochs):
                order = rng.permutation(len(y_))
                self.partial_fit(X_[torch.from_numpy(order)], y_[order], task=task)
            self.end_task()
        except BaseException:
            self.__dict__ = before
            raise
        return self

    def end_task(self) -> Self:
        """Tell the learner that the task so far is over; only systems that see at least ``boundary`` react."""
        return self

    def predict_proba(self, X: ArrayLike | Tensor, task: object = None) -> Any:
        """Return class probabilities, shape (n, n_classes), columns in the order of ``classes_``.

        With ``task`` (systems that see it at test), the probability of classes never seen in that task is 0.
        """
        X_ = self._check_query(X)
        task = self._task_for_query(task)
        with torch.no_grad(), isolated(derive(self.seed, "predict")):
            parts = [self._scores(part.to(self.device_), task) for part in X_.split(4096)]
        scores = torch.cat(parts)[:, torch.from_numpy(self._order).to(self.device_)]  # (n, n_classes)
        probabilities = scores.softmax(dim=1)
        if isinstance(X, Tensor):
            return probabilities.to(X.device)
        return probabilities.cpu().numpy().astype(np.float64)

    def predict(self, X: ArrayLike | Tensor, task: object = None) -> Any:
        """Return the most probable label of each input, shape (n,); a tensor for tensors with numeric labels."""
        probabilities = self.predict_proba(X, task)
        best = probabilities.argmax(1)
        labels = self.classes_[best.cpu().numpy() if isinstance(best, Tensor) else best]
        if isinstance(X, Tensor) and labels.dtype.kind in "iufb":
            return torch.from_numpy(labels).to(X.device)
        return labels

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model to ``folder`` as safetensors + JSON; :meth:`load` gives the same predictions."""
        self._check_fitted()
        tree = {
            "class": f"{type(self).__module__}:{type(self).__qualname__}",
            "params": {name: _param_to_json(value) for name, value in self.get_params(deep=False).items()},
            "stream": {
                "labels": list(self._codes),
                "label_dtype": self.classes_.dtype.str,
                "input_shape": self.input_shape_,
                "n_chunks": self.n_chunks_,
                "tasks": {key: set(codes) for key, codes in self._task_codes.items()},
            },
            "state": self._state(),
        }
        save_tree(folder, tree)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str = "auto", **params: Any) -> Self:
        """Read a model that :meth:`save` wrote.

        Parameters
        ----------
        folder : path
            The folder given to :meth:`save`.
        device : str
            Where the model is to live.
        **params
            Constructor arguments that cannot be saved, such as a backbone given as a module: pass them again.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no model of this class there, or a parameter has to be passed again.
        """
        tree = load_tree(folder)
        name = f"{cls.__module__}:{cls.__qualname__}"
        if tree.get("class") != name:
            raise ValueError(f"{folder} holds a {tree.get('class')}, not a {name}")
        settings = {k: _param_from_json(k, v) for k, v in tree["params"].items() if k not in params}
        model = cls(**{**settings, **params, "device": device})
        stream = tree["stream"]
        model._settle(stream["input_shape"])
        model._codes = {label: code for code, label in enumerate(stream["labels"])}
        model._sort_classes(np.dtype(stream["label_dtype"]))
        model._task_codes = stream["tasks"]
        model.n_chunks_ = stream["n_chunks"]
        with isolated(derive(model.seed, "init")):
            model._build(model.input_shape_)
            model._load_state(tree["state"])
        return model

    def cost(self) -> dict[str, int]:
        """Return what the model keeps: trainable parameters, all stored numbers, and stored training samples."""
        self._check_fitted()
        return {"trainable_parameters": 0, "stored_parameters": 0, "stored_samples": 0}

    @classmethod
    def settings_for(cls, stream: Any) -> dict[str, Any]:
        """Return constructor arguments that the public facts of a stream settle (``batch_size``, ``epochs``, ...).

        Parameters
        ----------
        stream : anytask.problems.task_stream.StreamFacts
            ``batch_size``, ``epochs``, ``input_shape`` and ``classes_per_task`` of the stream to come.
        """
        return {"batch_size": stream.batch_size, "epochs": stream.epochs}

    # -- what a system writes -------------------------------------------------------------------------------------

    def _build(self, input_shape: tuple[int, ...]) -> None:
        """Make the fitted state for inputs of this shape (called once, before the first chunk, and by ``load``)."""
        raise NotImplementedError

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        """Update from a checked chunk: X (n, \\*input_shape) float32, y (n,) int64 codes in order of appearance."""
        raise NotImplementedError

    def _scores(self, X: Tensor, task: object) -> Tensor:
        """Return log-probabilities or logits (n, number of codes); ``-inf`` rules a class out."""
        raise NotImplementedError

    def _state(self) -> Any:
        """Return the fitted state as a tree that :func:`anytask.core.persistence.save_tree` takes."""
        raise NotImplementedError

    def _load_state(self, state: Any) -> None:
        """Put back what :meth:`_state` returned, into an object on which ``_build`` has just been called."""
        raise NotImplementedError

    # -- shared steps ---------------------------------------------------------------------------------------------

    def _settings(self) -> SimpleNamespace:
        """The constructor's parameters, ``None`` filled in from the preset."""
        if self.preset not in self.PRESETS:
            raise ValueError(f"preset must be one of {sorted(self.PRESETS)}, got {self.preset!r}")
        preset = self.PRESETS[self.preset]
        params = self.get_params(deep=False)
        return SimpleNamespace(**{k: preset.get(k) if v is None else v for k, v in params.items()})

    def _minibatches(self, n: int) -> Iterator[slice]:
        size = self._settings().batch_size
        for start in range(0, n, size):
            yield slice(start, min(start + size, n))

    def _mask_to_task(self, scores: Tensor, task: object) -> Tensor:
        """Rule out the classes that were never seen in ``task``; all stay in when ``task`` is None."""
        if task is None:
            return scores
        keep = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
        keep[sorted(self._task_codes[task])] = True
        return scores.masked_fill(~keep, -torch.inf)

    def _start(self, input_shape: tuple[int, ...], y: np.ndarray) -> None:
        self._check_params()
        self._settle(input_shape)
        self._codes: dict[Any, int] = {}
        self._sort_classes(y.dtype)
        self._task_codes: dict[Any, set[int]] = {}
        self.n_chunks_ = 0
        with isolated(derive(self.seed, "init")):
            self._build(input_shape)

    def _settle(self, input_shape: tuple[int, ...]) -> None:
        self.input_shape_ = tuple(int(n) for n in input_shape)
        self.n_features_in_ = int(np.prod(self.input_shape_))
        self.device_ = resolve_device(self.device)

    def _check_params(self) -> None:
        s = self._settings()
        for name in ("batch_size", "epochs"):
            value = getattr(s, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if not isinstance(self.seed, (int, np.integer)) or self.seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got {self.seed!r}")

    def _encode(self, y: np.ndarray) -> np.ndarray:
        labels, first = np.unique(y, return_index=True)
        unseen = [label for label in labels[first.argsort()].tolist() if label not in self._codes]
        for label in unseen:
            self._codes[label] = len(self._codes)
        if unseen:
            self._sort_classes(np.result_type(self.classes_.dtype, y.dtype))
        return np.array([self._codes[label] for label in y.tolist()], dtype=np.int64)

    def _sort_classes(self, dtype: np.dtype) -> None:
        labels = np.array(list(self._codes), dtype=dtype)
        self._order = np.argsort(labels, kind="stable")
        self.classes_ = labels[self._order]

    def _count_task(self, codes: np.ndarray, task: object) -> None:
        if task is not None and ACCESS.index(self.sees) >= ACCESS.index("train"):
            self._task_codes.setdefault(_task_key(task), set()).update(np.unique(codes).tolist())

    def _task_for_learner(self, task: object) -> object:
        return _task_key(task) if task is not None and ACCESS.index(self.sees) >= ACCESS.index("train") else None

    def _task_for_query(self, task: object) -> object:
        if self.sees != "test" or task is None:
            if self.needs == "test":
                raise ValueError(
                    f"{type(self).__name__} needs to know the task at test time: pass predict(X, task=...)"
                )
            return None
        if _task_key(task) not in self._task_codes:
            raise ValueError(f"task {task!r} was never trained; known tasks: {sorted(map(str, self._task_codes))}")
        return _task_key(task)

    def _check_chunk(
        self, X: ArrayLike | Tensor, y: ArrayLike | Tensor, task: object, fresh: bool = False
    ) -> tuple[Tensor, np.ndarray]:
        X_ = check_inputs(X, "X")
        y_ = check_labels(y)
        if len(X_) != len(y_):
            raise ValueError(f"X has {len(X_)} rows and y has {len(y_)} labels: they must match")
        if task is None and ACCESS.index(self.needs) >= ACCESS.index("train"):
            raise ValueError(
                f"{type(self).__name__} needs to know the task in training: pass partial_fit(X, y, task=...)"
            )
        if hasattr(self, "input_shape_") and not fresh:
            self._check_shape(X_)
            if (y_.dtype.kind in "US") != (self.classes_.dtype.kind in "US"):
                raise TypeError(f"labels were {self.classes_.dtype} before and are {y_.dtype} now: keep to one kind")
        return X_, y_

    def _check_query(self, X: ArrayLike | Tensor) -> Tensor:
        self._check_fitted()
        X_ = check_inputs(X, "X")
        self._check_shape(X_)
        return X_

    def _check_shape(self, X: Tensor) -> None:
        if tuple(X.shape[1:]) != self.input_shape_:
            if len(self.input_shape_) == 1 and X.ndim == 2:  # scikit-learn's own words, which its tools look for
                raise ValueError(
                    f"X has {X.shape[1]} features, but {type(self).__name__} is expecting "
                    f"{self.n_features_in_} features as input."
                )
            raise ValueError(f"X holds inputs of shape {tuple(X.shape[1:])}, but {self.input_shape_} was learned")

    def _check_fitted(self) -> None:
        if not hasattr(self, "input_shape_"):
            raise NotFittedError(f"this {type(self).__name__} has seen no data yet: call partial_fit or fit first")


def check_inputs(X: ArrayLike | Tensor, name: str) -> Tensor:
    """Return ``X`` as a finite float32 tensor of shape (n, ...), n >= 1, or say what is wrong with it."""
    if isinstance(X, Tensor):
        tensor = X.detach()
        if tensor.is_complex():
            raise ValueError(f"Complex data not supported: {name} is {tensor.dtype}")
    else:
        if hasattr(X, "toarray"):
            raise TypeError(f"{name} is a sparse matrix, and dense data is required: use {name}.toarray()")
        array = np.asarray(X)
        if array.dtype.kind == "c":
            raise ValueError(f"Complex data not supported: {name} is {array.dtype}")
        if array.dtype.kind not in "biuf":
            try:
                array = array.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name} must be numeric, got {array.dtype}: {error}") from error
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if tensor.ndim < 2:
        raise ValueError(f"{name} must have shape (n, features...), got {tuple(tensor.shape)}. Reshape your data.")
    if len(tensor) == 0:
        raise ValueError(
            f"Found array with 0 sample(s) (shape={tuple(tensor.shape)}) while a minimum of 1 is required."
        )
    if 0 in tensor.shape:
        raise ValueError(f"0 feature(s) (shape={tuple(tensor.shape)}) while a minimum of 1 is required.")
    tensor = tensor.to(torch.float32)
    if not bool(torch.isfinite(tensor).all()):
        row = int((~torch.isfinite(tensor.flatten(1))).any(dim=1).nonzero()[0])
        raise ValueError(f"{name} contains NaN or infinity in row {row}: only finite values are accepted")
    return tensor


def check_labels(y: ArrayLike | Tensor) -> np.ndarray:
    """Return ``y`` as a one-dimensional array of integer, boolean or string labels, or say what is wrong with it."""
    if y is None:
        raise ValueError("This estimator requires y to be passed, but the target y is None")
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.ndim == 2 and array.shape[1] == 1:
        message = "A column-vector y was passed when a 1d array was expected: its one column is taken."
        warnings.warn(message, DataConversionWarning, stacklevel=3)
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"y must have shape (n,), got {array.shape}")
    if array.dtype.kind == "O":
        kinds = {type(label) for label in array.tolist()}
        if kinds <= {str}:
            array = array.astype(str)
        elif kinds <= {int, bool}:
            array = array.astype(np.int64)
        else:
            raise TypeError(f"y mixes kinds of labels: {sorted(k.__name__ for k in kinds)}; use strings or integers")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError(f"y contains NaN or infinity in row {int(np.argmax(~np.isfinite(array)))}")
        if (array != np.floor(array)).any():
            raise ValueError(
                f"Unknown label type: continuous (y[{int(np.argmax(array != np.floor(array)))}] is not whole)"
            )
    elif array.dtype.kind not in "biuU":
        raise TypeError(f"labels must be integers or strings, got {array.dtype}")
    return array


def parameter_count(*modules: nn.Module) -> int:
    """Return how many numbers the parameters of ``modules`` hold."""
    return sum(p.numel() for module in modules for p in module.parameters())


def _task_key(task: object) -> object:
    value = task.item() if isinstance(task, (np.generic, Tensor)) else task
    if not isinstance(value, (int, str)):
        raise TypeError(f"task must be an integer or a string, got {type(value).__name__}")
    return value


def _param_to_json(value: Any) -> Any:
    if isinstance(value, nn.Module) or (callable(value) and not _importable(value)):
        return {"again": type(value).__name__}
    if callable(value):
        return {"import": f"{value.__module__}:{value.__qualname__}"}
    try:
        json.dumps(value)
    except TypeError:
        return {"again": type(value).__name__}
    return {"value": value}


def _param_from_json(name: str, saved: dict[str, Any]) -> Any:
    if "again" in saved:
        raise ValueError(f"{name} (a {saved['again']}) could not be saved: pass it again, load(folder, {name}=...)")
    if "import" in saved:
        module, attribute = saved["import"].split(":")
        if not module.startswith("anytask."):
            raise ValueError(f"{name} names {saved['import']}, which is not part of anytask: refused")
        return getattr(importlib.import_module(module), attribute)
    return saved["value"]


def _importable(value: Any) -> bool:
    # A saved file may only name the library's own functions: loading must not import a module of the file's choice.
    module, name = str(getattr(value, "__module__", "")), getattr(value, "__qualname__", "<>")
    return module.startswith("anytask.") and "<" not in name and "." not in name
