"""Prompt compression: texts to be shortened to a rate, judged by gold words, or by a reader who answers from them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.settings import real, text, whole
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.options import Options
from anytask.problems.training import LoadedData, Progress, TrainingProblem

_BUILTIN = ("modifiers", "key-value")


@dataclass(frozen=True)
class CompressionItem:
    """One text, with the words that a perfect compressor keeps, and a question about it, where there are any."""

    text: str
    gold: tuple[bool, ...] | None = None
    question: str | None = None
    answer: str | None = None


class CompressionOptions(Options):
    """How much is kept, of which texts, and who reads."""

    rate: float | None = real(
        None, "share of the tokens to keep (none: the gold rate for modifiers, else 0.5)", above=0, at_most=1,
        optional=True,
    )  # fmt: skip
    lm: str | None = text(
        None, "language model that answers the questions: a folder, a Hugging Face name or tiny:NAME", optional=True
    )
    train: int = whole(1600, "training texts of a built-in language", at_least=2)
    test: int = whole(200, "test texts of a built-in language; most texts of a file", at_least=2)
    length: int = whole(48, "words of a text of the modifiers language", at_least=2)
    noise: float = real(0.05, "share of wrong training labels in the modifiers language", at_least=0, at_most=1)
    rephrased: float = real(
        0.1, "share of the key-value training texts that the scripted chat model rephrases", at_least=0, at_most=1
    )
    max_answer: int = whole(16, "most tokens of an answer", at_least=2)


@dataclass(frozen=True)
class CompressionItems:
    """The user's items; None for a built-in language, drawn anew for each seed."""

    name: str
    items: tuple[CompressionItem, ...] | None = None

    @property
    def fingerprint(self) -> str:
        """The content: it is hashed with the options."""
        return json.dumps([self.name, self.items and [[i.text, i.gold, i.question, i.answer] for i in self.items]])


@dataclass(frozen=True)
class CompressionData(LoadedData):
    """The items and the options."""

    source: CompressionItems

    @property
    def items(self) -> tuple[CompressionItem, ...] | None:
        """The user's items."""
        return self.source.items

    def facts(self) -> dict[str, Any]:
        """Return the number of texts."""
        return {} if self.items is None else {"texts": len(self.items)}


@dataclass
class _Shown:
    """A compressor that has seen the training texts, what it is tested on, and what its training came to."""

    compressor: Any
    items: list[CompressionItem]
    rate: float
    reader: Callable[[str, str], str] | None = None
    kind: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)


