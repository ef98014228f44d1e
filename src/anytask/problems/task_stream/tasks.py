"""How labelled data become tasks: their classes, rows and transforms, and the order of their visits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytask.core.rng import derive
from anytask.datasets.labelled import LabelledData
from anytask.problems.task_stream.options import StreamOptions


@dataclass(frozen=True)
class Task:
    """One task: its name, its classes, the rows it trains and tests on, and its permutation, angle or width if any."""

    name: str
    classes: np.ndarray
    train: np.ndarray
    test: np.ndarray
    level: Any = None


def make_tasks(labelled: LabelledData, options: StreamOptions, seed: int) -> tuple[list[Task], list[int]]:
    """Return the different tasks that the stream visits, and the task of each segment."""
    y, groups = labelled.y, labelled.task
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
        levels = _levels(options, labelled.input_shape, seed)
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
