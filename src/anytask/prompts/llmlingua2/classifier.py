"""The token classifier of LLMLingua-2: read or made fresh, trained on word labels, and asked for probabilities."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from anytask.core import training
from anytask.core.checks import as_array, require_finite
from anytask.core.files import as_path
from anytask.core.persistence import load_tree, save_tree
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive, isolated
from anytask.core.rollback import rollback
from anytask.core.settings import Settings, real, whole
from anytask.lm.protocol import check_texts
from anytask.models.loading import load_pretrained

logger = logging.getLogger(__name__)

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
    model: nn.Module,
    chunks: Sequence[np.ndarray],
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
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
    room = max_length * batch_size if device.type != "cpu" else min(max_length * batch_size, _CPU_TOKENS)
    rows = [np.concatenate([prefix, chunk, suffix]).astype(np.int64)[:max_length] for chunk in chunks]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))  # texts of similar length together: little is padded
    out: list[np.ndarray] = [np.zeros(0)] * len(rows)
    share, done = portion(progress, 0.0, 1.0), 0
    while done < len(rows):
        batch = order[done : done + max(1, min(batch_size, room // len(rows[order[done]])))]
        with torch.inference_mode():
            logits = model(**model_inputs([rows[i] for i in batch], pad, device)).logits  # (b, n, 2)
            keep = require_finite(logits.float(), "the token classifier's output", _ADVICE).softmax(dim=-1)[..., 1]
        for p, i in zip(keep.cpu().numpy().astype(np.float64), batch):
            out[i] = p[len(prefix) : len(prefix) + len(chunks[i])]
        done += len(batch)
        share(done / len(rows))
    return out


def model_inputs(rows: Sequence[Any], pad: int, device: torch.device) -> dict[str, Any]:
    """Return token ids padded to the longest row; without padding no mask is needed, and attention is faster."""
    length = torch.tensor([len(row) for row in rows])
    ids = pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=pad)  # (b, n)
    mask = (torch.arange(ids.shape[1]) < length[:, None]).long()
    return {"input_ids": ids.to(device), "attention_mask": None if mask.all() else mask.to(device)}


def small_encoder(
    words: Sequence[Sequence[str]], causal: bool = False, max_length: int = 512, seed: int = 0
) -> tuple[nn.Module, Any]:
    """Return a fresh token classifier of two layers, and a tokenizer whose vocabulary are the training texts' words.

    Parameters
    ----------
    words : sequence of sequences of str
    causal : bool, default False
        Let each position see the ones before it only, as in a decoder.
    max_length : int, default 512
    seed : int, default 0
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = sorted({piece for text in words for word in text for piece in re.findall(r"\w+|[^\w\s]+", word)})
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*special, *pieces]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=max_length, **names)
    config = BertConfig(
        vocab_size=len(vocabulary), max_position_embeddings=max_length, pad_token_id=0, is_decoder=causal,
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, use_cache=False,
    )  # fmt: skip
    config.num_labels = 2
    with isolated(seed):
        model = BertForTokenClassification(config)
        # Neighbours are told apart by their positions: at the usual scale, 0.02, a net this small learns too late.
        nn.init.normal_(model.bert.embeddings.position_embeddings.weight, std=0.5)
    return model, tokenizer


