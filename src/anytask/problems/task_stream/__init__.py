"""Streams of tasks: labelled data that arrive in segments, with borders that a learner may or may not be told of."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.datasets.inputs import Inputs
from anytask.datasets.labelled import BUILTIN, LabelledData, load_labelled
from anytask.problems.base import LEVELS, Entrant, Metric, Outcome, Problem, Trained

SCENARIOS = ("class", "permuted", "rotated", "blurred", "domain", "recurring")
#: What the stream can show of the tasks, from least to most, in the places of :data:`anytask.problems.base.LEVELS`.
IDENTITY = ("none", "boundary", "train", "train+test")
_BRINGS = {
    "class": "each with classes of its own",
    "permuted": "each with the input values in another fixed order",
    "rotated": "each turned by another angle",
    "blurred": "each blurred by another width",
    "domain": "each from another domain",
    "recurring": "each with classes of its own, which come back",
}
_ANNOUNCED = {
    "none": "Nobody tells them when a task ends, or which task a query is from.",
    "boundary": "They may be told when a task ends, but never which task it is.",
    "train": "They may be told the task of the training data, but not that of a query.",
    "train+test": "They may be told which task training data and queries are from.",
}
_N_TASKS = 5
_CURVE_ITEMS = 256


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
    """

    input_shape: tuple[int, ...]
    batch_size: int
    epochs: int
    classes_per_task: int
    n_classes: int


@dataclass(frozen=True)
class StreamOptions:
    """The options of :meth:`TaskStream.load` that change what a run sees, checked."""

    scenario: str = "class"
    n_tasks: int = _N_TASKS
    classes_per_task: tuple[int, ...] | None = None
    order: tuple[str, ...] | None = None
    identity: str = "train+test"
    epochs: int = 10
    batch_size: int = 16
    test_size: float = 0.25
    scale: str = "auto"
    labels: str = "global"
    blur: float = 0.0
    max_per_class: int | None = None
    levels: tuple[float, ...] | None = None
    curve_points: int = 4


@dataclass(frozen=True)
class Task:
    """One task: its name, its classes, the rows it trains and tests on, and its permutation, angle or width if any."""

    name: str
    classes: np.ndarray
    train: np.ndarray
    test: np.ndarray
    level: Any = None


