"""Magnitudes of a model's output units, and gradient rows that are masked by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from anytask.core.checks import check_counts
from anytask.core.errors import check_flags, check_word, instance_of, shown
from anytask.core.settings import check_number

#: Which linear layers are gated: (name, module) -> whether this one is.
Layers = Callable[[str, nn.Module], bool]


class MagnitudeGate:
    """Hooks on a model and its optimizer: rows of units whose outputs were small get no gradient at a step.

    A unit's magnitude is the sum of the absolute outputs of its linear layer, before any activation, over all tokens
    since the last step; mini-batches whose gradients are accumulated count together. Forward passes without gradients
    do not count.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
    ratio : float in [0, 1)
        Share of the units that do not learn.
    rule : {"quantile", "topk"}
        See :func:`gate_of`.
    layers : callable, optional
        ``layers(name, module)`` says which linear layers are gated. By default those inside the blocks of a
        transformer, and all linear layers of a network without blocks.
    units : {"magnitude", "random"}
        Random units instead of those with large outputs: the ablation.
    strict : bool, default False
        Put masked rows, and what the optimizer remembers of them, back after the step.
    cluster : int, default 1
        Neighboring units that are gated together.
    padding : bool, default True
        Count padding tokens, as the released code does; False leaves out those whose ``attention_mask`` is 0.
    start_step : int, default 0
        Steps before gating begins.
    seed : int, default 0
        Of random units.

    Attributes
    ----------
    gates : dict of str to Tensor
        The masks (units,) of the last step, by the names of the weights.

    Raises
    ------
    ValueError
        For a ratio outside [0, 1), and a model without a linear layer to gate.
    RuntimeError
        At a step, if a layer has a gradient and never ran its forward pass, as inside fused attention, or the step is
        given a closure; on entering a gate twice.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ratio: float = 0.7,
        *,
        rule: str = "quantile",
        layers: Layers | None = None,
        units: str = "magnitude",
        strict: bool = False,
        cluster: int = 1,
        padding: bool = True,
        start_step: int = 0,
        seed: int = 0,
    ) -> None:
        instance_of("model", nn.Module, optional=False)(model)
        instance_of("optimizer", torch.optim.Optimizer, optional=False)(optimizer)
        check_number(ratio, "ratio", at_least=0, below=1)
        check_word(rule, ("quantile", "topk"), "rule")
        check_word(units, ("magnitude", "random"), "units")
        instance_of("layers", Callable, wanted="a function of a layer's name and the layer")(layers)
        check_flags(strict=strict, padding=padding)
        check_counts(cluster=cluster)
        if start_step != 0 or isinstance(start_step, bool):
            check_counts(start_step=start_step)
        if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
            raise ValueError(f"seed must be an integer of 64 bits, got {shown(seed)}")
        self.model, self.optimizer, self.ratio, self.rule, self.units = model, optimizer, ratio, rule, units
        self.strict, self.cluster, self.padding, self.start_step = strict, cluster, padding, start_step
        self.generator = torch.Generator().manual_seed(seed)
        self.steps, self.gates = 0, dict[str, Tensor]()
        self._magnitudes: dict[Tensor, Tensor] = {}
        self._masked = False
        self._before: list[tuple[Tensor, Tensor, Tensor]] = []  # tensor, rows that do not learn, their values
        self._valid: Tensor | None = None
        self._hooks: list[Any] = []
        self._weights: dict[Tensor, tuple[str, nn.Module]] = {}
        self._by_layer: dict[nn.Module, list[Tensor]] = {}  # several for LoRA's pairs; a tied weight is in several
        for name, weight, layer in gated(model, layers):
            self._weights.setdefault(weight, (name, layer))
            self._by_layer.setdefault(layer, []).append(weight)
        if not self._weights:
            raise ValueError(
                "the model has no linear layer to gate: there is none with a trained weight inside its blocks, or "
                "layers= leaves out all"
            )

    def __enter__(self) -> Self:
        if self._hooks:
            raise RuntimeError("the gate is open already: close it before it is entered again")
        self._hooks = [layer.register_forward_hook(self._noting(weights)) for layer, weights in self._by_layer.items()]
        if not self.padding:
            self._hooks.append(self.model.register_forward_pre_hook(self._note_padding, with_kwargs=True))
        self._hooks += [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(lambda *_: self._after_step()),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def mask_gradients(self) -> None:
        """Mask the gradients now, as otherwise done right before the step; for a loop that clips them in between.

        The last call before the step counts, so that it may follow each mini-batch, or a step that was left out.
        """
        if self.steps < self.start_step or not self.ratio:
            return
        self.gates = {}
        for weight, (name, layer) in self._weights.items():
            if weight.grad is None:
                continue
            if weight not in self._magnitudes:
                raise RuntimeError(
                    f"{name} has a gradient, and its layer ({type(layer).__name__}) never ran a forward pass that "
                    "hooks see, as in fused attention: leave it out by layers="
                )
            learns = self._gate(self._magnitudes[weight])
            self.gates[name] = learns
            weight.grad[~learns] = 0  # a product with 0 would leave NaN of an infinite gradient
        self._masked = True

    def _gate(self, n: Tensor) -> Tensor:
        if self.units == "random":
            chosen = torch.randperm(len(n), generator=self.generator)[int(self.ratio * len(n)) :]
            return torch.zeros(len(n), dtype=torch.bool).index_fill_(0, chosen, True).to(n.device)
        return gate_of(n, self.ratio, self.rule, self.cluster)

    def _noting(self, weights: list[Tensor]) -> Callable[..., None]:
        def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            if not torch.is_grad_enabled():
                return
            h = output.detach().abs()  # (..., units)
            h = h if h.dtype == torch.float64 else h.float()  # a sum over tokens overflows half precision
            if self._valid is not None and h.shape[:-1] == self._valid.shape:
                h = h * self._valid[..., None].to(h)
            total = h.flatten(0, -2).sum(0)
            for weight in weights:
                known = self._magnitudes.get(weight)
                if known is None or len(known) == len(total):
                    self._magnitudes[weight] = total if known is None else known + total

        return note

    def _note_padding(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        self._valid = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("closure") is not None or any(callable(arg) for arg in args[1:]):
            raise RuntimeError(
                "step(closure) makes gradients inside the step, where no gate can mask them: call backward, then step()"
            )
        if not self._masked:
            self.mask_gradients()
        if self.strict and self._masked:
            for weight, (name, _) in self._weights.items():
                if (learns := self.gates.get(name)) is not None:
                    kept = self.optimizer.state.get(weight, {}).values()
                    held = [t for t in (weight, *kept) if isinstance(t, Tensor) and t.shape == weight.shape]
                    self._before += [(t, ~learns, t.detach()[~learns].clone()) for t in held]

    @torch.no_grad()
    def _after_step(self) -> None:
        for tensor, rows, values in self._before:
            tensor[rows] = values
        self._before, self._magnitudes, self._masked = [], {}, False
        self.steps += 1


def gate_of(n: Tensor, ratio: float, rule: str = "quantile", cluster: int = 1) -> Tensor:
    """Return which units (units,) learn, by their magnitudes.

    Parameters
    ----------
    n : Tensor (units,)
        Magnitudes, to any scale.
    ratio : float in [0, 1)
    rule : {"quantile", "topk"}
        At least the quantile at ``ratio``, interpolated linearly, or all but the ``floor(ratio n)`` smallest.
    cluster : int
        Neighboring units that share their mean magnitude.

    Examples
    --------
    >>> gate_of(torch.tensor([31.8, 7.2, 72.9, 8.1, 21.3]), 0.7).int().tolist()
    [1, 0, 1, 0, 0]
    >>> n = torch.tensor([1.0, 2, 3, 4])
    >>> gate_of(n, 0.7).int().tolist(), gate_of(n, 0.7, "topk").int().tolist()
    ([0, 0, 0, 1], [0, 0, 1, 1])
    """
    if cluster > 1:
        blocks = [block.mean() for block in n.split(cluster)]
        return gate_of(torch.stack(blocks), ratio, rule).repeat_interleave(cluster)[: len(n)]
    if rule == "quantile":
        n = n if n.dtype == torch.float64 else n.float()  # what the quantile is taken of
        return n >= n.quantile(ratio)
    kept = torch.zeros_like(n, dtype=torch.bool)
    kept[n.topk(len(n) - int(ratio * len(n))).indices] = True
    return kept


def gated(model: nn.Module, layers: Layers | None = None) -> Iterator[tuple[str, Tensor, nn.Module]]:
    """Give (name, weight, layer whose outputs count) of the weights that are trained and gated, one row per unit.

    Of LoRA's pair, A (r rows) is gated by its own outputs, and B by those of the whole layer, frozen weight and all.
    """
    blocks = [f"{name}." if name else "" for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    adapters = {name: m for name, m in model.named_modules() if hasattr(m, "lora_A") and hasattr(m, "lora_B")}
    for name, module in model.named_modules():
        owner = next((a for a in adapters if name.startswith(f"{a}.")), None)
        linear = isinstance(module, nn.Linear) and module.weight.requires_grad
        inside = not blocks or any(name.startswith(block) or f".{block}" in name for block in blocks)
        if linear and (layers(name, module) if layers else inside):
            full = adapters[owner] if owner is not None and ".lora_B." in name else module
            yield f"{name}.weight".lstrip("."), module.weight, full
