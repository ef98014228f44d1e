"""Encoders of transformers: loaded, made, trained to fill in what is masked, and fine-tuned on labels."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import as_given, check_input_shape, most_probable, require_finite
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress
from anytask.core.settings import Settings, of_kind, real, whole
from anytask.core.training import train
from anytask.models.loading import load_pretrained, pack_pretrained
from anytask.pretrain.parts.sequences import (
    Sequences,
    as_tokens,
    mean_and_deviation,
    read_inputs,
    shuffled,
    tokenized,
)


def load_encoder(source: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Return an encoder of transformers and its tokenizer, by name or folder; "minilm" is the packaged MiniLM."""
    from transformers import AutoModel, AutoTokenizer

    import anytask.models.slim_bert  # noqa: F401 - folders may hold one

    if str(source) == "minilm":
        from anytask.lm.embeddings import packaged_model

        source = packaged_model()
    return load_pretrained(AutoModel, source), load_pretrained(AutoTokenizer, source)


def packed(model: Any, tokenizer: Any) -> dict[str, str]:
    """Return the files of a configuration and a tokenizer, from which :func:`unpacked` makes both again."""
    files: dict[str, str] = pack_pretrained(model, tokenizer)["files"]
    return files


def unpacked(files: Mapping[str, str]) -> tuple[Any, Any]:
    """Return an encoder with random weights and a tokenizer."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    import anytask.models.slim_bert  # noqa: F401 - known to AutoConfig once it is imported

    with TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, Path(name).name).write_text(text, encoding="utf-8")
        model = AutoModel.from_config(load_pretrained(AutoConfig, folder))
        return model, load_pretrained(AutoTokenizer, folder)


def pooled(output: Any, batch: Mapping[str, Tensor], pooling: str) -> Tensor:
    """Return a vector (n, d) for each input: the mean of its tokens, or BERT's pooler on the first one."""
    if pooling == "first":
        first = getattr(output, "pooler_output", None)
        return output.last_hidden_state[:, 0] if first is None else first
    mask = batch["attention_mask"][..., None].to(output.last_hidden_state.dtype)
    return (output.last_hidden_state * mask).sum(1) / mask.sum(1)


class Head(nn.Module):
    """A linear layer on the vectors of an encoder of transformers.

    Parameters
    ----------
    encoder : transformers.PreTrainedModel
    n_outputs : int
    pooling : {"mean", "first"}
        See :func:`pooled`.
    """

    def __init__(self, encoder: Any, n_outputs: int, pooling: str) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.out = nn.Linear(encoder.config.hidden_size, n_outputs)
        nn.init.normal_(self.out.weight, std=encoder.config.initializer_range)
        nn.init.zeros_(self.out.bias)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.out(pooled(self.encoder(**batch), batch, self.pooling))


class FineTuning(Settings):
    """How labels are learned.

    Parameters
    ----------
    epochs, min_steps
        Passes over the labelled inputs, and the least number of steps.
    batch_size, lr, weight_decay
        AdamW's, with a rate that falls to 0.
    """

    epochs: int = whole(20, "passes over the labelled inputs")
    min_steps: int = whole(1, "least number of steps", at_least=0)
    batch_size: int = whole(32, "labelled inputs of a mini-batch")
    lr: float = real(2e-5, "learning rate", above=0)
    weight_decay: float = real(0.01, "of AdamW", at_least=0)

    def learn(
        self, net: nn.Module, data: Sequences, target: Tensor, device: torch.device, progress: Progress,
        answers: Callable[[dict[str, Tensor]], Iterable[Tensor]] | None = None,
    ) -> None:  # fmt: skip
        """Train a network from batches to logits: on labels (n,), or on probabilities (n, n_classes).

        With ``answers`` it is trained on several logits of a batch, whose losses are added.
        """
        rows = shuffled(len(data), self.batch_size)
        steps = max(self.min_steps, self.epochs * -(-len(data) // self.batch_size))
        optimizer = torch.optim.AdamW(net.parameters(), self.lr, weight_decay=self.weight_decay)

        def losses(part: Tensor) -> Iterator[Tensor]:
            batch = data.batch(part, device)
            for logits in [net(batch)] if answers is None else answers(batch):
                yield F.cross_entropy(logits, target[part].to(device))

        train(
            net, lambda step: next(rows), losses, steps=steps, optimizer=optimizer,
            schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps)),
            max_grad_norm=1.0, stage="fine-tuning", progress=progress,
        )  # fmt: skip
        progress(1.0)


