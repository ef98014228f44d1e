"""Input validation that every family shares: finite inputs, one-dimensional labels, finite training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.exceptions import DataConversionWarning
from torch import Tensor, nn

from anytask.core.errors import NotFinite, instance_of, shown


def require_finite(value: Tensor | np.ndarray | float, stage: str, advice: str = "") -> Any:
    """Return ``value``, or say that it is NaN or infinite.

    Parameters
    ----------
    value : tensor, array or float
    stage : str
        What the value is, as the subject of the message: "the loss at step 3".
    advice : str, optional
        What to change, where the caller knows.

    Raises
    ------
    NotFinite
        A ``FloatingPointError`` and a ``ValueError``.

    Examples
    --------
    >>> require_finite(torch.tensor([1.0, float("nan")]), "the loss at step 3", "lower lr")
    Traceback (most recent call last):
        ...
    anytask.core.errors.NotFinite: the loss at step 3 is NaN or infinite: lower lr
    """
    finite = torch.isfinite(value).all() if isinstance(value, Tensor) else np.isfinite(value).all()
    if not bool(finite):
        raise NotFinite(f"{stage} is NaN or infinite" + (f": {advice}" if advice else ""))
    return value


def require_finite_weights(modules: Iterable[nn.Module], stage: str) -> None:
    """Say so if a weight or a buffer of ``modules`` is NaN or infinite."""
    for module in modules:
        for name, value in module.state_dict().items():
            if isinstance(value, Tensor) and value.is_floating_point():
                require_finite(value, f"{name} {stage}", "lower lr, or check the scale of the inputs")


def is_missing(value: Any) -> bool:
    """Return whether one value stands for none: None, NaN, or what pandas has for a missing value.

    Examples
    --------
    >>> [is_missing(value) for value in (None, float("nan"), "nan", 0)]
    [True, True, False, False]
    """
    return value is None or (not isinstance(value, str) and str(value) in ("nan", "<NA>", "NaT"))


def check_counts(**named: Any) -> None:
    """Say so if a named value is no integer of at least 1.

    Examples
    --------
    >>> check_counts(episodes=0)
    Traceback (most recent call last):
        ...
    ValueError: episodes must be an integer of at least 1, got 0
    """
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {shown(value)}")
        if value >= 2**63:  # which no array has room for
            raise ValueError(f"{name} must be an integer below 2**63, got {shown(value)}")


def check_sizes(shape: Any, name: str) -> None:
    """Say so if a shape is no tuple of integers of at least 1.

    Examples
    --------
    >>> check_sizes((4, 0), "input_shape")
    Traceback (most recent call last):
        ...
    ValueError: input_shape[1] must be an integer of at least 1, got 0
    """
    instance_of(name, tuple, optional=False)(shape)
    check_counts(**{f"{name}[{place}]": size for place, size in enumerate(shape)})


def check_place(index: Any, n: int, what: str) -> int:
    """Return an index from 0 to n - 1, negative ones counted from the end, or say that there is no such thing.

    Examples
    --------
    >>> check_place(3, 2, "samples")
    Traceback (most recent call last):
        ...
    ValueError: there are 2 samples, got index 3
    """
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not -n <= index < n:
        raise ValueError(f"there are {n} {what}, got index {shown(index)}")
    return int(index) % n


def as_numbers(X: Any, name: str = "X") -> Tensor | np.ndarray:
    """Return ``X`` as a dense tensor without gradients or an array of numbers, or say what is wrong with it."""
    given = dense(X, name)
    if isinstance(given, Tensor):
        return given
    if given.dtype.kind not in "biuf":
        try:
            if given.dtype.kind in "mM":
                raise TypeError("turn dates into numbers first")
            given = given.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{name} must be numeric, got {given.dtype}: {error}") from error
    return given.astype(given.dtype.newbyteorder("="), copy=False)


def check_numbers(X: ArrayLike | Tensor, name: str = "X") -> Tensor:
    """Return ``X`` as a dense tensor without gradients, or say what is wrong with it.

    Of what is no tensor, whole numbers keep their type, and all others become float32.
    """
    given = as_numbers(X, name)
    if isinstance(given, Tensor):
        return given
    dtype = np.dtype(np.float32) if given.dtype.kind == "f" else given.dtype
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.require(given, dtype, ["C", "W"]))


def check_rows(X: Any, name: str = "X") -> None:
    """Say so if ``X``, which has a shape, does not hold at least one input of at least one value."""
    shape = tuple(X.shape)
    if len(shape) < 2:
        raise ValueError(f"{name} must have shape (n, features...), got {shape}. Reshape your data.")
    if shape[0] == 0:
        raise ValueError(f"Found array with 0 sample(s) (shape={shape}) while a minimum of 1 is required.")
    if 0 in shape:
        raise ValueError(f"0 feature(s) (shape={shape}) while a minimum of 1 is required.")


def check_inputs(X: ArrayLike | Tensor, name: str = "X") -> Tensor:
    """Return ``X`` as a finite float32 tensor of shape (n, ...), n >= 1, or say what is wrong with it."""
    tensor = check_numbers(X, name)
    check_rows(tensor, name)
    return require_finite_rows(tensor.to(torch.float32), name)


def require_finite_rows(values: Any, name: str, first: int = 0) -> Any:
    """Return rows (n, ...), or name the first with a NaN or an infinite value; rows count from ``first``."""
    finite = torch.isfinite(values) if isinstance(values, Tensor) else np.isfinite(values)
    if not bool(finite.all()):
        row = first + int(np.argmin(np.asarray(finite.reshape(len(finite), -1).all(1).tolist())))
        raise ValueError(f"{name} contains NaN or infinity in row {row}: only finite values are accepted")
    return values


def check_labels(y: ArrayLike | Tensor, name: str = "y") -> np.ndarray:
    """Return ``y`` as a one-dimensional array of integer, boolean or string labels, or say what is wrong with it."""
    if y is None:
        raise ValueError(f"This estimator requires {name} to be passed, but the target {name} is None")
    array = as_array(y, name)
    if array.ndim == 2 and array.shape[1] == 1:
        message = f"A column-vector {name} was passed when a 1d array was expected: its one column is taken."
        warnings.warn(message, DataConversionWarning, stacklevel=3)
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {array.shape}")
    if array.dtype.kind == "O":
        kinds = {type(label) for label in array.tolist()}
        if all(issubclass(kind, str) for kind in kinds):
            array = array.astype(str)
        elif all(issubclass(kind, (int, np.integer, np.bool_)) for kind in kinds):
            try:
                array = array.astype(np.int64)
            except OverflowError as error:
                raise ValueError(f"{name} holds an integer beyond 64 bits: use strings") from error
        elif gaps := [row for row, label in enumerate(array.tolist()) if is_missing(label)]:
            raise ValueError(f"{name} contains NaN or None in row {gaps[0]}: each row needs a label")
        else:
            found = sorted(k.__name__ for k in kinds)
            raise TypeError(f"{name} mixes kinds of labels: {found}; use strings or integers")
    if array.dtype.kind == "f":
        require_finite_rows(array, name)
        if (array != np.floor(array)).any():
            row = int(np.argmax(array != np.floor(array)))
            raise ValueError(f"Unknown label type: continuous ({name}[{row}] is not whole)")
        if (large := abs(array.astype(np.float64)) > 2**53).any():
            row = int(large.argmax())
            raise ValueError(f"{name}[{row}] is a float beyond 2**53, which stands for several integers: use integers")
    elif array.dtype.kind not in "biuU":
        raise TypeError(f"labels must be integers or strings, got {array.dtype}")
    return array


def class_codes(y: ArrayLike | Tensor, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes of n labels, two at least, and for each label the place of its class.

    Examples
    --------
    >>> classes, codes = class_codes(["b", "a", "b"], 3)
    >>> classes.tolist(), codes.tolist()
    (['a', 'b'], [1, 0, 1])
    """
    y_ = check_labels(y)
    check_same_length(np.empty(n), y_)
    classes, codes = np.unique(y_, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y has one class only ({classes.tolist()[0]!r}): a classifier needs at least 2 classes")
    return classes, codes


def check_label_matrix(y: ArrayLike | Tensor, classes: ArrayLike | None, name: str = "y") -> tuple[np.ndarray, Any]:
    """Return a matrix of zeros and ones (n, k) as float32, and the k labels of its columns.

    Parameters
    ----------
    y : array or tensor of shape (n, k)
    classes : sequence of k labels, optional
        0, 1, ... unless given.

    Examples
    --------
    >>> Y, classes = check_label_matrix([[1, 0], [1, 1]], ["cat", "dog"])
    >>> Y.tolist(), classes.tolist()
    ([[1.0, 0.0], [1.0, 1.0]], ['cat', 'dog'])
    >>> check_label_matrix([[1, 0.5]], None)
    Traceback (most recent call last):
        ...
    ValueError: y must be zeros and ones of shape (n, k), one column for each label; y[0, 1] is 0.5
    """
    values = as_array(as_numbers(y, name), name)
    wanted = f"{name} must be zeros and ones of shape (n, k), one column for each label"
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{wanted}, got shape {values.shape}")
    if (bad := (values != 0) & (values != 1)).any():
        row, column = np.argwhere(bad)[0].tolist()
        raise ValueError(f"{wanted}; {name}[{row}, {column}] is {values[row, column]:g}")
    labels = np.arange(values.shape[1]) if classes is None else check_labels(classes, "classes")
    if len(labels) != values.shape[1] or len(np.unique(labels)) != len(labels):
        raise ValueError(f"classes must name the {values.shape[1]} columns of {name}, all different, got {labels!r}")
    return values.astype(np.float32), labels


def as_array(X: Any, name: str = "X") -> np.ndarray:
    """Return ``X`` as a dense array of whatever it holds, or say why there is none."""
    given = dense(X, name)
    if isinstance(given, Tensor):
        return (given.float() if given.dtype == torch.bfloat16 else given).cpu().numpy()
    return given


def dense(value: Any, name: str) -> Tensor | np.ndarray:
    """Return a dense tensor without gradients, or an array, or say why there is none."""
    if isinstance(value, Tensor):
        if value.is_nested or value.is_quantized or value.is_meta or value.layout is not torch.strided:
            kind = "nested" if value.is_nested else "quantized" if value.is_quantized else value.layout
            raise TypeError(f"{name} must be a dense tensor that holds values, got {kind} on {value.device}")
        if value.is_complex():
            raise ValueError(f"Complex data not supported: {name} is {value.dtype}")
        return value.detach()
    if hasattr(value, "toarray"):
        raise TypeError(f"{name} is a sparse matrix, and dense data is required: use {name}.toarray()")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} is a masked array with masked values: fill them first, {name}.filled(...)")
    pandas = hasattr(value, "to_numpy") and hasattr(value, "index")  # whose missing values numpy does not know
    try:
        array = np.asarray(value) if not pandas else value.to_numpy(**({"na_value": np.nan} if _gaps(value) else {}))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is no array of numbers of one shape: {str(error).splitlines()[0]}") from error
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} is {array.dtype}")
    return array.astype(object) if array.dtype.kind == "T" else array  # strings of any length