class PromptCompression(TrainingProblem):
    """Shorten texts by deleting words, and keep what matters.

    Built in are ``modifiers``, a language in which a modifier matters only before certain words (gold labels are known;
    the training labels have 5 % noise), and ``key-value``, documents of facts between filler words that a scripted chat
    model compresses for training (rephrasing every tenth) and a scripted reader answers questions from. Your own data:
    a .jsonl file with ``text`` and, where you have them, ``question`` and ``answer``; with ``lm``, that model reads. A
    compressor without weights of its own then uses the tiny ones that ship with the package.

    Metrics
    -------
    ``quality`` ranks: the F1 of the kept words where gold is known, else the share of exact answers; ``f1``,
    ``f1_pooled`` (one threshold for all texts), ``exact_match``, ``rate`` (achieved), ``rate_error``,
    ``tokens_per_second``, ``rephrased_kept`` (share of the rephrased training texts that passed the filters).
    """

    key: ClassVar[str] = "prompt-compression"
    title: ClassVar[str] = "Prompt compression"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("quality", "Quality"),
        Metric("f1", "F1 of the kept words"),
        Metric("f1_pooled", "F1 of the kept words, one threshold for all texts"),
        Metric("exact_match", "Exact answers from the compressed text"),
        Metric("rate", "Achieved rate", higher_is_better=False),
        Metric("rate_error", "Rate error", higher_is_better=False),
        Metric("tokens_per_second", "Speed", unit="tokens/s"),
        Metric("rephrased_kept", "Rephrased training texts kept", higher_is_better=False),
    )
    options_class = CompressionOptions

    def load(self, source: Any = "modifiers", **options: Any) -> CompressionData:
        """Take a built-in language, a .jsonl file, or a list of texts."""
        o = self.check_options(options)
        if isinstance(source, str) and source in _BUILTIN:
            return CompressionData(CompressionItems(source), o)
        items = _from_file(Path(source)) if isinstance(source, (str, Path)) else _from_texts(source)
        name = Path(source).name if isinstance(source, (str, Path)) else "texts"
        return CompressionData(CompressionItems(name, tuple(items[: o.test])), o)

    def baselines(self, data: CompressionData) -> tuple[Entrant, ...]:
        """Return truncation, random deletion and bigram surprisal."""
        module = "anytask.prompts.baselines"
        return (
            Entrant("truncation", f"{module}:Truncation", role="baseline"),
            Entrant("random deletion", f"{module}:RandomDeletion", role="baseline"),
            Entrant("bigram surprisal", f"{module}:SurprisalCompressor", role="baseline"),
        )

    def refuses(self, entrant: Entrant, data: CompressionData) -> str | None:
        """Say why an entrant cannot take part."""
        cls = entrant.load()
        if not hasattr(cls, "compress"):
            return f"{entrant.name} has no compress(text, rate)"
        return None

    def system_of(self, trained: _Shown) -> Any:
        """Return the compressor."""
        return trained.compressor

    def train(self, entrant: Entrant, data: CompressionData, seed: int, progress: Progress) -> _Shown:
        """Show the training texts to the entrant, if it can learn from them."""
        from anytask.datasets.compression_languages import KeyValue, Modifiers

        o, compressor = data.options, entrant.make(seed=seed)
        distills = hasattr(compressor, "distill")
        trainable = distills and compressor.model is None
        if data.items is not None:
            texts = [item.text for item in data.items]
            reader, kind = _model_reader(o.lm, o.max_answer) if o.lm else (None, None)
            shown = _Shown(compressor, list(data.items), 0.5, reader, kind)
        elif data.name == "modifiers":
            language = Modifiers(seed, o.length, o.noise)
            texts, labels = language.train(o.train)
            items = [CompressionItem(text, gold) for text, gold in language.test(o.test)]
            shown = _Shown(compressor, items, _gold_rate(items))
            if trainable:
                compressor.fit([text.split() for text in texts], labels)
        else:
            world = KeyValue(seed, o.rephrased)
            texts = world.documents(o.train, "train")
            asked = world.questions(o.test, "test")
            items = [CompressionItem(text, world.gold(text), key, value) for text, key, value in asked]
            shown = _Shown(compressor, items, 0.5, world.read, "sim")
            if trainable:
                compressor.distill(world, texts)
                kept = {compressor.distilled_.chunks[i] for i in compressor.distilled_.kept}
                rephrased = [text for text in texts if world.rephrases(text)]
                shown.metrics["rephrased_kept"] = sum(t in kept for t in rephrased) / max(1, len(rephrased))
                shown.cost["lm_calls"] = float(world.calls)
        if hasattr(compressor, "fit") and not distills:
            compressor.fit(texts)
        return shown

    def test(self, entrant: Entrant, trained: _Shown, data: CompressionData, seed: int, progress: Progress) -> Outcome:
        """Compress the test texts, and judge them."""
        compressor, items, reader = trained.compressor, trained.items, trained.reader
        rate = data.options.rate or trained.rate
        metrics, cost, details = dict(trained.metrics), dict(trained.cost), {}
        many = hasattr(compressor, "compress_many")
        texts = [item.text for item in items]
        start = time.perf_counter()
        results = compressor.compress_many(texts, rate) if many else [compressor.compress(t, rate) for t in texts]
        cost["predict_seconds"] = time.perf_counter() - start
        origin = sum(result.origin_tokens for result in results)
        metrics["rate"] = sum(result.compressed_tokens for result in results) / max(1, origin)
        metrics["rate_error"] = abs(metrics["rate"] - rate)
        metrics["tokens_per_second"] = origin / cost["predict_seconds"]
        if items[0].gold is not None:
            metrics["f1"] = _f1(items, results)
            if many:
                metrics["f1_pooled"] = _f1(items, compressor.compress_many(texts, rate, dynamic="pooled"))
        if reader is not None:
            asked = [(i, r) for i, r in zip(items, results) if i.question is not None and i.answer is not None]
            hits = [_normal(reader(r.text, str(i.question))) == _normal(str(i.answer)) for i, r in asked]
            if hits:
                metrics["exact_match"] = float(np.mean(hits))
        metrics["quality"] = metrics.get("f1", metrics.get("exact_match", float("nan")))
        details["examples"] = [{"text": i.text, "compressed": r.text} for i, r in zip(items[:5], results)]
        if hasattr(compressor, "accuracies_"):
            details["validation_accuracy"] = compressor.accuracies_
        if hasattr(compressor, "model_"):
            cost["trainable_parameters"] = float(sum(p.numel() for p in compressor.model_.parameters()))
        return Outcome(metrics, details, cost, kind=trained.kind or getattr(compressor, "kind", None))

    def unsaveable(self, entrant: Entrant, data: CompressionData) -> str | None:
        """Refuse the built-in languages, and compressors without ``save`` and ``load``."""
        if data.items is None:
            return f"{data.name} is an artificial language, and a compressor of it is of no use elsewhere."
        return super().unsaveable(entrant, data)

    def refit(self, entrant: Entrant, data: CompressionData, seed: int, progress: Progress | None = None) -> Trained:
        """Make the compressor, and show it the texts if it learns from them."""
        assert data.items is not None
        compressor = entrant.make(seed=seed)
        if hasattr(compressor, "fit") and not hasattr(compressor, "distill"):
            compressor.fit([item.text for item in data.items])
        usage = (
            entrant.import_line,
            f'compressor = {entrant.class_name}.load("{{folder}}")',
            f"shorter = compressor.compress(text, rate={data.options.rate or 0.5}).text",
        )
        return Trained((compressor,), usage)


