"""How labelled data become tasks: their classes, rows and transforms, and the order of their visits."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.datasets.labelled import LabelledData
from anytask.problems.splits import split_rows
from anytask.problems.task_stream.episodes import few_rows, few_shot_classes, settle_few_shot
from anytask.problems.task_stream.options import IDENTITY, N_TASKS, StreamOptions


@dataclass(frozen=True)
class Task:
    """One task: its name, its classes, the rows it trains and tests on, and its permutation, angle or width if any."""

    name: str
    classes: np.ndarray
    train: np.ndarray
    test: np.ndarray
    level: Any = None


def fit_options(options: StreamOptions, labelled: LabelledData) -> tuple[StreamOptions, tuple[str, ...]]:
    """Return options that fit the data, and notes on what was settled, or say why they do not fit."""
    several = labelled.label_names is not None
    if several and options.ways is not None:
        raise BadData(f"{labelled.name}: a row of few-shot tasks (ways) has one label, and these have several")
    if options.ways is not None:
        settled, noted = settle_few_shot(options, labelled)
        make_tasks(labelled, settled, seed=0)  # refused before anything is trained
        return settled, noted
    name, order, n_tasks, sizes, notes = labelled.name, options.order, options.n_tasks, options.classes_per_task, []
    classes = [str(c) for c in labelled.classes.tolist()]
    scenario = options.scenario or ("class" if labelled.task is None or several else "domain")
    if several and options.identity == IDENTITY[-1]:
        options = options.evolve(identity="train")
        notes.append("Rows have several labels, and nobody is told which task a query is of.")
    if several and (scenario != "class" or options.blur or options.labels == "local"):
        raise BadData(f"{name}: rows with several labels need scenario=class, blur=0 and labels=global")
    few = scenario == "class" and len(classes) < 4 and not several
    if options.scenario is None and few and order is None and sizes is None:
        scenario = "permuted"
        notes.append(f"{len(classes)} classes cannot make tasks of 2 classes: each task permutes the inputs instead.")
    if scenario in ("rotated", "blurred") and labelled.kind != "images" and len(labelled.input_shape) not in (2, 3):
        hint = " (digits-images are the same digits as images)" if name == "digits" else ""
        raise BadData(f"{name}: scenario {scenario!r} needs images, and inputs have the shape "
                      f"{labelled.input_shape}{hint}")  # fmt: skip
    if scenario == "domain":
        if labelled.task is None:
            raise BadData(f"{name}: scenario 'domain' needs the task of each row: name its column by task=...")
        names = list(dict.fromkeys(map(str, labelled.task.tolist())))
        if len(names) < 2:
            raise BadData(f"{name}: the task column holds one task only ({names[0]!r}): at least 2 are needed")
        _check_order(name, order, names, "tasks")
        n_tasks = len(set(order or names))
    elif scenario in ("class", "recurring"):
        if scenario == "class" and order is not None:
            _check_order(name, order, classes, "classes")
            if len(set(order)) < len(order):
                raise BadData("order names a class twice; scenario 'recurring' brings tasks back")
            if len(order) < len(classes):
                notes.append(f"Classes left out by order: {', '.join(c for c in classes if c not in order)}.")
            classes = list(order)
        if sizes is not None:
            sizes = _sizes(sizes, len(classes))
            if sum(sizes) != len(classes):
                raise BadData(f"{name}: classes_per_task adds up to {sum(sizes)}, not to {len(classes)}")
            n_tasks = len(sizes)
        elif n_tasks == N_TASKS and len(classes) < 2 * N_TASKS:
            n_tasks = max(2, len(classes) // 2)
            notes.append(f"{len(classes)} classes make {n_tasks} tasks.")
        if not 2 <= n_tasks <= len(classes):
            raise BadData(f"{name}: {len(classes)} classes cannot make {n_tasks} tasks (at least 2)")
    if options.levels is not None:
        if n_tasks not in (N_TASKS, len(options.levels)) or len(options.levels) < 2:
            raise BadData(f"levels names {len(options.levels)} tasks, and n_tasks is {n_tasks}")
        n_tasks = len(options.levels)
    if scenario not in ("class", "domain"):
        _check_order(name, order, [str(k + 1) for k in range(n_tasks)], "tasks")
    settled = options.evolve(n_tasks=n_tasks, scenario=scenario, classes_per_task=sizes)
    tasks, _ = make_tasks(labelled, settled, seed=0)
    single = [task.name for task in tasks if len(task.classes) < 2]
    if single and several:
        raise BadData(f"{name}: {len(single)} of {n_tasks} tasks hold a single label, which all of their rows have")
    if single and (options.identity == IDENTITY[-1] or options.labels == "local"):
        kept = tuple(task.name for task in tasks if task.name not in single)
        if scenario != "domain" or order is not None or len(kept) < 2:
            raise BadData(
                f"{name}: {len(single)} of {n_tasks} tasks hold a single class, so whoever knows the task knows the "
                "label: give each task 2 classes, take another scenario (such as permuted), or hide the task of "
                "queries (identity=train, with labels=global)"
            )
        notes.append(f"Tasks left out, as they hold a single class: {', '.join(single)}.")
        settled = settled.evolve(n_tasks=len(kept), order=kept)
    return settled, tuple(notes)


def _sizes(given: tuple[int, ...], n_classes: int) -> tuple[int, ...]:
    """Return the classes in each task; one number holds for all, and a class that is left over joins the last task."""
    if len(given) > 1:
        return given
    full, rest = divmod(n_classes, given[0])
    if rest > 1 or not full:
        return (*given * full, rest)
    return (*given * (full - 1), given[0] + rest)


def make_tasks(labelled: LabelledData, options: StreamOptions, seed: int) -> tuple[list[Task], list[int]]:
    """Return the different tasks that the stream visits, and the task of each segment."""
    y, domains, several = labelled.y, labelled.task, labelled.label_names is not None
    rng = np.random.default_rng(derive(seed, "task-stream", "classes"))
    by_domain = options.scenario == "domain" and domains is not None
    train, test = split_rows(
        labelled.strata, domains if by_domain else None, options.test_size, options.max_per_class, seed,
        ordered=options.split == "ordered", groups=labelled.group,
    )  # fmt: skip
    if options.scenario in ("class", "recurring", "few-shot"):
        classes = labelled.classes
        if options.scenario == "class" and options.order is not None:
            named = {str(c): c for c in classes.tolist()}
            classes = np.array([named[name] for name in options.order])
        else:
            classes = rng.permutation(classes)
        sizes = options.classes_per_task or [len(part) for part in np.array_split(classes, options.n_tasks)]
        parts = np.split(classes, np.cumsum(sizes)[:-1])
        if options.scenario == "few-shot":
            parts, _ = few_shot_classes(y, options, seed)
        tasks = []
        for part in parts:
            mine, asked = [rows[labelled.shows(rows, part)] for rows in (train, test)]
            if several:  # every test row says whether it has a label; a training row is in each task that it has one of
                asked = test
            tasks.append(Task(f"classes {', '.join(map(str, sorted(part.tolist())))}", np.sort(part), mine, asked))
        if several:
            _check_shown(labelled, train, test)
        if options.shots is not None:
            few = (replace(task, train=few_rows(task.train, y, options.shots, seed)) for task in tasks[1:])
            tasks = [replace(tasks[0], name="base"), *few]
    elif by_domain:
        assert domains is not None
        names = domains[np.sort(np.unique(domains, return_index=True)[1])]  # in the order of their first row
        tasks = []
        for name in names.tolist():
            mine, held_out = train[domains[train] == name], test[domains[test] == name]
            tasks.append(Task(str(name), np.unique(y[np.concatenate([mine, held_out])]), mine, held_out))
    else:
        levels = _levels(options, labelled.input_shape, seed)
        tasks = [Task(f"{options.scenario} {k + 1}", np.unique(y), train, test, at) for k, at in enumerate(levels)]
    for task in tasks:
        if not len(task.test):
            raise BadData(f"{labelled.name}: no row of the task {task.name!r} is left to test on")
    visits = _visits(options, [task.name for task in tasks])
    kept = sorted(set(visits))
    return [tasks[k] for k in kept], [kept.index(k) for k in visits]


def _check_shown(labelled: LabelledData, train: np.ndarray, test: np.ndarray) -> None:
    for what, rows in (("train", train), ("test", test)):
        if len(missing := labelled.classes[~labelled.y[rows].any(axis=0)]):
            raise BadData(f"{labelled.name}: no row with the label {missing[0]} is left to {what} on")


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


def transform(X: np.ndarray, scenario: str, level: Any) -> np.ndarray:
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