class SmallEncoder(Settings):
    """A small BERT that reads arrays, and learns to fill in tokens that are masked.

    Parameters
    ----------
    layers, heads, head_size, width : int
    ratio : float
        Width of the feed-forward layers per ``width``.
    steps, batch_size, lr
        Adam's.
    masked : float
        Share of the tokens that are masked.
    """

    layers: int = whole(4, "blocks")
    heads: int = whole(4, "heads of a block")
    head_size: int = whole(16, "width of a head")
    width: int = whole(64, "width of a token")
    ratio: float = real(2.0, "width of the feed-forward layers per width", above=0)
    steps: int = whole(200, "steps of training", at_least=0)
    batch_size: int = whole(64, "inputs of a mini-batch")
    lr: float = real(1e-3, "learning rate", above=0)
    masked: float = real(0.3, "share of the tokens that are masked", above=0, below=1)

    def config(self, tokens: int, numbers: int, mean: float, deviation: float) -> dict[str, Any]:
        """Return the configuration of an encoder of ``tokens`` tokens of ``numbers`` numbers each."""
        return {
            "vocab_size": 1, "max_position_embeddings": tokens, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1,
            "input_size": numbers, "input_mean": mean, "input_scale": deviation, "head_size": self.head_size,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "hidden_size": self.width,
            "intermediate_size": round(self.ratio * self.width),
        }  # fmt: skip

    def learn(self, net: Any, data: Sequences, progress: Progress) -> None:
        """Train an encoder to say what stood where a token was masked."""
        device, config = next(net.parameters()).device, net.config
        decoder = nn.Linear(config.hidden_size, config.input_size).to(device)
        both = nn.ModuleList([net, decoder])
        rows = shuffled(len(data), self.batch_size)

        def loss(part: Tensor) -> Tensor:
            batch = data.batch(part, device)
            x = batch["inputs_embeds"]
            hidden = torch.rand(x.shape[:2], device=device) < self.masked
            seen = x.masked_fill(hidden[..., None], config.input_mean)
            told = decoder(net(**{**batch, "inputs_embeds": seen}).last_hidden_state)
            wrong = (told - (x - config.input_mean) / config.input_scale).square().mean(-1)
            return (wrong * hidden).sum() / hidden.sum().clamp(min=1)

        train(
            both, lambda step: next(rows), loss, steps=self.steps, stage="the teacher's training",
            optimizer=torch.optim.Adam(both.parameters(), self.lr), progress=progress,
        )  # fmt: skip


def encoder_field(default: str | None, help: str) -> Any:
    """Return a field of settings for an encoder of transformers, by name, by folder, as a module, or None."""
    return of_kind(default, (str, os.PathLike, nn.Module), "a name, a folder or a module", help, optional=True)


