"""The options of a stream, and how they are settled by the data."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.settings import choice, real, text, whole
from anytask.datasets.labelled import LabelledData
from anytask.problems.labelled import LabelledOptions
from anytask.problems.options import listed

SCENARIOS = ("class", "permuted", "rotated", "blurred", "domain", "recurring")
#: What the stream can show of the tasks, from least to most, in the places of :data:`anytask.problems.base.LEVELS`.
IDENTITY = ("none", "boundary", "train", "train+test")
_N_TASKS = 5


class StreamOptions(LabelledOptions):
    """How tasks arise from the data, and what is shown of them."""

    read_only: ClassVar[tuple[str, ...]] = (*LabelledOptions.read_only, "task", "group")

    scenario: str = choice(
        None,
        SCENARIOS,
        "how tasks arise: class (each task brings new classes), permuted (values in another fixed order per task), "
        "rotated, blurred (images), domain (the task column), recurring (class tasks that come back); none: domain if "
        "the data have a task column, else class, or permuted where there are fewer than 4 classes",
        optional=True,
    )
    n_tasks: int = whole(
        _N_TASKS, "number of tasks (class and recurring: fewer if the default asks for too many)", at_least=2
    )
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
    test_size: float = real(0.25, "share of each class that is kept for testing", above=0, below=1)
    split: str = choice(
        "random",
        ("random", "ordered"),
        "which rows are tested on: drawn by seed, or the last ones of each class (as in time)",
    )
    group: str | None = text(
        None, "column, array or file of what must not be trained and tested on at once, as a patient", optional=True
    )
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
    max_per_class: int | None = whole(
        None, "at most this many rows of each class (of each task in domain), chosen by seed", at_least=2, optional=True
    )
    levels: tuple[float, ...] | None = listed(
        "rotated: degrees, blurred: Gaussian widths in pixels, one per task, as 0,45,90", float
    )
    curve_points: int = whole(4, "evaluations per task for the curve over the stream; 0 for no curve", at_least=0)

    def _check_settings(self) -> None:
        scenario = self.scenario
        if scenario is None:
            return
        if self.classes_per_task is not None and scenario not in ("class", "recurring"):
            raise ValueError(f"classes_per_task is for the scenarios class and recurring, got scenario {scenario!r}")
        if self.levels is not None and scenario not in ("rotated", "blurred"):
            raise ValueError(f"levels is for the scenarios rotated and blurred, got scenario {scenario!r}")
        if self.levels is not None and scenario == "blurred" and min(self.levels) < 0:
            raise ValueError(f"levels are widths of at least 0 pixels, got {min(self.levels)}")


def fit_options(options: StreamOptions, labelled: LabelledData) -> tuple[StreamOptions, tuple[str, ...]]:
    """Return options that fit the data, and notes on what was settled, or say why they do not fit."""
    name, order, n_tasks, notes = labelled.name, options.order, options.n_tasks, []
    classes = [str(c) for c in np.unique(labelled.y).tolist()]
    scenario = options.scenario or ("class" if labelled.task is None else "domain")
    by_class = order is not None or options.classes_per_task is not None
    if options.scenario is None and scenario == "class" and len(classes) < 4 and not by_class:
        scenario = "permuted"
        notes.append(f"{len(classes)} classes cannot make tasks of 2 classes: each task permutes the inputs instead.")
    if scenario in ("rotated", "blurred") and labelled.kind != "images" and len(labelled.input_shape) not in (2, 3):
        hint = " (digits-images are the same digits as images)" if name == "digits" else ""
        raise BadData(f"{name}: scenario {scenario!r} needs images, and inputs have the shape "
                      f"{labelled.input_shape}{hint}")  # fmt: skip
    if labelled.group is not None:
        _check_groups(labelled, options)
    told = options.identity == IDENTITY[-1] or options.labels == "local"  # the task of a query
    sizes = [len(classes)]  # classes of each task
    if scenario == "domain":
        domains = _domains(labelled)
        _check_order(name, order, list(domains), "tasks")
        single = [domain for domain, size in domains.items() if size < 2]
        if told and order is None and single and len(domains) - len(single) >= 2:
            order = tuple(domain for domain in domains if domain not in single)
            notes.append(f"Tasks left out, as they hold a single class: {', '.join(single)}.")
        sizes = [domains[domain] for domain in dict.fromkeys(order or domains)]
        n_tasks = len(sizes)
    elif scenario in ("class", "recurring"):
        if scenario == "class" and order is not None:
            _check_order(name, order, classes, "classes")
            if len(set(order)) < len(order):
                raise BadData("order names a class twice; scenario 'recurring' brings tasks back")
            if len(order) < len(classes):
                notes.append(f"Classes left out by order: {', '.join(c for c in classes if c not in order)}.")
            classes = list(order)
        if options.classes_per_task is not None:
            sizes = _sizes(options.classes_per_task, len(classes))
            if sum(sizes) != len(classes):
                raise BadData(f"{name}: classes_per_task adds up to {sum(sizes)}, not to {len(classes)}")
            n_tasks = len(sizes)
        elif n_tasks == _N_TASKS and len(classes) < 2 * _N_TASKS:
            n_tasks = max(2, len(classes) // 2)
            notes.append(f"{len(classes)} classes make {n_tasks} tasks.")
        if not 2 <= n_tasks <= len(classes):
            raise BadData(f"{name}: {len(classes)} classes cannot make {n_tasks} tasks (at least 2)")
        if options.classes_per_task is None:
            sizes = [len(part) for part in np.array_split(classes, n_tasks)]
    if told and min(sizes) < 2:
        raise BadData(
            f"{name}: {sizes.count(1)} of {n_tasks} tasks hold a single class, so whoever knows the task knows the "
            "label: give each task 2 classes, take another scenario (such as permuted), or hide the task of queries "
            "(identity=train, with labels=global)"
        )
    if options.levels is not None:
        if n_tasks not in (_N_TASKS, len(options.levels)) or len(options.levels) < 2:
            raise BadData(f"levels names {len(options.levels)} tasks, and n_tasks is {n_tasks}")
        n_tasks = len(options.levels)
    if scenario not in ("class", "domain"):
        _check_order(name, order, [str(k + 1) for k in range(n_tasks)], "tasks")
    per_task = None if options.classes_per_task is None else tuple(sizes)
    settled = options.evolve(n_tasks=n_tasks, scenario=scenario, classes_per_task=per_task, order=order)
    return settled, tuple(notes)


def _check_groups(labelled: LabelledData, options: StreamOptions) -> None:
    if options.split == "ordered":
        raise BadData(f"{labelled.name}: group draws whole groups to test on, and split='ordered' takes the last rows")
    for label in np.unique(labelled.y).tolist():
        if len(np.unique(labelled.group[labelled.y == label])) < 2:  # type: ignore[index]
            raise BadData(
                f"{labelled.name}: all rows of class {label!r} are of one group: 2 are needed to train and test"
            )


def _domains(labelled: LabelledData) -> dict[str, int]:
    """Return the number of classes in each task, in the order of their first row."""
    if labelled.task is None:
        raise BadData(f"{labelled.name}: scenario 'domain' needs the task of each row: name its column by task=...")
    sizes = dict.fromkeys(map(str, labelled.task.tolist()), 0)
    if len(sizes) < 2:
        raise BadData(
            f"{labelled.name}: the task column holds one task only ({next(iter(sizes))!r}): at least 2 are needed"
        )
    for name in sizes:
        counts = np.unique(labelled.y[labelled.task.astype(str) == name], return_counts=True)[1]
        if counts.max() < 2:
            raise BadData(f"{labelled.name}: task {name!r} has no class with 2 examples, so nothing to test it on")
        sizes[name] = len(counts)
    return sizes


def _sizes(given: Sequence[int], n_classes: int) -> list[int]:
    """Return the classes in each task; one number holds for all, and a class that is left over joins the last task."""
    if len(given) > 1:
        return list(given)
    full, rest = divmod(n_classes, given[0])
    sizes = [given[0]] * full
    if rest > 1 or not sizes:
        return [*sizes, rest]
    return [*sizes[:-1], sizes[-1] + rest]


def _check_order(source: str, order: Sequence[str] | None, names: list[str], what: str) -> None:
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
