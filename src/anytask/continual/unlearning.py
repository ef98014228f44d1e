"""What a way to forget is compared with: training anew, which is the aim, and what is cheap and knows the labels."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.parts.sgd import sgd_step
from anytask.continual.parts.split_model import logits_of
from anytask.core.checks import check_inputs, label_places, require_finite_weights
from anytask.core.errors import instance_of
from anytask.core.estimator import Tool
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated
from anytask.core.settings import flag, real, whole

__all__ = ["GradientAscent", "RandomLabels", "Retained", "RetrainedModel", "Untouched"]


class _Trained(Tool):
    """Passes of Adam over labelled inputs, from a copy of the model.

    The passes and rates of the subclasses were chosen by the gap to training anew, the mean of the development seeds 0
    to 2 of 8 x 8 digits that lose a class, out of 1 to 20 passes at rates of 1e-4 to 2e-3.
    """

    #: Whether weights are drawn anew before.
    afresh: ClassVar[bool] = False

    epochs: int = whole(20, "passes")
    batch_size: int = whole(32, "rows of a batch")
    lr: float = real(2e-3, "learning rate of Adam", above=0)
    own_labels: bool = flag(False, "take the model's own answers for labels")

    def forget(
        self, model: nn.Module, *, forget: Tensor, retain: Tensor, forget_labels: Tensor, retain_labels: Tensor,
        progress: Progress | None = None,
    ) -> nn.Module:  # fmt: skip
        """Return a copy of a classifier that was trained on; labels are places among its logits."""
        instance_of("model", nn.Module, optional=False)(model)
        forget, retain = check_inputs(forget, "forget"), check_inputs(retain, "retain")
        if forget.shape[1:] != retain.shape[1:]:
            raise ValueError(f"forget and retain differ in shape: {tuple(forget.shape[1:])}, {tuple(retain.shape[1:])}")
        n = logits_of(model, forget[:1])
        if self.own_labels:
            forget_labels, retain_labels = (probabilities(model, X).argmax(1) for X in (forget, retain))
        forget_labels = label_places(forget_labels, forget, n, "forget_labels", "forget")
        retain_labels = label_places(retain_labels, retain, n, "retain_labels", "retain")
        progress, training = heard(progress), model.training
        with isolated(derive(self.seed, "unlearning")):
            out = copy.deepcopy(model).to(self._device).train()
            if self.afresh:
                _draw_anew(out)
            X, y, sign = self._shown(forget, retain, forget_labels, retain_labels)
            X, y = X.to(self._device), y.to(self._device)
            adam = torch.optim.Adam(out.parameters(), self.lr)
            for epoch in range(1, self.epochs + 1):
                for rows in torch.randperm(len(X)).split(self.batch_size):
                    sgd_step(out, adam, partial(self._loss, out, X[rows], y[rows], sign), len(rows))
                progress(epoch / self.epochs)
        require_finite_weights([out], "after unlearning")
        out.zero_grad()
        return out.train(training)

    @staticmethod
    def _loss(model: nn.Module, X: Tensor, y: Tensor, sign: int) -> Tensor:
        return sign * F.cross_entropy(model(X), y)

    def _shown(self, X_f: Tensor, X_r: Tensor, y_f: Tensor, y_r: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return inputs, labels, and whether the loss falls (1) or rises (-1)."""
        return X_r, y_r, 1


class RetrainedModel(_Trained):
    """Draw all weights anew, and train on what remains: what every way to forget is measured against."""

    afresh = True


class Retained(_Trained):
    """Go on training on what remains, and hope that the rest fades."""


class GradientAscent(_Trained):
    """Climb the loss of what is to be forgotten for a few passes."""

    epochs = 5
    lr = 5e-4

    def _shown(self, X_f: Tensor, X_r: Tensor, y_f: Tensor, y_r: Tensor) -> tuple[Tensor, Tensor, int]:
        return X_f, y_f, -1


class RandomLabels(_Trained):
    """Train on everything, what is to be forgotten with random other labels."""

    epochs = 5

    def _shown(self, X_f: Tensor, X_r: Tensor, y_f: Tensor, y_r: Tensor) -> tuple[Tensor, Tensor, int]:
        classes = torch.unique(torch.cat([y_f, y_r]))
        if len(classes) < 2:
            raise ValueError("forget_labels and retain_labels have one class: there is no other label to draw")
        other = torch.randint(1, len(classes), (len(y_f),)).to(y_f.device)
        place = torch.searchsorted(classes, y_f)
        wrong = classes[(place + other) % len(classes)]
        return torch.cat([X_r, X_f]), torch.cat([y_r, wrong]), 1


class Untouched(Tool):
    """Leave the model as it is: the lower bound."""

    def forget(self, model: nn.Module, *, forget: Tensor, retain: Tensor) -> nn.Module:
        """Return a copy of the model."""
        instance_of("model", nn.Module, optional=False)(model)
        logits_of(model, check_inputs(forget, "forget")[:1])
        check_inputs(retain, "retain")
        return copy.deepcopy(model)


def _draw_anew(model: nn.Module) -> None:
    """Draw all weights of a model anew, or say which cannot be."""
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset is not None:
            reset()
        elif list(module.parameters(recurse=False)):
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) has weights and no reset_parameters() to draw them "
                "anew by: a model trained anew would keep what it is to forget"
            )


def membership_attack(P_member: np.ndarray, P_other: np.ndarray, P_asked: np.ndarray, seed: int = 0) -> float:
    """Return the share of asked samples that an attacker takes for training samples of a model; half is a guess.

    The attacker, boosted trees, has learned from sorted probabilities of samples that the model was trained on, and of
    others that it was not.

    Parameters
    ----------
    P_member, P_other, P_asked : ndarray (n, c), (m, c), (k, c)
        The model's probabilities.
    seed : int

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> sure, unsure = rng.dirichlet([9, 1, 1], 200), rng.dirichlet([2, 2, 2], 200)
    >>> membership_attack(sure[:150], unsure[:150], sure[150:]) > 0.5 + 0.2
    True
    """
    from sklearn.ensemble import GradientBoostingClassifier

    n = min(len(P_member), len(P_other))
    rng = np.random.default_rng(derive(seed, "attack"))
    seen = [np.sort(P[rng.permutation(len(P))[:n]], axis=1) for P in (P_member, P_other)]
    attacker = GradientBoostingClassifier(n_estimators=100, random_state=seed)
    attacker.fit(np.concatenate(seen), np.repeat([1, 0], n))
    return float(attacker.predict(np.sort(P_asked, axis=1)).mean())


def probabilities(model: nn.Module, X: Any) -> np.ndarray:
    """Return a classifier's probabilities (n, c) in evaluation mode, without gradients."""
    training = model.training
    with torch.no_grad():
        device = next((weight.device for weight in model.parameters()), None)
        P = torch.cat([model.eval()(part.to(device)).softmax(1) for part in torch.as_tensor(X).split(512)])
    model.train(training)
    return P.cpu().numpy()
