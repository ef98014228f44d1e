"""Few-shot text: a pool of texts, a small budget of labels, a frozen language model, and queries to be answered."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.core.settings import choice, real, text, whole
from anytask.datasets.text import TextData, load_text
from anytask.lm.option_scoring import RULES
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.options import Options
from anytask.problems.training import LoadedData, Progress, TrainingProblem

_KINDS = ("auto", "classification", "multiple-choice", "generation")
_PIPELINE = "anytask.incontext:Pipeline"


class FewShotOptions(Options):
    """What may be bought, what answers, and what is tested."""

    read_only: ClassVar[tuple[str, ...]] = ("text", "target")

    lm: str | None = text(
        None, "language model: a folder, a Hugging Face name, a URL, tiny:NAME or sim:LEVEL; needed", optional=True
    )
    target: str = text("label", "name of the column or key that holds the label or the answer")
    kind: str = choice("auto", _KINDS, "kind of task; multiple-choice needs rows with choices")
    labels: int = whole(18, "how many labels may be bought", at_least=0)
    k: int | None = whole(None, "most demonstrations in a prompt (none: as many as fit)", at_least=0, optional=True)
    context: int | None = whole(
        None, "most tokens of a prompt with its answer (none: the model's context)", at_least=0, optional=True
    )
    scoring: str = choice("mean", RULES, "how options are ranked")
    description: str | None = text(None, "sentence that opens every prompt", optional=True)
    format: str = text("Input: {input}\nLabel: {output}", "how a demonstration is written")
    rate: float = real(0.5, "share of an input's tokens that compressors keep", above=0, at_most=1)
    search_budget: int = whole(500, "prompts that a prompt search may score")
    test_size: float = real(0.3, "share of the texts that is tested on", above=0, below=1)
    max_test: int = whole(200, "most test items")
    max_pool: int = whole(3000, "most texts in the pool")
    text: str = text("text", "name of the column or key that holds the input")


@dataclass(frozen=True)
class FewShotData(LoadedData):
    """Texts with their answers, and the options."""

    source: TextData

    @property
    def choices(self) -> list[str] | None:
        """The labels, for classification."""
        return sorted(set(self.source.labels)) if self.options.kind == "classification" else None

    def facts(self) -> dict[str, Any]:
        """Return the sizes of the pool and of the test, and the labels."""
        pool, test = self.split(0)
        return {"texts": len(self.source.texts), "pool": len(pool), "test": len(test), "choices": self.choices}

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the pool and of the test items; the same seed splits alike for every entrant."""
        o = self.options
        labels = np.array(self.source.labels)
        stratify = labels if o.kind == "classification" and np.unique(labels, return_counts=True)[1].min() > 1 else None
        try:
            pool, test = train_test_split(
                np.arange(len(labels)),
                test_size=o.test_size,
                random_state=derive(seed, "split") % 2**32,
                stratify=stratify,
            )
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
        data = load_text(source, text=o.text, label=o.target)
        loaded = FewShotData(data, o.evolve(kind=_kind(data, o.kind)))
        pool, test = loaded.split(0)
        if o.labels > len(pool):
            raise BadData(f"{data.name}: {o.labels} labels are to be bought from a pool of {len(pool)} texts")
        if not len(test):
            raise BadData(f"{data.name}: no texts are left to test on")
        _model(o.lm)  # a model that cannot be had is an error before any run starts
        return loaded

    def baselines(self, data: FewShotData) -> tuple[Entrant, ...]:
        """Return zero-shot, random, BM25 and embedding demonstrations, facility location, calibration, a classifier."""
        rows: dict[str, dict[str, Any]] = {
            "zero-shot": {"labels": 0},
            "random demonstrations": {},
            "BM25 neighbours": {"retrieve": "bm25"},
            "MiniLM neighbours": {"retrieve": "similar"},
            "facility location": {"select": "anytask.incontext.selection:FacilityLocation", "retrieve": "similar"},
        }
        if data.options.kind != "generation":
            rows["contextual calibration"] = {"calibrate": True}
        found = [Entrant(name, _PIPELINE, params, "baseline") for name, params in rows.items()]
        if data.options.kind == "classification":
            found.append(
                Entrant("logistic regression", "anytask.incontext.baselines:EmbeddingClassifier", {}, "baseline")
            )
        return tuple(found)

    def refuses(self, entrant: Entrant, data: FewShotData) -> str | None:
        """Say what a system needs that the data or the options do not give."""
        cls, o = entrant.load(), data.options
        if hasattr(cls, "search") and o.kind != "classification":
            return f"it searches a prompt for one set of labels, and this is {o.kind}"
        if hasattr(cls, "search") and o.labels < 4:
            return f"it searches with labelled examples outside the prompt, and labels={o.labels} leaves none"
        if hasattr(cls, "retrieve") and not hasattr(cls, "predict") and o.labels < 3:
            return f"it learns from labelled examples shown to each other, and labels={o.labels} are too few"
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
        lengths: list[int] = []
        for start in range(0, len(test), 32):
            block = test[start : start + 32]
            queries = [source.texts[i] for i in block]
            own = {}
            if source.choices and kind == "multiple-choice":
                own = {"options": [source.choices[i] for i in block]}
            answers += [str(answer) for answer in learner.predict(queries, **own)]
            lengths += _prompt_lengths(learner, queries, lm)
            progress((start + len(block)) / len(test))
        used = lm.usage.total - trained.before
        spent = {"lm_calls": float(used.calls), "lm_tokens": float(used.total_tokens), "labels": float(trained.bought)}
        metrics = _metrics(answers, [source.labels[i] for i in test], kind) | spent
        if lengths:
            metrics["prompt_tokens"] = float(np.mean(lengths))
        stages = [asdict(stage) for stage in getattr(learner, "stages_", [])]
        details = {"stages": stages, "examples": _examples(test, source, answers, learner)}
        return Outcome(metrics, details, spent, kind=lm.kind if used.calls else None)

    def unsaveable(self, entrant: Entrant, data: FewShotData) -> str | None:
        """Refuse what is asked again for each query and has no ``save``; of other stages the result is kept."""
        return None if _stage(entrant.load()) in ("select", "search") else super().unsaveable(entrant, data)

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
    source, o, lm = data.source, data.options, _model(data.options.lm)
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
    else:
        chosen = np.random.default_rng(derive(seed, "labels")).choice(len(texts), o.labels, replace=False)
        learner.fit([texts[i] for i in chosen], annotate(chosen))
    return _Prepared(learner, lm, len(bought), before)