def _gold_rate(items: Sequence[CompressionItem]) -> float:
    return float(np.mean([flag for item in items for flag in item.gold or ()]))


def _f1(items: Sequence[CompressionItem], results: Sequence[Any]) -> float:
    """F1 of the kept words over all texts together."""
    both = kept = gold = 0
    for item, result in zip(items, results):
        assert item.gold is not None
        flags = np.array(result.labels)
        truth = np.array(item.gold)
        if len(flags) != len(truth):
            raise ValueError(f"a compressor must label the {len(truth)} words of a text, got {len(flags)} labels")
        both += int((flags & truth).sum())
        kept += int(flags.sum())
        gold += int(truth.sum())
    return 2 * both / max(1, kept + gold)


def _normal(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .!?")


def _model_reader(spec: str, max_tokens: int) -> tuple[Callable[[str, str], str], str]:
    from anytask.lm import load_lm
    from anytask.lm.protocol import require

    lm = load_lm(spec)
    require(lm, "completions", method="the option lm")

    def read(text: str, question: str) -> str:
        prompt = f"{text}\n\nQuestion: {question}\nAnswer:"
        return lm.generate([prompt], max_tokens=max_tokens, stop=("\n",), tag="reader")[0]

    return read, lm.kind


def _from_texts(source: Any) -> list[CompressionItem]:
    texts = list(source)
    for i, found in enumerate(texts):
        if not isinstance(found, str) or not found.strip():
            raise BadData(f"texts, row {i}: a text is wanted, got {found!r:.40}")
    if not texts:
        raise BadData("texts: there is none")
    return [CompressionItem(text) for text in texts]


def _from_file(path: Path) -> list[CompressionItem]:
    if not path.is_file():
        raise BadData(f"{path}: there is no such file (built in are {' and '.join(_BUILTIN)})")
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        raise BadData(f"{path.name}: a .jsonl file is wanted, with one object per line")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise BadData(f"{path.name}: not UTF-8; save the file as UTF-8") from error
    items = []
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadData(f"{path.name}, line {place}, character {error.colno}: not JSON ({error.msg})") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
            raise BadData(f"{path.name}, line {place}: an object with a text under 'text' is wanted")
        question, answer = row.get("question"), row.get("answer")
        if (question is None) != (answer is None):
            raise BadData(f"{path.name}, line {place}: 'question' and 'answer' must come together")
        items.append(CompressionItem(row["text"], None, question, None if answer is None else str(answer)))
    if not items:
        raise BadData(f"{path.name}: the file is empty")
    return items
