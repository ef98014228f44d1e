"""How LLMLingua-2's classifier is made: compressions by a chat model, word labels from them, filters, training."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anytask.core.checks import require_finite
from anytask.core.persistence import load_tree, save_tree
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive, isolated
from anytask.core.settings import Settings, real, whole
from anytask.lm.protocol import ChatRequest

logger = logging.getLogger(__name__)

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")

#: What the chat model is asked to do; ``{text}`` is the chunk.
INSTRUCTION = """Compress the text below by deleting words, so that another language model can still tell
all it says.

Rules:
- You may only delete words. Keep the order of those that stay.
- Never change a word, its ending or its spelling; never abbreviate; never add a word, a symbol or a comment.
- Delete every word that the reader can do without, and as many as you can.

Answer with the shortened text alone.

Text:
{text}"""


# A. Distillation ----------------------------------------------------------------------------------------------------


def chunk_text(text: str, encode: Callable[[str], Sequence[Any]], max_tokens: int = 512) -> list[str]:
    """Cut a document into chunks of at most ``max_tokens`` that end at a full stop or a newline where there is one.

    Longer inputs make a chat model delete too much. The chunks joined are the document.

    Parameters
    ----------
    text : str
    encode : callable
        Text -> token ids of the chat model's tokenizer.
    max_tokens : int, default 512

    Examples
    --------
    >>> chunk_text("One two. Three four five. Six", str.split, max_tokens=3)
    ['One two.', ' Three four five.', ' Six']
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    chunks = []
    while len(encode(text)) > max_tokens:
        low, high = 1, len(text)  # the longest prefix that fits, by bisection over the token count
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(encode(text[:middle])) <= max_tokens else (low, middle - 1)
        end = max(text.rfind(".", 0, low), text.rfind("\n", 0, low)) + 1
        end = end or low
        chunks.append(text[:end])
        text = text[end:]
    if text.strip():
        chunks.append(text)
    return chunks


def split_words(text: str) -> list[str]:
    """Return words and punctuation marks, one by one.

    Examples
    --------
    >>> split_words("Don't go, Bob!")
    ["Don't", 'go', ',', 'Bob', '!']
    """
    return _WORD.findall(text)


def casefold_lemma(words: Sequence[str]) -> list[str]:
    """Fold case, and the plainest English endings, so that small changes of inflection still align.

    Examples
    --------
    >>> casefold_lemma(["Cities", "walked", "walks", "glass"])
    ['city', 'walk', 'walk', 'glass']
    """
    out = []
    for word in words:
        w = word.casefold().replace("\u2019", "'").removesuffix("'s")
        if len(w) > 4 and w.endswith("ies"):
            w = w[:-3] + "y"
        elif len(w) > 4 and w.endswith("ing"):
            w = w[:-3]
        elif len(w) > 4 and w.endswith("ed"):
            w = w[:-2]
        elif len(w) > 3 and w.endswith("s") and not w.endswith(("ss", "us", "is")):
            w = w[:-1]
        out.append(w)
    return out


def spacy_lemma(model: str = "en_core_web_sm") -> Callable[[Sequence[str]], list[str]]:
    """Return a lemmatiser made of a spaCy pipeline, to be given as ``lemmatize``.

    Raises
    ------
    ImportError
        If spaCy or the pipeline is not installed.
    """
    try:
        import spacy

        pipeline = spacy.load(model, disable=["parser", "ner"])
    except (ImportError, OSError) as error:
        raise ImportError(f"spacy_lemma needs spaCy: pip install spacy && python -m spacy download {model}") from error
    from spacy.tokens import Doc

    return lambda words: [token.lemma_ for token in pipeline(Doc(pipeline.vocab, words=list(words)))]


@dataclass(frozen=True)
class Alignment:
    """Keep-labels of an original's words, and how well the compression fits the original.

    ``variation_rate`` is the share of the compression's words that the original lacks, ``hitting_rate`` the number of
    the others over the original's words, ``matching_rate`` the share of labelled words, and ``alignment_gap`` the
    difference of the last two: what the window missed.
    """

    labels: tuple[bool, ...]
    variation_rate: float
    hitting_rate: float
    matching_rate: float

    @property
    def alignment_gap(self) -> float:
        return self.hitting_rate - self.matching_rate


