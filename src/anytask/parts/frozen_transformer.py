"""A frozen transformer whose blocks take prompts, and whose tokens are given at any depth."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Block -> extra keys and values (n or 1, heads, length, head_dim), which every token of the block may attend to.
Prefixes: TypeAlias = Mapping[int, tuple[Tensor, Tensor]]

_NAME = "anytask-prefix"
#: What encoders call the norm before a block's attention (those without one normalize after it), and the last norm.
_BEFORE = ("layernorm_before", "layer_norm1", "norm1")
_LAST = ("layernorm", "post_layernorm")
_prefixes_of: ContextVar[dict[int, tuple[Tensor, Tensor]]] = ContextVar("prefixes of attention modules")


class Tokens(NamedTuple):
    """What a transformer makes of a batch: the last tokens (n, T, d), those that enter each block and the last norm
    (depth + 1 of (n, T, d), or none), and which are no padding (n, T), or None if all are."""

    last: Tensor
    before: tuple[Tensor, ...]
    valid: Tensor | None

    def pooled(self, how: str = "first") -> Tensor:
        """Return the first token (n, d), or the mean over those that are no padding (``how="mean"``)."""
        if how == "first":
            return self.last[:, 0]
        if self.valid is None:
            return self.last.mean(1)
        weight = self.valid[:, :, None].to(self.last)
        return (self.last * weight).sum(1) / weight.sum(1).clamp_min(1)


class FrozenTransformer(nn.Module):
    """A frozen copy of an encoder of transformers (ViT, DeiT, DINOv2, CLIP's towers, BERT, ...), in evaluation mode.

    Prompts enter by prefix tuning: a block's attention sees extra keys and values, and the number of its outputs stays
    as it is. Gradients reach the prompts through the frozen blocks, and nothing else. Without prompts it is the encoder
    bit for bit, so one object is both the prompted network and its unprompted twin.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        An encoder that is called with ``pixel_values`` or ``input_ids``.

    Attributes
    ----------
    depth, heads, width : int
        Number of blocks, heads of a block, and width d of a token.

    Raises
    ------
    TypeError
        If the module's attention is not one of transformers'.

    Examples
    --------
    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
    ...                    image_size=8, patch_size=4, num_channels=1)
    >>> network = FrozenTransformer(ViTModel(config))
    >>> keys, values = torch.randn(2, 1, 2, 5, 8)
    >>> tokens = network(torch.zeros(4, 1, 8, 8), {1: (keys, values)})
    >>> tokens.last.shape, len(tokens.before)
    (torch.Size([4, 5, 16]), 4)
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if not getattr(model, "_supports_attention_backend", False) or not hasattr(model, "set_attn_implementation"):
            raise TypeError(f"{type(model).__name__} is no encoder of transformers into whose attention prompts can go")
        _register()
        self.model: Any = copy.deepcopy(model).eval().requires_grad_(False)
        self.model.set_attn_implementation(_NAME)
        config = self.model.config
        self.heads, self.width = int(config.num_attention_heads), int(config.hidden_size)
        self.blocks = max((m for m in self.model.modules() if isinstance(m, nn.ModuleList)), key=len)
        self.depth = len(self.blocks)
        inside = {id(m) for m in self.blocks.modules()}
        outside = [(name.split(".")[-1], m) for name, m in self.model.named_modules() if id(m) not in inside]
        # Tuples, for modules that are registered already.
        self._last = (next((m for name, m in outside if name in _LAST), nn.Identity()),)
        self._attentions = tuple(
            next(((child, list(child.modules())) for name, child in block.named_children() if "att" in name), None)
            for block in self.blocks
        )

    def train(self, mode: bool = True) -> FrozenTransformer:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor | Mapping[str, Tensor], prefixes: Prefixes | None = None) -> Tokens:
        """Return the tokens of images (n, channels, height, width), of token ids (n, T), or of named model inputs.

        Token ids that are the model's padding are not attended to.
        """
        inputs = dict(x) if isinstance(x, Mapping) else self._named(x)
        named = {id(m): prefix for i, prefix in (prefixes or {}).items() for m in self.blocks[i].modules()}
        token = _prefixes_of.set(named)
        try:
            out = self.model(**inputs, output_hidden_states=True)
        finally:
            _prefixes_of.reset(token)
        valid = inputs.get("attention_mask")
        return Tokens(out.last_hidden_state, tuple(out.hidden_states), None if valid is None else valid.bool())

    def run_block(
        self,
        i: int,
        tokens: Tensor,
        *,
        beside: Tensor | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
        attends: bool = True,
    ) -> Tensor:
        """Run block i alone on tokens (n, T, d), none of which is padding, and return what it makes of them (n, T, d).

        Parameters
        ----------
        i : int
        tokens : Tensor (n, T, d)
        beside : Tensor (n, s, d), optional
            More tokens, as :meth:`entering` gives them, that attention takes in behind the others; what it makes of
            them is dropped.
        prefix : pair of tensors, optional
            As for one block of :meth:`forward`.
        attends : bool
            False: attention gives back what it takes in.

        Examples
        --------
        >>> from transformers import ViTConfig, ViTModel
        >>> config = ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4)
        >>> network = FrozenTransformer(ViTModel(config))
        >>> x = network(torch.zeros(3, 3, 8, 8)).before
        >>> alone = network.run_block(0, x[0])
        >>> first = network.run_block(0, x[0][:, :1], beside=network.entering(0, x[0][:, 1:]))
        >>> torch.allclose(alone, x[1]), torch.allclose(first, x[1][:, :1], atol=1e-6)
        (True, True)
        """
        found, T = self._attentions[i], tokens.shape[1]
        if found is None:
            raise TypeError(f"the blocks of {type(self.model).__name__} have no attention that could be found")
        attention, parts = found
        taken_in: list[Tensor] = []

        def enter(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            h = named.pop("hidden_states") if "hidden_states" in named else args[0]
            taken_in.append(h if beside is None else torch.cat([h, beside], 1))
            return (taken_in[0], *args[1:]), named

        def leave(_module: nn.Module, _args: Any, out: Any) -> Any:
            made = (out[0] if isinstance(out, tuple) else out) if attends else taken_in[0]
            return (made[:, :T], *out[1:]) if isinstance(out, tuple) else made[:, :T]

        hooks = attention.register_forward_pre_hook(enter, with_kwargs=True), attention.register_forward_hook(leave)
        token = _prefixes_of.set({} if prefix is None else {id(m): prefix for m in parts})
        try:
            out = self.blocks[i](tokens, attention_mask=None)
        finally:
            _prefixes_of.reset(token)
            for hook in hooks:
                hook.remove()
        return out[0] if isinstance(out, tuple) else out

    def entering(self, i: int, tokens: Tensor) -> Tensor:
        """Return tokens (n, T, d) as the attention of block i takes them: normalized where the block does so first."""
        block = self.blocks[i]
        return next((norm for name, norm in block.named_children() if name in _BEFORE), nn.Identity())(tokens)

    def normalized(self, tokens: Tensor) -> Tensor:
        """Return tokens (n, T, d) behind the last block after the last norm, where the encoder has one."""
        return self._last[0](tokens)

    @property
    def class_token(self) -> Tensor | None:
        """The class token of an encoder of images (1, 1, d) as it enters the first block, but for its position; None
        where it has none of its own."""
        named = dict(self.model.named_parameters())
        found = next((p for name, p in named.items() if name.split(".")[-1] in ("cls_token", "class_embedding")), None)
        before = getattr(self.model, "pre_layrnorm", nn.Identity())  # CLIP's
        return None if found is None else before(found.reshape(1, 1, -1))

    def as_prefix(self, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Split a prompt (length, d) or (n, length, d): its first half are keys, its second one values, by heads."""
        if prompt.shape[-2] % 2:
            raise ValueError(f"a prompt is half keys and half values, got the odd length {prompt.shape[-2]}")
        prompt = prompt[None] if prompt.dim() == 2 else prompt
        halves = prompt.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (n or 1, heads, length, head_dim)
        keys, values = halves.chunk(2, dim=2)
        return keys, values

    def _named(self, x: Tensor) -> dict[str, Tensor]:
        if x.is_floating_point() and self.model.main_input_name == "pixel_values":
            return {"pixel_values": x}
        ids = x.long()
        pad = self.model.config.pad_token_id
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids) if pad is None else (ids != pad).long()}

    def __snapshot__(self) -> Callable[[], None]:
        return lambda: None  # nothing of it can change


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """PyTorch's attention, with the prefix of this module before its keys (n, heads, T, head_dim) and values."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    prefix = _prefixes_of.get({}).get(id(module))
    if prefix is not None and prefix[0].shape[2]:
        keys, values = (part.to(key).expand(len(key), -1, -1, -1) for part in prefix)
        key, value = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        if attention_mask is not None:
            seen = True if attention_mask.dtype == torch.bool else 0.0
            attention_mask = F.pad(attention_mask, (keys.shape[2], 0), value=seen)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
