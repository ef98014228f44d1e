"""The classifier behind a compressor: shipped, given or trained weights, their training, and files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch

from anytask.core.estimator import Estimator
from anytask.core.progress import Progress
from anytask.core.rng import isolated
from anytask.core.settings import Settings, choice, flag, free, group, real, whole
from anytask.models.loading import pack_pretrained, unpack_pretrained
from anytask.prompts.llmlingua2.token_probabilities import read_classifier
from anytask.prompts.llmlingua2.training import Distilled, TokenClassifierTrainer, distill, small_encoder
from anytask.prompts.llmlingua2.words import WordReader

_MAX_FORCED = 100


class Distillation(Settings):
    """Filters and alignment of a chat model's compressions, see :mod:`anytask.prompts.llmlingua2.training`."""

    variation: float = real(90, "percentile of the variation rate at which chunks are dropped", at_least=0, at_most=100)
    gap: float = real(90, "percentile of the alignment gap from which chunks are dropped", at_least=0, at_most=100)
    window: int = whole(150, "words on either side in which a compressed word is looked for")


class Training(Settings):
    """How the classifier is trained; None follows the encoder: the paper's values for a given one."""

    epochs: int | None = whole(None, "passes over the texts, None: 10, or 15 for a fresh encoder", optional=True)
    lr: float | None = real(None, "Adam's step size, None: 1e-5, or 3e-3 for a fresh one", above=0, optional=True)
    batch_size: int | None = whole(None, "texts in a batch, None: 10, or 32 for a fresh encoder", optional=True)
    target_accuracy: float | None = real(None, "stop at this validation accuracy, None: never", above=0, optional=True)

    OWN: ClassVar[Mapping[bool, tuple[int, float, int]]] = {False: (10, 1e-5, 10), True: (15, 3e-3, 32)}

    def trainer(self, fresh: bool, **given: Any) -> TokenClassifierTrainer:
        """Return the trainer of a fresh or a given encoder."""
        epochs, lr, batch_size = self.OWN[fresh]
        return TokenClassifierTrainer(
            epochs=self.epochs or epochs, lr=self.lr or lr, batch_size=self.batch_size or batch_size,
            target_accuracy=self.target_accuracy, **given,
        )  # fmt: skip


def _check_force_tokens(force_tokens: Any) -> None:
    if isinstance(force_tokens, str) or not all(isinstance(t, str) and t for t in force_tokens):
        raise ValueError(f"force_tokens must be a list of texts that are not empty, got {force_tokens!r}")
    if len(force_tokens) > _MAX_FORCED:
        raise ValueError(f"force_tokens: at most {_MAX_FORCED} tokens can be forced, got {len(force_tokens)}")


class KeepClassifier(Estimator):
    """Weights and training of :class:`~anytask.prompts.LLMLingua2`, whose parameters are those meant here."""

    model: Any = free(None, "token classifier: a name, folder or module, None: the shipped weights", kw_only=False)
    tokenizer: Any = free(None, "the module's tokenizer, None: the one beside the named weights")
    force_tokens: Sequence[str] = free((), "tokens that are always kept", _check_force_tokens)
    force_digits: bool = flag(False, "keep every word that contains a digit")
    token_to_word: str = choice("mean", ("mean", "first"), "a word's probability from its tokens'")
    chunk_ends: Sequence[str] = free((".", "\n"), "tokens after which a long text may be cut")
    max_length: int = whole(512, "tokens of one encoder input, special tokens included", at_least=3)
    convention: str = choice("paper", ("paper", "released"), "follow the paper, or the released code where it differs")
    mask: str = choice("bidirectional", ("bidirectional", "causal"), "attention of a fresh encoder")
    distillation: Distillation = group(Distillation, "filters and alignment of distill")
    training: Training = group(Training, "of fit")

    def _check_settings(self) -> None:
        if isinstance(self.model, torch.nn.Module) and self.tokenizer is None:
            raise ValueError("a model given as a module needs its tokenizer: LLMLingua2(model, tokenizer=...)")
        if "model_" in vars(self):  # set_params: another model, or another way to read its tokens
            if self._read_from is not self.model:
                del self.model_, self.tokenizer_, self.reader_
            else:
                self._read(self.model_, self.tokenizer_, self._weights)

    def __sklearn_is_fitted__(self) -> bool:
        return True  # the shipped weights compress without a fit

    @property
    def kind(self) -> str:
        """``"tiny"`` for weights of the package or trained from scratch, ``"local"`` for given ones."""
        return "tiny" if self.model is None else "local"

    @staticmethod
    def _named(model: Any) -> str:
        return type(model).__name__ if isinstance(model, torch.nn.Module) else str(model)

    def _require_model(self) -> None:
        """Read the weights, the shipped ones if there are no others, if that was not done before."""
        if "model_" in vars(self):
            return
        if self.model is not None:
            self._read(*read_classifier(self.model, self.tokenizer, self._device), self._named(self.model))
            return
        from anytask.lm.tiny_models import verified_folder

        self._read(*read_classifier(str(verified_folder("compressor")), None, self._device), "compressor")

    def _read(self, model: Any, tokenizer: Any, weights: str) -> None:
        reading = ("force_tokens", "force_digits", "token_to_word", "chunk_ends", "max_length", "convention")
        reader = WordReader(tokenizer, **{name: getattr(self, name) for name in reading})
        n = len(tokenizer)  # larger than before if stand-ins for forced tokens were added
        if n > model.get_input_embeddings().num_embeddings:
            with isolated(self.seed):
                model.resize_token_embeddings(n)
        self.model_, self.tokenizer_, self.reader_ = model.to(self._device).eval(), tokenizer, reader
        self._weights, self._read_from = weights, self.model

    def fit(
        self,
        words: Sequence[Sequence[str]] | Distilled,
        labels: Sequence[Sequence[bool]] | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
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
            self._require_model()
            model, tokenizer = self.model_, self.tokenizer_
        trainer = self.training.trainer(fresh, max_length=self.max_length, seed=self.seed)
        trainer.train(model.to(self._device), tokenizer, words, labels, folder=folder, progress=progress)
        self.trainer_ = trainer
        self._read(model, tokenizer, "trained from scratch" if fresh else f"{self._named(self.model)} after fit")
        return self

    def distill(self, chat: Any, texts: Sequence[str], **options: Any) -> Self:
        """Have a chat model compress ``texts``, and train on what passes the filters.

        ``options`` go to :func:`~anytask.prompts.llmlingua2.training.distill`; the data set stays in ``distilled_``.
        """
        settings = {**self.distillation.get_params(), "seed": self.seed, **options}
        self.distilled_ = distill(chat, texts, **settings)
        return self.fit(self.distilled_)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str = "auto", **params: Any) -> Self:
        """Read what :meth:`save` wrote; the weights are in the folder, ``params`` replace saved settings."""
        return super().load(folder, device=device, **{"model": None, "tokenizer": None, **params})

    def _state(self) -> Any:
        self._require_model()
        classifier = pack_pretrained(self.model_, self.tokenizer_)
        return {"classifier": classifier, "given": self.model is not None, "weights": self._weights}

    def _load_state(self, state: Any) -> None:
        from transformers import AutoModelForTokenClassification

        model, tokenizer = unpack_pretrained(state["classifier"], AutoModelForTokenClassification)
        if state["given"]:
            self.model, self.tokenizer = model, tokenizer
        self._read(model, tokenizer, state["weights"])