@dataclass(frozen=True)
class StreamData:
    """Labelled data with the options that make streams of them; a seed picks one stream.

    Examples
    --------
    >>> data = TaskStream().load("digits", n_tasks=5)
    >>> stream = data.stream(seed=0)
    >>> [task.classes.tolist() for task in stream.tasks]
    [[6, 9], [1, 5], [7, 8], [2, 4], [0, 3]]
    """

    labelled: LabelledData
    options: StreamOptions
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.labelled.name

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of every option."""
        text = json.dumps([self.labelled.fingerprint, asdict(self.options)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def stream(self, seed: int) -> Stream:
        """Return the stream of this seed."""
        return Stream(self, seed)

    def describe(self) -> dict[str, Any]:
        """Return facts for the report; sizes are those of the stream of seed 0."""
        stream = self.stream(0)
        classes, counts = np.unique(self.labelled.y, return_counts=True)
        return {
            "source": self.name,
            "kind": self.labelled.kind,
            "examples": len(self.labelled.y),
            "input_shape": list(self.labelled.input_shape),
            "classes": {str(c): int(n) for c, n in zip(classes.tolist(), counts)},
            "tasks": [task.name for task in stream.tasks],
            "segments": [task + 1 for task in stream.visits],
            "batches": stream.n_batches,
            "train_examples": [len(task.train) for task in stream.tasks],
            "test_examples": [len(task.test) for task in stream.tasks],
            "scaled": stream.scaled,
            "options": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.options).items()},
            "notes": [*self.labelled.notes, *self.notes],
            "fingerprint": self.fingerprint,
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
        self.tasks, self.visits = _make_tasks(data, seed)
        if not hold_out:
            self.tasks = [replace(t, train=np.sort(np.concatenate([t.train, t.test]))) for t in self.tasks]
        self.batches, self.ends, self.borders = self._schedule()

    @property
    def n_batches(self) -> int:
        """Mini-batches in the whole stream."""
        return len(self.batches)

    @cached_property
    def facts(self) -> StreamFacts:
        """What a system may know beforehand."""
        options = self.data.options
        sizes = [len(task.classes) for task in self.tasks]
        n_classes = len(np.unique(np.concatenate([self.shown_labels(k) for k in range(len(self.tasks))])))
        shape = self.data.labelled.input_shape
        return StreamFacts(shape, options.batch_size, options.epochs, max(sizes), n_classes)

    @cached_property
    def scaled(self) -> bool:
        """Whether inputs are standardised."""
        scale, labelled = self.data.options.scale, self.data.labelled
        low, high = labelled.value_range
        return scale == "standard" or (scale == "auto" and labelled.kind != "images" and not (low >= 0 and high <= 1))

    def inputs(self, rows: np.ndarray, task: int) -> np.ndarray:
        """Return the inputs of these rows as task number ``task`` shows them, float32 (n, \\*input_shape)."""
        X = np.asarray(self.data.labelled.X[rows], dtype=np.float32)
        if self.scaled:
            mean, std = self.statistics
            X = (X - mean) / std
        return _transform(X, self.data.options.scenario, self.tasks[task].level)

    def labels(self, rows: np.ndarray, task: int) -> np.ndarray:
        """Return the labels of these rows as task number ``task`` shows them, shape (n,)."""
        y = self.data.labelled.y[rows]
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
        # Of the training rows of the first task alone: a learner in the stream knows no more when it starts.
        rows = self.tasks[self.visits[0]].train
        total = squares = np.zeros(self.data.labelled.input_shape)
        for part in np.array_split(rows, max(1, len(rows) // 4096)):
            X = self.data.labelled.X[np.sort(part)].astype(np.float64)
            total, squares = total + X.sum(0), squares + (X**2).sum(0)
        mean = total / len(rows)
        variance = np.maximum(squares / len(rows) - mean**2, 0)
        constant = variance <= 1e-12 * (1 + mean**2)
        return mean.astype(np.float32), np.where(constant, 1, np.sqrt(variance)).astype(np.float32)

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


class TaskStream(Problem):
    """Learn from a stream of tasks without forgetting the earlier ones.

    The labelled data are cut into tasks (see the option ``scenario``), the tasks into training and test rows, and the
    training rows are shown in shuffled mini-batches, ``epochs`` passes over a task before the next one comes. Each
    system is shown no more of the tasks than its class declares by ``sees``, and than ``identity`` allows. After each
    task, all tasks are tested. Test rows are never trained on: one split serves all tasks that share rows.

    Metrics
    -------
    With ``R[s, k]`` the accuracy on task ``k`` after segment ``s`` (the accuracy matrix), S segments, and ``v[s]`` the
    task of segment ``s``:

    * ``accuracy``: mean of ``R[S-1, :]``.
    * ``forgetting``: mean over all tasks but ``v[S-1]`` of (best accuracy since its first visit and before the last
      segment) - (final accuracy). Negative where later tasks helped.
    * ``backward_transfer``: mean over the same tasks of final accuracy - accuracy right after its last visit.
    * ``forward_transfer``: mean over the tasks first visited later than the first segment of (accuracy just before
      that visit) - 1/C, where C is the number of labels in the task: chance stands for an untrained learner. Only
      tasks all of whose labels were shown before count; NaN if there is none (as in class-incremental streams) and for
      systems that are told the task at test, which cannot be asked about a task they never met.
    * ``learning_accuracy``: mean of ``R[s, v[s]]``.
    * ``accuracy_without_task``: ``accuracy`` without the task's identity, for systems that use it but can do without.
    * ``detection_delay``, ``false_alarms``, ``missed_borders``: for systems that list the mini-batches at which they
      decided that a new segment began in ``borders_``; see :func:`match_borders`.
    * ``experts``: the system's ``n_experts_``.

    ``predict_seconds`` includes whatever a system trains on demand when it is asked.

    Examples
    --------
    >>> problem = TaskStream()
    >>> data = problem.load("digits", scenario="permuted", n_tasks=3, epochs=2)
    >>> data.stream(seed=0).facts
    StreamFacts(input_shape=(64,), batch_size=16, epochs=2, classes_per_task=10, n_classes=10)
    """

    key = "task-stream"
    title = "Learning from a stream of tasks"
    bounds: ClassVar[Mapping[str, Literal["lower", "upper"]]] = {"fine-tuning": "lower", "joint-training": "upper"}
    privileges: ClassVar[Mapping[str, str]] = {"joint-training": "all data at once"}
    metrics = (
        Metric("accuracy", "Final accuracy over all tasks"),
        Metric("forgetting", "Forgetting", higher_is_better=False),
        Metric("backward_transfer", "Backward transfer"),
        Metric("forward_transfer", "Forward transfer (above chance)"),
        Metric("learning_accuracy", "Accuracy right after learning a task"),
        Metric("accuracy_without_task", "Final accuracy without the task's identity"),
        Metric("detection_delay", "Delay in noticing a border", higher_is_better=False, unit="batches"),
        Metric("false_alarms", "False alarms", higher_is_better=False, unit="alarms"),
        Metric("missed_borders", "Missed borders", higher_is_better=False, unit="borders"),
        Metric("experts", "Experts", higher_is_better=False, unit="experts"),
    )
    options: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "scenario": (
            None,
            "how tasks arise: class (each task brings new classes), permuted (values in another fixed order per task), "
            "rotated, blurred (images), domain (the task column), recurring (class tasks that come back); "
            "default domain if the data have a task column, else class",
        ),
        "n_tasks": (_N_TASKS, "number of tasks (class and recurring: fewer if the default asks for too many)"),
        "classes_per_task": (None, "class and recurring: classes in each task, as 2 or 4,3,3; instead of n_tasks"),
        "order": (
            None,
            "class: the class names in their order, as cat,dog,...; domain: the task names, repeats allowed; others: "
            "task numbers from 1, repeats allowed, as 1,2,3,2,4; default: classes by seed, tasks in turn",
        ),
        "identity": ("train+test", "the most the stream shows of the tasks: none, boundary, train, train+test"),
        "epochs": (10, "passes over each task before the next"),
        "batch_size": (16, "rows in a mini-batch"),
        "test_size": (0.25, "share of each class that is kept for testing, above 0 and below 1"),
        "target": (None, "column, array or file with the labels"),
        "task": (None, "column, array or file with the task of each row"),
        "image_size": (None, "size to which a folder's images are resized, as 32 or 32x48"),
        "scale": (
            "auto",
            "standardise the inputs by the first task's training rows: auto (unless images or all in [0, 1]), "
            "standard, none",
        ),
        "labels": ("global", "global (as in the data) or local (0, 1, ... inside each task)"),
        "blur": (0.0, "share of a segment's batches, at its borders, that mix it with its neighbours, 0 to 1"),
        "max_per_class": (None, "at most this many rows of each class (of each task in domain), chosen by seed"),
        "levels": (None, "rotated: degrees, blurred: Gaussian widths in pixels, one per task, as 0,45,90"),
        "curve_points": (4, "evaluations per task for the curve over the stream; 0 for no curve"),
    }

    def load(self, source: Any, **options: Any) -> StreamData:
        """Return the data with checked options; ``source`` as in :func:`anytask.datasets.labelled.load_labelled`."""
        for name in options:
            if name not in self.options:
                near = difflib.get_close_matches(name, self.options, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ";"
                raise BadData(f"unknown option {name!r}{hint} Options: {', '.join(self.options)}")
        given = {name: value for name, value in options.items() if value is not None}
        loading = {name: given.pop(name) for name in ("target", "task", "image_size") if name in given}
        checked = _check_options(given)
        labelled = load_labelled(source, **loading)
        if "scenario" not in given and labelled.task is not None:
            checked["scenario"] = "domain"
        settings, notes = _fit_options(StreamOptions(**checked), labelled)
        return StreamData(labelled, settings, notes)

    def baselines(self, data: StreamData) -> tuple[Entrant, ...]:
        """Return the naive learner, the upper bound and three standard remedies against forgetting."""
        rows = (
            ("fine-tuning", "FineTuning"),
            ("joint-training", "JointTraining"),
            ("replay", "ExperienceReplay"),
            ("lwf", "LwF"),
            ("nearest-mean", "NearestClassMean"),
        )
        return tuple(Entrant(name, f"anytask.continual:{cls}", {}, "baseline") for name, cls in rows)

    def refuses(self, entrant: Entrant, data: StreamData) -> str | None:
        """Refuse learners that need to be told more of the tasks than the stream shows."""
        cls = entrant.load()
        for method in ("partial_fit", "predict"):
            if not hasattr(cls, method):
                return f"{entrant.name} has no {method}, so it cannot learn from a stream."
        needs = getattr(cls, "needs", "none")
        if LEVELS.index(needs) > IDENTITY.index(data.options.identity):
            wanted = {"boundary": "when a task ends", "train": "the task in training", "test": "the task at test"}[
                needs
            ]
            return f"{entrant.name} needs to be told {wanted}, and identity={data.options.identity!r} does not show it."
        return None

    def told(self, sees: str | None, options: Mapping[str, Any]) -> str:
        """Return what its class looks at of the tasks, as far as the stream shows it."""
        shown = IDENTITY.index(options.get("identity") or StreamOptions.identity)
        return LEVELS[min(LEVELS.index(sees or "none"), shown)]

    def setting(self, data: StreamData) -> str:
        """Return what the tasks are, and what nobody tells of them.

        Examples
        --------
        >>> problem = TaskStream()
        >>> problem.setting(problem.load("digits", identity="none"))  # doctest: +NORMALIZE_WHITESPACE
        'Learners meet 5 tasks of digits one after another, each with classes of its own, and must not forget the
        earlier ones. Nobody tells them when a task ends, or which task a query is from.'
        """
        options = data.options
        tasks = f"{options.n_tasks} tasks of {data.name} one after another, {_BRINGS[options.scenario]}"
        return f"Learners meet {tasks}, and must not forget the earlier ones. {_ANNOUNCED[options.identity]}"

    def run(
        self, entrant: Entrant, data: StreamData, seed: int, progress: Callable[[float], None] | None = None
    ) -> Outcome:
        """Lead one learner through the stream of this seed."""
        reason = self.refuses(entrant, data)
        if reason:
            raise ValueError(reason)
        stream = data.stream(seed)
        walk = self._walk(entrant, stream)
        preset = entrant.preset_or("small")
        R = walk.through(progress or (lambda share: None))

        metrics = stream_metrics(R, stream.visits)
        labels = [set(stream.shown_labels(k).tolist()) for k in range(R.shape[1])]
        metrics["forward_transfer"] = forward_transfer(R, stream.visits, labels)
        model, details = walk.model, walk.details(R)
        if walk.access == "test" and getattr(model, "needs", "none") != "test":
            metrics["accuracy_without_task"] = float(np.mean([walk.accuracy(k, None) for k in range(R.shape[1])]))
        if hasattr(model, "borders_"):
            found = walk.found_borders()
            delays, false_alarms, missed = match_borders(found, stream.borders, stream.n_batches)
            metrics["detection_delay"] = float(np.mean(delays)) if delays else math.nan
            metrics["false_alarms"], metrics["missed_borders"] = float(false_alarms), float(missed)
            details["borders_found"] = found
        if hasattr(model, "n_experts_"):
            metrics["experts"] = float(model.n_experts_)
        details["preset"] = preset
        notes = [f"Was shown of the tasks: {walk.access}."]
        if preset and preset != entrant.preset_or(None):
            notes.append(f"Used the preset {preset!r}.")
        cost = {"train_seconds": walk.train_seconds, "predict_seconds": walk.predict_seconds, "labels": walk.n_labels()}
        if hasattr(model, "cost"):
            cost |= {name: float(value) for name, value in model.cost().items()}
        return Outcome(metrics, details, cost, None, notes)

    def refit(
        self, entrant: Entrant, data: StreamData, seed: int, progress: Callable[[float], None] | None = None
    ) -> Trained:
        """Lead one learner through the stream of this seed, its test rows included."""
        stream, labelled = Stream(data, seed, hold_out=False), data.labelled
        walk = self._walk(entrant, stream)
        for b in range(stream.n_batches):
            walk.teach(b)
            if progress:
                progress((b + 1) / stream.n_batches)
        names, notes = [task.name for task in stream.tasks], [*labelled.notes, *data.notes]
        told = ", task=0" if walk.access == "test" else ""
        if told:
            notes.append(
                f"It was told the task of what it predicts: {', '.join(f'{k} ({n})' for k, n in enumerate(names))}."
            )
        if data.options.scenario in ("permuted", "rotated", "blurred"):
            notes.append(f"Inputs are expected as one of its tasks showed them: {', '.join(names)}.")
        if data.options.labels == "local":
            notes.append("Labels are local: 0, 1, ... within each task.")
        load, parts = f'{entrant.class_name}.load("{{folder}}")', [walk.model]
        lines = [entrant.import_line]
        if stream.scaled or labelled.kind == "images" or (labelled.feature_names and labelled.name not in BUILTIN):
            inputs = Inputs.of(labelled, stream.statistics if stream.scaled else None)
            parts.append(inputs)
            lines += ["from anytask.datasets.inputs import Inputs"]
            lines += [f'model, inputs = {load}, Inputs.load("{{folder}}")']
            lines += [f"labels = model.predict(inputs(X){told})  # X: {inputs.wanted}"]
        else:
            low, high = labelled.value_range
            about = f"numbers from {low:g} to {high:g} of shape (n, {', '.join(map(str, labelled.input_shape))})"
            lines += [f"model = {load}", f"labels = model.predict(X{told})  # X: {about}, as in {labelled.name}"]
        return Trained(tuple(parts), tuple(lines), tuple(notes))

    def _walk(self, entrant: Entrant, stream: Stream) -> _Walk:
        """Make the learner with the settings of its stream."""
        sees = getattr(entrant.load(), "sees", None)
        access = self.told(sees, {"identity": stream.data.options.identity})
        model = entrant.make("small", **_settings_for(entrant.load(), stream.facts), seed=stream.seed)
        return _Walk(model, stream, access)

    def figures(self, data: StreamData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return the accuracy matrices, the curves over the stream, the forgetting, and accuracy against time."""
        from anytask.problems.task_stream.figures import stream_figures

        return stream_figures(data.options.blur, runs)


