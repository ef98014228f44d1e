"""Task vectors: what fine-tuning changed in a model, one tensor for each parameter, and their arithmetic."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from anytask.core.checks import require_finite
from anytask.core.errors import BadData, instance_of, shown


@dataclass(frozen=True)
class LowRank:
    """A matrix ``B A`` (d, k) of rank r, kept as its factors.

    Attributes
    ----------
    B : Tensor of shape (d, r)
    A : Tensor of shape (r, k)

    Examples
    --------
    >>> LowRank(torch.ones(2, 1), torch.tensor([[1.0, 2.0]])).dense()
    tensor([[1., 2.],
            [1., 2.]])
    """

    B: Tensor
    A: Tensor

    @property
    def shape(self) -> torch.Size:
        """The shape (d, k) of the product."""
        return torch.Size((len(self.B), self.A.shape[1]))

    def dense(self) -> Tensor:
        """Return the product (d, k)."""
        return self.B @ self.A


Block: TypeAlias = Tensor | LowRank


class TaskVector(dict[str, Block]):
    """The change of each parameter of a model, by the parameter's name; a parameter that is not named did not change.

    Vectors are added, subtracted and scaled (``a + b``, ``a - b``, ``2 * a``, ``-a``).

    Examples
    --------
    >>> a = TaskVector(w=torch.tensor([3.0, 0.0]))
    >>> b = TaskVector(w=torch.tensor([3.0, 4.0]), b=torch.zeros(1))
    >>> (0.5 * a - b)["w"], a.dot(b), round(a.cosine(b), 3)
    (tensor([-1.5000, -4.0000]), 9.0, 0.6)
    """

    @classmethod
    def between(cls, pretrained: nn.Module | Mapping[str, Any], finetuned: nn.Module | Mapping[str, Any]) -> Self:
        """Return what leads from a model to its fine-tuned successor.

        Parameters
        ----------
        pretrained, finetuned : torch.nn.Module or state dict
            Buffers of a module and what holds whole numbers are passed over. Weights that are tied are taken once,
            under their first name. Half precision is subtracted in float32.

        Raises
        ------
        ValueError
            If names or shapes differ; the message lists which.
        """
        theta_0, theta, names = _state(pretrained), _state(finetuned), _names(pretrained)
        found = {names[name]: value for name, value in reversed(list(theta.items())) if name in names}
        first = list(dict.fromkeys(names.values()))
        wrong = [f"{name!r} is missing" for name in first if name not in found]
        wrong += [f"{name!r} is not in the pre-trained model" for name in theta if name not in theta_0]
        _check_shapes({name: theta_0[name] for name in first}, found, "the fine-tuned model", wrong)
        return cls({name: _wide(found[name]) - _wide(theta_0[name]) for name in first})

    @classmethod
    def from_lora(cls, adapter: str | os.PathLike[str] | nn.Module, name: str = "default") -> Self:
        """Return what a LoRA adapter of PEFT adds to its base model: ``B A`` for each adapted matrix, as factors.

        Parameters
        ----------
        adapter : path or torch.nn.Module
            A folder that PEFT saved, or a model with the adapter in it.
        name : str, default "default"
            Of the adapter in the model.

        Raises
        ------
        ImportError
            Without PEFT, which the extra ``text`` has.
        ValueError
            For adapters that do more than add ``B A`` to matrices.
        """
        config, weights = _adapter(adapter, name)
        from peft.utils.other import get_pattern_key

        pairs: dict[str, dict[str, Tensor]] = {}
        for key, value in weights.items():
            layer, _, part = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
            pairs.setdefault(layer, {})[part] = value.detach()
        other = [name for name, pair in pairs.items() if set(pair) != {"lora_A", "lora_B"} or pair["lora_A"].dim() != 2]
        if other or config.use_dora or not pairs:
            raise ValueError(
                f"the adapter does not only add products of two matrices: {', '.join(other[:5]) or config.peft_type}"
            )
        found = {}
        for layer, pair in pairs.items():
            B, A = pair["lora_B"], pair["lora_A"]
            alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, layer), config.lora_alpha)
            scale = alpha / (len(A) ** 0.5 if config.use_rslora else len(A))
            found[f"{layer}.weight"] = LowRank(A.T, scale * B.T) if config.fan_in_fan_out else LowRank(scale * B, A)
        return cls(found)

    def __add__(self, other: Mapping[str, Block]) -> TaskVector:
        _check_shapes(self, other, "the other vector", [])
        names = dict.fromkeys((*self, *other))
        return TaskVector({name: _sum([v[name] for v in (self, other) if name in v]) for name in names})

    def __mul__(self, factor: float) -> TaskVector:
        return TaskVector(
            {n: LowRank(factor * v.B, v.A) if isinstance(v, LowRank) else factor * v for n, v in self.items()}
        )

    __rmul__ = __mul__

    def __neg__(self) -> TaskVector:
        return -1 * self

    def __sub__(self, other: TaskVector) -> TaskVector:
        return self + -1 * TaskVector(other)

    def dot(self, other: Mapping[str, Block]) -> float:
        """Return the inner product with another vector, computed in float64."""
        _check_shapes(self, other, "the other vector", [])
        pairs = ((dense(self[name]), dense(other[name])) for name in self if name in other)
        return float(sum((a.double() * b.double()).sum().item() for a, b in pairs))

    def cosine(self, other: TaskVector) -> float:
        """Return the cosine of the angle to another vector; 0 where one of them is 0."""
        length = (self.dot(self) * TaskVector(other).dot(other)) ** 0.5
        return self.dot(other) / length if length else 0.0


def named(pretrained: nn.Module, vectors: Any) -> dict[str, TaskVector]:
    """Return several task vectors by name: ``0``, ``1``, ... where they came in a sequence.

    Parameters
    ----------
    pretrained : torch.nn.Module
    vectors : sequence, or mapping of names
        Of :class:`TaskVector`, or of fine-tuned modules or their state dicts, whose change is taken.
    """
    if isinstance(vectors, (nn.Module, TaskVector)):
        raise TypeError("vectors must be several, in a sequence or a mapping of names: put one alone into a list")
    if not isinstance(vectors, (Mapping, Sequence)) or isinstance(vectors, str) or not vectors:
        raise TypeError(f"vectors must be a sequence or a mapping of task vectors, at least one, got {shown(vectors)}")
    items = vectors.items() if isinstance(vectors, Mapping) else enumerate(vectors)
    found = {}
    for name, value in items:
        if not isinstance(value, (TaskVector, nn.Module, Mapping)):
            raise TypeError(
                f"vector {name!r} must be a task vector, a module or its state dict, got {shown(value, 60)}"
            )
        if not isinstance(value, TaskVector):
            try:
                value = TaskVector.between(pretrained, value)
            except ValueError as error:
                raise ValueError(f"vector {name!r}: {error}") from error
        for block, change in value.items():
            instance_of(f"{block} of vector {str(name)!r}", Tensor, LowRank, optional=False, wanted="a tensor")(change)
        if str(name) in found:
            raise ValueError(f"two vectors have the name {str(name)!r}")
        found[str(name)] = value
    return found


def aligned(
    model: nn.Module, vectors: Mapping[str, Mapping[str, Block]], exclude: Sequence[str] = ()
) -> dict[str, list[Block | None]]:
    """Return the blocks of a model that some vector changes, each with the change by every vector.

    Parameters
    ----------
    model : torch.nn.Module
    vectors : mapping of str to vector
        Entries for buffers are passed over.
    exclude : sequence of str
        Patterns of names, such as ``head.*``, that are left as they are.

    Returns
    -------
    dict of str to list of (Tensor, LowRank or None)
        By names of parameters, in the model's order; None where a vector does not change the parameter.

    Raises
    ------
    ValueError
        If a vector names a parameter that the model does not have, or of another shape (all are listed), or nothing
        changes.
    """
    names, known = _names(model), model.state_dict()
    parameters = dict(model.named_parameters())
    if idle := [pattern for pattern in exclude if not any(fnmatchcase(name, pattern) for name in parameters)]:
        raise ValueError(f"exclude has {idle[0]!r}, which fits no parameter of the model: {shown(list(parameters))}")
    found: dict[str, list[Block | None]] = {name: [] for name in parameters}
    for which, vector in vectors.items():
        wrong = [f"{name!r} is not in the model" for name in vector if name not in known]
        own = {names[name]: value for name, value in reversed(list(vector.items())) if name in names}
        _check_shapes(parameters, own, f"vector {which!r}", wrong)
        for name in parameters:
            value = own.get(name)
            changes = value is not None and not any(fnmatchcase(name, pattern) for pattern in exclude)
            if changes:
                require_finite(dense(value), f"{name} of vector {which!r}")
            found[name].append(value if changes and bool(dense(value).any()) else None)
    rows = list(zip(*found.values()))
    found = {name: values for name, values in found.items() if any(value is not None for value in values)}
    if not found:
        raise ValueError("the vectors change no parameter of the model: there is nothing to compose")
    for which, values in zip(vectors, rows):
        if all(value is None for value in values):
            warnings.warn(f"Vector {which!r} changes nothing: is it the pre-trained model?", stacklevel=3)
    return found


def dense(value: Block | None) -> Tensor:
    """Return a block as a tensor."""
    return value.dense() if isinstance(value, LowRank) else value  # type: ignore[return-value]


def _sum(blocks: list[Block]) -> Block:
    if all(isinstance(block, LowRank) for block in blocks):
        return LowRank(torch.cat([b.B for b in blocks], 1), torch.cat([b.A for b in blocks]))  # type: ignore[union-attr]
    return torch.stack([dense(block) for block in blocks]).sum(0)


def _wide(value: Tensor) -> Tensor:
    value = value.detach()
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _state(source: nn.Module | Mapping[str, Any]) -> dict[str, Tensor]:
    instance_of("a model", nn.Module, Mapping, optional=False, wanted="a torch.nn.Module or a state dict")(source)
    state = source.state_dict() if isinstance(source, nn.Module) else source
    return {name: v for name, v in state.items() if isinstance(v, Tensor) and v.is_floating_point()}


def _names(source: nn.Module | Mapping[str, Any]) -> dict[str, str]:
    """Return the first name of each parameter by all of its names: tied weights have several."""
    if isinstance(source, nn.Module):
        named_: Any = [(n, p, id(p)) for n, p in source.named_parameters(remove_duplicate=False)]
    else:
        named_ = [(n, v, (v.data_ptr(), v.shape) if v.numel() else n) for n, v in _state(source).items()]
    first: dict[Any, str] = {}
    return {name: first.setdefault(key, name) for name, value, key in named_ if value.is_floating_point()}


def _check_shapes(wanted: Mapping[str, Any], given: Mapping[str, Any], whose: str, wrong: list[str]) -> None:
    """Raise a ValueError that lists what is ``wrong``, and all shapes that differ."""
    wrong = wrong + [
        f"{name!r} is {tuple(value.shape)}, wanted {tuple(wanted[name].shape)}"
        for name, value in given.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    if wrong:
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(f"{whose} does not fit: {'; '.join(wrong[:8])}{more}")


def _adapter(adapter: Any, name: str) -> tuple[Any, Mapping[str, Tensor]]:
    """Return the configuration and the weights of a LoRA adapter."""
    try:
        from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, load_peft_weights
    except ImportError as error:
        raise ImportError("LoRA adapters need peft: pip install 'anytask[text]'") from error
    if isinstance(adapter, nn.Module):
        configs = getattr(adapter, "peft_config", {})
        if name not in configs:
            raise ValueError(f"the model has no adapter {name!r}; its adapters: {', '.join(configs) or 'none'}")
        config, weights = configs[name], get_peft_model_state_dict(adapter, adapter_name=name)
    else:
        try:
            config = PeftConfig.from_pretrained(os.fspath(adapter))
            weights = load_peft_weights(os.fspath(adapter), device="cpu")
        except (OSError, ValueError) as error:
            raise BadData(f"{adapter}: no adapter of PEFT can be read there: {str(error).splitlines()[0]}") from error
    if not isinstance(config, LoraConfig):
        raise ValueError(f"the adapter is {config.peft_type}, and LoRA is wanted")
    return config, weights
