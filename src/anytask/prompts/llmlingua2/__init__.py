"""LLMLingua-2: shorten prompts by deleting words, chosen by a small bidirectional token classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from anytask.core.progress import Progress
from anytask.core.settings import choice, flag, free, real, whole
from anytask.prompts.base import Compression, check_rate
from anytask.prompts.llmlingua2.keep_classifier import KeepClassifier
from anytask.prompts.llmlingua2.selection_rules import (
    ContextFilter,
    TokenFilter,
    check_budget,
    dynamic_rates,
    favour,
)
from anytask.prompts.llmlingua2.target_tokens import TargetTokens, check_target
from anytask.prompts.llmlingua2.token_probabilities import keep_probabilities
from anytask.prompts.llmlingua2.words import ChunkWords, as_contexts, compression, unchanged, write_contexts

__all__ = ["LLMLingua2"]


class LLMLingua2(KeepClassifier):
    """Shorten prompts and contexts two- to five-fold by deleting words; nothing is rewritten.

    A small bidirectional encoder says of every word how likely it is needed, whatever the question will be; the
    least needed are deleted until the requested rate is reached. Pick it when tokens cost money or context is short and
    the question isn't known yet. It works at once, with tiny English weights that ship with the package and know little
    more than function words; give ``model`` for real ones, or train your own on compressions by a chat model
    (:meth:`distill`) or on word labels (:meth:`fit`). Every result says which weights made it (``kind``, ``weights``).

    Parameters
    ----------
    model : str, path or torch.nn.Module, optional
        A token classifier with two labels, 1 = keep: a Hugging Face name or folder, such as
        ``microsoft/llmlingua-2-xlm-roberta-large-meetingbank`` or
        ``microsoft/llmlingua-2-bert-base-multilingual-cased-meetingbank``; or any encoder to fine-tune with
        :meth:`fit`. Default: the shipped ``compressor`` (:mod:`anytask.lm.tiny_models`), of kind "tiny"; :meth:`fit`
        trains a fresh two-layer encoder of width 32 instead, whose vocabulary are the training texts' words.
    tokenizer : transformers.PreTrainedTokenizerFast, optional
        Needed where ``model`` is a module.
    rate : float in (0, 1], default 0.5
        Share of the tokens to keep, where :meth:`compress` is given none.
    force_tokens : sequence of str, default ()
        Always kept. The paper uses "\\n", "?", "!" and "."; for mathematics also the operators and "The answer is".
    force_digits : bool, default False
        Keep every word that contains a digit.
    drop_consecutive : bool, default False
        Of a forced token that recurs with nothing kept in between, keep the first one only.
    token_to_word : {"mean", "first"}, default "mean"
        A word's probability from its tokens'.
    cut : {"percentile", "exact"}, default "percentile"
        "percentile" is the paper's threshold, per chunk: coarse for short texts, and words tied at it are all dropped.
        "exact" keeps the most probable words of a prompt, whatever their chunk, while they fit in the rate's tokens.
    chunk_ends : sequence of str, default (".", "\\n")
        Tokens after which a text that is too long for the encoder may be cut.
    max_length : int, default 512
        Tokens of one encoder input, special tokens included.
    batch_size : int, default 50
        Largest number of chunks in one batch; chunks of similar length go together.
    target : str or callable, optional
        The tokenizer that counts: a tiktoken model or encoding name ("gpt-4o", "cl100k_base"), or text -> number of
        tokens. Default: the encoder's own tokenizer, which needs no network.
    convention : {"paper", "released"}, default "paper"
        "released" follows the released code where it differs: words are counted with the tokenizer's border mark, a
        forced token raises its own probability and not its word's, forced tokens match inside words, and chunks may be
        one token longer.
    mask : {"bidirectional", "causal"}, default "bidirectional"
        Attention of the fresh encoder; "causal" is the paper's comparison with a decoder.
    distillation : Distillation or mapping
        Of :meth:`distill`: percentiles of the filters ``variation`` and ``gap`` (90 and 90; 100 filters nothing), and
        the ``window`` of the alignment (150), see :mod:`anytask.prompts.llmlingua2.training`.
    training : Training or mapping
        Of :meth:`fit`: ``epochs``, ``lr`` and ``batch_size`` (left at None 10, 1e-5 and 10 as in the paper for a given
        model, 15, 3e-3 and 32 for a fresh one), and the validation accuracy ``target_accuracy`` at which to stop.
    device : str, default "auto"
    seed : int, default 0

    Attributes
    ----------
    model_, tokenizer_ : the classifier and its tokenizer
    kind : {"tiny", "local"}
        Weights that ship with the package or were trained from scratch, or given ones.
    trainer_ : TokenClassifierTrainer
        After :meth:`fit`: validation accuracies, and cost.

    Raises
    ------
    ValueError
        If a parameter is out of range, more than 100 tokens are forced, or the shipped weights are damaged.
    ImportError
        If ``target`` names a tiktoken encoding and tiktoken is not installed.

    Examples
    --------
    >>> sentence = "It was Mr Okafor who had asked for the 37 new chairs in the library."
    >>> result = LLMLingua2().compress(sentence, threshold=0.5)
    >>> result.text, result.kind
    ('Mr Okafor asked 37 new chairs library.', 'tiny')

    Trained on labels:

    >>> texts = ["the cat sat on a mat", "a dog sat on the log", "the cow lay in a barn"] * 20
    >>> labels = [[w not in {"the", "a", "on", "in"} for w in t.split()] for t in texts]
    >>> compressor = LLMLingua2(training={"epochs": 12}).fit([t.split() for t in texts], labels)
    >>> compressor.compress("the dog lay on a mat", rate=0.5).text
    'dog lay mat'

    Notes
    -----
    Source: Pan et al. (2024), "LLMLingua-2: Data Distillation for Efficient and Faithful Task-Agnostic Prompt
    Compression", arXiv:2403.12968.

    Departures from the paper
    -------------------------
    Kept words are cut out of the original text by their character offsets, so that spelling survives unknown tokens and
    lower-casing tokenizers. A forced token makes its whole word certain, and forced words match whole words only, so
    that they survive at every rate. Dynamic rates across samples and query conditioning are own formulations.
    """

    rate: float = real(0.5, "share of the tokens to keep", above=0, at_most=1)
    drop_consecutive: bool = flag(False, "of a forced token that recurs with nothing kept between, keep the first")
    cut: str = choice("percentile", ("percentile", "exact"), "the paper's threshold, or the most probable words")
    batch_size: int = whole(50, "largest number of chunks in one batch")
    target: str | Callable[[str], int] | None = free(
        None, "tokenizer that counts: a tiktoken name or text -> int, None: the encoder's", check_target
    )

    @property
    def _tokens(self) -> TokenFilter:
        return TokenFilter(self.cut, tuple(self.force_tokens), self.drop_consecutive)

    @property
    def _target(self) -> TargetTokens | None:
        if self.target is None:
            return None
        known = vars(self).get("_counter")
        if known is None or known.target is not self.target:
            known = self._counter = TargetTokens(self.target)
        return known

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text by the target tokenizer."""
        return self._lengths([text])[0]

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        if self._target is not None:
            return self._target.of_texts(texts)
        self._require_model()
        return self.reader_.lengths(texts)

    def _origin(self, contexts: Sequence[str], chunks: Sequence[ChunkWords]) -> list[int]:
        """Return the contexts' lengths, from the classified tokens where these are the ones to be counted."""
        if self._target is not None or self.reader_.stand_in:
            return self._lengths(contexts)
        return [sum(int(c.cost.sum()) for c in chunks if c.context == i) for i in range(len(contexts))]

    # Compression ----------------------------------------------------------------------------------------------------

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
            Share of the tokens to keep; at 1 the text comes back unchanged.
        target_tokens : int, optional
            Number of tokens to keep instead.
        threshold : float in [0, 1], optional
            Keep the words whose probability reaches it instead, however many there are.
        question : str, optional
            Favour the words of this question: certain where they occur once in the contexts, less the more often.
        context_filter : bool, default False
            First drop the contexts with the lowest mean probability, then words of the others.
        token_filter : bool, default True
            False drops whole contexts only.
        context_rate, context_tokens, n_contexts : optional
            Share of the contexts' budget: as a share, in tokens, or a number of contexts. Default ``(rate + 1) / 2``,
            or twice ``target_tokens``.
        force_contexts : sequence of int
            Contexts that are kept in any case.

        Returns
        -------
        Compression
        """
        contexts = as_contexts(text)
        rate = check_budget(self.rate if rate is None else rate, target_tokens, threshold)
        if context_rate is not None:
            check_rate(context_rate)
        if rate >= 1 and target_tokens is None and threshold is None and not context_filter:
            return unchanged(contexts, self._lengths(contexts), self._source())
        chunks = self._classify([contexts])[0]
        origin = self._origin(contexts, chunks)
        if question:
            favour(chunks, question)
        keep = list(range(len(contexts)))
        if context_filter and len(contexts) > 1:
            budget = ContextFilter(context_rate, context_tokens, n_contexts, force_contexts)
            share = budget.share(len(contexts), sum(origin), rate, target_tokens, token_filter)
            keep = budget.select(chunks, len(contexts), share)
        if target_tokens is not None:
            rate = min(target_tokens / max(1, sum(origin[i] for i in keep)), 1.0)
        reserved = [chunk for chunk in chunks if chunk.context in keep]
        if (rate >= 1 and threshold is None) or not token_filter:
            kept = [np.ones(len(chunk.words), dtype=bool) for chunk in reserved]
        else:
            kept = self._tokens.select(reserved, rate, threshold)
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
        rate = check_budget(self.rate if rate is None else rate, None, threshold)
        contexts = [as_contexts(text) for text in texts]
        if rate >= 1 and threshold is None:
            return [unchanged(prompt, self._lengths(prompt), self._source()) for prompt in contexts]
        groups = self._classify(contexts, progress)
        origin = [self._origin(*pair) for pair in zip(contexts, groups)]
        rates = dynamic_rates(groups, rate) if dynamic == "mean" else [rate] * len(groups)
        if dynamic == "pooled":
            masks = iter(self._tokens.select_pooled([chunk for group in groups for chunk in group], rate))
            kept = [[next(masks) for _ in group] for group in groups]
        else:
            kept = [self._tokens.select(group, r, threshold) for group, r in zip(groups, rates)]
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
        costs = None if self._target is None else self._target.of_words
        groups: list[list[ChunkWords]] = []
        for prompt in prompts:
            groups.append([])
            for context in range(len(prompt)):
                text = next(texts)
                groups[-1] += reader.merge(text, context, [next(probabilities) for _ in text.chunks], costs)
        return groups

    def _source(self) -> tuple[str, str | None]:
        """Return the kind and the name of the weights that are in use."""
        return self.kind, vars(self).get("_weights")