@dataclass
class _Walk:
    """One learner's way through a stream: what it is shown, what it answers, and how long it takes."""

    model: Any
    stream: Stream
    access: str
    train_seconds: float = 0.0
    predict_seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    batch_of_call: list[int] = field(default_factory=list)
    visited: list[int] = field(default_factory=list)

    def through(self, progress: Callable[[float], None]) -> np.ndarray:
        """Show the whole stream; return the accuracy matrix (segments, tasks), NaN where no answer can be asked."""
        stream = self.stream
        R = np.full((len(stream.visits), len(stream.tasks)), np.nan)
        start = 0
        for s, end in enumerate(stream.ends):
            if stream.visits[s] not in self.visited:
                self.visited.append(stream.visits[s])
            n = stream.data.options.curve_points
            pauses = {start + math.ceil(j * (end - start) / n) for j in range(1, n + 1)}  # none for n = 0
            for b in range(start, end):
                self.teach(b)
                if b + 1 in pauses:
                    self._mark_curve(b + 1, s, s + (b + 1 - start) / (end - start))
                progress((b + 1) / (stream.n_batches + 1))
            for k in range(len(stream.tasks)):
                if not self._is_shown("test") or k in self.visited:
                    R[s, k] = self.accuracy(k, k)
            start = end
        progress(1.0)
        return R

    def accuracy(self, k: int, told: int | None) -> float:
        """Return the accuracy on the test rows of task ``k``; ``told`` is passed on where the learner may see it."""
        test = self.stream.tasks[k].test
        return float(np.mean(np.concatenate([self._right(part, k, told) for part in _cut(test, 1024)])))

    def details(self, R: np.ndarray) -> dict[str, Any]:
        """Return JSON-able series for the report."""
        tasks = self.stream.tasks
        return {
            "accuracy_matrix": [[None if math.isnan(value) else float(value) for value in row] for row in R],
            "curve": self.curve,
            "borders_true": list(self.stream.borders),
            "segment_ends": list(self.stream.ends),
            "visits": list(self.stream.visits),
            "tasks": [task.name for task in tasks],
            "classes": [task.classes.tolist() for task in tasks],
            "shown": self.access,
        }

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

    def _is_shown(self, what: str) -> bool:
        return LEVELS.index(self.access) >= LEVELS.index(what)

    def teach(self, b: int) -> None:
        """Show a mini-batch, and the end of its task where it is the last one and the learner may know."""
        self._show(b)
        if b + 1 in self.stream.ends and self._is_shown("boundary") and hasattr(self.model, "end_task"):
            self.train_seconds += _timed(self.model.end_task)[0]

    def _show(self, b: int) -> None:
        parts = [(self.stream.inputs(r, k), self.stream.labels(r, k), k) for r, k in self.stream.parts(b)]
        if self._is_shown("train"):
            for X, y, task in parts:
                self._feed(b, X, y, task)
            return
        X = np.concatenate([part[0] for part in parts])
        y = np.concatenate([part[1] for part in parts])
        if len(parts) > 1:  # shuffled, so that the order of the rows does not give the tasks away
            order = np.random.default_rng(derive(self.stream.seed, "task-stream", "mix", b)).permutation(len(y))
            X, y = X[order], y[order]
        self._feed(b, X, y, None)

    def _feed(self, b: int, X: np.ndarray, y: np.ndarray, task: int | None) -> None:
        self.train_seconds += _timed(lambda: self.model.partial_fit(X, y, task=task))[0]
        self.batch_of_call.append(b)

    def _right(self, rows: np.ndarray, k: int, told: int | None) -> np.ndarray:
        X, y = self.stream.inputs(rows, k), self.stream.labels(rows, k)
        task = told if self._is_shown("test") else None
        seconds, answers = _timed(lambda: self.model.predict(X, task=task))
        self.predict_seconds += seconds
        answers = np.asarray(answers)
        if answers.shape != y.shape:
            raise ValueError(f"predict returned the shape {answers.shape} for {len(y)} inputs")
        return answers == y

    def _mark_curve(self, batch: int, segment: int, position: float) -> None:
        tasks = [self.stream.tasks[k] for k in self.visited]
        rows = np.concatenate([task.test for task in tasks])
        owner = np.repeat(self.visited, [len(task.test) for task in tasks])
        rng = np.random.default_rng(derive(self.stream.seed, "task-stream", "curve", *self.visited))
        chosen = rng.choice(len(rows), min(len(rows), _CURVE_ITEMS), replace=False)
        right = [
            self._right(rows[chosen][owner[chosen] == k], k, k) for k in self.visited if (owner[chosen] == k).any()
        ]
        self.curve.append(
            {
                "batch": batch,
                "task": self.stream.visits[segment],
                "position": position,
                "accuracy": float(np.mean(np.concatenate(right))),
            }
        )


