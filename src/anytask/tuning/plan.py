"""``tune_prompt``: choose what to label, race the prompts on the labels, compare with plain ways, hand over."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from anytask.core.errors import BadData
from anytask.core.progress import Progress, heard
from anytask.core.settings import flag, free, whole
from anytask.datasets.text import TextData
from anytask.incontext.baselines import EmbeddingClassifier
from anytask.incontext.pool import Annotate, embed, embedder_field
from anytask.lm.accounts import Budget, Tally
from anytask.lm.metered import Metered
from anytask.lm.protocol import BudgetExceeded
from anytask.problems.few_shot_text.data import check_verbalizer
from anytask.problems.language import TextOptions, answerable
from anytask.problems.options import listed
from anytask.problems.rehearsal import Rehearsal
from anytask.tuning.grid import Judged, Point, Task, grid, models_of
from anytask.tuning.handover import command_of
from anytask.tuning.labels import bought, load_pile, read_answers, worth_labelling
from anytask.tuning.prune import prunable, prune
from anytask.tuning.race import best_of, hits_of, race
from anytask.tuning.record import TuningRecord
from anytask.tuning.result import Tuning, so_far

__all__ = ["prepare_tuning", "tune_prompt"]

#: What is compared with, whatever the grid: a plain question, and what few-shot-text asks unless it is told otherwise.
ZERO_SHOT, UNTUNED = Point(), Point(8, "random")
#: Seconds between two looks that others may take at a tuning that runs.
RECORD_EVERY = 1.0
#: Shares of the inputs' tokens that LLMLingua-2 keeps.
RATES = (0.75, 0.5)
#: Labelled texts that are rehearsed for an estimate; the rest costs as much in proportion.
REHEARSED = 16


class TuningOptions(TextOptions):
    """What may be bought, what a prompt may show, and how much is searched."""

    labels: int = whole(16, "how many labels may be bought", at_least=4)
    choices: tuple[str, ...] | None = listed("all labels (default: those of the column, or of the answers)")
    max_k: int = whole(16, "most demonstrations in a prompt", at_least=0)
    context: int | None = whole(None, "most tokens of a prompt with its answer (none: the model's)", optional=True)
    verbalizer: dict[str, str] | None = free(None, "words that the labels are called by, tried too", check_verbalizer)
    compress: bool = flag(False, "try the best one with inputs shortened by LLMLingua-2")
    prune: int = whole(
        0, "prompts that PromptQuine may score to shorten the best one, 0: it is left as it is", at_least=0
    )
    embedder: Any = embedder_field()
    seed: int = whole(0, "everything random follows from it", at_least=0)


def tune_prompt(
    source: Any,
    *,
    lm: Any,
    annotate: Annotate | None = None,
    answers: str | os.PathLike[str] | None = None,
    budget: Budget | Mapping[str, float] | None = None,
    store: str | os.PathLike[str] = ":memory:",
    progress: Progress | None = None,
    **options: Any,
) -> Tuning:
    """Find a cheap, good prompt for a pile of texts, from few labels and a frozen language model.

    Chooses what is worth labelling (vote-k), and judges prompts on these labels alone, each text answered by the
    others' labels: number of demonstrations, fixed or nearest to the query, a description, contextual calibration, the
    chat template, words for the labels. Prompts that are clearly behind are dropped early. Every answer is kept in
    ``store``, so that the same call goes on where it was stopped.

    Parameters
    ----------
    source : path, list of str, pair (texts, labels), or name of a built-in text set
        The pile. A column ``label`` may hold the labels of some or of all texts; only those that are bought are looked
        at, but for the names of the labels.
    lm : str, path or anytask.lm.LanguageModel
        The frozen model: see :func:`anytask.lm.load_lm`.
    annotate : callable, optional
        ``annotate(places) -> labels`` is asked for labels that are neither in the column nor in ``answers``.
    answers : path, optional
        A .jsonl or .csv file of texts and their labels.
    budget : Budget or mapping, optional
        Limits of the search: ``{"calls": 5000, "tokens": ..., "money": ..., "seconds": ...}``.
    store : path, default ":memory:"
        SQLite file that keeps the model's answers.
    progress : callable, optional
        Told the finished share.
    **options
        ``labels=16``, ``choices``, ``description``, ``template``, ``verbalizer``, ``max_k=16``, ``context``,
        ``chat_template``, ``compress=False``, ``prune=0``, ``text="text"``, ``target="label"``, ``bad_rows``,
        ``embedder``, ``seed=0``: see :class:`TuningOptions`.

    Returns
    -------
    Tuning
        With ``best``, ``pipeline``, ``nested``, ``table()``, ``plot()``, ``save(folder)``.

    Raises
    ------
    BadData
        A ``ValueError``, in one line, before the model is asked.

    Examples
    --------
    >>> from anytask.datasets.attribute_language import AttributeLanguage
    >>> language = AttributeLanguage(seed=0)
    >>> pile = [language.sentence() for _ in range(80)]
    >>> said = [s.attributes["topic"] for s in pile]
    >>> tuning = tune_prompt([s.text for s in pile], lm="tiny:icl", annotate=lambda places: [said[i] for i in places])
    >>> tuning.best.accuracy > tuning.untuned.accuracy - 0.2
    True
    """
    given: dict[str, Any] = {"annotate": annotate, "answers": answers, "budget": budget, "store": store}
    return prepare_tuning(source, lm=lm, **given, **options).run(progress)


def prepare_tuning(
    source: Any,
    *,
    lm: Any,
    annotate: Annotate | None = None,
    answers: str | os.PathLike[str] | None = None,
    budget: Budget | Mapping[str, float] | None = None,
    store: str | os.PathLike[str] = ":memory:",
    **options: Any,
) -> Plan:
    """Return a :func:`tune_prompt` whose labels are bought, which can say what it will cost, and can be run."""
    o = TuningOptions.checked({"lm": lm, **options}, "tune-prompt")
    limits = Budget.of(budget)
    if not o.lm:
        raise BadData("tune-prompt needs a language model: a folder, a Hugging Face name, a URL or tiny:icl")
    model = o.evolve(chat_template=None).model
    pile = load_pile(source, o.text, o.target, o.bad_rows)
    if any(pile.labels) and not all(pile.labels) and annotate is None and answers is None:
        labelled = [i for i, label in enumerate(pile.labels) if label]
        columns: dict[str, Any] = {n: tuple(getattr(pile, n)[i] for i in labelled) for n in _COLUMNS}
        pile = replace(pile, **columns)
    pile = answerable(pile, model, o.prompts, budget=o.context, written=False, bad_rows=o.bad_rows)
    vectors = embed(o.embedder, pile.texts)
    places = worth_labelling(pile, o.labels, vectors, o.seed)
    labels = bought(pile, places, read_answers(answers, o.text, o.target), annotate)
    known = {*labels.values(), *filter(None, pile.labels)}
    choices = sorted(known) if o.choices is None else list(o.choices)
    if strange := sorted(set(labels.values()) - set(choices)):
        raise BadData(f"{pile.name}: the label {strange[0]!r} is not one of the choices: {', '.join(choices)}")
    if len(set(labels.values())) < 2:
        raise BadData(f"{pile.name}: all {len(labels)} labels that were bought are {next(iter(labels.values()))!r}")
    words = {"own words": dict(o.verbalizer)} if o.verbalizer else {}
    if wrong := sorted(set(choices) ^ set(o.verbalizer or choices)):
        raise BadData(f"verbalizer must name all labels and no other, and these differ: {wrong[:9]}")
    if tidy := tidied(choices):
        words["tidied labels"] = tidy
    if o.prune and not model.capabilities.logprobs:
        raise BadData(f"prune scores the labels after shorter prompts, and {model.name} gives no log-probabilities")
    raw = dict(models_of(model, o.chat_template))
    task = Task(
        [pile.texts[i] for i in places], [labels[i] for i in places], choices, replace(o.prompts, description=None),
        {chat: Metered(one, store, limits) for chat, one in raw.items()}, description=o.description, words=words,
        context=o.context, embedder=o.embedder, vectors=dict(zip(pile.texts, vectors)), seed=o.seed,
    )  # fmt: skip
    return Plan(pile, o, task, raw, command_of(source, o), store)


_COLUMNS = ("texts", "labels", "ids", "places")


def tidied(choices: Sequence[str]) -> dict[str, str] | None:
    """Return the labels as words are written, None where they are or where two become one.

    Examples
    --------
    >>> tidied(["CARD_LOST", "refund"]), tidied(["good", "bad"])
    ({'CARD_LOST': 'card lost', 'refund': 'refund'}, None)
    """
    words = {label: " ".join(label.replace("_", " ").replace("-", " ").lower().split()) for label in choices}
    changed = any(label != word for label, word in words.items())
    return words if changed and len(set(words.values())) == len(words) and all(words.values()) else None


@dataclass
class Plan:
    """Labels that are bought, and the prompts to try on them."""

    pile: TextData
    options: TuningOptions
    task: Task
    models: Mapping[bool, Any]
    command: str
    store: str | os.PathLike[str] = ":memory:"

    @property
    def facts(self) -> dict[str, Any]:
        """What a record says of the tuning, whatever is known of its prompts."""
        lm = self.options.lm_name
        return {"data": self.pile.name, "labels": len(self.task.texts), "lm": lm, "command": self.command}

    @property
    def key(self) -> str:
        """By which the tuning is found in a record, however often it is started."""
        said = [self.facts, self.pile.fingerprint, list(self.task.labels), self.options.seed]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    @property
    def points(self) -> list[Point]:
        """The grid, in the order in which it is asked."""
        o, n = self.options, len(self.task.texts)
        ks = [0, *(2**i for i in range(12) if 2**i < n and 2**i <= o.max_k)]
        chat = [one for one in self.models if o.chat_template in (None, one)]
        descriptions = ["", "labels", *["own"] * (o.description is not None)]
        calibrate = bool(self.models[False].capabilities.logprobs)
        return grid(ks, descriptions=descriptions, words=["", *self.task.words], calibrate=calibrate, chat=chat)

    @property
    def forecast(self) -> Tally:
        """What the whole grid would use of the model, if nothing were dropped."""
        return sum(self.costs.values(), Tally())

    @cached_property
    def costs(self) -> dict[Point, Tally]:
        """What each point adds to that."""
        models = {chat: Metered(Rehearsal(one)) for chat, one in self.models.items()}
        labels = self.task.labels
        places = list(range(min(len(labels), REHEARSED)))
        task = replace(self.task, models=models)
        found = {}
        for point in [*self.points, UNTUNED]:
            meter = models[point.chat].lm.usage
            before = meter.total
            task.judge(point, places, Judged.blank(len(labels)))
            found[point] = (meter.total - before).times(len(labels) / len(places))
        return found

    def run(self, progress: Progress | None = None) -> Tuning:
        """Race the prompts, compare the winner with plain ways to answer, and return what was found."""
        tell, task, began = heard(progress), self.task, time.perf_counter()
        before = self.models[False].usage.total
        points, n = self.points, len(self.task.texts)
        total, cost = self.forecast, self.costs
        unit = "seconds" if total.seconds else "forward_tokens" if total.forward_tokens else "calls"
        whole = getattr(total, unit) or 1

        record, last = TuningRecord(self.store), 0.0

        def told(judged: Mapping[Point, Judged]) -> None:
            nonlocal last
            share = min(0.99, sum(getattr(cost[p], unit) * one.n / n for p, one in judged.items()) / whole)
            tell(share)
            if time.monotonic() > last + RECORD_EVERY:
                last = time.monotonic()
                record.put(self.key, {**self.facts, **so_far(judged), "share": share})

        plain = [point for point in points if point == replace(ZERO_SHOT, chat=point.chat)][:1]
        judged, finalists, stopped = race(
            points, task.judge, task.labels, keep=plain, seed=self.options.seed, tell=told
        )
        if not finalists:
            raise BudgetExceeded(f"nothing could be asked: {stopped}")
        for point in self._shorter(best_of(judged, finalists)):
            judged[point] = self._asked(point)
            finalists += [point] * (judged[point].n > 0)
        if pruned := self._pruned(judged, finalists):
            finalists = [pruned]
        references = {"zero-shot": judged[plain[0]], "untuned default": self._asked(UNTUNED)}
        hits, said = self._classifier()
        seconds = time.perf_counter() - began
        found = Tuning(
            self.pile, self.options, task, self.models, judged, finalists, references, hits, said,
            self.models[False].usage.total - before, seconds, stopped, self.command,
        )  # fmt: skip
        record.put(self.key, {**self.facts, **found.state()})
        tell(1.0)
        return found

    def _pruned(self, judged: dict[Point, Judged], finalists: Sequence[Point]) -> Point | None:
        """Return the best prompt that can be pruned, pruned, if that is at least as good as the choice."""
        able = prunable(finalists) if self.options.prune else []
        if not able:
            return None
        try:
            point, judged_ = prune(self.task, best_of(judged, able), self.options.prune)
        except BudgetExceeded:
            return None
        judged[point] = judged_
        (hits, best), asked = hits_of(judged, [point, best_of(judged, finalists)])
        return point if hits[asked].mean() >= best[asked].mean() else None

    def _shorter(self, best: Point) -> list[Point]:
        """Return the choice with shortened inputs, where that is wanted."""
        return [replace(best, rate=rate) for rate in RATES] if self.options.compress else []

    def _asked(self, point: Point) -> Judged:
        """Return what is known of a point after it was asked about all texts; nothing, if the budget is too small."""
        into = Judged.blank(len(self.task.texts))
        try:
            self.task.judge(point, range(len(self.task.texts)), into)
        except BudgetExceeded:
            return Judged.blank(len(self.task.texts))
        return into

    def _classifier(self) -> tuple[np.ndarray, list[str]]:
        """Logistic regression on embeddings, trained on the other labels: whether it is right, and what it says."""
        texts, labels, said = list(self.task.texts), list(self.task.labels), []
        for i, text in enumerate(texts):
            model = EmbeddingClassifier(embedder=self.task, seed=self.options.seed)
            said += model.fit(texts[:i] + texts[i + 1 :], labels[:i] + labels[i + 1 :]).predict([text])
        return np.array([a == b for a, b in zip(said, labels)], dtype=float), said
