"""Whatever a class is - a stage of a pipeline or a whole learner - it buys its labels and answers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from anytask.core.progress import Progress, portion, silent
from anytask.core.rng import derive
from anytask.core.settings import taken
from anytask.problems.base import Entrant
from anytask.problems.few_shot_text.data import FewShotData
from anytask.problems.training import Learned


@dataclass
class Prepared(Learned):
    """An entrant that has bought its labels, itself or a pipeline around it, and what was spent before."""

    bought: int = 0
    before: Any = None
    k: int | None = None  # where it was chosen by leave-one-out


def prepared(entrant: Entrant, data: FewShotData, pool: np.ndarray, seed: int, progress: Progress) -> Prepared:
    """Return the entrant, fitted to the labels it bought in the pool."""
    source, o, lm = data.source, data.options, data.options.model
    before = lm.usage.total
    texts, labels = [source.texts[i] for i in pool], [source.labels[i] for i in pool]
    bought: set[int] = set()

    def annotate(indices: Any) -> list[str]:
        bought.update(int(i) for i in indices)
        if len(bought) > o.labels:
            raise RuntimeError(f"{entrant.name} asked for {len(bought)} labels, and {o.labels} may be bought")
        return [labels[int(i)] for i in indices]

    learner = learner_of(entrant, data, lm, seed)
    chooses_k = o.k == "auto" and "k" not in entrant.params
    told = taken(learner.fit, progress=portion(progress, 0.0, 0.5 if chooses_k else 1.0))
    if "annotate" in inspect.signature(learner.fit).parameters:
        learner.fit(texts, annotate, **told)
    else:  # the labels that a pipeline buys which selects at random
        chosen = np.random.default_rng(derive(seed, "select")).choice(len(texts), o.labels, replace=False)
        learner.fit([texts[i] for i in chosen], annotate(chosen), **taken(learner.fit, options=data.choices), **told)
    k = None
    if chooses_k and bought and getattr(learner, "prompt_", None) is None:
        own = [source.choices[pool[i]] for i in bought] if source.choices and o.kind == "multiple-choice" else None
        known = [texts[i] for i in bought], [labels[i] for i in bought]
        k = leave_one_out(learner, *known, own, portion(progress, 0.5, 1.0))
    return Prepared(learner, bought=len(bought), before=before, k=k)


def leave_one_out(
    learner: Any, texts: list[str], labels: list[str], options: Any, progress: Progress = silent
) -> int | None:
    """Set the number of demonstrations with which most of the labelled texts are answered by the others' labels.

    Equally many: with which the right answers are likelier; then, the smaller one. None without such a parameter.
    """
    if not hasattr(learner, "answer") or not hasattr(learner, "k"):
        return None

    def worth(k: int) -> tuple[float, float]:
        learner.set_params(k=k)  # no text is a demonstration of itself
        answers = learner.answer(texts, options=options)
        logs = [
            log_softmax(list(a.scores.values()))[list(a.scores).index(y)] for a, y in zip(answers, labels) if a.scores
        ]
        return float(np.mean([a.output == y for a, y in zip(answers, labels)])), float(np.mean(logs)) if logs else 0.0

    tried = [k for k in (0, 1, 2, 4, 8, 16, 32) if k < len(texts)]
    found = []
    for k in tried:
        found.append(worth(k))
        progress(sum(tried[: len(found)]) / max(1, sum(tried)))
    best = tried[max(range(len(tried)), key=found.__getitem__)]
    learner.set_params(k=best)
    return best


#: The stages of a pipeline, and the method by which a class is known as one.
STAGES = {"select": "select", "retrieve": "retrieve", "prune": "search", "compress": "compress"}

#: Which demonstrations go with a stage, where the problem is not told.
_PLAIN = {"select": "similar", "prune": "fixed"}


def stage_of(cls: type) -> str | None:
    """Which stage of a pipeline a class is; None if it answers by itself."""
    return next((name for name, verb in STAGES.items() if hasattr(cls, verb) and not hasattr(cls, "predict")), None)


def learner_of(entrant: Entrant, data: FewShotData, lm: Any, seed: int) -> Any:
    """Return the entrant as something with ``fit`` and ``predict``; a stage gets a pipeline around it."""
    from anytask.incontext import GPT3, Pipeline

    o, cls = data.options, entrant.load()
    stage = stage_of(cls)
    scoring = "generate" if o.kind == "generation" else o.scoring
    asked: dict[str, Any] = {"template": o.prompts, "scoring": scoring, "calibrate": o.calibrate, "seed": seed}
    asked["k"] = 8 if o.k == "auto" else o.k  # until it is chosen
    staged = stage is not None or cls is Pipeline
    if cls is GPT3 and "demos" not in entrant.params:  # by its parts where demonstrations are retrieved
        staged, asked["demos"] = o.demos in ("similar", "bm25"), "fixed" if o.demos == "fixed" else "per-item"
    if not staged:
        one_set = entrant.params.get("demos", asked.get("demos")) == "fixed"
        return entrant.make(lm=lm, **asked, balanced=o.shows_equally(one_set), budget=o.context)
    asked.pop("demos", None)
    asked |= {"choices": data.choices, "labels": o.labels, "context": o.context, "rate": o.rate}
    asked["retrieve"] = _PLAIN.get(str(stage), "random") if o.demos == "auto" else o.demos
    if stage is None:  # a pipeline, whose stages may be named as "module:Class"
        asked |= entrant.params
        parts = {name: Entrant(name, asked[name]) for name in STAGES if ":" in str(entrant.params.get(name))}
    else:
        parts = {stage: entrant}
    asked.setdefault("balanced", o.shows_equally(asked["retrieve"] == "fixed" or "prune" in parts))
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