# -- metrics ------------------------------------------------------------------------------------------------------


def stream_metrics(R: np.ndarray, visits: Sequence[int]) -> dict[str, float]:
    """Return accuracy, forgetting, backward transfer and learning accuracy of an accuracy matrix.

    Parameters
    ----------
    R : ndarray of shape (n_segments, n_tasks)
        Accuracy on each task after each segment.
    visits : sequence of int
        The task of each segment; every task at least once.

    Examples
    --------
    >>> R = np.array([[1.0, 0.0], [0.75, 0.5]])
    >>> stream_metrics(R, [0, 1])
    {'accuracy': 0.625, 'forgetting': 0.25, 'backward_transfer': -0.25, 'learning_accuracy': 0.75}
    """
    earlier = [k for k in range(R.shape[1]) if k != visits[-1]]
    last = {k: s for s, k in enumerate(visits)}
    return {
        "accuracy": float(np.mean(R[-1])),
        "forgetting": float(np.mean([R[list(visits).index(k) : -1, k].max() - R[-1, k] for k in earlier])),
        "backward_transfer": float(np.mean([R[-1, k] - R[last[k], k] for k in earlier])),
        "learning_accuracy": float(np.mean([R[s, k] for s, k in enumerate(visits)])),
    }


def forward_transfer(R: np.ndarray, visits: Sequence[int], labels: Sequence[set[Any]]) -> float:
    """Return the mean accuracy above chance on tasks just before their first visit, or NaN where that is undefined.

    Parameters
    ----------
    R, visits
        As in :func:`stream_metrics`.
    labels : sequence of set
        The labels of each task; a task counts if all of them were shown before, and chance is 1/len.

    Examples
    --------
    >>> R = np.array([[1.0, 0.75], [1.0, 1.0]])
    >>> forward_transfer(R, [0, 1], [{"a", "b"}, {"a", "b"}]), forward_transfer(R, [0, 1], [{"a"}, {"b"}])
    (0.25, nan)
    """
    gains, shown = [], set(labels[visits[0]])
    for s, k in enumerate(visits):
        if k not in visits[:s] and s > 0 and labels[k] <= shown and not math.isnan(R[s - 1, k]):
            gains.append(R[s - 1, k] - 1 / len(labels[k]))
        shown |= labels[k]
    return float(np.mean(gains)) if gains else math.nan


