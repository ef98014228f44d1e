"""Where students are looked at: what members of one space or of several lose, and three text tasks of one student."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from anytask.claims.text_tasks import TextOptions, TextTasks, text_sets
from anytask.core.progress import Progress, heard, portion
from anytask.core.settings import text, whole
from anytask.problems.base import Entrant, Metric, Outcome, Problem
from anytask.problems.few_labels import FewLabels
from anytask.problems.training import Progress as Told

#: Members that are asked for: layers, heads, width, ratio.
PROBES = {"base": (4, 4, 48, 2), "tiny": (2, 2, 24, 1.5), "smallest": (1, 1, 16, 1)}


class Probes(FewLabels):
    """Distil inputs without labels, and ask a few members how far their relations are from the teacher's."""

    key: ClassVar[str] = "relation-probes"
    title: ClassVar[str] = "Relation loss of members"
    metrics: ClassVar[tuple[Metric, ...]] = tuple(
        Metric(name, f"Held-out relation loss of {shape}", False, "") for name, shape in PROBES.items()
    )
    needs: ClassVar[tuple[str, ...]] = ("fit(X)", "table()")

    def train(self, entrant: Entrant, data: Any, seed: int, progress: Told) -> Any:
        """Distil the inputs that are shown without labels."""
        return entrant.make("small", seed=seed).fit(data.inputs(data.pool(seed)), progress=progress)

    def test(self, entrant: Entrant, trained: Any, data: Any, seed: int, progress: Told) -> Outcome:
        """Look the members up."""
        table = trained.table().set_index(["layers", "heads", "width", "ratio"])["loss"]
        progress(1.0)
        return Outcome({name: float(table[shape]) for name, shape in PROBES.items()})


class StudentOptions(TextOptions):
    """How many texts are labelled, and what a student may have."""

    teacher: str = text("minilm", "whom students learn from")
    budget: int = whole(4_600_000, "parameters of a student")


class ThreeTasks(Problem):
    """Learn three text tasks from a few labels each, with an encoder within a budget; texts of all are there.

    What distils without labels does it once, for all tasks; others are made for each.
    """

    key = "students-of-three-tasks"
    title = "Three text tasks"
    metrics = (Metric("accuracy", "Accuracy, mean over the tasks"),)
    options_class = StudentOptions

    def load(self, source: Any = None, **options: Any) -> TextTasks:
        """Read the three text sets."""
        return TextTasks(text_sets(), self.check_options(options))

    def baselines(self, data: Any) -> tuple[Entrant, ...]:
        """Return none: the claim names all entrants."""
        return ()

    def run(self, entrant: Entrant, data: TextTasks, seed: int, progress: Progress | None = None) -> Outcome:
        """Distil, and learn each task."""
        told, o, found = heard(progress), data.options, {}
        tasks = data.draw(seed)
        tested = {query for _, queries, _ in tasks for query in queries}
        pool = [text for one in data.source.sets for text in one.texts if text not in tested]

        def made() -> Any:
            return entrant.make("minilm", seed=seed, teacher=o.teacher, budget=o.budget)

        once = hasattr(entrant.load(), "finetune")
        model: Any = made().fit(pool, progress=portion(told, 0.0, 0.7)) if once else None
        for task, queries, truth in tasks:
            if once:
                model.finetune(task.inputs, task.outputs)
            else:
                own = {i for one in data.source.sets if one.name == task.name for i in one.texts}
                model = made().fit(task.inputs, task.outputs, unlabeled=[text for text in pool if text in own])
            answers = np.array(task.choices)[truth]
            found[task.name] = float(np.mean(np.asarray(model.predict(queries)) == answers))
        told(1.0)
        return Outcome({"accuracy": float(np.mean(list(found.values())))}, found, kind="local")
