"""Few-shot text: a pool of texts, a small budget of labels, a frozen language model, and queries to be answered."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.core.settings import choice, real, text, whole
from anytask.datasets.text import BAD_ROWS, KINDS, TextData, load_text
from anytask.lm.option_scoring import RULES
from anytask.lm.prompting import PromptTemplate
from anytask.lm.protocol import MissingCapability
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.language import answerable, model_of
from anytask.problems.options import Options
from anytask.problems.training import LoadedData, Progress, TrainingProblem, taken

_PIPELINE, _GPT3 = "anytask.incontext:Pipeline", "anytask.incontext:GPT3"


class FewShotOptions(Options):
    """What may be bought, what answers, and what is tested."""

    read_only: ClassVar[tuple[str, ...]] = ("text", "target", "bad_rows")

    lm: str | None = text(
        None, "language model: a folder, a Hugging Face name, a URL, tiny:NAME or sim:LEVEL; needed", optional=True
    )
    target: str = text("label", "name of the column or key that holds the label or the answer")
    kind: str = choice("auto", ("auto", *KINDS), "kind of task; multiple-choice needs rows with choices")
    labels: int = whole(18, "how many labels may be bought", at_least=0)
    k: Any = whole(8, "most demonstrations in a prompt, or max: as many as fit", at_least=0, words=("max",))
    context: int | None = whole(None, "most tokens of a prompt with its answer (none: the model's)", optional=True)
    scoring: str = choice("mean", RULES, "how options are ranked")
    description: str | None = text(None, "sentence that opens every prompt", optional=True)
    format: str = text("Input: {input}\nLabel: {output}", "how a demonstration is written")
    rate: float = real(0.5, "share of an input's tokens that compressors keep", above=0, at_most=1)
    search_budget: int = whole(500, "prompts that a prompt search may score")
    test_size: float = real(0.3, "share of the texts that is tested on", above=0, below=1)
    max_test: int = whole(200, "most test items")
    max_pool: int = whole(3000, "most texts in the pool")
    text: str = text("text", "name of the column or key that holds the input")
    bad_rows: str = choice("refuse", BAD_ROWS, "rows that cannot be used: an error, left out, or cut")

    @property
    def template(self) -> PromptTemplate:
        """How examples are written."""
        return PromptTemplate(self.format, description=self.description)


@dataclass(frozen=True)
class FewShotData(LoadedData):
    """Texts with their answers, and the options."""

    source: TextData

    @property
    def choices(self) -> list[str] | None:
        """The labels, for classification."""
        return list(self.source.classes) if self.options.kind == "classification" else None

    def facts(self) -> dict[str, Any]:
        """Return the sizes of the pool and of the test, and the labels."""
        pool, test = self.split(0)
        return {"texts": len(self.source.texts), "pool": len(pool), "test": len(test), "choices": self.choices}

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the pool and of the test items; the same seed splits alike for every entrant."""
        o, labels = self.options, np.array(self.source.labels)
        stratify = labels if o.kind == "classification" and np.unique(labels, return_counts=True)[1].min() > 1 else None
        how: dict[str, Any] = {"random_state": derive(seed, "split") % 2**32, "stratify": stratify}
        try:
            pool, test = train_test_split(np.arange(len(labels)), test_size=o.test_size, **how)
        except ValueError as error:
            raise BadData(f"{self.name}: {len(labels)} texts cannot be split into pool and test: {error}") from None
        return pool[: o.max_pool], test[: o.max_test]


@dataclass
class _Prepared:
    """An entrant that has bought its labels: itself or a pipeline around it, the model, and what was spent before."""

    learner: Any
    lm: Any
    bought: int
    before: Any