def label_places(y: ArrayLike | Tensor, X: Tensor, n: int, name: str = "y", of: str = "X") -> Tensor:
    """Return labels as places among n logits, one for each of the inputs X, or raise a ValueError.

    Examples
    --------
    >>> label_places([0, 2], torch.zeros(2, 4), 3)
    tensor([0, 2])
    """
    places = check_labels(y, name)
    check_same_length(X, places, of, name)
    if places.dtype.kind not in "iu" or places.min() < 0 or places.max() >= n:
        raise ValueError(f"{name} must hold places among the {n} logits, from 0 to {n - 1}")
    return torch.from_numpy(places.astype(np.int64))


def _gaps(values: Any) -> bool:
    """Whether values are missing of what is pandas' own."""
    return bool(np.asarray(values.isna()).any())


def check_same_length(X: Any, y: Any, X_name: str = "X", y_name: str = "y") -> None:
    """Say so if two inputs have different numbers of rows."""
    if len(X) != len(y):
        raise ValueError(f"{X_name} has {len(X)} rows and {y_name} has {len(y)} labels: they must match")


def check_weights(given: ArrayLike | Tensor, n: int, name: str = "sample_weight") -> np.ndarray:
    """Return ``n`` weights as float64, or say what is wrong with them.

    Examples
    --------
    >>> check_weights([1, 0, 2], 3)
    array([1., 0., 2.])
    >>> check_weights([1, -1, 2], 3)
    Traceback (most recent call last):
        ...
    ValueError: sample_weight must be 3 finite numbers of at least 0, one of them above 0; the smallest is -1
    """
    numbers = as_numbers(given, name)
    weights = np.asarray(numbers.cpu() if isinstance(numbers, Tensor) else numbers, dtype=np.float64)
    wanted = f"{name} must be {n} finite numbers of at least 0, one of them above 0"
    if weights.shape != (n,):
        raise ValueError(f"{wanted}; got shape {weights.shape}")
    if not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
        raise ValueError(f"{wanted}; the smallest is {weights.min():g}")
    return weights


