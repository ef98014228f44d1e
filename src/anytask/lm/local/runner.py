"""Forward passes with key-value caches: read sequences once, branch, and go on from there."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass
class State:
    """A batch of sequences read so far.

    Attributes
    ----------
    logits : Tensor (n, vocabulary)
        Of the next token, in float32.
    cache
        The model's keys and values.
    mask : Tensor (n, slots)
        1 where a cached slot holds a token, 0 where it is padding.
    position : Tensor (n,)
        Position of the next token.
    encoder : tuple of Tensor (n, s, d) and Tensor (n, s), or None
        Encoder output and mask of a sequence-to-sequence model.
    """

    logits: Tensor
    cache: Any
    mask: Tensor
    position: Tensor
    encoder: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.position)

    def select(self, index: Tensor) -> State:
        """The state of the sequences ``index``, which may repeat and leave out; this state stays as it is."""
        encoder = None if self.encoder is None else (self.encoder[0][index], self.encoder[1][index])
        return State(self.logits[index], _select(self.cache, index), self.mask[index], self.position[index], encoder)


def _select(cache: Any, index: Tensor) -> Any:
    # Layers grow by concatenation, so shallow copies share the old tensors and never write to them.
    new = copy.copy(cache)
    if hasattr(cache, "self_attention_cache"):
        new.self_attention_cache = _select(cache.self_attention_cache, index)
        new.cross_attention_cache = _select(cache.cross_attention_cache, index)
        new.is_updated = dict(cache.is_updated)
        return new
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        layer.reorder_cache(index)
    return new


class Runner:
    """Runs a causal or a sequence-to-sequence model step by step, without gradients and in evaluation mode.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    seq2seq : bool
        Whether the model has an encoder that reads and a decoder that writes.
    autocast : bool
        Run weights of another type in bfloat16 where that is safe.
    """

    def __init__(self, model: Any, *, seq2seq: bool, autocast: bool) -> None:
        self.model, self.seq2seq, self.autocast = model, seq2seq, autocast and model.dtype != torch.bfloat16
        accepted = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in accepted else "past_key_values"
        self._takes_positions = "position_ids" in accepted
        self._takes_keep = "logits_to_keep" in accepted
        self._mode = threading.Lock()
        self._inside = 0
        self._was_training = False

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def can_pad_inside(self) -> bool:
        """Whether padding between cached tokens is harmless: only when every layer attends to all tokens."""
        config = self.model.config.get_text_config()
        types = getattr(config, "layer_types", None)
        if types is not None:
            return all(kind == "full_attention" for kind in types)
        return self._takes_positions and getattr(config, "sliding_window", None) is None

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode without gradients; the training mode found before is put back, also under threads."""
        with self._mode:
            if self._inside == 0:
                self._was_training = self.model.training
                if self._was_training:
                    self.model.eval()
            self._inside += 1
        cast = torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()
        try:
            with torch.no_grad(), cast:
                yield
        finally:
            with self._mode:
                self._inside -= 1
                if self._inside == 0 and self._was_training:
                    self.model.train()

    def start(self, sequences: Sequence[Sequence[int]], prefix: State | None = None) -> State:
        """Read ``sequences``, which go on from a one-row ``prefix`` if there is one.

        A sequence-to-sequence model encodes them and reads its decoder's start token.
        """
        if self.seq2seq:
            return self._encode(sequences)
        ids, mask = padded(sequences, self.device, side="left")  # so that the last slot is the last token
        before = 0 if prefix is None else int(prefix.position[0])
        positions = before + (mask.cumsum(1) - 1).clamp(min=0)
        cache = None
        if prefix is not None:
            zeros = torch.zeros(len(ids), dtype=torch.long, device=self.device)
            cache = _select(prefix.cache, zeros)
            mask = torch.cat([prefix.mask[zeros], mask], 1)
        logits, cache = self._forward(ids, mask, positions, cache, keep=1)
        return State(logits[:, -1], cache, mask, positions[:, -1] + 1)

    def extend(self, state: State, tokens: Tensor, lengths: Tensor | None = None) -> tuple[State, Tensor]:
        """Read ``tokens`` (n, t), of which row i has ``lengths[i]`` (padded on the right); return the logits (n, t, V).

        The state returned holds the logits of the last column, so go on from it only when no row was padded.
        """
        n, t = tokens.shape
        new = torch.ones(n, t, dtype=torch.long, device=self.device)
        if lengths is not None:
            new = (torch.arange(t, device=self.device) < lengths[:, None]).long()
        mask = torch.cat([state.mask, new], 1)
        positions = state.position[:, None] + (new.cumsum(1) - 1).clamp(min=0)
        if self.seq2seq:
            assert state.encoder is not None
            logits, cache = self._decode(tokens, mask, state.cache, state.encoder)
        else:
            logits, cache = self._forward(tokens, mask, positions, state.cache, keep=0)
        return State(logits[:, -1], cache, mask, positions[:, -1] + 1, state.encoder), logits

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, keep: int) -> tuple[Tensor, Any]:
        inputs: dict[str, Any] = {self._cache_name: cache, "use_cache": True, "attention_mask": mask}
        if self._takes_positions:
            inputs["position_ids"] = positions
        if self._takes_keep:
            inputs["logits_to_keep"] = keep
        out = self.model(input_ids=ids, **inputs)
        return out.logits.float(), getattr(out, self._cache_name)

    def _encode(self, sequences: Sequence[Sequence[int]]) -> State:
        ids, mask = padded(sequences, self.device, self.model.config.pad_token_id or 0)
        hidden = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        first = torch.full((len(ids), 1), decoder_start(self.model), dtype=torch.long, device=self.device)
        ones = torch.ones_like(first)
        logits, cache = self._decode(first, ones, None, (hidden, mask))
        return State(logits[:, -1], cache, ones, ones[:, 0], (hidden, mask))

    def _decode(self, tokens: Tensor, mask: Tensor, cache: Any, encoder: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
        from transformers.modeling_outputs import BaseModelOutput

        out = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder[0]),
            attention_mask=encoder[1],
            decoder_input_ids=tokens,
            decoder_attention_mask=mask,
            use_cache=True,
            **{self._cache_name: cache},
        )
        return out.logits.float(), getattr(out, self._cache_name)


def padded(
    sequences: Sequence[Sequence[int]], device: torch.device, value: int = 0, *, side: str = "right"
) -> tuple[Tensor, Tensor]:
    """Return token sequences as one tensor (n, width) filled up with ``value``, and 1 where there are tokens."""
    tensors = [torch.as_tensor(sequence, dtype=torch.long) for sequence in sequences]
    ids = pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)
    mask = pad_sequence([torch.ones_like(t) for t in tensors], batch_first=True, padding_side=side)
    return ids.to(device), mask.to(device)


def decoder_start(model: Any) -> int:
    """The token that a sequence-to-sequence model's decoder starts from."""
    for config in (getattr(model, "generation_config", None), model.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            if getattr(config, name, None) is not None:
                return int(getattr(config, name))
    raise ValueError(f"the configuration of {type(model).__name__} names no decoder start token")