class FewShotText(TrainingProblem):
    """Answer queries with a frozen language model after buying a few labels.

    Every entrant gets the same pool of unlabelled texts, may buy ``labels`` labels, and answers the same test queries.
    Systems take part as the stage that they are: a class with ``select`` chooses what is labelled, one with
    ``retrieve`` what is shown, one with ``search`` prunes the prompt, one with ``compress`` shortens the inputs; the
    other stages of :class:`~anytask.incontext.Pipeline` are then the plain ones. Test labels are looked at by the
    metrics alone.

    Metrics
    -------
    ``accuracy`` (exact match; ranks), ``macro_f1`` (classification) or ``token_f1`` (generation), ``prompt_tokens``
    (mean length of a query's prompt), ``lm_calls`` and ``lm_tokens`` (all of them, preparation included), ``labels``.
    """

    key: ClassVar[str] = "few-shot-text"
    title: ClassVar[str] = "Few-shot text"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Accuracy"),
        Metric("macro_f1", "Macro F1"),
        Metric("token_f1", "Token F1"),
        Metric("prompt_tokens", "Prompt length", higher_is_better=False, unit="tokens"),
        Metric("lm_calls", "Language-model calls", higher_is_better=False, unit="calls"),
        Metric("lm_tokens", "Language-model tokens", higher_is_better=False, unit="tokens"),
        Metric("labels", "Labels bought", higher_is_better=False, unit="labels"),
    )
    options_class = FewShotOptions

    def load(self, source: Any, **options: Any) -> FewShotData:
        """Read texts and labels from a .jsonl or .csv file, a built-in name, or (texts, labels)."""
        o = self.check_options(options)
        if not o.lm:
            raise BadData("few-shot-text needs a language model: --lm FOLDER, a Hugging Face name, a URL or tiny:icl")
        data = load_text(source, text=o.text, label=o.target, bad_rows=o.bad_rows)
        o = o.evolve(kind=data.kind(o.kind))
        how: dict[str, Any] = {"written": o.kind == "generation", "budget": o.context, "bad_rows": o.bad_rows}
        loaded = FewShotData(answerable(data, model_of(o.lm), o.template, **how), o)
        pool, test = loaded.split(0)
        if o.labels > len(pool):
            raise BadData(f"{data.name}: {o.labels} labels are to be bought from a pool of {len(pool)} texts")
        if not len(test):
            raise BadData(f"{data.name}: no texts are left to test on")
        return loaded

    def baselines(self, data: FewShotData) -> tuple[Entrant, ...]:
        """Return zero-shot, random, BM25 and embedding demonstrations, facility location, calibration, a classifier."""
        kind = data.options.kind
        selection = "anytask.incontext.selection:FacilityLocation"
        rows: list[tuple[str, str, dict[str, Any]]] = [
            ("zero-shot", _PIPELINE, {"labels": 0}),
            ("random demonstrations", _GPT3, {}),
            ("BM25 neighbours", _PIPELINE, {"retrieve": "bm25"}),
            ("MiniLM neighbours", _PIPELINE, {"retrieve": "similar"}),
            ("facility location", _PIPELINE, {"select": selection, "retrieve": "similar"}),
        ]
        if kind != "generation":
            rows.append(("contextual calibration", _GPT3, {"calibrate": True}))
        if kind == "classification":
            rows.append(("logistic regression", "anytask.incontext.baselines:EmbeddingClassifier", {}))
        return tuple(Entrant(*row, "baseline") for row in rows)

    def refuses(self, entrant: Entrant, data: FewShotData) -> str | None:
        """Say what a system needs that the data, the options or the model do not give."""
        try:
            _learner(entrant, data, model_of(data.options.lm), 0)
        except (ValueError, TypeError, MissingCapability) as error:
            return str(error)
        return None

    def system_of(self, trained: _Prepared) -> Any:
        """Return the learner."""
        return trained.learner

    def train(self, entrant: Entrant, data: FewShotData, seed: int, progress: Progress) -> _Prepared:
        """Buy labels in the pool of this seed, and prepare."""
        return _prepared(entrant, data, data.split(seed)[0], seed)

    def test(self, entrant: Entrant, trained: _Prepared, data: FewShotData, seed: int, progress: Progress) -> Outcome:
        """Answer the test queries in blocks, and measure."""
        source, kind, learner, lm = data.source, data.options.kind, trained.learner, trained.lm
        _, test = data.split(seed)
        answers: list[str] = []
        prompts: list[Any] = []
        for start in range(0, len(test), 32):
            block = test[start : start + 32]
            queries = [source.texts[i] for i in block]
            if hasattr(learner, "answer"):
                own = [source.choices[i] for i in block] if source.choices and kind == "multiple-choice" else None
                found = learner.answer(queries, options=own)
                answers += [answer.output for answer in found]
                prompts += [answer.prompt for answer in found]
            else:
                answers += map(str, learner.predict(queries))
            progress((start + len(block)) / len(test))
        used = lm.usage.total - trained.before
        spent = {"lm_calls": float(used.calls), "lm_tokens": float(used.total_tokens), "labels": float(trained.bought)}
        truth = [source.labels[i] for i in test]
        metrics = _metrics(answers, truth, kind) | spent
        if lengths := [prompt.n_tokens for prompt in prompts if prompt.n_tokens is not None]:
            metrics["prompt_tokens"] = float(np.mean(lengths))
        shown = [prompt.text for prompt in prompts[:3]] or [""] * 3
        examples = [
            {"input": source.texts[i], "answer": answer, "truth": right, "prompt": prompt}
            for i, answer, right, prompt in zip(test, answers, truth, shown)
        ]
        details = {"stages": [asdict(stage) for stage in getattr(learner, "stages_", [])], "examples": examples}
        said, n = Counter(answers).most_common(1)[0]
        notes = []
        if kind == "classification" and n > 0.9 * len(test) >= truth.count(said):
            notes.append(f"{n} of {len(test)} answers are {said!r}, which is right for {truth.count(said)}.")
        return Outcome(metrics, details, spent, kind=lm.kind if used.calls else None, notes=notes)

    def unsaveable(self, entrant: Entrant, data: FewShotData) -> str | None:
        """Refuse what is asked again for each query and has no ``save``; of other stages the result is kept."""
        return None if _stage(entrant.load()) in ("select", "prune") else super().unsaveable(entrant, data)

    def refit(
        self, entrant: Entrant, data: FewShotData, seed: int, progress: Callable[[float], None] | None = None
    ) -> Trained:
        """Buy the labels among all of the texts, and prepare."""
        from anytask.incontext import Pipeline

        o, n = data.options, len(data.source.texts)
        texts = np.random.default_rng(derive(seed, "refit")).permutation(n)[: o.max_pool]
        learner = _prepared(entrant, data, texts, seed).learner
        shown = Entrant(entrant.name, _PIPELINE) if isinstance(learner, Pipeline) else entrant
        usage, given = [shown.import_line], ""
        if hasattr(learner, "lm"):
            usage += ["from anytask.lm import load_lm", f"lm = load_lm({o.lm!r})"]
            given = ", lm=lm"
        for name, more in (("retrieve", ", lm"), ("compress", "")):
            part = getattr(learner, name, None) if isinstance(learner, Pipeline) else None
            if part is not None and not isinstance(part, str):
                own = Entrant(name, f"{type(part).__module__}:{type(part).__qualname__}")
                usage.append(own.import_line)
                given += f', {name}={own.class_name}.load("{{folder}}/{name}"{more})'
        usage.append(f'model = {shown.class_name}.load("{{folder}}"{given})')
        usage.append(
            "answers = model.predict(texts"
            + (", options=options)  # a list per text" if o.kind == "multiple-choice" else ")")
        )
        return Trained((learner,), tuple(usage))


