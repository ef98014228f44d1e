"""LLMLingua-2: shorten prompts by deleting words, chosen by a small bidirectional token classifier."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from anytask.prompts.base import Compression
from anytask.prompts.llmlingua2_training import Distilled, TokenClassifierTrainer, distill, small_encoder

_PUNCTUATION = frozenset(string.punctuation)
_BYTE_SPACES = "\u0120\u010a\u0109\u010d"  # how byte-level tokenizers spell a space, a newline, a tab, a return


class WordMarks:
    """Which tokens of a vocabulary begin a word, read from the tokenizer itself and not from a model's name.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast

    Attributes
    ----------
    kind : {"metaspace", "bytelevel", "wordpiece", "word"}
        How word borders are spelled: a mark on the first token, a byte for the space, a prefix on all tokens but the
        first, or not at all because every token is a word.
    starts : (V,) array of bool
        Whether a token begins a word wherever it stands.
    pure : list of str
        Tokens without their mark.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"LLMLingua2 needs a fast tokenizer (one that gives character offsets), got {type(tokenizer).__name__}"
            )
        description = json.loads(backend.to_str())
        model = description["model"]
        types = set(re.findall(r'"type": ?"(\w+)"', json.dumps([description["pre_tokenizer"], description["decoder"]])))
        prefix = model.get("continuing_subword_prefix") or ""
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.tokens: list[str] = [token or "" for token in tokens]
        added = set(tokenizer.get_added_vocab())
        if "Metaspace" in types or model["type"] == "Unigram":
            self.kind = "metaspace"
            bare = [token.lstrip("\u2581") for token in self.tokens]
            starts = [token.startswith("\u2581") for token in self.tokens]
        elif "ByteLevel" in types:
            self.kind = "bytelevel"
            bare = [token.lstrip(_BYTE_SPACES) for token in self.tokens]
            starts = [token[:1] in _BYTE_SPACES and token != "" for token in self.tokens]
        elif prefix:
            self.kind = "wordpiece"
            bare = [token.removeprefix(prefix) for token in self.tokens]
            starts = [not token.startswith(prefix) for token in self.tokens]
        else:
            self.kind = "word"
            bare, starts = self.tokens, [True] * len(self.tokens)
        self.pure: list[str] = bare
        self.starts = np.array(
            [s or token in _PUNCTUATION or token in added for s, token in zip(starts, self.tokens)], dtype=bool
        )
        self.digits = np.array([re.search(r"\d", t) is not None and t not in added for t in self.tokens], dtype=bool)


@dataclass
class _Chunk:
    """Words of one model input: where they come from, and what the classifier thinks of them."""

    context: int
    words: list[str]
    gaps: list[bool]  # white space before the word
    marked: list[str]  # the words as the tokenizer spells them
    p: np.ndarray  # (w,) keep-probabilities before forcing
    forced_p: np.ndarray  # (w,) with forced words at 1
    cost: np.ndarray  # (w,) tokens of the target model


@dataclass
class _Text:
    """A context with its forced tokens replaced, tokenised, and cut into chunks [start, end)."""

    text: str
    ids: np.ndarray
    offsets: np.ndarray  # (n, 2)
    chunks: list[tuple[int, int]]


def percentile_threshold(p: np.ndarray, cost: np.ndarray, reduce: float) -> float:
    """Return tau, the ``int(100 reduce + 1)``-th percentile of the words' probabilities, each counted ``cost`` times.

    Examples
    --------
    >>> p = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    >>> round(percentile_threshold(p, np.ones(10, dtype=int), 0.5), 3)
    0.459
    """
    repeated = np.repeat(p, cost)
    if not repeated.size:
        return -np.inf
    return float(np.percentile(repeated, min(int(100 * reduce + 1), 100)))


