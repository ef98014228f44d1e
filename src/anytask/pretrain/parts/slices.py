"""Encoders that share weights: the members of a space of shapes are slices of its largest one.

A member is a plain encoder of its own shape that runs on views of the shared weights, so that extracting it is a copy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from anytask.core.errors import shown
from anytask.core.rng import isolated
from anytask.pretrain.parts.relations import projections, recorded

_LAYER = re.compile(r"(?<=\blayer\.)\d+")


@dataclass(frozen=True, order=True)
class Shape:
    """The shape of an encoder: (L, A, H, R).

    Attributes
    ----------
    layers, heads, width : int
    ratio : float
        Width of the feed-forward layers per ``width``.

    Examples
    --------
    >>> Shape(7, 10, 160, 3.5).hidden
    560
    """

    layers: int
    heads: int
    width: int
    ratio: float

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layers."""
        return round(self.ratio * self.width)


def shape_of(encoder: Any) -> Shape:
    """Return the shape of an encoder of transformers."""
    c = encoder.config
    ratio = c.intermediate_size / c.hidden_size
    return Shape(c.num_hidden_layers, c.num_attention_heads, c.hidden_size, ratio)


@dataclass(frozen=True)
class Sizes:
    """What the cost of a shape depends on beside it.

    Attributes
    ----------
    head_size : int
    inputs : int
        Words of the vocabulary, or numbers of a token where tokens are vectors.
    positions, kinds : int
        Rows of the tables of positions and of token types.
    vectors : bool
        Whether tokens are vectors, which a linear layer with a bias reads.
    """

    head_size: int = 64
    inputs: int = 30522
    positions: int = 512
    kinds: int = 2
    vectors: bool = False


def parameters(shape: Shape, sizes: Sizes = Sizes(), published: bool = False) -> int:
    """Return how many weights an encoder has.

    Parameters
    ----------
    shape, sizes
    published : bool, default False
        Count as the released code does, which prices queries, keys and values as H x HA/12.

    Examples
    --------
    >>> parameters(Shape(12, 12, 768, 4)), parameters(Shape(7, 10, 160, 3.5), published=True)
    (109482240, 6887440)
    """
    L, A, H, F = shape.layers, shape.heads, shape.width, shape.hidden
    if published:
        block = H**2 + H**2 * A // 4 + 6 * H + 2 * F * H + F + 3 * H
        return H * (sizes.inputs + sizes.positions + sizes.kinds + 2) + L * block + H**2 + H
    W = A * sizes.head_size
    block = 3 * (H + 1) * W + (W + 1) * H + (H + 1) * F + (F + 1) * H + 4 * H
    tables = H * (sizes.inputs + sizes.vectors + sizes.positions + sizes.kinds) + 2 * H
    return tables + L * block + (H + 1) * H


def flops(shape: Shape, sizes: Sizes = Sizes(), tokens: int = 128, published: bool = False) -> float:
    """Return how many multiplications with additions an encoder makes for one text of ``tokens`` tokens.

    Examples
    --------
    >>> round(flops(Shape(7, 10, 160, 3.5), published=True), 2)
    274705386.67
    """
    L, A, H, F, n = shape.layers, shape.heads, shape.width, shape.hidden, tokens
    if published:
        return L * (3 * n * H**2 * A / 12 + 2 * n**2 * H * A / 12 + n * H**2 + 2 * n * F * H) + n * H**2 + 2 * H
    W = A * sizes.head_size
    return float(L * n * (4 * H * W + 2 * n * W + 2 * F * H) + H**2 + sizes.vectors * n * sizes.inputs * H)


def thinned(layers: int, most: int) -> list[int]:
    """Return which layers of ``most`` a member with ``layers`` keeps, spread evenly.

    Examples
    --------
    >>> thinned(7, 12)
    [0, 1, 3, 5, 6, 8, 10]
    """
    return [i * most // layers for i in range(layers)]


def shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of a module's weights by their names."""
    return {name: weight.shape for name, weight in module.named_parameters()}


def sliced(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], layers: Sequence[int]) -> dict[str, Tensor]:
    """Return the front slice of each weight that a smaller encoder needs, as views.

    Parameters
    ----------
    weights : mapping
        Those of the larger encoder, by the names that they have in the smaller one but for the numbers of layers.
    shapes : mapping
        What :func:`shapes_of` gives of the smaller encoder.
    layers : sequence of int
        Which layer of the larger encoder each layer is.

    Raises
    ------
    ValueError
        Naming a weight that the larger encoder lacks, or has in a smaller shape.

    Examples
    --------
    >>> wide = {"layer.2.weight": torch.arange(6.0).reshape(2, 3)}
    >>> like = nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(2, 1, bias=False)])})
    >>> sliced(wide, shapes_of(like), [2])["layer.0.weight"]
    tensor([[0., 1.]])
    """
    found = {}
    for name, own in shapes.items():
        place = _LAYER.sub(lambda number: str(layers[int(number[0])]), name)
        if place not in weights:
            raise ValueError(f"there is no weight {place} to slice")
        if any(a > b for a, b in zip(own, weights[place].shape, strict=True)):
            raise ValueError(f"{name} of shape {tuple(own)} is no slice of {tuple(weights[place].shape)}")
        found[name] = weights[place][tuple(slice(size) for size in own)]
    return found