class Training(Settings):
    """Train all weights of a token classifier on word labels by mean cross-entropy, and keep the best epoch.

    The defaults are for a fresh encoder; for a pretrained one take the paper's, of the preset ``paper`` of
    :class:`~anytask.prompts.LLMLingua2`: 10 epochs, step size 1e-5, batches of 10.

    Parameters
    ----------
    epochs, lr, batch_size : default 15, 3e-3 and 32
    validation : float in (0, 1), default 0.2
        Share of the texts that chooses the epoch, by accuracy per word (the later of equals).
    target_accuracy : float, optional
        Stop early once the validation accuracy reaches it.
    """

    epochs: int = whole(15, "passes over the texts")
    lr: float = real(3e-3, "Adam's step size", above=0)
    batch_size: int = whole(32, "texts in a batch")
    validation: float = real(0.2, "share of the texts that chooses the epoch", above=0, below=1)
    target_accuracy: float | None = real(None, "stop at this validation accuracy, None: never", above=0, optional=True)

    def train(
        self,
        model: nn.Module,
        tokenizer: Any,
        words: Sequence[Sequence[str]],
        labels: Sequence[Sequence[bool]],
        *,
        max_length: int = 512,
        seed: int = 0,
        folder: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> list[float]:
        """Train ``model`` in place, and return the validation accuracy after each epoch.

        ``folder`` keeps a checkpoint per epoch from which a repeated call goes on; texts longer than ``max_length``
        tokens are cut.
        """
        examples = encode(tokenizer, words, labels, max_length)
        order = np.random.default_rng(derive(seed, "split")).permutation(len(examples))
        held = max(1, round(self.validation * len(examples)))
        if held >= len(examples):
            raise ValueError(f"training needs at least two texts, got {len(examples)}")
        valid, chosen = [examples[i] for i in order[:held]], [examples[i] for i in order[held:]]
        pad, share = tokenizer.pad_token_id or 0, portion(progress, 0.0, 1.0)
        device = next(model.parameters()).device
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr, fused=True)
        settings = [self.lr, self.batch_size, max_length, self.validation, seed]
        accuracies: list[float] = []
        best = model.state_dict()

        def loss(batch: Sequence[Any]) -> torch.Tensor:
            ids, flags = zip(*batch)
            y = pad_sequence([torch.tensor(row) for row in flags], batch_first=True, padding_value=-100)  # (b, n)
            logits = model(**model_inputs(ids, pad, device)).logits  # (b, n, 2)
            return nn.functional.cross_entropy(logits.flatten(0, 1), y.to(device).flatten(), ignore_index=-100)

        def run(epoch: int) -> None:
            rows = batches([len(ids) for ids, _ in chosen], self.batch_size, derive(seed, "order", epoch))

            def draw(step: int) -> list[Any]:
                return [chosen[i] for i in rows[step - 1]]

            with isolated(derive(seed, "epoch", epoch)):
                training.train(model, draw, loss, steps=len(rows), optimizer=optimizer, stage=f"epoch {epoch}")

        with rollback(model):
            if folder is not None and (as_path(folder, "folder") / "state.json").is_file():
                state = load_tree(folder)
                if state["settings"] != settings:
                    raise ValueError(f"the checkpoint in {folder} was made with other settings; give another folder")
                model.load_state_dict(state["model"])
                optimizer.load_state_dict(state["optimizer"])
                accuracies, best = state["accuracies"], state["best"]
            for epoch in range(len(accuracies), self.epochs):
                if self.target_accuracy is not None and max(accuracies, default=0.0) >= self.target_accuracy:
                    break
                run(epoch)
                accuracies.append(accuracy(model, valid, pad))
                if accuracies[-1] == max(accuracies):
                    best = {k: v.detach().clone() for k, v in model.state_dict().items()}
                logger.info("epoch %d: validation accuracy %.4f", epoch, accuracies[-1])
                if folder is not None:
                    state = {"settings": settings, "accuracies": accuracies, "best": best}
                    save_tree(folder, state | {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
                share((epoch + 1) / self.epochs)
            model.load_state_dict(best)
        model.eval()
        share(1.0)
        return accuracies


def check_training(words: Any, labels: Any) -> tuple[list[list[str]], list[list[bool]]]:
    """Return words and keep-labels of any kind of sequence as lists, or say what is wrong with them."""
    for name, rows in (("words", words), ("labels", labels)):
        if not isinstance(rows, Iterable) or isinstance(rows, (str, bytes, Mapping, Set)) or hasattr(rows, "columns"):
            raise TypeError(f"{name} must be a sequence of lists, one for each text, got {type(rows).__name__}")
    texts = [check_texts(row, f"words[{i}]") for i, row in enumerate(words)]
    kept = [as_array(row, f"labels[{i}]").tolist() for i, row in enumerate(labels)]
    if not texts or len(texts) != len(kept):
        raise ValueError(f"words and labels must be equally many and not empty, got {len(texts)} and {len(kept)}")
    for i, (w, y) in enumerate(zip(texts, kept)):
        if not isinstance(y, list) or any(flag not in (0, 1) for flag in y):
            raise ValueError(f"labels[{i}] must be a list of booleans, one for each word, got {y!r}")
        if len(w) != len(y) or not w:
            raise ValueError(f"text {i}: it has {len(w)} words and {len(y)} labels")
    if len({bool(flag) for y in kept for flag in y}) == 1:
        raise ValueError(f"labels {'keep' if kept[0][0] else 'drop'} every word: there is nothing to learn from them")
    return texts, kept


def encode(
    tokenizer: Any, words: Sequence[Sequence[str]], labels: Sequence[Sequence[bool]], max_length: int = 512
) -> list[tuple[list[int], list[int]]]:
    """Tokenise each word by itself and copy its label to all its tokens; special tokens get label 0."""
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
    owners = [encoded.word_ids(i) for i in range(len(words))]
    flags = [[0 if i is None else int(y[i]) for i in owner] for owner, y in zip(owners, labels)]
    return list(zip(encoded["input_ids"], flags))


def batches(lengths: Sequence[int], size: int, seed: int) -> list[np.ndarray]:
    """Return batches of rows in random order; within each run of 16, texts of similar length go together."""
    rng = np.random.default_rng(seed)
    order, run = rng.permutation(len(lengths)), 16 * size
    runs = [sorted(order[i : i + run], key=lengths.__getitem__) for i in range(0, len(order), run)]
    cut = [np.array(part[i : i + size]) for part in runs for i in range(0, len(part), size)]
    return [cut[i] for i in rng.permutation(len(cut))]


def accuracy(model: nn.Module, examples: Sequence[tuple[list[int], list[int]]], pad: int = 0) -> float:
    """Return the share of tokens with the right label."""
    p = keep_probabilities(model.eval(), [np.array(ids) for ids, _ in examples], pad=pad)
    return float(np.mean((np.concatenate(p) > 0.5) == np.concatenate([y for _, y in examples])))