class LLMLingua2:
    """Shorten prompts and contexts two- to five-fold by deleting words; nothing is rewritten.

    A small bidirectional encoder says of every word how likely it is needed, whatever the question will be; the
    least needed are deleted until the requested rate is reached. Pick it when tokens cost money or context is short and
    the question isn't known yet. Without weights, :meth:`fit` trains the classifier on compressions made by a chat
    model (:func:`~anytask.prompts.llmlingua2_training.distill`) or on word labels.

    Parameters
    ----------
    model : str, path or torch.nn.Module, optional
        A token classifier with two labels, 1 = keep: a Hugging Face name or folder, such as
        ``microsoft/llmlingua-2-xlm-roberta-large-meetingbank`` or
        ``microsoft/llmlingua-2-bert-base-multilingual-cased-meetingbank``; or any encoder to fine-tune with
        :meth:`fit`. Default: a fresh two-layer encoder of width 32 with the words of the training texts as its
        vocabulary, made by :meth:`fit`.
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
    variation, gap, window : float, float, int, default 90, 90 and 150
        Filters and alignment of :meth:`distill`, see :mod:`anytask.prompts.llmlingua2_training`; 100 filters nothing.
    epochs, learning_rate, train_batch : int, float, int, optional
        Of :meth:`fit`; default 10, 1e-5 and 10 as in the paper for a given model, and 15, 3e-3 and 32 for a fresh one.
    device : str, default "auto"
    seed : int, default 0

    Attributes
    ----------
    model_, tokenizer_ : the classifier and its tokenizer
    marks_ : WordMarks
    trainer_ : TokenClassifierTrainer
        After :meth:`fit`: validation accuracies, and cost.

    Raises
    ------
    ValueError
        If a parameter is out of range, more than 100 tokens are forced, or :meth:`compress` is called on a compressor
        that has neither weights nor been fitted.
    ImportError
        If ``target`` names a tiktoken encoding and tiktoken is not installed.

    Examples
    --------
    >>> texts = ["the cat sat on a mat", "a dog sat on the log", "the cow lay in a barn"] * 20
    >>> labels = [[w not in {"the", "a", "on", "in"} for w in t.split()] for t in texts]
    >>> compressor = LLMLingua2(epochs=12).fit([t.split() for t in texts], labels)
    >>> result = compressor.compress("the dog lay on a mat", rate=0.5)
    >>> result.text, result.rate
    ('dog lay mat', 0.5)

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

    _MAX_FORCED = 100

    def __init__(
        self,
        model: Any = None,
        *,
        tokenizer: Any = None,
        rate: float = 0.5,
        force_tokens: Sequence[str] = (),
        force_digits: bool = False,
        drop_consecutive: bool = False,
        token_to_word: Literal["mean", "first"] = "mean",
        cut: Literal["percentile", "exact"] = "percentile",
        chunk_ends: Sequence[str] = (".", "\n"),
        max_length: int = 512,
        batch_size: int = 50,
        target: str | Callable[[str], int] | None = None,
        convention: Literal["paper", "released"] = "paper",
        mask: Literal["bidirectional", "causal"] = "bidirectional",
        variation: float = 90,
        gap: float = 90,
        window: int = 150,
        epochs: int | None = None,
        learning_rate: float | None = None,
        train_batch: int | None = None,
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        _check_rate(rate)
        for name, value, allowed in (
            ("token_to_word", token_to_word, ("mean", "first")),
            ("cut", cut, ("percentile", "exact")),
            ("convention", convention, ("paper", "released")),
            ("mask", mask, ("bidirectional", "causal")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")
        if isinstance(force_tokens, str) or not all(isinstance(t, str) and t for t in force_tokens):
            raise ValueError(f"force_tokens must be a list of texts that are not empty, got {force_tokens!r}")
        if len(force_tokens) > self._MAX_FORCED:
            raise ValueError(f"at most {self._MAX_FORCED} tokens can be forced, got {len(force_tokens)}")
        if max_length < 3 or batch_size < 1:
            raise ValueError(f"max_length must be at least 3 and batch_size 1, got {max_length} and {batch_size}")
        if isinstance(model, torch.nn.Module) and tokenizer is None:
            raise ValueError("a model given as a module needs its tokenizer: LLMLingua2(model, tokenizer=...)")
        self.model, self.tokenizer, self.rate, self.force_tokens = model, tokenizer, rate, tuple(force_tokens)
        self.force_digits, self.drop_consecutive, self.token_to_word = force_digits, drop_consecutive, token_to_word
        self.cut, self.chunk_ends, self.max_length, self.batch_size = cut, tuple(chunk_ends), max_length, batch_size
        self.target, self.convention, self.mask = target, convention, mask
        self.variation, self.gap, self.window = variation, gap, window
        self.epochs, self.learning_rate, self.train_batch = epochs, learning_rate, train_batch
        self.device, self.seed = device, seed
        self._cost: dict[str, int] = {}
        self._count = self._counter(target)
        if model is not None:
            self._load(model, tokenizer)

    # Weights --------------------------------------------------------------------------------------------------------

    def _load(self, model: Any, tokenizer: Any) -> None:
        if not isinstance(model, torch.nn.Module):
            from transformers import AutoModelForTokenClassification, AutoTokenizer

            tokenizer = tokenizer or AutoTokenizer.from_pretrained(str(model), use_fast=True)
            model = AutoModelForTokenClassification.from_pretrained(str(model))
        if model.config.num_labels != 2:
            raise ValueError(f"the token classifier must have 2 labels (1 = keep), got {model.config.num_labels}")
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self.model_, self.tokenizer_ = model.to(device).eval(), tokenizer
        self._prepare_tokens()

    def _prepare_tokens(self) -> None:
        """Add tokens that stand for forced ones that the tokenizer would split, and read the vocabulary's marks."""
        tokenizer = self.tokenizer_
        split = [t for t in self.force_tokens if not self._is_one_token(t)]
        # The name depends on the token alone, so that a saved compressor finds the embedding it was saved with.
        self._stand_in = {t: f"[NEW{hashlib.blake2b(t.encode(), digest_size=6).hexdigest()}]" for t in split}
        if split:
            from tokenizers import AddedToken

            known = tokenizer.get_vocab()
            new = [AddedToken(n, normalized=False, special=False) for n in self._stand_in.values() if n not in known]
            tokenizer.add_tokens(new)
            if len(tokenizer) > self.model_.get_input_embeddings().num_embeddings:
                from anytask.parts.rng import isolated

                with isolated(self.seed):
                    self.model_.resize_token_embeddings(len(tokenizer))
        self.marks_ = WordMarks(tokenizer)
        own = set(self._stand_in.values())
        forced = set(self.force_tokens)
        self._is_forced = np.array(
            [
                token in own or (start and pure in forced)
                for token, pure, start in zip(self.marks_.tokens, self.marks_.pure, self.marks_.starts)
            ],
            dtype=bool,
        )
        self._is_own = np.array([token in own for token in self.marks_.tokens], dtype=bool)
        ends = {*self.chunk_ends, *(self._stand_in[e] for e in self.chunk_ends if e in self._stand_in)}
        self._is_end = np.array([token in ends for token in self.marks_.pure], dtype=bool)
        probe = tokenizer("a", add_special_tokens=False)["input_ids"]
        full = tokenizer("a")["input_ids"]
        at = next((i for i in range(len(full)) if full[i : i + len(probe)] == probe), 0) if probe else 0
        self._prefix, self._suffix = full[:at], full[at + len(probe) :]
        if self.convention == "released":  # it writes BERT's names, which other vocabularies read as unknown tokens
            self._prefix, self._suffix = ([tokenizer.convert_tokens_to_ids(t)] for t in ("[CLS]", "[SEP]"))

    def _is_one_token(self, text: str) -> bool:
        tokens = self.tokenizer_.tokenize(text)
        bare = tokens[0].lstrip("\u2581" + _BYTE_SPACES) if len(tokens) == 1 else ""
        return bare == text or (len(tokens) == 1 and self.convention == "released")

    @property
    def kind(self) -> str:
        """Kind of model: ``tiny`` if trained here from scratch, else ``local``."""
        return "tiny" if self.model is None else "local"

    def fit(
        self,
        words: Sequence[Sequence[str]] | Distilled,
        labels: Sequence[Sequence[bool]] | None = None,
        *,
        target_accuracy: float | None = None,
        folder: str | os.PathLike[str] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> LLMLingua2:
        """Train the classifier on words and keep-labels.

        Parameters
        ----------
        words : sequence of sequences of str, or Distilled
            Words of each text; or the annotated and filtered compressions of a chat model.
        labels : sequence of sequences of bool
            Whether each word is kept.
        target_accuracy : float, optional
            Stop once the validation accuracy reaches it.
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
            target_accuracy=target_accuracy,
            seed=self.seed,
        )
        trainer.train(model, tokenizer, words, labels, folder=folder, progress=progress)
        self.trainer_ = trainer
        self._load(model, tokenizer)
        return self

    def distill(self, chat: Any, texts: Sequence[str], **options: Any) -> LLMLingua2:
        """Have a chat model compress ``texts``, and train on what passes the filters.

        ``options`` go to :func:`~anytask.prompts.llmlingua2_training.distill`; the data set stays in ``distilled_``.
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
        names = (
            *("rate", "force_tokens", "force_digits", "drop_consecutive", "token_to_word", "cut", "chunk_ends"),
            *("max_length", "batch_size", "convention", "mask", "variation", "gap", "window", "seed"),
        )
        settings: dict[str, Any] = {name: getattr(self, name) for name in names}
        settings["target"] = self.target if isinstance(self.target, str) else None
        (folder / "llmlingua2.json").write_text(json.dumps(settings), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **settings: Any) -> LLMLingua2:
        """Read what :meth:`save` wrote; ``settings`` replace the saved ones."""
        path = Path(folder) / "llmlingua2.json"
        if not path.is_file():
            raise FileNotFoundError(f"no saved LLMLingua2 in {folder}: {path.name} is missing")
        return cls(str(folder), **{**json.loads(path.read_text(encoding="utf-8")), **settings})

    def _require_model(self) -> None:
        if not hasattr(self, "model_"):
            raise ValueError("this LLMLingua2 has no weights yet: give model=..., or call fit(words, labels) first")

    # Counting -------------------------------------------------------------------------------------------------------

    def _counter(self, target: str | Callable[[str], int] | None) -> Callable[[str], int] | None:
        if target is None or callable(target):
            return target
        try:
            import tiktoken
        except ImportError as error:
            raise ImportError(f"target={target!r} needs tiktoken: pip install tiktoken") from error
        try:
            encoding = tiktoken.encoding_for_model(target)
        except KeyError:
            encoding = tiktoken.get_encoding(target)
        return lambda text: len(encoding.encode_ordinary(text))

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text by the target tokenizer."""
        if self._count is not None:
            return self._count(text)
        self._require_model()
        return len(self.tokenizer_(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _costs(self, words: Sequence[str]) -> np.ndarray:
        """Tokens of each word; a word is counted once and remembered."""
        assert self._count is not None
        if len(self._cost) > 1_000_000:
            self._cost.clear()
        new = {word for word in words if word not in self._cost}
        self._cost.update((word, self._count(word)) for word in new)
        return np.array([self._cost[word] for word in words], dtype=np.int64)

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
        self._require_model()
        contexts = _contexts(text)
        rate = self._rate(rate, target_tokens, threshold)
        origin = [self.count_tokens(context) for context in contexts]
        if rate >= 1 and target_tokens is None and threshold is None and not context_filter:
            return self._unchanged(contexts, origin)
        chunks = self._classify([contexts])[0]
        if question:
            _condition(chunks, question)
        keep = list(range(len(contexts)))
        if context_filter and len(contexts) > 1:
            share = self._context_share(
                rate, target_tokens, token_filter, context_rate, context_tokens, n_contexts, sum(origin), len(contexts)
            )
            keep = self._best_contexts(chunks, len(contexts), share, force_contexts)
        if target_tokens is not None:
            rate = min(target_tokens / max(1, sum(origin[i] for i in keep)), 1.0)
        reserved = [chunk for chunk in chunks if chunk.context in keep]
        if (rate >= 1 and threshold is None) or not token_filter:
            kept = [np.ones(len(chunk.words), dtype=bool) for chunk in reserved]
        else:
            kept = self._select(reserved, rate, threshold)
        return self._render(contexts, origin, chunks, reserved, kept, keep)

    def compress_many(
        self,
        texts: Sequence[str],
        rate: float | None = None,
        *,
        dynamic: Literal["mean", "pooled"] | None = None,
        threshold: float | None = None,
        progress: Callable[[float], None] | None = None,
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
        self._require_model()
        if isinstance(texts, str):
            raise TypeError("compress_many takes a list of texts; for one text use compress")
        if dynamic not in (None, "mean", "pooled"):
            raise ValueError(f"dynamic must be None, 'mean' or 'pooled', got {dynamic!r}")
        rate = self._rate(rate, None, threshold)
        contexts = [_contexts(text) for text in texts]
        origin = [[self.count_tokens(context) for context in prompt] for prompt in contexts]
        if rate >= 1 and threshold is None:
            return [self._unchanged(prompt, counts) for prompt, counts in zip(contexts, origin)]
        groups = self._classify(contexts, progress)
        rates = [rate] * len(groups)
        if dynamic == "mean":
            means = np.array([np.concatenate([c.p for c in g]).mean() if g else 0.0 for g in groups])
            rates = np.clip(rate * means / max(float(means.mean()), 1e-12), 0.0, 1.0).tolist()
        if dynamic == "pooled":
            flat = self._select_pooled([chunk for group in groups for chunk in group], rate)
            masks = iter(flat)
            kept = [[next(masks) for _ in group] for group in groups]
        else:
            kept = [self._select(group, r, threshold) for group, r in zip(groups, rates)]
        return [self._render(p, o, g, g, k, [0]) for p, o, g, k in zip(contexts, origin, groups, kept)]

    def _rate(self, rate: float | None, target_tokens: int | None, threshold: float | None) -> float:
        rate = self.rate if rate is None else rate
        _check_rate(rate)
        if target_tokens is not None and target_tokens < 0:
            raise ValueError(f"target_tokens must not be negative, got {target_tokens}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a probability in [0, 1], got {threshold}")
        if target_tokens is not None and threshold is not None:
            raise ValueError("give target_tokens or threshold, not both")
        return rate

    def _classify(
        self, prompts: Sequence[Sequence[str]], progress: Callable[[float], None] | None = None
    ) -> list[list[_Chunk]]:
        """Tokenise, cut into chunks, classify in batches of similar length, and merge tokens to words."""
        flat = [context for prompt in prompts for context in prompt]
        prepared = self._tokenise(flat)
        jobs = [(t, a, b) for t in prepared for a, b in t.chunks]
        order = sorted(range(len(jobs)), key=lambda i: jobs[i][2] - jobs[i][1])
        probabilities: list[np.ndarray] = [np.zeros(0)] * len(jobs)
        room = self.max_length * self.batch_size
        pad, device = self.tokenizer_.pad_token_id or 0, next(self.model_.parameters()).device
        extra = len(self._prefix) + len(self._suffix)
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and end - start < self.batch_size:
                shortest, longest = (jobs[order[i]][2] - jobs[order[i]][1] for i in (start, end))
                if (longest + extra) * (end - start + 1) > room or longest > 1.25 * shortest + 8:
                    break
                end += 1
            batch = order[start:end]
            width = min(extra + jobs[batch[-1]][2] - jobs[batch[-1]][1], self.max_length)
            ids = np.full((len(batch), width), pad, dtype=np.int64)
            mask = np.zeros((len(batch), width), dtype=np.int64)
            for row, i in enumerate(batch):
                prepared_text, a, b = jobs[i]
                n = min(extra + b - a, self.max_length)  # a chunk that is a token longer loses its suffix
                ids[row, :n] = np.concatenate([self._prefix, prepared_text.ids[a:b], self._suffix])[:n]
                mask[row, :n] = 1
            with torch.inference_mode():
                inputs = torch.from_numpy(ids).to(device)
                attention = torch.from_numpy(mask).to(device)
                logits = self.model_(input_ids=inputs, attention_mask=attention).logits
                keep = logits.float().softmax(dim=-1)[..., 1].cpu().numpy()  # (batch, width)
            for row, i in enumerate(batch):
                at = len(self._prefix)
                probabilities[i] = keep[row, at : at + jobs[i][2] - jobs[i][1]].astype(np.float64)
            start = end
            if progress is not None:
                progress(start / len(order))
        results = iter(probabilities)
        texts = iter(prepared)
        out: list[list[_Chunk]] = []
        for prompt in prompts:
            group: list[_Chunk] = []
            for context in range(len(prompt)):
                prepared_text = next(texts)
                group += self._merge(prepared_text, context, [next(results) for _ in prepared_text.chunks])
            out.append(group)
        return out

    def _tokenise(self, contexts: Sequence[str]) -> list[_Text]:
        if self._stand_in:
            clash = [name for name in self._stand_in.values() if any(name in context for context in contexts)]
            if clash:
                raise ValueError(f"the text contains {clash[0]!r}, which stands for a forced token; rename it first")
            forced = sorted(self._stand_in, key=len, reverse=True)
            whole = self.convention == "paper"
            pattern = "|".join(
                ("(?<!\\w)" if whole and t[0].isalnum() else "")
                + re.escape(t)
                + ("(?!\\w)" if whole and t[-1].isalnum() else "")
                for t in forced
            )
            replace = re.compile(pattern)
            contexts = [replace.sub(lambda m: self._stand_in[m.group()], context) for context in contexts]
        encoded = self.tokenizer_.backend_tokenizer.encode_batch(list(contexts), add_special_tokens=False)
        out = []
        for text, encoding in zip(contexts, encoded):
            ids = np.array(encoding.ids, dtype=np.int64)
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            out.append(_Text(text, ids, offsets, self._cut(text, ids, offsets)))
        return out

    def _cut(self, text: str, ids: np.ndarray, offsets: np.ndarray) -> list[tuple[int, int]]:
        """Cut a token sequence into chunks that fit, each ending at the last chunk end inside it (if there is one)."""
        n, size = len(ids), self.max_length - len(self._prefix) - len(self._suffix)
        if n <= size:
            return [(0, n)] if n else []
        end = self._is_end[ids]
        if "\n" in self.chunk_ends:
            newlines = np.cumsum(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4") == 10)
            seen = np.concatenate([[0], newlines])
            end[:-1] |= seen[offsets[1:, 0]] > seen[offsets[:-1, 1]]
        last = np.maximum.accumulate(np.where(end, np.arange(n), -1))  # last chunk end at or before a token
        chunks, start = [], 0
        extra = int(self.convention == "released")
        while start < n:
            if n - start <= size:
                chunks.append((start, n))
                break
            stop = start + size + extra
            if last[stop - 1] > start:
                stop = int(last[stop - 1]) + 1
            chunks.append((start, min(stop, n)))
            start = chunks[-1][1]
        return chunks

    def _merge(self, prepared: _Text, context: int, probabilities: Sequence[np.ndarray]) -> list[_Chunk]:
        """Merge the tokens of each chunk to words."""
        if not len(prepared.ids):
            return []
        text = prepared.text
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        blank = np.isin(points, [int(c) for c in np.unique(points) if chr(c).isspace()])
        n = len(points)
        right = np.minimum.accumulate(np.where(blank, n, np.arange(n))[::-1])[::-1]  # next visible character
        left = np.maximum.accumulate(np.where(blank, -1, np.arange(n)))  # last visible character
        names = {name: token for token, name in self._stand_in.items()}
        out = []
        previous = 0  # where the word before ended, in characters
        for (a, b), p in zip(prepared.chunks, probabilities):
            ids, offsets = prepared.ids[a:b], prepared.offsets[a:b]
            starts = self.marks_.starts[ids].copy()
            starts[0] = True
            starts[1:] |= self._is_own[ids[:-1]]  # what follows a stand-in is not part of it
            first = np.flatnonzero(starts)
            size = np.diff(np.append(first, b - a))
            begin, finish = offsets[first, 0], offsets[first + size - 1, 1]
            begin = np.where(begin < n, right[np.minimum(begin, n - 1)], n)
            finish = np.where(finish > 0, left[np.maximum(finish - 1, 0)] + 1, 0)
            # A mark that stands alone may claim the character after it, which is the next word's.
            after = n if b == len(prepared.ids) else int(right[min(int(prepared.offsets[b, 0]), n - 1)])
            finish = np.minimum(finish, np.append(begin[1:], after))
            words = [text[s:e] for s, e in zip(begin.tolist(), np.maximum(begin, finish).tolist())]
            gaps = []
            for s, e, word in zip(begin.tolist(), finish.tolist(), words):
                gaps.append(bool(word) and s > previous and bool(blank[previous:s].any()))
                previous = max(previous, e)
            if names:
                words = [names.get(word, word) if word[:1] == "[" else word for word in words]
            forced = self._is_forced[ids]
            digits = self.marks_.digits[ids] if self.force_digits else np.zeros(len(ids), dtype=bool)
            certain = np.where(forced & starts | digits, 1.0, p)
            if self.token_to_word == "mean":
                mean, mean_forced = (np.add.reduceat(q, first) / size for q in (p, certain))
            else:
                mean, mean_forced = p[first], certain[first]
            if self.convention == "paper":
                sure = forced[first]
                if self.force_digits:
                    sure = sure | np.array([re.search(r"\d", word) is not None for word in words])
                mean_forced = np.where(sure, 1.0, mean_forced)
            tokens, pure = self.marks_.tokens, self.marks_.pure
            marked: list[str] = []
            if self.convention == "released":
                pieces = ids.tolist()
                for i, k in zip(first.tolist(), size.tolist()):
                    whole = tokens[pieces[i]] + "".join(pure[t] for t in pieces[i + 1 : i + k])
                    marked.append(names.get(whole, whole))
            if self._count is None:
                cost = size
            elif self.convention == "released":
                cost = self._costs(marked)
            else:
                cost = self._costs([f" {word}" if gap else word for word, gap in zip(words, gaps)])
            out.append(_Chunk(context, words, gaps, marked, mean, mean_forced, cost))
        return out

    # Selection ------------------------------------------------------------------------------------------------------

    def _select(self, chunks: Sequence[_Chunk], rate: float, threshold: float | None) -> list[np.ndarray]:
        """Decide for each word of each chunk whether it stays."""
        reduce = max(0.0, 1 - rate)
        p = [self._without_repeats(c, reduce if threshold is None else None, threshold) for c in chunks]
        if threshold is not None:
            kept = [q >= threshold for q in p]
        elif self.cut == "exact":
            kept = _most_probable(p, [chunk.cost for chunk in chunks], rate)
        else:
            kept = []
            for q, chunk in zip(p, chunks):
                tau = percentile_threshold(q, chunk.cost, reduce)
                kept.append((q > tau) | ((q == tau) & (tau == 1.0)))
        if self.drop_consecutive:
            for chunk, mask in zip(chunks, kept):
                before = None
                for i in np.flatnonzero(mask):
                    if chunk.words[i] in self.force_tokens and chunk.words[i] == before:
                        mask[i] = False
                    else:
                        before = chunk.words[i]
        return kept

    def _select_pooled(self, chunks: Sequence[_Chunk], rate: float) -> list[np.ndarray]:
        if not chunks:
            return []
        p, cost = [chunk.forced_p for chunk in chunks], [chunk.cost for chunk in chunks]
        if self.cut == "exact":
            return _most_probable(p, cost, rate)
        tau = percentile_threshold(np.concatenate(p), np.concatenate(cost), 1 - rate)
        return [(q > tau) | ((q == tau) & (tau == 1.0)) for q in p]

    def _without_repeats(self, chunk: _Chunk, reduce: float | None, threshold: float | None) -> np.ndarray:
        """Return the words' probabilities, 0 for a forced token that recurs with nothing kept in between."""
        if not self.drop_consecutive:
            return chunk.forced_p
        p = chunk.forced_p.copy()
        tau = threshold if reduce is None else float(np.percentile(p, int(100 * reduce)))
        assert tau is not None
        between, previous = False, None
        for i, word in enumerate(chunk.words):
            if word in self.force_tokens:
                if between:
                    between = False
                elif word == previous:
                    p[i] = 0.0
                previous = word
            else:
                between |= bool(p[i] > tau)
        return p

    def _context_share(
        self,
        rate: float,
        target_tokens: int | None,
        token_filter: bool,
        context_rate: float | None,
        context_tokens: int | None,
        n_contexts: int | None,
        origin: int,
        n: int,
    ) -> float:
        """Return r_c, the share of the contexts to keep."""
        if context_rate is not None:
            _check_rate(context_rate)
        if n_contexts is not None:
            return min(n_contexts / n, 1.0)
        if context_tokens is not None:
            return min(context_tokens / max(1, origin), 1.0)
        if context_rate is not None:
            return context_rate
        if target_tokens is not None:
            return min((2 if token_filter else 1) * target_tokens / max(1, origin), 1.0)
        return (rate + 1) / 2 if token_filter else rate

    def _best_contexts(self, chunks: Sequence[_Chunk], n: int, share: float, force: Sequence[int]) -> list[int]:
        wrong = [i for i in force if not 0 <= i < n]
        if wrong:
            raise ValueError(f"force_contexts must be indices in [0, {n}), got {wrong}")
        p = [[chunk.p for chunk in chunks if chunk.context == i] for i in range(n)]
        score = np.array([np.concatenate(parts).mean() if parts else 0.0 for parts in p])
        tau = np.percentile(score, min(max(int(100 * (1 - share)), 0), 100))
        return [i for i in range(n) if score[i] >= tau or i in force]

    # Output ---------------------------------------------------------------------------------------------------------

    def _render(
        self,
        contexts: Sequence[str],
        origin: Sequence[int],
        chunks: Sequence[_Chunk],
        reserved: Sequence[_Chunk],
        kept: Sequence[np.ndarray],
        keep: Sequence[int],
    ) -> Compression:
        mask_of = {id(chunk): mask for chunk, mask in zip(reserved, kept)}
        words: list[str] = []
        labels: list[bool] = []
        probabilities: list[float] = []
        owner: list[int] = []
        texts: dict[int, str] = {}
        by_context: dict[int, list[_Chunk]] = {i: [] for i in range(len(contexts))}
        for chunk in chunks:
            by_context[chunk.context].append(chunk)
        for i, group in by_context.items():
            parts: list[str] = []
            whole, last_kept = True, True
            for chunk in group:
                mask = mask_of.get(id(chunk))
                flags = [False] * len(chunk.words) if mask is None else mask.tolist()
                for word, gap, flag, p in zip(chunk.words, chunk.gaps, flags, chunk.forced_p.tolist()):
                    if not word:
                        continue
                    words.append(word)
                    labels.append(flag)
                    probabilities.append(p)
                    owner.append(i)
                    if flag:
                        fused = not last_kept and parts and word[0].isalnum() and parts[-1][-1:].isalnum()
                        parts.append(f" {word}" if parts and (gap or fused) else word)
                    whole, last_kept = whole and flag, flag
            if i in keep:
                texts[i] = contexts[i] if whole else "".join(parts)
        joined = "\n\n".join(texts.values())
        return Compression(
            *(joined, tuple(texts.values()), tuple(words), tuple(labels), tuple(probabilities), tuple(owner)),
            origin_tokens=sum(origin),
            compressed_tokens=sum(self.count_tokens(text) for text in texts.values()),
        )

    def _unchanged(self, contexts: Sequence[str], origin: Sequence[int]) -> Compression:
        words = [(word, i) for i, context in enumerate(contexts) for word in re.findall(r"\w+|[^\w\s]", context)]
        n = len(words)
        return Compression(
            *("\n\n".join(contexts), tuple(contexts), tuple(word for word, _ in words), (True,) * n, (1.0,) * n),
            contexts=tuple(i for _, i in words),
            origin_tokens=sum(origin),
            compressed_tokens=sum(origin),
        )


def _check_rate(rate: float) -> None:
    if not 0 < rate <= 1:
        raise ValueError(f"rate is the share of tokens to keep, in (0, 1], got {rate}")


def _contexts(text: str | Sequence[str]) -> list[str]:
    contexts = [text] if isinstance(text, str) else list(text)
    for i, context in enumerate(contexts):
        if not isinstance(context, str):
            raise TypeError(f"context {i} must be a text, got {type(context).__name__}")
    return contexts


def _most_probable(p: Sequence[np.ndarray], cost: Sequence[np.ndarray], rate: float) -> list[np.ndarray]:
    """Keep the most probable words, over all chunks, while they fit into the rate's tokens; certain words always."""
    if not p:
        return []
    q, c = np.concatenate(p), np.concatenate(cost)
    order = np.argsort(-q, kind="stable")
    fits = np.cumsum(c[order]) <= math.floor(rate * c.sum() + 0.5)
    keep = np.zeros(len(q), dtype=bool)
    keep[order] = fits | (q[order] >= 1.0)
    return np.split(keep, np.cumsum([len(part) for part in p])[:-1])


def _condition(chunks: Sequence[_Chunk], question: str) -> None:
    """Raise the probability of the question's words: p <- p^(1 - 1/n) for a word that occurs n times."""
    asked = {word.casefold() for word in re.findall(r"\w+", question)}
    spelled = [[word.casefold() for word in chunk.words] for chunk in chunks]
    counts = Counter(word for words in spelled for word in words if word in asked)
    for chunk, words in zip(chunks, spelled):
        exponent = np.array([1 - 1 / counts[word] if word in asked else 1.0 for word in words])
        chunk.p = chunk.p**exponent
        chunk.forced_p = np.where(chunk.forced_p >= 1.0, 1.0, chunk.forced_p**exponent)
