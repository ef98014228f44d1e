"""The classifier behind a compressor: shipped, given or trained weights, their training, and files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch

from anytask.core.rng import isolated
from anytask.prompts.llmlingua2.token_probabilities import read_classifier
from anytask.prompts.llmlingua2.training import Distilled, TokenClassifierTrainer, distill, small_encoder
from anytask.prompts.llmlingua2.words import WordReader

_SAVED = (
    *("rate", "force_tokens", "force_digits", "drop_consecutive", "token_to_word", "cut", "chunk_ends", "max_length"),
    *("batch_size", "convention", "mask", "variation", "gap", "window", "epochs", "learning_rate", "train_batch"),
    *("target_accuracy", "seed"),
)


class KeepClassifier:
    """Weights and training of :class:`~anytask.prompts.LLMLingua2`, whose parameters are those meant here."""

    model: Any
    mask: Literal["bidirectional", "causal"]
    max_length: int
    variation: float
    gap: float
    window: int
    epochs: int | None
    learning_rate: float | None
    train_batch: int | None
    target_accuracy: float | None
    target: Any
    device: str
    seed: int
    kind: Literal["tiny", "local"]
    model_: Any

    def _load(self, model: Any, tokenizer: Any) -> None:
        self._weights = type(model).__name__ if isinstance(model, torch.nn.Module) else str(model)
        self.model_, self.tokenizer_ = read_classifier(model, tokenizer, self.device)
        reading = ("force_tokens", "force_digits", "token_to_word", "chunk_ends", "max_length", "convention")
        self.reader_ = WordReader(self.tokenizer_, **{name: getattr(self, name) for name in reading})
        n = len(self.tokenizer_)  # larger than before if stand-ins for forced tokens were added
        if n > self.model_.get_input_embeddings().num_embeddings:
            with isolated(self.seed):
                self.model_.resize_token_embeddings(n)

    def _require_model(self) -> None:
        """Load the shipped weights if there are no others yet."""
        if not hasattr(self, "model_"):
            from anytask.lm.tiny_models import verified_folder

            self._load(str(verified_folder("compressor")), None)
            self._weights = "compressor"

    def fit(
        self,
        words: Sequence[Sequence[str]] | Distilled,
        labels: Sequence[Sequence[bool]] | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Self:
        """Train the classifier on words and keep-labels.

        Parameters
        ----------
        words : sequence of sequences of str, or Distilled
            Words of each text; or the annotated and filtered compressions of a chat model.
        labels : sequence of sequences of bool
            Whether each word is kept.
        folder : path, optional
            Keeps a checkpoint per epoch; a repeated call goes on from it.
        progress : callable, optional
            Called with the finished share in [0, 1].
        """
        if isinstance(words, Distilled):
            distilled = words
            words, labels = distilled.words, distilled.labels
        if labels is None:
            raise ValueError("fit needs labels: one list of booleans per text, or a Distilled data set")
        fresh = self.model is None
        if fresh:
            model, tokenizer = small_encoder(
                words, causal=self.mask == "causal", max_length=self.max_length, seed=self.seed
            )
        else:
            model, tokenizer = self.model_, self.tokenizer_
        trainer = TokenClassifierTrainer(
            epochs=self.epochs or (15 if fresh else 10),
            learning_rate=self.learning_rate or (3e-3 if fresh else 1e-5),
            batch_size=self.train_batch or (32 if fresh else 10),
            max_length=self.max_length,
            target_accuracy=self.target_accuracy,
            seed=self.seed,
        )
        trainer.train(model, tokenizer, words, labels, folder=folder, progress=progress)
        self.trainer_ = trainer
        self._load(model, tokenizer)
        self._weights = "trained from scratch" if fresh else f"{self.model} after fit"
        return self

    def distill(self, chat: Any, texts: Sequence[str], **options: Any) -> Self:
        """Have a chat model compress ``texts``, and train on what passes the filters.

        ``options`` go to :func:`~anytask.prompts.llmlingua2.training.distill`; the data set stays in ``distilled_``.
        """
        settings = {"variation": self.variation, "gap": self.gap, "window": self.window, "seed": self.seed, **options}
        self.distilled_ = distill(chat, texts, **settings)
        return self.fit(self.distilled_)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights, tokenizer and settings to a folder that ``transformers`` can read as well."""
        self._require_model()
        folder = Path(folder)
        self.model_.save_pretrained(folder)
        self.tokenizer_.save_pretrained(folder)
        settings: dict[str, Any] = {name: getattr(self, name) for name in _SAVED}
        settings["kind"], settings["weights"] = self.kind, self._weights
        settings["target"] = self.target if isinstance(self.target, str) else None
        (folder / "llmlingua2.json").write_text(json.dumps(settings), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **settings: Any) -> Self:
        """Read what :meth:`save` wrote; ``settings`` replace the saved ones."""
        path = Path(folder) / "llmlingua2.json"
        if not path.is_file():
            raise FileNotFoundError(f"no saved LLMLingua2 in {folder}: {path.name} is missing")
        saved = json.loads(path.read_text(encoding="utf-8"))
        kind, weights = saved.pop("kind"), saved.pop("weights")
        make: Any = cls  # the compressor that this is mixed into takes the model first
        compressor = make(str(folder), **{**saved, **settings})
        compressor.kind, compressor._weights = kind, weights
        return compressor
