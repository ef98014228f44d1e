"""Region proposals: where objects may be, from any proposer, and what the image encoder is given of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import check_numbers, require_finite
from anytask.core.errors import check_each


@dataclass(frozen=True)
class Proposals:
    """The proposals of one image, best first or not.

    Attributes
    ----------
    boxes : Tensor of shape (k, 4)
        Left, top, right, bottom in [0, 1].
    masks : Tensor of shape (k, height, width)
        In [0, 1].
    scores : Tensor of shape (k,)
        How sure the proposer is that each shows an object, in [0, 1].
    features : Tensor of shape (k, d), optional
        What each looks like, such as a detector's queries; without them the tower looks at their crops.
    """

    boxes: Tensor
    masks: Tensor
    scores: Tensor
    features: Tensor | None = None


_SLACK = 0.05  # by how much a detector's numbers may leave [0, 1]: they are brought back
#: Takes images (n, channels, height, width) to the proposals of each.
Proposer = Callable[[Tensor], Sequence[Proposals]]


def components(images: Tensor, smallest: float = 0.005) -> list[Proposals]:
    """Propose connected regions that differ from the image's median by more than half of what any pixel does.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)
    smallest : float, default 0.005
        Share of an image that a region has to cover.

    Examples
    --------
    >>> image = torch.zeros(1, 1, 16, 16)
    >>> image[0, 0, 2:6, 8:12] = 1.0
    >>> [found] = components(image)
    >>> found.boxes, found.scores
    (tensor([[0.5000, 0.1250, 0.7500, 0.3750]]), tensor([1.]))
    """
    return [_components(image, smallest) for image in images.cpu().numpy()]


def _components(image: np.ndarray, smallest: float) -> Proposals:
    height, width = image.shape[1:]
    contrast = np.abs(image - np.median(image, axis=(1, 2), keepdims=True)).max(0)
    regions, _ = ndimage.label(contrast > contrast.max() / 2, np.ones((3, 3)))
    kept = np.flatnonzero(np.bincount(regions.ravel())[1:] >= smallest * regions.size)
    slices = ndimage.find_objects(regions)
    boxes = [(x.start / width, y.start / height, x.stop / width, y.stop / height) for y, x in (slices[i] for i in kept)]
    cores = [regions == 1 + i for i in kept]
    masks = [ndimage.binary_dilation(core, np.ones((3, 3))) for core in cores]  # with the edges
    mean = np.array([contrast[core].mean() for core in cores])
    parts = np.reshape(boxes, (-1, 4)), np.reshape(masks, (-1, height, width)), mean / mean.max(initial=1e-12)
    return Proposals(*[torch.from_numpy(part.astype(np.float32)) for part in parts])


@dataclass(frozen=True)
class Scenes:
    """Images as the encoder is given them: pixels, or a frozen tower's features, beside the proposals.

    Attributes
    ----------
    maps : Tensor of shape (n, channels, height, width)
        The images, or the tower's maps of them.
    crops : Tensor of shape (n, N, ...)
        Crops of the proposals, or features of them.
    boxes, masks : Tensor of shape (n, N, 4), and (n, N, mask_size ** 2)
    scores : Tensor of shape (n, N)
        -1 where an image has fewer than N proposals.
    """

    maps: Tensor
    crops: Tensor
    boxes: Tensor
    masks: Tensor
    scores: Tensor

    def __getitem__(self, rows: Any) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device) -> Self:
        """Return them on a device."""
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))


def propose(proposer: Proposer | str, images: Tensor, n: int) -> list[Proposals]:
    """Return the ``n`` best proposals of each image, checked; none for ``n`` 0."""
    if not n:
        return [Proposals(torch.zeros(0, 4), torch.zeros(0, *images.shape[-2:]), torch.zeros(0))] * len(images)
    given = (components if isinstance(proposer, str) else proposer)(images)
    found = check_each(given, Proposals, "the proposals of images")
    if len(found) != len(images):
        raise ValueError(f"the proposer gave proposals of {len(found)} images, and there are {len(images)}")
    return [_checked(one, images.shape[-2:], n, f"of image {row}") for row, one in enumerate(found)]


def _checked(one: Proposals, sides: Sequence[int], n: int, where: str) -> Proposals:
    """Return the best proposals of an image in float32, without gradients, on the CPU; or say what is wrong."""
    given = {field.name: getattr(one, field.name) for field in fields(one)}
    parts = {name: check_numbers(v, f"{name} {where}").cpu().float() for name, v in given.items() if v is not None}
    k, features = parts["scores"].numel(), parts.get("features")
    wanted: dict[str, tuple[int, ...]] = {"boxes": (k, 4), "masks": (k, *sides), "scores": (k,)}
    if features is not None:
        wanted["features"] = (k, features.shape[-1] if features.ndim == 2 else 1)
    for name, shape in wanted.items():
        if tuple(parts[name].shape) != shape:
            raise ValueError(f"the proposer must give {name} {where} of shape {shape}, got {tuple(parts[name].shape)}")
        require_finite(parts[name], f"{name} {where}")
        low, high = [bound.item() for bound in torch.aminmax(parts[name])] if k else [0.0, 1.0]
        if name != "features" and not -_SLACK <= low <= high <= 1 + _SLACK:
            raise ValueError(f"the proposer must give {name} in [0, 1]; those {where} go from {low:g} to {high:g}")
    if not (parts["boxes"][:, :2] <= parts["boxes"][:, 2:]).all():
        raise ValueError(
            f"the proposer must give boxes as left, top, right, bottom, and one {where} ends before it begins"
        )
    order = parts["scores"].argsort(descending=True, stable=True)[:n]
    best = {name: (part if name == "features" else part.clamp(0, 1))[order] for name, part in parts.items()}
    return Proposals(**best)


def region_features(found: Iterable[Proposals]) -> int | None:
    """Return how many features a proposer gives of each proposal; None if it gives none."""
    widths = {None if one.features is None else one.features.shape[-1] for one in found if len(one.boxes)}
    if len(widths) > 1:
        raise ValueError(f"the proposer must give features of one width for all images, or for none, got {widths}")
    return widths.pop() if widths else None


def prepare(
    images: Tensor,
    found: Sequence[Proposals],
    n: int,
    crop_size: int,
    mask_size: int,
    features: int | None = None,
    tower: nn.Module | None = None,
) -> Scenes:
    """Return what the encoder is given of images and their proposals.

    Parameters
    ----------
    images : Tensor of shape (m, channels, height, width)
    found : sequence of m Proposals
    n, crop_size, mask_size : int
    features : int, optional
        How many the proposer gives, instead of crops.
    tower : torch.nn.Module, optional
        A frozen tower, whose maps take the place of pixels.
    """
    if features is None:
        crops = padded([_crops(image, one, crop_size) for image, one in zip(images, found)], n)
    else:
        crops = padded([torch.zeros(0, features) if one.features is None else one.features for one in found], n)
    masks = [F.adaptive_avg_pool2d(one.masks[:, None], mask_size).flatten(1) for one in found]
    boxes, scores = padded([one.boxes for one in found], n), padded([one.scores for one in found], n, -1.0)
    if tower is not None:
        device, there = next((w.device for w in tower.parameters()), images.device), scores >= 0
        with torch.no_grad():
            images = torch.cat([tower(part.to(device)).cpu() for part in images.split(64)])
            if features is None:
                pooled = [tower(part.to(device)).mean((2, 3)).cpu() for part in crops[there].split(64) if len(part)]
                crops = images.new_zeros(*there.shape, images.shape[1])
                crops[there] = torch.cat([images.new_zeros(0, images.shape[1]), *pooled])
    return Scenes(images, crops, boxes, padded(masks, n), scores)


def _crops(image: Tensor, found: Proposals, size: int) -> Tensor:
    """Return square crops (k, channels, size, size) around the proposals, blank outside of their masks."""
    k, (channels, *_) = len(found.boxes), image.shape
    if not k:
        return image.new_zeros(0, channels, size, size)
    sides = torch.tensor([image.shape[2], image.shape[1]])  # width, height
    corners = found.boxes.view(k, 2, 2)
    half = ((corners[:, 1] - corners[:, 0]) * sides).amax(1, keepdim=True) / sides  # of a square, in pixels
    theta = torch.zeros(k, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = half[:, 0], half[:, 1], corners.sum(1) - 1
    grid = F.affine_grid(theta, [k, channels, size, size], align_corners=False)
    return F.grid_sample(image * found.masks[:, None], grid, align_corners=False)


def padded(parts: Sequence[Tensor], n: int, fill: float = 0.0) -> Tensor:
    """Return m tensors (k, ...) of up to n rows each as one (m, n, ...)."""
    out = torch.full((len(parts), n, *parts[0].shape[1:]), fill)
    for row, part in enumerate(parts):
        out[row, : len(part)] = part
    return out


def matched(found: Tensor, truth: np.ndarray, least: float = 0.5) -> np.ndarray:
    """Return for each proposal the place of its true box, by the best assignment; -1 below an overlap of ``least``.

    Examples
    --------
    >>> found = torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]])
    >>> matched(found, np.array([[0.5, 0.5, 0.9, 1.0]])).tolist()
    [-1, 0]
    """
    a, b = found.numpy()[:, None], truth[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = sides.clip(0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
    overlap = common / np.maximum(areas[0] + areas[1] - common, 1e-12)  # (k, truths)
    place = np.full(len(found), -1)
    rows, columns = linear_sum_assignment(-overlap)
    kept = overlap[rows, columns] >= least
    place[rows[kept]] = columns[kept]
    return place