@dataclass(frozen=True)
class Space:
    """A grid of shapes that share the weights of its largest.

    Examples
    --------
    >>> space = Space((1, 2), (2,), (16, 24), (1.0,))
    >>> space.largest, len(space.members)
    (Shape(layers=2, heads=2, width=24, ratio=1.0), 4)
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    width: tuple[int, ...]
    ratio: tuple[float, ...]

    @property
    def members(self) -> list[Shape]:
        """All shapes, the smallest first."""
        return sorted(Shape(*one) for one in product(self.layers, self.heads, self.width, self.ratio))

    @property
    def largest(self) -> Shape:
        """The shape of the shared weights."""
        return Shape(max(self.layers), max(self.heads), max(self.width), max(self.ratio))


_AXES = ("layers", "heads", "width", "ratio")


def read_spaces(spaces: Any) -> dict[str, Space]:
    """Return what users give as sub-spaces by their names, or say what is wrong with it.

    Parameters
    ----------
    spaces : sequence of mapping
        Each with a "name", and values of "layers", "heads", "width" and "ratio".

    Examples
    --------
    >>> read_spaces([{"name": "tiny", "layers": [1], "heads": [2], "width": [25], "ratio": [1.5]}])
    Traceback (most recent call last):
        ...
    ValueError: the space 'tiny' has feed-forward layers of 1.5 times 25, which is not whole
    """
    wanted = "a list of mappings with a name of its own, layers, heads, width and ratio"
    if not isinstance(spaces, (list, tuple)) or not spaces:
        raise ValueError(f"spaces must be {wanted}, got {shown(spaces)}")
    found: dict[str, Space] = {}
    for given in spaces:
        name = given.get("name") if isinstance(given, Mapping) else None
        if not isinstance(name, str) or name in found or set(given) != {"name", *_AXES}:
            raise ValueError(f"spaces must be {wanted}, got {shown(given)} in it")
        for axis in _AXES:
            values, kinds = given[axis], (int, float) if axis == "ratio" else (int,)
            listed = isinstance(values, (list, tuple)) and len(values) > 0
            if not listed or any(isinstance(v, bool) or not isinstance(v, kinds) or not 0 < v < 1e6 for v in values):
                kind = "numbers" if axis == "ratio" else "integers"
                raise ValueError(f"{axis} of the space {name!r} must be a list of {kind} above 0, got {shown(values)}")
        space = Space(*(tuple(sorted(set(given[axis]))) for axis in _AXES))
        if odd := [(r, h) for r in space.ratio for h in space.width if not float(r * h).is_integer()]:
            r, h = odd[0]
            raise ValueError(f"the space {name!r} has feed-forward layers of {r:g} times {h}, which is not whole")
        found[name] = space
    return found


@lru_cache(maxsize=1024)
def _member(config: str) -> tuple[nn.Module, dict[str, torch.Size], list[nn.Module]]:
    """Return an encoder without values, the shapes of its weights, and the projections of its last block."""
    from anytask.models.slim_bert import SlimBertConfig, encoder_of

    with torch.device("meta"), isolated(0):
        member = encoder_of(SlimBertConfig(**json.loads(config)))
    return member, shapes_of(member), projections(member)


class Members:
    """All members of a SuperLM, as encoders that run on its weights.

    Parameters
    ----------
    net : nn.Module
        The largest member; gradients flow into its weights.
    base : mapping
        What configurations have in common.
    """

    def __init__(self, net: Any, base: Mapping[str, Any]) -> None:
        self.net, self.base = net, base
        self.weights, self.buffers = dict(net.named_parameters()), dict(net.named_buffers())

    def run(self, shape: Shape, batch: Mapping[str, Any]) -> tuple[list[Tensor], Any]:
        """Return queries, keys and values (n, t, heads * head_size) of a member's last block, and its output."""
        member, shapes, made_by = _member(json.dumps(config_of(self.base, shape), sort_keys=True))
        weights = sliced(self.weights, shapes, thinned(shape.layers, self.net.config.num_hidden_layers))
        member.train(self.net.training)
        with recorded(made_by) as found:
            output = functional_call(member, {**weights, **self.buffers}, (), dict(batch))
        return found, output


