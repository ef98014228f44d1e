"""LLMLingua-2: shorten prompts by deleting words, chosen by a small bidirectional token classifier.

Departures from the paper: kept words are cut out of the original text by their character offsets, so that spelling
survives unknown tokens and lower-casing tokenizers. A forced token makes its whole word certain, and forced words
match whole words only, so that they survive at every rate. A number with its sign and inner marks is one word, and so
is each token of a script without spaces. Every prompt keeps at least its most probable word. Repeats of forced tokens
are judged by the cut itself, which is then made again. With a question, the context that alone names one of its words
stays. Tokens that the encoder doesn't know count as one for every four bytes. Dynamic rates across samples and query
conditioning are own formulations.

With ``convention="released"``, as the released code has it, words are counted with the tokenizer's border mark, a
forced token raises its own probability and not its word's, forced tokens match inside words, and chunks may be one
token longer.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn

from anytask.core.errors import check_word
from anytask.core.estimator import Estimator
from anytask.core.persistence import load_tree
from anytask.core.progress import Progress
from anytask.core.rng import isolated
from anytask.core.settings import choice, flag, free, group, of_kind, positional, real, texts, whole
from anytask.lm.protocol import check_text, check_texts
from anytask.models.loading import pack_pretrained, unpack_pretrained
from anytask.prompts.base import Compression
from anytask.prompts.llmlingua2 import classifier
from anytask.prompts.llmlingua2.distillation import Distillation, Distilled
from anytask.prompts.llmlingua2.selection_rules import (
    Budget,
    dynamic_rates,
    favour,
    keep_one,
    select_contexts,
    select_words,
)
from anytask.prompts.llmlingua2.words import WordReader, check_target, counter_of
from anytask.prompts.parts.words import Words, check_contexts, compressed, warn_of_short, write_contexts

__all__ = ["LLMLingua2"]

_MAX_FORCED = 100


class LLMLingua2(Estimator):
    """Shorten prompts and contexts two- to five-fold by deleting words; nothing is rewritten.

    A small bidirectional encoder says of every word how likely it is needed, whatever the question will be; the least
    needed are deleted until the requested rate is reached. Pick it when tokens cost money or context is short and the
    question isn't known yet. It works at once, with tiny English weights that ship with the package and know little
    more than function words; give ``model`` for real ones, or train your own on compressions by a chat model
    (:meth:`distill`) or on word labels (:meth:`fit`). Every result says which weights made it (``kind``, ``weights``).

    Parameters
    ----------
    model : str, path or torch.nn.Module, optional
        A token classifier with two labels, 1 = keep: a Hugging Face name or folder, such as
        ``microsoft/llmlingua-2-xlm-roberta-large-meetingbank``, or any encoder to fine-tune with :meth:`fit`.
        Default: the shipped ``compressor``, of kind "tiny"; :meth:`fit` trains a fresh two-layer encoder instead.
    tokenizer : transformers.PreTrainedTokenizerFast, optional
        Needed where ``model`` is a module.
    rate : float in (0, 1], default 0.5
        Share of the tokens to keep, where :meth:`compress` is given none.
    force_tokens, force_digits : sequence of str, bool, default () and False
        Always kept: these texts (the paper: "\\n", "?", "!", "."), and every word that contains a digit.
    drop_consecutive : bool, default False
        Of a forced token that recurs with nothing kept in between, keep the first one only.
    cut : {"percentile", "exact"}, default "percentile"
        The paper's threshold per chunk, coarse for short texts; or the most probable words of a prompt while they fit.
    token_to_word, chunk_ends, max_length, batch_size : default "mean", (".", "\\n"), 512 and 50
        A word's probability from its tokens' ("mean" or "first"); where a text too long for the encoder may be cut.
    target : str or callable, optional
        The tokenizer that counts: a tiktoken name ("gpt-4o"), or text -> number of tokens. Default: the encoder's.
    convention : {"paper", "released"}, default "paper"
        Follow the paper, or the released code where it differs.
    mask, distillation, training : of :meth:`distill` and :meth:`fit`
        Attention of the fresh encoder ("causal" is the paper's comparison); :class:`Distillation`; :class:`Training`.
    seed, device : int and str, default 0 and "auto"

    Attributes
    ----------
    model_, tokenizer_ : the classifier and its tokenizer
    accuracies_ : list of float
        After :meth:`fit`: validation accuracy after each epoch.

    Examples
    --------
    >>> sentence = "It was Mr Okafor who had asked for the 37 new chairs in the library."
    >>> result = LLMLingua2().compress(sentence, threshold=0.5)
    >>> result.text, result.kind
    ('Mr Okafor asked 37 new chairs library.', 'tiny')
    >>> texts = ["the cat sat on a mat", "a dog sat on the log", "the cow lay in a barn"] * 20
    >>> labels = [[w not in {"the", "a", "on", "in"} for w in t.split()] for t in texts]
    >>> compressor = LLMLingua2(training={"epochs": 12}).fit([t.split() for t in texts], labels)
    >>> compressor.compress("the dog lay on a mat", rate=0.5).text
    'dog lay mat'

    References
    ----------
    Pan et al. (2024), "LLMLingua-2: Data Distillation for Efficient and Faithful Task-Agnostic Prompt Compression",
    arXiv:2403.12968.
    """

    model: Any = positional(
        of_kind, (str, os.PathLike, nn.Module), "a name, a folder or a module",
        "token classifier; None: the shipped weights", optional=True, default=None, kw_only=False,
    )  # fmt: skip
    tokenizer: Any = of_kind(
        None, (Callable,), "a transformers tokenizer",
        "the module's tokenizer; None: the one beside the named weights", optional=True,
    )  # fmt: skip
    rate: float = real(0.5, "share of the tokens to keep", above=0, at_most=1)
    force_tokens: Sequence[str] = texts((), "tokens that are always kept", at_most=_MAX_FORCED)
    force_digits: bool = flag(False, "keep every word that contains a digit")
    drop_consecutive: bool = flag(False, "of a forced token that recurs with nothing kept between, keep the first")
    cut: str = choice("percentile", ("percentile", "exact"), "the paper's threshold, or the most probable words")
    token_to_word: str = choice("mean", ("mean", "first"), "a word's probability from its tokens'")
    chunk_ends: Sequence[str] = texts((".", "\n"), "tokens after which a long text may be cut")
    max_length: int = whole(512, "tokens of one encoder input, special tokens included", at_least=3)
    batch_size: int = whole(50, "largest number of chunks in one batch")
    target: str | Callable[[str], int] | None = free(
        None, "tokenizer that counts: a tiktoken name or text -> int, None: the encoder's", check_target
    )
    convention: str = choice("paper", ("paper", "released"), "follow the paper, or the released code where it differs")
    mask: str = choice("bidirectional", ("bidirectional", "causal"), "attention of a fresh encoder")
    distillation: Distillation = group(Distillation, "filters and alignment of distill")
    training: classifier.Training = group(classifier.Training, "of fit")

    model_: Any  # the classifier
    tokenizer_: Any

    #: The paper's way to train, for a pretrained encoder; the defaults are for the fresh one.
    PRESETS: ClassVar = {"paper": {"training": {"epochs": 10, "lr": 1e-5, "batch_size": 10}}}

    def _check_settings(self) -> None:
        if isinstance(self.model, torch.nn.Module) and self.tokenizer is None:
            raise ValueError("a model given as a module needs its tokenizer: LLMLingua2(model, tokenizer=...)")

    def __sklearn_is_fitted__(self) -> bool:
        return True  # the shipped weights compress without a fit

    @property
    def kind(self) -> str:
        """``"tiny"`` for weights of the package or trained from scratch, ``"local"`` for given ones."""
        return "tiny" if self.model is None else "local"

    def _reader(self) -> WordReader:
        """Read the weights, the shipped ones if there are no others, if that was not done before."""
        if "model_" not in vars(self) or self._read_from is not self.model:  # set_params may name another model
            from anytask.lm.tiny_models import verified_folder

            given = str(verified_folder("compressor")) if self.model is None else self.model
            self._use(
                *classifier.read_classifier(given, self.tokenizer),
                "compressor" if self.model is None else self._named(),
            )
        reader = WordReader(self.tokenizer_, self, None if self.target is None else counter_of(self.target))
        if len(self.tokenizer_) > self.model_.get_input_embeddings().num_embeddings:  # stand-ins for forced tokens
            with isolated(self.seed):
                self.model_.resize_token_embeddings(len(self.tokenizer_))
        self.model_.to(self._device).eval()
        return reader

    def _named(self) -> str:
        return type(self.model).__name__ if isinstance(self.model, torch.nn.Module) else str(self.model)

    def _use(self, model: torch.nn.Module, tokenizer: Any, weights: str) -> None:
        self.model_, self.tokenizer_, self._weights, self._read_from = model, tokenizer, weights, self.model

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
            return self.fit(words.words, words.labels, folder=folder, progress=progress)
        if labels is None:
            raise ValueError("fit needs labels: one list of booleans per text, or a Distilled data set")
        words, labels = classifier.check_training(words, labels)
        if self.model is None:
            model, tokenizer = classifier.small_encoder(words, self.mask == "causal", self.max_length, self.seed)
            weights = "trained from scratch"
        else:
            self._reader()
            model, tokenizer, weights = self.model_, self.tokenizer_, f"{self._named()} after fit"
            if self.training.lr > 1e-3:
                advice = "it suits a fresh encoder, and ruins a pretrained one: from_preset('paper') has 1e-5"
                warnings.warn(f"training.lr is {self.training.lr}; {advice}", stacklevel=2)
        self.accuracies_ = self.training.train(
            model.to(self._device), tokenizer, words, labels,
            max_length=self.max_length, seed=self.seed, folder=folder, progress=progress,
        )  # fmt: skip
        self._use(model, tokenizer, weights)
        return self

    def distill(self, chat: Any, texts: Sequence[str], **options: Any) -> Self:
        """Have a chat model compress ``texts``, and train on what passes the filters.

        ``options`` replace settings of ``distillation``; the data set is ``distilled_``.
        """
        settings = Distillation(**{**self.distillation.get_params(), **options})
        self.distilled_ = settings.distill(chat, texts, seed=self.seed)
        return self.fit(self.distilled_)

    def compress(
        self, text: str | Sequence[str], rate: float | None = None, *, question: str | None = None, **budget: Any
    ) -> Compression:
        """Compress one text, or the contexts of one prompt.

        Parameters
        ----------
        text : str or sequence of str
        rate : float in (0, 1], optional
            Share of the tokens to keep; at 1 the text comes back unchanged. At least one word is kept.
        question : str, optional
            Favour the words of this question: certain where they occur once in the contexts, less the more often. A
            context that alone names one of them is kept.
        **budget
            ``target_tokens`` or ``threshold`` instead of a rate; ``context_filter`` and what goes with it, see
            :class:`~anytask.prompts.llmlingua2.selection_rules.Budget`.

        Returns
        -------
        Compression
        """
        contexts = check_contexts(text)
        asked = Budget(rate=self.rate if rate is None else rate, **budget)
        n = len(contexts)
        if wrong := [i for i in asked.force_contexts if i >= n]:
            raise ValueError(f"force_contexts must be indices in [0, {n}), got {wrong}")
        reader = self._reader()
        words, origin = self._classify(reader, contexts), reader.lengths(contexts)
        named: set[int] = set()
        if question is not None and check_text(question, "question"):
            pieces = reader.words([question]).text
            words, named = favour(words, {piece.casefold() for piece in pieces if re.search(r"\w", piece)})
        keep = list(range(n))
        if asked.context_filter and n > 1:
            share = asked.context_share(n, int(origin.sum()))
            keep = select_contexts(words, n, share, {*asked.force_contexts, *named})
        rate = asked.rate
        if asked.target_tokens is not None:
            rate = min(asked.target_tokens / max(1, int(origin[keep].sum())), 1.0)
        inside = np.isin(words.context, keep)
        kept = inside.copy()
        if asked.token_filter:
            part = words.take(inside)
            kept[inside] = self._select(part, np.zeros_like(part.context), rate, asked.threshold)
        texts = [write_contexts(contexts, words, kept)[i] for i in keep]
        if asked.token_filter and asked.threshold is None:
            warn_of_short(["".join(contexts[i] for i in keep)], ["".join(texts)], rate)
        lengths = (int(origin.sum()), int(reader.lengths(texts).sum()))
        return compressed(words, kept, texts, lengths, (self.kind, self._weights))

    def compress_many(
        self,
        texts: Sequence[str],
        rate: float | None = None,
        *,
        dynamic: Literal["mean", "pooled"] | None = None,
        threshold: float | None = None,
        progress: Progress | None = None,
    ) -> list[Compression]:
        """Compress many texts, their chunks batched together.

        Parameters
        ----------
        texts : sequence of str
        rate : float in (0, 1], optional
            Average over the texts.
        dynamic : {"mean", "pooled"}, optional
            Give dense texts more of the budget: "mean" scales a text's rate by its mean keep-probability relative to
            all texts', clipped to [0, 1]; "pooled" cuts all words of all texts at one threshold.
        threshold : float, optional
            Keep the words whose probability reaches it, instead of a rate.
        progress : callable, optional
            Called with the finished share in [0, 1].
        """
        if dynamic is not None:
            check_word(dynamic, ("mean", "pooled"), "dynamic")
        asked = Budget(rate=self.rate if rate is None else rate, threshold=threshold)
        if not (texts := check_texts(texts, "texts")):
            return []
        contexts = check_contexts(texts)
        reader = self._reader()
        words = self._classify(reader, contexts, progress)
        rates = np.full(len(contexts), asked.rate)
        if dynamic == "mean":
            rates = dynamic_rates(words, len(contexts), asked.rate)
        kept = self._select(words, words.context, rates[words.context], threshold, pooled=dynamic == "pooled")
        written = write_contexts(contexts, words, kept)
        if threshold is None and dynamic != "pooled":
            warn_of_short(contexts, written, rates)
        if len(set(contexts)) > 1 and len(set(written)) == 1:
            warnings.warn(f"all {len(written)} different texts became {written[0]!r}", stacklevel=2)
        borders = np.searchsorted(words.context, np.arange(len(contexts) + 1))
        words = replace(words, context=np.zeros_like(words.context))
        rows = zip(written, reader.lengths(contexts), reader.lengths(written), borders, borders[1:])
        return [
            compressed(words.take(slice(a, b)), kept[a:b], [text], (int(n), int(m)), (self.kind, self._weights))
            for text, n, m, a, b in rows
        ]

    def _classify(self, reader: WordReader, contexts: Sequence[str], progress: Progress | None = None) -> Words:
        """Tokenise, cut into chunks, classify, and merge tokens to words."""
        classify = partial(
            classifier.keep_probabilities, self.model_, prefix=reader.prefix, suffix=reader.suffix,
            pad=self.tokenizer_.pad_token_id or 0, max_length=self.max_length, batch_size=self.batch_size,
            progress=progress,
        )  # fmt: skip
        return reader.words(contexts, classify)

    def _select(
        self, words: Words, owners: np.ndarray, rate: Any, threshold: float | None, *, pooled: bool = False
    ) -> np.ndarray:
        """Return which words stay; each prompt, as ``owners`` names it, keeps at least one."""
        units = np.zeros_like(owners) if pooled else owners if self.cut == "exact" else words.chunk
        single = self.force_tokens if self.drop_consecutive else ()
        kept = select_words(words, units, rate, threshold, cut=self.cut, single=single)
        saved = keep_one(words, owners, kept)
        if saved and threshold is not None:
            text = f"no word of {saved} prompts reaches threshold={threshold}: the most probable one is kept"
            warnings.warn(text, stacklevel=3)
        return kept

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text by the target tokenizer."""
        return int(self._reader().lengths([check_text(text, "text")])[0])

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str = "auto", **params: Any) -> Self:
        """Read what :meth:`save` wrote; the weights are in the folder, ``params`` replace saved settings."""
        saved = load_tree(folder)
        group = saved.get("params", {}).get("training", {}).get("group", {}) if isinstance(saved, dict) else {}
        if group.get("lr") == {"value": None}:
            params = {"training": {}, **params}  # None stood for values by the encoder in folders saved earlier
        return super().load(folder, device=device, **{"model": None, "tokenizer": None, **params})

    def _state(self) -> Any:
        self._reader()
        packed = pack_pretrained(self.model_, self.tokenizer_)
        trained = {name: getattr(self, name) for name in self._fitted() if name == "accuracies_"}
        return {"classifier": packed, "given": self.model is not None, "weights": self._weights, **trained}

    def _fitted(self) -> list[str]:
        return [name for name in super()._fitted() if name != "distilled_"]  # the texts learned from are not saved

    def _load_state(self, state: Any) -> None:
        from transformers import AutoModelForTokenClassification

        model, tokenizer = unpack_pretrained(state["classifier"], AutoModelForTokenClassification)
        if state["given"]:
            self.model, self.tokenizer = model, tokenizer
        self._use(model, tokenizer, state["weights"])
        if "accuracies_" in state:
            self.accuracies_ = state["accuracies_"]
