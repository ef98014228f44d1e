"""One learner's way through a stream: what it is shown, what it answers, and how long it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anytask.core.rng import derive
from anytask.core.settings import taken
from anytask.problems.base import LEVELS, Entrant
from anytask.problems.task_stream.metrics import macro_ap
from anytask.problems.task_stream.stream import Stream

_CURVE_ITEMS = 256


@dataclass
class Walk:
    """A learner, the stream that it is shown, and how much of the tasks it is told.

    Attributes
    ----------
    access : str
        One of :data:`anytask.problems.base.LEVELS`.
    train_seconds : float
        Spent in the learner so far.
    batch_of_call : list of int
        The batch of the stream that each call of ``partial_fit`` was from.
    visited : list of int
        The tasks met so far.
    """

    model: Any
    stream: Stream
    access: str
    train_seconds: float = 0.0
    batch_of_call: list[int] = field(default_factory=list)
    visited: list[int] = field(default_factory=list)

    def through(self, entrants: Sequence[Entrant], progress: Callable[[float], object]) -> list[Exam]:
        """Show the whole stream; return an examination for each entrant, who differ in what is set after training."""
        stream = self.stream
        exams = [(LabelExam if stream.several else Exam)(entrant, self) for entrant in entrants]
        start = 0
        for s, end in enumerate(stream.ends):
            if stream.visits[s] not in self.visited:
                self.visited.append(stream.visits[s])
            n = stream.data.options.curve_points
            pauses = {start + math.ceil(j * (end - start) / n) for j in range(1, n + 1)}  # none for n = 0
            for b in range(start, end):
                self.teach(b)
                if b + 1 in pauses:
                    for exam in exams:
                        exam.mark_curve(b + 1, s, s + (b + 1 - start) / (end - start))
                progress((b + 1) / (stream.n_batches + 1))
            for exam in exams:
                exam.after_segment(s)
            start = end
        return exams

    def teach(self, b: int) -> None:
        """Show a mini-batch, and the end of its task where it is the last one and the learner may know."""
        self._show(b)
        if b + 1 in self.stream.ends and self.shows("boundary") and hasattr(self.model, "end_task"):
            self.train_seconds += timed(self.model.end_task)[0]

    def shows(self, what: str) -> bool:
        """Whether the learner is told as much of the tasks."""
        return LEVELS.index(self.access) >= LEVELS.index(what)

    def found_borders(self) -> list[int]:
        """Return the borders that the learner reports, as batches of the stream."""
        calls = [int(call) for call in self.model.borders_]
        wrong = [call for call in calls if not 0 <= call < len(self.batch_of_call)]
        if wrong:
            raise ValueError(f"borders_ names mini-batch {wrong[0]}, and {len(self.batch_of_call)} were shown")
        return [self.batch_of_call[call] for call in calls]

    def n_labels(self) -> int:
        """Return how many different labelled rows were shown."""
        return len(np.unique(np.concatenate([rows for rows, _ in self.stream.batches])))

    def _show(self, b: int) -> None:
        parts = [(r, self.stream.inputs(r, k), self.stream.labels(r, k), k) for r, k in self.stream.parts(b)]
        if self.shows("train"):
            for part in parts:
                self._feed(b, *part)
            return
        rows, X, y = (np.concatenate(column) for column in list(zip(*parts))[:3])
        if len(parts) > 1:  # shuffled, so that the order of the rows does not give the tasks away
            order = np.random.default_rng(derive(self.stream.seed, "task-stream", "mix", b)).permutation(len(y))
            rows, X, y = rows[order], X[order], y[order]
        self._feed(b, rows, X, y, None)

    def _feed(self, b: int, rows: np.ndarray, X: np.ndarray, y: np.ndarray, task: int | None) -> None:
        known = taken(self.model.partial_fit, sample_weight=self.stream.data.weights(rows))
        if self.stream.several:
            known["classes"] = self.stream.tasks[next(self.stream.parts(b))[1]].classes
        self.train_seconds += timed(lambda: self.model.partial_fit(X, y, task=task, **known))[0]
        self.batch_of_call.append(b)


class Exam:
    """What one entrant answers on the way.

    Attributes
    ----------
    R : ndarray of shape (n_segments, n_tasks)
        Accuracy on each task after each segment, NaN where no answer can be asked.
    curve : list of dict
        Accuracy on the tasks met so far, within the segments.
    unseen : list of float
        Accuracy on few-shot tasks of classes never taught, by the learner's features after each segment.
    predict_seconds : float
        Spent in the learner.
    """

    def __init__(self, entrant: Entrant, walk: Walk) -> None:
        self.entrant, self.walk = entrant, walk
        self.R = np.full((len(walk.stream.visits), len(walk.stream.tasks)), np.nan)
        self.curve: list[dict[str, Any]] = []
        self.unseen: list[float] = []
        self.predict_seconds = 0.0

    def after_segment(self, s: int) -> None:
        """Test all tasks that can be asked for."""
        for k in range(self.R.shape[1]):
            if not self.walk.shows("test") or k in self.walk.visited:
                self.R[s, k] = self.accuracy(k, k)
        episodes = self.walk.stream.episodes
        if episodes is not None and hasattr(self.walk.model, "embed"):
            X = self.walk.stream.inputs(episodes.rows, 0)
            with self.entrant.applied_to(self.walk.model):
                seconds, Z = timed(lambda: self.walk.model.embed(X))
            self.predict_seconds += seconds
            self.unseen.append(episodes.accuracy(np.asarray(Z).reshape(len(X), -1)))

    def accuracy(self, k: int, told: int | None) -> float:
        """Return the accuracy on the test rows of task ``k``; ``told`` is passed on where the learner may see it."""
        test = self.walk.stream.tasks[k].test
        parts = [test[start : start + 1024] for start in range(0, len(test), 1024)]
        with self.entrant.applied_to(self.walk.model):
            right = np.concatenate([self._right(part, k, told) for part in parts])
        return float(np.average(right, weights=self.walk.stream.data.weights(test)))

    def routed_accuracy(self) -> float:
        """Return the share of test rows whose task the learner finds, and whose label is right then too."""
        stream, shares = self.walk.stream, []
        with self.entrant.applied_to(self.walk.model):
            for k, task in enumerate(stream.tasks):
                right = self._right(task.test, k, None) & (self.walk.model.route(stream.inputs(task.test, k)) == k)
                shares.append(float(np.average(right, weights=stream.data.weights(task.test))))
        return float(np.mean(shares))

    def mark_curve(self, batch: int, segment: int, position: float) -> None:
        """Note the accuracy on a sample of the tasks met so far."""
        stream, visited = self.walk.stream, self.walk.visited
        tasks = [stream.tasks[k] for k in visited]
        rows = np.concatenate([task.test for task in tasks])
        owner = np.repeat(visited, [len(task.test) for task in tasks])
        rng = np.random.default_rng(derive(stream.seed, "task-stream", "curve", *visited))
        chosen = rng.choice(len(rows), min(len(rows), _CURVE_ITEMS), replace=False)
        with self.entrant.applied_to(self.walk.model):
            right = [self._right(rows[chosen][owner[chosen] == k], k, k) for k in visited if (owner[chosen] == k).any()]
        drawn = np.concatenate([rows[chosen][owner[chosen] == k] for k in visited])
        accuracy = float(np.average(np.concatenate(right), weights=stream.data.weights(drawn)))
        self.curve.append({"batch": batch, "task": stream.visits[segment], "position": position, "accuracy": accuracy})

    def details(self) -> dict[str, Any]:
        """Return JSON-able series for the report."""
        stream = self.walk.stream
        return {
            "accuracy_matrix": [[None if math.isnan(value) else float(value) for value in row] for row in self.R],
            "curve": self.curve,
            **({"unseen": self.unseen} if self.unseen else {}),
            "borders_true": list(stream.borders),
            "segment_ends": list(stream.ends),
            "visits": list(stream.visits),
            "tasks": [task.name for task in stream.tasks],
            "classes": [task.classes.tolist() for task in stream.tasks],
            "shown": self.walk.access,
        }

    def _right(self, rows: np.ndarray, k: int, told: int | None) -> np.ndarray:
        stream = self.walk.stream
        X, y = stream.inputs(rows, k), stream.labels(rows, k)
        task = told if self.walk.shows("test") else None
        seconds, answers = timed(lambda: self.walk.model.predict(X, task=task))
        self.predict_seconds += seconds
        answers = np.asarray(answers)
        if answers.shape != y.shape:
            raise ValueError(f"predict returned the shape {answers.shape} for {len(y)} inputs")
        return answers == y


class LabelExam(Exam):
    """What one entrant answers where rows have several labels: ``R`` is the mean average precision of a task's classes.

    A class is asked for from its task on, over all test rows, and the task of a query is not told.

    Attributes
    ----------
    stages : list of (y, scores)
        After each segment, the labels (n, classes shown so far) of all test rows, and the entrant's probabilities.
    """

    def __init__(self, entrant: Entrant, walk: Walk) -> None:
        super().__init__(entrant, walk)
        self.stages: list[tuple[np.ndarray, np.ndarray]] = []

    def after_segment(self, s: int) -> None:
        """Ask for all labels shown so far."""
        stream, model = self.walk.stream, self.walk.model
        test = stream.tasks[0].test
        with self.entrant.applied_to(model):
            seconds, P = timed(lambda: np.asarray(model.predict_proba(stream.inputs(test, 0))))
        self.predict_seconds += seconds
        columns = np.asarray(model.classes_).tolist()
        order = [columns.index(label) for k in self.walk.visited for label in stream.tasks[k].classes.tolist()]
        y = np.concatenate([stream.labels(test, k) for k in self.walk.visited], axis=1)
        self.stages.append((y, P[:, order]))
        ends = np.cumsum([0, *(len(stream.tasks[k].classes) for k in self.walk.visited)])
        for k, start, stop in zip(self.walk.visited, ends, ends[1:]):
            self.R[s, k] = macro_ap(y[:, start:stop], P[:, order[start:stop]], stream.data.weights(test))

    def mark_curve(self, batch: int, segment: int, position: float) -> None:
        """Leave the curve out: precision over a few rows says little."""


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long a call took, and its result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result