_KEPT = (
    "vocab_size", "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "type_vocab_size",
    "initializer_range", "layer_norm_eps", "pad_token_id", "input_size", "input_mean", "input_scale",
)  # fmt: skip


class Pattern:
    """What the members of all sub-spaces of a teacher have in common with it.

    Parameters
    ----------
    teacher : transformers.PreTrainedModel

    Attributes
    ----------
    base : dict
        What their configurations have in common.
    sizes : Sizes
    """

    def __init__(self, teacher: Any) -> None:
        self.teacher, own = teacher, teacher.config
        positions = getattr(getattr(teacher, "embeddings", None), "position_embeddings", None)
        padding = getattr(positions, "padding_idx", None)
        self._offset = 0 if padding is None else padding + 1  # RoBERTa's first rows are of no position
        size = getattr(own, "head_size", None) or own.hidden_size // own.num_attention_heads
        self.base = {name: getattr(own, name) for name in _KEPT if hasattr(own, name)}
        self.base |= {"head_size": size, "max_position_embeddings": own.max_position_embeddings - self._offset}
        vectors = self.base.get("input_size")
        self.sizes = Sizes(
            size, vectors or self.base["vocab_size"], self.base["max_position_embeddings"],
            self.base.get("type_vocab_size", 2), vectors is not None,
        )  # fmt: skip

    def check(self, name: str, space: Space, heads: int, within: bool) -> None:
        """Raise a ``ValueError`` for a sub-space with too narrow a member, or beyond the teacher if it begins there."""
        own, most = self.teacher.config, space.largest
        if (least := min(space.heads) * self.sizes.head_size) < heads:
            raise ValueError(
                f"the space {name!r} has members of {least} numbers for {heads} relation heads: lower these"
            )
        limits = {
            "layers": (most.layers, own.num_hidden_layers), "heads": (most.heads, own.num_attention_heads),
            "width": (most.width, own.hidden_size), "feed-forward width": (most.hidden, own.intermediate_size),
        }  # fmt: skip
        if within and (over := [axis for axis, (n, limit) in limits.items() if n > limit]):
            n, limit = limits[over[0]]
            raise ValueError(
                f"the space {name!r} goes up to {over[0]} {n}, and the teacher has {limit}: lower it, or set "
                "start='random'"
            )

    def encoder(self, shape: Shape) -> Any:
        """Return a plain encoder of a shape, with random weights, on the teacher's device."""
        from anytask.models.slim_bert import SlimBertConfig, encoder_of

        return encoder_of(SlimBertConfig(**config_of(self.base, shape))).to(next(self.teacher.parameters()).device)

    def cut(self, shape: Shape) -> Any:
        """Return an encoder of a shape that begins with slices of the teacher."""
        student = self.encoder(shape)
        weights = {name: weight for name, weight in student.named_parameters() if name.startswith("pooler.")}
        weights |= dict(self.teacher.named_parameters())
        place = "embeddings.position_embeddings.weight"
        if place in weights:
            weights[place] = weights[place][self._offset :]
        return filled(student, weights, self.teacher.config.num_hidden_layers)

    def extract(self, net: Any, shape: Shape) -> Any:
        """Return a plain encoder with copies of the weights of a SuperLM's member, in evaluation mode."""
        with isolated(0):
            student = self.encoder(shape)
        return filled(student, dict(net.named_parameters()), net.config.num_hidden_layers).eval()


def config_of(base: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Return the configuration of a shape."""
    sizes = {"num_hidden_layers": shape.layers, "num_attention_heads": shape.heads}
    return {**base, **sizes, "hidden_size": shape.width, "intermediate_size": shape.hidden}


@torch.no_grad()
def filled(student: Any, weights: Mapping[str, Tensor], layers: int) -> Any:
    """Return a smaller encoder, into which the front slices of a larger one's weights were copied."""
    for name, weight in sliced(weights, shapes_of(student), thinned(student.config.num_hidden_layers, layers)).items():
        student.get_parameter(name).copy_(weight)
    return student


def smallest_first(members: Iterable[Shape], sizes: Sizes) -> list[Shape]:
    """Return shapes in the order of their numbers of weights."""
    return sorted(members, key=lambda shape: (parameters(shape, sizes), shape))