def annotate(original: Sequence[str], compressed: Sequence[str], window: int = 150) -> Alignment:
    """Find each compressed word in the original, near the place of the one before it, each place used once.

    Parameters
    ----------
    original, compressed : sequence of str
        Words, lemmatised if inflections may differ; compared without case.
    window : int, default 150
        How far to look on either side (400 in the released recipe).

    Examples
    --------
    >>> original = "the cat sat on the mat the end".split()
    >>> [i for i, kept in enumerate(annotate(original, "cat on mat end".split(), window=4).labels) if kept]
    [1, 3, 5, 7]
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    o, q = [word.casefold() for word in original], [word.casefold() for word in compressed]
    n, labels, p = len(o), [False] * len(original), 0
    vocabulary = set(o)
    hits = sum(word in vocabulary for word in q)
    for word in q:
        if word not in vocabulary:
            continue
        for i in range(window):
            right, left = min(p + i, n - 1), max(p - i, 0)
            if o[right] == word and not labels[right]:
                labels[right] = True
                # After a far jump forward only half the window is walked, so that what was jumped over stays in reach.
                p = p + window // 2 if right - p > window // 2 else right
                break
            if o[left] == word and not labels[left]:
                labels[left] = True
                p = left
                break
    return Alignment(
        tuple(labels),
        variation_rate=1 - hits / len(q) if q else 0.0,
        hitting_rate=hits / n if n else 0.0,
        matching_rate=sum(labels) / n if n else 0.0,
    )


def quality_filter(alignments: Sequence[Alignment], variation: float = 90, gap: float = 90) -> list[int]:
    """Return the indices of the alignments worth training on.

    Drops those whose variation rate reaches the ``variation``-th percentile, and of the rest those whose alignment gap
    reaches the ``gap``-th. A percentile of 100 drops nothing. Those at the minimum are kept in any case: where most
    compressions are perfect, perfect ones are not thrown away for being tied.

    Examples
    --------
    >>> good, bad = Alignment((True,), 0.0, 1.0, 1.0), Alignment((True,), 0.5, 0.5, 0.5)
    >>> quality_filter([good] * 8 + [bad, bad])
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    kept = list(range(len(alignments)))
    for percentile, name in ((variation, "variation_rate"), (gap, "alignment_gap")):
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentiles lie in [0, 100], got {percentile}")
        if not kept or percentile == 100:
            continue
        values = np.array([getattr(alignments[i], name) for i in kept])
        limit = np.percentile(values, percentile)
        kept = [i for i, value in zip(kept, values) if value < limit or value == values.min()]
    return kept


@dataclass
class Distilled:
    """A data set for the classifier: words and labels of the chunks that passed the filters.

    ``alignments`` and ``compressions`` cover all chunks; ``kept`` are the indices of those that passed.
    """

    words: list[list[str]]
    labels: list[list[bool]]
    chunks: list[str] = field(default_factory=list)
    compressions: list[str] = field(default_factory=list)
    alignments: list[Alignment] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    kind: str | None = None


def label_pairs(
    chunks: Sequence[str],
    compressions: Sequence[str],
    *,
    window: int = 150,
    variation: float = 90,
    gap: float = 90,
    lemmatize: Callable[[Sequence[str]], list[str]] = casefold_lemma,
    kind: str | None = None,
) -> Distilled:
    """Turn (chunk, compression) pairs into a training set: words, alignment, filters.

    Commas are left out of the alignment, and labelled as dropped.

    Parameters
    ----------
    chunks, compressions : sequences of str, same length
    window, variation, gap
        As in :func:`annotate` and :func:`quality_filter`.
    lemmatize : callable, default :func:`casefold_lemma`
        Words -> comparison forms, same length; :func:`spacy_lemma` follows the paper.
    """
    if len(chunks) != len(compressions):
        raise ValueError(f"there must be one compression per chunk, got {len(compressions)} for {len(chunks)}")
    words, labels, alignments = [], [], []
    for chunk, compression in zip(chunks, compressions):
        o, q = split_words(chunk), [word for word in split_words(compression) if word != ","]
        places = [i for i, word in enumerate(o) if word != ","]
        alignment = annotate(lemmatize([o[i] for i in places]), lemmatize(q), window)
        flags = [False] * len(o)
        for i, flag in zip(places, alignment.labels):
            flags[i] = flag
        words.append(o)
        labels.append(flags)
        alignments.append(alignment)
    kept = [i for i in quality_filter(alignments, variation, gap) if words[i]]
    return Distilled(
        [words[i] for i in kept], [labels[i] for i in kept], list(chunks), list(compressions), alignments, kept, kind
    )


