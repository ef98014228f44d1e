"""What students of SuperLMs are compared with: the whole teacher, and one student that is made for a budget alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch

from anytask.core.checks import class_codes
from anytask.core.progress import Progress, heard, portion
from anytask.core.rng import derive, isolated
from anytask.core.settings import choice, flag, free, group, of_kind, real, whole
from anytask.pretrain.autodistil import AutoDistil
from anytask.pretrain.parts.encoders import EncoderEstimator, FineTuning, Head, SmallEncoder, encoder_field
from anytask.pretrain.parts.sequences import Sequences
from anytask.pretrain.parts.slices import Pattern, Shape, flops, parameters, read_spaces

__all__ = ["EncoderClassifier"]

_COMMON = ("teacher", "pooling", "finetuning", "spaces")
_PRESETS = {
    name: {key: preset[key] for key in (*_COMMON, "max_tokens") if key in preset}
    for name, preset in AutoDistil.PRESETS.items()
}


class EncoderClassifier(EncoderEstimator):
    """Fine-tune a teacher, or a student of it that was not distilled for whatever may come.

    A student has the largest shape of the sub-spaces within the budget. It begins at random or with slices of the
    teacher, and learns the labels; or, with ``answers``, what the fine-tuned teacher answers on all inputs.

    Parameters
    ----------
    teacher, tokenizer, small, spaces, budget, unit, max_tokens, pooling, finetuning
        As in :class:`~anytask.pretrain.AutoDistil`.
    start : {"whole", "random", "slices"}
        The whole teacher is fine-tuned; or what a student begins with.
    answers : bool
        Learn the answers of the fine-tuned teacher.
    distillation : FineTuning
        How the answers are learned.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    classifier_, classes_
        What was learned; ``shape_`` is a student's shape.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits().images[:200], load_digits().target[:200]
    >>> whole = EncoderClassifier.from_preset("small", small={"steps": 0}).fit(X, y)
    >>> small = EncoderClassifier.from_preset("small", start="random", budget=12_000).fit(X, y)
    >>> whole.cost()["stored_parameters"] > small.cost()["stored_parameters"], small.shape_
    (True, (2, 2, 24, 1.5))
    """

    sees: ClassVar[str] = "none"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {**_PRESETS["small"], "distillation": {"lr": 1e-3, "epochs": 40}},
        "minilm": {**_PRESETS["minilm"], "distillation": {"lr": 1e-4, "epochs": 20}},
    }

    teacher: Any = encoder_field("bert-base-uncased", "the encoder; None: a small one of arrays")
    tokenizer: Any = of_kind(None, (Callable,), "a tokenizer", "of a teacher that is a module", optional=True)
    small: SmallEncoder = group(SmallEncoder, "the small teacher")
    spaces: Any = free(AutoDistil().spaces, "shapes that a student may have", read_spaces)
    budget: float | None = real(None, "what a student may cost; None: any", above=0, optional=True)
    unit: str = choice("parameters", ("parameters", "flops"), "of the budget")
    start: str = choice("whole", ("whole", "random", "slices"), "the whole teacher; or what a student begins with")
    answers: bool = flag(False, "learn the answers of the fine-tuned teacher on all inputs")
    max_tokens: int = whole(128, "tokens of a text that are read", at_least=2)
    pooling: str = choice("first", ("first", "mean"), "how tokens become a vector: BERT's pooler, or their mean")
    finetuning: FineTuning = group(FineTuning, "how labels are learned")
    distillation: FineTuning = group(FineTuning, "how answers are learned")

    def _check_settings(self) -> None:
        if self.answers and self.start == "whole":
            raise ValueError("answers are learned by a student: set start to 'random' or 'slices'")

    def _given(self) -> tuple[Any, Any]:
        return self.teacher, self.tokenizer

    def _shaping(self) -> list[str]:
        return [name for name in self._param_names() if name != "device"]

    def _build(self) -> None:
        self._teacher = self._made()
        self.positions_ = Pattern(self._teacher).sizes.positions
        if hasattr(self, "classes_"):
            own = Pattern(self._teacher).encoder(Shape(*self.shape_)) if self.shape_ else self._teacher
            self.classifier_ = Head(own, len(self.classes_), self.pooling).to(self._device).eval()

    @property
    def _positions(self) -> int:
        return self.positions_

    def fit(self, X: Any, y: Any, *, unlabeled: Any = None, progress: Progress | None = None) -> Self:
        """Learn labels.

        Parameters
        ----------
        X : sequence of str, or array of shape (n, ...)
        y : array of shape (n,)
        unlabeled : as X, optional
            Further inputs: a small teacher learns from them too, and a student that learns answers.
        progress : callable, optional
            Told the finished share.
        """
        told, X_ = heard(progress), self._read(X)
        pool = self._joined(X_, unlabeled)
        classes, codes = class_codes(y, len(X_))
        with self._refit():
            self._note(X_)
            with isolated(derive(self.seed, "init")):
                self._build()
            data, everything = self._sequences(X_, self._positions), self._sequences(pool, self._positions)
            with isolated(derive(self.seed, "train")):
                if self.teacher is None and (self.start != "random" or self.answers):
                    self.small.learn(self._teacher, everything, portion(told, 0.0, 0.2))
                self._teach(data, everything, codes, classes, portion(told, 0.2, 1.0))
            self._keep_shape()
        told(1.0)
        return self

    def _teach(
        self, data: Sequences, pool: Sequences, codes: np.ndarray, classes: np.ndarray, progress: Progress
    ) -> None:
        student, self.shape_ = self._student()
        if not self.answers:
            self._learn(student, data, codes, classes, progress)
            return
        self._learn(self._teacher, data, codes, classes, portion(progress, 0.0, 0.3))
        with torch.no_grad():
            target = pool.encoded(self.classifier_, self._device).softmax(1).cpu()
        self.classifier_ = Head(student, len(classes), self.pooling).to(self._device)
        self.distillation.learn(self.classifier_, pool, target, self._device, portion(progress, 0.3, 1.0))

    def _student(self) -> tuple[Any, tuple[Any, ...]]:
        """Return what learns, and its shape; () of the whole teacher."""
        if self.start == "whole":
            return self._teacher, ()
        pattern, spaces = Pattern(self._teacher), read_spaces(self.spaces).values()
        n = min(self.max_tokens, self._positions) if self._of_texts else self._positions

        def cost(shape: Shape) -> float:
            own = pattern.sizes
            return parameters(shape, own) if self.unit == "parameters" else flops(shape, own, n)

        shapes = sorted((one for space in spaces for one in space.members), key=cost)
        fitting = [one for one in shapes if self.budget is None or cost(one) <= self.budget]
        if not fitting:
            least = f"the smallest shape has {cost(shapes[0]):,.0f}"
            raise ValueError(f"nothing has a budget of {self.budget:,.0f} {self.unit}: {least}")
        shape = fitting[-1]
        own = pattern.encoder(shape) if self.start == "random" else pattern.cut(shape)
        return own, (shape.layers, shape.heads, shape.width, shape.ratio)