def _prepared(entrant: Entrant, data: FewShotData, pool: np.ndarray, seed: int) -> _Prepared:
    """Return the entrant, fitted to the labels it bought in the pool."""
    source, o, lm = data.source, data.options, model_of(data.options.lm)
    before = lm.usage.total
    texts, labels = [source.texts[i] for i in pool], [source.labels[i] for i in pool]
    bought: set[int] = set()

    def annotate(indices: Any) -> list[str]:
        bought.update(int(i) for i in indices)
        if len(bought) > o.labels:
            raise RuntimeError(f"{entrant.name} asked for {len(bought)} labels, and {o.labels} may be bought")
        return [labels[int(i)] for i in indices]

    learner = _learner(entrant, data, lm, seed)
    if "annotate" in inspect.signature(learner.fit).parameters:
        learner.fit(texts, annotate)
    else:  # the labels that a pipeline buys which selects at random
        chosen = np.random.default_rng(derive(seed, "select")).choice(len(texts), o.labels, replace=False)
        learner.fit([texts[i] for i in chosen], annotate(chosen), **taken(learner.fit, options=data.choices))
    return _Prepared(learner, lm, len(bought), before)


#: The stages of a pipeline, and the method by which a class is known as one.
_STAGES = {"select": "select", "retrieve": "retrieve", "prune": "search", "compress": "compress"}


