"""What a tuning found: the prompts with their accuracies and costs, beside plain ways to answer; and its files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.datasets.text import TextData
from anytask.incontext import Pipeline
from anytask.lm.accounts import Tally
from anytask.problems.answers import answer_figures, confusion, one_answer
from anytask.tuning import handover
from anytask.tuning.grid import Judged, Point, Task
from anytask.tuning.race import best_of, hits_of, nested_hits
from anytask.tuning.record import CAPTION, curve, front

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["Tuning"]


@dataclass(frozen=True)
class Tried:
    """One prompt that was tried, or a plain way to answer.

    Attributes
    ----------
    name : str
    point : Point or None
    accuracy : float
        Share of the labelled texts that were answered right by the others' labels.
    smoothed : float
        The accuracy smoothed over margins, by which prompts are chosen; of a prompt that was dropped, the choice's less
        the mean difference on the texts that both were asked about. NaN for plain ways.
    logprob : float
        Mean log-probability of the right label.
    tokens : float
        Mean length of a query's prompt.
    asked : int
        Labelled texts that it was asked about: fewer than all where it was dropped.
    """

    name: str
    point: Point | None
    accuracy: float
    smoothed: float
    logprob: float
    tokens: float
    asked: int

    def as_dict(self, role: str) -> dict[str, Any]:
        """Return a row of a table; ``role`` is "best", "tried" or "plain"."""
        names = ("accuracy", "smoothed", "logprob", "tokens", "asked")
        return {"prompt": self.name, **{name: getattr(self, name) for name in names}, "role": role}


@dataclass
class Tuning:
    """The prompts that were tried on a pile of texts, and the best of them.

    Attributes
    ----------
    best, zero_shot, untuned, classifier : Tried
        The choice; a plain question without help; eight random demonstrations; logistic regression on embeddings.
    nested : float
        Nested leave-one-out accuracy: of each labelled text, answered by the prompt that is chosen without looking at
        it. The accuracy to expect of :attr:`best`, whose own one was looked at when it was chosen.
    rows : list of Tried
        All prompts, the best first.
    pipeline : anytask.incontext.Pipeline
        The choice, ready to ``predict`` and to ``save``.
    warnings : list of str
    usage : Tally
        What the search used of the model.
    seconds : float
    stopped : str
        Why the search ended before all was asked; "" if it did not.
    command : str
        What to type to get this again.
    """

    pile: TextData
    options: Any
    task: Task
    models: Mapping[bool, Any]
    judged: Mapping[Point, Judged]
    finalists: list[Point]
    references: Mapping[str, Judged]
    classified: np.ndarray
    classes: list[str]
    usage: Tally
    seconds: float
    stopped: str = ""
    command: str = ""

    # -- what was found ---------------------------------------------------------------------------------------------

    @cached_property
    def chosen(self) -> Point:
        """The point of the best smoothed accuracy among the finalists."""
        return best_of(self.judged, self.finalists)

    @cached_property
    def rows(self) -> list[Tried]:
        """All prompts that were asked, the best first."""
        points = [point for point, one in self.judged.items() if one.n]
        hits, _ = hits_of(self.judged, points)
        best = hits[points.index(self.chosen)]
        smoothed = np.nanmean(best) + np.nanmean(hits - best, axis=1)
        found = [_tried(str(point), point, self.judged[point], mean) for point, mean in zip(points, smoothed)]
        return sorted(found, key=lambda row: (-row.smoothed, row.point != self.chosen))

    @property
    def best(self) -> Tried:
        """The prompt to use."""
        return next(row for row in self.rows if row.point == self.chosen)

    @property
    def zero_shot(self) -> Tried:
        """The plain question."""
        return self._reference("zero-shot", Point())

    @property
    def untuned(self) -> Tried:
        """Eight random demonstrations."""
        return self._reference("untuned default", Point(8, "random"))

    @property
    def classifier(self) -> Tried:
        """Logistic regression on sentence embeddings of the same labelled texts."""
        n = len(self.classified)
        return Tried("logistic regression", None, float(self.classified.mean()), np.nan, np.nan, 0.0, n)

    @cached_property
    def nested(self) -> float:
        """Nested leave-one-out accuracy."""
        return float(np.nanmean(nested_hits(self.judged, self.finalists)))

    @cached_property
    def pipeline(self) -> Pipeline:
        """The choice, ready to answer: its model has no budget."""
        return replace(self.task, models=self.models).pipeline(self.chosen, embedder=self.options.embedder)

    @property
    def front(self) -> list[Tried]:
        """The prompts that no shorter one is better than, the shortest first."""
        names = [row["prompt"] for row in front(self.state()["prompts"])]
        return sorted((row for row in self.rows if row.name in names), key=lambda row: row.tokens)

    @property
    def runs(self) -> list[Any]:
        """What is said of answers, in the form that :mod:`anytask.problems.answers` reads."""
        labels, choices = list(self.task.labels), list(self.task.choices)
        answers = {"best": self.judged[self.chosen].said, "logistic regression": self.classes}
        known = {name: [i for i, one in enumerate(said) if one] for name, said in answers.items()}
        return [
            SimpleNamespace(
                entrant_name=name,
                status="done",
                details=confusion([answers[name][i] for i in places], [labels[i] for i in places], choices),
            )
            for name, places in known.items()
        ]

    @property
    def warnings(self) -> list[str]:
        """What a user should know before the prompt is used."""
        found = one_answer(self.runs)
        if self.classifier.accuracy >= self.nested:
            found.append(
                f"Use the classifier instead: logistic regression on embeddings is right on "
                f"{self.classifier.accuracy:.0%} of the labelled texts (leave-one-out), the chosen prompt on "
                f"{self.nested:.0%} (nested leave-one-out), and it asks no language model."
            )
        if self.stopped:
            found.append(f"The search ended before all was asked: {self.stopped}.")
        return found

    def sentences(self) -> list[str]:
        """Return the answer in words, the most important first."""
        best, n = self.best, len(self.task.texts)
        tokens = f"{best.tokens:.0f} tokens a query"
        return [
            f"Ask with {best.name}: {best.accuracy:.0%} of the {n} labelled texts are right, with {tokens}.",
            f"Nested leave-one-out accuracy, which the search cannot flatter: {self.nested:.0%}.",
            f"Without tuning: {_share(self.zero_shot)} zero-shot, {_share(self.untuned)} with 8 random demonstrations; "
            f"logistic regression on embeddings: {_share(self.classifier)}.",
        ]

    def table(self) -> pd.DataFrame:
        """Return all prompts and plain ways to answer as a table, the best first.

        Columns: ``prompt, accuracy, smoothed, logprob, tokens, asked`` as in :class:`Tried`, and ``role`` ("best",
        "tried" or "plain").
        """
        import pandas as pd

        rows = [row.as_dict("best" if row.point == self.chosen else "tried") for row in self.rows]
        return pd.DataFrame([*rows, *(row.as_dict("plain") for row in self.plain)])

    @property
    def plain(self) -> list[Tried]:
        """The plain ways to answer."""
        return [self.zero_shot, self.untuned, self.classifier]

    def plot(self) -> go.Figure:
        """Return the curve of accuracy against tokens per query: all prompts, the best for each length joined."""
        state = self.state()
        return curve(state["prompts"], state["plain"])

    def state(self) -> dict[str, Any]:
        """Return what :class:`~anytask.tuning.record.TuningRecord` keeps of an ended tuning."""
        rows = [
            row.as_dict("best" if row.point == self.chosen else "tried") | {"example": self.judged[row.point].example}
            for row in self.rows
            if row.point is not None
        ]
        plain = {row.name: row.accuracy for row in self.plain if row.asked}
        return {"prompts": rows, "plain": plain, "sentences": self.sentences(), "warnings": self.warnings, "share": 1.0}

    def figures(self) -> list[tuple[str, str, go.Figure]]:
        """Return (title, caption, figure) triples for a report."""
        return [("Accuracy against tokens", CAPTION, self.plot()), *answer_figures(self.runs)]

    def to_json(self) -> dict[str, Any]:
        """Return what was found as plain values."""
        table = json.loads(self.table().to_json(orient="records"))
        spent = self.task.models[False].budget  # what was found in the store counts too
        return {
            "data": self.pile.name, "lm": self.options.lm_name, "kind": self.models[False].kind,
            "labels": len(self.task.texts), "choices": list(self.task.choices), "best": vars(self.chosen),
            "nested_leave_one_out": self.nested, "prompts": table, "warnings": self.warnings,
            "sentences": self.sentences(), "calls": spent.used_calls, "tokens": spent.used_tokens,
            "money": spent.used_money, "seconds": self.seconds, "stopped": self.stopped,
        }  # fmt: skip

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Hand over: a prompt to paste, the pipeline, a request body, lines of Python, the command, a report.

        Files of ``folder``: ``prompt.txt`` (with ``{input}`` for the query, or, where the nearest demonstrations are
        shown, an example), ``pipeline/``, ``request.json``, ``usage.py``, ``command.txt``, ``tuning.json``,
        ``report.html``.
        """
        handover.save(self, folder)

    def _reference(self, name: str, point: Point) -> Tried:
        return _tried(name, point, self.references[name], np.nan)


def so_far(judged: Mapping[Point, Judged]) -> dict[str, Any]:
    """Return the state of a tuning that runs: its prompts by their own answers, none chosen."""
    points = [point for point, one in judged.items() if one.n]
    smoothed = np.nanmean(hits_of(judged, points)[0], axis=1)
    rows = [
        _tried(str(point), point, judged[point], mean).as_dict("tried") | {"example": judged[point].example}
        for point, mean in zip(points, smoothed)
    ]
    return {"prompts": rows, "plain": {}, "sentences": [], "warnings": []}


def _tried(name: str, point: Point, found: Judged, mean: float) -> Tried:
    if not found.n:
        return Tried(name, point, np.nan, np.nan, np.nan, np.nan, 0)
    logprob = float(np.nanmean(found.logprob)) if np.isfinite(found.logprob).any() else np.nan
    return Tried(name, point, found.accuracy, float(mean), logprob, float(np.nanmean(found.tokens)), found.n)


def _share(row: Tried) -> str:
    return f"{row.accuracy:.0%}" if row.asked else "not asked"