def check_input_shape(X: Tensor, shape: tuple[int, ...], learner: str) -> None:
    """Say so if the rows of ``X`` have another shape than those learned from."""
    if tuple(X.shape[1:]) == tuple(shape):
        return
    if len(shape) == 1 and X.ndim == 2:  # scikit-learn's own words, which its tools look for
        raise ValueError(f"X has {X.shape[1]} features, but {learner} is expecting {shape[0]} features as input.")
    raise ValueError(f"X holds inputs of shape {tuple(X.shape[1:])}, but {learner} learned from {tuple(shape)}")


def as_given(values: Tensor, X: ArrayLike | Tensor) -> Any:
    """Return an answer as its question came: a tensor where X is, or a float64 array."""
    return values.to(X.device) if isinstance(X, Tensor) else values.cpu().numpy().astype(np.float64)


def most_probable(probabilities: Any, classes: np.ndarray) -> Any:
    """Return the most probable label of each row, shape (n,); a tensor for tensors, where labels are numbers.

    Examples
    --------
    >>> most_probable(np.array([[0.2, 0.8]]), np.array(["a", "b"])).tolist()
    ['b']
    """
    best = probabilities.argmax(1)
    labels = classes[best.cpu().numpy() if isinstance(best, Tensor) else best]
    as_tensor = isinstance(best, Tensor) and labels.dtype.kind in "iufb"
    return torch.from_numpy(labels).to(best.device) if as_tensor else labels
