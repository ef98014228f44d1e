"""Linear layers with low-rank outputs for several tasks, put into any network, which then answers all in one pass.

Each task has a stream of its own from the first specialised layer on, and so has what the tasks share. A network's
forward is not rewritten for that: it runs once under :func:`torch.vmap`, with the streams as the mapped axis. What
comes before a specialised layer has no such axis, and is computed once; residuals, norms and activations behind it are
mapped. The specialised layers themselves see all streams, so that the frozen product is made of the shared one alone.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import check_counts, check_place
from anytask.core.errors import brief, instance_of
from anytask.core.settings import Settings, check_number, choice, flag, numbers, real, text, whole

MODES = ("matrix", "matrixv2", "addition")
#: Parameters that are trained beside the pairs: norms, patch embeddings, position biases, patch merging.
TRAINED = r"norm|(^|\.)ln_|patch_embed|position_bias|reduction"
_ATTENDS = re.compile(r"(^|[._])(q|k|v|W?qkv|query|key|value|query_key_value)(_proj|_lin)?$")
_MERGES = re.compile(r"(^|\.)reduction$")
_POSITION = re.compile(r"position_bias")  # a network of Swin v2, trained as it is
#: The stream that runs here, as vmap maps it, and which tasks there are.
_STREAM: ContextVar[tuple[Tensor, list[int]] | None] = ContextVar("the stream of a low-rank network", default=None)


class LowRank(Settings):
    """Which layers get low-rank pairs, of which size, and what a task's output is made of.

    Parameters
    ----------
    rank, task_rank : int, default 16 and 4
        r_s of the pairs that tasks share, r_t of those of each task; 0 for none, so that all tasks read the same.
    scale : float, default 4.0
        alpha, by which what pairs give is multiplied; it is not divided by the rank.
    dropout : float in [0, 1), default 0.05
        On what the shared pair reads.
    mode : {"matrixv2", "matrix", "addition"}
        What is added to the frozen product W x + b in a task's output: the shared pair and the task's, or the task's
        alone. With ``"addition"`` there are no shared pairs where there are tasks' ones: the normalized sum of the
        tasks' outputs is added to the shared stream, through which they are then no longer apart.
    exact : bool, default False
        Send each task's stream through W, instead of using the product of the shared one for all.
    trainable_scales : bool, default False
        Learn alpha, of each pair.
    target : str, optional
        Regular expression for the names of linear layers that get pairs; those in the network's blocks, or all of a
        network without blocks, unless given.
    blocks : sequence of int, optional
        Places of the blocks with pairs for each task; the last of each stack unless given: of each stage of a
        hierarchical network, and of any other network the very last.
    specialized : str, optional
        Regular expression for the layers there that get pairs for each task; all but queries, keys and values unless
        given, and without blocks the last one.
    plus : bool, default False
        Freeze patch merging, and give it pairs (MTLoRA+), instead of training it.
    trainable : str
        Regular expression for the parameters that are trained beside the pairs.
    """

    rank: int = whole(16, "rank of the pairs that tasks share")
    task_rank: int = whole(4, "rank of the pairs of each task; 0 for none", at_least=0)
    scale: float = real(4.0, "multiplies what pairs give; not divided by the rank", above=0)
    dropout: float = real(0.05, "on what the shared pairs read", at_least=0, below=1)
    mode: str = choice("matrixv2", MODES, "what is added to the frozen product in a task's output")
    exact: bool = flag(False, "send each task's stream through the frozen weights")
    trainable_scales: bool = flag(False, "learn the scale of each pair")
    target: str | None = text(None, "regular expression for layers with pairs; None: those in blocks", optional=True)
    blocks: Sequence[int] | None = numbers(
        None, "blocks with pairs for each task; None: the last of each stack", integers=True, optional=True
    )
    specialized: str | None = text(
        None, "regular expression for layers with pairs for each task; None: all but queries, keys, values",
        optional=True,
    )  # fmt: skip
    plus: bool = flag(False, "pairs on patch merging, which is then frozen")
    trainable: str = text(TRAINED, "regular expression for parameters that are trained beside the pairs")

    def _check_settings(self) -> None:
        for name in ("target", "specialized", "trainable"):
            try:
                re.compile(getattr(self, name) or "")
            except re.error as error:
                raise ValueError(f"{name} must be a regular expression, got {getattr(self, name)!r}: {error}") from None


class LowRankLinear(nn.Module):
    """A frozen linear layer with a low-rank pair that tasks share, and, where there are any, one of each task.

    Parameters
    ----------
    base : torch.nn.Linear
        From i to o numbers. It is frozen.
    rank : int
    task_ranks : sequence of int
        r_t of each task; none for a layer that is the same for all.
    scale, dropout, mode, exact, trainable_scales
        See :class:`LowRank`.

    Raises
    ------
    ValueError
        If a rank is not in 1, ..., min(i, o).

    Examples
    --------
    W is the identity, and both scales are 4; the task's output has the shared pair in it or not:

    >>> for mode in ("matrix", "matrixv2"):
    ...     layer = LowRankLinear(nn.Linear(2, 2, bias=False), 1, [1], mode=mode).eval()
    ...     pairs = layer.base.weight, layer.lora_A, layer.lora_B, layer.lora_task_A[0], layer.lora_task_B[0]
    ...     for weight, value in zip(pairs, (torch.eye(2), [[1., 2]], [[1.], [-1]], [[0., 1]], [[2.], [0]])):
    ...         weight.data = torch.as_tensor(value)
    ...     y, [y_t] = layer.outputs(torch.ones(2))
    ...     y.tolist(), y_t.tolist()
    ([13.0, -11.0], [9.0, 1.0])
    ([13.0, -11.0], [21.0, -11.0])
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        task_ranks: Sequence[int] = (),
        *,
        scale: float = 4.0,
        dropout: float = 0.0,
        mode: str = "matrixv2",
        exact: bool = False,
        trainable_scales: bool = False,
    ) -> None:
        super().__init__()
        o, i = base.weight.shape
        for r in (rank, *task_ranks):
            if check_number(r, "rank", at_least=1) > min(i, o):
                raise ValueError(f"rank must be at most min(i, o) = {min(i, o)} of a layer from {i} to {o}, got {r}")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        self.base, self.mode, self.exact = base.requires_grad_(False), mode, exact
        self.drop = nn.Dropout(dropout)
        self.summing = mode == "addition" and len(task_ranks) > 0

        def down(r: int) -> nn.Parameter:
            A = base.weight.new_empty(r, i)
            nn.init.kaiming_uniform_(A, a=math.sqrt(5))
            return nn.Parameter(A)

        def up(r: int) -> nn.Parameter:
            return nn.Parameter(base.weight.new_zeros(o, r))

        self.lora_A = None if self.summing else down(rank)  # (r, i)
        self.lora_B = None if self.summing else up(rank)  # (o, r)
        self.lora_task_A = nn.ParameterList([down(r) for r in task_ranks])
        self.lora_task_B = nn.ParameterList([up(r) for r in task_ranks])
        self.lora_norm = nn.LayerNorm(o).to(base.weight) if self.summing else None
        scales = base.weight.new_full((1 + len(task_ranks),), scale)  # of the shared pair, and of each task's
        self.lora_scales: Tensor
        if trainable_scales:
            self.lora_scales = nn.Parameter(scales)
        else:
            self.register_buffer("lora_scales", scales)
        self._apart: tuple[Tensor] | None = None  # W, while the shared pair is merged into it

    @property
    def weight(self) -> Tensor:
        """Weights (o, i) of the shared output, for networks that ask a layer for them, or for their type."""
        if self.lora_A is None or self.lora_B is None or self._apart is not None:
            return self.base.weight
        return self.base.weight + self.lora_scales[0] * (self.lora_B @ self.lora_A)

    @property
    def bias(self) -> Tensor | None:
        """That of the frozen layer."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the shared output (..., o), or, inside of :class:`LowRankTasks`, that of each stream."""
        stream = _STREAM.get()
        if stream is None or not len(self.lora_task_A):
            return self.outputs(x, tasks=None if self.summing else ())[0]
        return _Specialized.apply(x, *stream, self)

    def outputs(
        self, x: Tensor, x_tasks: Tensor | None = None, tasks: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the shared output (..., o), and those of the tasks (tasks, ..., o).

        Parameters
        ----------
        x : Tensor (..., i)
            The shared input.
        x_tasks : Tensor (tasks, ..., i), optional
            The input of each of the tasks; x, after dropout, unless given.
        tasks : sequence of int, optional
            All, unless given.
        """
        run = list(range(len(self.lora_task_A)) if tasks is None else tasks)
        dropped, frozen = self.drop(x), self.base(x)
        y = self._with_shared(frozen, dropped)
        if not run:
            return y, y[None][:0]
        below = y if self.mode == "matrixv2" else frozen
        if self.exact and x_tasks is not None:
            below = self.base(x_tasks)
            below = self._with_shared(below, x_tasks) if self.mode == "matrixv2" else below
        own = self._own(dropped[None] if x_tasks is None else x_tasks, run)
        found = below + own
        return (y if self.lora_norm is None else frozen + self.lora_norm(found.sum(0))), found

    def _own(self, x: Tensor, tasks: list[int]) -> Tensor:
        """Return what the tasks' pairs make of x (tasks or 1, ..., i), scaled: (tasks, ..., o)."""
        R = max(self.lora_task_A[t].shape[0] for t in tasks)
        A = torch.stack([F.pad(self.lora_task_A[t], (0, 0, 0, R - len(self.lora_task_A[t]))) for t in tasks])
        B = torch.stack([F.pad(self.lora_task_B[t], (0, R - len(self.lora_task_A[t]))) for t in tasks])
        scales = self.lora_scales[[t + 1 for t in tasks]]
        made = x.flatten(1, -2) if x.dim() > 2 else x[:, None]  # (tasks or 1, n, i)
        made = made @ A.mT @ (scales[:, None, None] * B).mT  # (tasks, n, o)
        return made.view(len(tasks), *x.shape[1:-1], -1)

    def merge(self) -> None:
        """Add the shared pair to W, so that it costs nothing more.

        Raises
        ------
        ValueError
            Where that would change a task's output, which in the modes "matrix" and "addition" is made of W alone.
        """
        if len(self.lora_task_A) and self.mode != "matrixv2":
            raise ValueError(f"with mode={self.mode!r} a layer with pairs of tasks cannot merge the shared one into W")
        if self._apart is None and self.lora_A is not None and self.lora_B is not None:
            merged = self.weight.detach()
            self._apart = (self.base.weight,)  # which other layers may share, and is therefore not changed
            self.base.weight = nn.Parameter(merged, requires_grad=False)

    def unmerge(self) -> None:
        """Put W back as it was."""
        if self._apart is not None:
            W = self._apart[0].to(self.base.weight)
            self.base.weight = W if isinstance(W, nn.Parameter) else nn.Parameter(W, requires_grad=False)
            self._apart = None

    def _with_shared(self, frozen: Tensor, x: Tensor) -> Tensor:
        if self.lora_A is None or self.lora_B is None or self._apart is not None:
            return frozen
        return frozen + self.lora_scales[0] * _pair(x, self.lora_A, self.lora_B)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self._apart is not None:
            raise ValueError("a merged layer has no state of its own: call unmerge first")
        super()._save_to_state_dict(*args, **kwargs)


def _pair(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return F.linear(F.linear(x, A), B)


class _Specialized(torch.autograd.Function):
    """What a layer makes of the streams, of which it sees all at once; there is one input where none came before."""

    @staticmethod
    def forward(x: Tensor, stream: Tensor, tasks: list[int], layer: LowRankLinear) -> Tensor:
        raise RuntimeError("streams run under torch.vmap alone")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, stream: Tensor, tasks: list[int], layer: LowRankLinear) -> Any:
        """Return the outputs (1 + tasks, ..., o), the shared one first, and their axis."""
        if in_dims[0] is None:
            y, found = layer.outputs(x, None, tasks)
        else:
            streams = x.movedim(in_dims[0], 0)
            y, found = layer.outputs(streams[0], streams[1:], tasks)
        return torch.cat([y[None], found]), 0


class _Shared(torch.autograd.Function):
    """The shared stream alone."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        """Return the first stream, which has no axis of streams."""
        return x.select(in_dims[0], 0), None


def _goes_on_shared(_module: nn.Module, _args: Any, out: Any) -> Any:
    """Let the shared stream alone go on to the next block; further outputs, such as maps, keep all streams."""
    if _STREAM.get() is None:
        return out
    return (_goes_on_shared(_module, _args, out[0]), *out[1:]) if isinstance(out, tuple) else _Shared.apply(out)


class Placement(NamedTuple):
    """Names of layers with shared pairs alone, with pairs of each task, and of modules behind which streams end."""

    agnostic: tuple[str, ...]
    specific: tuple[str, ...]
    borders: tuple[str, ...]


def place(model: nn.Module, low_rank: LowRank) -> Placement:
    """Return where pairs go: see :class:`LowRank`.

    Raises
    ------
    ValueError
        If no layer is named by ``target`` or ``specialized``, or a block that is not there.

    Examples
    --------
    >>> from transformers import ViTConfig, ViTModel
    >>> size = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 8, "patch_size": 4}
    >>> found = place(ViTModel(ViTConfig(num_hidden_layers=2, **size)), LowRank(target="layers.1"))
    >>> [name.removeprefix("layers.1.") for name in found.specific]
    ['attention.o_proj', 'mlp.fc1', 'mlp.fc2']
    >>> [name.removeprefix("layers.1.") for name in found.agnostic]
    ['attention.q_proj', 'attention.k_proj', 'attention.v_proj']
    """
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    stacks = _stacks(model)
    blocks = [block for _, stack in stacks for block in stack]

    def inside(name: str, some: Sequence[str]) -> bool:
        return any(name.startswith(f"{one}.") for one in some)

    held = [name for name in linear if inside(name, blocks) and not _POSITION.search(name)] or linear
    wanted = held if low_rank.target is None else [name for name in linear if re.search(low_rank.target, name)]
    if low_rank.plus:
        wanted = [name for name in linear if name in wanted or _MERGES.search(name)]
    names = ", ".join(linear[:3]) + (", ..." if len(linear) > 3 else "")
    if not linear:
        raise ValueError("the network has no linear layer that could get pairs")
    if not wanted:
        raise ValueError(f"no linear layer is named by target={low_rank.target!r}; there are {names}")
    chosen = [stack[-1] for _, stack in stacks]
    if low_rank.blocks is not None:
        if not blocks or not all(-len(blocks) <= place < len(blocks) for place in low_rank.blocks):
            raise ValueError(f"the network has {len(blocks)} blocks, got blocks={tuple(low_rank.blocks)}")
        chosen = [blocks[index] for index in sorted({int(place) % len(blocks) for place in low_rank.blocks})]
    near = [name for name in wanted if inside(name, chosen)] if chosen else wanted
    if low_rank.specialized is not None:
        specific = [name for name in near if re.search(low_rank.specialized, name)]
    else:
        specific = [name for name in near if not _ATTENDS.search(name)] if chosen else wanted[-1:]
    if not specific:
        where = f"of the blocks {', '.join(chosen[:3])}" if chosen else "of the network"
        raise ValueError(f"no layer {where} gets pairs for each task: specialized={low_rank.specialized!r}")
    ends = {stack[-1]: stage for stage, stack in stacks if stage}
    used = [block for block in chosen if any(inside(name, [block]) for name in specific)]
    borders = [ends.get(block, block) for block in used[:-1]]
    return Placement(tuple(name for name in wanted if name not in specific), tuple(specific), tuple(borders))


def _stacks(model: nn.Module) -> list[tuple[str, list[str]]]:
    """Return the blocks of each stack, by their names, and the stage that it is in, where a network is hierarchical.

    A stack is a list of modules with linear layers in each, and without a further stack.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):
            blocks = [f"{name}.{key}" if name else key for key, _ in module.named_children()]
            if all(any(type(part) is nn.Linear for part in model.get_submodule(one).modules()) for one in blocks):
                found[name] = blocks
    within_blocks = tuple(f"{block}." for blocks in found.values() for block in blocks)
    for name in [name for name in found if name.startswith(within_blocks)]:
        if len({type(model.get_submodule(one)) for one in found[name]}) > 1:  # the parts of a block, as in T5
            del found[name]
    stages = {stage: name for name in found for stage in found[name]}
    within = {name: [stage for stage in stages if name.startswith(f"{stage}.")] for name in found}
    outer = {stages[stage] for around in within.values() for stage in around}
    return [("".join(within[name][-1:]), blocks) for name, blocks in found.items() if name not in outer]


