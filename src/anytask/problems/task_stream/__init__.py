"""Streams of tasks: labelled data that arrive in segments, with borders that a learner may or may not be told of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from anytask.datasets.labelled import LabelledData
from anytask.problems.base import LEVELS, Entrant, Metric, Outcome, Trained
from anytask.problems.labelled import LabelledProblem, usable
from anytask.problems.task_stream.metrics import forward_transfer, label_metrics, match_borders, stream_metrics
from anytask.problems.task_stream.options import IDENTITY, StreamOptions
from anytask.problems.task_stream.stream import Stream, StreamData
from anytask.problems.task_stream.tasks import fit_options
from anytask.problems.task_stream.walk import Exam, LabelExam, Walk
from anytask.problems.training import Progress, own_cost

_BRINGS = {
    "class": "each with classes of its own",
    "permuted": "each with the input values in another fixed order",
    "rotated": "each turned by another angle",
    "blurred": "each blurred by another width",
    "domain": "each from another domain",
    "recurring": "each with classes of its own, which come back",
    "few-shot": "the first with many rows, the others with a few rows of new classes",
}
_ANNOUNCED = {
    "none": "Nobody tells them when a task ends, or which task a query is from.",
    "boundary": "They may be told when a task ends, but never which task it is.",
    "train": "They may be told the task of the training data, but not that of a query.",
    "train+test": "They may be told which task training data and queries are from.",
}


#: What is measured where rows have several labels.
LABEL_METRICS = (
    Metric("macro_ap", "Final macro average precision over all labels"),
    Metric("average_macro_ap", "Macro average precision, mean over the stages"),
    Metric("first_task_ap", "Final macro average precision of the first task"),
    Metric("cf1", "Final F1, mean over labels"),
    Metric("of1", "Final F1 over all decisions"),
    Metric("forgetting", "Forgetting", higher_is_better=False),
    Metric("backward_transfer", "Backward transfer"),
    Metric("learning_ap", "Macro average precision right after learning a task"),
)


class TaskStream(LabelledProblem):
    """Learn from data that keep changing: tasks that come one after another, none of which may be forgotten.

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
    * ``routed_accuracy``: the share of test rows, mean over the tasks, whose task a system finds by itself (its method
      ``route``) and whose label is right too.
    * ``detection_delay``, ``false_alarms``, ``missed_borders``: for systems that list the mini-batches at which they
      decided that a new segment began in ``borders_``; see :func:`match_borders`.
    * ``experts``: the system's ``n_experts_``.
    * ``few_shot_accuracy`` (scenario few-shot): mean of ``R[S-1, k]`` over the tasks after the base.
    * ``unseen_accuracy``: few-shot accuracy on classes never taught, by the features that a system gives for inputs
      (its method ``embed``): class means of ``shots`` rows, compared by cosine. ``unseen_gain`` is its change since the
      base: whether the system got better at new tasks.

    Rows may have several labels at once: name several columns by ``target=cat,dog,...``, give a matrix y, or a folder
    of images with a file ``labels.csv``. Each task then brings some of the labels; its training rows are those that
    have one of them, and of the other labels nothing is said. All test rows are asked for all labels shown so far.
    ``R[s, k]`` is then the mean over the classes of task ``k`` of the average precision (scikit-learn's; classes
    without a positive do not count), NaN before the task, and ``macro_ap`` ranks:

    * ``macro_ap``: mean over all classes at the end; ``average_macro_ap``: mean over the stages of the same over the
      classes shown until then; ``first_task_ap``: over those of the first task, at the end.
    * ``cf1``, ``of1``: F1 as the mean over classes and over all decisions, for labels more probable than 0.8.
    * ``forgetting``, ``backward_transfer``, ``learning_ap``: as above.

    ``predict_seconds`` includes whatever a system trains on demand when it is asked.

    Examples
    --------
    >>> problem = TaskStream()
    >>> data = problem.load("digits", scenario="permuted", n_tasks=3, epochs=2)
    >>> data.stream(seed=0).facts
    StreamFacts(input_shape=(64,), batch_size=16, epochs=2, classes_per_task=10, n_classes=10, repeats=True)
    """

    key = "task-stream"
    title = "Learning from a stream of tasks"
    bounds: ClassVar[Mapping[str, Literal["lower", "upper"]]] = {"fine-tuning": "lower", "joint-training": "upper"}
    privileges: ClassVar[Mapping[str, str]] = {"joint-training": "all data at once"}
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Final accuracy over all tasks"),
        Metric("few_shot_accuracy", "Final accuracy over the few-shot tasks"),
        Metric("unseen_accuracy", "Few-shot accuracy on classes never taught"),
        Metric("unseen_gain", "Its gain since the base"),
        Metric("forgetting", "Forgetting", higher_is_better=False),
        Metric("backward_transfer", "Backward transfer"),
        Metric("forward_transfer", "Forward transfer (above chance)"),
        Metric("learning_accuracy", "Accuracy right after learning a task"),
        Metric("accuracy_without_task", "Final accuracy without the task's identity"),
        Metric("routed_accuracy", "Share of right tasks with right labels"),
        Metric("detection_delay", "Delay in noticing a border", higher_is_better=False, unit="batches"),
        Metric("false_alarms", "False alarms", higher_is_better=False, unit="alarms"),
        Metric("missed_borders", "Missed borders", higher_is_better=False, unit="borders"),
        Metric("experts", "Experts", higher_is_better=False, unit="experts"),
    )
    needs: ClassVar[tuple[str, ...]] = ("partial_fit(X, y, task=None)", "predict(X, task=None)")
    options_class = StreamOptions
    data_class = StreamData
    several: ClassVar[bool] = True

    def load(self, source: Any, **options: Any) -> StreamData:
        """Return the inputs with checked options; several labels a row are ranked by ``macro_ap``."""
        data = super().load(source, **options)
        self._measure(data)
        return data

    def _measure(self, data: StreamData) -> None:
        self.metrics = type(self).metrics if data.source.label_names is None else LABEL_METRICS  # type: ignore[misc]

    def fit_options(self, options: StreamOptions, labelled: LabelledData) -> tuple[StreamOptions, tuple[str, ...]]:
        """Settle the scenario and the number of tasks."""
        return fit_options(options, labelled)

    def baselines(self, data: StreamData) -> tuple[Entrant, ...]:
        """Return the naive learner, the upper bound and what else is standard against forgetting."""
        rows: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("fine-tuning", "FineTuning", {}),
            ("joint-training", "JointTraining", {}),
            ("replay", "ExperienceReplay", {}),
        )
        if data.source.label_names is None:
            rows += (("lwf", "LwF", {}), ("ewc", "EWC", {}), ("mas", "MAS", {}))
            rows += (("nearest-mean", "NearestClassMean", {}),)
        else:
            rows += (("linear", "FineTuning", {"hidden": []}),)
        return tuple(Entrant(name, f"anytask.continual:{cls}", params, "baseline") for name, cls, params in rows)

    def refuses(self, entrant: Entrant, data: StreamData) -> str | None:
        """Refuse learners that need to be told more of the tasks than the stream shows, or that refuse it themselves.

        A class may have a method ``refuses(facts)``: it takes a :class:`~.stream.StreamFacts` and returns why it cannot
        learn from such a stream, or None; it is asked with its settings, on which ``needs`` may depend as well.
        """
        self._measure(data)  # which may have been loaded by another
        if reason := super().refuses(entrant, data):
            return reason
        cls = entrant.load()
        if data.source.label_names is not None and not getattr(cls, "multilabel", False):
            return f"{entrant.name} learns one label a row, and these have several."
        stream = data.stream(0) if hasattr(cls, "refuses") else None
        model: Any = cls if stream is None else self._walk(entrant, stream).model
        needs = getattr(cls, "needs", "none") if stream is None else _needs(entrant, model)
        if LEVELS.index(needs) > IDENTITY.index(data.options.identity):
            wanted = {"boundary": "when a task ends", "train": "the task in training", "test": "the task at test"}[
                needs
            ]
            return f"{entrant.name} needs to be told {wanted}, and identity={data.options.identity!r} does not show it."
        return None if stream is None else model.refuses(stream.facts)

    def told(self, sees: str | None, options: Mapping[str, Any]) -> str:
        """Return what its class looks at of the tasks, as far as the stream shows it."""
        shown = IDENTITY.index(options.get("identity") or IDENTITY[-1])
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
        if data.source.label_names is not None:
            tasks += ", the only ones that are annotated then"
        return f"Learners meet {tasks}, and must not forget the earlier ones. {_ANNOUNCED[options.identity]}"

    def run_variants(
        self, entrants: Sequence[Entrant], data: StreamData, seed: int, progress: Progress | None = None
    ) -> list[Outcome]:
        """Lead one learner through the stream of this seed, and test it with what each entrant sets."""
        self.check_entrants(entrants, data)
        walk = self._walk(entrants[0], data.stream(seed))
        exams = walk.through(entrants, progress or (lambda share: None))
        outcomes = [self._outcome(exam) for exam in exams]
        if progress:
            progress(1.0)
        return outcomes

    def _outcome(self, exam: Exam) -> Outcome:
        R, walk, entrant = exam.R, exam.walk, exam.entrant
        stream, model = walk.stream, walk.model
        if isinstance(exam, LabelExam):
            metrics = label_metrics(R, stream.visits, exam.stages, stream.data.weights(stream.tasks[0].test))
        else:
            metrics = stream_metrics(R, stream.visits)
            labels = [set(stream.shown_labels(k).tolist()) for k in range(R.shape[1])]
            metrics["forward_transfer"] = forward_transfer(R, stream.visits, labels)
        details = exam.details()
        if not stream.several and walk.access == "test" and _needs(entrant, model) != "test":
            metrics["accuracy_without_task"] = float(np.mean([exam.accuracy(k, None) for k in range(R.shape[1])]))
            if callable(getattr(model, "route", None)):
                metrics["routed_accuracy"] = exam.routed_accuracy()
        if hasattr(model, "borders_"):
            found = walk.found_borders()
            delays, false_alarms, missed = match_borders(found, stream.borders, stream.n_batches)
            metrics["detection_delay"] = float(np.mean(delays)) if delays else math.nan
            metrics["false_alarms"], metrics["missed_borders"] = float(false_alarms), float(missed)
            details["borders_found"] = found
        if hasattr(model, "n_experts_"):
            metrics["experts"] = float(model.n_experts_)
        if stream.data.options.scenario == "few-shot":
            metrics["few_shot_accuracy"] = float(np.mean(R[-1, 1:]))
        if exam.unseen:
            metrics["unseen_accuracy"], metrics["unseen_gain"] = exam.unseen[-1], exam.unseen[-1] - exam.unseen[0]
        details["preset"] = preset = entrant.preset_or("small")
        notes = [f"Was shown of the tasks: {walk.access}.", *stream.data.passed_over(model.partial_fit)]
        if preset and preset != entrant.preset_or(None):
            notes.append(f"Used the preset {preset!r}.")
        cost = {"train_seconds": walk.train_seconds, "predict_seconds": exam.predict_seconds}
        cost |= {"labels": float(walk.n_labels()), **own_cost(model)}
        return Outcome(metrics, details, cost, None, notes)

    def refit(self, entrant: Entrant, data: StreamData, seed: int, progress: Progress | None = None) -> Trained:
        """Lead one learner through the stream of this seed, its test rows included."""
        stream, labelled = Stream(data, seed, hold_out=False), data.source
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
        parts, usage = usable(entrant, walk.model, labelled, stream.statistics if stream.scaled else None, told)
        return Trained(parts, usage, tuple(notes))

    def offers(self, stream: Stream) -> dict[str, Any]:
        """Return further arguments for who takes them, which a problem of one's own may have: a ``backbone``."""
        return {}

    def _walk(self, entrant: Entrant, stream: Stream) -> Walk:
        """Make the learner with the settings of its stream."""
        cls: Any = entrant.load()
        access = self.told(getattr(cls, "sees", None), {"identity": stream.data.options.identity})
        own = dict(cls.settings_for(stream.facts)) if hasattr(cls, "settings_for") else {}
        own |= self.offers(stream)
        return Walk(entrant.make("small", **own, seed=stream.seed), stream, access)

    def figures(self, data: StreamData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return the accuracy matrices, the curves over the stream, and the forgetting."""
        from anytask.problems.task_stream.figures import stream_figures

        measured = "accuracy" if data.source.label_names is None else "average precision"
        return stream_figures(data.options.blur, runs, measured)


def _needs(entrant: Entrant, model: Any) -> str:
    """Return the least that an entrant's model must be told of the task, under its settings."""
    with entrant.applied_to(model):
        return getattr(model, "needs", "none")
