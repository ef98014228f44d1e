"""Which models go into an evaluator: anything that maps a batch of inputs to outputs, brought to one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anytask.core.checks import as_array, as_numbers
from anytask.evaluate.nero.metrics import as_rows

__all__ = ["as_predictor"]


@dataclass(frozen=True)
class Predictor:
    """A model in one form: an array of inputs in, an array of outputs or a list of detections out.

    Attributes
    ----------
    call : callable
        ``call(X) -> outputs``: X (n, ...), outputs (n, ...), or n dicts with "boxes", "scores" and "labels".
    classes : ndarray or None
        The labels of the columns of class outputs, where the model knows them.
    answers_labels : bool
        Whether the outputs are class labels rather than probabilities or scores.
    """

    call: Callable[[np.ndarray], Any]
    classes: np.ndarray | None = None
    answers_labels: bool = False

    def __call__(self, X: np.ndarray) -> Any:
        outputs = to_numpy(self.call(np.ascontiguousarray(X)))
        return outputs if self.answers_labels or is_detections(outputs) else as_numbers(outputs, "the output")


def as_predictor(model: Any, *, device: str = "auto", tensors: bool = False) -> Predictor:
    """Bring a model to the form that evaluators use.

    Parameters
    ----------
    model : object
        * a :class:`torch.nn.Module`: called in evaluation mode, without gradients, where its parameters are; its mode
          is put back afterwards. Outputs may be tensors, objects with ``logits``, or lists of detection dicts;
        * a scikit-learn estimator: ``predict_proba`` if it has one, else ``predict``; inputs are flattened to rows
          unless the estimator remembers their shape in ``input_shape_``;
        * a transformers pipeline for image classification or object detection: gets images, values in [0, 1] or uint8;
        * any other callable from a batch to outputs.
    device : str, default "auto"
        Where torch modules run: "auto" leaves them where they are.
    tensors : bool, default False
        Give tensors, not arrays, to plain callables.

    Raises
    ------
    TypeError
        If the model is none of these.

    Examples
    --------
    >>> from sklearn.dummy import DummyClassifier
    >>> model = DummyClassifier(strategy="uniform").fit([[0.0], [1.0]], ["no", "yes"])
    >>> predictor = as_predictor(model)
    >>> predictor(np.zeros((2, 1))).tolist(), predictor.classes.tolist()
    ([[0.5, 0.5], [0.5, 0.5]], ['no', 'yes'])
    """
    if isinstance(model, Predictor):
        return model
    if isinstance(model, torch.nn.Module):
        return Predictor(_module_call(model, device))
    if hasattr(model, "predict_proba") or (hasattr(model, "predict") and not callable(model)):
        return _estimator(model)
    if type(model).__module__.startswith("transformers.") and hasattr(model, "task"):
        return _pipeline(model)
    if callable(model):
        return Predictor(lambda X: model(torch.as_tensor(X) if tensors else X))
    raise TypeError(
        "a model must be a torch module, a scikit-learn estimator, a transformers pipeline or a callable from a batch "
        f"to outputs, got {type(model).__name__}"
    )


def to_numpy(outputs: Any, name: str = "the output") -> np.ndarray:
    """Return outputs as an array, one row per input; detections are dicts of arrays."""
    for attribute in ("logits", "prediction_logits"):
        outputs = getattr(outputs, attribute, outputs)
    if is_detections(outputs):
        return as_rows([{key: as_array(value, f"{name}: {key}") for key, value in one.items()} for one in outputs])
    return as_array(outputs, name)


def is_detections(rows: Any) -> bool:
    """Whether these are detections: one dict per image."""
    listed = isinstance(rows, (list, tuple)) or (isinstance(rows, np.ndarray) and rows.ndim == 1)
    return listed and len(rows) > 0 and isinstance(rows[0], Mapping)


def _module_call(model: torch.nn.Module, device: str) -> Callable[[np.ndarray], Any]:
    def call(X: np.ndarray) -> Any:
        if device != "auto":
            model.to(device)
        nothing = torch.zeros(0, device="cpu" if device == "auto" else device)
        like = next((p for p in model.parameters() if p.is_floating_point()), nothing)
        x = torch.as_tensor(X)
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return model(x.to(like) if x.is_floating_point() else x.to(like.device))
        finally:
            model.train(training)

    return call


def _estimator(model: Any) -> Predictor:
    shape, classes = getattr(model, "input_shape_", (-1,)), getattr(model, "classes_", None)
    method = getattr(model, "predict_proba", None)
    labels = method is None and classes is not None
    return Predictor(
        lambda X: (method or model.predict)(X.reshape(len(X), *shape)),
        None if classes is None else np.asarray(classes),
        labels,
    )


def _pipeline(pipe: Any) -> Predictor:
    if pipe.task == "image-classification":
        names = [pipe.model.config.id2label[k] for k in sorted(pipe.model.config.id2label)]
        place = {name: k for k, name in enumerate(names)}

        def classify(X: np.ndarray) -> np.ndarray:
            out = np.zeros((len(X), len(names)))
            for row, answers in zip(out, pipe(_images(X), top_k=len(names), function_to_apply="softmax")):
                for answer in answers:
                    row[place[answer["label"]]] = answer["score"]
            return out

        return Predictor(classify, np.array(names))
    if pipe.task == "object-detection":
        return Predictor(lambda X: [_detections(answers) for answers in pipe(_images(X))])
    raise TypeError(f"pipelines for image-classification and object-detection are taken, got {pipe.task!r}")


def _detections(answers: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    corners = ("xmin", "ymin", "xmax", "ymax")
    return {
        "boxes": np.array([[a["box"][c] for c in corners] for a in answers], dtype=float).reshape(-1, 4),
        "scores": np.array([a["score"] for a in answers], dtype=float),
        "labels": np.array([a["label"] for a in answers], dtype=str),
    }


def _images(X: np.ndarray) -> list[Any]:
    from PIL import Image

    if X.ndim == 4 and X.shape[1] in (1, 3):
        X = np.moveaxis(X, 1, -1)
    if X.ndim == 4 and X.shape[-1] == 1:
        X = X[..., 0]
    if X.dtype != np.uint8:
        X = (255 * np.clip(X, 0, 1)).round().astype(np.uint8)
    return [Image.fromarray(image).convert("RGB") for image in X]
