"""The GPT-3 decoder: dense and locally banded attention in turns, on transformers' GPT-Neo.

GPT-Neo has the block, the learned positions, the tied embeddings and the band; it lacks the 1/sqrt(d_head) of the
attention scores and the biases of the query, key and value projections, which this module adds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GPTNeoConfig, GPTNeoForCausalLM
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from anytask.core.checks import check_counts
from anytask.core.rng import isolated


class Size(NamedTuple):
    """One row of the size table: L layers of width d, heads; batch in tokens, peak learning rate."""

    L: int
    d: int
    heads: int
    batch_tokens: int
    lr: float


SIZES: dict[str, Size] = {
    "125M": Size(12, 768, 12, 500_000, 6e-4),
    "350M": Size(24, 1024, 16, 500_000, 3e-4),
    "760M": Size(24, 1536, 16, 500_000, 2.5e-4),
    "1.3B": Size(24, 2048, 16, 1_000_000, 2e-4),  # printed with 24 heads, and 24 x 128 is not 2048
    "2.7B": Size(32, 2560, 32, 1_000_000, 1.6e-4),
    "6.7B": Size(32, 4096, 32, 2_000_000, 1.2e-4),
    "13B": Size(40, 5120, 40, 2_000_000, 1e-4),  # printed with d = 5140, and 40 x 128 is 5120
    "175B": Size(96, 12288, 96, 3_200_000, 6e-5),
}
"""The eight published sizes. Two printed rows contradict themselves and are corrected here: 1.3B and 13B."""


class GPT3Config(GPTNeoConfig):
    """Configuration of :class:`GPT3ForCausalLM`; use :func:`gpt3_config` to make one."""

    model_type = "anytask-gpt3"


class ScaledAttention(GPTNeoSelfAttention):
    """GPT-Neo's attention with scores divided by sqrt(d_head), and biases on q, k and v."""

    def __init__(self, config: Any, attention_type: str, layer_id: int | None = None) -> None:
        super().__init__(config, attention_type, layer_id)
        d = self.embed_dim
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)

    def _attn(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None) -> Any:
        return super()._attn(query / self.head_dim**0.5, key, value, attention_mask)


class GPT3ForCausalLM(GPTNeoForCausalLM):
    """Decoder with pre-LayerNorm blocks, alternating dense (even layers) and banded (odd layers) causal attention.

    A position i of a banded layer attends to j iff 0 <= i - j < ``config.window_size``. Linear maps start at
    N(0, 0.02^2), those that write into the residual stream at 1/sqrt(2 L) of that.

    Examples
    --------
    >>> import torch
    >>> model = build_gpt3(gpt3_config("125M", L=2, d=32, heads=2, n_ctx=16, vocab_size=50), seed=0)
    >>> model(torch.tensor([[1, 2, 3]])).logits.shape
    torch.Size([1, 3, 50])
    """

    config_class = GPT3Config

    def __init__(self, config: GPT3Config) -> None:
        super().__init__(config)
        blocks: list[Any] = list(self.transformer.h)
        for i, block in enumerate(blocks):
            block.attn.attention = ScaledAttention(config, config.attention_layers[i], i)
        self.post_init()
        if self.device.type == "meta":  # weights are about to be loaded, not drawn
            return
        std = config.initializer_range
        residual = std / (2 * config.num_layers) ** 0.5
        for block in blocks:
            a = block.attn.attention
            for layer in (a.q_proj, a.k_proj, a.v_proj, a.out_proj, block.mlp.c_proj):
                nn.init.normal_(layer.weight, std=residual if layer in (a.out_proj, block.mlp.c_proj) else std)
                nn.init.zeros_(layer.bias)


AutoConfig.register(GPT3Config.model_type, GPT3Config)
AutoModelForCausalLM.register(GPT3Config, GPT3ForCausalLM)


def gpt3_config(
    size: str = "125M",
    *,
    L: int | None = None,
    d: int | None = None,
    heads: int | None = None,
    n_ctx: int = 2048,
    vocab_size: int = 50257,
    window: int | None = None,
    **options: Any,
) -> GPT3Config:
    """Return the configuration of a published size, with any of its numbers replaced.

    Parameters
    ----------
    size : str, default "125M"
        A row of :data:`SIZES`.
    L, d, heads : int, optional
        Layers, width, heads in place of the row's.
    n_ctx : int, default 2048 (the paper's)
        Context length in tokens.
    vocab_size : int, default 50257 (GPT-2's byte-pair vocabulary)
    window : int, optional
        Band width w of the odd layers. The paper gives none; default n_ctx / 8.
    **options
        Others of GPT-Neo's configuration, such as ``eos_token_id``, and ``initializer_range``, the standard deviation
        of the initial weights: 0.02 suits widths near 768; a much narrower net that starts there hardly mixes its
        inputs and learns late: use about ``0.02 * sqrt(768 / d)``.
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; known: {', '.join(SIZES)}")
    row = SIZES[size]
    L, d, heads = L or row.L, d or row.d, heads or row.heads
    if d % heads:
        raise ValueError(f"the width must be a multiple of the heads, got d={d} and heads={heads}")
    window = max(1, n_ctx // 8) if window is None else window
    check_counts(window=window)
    return GPT3Config(
        vocab_size=vocab_size,
        max_position_embeddings=n_ctx,
        hidden_size=d,
        num_layers=L,
        num_heads=heads,
        attention_types=[[(["global", "local"] * L)[:L], 1]],
        window_size=window,
        bos_token_id=None,
        tie_word_embeddings=True,
        **{"eos_token_id": None, **options},
    )


def build_gpt3(config: GPT3Config, *, seed: int = 0) -> GPT3ForCausalLM:
    """Draw a model's initial weights with a seed of its own."""
    with isolated(seed):
        return GPT3ForCausalLM(config)


def count_parameters(L: int, d: int, vocab_size: int = 50257, n_ctx: int = 2048) -> int:
    """Return the number of parameters: tied embeddings, biases and LayerNorms counted.

    A block has 12 d^2 weights (4 d^2 attention, 8 d^2 feed-forward) and 13 d biases and LayerNorm parameters.

    Examples
    --------
    >>> round(count_parameters(12, 768) / 1e6, 1), round(count_parameters(96, 12288) / 1e9, 1)
    (125.2, 174.6)
    """
    return L * (12 * d * d + 13 * d) + (vocab_size + n_ctx) * d + 2 * d