def match_borders(found: Sequence[int], true: Sequence[int], n_batches: int) -> tuple[list[int], int, int]:
    """Match the borders a learner found with the true ones: (delays, false alarms, missed borders).

    The first detection at or after a true border and before the next one is that border's; all others are false
    alarms. A detection at batch 0, where the stream starts, is neither.

    Examples
    --------
    >>> match_borders([0, 11, 14, 25], true=[10, 20, 30], n_batches=40)
    ([1, 5], 1, 1)
    """
    ordered = sorted(b for b in found if b > 0)
    delays = []
    for start, stop in zip(true, [*true[1:], n_batches]):
        first = next((b for b in ordered if start <= b < stop), None)
        if first is not None:
            delays.append(first - start)
    return delays, len(ordered) - len(delays), len(true) - len(delays)


# -- making tasks -------------------------------------------------------------------------------------------------


def _make_tasks(data: StreamData, seed: int) -> tuple[list[Task], list[int]]:
    options, y, groups = data.options, data.labelled.y, data.labelled.task
    rng = np.random.default_rng(derive(seed, "task-stream", "classes"))
    by_domain = options.scenario == "domain" and groups is not None
    train, test = split_rows(y, groups if by_domain else None, options.test_size, options.max_per_class, seed)
    if options.scenario in ("class", "recurring"):
        classes = np.unique(y)
        if options.scenario == "class" and options.order is not None:
            named = {str(c): c for c in classes.tolist()}
            classes = np.array([named[name] for name in options.order])
        else:
            classes = rng.permutation(classes)
        sizes = options.classes_per_task or [len(part) for part in np.array_split(classes, options.n_tasks)]
        parts = np.split(classes, np.cumsum(sizes)[:-1])
        tasks = [
            Task(
                f"classes {', '.join(map(str, sorted(part.tolist())))}",
                np.sort(part), train[np.isin(y[train], part)], test[np.isin(y[test], part)],
            )
            for part in parts
        ]  # fmt: skip
    elif by_domain:
        assert groups is not None
        names = groups[np.sort(np.unique(groups, return_index=True)[1])]  # in the order of their first row
        tasks = []
        for name in names.tolist():
            mine, held_out = train[groups[train] == name], test[groups[test] == name]
            tasks.append(Task(str(name), np.unique(y[np.concatenate([mine, held_out])]), mine, held_out))
    else:
        levels = _levels(options, data.labelled.input_shape, seed)
        tasks = [Task(f"{options.scenario} {k + 1}", np.unique(y), train, test, at) for k, at in enumerate(levels)]
    visits = _visits(options, [task.name for task in tasks])
    kept = sorted(set(visits))
    return [tasks[k] for k in kept], [kept.index(k) for k in visits]


