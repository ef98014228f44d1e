"""The last stage: PromptQuine takes tokens out of a prompt that all queries share, and is judged by cross-fitting."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from anytask.core.rng import derive
from anytask.incontext.pipeline import PLACES
from anytask.lm.placeholders import escape
from anytask.prompts import PromptQuine
from anytask.tuning.grid import Judged, Point, Task

#: Stands for the query while a prompt is taken apart: no text holds it.
_HOLE = "\ue000query\ue000"


def prunable(points: Sequence[Point]) -> list[Point]:
    """Return the points whose prompt is one for all queries, and whose scores are used as they are."""
    return [point for point in points if point.show == "fixed" and not point.calibrate and point.rate == 1]


def prune(task: Task, point: Point, budget: int) -> tuple[Point, Judged]:
    """Search a shorter prompt, and judge the search.

    The labelled texts that the prompt does not show are cut into two halves: what is found on each answers the other.
    The prompt to use is then searched on all of them, with the same seed.

    Parameters
    ----------
    task : Task
        Gets the prompt under the new point.
    point : Point
        One of :func:`prunable`.
    budget : int
        Prompts that each of the three searches may score.

    Returns
    -------
    point : Point
        The new one.
    judged : Judged
        Of the texts that the prompt does not show.
    """
    (prompt,) = task.pipeline(point).prompts([_HOLE])
    whole = "{text}".join(escape(part, PLACES) for part in prompt.split(_HOLE))
    rest = [i for i, text in enumerate(task.texts) if text not in prompt]
    words = [task.word(point, label) for label in task.choices]

    def found(places: Sequence[int]) -> str:
        examples = [{"text": task.texts[i], "label": task.choices.index(task.labels[i])} for i in places]
        answers, seed = [task.template.completion(word) for word in words], derive(task.seed, "prune")
        search = PromptQuine(whole, answers, budget=budget, min_length=8, seed=seed)
        with warnings.catch_warnings(action="ignore"):  # all examples of a half may have one label
            return search.search(task.models[point.chat], examples).prompt

    pruned, judged = replace(point, pruned=True), Judged.blank(len(task.texts))
    halves = rest[::2], rest[1::2]
    for known, asked in (halves, halves[::-1]):
        task.prompts[pruned] = found(known)
        task.judge(pruned, asked, judged)
    task.prompts[pruned] = found(rest)
    return pruned, judged