class EncoderEstimator(Estimator):
    """Base of what learns with an encoder of transformers: reading, the encoder itself, answers of a classifier on it.

    A subclass has the settings below, and says by :meth:`_given` which encoder it was given.

    Attributes
    ----------
    input_shape_ : tuple of int
        Shape of one input; () of texts.
    classifier_, classes_
        What learned labels, and these.
    """

    #: Whether inputs may be texts, which problems ask before a run.
    reads_texts: ClassVar[bool] = True

    small: SmallEncoder
    max_tokens: int
    pooling: str
    finetuning: FineTuning

    def _given(self) -> tuple[Any, Any]:
        """Return the encoder (a name, a folder, a module, or None for a small one of arrays), and its tokenizer."""
        raise NotImplementedError

    @property
    def _of_texts(self) -> bool:
        encoder, tokenizer = self._given()
        return isinstance(encoder, (str, os.PathLike)) or tokenizer is not None

    def _read(self, X: Any, name: str = "X") -> Any:
        return read_inputs(X, name, texts=self._of_texts)

    def _joined(self, X: Any, unlabeled: Any) -> Any:
        """Return checked inputs with further ones after them."""
        if unlabeled is None:
            return X
        more = self._read(unlabeled, "unlabeled")
        if self._of_texts:
            return [*X, *more]
        if more.shape[1:] != X.shape[1:]:
            shapes = f"{tuple(more.shape[1:])}, and X of shape {tuple(X.shape[1:])}"
            raise ValueError(f"unlabeled holds inputs of shape {shapes}: they must match")
        return torch.cat([X, more])

    def _note(self, data: Any) -> None:
        """Keep the shape and the range of arrays."""
        self.input_shape_: tuple[int, ...] = () if self._of_texts else tuple(data.shape[1:])
        if not self._of_texts:
            self.n_features_in_ = int(np.prod(self.input_shape_))
            self.scaling_ = mean_and_deviation(data)

    def _check_alike(self, data: Any) -> None:
        if not self._of_texts:
            check_input_shape(data, self.input_shape_, type(self).__name__)

    def _made(self) -> Any:
        """Return the encoder on the device: a copy of a module, a loaded one, or a small one with random weights."""
        from anytask.models.slim_bert import SlimBertConfig, SlimBertModel

        given, self._tokenizer = self._given()
        if given is None:
            t, d = as_tokens(torch.empty(1, *self.input_shape_, device="meta")).shape[1:]
            model: Any = SlimBertModel(SlimBertConfig(**self.small.config(t, d, *self.scaling_)))
        elif isinstance(given, nn.Module):
            wanted = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
            if not all(hasattr(getattr(given, "config", None), name) for name in wanted):
                raise ValueError("the encoder must have a config as transformers' encoders have, with its hidden_size")
            model = copy.deepcopy(given)
        elif hasattr(self, "files_"):  # saved
            model, self._tokenizer = unpacked(self.files_)
        else:
            model, self._tokenizer = load_encoder(given)
            self.files_: dict[str, str] = packed(model, self._tokenizer)
        return model.to(self._device).eval()

    def _sequences(self, data: Any, positions: int) -> Sequences:
        """Return checked inputs as tokens, ``positions`` of them at most."""
        if self._of_texts:
            return tokenized(data, self._tokenizer, min(self.max_tokens, positions))
        return Sequences(as_tokens(data))

    def _asked(self, X: Any) -> Sequences:
        """Return inputs like those of the fit as tokens."""
        self._check_fitted()
        self._check_settings()
        self._check_shape_kept()
        data = self._read(X)
        self._check_alike(data)
        return self._sequences(data, self._positions)

    @property
    def _positions(self) -> int:
        """Return how many tokens the encoder reads."""
        raise NotImplementedError

    def _learn(self, student: Any, data: Sequences, codes: np.ndarray, classes: np.ndarray, progress: Progress) -> None:
        """Fine-tune a copy of an encoder on labels, and keep it."""
        own = copy.deepcopy(student).requires_grad_(True).to(self._device)
        self.classes_, self.classifier_ = classes, Head(own, len(classes), self.pooling).to(self._device)
        self.finetuning.learn(self.classifier_, data, torch.from_numpy(codes), self._device, progress)

    def predict_proba(self, X: Any) -> Any:
        """Return class probabilities, shape (n, n_classes), columns in the order of ``classes_``."""
        data = self._asked(X)
        if not hasattr(self, "classes_"):
            raise ValueError(f"this {type(self).__name__} has learned no labels yet: call finetune(X, y) first")
        with torch.no_grad():
            logits = data.encoded(self.classifier_, self._device)
        return as_given(require_finite(logits, "a score").double().softmax(1), X)

    def predict(self, X: Any) -> Any:
        """Return the most probable label of each input, shape (n,)."""
        return most_probable(self.predict_proba(X), self.classes_)
