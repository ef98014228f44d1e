"""Few-shot text: a pool of texts, a small budget of labels, a frozen language model, and queries to be answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import f1_score

from anytask.core.errors import BadData
from anytask.core.progress import heard
from anytask.core.rng import derive
from anytask.core.settings import taken
from anytask.datasets.text import load_text
from anytask.lm.protocol import MissingCapability
from anytask.problems.answers import answer_figures, confusion, one_answer
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.few_shot_text.data import FewShotData, FewShotOptions, verbalized
from anytask.problems.few_shot_text.rehearsal import foretold
from anytask.problems.few_shot_text.stages import STAGES, Prepared, learner_of, prepared, stage_of
from anytask.problems.language import answerable
from anytask.problems.rehearsal import forecast
from anytask.problems.training import Progress, TrainingProblem

_PIPELINE, _GPT3 = "anytask.incontext:Pipeline", "anytask.incontext:GPT3"


class FewShotText(TrainingProblem):
    """Answer queries with a frozen language model after buying a few labels.

    Every entrant gets the same pool of unlabelled texts, may buy ``labels`` labels, and answers the same test queries.
    Systems take part as the stage that they are: a class with ``select`` chooses what is labelled, one with
    ``retrieve`` what is shown, one with ``search`` prunes the prompt, one with ``compress`` shortens the inputs; the
    other stages of :class:`~anytask.incontext.Pipeline` are then the plain ones. Test labels are looked at by the
    metrics alone.

    Metrics
    -------
    ``accuracy`` (exact match; ranks), ``macro_f1`` (classification) or ``token_f1`` (generation), ``query_seconds``
    (time to answer one query, once prepared), ``prompt_tokens``
    (mean length of a query's prompt), ``lm_calls`` and ``lm_tokens`` (all of them, preparation included), ``labels``.
    """

    key: ClassVar[str] = "few-shot-text"
    title: ClassVar[str] = "Few-shot text"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Accuracy"),
        Metric("token_f1", "Token F1"),
        Metric("query_seconds", "Time per query", higher_is_better=False, unit="s"),
        Metric("lm_tokens", "Language-model tokens", higher_is_better=False, unit="tokens"),
        Metric("lm_calls", "Language-model calls", higher_is_better=False, unit="calls"),
        Metric("prompt_tokens", "Prompt length", higher_is_better=False, unit="tokens"),
        Metric("macro_f1", "Macro F1"),
        Metric("labels", "Labels bought", higher_is_better=False, unit="labels"),
    )
    costs: ClassVar[tuple[str, ...]] = ("query_seconds", "lm_tokens", "lm_calls")
    options_class = FewShotOptions
    train_share: ClassVar[float] = 0.2  # nothing is trained but a retriever: most of the time goes into the answers

    def load(self, source: Any, **options: Any) -> FewShotData:
        """Read texts and labels from a .jsonl or .csv file, a built-in name, or (texts, labels)."""
        o = self.check_options(options)
        if not o.lm:
            raise BadData("few-shot-text needs a language model: --lm FOLDER, a Hugging Face name, a URL or tiny:icl")
        data = verbalized(load_text(source, text=o.text, label=o.target, bad_rows=o.bad_rows), o.verbalizer)
        o = o.evolve(kind=data.kind(o.kind))
        if o.calibrate and o.kind == "generation":
            raise BadData("calibrate corrects the scores of options, and these answers are written")
        how: dict[str, Any] = {"written": o.kind == "generation", "budget": o.context, "bad_rows": o.bad_rows}
        loaded = FewShotData(answerable(data, o.model, o.prompts, **how), o)
        pool, test = loaded.split(0)
        if o.labels > len(pool):
            raise BadData(f"{data.name}: {o.labels} labels are to be bought from a pool of {len(pool)} texts")
        if not len(test):
            raise BadData(f"{data.name}: no texts are left to test on")
        return replace(loaded, notes=o.notes)

    def forecast(self, entrants: Sequence[Entrant], data: FewShotData, jobs: int = 1) -> str:
        """Say how often the language model will be asked, with how many tokens, and how long it will take."""
        o = data.options
        return forecast(len(entrants), o.model, foretold(entrants, data), jobs) if o.foretells else ""

    def baselines(self, data: FewShotData) -> tuple[Entrant, ...]:
        """Return zero-shot, random, fixed and near demonstrations, facility location, calibration, a classifier."""
        o, kind = data.options, data.options.kind
        selection = "anytask.incontext.selection:FacilityLocation"
        rows: list[tuple[str, str, dict[str, Any]]] = [
            ("zero-shot", _PIPELINE, {"labels": 0}),
            ("random demonstrations", _GPT3, {} if o.demos in ("auto", "random") else {"demos": "per-item"}),
            ("fixed demonstrations", _GPT3, {} if o.demos == "fixed" else {"demos": "fixed"}),
            ("BM25 neighbours", _PIPELINE, {"retrieve": "bm25"}),
            ("MiniLM neighbours", _PIPELINE, {"retrieve": "similar"}),
            ("facility location", _PIPELINE, {"select": selection, "retrieve": "similar"}),
        ]
        if kind != "generation" and not o.calibrate:
            rows.append(("contextual calibration", _GPT3, {"calibrate": True, "demos": "fixed"}))  # as its paper has it
        if kind == "classification":
            rows.append(("logistic regression", "anytask.incontext.baselines:EmbeddingClassifier", {}))
        return tuple(Entrant(*row, "baseline") for row in rows)

    def stacked(self, entrants: Sequence[Entrant]) -> Entrant:
        """Return a pipeline of systems that are its stages."""
        stages = [stage_of(entrant.load()) for entrant in entrants]
        if None in stages or len(set(stages)) < len(stages):
            named = ", ".join(f"{e.name} is {stage or 'none of them'}" for e, stage in zip(entrants, stages))
            raise ValueError(f"a stacked pipeline has one system each to {', '.join(STAGES)}; {named}")
        params = {str(stage): entrant.entry for stage, entrant in zip(stages, entrants)}
        return Entrant("+".join(entrant.name for entrant in entrants), _PIPELINE, params)

    def refuses(self, entrant: Entrant, data: FewShotData) -> str | None:
        """Say what a system needs that the data, the options or the model do not give."""
        try:
            learner_of(entrant, data, data.options.model, 0)
        except (ValueError, TypeError, MissingCapability) as error:
            return str(error)
        return None

    def train(self, entrant: Entrant, data: FewShotData, seed: int, progress: Progress) -> Prepared:
        """Buy labels in the pool of this seed, and prepare."""
        return prepared(entrant, data, data.split(seed)[0], seed, progress)

    def test(self, entrant: Entrant, trained: Prepared, data: FewShotData, seed: int, progress: Progress) -> Outcome:
        """Answer the test queries, and measure."""
        source, kind, learner, lm = data.source, data.options.kind, trained.system, data.options.model
        _, test = data.split(seed)
        prompts: list[Any] = []
        queries = [source.texts[i] for i in test]
        began = time.perf_counter()
        if hasattr(learner, "answer"):
            own = [source.choices[i] for i in test] if source.choices and kind == "multiple-choice" else None
            found = learner.answer(queries, options=own, **taken(learner.answer, progress=progress))
            answers = [answer.output for answer in found]
            prompts = [answer.prompt for answer in found]
        else:
            answers = list(map(str, learner.predict(queries)))
        seconds = (time.perf_counter() - began) / len(test)
        used = lm.usage.total - trained.before
        spent = {"lm_calls": float(used.calls), "lm_tokens": float(used.total_tokens), "labels": float(trained.bought)}
        truth = [source.labels[i] for i in test]
        metrics = _metrics(answers, truth, kind) | spent | {"query_seconds": seconds}
        if lengths := [prompt.n_tokens for prompt in prompts if prompt.n_tokens is not None]:
            metrics["prompt_tokens"] = float(np.mean(lengths))
        shown = [prompt.text for prompt in prompts[:3]] or [""] * 3
        examples = [
            {"input": source.texts[i], "answer": answer, "truth": right, "prompt": prompt}
            for i, answer, right, prompt in zip(test, answers, truth, shown)
        ]
        details = {"stages": [asdict(stage) for stage in getattr(learner, "stages_", [])], "examples": examples}
        if data.choices:
            details |= confusion(answers, truth, data.choices)
        notes = [] if trained.k is None else [f"k={trained.k} was chosen by leave-one-out on the bought labels."]
        return Outcome(metrics, details, spent, kind=lm.kind if used.calls else None, notes=notes)

    def figures(self, data: FewShotData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return how often each label is the answer, and instead of which."""
        return answer_figures(runs)

    def warnings(self, data: FewShotData, runs: list[Any]) -> list[str]:
        """Say who gives one answer to nearly everything."""
        return one_answer(runs)

    def unsaveable(self, entrant: Entrant, data: FewShotData) -> str | None:
        """Refuse what is asked again for each query and has no ``save``; of other stages the result is kept."""
        return None if stage_of(entrant.load()) in ("select", "prune") else super().unsaveable(entrant, data)

    def refit(
        self, entrant: Entrant, data: FewShotData, seed: int, progress: Callable[[float], None] | None = None
    ) -> Trained:
        """Buy the labels among all of the texts, and prepare."""
        from anytask.incontext import Pipeline

        o, n = data.options, len(data.source.texts)
        texts = np.random.default_rng(derive(seed, "refit")).permutation(n)[: o.max_pool]
        learner = prepared(entrant, data, texts, seed, heard(progress)).system
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


def _metrics(answers: list[str], truth: list[str], kind: str) -> dict[str, float]:
    hit = [a.strip() == t.strip() for a, t in zip(answers, truth, strict=True)]
    metrics = {"accuracy": float(np.mean(hit))}
    if kind == "classification":
        metrics["macro_f1"] = float(f1_score(truth, answers, average="macro", zero_division=0.0))
    if kind == "generation":
        from anytask.incontext.metrics import token_f1

        metrics["token_f1"] = float(np.mean([token_f1(a, t) for a, t in zip(answers, truth)]))
    return metrics
