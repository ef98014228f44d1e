"""LLMLingua-2: shorten prompts by deleting words, chosen by a small bidirectional token classifier.

Departures from the paper: kept words are cut out of the original text by their character offsets, so that spelling
survives unknown tokens and lower-casing tokenizers. A forced token makes its whole word certain, and forced words match
whole words only, so that they survive at every rate. A number with inner marks is one word, and so is each token of a
script without spaces. A cut by rate leaves at least the most probable word. Repeats of forced tokens are judged by the
cut itself, which is then made again. With a question, the context that alone names one of its words stays. Tokens that
the encoder doesn't know count as one for every four bytes. Dynamic rates across samples and query conditioning are own
formulations.

With ``convention="released"``, as the released code has it, words are counted with the tokenizer's border mark, a
forced token raises its own probability and not its word's, forced tokens match inside words, and chunks may be one
token longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch

from anytask.core.estimator import Estimator
from anytask.core.progress import Progress
from anytask.core.rng import isolated
from anytask.core.settings import choice, flag, free, group, real, whole
from anytask.models.loading import pack_pretrained, unpack_pretrained
from anytask.prompts.base import Compression, check_rate
from anytask.prompts.llmlingua2.distillation import Distillation, Distilled, distill
from anytask.prompts.llmlingua2.selection_rules import (
    check_budget,
    context_share,
    dynamic_rates,
    favour,
    keep_one,
    select_contexts,
    select_words,
)
from anytask.prompts.llmlingua2.token_probabilities import keep_probabilities, read_classifier
from anytask.prompts.llmlingua2.training import Training, small_encoder
from anytask.prompts.llmlingua2.words import (
    ChunkWords,
    WordReader,
    as_contexts,
    check_target,
    compression,
    counter_of,
    write_contexts,
)

__all__ = ["LLMLingua2"]

_MAX_FORCED = 100


def _check_force_tokens(force_tokens: Any) -> None:
    if isinstance(force_tokens, str) or not all(isinstance(t, str) and t for t in force_tokens):
        raise ValueError(f"force_tokens must be a list of texts that are not empty, got {force_tokens!r}")
    if len(force_tokens) > _MAX_FORCED:
        raise ValueError(f"force_tokens: at most {_MAX_FORCED} tokens can be forced, got {len(force_tokens)}")


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

    model: Any = free(None, "token classifier: a name, folder or module, None: the shipped weights", kw_only=False)
    tokenizer: Any = free(None, "the module's tokenizer, None: the one beside the named weights")
    rate: float = real(0.5, "share of the tokens to keep", above=0, at_most=1)
    force_tokens: Sequence[str] = free((), "tokens that are always kept", _check_force_tokens)
    force_digits: bool = flag(False, "keep every word that contains a digit")
    drop_consecutive: bool = flag(False, "of a forced token that recurs with nothing kept between, keep the first")
    cut: str = choice("percentile", ("percentile", "exact"), "the paper's threshold, or the most probable words")
    token_to_word: str = choice("mean", ("mean", "first"), "a word's probability from its tokens'")
    chunk_ends: Sequence[str] = free((".", "\n"), "tokens after which a long text may be cut")
    max_length: int = whole(512, "tokens of one encoder input, special tokens included", at_least=3)
    batch_size: int = whole(50, "largest number of chunks in one batch")
    target: str | Callable[[str], int] | None = free(
        None, "tokenizer that counts: a tiktoken name or text -> int, None: the encoder's", check_target
    )
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
        self.accuracies_ = self.training.train(
            model.to(self._device),
            tokenizer,
            words,
            labels,
            fresh=fresh,
            max_length=self.max_length,
            seed=self.seed,
            folder=folder,
            progress=progress,
        )
        self._read(model, tokenizer, "trained from scratch" if fresh else f"{self._named(self.model)} after fit")
        return self

    def distill(self, chat: Any, texts: Sequence[str], **options: Any) -> Self:
        """Have a chat model compress ``texts``, and train on what passes the filters.

        ``options`` go to :func:`~anytask.prompts.llmlingua2.distillation.distill`; the data set is ``distilled_``.
        """
        settings = {**self.distillation.get_params(), "seed": self.seed, **options}
        self.distilled_ = distill(chat, texts, **settings)
        return self.fit(self.distilled_)

    def compress(
        self,
        text: str | Sequence[str],
        rate: float | None = None,
        *,
        target_tokens: int | None = None,
        threshold: float | None = None,
        question: str | None = None,
        context_filter: bool = False,
        token_filter: bool = True,
        context_rate: float | None = None,
        context_tokens: int | None = None,
        n_contexts: int | None = None,
        force_contexts: Sequence[int] = (),
    ) -> Compression:
        """Compress one text, or the contexts of one prompt.

        Parameters
        ----------
        text : str or sequence of str
        rate : float in (0, 1], optional
            Share of the tokens to keep; at 1 the text comes back unchanged. At least one word is kept.
        target_tokens : int, optional
            Number of tokens to keep instead, at least 1.
        threshold : float in [0, 1], optional
            Keep the words whose probability reaches it instead, however many there are.
        question : str, optional
            Favour the words of this question: certain where they occur once in the contexts, less the more often. A
            context that alone names one of them is kept.
        context_filter : bool, default False
            First drop the contexts with the lowest mean probability, then words of the others.
        token_filter : bool, default True
            False drops whole contexts only.
        context_rate, context_tokens, n_contexts : optional
            Budget of the contexts: as a share, in tokens, or a number of contexts (at least 1). Default
            ``(rate + 1) / 2``, or twice ``target_tokens``.
        force_contexts : sequence of int
            Contexts that are kept in any case.

        Returns
        -------
        Compression
        """
        contexts = as_contexts(text)
        counts = {"target_tokens": target_tokens, "context_tokens": context_tokens, "n_contexts": n_contexts}
        rate = check_budget(self.rate if rate is None else rate, threshold, **counts)
        if context_rate is not None:
            check_rate(context_rate)
        chunks = self._classify([contexts])[0]
        origin = self._origin(contexts, chunks)
        named = favour(chunks, question) if question else set()
        keep = list(range(len(contexts)))
        if context_filter and len(contexts) > 1:
            share = context_share(
                *(len(contexts), sum(origin), rate, target_tokens, token_filter, context_rate),
                *(context_tokens, n_contexts),
            )
            keep = select_contexts(chunks, len(contexts), share, {*force_contexts, *named})
        if target_tokens is not None:
            rate = min(target_tokens / max(1, sum(origin[i] for i in keep)), 1.0)
        reserved = [chunk for chunk in chunks if chunk.context in keep]
        kept = self._select(reserved, rate if token_filter else 1.0, threshold if token_filter else None)
        masks = iter(kept)
        all_masks = [next(masks) if c.context in keep else np.zeros(len(c.words), dtype=bool) for c in chunks]
        written = write_contexts(contexts, chunks, all_masks, keep)
        return compression(written, origin, self._lengths(written), chunks, all_masks, self._source())

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
        if isinstance(texts, str):
            raise TypeError("compress_many takes a list of texts; for one text use compress")
        if dynamic not in (None, "mean", "pooled"):
            raise ValueError(f"dynamic must be None, 'mean' or 'pooled', got {dynamic!r}")
        rate = check_budget(self.rate if rate is None else rate, threshold)
        contexts = [as_contexts(text) for text in texts]
        groups = self._classify(contexts, progress)
        origin = [self._origin(*pair) for pair in zip(contexts, groups)]
        if dynamic == "pooled":
            masks = iter(self._select([chunk for group in groups for chunk in group], rate, threshold, pooled=True))
            kept = [[next(masks) for _ in group] for group in groups]
        else:
            rates = dynamic_rates(groups, rate) if dynamic == "mean" else [rate] * len(groups)
            kept = [self._select(group, r, threshold) for group, r in zip(groups, rates)]
        written = [write_contexts(*parts, [0]) for parts in zip(contexts, groups, kept)]
        after = self._lengths([text for (text,) in written])
        rows = zip(written, origin, after, groups, kept)
        return [compression(w, o, [n], g, k, self._source()) for w, o, n, g, k in rows]

    def _classify(self, prompts: Sequence[Sequence[str]], progress: Progress | None = None) -> list[list[ChunkWords]]:
        """Tokenise, cut into chunks, classify, and merge tokens to words."""
        self._require_model()
        reader = self.reader_
        tokenised = reader.tokenise([context for prompt in prompts for context in prompt])
        probabilities = iter(
            keep_probabilities(
                self.model_,
                [t.ids[a:b] for t in tokenised for a, b in t.chunks],
                reader.prefix,
                reader.suffix,
                pad=self.tokenizer_.pad_token_id or 0,
                max_length=self.max_length,
                batch_size=self.batch_size,
                progress=progress,
            )
        )
        texts = iter(tokenised)
        count = None if self.target is None else self._count
        groups: list[list[ChunkWords]] = []
        for prompt in prompts:
            groups.append([])
            for context in range(len(prompt)):
                text = next(texts)
                groups[-1] += reader.merge(text, context, [next(probabilities) for _ in text.chunks], count)
        return groups

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text by the target tokenizer."""
        return self._lengths([text])[0]

    def _count(self, text: str) -> int:
        assert self.target is not None
        if vars(self).get("_counter", (None,))[0] is not self.target:
            self._counter = (self.target, counter_of(self.target))
        return self._counter[1](text)

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        if self.target is not None:
            return [self._count(text) for text in texts]
        self._require_model()
        return self.reader_.lengths(texts)

    def _origin(self, contexts: Sequence[str], chunks: Sequence[ChunkWords]) -> list[int]:
        """Return the contexts' lengths, from the classified tokens where these are the ones to be counted."""
        if self.target is not None or self.reader_.stand_in:
            return self._lengths(contexts)
        return [sum(int(c.cost.sum()) for c in chunks if c.context == i) for i in range(len(contexts))]

    def _select(
        self, chunks: Sequence[ChunkWords], rate: float, threshold: float | None, *, pooled: bool = False
    ) -> list[np.ndarray]:
        single = self.force_tokens if self.drop_consecutive else ()
        kept = select_words(chunks, rate, threshold, cut=self.cut, pooled=pooled, single=single)
        if threshold is None:
            keep_one(chunks, kept)
        return kept

    def _source(self) -> tuple[str, str | None]:
        """Return the kind and the name of the weights that are in use."""
        return self.kind, vars(self).get("_weights")

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
