"""Hugging Face weights: a model and its tokenizer by name, by folder or as built, and what their configuration says."""

from __future__ import annotations

import os
import platform
from typing import Any, Literal

import torch

from anytask.lm.local.runner import decoder_start
from anytask.models.loading import load_pretrained

Objective = Literal["causal", "seq2seq", "masked"]


def load_pair(name: str, tokenizer: Any, device: torch.device, dtype: str) -> tuple[Any, Any]:
    """Return the model in evaluation mode and the tokenizer of a name or a folder."""
    import transformers

    config = load_pretrained(transformers.AutoConfig, name)
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if getattr(config, "is_encoder_decoder", False):
        auto: Any = transformers.AutoModelForSeq2SeqLM
    elif architecture.endswith("ForMaskedLM"):
        auto = transformers.AutoModelForMaskedLM
    else:
        auto = transformers.AutoModelForCausalLM
    model = load_pretrained(auto, name, complete=True, dtype=getattr(torch, dtype))
    if tokenizer is None or isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = load_pretrained(transformers.AutoTokenizer, tokenizer or name)
    return model.to(device).eval(), tokenizer


def number_type(dtype: str, device: torch.device) -> str:
    """Return the type of number that ``dtype`` stands for on a device, or say that the device has none such."""
    has = device.type == "cuda" or (device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == "bfloat16" and not has:
        raise ValueError(f"dtype 'bfloat16' needs a device with such numbers, and this {device} has none: 'float32'")
    if dtype != "auto":
        return dtype
    return "bfloat16" if has and multiplies_bfloat16(device) else "float32"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device that has such numbers also has instructions for them: x86 with AVX-512 alone imitates them."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return device.type == "cuda" or not x86 or torch.cpu._is_avx512_bf16_supported()


def as_pair(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Return a built model and its tokenizer, or say what was given instead."""
    if isinstance(model, tuple) and len(model) == 2 and tokenizer is None:
        model, tokenizer = model
    if not isinstance(model, torch.nn.Module) or not callable(getattr(tokenizer, "decode", None)):
        raise TypeError(
            "a language model is a Hugging Face name or folder, or a (model, tokenizer) pair, and "
            f"({type(model).__name__}, {type(tokenizer).__name__}) was given"
        )
    return model, tokenizer


def objective_of(model: Any) -> Objective:
    """Return how a model was trained: to continue, to answer, or to fill in."""
    if getattr(model.config, "is_encoder_decoder", False):
        decoder_start(model)
        return "seq2seq"
    inner = getattr(model, "get_base_model", lambda: model)()
    return "masked" if type(inner).__name__.endswith("ForMaskedLM") else "causal"


def context_length_of(model: Any, tokenizer: Any) -> int:
    """Return how many tokens a model reads at most."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            # RoBERTa's positions start behind the padding position.
            offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
            return value - offset
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < 10**9 else 10**9


def end_ids_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a text."""
    ids: set[int] = set()
    generation = getattr(model, "generation_config", None)  # masked models have none
    for value in (getattr(generation, "eos_token_id", None), tokenizer.eos_token_id):
        ids.update(value if isinstance(value, (list, tuple)) else [] if value is None else [value])
    return frozenset(int(i) for i in ids)
