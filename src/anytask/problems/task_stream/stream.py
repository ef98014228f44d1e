"""One stream out of labelled data: its tasks, mini-batches and borders."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from anytask.core.rng import derive
from anytask.problems.labelled import LabelledSet
from anytask.problems.task_stream.episodes import Episodes, few_shot_classes
from anytask.problems.task_stream.options import StreamOptions
from anytask.problems.task_stream.tasks import make_tasks, transform


@dataclass(frozen=True)
class StreamFacts:
    """What a system may know of a stream before it starts; the number of tasks and their borders are not in it.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of one input.
    batch_size : int
        Largest number of rows in a mini-batch.
    epochs : int
        Passes over each task before the next.
    classes_per_task : int
        Classes in a task (in the largest, if they differ).
    n_classes : int
        Different labels in the whole stream.
    repeats : bool
        Whether a label is shown again after a task that held it has ended.
    """

    input_shape: tuple[int, ...]
    batch_size: int
    epochs: int
    classes_per_task: int
    n_classes: int
    repeats: bool


@dataclass(frozen=True)
class StreamData(LabelledSet):
    """Labelled data with the options that make streams of them; a seed picks one stream.

    Examples
    --------
    >>> from anytask.problems.task_stream import TaskStream
    >>> data = TaskStream().load("digits", n_tasks=5)
    >>> stream = data.stream(seed=0)
    >>> [task.classes.tolist() for task in stream.tasks]
    [[6, 9], [1, 5], [7, 8], [2, 4], [0, 3]]
    """

    options: StreamOptions

    def stream(self, seed: int) -> Stream:
        """Return the stream of this seed."""
        return Stream(self, seed)

    def facts(self) -> dict[str, Any]:
        """Return facts on the data and the stream of seed 0."""
        stream = self.stream(0)
        return super().facts() | {
            "tasks": [task.name for task in stream.tasks],
            "segments": [task + 1 for task in stream.visits],
            "batches": stream.n_batches,
            "train_examples": [len(task.train) for task in stream.tasks],
            "test_examples": [len(task.test) for task in stream.tasks],
            "scaled": stream.scaled,
        }


class Stream:
    """One stream: tasks, the order in which they are visited, and shuffled mini-batches of their training rows.

    Without ``hold_out``, the test rows are trained on as well.

    Attributes
    ----------
    tasks : list of Task
        The different tasks; only those that the stream visits.
    visits : list of int
        Which task each segment of the stream belongs to.
    batches : list of (rows, owners)
        Row numbers of each mini-batch, and the segment that each row belongs to (one and the same, unless borders are
        blurred).
    ends : list of int
        Number of batches up to the end of each segment. The end of a blurred border is its middle.
    borders : list of int
        The batch that first holds rows of the next segment: where a change can first be noticed.
    """

    def __init__(self, data: StreamData, seed: int, hold_out: bool = True) -> None:
        self.data, self.seed = data, seed
        self.tasks, self.visits = make_tasks(data.source, data.options, seed)
        if not hold_out:
            self.tasks = [replace(t, train=np.sort(np.concatenate([t.train, t.test]))) for t in self.tasks]
        self.batches, self.ends, self.borders = self._schedule()

    @property
    def several(self) -> bool:
        """Whether a row may have several labels."""
        return self.data.source.label_names is not None

    @property
    def n_batches(self) -> int:
        """Mini-batches in the whole stream."""
        return len(self.batches)

    @cached_property
    def facts(self) -> StreamFacts:
        """What a system may know beforehand."""
        options = self.data.options
        shown = [self.shown_labels(k).tolist() for k in self.visits]
        n_classes = len(set().union(*shown))
        repeats = options.blur > 0 or sum(map(len, shown)) > n_classes
        shape, largest = self.data.source.input_shape, max(map(len, shown))
        return StreamFacts(shape, options.batch_size, options.epochs, largest, n_classes, repeats)

    @cached_property
    def episodes(self) -> Episodes | None:
        """Few-shot tests on the classes that are never taught; None where all are."""
        options, y = self.data.options, self.data.source.y
        if not options.unseen:
            return None
        rows = np.flatnonzero(np.isin(y, few_shot_classes(y, options, self.seed)[1]))
        return Episodes.draw(y, rows, options, self.seed)

    @cached_property
    def scaled(self) -> bool:
        """Whether inputs are standardised."""
        scale, source = self.data.options.scale, self.data.source
        low, high = source.value_range
        return scale == "standard" or (scale == "auto" and source.kind != "images" and not (low >= 0 and high <= 1))

    def inputs(self, rows: np.ndarray, task: int) -> np.ndarray:
        """Return the inputs of these rows as task number ``task`` shows them, float32 (n, \\*input_shape)."""
        X = np.asarray(self.data.source.X[rows], dtype=np.float32)
        if self.scaled:
            mean, std = self.statistics
            X = (X - mean) / std
        return transform(X, self.data.options.scenario, self.tasks[task].level)

    def labels(self, rows: np.ndarray, task: int) -> np.ndarray:
        """Return the labels of these rows as task number ``task`` shows them, shape (n,).

        Where rows have several labels, those of the task's classes alone: zeros and ones (n, classes).
        """
        y = self.data.source.y[rows]
        if (names := self.data.source.label_names) is not None:
            return y[:, [names.tolist().index(label) for label in self.tasks[task].classes.tolist()]]
        return y if self.data.options.labels == "global" else np.searchsorted(self.tasks[task].classes, y)

    def shown_labels(self, task: int) -> np.ndarray:
        """Return the different labels that task number ``task`` shows."""
        classes = self.tasks[task].classes
        return classes if self.data.options.labels == "global" else np.arange(len(classes))

    def parts(self, batch: int) -> Iterator[tuple[np.ndarray, int]]:
        """Give a mini-batch as (rows, task): one pair, or one for each task in it where borders are blurred."""
        rows, owners = self.batches[batch]
        tasks = np.array(self.visits)[owners]
        for task in dict.fromkeys(tasks.tolist()):
            yield rows[tasks == task], task

    @cached_property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of one input, each of the shape of an input."""
        from sklearn.preprocessing import StandardScaler

        # Of the training rows of the first task alone: a learner in the stream knows no more when it starts.
        rows, source, scaler = self.tasks[self.visits[0]].train, self.data.source, StandardScaler()
        for part in np.array_split(rows, max(1, len(rows) // 4096)):
            scaler.partial_fit(source.X[np.sort(part)].reshape(len(part), -1).astype(np.float64))
        mean, std = (values.astype(np.float32).reshape(source.input_shape) for values in (scaler.mean_, scaler.scale_))
        return mean, std

    def _schedule(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[int], list[int]]:
        options = self.data.options
        segments, owners = [], []
        for s, k in enumerate(self.visits):
            rng = np.random.default_rng(derive(self.seed, "task-stream", "shuffle", s))
            segments.append(np.concatenate([rng.permutation(self.tasks[k].train) for _ in range(options.epochs)]))
            owners.append(np.full(len(segments[-1]), s))
        rng = np.random.default_rng(derive(self.seed, "task-stream", "blur"))
        for s in range(len(segments) - 1):
            half = int(options.blur / 2 * min(len(segments[s]), len(segments[s + 1])))
            if half:
                # Sorting times with densities 2(1-t) and 2t lets the next task's share grow linearly from 0 to 1,
                # while each row is still shown exactly `epochs` times.
                times = np.concatenate([1 - np.sqrt(1 - rng.random(half)), np.sqrt(rng.random(half))])
                order = np.argsort(times, kind="stable")
                for arrays in (segments, owners):
                    mixed = np.concatenate([arrays[s][-half:], arrays[s + 1][:half]])[order]
                    arrays[s][-half:], arrays[s + 1][:half] = mixed[:half], mixed[half:]
        batches: list[tuple[np.ndarray, np.ndarray]] = []
        ends = []
        for rows, owner in zip(segments, owners):
            # Nearly equal batches: a last batch of one row would make a noisy step.
            n = math.ceil(len(rows) / options.batch_size)
            batches += list(zip(np.array_split(rows, n), np.array_split(owner, n)))
            ends.append(len(batches))
        first: dict[int, int] = {}
        for b, (_, owner) in enumerate(batches):
            for s in np.unique(owner).tolist():
                first.setdefault(s, b)
        return batches, ends, [first[s] for s in range(1, len(self.visits))]
