"""Classes by what is said of them: prompts in, labels out, with any encoder of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from scipy.special import softmax
from sklearn.base import ClassifierMixin

from anytask.core.checks import check_labels
from anytask.core.errors import shown
from anytask.core.settings import check_number
from anytask.pretrain.parts.pairs import PairEncoder


class PromptClassifier(ClassifierMixin):
    """Say which class an item is of by the prompts that fit it best; the encoder stays as it is.

    The prototype of a class is the mean of its prompts' vectors, of length 1; :meth:`fit` moves it towards a few
    labelled items.

    Parameters
    ----------
    model : PairEncoder
        Fitted; items stand on its left, texts on its right.
    prompts : mapping of label to str or sequence of str
        What is said of each class, of two classes at least.
    temperature : float > 0, optional
        What cosines are divided by for probabilities; by default the model's own, if it has learned one, or 0.07.

    Raises
    ------
    ValueError, TypeError
        For one class alone, labels that are neither integers nor strings or are of both kinds, an empty prompt, or a
        temperature out of range.

    Examples
    --------
    >>> from anytask.pretrain import DualEncoder
    >>> pairs = [f"a {name} at {i}" for i in range(20) for name in ("cat", "dog")], ["meows", "barks"] * 20
    >>> model = DualEncoder(epochs=20, lr=0.01, targets="all").fit(*pairs)
    >>> PromptClassifier(model, {"feline": "meows", "canine": ["barks"]}).predict(["the dog at 99"]).tolist()
    ['canine']
    """

    def __init__(
        self, model: PairEncoder, prompts: Mapping[Any, str | Sequence[str]], temperature: float | None = None
    ) -> None:
        if not isinstance(prompts, Mapping):
            raise TypeError(f"prompts must say for each class what is said of it, got {shown(prompts)}")
        if len(prompts) < 2:
            raise ValueError(f"prompts must be of 2 classes at least, got {len(prompts)}")
        if not isinstance(model, PairEncoder):
            raise TypeError(f"model must be an encoder of pairs, got {shown(model)}")
        kinds = {bool if isinstance(label, np.bool_) else type(label) for label in prompts}
        if len(kinds) > 1 and not all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds):
            raise TypeError(f"prompts mix kinds of labels: {sorted(kind.__name__ for kind in kinds)}")
        self.model, self.prompts = model, prompts
        own = getattr(model, "temperature_", 0.07) if temperature is None else temperature
        self.temperature = check_number(own, "temperature", above=0)
        self.classes_ = check_labels(list(prompts), "prompts")
        texts = [_texts(label, said) for label, said in prompts.items()]
        vectors = model.transform([text for said in texts for text in said], side="right")
        self.prototypes_ = _means(vectors, np.repeat(np.arange(len(texts)), [len(said) for said in texts]))

    def fit(self, X: Any, y: Any, *, weight: float = 0.5) -> Self:
        """Move the prototypes of the classes that have labelled items towards the mean of these.

        Parameters
        ----------
        X : items, as on the left of the model
        y : array of shape (n,)
            Labels, of those of the prompts.
        weight : float in [0, 1], default 0.5
            Of the items against the prompts.
        """
        weight = check_number(weight, "weight", at_least=0, at_most=1)
        labels, vectors = check_labels(y), self.model.transform(X)
        places = {label: place for place, label in enumerate(self.classes_.tolist())}
        if unknown := [label for label in labels.tolist() if label not in places]:
            raise ValueError(f"y holds {unknown[0]!r}, which has no prompt")
        if len(labels) != len(vectors):
            raise ValueError(f"X has {len(vectors)} items and y {len(labels)}")
        codes = np.array([places[label] for label in labels.tolist()])
        own, present = _means(vectors, codes, len(places)), np.isin(np.arange(len(places)), codes)
        mixed = (1 - weight) * self.prototypes_ + weight * own
        self.prototypes_ = np.where(present[:, None], _unit(mixed), self.prototypes_)
        return self

    def cosines(self, X: Any) -> np.ndarray:
        """Return the cosine of each item and each prototype (n, n_classes): a low maximum fits no class."""
        return self.model.transform(X) @ self.prototypes_.T

    def unfamiliar(self, X: Any, known: Any, *, share: float = 0.05) -> np.ndarray:
        """Return whether each item is further from all classes than most known items are: a bool array of shape (n,).

        Parameters
        ----------
        X, known : items, as on the left of the model
            ``known`` are of the classes, and were not learned from; they need no labels.
        share : float in [0, 1], default 0.05
            Of the known items, that would be called unfamiliar too.
        """
        share = check_number(share, "share", at_least=0, at_most=1)
        least = np.quantile(self.cosines(known).max(1), share)
        return self.cosines(X).max(1) < least

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities (n, n_classes), columns in the order of the prompts."""
        return softmax(self.cosines(X) / self.temperature, axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return the label whose prototype is the nearest."""
        return self.classes_[self.cosines(X).argmax(1)]


def _texts(label: Any, said: Any) -> list[str]:
    """Return the prompts of a class, or say what is wrong with them."""
    if isinstance(said, str):
        said = [said]
    if not isinstance(said, Iterable) or isinstance(said, (bytes, Mapping)):
        raise TypeError(f"class {label!r} must have a string, or a list of strings, as its prompts, got {shown(said)}")
    found = list(said)
    if not found:
        raise ValueError(f"class {label!r} has no prompt")
    for one in found:
        if not isinstance(one, str):
            raise TypeError(f"class {label!r} must have strings as its prompts, got {shown(one)}")
        if not one.strip():
            raise ValueError(f"class {label!r} has an empty text as a prompt")
    return found


def _means(vectors: np.ndarray, codes: np.ndarray, n: int | None = None) -> np.ndarray:
    sums = np.zeros((codes.max() + 1 if n is None else n, vectors.shape[1]))
    np.add.at(sums, codes, vectors)
    return _unit(sums)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
