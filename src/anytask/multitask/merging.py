"""What composing models is compared with: fixed formulas with a scale that is tried out, and training as usual."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import require_finite
from anytask.core.estimator import Tool
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated
from anytask.core.settings import choice, real, whole
from anytask.core.training import train
from anytask.multitask.parts.logits import logits_of, read_rows
from anytask.multitask.parts.task_vectors import aligned, dense, named

__all__ = ["FineTuned", "Merged", "Pretrained"]


class Pretrained(Tool):
    """Leave the model as it is: zero-shot."""

    def compose(self, pretrained: nn.Module, vectors: Any, X: Any, y: Any) -> nn.Module:
        """Return a copy of the model."""
        return copy.deepcopy(pretrained)

    def negate(self, pretrained: nn.Module, vectors: Any, X: Any, y: Any, *, control: Any) -> nn.Module:
        """Return a copy of the model."""
        return copy.deepcopy(pretrained)

    def adapt(self, pretrained: nn.Module, vectors: Any, X: Any) -> nn.Module:
        """Return a copy of the model."""
        return copy.deepcopy(pretrained)


class Merged(Tool):
    """Add task vectors by a fixed formula (PEFT's), times one scale out of a grid.

    Parameters
    ----------
    how : {"arithmetic", "average", "ties"}
        Their sum; their mean, at scale 1; or, of the largest entries of each, the mean of those that have the sign of
        their sum (Yadav et al., 2023).
    density : float in (0, 1)
        Share of the entries that TIES keeps.
    scales : int
        How many scales from 0 to 1 are tried: the one with the most labelled rows right, and of those the smallest
        cross-entropy, is taken.
    keep : float
        Share of the control task's accuracy that negation may not fall below.

    Raises
    ------
    ImportError
        Without PEFT, which the extra ``text`` has.
    """

    how: str = choice("arithmetic", ("arithmetic", "average", "ties"), "the formula")
    density: float = real(0.2, "share of the entries that TIES keeps", above=0, below=1)
    scales: int = whole(21, "how many scales from 0 to 1 are tried", at_least=2)
    keep: float = real(0.95, "share of the control accuracy that negation keeps", at_least=0, at_most=1)

    def _check_settings(self) -> None:
        try:
            import peft.utils.merge_utils  # noqa: F401
        except ImportError as error:
            raise ImportError("merging needs peft: pip install 'anytask[text]'") from error

    def compose(self, pretrained: nn.Module, vectors: Any, X: Any, y: Any) -> nn.Module:
        """Return the merged model that is best on labelled rows."""
        delta, (X, y) = self._delta(pretrained, vectors), _read(pretrained, X, y)
        if self.how == "average":
            return _moved(pretrained, delta, 1.0)
        scored = [(_score(pretrained, delta, scale, X, y), scale) for scale in self._grid()]
        return _moved(pretrained, delta, max(scored)[1])

    def negate(self, pretrained: nn.Module, vectors: Any, X: Any, y: Any, *, control: Any) -> nn.Module:
        """Return the model that is worst on labelled rows, of those that keep the control task."""
        delta, (X, y) = self._delta(pretrained, vectors), _read(pretrained, X, y)
        held = _read(pretrained, control[0], control[1], "control")
        floor = self.keep * _score(pretrained, delta, 0.0, *held)[0]
        kept = [-scale for scale in self._grid() if _score(pretrained, delta, -scale, *held)[0] >= floor]
        return _moved(pretrained, delta, min((_score(pretrained, delta, scale, X, y), scale) for scale in kept)[1])

    def cost(self) -> dict[str, int]:
        """Return how many numbers are tuned."""
        return {"trainable_parameters": int(self.how != "average")}

    def _grid(self) -> list[float]:
        return torch.linspace(0, 1, self.scales).tolist()

    def _delta(self, pretrained: nn.Module, vectors: Any) -> dict[str, Tensor]:
        from peft.utils import merge_utils

        given, weights = named(pretrained, vectors), dict(pretrained.named_parameters())
        one, found = torch.ones(len(given)), {}
        for name, taus in aligned(pretrained, given).items():
            own = [torch.zeros_like(weights[name]) if tau is None else dense(tau) for tau in taus]
            if self.how == "ties":
                found[name] = merge_utils.ties(own, one, self.density)
            else:
                found[name] = merge_utils.task_arithmetic(own, one / len(own) if self.how == "average" else one)
        return found


class FineTuned(Tool):
    """Train the model on the labelled rows as usual; the task vectors are not looked at.

    Parameters
    ----------
    part : {"all", "body", "head"}
        All weights that are not frozen, those before the last linear layer, or that alone: a linear probe from the
        pre-trained head.
    steps, batch_size, lr
        Of AdamW.
    """

    part: str = choice("all", ("all", "body", "head"), "what is trained")
    steps: int = whole(150, "steps of AdamW")
    batch_size: int = whole(64, "rows of a batch")
    lr: float = real(2e-3, "learning rate of AdamW", above=0)

    def compose(
        self, pretrained: nn.Module, vectors: Any, X: Any, y: Any, *, progress: Progress | None = None
    ) -> nn.Module:
        """Return the model trained on the rows, in evaluation mode."""
        model = copy.deepcopy(pretrained).to(self._device).eval()
        X_, y_ = (part.to(self._device) for part in _read(model, X, y))
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        head: set[nn.Parameter] = {*layers[-1].parameters()} if layers else set()
        parts = {"all": lambda w: True, "body": lambda w: w not in head, "head": lambda w: w in head}
        weights = [weight for weight in model.parameters() if parts[self.part](weight) and weight.requires_grad]
        if not weights:
            raise ValueError(f"part={self.part!r} of the model has no weight that requires a gradient")
        self._trained = sum(weight.numel() for weight in weights)
        adamw = torch.optim.AdamW(weights, lr=self.lr)
        with isolated(derive(self.seed, "fine-tuning")):

            def draw(step: int) -> Tensor:
                return torch.randperm(len(X_))[: self.batch_size]

            train(
                model, draw, lambda rows: F.cross_entropy(logits_of(model, {}, X_[rows]), y_[rows]), steps=self.steps,
                optimizer=adamw, stage="fine-tuning", progress=heard(progress),
            )  # fmt: skip
        return model

    def cost(self) -> dict[str, int]:
        """Return how many weights were trained."""
        return {"trainable_parameters": getattr(self, "_trained", 0)}


def _moved(pretrained: nn.Module, delta: dict[str, Tensor], scale: float) -> nn.Module:
    out = copy.deepcopy(pretrained)
    with torch.no_grad():
        for name, weight in out.named_parameters():
            if name in delta:
                weight.add_(scale * delta[name])
    return out.eval()


def _read(model: nn.Module, X: Any, y: Any, name: str = "X") -> tuple[Tensor, Tensor]:
    """Return inputs and labels as the model, in evaluation mode, takes them, where it is."""
    weight = next(model.parameters())
    with _resting(model):
        x, places = read_rows(lambda x: logits_of(model, {}, x.to(weight.device)), weight.dtype, X, y, name)
    return x.to(weight.device), places.to(weight.device)


@torch.no_grad()
def _score(pretrained: nn.Module, delta: dict[str, Tensor], scale: float, X: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the accuracy, and the negative cross-entropy, with a scale."""
    weights = dict(pretrained.named_parameters())
    theta = {name: weights[name] + scale * value for name, value in delta.items()}
    with _resting(pretrained):
        logits = torch.cat([logits_of(pretrained, theta, part) for part in X.split(512)])
    logits = require_finite(logits, f"a logit of the merged model at scale {scale:g}").float()
    return float((logits.argmax(1) == y).float().mean()), -float(F.cross_entropy(logits, y))


@contextmanager
def _resting(model: nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode: neither dropout nor a moved running mean in what is measured."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