def _levels(options: StreamOptions, input_shape: tuple[int, ...], seed: int) -> list[Any]:
    """Return the parameter of each task's transform: a permutation, an angle in degrees or a width in pixels."""
    n = options.n_tasks
    if options.scenario == "permuted":
        size = math.prod(input_shape)
        rngs = [np.random.default_rng(derive(seed, "task-stream", "permutation", k)) for k in range(n)]
        return [np.arange(size), *(rng.permutation(size) for rng in rngs[1:])]
    if options.levels is not None:
        return list(options.levels)
    if options.scenario == "rotated":
        return [180.0 * k / n for k in range(n)]
    return [k * min(input_shape[-2:]) / 32 for k in range(n)]


def split_rows(
    y: np.ndarray, groups: np.ndarray | None, test_size: float, max_per_class: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (training rows, test rows): of each class (of each group) at least one each, disjoint, by seed.

    A class with a single row in a group is trained on and not tested there.
    """
    rng = np.random.default_rng(derive(seed, "task-stream", "split"))
    train, test = [], []
    codes = np.unique(y, return_inverse=True)[1]
    if groups is not None:
        codes = codes + (codes.max() + 1) * np.unique(groups, return_inverse=True)[1]
    by_code = np.argsort(codes, kind="stable")
    for rows in np.split(by_code, np.flatnonzero(np.diff(codes[by_code])) + 1):
        chosen = rng.permutation(rows)[:max_per_class]
        n_test = min(max(1, round(test_size * len(chosen))), len(chosen) - 1)
        test.append(chosen[:n_test])
        train.append(chosen[n_test:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _visits(options: StreamOptions, names: list[str]) -> list[int]:
    n = len(names)
    if options.scenario == "class":
        return list(range(n))
    if options.order is None:
        visits = list(range(n))
        if options.scenario == "recurring":
            visits.insert(min(3, n), 0 if n == 2 else 1)
        return visits
    numbers = names if options.scenario == "domain" else [str(k + 1) for k in range(n)]
    return [numbers.index(item) for item in options.order]


def _transform(X: np.ndarray, scenario: str, level: Any) -> np.ndarray:
    """Return inputs (n, \\*input_shape) as one task of a permuted, rotated or blurred stream shows them."""
    if scenario == "permuted":
        return X.reshape(len(X), -1)[:, level].reshape(X.shape)
    if scenario == "rotated" and level % 360:
        if level % 90 == 0 and (X.shape[-1] == X.shape[-2] or level % 180 == 0):
            return np.ascontiguousarray(np.rot90(X, int(level // 90), axes=(-2, -1)))
        from scipy import ndimage

        return ndimage.rotate(X, level, axes=(-2, -1), reshape=False, order=1, mode="constant")
    if scenario == "blurred" and level > 0:
        from scipy import ndimage

        return ndimage.gaussian_filter(X, [0.0] * (X.ndim - 2) + [level, level], mode="nearest")
    return X


# -- options ------------------------------------------------------------------------------------------------------


def _check_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return options of the right type and range; they may come as texts from a command line."""
    choices = {"scenario": SCENARIOS, "identity": IDENTITY, "scale": ("auto", "standard", "none"),
               "labels": ("global", "local")}  # fmt: skip
    least = {"n_tasks": 2, "epochs": 1, "batch_size": 1, "max_per_class": 2, "curve_points": 0}
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name in choices:
            if value not in choices[name]:
                raise BadData(f"{name} must be one of {', '.join(choices[name])}, got {value!r}")
            checked[name] = value
        elif name in least:
            number = _number(name, value, int)
            if number < least[name]:
                raise BadData(f"{name} must be at least {least[name]}, got {value!r}")
            checked[name] = number
        elif name in ("test_size", "blur"):
            share = _number(name, value, float)
            if not (0 < share < 1 if name == "test_size" else 0 <= share <= 1):
                bounds = "above 0 and below 1" if name == "test_size" else "from 0 to 1"
                raise BadData(f"{name} must be {bounds}, got {value!r}")
            checked[name] = share
        elif name == "order":
            checked[name] = tuple(item.strip() for item in _items(value))
        elif name == "classes_per_task":
            checked[name] = tuple(_number(name, item, int) for item in _items(value))
            if min(checked[name]) < 1:
                raise BadData(f"classes_per_task must be at least 1, got {value!r}")
        else:
            checked[name] = tuple(_number(name, item, float) for item in _items(value))
    return checked


def _fit_options(options: StreamOptions, labelled: LabelledData) -> tuple[StreamOptions, tuple[str, ...]]:
    """Return options that fit the data, and notes on what was settled, or say why they do not fit."""
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    notes = []
    classes = [str(c) for c in np.unique(labelled.y).tolist()]
    scenario, order = options.scenario, options.order
    if scenario in ("rotated", "blurred") and labelled.kind != "images" and len(labelled.input_shape) not in (2, 3):
        hint = " (digits-images are the same digits as images)" if labelled.name == "digits" else ""
        raise BadData(f"{labelled.name}: scenario {scenario!r} needs images, and inputs have the shape "
                      f"{labelled.input_shape}{hint}")  # fmt: skip
    if scenario == "domain":
        if labelled.task is None:
            raise BadData(f"{labelled.name}: scenario 'domain' needs the task of each row: name its column by task=...")
        names = [str(name) for name in dict.fromkeys(labelled.task.tolist())]
        if len(names) < 2:
            raise BadData(f"{labelled.name}: the task column holds one task only ({names[0]!r}): at least 2 are needed")
        for name in names:
            counts = np.unique(labelled.y[labelled.task.astype(str) == name], return_counts=True)[1]
            if counts.max() < 2:
                raise BadData(f"{labelled.name}: task {name!r} has no class with 2 examples, so nothing to test it on")
        values["n_tasks"] = len(names)
        _check_order(labelled.name, order, names, "tasks")
    elif scenario in ("class", "recurring"):
        if scenario == "class" and order is not None:
            _check_order(labelled.name, order, classes, "classes")
            if len(set(order)) < len(order):
                raise BadData("order names a class twice; scenario 'recurring' brings tasks back")
            if len(order) < len(classes):
                notes.append(f"Classes left out by order: {', '.join(c for c in classes if c not in order)}.")
            classes = list(order)
        if options.classes_per_task is not None:
            sizes = options.classes_per_task
            if len(sizes) == 1:
                full, rest = divmod(len(classes), sizes[0])
                sizes = sizes * full + ((rest,) if rest else ())
            if sum(sizes) != len(classes):
                raise BadData(f"{labelled.name}: classes_per_task adds up to {sum(sizes)}, not to {len(classes)}")
            values["classes_per_task"], values["n_tasks"] = sizes, len(sizes)
        elif options.n_tasks == _N_TASKS and len(classes) < 2 * _N_TASKS:
            values["n_tasks"] = max(2, len(classes) // 2)
            notes.append(f"{len(classes)} classes make {values['n_tasks']} tasks.")
        if not 2 <= values["n_tasks"] <= len(classes):
            raise BadData(f"{labelled.name}: {len(classes)} classes cannot make {values['n_tasks']} tasks (at least 2)")
    if options.classes_per_task is not None and scenario not in ("class", "recurring"):
        raise BadData(f"classes_per_task is for the scenarios class and recurring, got scenario {scenario!r}")
    if options.levels is not None:
        if scenario not in ("rotated", "blurred"):
            raise BadData(f"levels is for the scenarios rotated and blurred, got scenario {scenario!r}")
        if scenario == "blurred" and min(options.levels) < 0:
            raise BadData(f"levels are widths of at least 0 pixels, got {min(options.levels)}")
        if options.n_tasks not in (_N_TASKS, len(options.levels)) or len(options.levels) < 2:
            raise BadData(f"levels names {len(options.levels)} tasks, and n_tasks is {options.n_tasks}")
        values["n_tasks"] = len(options.levels)
    if scenario in ("permuted", "rotated", "blurred", "recurring"):
        _check_order(labelled.name, order, [str(k + 1) for k in range(values["n_tasks"])], "tasks")
    return StreamOptions(**values), tuple(notes)


def _check_order(source: str, order: tuple[str, ...] | None, names: list[str], what: str) -> None:
    if order is None:
        return
    for item in order:
        if item not in names:
            near = difflib.get_close_matches(item, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ";"
            raise BadData(f"{source}: order names {item!r}, which is not there{hint} {what}: {', '.join(names)}")
    if len(set(order)) < 2:
        raise BadData(f"{source}: order must name at least 2 different {what}, got {', '.join(order)}")
    if what == "tasks" and any(a == b for a, b in itertools.pairwise(order)):
        raise BadData(f"{source}: order names a task twice in a row, which makes no border: {', '.join(order)}")


def _items(value: Any) -> list[str]:
    return [str(item) for item in (value.split(",") if isinstance(value, str) else np.atleast_1d(value).tolist())]


def _number(name: str, value: Any, kind: type) -> Any:
    try:
        number = kind(value)
        if not math.isfinite(number) or (not isinstance(value, str) and number != value):
            raise ValueError
    except (TypeError, ValueError):
        raise BadData(f"{name} must be a {'whole ' if kind is int else ''}number, got {value!r}") from None
    return number


def _settings_for(cls: type, facts: StreamFacts) -> dict[str, Any]:
    make = getattr(cls, "settings_for", None)
    return dict(make(facts)) if make is not None else {}


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
