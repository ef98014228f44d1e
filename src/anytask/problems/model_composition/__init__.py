"""Model composition: one base model and fine-tuned versions of it, out of which another is made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from anytask.core.settings import taken
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.model_composition.data import CompositionData, CompositionOptions, World, accuracy, read
from anytask.problems.training import Learned, Progress, TrainingProblem

_OWN = "anytask.multitask.merging"
#: The method that each task asks for.
_METHODS: Mapping[str, str] = {
    "few-labels": "compose", "addition": "compose", "negation": "negate", "test-time": "adapt",
}  # fmt: skip
#: Merging by fixed formulas, a coefficient for each vector, training as usual, and the base model.
BASELINES = (
    Entrant("task arithmetic", f"{_OWN}:Merged", {"how": "arithmetic"}, "baseline"),
    Entrant("TIES", f"{_OWN}:Merged", {"how": "ties"}, "baseline"),
    Entrant("uniform average", f"{_OWN}:Merged", {"how": "average"}, "baseline"),
    Entrant("one coefficient per vector", "anytask.multitask:ATLAS", {"scaling": "vector"}, "baseline"),
    Entrant("full fine-tuning", f"{_OWN}:FineTuned", {}, "baseline"),
    Entrant("linear probe", f"{_OWN}:FineTuned", {"part": "head", "lr": 3e-2}, "baseline"),
    Entrant("zero-shot", f"{_OWN}:Pretrained", {}, "baseline"),
)


class ModelComposition(TrainingProblem):
    """Make a model for a task out of a base model and fine-tuned versions of it.

    ``task=few-labels``: a task that none of them was tuned for, with ``shots`` labelled rows of each class;
    ``addition``: one model for several of their tasks; ``negation``: a model that fails on one task and keeps that of
    the base model; ``test-time``: the test inputs of a new task, without labels. Built in are ``digits-domains`` and
    ``mnist-domains``: a perceptron trained on digits and fine-tuned, with a frozen head, on six changes of them. Your
    own: a folder with ``base.safetensors``, other checkpoints, and ``labelled.csv`` (or .parquet, .npz).

    Metrics
    -------
    * ``score``: accuracy on test rows, mean over the domains (ranks); in negation the share of errors;
    * ``accuracy``: the same, whatever the task;
    * ``normalised``: over that of the model fine-tuned for the domain on many rows, where there is one;
    * ``control``: in negation, accuracy on what the base model was trained for;
    * ``trained``: how many numbers were trained.

    Examples
    --------
    >>> problem = ModelComposition()
    >>> data = problem.load("digits-domains", steps=20, rows=200)
    >>> zero = problem.run(problem.baselines(data)[-1], data, seed=0).metrics
    >>> 0 <= zero["accuracy"] < 0.4, zero["trained"]
    (True, 0.0)
    """

    key: ClassVar[str] = "model-composition"
    title: ClassVar[str] = "Model composition"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("score", "Accuracy, or errors in negation"),
        Metric("accuracy", "Accuracy"),
        Metric("normalised", "Accuracy over that of models fine-tuned on many rows"),
        Metric("control", "Accuracy on the control task"),
        Metric("trained", "Numbers that were trained", higher_is_better=False, unit="numbers"),
    )
    costs: ClassVar[tuple[str, ...]] = ("trained",)
    options_class = CompositionOptions

    def load(self, source: Any, **options: Any) -> CompositionData:
        """Take the name of a built-in world, or a folder."""
        return read(source, self.check_options(options))

    def baselines(self, data: CompositionData) -> tuple[Entrant, ...]:
        """Return those that can do the task, as far as installed."""
        return tuple(entrant for entrant in BASELINES if self.refuses(entrant, data) is None)

    def refuses(self, entrant: Entrant, data: CompositionData) -> str | None:
        """Refuse classes that cannot do the task, or lack a package."""
        method = _METHODS[data.options.task]
        if not hasattr(entrant.load(), method):
            return f"{entrant.name} has no {method}(...), which task={data.options.task} asks for."
        try:
            entrant.make("small")
        except ImportError as error:
            return f"{error}."
        return None

    def train(self, entrant: Entrant, data: CompositionData, seed: int, progress: Progress) -> Learned:
        """Compose the model."""
        world, system = data.instance(seed), entrant.make("small", seed=seed)
        start = time.perf_counter()
        model = _composed(system, world, data.options.task, progress)
        return Learned(system, (world, model, time.perf_counter() - start))

    def test(self, entrant: Entrant, trained: Any, data: CompositionData, seed: int, progress: Progress) -> Outcome:
        """Measure its accuracy on the test rows."""
        world, model, seconds = trained.world
        right = {name: accuracy(model, *pair) for name, pair in world.tested.items()}
        mean = float(np.mean(list(right.values())))
        metrics = {"score": 1 - mean if data.options.task == "negation" else mean, "accuracy": mean}
        if world.fine:
            metrics["normalised"] = float(np.mean([right[name] / (world.fine[name] or 1.0) for name in right]))
        if world.control is not None:
            metrics["control"] = accuracy(model, *world.control[1])
        cost = trained.system.cost() if hasattr(trained.system, "cost") else {}
        metrics["trained"] = float(cost.get("trainable_parameters", 0))
        progress(1.0)
        labels = 0 if data.options.task == "test-time" else sum(len(y) for _, y in world.shown.values())
        return Outcome(metrics, {"by_domain": right}, {"train_seconds": seconds, "labels": float(labels)})


def _composed(system: Any, world: World, task: str, progress: Progress) -> Any:
    """Let a system do the task; of several domains, one that cannot tell them apart gets the rows in one heap."""
    base, vectors, pairs = world.pretrained, world.vectors, list(world.shown.values())
    if task == "negation":
        method, given = system.negate, (*pairs[0],)
        return method(base, vectors, *given, control=world.control[0], **taken(method, progress=progress))  # type: ignore[index]
    if task == "test-time":
        return system.adapt(
            base, vectors, next(iter(world.tested.values()))[0], **taken(system.adapt, progress=progress)
        )
    if task == "addition" and hasattr(system, "add"):
        return system.add(base, vectors, world.shown, **taken(system.add, progress=progress))
    X, y = (torch.cat(part) for part in zip(*pairs))
    return system.compose(base, vectors, X, y, **taken(system.compose, progress=progress))