@lru_cache(maxsize=2)
def _model(spec: str) -> Any:
    from anytask.lm import load_lm

    return load_lm(spec)


def _stage(cls: type) -> str | None:
    """Which stage of a pipeline a class is; None if it answers by itself."""
    return next((name for name in ("select", "retrieve", "search", "compress") if hasattr(cls, name)), None)


def _learner(entrant: Entrant, data: FewShotData, lm: Any, seed: int) -> Any:
    """Return the entrant as something with ``fit`` and ``predict``; a stage gets a pipeline around it."""
    from anytask.incontext import Pipeline
    from anytask.incontext.retrievers import LearnedRetriever
    from anytask.lm.prompting import PromptTemplate

    o, cls = data.options, entrant.load()
    template = PromptTemplate(o.format, description=o.description)
    scoring = "generate" if o.kind == "generation" else o.scoring
    common: dict[str, Any] = {"template": template, "scoring": scoring, "seed": seed}
    if scoring == "generate" and not lm.capabilities.local_weights:
        common["beam_width"] = 1
    whole_prompt: dict[str, Any] = {name: getattr(o, name) for name in ("labels", "k", "context", "rate")}
    whole_prompt["choices"] = data.choices
    if cls is Pipeline:
        return replace(entrant, params=_resolve(entrant, seed)).make(lm=lm, **whole_prompt, **common)
    stages: dict[str, Any] = {}
    match _stage(cls):
        case "select":
            stages = {"select": entrant.make(seed=seed), "retrieve": "similar"}
        case "retrieve":
            # Each of the few labelled examples can be shown to each other one: a query has no more candidates.
            udr = entrant.make("small", seed=seed, candidates={"l": min(8, o.labels - 1)})
            stages = {"retrieve": LearnedRetriever(udr, lm, instruction=o.description or "", choices=data.choices)}
        case "search":
            stages = {"retrieve": "fixed", "prune": _searcher(entrant, o.search_budget)}
        case "compress":
            stages = {"compress": entrant.make(seed=seed)}
        case None:
            # What answers by itself counts demonstrations and tokens in words of its own.
            return entrant.make(lm=lm, **common, k="max" if o.k is None else o.k, budget=o.context)
    return Pipeline(lm, **whole_prompt, **common, **stages)


