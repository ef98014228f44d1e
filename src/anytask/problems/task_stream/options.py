"""The options of a stream."""

from __future__ import annotations

from anytask.core.settings import choice, real, text, whole
from anytask.problems.labelled import SplitOptions
from anytask.problems.options import listed

SCENARIOS = ("class", "permuted", "rotated", "blurred", "domain", "recurring", "few-shot")
#: What the stream can show of the tasks, from least to most, in the places of :data:`anytask.problems.base.LEVELS`.
IDENTITY = ("none", "boundary", "train", "train+test")
N_TASKS = 5


class StreamOptions(SplitOptions):
    """How tasks arise from the data, and what is shown of them."""

    scenario: str = choice(
        None,
        SCENARIOS,
        "how tasks arise: class (each task brings new classes), permuted (values in another fixed order per task), "
        "rotated, blurred (images), domain (the task column), recurring (class tasks that come back), few-shot (a base "
        "of classes, then a few rows of new ones at a time); none: few-shot if ways and shots are given, domain if the "
        "data have a task column, else class, or permuted where there are fewer than 4 classes",
        optional=True,
    )
    n_tasks: int = whole(
        N_TASKS,
        "number of tasks (class and recurring: fewer if the default asks for too many; few-shot: what classes make)",
        at_least=2,
    )
    ways: int | None = whole(None, "few-shot: new classes in each task after the base", at_least=2, optional=True)
    shots: int | None = whole(None, "few-shot: rows to learn each of them from", optional=True)
    base: tuple[str, ...] | None = listed("few-shot: classes of the base, as cat,dog; none: a fifth, by seed")
    unseen: int | None = whole(
        None,
        "few-shot: classes that are never taught, on which features are tested; none: two fifths",
        at_least=0,
        optional=True,
    )
    episodes: int = whole(100, "few-shot: tests of ways classes and shots rows each on the classes never taught")
    classes_per_task: tuple[int, ...] | None = listed(
        "class and recurring: classes in each task, as 2 or 4,3,3; instead of n_tasks", int, at_least=1
    )
    order: tuple[str, ...] | None = listed(
        "class: the class names in their order, as cat,dog,...; domain: the task names, repeats allowed; others: task "
        "numbers from 1, repeats allowed, as 1,2,3,2,4; none: classes by seed, tasks in turn"
    )
    identity: str = choice("train+test", IDENTITY, "the most the stream shows of the tasks")
    epochs: int = whole(10, "passes over each task before the next")
    batch_size: int = whole(16, "rows in a mini-batch")
    task: str | None = text(None, "column, array or file with the task of each row", optional=True)
    scale: str = choice(
        "auto",
        ("auto", "standard", "none"),
        "standardise the inputs by the first task's training rows; auto: unless images or all in [0, 1]",
    )
    labels: str = choice(
        "global", ("global", "local"), "as in the data (global), or 0, 1, ... inside each task (local)"
    )
    blur: float = real(
        0.0, "share of a segment's batches, at its borders, that mix it with its neighbours", at_least=0, at_most=1
    )
    levels: tuple[float, ...] | None = listed(
        "rotated: degrees, blurred: Gaussian widths in pixels, one per task, as 0,45,90", float
    )
    curve_points: int = whole(4, "evaluations per task for the curve over the stream; 0 for no curve", at_least=0)

    def _check_settings(self) -> None:
        super()._check_settings()
        scenario = self.scenario
        if self.ways is None and self.shots is None:
            if scenario == "few-shot" or self.base is not None or self.unseen is not None:
                raise ValueError("scenario few-shot (base and unseen too) needs ways and shots, as ways=5 and shots=5")
        elif self.ways is None or self.shots is None:
            raise ValueError("ways and shots go together, as ways=5 and shots=5")
        elif scenario not in (None, "few-shot") or self.order is not None:
            raise ValueError("ways and shots are for the scenario few-shot, which sets the order of its tasks by seed")
        if scenario is None:
            return
        if self.classes_per_task is not None and scenario not in ("class", "recurring"):
            raise ValueError(f"classes_per_task is for the scenarios class and recurring, got scenario {scenario!r}")
        if self.levels is not None and scenario not in ("rotated", "blurred"):
            raise ValueError(f"levels is for the scenarios rotated and blurred, got scenario {scenario!r}")
        if self.levels is not None and scenario == "blurred" and min(self.levels) < 0:
            raise ValueError(f"levels are widths of at least 0 pixels, got {min(self.levels)}")