def distill(
    chat: Any,
    texts: Sequence[str],
    *,
    encode: Callable[[str], Sequence[Any]] = split_words,
    max_tokens: int = 512,
    instruction: str = INSTRUCTION,
    temperature: float = 0.3,
    top_p: float = 1.0,
    seed: int = 0,
    max_concurrency: int = 8,
    **labelling: Any,
) -> Distilled:
    """Ask a chat model to compress texts, and make a training set of its answers.

    Parameters
    ----------
    chat : ChatModel
    texts : sequence of str
    encode : callable, default words
        The chat model's tokenizer, for the chunks' length.
    max_tokens : int, default 512
        Length of a chunk.
    instruction : str
        With the place ``{text}``.
    temperature, top_p : float, default 0.3 and 1.0
    seed : int, default 0
        Each chunk's request gets a seed derived from it, so an answer does not depend on the order of arrival.
    **labelling
        Passed to :func:`label_pairs`.

    Raises
    ------
    ValueError
        If the instruction lacks ``{text}`` or there is no text.
    """
    if "{text}" not in instruction:
        raise ValueError("the instruction must contain the place {text}")
    chunks = [chunk for text in texts for chunk in chunk_text(text, encode, max_tokens)]
    if not chunks:
        raise ValueError("there is no text to distil from")
    requests = [
        ChatRequest(
            messages=({"role": "user", "content": instruction.replace("{text}", chunk.strip())},),
            temperature=temperature,
            top_p=top_p,
            max_tokens=2 * max_tokens,
            seed=derive(seed, "distil", i) % 2**31,
            tag="distil",
        )
        for i, chunk in enumerate(chunks)
    ]
    replies = chat.chat_many(requests, max_concurrency=max_concurrency)
    return label_pairs(chunks, [reply.text for reply in replies], kind=getattr(chat, "kind", None), **labelling)


# B. Training --------------------------------------------------------------------------------------------------------


