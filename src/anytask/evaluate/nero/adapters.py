"""Which models go into an evaluator: anything that maps a batch of inputs to outputs, brought to one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["as_predictor"]


@dataclass(frozen=True)
class Predictor:
    """A model in one form: an array of inputs in, an array of outputs or a list of detections out.

    Attributes
    ----------
    call : callable
        ``call(X) -> outputs``: X (n, ...), outputs an array (n, ...), or a list of n dicts with "boxes", "scores" and
        "labels".
    classes : ndarray or None
        The labels of the columns of class outputs, where the model knows them.
    answers_labels : bool
        Whether the outputs are class labels rather than probabilities or scores.
    """

    call: Callable[[np.ndarray], Any]
    classes: np.ndarray | None = None
    answers_labels: bool = False

    def __call__(self, X: np.ndarray) -> Any:
        return self.call(X)


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
    if _is_module(model):
        return Predictor(_module_call(model, device))
    if hasattr(model, "predict_proba") or (hasattr(model, "predict") and not callable(model)):
        return _estimator(model)
    if type(model).__module__.startswith("transformers.") and hasattr(model, "task"):
        return _pipeline(model)
    if callable(model):
        return Predictor(lambda X: to_numpy(model(_tensor(X) if tensors else X)))
    raise TypeError(
        "a model must be a torch module, a scikit-learn estimator, a transformers pipeline or a callable from a batch "
        f"to outputs, got {type(model).__name__}"
    )


def to_numpy(outputs: Any) -> Any:
    """Return outputs as an array, or as a list of dicts of arrays for detections."""
    for name in ("logits", "prediction_logits"):
        if hasattr(outputs, name):
            outputs = getattr(outputs, name)
    if hasattr(outputs, "detach"):
        return outputs.detach().float().cpu().numpy() if outputs.is_floating_point() else outputs.detach().cpu().numpy()
    if isinstance(outputs, (list, tuple)) and len(outputs) and isinstance(outputs[0], Mapping):
        return [{key: np.asarray(to_numpy(value)) for key, value in one.items()} for one in outputs]
    return np.asarray(outputs)


def _is_module(model: Any) -> bool:
    import sys

    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _module_call(model: Any, device: str) -> Callable[[np.ndarray], Any]:
    import torch

    def call(X: np.ndarray) -> Any:
        parameter = next(model.parameters(), None)
        if device != "auto":
            model.to(device)
        place = parameter.device if device == "auto" and parameter is not None else torch.device(
            "cpu" if device == "auto" else device
        )  # fmt: skip
        x = _tensor(X).to(place)
        if x.is_floating_point():
            x = x.to(parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.float32)
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return to_numpy(model(x))
        finally:
            model.train(training)

    return call


def _estimator(model: Any) -> Predictor:
    shape = getattr(model, "input_shape_", None)
    method = model.predict_proba if hasattr(model, "predict_proba") else model.predict

    def call(X: np.ndarray) -> Any:
        rows = X.reshape(len(X), *(shape or (-1,)))
        return to_numpy(method(rows))

    classes = getattr(model, "classes_", None)
    labels = not hasattr(model, "predict_proba") and classes is not None
    return Predictor(call, None if classes is None else np.asarray(classes), labels)


def _pipeline(pipe: Any) -> Predictor:
    if pipe.task == "image-classification":
        names = [pipe.model.config.id2label[k] for k in sorted(pipe.model.config.id2label)]
        place = {name: k for k, name in enumerate(names)}

        def classify(X: np.ndarray) -> np.ndarray:
            out = np.zeros((len(X), len(names)))
            for row, answers in zip(out, pipe(_pictures(X), top_k=len(names), function_to_apply="softmax")):
                for answer in answers:
                    row[place[answer["label"]]] = answer["score"]
            return out

        return Predictor(classify, np.array(names))
    if pipe.task == "object-detection":
        return Predictor(lambda X: [_detections(answers) for answers in pipe(_pictures(X))])
    raise TypeError(f"pipelines for image-classification and object-detection are taken, got {pipe.task!r}")


def _detections(answers: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    corners = ("xmin", "ymin", "xmax", "ymax")
    return {
        "boxes": np.array([[a["box"][c] for c in corners] for a in answers], dtype=float).reshape(-1, 4),
        "scores": np.array([a["score"] for a in answers], dtype=float),
        "labels": np.array([a["label"] for a in answers], dtype=str),
    }


def _pictures(X: np.ndarray) -> list[Any]:
    from PIL import Image

    images = X
    if images.ndim == 4 and images.shape[1] in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.dtype != np.uint8:
        images = (255 * np.clip(images, 0, 1)).round().astype(np.uint8)
    if images.ndim == 3:
        images = images[..., None]
    return [Image.fromarray(image.repeat(3, axis=-1) if image.shape[-1] == 1 else image) for image in images]


def _tensor(X: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(X))