def _searcher(entrant: Entrant, budget: int) -> Callable[..., Any]:
    def searcher(prompt: str, verbalizers: Any, seed: int) -> Any:
        return entrant.make(prompt=prompt, verbalizers=verbalizers, budget=budget, seed=seed)

    searcher.__name__ = entrant.class_name
    return searcher


def _resolve(entrant: Entrant, seed: int) -> dict[str, Any]:
    """Replace "module:Class" values by an object of that class (``prune``: by what makes one)."""
    out = dict(entrant.params)
    for name in ("select", "retrieve", "compress", "prune"):
        value = out.get(name)
        if isinstance(value, str) and ":" in value:
            part = Entrant(name, value)
            out[name] = part.load() if name == "prune" else part.make(seed=seed)
    return out


def _prompt_lengths(learner: Any, queries: list[str], lm: Any) -> list[int]:
    if hasattr(learner, "prompts"):
        return [lm.count_tokens(prompt) for prompt in learner.prompts(queries)]
    if hasattr(learner, "prompt"):
        return [learner.prompt(query).n_tokens for query in queries]
    return []


def _metrics(answers: list[str], truth: list[str], kind: str) -> dict[str, float]:
    hit = [a.strip() == t.strip() for a, t in zip(answers, truth, strict=True)]
    metrics = {"accuracy": float(np.mean(hit))}
    if kind == "classification":
        metrics["macro_f1"] = float(f1_score(truth, answers, average="macro", zero_division=0.0))
    if kind == "generation":
        from anytask.incontext.metrics import token_f1

        metrics["token_f1"] = float(np.mean([token_f1(a, t) for a, t in zip(answers, truth)]))
    return metrics


def _examples(test: np.ndarray, source: TextData, answers: list[str], learner: Any) -> list[dict[str, str]]:
    """The first few answers with their prompts, for the report."""
    shown = [source.texts[i] for i in test[:3]]
    prompts = learner.prompts(shown) if hasattr(learner, "prompts") else [""] * len(shown)
    return [
        {"input": text, "answer": answer, "truth": source.labels[i], "prompt": prompt}
        for text, answer, i, prompt in zip(shown, answers, test, prompts)
    ]


def _kind(data: TextData, kind: str) -> str:
    if kind == "auto":
        if data.choices is not None:
            return "multiple-choice"
        distinct = len(set(data.labels))
        return "classification" if 2 <= distinct <= max(2, min(50, len(data.labels) // 3)) else "generation"
    if kind == "multiple-choice" and data.choices is None:
        raise BadData(f"{data.name}: multiple choice needs rows with choices")
    if kind == "classification" and len(set(data.labels)) < 2:
        raise BadData(f"{data.name}: all texts have one label ({data.labels[0]!r}); classification needs at least 2")
    return kind
