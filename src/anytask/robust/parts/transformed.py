"""Training on images that enter under every one of M transformations; what SLA and its baselines share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import check_inputs, check_sizes, require_finite
from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import flag, free, group, numbers, real, whole
from anytask.core.training import train
from anytask.models.build import backbone_field, build_backbone
from anytask.parts.planar_groups import Rotations
from anytask.parts.set_groups import Permutations
from anytask.parts.transforms import CustomGroup, Group, Product, Transforms
from anytask.parts.views import ViewSettings, check_kind
from anytask.robust.base import RobustClassifier

#: Names that ``transforms`` takes, alone or joined by "+" (the first acts first and varies slowest).
TRANSFORMS: dict[str, Callable[[], Group]] = {
    "identity": lambda: Rotations(360, closed=False),
    "rotations": lambda: Rotations(90, closed=False),  # by 0, 90, 180, 270 degrees
    "rotations2": lambda: Rotations(180, closed=False),
    "colors": lambda: Permutations(3, 6),  # RGB, RBG, GRB, GBR, BRG, BGR
    "colors3": lambda: CustomGroup([(functools.partial(torch.roll, shifts=-k, dims=1), None, None) for k in range(3)]),
}


def make_transforms(transforms: str | Transforms | Sequence[Callable[[Tensor], Tensor]]) -> Transforms:
    """Return the transformations t_1 ... t_M that a name, a family or a list of functions on batches stands for.

    Examples
    --------
    >>> len(make_transforms("rotations+colors")), make_transforms("rotations").labels
    (24, ('0°', '90°', '180°', '270°'))
    """
    if isinstance(transforms, Transforms):
        return transforms
    if (
        isinstance(transforms, Sequence)
        and not isinstance(transforms, str)
        and transforms
        and all(map(callable, transforms))
    ):
        return CustomGroup([(t, None, None) for t in transforms])
    if not isinstance(transforms, str):
        raise TypeError(f"transforms must be names, a Transforms or a list of functions on batches, got {transforms!r}")
    names = transforms.split("+")
    if unknown := [name for name in names if name not in TRANSFORMS]:
        raise ValueError(
            f"transforms has an unknown name, {unknown[0]!r}; known, also joined by '+': {', '.join(TRANSFORMS)}"
        )
    return functools.reduce(Product, [TRANSFORMS[name]() for name in names])


class Augmentation(ViewSettings):
    """The random views that images are trained on, before the M transformations."""

    kind: Any = free("flip-crop", "a name, or a callable (x, generator) -> x", check_kind)


class TransformedTraining(RobustClassifier):
    """SGD on batches of transformed images; a subclass writes its heads, its losses and its scores.

    Parameters
    ----------
    backbone : name, callable or module
        As in :func:`~anytask.models.build.build_backbone`; maps images to ``feature_dim`` features.
    transforms : str, :class:`~anytask.parts.transforms.Transforms`, or sequence of callables
        Names of :data:`TRANSFORMS`, joined by "+", or functions on batches (n, ...), the identity first.
    views : :class:`Augmentation`
        Random flips and crops before the transformations; flat inputs are read in its ``image_shape``.
    steps, batch_size, lr, momentum, weight_decay, milestones
        Of SGD; ``batch_size`` counts images before they are transformed, each batch is drawn without replacement.
    validation_fraction, validate_every
        Share of the training images by whose single inference the best checkpoint is selected, and how often.
    balanced : bool
        Weight each class inversely to its frequency.

    Attributes
    ----------
    net_ : torch.nn.ModuleDict
        The backbone ``f`` and the linear heads.
    """

    PRESETS: ClassVar = {
        "small": {
            "backbone": "small_cnn", "views": {"kind": "none"}, "steps": 200, "batch_size": 32, "lr": 0.05,
            "validation_fraction": 0.0,
        }
    }  # fmt: skip

    backbone: Any = backbone_field("resnet32", "maps images (channels, height, width) to features")
    feature_dim: int = whole(64, "width D of the features")
    transforms: Any = free(
        "rotations", "names of TRANSFORMS, or functions on batches, the identity first", make_transforms
    )
    views: Augmentation = group(Augmentation, "random views of the images, before the transformations")
    steps: int = whole(80_000, "training steps")
    batch_size: int = whole(128, "images of a step, before they are transformed")
    lr: float = real(0.1, "learning rate; divided by 10 at each milestone", above=0)
    momentum: float = real(0.9, "of SGD", at_least=0, below=1)
    weight_decay: float = real(1e-4, "of SGD", at_least=0)
    milestones: Sequence[float] = numbers((0.5, 0.75), "shares of the steps where lr falls", at_least=0, at_most=1)
    validation_fraction: float = real(0.1, "share kept to select a checkpoint; 0: the last", at_least=0, below=1)
    validate_every: int = whole(1000, "steps between validations")
    balanced: bool = flag(False, "weight classes inversely to their frequency")

    # -- what a subclass writes -----------------------------------------------------------------------------------

    def _head_sizes(self, N: int, M: int) -> dict[str, int]:
        """Return the width of each linear head on the features."""
        raise NotImplementedError

    def _losses(self, x: Tensor, y: Tensor, w: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the losses of a batch with weights w (B,), each propagated back before the next is asked for."""
        raise NotImplementedError

    def _single(self, x: Tensor) -> Tensor:
        """Return the logits (n, N) of the images as they are."""
        raise NotImplementedError

    # -- shared steps ---------------------------------------------------------------------------------------------

    @property
    def M(self) -> int:
        """Number of transformations."""
        return len(self._t)

    def f(self, x: Tensor) -> Tensor:
        """Return the features of images, (n, D)."""
        return self.net_["f"](x)

    def expand(self, x: Tensor, js: Sequence[int] | None = None) -> Tensor:
        """Return each image under the transformations ``js`` (default: all), image-major: (n * len(js), ...)."""
        elements = self._t.elements if js is None else [self._t.elements[j] for j in js]
        return self._t.orbit(x, elements).transpose(0, 1).flatten(0, 1)

    def images(self, X: Tensor) -> Tensor:
        """Return inputs as images (n, channels, height, width)."""
        X = check_inputs(X)
        return X.reshape(len(X), *self._image_shape(tuple(X.shape[1:])))

    def check_shape(self, input_shape: tuple[int, ...]) -> None:
        """Raise a ``ValueError`` for inputs that are no images, or that the transformations do not suit."""
        shape, names = self._image_shape(input_shape), str(self.transforms).split("+")
        if "rotations" in names and shape[-1] != shape[-2]:
            hint = "move the channels first" if shape[0] == shape[1] else "use transforms='rotations2'"
            raise ValueError(f"quarter turns need square images, got {shape[-2:]} of {shape}: {hint}")
        if shape[0] != 3 and {"colors", "colors3"} & set(names):
            raise ValueError(f"transforms={self.transforms!r} permutes 3 color channels, the images have {shape[0]}")
        family = make_transforms(self.transforms)
        probe = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
        for place, (g, label) in enumerate(zip(family.elements, family.labels)):
            given = probe.clone()
            moved = family.phi(g, given)
            if not isinstance(moved, Tensor) or moved.shape != probe.shape:
                got = tuple(moved.shape) if isinstance(moved, Tensor) else type(moved).__name__
                raise ValueError(f"transformations must keep the shape {tuple(probe.shape)}, {label} gives {got}")
            if not torch.equal(given, probe):
                raise ValueError(f"transformations must leave their inputs as they are, {label} changes them in place")
            require_finite(moved, f"what {label} makes of finite images")
            if place == 0 and not torch.equal(moved, probe):
                raise ValueError("the first transformation must be the identity: single inference relies on it")
        if (different := len(family.distinct)) < len(family):
            raise ValueError(f"transformations must differ: {different} of these {len(family)} do")

    def _image_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        check_sizes(input_shape, "input_shape")
        shape = tuple(self.views.image_shape or input_shape)
        if np.prod(shape) != np.prod(input_shape):
            raise ValueError(f"image_shape {shape} does not hold the {np.prod(input_shape)} values of an input")
        if len(shape) not in (2, 3):
            what = "image_shape is" if self.views.image_shape else "inputs have shape"
            raise ValueError(
                f"{type(self).__name__} learns from images, and {what} {shape}: "
                "pass views={'image_shape': (height, width)} for flat ones"
            )
        return (1, *shape)[-3:]

    def _build(self) -> None:
        self._t, shape = make_transforms(self.transforms), self._image_shape(self.input_shape_)
        f = build_backbone(self.backbone, shape, self.feature_dim, seed=derive(self.seed, "backbone"))
        heads = self._head_sizes(len(self.classes_), self.M)
        self.net_ = nn.ModuleDict({"f": f} | {k: nn.Linear(self.feature_dim, n) for k, n in heads.items()})
        self.net_.to(self._device).eval()

    def _train(self, X: Tensor, y: Tensor, w: Tensor | None, progress: Progress) -> None:
        X = self.images(X)
        rows, held = np.arange(len(y)), np.arange(0)
        if self.validation_fraction:
            rows, held = _held_out(y.cpu().numpy(), self.validation_fraction, derive(self.seed, "validation") % 2**32)
        view = self.views.maker(tuple(X.shape[1:]))
        order = torch.Generator().manual_seed(derive(self.seed, "batches"))
        views = torch.Generator(X.device).manual_seed(derive(self.seed, "views"))
        counts = torch.bincount(y[rows], minlength=len(self.classes_))
        together = min(self.batch_size, len(rows)) * (1 if getattr(self, "accumulate", False) else self.M)
        if together == 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.net_.modules()):
            raise ValueError("batch_size must be at least 2: the backbone normalizes over the images of a step")
        self._weight = len(rows) / (len(counts) * counts.float()) if self.balanced else None  # (N,)

        def draw(step: int) -> tuple[Tensor, Tensor, Tensor | None]:
            batch = torch.from_numpy(rows)[torch.randperm(len(rows), generator=order)[: self.batch_size]]
            return view(X[batch], views), y[batch], None if w is None else w[batch]

        def right() -> float:
            with torch.no_grad():
                parts = torch.from_numpy(held).split(1024)
                hits = torch.cat([self._single(X[b]).argmax(1) == y[b] for b in parts]).float()
            return float(weighted_mean(hits, None if w is None else w[held]))

        sgd = torch.optim.SGD(self.net_.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        falls = torch.optim.lr_scheduler.MultiStepLR(sgd, [int(m * self.steps) for m in self.milestones])
        train(
            self.net_, draw, lambda batch: self._losses(*batch), steps=self.steps, optimizer=sgd, schedule=falls,
            select=right if len(held) else None, select_every=self.validate_every, progress=progress,
        )  # fmt: skip


def weighted_mean(values: Tensor, w: Tensor | None) -> Tensor:
    """Return the mean of values (n k,), k after another for each of n rows with weights w (n,), None: all alike.

    Examples
    --------
    >>> weighted_mean(torch.tensor([1.0, 3.0, 8.0, 8.0]), torch.tensor([3.0, 1.0])).item()
    3.5
    """
    if w is None:
        return values.mean()
    w = w.repeat_interleave(len(values) // len(w))
    return (values * w).sum() / w.sum()


def cross_entropy(logits: Tensor, y: Tensor, class_weight: Tensor | None, w: Tensor | None) -> Tensor:
    """Return the cross-entropy of logits (n k, C), k after another for each of n rows with weights w (n,).

    Examples
    --------
    Rows of weight 2 count as rows that are there twice:

    >>> logits, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    >>> twice = cross_entropy(logits[[0, 1, 1]], y[[0, 1, 1]], None, None)
    >>> torch.isclose(cross_entropy(logits, y, None, torch.tensor([1.0, 2.0])), twice).item()
    True
    """
    if w is None:
        return F.cross_entropy(logits, y, class_weight)
    w = w.repeat_interleave(len(logits) // len(w))
    losses = F.cross_entropy(logits, y, class_weight, reduction="none")
    return (losses * w).sum() / (w if class_weight is None else w * class_weight[y]).sum()


def _held_out(y: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        rows, held = train_test_split(np.arange(len(y)), test_size=fraction, stratify=y, random_state=seed)
        if len(set(y[rows]) & set(y[held])) < len(set(y)):
            raise ValueError("a class would be missing on one side")
    except ValueError as error:
        raise ValueError(
            f"validation_fraction {fraction} of {len(y)} images cannot hold every class ({error}): set it to 0"
        ) from error
    return rows, held