def _stage(cls: type) -> str | None:
    """Which stage of a pipeline a class is; None if it answers by itself."""
    return next((name for name, verb in _STAGES.items() if hasattr(cls, verb) and not hasattr(cls, "predict")), None)


def _learner(entrant: Entrant, data: FewShotData, lm: Any, seed: int) -> Any:
    """Return the entrant as something with ``fit`` and ``predict``; a stage gets a pipeline around it."""
    from anytask.incontext import Pipeline

    o, cls = data.options, entrant.load()
    stage = _stage(cls)
    scoring = "generate" if o.kind == "generation" else o.scoring
    asked: dict[str, Any] = {"template": o.template, "k": o.k, "scoring": scoring, "seed": seed}
    if scoring == "generate" and not lm.capabilities.local_weights:
        asked["beam_width"] = 1
    if stage is None and cls is not Pipeline:
        return entrant.make(lm=lm, **asked, budget=o.context)
    asked |= {"choices": data.choices, "labels": o.labels, "context": o.context, "rate": o.rate}
    if stage is None:  # a pipeline, whose stages may be named as "module:Class"
        asked |= entrant.params
        parts = {name: Entrant(name, asked[name]) for name in _STAGES if ":" in str(entrant.params.get(name))}
    else:
        asked["retrieve"] = {"select": "similar", "prune": "fixed"}.get(stage, "random")
        parts = {stage: entrant}
    return Pipeline(lm, **asked | {name: _part(name, part, data, lm, seed) for name, part in parts.items()})


def _part(stage: str, entrant: Entrant, data: FewShotData, lm: Any, seed: int) -> Any:
    from anytask.incontext.retrievers import LearnedRetriever

    o = data.options
    if hasattr(entrant.load(), "add_task"):
        # Each of the few labelled examples can be shown to each other one: a query has no more candidates.
        udr = entrant.make("small", seed=seed, candidates={"l": max(2, min(8, o.labels - 1))})
        return LearnedRetriever(udr, lm, instruction=o.description or "", choices=data.choices)
    if stage != "prune":
        return entrant.make(seed=seed)

    def searcher(prompt: str, verbalizers: Any, seed: int) -> Any:
        return entrant.make(prompt=prompt, verbalizers=verbalizers, budget=o.search_budget, seed=seed)

    searcher.__name__ = entrant.class_name
    return searcher


def _metrics(answers: list[str], truth: list[str], kind: str) -> dict[str, float]:
    hit = [a.strip() == t.strip() for a, t in zip(answers, truth, strict=True)]
    metrics = {"accuracy": float(np.mean(hit))}
    if kind == "classification":
        metrics["macro_f1"] = float(f1_score(truth, answers, average="macro", zero_division=0.0))
    if kind == "generation":
        from anytask.incontext.metrics import token_f1

        metrics["token_f1"] = float(np.mean([token_f1(a, t) for a, t in zip(answers, truth)]))
    return metrics
