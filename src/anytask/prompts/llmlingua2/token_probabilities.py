"""Keep-probabilities of many chunks by a token classifier, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from anytask.core.checks import require_finite
from anytask.core.progress import Progress, portion
from anytask.models.loading import load_pretrained

_ADVICE = "its weights are NaN, or too large for their precision: load it in float32"
#: Tokens of one batch on a CPU: larger batches leave its cache and are slower.
_CPU_TOKENS = 4096


def read_classifier(model: Any, tokenizer: Any) -> tuple[torch.nn.Module, Any]:
    """Return a token classifier and its tokenizer; ``model`` is a module, a name or a folder.

    Raises
    ------
    ValueError
        If it does not have two labels.
    """
    if not isinstance(model, torch.nn.Module):
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        tokenizer = tokenizer or load_pretrained(AutoTokenizer, model, use_fast=True)
        model = load_pretrained(AutoModelForTokenClassification, model)
    labels = getattr(model.config, "num_labels", None)
    if labels != 2:
        raise ValueError(f"the token classifier must have 2 labels (1 = keep), got {labels}")
    return model, tokenizer


def keep_probabilities(
    model: torch.nn.Module,
    chunks: Sequence[np.ndarray],
    prefix: Sequence[int],
    suffix: Sequence[int],
    *,
    pad: int = 0,
    max_length: int = 512,
    batch_size: int = 50,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Return p_t = softmax(f(chunk))_t[keep] for every token of every chunk.

    Parameters
    ----------
    model : torch.nn.Module
        A token classifier of ``transformers`` with two labels, 1 = keep.
    chunks : sequence of (n,) arrays of int
    prefix, suffix : sequences of int
        Special tokens around a chunk; what goes beyond ``max_length`` is cut off.
    pad, max_length, batch_size : int
    progress : callable, optional
        Called with the finished share in [0, 1].
    """
    device = next(model.parameters()).device
    full = [np.concatenate([prefix, chunk, suffix]).astype(np.int64)[:max_length] for chunk in chunks]
    length = [len(ids) for ids in full]
    order = sorted(range(len(full)), key=length.__getitem__)
    room = max_length * batch_size if device.type != "cpu" else min(max_length * batch_size, _CPU_TOKENS)
    out: list[np.ndarray] = [np.zeros(0)] * len(full)
    start, share = 0, portion(progress, 0.0, 1.0)
    while start < len(order):
        end = start + 1
        while end < len(order) and end - start < batch_size:
            longest = length[order[end]]
            if longest * (end - start + 1) > room or longest > 1.25 * length[order[start]] + 8:
                break
            end += 1
        batch = order[start:end]
        inputs = model_inputs([full[i] for i in batch], pad, device)
        with torch.inference_mode():
            logits = model(**inputs).logits
            keep = (
                require_finite(logits.float(), "the token classifier's output", _ADVICE)
                .softmax(dim=-1)[..., 1]
                .cpu()
                .numpy()
            )
        for row, i in zip(keep, batch):
            out[i] = row[len(prefix) : len(prefix) + len(chunks[i])].astype(np.float64)
        start = end
        share(start / len(order))
    return out


def model_inputs(rows: Sequence[Any], pad: int, device: torch.device) -> dict[str, Any]:
    """Return token ids padded to the longest row; without padding no mask is needed, and attention is faster."""
    length = torch.tensor([len(row) for row in rows])
    ids = pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=pad)  # (b, n)
    mask = (torch.arange(ids.shape[1]) < length[:, None]).long()
    return {"input_ids": ids.to(device), "attention_mask": None if mask.all() else mask.to(device)}