class LowRankTasks(nn.Module):
    """A frozen network with low-rank pairs, that gives an output to each of several tasks in one pass.

    For networks, data and losses of your own, such as label maps; the estimator :class:`~anytask.multitask.MTLoRA` is
    made of it. The network may be any whose linear layers have names that a pattern tells, such as those of
    transformers: Swin, ViT, BERT, Llama.

    Parameters
    ----------
    model : torch.nn.Module
        It is changed in place: layers are replaced, and parameters frozen.
    n_tasks : int
    low_rank : LowRank, optional

    Attributes
    ----------
    placement : Placement
        Which layers got which pairs.

    Examples
    --------
    Two tasks on a hierarchical network, which gives each of them a map of every stage:

    >>> from transformers import SwinConfig, SwinModel
    >>> config = SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4)
    >>> network = LowRankTasks(SwinModel(config, add_pooling_layer=False), 2, LowRank(rank=4, task_rank=2))
    >>> first, second = network(
    ...     torch.zeros(3, 3, 16, 16), select=lambda out: out.reshaped_hidden_states[1:], output_hidden_states=True
    ... )
    >>> [tuple(one.shape) for one in second]
    [(3, 16, 4, 4), (3, 16, 4, 4)]
    """

    def __init__(self, model: nn.Module, n_tasks: int, low_rank: LowRank | None = None) -> None:
        instance_of("model", nn.Module, optional=False)(model)
        check_counts(n_tasks=n_tasks)
        instance_of("low_rank", LowRank, optional=True)(low_rank)
        if any(isinstance(part, LowRankLinear) for part in model.modules()):
            raise ValueError("the network has low-rank pairs already")
        super().__init__()
        self.n_tasks, self.low_rank = int(n_tasks), low_rank or LowRank()
        model, o = nn.Sequential(model) if type(model) is nn.Linear else model, self.low_rank
        self.placement = place(model, o)
        names = [*self.placement.agnostic, *self.placement.specific]
        places = list(model.named_modules(remove_duplicate=False))  # of which several may hold one layer
        for name in names:
            tasks = self.n_tasks if o.task_rank and name in self.placement.specific else 0
            base = model.get_submodule(name)
            try:
                layer = LowRankLinear(
                    base, o.rank, [o.task_rank] * tasks, scale=o.scale, dropout=o.dropout,  # type: ignore[arg-type]
                    mode=o.mode, exact=o.exact, trainable_scales=o.trainable_scales,
                )  # fmt: skip
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            for one in [place for place, module in places if module is base]:
                model.set_submodule(one, layer)
        for name in self.placement.borders:
            model.get_submodule(name).register_forward_hook(_goes_on_shared)
        self.model = model
        for name, weight in model.named_parameters():
            frozen = name.rpartition(".")[0].removesuffix(".base") in names
            weight.requires_grad_("lora_" in name or (not frozen and re.search(o.trainable, name, re.I) is not None))

    def forward(
        self, *args: Any, tasks: Sequence[int] | None = None, select: Callable[[Any], Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Return what the network gives to each of the tasks.

        Parameters
        ----------
        *args, **kwargs
            What the network takes.
        tasks : sequence of int, optional
            All, in their order, unless given.
        select : callable, optional
            Takes the network's output to the tensors that are wanted, or lists or mappings of them; all tensors in it
            unless given.
        """
        asked = [check_place(task, self.n_tasks, "tasks") for task in (range(self.n_tasks) if tasks is None else tasks)]
        run = list(range(self.n_tasks)) if self.low_rank.mode == "addition" else asked

        def stream(index: Tensor) -> Any:
            token = _STREAM.set((index, run))
            try:
                out = self.model(*args, **kwargs)
                return _tensors(out) if select is None else select(out)
            finally:
                _STREAM.reset(token)

        with _mapped():
            try:
                every = torch.vmap(stream, randomness="same")(torch.arange(1 + len(run)))
            except RuntimeError as error:
                if not str(error).startswith("vmap:"):
                    raise
                what = "has a step behind its first layer with pairs of tasks that cannot run for all tasks at once"
                raise ValueError(f"{type(self.model).__name__} {what}: {brief(str(error))}") from error
        return [_map(every, 1 + run.index(task)) for task in asked]

    def shared(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the network gives without any task's pairs."""
        with _mapped():
            return self.model(*args, **kwargs)

    def train(self, mode: bool = True) -> LowRankTasks:
        """Leave the running statistics of batch normalization as they are: they are the network's, and of no task."""
        super().train(mode)
        for module in self.modules():
            if getattr(module, "running_mean", None) is not None:
                module.eval()
        return self

    def specific(self, task: int) -> list[nn.Parameter]:
        """Return the parameters of a task's own pairs."""
        layers = [layer for _, layer in self._layers() if len(layer.lora_task_A)]
        return [pair[task] for layer in layers for pair in (layer.lora_task_A, layer.lora_task_B)]

    @property
    def unread(self) -> str | None:
        """The layer whose shared pair no task's output has anything of, which is therefore not trained, if any."""
        o = self.low_rank
        return self.placement.specific[-1] if o.mode == "matrix" and o.task_rank else None

    def merge(self) -> None:
        """Merge the shared pairs into the frozen weights, wherever that changes no output; then evaluate, or export."""
        for _, layer in self._layers():
            if layer.mode == "matrixv2" or not len(layer.lora_task_A):
                layer.merge()

    def unmerge(self) -> None:
        """Put all weights back as they were."""
        for _, layer in self._layers():
            layer.unmerge()

    def save_adapter(self, folder: str | os.PathLike[str]) -> None:
        """Write the shared pairs, and what is trained beside them, as an adapter that PEFT loads into the network.

        What PEFT's ``lora_alpha`` divides by the rank is ``scale`` times the rank.

        Raises
        ------
        ValueError
            With ``mode="addition"``, whose shared stream is no low-rank adapter.
        ImportError
            If PEFT is missing.
        """
        from safetensors.torch import save_file

        if self.low_rank.mode == "addition":
            raise ValueError("with mode='addition' the shared stream cannot be written as an adapter")
        if any(layer._apart is not None for _, layer in self._layers()):
            raise ValueError("the pairs are merged: call unmerge first")
        start, o = self._start(), self.low_rank
        weights: dict[str, Tensor] = {}
        for name, layer in self._layers():
            A, B = layer.lora_A, layer.lora_B
            if A is not None and B is not None:
                weights[f"{name}.lora_A"], weights[f"{name}.lora_B"] = A, B * (layer.lora_scales[0] / o.scale)
        beside = {name: p for name, p in self.model.named_parameters() if p.requires_grad and "lora_" not in name}
        outside = [name for name in (*weights, *beside) if not name.startswith(start)]
        if outside:
            raise ValueError(f"{outside[0]} lies outside of the network that PEFT adapts")
        config = _peft().LoraConfig(
            r=o.rank, lora_alpha=o.scale * o.rank, lora_dropout=o.dropout, bias="none",
            target_modules=[name.removeprefix(start) for name, layer in self._layers() if layer.lora_A is not None],
            modules_to_save=sorted({name.removeprefix(start).rpartition(".")[0] for name in beside}) or None,
        )  # fmt: skip
        Path(folder).mkdir(parents=True, exist_ok=True)
        config.save_pretrained(folder)
        named = {f"{name}.weight": value for name, value in weights.items()} | beside
        found = {f"{_PREFIX}{n.removeprefix(start)}": v.detach().cpu().contiguous() for n, v in named.items()}
        save_file(found, Path(folder, _WEIGHTS))

    def load_adapter(self, folder: str | os.PathLike[str]) -> None:
        """Take shared pairs, and what was trained beside them, from a LoRA adapter of PEFT.

        Raises
        ------
        ValueError
            If there is no such adapter of this rank, if it is of a kind that pairs are not (DoRA, ranks by layer), or
            if it is for layers without pairs.
        ImportError
            If PEFT is missing.
        """
        from safetensors.torch import load_file

        file = Path(folder, _WEIGHTS)
        if not file.is_file():
            raise ValueError(f"{folder} holds no adapter of PEFT: there is no {_WEIGHTS}")
        config, rank = _peft().PeftConfig.from_pretrained(str(folder)), self.low_rank.rank
        odd = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "layers_to_transform")
        if config.peft_type != "LORA" or any(getattr(config, name, None) for name in odd):
            raise ValueError(f"{folder} holds an adapter of PEFT that is no plain LoRA")
        if config.r != rank:
            raise ValueError(f"the adapter in {folder} has rank {config.r}, and the pairs have {rank}")
        start, layers = self._start(), dict(self._layers())
        known = dict(self.model.named_parameters())
        with torch.no_grad():
            for key, value in load_file(file).items():
                name = start + key.removeprefix(_PREFIX)
                owner, _, part = name.removesuffix(".weight").rpartition(".")
                if part in ("lora_A", "lora_B") and owner in layers:
                    target = getattr(layers[owner], part)
                    layers[owner].lora_scales[0].fill_(config.lora_alpha / rank)
                else:
                    target = known.get(name)
                if target is None or target.shape != value.shape:
                    raise ValueError(f"the adapter in {folder} has {key}, for which there is no place here")
                target.copy_(value)

    def _layers(self) -> Iterator[tuple[str, LowRankLinear]]:
        yield from ((name, part) for name, part in self.model.named_modules() if isinstance(part, LowRankLinear))

    def _start(self) -> str:
        """Return what the names of a network of transformers begin with, inside of the modules around it."""
        inner = next((name for name, part in self.model.named_modules() if hasattr(part, "save_pretrained")), "")
        return f"{inner}." if inner else ""


_PREFIX, _WEIGHTS = "base_model.model.", "adapter_model.safetensors"


@contextmanager
def _mapped() -> Iterator[None]:
    """Run a network layer by layer, without the warnings of operations that vmap has to loop over."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it takes the weights of layers, past their forward
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _tensors(out: Any) -> Any:
    """Return the tensors of an output, in the tuples and mappings in which they come."""
    if isinstance(out, Mapping):
        return {name: value for name, value in out.items() if _is_tensors(value)}
    if isinstance(out, (tuple, list)):
        return tuple(value for value in out if _is_tensors(value))
    return out


def _is_tensors(value: Any) -> bool:
    many = isinstance(value, (tuple, list)) and all(isinstance(one, Tensor) for one in value)
    return isinstance(value, Tensor) or many


def _map(every: Any, place: int) -> Any:
    """Return one stream of tensors with an axis of streams in front."""
    if isinstance(every, Tensor):
        return every[place]
    if isinstance(every, Mapping):
        return {name: _map(value, place) for name, value in every.items()}
    return tuple(_map(value, place) for value in every)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError("adapters of PEFT need it: pip install 'anytask[text]'") from error
    return peft
