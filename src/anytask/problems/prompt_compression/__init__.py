"""Prompt compression: texts to be shortened to a rate, judged by gold words, or by a reader who answers from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import f1_score

from anytask.core.progress import portion
from anytask.core.settings import taken
from anytask.datasets.compression_languages import KeyValue, Modifiers
from anytask.datasets.questions import CompressionItem, load_questions
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.language import readable
from anytask.problems.prompt_compression.data import (
    BUILTIN,
    CompressionData,
    CompressionOptions,
    Reader,
    closeness,
    told,
)
from anytask.problems.rehearsal import forecast
from anytask.problems.training import Builtin, Learned, Progress, TrainingProblem


@dataclass
class _Shown(Learned):
    """A compressor that has seen the training texts, what it is tested on, and what its training came to."""

    items: list[CompressionItem] = field(default_factory=list)
    rate: float = 0.5
    reader: Callable[[Sequence[str], Sequence[str]], list[str]] | None = None
    kind: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)


#: What quality is, by who judges it.
_JUDGES = {
    "answers": "the token F1 of what the language model answers from the short text",
    "information": "how much of the whole text the language model knows from the short one (the whole text itself: 1)",
    "closeness": "the cosine of the embeddings of the short text and the whole",
}


class PromptCompression(TrainingProblem):
    """Shorten texts by deleting words, and keep what matters.

    Built in are ``modifiers``, a language in which a modifier matters only before certain words (gold labels are known;
    the training labels have 5 % noise), and ``key-value``, documents of facts between filler words that a scripted chat
    model compresses for training (rephrasing every tenth) and a scripted reader answers questions from. Your own data:
    a .jsonl, .csv or .tsv file with ``text`` and, where you have them, ``question`` and ``answer``. With ``lm``, that
    model answers the questions, or, where there are none, tells by its log-probabilities how much of the whole text it
    knows from the short one. Without it the embeddings of both are compared. A compressor without weights of its own
    then uses the tiny ones that ship with the package. The uncompressed text is a reference.

    Metrics
    -------
    ``quality`` ranks: the first of these that can be measured: ``f1`` of the kept words where gold is known,
    ``exact_match`` of a built-in language's answers, ``token_f1`` of the answers to your questions, ``information``
    (share of what the whole texts tell a language model of themselves) or ``closeness`` (cosine of the embeddings).
    Beside it: ``f1_pooled`` (one threshold for all texts), ``rate`` (achieved), ``rate_error``,
    ``tokens_per_second``, ``rephrased_kept`` (share of the rephrased training texts that passed the filters).
    """

    key: ClassVar[str] = "prompt-compression"
    title: ClassVar[str] = "Prompt compression"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("quality", "Quality"),
        Metric("f1", "F1 of the kept words"),
        Metric("f1_pooled", "F1 of the kept words, one threshold for all texts"),
        Metric("token_f1", "Token F1 of the answers from the compressed text"),
        Metric("exact_match", "Exact answers from the compressed text"),
        Metric("information", "Information that is left"),
        Metric("closeness", "Closeness of the embeddings"),
        Metric("rate", "Achieved rate", higher_is_better=False),
        Metric("rate_error", "Rate error", higher_is_better=False),
        Metric("tokens_per_second", "Speed", unit="tokens/s"),
        Metric("rephrased_kept", "Rephrased training texts kept", higher_is_better=False),
    )
    needs = ("compress(text, rate)",)
    options_class = CompressionOptions
    bounds: ClassVar = {"uncompressed": "upper"}
    privileges: ClassVar = {"uncompressed": "all of the text"}

    def load(self, source: Any = "modifiers", **options: Any) -> CompressionData:
        """Take a built-in language, a .jsonl, .csv or .tsv file, or a list of texts."""
        o = self.check_options(options)
        if isinstance(source, str) and source in BUILTIN:
            return CompressionData(Builtin(source), o)
        texts = load_questions(source, o.bad_rows, text=o.text, question=o.question, answer=o.target)
        texts = replace(texts, items=texts.items[: o.test], places=texts.places[: o.test])
        data = CompressionData(texts, o, o.notes)
        if data.judge == "answers":
            longest = max((item.question or "" for item in texts.items), key=len)
            how: dict[str, Any] = {"reserve": o.max_answer, "bad_rows": o.bad_rows}
            return replace(data, source=readable(texts, o.model, lambda text: o.asked(text, longest), **how))
        if data.judge == "information":  # the text is read, and then told
            half = {"most": lambda tokens: tokens // 2, "bad_rows": o.bad_rows}
            return replace(data, source=readable(texts, o.model, told, **half))
        more = (
            "language model that answers the questions" if texts.asks else "language model, or questions with answers"
        )
        return replace(data, notes=(f"To measure more than the closeness of embeddings, give a {more}.",))

    def setting(self, data: CompressionData) -> str:
        """Say what quality is on these data."""
        rate = f"Texts are shortened to {data.options.rate or 0.5:.0%} of their tokens. Quality: "
        return "" if data.judge is None else f"{rate}{_JUDGES[data.judge]}."

    def baselines(self, data: CompressionData) -> tuple[Entrant, ...]:
        """Return truncation, random deletion, bigram surprisal, and the whole text as a reference."""
        names = ("truncation", "random deletion", "bigram surprisal", "uncompressed")
        classes = ("Truncation", "RandomDeletion", "SurprisalCompressor", "Uncompressed")
        module = "anytask.prompts.baselines"
        return tuple(Entrant(name, f"{module}:{cls}", role="baseline") for name, cls in zip(names, classes))

    def forecast(self, entrants: Sequence[Entrant], data: CompressionData, jobs: int = 1) -> str:
        """Say how often the language model that judges will be asked, if no text were shortened."""
        o, texts = data.options, [item.text for item in data.items]
        if not texts or not o.foretells:
            return ""
        if data.judge == "answers":
            asked = [o.asked(item.text, item.question or "") for item in data.items]
            one = o.model.estimate(asked, max_tokens=o.max_answer)
        else:
            one = o.model.estimate(list(map(told, texts)), [[f" {text}"] for text in texts])
        return forecast(len(entrants), o.model, one.times(len(entrants)), jobs)

    def train(self, entrant: Entrant, data: CompressionData, seed: int, progress: Progress) -> _Shown:
        """Show the training texts to the entrant, if it can learn from them."""
        o, compressor = data.options, entrant.make(seed=seed)
        shown = _Shown(compressor, items=list(data.items), rate=o.rate or 0.5)
        if isinstance(data.source, Builtin):
            world = Modifiers(seed, o.length, o.noise) if data.name == "modifiers" else KeyValue(seed, o.rephrased)
            shown.items = world.items(o.test)
            shown.kind = getattr(world, "kind", None)
            if read := getattr(world, "read", None):
                shown.reader = lambda texts, questions: list(map(read, texts, questions))
            if data.name == "modifiers" and o.rate is None:
                shown.rate = float(np.mean([flag for item in shown.items for flag in item.gold or ()]))
        elif data.judge in ("answers", "information"):
            shown.kind = o.model.kind
            shown.reader = Reader(o).answer if data.judge == "answers" else None
        distills = hasattr(compressor, "distill")
        if isinstance(data.source, Builtin) and distills and compressor.model is None:
            shown.metrics, shown.cost = world.teach(compressor, o.train)
        elif hasattr(compressor, "fit") and not distills:
            texts = [item.text for item in data.items]
            compressor.fit(texts or world.documents(o.train, "train"))
        return shown

    def test(self, entrant: Entrant, trained: _Shown, data: CompressionData, seed: int, progress: Progress) -> Outcome:
        """Compress the test texts, and judge them."""
        from anytask.incontext.metrics import exact_match, token_f1

        compressor, items, reader = trained.system, trained.items, trained.reader
        rate, metrics, cost = trained.rate, dict(trained.metrics), dict(trained.cost)
        many = hasattr(compressor, "compress_many")
        texts = [item.text for item in items]
        start = time.perf_counter()
        results = []
        if many:
            heard = taken(compressor.compress_many, progress=portion(progress, 0.0, 0.5))
            results = compressor.compress_many(texts, rate, **heard)
        else:
            for text in texts:
                results.append(compressor.compress(text, rate))
                progress(0.5 * len(results) / len(texts))
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
            heard = taken(reader, progress=portion(progress, 0.5, 1.0))
            said = reader([r.text for _, r in asked], [str(i.question) for i, _ in asked], **heard)
            for name, metric in (("exact_match", exact_match), ("token_f1", token_f1)):
                metrics[name] = float(np.mean([metric(one, str(i.answer)) for one, (i, _) in zip(said, asked)]))
        short = [result.text for result in results]
        if data.judge == "information":
            metrics["information"] = Reader(data.options).information(short, texts, portion(progress, 0.5, 1.0))
        if data.items:
            metrics["closeness"] = closeness(short, texts)
        ranks = ("token_f1", "information", "closeness") if data.items else ("f1", "exact_match")
        metrics["quality"] = next(metrics[name] for name in ranks if name in metrics)
        details: dict[str, Any] = {"examples": [{"text": t, "compressed": s} for t, s in zip(texts[:5], short)]}
        if hasattr(compressor, "accuracies_"):
            details["validation_accuracy"] = compressor.accuracies_
        return Outcome(metrics, details, cost, kind=trained.kind or getattr(compressor, "kind", None))

    def unsaveable(self, entrant: Entrant, data: CompressionData) -> str | None:
        """Refuse the built-in languages, and compressors without ``save`` and ``load``."""
        if not data.items:
            return f"{data.name} is an artificial language, and a compressor of it is of no use elsewhere."
        return super().unsaveable(entrant, data)

    def refit(self, entrant: Entrant, data: CompressionData, seed: int, progress: Progress | None = None) -> Trained:
        """Make the compressor, and show it the texts if it learns from them."""
        compressor = entrant.make(seed=seed)
        if hasattr(compressor, "fit") and not hasattr(compressor, "distill"):
            compressor.fit([item.text for item in data.items])
        usage = (
            entrant.import_line,
            f'compressor = {entrant.class_name}.load("{{folder}}")',
            f"shorter = compressor.compress(text, rate={data.options.rate or 0.5}).text",
        )
        return Trained((compressor,), usage)


def _f1(items: Sequence[CompressionItem], results: Sequence[Any]) -> float:
    """F1 of the kept words over all texts together."""
    kept = np.concatenate([result.labels for result in results])
    gold = np.concatenate([item.gold or () for item in items])
    return float(f1_score(gold, kept, zero_division=0.0))
