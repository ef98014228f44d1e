"""Stage 1 of CiCo: a classifier of windows, and a copy that its own sure answers have brought to another domain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from anytask.core.checks import check_inputs, require_finite
from anytask.core.errors import shown
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated
from anytask.core.settings import choice, of_kind, positional, real, text, whole
from anytask.core.training import train
from anytask.pretrain.parts.segments import mine_segments

#: Windows that go through a network at a time, where nothing is trained.
_AT_ONCE = 64


class DomainEncoder(Estimator):
    """Features of windows by a classifier that learned elsewhere, and by a copy of it that knows these sequences.

    Pick it before :class:`~anytask.pretrain.CiCo` where sequences are raw (videos, signals), and there is a classifier
    of short windows from another domain. Where the classifier is seldom sure, or wrong where it is sure, the copy
    learns mistakes: compare both on a few windows of your own.

    Parameters
    ----------
    encoder : torch.nn.Module
        Maps windows (n, window, \\*shape) to class scores (n, C) before the softmax. What goes into its last layer are
        the features. It is never changed.
    labeler : callable, optional
        Gives the class scores instead (softmax is taken of them), for windows as above; its classes are the encoder's.
    last_layer : str, optional
        Name of the encoder's last layer; by default its last Linear.
    features : {"fused", "concatenated", "agnostic", "aware"}, default "fused"
        The average of both, both side by side, the encoder's alone, or the copy's alone.
    alpha : float in [0, 1], default 0.8
        Weight of the encoder's own, domain-agnostic features in the average.
    window, stride : int, default 16 and 1
        Length of a window, and steps between two.
    threshold : float, default 0.6
        Windows whose best class is more probable than this are labelled.
    merge, suppress : int, default 3 and 24
        A labelled window of the same class within so many steps of a surer one joins it, or else is dropped.
    lr, momentum, epochs, batch_size : float, float, int, int, default 0.01, 0.9, 15 and 4
        Of the fine-tuning by SGD.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    source_, copy_ : torch.nn.Module
        The encoder as it was given, and its domain-aware copy.
    segments_ : int array of shape (m, 5)
        Sequence, class, start of the surest window, and starts of the first and the last window of each segment.
    sure_ : float
        Share of the windows that were sure enough.

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    >>> _ = net[1].weight.data.copy_(torch.eye(2)), net[1].bias.data.zero_()
    >>> sequences = [np.array([[4.0, 0.0], [0.1, 0.0], [1.0, 5.0]])]
    >>> model = DomainEncoder(net, window=1, merge=0, suppress=0).fit(sequences)
    >>> model.segments_[:, :3].tolist(), round(model.sure_, 2)
    ([[0, 0, 0], [0, 1, 2]], 0.67)
    >>> model.transform(sequences)[0].shape
    (3, 2)

    References
    ----------
    See :class:`~anytask.pretrain.CiCo`.
    """

    sees: ClassVar[str] = "none"

    encoder: nn.Module = positional(of_kind, (nn.Module,), "a module", "classifies windows", kw_only=False)
    labeler: Any = of_kind(
        None, (Callable,), "a callable", "gives class scores instead; None: the encoder", optional=True
    )
    last_layer: str | None = text(None, "name of the encoder's last layer; None: its last Linear", optional=True)
    features: str = choice("fused", ("fused", "concatenated", "agnostic", "aware"), "what features are made of")
    alpha: float = real(0.8, "weight of the encoder's own features", at_least=0, at_most=1)
    window: int = whole(16, "length of a window")
    stride: int = whole(1, "steps between two windows")
    threshold: float = real(0.6, "probability above which windows are labelled", at_least=0, below=1)
    merge: int = whole(3, "steps within which a window joins a surer one", at_least=0)
    suppress: int = whole(24, "steps within which it is dropped otherwise", at_least=0)
    lr: float = real(0.01, "learning rate of SGD", above=0)
    momentum: float = real(0.9, "momentum of SGD", at_least=0, below=1)
    epochs: int = whole(15, "passes over the segments; 0: the copy stays one", at_least=0)
    batch_size: int = whole(4, "segments in a step")

    source_: nn.Module
    copy_: nn.Module

    def fit(self, sequences: Sequence[Any], *, progress: Progress | None = None) -> Self:
        """Label windows of sequences, and fine-tune the copy on them.

        Parameters
        ----------
        sequences : sequence of arrays of shape (n_i, \\*shape)
            Of the new domain, those for training alone. Shorter ones than a window are lengthened by their last step.
        progress : callable, optional

        Raises
        ------
        ValueError, TypeError
            For bad sequences, a classifier that gives NaN (naming the sequence) or no window that is sure enough.
        """
        with self._refit():
            read = [self._read(given, place) for place, given in enumerate(_listed(sequences))]
            with isolated(derive(self.seed, "train")):
                self._build()
                self._mine(read)
                self._tune(read, heard(progress))
            heard(progress)(1.0)
            self._keep_shape()
        return self

    def transform(self, sequences: Sequence[Any]) -> list[np.ndarray]:
        """Return features of the windows of each sequence, arrays of shape (n_windows, width)."""
        self._check_fitted()
        self._check_settings()
        self._check_shape_kept()
        found = []
        for place, given in enumerate(_listed(sequences)):
            windows = self._windows(self._read(given, place))
            agnostic = self._features(self.source_, windows) if self.features != "aware" else None
            aware = self._features(self.copy_, windows) if self.features != "agnostic" else None
            fused = fuse(agnostic, aware, self.features, self.alpha)
            found.append(require_finite(fused, f"a feature of sequence {place}").double().numpy())
        return found

    def predict_proba(self, windows: Any) -> np.ndarray:
        """Return the copy's class probabilities (n, C) of windows (n, window, \\*shape)."""
        self._check_fitted()
        x = check_inputs(windows, "windows").cpu().float()
        return self._each(lambda some: self.copy_(some).softmax(1), x).double().numpy()

    # -- the method -------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.source_, self.copy_ = (copy.deepcopy(self.encoder).to(self._device).eval() for _ in range(2))
        self.copy_.requires_grad_(True)

    def _mine(self, sequences: list[Tensor]) -> None:
        rows, total, sure, highest = [], 0, 0, 0.0
        for place, sequence in enumerate(sequences):
            probabilities = self._probabilities(self._windows(sequence), place)  # (n, C)
            best = probabilities.max(1)
            total, sure = total + len(best.values), sure + int((best.values > self.threshold).sum())
            highest = max(highest, float(best.values.max()))
            starts = self.stride * torch.arange(len(best.values))
            rows += [
                (place, one.label, one.start, one.first, one.last)
                for one in mine_segments(
                    starts, best.indices.tolist(), best.values, threshold=self.threshold, merge=self.merge,
                    suppress=self.suppress,
                )
            ]  # fmt: skip
        if not rows:
            raise ValueError(
                f"none of {total} windows is labelled: the surest has {highest:.2f}, and threshold is {self.threshold}"
            )
        self.segments_, self.sure_ = np.array(rows), sure / total

    def _tune(self, sequences: list[Tensor], progress: Progress) -> None:
        segments = torch.from_numpy(self.segments_)
        order = [some for _ in range(self.epochs) for some in torch.randperm(len(segments)).split(self.batch_size)]
        if not order:
            return
        optimizer = torch.optim.SGD(self.copy_.parameters(), self.lr, momentum=self.momentum)

        def loss(batch: Tensor) -> Tensor:
            # Of a merged segment any window, as all of them show the class.
            first, last = batch[:, 3], batch[:, 4]
            starts = first + (torch.rand(len(batch)) * (last - first + 1)).long()
            places = batch[:, 0].tolist()
            x = torch.stack([sequences[p][s : s + self.window] for p, s in zip(places, starts.tolist())])
            return nn.functional.cross_entropy(self.copy_(x.to(self._device)).float(), batch[:, 1].to(self._device))

        train(
            self.copy_, lambda step: segments[order[step - 1]], loss, steps=len(order), optimizer=optimizer,
            progress=progress, stage="fine-tuning",
        )  # fmt: skip

    def _read(self, given: Any, place: int) -> Tensor:
        x = check_inputs(given, f"sequence {place}").cpu().float()
        missing = self.window - len(x)
        return x if missing <= 0 else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])

    def _windows(self, sequence: Tensor) -> Tensor:
        return sequence.unfold(0, self.window, self.stride).movedim(-1, 1)  # (n, window, *shape)

    def _probabilities(self, windows: Tensor, place: int) -> Tensor:
        source = self.source_ if self.labeler is None else self.labeler
        scores = self._each(lambda x: torch.as_tensor(source(x)), windows)
        if scores.ndim != 2:
            raise ValueError(f"class scores must have shape (n, C), got {tuple(scores.shape)}")
        return require_finite(scores, f"a class score of sequence {place}").softmax(1)

    def _features(self, net: nn.Module, windows: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = self._last(net).register_forward_pre_hook(lambda _, given: seen.append(given[0].float().cpu()))
        try:
            self._each(net, windows)
        finally:
            handle.remove()
        return torch.cat(seen).flatten(1)

    def _last(self, net: nn.Module) -> nn.Module:
        named = dict(net.named_modules())
        linear = [name for name, module in named.items() if isinstance(module, nn.Linear)]
        name = self.last_layer if self.last_layer is not None else (linear or [""])[-1]
        if name not in named or not name:
            raise ValueError(f"last_layer must name a layer of the encoder, got {shown(self.last_layer)}")
        return named[name]

    @torch.no_grad()
    def _each(self, of: Callable[[Tensor], Tensor], windows: Tensor) -> Tensor:
        return torch.cat([of(some.to(self._device)).float().cpu() for some in windows.split(_AT_ONCE)])

    def _shaping(self) -> list[str]:
        return [name for name in self._param_names() if name not in ("features", "alpha", "device")]


def fuse(agnostic: Tensor | None, aware: Tensor | None, how: str, alpha: float) -> Tensor:
    """Return features of a domain-agnostic (n, d) and of a domain-aware encoder (n, d) as one.

    Parameters
    ----------
    agnostic, aware : Tensor of shape (n, d)
        None where that one is not asked for.
    how : {"fused", "concatenated", "agnostic", "aware"}
    alpha : float in [0, 1]
        Weight of the agnostic features in the average.

    Examples
    --------
    >>> fuse(torch.ones(1, 2), torch.zeros(1, 2), "fused", 0.8)
    tensor([[0.8000, 0.8000]])
    """
    if agnostic is None or aware is None:
        return agnostic if aware is None else aware  # type: ignore[return-value]
    if agnostic.shape != aware.shape:
        raise ValueError(f"features must have one shape, got {tuple(agnostic.shape)} and {tuple(aware.shape)}")
    return torch.cat([agnostic, aware], 1) if how == "concatenated" else alpha * agnostic + (1 - alpha) * aware


def _listed(sequences: Any) -> Sequence[Any]:
    if isinstance(sequences, (str, bytes, Mapping)) or not hasattr(sequences, "__len__"):
        raise TypeError(f"sequences must be a list of arrays, got {shown(sequences)}")
    if not len(sequences):
        raise ValueError("sequences holds 0 sequences, and at least 1 is required")
    return sequences