def small_encoder(
    words: Sequence[Sequence[str]],
    *,
    causal: bool = False,
    width: int = 32,
    layers: int = 2,
    heads: int = 4,
    max_length: int = 512,
    seed: int = 0,
) -> tuple[nn.Module, Any]:
    """Return a fresh token classifier and a tokenizer whose vocabulary are the training texts' words.

    Parameters
    ----------
    words : sequence of sequences of str
    causal : bool, default False
        Let each position see the ones before it only, as in a decoder.
    width, layers, heads : int, default 32, 2 and 4
    max_length : int, default 512
    seed : int, default 0
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = sorted({piece for text in words for word in text for piece in re.findall(r"\w+|[^\w\s]+", word)})
    vocabulary = {token: i for i, token in enumerate([*special, *(p for p in pieces if p not in special)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{f"{s[1:-1].lower()}_token": s for s in special},
        model_max_length=max_length,
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=max_length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        is_decoder=causal,
        use_cache=False,
    )
    config.num_labels = 2
    with isolated(seed):
        model = BertForTokenClassification(config)
        # Neighbours are told apart by their positions: at the usual scale, 0.02, a net this small learns too late.
        nn.init.normal_(model.bert.embeddings.position_embeddings.weight, std=0.5)
    return model, tokenizer


class TokenClassifierTrainer(Settings):
    """Train all weights of a token classifier on word labels by mean cross-entropy, and keep the best epoch.

    Parameters
    ----------
    epochs, lr, batch_size : default 10, 1e-5 and 10, the paper's values
    max_length : int, default 512
        Longer texts are cut.
    validation : float in (0, 1), default 0.2
        Share of the texts that chooses the epoch, by accuracy per word.
    target_accuracy : float, optional
        Stop early once the validation accuracy reaches it.
    seed : int, default 0

    Attributes
    ----------
    accuracies_ : list of float
        Validation accuracy after each epoch.
    steps_ : int
    best_epoch_ : int
    """

    epochs: int = whole(10, "passes over the texts")
    lr: float = real(1e-5, "Adam's step size", above=0)
    batch_size: int = whole(10, "texts in a batch")
    max_length: int = whole(512, "tokens of a text, special tokens included", at_least=3)
    validation: float = real(0.2, "share of the texts that chooses the epoch", above=0, below=1)
    target_accuracy: float | None = real(None, "stop at this validation accuracy, None: never", above=0, optional=True)
    seed: int = whole(0, "everything random follows from it", at_least=0)

    def train(
        self,
        model: nn.Module,
        tokenizer: Any,
        words: Sequence[Sequence[str]],
        labels: Sequence[Sequence[bool]],
        *,
        folder: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Train ``model`` in place; ``folder`` keeps a checkpoint per epoch from which a repeated call goes on."""
        self._check(words, labels)
        examples = self._encode(tokenizer, words, labels)
        order = np.random.default_rng(derive(self.seed, "split")).permutation(len(examples))
        held = max(1, round(self.validation * len(examples)))
        if held >= len(examples):
            raise ValueError(f"training needs at least two texts, got {len(examples)}")
        valid, train = [examples[i] for i in order[:held]], [examples[i] for i in order[held:]]
        pad = tokenizer.pad_token_id or 0
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr, fused=True)
        share = portion(progress, 0.0, 1.0)
        self.accuracies_: list[float] = []
        self.steps_ = self.best_epoch_ = 0
        best: dict[str, torch.Tensor] = {}
        before = {k: v.detach().clone() for k, v in model.state_dict().items()}
        try:
            best = self._resume(folder, model, optimizer)
            for epoch in range(len(self.accuracies_), self.epochs):
                if self._reached():
                    break
                with isolated(derive(self.seed, "epoch", epoch)):
                    self._epoch(model, optimizer, train, pad, epoch)
                self.accuracies_.append(self._accuracy(model, valid, pad))
                if self.accuracies_[-1] == max(self.accuracies_) and self.accuracies_.count(self.accuracies_[-1]) == 1:
                    self.best_epoch_ = epoch
                    best = {k: v.detach().clone() for k, v in model.state_dict().items()}
                logger.info("epoch %d: validation accuracy %.4f", epoch, self.accuracies_[-1])
                self._checkpoint(folder, model, optimizer, best)
                share((epoch + 1) / self.epochs)
        except BaseException:
            model.load_state_dict(before)
            model.eval()
            raise
        model.load_state_dict(best)
        model.eval()
        share(1.0)

    def _check(self, words: Sequence[Sequence[str]], labels: Sequence[Sequence[bool]]) -> None:
        if not len(words) or len(words) != len(labels):
            raise ValueError(f"words and labels must be equally many and not empty, got {len(words)} and {len(labels)}")
        for i, (w, y) in enumerate(zip(words, labels)):
            if isinstance(w, str):
                raise TypeError(f"text {i}: words must be a list of words, got one text")
            if len(w) != len(y) or not len(w):
                raise ValueError(f"text {i}: it has {len(w)} words and {len(y)} labels")

    def _encode(
        self, tokenizer: Any, words: Sequence[Sequence[str]], labels: Sequence[Sequence[bool]]
    ) -> list[tuple[list[int], list[int]]]:
        """Tokenise each word by itself and copy its label to all its tokens; special tokens get label 0."""
        lexicon = sorted({word for text in words for word in text})
        pieces = dict(zip(lexicon, tokenizer(lexicon, add_special_tokens=False, verbose=False)["input_ids"]))
        prefix, suffix = special_frame(tokenizer)
        room = self.max_length - len(prefix) - len(suffix)
        examples = []
        for text, flags in zip(words, labels):
            ids = [t for word in text for t in pieces[word]][:room]
            y = [int(label) for word, label in zip(text, flags) for _ in pieces[word]][:room]
            examples.append(([*prefix, *ids, *suffix], [*[0] * len(prefix), *y, *[0] * len(suffix)]))
        return examples

    def _epoch(self, model: nn.Module, optimizer: Any, train: list[Any], pad: int, epoch: int) -> None:
        model.train()
        for batch in self._batches([len(ids) for ids, _ in train], epoch):
            logits, y = self._forward(model, [train[i] for i in batch], pad)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-100)
            require_finite(loss, f"the loss in epoch {epoch}", "lower lr")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.steps_ += 1

    def _batches(self, lengths: Sequence[int], epoch: int) -> list[np.ndarray]:
        """Return the epoch's batches in random order; within each run of 16, texts of similar length go together."""
        rng = np.random.default_rng(derive(self.seed, "order", epoch))
        order, run = rng.permutation(len(lengths)), 16 * self.batch_size
        runs = [sorted(order[i : i + run], key=lengths.__getitem__) for i in range(0, len(order), run)]
        batches = [
            np.array(part[i : i + self.batch_size]) for part in runs for i in range(0, len(part), self.batch_size)
        ]
        return [batches[i] for i in rng.permutation(len(batches))]

    @torch.no_grad()
    def _accuracy(self, model: nn.Module, valid: list[Any], pad: int) -> float:
        model.eval()
        right = total = 0
        for start in range(0, len(valid), 64):
            logits, y = self._forward(model, valid[start : start + 64], pad)
            counted = y != -100
            right += int((logits.argmax(-1) == y)[counted].sum())
            total += int(counted.sum())
        return right / total

    def _forward(self, model: nn.Module, examples: list[Any], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits, shape (b, n, 2), and labels; without padding no mask is needed, and attention is faster."""
        device = next(model.parameters()).device
        ids, mask, y = (t.to(device) for t in _batch(examples, pad))
        full = len({len(ids) for ids, _ in examples}) == 1
        return model(input_ids=ids, attention_mask=None if full else mask).logits, y

    def _reached(self) -> bool:
        return self.target_accuracy is not None and max(self.accuracies_, default=0.0) >= self.target_accuracy

    def _checkpoint(self, folder: Any, model: nn.Module, optimizer: Any, best: dict[str, torch.Tensor]) -> None:
        if folder is not None:
            save_tree(
                folder,
                {
                    "settings": self._settings(),
                    "accuracies": self.accuracies_,
                    "steps": self.steps_,
                    "best_epoch": self.best_epoch_,
                    "model": model.state_dict(),
                    "best": best,
                    "optimizer": optimizer.state_dict(),
                },
            )

    def _settings(self) -> list[Any]:
        return [self.lr, self.batch_size, self.max_length, self.validation, self.seed]

    def _resume(self, folder: Any, model: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
        if folder is None or not (Path(folder) / "state.json").is_file():
            return {}
        state = load_tree(folder)
        if state["settings"] != self._settings():
            raise ValueError(f"the checkpoint in {folder} was made with other settings; give another folder")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        self.accuracies_, self.steps_ = state["accuracies"], state["steps"]
        self.best_epoch_ = state["best_epoch"]
        return state["best"]


def special_frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before and after a text."""
    probe = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    at = next((i for i in range(len(full)) if full[i : i + len(probe)] == probe), 0) if probe else 0
    return full[:at], full[at + len(probe) :]


def _batch(
    examples: Sequence[tuple[list[int], list[int]]], pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad to the longest; padding is masked in the attention and left out of the loss (-100)."""
    width = max(len(ids) for ids, _ in examples)
    ids = torch.full((len(examples), width), pad)
    mask, y = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (tokens, labels) in enumerate(examples):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        y[row, : len(labels)] = torch.tensor(labels)
    return ids, mask, y
